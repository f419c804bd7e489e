//! Ends the commands of a rank that is killed.
//!
//! A command is a process group of its own, so nothing that kills this process takes it along; it would go on while another attempt at its task
//! runs elsewhere. So a small shell sits beside each rank that has started a command. It reads from a pipe that only this process can write
//! to: when that ends, however it ended, the system closes the pipe, and the shell kills every process that has the rank's mark in its
//! environment ([`VARIABLE`]). At once, and not with TERM first: nobody waits for what such a command still writes, and the next attempt may
//! write the same files. The shell has a process group of its own, too, and no open file of ours.

use std::ffi::CString;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::AtomicI32;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustix::process::Pid;

use super::spawn::{Child, ChildPlan, spawn};

/// By this a command shows which process of Phalanx it belongs to: its number, and a part that no other process has, here or on another node.
pub(super) const VARIABLE: &str = "PHALANX_PROCESS";

/// With the mark. A process that is just being replaced by another program shows an empty
/// environment, hence the second look. The `grep` of some small systems does not know how to read
/// an environment.
const SCRIPT: &str = "\
trap '' HUP INT TERM
read -r _
if printf 'a\\0b\\0' | grep -qxzF b 2>/dev/null; then
    marked() { grep -lsxzF \"PHALANX_PROCESS=$1\" /proc/[0-9]*/environ; }
else
    marked() {
        for file in /proc/[0-9]*/environ; do
            tr '\\0' '\\n' 2>/dev/null <\"$file\" | grep -qxF \"PHALANX_PROCESS=$1\" && echo \"$file\"
        done
    }
fi
empty=0
while [ $empty -lt 2 ]; do
    found=$(marked \"$1\")
    if [ \"$found\" ]; then empty=0; else empty=$((empty + 1)); fi
    for file in $found; do
        process=${file#/proc/}
        kill -s KILL \"${process%/environ}\"
    done
    sleep 0.1
done
";

/// See the module's text. To drop it says that this process ends in order.
pub(super) struct OrphanKiller {
    // Dropped, and so killed, before the pipe is closed.
    shell: Child,
    _alive: OwnedFd,
}

/// The mark of this process.
pub(super) fn mark() -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
    format!("{}-{:08x}-{:x}", std::process::id(), fastrand::u32(..), now.as_secs())
}

impl OrphanKiller {
    /// The process that it is.
    pub(super) fn pid(&self) -> Pid {
        self.shell.pid
    }

    /// Starts it, to end the commands with this mark.
    ///
    /// # Errors
    /// Why it cannot be started.
    pub(super) fn start(null: &File, mark: &str) -> io::Result<OrphanKiller> {
        let words = ["sh", "-c", SCRIPT, "phalanx-warden", mark];
        let argv = words.into_iter().map(CString::new).collect::<Result<Vec<_>, _>>()?;
        let (reader, alive) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
        let stdio = [reader.as_fd(), null.as_fd(), null.as_fd()];
        let envp = vec![c"PATH=/usr/bin:/bin"];
        let plan = ChildPlan { programs: &[c"/bin/sh".into()], argv: &argv, envp, dir: c"/", stdio };
        let shell = spawn(&plan, &AtomicI32::new(0)).map_err(|refusal| refusal.error)?;
        Ok(OrphanKiller { shell, _alive: alive })
    }
}
