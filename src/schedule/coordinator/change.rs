//! The coordinator's part in a change of membership: prepare, collect what ranks know, distribute
//! new homes.
//!
//! Joining, draining, parking, losing a rank and rebalancing are one operation: *the homes of some
//! open tasks change at an epoch*.
//!
//! | state | event | next | does |
//! |---|---|---|---|
//! | settled | a change of a rank, or a rebalance | preparing | `Release` gangs; `Prepare` to all |
//! | settled | a rank joins soon after a change | settled | wait as long as that change took |
//! | preparing | every rank has acknowledged | settled | see `commit` |
//! | preparing | a rank is lost | preparing, next epoch | `Prepare` again: others report its ends |
//! | preparing | any other change | preparing | the commit includes it |
//!
//! While the run stops, only a loss starts a change: the other ranks report what they know of the
//! lost rank's work, and take over its tasks. The run ends after the commit, since frozen ranks
//! wait for it.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use rustc_hash::{FxHashMap, FxHashSet};

use super::{Action, Change, Coordinator, StopReason};
use crate::graph::TaskGraph;
use crate::graph::ascending::Ascending;
use crate::model::{Attempt, Outcome, Rank, RankState, State, TaskId, Time};
use crate::schedule::completion_inference;
use crate::schedule::dependency_counts::End;
use crate::schedule::homes::{self, Remains};
use crate::schedule::membership::Member;
use crate::schedule::protocol::{Message, Stop, Tried, is_among};
use crate::schedule::ranks::Ranks;

/// The state of a change in progress.
#[derive(Debug, Default)]
pub(super) struct Preparing {
    /// Ranks that have not acknowledged yet.
    missing: BTreeSet<Rank>,
    /// Tasks that ranks keep: task, attempt, rank.
    kept: Vec<(TaskId, u16, Rank)>,
    /// Tasks that their homes believe to be on other ranks.
    lent: Vec<TaskId>,
    /// Ends that peers have counted.
    counted: FxHashMap<u32, End>,
    /// True if a rank was lost.
    lost: bool,
    /// True to balance the remaining work.
    even_out: bool,
}

/// When the next change may start that only gives tasks to ranks which have arrived. Each change
/// cuts the graph anew, so arrivals are collected for as long as the last change took: during a
/// burst, changes take at most half of the time.
#[derive(Debug, Default)]
pub(super) struct NextChange {
    /// Start of the last change.
    began: Time,
    /// Arrivals are collected until then.
    collects_until: Time,
    /// True if ranks have arrived meanwhile.
    waits: bool,
}

impl NextChange {
    fn is_early(&self, now: Time) -> bool {
        now < self.collects_until
    }

    fn wait(&mut self) {
        self.waits = true;
    }

    pub(super) fn due(&self) -> Option<Time> {
        self.waits.then_some(self.collects_until)
    }

    /// Records that a change was committed; cutting and sending the parts takes some more time.
    fn after(&mut self, now: Time, nodes: usize) {
        let cut = Duration::from_nanos(nodes as u64 * homes::NODE_NS);
        self.collects_until = now.after(now.since(self.began) + cut);
    }
}

/// A rank's acknowledgement of a change; see [`Message::Ack`].
pub(super) struct PrepareAck {
    pub(super) kept: Vec<(TaskId, u16)>,
    pub(super) lent: Vec<TaskId>,
    pub(super) counted: Vec<(u32, End)>,
}

/// A consistent cut of the run, from all acknowledgements.
pub(super) struct Cut {
    /// The rank that runs or is about to run a task.
    pub(super) kept: FxHashMap<TaskId, Rank>,
    /// Open tasks that have begun.
    pub(super) begun: FxHashSet<u32>,
    /// Nodes that have ended, which the ranks concerned may not know.
    pub(super) told: Vec<u32>,
    /// Tasks with attempts that their homes may not know.
    pub(super) retried: FxHashSet<TaskId>,
}

