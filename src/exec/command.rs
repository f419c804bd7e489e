//! From a command's words to a running process: shell and prologue, the search for the program, standard input and output.

use std::cell::RefCell;
use std::ffi::{CString, OsStr};
use std::fs::File;
use std::io::{self, ErrorKind};
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::sync::OnceLock;
use std::time::Duration;

use super::control::Control;
use super::env::{BaseEnv, TaskEnv};
use super::measures::{Measures, VARIABLE};
use super::mpi::{Launcher, MpiJob};
use super::oom::OomCounter;
use super::output::{Output, declared};
use super::signals::Signals;
use super::spawn::{Child, Plan, ensure_children_can_be_awaited, spawn};
use super::supervise::{Cause, Ended, Limits, Pipe, Supervisor};
use super::warden::{self, Warden};
use super::{ExecError, Fault, Seat, Site};
use crate::job::{Group, Task, Work};
use crate::model::Stream;
use crate::model::{Outcome, State};

/// Waits between attempts to start a process that the system refuses for the moment.
const PATIENCE: [Duration; 4] =
    [Duration::from_millis(1), Duration::from_millis(10), Duration::from_millis(100), Duration::from_millis(1000)];

thread_local! {
    /// Where output passes through on its way to the sink.
    static BUFFER: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// What running commands needs and all of them share.
pub(super) struct Commands {
    env: BaseEnv,
    null: File,
    oom: OomCounter,
    launcher: Launcher,
    measures: Measures,
    signals: Signals,
    /// By this our commands are known.
    mark: String,
    /// There once a command has been started; `None` if it could not be.
    warden: OnceLock<Option<Warden>>,
}

/// One attempt at a command.
pub(super) struct Attempt<'a> {
    pub(super) task: &'a Task,
    pub(super) group: &'a Group,
    pub(super) seat: &'a Seat<'a>,
    pub(super) site: &'a Site,
    pub(super) prologue: &'a [String],
    pub(super) control: &'a Control,
    pub(super) output: &'a Output<'a>,
}

impl Commands {
    pub(super) fn new(site: &Site, job_env: &[(String, String)]) -> Result<Commands, ExecError> {
        let system = |what| move |source| ExecError::System { what, source };
        let mark = warden::mark();
        ensure_children_can_be_awaited().map_err(system("to hear of the end of child processes"))?;
        Ok(Commands {
            env: BaseEnv::new(std::env::vars_os(), site, job_env, &mark)?,
            null: File::options().read(true).write(true).open("/dev/null").map_err(system("/dev/null"))?,
            oom: OomCounter::find(),
            launcher: Launcher::new(site.mpirun.clone()),
            measures: Measures::new(),
            signals: Signals::default(),
            mark,
            warden: OnceLock::new(),
        })
    }

    /// Signals that this process has got.
    pub(super) fn signals(&self) -> &Signals {
        &self.signals
    }

    /// Runs the command and waits for its end.
    pub(super) fn run(&self, attempt: &Attempt) -> Result<Outcome, Fault> {
        let mut env = self.env.of_task(attempt.task, attempt.group, attempt.seat)?;
        let (task, number) = (attempt.task.id, attempt.seat.attempt);
        if let Some(file) = self.measures.file(task, number) {
            env.set(VARIABLE, &file.to_string_lossy())?;
        }
        let words = self.words(attempt, &mut env)?;
        self.warden.get_or_init(|| self.watched());
        let (child, pipes) = self.start(attempt, &env, words)?;
        let limits = Limits { time: attempt.group.time, memory: attempt.group.memory, grace: attempt.site.grace };
        let ended = BUFFER.with_borrow_mut(|buffer| {
            Supervisor::new(child, pipes, limits, attempt.control, attempt.output, buffer).run()
        });
        let ended = ended.map_err(|e| Fault::new(format!("lost sight of the process: {e}")))?;
        attempt.output.account(ended.used);
        let measured = self.measures.collect(task, number);
        measured.values.iter().for_each(|(name, value)| attempt.output.measure(name, *value));
        measured.complaint.iter().for_each(|text| attempt.output.remark(text));
        Ok(self.judge(attempt, &ended))
    }

    /// Somebody to end the commands should this process be killed.
    fn watched(&self) -> Option<Warden> {
        let warden = Warden::start(&self.null, &self.mark);
        let complain = |error| tracing::warn!("if this rank is killed, its commands will go on: {error}");
        warden.map_err(complain).ok()
    }

