//! `phalanx report`: the views of a run other than its summary.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::PathBuf;

use serde::Serialize;

use super::cache::{CacheFigures, by_attempt_of_session, texts_of, write_cache};
use super::failures::{OutputTail, TaskFailure, failures, own_file, tails_of, write_failure};
use super::figures::{Figures, JobFigures, StateCounts, of_jobs};
use super::latency::{ClassLatency, classes};
use super::live_output::write_so_far;
use super::measures::{Figure, MeasureReader};
use super::node_types::{self, TypeUse};
use super::nodes::{NodeUse, uses};
use super::pools::{PoolUse, pools};
use super::print::ReportError;
use super::resume;
use super::run_view::{RunView, node_of, run_ns};
use super::skip_cause::SkipCauses;
use super::slots::SlotFigures;
use super::staging::{self, StagingFigures};
use super::standing::Standing;
use super::style::{LISTED, Paint, and_more, count, outcome, percent, value};
use super::summary::write_summary;
use super::timeline::Timeline;
use crate::job::{Job, OPERATION_KERNEL, Work};
use crate::journal::{PastRuns, Session, utc};
use crate::model::{Attempt, State, Stream, TaskId};
use crate::scale::Decision;
use crate::scale::estimate::Anomaly;
use crate::text::seconds;

pub use super::tables::{write_joblog, write_tasks, write_values};

/// Number of slowest tasks listed.
const MAX_SLOWEST_SHOWN: usize = 10;

/// Maximum number of failures in `--json`.
const MAX_JSON_FAILURES: usize = 100;

/// Maximum number of nodes listed.
const MAX_NODES_SHOWN: usize = 20;

/// Writes the summary, the slowest tasks, and tables of task classes, measured values and nodes.
pub fn write_report(out: &mut dyn Write, run: &RunView, paint: Paint) -> Result<(), ReportError> {
    write_summary(out, run, paint)?;
    write_slowest(out, run, paint)?;
    write_classes(out, run, paint)?;
    write_cache(out, run, paint)?;
    write_measures(out, run, paint)?;
    write_pools(out, run, paint)?;
    write_node_types(out, run, paint)?;
    write_nodes(out, run, paint)
}

/// Writes the figures of the run as one JSON object.
pub fn write_json(out: &mut dyn Write, run: &RunView) -> Result<(), ReportError> {
    let figures = Figures::of(run);
    let measures = MeasureReader::of_completed(run);
    let object = ReportJson {
        standing: Standing::of(run, &figures),
        run: run.dir.path().display().to_string(),
        state: run.state().name(),
        began: utc(run.replay.sessions[0].began.unix_ns),
        sessions: run.replay.sessions.len(),
        phalanx: &run.session().began.phalanx,
        task_count: figures.tasks,
        tasks: figures.counts,
        jobs: of_jobs(run),
        ranks: figures.ranks,
        slots: figures.slots,
        changing_slots: SlotFigures::of(run),
        nodes: figures.nodes,
        wall_s: figures.wall_s,
        work_s: figures.work_s,
        critical_path_s: figures.critical_path_s,
        utilisation: figures.utilisation,
        balance: figures.balance,
        bytes_moved: figures.bytes_moved,
        billed_node_s: figures.billed_node_s,
        active_node_s: figures.active_node_s,
        node_hours: figures.billed_node_s / 3600.0,
        deadline_s: figures.deadline_s,
        deadline_missed: figures.deadline_missed,
        decisions: run.replay.sessions.iter().flat_map(|session| &session.decisions).collect(),
        past: run.session().past.as_ref(),
        unusual: run.session().unusual.iter().collect(),
        simulated: run.session().terms.as_ref().is_some_and(|terms| terms.simulated.is_some()),
        resume: resume::command(run),
        failures: failures(run).iter().take(MAX_JSON_FAILURES).map(|failure| failed(run, failure)).collect(),
        measures: measures.iter().collect(),
        nodes_held: uses(run),
        node_types: node_types::uses(run),
        pools: pools(run),
        cache: CacheFigures::of(run),
        staging: StagingFigures::of(run),
        warnings: run.warnings(),
    };
    serde_json::to_writer_pretty(&mut *out, &object).map_err(ReportError::Json)?;
    writeln!(out)?;
    Ok(())
}

