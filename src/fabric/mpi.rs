//! The fabric of a world that `mpirun` started.
//!
//! MPI is initialised for *serialised* threads: any thread may call it, one at a time. `&mut self`
//! and the runtime's lock around the fabric guarantee that. `MPI_THREAD_MULTIPLE` would double the
//! cost of every call.
//!
//! Small and large frames take different paths, as they do inside MPI:
//!
//! - A *small* frame fits into an eager message. It is copied into one of our buffers, sent without
//!   waiting, and received into one of a ring of posted receives: polling costs a few nanoseconds
//!   and nothing is allocated. Between ranks of a node it goes through shared memory instead
//!   ([`near`](super::near)).
//! - A *large* frame is announced by a small one and then sent from the memory that holds it. Until
//!   it has arrived its receiver takes no other frame, which keeps the order of frames; the
//!   receiver does not block but polls.
//!
//! MPI owns a buffer from the call that starts a transfer until the transfer completes or MPI is
//! finalised.

use std::collections::VecDeque;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex};

use mpi::environment::Universe;
use mpi::ffi;
use mpi::raw::AsRaw;
use mpi::traits::{Communicator, CommunicatorCollectives, Equivalence};

use super::near::{Address, NearLane, NearRanks, lock};
use super::shared_ring::MAX_FRAME_BYTES;
use super::{Fabric, FabricError, wire};
use crate::model::Rank;

/// Largest content of a small frame in bytes. With MPI's own header it stays below the eager limit
/// of Open MPI's shared-memory transport (4,096 bytes); longer messages take ten times as long.
const MAX_SMALL_BYTES: usize = MAX_FRAME_BYTES;

/// First byte or label of a small frame that is the whole frame ...
const WHOLE: u8 = 0;
/// ... or announces a large frame, whose size follows.
const ANNOUNCED: u8 = 1;

/// Tags of small frames and of the bodies of large ones.
const TAGS: [i32; 2] = [0, 1];

/// Number of posted receives: the small frames that can arrive between two polls without MPI having
/// to buffer them.
const POSTED_RECEIVES: usize = 16;

/// Number of polls of shared memory per poll of MPI while all frames arrive through shared memory.
/// MPI must be polled too, because a rank that cannot write to shared memory uses MPI.
const POLLS_PER_MPI_POLL: u32 = 16;

/// Buffer of a small frame.
type Buffer = Box<[u8; 1 + MAX_SMALL_BYTES]>;

/// The world of an `mpirun`. The order of the fields matters: MPI is finalised before the buffers
/// are freed.
pub struct Mpi {
    universe: Universe,
    world: ffi::MPI_Comm,
    me: Rank,
    size: u32,
    /// Posted receives; the one at `next` was posted first.
    ring: Vec<Transfer<Buffer>>,
    next: usize,
    /// The large frame that is being received.
    body: Option<(Rank, Transfer<Vec<u8>>)>,
    sending: VecDeque<Transfer<Buffer>>,
    sending_large: VecDeque<Transfer<Vec<u8>>>,
    /// Buffers of small frames that have left.
    free: Vec<Buffer>,
    near: Arc<Mutex<NearRanks>>,
    /// True if frames arrive through MPI: from other nodes, or from a rank of this node that cannot
    /// use shared memory.
    mpi_carries: bool,
    /// Polls since MPI was last polled.
    polls: u32,
}

/// Memory that MPI may still read from or write to.
struct Transfer<B> {
    request: ffi::MPI_Request,
    buffer: B,
}

// SAFETY: a request handle is a plain word that MPI_THREAD_SERIALIZED allows any thread to use, and
// a communicator one that is constant; they are only used through `&mut Mpi`, hence by one thread
// at a time.
unsafe impl Send for Mpi {}

impl<B> Transfer<B> {
    fn new(buffer: B) -> Transfer<B> {
        Transfer { request: no_request(), buffer }
    }

    /// Returns the other rank and the number of bytes (of a receive) if the transfer is complete.
    #[inline]
    fn over(&mut self) -> Option<(i32, usize)> {
        let mut done = 0;
        // SAFETY: an all-zero status is a valid value to be overwritten; the request came from MPI
        // and has not completed yet.
        let status = unsafe {
            let mut status = std::mem::zeroed::<ffi::MPI_Status>();
            ffi::MPI_Test(&mut self.request, &mut done, &mut status);
            status
        };
        if done == 0 {
            return None;
        }
        let mut count = 0;
        // SAFETY: the status was filled in by MPI_Test.
        unsafe { ffi::MPI_Get_count(&status, u8::equivalent_datatype().as_raw(), &mut count) };
        Some((status.MPI_SOURCE, count.max(0) as usize))
    }
}