    /// The words of the process that is to be started: the command with its launcher, its shell and the prologue around it.
    fn words(&self, attempt: &Attempt, env: &mut TaskEnv) -> Result<Vec<String>, Fault> {
        let &Attempt { task, group, seat, prologue, .. } = attempt;
        let words = match &task.work {
            Work::Command(words) => words.clone(),
            Work::Shell(line) if group.mpi.is_none() && !prologue.is_empty() => {
                // In one shell, so that the line sees functions that the prologue defines.
                return Ok(shell(format!("{}\nset +e\n{line}", strict(prologue))));
            }
            Work::Shell(line) => shell(line.clone()),
            Work::Kernel { name, .. } => return Err(Fault::new(format!("kernel `{name}` is not a command"))),
        };
        let Some(shape) = group.mpi else { return Ok(after_prologue(prologue, words)) };
        let job = MpiJob { shape, cpus_per_rank: group.cpus, seat, prologue };
        Ok(after_prologue(prologue, self.launcher.words(words, &job, env)?))
    }

    fn start(&self, attempt: &Attempt, env: &TaskEnv, words: Vec<String>) -> Result<(Child, Vec<Pipe>), Fault> {
        let task = attempt.task;
        let names = attempt.site.file_names(&task.name, task.index);
        let stdin = task.stdin.as_deref().map(|file| open_input(&task.dir, &names.fill(file))).transpose()?;
        let files = declared(&names, &task.dir, task.stdout.as_deref(), task.stderr.as_deref())?;
        let (mut pipes, mut writers) = (Vec::with_capacity(2), [None, None]);
        for (stream, file) in [Stream::Out, Stream::Err].into_iter().zip(&files) {
            if file.is_none() {
                let pipe = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC);
                let (reader, writer) = pipe.map_err(|e| Fault::new(format!("cannot make a pipe: {e}")))?;
                pipes.push(Pipe::new(stream, reader));
                writers[stream as usize] = Some(writer);
            }
        }
        let end = |stream: Stream| match (&files[stream as usize], &writers[stream as usize]) {
            (Some(file), _) => file.as_fd(),
            (None, writer) => writer.as_ref().map_or(self.null.as_fd(), |writer| writer.as_fd()),
        };
        let program = find_program(words.first().map_or("", String::as_str), &task.dir, env)?;
        let argv =
            words.into_iter().map(|word| c_string(word.as_bytes(), "an argument")).collect::<Result<Vec<_>, _>>()?;
        let program = c_string(program.as_os_str().as_bytes(), "the program's name")?;
        let dir = c_string(task.dir.as_os_str().as_bytes(), "the directory")?;
        let stdio = [stdin.as_ref().unwrap_or(&self.null).as_fd(), end(Stream::Out), end(Stream::Err)];
        let envp = env.entries().collect();
        let plan = Plan { program: &program, argv: &argv, envp, dir: &dir, stdio };
        let child = start_patiently(&plan).map_err(|e| refusal(&plan, &e))?;
        Ok((child, pipes))
    }

    /// What the end of the process means for the task.
    fn judge(&self, attempt: &Attempt, ended: &Ended) -> Outcome {
        let exit = exit_code(ended.status);
        let killed = exit == -libc::SIGKILL || exit == 128 + libc::SIGKILL;
        let state = match ended.cause {
            Some(Cause::Asked) => State::Cancelled,
            Some(Cause::Time) => {
                let limit = attempt.group.time.unwrap_or_default();
                attempt.output.remark(&format!("stopped at its time limit of {:?}", limit));
                State::Timeout
            }
            Some(Cause::Memory(bytes)) => {
                let (used, limit) = (mib(bytes), mib(attempt.group.memory.unwrap_or_default()));
                attempt.output.remark(&format!("killed: it held {used} of memory, and `memory` allows {limit}"));
                State::OutOfMemory
            }
            None if exit == 0 => State::Completed,
            None if killed && self.oom.claim() => {
                attempt.output.remark("killed by the system, which ran out of memory");
                State::OutOfMemory
            }
            None if self.signals.explain(exit) => {
                attempt.output.remark("ended by a signal to this node, not by a fault of its own: it is tried again");
                State::NodeFail
            }
            None => State::Failed,
        };
        Outcome { state, exit }
    }
}

