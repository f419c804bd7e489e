//! Extra slots: threads beyond those of the pool's places, which run items only while they are
//! allowed to.
//!
//! They stay out of the sleep protocol, so that no post counts on them: a slot that finds nothing
//! looks again after a pause of milliseconds. For the same reason they join no collection: what
//! needs several slots, or a GPU, is left to the others. An extra slot counts as engaged before it
//! checks whether the pool is paused, so a paused pool without engaged extra slots starts nothing.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::sync::{AtomicU32, Ordering, fence};

/// First pause of a slot that has found nothing; doubled each time.
const MIN_PAUSE: Duration = Duration::from_micros(500);
/// Longest pause.
const MAX_PAUSE: Duration = Duration::from_millis(8);

/// The extra slots of one pool.
pub(super) struct ExtraSlots {
    /// How many may run items: those of the lowest numbers.
    allowed: AtomicU32,
    /// How many run an item, or look for one.
    engaged: AtomicU32,
    /// How many run an item.
    running: AtomicU32,
    stopped: Mutex<bool>,
    changed: Condvar,
}

impl ExtraSlots {
    pub(super) fn new() -> ExtraSlots {
        ExtraSlots {
            allowed: AtomicU32::new(0),
            engaged: AtomicU32::new(0),
            running: AtomicU32::new(0),
            stopped: Mutex::new(false),
            changed: Condvar::new(),
        }
    }

    /// Number of slots that may run items.
    pub(super) fn allowed(&self) -> u32 {
        self.allowed.load(Ordering::Relaxed)
    }

    /// Number of slots that run items.
    pub(super) fn running(&self) -> u32 {
        self.running.load(Ordering::SeqCst)
    }

    /// True if no slot runs an item or could have taken one before the pool was found paused: then
    /// none starts anything until the pool is resumed.
    pub(super) fn is_quiet(&self) -> bool {
        fence(Ordering::SeqCst);
        self.engaged.load(Ordering::SeqCst) == 0
    }

    /// Calls `run`, which runs an item.
    pub(super) fn counted<C>(&self, core: &mut C, run: impl FnOnce(&mut C)) {
        self.running.fetch_add(1, Ordering::SeqCst);
        run(core);
        self.running.fetch_sub(1, Ordering::SeqCst);
    }

    /// Allows this many slots to run items. Others end what they run.
    pub(super) fn allow(&self, slots: u32) {
        let _stopped = self.lock();
        self.allowed.store(slots, Ordering::Relaxed);
        self.changed.notify_all();
    }

    /// Ends all slots.
    pub(super) fn stop(&self) {
        *self.lock() = true;
        self.changed.notify_all();
    }

    /// Runs the calling slot, the `number`th extra one, until the pool stops. `step` runs one item
    /// if there is any; `rest` is called before the slot waits until it is allowed again.
    pub(super) fn serve<C>(&self, number: u32, core: &mut C, step: impl Fn(&mut C) -> bool, rest: impl Fn(&mut C)) {
        let mut pause = MIN_PAUSE;
        loop {
            // One that has not handed out what it holds does not wait, but looks for an item once
            // more.
            let rests = number >= self.allowed();
            if rests {
                rest(core);
            }
            let mut stopped = self.lock();
            while rests && !*stopped && number >= self.allowed() {
                stopped = self.changed.wait(stopped).unwrap_or_else(PoisonError::into_inner);
            }
            if *stopped {
                return;
            }
            drop(stopped);
            self.engaged.fetch_add(1, Ordering::SeqCst);
            fence(Ordering::SeqCst);
            let found = step(core);
            self.engaged.fetch_sub(1, Ordering::SeqCst);
            if found {
                pause = MIN_PAUSE;
                continue;
            }
            let stopped = self.lock();
            if !*stopped {
                drop(self.changed.wait_timeout(stopped, pause));
            }
            pause = (pause * 2).min(MAX_PAUSE);
        }
    }

    fn lock(&self) -> MutexGuard<'_, bool> {
        self.stopped.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicBool;
    use std::thread;
    use std::time::Instant;

    use super::*;

    /// The number of slots shrinks at any moment of a slot whose items each make another one ready.
    #[test]
    fn no_slot_waits_with_an_item_that_it_has_not_handed_out() {
        let (extra, holds) = (ExtraSlots::new(), AtomicBool::new(false));
        let step = |_: &mut ()| {
            holds.store(true, Ordering::SeqCst);
            true
        };
        let becomes = |wanted: bool| {
            let begun = Instant::now();
            while holds.load(Ordering::SeqCst) != wanted && begun.elapsed() < Duration::from_secs(60) {
                thread::yield_now();
            }
            holds.load(Ordering::SeqCst) == wanted
        };
        let handed_out = thread::scope(|scope| {
            scope.spawn(|| extra.serve(0, &mut (), step, |_| holds.store(false, Ordering::SeqCst)));
            let handed_out = (0..2_000).all(|_| {
                extra.allow(1);
                let began = becomes(true);
                extra.allow(0);
                began && becomes(false)
            });
            extra.stop();
            handed_out
        });
        assert!(handed_out);
    }
}
