//! The job file: parses TOML text into a validated [`Job`] and reports all mistakes at once.
//!
//! Stages: [`load`] reads the file ([`load_all`] several, as one job); `read` and `spec` convert
//! the TOML tree to typed fields with places; `resolve` interprets them and builds the [`Job`].
//! Mistakes of all stages are collected as [`Diagnostics`]. A job stores its tasks as groups with
//! templates; [`Job::task`] expands one at a time.
//!
//! Parsing is a pure function of the text and the starting directory: ranks that cannot read the
//! file parse the text that rank 0 sends, and build the same job with the same numbers.

mod added;
mod advisor;
pub mod alert;
mod body;
pub(crate) mod bounded_read;
pub(crate) mod cache;
pub(crate) mod capacity;
pub(crate) mod container;
mod declared_files;
pub(crate) mod diagnostic;
pub(crate) mod dialect;
pub(crate) mod document;
mod edit;
mod expand;
mod file_names;
mod file_order;
mod foreign;
pub mod import;
mod key;
pub(crate) mod load;
mod pieces;
pub(crate) mod read;
mod resolve;
mod retry;
pub(crate) mod scalar;
mod scaling;
mod schema;
mod selector;
mod several;
mod slots;
mod source;
mod space;
mod spec;
mod synonyms;
mod template;
pub mod units;
mod value_files;
pub(crate) mod values;
mod written_files;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::graph::deal::LoadRule;
use crate::graph::link::Link;
use crate::model::{Labels, RankRoom, Shortfalls, TaskId};

pub use added::{Addition, GrowingJob, Whose, parts_of, read_added, text_with};
pub use advisor::AdvisorAddress;
pub use alert::Alert;
pub(crate) use body::OPERATION_KERNEL;
pub use cache::{CacheRules, CacheSettings};
pub use capacity::{Capacity, CommandCapacity, ProviderKind, Site, SiteTerms};
pub use container::{Container, ContainerRuntime};
pub use declared_files::FileSet;
pub(crate) use diagnostic::suggest;
pub use diagnostic::{Diagnostic, Diagnostics, Severity};
pub use edit::{FieldChange, set_task_fields};
pub use expand::SubstError;
pub use file_names::FileNames;
pub use load::{KernelCheck, Loaded};
pub(crate) use resolve::names::check_name;
pub use retry::{AUTO_MEMORY_FACTOR, DEFAULT_AUTO_MEMORY, GroupRetry, Retry};
pub use scaling::{Above, Cost, Intent, NodeTerms, PolicyKind, Rule, Scaling, ScoreWeights, Trigger};
pub use schema::schema;
pub use several::JobPart;
pub(crate) use several::is_several;
pub use slots::{SlotCount, SlotRange};
pub use source::{load, load_all, parse};
pub use written_files::WrittenFiles;
pub(crate) use written_files::{clean_path, without_pattern};

