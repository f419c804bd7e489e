//! Gangs: tasks that need slots on several ranks at once. These are MPI tasks that no single rank
//! holds, and operations on a graph that is divided among the active ranks.
//!
//! A home sends such a task to the coordinator. The waiting gangs stand in line, the more urgent
//! first, then the first to become ready:
//!
//! | state | event | next | does |
//! |---|---|---|---|
//! | waiting | there is room for it | gathering | `Hold` to all, which says who leads |
//! | gathering | every rank has `Held` | running | `Launch` to the leader; of an operation, `Share` to the others |
//! | running | `GangEnded`, or the leader leaves or is lost | gone | `Release` to the others |
//! | running | another rank of an operation is lost | running | `MemberLost` to the leader, which ends the attempt |
//! | waiting, gathering | cancelled, the run stops, or homes change | gone | `Release` to all |
//!
//! After a change of homes, each home requests its gangs again that had not started.
//!
//! **There is room** where a rank has enough slots, memory and GPUs beside what gangs that run have
//! of it, and no other gang is gathering. So what a gang waits for while it gathers is the end of
//! tasks of its ranks, never another gang that gathers, and as many run at once as there is room
//! for.
//!
//! **Each gets its turn.** The first in line for which there is no room keeps the ranks that it
//! would have if no gang ran: those behind it may pass it on other ranks only. Gangs that run end,
//! none begins on these ranks, and then there is room for it. What is free there meanwhile runs
//! tasks of the rank.

use std::collections::VecDeque;

use super::action::CoordinatorAction;
use super::membership::Member;
use super::protocol::{Lease, Message};
use crate::model::{
    GangHost, GangNode, Labels, NodeNeed, NodeOffer, Rank, RankRoom, SetAside, TaskId, ranks_within, share_of,
};

/// The shape that a task requests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Shape {
    /// An MPI task.
    Mpi {
        /// MPI ranks.
        ranks: u32,
        /// CPUs of each.
        cpus: u32,
        /// Bytes of memory of all of them together; a rank provides the share of those that it
        /// hosts.
        memory: u64,
        /// GPUs of all of them together, likewise.
        gpus: u32,
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
            &Shape::Mpi { ranks, cpus, memory, gpus, ref labels, .. } => NodeNeed {
                labels: Labels::clone(labels),
                slots: cpus.max(1),
                memory: share_of(memory, 1, ranks),
                gpus: share_of(gpus.into(), 1, ranks) as u32,
            },
            Shape::Everywhere { .. } => NodeNeed { slots: 1, ..NodeNeed::default() },
        }
    }

    /// How many of the task's MPI ranks a rank with this room can host, labels aside.
    pub fn mpi_ranks_in(&self, room: RankRoom) -> u32 {
        match *self {
            Shape::Mpi { ranks, cpus, memory, gpus, .. } => (room.slots / cpus.max(1))
                .min(ranks_within(memory, room.memory, ranks))
                .min(ranks_within(gpus.into(), room.gpus.into(), ranks)),
            Shape::Everywhere { .. } => u32::from(room.slots > 0),
        }
    }

    /// How many of the task's MPI ranks such a node can host, labels aside; `None` if its slots are
    /// not known. What else is not known of it counts as enough.
    pub fn mpi_ranks_on(&self, node: &NodeOffer) -> Option<u32> {
        let (memory, gpus) = (node.memory.unwrap_or(u64::MAX), node.gpus.unwrap_or(u32::MAX));
        Some(self.mpi_ranks_in(RankRoom { slots: node.slots?, memory, gpus }))
    }
}

/// Number of gangs behind the first in line that are examined for whether they may pass it.
const MAX_PASSING: usize = 64;

/// Looks up a task's shape.
pub type ShapeOf = Box<dyn Fn(TaskId) -> Shape + Send>;

/// Places a shape on ranks; the first one leads. An MPI task gets as few ranks as possible, those
/// with the most room first, no node above its limit; an operation gets all of them, in ascending
/// order, so that operations on the same ranks have the same leader. `None` if they cannot hold it.
pub fn place(shape: &Shape, members: &[Member]) -> Option<Vec<GangHost>> {
    let (hosts, missing) = place_part(shape, members);
    (missing == 0).then_some(hosts)
}

