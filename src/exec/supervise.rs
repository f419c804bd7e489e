//! Waiting for a process: takes its output as it comes, keeps its limits, and stops it when asked.
//!
//! One thread waits on everything at once: the process's pidfd, its pipes, the slot's event, and the next moment that a limit or the
//! command's memory needs a look.
//!
//! Protocol:
//! - We keep the writing ends of the pipes open as well. So the closing of the child's ends, which happens moments before it exits,
//!   does not wake us; and the end of output is not waited for, since a process left in the background may hold a pipe for
//!   ever. What is in the pipes when the child has exited is its output.
//! - A stop sends TERM to the group and, when the grace is over, KILL to all relatives. The first cause of a stop is the one reported.
//! - After a stop we return only when no relative is left alive. After an exit of the task's own, what it left in the background lives on.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::ioctl_fionread;
use rustix::process::WaitIdStatus;

use super::control::{Control, Stop, timespec};
use super::output::Output;
use super::process::{Family, memory_above, peak_so_far};
use super::spawn::Child;
use crate::model::{Stream, Usage};

/// How much of a pipe is taken at once; a pipe holds as much unless somebody enlarges it.
pub(super) const CHUNK: usize = 64 << 10;
/// First and longest interval between two looks at the memory of a command.
const SAMPLES: (Duration, Duration) = (Duration::from_millis(10), Duration::from_millis(250));
/// The same for looks at the most that it has held, which the system does not tell of small ones in the end (see `spawn`).
const PEAKS: (Duration, Duration) = (Duration::from_millis(20), Duration::from_secs(2));
/// The same for looks at whether it has exited, where the kernel has no pidfd.
const GLANCES: (Duration, Duration) = (Duration::from_micros(100), Duration::from_millis(10));
/// Interval between two looks at whether the relatives of a stopped command have gone.
const STRAGGLERS: Duration = Duration::from_millis(10);

/// Why we ended a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cause {
    /// Another thread asked for it.
    Asked,
    /// Its time was over.
    Time,
    /// It held this many bytes.
    Memory(u64),
}

/// How a command ended.
pub(super) struct Ended {
    pub(super) status: WaitIdStatus,
    pub(super) cause: Option<Cause>,
    pub(super) used: Usage,
}

/// What a command may use.
#[derive(Clone, Copy)]
pub(super) struct Limits {
    pub(super) time: Option<Duration>,
    /// In bytes.
    pub(super) memory: Option<u64>,
    /// From TERM to KILL.
    pub(super) grace: Duration,
}

/// A pipe from a child to us.
pub(super) struct Pipe {
    pub(super) stream: Stream,
    pub(super) reader: OwnedFd,
    /// Held, not used: see the protocol above.
    pub(super) writer: OwnedFd,
}

/// A moment that comes again, at growing intervals.
struct Every {
    next: Instant,
    interval: Duration,
    longest: Duration,
}

impl Every {
    fn new((first, longest): (Duration, Duration)) -> Every {
        Every { next: Instant::now() + first, interval: first, longest }
    }

    fn due(&mut self, now: Instant) -> bool {
        let due = now >= self.next;
        if due {
            self.interval = (self.interval * 2).min(self.longest);
            self.next = now + self.interval;
        }
        due
    }
}

/// Supervises one child until it has ended.
pub(super) struct Supervisor<'a> {
    child: Child,
    pipes: Vec<Pipe>,
    control: &'a Control,
    output: &'a Output<'a>,
    buffer: &'a mut Vec<u8>,
    grace: Duration,
    limit: Option<u64>,
    deadline: Option<Instant>,
    samples: Option<Every>,
    glances: Option<Every>,
    peaks: Every,
    /// The most memory that was seen, in bytes; 0 if nobody has looked.
    peak: u64,
    family: Family,
    cause: Option<Cause>,
    /// When a stop turns into a kill.
    kill_at: Option<Instant>,
    killed: bool,
    exited: bool,
}

