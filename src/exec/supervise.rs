//! Supervises a process: reads its output, enforces its limits, and stops it on request.
//!
//! One thread waits for all events at once: the process, its pipes, the slot's event, and the next
//! time at which a limit or the command's memory must be checked.
//!
//! Protocol:
//! - The end of a short command is detected by its pipes, whose ends the system closes moments
//!   before the exit. A pidfd would cost a short command more than its pipes; it is opened only for
//!   a command that runs longer than [`PIPE_WATCH_TIME`] or closes its output and continues.
//! - The end of output is not awaited, since a background process may hold a pipe open forever. The
//!   command's output is what is in the pipes when it has exited.
//! - A stop sends TERM to the group and, after the grace period, KILL to all relatives. The first
//!   cause of a stop is the one reported.
//! - We return only when no relative is alive, unless the processes that a command leaves behind
//!   may live on. Otherwise they have [`LINGER_TIME`] after the command's exit to end by themselves
//!   (`cmd > >(tee log)` leaves `tee` for a moment), then get TERM, and after the grace period
//!   KILL.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::ioctl_fionread;
use rustix::process::{PidfdFlags, pidfd_open};

use super::control::{Control, TaskStop, timespec};
use super::kept_shell::KeptShell;
use super::leftovers::{Leftovers, Owner};
use super::oom::{OomCounter, OomMark};
use super::output::Output;
use super::process::{Family, memory_above, peak_so_far};
use super::spawn::Child;
use crate::model::{Stream, Usage};

/// Bytes read from a pipe at once, which is the default capacity of a pipe.
pub(super) const PIPE_READ_BYTES: usize = 64 << 10;
/// How long only the pipes of a command are watched. If it leaves its pipes to a background
/// process, its exit is noticed at most this much later.
const PIPE_WATCH_TIME: Duration = Duration::from_millis(5);
/// Number of times to yield the CPU to a command that has closed its output and not yet exited.
const MAX_YIELDS: u32 = 8;
/// First and longest interval between two checks of a command's memory.
const MEMORY_CHECK_INTERVALS: (Duration, Duration) = (Duration::from_millis(10), Duration::from_millis(250));
/// First and longest interval between two reads of a command's peak memory, which the system does
/// not report for small commands at exit (see `spawn`).
const PEAK_CHECK_INTERVALS: (Duration, Duration) = (Duration::from_millis(20), Duration::from_secs(2));
/// First and longest interval between two checks for its exit, on kernels without pidfd.
const EXIT_POLL_INTERVALS: (Duration, Duration) = (Duration::from_micros(100), Duration::from_millis(10));
/// Interval between two checks whether the relatives of a stopped command have ended.
const RELATIVES_CHECK_INTERVAL: Duration = Duration::from_millis(10);

/// Longest time between TERM and KILL where memory is short, in which a command may still take
/// more.
const SHORTAGE_GRACE: Duration = Duration::from_secs(2);

/// How long processes that a command leaves behind may run before they are ended.
const LINGER_TIME: Duration = Duration::from_millis(250);

/// The commands of a rank and their leftovers, and what happens to processes that a command leaves
/// running.
pub(super) struct Care<'a> {
    pub(super) leftovers: &'a Leftovers,
    pub(super) oom: &'a OomCounter,
    pub(super) owner: Owner,
    /// True if processes that it leaves running may live on.
    pub(super) keeps: bool,
}

/// Why we ended a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cause {
    /// Another thread requested it.
    Asked,
    /// Its time limit was over.
    Time,
    /// It used this many bytes of memory.
    Memory(u64),
    /// Its rank or node is short of memory.
    Shortage,
}

/// How a command ended.
pub(super) struct CommandEnd {
    pub(super) status: ExitStatus,
    pub(super) cause: Option<Cause>,
    /// Its resource use; `None` if its shell goes on.
    pub(super) used: Option<Usage>,
    /// True if its shell can run a further command.
    pub(super) is_reusable: bool,
    /// When it was last seen alive; `None` if it ended before the first check.
    pub(super) alive: Option<OomMark>,
}

/// The limits of a command.
#[derive(Clone, Copy)]
pub(super) struct CommandLimits {
    /// Its deadline.
    pub(super) deadline: Option<Instant>,
    /// Memory in bytes.
    pub(super) memory: Option<u64>,
    /// Grace period between TERM and KILL.
    pub(super) grace: Duration,
}

