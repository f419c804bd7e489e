//! When the tasks of one slot began and ended, without a look at the clock for each.
//!
//! A look costs some 30 ns, more than all the rest of a task that does nothing. So:
//!
//! - A task that follows another on its slot without a pause begins when that one ended: one look a task, not two.
//! - While tasks take less than [`SHORT`], only every [`EVERY`]th is followed by a look, and one after which the slot has nothing more of its
//!   own. A task without a look is recorded as having ended when it began; the next one with a look carries the time of all since. Sums over tasks (busy
//!   time of slots and classes) stay exact; the times of single tasks are then those of a sample.
//!
//! A task never begins before it was ready, so no record contradicts the order of dependencies. Only the slot itself touches its stopwatch; it is made of
//! atomics because the pool calls the crew through a shared reference.

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed};

use crate::model::Time;
use crate::runtime::clock::Clock;

/// Tasks that take longer than this on average are all timed.
const SHORT: u64 = 2_000;

/// At most so many short tasks share a look at the clock.
const EVERY: u32 = 16;

/// See the module's text.
#[derive(Default)]
pub(in crate::runtime) struct TaskTimer {
    /// The last look.
    looked: AtomicU64,
    /// Tasks that have ended since.
    since: AtomicU32,
    /// False if the slot has done anything but run tasks since the last look.
    running: AtomicBool,
    /// The last look found short tasks.
    short: AtomicBool,
}

impl TaskTimer {
    /// A task that became ready at `ready` begins.
    #[inline]
    pub(in crate::runtime) fn begin(&self, clock: &Clock, ready: Time) -> Time {
        if !self.running.load(Relaxed) {
            self.look(clock.now());
        }
        Time(self.looked.load(Relaxed).max(ready.0))
    }

    /// A task ends. The time, if it was looked at.
    #[inline]
    pub(in crate::runtime) fn end(&self, clock: &Clock) -> Option<Time> {
        let since = self.since.load(Relaxed) + 1;
        self.since.store(since, Relaxed);
        if self.short.load(Relaxed) && since < EVERY {
            return None;
        }
        Some(self.time(clock))
    }

    /// Looks at the clock on behalf of all tasks that have ended since the last look.
    pub(in crate::runtime) fn time(&self, clock: &Clock) -> Time {
        let now = clock.now();
        let took = now.0.saturating_sub(self.looked.load(Relaxed));
        self.short.store(took < u64::from(self.since.load(Relaxed)) * SHORT, Relaxed);
        self.look(now);
        now
    }

    /// Something else told the time.
    pub(in crate::runtime) fn look(&self, now: Time) {
        self.looked.store(now.0, Relaxed);
        self.since.store(0, Relaxed);
        self.running.store(true, Relaxed);
    }

    /// The slot waits for something.
    pub(in crate::runtime) fn pause(&self) {
        self.running.store(false, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn clock() -> Clock {
        Clock::new(crate::runtime::clock::unix_ns())
    }

    #[test]
    fn a_task_begins_when_the_one_before_it_ended_and_not_before_it_was_ready() {
        let (clock, watch) = (clock(), TaskTimer::default());
        watch.begin(&clock, Time(0));
        let ended = watch.time(&clock);
        assert_eq!(watch.begin(&clock, Time(0)), ended);
        let ready = Time(ended.0 + 1_000_000_000);
        assert_eq!(watch.begin(&clock, ready), ready);
        watch.pause();
        assert!(watch.begin(&clock, Time(0)) > ended);
    }

    #[test]
    fn long_tasks_are_all_timed() {
        let (clock, watch) = (clock(), TaskTimer::default());
        for _ in 0..3 {
            watch.begin(&clock, Time(0));
            std::thread::sleep(std::time::Duration::from_micros(50));
            assert!(watch.end(&clock).is_some());
        }
    }

    #[test]
    fn of_short_tasks_every_sixteenth_is_timed() {
        let (clock, watch) = (clock(), TaskTimer::default());
        watch.begin(&clock, Time(0));
        watch.end(&clock);
        watch.short.store(true, Relaxed);
        let timed: Vec<bool> = (0..EVERY).map(|_| watch.end(&clock).is_some()).collect();
        assert_eq!(timed.iter().position(|&t| t), Some(EVERY as usize - 1));
    }
}
