//! Tasks that failed, with the end of what they printed: what a person looks for first.

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

/// Lines of standard error that are shown of a failed task.
const LINES: usize = 10;
/// Bytes of it that are looked at.
const BYTES: usize = 16 << 10;

/// A task of the last session that failed for good, and its last attempt.
pub(super) struct TaskFailure<'a> {
    pub task: TaskId,
    pub session: &'a Session,
    pub attempt: &'a Attempt,
}

/// The failed tasks, the one that failed first before the others.
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

/// Describes a failed task and shows the end of its output.
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
    for tail in tails_of(run, failure)? {
        if let Some(heading) = tail.heading() {
            writeln!(out, "    {}", paint.dim(heading))?;
        }
        for line in tail.lines() {
            writeln!(out, "    {} {}", paint.dim("|"), printable(line))?;
        }
    }
    Ok(())
}

/// The end of what a failed task wrote to a stream.
pub(super) struct OutputTail {
    pub(super) stream: Stream,
    text: Vec<u8>,
    /// The file that it is in, if the job file gives it one of its own.
    own: Option<PathBuf>,
}

impl OutputTail {
    fn of(run: &RunView, failure: &TaskFailure<'_>, stream: Stream) -> Result<OutputTail, ReportError> {
        let TaskFailure { task, session, attempt } = failure;
        let own = own_file(run, *task, (session, attempt), stream);
        let text = match &own {
            Some(path) => run.probe.ask(path, tail_of_file).unwrap_or_default(),
            None => run.outputs.tail(session.began.session, attempt, stream, LINES, BYTES)?,
        };
        Ok(OutputTail { stream, text, own })
    }

    /// What stands above it: nothing over captured standard error, which is what one expects.
    pub(super) fn heading(&self) -> Option<String> {
        let name = if self.stream == Stream::Out { "standard output" } else { "standard error" };
        match &self.own {
            Some(path) => Some(format!("{name}: {}", path.display())),
            None => (self.stream == Stream::Out).then(|| format!("{name}:")),
        }
    }

    /// Its lines.
    pub(super) fn lines(&self) -> impl Iterator<Item = &[u8]> {
        let text = self.text.strip_suffix(b"\n").unwrap_or(&self.text);
        text.split(|&byte| byte == b'\n').filter(|_| !self.text.is_empty())
    }

    /// Its lines as one text that can be shown.
    pub(super) fn text(&self) -> String {
        self.lines().map(printable).collect::<Vec<_>>().join("\n").trim_end().to_owned()
    }

    fn is_short(&self) -> bool {
        self.lines().count() <= LINES / 2
    }
}

/// The ends of what a failed task wrote that are worth showing: of standard error, and of standard
/// output where that is empty or both are short. Many programs write their errors to standard
/// output. A file of the task's own is named even if nothing is in it.
pub(super) fn tails_of(run: &RunView, failure: &TaskFailure<'_>) -> Result<Vec<OutputTail>, ReportError> {
    let [out, err] = [OutputTail::of(run, failure, Stream::Out)?, OutputTail::of(run, failure, Stream::Err)?];
    let shows_out = err.text.is_empty() || (out.is_short() && err.is_short());
    let is_worth = |tail: &OutputTail| !tail.text.is_empty() || tail.own.is_some();
    let tails = [Some(out).filter(|_| shows_out), Some(err)];
    Ok(tails.into_iter().flatten().filter(is_worth).collect())
}

/// The file that a task's stream went to in an attempt, if the job file gives it one of its own.
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

/// The last lines of a file that may be gone: then there is nothing to show, and its path is named anyway.
fn tail_of_file(path: &Path) -> Vec<u8> {
    let read = || {
        // A FIFO or a device would be waited for, and has no end to show.
        let mut file = File::options().read(true).custom_flags(libc::O_NONBLOCK).open(path)?;
        let facts = file.metadata()?;
        if !facts.is_file() {
            return Ok(Vec::new());
        }
        let length = facts.len();
        file.seek(SeekFrom::Start(length.saturating_sub(BYTES as u64)))?;
        let mut bytes = Vec::new();
        file.take(BYTES as u64).read_to_end(&mut bytes)?;
        Ok::<_, std::io::Error>(last_lines(&bytes, LINES).to_vec())
    };
    read().unwrap_or_default()
}