/// A validated job: the content of one TOML file.
///
/// Tasks are stored as *groups* (one per `[[task]]` table) and expanded one at a time by
/// [`Job::task`], so an array of a million tasks takes one group.
#[derive(Clone, Debug, Default)]
pub struct Job {
    /// `[job] name`, else the file's stem.
    pub name: String,
    /// `[job] description`.
    pub description: String,
    /// Base directory of relative paths, and working directory of commands (absolute). Default: the
    /// current directory.
    pub dir: PathBuf,
    /// `[job.env]`: environment variables of every task.
    pub env: Vec<(String, String)>,
    /// `[job] prologue`: shell lines that run before every command (`module load ...`).
    pub prologue: Vec<String>,
    /// `[job] shell`: default shell of tasks; `None`: `sh -c`.
    pub shell: Option<Arc<[String]>>,
    /// `[job] output_wait`: maximum time for a declared output to appear on a shared file system.
    pub output_wait: Duration,
    /// `[job] output`: which captured output is kept.
    pub output: KeepOutput,
    /// `[job] flush`: when the journal is synced to disk.
    pub flush: Flush,
    /// `[job] max_failures`: stop starting tasks after this many have failed; `None` keeps going.
    pub max_failures: Option<u32>,
    /// `[job] open`: the run waits for further tasks until it is closed.
    pub open: bool,
    /// `[job] share`: share of the slot time beside other jobs of the run; `None` unless given.
    pub share: Option<u32>,
    /// `[job] slots`: how many slots each rank has; `None` unless given.
    pub slots: Option<SlotRange>,
    /// `[job] placement`: how homes of tasks are chosen.
    pub placement: Placement,
    /// `[scaling]`: how the number of ranks changes; `None` keeps the initial ranks.
    pub scaling: Option<Scaling>,
    /// `[cost]`: prices, budget and deadline.
    pub cost: Cost,
    /// `[[site]]`, or `[capacity]` with a provider: where further nodes come from.
    pub sites: Vec<Site>,
    /// `listen` of `[capacity]`: address on rank 0's node that blocks connect to.
    pub listen: Option<String>,
    /// `[cache]`: where results of tasks are kept.
    pub cache: CacheSettings,
    /// `[advisor]`: who is asked about changes of the number of ranks.
    pub advisor: Option<AdvisorAddress>,
    /// `[[alert]]`: metrics to watch.
    pub alerts: Vec<Alert>,
    /// `[[graph]]`: data graphs for operations.
    pub graphs: Vec<DataGraph>,
    /// `[pools]`: resources that all ranks share.
    pub pools: Vec<Pool>,
    /// The groups, in file order.
    pub groups: Vec<Group>,
    /// Dependencies between groups (from `needs`, and from `inputs`/`outputs` that name the same
    /// file). Two links may imply the same edge.
    pub links: Vec<Link>,
    /// The jobs that it was made of, in their order; empty for a single job.
    pub parts: Vec<JobPart>,
    /// Work of the tasks of each group.
    pub(crate) bodies: Vec<body::Body>,
    /// `[defaults]`, which hold for added tasks, too.
    pub(crate) defaults: Arc<spec::Common>,
    /// What first attempts at tasks with `memory = "auto"` ask for, those at added tasks too, in
    /// bytes by class.
    pub auto_memory: Arc<[(String, u64)]>,
    /// The ranks with which its session began and their slots, where a journal is read; empty in a
    /// run.
    pub rank_slots: Arc<[(u32, u32)]>,
}

/// A data graph of a job.
#[derive(Clone, Debug, PartialEq)]
pub struct DataGraph {
    /// Its name.
    pub name: String,
    /// Its source: a file or a generator.
    pub source: crate::data::source::GraphSource,
    /// `divide`: whether it is divided among the active ranks; `None`: as its size suggests.
    pub divide: Option<bool>,
    /// What was decided about that (see [`Job::divide_graphs`]).
    pub is_divided: bool,
}

/// A resource that all ranks share.
#[derive(Clone, Debug, PartialEq)]
pub struct Pool {
    /// Its name.
    pub name: String,
    /// Units in use at once; `None`: no limit.
    pub capacity: Option<u32>,
    /// Starts per time; `None`: no limit.
    pub rate: Option<StartRate>,
}

/// Starts per time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StartRate {
    /// Number of starts, at least 1.
    pub starts: u32,
    /// The time.
    pub per: Duration,
}

/// Which captured output is kept. Output of failed tasks is always kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum KeepOutput {
    /// Output of all tasks.
    #[default]
    All,
    /// Output of failed tasks only.
    Failed,
}

/// When the journal is synced to disk (`fdatasync`). Records are passed to the operating system
/// immediately in any case, so a killed process loses next to nothing; this setting protects
/// against a crash of the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flush {
    /// After every record.
    Always,
    /// At most this long after a record.
    Every(Duration),
    /// Never; the operating system decides.
    Never,
}

impl Default for Flush {
    /// Once per second.
    fn default() -> Flush {
        Flush::Every(Duration::from_secs(1))
    }
}

/// How homes of tasks are chosen: for the first hand-out, and at each change of homes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Placement {
    /// Multi-constraint k-way partition over level bands (METIS): little data movement, ranks busy
    /// throughout.
    #[default]
    Bands,
    /// Greedy earliest finish time, in order of upward rank (HEFT).
    EarliestFinish,
    /// By load alone.
    Load(LoadRule),
}

