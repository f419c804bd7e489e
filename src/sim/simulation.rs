//! One simulated run from start to end, under a policy, with its results.
//!
//! Results are relative to lower bounds for the same random draws: the longest chain of tasks on
//! the fastest nodes, and the work on the nodes with the best price-performance. So runs of
//! different jobs can be compared.

use std::time::Duration;

use thiserror::Error;

use super::cluster::Cluster;
use super::fates::Fates;
use super::random::stretch;
use super::simulator::{Log, ScalingSetup, Setup, SimulatedEnd, Simulator};
use crate::job::{Cost, Scaling, TaskLimits};
use crate::model::{TaskId, Time};
use crate::scale::elasticity::{Elasticity, LevelStep, elasticity};
use crate::scale::policy::{policy_by_name, policy_names};
use crate::scale::price::EarlierSessions;
use crate::scale::{Advice, Advisor, Prices, Scaler};
use crate::schedule::coordinator::StopReason;
use crate::workload::{PreparedJob, placement, requirements};

/// The input of a simulation.
#[derive(Clone, Copy)]
pub struct Simulation<'a> {
    /// The job.
    pub prepared: &'a PreparedJob,
    /// The cluster that it runs on.
    pub cluster: &'a Cluster,
    /// Name of the scaling policy.
    pub policy: &'a str,
    /// Bounds, interval and weights of scaling.
    pub scaling: &'a Scaling,
    /// Budget and deadline; prices are the cluster's.
    pub cost: &'a Cost,
    /// Number of ranks at the start; `None`: that of a `static-N` policy, else that of the cluster
    /// file, else the minimum of the bounds.
    pub ranks: Option<u32>,
    /// The homes of all nodes at the start, as [`Simulator::homes`] chose them; `None`: as the job
    /// file says.
    pub homes: Option<&'a [u32]>,
    /// The seed.
    pub seed: u64,
    /// What earlier sessions completed and spent.
    pub before: Before<'a>,
    /// Answers of the advisor in a recorded run, which are given again; without, nobody is asked.
    pub advice: &'a [Advice],
    /// The lower bounds for this job, cluster and seed, if already computed.
    pub floor: Option<Floor>,
}

/// The results of earlier sessions of a run.
#[derive(Clone, Copy)]
pub struct Before<'a> {
    /// Tasks that are complete.
    pub done: &'a (dyn Fn(TaskId) -> bool + Sync),
    /// Their bill.
    pub spent: f64,
}

/// Why a simulation failed.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum SimulationError {
    /// No policy has this name.
    #[error("there is no policy `{name}`; there are {known}, and static-N")]
    Policy {
        /// The requested name.
        name: String,
        /// The known names.
        known: String,
    },
    /// It cannot run on such ranks.
    #[error("{0}")]
    Refused(String),
}

/// The results of a simulated run.
#[derive(Clone, Debug)]
pub struct SimulationOutcome {
    /// Name of the policy.
    pub policy: String,
    /// How it ended, with its history.
    pub ended: SimulatedEnd,
    /// The bill of this session.
    pub bill: f64,
    /// Node-seconds charged, over all nodes: from grant to end, at least the minimum.
    pub billed_node_s: f64,
    /// Rank-seconds of active ranks.
    pub active_s: f64,
    /// Maximum number of active ranks at once.
    pub peak: u32,
    /// Share of the slots' time on billed nodes in which tasks ran, 0 to 1.
    pub utilisation: f64,
    /// The lower bounds.
    pub floor: Floor,
    /// How well the ranks followed the demand.
    pub elasticity: Elasticity,
}

/// Lower bounds for the same random draws.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Floor {
    /// Longest chain of tasks on the fastest nodes, in seconds.
    pub critical_path_s: f64,
    /// Work of all tasks on a node of speed 1, summed over slots, in seconds.
    pub work_s: f64,
    /// Cost of that work on the nodes with the best price-performance, without idle time.
    pub cost: f64,
}

impl Floor {
    /// The lower bounds of a job on a cluster, for a seed.
    pub fn of(prepared: &PreparedJob, cluster: &Cluster, seed: u64) -> Floor {
        let fates = Fates::new(&prepared.job, &cluster.tasks, &cluster.faults, seed);
        let mut work_s = 0.0;
        let took: Vec<Duration> = (0..prepared.tasks())
            .map(|task| {
                if prepared.is_left_out(TaskId(task)) {
                    return Duration::ZERO;
                }
                let took = fates.of(prepared, (TaskId(task), 1), TaskLimits::default(), 1.0).took;
                work_s += took.as_secs_f64() * f64::from(requirements::slots(prepared.job.group(TaskId(task))));
                took
            })
            .collect();
        let nodes = || cluster.nodes.iter();
        let speed = nodes().map(|node| node.speed).fold(0.0, f64::max).max(1e-9);
        let dearness = |node: &super::NodeKind| node.price / 3600.0 / (f64::from(node.slots) * node.speed).max(1e-9);
        let cheapest = nodes().map(dearness).fold(f64::INFINITY, f64::min);
        let fastest = |task: TaskId| stretch(took[task.index()], 1.0 / speed).as_nanos() as u64;
        let critical_path_s = prepared.graph.order(&fastest).critical_path as f64 / 1e9;
        Floor { critical_path_s, work_s, cost: work_s * cheapest }
    }
}

impl SimulationOutcome {
    /// Seconds from the beginning to the end.
    pub fn makespan_s(&self) -> f64 {
        self.ended.time.seconds()
    }

    /// Makespan over the longest chain.
    pub fn stretch(&self) -> f64 {
        self.makespan_s() / self.floor.critical_path_s.max(1e-9)
    }

