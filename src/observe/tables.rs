//! Tables with one line per attempt, written while they are read, in constant memory.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::io::Write;

use rustc_hash::FxHashMap;

use super::cache::{by_attempt_of_session, short_text};
use super::job_view::JobView;
use super::measures::by_task;
use super::print::ReportError;
use super::report::command;
use super::run_view::{RunView, node_of, run_ns};
use crate::job::TaskLimits;
use crate::journal::Session;
use crate::model::{Attempt, Shortfalls, State, Stream, TaskId};

/// Writes the attempts as CSV (RFC 4180 without the carriage returns), with the columns of
/// `TASK_COLUMNS`.
///
/// Times are seconds since the first session began. A task that never ran has attempt 0 and no
/// rank, node and slot; so has a task whose own end was not recorded before the run was killed, and
/// which is known to have completed because a task that depends on it has. The reason says why
/// Phalanx failed the attempt, where it did. Attempts of each session are numbered from 1. Of a
/// task that uses the result cache, `cache` says where its result came from, or why it ran.
/// `memory_mb` and `time_limit_s` are what the attempt asked for.
pub fn write_tasks(out: &mut dyn Write, run: &RunView) -> Result<(), ReportError> {
    writeln!(out, "{TASK_COLUMNS}")?;
    for (session, subject) in run.sessions() {
        let cache = by_attempt_of_session(run, session);
        let mut asked = AskedLimits::of(session);
        for attempt in &session.attempts {
            let used = cache.get(&(attempt.task, attempt.attempt)).map(short_text).unwrap_or_default();
            let limits = asked.next(&*subject.job, attempt);
            write_row(out, run, session, (&*subject.job, attempt), (&used, limits))?;
        }
    }
    Ok(())
}

/// The columns of [`write_tasks`].
pub const TASK_COLUMNS: &str =
    "name,index,attempt,state,exit,rank,node,slot,ready,start,end,reason,session,cache,memory_mb,time_limit_s";

/// What the attempts of a session asked for, in the order in which they are recorded.
struct AskedLimits {
    most: u64,
    short: FxHashMap<TaskId, Shortfalls>,
}

impl AskedLimits {
    fn of(session: &Session) -> AskedLimits {
        AskedLimits { most: session.requests.most, short: session.requests.short.iter().copied().collect() }
    }

    fn next(&mut self, job: &dyn JobView, attempt: &Attempt) -> TaskLimits {
        let short = self.short.get(&attempt.task).copied().unwrap_or_default();
        if attempt.outcome.state.falls_short() {
            self.short.insert(attempt.task, short.after(attempt.outcome.state));
        }
        let group = job.group(attempt.task).filter(|_| attempt.attempt > 0);
        group.map(|group| group.limits(short, self.most)).unwrap_or_default()
    }
}

fn write_row(
    out: &mut dyn Write,
    run: &RunView,
    session: &Session,
    (job, attempt): (&dyn JobView, &Attempt),
    (cache, limits): (&str, TaskLimits),
) -> Result<(), ReportError> {
    let label = job.label(attempt.task);
    write!(out, "{},", cell(label.name))?;
    if let Some(index) = label.index {
        write!(out, "{index}")?;
    }
    let has_run = attempt.outcome.state != State::Skipped;
    let exit = if has_run { attempt.outcome.exit.to_string() } else { String::new() };
    write!(out, ",{},{},{exit},", attempt.attempt, attempt.outcome.state)?;
    if attempt.attempt == 0 {
        write!(out, ",,")?;
    } else {
        write!(out, "{},{},{}", attempt.rank.0, cell(node_of(session, attempt.rank)), attempt.slot)?;
    }
    for time in [attempt.ready, attempt.start, attempt.end] {
        let ns = run.on_run_clock(session, time);
        write!(out, ",{}.{:09}", ns / 1_000_000_000, ns % 1_000_000_000)?;
    }
    let reason = cell(session.reason(attempt).unwrap_or_default());
    write!(out, ",{reason},{},{},", session.began.session, cell(cache))?;
    if let Some(bytes) = limits.memory {
        write!(out, "{}", bytes.div_ceil(1 << 20))?;
    }
    match limits.time {
        Some(time) => writeln!(out, ",{}", time.as_secs_f64())?,
        None => writeln!(out, ",")?,
    }
    Ok(())
}

