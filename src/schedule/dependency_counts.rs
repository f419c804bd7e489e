//! The ledger of one rank: for each task at home, the number of predecessors that it still waits
//! for.
//!
//! This is the hot path: pool threads call [`DependencyCounts::complete`] between two tasks,
//! without a lock. A task's word in `waits` holds the number of edges not yet counted and two
//! flags. The caller that counts the last edge decides what becomes of the task, so exactly one
//! caller sees each task become ready.
//!
//! Counting is idempotent: a completion at home counts once because the first caller sets the
//! `ENDED` flag, a completion elsewhere because the first caller sets its entry in `counted`. A
//! skipped task or a join ends when its last edge is counted, and its successors are counted with
//! it ([`CompletionEffects`]).

use std::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering::AcqRel, Ordering::Acquire, Ordering::Relaxed};

pub use super::part::{Part, SPECIAL, UnsoundPart};
use serde::{Deserialize, Serialize};

use crate::graph::{Edge, JoinRule};
use crate::model::{Rank, TaskId, Time};

/// An edge was violated (`afterok` after a failure, ...): the task will be skipped.
const VIOLATED: u32 = 1 << 31;
/// The task has ended.
const ENDED: u32 = 1 << 30;
/// Edges not yet counted.
const COUNT_MASK: u32 = ENDED - 1;

/// Upper limit on edges into one node.
pub(super) const MAX_WAITS: u32 = COUNT_MASK;

/// An import whose end has not been counted; other values are those of [`End`], plus 1.
const OPEN_IMPORT: u8 = 0;

/// How a node ended. Edges only distinguish completion from other ends. When ranks are lost, it
/// also matters whether a task that did not complete has run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum End {
    /// The task completed, or the join holds.
    Completed,
    /// The task ran and failed, or was cancelled when it was due: all its predecessors had ended as
    /// its edges require.
    Failed,
    /// The task was skipped, the join does not hold, or it is unknown why the node did not
    /// complete.
    Unsuccessful,
}

impl End {
    /// The end of a task that ran.
    pub fn of_run(completed: bool) -> End {
        if completed { End::Completed } else { End::Failed }
    }

    /// The end of a node that did not run: a join, or a skipped task.
    pub fn without_run(good: bool) -> End {
        if good { End::Completed } else { End::Unsuccessful }
    }

    /// True for `Completed`.
    #[inline]
    pub fn ok(self) -> bool {
        self == End::Completed
    }

    fn from_counted(counted: u8) -> Option<End> {
        [End::Completed, End::Failed, End::Unsuccessful].get(usize::from(counted).checked_sub(1)?).copied()
    }
}

/// The effects of one completion.
#[derive(Clone, Debug, Default)]
pub struct CompletionEffects {
    /// Tasks (local numbers) that became ready.
    pub ready: Vec<u32>,
    /// Tasks (local numbers) that will never run.
    pub skipped: Vec<u32>,
    /// Ends that other ranks count: the receiver, the node, and how it ended.
    pub exports: Vec<(Rank, u32, End)>,
    /// Nodes that ended and whose successors have not been counted yet.
    open: Vec<(u32, End)>,
}

impl CompletionEffects {
    /// True if there is nothing to act on.
    pub fn is_empty(&self) -> bool {
        self.ready.is_empty() && self.skipped.is_empty() && self.exports.is_empty()
    }

    /// Empties it for reuse; keeps its buffers.
    pub fn clear(&mut self) {
        self.ready.clear();
        self.skipped.clear();
        self.exports.clear();
        self.open.clear();
    }
}

/// For each task at home on a rank, how many predecessors it still waits for; shared by all pool
/// threads.
#[derive(Debug)]
pub struct DependencyCounts {
    part: Part,
    waits: Box<[AtomicU32]>,
    /// The first node that waits for something. Those before it, all of an array, need no times of
    /// their own.
    first_waiting: u32,
    /// When each node from `first_waiting` on became ready.
    ready_at: Box<[AtomicU64]>,
    /// When the nodes before it became ready.
    opened_at: AtomicU64,
    /// For each import: not counted, or how it ended.
    counted: Box<[AtomicU8]>,
    /// Position of the last import counted: the next one is usually its neighbour.
    last_import: AtomicU32,
}

