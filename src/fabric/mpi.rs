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
//!
//! In a world that survives lost ranks (`failures`) a transfer with a lost rank fails, and a
//! receive from any rank does so once for each loss:
//!
//! | a lost rank | effect |
//! |---|---|
//! | a receive from any rank fails | MPI is asked which ranks are lost, and may receive again |
//! | a send to it fails | the send is forgotten; no other waits for it |
//! | a send fails, and its receiver is not lost | an error: a frame is missing |
//! | the body of its large frame fails | the frame, and all that would follow it, is dropped |
//! | nothing of it is left to be received | it counts as [`lost`](Fabric::lost): frames to it are dropped |
//!
//! So what arrived from a lost rank is always the beginning of what it sent, without a gap. MPI
//! says so of a live rank, too, when a connection breaks, and says it to one of the two alone.

mod failures;
mod transfer;

use std::collections::VecDeque;
use std::mem::ManuallyDrop;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use mpi::collective::SystemOperation;
use mpi::environment::Universe;
use mpi::ffi;
use mpi::raw::AsRaw;
use mpi::traits::{Communicator, CommunicatorCollectives, Equivalence};

use self::failures::{Failures, SUCCESS};
use self::transfer::{Progress, Transfer, no_request, take_ended};
use super::near::{Address, NearLane, NearRanks, lock};
use super::shared_ring::MAX_FRAME_BYTES;
use super::{Fabric, FabricError, wire};
use crate::model::Rank;
use crate::system::ulfm::RankLoss;

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

/// How long rank 0 of a world that survives lost ranks waits for the others to leave: who sees it
/// go must not take that for a loss.
const LEAVE_TIMEOUT: Duration = Duration::from_secs(30);

/// How long MPI may take to say that the receiver of a send that has failed is lost.
const UNSENT_LIMIT: Duration = Duration::from_secs(2);

/// Poll interval of that wait.
const LEAVE_POLL_INTERVAL: Duration = Duration::from_millis(1);

/// Buffer of a small frame.
type Buffer = Box<[u8; 1 + MAX_SMALL_BYTES]>;

/// The world of an `mpirun`.
pub struct Mpi {
    /// MPI, which is finalised before the buffers are freed, or never.
    universe: ManuallyDrop<Universe>,
    world: ffi::MPI_Comm,
    me: Rank,
    size: u32,
    /// Posted receives; the one at `next` was posted first.
    ring: Vec<Transfer<Buffer>>,
    next: usize,
    /// The large frame that is being received.
    body: Option<(Rank, Transfer<Vec<u8>>)>,
    /// Sends with their receivers.
    sending: VecDeque<(Rank, Transfer<Buffer>)>,
    sending_large: VecDeque<(Rank, Transfer<Vec<u8>>)>,
    /// Receivers of sends that have failed, of which MPI has not said that they are lost, and when.
    unsent: Vec<(Rank, Instant)>,
    /// Buffers of small frames that have left.
    free: Vec<Buffer>,
    near: Arc<Mutex<NearRanks>>,
    /// True if frames arrive through MPI: from other nodes, or from a rank of this node that cannot
    /// use shared memory.
    mpi_carries: bool,
    /// Polls since MPI was last polled.
    polls: u32,
    /// What MPI says of lost ranks, if this world survives them.
    failures: Option<Failures>,
    /// Number of lost ranks that MPI has told of.
    told: usize,
    /// Ranks that were given up, of which frames may be left, and those that are lost.
    failing: Vec<Rank>,
    lost: Vec<Rank>,
}

// SAFETY: a request handle is a plain word that MPI_THREAD_SERIALIZED allows any thread to use, and
// a communicator one that is constant; they are only used through `&mut Mpi`, hence by one thread
// at a time.
unsafe impl Send for Mpi {}

impl Mpi {
    /// Initialises MPI and joins the world that the launcher started.
    ///
    /// # Errors
    /// If MPI is initialised already or cannot serve more than one thread.
    pub fn join() -> Result<Mpi, FabricError> {
        let limit = failures::limit_meeting();
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
        // Ranks of other nodes do not see the launcher's options.
        let (survives, mut all_survive) = (u8::from(RankLoss::here() == RankLoss::Survived), 0u8);
        world.all_reduce_into(&survives, &mut all_survive, SystemOperation::min());
        drop(limit);
        let mut fabric = Mpi {
            world: world.as_raw(),
            failures: Failures::of(world.as_raw()).filter(|_| all_survive == 1),
            told: 0,
            failing: Vec::new(),
            lost: Vec::new(),
            universe: ManuallyDrop::new(universe),
            me,
            size,
            ring: (0..POSTED_RECEIVES).map(|_| Transfer::new(Box::new([0; 1 + MAX_SMALL_BYTES]))).collect(),
            next: 0,
            body: None,
            sending: VecDeque::new(),
            sending_large: VecDeque::new(),
            unsent: Vec::new(),
            free: Vec::new(),
            mpi_carries: !near.are_all(),
            near: Arc::new(Mutex::new(near)),
            polls: 0,
        };
        (0..POSTED_RECEIVES).try_for_each(|at| fabric.post(at))?;
        Ok(fabric)
    }

