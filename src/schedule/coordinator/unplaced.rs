//! Tasks that no rank can run: they wait for a node, bring resting ranks back, or end the run.

use super::{Change, Coordinator, CoordinatorAction, Member, StopReason};
use crate::model::{Labels, NodeNeed, NodeOffer, Rank, RankState, TaskId, Time, has_labels};
use crate::schedule::protocol::Stop;

impl Coordinator {
    /// The nodes to request for tasks that no rank can run and a further node may be able to run:
    /// what each must have.
    pub fn wanted_nodes(&self) -> Vec<NodeNeed> {
        let mut wanted: Vec<NodeNeed> = Vec::new();
        if self.is_changing() || self.stopping.is_some() {
            return wanted;
        }
        let of_tasks = self.homeless.some.iter().map(|&task| self.tasks.advice.need(task));
        let of_gangs = (self.gangs.unplaced() > 0 && self.may_request_for_gang()).then(NodeNeed::default);
        for need in of_tasks.filter(|need| self.may_request(need)).chain(of_gangs) {
            if !self.is_coming(&need) && !wanted.iter().any(|other| other.covers(&need)) {
                wanted.push(need);
            }
        }
        wanted
    }

    /// Number of tasks that no rank can run, ready or not.
    pub fn homeless(&self) -> u32 {
        self.homeless.tasks
    }

    /// True if tasks that no rank can run may be able to run on such a node.
    pub fn is_waited_for(&self, node: &NodeOffer) -> bool {
        self.gangs.unplaced() > 0
            || self.homeless.some.iter().any(|&task| node.may_serve(&self.tasks.advice.need(task)))
    }

    /// The ranks without which some of the remaining tasks would find no rank with their labels.
    pub fn needed_ranks(&self) -> Vec<Rank> {
        let sets = self.tasks.advice.label_sets();
        let mut open: Vec<&Labels> = sets.iter().collect();
        let mut needed = Vec::new();
        for task in (0..self.finals.len() as u32).filter(|&task| self.finals[task as usize].is_none()) {
            if open.is_empty() {
                break;
            }
            let labels = self.tasks.advice.labels(TaskId(task));
            let Some(at) = open.iter().position(|set| **set == labels) else { continue };
            open.swap_remove(at);
            let has =
                |rank: &Rank| self.members.member(*rank).is_some_and(|member| has_labels(&member.labels, &labels));
            let mut able = self.members.active().filter(has);
            needed.extend(able.next().filter(|_| able.next().is_none()));
        }
        needed
    }

    /// The labels for this number of further nodes, each with a number of nodes: a node goes to
    /// those ready tasks that have the most work per slot which can run them.
    pub fn labels_of_next_nodes(&self, nodes: u32) -> Vec<(Labels, u32)> {
        let sets = self.tasks.advice.label_sets();
        if sets.is_empty() {
            return vec![(Labels::default(), nodes)];
        }
        // Tasks without labels come first, which decides where all else is equal.
        let mut demands: Vec<LabelDemand> =
            std::iter::once(&Labels::default()).chain(sets).map(LabelDemand::new).collect();
        let graph = &self.tasks.graph;
        let is_ready = |task: u32| {
            let has_ended = |node: u32| self.ends[node as usize].is_some();
            self.finals[task as usize].is_none() && graph.predecessors(task).all(|edge| has_ended(edge.node()))
        };
        for task in (0..self.finals.len() as u32).filter(|&task| is_ready(task)).map(TaskId) {
            let labels = self.tasks.advice.labels(task);
            if let Some(demand) = demands.iter_mut().find(|demand| demand.labels == labels) {
                demand.work += self.tasks.advice.work(task) as f64;
            }
        }
        let members: Vec<&Member> = self.members.active().filter_map(|rank| self.members.member(rank)).collect();
        let mean = members.iter().map(|member| f64::from(member.slots)).sum::<f64>() / members.len().max(1) as f64;
        let coming = self.provisioning.coming.iter().filter_map(|node| Some((node.labels.as_ref()?, mean.max(1.0))));
        for (labels, slots) in members.iter().map(|member| (&member.labels, f64::from(member.slots))).chain(coming) {
            let is_special = sets.iter().any(|set| has_labels(labels, set));
            let serves = |demand: &&mut LabelDemand| match demand.labels.is_empty() {
                true => !is_special,
                false => has_labels(labels, &demand.labels),
            };
            demands.iter_mut().filter(serves).for_each(|demand| demand.slots += slots);
        }
        for _ in 0..nodes {
            let open = demands.iter_mut().filter(|demand| self.provisioning.offers.may_have(&demand.labels));
            // Of equals the first.
            let most = open.reduce(|a, b| if b.per_slot() > a.per_slot() { b } else { a });
            if let Some(demand) = most {
                demand.slots += mean.max(1.0);
                demand.nodes += 1;
            }
        }
        demands.into_iter().filter(|demand| demand.nodes > 0).map(|demand| (demand.labels, demand.nodes)).collect()
    }

