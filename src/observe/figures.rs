//! Computes the figures of a run from its journal.
//!
//! Work is counted in slot-seconds: a task with four CPUs that runs for a second is four
//! slot-seconds, whether it succeeds or not. Wall time is the time during which sessions ran; time
//! between two sessions does not count.

use std::collections::BTreeSet;

use rustc_hash::FxHashMap;
use serde::{Serialize, Serializer};

use super::job_view::SessionJob;
use super::run_view::{RunState, RunView, run_ns};
use super::samples::RecordedSamples;
use super::slots::SlotFigures;
use crate::graph::TaskGraph;
use crate::job::JobPart;
use crate::journal::{Holding, NodeHolding, Session};
use crate::model::{Attempt, Rank, State, TaskId, Time, total};

/// Number of tasks per state, in the order of [`State::ALL`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StateCounts([u32; State::ALL.len()]);

impl StateCounts {
    /// Number of tasks in a state.
    pub fn of(&self, state: State) -> u32 {
        self.0[state as usize]
    }

    /// The states that occur, with their counts.
    pub fn present(&self) -> impl Iterator<Item = (State, u32)> {
        State::ALL.into_iter().zip(self.0).filter(|(_, count)| *count > 0)
    }

    /// Number of tasks that ran and did not succeed.
    pub fn failures(&self) -> u32 {
        self.present().filter(|(state, _)| state.is_failure()).map(|(_, count)| count).sum()
    }
}

impl Serialize for StateCounts {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(State::ALL.iter().zip(self.0).map(|(state, count)| (state.name(), count)))
    }
}

/// The figures of a run. A ratio is `None` where its denominator is zero or unknown.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Figures {
    /// Tasks of the job.
    pub tasks: u32,
    /// Those of them that the last session leaves out.
    pub left_out: u32,
    /// The others by state.
    pub counts: StateCounts,
    /// Ranks of the last session in which a task ran.
    pub ranks: u32,
    /// Slots of that session.
    pub slots: u32,
    /// Nodes of that session.
    pub nodes: u32,
    /// Total duration of the sessions in seconds.
    pub wall_s: f64,
    /// Slot-seconds of all attempts.
    pub work_s: f64,
    /// Length of the critical path in seconds, with measured durations.
    pub critical_path_s: Option<f64>,
    /// Work over slots times wall time, 0 to 1; slots are the mean where their number changes.
    pub utilisation: Option<f64>,
    /// Mean over maximum of the ranks' work per slot, 0 to 1 (sessions weighted by their work).
    pub balance: Option<f64>,
    /// Bytes along edges between tasks on different ranks; an edge into a join counts once per rank
    /// behind the join.
    pub bytes_moved: u64,
    /// Node-seconds billed.
    pub billed_node_s: f64,
    /// Node-seconds with an active rank on the node.
    pub active_node_s: f64,
    /// Total cost, if the job has a price or a policy.
    pub cost: Option<f64>,
    /// Budget of the run.
    pub budget: Option<f64>,
    /// Deadline, in seconds since the first session began.
    pub deadline_s: Option<f64>,
    /// True if the work has not ended by then.
    pub deadline_missed: Option<bool>,
}

