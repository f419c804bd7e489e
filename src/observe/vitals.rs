//! Resource usage of ranks and their nodes over time: a file next to the samples, written by rank 0
//! from the reports of the ranks.

use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::jsonl::JsonLinesReader;
use crate::model::Vitals;

/// A line of the file.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Vital {
    /// Seconds since the session began.
    pub t: f64,
    /// The rank.
    pub rank: u32,
    /// Usage of the rank and its node.
    #[serde(flatten)]
    pub vitals: Vitals,
}

/// Recent usage of one rank.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Lately {
    /// Its latest record.
    pub last: Vital,
    /// CPUs that it kept busy between its last two records.
    pub cpus: f64,
}

/// The part of the file that was read.
#[derive(Debug, Default)]
pub(super) struct AllVitals {
    reading: JsonLinesReader,
    ranks: BTreeMap<u32, Lately>,
}

impl AllVitals {
    /// Reads the lines appended since the last call.
    pub fn read_on(&mut self, path: &Path) {
        self.reading.read_on(path, &mut self.ranks, BTreeMap::clear, |ranks, vital: Vital| {
            let before = ranks.get(&vital.rank).map(|lately| lately.last);
            ranks.insert(vital.rank, Lately { last: vital, cpus: before.map_or(0.0, |before| cpus(&before, &vital)) });
        });
    }

    /// Recent usage of a rank.
    pub fn of(&self, rank: u32) -> Option<&Lately> {
        self.ranks.get(&rank)
    }

    /// The latest record of each rank.
    pub fn latest(&self) -> impl Iterator<Item = &Vital> {
        self.ranks.values().map(|lately| &lately.last)
    }

    /// Maximum of a value over all ranks.
    pub fn most(&self, value: impl Fn(&Vitals) -> f64) -> Option<f64> {
        self.latest().map(|vital| value(&vital.vitals)).max_by(f64::total_cmp)
    }
}

/// Reads all records of a file, in order.
pub(super) fn all(path: &Path) -> Vec<Vital> {
    let mut all = Vec::new();
    JsonLinesReader::default().read_on(path, &mut all, Vec::clear, Vec::push);
    all
}

/// CPUs that a rank kept busy between two records.
pub(super) fn cpus(before: &Vital, after: &Vital) -> f64 {
    let passed = after.t - before.t;
    if passed > 0.0 { ((after.vitals.cpu_s - before.vitals.cpu_s) / passed).max(0.0) } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observe::jsonl::JsonLinesWriter;

    #[test]
    fn the_latest_of_each_rank_is_known_with_its_rate() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("vitals");
        let vital = |t, rank, cpu_s| Vital { t, rank, vitals: Vitals { cpu_s, ..Vitals::default() } };
        let written = [vital(1.0, 0, 5.0), vital(1.0, 1, 1.0), vital(3.0, 0, 9.0)];
        JsonLinesWriter::anew(path.clone()).add(&written);
        let mut vitals = AllVitals::default();
        vitals.read_on(&path);
        assert_eq!(vitals.of(0), Some(&Lately { last: vital(3.0, 0, 9.0), cpus: 2.0 }));
        assert_eq!(vitals.of(1).map(|lately| lately.cpus), Some(0.0));
        assert_eq!(vitals.most(|vitals| vitals.cpu_s), Some(9.0));
        assert_eq!(all(&path), written);
    }
}
