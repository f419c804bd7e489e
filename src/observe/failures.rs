//! Failed tasks with the end of their output.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use super::print::ReportError;
use super::run_view::{RunView, node_of, run_ns};
use super::style::{Paint, outcome, printable};
use crate::job::FileNames;
use crate::journal::{Session, last_lines};
use crate::model::Stream;
use crate::model::{Attempt, TaskId};
use crate::text::seconds;

/// Lines of standard error shown per failed task.
const TAIL_LINES: usize = 10;
/// Bytes read from the end of a stream to find these lines.
const TAIL_BYTES: usize = 16 << 10;

/// A task of the last session that failed for good, with its last attempt.
pub(super) struct TaskFailure<'a> {
    pub task: TaskId,
    pub session: &'a Session,
    pub attempt: &'a Attempt,
}

/// The failed tasks, in order of their failure.
pub(super) fn failures(run: &RunView) -> Vec<TaskFailure<'_>> {
    let tasks = run.subject().job.task_count();
    let failed = run
        .replay
        .all_latest()
        .filter(|(task, _, attempt)| task.0 < tasks && attempt.last && attempt.outcome.state.is_failure());
    let mut failures: Vec<_> = failed.map(|(task, session, attempt)| TaskFailure { task, session, attempt }).collect();
    failures.sort_by_key(|failure| (run.on_run_clock(failure.session, failure.attempt.end), failure.task));
    failures
}

/// Writes the description of a failed task and the end of its output.
pub(super) fn write_failure(
    out: &mut dyn Write,
    run: &RunView,
    failure: &TaskFailure<'_>,
    paint: Paint,
) -> Result<(), ReportError> {
    let TaskFailure { task, session, attempt } = failure;
    let label = run.subject().job.label(*task);
    let how = paint.state(attempt.outcome.state, outcome(attempt.outcome));
    let tries = if attempt.attempt > 1 { format!(", attempt {}", attempt.attempt) } else { String::new() };
    let node = node_of(session, attempt.rank);
    writeln!(out, "  {label}: {how}{tries}, on {node} after {}", seconds(run_ns(attempt) as f64 / 1e9))?;
    if let Some(reason) = session.reason(attempt) {
        writeln!(out, "    {} {}", paint.yellow("reason:"), printable(reason.as_bytes()))?;
    }
    let tails = tails_of(run, failure)?;
    for tail in &tails {
        if let Some(heading) = tail.heading() {
            writeln!(out, "    {}", paint.dim(heading))?;
        }
        for line in tail.lines() {
            writeln!(out, "    {} {}", paint.dim("|"), printable(line))?;
        }
    }
    let mut text: String = tails.iter().map(OutputTail::text).collect();
    text.extend(session.reason(attempt));
    if let Some(recipe) = recipe(attempt.outcome.exit, &text) {
        writeln!(out, "    {} {recipe}", paint.yellow("hint:"))?;
    }
    Ok(())
}

/// What helps with a message that meets people whose commands need bash, modules, conda or
/// containers; all of it is in docs/recipes.md.
pub(super) fn recipe(exit: i32, text: &str) -> Option<&'static str> {
    const RECIPES: [(&[&str], &str); 4] = [
        (
            &["module: not found", "module: command not found", "ml: not found", "ml: command not found"],
            "`module` is a function of login shells, see Modules in docs/recipes.md",
        ),
        (
            &["conda init", "mamba shell init", "conda: not found", "conda: command not found", "mamba: not found"],
            "`conda activate` needs conda's own lines of shell, see Conda in docs/recipes.md",
        ),
        (
            &[
                "source: not found",
                "[[: not found",
                "Bad substitution",
                "Illegal option -o pipefail",
                "Syntax error: \"(\"",
            ],
            "this is bash, and `sh` is another shell here, see Bash in docs/recipes.md",
        ),
        (
            &[
                "apptainer: not found",
                "singularity: not found",
                "docker: not found",
                "podman: not found",
                "docker daemon",
                "no program in PATH runs the image",
            ],
            "see docs/containers.md",
        ),
    ];
    let known = RECIPES.iter().find(|(messages, _)| messages.iter().any(|message| text.contains(message)));
    match known {
        Some((_, recipe)) => Some(recipe),
        // Phalanx has found out why, and says so.
        None if ["Windows line ends", "the interpreter `", "needs a loader", "chmod +x"]
            .iter()
            .any(|it| text.contains(it)) =>
        {
            None
        }
        None if exit == 126 && ["ermission denied", "not executable"].iter().any(|it| text.contains(it)) => {
            Some("a file that the command runs is not executable: `chmod +x FILE`")
        }
        None if text.contains("bad interpreter") || (exit == 127 && names_missing_path(text)) => Some(
            "a program that the command names by path is not there, or its first line (`#!`) names one that is not \
             there; with Windows line ends no interpreter is found (`dos2unix FILE`)",
        ),
        None if exit == 127 && text.contains("not found") => Some(
            "a program of the command is not on the PATH of the node, see Programs that are not found in docs/recipes.md",
        ),
        None => None,
    }
}

/// True if a shell says of something with a slash in its name that it is not found.
fn names_missing_path(text: &str) -> bool {
    const MESSAGES: [&str; 4] = [
        ": not found",
        ": command not found",
        ": No such file or directory",
        ": cannot execute: required file not found",
    ];
    let named = |line: &str| {
        let name = MESSAGES.iter().find_map(|message| line.trim_end().strip_suffix(message))?;
        name.rsplit([':', ' ']).next().map(|name| name.contains('/'))
    };
    text.lines().filter_map(named).any(|is_path| is_path)
}

