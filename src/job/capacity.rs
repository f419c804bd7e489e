//! `[capacity]` of the job file: where further nodes come from.

use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// The `[capacity]` table.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Capacity {
    /// `provider`.
    pub provider: ProviderKind,
    /// `partition`: the Slurm partition.
    pub partition: Option<String>,
    /// `nodes_per_block`: maximum number of nodes per Slurm job; a larger request becomes several
    /// jobs.
    pub nodes_per_block: u32,
    /// `hostfile`: hosts of the provider `local`, relative to the directory where Phalanx is
    /// started.
    pub hostfile: Option<PathBuf>,
    /// `time`: time limit of a block; `None`: the default of the partition.
    pub time: Option<Duration>,
    /// `labels`: labels of all ranks of the blocks, ascending.
    pub labels: Vec<String>,
    /// `extra`: further options of `sbatch`.
    pub extra: Vec<String>,
    /// `listen`: address on rank 0's node that blocks connect to.
    pub listen: Option<String>,
}

/// The provider of nodes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ProviderKind {
    /// No provider: ranks can only be parked.
    #[default]
    None,
    /// This machine: further processes.
    Local,
    /// Slurm: further jobs.
    Slurm,
}

/// Long options of `sbatch`, with their letters, that a block cannot have: it would no longer be
/// one job with a known number, name and size.
const UNUSABLE: [(&str, Option<char>); 10] = [
    ("array", Some('a')),
    ("help", Some('h')),
    ("job-name", Some('J')),
    ("nodes", Some('N')),
    ("output", Some('o')),
    ("quiet", Some('Q')),
    ("test-only", None),
    ("version", Some('V')),
    ("wait", Some('W')),
    ("wrap", None),
];

/// Letters of `sbatch` options without a value, which may be followed by others in the same word.
const SWITCHES: &str = "hHIkOQsvVW";

/// The option in a word of `extra` that a block cannot have, if there is one. As in `sbatch`, long
/// options may be abbreviated (`--arr`) and letters combined (`-HW`).
pub(crate) fn unusable_option(word: &str) -> Option<&'static str> {
    let found = |(name, _): &(&'static str, Option<char>)| *name;
    if let Some(long) = word.strip_prefix("--") {
        let given = long.split('=').next().filter(|given| !given.is_empty())?;
        return UNUSABLE.iter().find(|(name, _)| name.starts_with(given)).map(found);
    }
    for letter in word.strip_prefix('-')?.chars() {
        if let Some(option) = UNUSABLE.iter().find(|(_, short)| *short == Some(letter)) {
            return Some(option.0);
        }
        if !SWITCHES.contains(letter) {
            return None;
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_read_as_sbatch_reads_them() {
        for word in ["--array=1-3", "--arr=1", "-a1-3", "-a", "-HW", "-Q", "--wait", "--test-only", "--nodes=4", "-N4"]
        {
            assert!(unusable_option(word).is_some(), "{word}");
        }
        for word in ["--account=a", "-Aabc", "-A", "--wait-all-nodes=1", "--nodelist=n1", "-H", "-Mbig", "-wn1", "abc"]
        {
            assert_eq!(unusable_option(word), None, "{word}");
        }
        assert_eq!(unusable_option("--arr=1"), Some("array"));
    }
}
