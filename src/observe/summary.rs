//! The summary that ends a run and begins a report: states of the tasks, use of the slots,
//! failures, and how to continue.

use std::collections::HashMap;
use std::io::Write;
use std::path::{Path, PathBuf};

use super::cache::CacheFigures;
use super::failures::{OutputTail, TaskFailure, failures, tails_of, write_failure};
use super::figures::{Figures, StateCounts, of_jobs};
use super::history_text::{before_text, unusual};
use super::print::ReportError;
use super::resume;
use super::run_view::{RunState, RunView, run_ns};
use super::skip_cause::skipped;
use super::slots::SlotFigures;
use super::staging::StagingFigures;
use super::style::{Paint, bytes, count, percent, signal};
use crate::journal::{EndReason, Level, Liveness, utc};
use crate::model::{Attempt, State};
use crate::text::{counted, counted_were, seconds};

/// Maximum number of kinds of failures shown with their output.
const MAX_FAILURES_SHOWN: usize = 5;
/// Failures that are compared with one another, which reads the end of their output.
const MAX_FAILURES_COMPARED: usize = 200;
/// Maximum number of groups of skipped tasks, and of names in each group.
const MAX_SKIPPED_GROUPS: usize = 5;
const MAX_NAMES_PER_GROUP: usize = 4;
/// What follows the name of a signal in the note about it.
pub const SIGNALLED: &str = ": the end is near";
/// Maximum number of notes shown.
const MAX_NOTES_SHOWN: usize = 10;
/// Maximum number of names of tasks that were ended with the run.
const MAX_STOPPED_SHOWN: usize = 8;

/// Writes the summary of a run.
pub fn write_summary(out: &mut dyn Write, run: &RunView, paint: Paint) -> Result<(), ReportError> {
    write_head(out, run, paint)?;
    write_figures(out, run, &Figures::of(run), paint)?;
    for text in unusual(run) {
        writeln!(out, "  {} {text}", paint.yellow("unusual:"))?;
    }
    write_notes(out, run, paint)?;
    write_failures(out, run, paint)?;
    write_skipped(out, run, paint)?;
    if let Some(command) = resume::command(run) {
        let title = if run.state() == RunState::Completed { "To run the rest:" } else { "To continue:" };
        writeln!(out, "\n{} {command}", paint.bold(title))?;
    }
    Ok(())
}

/// Writes the state of the run and its cause.
fn write_head(out: &mut dyn Write, run: &RunView, paint: Paint) -> Result<(), ReportError> {
    let state = run.state();
    let name = state.name();
    let painted = match state {
        RunState::Completed => paint.green(name),
        RunState::Running => paint.bold(name),
        RunState::Failed | RunState::Error | RunState::Interrupted => paint.red(name),
        RunState::Budget | RunState::Walltime | RunState::Cancelled => paint.yellow(name),
    };
    let simulated = run.session().terms.as_ref().is_some_and(|terms| terms.simulated.is_some());
    write!(out, "{} {painted}{}", paint.bold(run.name()), if simulated { " in simulation" } else { "" })?;
    match explanation(run) {
        Some(why) => writeln!(out, ": {why}")?,
        None => writeln!(out)?,
    }
    for warning in run.warnings() {
        writeln!(out, "{} {warning}", paint.yellow("warning:"))?;
    }
    Ok(())
}

/// Who asked for a cancellation that was carried out, and of which task (`None`: of the whole run),
/// if this is the text of such a note.
pub(super) fn cancellation(note: &str) -> Option<(&str, Option<&str>)> {
    let (by, order) = note.strip_prefix("asked by ")?.split_once(": cancel")?;
    let (name, _) = order.split_once(": done: ")?;
    Some((by, name.strip_prefix(' ')))
}

