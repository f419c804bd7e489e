//! A world that joins a run under way: this process, or all ranks of the `mpirun` that started it.
//!
//! Its first rank requests admission and sends the others their numbers; then each opens a link of
//! its own and works like any other rank. When the coordinator is gone, running tasks are ended and
//! the process exits within seconds.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::handshake::POLL_INTERVAL;
use crate::capacity::slurm;
use crate::exec::Kernels;
use crate::fabric::bridge::Ask;
use crate::fabric::bridge::contact::{self, Contact};
use crate::fabric::bridge::join::{Joined, Pauses, join};
use crate::fabric::rounds::Rounds;
use crate::fabric::routed::RoutedFabric;
use crate::fabric::{self, Fabric};
use crate::journal::RunDir;
use crate::model::Rank;
use crate::runtime::event_wait::EventWait;
use crate::runtime::rank::worker_main;
use crate::runtime::{Finished, MAX_CLOSE_WAIT, RunError, listen};
use crate::system::open_files;

/// Time that the other ranks of a world wait until the first is admitted, which may retry for a
/// minute.
const ADMISSION_TIMEOUT: Duration = Duration::from_secs(120);

/// Ranks of a world leave together when the last of them is done, so the first may wait this long.
const LEAVE_TIMEOUT: Duration = Duration::from_secs(30 * 24 * 3600);

/// The contact file in a run directory, which is there while ranks can join the run.
pub fn contact_of(run_dir: &Path) -> PathBuf {
    run_dir.join(contact::FILE)
}

/// How a run is joined.
#[derive(Clone, Debug)]
pub struct JoinOptions {
    /// The run's contact file.
    pub contact: PathBuf,
    /// Slots of each rank; `None`: as the run's own ranks.
    pub slots: Option<u32>,
    /// Labels of each rank, beside those in `PHALANX_LABELS`.
    pub labels: Vec<String>,
    /// The block that this world is part of, if the run requested it.
    pub block: Option<u64>,
    /// When the session that requested the block began, in milliseconds since 1970.
    pub session_ms: Option<u64>,
    /// Name of the run's jobs in the queue of Slurm, if this world is one of them.
    pub siblings: Option<String>,
}

/// Joins a run, takes part in it, and leaves when it is over or when the run sends this rank away.
///
/// # Errors
/// If the run cannot be joined, or its link ended without a message.
pub fn join_run(options: &JoinOptions, kernels: Kernels) -> Result<Finished, RunError> {
    let result = take_part(options, kernels);
    if let (Err(_), Some(name)) = (&result, &options.siblings) {
        let dir = options.contact.parent().and_then(|dir| RunDir::open(dir).ok());
        slurm::withdraw_siblings(name, &dir.map(|dir| dir.ended_sessions()).unwrap_or_default());
    }
    result
}

fn take_part(options: &JoinOptions, kernels: Kernels) -> Result<Finished, RunError> {
    // Before any thread starts, as threads inherit which signals are blocked.
    let wake = listen()?;
    open_files::raise_limit();
    let world = fabric::join()?;
    let world = if world.size() > 1 { Box::new(Rounds::new(world)) } else { world };
    let mut fabric = enter(world, options, &wake)?;
    let result = worker_main::run(&mut fabric, (options.slots, &options.labels), kernels, Arc::clone(&wake), true);
    wake.leave();
    match fabric.close(MAX_CLOSE_WAIT) {
        Some(mut world) if result.is_ok() => world.end_round(LEAVE_TIMEOUT)?,
        Some(mut world) => world.abandon(),
        None => {}
    }
    result
}

/// Gets this rank its number and its link.
fn enter(
    mut world: Box<dyn Fabric>,
    options: &JoinOptions,
    wake: &Arc<EventWait>,
) -> Result<Box<dyn Fabric>, RunError> {
    let (place, size) = (world.me(), world.size());
    let ask = match place {
        Rank::ZERO => Ask::World { ranks: size, block: options.block, node: node() },
        _ => Ask::Rank { rank: await_first(world.as_mut())? + place.0 },
    };
    let entered = request_admission(options, &ask, wake);
    if place == Rank::ZERO {
        let word = entered.as_ref().map_or(Vec::new(), |(first, _)| first.0.to_le_bytes().to_vec());
        for rank in 1..size {
            // A frame without a number means that the world was not admitted.
            world.send(Rank(rank), &mut [&[1], word.as_slice()].concat())?;
        }
    }
    let (me, link) = match entered {
        Ok(entered) => entered,
        Err(error) => {
            world.end_round(ADMISSION_TIMEOUT)?;
            return Err(error);
        }
    };
    Ok(Box::new(RoutedFabric::new(world, Rank(me.0 - place.0), Some(Box::new(link)))))
}

/// Requests admission, and retries while that may help. Each attempt reads the contact file, which
/// is removed when the run ends and changes when it is resumed.
fn request_admission(options: &JoinOptions, ask: &Ask, wake: &Arc<EventWait>) -> Result<(Rank, Joined), RunError> {
    let mut pauses = Pauses::begin();
    loop {
        let contact = Contact::read(&options.contact)?;
        if options.session_ms.is_some_and(|session| session != contact.session_ms) {
            return Err(RunError::Refused("an earlier session of the run requested this block".into()));
        }
        let waker = Arc::clone(wake);
        let error = match join(&contact, ask, move || waker.notify()) {
            Ok((me, link)) => {
                tracing::info!("joined {} as {me}", contact.run);
                return Ok((me, link));
            }
            Err(error) => error,
        };
        let Some(pause) = pauses.after(&error) else { return Err(error.into()) };
        tracing::debug!("{error}; the next attempt follows in {pause:?}");
        wake.wait(None, pause);
        if let Some(signal) = wake.next_signal().filter(|&signal| signal != libc::SIGUSR1) {
            return Err(RunError::Interrupted(signal));
        }
    }
}

/// Waits for the first rank of this world to send the first number.
fn await_first(world: &mut dyn Fabric) -> Result<u32, RunError> {
    let (end, mut word) = (Instant::now() + ADMISSION_TIMEOUT, Vec::new());
    while Instant::now() < end {
        if world.receive(&mut word)?.is_none() {
            std::thread::sleep(POLL_INTERVAL);
            continue;
        }
        return match word.as_slice() {
            &[1, a, b, c, d] => Ok(u32::from_le_bytes([a, b, c, d])),
            _ => {
                world.end_round(ADMISSION_TIMEOUT)?;
                Err(RunError::Refused("the first rank of this world was not let in".into()))
            }
        };
    }
    Err(RunError::Missing { ranks: vec![0], seconds: ADMISSION_TIMEOUT.as_secs() })
}

/// This node's name within the run.
fn node() -> String {
    std::env::var("SLURMD_NODENAME")
        .ok()
        .or_else(|| sysinfo::System::host_name().ok())
        .unwrap_or_else(|| "unknown".into())
}