    /// Handles tasks that no rank can run: ranks that were to rest or leave become active again, or
    /// the run stops unless further ranks are expected.
    pub(super) fn handle_unplaced_tasks(&mut self, now: Time, actions: &mut Vec<CoordinatorAction>) {
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
            actions.push(CoordinatorAction::Warning(format!(
                "{rank} takes part again: {tasks} tasks can run nowhere else"
            )));
            self.members.change(rank, Change::Recall);
        }
        if !resting.is_empty() {
            self.begin_change(now, false, true, actions);
        } else if !self.members.expects_more() && !self.may_get_node() {
            let reason = format!("no rank that is left can run {tasks} of the remaining tasks");
            actions.push(CoordinatorAction::Error(format!("{reason}: nothing more is started")));
            self.stop(Stop::Drain, StopReason::Broken(reason), actions);
        }
    }

    /// True if nodes may still arrive that can help.
    pub(super) fn may_get_node(&self) -> bool {
        let helps = |need: &NodeNeed| self.is_coming(need) || self.may_request(need);
        let gangs = self.gangs.unplaced() > 0;
        (gangs && (!self.provisioning.coming.is_empty() || self.may_request_for_gang()))
            || self.homeless.some.iter().any(|&task| helps(&self.tasks.advice.need(task)))
    }

    /// True if a node that may serve a need is on its way.
    fn is_coming(&self, need: &NodeNeed) -> bool {
        self.provisioning.coming.iter().any(|coming| coming.may_serve(need))
    }

    /// True if a requested node may be able to run tasks that no rank can run. Where only labels
    /// are known, nodes with the same labels are alike: if one that has arrived cannot, others
    /// cannot either.
    fn may_request(&self, need: &NodeNeed) -> bool {
        let offers = &self.provisioning.offers;
        let has_joined = || self.joined().any(|member| has_labels(&member.labels, &need.labels));
        offers.surely_serve(need) || (offers.may_serve(need) && !has_joined())
    }

    /// Tasks that need several ranks may need more of them.
    fn may_request_for_gang(&self) -> bool {
        self.provisioning.offers.has_any() && (self.joined().count() as u32) < self.provisioning.most
    }

    /// The ranks that joined and take part.
    fn joined(&self) -> impl Iterator<Item = &Member> {
        self.members.active().filter(|rank| rank.0 >= self.first).filter_map(|rank| self.members.member(rank))
    }
}

/// The ready work that asks for some labels, and the slots that can do it.
struct LabelDemand {
    labels: Labels,
    work: f64,
    slots: f64,
    /// Nodes to request.
    nodes: u32,
}

impl LabelDemand {
    fn new(labels: &Labels) -> LabelDemand {
        LabelDemand { labels: Labels::clone(labels), work: 0.0, slots: 0.0, nodes: 0 }
    }

    fn per_slot(&self) -> f64 {
        if self.work > 0.0 { self.work / self.slots } else { 0.0 }
    }
}
