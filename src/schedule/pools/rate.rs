//! Starts per time, evenly spread.
//!
//! A rate of 10 per second allows a start every 100 ms, and not ten at once: whoever serves them
//! sees no burst. Above 50 per second the starts of a time slice of 20 ms come at once. Ranks get
//! what their idle slots can start, so each start of a slot costs a message to rank 0 and back. What
//! is not used in its slice lapses.

use std::time::Duration;

use crate::model::Time;

/// Starts of this much time are dealt together at most.
const SLICE_NS: u64 = 20_000_000;

/// The starts that a rate allows.
#[derive(Clone, Copy, Debug)]
pub(super) struct StartBudget {
    /// Nanoseconds between two starts.
    interval_ns: u64,
    /// Upper limit on starts that are dealt together.
    burst: u64,
    /// When the next start is allowed.
    next: Time,
}

impl StartBudget {
    pub(super) fn new(starts: u32, per_ns: u64) -> StartBudget {
        let interval_ns = per_ns.div_ceil(u64::from(starts.max(1))).max(1);
        StartBudget { interval_ns, burst: (SLICE_NS / interval_ns).max(1), next: Time::ZERO }
    }

    /// Number of starts allowed now.
    pub(super) fn available(&self, now: Time) -> u64 {
        if now < self.next {
            return 0;
        }
        (now.since(self.next).as_nanos() as u64 / self.interval_ns + 1).min(self.burst)
    }

    /// Uses up starts.
    pub(super) fn take(&mut self, now: Time, starts: u64) {
        let saved = Duration::from_nanos((self.burst - 1) * self.interval_ns);
        let from = self.next.max(now.before(saved));
        self.next = from.after(Duration::from_nanos(starts * self.interval_ns));
    }

    /// When the next start is allowed.
    pub(super) fn next(&self) -> Time {
        self.next
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The starts of a user who takes all that is allowed at these times.
    fn starts(mut budget: StartBudget, times: impl Iterator<Item = u64>) -> Vec<u64> {
        let mut out = Vec::new();
        for at in times {
            let available = budget.available(Time(at));
            budget.take(Time(at), available);
            out.extend((0..available).map(|_| at));
        }
        out
    }

    #[test]
    fn a_slow_rate_is_evenly_spread_after_a_pause_too() {
        let budget = StartBudget::new(10, 1_000_000_000);
        let out = starts(budget, (0..40).map(|tick| tick * 50_000_000).chain((100..110).map(|tick| tick * 50_000_000)));
        assert!(out.windows(2).all(|pair| pair[1] - pair[0] >= 100_000_000), "{out:?}");
        assert_eq!(out.len(), 20 + 5);
    }

    #[test]
    fn a_fast_rate_is_dealt_in_slices_and_kept_on_average() {
        let budget = StartBudget::new(1_000, 1_000_000_000);
        let out = starts(budget, (0..3_000).map(|tick| tick * 1_000_000));
        assert_eq!(out.len(), 3_000);
        let out = starts(budget, (0..100).map(|tick| tick * 50_000_000));
        assert_eq!(out.len(), 20 * 100 - 19, "what exceeds a slice lapses");
    }
}
