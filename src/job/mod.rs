//! The job file: from TOML text to a validated [`Job`], with every mistake reported at once.
//!
//! The way of a file: [`load`] reads it, `read` and `spec` turn the TOML tree into what was typed (with places), `resolve`
//! works out what that means and makes the [`Job`]. Mistakes of all stages are collected as [`Diagnostics`]. A job keeps its
//! tasks as groups with templates; [`Job::task`] expands one at a time.
//!
//! Parsing is a pure function of the text and the starting directory: ranks that cannot see the file parse the text that
//! rank 0 sends them and come to the same job, with the same numbers.

pub mod alert;
mod body;
mod capacity;
pub(crate) mod diagnostic;
pub(crate) mod dialect;
pub(crate) mod document;
mod expand;
mod file_names;
pub mod import;
mod key;
pub(crate) mod load;
mod pieces;
pub(crate) mod read;
mod resolve;
pub(crate) mod scalar;
mod scaling;
mod schema;
mod space;
mod spec;
mod template;
pub mod units;
pub(crate) mod values;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::graph::link::Link;
use crate::model::TaskId;

pub use alert::Alert;
pub use capacity::{Capacity, ProviderKind};
pub use diagnostic::{Diagnostic, Diagnostics, Severity};
pub use expand::SubstError;
pub use file_names::FileNames;
pub use load::{KernelCheck, Loaded, load, parse};
pub(crate) use resolve::graphs::OPERATION_KERNEL;
pub use scaling::{Above, Cost, Intent, NodePrice, PolicyKind, Rule, Scaling, ScoreWeights, Trigger};
pub use schema::schema;

/// A validated job: what one TOML file describes.
///
/// Tasks are kept as *groups* (one per `[[task]]` table) and expanded one at a time by [`Job::task`], so an array of a million
/// tasks costs one group.
#[derive(Clone, Debug, Default)]
pub struct Job {
    /// `[job] name`, else the file's stem.
    pub name: String,
    /// `[job] description`.
    pub description: String,
    /// Directory that relative paths and commands start from (absolute). Default: the current directory.
    pub dir: PathBuf,
    /// `[job.env]`: variables that every task sees.
    pub env: Vec<(String, String)>,
    /// `[job] prologue`: shell lines that run before every command (`module load ...`).
    pub prologue: Vec<String>,
    /// `[job] shell`: the shell of tasks that choose none; `None`: `sh -c`.
    pub shell: Option<Arc<[String]>>,
    /// `[job] output_wait`: how long a declared output on a shared file system may take to be seen.
    pub output_wait: Duration,
    /// `[job] output`: which captured output is kept.
    pub output: KeepOutput,
    /// `[job] flush`: when the journal is forced to disk.
    pub flush: Flush,
    /// `[job] max_failures`: stop starting tasks after this many have failed; `None` keeps going.
    pub max_failures: Option<u32>,
    /// `[job] partition`: how tasks get their homes.
    pub partition: PartitionMethod,
    /// `[scaling]`: how the number of ranks changes; `None` keeps it as it is started.
    pub scaling: Option<Scaling>,
    /// `[cost]`: prices, budget and deadline.
    pub cost: Cost,
    /// `[capacity]`: where further nodes come from.
    pub capacity: Capacity,
    /// `[[alert]]`: what somebody wants to hear of.
    pub alerts: Vec<Alert>,
    /// `[[graph]]`: the data graphs that operations run on.
    pub graphs: Vec<DataGraph>,
    /// The groups, in file order.
    pub groups: Vec<Group>,
    /// The dependencies between them (from `needs`, and from `inputs`/`outputs` that name the same file). Two links may
    /// imply the same edge.
    pub links: Vec<Link>,
    /// What the tasks of each group do.
    pub(crate) bodies: Vec<body::Body>,
}

/// A data graph of a job.
#[derive(Clone, Debug, PartialEq)]
pub struct DataGraph {
    /// Its name.
    pub name: String,
    /// Where it comes from.
    pub source: crate::data::source::GraphSource,
}

/// Which captured output of tasks is kept. Output of failed tasks is always kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum KeepOutput {
    /// Of every task.
    #[default]
    All,
    /// Only of tasks that failed.
    Failed,
}

/// When the journal is forced to disk (`fdatasync`). Each record is handed to the system as soon as that takes it in any case, so a killed
/// process loses next to nothing; this is about the machine itself going down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flush {
    /// After every record.
    Always,
    /// At most this long after a record.
    Every(Duration),
    /// Left to the system.
    Never,
}

impl Default for Flush {
    /// Once a second.
    fn default() -> Flush {
        Flush::Every(Duration::from_secs(1))
    }
}

