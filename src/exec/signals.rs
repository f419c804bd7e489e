//! Recognises commands that ended because of a signal to all processes of a node.
//!
//! A batch system that revokes a node (`scancel`, preemption, the end of a time limit) signals this
//! process and its commands, in any order and within moments. A command that such a signal ends has
//! not failed: its node did not let the attempt finish.

use std::sync::{Condvar, Mutex, PoisonError};
use std::time::Duration;

/// Signals that batch systems send to nodes and that do not end this process.
const WARNINGS: [i32; 4] = [libc::SIGHUP, libc::SIGINT, libc::SIGUSR1, libc::SIGTERM];

/// How long after the end of a command by a signal this process may still receive the same signal.
const SIGNAL_WAIT: Duration = Duration::from_secs(1);

/// As [`SIGNAL_WAIT`], for a command that may have exited by itself.
const EXIT_CODE_WAIT: Duration = Duration::from_millis(20);

/// The signals that this process has received so far.
#[derive(Default)]
pub(super) struct ReceivedSignals {
    got: Mutex<Vec<i32>>,
    changed: Condvar,
}

impl ReceivedSignals {
    /// Records a signal that this process has received.
    pub(super) fn note(&self, signal: i32) {
        self.got.lock().unwrap_or_else(PoisonError::into_inner).push(signal);
        self.changed.notify_all();
    }

    /// True if a command with this exit was ended by a signal that this process has received too.
    /// Waits for the signal briefly if the system reports that a signal ended the command. An exit
    /// code that only suggests a signal (143: a shell reports its child's SIGTERM so, but any
    /// program may exit with it) delays the slot only as long as a signal sent to both at once
    /// takes to arrive.
    pub(super) fn explain(&self, exit: i32) -> bool {
        let Some(signal) = WARNINGS.into_iter().find(|&signal| exit == -signal || exit == 128 + signal) else {
            return false;
        };
        let got = self.got.lock().unwrap_or_else(PoisonError::into_inner);
        let missing = |got: &mut Vec<i32>| !got.contains(&signal);
        let patience = if exit < 0 { SIGNAL_WAIT } else { EXIT_CODE_WAIT };
        let waited = self.changed.wait_timeout_while(got, patience, missing);
        !waited.unwrap_or_else(PoisonError::into_inner).1.timed_out()
    }
}