/// The object of `--json`. Its field names are stable; an unknown figure is null.
#[derive(Serialize)]
struct ReportJson<'a> {
    #[serde(flatten)]
    standing: Standing,
    run: String,
    state: &'static str,
    began: String,
    sessions: usize,
    phalanx: &'a str,
    task_count: u32,
    tasks: StateCounts,
    /// Each of several jobs; empty for a run of one.
    jobs: Vec<JobFigures>,
    ranks: u32,
    slots: u32,
    /// How the number of slots changed; null unless the job gives a range.
    changing_slots: Option<SlotFigures>,
    nodes: u32,
    wall_s: f64,
    work_s: f64,
    critical_path_s: Option<f64>,
    utilisation: Option<f64>,
    balance: Option<f64>,
    bytes_moved: u64,
    billed_node_s: f64,
    active_node_s: f64,
    /// Node-hours billed.
    node_hours: f64,
    /// Deadline in seconds since the start of the last session; null without one.
    deadline_s: Option<f64>,
    /// True if the session has not ended by then.
    deadline_missed: Option<bool>,
    /// Scaling decisions of all sessions; empty for a job without a policy.
    decisions: Vec<&'a Decision>,
    /// What the run learnt from earlier runs of the job; null if there were none.
    past: Option<&'a PastRuns>,
    /// Deviations from these runs.
    unusual: Vec<&'a Anomaly>,
    /// True if the last session was simulated.
    simulated: bool,
    resume: Option<String>,
    /// Tasks that failed for good, in order of their failure; at most 100.
    failures: Vec<Failed<'a>>,
    /// Values that tasks wrote, by name.
    measures: BTreeMap<&'a str, &'a Figure>,
    /// Use of each node, by time.
    nodes_held: Vec<NodeUse>,
    /// The bill by type of node.
    node_types: Vec<TypeUse>,
    /// Pools and limits of arrays; empty until the run has ended.
    pools: Vec<PoolUse>,
    /// What the result cache did; null if no task uses it.
    cache: Option<CacheFigures>,
    /// What was moved for staged tasks; null if there are none.
    staging: Option<StagingFigures>,
    warnings: &'a [String],
}

/// A failed task in `--json`.
#[derive(Serialize)]
struct Failed<'a> {
    task: String,
    label: String,
    state: &'static str,
    exit: i32,
    attempt: u16,
    /// Why Phalanx failed it; null if the task failed by itself.
    reason: Option<&'a str>,
}

fn failed<'a>(run: &RunView, failure: &TaskFailure<'a>) -> Failed<'a> {
    let TaskFailure { task, session, attempt } = failure;
    Failed {
        task: run.subject().job.label(*task).indexed(),
        label: run.subject().job.label(*task).to_string(),
        state: attempt.outcome.state.name(),
        exit: attempt.outcome.exit,
        attempt: attempt.attempt,
        reason: session.reason(attempt),
    }
}

/// Writes the failed tasks, each with the end of its standard error.
pub fn write_failed(out: &mut dyn Write, run: &RunView, paint: Paint) -> Result<(), ReportError> {
    let failures = failures(run);
    if failures.is_empty() {
        writeln!(out, "no task of {} has failed", run.name())?;
    }
    for failure in &failures {
        write_failure(out, run, failure, paint)?;
    }
    Ok(())
}