impl Coordinator {
    /// Processes a change of a rank's state that has happened or is requested.
    pub(super) fn change(&mut self, now: Time, rank: Rank, change: Change, actions: &mut Vec<Action>) {
        if let Some(refusal) = self.refusal(rank, &change) {
            return actions.push(Action::Tell(refusal));
        }
        let held_tasks = self.members.handed().any(|handed| handed == rank);
        if self.finished || !self.members.change(rank, change.clone()) {
            return;
        }
        self.loads.resize(self.members.len(), Default::default());
        self.stopped.resize(self.members.len(), false);
        match change {
            Change::Request => {}
            Change::Lose if !held_tasks => {}
            Change::Lose => {
                self.lose(rank, actions);
                self.begin_change(now, true, false, actions);
            }
            // The rank arrives too late.
            Change::Arrive(_) if self.stopping.is_some() && self.change.is_none() => self.members.leave(rank, actions),
            Change::Arrive(_) if self.change.is_none() && self.next_change.is_early(now) => self.next_change.wait(),
            Change::Arrive(_) | Change::Recall => {
                if let (Some((how, _)), Change::Arrive(_)) = (&self.stopping, change) {
                    actions.push(Action::Send { to: rank, message: Message::Stop { how: *how } });
                }
                self.begin_change(now, false, true, actions);
            }
            Change::Drain | Change::Park | Change::Quarantine => self.begin_change(now, false, false, actions),
        }
    }

    /// Why a requested change is refused; `None` if it is allowed.
    pub fn refusal(&self, rank: Rank, change: &Change) -> Option<String> {
        let verb = match change {
            Change::Drain => "drained",
            Change::Park => "parked",
            Change::Quarantine => "quarantined",
            Change::Lose => "lost",
            _ => return None,
        };
        if rank == Rank::ZERO && !matches!(change, Change::Park | Change::Quarantine) {
            return Some(format!("{rank} coordinates the run and cannot be {verb}"));
        }
        let mut able = self.members.able();
        let slots = able.get_mut(rank.index()).map_or(0, |member| std::mem::take(&mut member.slots));
        if *change == Change::Lose || slots == 0 {
            return None;
        }
        able.retain(|member| member.slots > 0);
        let home = (0..).zip(&self.tasks.home).take(self.finals.len());
        let open = home.filter(|&(task, &home)| self.finals[task as usize].is_none() && home == rank.0);
        let mut bound = open.filter(|&(task, _)| !able.iter().any(|m| self.tasks.advice.fits(TaskId(task), m)));
        (able.is_empty() || bound.next().is_some())
            .then(|| format!("{rank} is the last one that can run some of the remaining tasks and is not {verb}"))
    }

    /// Starts a change that gives tasks to ranks which have arrived since the last one.
    pub(super) fn admit_arrivals(&mut self, now: Time, actions: &mut Vec<Action>) {
        if self.next_change.due().is_some_and(|due| due <= now) {
            self.begin_change(now, false, true, actions);
        }
    }

    /// Sends away ranks that wait for a change, since no change will follow.
    pub(super) fn send_arrivals_away(&mut self, actions: &mut Vec<Action>) {
        if std::mem::take(&mut self.next_change).due().is_some() {
            let waits = |rank: &Rank| self.members.standing(*rank) == Some(RankState::Joining);
            let waiting: Vec<Rank> = self.members.here().filter(waits).collect();
            waiting.into_iter().for_each(|rank| self.members.leave(rank, actions));
        }
    }

    /// Frees the slots of gangs whose leader has left or was lost.
    pub(super) fn release_leaderless(&mut self, actions: &mut Vec<Action>) {
        let is_here = |rank: Rank| self.members.standing(rank).is_some_and(RankState::is_here);
        self.gangs.release_leaderless(&is_here, actions);
    }

    /// Starts a change that balances the remaining work.
    pub(super) fn rebalance(&mut self, now: Time, actions: &mut Vec<Action>) {
        if !self.finished {
            self.begin_change(now, false, true, actions);
        }
    }

    /// Processes the loss of a rank.
    fn lose(&mut self, rank: Rank, actions: &mut Vec<Action>) {
        self.loads[rank.index()] = Default::default();
        actions.push(Action::Note(format!("{rank} is lost")));
    }

