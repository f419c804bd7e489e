//! Ends the commands of a rank that is killed.
//!
//! A command is a process group of its own, so nothing that kills this process takes it along; it would go on while another attempt at its task
//! runs elsewhere. So a small shell sits beside each rank that has started a command. It reads from a pipe that only this process can write
//! to: when that ends, however it ended, the system closes the pipe, and the shell ends every process that has the rank's number in its
//! environment ([`VARIABLE`]): TERM first, KILL after the grace. It has a process group of its own, too, and no open file of ours.

use std::ffi::CString;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use super::spawn::{Child, Plan, Spawner};

/// By this commands know the process of the rank that they belong to: its number.
pub(super) const VARIABLE: &str = "PHALANX_PID";

/// With the number and the grace in tenths of a second. A process that exits leaves an empty environment, so it is not found again.
const SCRIPT: &str = "\
trap '' HUP INT TERM
read -r _
left=$2
while found=$(grep -lsxzF \"PHALANX_PID=$1\" /proc/[0-9]*/environ); [ \"$found\" ]; do
    signal=TERM
    [ \"$left\" -gt 0 ] || signal=KILL
    for file in $found; do
        process=${file#/proc/}
        kill -s $signal \"${process%/environ}\"
    done
    left=$((left - 1))
    sleep 0.1
done
";

/// See the module's text. To drop it says that this process ends in order.
pub(super) struct Warden {
    // Dropped, and so killed, before the pipe is closed.
    _shell: Child,
    _alive: OwnedFd,
}

impl Warden {
    /// Starts it.
    ///
    /// # Errors
    /// If the system has no room for a pipe or a process.
    pub(super) fn start(spawner: &Spawner, null: &File, grace: Duration) -> io::Result<Warden> {
        let (reader, alive) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
        let tenths = grace.as_millis().div_ceil(100);
        let words = ["sh", "-c", SCRIPT, "phalanx-warden", &std::process::id().to_string(), &tenths.to_string()];
        let argv = words.into_iter().map(CString::new).collect::<Result<Vec<_>, _>>()?;
        let plan = Plan {
            program: c"/bin/sh",
            argv: &argv,
            envp: vec![c"PATH=/usr/bin:/bin"],
            dir: c"/",
            stdio: [reader.as_fd(), null.as_fd(), null.as_fd()],
        };
        Ok(Warden { _shell: spawner.spawn(&plan)?, _alive: alive })
    }
}