impl DependencyCounts {
    /// Opens the ledger of a part.
    ///
    /// # Errors
    /// If the part's tables contradict each other.
    pub fn new(part: Part) -> Result<DependencyCounts, UnsoundPart> {
        let mut waits: Box<[AtomicU32]> = part.waits()?.into_iter().map(AtomicU32::new).collect();
        let first_waiting = waits.iter_mut().position(|n| *n.get_mut() > 0).unwrap_or(waits.len());
        for &local in &part.violated {
            *waits[local as usize].get_mut() |= VIOLATED;
        }
        Ok(DependencyCounts {
            ready_at: waits[first_waiting..].iter().map(|_| AtomicU64::new(0)).collect(),
            counted: (0..part.imports.len()).map(|_| AtomicU8::new(OPEN_IMPORT)).collect(),
            first_waiting: first_waiting as u32,
            opened_at: AtomicU64::new(0),
            last_import: AtomicU32::new(u32::MAX),
            waits,
            part,
        })
    }

    /// Number of nodes at home here.
    pub fn len(&self) -> usize {
        self.part.nodes.len()
    }

    /// True if nothing is at home here.
    pub fn is_empty(&self) -> bool {
        self.part.nodes.is_empty()
    }

    /// True if all nodes at home here have ended.
    pub(super) fn is_over(&self) -> bool {
        (0..self.len() as u32).all(|local| self.is_ended(local))
    }

    /// True if a special task has not ended.
    pub(super) fn has_open_special(&self) -> bool {
        (0..self.len() as u32).any(|local| self.is_special(local) && !self.is_ended(local))
    }

    /// The task with this local number.
    #[inline]
    pub fn task(&self, local: u32) -> TaskId {
        TaskId(self.part.nodes.get(local))
    }

    /// The local number of a task, if it is at home here.
    pub fn local(&self, task: TaskId) -> Option<u32> {
        self.part.nodes.position(task.0)
    }

    /// The task's urgency.
    #[inline]
    pub fn urgency(&self, local: u32) -> u8 {
        self.part.urgency[local as usize] & !SPECIAL
    }

    /// True for a task that needs more than one slot: its needs must be checked before it starts.
    #[inline]
    pub fn is_special(&self, local: u32) -> bool {
        self.part.urgency[local as usize] & SPECIAL != 0
    }

    /// True if the task waits for nothing and has not ended: it is to be run, or runs.
    pub fn is_ready(&self, local: u32) -> bool {
        self.waits[local as usize].load(Acquire) & (COUNT_MASK | ENDED) == 0
    }

    /// The part that the counts are for.
    pub(super) fn part(&self) -> &Part {
        &self.part
    }

    /// True for a node that has ended here.
    pub(super) fn is_ended(&self, local: u32) -> bool {
        self.waits[local as usize].load(Acquire) & ENDED != 0
    }

    /// True for a node with a violated edge.
    pub(super) fn is_violated(&self, local: u32) -> bool {
        self.waits[local as usize].load(Acquire) & VIOLATED != 0
    }

    /// True if the end of an import (by its position) has been counted.
    pub(super) fn is_counted(&self, at: u32) -> bool {
        self.counted[at as usize].load(Acquire) != OPEN_IMPORT
    }

    /// When the task became ready.
    #[inline]
    pub fn ready_at(&self, local: u32) -> Time {
        let at = local.wrapping_sub(self.first_waiting) as usize;
        Time(self.ready_at.get(at).unwrap_or(&self.opened_at).load(Relaxed))
    }

    /// Opens the part: every node that waits for nothing becomes ready, most urgent first (ties by
    /// number), or ends at once (joins, tasks with an edge violated in an earlier session).
    pub fn open(&self, now: Time, effects: &mut CompletionEffects) {
        self.opened_at.store(now.0, Relaxed);
        for local in 0..self.part.nodes.len() as u32 {
            let word = self.waits[local as usize].load(Acquire);
            if word & (COUNT_MASK | ENDED) == 0 {
                if let Some(ready_at) = self.ready_at.get(local.wrapping_sub(self.first_waiting) as usize) {
                    ready_at.store(now.0, Relaxed);
                }
                self.decide(local, word & VIOLATED != 0, effects);
            }
        }
        self.spread(effects);
        effects.ready.sort_by_key(|&local| std::cmp::Reverse(self.urgency(local)));
    }

    /// Records the final end of a task at home and counts its edges here. False if it had already
    /// ended or still waits; then nothing is counted.
    pub fn complete(&self, local: u32, completed: bool, now: Time, effects: &mut CompletionEffects) -> bool {
        let word = &self.waits[local as usize];
        // A task that still waits cannot have run: only a damaged message says so.
        if word.load(Acquire) & COUNT_MASK != 0 || word.fetch_or(ENDED, AcqRel) & ENDED != 0 {
            return false;
        }
        self.export(local, End::of_run(completed), effects);
        self.count_successors(local, completed, now, effects);
        self.spread(effects);
        true
    }

