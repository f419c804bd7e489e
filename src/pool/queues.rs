//! Queues of unconstrained items: one deque per slot and urgency level, and an inbox for items from
//! outside.
//!
//! A slot pushes to and pops from its own deques; other slots steal from them, near ones (same
//! domain) before far ones. Deques are first in, first out, so arrays start in index order. Three
//! sets of levels, one bit per level, accompany them:
//!
//! - the `levels` of a shelf, written by its owner only: set before an item on that level can be
//!   announced, cleared by the owner when it finds the level empty. A set bit may be stale (thieves
//!   emptied the level); a clear bit is always correct;
//! - the `levels` of the inbox: a clear bit is always correct here too, but many threads write
//!   it;
//! - `urgent`, a hint for the whole pool: a slot about to run an item checks it for clearly more
//!   urgent items elsewhere. It may be wrong in both directions, so it decides what runs first but
//!   never whether something runs.
//!
//! A job with a single level pays two reads of cache lines that hardly ever change.

use crossbeam_deque::{Injector, Steal, Stealer, Worker};
use crossbeam_utils::CachePadded;

use super::item::{Item, Packed};
use super::sync::{AtomicU32, Ordering, fence};
use crate::schedule::admission::LEVELS;

/// A slot leaves its own item for another slot's only if that is at least this number of levels
/// more urgent. With 1, slots would trade items constantly, because in most graphs neighbours work
/// on adjacent levels.
const MIN_LEVEL_GAP: u32 = 2;

/// All queues of a pool; shared.
pub(super) struct Queues {
    shelves: Box<[CachePadded<Shelf>]>,
    inbox: CachePadded<Inbox>,
    urgent: CachePadded<AtomicU32>,
}

/// One slot's deques, for other slots.
struct Shelf {
    levels: AtomicU32,
    stealers: [Stealer<Packed>; LEVELS],
}

struct Inbox {
    levels: AtomicU32,
    queues: [Injector<Packed>; LEVELS],
}

/// One slot's deques, for their owner.
pub(super) struct Own {
    slot: usize,
    deques: [Worker<Packed>; LEVELS],
    /// The same bits as in this slot's shelf, without an access to shared memory.
    levels: u32,
    /// The other slots of this slot's domain, then those of other domains.
    victims: Vec<usize>,
    near: usize,
    rng: fastrand::Rng,
    /// Items taken from slots of the same domain, and of others.
    pub(super) stolen_near: u64,
    pub(super) stolen_far: u64,
}

impl Queues {
    /// The shared queues, and each slot's own part. `domains` holds each slot's domain.
    pub(super) fn new(domains: &[u32]) -> (Queues, Vec<Own>) {
        let owns: Vec<Own> = (0..domains.len()).map(|slot| Own::new(slot, domains)).collect();
        let shelf =
            |own: &Own| Shelf { levels: AtomicU32::new(0), stealers: own.deques.each_ref().map(Worker::stealer) };
        let shelves = owns.iter().map(|own| CachePadded::new(shelf(own))).collect();
        let inbox = Inbox { levels: AtomicU32::new(0), queues: std::array::from_fn(|_| Injector::new()) };
        (Queues { shelves, inbox: CachePadded::new(inbox), urgent: CachePadded::new(AtomicU32::new(0)) }, owns)
    }

    /// Puts items into the inbox. They are visible on return, but not announced yet.
    pub(super) fn post(&self, items: &[Item]) {
        let mut levels = 0;
        for item in items {
            self.inbox.queues[item.level() as usize].push(Packed::from(*item));
            levels |= 1 << item.level();
        }
        // Orders the push before the read of the bits; the counterpart is in `Inbox::emptied`.
        fence(Ordering::SeqCst);
        if self.inbox.levels.load(Ordering::Relaxed) & levels != levels {
            self.inbox.levels.fetch_or(levels, Ordering::SeqCst);
        }
        self.hint(levels);
    }

    /// True if any item waits. Never wrongly false for an item whose push happened before.
    pub(super) fn visible(&self) -> bool {
        self.levels() != 0
    }

    /// Levels at which items wait, without stale bits.
    fn levels(&self) -> u32 {
        let on_shelves = self.shelves.iter().map(|shelf| shelf.live_levels());
        on_shelves.fold(self.inbox.live_levels(), |all, levels| all | levels)
    }