/// One `[[task]]` table: tasks that differ only in index and substituted values. Elements are
/// numbered from 0.
#[derive(Clone, Debug)]
pub struct Group {
    /// `name`.
    pub name: Arc<str>,
    /// Task number of element 0; element `i` is task `first + i`.
    pub first: TaskId,
    /// Number of tasks (1 for a single task).
    pub count: u32,
    /// True for `array`, `matrix` and `pattern`: the tasks are called `name[index]`.
    pub indexed: bool,
    /// `array = "...%limit"`: maximum number of its tasks that run at once.
    pub limit: Option<u32>,
    /// `share`: share of the slot time; `None` unless given.
    pub share: Option<u32>,
    /// `batch`: number of its tasks that one shell runs after each other, at least 1.
    pub batch: u32,
    /// `pools`: numbers of pools of the job, and the units of each that a task holds while it runs.
    pub pools: Box<[(u32, u32)]>,
    /// CPUs (slots) per task, at least 1; for MPI tasks per MPI rank.
    pub cpus: u32,
    /// Memory limit of a task's first attempt in bytes (see [`Group::limits`]).
    pub memory: Option<u64>,
    /// GPUs per task.
    pub gpus: u32,
    /// Labels that a rank must have to run a task; ascending.
    pub labels: Labels,
    /// Time limit of a task's first attempt.
    pub time: Option<Duration>,
    /// Retries after a failure.
    pub retry: GroupRetry,
    /// Priority, higher first; default 0.
    pub priority: i32,
    /// Estimated duration of one task; of the first task if estimates differ (see
    /// [`Job::estimate`]).
    pub estimate: Option<Duration>,
    /// Name under which durations are learnt and shown; default: the name of the group.
    pub class: Arc<str>,
    /// `mpi`: starts the command on several MPI ranks.
    pub mpi: Option<MpiShape>,
    /// Its tasks are operations that all active ranks execute together, on a graph that is divided
    /// among them.
    pub is_divided: bool,
}

impl Job {
    /// True if a task asks for `memory = "auto"`.
    pub fn has_auto_memory(&self) -> bool {
        self.groups.iter().any(|group| group.retry.auto_memory)
    }

    /// Sets what the first attempts at tasks with `memory = "auto"` ask for, those of tasks that
    /// are added later too, in bytes by class.
    pub fn set_auto_memory(&mut self, classes: Arc<[(String, u64)]>) {
        for group in self.groups.iter_mut().filter(|group| group.retry.auto_memory) {
            if let Some((_, bytes)) = classes.iter().find(|(class, _)| **class == *group.class) {
                group.memory = Some(*bytes);
            }
        }
        self.auto_memory = classes;
    }

    /// Names of the graphs that are divided among the active ranks.
    pub fn divided_graphs(&self) -> Vec<String> {
        self.graphs.iter().filter(|graph| graph.is_divided).map(|graph| graph.name.clone()).collect()
    }

    /// The tables of operations on a graph, each with true if the operation changes the graph.
    pub fn operations_on<'a>(&'a self, graph: &'a str) -> impl Iterator<Item = (&'a Group, bool)> {
        let groups = self.groups.iter().zip(&self.bodies);
        groups.filter(move |(_, body)| body.graph() == Some(graph)).map(|(group, body)| (group, body.changes_graph()))
    }

    /// Divides the graphs of these names among the active ranks, and no others: all ranks then
    /// execute operations on them together. Rank 0 decides it for a run.
    pub fn divide_graphs(&mut self, names: &[String]) {
        self.graphs.iter_mut().for_each(|graph| graph.is_divided = names.contains(&graph.name));
        for (group, body) in self.groups.iter_mut().zip(&self.bodies) {
            group.is_divided = body.graph().is_some_and(|graph| names.iter().any(|name| name == graph));
        }
    }

    /// Everything but tasks and what joins them.
    fn without_tasks(&self) -> Job {
        Job {
            name: self.name.clone(),
            description: self.description.clone(),
            dir: self.dir.clone(),
            env: self.env.clone(),
            prologue: self.prologue.clone(),
            shell: self.shell.clone(),
            cache: self.cache.clone(),
            graphs: self.graphs.clone(),
            pools: self.pools.clone(),
            defaults: Arc::clone(&self.defaults),
            auto_memory: Arc::clone(&self.auto_memory),
            rank_slots: Arc::clone(&self.rank_slots),
            groups: Vec::new(),
            links: Vec::new(),
            bodies: Vec::new(),
            parts: Vec::new(),
            scaling: None,
            cost: Cost::default(),
            sites: Vec::new(),
            listen: None,
            advisor: None,
            alerts: Vec::new(),
            ..*self
        }
    }
}

