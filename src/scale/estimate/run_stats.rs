//! Statistics of one run about its classes and nodes, for later runs.
//!
//! They contain this run alone: estimates already include earlier runs, and recording those would
//! count every run repeatedly.

use std::time::Duration;

use super::history::{RunRecord, Summary};
use super::lognormal::seconds;

/// Upper limit on recorded classes; those with the most time are kept.
const MAX_CLASSES_RECORDED: usize = 256;

/// Count, mean and spread of logarithms (Welford 1962).
#[derive(Clone, Debug)]
struct Sum {
    name: String,
    size_s: f64,
    seen: u64,
    mean: f64,
    squares: f64,
    /// Total seconds.
    total_s: f64,
    /// Number of tasks not timed one by one, and the sum of their priors in seconds. The next timed
    /// task reports the time of all.
    untimed: u64,
    untimed_prior_s: f64,
}

impl Sum {
    fn new(name: &str, size: Option<Duration>) -> Sum {
        let size_s = size.map_or(1.0, seconds);
        Sum {
            name: name.to_owned(),
            size_s,
            seen: 0,
            mean: 0.0,
            squares: 0.0,
            total_s: 0.0,
            untimed: 0,
            untimed_prior_s: 0.0,
        }
    }

    /// Adds one task. Short tasks share a reading of the clock; those without one are recorded with
    /// a duration of zero.
    #[inline]
    fn take(&mut self, prior_s: f64, took: Duration) {
        self.untimed += 1;
        self.untimed_prior_s += prior_s;
        if !took.is_zero() {
            self.take_timed(took.as_secs_f64());
        }
    }

    /// Adds the tasks since the last timed one, which together took `took_s`: each counts with
    /// their mean.
    fn take_timed(&mut self, took_s: f64) {
        let x = (took_s / self.untimed_prior_s).max(1e-12).ln();
        let (weight, apart) = (self.untimed as f64, x - self.mean);
        self.seen += self.untimed;
        self.mean += apart * weight / self.seen as f64;
        self.squares += apart * (x - self.mean) * weight;
        self.total_s += took_s;
        (self.untimed, self.untimed_prior_s) = (0, 0.0);
    }

    fn summary(&self) -> Summary {
        let variance_log = if self.seen > 1 { self.squares / (self.seen - 1) as f64 } else { 0.0 };
        Summary { name: self.name.clone(), seen: self.seen, size_s: self.size_s, mean_log: self.mean, variance_log }
    }
}

/// Collects durations by class and node delays while a run lasts, and adds them to its record.
#[derive(Clone, Debug, Default)]
pub struct RunStats {
    classes: Vec<Sum>,
    delays: Vec<Sum>,
    work: Duration,
}

impl RunStats {
    /// For a run with these classes, each with the duration that a factor of 1 means (`None`: a
    /// second).
    pub fn new<'a>(classes: impl Iterator<Item = (&'a str, Option<Duration>)>) -> RunStats {
        RunStats { classes: classes.map(|(name, size)| Sum::new(name, size)).collect(), ..RunStats::default() }
    }

    /// Adds the work of an attempt: its duration on this number of slots.
    pub fn worked(&mut self, took: Duration, slots: u32) {
        self.work += took * slots;
    }

    /// Adds a completed task of a class, with its prior and its duration.
    pub fn completed(&mut self, class: usize, prior: Option<Duration>, took: Duration) {
        if let Some(sum) = self.classes.get_mut(class) {
            sum.take(prior.map_or(sum.size_s, seconds), took);
        }
    }

    /// Adds the delay of a node of this kind.
    pub fn arrived(&mut self, kind: &str, took: Duration) {
        let at = self.delays.iter().position(|sum| sum.name == kind).unwrap_or_else(|| {
            self.delays.push(Sum::new(kind, None));
            self.delays.len() - 1
        });
        self.delays[at].take(1.0, took.max(Duration::from_nanos(1)));
    }

    /// Adds the statistics to the record of the run.
    pub fn tell(&self, record: RunRecord) -> RunRecord {
        let mut classes: Vec<&Sum> = self.classes.iter().filter(|sum| sum.seen > 0).collect();
        if classes.len() > MAX_CLASSES_RECORDED {
            classes.sort_by(|a, b| b.total_s.total_cmp(&a.total_s));
            classes.truncate(MAX_CLASSES_RECORDED);
        }
        RunRecord {
            work_s: self.work.as_secs_f64(),
            classes: classes.into_iter().map(Sum::summary).collect(),
            delays: self.delays.iter().map(Sum::summary).collect(),
            ..record
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::history::tests::run;
    use super::*;

    #[test]
    fn sums_are_those_of_this_run() {
        let s = Duration::from_secs;
        let mut lessons = RunStats::new([("a", Some(s(10))), ("b", None), ("never", None)].into_iter());
        for took in [20, 5] {
            lessons.completed(0, Some(s(10)), s(took));
            lessons.worked(s(took), 2);
        }
        lessons.completed(1, None, s(3));
        lessons.arrived("slurm", s(40));
        let found = lessons.tell(run(0, 0, 7.0, 1.0));
        assert_eq!((found.wall_s, found.work_s), (7.0, 50.0));
        let names: Vec<&str> = found.classes.iter().map(|c| c.name.as_str()).collect();
        assert_eq!(names, ["a", "b"]);
        // Twice the prior, and half of it.
        let (a, b) = (&found.classes[0], &found.classes[1]);
        assert!(a.mean_log.abs() < 1e-12 && (a.variance_log - 2.0 * 2f64.ln().powi(2)).abs() < 1e-9, "{a:?}");
        assert!((a.seconds() - 10.0).abs() < 1e-9 && (b.seconds() - 3.0).abs() < 1e-9);
        assert!((found.delays[0].seconds() - 40.0).abs() < 1e-9);
    }

    #[test]
    fn tasks_that_share_a_look_at_the_clock_count_with_their_mean() {
        let mut lessons = RunStats::new([("a", Some(Duration::from_micros(1)))].into_iter());
        for task in 0..32u64 {
            let took = Duration::from_micros(if task % 16 == 15 { 64 } else { 0 });
            lessons.completed(0, None, took);
        }
        let class = &lessons.tell(run(0, 0, 7.0, 1.0)).classes[0];
        assert_eq!(class.seen, 32);
        assert!((class.seconds() - 4e-6).abs() < 1e-12 && class.variance_log < 1e-12, "{class:?}");
    }

    #[test]
    fn of_very_many_classes_the_dearest_are_told() {
        let names: Vec<String> = (0..1000).map(|k| format!("c{k}")).collect();
        let mut lessons = RunStats::new(names.iter().map(|name| (name.as_str(), None)));
        (0..1000).for_each(|k| lessons.completed(k, None, Duration::from_secs(k as u64 + 1)));
        let found = lessons.tell(run(0, 0, 7.0, 1.0));
        assert_eq!((found.classes.len(), found.classes[0].name.as_str()), (MAX_CLASSES_RECORDED, "c999"));
    }
}
