//! Any rank but 0, from its arrival to its leave.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::executor::{Executor, lock};
use super::main_loop::main_loop;
use super::setup::{RankResources, RankSetup};
use crate::exec::{Kernels, Stop as StopTasks};
use crate::fabric::combined::Combined;
use crate::fabric::{Alone, Fabric};
use crate::job;
use crate::model::Rank;
use crate::runtime::event_wait::EventWait;
use crate::runtime::world::handshake::{await_welcome, send};
use crate::runtime::{FAREWELL, Finished, RunError};
use crate::schedule::protocol::{Message, Welcome};
use crate::topology::Topology;

/// A rank whose coordinator is gone leaves within this time.
const GRACE: Duration = Duration::from_secs(3);

/// `slots` overrides what rank 0 says about slots; a `guest` has joined a run under way.
pub(in crate::runtime) fn run(
    fabric: &mut Box<dyn Fabric>,
    slots: Option<u32>,
    kernels: Kernels,
    wake: Arc<EventWait>,
    guest: bool,
) -> Result<Finished, RunError> {
    let silent = Finished { exit_code: 0, run_dir: None };
    let mut topology = Topology::discover();
    if guest {
        topology.grant.gpus.leave_counted();
    }
    let (node, mask) = (topology.machine.node.clone(), topology.grant.mask.clone());
    send(fabric.as_mut(), Rank::ZERO, &Message::Arrived { node, mask })?;
    let Some(mut welcome) = await_welcome(fabric.as_mut(), &wake)? else { return Ok(silent) };
    welcome.slots = slots.or(welcome.slots);
    match work(fabric, welcome, topology, kernels, wake, guest) {
        Ok(()) => Ok(silent),
        // Nobody is there to be told.
        Err(error @ RunError::Orphaned) => Err(error),
        Err(error) => {
            let reason = error.to_string();
            send(fabric.as_mut(), Rank::ZERO, &Message::Broken { reason })?;
            Err(error)
        }
    }
}

fn work(
    fabric: &mut Box<dyn Fabric>,
    welcome: Welcome,
    topology: Topology,
    kernels: Kernels,
    wake: Arc<EventWait>,
    guest: bool,
) -> Result<(), RunError> {
    let base = PathBuf::from(&welcome.base_dir);
    let mut job = job::parse(welcome.job_text.clone(), &welcome.job_path, &base, &kernels).map_err(RunError::Job)?.job;
    // Rank 0 hands out the edges that concern this rank.
    job.links = Vec::new();
    let resources = RankResources::new(topology, &welcome);
    send(fabric.as_mut(), Rank::ZERO, &Message::Hello(resources.hello.clone()))?;
    let open = welcome.open;
    if open {
        let world = std::mem::replace(fabric, Box::new(Alone));
        *fabric = Box::new(Combined::new(world, Rank::ZERO, None));
    }
    let setup = RankSetup { welcome, job: Arc::new(job), resources };
    let (crew, pool) = setup.start(fabric, None, kernels, wake)?;
    if guest {
        lock(&crew.engine).set_guest();
    }
    main_loop(&crew);
    let orphaned = lock(&crew.engine).is_orphaned();
    if orphaned {
        give_up(&crew);
    }
    drop(pool);
    *fabric = lock(&crew.engine).take_apart().0;
    if open && let Some(world) = fabric.close(FAREWELL) {
        *fabric = world;
    }
    match orphaned {
        true => Err(RunError::Orphaned),
        false => Ok(()),
    }
}

/// Nobody waits for what runs here any more: ends it. What cannot be ended (a kernel that does not look) does not keep the process.
fn give_up(crew: &Executor) {
    tracing::error!("{}", RunError::Orphaned);
    if let Some(pool) = crew.pool() {
        pool.pause();
    }
    crew.runner.stop_all(StopTasks::Kill);
    let leave = || {
        std::thread::sleep(GRACE);
        std::process::exit(1);
    };
    if let Err(error) = std::thread::Builder::new().name("leave".into()).spawn(leave) {
        tracing::error!(%error, "cannot watch over the end of what runs here");
    }
}
