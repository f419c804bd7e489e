//! Ranks that join and leave in the simulation: carries out decisions, grants and loses nodes, and
//! records all of it.
//!
//! The provider holds the state of nodes, the coordinator that of ranks; this file keeps each
//! informed of the other.

use std::sync::Arc;
use std::time::Duration;

use super::staged::StagedFacts;
use super::{ScalingSetup, SimulatedEvent, SimulatedRank, Simulator};
use crate::journal::{Level, RankChange, RankInfo, Record};
use crate::model::{NodeNeed, Offers, Rank, RankState, TaskId};
use crate::scale::commands::{NodeChanges, ScalingCommand};
use crate::scale::controller::ScalingController;
use crate::scale::sites::rank_sites;
use crate::scale::{NodeTypeId, RankView, SiteView};
use crate::schedule::coordinator::{self, Change, Member, ProvisioningState, StopReason};
use crate::schedule::protocol::Stop;
use crate::schedule::worker::{Facts, Worker};
use crate::sim::cluster::{Cluster, NodeKind};
use crate::sim::pool::SimulatedPool;
use crate::sim::provider::{Loss, NodeGranted};
use crate::workload::PreparedJob;

/// With many ranks, upper limit on the decisions per interval that are made because nodes have
/// joined or left.
const NEWS_PER_INTERVAL: u32 = 10;

/// The resources of the rank on a node.
pub(super) fn member(cluster: &Cluster, kind: NodeTypeId, rank: u32) -> Member {
    let node = &cluster.nodes[kind.0 as usize];
    let name = format!("{}{rank}", node.name);
    let labels = Arc::clone(&node.labels);
    Member { node: name, slots: node.slots, memory: node.memory, gpus: node.gpus, labels, ..Member::default() }
}

/// The nodes that a run whose ranks change can get.
pub(super) fn offers(cluster: &Cluster) -> Offers {
    Offers::of_nodes(cluster.nodes.iter().filter(|node| node.limit > 0).map(NodeKind::offer))
}

/// Upper limit on the nodes of a cluster.
pub(super) fn room(cluster: &Cluster) -> u32 {
    cluster.nodes.iter().map(|node| node.limit).fold(0, u32::saturating_add)
}

/// The ranks at the start of a run.
pub(super) fn first_members(cluster: &Cluster, ranks: u32) -> Vec<Member> {
    (0..).zip(cluster.first_kinds(ranks)).map(|(rank, kind)| member(cluster, kind, rank)).collect()
}

/// The scaling controller, with the delays of the cluster file as priors.
pub(super) fn controller(
    prepared: &PreparedJob,
    cluster: &Cluster,
    scaling_setup: ScalingSetup,
    done: &dyn Fn(TaskId) -> bool,
) -> ScalingController {
    let delays: Vec<Duration> = cluster.nodes.iter().map(|node| node.delay.median() + node.startup.median()).collect();
    let mut controller =
        ScalingController::new(prepared, scaling_setup.scaler, scaling_setup.prices, scaling_setup.interval, &delays);
    (0..prepared.tasks()).map(TaskId).filter(|&task| done(task)).for_each(|task| controller.was_complete(task));
    controller
}

