//! Runs commands: shell and prologue, containers, standard input and output, the end.

use std::cell::RefCell;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::ExitStatus;
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::Duration;

use super::aside::AttemptDeadline;
use super::cache::Visible;
use super::container::{self, ContainerScene, Offer};
use super::env::{BaseEnv, TaskEnv};
use super::files::{self, Streams, first_missing};
use super::kept_shell::{self, KeptShell};
use super::launch_agent;
use super::leftovers::{Leftovers, Owner};
use super::mark::Mark;
use super::measures::{ADD_VARIABLE, MeasureFiles, VARIABLE};
use super::mpi::{Launcher, MpiJob};
use super::oom::{OomCounter, OomMark};
use super::orphan_killer::OrphanKiller;
use super::output::{Output, OutputSink};
use super::program::{c_string, places_of, start_with_retries};
use super::scarcity::{Scarcity, check_reserve, is_scarcity};
use super::script::{DEFAULT, Prologue, ScriptWords, is_standard};
use super::signals::ReceivedSignals;
use super::spawn::{Child, ChildPlan, ensure_children_can_be_awaited};
use super::supervise::{Care, Cause, CommandEnd, CommandLimits, Pipe, Supervisor};
use super::{ExecContext, ExecError, Fault, RankContext};
use crate::job::{Container, Group, Task, TaskLimits, Work};
use crate::model::{Outcome, State, Stream, TaskId};

/// Maximum number of characters of a line of another program that a message quotes.
const MAX_QUOTED: usize = 300;

thread_local! {
    /// Buffer for output between pipe and sink.
    static BUFFER: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// State that all commands of a rank share.
pub(super) struct Commands {
    env: BaseEnv,
    null: File,
    oom: OomCounter,
    launcher: Launcher,
    measures: MeasureFiles,
    /// Of each job of the run.
    prologues: Vec<Prologue>,
    /// The container runtimes that the commands of each job find; asked by the first that needs
    /// one.
    offers: Vec<OnceLock<Offer>>,
    signals: ReceivedSignals,
    leftovers: Leftovers,
    scarcity: Scarcity,
    /// Identifies this rank's commands.
    mark: Mark,
    /// Set when the first command starts; `None` if it could not be started.
    orphan_killer: OnceLock<Option<OrphanKiller>>,
    /// The kept shell of each slot, while no command runs in it.
    kept: Box<[Mutex<Option<StartedProcess>>]>,
}

/// One attempt at a command.
#[derive(Clone, Copy)]
pub(super) struct CommandAttempt<'a> {
    pub(super) task: &'a Task,
    pub(super) group: &'a Group,
    pub(super) limits: TaskLimits,
    pub(super) seat: &'a ExecContext<'a>,
    pub(super) site: &'a RankContext,
    pub(super) deadline: AttemptDeadline<'a>,
    /// How long to wait for a declared output to become visible.
    pub(super) output_wait: Duration,
    /// Number of its job.
    pub(super) job: usize,
    pub(super) output: &'a Output<'a>,
    /// Which variables of its identity the task sees.
    pub(super) visible: Visible,
}

/// A started process.
struct StartedProcess {
    child: Child,
    pipes: Vec<Pipe>,
    /// Its words, with the scripts that it may still read.
    _words: ScriptWords,
    oom: OomMark,
    /// Set for a kept shell.
    shell: Option<KeptShell>,
}

impl Commands {
    pub(super) fn new(
        site: &RankContext,
        job_env: &[(String, String)],
        prologues: &[&[String]],
    ) -> Result<Commands, ExecError> {
        let system = |what| move |source| ExecError::System { what, source };
        let mark = Mark::new();
        ensure_children_can_be_awaited().map_err(system("to wait for child processes"))?;
        Ok(Commands {
            env: BaseEnv::new(std::env::vars_os(), site, job_env, &mark)?,
            null: File::options().read(true).write(true).open("/dev/null").map_err(system("/dev/null"))?,
            oom: OomCounter::find(),
            launcher: Launcher::new(site.mpirun.clone()),
            measures: MeasureFiles::new(),
            prologues: prologues.iter().map(|lines| Prologue::new(lines)).collect(),
            offers: prologues.iter().map(|_| OnceLock::new()).collect(),
            signals: ReceivedSignals::default(),
            leftovers: Leftovers::new(&mark),
            scarcity: Scarcity::default(),
            mark,
            orphan_killer: OnceLock::new(),
            kept: (0..site.slots).map(|_| Mutex::default()).collect(),
        })
    }