/// Writes what tasks measured as CSV: a row per completed task that wrote values to
/// `$PHALANX_METRICS`, with its name, its index, its values along the axes of all matrices, and a
/// column per name of a value. A name that is also an axis gets the prefix `metric.`. The values
/// are those of the attempt that completed.
pub fn write_values(out: &mut dyn Write, run: &RunView) -> Result<(), ReportError> {
    let job = &*run.subject().job;
    let rows = by_task(run);
    let mut axes: Vec<&str> = Vec::new();
    for (axis, _) in rows.keys().flat_map(|task| job.axis_values(*task)) {
        if !axes.contains(&axis) {
            axes.push(axis);
        }
    }
    let names: BTreeSet<&str> = rows.values().flat_map(|values| values.keys().map(String::as_str)).collect();
    write!(out, "name,index")?;
    axes.iter().try_for_each(|axis| write!(out, ",{}", cell(axis)))?;
    for name in &names {
        let prefix = if axes.contains(name) || ["name", "index"].contains(name) { "metric." } else { "" };
        write!(out, ",{prefix}{}", cell(name))?;
    }
    writeln!(out)?;
    for (task, values) in &rows {
        let label = job.label(*task);
        let index = label.index.map_or(String::new(), |index| index.to_string());
        write!(out, "{},{index}", cell(label.name))?;
        let own = job.axis_values(*task);
        for axis in &axes {
            let value = own.iter().find(|(name, _)| name == axis).map_or("", |(_, value)| value);
            write!(out, ",{}", cell(value))?;
        }
        for name in &names {
            let value = values.get(*name).map_or(String::new(), |value| value.to_string());
            write!(out, ",{value}")?;
        }
        writeln!(out)?;
    }
    Ok(())
}

/// A CSV cell, quoted if necessary.
fn cell(text: &str) -> Cow<'_, str> {
    if text.contains([',', '"', '\n', '\r']) {
        Cow::Owned(format!("\"{}\"", text.replace('"', "\"\"")))
    } else {
        Cow::Borrowed(text)
    }
}

/// Writes a job log in the format of GNU parallel. `Seq` is the number of the task in the job file,
/// from 1. It has no line for a task that was cancelled before it ran.
pub fn write_joblog(out: &mut dyn Write, run: &RunView) -> Result<(), ReportError> {
    writeln!(out, "Seq\tHost\tStarttime\tJobRuntime\tSend\tReceive\tExitval\tSignal\tCommand")?;
    for (session, subject) in run.sessions() {
        let has_run = |attempt: &&Attempt| {
            let is_withdrawn = attempt.outcome.state == State::Cancelled && attempt.start == attempt.end;
            attempt.attempt > 0 && !is_withdrawn
        };
        for attempt in session.attempts.iter().filter(has_run) {
            let (exit, signal) = match attempt.outcome.exit {
                // Readers take 0 and 0 for success; what was ended counts as killed by TERM.
                0 if !attempt.outcome.ok() => (0, libc::SIGTERM.unsigned_abs()),
                exit if exit < 0 => (0, exit.unsigned_abs()),
                exit => (exit, 0),
            };
            let received = run.outputs.length(session.began.session, attempt, Stream::Out)?;
            let described = subject.job.describe(attempt.task).map(|task| command(&task.work));
            let text = described.unwrap_or_else(|| subject.job.label(attempt.task).to_string());
            let start_ms = session.began.unix_ns.saturating_add(attempt.start.0) / 1_000_000;
            writeln!(
                out,
                "{}\t{}\t{}.{:03}\t{:>10.3}\t0\t{received}\t{exit}\t{signal}\t{}",
                u64::from(attempt.task.0) + 1,
                node_of(session, attempt.rank),
                start_ms / 1000,
                start_ms % 1000,
                run_ns(attempt) as f64 / 1e9,
                // GNU parallel does the same, so that a multi-line command stays on one line.
                text.replace('\n', "\0"),
            )?;
        }
    }
    Ok(())
}
