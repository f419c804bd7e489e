//! Prints why tasks are in their states.

use std::io::Write;

use serde::Serialize;

use super::{ClassFacts, Explainer, LEFT_OUT, LiveTasks, TaskExplanation};
use crate::model::{State, TaskId};
use crate::observe::print::ReportError;
use crate::observe::run_view::RunView;
use crate::observe::style::{Paint, bytes, count};
use crate::text::{counted, seconds};

/// Tasks explained one by one; of larger families the others are counted by state.
const MAX_SHOWN: usize = 20;

/// Tasks explained in JSON.
const MAX_JSON: usize = 1000;

/// Writes why each task of a name is in its state. `live`: what rank 0 says of a live run.
///
/// # Errors
/// If the job has no such task, or the output cannot be written.
pub fn write_task_reasons(
    out: &mut dyn Write,
    run: &RunView,
    live: Option<&LiveTasks>,
    wanted: &str,
    paint: Paint,
) -> Result<(), ReportError> {
    let explainer = Explainer::new(run, live);
    let tasks = run.find(wanted)?;
    let (shown, rest) = tasks.split_at(tasks.len().min(MAX_SHOWN));
    for &task in shown {
        write_one(out, &explainer.explain(task), explainer.now_s(), paint)?;
    }
    if !rest.is_empty() {
        writeln!(out, "and {}", states_text(&explainer, rest))?;
    }
    Ok(())
}

/// Writes the same as JSON.
///
/// # Errors
/// As [`write_task_reasons`].
pub fn write_task_reasons_json(
    out: &mut dyn Write,
    run: &RunView,
    live: Option<&LiveTasks>,
    wanted: &str,
) -> Result<(), ReportError> {
    #[derive(Serialize)]
    struct Explained {
        run: String,
        /// Time of the answer on the clock of the run.
        time_s: f64,
        tasks: Vec<TaskExplanation>,
        /// Tasks of the name that are not listed.
        more: usize,
    }
    let explainer = Explainer::new(run, live);
    let tasks = run.find(wanted)?;
    let explained = Explained {
        run: run.dir.path().display().to_string(),
        time_s: explainer.now_s(),
        tasks: tasks.iter().take(MAX_JSON).map(|&task| explainer.explain(task)).collect(),
        more: tasks.len().saturating_sub(MAX_JSON),
    };
    serde_json::to_writer_pretty(&mut *out, &explained).map_err(ReportError::Json)?;
    Ok(writeln!(out)?)
}

/// `1,204 more: 1,200 PENDING, 4 READY`
fn states_text(explainer: &Explainer<'_>, tasks: &[TaskId]) -> String {
    let mut counts = [0u64; State::ALL.len()];
    let mut left_out = 0u64;
    for &task in tasks {
        if explainer.left_out(task).is_some() && explainer.final_state(task).is_none() {
            left_out += 1;
            continue;
        }
        let state = explainer.state(task);
        if let Some(at) = State::ALL.iter().position(|other| *other == state) {
            counts[at] += 1;
        }
    }
    let present = State::ALL.iter().zip(counts).filter(|(_, n)| *n > 0);
    let mut named: Vec<String> = present.map(|(state, n)| format!("{} {state}", count(n))).collect();
    named.extend((left_out > 0).then(|| format!("{} {LEFT_OUT}", count(left_out))));
    format!("{} more: {}", count(tasks.len() as u64), named.join(", "))
}

fn write_one(out: &mut dyn Write, known: &TaskExplanation, now_s: f64, paint: Paint) -> Result<(), ReportError> {
    // What is left out has no state of its own.
    let state = State::ALL.into_iter().find(|state| state.name() == known.state).unwrap_or(State::Skipped);
    let is_open = matches!(state, State::Pending | State::Ready | State::Running);
    let since = match known.since_s {
        Some(s) if is_open => format!(" for {}", seconds((now_s - s).max(0.0))),
        Some(s) => format!(" after {}", seconds(s)),
        None => String::new(),
    };
    let values = known.values.as_ref().map(|values| format!(" ({values})")).unwrap_or_default();
    writeln!(out, "{}{values}: {}{since}", paint.bold(&known.label), paint.state(state, known.state))?;
    for reason in &known.reasons {
        writeln!(out, "    {}", reason.text())?;
    }
    if let Some(text) = place_text(known, state) {
        writeln!(out, "    {text}")?;
    }
    if let Some(expected) = &known.expected {
        let when = if expected.in_s < 0.05 { "now".to_owned() } else { format!("in about {}", seconds(expected.in_s)) };
        writeln!(out, "    expected to {} {when} ({})", expected.what, expected.from)?;
    }
    for line in known.output.iter().flat_map(|text| text.lines()) {
        writeln!(out, "    {} {line}", paint.dim("|"))?;
    }
    Ok(())
}

/// Where and how long its last attempt ran, and how that compares with its class.
fn place_text(known: &TaskExplanation, state: State) -> Option<String> {
    let place = known.place.as_ref()?;
    let attempt = if place.attempt > 1 { format!("attempt {} ", place.attempt) } else { String::new() };
    let slot = place.slot.map(|slot| format!(", slot {slot}")).unwrap_or_default();
    let took = known.took_s.map(seconds).unwrap_or_default();
    let at = format!("on {} (rank {}{slot})", place.node, place.rank);
    let mut text = match state {
        State::Running => format!("{attempt}runs {at} for {took}"),
        _ => format!("{attempt}ran {at} for {took}"),
    };
    if let Some(class) = &known.class {
        text += &format!("; {}", class_text(class, state));
    }
    if let Some(used) = &known.used {
        text += &format!("; {} of CPU time", seconds(used.cpu_s));
        text += &used.peak_bytes.map_or(String::new(), |peak| format!(", {} of memory at most", bytes(peak)));
    }
    Some(text)
}

fn class_text(class: &ClassFacts, state: State) -> String {
    let ClassFacts { name, completed, median_s, at_most, .. } = class;
    // A completed task is one of them.
    let (others, at_most) = match state {
        State::Completed => (completed.saturating_sub(1), at_most.saturating_sub(1)),
        _ => (*completed, *at_most),
    };
    if others == 0 {
        return format!("no other task of `{name}` has completed");
    }
    let longer = others.saturating_sub(at_most);
    format!("{} of {} of `{name}` took longer, median {}", longer, counted(others, "other task"), seconds(*median_s))
}