impl Simulator<'_> {
    /// Adds a new rank.
    pub(super) fn add_rank(&mut self, member: Member) {
        let rank = Rank(self.ranks.len() as u32);
        let job = Arc::clone(&self.prepared.job);
        let facts: Arc<dyn Facts> = match &self.staging {
            Some(staging) => Arc::new(StagedFacts { job, files: Arc::clone(staging.files()), rank }),
            None => job,
        };
        self.ranks.push(SimulatedRank {
            worker: Worker::new(rank, member.room(), facts, self.pace)
                .with_max_failures(self.prepared.job.max_failures),
            pool: SimulatedPool::new(
                member.slots,
                member.memory,
                member.gpus,
                (std::sync::Arc::clone(&self.prepared.pools), std::sync::Arc::clone(&self.prepared.fair)),
            ),
            member,
            ledger: None,
            frozen: true,
            tick: None,
            dozes: None,
            is_listed: false,
            is_present: false,
            state: RankState::Joining,
            has_surplus: false,
            is_matched: false,
            expected: 0,
            busy: Duration::ZERO,
            failures: 0,
        });
    }

    /// Marks a rank as present.
    pub(super) fn mark_present(&mut self, rank: u32) {
        self.ranks[rank as usize].is_present = true;
        self.present += 1;
        if let Some(search) = &mut self.search {
            search.set_ranks(self.present as usize);
        }
        // Rank 0 hosts the run itself: without it there is none.
        if rank > 0
            && let Some((at, loss)) = self.provider.loss(rank)
        {
            self.events_due.schedule(at.max(self.now), SimulatedEvent::Lost(rank, loss));
        }
    }

    /// Decides at once because nodes have joined or left. With many ranks these are collected
    /// for a while: thousands of nodes that arrive within a minute should not cause thousands of
    /// decisions.
    fn decide_on_news(&mut self) {
        let interval = self.controller.as_ref().map_or(Duration::ZERO, |controller| controller.interval);
        let due = self.decided.after(interval / NEWS_PER_INTERVAL);
        if self.search.is_none() || due <= self.now {
            self.decide();
        } else if !std::mem::replace(&mut self.decision_due, true) {
            self.events_due.schedule(due, SimulatedEvent::DecideOnNews);
        }
    }

    /// Runs a scaling decision and schedules the next one.
    pub(super) fn decide_again(&mut self) {
        self.decide();
        let pause = self.controller.as_ref().map(|controller| controller.pause(self.now));
        if let Some(pause) = pause.filter(|_| self.finished.is_none() && !self.stopping) {
            self.events_due.schedule(self.now.after(pause), SimulatedEvent::Decide);
        }
    }

    /// Runs a scaling decision.
    pub(super) fn decide(&mut self) {
        (self.decided, self.decision_due) = (self.now, false);
        if self.finished.is_some() || self.stopping {
            return;
        }
        self.provide_for_waiting_tasks();
        let (ranks, sites) = (self.views(), self.sites());
        let Some(controller) = &mut self.controller else { return };
        self.events += 1;
        let running = self.coordinator.running().map(|(_, started)| (started.task, started.start));
        controller.update_running(self.coordinator.tally().busy.into(), running);
        let settled = self.provider.settled(&controller.prices);
        let can = NodeChanges { grows: true, shrinks: true };
        let mut requests = self.provider.requests().to_vec();
        for request in &mut requests {
            request.needed = self.coordinator.is_waited_for(&self.cluster.nodes[request.node_type.0 as usize].offer());
        }
        let step = controller.decide(self.now, &ranks, &requests, settled, &sites, can);
        step.warnings.into_iter().for_each(|warning| self.note(Level::Warning, warning));
        step.advice.into_iter().for_each(|advice| self.log.record(Record::Advice(Box::new(advice))));
        step.decisions.into_iter().for_each(|decision| self.log.record(Record::Decision(Box::new(decision))));
        step.effects.into_iter().for_each(|(number, effect)| self.log.record(Record::Effect { number, effect }));
        step.commands.into_iter().for_each(|command| self.carry_out_scaling(command));
    }

    /// Requests the nodes without which tasks cannot run.
    pub(super) fn provide_for_waiting_tasks(&mut self) {
        let Some(controller) = &self.controller else { return };
        let kinds = self.provider.requests().iter().map(|request| request.node_type);
        let starting = (0..).zip(&self.ranks).filter(|(_, rank)| rank.state == RankState::Joining && !rank.is_present);
        let kinds = kinds.chain(starting.map(|(rank, _)| self.provider.node(rank).kind));
        let coming = kinds.map(|kind| self.cluster.nodes[kind.0 as usize].offer()).collect();
        let kinds = (0..).map(NodeTypeId).zip(&self.cluster.nodes).filter(|(kind, _)| self.provider.room(*kind) > 0);
        let offers = Offers::of_nodes(kinds.map(|(_, node)| node.offer()));
        let state = ProvisioningState { offers, coming, most: controller.most_ranks() };
        self.coordinate(coordinator::CoordinatorEvent::Provisioning(state));
        let order: Vec<NodeTypeId> = self.sites().iter().map(|site| site.node_type).collect();
        for (need, nodes) in self.coordinator.wanted_nodes() {
            let first = order.first().copied().unwrap_or_default();
            self.request((first, &order), &need, nodes);
        }
    }

    /// Requests nodes of this kind or, if they cannot serve the need, of the first in the order
    /// that can.
    fn request(&mut self, (kind, order): (NodeTypeId, &[NodeTypeId]), need: &NodeNeed, nodes: u32) {
        let node = |kind: NodeTypeId| self.cluster.nodes.get(kind.0 as usize);
        let serves = |kind: &NodeTypeId| {
            self.provider.room(*kind) > 0 && node(*kind).is_some_and(|node| node.offer().may_serve(need))
        };
        let kind = std::iter::once(kind).chain(order.iter().copied()).find(serves).unwrap_or(kind);
        for answer in self.provider.request(self.now, kind, nodes) {
            self.events_due.schedule(answer.at, SimulatedEvent::Answered(answer));
        }
    }

    /// The kinds of nodes as input of a decision, in the order in which they are asked; empty if
    /// there is only one.
    fn sites(&self) -> Vec<SiteView> {
        let Some(controller) = self.controller.as_ref().filter(|_| self.cluster.nodes.len() > 1) else {
            return Vec::new();
        };
        let view = |(site, node): (u32, &NodeKind)| SiteView {
            site,
            name: node.name.clone(),
            node_type: NodeTypeId(site),
            node_hour: node.price,
            slots: node.slots,
            wait_s: controller.delay_s(NodeTypeId(site)),
            wait_from: controller.delay_source(NodeTypeId(site)),
            patience_s: f64::INFINITY,
            bandwidth: None,
            room: Some(self.provider.room(NodeTypeId(site))),
            closed: None,
        };
        let mut sites: Vec<SiteView> = (0..).zip(&self.cluster.nodes).map(view).collect();
        rank_sites(&mut sites);
        sites
    }

    /// The ranks as input of a decision.
    fn views(&self) -> Vec<RankView> {
        let bound = self.coordinator.needed_ranks();
        let view = |(rank, simulated): (u32, &SimulatedRank)| {
            let node = self.provider.node(rank);
            let is_waited_for = || self.coordinator.is_waited_for(&self.cluster.nodes[node.kind.0 as usize].offer());
            let needed = bound.contains(&Rank(rank)) || (!simulated.is_present && is_waited_for());
            let view = RankView {
                rank: Rank(rank),
                state: self.state_of(Rank(rank), simulated),
                node_type: node.kind,
                slots: simulated.member.slots,
                billed_since: Some(node.granted),
                busy_slots: simulated.pool.load().busy,
                busy: simulated.busy,
                failures: simulated.failures,
                releasable: rank > 0 && !needed,
                needed,
                ends: None,
            };
            view.of(node.gone.is_none())
        };
        (0..).zip(&self.ranks).filter_map(view).collect()
    }

    /// State of a rank; a requested one is starting, for its node has been granted.
    fn state_of(&self, rank: Rank, simulated: &SimulatedRank) -> RankState {
        match self.coordinator.standing(rank) {
            Some(RankState::Requested) => RankState::Joining,
            standing => standing.unwrap_or(simulated.state),
        }
    }

    /// Carries out a command of the scaling controller.
    fn carry_out_scaling(&mut self, command: ScalingCommand) {
        match command {
            ScalingCommand::Request { nodes, node_type, .. } => {
                let order: Vec<NodeTypeId> = (0..self.cluster.nodes.len() as u32).map(NodeTypeId).collect();
                for (labels, nodes) in self.coordinator.labels_of_next_nodes(nodes) {
                    let need = NodeNeed { labels, ..NodeNeed::default() };
                    self.request((node_type, &order), &need, nodes);
                }
            }
            ScalingCommand::Withdraw(request) => self.provider.withdraw(request),
            ScalingCommand::Drain(ranks) => ranks.into_iter().for_each(|rank| self.drain(rank)),
            ScalingCommand::Park(rank) => self.change(rank, Change::Park),
            ScalingCommand::Recall(rank) => self.change(rank, Change::Recall),
            ScalingCommand::Stop { by } => {
                self.stop(Stop::Drain);
                self.events_due.schedule(by.max(self.now), SimulatedEvent::OutOfMoney);
            }
        }
    }

    fn change(&mut self, rank: Rank, change: Change) {
        self.coordinate(coordinator::CoordinatorEvent::Change { rank, change });
    }

    /// Drains a rank. One that has not started yet is released at once.
    fn drain(&mut self, rank: Rank) {
        if self.ranks.get(rank.index()).is_some_and(|simulated| !simulated.is_present) {
            self.provider.release(rank.0, self.now);
            self.change(rank, Change::Lose);
            self.set_state(rank.0, RankState::Left);
        } else {
            self.change(rank, Change::Drain);
        }
    }

    /// Stops the run before its tasks have ended.
    pub(super) fn stop(&mut self, how: Stop) {
        self.stopping = true;
        self.coordinate(coordinator::CoordinatorEvent::Stop { how, why: StopReason::Budget });
    }

    /// The budget is exhausted: ends running tasks, and gives up ranks that do not answer.
    pub(super) fn out_of_money(&mut self) {
        self.stop(Stop::Terminate);
        let silent = |(rank, simulated): (u32, &SimulatedRank)| {
            let expected = self.coordinator.standing(Rank(rank)).is_some_and(RankState::is_here);
            (expected && !simulated.is_present).then_some(rank)
        };
        let silent: Vec<u32> = (0..).zip(&self.ranks).filter_map(silent).collect();
        silent.into_iter().for_each(|rank| self.loss_noticed(rank));
    }

    /// A request is granted, or fails.
    pub(super) fn answered(&mut self, answer: NodeGranted) {
        if self.finished.is_some() || self.stopping {
            return;
        }
        let Some((rank, startup)) = self.provider.answer(self.now, answer) else {
            if !answer.granted {
                self.note(Level::Info, "a request for a node has failed".to_owned());
                self.decide_on_news();
            }
            return;
        };
        let kind = self.provider.node(rank).kind;
        self.add_rank(member(self.cluster, kind, rank));
        self.change(Rank(rank), Change::Request);
        self.write_state(rank);
        self.events_due.schedule(self.now.after(startup), SimulatedEvent::Starts(rank));
        self.decide_on_news();
    }

    /// The rank of a granted node has started.
    pub(super) fn starts(&mut self, rank: u32) {
        let node = self.provider.node(rank);
        // It was released meanwhile, or arrives too late.
        if node.gone.is_some() || self.finished.is_some() {
            return;
        }
        let (kind, took) = (node.kind, self.now.since(node.asked));
        if let Some(controller) = &mut self.controller {
            controller.rank_arrived(kind, took);
        }
        self.mark_present(rank);
        let member = self.ranks[rank as usize].member.clone();
        self.change(Rank(rank), Change::Arrive(member));
        self.decide_on_news();
    }

    /// Orders a rank to leave.
    pub(super) fn leave(&mut self, rank: u32) {
        if !self.remove_rank(rank) {
            return;
        }
        // Nodes of ranks that leave at the end of the run are given back together, when the last
        // one has left.
        if self.finished.is_none() {
            self.provider.release(rank, self.now);
            self.set_state(rank, RankState::Left);
        }
    }

    /// A node goes down, or a rank dies: its tasks are lost, and nothing has noticed it yet.
    pub(super) fn lost(&mut self, rank: u32, loss: Loss) {
        if self.finished.is_some() || !self.remove_rank(rank) {
            return;
        }
        self.events += 1;
        if loss == Loss::Node {
            self.provider.release(rank, self.now);
        }
        for number in self.running_on(rank) {
            if let Some(running) = self.running.try_remove(number)
                && let Some(controller) = &mut self.controller
            {
                controller.task_stopped(running.lease.task);
            }
        }
        self.events_due.schedule(self.now.after(self.cluster.faults.notice), SimulatedEvent::Noticed(rank));
    }

    /// The loss of a rank is noticed.
    pub(super) fn loss_noticed(&mut self, rank: u32) {
        self.provider.release(rank, self.now);
        if self.finished.is_some() {
            return;
        }
        self.change(Rank(rank), Change::Lose);
        self.set_state(rank, RankState::Lost);
        self.decide_on_news();
    }

    /// Marks a rank as gone; false if it was not present.
    fn remove_rank(&mut self, rank: u32) -> bool {
        let simulated = &mut self.ranks[rank as usize];
        if !std::mem::replace(&mut simulated.is_present, false) {
            return false;
        }
        self.surplus -= u32::from(std::mem::replace(&mut simulated.has_surplus, false) && self.search.is_none());
        simulated.dozes = None;
        self.present -= 1;
        if let Some(staging) = &mut self.staging {
            staging.lose(self.now, Rank(rank));
        }
        self.go_on_staging();
        if let Some(search) = &mut self.search {
            search.remove_idle(rank);
            search.remove_surplus(rank);
            search.set_ranks(self.present as usize);
        }
        true
    }

    /// Records the state of a rank, which may have changed.
    pub(super) fn note_state(&mut self, rank: Rank) {
        let Some(simulated) = self.ranks.get(rank.index()) else { return };
        let state = self.state_of(rank, simulated);
        self.set_state(rank.0, state);
    }

    fn set_state(&mut self, rank: u32, state: RankState) {
        let before = std::mem::replace(&mut self.ranks[rank as usize].state, state);
        if before == state {
            return;
        }
        self.active += u32::from(state == RankState::Active);
        self.active -= u32::from(before == RankState::Active);
        self.supply.push((self.now, f64::from(self.active)));
        self.write_state(rank);
    }

    fn write_state(&mut self, rank: u32) {
        let (simulated, node) = (&self.ranks[rank as usize], self.provider.node(rank));
        let info = RankInfo { rank, node: simulated.member.node.clone(), slots: simulated.member.slots, pid: 0 };
        self.log.record(Record::Rank(RankChange {
            time: self.now,
            info,
            node_type: node.kind,
            state: simulated.state,
            billed_since: node.granted,
        }));
    }
}