/// Writes all failed tasks as one JSON object, each with the end of its output.
pub fn write_failed_json(out: &mut dyn Write, run: &RunView) -> Result<(), ReportError> {
    #[derive(Serialize)]
    struct FailedWithOutput<'a> {
        #[serde(flatten)]
        failed: Failed<'a>,
        node: &'a str,
        ran_s: f64,
        output: Vec<OutputJson>,
    }
    #[derive(Serialize)]
    struct OutputJson {
        stream: &'static str,
        /// The file of the stream, if the job file redirects it.
        file: Option<PathBuf>,
        text: String,
    }
    let output = |tail: OutputTail| OutputJson { stream: stream_name(tail.stream), text: tail.text(), file: tail.own };
    let failures = failures(run);
    let each = failures.iter().map(|failure| {
        Ok(FailedWithOutput {
            failed: failed(run, failure),
            node: node_of(failure.session, failure.attempt.rank),
            ran_s: run_ns(failure.attempt) as f64 / 1e9,
            output: tails_of(run, failure)?.into_iter().map(output).collect(),
        })
    });
    let each: Vec<FailedWithOutput<'_>> = each.collect::<Result<_, ReportError>>()?;
    write_object(out, &serde_json::json!({ "run": run.dir.path(), "failures": each }))
}

/// Writes the tasks of a name as one JSON object: what they run and their attempts.
pub fn write_task_json(out: &mut dyn Write, run: &RunView, wanted: &str) -> Result<(), ReportError> {
    let job = &run.subject().job;
    let tasks = run.find(wanted)?;
    let attempt = |(session, attempt): &(&Session, &Attempt)| {
        let clock = |time| run.on_run_clock(session, time) as f64 / 1e9;
        serde_json::json!({
            "session": session.began.session,
            "attempt": attempt.attempt,
            "state": attempt.outcome.state.name(),
            "exit": attempt.outcome.exit,
            "node": node_of(session, attempt.rank),
            "rank": attempt.rank.0,
            "slot": attempt.slot,
            "ready_s": clock(attempt.ready),
            "start_s": clock(attempt.start),
            "end_s": clock(attempt.end),
            "reason": session.reason(attempt),
            "cache": by_attempt_of_session(run, session).get(&(attempt.task, attempt.attempt)),
            "staging": staging::by_attempt_of_session(run, session).get(&(attempt.task, attempt.attempt)),
        })
    };
    let each = tasks.iter().map(|&task| {
        let label = job.label(task).to_string();
        let state = run.replay.latest(task).map_or(without_end(run, task), |(_, attempt)| attempt.outcome.state.name());
        let described = job.describe(task);
        serde_json::json!({
            "task": job.label(task).indexed(),
            "label": &label,
            "state": state,
            "command": described.as_ref().map(|task| command(&task.work)),
            "dir": described.map(|task| task.dir),
            "attempts": attempts_of(run, &label).iter().map(attempt).collect::<Vec<_>>(),
        })
    });
    write_object(out, &serde_json::json!({ "run": run.dir.path(), "tasks": each.collect::<Vec<_>>() }))
}

fn write_object(out: &mut dyn Write, object: &serde_json::Value) -> Result<(), ReportError> {
    serde_json::to_writer_pretty(&mut *out, object).map_err(ReportError::Json)?;
    Ok(writeln!(out)?)
}

fn stream_name(stream: Stream) -> &'static str {
    match stream {
        Stream::Out => "stdout",
        Stream::Err => "stderr",
    }
}

/// Writes one task: its attempts in all sessions, and its output. For an array, one line per task.
pub fn write_task(out: &mut dyn Write, run: &RunView, wanted: &str, paint: Paint) -> Result<(), ReportError> {
    match run.find(wanted)?.as_slice() {
        [task] => write_one_task(out, run, *task, paint),
        tasks => write_many_tasks(out, run, tasks, paint),
    }
}

fn write_many_tasks(out: &mut dyn Write, run: &RunView, tasks: &[TaskId], paint: Paint) -> Result<(), ReportError> {
    for task in tasks {
        write!(out, "{}: ", run.subject().job.label(*task))?;
        match run.replay.latest(*task) {
            None => writeln!(out, "{}", without_end(run, *task))?,
            Some((session, attempt)) => writeln!(out, "{}", attempt_text(session, attempt, paint))?,
        }
    }
    Ok(())
}

