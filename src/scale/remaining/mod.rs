//! What remains of a run's tasks, kept up to date by the events of tasks, so that a decision need
//! not look at each of them.
//!
//! Every task has a stage. Tasks that run are listed with the moment at which they began; tasks
//! that are open can be enumerated at the cost of those that are left. Everything else that a
//! forecast needs is kept as sums: the first forecast divides the graph into chunks (`outline`),
//! and from then on every event adjusts the sums of the chunk of its task. The sums are integers,
//! so that they are at every moment exactly those that would be found by counting again.
//!
//! The real run and the simulator feed this with the same calls.

mod coarsen;
mod open_set;

use std::cell::OnceCell;
use std::sync::Arc;
use std::time::Duration;

pub(super) use self::coarsen::{CoarseGraph, NONE};
use self::open_set::OpenSet;
use super::estimate::ClassId;
use crate::graph::TaskGraph;
use crate::model::{TaskId, Time};

/// Up to this number of remaining tasks and joins each is a chunk of its own.
pub const EXACT: usize = 2_500;

/// Number of chunks beyond [`EXACT`]; more are finer and slower. `benches/decide.rs` says what this
/// costs in quality.
pub const CHUNKS: usize = 2_000;

/// Most remaining tasks for which the division into chunks is made anew when half of them have
/// ended: it takes some microseconds per task.
const MOST_REMADE: u64 = 32_768;

/// What does not change about a task.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TaskFacts {
    /// The class under which its duration is learnt.
    pub class: ClassId,
    /// Its own prior duration from the job file, if it has one: what is learnt is how durations
    /// relate to it.
    pub prior: Option<Duration>,
    /// Slots that it takes on one rank.
    pub slots: u32,
}

impl TaskFacts {
    /// Nanoseconds that its duration is proportional to: its prior, or a second.
    pub(super) fn size(&self) -> u64 {
        self.prior.map_or(1_000_000_000, |prior| u64::try_from(prior.as_nanos()).unwrap_or(u64::MAX).max(1))
    }
}

/// Tells the facts of each task of a job.
pub type FactsOf = dyn Fn(TaskId) -> TaskFacts + Send + Sync;

/// One task that is still to be run.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RemainingTask {
    /// Its number.
    pub task: TaskId,
    /// The class under which its duration is learnt.
    pub class: ClassId,
    /// Its own prior duration from the job file, if it has one.
    pub prior: Option<Duration>,
    /// Slots that it takes on one rank.
    pub slots: u32,
    /// How far it is.
    pub stage: Stage,
}

/// How far a task is that has no final state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Waits for other tasks, which are themselves remaining.
    Waiting,
    /// Waits for a slot.
    Ready,
    /// Has been running since this moment.
    Running(Time),
}

/// A task that runs.
#[derive(Clone, Copy, Debug)]
pub(super) struct RunningTask {
    pub task: TaskId,
    /// Its cell in the outline; [`NONE`] if there is no outline yet.
    pub cell: u32,
    pub since: Time,
    pub facts: TaskFacts,
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
    ready: u64,
    exact: usize,
    chunks: usize,
    outline: OnceCell<CoarseGraph>,
}

impl RemainingWork {
    /// All tasks of a graph, each waiting for others.
    pub fn new(graph: Arc<TaskGraph>, facts: Arc<FactsOf>) -> RemainingWork {
        RemainingWork::with_limits(graph, facts, EXACT, CHUNKS)
    }

    /// The same, task by task up to `exact` tasks and in about `chunks` chunks beyond.
    pub fn with_limits(graph: Arc<TaskGraph>, facts: Arc<FactsOf>, exact: usize, chunks: usize) -> RemainingWork {
        let tasks = graph.task_count();
        RemainingWork {
            stages: vec![WAITING; tasks],
            open: OpenSet::full(tasks),
            running: Vec::new(),
            remaining: tasks as u64,
            ready: 0,
            exact,
            chunks: chunks.max(16),
            outline: OnceCell::new(),
            graph,
            facts,
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

    /// Tasks that wait for a slot.
    pub fn ready_count(&self) -> u64 {
        self.ready
    }

    /// Tasks that run.
    pub fn running_count(&self) -> u64 {
        self.running.len() as u64
    }

    /// True until a task has its final state.
    pub fn is_open(&self, task: TaskId) -> bool {
        self.stages.get(task.index()).is_some_and(|stage| *stage != ENDED)
    }

    /// True while a task runs.
    pub fn is_running(&self, task: TaskId) -> bool {
        self.stages.get(task.index()).is_some_and(|&stage| stage < READY)
    }

    /// A task waits for a slot.
    pub fn became_ready(&mut self, task: TaskId) {
        self.change(task, READY);
    }

    /// A task runs, since about `since`.
    pub fn started(&mut self, task: TaskId, since: Time) {
        self.change(task, self.running.len() as u32);
        let Some(&stage) = self.stages.get(task.index()).filter(|stage| **stage < READY) else { return };
        if let Some(running) = self.running.get_mut(stage as usize) {
            running.since = since;
        }
    }

    /// A task runs no more, and may have to run again.
    pub fn stopped(&mut self, task: TaskId) {
        self.change(task, WAITING);
    }

    /// A task has its final state; false if it had one before.
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

    /// Puts a task into a stage; a position in the list of running tasks puts it at the end of that
    /// list, unless it is there.
    fn change(&mut self, task: TaskId, to: u32) {
        let Some(&from) = self.stages.get(task.index()) else { return };
        if from == ENDED || from == to || (from < READY && to < READY) {
            return;
        }
        let facts = (self.facts)(task);
        self.ready -= u64::from(from == READY);
        self.ready += u64::from(to == READY);
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

    /// Calls `each` once for every task without a final state, in ascending order of number.
    pub fn each(&self, each: &mut dyn FnMut(RemainingTask)) {
        self.open.iter().for_each(|number| each(self.task(TaskId(number), self.stages[number as usize])));
    }

    fn task(&self, task: TaskId, stage: u32) -> RemainingTask {
        let TaskFacts { class, prior, slots } = (self.facts)(task);
        let stage = match stage {
            WAITING | ENDED => Stage::Waiting,
            READY => Stage::Ready,
            at => Stage::Running(self.running[at as usize].since),
        };
        RemainingTask { task, class, prior, slots, stage }
    }

    /// The most slots that remaining tasks of one level of the graph take: so many may be of use at
    /// once, now or later, however long tasks take.
    pub fn widest_level(&self) -> u64 {
        self.outline().widest()
    }

    /// The tasks that run, in no particular order.
    pub(super) fn running(&self) -> &[RunningTask] {
        &self.running
    }

    /// The division into chunks, which is made at the first call.
    pub(super) fn outline(&self) -> &CoarseGraph {
        self.outline.get_or_init(|| CoarseGraph::new(self, None))
    }

    /// True if half of what an outline was made for has ended, and few enough tasks remain to make
    /// it anew.
    fn is_outdated(&self, outline: &CoarseGraph) -> bool {
        !outline.is_exact && self.remaining < outline.made_for / 2 && self.remaining <= MOST_REMADE
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
