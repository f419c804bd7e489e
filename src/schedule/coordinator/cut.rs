//! What all acknowledgements of a change together say: which tasks have ended, which ranks keep
//! open ones, and which attempts were lost.

use std::sync::Arc;

use rustc_hash::{FxHashMap, FxHashSet};

use super::change::Preparing;
use super::{Coordinator, CoordinatorAction};
use crate::graph::TaskGraph;
use crate::model::{Attempt, Outcome, Rank, RankState, State, TaskId, Time};
use crate::schedule::completion_inference;
use crate::schedule::dependency_counts::End;
use crate::schedule::protocol::{Tried, is_among};

/// A consistent cut of the run, from all acknowledgements.
pub(super) struct Cut {
    /// The rank that runs or is about to run a task.
    pub(super) kept: FxHashMap<TaskId, Rank>,
    /// Open tasks that have begun.
    pub(super) begun: FxHashSet<u32>,
    /// Nodes that have ended, of which the ranks concerned may not have been notified.
    pub(super) newly_known: Vec<u32>,
    /// Tasks with attempts of which their homes may not have been notified.
    pub(super) retried: FxHashSet<TaskId>,
}

impl Coordinator {
    /// Infers all certain ends. Ends that only peers of a lost rank know are written to the
    /// journal.
    pub(super) fn infer_ends(
        &mut self,
        now: Time,
        graph: &TaskGraph,
        preparing: &Preparing,
        actions: &mut Vec<CoordinatorAction>,
    ) -> Cut {
        let mut unreported: Vec<Attempt> = Vec::new();
        let tasks = self.running.keys().chain(self.tried.keys());
        let mut begun: FxHashSet<u32> = tasks.map(|task| task.0).collect();
        // If the task has ended, the attempt that a rank still has is the one that ended.
        let mut latest: FxHashMap<TaskId, u16> = FxHashMap::default();
        for &(task, attempt, _) in &preparing.kept {
            if self.is_claim(task, attempt) {
                begun.insert(task.0);
                let latest = latest.entry(task).or_default();
                *latest = attempt.max(*latest);
                // A rank that retries a task has received failures that may be recorded nowhere
                // else.
                let failed = (self.attempts(task) + 1..attempt)
                    .map(|number| self.unreported_attempt(now, task, number, State::Failed));
                unreported.extend(failed.map(|failed| Attempt { last: false, ..failed }));
            }
        }
        let retried = unreported.iter().map(|attempt| attempt.task).collect();
        let mut newly_known: Vec<u32> = preparing.lent.iter().map(|task| task.0).collect();
        newly_known.retain(|&node| self.ends.get(node as usize).is_some_and(Option::is_some));
        if preparing.lost {
            let before = self.ends.clone();
            for (&node, &counted) in &preparing.counted {
                if let Some(end) = self.ends.get_mut(node as usize) {
                    *end = end.or(Some(counted));
                }
            }
            let done = |node: u32| self.done_before.get(node as usize) == Some(&true);
            completion_inference::close(graph, &|node| begun.contains(&node), &done, &mut self.ends);
            let closed = (0..).zip(before.iter().zip(&self.ends)).filter(|(_, (before, end))| before != end);
            newly_known.extend(closed.map(|(node, _)| node));
            for task in (0..self.finals.len()).filter(|&task| self.finals[task].is_none()) {
                let id = TaskId(task as u32);
                let next = self.attempts(id).saturating_add(1).max(latest.get(&id).copied().unwrap_or(0));
                match self.ends[task] {
                    Some(End::Completed) => unreported.push(self.unreported_attempt(now, id, next, State::Completed)),
                    Some(End::Failed) => {
                        unreported.push(self.unreported_attempt(now, id, next, self.state_of_unsuccessful(id)))
                    }
                    Some(End::Unsuccessful) if completion_inference::was_skipped(graph, id.0, &self.ends) => {
                        unreported.push(self.unreported_attempt(now, id, 0, State::Skipped));
                    }
                    Some(End::Unsuccessful) => {
                        self.undecided.insert(id);
                    }
                    None => {}
                }
            }
        } else {
            // All homes are present, and have sent the ends of all other nodes.
            newly_known.extend(self.close_joins(graph));
        }
        self.count(now, unreported, actions);
        self.resolve_undecided(now, actions);
        Cut { kept: FxHashMap::default(), begun, newly_known, retried }
    }

    /// True if a rank's claim to keep a task is not superseded by a later attempt.
    pub(super) fn is_claim(&self, task: TaskId, attempt: u16) -> bool {
        self.finals.get(task.index()).is_some_and(Option::is_none) && attempt > self.attempts(task)
    }

    /// Number of ended attempts at a task.
    pub(super) fn attempts(&self, task: TaskId) -> u16 {
        self.tried.get(&task).map_or(0, |tried| tried.attempts)
    }

    /// Ends the joins all of whose predecessors have ended.
    pub(super) fn close_joins(&mut self, graph: &TaskGraph) -> Vec<u32> {
        let mut closed = Vec::new();
        for node in graph.task_count() as u32..graph.node_count() as u32 {
            if let (None, Some(rule)) = (self.ends[node as usize], graph.join(node)) {
                self.ends[node as usize] =
                    completion_inference::join_end(graph, node, rule, &|node| self.ends[node as usize]);
                closed.extend(self.ends[node as usize].map(|_| node));
            }
        }
        closed
    }