    /// Signals that this process has received.
    pub(super) fn signals(&self) -> &ReceivedSignals {
        &self.signals
    }

    /// Runs the command and waits for its end.
    pub(super) fn run(&self, attempt: &CommandAttempt) -> Result<Outcome, Fault> {
        let (attempt, ended) = loop {
            let (attempt, mut started) = self.start_attempt(attempt)?;
            let ended = self.supervise(&attempt, &mut started, attempt.output)?;
            let is_missed = started.shell.as_ref().is_some_and(KeptShell::missed_line);
            self.keep(&attempt, started, &ended);
            if !is_missed || ended.cause.is_some() {
                break (attempt, ended);
            }
        };
        let (attempt, task, number) = (&attempt, attempt.task.id, attempt.seat.attempt);
        ended.used.into_iter().for_each(|used| attempt.output.account(used));
        match self.retry_while_scarce(&attempt.deadline, |_| self.measures.collect(task, number)) {
            Ok(measured) => {
                measured.values.iter().for_each(|(name, value)| attempt.output.measure(name, *value));
                measured.complaint.iter().for_each(|text| attempt.output.remark(text));
            }
            Err(fault) => attempt.output.remark(&fault.text),
        }
        let added = self.retry_while_scarce(&attempt.deadline, |_| self.measures.collect_added(task, number));
        let outcome = self.judge(attempt, &ended);
        if let Some(ready) = self.ready_file(attempt) {
            // If this fails, removing the directory removes it.
            let has_begun = std::fs::remove_file(&ready).is_ok();
            if outcome.state == State::Failed && !has_begun {
                attempt.output.report_failure("a line of `prologue` failed, so the command did not start");
            }
        }
        let outcome = if outcome.ok() { self.check_declared_outputs(attempt, outcome)? } else { outcome };
        if !outcome.ok() {
            return Ok(outcome);
        }
        let added = added?;
        Ok(if added.trim().is_empty() { outcome } else { attempt.output.add_tasks(&added, outcome) })
    }

