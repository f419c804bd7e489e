//! JSON answers. The comments of their types are the descriptions of the API (see `openapi`).
//! Published names are stable. Times are seconds since the session began.

use schemars::JsonSchema;
use serde::Serialize;

use super::Live;
use super::members::RankEntry;
use crate::journal::{Level, utc};
use crate::model::{RankState, State, Stream};
use crate::observe::failures::{OutputTail, TaskFailure, tails_of};
use crate::observe::measures::Figure;
use crate::observe::nodes::{NodeUse, of_session};
use crate::observe::run_view::{RunState, node_of, run_ns};
use crate::observe::samples::Sample;
use crate::observe::spending::Spending;
use crate::observe::standing::{Standing, TaskCounts};
use crate::scale::{Forecast, SiteView, WaitSource};

/// Maximum number of points of a history.
const POINTS: usize = 1000;
/// Number of latest decisions listed.
const DECISIONS: usize = 50;
/// Number of latest warnings and errors listed.
const NOTES: usize = 20;

/// The state of the run.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "Run")]
pub(super) struct RunInfo {
    #[serde(flatten)]
    standing: Standing,
    /// Name of the run, as `phalanx report` takes it.
    run: String,
    /// Version of Phalanx.
    phalanx: String,
    /// State of the run.
    #[schemars(extend("enum" = RunState::ALL.map(RunState::name)))]
    state: &'static str,
    /// When the session began (RFC 3339, UTC).
    began: String,
    /// Estimated seconds to the end; null if unknown.
    remaining_s: Option<f64>,
    /// Tasks of the job.
    tasks: u64,
    /// Tasks that wait for other tasks.
    pending: u64,
    /// Tasks that only wait for a slot.
    queued: u64,
    /// Running tasks.
    running: u64,
    /// Tasks that ended successfully.
    completed: u64,
    /// Tasks that ended without success.
    failed: u64,
    /// Tasks that will never run because a dependency did not end as required.
    skipped: u64,
    /// Tasks that were cancelled.
    cancelled: u64,
    /// Tasks that end per second, recently.
    tasks_per_s: f64,
    /// Active ranks.
    ranks: usize,
    /// Slots of the active ranks.
    slots: u64,
    /// Slot-seconds of ended attempts.
    work_s: f64,
    /// Share of the slot time that ended attempts used, 0 to 1.
    used: Option<f64>,
    /// Cost of the run, as billed; null if nodes have no price.
    spent: Option<f64>,
    /// Forecast of the end of the run, while it runs and if its policy makes one.
    forecast: Option<Forecast>,
    /// Busy share of the CPUs of rank 0's node, 0 to 1.
    node_cpu: Option<f64>,
    /// Memory in use on that node, in bytes.
    node_memory_used: Option<u64>,
    /// Memory of that node, in bytes.
    node_memory: Option<u64>,
    /// The latest warnings and errors, the latest first.
    warnings: Vec<Warning>,
}

/// A warning or an error of the run.
#[derive(Serialize, JsonSchema)]
struct Warning {
    /// When it was issued.
    t: f64,
    /// Its severity.
    #[schemars(extend("enum" = ["warning", "error"]))]
    level: &'static str,
    /// Its text.
    text: String,
}

