//! Runs a job for real: brings the pure core together with threads, processes, MPI and the disk.
//!
//! | file | one idea |
//! |---|---|
//! | `start` | rank 0 before the others are told: job, run directory, what is done already |
//! | `lead`, `follow` | rank 0, and every other rank, from beginning to end |
//! | `world` | ranks gather, are dismissed, leave together |
//! | `many` | several runs one after the other on the same ranks |
//! | `gate`, `join` | ranks that join a run under way, seen from rank 0 and from themselves |
//! | `join_address` | where rank 0 listens for them, and what it tells them |
//! | `supply`, `command` | nodes asked for and given back; what people ask of a run |
//! | `seat` | what a rank has, and how its slots and engine are started |
//! | `engine` | frames and slots into the state machines, their decisions into the world |
//! | `head` | rank 0's half: coordinator, journal, progress, signals, walltime |
//! | `nodes` | its dealings with nodes: who comes and goes is told to those whom it concerns |
//! | `crew` | what slots do between two tasks |
//! | `resume` | which tasks stay complete |
//! | `clock`, `stopwatch` | the run's time, and the times of a slot's tasks |
//! | `wake`, `walltime` | waiting, the end of the allocation |
//! | `mailbox`, `vitals` | what a rank tells rank 0 for who watches |
//! | `job_adapters`, `subject` | the job as each part wants to see it |
//!
//! [`run`] is the whole of it; [`World`] is for who wants to run more than one job.

mod clock;
mod coordinator;
mod event_wait;
mod job_adapters;
mod job_from_session;
mod rank;
mod start;
mod world;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use thiserror::Error;

use crate::exec::Kernels;
use crate::fabric::bridge::contact::ContactError;
use crate::fabric::bridge::join::JoinError;
use crate::fabric::{Alone, Fabric, FabricError, mpi};
use crate::job::Diagnostics;
use crate::journal::{JournalError, RunDirError};
use crate::model::Rank;
use crate::observe::progress::Mode;
use crate::system::open_files;
use event_wait::EventWait;
use rank::worker_main;

pub use clock::unix_ns;
pub use coordinator::provisioner::BLOCKS;
pub use coordinator::resume;
pub use coordinator::run_history::{kind_of, recall};
pub(crate) use event_wait::go_on_without_terminal;
pub use job_from_session::{job_of, subject_of};
pub use world::{JoinOptions, World, join_run};

/// What a person asks a run for.
#[derive(Clone, Debug)]
pub struct Options {
    /// The job file. Only rank 0 reads it.
    pub job: PathBuf,
    /// Where the run keeps its files; `None`: `phalanx-runs/<job>-<number>`.
    pub run_dir: Option<PathBuf>,
    /// Go on with the latest run of this job (or the one in `run_dir`).
    pub resume: bool,
    /// Tasks that run again although they have completed, with what needs them; only for a run that
    /// goes on.
    pub rerun: Vec<String>,
    /// Slots of each rank; `None`: the CPUs that the launcher granted.
    pub slots: Option<u32>,
    /// Rank 0 runs no tasks.
    pub coordinator_only: bool,
    /// Stop starting tasks after so many failures; overrides the job file.
    pub max_failures: Option<u32>,
    /// Never stop because of failures; overrides the job file.
    pub keep_going: bool,
    /// Where rank 0 listens for ranks that join (`HOST` or `HOST:PORT`); `None`: nobody can join.
    pub join_on: Option<String>,
    /// How progress is shown.
    pub progress: Mode,
    /// Where rank 0 serves a page and an API about the run; `None`: nowhere.
    pub listen: Option<SocketAddr>,
    /// File that rank 0 keeps up to date with the metrics of the run, in the text format of Prometheus; `None`: none.
    pub metrics_file: Option<PathBuf>,
}

impl Options {
    /// The defaults for a job file.
    pub fn new(job: impl Into<PathBuf>) -> Options {
        Options {
            job: job.into(),
            run_dir: None,
            resume: false,
            rerun: Vec::new(),
            slots: None,
            coordinator_only: false,
            max_failures: None,
            keep_going: false,
            join_on: None,
            progress: Mode::detect(false),
            listen: None,
            metrics_file: None,
        }
    }
}

/// How a run ended, for who started it.
#[derive(Debug)]
pub struct Finished {
    /// Phalanx's exit code (see the README).
    pub exit_code: i32,
    /// The run's directory; only rank 0 knows it.
    pub run_dir: Option<PathBuf>,
}

