//! The remaining tasks of a run, kept up to date by task events, so that a decision need not read
//! each of them.
//!
//! Every task has a stage. Running tasks are listed with their start; open tasks can be enumerated
//! in time proportional to their number. Everything else that a forecast needs is kept as sums: the
//! first forecast divides the graph into chunks (`coarsen`), and from then on every event adjusts
//! the sums of its task's chunk. The sums are integers, so they always equal the result of counting
//! again.
//!
//! The real run and the simulator make the same calls.

mod coarsen;
mod open_set;

use std::cell::OnceCell;
use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

pub(super) use self::coarsen::{CoarseGraph, NONE};
use self::open_set::OpenSet;
use super::estimate::ClassId;
use super::price::NodeTypes;
use crate::graph::TaskGraph;
use crate::model::{TaskId, Time};

/// Up to this number of remaining tasks and joins, each is a chunk of its own.
pub const EXACT: usize = 2_500;

/// Number of chunks beyond [`EXACT`]; more are finer and slower. `benches/decide.rs` measures the
/// loss of quality.
pub const CHUNKS: usize = 2_000;

/// Upper limit on remaining tasks for dividing them into chunks again when half of them have ended:
/// that takes some microseconds per task.
const MAX_TASKS_REDIVIDED: u64 = 32_768;

/// The constant facts of a task.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TaskFacts {
    /// The class that its duration is learnt for.
    pub class: ClassId,
    /// Its own prior duration from the job file, if any: durations are learnt relative to it.
    pub prior: Option<Duration>,
    /// Slots that it takes on one rank.
    pub slots: u32,
    /// The types of nodes that may run it.
    pub runs_on: NodeTypes,
}

/// The open tasks that the same types of nodes may run.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct NodeDemand {
    /// The types.
    pub runs_on: NodeTypes,
    /// Number of tasks.
    pub tasks: u64,
    /// The sum of the sizes of the ready and running ones in seconds, each times its slots.
    pub now_s: f64,
    /// Slots that the ready and running ones take.
    pub now_slots: u64,
}

/// The sums behind a [`NodeDemand`].
#[derive(Clone, Copy, Debug, Default)]
struct DemandSums {
    tasks: u64,
    now_ns: u128,
    now_slots: u64,
}

impl TaskFacts {
    /// Nanoseconds that its duration is proportional to: its prior, or a second.
    pub(super) fn size(&self) -> u64 {
        self.prior.map_or(1_000_000_000, |prior| u64::try_from(prior.as_nanos()).unwrap_or(u64::MAX).max(1))
    }

    /// Its size on all its slots.
    fn work(&self) -> u128 {
        u128::from(self.size()) * u128::from(self.slots)
    }
}

/// Returns the facts of each task of a job.
pub type FactsOf = dyn Fn(TaskId) -> TaskFacts + Send + Sync;

/// A task without a final state.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RemainingTask {
    /// Its number.
    pub task: TaskId,
    /// The class that its duration is learnt for.
    pub class: ClassId,
    /// Its own prior duration from the job file, if it has one.
    pub prior: Option<Duration>,
    /// Slots that it takes on one rank.
    pub slots: u32,
    /// Its stage.
    pub stage: Stage,
}

/// Stage of a task without a final state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Waits for other tasks, which also remain.
    Waiting,
    /// Waits for a slot.
    Ready,
    /// Running since this moment.
    Running(Time),
}

/// A running task.
#[derive(Clone, Copy, Debug)]
pub(super) struct RunningTask {
    pub task: TaskId,
    /// Its cell in the coarse graph; [`NONE`] if there is no coarse graph yet.
    pub cell: u32,
    pub since: Time,
    pub facts: TaskFacts,
}

/// The ready tasks of a class.
#[derive(Clone, Copy, Debug, Default)]
struct ReadyTasks {
    count: u64,
    /// The sum of their sizes.
    size_ns: u128,
}

impl ReadyTasks {
    fn add(&mut self, facts: &TaskFacts) {
        self.count += 1;
        self.size_ns += u128::from(facts.size());
    }

    fn remove(&mut self, facts: &TaskFacts) {
        self.count -= 1;
        self.size_ns -= u128::from(facts.size());
    }
}

/// Stages as they are stored; any other number is a position in the list of running tasks.
const ENDED: u32 = u32::MAX;
const WAITING: u32 = u32::MAX - 1;
const READY: u32 = u32::MAX - 2;

/// The tasks without a final state, with sums over them.
pub struct RemainingWork {
    graph: Arc<TaskGraph>,
    facts: Arc<FactsOf>,
    stages: Vec<u32>,
    open: OpenSet,
    running: Vec<RunningTask>,
    remaining: u64,
    /// The ready tasks of each class.
    ready: Vec<ReadyTasks>,
    /// The open tasks by the types of nodes that may run them; a job has few such sets.
    demands: BTreeMap<NodeTypes, DemandSums>,
    exact: usize,
    chunks: usize,
    outline: OnceCell<CoarseGraph>,
}

