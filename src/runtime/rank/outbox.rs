//! What belongs to one slot, and what it leaves there for the engine.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};

use super::ledger_epochs::Kept;
use super::task_timer::TaskTimer;
use crate::model::Attempt;
use crate::schedule::ledger::Ripple;

/// What belongs to one slot.
#[derive(Default)]
pub(super) struct SlotState {
    pub(super) outbox: Mutex<Outbox>,
    pub(super) watch: TaskTimer,
    /// The ledger that its tasks speak of, if homes have changed.
    pub(super) page: Mutex<Kept>,
    /// When the slot last drove the engine.
    pub(super) served: AtomicU64,
    /// How many tasks have ended since it looked for counts.
    ends: AtomicU32,
    /// How often it has been asked to look for work since it last ran any.
    pub(super) polls: AtomicU32,
}

impl SlotState {
    /// True for every so many-th task that ends.
    #[inline]
    pub(super) fn is_look_due(&self, tasks: u32) -> bool {
        let ends = self.ends.load(Relaxed) + 1;
        self.ends.store(if ends >= tasks { 0 } else { ends }, Relaxed);
        ends >= tasks
    }
}

/// What a slot leaves for the engine.
#[derive(Default)]
pub(in crate::runtime) struct Outbox {
    /// Tasks that completed on the fast path.
    pub(in crate::runtime) attempts: Vec<Attempt>,
    /// What followed from them for other ranks.
    pub(in crate::runtime) ripple: Ripple,
    /// Tasks that became ready and may need more than this rank.
    pub(in crate::runtime) special: Vec<u32>,
    /// Attempts that the engine decides about.
    pub(in crate::runtime) ended: Vec<Attempt>,
    /// Gangs whose slots are set aside, and the CPUs of those.
    pub(in crate::runtime) held: Vec<(u32, Vec<u32>)>,
    /// Gangs led from here whose task has ended, and how.
    pub(in crate::runtime) gang_ended: Vec<(u32, Attempt)>,
    /// What the slot has sent by itself since the engine last asked.
    pub(in crate::runtime) sent: Traffic,
    /// The frame that the slot sends or takes; kept for its memory.
    pub(super) frame: Vec<u8>,
}

/// Messages to other ranks.
#[derive(Clone, Copy, Debug, Default)]
pub(in crate::runtime) struct Traffic {
    pub(in crate::runtime) messages: u64,
    pub(in crate::runtime) bytes: u64,
}

impl Outbox {
    pub(in crate::runtime) fn is_empty(&self) -> bool {
        self.attempts.is_empty() && self.ripple.is_empty() && self.is_plain()
    }

    /// True if others wait for something in it.
    #[inline]
    pub(super) fn is_awaited(&self) -> bool {
        !self.ripple.exports.is_empty() || !self.special.is_empty() || !self.ripple.skipped.is_empty()
    }

    /// True if it holds nothing but what completed and what followed from that.
    pub(in crate::runtime) fn is_plain(&self) -> bool {
        self.special.is_empty() && self.ended.is_empty() && self.held.is_empty() && self.gang_ended.is_empty()
    }
}
