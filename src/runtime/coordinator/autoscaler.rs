//! Rank 0's hand on the number of ranks: shows the scaling controller how the real run stands, and turns decisions into changes of membership.
//!
//! What it shows follows from what rank 0 hears anyway: ends in batches, how busy each rank is, and
//! which tasks have been running for a second.
//!
//! Ranks of a world cannot leave it. Those that are not needed are parked: they hold no task and sleep, and their nodes are billed on. Nodes
//! that joined since are given back; further ones are asked for where the job names a provisioner. Both are ordered here and done elsewhere.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};

use super::join_listener::{JoinListener, JoinedWorld};
use super::provisioner::Provisioner;
use super::run_history::{LoadedHistory, kind_of};
use crate::capacity::{Block, BlockId, State as BlockState};
use crate::graph::TaskGraph;
use crate::job::{Cost, Group, Job, PolicyKind, ProviderKind, Scaling};
use crate::journal::{RankChange, RankInfo, Record, Terms};
use crate::model::{Attempt, Measure, Rank, RankState, TaskId, Time, Vitals};
use crate::scale::controller::ScalingController;
use crate::scale::{Action, Decision, Forecast, NodeTypeId, Prices, RankView, RequestId, RequestView, Scaler};
use crate::schedule::coordinator::{Change, Coordinator, Event};
use crate::workload::PreparedJob;

/// A parked rank takes part again after about this long; nothing else can be had here.
const WAKING: Duration = Duration::from_millis(100);

/// The end of runs with more tasks, or with shorter ones, is not foreseen unless somebody must decide anyway.
const MOST_FORESEEN: usize = 1 << 20;
const SHORTEST: Duration = Duration::from_millis(10);

/// So sure must a forecast be to say how long nodes are needed: nine of ten runs end within twice the median.
const SURE: f64 = 0.7;

/// Nodes are asked for at least so long, whatever the forecast.
const SHORTEST_BLOCK: Duration = Duration::from_secs(600);

/// So many decisions are shown to who asks.
const SHOWN: usize = 5;

/// See the module's text.
pub(super) struct Autoscaler {
    controller: ScalingController,
    graph: Arc<TaskGraph>,
    /// Edges into each node that have not been counted.
    waits: Vec<u32>,
    ranks: Vec<Seen>,
    /// Of ranks that joined: time in tasks, and failed attempts.
    joined: HashMap<Rank, (Duration, u32)>,
    prices: Prices,
    /// False if it only foresees the end, and what there is stays.
    decides: bool,
    /// When the end was foreseen for at the last look.
    pub(super) forecast: Option<Forecast>,
    /// The last decisions that said something new, the latest first.
    latest: VecDeque<Decision>,
    /// As of the last decision.
    spent: Option<f64>,
    /// So many ranks are wanted by hand.
    held: Option<u32>,
    due: Time,
    over: bool,
}

/// A rank, as far as it is known here.
struct Seen {
    info: RankInfo,
    /// Another rank carries the bill of its node.
    shares: bool,
    state: RankState,
    busy: Duration,
    failures: u32,
}

/// What can be had and given back while the run goes on.
pub(super) struct NodeSources<'a> {
    pub(super) listener: Option<&'a JoinListener>,
    pub(super) provisioner: Option<&'a Provisioner>,
}

/// What follows from a decision.
#[derive(Default)]
pub(super) struct ScalingCommands {
    /// To be written down.
    pub(super) records: Vec<Record>,
    /// For the coordinator.
    pub(super) events: Vec<Event>,
    /// The budget is spent: nothing runs beyond this.
    pub(super) stop_by: Option<Time>,
    /// So many nodes are to be asked for.
    pub(super) grow: u32,
    /// For so long they will hardly be needed longer.
    pub(super) lasting: Option<Duration>,
    /// Blocks whose requests are to be withdrawn.
    pub(super) withdraw: Vec<u64>,
    /// Ranks that are to leave.
    pub(super) drain: Vec<Rank>,
    /// For the user.
    pub(super) warnings: Vec<String>,
}

/// On what terms a job runs on such ranks; `None` if it names neither a policy nor a price.
pub(super) fn terms(job: &Job, ranks: &[RankInfo]) -> Option<Terms> {
    let priced = job.cost != Cost::default();
    let policy = job.scaling.as_ref().map_or(PolicyKind::Fixed, |scaling| scaling.policy).name();
    (job.scaling.is_some() || priced).then(|| Terms {
        policy: policy.to_owned(),
        prices: prices(job, ranks),
        simulated: None,
    })
}

/// True if a forecast means something and costs next to nothing: it takes about a microsecond for each task that ends.
fn can_be_foreseen(job: &Job) -> bool {
    let known = |group: &Group| group.estimate.is_some_and(|estimate| estimate >= SHORTEST);
    job.task_count() <= MOST_FORESEEN && job.groups.iter().all(known)
}

