//! Shares the terminal between the progress bar and log lines: a line hides the bar while it is
//! written.

use std::io::{self, Write};
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use indicatif::ProgressBar;
use rustix::event::{PollFd, PollFlags, Timespec, poll};

/// The bar on the last line of the terminal, if there is one.
static BAR: Mutex<Option<ProgressBar>> = Mutex::new(None);

/// Sets or removes the bar.
pub(super) fn set_bar(bar: Option<ProgressBar>) {
    *BAR.lock().unwrap_or_else(PoisonError::into_inner) = bar;
}

/// Maximum time to wait for a slow reader of standard error before lines are dropped.
const READER_WAIT: Duration = Duration::from_millis(100);

/// Set after a wait timed out; no further wait until the reader has read something.
static STUCK: AtomicBool = AtomicBool::new(false);

/// A writer to standard error, above the bar. Writes never fail and never block for long: what
/// cannot be written (disk full, reader gone or stuck, terminal closed) is dropped, and the run
/// continues.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct AboveBar;

impl Write for AboveBar {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let bar = BAR.lock().unwrap_or_else(PoisonError::into_inner);
        match &*bar {
            Some(bar) => bar.suspend(|| write_or_lose(bytes)),
            None => write_or_lose(bytes),
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Target of messages to the user in a log of JSON lines, which shows them at any level.
pub(crate) const NOTICE: &str = "phalanx::notice";

/// True if messages to the user are lines of the log.
static LOGGED: AtomicBool = AtomicBool::new(false);

/// Makes messages to the user lines of the log from now on.
pub(super) fn log_notices() {
    LOGGED.store(true, Relaxed);
}

/// True if all that goes to standard error must be lines of the log.
pub(crate) fn is_logged() -> bool {
    LOGGED.load(Relaxed)
}

/// Tells the user something on standard error, above the bar.
pub(crate) fn tell(text: &str) {
    write_line("phalanx: ", text);
}

/// Writes a line to standard error, above the bar; the log has it without `prefix`.
pub(super) fn write_line(prefix: &str, text: &str) {
    if is_logged() {
        return tracing::info!(target: NOTICE, "{text}");
    }
    // It never fails: see `AboveBar`.
    let _ = AboveBar.write_all(format!("{prefix}{text}\n").as_bytes());
}

/// Bypasses the buffer of the standard library, which would keep what could not be written.
fn write_whole(stderr: &impl AsFd, mut bytes: &[u8]) -> rustix::io::Result<()> {
    while !bytes.is_empty() {
        match rustix::io::retry_on_intr(|| rustix::io::write(stderr, bytes))? {
            0 => return Err(rustix::io::Errno::IO),
            written => bytes = &bytes[written..],
        }
    }
    Ok(())
}

/// Writes in pieces that a writable pipe accepts as a whole.
fn write_or_lose(bytes: &[u8]) {
    let stderr = io::stderr().lock();
    for piece in bytes.chunks(libc::PIPE_BUF) {
        let wait = if STUCK.load(Relaxed) { Duration::ZERO } else { READER_WAIT };
        let mut fds = [PollFd::new(&stderr, PollFlags::OUT)];
        let timeout = Timespec { tv_sec: 0, tv_nsec: wait.subsec_nanos().into() };
        let is_writable = poll(&mut fds, Some(&timeout)).is_ok_and(|ready| ready > 0);
        STUCK.store(!is_writable, Relaxed);
        if !is_writable || write_whole(&stderr, piece).is_err() {
            return;
        }
    }
}
