//! One instance in one setting under one policy.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use phalanx::model::{Outcome, Time};
use phalanx::scale::policy::time_weight;
use phalanx::scale::{Estimates, Observation, Policy, Prices, Scaler, Target, policy_by_name};
use phalanx::schedule::coordinator::StopReason;
use phalanx::sim::{Forget, RecordedTasks, ScalingSetup, Setup, SimulatedEnd, Simulator};
use serde::Serialize;

use super::bound::Course;
use super::instance::Instance;
use super::moments::{ForecastRow, MOMENTS};
use super::setting::Setting;

/// The result: one row of `--rows`.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    /// Name of the instance.
    pub instance: String,
    /// Its family.
    pub family: String,
    /// The half of the corpus.
    pub half: char,
    /// Number of tasks.
    pub tasks: u32,
    /// What the job file tells about durations.
    pub knowledge: &'static str,
    /// Number of the setting among those of the instance.
    pub setting: u64,
    /// Median time until a requested node arrives, in seconds.
    pub delay_s: u32,
    /// Least time that is charged for a node, in seconds.
    pub minimum_s: u32,
    /// Most nodes.
    pub nodes: u32,
    /// Slots of each.
    pub slots: u32,
    /// What is wrong with nodes.
    pub fault: &'static str,
    /// The intent of the job.
    pub intent: &'static str,
    /// Weight of time against money that the intent means, 0 to 1.
    pub time_weight: f64,
    /// Most that the run may cost.
    pub budget: Option<f64>,
    /// The policy.
    pub policy: String,
    /// False if the budget ended the run before its last task.
    pub complete: bool,
    /// Makespan in seconds.
    pub makespan_s: f64,
    /// Longest chain of tasks in seconds.
    pub critical_path_s: f64,
    /// All tasks one after the other, in seconds.
    pub work_s: f64,
    /// The bill.
    pub cost: f64,
    /// What no policy can undercut.
    pub least_cost: f64,
    /// Most active ranks at once.
    pub peak: f64,
    /// Number of granted nodes.
    pub granted: usize,
    /// The first forecast of the makespan in seconds: q10, median and q90.
    pub forecast_s: Option<[f64; 3]>,
    /// The first forecast of the bill: q10, median and q90.
    pub forecast_cost: Option<[f64; 3]>,
    /// Number of decisions.
    pub decisions: u64,
    /// CPU time of the slowest decision in milliseconds.
    pub slowest_ms: f64,
    /// How many ranks the policy wanted, from each change on.
    #[serde(skip)]
    pub course: Course,
}

impl Row {
    /// Makespan over the longest chain.
    pub fn stretch(&self) -> f64 {
        self.makespan_s / self.critical_path_s
    }

    /// Bill over the lower bound.
    pub fn dearness(&self) -> f64 {
        self.cost / self.least_cost
    }

    /// Time and money joined at the exchange rate of the job: a difference of 0.01 is one percent.
    pub fn burden(&self) -> f64 {
        self.time_weight * self.makespan_s.ln() + (1.0 - self.time_weight) * self.cost.max(1e-12).ln()
    }
}

/// A policy whose decisions are recorded and timed.
struct Watched {
    policy: Box<dyn Policy>,
    seen: Arc<Mutex<Decisions>>,
}

/// The decisions of a run.
#[derive(Default)]
struct Decisions {
    count: u64,
    slowest: Duration,
    took: Duration,
    course: Course,
}

impl Policy for Watched {
    fn name(&self) -> &str {
        self.policy.name()
    }

    fn decide(&mut self, seen: &Observation<'_>, estimates: &Estimates, prices: &Prices) -> Target {
        let before = cpu_time();
        let target = self.policy.decide(seen, estimates, prices);
        let took = cpu_time().saturating_sub(before);
        let mut decisions = self.seen.lock().expect("no thread panics while it holds this lock");
        decisions.count += 1;
        decisions.slowest = decisions.slowest.max(took);
        decisions.took += took;
        if decisions.course.last().is_none_or(|(_, ranks)| *ranks != target.ranks) {
            decisions.course.push((seen.now.seconds(), target.ranks));
        }
        target
    }

    fn guarded(&self) -> bool {
        self.policy.guarded()
    }
}

/// CPU time of this thread: other programs on the machine do not count.
fn cpu_time() -> Duration {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::new(now.tv_sec as u64, now.tv_nsec as u32)
}

/// Runs an instance in a setting under the policy of a name.
pub fn run(instance: &Instance, setting: &Setting, name: &str) -> Row {
    let own = static_ranks(name, setting.nodes).map(|ranks| format!("static-{ranks}"));
    let policy = policy_by_name(own.as_deref().unwrap_or(name), &setting.scaling());
    run_policy(instance, setting, name, policy.unwrap_or_else(|| panic!("there is no policy `{name}`")))
}

