//! Completions that cross ranks of one node without the engine: a slot sends them itself and counts
//! those that have arrived.
//!
//! Through the engine each completion costs a lock, a call of the worker, a message and an entry of
//! a report; with tasks of a microsecond that was half of a slot's time. Here a slot writes the
//! same frame of counts straight into the ring of the rank that waits for it, and takes such frames
//! from its own rings between two tasks. Protocol, order and meaning are those of the engine:
//!
//! - A frame carries the epoch as its stamp. Slots take only frames of the epoch that they count
//!   in, and only when it is the next in its ring. Any other frame stays there for the engine, and
//!   so does everything behind it.
//! - Sending and counting happen under the lock of the slot's outbox, and only while the ledger is
//!   the current one. The engine retires a ledger and then drains all outboxes, so nothing is sent
//!   or counted in an epoch that this rank has left.
//!
//! Ranks that share no memory, and everything but completions, go through the engine.

use std::sync::atomic::Ordering::{Acquire, Relaxed};

use super::ledger_epochs::CurrentLedger;
use super::outbox::Outbox;
use super::shared::{Shared, lock};
use crate::fabric::near::OpenLane;
use crate::fabric::wire;
use crate::pool::Slot;
use crate::schedule::worker::each_destination;

/// Frames taken in one call at most: the slot has work of its own.
const MAX_FRAMES_PER_CALL: usize = 16;

impl Shared {
    /// Sends the completions in a slot's outbox that ranks of this node wait for, and counts those
    /// that have arrived. Completions for other ranks stay in the outbox. `current` must have been
    /// read while the caller held the outbox.
    pub(super) fn exchange_intra_node(&self, current: CurrentLedger<'_>, outbox: &mut Outbox, slot: &mut Slot<'_>) {
        let Some(mut lane) = self.lane.as_ref().and_then(|lane| lane.try_lock()) else { return };
        let epoch = self.epoch.load(Relaxed);
        if !outbox.effects.exports.is_empty() {
            send_completions(epoch, outbox, &mut lane);
        }
        self.count_arrived(current, epoch, outbox, slot, &mut lane);
    }

    /// Counts completions that have arrived from ranks of this node. True if the slot has received
    /// work.
    pub(super) fn receive_intra_node(&self, slot: &mut Slot<'_>) -> bool {
        let Some(lane) = &self.lane else { return false };
        let mut outbox = lock(&self.slots[slot.index()].outbox);
        let tag = self.ledgers.current();
        let mut cached = lock(&self.slots[slot.index()].ledger);
        // None until the rank has been handed its tasks in this epoch.
        let Some(ledger) = self.ledgers.get_cached(tag, &mut cached) else { return false };
        let Some(mut lane) = lane.try_lock() else { return false };
        let epoch = self.epoch.load(Acquire);
        self.count_arrived(CurrentLedger { tag, ledger }, epoch, &mut outbox, slot, &mut lane)
    }

    fn count_arrived(
        &self,
        current: CurrentLedger<'_>,
        epoch: u32,
        outbox: &mut Outbox,
        slot: &mut Slot<'_>,
        lane: &mut OpenLane<'_>,
    ) -> bool {
        let mut has_received_work = false;
        for _ in 0..MAX_FRAMES_PER_CALL {
            if !lane.receive(epoch, &mut outbox.frame) {
                break;
            }
            let Some((_, ended)) = wire::counts(&outbox.frame) else { continue };
            let now = self.clock.now();
            self.slots[slot.index()].timer.set(now);
            for (node, end) in ended {
                current.ledger.import(node, end, now, &mut outbox.effects);
            }
            has_received_work |= !outbox.effects.ready.is_empty();
            self.release(current, &mut outbox.effects.ready, Some(slot), &mut outbox.special);
        }
        has_received_work
    }
}

/// Sends completions to ranks of this node, one frame to each; the others stay in the outbox.
fn send_completions(epoch: u32, outbox: &mut Outbox, lane: &mut OpenLane<'_>) {
    let Outbox { effects, frame, sent, .. } = outbox;
    let mut exports = std::mem::take(&mut effects.exports);
    each_destination(&mut exports, |to, ended| {
        wire::encode_counts(epoch, ended.iter().map(|&(_, node, end)| (node, end)), frame);
        if lane.send(to, epoch, frame) {
            sent.messages += 1;
            sent.bytes += frame.len() as u64;
        } else {
            effects.exports.extend_from_slice(ended);
        }
    });
    exports.clear();
    if effects.exports.is_empty() {
        // Reuses its memory.
        effects.exports = exports;
    }
}
