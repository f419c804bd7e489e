//! Shared memory between the ranks of a node: a doorbell for each, and rings of frames between
//! them.
//!
//! A frame through MPI costs a call, a receive that is posted again, and a progress engine that
//! polls every network. Between two ranks of a node a ring in shared memory (`shared_ring`) needs a
//! few words. Each rank owns a section of memory with a page for its doorbell and a ring for every
//! other rank of the node; a sender maps both before its first frame.
//!
//! MPI cannot sleep until a message arrives, and a rank that polls at intervals is late by half an
//! interval on average. Hence the *doorbell*: a pipe on which the rank's main thread waits, and a
//! word that says whether it wants to be woken. A sender reads the word after it has sent a frame;
//! only if the word is set, it clears the word and writes to the pipe. Sending to an awake rank
//! thus costs one load of a cache line that nobody writes.
//!
//! No wake-up is lost: the sleeper sets the word, *then* polls once more; the sender sends, *then*
//! reads the word. Both have a fence in between, so at least one of them sees the other.
//!
//! Memory and pipe are opened through `/proc/PID/fd`: they have no names, other users cannot open
//! them, and nothing is left behind, however a rank ends. Where that does not work (other nodes,
//! containers that do not see each other), frames go through MPI, there is no doorbell, and ranks
//! poll at intervals. The first frame to a rank decides on the path; later frames keep to it.

mod lane;
mod memory;

use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::atomic::{Ordering::SeqCst, fence};
use std::sync::{Mutex, MutexGuard, PoisonError};

pub use self::lane::{NearLane, OpenLane};
pub use self::memory::Address;
use self::memory::{NOWHERE, Neighbour, OwnMemory, node, process};
use super::shared_ring::{DamagedRing, RingReader};
use crate::model::Rank;

/// Number of rings that one poll for labelled frames reads, in turn. A slot polls between two
/// tasks; on a node of a hundred ranks polling all rings would take longer than a short task.
const RINGS_PER_POLL: usize = 8;

/// How another rank can be reached through shared memory.
enum Peer {
    /// Not tried yet.
    Unknown,
    Near(Box<Neighbour>),
    /// Its memory cannot be reached from here.
    Far,
    /// It is lost, and frames to it are dropped.
    Lost,
}

/// The memory of this rank and of the other ranks of its node.
pub struct NearRanks {
    own: Option<OwnMemory>,
    /// A number that identifies this machine; zero if unknown.
    node: u64,
    addresses: Vec<Address>,
    /// This rank's index among the ranks of its node, which selects its ring in the memory of every
    /// other.
    place: usize,
    peers: Vec<Peer>,
    /// The other ranks of this node, each with the index of the ring that it writes to and the
    /// reading side of that ring.
    readers: Vec<(Rank, usize, RingReader)>,
    /// The ring that the next poll reads first.
    next: usize,
    /// Ranks whose ring was full when they were last written to.
    waiting: Vec<Rank>,
}

impl NearRanks {
    /// Creates the memory of rank `me` in a world of `ranks` ranks and learns where that of the
    /// others is. `exchange` is an all-gather of the ranks' addresses.
    pub fn meet(me: Rank, ranks: u32, exchange: impl FnOnce(Address) -> Vec<Address>) -> NearRanks {
        let own = OwnMemory::new(ranks as usize);
        let own = own.inspect_err(|error| tracing::debug!(%error, "this rank cannot share memory with others")).ok();
        let node = own.as_ref().map_or(0, |_| node());
        let address = own.as_ref().map_or(NOWHERE, |own| {
            let fds = [own.file.as_raw_fd(), own.pipe.as_raw_fd()].map(|fd| fd as u64 & 0xFFFF);
            [node, u64::from(std::process::id()) << 32 | fds[0] << 16 | fds[1]]
        });
        let addresses = exchange(address);
        let here = (0..addresses.len()).filter(|&rank| node != 0 && addresses[rank][0] == node);
        let places: Vec<(Rank, usize)> = here.map(|rank| Rank(rank as u32)).zip(0..).collect();
        let others = places.iter().filter(|(rank, _)| *rank != me);
        NearRanks {
            readers: others.map(|&(rank, place)| (rank, place, RingReader::default())).collect(),
            place: places.iter().find(|(rank, _)| *rank == me).map_or(0, |&(_, place)| place),
            peers: addresses.iter().map(|_| Peer::Unknown).collect(),
            own,
            node,
            addresses,
            next: 0,
            waiting: Vec::new(),
        }
    }