impl Figures {
    /// Computes the figures.
    pub fn of(run: &RunView) -> Figures {
        let mut totals = SessionTotals::default();
        for (session, subject) in run.sessions() {
            totals.add(session, subject, run.wall_ns(session));
        }
        let (last, working) = (run.session(), run.working_session());
        let most = Most::of(&working.holdings(Time(run.wall_ns(working))));
        let subject = run.subject();
        let (tasks, left_out) = (subject.job.task_count(), left_out(run).count() as u32);
        let terms = last.terms.as_ref();
        let deadline = terms.and_then(|terms| terms.prices.deadline);
        let changing = SlotFigures::of(run).map_or(1.0, |slots| slots.mean_ratio());
        Figures {
            tasks,
            left_out,
            counts: counts(run, tasks.saturating_sub(left_out)),
            ranks: most.ranks,
            slots: most.slots,
            nodes: most.nodes,
            wall_s: totals.wall_s,
            work_s: totals.work_s,
            critical_path_s: critical_path_s(run),
            utilisation: share(totals.work_s, totals.slot_s * changing)
                .map(|used| if changing > 1.0 { used.min(1.0) } else { used }),
            balance: share(totals.balance_times_work, totals.work_s),
            bytes_moved: totals.bytes_moved,
            billed_node_s: totals.node_s,
            active_node_s: totals.active_node_s,
            cost: totals.cost,
            budget: terms.and_then(|terms| terms.prices.budget),
            deadline_s: deadline.map(Time::seconds),
            deadline_missed: deadline.map(|deadline| run.work_end_s() > deadline.seconds()),
        }
    }
}

/// Totals over all sessions.
#[derive(Default)]
struct SessionTotals {
    wall_s: f64,
    work_s: f64,
    slot_s: f64,
    node_s: f64,
    active_node_s: f64,
    cost: Option<f64>,
    balance_times_work: f64,
    bytes_moved: u64,
}

impl SessionTotals {
    fn add(&mut self, session: &Session, subject: &SessionJob, wall_ns: u64) {
        let wall_s = wall_ns as f64 / 1e9;
        let mut busy: FxHashMap<u32, f64> = FxHashMap::default();
        for attempt in &session.attempts {
            subject.job.each_rank(attempt, &mut |rank, slots| {
                *busy.entry(rank).or_default() += run_ns(attempt) as f64 / 1e9 * f64::from(slots);
            });
        }
        let work_s = total(busy.values().copied());
        self.wall_s += wall_s;
        self.work_s += work_s;
        let (end, seconds) = (Time(wall_ns), |from: Time, to: Time| to.since(from).as_secs_f64());
        let (ranks, nodes) = (session.holdings(end), session.nodes(end));
        self.slot_s += ranks.iter().map(|rank| seconds(rank.from, rank.to) * f64::from(rank.slots)).sum::<f64>();
        let charged = |node: &NodeHolding| match session.terms.as_ref() {
            Some(terms) => terms.prices.charged(node.node_type, node.from, node.to).as_secs_f64(),
            None => seconds(node.from, node.to),
        };
        self.node_s += session.billed_nodes(end).iter().map(charged).sum::<f64>();
        self.active_node_s += nodes.iter().map(|node| node.active.as_secs_f64()).sum::<f64>();
        if let Some(terms) = &session.terms {
            *self.cost.get_or_insert(0.0) += session.bill(&terms.prices, end);
        }
        self.balance_times_work += work_s * balance(&ranks, &busy).unwrap_or(1.0);
        let moved = subject.graph.as_ref().map_or(0, |graph| bytes_moved(graph, &session.attempts));
        self.bytes_moved = self.bytes_moved.saturating_add(moved);
    }
}

/// Bytes that a session transferred between ranks, as far as the job file gives sizes.
fn bytes_moved(graph: &TaskGraph, attempts: &[Attempt]) -> u64 {
    let mut ran_on = vec![None; graph.node_count()];
    for attempt in attempts.iter().filter(|a| a.outcome.ok() && a.task.index() < graph.task_count()) {
        ran_on[attempt.task.index()] = Some(attempt.rank);
    }
    let mut moved = 0u64;
    for (node, rank) in ran_on.iter().enumerate().filter_map(|(node, rank)| Some((node as u32, (*rank)?))) {
        for (k, edge) in graph.successors(node).enumerate() {
            let bytes = graph.edge_bytes(node, k);
            if bytes > 0 {
                moved = moved.saturating_add(bytes.saturating_mul(ranks_behind(graph, &ran_on, edge.node(), rank)));
            }
        }
    }
    moved
}

