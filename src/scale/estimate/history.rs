//! What earlier runs of the same job show: task durations by class, node delays by hour and
//! weekday, and the length of runs with its trend.
//!
//! Plain data: the driver loads it before a run and adds to it after. `run_stats` collects the
//! findings of one run, `anomaly` compares a run with earlier ones.

use serde::{Deserialize, Serialize};
use statrs::distribution::{ContinuousCDF, StudentsT};

use super::{LogNormal, Quantiles};

/// Number of runs kept; the oldest are dropped first.
pub const KEPT: usize = 200;

/// Weight of a run relative to the next newer one.
const RUN_DECAY: f64 = 0.9;

/// All earlier runs together count as at most this number of observations, so that the present run
/// can outweigh them.
const MAX_HISTORY_OBSERVATIONS: f64 = 20.0;

/// Minimum number of runs for an expectation.
const MIN_RUNS_FOR_EXPECTATION: usize = 4;

/// A weekday and an hour, in UTC.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Moment {
    /// 0 for Monday to 6 for Sunday.
    pub weekday: u8,
    /// 0 to 23.
    pub hour: u8,
}

impl Moment {
    /// The moment `seconds` after the beginning of 1970, which was a Thursday.
    pub fn of_unix(seconds: u64) -> Moment {
        let (day, second) = (seconds / 86_400, seconds % 86_400);
        Moment { weekday: ((day + 3) % 7) as u8, hour: (second / 3600) as u8 }
    }

    /// How similar a run at another moment is to one at this moment, 0 to 1. The daily pattern
    /// counts the distance of the hours around the clock, the weekly one whether both are working
    /// days or both are not.
    fn likeness(self, other: Moment) -> f64 {
        let apart = f64::from(self.hour.abs_diff(other.hour) % 24);
        let around = apart.min(24.0 - apart);
        let daily = (-(around / 3.0).powi(2) / 2.0).exp();
        let weekly = match (self.weekday == other.weekday, (self.weekday >= 5) == (other.weekday >= 5)) {
            (true, _) => 1.0,
            (false, true) => 0.7,
            (false, false) => 0.2,
        };
        // Even the least similar run is better than none.
        0.05 + 0.95 * daily * weekly
    }
}

/// The results of one run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RunRecord {
    /// Name of the run.
    pub run: String,
    /// When it began, in seconds since 1970 (UTC).
    pub began_unix_s: u64,
    /// Tasks of the job.
    pub tasks: u32,
    /// Number of slots at its start.
    pub slots: u32,
    /// Its scaling policy.
    pub policy: String,
    /// True if it ran all tasks of the job in one session and all completed: only such runs show
    /// how long a run lasts.
    pub whole: bool,
    /// Wall time in seconds.
    pub wall_s: f64,
    /// Time in tasks, summed over slots, in seconds.
    pub work_s: f64,
    /// Durations by class, as factors of the tasks' priors.
    pub classes: Vec<Summary>,
    /// Delays until a node came, by kind of node, in seconds.
    pub delays: Vec<Summary>,
}

impl RunRecord {
    /// The weekday and hour at which it began.
    pub fn started(&self) -> Moment {
        Moment::of_unix(self.began_unix_s)
    }
}

/// Mean and variance of the logarithm of something observed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Summary {
    /// Name of the class or kind of node.
    pub name: String,
    /// Number of observations.
    pub seen: u64,
    /// Seconds that correspond to a factor of 1.
    pub size_s: f64,
    /// Mean of the factors' natural logarithms.
    pub mean_log: f64,
    /// Variance of those.
    pub variance_log: f64,
}

impl Summary {
    /// The geometric mean of what was observed, in seconds.
    pub fn seconds(&self) -> f64 {
        self.size_s * self.mean_log.clamp(-40.0, 40.0).exp()
    }

    /// True if the numbers are finite and valid; a file may contain anything.
    fn is_sound(&self) -> bool {
        let size = self.size_s.is_finite() && self.size_s > 0.0;
        size && self.mean_log.is_finite() && self.variance_log.is_finite() && self.variance_log >= 0.0
    }
}

/// Earlier runs of one job, oldest first.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct History {
    /// The runs.
    pub runs: Vec<RunRecord>,
}

/// The expectation for a run.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Expected {
    /// In seconds.
    pub seconds: Quantiles,
    /// Growth from run to run: 0.02 if each takes 2 % more than the one before.
    pub trend: f64,
    /// The range that 99 of 100 runs should stay in.
    pub usual: (f64, f64),
    /// Number of runs that it is based on.
    pub runs: u32,
}

/// The duration of a class that earlier runs give and the job file does not.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Learnt {
    /// The class.
    pub class: String,
    /// Median duration of one of its tasks, in seconds.
    pub seconds: f64,
    /// Standard deviation of the logarithm of the duration.
    pub spread: f64,
}

impl History {
    /// Adds a run.
    pub fn add(&mut self, run: RunRecord) {
        self.runs.push(run);
        let surplus = self.runs.len().saturating_sub(KEPT);
        self.runs.drain(..surplus);
    }

