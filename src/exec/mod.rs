//! Runs one task at a time in the thread of the slot that it was given to.
//!
//! Why it exists: whatever a task is (a command, a kernel, a command of several MPI ranks), a slot calls
//! [`Runner::run`] and gets an [`Outcome`](crate::model::Outcome) back. Nothing that a task does, or fails to do, comes back as
//! an error of Phalanx itself: a missing program is a FAILED task with a message in its output.
//!
//! A child inherits the CPU mask of the calling thread, so the caller pins its thread before it
//! calls. A child shares our memory until it runs its program, which costs the same however large
//! this process is; a `fork` would copy the page tables of a process that maps MPI's memory.
//!
//! | file | one idea |
//! |---|---|
//! | `runner` | from a task's number to its outcome |
//! | `control` | how other threads stop a running task |
//! | `command` | from a task's words to a running process |
//! | `script` | shell, prologue and line as the words of a process |
//! | `files` | the files that a task names |
//! | `aside` | what may block, beside a slot that must not |
//! | `spawn` | a new process at the least cost |
//! | `supervise` | waiting for a process: output, limits, stops |
//! | `scarcity` | waiting for what the system has no more of |
//! | `process` | what `/proc` says about a process and its relatives |
//! | `leftovers` | what a command leaves running when it ends |
//! | `warden` | ending the commands of a rank that was killed |
//! | `signals` | telling a signal to the whole node apart |
//! | `oom` | telling a kill by the system's out-of-memory killer apart |
//! | `env` | the environment that a task sees |
//! | `mpi` | the `mpirun` line of an MPI task |
//! | `output` | where a task's output goes |
//! | `measures` | values that a task writes about itself |
//! | `kernel`, `args`, `kernels/` | functions of this process as tasks |
//! | `graphs` | data graphs that stay while the run lasts |
//!
//! Nothing here decides what runs, where, or whether it runs again.

mod args;
mod aside;
mod command;
mod control;
mod env;
mod files;
mod graphs;
mod kernel;
mod kernels;
mod leftovers;
mod measures;
mod mpi;
mod oom;
mod orphan_killer;
mod output;
mod process;
mod runner;
mod scarcity;
pub(crate) mod script;
mod signals;
mod spawn;
mod supervise;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

pub use crate::model::Stream;
pub use args::{ArgError, Args, Bytes, FromArg};
pub use control::TaskStop;
pub(crate) use env::is_hidden as is_hidden_from_tasks;
pub use graphs::{Graphs, OperationResult};
pub use kernel::{Context, Kernel, KernelError, Kernels, Prepared};
pub use kernels::compute as compute_bound;
pub use output::OutputSink;
pub(crate) use process::family_use;
pub use runner::Runner;
pub(crate) use spawn::is_ignored_from_start;

use crate::graph::link::GroupId;
use crate::job::{DataGraph, FileNames, Group, Task};
use crate::model::{Rank, State, TaskId};
use crate::topology::Gpus;

/// Where the runner learns what a task does.
///
/// A trait, so that tests and embedding programs can run tasks that no job file describes.
pub trait TaskSource: Send + Sync {
    /// The groups, ordered by the number of their first task.
    fn groups(&self) -> &[Group];
    /// One task with everything substituted; the error is shown to the user as it is.
    fn task(&self, id: TaskId) -> Result<Task, String>;
    /// The value of `{index}` of a task, without expanding the rest of it.
    fn index(&self, id: TaskId) -> Option<u64>;
    /// True if the group's tasks differ in nothing but their number and index: no placeholder stands in their work, directory or
    /// files. A kernel of such a group is prepared once.
    fn constant(&self, group: GroupId) -> bool;
    /// Variables that every task sees.
    fn env(&self) -> &[(String, String)];
    /// Shell lines that run before every command.
    fn prologue(&self) -> &[String];
    /// How long a declared output on a shared file system may take to be seen.
    fn output_wait(&self) -> Duration {
        Duration::ZERO
    }
    /// Data graphs that operations run on.
    fn graphs(&self) -> &[DataGraph] {
        &[]
    }
}

