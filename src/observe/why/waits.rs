//! Reasons of tasks that have not started, and what is known of those that run.

use rustc_hash::FxHashSet;

use super::reason::{TaskReason, label_words};
use super::{Expectation, Explainer, LiveRank, LiveTask, LiveTasks, TaskExplanation, TaskPlace};
use crate::graph::link::Condition;
use crate::graph::{JoinRule, TaskGraph};
use crate::job::Group;
use crate::journal::last_lines;
use crate::model::{Attempt, RankRoom, State, TaskId, has_labels};
use crate::observe::live_output::printed_so_far;
use crate::observe::style::{bytes, printable};
use crate::observe::summary;
use crate::text::counted;

/// Needed tasks listed by name.
const MAX_NEEDS_SHOWN: usize = 5;

/// Nodes of the graph that are searched for a task that keeps another from running.
const MAX_REQUIRED: usize = 100_000;

/// Last lines of output shown.
const OUTPUT_LINES: usize = 5;

/// A dependency that has not been met.
pub(super) struct OpenNeed {
    task: TaskId,
    must: &'static str,
}

impl Explainer<'_> {
    /// The tasks that must end before this one can start, ascending.
    pub(super) fn open_needs(&self, task: TaskId) -> Vec<OpenNeed> {
        let Some(graph) = &self.run.subject().graph else { return Vec::new() };
        let (mut found, mut open) = (Vec::new(), vec![(task.0, None)]);
        while let Some((node, rule)) = open.pop() {
            for edge in graph.predecessors(node) {
                let must = match (rule, edge.on()) {
                    (Some(JoinRule::AnyNotOk), _) | (_, Condition::NotOk) => "fail",
                    (_, Condition::Ok) => "complete",
                    (_, Condition::Any) => "end",
                };
                match graph.join(edge.node()) {
                    Some(rule) => open.push((edge.node(), Some(rule))),
                    None if self.is_settled(TaskId(edge.node())) => {}
                    None => found.push(OpenNeed { task: TaskId(edge.node()), must }),
                }
            }
        }
        found.sort_by_key(|need| need.task);
        found.dedup_by_key(|need| need.task);
        found
    }

    /// The task whose end, together with what else it needs, will have this one skipped.
    fn obstacle(&self, task: TaskId) -> Option<(TaskId, State)> {
        let graph = self.run.subject().graph.as_ref()?;
        // Nodes without which the task cannot run.
        let (mut seen, mut required) = (FxHashSet::default(), vec![task.0]);
        while let Some(node) = required.pop() {
            for edge in graph.predecessors(node) {
                let before = edge.node();
                let ended = if graph.join(before).is_some() { None } else { self.final_state(TaskId(before)) };
                match ended {
                    Some(state) if edge.violated_by(state == State::Completed) => return Some((TaskId(before), state)),
                    None if edge.on() == Condition::Ok
                        && graph.join(before) != Some(JoinRule::AnyNotOk)
                        && seen.len() < MAX_REQUIRED
                        && seen.insert(before) =>
                    {
                        required.push(before);
                    }
                    _ => {}
                }
            }
        }
        None
    }

    /// True if there are any. What stands for many tasks is looked at once for all that need them.
    pub(super) fn has_open_needs(&self, task: TaskId) -> bool {
        self.run.subject().graph.as_ref().is_some_and(|graph| self.is_open_before(graph, task.0))
    }

    fn is_open_before(&self, graph: &TaskGraph, node: u32) -> bool {
        graph.predecessors(node).map(|edge| edge.node()).any(|before| match graph.join(before) {
            None => !self.is_settled(TaskId(before)),
            Some(_) => {
                let known = self.open_joins.borrow().get(&before).copied();
                known.unwrap_or_else(|| {
                    let is_open = self.is_open_before(graph, before);
                    self.open_joins.borrow_mut().insert(before, is_open);
                    is_open
                })
            }
        })
    }

    /// True for a task that no other waits for: it has ended, or is left out.
    fn is_settled(&self, task: TaskId) -> bool {
        self.final_state(task).is_some() || self.left_out(task).is_some()
    }

    pub(super) fn explain_waiting(&self, task: TaskId, state: State, known: &mut TaskExplanation) {
        let before = self.run.replay.latest(task);
        if let Some((session, attempt)) = before {
            self.describe_attempt(task, session, attempt, known);
        }
        let needs = self.open_needs(task);
        let lost = match self.obstacle(task) {
            Some((cause, ended)) => Some(TaskReason::WillBeSkipped { task: self.name(cause), state: ended.name() }),
            None => {
                let is_cancelled = self.live.and_then(|live| live.task(task)).is_some_and(|task| task.is_cancelled);
                is_cancelled.then_some(TaskReason::WillBeCancelled)
            }
        };
        let is_lost = lost.is_some();
        known.reasons.extend(lost);
        for need in needs.iter().take(MAX_NEEDS_SHOWN) {
            known.reasons.push(self.need_reason(need));
        }
        if let Some(more) = needs.len().checked_sub(MAX_NEEDS_SHOWN).filter(|more| *more > 0) {
            known.reasons.push(TaskReason::NeedsMore { tasks: more as u64 });
        }
        if !self.is_live() {
            let mut how = summary::explanation(self.run).unwrap_or_else(|| "all of its tasks had ended".to_owned());
            if self.run.broke_off() && needs.is_empty() && !is_lost {
                how += "; an attempt that ran then has left no record";
            }
            return known.reasons.push(TaskReason::RunEnded { how });
        }
        if is_lost {
            return;
        }
        if state == State::Ready {
            known.since_s = Some(self.ready_since_s(task));
            let failed = before.filter(|(_, attempt)| attempt.outcome.state.is_failure()).map(|(_, attempt)| attempt);
            self.explain_ready(task, failed, known);
        } else {
            let has_pools = self.run.subject().job.group(task).is_some_and(|group| !group.pools.is_empty());
            known.expected = self.expected_after(&needs).filter(|_| !has_pools);
        }
    }

    fn need_reason(&self, need: &OpenNeed) -> TaskReason {
        let running = self.live.and_then(|live| live.running(need.task));
        TaskReason::Needs {
            task: self.name(need.task),
            must: need.must,
            state: self.state(need.task).name(),
            running_s: running.map(|running| (self.now_s() - self.clock_s(running.since)).max(0.0)),
        }
    }

    /// When the last of its dependencies ended, or its own last attempt.
    fn ready_since_s(&self, task: TaskId) -> f64 {
        let graph = self.run.subject().graph.as_ref();
        let before = graph.map(|graph| graph.tasks_before(task)).unwrap_or_default();
        let ended = before.into_iter().chain([task]).filter_map(|task| self.run.replay.latest(task));
        let began = self.clock_s(crate::model::Time::ZERO);
        ended.map(|(session, a)| self.run.on_run_clock(session, a.end) as f64 / 1e9).fold(began, f64::max)
    }

    fn explain_ready(&self, task: TaskId, failed: Option<&Attempt>, known: &mut TaskExplanation) {
        let (Some(live), Some(group)) = (self.live, self.run.subject().job.group(task)) else {
            return known.reasons.push(TaskReason::NotKnown);
        };
        if live.is_stopping {
            return known.reasons.push(TaskReason::Stopping);
        }
        if let Some(attempt) = failed
            && let Some(reason) = self.retry_reason(task, attempt, group)
        {
            if let TaskReason::Retry { in_s, .. } = reason
                && in_s > 0.0
            {
                let from = "the wait of its `retries`".to_owned();
                known.expected = Some(Expectation { what: "start", in_s, from });
                return known.reasons.push(reason);
            }
            known.reasons.push(reason);
        }
        let Some(facts) = live.task(task) else { return known.reasons.push(TaskReason::NotKnown) };
        self.place_reasons(live, facts, group, &mut known.reasons);
        known.expected = self.expected_start(live, facts, group, &known.reasons);
    }

    /// The attempt that follows a failed one. Attempts that were lost with their rank do not count.
    fn retry_reason(&self, task: TaskId, attempt: &Attempt, group: &Group) -> Option<TaskReason> {
        let session = self.run.session();
        let own = session.attempts.iter().filter(|a| a.task == task && a.attempt > 0);
        let lost = own.filter(|a| a.outcome.state == State::NodeFail).count() as u16;
        let failures = attempt.attempt.saturating_sub(lost);
        let due_s = self.clock_s(attempt.end.after(group.retry.wait(failures)));
        Some(TaskReason::Retry {
            attempt: attempt.attempt.checked_add(1)?,
            left: (group.retry.count + 1).saturating_sub(failures).max(1),
            in_s: (due_s - self.now_s()).max(0.0),
        })
    }

    /// What keeps a task from starting on the rank where it is at home.
    fn place_reasons(&self, live: &LiveTasks, task: &LiveTask, group: &Group, reasons: &mut Vec<TaskReason>) {
        if let Some((limit, running)) = task.limit.filter(|(limit, running)| running >= limit) {
            let family = group.name.to_string();
            reasons.push(TaskReason::Limit { family, limit, running, open: self.open_of(group) });
        }
        if task.is_paused {
            reasons.push(TaskReason::Paused);
        }
        reasons.extend(task.pools.iter().map(|pool| TaskReason::Pool { pool: pool.clone() }));
        let active = live.ranks.iter().filter(|rank| rank.is_active && rank.slots > 0).count() as u32;
        if task.able == 0 || task.gang_room.is_some() {
            let (nodes_coming, wanted) = (live.nodes_coming, wanted(group));
            let takes_part = |rank: &&LiveRank| rank.is_active && rank.slots > 0;
            let has_labels = |rank: &LiveRank| has_labels(&rank.labels, &group.labels);
            let lacks_labels = !live.ranks.iter().filter(takes_part).any(has_labels);
            return reasons.push(match task.gang_room {
                _ if lacks_labels => TaskReason::Labels { labels: group.labels.to_vec(), nodes_coming },
                Some(room) => TaskReason::GangRoom { wanted, room, nodes_coming },
                None => TaskReason::NoRank { wanted, nodes_coming },
            });
        }
        if let Some(rank) = task.home.and_then(|home| live.rank(home)) {
            self.rank_reasons((rank, active), group, task.task, reasons);
        }
        if task.able < active {
            reasons.push(TaskReason::Placement { able: task.able, ranks: active, wanted: wanted(group) });
        }
    }

    /// `active`: number of ranks that take part.
    fn rank_reasons(&self, (at, active): (&LiveRank, u32), group: &Group, task: TaskId, reasons: &mut Vec<TaskReason>) {
        let (rank, node) = (at.rank.0, at.node.clone());
        if group.needs_gang(RankRoom { slots: at.slots, memory: at.memory, gpus: at.gpus }, active) {
            return reasons.push(TaskReason::Gang { wanted: wanted(group) });
        }
        let wanted = self.run.subject().job.slots(task);
        let memory = group.memory.unwrap_or(0);
        if memory > at.memory.saturating_sub(at.memory_taken) {
            let (taken, has, node) = (at.memory_taken, at.memory, node.clone());
            reasons.push(TaskReason::Memory { rank, node, wanted: memory, taken, has });
        }
        if group.gpus > at.gpus.saturating_sub(at.gpus_taken) {
            let (taken, has, node) = (at.gpus_taken, at.gpus, node.clone());
            reasons.push(TaskReason::Gpus { rank, node, wanted: group.gpus, taken, has });
        }
        if wanted > at.idle {
            let (idle, has, ready, node) = (at.idle, at.slots, at.ready, node.clone());
            let unnamed = has.saturating_sub(idle).saturating_sub(at.slots_taken);
            reasons.push(TaskReason::Slots { rank, node, wanted, idle, has, ready, unnamed });
        }
        if reasons.is_empty() {
            reasons.push(TaskReason::Starts { rank, node });
        }
    }

    /// Number of tasks of a family that have not ended.
    fn open_of(&self, group: &Group) -> u32 {
        let tasks = (0..group.count).map(|element| TaskId(group.first.0.saturating_add(element)));
        tasks.filter(|&task| self.final_state(task).is_none()).count() as u32
    }

    /// When a task that waits for a place will start: half of the ready tasks are before it, and
    /// they share the places that it competes for. `None` for a task of a pool: when units or
    /// starts of it are free for this task, other tasks of the pool decide.
    fn expected_start(
        &self,
        live: &LiveTasks,
        task: &LiveTask,
        group: &Group,
        reasons: &[TaskReason],
    ) -> Option<Expectation> {
        if task.is_paused || !group.pools.is_empty() {
            return None;
        }
        let (usual, from) = self.usual_time(task.task)?;
        let starts = reasons.iter().any(|reason| matches!(reason, TaskReason::Starts { .. }));
        let active = || live.ranks.iter().filter(|rank| rank.is_active);
        let slots = self.run.subject().job.slots(task.task);
        let limit = task.limit.map_or(u32::MAX, |(limit, _)| limit);
        let places = active().map(|rank| places(rank, group, slots)).sum::<u32>().min(limit);
        if places == 0 {
            return None;
        }
        // What needs more than a slot is not counted among the ready tasks of a rank.
        let own = match slots > 1 || group.memory.is_some() || group.gpus > 0 || group.limit.is_some() {
            true => self.open_of(group).saturating_sub(task.group_running),
            false => 0,
        };
        let before = f64::from(active().map(|rank| rank.ready).sum::<u32>().max(own)) / 2.0;
        // Half of the time of those that run remains.
        let in_s = if starts { 0.0 } else { (before / f64::from(places) + 0.5) * usual };
        Some(Expectation { what: "start", in_s, from })
    }

    /// When a task will start that waits for tasks which all run.
    fn expected_after(&self, needs: &[OpenNeed]) -> Option<Expectation> {
        let live = self.live?;
        let mut latest = (0.0, String::new());
        for need in needs {
            let running = live.running(need.task)?;
            let (usual, from) = self.usual_time(need.task)?;
            let rest = self.rest_s(need.task, self.now_s() - self.clock_s(running.since)).unwrap_or(usual / 2.0);
            if rest >= latest.0 {
                latest = (rest, from);
            }
        }
        (!needs.is_empty()).then_some(Expectation { what: "start", in_s: latest.0, from: latest.1 })
    }

    /// Median time that a task still needs which has been running for `ran_s`; `None` if all
    /// completed tasks of its class were faster.
    fn rest_s(&self, task: TaskId, ran_s: f64) -> Option<f64> {
        let times = self.class_times(self.run.subject().job.class(task));
        if times.count() == 0 {
            let (usual, _) = self.usual_time(task)?;
            return (usual > ran_s).then_some(usual - ran_s);
        }
        // The median of those that took longer.
        let faster = times.at_most(ran_s) as f64 / times.count() as f64;
        (faster < 1.0).then(|| (times.quantile_s(f64::midpoint(faster, 1.0)) - ran_s).max(0.0))
    }

    pub(super) fn explain_running(&self, task: TaskId, known: &mut TaskExplanation) {
        let Some(running) = self.live.and_then(|live| live.running(task)) else {
            return known.reasons.push(TaskReason::JustStarted);
        };
        let since = self.clock_s(running.since);
        let ran_s = (self.now_s() - since).max(0.0);
        known.since_s = Some(since);
        known.took_s = Some(ran_s);
        known.place = Some(TaskPlace {
            session: self.run.session().began.session,
            attempt: running.attempt,
            node: running.node.clone(),
            rank: running.rank.0,
            slot: None,
        });
        known.class = self.class_facts(task, ran_s);
        if let Some((_, from)) = self.usual_time(task) {
            let limit = self.run.subject().job.group(task).and_then(|group| group.time);
            let most = limit.map_or(f64::INFINITY, |limit| (limit.as_secs_f64() - ran_s).max(0.0));
            known.expected = match self.rest_s(task, ran_s) {
                Some(in_s) => Some(Expectation { what: "end", in_s: in_s.min(most), from }),
                None if most.is_finite() => {
                    let from = format!("its time limit; {from}, and it has taken longer than all of them");
                    Some(Expectation { what: "end", in_s: most, from })
                }
                None => None,
            };
        }
        let text = printed_so_far(self.run, task).unwrap_or_default().concat();
        known.output = Some(lines(&text)).filter(|text| !text.is_empty());
    }
}

