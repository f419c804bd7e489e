//! An event that threads signal and one thread waits for: a descriptor that can be polled together
//! with others.
//!
//! A lost signal would leave the waiter asleep forever, so an interrupted write is retried.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::event::{EventfdFlags, eventfd};
use rustix::io::{read, retry_on_intr, write};

#[derive(Debug)]
pub(crate) struct EventFd(OwnedFd);

impl EventFd {
    /// Makes an event that has not been signalled.
    ///
    /// # Errors
    /// If no descriptor is available.
    pub(crate) fn new() -> io::Result<EventFd> {
        Ok(EventFd(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?))
    }

    /// Makes the descriptor readable.
    pub(crate) fn signal(&self) {
        // It fails only if the counter is full, and then the descriptor is readable already.
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
