//! Output of a task that is running: what it has printed so far, and following it to its end.

use std::io::Write;
use std::time::Duration;

use super::print::ReportError;
use super::run_view::{Parse, RunState, RunView};
use super::style::Paint;
use super::tell;
use crate::control::{Question, ask};
use crate::job::KeepOutput;
use crate::journal::OutputFollower;
use crate::model::{Rank, Stream, TaskId};

/// Interval between two looks for further output.
const FOLLOW_INTERVAL: Duration = Duration::from_millis(200);

/// Where a task runs, as rank 0 knows it.
struct Whereabouts {
    rank: Rank,
    node: String,
}

/// Asks rank 0 where a task runs; `None` if it does not run, or rank 0 cannot be reached from here.
fn whereabouts(run: &RunView, label: &str) -> Option<Whereabouts> {
    let status = ask(run.dir.path(), &Question::Status).ok()?.status?;
    let task = status["running"].as_array()?.iter().find(|task| task["label"] == label)?;
    let rank = Rank(u32::try_from(task["rank"].as_u64()?).ok()?);
    Some(Whereabouts { rank, node: task["node"].as_str().unwrap_or("unknown").to_owned() })
}

/// Writes what a task of a live run has printed in attempts that have not ended.
pub(super) fn write_so_far(out: &mut dyn Write, run: &RunView, task: TaskId, paint: Paint) -> Result<(), ReportError> {
    if run.state() != RunState::Running {
        return Ok(());
    }
    let mut follower = OutputFollower::new(&run.dir, run.session().began.session, task);
    let texts = unfinished(run, task, &mut follower)?;
    let label = run.subject().job.label(task).to_string();
    if let Some(place) = whereabouts(run, &label) {
        writeln!(out, "  {}, on {} ({})", paint.bold("RUNNING"), place.node, place.rank)?;
        if let Some(why) = unreadable(run, task, &follower, &place) {
            writeln!(out, "    {why}")?;
        }
    }
    for (name, text) in ["standard output", "standard error"].into_iter().zip(texts) {
        if !text.is_empty() {
            writeln!(out, "\n{} so far", paint.bold(name))?;
            out.write_all(&text)?;
        }
    }
    Ok(())
}

/// What a task has printed in attempts that have not ended: standard output, standard error.
pub(super) fn printed_so_far(run: &RunView, task: TaskId) -> Result<[Vec<u8>; 2], ReportError> {
    let mut follower = OutputFollower::new(&run.dir, run.session().began.session, task);
    unfinished(run, task, &mut follower)
}

fn unfinished(run: &RunView, task: TaskId, follower: &mut OutputFollower) -> Result<[Vec<u8>; 2], ReportError> {
    let session = run.session();
    let has_ended = |attempt: u16| session.attempts.iter().any(|a| a.task == task && a.attempt == attempt);
    let mut texts: [Vec<u8>; 2] = [Vec::new(), Vec::new()];
    follower.read_on(&mut |attempt, stream, text| {
        if !has_ended(attempt) {
            texts[stream as usize].extend_from_slice(text);
        }
    })?;
    Ok(texts)
}

/// Why the output of a running task cannot be read here, and where it is.
fn unreadable(run: &RunView, task: TaskId, follower: &OutputFollower, place: &Whereabouts) -> Option<String> {
    let job = &run.subject().job;
    if job.whole().is_some_and(|job| job.output == KeepOutput::Failed) {
        return Some("its output can be read when it has failed: the job has `output = \"failed\"`".to_owned());
    }
    if let Some(file) = job.describe(task).and_then(|task| Some(task.dir.join(task.stdout?))) {
        return Some(format!("its standard output goes to {}", file.display()));
    }
    let file = follower.file_of(place.rank);
    (!file.exists())
        .then(|| format!("its output cannot be reached from here: it is on {}, in {}", place.node, file.display()))
}

/// Writes what a task prints until it has ended, from the beginning: its standard output to `out`,
/// its standard error to `err`. Returns at once for a task that has ended.
///
/// # Errors
/// If there is no such task, or several, or something cannot be read or written.
pub fn follow_task(
    out: &mut dyn Write,
    err: &mut dyn Write,
    run: &mut RunView,
    parse: Parse<'_>,
    wanted: &str,
) -> Result<(), ReportError> {
    let session = run.session().began.session;
    let task = match run.find(wanted)?[..] {
        [task] => task,
        ref tasks => {
            let (first, count) = (run.subject().job.label(tasks[0]).to_string(), tasks.len());
            return Err(ReportError::NoSuchTask(format!("`{wanted}` is {count} tasks; follow one, such as {first}")));
        }
    };
    let label = run.subject().job.label(task).to_string();
    let mut follower = OutputFollower::new(&run.dir, session, task);
    let (mut is_announced, mut is_waiting) = (false, false);
    loop {
        run.refresh(parse)?;
        // First, as a task prints before its end is recorded.
        let last = run.replay.latest(task).filter(|(_, attempt)| attempt.last);
        let is_over = last.is_some() || run.state() != RunState::Running || run.session().began.session != session;
        let mut written = Ok(());
        follower.read_on(&mut |_, stream, text| {
            is_announced = true;
            if written.is_ok() {
                written = match stream {
                    Stream::Out => out.write_all(text).and_then(|()| out.flush()),
                    Stream::Err => err.write_all(text),
                };
            }
        })?;
        written?;
        if is_over {
            let state = last.map_or("has not ended, but its run has".to_owned(), |(_, a)| a.outcome.state.to_string());
            tell(&format!("{label}: {state}"));
            return Ok(());
        }
        if !is_announced && let Some(place) = whereabouts(run, &label) {
            is_announced = true;
            if let Some(why) = unreadable(run, task, &follower, &place) {
                tell(&format!("{label}: {why}"));
            }
        }
        if !is_announced && !is_waiting {
            is_waiting = true;
            tell(&format!("{label}: waiting for its first output"));
        }
        std::thread::sleep(FOLLOW_INTERVAL);
    }
}