/// Number of ranks of `static-1`, `static-quarter`, `static-half` and `static-all`.
fn static_ranks(name: &str, nodes: u32) -> Option<u32> {
    match name {
        "static-quarter" => Some((nodes / 4).max(1)),
        "static-half" => Some((nodes / 2).max(1)),
        "static-all" => Some(nodes),
        _ => None,
    }
}

/// Runs an instance in a setting under a policy. All start with one rank on one node: a static
/// allocation, too, gets its nodes after the delay.
pub fn run_policy(instance: &Instance, setting: &Setting, name: &str, policy: Box<dyn Policy>) -> Row {
    let seen = Arc::default();
    let watched = Watched { policy, seen: Arc::clone(&seen) };
    let prices = setting.cluster().prices(&setting.cost());
    let ended = simulate(instance, setting, &prices, Box::new(watched));
    let decisions = std::mem::take(&mut *seen.lock().expect("no thread panics while it holds this lock"));
    let first = ended.forecasts.first().map(|(_, forecast)| *forecast);
    Row {
        instance: instance.name.clone(),
        family: instance.family.clone(),
        half: instance.half(),
        tasks: instance.prepared.tasks(),
        knowledge: instance.knowledge.name(),
        setting: setting.number,
        delay_s: setting.delay_s,
        minimum_s: setting.minimum_s,
        nodes: setting.nodes,
        slots: setting.slots,
        fault: setting.fault.name(),
        intent: setting.intent_name(),
        time_weight: time_weight(setting.intent),
        budget: setting.budget,
        policy: name.to_owned(),
        complete: ended.why == StopReason::Complete,
        makespan_s: ended.time.since(Time::ZERO).as_secs_f64(),
        critical_path_s: instance.critical_path_s,
        work_s: instance.work_s,
        cost: bill(&ended, &prices),
        least_cost: setting.least_cost(instance),
        peak: ended.supply.iter().map(|step| step.1).fold(0.0, f64::max),
        granted: ended.nodes.len(),
        forecast_s: first.map(|f| [f.finish_q10_s, f.finish_q50_s, f.finish_q90_s]),
        forecast_cost: first.map(|f| [f.cost_q10, f.cost_q50, f.cost_q90]),
        decisions: decisions.count,
        slowest_ms: decisions.slowest.as_secs_f64() * 1e3,
        course: decisions.course,
    }
}

/// Runs an instance in a setting under `hybrid`, and reads its forecasts at [`MOMENTS`].
pub fn forecasts(instance: &Instance, setting: &Setting) -> ForecastRow {
    let seen = Arc::default();
    let policy = policy_by_name("hybrid", &setting.scaling()).expect("there is a policy `hybrid`");
    let prices = setting.cluster().prices(&setting.cost());
    let ended = simulate(instance, setting, &prices, Box::new(Watched { policy, seen: Arc::clone(&seen) }));
    let decisions = std::mem::take(&mut *seen.lock().expect("no thread panics while it holds this lock"));
    let makespan_s = ended.time.since(Time::ZERO).as_secs_f64();
    let told = |share: f64| {
        let later = ended.forecasts.iter().find(|(at, _)| at.seconds() >= share * makespan_s);
        later.or(ended.forecasts.last()).expect("`hybrid` makes forecasts").1
    };
    ForecastRow {
        instance: instance.name.clone(),
        half: instance.half(),
        knowledge: instance.knowledge.name(),
        spread: setting.spread,
        delay_s: setting.delay_s,
        setting: setting.number,
        makespan_s,
        cost: bill(&ended, &prices),
        decided_ms: decisions.took.as_secs_f64() * 1e3,
        decisions: decisions.count,
        forecasts: MOMENTS.map(told).to_vec(),
    }
}

fn bill(ended: &SimulatedEnd, prices: &Prices) -> f64 {
    let bill = |node: &phalanx::sim::Node| prices.bill(node.kind, node.granted, node.gone.unwrap_or(ended.time));
    ended.nodes.iter().map(bill).sum()
}

fn simulate(instance: &Instance, setting: &Setting, prices: &Prices, policy: Box<dyn Policy>) -> SimulatedEnd {
    let scaling = setting.scaling();
    let (cluster, interval) = (setting.cluster(), scaling.interval);
    let homes = vec![0; instance.prepared.graph.node_count()];
    let ends = vec![Outcome::OK; instance.took.len()].into();
    let setup = Setup {
        cluster: &cluster,
        ranks: 1,
        seed: setting.seed,
        homes: Some(&homes),
        controller: Some(ScalingSetup { scaler: Scaler::new(policy, scaling), prices: prices.clone(), interval }),
        done: &|_| false,
        recorded: Some(RecordedTasks { took: Arc::clone(&instance.took), ends }),
    };
    let simulator = Simulator::new(&instance.prepared, setup, &mut Forget).and_then(Simulator::run);
    simulator.unwrap_or_else(|reason| panic!("{} in {setting:?}: {reason}", instance.name))
}
