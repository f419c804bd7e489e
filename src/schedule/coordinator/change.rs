//! The coordinator's part in a change of membership: prepare, collect what ranks know, distribute
//! new homes.
//!
//! Joining, draining, parking, losing a rank and rebalancing are one operation: *the homes of some
//! open tasks change at an epoch*.
//!
//! | state | event | next | does |
//! |---|---|---|---|
//! | settled | a change of a rank, a rebalance, or added tasks | preparing | `Release` gangs; `Prepare` to all |
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

use super::{Change, Coordinator, CoordinatorAction, StopReason};
use crate::graph::ascending::Ascending;
use crate::model::{Rank, RankState, TaskId, Time};
use crate::schedule::dependency_counts::End;
use crate::schedule::homes::{self, Remains};
use crate::schedule::protocol::{Message, Stop};
use crate::schedule::ranks::Ranks;
use crate::schedule::score::RankRecord;
use crate::schedule::steal_terms::{BoundTasks, StealTerms, steal_terms};

/// The state of a change in progress.
#[derive(Debug, Default)]
pub(super) struct Preparing {
    /// Ranks that have not acknowledged yet.
    pub(super) missing: BTreeSet<Rank>,
    /// Tasks that ranks keep: task, attempt, rank.
    pub(super) kept: Vec<(TaskId, u16, Rank)>,
    /// Tasks that their homes believe to be on other ranks.
    pub(super) lent: Vec<TaskId>,
    /// Ends that peers have counted.
    pub(super) counted: FxHashMap<u32, End>,
    /// True if a rank was lost.
    pub(super) lost: bool,
    /// True to balance the remaining work.
    pub(super) even_out: bool,
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
    /// Further cost of the change.
    extra: Duration,
}

impl NextChange {
    fn is_early(&self, now: Time) -> bool {
        now < self.collects_until
    }

    fn wait(&mut self) {
        self.waits = true;
    }

    /// The change costs this much more than it shows.
    pub(super) fn add_cost(&mut self, took: Duration) {
        self.extra += took;
    }

    /// Arrivals and additions are collected until then.
    pub(super) fn collects_until(&self) -> Time {
        self.collects_until
    }

    pub(super) fn due(&self) -> Option<Time> {
        self.waits.then_some(self.collects_until)
    }

    /// Records that a change was committed; cutting and sending the parts takes some more time.
    fn after(&mut self, now: Time, nodes: usize) {
        let cut = Duration::from_nanos(nodes as u64 * homes::NODE_NS);
        self.collects_until = now.after(now.since(self.began) + cut + self.extra);
    }
}

/// A rank's acknowledgement of a change; see [`Message::Ack`].
pub(super) struct PrepareAck {
    pub(super) kept: Vec<(TaskId, u16)>,
    pub(super) lent: Vec<TaskId>,
    pub(super) counted: Vec<(u32, End)>,
}

