//! Gangs alone: which are assembled when. Ranks are played by the test: each sets slots aside for
//! one request after the other, as soon as its own tasks have left enough of them.

use std::collections::{BTreeMap, VecDeque};

use fastrand::Rng;

use crate::model::{GangHost, Rank, RankRoom, SetAside, Shortfalls, TaskId, Time, share_of};
use crate::schedule::action::CoordinatorAction;
use crate::schedule::gang::{Gangs, Shape, place};
use crate::schedule::membership::Member;
use crate::schedule::protocol::{Lease, Message};
use crate::seeds::{Named, seeds};

fn member(rank: usize, room: RankRoom) -> Member {
    let RankRoom { slots, memory, gpus } = room;
    Member { slots, memory, gpus, node: format!("n{}", rank / 2), ..Member::default() }
}

fn mpi(ranks: u32, cpus: u32) -> Shape {
    Shape::Mpi { ranks, cpus, memory: 0, gpus: 0, per_node: None, labels: Vec::new().into() }
}

/// A gang that has been requested of its ranks.
struct Assembled {
    lease: Lease,
    hosts: Vec<GangHost>,
    /// Ranks that have not set its slots aside.
    missing: Vec<Rank>,
    runs: bool,
}

struct Play {
    members: Vec<Member>,
    shapes: Vec<Shape>,
    gangs: Gangs,
    /// Those that have been handed in and not assembled, in the order of the line.
    waiting: Vec<Lease>,
    /// Those that the present ranks cannot hold.
    unplaced: Vec<Lease>,
    assembled: BTreeMap<u32, Assembled>,
    /// Requests of each rank that it has not met.
    requests: Vec<VecDeque<(u32, u32)>>,
    /// Slots of each rank that run tasks of its own.
    narrow: Vec<u32>,
    ended: Vec<TaskId>,
}

impl Play {
    fn new(members: Vec<Member>, shapes: Vec<Shape>) -> Play {
        let known = shapes.clone();
        let gangs = Gangs::new(members.clone(), Box::new(move |task: TaskId| known[task.index()].clone()));
        let (requests, narrow) = (vec![VecDeque::new(); members.len()], vec![0; members.len()]);
        let (waiting, unplaced, assembled, ended) = (Vec::new(), Vec::new(), BTreeMap::new(), Vec::new());
        Play { members, shapes, gangs, waiting, unplaced, assembled, requests, narrow, ended }
    }

    fn ready(&mut self, task: u32, urgency: u8) {
        let (task, short) = (TaskId(task), Shortfalls::NONE);
        let lease = Lease { task, home: Rank(0), attempt: 1, urgency, ready: Time::ZERO, short };
        if place(&self.shapes[task.index()], &self.members).is_some() {
            let at = self.waiting.partition_point(|before| before.urgency >= urgency);
            self.waiting.insert(at, lease);
        } else {
            self.unplaced.push(lease);
        }
        self.act(|gangs, actions| gangs.ready(lease, actions));
    }

    fn act(&mut self, event: impl FnOnce(&mut Gangs, &mut Vec<CoordinatorAction>)) {
        let mut actions = Vec::new();
        event(&mut self.gangs, &mut actions);
        for action in actions {
            let CoordinatorAction::Send { to, message } = action else { panic!("not a message") };
            match message {
                Message::Hold { gang, host, lease, leads } => {
                    assert_eq!(host.rank, to);
                    self.requests[to.index()].push_back((gang, host.slots));
                    let fresh = Assembled { lease, hosts: Vec::new(), missing: Vec::new(), runs: false };
                    let gang = self.assembled.entry(gang).or_insert(fresh);
                    assert_eq!(gang.hosts.is_empty(), leads, "the first leads");
                    gang.hosts.push(host);
                    gang.missing.push(to);
                }
                Message::Launch { gang, .. } => {
                    let gang = self.assembled.get_mut(&gang).expect("it has been assembled");
                    assert!(gang.missing.is_empty() && !gang.runs);
                    gang.runs = true;
                }
                Message::Release { gang } => self.requests[to.index()].retain(|request| request.0 != gang),
                Message::Share { .. } => {}
                other => panic!("{other:?}"),
            }
        }
        self.check();
    }