    /// The highest level in the inbox.
    pub(super) fn inbox_level(&self) -> Option<u32> {
        self.inbox.live_levels().checked_ilog2()
    }

    /// Approximate number of waiting items.
    pub(super) fn len(&self) -> usize {
        let shelved: usize = self.shelves.iter().map(|shelf| shelf.len()).sum();
        shelved + bits(self.inbox.levels.load(Ordering::Relaxed)).map(|l| self.inbox.queues[l].len()).sum::<usize>()
    }

    /// Takes out up to `most` items, the most urgent first; from the inbox before the slots, which
    /// have started on theirs.
    pub(super) fn take_out(&self, most: usize) -> Vec<Item> {
        let mut out = Vec::new();
        for level in bits(self.levels()) {
            let from_inbox = std::iter::from_fn(|| self.inbox.take(level));
            let from_slots =
                self.shelves.iter().flat_map(|s| std::iter::from_fn(move || retried(|| s.stealers[level].steal())));
            out.extend(from_inbox.chain(from_slots).take(most - out.len()).map(Item::from));
        }
        out
    }

    /// Takes out all items, the most urgent first, and by arrival within one urgency.
    pub(super) fn take_all(&self) -> Vec<Item> {
        let mut out = Vec::new();
        for level in bits(self.levels()) {
            let from_slots =
                self.shelves.iter().flat_map(|s| std::iter::from_fn(move || retried(|| s.stealers[level].steal())));
            let from_inbox = std::iter::from_fn(|| self.inbox.take(level));
            out.extend(from_slots.chain(from_inbox).map(Item::from));
        }
        out
    }

    fn hint(&self, levels: u32) {
        if self.urgent.load(Ordering::Relaxed) & levels != levels {
            self.urgent.fetch_or(levels, Ordering::Relaxed);
        }
    }

    /// Clears the hint at levels where nothing was found, unless items have arrived meanwhile.
    fn unhint(&self, levels: u32) {
        self.urgent.fetch_and(!levels, Ordering::Relaxed);
        self.hint(self.levels() & levels);
    }
}

impl Shelf {
    fn has(&self, level: usize) -> bool {
        self.levels.load(Ordering::Acquire) >> level & 1 == 1
    }

    fn live_levels(&self) -> u32 {
        let live = bits(self.levels.load(Ordering::Acquire)).filter(|&level| !self.stealers[level].is_empty());
        live.fold(0, |levels, level| levels | 1 << level)
    }

    fn len(&self) -> usize {
        bits(self.levels.load(Ordering::Acquire)).map(|level| self.stealers[level].len()).sum()
    }
}

impl Inbox {
    fn live_levels(&self) -> u32 {
        let live = bits(self.levels.load(Ordering::Acquire)).filter(|&level| !self.queues[level].is_empty());
        live.fold(0, |levels, level| levels | 1 << level)
    }

    fn has(&self, level: usize) -> bool {
        self.levels.load(Ordering::Acquire) >> level & 1 == 1
    }

    fn take(&self, level: usize) -> Option<Packed> {
        self.look(level, || self.queues[level].steal())
    }

    fn look(&self, level: usize, steal: impl FnMut() -> Steal<Packed>) -> Option<Packed> {
        if !self.has(level) {
            return None;
        }
        let found = retried(steal);
        if found.is_none() {
            self.emptied(level);
        }
        found
    }

    /// Clears the bit of a level that was found empty, and sets it again if an item arrived
    /// meanwhile. Of this read of the queue and a pusher that still saw the bit set, one comes
    /// after the other's fence.
    fn emptied(&self, level: usize) {
        self.levels.fetch_and(!(1 << level), Ordering::SeqCst);
        fence(Ordering::SeqCst);
        if !self.queues[level].is_empty() {
            self.levels.fetch_or(1 << level, Ordering::SeqCst);
        }
    }
}

impl Own {
    fn new(slot: usize, domains: &[u32]) -> Own {
        let others = || (0..domains.len()).filter(|&other| other != slot);
        let is_near = |other: &usize| domains[*other] == domains[slot];
        let mut victims: Vec<usize> = others().filter(is_near).collect();
        let near = victims.len();
        victims.extend(others().filter(|other| !is_near(other)));
        Own {
            slot,
            deques: std::array::from_fn(|_| Worker::new_fifo()),
            levels: 0,
            victims,
            near,
            rng: fastrand::Rng::with_seed(slot as u64),
            stolen_near: 0,
            stolen_far: 0,
        }
    }