    pub(super) fn begin_change(&mut self, now: Time, lost: bool, even_out: bool, actions: &mut Vec<Action>) {
        let fresh = self.change.is_none();
        if fresh && self.stopping.is_some() && !lost {
            return;
        }
        if fresh {
            self.next_change = NextChange { began: now, ..NextChange::default() };
        }
        let preparing = self.change.get_or_insert_default();
        preparing.lost |= lost;
        preparing.even_out |= even_out;
        if fresh {
            self.gangs.abandon(actions);
        }
        if fresh || lost {
            self.epoch += 1;
            preparing.kept.clear();
            preparing.lent.clear();
            preparing.missing = self.members.handed().collect();
            let lost: FxHashSet<u32> = self.members.lost().map(|rank| rank.0).collect();
            let open = (0..).zip(&self.ends).filter(|(_, end)| end.is_none()).map(|(node, _)| node);
            let of_lost = |node: &u32| lost.contains(&self.tasks.home[*node as usize]);
            let lost: Ascending = if preparing.lost { open.filter(of_lost).collect() } else { Ascending::default() };
            let lost_ranks: Ranks = self.members.lost().map(|rank| rank.0).collect();
            for &to in &preparing.missing {
                let reserve = self.members.standing(to) == Some(RankState::Active);
                let message =
                    Message::Prepare { epoch: self.epoch, lost: lost.clone(), lost_ranks: lost_ranks.clone(), reserve };
                actions.push(Action::Send { to, message });
            }
        }
        self.commit_if_prepared(now, actions);
    }

    /// Processes an acknowledgement: the rank has stopped starting tasks and reported what it
    /// knows.
    pub(super) fn acknowledged(
        &mut self,
        now: Time,
        from: Rank,
        epoch: u32,
        PrepareAck { kept, lent, counted }: PrepareAck,
        actions: &mut Vec<Action>,
    ) {
        let Some(preparing) = self.change.as_mut().filter(|_| epoch == self.epoch) else { return };
        if preparing.missing.remove(&from) {
            preparing.kept.extend(kept.into_iter().map(|(task, attempt)| (task, attempt, from)));
            preparing.lent.extend(lent);
            preparing.counted.extend(counted);
            self.commit_if_prepared(now, actions);
        }
    }

    /// Processes a draining rank's report that it is empty.
    pub(super) fn emptied(&mut self, from: Rank, epoch: u32, actions: &mut Vec<Action>) {
        let drained = self.members.standing(from) == Some(RankState::Draining);
        // During a change the rank answers `Prepare`, and reports again afterwards.
        if drained && epoch == self.epoch && self.change.is_none() {
            self.loads[from.index()] = Default::default();
            self.members.leave(from, actions);
        }
    }

    fn commit_if_prepared(&mut self, now: Time, actions: &mut Vec<Action>) {
        if let Some(preparing) = self.change.take_if(|preparing| preparing.missing.is_empty()) {
            self.commit(now, &preparing, actions);
        }
    }

