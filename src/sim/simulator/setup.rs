//! What a simulated run is given and what it gives back.

use std::time::Duration;

use crate::graph::partition::{Method, Partition};
use crate::journal::Record;
use crate::model::{Rank, TaskId, Time};
use crate::scale::elasticity::LevelStep;
use crate::scale::{Forecast, Prices, Scaler};
use crate::schedule::coordinator::{StopReason, TaskTally, Tasks};
use crate::schedule::handout::PartBuilder;
use crate::schedule::protocol::HandOut;
use crate::schedule::ranks::Ranks;
use crate::sim::cluster::Cluster;
use crate::sim::fates::RecordedTasks;
use crate::sim::provider::Node;
use crate::workload::PreparedJob;

/// Told what a real run would write down.
pub trait Log {
    /// Takes a record, in the order in which a journal would have them.
    fn record(&mut self, record: Record);
}

/// Writes nothing down.
pub struct Forget;

impl Log for Forget {
    fn record(&mut self, _: Record) {}
}

impl Log for Vec<Record> {
    fn record(&mut self, record: Record) {
        self.push(record);
    }
}

/// How a run went.
#[derive(Clone, Debug, PartialEq)]
pub struct SimulatedEnd {
    /// When.
    pub time: Time,
    /// Why.
    pub why: StopReason,
    /// How many tasks are in which state.
    pub tally: TaskTally,
    /// Events that happened: messages, ends of tasks, calls of a rank, decisions.
    pub events: u64,
    /// Slot-time that tasks ran, those that failed included.
    pub busy: Duration,
    /// All nodes that were granted.
    pub nodes: Vec<Node>,
    /// Active ranks, from each change on.
    pub supply: Vec<LevelStep>,
    /// Tasks that ran or waited for a slot, from decision to decision; empty if nobody decided.
    pub demand: Vec<LevelStep>,
    /// When the end was foreseen for, from decision to decision of a policy that looks ahead.
    pub forecasts: Vec<(Time, Forecast)>,
    /// Homes have changed so often.
    pub epochs: u32,
    /// Attempts that ran elsewhere than at home.
    pub away: u64,
    /// What is known of the first partition: how much it cuts and how balanced it is. (The homes
    /// themselves are with the ranks.)
    pub partition: Partition,
}

/// What to simulate beside the job.
pub struct Setup<'a> {
    /// The cluster.
    pub cluster: &'a Cluster,
    /// Ranks that take part from the start.
    pub ranks: u32,
    /// The seed.
    pub seed: u64,
    /// How homes are chosen; `None`: as the job file says.
    pub homes: Option<Homes<'a>>,
    /// Who decides about ranks; `None`: nobody, and those that there are stay.
    pub captain: Option<ScalingSetup>,
    /// Tasks that are complete already.
    pub done: &'a dyn Fn(TaskId) -> bool,
    /// What the tasks did in a run that is repeated; `None`: what the estimates say.
    pub recorded: Option<RecordedTasks>,
}

/// How homes are chosen at the start.
#[derive(Clone, Copy)]
pub enum Homes<'a> {
    /// By the graph.
    Method(Method),
    /// As dealt: for each task its rank. Joins stay with the first task that they wait for.
    Dealt(&'a [u32]),
    /// As [`World::homes`](super::World::homes) chose them before.
    Known(&'a [u32]),
}

/// Who decides about ranks.
pub struct ScalingSetup {
    /// The scaling core.
    pub scaler: Scaler,
    /// What nodes cost, and what may be spent.
    pub prices: Prices,
    /// Time between two decisions.
    pub interval: Duration,
}

/// The homes of all nodes where each task is at home where it was dealt, and a join with the first
/// task that it waits for.
pub(super) fn dealt_homes(prepared: &PreparedJob, dealt: &[u32]) -> Vec<u32> {
    let graph = &prepared.graph;
    let mut homes = dealt.to_vec();
    homes.resize(graph.node_count(), 0);
    for join in graph.topological().iter().filter(|&node| node as usize >= graph.task_count()) {
        homes[join as usize] = graph.predecessors(join).next().map_or(0, |edge| homes[edge.node() as usize]);
    }
    homes
}

/// What each rank is handed at the beginning.
pub(super) fn parts(tasks: &Tasks, ranks: u32, done: &dyn Fn(TaskId) -> bool) -> Vec<HandOut> {
    let count = tasks.graph.task_count() as u32;
    let ended = |node: u32| (node < count && done(TaskId(node))).then_some(true);
    let cutter = PartBuilder::new(&tasks.graph, &tasks.home, &tasks.urgency, ranks as usize, &ended);
    let part = |rank: u32| HandOut {
        part: cutter.part(rank as usize),
        limits: tasks.advice.shares(Rank(rank)),
        active: Ranks::first(ranks),
        ..HandOut::default()
    };
    (0..ranks).map(part).collect()
}
