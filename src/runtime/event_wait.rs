//! Where a rank's main thread waits: until a slot has something to tell, a signal comes, or time is up.
//!
//! Signals that concern the run are blocked in every thread and read from a descriptor here, so no
//! handler ever runs. (METIS installs handlers of its own during a call; they never see a signal
//! either.) Children start with an empty mask: `exec/spawn` resets it. A signal that was ignored
//! when Phalanx was started is left alone: a blocked one would be kept for us all the same.
//!
//! A thread of its own reads them and hands them to the main thread. It depends on nothing else: a
//! third SIGINT, or a second SIGTERM or SIGHUP, ends this process within a second even if the main
//! thread hangs. The journal is written record by record, so nothing that was known is lost then,
//! and whatever still runs is ended by its orphan killer.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::exec::is_ignored_from_start;
use crate::system::event::Event;

/// The signals that a run answers to.
const SIGNALS: [i32; 4] = [libc::SIGINT, libc::SIGTERM, libc::SIGUSR1, libc::SIGHUP];

/// After a signal that ends the process whatever happens, it has so long to end in order.
const LAST_CHANCE: Duration = Duration::from_millis(900);

/// See the module's text.
pub struct Wake {
    shared: Arc<Shared>,
    reader: Option<JoinHandle<()>>,
}

struct Shared {
    event: Event,
    waiting: AtomicBool,
    told: AtomicBool,
    signals: OwnedFd,
    /// Ends the reader.
    quit: Event,
    came: Mutex<Came>,
    /// Something is in `came`.
    signalled: AtomicBool,
    #[cfg(test)]
    waits: std::sync::atomic::AtomicU64,
}

/// Signals that the main thread has not looked at, and what decides whether one is the last.
#[derive(Default)]
struct Came {
    unread: VecDeque<i32>,
    repeats: Repeats,
}

/// Counts signals that ask for the end.
#[derive(Default)]
struct Repeats {
    interrupts: u32,
    terminations: u32,
    /// Another rank answers for this one.
    spared: bool,
    /// The run is over: only its end is waited for.
    leaving: bool,
}

impl Repeats {
    /// Counts a signal. True if it ends this process whatever happens.
    fn is_final(&mut self, signal: i32) -> bool {
        match signal {
            libc::SIGINT => self.interrupts += 1,
            libc::SIGUSR1 => return false,
            _ => self.terminations += 1,
        }
        !self.spared && (self.leaving || self.interrupts >= 3 || self.terminations >= 2)
    }
}

impl Drop for Wake {
    /// A program that embeds Phalanx gets its signals back. Our own leaves in a moment: a signal that is pending then ends it.
    fn drop(&mut self) {
        self.shared.quit.signal();
        if let Some(reader) = self.reader.take() {
            // It has no reason to panic.
            let _ = reader.join();
        }
        // SAFETY: as in `new`.
        unsafe {
            let set = signal_set(SIGNALS);
            libc::pthread_sigmask(libc::SIG_UNBLOCK, &set, std::ptr::null_mut());
        }
    }
}

impl Wake {
    /// Blocks the run's signals in this thread, and so in all that it starts. To be called before any other thread runs.
    ///
    /// # Errors
    /// If the system gives no descriptors, or no thread.
    pub fn new() -> io::Result<Wake> {
        // SAFETY: the set is initialised; the descriptors returned are new, checked, and owned by nobody else.
        let signals = unsafe {
            let set = signal_set(SIGNALS);
            let blocked = libc::pthread_sigmask(libc::SIG_BLOCK, &set, std::ptr::null_mut());
            if blocked != 0 {
                return Err(io::Error::from_raw_os_error(blocked));
            }
            descriptor(libc::signalfd(-1, &set, libc::SFD_NONBLOCK | libc::SFD_CLOEXEC))?
        };
        let quiet = || AtomicBool::new(false);
        let shared = Arc::new(Shared {
            event: Event::new()?,
            waiting: quiet(),
            told: quiet(),
            signals,
            quit: Event::new()?,
            came: Mutex::default(),
            signalled: quiet(),
            #[cfg(test)]
            waits: Default::default(),
        });
        let reads = Arc::clone(&shared);
        let reader = std::thread::Builder::new().name("signals".into()).spawn(move || reads.read_signals())?;
        Ok(Wake { shared, reader: Some(reader) })
    }