/// The price list; without a provisioner no more nodes can be had than there are.
fn prices(job: &Job, ranks: &[RankInfo]) -> Prices {
    let nodes: BTreeSet<&str> = ranks.iter().map(|info| info.node.as_str()).collect();
    let slots = ranks.iter().map(|info| info.slots).max().filter(|slots| *slots > 0).unwrap_or(1);
    let mut prices = Prices::of_job(&job.cost, slots);
    let more = job.scaling.as_ref().filter(|_| job.capacity.provider != ProviderKind::None).map_or(0, |s| s.max_ranks);
    prices.nodes.iter_mut().for_each(|node| node.limit = Some(nodes.len() as u32 + more));
    prices
}

impl Autoscaler {
    /// The autoscaler of a run whose number of ranks or spending somebody must look after, or whose end can be foreseen; else `None`. `spent` is
    /// what earlier sessions cost.
    pub(super) fn of(
        prepared: &PreparedJob,
        ranks: &[RankInfo],
        done: &dyn Fn(u32) -> bool,
        spent: f64,
        past: &LoadedHistory,
    ) -> Option<Autoscaler> {
        let (job, graph) = (&prepared.job, &prepared.graph);
        let still = || Scaling { policy: PolicyKind::Fixed, max_ranks: ranks.len() as u32, ..Scaling::default() };
        let mut scaling = job.scaling.clone().unwrap_or_else(still);
        // Ranks that only coordinate come on top of those that a job asks for.
        let idle = ranks.iter().filter(|info| info.slots == 0).count() as u32;
        scaling.max_ranks = scaling.max_ranks.saturating_add(idle);
        scaling.min_ranks = scaling.min_ranks.max(u32::from(idle > 0)).saturating_add(idle);
        let decides = scaling.policy != PolicyKind::Fixed || job.cost.budget.is_some();
        if !decides && !can_be_foreseen(job) {
            return None;
        }
        let mut prices = prices(job, ranks);
        prices.budget = prices.budget.map(|budget| (budget - spent).max(0.0));
        let tasks = graph.task_count() as u32;
        let delay = match job.capacity.provider {
            ProviderKind::None => WAKING,
            kind => Provisioner::usual_delay(kind),
        };
        let controller =
            ScalingController::new(prepared, Scaler::of(&scaling), prices.clone(), scaling.interval, &[delay]);
        let mut autoscaler = Autoscaler {
            controller,
            graph: Arc::clone(graph),
            waits: waits(graph),
            ranks: seen(ranks),
            joined: HashMap::new(),
            prices,
            decides,
            forecast: None,
            latest: VecDeque::new(),
            spent: None,
            held: None,
            due: Time::ZERO,
            over: false,
        };
        autoscaler.controller.recall(&past.history, past.moment, &past.learnt, kind_of(job));
        let open: Vec<u32> =
            (0..graph.node_count() as u32).filter(|&node| autoscaler.waits[node as usize] == 0).collect();
        open.into_iter().for_each(|node| autoscaler.opens(node));
        for task in (0..tasks).filter(|&task| done(task)) {
            autoscaler.controller.was_complete(TaskId(task));
            autoscaler.ends(task);
        }
        Some(autoscaler)
    }

    /// Attempts have ended.
    pub(super) fn hears(&mut self, attempts: &[Attempt]) {
        for attempt in attempts {
            if attempt.attempt > 0 {
                self.controller.task_waited(attempt.start.since(attempt.ready));
                let (busy, failures) = match self.ranks.get_mut(attempt.rank.index()) {
                    Some(rank) => (&mut rank.busy, &mut rank.failures),
                    None => {
                        let (busy, failures) = self.joined.entry(attempt.rank).or_default();
                        (busy, failures)
                    }
                };
                *busy += attempt.end.since(attempt.start);
                *failures += u32::from(attempt.outcome.state.is_failure());
            }
            let was_open = self.controller.is_open(attempt.task);
            self.controller.attempt_ended(attempt);
            if was_open && attempt.last {
                self.ends(attempt.task.0);
            }
        }
    }

    /// A rank tells what it and its node use.
    pub(super) fn uses(&mut self, rank: Rank, vitals: &Vitals) {
        self.controller.update_usage(rank, vitals);
    }

    /// A node has ended: those that need it wait for one less.
    fn ends(&mut self, node: u32) {
        let graph = Arc::clone(&self.graph);
        for edge in graph.successors(node) {
            let waits = &mut self.waits[edge.node() as usize];
            *waits = waits.saturating_sub(1);
            if *waits == 0 {
                self.opens(edge.node());
            }
        }
    }