    /// The descriptor to wait on: readable once another rank has rung. Reading from it never
    /// blocks. `None` if no rank can ring.
    pub fn bell(&self) -> Option<OwnedFd> {
        self.own.as_ref()?.pipe.as_fd().try_clone_to_owned().ok()
    }

    /// True if all ranks are on this node.
    pub fn are_all(&self) -> bool {
        self.node != 0 && self.addresses.iter().all(|address| address[0] == self.node)
    }

    /// Arms the doorbell: the next frame wakes this rank. The caller must poll once more before it
    /// sleeps.
    pub fn doze(&self) {
        if let Some(own) = &self.own {
            own.word().store(1, SeqCst);
            fence(SeqCst);
        }
    }

    /// Sends a small frame to a rank of this node and wakes it if it sleeps. Returns false if the
    /// rank cannot be reached through shared memory.
    #[inline]
    pub fn send(&mut self, to: Rank, label: u32, content: &[u8]) -> bool {
        match &mut self.peers[to.index()] {
            Peer::Near(neighbour) => {
                if !neighbour.send(label, content) && !self.waiting.contains(&to) {
                    self.waiting.push(to);
                }
                true
            }
            Peer::Far => false,
            Peer::Lost => true,
            Peer::Unknown => {
                self.find(to);
                self.send(to, label, content)
            }
        }
    }

    #[cold]
    fn find(&mut self, rank: Rank) {
        let address = self.addresses[rank.index()];
        let here = self.node != 0 && address[0] == self.node;
        let found = here.then(|| Neighbour::open(address, self.place, self.addresses.len()));
        self.peers[rank.index()] = match found {
            Some(Ok(neighbour)) => Peer::Near(Box::new(neighbour)),
            Some(Err(error)) => {
                tracing::debug!(%rank, %error, "cannot map the rank's memory, frames to it go through MPI");
                Peer::Far
            }
            None => Peer::Far,
        };
    }

    /// Replaces the content of `frame` with the next frame from a rank of this node. Returns the
    /// sender and the label.
    ///
    /// # Errors
    /// The rank whose ring holds invalid data.
    #[inline]
    pub fn receive(&mut self, frame: &mut Vec<u8>) -> Result<Option<(Rank, u32)>, Rank> {
        let Some(own) = &self.own else { return Ok(None) };
        for _ in 0..self.readers.len() {
            let (rank, place, reader) = &mut self.readers[self.next];
            match reader.pop(own.ring(*place), frame) {
                Ok(Some(label)) => return Ok(Some((*rank, label))),
                Ok(None) => self.next = if self.next + 1 < self.readers.len() { self.next + 1 } else { 0 },
                Err(DamagedRing) => return Err(*rank),
            }
        }
        Ok(None)
    }

    /// As [`receive`](NearRanks::receive), but takes a frame only if it has this label and is the
    /// next in its ring: slots take their frames without changing the order. Reads `RINGS_PER_POLL`
    /// rings, in turn.
    ///
    /// # Errors
    /// As [`receive`](NearRanks::receive).
    #[inline]
    pub fn receive_labelled(&mut self, label: u32, frame: &mut Vec<u8>) -> Result<Option<Rank>, Rank> {
        let Some(own) = &self.own else { return Ok(None) };
        for _ in 0..self.readers.len().min(RINGS_PER_POLL) {
            let (rank, place, reader) = &mut self.readers[self.next];
            let ring = own.ring(*place);
            if reader.peek(ring) == Some(label) {
                let popped = reader.pop(ring, frame).map_err(|DamagedRing| *rank)?;
                return Ok(popped.map(|_| *rank));
            }
            self.next = if self.next + 1 < self.readers.len() { self.next + 1 } else { 0 };
        }
        Ok(None)
    }