    /// Puts an item on this slot's shelf. It is visible on return, but not announced yet.
    pub(super) fn push(&mut self, queues: &Queues, item: Packed) {
        let level = item.level();
        self.deques[level as usize].push(item);
        self.show(queues, level);
    }

    /// True if `item`, which this slot is about to run, must yield to another item.
    #[inline]
    pub(super) fn outranks(&self, queues: &Queues, item: Packed) -> bool {
        let level = item.level();
        self.levels >> (level + 1) != 0 || queues.urgent.load(Ordering::Relaxed) >> (level + MIN_LEVEL_GAP) != 0
    }

    /// The highest level that this slot may have items on.
    pub(super) fn level(&self) -> Option<u32> {
        self.levels.checked_ilog2()
    }

    /// The next item of this slot's own, or a clearly more urgent one from elsewhere.
    #[inline]
    pub(super) fn pop(&mut self, queues: &Queues) -> Option<Packed> {
        while let Some(level) = self.level() {
            let higher = queues.urgent.load(Ordering::Relaxed) >> (level + MIN_LEVEL_GAP) << (level + MIN_LEVEL_GAP);
            if higher != 0
                && let Some(item) = self.fetch(queues, higher)
            {
                return Some(item);
            }
            if let Some(item) = self.deques[level as usize].pop() {
                return Some(item);
            }
            self.levels &= !(1 << level);
            queues.shelves[self.slot].levels.store(self.levels, Ordering::Release);
        }
        None
    }

    /// For a slot that has no items and is counted as searching: takes the most urgent item that
    /// waits anywhere, and moves a batch of others to this slot. The batch is invisible while it
    /// moves, so only a searching slot may do this: it checks again for sleepers to wake when it
    /// stops searching.
    pub(super) fn steal(&mut self, queues: &Queues) -> Option<Packed> {
        for level in bits(queues.levels()) {
            let dest = &self.deques[level];
            let found = queues.inbox.look(level, || queues.inbox.queues[level].steal_batch_and_pop(dest));
            let found = found.or_else(|| self.rob(queues, level, true));
            if found.is_some() {
                if !self.deques[level].is_empty() {
                    self.show(queues, level as u32);
                }
                return found;
            }
        }
        None
    }

    /// For a slot that is not counted as searching: takes the most urgent item that waits anywhere,
    /// without a batch.
    pub(super) fn take_one(&mut self, queues: &Queues) -> Option<Packed> {
        self.fetch(queues, queues.levels())
    }

    /// For a slot with items of its own: takes one item of the given levels from elsewhere, without
    /// a batch.
    #[cold]
    fn fetch(&mut self, queues: &Queues, levels: u32) -> Option<Packed> {
        let found = bits(levels).find_map(|level| queues.inbox.take(level).or_else(|| self.rob(queues, level, false)));
        if found.is_none() {
            queues.unhint(levels);
        }
        found
    }

    /// Tries the other slots, near ones first, each group from a random start.
    fn rob(&mut self, queues: &Queues, level: usize, batch: bool) -> Option<Packed> {
        let (near, far) = self.victims.split_at(self.near);
        for (group, stolen) in [(near, &mut self.stolen_near), (far, &mut self.stolen_far)] {
            let start = if group.len() > 1 { self.rng.usize(..group.len()) } else { 0 };
            for &victim in group[start..].iter().chain(&group[..start]) {
                let shelf = &queues.shelves[victim];
                if !shelf.has(level) {
                    continue;
                }
                let stealer = &shelf.stealers[level];
                let dest = &self.deques[level];
                let found = retried(|| if batch { stealer.steal_batch_and_pop(dest) } else { stealer.steal() });
                if found.is_some() {
                    *stolen += 1;
                    return found;
                }
            }
        }
        None
    }

    fn show(&mut self, queues: &Queues, level: u32) {
        if self.levels >> level & 1 == 0 {
            self.levels |= 1 << level;
            queues.shelves[self.slot].levels.store(self.levels, Ordering::Release);
        }
        queues.hint(1 << level);
    }
}

/// Levels in a set, the highest first.
fn bits(mut levels: u32) -> impl Iterator<Item = usize> {
    std::iter::from_fn(move || {
        let level = levels.checked_ilog2()?;
        levels &= !(1 << level);
        Some(level as usize)
    })
}