    /// Starts the process of an attempt, or has a kept shell run its line.
    fn start_attempt<'a>(&self, attempt: &CommandAttempt<'a>) -> Result<(CommandAttempt<'a>, StartedProcess), Fault> {
        let (task, number) = (attempt.task.id, attempt.seat.attempt);
        self.scarcity.retry_while_scarce(&attempt.deadline, |deadline| {
            let attempt = CommandAttempt { deadline, ..*attempt };
            let mut env = self.env.of_task(&attempt)?;
            if let Some(file) = self.measures.file(task, number) {
                env.set(VARIABLE, &file.to_string_lossy())?;
            }
            if let Some(file) = self.measures.added_file(task, number) {
                env.set(ADD_VARIABLE, &file.to_string_lossy())?;
            }
            self.start_orphan_killer()?;
            let started = match line_for_kept_shell(&attempt, &env) {
                Some(line) => self.begin_in_kept_shell(&attempt, &mut env, line)?,
                None => {
                    let words = self.words(&attempt, &mut env)?;
                    self.start(&attempt, &env, words, open_streams(&attempt)?, None)?
                }
            };
            Ok((attempt, started))
        })
    }

    /// Has the slot's kept shell run a line; starts one if there is none.
    fn begin_in_kept_shell(
        &self,
        attempt: &CommandAttempt,
        env: &mut TaskEnv,
        line: &str,
    ) -> Result<StartedProcess, Fault> {
        let shell =
            attempt.task.shell.as_deref().map_or_else(|| DEFAULT.map(str::to_owned).to_vec(), <[String]>::to_vec);
        let prologue = self.prologue(attempt.job)?;
        let text = prologue.text_of_line(&shell, line, &env.take_long(), self.ready_file(attempt).as_deref());
        let dir = attempt.task.dir.as_os_str().as_bytes();
        let script = kept_shell::script(&shell, env.own(), dir, &text);
        let slot = self.kept.get(usize::from(attempt.seat.slot));
        let kept = slot.and_then(|slot| slot.lock().unwrap_or_else(PoisonError::into_inner).take());
        let fault = |error: io::Error| Fault::refused("cannot pass the command to its shell", &error);
        if let Some(mut started) = kept {
            let serves = |kept: &mut KeptShell| kept.has_words(&shell) && kept.send(&script).is_ok();
            if started.shell.as_mut().is_some_and(serves) {
                return Ok(StartedProcess { oom: self.oom.mark(), ..started });
            }
            self.leftovers.forget_own(started.child.pid);
        }
        let (mut kept, files) = KeptShell::new(&shell).map_err(fault)?;
        let words = ScriptWords::plain(KeptShell::start_words(&shell));
        let files = files.each_ref().map(OwnedFd::as_fd);
        let started = self.start(attempt, &self.env.shared(), words, Streams::default(), Some(&files))?;
        kept.send(&script).map_err(fault)?;
        Ok(StartedProcess { shell: Some(kept), ..started })
    }

    /// Keeps the shell of an ended command for the next one.
    fn keep(&self, attempt: &CommandAttempt, started: StartedProcess, ended: &CommandEnd) {
        let is_kept = |shell: &KeptShell| ended.is_reusable && shell.sent() < u64::from(attempt.group.batch);
        let slot = self.kept.get(usize::from(attempt.seat.slot));
        if let Some(slot) = slot.filter(|_| started.shell.as_ref().is_some_and(is_kept)) {
            self.leftovers.note_own(started.child.pid);
            *slot.lock().unwrap_or_else(PoisonError::into_inner) = Some(started);
        }
    }

    /// Turns success into failure if the command did not write its declared outputs.
    fn check_declared_outputs(&self, attempt: &CommandAttempt, outcome: Outcome) -> Result<Outcome, Fault> {
        let task = attempt.task;
        let look = |deadline| first_missing(&deadline, &task.dir, &task.promised, attempt.output_wait);
        let missing = self.scarcity.retry_while_scarce(&attempt.deadline, look)?;
        Ok(missing.map_or(outcome, |file| {
            attempt.output.report_failure(&format!("it succeeded, but did not write its output {}", file.display()));
            Outcome { state: State::Failed, ..outcome }
        }))
    }

    /// Before the first command, starts the process that kills all commands if this one is killed.
    fn start_orphan_killer(&self) -> Result<(), Fault> {
        if self.orphan_killer.get().is_some() {
            return Ok(());
        }
        let orphan_killer = match OrphanKiller::start(&self.null, &self.mark) {
            Ok(orphan_killer) => Some(orphan_killer),
            Err(error) if is_scarcity(&error) => return Err(Fault::refused("cannot start a helper process", &error)),
            Err(error) => {
                tracing::warn!("if this rank is killed, its commands will keep running: {error}");
                None
            }
        };
        orphan_killer.iter().for_each(|orphan_killer| self.leftovers.note_own(orphan_killer.pid()));
        // Another slot may have been faster; one process is enough.
        let _ = self.orphan_killer.set(orphan_killer);
        Ok(())
    }

    /// Retries a start, or what follows the end of a command, for as long as it fails for lack of
    /// resources.
    pub(super) fn retry_while_scarce<'a, T>(
        &self,
        deadline: &AttemptDeadline<'a>,
        start: impl FnMut(AttemptDeadline<'a>) -> Result<T, Fault>,
    ) -> Result<T, Fault> {
        self.scarcity.retry_while_scarce(deadline, start)
    }

    /// The file that a shell makes when it has run the prologue; `None` without a prologue.
    fn ready_file(&self, attempt: &CommandAttempt) -> Option<PathBuf> {
        let has_prologue = self.prologues.get(attempt.job).is_some_and(|prologue| !prologue.is_empty());
        has_prologue.then(|| self.measures.ready_file(attempt.task.id, attempt.seat.attempt))?
    }

    fn prologue(&self, job: usize) -> Result<&Prologue, Fault> {
        self.prologues.get(job).ok_or_else(|| Fault::new(format!("there is no job {job}")))
    }

    /// Builds the words of the process: the command with its launcher, its shell and the prologue.
    fn words(&self, attempt: &CommandAttempt, env: &mut TaskEnv) -> Result<ScriptWords, Fault> {
        let &CommandAttempt { task, group, seat, site, job, .. } = attempt;
        let prologue = self.prologue(job)?;
        let place = &*site.scripts;
        let ready = self.ready_file(attempt);
        let ready = ready.as_deref();
        let shell = || task.shell.as_deref().map_or_else(|| DEFAULT.map(str::to_owned).to_vec(), <[String]>::to_vec);
        let words = match &task.work {
            Work::Command(words) => ScriptWords::plain(words.clone()),
            Work::Shell(line) if group.mpi.is_none() && task.container.is_none() => {
                return prologue.run_line(&shell(), line, &env.take_long(), place, ready);
            }
            Work::Shell(line) => prologue.line_of_rank(&shell(), line, &env.take_long(), place)?,
            Work::Kernel { name, .. } => return Err(Fault::new(format!("kernel `{name}` is not a command"))),
        };
        let words = match &task.container {
            Some(container) => self.in_container(attempt, container, env, words)?,
            None => words,
        };
        let Some(shape) = group.mpi else {
            let first = prologue.run_words(words.words.clone(), place, ready)?;
            return Ok(words.behind(first));
        };
        let agent = launch_agent::agent(seat.hosts, site.allocation.as_deref(), place)?;
        let is_contained = task.container.is_some();
        let job = MpiJob { shape, cpus_per_rank: group.cpus, seat, is_contained, agent: agent.as_deref() };
        let doing = "querying the version of the MPI launcher";
        let ask = |env: &TaskEnv, words| self.ask(attempt, env, prologue.run_words(words, place, None)?, doing);
        let launched = self.launcher.words(words.words.clone(), &job, env, ask)?;
        let launched = prologue.run_words(launched, place, ready)?;
        Ok(words.behind(launched).with_file(agent))
    }

    /// Lets words run in a container.
    fn in_container(
        &self,
        attempt: &CommandAttempt,
        container: &Container,
        env: &mut TaskEnv,
        words: ScriptWords,
    ) -> Result<ScriptWords, Fault> {
        let &CommandAttempt { task, site, job, .. } = attempt;
        let known = self.offers.get(job).ok_or_else(|| Fault::new(format!("there is no job {job}")))?;
        let offer = match known.get() {
            Some(offer) => offer,
            None => {
                let probe = self.prologue(job)?.run_words(Offer::probe(), &site.scripts, None)?;
                let [found, said] = self.ask(attempt, env, probe, "looking for a container runtime")?;
                let offer = Offer::read(&found).ok_or_else(|| Fault::new(no_offer(&said)))?;
                known.get_or_init(|| offer)
            }
        };
        let scene = ContainerScene {
            dir: &task.dir,
            // It is on this node only.
            measures: self.measures.dir().filter(|_| attempt.seat.hosts.is_empty()),
            scripts: words.has_scripts().then_some(&*site.scripts),
            gpu_variable: env.gpu_variable(),
        };
        let run = container::words(container, &scene, offer, env, words.words.clone())?;
        Ok(words.behind(ScriptWords::plain(run)))
    }

    /// Runs a program in the task's environment and within its limits; returns its standard output
    /// and standard error.
    fn ask(
        &self,
        attempt: &CommandAttempt,
        env: &TaskEnv,
        words: ScriptWords,
        doing: &str,
    ) -> Result<[String; 2], Fault> {
        let captured = CapturedOutput::default();
        let output = Output::new(&captured, attempt.task.id, attempt.seat.attempt);
        let mut started = self.start(attempt, env, words, Streams::default(), None)?;
        let ended = self.supervise(attempt, &mut started, &output)?;
        if ended.cause.is_some() {
            attempt.deadline.check(doing)?;
        }
        Ok(captured
            .0
            .into_inner()
            .unwrap_or_else(PoisonError::into_inner)
            .map(|b| String::from_utf8_lossy(&b).into_owned()))
    }

    /// Waits for the end of a process, or of the command that a kept shell runs.
    fn supervise(
        &self,
        attempt: &CommandAttempt,
        started: &mut StartedProcess,
        output: &Output,
    ) -> Result<CommandEnd, Fault> {
        let StartedProcess { child, pipes, oom, shell, .. } = started;
        let _running = self.scarcity.begin();
        let memory = attempt.limits.memory;
        let limits = CommandLimits { deadline: attempt.deadline.instant(), memory, grace: attempt.site.grace };
        let owner = Owner { task: attempt.task.id.0, attempt: attempt.seat.attempt };
        let care = Care { leftovers: &self.leftovers, oom: &self.oom, owner, keeps: attempt.task.keeps_background };
        let ended = BUFFER.with_borrow_mut(|buffer| {
            let supervisor = Supervisor::new(child, pipes, limits, care, attempt.deadline.control, output, buffer);
            match shell {
                Some(shell) => supervisor.in_shell(shell).run(),
                None => supervisor.run(),
            }
        });
        let ended = ended.map_err(|e| Fault::new(format!("cannot wait for the process: {e}")))?;
        // A shell that exits with the code of a killed child may have lived on for long.
        let was_killed = exit_code(ended.status) < 0;
        Ok(CommandEnd { alive: ended.alive.filter(|_| was_killed).or(Some(*oom)), ..ended })
    }

    fn start(
        &self,
        attempt: &CommandAttempt,
        env: &TaskEnv,
        words: ScriptWords,
        streams: Streams,
        further: Option<&[BorrowedFd<'_>; 3]>,
    ) -> Result<StartedProcess, Fault> {
        let task = attempt.task;
        let (stdin, files) = (streams.stdin, streams.out);
        let (mut pipes, mut writers) = (Vec::with_capacity(2), [None, None]);
        for (stream, file) in [Stream::Out, Stream::Err].into_iter().zip(&files) {
            if file.is_none() {
                let pipe = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC);
                let (reader, writer) = pipe.map_err(|e| Fault::refused("cannot make a pipe", &e.into()))?;
                pipes.push(Pipe::new(stream, reader));
                writers[stream as usize] = Some(writer);
            }
        }
        let end = |stream: Stream| match (&files[stream as usize], &writers[stream as usize]) {
            (Some(file), _) => file.as_fd(),
            (None, writer) => writer.as_ref().map_or(self.null.as_fd(), |writer| writer.as_fd()),
        };
        let programs = places_of(words.words.first().map_or("", String::as_str), &task.dir, env)?;
        let argv =
            words.words.iter().map(|word| c_string(word.as_bytes(), "an argument")).collect::<Result<Vec<_>, _>>()?;
        let dir = c_string(task.dir.as_os_str().as_bytes(), "the directory")?;
        let stdio = [stdin.as_ref().unwrap_or(&self.null).as_fd(), end(Stream::Out), end(Stream::Err)];
        let envp = env.entries().collect();
        let further = further.map_or(&[][..], |further| further);
        let plan =
            ChildPlan { programs: &programs, argv: &argv, envp, dir: &dir, stdio, further, blocks_signals: false };
        let taken = pipes.iter().map(Pipe::as_fd).chain(plan.stdio);
        check_reserve(taken).map_err(|e| Fault::refused("cannot start a further command", &e))?;
        let oom = self.oom.mark();
        let child = start_with_retries(&plan, &attempt.deadline)?;
        Ok(StartedProcess { child, pipes, _words: words, oom, shell: None })
    }

    /// Derives the task's outcome from the end of its process.
    fn judge(&self, attempt: &CommandAttempt, ended: &CommandEnd) -> Outcome {
        let exit = exit_code(ended.status);
        let killed = exit == -libc::SIGKILL || exit == 128 + libc::SIGKILL;
        let state = match ended.cause {
            Some(Cause::Asked) => State::Cancelled,
            Some(Cause::Time) => {
                let limit = attempt.limits.time.unwrap_or_default();
                attempt.output.report_failure(&format!("stopped at its time limit of {:?}", limit));
                State::Timeout
            }
            Some(Cause::Memory(bytes)) => {
                let (used, limit) = (mib(bytes), mib(attempt.limits.memory.unwrap_or_default()));
                attempt
                    .output
                    .report_failure(&format!("killed: it used {used} of memory, and `memory` allows {limit}"));
                State::OutOfMemory
            }
            Some(Cause::Shortage) => {
                attempt.output.report_failure("ended to free memory, which is scarce on its node: it is retried");
                State::NodeFail
            }
            None if exit == 0 => State::Completed,
            None if killed && ended.alive.is_some_and(|alive| self.oom.claim(alive)) => {
                attempt.output.report_failure("killed by the system, which ran out of memory");
                State::OutOfMemory
            }
            None if self.signals.explain(exit) => {
                attempt.output.report_failure("ended by a signal to this node, not by its own failure: it is retried");
                State::NodeFail
            }
            None => State::Failed,
        };
        Outcome { state, exit, cached: false }
    }
}

