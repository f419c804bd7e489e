//! JSON answers. The field names are those of `openapi.json` in this folder, which a test compares
//! with a running server; published names are stable. Times are seconds since the session began.

use serde::Serialize;

use super::Live;
use super::members::RankEntry;
use crate::journal::{Level, utc};
use crate::model::{State, Stream};
use crate::observe::failures::{OutputTail, TaskFailure, tails_of};
use crate::observe::measures::Figure;
use crate::observe::nodes::{NodeUse, of_session};
use crate::observe::run_view::{node_of, run_ns};
use crate::observe::samples::Sample;
use crate::observe::spending::Spending;
use crate::scale::Forecast;

/// Maximum number of points of a history.
const POINTS: usize = 1000;
/// Number of latest decisions listed.
const DECISIONS: usize = 50;
/// Number of latest warnings and errors listed.
const NOTES: usize = 20;

#[derive(Serialize)]
pub(super) struct RunInfo {
    run: String,
    job: String,
    phalanx: String,
    state: &'static str,
    began: String,
    session: u32,
    elapsed_s: f64,
    remaining_s: Option<f64>,
    tasks: u64,
    pending: u64,
    queued: u64,
    running: u64,
    completed: u64,
    failed: u64,
    skipped: u64,
    cancelled: u64,
    tasks_per_s: f64,
    ranks: usize,
    slots: u64,
    work_s: f64,
    used: Option<f64>,
    spent: Option<f64>,
    budget: Option<f64>,
    forecast: Option<Forecast>,
    node_cpu: Option<f64>,
    node_memory_used: Option<u64>,
    node_memory: Option<u64>,
    warnings: Vec<Warning>,
}

#[derive(Serialize)]
struct Warning {
    t: f64,
    level: &'static str,
    text: String,
}

/// Answers `/api/v1/run`.
pub(super) fn run(live: &Live) -> RunInfo {
    let (session, totals) = (live.view.session(), &live.totals);
    let tasks = u64::from(live.view.subject().job.task_count());
    let (running, queued) = live.running_and_queued();
    let sample = live.samples.last().filter(|sample| sample.node_memory > 0);
    let grave = session.notes.iter().rev().filter(|note| note.level > Level::Info).take(NOTES);
    RunInfo {
        run: live.view.name(),
        job: live.view.subject().job.name().to_owned(),
        phalanx: session.began.phalanx.clone(),
        state: live.view.state().name(),
        began: utc(session.began.unix_ns),
        session: session.began.session,
        elapsed_s: live.elapsed_s(),
        remaining_s: live.remaining_s(),
        tasks,
        pending: pending(live),
        queued,
        running,
        completed: totals.of(State::Completed),
        failed: totals.failed(),
        skipped: totals.of(State::Skipped),
        cancelled: totals.of(State::Cancelled),
        tasks_per_s: live.tasks_per_s(),
        ranks: live.active().count(),
        slots: live.slots(),
        work_s: totals.work_s(),
        used: live.used(),
        spent: live.spending.as_ref().map(Spending::spent),
        budget: live.spending.as_ref().and_then(|spending| spending.budget),
        forecast: live.forecast(),
        node_cpu: sample.map(|sample| sample.node_cpu),
        node_memory_used: sample.map(|sample| sample.node_memory_used),
        node_memory: sample.map(|sample| sample.node_memory),
        warnings: grave
            .map(|note| Warning {
                t: note.time.seconds(),
                level: if note.level == Level::Error { "error" } else { "warning" },
                text: note.text.clone(),
            })
            .collect(),
    }
}

/// Number of tasks that neither ended nor run nor wait for a slot.
pub(super) fn pending(live: &Live) -> u64 {
    let (running, queued) = live.running_and_queued();
    u64::from(live.view.subject().job.task_count()).saturating_sub(live.totals.ended() + running + queued)
}

#[derive(Serialize)]
pub(super) struct RankList {
    ranks: Vec<RankRow>,
}