    /// Commits the change. All acknowledgements together are a consistent cut of the run. From it
    /// follow the tasks that have ended, the ranks that keep open ones, the new homes, and the
    /// changes for each rank.
    fn commit(&mut self, now: Time, preparing: &Preparing, actions: &mut Vec<Action>) {
        let graph = Arc::clone(&self.tasks.graph);
        let mut cut = self.close(now, &graph, preparing, actions);
        let claims = preparing.kept.iter().filter(|(task, attempt, _)| self.is_claim(*task, *attempt));
        cut.kept = claims.map(|&(task, _, rank)| (task, rank)).collect();
        let lost = self.note_lost_attempts(now, &cut.kept, actions);
        cut.retried.extend(lost);
        if !self.cancelled.is_empty() {
            self.end_cancelled(now, &graph, &mut cut, actions);
        }
        cut.begun.extend(self.tried.keys().map(|task| task.0));
        let members = self.members.able();
        self.tasks.advice.share_out(&members);
        let remains = Remains {
            graph: &graph,
            ended: &self.ends,
            kept: &cut.kept,
            members: &members,
            slowness: &|rank| self.health.slow(rank).unwrap_or(1.0),
            advice: self.tasks.advice.as_ref(),
            even_out: preparing.even_out,
        };
        let before = self.tasks.home.clone();
        self.homeless = homes::choose(&remains, &mut self.tasks.home);
        let oversize = self.hand_over(now, &graph, &cut, &before, actions);
        if !self.cancelled.is_empty() {
            // The others have been sent it before.
            let fresh = self.members.here().filter(|&to| !self.members.handed().any(|handed| handed == to));
            let cancel = |to| Action::Send { to, message: Message::Cancel { tasks: self.cancelled.clone() } };
            actions.extend(fresh.map(cancel));
        }
        self.members.hand_out();
        self.gangs.meet(members);
        self.next_change.after(now, graph.node_count());
        if let Some((rank, size)) = oversize {
            let reason = format!("{rank} would be handed more than a message holds ({size} tasks or dependencies)");
            let remedy = "nothing more is started; continue with --resume on more ranks";
            actions.push(Action::Tell(format!("{reason}: {remedy}")));
            self.stop(Stop::Drain, StopReason::Broken(reason), actions);
        }
        if self.stopping.is_some() {
            self.gangs.abandon(actions);
        }
    }

    /// Handles tasks that no rank can run: ranks that were to rest or leave become active again, or
    /// the run stops unless further ranks are expected.
    pub(super) fn call_for_help(&mut self, now: Time, actions: &mut Vec<Action>) {
        let tasks = self.homeless.tasks + self.gangs.unplaced();
        if tasks == 0 || self.finished || self.stopping.is_some() || self.is_changing() {
            return;
        }
        let rests = |state| matches!(state, Some(RankState::Parked | RankState::Draining | RankState::Quarantined));
        // A rank that cannot run any of the tasks may rest or leave.
        let helps = |rank: &Rank| {
            let fits = |member| self.homeless.some.iter().any(|&task| self.tasks.advice.fits(task, member));
            self.gangs.unplaced() > 0 || self.members.member(*rank).is_some_and(fits)
        };
        let resting = |rank: &Rank| rests(self.members.standing(*rank)) && helps(rank);
        let resting: Vec<Rank> = self.members.here().filter(resting).collect();
        for &rank in &resting {
            actions.push(Action::Note(format!("{rank} takes part again: {tasks} tasks can run nowhere else")));
            self.members.change(rank, Change::Recall);
        }
        if !resting.is_empty() {
            self.begin_change(now, false, true, actions);
        } else if !self.members.expects_more() && !self.is_hopeful() {
            let reason = format!("no rank that is left can run {tasks} of the remaining tasks");
            actions.push(Action::Tell(format!("{reason}: nothing more is started")));
            self.stop(Stop::Drain, StopReason::Broken(reason), actions);
        }
    }

    /// True if nodes may still arrive that can help. The nodes of a run are alike: if one that has
    /// arrived cannot run a task, others cannot either. Tasks that need several ranks may need more
    /// of them.
    pub(super) fn is_hopeful(&self) -> bool {
        let joined = self.members.active().filter(|rank| rank.0 >= self.first).count() as u32;
        let more = if self.gangs.unplaced() > 0 { joined < self.hope.most } else { joined == 0 };
        self.hope.coming > 0 || (self.hope.askable && more)
    }

    /// True if a rank's claim to keep a task is not superseded by a later attempt.
    fn is_claim(&self, task: TaskId, attempt: u16) -> bool {
        self.finals.get(task.index()).is_some_and(Option::is_none) && attempt > self.attempts(task)
    }

    /// Number of ended attempts at a task.
    fn attempts(&self, task: TaskId) -> u16 {
        self.tried.get(&task).map_or(0, |tried| tried.attempts)
    }

