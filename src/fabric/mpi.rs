//! The fabric of a world started by `mpirun`.
//!
//! MPI is initialised for *serialised* threads: any thread may call it, one at a time. `&mut self` and the lock that the runtime keeps
//! around the fabric see to the second half; multiple threads at once would double the cost of every call.
//!
//! Frames are sent without waiting (`MPI_Isend`) from buffers that this file keeps until MPI has done with them, and received by matched
//! probe. A message is often seen only by the probe after the one that moved it, so an empty answer is given after three.

use std::collections::VecDeque;

use mpi::environment::Universe;
use mpi::ffi;
use mpi::raw::AsRaw;
use mpi::traits::{Communicator, Equivalence, Source};

use super::{Fabric, FabricError, wire};
use crate::model::Rank;

/// Probes before "nothing has come" is believed.
const PROBES: usize = 3;

/// All Phalanx frames travel under one tag.
const TAG: i32 = 0;

/// The world of an `mpirun`. The order of the fields matters: see `send`.
pub struct Mpi {
    universe: Universe,
    me: Rank,
    size: u32,
    sending: VecDeque<Sending>,
}

/// A frame that MPI may still read from.
struct Sending {
    request: ffi::MPI_Request,
    frame: Vec<u8>,
}

// SAFETY: a request handle is a plain word that MPI_THREAD_SERIALIZED allows any thread to use; it is only used through `&mut Mpi`,
// hence by one thread at a time.
unsafe impl Send for Sending {}

/// True if this process was started by an MPI launcher together with others, or could have been: only then is MPI initialised at all.
pub fn launched() -> bool {
    ["OMPI_COMM_WORLD_SIZE", "PMIX_RANK", "PMI_SIZE", "MPI_LOCALNRANKS"]
        .iter()
        .any(|name| std::env::var_os(name).is_some())
}

impl Mpi {
    /// Joins the world that the launcher started.
    ///
    /// # Errors
    /// If MPI is initialised already or cannot serve more than one thread.
    pub fn join() -> Result<Mpi, FabricError> {
        let (universe, granted) = mpi::initialize_with_threading(mpi::Threading::Serialized)
            .ok_or_else(|| FabricError::Mpi("is initialised already in this process".into()))?;
        if granted < mpi::Threading::Serialized {
            return Err(FabricError::Mpi(format!("offers {granted:?} threading, Serialized is needed")));
        }
        let world = universe.world();
        let (me, size) = (Rank(world.rank() as u32), world.size() as u32);
        Ok(Mpi { universe, me, size, sending: VecDeque::new() })
    }

    fn reap(&mut self) {
        while let Some(first) = self.sending.front_mut() {
            let mut done = 0;
            // SAFETY: the request came from MPI_Isend and has not completed yet; MPI_Test accepts a null status.
            unsafe { ffi::MPI_Test(&mut first.request, &mut done, ffi::RSMPI_STATUS_IGNORE) };
            if done == 0 {
                return;
            }
            self.sending.pop_front();
        }
    }
}

impl Fabric for Mpi {
    fn me(&self) -> Rank {
        self.me
    }

    fn size(&self) -> u32 {
        self.size
    }

    fn send(&mut self, to: Rank, frame: Vec<u8>) -> Result<(), FabricError> {
        if to.0 >= self.size {
            return Err(FabricError::NoSuchRank(to));
        }
        if frame.len() > wire::MOST {
            return Err(FabricError::TooLarge { to, size: frame.len(), limit: wire::MOST });
        }
        let world = self.universe.world();
        let mut sending = Sending { request: ffi::MPI_Request(std::ptr::null_mut()), frame };
        // SAFETY: the buffer lies on the heap and moves with neither `sending` nor the queue. It is dropped after MPI_Test has said that the
        // request is complete, or with `self` after MPI has been finalised: `universe` is declared, hence dropped, first. Count fits an i32 by the check above. Errors are fatal in MPI (its default handler).
        unsafe {
            ffi::MPI_Isend(
                sending.frame.as_ptr().cast(),
                sending.frame.len() as i32,
                u8::equivalent_datatype().as_raw(),
                to.0 as i32,
                TAG,
                world.as_raw(),
                &mut sending.request,
            );
        }
        self.sending.push_back(sending);
        self.reap();
        Ok(())
    }

    fn receive(&mut self) -> Result<Option<(Rank, Vec<u8>)>, FabricError> {
        self.reap();
        let world = self.universe.world();
        for _ in 0..PROBES {
            let Some((message, status)) = world.any_process().immediate_matched_probe_with_tag(TAG) else { continue };
            let size = status.count(u8::equivalent_datatype()).max(0) as usize;
            let mut frame = vec![0u8; size];
            message.matched_receive_into(&mut frame[..]);
            return Ok(Some((Rank(status.source_rank() as u32), frame)));
        }
        Ok(None)
    }

    fn drained(&mut self) -> bool {
        self.reap();
        self.sending.is_empty()
    }

    fn abandon(&mut self) {
        self.universe.world().abort(1)
    }
}
