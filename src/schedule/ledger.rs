//! The ledger of one rank: how many of its predecessors each task at home still waits for.
//!
//! This is the hot path: pool threads call [`Ledger::complete`] between two tasks, without a lock. A task's word in `waits` holds
//! the number of edges not yet counted and two flags; whoever counts the last edge decides what becomes of it, so exactly
//! one caller sees each task become ready.
//!
//! Counting is idempotent: a completion at home counts once because the `ENDED` flag is set by the first caller, a completion at another
//! rank counts once because its bit in `imported` is. A skipped task and a join end the moment their last edge is counted, and
//! their own successors with them (the *ripple*).

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::AcqRel, Ordering::Acquire, Ordering::Relaxed};

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::graph::csr::Csr;
use crate::graph::{Edge, JoinRule};
use crate::model::{Rank, TaskId, Time};

/// An edge that a predecessor ended against (`afterok` after a failure, ...): the task will be skipped.
const VIOLATED: u32 = 1 << 31;
/// The task has ended.
const ENDED: u32 = 1 << 30;
/// Edges not yet counted.
const COUNT: u32 = ENDED - 1;

/// Set in a node's urgency if the task asks for more than one slot.
pub const SPECIAL: u8 = 0x80;

/// The nodes at home on one rank and the edges that touch them: what a rank is handed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Part {
    /// The nodes, ascending; a node's *local number* is its position here.
    pub nodes: Vec<u32>,
    /// Which of them (by local number, ascending) are joins, and their rules.
    pub joins: Vec<(u32, JoinRule)>,
    /// Urgency of each, higher first, with [`SPECIAL`].
    pub urgency: Vec<u8>,
    /// Edges into each that are still to be counted.
    pub waits: Vec<u32>,
    /// Which of them (local numbers) a predecessor already ended against.
    pub violated: Vec<u32>,
    /// From each to its successors at home: raw [`Edge`]s to local numbers.
    pub local: Csr,
    /// From each to the ranks where it has successors.
    pub exports: Csr,
    /// Nodes elsewhere that nodes here need, ascending.
    pub imports: Vec<u32>,
    /// From each of `imports` to the successors here: raw [`Edge`]s to local numbers.
    pub imported: Csr,
}

