//! Frames between ranks. The rest of the program addresses ranks and does not know which path a
//! frame takes.
//!
//! A fabric transfers opaque byte strings. It keeps the order of frames between two ranks, loses
//! none and never blocks. It knows neither messages nor tasks; `wire` converts between messages and
//! frames.

pub mod bridge;
pub mod local;
pub mod mpi;
pub mod near;
pub mod rounds;
pub mod routed;
mod shared_memory;
mod shared_ring;
pub mod wire;

use std::os::fd::OwnedFd;
use std::time::Duration;

use thiserror::Error;

use self::near::NearLane;
use crate::model::Rank;
use crate::system::launch::{self, Launch};

/// Why frames no longer move.
#[derive(Debug, Error)]
pub enum FabricError {
    /// The frame is larger than any rank accepts.
    #[error("a message of {size} bytes to {to} exceeds the limit of {limit} bytes")]
    TooLarge {
        /// Receiver.
        to: Rank,
        /// Its size.
        size: usize,
        /// The limit.
        limit: usize,
    },
    /// There is no such rank.
    #[error("there is no {0} in this run")]
    NoSuchRank(Rank),
    /// The other rank has left.
    #[error("{0} has left the run")]
    Gone(Rank),
    /// A rank of this node has written invalid data into shared memory.
    #[error("{0} wrote invalid data to shared memory")]
    Damaged(Rank),
    /// The launcher started several processes, but MPI finds only one.
    #[error(
        "{launcher} started {size} processes, but {library}, which this program was built with, sees only itself: \
         each process would run the whole job. Start it with the launcher of that MPI (`mpirun`, also inside an \
         allocation; or `srun --mpi=TYPE` with a type that it knows, see `srun --mpi=list`), or build Phalanx with the \
         launcher's MPI (docs/clusters.md)"
    )]
    NoWorld {
        /// What started the processes.
        launcher: &'static str,
        /// Their number.
        size: u32,
        /// The MPI library and its version.
        library: String,
    },
    /// MPI could not be used.
    #[error("MPI: {0}")]
    Mpi(String),
}

/// Joins the other processes of the world that a launcher started, or stays alone if none did.
///
/// # Errors
/// If MPI cannot be used, or finds fewer processes than the launcher started.
pub fn join() -> Result<Box<dyn Fabric>, FabricError> {
    let fabric: Box<dyn Fabric> = if launch::is_launched() { Box::new(mpi::Mpi::join()?) } else { Box::new(Alone) };
    match launch::place() {
        Some(Launch { launcher, size, .. }) if size > 1 && fabric.size() == 1 => {
            Err(FabricError::NoWorld { launcher, size, library: launch::library() })
        }
        _ => Ok(fabric),
    }
}

/// A transport of frames between the ranks of a world.
pub trait Fabric: Send {
    /// This rank.
    fn me(&self) -> Rank;

    /// Number of ranks.
    fn size(&self) -> u32;

    /// Sends a frame to another rank without waiting. Empties `frame` but keeps the memory of small
    /// frames, so that a sender of many frames does not allocate.
    ///
    /// # Errors
    /// If the frame cannot be delivered.
    fn send(&mut self, to: Rank, frame: &mut Vec<u8>) -> Result<(), FabricError>;

    /// Replaces the content of `frame` with the next frame that has arrived and returns its sender,
    /// or `None` if none has arrived. Never waits.
    ///
    /// # Errors
    /// If no frame can arrive any more.
    fn receive(&mut self, frame: &mut Vec<u8>) -> Result<Option<Rank>, FabricError>;

    /// True once every frame sent has left this rank. Also makes progress on pending transfers.
    fn drained(&mut self) -> bool;

    /// True if this rank has a link to rank 0 on which two heartbeats are overdue.
    fn is_cut_off(&self) -> bool {
        false
    }

    /// The ranks of this world that are lost, in the order in which this rank noticed. All that has
    /// arrived of them was received before, and frames to them are dropped. Always empty where the
    /// loss of a rank ends its world.
    fn lost(&self) -> Vec<Rank> {
        Vec::new()
    }

    /// Takes a rank for lost although MPI has not said so here: what has arrived of it is still
    /// received, then it counts as [`lost`](Fabric::lost). False if it does already, or if this
    /// fabric cannot lose it.
    fn give_up(&mut self, _rank: Rank) -> bool {
        false
    }

    /// The ranks of this world and this node whose processes have ended.
    fn ended_neighbours(&self) -> Vec<Rank> {
        Vec::new()
    }

    /// A descriptor that becomes readable when a frame arrives after [`doze`](Fabric::doze);
    /// reading from it never blocks. `None` if this fabric has no doorbell.
    fn bell(&self) -> Option<OwnedFd> {
        None
    }

    /// True if frames of all other ranks ring the bell, so that a rank that waits for it need not
    /// poll.
    fn bell_is_enough(&self) -> bool {
        false
    }

    /// The rings through which slots exchange frames with ranks of this node without the engine, if
    /// there are any.
    fn near(&self) -> Option<NearLane> {
        None
    }

    /// Arms the bell: the next frame rings it. The caller must poll once more *after* this call and
    /// before it sleeps.
    fn doze(&mut self) {}

    /// True while a frame is partly sent or received and progresses only when this rank polls.
    fn is_moving(&mut self) -> bool {
        !self.drained()
    }

    /// Ends a round: discards frames that other ranks sent before they ended theirs; later frames
    /// belong to the next round. Waits for all ranks, at most `limit`. Does nothing in a fabric
    /// that serves one round only.
    ///
    /// # Errors
    /// If a rank did not end its round in time.
    fn end_round(&mut self, _limit: Duration) -> Result<(), FabricError> {
        Ok(())
    }

    /// Closes the layer that this fabric adds and returns the fabric beneath it, or `None` if there
    /// is none. Frames under way have `limit` to arrive.
    fn close(&mut self, _limit: Duration) -> Option<Box<dyn Fabric>> {
        None
    }

    /// Aborts all ranks of the world, this one too where possible: for use when some ranks no
    /// longer answer.
    fn abandon(&mut self) {}
}

/// The fabric of a run of one process: there is no other rank.
pub struct Alone;

impl Fabric for Alone {
    fn me(&self) -> Rank {
        Rank::ZERO
    }

    fn size(&self) -> u32 {
        1
    }

    fn send(&mut self, to: Rank, _frame: &mut Vec<u8>) -> Result<(), FabricError> {
        Err(FabricError::NoSuchRank(to))
    }

    fn receive(&mut self, _frame: &mut Vec<u8>) -> Result<Option<Rank>, FabricError> {
        Ok(None)
    }

    fn drained(&mut self) -> bool {
        true
    }
}
