//! Tasks that no rank can run: they wait for a node, bring resting ranks back, or end the run.

use super::{Change, Coordinator, CoordinatorAction, Member, StopReason};
use crate::model::{Labels, NodeNeed, NodeOffer, Rank, RankState, TaskId, Time, has_labels};
use crate::schedule::gang::{self, Shape};
use crate::schedule::protocol::Stop;

impl Coordinator {
    /// The nodes to request for tasks that no rank can run and further nodes may be able to run:
    /// what each must have, and how many of them.
    pub fn wanted_nodes(&self) -> Vec<(NodeNeed, u32)> {
        let mut wanted: Vec<(NodeNeed, u32)> = Vec::new();
        if self.is_changing() || self.stopping.is_some() {
            return wanted;
        }
        let mut lacks: Vec<Lack> = self.lacks().filter(|lack| self.may_request(lack)).collect();
        // Nodes for those that ask for the most serve others, too.
        lacks.sort_by_key(|lack| {
            let need = &lack.need;
            std::cmp::Reverse((need.labels.len(), need.gpus, need.memory, need.slots, lack.nodes))
        });
        for lack in lacks {
            let planned = wanted.iter().filter(|(other, _)| other.covers(&lack.need)).map(|it| it.1).max();
            let there = self.coming_for(&lack.need).saturating_add(planned.unwrap_or(0));
            let all = self.provisioning.coming.len() as u32 + wanted.iter().map(|it| it.1).sum::<u32>();
            let missing = lack.nodes.saturating_sub(there).min(lack.most.saturating_sub(all));
            if missing > 0 {
                wanted.push((lack.need, missing));
            }
        }
        wanted
    }

    /// What tasks wait for that no rank can run.
    fn lacks(&self) -> impl Iterator<Item = Lack> {
        let of_tasks = self.homeless.some.iter().map(|&task| match self.gang_shape(task) {
            Some(shape) => self.lack_of(&shape),
            None => Lack { need: self.tasks.advice.need(task), nodes: 1, most: u32::MAX },
        });
        of_tasks.chain(self.gangs.unplaced_shapes().iter().map(|shape| self.lack_of(shape)))
    }

    /// What a gang lacks. Nodes of which the slots are not known count as the rank with what it
    /// needs that can host most of it or, if there is none, as the one of all that can.
    fn lack_of(&self, shape: &Shape) -> Lack {
        let (need, members) = (shape.need(), self.gangs.members());
        let runners = self.members.runners().count() as u32;
        let most = self.provisioning.most.saturating_sub(runners);
        if let Some(each) = self.provisioning.offers.most_for(&need, |node| shape.mpi_ranks_on(node)) {
            return Lack { nodes: gang::nodes_missing(shape, members, each), need, most };
        }
        let largest = |labels: &[String]| {
            let like = members.iter().filter(|member| has_labels(&member.labels, labels));
            like.map(|member| shape.mpi_ranks_in(member.room())).max().filter(|&ranks| ranks > 0)
        };
        let each = largest(&need.labels).or_else(|| largest(&[])).unwrap_or(1);
        Lack { nodes: gang::nodes_missing(shape, members, each).min(most), need, most }
    }

    /// The shape of a task that may run on several ranks together; `None` if one rank must run it.
    fn gang_shape(&self, task: TaskId) -> Option<Shape> {
        Some(self.gangs.shape_of(task)).filter(|shape| matches!(shape, Shape::Mpi { ranks: 2.., .. }))
    }

    /// For how many MPI ranks of a task there is room, if that is fewer than it has; `None` for
    /// other tasks.
    pub fn gang_room(&self, task: TaskId) -> Option<u32> {
        let shape = self.gang_shape(task)?;
        let (hosts, missing) = gang::place_part(&shape, &self.members.able());
        (missing > 0).then(|| hosts.iter().map(|host| host.ranks).sum())
    }

    /// Number of tasks that no rank can run, ready or not.
    pub fn homeless(&self) -> u32 {
        self.homeless.tasks
    }

    /// True if tasks that no rank can run may be able to run on such a node.
    pub fn is_waited_for(&self, node: &NodeOffer) -> bool {
        let of_task = |&task: &TaskId| match self.gang_shape(task) {
            Some(shape) => shape.need(),
            None => self.tasks.advice.need(task),
        };
        self.gangs.unplaced_shapes().iter().any(|shape| node.may_serve(&shape.need()))
            || self.homeless.some.iter().map(of_task).any(|need| node.may_serve(&need))
    }

    /// The ranks without which some of the remaining tasks would find no rank with their labels,
    /// and those that MPI tasks on several ranks wait on.
    pub fn needed_ranks(&self) -> Vec<Rank> {
        let sets = self.tasks.advice.label_sets();
        let mut open: Vec<&Labels> = sets.iter().collect();
        let mut needed = self.gangs.awaited();
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
        needed.sort_unstable();
        needed.dedup();
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
        let hosts =
            |member: &Member| self.gangs.unplaced_shapes().iter().map(Shape::need).any(|need| member.has(&need));
        let helps = |rank: &Rank| {
            let fits = |member| self.homeless.some.iter().any(|&task| self.tasks.advice.fits(task, member));
            self.members.member(*rank).is_some_and(|member| hosts(member) || fits(member))
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
        self.lacks().any(|lack| self.coming_for(&lack.need) > 0 || self.may_request(&lack))
    }

    /// Number of nodes on their way that may serve a need.
    fn coming_for(&self, need: &NodeNeed) -> u32 {
        self.provisioning.coming.iter().filter(|coming| coming.may_serve(need)).count() as u32
    }

    /// True if requested nodes may be able to run tasks that no rank can run. Where only labels are
    /// known, nodes with the same labels are alike: if one that has arrived cannot, others cannot
    /// either.
    fn may_request(&self, lack: &Lack) -> bool {
        let (need, offers) = (&lack.need, &self.provisioning.offers);
        let falls_short = |member: &Member| has_labels(&member.labels, &need.labels) && !member.has(need);
        let may = offers.surely_serve(need) || (offers.may_serve(need) && !self.joined().any(falls_short));
        may && (1..=lack.most).contains(&lack.nodes)
    }

    /// The ranks that joined and take part.
    fn joined(&self) -> impl Iterator<Item = &Member> {
        self.members.active().filter(|rank| rank.0 >= self.first).filter_map(|rank| self.members.member(rank))
    }
}

/// Nodes that tasks wait for.
struct Lack {
    /// What each must have.
    need: NodeNeed,
    /// Their number, those that are coming included.
    nodes: u32,
    /// Upper limit on their number.
    most: u32,
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