/// Why the run is in its state; `None` if the state says it all.
pub(super) fn explanation(run: &RunView) -> Option<String> {
    let reason = run.session().ended.as_ref().map(|ended| &ended.reason);
    Some(match (reason, &run.liveness) {
        (Some(EndReason::Complete), _) => return None,
        (Some(EndReason::Failures), _) => "all tasks that could run have ended".to_owned(),
        (Some(EndReason::MaxFailures), _) => "stopped because as many tasks failed as `max_failures` allows".to_owned(),
        (Some(EndReason::Budget), _) => "stopped because the budget is spent".to_owned(),
        (Some(EndReason::Walltime), _) => match ending_signal(run) {
            Some(name) => format!("stopped by {name}, as before the end of an allocation"),
            None => "stopped before the end of its allocation".to_owned(),
        },
        (Some(EndReason::Signal(number)), _) => match cancelled_by(run) {
            Some(by) => format!("cancelled by {by}"),
            None => format!("stopped by {}", signal(number.unsigned_abs())),
        },
        (Some(EndReason::Error(text)), _) => text.clone(),
        (None, Liveness::Alive(holder)) => holder.to_string(),
        (None, Liveness::Unknown(holder)) => format!("{holder}, if that process is still alive"),
        (None, Liveness::Gone) => {
            let heard = run.session().last_heard().seconds();
            format!(
                "it was killed, its machine went down or its journal could not be written; last record after {}",
                seconds(heard)
            )
        }
    })
}

/// The signal that announced the end of the last session, as its note names it.
fn ending_signal(run: &RunView) -> Option<&str> {
    run.session().notes.iter().find_map(|note| Some(note.text.split_once(SIGNALLED)?.0))
}

/// Who cancelled the last session.
fn cancelled_by(run: &RunView) -> Option<&str> {
    let orders = run.session().notes.iter().filter_map(|note| cancellation(&note.text));
    orders.filter(|(_, task)| task.is_none()).map(|(by, _)| by).next()
}

fn write_figures(out: &mut dyn Write, run: &RunView, figures: &Figures, paint: Paint) -> Result<(), ReportError> {
    let began = &run.session().began;
    let mut row = |name: &str, text: String| writeln!(out, "  {} {text}", paint.dim(format!("{name:<8}")));
    row("job", format!("{} ({})", run.subject().job.name(), began.job_path.display()))?;
    row("began", began_text(run))?;
    row("tasks", states_text(&figures.counts, figures.tasks.saturating_sub(figures.left_out), paint))?;
    for job in of_jobs(run) {
        let left_out = if job.left_out > 0 { format!(", {} left out", count(job.left_out)) } else { String::new() };
        let states = states_text(&job.tasks, job.task_count - job.left_out, paint);
        row("", format!("{}: {states}{left_out}", job.job))?;
    }
    if let Some(left_out) = &run.session().left_out {
        row("left out", format!("{} ({})", counted(left_out.count(), "task"), left_out.words))?;
    }
    if let Some(text) = stopped_text(run) {
        row("stopped", text)?;
    }
    row("time", time_text(figures))?;
    row("slots", slots_text(figures))?;
    if let Some(slots) = SlotFigures::of(run) {
        row("", slots.text())?;
    }
    row("nodes", node_hours_text(figures))?;
    if let Some(cost) = figures.cost {
        row("cost", cost_text(run, figures, cost))?;
    }
    if let Some(text) = deadline_text(run, figures) {
        row("deadline", text)?;
    }
    if figures.bytes_moved > 0 {
        row("moved", format!("{} between ranks", bytes(figures.bytes_moved)))?;
    }
    if let Some(cache) = CacheFigures::of(run) {
        row("cache", cache.text())?;
    }
    if let Some(staging) = StagingFigures::of(run) {
        row("staging", staging.text())?;
    }
    if let Some(text) = before_text(run) {
        row("earlier", text)?;
    }
    row("outputs", from_here(&run.dir.outputs()).display().to_string())?;
    Ok(())
}

/// A path relative to the current directory, if it lies below it.
fn from_here(path: &Path) -> PathBuf {
    let relative = std::env::current_dir().ok().and_then(|here| path.strip_prefix(here).ok().map(Path::to_owned));
    relative.unwrap_or_else(|| path.to_owned())
}

fn began_text(run: &RunView) -> String {
    let sessions = &run.replay.sessions;
    let began = utc(sessions[0].began.unix_ns);
    match sessions.len() {
        1 => began,
        n => format!("{began}, resumed {} times, last {}", n - 1, utc(run.session().began.unix_ns))
            .replace(" 1 times", " once"),
    }
}

