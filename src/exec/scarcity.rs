//! Handles temporary lack of system resources: descriptors, processes, threads, memory.
//!
//! A start that fails for lack of resources is no fault of the task. The whole start is retried
//! until a command of this rank has ended or the system has more. The task's time limit restarts
//! with each try. The failure is final only if no command of this rank has been running for a
//! while, so that no resources will become free.
//!
//! Some descriptors are reserved for the supervision of running commands: a start that would use
//! them waits too.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::SeqCst};
use std::time::{Duration, Instant};

use super::Fault;
use super::aside::AttemptDeadline;
use crate::system::open_files;

/// First and longest pause between two tries.
const RETRY_PAUSES: [Duration; 2] = [Duration::from_millis(10), Duration::from_millis(500)];

/// How long a start is retried while no command of this rank runs.
const MAX_RETRY_TIME_ALONE: Duration = Duration::from_secs(5);

/// Number of descriptors that starts must leave free.
const RESERVED_DESCRIPTORS: u64 = 16;

/// The running commands of a rank, and whether any start has had to wait.
#[derive(Default)]
pub(super) struct Scarcity {
    running: AtomicU32,
    warned: AtomicBool,
}

/// Counts a command as running until it is dropped.
pub(super) struct RunningCommand<'a>(&'a Scarcity);

impl Drop for RunningCommand<'_> {
    fn drop(&mut self) {
        self.0.running.fetch_sub(1, SeqCst);
    }
}

/// True for an error that may pass when other processes release resources.
pub(super) fn is_scarcity(error: &io::Error) -> bool {
    let code = error.raw_os_error();
    code.is_some_and(|code| [libc::EMFILE, libc::ENFILE, libc::EAGAIN, libc::ENOMEM].contains(&code))
}

/// Fails if the descriptors of a start are among the reserved ones.
pub(super) fn check_reserve<'a>(files: impl IntoIterator<Item = BorrowedFd<'a>>) -> io::Result<()> {
    // The system always allocates the lowest free number.
    let highest = files.into_iter().map(|file| file.as_raw_fd()).max().map_or(0, |fd| u64::from(fd.unsigned_abs()));
    match highest < open_files::limit().saturating_sub(RESERVED_DESCRIPTORS) {
        true => Ok(()),
        false => Err(io::Error::from_raw_os_error(libc::EMFILE)),
    }
}

impl Scarcity {
    /// Counts a command as running.
    pub(super) fn begin(&self) -> RunningCommand<'_> {
        self.running.fetch_add(1, SeqCst);
        RunningCommand(self)
    }

    /// Retries `attempt` for as long as it fails for lack of resources.
    pub(super) fn retry_while_scarce<'a, T>(
        &self,
        deadline: &AttemptDeadline<'a>,
        mut attempt: impl FnMut(AttemptDeadline<'a>) -> Result<T, Fault>,
    ) -> Result<T, Fault> {
        let (mut wait, mut alone) = (RETRY_PAUSES[0], None);
        loop {
            let fault = match attempt(deadline.renewed()) {
                Err(fault) if fault.is_scarcity => fault,
                result => return result,
            };
            if self.running.load(SeqCst) > 0 {
                alone = None;
            } else if alone.get_or_insert_with(Instant::now).elapsed() >= MAX_RETRY_TIME_ALONE {
                return Err(fault);
            }
            if !self.warned.swap(true, SeqCst) {
                tracing::warn!(
                    "{}: tasks wait for others to end; raise the limits (`ulimit -n`, `ulimit -u`) or use fewer --slots",
                    fault.text
                );
            }
            deadline.untimed().sleep(wait, "waiting to be started")?;
            wait = (wait * 2).min(RETRY_PAUSES[1]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exec::control::Control;

    fn scarce() -> Fault {
        Fault::refused("cannot", &io::Error::from_raw_os_error(libc::EMFILE))
    }

    #[test]
    fn a_refusal_that_passes_fails_nobody_and_costs_no_time_of_the_task() {
        let (scarcity, control) = (Scarcity::default(), Control::new().unwrap());
        let limit = Duration::from_millis(100);
        let deadline = AttemptDeadline::begin(&control, Some(limit));
        let _running = scarcity.begin();
        let mut tries = 0;
        let begun = Instant::now();
        let deadline = scarcity.retry_while_scarce(&deadline, |deadline| {
            tries += 1;
            if tries < 7 { Err(scarce()) } else { Ok(deadline.instant()) }
        });
        assert!(deadline.unwrap() >= Some(begun + limit + RETRY_PAUSES[0] * 10));
    }

    #[test]
    fn whoever_waits_can_be_cancelled_and_other_faults_are_final() {
        let (scarcity, control) = (Scarcity::default(), Control::new().unwrap());
        let _task = control.begin(crate::model::TaskId(1));
        let _running = scarcity.begin();
        let deadline = AttemptDeadline::begin(&control, None);
        let other = scarcity.retry_while_scarce(&deadline, |_| Err::<(), _>(Fault::new("absent")));
        assert_eq!(other.unwrap_err().text, "absent");
        assert!(control.request(None, crate::exec::TaskStop::Terminate));
        let cancelled = scarcity.retry_while_scarce(&deadline, |_| Err::<(), _>(scarce()));
        assert_eq!(cancelled.unwrap_err().state, crate::model::State::Cancelled);
    }
}
