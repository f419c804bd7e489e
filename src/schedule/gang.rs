//! Gangs: tasks that need slots on several ranks at once. These are MPI tasks that no single rank
//! holds, and operations on a graph that is divided among the active ranks.
//!
//! A home sends such a task to the coordinator. The coordinator assembles gangs one at a time, in
//! the order in which they became ready, so two gangs never wait for each other's slots:
//!
//! | state | event | next | does |
//! |---|---|---|---|
//! | waiting | no other is gathering | gathering | `Lead` to the leader, `Hold` to the others |
//! | gathering | every rank has `Held` | running | `Launch` to the leader; of an operation, `Share` to the others |
//! | running | `GangEnded`, or the leader leaves or is lost | gone | `Release` to the others |
//! | running | another rank of an operation is lost | running | `MemberLost` to the leader, which ends the attempt |
//! | waiting, gathering | cancelled, the run stops, or homes change | gone | `Release` to all |
//!
//! After a change of homes, each home requests its gangs again that had not started.

use std::collections::VecDeque;

use super::action::CoordinatorAction;
use super::membership::Member;
use super::protocol::{Lease, Message};
use crate::model::{Labels, NodeNeed, Rank, TaskId, has_labels};

/// The shape that a task requests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Shape {
    /// An MPI task.
    Mpi {
        /// MPI ranks.
        ranks: u32,
        /// CPUs of each.
        cpus: u32,
        /// Upper limit on MPI ranks per node.
        per_node: Option<u32>,
        /// Labels that each rank must have which hosts some of them.
        labels: Labels,
    },
    /// An operation that all active ranks execute together.
    Everywhere {
        /// CPUs on each rank; a rank with fewer slots gives all of them.
        cpus: u32,
    },
}

impl Shape {
    /// What a rank must have to host a part of the task.
    pub fn need(&self) -> NodeNeed {
        match self {
            Shape::Mpi { cpus, labels, .. } => {
                NodeNeed { labels: Labels::clone(labels), slots: (*cpus).max(1), ..NodeNeed::default() }
            }
            Shape::Everywhere { .. } => NodeNeed { slots: 1, ..NodeNeed::default() },
        }
    }
}

/// Looks up a task's shape.
pub type ShapeOf = Box<dyn Fn(TaskId) -> Shape + Send>;

/// A rank of a gang.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Host {
    /// The rank.
    pub rank: Rank,
    /// Number of MPI ranks that it hosts; 1 for an operation.
    pub ranks: u32,
    /// Number of its slots that are set aside.
    pub slots: u32,
}

/// Places a shape on ranks; the first one leads. An MPI task gets as few ranks as possible, those
/// with the most room first, no node above its limit; an operation gets all of them, in ascending
/// order, so that operations on the same ranks have the same leader. `None` if they cannot hold it.
pub fn place(shape: &Shape, members: &[Member]) -> Option<Vec<Host>> {
    let (hosts, missing) = place_part(shape, members);
    (missing == 0).then_some(hosts)
}

/// Places as much of a shape as these ranks can hold; returns also how many of its MPI ranks they
/// cannot. An operation misses one if there is no rank.
pub fn place_part(shape: &Shape, members: &[Member]) -> (Vec<Host>, u32) {
    match shape {
        Shape::Mpi { ranks, per_node, .. } => place_mpi(&shape.need(), (*ranks, *per_node), members),
        Shape::Everywhere { cpus } => {
            let works = (0..).zip(members).filter(|(_, member)| member.slots > 0);
            let host = |(rank, member): (u32, &Member)| Host {
                rank: Rank(rank),
                ranks: 1,
                slots: member.slots.min((*cpus).max(1)),
            };
            let hosts: Vec<Host> = works.map(host).collect();
            let missing = u32::from(hosts.is_empty());
            (hosts, missing)
        }
    }
}

/// Number of further nodes with `slots` slots each that a shape needs beside these ranks.
pub fn nodes_missing(shape: &Shape, members: &[Member], slots: u32) -> u32 {
    let (_, missing) = place_part(shape, members);
    match *shape {
        Shape::Mpi { cpus, per_node, .. } => {
            missing.div_ceil((slots / cpus.max(1)).min(per_node.unwrap_or(u32::MAX)).max(1))
        }
        Shape::Everywhere { .. } => missing,
    }
}

fn place_mpi(need: &NodeNeed, (ranks, per_node): (u32, Option<u32>), members: &[Member]) -> (Vec<Host>, u32) {
    let hosts_some = |&r: &usize| members[r].slots >= need.slots && has_labels(&members[r].labels, &need.labels);
    let mut order: Vec<usize> = (0..members.len()).filter(hosts_some).collect();
    order.sort_by(|&a, &b| {
        let key = |r: usize| (std::cmp::Reverse(members[r].slots), &members[r].node, r);
        key(a).cmp(&key(b))
    });
    let mut on_node = std::collections::BTreeMap::<&str, u32>::new();
    let mut missing = ranks;
    let mut hosts = Vec::new();
    for rank in order {
        let node = on_node.entry(&members[rank].node).or_default();
        let room = per_node.map_or(u32::MAX, |most| most.saturating_sub(*node));
        let here = (members[rank].slots / need.slots).min(room).min(missing);
        if here > 0 {
            *node += here;
            missing -= here;
            hosts.push(Host { rank: Rank(rank as u32), ranks: here, slots: here * need.slots });
        }
    }
    (hosts, missing)
}