/// Why a run could not begin or go on.
#[derive(Debug, Error)]
pub enum RunError {
    /// The job file has mistakes.
    #[error("the job file has mistakes")]
    Job(Diagnostics),
    /// The run directory cannot be used.
    #[error(transparent)]
    RunDir(#[from] RunDirError),
    /// The journal cannot be read or written.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// The journal could not take all that happened.
    #[error(
        "{error}; what the journal of {} does not say runs again: mend that, then continue with --resume", dir.display()
    )]
    Unrecorded {
        /// The run directory.
        dir: PathBuf,
        /// What could not be written.
        error: JournalError,
    },
    /// Ranks cannot talk.
    #[error(transparent)]
    Fabric(#[from] FabricError),
    /// The contact file cannot be used.
    #[error(transparent)]
    Contact(#[from] ContactError),
    /// The run could not be joined.
    #[error(transparent)]
    Join(#[from] JoinError),
    /// Something that was asked for is not possible here.
    #[error("{0}")]
    Refused(String),
    /// Ranks of this world do not answer.
    #[error(
        "ranks {ranks:?} have said nothing for {seconds} s; do all nodes reach each other, and run the same Phalanx?"
    )]
    Missing {
        /// Their numbers.
        ranks: Vec<u32>,
        /// How long they were waited for.
        seconds: u64,
    },
    /// A signal came before anything was started.
    #[error("stopped by signal {0} before any task was started")]
    Interrupted(i32),
    /// This rank could not go on.
    #[error("{0}")]
    Broken(String),
    /// The run that this rank joined has vanished.
    #[error("the coordinator is gone: what ran here is ended")]
    Orphaned,
    /// The system refused something that every run needs.
    #[error("cannot {what}: {source}")]
    System {
        /// What was tried.
        what: &'static str,
        /// Why not.
        source: std::io::Error,
    },
}

impl RunError {
    /// Phalanx's exit code for it: 2 for what the user can mend in the job or on the command line, else 1.
    pub fn exit_code(&self) -> i32 {
        match self {
            RunError::Job(_) | RunError::RunDir(_) | RunError::Refused(_) | RunError::Contact(_) => 2,
            RunError::Journal(_)
            | RunError::Unrecorded { .. }
            | RunError::Fabric(_)
            | RunError::Join(_)
            | RunError::Missing { .. }
            | RunError::Broken(_)
            | RunError::Orphaned
            | RunError::System { .. } => 1,
            RunError::Interrupted(signal) => 128 + signal,
        }
    }
}

/// How long frames may take to leave when the run is over.
const FAREWELL: Duration = Duration::from_secs(30);

/// Runs a job on all ranks of the world that this process was started in, or alone. Every rank calls it, with the same kernels.
///
/// `tell` is called once with what will be returned, before this rank leaves the world: leaving waits for all others, and whoever started
/// the run should hear of an error before that.
///
/// # Errors
/// If the run could not begin. Failures of tasks are no errors: see [`Finished::exit_code`].
pub fn run(
    options: &Options,
    kernels: Kernels,
    tell: impl FnOnce(&Result<Finished, RunError>),
) -> Result<Finished, RunError> {
    // Kept until the fabric is gone: what hangs in its end can still be interrupted.
    let (wake, mut fabric) = join()?;
    let tell = |result: &Result<Finished, RunError>| {
        tell(result);
        wake.leave();
    };
    run_on(&mut fabric, options, kernels, Arc::clone(&wake), tell)
}

/// Joins the other ranks, if a launcher started any.
fn join() -> Result<(Arc<EventWait>, Box<dyn Fabric>), RunError> {
    // First of all, since threads inherit which signals are blocked.
    let wake = listen()?;
    open_files::raise_limit();
    let fabric: Box<dyn Fabric> = if mpi::launched() { Box::new(mpi::Mpi::join()?) } else { Box::new(Alone) };
    Ok((wake, fabric))
}

/// From here on signals wait until they are asked for.
fn listen() -> Result<Arc<EventWait>, RunError> {
    let wake = EventWait::new().map_err(|source| RunError::System { what: "set up signals", source })?;
    Ok(Arc::new(wake))
}

/// Runs one rank of a world whose ranks are threads of this process; for tests of whole runs without MPI.
///
/// # Errors
/// As [`run`].
pub fn run_in_thread(fabric: impl Fabric + 'static, options: &Options, kernels: Kernels) -> Result<Finished, RunError> {
    let mut fabric: Box<dyn Fabric> = Box::new(fabric);
    run_on(&mut fabric, options, kernels, listen()?, |_| {})
}

fn run_on(
    fabric: &mut Box<dyn Fabric>,
    options: &Options,
    kernels: Kernels,
    wake: Arc<EventWait>,
    tell: impl FnOnce(&Result<Finished, RunError>),
) -> Result<Finished, RunError> {
    wake.begin(fabric.me() != Rank::ZERO);
    let result = match fabric.me() {
        Rank::ZERO => coordinator::launch::lead(fabric, options, kernels, wake),
        _ => worker_main::run(fabric, None, kernels, wake, false),
    };
    tell(&result);
    if let Err(RunError::Missing { .. }) = result {
        fabric.abandon();
    }
    world::handshake::settle(fabric.as_mut(), FAREWELL);
    result
}