    /// Posts a receive for a small frame from any rank. MPI refuses that while it has a loss to
    /// tell of.
    fn post(&mut self, at: usize) -> Result<(), FabricError> {
        loop {
            let Transfer { request, buffer } = &mut self.ring[at];
            *request = no_request();
            // SAFETY: the buffer lies on the heap and is neither moved nor touched until the
            // receive is complete; on a drop it is cancelled first, or never freed.
            let code = unsafe {
                ffi::MPI_Irecv(
                    buffer.as_mut_ptr().cast(),
                    buffer.len() as i32,
                    u8::equivalent_datatype().as_raw(),
                    ffi::RSMPI_ANY_SOURCE,
                    TAGS[0],
                    self.world,
                    request,
                )
            };
            if code == SUCCESS {
                return Ok(());
            }
            if !self.note_failures() {
                return Err(FabricError::Mpi(format!("no frame can be received any more (error {code})")));
            }
        }
    }

    /// Asks MPI for lost ranks. True if it tells of further ones.
    #[cold]
    fn note_failures(&mut self) -> bool {
        let all = self.failures.as_ref().map(Failures::acknowledge).unwrap_or_default();
        let told = self.told;
        self.told = told.max(all.len());
        let new = all.into_iter().filter(|rank| !self.lost.contains(rank) && !self.failing.contains(rank));
        let new: Vec<Rank> = new.collect();
        self.failing.extend(new);
        self.told > told
    }

    /// True if this rank is lost or was given up.
    fn is_given_up(&self, rank: Rank) -> bool {
        self.failing.contains(&rank) || self.lost.contains(&rank)
    }

    /// Sends have failed, which is an error unless their receivers are lost.
    #[cold]
    fn check_unsent(&mut self) -> Result<(), FabricError> {
        self.note_failures();
        let unsent = std::mem::take(&mut self.unsent);
        let unsent: Vec<(Rank, Instant)> = unsent.into_iter().filter(|(to, _)| !self.is_given_up(*to)).collect();
        match unsent.iter().find(|(_, since)| since.elapsed() > UNSENT_LIMIT) {
            Some((to, _)) => Err(FabricError::Mpi(format!("a message to {to}, which is not lost, could not be sent"))),
            None => {
                self.unsent = unsent;
                Ok(())
            }
        }
    }

    /// Nothing further is received from this rank, nor sent to it.
    fn part_with(&mut self, rank: Rank) {
        self.failing.retain(|other| *other != rank);
        if !self.lost.contains(&rank) {
            self.lost.push(rank);
            lock(&self.near).forget(rank);
        }
    }

    #[inline]
    fn is_lost(&self, rank: Rank) -> bool {
        !self.lost.is_empty() && self.lost.contains(&rank)
    }

    /// Starts to send from a buffer that its transfer then owns.
    fn start(&self, to: Rank, tag: i32, bytes: *const u8, len: usize) -> ffi::MPI_Request {
        let mut request = no_request();
        // SAFETY: callers keep the memory, which lies on the heap, until `progress` says that MPI
        // has done with it, or until after MPI has been finalised. The length fits an i32 because
        // frames are bounded.
        let code = unsafe {
            let datatype = u8::equivalent_datatype().as_raw();
            ffi::MPI_Isend(bytes.cast(), len as i32, datatype, to.0 as i32, tag, self.world, &mut request)
        };
        // One that cannot be started, e.g. to a lost rank, counts as a send that has failed.
        if code == SUCCESS { request } else { no_request() }
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
        self.sending.push_back((to, Transfer { request, buffer }));
        self.reap();
    }

    /// Reclaims the buffers of completed sends.
    #[inline]
    fn reap(&mut self) {
        let (free, unsent) = (&mut self.free, &mut self.unsent);
        take_ended(&mut self.sending, |buffer| free.push(buffer), unsent);
        take_ended(&mut self.sending_large, drop, unsent);
    }

    fn receive_through_mpi(&mut self, frame: &mut Vec<u8>) -> Result<Option<Rank>, FabricError> {
        let failing = self.failing.len();
        loop {
            let at = self.next;
            let (source, count) = match self.ring[at].progress() {
                Progress::Done(source, count) => (source, count),
                Progress::Pending => break,
                Progress::Failed => {
                    let is_new = self.note_failures();
                    if !self.ring[at].is_active() {
                        self.post(at)?;
                    } else if !is_new {
                        break;
                    }
                    continue;
                }
            };
            self.mpi_carries = true;
            self.next = (at + 1) % POSTED_RECEIVES;
            let from = Rank(source as u32);
            let (kind, content) = (self.ring[at].buffer[0], 1..count.max(1));
            frame.clear();
            frame.extend_from_slice(&self.ring[at].buffer[content]);
            self.post(at)?;
            match kind {
                _ if self.is_lost(from) => {}
                WHOLE => return Ok(Some(from)),
                _ => return self.announced(from, frame),
            }
        }
        self.reap();
        if !self.unsent.is_empty() {
            self.check_unsent()?;
        }
        // Since these ranks failed, shared memory was polled, and then MPI: nothing of theirs is
        // left.
        let gone: Vec<Rank> = self.failing.iter().take(failing).copied().collect();
        gone.into_iter().for_each(|rank| self.part_with(rank));
        Ok(None)
    }

