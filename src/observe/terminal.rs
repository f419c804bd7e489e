//! The terminal is one, and a progress bar and log lines share it: whoever writes a line first takes the bar away.

use std::io::{self, Write};
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use indicatif::ProgressBar;
use rustix::event::{PollFd, PollFlags, Timespec, poll};

/// The bar that stands on the last line of the terminal, if there is one.
static BAR: Mutex<Option<ProgressBar>> = Mutex::new(None);

/// Says which bar is on the terminal.
pub(super) fn set_bar(bar: Option<ProgressBar>) {
    *BAR.lock().unwrap_or_else(PoisonError::into_inner) = bar;
}

/// How long a reader of standard error that has fallen behind is waited for before lines are lost.
const READER_WAIT: Duration = Duration::from_millis(100);

/// A reader that was waited for in vain: it is not waited for again before it has read something.
static STUCK: AtomicBool = AtomicBool::new(false);

/// Standard error, above the bar. No write fails, and none waits for long: what cannot be written
/// (the disk is full, the reader has gone or does not read, the terminal was closed) is lost, and
/// the run goes on.
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

/// Writes without the buffer of the standard library, which could not be given back what it has not
/// written.
fn write_whole(stderr: &impl AsFd, mut bytes: &[u8]) -> rustix::io::Result<()> {
    while !bytes.is_empty() {
        match rustix::io::retry_on_intr(|| rustix::io::write(stderr, bytes))? {
            0 => return Err(rustix::io::Errno::IO),
            written => bytes = &bytes[written..],
        }
    }
    Ok(())
}

/// Writes in pieces that a pipe takes whole once it is writable at all.
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