    /// Infers all certain ends. Ends that only peers of a lost rank know are written to the
    /// journal.
    fn close(&mut self, now: Time, graph: &TaskGraph, preparing: &Preparing, actions: &mut Vec<Action>) -> Cut {
        let mut unheard: Vec<Attempt> = Vec::new();
        let tasks = self.running.keys().chain(self.tried.keys());
        let mut begun: FxHashSet<u32> = tasks.map(|task| task.0).collect();
        // If the task has ended, the attempt that a rank still has is the one that ended.
        let mut latest: FxHashMap<TaskId, u16> = FxHashMap::default();
        for &(task, attempt, _) in &preparing.kept {
            if self.is_claim(task, attempt) {
                begun.insert(task.0);
                let latest = latest.entry(task).or_default();
                *latest = attempt.max(*latest);
                // A rank that retries a task has received failures that may be recorded nowhere
                // else.
                let failed =
                    (self.attempts(task) + 1..attempt).map(|number| self.unheard(now, task, number, State::Failed));
                unheard.extend(failed.map(|failed| Attempt { last: false, ..failed }));
            }
        }
        let retried = unheard.iter().map(|attempt| attempt.task).collect();
        let mut told: Vec<u32> = preparing.lent.iter().map(|task| task.0).collect();
        told.retain(|&node| self.ends.get(node as usize).is_some_and(Option::is_some));
        if preparing.lost {
            let before = self.ends.clone();
            for (&node, &counted) in &preparing.counted {
                if let Some(end) = self.ends.get_mut(node as usize) {
                    *end = end.or(Some(counted));
                }
            }
            let done = |node: u32| self.done_before.get(node as usize) == Some(&true);
            completion_inference::close(graph, &|node| begun.contains(&node), &done, &mut self.ends);
            let closed = (0..).zip(before.iter().zip(&self.ends)).filter(|(_, (before, end))| before != end);
            told.extend(closed.map(|(node, _)| node));
            for task in (0..self.finals.len()).filter(|&task| self.finals[task].is_none()) {
                let id = TaskId(task as u32);
                let next = self.attempts(id).saturating_add(1).max(latest.get(&id).copied().unwrap_or(0));
                match self.ends[task] {
                    Some(End::Completed) => unheard.push(self.unheard(now, id, next, State::Completed)),
                    Some(End::Failed) => unheard.push(self.unheard(now, id, next, self.unsuccessful(id))),
                    Some(End::Unsuccessful) if completion_inference::was_skipped(graph, id.0, &self.ends) => {
                        unheard.push(self.unheard(now, id, 0, State::Skipped));
                    }
                    Some(End::Unsuccessful) => {
                        self.undecided.insert(id);
                    }
                    None => {}
                }
            }
        } else {
            // All homes are present, and have sent the ends of all other nodes.
            told.extend(self.close_joins(graph));
        }
        self.count(now, unheard, actions);
        self.decide(now, actions);
        Cut { kept: FxHashMap::default(), begun, told, retried }
    }

    /// Ends the joins all of whose predecessors have ended.
    fn close_joins(&mut self, graph: &TaskGraph) -> Vec<u32> {
        let mut closed = Vec::new();
        for node in graph.task_count() as u32..graph.node_count() as u32 {
            if let (None, Some(rule)) = (self.ends[node as usize], graph.join(node)) {
                self.ends[node as usize] =
                    completion_inference::join_end(graph, node, rule, &|node| self.ends[node as usize]);
                closed.extend(self.ends[node as usize].map(|_| node));
            }
        }
        closed
    }

    /// Ends cancelled tasks that no rank can take, and the tasks skipped because of them: no rank
    /// would end them.
    fn end_cancelled(&mut self, now: Time, graph: &TaskGraph, cut: &mut Cut, actions: &mut Vec<Action>) {
        let members = self.members.able();
        let mut ends: Vec<Attempt> = Vec::new();
        for node in graph.topological().iter() {
            if self.ends[node as usize].is_some() {
                continue;
            }
            let task = TaskId(node);
            let known = |node: u32| self.ends[node as usize];
            if let Some(rule) = graph.join(node) {
                self.ends[node as usize] = completion_inference::join_end(graph, node, rule, &known);
                cut.told.extend(self.ends[node as usize].map(|_| node));
                continue;
            }
            let state = match completion_inference::violated(graph, node, &known) {
                Some(true) => State::Skipped,
                Some(false) if self.is_cancelled(task) => State::Cancelled,
                _ => continue,
            };
            let fits = |member: &Member| member.slots > 0 && self.tasks.advice.fits(task, member);
            if cut.kept.contains_key(&task) || members.iter().any(fits) {
                continue;
            }
            let attempt = if state == State::Skipped { 0 } else { self.attempts(task).saturating_add(1) };
            self.ends[node as usize] = Some(if state == State::Skipped { End::Unsuccessful } else { End::Failed });
            cut.told.push(node);
            ends.push(self.unheard(now, task, attempt, state));
        }
        self.count(now, ends, actions);
        self.decide(now, actions);
    }