fn write_one_task(out: &mut dyn Write, run: &RunView, task: TaskId, paint: Paint) -> Result<(), ReportError> {
    let job = &run.subject().job;
    let label = job.label(task).to_string();
    writeln!(out, "{}", paint.bold(&label))?;
    if let Some(described) = job.describe(task) {
        writeln!(out, "  {} {}", paint.dim("command "), command(&described.work))?;
        writeln!(out, "  {} {}", paint.dim("dir     "), described.dir.display())?;
    }
    let attempts = attempts_of(run, &label);
    if let Some(left_out) = run.session().left_out.as_ref().filter(|left_out| left_out.has(task)) {
        writeln!(out, "  left out of the last session ({})", left_out.words)?;
    } else if attempts.is_empty() {
        writeln!(out, "  no attempt has ended")?;
    }
    for (session, attempt) in &attempts {
        let number = session.began.session;
        let resumed = if run.replay.sessions.len() > 1 { format!(" (session {number})") } else { String::new() };
        if attempt.attempt == 0 && matches!(attempt.outcome.state, State::Skipped | State::Cancelled) {
            write_not_run(out, run, (session, attempt), &resumed, paint)?;
            continue;
        }
        let head = paint.dim(format!("attempt {}{resumed}", attempt.attempt));
        writeln!(out, "  {head} {}", attempt_text(session, attempt, paint))?;
        let clock = |time| run.on_run_clock(session, time) as f64 / 1e9;
        let (ready, start, end) = (clock(attempt.ready), clock(attempt.start), clock(attempt.end));
        writeln!(out, "    ready at {ready:.3} s, started at {start:.3} s, ended at {end:.3} s")?;
        if let Some(reason) = session.reason(attempt) {
            writeln!(out, "    reason: {}", super::style::printable(reason.as_bytes()))?;
        }
        if let Some(used) = by_attempt_of_session(run, session).get(&(attempt.task, attempt.attempt)) {
            let texts = texts_of(used);
            texts.iter().try_for_each(|text| writeln!(out, "    {}", super::style::printable(text.as_bytes())))?;
        }
        if let Some(used) = staging::by_attempt_of_session(run, session).get(&(attempt.task, attempt.attempt)) {
            writeln!(out, "    {}", staging::text_of(used))?;
        }
    }
    for stream in [Stream::Out, Stream::Err] {
        write_stream(out, run, task, &attempts, stream, paint)?;
    }
    write_so_far(out, run, task, paint)
}

/// The state of a task without an attempt that has ended.
fn without_end(run: &RunView, task: TaskId) -> &'static str {
    let left_out = run.session().left_out.as_ref();
    if left_out.is_some_and(|left_out| left_out.has(task)) { "LEFT_OUT" } else { "PENDING" }
}

/// Attempts at the task with this name in all sessions, which may number the task differently.
fn attempts_of<'a>(run: &'a RunView, label: &str) -> Vec<(&'a Session, &'a Attempt)> {
    let mut found = Vec::new();
    for (session, subject) in run.sessions() {
        if let Ok([task]) = subject.job.find(label).as_deref() {
            found.extend(
                session.attempts.iter().filter(|attempt| attempt.task == *task).map(|attempt| (session, attempt)),
            );
        }
    }
    found
}

/// Writes that a task ended without having run, when, and which task was the cause.
fn write_not_run(
    out: &mut dyn Write,
    run: &RunView,
    (session, attempt): (&Session, &Attempt),
    resumed: &str,
    paint: Paint,
) -> Result<(), ReportError> {
    let end = run.on_run_clock(session, attempt.end) as f64 / 1e9;
    let chain = match attempt.outcome.state {
        State::Skipped => SkipCauses::of(run).chain(run, attempt.task),
        _ => Vec::new(),
    };
    let named = |task: &TaskId| {
        let state = run.replay.latest(*task).map_or("PENDING", |(_, attempt)| attempt.outcome.state.name());
        format!("{} ({state})", run.subject().job.label(*task))
    };
    let because = match chain.is_empty() {
        true => String::new(),
        false => format!(", because of {}", chain.iter().map(named).collect::<Vec<_>>().join(", which needed ")),
    };
    let how = attempt_text(session, attempt, paint);
    Ok(writeln!(out, "  {} {how} at {end:.3} s{because}", paint.dim(format!("did not run{resumed}:")))?)
}

