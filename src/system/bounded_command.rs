//! Runs programs whose output Phalanx itself needs, with a time limit.
//!
//! Such a program starts in a process group of its own, so that an interrupt at the terminal does
//! not reach it; when it times out it is killed with all processes that it started.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus, Output};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, Signal, kill_process_group};

use crate::system::{open_files, own_program};

/// Upper bound of one wait, after which deadline and exit are checked again.
const MAX_WAIT: Duration = Duration::from_millis(100);

/// As [`MAX_WAIT`], once the program has closed its output and only its exit is awaited.
const MAX_WAIT_FOR_EXIT: Duration = Duration::from_millis(5);

/// How long to wait for a killed program. A program that the system does not let die is left
/// behind.
const KILL_WAIT: Duration = Duration::from_secs(1);

/// Starts a program and waits for its end until `deadline`, which is called repeatedly. The output
/// goes where the command says; pipes are read.
///
/// # Errors
/// The system's errors; [`io::ErrorKind::TimedOut`] if the program was killed.
pub(crate) fn run(command: &mut Command, deadline: &dyn Fn() -> Instant) -> io::Result<Output> {
    let began = Instant::now();
    let mut child = own_program::mark(command).process_group(0).spawn()?;
    open_files::restore_limit(child.id());
    // A program that reads an open stdin without a writer would wait forever.
    drop(child.stdin.take());
    let mut pipes = Pipes::of(&mut child);
    loop {
        let ended = child.try_wait()?;
        let left = deadline().saturating_duration_since(Instant::now());
        let wait = if ended.is_some() { Duration::ZERO } else { left.min(MAX_WAIT) };
        let came = pipes.take_in(wait);
        match ended {
            // Other processes may hold its pipes open for longer; its own output has been read.
            Some(status) if !came => return Ok(pipes.output(status)),
            None if left.is_zero() => {
                kill(&mut child);
                let text = format!("it did not end within {} s and was killed", began.elapsed().as_secs());
                return Err(io::Error::new(io::ErrorKind::TimedOut, text));
            }
            _ => {}
        }
    }
}

/// The child has not been reaped, so its process id and that of its group are still reserved.
fn kill(child: &mut Child) {
    let _ = kill_process_group(Pid::from_child(child), Signal::KILL);
    let until = Instant::now() + KILL_WAIT;
    while matches!(child.try_wait(), Ok(None)) && Instant::now() < until {
        std::thread::sleep(MAX_WAIT_FOR_EXIT);
    }
}

/// Collects a program's output, from each pipe until it is closed.
struct Pipes([(Option<OwnedFd>, Vec<u8>); 2]);

impl Pipes {
    fn of(child: &mut Child) -> Pipes {
        let (stdout, stderr) = (child.stdout.take().map(OwnedFd::from), child.stderr.take().map(OwnedFd::from));
        Pipes([(stdout, Vec::new()), (stderr, Vec::new())])
    }

    /// Waits at most `wait` for output and reads it. Returns true if there was any.
    fn take_in(&mut self, wait: Duration) -> bool {
        let is_closed = self.0.iter().all(|(pipe, _)| pipe.is_none());
        let wait = if is_closed { wait.min(MAX_WAIT_FOR_EXIT) } else { wait };
        let open = || self.0.iter().flat_map(|(pipe, _)| pipe);
        let mut fds: Vec<PollFd> = open().map(|pipe| PollFd::new(pipe, PollFlags::IN)).collect();
        let wait = Timespec { tv_sec: wait.as_secs() as i64, tv_nsec: wait.subsec_nanos().into() };
        // The caller repeats an interrupted wait.
        let _ = poll(&mut fds, Some(&wait));
        let ready: Vec<bool> = fds.iter().map(|fd| !fd.revents().is_empty()).collect();
        let mut came = false;
        for ((pipe, text), _) in self.0.iter_mut().filter(|(pipe, _)| pipe.is_some()).zip(ready).filter(|r| r.1) {
            let mut bytes = [0; 1 << 14];
            let Some(read) = pipe.as_ref().map(|pipe| rustix::io::read(pipe, &mut bytes)) else { continue };
            match read {
                Ok(size @ 1..) => {
                    text.extend_from_slice(&bytes[..size]);
                    came = true;
                }
                Err(rustix::io::Errno::INTR) => {}
                Ok(_) | Err(_) => *pipe = None,
            }
        }
        came
    }

    fn output(self, status: ExitStatus) -> Output {
        let [(_, stdout), (_, stderr)] = self.0;
        Output { status, stdout, stderr }
    }
}

#[cfg(test)]
mod tests {
    use std::process::Stdio;

    use rustix::process::kill_process;

    use super::*;

    fn sh(line: &str, limit: Duration) -> io::Result<Output> {
        let deadline = Instant::now() + limit;
        let mut command = Command::new("sh");
        command.args(["-c", line]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        run(&mut command, &|| deadline)
    }

    const LONG: Duration = Duration::from_secs(60);

    #[test]
    fn all_output_is_read_and_the_exit_told() {
        let output = sh("cat; head -c 300000 /dev/zero; echo no >&2; exit 3", LONG).unwrap();
        assert_eq!((output.status.code(), output.stdout.len(), output.stderr), (Some(3), 300_000, b"no\n".to_vec()));
    }

    #[test]
    fn a_program_that_does_not_end_is_killed_with_its_children() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("pid");
        let line = format!("trap '' TERM; sleep 3600 & echo $! > {}; wait", file.display());
        let begun = || std::fs::read_to_string(&file).ok().filter(|text| text.ends_with('\n'));
        // The deadline comes once it has started its child.
        let mut command = Command::new("sh");
        let deadline = || if begun().is_some() { Instant::now() } else { Instant::now() + LONG };
        let error = run(command.args(["-c", &line]), &deadline).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        let environ = format!("/proc/{}/environ", begun().unwrap().trim());
        let until = Instant::now() + LONG;
        while std::fs::read(&environ).is_ok_and(|text| !text.is_empty()) {
            assert!(Instant::now() < until, "its child lives on");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    #[test]
    fn a_child_that_holds_the_pipes_holds_nobody_up() {
        let output = sh("sleep 3600 & echo $!", LONG).unwrap();
        let pid: i32 = std::str::from_utf8(&output.stdout).unwrap().trim().parse().unwrap();
        kill_process(Pid::from_raw(pid).unwrap(), Signal::KILL).unwrap();
    }
}
