//! `retries`: what happens after a failure, and what a further attempt asks for.

use std::ops::Deref;
use std::time::Duration;

use crate::model::Shortfalls;

/// Upper limit on the growth of the wait between attempts, as a factor of the first wait.
const MAX_WAIT_GROWTH: f64 = 1e6;

/// Upper limit on the wait, unless the job file asks for more.
const MAX_RETRY_WAIT: Duration = Duration::from_secs(24 * 3600);

/// Memory that a task with `memory = "auto"` starts with before a run has shown what it uses.
pub const DEFAULT_AUTO_MEMORY: u64 = 1 << 30;

/// Growth of the request of a task with `memory = "auto"`, unless its `memory_factor` says
/// otherwise.
pub const AUTO_MEMORY_FACTOR: f64 = 1.5;

/// Number of attempts after OUT_OF_MEMORY that a task with `memory = "auto"` has beside its
/// `retries`. The last of them asks for all memory of its node.
const AUTO_ATTEMPTS: u8 = 3;

/// `retries`, with its options.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Retry {
    /// Number of further attempts.
    pub count: u16,
    /// Delay before the first further attempt.
    pub backoff: Duration,
    /// The delay is multiplied by this factor with each attempt.
    pub factor: f64,
    /// Retry on another rank if there is one.
    pub elsewhere: bool,
    /// After OUT_OF_MEMORY the next attempt asks for this many times the memory.
    pub memory_factor: f64,
    /// After TIMEOUT the next attempt may take this many times as long.
    pub time_factor: f64,
    /// `memory = "auto"`: attempts after OUT_OF_MEMORY do not use up `count` until one has asked
    /// for all memory of its node.
    pub auto_memory: bool,
    /// How many of the attempts that `auto_memory` allows earlier sessions have used up.
    pub auto_used: u8,
}

/// The retries of a group. Most have none, so that takes no memory of its own.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct GroupRetry(Option<Box<Retry>>);

impl From<Retry> for GroupRetry {
    fn from(retry: Retry) -> GroupRetry {
        GroupRetry((retry != Retry::NONE).then(|| Box::new(retry)))
    }
}

impl Deref for GroupRetry {
    type Target = Retry;

    fn deref(&self) -> &Retry {
        self.0.as_deref().unwrap_or(&Retry::NONE)
    }
}

impl Retry {
    /// No further attempt.
    pub const NONE: Retry = Retry {
        count: 0,
        backoff: Duration::from_secs(1),
        factor: 2.0,
        elsewhere: false,
        memory_factor: 1.0,
        time_factor: 1.0,
        auto_memory: false,
        auto_used: 0,
    };

    /// The same for a task of which attempts of earlier sessions fell short.
    #[must_use]
    pub fn after(self, earlier: Shortfalls) -> Retry {
        Retry { auto_used: earlier.memory.min(AUTO_ATTEMPTS), ..self }
    }

    /// True if a further attempt follows `failures` attempts of this session that failed by
    /// themselves, of which some fell short of what they needed. Attempts that were lost with their
    /// rank do not count.
    pub fn is_left(&self, failures: u16, short: Shortfalls) -> bool {
        let free = if self.auto_memory { short.memory.min(AUTO_ATTEMPTS - self.auto_used) } else { 0 };
        failures.saturating_sub(u16::from(free)) <= self.count
    }

    /// Time from the end of an attempt to the next one, after `failures` attempts that failed by
    /// themselves. Attempts that were lost with their rank do not count: the next follows at once.
    pub fn wait(&self, failures: u16) -> Duration {
        if failures == 0 {
            return Duration::ZERO;
        }
        let growth = self.factor.max(1.0).powi(i32::from(failures) - 1).min(MAX_WAIT_GROWTH);
        let wait = Duration::try_from_secs_f64(self.backoff.as_secs_f64() * growth).unwrap_or(MAX_RETRY_WAIT);
        wait.min(MAX_RETRY_WAIT).max(self.backoff)
    }