    /// How a node ended, if known.
    fn node_end(&self, graph: &TaskGraph, node: u32) -> Option<End> {
        let open = || graph.join(node).map(|rule| (node, rule));
        let join = |(node, rule)| completion_inference::join_end(graph, node, rule, &|node| self.node_end(graph, node));
        self.ends[node as usize].or_else(|| open().and_then(join))
    }

    /// Records whether tasks with an undecided end failed or were skipped, once all their
    /// predecessors have ended.
    pub(super) fn decide(&mut self, now: Time, actions: &mut Vec<Action>) {
        if self.undecided.is_empty() {
            return;
        }
        let graph = Arc::clone(&self.tasks.graph);
        let decided = |&task: &TaskId| {
            let violated = completion_inference::violated(&graph, task.0, &|node| self.node_end(&graph, node))?;
            Some(match violated {
                true => self.unheard(now, task, 0, State::Skipped),
                false => self.unheard(now, task, self.attempts(task).saturating_add(1), self.unsuccessful(task)),
            })
        };
        let ends: Vec<Attempt> = self.undecided.iter().filter_map(decided).collect();
        self.undecided.retain(|task| ends.iter().all(|end| end.task != *task));
        self.count(now, ends, actions);
    }

    /// The state of a task that ran without success.
    fn unsuccessful(&self, task: TaskId) -> State {
        if self.is_cancelled(task) { State::Cancelled } else { State::Failed }
    }

    pub(super) fn is_cancelled(&self, task: TaskId) -> bool {
        is_among(task, &self.cancelled)
    }

    /// The record of an end that its own rank was lost before reporting.
    fn unheard(&self, now: Time, task: TaskId, attempt: u16, state: State) -> Attempt {
        let (rank, exit) = (Rank(self.tasks.home[task.index()]), i32::from(state == State::Failed));
        let outcome = Outcome { state, exit };
        Attempt { task, attempt, outcome, last: true, rank, slot: 0, ready: now, start: now, end: now }
    }

    /// Records the attempts that lost ranks are known to have been running, and counts them as
    /// tried.
    fn note_lost_attempts(
        &mut self,
        now: Time,
        kept: &FxHashMap<TaskId, Rank>,
        actions: &mut Vec<Action>,
    ) -> Vec<TaskId> {
        let mut lost: Vec<Attempt> = Vec::new();
        self.running.retain(|&task, &mut (rank, running)| {
            let is_lost = self.members.standing(rank) == Some(RankState::Lost);
            if is_lost && !kept.contains_key(&task) {
                let (attempt, start) = (running.attempt, running.start);
                let outcome = Outcome { state: State::NodeFail, exit: 0 };
                lost.push(Attempt {
                    task,
                    attempt,
                    outcome,
                    last: false,
                    rank,
                    slot: 0,
                    ready: start,
                    start,
                    end: now,
                });
            }
            !is_lost
        });
        lost.sort_unstable_by_key(|attempt| attempt.task);
        for &Attempt { task, attempt, rank, .. } in &lost {
            let none = Tried { task, attempts: 0, lost: 0, rank, end: Time::ZERO };
            let tried = self.tried.entry(task).or_insert(none);
            *tried = Tried { attempts: attempt, lost: tried.lost.saturating_add(1), rank, ..*tried };
        }
        let tasks = lost.iter().map(|attempt| attempt.task).collect();
        if !lost.is_empty() {
            actions.push(Action::Journal(lost));
        }
        tasks
    }
}
