//! Values that tasks wrote to `$PHALANX_METRICS`: a file in the run directory, written by rank 0
//! from the reports of the ranks.
//!
//! Reports count the values of completed attempts. A live run counts values as they arrive.
//!
//! The file continues across sessions, because completed tasks do not run again. Users choose the
//! names, so their number is limited.

use std::collections::BTreeMap;
use std::path::Path;

use rustc_hash::{FxHashMap, FxHashSet};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::jsonl::JsonLinesReader;
use super::run_view::RunView;
use crate::model::TaskId;

/// Maximum number of distinct names.
const MAX_NAMES: usize = 1000;

/// A line of the file.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct MeasureLine {
    /// Seconds since the session began.
    pub t: f64,
    /// The session.
    pub session: u32,
    /// Number of the task in that session.
    pub task: u32,
    /// Number of the attempt.
    pub attempt: u16,
    /// The name.
    pub name: String,
    /// The value.
    pub value: f64,
}

/// Statistics of the values of one name. The field names are those of the HTTP API.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
pub(super) struct Figure {
    /// Number of values.
    pub count: u64,
    /// Sum of the values.
    pub sum: f64,
    /// The smallest.
    pub min: f64,
    /// The largest.
    pub max: f64,
    /// The latest.
    pub last: f64,
}

impl Figure {
    /// Mean of the values.
    pub fn mean(&self) -> f64 {
        self.sum / self.count.max(1) as f64
    }
}

/// An attempt, by its session, its task in that session, and its number.
type AttemptPlace = (u32, u32, u16);

impl MeasureLine {
    fn place(&self) -> AttemptPlace {
        (self.session, self.task, self.attempt)
    }
}

/// The tasks that have completed, each with its attempt that has.
fn completed(run: &RunView) -> impl Iterator<Item = (TaskId, AttemptPlace)> {
    let completed = run.replay.all_latest().filter(|(_, _, attempt)| attempt.outcome.ok());
    completed.map(|(task, session, a)| (task, (session.began.session, a.task.0, a.attempt)))
}

/// Reads the values of completed tasks; of each name the last.
pub(super) fn by_task(run: &RunView) -> BTreeMap<TaskId, BTreeMap<String, f64>> {
    type ValuesByAttempt = FxHashMap<AttemptPlace, BTreeMap<String, f64>>;
    let mut values = ValuesByAttempt::default();
    let path = run.dir.measures();
    JsonLinesReader::default().read_on(&path, &mut values, ValuesByAttempt::clear, |values, line: MeasureLine| {
        values.entry(line.place()).or_default().insert(line.name, line.value);
    });
    completed(run).filter_map(|(task, place)| Some((task, values.remove(&place)?))).collect()
}

/// The part of the file that was read.
#[derive(Debug, Default)]
pub(super) struct MeasureReader {
    reading: JsonLinesReader,
    by_name: BTreeMap<String, Figure>,
}

impl MeasureReader {
    /// The values of the completed tasks of a run.
    pub fn of_completed(run: &RunView) -> MeasureReader {
        let (mut measures, path) = (MeasureReader::default(), run.dir.measures());
        if path.exists() {
            let completed: FxHashSet<AttemptPlace> = completed(run).map(|(_, place)| place).collect();
            measures.read_those(&path, &|line| completed.contains(&line.place()));
        }
        measures
    }

    /// Reads the lines appended since the last call.
    pub fn read_on(&mut self, path: &Path) {
        self.read_those(path, &|_| true);
    }

    fn read_those(&mut self, path: &Path, counts: &dyn Fn(&MeasureLine) -> bool) {
        self.reading.read_on(path, &mut self.by_name, BTreeMap::clear, |names, line: MeasureLine| {
            if !counts(&line) {
                return;
            }
            let MeasureLine { name, value, .. } = line;
            if let Some(figure) = names.get_mut(&name) {
                *figure = Figure {
                    count: figure.count + 1,
                    sum: figure.sum + value,
                    min: figure.min.min(value),
                    max: figure.max.max(value),
                    last: value,
                };
            } else if names.len() < MAX_NAMES {
                names.insert(name, Figure { count: 1, sum: value, min: value, max: value, last: value });
            }
        });
    }

    /// Names and statistics, ordered by name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Figure)> {
        self.by_name.iter().map(|(name, figure)| (name.as_str(), figure))
    }

    /// Statistics of one name.
    pub fn get(&self, name: &str) -> Option<&Figure> {
        self.by_name.get(name)
    }

    /// True if no task wrote a value.
    pub fn is_empty(&self) -> bool {
        self.by_name.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observe::jsonl::JsonLinesWriter;

    #[test]
    fn values_are_summed_by_name() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("measures");
        let measured =
            |name: &str, value| MeasureLine { t: 1.0, session: 1, task: 0, attempt: 1, name: name.into(), value };
        let mut lines = JsonLinesWriter::going_on(path.clone());
        lines.add(&[measured("loss", 0.5), measured("loss", -1.5), measured("steps", 7.0)]);
        lines.add(&[measured("loss", 0.25)]);
        let mut measures = MeasureReader::default();
        measures.read_on(&path);
        let loss = Figure { count: 3, sum: -0.75, min: -1.5, max: 0.5, last: 0.25 };
        assert_eq!(measures.get("loss"), Some(&loss));
        assert_eq!((loss.mean(), measures.iter().count()), (-0.25, 2));
        assert_eq!(measures.get("nothing"), None);
    }

    #[test]
    fn names_are_bounded() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("measures");
        let many: Vec<MeasureLine> = (0..MAX_NAMES + 50)
            .map(|i| MeasureLine { t: 0.0, session: 1, task: 0, attempt: 1, name: format!("n{i}"), value: 1.0 })
            .collect();
        JsonLinesWriter::going_on(path.clone()).add(&many);
        let mut measures = MeasureReader::default();
        measures.read_on(&path);
        assert_eq!(measures.iter().count(), MAX_NAMES);
    }
}