struct Gang {
    number: u32,
    lease: Lease,
    hosts: Vec<Host>,
    /// All ranks execute the task together.
    is_shared: bool,
    /// The leader has been notified that one of them is lost.
    is_broken: bool,
    /// Ranks whose slots are not set aside yet.
    missing: Vec<Rank>,
    /// CPUs set aside on the leader's node.
    cpus: Vec<u32>,
}

impl Gang {
    fn leader(&self) -> Rank {
        self.hosts[0].rank
    }

    fn ranks(&self) -> Vec<Rank> {
        self.hosts.iter().map(|host| host.rank).collect()
    }
}

/// All gangs of a run.
pub(super) struct Gangs {
    members: Vec<Member>,
    shape: ShapeOf,
    waiting: VecDeque<Lease>,
    gathering: Option<Gang>,
    running: Vec<Gang>,
    next: u32,
    /// True while homes change: no gang is assembled.
    paused: bool,
    /// Number of gangs that the present ranks cannot hold, and their shapes, each once.
    unplaced: u32,
    unplaced_shapes: Vec<Shape>,
}

impl Gangs {
    pub(super) fn new(members: Vec<Member>, shape: ShapeOf) -> Gangs {
        Gangs {
            members,
            shape,
            waiting: VecDeque::new(),
            gathering: None,
            running: Vec::new(),
            next: 1,
            paused: false,
            unplaced: 0,
            unplaced_shapes: Vec::new(),
        }
    }

    /// The shape of a task.
    pub(super) fn shape_of(&self, task: TaskId) -> Shape {
        (self.shape)(task)
    }

    /// True for an operation that all active ranks execute together.
    pub(super) fn is_shared(&self, task: TaskId) -> bool {
        matches!((self.shape)(task), Shape::Everywhere { .. })
    }

    /// Replaces the shapes by those of more tasks.
    pub(super) fn set_shapes(&mut self, shape: ShapeOf) {
        self.shape = shape;
    }

    /// Number of gangs whose ranks have not all been set aside.
    pub(super) fn waiting(&self) -> u32 {
        self.waiting.len() as u32 + u32::from(self.gathering.is_some())
    }

    pub(super) fn ready(&mut self, lease: Lease, actions: &mut Vec<CoordinatorAction>) {
        if self.paused {
            return;
        }
        let after = self.waiting.partition_point(|w| w.urgency >= lease.urgency);
        self.waiting.insert(after, lease);
        self.gather(actions);
    }

    pub(super) fn held(&mut self, from: Rank, gang: u32, cpus: &[u32], actions: &mut Vec<CoordinatorAction>) {
        let Some(gathering) = self.gathering.as_mut().filter(|g| g.number == gang) else { return };
        gathering.missing.retain(|&r| r != from);
        if self.members[from.index()].node == self.members[gathering.leader().index()].node {
            gathering.cpus.extend(cpus);
        }
        if !gathering.missing.is_empty() {
            return;
        }
        if let Some(mut gang) = self.gathering.take() {
            gang.cpus.sort_unstable();
            gang.cpus.dedup();
            let (number, cpus) = (gang.number, std::mem::take(&mut gang.cpus));
            let (hosts, ranks) = match gang.is_shared {
                true => (Vec::new(), gang.ranks()),
                false => (self.by_node(&gang.hosts), Vec::new()),
            };
            for &to in ranks.iter().skip(1) {
                let message = Message::Share { gang: number, lease: gang.lease, ranks: ranks.clone() };
                actions.push(CoordinatorAction::Send { to, message });
            }
            let launch = Message::Launch { gang: number, hosts, cpus, ranks };
            actions.push(CoordinatorAction::Send { to: gang.leader(), message: launch });
            self.running.push(gang);
        }
        self.gather(actions);
    }

    /// The task of a gang has ended: its slots are freed. Returns its lease.
    pub(super) fn ended(&mut self, gang: u32, actions: &mut Vec<CoordinatorAction>) -> Option<Lease> {
        let at = self.running.iter().position(|g| g.number == gang)?;
        let gang = self.running.swap_remove(at);
        for host in &gang.hosts[1..] {
            actions.push(CoordinatorAction::Send { to: host.rank, message: Message::Release { gang: gang.number } });
        }
        Some(gang.lease)
    }

    /// True while no gang is assembled.
    pub(super) fn is_paused(&self) -> bool {
        self.paused
    }

    /// True if the gang of this attempt has been started.
    pub(super) fn is_running(&self, task: TaskId, attempt: u16) -> bool {
        self.running.iter().any(|gang| (gang.lease.task, gang.lease.attempt) == (task, attempt))
    }