    /// Receives nothing more from a rank that is lost, and drops frames to it.
    pub fn forget(&mut self, lost: Rank) {
        self.readers.retain(|(rank, ..)| *rank != lost);
        self.waiting.retain(|rank| *rank != lost);
        self.next = 0;
        self.peers[lost.index()] = Peer::Lost;
    }

    /// The ranks of this node whose processes have ended.
    pub fn ended(&self) -> Vec<Rank> {
        let ended = |address: &Address| self.node != 0 && address[0] == self.node && has_ended(process(address));
        (0..).zip(&self.addresses).filter(|(_, address)| ended(address)).map(|(rank, _)| Rank(rank)).collect()
    }

    /// Moves waiting frames into their rings. Returns true if none waits any more.
    #[inline]
    pub fn flush(&mut self) -> bool {
        if !self.waiting.is_empty() {
            let peers = &mut self.peers;
            self.waiting.retain(|rank| match &mut peers[rank.index()] {
                Peer::Near(neighbour) => !neighbour.flush(),
                Peer::Unknown | Peer::Far | Peer::Lost => false,
            });
        }
        self.waiting.is_empty()
    }
}

/// True if there is no such process, or only its exit code is left of it.
fn has_ended(pid: u32) -> bool {
    // `PID (NAME) STATE PPID ...`, where the name may hold anything.
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_none_or(|(_, state)| state.starts_with(['Z', 'X']))
}

