//! Runs tasks, one at a time in the thread of a slot.
//!
//! Whatever a task is (a command, a kernel, a command of several MPI ranks), a slot calls
//! [`Runner::run`] and gets an [`Outcome`](crate::model::Outcome). Failures of a task are never
//! errors of Phalanx itself: a missing program is a FAILED task with a message in its output.
//!
//! A child inherits the CPU mask of the calling thread, so the caller pins its thread before it
//! calls. A child shares our memory until it runs its program, at a cost that does not depend on
//! the size of this process; a `fork` would copy the page tables of a process that maps MPI's
//! memory.
//!
//! | file | one idea |
//! |---|---|
//! | `runner` | from a task's number to its outcome |
//! | `attempt` | one attempt at a task: cache, inputs, command or kernel |
//! | `control` | how other threads stop a running task |
//! | `command` | from a task's words to its outcome |
//! | `program` | where a program is searched, and why it could not be started |
//! | `script` | shell, prologue and line as the words of a process |
//! | `files` | the files that a task names |
//! | `aside` | operations that may block, in a thread beside the slot |
//! | `spawn` | a new process at the least cost |
//! | `kept_shell` | a shell that runs one line after the other |
//! | `supervise` | waiting for a process: output, limits, stops |
//! | `scarcity` | waiting for resources that the system lacks |
//! | `process` | what `/proc` says about a process and its relatives |
//! | `leftovers` | what a command leaves running when it ends |
//! | `mark` | which processes belong to a rank |
//! | `orphan_killer` | ending the commands of a killed rank |
//! | `signals` | recognising a signal to the whole node |
//! | `oom` | recognising a kill by the system's out-of-memory killer |
//! | `env` | the environment that a task sees |
//! | `user_env` | what the user set for MPI programs, told apart from what a launcher set |
//! | `mpi` | the `mpirun` line of an MPI task |
//! | `launch_agent` | how that `mpirun` reaches nodes of other Slurm jobs |
//! | `container` | the command that runs a task in an image |
//! | `output` | where a task's output goes |
//! | `measures` | values that a task measures |
//! | `stage` | tasks that run in a directory on the node's disk |
//! | `shared_dirs` | which directories several tasks write into |
//! | `away` | staged tasks on a rank that does not see the directory of the job |
//! | `ahead` | brings files before the tasks that read them have a slot |
//! | `carrier` | how a rank asks others for files |
//! | `rank_dir` | a directory that goes with its rank |
//! | `old_outputs` | outputs that an attempt has left as they were |
//! | `used_files` | what a resumed run compares: inputs and programs of a task |
//! | `cache/` | tasks that take the result of an equal task |
//! | `kernel`, `args`, `kernels/` | functions of this process as tasks |
//! | `graphs` | data graphs that stay in memory during the run |
//!
//! This module does not decide what runs, where, or whether it runs again.

mod ahead;
mod args;
mod aside;
mod attempt;
mod away;
mod cache;
mod carrier;
mod command;
pub(crate) mod container;
mod control;
mod env;
mod files;
mod graphs;
mod kept_shell;
mod kernel;
mod kernels;
mod launch_agent;
mod leftovers;
mod mark;
mod measures;
mod mpi;
mod old_outputs;
mod oom;
mod orphan_killer;
mod output;
mod process;
mod program;
mod rank_dir;
mod runner;
mod scarcity;
pub(crate) mod script;
mod shared_dirs;
mod signals;
mod spawn;
mod stage;
mod supervise;
mod used_files;
mod user_env;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

pub use crate::model::Stream;
pub(crate) use crate::store::{pack, remove_tree, unpack};
pub use ahead::AheadFlags;
pub use args::{ArgError, Args, Bytes, FromArg};
pub(crate) use away::is_bound_to_its_directory;
pub(crate) use cache::held_files;
pub use carrier::FileCarrier;
pub use control::TaskStop;
pub(crate) use env::user_command;
pub use graphs::{BATCHES_DIR, BatchWriter, FormerBatches, Graphs, OperationResult};
pub use kernel::{Context, Kernel, KernelError, Kernels, Prepared};
pub use kernels::compute as compute_bound;
pub use output::OutputSink;
pub(crate) use process::family_use;
pub use runner::Runner;
pub(crate) use spawn::is_ignored_from_start;
pub(crate) use used_files::{change_of, has_record};
pub use user_env::user_variables;

use crate::data::exchange::Stopped;
use crate::graph::link::GroupId;
use crate::job::{CacheSettings, DataGraph, FileNames, Group, Task, WrittenFiles};
use crate::model::{GangNode, Rank, Shortfalls, State, TaskId};
use crate::topology::Gpus;