    /// Starts to receive the large frame that `frame` announces.
    fn announced(&mut self, from: Rank, frame: &mut Vec<u8>) -> Result<Option<Rank>, FabricError> {
        self.start_to_receive(from, frame)?;
        self.take_body(frame)
    }

    fn start_to_receive(&mut self, from: Rank, announced: &[u8]) -> Result<(), FabricError> {
        let size = announced.try_into().map(u64::from_le_bytes).unwrap_or(u64::MAX) as usize;
        if size > wire::MOST {
            return Err(FabricError::TooLarge { to: self.me, size, limit: wire::MOST });
        }
        let mut transfer = Transfer::new(vec![0u8; size]);
        // SAFETY: as in `post`; the memory is that of a vector that is not touched until the
        // receive is complete. A receive from a lost rank starts nothing and leaves no request.
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
    fn take_body(&mut self, frame: &mut Vec<u8>) -> Result<Option<Rank>, FabricError> {
        let Some((from, mut transfer)) = self.body.take() else { return Ok(None) };
        match transfer.progress() {
            Progress::Pending => self.body = Some((from, transfer)),
            Progress::Failed => {
                transfer.abandon();
                self.note_failures();
                if !self.is_given_up(from) {
                    let text = format!("a message of {from}, which is not lost, could not be received");
                    return Err(FabricError::Mpi(text));
                }
                self.part_with(from);
            }
            Progress::Done(..) => {
                *frame = transfer.buffer;
                return Ok(Some(from));
            }
        }
        Ok(None)
    }

    /// Leaves a world in which ranks may be lost, rank 0 last, without MPI's end.
    fn leave(&mut self) {
        let (end, mut dropped) = (Instant::now() + LEAVE_TIMEOUT, Vec::new());
        while self.me == Rank::ZERO && Instant::now() < end {
            // Without progress MPI may not notice who leaves. No rank sends anything of use any
            // more.
            self.polls = POLLS_PER_MPI_POLL;
            let _ = self.receive(&mut dropped);
            self.note_failures();
            if self.failing.len() + self.lost.len() + 1 >= self.size as usize {
                break;
            }
            std::thread::sleep(LEAVE_POLL_INTERVAL);
        }
        // MPI may use them until the process has ended.
        std::mem::forget(std::mem::take(&mut self.ring));
        std::mem::forget(std::mem::take(&mut self.sending));
        std::mem::forget(std::mem::take(&mut self.sending_large));
        std::mem::forget(self.body.take());
    }
}

impl Drop for Mpi {
    fn drop(&mut self) {
        if self.failures.is_some() {
            return self.leave();
        }
        // No rank sends any more. Pending receives would keep MPI from being finalised.
        for transfer in &mut self.ring {
            // SAFETY: the request is one of a posted receive; waiting for a cancelled one ends at
            // once.
            unsafe {
                ffi::MPI_Cancel(&mut transfer.request);
                ffi::MPI_Wait(&mut transfer.request, ffi::RSMPI_STATUS_IGNORE);
            }
        }
        // SAFETY: this is the only place that drops it, and nothing uses it afterwards.
        unsafe { ManuallyDrop::drop(&mut self.universe) };
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
        if self.is_lost(to) {
            frame.clear();
            return Ok(());
        }
        if size <= MAX_SMALL_BYTES {
            self.send_small(to, WHOLE, frame);
            frame.clear();
        } else {
            self.send_small(to, ANNOUNCED, &(size as u64).to_le_bytes());
            let buffer = std::mem::take(frame);
            let request = self.start(to, TAGS[1], buffer.as_ptr(), size);
            self.sending_large.push_back((to, Transfer { request, buffer }));
        }
        Ok(())
    }

    #[inline]
    fn receive(&mut self, frame: &mut Vec<u8>) -> Result<Option<Rank>, FabricError> {
        if self.body.is_some() {
            return self.take_body(frame);
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
        let is_sending = !self.sending.is_empty() || !self.sending_large.is_empty();
        let busy = self.mpi_carries || is_sending || !self.failing.is_empty() || !self.unsent.is_empty();
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

    fn lost(&self) -> Vec<Rank> {
        self.lost.clone()
    }

    fn give_up(&mut self, rank: Rank) -> bool {
        let is_other = rank != self.me && rank.0 < self.size;
        let is_new = self.failures.is_some() && is_other && !self.is_given_up(rank);
        self.failing.extend(is_new.then_some(rank));
        is_new
    }

    fn ended_neighbours(&self) -> Vec<Rank> {
        lock(&self.near).ended()
    }

    fn abandon(&mut self) {
        self.universe.world().abort(1)
    }
}