fn attempt_text(session: &Session, attempt: &Attempt, paint: Paint) -> String {
    let how = paint.state(attempt.outcome.state, outcome(attempt.outcome));
    if attempt.attempt == 0 {
        return how;
    }
    let node = node_of(session, attempt.rank);
    let took = seconds(run_ns(attempt) as f64 / 1e9);
    format!("{how}, {took} on {node} ({}, slot {})", attempt.rank, attempt.slot)
}

fn write_stream(
    out: &mut dyn Write,
    run: &RunView,
    task: TaskId,
    attempts: &[(&Session, &Attempt)],
    stream: Stream,
    paint: Paint,
) -> Result<(), ReportError> {
    let name = match stream {
        Stream::Out => "standard output",
        Stream::Err => "standard error",
    };
    let last = attempts.iter().rfind(|(_, attempt)| attempt.attempt > 0);
    if let Some(path) = last.and_then(|&at| own_file(run, task, at, stream)) {
        writeln!(out, "\n{} is in {}", paint.bold(name), path.display())?;
    }
    for (session, attempt) in attempts {
        let number = session.began.session;
        if run.outputs.length(number, attempt, stream)? > 0 {
            writeln!(out, "\n{} of attempt {}", paint.bold(name), attempt.attempt)?;
            run.outputs.copy(number, attempt, stream, out)?;
        }
        let lost = || run.outputs.lost(number, attempt, stream);
        if let Some(path) = if attempt.attempt > 0 { lost()? } else { None } {
            let attempt = attempt.attempt;
            let trouble = format!("{} is missing or damaged", path.display());
            writeln!(out, "\n{} of attempt {attempt} is lost, at least in part: {trouble}", paint.bold(name))?;
        }
    }
    Ok(())
}

/// What a task of a job executes, as [`command`] says it, behind its launcher.
pub(crate) fn command_of(job: &Job, task: TaskId) -> String {
    let launcher = job.group(task).mpi.map_or(String::new(), |mpi| format!("mpirun -n {} ", mpi.ranks));
    let text = job.task(task).map_or_else(|error| error.to_string(), |task| command(&task.work));
    launcher + &text
}

/// What a task executes, on one line if its text is.
pub(super) fn command(work: &Work) -> String {
    match work {
        Work::Command(words) => words.iter().map(|word| crate::text::shell_word(word)).collect::<Vec<_>>().join(" "),
        Work::Shell(line) => line.clone(),
        Work::Kernel { name, args } if args.is_empty() => format!("kernel {name}"),
        Work::Kernel { name, args } if name == OPERATION_KERNEL => {
            let text = |key: &str| args.get(key).and_then(toml::Value::as_str).unwrap_or_default();
            let own = args.get("args").filter(|own| own.as_table().is_some_and(|own| !own.is_empty()));
            let own = own.map_or(String::new(), |own| format!(" {own}"));
            format!("operation {} on graph {}{own}", text("operation"), text("graph"))
        }
        Work::Kernel { name, args } => {
            let args: Vec<String> = args.iter().map(|(key, value)| format!("{key} = {value}")).collect();
            format!("kernel {name} {{ {} }}", args.join(", "))
        }
    }
}