/// Number of tasks of a group that a rank can run at once.
fn places(rank: &LiveRank, group: &Group, slots: u32) -> u32 {
    let by_memory = group.memory.filter(|memory| *memory > 0).map_or(u64::MAX, |memory| rank.memory / memory);
    let by_gpus = rank.gpus.checked_div(group.gpus).unwrap_or(u32::MAX);
    if !has_labels(&rank.labels, &group.labels) {
        return 0;
    }
    (rank.slots / slots.max(1)).min(by_gpus).min(u32::try_from(by_memory).unwrap_or(u32::MAX))
}

/// The last lines of a text.
pub(super) fn lines(text: &[u8]) -> String {
    let last = last_lines(text, OUTPUT_LINES);
    last.split(|&byte| byte == b'\n').map(printable).collect::<Vec<_>>().join("\n").trim_end().to_owned()
}

/// What the tasks of a group ask for, in words.
fn wanted(group: &Group) -> String {
    let mut parts = Vec::new();
    match group.mpi {
        Some(mpi) => parts.push(format!("{} of {}", counted(mpi.ranks, "MPI rank"), counted(group.cpus, "CPU"))),
        None => parts.push(counted(group.cpus, "CPU")),
    }
    parts.extend(group.memory.map(|memory| format!("{} of memory", bytes(memory))));
    parts.extend((group.gpus > 0).then(|| counted(group.gpus, "GPU")));
    parts.extend((!group.labels.is_empty()).then(|| label_words(&group.labels)));
    parts.join(" and ")
}