impl<'a> Supervisor<'a> {
    /// `buffer` is scratch, reused from one command to the next.
    pub(super) fn new(
        child: Child,
        pipes: Vec<Pipe>,
        limits: Limits,
        control: &'a Control,
        output: &'a Output<'a>,
        buffer: &'a mut Vec<u8>,
    ) -> Supervisor<'a> {
        buffer.resize(CHUNK, 0);
        Supervisor {
            family: Family::new(child.pid),
            glances: child.pidfd.is_none().then(|| Every::new(GLANCES)),
            child,
            pipes,
            control,
            output,
            buffer,
            grace: limits.grace,
            limit: limits.memory,
            // A limit beyond what the clock can tell is none.
            deadline: limits.time.and_then(|time| Instant::now().checked_add(time)),
            samples: limits.memory.map(|_| Every::new(SAMPLES)),
            peaks: Every::new(PEAKS),
            peak: 0,
            cause: None,
            kill_at: None,
            killed: false,
            exited: false,
        }
    }

    /// Returns when the child has ended and, if it was stopped, its relatives have too.
    pub(super) fn run(mut self) -> io::Result<Ended> {
        loop {
            self.obey();
            self.keep_limits()?;
            if self.exited && (self.cause.is_none() || self.killed || !self.family.look()) {
                break;
            }
            self.wait()?;
        }
        for i in 0..self.pipes.len() {
            self.drain(i)?;
        }
        let (status, used, inherited) = self.child.reap()?;
        let seen = if inherited && self.peak > 0 { self.peak.min(used.peak_bytes) } else { used.peak_bytes };
        Ok(Ended { status, cause: self.cause, used: Usage { peak_bytes: seen, ..used } })
    }

    /// Carries out what another thread has asked for.
    fn obey(&mut self) {
        match self.control.stop() {
            Some(Stop::Terminate) if self.cause.is_none() && !self.exited => self.end(Cause::Asked),
            Some(Stop::Kill) if !self.killed && (self.cause.is_some() || !self.exited) => {
                self.cause.get_or_insert(Cause::Asked);
                self.kill();
            }
            _ => {}
        }
    }

    fn keep_limits(&mut self) -> io::Result<()> {
        if self.timers().next().is_none() {
            return Ok(());
        }
        let now = Instant::now();
        if let Some(glances) = &mut self.glances
            && !self.exited
            && glances.due(now)
        {
            self.exited = self.child.has_exited()?;
        }
        if !self.exited && self.peaks.due(now) {
            self.peak = self.peak.max(peak_so_far(self.child.pid));
        }
        if self.cause.is_none() && !self.exited {
            if self.deadline.is_some_and(|deadline| now >= deadline) {
                self.end(Cause::Time);
            } else if self.samples.as_mut().is_some_and(|samples| samples.due(now)) {
                self.check_memory();
            }
        }
        if !self.killed && self.kill_at.is_some_and(|at| now >= at) {
            self.kill();
        }
        Ok(())
    }

    fn check_memory(&mut self) {
        if let Some(bytes) = self.limit.and_then(|limit| memory_above(self.child.pid, limit)) {
            self.cause = Some(Cause::Memory(bytes));
            self.kill();
        }
    }

    fn end(&mut self, cause: Cause) {
        self.cause = Some(cause);
        self.family.terminate();
        // A grace that never ends leaves it at TERM.
        self.kill_at = Instant::now().checked_add(self.grace);
    }

    fn kill(&mut self) {
        self.family.kill();
        self.killed = true;
    }

    /// The moments that need us next.
    fn timers(&self) -> impl Iterator<Item = Instant> {
        let running = !self.exited && self.cause.is_none();
        let kill_at = self.kill_at.filter(|_| !self.killed);
        let glances = self.glances.as_ref().filter(|_| !self.exited);
        let samples = self.samples.as_ref().filter(|_| running);
        let deadline = self.deadline.filter(|_| running);
        let peaks = Some(self.peaks.next).filter(|_| !self.exited);
        [deadline, kill_at, samples.map(|s| s.next), glances.map(|g| g.next), peaks].into_iter().flatten()
    }

    /// Sleeps until something happens, and takes the output that is there.
    fn wait(&mut self) -> io::Result<()> {
        let timer = self.timers().min().map(|at| at.saturating_duration_since(Instant::now()));
        let timeout = if self.exited { Some(timer.map_or(STRAGGLERS, |t| t.min(STRAGGLERS))) } else { timer };
        let mut fds = Vec::with_capacity(4);
        fds.push(PollFd::from_borrowed_fd(self.control.event(), PollFlags::IN));
        fds.extend(self.pipes.iter().map(|pipe| PollFd::new(&pipe.reader, PollFlags::IN)));
        if let Some(pidfd) = self.child.pidfd.as_ref().filter(|_| !self.exited) {
            fds.push(PollFd::new(pidfd, PollFlags::IN));
        }
        match poll(&mut fds, timeout.map(timespec).as_ref()) {
            Err(rustix::io::Errno::INTR) => return Ok(()),
            other => other?,
        };
        let ready: Vec<bool> = fds.iter().map(|fd| !fd.revents().is_empty()).collect();
        drop(fds);
        if ready[0] {
            self.control.acknowledge();
        }
        for i in 0..self.pipes.len() {
            if ready[1 + i] {
                self.take(i, CHUNK)?;
            }
        }
        self.exited |= ready.get(1 + self.pipes.len()).is_some_and(|&r| r);
        Ok(())
    }

    /// Takes what is in a pipe now and no more, since a process in the background may be filling it for ever.
    fn drain(&mut self, i: usize) -> io::Result<()> {
        let mut left = usize::try_from(ioctl_fionread(self.pipes[i].reader.as_fd())?).unwrap_or(usize::MAX);
        while left > 0 {
            left -= self.take(i, left.min(CHUNK))?;
        }
        Ok(())
    }

    /// Takes up to `most` bytes from a pipe that has some.
    fn take(&mut self, i: usize, most: usize) -> io::Result<usize> {
        let pipe = &self.pipes[i];
        let n = rustix::io::retry_on_intr(|| rustix::io::read(&pipe.reader, &mut self.buffer[..most]))?;
        self.output.append(pipe.stream, &self.buffer[..n]);
        Ok(n)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use rustix::pipe::{PipeFlags, pipe_with};

    use super::*;
    use crate::exec::OutputSink;
    use crate::exec::spawn::{Plan, Spawner};
    use crate::model::TaskId;

    #[derive(Default)]
    struct Bytes(Mutex<Vec<u8>>);

    impl OutputSink for Bytes {
        fn append(&self, _: TaskId, _: u16, _: Stream, bytes: &[u8]) -> io::Result<()> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(())
        }

        fn finish(&self, _: TaskId, _: u16, _: crate::model::Outcome) -> io::Result<()> {
            Ok(())
        }
    }

    /// Runs a line of shell as on a kernel without pidfd, where the exit has to be looked for.
    fn without_pidfd(line: &str, time: Option<Duration>) -> (Ended, String) {
        let (reader, writer) = pipe_with(PipeFlags::CLOEXEC).unwrap();
        let argv = ["sh", "-c", line].map(|word| std::ffi::CString::new(word).unwrap());
        let stdio = [writer.as_fd(); 3];
        let plan = Plan { program: c"/bin/sh", argv: &argv, envp: vec![c"PATH=/usr/bin:/bin"], dir: c"/", stdio };
        let mut child = Spawner::new().unwrap().spawn(&plan).unwrap();
        child.pidfd = None;
        let (sink, control, mut buffer) = (Bytes::default(), Control::new().unwrap(), Vec::new());
        let output = Output::new(&sink, TaskId(0), 1);
        let limits = Limits { time, memory: None, grace: Duration::from_secs(60) };
        let pipes = vec![Pipe { stream: Stream::Out, reader, writer }];
        let ended = Supervisor::new(child, pipes, limits, &control, &output, &mut buffer).run().unwrap();
        let printed = String::from_utf8(sink.0.lock().unwrap().clone()).unwrap();
        (ended, printed)
    }

    #[test]
    fn an_old_kernel_will_do() {
        let (ended, printed) = without_pidfd("echo one; sleep 0.05; echo two; exit 5", None);
        assert_eq!((ended.status.exit_status(), ended.cause, &*printed), (Some(5), None, "one\ntwo\n"));
        let (ended, _) = without_pidfd("exec sleep 600", Some(Duration::from_millis(50)));
        assert_eq!((ended.status.terminating_signal(), ended.cause), (Some(15), Some(Cause::Time)));
    }
}