fn write_slowest(out: &mut dyn Write, run: &RunView, paint: Paint) -> Result<(), ReportError> {
    let tasks = run.subject().job.task_count();
    let ran = run.replay.all_latest().filter(|(task, _, attempt)| task.0 < tasks && attempt.attempt > 0);
    let mut slowest: Vec<_> = ran.map(|(task, session, attempt)| (run_ns(attempt), task, session, attempt)).collect();
    slowest.sort_unstable_by_key(|(ns, task, ..)| (std::cmp::Reverse(*ns), *task));
    slowest.truncate(MAX_SLOWEST_SHOWN);
    if slowest.is_empty() {
        return Ok(());
    }
    writeln!(out, "\n{}", paint.bold("Slowest tasks"))?;
    let rows: Vec<Vec<String>> = slowest
        .iter()
        .map(|(ns, task, session, attempt)| {
            let node = node_of(session, attempt.rank).to_owned();
            let label = run.subject().job.label(*task).to_string();
            vec![label, seconds(*ns as f64 / 1e9), outcome(attempt.outcome), node]
        })
        .collect();
    write_columns(out, &["task", "ran", "state", "node"], &rows, paint)
}

fn write_classes(out: &mut dyn Write, run: &RunView, paint: Paint) -> Result<(), ReportError> {
    let classes = classes(&Timeline::of(run));
    if classes.is_empty() {
        return Ok(());
    }
    let all: f64 = classes.iter().map(|class| class.work_s).sum();
    writeln!(out, "\n{}", paint.bold("Classes of tasks"))?;
    let rows: Vec<Vec<String>> = classes.iter().take(LISTED).map(|class| class_row(class, all)).collect();
    write_columns(out, &["class", "ran", "failed", "mean", "p50", "p95", "p99", "max", "work"], &rows, paint)?;
    if let Some(more) = and_more(classes.len()) {
        writeln!(out, "  {more} classes with less work")?;
    }
    Ok(())
}

/// Writes the bill by type of node, for runs that may have several types.
pub fn write_node_types(out: &mut dyn Write, run: &RunView, paint: Paint) -> Result<(), ReportError> {
    let uses = node_types::uses(run);
    if run.session().terms.as_ref().is_none_or(|terms| terms.prices.nodes.len() < 2) || uses.is_empty() {
        return Ok(());
    }
    writeln!(out, "\n{}", paint.bold("Types of nodes"))?;
    let hours = |seconds: f64| format!("{:.3}", seconds / 3600.0);
    let row = |it: &TypeUse| {
        let figures =
            [count(it.nodes), format!("{}", it.node_hour), hours(it.billed_node_s), format!("{:.4}", it.cost)];
        std::iter::once(it.node_type.clone()).chain(figures).collect()
    };
    let rows: Vec<Vec<String>> = uses.iter().map(row).collect();
    write_columns(out, &["type", "nodes", "per hour", "node-hours", "cost"], &rows, paint)
}

/// Writes the use of each node, for runs that have a price or whose nodes changed.
fn write_nodes(out: &mut dyn Write, run: &RunView, paint: Paint) -> Result<(), ReportError> {
    let nodes = uses(run);
    let came = nodes.iter().any(|node| node.block.is_some());
    if !came && run.session().terms.is_none() {
        return Ok(());
    }
    writeln!(out, "\n{}", paint.bold("Nodes, those that were held longest first"))?;
    let mut nodes: Vec<&NodeUse> = nodes.iter().collect();
    nodes.sort_by(|a, b| b.held_s.total_cmp(&a.held_s));
    let row = |node: &&NodeUse| {
        let came = node.block.map_or_else(|| "-".to_owned(), |block| format!("block {block}"));
        let parts = [node.starting_s, node.working_s, node.starving_s, node.leaving_s, node.minimum_s];
        let mut row = vec![node.node.clone(), came, seconds(node.from_s), seconds(node.held_s)];
        row.extend(parts.map(|part| if part > 0.0 { seconds(part) } else { "-".to_owned() }));
        row
    };
    let rows: Vec<Vec<String>> = nodes.iter().take(MAX_NODES_SHOWN).map(row).collect();
    let heads =
        ["node", "came as", "from", "held", "starting", "working", "starving", "leaving, parked", "minimum charge"];
    write_columns(out, &heads, &rows, paint)?;
    match nodes.len().checked_sub(MAX_NODES_SHOWN).filter(|more| *more > 0) {
        Some(more) => Ok(writeln!(out, "  and {more} more, see --json")?),
        None => Ok(()),
    }
}

