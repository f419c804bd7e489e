//! The ledgers that items of the pool may name, one per epoch.
//!
//! An item at home carries a task's number in the ledger that it was started from; its tag names
//! that ledger. When homes change the rank gets a new ledger. Items that a slot has taken at that
//! moment still name the one before, so retired ledgers are kept for a while.
//!
//! A run whose homes never change has one ledger, and reading it costs one load. A slot caches the
//! later ledger that it used last, so only a change of ledgers costs it a lock.

use std::collections::VecDeque;
use std::ops::Deref;
use std::sync::atomic::{AtomicU8, AtomicU32, Ordering::Relaxed, Ordering::SeqCst};
use std::sync::{Arc, OnceLock, PoisonError, RwLock};

use crate::schedule::dependency_counts::DependencyCounts;

/// Tags below this name ledgers; they are reused round-robin.
pub(super) const LEDGER_TAGS: u8 = 250;

/// Number of ledgers that are kept besides the first. A slot that sleeps between taking an item and
/// running it, while homes change this often, would lose its ledger. Each change takes a round trip
/// between all ranks.
const MAX_LATER_LEDGERS: usize = 64;

/// All ledgers of a rank that its items may name, and the tag of the current one.
pub(super) struct LedgerEpochs {
    first: OnceLock<Arc<DependencyCounts>>,
    later: RwLock<VecDeque<(u8, Arc<DependencyCounts>)>>,
    /// The tag of items that are started now.
    current: AtomicU8,
    /// Number of ledgers that have been retired.
    retired: AtomicU32,
}

/// The later ledger that a slot used last: its tag, how many had been retired when the slot looked
/// it up, and the ledger.
pub(super) type CachedLedger = Option<(u8, u32, Arc<DependencyCounts>)>;

/// The current ledger, as a caller has found it, and its tag.
#[derive(Clone, Copy)]
pub(super) struct CurrentLedger<'a> {
    pub(super) tag: u8,
    pub(super) ledger: &'a DependencyCounts,
}

/// One ledger, borrowed or shared.
pub(super) enum LedgerRef<'a> {
    First(&'a DependencyCounts),
    Later(Arc<DependencyCounts>),
}

impl Deref for LedgerRef<'_> {
    type Target = DependencyCounts;

    #[inline]
    fn deref(&self) -> &DependencyCounts {
        match self {
            LedgerRef::First(ledger) => ledger,
            LedgerRef::Later(ledger) => ledger,
        }
    }
}

impl LedgerEpochs {
    pub(super) fn new() -> LedgerEpochs {
        LedgerEpochs {
            first: OnceLock::new(),
            later: RwLock::default(),
            current: AtomicU8::new(0),
            retired: AtomicU32::new(0),
        }
    }

    /// The tag of items that are started now. Only the thread that has the engine changes it.
    #[inline]
    pub(super) fn current(&self) -> u8 {
        self.current.load(Relaxed)
    }

    /// Retires the current ledger: no slot counts in it any more by itself. Visible to any thread
    /// that acquires a lock which the caller releases after this call.
    pub(super) fn retire(&self) {
        self.retired.fetch_add(1, Relaxed);
        let next = self.current.load(Relaxed) % (LEDGER_TAGS - 1) + 1;
        self.current.store(next, SeqCst);
    }

    /// Sets the ledger of the current tag.
    pub(super) fn set(&self, ledger: &Arc<DependencyCounts>) {
        let tag = self.current();
        if tag == 0 {
            let _ = self.first.set(Arc::clone(ledger));
            return;
        }
        let mut later = self.later.write().unwrap_or_else(PoisonError::into_inner);
        later.push_front((tag, Arc::clone(ledger)));
        later.truncate(MAX_LATER_LEDGERS);
    }

    /// The ledger of a tag, for a slot with its cache: so slots do not contend for a lock at every
    /// task.
    #[inline]
    pub(super) fn get_cached<'a>(&'a self, tag: u8, cached: &'a mut CachedLedger) -> Option<&'a DependencyCounts> {
        if tag == 0 {
            return self.first.get().map(Arc::as_ref);
        }
        let retired = self.retired.load(Relaxed);
        // Tags are reused; an old entry may be of another ledger with the same tag.
        let is_fresh =
            |(of, then, _): &(u8, u32, _)| *of == tag && retired.wrapping_sub(*then) < u32::from(LEDGER_TAGS) / 2;
        if !cached.as_ref().is_some_and(is_fresh) {
            *cached = self.get_later(tag).map(|ledger| (tag, retired, ledger));
        }
        cached.as_ref().map(|(_, _, ledger)| ledger.as_ref())
    }

    /// The ledger of a tag.
    #[inline]
    pub(super) fn get(&self, tag: u8) -> Option<LedgerRef<'_>> {
        match tag {
            0 => self.first.get().map(|ledger| LedgerRef::First(ledger)),
            _ => self.get_later(tag).map(LedgerRef::Later),
        }
    }

    #[cold]
    fn get_later(&self, tag: u8) -> Option<Arc<DependencyCounts>> {
        let later = self.later.read().unwrap_or_else(PoisonError::into_inner);
        later.iter().find(|(of, _)| *of == tag).map(|(_, ledger)| Arc::clone(ledger))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schedule::dependency_counts::Part;

    fn ledger(node: u32) -> Arc<DependencyCounts> {
        let part = Part {
            nodes: [node].into_iter().collect(),
            urgency: vec![0],
            local: crate::graph::csr::Csr::in_order(1, 0, |_, _| {}),
            exports: crate::graph::csr::Csr::in_order(1, 0, |_, _| {}),
            ..Part::default()
        };
        Arc::new(DependencyCounts::new(part).unwrap())
    }

    #[test]
    fn each_tag_leads_to_its_own_ledger_for_a_while() {
        let epochs = LedgerEpochs::new();
        let (mut tags, mut cached) = (Vec::new(), None);
        for node in 0..600 {
            epochs.set(&ledger(node));
            tags.push(epochs.current());
            let recent = (0..=node).rev().take(MAX_LATER_LEDGERS.min(node as usize + 1));
            for earlier in recent {
                let tag = tags[earlier as usize];
                assert_eq!(epochs.get(tag).unwrap().task(0).0, earlier);
                assert_eq!(epochs.get_cached(tag, &mut cached).unwrap().task(0).0, earlier);
            }
            epochs.retire();
            assert!(epochs.current() > 0 && epochs.current() < LEDGER_TAGS);
        }
        assert_eq!(epochs.get(0).unwrap().task(0).0, 0, "the first is kept");
    }

    #[test]
    fn a_slot_that_slept_for_all_tags_does_not_take_one_ledger_for_another() {
        let (epochs, mut cached) = (LedgerEpochs::new(), None);
        epochs.retire();
        epochs.set(&ledger(7));
        assert_eq!(epochs.get_cached(1, &mut cached).unwrap().task(0).0, 7);
        (1..u32::from(LEDGER_TAGS)).for_each(|_| epochs.retire());
        assert_eq!(epochs.current(), 1, "the tag has come back");
        epochs.set(&ledger(8));
        assert_eq!(epochs.get_cached(1, &mut cached).unwrap().task(0).0, 8);
    }
}