impl RemainingWork {
    /// All tasks of a graph, in stage `Waiting`.
    pub fn new(graph: Arc<TaskGraph>, facts: Arc<FactsOf>) -> RemainingWork {
        RemainingWork::with_limits(graph, facts, EXACT, CHUNKS)
    }

    /// The same with these limits: task by task up to `exact` tasks, in about `chunks` chunks
    /// beyond.
    pub fn with_limits(graph: Arc<TaskGraph>, facts: Arc<FactsOf>, exact: usize, chunks: usize) -> RemainingWork {
        let tasks = graph.task_count();
        let mut work = RemainingWork {
            stages: vec![WAITING; tasks],
            open: OpenSet::full(tasks),
            running: Vec::new(),
            remaining: tasks as u64,
            ready: Vec::new(),
            demands: BTreeMap::new(),
            exact,
            chunks: chunks.max(16),
            outline: OnceCell::new(),
            graph,
            facts,
        };
        work.add_demands(0..tasks as u32);
        work
    }

    fn add_demands(&mut self, tasks: Range<u32>) {
        for task in tasks {
            let facts = (self.facts)(TaskId(task));
            self.demands.entry(facts.runs_on).or_default().tasks += 1;
        }
    }

    /// The open tasks, by the types of nodes that may run them.
    pub(super) fn demands(&self) -> impl Iterator<Item = NodeDemand> {
        let demand = |(&runs_on, sums): (&NodeTypes, &DemandSums)| NodeDemand {
            runs_on,
            tasks: sums.tasks,
            now_s: sums.now_ns as f64 / 1e9,
            now_slots: sums.now_slots,
        };
        self.demands.iter().filter(|(_, sums)| sums.tasks > 0).map(demand)
    }

    /// Takes the tasks by which the graph has grown, in stage `Waiting`. `facts` has those of all
    /// tasks.
    pub fn grow(&mut self, graph: Arc<TaskGraph>, facts: Arc<FactsOf>) {
        let tasks = graph.task_count();
        let before = self.stages.len();
        self.remaining += (tasks - before) as u64;
        self.stages.resize(tasks, WAITING);
        self.open = OpenSet::full(tasks);
        let ended = (0..).zip(&self.stages).filter(|(_, stage)| **stage == ENDED);
        ended.for_each(|(task, _)| self.open.remove(task));
        (self.graph, self.facts) = (graph, facts);
        self.outline = OnceCell::new();
        self.add_demands(before as u32..tasks as u32);
        self.running.iter_mut().for_each(|running| running.cell = NONE);
    }

    /// Takes facts of which only the types of nodes that may run the tasks differ.
    pub fn set_node_types(&mut self, facts: Arc<FactsOf>) {
        self.facts = facts;
        self.demands.clear();
        for (task, &stage) in (0..).zip(&self.stages).filter(|(_, stage)| **stage != ENDED) {
            let facts = (self.facts)(TaskId(task));
            let sums = self.demands.entry(facts.runs_on).or_default();
            sums.tasks += 1;
            if stage <= READY {
                sums.now_ns += facts.work();
                sums.now_slots += u64::from(facts.slots);
            }
        }
    }

    /// The graph of all tasks.
    pub fn graph(&self) -> &TaskGraph {
        &self.graph
    }

    /// The facts of a task.
    pub fn facts(&self, task: TaskId) -> TaskFacts {
        (self.facts)(task)
    }

    /// Tasks without a final state.
    pub fn count(&self) -> u64 {
        self.remaining
    }

    /// Number of ready tasks.
    pub fn ready_count(&self) -> u64 {
        self.ready.iter().map(|ready| ready.count).sum()
    }

    /// The classes of the ready tasks, with the mean size of those tasks in seconds.
    pub(super) fn ready_classes(&self) -> impl Iterator<Item = (ClassId, f64)> {
        let mean = |ready: &ReadyTasks| (ready.count > 0).then(|| ready.size_ns as f64 / ready.count as f64 / 1e9);
        (0..).map(ClassId).zip(&self.ready).filter_map(move |(class, ready)| Some((class, mean(ready)?)))
    }

    /// Number of running tasks.
    pub fn running_count(&self) -> u64 {
        self.running.len() as u64
    }

    /// True until a task reaches its final state.
    pub fn is_open(&self, task: TaskId) -> bool {
        self.stages.get(task.index()).is_some_and(|stage| *stage != ENDED)
    }

