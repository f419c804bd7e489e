//! An event that threads signal and one waits for: a descriptor that can be polled beside others.
//!
//! A signal that is lost would leave the waiter asleep for ever, so an interrupted write is made
//! again.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::event::{EventfdFlags, eventfd};
use rustix::io::{read, retry_on_intr, write};

#[derive(Debug)]
pub(crate) struct EventFd(OwnedFd);

impl EventFd {
    /// An event that has not been signalled.
    ///
    /// # Errors
    /// If the system gives no descriptor.
    pub(crate) fn new() -> io::Result<EventFd> {
        Ok(EventFd(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?))
    }

    /// Makes the descriptor readable.
    pub(crate) fn signal(&self) {
        // The counter can only be full, and then the descriptor is readable already.
        let _ = retry_on_intr(|| write(&self.0, &1u64.to_ne_bytes()));
    }

    /// Makes the descriptor unreadable until the next signal.
    pub(crate) fn clear(&self) {
        // An error means that there was no signal.
        let _ = retry_on_intr(|| read(&self.0, &mut [0u8; 8]));
    }
}

impl AsFd for EventFd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
