//! Any rank but 0, from its arrival to its leave.

use std::path::PathBuf;
use std::sync::Arc;

use super::crew::lock;
use super::seat::{Outfit, Seat};
use super::wake::Wake;
use super::world::{await_welcome, send};
use super::{Finished, RunError, pilot};
use crate::exec::Kernels;
use crate::fabric::Fabric;
use crate::job;
use crate::model::Rank;
use crate::schedule::protocol::{Message, Welcome};
use crate::topology::Topology;

pub(super) fn follow(fabric: &mut Box<dyn Fabric>, kernels: Kernels, wake: Arc<Wake>) -> Result<Finished, RunError> {
    let silent = Finished { exit_code: 0, run_dir: None };
    let topology = Topology::discover();
    let (node, mask) = (topology.machine.node.clone(), topology.grant.mask.clone());
    send(fabric.as_mut(), Rank::ZERO, &Message::Arrived { node, mask })?;
    let Some(welcome) = await_welcome(fabric.as_mut(), &wake)? else { return Ok(silent) };
    match work(fabric, welcome, topology, kernels, wake) {
        Ok(()) => Ok(silent),
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
    wake: Arc<Wake>,
) -> Result<(), RunError> {
    let base = PathBuf::from(&welcome.base_dir);
    let mut job = job::parse(&welcome.job_text, &welcome.job_path, &base, &kernels).map_err(RunError::Job)?.job;
    // Rank 0 hands out the edges that concern this rank.
    job.links = Vec::new();
    let outfit = Outfit::new(topology, &welcome);
    send(fabric.as_mut(), Rank::ZERO, &Message::Hello(outfit.hello.clone()))?;
    let seat = Seat { welcome, job: Arc::new(job), outfit };
    let (crew, pool) = seat.take(fabric, None, kernels, wake)?;
    pilot(&crew);
    drop(pool);
    *fabric = lock(&crew.engine).take_apart().0;
    Ok(())
}
