//! Which running tasks a rank reports to rank 0: those that have been running for about a second.
//!
//! A rank samples its slots at an interval. A task found in the same slot by two samples is
//! reported once, with the next report, as running since the first of them. So short tasks cost
//! nothing, slots are not interrupted, and a rank sends at most one message per sample.

use std::time::Duration;

use super::protocol::Started;
use crate::model::{TaskId, Time};

/// Time between two samples.
pub const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// The same for a rank that joined: it may be lost, and only the tasks that it reported are then
/// known to have run.
pub const GUEST_LOOK_INTERVAL: Duration = Duration::from_millis(250);

/// An attempt found in a slot.
struct Found {
    task: TaskId,
    attempt: u16,
    since: Time,
    is_reported: bool,
}

/// The samples of one rank.
pub struct LongTaskWatch {
    interval: Duration,
    due: Time,
    /// For each slot: the task and attempt found, since when, and whether it was reported.
    seen: Vec<Option<Found>>,
}

impl LongTaskWatch {
    /// Samples at this interval.
    pub fn new(interval: Duration) -> LongTaskWatch {
        LongTaskWatch { interval, due: Time::ZERO, seen: Vec::new() }
    }

    /// True if the next sample is due.
    pub fn is_due(&self, now: Time) -> bool {
        self.due <= now
    }

    /// Samples the task of each slot; returns the tasks to report. `attempt` gives the number of
    /// the attempt that runs here.
    pub fn look(
        &mut self,
        now: Time,
        running: impl Iterator<Item = Option<TaskId>>,
        attempt: impl Fn(TaskId) -> u16,
    ) -> Vec<Started> {
        self.due = now.after(self.interval);
        let mut told = Vec::new();
        for (slot, task) in running.enumerate() {
            if slot == self.seen.len() {
                self.seen.push(None);
            }
            let found = task.map(|task| (task, attempt(task)));
            match (&mut self.seen[slot], found) {
                (Some(before), Some((task, attempt))) if (before.task, before.attempt) == (task, attempt) => {
                    if !std::mem::replace(&mut before.is_reported, true) {
                        told.push(Started { task, attempt, start: before.since });
                    }
                }
                (seen, found) => {
                    *seen = found.map(|(task, attempt)| Found { task, attempt, since: now, is_reported: false });
                }
            }
        }
        told
    }
}

/// When a rank that samples at whole intervals finds a task that starts at `start` for the first
/// and for the second time.
pub fn found_at(start: Time) -> (Time, Time) {
    let interval = LOOK_INTERVAL.as_nanos() as u64;
    let first = Time(start.0.div_ceil(interval).saturating_mul(interval));
    (first, first.after(LOOK_INTERVAL))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_task_is_told_of_once_at_its_second_look() {
        let mut watch = LongTaskWatch::new(LOOK_INTERVAL);
        let s = |seconds: u64| Time(seconds * 1_000_000_000);
        let mut look = |at: u64, slots: [Option<u32>; 2]| {
            assert!(watch.is_due(s(at)) && !watch.is_due(Time(s(at).0.saturating_sub(1))) || at == 0);
            let told = watch.look(s(at), slots.into_iter().map(|task| task.map(TaskId)), |task| task.0 as u16 + 1);
            told.into_iter().map(|t| (t.task.0, t.attempt, t.start)).collect::<Vec<_>>()
        };
        assert_eq!(look(0, [Some(1), None]), []);
        assert_eq!(look(1, [Some(1), Some(2)]), [(1, 2, s(0))]);
        assert_eq!(look(2, [Some(1), Some(3)]), []);
        assert_eq!(look(3, [None, Some(3)]), [(3, 4, s(2))]);
        assert_eq!(look(4, [Some(3), None]), []);
        assert_eq!(look(5, [Some(3), None]), [(3, 4, s(4))]);
    }

    #[test]
    fn the_next_attempt_at_a_task_in_the_same_slot_is_told_of_too() {
        let mut watch = LongTaskWatch::new(LOOK_INTERVAL);
        let mut look = |at: u64, attempt: u16| {
            let told = watch.look(Time(at), std::iter::once(Some(TaskId(4))), |_| attempt);
            told.into_iter().map(|started| (started.attempt, started.start.0)).collect::<Vec<_>>()
        };
        assert_eq!([look(0, 1), look(1, 1), look(2, 1)], [vec![], vec![(1, 0)], vec![]]);
        assert_eq!([look(3, 2), look(4, 2)], [vec![], vec![(2, 3)]]);
    }

    #[test]
    fn a_task_is_found_at_the_next_two_looks() {
        let half = Time(500_000_000);
        assert_eq!(found_at(half), (Time(1_000_000_000), Time(2_000_000_000)));
        assert_eq!(found_at(Time::ZERO), (Time::ZERO, Time(1_000_000_000)));
    }
}
