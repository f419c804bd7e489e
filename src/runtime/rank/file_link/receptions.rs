//! What rank 0 takes in of attempts on ranks that do not see the run directory.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::model::{Rank, TaskId};

/// An attempt on a rank.
pub(in crate::runtime::rank) type AttemptOf = (Rank, TaskId, u16);

/// What is being taken in; a flag is set when it is not to be put in place any more.
#[derive(Default)]
pub(super) struct Receptions {
    running: Mutex<HashMap<AttemptOf, Arc<AtomicBool>>>,
}

impl Receptions {
    fn running(&self) -> MutexGuard<'_, HashMap<AttemptOf, Arc<AtomicBool>>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins to take in what an attempt has left.
    pub(super) fn begin(self: &Arc<Self>, of: AttemptOf, is_gone: bool) -> Reception {
        let is_given_up = Arc::new(AtomicBool::new(is_gone));
        self.running().insert(of, Arc::clone(&is_given_up));
        Reception { receptions: Arc::clone(self), of, is_given_up }
    }

    /// What an attempt has left is not to be put in place any more.
    pub(super) fn end(&self, of: AttemptOf) {
        self.running().get(&of).into_iter().for_each(|is_given_up| is_given_up.store(true, Relaxed));
    }

    /// The same for what these ranks have left.
    pub(super) fn lose(&self, gone: &HashSet<Rank>) {
        let running = self.running();
        let of_gone = running.iter().filter(|((rank, ..), _)| gone.contains(rank));
        of_gone.for_each(|(_, is_given_up)| is_given_up.store(true, Relaxed));
    }

    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.running().is_empty()
    }
}

/// What rank 0 takes in of an attempt, until it is dropped.
pub(in crate::runtime::rank) struct Reception {
    receptions: Arc<Receptions>,
    pub(in crate::runtime::rank) of: AttemptOf,
    /// It is not to be put in place any more.
    pub(in crate::runtime::rank) is_given_up: Arc<AtomicBool>,
}

impl Drop for Reception {
    fn drop(&mut self) {
        self.receptions.running().remove(&self.of);
    }
}