    /// What gangs have of a rank, and the gangs that gather there.
    fn check(&mut self) {
        for (at, member) in self.members.iter().enumerate().filter(|(_, member)| member.slots > 0) {
            let mut used = RankRoom { slots: 0, memory: 0, gpus: 0 };
            let mut gathering = 0;
            for gang in self.assembled.values() {
                for host in gang.hosts.iter().filter(|host| host.rank.index() == at) {
                    gathering += u32::from(!gang.runs);
                    used.slots += host.slots;
                    if let Shape::Mpi { ranks, memory, gpus, .. } = self.shapes[gang.lease.task.index()] {
                        used.memory += share_of(memory, host.ranks, ranks);
                        used.gpus += share_of(gpus.into(), host.ranks, ranks) as u32;
                    }
                }
            }
            assert!(gathering <= 1, "{gathering} gangs gather on rank {at}: they may wait for each other");
            let most = member.room();
            let fits = used.slots <= most.slots && used.memory <= most.memory && used.gpus <= most.gpus;
            assert!(fits, "{used:?} of {most:?} on rank {at}");
        }
        let is_new = |lease: &Lease| self.assembled.values().any(|gang| gang.lease.task == lease.task);
        let left: Vec<Lease> = self.waiting.iter().copied().filter(|lease| !is_new(lease)).collect();
        // Of those that were assembled now, none is on ranks that are kept for one before it.
        if let Some(first) = left.first() {
            let kept = place(&self.shapes[first.task.index()], &self.members).expect("they can hold it");
            let before = self.waiting.iter().position(|lease| lease.task == first.task).expect("it waits");
            for passed in self.waiting[before..].iter().filter(|lease| is_new(lease)) {
                let gang = self.assembled.values().find(|gang| gang.lease.task == passed.task).expect("it is there");
                let is_kept = |host: &GangHost| kept.iter().any(|kept| kept.rank == host.rank);
                assert!(!gang.hosts.iter().any(is_kept), "{:?} passes {:?} on ranks kept for it", passed, first);
            }
        }
        self.waiting = left;
    }

    /// A rank sets aside what was requested first, if its own tasks leave enough. False if not.
    fn set_aside(&mut self, rank: usize) -> bool {
        let Some(&(gang, slots)) = self.requests[rank].front() else { return false };
        let held = |gang: &Assembled| {
            let here = gang.hosts.iter().filter(|host| host.rank.index() == rank);
            here.filter(|host| !gang.missing.contains(&host.rank)).map(|host| host.slots).sum::<u32>()
        };
        let held: u32 = self.assembled.values().map(held).sum();
        if held + self.narrow[rank] + slots > self.members[rank].slots {
            return false;
        }
        self.requests[rank].pop_front();
        let from = Rank(rank as u32);
        self.assembled.get_mut(&gang).expect("it is there").missing.retain(|&missing| missing != from);
        self.act(|gangs, actions| gangs.held(from, gang, SetAside::default(), actions));
        true
    }

    fn end(&mut self, number: u32) {
        let gang = self.assembled.remove(&number).expect("it runs");
        self.ended.push(gang.lease.task);
        self.act(|gangs, actions| assert_eq!(gangs.ended(number, actions), Some(gang.lease)));
    }

    fn running(&self) -> Vec<u32> {
        self.assembled.iter().filter(|(_, gang)| gang.runs).map(|(&number, _)| number).collect()
    }

    /// Takes back everything that does not run, and requests it again after homes have changed.
    fn change_homes(&mut self, members: Vec<Member>) {
        let mut again: Vec<Lease> = self.assembled.values().filter(|gang| !gang.runs).map(|gang| gang.lease).collect();
        again.extend(std::mem::take(&mut self.waiting));
        again.append(&mut self.unplaced);
        self.assembled.retain(|_, gang| gang.runs);
        self.act(|gangs, actions| gangs.abandon(actions));
        assert!(self.requests.iter().all(VecDeque::is_empty), "all requests are withdrawn");
        self.members = members.clone();
        self.act(|gangs, _| gangs.meet(members));
        again.into_iter().for_each(|lease| self.ready(lease.task.0, lease.urgency));
    }
}