/// The end of an output stream of a failed task.
pub(super) struct OutputTail {
    pub(super) stream: Stream,
    text: Vec<u8>,
    /// The file of the stream, if the job file redirects it.
    pub(super) own: Option<PathBuf>,
    /// No other stream is shown.
    is_alone: bool,
}

impl OutputTail {
    fn of(run: &RunView, failure: &TaskFailure<'_>, stream: Stream) -> Result<OutputTail, ReportError> {
        let TaskFailure { task, session, attempt } = failure;
        let own = own_file(run, *task, (session, attempt), stream);
        let text = match &own {
            Some(path) => run.probe.ask(path, tail_of_file).unwrap_or_default(),
            None => run.outputs.tail(session.began.session, attempt, stream, TAIL_LINES, TAIL_BYTES)?,
        };
        Ok(OutputTail { stream, text, own, is_alone: true })
    }

    /// Heading of the output; `None` for captured standard error alone, the usual case.
    pub(super) fn heading(&self) -> Option<String> {
        let name = if self.stream == Stream::Out { "standard output" } else { "standard error" };
        match &self.own {
            Some(path) => Some(format!("{name}: {}", path.display())),
            None => (self.stream == Stream::Out || !self.is_alone).then(|| format!("{name}:")),
        }
    }

    /// The lines.
    pub(super) fn lines(&self) -> impl Iterator<Item = &[u8]> {
        let text = self.text.strip_suffix(b"\n").unwrap_or(&self.text);
        text.split(|&byte| byte == b'\n').filter(|_| !self.text.is_empty())
    }

    /// The lines as one printable text.
    pub(super) fn text(&self) -> String {
        self.lines().map(printable).collect::<Vec<_>>().join("\n").trim_end().to_owned()
    }

    fn is_short(&self) -> bool {
        self.lines().count() <= TAIL_LINES / 2
    }
}

/// The output to show for a failed task: standard error, and also standard output if standard error
/// is empty or both are short, because many programs print errors there. A redirected stream is
/// listed even if its file is empty.
pub(super) fn tails_of(run: &RunView, failure: &TaskFailure<'_>) -> Result<Vec<OutputTail>, ReportError> {
    let [out, err] = [OutputTail::of(run, failure, Stream::Out)?, OutputTail::of(run, failure, Stream::Err)?];
    let shows_out = err.text.is_empty() || (out.is_short() && err.is_short());
    let is_worth = |tail: &OutputTail| !tail.text.is_empty() || tail.own.is_some();
    let tails = [Some(out).filter(|_| shows_out), Some(err)];
    let mut tails: Vec<OutputTail> = tails.into_iter().flatten().filter(is_worth).collect();
    let is_alone = tails.len() == 1;
    tails.iter_mut().for_each(|tail| tail.is_alone = is_alone);
    Ok(tails)
}

/// The file that received a stream of an attempt, if the job file redirects it.
pub(super) fn own_file(run: &RunView, task: TaskId, at: (&Session, &Attempt), stream: Stream) -> Option<PathBuf> {
    let (session, attempt) = at;
    let task = run.subject().job.describe(task)?;
    let file = match stream {
        Stream::Out => task.stdout,
        Stream::Err => task.stderr,
    };
    let names = FileNames {
        run: &run.dir.name(),
        node: node_of(session, attempt.rank),
        rank: attempt.rank.0,
        task: &task.name,
        index: task.index,
    };
    file.map(|pattern| task.dir.join(names.fill(&pattern)))
}

/// The last lines of a file; empty if it cannot be read, since its path is shown anyway.
fn tail_of_file(path: &Path) -> Vec<u8> {
    let read = || {
        // Opening a FIFO would block, and a device has no end.
        let mut file = File::options().read(true).custom_flags(libc::O_NONBLOCK).open(path)?;
        let facts = file.metadata()?;
        if !facts.is_file() {
            return Ok(Vec::new());
        }
        let length = facts.len();
        file.seek(SeekFrom::Start(length.saturating_sub(TAIL_BYTES as u64)))?;
        let mut bytes = Vec::new();
        file.take(TAIL_BYTES as u64).read_to_end(&mut bytes)?;
        Ok::<_, std::io::Error>(last_lines(&bytes, TAIL_LINES).to_vec())
    };
    read().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_that_meet_people_name_their_recipe() {
        for (text, page) in [
            ("sh: 1: module: not found", "Modules"),
            ("CondaError: Run 'conda init' before 'conda activate'", "Conda"),
            ("sh: 1: source: not found", "Bash"),
            ("/bin/sh: 3: Syntax error: \"(\" unexpected", "Bash"),
            ("sh: 1: apptainer: not found", "containers.md"),
            ("sh: 1: samtools: not found", "Programs"),
        ] {
            assert!(recipe(127, text).is_some_and(|recipe| recipe.contains(page)), "{text}");
        }
        assert_eq!((recipe(1, "file not found"), recipe(127, "")), (None, None));
        for text in [
            "sh: 1: scripts/al2.sh: not found",
            "bash: line 1: scripts/al2.sh: cannot execute: required file not found",
            "bash: ./x.sh: /bin/sh^M: bad interpreter: No such file or directory",
        ] {
            let said = recipe(127, text).unwrap_or_default();
            assert!(said.contains("dos2unix") && !said.contains("PATH"), "{text}: {said}");
        }
        assert_eq!(recipe(127, "/w/x.sh has Windows line ends, so its interpreter `/bin/sh` is not found"), None);
        assert!(recipe(126, "sh: 1: scripts/a.sh: Permission denied").is_some_and(|said| said.contains("chmod +x")));
        assert_eq!(recipe(126, "not allowed to run ./a in /w (chmod +x?)"), None);
    }
}