fn states_text(counts: &StateCounts, tasks: u32, paint: Paint) -> String {
    let states: Vec<String> = counts
        .present()
        .map(|(state, n)| paint.state(state, format!("{} {}", count(n), state.name().to_lowercase().replace('_', " "))))
        .collect();
    match states.len() {
        0 => "none".to_owned(),
        1 => states[0].clone(),
        _ => format!("{}: {}", count(tasks), states.join(", ")),
    }
}

/// The tasks that were ended while they ran, because the budget or the allocation ended.
fn stopped_text(run: &RunView) -> Option<String> {
    let is_limited = matches!(run.state(), RunState::Budget | RunState::Walltime);
    let is_stopped =
        |attempt: &&Attempt| is_limited && attempt.outcome.state == State::Cancelled && run_ns(attempt) > 0;
    let stopped: Vec<&Attempt> = run.session().attempts.iter().filter(is_stopped).collect();
    let name = |attempt: &&Attempt| run.subject().job.label(attempt.task).to_string();
    let names: Vec<String> = stopped.iter().take(MAX_STOPPED_SHOWN).map(name).collect();
    let more = if stopped.len() > names.len() { ", ..." } else { "" };
    let what = counted_were(stopped.len() as u64, "running task");
    (!stopped.is_empty()).then(|| format!("{what} ended with the run: {}{more}", names.join(", ")))
}

fn time_text(figures: &Figures) -> String {
    let path = figures.critical_path_s.map(|s| format!(", critical path {}", seconds(s))).unwrap_or_default();
    format!("wall {}{path}, work {} over all slots", seconds(figures.wall_s), seconds(figures.work_s))
}

fn slots_text(figures: &Figures) -> String {
    let mut text = format!(
        "{}, {}, {}",
        counted(figures.slots, "slot"),
        counted(figures.ranks, "rank"),
        counted(figures.nodes, "node")
    );
    if let Some(used) = figures.utilisation {
        text += &format!(": {} used", percent(used));
    }
    if let Some(balance) = figures.balance.filter(|_| figures.ranks > 1) {
        text += &format!(", balance {balance:.2}");
    }
    text
}

/// The deadline, and whether the run kept it.
pub(super) fn deadline_text(run: &RunView, figures: &Figures) -> Option<String> {
    let deadline_s = figures.deadline_s?;
    let took_s = run.work_end_s();
    let how = match (figures.deadline_missed?, run.state()) {
        (true, RunState::Running) => format!("missed, {} ago", seconds(took_s - deadline_s)),
        (true, _) => format!("missed by {}", seconds(took_s - deadline_s)),
        (false, RunState::Running) => format!("in {}", seconds(deadline_s - took_s)),
        (false, RunState::Completed) => format!("kept, {} before it", seconds(deadline_s - took_s)),
        (false, _) => "not all tasks have completed".to_owned(),
    };
    Some(format!("{} after the start: {how}", seconds(deadline_s)))
}

fn node_hours_text(figures: &Figures) -> String {
    let hours = |seconds: f64| seconds / 3600.0;
    format!("{:.3} node-hours billed, {:.3} active", hours(figures.billed_node_s), hours(figures.active_node_s))
}

fn cost_text(run: &RunView, figures: &Figures, cost: f64) -> String {
    let mut text = format!("{cost:.4}");
    if let Some(budget) = figures.budget {
        text += &format!(" of {budget:.4}");
    }
    let completed = figures.counts.of(State::Completed);
    if completed > 0 {
        text += &format!(", {:.6} a task", cost / f64::from(completed));
    }
    let decisions: usize = run.replay.sessions.iter().map(|session| session.decisions.len()).sum();
    if decisions > 0 {
        text += &format!("; {}: phalanx explain {}", counted(decisions as u64, "decision"), run.name());
    }
    text
}

fn write_notes(out: &mut dyn Write, run: &RunView, paint: Paint) -> Result<(), ReportError> {
    let notes = run.session().notes.iter().filter(|note| note.level > Level::Info);
    for note in notes.take(MAX_NOTES_SHOWN) {
        let level = if note.level == Level::Error { paint.red("error:") } else { paint.yellow("warning:") };
        writeln!(out, "  {level} {} ({} after the start)", note.text, seconds(note.time.seconds()))?;
    }
    Ok(())
}