/// Answers `/api/v1/run`.
pub(super) fn run(live: &Live) -> RunInfo {
    let (session, totals) = (live.view.session(), &live.totals);
    let tasks = u64::from(live.view.subject().job.task_count());
    let (running, queued) = live.running_and_queued();
    let spent = live.spending.as_ref().map(Spending::spent);
    let standing = Standing {
        run_name: live.view.name(),
        job: live.view.subject().job.name().to_owned(),
        run_state: live.view.state().name(),
        session: session.began.session,
        exit_code: session.ended.as_ref().map(|ended| ended.exit_code),
        elapsed_s: live.elapsed_s(),
        counts: TaskCounts {
            total: tasks,
            left_out: session.left_out_count().into(),
            pending: pending(live),
            ready: queued,
            running,
            completed: totals.of(State::Completed),
            failed: totals.failed(),
            skipped: totals.of(State::Skipped),
            cancelled: totals.of(State::Cancelled),
        },
        cost: spent,
        budget: live.spending.as_ref().and_then(|spending| spending.budget),
    };
    let sample = live.samples.last().filter(|sample| sample.node_memory > 0);
    let grave = session.notes.iter().rev().filter(|note| note.level > Level::Info).take(NOTES);
    RunInfo {
        standing,
        run: live.view.name(),
        phalanx: session.began.phalanx.clone(),
        state: live.view.state().name(),
        began: utc(session.began.unix_ns),
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
        spent,
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
    u64::from(live.view.tasks_to_run()).saturating_sub(live.totals.ended() + running + queued)
}

/// The ranks.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "Ranks")]
pub(super) struct RankList {
    /// All current and former ranks, by number.
    ranks: Vec<RankRow>,
}

/// One rank.
#[derive(Serialize, JsonSchema)]
struct RankRow {
    /// Its number.
    rank: u32,
    /// Name of its node.
    node: String,
    /// Its state.
    #[schemars(extend("enum" = RankState::ALL.map(RankState::name)))]
    state: &'static str,
    /// Its slots.
    slots: u32,
    /// Attempts that ended there.
    attempts: u64,
    /// Attempts that failed there.
    failed: u64,
    /// Slot-seconds of ended attempts.
    work_s: f64,
    /// Share of its slot time that ended attempts used, 0 to 1.
    used: f64,
    /// CPUs that the rank and its tasks used recently; null before its first report, and once it is
    /// gone.
    cpus: Option<f64>,
    /// Memory that they use, in bytes.
    memory: Option<u64>,
    /// Bytes that they have read from disks.
    read: Option<u64>,
    /// Bytes that they have written to disks.
    written: Option<u64>,
    /// Busy share of the CPUs of its node, 0 to 1.
    node_cpu: Option<f64>,
    /// Memory in use on its node, in bytes.
    node_memory_used: Option<u64>,
    /// Memory of its node, in bytes.
    node_memory: Option<u64>,
    /// Share of recent time in which tasks of its node waited for I/O, 0 to 1.
    io_stall: Option<f64>,
    /// Messages that it has sent to other ranks.
    messages: Option<u64>,
    /// Bytes in those messages.
    message_bytes: Option<u64>,
    /// Tasks that it has stolen from other ranks.
    stolen: Option<u64>,
    /// Mean share of recent time in which its GPUs were busy, 0 to 1; null without GPUs that report
    /// it.
    gpu_busy: Option<f64>,
    /// Memory in use on its GPUs, in bytes.
    gpu_memory_used: Option<u64>,
    /// Memory of its GPUs, in bytes.
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

/// The nodes of the session.
#[derive(Serialize, JsonSchema)]
pub(super) struct Nodes {
    /// Each node from its grant to its end, by time.
    nodes: Vec<NodeUse>,
}

/// Answers `/api/v1/nodes`: the nodes of the session, by time.
pub(super) fn nodes(live: &Live) -> Nodes {
    let work_s = |rank: u32| live.totals.ranks.get(&rank).map_or(0.0, |totals| totals.work_s);
    Nodes { nodes: of_session(&live.view, live.view.session(), &work_s) }
}

/// Scaling decisions.
#[derive(Serialize, JsonSchema)]
pub(super) struct Decisions {
    /// The latest decisions, the latest first.
    decisions: Vec<DecisionRow>,
}

/// A scaling decision.
#[derive(Serialize, JsonSchema)]
struct DecisionRow {
    /// Its number; the first is 1.
    number: u32,
    /// When it was made.
    t: f64,
    /// Ranks before it.
    from: u32,
    /// Ranks once it is carried out.
    to: u32,
    /// The policy that made it.
    policy: String,
    /// Why it was made.
    reason: String,
    /// What the session had cost by then.
    spent: f64,
    /// Forecast end of the run.
    finish_s: Option<f64>,
    /// Forecast cost of the session.
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

/// The sites of the job, as they were for the last request for nodes.
#[derive(Serialize, JsonSchema)]
pub(super) struct Sites {
    /// When that was; null if no site has been asked.
    t: Option<f64>,
    /// Why the site was asked; empty if none has been.
    reason: String,
    /// The sites, in the order in which they are asked.
    sites: Vec<SiteRow>,
}

/// One site.
#[derive(Serialize, JsonSchema)]
struct SiteRow {
    /// Its name.
    name: String,
    /// Price of one of its nodes for one hour.
    node_hour: f64,
    /// Slots of a rank there.
    slots: u32,
    /// Time that a request was expected to wait.
    wait_s: f64,
    /// What that is based on.
    wait_from: WaitSource,
    /// Time after which the next site is asked, too; null: never.
    patience_s: Option<f64>,
    /// Number of further nodes that it could be asked for; null: no limit is known.
    room: Option<u32>,
    /// Why it was asked, or not; empty if the order alone decided.
    choice: String,
}

/// Answers `/api/v1/sites`.
pub(super) fn sites(live: &Live) -> Sites {
    let Some(request) = live.view.session().site_requests.last() else {
        return Sites { t: None, reason: String::new(), sites: Vec::new() };
    };
    let row = |site: &SiteView| SiteRow {
        name: site.name.clone(),
        node_hour: site.node_hour,
        slots: site.slots,
        wait_s: site.wait_s,
        wait_from: site.wait_from,
        patience_s: site.patience().map(|patience| patience.as_secs_f64()),
        room: site.room,
        choice: site.verdict(request.asked()),
    };
    Sites {
        t: Some(request.time.seconds()),
        reason: request.reason.clone(),
        sites: request.candidates.iter().map(row).collect(),
    }
}

/// Values that tasks wrote.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "Measures")]
pub(super) struct ApiValues {
    /// Statistics of the values, by name.
    values: Vec<ApiValue>,
}

/// Statistics of the values of one name.
#[derive(Serialize, JsonSchema)]
struct ApiValue {
    /// The name.
    name: String,
    /// Mean of the values.
    mean: f64,
    #[serde(flatten)]
    figure: Figure,
}

/// Answers `/api/v1/measures`.
pub(super) fn measures(live: &Live) -> ApiValues {
    ApiValues {
        values: live
            .measures
            .iter()
            .map(|(name, figure)| ApiValue { name: name.to_owned(), mean: figure.mean(), figure: figure.clone() })
            .collect(),
    }
}

/// The cost of the run over time.
#[derive(Serialize, JsonSchema)]
pub(super) struct Spend {
    /// Points in time, the earliest first.
    course: Vec<Paid>,
}

/// The cost at one time.
#[derive(Serialize, JsonSchema)]
struct Paid {
    /// The time.
    t: f64,
    /// The bill up to then.
    spent: f64,
}

/// Answers `/api/v1/spend`.
pub(super) fn spend(live: &Live, points: Option<usize>) -> Spend {
    let points = points.unwrap_or(300).clamp(1, POINTS);
    let course = live.spending.iter().flat_map(|spending| spending.course(points));
    Spend { course: course.map(|(t, spent)| Paid { t: t.seconds(), spent }).collect() }
}

/// The classes of tasks.
#[derive(Serialize, JsonSchema)]
pub(super) struct Classes {
    /// Statistics of the ended attempts of each class.
    classes: Vec<ClassRow>,
}

/// One class of tasks.
#[derive(Serialize, JsonSchema)]
struct ClassRow {
    /// Its name.
    name: String,
    /// Attempts that ended.
    attempts: u64,
    /// Attempts that failed.
    failed: u64,
    /// Slot-seconds of ended attempts.
    work_s: f64,
    /// Mean run time.
    mean_s: f64,
    /// Median run time.
    p50_s: f64,
    /// 95th percentile of the run time.
    p95_s: f64,
    /// 99th percentile of the run time.
    p99_s: f64,
    /// Longest run time.
    max_s: f64,
    /// 95th percentile of the time between ready and start.
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

/// The progress of the run over time.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "History")]
pub(super) struct DecisionHistory {
    /// Samples in the interval, the earliest first.
    samples: Vec<Sample>,
}

/// Answers `/api/v1/history`.
pub(super) fn history(live: &Live, from: Option<f64>, to: Option<f64>, points: Option<usize>) -> DecisionHistory {
    let points = points.unwrap_or(300).clamp(1, POINTS);
    DecisionHistory { samples: live.samples.between(from.unwrap_or(0.0), to.unwrap_or(f64::INFINITY), points) }
}

/// Failed attempts.
#[derive(Serialize, JsonSchema)]
pub(super) struct Failures {
    /// The latest failed attempts, the latest first.
    failures: Vec<FailureRow>,
}

/// One failed attempt.
#[derive(Serialize, JsonSchema)]
struct FailureRow {
    /// The task, by index in an array or matrix.
    task: String,
    /// Its name as it is shown: by values in a matrix whose values are names.
    label: String,
    /// How the attempt ended.
    state: &'static str,
    /// Exit code; -n after signal n.
    exit: i32,
    /// Number of the attempt; the first is 1.
    attempt: u16,
    /// True if no further attempt follows.
    last: bool,
    /// The rank that ran it.
    rank: u32,
    /// Name of its node.
    node: String,
    /// When it ended.
    ended_s: f64,
    /// How long it ran.
    ran_s: f64,
    /// Why Phalanx made it fail, if it did.
    reason: Option<String>,
    /// The end of its standard output, if standard error is empty or both are short.
    stdout: String,
    /// The end of its standard error.
    stderr: String,
}

/// Answers `/api/v1/failures`.
pub(super) fn failures(live: &Live) -> Failures {
    let session = live.view.session();
    let attempts = live.totals.failures.iter().filter_map(|&index| session.attempts.get(index));
    let row = |attempt: &crate::model::Attempt| {
        // Unreadable output is reported by `phalanx report --failed`; here the failure itself
        // matters.
        let failure = TaskFailure { task: attempt.task, session, attempt };
        let tails = tails_of(&live.view, &failure).unwrap_or_default();
        let text = |stream| tails.iter().find(|tail| tail.stream == stream).map(OutputTail::text).unwrap_or_default();
        FailureRow {
            task: live.view.subject().job.label(attempt.task).indexed(),
            label: live.view.subject().job.label(attempt.task).to_string(),
            state: attempt.outcome.state.name(),
            exit: attempt.outcome.exit,
            attempt: attempt.attempt,
            last: attempt.last,
            rank: attempt.rank.0,
            node: node_of(session, attempt.rank).to_owned(),
            ended_s: attempt.end.seconds(),
            ran_s: run_ns(attempt) as f64 / 1e9,
            reason: session.reason(attempt).map(str::to_owned),
            stdout: text(Stream::Out),
            stderr: text(Stream::Err),
        }
    };
    Failures { failures: attempts.map(row).collect() }
}
