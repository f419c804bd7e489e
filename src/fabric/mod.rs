//! Frames between ranks. The rest of the program addresses ranks and does not know which path a frame takes.
//!
//! A fabric moves opaque byte strings; it keeps the order of frames between two ranks, loses none and never blocks. It knows neither
//! messages nor tasks: `wire` turns one into the other.

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

/// Why frames no longer move.
#[derive(Debug, Error)]
pub enum FabricError {
    /// A frame is larger than any rank would accept.
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
    /// The other side has gone.
    #[error("{0} has left the run")]
    Gone(Rank),
    /// Memory that a rank of this node writes to holds what no rank writes.
    #[error("what {0} wrote to shared memory is damaged")]
    Damaged(Rank),
    /// MPI could not be used.
    #[error("MPI: {0}")]
    Mpi(String),
}

/// A way for frames between the ranks of a world.
pub trait Fabric: Send {
    /// This rank.
    fn me(&self) -> Rank;

    /// Number of ranks.
    fn size(&self) -> u32;

    /// Sends a frame to another rank; returns at once. Leaves `frame` empty, with its memory where the frame was small: a sender
    /// of many allocates nothing.
    ///
    /// # Errors
    /// If the frame can never arrive.
    fn send(&mut self, to: Rank, frame: &mut Vec<u8>) -> Result<(), FabricError>;

    /// Puts the next frame that has come into `frame`, in place of what was there, and tells its sender; `None` if none has. Never waits.
    ///
    /// # Errors
    /// If no frame can come any more.
    fn receive(&mut self, frame: &mut Vec<u8>) -> Result<Option<Rank>, FabricError>;

    /// True once every frame sent has left this rank. Moves what is under way.
    fn drained(&mut self) -> bool;

    /// True for a rank that has a link to rank 0 on which two heartbeats are missing.
    fn is_cut_off(&self) -> bool {
        false
    }

    /// A descriptor that becomes readable when a frame has come for which this rank [dozed](Fabric::doze), and from which the woken reads
    /// without waiting; `None` if there is no such thing here.
    fn bell(&self) -> Option<OwnedFd> {
        None
    }

    /// True if frames of all other ranks ring the bell: who waits for that needs not look around in between.
    fn bell_is_enough(&self) -> bool {
        false
    }

    /// The way for frames between ranks of this node that slots send and take by themselves, if
    /// there is one.
    fn near(&self) -> Option<NearLane> {
        None
    }

    /// From now on the next frame rings the bell. To be called *before* the last look for frames.
    fn doze(&mut self) {}

    /// True while a frame is half way, in or out, and only moves when this rank looks around.
    fn is_moving(&mut self) -> bool {
        !self.drained()
    }

    /// Ends a round: what other ranks sent before they ended theirs is gone, and what they send afterwards comes in the next one. Waits
    /// for them, at most so long. A fabric that serves one round only has nothing to end.
    ///
    /// # Errors
    /// If a rank did not end its round in time.
    fn end_round(&mut self, _limit: Duration) -> Result<(), FabricError> {
        Ok(())
    }

    /// Ends what this fabric added to another one, which is returned: no frame goes beyond that any more. Those under way have so long to
    /// arrive. `None` if there is nothing beneath it.
    fn close(&mut self, _limit: Duration) -> Option<Box<dyn Fabric>> {
        None
    }

    /// Ends all ranks of the world at once, this one too where that is possible: for when some no longer answer.
    fn abandon(&mut self) {}
}

/// The fabric of a run that is one process: there is nobody else.
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
