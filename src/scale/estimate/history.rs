//! What earlier runs of the same job tell: how long its classes took, how long nodes took to come at this hour of this weekday,
//! and whether runs grow longer.
//!
//! Plain data: whoever drives the core loads it before a run and saves it after. The core knows no calendar; the
//! caller says on which weekday and at which hour a run began.

use serde::{Deserialize, Serialize};
use statrs::distribution::{ContinuousCDF, StudentsT};

use super::{LogNormal, Quantiles};

/// Runs beyond this many are forgotten, oldest first.
const KEPT: usize = 200;

/// An older run counts this much less than the one after it.
const FADE: f64 = 0.9;

/// Earlier runs together count for at most so many observations: this run must be able to overrule them.
const MOST_WORTH: f64 = 20.0;

/// A weekday and an hour.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Moment {
    /// 0 for Monday to 6 for Sunday.
    pub weekday: u8,
    /// 0 to 23.
    pub hour: u8,
}

impl Moment {
    /// How much a run at another moment tells about this one, 0 to 1: the daily pattern counts by the distance of the hours
    /// around the clock, the weekly one by whether both are working days or both are not.
    fn likeness(self, other: Moment) -> f64 {
        let apart = f64::from(self.hour.abs_diff(other.hour) % 24);
        let around = apart.min(24.0 - apart);
        let daily = (-(around / 3.0).powi(2) / 2.0).exp();
        let weekly = match (self.weekday == other.weekday, (self.weekday >= 5) == (other.weekday >= 5)) {
            (true, _) => 1.0,
            (false, true) => 0.7,
            (false, false) => 0.2,
        };
        // Even the most unlike run is better than none.
        0.05 + 0.95 * daily * weekly
    }
}

/// What one run found.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RunRecord {
    /// When it began.
    pub started: Moment,
    /// How long it took, in seconds.
    pub wall_s: f64,
    /// Time in tasks, summed over slots, in seconds.
    pub work_s: f64,
    /// Durations by class, as factors of the tasks' priors.
    pub classes: Vec<Summary>,
    /// Delays until a node came, by node type, in seconds.
    pub delays: Vec<Summary>,
}

/// Mean and variance of the logarithm of something observed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Summary {
    /// Of what: a class, a node type.
    pub name: String,
    /// Observations.
    pub seen: u64,
    /// Mean of their natural logarithms.
    pub mean_log: f64,
    /// Variance of those.
    pub variance_log: f64,
}

/// Earlier runs of one job, oldest first.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct History {
    /// The runs.
    pub runs: Vec<RunRecord>,
}

/// What a run is expected to need.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Expected {
    /// In seconds.
    pub seconds: Quantiles,
    /// Growth from run to run: 0.02 if each takes 2 % more than the one before.
    pub trend: f64,
    /// The range that all but one run in a hundred should stay in.
    pub usual: (f64, f64),
}

impl Expected {
    /// True if a run that took so long is not like the others.
    pub fn is_anomaly(&self, seconds: f64) -> bool {
        seconds < self.usual.0 || seconds > self.usual.1
    }
}

impl History {
    /// Adds a run.
    pub fn add(&mut self, run: RunRecord) {
        self.runs.push(run);
        let surplus = self.runs.len().saturating_sub(KEPT);
        self.runs.drain(..surplus);
    }

    /// What is known of a class.
    pub(super) fn class(&self, name: &str) -> Option<LogNormal> {
        self.pool(|run| &run.classes, name, |_| 1.0)
    }

    /// What is known of the delay of a node type at this hour of this weekday.
    pub(super) fn delay(&self, name: &str, moment: Moment) -> Option<LogNormal> {
        self.pool(|run| &run.delays, name, |run| moment.likeness(run.started))
    }

    /// Mean and variance over runs; the variance has a part within runs and a part between them.
    fn pool(
        &self,
        of: impl Fn(&RunRecord) -> &Vec<Summary>,
        name: &str,
        weight: impl Fn(&RunRecord) -> f64,
    ) -> Option<LogNormal> {
        let found = self.runs.iter().rev().enumerate().flat_map(|(age, run)| {
            let weight = FADE.powi(age as i32) * weight(run);
            of(run).iter().filter(|s| s.name == name && sound(s)).map(move |s| (weight * (s.seen as f64).min(10.0), s))
        });
        let found: Vec<(f64, &Summary)> = found.collect();
        let total: f64 = found.iter().map(|(w, _)| w).sum();
        if total <= 0.0 {
            return None;
        }
        let mean = found.iter().map(|(w, s)| w * s.mean_log).sum::<f64>() / total;
        let around = |s: &Summary| s.variance_log + (s.mean_log - mean).powi(2);
        let variance = found.iter().map(|(w, s)| w * around(s)).sum::<f64>() / total;
        Some(LogNormal::learnt(mean, variance, total.min(MOST_WORTH)))
    }

    /// How long a run that begins at a moment is expected to take, with trend and pattern; `None` with fewer than four runs.
    pub fn expect_wall(&self, moment: Moment) -> Option<Expected> {
        self.expect(moment, |run| run.wall_s)
    }

