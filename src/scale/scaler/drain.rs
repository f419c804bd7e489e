//! How long the running tasks still need, and how long those that start next will take.

use std::time::Duration;

use crate::scale::estimate::{ClassId, Estimates};
use crate::scale::observation::Observation;
use crate::scale::remaining::RunningTask;

/// Up to this number of running tasks, each is evaluated; of more, only those of each class that
/// are likely to take longest.
const MAX_TASKS_EVALUATED: usize = 1024;

/// How long the running tasks still need: the longest of them, at q90. For a class without
/// information the prior is ignored, since its tail is long enough to stop any run, and the
/// observation counts: a task that has lasted this long lasts as long again. A task that takes
/// longer after all is stopped when the money runs out.
///
/// Running tasks that are not listed have hardly begun and count as ready: they need at least as
/// long as the quickest class of ready tasks.
pub(super) fn time(seen: &Observation<'_>, estimates: &Estimates) -> Duration {
    let running = seen.remaining.running();
    let mut classes: Vec<Option<RunningOfClass>> = Vec::new();
    let mut longest = 0.0f64;
    for task in running {
        let at = task.facts.class.0 as usize;
        if classes.len() <= at {
            classes.resize_with(at + 1, || None);
        }
        let class = classes[at].get_or_insert_with(|| RunningOfClass::new(estimates, task.facts.class));
        let passed = seen.now.since(task.since).as_secs_f64();
        longest = longest.max(match class.late {
            Some(late) => late * estimates.size(task.facts.class, task.facts.prior) - passed,
            None => passed,
        });
        class.note(task, passed);
    }
    let rest = |task: &RunningTask| {
        let elapsed = seen.now.since(task.since);
        estimates.rest(task.facts.class, task.facts.prior, elapsed)
    };
    let is_known =
        |task: &&RunningTask| classes[task.facts.class.0 as usize].as_ref().is_some_and(|class| class.late.is_some());
    let rests: f64 = match running.len() <= MAX_TASKS_EVALUATED {
        true => running.iter().filter(is_known).map(rest).fold(0.0, f64::max),
        false => {
            let extremes =
                classes.iter().flatten().filter(|class| class.late.is_some()).flat_map(|class| class.extremes());
            extremes.map(|task| rest(&task)).fold(0.0, f64::max)
        }
    };
    let begun = match seen.counts.running > running.len() as u64 {
        true => late_times(seen, estimates).reduce(f64::min).unwrap_or(0.0),
        false => 0.0,
    };
    Duration::try_from_secs_f64(longest.max(rests).max(begun)).unwrap_or(Duration::ZERO)
}

/// How long the tasks that start next will take: those of the slowest class of ready tasks, at q90.
/// Classes without information are ignored.
pub(super) fn next_tasks(seen: &Observation<'_>, estimates: &Estimates) -> Duration {
    Duration::try_from_secs_f64(late_times(seen, estimates).fold(0.0, f64::max)).unwrap_or(Duration::ZERO)
}

/// How long ready tasks will take in seconds, by class, at q90.
fn late_times(seen: &Observation<'_>, estimates: &Estimates) -> impl Iterator<Item = f64> {
    let known = seen.remaining.ready_classes().filter(|(class, _)| estimates.is_known(*class));
    known.map(|(class, size)| estimates.factor(class).quantiles().q90 * size)
}

/// The running tasks of a class.
struct RunningOfClass {
    /// q90 of the factor between their sizes and durations, if the class is known.
    late: Option<f64>,
    /// The remaining time of a task first falls and then rises with its age: so it is longest for
    /// the newest, the oldest, or the largest.
    newest: Option<(f64, RunningTask)>,
    oldest: Option<(f64, RunningTask)>,
    largest: Option<(f64, RunningTask)>,
}

impl RunningOfClass {
    fn new(estimates: &Estimates, class: ClassId) -> RunningOfClass {
        let late = estimates.is_known(class).then(|| estimates.factor(class).quantiles().q90);
        RunningOfClass { late, newest: None, oldest: None, largest: None }
    }

    fn note(&mut self, task: &RunningTask, passed: f64) {
        let size = task.facts.prior.map_or(1.0, |prior| prior.as_secs_f64());
        for (extreme, value) in [(&mut self.newest, -passed), (&mut self.oldest, passed), (&mut self.largest, size)] {
            if extreme.is_none_or(|(most, known)| (value, task.task.0) > (most, known.task.0)) {
                *extreme = Some((value, *task));
            }
        }
    }

    fn extremes(&self) -> impl Iterator<Item = RunningTask> {
        [self.newest, self.oldest, self.largest].into_iter().flatten().map(|extreme| extreme.1)
    }
}