    /// A node waits for nothing more.
    fn opens(&mut self, node: u32) {
        if self.graph.join(node).is_some() {
            return self.ends(node);
        }
        self.controller.task_ready(TaskId(node));
    }

    /// True if it is time for a decision.
    pub(super) fn is_due(&self, now: Time) -> bool {
        !self.over && self.due <= now
    }

    /// Decides.
    pub(super) fn decide(&mut self, now: Time, coordinator: &Coordinator, fleet: &NodeSources<'_>) -> ScalingCommands {
        self.due = now.after(self.controller.interval);
        let running = coordinator.running().map(|(_, started)| (started.task, started.start));
        self.controller.update_running(coordinator.tally().running.into(), running);
        let mut views: Vec<RankView> =
            (0..).zip(&self.ranks).map(|(rank, seen)| view(Rank(rank), seen, coordinator)).collect();
        views.extend(self.views_of_joined(fleet, coordinator));
        let (requests, settled) = (requests(fleet), self.settled(now, fleet));
        let decisions = match self.decides {
            true => self.controller.decide(now, &views, &requests, settled),
            false => Vec::new(),
        };
        self.forecast = self.controller.foresee(now, &views, &requests, settled);
        let mut orders = ScalingCommands { warnings: self.controller.alarms(), ..ScalingCommands::default() };
        for decision in decisions {
            let change = |ranks: &[Rank], change: Change| -> Vec<Event> {
                ranks.iter().map(|&rank| Event::Change { rank, change: change.clone() }).collect()
            };
            match &decision.action {
                Action::Park { ranks } => orders.events.extend(change(ranks, Change::Park)),
                Action::Unpark { ranks } => orders.events.extend(change(ranks, Change::Recall)),
                Action::StopForBudget { by } => {
                    self.over = true;
                    orders.stop_by = Some(*by);
                    orders.warnings.push(decision.reason.clone());
                }
                Action::Stay => {}
                Action::Grow { nodes, .. } if fleet.provisioner.is_some() => {
                    orders.grow += nodes;
                    orders.lasting = lasting(&decision);
                }
                Action::Shrink { ranks } if fleet.listener.is_some() => orders.drain.extend(ranks),
                Action::Cancel { requests } => orders.withdraw.extend(requests.iter().map(|request| request.0)),
                Action::Grow { .. } | Action::Shrink { .. } => {
                    orders
                        .warnings
                        .push(format!("this run cannot change its nodes, so this is not done: {}", decision.reason));
                }
            }
            self.spent = Some(decision.inputs.spent);
            if self.controller.is_news(&decision) {
                self.latest.truncate(SHOWN - 1);
                self.latest.push_front(decision.clone());
                orders.records.push(Record::Decision(Box::new(decision)));
            }
        }
        orders
            .records
            .extend(self.controller.effects().into_iter().map(|(number, effect)| Record::Effect { number, effect }));
        orders
    }

    /// Somebody wants so many ranks, or (`None`) wants the policy to decide. False if there is no policy.
    pub(super) fn hold(&mut self, ranks: Option<u32>) -> bool {
        if self.decides {
            self.held = ranks;
            self.controller.hold(ranks);
            // What has been done by hand is looked at when it has come about.
            self.due = Time::ZERO;
        }
        self.decides
    }

    /// What it did of late, for who asks.
    pub(super) fn status(&self) -> Value {
        let decision = |decision: &Decision| {
            json!({
                "number": decision.number,
                "time_s": decision.time.seconds(),
                "from": decision.from,
                "to": decision.to,
                "reason": decision.reason,
            })
        };
        json!({
            "held": self.held,
            "spent": self.spent,
            "budget": self.prices.budget,
            "decisions": self.latest.iter().map(decision).collect::<Vec<Value>>(),
        })
    }

    /// Tasks wrote values.
    pub(super) fn measured(&mut self, measures: &[Measure]) {
        self.controller.update_measures(measures);
    }

    /// A node that was asked for takes part after so long.
    pub(super) fn arrived(&mut self, took: Duration) {
        self.controller.rank_arrived(NodeTypeId(0), took);
    }

    /// Ranks that joined and are here.
    fn views_of_joined(&self, fleet: &NodeSources<'_>, coordinator: &Coordinator) -> Vec<RankView> {
        let worlds = fleet.listener.iter().flat_map(|listener| listener.worlds());
        worlds
            .flat_map(|world| world.numbers().filter_map(|rank| self.view_of_joined(fleet, world, rank, coordinator)))
            .collect()
    }

