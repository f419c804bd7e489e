//! Where the main thread of a rank waits: until a thread notifies it, a signal arrives, a frame
//! rings the doorbell, or the wait times out.
//!
//! The signals that concern a run are blocked in every thread and read from a descriptor here, so
//! no handler ever runs. (METIS installs handlers of its own during a call; they never see a signal
//! either.) Children start with an empty mask: `exec/spawn` resets it. A signal that was ignored
//! when Phalanx was started is not blocked, because the kernel would queue it for us all the same.
//!
//! SIGCONT is read too, but only noted: it asks for nothing (see [`EventWait::take_continued`]).
//!
//! A thread of its own reads the signals and queues them for the main thread. It depends on nothing
//! else, so a third SIGINT, or a second SIGTERM or SIGHUP, ends this process within a second even
//! if the main thread hangs. The journal is written record by record, so no recorded attempt is
//! lost then, and the orphan killer ends the commands that still run.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::exec::is_ignored_from_start;
use crate::system::event::EventFd;

/// The signals that a run answers to, and SIGCONT.
const SIGNALS: [i32; 5] = [libc::SIGINT, libc::SIGTERM, libc::SIGUSR1, libc::SIGHUP, libc::SIGCONT];

/// How long the process may take to end in order after a signal that ends it in any case.
const FORCED_EXIT_DELAY: Duration = Duration::from_millis(900);

/// The main thread waits on it; slots, the bridge and the control socket notify it. It also holds
/// the signals that have arrived.
pub struct EventWait {
    shared: Arc<SignalState>,
    reader: Option<JoinHandle<()>>,
}

struct SignalState {
    /// Ends a wait. Only signalled while the main thread is `waiting`.
    event: EventFd,
    waiting: AtomicBool,
    /// Set by `notify`, reset by `clear`.
    notified: AtomicBool,
    signal_fd: OwnedFd,
    /// Ends the thread that reads signals.
    quit: EventFd,
    signals: Mutex<Signals>,
    /// There are unread signals. Spares the main thread the lock while there are none.
    has_signal: AtomicBool,
    /// SIGCONT has arrived.
    is_continued: AtomicBool,
    #[cfg(test)]
    waits: std::sync::atomic::AtomicU64,
}

/// Signals that the main thread has not taken yet, and the count that decides which one is final.
#[derive(Default)]
struct Signals {
    unread: VecDeque<i32>,
    repeats: Repeats,
}

/// Counts the signals that request the end of a run.
#[derive(Default)]
struct Repeats {
    interrupts: u32,
    terminations: u32,
    /// Rank 0 handles signals for this rank: none of them is final here.
    spared: bool,
    /// The run is over and this rank is leaving the world: the next signal is final.
    leaving: bool,
}

impl Repeats {
    /// Counts a signal. True if it must end this process even if the main thread hangs.
    fn is_final(&mut self, signal: i32) -> bool {
        match signal {
            libc::SIGINT => self.interrupts += 1,
            libc::SIGUSR1 => return false,
            _ => self.terminations += 1,
        }
        !self.spared && (self.leaving || self.interrupts >= 3 || self.terminations >= 2)
    }
}

impl Drop for EventWait {
    /// Unblocks the signals for a program that embeds Phalanx. Phalanx itself exits right after
    /// this, and a pending signal ends it then.
    fn drop(&mut self) {
        self.shared.quit.signal();
        if let Some(reader) = self.reader.take() {
            // The reader does not panic.
            let _ = reader.join();
        }
        // SAFETY: as in `new`.
        unsafe {
            let set = signal_set(SIGNALS);
            libc::pthread_sigmask(libc::SIG_UNBLOCK, &set, std::ptr::null_mut());
        }
    }
}

impl EventWait {
    /// Blocks the run's signals in this thread and in all threads that it starts. Call it before
    /// any other thread runs.
    ///
    /// # Errors
    /// If the system refuses a descriptor or a thread.
    pub fn new() -> io::Result<EventWait> {
        // SAFETY: the set is initialised; the descriptor returned is new, checked, and owned by
        // nobody else.
        let signal_fd = unsafe {
            let set = signal_set(SIGNALS);
            let blocked = libc::pthread_sigmask(libc::SIG_BLOCK, &set, std::ptr::null_mut());
            if blocked != 0 {
                return Err(io::Error::from_raw_os_error(blocked));
            }
            descriptor(libc::signalfd(-1, &set, libc::SFD_NONBLOCK | libc::SFD_CLOEXEC))?
        };
        let unset = || AtomicBool::new(false);
        let shared = Arc::new(SignalState {
            event: EventFd::new()?,
            waiting: unset(),
            notified: unset(),
            signal_fd,
            quit: EventFd::new()?,
            signals: Mutex::default(),
            has_signal: unset(),
            is_continued: unset(),
            #[cfg(test)]
            waits: Default::default(),
        });
        let reads = Arc::clone(&shared);
        let reader = std::thread::Builder::new().name("signals".into()).spawn(move || reads.read_signals())?;
        Ok(EventWait { shared, reader: Some(reader) })
    }

    /// Resets the count of signals for a new run. `spared`: rank 0 handles signals for this rank.
    pub fn begin(&self, spared: bool) {
        self.shared.lock_signals().repeats = Repeats { spared, ..Repeats::default() };
    }

    /// The run is over: the next signal ends the process.
    pub fn leave(&self) {
        self.shared.lock_signals().repeats.leaving = true;
    }

    /// Ends the current or the next wait. While the main thread is awake that costs an atomic swap
    /// and a load.
    pub fn notify(&self) {
        self.shared.notify();
    }