    /// How long a task of a class takes at this hour of this weekday.
    pub fn learnt(&self, class: &str, moment: Moment) -> Option<Learnt> {
        let (mean, variance, _) = self.pool(|run| &run.classes, class, 1.0, moment)?;
        Some(Learnt { class: class.to_owned(), seconds: mean.clamp(-40.0, 40.0).exp(), spread: variance.sqrt() })
    }

    /// The distribution of the factor between `size_s` seconds and the duration of a task of a
    /// class.
    pub(super) fn class(&self, name: &str, size_s: f64, moment: Moment) -> Option<LogNormal> {
        self.pool(|run| &run.classes, name, size_s, moment)
            .map(|(mean, var, worth)| LogNormal::learnt(mean, var, worth))
    }

    /// The distribution of the delay of a kind of nodes at this hour of this weekday.
    pub fn delay(&self, name: &str, moment: Moment) -> Option<LogNormal> {
        self.pool(|run| &run.delays, name, 1.0, moment).map(|(mean, var, worth)| LogNormal::learnt(mean, var, worth))
    }

    /// Mean and variance over runs, and the number of observations that they count as. The variance
    /// has a part within runs and a part between them.
    fn pool(
        &self,
        of: impl Fn(&RunRecord) -> &Vec<Summary>,
        name: &str,
        size_s: f64,
        moment: Moment,
    ) -> Option<(f64, f64, f64)> {
        let found = self.runs.iter().rev().enumerate().flat_map(|(age, run)| {
            let weight = RUN_DECAY.powi(age as i32) * moment.likeness(run.started());
            let worth = move |s: &Summary| weight * (s.seen as f64).min(10.0);
            of(run).iter().filter(|s| s.name == name && s.is_sound()).map(move |s| (worth(s), s))
        });
        let found: Vec<(f64, &Summary)> = found.collect();
        let total: f64 = found.iter().map(|(w, _)| w).sum();
        if total <= 0.0 {
            return None;
        }
        let mean_of = |s: &Summary| s.mean_log + (s.size_s / size_s).ln();
        let mean = found.iter().map(|(w, s)| w * mean_of(s)).sum::<f64>() / total;
        let around = |s: &Summary| s.variance_log + (mean_of(s) - mean).powi(2);
        let variance = found.iter().map(|(w, s)| w * around(s)).sum::<f64>() / total;
        Some((mean, variance, total.min(MAX_HISTORY_OBSERVATIONS)))
    }

    /// Expected wall time of a run like this one (the same tasks, slots and policy) that begins at
    /// the same moment, with trend and pattern. `None` with fewer than four such runs.
    pub fn expect_wall(&self, like: &RunRecord) -> Option<Expected> {
        let is_like = |run: &RunRecord| run.slots == like.slots && run.policy == like.policy;
        self.expect_of(like, |run| is_like(run).then_some(run.wall_s))
    }

    /// Expected work of such a run (seconds in tasks), on any number of slots.
    pub fn expect_work(&self, like: &RunRecord) -> Option<Expected> {
        self.expect_of(like, |run| Some(run.work_s))
    }

    fn expect_of(&self, like: &RunRecord, value: impl Fn(&RunRecord) -> Option<f64>) -> Option<Expected> {
        self.expect(like.started(), |run| value(run).filter(|_| run.whole && run.tasks == like.tasks))
    }