/// The line that a kept shell can run, if the task asks for that. `check` refuses what it cannot.
fn line_for_kept_shell<'a>(attempt: &CommandAttempt<'a>, env: &TaskEnv) -> Option<&'a str> {
    let (task, group) = (attempt.task, attempt.group);
    let Work::Shell(line) = &task.work else { return None };
    let has_files = task.stdin.is_some() || task.stdout.is_some() || task.stderr.is_some();
    let fits = group.batch > 1
        && group.mpi.is_none()
        && group.cpus == 1
        && !has_files
        && !task.keeps_background
        && task.shell.as_deref().is_none_or(is_standard)
        && env.own().all(|(name, _)| kept_shell::is_identifier(name));
    fits.then_some(line)
}

/// Opens the files that the task names for its streams.
fn open_streams(attempt: &CommandAttempt) -> Result<Streams, Fault> {
    let task = attempt.task;
    let names = attempt.site.file_names(&task.name, task.index);
    let path = |file: &Option<PathBuf>| file.as_deref().map(|file| task.dir.join(names.fill(file)));
    files::open(&attempt.deadline, path(&task.stdin), path(&task.stdout), path(&task.stderr))
}

/// Says that the search for container runtimes ended early, as where the prologue fails, and what
/// it has said at last.
fn no_offer(said: &str) -> String {
    let last = said.lines().rev().find(|line| !line.trim().is_empty());
    let last = last.map_or_else(String::new, |line| {
        format!(" (it said: {})", line.trim().chars().take(MAX_QUOTED).collect::<String>())
    });
    format!("cannot find out which container runtimes are here: the search or the `prologue` failed{last}")
}

/// Collects what a program prints.
#[derive(Default)]
struct CapturedOutput(Mutex<[Vec<u8>; 2]>);

impl OutputSink for CapturedOutput {
    fn append(&self, _: TaskId, _: u16, stream: Stream, bytes: &[u8]) -> io::Result<()> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)[stream as usize].extend_from_slice(bytes);
        Ok(())
    }

    fn finish(&self, _: TaskId, _: u16, _: Outcome) -> io::Result<()> {
        Ok(())
    }
}

fn exit_code(status: ExitStatus) -> i32 {
    match (status.code(), status.signal()) {
        (Some(code), _) => code,
        (None, Some(signal)) => -signal,
        (None, None) => 1,
    }
}

fn mib(bytes: u64) -> String {
    format!("{:.1} MiB", bytes as f64 / (1 << 20) as f64)
}