    /// Bill over the lower bound for the work.
    pub fn dearness(&self) -> f64 {
        self.bill / self.floor.cost.max(1e-12)
    }

    /// True if every task has its final state.
    pub fn is_complete(&self) -> bool {
        self.ended.why == StopReason::Complete
    }
}

impl<'a> Simulation<'a> {
    /// A first session with seed 1, whose ranks and homes follow from the cluster and the job file.
    pub fn new(
        prepared: &'a PreparedJob,
        cluster: &'a Cluster,
        policy: &'a str,
        (scaling, cost): (&'a Scaling, &'a Cost),
    ) -> Simulation<'a> {
        Simulation {
            prepared,
            cluster,
            policy,
            scaling,
            cost,
            ranks: None,
            homes: None,
            seed: 1,
            before: Before { done: &|_| false, spent: 0.0 },
            advice: &[],
            floor: None,
        }
    }

    /// Number of ranks at the start.
    pub fn first_ranks(&self) -> u32 {
        let still = self.policy.strip_prefix("static-").and_then(|n| n.parse().ok());
        self.ranks.or(still).or(self.cluster.first_ranks()).unwrap_or(self.scaling.min_ranks).max(1)
    }

    /// The prices of the cluster, as earlier sessions have left them. Between sessions no simulated
    /// time passes.
    pub fn prices(&self) -> Prices {
        let earlier = EarlierSessions { cost: self.before.spent, ..EarlierSessions::default() };
        self.cluster.prices(self.cost).continuing(earlier)
    }

    /// Runs the simulation and records its events in `log`.
    ///
    /// # Errors
    ///
    /// If there is no such policy, a task fits nowhere, or the run hangs because of a bug in
    /// Phalanx.
    pub fn run(&self, log: &mut dyn Log) -> Result<SimulationOutcome, SimulationError> {
        let scaling = self.bounds();
        let policy = policy_by_name(self.policy, &scaling).ok_or_else(|| SimulationError::Policy {
            name: self.policy.to_owned(),
            known: policy_names().join(", "),
        })?;
        let prices = self.prices();
        let interval = scaling.interval;
        let mut scaler = Scaler::new(policy, scaling);
        if !self.advice.is_empty() {
            scaler = scaler.with_advisor(Advisor::replaying(self.advice));
        }
        // Where nothing can be decided, no periodic decisions are needed.
        let decides = self.policy != "fixed" || prices.budget.is_some() || self.waits_for_nodes();
        let controller = decides.then(|| ScalingSetup { scaler, prices: prices.clone(), interval });
        let (ranks, seed) = (self.first_ranks(), self.seed);
        let setup = Setup {
            cluster: self.cluster,
            ranks,
            seed,
            homes: self.homes,
            controller,
            done: self.before.done,
            recorded: None,
        };
        let ended =
            Simulator::new(self.prepared, setup, log).and_then(Simulator::run).map_err(SimulationError::Refused)?;
        Ok(self.judge(ended, &prices))
    }

    /// True if tasks fit on no rank at the start, and the job has a provider: then nodes are
    /// requested for them, whatever the policy.
    fn waits_for_nodes(&self) -> bool {
        let members = Simulator::first_members(self.cluster, self.first_ranks());
        let job = &self.prepared.job;
        !job.sites.is_empty() && placement::lacks_ranks(job, &members)
    }

    /// The bounds, limited to the capacity of the cluster and extended to include the ranks at the
    /// start.
    fn bounds(&self) -> Scaling {
        let limit = self.cluster.nodes.iter().map(|node| node.limit).fold(0, u32::saturating_add);
        let most = self.scaling.max_ranks.min(limit).max(self.first_ranks());
        Scaling { max_ranks: most, ..self.scaling.clone() }
    }

    fn judge(&self, ended: SimulatedEnd, prices: &Prices) -> SimulationOutcome {
        let end = ended.time;
        let held = |node: &super::Node| node.gone.unwrap_or(end).since(node.granted);
        let slots = |node: &super::Node| f64::from(self.cluster.nodes[node.kind.0 as usize].slots);
        let bill = ended.nodes.iter().map(|n| prices.bill(n.kind, n.granted, n.gone.unwrap_or(end))).sum();
        let charged = |n: &super::Node| prices.charged(n.kind, n.granted, n.gone.unwrap_or(end)).as_secs_f64();
        let billed_node_s = ended.nodes.iter().map(charged).sum();
        let slot_s: f64 = ended.nodes.iter().map(|n| held(n).as_secs_f64() * slots(n)).sum();
        let per_node = f64::from(self.cluster.nodes[0].slots.max(1));
        let demand: Vec<LevelStep> = ended.demand.iter().map(|&(at, tasks)| (at, (tasks / per_node).ceil())).collect();
        let peak = ended.supply.iter().map(|step| step.1).fold(0.0, f64::max);
        SimulationOutcome {
            policy: self.policy.to_owned(),
            bill,
            billed_node_s,
            active_s: integral(&ended.supply, end),
            peak: peak as u32,
            utilisation: if slot_s > 0.0 { ended.busy.as_secs_f64() / slot_s } else { 0.0 },
            floor: self.floor.unwrap_or_else(|| Floor::of(self.prepared, self.cluster, self.seed)),
            elasticity: elasticity(&demand, &ended.supply, end, f64::from(self.bounds().max_ranks)),
            ended,
        }
    }
}

/// The integral of a step function.
fn integral(steps: &[LevelStep], end: Time) -> f64 {
    let ends = steps.iter().skip(1).map(|step| step.0).chain([end]);
    steps.iter().zip(ends).map(|(&(from, value), to)| value * to.since(from).as_secs_f64()).sum()
}