/// A pipe from a child to us.
pub(super) struct Pipe {
    stream: Stream,
    reader: OwnedFd,
    /// True once no process can write to it any more and everything has been read.
    ended: bool,
}

impl Pipe {
    /// Takes the reading end.
    pub(super) fn new(stream: Stream, reader: OwnedFd) -> Pipe {
        Pipe { stream, reader, ended: false }
    }

    /// The descriptor of the reading end.
    pub(super) fn as_fd(&self) -> BorrowedFd<'_> {
        self.reader.as_fd()
    }
}

/// How the exit of a command is detected.
enum ExitWatch {
    /// By the end of its pipes, until this moment.
    Pipes(Instant),
    /// Readable when the process has exited.
    Pidfd(OwnedFd),
    /// By polling, on a kernel before 5.3.
    Glances(Every),
    /// By the answer of the kept shell that runs it.
    Answer,
}

impl ExitWatch {
    /// Selects the way for a command that may run for long.
    fn of(child: &Child) -> ExitWatch {
        pidfd_open(child.pid, PidfdFlags::empty())
            .map_or_else(|_| ExitWatch::Glances(Every::new(EXIT_POLL_INTERVALS)), ExitWatch::Pidfd)
    }
}

/// A timer with growing intervals.
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

/// Supervises one child until it and its relatives have ended.
pub(super) struct Supervisor<'a> {
    child: &'a mut Child,
    /// If the child is a kept shell: what it answers.
    shell: Option<&'a mut KeptShell>,
    pipes: &'a mut [Pipe],
    control: &'a Control,
    output: &'a Output<'a>,
    buffer: &'a mut Vec<u8>,
    grace: Duration,
    limit: Option<u64>,
    deadline: Option<Instant>,
    samples: Option<Every>,
    watch: ExitWatch,
    peaks: Every,
    /// Largest memory use of the command's first process seen, in bytes; 0 if it was never checked.
    peak: u64,
    /// Largest memory use of all processes of the command together that was seen to be above that.
    family_peak: u64,
    family: Family,
    care: Care<'a>,
    alive: Option<OomMark>,
    /// Set when the command has exited and left processes that must end: the time at which they get
    /// TERM.
    lingers: Option<Instant>,
    cause: Option<Cause>,
    /// When to send KILL after a stop.
    kill_at: Option<Instant>,
    killed: bool,
    exited: bool,
}

