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
//! | `fit` | what fits where: refusals, limits, homes |
//! | `seat` | what a rank has, and how its slots and engine are started |
//! | `engine` | frames and slots into the state machines, their decisions into the world |
//! | `head` | rank 0's half: coordinator, journal, progress, signals, walltime |
//! | `nodes` | its dealings with nodes: who comes and goes is told to those whom it concerns |
//! | `crew` | what slots do between two tasks |
//! | `resume` | which tasks stay complete |
//! | `clock`, `stopwatch` | the run's time, and the times of a slot's tasks |
//! | `wake`, `walltime` | waiting, the end of the allocation |
//! | `mailbox`, `vitals` | what a rank tells rank 0 for who watches |
//! | `glue`, `subject` | the job as each part wants to see it |
//!
//! [`run`] is the whole of it; [`World`] is for who wants to run more than one job.

pub(crate) mod captain;
mod clock;
mod coordinator;
mod crew;
mod engine;
pub(crate) mod fit;
mod follow;
pub(crate) mod glue;
mod job_from_session;
mod mailbox;
mod pages;
mod seat;
mod start;
mod stopwatch;
mod vitals;
mod wake;
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
use crew::{Crew, lock};
use wake::Wake;

pub use clock::unix_ns;
pub(crate) use coordinator::driver::{code_of, end_reason};
pub use coordinator::provisioner::BLOCKS;
pub use coordinator::resume;
pub use coordinator::run_history::{kind_of, recall};
pub use job_from_session::{job_of, subject_of};
pub use start::{estimate_ns, graph_of};
pub(crate) use wake::go_on_without_terminal;
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

/// Shortest and longest time between two looks at the network while no bell tells of frames and nothing comes. The longest costs a
/// sleeping rank well under one percent of a core.
const LOOK: [Duration; 2] = [Duration::from_micros(50), Duration::from_millis(10)];

/// Slots that have looked around themselves so shortly ago will do so again, and hear of a frame sooner than a thread that has to be woken.
const WATCHED: Duration = Duration::from_millis(2);

/// The main thread looks around at least this often even if nobody calls it.
const DOZE: Duration = Duration::from_secs(1);

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
fn join() -> Result<(Arc<Wake>, Box<dyn Fabric>), RunError> {
    // First of all, since threads inherit which signals are blocked.
    let wake = listen()?;
    open_files::raise_limit();
    let fabric: Box<dyn Fabric> = if mpi::launched() { Box::new(mpi::Mpi::join()?) } else { Box::new(Alone) };
    Ok((wake, fabric))
}

/// From here on signals wait until they are asked for.
fn listen() -> Result<Arc<Wake>, RunError> {
    let wake = Wake::new().map_err(|source| RunError::System { what: "set up signals", source })?;
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
    wake: Arc<Wake>,
    tell: impl FnOnce(&Result<Finished, RunError>),
) -> Result<Finished, RunError> {
    wake.begin(fabric.me() != Rank::ZERO);
    let result = match fabric.me() {
        Rank::ZERO => coordinator::launch::lead(fabric, options, kernels, wake),
        _ => follow::follow(fabric, None, kernels, wake, false),
    };
    tell(&result);
    if let Err(RunError::Missing { .. }) = result {
        fabric.abandon();
    }
    world::handshake::settle(fabric.as_mut(), FAREWELL);
    result
}