    /// A run begins. In a world rank 0 answers signals for all ranks: this one is `spared` then.
    pub fn begin(&self, spared: bool) {
        self.shared.came().repeats = Repeats { spared, ..Repeats::default() };
    }

    /// The run is over: a signal that comes from now on is not waited for.
    pub fn leave(&self) {
        self.shared.came().repeats.leaving = true;
    }

    /// Ends the current or the next wait. Costs one store and a load while the main thread is awake.
    pub fn tell(&self) {
        self.shared.tell();
    }

    /// Waits for `tell`, a signal, the bell, or the end of `limit`.
    pub fn wait(&self, bell: Option<&OwnedFd>, limit: Duration) {
        let shared = &self.shared;
        #[cfg(test)]
        shared.waits.fetch_add(1, SeqCst);
        shared.waiting.store(true, SeqCst);
        // Either `tell` sees that we wait and writes, or we see here that it was called.
        let limit = if shared.told.load(SeqCst) { Duration::ZERO } else { limit };
        let bell = bell.map_or(-1, AsRawFd::as_raw_fd);
        let mut fds = [shared.event.as_fd().as_raw_fd(), bell].map(readable);
        let limit =
            libc::timespec { tv_sec: limit.as_secs() as libc::time_t, tv_nsec: limit.subsec_nanos() as libc::c_long };
        // SAFETY: two valid pollfd entries (a negative descriptor is passed over), a valid timeout
        // and no signal mask.
        unsafe { libc::ppoll(fds.as_mut_ptr(), 2, &limit, std::ptr::null()) };
        shared.waiting.store(false, SeqCst);
        for told in fds.iter().filter(|fd| fd.revents != 0) {
            let mut drained = 0u64;
            // SAFETY: reads at most eight bytes into a live integer; an empty counter or pipe answers EAGAIN.
            unsafe { libc::read(told.fd, (&raw mut drained).cast(), 8) };
        }
    }

    /// Takes note that everything told so far is being looked at. To be called before looking.
    pub fn heard(&self) {
        self.shared.told.store(false, SeqCst);
    }

    /// The next signal that has come, if any.
    pub fn signal(&self) -> Option<i32> {
        if !self.shared.signalled.load(SeqCst) {
            return None;
        }
        let mut came = self.shared.came();
        let signal = came.unread.pop_front();
        self.shared.signalled.store(!came.unread.is_empty(), SeqCst);
        signal
    }

    /// How often the main thread has waited.
    #[cfg(test)]
    pub(super) fn waits(&self) -> u64 {
        self.shared.waits.load(SeqCst)
    }
}

impl Shared {
    fn came(&self) -> MutexGuard<'_, Came> {
        self.came.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tell(&self) {
        if !self.told.swap(true, SeqCst) && self.waiting.load(SeqCst) {
            self.event.signal();
        }
    }

    /// The life of the thread that reads signals.
    fn read_signals(&self) {
        let mut last: Option<(Instant, i32)> = None;
        loop {
            let left = last.map(|(due, _)| due.saturating_duration_since(Instant::now()));
            if let (Some(Duration::ZERO), Some((_, signal))) = (left, last) {
                exit_now(signal);
            }
            let mut fds = [self.signals.as_raw_fd(), self.quit.as_fd().as_raw_fd()].map(readable);
            let limit = left.map_or(-1, |left| left.as_millis() as i32 + 1);
            // SAFETY: two valid pollfd entries. A call that was interrupted left them without news.
            if unsafe { libc::poll(fds.as_mut_ptr(), 2, limit) } <= 0 {
                continue;
            }
            while let Some(signal) = self.read_signal() {
                let mut came = self.came();
                came.unread.push_back(signal);
                let is_final = came.repeats.is_final(signal);
                self.signalled.store(true, SeqCst);
                drop(came);
                self.tell();
                if is_final && last.is_none() {
                    last = Some((Instant::now() + LAST_CHANCE, signal));
                }
            }
            if fds[1].revents != 0 {
                return;
            }
        }
    }

