//! How other threads stop a running task: one word and one event per slot.
//!
//! Protocol: the slot's thread publishes the task's number in the word before it runs the task and clears the word after. Who wants to
//! stop a task swaps a stop request into the word, which succeeds only while that very task is there, and then signals the event. The
//! slot's thread reads the word whenever its wait ends. A signal that arrives after the task has ended wakes the next one once, which
//! finds no request and goes on.
//!
//! Invariant: a request never reaches another task than the one it was made for. A task that does not look pays two stores.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};

use crate::model::TaskId;

/// How a running task is to be stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stop {
    /// TERM, and KILL after the grace.
    Terminate = 1,
    /// KILL at once.
    Kill = 2,
}

impl Stop {
    pub(super) fn from_bits(bits: u8) -> Option<Stop> {
        match bits {
            1 => Some(Stop::Terminate),
            2 => Some(Stop::Kill),
            _ => None,
        }
    }
}

/// Set while a task runs.
const ACTIVE: u64 = 1 << 63;
/// Where the stop request stands; the task's number is below it.
const STOP_SHIFT: u32 = 32;

/// The word and the event of one slot.
pub(super) struct Control {
    word: AtomicU64,
    event: OwnedFd,
}

/// Clears the word when the attempt is over, whichever way it ends.
pub(super) struct Running<'a>(&'a Control);

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.0.word.store(0, Ordering::Release);
    }
}

impl Control {
    pub(super) fn new() -> io::Result<Control> {
        let event = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        Ok(Control { word: AtomicU64::new(0), event })
    }

    /// Publishes that `task` runs here. Sequentially consistent, so that a run-wide stop is either seen by the caller
    /// afterwards or finds the task here.
    pub(super) fn begin(&self, task: TaskId) -> Running<'_> {
        self.word.store(ACTIVE | u64::from(task.0), Ordering::SeqCst);
        Running(self)
    }

    /// The task that runs here, if one does.
    pub(super) fn task(&self) -> Option<TaskId> {
        let word = self.word.load(Ordering::SeqCst);
        (word & ACTIVE != 0).then_some(TaskId(word as u32))
    }

    /// The request that has reached the task, if any.
    pub(super) fn stop(&self) -> Option<Stop> {
        Stop::from_bits((self.word.load(Ordering::Acquire) >> STOP_SHIFT) as u8)
    }

    /// Asks the running task to stop, if there is one and it is `task` (`None`: whichever). True if the request found it.
    pub(super) fn request(&self, task: Option<TaskId>, stop: Stop) -> bool {
        let asked = |word: u64| {
            let wanted = word & ACTIVE != 0 && task.is_none_or(|t| t.0 == word as u32);
            let bits = (stop as u64) << STOP_SHIFT;
            let present = word & (0xff << STOP_SHIFT);
            wanted.then_some(word & !(0xff << STOP_SHIFT) | bits.max(present))
        };
        let found = self.word.fetch_update(Ordering::SeqCst, Ordering::SeqCst, asked).is_ok();
        if found {
            // The counter can only be full, and then the event is readable already.
            let _ = rustix::io::write(&self.event, &1u64.to_ne_bytes());
        }
        found
    }

    /// Readable after a request.
    pub(super) fn event(&self) -> BorrowedFd<'_> {
        self.event.as_fd()
    }

    /// Makes the event unreadable until the next request.
    pub(super) fn acknowledge(&self) {
        // An error means that there was nothing to read.
        let _ = rustix::io::read(&self.event, &mut [0u8; 8]);
    }

    /// Sleeps for `timeout` or until the event; may return early.
    pub(super) fn doze(&self, timeout: Duration) {
        let mut fds = [PollFd::new(&self.event, PollFlags::IN)];
        if poll(&mut fds, Some(&timespec(timeout))).is_ok_and(|n| n > 0) {
            self.acknowledge();
        }
    }
}

/// A wait as the system takes it, capped where the system's type ends.
pub(super) fn timespec(d: Duration) -> Timespec {
    Timespec { tv_sec: i64::try_from(d.as_secs()).unwrap_or(i64::MAX), tv_nsec: d.subsec_nanos().into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_reaches_only_its_task() {
        let control = Control::new().unwrap();
        assert!(!control.request(None, Stop::Kill), "nothing runs");
        let running = control.begin(TaskId(7));
        assert!(!control.request(Some(TaskId(8)), Stop::Kill));
        assert_eq!(control.stop(), None);
        assert!(control.request(Some(TaskId(7)), Stop::Terminate));
        assert_eq!(control.stop(), Some(Stop::Terminate));
        drop(running);
        let _running = control.begin(TaskId(7));
        assert_eq!(control.stop(), None, "the next attempt starts afresh");
    }

    #[test]
    fn a_kill_is_not_weakened() {
        let control = Control::new().unwrap();
        let _running = control.begin(TaskId(u32::MAX));
        assert!(control.request(None, Stop::Kill));
        assert!(control.request(None, Stop::Terminate));
        assert_eq!(control.stop(), Some(Stop::Kill));
    }

    #[test]
    fn a_request_ends_a_doze() {
        let control = Control::new().unwrap();
        let _running = control.begin(TaskId(0));
        std::thread::scope(|s| {
            s.spawn(|| {
                while control.stop().is_none() {
                    control.doze(Duration::from_secs(600));
                }
            });
            std::thread::sleep(Duration::from_millis(20));
            assert!(control.request(None, Stop::Terminate));
        });
    }
}
