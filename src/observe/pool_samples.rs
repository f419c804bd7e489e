//! What pools have in use, over time: a file next to the samples, written by rank 0.

use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::jsonl::{JsonLinesReader, JsonLinesWriter};

/// A pool, or the limit of an array, at one time.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PoolSample {
    /// Seconds since the session began.
    pub t: f64,
    /// Name of the pool, or of the task whose array has a limit.
    pub pool: String,
    /// "pool", "rate" or "array".
    pub kind: String,
    /// Units; `None` for no limit, or for a rate.
    pub capacity: Option<u32>,
    /// Starts per second, of a rate.
    pub rate_per_s: Option<f64>,
    /// Units in use.
    pub in_use: u32,
    /// Tasks that wait for units and could start at once.
    pub waiting: u32,
}

impl PoolSample {
    /// Share of its units in use; 0 without a limit.
    pub(super) fn share(&self) -> f64 {
        match self.capacity {
            Some(0) => 1.0,
            Some(capacity) => f64::from(self.in_use) / f64::from(capacity),
            None => 0.0,
        }
    }
}

/// Writes the file.
pub(super) struct PoolRecorder {
    lines: JsonLinesWriter,
    /// The pools as they are now, and as they were written last.
    now: Vec<PoolSample>,
    written: Vec<PoolSample>,
}

impl PoolRecorder {
    /// Starts the file of a session.
    pub fn new(path: &Path) -> PoolRecorder {
        PoolRecorder { lines: JsonLinesWriter::anew(path.to_owned()), now: Vec::new(), written: Vec::new() }
    }

    /// The pools as they are now; the same ones in the same order at each call, and further ones.
    pub fn set(&mut self, now: Vec<PoolSample>) {
        self.now = now;
    }

    /// Writes those that have changed.
    pub fn write(&mut self) {
        let is_known = |at: usize, it: &PoolSample| {
            self.written.get(at).is_some_and(|known| PoolSample { t: it.t, ..known.clone() } == *it)
        };
        let changed: Vec<&PoolSample> =
            self.now.iter().enumerate().filter(|(at, it)| !is_known(*at, it)).map(|(_, it)| it).collect();
        if !changed.is_empty() {
            self.lines.add(changed);
            self.written.clone_from(&self.now);
        }
    }
}

/// The part of the file that was read.
#[derive(Debug, Default)]
pub(super) struct AllPools {
    reading: JsonLinesReader,
    latest: BTreeMap<(String, String), PoolSample>,
}

impl AllPools {
    /// Reads the lines appended since the last call.
    pub fn read_on(&mut self, path: &Path) {
        self.reading.read_on(path, &mut self.latest, BTreeMap::clear, |latest, it: PoolSample| {
            latest.insert((it.pool.clone(), it.kind.clone()), it);
        });
    }

    /// The latest state of each pool, by name.
    pub fn latest(&self) -> impl Iterator<Item = &PoolSample> {
        self.latest.values()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pools_that_change_are_written_and_read_as_they_grow() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pools.jsonl");
        let sample = |t: f64, pool: &str, in_use| PoolSample {
            t,
            pool: pool.into(),
            kind: "pool".into(),
            capacity: Some(4),
            rate_per_s: None,
            in_use,
            waiting: 0,
        };
        let mut recorder = PoolRecorder::new(&path);
        let mut pools = AllPools::default();
        for (t, now) in [(0.0, [1, 2]), (1.0, [1, 2]), (2.0, [1, 4])] {
            recorder.set(vec![sample(t, "a", now[0]), sample(t, "b", now[1])]);
            recorder.write();
            pools.read_on(&path);
        }
        assert_eq!(std::fs::read_to_string(&path).unwrap().lines().count(), 3);
        let latest: Vec<(&str, u32, f64)> =
            pools.latest().map(|it| (it.pool.as_str(), it.in_use, it.share())).collect();
        assert_eq!(latest, [("a", 1, 0.25), ("b", 4, 1.0)]);
    }
}