    /// True while a task runs.
    pub fn is_running(&self, task: TaskId) -> bool {
        self.stages.get(task.index()).is_some_and(|&stage| stage < READY)
    }

    /// Records that a task waits for a slot.
    pub fn became_ready(&mut self, task: TaskId) {
        self.change(task, READY);
    }

    /// Records that a task runs, since about `since`.
    pub fn started(&mut self, task: TaskId, since: Time) {
        self.change(task, self.running.len() as u32);
        let Some(&stage) = self.stages.get(task.index()).filter(|stage| **stage < READY) else { return };
        if let Some(running) = self.running.get_mut(stage as usize) {
            running.since = since;
        }
    }

    /// Records that a task stopped running; it may have to run again.
    pub fn stopped(&mut self, task: TaskId) {
        self.change(task, WAITING);
    }

    /// Records the final state of a task; false if it already had one.
    pub fn ended(&mut self, task: TaskId) -> bool {
        let was_open = self.is_open(task);
        if was_open {
            self.change(task, ENDED);
            self.open.remove(task.0);
            self.remaining -= 1;
            if self.outline.get().is_some_and(|outline| self.is_outdated(outline)) {
                self.remake();
            }
        }
        was_open
    }

    /// Moves a task to a stage. A position in the list of running tasks adds it to the end of that
    /// list, unless it is already listed.
    fn change(&mut self, task: TaskId, to: u32) {
        let Some(&from) = self.stages.get(task.index()) else { return };
        if from == ENDED || from == to || (from < READY && to < READY) {
            return;
        }
        let facts = (self.facts)(task);
        match (from, to) {
            (READY, _) => self.ready[facts.class.0 as usize].remove(&facts),
            (_, READY) => self.ready_of(facts.class).add(&facts),
            _ => {}
        }
        let sums = self.demands.entry(facts.runs_on).or_default();
        let is_now = |stage| stage <= READY;
        if is_now(from) {
            sums.now_ns -= facts.work();
            sums.now_slots -= u64::from(facts.slots);
        }
        if is_now(to) {
            sums.now_ns += facts.work();
            sums.now_slots += u64::from(facts.slots);
        }
        if to == ENDED {
            sums.tasks -= 1;
        }
        let mut cell = NONE;
        if let Some(outline) = self.outline.get_mut() {
            cell = outline.cell_of(task);
            outline.count(cell, &facts, from, -1);
            outline.count(cell, &facts, to, 1);
        }
        if from < READY {
            self.running.swap_remove(from as usize);
            if let Some(moved) = self.running.get(from as usize) {
                self.stages[moved.task.index()] = from;
            }
        }
        if to < READY {
            self.running.push(RunningTask { task, cell, since: Time::ZERO, facts });
        }
        self.stages[task.index()] = to;
    }

    fn ready_of(&mut self, class: ClassId) -> &mut ReadyTasks {
        let at = class.0 as usize;
        if self.ready.len() <= at {
            self.ready.resize(at + 1, ReadyTasks::default());
        }
        &mut self.ready[at]
    }

    /// Calls `each` once for every task without a final state, in ascending order of number.
    pub fn each(&self, each: &mut dyn FnMut(RemainingTask)) {
        self.open.iter().for_each(|number| each(self.task(TaskId(number), self.stages[number as usize])));
    }

    fn task(&self, task: TaskId, stage: u32) -> RemainingTask {
        let TaskFacts { class, prior, slots, .. } = (self.facts)(task);
        let stage = match stage {
            WAITING | ENDED => Stage::Waiting,
            READY => Stage::Ready,
            at => Stage::Running(self.running[at as usize].since),
        };
        RemainingTask { task, class, prior, slots, stage }
    }

    /// The most slots that remaining tasks of one level of the graph take: an upper bound on the
    /// useful slots at any time, whatever the durations.
    pub fn widest_level(&self) -> u64 {
        self.outline().widest()
    }

    /// The tasks that run, in no particular order.
    pub(super) fn running(&self) -> &[RunningTask] {
        &self.running
    }

    /// The division into chunks, made at the first call.
    pub(super) fn outline(&self) -> &CoarseGraph {
        self.outline.get_or_init(|| CoarseGraph::new(self, None))
    }

    /// True if half of the tasks that a coarse graph was made for have ended, and few enough remain
    /// to make it again.
    fn is_outdated(&self, outline: &CoarseGraph) -> bool {
        !outline.is_exact && self.remaining < outline.made_for / 2 && self.remaining <= MAX_TASKS_REDIVIDED
    }

    fn remake(&mut self) {
        let old = self.outline.take();
        let outline = CoarseGraph::new(self, old);
        self.running.iter_mut().for_each(|running| running.cell = outline.cell_of(running.task));
        let _ = self.outline.set(outline);
    }
}

#[cfg(test)]
mod tests;
