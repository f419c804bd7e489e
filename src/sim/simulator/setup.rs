//! The input and the result of a simulated run.

use std::time::Duration;

use crate::graph::partition::Partition;
use crate::journal::Record;
use crate::model::{Rank, StageUse, State, TaskId, Time};
use crate::scale::elasticity::LevelStep;
use crate::scale::{Forecast, Prices, Scaler};
use crate::schedule::coordinator::{Coordinator, StopReason, TaskTally};
use crate::schedule::handout::PartBuilder;
use crate::schedule::protocol::HandOut;
use crate::schedule::ranks::Ranks;
use crate::sim::cluster::Cluster;
use crate::sim::fates::RecordedTasks;
use crate::sim::provider::Node;

/// Receives the records that a real run would write to its journal.
pub trait Log {
    /// Takes a record, in the order of a journal.
    fn record(&mut self, record: Record);

    /// Takes what was moved for an attempt at a staged task. A log may ignore it.
    fn staged(&mut self, task: TaskId, attempt: u16, used: &StageUse) {
        let _ = (task, attempt, used);
    }
}

/// Discards all records.
pub struct Forget;

impl Log for Forget {
    fn record(&mut self, _: Record) {}
}

impl Log for Vec<Record> {
    fn record(&mut self, record: Record) {
        self.push(record);
    }
}

/// Memory of the attempts whose need is known, over their duration.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct MemoryUse {
    /// Byte-seconds that they asked for.
    pub asked: f64,
    /// Byte-seconds of the peaks of those that were not ended for lack of memory.
    pub needed: f64,
    /// Number of tasks that completed.
    pub completed: u32,
    /// Number of attempts that were ended for lack of memory.
    pub short: u32,
}

impl MemoryUse {
    /// Counts an attempt that asked for some bytes and whose task has this peak.
    pub(super) fn count(&mut self, (asked, peak): (u64, u64), took: Duration, state: State) {
        let is_short = state == State::OutOfMemory;
        self.asked += asked as f64 * took.as_secs_f64();
        self.needed += if is_short { 0.0 } else { asked.min(peak) as f64 * took.as_secs_f64() };
        self.short += u32::from(is_short);
        self.completed += u32::from(state == State::Completed);
    }

    /// Byte-seconds that were asked for in vain.
    pub fn wasted(&self) -> f64 {
        self.asked - self.needed
    }
}

/// The end of a run, with its history.
#[derive(Clone, Debug, PartialEq)]
pub struct SimulatedEnd {
    /// Time of the end.
    pub time: Time,
    /// The reason.
    pub why: StopReason,
    /// Number of tasks by state.
    pub tally: TaskTally,
    /// Number of events: messages, ends of tasks, wake-ups, decisions.
    pub events: u64,
    /// Slot-time of all attempts, failed ones included.
    pub busy: Duration,
    /// Memory of all attempts whose need is known.
    pub memory: MemoryUse,
    /// What was moved for staged tasks; `None` if there are none.
    pub staging: Option<StageUse>,
    /// All granted nodes.
    pub nodes: Vec<Node>,
    /// Number of active ranks, from each change on.
    pub supply: Vec<LevelStep>,
    /// Tasks that ran or waited for a slot, at each decision; empty without decisions.
    pub demand: Vec<LevelStep>,
    /// The forecast at each decision, for policies that make forecasts.
    pub forecasts: Vec<(Time, Forecast)>,
    /// Number of changes of homes.
    pub epochs: u32,
    /// Number of attempts that ran on another rank than their home.
    pub away: u64,
    /// Statistics of the first partition: its cut and its balance. (The homes themselves are with
    /// the ranks.)
    pub partition: Partition,
}

/// The input of a simulation besides the job.
pub struct Setup<'a> {
    /// The cluster.
    pub cluster: &'a Cluster,
    /// Number of ranks at the start.
    pub ranks: u32,
    /// The seed.
    pub seed: u64,
    /// The homes of all nodes, as [`Simulator::homes`](super::Simulator::homes) chose them before;
    /// `None`: as the job file says.
    pub homes: Option<&'a [u32]>,
    /// The scaling setup; `None`: the number of ranks stays as it is.
    pub controller: Option<ScalingSetup>,
    /// Tasks that are already complete.
    pub done: &'a dyn Fn(TaskId) -> bool,
    /// What the tasks did in a run that is repeated; `None`: durations follow the estimates.
    pub recorded: Option<RecordedTasks>,
}

/// The scaling of a simulated run.
pub struct ScalingSetup {
    /// The scaling core.
    pub scaler: Scaler,
    /// The prices of nodes and the spending limits.
    pub prices: Prices,
    /// Time between two decisions.
    pub interval: Duration,
}

/// The part of each rank at the start. No rank starts the `unplaced` tasks that it is home to.
pub(super) fn parts(
    coordinator: &mut Coordinator,
    ranks: u32,
    done: &dyn Fn(TaskId) -> bool,
    unplaced: &[Vec<TaskId>],
) -> Vec<HandOut> {
    let (mut units, terms) = (coordinator.first_units(), coordinator.steal_terms());
    let tasks = coordinator.tasks();
    let count = tasks.graph.task_count() as u32;
    let ended = |node: u32| (node < count && done(TaskId(node))).then_some(true);
    let cutter = PartBuilder::new(&tasks.graph, &tasks.home, &tasks.urgency, ranks as usize, &ended);
    let part = |rank: u32| HandOut {
        part: cutter.part(rank as usize),
        active: Ranks::first(ranks),
        units: units.remove(&Rank(rank)).unwrap_or_default(),
        out: unplaced[rank as usize].clone(),
        stealing: terms[rank as usize],
        ..HandOut::default()
    };
    (0..ranks).map(part).collect()
}