    /// How much work (seconds in tasks) it is expected to bring.
    pub fn expect_work(&self, moment: Moment) -> Option<Expected> {
        self.expect(moment, |run| run.work_s)
    }

    /// A straight line through the logarithms over the number of the run, fitted with weights for likeness, and the spread around it.
    fn expect(&self, moment: Moment, value: impl Fn(&RunRecord) -> f64) -> Option<Expected> {
        let points: Vec<(f64, f64, f64)> = self
            .runs
            .iter()
            .enumerate()
            .filter(|(_, run)| value(run).is_finite() && value(run) > 0.0)
            .map(|(k, run)| (moment.likeness(run.started), k as f64, value(run).ln()))
            .collect();
        if points.len() < 4 {
            return None;
        }
        let weight: f64 = points.iter().map(|p| p.0).sum();
        let mean = |of: fn(&(f64, f64, f64)) -> f64| points.iter().map(|p| p.0 * of(p)).sum::<f64>() / weight;
        let (x, y) = (mean(|p| p.1), mean(|p| p.2));
        let (xx, xy) = points
            .iter()
            .fold((0.0, 0.0), |(xx, xy), p| (xx + p.0 * (p.1 - x).powi(2), xy + p.0 * (p.1 - x) * (p.2 - y)));
        let slope = if xx > 0.0 { xy / xx } else { 0.0 };
        let next = y + slope * (self.runs.len() as f64 - x);
        let rest = points.iter().map(|p| p.0 * (p.2 - y - slope * (p.1 - x)).powi(2)).sum::<f64>() / weight;
        let freedom = points.len() as f64 - 2.0;
        let far = (self.runs.len() as f64 - x).powi(2) / xx.max(1e-9) / points.len() as f64;
        let deviation = (rest * points.len() as f64 / freedom * (1.0 + 1.0 / weight.max(1.0) + far)).sqrt();
        let t = StudentsT::new(0.0, 1.0, freedom).ok()?;
        let at = |p: f64| (next + deviation * t.inverse_cdf(p)).clamp(-40.0, 40.0).exp();
        let seconds = Quantiles { q10: at(0.1), q50: at(0.5), q90: at(0.9) };
        Some(Expected { seconds, trend: slope.exp() - 1.0, usual: (at(0.005), at(0.995)) })
    }
}

/// True if a summary holds numbers that can be reckoned with; a file may hold anything.
fn sound(summary: &Summary) -> bool {
    summary.mean_log.is_finite() && summary.variance_log.is_finite() && summary.variance_log >= 0.0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(weekday: u8, hour: u8, wall_s: f64, delay_s: f64) -> RunRecord {
        let summary = |name: &str, value: f64| {
            vec![Summary { name: name.into(), seen: 5, mean_log: value.ln(), variance_log: 0.01 }]
        };
        RunRecord {
            started: Moment { weekday, hour },
            wall_s,
            work_s: 4.0 * wall_s,
            classes: summary("align", 2.0),
            delays: summary("node", delay_s),
        }
    }

    #[test]
    fn nights_differ_from_days() {
        let mut history = History::default();
        for day in 0..28 {
            history.add(run(day % 7, 3, 1000.0, 10.0));
            history.add(run(day % 7, 14, 1000.0, 600.0));
        }
        let at = |weekday, hour| history.delay("node", Moment { weekday, hour }).unwrap().quantiles().q50;
        assert!(at(2, 2) < 60.0, "{}", at(2, 2));
        assert!(at(2, 15) > 300.0, "{}", at(2, 15));
        assert!(history.delay("other", Moment { weekday: 0, hour: 0 }).is_none());
        assert!((history.class("align").unwrap().quantiles().q50 - 2.0).abs() < 0.05);
    }

    #[test]
    fn a_trend_is_followed_and_an_odd_run_noticed() {
        let mut history = History::default();
        for k in 0..20 {
            let noise = [1.0, 1.02, 0.98, 1.01][k % 4];
            history.add(run(1, 9, 1000.0 * 1.05f64.powi(k as i32) * noise, 60.0));
        }
        let expected = history.expect_wall(Moment { weekday: 1, hour: 9 }).unwrap();
        assert!((expected.trend - 0.05).abs() < 0.01, "{expected:?}");
        assert!((expected.seconds.q50 / (1000.0 * 1.05f64.powi(20)) - 1.0).abs() < 0.05, "{expected:?}");
        assert!(expected.is_anomaly(10_000.0) && !expected.is_anomaly(expected.seconds.q50));
        assert!(history.expect_work(Moment { weekday: 1, hour: 9 }).unwrap().seconds.q50 > expected.seconds.q50);
    }

    #[test]
    fn it_survives_serde_and_stays_bounded() {
        let mut history = History::default();
        (0..300).for_each(|_| history.add(run(0, 0, 10.0, 1.0)));
        assert_eq!(history.runs.len(), 200);
        let text = serde_json::to_string(&history).unwrap();
        assert_eq!(serde_json::from_str::<History>(&text).unwrap(), history);
        assert!(History::default().expect_wall(Moment { weekday: 0, hour: 0 }).is_none());
    }
}
