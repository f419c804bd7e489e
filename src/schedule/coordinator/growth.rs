//! Tasks that are added to a run under way.
//!
//! An attempt *offers* further tasks before it ends; they count once that attempt has completed, so
//! an attempt that is lost or fails adds nothing, and none is added twice. What counts waits until
//! the driver has made the grown graph of it ([`Growth`]), and gets homes at the next change: one
//! change takes all additions that have come together meanwhile. The run is not over while any
//! wait, or while it is *open* for more.

use std::sync::Arc;
use std::time::Duration;

use rustc_hash::FxHashMap;

use super::{Coordinator, CoordinatorAction};
use crate::graph::TaskGraph;
use crate::model::{Attempt, State, TaskId, Time};
use crate::schedule::dependency_counts::End;
use crate::schedule::gang::ShapeOf;
use crate::schedule::homes::{Advice, NOWHERE};
use crate::schedule::pools::table::PoolTable;
use crate::schedule::protocol::Message;

/// A run with more tasks.
pub struct Growth {
    /// The graph, which has grown from the one before.
    pub graph: Arc<TaskGraph>,
    /// Urgency of each node.
    pub urgency: Vec<u8>,
    /// Facts about all tasks.
    pub advice: Box<dyn Advice>,
    /// Shapes of MPI tasks.
    pub shapes: ShapeOf,
    /// The pools, which have grown from those before.
    pub pools: Arc<PoolTable>,
    /// As [`Tasks::fair`](super::Tasks::fair), of all tasks.
    pub fair: Vec<(u32, u32)>,
    /// Number of additions that it consists of.
    pub additions: u32,
    /// Time that it took to make it: further additions are collected for as long.
    pub took: Duration,
}

/// Additions that have no homes yet.
#[derive(Default)]
pub(super) struct Additions {
    /// Tasks whose attempt has offered further tasks, with the number of that attempt.
    offered: FxHashMap<TaskId, u16>,
    /// Number of additions that count and have no homes.
    waiting: u32,
    /// The additions that the next change gives homes to.
    growth: Option<Growth>,
    /// The run waits for more.
    is_open: bool,
}

impl Additions {
    /// True if the run goes on although all of its tasks have ended.
    pub(super) fn are_expected(&self) -> bool {
        self.waiting > 0 || self.is_open
    }
}

/// What the end of an attempt says of the tasks that attempt number `offered` at the same task has
/// offered: whether they count; `None` if that is still open.
pub fn settles(ended: &Attempt, offered: u16) -> Option<bool> {
    // The end of an attempt that only its peers have reported may have too low a number.
    let counts = ended.last && offered >= ended.attempt && ended.outcome.state == State::Completed;
    (counts || ended.last || offered <= ended.attempt).then_some(counts)
}

impl Coordinator {
    /// An attempt has offered further tasks. They replace what an earlier attempt has offered.
    pub fn offer(&mut self, task: TaskId, attempt: u16) {
        self.additions.offered.insert(task, attempt);
    }

    /// The user has added tasks.
    pub fn add(&mut self) {
        self.additions.waiting += 1;
    }

    /// Opens the run for more tasks, or closes it.
    pub fn set_open(&mut self, is_open: bool, actions: &mut Vec<CoordinatorAction>) {
        self.additions.is_open = is_open;
        self.finish_if_over(actions);
    }

    /// The graph of the run.
    pub fn graph(&self) -> &TaskGraph {
        &self.tasks.graph
    }

    /// Number of tasks that can be added; `None`: no limit.
    pub fn room(&self) -> Option<u32> {
        let graph = &self.tasks.graph;
        let has_joins = graph.node_count() > graph.task_count();
        has_joins.then(|| graph.free_numbers().len() as u32)
    }

    /// True if the run waits for more tasks.
    pub fn is_open(&self) -> bool {
        self.additions.is_open
    }

    /// True if additions wait, and the run can [grow](Coordinator::grow) now.
    pub fn may_grow(&self, now: Time) -> bool {
        self.growth_due().is_some_and(|due| due <= now)
    }

    /// When waiting additions can get homes.
    pub(super) fn growth_due(&self) -> Option<Time> {
        let additions = &self.additions;
        let waits = additions.waiting > 0 && additions.growth.is_none();
        let is_settled = self.change.is_none() && self.stopping.is_none() && !self.finished;
        (waits && is_settled).then(|| self.next_change.collects_until())
    }

    /// Begins the change that gives additions their homes.
    pub fn grow(&mut self, now: Time, growth: Growth, actions: &mut Vec<CoordinatorAction>) {
        self.additions.growth = Some(growth);
        self.begin_change(now, false, false, actions);
        self.release_leaderless(now, actions);
    }

    /// Decides about what ended attempts have offered.
    pub(super) fn settle_offers(&mut self, attempts: &[Attempt], actions: &mut Vec<CoordinatorAction>) {
        if self.additions.offered.is_empty() {
            return;
        }
        for attempt in attempts {
            let Some(&offered) = self.additions.offered.get(&attempt.task) else { continue };
            if let Some(counts) = settles(attempt, offered) {
                self.additions.offered.remove(&attempt.task);
                self.additions.waiting += u32::from(counts);
                actions.push(CoordinatorAction::Offered { task: attempt.task, counts });
            }
        }
    }

    /// The graph of the run from this change on: with the tasks that are added in it, which have no
    /// homes yet.
    pub(super) fn grown_graph(&mut self, actions: &mut Vec<CoordinatorAction>) -> Arc<TaskGraph> {
        let Some(growth) = self.additions.growth.take() else { return Arc::clone(&self.tasks.graph) };
        let Growth { graph, urgency, advice, shapes, pools, fair, additions, took } = growth;
        self.next_change.add_cost(took);
        let (before, tasks) = (self.finals.len(), graph.task_count());
        let (nodes_before, nodes) = (self.ends.len(), graph.node_count());
        let added = (tasks - before) as u32;
        // What follows the former nodes are tasks, free numbers and joins.
        self.ends.resize(nodes, None);
        self.tasks.home.resize(nodes, NOWHERE);
        self.tasks.urgency.resize(nodes, 0);
        for node in (before..tasks).chain(nodes_before..nodes) {
            (self.ends[node], self.tasks.home[node]) = (None, NOWHERE);
            self.tasks.urgency[node] = urgency.get(node).copied().unwrap_or(0);
        }
        graph.free_numbers().for_each(|number| self.ends[number as usize] = Some(End::Completed));
        self.finals.resize(tasks, None);
        if !self.done_before.is_empty() {
            self.done_before.resize(tasks, false);
        }
        (self.tally.total, self.open) = (self.tally.total + added, self.open + added);
        self.additions.waiting = self.additions.waiting.saturating_sub(additions);
        (self.tasks.graph, self.tasks.advice) = (Arc::clone(&graph), advice);
        self.gangs.set_shapes(shapes);
        self.pools.grow(Arc::clone(&pools));
        self.tasks.pools = pools;
        self.family_times.grow(fair);
        if self.paused == [(0, before as u32)] {
            // The run is paused, and not these tasks of it.
            self.paused = vec![(0, tasks as u32)];
            self.broadcast(Message::Paused { tasks: self.paused.clone() }, actions);
        }
        graph
    }
}
