//! `retries`: what happens after a failure.

use std::time::Duration;

/// Upper limit on the growth of the wait between attempts, as a factor of the first wait.
const MAX_WAIT_GROWTH: f64 = 1e6;

/// Upper limit on the wait, unless the job file asks for more.
const MAX_RETRY_WAIT: Duration = Duration::from_secs(24 * 3600);

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
}

impl Retry {
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
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_within_bounds() {
        let retry = Retry { count: 9, backoff: Duration::from_secs(10), factor: 3.0, elsewhere: false };
        assert_eq!([0, 1, 2, 3].map(|failures| retry.wait(failures).as_secs()), [0, 10, 30, 90]);
        assert_eq!(retry.wait(u16::MAX), MAX_RETRY_WAIT);
        let slow = Retry { backoff: MAX_RETRY_WAIT * 2, ..retry };
        assert_eq!(slow.wait(5), MAX_RETRY_WAIT * 2, "what the job file asks for counts");
    }
}
