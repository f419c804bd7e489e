//! `[capacity]` and `[[site]]` of the job file: where further nodes come from.

use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::NodeTerms;

/// A source of nodes: a `[[site]]` table or, in a job without one, the `[capacity]` table, once for
/// each `[[cost.node]]` if the job has these.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Site {
    /// How its nodes are requested.
    pub capacity: Capacity,
    /// Name, nodes and limits of a `[[site]]` or of a node type; `None`: nodes of `[capacity]`, at
    /// the price of `[cost]`.
    pub terms: Option<SiteTerms>,
}

impl Site {
    /// Its name; `None` for that of `[capacity]`.
    pub fn name(&self) -> Option<&str> {
        self.terms.as_ref().map(|terms| terms.name.as_str())
    }
}

/// What a `[[site]]` has beside the fields of `[capacity]`; with `[[cost.node]]` and without sites
/// each type is one.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SiteTerms {
    /// `name`.
    pub name: String,
    /// Its nodes: what they have, their price, and how many there may be at a time.
    pub node: NodeTerms,
    /// `patience`: a node that has not been granted for this long is requested from the next site,
    /// too.
    pub patience: Duration,
    /// `bandwidth`: bytes per second between its nodes and rank 0.
    pub bandwidth: Option<u64>,
}

/// How nodes are requested: the fields that `[capacity]` and `[[site]]` share.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Capacity {
    /// `provider`.
    pub provider: ProviderKind,
    /// `partition`: the Slurm partition.
    pub partition: Option<String>,
    /// `account`: the account that Slurm charges.
    pub account: Option<String>,
    /// `cluster`: a cluster of Slurm's database (`-M`), or the path of its configuration
    /// (`SLURM_CONF`); `None`: that of this machine.
    pub cluster: Option<String>,
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
    /// `slots` of the `[[cost.node]]` that its nodes are; `None`: as many as a rank finds there.
    pub slots: Option<u32>,
    /// `extra`: further options of `sbatch`.
    pub extra: Vec<String>,
    /// `[capacity.commands]` or `[site.commands]`: the lines of the provider `commands`.
    pub commands: Option<CommandCapacity>,
}

/// The `[capacity.commands]` table. Lines may have placeholders; `job_id`, `waiting`, `running`,
/// `ended` and `node` are valid regular expressions.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CommandCapacity {
    /// `submit`: the line that submits the script of a block.
    pub submit: String,
    /// `job_id`: finds the id of the job in what the line prints.
    pub job_id: String,
    /// `state`: the line that prints the state of a job.
    pub state: String,
    /// `waiting`: matches what it prints for a job that waits.
    pub waiting: String,
    /// `running`: matches what it prints for a job that runs.
    pub running: String,
    /// `ended`: matches what it prints for a job that is over; `None`: anything else.
    pub ended: Option<String>,
    /// `node`: finds the node of a job that runs.
    pub node: Option<String>,
    /// `cancel`: the line that cancels a job.
    pub cancel: String,
    /// `release`: the line that gives the node of a job back; `None`: the job ends by itself.
    pub release: Option<String>,
}

impl CommandCapacity {
    /// True if the submit line is told the labels that the node of a block must have.
    pub(crate) fn asks_for_labels(&self) -> bool {
        placeholders(&self.submit).any(|name| name == LABELS_PLACEHOLDER)
    }
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
    /// Another batch system, through command lines.
    Commands,
}

impl ProviderKind {
    /// Its name in the job file.
    pub fn name(self) -> &'static str {
        match self {
            ProviderKind::None => "none",
            ProviderKind::Local => "local",
            ProviderKind::Slurm => "slurm",
            ProviderKind::Commands => "commands",
        }
    }
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

/// Placeholders of `submit`.
pub(crate) const SUBMIT_PLACEHOLDERS: [&str; 11] = [
    "script",
    "name",
    "log",
    "partition",
    "account",
    "cluster",
    LABELS_PLACEHOLDER,
    "time",
    "minutes",
    "seconds",
    "extra",
];

/// The one of them for the labels that the node of a block must have.
pub(crate) const LABELS_PLACEHOLDER: &str = "labels";

/// Those of them that need a time limit.
pub(crate) const TIME_PLACEHOLDERS: [&str; 3] = ["time", "minutes", "seconds"];

/// Placeholders of the other lines of `[capacity.commands]`.
pub(crate) const ID_PLACEHOLDERS: [&str; 1] = ["id"];

/// The parts of a line of `[capacity.commands]`.
pub(crate) enum LinePart<'a> {
    /// Text of the line.
    Text(&'a str),
    /// `{word}`: a placeholder.
    Placeholder(&'a str),
    /// `{{word}}`: the word in single braces.
    Braces(&'a str),
}

/// The parts of a line. The shell's own braces are text: `${HOME}`, `{ a; b; }`.
pub(crate) fn parts(line: &str) -> Vec<LinePart<'_>> {
    let (mut parts, mut text, mut at) = (Vec::new(), 0, 0);
    while let Some(found) = line[at..].find('{') {
        let open = at + found;
        let is_double = line[open + 1..].starts_with('{');
        let (from, close) = if is_double { (open + 2, "}}") } else { (open + 1, "}") };
        let end = line[from..].find(|c: char| !c.is_ascii_lowercase() && c != '_').map_or(line.len(), |end| from + end);
        let word = &line[from..end];
        at = from;
        if !word.is_empty() && line[end..].starts_with(close) && !line[..open].ends_with('$') {
            parts.push(LinePart::Text(&line[text..open]));
            parts.push(if is_double { LinePart::Braces(word) } else { LinePart::Placeholder(word) });
            (at, text) = (end + close.len(), end + close.len());
        }
    }
    parts.push(LinePart::Text(&line[text..]));
    parts
}

/// The placeholders of a line.
pub(crate) fn placeholders(line: &str) -> impl Iterator<Item = &str> {
    parts(line).into_iter().filter_map(|part| match part {
        LinePart::Placeholder(name) => Some(name),
        _ => None,
    })
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