/// Where a runner runs: what all its tasks have in common.
#[derive(Clone, Debug)]
pub struct RankContext {
    /// The run, e.g. `mosaic-3`: `PHALANX_JOB_ID` and `%j`.
    pub job_id: String,
    /// This rank.
    pub rank: Rank,
    /// Name of this node, as the host list of an MPI task would write it.
    pub node: String,
    /// How many slots may call [`Runner::run`] at once; [`Seat::slot`] is below it.
    pub slots: u16,
    /// Time from TERM to KILL when a command is stopped.
    pub grace: Duration,
    /// The GPUs of this rank, and the variable in which commands are told which are theirs.
    pub gpus: Gpus,
    /// Where long commands are put as scripts; all nodes of an MPI task must see it.
    pub scripts: PathBuf,
    /// Where batches of changes to data graphs are kept; `None`: nowhere.
    pub graphs: Option<PathBuf>,
    /// The command that starts MPI tasks, with options of its own if need be: `PHALANX_MPIRUN`, else `mpirun`.
    pub mpirun: Vec<String>,
}

impl RankContext {
    /// A site with the default grace of 5 s, and `mpirun` from the environment variable `PHALANX_MPIRUN` where that is set.
    pub fn new(job_id: impl Into<String>, rank: Rank, node: impl Into<String>, slots: u16) -> RankContext {
        let mpirun = std::env::var("PHALANX_MPIRUN").unwrap_or_default();
        let mut mpirun: Vec<String> = mpirun.split_whitespace().map(str::to_owned).collect();
        if mpirun.is_empty() {
            mpirun.push("mpirun".to_owned());
        }
        RankContext {
            job_id: job_id.into(),
            rank,
            node: node.into(),
            slots,
            grace: Duration::from_secs(5),
            gpus: Gpus::default(),
            scripts: std::env::temp_dir(),
            graphs: None,
            mpirun,
        }
    }

    /// What the patterns in the file names of a task stand for here.
    fn file_names<'a>(&'a self, task: &'a str, index: Option<u64>) -> FileNames<'a> {
        FileNames { run: &self.job_id, node: &self.node, rank: self.rank.0, task, index }
    }
}

/// Where one attempt at a task runs: the slot, and what was taken for it.
#[derive(Clone, Copy)]
pub struct ExecContext<'a> {
    /// The slot whose thread calls; no two attempts that run at the same time have the same.
    pub slot: u16,
    /// 1 for the first attempt.
    pub attempt: u16,
    /// The CPUs that the calling thread is bound to; empty if it is not bound.
    pub cpus: &'a [u32],
    /// Their NUMA node, if they share one.
    pub numa: Option<u32>,
    /// The GPUs taken for the task, by their ordinals; see [`Gpus`].
    pub gpus: &'a [u32],
    /// For an MPI task over several nodes: each node and its number of ranks. Empty: all on this node.
    pub hosts: &'a [(String, u32)],
    /// The thread pool for kernels of several CPUs.
    pub rayon: &'a (dyn Fn() -> Arc<rayon::ThreadPool> + Sync),
}

/// Why a [`Runner`] could not be made.
#[derive(Debug, thiserror::Error)]
pub enum ExecError {
    /// The system refused a file descriptor or the like.
    #[error("cannot set up the execution of tasks: {what}: {source}")]
    System {
        /// What was asked of the system.
        what: &'static str,
        /// Its answer.
        source: std::io::Error,
    },
    /// A variable, the job's name or the like holds a NUL byte, which no environment can carry.
    #[error("variable {0} holds a NUL byte, which an environment cannot carry")]
    Nul(String),
}

/// Why an attempt ended before its work could speak for itself: shown in the task's output.
#[derive(Debug)]
struct Fault {
    /// How the attempt ended by it.
    state: State,
    /// The exit code that it is given; 126 and 127 mean what a shell means by them.
    exit: i32,
    text: String,
    /// The system had no more of something that comes free again.
    is_scarcity: bool,
}

impl Fault {
    fn new(text: impl Into<String>) -> Fault {
        Fault::with_exit(1, text)
    }

    fn with_exit(exit: i32, text: impl Into<String>) -> Fault {
        Fault { exit, ..Fault::ended(State::Failed, text) }
    }

    /// The attempt ended in this state before it began.
    fn ended(state: State, text: impl Into<String>) -> Fault {
        Fault { state, exit: 0, text: text.into(), is_scarcity: false }
    }

    /// The system refused something.
    fn refused(what: impl std::fmt::Display, error: &std::io::Error) -> Fault {
        Fault { is_scarcity: scarcity::is_scarcity(error), ..Fault::new(format!("{what}: {error}")) }
    }
}