    /// Waits for `notify`, a signal, the doorbell, or the end of `limit`.
    pub fn wait(&self, bell: Option<&OwnedFd>, limit: Duration) {
        let shared = &self.shared;
        #[cfg(test)]
        shared.waits.fetch_add(1, SeqCst);
        shared.waiting.store(true, SeqCst);
        // Either `notify` sees `waiting` and signals the event, or this load sees `notified`.
        let limit = if shared.notified.load(SeqCst) { Duration::ZERO } else { limit };
        let bell = bell.map_or(-1, AsRawFd::as_raw_fd);
        let mut fds = [shared.event.as_fd().as_raw_fd(), bell].map(readable);
        let limit =
            libc::timespec { tv_sec: limit.as_secs() as libc::time_t, tv_nsec: limit.subsec_nanos() as libc::c_long };
        // SAFETY: two valid pollfd entries (a negative descriptor is passed over), a valid timeout
        // and no signal mask.
        unsafe { libc::ppoll(fds.as_mut_ptr(), 2, &limit, std::ptr::null()) };
        shared.waiting.store(false, SeqCst);
        for ready in fds.iter().filter(|fd| fd.revents != 0) {
            let mut drained = 0u64;
            // SAFETY: reads at most eight bytes into a live integer; an empty counter or pipe
            // fails with EAGAIN.
            unsafe { libc::read(ready.fd, (&raw mut drained).cast(), 8) };
        }
    }

    /// Forgets the notifications so far. Call it before processing what they announce: a later one
    /// then ends the next wait.
    pub fn clear(&self) {
        self.shared.notified.store(false, SeqCst);
    }

    /// Takes the oldest signal that has not been taken yet.
    pub fn next_signal(&self) -> Option<i32> {
        if !self.shared.has_signal.load(SeqCst) {
            return None;
        }
        let mut signals = self.shared.lock_signals();
        let signal = signals.unread.pop_front();
        self.shared.has_signal.store(!signals.unread.is_empty(), SeqCst);
        signal
    }

    /// True if SIGCONT has arrived since the last call.
    pub fn take_continued(&self) -> bool {
        self.shared.is_continued.load(SeqCst) && self.shared.is_continued.swap(false, SeqCst)
    }

    /// How often the main thread has waited.
    #[cfg(test)]
    pub(super) fn wait_count(&self) -> u64 {
        self.shared.waits.load(SeqCst)
    }
}

impl SignalState {
    fn lock_signals(&self) -> MutexGuard<'_, Signals> {
        self.signals.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn notify(&self) {
        if !self.notified.swap(true, SeqCst) && self.waiting.load(SeqCst) {
            self.event.signal();
        }
    }

    /// The loop of the thread that reads signals.
    fn read_signals(&self) {
        let mut forced_exit: Option<(Instant, i32)> = None;
        loop {
            let left = forced_exit.map(|(due, _)| due.saturating_duration_since(Instant::now()));
            if let (Some(Duration::ZERO), Some((_, signal))) = (left, forced_exit) {
                exit_now(signal);
            }
            let mut fds = [self.signal_fd.as_raw_fd(), self.quit.as_fd().as_raw_fd()].map(readable);
            let limit = left.map_or(-1, |left| left.as_millis() as i32 + 1);
            // SAFETY: two valid pollfd entries. An interrupted call has set no events.
            if unsafe { libc::poll(fds.as_mut_ptr(), 2, limit) } <= 0 {
                continue;
            }
            while let Some(signal) = self.read_signal() {
                if signal == libc::SIGCONT {
                    self.is_continued.store(true, SeqCst);
                    self.notify();
                    continue;
                }
                let mut signals = self.lock_signals();
                signals.unread.push_back(signal);
                let is_final = signals.repeats.is_final(signal);
                self.has_signal.store(true, SeqCst);
                drop(signals);
                self.notify();
                if is_final && forced_exit.is_none() {
                    forced_exit = Some((Instant::now() + FORCED_EXIT_DELAY, signal));
                }
            }
            if fds[1].revents != 0 {
                return;
            }
        }
    }

    fn read_signal(&self) -> Option<i32> {
        // SAFETY: the kernel writes at most one signalfd_siginfo, for which there is room; all-zero
        // is a valid value of it.
        unsafe {
            let mut info = std::mem::zeroed::<libc::signalfd_siginfo>();
            let size = size_of::<libc::signalfd_siginfo>();
            let got = libc::read(self.signal_fd.as_raw_fd(), (&raw mut info).cast(), size);
            (got == size as isize).then_some(info.ssi_signo as i32)
        }
    }
}

/// Ends this process without waiting for anything.
fn exit_now(signal: i32) -> ! {
    let text = "phalanx: ended at once, as asked; continue with --resume\n";
    let mut stderr = libc::pollfd { fd: 2, events: libc::POLLOUT, revents: 0 };
    // SAFETY: one valid pollfd entry, and a write of a live text, only if stderr does not block;
    // then the process is gone.
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

/// Keeps the terminal from stopping this process, which would handle no signal while it is stopped.
/// From now on it may write to the terminal in the background too, and reading from it fails. Call
/// it before any other thread runs.
pub(crate) fn detach_from_terminal() {
    let set = signal_set([libc::SIGTTOU, libc::SIGTTIN]);
    // SAFETY: the set is initialised; the previous mask is not asked for. It cannot fail.
    unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, &set, std::ptr::null_mut()) };
}

/// The set of these signals, without those that were ignored when Phalanx was started.
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

/// Takes ownership of the descriptor that a system call returned.
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
