//! Exports a run in the Chrome trace format, for Perfetto (<https://ui.perfetto.dev>) and
//! `chrome://tracing`.
//!
//! Ranks are processes, slots are threads, attempts are slices, dependencies are flows. Counters
//! show queued, running and completed tasks, active and busy ranks, cost, and resource usage of
//! ranks. All data come from the journal. Slices are complete whatever the size of the run; flows
//! and counters are limited, and [`Contents`] reports what was left out:
//!
//! - Up to `FLOWS` dependencies between tasks that ran are all shown. In larger runs only the
//!   dependency that each task waited for last is shown, and of those the first `FLOWS`.
//! - Counters keep at most `POINTS` points each.

use std::io::{self, Write};

use rustc_hash::FxHashMap;
use serde::Serialize;

use super::chain::binding;
use super::print::ReportError;
use super::run_view::RunView;
use super::spending::Spending;
use super::steps::{StepCounters, Steps};
use super::style::outcome;
use super::timeline::{Slice, Timeline};
use super::vitals::{self, Vital};
use crate::graph::TaskGraph;
use crate::journal::Level;
use crate::model::Time;

/// Maximum number of dependencies shown.
const FLOWS: usize = 100_000;
/// Maximum number of points per counter.
const POINTS: usize = 20_000;
/// Maximum number of usage records of ranks shown.
const VITALS: usize = 100_000;
/// Points of the cost counter.
const SPENDING: usize = 1000;
/// Process id for the whole run. Ranks are numbered from 1, because viewers reserve 0.
const RUN: u64 = 1 << 30;

/// Counts of what a trace holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Contents {
    /// Attempts.
    pub slices: usize,
    /// Dependencies.
    pub flows: usize,
    /// Dependencies between tasks that ran, left out because of the limit.
    pub flows_left_out: usize,
}

/// Writes the trace of a run.
///
/// # Errors
/// If the output cannot be written.
pub fn write_trace(out: &mut dyn Write, run: &RunView) -> Result<Contents, ReportError> {
    let timeline = Timeline::of(run);
    let mut events = Events { out, first: true };
    events.begin(run)?;
    write_names(&mut events, run, &timeline)?;
    write_slices(&mut events, run, &timeline)?;
    let (flows, flows_left_out) = write_flows(&mut events, run, &timeline)?;
    write_counters(&mut events, &StepCounters::of(&timeline))?;
    write_spending(&mut events, run)?;
    write_vitals(&mut events, run)?;
    write_notes(&mut events, run)?;
    events.end()?;
    Ok(Contents { slices: timeline.slices.len(), flows, flows_left_out })
}

/// One entry of `traceEvents`, with the field names of the format.
#[derive(Serialize)]
struct TraceEvent<'a, A: Serialize> {
    ph: &'static str,
    pid: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    tid: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ts: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    dur: Option<f64>,
    name: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    cat: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<u64>,
    /// End of a flow: `e` binds it to the enclosing slice.
    #[serde(skip_serializing_if = "Option::is_none")]
    bp: Option<&'static str>,
    /// Scope of an instant: global.
    #[serde(skip_serializing_if = "Option::is_none")]
    s: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    args: Option<A>,
}

impl<'a, A: Serialize> TraceEvent<'a, A> {
    fn new(ph: &'static str, pid: u64, name: &'a str) -> TraceEvent<'a, A> {
        TraceEvent { ph, pid, tid: None, ts: None, dur: None, name, cat: None, id: None, bp: None, s: None, args: None }
    }
}

/// Writes the JSON document event by event.
struct Events<'a> {
    out: &'a mut dyn Write,
    first: bool,
}

impl Events<'_> {
    fn begin(&mut self, run: &RunView) -> Result<(), ReportError> {
        let about = serde_json::json!({
            "run": run.name(), "job": run.subject().job.name(), "state": run.state().name(),
            "phalanx": run.session().began.phalanx,
        });
        write!(self.out, "{{\"displayTimeUnit\":\"ms\",\"otherData\":{about},\"traceEvents\":[")?;
        Ok(())
    }

    fn put<A: Serialize>(&mut self, event: &TraceEvent<'_, A>) -> Result<(), ReportError> {
        self.out.write_all(if self.first { b"\n" } else { b",\n" })?;
        self.first = false;
        serde_json::to_writer(&mut *self.out, event).map_err(ReportError::Json)
    }

    fn end(&mut self) -> io::Result<()> {
        self.out.write_all(b"\n]}\n")
    }
}

/// Converts to microseconds, the unit of the format.
fn us(ns: u64) -> f64 {
    ns as f64 / 1e3
}

fn pid(rank: u32) -> u64 {
    u64::from(rank) + 1
}

/// Thread id of a slot; further lanes of a slot follow after all slots.
fn tid(slice: &Slice) -> u64 {
    u64::from(slice.slot) + (u64::from(slice.lane) << 16) + 1
}