    fn read_signal(&self) -> Option<i32> {
        // SAFETY: the kernel writes at most one signalfd_siginfo, for which there is room; all-zero is a valid value of it.
        unsafe {
            let mut info = std::mem::zeroed::<libc::signalfd_siginfo>();
            let size = size_of::<libc::signalfd_siginfo>();
            let got = libc::read(self.signals.as_raw_fd(), (&raw mut info).cast(), size);
            (got == size as isize).then_some(info.ssi_signo as i32)
        }
    }
}

/// Ends this process without waiting for anything.
fn exit_now(signal: i32) -> ! {
    let text = "phalanx: ended at once, as asked; continue with --resume\n";
    let mut stderr = libc::pollfd { fd: 2, events: libc::POLLOUT, revents: 0 };
    // SAFETY: one valid pollfd entry, and a write of a live text to whatever takes it without
    // waiting; then the process is gone.
    unsafe {
        if libc::poll(&mut stderr, 1, 0) == 1 && stderr.revents & libc::POLLOUT != 0 {
            libc::write(2, text.as_ptr().cast(), text.len());
        }
        libc::_exit(128 + signal)
    }
}

fn readable(fd: i32) -> libc::pollfd {
    libc::pollfd { fd, events: libc::POLLIN, revents: 0 }
}

/// Keeps the terminal from stopping this process, which would hear of no signal any more: from now
/// on it may write there also in the background, and to read there fails. To be called before any
/// other thread runs.
pub(crate) fn go_on_without_terminal() {
    let set = signal_set([libc::SIGTTOU, libc::SIGTTIN]);
    // SAFETY: the set is initialised, and nobody wants to know the mask before. It cannot fail.
    unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, &set, std::ptr::null_mut()) };
}

/// Signals as the system wants them, without those that were ignored from the start.
fn signal_set(signals: impl IntoIterator<Item = i32>) -> libc::sigset_t {
    // SAFETY: sigemptyset initialises the set before it is added to and returned.
    unsafe {
        let mut set = std::mem::zeroed::<libc::sigset_t>();
        libc::sigemptyset(&mut set);
        for signal in signals.into_iter().filter(|&signal| !is_ignored_from_start(signal)) {
            libc::sigaddset(&mut set, signal);
        }
        set
    }
}

/// Owns what a system call returned.
///
/// # Safety
/// `fd` must come from a call that opened it for the caller alone, or be negative.
unsafe fn descriptor(fd: i32) -> io::Result<OwnedFd> {
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: by this function's own contract.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn finals(mut repeats: Repeats, signals: &[i32]) -> Vec<bool> {
        signals.iter().map(|&signal| repeats.is_final(signal)).collect()
    }

    #[test]
    fn a_third_interrupt_or_a_second_termination_is_final() {
        use libc::{SIGHUP, SIGINT, SIGTERM, SIGUSR1};
        assert_eq!(finals(Repeats::default(), &[SIGINT, SIGINT, SIGINT]), [false, false, true]);
        assert_eq!(finals(Repeats::default(), &[SIGUSR1, SIGUSR1, SIGTERM, SIGHUP]), [false, false, false, true]);
        assert_eq!(finals(Repeats::default(), &[SIGINT, SIGTERM, SIGINT]), [false; 3]);
        let spared = || Repeats { spared: true, ..Repeats::default() };
        assert_eq!(finals(spared(), &[SIGTERM; 3]), [false; 3]);
        let leaving = || Repeats { leaving: true, ..Repeats::default() };
        assert_eq!(finals(leaving(), &[SIGUSR1, SIGINT]), [false, true]);
    }
}
