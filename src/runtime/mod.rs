//! Runs a job for real: brings the pure core together with threads, processes, MPI and the disk.
//!
//! | part | one idea |
//! |---|---|
//! | `coordinator` | what rank 0 does besides: prepare, launch, decide, record, answer |
//! | `rank` | what every rank does: its slots, its engine, its main thread |
//! | `world` | ranks meet, are dismissed and leave together; several runs on one world; joining |
//! | `clock`, `event_wait` | the run's time; where the main thread waits, and signals |
//! | `job_adapters`, `job_from_session` | adapters from the job to the traits of other parts |
//! | `divided_graphs` | which data graphs are divided among the active ranks |
//! | `options`, `error` | what a user asks of a run; why a run cannot start or continue |
//!
//! [`run`] runs one job; [`World`] runs several on the same ranks.

mod clock;
mod coordinator;
mod divided_graphs;
mod error;
mod event_wait;
mod job_adapters;
mod job_from_session;
mod options;
mod rank;
mod world;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::exec::Kernels;
use crate::fabric::{self, Fabric};
use crate::model::Rank;
use crate::system::open_files;
use event_wait::EventWait;
use rank::worker_main;

pub use clock::unix_ns;
pub use coordinator::{
    BLOCKS, PlannedTask, RunPreview, UnfinishedRun, auto_memory, earlier_runs, find_unfinished_run, kind_of,
    planned_sites, preview, recall, resume,
};
pub use divided_graphs::divide_graphs;
pub use error::RunError;
pub(crate) use event_wait::detach_from_terminal;
pub use job_from_session::{job_of, subject_of};
pub use options::Options;
pub use world::{JoinOptions, World, contact_of, join_run};

/// How a run ended, for its caller.
#[derive(Debug)]
pub struct Finished {
    /// Phalanx's exit code (see the README).
    pub exit_code: i32,
    /// The run's directory; only rank 0 knows it.
    pub run_dir: Option<PathBuf>,
}

/// Maximum time for sending the last frames when the run is over.
const MAX_CLOSE_WAIT: Duration = Duration::from_secs(30);

/// Runs a job on all ranks of the world that this process was started in, or alone. Every rank
/// calls it, with the same kernels.
///
/// `notify` is called once with the future return value, before this rank leaves the world: leaving
/// waits for all other ranks, and the user should see an error before that.
///
/// # Errors
/// If the run could not begin. Failures of tasks are no errors: see [`Finished::exit_code`].
pub fn run(
    options: &Options,
    kernels: Kernels,
    notify: impl FnOnce(&Result<Finished, RunError>),
) -> Result<Finished, RunError> {
    // Kept until the fabric is gone, so that signals interrupt a fabric that hangs at its end.
    let (wake, mut fabric) = match join() {
        Ok(joined) => joined,
        Err(error) => {
            let result = Err(error);
            notify(&result);
            return result;
        }
    };
    let notify = |result: &Result<Finished, RunError>| {
        notify(result);
        wake.leave();
    };
    run_on(&mut fabric, options, kernels, Arc::clone(&wake), notify)
}

/// Open files with which a rank can start a command: those of the rank itself, and a reserve.
const MIN_OPEN_FILES: u64 = 64;

/// Joins the other ranks, if a launcher started any.
fn join() -> Result<(Arc<EventWait>, Box<dyn Fabric>), RunError> {
    // First of all, since threads inherit which signals are blocked.
    let wake = listen()?;
    open_files::raise_limit();
    let files = open_files::limit();
    if files < MIN_OPEN_FILES {
        return Err(RunError::Refused(format!(
            "only {files} files may be open at once here, and a rank needs at least {MIN_OPEN_FILES}: raise the limit, \
             e.g. with `ulimit -n 1024`"
        )));
    }
    Ok((wake, fabric::join()?))
}

/// From here on signals are blocked and wait to be read.
fn listen() -> Result<Arc<EventWait>, RunError> {
    let wake = EventWait::new().map_err(|source| RunError::System { what: "set up signals", source })?;
    Ok(Arc::new(wake))
}

/// Runs one rank of a world whose ranks are threads of this process; for tests of whole runs
/// without MPI.
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
    notify: impl FnOnce(&Result<Finished, RunError>),
) -> Result<Finished, RunError> {
    wake.begin(fabric.me() != Rank::ZERO);
    let result = match fabric.me() {
        Rank::ZERO => coordinator::launch::run(fabric, options, kernels, wake),
        _ => worker_main::run(fabric, (None, &options.labels), kernels, wake, false),
    };
    notify(&result);
    match result {
        Err(RunError::Missing { .. }) => fabric.abandon(),
        // Leaving the world in order would wait for rank 0.
        Err(RunError::Orphaned) => std::mem::forget(std::mem::replace(fabric, Box::new(fabric::Alone))),
        _ => {}
    }
    world::handshake::settle(fabric.as_mut(), MAX_CLOSE_WAIT);
    result
}
