//! Ends the commands of a rank that is killed.
//!
//! A command is a process group of its own, so nothing that kills this process takes it along; it would go on while another attempt at its task
//! runs elsewhere. So a small shell sits beside each rank that has started a command. It reads from a pipe that only this process can write
//! to: when that ends, however it ended, the system closes the pipe, and the shell kills every process that has the rank's mark in its
//! environment ([`VARIABLE`]). At once, and not with TERM first: nobody waits for what such a command still writes, and the next attempt may
//! write the same files. The shell has a process group of its own, too, and no open file of ours.

use std::ffi::CString;
use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::spawn::{Child, Plan, Spawner};

/// By this a command shows which process of Phalanx it belongs to: its number, and a part that no other process has, here or on another node.
pub(super) const VARIABLE: &str = "PHALANX_PROCESS";

/// With the mark. A process that is just being replaced by another program shows an empty environment, hence the second look.
const SCRIPT: &str = "\
trap '' HUP INT TERM
read -r _
empty=0
while [ $empty -lt 2 ]; do
    found=$(grep -lsxzF \"PHALANX_PROCESS=$1\" /proc/[0-9]*/environ)
    if [ \"$found\" ]; then empty=0; else empty=$((empty + 1)); fi
    for file in $found; do
        process=${file#/proc/}
        kill -s KILL \"${process%/environ}\"
    done
    sleep 0.1
done
";

/// Whether `grep` knows how to read an environment, which that of some small systems does not.
const PROBE: &str = "printf 'a\\0b\\0' | grep -qxzF b";

/// See the module's text. To drop it says that this process ends in order.
pub(super) struct Warden {
    // Dropped, and so killed, before the pipe is closed.
    _shell: Child,
    _alive: OwnedFd,
}

/// The mark of this process.
pub(super) fn mark() -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
    format!("{}-{:08x}-{:x}", std::process::id(), fastrand::u32(..), now.as_secs())
}

impl Warden {
    /// Starts it, to end the commands with this mark.
    ///
    /// # Errors
    /// Why it cannot be started, or could do nothing.
    pub(super) fn start(spawner: &Spawner, null: &File, mark: &str) -> Result<Warden, String> {
        let shell = |script: &str, stdin: &dyn AsFd| {
            let words = ["sh", "-c", script, "phalanx-warden", mark];
            let argv = words.into_iter().map(CString::new).collect::<Result<Vec<_>, _>>().map_err(|e| e.to_string())?;
            let stdio = [stdin.as_fd(), null.as_fd(), null.as_fd()];
            let envp = vec![c"PATH=/usr/bin:/bin"];
            spawner.spawn(&Plan { program: c"/bin/sh", argv: &argv, envp, dir: c"/", stdio }).map_err(|e| e.to_string())
        };
        let (status, ..) = shell(PROBE, null)?.reap().map_err(|e| e.to_string())?;
        if status.exit_status() != Some(0) {
            return Err("`grep -z` does not work here".to_owned());
        }
        let (reader, alive) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).map_err(|e| e.to_string())?;
        Ok(Warden { _shell: shell(SCRIPT, &reader)?, _alive: alive })
    }
}