/// Writes what the pools were used for.
fn write_pools(out: &mut dyn Write, run: &RunView, paint: Paint) -> Result<(), ReportError> {
    let pools = pools(run);
    if pools.is_empty() {
        return Ok(());
    }
    writeln!(out, "\n{}", paint.bold("Pools and limits of arrays"))?;
    let broke_off = |session: &&Session| {
        let is_live = std::ptr::eq(*session, run.session()) && !run.broke_off();
        session.pools.is_empty() && session.ended.is_none() && !is_live
    };
    for session in run.replay.sessions.iter().filter(broke_off) {
        writeln!(out, "  session {} broke off and has left no record of its pools", session.began.session)?;
    }
    let row = |it: &PoolUse| {
        let units = |units: String| if it.kind == "rate" { "-".to_owned() } else { units };
        let capacity = it.capacity.map_or_else(|| "none".to_owned(), count);
        let rest = [units(capacity), units(count(it.peak)), units(count(it.hand_overs)), seconds(it.at_limit_s)];
        [it.pool.clone(), it.kind.to_owned()].into_iter().chain(rest).collect()
    };
    let rows: Vec<Vec<String>> = pools.iter().map(row).collect();
    write_columns(out, &["name", "kind", "limit", "peak", "given back", "waited for"], &rows, paint)
}

/// Writes the statistics of values that tasks wrote.
fn write_measures(out: &mut dyn Write, run: &RunView, paint: Paint) -> Result<(), ReportError> {
    let measures = MeasureReader::of_completed(run);
    if measures.is_empty() {
        return Ok(());
    }
    writeln!(out, "\n{}", paint.bold("Values of tasks"))?;
    let row = |(name, it): (&str, &Figure)| {
        let mut row = vec![name.to_owned(), count(it.count)];
        row.extend([it.mean(), it.min, it.max, it.last].map(value));
        row
    };
    let rows: Vec<Vec<String>> = measures.iter().map(row).collect();
    write_columns(out, &["name", "values", "mean", "least", "most", "latest"], &rows, paint)
}

fn class_row(class: &ClassLatency, all_work: f64) -> Vec<String> {
    let ran = &class.ran;
    let share = if all_work > 0.0 { percent(class.work_s / all_work) } else { "-".to_owned() };
    let times = [ran.mean_s(), ran.quantile_s(0.5), ran.quantile_s(0.95), ran.quantile_s(0.99), ran.max_s()];
    let mut row = vec![class.name.clone(), count(ran.count()), count(class.failed)];
    row.extend(times.map(seconds));
    row.push(share);
    row
}

/// Writes a table; the first column is left-aligned, the others right-aligned.
pub(super) fn write_columns(
    out: &mut dyn Write,
    head: &[&str],
    rows: &[Vec<String>],
    paint: Paint,
) -> Result<(), ReportError> {
    // A class name may contain line breaks, which would break the table.
    let one_line = |cell: &String| cell.replace(['\n', '\r'], " ");
    let rows: Vec<Vec<String>> = rows.iter().map(|row| row.iter().map(one_line).collect()).collect();
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count());
        cells.chain(head.get(column).map(|cell| cell.len())).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..head.len()).map(width).collect();
    let line = |cells: &mut dyn Iterator<Item = &str>| {
        let padded = cells.zip(&widths).enumerate().map(|(column, (cell, &width))| match column {
            0 => format!("  {cell:<width$}"),
            _ => format!("  {cell:>width$}"),
        });
        padded.collect::<String>()
    };
    writeln!(out, "{}", paint.dim(line(&mut head.iter().copied())))?;
    for row in rows {
        writeln!(out, "{}", line(&mut row.iter().map(String::as_str)))?;
    }
    Ok(())
}