    /// A straight line through the logarithms over the number of the run, fitted with similarity as
    /// weights, and the deviation from it.
    pub(super) fn expect(&self, moment: Moment, value: impl Fn(&RunRecord) -> Option<f64>) -> Option<Expected> {
        let values = self.runs.iter().filter_map(|run| Some((run, value(run).filter(|v| v.is_finite() && *v > 0.0)?)));
        let points: Vec<(f64, f64, f64)> =
            values.enumerate().map(|(k, (run, v))| (moment.likeness(run.started()), k as f64, v.ln())).collect();
        if points.len() < MIN_RUNS_FOR_EXPECTATION {
            return None;
        }
        let count = points.len() as f64;
        let weight: f64 = points.iter().map(|p| p.0).sum();
        let mean = |of: fn(&(f64, f64, f64)) -> f64| points.iter().map(|p| p.0 * of(p)).sum::<f64>() / weight;
        let (x, y) = (mean(|p| p.1), mean(|p| p.2));
        let (xx, xy) = points
            .iter()
            .fold((0.0, 0.0), |(xx, xy), p| (xx + p.0 * (p.1 - x).powi(2), xy + p.0 * (p.1 - x) * (p.2 - y)));
        let slope = if xx > 0.0 { xy / xx } else { 0.0 };
        let next = y + slope * (count - x);
        let rest = points.iter().map(|p| p.0 * (p.2 - y - slope * (p.1 - x)).powi(2)).sum::<f64>() / weight;
        let freedom = count - 2.0;
        let far = (count - x).powi(2) / xx.max(1e-9) / count;
        let deviation = (rest * count / freedom * (1.0 + 1.0 / weight.max(1.0) + far)).sqrt();
        let t = StudentsT::new(0.0, 1.0, freedom).ok()?;
        let at = |p: f64| (next + deviation * t.inverse_cdf(p)).clamp(-40.0, 40.0).exp();
        let seconds = Quantiles { q10: at(0.1), q50: at(0.5), q90: at(0.9) };
        let runs = points.len() as u32;
        Some(Expected { seconds, trend: slope.exp() - 1.0, usual: (at(0.005), at(0.995)), runs })
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A run at an hour of the day, `day` days after a Thursday: 1970 began on one.
    pub(in super::super) fn run(day: u64, hour: u64, wall_s: f64, delay_s: f64) -> RunRecord {
        let summary = |name: &str, seen: u64, value: f64| {
            vec![Summary { name: name.into(), seen, size_s: 1.0, mean_log: value.ln(), variance_log: 0.01 }]
        };
        RunRecord {
            run: format!("job-{day}"),
            began_unix_s: day * 86_400 + hour * 3600,
            tasks: 10,
            slots: 4,
            policy: "fixed".into(),
            whole: true,
            wall_s,
            work_s: 4.0 * wall_s,
            classes: summary("align", 2000, wall_s / 500.0),
            delays: summary("node", 5, delay_s),
        }
    }

    #[test]
    fn a_moment_is_a_weekday_and_an_hour() {
        assert_eq!(Moment::of_unix(0), Moment { weekday: 3, hour: 0 });
        // 2026-03-01, a Sunday, at 13:05.
        assert_eq!(Moment::of_unix(1_772_370_300), Moment { weekday: 6, hour: 13 });
    }

    #[test]
    fn nights_differ_from_days() {
        let mut history = History::default();
        for day in 0..28 {
            history.add(run(day, 3, 1000.0, 10.0));
            history.add(run(day, 14, 1500.0, 600.0));
        }
        let at = |hour: u8| Moment { weekday: 2, hour };
        let delay = |hour| history.delay("node", at(hour)).unwrap().quantiles().q50;
        assert!(delay(2) < 60.0 && delay(15) > 300.0, "{} {}", delay(2), delay(15));
        assert!(history.delay("other", at(2)).is_none());
        // Load follows the clock, too.
        let work = |hour| history.expect_work(&run(35, hour, 0.0, 0.0)).unwrap().seconds.q50;
        assert!(
            (work(3) / 4000.0 - 1.0).abs() < 0.15 && (work(14) / 6000.0 - 1.0).abs() < 0.15,
            "{} {}",
            work(3),
            work(14)
        );
        let night = history.learnt("align", at(3)).unwrap();
        assert!((night.seconds - 2.0).abs() < 0.3, "{night:?}");
        // Were an estimate of a second in the job file now, the same would be twice of it.
        let factor = |size| history.class("align", size, at(3)).unwrap().quantiles().q50;
        assert!((factor(1.0) / factor(4.0) - 4.0).abs() < 1e-6);
    }

    #[test]
    fn a_trend_is_followed() {
        let mut history = History::default();
        for k in 0..20u64 {
            let noise = [1.0, 1.02, 0.98, 1.01][k as usize % 4];
            history.add(run(7 * k, 9, 1000.0 * 1.05f64.powi(k as i32) * noise, 60.0));
        }
        let expected = history.expect_wall(&run(140, 9, 0.0, 0.0)).unwrap();
        assert!((expected.trend - 0.05).abs() < 0.01 && expected.runs == 20, "{expected:?}");
        assert!((expected.seconds.q50 / (1000.0 * 1.05f64.powi(20)) - 1.0).abs() < 0.05, "{expected:?}");
    }

    #[test]
    fn only_like_is_compared_with_like() {
        let mut history = History::default();
        (0..5).for_each(|k| history.add(run(k, 9, 100.0, 1.0)));
        let next = run(6, 9, 0.0, 0.0);
        assert!(history.expect_wall(&next).is_some());
        assert!(history.expect_wall(&RunRecord { slots: 8, ..next.clone() }).is_none());
        assert!(history.expect_work(&RunRecord { slots: 8, ..next.clone() }).is_some());
        assert!(history.expect_work(&RunRecord { tasks: 11, ..next.clone() }).is_none());
        history.runs.iter_mut().for_each(|run| run.whole = false);
        assert!(history.expect_work(&next).is_none());
    }

    #[test]
    fn it_survives_serde_nonsense_and_its_bound() {
        let mut history = History::default();
        (0..300).for_each(|day| history.add(run(day, 0, 10.0, 1.0)));
        assert_eq!(history.runs.len(), KEPT);
        let text = serde_json::to_string(&history).unwrap();
        assert_eq!(serde_json::from_str::<History>(&text).unwrap(), history);
        history.runs.iter_mut().for_each(|run| run.classes[0].size_s = -1.0);
        assert!(history.learnt("align", Moment { weekday: 0, hour: 0 }).is_none());
    }
}
