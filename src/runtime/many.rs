//! Several runs one after the other on the same ranks, for programs that run more than one job.
//!
//! MPI can be joined and left once in the life of a process, so who wants a second run must keep the world. Between two runs the ranks may
//! send each other words of their own: rank 0 says what comes next, the others answer. A run and the words after it are a round of
//! the fabric, so nothing that was left under way by one run is taken for part of the next.

use std::sync::Arc;
use std::time::Instant;

use super::wake::Wake;
use super::world::{HANDSHAKE, LOOK, settle};
use super::{FAREWELL, Finished, Options, RunError, join, listen, run_on};
use crate::exec::Kernels;
use crate::fabric::Fabric;
use crate::fabric::local::Local;
use crate::fabric::rounds::Rounds;
use crate::model::Rank;

/// The ranks that a launcher started together, or this process alone, joined once for any number of runs.
pub struct World {
    fabric: Box<dyn Fabric>,
    wake: Arc<Wake>,
}

impl World {
    /// Joins the world that this process was started in. To be called before any other thread runs.
    ///
    /// # Errors
    /// If MPI cannot be used.
    pub fn join() -> Result<World, RunError> {
        let (wake, fabric) = join()?;
        Ok(World { fabric: Box::new(Rounds::new(fabric)), wake })
    }

    /// One rank of a world whose ranks are threads of this process; for tests without MPI.
    ///
    /// # Errors
    /// If signals cannot be listened to.
    pub fn in_thread(fabric: Local) -> Result<World, RunError> {
        Ok(World { fabric: Box::new(Rounds::new(Box::new(fabric))), wake: listen()? })
    }

    /// This rank.
    pub fn rank(&self) -> Rank {
        self.fabric.me()
    }

    /// Number of ranks.
    pub fn size(&self) -> u32 {
        self.fabric.size()
    }

    /// Runs a job. Every rank calls it, with the same kernels; the options are those of rank 0.
    ///
    /// # Errors
    /// As [`run`](super::run). The world can be used further unless ranks are missing.
    pub fn run(&mut self, options: &Options, kernels: Kernels) -> Result<Finished, RunError> {
        let result = run_on(&mut self.fabric, options, kernels, Arc::clone(&self.wake), |_| {});
        self.fabric.end_round(HANDSHAKE)?;
        result
    }

    /// Sends words of the caller's own to another rank. To be called between runs; the words must not be empty.
    ///
    /// # Errors
    /// If there is no such rank.
    pub fn tell(&mut self, to: Rank, mut words: Vec<u8>) -> Result<(), RunError> {
        Ok(self.fabric.send(to, &mut words)?)
    }

    /// Waits for words of another rank, and says whose they are. Rank 0 gives up upon a signal, and when nothing comes for minutes; the others
    /// wait for rank 0 as long as it takes.
    ///
    /// # Errors
    /// If rank 0 gives up, or no words can come any more.
    pub fn hear(&mut self) -> Result<(Rank, Vec<u8>), RunError> {
        let (leads, end) = (self.rank() == Rank::ZERO, Instant::now() + HANDSHAKE);
        loop {
            let mut words = Vec::new();
            if let Some(from) = self.fabric.receive(&mut words)? {
                return Ok((from, words));
            }
            match self.wake.signal() {
                Some(signal) if leads && signal != libc::SIGUSR1 => return Err(RunError::Interrupted(signal)),
                _ if leads && Instant::now() > end => {
                    return Err(RunError::Missing { ranks: (1..self.size()).collect(), seconds: HANDSHAKE.as_secs() });
                }
                _ => std::thread::sleep(LOOK),
            }
        }
    }
}

impl Drop for World {
    /// What was sent last must have left before MPI is left.
    fn drop(&mut self) {
        settle(self.fabric.as_mut(), FAREWELL);
    }
}
