//! Where a rank's main thread waits: until a slot has something to tell, a signal comes, or time is up.
//!
//! Signals that concern the run are blocked in every thread and read from a descriptor here, so no
//! handler ever runs. (METIS installs handlers of its own during a call; they never see a signal
//! either.) Children start with an empty mask: `exec/spawn` resets it. A signal that was ignored
//! when Phalanx was started is left alone: a blocked one would be kept for us all the same.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::time::Duration;

use crate::exec::is_ignored_from_start;

/// The signals that a run answers to.
const SIGNALS: [i32; 4] = [libc::SIGINT, libc::SIGTERM, libc::SIGUSR1, libc::SIGHUP];

/// See the module's text.
pub struct Wake {
    event: OwnedFd,
    signals: OwnedFd,
    waiting: AtomicBool,
    told: AtomicBool,
    signalled: AtomicBool,
}

impl Drop for Wake {
    /// A program that embeds Phalanx gets its signals back. Our own leaves in a moment: a signal that is pending then ends it.
    fn drop(&mut self) {
        while self.signal().is_some() {}
        // SAFETY: as in `new`.
        unsafe {
            let set = signal_set();
            libc::pthread_sigmask(libc::SIG_UNBLOCK, &set, std::ptr::null_mut());
        }
    }
}

impl Wake {
    /// Blocks the run's signals in this thread, and so in all that it starts. To be called before any other thread runs.
    ///
    /// # Errors
    /// If the system gives no descriptors.
    pub fn new() -> io::Result<Wake> {
        // SAFETY: the set is initialised; the descriptors returned are new, checked, and owned by nobody else.
        unsafe {
            let set = signal_set();
            let blocked = libc::pthread_sigmask(libc::SIG_BLOCK, &set, std::ptr::null_mut());
            if blocked != 0 {
                return Err(io::Error::from_raw_os_error(blocked));
            }
            let signals = descriptor(libc::signalfd(-1, &set, libc::SFD_NONBLOCK | libc::SFD_CLOEXEC))?;
            let event = descriptor(libc::eventfd(0, libc::EFD_NONBLOCK | libc::EFD_CLOEXEC))?;
            let quiet = || AtomicBool::new(false);
            Ok(Wake { event, signals, waiting: quiet(), told: quiet(), signalled: quiet() })
        }
    }

    /// Ends the current or the next wait. Costs one store and a load while the main thread is awake.
    pub fn tell(&self) {
        if !self.told.swap(true, SeqCst) && self.waiting.load(SeqCst) {
            let one = 1u64;
            // SAFETY: writes eight bytes of a live integer. It can only fail if the counter is full, and then the wait ends anyway.
            unsafe { libc::write(self.event.as_raw_fd(), (&raw const one).cast(), 8) };
        }
    }

    /// Waits for `tell`, a signal, the bell, or the end of `limit`.
    pub fn wait(&self, bell: Option<&OwnedFd>, limit: Duration) {
        self.waiting.store(true, SeqCst);
        // Either `tell` sees that we wait and writes, or we see here that it was called.
        let limit = if self.told.load(SeqCst) { Duration::ZERO } else { limit };
        let poll = |fd: &OwnedFd| libc::pollfd { fd: fd.as_raw_fd(), events: libc::POLLIN, revents: 0 };
        // A negative descriptor is passed over.
        let bell = libc::pollfd { fd: bell.map_or(-1, AsRawFd::as_raw_fd), events: libc::POLLIN, revents: 0 };
        let mut fds = [poll(&self.event), poll(&self.signals), bell];
        let limit =
            libc::timespec { tv_sec: limit.as_secs() as libc::time_t, tv_nsec: limit.subsec_nanos() as libc::c_long };
        // SAFETY: three valid pollfd entries, a valid timeout and no signal mask.
        unsafe { libc::ppoll(fds.as_mut_ptr(), 3, &limit, std::ptr::null()) };
        self.waiting.store(false, SeqCst);
        for told in fds.iter().filter(|fd| fd.revents != 0 && fd.fd != self.signals.as_raw_fd()) {
            let mut drained = 0u64;
            // SAFETY: reads at most eight bytes into a live integer; an empty counter or pipe answers EAGAIN.
            unsafe { libc::read(told.fd, (&raw mut drained).cast(), 8) };
        }
        self.signalled.store(fds[1].revents != 0, SeqCst);
    }

    /// True if the last wait found that a signal has come.
    pub fn signalled(&self) -> bool {
        self.signalled.load(SeqCst)
    }

    /// Takes note that everything told so far is being looked at. To be called before looking.
    pub fn heard(&self) {
        self.told.store(false, SeqCst);
    }

    /// The next signal that has come, if any.
    pub fn signal(&self) -> Option<i32> {
        // SAFETY: the kernel writes at most one signalfd_siginfo, for which there is room; all-zero is a valid value of it.
        unsafe {
            let mut info = std::mem::zeroed::<libc::signalfd_siginfo>();
            let size = size_of::<libc::signalfd_siginfo>();
            let got = libc::read(self.signals.as_raw_fd(), (&raw mut info).cast(), size);
            (got == size as isize).then_some(info.ssi_signo as i32)
        }
    }
}

/// The signals that a run answers to, as the system wants them.
fn signal_set() -> libc::sigset_t {
    // SAFETY: sigemptyset initialises the set before it is added to and returned.
    unsafe {
        let mut set = std::mem::zeroed::<libc::sigset_t>();
        libc::sigemptyset(&mut set);
        for signal in SIGNALS.into_iter().filter(|&signal| !is_ignored_from_start(signal)) {
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