#[derive(Serialize)]
struct RankRow {
    rank: u32,
    node: String,
    state: &'static str,
    slots: u32,
    attempts: u64,
    failed: u64,
    work_s: f64,
    used: f64,
    /// Usage of the rank and its node; `None` before its first report.
    cpus: Option<f64>,
    memory: Option<u64>,
    read: Option<u64>,
    written: Option<u64>,
    node_cpu: Option<f64>,
    node_memory_used: Option<u64>,
    node_memory: Option<u64>,
    io_stall: Option<f64>,
    messages: Option<u64>,
    message_bytes: Option<u64>,
    stolen: Option<u64>,
    /// Usage of its GPUs; `None` without GPUs that report it.
    gpu_busy: Option<f64>,
    gpu_memory_used: Option<u64>,
    gpu_memory: Option<u64>,
}

/// Answers `/api/v1/ranks`.
pub(super) fn ranks(live: &Live) -> RankList {
    let row = |member: &RankEntry| {
        let totals = live.totals.ranks.get(&member.rank).cloned().unwrap_or_default();
        let held = member.active_s * f64::from(member.slots);
        let lately = live.vitals.of(member.rank).filter(|_| live.goes_on() && member.state.is_billed());
        let vitals = lately.map(|lately| lately.last.vitals);
        let gpus = vitals.filter(|vitals| vitals.gpu_memory > 0);
        RankRow {
            rank: member.rank,
            node: member.node.clone(),
            state: member.state.name(),
            slots: member.slots,
            attempts: totals.attempts,
            failed: totals.failed,
            work_s: totals.work_s,
            used: if held > 0.0 { (totals.work_s / held).min(1.0) } else { 0.0 },
            cpus: lately.map(|lately| lately.cpus),
            memory: vitals.map(|vitals| vitals.memory),
            read: vitals.map(|vitals| vitals.read),
            written: vitals.map(|vitals| vitals.written),
            node_cpu: vitals.map(|vitals| vitals.node_cpu),
            node_memory_used: vitals.map(|vitals| vitals.node_memory_used),
            node_memory: vitals.map(|vitals| vitals.node_memory),
            io_stall: vitals.map(|vitals| vitals.io_stall),
            messages: vitals.map(|vitals| vitals.messages),
            message_bytes: vitals.map(|vitals| vitals.message_bytes),
            stolen: vitals.map(|vitals| vitals.stolen),
            gpu_busy: gpus.map(|vitals| vitals.gpu_busy),
            gpu_memory_used: gpus.map(|vitals| vitals.gpu_memory_used),
            gpu_memory: gpus.map(|vitals| vitals.gpu_memory),
        }
    };
    RankList { ranks: live.members.iter().map(row).collect() }
}

#[derive(Serialize)]
pub(super) struct Nodes {
    nodes: Vec<NodeUse>,
}

/// Answers `/api/v1/nodes`: the nodes of the session, by time.
pub(super) fn nodes(live: &Live) -> Nodes {
    let work_s = |rank: u32| live.totals.ranks.get(&rank).map_or(0.0, |totals| totals.work_s);
    Nodes { nodes: of_session(&live.view, live.view.session(), &work_s) }
}

#[derive(Serialize)]
pub(super) struct Decisions {
    decisions: Vec<DecisionRow>,
}

#[derive(Serialize)]
struct DecisionRow {
    number: u32,
    t: f64,
    from: u32,
    to: u32,
    policy: String,
    reason: String,
    spent: f64,
    finish_s: Option<f64>,
    cost: Option<f64>,
}

/// Answers `/api/v1/decisions`, latest first.
pub(super) fn decisions(live: &Live) -> Decisions {
    let row = |decision: &crate::scale::Decision| DecisionRow {
        number: decision.number,
        t: decision.time.seconds(),
        from: decision.from,
        to: decision.to,
        policy: decision.policy.clone(),
        reason: decision.reason.clone(),
        spent: decision.inputs.spent,
        finish_s: decision.forecast.map(|forecast| forecast.finish_q50_s),
        cost: decision.forecast.map(|forecast| forecast.cost_q50),
    };
    Decisions { decisions: live.view.session().decisions.iter().rev().take(DECISIONS).map(row).collect() }
}

#[derive(Serialize)]
pub(super) struct ApiValues<'a> {
    values: Vec<ApiValue<'a>>,
}

#[derive(Serialize)]
struct ApiValue<'a> {
    name: &'a str,
    mean: f64,
    #[serde(flatten)]
    figure: &'a Figure,
}