impl Group {
    /// True if one task needs slots on several ranks: a rank with this room cannot hold it, or all
    /// active `ranks` execute it together.
    pub fn needs_gang(&self, room: RankRoom, ranks: u32) -> bool {
        self.is_divided && ranks > 1 || self.spans_ranks(room)
    }

    /// True if one task needs more than one rank with this room.
    pub(crate) fn spans_ranks(&self, room: RankRoom) -> bool {
        self.mpi.is_some_and(|mpi| {
            mpi.ranks.saturating_mul(self.cpus) > room.slots
                || mpi.per_node.is_some_and(|most| most < mpi.ranks)
                || self.limits(Shortfalls::NONE, room.memory).memory.is_some_and(|memory| memory > room.memory)
                || self.gpus > room.gpus
        })
    }

    /// What an attempt after these shortfalls asks for, on a node with `most` bytes of memory.
    pub fn limits(&self, short: Shortfalls, most: u64) -> TaskLimits {
        TaskLimits {
            memory: self.memory.map(|first| self.retry.memory(first, short, most)),
            time: self.time.map(|first| self.retry.time(first, short)),
        }
    }
}

/// The limits of one attempt at a task.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TaskLimits {
    /// Bytes of memory.
    pub memory: Option<u64>,
    /// Duration.
    pub time: Option<Duration>,
}

/// `mpi = { ranks = 4, per_node = 2 }`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct MpiShape {
    /// Number of MPI ranks.
    pub ranks: u32,
    /// Maximum number of MPI ranks per node.
    pub per_node: Option<u32>,
}

/// One task with all values substituted: everything that a slot needs to run it.
#[derive(Clone, Debug, PartialEq)]
pub struct Task {
    /// Its number.
    pub id: TaskId,
    /// Name of its group.
    pub name: String,
    /// The value of `{index}`, for tasks of an array, matrix or pattern.
    pub index: Option<u64>,
    /// Its work.
    pub work: Work,
    /// File for standard input. It may contain `%`-patterns, as `stdout` and `stderr` may, which
    /// [`FileNames::fill`] replaces.
    pub stdin: Option<PathBuf>,
    /// File for standard output, instead of the captured output.
    pub stdout: Option<PathBuf>,
    /// File for standard error, instead of the captured output.
    pub stderr: Option<PathBuf>,
    /// Working directory (absolute).
    pub dir: PathBuf,
    /// Its environment variables, applied after those of the job.
    pub env: Vec<(String, String)>,
    /// Declared input files (as written, relative to `dir`) and their sizes in bytes where given.
    pub inputs: Vec<(PathBuf, Option<u64>)>,
    /// Declared output files.
    pub outputs: Vec<(PathBuf, Option<u64>)>,
    /// Input files and directories that must exist before the command starts.
    pub required: Vec<PathBuf>,
    /// Output files that must exist after the command has succeeded.
    pub promised: Vec<PathBuf>,
    /// Output files that live in the store until their last reader is done (`keep = false`).
    pub temporary: Vec<PathBuf>,
    /// Words of the shell, to which the command line is appended; `None`: `sh -c`.
    pub shell: Option<Arc<[String]>>,
    /// `background = "keep"`: processes that the command leaves running are not killed.
    pub keeps_background: bool,
    /// `stage = "node"`: it runs in a directory of its own on the node's disk.
    pub is_staged: bool,
    /// `cache`: the result of an equal task is taken from the cache.
    pub cache: Option<Arc<CacheRules>>,
    /// `container`: the image that the command runs in.
    pub container: Option<Container>,
}

/// The work of a task.
#[derive(Clone, Debug, PartialEq)]
pub enum Work {
    /// `command = ["prog", "arg"]`: executed directly.
    Command(Vec<String>),
    /// `command = "line"`: run by the task's shell.
    Shell(String),
    /// `kernel = "name"`, `args = { ... }`: a function within this process.
    Kernel {
        /// Its registered name.
        name: String,
        /// Its arguments.
        args: toml::Table,
    },
}
