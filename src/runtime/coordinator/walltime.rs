//! The end of the allocation, where the launcher tells it.

use std::time::Duration;

use crate::runtime::clock::unix_ns;
use crate::schedule::protocol::Stop;

/// When to stop starting tasks, and when to end those that still run, so that the run leaves its allocation in good order.
#[derive(Clone, Copy, Debug)]
pub struct Walltime {
    drain_at: u64,
    terminate_at: u64,
    said: Option<Stop>,
}

impl Walltime {
    /// How long running tasks may go on after a warning that names no time.
    pub const PATIENCE: Duration = Duration::from_secs(60);

    /// The end as Slurm tells it (`SLURM_JOB_END_TIME`, seconds since the Unix epoch).
    pub fn from_environment() -> Option<Walltime> {
        let end = std::env::var("SLURM_JOB_END_TIME").ok()?.parse::<u64>().ok()?;
        Some(Walltime::ending_at(end.saturating_mul(1_000_000_000), unix_ns()))
    }

    /// An allocation that ends then. The margin is a tenth of what is left, but at least 10 s and at most 2 min: nothing is started in it, and
    /// what still runs in its last third is ended.
    fn ending_at(end_ns: u64, now_ns: u64) -> Walltime {
        let second = 1_000_000_000;
        let margin = (end_ns.saturating_sub(now_ns) / 10).clamp(10 * second, 120 * second);
        let terminate = (margin / 3).max(8 * second);
        Walltime { drain_at: end_ns.saturating_sub(margin), terminate_at: end_ns.saturating_sub(terminate), said: None }
    }

    /// How long tasks may still be started.
    pub fn left(&self) -> Duration {
        Duration::from_nanos(self.drain_at.saturating_sub(unix_ns()))
    }

    /// What is to be done now; each stop is said once.
    pub fn due(&mut self) -> Option<Stop> {
        self.due_at(unix_ns())
    }

    fn due_at(&mut self, now_ns: u64) -> Option<Stop> {
        let how = match now_ns {
            now if now >= self.terminate_at => Stop::Terminate,
            now if now >= self.drain_at => Stop::Drain,
            _ => return None,
        };
        if self.said.is_some_and(|said| said >= how) {
            return None;
        }
        self.said = Some(how);
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
        assert_eq!(walltime.due_at(35_881 * S), None, "said once");
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
