//! The ledgers that items of the pool may speak of.
//!
//! An item at home carries a number of the ledger that it was started from, and its tag says which ledger that is. When homes change
//! the rank gets a new ledger; items that a slot has in its hands at that moment still speak of the one before, so it is kept for a while.
//!
//! A run whose homes never change has one ledger, and reading it costs a load. Slots keep the later one that they are at; only to find
//! it costs a lock.

use std::collections::VecDeque;
use std::ops::Deref;
use std::sync::atomic::{AtomicU8, AtomicU32, Ordering::Relaxed, Ordering::SeqCst};
use std::sync::{Arc, OnceLock, PoisonError, RwLock};

use crate::schedule::ledger::Ledger;

/// Tags below this are pages; they are given out again and again.
pub(in crate::runtime) const PAGES: u8 = 250;

/// So many ledgers are kept behind the first. A slot that sleeps between taking an item and running it for as many changes of homes
/// would find its page gone; each change takes a round trip between all ranks.
const KEPT: usize = 64;

/// See the module's text.
pub(in crate::runtime) struct LedgerEpochs {
    first: OnceLock<Arc<Ledger>>,
    later: RwLock<VecDeque<(u8, Arc<Ledger>)>>,
    /// The page that items are started from.
    current: AtomicU8,
    /// How many pages have been turned.
    turns: AtomicU32,
}

/// What a slot keeps: a page by its tag, how many had been turned when it looked that up, and the ledger.
pub(in crate::runtime) type Kept = Option<(u8, u32, Arc<Ledger>)>;

/// One ledger, borrowed or shared.
pub(in crate::runtime) enum Page<'a> {
    First(&'a Ledger),
    Later(Arc<Ledger>),
}

impl Deref for Page<'_> {
    type Target = Ledger;

    #[inline]
    fn deref(&self) -> &Ledger {
        match self {
            Page::First(ledger) => ledger,
            Page::Later(ledger) => ledger,
        }
    }
}

impl LedgerEpochs {
    pub(in crate::runtime) fn new() -> LedgerEpochs {
        LedgerEpochs {
            first: OnceLock::new(),
            later: RwLock::default(),
            current: AtomicU8::new(0),
            turns: AtomicU32::new(0),
        }
    }

    /// The tag of items that are started now.
    #[inline]
    pub(in crate::runtime) fn current(&self) -> u8 {
        self.current.load(Relaxed)
    }

    /// No item of the present page is counted by its slot from now on. Who takes a lock after this that the caller had afterwards sees it.
    pub(in crate::runtime) fn turn(&self) {
        self.turns.fetch_add(1, Relaxed);
        let next = self.current.load(Relaxed) % (PAGES - 1) + 1;
        self.current.store(next, SeqCst);
    }

    /// Writes the ledger on the present page.
    pub(in crate::runtime) fn write(&self, ledger: &Arc<Ledger>) {
        let tag = self.current();
        if tag == 0 {
            let _ = self.first.set(Arc::clone(ledger));
            return;
        }
        let mut later = self.later.write().unwrap_or_else(PoisonError::into_inner);
        later.push_front((tag, Arc::clone(ledger)));
        later.truncate(KEPT);
    }

    /// The ledger that items with this tag speak of, for a slot, which keeps the later one that it had last: so that slots do not meet at
    /// a lock for every task.
    #[inline]
    pub(in crate::runtime) fn read<'a>(&'a self, tag: u8, kept: &'a mut Kept) -> Option<&'a Ledger> {
        if tag == 0 {
            return self.first.get().map(Arc::as_ref);
        }
        let turns = self.turns.load(Relaxed);
        // Tags come back; what was kept for long may be of another page with this tag.
        let same = |(of, then, _): &(u8, u32, _)| *of == tag && turns.wrapping_sub(*then) < u32::from(PAGES) / 2;
        if !kept.as_ref().is_some_and(same) {
            *kept = self.turned(tag).map(|ledger| (tag, turns, ledger));
        }
        kept.as_ref().map(|(_, _, ledger)| ledger.as_ref())
    }

    /// The ledger that items with this tag speak of.
    #[inline]
    pub(in crate::runtime) fn page(&self, tag: u8) -> Option<Page<'_>> {
        match tag {
            0 => self.first.get().map(|ledger| Page::First(ledger)),
            _ => self.turned(tag).map(Page::Later),
        }
    }

    #[cold]
    fn turned(&self, tag: u8) -> Option<Arc<Ledger>> {
        let later = self.later.read().unwrap_or_else(PoisonError::into_inner);
        later.iter().find(|(of, _)| *of == tag).map(|(_, ledger)| Arc::clone(ledger))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schedule::ledger::Part;

    fn ledger(node: u32) -> Arc<Ledger> {
        let part = Part {
            nodes: [node].into_iter().collect(),
            urgency: vec![0],
            local: crate::graph::csr::Csr::in_order(1, 0, |_, _| {}),
            exports: crate::graph::csr::Csr::in_order(1, 0, |_, _| {}),
            ..Part::default()
        };
        Arc::new(Ledger::new(part).unwrap())
    }

    #[test]
    fn each_tag_leads_to_its_own_ledger_for_a_while() {
        let pages = LedgerEpochs::new();
        let (mut tags, mut kept) = (Vec::new(), None);
        for node in 0..600 {
            pages.write(&ledger(node));
            tags.push(pages.current());
            let recent = (0..=node).rev().take(KEPT.min(node as usize + 1));
            for earlier in recent {
                let tag = tags[earlier as usize];
                assert_eq!(pages.page(tag).unwrap().task(0).0, earlier);
                assert_eq!(pages.read(tag, &mut kept).unwrap().task(0).0, earlier);
            }
            pages.turn();
            assert!(pages.current() > 0 && pages.current() < PAGES);
        }
        assert_eq!(pages.page(0).unwrap().task(0).0, 0, "the first is kept");
    }

    #[test]
    fn a_slot_that_slept_for_all_tags_does_not_take_one_page_for_another() {
        let (pages, mut kept) = (LedgerEpochs::new(), None);
        pages.turn();
        pages.write(&ledger(7));
        assert_eq!(pages.read(1, &mut kept).unwrap().task(0).0, 7);
        (1..u32::from(PAGES)).for_each(|_| pages.turn());
        assert_eq!(pages.current(), 1, "the tag has come back");
        pages.write(&ledger(8));
        assert_eq!(pages.read(1, &mut kept).unwrap().task(0).0, 8);
    }
}