impl<'a> Supervisor<'a> {
    /// `buffer` is scratch, reused from one command to the next.
    pub(super) fn new(
        child: &'a mut Child,
        pipes: &'a mut [Pipe],
        limits: CommandLimits,
        care: Care<'a>,
        control: &'a Control,
        output: &'a Output<'a>,
        buffer: &'a mut Vec<u8>,
    ) -> Supervisor<'a> {
        buffer.resize(PIPE_READ_BYTES, 0);
        let watch =
            if pipes.is_empty() { ExitWatch::of(child) } else { ExitWatch::Pipes(Instant::now() + PIPE_WATCH_TIME) };
        Supervisor {
            family: Family::new(child.pid),
            watch,
            child,
            shell: None,
            pipes,
            control,
            output,
            buffer,
            grace: limits.grace,
            limit: limits.memory,
            deadline: limits.deadline,
            samples: limits.memory.map(|_| Every::new(MEMORY_CHECK_INTERVALS)),
            peaks: Every::new(PEAK_CHECK_INTERVALS),
            peak: 0,
            family_peak: 0,
            care,
            alive: None,
            lingers: None,
            cause: None,
            kill_at: None,
            killed: false,
            exited: false,
        }
    }

    /// The same for a command of a kept shell, which is the child.
    pub(super) fn in_shell(self, shell: &'a mut KeptShell) -> Supervisor<'a> {
        Supervisor { shell: Some(shell), watch: ExitWatch::Answer, ..self }
    }

    /// Returns when the child, or the command of its shell, and its relatives have ended.
    pub(super) fn run(mut self) -> io::Result<CommandEnd> {
        let leftovers = self.care.leftovers;
        let _running = leftovers.begin(self.child.pid);
        self.control.is_command();
        loop {
            self.execute_stop();
            self.keep_limits()?;
            if self.exited && (self.killed || !self.is_survived()) {
                break;
            }
            self.wait()?;
        }
        if self.lingers.is_some() {
            // Orphans that died since the last check are our children.
            leftovers.reap();
        }
        for i in 0..self.pipes.len() {
            self.drain(i)?;
        }
        let (cause, alive) = (self.cause, self.alive);
        if let Some(exit) = self.shell.as_ref().and_then(|shell| shell.exit()) {
            let is_reusable = cause.is_none() && !self.killed;
            return Ok(CommandEnd { status: ExitStatus::from_raw(exit << 8), cause, used: None, is_reusable, alive });
        }
        let (status, reported) = self.child.reap()?;
        let used = self.used(reported);
        let used = Some(used).filter(|_| self.shell.is_none());
        Ok(CommandEnd { status, cause, used, is_reusable: false, alive })
    }

    /// The resource use of the command by what the system reports of it and what was seen.
    fn used(&self, reported: Usage) -> Usage {
        let was_seen = self.peak.max(self.family_peak) > 0;
        let own =
            if reported.peak_is_bound && was_seen { self.peak.min(reported.peak_bytes) } else { reported.peak_bytes };
        let peak_is_bound = reported.peak_is_bound && !was_seen;
        Usage { peak_bytes: own.max(self.family_peak), peak_is_bound, ..reported }
    }

    /// True while processes that must end survive the exited command.
    fn is_survived(&mut self) -> bool {
        let orphans = self.orphans();
        if self.cause.is_some() {
            self.family.adopt(orphans);
            return self.family.look();
        }
        if self.lingers.is_none() && orphans.is_empty() {
            return false;
        }
        if self.care.keeps {
            self.care.leftovers.excuse(orphans);
            return false;
        }
        self.family.adopt(orphans);
        self.lingers.get_or_insert_with(|| Instant::now() + LINGER_TIME);
        self.family.look()
    }

    /// Executes the stop that another thread has requested.
    fn execute_stop(&mut self) {
        match self.control.stop() {
            Some(TaskStop::Terminate) if self.cause.is_none() && !self.exited => self.end(Cause::Asked),
            Some(TaskStop::Terminate | TaskStop::Kill) if self.lingers.is_some() && !self.killed => self.kill(),
            Some(TaskStop::Kill) if !self.killed && (self.cause.is_some() || !self.exited) => {
                self.cause.get_or_insert(Cause::Asked);
                self.kill();
            }
            _ if self.control.is_memory_requested() && self.cause.is_none() && !self.exited => {
                self.grace = self.grace.min(SHORTAGE_GRACE);
                self.end(Cause::Shortage);
            }
            _ => {}
        }
    }

    fn keep_limits(&mut self) -> io::Result<()> {
        if self.timers().next().is_none() {
            return Ok(());
        }
        let now = Instant::now();
        match &mut self.watch {
            _ if self.exited => {}
            ExitWatch::Pipes(until) if now >= *until => self.watch = ExitWatch::of(self.child),
            ExitWatch::Glances(glances) => self.exited = glances.due(now) && self.child.has_exited()?,
            _ => {}
        }
        if !self.exited && self.peaks.due(now) {
            self.peak = self.peak.max(peak_so_far(self.child.pid));
            let known = self.peak.max(self.family_peak);
            self.family_peak = memory_above(self.child.pid, &self.orphans(), known).unwrap_or(self.family_peak);
            let alive = self.care.oom.mark();
            if !self.child.has_exited()? {
                self.alive = Some(alive);
            }
        }
        if self.cause.is_none() && !self.exited {
            if self.deadline.is_some_and(|deadline| now >= deadline) {
                self.end(Cause::Time);
            } else if self.samples.as_mut().is_some_and(|samples| samples.due(now)) {
                self.check_memory();
            }
        }
        if self.kill_at.is_none() && self.lingers.is_some_and(|at| now >= at) {
            self.family.terminate_each();
            self.kill_at = now.checked_add(self.grace);
        }
        if !self.killed && self.kill_at.is_some_and(|at| now >= at) {
            self.kill();
        }
        Ok(())
    }

    fn check_memory(&mut self) {
        let above = |limit| memory_above(self.child.pid, &self.orphans(), limit);
        if let Some(bytes) = self.limit.and_then(above) {
            self.cause = Some(Cause::Memory(bytes));
            // The system does not report processes that are killed with their parent.
            self.family_peak = self.family_peak.max(bytes);
            self.kill();
        }
    }

    fn end(&mut self, cause: Cause) {
        self.cause = Some(cause);
        self.family.terminate();
        // With an unlimited grace period no KILL follows.
        self.kill_at = Instant::now().checked_add(self.grace);
    }

    /// What has left the command while it runs, as the monitor of a container does. Reaps the dead.
    fn orphans(&self) -> Vec<(i32, u64)> {
        self.care.leftovers.of(self.child.pid, self.care.owner, self.exited)
    }

    fn kill(&mut self) {
        self.family.adopt(self.orphans());
        self.family.kill();
        self.killed = true;
    }

    /// The next times at which something must be checked.
    fn timers(&self) -> impl Iterator<Item = Instant> {
        let running = !self.exited && self.cause.is_none();
        let kill_at = self.kill_at.filter(|_| !self.killed);
        let watch = match &self.watch {
            ExitWatch::Pipes(until) => Some(*until),
            ExitWatch::Pidfd(_) | ExitWatch::Answer => None,
            ExitWatch::Glances(glances) => Some(glances.next),
        };
        let watch = watch.filter(|_| !self.exited);
        let samples = self.samples.as_ref().filter(|_| running);
        let deadline = self.deadline.filter(|_| running);
        let peaks = Some(self.peaks.next).filter(|_| !self.exited);
        let lingers = self.lingers.filter(|_| self.kill_at.is_none());
        [deadline, kill_at, samples.map(|s| s.next), watch, peaks, lingers].into_iter().flatten()
    }

    /// Sleeps until an event, and reads the available output.
    fn wait(&mut self) -> io::Result<()> {
        let timer = self.timers().min().map(|at| at.saturating_duration_since(Instant::now()));
        let timeout = if self.exited {
            Some(timer.map_or(RELATIVES_CHECK_INTERVAL, |t| t.min(RELATIVES_CHECK_INTERVAL)))
        } else {
            timer
        };
        let open: Vec<usize> = (0..self.pipes.len()).filter(|&i| !self.pipes[i].ended).collect();
        let mut fds = Vec::with_capacity(4);
        fds.push(PollFd::from_borrowed_fd(self.control.event(), PollFlags::IN));
        fds.extend(open.iter().map(|&i| PollFd::new(&self.pipes[i].reader, PollFlags::IN)));
        match (&self.watch, &self.shell) {
            (ExitWatch::Pidfd(pidfd), _) if !self.exited => fds.push(PollFd::new(pidfd, PollFlags::IN)),
            (ExitWatch::Answer, Some(shell)) if !self.exited => {
                fds.push(PollFd::from_borrowed_fd(shell.as_fd(), PollFlags::IN));
            }
            _ => {}
        }
        match poll(&mut fds, timeout.map(timespec).as_ref()) {
            Err(rustix::io::Errno::INTR) => return Ok(()),
            other => other?,
        };
        let ready: Vec<PollFlags> = fds.iter().map(PollFd::revents).collect();
        drop(fds);
        if !ready[0].is_empty() {
            self.control.acknowledge();
        }
        for (&i, &ready) in open.iter().zip(&ready[1..]) {
            if ready.contains(PollFlags::IN) {
                self.take(i, PIPE_READ_BYTES)?;
            } else if !ready.is_empty() {
                self.pipes[i].ended = true;
            }
        }
        if ready.get(1 + open.len()).is_some_and(|ready| !ready.is_empty()) {
            self.exited = match &mut self.shell {
                Some(shell) => shell.receive()?,
                None => true,
            };
        }
        self.end_with_pipes()
    }

    /// Handles the end of the pipes: the command is about to exit, or it continues without output.
    fn end_with_pipes(&mut self) -> io::Result<()> {
        if !matches!(self.watch, ExitWatch::Pipes(_)) || self.exited || !self.pipes.iter().all(|pipe| pipe.ended) {
            return Ok(());
        }
        for _ in 0..MAX_YIELDS {
            self.exited = self.child.has_exited()?;
            if self.exited {
                return Ok(());
            }
            std::thread::yield_now();
        }
        self.watch = ExitWatch::of(self.child);
        Ok(())
    }

    /// Reads what is in a pipe now and no more, since a background process may fill it forever.
    fn drain(&mut self, i: usize) -> io::Result<()> {
        if self.pipes[i].ended {
            return Ok(());
        }
        let mut left = usize::try_from(ioctl_fionread(self.pipes[i].reader.as_fd())?).unwrap_or(usize::MAX);
        while left > 0 {
            left -= self.take(i, left.min(PIPE_READ_BYTES))?;
        }
        Ok(())
    }

    /// Reads up to `most` bytes from a pipe that is readable.
    fn take(&mut self, i: usize, most: usize) -> io::Result<usize> {
        let pipe = &self.pipes[i];
        let n = rustix::io::retry_on_intr(|| rustix::io::read(&pipe.reader, &mut self.buffer[..most]))?;
        self.output.append(pipe.stream, &self.buffer[..n]);
        Ok(n)
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt;
    use std::sync::Mutex;

    use rustix::pipe::{PipeFlags, pipe_with};

    use super::super::mark::Mark;
    use super::*;
    use crate::exec::OutputSink;
    use std::sync::atomic::AtomicI32;

    use crate::exec::spawn::{ChildPlan, spawn};
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

    /// Runs a line of shell whose exit is detected in the given way.
    fn run(line: &str, time: Option<Duration>, watch: impl FnOnce(&Child) -> ExitWatch) -> (CommandEnd, String) {
        // An orphan of a child that ends before this goes to `init`.
        let leftovers = Leftovers::new(&Mark::new());
        let (reader, writer) = pipe_with(PipeFlags::CLOEXEC).unwrap();
        let argv = ["sh", "-c", line].map(|word| std::ffi::CString::new(word).unwrap());
        let stdio = [writer.as_fd(); 3];
        let plan = ChildPlan {
            further: &[],
            programs: &[c"/bin/sh".into()],
            argv: &argv,
            envp: vec![c"PATH=/usr/bin:/bin"],
            dir: c"/",
            stdio,
            blocks_signals: false,
        };
        let mut child = spawn(&plan, &AtomicI32::new(0)).unwrap();
        drop(writer);
        let (sink, control, mut buffer) = (Bytes::default(), Control::new().unwrap(), Vec::new());
        let output = Output::new(&sink, TaskId(0), 1);
        let deadline = time.map(|time| Instant::now() + time);
        let limits = CommandLimits { deadline, memory: None, grace: Duration::from_secs(60) };
        let mut pipes = vec![Pipe::new(Stream::Out, reader)];
        let watch = watch(&child);
        let care = Care {
            leftovers: &leftovers,
            oom: &OomCounter::find(),
            owner: Owner { task: 0, attempt: 1 },
            keeps: false,
        };
        let supervisor = Supervisor::new(&mut child, &mut pipes, limits, care, &control, &output, &mut buffer);
        let ended = Supervisor { watch, ..supervisor }.run().unwrap();
        let printed = String::from_utf8(sink.0.lock().unwrap().clone()).unwrap();
        (ended, printed)
    }

    #[test]
    fn the_exit_is_known_in_each_way() {
        let for_ever = |_: &Child| ExitWatch::Pipes(Instant::now() + Duration::from_secs(3600));
        let glances = |_: &Child| ExitWatch::Glances(Every::new(EXIT_POLL_INTERVALS));
        let ways: [&dyn Fn(&Child) -> ExitWatch; 3] = [&for_ever, &ExitWatch::of, &glances];
        for way in ways {
            let (ended, printed) = run("echo one; sleep 0.05; echo two; exit 5", None, way);
            assert_eq!((ended.status.code(), ended.cause, &*printed), (Some(5), None, "one\ntwo\n"));
            let (ended, _) = run("exec sleep 600", Some(Duration::from_millis(50)), way);
            assert_eq!((ended.status.signal(), ended.cause), (Some(15), Some(Cause::Time)));
            // A command that closes its output has not ended.
            let (ended, printed) = run("echo one; exec >&- 2>&-; sleep 0.05; exit 6", None, way);
            assert_eq!((ended.status.code(), &*printed), (Some(6), "one\n"));
        }
    }

    #[test]
    fn a_process_in_the_background_is_ended() {
        let begin = Instant::now();
        let soon = |_: &Child| ExitWatch::Pipes(Instant::now() + PIPE_WATCH_TIME);
        let (ended, printed) = run("sleep 600 & echo $!; exit 3", None, soon);
        assert_eq!(ended.status.code(), Some(3));
        // A killed process closes its files, which ends the run, shortly before it is reaped.
        let pid = printed.trim().parse().unwrap();
        while crate::exec::process::Stat::read(pid).is_some_and(|left| !left.dead) {
            assert!(begin.elapsed() < Duration::from_secs(300), "process {pid} is still alive");
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}