/// The main thread's work while the run goes on: what slots that are busy, or sleep, cannot see to.
fn pilot(crew: &Arc<Crew>) {
    let (mut look, mut looks, mut looked) = (LOOK[0], 0, crew.clock.now());
    let bell = lock(&crew.engine).fabric().bell();
    loop {
        let mut engine = lock(&crew.engine);
        crew.wake.heard();
        crew.answer();
        if std::mem::replace(&mut looks, engine.looks()) != looks {
            looked = crew.clock.now();
        }
        let watched = crew.clock.now().since(looked) < WATCHED;
        if !watched {
            engine.fabric().doze();
        }
        let moved = engine.turn(crew);
        while let Some(signal) = crew.wake.signal() {
            engine.signal(crew, signal);
        }
        if engine.is_over() {
            return;
        }
        look = match () {
            () if engine.fabric().is_moving() => LOOK[0],
            () if watched => WATCHED,
            () if engine.fabric().bell_is_enough() => LOOK[1],
            () if moved => LOOK[0],
            () => (look * 2).min(LOOK[1]),
        };
        let limit = if engine.is_alone() && !engine.is_stopping() { DOZE } else { look };
        let now = crew.clock.now();
        let limit = engine.next_tick().map_or(limit, |due| limit.min(due.since(now)));
        engine.pilot_sleeps(now.after(limit));
        let has_more = engine.has_more();
        drop(engine);
        if !crew.is_called() && !has_more {
            crew.wake.wait(bell.as_ref(), limit);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};

    use super::*;
    use crate::exec::Prepared;
    use crate::fabric::wire;
    use crate::schedule::protocol::Message;

    const FRAMES: u64 = 10_000;

    /// Frames that have all come once a task has begun, and of which nothing tells.
    struct Flood {
        began: AtomicBool,
        left: AtomicU64,
        /// How often the main thread had waited at the first frame, and at the last.
        waits: [AtomicU64; 2],
        wake: Arc<Wake>,
    }

    struct Flooded(Arc<Flood>);

    impl Fabric for Flooded {
        fn me(&self) -> Rank {
            Rank::ZERO
        }

        fn size(&self) -> u32 {
            1
        }

        fn send(&mut self, to: Rank, _: &mut Vec<u8>) -> Result<(), FabricError> {
            Err(FabricError::NoSuchRank(to))
        }

        fn receive(&mut self, frame: &mut Vec<u8>) -> Result<Option<Rank>, FabricError> {
            let left = self.0.left.load(SeqCst);
            if !self.0.began.load(SeqCst) || left == 0 {
                return Ok(None);
            }
            let edge = [FRAMES, 1].into_iter().position(|at| at == left);
            edge.into_iter().for_each(|edge| self.0.waits[edge].store(self.0.wake.waits(), SeqCst));
            self.0.left.store(left - 1, SeqCst);
            // It means nothing from a rank that does not take part.
            wire::encode(&Message::Steal { epoch: 0, want: 0 }, frame).expect("is small");
            Ok(Some(Rank(1)))
        }

        fn drained(&mut self) -> bool {
            true
        }
    }

    #[test]
    fn the_main_thread_does_not_sleep_while_frames_wait() {
        let dir = tempfile::tempdir().unwrap();
        let job = dir.path().join("job.toml");
        std::fs::write(&job, "[[task]]\nname = \"t\"\nkernel = \"until_heard\"\n").unwrap();
        let wake = listen().unwrap();
        let flood = Arc::new(Flood {
            began: AtomicBool::new(false),
            left: AtomicU64::new(FRAMES),
            waits: Default::default(),
            wake: Arc::clone(&wake),
        });
        let mut kernels = Kernels::builtin();
        let shared = Arc::clone(&flood);
        kernels.register("until_heard", move |_: &toml::Table| -> Result<Prepared, crate::exec::ArgError> {
            let flood = Arc::clone(&shared);
            Ok(Arc::new(move |context| {
                flood.began.store(true, SeqCst);
                while flood.left.load(SeqCst) > 0 && context.sleep(Duration::from_millis(1)) {}
                Ok(())
            }))
        });
        let run_dir = Some(dir.path().join("run"));
        let options = Options { run_dir, slots: Some(1), progress: Mode::Quiet, ..Options::new(job) };
        let mut fabric: Box<dyn Fabric> = Box::new(Flooded(Arc::clone(&flood)));
        let finished = run_on(&mut fabric, &options, kernels, wake, |_| {}).unwrap();
        let [first, last] = [0, 1].map(|edge| flood.waits[edge].load(SeqCst));
        assert_eq!((finished.exit_code, flood.left.load(SeqCst), last - first), (0, 0, 0));
    }
}
