//! The sleep protocol: how slots fall asleep and are woken. README.md beside this file explains why
//! no wake-up is lost.
//!
//! This file does not know what work is. Callers make work visible *before* they call
//! [`Sleep::announce`], and pass a closure that returns whether any is visible. All primitives come
//! from `super::sync`, so the model test runs this code unchanged under loom.

use std::sync::PoisonError;

use crossbeam_utils::CachePadded;

use super::sync::{AtomicBool, AtomicU32, Mutex, MutexGuard, Ordering, Thread, current, fence, park};

const SEARCHING: u32 = 1;
const SLEEPING: u32 = 1 << 16;

/// The most slots that the two halves of the counter can count.
pub(super) const MOST_SLOTS: usize = (1 << 16) - 1;

/// The idle slots of one pool.
pub(super) struct Sleep {
    /// How many slots search (low half) and sleep (high half).
    counts: CachePadded<AtomicU32>,
    /// The sleeping slots. Its length is the high half of `counts` whenever the lock is free.
    sleepers: Mutex<Vec<Sleeper>>,
    /// Per slot: it may stop waiting. Set once by the thread that takes it off a list, cleared by
    /// the slot itself.
    woken: Box<[AtomicBool]>,
}

/// A slot that waits, and the thread to wake.
pub(super) struct Sleeper {
    pub(super) slot: usize,
    thread: Thread,
}

impl Sleeper {
    /// The calling thread, as slot `slot`.
    pub(super) fn this(slot: usize) -> Sleeper {
        Sleeper { slot, thread: current() }
    }
}

impl Sleep {
    pub(super) fn new(slots: usize) -> Sleep {
        Sleep {
            counts: CachePadded::new(AtomicU32::new(0)),
            sleepers: Mutex::new(Vec::with_capacity(slots)),
            woken: (0..slots).map(|_| AtomicBool::new(false)).collect(),
        }
    }

    /// Number of idle slots, searching or sleeping.
    pub(super) fn idle(&self) -> u32 {
        let counts = self.counts.load(Ordering::Relaxed);
        searching(counts) + sleeping(counts)
    }

    /// Number of sleeping slots. One that is being woken no longer counts.
    pub(super) fn sleeping(&self) -> u32 {
        sleeping(self.counts.load(Ordering::SeqCst))
    }

    /// Announces `count` pieces of work that are now visible: wakes as many slots near slot `near`
    /// as are not already searching.
    #[inline]
    pub(super) fn announce(&self, near: usize, count: u32) {
        // Orders the work before the read of the counts; the counterpart is in `sleep` and
        // `end_search`.
        fence(Ordering::SeqCst);
        let counts = self.counts.load(Ordering::Relaxed);
        if sleeping(counts) > 0 && searching(counts) < count {
            self.wake(near, count);
        }
    }

    /// The calling slot has no work and starts to search.
    pub(super) fn begin_search(&self) {
        self.counts.fetch_add(SEARCHING, Ordering::SeqCst);
    }

    /// The calling slot stops searching, because it found something or must do something else.
    /// Announcements relied on it while it searched, so the last one to stop checks again whether
    /// another slot is needed.
    pub(super) fn end_search(&self, near: usize, visible: impl FnOnce() -> bool) {
        let before = self.counts.fetch_sub(SEARCHING, Ordering::SeqCst);
        if searching(before) == 1 && sleeping(before) > 0 {
            fence(Ordering::SeqCst);
            if visible() {
                self.wake(near, 1);
            }
        }
    }

    /// The calling slot, which is searching, sleeps until it is woken, unless work is visible. On
    /// return it is searching again. Returns whether it slept.
    pub(super) fn sleep(&self, slot: usize, visible: impl FnOnce() -> bool) -> bool {
        {
            let mut sleepers = self.lock();
            sleepers.push(Sleeper::this(slot));
            self.counts.fetch_add(SLEEPING - SEARCHING, Ordering::SeqCst);
        }
        fence(Ordering::SeqCst);
        if visible() && self.take_back(slot) {
            return false;
        }
        self.wait(slot);
        true
    }

    /// Blocks the calling slot until [`Sleep::release`] is called for it, or if it was called
    /// before.
    pub(super) fn wait(&self, slot: usize) {
        while !self.woken[slot].swap(false, Ordering::Acquire) {
            park();
        }
    }

    /// Releases a waiting slot. Only for a sleeper that the caller took off a list: each is
    /// released once.
    pub(super) fn release(&self, sleeper: &Sleeper) {
        // A swap instead of a store, because loom does not order a store against a concurrent swap.
        self.woken[sleeper.slot].swap(true, Ordering::Release);
        sleeper.thread.unpark();
    }

    /// Wakes all sleeping slots.
    pub(super) fn wake_all(&self) {
        fence(Ordering::SeqCst);
        self.wake(0, u32::MAX);
    }

    /// Wakes sleepers, the nearest first, until `wanted` slots search or none is left.
    #[cold]
    fn wake(&self, near: usize, wanted: u32) {
        while let Some(sleeper) = self.take(near, wanted) {
            self.release(&sleeper);
        }
    }

    /// Takes the nearest sleeper off the list and counts it as searching on its behalf, so that the
    /// next announcement does not wake a second one for the same work.
    fn take(&self, near: usize, wanted: u32) -> Option<Sleeper> {
        let mut sleepers = self.lock();
        if searching(self.counts.load(Ordering::Relaxed)) >= wanted {
            return None;
        }
        let nearest = (0..sleepers.len()).min_by_key(|&i| sleepers[i].slot.abs_diff(near))?;
        self.counts.fetch_sub(SLEEPING - SEARCHING, Ordering::SeqCst);
        Some(sleepers.swap_remove(nearest))
    }

    /// The slot takes itself off the list; false if another thread just did, and will release it.
    fn take_back(&self, slot: usize) -> bool {
        let mut sleepers = self.lock();
        let found = sleepers.iter().position(|s| s.slot == slot);
        if let Some(index) = found {
            sleepers.swap_remove(index);
            self.counts.fetch_sub(SLEEPING - SEARCHING, Ordering::SeqCst);
        }
        found.is_some()
    }

    /// No code that can panic runs under this lock, so a poisoned lock still holds valid data.
    fn lock(&self) -> MutexGuard<'_, Vec<Sleeper>> {
        self.sleepers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn searching(counts: u32) -> u32 {
    counts % SLEEPING
}

fn sleeping(counts: u32) -> u32 {
    counts / SLEEPING
}