/// MPI's handle of no request; a pointer in Open MPI, a number in the MPICH family.
fn no_request() -> ffi::MPI_Request {
    // SAFETY: the constant is set when the program is loaded and never changes.
    unsafe { ffi::RSMPI_REQUEST_NULL }
}

impl Mpi {
    /// Initialises MPI and joins the world that the launcher started.
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
        let near = NearRanks::meet(me, size, |mine| {
            let mut all: Vec<Address> = vec![mine; size as usize];
            world.all_gather_into(&mine, all.as_flattened_mut());
            all
        });
        let mut fabric = Mpi {
            world: world.as_raw(),
            universe,
            me,
            size,
            ring: (0..POSTED_RECEIVES).map(|_| Transfer::new(Box::new([0; 1 + MAX_SMALL_BYTES]))).collect(),
            next: 0,
            body: None,
            sending: VecDeque::new(),
            sending_large: VecDeque::new(),
            free: Vec::new(),
            mpi_carries: !near.are_all(),
            near: Arc::new(Mutex::new(near)),
            polls: 0,
        };
        (0..POSTED_RECEIVES).for_each(|at| fabric.post(at));
        Ok(fabric)
    }

    /// Posts a receive for a small frame from any rank.
    fn post(&mut self, at: usize) {
        let Transfer { request, buffer } = &mut self.ring[at];
        // SAFETY: the buffer lies on the heap and is neither moved nor touched until `over` has
        // said that the receive is complete; on a drop it is cancelled first. Errors are fatal in
        // MPI (its default handler).
        unsafe {
            ffi::MPI_Irecv(
                buffer.as_mut_ptr().cast(),
                buffer.len() as i32,
                u8::equivalent_datatype().as_raw(),
                ffi::RSMPI_ANY_SOURCE,
                TAGS[0],
                self.world,
                request,
            );
        }
    }

    /// Starts to send from a buffer that its transfer then owns.
    fn start(&self, to: Rank, tag: i32, bytes: *const u8, len: usize) -> ffi::MPI_Request {
        let mut request = no_request();
        // SAFETY: callers keep the memory, which lies on the heap, until `over` says that MPI has
        // done with it, or until after MPI has been finalised. The length fits an i32 because
        // frames are bounded.
        unsafe {
            let datatype = u8::equivalent_datatype().as_raw();
            ffi::MPI_Isend(bytes.cast(), len as i32, datatype, to.0 as i32, tag, self.world, &mut request);
        }
        request
    }

    #[inline]
    fn send_small(&mut self, to: Rank, kind: u8, content: &[u8]) {
        if !lock(&self.near).send(to, kind.into(), content) {
            self.send_through_mpi(to, kind, content);
        }
    }

    fn send_through_mpi(&mut self, to: Rank, kind: u8, content: &[u8]) {
        let mut buffer = self.free.pop().unwrap_or_else(|| Box::new([0; 1 + MAX_SMALL_BYTES]));
        buffer[0] = kind;
        buffer[1..=content.len()].copy_from_slice(content);
        let request = self.start(to, TAGS[0], buffer.as_ptr(), 1 + content.len());
        self.sending.push_back(Transfer { request, buffer });
        self.reap();
    }

    /// Reclaims the buffers of completed sends.
    #[inline]
    fn reap(&mut self) {
        while self.sending.front_mut().is_some_and(|first| first.over().is_some()) {
            self.free.extend(self.sending.pop_front().map(|sent| sent.buffer));
        }
        while self.sending_large.front_mut().is_some_and(|first| first.over().is_some()) {
            self.sending_large.pop_front();
        }
    }

    fn receive_through_mpi(&mut self, frame: &mut Vec<u8>) -> Result<Option<Rank>, FabricError> {
        let at = self.next;
        let Some((source, count)) = self.ring[at].over() else {
            self.reap();
            return Ok(None);
        };
        self.mpi_carries = true;
        self.next = (at + 1) % POSTED_RECEIVES;
        let from = Rank(source as u32);
        let (kind, content) = (self.ring[at].buffer[0], 1..count.max(1));
        frame.clear();
        frame.extend_from_slice(&self.ring[at].buffer[content]);
        self.post(at);
        if kind == WHOLE { Ok(Some(from)) } else { self.announced(from, frame) }
    }

    /// Starts to receive the large frame that `frame` announces.
    fn announced(&mut self, from: Rank, frame: &mut Vec<u8>) -> Result<Option<Rank>, FabricError> {
        self.start_to_receive(from, frame)?;
        Ok(self.take_body(frame))
    }

    fn start_to_receive(&mut self, from: Rank, announced: &[u8]) -> Result<(), FabricError> {
        let size = announced.try_into().map(u64::from_le_bytes).unwrap_or(u64::MAX) as usize;
        if size > wire::MOST {
            return Err(FabricError::TooLarge { to: self.me, size, limit: wire::MOST });
        }
        let mut transfer = Transfer::new(vec![0u8; size]);
        // SAFETY: as in `post`; the memory is that of a vector that is not touched until the
        // receive is complete.
        unsafe {
            ffi::MPI_Irecv(
                transfer.buffer.as_mut_ptr().cast(),
                size as i32,
                u8::equivalent_datatype().as_raw(),
                from.0 as i32,
                TAGS[1],
                self.world,
                &mut transfer.request,
            );
        }
        self.body = Some((from, transfer));
        Ok(())
    }

    /// Takes the large frame if it has arrived completely.
    fn take_body(&mut self, frame: &mut Vec<u8>) -> Option<Rank> {
        let (_, transfer) = self.body.as_mut()?;
        transfer.over()?;
        let (from, transfer) = self.body.take()?;
        *frame = transfer.buffer;
        Some(from)
    }
}