/// A part that does not hold together, as only a damaged message brings.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("the part of the graph that this rank was handed is inconsistent in its {0}")]
pub struct UnsoundPart(&'static str);

/// What one completion sets off.
#[derive(Clone, Debug, Default)]
pub struct Ripple {
    /// Tasks (local numbers) that became ready.
    pub ready: Vec<u32>,
    /// Tasks (local numbers) that will never run.
    pub skipped: Vec<u32>,
    /// Ends that other ranks count: where to, which node, and whether it ended well.
    pub exports: Vec<(Rank, u32, bool)>,
    /// Nodes that ended and whose successors are still to be counted.
    open: Vec<(u32, bool)>,
}

impl Ripple {
    /// Empties it for another use, keeping its buffers.
    pub fn clear(&mut self) {
        self.ready.clear();
        self.skipped.clear();
        self.exports.clear();
        self.open.clear();
    }
}

/// See the module's text.
#[derive(Debug)]
pub struct Ledger {
    part: Part,
    waits: Vec<AtomicU32>,
    ready_at: Vec<AtomicU64>,
    counted: Vec<AtomicBool>,
}

impl Ledger {
    /// Opens the ledger of a part.
    ///
    /// # Errors
    /// If the part's tables contradict each other.
    pub fn new(part: Part) -> Result<Ledger, UnsoundPart> {
        check(&part)?;
        let waits: Vec<AtomicU32> = part.waits.iter().map(|&n| AtomicU32::new(n)).collect();
        for &local in &part.violated {
            waits[local as usize].fetch_or(VIOLATED, Relaxed);
        }
        let ready_at = part.nodes.iter().map(|_| AtomicU64::new(0)).collect();
        let counted = part.imports.iter().map(|_| AtomicBool::new(false)).collect();
        Ok(Ledger { part, waits, ready_at, counted })
    }

    /// Number of nodes at home here.
    pub fn len(&self) -> usize {
        self.part.nodes.len()
    }

    /// True if nothing is at home here.
    pub fn is_empty(&self) -> bool {
        self.part.nodes.is_empty()
    }

    /// The task with this local number.
    #[inline]
    pub fn task(&self, local: u32) -> TaskId {
        TaskId(self.part.nodes[local as usize])
    }

    /// The local number of a task, if it is at home here.
    pub fn local(&self, task: TaskId) -> Option<u32> {
        self.part.nodes.binary_search(&task.0).ok().map(|i| i as u32)
    }

    /// The task's urgency.
    #[inline]
    pub fn urgency(&self, local: u32) -> u8 {
        self.part.urgency[local as usize] & !SPECIAL
    }

    /// True for a task that asks for more than one slot: it needs a closer look before it is started.
    #[inline]
    pub fn is_special(&self, local: u32) -> bool {
        self.part.urgency[local as usize] & SPECIAL != 0
    }

    /// True if the task waits for nothing any more and has not ended: it is to be run, or has been started.
    pub fn is_ready(&self, local: u32) -> bool {
        self.waits[local as usize].load(Acquire) & (COUNT | ENDED) == 0
    }

    /// When the task became ready.
    #[inline]
    pub fn ready_at(&self, local: u32) -> Time {
        Time(self.ready_at[local as usize].load(Relaxed))
    }

    /// Starts: everything that waits for nothing becomes ready, most urgent first (ties in order of their numbers), or ends at once (joins,
    /// tasks that an earlier session already decided against).
    pub fn open(&self, now: Time, ripple: &mut Ripple) {
        for local in 0..self.part.nodes.len() as u32 {
            let word = self.waits[local as usize].load(Acquire);
            if word & (COUNT | ENDED) == 0 {
                self.ready_at[local as usize].store(now.0, Relaxed);
                self.decide(local, word & VIOLATED != 0, ripple);
            }
        }
        self.spread(now, ripple);
        ripple.ready.sort_by_key(|&local| std::cmp::Reverse(self.urgency(local)));
    }

    /// Notes that a task at home ended for good, and counts it where it is needed at home. False if it had ended before, or still
    /// waits: then nothing is counted.
    pub fn complete(&self, local: u32, ok: bool, now: Time, ripple: &mut Ripple) -> bool {
        let word = &self.waits[local as usize];
        // What still waits cannot have run: only a damaged message says so.
        if word.load(Acquire) & COUNT != 0 || word.fetch_or(ENDED, AcqRel) & ENDED != 0 {
            return false;
        }
        self.export(local, ok, ripple);
        self.count_successors(local, ok, now, ripple);
        self.spread(now, ripple);
        true
    }

    /// Counts the end of a node whose home is elsewhere. False if it was counted before or nothing here needs it.
    pub fn import(&self, node: u32, ok: bool, now: Time, ripple: &mut Ripple) -> bool {
        let Ok(at) = self.part.imports.binary_search(&node) else { return false };
        if self.counted[at].swap(true, AcqRel) {
            return false;
        }
        for &raw in self.part.imported.row(at) {
            self.count(Edge::from_raw(raw), ok, now, ripple);
        }
        self.spread(now, ripple);
        true
    }

    #[inline]
    fn count_successors(&self, local: u32, ok: bool, now: Time, ripple: &mut Ripple) {
        for &raw in self.part.local.row(local as usize) {
            self.count(Edge::from_raw(raw), ok, now, ripple);
        }
    }

    #[inline]
    fn count(&self, edge: Edge, ok: bool, now: Time, ripple: &mut Ripple) {
        let word = &self.waits[edge.node() as usize];
        if edge.violated_by(ok) {
            word.fetch_or(VIOLATED, Relaxed);
        }
        // A task is ready when the last of its predecessors ended, and that need not be the one that is counted last.
        let ready_at = &self.ready_at[edge.node() as usize];
        if ready_at.load(Relaxed) < now.0 {
            ready_at.fetch_max(now.0, Relaxed);
        }
        // AcqRel: whoever takes the count to zero sees every VIOLATED set before an earlier decrement, and all that the
        // predecessors wrote.
        let before = word.fetch_sub(1, AcqRel);
        if before & COUNT == 1 {
            self.decide(edge.node(), before & VIOLATED != 0, ripple);
        }
    }

    /// Decides what becomes of a node whose last edge was counted.
    #[inline]
    fn decide(&self, local: u32, violated: bool, ripple: &mut Ripple) {
        let join = match self.part.joins.is_empty() {
            true => None,
            false => self.part.joins.binary_search_by_key(&local, |j| j.0).ok().map(|i| self.part.joins[i].1),
        };
        match join {
            None if !violated => ripple.ready.push(local),
            None => {
                ripple.skipped.push(local);
                ripple.open.push((local, false));
            }
            Some(JoinRule::All) => ripple.open.push((local, !violated)),
            Some(JoinRule::AnyNotOk) => ripple.open.push((local, violated)),
        }
    }

    /// Counts the ends of skipped tasks and joins until nothing more follows from them.
    #[inline]
    fn spread(&self, now: Time, ripple: &mut Ripple) {
        while let Some((local, ok)) = ripple.open.pop() {
            self.waits[local as usize].fetch_or(ENDED, AcqRel);
            self.export(local, ok, ripple);
            self.count_successors(local, ok, now, ripple);
        }
    }

    #[inline]
    fn export(&self, local: u32, ok: bool, ripple: &mut Ripple) {
        let node = self.part.nodes[local as usize];
        ripple.exports.extend(self.part.exports.row(local as usize).iter().map(|&rank| (Rank(rank), node, ok)));
    }
}

fn check(part: &Part) -> Result<(), UnsoundPart> {
    let n = part.nodes.len();
    let ascending = |list: &[u32]| list.windows(2).all(|w| w[0] < w[1]);
    let tables: [(&'static str, bool); 8] = [
        ("nodes", ascending(&part.nodes) && n <= Edge::MASK as usize),
        ("joins", part.joins.windows(2).all(|w| w[0].0 < w[1].0) && part.joins.iter().all(|j| (j.0 as usize) < n)),
        ("urgencies", part.urgency.len() == n),
        ("counts", part.waits.len() == n && part.waits.iter().all(|&w| w <= COUNT)),
        ("skipped tasks", part.violated.iter().all(|&v| (v as usize) < n)),
        ("edges at home", part.local.is_sound(n, Edge::MASK, n as u32)),
        ("edges to other ranks", part.exports.is_sound(n, u32::MAX, u32::MAX)),
        (
            "edges from other ranks",
            ascending(&part.imports) && part.imported.is_sound(part.imports.len(), Edge::MASK, n as u32),
        ),
    ];
    if let Some((name, _)) = tables.iter().find(|t| !t.1) {
        return Err(UnsoundPart(name));
    }
    // Every edge must be counted exactly once, or a count would wrap around.
    let mut inward = vec![0u32; n];
    for &raw in part.local.items().iter().chain(part.imported.items()) {
        inward[Edge::from_raw(raw).node() as usize] += 1;
    }
    if inward != part.waits { Err(UnsoundPart("counts")) } else { Ok(()) }
}
