//! Doorbells between the ranks of a node: a rank may sleep, and is woken by the frame that it sleeps for.
//!
//! MPI has no way to sleep until a message comes; a rank that looks now and then is late by half of its pause. So each rank has a *bell*: a pipe
//! that its main thread waits on, and a word in memory that says whether it wants to be woken. Who sent it a frame looks at the word,
//! and only if it is set clears it and presses. A sender to a rank that is awake pays for one load of memory that nobody writes.
//!
//! No press is lost: the sleeper sets the word, *then* looks for frames once more; the sender sends, *then* looks at the word. A fence lies
//! between both, so one of them sees the other.
//!
//! Both things are opened through `/proc/PID/fd`: they have no names, nobody else's user may open them, and nothing of them is
//! left, however a rank ends. Where that does not work (other nodes, containers that do not see each other) nobody presses, and ranks
//! look now and then.

use std::fs::{File, OpenOptions};
use std::hash::Hasher;
use std::io::{self, PipeReader, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::sync::atomic::{AtomicU32, Ordering::SeqCst, fence};

use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};
use xxhash_rust::xxh3::Xxh3;

use crate::model::Rank;

/// Where a bell hangs: what ranks tell each other when they meet.
pub type Address = [u64; 2];

/// Nobody can press this one.
const NOWHERE: Address = [0; 2];

/// The word that says whether a rank wants to be woken, in memory that the ranks of a node share.
struct Word(std::ptr::NonNull<AtomicU32>);

/// So much is mapped for the word.
const PAGE: usize = 4096;

// SAFETY: the pointer leads to an atomic that lives as long as the mapping, which `Word` owns; any thread may use an atomic.
unsafe impl Send for Word {}

impl Word {
    fn map(memory: impl AsFd) -> io::Result<Word> {
        let (access, flags) = (ProtFlags::READ | ProtFlags::WRITE, MapFlags::SHARED);
        // SAFETY: the kernel picks a place that is free. Other processes write to this memory, hence nothing but an atomic is made of it.
        let place = unsafe { mmap(std::ptr::null_mut(), PAGE, access, flags, memory, 0)? };
        std::ptr::NonNull::new(place.cast()).map(Word).ok_or_else(|| io::ErrorKind::OutOfMemory.into())
    }

    fn get(&self) -> &AtomicU32 {
        // SAFETY: mapped until the drop, aligned to a page, and all-zero memory is a valid atomic. The file is never made shorter.
        unsafe { self.0.as_ref() }
    }
}

impl Drop for Word {
    fn drop(&mut self) {
        // SAFETY: mapped by `map` with this size; no reference outlives `self`.
        let _ = unsafe { munmap(self.0.as_ptr().cast(), PAGE) };
    }
}

/// A rank's own bell. Its descriptors stay open, for others to open them too.
struct Own {
    word: Word,
    memory: OwnedFd,
    pipe: PipeReader,
    _keeps_pipe_open: io::PipeWriter,
}

impl Own {
    fn hang() -> io::Result<Own> {
        let memory = memfd_create("phalanx-bell", MemfdFlags::CLOEXEC)?;
        ftruncate(&memory, PAGE as u64)?;
        let (pipe, writer) = io::pipe()?;
        rustix::io::ioctl_fionbio(&pipe, true)?;
        Ok(Own { word: Word::map(&memory)?, memory, pipe, _keeps_pipe_open: writer })
    }
}

/// Another rank, as far as its bell goes.
enum Peer {
    /// Not looked for yet.
    Unknown,
    Near(Word, File),
    /// Its bell cannot be reached from here.
    Far,
}

/// This rank's bell and those of the others.
pub struct Bells {
    own: Option<Own>,
    /// What tells this machine from others; zero if nothing does.
    node: u64,
    addresses: Vec<Address>,
    peers: Vec<Peer>,
}

impl Bells {
    /// Hangs this rank's bell and learns where the others hang. `exchange` tells all ranks where this one's is and returns where theirs are.
    pub fn hang(exchange: impl FnOnce(Address) -> Vec<Address>) -> Bells {
        let own = Own::hang().inspect_err(|error| tracing::debug!(%error, "this rank has no doorbell")).ok();
        let node = own.as_ref().map_or(0, |_| node());
        let address = own.as_ref().map_or(NOWHERE, |own| {
            let fds = [own.memory.as_raw_fd(), own.pipe.as_raw_fd()].map(|fd| fd as u64 & 0xFFFF);
            [node, u64::from(std::process::id()) << 32 | fds[0] << 16 | fds[1]]
        });
        let addresses = exchange(address);
        let peers = addresses.iter().map(|_| Peer::Unknown).collect();
        Bells { own, node, addresses, peers }
    }

    /// What to wait on: it is readable once somebody has pressed; who wakes reads from it, which never waits. `None` if nobody can press.
    pub fn pipe(&self) -> Option<OwnedFd> {
        self.own.as_ref()?.pipe.as_fd().try_clone_to_owned().ok()
    }

    /// True if all ranks are on this node.
    pub fn all_near(&self) -> bool {
        self.node != 0 && self.addresses.iter().all(|address| address[0] == self.node)
    }

    /// The next frame is to wake this rank. It must look for frames once more before it sleeps.
    pub fn doze(&self) {
        if let Some(own) = &self.own {
            own.word.get().store(1, SeqCst);
            fence(SeqCst);
        }
    }

