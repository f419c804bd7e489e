//! The rings of a rank for use by its slots, without the engine.

use std::sync::{Arc, Mutex, MutexGuard, TryLockError};

use super::NearRanks;
use crate::fabric::shared_ring::MAX_LABEL;
use crate::model::Rank;

/// The rings of a rank for use by its slots, without the engine: for frames that any slot may send
/// and receive.
pub struct NearLane {
    ranks: Arc<Mutex<NearRanks>>,
    /// Number of the world's first rank within the run.
    first: Rank,
}

impl NearLane {
    /// Makes the lane of a world whose first rank has the number `first` in the run.
    pub fn new(ranks: Arc<Mutex<NearRanks>>, first: Rank) -> NearLane {
        NearLane { ranks, first }
    }

    /// Returns the lane with another number for the world's first rank.
    pub fn renumbered(self, first: Rank) -> NearLane {
        NearLane { first, ..self }
    }

    /// Locks the rings, unless another thread holds them.
    #[inline]
    pub fn try_lock(&self) -> Option<OpenLane<'_>> {
        let ranks = match self.ranks.try_lock() {
            Ok(ranks) => ranks,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => return None,
        };
        Some(OpenLane { ranks, first: self.first })
    }
}

/// A locked [`NearLane`].
pub struct OpenLane<'a> {
    ranks: MutexGuard<'a, NearRanks>,
    first: Rank,
}

impl OpenLane<'_> {
    /// Sends a small frame that slots with the same stamp may receive. Returns false if the rank
    /// cannot be reached through shared memory.
    #[inline]
    pub fn send(&mut self, to: Rank, stamp: u32, frame: &[u8]) -> bool {
        match to.0.checked_sub(self.first.0) {
            Some(to) if (to as usize) < self.ranks.peers.len() => self.ranks.send(Rank(to), label_of(stamp), frame),
            _ => false,
        }
    }

    /// Replaces the content of `frame` with the next frame that carries this stamp. Returns false
    /// if no ring has one as its next frame. The engine reports damaged rings.
    #[inline]
    pub fn receive(&mut self, stamp: u32, frame: &mut Vec<u8>) -> bool {
        self.ranks.receive_labelled(label_of(stamp), frame).is_ok_and(|from| from.is_some())
    }
}

/// Labels from here on are stamps; lower labels belong to the fabric.
const FIRST_STAMP_LABEL: u32 = 1 << 8;

/// Stamps repeat after 2^29; no frame of the earlier use is under way by then.
fn label_of(stamp: u32) -> u32 {
    FIRST_STAMP_LABEL + stamp % (MAX_LABEL / 2)
}