/// Starts the process, with patience for what passes: too many processes, little memory, a program
/// that is just being written.
fn start_patiently(plan: &Plan) -> io::Result<Child> {
    let passing = [libc::EAGAIN, libc::ENOMEM, libc::ETXTBSY];
    let mut waits = PATIENCE.iter();
    loop {
        match spawn(plan) {
            Err(e) if e.raw_os_error().is_some_and(|code| passing.contains(&code)) => match waits.next() {
                Some(&wait) => std::thread::sleep(wait),
                None => return Err(e),
            },
            result => return result,
        }
    }
}

/// The words that run a script.
fn shell(script: String) -> Vec<String> {
    vec!["sh".to_owned(), "-c".to_owned(), script]
}

/// The words that run a command after the prologue, in the environment that it leaves; without one, the command itself.
pub(super) fn after_prologue(prologue: &[String], words: Vec<String>) -> Vec<String> {
    if prologue.is_empty() {
        return words;
    }
    let script = format!("{}\nexec \"$@\"", strict(prologue));
    shell(script).into_iter().chain(["sh".to_owned()]).chain(words).collect()
}

/// Lines of a shell of which the first that fails ends it.
fn strict(prologue: &[String]) -> String {
    format!("set -e\n{}", prologue.join("\n"))
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

fn c_string(bytes: &[u8], what: &str) -> Result<CString, Fault> {
    CString::new(bytes).map_err(|_| Fault::new(format!("{what} holds a NUL byte, which no process can be given")))
}

fn open_input(dir: &Path, file: &Path) -> Result<File, Fault> {
    let path = dir.join(file);
    File::open(&path).map_err(|e| Fault::new(format!("cannot read stdin from {}: {e}", path.display())))
}

/// Finds a program in the task's own `PATH`, as a shell would. A name with a slash starts from the task's directory.
fn find_program(name: &str, dir: &Path, env: &TaskEnv) -> Result<PathBuf, Fault> {
    if name.is_empty() {
        return Err(Fault { exit: 127, text: "the command is empty".to_owned() });
    }
    if name.contains('/') {
        return Ok(PathBuf::from(name));
    }
    let search = env.get("PATH").unwrap_or(b"/usr/local/bin:/usr/bin:/bin");
    let mut denied = None;
    for entry in std::env::split_paths(OsStr::from_bytes(search)) {
        let path = dir.join(entry).join(name);
        if !path.is_file() {
            continue;
        }
        if rustix::fs::access(&path, rustix::fs::Access::EXEC_OK).is_ok() {
            return Ok(path);
        }
        denied.get_or_insert(path);
    }
    Err(match denied {
        Some(path) => Fault { exit: 126, text: format!("{} is not executable (chmod +x?)", path.display()) },
        None => Fault {
            exit: 127,
            text: format!("program `{name}` not found in PATH ({})", String::from_utf8_lossy(search)),
        },
    })
}

/// Says in words why a process could not be started, with the exit code that a shell would give.
fn refusal(plan: &Plan, error: &io::Error) -> Fault {
    let dir = Path::new(OsStr::from_bytes(plan.dir.to_bytes()));
    let program = dir.join(OsStr::from_bytes(plan.program.to_bytes()));
    if let Err(e) = std::fs::read_dir(dir)
        && matches!(e.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory)
    {
        return Fault::new(format!("cannot enter the task's directory {}: {e}", dir.display()));
    }
    let program = program.display();
    match (error.kind(), error.raw_os_error()) {
        (ErrorKind::NotFound, _) => {
            let text = format!("program {program} not found (or the interpreter in its `#!` line is missing)");
            Fault { exit: 127, text }
        }
        (ErrorKind::PermissionDenied, _) => {
            let text = format!("not allowed to run {program} in {} (chmod +x?)", dir.display());
            Fault { exit: 126, text }
        }
        (_, Some(libc::ENOEXEC)) => {
            let text = format!("{program} is no program of this machine (a script needs a `#!` line)");
            Fault { exit: 126, text }
        }
        _ => Fault { exit: 126, text: format!("cannot start {program}: {error}") },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prologue_is_one_strict_script() {
        let words = vec!["prog".to_owned(), "arg".to_owned()];
        assert_eq!(after_prologue(&[], words.clone()), words);
        let prologue = ["module load x".to_owned(), "y=1".to_owned()];
        let script = "set -e\nmodule load x\ny=1\nexec \"$@\"";
        assert_eq!(after_prologue(&prologue, words), ["sh", "-c", script, "sh", "prog", "arg"]);
    }
}
