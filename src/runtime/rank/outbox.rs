//! What belongs to one slot, and what it leaves there for the engine.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};

use super::ledger_epochs::CachedLedger;
use super::task_timer::TaskTimer;
use crate::model::{Attempt, SetAside};
use crate::schedule::dependency_counts::CompletionEffects;

/// The state of one slot. Only its own thread uses it, but for the outbox, which the engine drains.
#[derive(Default)]
pub(super) struct SlotState {
    pub(super) outbox: Mutex<Outbox>,
    pub(super) timer: TaskTimer,
    /// The later ledger that its items named last, if homes have changed.
    pub(super) ledger: Mutex<CachedLedger>,
    /// When the slot last drove the engine, in nanoseconds of the run's clock.
    pub(super) last_exchange_ns: AtomicU64,
    /// Tasks that have completed since the slot last polled the rings of its node.
    completed: AtomicU32,
    /// Number of times that the slot was asked to poll for work since it last ran a task.
    pub(super) starving_calls: AtomicU32,
}

impl SlotState {
    /// Counts a completed task. True for every `tasks`-th one.
    #[inline]
    pub(super) fn is_poll_due(&self, tasks: u32) -> bool {
        let completed = self.completed.load(Relaxed) + 1;
        self.completed.store(if completed >= tasks { 0 } else { completed }, Relaxed);
        completed >= tasks
    }
}

/// What a slot leaves for the engine.
#[derive(Default)]
pub(super) struct Outbox {
    /// Attempts that the slot has counted in the ledger by itself.
    pub(super) attempts: Vec<Attempt>,
    /// What followed from them for other ranks.
    pub(super) effects: CompletionEffects,
    /// Tasks (local numbers) that became ready and may need more than this rank.
    pub(super) special: Vec<u32>,
    /// Attempts whose consequences the engine decides.
    pub(super) ended: Vec<Attempt>,
    /// Gangs, and what is set aside for them.
    pub(super) held: Vec<(u32, SetAside)>,
    /// Gangs led from here whose task has ended, and its attempt.
    pub(super) gang_ended: Vec<(u32, Attempt)>,
    /// Gangs of whose operation the share here has ended.
    pub(super) shares_ended: Vec<u32>,
    /// What the slot has sent by itself since the engine last drained this outbox.
    pub(super) sent: Traffic,
    /// Buffer of the frame that the slot sends or receives.
    pub(super) frame: Vec<u8>,
}

/// Messages to other ranks.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Traffic {
    pub(super) messages: u64,
    pub(super) bytes: u64,
}

impl Traffic {
    /// Adds what another sender has sent.
    pub(super) fn add(&mut self, sent: Traffic) {
        self.messages += sent.messages;
        self.bytes += sent.bytes;
    }
}

impl Outbox {
    pub(super) fn is_empty(&self) -> bool {
        self.attempts.is_empty() && self.effects.is_empty() && self.is_plain()
    }

    /// True if another rank, or a task that may need several ranks, waits for something in it.
    #[inline]
    pub(super) fn is_awaited(&self) -> bool {
        !self.effects.exports.is_empty() || !self.special.is_empty() || !self.effects.skipped.is_empty()
    }

    /// True if it holds nothing but completed attempts and what followed from them.
    pub(super) fn is_plain(&self) -> bool {
        let gangs = self.held.is_empty() && self.gang_ended.is_empty() && self.shares_ended.is_empty();
        self.special.is_empty() && self.ended.is_empty() && gangs
    }
}
