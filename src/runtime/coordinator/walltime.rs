//! The end of the allocation, if the launcher reports it.

use std::time::Duration;

use crate::runtime::clock::unix_ns;
use crate::schedule::protocol::Stop;

/// When to stop starting tasks, and when to terminate running ones, so that the run ends in order
/// before its allocation does.
#[derive(Clone, Copy, Debug)]
pub struct Walltime {
    drain_at: u64,
    terminate_at: u64,
    returned: Option<Stop>,
}

impl Walltime {
    /// Time that running tasks have after a warning that names no time.
    pub const WARNING_GRACE: Duration = Duration::from_secs(60);

    /// The end that Slurm reports (`SLURM_JOB_END_TIME`, seconds since the Unix epoch).
    pub fn from_environment() -> Option<Walltime> {
        let end = std::env::var("SLURM_JOB_END_TIME").ok()?.parse::<u64>().ok()?;
        Some(Walltime::ending_at(end.saturating_mul(1_000_000_000), unix_ns()))
    }

    /// An allocation with this end. The margin is a tenth of the remaining time, between 10 s and
    /// 2 min: no task starts in it, and running tasks are terminated in its last third.
    fn ending_at(end_ns: u64, now_ns: u64) -> Walltime {
        let second = 1_000_000_000;
        let margin = (end_ns.saturating_sub(now_ns) / 10).clamp(10 * second, 120 * second);
        let terminate = (margin / 3).max(8 * second);
        Walltime {
            drain_at: end_ns.saturating_sub(margin),
            terminate_at: end_ns.saturating_sub(terminate),
            returned: None,
        }
    }

    /// Time in which tasks may still start.
    pub fn left(&self) -> Duration {
        Duration::from_nanos(self.drain_at.saturating_sub(unix_ns()))
    }

    /// The stop that is due now; each is returned once.
    pub fn due(&mut self) -> Option<Stop> {
        self.due_at(unix_ns())
    }

    fn due_at(&mut self, now_ns: u64) -> Option<Stop> {
        let how = match now_ns {
            now if now >= self.terminate_at => Stop::Terminate,
            now if now >= self.drain_at => Stop::Drain,
            _ => return None,
        };
        if self.returned.is_some_and(|returned| returned >= how) {
            return None;
        }
        self.returned = Some(how);
        Some(how)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: u64 = 1_000_000_000;

    #[test]
    fn a_long_allocation_keeps_two_minutes() {
        let mut walltime = Walltime::ending_at(36_000 * S, 0);
        assert_eq!(walltime.due_at(35_879 * S), None);
        assert_eq!(walltime.due_at(35_880 * S), Some(Stop::Drain));
        assert_eq!(walltime.due_at(35_881 * S), None, "returned once");
        assert_eq!(walltime.due_at(35_960 * S), Some(Stop::Terminate));
        assert_eq!(walltime.due_at(36_001 * S), None);
    }

    #[test]
    fn a_short_one_keeps_ten_seconds_and_time_to_kill() {
        let mut walltime = Walltime::ending_at(60 * S, 0);
        assert_eq!(walltime.due_at(49 * S), None);
        assert_eq!(walltime.due_at(50 * S), Some(Stop::Drain));
        assert_eq!(walltime.due_at(52 * S), Some(Stop::Terminate));
    }
}
