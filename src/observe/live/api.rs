//! The answers as JSON. The field names are those of `openapi.json` beside this file, which a test holds against a running server; they are
//! kept once published. Times are seconds since the session began.

use serde::Serialize;

use super::Live;
use crate::journal::{Level, utc};
use crate::model::{State, Stream};
use crate::observe::run_view::{node_of, run_ns};
use crate::observe::samples::Sample;
use crate::observe::style::printable;

/// Lines and bytes of a failed task's output.
const TAIL: [usize; 2] = [10, 8192];
/// The most points of a history.
const POINTS: usize = 1000;
/// The latest warnings and errors that are told.
const NOTES: usize = 20;

#[derive(Serialize)]
pub(super) struct Run {
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

/// `/api/v1/run`
pub(super) fn run(live: &Live) -> Run {
    let (session, totals) = (live.view.session(), &live.totals);
    let tasks = u64::from(live.view.subject().job.task_count());
    let (running, queued) = live.running_and_queued();
    let sample = live.samples.last().filter(|sample| sample.node_memory > 0);
    let grave = session.notes.iter().rev().filter(|note| note.level > Level::Info).take(NOTES);
    Run {
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
        ranks: session.began.ranks.len(),
        slots: session.began.ranks.iter().map(|rank| u64::from(rank.slots)).sum(),
        work_s: totals.work_s(),
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

/// Tasks that are neither over nor running nor waiting for a slot.
pub(super) fn pending(live: &Live) -> u64 {
    let (running, queued) = live.running_and_queued();
    u64::from(live.view.subject().job.task_count()).saturating_sub(live.totals.ended() + running + queued)
}

#[derive(Serialize)]
pub(super) struct Ranks {
    ranks: Vec<RankRow>,
}

#[derive(Serialize)]
struct RankRow {
    rank: u32,
    node: String,
    slots: u32,
    attempts: u64,
    failed: u64,
    work_s: f64,
    used: f64,
}

/// `/api/v1/ranks`
pub(super) fn ranks(live: &Live) -> Ranks {
    let elapsed = live.elapsed_s();
    let row = |info: &crate::journal::RankInfo| {
        let totals = live.totals.ranks.get(&info.rank).cloned().unwrap_or_default();
        let held = elapsed * f64::from(info.slots);
        RankRow {
            rank: info.rank,
            node: info.node.clone(),
            slots: info.slots,
            attempts: totals.attempts,
            failed: totals.failed,
            work_s: totals.work_s,
            used: if held > 0.0 { (totals.work_s / held).min(1.0) } else { 0.0 },
        }
    };
    Ranks { ranks: live.view.session().began.ranks.iter().map(row).collect() }
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

/// `/api/v1/classes`
pub(super) fn classes(live: &Live) -> Classes {
    let row = |class: &crate::observe::latency::Class| ClassRow {
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
pub(super) struct History {
    samples: Vec<Sample>,
}

/// `/api/v1/history`
pub(super) fn history(live: &Live, from: Option<f64>, to: Option<f64>, points: Option<usize>) -> History {
    let points = points.unwrap_or(300).clamp(1, POINTS);
    History { samples: live.samples.between(from.unwrap_or(0.0), to.unwrap_or(f64::INFINITY), points) }
}

#[derive(Serialize)]
pub(super) struct Failures {
    failures: Vec<FailureRow>,
}

#[derive(Serialize)]
struct FailureRow {
    task: String,
    state: &'static str,
    exit: i32,
    attempt: u16,
    last: bool,
    rank: u32,
    node: String,
    ended_s: f64,
    ran_s: f64,
    stderr: String,
}

/// `/api/v1/failures`
pub(super) fn failures(live: &Live) -> Failures {
    let session = live.view.session();
    let attempts = live.totals.failures.iter().filter_map(|&index| session.attempts.get(index));
    let row = |attempt: &crate::model::Attempt| {
        let [lines, bytes] = TAIL;
        // Output that cannot be read is told by `phalanx report --failed`; here the failure itself is what counts.
        let tail =
            live.view.outputs.tail(session.began.session, attempt, Stream::Err, lines, bytes).unwrap_or_default();
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
            stderr: tail
                .split(|&byte| byte == b'\n')
                .map(printable)
                .collect::<Vec<_>>()
                .join("\n")
                .trim_end()
                .to_owned(),
        }
    };
    Failures { failures: attempts.map(row).collect() }
}