    /// Ends cancelled tasks that no rank can take, and the tasks skipped because of them: no rank
    /// would end them.
    pub(super) fn end_cancelled(
        &mut self,
        now: Time,
        graph: &TaskGraph,
        cut: &mut Cut,
        actions: &mut Vec<CoordinatorAction>,
    ) {
        let mut ends: Vec<Attempt> = Vec::new();
        for node in graph.topological().iter() {
            if self.ends[node as usize].is_some() {
                continue;
            }
            let task = TaskId(node);
            let known = |node: u32| self.ends[node as usize];
            if let Some(rule) = graph.join(node) {
                self.ends[node as usize] = completion_inference::join_end(graph, node, rule, &known);
                cut.newly_known.extend(self.ends[node as usize].map(|_| node));
                continue;
            }
            let state = match completion_inference::violated(graph, node, &known) {
                Some(true) => State::Skipped,
                Some(false) if self.is_cancelled(task) => State::Cancelled,
                _ => continue,
            };
            let can_run = self.members.runners().any(|(_, member)| self.tasks.advice.fits(task, member));
            if cut.kept.contains_key(&task) || can_run {
                continue;
            }
            let attempt = if state == State::Skipped { 0 } else { self.attempts(task).saturating_add(1) };
            self.ends[node as usize] = Some(if state == State::Skipped { End::Unsuccessful } else { End::Failed });
            cut.newly_known.push(node);
            ends.push(self.unreported_attempt(now, task, attempt, state));
        }
        self.count(now, ends, actions);
        self.resolve_undecided(now, actions);
    }

    /// How a node ended, if known.
    pub(super) fn node_end(&self, graph: &TaskGraph, node: u32) -> Option<End> {
        let open = || graph.join(node).map(|rule| (node, rule));
        let join = |(node, rule)| completion_inference::join_end(graph, node, rule, &|node| self.node_end(graph, node));
        self.ends[node as usize].or_else(|| open().and_then(join))
    }

    /// Records whether tasks with an undecided end failed or were skipped, once all their
    /// predecessors have ended.
    pub(super) fn resolve_undecided(&mut self, now: Time, actions: &mut Vec<CoordinatorAction>) {
        if self.undecided.is_empty() {
            return;
        }
        let graph = Arc::clone(&self.tasks.graph);
        let decided = |&task: &TaskId| {
            let violated = completion_inference::violated(&graph, task.0, &|node| self.node_end(&graph, node))?;
            Some(match violated {
                true => self.unreported_attempt(now, task, 0, State::Skipped),
                false => self.unreported_attempt(
                    now,
                    task,
                    self.attempts(task).saturating_add(1),
                    self.state_of_unsuccessful(task),
                ),
            })
        };
        let ends: Vec<Attempt> = self.undecided.iter().filter_map(decided).collect();
        self.undecided.retain(|task| ends.iter().all(|end| end.task != *task));
        self.count(now, ends, actions);
    }

    /// The state of a task that ran without success.
    pub(super) fn state_of_unsuccessful(&self, task: TaskId) -> State {
        if self.is_cancelled(task) { State::Cancelled } else { State::Failed }
    }

    /// True if the user has cancelled the task, ended or not.
    pub fn is_cancelled(&self, task: TaskId) -> bool {
        is_among(task, &self.cancelled)
    }

    /// The record of an end that its own rank was lost before reporting.
    pub(super) fn unreported_attempt(&self, now: Time, task: TaskId, attempt: u16, state: State) -> Attempt {
        let (rank, exit) = (self.home(task).unwrap_or(Rank::ZERO), i32::from(state == State::Failed));
        let outcome = Outcome { state, exit, cached: false };
        Attempt { task, attempt, outcome, last: true, rank, slot: 0, ready: now, start: now, end: now }
    }

    /// Records the attempts that lost ranks are known to have been running, and counts them as
    /// tried.
    pub(super) fn note_lost_attempts(
        &mut self,
        now: Time,
        kept: &FxHashMap<TaskId, Rank>,
        actions: &mut Vec<CoordinatorAction>,
    ) -> Vec<TaskId> {
        let mut lost: Vec<Attempt> = Vec::new();
        self.running.retain(|&task, &mut (rank, running)| {
            let is_lost = self.members.standing(rank) == Some(RankState::Lost);
            if is_lost && !kept.contains_key(&task) {
                let (attempt, start) = (running.attempt, running.start);
                let outcome = Outcome { state: State::NodeFail, exit: 0, cached: false };
                lost.push(Attempt {
                    task,
                    attempt,
                    outcome,
                    last: false,
                    rank,
                    slot: 0,
                    ready: start,
                    start,
                    end: now,
                });
            }
            !is_lost
        });
        lost.sort_unstable_by_key(|attempt| attempt.task);
        for &Attempt { task, attempt, rank, .. } in &lost {
            let tried = self.tried.entry(task).or_insert(Tried::none(task, rank, Time::ZERO));
            *tried = Tried { attempts: attempt, lost: tried.lost.saturating_add(1), rank, ..*tried };
        }
        let tasks = lost.iter().map(|attempt| attempt.task).collect();
        if !lost.is_empty() {
            actions.push(CoordinatorAction::Journal(lost));
        }
        tasks
    }
}
