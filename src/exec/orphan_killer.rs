//! Kills the commands of a rank that was killed itself.
//!
//! A command has a process group of its own, so it survives when this process is killed, and would
//! continue while another attempt at its task runs elsewhere. Each rank that has started a command
//! therefore has a second process of the same program beside it. That process reads from a pipe
//! that only the rank can write to. When the rank ends, in whatever way, the system closes the
//! pipe, and the process kills every process with the rank's mark in its environment ([`Mark`]). It
//! sends KILL without TERM first, because no reader is left for the command's output and the next
//! attempt may write the same files. It has a session of its own, blocks all signals, and has none
//! of the rank's open files but the pipe.
//!
//! The program is run again by `/proc/self/exe`, which works after its file was replaced or removed
//! and in a program that embeds Phalanx. It becomes the orphan killer before `main`, by its first
//! argument, so it reads no command line and starts neither threads nor MPI.

use std::ffi::{CStr, CString};
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::sync::atomic::AtomicI32;
use std::time::Duration;

use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{Pid, Signal};

use super::mark::Mark;
use super::process::{Stat, signal_process};
use super::spawn::{Child, ChildPlan, spawn};

/// The first of the arguments by which the program becomes an orphan killer; the second is the
/// mark.
const ARGUMENT: &CStr = c"phalanx-orphan-killer";

/// The name of the process. A signal to all processes named `phalanx` must not reach it.
const PROCESS_NAME: &str = "orphan-killer";

/// Pause between two scans for marked processes.
const SCAN_INTERVAL: Duration = Duration::from_millis(100);

/// Handle to the process that kills the commands of a killed rank. Dropping it means that this
/// process ends in order: the orphan killer is stopped without killing anything.
pub(super) struct OrphanKiller {
    // Dropped, and so killed, before the pipe is closed.
    process: Child,
    _alive: OwnedFd,
}

impl OrphanKiller {
    /// The process id of the orphan killer.
    pub(super) fn pid(&self) -> Pid {
        self.process.pid
    }

    /// Starts the orphan killer for the commands with this mark.
    ///
    /// # Errors
    /// If the process cannot be started.
    pub(super) fn start(null: &File, mark: &Mark) -> io::Result<OrphanKiller> {
        let argv = [ARGUMENT.to_owned(), CString::new(mark.value())?];
        // Where the program finds its libraries, and nothing that a library could act on.
        let libraries = std::env::var_os("LD_LIBRARY_PATH");
        let libraries = libraries.map(|path| CString::new([b"LD_LIBRARY_PATH=", path.as_bytes()].concat()));
        let libraries = libraries.transpose()?;
        let (reader, alive) = pipe_with(PipeFlags::CLOEXEC)?;
        let plan = ChildPlan {
            further: &[],
            programs: &[c"/proc/self/exe".into()],
            argv: &argv,
            envp: libraries.iter().map(CString::as_c_str).collect(),
            dir: c"/",
            stdio: [reader.as_fd(), null.as_fd(), null.as_fd()],
            blocks_signals: true,
        };
        let process = spawn(&plan, &AtomicI32::new(0)).map_err(|refusal| refusal.error)?;
        Ok(OrphanKiller { process, _alive: alive })
    }
}

/// Becomes the orphan killer if the arguments of this process say so.
// SAFETY: the system calls each function in this section once, before any other thread runs. This
// one reads the arguments, which the standard library has stored by then, and returns or ends the
// process. It cannot panic.
#[used]
#[unsafe(link_section = ".init_array")]
static BECOME_ORPHAN_KILLER: extern "C" fn() = {
    extern "C" fn enter() {
        let mut arguments = std::env::args_os();
        if arguments.next().is_some_and(|first| first.as_bytes() == ARGUMENT.to_bytes())
            && let Some(Ok(mark)) = arguments.next().map(|mark| mark.into_string())
        {
            kill_orphans(&Mark::from_value(mark));
            std::process::exit(0);
        }
    }
    enter
};

/// Waits for the end of the rank, then kills its commands.
fn kill_orphans(mark: &Mark) {
    // Without a name of its own the process works as well.
    let _ = std::fs::write("/proc/self/comm", PROCESS_NAME);
    // Nothing is ever written to the pipe. Any result but an interrupted call means its end.
    let _ = io::stdin().read_to_end(&mut Vec::new());
    // Scans until two in a row find nothing, because a process that is just starting another
    // program shows no mark.
    let mut empty = 0;
    while empty < 2 {
        let marked = Stat::all().into_iter().filter(|process| mark.environment_of(process.pid).is_some());
        empty = match marked.map(|process| signal_process(process.pid, process.start, Signal::KILL)).count() {
            0 => empty + 1,
            _ => 0,
        };
        std::thread::sleep(SCAN_INTERVAL);
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::super::mark::VARIABLE;
    use super::*;

    /// A process with the mark, which would run for ten minutes.
    fn command(mark: &str) -> std::process::Child {
        Command::new("sleep").arg("600").env(VARIABLE, mark).spawn().unwrap()
    }

    fn start(mark: &Mark) -> OrphanKiller {
        OrphanKiller::start(&File::options().read(true).write(true).open("/dev/null").unwrap(), mark).unwrap()
    }

    #[test]
    fn it_kills_what_has_the_mark_when_the_pipe_closes() {
        let mark = Mark::new();
        let (mut own, mut other) = (command(mark.value()), command(&format!("{}0", mark.value())));
        let OrphanKiller { mut process, _alive } = start(&mark);
        drop(_alive);
        assert!(!own.wait().unwrap().success());
        assert_eq!(process.reap().unwrap().0.code(), Some(0));
        assert!(other.try_wait().unwrap().is_none());
        other.kill().unwrap();
        other.wait().unwrap();
    }

    #[test]
    fn it_survives_signals_and_ends_with_its_handle() {
        let mark = Mark::new();
        let mut own = command(mark.value());
        let killer = start(&mark);
        for signal in [Signal::HUP, Signal::INT, Signal::TERM, Signal::USR1, Signal::USR2] {
            rustix::process::kill_process(killer.pid(), signal).unwrap();
        }
        assert!(!killer.process.has_exited().unwrap());
        drop(killer);
        assert!(own.try_wait().unwrap().is_none());
        own.kill().unwrap();
        own.wait().unwrap();
    }
}
