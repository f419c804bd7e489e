//! What is unusual about a run compared with earlier runs of the same job: its length, its work, a
//! class of its tasks, the delay of its nodes.
//!
//! A value is unusual if it lies outside the range expected for 99 of 100 such runs, with trend and
//! daily and weekly pattern, and differs by at least a quarter. The second condition prevents
//! alarms about one percent where all earlier runs were nearly equal.

use serde::{Deserialize, Serialize};

use super::Quantiles;
use super::history::{Expected, History, Moment, RunRecord, Summary};

/// Minimum factor of an unusual difference.
const MIN_FACTOR: f64 = 1.25;

/// Minimum difference in wall time, in seconds, whatever the factor.
const MIN_WALL_DIFFERENCE_S: f64 = 1.0;

/// Minimum difference of a class, as a share of the run's work.
const MIN_CLASS_SHARE: f64 = 0.02;

/// At most this number of classes is reported, those with the greatest difference.
const MAX_CLASSES_REPORTED: usize = 5;

/// The quantity that is unusual.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Quantity {
    /// The length of the run.
    Wall,
    /// The time in its tasks, summed over slots.
    Work,
    /// The duration of a task of a class.
    Class(String),
    /// The delay until a node of a kind came.
    Delay(String),
}

/// An unusual quantity of a run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Anomaly {
    /// The quantity.
    pub what: Quantity,
    /// The value found, in seconds.
    pub found_s: f64,
    /// The usual value, in seconds.
    pub usual_s: Quantiles,
    /// Number of earlier runs that the usual value is based on.
    pub runs: u32,
    /// When the run began.
    pub started: Moment,
}

impl History {
    /// The unusual quantities of a run.
    pub fn unusual(&self, run: &RunRecord) -> Vec<Anomaly> {
        let mut found = Vec::new();
        if run.whole {
            let wall =
                self.expect_wall(run).filter(|usual| (run.wall_s - usual.seconds.q50).abs() >= MIN_WALL_DIFFERENCE_S);
            found.extend(odd(run, Quantity::Wall, run.wall_s, wall));
            found.extend(odd(run, Quantity::Work, run.work_s, self.expect_work(run)));
        }
        found.extend(self.unusual_classes(run));
        for delay in &run.delays {
            let usual = self.expect(run.started(), |earlier| named(&earlier.delays, &delay.name));
            found.extend(odd(run, Quantity::Delay(delay.name.clone()), delay.seconds(), usual));
        }
        found
    }

    fn unusual_classes(&self, run: &RunRecord) -> Vec<Anomaly> {
        let mut found: Vec<(f64, Anomaly)> = Vec::new();
        for class in &run.classes {
            let usual = self.expect(run.started(), |earlier| named(&earlier.classes, &class.name));
            let anomaly = odd(run, Quantity::Class(class.name.clone()), class.seconds(), usual);
            found.extend(anomaly.map(|a| ((a.found_s - a.usual_s.q50).abs() * class.seen as f64, a)));
        }
        found.retain(|(difference, _)| *difference >= MIN_CLASS_SHARE * run.work_s);
        found.sort_by(|a, b| b.0.total_cmp(&a.0));
        found.into_iter().take(MAX_CLASSES_REPORTED).map(|(_, anomaly)| anomaly).collect()
    }
}

/// The value of a run under a name, in seconds.
fn named(summaries: &[Summary], name: &str) -> Option<f64> {
    summaries.iter().find(|summary| summary.name == name).map(Summary::seconds)
}

fn odd(run: &RunRecord, what: Quantity, found_s: f64, usual: Option<Expected>) -> Option<Anomaly> {
    let usual = usual?;
    let middle = usual.seconds.q50;
    let outside = found_s > usual.usual.1.max(middle * MIN_FACTOR) || found_s < usual.usual.0.min(middle / MIN_FACTOR);
    let anomaly = Anomaly { what, found_s, usual_s: usual.seconds, runs: usual.runs, started: run.started() };
    outside.then_some(anomaly)
}

#[cfg(test)]
mod tests {
    use super::super::history::tests::run;
    use super::*;

    /// Ten runs of about 1000 s.
    fn history() -> History {
        let mut history = History::default();
        (0..10u64).for_each(|k| history.add(run(7 * k, 9, [1000.0, 1020.0, 990.0][k as usize % 3], 60.0)));
        history
    }

    #[test]
    fn a_slow_run_is_unusual_in_all_that_was_slow() {
        let found = history().unusual(&run(70, 9, 2300.0, 60.0));
        let what: Vec<&Quantity> = found.iter().map(|a| &a.what).collect();
        assert_eq!(what, [&Quantity::Wall, &Quantity::Work, &Quantity::Class("align".into())]);
        assert!((found[0].found_s / found[0].usual_s.q50 - 2.3).abs() < 0.1 && found[0].runs == 10, "{found:?}");
        // One that waited for its nodes, and one that is suspiciously fast.
        let waited = history().unusual(&run(70, 9, 1000.0, 900.0));
        assert_eq!(waited.iter().map(|a| &a.what).collect::<Vec<_>>(), [&Quantity::Delay("node".into())]);
        assert_eq!(history().unusual(&run(70, 9, 300.0, 60.0)).len(), 3);
    }

    #[test]
    fn usual_runs_are_not() {
        assert_eq!(history().unusual(&run(70, 9, 1060.0, 62.0)), []);
        // Exactly alike, so that any difference is outside the range.
        let mut alike = History::default();
        (0..10).for_each(|k| alike.add(run(k, 9, 1000.0, 60.0)));
        assert_eq!(alike.unusual(&run(11, 9, 1100.0, 60.0)), []);
        assert_eq!(History::default().unusual(&run(0, 9, 1.0, 1.0)), []);
        let stopped = RunRecord { whole: false, ..run(70, 9, 10.0, 60.0) };
        assert!(history().unusual(&stopped).iter().all(|a| a.what != Quantity::Wall));
    }
}