fn write_failures(out: &mut dyn Write, run: &RunView, paint: Paint) -> Result<(), ReportError> {
    let failures = failures(run);
    if failures.is_empty() {
        return Ok(());
    }
    writeln!(out, "\n{}", paint.bold("Failed"))?;
    let mut kinds = failure_kinds(run, &failures[..failures.len().min(MAX_FAILURES_COMPARED)])?;
    // Equal ones end in any order.
    kinds.iter_mut().for_each(|kind| kind.sort_by_key(|failure| failure.task));
    let shown = &kinds[..kinds.len().min(MAX_FAILURES_SHOWN)];
    for (first, others) in shown.iter().filter_map(|kind| kind.split_first()) {
        write_failure(out, run, first, paint)?;
        if !others.is_empty() {
            let job = &run.subject().job;
            let names: Vec<String> =
                others.iter().take(MAX_NAMES_PER_GROUP).map(|other| job.label(other.task).to_string()).collect();
            let more = others.len() - names.len();
            let more = if more > 0 { format!(" and {} more", count(more as u64)) } else { String::new() };
            writeln!(out, "    in the same way: {}{more}", names.join(", "))?;
        }
    }
    let more = failures.len() - shown.iter().map(Vec::len).sum::<usize>();
    if more > 0 {
        writeln!(out, "  and {} more: phalanx report {} --failed", count(more as u64), run.name())?;
    }
    Ok(())
}

/// Failures of the same class with the same end and, but for numbers, the same output, each kind at
/// the place of its first.
fn failure_kinds<'a, 'b>(
    run: &RunView,
    failures: &'a [TaskFailure<'b>],
) -> Result<Vec<Vec<&'a TaskFailure<'b>>>, ReportError> {
    let (mut kinds, mut places): (Vec<Vec<_>>, HashMap<_, usize>) = (Vec::new(), HashMap::new());
    for failure in failures {
        let TaskFailure { task, session, attempt } = failure;
        let tails = tails_of(run, failure)?;
        let mut text: String = tails.iter().map(OutputTail::text).collect();
        text.extend(session.reason(attempt));
        text.retain(|letter| !letter.is_ascii_digit());
        let kind = (run.subject().job.class(*task).to_owned(), attempt.outcome.state, attempt.outcome.exit, text);
        let place = *places.entry(kind).or_insert(kinds.len());
        match kinds.get_mut(place) {
            Some(same) => same.push(failure),
            None => kinds.push(vec![failure]),
        }
    }
    Ok(kinds)
}

fn write_skipped(out: &mut dyn Write, run: &RunView, paint: Paint) -> Result<(), ReportError> {
    let groups = skipped(run);
    if groups.is_empty() {
        return Ok(());
    }
    writeln!(out, "\n{}", paint.bold("Skipped"))?;
    let job = &run.subject().job;
    for group in groups.iter().take(MAX_SKIPPED_GROUPS) {
        let mut names: Vec<String> =
            group.tasks.iter().take(MAX_NAMES_PER_GROUP).map(|task| job.label(*task).to_string()).collect();
        if group.tasks.len() > MAX_NAMES_PER_GROUP {
            names.push(format!("and {} more", count((group.tasks.len() - MAX_NAMES_PER_GROUP) as u64)));
        }
        let ended = |task| run.replay.latest(task).map_or("did not run", |(_, attempt)| attempt.outcome.state.name());
        let why = match group.because_of {
            Some(task) => format!("{} {}", job.label(task), ended(task)),
            None => "their dependencies did not end as required".to_owned(),
        };
        writeln!(out, "  {} because {why}: {}", count(group.tasks.len() as u64), names.join(", "))?;
    }
    if groups.len() > MAX_SKIPPED_GROUPS {
        writeln!(out, "  and more, because of {} other tasks", count((groups.len() - MAX_SKIPPED_GROUPS) as u64))?;
    }
    Ok(())
}