/// Number of ranks other than `from` that ran a node, or the nodes behind a join.
fn ranks_behind(graph: &TaskGraph, ran_on: &[Option<Rank>], node: u32, from: Rank) -> u64 {
    let mut ranks: Vec<Rank> = match graph.join(node) {
        None => ran_on[node as usize].into_iter().collect(),
        Some(_) => graph.successors(node).filter_map(|e| ran_on[e.node() as usize]).collect(),
    };
    ranks.sort_unstable();
    ranks.dedup();
    ranks.iter().filter(|&&rank| rank != from).count() as u64
}

/// Mean over maximum of the load of ranks, where a rank that was active half of the time has half
/// of the capacity.
fn balance(ranks: &[Holding], busy: &FxHashMap<u32, f64>) -> Option<f64> {
    let capacity = |rank: &Holding| rank.active.as_secs_f64() * f64::from(rank.slots);
    // Capacities are relative to the largest, so that equal ranks compare by their work without
    // rounding errors.
    let largest = ranks.iter().map(capacity).fold(0.0, f64::max);
    let working = ranks.iter().filter(|rank| capacity(rank) > 0.0);
    let work = |rank: &Holding| busy.get(&rank.rank).copied().unwrap_or(0.0);
    let per_slot: Vec<f64> = working.map(|rank| work(rank) / (capacity(rank) / largest)).collect();
    let max = per_slot.iter().copied().fold(0.0, f64::max);
    share(per_slot.iter().sum::<f64>() / per_slot.len() as f64, max)
}

fn share(part: f64, whole: f64) -> Option<f64> {
    (whole > 0.0).then(|| part / whole)
}

/// Maximum number held at once.
#[derive(Clone, Copy, Default)]
struct Most {
    ranks: u32,
    slots: u32,
    nodes: u32,
}

impl Most {
    fn of(ranks: &[Holding]) -> Most {
        let mut most = Most::default();
        let moments: BTreeSet<Time> = ranks.iter().map(|rank| rank.from).collect();
        for at in moments {
            let held = || ranks.iter().filter(move |rank| rank.from <= at && (at < rank.to || rank.from == rank.to));
            let mut nodes: Vec<&str> = held().map(|rank| rank.node.as_str()).collect();
            nodes.sort_unstable();
            nodes.dedup();
            most.ranks = most.ranks.max(held().count() as u32);
            most.slots = most.slots.max(held().map(|rank| rank.slots).sum());
            most.nodes = most.nodes.max(nodes.len() as u32);
        }
        most
    }
}

fn counts(run: &RunView, tasks: u32) -> StateCounts {
    let mut counts = StateCounts::default();
    let mut ended = 0;
    for (_, state) in states(run) {
        counts.0[state as usize] += 1;
        ended += 1;
    }
    let open = tasks.saturating_sub(ended);
    let (running, ready) = running_and_ready(run, open);
    counts.0[State::Running as usize] += running;
    counts.0[State::Ready as usize] += ready;
    counts.0[State::Pending as usize] += open - running - ready;
    counts
}

/// Of this number of open tasks those that run and those that are ready, as far as known.
fn running_and_ready(run: &RunView, open: u32) -> (u32, u32) {
    let mut samples = RecordedSamples::default();
    if run.state() == RunState::Running {
        samples.read_on(&run.dir.samples());
    }
    let (running, ready) = samples.running_and_ready(open.into());
    (running as u32, ready as u32)
}

/// One of several jobs that a run consists of.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct JobFigures {
    /// Its name, which precedes the names of its tasks.
    pub job: String,
    /// Its tasks.
    pub task_count: u32,
    /// Those of them that the last session leaves out.
    pub left_out: u32,
    /// The others by state.
    pub tasks: StateCounts,
}

