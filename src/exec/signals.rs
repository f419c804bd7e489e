//! Tells commands apart that ended because of a signal to all that runs on a node.
//!
//! A batch system that takes a node back (`scancel`, preemption, the end of a time limit) signals this process and its commands alike, in any
//! order and within moments. A command that such a signal ends has not failed: it is an attempt that its node did not let it finish.

use std::sync::{Condvar, Mutex, PoisonError};
use std::time::Duration;

/// Signals that are sent to nodes and do not end this process.
const WARNINGS: [i32; 4] = [libc::SIGHUP, libc::SIGINT, libc::SIGUSR1, libc::SIGTERM];

/// So long after a command was ended by a signal this process may still get it.
const PATIENCE: Duration = Duration::from_secs(1);

/// The same for a command that may have exited by itself.
const GLANCE: Duration = Duration::from_millis(20);

/// The signals that this process has got so far.
#[derive(Default)]
pub(super) struct ReceivedSignals {
    got: Mutex<Vec<i32>>,
    changed: Condvar,
}

impl ReceivedSignals {
    /// This process has got a signal.
    pub(super) fn note(&self, signal: i32) {
        self.got.lock().unwrap_or_else(PoisonError::into_inner).push(signal);
        self.changed.notify_all();
    }

    /// True if a command with this exit was ended by a signal that this process has got, too. Waits
    /// a moment for it if the system says that a signal ended the command. An exit code that only
    /// looks like one (143: a shell tells of its child's SIGTERM so, but any program may exit with
    /// it) holds its slot up no longer than it takes a signal to come that was sent to both at
    /// once.
    pub(super) fn explain(&self, exit: i32) -> bool {
        let Some(signal) = WARNINGS.into_iter().find(|&signal| exit == -signal || exit == 128 + signal) else {
            return false;
        };
        let got = self.got.lock().unwrap_or_else(PoisonError::into_inner);
        let missing = |got: &mut Vec<i32>| !got.contains(&signal);
        let patience = if exit < 0 { PATIENCE } else { GLANCE };
        let waited = self.changed.wait_timeout_while(got, patience, missing);
        !waited.unwrap_or_else(PoisonError::into_inner).1.timed_out()
    }
}