/// Takes the lock, poisoned or not: every critical section here only moves values, so the data
/// stays valid.
pub(super) fn lock(near: &Mutex<NearRanks>) -> MutexGuard<'_, NearRanks> {
    near.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::event::{PollFd, PollFlags, Timespec, poll};

    /// Two ranks in one process, which find each other under this process's id.
    fn pair() -> (NearRanks, NearRanks) {
        use std::sync::mpsc::channel;
        let ((to_a, at_a), (to_b, at_b)) = (channel(), channel());
        std::thread::scope(|scope| {
            let b = scope.spawn(move || {
                NearRanks::meet(Rank(1), 2, |mine| {
                    to_a.send(mine).unwrap();
                    vec![at_b.recv().unwrap(), mine]
                })
            });
            let a = NearRanks::meet(Rank(0), 2, |mine| {
                to_b.send(mine).unwrap();
                vec![mine, at_a.recv().unwrap()]
            });
            (a, b.join().unwrap())
        })
    }

    /// Waits for the doorbell and clears it.
    fn rings(ranks: &NearRanks, seconds: i64) -> bool {
        let pipe = ranks.bell().unwrap();
        let limit = Timespec { tv_sec: seconds, tv_nsec: 0 };
        let rang = poll(&mut [PollFd::new(&pipe, PollFlags::IN)], Some(&limit)).unwrap() == 1;
        let taken = rustix::io::read(&pipe, &mut [0; 8]);
        assert_eq!(taken.is_ok(), rang);
        rang
    }

    #[test]
    fn only_who_sleeps_is_woken_and_once() {
        let (a, mut b) = pair();
        assert!(a.are_all() && b.are_all());
        assert!(b.send(Rank(0), 0, b"1"));
        assert!(!rings(&a, 0), "it was awake");
        a.doze();
        assert!(b.send(Rank(0), 0, b"2"));
        assert!(rings(&a, 0));
        a.doze();
        assert!(!rings(&a, 0), "that was for the doze before");
        assert!(b.send(Rank(0), 0, b"3") && b.send(Rank(0), 0, b"4"));
        assert!(rings(&a, 0));
    }

    #[test]
    fn frames_beyond_a_full_ring_keep_their_order() {
        let (mut a, mut b) = pair();
        let (mut got, mut expected) = (Vec::new(), 0u32);
        for number in 0..5_000u32 {
            assert!(b.send(Rank(0), 3, &number.to_le_bytes()));
            assert!(b.send(Rank(0), 4, &[7; 1000]));
        }
        assert!(!b.flush());
        while !b.flush() || expected < 5_000 {
            while let Some((from, label)) = a.receive(&mut got).unwrap() {
                assert_eq!(from, Rank(1));
                match label {
                    3 => assert_eq!(got, expected.to_le_bytes()),
                    _ => expected += 1,
                }
            }
        }
    }

    #[test]
    fn a_labelled_frame_is_taken_in_its_turn() {
        let (mut a, mut b) = pair();
        let mut got = Vec::new();
        for label in [7, 5, 7] {
            assert!(b.send(Rank(0), label, &label.to_le_bytes()));
        }
        assert_eq!(a.receive_labelled(5, &mut got), Ok(None));
        assert_eq!(a.receive_labelled(7, &mut got), Ok(Some(Rank(1))));
        assert_eq!(a.receive_labelled(7, &mut got), Ok(None));
        assert_eq!(a.receive(&mut got), Ok(Some((Rank(1), 5))));
        assert_eq!(a.receive_labelled(7, &mut got), Ok(Some(Rank(1))));
        assert_eq!(a.receive(&mut got), Ok(None));
    }

    #[test]
    fn a_rank_that_has_gone_is_no_trouble() {
        let (a, mut b) = pair();
        assert!(b.send(Rank(0), 0, b"1"));
        drop(a);
        (0..10_000).for_each(|_| assert!(b.send(Rank(0), 0, b"2")));
    }

    #[test]
    fn nothing_comes_from_a_lost_rank_or_waits_for_it() {
        let (mut a, mut b) = pair();
        let mut got = Vec::new();
        assert!(a.send(Rank(1), 0, b"1"));
        (0..10_000).for_each(|_| assert!(b.send(Rank(0), 0, &[7; 100])));
        assert!(!b.flush());
        b.forget(Rank(0));
        assert!(b.flush() && b.send(Rank(0), 0, b"2") && b.flush());
        assert_eq!((b.receive(&mut got), b.receive_labelled(0, &mut got)), (Ok(None), Ok(None)));
        assert!(a.receive(&mut got).unwrap().is_some(), "what had reached the ring is there");
    }

    #[test]
    fn a_process_that_has_ended_is_known() {
        let (a, _b) = pair();
        assert!(a.ended().is_empty(), "both are this process");
        let mut child = std::process::Command::new("true").spawn().unwrap();
        let until = std::time::Instant::now() + std::time::Duration::from_secs(60);
        while !has_ended(child.id()) {
            assert!(std::time::Instant::now() < until);
        }
        child.wait().unwrap();
        assert!(has_ended(child.id()));
    }

    #[test]
    fn other_nodes_are_far() {
        let mut ranks = NearRanks::meet(Rank(0), 3, |mine| vec![mine, [mine[0] ^ 1, mine[1]], NOWHERE]);
        assert!(!ranks.are_all());
        assert!(!ranks.send(Rank(1), 0, b"1") && !ranks.send(Rank(2), 0, b"1"));
    }

    /// Both sides run as fast as they can; each frame either wakes the sleeper or was seen before.
    #[test]
    fn no_frame_is_slept_through() {
        const FRAMES: u32 = 3000;
        let (mut a, mut b) = pair();
        std::thread::scope(|scope| {
            scope.spawn(move || {
                for _ in 0..FRAMES {
                    assert!(b.send(Rank(0), 0, b"x"));
                    std::thread::yield_now();
                }
                while !b.flush() {
                    std::thread::yield_now();
                }
            });
            let (mut seen, mut got) = (0, Vec::new());
            while seen < FRAMES {
                a.doze();
                if a.receive(&mut got).unwrap().is_none() {
                    assert!(rings(&a, 60), "slept through frame {seen}");
                    continue;
                }
                seen += 1;
            }
        });
    }
}
