//! The end of the allocation, if the launcher reports it.

use std::time::Duration;

use crate::runtime::clock::unix_ns;
use crate::schedule::protocol::Stop;
use crate::workload::walltime::{margin_within, termination};

/// When to stop starting tasks, and when to terminate running ones, so that the run ends in order
/// before its allocation does.
#[derive(Clone, Copy, Debug)]
pub struct Walltime {
    end_ns: u64,
    /// Length of the allocation from the start of this process.
    length: Duration,
    returned: Option<Stop>,
}

fn before(end_ns: u64, margin: Duration) -> u64 {
    end_ns.saturating_sub(margin.as_nanos() as u64)
}

impl Walltime {
    /// Time that running tasks have after a warning that names no time.
    pub const WARNING_GRACE: Duration = Duration::from_secs(60);

    /// The end that Slurm reports (`SLURM_JOB_END_TIME`, seconds since the Unix epoch).
    pub fn from_environment() -> Option<Walltime> {
        let end = std::env::var("SLURM_JOB_END_TIME").ok()?.parse::<u64>().ok()?;
        Some(Walltime::ending_at(end.saturating_mul(1_000_000_000), unix_ns()))
    }

    fn ending_at(end_ns: u64, now_ns: u64) -> Walltime {
        Walltime { end_ns, length: Duration::from_nanos(end_ns.saturating_sub(now_ns)), returned: None }
    }

    /// Time in which tasks that take up to `task` may still start.
    pub fn left(&self, task: Option<Duration>) -> Duration {
        Duration::from_nanos(before(self.end_ns, margin_within(task, self.length)).saturating_sub(unix_ns()))
    }

    /// The stop that is due now where tasks take up to `task`; each is returned once.
    pub fn due(&mut self, task: Option<Duration>) -> Option<Stop> {
        self.due_at(unix_ns(), task)
    }

    fn due_at(&mut self, now_ns: u64, task: Option<Duration>) -> Option<Stop> {
        let margin = margin_within(task, self.length);
        let how = match now_ns {
            now if now >= before(self.end_ns, termination(margin)) => Stop::Terminate,
            now if now >= before(self.end_ns, margin) => Stop::Drain,
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
    fn an_unknown_job_keeps_two_minutes_of_a_long_allocation() {
        let mut walltime = Walltime::ending_at(36_000 * S, 0);
        assert_eq!(walltime.due_at(35_879 * S, None), None);
        assert_eq!(walltime.due_at(35_880 * S, None), Some(Stop::Drain));
        assert_eq!(walltime.due_at(35_881 * S, None), None, "returned once");
        assert_eq!(walltime.due_at(35_960 * S, None), Some(Stop::Terminate));
        assert_eq!(walltime.due_at(36_001 * S, None), None);
    }

    #[test]
    fn a_job_of_seconds_keeps_seconds_and_time_to_kill() {
        let task = Some(Duration::from_secs(1));
        let mut walltime = Walltime::ending_at(36_000 * S, 0);
        assert_eq!(walltime.due_at(35_988 * S, task), None);
        assert_eq!(walltime.due_at(35_989 * S, task), Some(Stop::Drain));
        assert_eq!(walltime.due_at(35_992 * S, task), Some(Stop::Terminate));
    }
}
