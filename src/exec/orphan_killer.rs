//! Kills the commands of a rank that was killed itself.
//!
//! A command has a process group of its own, so it survives when this process is killed, and would
//! continue while another attempt at its task runs elsewhere. Each rank that has started a command
//! therefore has a small shell beside it. The shell reads from a pipe that only this process can
//! write to. When this process ends, in whatever way, the system closes the pipe, and the shell
//! kills every process with the rank's mark in its environment ([`VARIABLE`]). It sends KILL
//! without TERM first, because no reader is left for the command's output and the next attempt may
//! write the same files. The shell too has a process group of its own, and none of our open files.

use std::ffi::CString;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::AtomicI32;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustix::process::Pid;

use super::spawn::{Child, ChildPlan, spawn};

/// The environment variable that marks the commands of a process of Phalanx: its process id, and a
/// part that is unique across nodes.
pub(super) const VARIABLE: &str = "PHALANX_PROCESS";

/// Run with the mark as its argument. It scans twice, because a process that is just executing
/// another program shows an empty environment. Where `grep` lacks `-z`, as on some small systems,
/// `tr` replaces it.
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

/// Handle to the shell that kills the commands of a killed rank. Dropping it means that this
/// process ends in order: the shell is stopped without killing anything.
pub(super) struct OrphanKiller {
    // Dropped, and so killed, before the pipe is closed.
    shell: Child,
    _alive: OwnedFd,
}

/// The value of [`VARIABLE`] for this process.
pub(super) fn mark() -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
    format!("{}-{:08x}-{:x}", std::process::id(), fastrand::u32(..), now.as_secs())
}

impl OrphanKiller {
    /// The process id of the shell.
    pub(super) fn pid(&self) -> Pid {
        self.shell.pid
    }

    /// Starts the shell for the commands with this mark.
    ///
    /// # Errors
    /// If the shell cannot be started.
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
