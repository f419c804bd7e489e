//! Values that tasks wrote about themselves to `$PHALANX_METRICS`: a file of the run directory, written by rank 0 from what ranks tell it.
//!
//! It goes on from session to session, since tasks that are complete do not run again. Names are the users': so many are kept apart and
//! no more, whatever tasks write.

use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::jsonl::JsonLinesReader;

/// Names that are kept apart.
const NAMES: usize = 1000;

/// A line of the file.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct MeasureLine {
    /// Seconds since the session began.
    pub t: f64,
    /// The session.
    pub session: u32,
    /// The task, by its number in that session.
    pub task: u32,
    /// Which attempt.
    pub attempt: u16,
    /// The name.
    pub name: String,
    /// The value.
    pub value: f64,
}

/// What was written under one name. The names of the fields are those of the HTTP API.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(super) struct Figure {
    /// How many values.
    pub count: u64,
    /// Their sum.
    pub sum: f64,
    /// The smallest.
    pub min: f64,
    /// The largest.
    pub max: f64,
    /// The latest.
    pub last: f64,
}

impl Figure {
    /// Their mean.
    pub fn mean(&self) -> f64 {
        self.sum / self.count.max(1) as f64
    }
}

/// The file, as far as it was read.
#[derive(Debug, Default)]
pub(super) struct MeasureReader {
    reading: JsonLinesReader,
    by_name: BTreeMap<String, Figure>,
}

impl MeasureReader {
    /// All of a run.
    pub fn of(path: &Path) -> MeasureReader {
        let mut measures = MeasureReader::default();
        measures.read_on(path);
        measures
    }

    /// Reads what has been written since the last time.
    pub fn read_on(&mut self, path: &Path) {
        self.reading.read_on(path, &mut self.by_name, BTreeMap::clear, |names, MeasureLine { name, value, .. }| {
            if let Some(figure) = names.get_mut(&name) {
                *figure = Figure {
                    count: figure.count + 1,
                    sum: figure.sum + value,
                    min: figure.min.min(value),
                    max: figure.max.max(value),
                    last: value,
                };
            } else if names.len() < NAMES {
                names.insert(name, Figure { count: 1, sum: value, min: value, max: value, last: value });
            }
        });
    }

    /// The names with their figures, in order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Figure)> {
        self.by_name.iter().map(|(name, figure)| (name.as_str(), figure))
    }

    /// What was written under a name.
    pub fn get(&self, name: &str) -> Option<&Figure> {
        self.by_name.get(name)
    }

    /// True if no task wrote any.
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
        let measures = MeasureReader::of(&path);
        let loss = Figure { count: 3, sum: -0.75, min: -1.5, max: 0.5, last: 0.25 };
        assert_eq!(measures.get("loss"), Some(&loss));
        assert_eq!((loss.mean(), measures.iter().count()), (-0.25, 2));
        assert_eq!(measures.get("nothing"), None);
    }

    #[test]
    fn names_are_bounded() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("measures");
        let many: Vec<MeasureLine> = (0..NAMES + 50)
            .map(|i| MeasureLine { t: 0.0, session: 1, task: 0, attempt: 1, name: format!("n{i}"), value: 1.0 })
            .collect();
        JsonLinesWriter::going_on(path.clone()).add(&many);
        assert_eq!(MeasureReader::of(&path).iter().count(), NAMES);
    }
}