impl Coordinator {
    /// Processes a change of a rank's state that has happened or is requested.
    pub(super) fn change(&mut self, now: Time, rank: Rank, change: Change, actions: &mut Vec<CoordinatorAction>) {
        if let Some(refusal) = self.refusal(rank, &change) {
            return actions.push(CoordinatorAction::Error(refusal));
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
                self.note_lost(rank, actions);
                self.pools.lost(now, rank);
                self.begin_change(now, true, false, actions);
            }
            // The rank arrives too late.
            Change::Arrive(_) if self.stopping.is_some() && self.change.is_none() => self.members.leave(rank, actions),
            Change::Arrive(_) if self.change.is_none() && self.next_change.is_early(now) => self.next_change.wait(),
            Change::Arrive(_) | Change::Recall => {
                if let (Some((how, _)), Change::Arrive(_)) = (&self.stopping, change) {
                    actions.push(CoordinatorAction::Send { to: rank, message: Message::Stop { how: *how } });
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
        let others = self.members.runners().filter(|(other, _)| *other != rank).map(|(_, member)| member);
        let (_, here) = self.members.runners().find(|(runner, _)| *runner == rank)?;
        if *change == Change::Lose || others.clone().any(|other| other.covers(here)) {
            return None;
        }
        let home = (0..).zip(&self.tasks.home).take(self.finals.len());
        let open = home.filter(|&(task, &home)| self.finals[task as usize].is_none() && home == rank.0);
        let fits = |task, member| self.tasks.advice.fits(task, member);
        let is_bound = |task| fits(task, here) && !others.clone().any(|member| fits(task, member));
        let mut bound = open.filter(|&(task, _)| is_bound(TaskId(task)));
        (others.clone().next().is_none() || bound.next().is_some())
            .then(|| format!("{rank} is the last one that can run some of the remaining tasks and is not {verb}"))
    }

    /// Starts a change that gives tasks to ranks which have arrived since the last one.
    pub(super) fn admit_arrivals(&mut self, now: Time, actions: &mut Vec<CoordinatorAction>) {
        if self.next_change.due().is_some_and(|due| due <= now) {
            self.begin_change(now, false, true, actions);
        }
    }

    /// Sends away ranks that wait for a change, since no change will follow.
    pub(super) fn dismiss_arrivals(&mut self, actions: &mut Vec<CoordinatorAction>) {
        if std::mem::take(&mut self.next_change).due().is_some() {
            let waits = |rank: &Rank| self.members.standing(*rank) == Some(RankState::Joining);
            let waiting: Vec<Rank> = self.members.here().filter(waits).collect();
            waiting.into_iter().for_each(|rank| self.members.leave(rank, actions));
        }
    }

    /// Frees the slots of gangs whose leader has left or was lost.
    pub(super) fn release_leaderless(&mut self, now: Time, actions: &mut Vec<CoordinatorAction>) {
        let is_here = |rank: Rank| self.members.standing(rank).is_some_and(RankState::is_here);
        for lease in self.gangs.release_leaderless(&is_here, actions) {
            self.pools.gang_lost(now, lease.task, lease.attempt);
        }
    }

    /// Starts a change that balances the remaining work.
    pub(super) fn rebalance(&mut self, now: Time, actions: &mut Vec<CoordinatorAction>) {
        if !self.finished {
            self.begin_change(now, false, true, actions);
        }
    }

    /// Processes the loss of a rank.
    fn note_lost(&mut self, rank: Rank, actions: &mut Vec<CoordinatorAction>) {
        self.loads[rank.index()] = Default::default();
        actions.push(CoordinatorAction::Warning(format!("{rank} is lost")));
    }

    pub(super) fn begin_change(&mut self, now: Time, lost: bool, even_out: bool, actions: &mut Vec<CoordinatorAction>) {
        let fresh = self.change.is_none();
        if fresh && self.stopping.is_some() && !lost {
            return;
        }
        if fresh {
            self.next_change = NextChange { began: now, ..NextChange::default() };
        }
        if fresh {
            self.abandon_gangs(actions);
        }
        let preparing = self.change.get_or_insert_default();
        preparing.lost |= lost;
        preparing.even_out |= even_out;
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
                actions.push(CoordinatorAction::Send { to, message });
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
        actions: &mut Vec<CoordinatorAction>,
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
    pub(super) fn emptied(&mut self, from: Rank, epoch: u32, actions: &mut Vec<CoordinatorAction>) {
        let drained = self.members.standing(from) == Some(RankState::Draining);
        // During a change the rank answers `Prepare`, and reports again afterwards.
        if drained && epoch == self.epoch && self.change.is_none() {
            self.loads[from.index()] = Default::default();
            self.pools.left(from);
            self.members.leave(from, actions);
        }
    }

    /// What a rank has shown so far.
    fn record(&self, rank: Rank) -> RankRecord {
        let slots = self.members.member(rank).map_or(0, |member| member.slots);
        RankRecord {
            slowness: self.health.slow(rank).unwrap_or(1.0),
            success: self.health.success(rank),
            utilisation: f64::from(self.load(rank).busy) / f64::from(slots.max(1)),
        }
    }

    /// How each rank steals until homes change again.
    pub fn steal_terms(&self) -> Vec<StealTerms> {
        let (mut bound, mut free_ns) = (vec![BoundTasks::default(); self.members.len()], 0);
        let advice = &self.tasks.advice;
        let all = if advice.binds_tasks() { self.finals.len() } else { 0 };
        for task in (0..all).filter(|&task| self.ends[task].is_none()) {
            let work_ns = u128::from(advice.work(TaskId(task as u32)));
            match bound.get_mut(self.tasks.home[task] as usize).filter(|_| advice.is_bound(TaskId(task as u32))) {
                Some(of) => *of = BoundTasks { tasks: of.tasks + 1, work_ns: of.work_ns + work_ns },
                None => free_ns += work_ns,
            }
        }
        let ranks = (0..).zip(self.members.able()).zip(bound);
        let ranks: Vec<(u32, BoundTasks, RankRecord)> =
            ranks.map(|((rank, member), bound)| (member.slots, bound, self.record(Rank(rank)))).collect();
        steal_terms(&ranks, free_ns)
    }

    fn commit_if_prepared(&mut self, now: Time, actions: &mut Vec<CoordinatorAction>) {
        if let Some(preparing) = self.change.take_if(|preparing| preparing.missing.is_empty()) {
            self.commit(now, &preparing, actions);
        }
    }

    /// Commits the change. All acknowledgements together are a consistent cut of the run. From it
    /// follow the tasks that have ended, the ranks that keep open ones, the new homes, and the
    /// changes for each rank.
    fn commit(&mut self, now: Time, preparing: &Preparing, actions: &mut Vec<CoordinatorAction>) {
        let graph = Arc::clone(&self.tasks.graph);
        let mut cut = self.infer_ends(now, &graph, preparing, actions);
        let claims = preparing.kept.iter().filter(|(task, attempt, _)| self.is_claim(*task, *attempt));
        cut.kept = claims.map(|&(task, _, rank)| (task, rank)).collect();
        let lost = self.note_lost_attempts(now, &cut.kept, actions);
        cut.retried.extend(lost);
        if !self.cancelled.is_empty() {
            self.end_cancelled(now, &graph, &mut cut, actions);
        }
        cut.begun.extend(self.tried.keys().map(|task| task.0));
        let graph = self.grown_graph(actions);
        let members = self.members.able();
        self.tasks.advice.meet(&members);
        let records: Vec<RankRecord> = (0..members.len() as u32).map(|rank| self.record(Rank(rank))).collect();
        let remains = Remains {
            graph: &graph,
            ended: &self.ends,
            kept: &cut.kept,
            elapsed: &|task| self.running.get(&task).map_or(0, |(_, it)| now.since(it.start).as_nanos() as u64),
            members: &members,
            record: &|rank| records[rank.index()],
            advice: self.tasks.advice.as_ref(),
            made: &self.made_elsewhere,
            even_out: preparing.even_out,
        };
        let before = self.tasks.home.clone();
        self.homeless = homes::choose(&remains, &mut self.tasks.home);
        let oversize = self.hand_over(now, &graph, &cut, &before, actions);
        if !self.cancelled.is_empty() {
            // The others have been sent it before.
            let fresh = self.members.here().filter(|&to| !self.members.handed().any(|handed| handed == to));
            let cancel =
                |to| CoordinatorAction::Send { to, message: Message::Cancel { tasks: self.cancelled.clone() } };
            actions.extend(fresh.map(cancel));
        }
        if !self.paused.is_empty() {
            let fresh = self.members.here().filter(|&to| !self.members.handed().any(|handed| handed == to));
            let pause = |to| CoordinatorAction::Send { to, message: Message::Paused { tasks: self.paused.clone() } };
            actions.extend(fresh.map(pause));
        }
        self.members.hand_out();
        self.gangs.meet(members);
        if self.homeless.has_long {
            self.next_change.add_cost(Duration::from_nanos(graph.node_count() as u64 * homes::LONG_NODE_NS));
        }
        self.next_change.after(now, graph.node_count());
        if let Some((rank, size)) = oversize {
            let reason = format!("{rank} would be handed more than a message holds ({size} tasks or dependencies)");
            let remedy = "nothing more is started; continue with --resume on more ranks";
            actions.push(CoordinatorAction::Error(format!("{reason}: {remedy}")));
            self.stop(Stop::Drain, StopReason::Broken(reason), actions);
        }
        if self.stopping.is_some() {
            self.abandon_gangs(actions);
        }
    }
}