    fn view_of_joined(
        &self,
        fleet: &NodeSources<'_>,
        world: &JoinedWorld,
        rank: Rank,
        coordinator: &Coordinator,
    ) -> Option<RankView> {
        let blocks = fleet.provisioner.map(Provisioner::blocks);
        let block = world.block.map(BlockId).and_then(|id| blocks?.get(id));
        let state = match coordinator.standing(rank)? {
            state if state.is_billed() => state,
            // Its node is billed until it has been given back.
            _ if block.is_some_and(|block| !block.state.is_over()) => RankState::Draining,
            _ => return None,
        };
        let (busy, failures) = self.joined.get(&rank).copied().unwrap_or_default();
        Some(RankView {
            rank,
            state,
            node_type: NodeTypeId(0),
            slots: world.slots(rank),
            billed_since: (rank == world.first).then_some(world.billed.0),
            busy_slots: coordinator.load(rank).running.min(world.slots(rank)),
            busy,
            failures,
            releasable: block.is_none_or(|block| !blocks.is_some_and(|blocks| blocks.is_bound(block.id))),
            ends: block.and_then(|block| block.ends),
        })
    }

    /// What the nodes cost that have been given back.
    fn settled(&self, now: Time, fleet: &NodeSources<'_>) -> f64 {
        let by_hand = |world: &&JoinedWorld| world.block.is_none() && world.is_gone();
        let worlds = fleet.listener.iter().flat_map(|listener| listener.worlds()).filter(by_hand);
        let worlds = worlds.map(|world| (world.billed.0, world.billed.1.unwrap_or(now)));
        let blocks = fleet.provisioner.iter().flat_map(|provisioner| provisioner.blocks().iter());
        let blocks = blocks.filter_map(|block| Some((block.granted?, block.ended?)));
        worlds.chain(blocks).map(|(from, to)| self.prices.bill(NodeTypeId(0), from, to)).sum()
    }

    /// What has changed about ranks since it was last asked.
    pub(super) fn changes(&mut self, now: Time, coordinator: &Coordinator) -> Vec<Record> {
        let mut changes = Vec::new();
        for (rank, seen) in (0..).zip(&mut self.ranks) {
            let state = coordinator.standing(Rank(rank)).unwrap_or(seen.state);
            if std::mem::replace(&mut seen.state, state) != state {
                let (info, node_type) = (seen.info.clone(), NodeTypeId(0));
                changes.push(Record::Rank(RankChange { time: now, info, node_type, state, billed_since: Time::ZERO }));
            }
        }
        changes
    }
}

/// Nodes that have been asked for and do not take part yet.
fn requests(fleet: &NodeSources<'_>) -> Vec<RequestView> {
    let coming =
        |block: &&Block| matches!(block.state, BlockState::Requested | BlockState::Pending | BlockState::Granted);
    let blocks = fleet.provisioner.iter().flat_map(|provisioner| provisioner.blocks().iter()).filter(coming);
    // One that has its node and has begun to join is counted as a rank.
    let counted = |block: &&Block| {
        let mut worlds = fleet.listener.iter().flat_map(|listener| listener.worlds());
        !worlds.any(|world| world.block == Some(block.id.0) && world.is_in())
    };
    let view = |block: &Block| RequestView {
        id: RequestId(block.id.0),
        nodes: 1,
        node_type: NodeTypeId(0),
        asked: block.asked,
    };
    blocks.filter(counted).map(view).collect()
}

/// How long a run that grows will go on in nine of ten cases, and as long again: nodes that stay for less come sooner. A forecast that is not sure
/// limits nothing, for tasks longer than their block would never end.
fn lasting(decision: &Decision) -> Option<Duration> {
    let forecast = decision.forecast.filter(|_| decision.confidence >= SURE)?;
    let left = forecast.finish_q90_s - decision.time.seconds();
    Some(Duration::try_from_secs_f64(2.0 * left).unwrap_or_default().max(SHORTEST_BLOCK))
}

fn waits(graph: &TaskGraph) -> Vec<u32> {
    let mut waits = vec![0; graph.node_count()];
    (0..graph.node_count() as u32).flat_map(|node| graph.successors(node)).for_each(|e| waits[e.node() as usize] += 1);
    waits
}

fn seen(ranks: &[RankInfo]) -> Vec<Seen> {
    let mut nodes = BTreeSet::new();
    ranks
        .iter()
        .map(|info| Seen {
            shares: !nodes.insert(info.node.clone()),
            info: info.clone(),
            state: RankState::Active,
            busy: Duration::ZERO,
            failures: 0,
        })
        .collect()
}

fn view(rank: Rank, seen: &Seen, coordinator: &Coordinator) -> RankView {
    let load = coordinator.load(rank);
    RankView {
        rank,
        state: coordinator.standing(rank).unwrap_or(seen.state),
        node_type: NodeTypeId(0),
        slots: seen.info.slots,
        billed_since: (!seen.shares).then_some(Time::ZERO),
        busy_slots: load.running.min(seen.info.slots),
        busy: seen.busy,
        failures: seen.failures,
        releasable: false,
        ends: None,
    }
}