    /// A frame has been sent to a rank: wakes it if it sleeps.
    #[inline]
    pub fn press(&mut self, rank: Rank) {
        fence(SeqCst);
        match &mut self.peers[rank.index()] {
            Peer::Near(word, button) => {
                if word.get().load(SeqCst) != 0 && word.get().swap(0, SeqCst) != 0 {
                    // A full pipe wakes, too, and a rank that has ended needs no waking.
                    let _ = button.write(&[1]);
                }
            }
            Peer::Far => {}
            Peer::Unknown => self.find(rank),
        }
    }

    #[cold]
    fn find(&mut self, rank: Rank) {
        let [there, place] = self.addresses[rank.index()];
        let here = there != 0 && there == self.node;
        let found = here.then(|| open(place >> 32, place >> 16 & 0xFFFF, place & 0xFFFF));
        self.peers[rank.index()] = match found {
            Some(Ok((word, button))) => Peer::Near(word, button),
            Some(Err(error)) => {
                tracing::debug!(%rank, %error, "its doorbell cannot be reached");
                Peer::Far
            }
            None => Peer::Far,
        };
        if matches!(self.peers[rank.index()], Peer::Near(..)) {
            self.press(rank);
        }
    }
}

/// Opens another process's bell.
fn open(pid: u64, memory: u64, pipe: u64) -> io::Result<(Word, File)> {
    let path = |fd: u64| format!("/proc/{pid}/fd/{fd}");
    let memory = OpenOptions::new().read(true).write(true).open(path(memory))?;
    // A number that meanwhile stands for another file must not be mapped: past its end there is no memory.
    if memory.metadata()?.len() != PAGE as u64 {
        return Err(io::ErrorKind::NotFound.into());
    }
    let button = OpenOptions::new().write(true).custom_flags(libc::O_NONBLOCK).open(path(pipe))?;
    Ok((Word::map(&memory)?, button))
}

/// A number for this machine, as far as its processes see each other; zero if that cannot be told.
fn node() -> u64 {
    let boot = std::fs::read("/proc/sys/kernel/random/boot_id");
    let processes = std::fs::read_link("/proc/self/ns/pid");
    let (Ok(boot), Ok(processes)) = (boot, processes) else { return 0 };
    let mut hasher = Xxh3::new();
    hasher.write(&boot);
    hasher.write(processes.as_os_str().as_encoded_bytes());
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::event::{PollFd, PollFlags, Timespec, poll};

    /// Two ranks in one process: both find each other under this process's id.
    fn pair() -> (Bells, Bells) {
        let (mut a, mut b) = (Bells::hang(|mine| vec![mine]), Bells::hang(|mine| vec![mine]));
        let both = vec![a.addresses[0], b.addresses[0]];
        for bells in [&mut a, &mut b] {
            bells.addresses.clone_from(&both);
            bells.peers = vec![Peer::Unknown, Peer::Unknown];
        }
        (a, b)
    }

    /// Waits for a press, and takes it.
    fn rings(bells: &Bells, seconds: i64) -> bool {
        let pipe = bells.pipe().unwrap();
        let limit = Timespec { tv_sec: seconds, tv_nsec: 0 };
        let rang = poll(&mut [PollFd::new(&pipe, PollFlags::IN)], Some(&limit)).unwrap() == 1;
        let taken = rustix::io::read(&pipe, &mut [0; 8]);
        assert_eq!(taken.is_ok(), rang);
        rang
    }

    #[test]
    fn only_who_sleeps_is_woken_and_once() {
        let (a, mut b) = pair();
        assert!(a.all_near() && b.all_near());
        b.press(Rank(0));
        assert!(!rings(&a, 0), "it was awake");
        a.doze();
        b.press(Rank(0));
        assert!(rings(&a, 0));
        a.doze();
        assert!(!rings(&a, 0), "that was for the doze before");
        b.press(Rank(0));
        b.press(Rank(0));
        assert!(rings(&a, 0));
    }

    #[test]
    fn a_rank_that_has_gone_is_no_trouble() {
        let (a, mut b) = pair();
        drop(a);
        b.press(Rank(0));
        b.press(Rank(0));
    }

    #[test]
    fn other_nodes_are_far() {
        let mut bells = Bells::hang(|mine| vec![mine, [mine[0] ^ 1, mine[1]], NOWHERE]);
        assert!(!bells.all_near());
        bells.press(Rank(1));
        bells.press(Rank(2));
        assert!(matches!(bells.peers[1..], [Peer::Far, Peer::Far]));
    }

    /// Both sides as fast as they can: each press that a doze asked for comes, or its frame was seen before.
    #[test]
    fn no_frame_is_slept_through() {
        use std::sync::atomic::AtomicU32;
        const FRAMES: u32 = 3000;
        let (a, mut b) = pair();
        let sent = AtomicU32::new(0);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for _ in 0..FRAMES {
                    sent.fetch_add(1, SeqCst);
                    b.press(Rank(0));
                    std::thread::yield_now();
                }
            });
            let mut seen = 0;
            while seen < FRAMES {
                a.doze();
                let now = sent.load(SeqCst);
                if now == seen {
                    assert!(rings(&a, 60), "slept through frame {seen}");
                }
                seen = sent.load(SeqCst);
            }
        });
    }
}
