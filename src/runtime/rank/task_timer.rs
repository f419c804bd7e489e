//! When the tasks of one slot began and ended, with fewer clock readings than tasks.
//!
//! A reading costs some 30 ns, more than everything else about a task that does nothing. So:
//!
//! - A task that follows another on its slot without a pause begins when that one ended: one
//!   reading per task, not two.
//! - While tasks take less than [`SHORT_TASK_NS`] on average, the clock is read only after every
//!   [`TASKS_PER_READING`]th, and after one that leaves the slot without work of its own. A task
//!   without a reading is recorded as having ended when it began, and the next one with a reading
//!   carries the time of all since. Sums over tasks (busy time of slots and classes) stay exact;
//!   the times of single tasks are then those of a sample.
//!
//! A task never begins before it was ready, so no record contradicts the order of dependencies.
//! Only the slot's own thread uses its timer; the fields are atomic because the pool calls the
//! executor through a shared reference.

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed};

use crate::model::Time;
use crate::runtime::clock::Clock;

/// Tasks that take longer than this on average are all timed.
const SHORT_TASK_NS: u64 = 2_000;

/// Short tasks that share one reading of the clock, at most.
const TASKS_PER_READING: u32 = 16;

/// Times the tasks of one slot.
#[derive(Default)]
pub(super) struct TaskTimer {
    /// The last reading, in nanoseconds of the run's clock.
    last_reading: AtomicU64,
    /// Number of tasks that have ended since.
    ended: AtomicU32,
    /// The slot has done nothing but run tasks since the last reading.
    is_running: AtomicBool,
    /// At the last reading, tasks were short.
    is_short: AtomicBool,
}

impl TaskTimer {
    /// A task that became ready at `ready` begins; returns its start.
    #[inline]
    pub(super) fn begin(&self, clock: &Clock, ready: Time) -> Time {
        if !self.is_running.load(Relaxed) {
            self.set(clock.now());
        }
        Time(self.last_reading.load(Relaxed).max(ready.0))
    }

    /// A task ends; returns the time if the clock was read.
    #[inline]
    pub(super) fn end(&self, clock: &Clock) -> Option<Time> {
        let ended = self.ended.load(Relaxed) + 1;
        self.ended.store(ended, Relaxed);
        if self.is_short.load(Relaxed) && ended < TASKS_PER_READING {
            return None;
        }
        Some(self.read(clock))
    }

    /// Reads the clock for all tasks that have ended since the last reading.
    pub(super) fn read(&self, clock: &Clock) -> Time {
        let now = clock.now();
        let took = now.0.saturating_sub(self.last_reading.load(Relaxed));
        self.is_short.store(took < u64::from(self.ended.load(Relaxed)) * SHORT_TASK_NS, Relaxed);
        self.set(now);
        now
    }

    /// Uses a reading that was made for another purpose.
    pub(super) fn set(&self, now: Time) {
        self.last_reading.store(now.0, Relaxed);
        self.ended.store(0, Relaxed);
        self.is_running.store(true, Relaxed);
    }

    /// The slot does something else than run tasks.
    pub(super) fn pause(&self) {
        self.is_running.store(false, Relaxed);
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
        let (clock, timer) = (clock(), TaskTimer::default());
        timer.begin(&clock, Time(0));
        let ended = timer.read(&clock);
        assert_eq!(timer.begin(&clock, Time(0)), ended);
        let ready = Time(ended.0 + 1_000_000_000);
        assert_eq!(timer.begin(&clock, ready), ready);
        timer.pause();
        assert!(timer.begin(&clock, Time(0)) > ended);
    }

    #[test]
    fn long_tasks_are_all_timed() {
        let (clock, timer) = (clock(), TaskTimer::default());
        for _ in 0..3 {
            timer.begin(&clock, Time(0));
            std::thread::sleep(std::time::Duration::from_micros(50));
            assert!(timer.end(&clock).is_some());
        }
    }

    #[test]
    fn of_short_tasks_every_sixteenth_is_timed() {
        let (clock, timer) = (clock(), TaskTimer::default());
        timer.begin(&clock, Time(0));
        timer.end(&clock);
        timer.is_short.store(true, Relaxed);
        let timed: Vec<bool> = (0..TASKS_PER_READING).map(|_| timer.end(&clock).is_some()).collect();
        assert_eq!(timed.iter().position(|&t| t), Some(TASKS_PER_READING as usize - 1));
    }
}