/// The name under which a temporary output of a task is held.
pub(crate) fn held_name(task: &Task, file: &std::path::Path) -> [u8; 32] {
    *crate::store::HeldFiles::digest(&task.dir.join(file)).bytes()
}

/// True once a file is visible here. On a shared file system it is waited for.
pub(crate) fn sees(file: &std::path::Path, wait: Duration) -> bool {
    away::is_visible(file, wait)
}

/// Describes the tasks to a runner.
///
/// A trait, so that tests and embedding programs can run tasks that no job file describes.
pub trait TaskSource: Send + Sync {
    /// The groups, ordered by the number of their first task.
    fn groups(&self) -> &[Group];
    /// Expands one task, with all placeholders substituted; the error is shown to the user as it
    /// is.
    fn task(&self, id: TaskId) -> Result<Task, String>;
    /// The value of `{index}` of a task, without expanding the rest of it.
    fn index(&self, id: TaskId) -> Option<u64>;
    /// True if the group's tasks differ only in number and index: no placeholder stands in their
    /// work, directory or files. A kernel of such a group is prepared once.
    fn constant(&self, group: GroupId) -> bool;
    /// Variables that every task sees.
    fn env(&self) -> &[(String, String)];
    /// Shell lines that run before every command: of each of the jobs that the run consists of.
    fn prologues(&self) -> Vec<&[String]>;
    /// The job of a group, as a number into the prologues.
    fn job_of(&self, _: GroupId) -> usize {
        0
    }
    /// How long to wait for a declared output of a group to become visible on a shared file system.
    fn output_wait(&self, _: GroupId) -> Duration {
        Duration::ZERO
    }
    /// Name of the job.
    fn job_name(&self) -> &str {
        ""
    }
    /// The name of a task, as it is shown.
    fn task_name(&self, id: TaskId) -> String {
        let indexed = |task: Task| match task.index {
            Some(index) => format!("{}[{index}]", task.name),
            None => task.name,
        };
        self.task(id).map_or_else(|_| id.0.to_string(), indexed)
    }
    /// The files that tasks declare as outputs.
    fn written_files(&self) -> WrittenFiles<TaskId> {
        WrittenFiles::default()
    }
    /// Where tasks write: their declared outputs, and as nobody's their files for standard output
    /// and standard error.
    fn written_places(&self) -> WrittenFiles<Option<TaskId>> {
        WrittenFiles::default()
    }
    /// Where results of tasks are kept.
    fn cache(&self) -> CacheSettings {
        CacheSettings::default()
    }
    /// Data graphs that operations run on.
    fn graphs(&self) -> &[DataGraph] {
        &[]
    }
}

/// The context of a runner, which all its tasks share.
#[derive(Clone, Debug)]
pub struct RankContext {
    /// The run, e.g. `mosaic-3`: `PHALANX_JOB_ID` and `%j`.
    pub job_id: String,
    /// Number of the session of that run, from 1.
    pub session: u32,
    /// This rank.
    pub rank: Rank,
    /// Name of this node, as the host list of an MPI task would write it.
    pub node: String,
    /// Number of slots that may call [`Runner::run`] at once; [`ExecContext::slot`] is below it.
    pub slots: u16,
    /// Bytes of memory for its tasks in total.
    pub memory: u64,
    /// Grace period between TERM and KILL when a command is stopped.
    pub grace: Duration,
    /// The GPUs of this rank, and the environment variable that shows a command its own.
    pub gpus: Gpus,
    /// Directory for long commands written as scripts; all nodes of an MPI task must see it.
    pub scripts: PathBuf,
    /// The directory of the run; `None` if it has none.
    pub run_dir: Option<PathBuf>,
    /// Directory with records of what is delivered to other directories, if the run has one.
    pub delivered: Option<PathBuf>,
    /// Ranks of other nodes take part in the run, or may.
    pub is_shared: bool,
    /// It does not see the directories of the job and of the run.
    pub is_away: bool,
    /// How it asks other ranks for files; `None` if there are none.
    pub carrier: Option<Arc<dyn FileCarrier>>,
    /// Directory for batches of changes to data graphs; `None` if they are not kept.
    pub graphs: Option<PathBuf>,
    /// The Slurm job that this process is in.
    pub allocation: Option<String>,
    /// The command that starts MPI tasks, with optional arguments: `PHALANX_MPIRUN`, else `mpirun`.
    pub mpirun: Vec<String>,
    /// What the user set for MPI programs where the run was started (see [`user_variables`]).
    pub user_variables: Vec<(String, String)>,
}