    /// Counts the end of a node whose home is another rank. False if it was counted before or
    /// nothing here needs it.
    pub fn import(&self, node: u32, end: End, now: Time, effects: &mut CompletionEffects) -> bool {
        let near = self.last_import.load(Relaxed);
        let Some(at) = self.part.imports.position_after(node, near) else { return false };
        self.last_import.store(at, Relaxed);
        let at = at as usize;
        if self.counted[at].swap(end as u8 + 1, AcqRel) != OPEN_IMPORT {
            return false;
        }
        for &raw in self.part.imported.row(at) {
            self.count(Edge::from_raw(raw), end.ok(), now, effects);
        }
        self.spread(effects);
        true
    }

    /// The imports whose ends have been counted, and how they ended.
    pub fn counted(&self) -> impl Iterator<Item = (u32, End)> + '_ {
        let counted = self.part.imports.iter().zip(&self.counted);
        counted.filter_map(|(node, counted)| Some((node, End::from_counted(counted.load(Acquire))?)))
    }

    #[inline]
    fn count_successors(&self, local: u32, ok: bool, now: Time, effects: &mut CompletionEffects) {
        for &raw in self.part.local.row(local as usize) {
            self.count(Edge::from_raw(raw), ok, now, effects);
        }
    }

    #[inline]
    fn count(&self, edge: Edge, ok: bool, now: Time, effects: &mut CompletionEffects) {
        let word = &self.waits[edge.node() as usize];
        if edge.violated_by(ok) {
            word.fetch_or(VIOLATED, Relaxed);
        }
        // A task becomes ready when the last of its predecessors ends, which need not be the one
        // that is counted last.
        let ready_at = &self.ready_at[(edge.node() - self.first_waiting) as usize];
        if ready_at.load(Relaxed) < now.0 {
            ready_at.fetch_max(now.0, Relaxed);
        }
        // AcqRel: the caller that takes the count to zero sees every VIOLATED flag set before an
        // earlier decrement, and all that the predecessors wrote.
        let before = word.fetch_sub(1, AcqRel);
        if before & COUNT_MASK == 1 {
            self.decide(edge.node(), before & VIOLATED != 0, effects);
        }
    }

    /// Decides what becomes of a node whose last edge was counted.
    #[inline]
    fn decide(&self, local: u32, violated: bool, effects: &mut CompletionEffects) {
        let join = match self.part.joins.is_empty() {
            true => None,
            false => self.part.joins.binary_search_by_key(&local, |j| j.0).ok().map(|i| self.part.joins[i].1),
        };
        match join {
            None if !violated => effects.ready.push(local),
            None => {
                effects.skipped.push(local);
                effects.open.push((local, End::Unsuccessful));
            }
            Some(JoinRule::All) => effects.open.push((local, End::without_run(!violated))),
            Some(JoinRule::AnyNotOk) => effects.open.push((local, End::without_run(violated))),
        }
    }

    /// Counts the ends of skipped tasks and joins until no further ends follow. Each ends when it
    /// became ready, which may be later than the end that was counted last.
    #[inline]
    fn spread(&self, effects: &mut CompletionEffects) {
        while let Some((local, end)) = effects.open.pop() {
            self.waits[local as usize].fetch_or(ENDED, AcqRel);
            self.export(local, end, effects);
            self.count_successors(local, end.ok(), self.ready_at(local), effects);
        }
    }

    #[inline]
    fn export(&self, local: u32, end: End, effects: &mut CompletionEffects) {
        let ranks = self.part.exports.row(local as usize);
        if !ranks.is_empty() {
            let node = self.part.nodes.get(local);
            effects.exports.extend(ranks.iter().map(|&rank| (Rank(rank), node, end)));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graph::ascending::Ascending;
    use crate::graph::csr::Csr;
    use crate::graph::link::Condition;

    #[test]
    fn who_waits_behind_a_join_is_ready_when_the_last_predecessor_ended_not_the_last_counted() {
        // Two tasks, a join of both, a task behind the join.
        let successor = [Some(2), Some(2), Some(3), None];
        let local = Csr::in_order(4, 3, |row, edges| {
            edges.extend(successor[row as usize].map(|node| Edge::new(node, Condition::Ok).raw()));
        });
        let part = Part {
            nodes: (0..4).collect::<Ascending>(),
            joins: vec![(2, JoinRule::All)],
            urgency: vec![0; 4],
            local,
            exports: Csr::in_order(4, 0, |_, _| {}),
            ..Part::default()
        };
        let counts = DependencyCounts::new(part).expect("a sound part");
        let mut effects = CompletionEffects::default();
        counts.open(Time(1), &mut effects);
        // Two slots read the clock in one order and count in the other.
        assert!(counts.complete(0, true, Time(20), &mut effects));
        assert!(counts.complete(1, true, Time(10), &mut effects));
        assert_eq!((effects.ready, counts.ready_at(3)), (vec![0, 1, 3], Time(20)));
    }
}