/// Retries a steal that lost a race: another thread succeeded, so this ends.
fn retried<T>(mut steal: impl FnMut() -> Steal<T>) -> Option<T> {
    loop {
        match steal() {
            Steal::Success(found) => return Some(found),
            Steal::Empty => return None,
            Steal::Retry => std::hint::spin_loop(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn item(task: u32, urgency: u8) -> Item {
        Item { task, urgency, tag: 0, constrained: false }
    }

    fn packed(task: u32, urgency: u8) -> Packed {
        item(task, urgency).into()
    }

    fn task(item: Option<Packed>) -> Option<u32> {
        item.map(|packed| Item::from(packed).task)
    }

    fn tasks(mut from: impl FnMut() -> Option<Packed>) -> Vec<u32> {
        std::iter::from_fn(|| task(from())).collect()
    }

    #[test]
    fn a_slot_takes_its_most_urgent_first_and_keeps_order_within_a_level() {
        let (queues, mut owns) = Queues::new(&[0]);
        for (task, urgency) in [(0, 3), (1, 9), (2, 3), (3, 200)] {
            owns[0].push(&queues, packed(task, urgency));
        }
        assert_eq!(tasks(|| owns[0].pop(&queues)), [3, 1, 0, 2]);
        assert!(!queues.visible());
    }

    #[test]
    fn a_slot_leaves_its_own_work_only_for_clearly_more_urgent_work() {
        let (queues, mut owns) = Queues::new(&[0, 0]);
        owns[0].push(&queues, packed(0, 5));
        owns[1].push(&queues, packed(1, 6));
        owns[1].push(&queues, packed(2, 7));
        let taken: Vec<_> = (0..2).map(|_| task(owns[0].pop(&queues))).collect();
        assert_eq!(taken, [Some(2), Some(0)]);
        assert_eq!(owns[0].pop(&queues), None);
        assert_eq!(task(owns[1].pop(&queues)), Some(1));
    }

    #[test]
    fn a_hint_that_leads_nowhere_is_taken_back() {
        let (queues, mut owns) = Queues::new(&[0, 0]);
        owns[1].push(&queues, packed(1, 9));
        assert_eq!(task(owns[1].pop(&queues)), Some(1));
        owns[0].push(&queues, packed(0, 0));
        assert!(owns[0].outranks(&queues, packed(0, 0)));
        assert_eq!(task(owns[0].pop(&queues)), Some(0));
        assert!(!owns[0].outranks(&queues, packed(0, 0)));
    }

    #[test]
    fn near_slots_are_robbed_before_far_ones() {
        let (queues, mut owns) = Queues::new(&[0, 0, 1, 1]);
        owns[2].push(&queues, packed(2, 0));
        owns[1].push(&queues, packed(1, 0));
        assert_eq!(task(owns[0].steal(&queues)), Some(1));
        assert_eq!(task(owns[0].steal(&queues)), Some(2));
        assert_eq!((owns[0].stolen_near, owns[0].stolen_far), (1, 1));
    }

    #[test]
    fn the_inbox_keeps_order_and_urgency() {
        let (queues, mut owns) = Queues::new(&[0]);
        let posted: Vec<_> = (0..200).map(|i| item(i, 1)).chain([item(999, 8)]).collect();
        queues.post(&posted);
        let own = &mut owns[0];
        let all = tasks(|| own.pop(&queues).or_else(|| own.steal(&queues)));
        assert_eq!(all[0], 999);
        assert_eq!(all[1..], (0..200).collect::<Vec<_>>());
        assert!(!queues.visible());
    }

    #[test]
    fn items_are_taken_out_most_urgent_first_up_to_the_number_asked_for() {
        let (queues, mut owns) = Queues::new(&[0, 1]);
        owns[0].push(&queues, packed(0, 1));
        owns[1].push(&queues, packed(1, 2));
        queues.post(&[item(2, 1), item(3, 3)]);
        assert_eq!(queues.len(), 4);
        let out: Vec<_> = queues.take_out(3).iter().map(|i| i.task).collect();
        assert_eq!(out, [3, 1, 2]);
        assert_eq!(queues.take_out(9).len(), 1);
        assert!(queues.take_out(9).is_empty());
    }
}