/// The figures of each of several jobs; empty for a run of one.
pub fn of_jobs(run: &RunView) -> Vec<JobFigures> {
    let Some(job) = run.subject().job.whole().filter(|job| !job.parts.is_empty()) else { return Vec::new() };
    let firsts: Vec<u32> = job.parts.iter().map(|part| part.first_task.0).collect();
    let ends = firsts.iter().skip(1).copied().chain([job.task_count() as u32]);
    let left_out: Vec<u32> = left_out(run).collect();
    let figures = |((part, first), end): ((&JobPart, &u32), u32)| {
        let below = |end: u32| left_out.partition_point(|task| *task < end) as u32;
        let out = below(end) - below(*first);
        let (job, task_count) = (part.name.clone(), end - first);
        let mut tasks = StateCounts::default();
        tasks.0[State::Pending as usize] = task_count - out;
        JobFigures { job, task_count, left_out: out, tasks }
    };
    let mut parts: Vec<JobFigures> = job.parts.iter().zip(&firsts).zip(ends).map(figures).collect();
    for (task, state) in states(run) {
        let at = firsts.partition_point(|first| *first <= task.0);
        if let Some(job) = at.checked_sub(1).and_then(|at| parts.get_mut(at)) {
            job.tasks.0[state as usize] += 1;
            job.tasks.0[State::Pending as usize] = job.tasks.0[State::Pending as usize].saturating_sub(1);
        }
    }
    let mut all: Vec<JobFigures> = Vec::new();
    for part in parts {
        match all.iter_mut().find(|job| job.job == part.job) {
            Some(job) => job.add(&part),
            None => all.push(part),
        }
    }
    all
}

impl JobFigures {
    /// Adds tasks that were added to the job.
    fn add(&mut self, added: &JobFigures) {
        self.task_count += added.task_count;
        self.left_out += added.left_out;
        self.tasks.0.iter_mut().zip(added.tasks.0).for_each(|(count, more)| *count += more);
    }
}

/// The tasks that the last session leaves out, ascending. One that has failed in an earlier session
/// is shown as that.
fn left_out(run: &RunView) -> impl Iterator<Item = u32> {
    let tasks = run.subject().job.task_count();
    let ranges = run.session().left_out.iter().flat_map(|left_out| &left_out.tasks);
    let ranges = ranges.map(move |range| range.start..range.end.min(tasks));
    let has_state = |task: &u32| run.replay.latest(TaskId(*task)).is_some_and(|(_, attempt)| attempt.last);
    ranges.flatten().filter(move |task| !has_state(task))
}

/// The state of each ended task of the last session, by number of the task.
pub(super) fn states(run: &RunView) -> impl Iterator<Item = (TaskId, State)> {
    let tasks = run.subject().job.task_count();
    let ended = run.replay.all_latest().filter(move |(task, _, attempt)| task.0 < tasks && attempt.last);
    ended.map(|(task, _, attempt)| (task, attempt.outcome.state))
}

fn critical_path_s(run: &RunView) -> Option<f64> {
    let graph = run.subject().graph.as_ref()?;
    let measured = |task: TaskId| run.replay.latest(task).map_or(0, |(_, attempt)| run_ns(attempt));
    Some(graph.order(&measured).critical_path as f64 / 1e9)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graph::link::{Condition, Link, LinkShape};
    use crate::model::Outcome;

    #[test]
    fn bytes_move_between_ranks_once_for_each_rank_behind_a_join() {
        // 0 and 1 feed 2 to 4 through a join; 4 feeds 5 directly.
        let link = |from, to, bytes| Link { from, to, shape: LinkShape::All, on: Condition::Ok, bytes, span: 0..0 };
        let graph = TaskGraph::build(&[2, 2, 1, 1], &[link(0, 1, 10), link(1, 2, 0), link(2, 3, 7)]).unwrap();
        let on = |task: u32, rank: u32| Attempt {
            task: TaskId(task),
            attempt: 1,
            outcome: Outcome::OK,
            last: true,
            rank: Rank(rank),
            slot: 0,
            ready: Time::ZERO,
            start: Time::ZERO,
            end: Time::ZERO,
        };
        let attempts = [on(0, 0), on(1, 1), on(2, 1), on(3, 2), on(4, 0), on(5, 1)];
        assert_eq!(bytes_moved(&graph, &attempts), 10 * 2 + 10 + 7);
    }
}