/// How tasks get their homes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum PartitionMethod {
    /// Multi-constraint k-way partition over level bands (METIS): little data moved, ranks busy throughout.
    #[default]
    Bands,
    /// Greedy earliest finish time, in order of upward rank (HEFT).
    Eft,
    /// Task `i` to rank `i mod n`, weighted by slots.
    RoundRobin,
}

/// One `[[task]]` table: tasks that differ only in index and substitutions. Elements count from 0.
#[derive(Clone, Debug)]
pub struct Group {
    /// `name`.
    pub name: Arc<str>,
    /// Number of its first element; element `i` is task `first + i`.
    pub first: TaskId,
    /// How many tasks it stands for (1 for a plain task).
    pub count: u32,
    /// True for `array`, `matrix` or `pattern`: its tasks are called `name[index]`.
    pub indexed: bool,
    /// `array = "...%limit"`: at most so many of its tasks run at once.
    pub limit: Option<u32>,
    /// CPUs (slots) that each task takes; at least 1. For MPI tasks: per MPI rank.
    pub cpus: u32,
    /// Bytes of memory that each task may use.
    pub memory: Option<u64>,
    /// GPUs that each task takes.
    pub gpus: u32,
    /// Time limit.
    pub time: Option<Duration>,
    /// What happens after a failure.
    pub retry: Retry,
    /// Higher first; default 0.
    pub priority: i32,
    /// Prior duration of one task, if the file gives one; of the first, where they differ (see [`Job::estimate`]).
    pub estimate: Option<Duration>,
    /// Name under which durations are learnt and shown; default: the group's name.
    pub class: Arc<str>,
    /// `mpi`: the command is started on several MPI ranks.
    pub mpi: Option<MpiShape>,
}

impl Group {
    /// True if its tasks need more than one rank of so many slots.
    pub fn spans_ranks(&self, slots: u32) -> bool {
        let spans = |mpi: MpiShape| {
            mpi.ranks.saturating_mul(self.cpus) > slots || mpi.per_node.is_some_and(|most| most < mpi.ranks)
        };
        self.mpi.is_some_and(spans)
    }
}

/// `retries`, with its options.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Retry {
    /// Further attempts after the first.
    pub count: u16,
    /// Wait before the first further attempt.
    pub backoff: Duration,
    /// The wait grows by this factor with each attempt.
    pub factor: f64,
    /// Try again on another rank, where there is one.
    pub elsewhere: bool,
}

/// `mpi = { ranks = 4, per_node = 2 }`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct MpiShape {
    /// MPI ranks that the command is started with.
    pub ranks: u32,
    /// At most so many of them on one node.
    pub per_node: Option<u32>,
}

/// One task, with everything substituted: what a slot needs in order to run it.
#[derive(Clone, Debug, PartialEq)]
pub struct Task {
    /// Its number.
    pub id: TaskId,
    /// The group's name.
    pub name: String,
    /// The value of `{index}`, for tasks of an array, matrix or pattern.
    pub index: Option<u64>,
    /// What it does.
    pub work: Work,
    /// File to read standard input from; like `stdout` and `stderr` with its `%`-patterns, which [`FileNames::fill`] fills in.
    pub stdin: Option<PathBuf>,
    /// File of its own for standard output.
    pub stdout: Option<PathBuf>,
    /// File of its own for standard error.
    pub stderr: Option<PathBuf>,
    /// Directory that it runs in (absolute).
    pub dir: PathBuf,
    /// Variables of its own, after the job's.
    pub env: Vec<(String, String)>,
    /// Declared input files (as written, relative to `dir`) and their sizes in bytes where given.
    pub inputs: Vec<(PathBuf, Option<u64>)>,
    /// Declared output files.
    pub outputs: Vec<(PathBuf, Option<u64>)>,
    /// Those of them that must be there when its command has ended well.
    pub promised: Vec<PathBuf>,
    /// The words of the shell that a line of shell is given to as the last one; `None`: `sh -c`.
    pub shell: Option<Arc<[String]>>,
    /// `background = "keep"`: what its command leaves running when it ends lives on.
    pub keeps_background: bool,
}

/// What a task does.
#[derive(Clone, Debug, PartialEq)]
pub enum Work {
    /// `command = ["prog", "arg"]`: executed directly.
    Command(Vec<String>),
    /// `command = "line"`: through the task's shell.
    Shell(String),
    /// `kernel = "name"`, `args = { ... }`: a function of this process.
    Kernel {
        /// Its registered name.
        name: String,
        /// Its arguments.
        args: toml::Table,
    },
}
