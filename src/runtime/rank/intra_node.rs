//! Ends that cross ranks of one node without the engine: a slot sends them itself and counts those
//! that have come.
//!
//! The engine's way costs a lock, a worker call, a message and a report's bookkeeping for each end;
//! between tasks of a microsecond that was half of a slot's time. Here a slot writes the same frame
//! of counts straight into the ring of the rank that waits for it, and takes such frames from its
//! own rings between two tasks. Protocol, order and meaning are those of the engine's way:
//!
//! - A frame carries the epoch as its stamp. Slots take only frames of the epoch that they count
//!   in, and only when it is the next in its ring; whatever else is next stays there for the
//!   engine, and all that follows behind it.
//! - Sending and counting happen under the lock of the slot's outbox, and only while the ledger is
//!   that of the present page. Whoever turns the page takes all outboxes afterwards, so nothing is
//!   sent or counted in an epoch that this rank has left.
//!
//! Ranks that share no memory, and everything but ends, go through the engine.

use std::sync::atomic::Ordering::{Acquire, Relaxed};

use super::executor::{Executor, lock};
use super::outbox::Outbox;
use crate::fabric::near::OpenLane;
use crate::fabric::wire;
use crate::pool::Slot;
use crate::schedule::ledger::Ledger;
use crate::schedule::worker::each_destination;

/// At most so many frames are taken at once: the slot has work of its own.
const MAX_FRAMES: usize = 16;

impl Executor {
    /// Sends the ends in a slot's outbox that others wait for, and counts what has come. Ends for
    /// ranks that cannot be reached so stay there. `(tag, ledger)` is the page that the caller
    /// found to be the present one while it held the outbox.
    pub(super) fn pass_on(&self, page: (u8, &Ledger), outbox: &mut Outbox, slot: &mut Slot<'_>) {
        let Some(mut lane) = self.lane.as_ref().and_then(|lane| lane.try_lock()) else { return };
        let epoch = self.epoch.load(Relaxed);
        if !outbox.ripple.exports.is_empty() {
            send_ends(epoch, outbox, &mut lane);
        }
        self.count_arrived(page, epoch, outbox, slot, &mut lane);
    }

    /// Counts ends that have come for this rank. True if the slot has been given work.
    pub(super) fn take_arrived(&self, slot: &mut Slot<'_>) -> bool {
        let Some(lane) = &self.lane else { return false };
        let mut outbox = lock(&self.stations[slot.index()].outbox);
        let tag = self.pages.current();
        let mut kept = lock(&self.stations[slot.index()].page);
        // None until the rank has been handed its tasks in this epoch.
        let Some(ledger) = self.pages.read(tag, &mut kept) else { return false };
        let Some(mut lane) = lane.try_lock() else { return false };
        let epoch = self.epoch.load(Acquire);
        self.count_arrived((tag, ledger), epoch, &mut outbox, slot, &mut lane)
    }

    fn count_arrived(
        &self,
        page: (u8, &Ledger),
        epoch: u32,
        outbox: &mut Outbox,
        slot: &mut Slot<'_>,
        lane: &mut OpenLane<'_>,
    ) -> bool {
        let mut given = false;
        for _ in 0..MAX_FRAMES {
            if !lane.receive(epoch, &mut outbox.frame) {
                break;
            }
            let Some((_, ended)) = wire::counts(&outbox.frame) else { continue };
            let now = self.clock.now();
            self.served(slot.index(), now);
            for (node, end) in ended {
                page.1.import(node, end, now, &mut outbox.ripple);
            }
            given |= !outbox.ripple.ready.is_empty();
            self.release(page, &mut outbox.ripple.ready, Some(slot), &mut outbox.special);
        }
        given
    }
}

/// Sends ends to ranks of this node, a frame for each; the others stay in the outbox.
fn send_ends(epoch: u32, outbox: &mut Outbox, lane: &mut OpenLane<'_>) {
    let Outbox { ripple, frame, sent, .. } = outbox;
    let mut exports = std::mem::take(&mut ripple.exports);
    each_destination(&mut exports, |to, ended| {
        wire::encode_counts(epoch, ended.iter().map(|&(_, node, end)| (node, end)), frame);
        if lane.send(to, epoch, frame) {
            sent.messages += 1;
            sent.bytes += frame.len() as u64;
        } else {
            ripple.exports.extend_from_slice(ended);
        }
    });
    exports.clear();
    if ripple.exports.is_empty() {
        // Kept for its memory.
        ripple.exports = exports;
    }
}