/// Answers `/api/v1/measures`.
pub(super) fn measures(live: &Live) -> ApiValues<'_> {
    ApiValues {
        values: live.measures.iter().map(|(name, figure)| ApiValue { name, mean: figure.mean(), figure }).collect(),
    }
}

#[derive(Serialize)]
pub(super) struct Spend {
    course: Vec<Paid>,
}

#[derive(Serialize)]
struct Paid {
    t: f64,
    spent: f64,
}

/// Answers `/api/v1/spend`.
pub(super) fn spend(live: &Live, points: Option<usize>) -> Spend {
    let points = points.unwrap_or(300).clamp(1, POINTS);
    let course = live.spending.iter().flat_map(|spending| spending.course(points));
    Spend { course: course.map(|(t, spent)| Paid { t: t.seconds(), spent }).collect() }
}

#[derive(Serialize)]
pub(super) struct Classes {
    classes: Vec<ClassRow>,
}

#[derive(Serialize)]
struct ClassRow {
    name: String,
    attempts: u64,
    failed: u64,
    work_s: f64,
    mean_s: f64,
    p50_s: f64,
    p95_s: f64,
    p99_s: f64,
    max_s: f64,
    waited_p95_s: f64,
}

/// Answers `/api/v1/classes`.
pub(super) fn classes(live: &Live) -> Classes {
    let row = |class: &crate::observe::latency::ClassLatency| ClassRow {
        name: class.name.clone(),
        attempts: class.ran.count(),
        failed: class.failed,
        work_s: class.work_s,
        mean_s: class.ran.mean_s(),
        p50_s: class.ran.quantile_s(0.5),
        p95_s: class.ran.quantile_s(0.95),
        p99_s: class.ran.quantile_s(0.99),
        max_s: class.ran.max_s(),
        waited_p95_s: class.waited.quantile_s(0.95),
    };
    Classes { classes: live.totals.classes().iter().map(row).collect() }
}

#[derive(Serialize)]
pub(super) struct DecisionHistory {
    samples: Vec<Sample>,
}

/// Answers `/api/v1/history`.
pub(super) fn history(live: &Live, from: Option<f64>, to: Option<f64>, points: Option<usize>) -> DecisionHistory {
    let points = points.unwrap_or(300).clamp(1, POINTS);
    DecisionHistory { samples: live.samples.between(from.unwrap_or(0.0), to.unwrap_or(f64::INFINITY), points) }
}

#[derive(Serialize)]
pub(super) struct Failures<'a> {
    failures: Vec<FailureRow<'a>>,
}

#[derive(Serialize)]
struct FailureRow<'a> {
    task: String,
    state: &'static str,
    exit: i32,
    attempt: u16,
    last: bool,
    rank: u32,
    node: String,
    ended_s: f64,
    ran_s: f64,
    reason: Option<&'a str>,
    stdout: String,
    stderr: String,
}

/// Answers `/api/v1/failures`.
pub(super) fn failures(live: &Live) -> Failures<'_> {
    let session = live.view.session();
    let attempts = live.totals.failures.iter().filter_map(|&index| session.attempts.get(index));
    let row = |attempt: &crate::model::Attempt| {
        // Unreadable output is reported by `phalanx report --failed`; here the failure itself
        // matters.
        let failure = TaskFailure { task: attempt.task, session, attempt };
        let tails = tails_of(&live.view, &failure).unwrap_or_default();
        let text = |stream| tails.iter().find(|tail| tail.stream == stream).map(OutputTail::text).unwrap_or_default();
        FailureRow {
            task: live.view.subject().job.label(attempt.task).to_string(),
            state: attempt.outcome.state.name(),
            exit: attempt.outcome.exit,
            attempt: attempt.attempt,
            last: attempt.last,
            rank: attempt.rank.0,
            node: node_of(session, attempt.rank).to_owned(),
            ended_s: attempt.end.seconds(),
            ran_s: run_ns(attempt) as f64 / 1e9,
            reason: session.reason(attempt),
            stdout: text(Stream::Out),
            stderr: text(Stream::Err),
        }
    };
    Failures { failures: attempts.map(row).collect() }
}
