//! The life of any rank but rank 0, from its arrival to its leave.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::coordinator_watch::CoordinatorWatch;
use super::main_loop::main_loop;
use super::setup::{RankResources, RankSetup, check_away, visible_run_dir};
use super::shared::Shared;
use crate::exec::{Kernels, TaskStop};
use crate::fabric::routed::RoutedFabric;
use crate::fabric::{Alone, Fabric};
use crate::job;
use crate::model::Rank;
use crate::runtime::event_wait::EventWait;
use crate::runtime::world::handshake::{await_dismissal, await_welcome, send};
use crate::runtime::{Finished, MAX_CLOSE_WAIT, RunError};
use crate::schedule::protocol::{Message, Welcome};
use crate::topology::Topology;

/// How long a rank whose coordinator is gone may take to end its tasks before its process exits.
const ORPHAN_EXIT_DELAY: Duration = Duration::from_secs(3);

/// Takes part in a run as a worker. `slots` overrides the number of slots that rank 0 requests, and
/// `labels` are those of its command line;
/// a `guest` has joined a run under way.
pub(in crate::runtime) fn run(
    fabric: &mut Box<dyn Fabric>,
    (slots, labels): (Option<u32>, &[String]),
    kernels: Kernels,
    event_wait: Arc<EventWait>,
    guest: bool,
) -> Result<Finished, RunError> {
    let silent = Finished { exit_code: 0, run_dir: None };
    let mut topology = Topology::discover();
    if guest {
        topology.grant.gpus.leave_counted();
    }
    let (node, mask) = (topology.machine.node.clone(), topology.grant.mask.clone());
    send(fabric.as_mut(), Rank::ZERO, &Message::Arrived { node, mask })?;
    let Some(mut welcome) = await_welcome(fabric.as_mut(), &event_wait)? else { return Ok(silent) };
    welcome.slots = slots.or(welcome.slots);
    match work(fabric, welcome, (topology, labels), kernels, event_wait, guest) {
        Ok(()) => Ok(silent),
        // Rank 0 is gone: there is no rank to notify.
        Err(error @ RunError::Orphaned) => Err(error),
        Err(error) => {
            let reason = error.to_string();
            send(fabric.as_mut(), Rank::ZERO, &Message::Broken { reason })?;
            await_dismissal(fabric.as_mut());
            Err(error)
        }
    }
}

fn work(
    fabric: &mut Box<dyn Fabric>,
    welcome: Welcome,
    (topology, labels): (Topology, &[String]),
    kernels: Kernels,
    event_wait: Arc<EventWait>,
    guest: bool,
) -> Result<(), RunError> {
    let base = PathBuf::from(&welcome.base_dir);
    let mut job = job::parse(welcome.job_text.clone(), &welcome.job_path, &base, &kernels).map_err(RunError::Job)?.job;
    job.set_auto_memory(welcome.auto_memory.clone().into());
    job.divide_graphs(&welcome.divided_graphs);
    // Rank 0 hands out the edges that this rank needs.
    job.links = Vec::new();
    let resources = RankResources::new(topology, &welcome, labels, job.slots);
    let dir = visible_run_dir(&welcome);
    if dir.is_none() {
        check_away(&job, &resources, &welcome, fabric.size())?;
        tracing::info!("{} is not visible here: files come from rank 0, and go there", welcome.run_dir);
    }
    send(fabric.as_mut(), Rank::ZERO, &Message::Hello(resources.hello.clone()))?;
    let (open, process) = (welcome.open, welcome.process);
    if open {
        let world = std::mem::replace(fabric, Box::new(Alone));
        *fabric = Box::new(RoutedFabric::new(world, Rank::ZERO, None));
    }
    let setup = RankSetup { welcome, job: Arc::new(job), resources, dir };
    let (executor, pool) = setup.start(fabric, None, kernels, event_wait)?;
    match guest {
        true => executor.engine.lock().set_guest(),
        false => executor.engine.lock().set_watch(CoordinatorWatch::new(process)),
    }
    main_loop(&executor);
    executor.shared.close();
    let orphaned = executor.engine.lock().is_orphaned();
    if orphaned {
        end_orphaned_tasks(&executor.shared);
    }
    drop(pool);
    *fabric = executor.engine.lock().take_apart().0;
    if open && let Some(world) = fabric.close(MAX_CLOSE_WAIT) {
        *fabric = world;
    }
    match orphaned {
        true => Err(RunError::Orphaned),
        false => Ok(()),
    }
}

/// Kills the tasks of this rank, as rank 0 is gone. A task that cannot be ended (a kernel that does
/// not check for it) does not keep the process.
fn end_orphaned_tasks(shared: &Shared) {
    tracing::error!("{}", RunError::Orphaned);
    shared.pause();
    shared.runner.stop_all(TaskStop::Kill);
    let leave = || {
        std::thread::sleep(ORPHAN_EXIT_DELAY);
        std::process::exit(1);
    };
    if let Err(error) = std::thread::Builder::new().name("leave".into()).spawn(leave) {
        tracing::error!(%error, "cannot watch over the end of what runs here");
    }
}