/// Places as much of a shape as these ranks can hold; returns also how many of its MPI ranks they
/// cannot. An operation misses one if there is no rank.
pub fn place_part(shape: &Shape, members: &[Member]) -> (Vec<GangHost>, u32) {
    match shape {
        Shape::Mpi { ranks, cpus, per_node, .. } => place_mpi(shape, (*ranks, *cpus, *per_node), members),
        Shape::Everywhere { cpus } => {
            let works = (0..).zip(members).filter(|(_, member)| member.slots > 0);
            let host = |(rank, member): (u32, &Member)| GangHost {
                rank: Rank(rank),
                ranks: 1,
                slots: member.slots.min((*cpus).max(1)),
            };
            let hosts: Vec<GangHost> = works.map(host).collect();
            let missing = u32::from(hosts.is_empty());
            (hosts, missing)
        }
    }
}

/// Number of further nodes that a shape needs beside these ranks, if each can host this number of
/// its MPI ranks.
pub fn nodes_missing(shape: &Shape, members: &[Member], each: u32) -> u32 {
    let (_, missing) = place_part(shape, members);
    match *shape {
        Shape::Mpi { per_node, .. } => missing.div_ceil(each.min(per_node.unwrap_or(u32::MAX)).max(1)),
        Shape::Everywhere { .. } => missing,
    }
}

fn place_mpi(
    shape: &Shape,
    (ranks, cpus, per_node): (u32, u32, Option<u32>),
    members: &[Member],
) -> (Vec<GangHost>, u32) {
    let need = shape.need();
    let able = (0..members.len()).filter(|&r| members[r].has(&need));
    let mut order: Vec<(u32, usize)> = able.map(|r| (shape.mpi_ranks_in(members[r].room()), r)).collect();
    order.sort_by(|&a, &b| {
        let key = |(most, r): (u32, usize)| (std::cmp::Reverse(most), &members[r].node, r);
        key(a).cmp(&key(b))
    });
    let mut on_node = std::collections::BTreeMap::<&str, u32>::new();
    let mut missing = ranks;
    let mut hosts = Vec::new();
    for (most, rank) in order {
        let node = on_node.entry(&members[rank].node).or_default();
        let room = per_node.map_or(u32::MAX, |most| most.saturating_sub(*node));
        let here = most.min(room).min(missing);
        if here > 0 {
            *node += here;
            missing -= here;
            hosts.push(GangHost { rank: Rank(rank as u32), ranks: here, slots: here * cpus.max(1) });
        }
    }
    (hosts, missing)
}

/// Places a shape on what is free of the ranks; see [`place`]. An operation takes as many slots of
/// each as if all were free.
fn place_beside(shape: &Shape, members: &[Member], free: &[Member]) -> Option<Vec<GangHost>> {
    match shape {
        Shape::Mpi { .. } => place(shape, free),
        Shape::Everywhere { .. } => {
            place(shape, members).filter(|hosts| hosts.iter().all(|host| free[host.rank.index()].slots >= host.slots))
        }
    }
}

struct Gang {
    number: u32,
    lease: Lease,
    shape: Shape,
    hosts: Vec<GangHost>,
    /// The leader has been notified that one of them is lost.
    is_broken: bool,
    /// Ranks whose slots are not set aside yet.
    missing: Vec<Rank>,
    /// What the others have set aside.
    set_aside: Vec<(Rank, SetAside)>,
}

impl Gang {
    fn leader(&self) -> Rank {
        self.hosts[0].rank
    }

    fn ranks(&self) -> Vec<Rank> {
        self.hosts.iter().map(|host| host.rank).collect()
    }

    /// All ranks execute the task together.
    fn is_shared(&self) -> bool {
        matches!(self.shape, Shape::Everywhere { .. })
    }

    /// Subtracts what this gang has of its ranks.
    fn take_from(&self, free: &mut [Member]) {
        for host in &self.hosts {
            let Some(member) = free.get_mut(host.rank.index()) else { continue };
            member.slots = member.slots.saturating_sub(host.slots);
            if let Shape::Mpi { ranks, memory, gpus, .. } = self.shape {
                member.memory = member.memory.saturating_sub(share_of(memory, host.ranks, ranks));
                member.gpus = member.gpus.saturating_sub(share_of(gpus.into(), host.ranks, ranks) as u32);
            }
        }
    }
}