#[test]
fn gangs_run_side_by_side_where_there_is_room() {
    let members: Vec<Member> = (0..8).map(|rank| member(rank, RankRoom::of_slots(1))).collect();
    let mut play = Play::new(members, vec![mpi(2, 1); 5]);
    (0..5).for_each(|task| play.ready(task, 3));
    assert_eq!((play.assembled.len(), play.waiting.len(), play.gangs.waiting()), (4, 1, 5));
    (0..8).for_each(|rank| assert!(play.set_aside(rank)));
    assert_eq!((play.running().len(), play.gangs.waiting()), (4, 1));
    play.end(3);
    let last = &play.assembled[&5];
    assert_eq!(last.missing, [Rank(4), Rank(5)], "it gets the ranks that are free first");
}

#[test]
fn the_first_in_line_keeps_its_ranks_and_others_pass_it_elsewhere() {
    let members: Vec<Member> = (0..9).map(|rank| member(rank, RankRoom::of_slots(1))).collect();
    let mut play = Play::new(members, vec![mpi(2, 1), mpi(2, 1), mpi(6, 1), mpi(2, 1), mpi(2, 1)]);
    (0..2).for_each(|task| play.ready(task, 1));
    (0..4).for_each(|rank| assert!(play.set_aside(rank)));
    play.ready(2, 1);
    (3..5).for_each(|task| play.ready(task, 0));
    assert_eq!((play.assembled.len(), play.waiting.len()), (3, 2), "ranks 0 to 5 are kept: one passes");
    assert_eq!(play.assembled[&3].missing, [Rank(6), Rank(7)]);
    assert_eq!(play.gangs.awaited(), [6, 7, 0, 1, 2, 3, 4, 5].map(Rank));
    play.end(1);
    assert_eq!(play.waiting.len(), 2, "none begins on ranks that are kept");
    play.end(2);
    assert_eq!((play.assembled[&4].lease.task, play.waiting.len()), (TaskId(2), 1));
}

#[test]
fn gangs_never_wait_for_each_other_and_each_gets_its_turn() {
    let mut at_once = 0;
    for seed in seeds(1_500) {
        let _named = Named(seed, "schedule::tests::gangs::gangs_never_wait");
        let mut rng = Rng::with_seed(seed);
        let room = |rng: &mut Rng| RankRoom { slots: rng.u32(0..5), memory: rng.u64(0..40), gpus: rng.u32(0..4) };
        let members: Vec<Member> = (0..rng.usize(1..9)).map(|rank| member(rank, room(&mut rng))).collect();
        let shape = |rng: &mut Rng| match rng.u32(0..6) {
            0 => Shape::Everywhere { cpus: rng.u32(1..5) },
            _ => Shape::Mpi {
                ranks: rng.u32(1..7),
                cpus: rng.u32(1..3),
                memory: rng.u64(0..4) * rng.u64(0..20),
                gpus: rng.u32(0..3) * rng.u32(0..2),
                per_node: rng.bool().then(|| rng.u32(1..4)),
                labels: Vec::new().into(),
            },
        };
        let shapes: Vec<Shape> = (0..30).map(|_| shape(&mut rng)).collect();
        let mut play = Play::new(members.clone(), shapes);
        let mut next = 0;
        for _ in 0..200 {
            let rank = rng.usize(0..members.len());
            match rng.u32(0..10) {
                0..3 if next < 30 => {
                    play.ready(next, rng.u8(0..3));
                    next += 1;
                }
                3 => play.narrow[rank] = rng.u32(0..=members[rank].slots),
                4 if rng.u32(0..8) == 0 => {
                    let mut changed = members.clone();
                    changed[rank].slots = 0;
                    play.change_homes(changed);
                    play.change_homes(members.clone());
                }
                4 | 5 => {
                    let running = play.running();
                    if !running.is_empty() {
                        play.end(running[rng.usize(0..running.len())]);
                    }
                }
                _ => drop(play.set_aside(rank)),
            }
            at_once = play.running().len().max(at_once);
        }
        // Tasks of the ranks end, and then gangs: each gets what it needs.
        play.narrow.fill(0);
        while !play.waiting.is_empty() || !play.assembled.is_empty() {
            let moved = (0..members.len()).filter(|&rank| play.set_aside(rank)).count();
            let running = play.running();
            assert!(moved > 0 || !running.is_empty(), "nothing runs, and {:?} wait", play.waiting);
            running.first().into_iter().for_each(|&gang| play.end(gang));
        }
        assert_eq!(
            (play.gangs.waiting(), play.ended.len() as u32),
            (play.gangs.unplaced(), next - play.gangs.unplaced())
        );
    }
    assert!(at_once > 3 || std::env::var_os("PHALANX_SEED").is_some());
}