impl RankContext {
    /// Makes a context with the default grace period of 5 s, `mpirun` from the environment
    /// variable `PHALANX_MPIRUN` if that is set, and what the user of this process set for MPI.
    pub fn new(job_id: impl Into<String>, rank: Rank, node: impl Into<String>, slots: u16) -> RankContext {
        let mpirun = std::env::var("PHALANX_MPIRUN").unwrap_or_default();
        let mut mpirun: Vec<String> = mpirun.split_whitespace().map(str::to_owned).collect();
        if mpirun.is_empty() {
            mpirun.push("mpirun".to_owned());
        }
        RankContext {
            job_id: job_id.into(),
            session: 1,
            rank,
            node: node.into(),
            slots,
            memory: u64::MAX,
            grace: Duration::from_secs(5),
            gpus: Gpus::default(),
            scripts: std::env::temp_dir(),
            run_dir: None,
            delivered: None,
            is_shared: false,
            is_away: false,
            carrier: None,
            graphs: None,
            allocation: std::env::var("SLURM_JOB_ID").ok(),
            mpirun,
            user_variables: user_variables(),
        }
    }

    /// The values of the patterns in the file names of a task.
    fn file_names<'a>(&'a self, task: &'a str, index: Option<u64>) -> FileNames<'a> {
        FileNames { run: &self.job_id, node: &self.node, rank: self.rank.0, task, index }
    }
}

/// The context of one attempt: its slot and the resources reserved for it.
#[derive(Clone, Copy)]
pub struct ExecContext<'a> {
    /// The slot whose thread calls; concurrent attempts have different slots.
    pub slot: u16,
    /// 1 for the first attempt.
    pub attempt: u16,
    /// Earlier attempts that fell short of what they needed.
    pub short: Shortfalls,
    /// The CPUs that the calling thread is bound to; empty if it is not bound.
    pub cpus: &'a [u32],
    /// Their NUMA node, if they share one.
    pub numa: Option<u32>,
    /// The GPUs reserved for the task, by their ordinals; see [`Gpus`].
    pub gpus: &'a [u32],
    /// For an MPI task on several ranks: their nodes, this one first. Empty: all on this rank.
    pub hosts: &'a [GangNode],
    /// The thread pool for kernels of several CPUs.
    pub rayon: &'a (dyn Fn() -> Arc<rayon::ThreadPool> + Sync),
    /// The ranks that execute an operation together on a graph that is divided among them; `None`
    /// if this rank executes the task alone.
    pub peers: Option<&'a dyn Peers>,
}

/// The ranks that execute an operation together, as one of them sees them.
pub trait Peers: Sync {
    /// Index of this rank among them; the one at 0 leads: it runs the attempt.
    fn place(&self) -> usize;

    /// All of them.
    fn ranks(&self) -> &[Rank];

    /// A number that only this attempt has in the run, the same on all of them.
    fn number(&self) -> u32;

    /// As [`Exchange::swap`](crate::data::exchange::Exchange::swap); gives up once `is_cancelled`.
    ///
    /// # Errors
    /// If the operation must stop, or a rank has failed or is lost.
    fn swap(&self, outgoing: Vec<Vec<u8>>, is_cancelled: &dyn Fn() -> bool) -> Result<Vec<Vec<u8>>, Stopped>;

    /// Fails if the operation must stop.
    ///
    /// # Errors
    /// If a rank is lost, or the leader has ended the attempt.
    fn check(&self) -> Result<(), Stopped>;
}

/// Why a [`Runner`] could not be made.
#[derive(Debug, thiserror::Error)]
pub enum ExecError {
    /// The system refused a resource such as a file descriptor.
    #[error("cannot set up the execution of tasks: {what}: {source}")]
    System {
        /// What was requested of the system.
        what: &'static str,
        /// Its error.
        source: std::io::Error,
    },
    /// A variable or a name contains a NUL byte, which no environment can hold.
    #[error("variable {0} contains a NUL byte, which no environment can hold")]
    Nul(String),
}

/// Why Phalanx ended an attempt; shown in the task's output.
#[derive(Debug)]
struct Fault {
    /// Final state of the attempt.
    state: State,
    /// Exit code of the attempt; 126 and 127 have the meaning that shells give them.
    exit: i32,
    text: String,
    /// True if the system lacked a resource that becomes free again.
    is_scarcity: bool,
}

impl Fault {
    fn new(text: impl Into<String>) -> Fault {
        Fault::with_exit(1, text)
    }

    fn with_exit(exit: i32, text: impl Into<String>) -> Fault {
        Fault { exit, ..Fault::ended(State::Failed, text) }
    }

    /// Makes a fault that ends the attempt in this state.
    fn ended(state: State, text: impl Into<String>) -> Fault {
        Fault { state, exit: 0, text: text.into(), is_scarcity: false }
    }

    /// Makes a fault for a refusal by the system.
    fn refused(what: impl std::fmt::Display, error: &std::io::Error) -> Fault {
        Fault { is_scarcity: scarcity::is_scarcity(error), ..Fault::new(format!("{what}: {error}")) }
    }
}
