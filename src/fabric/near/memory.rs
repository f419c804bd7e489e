//! The memory and the pipe of a rank: allocated by the rank itself, and opened by another rank of
//! its node.

use std::collections::VecDeque;
use std::fs::{File, OpenOptions};
use std::hash::Hasher;
use std::io::{self, PipeReader, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst, fence};

use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
use xxhash_rust::xxh3::Xxh3;

use crate::fabric::shared_memory::{PAGE_BYTES, SharedMemory};
use crate::fabric::shared_ring::{RING_BYTES, RingWriter};

/// Where a rank's memory and pipe are found; ranks exchange these when they start.
pub type Address = [u64; 2];

/// Stands for memory that no other rank can open.
pub(super) const NOWHERE: Address = [0; 2];

/// The process at this address.
pub(super) fn process([_, place]: &Address) -> u32 {
    (place >> 32) as u32
}

/// A rank's own memory and pipe. Their descriptors stay open so that other ranks can open them.
pub(super) struct OwnMemory {
    /// The page with the doorbell's word, then the rings that the ranks of the node write to.
    pub(super) memory: SharedMemory,
    pub(super) file: OwnedFd,
    pub(super) pipe: PipeReader,
    pub(super) _keeps_pipe_open: io::PipeWriter,
}

impl OwnMemory {
    /// Allocates rings for `ranks` ranks; pages that are never written cost nothing.
    pub(super) fn new(ranks: usize) -> io::Result<OwnMemory> {
        let file = memfd_create("phalanx-near", MemfdFlags::CLOEXEC)?;
        ftruncate(&file, memory_bytes(ranks) as u64)?;
        let (pipe, writer) = io::pipe()?;
        rustix::io::ioctl_fionbio(&pipe, true)?;
        let memory = SharedMemory::map(&file, 0, memory_bytes(ranks))?;
        Ok(OwnMemory { memory, file, pipe, _keeps_pipe_open: writer })
    }

    pub(super) fn word(&self) -> &AtomicU64 {
        &self.memory.words()[0]
    }

    #[inline]
    pub(super) fn ring(&self, place: usize) -> &[AtomicU64] {
        let words = self.memory.words();
        &words[(PAGE_BYTES + place * RING_BYTES) / 8..][..RING_BYTES / 8]
    }
}

/// Size in bytes of a rank's memory in a world of `ranks` ranks.
fn memory_bytes(ranks: usize) -> usize {
    PAGE_BYTES + ranks * RING_BYTES
}

/// The sending side to another rank of the node.
pub(super) struct Neighbour {
    bell: SharedMemory,
    button: File,
    ring: RingWriter,
    /// Frames that did not fit into the ring; later frames queue behind them.
    backlog: VecDeque<(u32, Vec<u8>)>,
}

impl Neighbour {
    /// Opens another rank's memory and pipe; `ring` is the number of this rank's ring in it.
    pub(super) fn open([_, place]: Address, ring: usize, ranks: usize) -> io::Result<Neighbour> {
        let path = |fd: u64| format!("/proc/{}/fd/{}", place >> 32, fd & 0xFFFF);
        let memory = OpenOptions::new().read(true).write(true).open(path(place >> 16))?;
        // A descriptor number that meanwhile refers to another file must not be mapped: access past
        // its end would be a fault.
        if memory.metadata()?.len() != memory_bytes(ranks) as u64 {
            return Err(io::ErrorKind::NotFound.into());
        }
        let button = OpenOptions::new().write(true).custom_flags(libc::O_NONBLOCK).open(path(place))?;
        let ring = SharedMemory::map(&memory, PAGE_BYTES + ring * RING_BYTES, RING_BYTES)?;
        Ok(Neighbour {
            bell: SharedMemory::map(&memory, 0, PAGE_BYTES)?,
            button,
            ring: RingWriter::new(ring),
            backlog: VecDeque::new(),
        })
    }

    /// Sends a frame. Returns false if it waits for room in the ring.
    #[inline]
    pub(super) fn send(&mut self, label: u32, content: &[u8]) -> bool {
        let sent = self.backlog.is_empty() && self.ring.push(label, content);
        if !sent {
            self.backlog.push_back((label, content.to_vec()));
        }
        self.ring_bell();
        sent
    }

    /// Wakes the rank if it sleeps.
    #[inline]
    fn ring_bell(&mut self) {
        fence(SeqCst);
        let word = &self.bell.words()[0];
        if word.load(SeqCst) != 0 && word.swap(0, SeqCst) != 0 {
            // A full pipe wakes too, and a rank that has ended needs no wake-up.
            let _ = self.button.write_all(&[1]);
        }
    }

    /// Moves waiting frames into the ring. Returns false if not all of them fit.
    pub(super) fn flush(&mut self) -> bool {
        let before = self.backlog.len();
        while self.backlog.pop_front_if(|(label, content)| self.ring.push(*label, content)).is_some() {}
        if self.backlog.len() < before {
            self.ring_bell();
        }
        self.backlog.is_empty()
    }
}

/// A number that identifies this machine among the processes that see each other; zero if unknown.
pub(super) fn node() -> u64 {
    let boot = std::fs::read("/proc/sys/kernel/random/boot_id");
    let processes = std::fs::read_link("/proc/self/ns/pid");
    let (Ok(boot), Ok(processes)) = (boot, processes) else { return 0 };
    let mut hasher = Xxh3::new();
    hasher.write(&boot);
    hasher.write(processes.as_os_str().as_encoded_bytes());
    hasher.finish()
}