#[derive(Serialize)]
struct Name<'a> {
    name: &'a str,
}

#[derive(Serialize)]
struct Sort {
    sort_index: i64,
}

fn named<'a>(pid: u64, what: &'static str, name: &'a str) -> TraceEvent<'static, Name<'a>> {
    TraceEvent { args: Some(Name { name }), ..TraceEvent::new("M", pid, what) }
}

fn write_names(events: &mut Events<'_>, run: &RunView, timeline: &Timeline) -> Result<(), ReportError> {
    let sort = |pid, sort_index| TraceEvent {
        args: Some(Sort { sort_index }),
        ..TraceEvent::new("M", pid, "process_sort_index")
    };
    events.put(&named(RUN, "process_name", &run.name()))?;
    events.put(&sort(RUN, -1))?;
    let mut nodes: FxHashMap<u32, String> = FxHashMap::default();
    for (session, _) in run.sessions() {
        let joined = session.ranks.iter().map(|change| &change.info);
        nodes.extend(session.began.ranks.iter().chain(joined).map(|info| (info.rank, info.node.clone())));
    }
    let mut nodes: Vec<(u32, String)> = nodes.into_iter().collect();
    nodes.sort_unstable();
    for (rank, node) in nodes {
        events.put(&named(pid(rank), "process_name", &format!("rank {rank} on {node}")))?;
        events.put(&sort(pid(rank), i64::from(rank)))?;
    }
    let mut threads: Vec<(u32, u64, u16)> =
        timeline.slices.iter().map(|slice| (slice.rank, tid(slice), slice.slot)).collect();
    threads.sort_unstable();
    threads.dedup();
    for (rank, tid, slot) in threads {
        let name = format!("slot {slot}");
        events.put(&TraceEvent { tid: Some(tid), ..named(pid(rank), "thread_name", &name) })?;
    }
    Ok(())
}

#[derive(Serialize)]
struct About {
    task: u32,
    attempt: u16,
    state: String,
    slots: u32,
    waited_us: f64,
}

fn write_slices(events: &mut Events<'_>, run: &RunView, timeline: &Timeline) -> Result<(), ReportError> {
    for slice in &timeline.slices {
        let about = About {
            task: slice.task.0,
            attempt: slice.attempt,
            state: outcome(slice.outcome),
            slots: slice.slots,
            waited_us: us(slice.waited()),
        };
        events.put(&TraceEvent {
            tid: Some(tid(slice)),
            ts: Some(us(slice.start)),
            dur: Some(us(slice.ran())),
            cat: Some(&timeline.classes[slice.class as usize]),
            args: Some(about),
            ..TraceEvent::new("X", pid(slice.rank), &timeline.label(run, slice).to_string())
        })?;
    }
    Ok(())
}

/// Writes the dependencies of the last session; returns the numbers written and left out.
fn write_flows(events: &mut Events<'_>, run: &RunView, timeline: &Timeline) -> Result<(usize, usize), ReportError> {
    let Some(graph) = &run.subject().graph else { return Ok((0, 0)) };
    let last = timeline.sessions.len() as u32 - 1;
    let here: Vec<usize> = (0..timeline.slices.len()).filter(|&i| timeline.slices[i].session == last).collect();
    let slices = by_task(graph, timeline, &here);
    let all = count_dependencies(graph, &slices);
    let mut drawn = 0;
    let mut draw = |from: usize, to: usize| -> Result<(), ReportError> {
        if drawn < FLOWS {
            write_flow(events, drawn as u64, &timeline.slices[from], &timeline.slices[to])?;
            drawn += 1;
        }
        Ok(())
    };
    let before = if all > FLOWS as u64 { binding(graph, timeline, &here) } else { Vec::new() };
    for &to in &here {
        let task = timeline.slices[to].task;
        if task.index() >= graph.task_count() || slices[task.index()] != Some(to) {
            continue;
        }
        match before.get(task.index()) {
            Some(from) => from.iter().try_for_each(|&from| draw(from, to))?,
            None => {
                let from = graph.tasks_before(task).into_iter().filter_map(|before| slices[before.index()]);
                from.into_iter().try_for_each(|from| draw(from, to))?;
            }
        }
    }
    let left_out = if before.is_empty() { 0 } else { usize::try_from(all).unwrap_or(usize::MAX).saturating_sub(drawn) };
    Ok((drawn, left_out))
}

/// The last slice of each task.
fn by_task(graph: &TaskGraph, timeline: &Timeline, here: &[usize]) -> Vec<Option<usize>> {
    let mut slices = vec![None; graph.task_count()];
    for &i in here {
        if let Some(slot) = slices.get_mut(timeline.slices[i].task.index()) {
            *slot = Some(i);
        }
    }
    slices
}