    /// Memory of an attempt whose first one asks for `first` bytes, on a node with `most` bytes.
    pub fn memory(&self, first: u64, short: Shortfalls, most: u64) -> u64 {
        let grown = match short.memory {
            0 => first,
            times if self.auto_memory && times >= AUTO_ATTEMPTS => u64::MAX,
            times => (first as f64 * self.memory_factor.max(1.0).powi(times.into())) as u64,
        };
        // What the job file says is asked for even if no node has it: the run is refused then.
        grown.min(if self.auto_memory { most } else { most.max(first) })
    }

    /// Time limit of an attempt whose first one has the limit `first`.
    pub fn time(&self, first: Duration, short: Shortfalls) -> Duration {
        let grown = first.as_secs_f64() * self.time_factor.max(1.0).powi(short.time.into());
        if short.time == 0 { first } else { Duration::try_from_secs_f64(grown).unwrap_or(Duration::MAX) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn short(memory: u8, time: u8) -> Shortfalls {
        Shortfalls { memory, time }
    }

    #[test]
    fn waits_grow_within_bounds() {
        let retry = Retry { count: 9, backoff: Duration::from_secs(10), factor: 3.0, ..Retry::NONE };
        assert_eq!([0, 1, 2, 3].map(|failures| retry.wait(failures).as_secs()), [0, 10, 30, 90]);
        assert_eq!(retry.wait(u16::MAX), MAX_RETRY_WAIT);
        let slow = Retry { backoff: MAX_RETRY_WAIT * 2, ..retry };
        assert_eq!(slow.wait(5), MAX_RETRY_WAIT * 2, "what the job file asks for counts");
    }

    #[test]
    fn only_what_fell_short_is_raised_and_no_further_than_the_node() {
        let retry = Retry { count: 3, memory_factor: 1.5, time_factor: 2.0, ..Retry::NONE };
        assert_eq!([0, 1, 2, 9].map(|times| retry.memory(100, short(times, 7), 200)), [100, 150, 200, 200]);
        assert_eq!(retry.memory(300, short(1, 0), 200), 300, "never less than the job file says");
        let limits = [0, 1, 3].map(|times| retry.time(Duration::from_secs(10), short(7, times)).as_secs());
        assert_eq!(limits, [10, 20, 80]);
        assert_eq!(retry.time(Duration::MAX, short(0, 255)), Duration::MAX);
        let plain = Retry { count: 3, ..Retry::NONE };
        assert_eq!(plain.memory(100, short(2, 0), 1000), 100);
        assert_eq!((plain.is_left(3, short(3, 0)), plain.is_left(4, short(4, 0))), (true, false));
    }

    #[test]
    fn auto_memory_ends_with_all_of_the_node_and_uses_up_no_retries_until_then() {
        let retry = Retry { auto_memory: true, memory_factor: 2.0, ..Retry::NONE };
        assert_eq!([0, 1, 2, 3, 4].map(|times| retry.memory(100, short(times, 0), 900)), [100, 200, 400, 900, 900]);
        assert_eq!(retry.memory(1000, Shortfalls::NONE, 900), 900, "the default may exceed a small node");
        let left = [1, 2, 3, 4].map(|failures| retry.is_left(failures, short(failures as u8, 0)));
        assert_eq!(left, [true, true, true, false]);
        assert!(!retry.is_left(1, short(0, 1)), "other failures need `retries`");
        assert!(Retry { count: 1, ..retry }.is_left(4, short(3, 0)));
        // A resumed run goes on where the last one was.
        let resumed = [0, 2, 3, 9].map(|earlier| retry.after(short(earlier, 0)));
        assert_eq!(resumed.map(|retry| retry.is_left(1, short(1, 0))), [true, true, false, false]);
        assert!(resumed.iter().all(|retry| !retry.is_left(1, Shortfalls::NONE)));
    }
}
