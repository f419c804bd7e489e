//! The margin before the end of an allocation: no task is started in it, so that what runs can
//! complete and the run can end in order.
//!
//! It grows with how long tasks take. What needs seconds needs seconds more; a task of hours cannot
//! be waited for, and is ended.

use std::time::Duration;

use super::estimates::{TaskEstimates, estimate_ns};
use crate::graph::TaskGraph;
use crate::job::units::format_duration;
use crate::job::{Diagnostic, Diagnostics, Job, Loaded, Site};

/// Longest margin, and that of a job about whose tasks nothing is known.
const MAX_MARGIN: Duration = Duration::from_secs(120);

/// Time to end what still runs, to write the journal and to exit; the shortest margin.
const WRAP_UP: Duration = Duration::from_secs(10);

/// Shortest time before the end at which what still runs is ended.
const MIN_TERMINATION: Duration = Duration::from_secs(8);

/// Time that a batch job takes until the first task starts.
const START: Duration = Duration::from_secs(15);

/// The margin where tasks take up to this long, if that is known.
fn margin(task: Option<Duration>) -> Duration {
    task.map_or(MAX_MARGIN, |task| WRAP_UP.saturating_add(task).min(MAX_MARGIN))
}

/// The margin in an allocation of this length: not more than half of it, or a tenth if nothing is
/// known about the tasks, so that some can run.
pub fn margin_within(task: Option<Duration>, length: Duration) -> Duration {
    let most = length / if task.is_some() { 2 } else { 10 };
    margin(task).min(most).max(WRAP_UP)
}

/// How long before the end of an allocation with this margin running tasks are ended.
pub fn termination(margin: Duration) -> Duration {
    (margin / 3).max(MIN_TERMINATION)
}

/// The time limit to request for a run that takes this long.
pub fn time_limit(run: Duration, task: Option<Duration>) -> Duration {
    START.saturating_add(run).saturating_add(margin(task))
}

/// How long tasks can be started in an allocation of this length that is requested anew.
pub fn time_to_run(length: Duration, task: Option<Duration>) -> Duration {
    length.saturating_sub(START).saturating_sub(margin_within(task, length))
}

/// How long the tasks of a job take at most, by their estimates and time limits; `None` if it gives
/// neither.
pub fn longest_task(job: &Job) -> Option<Duration> {
    let estimates = TaskEstimates::of(job);
    let longest = (0..).zip(&job.groups).filter_map(|(id, group)| {
        group.estimate.map_or(group.time, |_| {
            let elements = if job.has_one_estimate(id) { 1 } else { group.count };
            (0..elements).map(|element| estimates.ns((id, element))).max().map(Duration::from_nanos)
        })
    });
    longest.max()
}

/// A warning if `time`, the limit that `named` sets for an allocation, leaves no time for the tasks
/// or less than their longest chain takes.
pub(crate) fn time_warning(job: &Job, graph: &TaskGraph, time: Duration, named: &str) -> Option<Diagnostic> {
    let task = longest_task(job);
    let left = time_to_run(time, task);
    let chain = Duration::from_nanos(graph.order(&|task| estimate_ns(job, task)).critical_path);
    // Without any estimate, the chain is a guess.
    let chain = task.map_or(Duration::ZERO, |_| chain);
    if left > chain {
        return None;
    }
    let what = match left.as_secs() {
        0 => "leaves no time to run tasks".to_owned(),
        seconds => format!(
            "leaves {seconds} s to run tasks, and the longest chain of them takes {}",
            format_duration(Duration::from_secs(chain.as_secs_f64().ceil() as u64))
        ),
    };
    let enough = time_limit(chain.max(task.unwrap_or_default()), task).as_secs().div_ceil(60);
    let kept = time - left.min(time);
    let help = format!(
        "{} s of it are kept to begin, and to end before the limit; ask for {enough} minutes or more (`phalanx plan` says how many)",
        kept.as_secs()
    );
    Some(Diagnostic::warning(format!("{named} {what}")).help(help))
}

/// A warning if blocks are asked for with a time limit that leaves no time.
pub fn block_time(loaded: &Loaded, graph: &TaskGraph) -> Diagnostics {
    let job = &loaded.job;
    // A block need not last for the whole chain, but for one task.
    let leaves_none = |time: &Duration| time_to_run(*time, longest_task(job)) < longest_task(job).unwrap_or_default();
    let warning = |site: &Site| {
        let time = site.capacity.time.filter(leaves_none)?;
        let place = site.name().map_or_else(|| "[capacity]".to_owned(), |name| format!("the [[site]] `{name}`"));
        time_warning(job, graph, time, &format!("`time = \"{}\"` in {place}", format_duration(time)))
    };
    loaded.report(job.sites.iter().filter_map(warning).collect())
}

/// How long the tasks of a run take: first as estimated, then as observed lately.
#[derive(Clone, Copy, Debug, Default)]
pub struct LongestTask(Option<Duration>);

/// A shorter task lowers the longest by this part of the difference.
const FADING: u32 = 32;

impl LongestTask {
    /// Of a job that has not run yet.
    pub fn of(job: &Job) -> LongestTask {
        LongestTask(longest_task(job))
    }

    /// A task has ended after this time.
    pub fn observe(&mut self, took: Duration) {
        self.0 = Some(match self.0 {
            Some(longest) if longest > took => longest - (longest - took) / FADING,
            _ => took,
        });
    }

    /// The longest, among them one that has been running for `running`.
    pub fn with(self, running: Duration) -> Option<Duration> {
        self.0.map(|longest| longest.max(running)).or((!running.is_zero()).then_some(running))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn s(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn the_margin_grows_with_the_tasks_up_to_two_minutes() {
        assert_eq!([0, 2, 60, 3600].map(|task| margin(Some(s(task)))), [s(10), s(12), s(70), s(120)]);
        assert_eq!(margin(None), s(120), "nothing is known");
        assert_eq!(margin_within(Some(s(2)), s(60)), s(12));
        assert_eq!(margin_within(Some(s(3600)), s(60)), s(30), "some of it remains to work in");
        assert_eq!([60, 600, 36_000].map(|length| margin_within(None, s(length))), [s(10), s(60), s(120)]);
        assert_eq!([10, 120].map(|margin| termination(s(margin))), [s(8), s(40)]);
    }

    #[test]
    fn a_run_fits_into_the_time_that_is_requested_for_it() {
        for (run, task) in [(41, Some(s(1))), (3600, Some(s(600))), (5, Some(s(0))), (400, None)] {
            let limit = time_limit(s(run), task);
            assert!(time_to_run(limit, task) >= s(run), "{run} {task:?}: {limit:?}");
        }
        assert_eq!(time_to_run(s(20), Some(s(1))), s(0), "none is left");
    }

    #[test]
    fn what_was_long_once_is_forgotten() {
        let mut longest = LongestTask::default();
        assert_eq!((longest.with(s(0)), longest.with(s(7))), (None, Some(s(7))));
        longest.observe(s(100));
        assert_eq!(longest.with(s(7)), Some(s(100)));
        (0..300).for_each(|_| longest.observe(s(1)));
        assert!(longest.with(s(0)).is_some_and(|longest| longest < s(2)));
        longest.observe(s(50));
        assert_eq!(longest.with(s(0)), Some(s(50)));
    }
}
