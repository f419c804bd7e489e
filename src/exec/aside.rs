//! Runs operations that may block forever in a thread of their own: the slot waits for them only
//! within the attempt's time limit.
//!
//! Opening a FIFO blocks until its other end is open, and any access to a mount whose server is
//! down blocks until the server returns; the system cannot wait for either together with other
//! events. When an attempt is given up, a flag asks the thread to stop, and it ends as soon as the
//! system lets it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, poll};

use super::Fault;
use super::control::{Control, TaskStop, timespec};
use crate::model::State;
use crate::system::event::EventFd;

/// The time limit and the stop requests of an attempt.
#[derive(Clone, Copy)]
pub(super) struct AttemptDeadline<'a> {
    pub(super) control: &'a Control,
    /// The time limit and its deadline.
    pub(super) limit: Option<(Duration, Instant)>,
    /// The weakest stop that ends the present operation.
    heeds: TaskStop,
}

impl<'a> AttemptDeadline<'a> {
    /// Starts the time limit now. A limit beyond the clock's range counts as none.
    pub(super) fn begin(control: &'a Control, limit: Option<Duration>) -> AttemptDeadline<'a> {
        let limit = limit.and_then(|limit| Some((limit, Instant::now().checked_add(limit)?)));
        AttemptDeadline { control, limit, heeds: TaskStop::Terminate }
    }

    /// Returns a copy whose time limit starts now.
    pub(super) fn renewed(&self) -> AttemptDeadline<'a> {
        AttemptDeadline::begin(self.control, self.limit.map(|(limit, _)| limit))
    }

    /// Returns a copy without a time limit.
    pub(super) fn untimed(&self) -> AttemptDeadline<'a> {
        AttemptDeadline { limit: None, ..*self }
    }

    /// Returns a copy for what is left to do for an attempt that has not completed: it goes on
    /// after the attempt was asked to end, for `grace`, until it is to end at once. Without a stop
    /// the time limit starts now, and is no shorter than `grace`.
    pub(super) fn after_the_end(&self, grace: Duration) -> AttemptDeadline<'a> {
        let limit = match self.control.stop() {
            Some(_) => Some(grace),
            None => self.limit.map(|(limit, _)| limit.max(grace)),
        };
        AttemptDeadline { heeds: TaskStop::Kill, ..AttemptDeadline::begin(self.control, limit) }
    }

    /// The deadline, if there is a time limit.
    pub(super) fn instant(&self) -> Option<Instant> {
        self.limit.map(|(_, at)| at)
    }

    /// Fails once the attempt is cancelled or its time limit is over; `doing` describes the present
    /// operation for the message.
    pub(super) fn check(&self, doing: &str) -> Result<(), Fault> {
        if self.control.stop().is_some_and(|stop| stop >= self.heeds) {
            return Err(Fault::ended(State::Cancelled, format!("cancelled while {doing}")));
        }
        match self.limit {
            Some((limit, at)) if Instant::now() >= at => {
                let text = format!("stopped at its time limit of {limit:?} while {doing}");
                Err(Fault::ended(State::Timeout, text))
            }
            _ => Ok(()),
        }
    }

    /// Sleeps for `time`, or until the attempt is cancelled or times out.
    pub(super) fn sleep(&self, time: Duration, doing: &str) -> Result<(), Fault> {
        let until = Instant::now() + time;
        loop {
            self.check(doing)?;
            let now = Instant::now();
            if now >= until {
                return Ok(());
            }
            let end = self.instant().map_or(until, |deadline| deadline.min(until));
            self.control.doze(end.saturating_duration_since(now));
        }
    }

    /// Runs `work` in a thread of its own and waits until it ends or the attempt is cancelled or
    /// times out. In the latter case the flag passed to `work` is set.
    pub(super) fn aside<T: Send + 'static>(
        &self,
        doing: &str,
        work: impl FnOnce(&AtomicBool) -> T + Send + 'static,
    ) -> Result<T, Fault> {
        let fault = |error| Fault::refused(format!("cannot start a thread for {doing}"), &error);
        let done = EventFd::new().map_err(fault)?;
        let (done, is_given_up) = (Arc::new(done), Arc::new(AtomicBool::new(false)));
        let (bell, flag) = (Arc::clone(&done), Arc::clone(&is_given_up));
        let run = move || {
            let _bell = DoneSignal(bell);
            work(&flag)
        };
        let thread = std::thread::Builder::new().name("aside".into()).spawn(run).map_err(fault)?;
        let waited = self.wait(doing, &done);
        if let Err(fault) = waited {
            is_given_up.store(true, Relaxed);
            return Err(fault);
        }
        thread.join().map_err(|_| Fault::new(format!("Phalanx itself failed while {doing}")))
    }

    fn wait(&self, doing: &str, done: &EventFd) -> Result<(), Fault> {
        loop {
            self.check(doing)?;
            let mut fds =
                [PollFd::new(done, PollFlags::IN), PollFd::from_borrowed_fd(self.control.event(), PollFlags::IN)];
            let left = self.instant().map(|at| timespec(at.saturating_duration_since(Instant::now())));
            // An interrupted wait is repeated by the loop.
            let _ = poll(&mut fds, left.as_ref());
            let [is_done, is_asked] = fds.map(|fd| !fd.revents().is_empty());
            if is_done {
                return Ok(());
            }
            if is_asked {
                self.control.acknowledge();
            }
        }
    }
}

/// Signals the event when it is dropped, whether the work has returned or panicked.
struct DoneSignal(Arc<EventFd>);

impl Drop for DoneSignal {
    fn drop(&mut self) {
        self.0.signal();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::TaskId;

    #[test]
    fn what_follows_the_end_of_an_attempt_heeds_only_a_kill() {
        let control = Control::new().unwrap();
        let _running = control.begin(TaskId(1));
        let (grace, long) = (Duration::from_secs(60), Duration::from_secs(600));
        let deadline = AttemptDeadline::begin(&control, Some(Duration::ZERO));
        assert_eq!(deadline.after_the_end(grace).limit.map(|(limit, _)| limit), Some(grace));
        let untimed = deadline.untimed();
        assert_eq!(untimed.after_the_end(grace).limit, None);
        control.request(None, TaskStop::Terminate);
        let after = AttemptDeadline::begin(&control, Some(long)).after_the_end(grace);
        assert_eq!(after.limit.map(|(limit, _)| limit), Some(grace));
        assert_eq!(untimed.aside("asking", |_| 7).unwrap_err().state, State::Cancelled);
        assert_eq!(after.aside("asking", |_| 7).unwrap(), 7);
        control.request(None, TaskStop::Kill);
        assert_eq!(after.check("asking").unwrap_err().state, State::Cancelled);
    }
}