    /// Pauses gangs until the next [`Gangs::meet`]: slots already set aside for a gathering gang
    /// are freed.
    pub(super) fn abandon(&mut self, actions: &mut Vec<CoordinatorAction>) {
        self.paused = true;
        self.waiting.clear();
        self.scatter(actions);
    }

    /// Returns the matching gangs that do not run yet, and removes them.
    pub(super) fn take_back(
        &mut self,
        which: impl Fn(TaskId) -> bool,
        actions: &mut Vec<CoordinatorAction>,
    ) -> Vec<Lease> {
        let (mut back, stay): (Vec<Lease>, _) = self.waiting.drain(..).partition(|lease| which(lease.task));
        self.waiting = stay.into();
        if self.gathering.as_ref().is_some_and(|gang| which(gang.lease.task)) {
            back.extend(self.scatter(actions));
        }
        self.gather(actions);
        back
    }

    /// Frees the slots of the gathering gang.
    fn scatter(&mut self, actions: &mut Vec<CoordinatorAction>) -> Option<Lease> {
        let gang = self.gathering.take()?;
        let release = |to| CoordinatorAction::Send { to, message: Message::Release { gang: gang.number } };
        actions.extend(gang.ranks().into_iter().map(release));
        Some(gang.lease)
    }

    /// Sets the ranks that gangs are placed on from now on, and resumes.
    pub(super) fn meet(&mut self, members: Vec<Member>) {
        self.members = members;
        self.paused = false;
        self.unplaced = 0;
        self.unplaced_shapes.clear();
    }

    /// Frees the slots of gangs whose leader is gone, and returns their leases. Notifies the leader
    /// of an operation of which another rank is gone.
    pub(super) fn release_leaderless(
        &mut self,
        is_here: &dyn Fn(Rank) -> bool,
        actions: &mut Vec<CoordinatorAction>,
    ) -> Vec<Lease> {
        for gang in self.running.iter_mut().filter(|gang| gang.is_shared && !gang.is_broken) {
            let Some(lost) = gang.hosts.iter().map(|host| host.rank).find(|&rank| !is_here(rank)) else { continue };
            gang.is_broken = true;
            let message = Message::MemberLost { gang: gang.number, rank: lost };
            actions.push(CoordinatorAction::Send { to: gang.leader(), message });
        }
        let leaderless = self.running.iter().filter(|gang| !is_here(gang.leader())).map(|gang| gang.number);
        let leaderless: Vec<u32> = leaderless.collect();
        leaderless.into_iter().filter_map(|gang| self.ended(gang, actions)).collect()
    }

    /// Number of gangs that wait for ranks that do not exist.
    pub(super) fn unplaced(&self) -> u32 {
        self.unplaced
    }

    /// The shapes of these gangs, each once.
    pub(super) fn unplaced_shapes(&self) -> &[Shape] {
        &self.unplaced_shapes
    }

    /// The ranks that gangs are placed on.
    pub(super) fn members(&self) -> &[Member] {
        &self.members
    }

    /// The ranks that gangs wait on: those that host a part of one which waits for further ranks,
    /// and those of the one that gathers.
    pub(super) fn awaited(&self) -> Vec<Rank> {
        let of_unplaced = self.unplaced_shapes.iter().flat_map(|shape| place_part(shape, &self.members).0);
        let of_gathering = self.gathering.iter().flat_map(|gang| gang.hosts.iter().copied());
        of_unplaced.chain(of_gathering).map(|host| host.rank).collect()
    }

    /// The host list: ranks of one node share a line.
    fn by_node(&self, hosts: &[Host]) -> Vec<(String, u32)> {
        let mut nodes: Vec<(String, u32)> = Vec::new();
        for host in hosts {
            let node = &self.members[host.rank.index()].node;
            match nodes.iter_mut().find(|n| n.0 == *node) {
                Some(known) => known.1 += host.ranks,
                None => nodes.push((node.clone(), host.ranks)),
            }
        }
        nodes
    }

    fn gather(&mut self, actions: &mut Vec<CoordinatorAction>) {
        if self.gathering.is_some() {
            return;
        }
        let (lease, shape, hosts) = loop {
            let Some(lease) = self.waiting.pop_front() else { return };
            let shape = (self.shape)(lease.task);
            match place(&shape, &self.members) {
                Some(hosts) => break (lease, shape, hosts),
                // It waits for further ranks, or the run ends.
                None => {
                    self.unplaced += 1;
                    if !self.unplaced_shapes.contains(&shape) {
                        self.unplaced_shapes.push(shape);
                    }
                }
            }
        };
        let number = self.next;
        self.next += 1;
        for (i, &Host { rank: to, slots, .. }) in hosts.iter().enumerate() {
            let message = match i {
                0 => Message::Lead { gang: number, slots, lease },
                _ => Message::Hold { gang: number, slots },
            };
            actions.push(CoordinatorAction::Send { to, message });
        }
        let is_shared = matches!(shape, Shape::Everywhere { .. });
        let mut gang =
            Gang { number, lease, hosts, is_shared, is_broken: false, missing: Vec::new(), cpus: Vec::new() };
        gang.missing = gang.ranks();
        self.gathering = Some(gang);
    }
}
