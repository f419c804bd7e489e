//! Lets other threads stop a running task, by one word and one event per slot.
//!
//! Protocol: the slot's thread stores the task's number in the word before it runs the task, and
//! clears the word afterwards. To stop a task, another thread swaps a stop request into the word,
//! which succeeds only while that very task is there, and then signals the event. The slot's thread
//! reads the word whenever its wait ends. A signal that arrives after the task has ended wakes the
//! next task's wait once; it finds no request and continues to wait.
//!
//! A slot's thread that starts a child blocks until the child runs its program, which a mount that
//! does not respond can delay forever. The slot therefore publishes the child's process id, and a
//! thread of the rank (`watch_starts`) kills the child when the attempt is cancelled or times out.
//!
//! Invariant: a request never reaches another task than the one it was made for. A task that does
//! not poll costs two stores.
//!
//! The request to free memory is a bit of its own in the word: only a command that runs heeds it.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::{AtomicI32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use crossbeam_utils::CachePadded;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, Signal, kill_process};

use crate::model::TaskId;
use crate::system::event::EventFd;

/// Interval between two checks for children whose start must be aborted.
const START_WATCH_INTERVAL: Duration = Duration::from_millis(250);

/// How to stop a running task.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum TaskStop {
    /// TERM, then KILL after the grace period.
    Terminate = 1,
    /// KILL at once.
    Kill = 2,
}

impl TaskStop {
    pub(super) fn from_bits(bits: u8) -> Option<TaskStop> {
        match bits {
            1 => Some(TaskStop::Terminate),
            2 => Some(TaskStop::Kill),
            _ => None,
        }
    }
}

/// Set while a task runs.
const ACTIVE: u64 = 1 << 63;
/// Position of the stop request in the word; the task's number is below it.
const STOP_SHIFT: u32 = 32;
/// Set to request that a command ends to free its memory ...
const FREE_MEMORY: u64 = 1 << 48;
/// ... and while the task is a command whose process runs.
const COMMAND: u64 = 1 << 49;

/// The word and the event of one slot.
pub(super) struct Control {
    word: AtomicU64,
    event: EventFd,
    /// The child that is being started, if one is.
    start: Mutex<Option<PendingChild>>,
    /// Its process id, once known.
    child: AtomicI32,
}

/// A child that has not started its program yet.
struct PendingChild {
    /// Deadline of the attempt.
    deadline: Option<Instant>,
    /// True if it was killed because the attempt was cancelled or timed out.
    is_killed: bool,
}

/// Clears the word when the attempt ends, in whatever way.
pub(super) struct ClearOnEnd<'a>(&'a Control);

impl Drop for ClearOnEnd<'_> {
    fn drop(&mut self) {
        self.0.word.store(0, Ordering::Release);
    }
}

impl Control {
    pub(super) fn new() -> io::Result<Control> {
        Ok(Control {
            word: AtomicU64::new(0),
            event: EventFd::new()?,
            start: Mutex::default(),
            child: AtomicI32::new(0),
        })
    }