/// Number of dependencies between tasks that ran, with joins resolved. A task that is needed
/// through two joins counts twice.
fn count_dependencies(graph: &TaskGraph, slices: &[Option<usize>]) -> u64 {
    let mut tasks_before = vec![0u64; graph.node_count()];
    let mut sum = 0u64;
    for node in graph.topological().iter() {
        let is_join = graph.join(node).is_some();
        let ran = is_join || slices[node as usize].is_some();
        if !is_join && ran {
            sum = sum.saturating_add(tasks_before[node as usize]);
        }
        let own = if is_join { tasks_before[node as usize] } else { u64::from(ran) };
        for edge in graph.successors(node) {
            let known = &mut tasks_before[edge.node() as usize];
            *known = known.saturating_add(own);
        }
    }
    sum
}

fn write_flow(events: &mut Events<'_>, id: u64, from: &Slice, to: &Slice) -> Result<(), ReportError> {
    let end = |ph, slice: &Slice, at: u64| TraceEvent::<()> {
        tid: Some(tid(slice)),
        ts: Some(us(at)),
        cat: Some("dependency"),
        id: Some(id),
        ..TraceEvent::new(ph, pid(slice.rank), "needs")
    };
    // A flow binds to the slice that encloses its begin time, and a slice excludes its end.
    events.put(&end("s", from, from.end.saturating_sub(1).max(from.start)))?;
    events.put(&TraceEvent { bp: Some("e"), ..end("f", to, to.start) })
}

fn write_counters(events: &mut Events<'_>, counters: &StepCounters) -> Result<(), ReportError> {
    let all: [(&str, &Steps); 5] = [
        ("tasks queued", &counters.queued),
        ("tasks running", &counters.running),
        ("tasks done", &counters.done),
        ("ranks active", &counters.active),
        ("ranks busy", &counters.busy),
    ];
    #[derive(Serialize)]
    struct Value {
        value: i64,
    }
    for (name, steps) in all {
        for (at, value) in steps.thinned(POINTS) {
            events.put(&TraceEvent {
                ts: Some(us(at)),
                args: Some(Value { value }),
                ..TraceEvent::new("C", RUN, name)
            })?;
        }
    }
    Ok(())
}

/// Writes the cost of the last session, and its budget, if nodes have a price.
fn write_spending(events: &mut Events<'_>, run: &RunView) -> Result<(), ReportError> {
    #[derive(Serialize)]
    struct Money {
        value: f64,
    }
    let Some(spending) = Spending::of(run) else { return Ok(()) };
    let mut put = |name, at: Time, value: f64| {
        let ts = Some(us(run.on_run_clock(run.session(), at)));
        events.put(&TraceEvent { ts, args: Some(Money { value }), ..TraceEvent::new("C", RUN, name) })
    };
    for (at, spent) in spending.course(SPENDING) {
        put("spend", at, spent)?;
    }
    match spending.budget {
        Some(budget) => put("budget", Time::ZERO, budget).and_then(|()| put("budget", spending.now, budget)),
        None => Ok(()),
    }
}

/// Writes the resource usage of the ranks of the last session, as counters of their processes.
fn write_vitals(events: &mut Events<'_>, run: &RunView) -> Result<(), ReportError> {
    #[derive(Serialize)]
    struct Value {
        value: f64,
    }
    let mut before: FxHashMap<u32, Vital> = FxHashMap::default();
    for look in vitals::all(&run.dir.vitals()).into_iter().take(VITALS) {
        let at = Time((look.t * 1e9) as u64);
        let ts = Some(us(run.on_run_clock(run.session(), at)));
        let mut put = |name, value: f64| {
            events.put(&TraceEvent { ts, args: Some(Value { value }), ..TraceEvent::new("C", pid(look.rank), name) })
        };
        put("memory (MiB)", look.vitals.memory as f64 / f64::from(1 << 20))?;
        if look.vitals.gpu_memory > 0 {
            put("GPUs busy (%)", look.vitals.gpu_busy * 100.0)?;
            put("GPU memory (MiB)", look.vitals.gpu_memory_used as f64 / f64::from(1 << 20))?;
        }
        if let Some(before) = before.insert(look.rank, look) {
            put("CPUs busy", vitals::cpus(&before, &look))?;
        }
    }
    Ok(())
}

/// Writes decisions, warnings and errors as instants.
fn write_notes(events: &mut Events<'_>, run: &RunView) -> Result<(), ReportError> {
    for (session, _) in run.sessions() {
        for decision in &session.decisions {
            events.put(&TraceEvent::<()> {
                tid: Some(1),
                ts: Some(us(run.on_run_clock(session, decision.time))),
                cat: Some("decision"),
                s: Some("g"),
                ..TraceEvent::new("i", RUN, &decision.reason)
            })?;
        }
        for note in session.notes.iter().filter(|note| note.level > Level::Info) {
            let at = run.on_run_clock(session, note.time);
            events.put(&TraceEvent::<()> {
                tid: Some(1),
                ts: Some(us(at)),
                s: Some("g"),
                ..TraceEvent::new("i", RUN, &note.text)
            })?;
        }
    }
    Ok(())
}