/// All gangs of a run.
pub(super) struct Gangs {
    members: Vec<Member>,
    shape: ShapeOf,
    waiting: VecDeque<Lease>,
    /// No two of these have a rank in common.
    gathering: Vec<Gang>,
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
            gathering: Vec::new(),
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
        (self.waiting.len() + self.gathering.len()) as u32 + self.unplaced
    }

    pub(super) fn ready(&mut self, lease: Lease, actions: &mut Vec<CoordinatorAction>) {
        if self.paused {
            return;
        }
        // Ranks that it lacks are known at once, also while another gathers.
        let shape = (self.shape)(lease.task);
        if place(&shape, &self.members).is_none() {
            return self.note_unplaced(shape);
        }
        let after = self.waiting.partition_point(|w| w.urgency >= lease.urgency);
        self.waiting.insert(after, lease);
        self.gather(actions);
    }

    pub(super) fn held(&mut self, from: Rank, gang: u32, aside: SetAside, actions: &mut Vec<CoordinatorAction>) {
        let Some(at) = self.gathering.iter().position(|g| g.number == gang) else { return };
        let gathering = &mut self.gathering[at];
        if !gathering.missing.contains(&from) {
            return;
        }
        gathering.missing.retain(|&r| r != from);
        gathering.set_aside.push((from, aside));
        if !gathering.missing.is_empty() {
            return;
        }
        let mut gang = self.gathering.swap_remove(at);
        let (number, aside) = (gang.number, std::mem::take(&mut gang.set_aside));
        let cpus = self.cpus_of_node(&aside, gang.leader());
        let (hosts, ranks) = match gang.is_shared() {
            true => (Vec::new(), gang.ranks()),
            false => (self.by_node(&gang.hosts, aside), Vec::new()),
        };
        for &to in ranks.iter().skip(1) {
            let message = Message::Share { gang: number, lease: gang.lease, ranks: ranks.clone() };
            actions.push(CoordinatorAction::Send { to, message });
        }
        let launch = Message::Launch { gang: number, hosts, cpus, ranks };
        actions.push(CoordinatorAction::Send { to: gang.leader(), message: launch });
        self.running.push(gang);
        self.gather(actions);
    }

    /// The task of a gang has ended: its slots are freed. Returns its lease.
    pub(super) fn ended(&mut self, gang: u32, actions: &mut Vec<CoordinatorAction>) -> Option<Lease> {
        let lease = self.remove(gang, actions)?;
        self.gather(actions);
        Some(lease)
    }

    fn remove(&mut self, gang: u32, actions: &mut Vec<CoordinatorAction>) -> Option<Lease> {
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

    /// Pauses gangs until the next [`Gangs::meet`]: slots already set aside for gathering gangs are
    /// freed.
    pub(super) fn abandon(&mut self, actions: &mut Vec<CoordinatorAction>) {
        self.paused = true;
        self.waiting.clear();
        self.scatter(|_| true, actions);
    }

    /// Returns the matching gangs that do not run yet, and removes them.
    pub(super) fn take_back(
        &mut self,
        which: impl Fn(TaskId) -> bool,
        actions: &mut Vec<CoordinatorAction>,
    ) -> Vec<Lease> {
        let (mut back, stay): (Vec<Lease>, _) = self.waiting.drain(..).partition(|lease| which(lease.task));
        self.waiting = stay.into();
        back.extend(self.scatter(which, actions));
        self.gather(actions);
        back
    }

    /// Frees the slots of the matching gangs that gather, and returns their leases.
    fn scatter(&mut self, which: impl Fn(TaskId) -> bool, actions: &mut Vec<CoordinatorAction>) -> Vec<Lease> {
        let gangs: Vec<Gang> = self.gathering.extract_if(.., |gang| which(gang.lease.task)).collect();
        for gang in &gangs {
            let release = |to| CoordinatorAction::Send { to, message: Message::Release { gang: gang.number } };
            actions.extend(gang.ranks().into_iter().map(release));
        }
        gangs.into_iter().map(|gang| gang.lease).collect()
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
        for gang in self.running.iter_mut().filter(|gang| gang.is_shared() && !gang.is_broken) {
            let Some(lost) = gang.hosts.iter().map(|host| host.rank).find(|&rank| !is_here(rank)) else { continue };
            gang.is_broken = true;
            let message = Message::MemberLost { gang: gang.number, rank: lost };
            actions.push(CoordinatorAction::Send { to: gang.leader(), message });
        }
        let leaderless = self.running.iter().filter(|gang| !is_here(gang.leader())).map(|gang| gang.number);
        let leaderless: Vec<u32> = leaderless.collect();
        leaderless.into_iter().filter_map(|gang| self.remove(gang, actions)).collect()
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
    /// those of gangs that gather, and those kept for the first in line.
    pub(super) fn awaited(&self) -> Vec<Rank> {
        let of_unplaced = self.unplaced_shapes.iter().flat_map(|shape| place_part(shape, &self.members).0);
        let of_gathering = self.gathering.iter().flat_map(|gang| gang.hosts.iter().copied());
        let of_first = self.waiting.front().and_then(|lease| place(&(self.shape)(lease.task), &self.members));
        of_unplaced.chain(of_gathering).chain(of_first.into_iter().flatten()).map(|host| host.rank).collect()
    }

    /// The CPUs that are set aside on the node of a rank.
    fn cpus_of_node(&self, aside: &[(Rank, SetAside)], rank: Rank) -> Vec<u32> {
        let node = |rank: Rank| &self.members[rank.index()].node;
        let here = aside.iter().filter(|(other, _)| node(*other) == node(rank));
        let mut cpus: Vec<u32> = here.flat_map(|(_, aside)| aside.cpus.iter().copied()).collect();
        cpus.sort_unstable();
        cpus.dedup();
        cpus
    }

    /// The host list: ranks of one node share a line.
    fn by_node(&self, hosts: &[GangHost], mut aside: Vec<(Rank, SetAside)>) -> Vec<GangNode> {
        let mut nodes: Vec<GangNode> = Vec::new();
        for host in hosts {
            let node = &self.members[host.rank.index()].node;
            let own = aside.iter_mut().find(|(rank, _)| *rank == host.rank);
            let SetAside { memory, gpus, allocation, .. } =
                own.map(|(_, aside)| std::mem::take(aside)).unwrap_or_default();
            match nodes.iter_mut().find(|known| known.node == *node) {
                Some(known) => {
                    known.mpi_ranks += host.ranks;
                    known.memory = known.memory.saturating_add(memory);
                    known.gpus.extend(gpus);
                }
                None => nodes.push(GangNode { node: node.clone(), mpi_ranks: host.ranks, memory, gpus, allocation }),
            }
        }
        nodes
    }

    /// Notes a gang that waits for further ranks, or with which the run ends.
    fn note_unplaced(&mut self, shape: Shape) {
        self.unplaced += 1;
        if !self.unplaced_shapes.contains(&shape) {
            self.unplaced_shapes.push(shape);
        }
    }

    /// What is free of each rank for a further gang.
    fn free(&self) -> Vec<Member> {
        let mut free = self.members.clone();
        self.running.iter().for_each(|gang| gang.take_from(&mut free));
        self.gathering.iter().flat_map(|gang| &gang.hosts).for_each(|host| free[host.rank.index()].slots = 0);
        free
    }

    /// Assembles the gangs for which there is room, in the order of the line.
    fn gather(&mut self, actions: &mut Vec<CoordinatorAction>) {
        if self.waiting.is_empty() {
            return;
        }
        let mut free = self.free();
        let mut at = 0;
        while at <= MAX_PASSING && free.iter().any(|member| member.slots > 0) {
            let Some(&lease) = self.waiting.get(at) else { return };
            let shape = (self.shape)(lease.task);
            if let Some(hosts) = place_beside(&shape, &self.members, &free) {
                self.waiting.remove(at);
                hosts.iter().for_each(|host| free[host.rank.index()].slots = 0);
                self.assemble(lease, shape, hosts, actions);
                continue;
            }
            if at == 0 {
                let Some(kept) = place(&shape, &self.members) else {
                    self.waiting.pop_front();
                    self.note_unplaced(shape);
                    continue;
                };
                kept.iter().for_each(|host| free[host.rank.index()].slots = 0);
            }
            at += 1;
        }
    }

    /// Requests the slots of a gang.
    fn assemble(&mut self, lease: Lease, shape: Shape, hosts: Vec<GangHost>, actions: &mut Vec<CoordinatorAction>) {
        let number = self.next;
        self.next += 1;
        for (i, &host) in hosts.iter().enumerate() {
            let message = Message::Hold { gang: number, host, lease, leads: i == 0 };
            actions.push(CoordinatorAction::Send { to: host.rank, message });
        }
        let missing = hosts.iter().map(|host| host.rank).collect();
        self.gathering.push(Gang { number, lease, shape, hosts, is_broken: false, missing, set_aside: Vec::new() });
    }
}
