//! Estimates when a run will end from its recent speed. Reads no clock.

use std::time::Duration;

use crate::scale::Forecast;

/// Progress of a run.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct RunProgress {
    /// Tasks of the job.
    pub total: u64,
    /// Tasks that ended successfully.
    pub completed: u64,
    /// Tasks that failed.
    pub failed: u64,
    /// Tasks that will never run because a dependency did not end as required.
    pub skipped: u64,
    /// Tasks that were cancelled, running or not.
    pub cancelled: u64,
    /// Running now.
    pub running: u64,
    /// Ready tasks: they wait for a slot or for what else is taken, not for other tasks.
    pub ready: u64,
    /// Tasks that are paused, of those of the job.
    pub paused: u64,
    /// Estimated run time of the tasks that have ended, in seconds.
    pub work_done_s: f64,
    /// Estimated run time of all tasks, in seconds; 0 if unknown: tasks are counted instead.
    pub work_total_s: f64,
    /// Active ranks.
    pub ranks_active: u32,
    /// Latest forecast of the end, if the run makes forecasts.
    pub forecast: Option<Forecast>,
}

impl RunProgress {
    /// Tasks in a final state.
    pub fn ended(&self) -> u64 {
        self.completed + self.failed + self.skipped + self.cancelled
    }

    /// Share of the tasks in a final state, 0 to 1.
    pub fn fraction(&self) -> f64 {
        if self.total == 0 { 1.0 } else { self.ended() as f64 / self.total as f64 }
    }

    /// Completed and remaining work, in seconds, or in tasks if no estimates are known.
    fn done_and_left(&self) -> (f64, f64) {
        if self.work_total_s > 0.0 {
            (self.work_done_s, (self.work_total_s - self.work_done_s).max(0.0))
        } else {
            (self.ended() as f64, self.total.saturating_sub(self.ended()) as f64)
        }
    }
}

/// Time constant of the estimator in seconds; a quarter of the run time if that is longer.
const TIME_CONSTANT_S: f64 = 10.0;

/// Minimum interval between two observations: shorter ones only add noise.
const MIN_OBSERVATION_INTERVAL: Duration = Duration::from_millis(200);

/// Average speed, exponentially weighted towards recent observations.
#[derive(Clone, Debug, Default)]
pub(super) struct Estimator {
    /// Previous observation: time, completed work, ended tasks. What the first observation reports
    /// was completed by earlier sessions.
    before: Option<(Duration, f64, f64)>,
    /// Weighted sums of completed work, ended tasks, and elapsed time.
    work: f64,
    ended: f64,
    time: f64,
    left: f64,
}

impl Estimator {
    /// Records the progress at time `at` since the run began.
    pub fn observe(&mut self, at: Duration, tally: &RunProgress) {
        let (done, left) = tally.done_and_left();
        self.left = left;
        let tasks = tally.completed as f64 + tally.failed as f64;
        let (then, done_then, tasks_then) = *self.before.get_or_insert((at, done, tasks));
        let passed = at.saturating_sub(then);
        if passed < MIN_OBSERVATION_INTERVAL {
            return;
        }
        let fade = (-passed.as_secs_f64() / (at.as_secs_f64() / 4.0).max(TIME_CONSTANT_S)).exp();
        self.work = self.work * fade + (done - done_then).max(0.0);
        self.ended = self.ended * fade + (tasks - tasks_then).max(0.0);
        self.time = self.time * fade + passed.as_secs_f64();
        self.before = Some((at, done, tasks));
    }

    /// Recent number of tasks that end per second.
    pub fn tasks_per_s(&self) -> f64 {
        if self.time > 0.0 { self.ended / self.time } else { 0.0 }
    }

    /// Remaining time at the recent speed; `None` before a task has ended.
    pub fn remaining(&self) -> Option<Duration> {
        let seconds = self.left * self.time / self.work;
        Duration::try_from_secs_f64(seconds).ok().filter(|_| self.time > 0.0 && self.work > 0.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn steady(estimator: &mut Estimator, seconds: std::ops::Range<u64>, done_at: impl Fn(u64) -> u64) {
        for s in seconds {
            let tally = RunProgress { total: 1000, completed: done_at(s), ..RunProgress::default() };
            estimator.observe(Duration::from_secs(s), &tally);
        }
    }

    #[test]
    fn a_steady_run_is_estimated_exactly() {
        let mut estimator = Estimator::default();
        assert_eq!(estimator.remaining(), None);
        steady(&mut estimator, 0..51, |s| s * 4);
        assert!((estimator.tasks_per_s() - 4.0).abs() < 1e-6);
        assert!((estimator.remaining().unwrap().as_secs_f64() - 200.0).abs() < 1e-6);
    }

    #[test]
    fn a_change_of_speed_is_noticed() {
        let mut estimator = Estimator::default();
        steady(&mut estimator, 0..100, |s| s);
        steady(&mut estimator, 100..200, |s| 100 + (s - 100) * 5);
        let rate = estimator.tasks_per_s();
        assert!(rate > 4.0 && rate < 5.0, "{rate}");
    }

    #[test]
    fn work_counts_more_than_numbers_where_it_is_known() {
        let mut estimator = Estimator::default();
        let tally = |completed, work_done_s| RunProgress {
            total: 10,
            completed,
            work_done_s,
            work_total_s: 100.0,
            ..RunProgress::default()
        };
        estimator.observe(Duration::ZERO, &tally(0, 0.0));
        estimator.observe(Duration::from_secs(10), &tally(9, 10.0));
        assert!((estimator.remaining().unwrap().as_secs_f64() - 90.0).abs() < 1e-6);
    }

    #[test]
    fn what_an_earlier_session_did_is_no_speed() {
        let mut estimator = Estimator::default();
        steady(&mut estimator, 1..11, |s| 900 + s);
        assert!((estimator.tasks_per_s() - 1.0).abs() < 1e-6);
        assert!((estimator.remaining().unwrap().as_secs_f64() - 90.0).abs() < 1e-6);
    }

    #[test]
    fn nothing_and_nonsense_give_no_estimate() {
        let mut estimator = Estimator::default();
        let nothing = RunProgress::default();
        assert_eq!(nothing.fraction(), 1.0);
        estimator.observe(Duration::from_secs(5), &nothing);
        assert_eq!(estimator.remaining(), None);
        let nonsense = RunProgress { total: 1, completed: 5, work_done_s: f64::NAN, work_total_s: 1.0, ..nothing };
        estimator.observe(Duration::from_secs(9), &nonsense);
        assert_eq!(estimator.remaining(), None);
    }
}