    /// Publishes that `task` runs here. Sequentially consistent: either the caller sees a run-wide
    /// stop afterwards, or the stop finds the task here.
    pub(super) fn begin(&self, task: TaskId) -> ClearOnEnd<'_> {
        self.word.store(ACTIVE | u64::from(task.0), Ordering::SeqCst);
        ClearOnEnd(self)
    }

    /// The task that runs here, if one does.
    pub(super) fn task(&self) -> Option<TaskId> {
        let word = self.word.load(Ordering::SeqCst);
        (word & ACTIVE != 0).then_some(TaskId(word as u32))
    }

    /// The stop request for the task, if any.
    pub(super) fn stop(&self) -> Option<TaskStop> {
        TaskStop::from_bits((self.word.load(Ordering::Acquire) >> STOP_SHIFT) as u8)
    }

    /// Requests a stop if `task` is running (`None`: any task). Returns true if it is.
    pub(super) fn request(&self, task: Option<TaskId>, stop: TaskStop) -> bool {
        let asked = |word: u64| {
            let wanted = word & ACTIVE != 0 && task.is_none_or(|t| t.0 == word as u32);
            let bits = (stop as u64) << STOP_SHIFT;
            let present = word & (0xff << STOP_SHIFT);
            wanted.then_some(word & !(0xff << STOP_SHIFT) | bits.max(present))
        };
        let found = self.word.fetch_update(Ordering::SeqCst, Ordering::SeqCst, asked).is_ok();
        if found {
            self.event.signal();
        }
        found
    }

    /// Publishes that the task is a command whose process runs.
    pub(super) fn is_command(&self) {
        self.word.fetch_or(COMMAND, Ordering::SeqCst);
    }

    /// The command that runs here, if one does.
    pub(super) fn command(&self) -> Option<TaskId> {
        let word = self.word.load(Ordering::SeqCst);
        (word & ACTIVE != 0 && word & COMMAND != 0).then_some(TaskId(word as u32))
    }

    /// Requests that a command ends to free its memory, if it is running. Returns true if it is.
    pub(super) fn request_memory(&self, task: TaskId) -> bool {
        let runs = |word: u64| word & ACTIVE != 0 && word & COMMAND != 0 && task.0 == word as u32;
        let asked = |word: u64| runs(word).then_some(word | FREE_MEMORY);
        let found = self.word.fetch_update(Ordering::SeqCst, Ordering::SeqCst, asked).is_ok();
        if found {
            self.event.signal();
        }
        found
    }

    /// True if the task is to end to free its memory.
    pub(super) fn is_memory_requested(&self) -> bool {
        self.word.load(Ordering::Acquire) & FREE_MEMORY != 0
    }

    /// Calls `start`, which starts a child and stores its process id in the given word. Returns
    /// `None` if the child was killed before it ran its program because the attempt was cancelled
    /// or timed out.
    pub(super) fn start<T>(&self, deadline: Option<Instant>, start: impl FnOnce(&AtomicI32) -> T) -> Option<T> {
        *self.starting() = Some(PendingChild { deadline, is_killed: false });
        let started = start(&self.child);
        // The process id is not reused until the child is reaped, which happens after this.
        let is_killed = self.starting().take().is_some_and(|start| start.is_killed);
        self.child.store(0, Ordering::Relaxed);
        (!is_killed).then_some(started)
    }

    fn starting(&self) -> MutexGuard<'_, Option<PendingChild>> {
        self.start.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Kills a child that has not started its program if the attempt is cancelled or timed out.
    fn end_overdue_start(&self) {
        let mut starting = self.starting();
        let Some(start) = &mut *starting else { return };
        let is_over = self.stop().is_some() || start.deadline.is_some_and(|deadline| Instant::now() >= deadline);
        let child = Pid::from_raw(self.child.load(Ordering::Relaxed));
        if let (true, Some(child)) = (is_over, child) {
            start.is_killed = true;
            // An error means that the child has just ended.
            let _ = kill_process(child, Signal::KILL);
        }
    }

    /// Readable after a request.
    pub(super) fn event(&self) -> BorrowedFd<'_> {
        self.event.as_fd()
    }

    /// Makes the event unreadable until the next request.
    pub(super) fn acknowledge(&self) {
        self.event.clear();
    }

    /// Sleeps for `timeout` or until the event; may return early.
    pub(super) fn doze(&self, timeout: Duration) {
        let mut fds = [PollFd::new(&self.event, PollFlags::IN)];
        if poll(&mut fds, Some(&timespec(timeout))).is_ok_and(|n| n > 0) {
            self.acknowledge();
        }
    }
}

/// Starts a thread that watches the starts of children in all slots until the slots are dropped.
///
/// # Errors
/// If the system cannot start the thread.
pub(super) fn watch_starts(controls: &Arc<[CachePadded<Control>]>) -> io::Result<()> {
    let controls: Weak<[CachePadded<Control>]> = Arc::downgrade(controls);
    let watch = move || {
        while let Some(controls) = controls.upgrade() {
            controls.iter().for_each(|control| control.end_overdue_start());
            drop(controls);
            std::thread::sleep(START_WATCH_INTERVAL);
        }
    };
    std::thread::Builder::new().name("start-watch".into()).spawn(watch).map(drop)
}

/// Converts a duration for a system call, capped at the largest value of the system's type.
pub(super) fn timespec(d: Duration) -> Timespec {
    Timespec { tv_sec: i64::try_from(d.as_secs()).unwrap_or(i64::MAX), tv_nsec: d.subsec_nanos().into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_reaches_only_its_task() {
        let control = Control::new().unwrap();
        assert!(!control.request(None, TaskStop::Kill), "nothing runs");
        let running = control.begin(TaskId(7));
        assert!(!control.request(Some(TaskId(8)), TaskStop::Kill));
        assert_eq!(control.stop(), None);
        assert!(control.request(Some(TaskId(7)), TaskStop::Terminate));
        assert_eq!(control.stop(), Some(TaskStop::Terminate));
        drop(running);
        let _running = control.begin(TaskId(7));
        assert_eq!(control.stop(), None, "the next attempt starts afresh");
    }

    #[test]
    fn a_request_for_memory_is_no_stop() {
        let control = Control::new().unwrap();
        let running = control.begin(TaskId(7));
        assert!(!control.request_memory(TaskId(7)), "it is no command yet");
        assert_eq!(control.command(), None);
        control.is_command();
        assert_eq!(control.command(), Some(TaskId(7)));
        assert!(!control.request_memory(TaskId(8)) && !control.is_memory_requested());
        assert!(control.request_memory(TaskId(7)) && control.is_memory_requested());
        assert_eq!((control.stop(), control.task()), (None, Some(TaskId(7))));
        assert!(control.request(None, TaskStop::Terminate) && control.is_memory_requested());
        assert_eq!(control.stop(), Some(TaskStop::Terminate));
        drop(running);
        let _running = control.begin(TaskId(7));
        assert!(!control.is_memory_requested());
    }

    #[test]
    fn a_kill_is_not_weakened() {
        let control = Control::new().unwrap();
        let _running = control.begin(TaskId(u32::MAX));
        assert!(control.request(None, TaskStop::Kill));
        assert!(control.request(None, TaskStop::Terminate));
        assert_eq!(control.stop(), Some(TaskStop::Kill));
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
            assert!(control.request(None, TaskStop::Terminate));
        });
    }
}