impl Drop for Mpi {
    fn drop(&mut self) {
        // No rank sends any more. Pending receives would keep MPI from being finalised.
        for transfer in &mut self.ring {
            // SAFETY: the request is one of a posted receive; waiting for a cancelled one ends at
            // once.
            unsafe {
                ffi::MPI_Cancel(&mut transfer.request);
                ffi::MPI_Wait(&mut transfer.request, ffi::RSMPI_STATUS_IGNORE);
            }
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

    fn send(&mut self, to: Rank, frame: &mut Vec<u8>) -> Result<(), FabricError> {
        let size = frame.len();
        if to.0 >= self.size {
            return Err(FabricError::NoSuchRank(to));
        }
        if size > wire::MOST {
            return Err(FabricError::TooLarge { to, size, limit: wire::MOST });
        }
        if size <= MAX_SMALL_BYTES {
            self.send_small(to, WHOLE, frame);
            frame.clear();
        } else {
            self.send_small(to, ANNOUNCED, &(size as u64).to_le_bytes());
            let buffer = std::mem::take(frame);
            let request = self.start(to, TAGS[1], buffer.as_ptr(), size);
            self.sending_large.push_back(Transfer { request, buffer });
        }
        Ok(())
    }

    #[inline]
    fn receive(&mut self, frame: &mut Vec<u8>) -> Result<Option<Rank>, FabricError> {
        if self.body.is_some() {
            return Ok(self.take_body(frame));
        }
        let mut near = lock(&self.near);
        match near.receive(frame) {
            Ok(None) => near.flush(),
            Ok(Some((from, label))) if label == u32::from(ANNOUNCED) => {
                drop(near);
                return self.announced(from, frame);
            }
            Ok(Some((from, _))) => return Ok(Some(from)),
            Err(from) => return Err(FabricError::Damaged(from)),
        };
        drop(near);
        self.polls += 1;
        let busy = self.mpi_carries || !self.sending.is_empty() || !self.sending_large.is_empty();
        if !busy && self.polls < POLLS_PER_MPI_POLL {
            return Ok(None);
        }
        self.polls = 0;
        self.receive_through_mpi(frame)
    }

    fn drained(&mut self) -> bool {
        self.reap();
        lock(&self.near).flush() && self.sending.is_empty() && self.sending_large.is_empty()
    }

    fn bell(&self) -> Option<OwnedFd> {
        lock(&self.near).bell()
    }

    fn bell_is_enough(&self) -> bool {
        lock(&self.near).are_all()
    }

    fn near(&self) -> Option<NearLane> {
        Some(NearLane::new(Arc::clone(&self.near), Rank::ZERO))
    }

    fn doze(&mut self) {
        lock(&self.near).doze();
        // The last poll before a sleep must include MPI.
        self.polls = POLLS_PER_MPI_POLL;
    }

    fn is_moving(&mut self) -> bool {
        !self.drained() || self.body.is_some()
    }

    fn abandon(&mut self) {
        self.universe.world().abort(1)
    }
}
