//! Drives coordinator and workers over a simulated network: random graphs, random delays, messages of different senders reordered, tasks
//! that fail, gangs, stops and resumes. Every run is replayed by its seed.
//!
//! What must hold is checked by an oracle that knows only the graph and which attempts fail.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use fastrand::Rng;

use super::coordinator::{self, Coordinator, Member, Why};
use super::gang::Shape;
use super::handout::Cutter;
use super::ledger::{Ledger, Ripple};
use super::protocol::{Lease, Load, Message, Stop};
use super::worker::{self, Facts, Pace, Worker};
use crate::graph::link::{Condition, Link, LinkShape};
use crate::graph::{JoinRule, TaskGraph};
use crate::job::Retry;
use crate::model::{Attempt, Outcome, Rank, State, TaskId, Time};

/// What a job of the test is like.
struct Job {
    graph: TaskGraph,
    retries: Vec<u16>,
    elsewhere: Vec<bool>,
    movable: Vec<bool>,
    gangs: BTreeMap<u32, Shape>,
    fails: HashSet<(u32, u16)>,
    duration: Vec<u64>,
}

impl Facts for Job {
    fn retry(&self, task: TaskId) -> Retry {
        let (count, elsewhere) = (self.retries[task.index()], self.elsewhere[task.index()]);
        Retry { count, backoff: Duration::from_micros(300), factor: 2.0, elsewhere }
    }

    fn movable(&self, task: TaskId) -> bool {
        self.movable[task.index()]
    }

    fn needs_gang(&self, task: TaskId, slots: u32) -> bool {
        self.gangs.get(&task.0).is_some_and(|shape| shape.ranks * shape.cpus > slots)
    }
}

impl Job {
    fn random(rng: &mut Rng, slots: &[u32]) -> Job {
        let groups = rng.u32(1..9);
        let counts: Vec<u32> = (0..groups).map(|_| rng.u32(1..10)).collect();
        let mut links = Vec::new();
        for to in 1..groups {
            for _ in 0..rng.u32(0..3) {
                links.push(random_link(rng, &counts, to));
            }
        }
        let graph = TaskGraph::build(&counts, &links).expect("links go from earlier to later groups");
        let n = graph.task_count();
        let failing = rng.f64() * 0.4;
        let total: u32 = slots.iter().sum();
        let gang = |rng: &mut Rng| Shape { ranks: rng.u32(1..=total), cpus: 1, per_node: None };
        let gangs: BTreeMap<u32, Shape> = (0..n as u32)
            .filter(|_| rng.f64() < 0.05)
            .collect::<Vec<_>>()
            .into_iter()
            .map(|t| (t, gang(rng)))
            .collect();
        Job {
            retries: (0..n).map(|_| if rng.bool() { 0 } else { rng.u16(0..4) }).collect(),
            elsewhere: (0..n).map(|_| rng.bool()).collect(),
            movable: (0..n as u32).map(|t| rng.f64() < 0.8 && !gangs.contains_key(&t)).collect(),
            fails: (0..n as u32).flat_map(|t| (1..5).map(move |a| (t, a))).filter(|_| rng.f64() < failing).collect(),
            duration: (0..n).map(|_| rng.u64(1_000..2_000_000)).collect(),
            gangs,
            graph,
        }
    }

    fn outcome(&self, task: TaskId, attempt: u16) -> Outcome {
        if self.fails.contains(&(task.0, attempt)) { Outcome { state: State::Failed, exit: 1 } } else { Outcome::OK }
    }

    /// The state that every task must end in, from the meaning of the graph alone.
    fn oracle(&self) -> Vec<State> {
        let mut ok = vec![false; self.graph.node_count()];
        let mut states = vec![State::Pending; self.graph.task_count()];
        for node in self.graph.topological().iter() {
            let violated = self.graph.predecessors(node).any(|e| e.violated_by(ok[e.node() as usize]));
            ok[node as usize] = match self.graph.join(node) {
                Some(JoinRule::All) => !violated,
                Some(JoinRule::AnyNotOk) => violated,
                None => {
                    let task = TaskId(node);
                    let runs = (1..=self.retries[task.index()] + 1).any(|a| self.outcome(task, a).ok());
                    states[task.index()] = match (violated, runs) {
                        (true, _) => State::Skipped,
                        (false, true) => State::Completed,
                        (false, false) => State::Failed,
                    };
                    states[task.index()] == State::Completed
                }
            };
        }
        states
    }
}

fn random_link(rng: &mut Rng, counts: &[u32], to: u32) -> Link {
    let from = rng.u32(0..to);
    let (n, m) = (counts[from as usize], counts[to as usize]);
    let shape = match rng.u32(0..4) {
        0 if n == m => LinkShape::Each,
        1 => LinkShape::One(rng.u32(0..n)),
        2 => LinkShape::Pairs((0..rng.u32(1..6)).map(|_| (rng.u32(0..n), rng.u32(0..m))).collect()),
        _ => LinkShape::All,
    };
    let on = match rng.u32(0..6) {
        0 => Condition::NotOk,
        1 => Condition::Any,
        _ => Condition::Ok,
    };
    Link { from, to, shape, on, bytes: 0, span: 0..0 }
}

/// A rank's pool, as simple as it can be: a queue in order of urgency, slots, and slots held for gangs.
#[derive(Default)]
struct Pool {
    ready: BTreeSet<(Reverse<u8>, u64, Lease2)>,
    idle: u32,
    running: u32,
    /// Gangs that wait for slots: number, slots, task to lead.
    holds: VecDeque<(u32, u32, Option<Lease>)>,
    held: BTreeMap<u32, (u32, Option<Lease>)>,
    stopped: bool,
}

type Lease2 = (u32, u32, u16, u64);

struct World {
    job: Arc<Job>,
    rng: Rng,
    now: u64,
    sequence: u64,
    slots: Vec<u32>,
    workers: Vec<Worker>,
    pools: Vec<Pool>,
    coordinator: Coordinator,
    /// Messages under way: delivery time, tie-breaker.
    network: BinaryHeap<Reverse<(u64, u64)>>,
    in_flight: BTreeMap<(u64, u64), (Rank, Rank, Message)>,
    /// Last delivery time of each pair: a pair's messages keep their order, those of different senders do not.
    last: BTreeMap<(Rank, Rank), u64>,
    ends: BinaryHeap<Reverse<(u64, u32, Lease2, u64)>>,
    journal: Vec<Attempt>,
    executed: Vec<(TaskId, u16, u64, u64)>,
    finished: Option<Why>,
    left: Vec<bool>,
    delay: u64,
    stop: Option<(u64, Stop)>,
}

impl World {
    fn new(job: Arc<Job>, seed: u64, slots: Vec<u32>, done: &BTreeSet<u32>) -> World {
        let mut rng = Rng::with_seed(seed ^ 0xABCD);
        let ranks = slots.len() as u32;
        let facts: Arc<dyn Facts> = Arc::clone(&job) as Arc<dyn Facts>;
        let members = slots.iter().map(|&slots| Member { node: format!("n{}", slots % 2), slots }).collect();
        let shapes = job.gangs.clone();
        let coordinator = Coordinator::new(
            job.graph.task_count() as u32,
            &|t| done.contains(&t.0),
            members,
            None,
            Box::new(move |t| shapes[&t.0]),
        );
        let able: Vec<u32> = (0..ranks).filter(|&r| slots[r as usize] > 0).collect();
        let home: Vec<u32> = (0..job.graph.node_count()).map(|_| able[rng.usize(0..able.len())]).collect();
        let urgency: Vec<u8> = home.iter().map(|_| rng.u8(0..16)).collect();
        let mut world = World {
            workers: (0..ranks)
                .map(|r| Worker::new(Rank(r), ranks, slots[r as usize], facts.clone(), Pace::default()))
                .collect(),
            pools: slots.iter().map(|&idle| Pool { idle, ..Pool::default() }).collect(),
            coordinator,
            now: 0,
            sequence: 0,
            network: BinaryHeap::new(),
            in_flight: BTreeMap::new(),
            last: BTreeMap::new(),
            ends: BinaryHeap::new(),
            journal: Vec::new(),
            executed: Vec::new(),
            finished: None,
            left: vec![false; ranks as usize],
            delay: [1_000, 100_000, 5_000_000][rng.usize(0..3)],
            rng,
            slots,
            job: Arc::clone(&job),
            stop: None,
        };
        let is_done = |n: u32| done.contains(&n);
        let cutter = Cutter::new(&job.graph, &home, &urgency, ranks as usize, &is_done);
        for rank in 0..ranks {
            let part = Box::new(cutter.part(rank as usize));
            world.send(Rank::ZERO, Rank(rank), Message::HandOut { part, limits: Vec::new() });
        }
        let mut actions = Vec::new();
        world.coordinator.begin(&mut actions);
        world.carry_out(actions);
        world
    }

    fn send(&mut self, from: Rank, to: Rank, message: Message) {
        // What travels is what the codec makes of it.
        let bytes = postcard::to_stdvec(&message).expect("encodes");
        let message = postcard::from_bytes(&bytes).expect("decodes");
        let at = self.now + if from == to { 0 } else { self.rng.u64(1..=self.delay) };
        let at = at.max(self.last.get(&(from, to)).copied().unwrap_or(0));
        self.last.insert((from, to), at);
        self.sequence += 1;
        self.network.push(Reverse((at, self.sequence)));
        self.in_flight.insert((at, self.sequence), (from, to, message));
    }

    /// Runs until every rank has left.
    fn run(&mut self) {
        for _ in 0..200_000 {
            if self.left.iter().all(|&l| l) {
                return;
            }
            self.advance();
        }
        panic!("the run does not end: {:?} at {} ns", self.coordinator.tally(), self.now);
    }

    fn advance(&mut self) {
        let message = self.network.peek().map(|Reverse(m)| m.0);
        let end = self.ends.peek().map(|Reverse(e)| e.0);
        let tick = (0..self.workers.len())
            .filter(|&r| !self.left[r])
            .filter_map(|r| Some((self.workers[r].next_tick()?.0.max(self.now), r)))
            .min();
        let stop = self.stop.map(|s| s.0);
        let next = [message, end, tick.map(|t| t.0), stop].into_iter().flatten().min();
        self.now = self.now.max(next.expect("something is still to happen"));
        if let Some((_, how)) = self.stop.filter(|s| s.0 <= self.now) {
            self.stop = None;
            self.coordinate(coordinator::Event::Stop { how, why: Why::Signal(2) });
        } else if end.is_some_and(|at| at <= self.now) {
            self.end_task();
        } else if message.is_some_and(|at| at <= self.now) {
            self.deliver();
        } else if let Some((_, rank)) = tick {
            // The clock must pass the due time, or a machine that waits for "later than" would spin.
            self.now += 1;
            self.step(rank, worker::Event::Tick);
        }
    }

    fn deliver(&mut self) {
        let Some(Reverse(key)) = self.network.pop() else { return };
        let (from, to, message) = self.in_flight.remove(&key).expect("sent");
        if message.is_for_coordinator() {
            assert_eq!(to, Rank::ZERO);
            self.coordinate(coordinator::Event::Message { from, message });
        } else {
            assert!(
                !self.left[to.index()]
                    || matches!(
                        message,
                        Message::Steal { .. }
                            | Message::Loot { .. }
                            | Message::Counts { .. }
                            | Message::Returned { .. }
                            | Message::Release { .. }
                    ),
                "{to} left before {message:?}"
            );
            if !self.left[to.index()] {
                self.step(to.index(), worker::Event::Message { from, message });
            }
        }
    }

    fn coordinate(&mut self, event: coordinator::Event) {
        let mut actions = Vec::new();
        self.coordinator.step(Time(self.now), event, &mut actions);
        self.carry_out(actions);
    }

    fn carry_out(&mut self, actions: Vec<coordinator::Action>) {
        for action in actions {
            match action {
                coordinator::Action::Send { to, message } => self.send(Rank::ZERO, to, message),
                coordinator::Action::Journal(attempts) => self.journal.extend(attempts),
                coordinator::Action::Tell(_) => {}
                coordinator::Action::Finished(why) => self.finished = Some(why),
            }
        }
    }

    fn step(&mut self, rank: usize, event: worker::Event) {
        let mut events = VecDeque::from([event]);
        while let Some(event) = events.pop_front() {
            let mut actions = Vec::new();
            self.workers[rank].step(Time(self.now), event, &mut actions);
            for action in actions {
                self.act(rank, action, &mut events);
            }
            if events.is_empty() {
                self.fill(rank, &mut events);
            }
        }
    }

    fn act(&mut self, rank: usize, action: worker::Action, events: &mut VecDeque<worker::Event>) {
        let me = Rank(rank as u32);
        match action {
            worker::Action::Send { to, message } => self.send(me, to, message),
            worker::Action::Start(locals) => {
                let ledger = self.workers[rank].ledger().expect("open").clone();
                for local in locals {
                    let urgency = ledger.urgency(local);
                    self.push(rank, urgency, (ledger.task(local).0, me.0, 1, ledger.ready_at(local).0));
                }
            }
            worker::Action::StartLease(l) => self.push(rank, l.urgency, (l.task.0, l.home.0, l.attempt, l.ready.0)),
            worker::Action::Surrender { to, max } => {
                let job = Arc::clone(&self.job);
                let pool = &mut self.pools[rank];
                let chosen: Vec<_> =
                    pool.ready.iter().filter(|r| job.movable[r.2.0 as usize]).take(max as usize).copied().collect();
                pool.ready.retain(|r| !chosen.contains(r));
                let lease = |&(Reverse(urgency), _, (task, home, attempt, ready)): &(Reverse<u8>, u64, Lease2)| Lease {
                    task: TaskId(task),
                    home: Rank(home),
                    attempt,
                    urgency,
                    ready: Time(ready),
                };
                events.push_back(worker::Event::Surrendered { to, leases: chosen.iter().map(lease).collect() });
            }
            worker::Action::Hold { gang, slots, lead } => self.pools[rank].holds.push_back((gang, slots, lead)),
            worker::Action::Launch { gang, hosts, .. } => self.launch(rank, gang, &hosts),
            worker::Action::Release { gang } => {
                let pool = &mut self.pools[rank];
                pool.holds.retain(|h| h.0 != gang);
                pool.idle += pool.held.remove(&gang).map_or(0, |h| h.0);
            }
            worker::Action::Stop(how) => {
                self.pools[rank].stopped = true;
                if how != Stop::Drain {
                    self.interrupt(rank);
                }
            }
            worker::Action::Exit => self.left[rank] = true,
        }
    }

    fn push(&mut self, rank: usize, urgency: u8, lease: Lease2) {
        assert!(self.slots[rank] > 0, "rank {rank} has no slots");
        self.sequence += 1;
        self.pools[rank].ready.insert((Reverse(urgency), self.sequence, lease));
    }

    /// Running tasks end now, as CANCELLED (an attempt of duration zero marks them).
    fn interrupt(&mut self, rank: usize) {
        let all: Vec<_> = self.ends.drain().collect();
        for Reverse((at, r, lease, started)) in all {
            let (at, started) = if r as usize == rank { (self.now, u64::MAX) } else { (at, started) };
            self.ends.push(Reverse((at, r, lease, started)));
        }
    }

    fn launch(&mut self, rank: usize, gang: u32, hosts: &[(String, u32)]) {
        let held: u32 = self.pools.iter().filter_map(|p| p.held.get(&gang)).map(|h| h.0).sum();
        assert_eq!(held, hosts.iter().map(|h| h.1).sum::<u32>(), "all slots are held");
        let lease = self.pools[rank].held[&gang].1.expect("the leader has the task");
        let key = (lease.task.0, lease.home.0, lease.attempt, lease.ready.0);
        self.begin(rank, key);
    }

    fn begin(&mut self, rank: usize, lease: Lease2) {
        let took = self.job.duration[lease.0 as usize];
        self.ends.push(Reverse((self.now + took, rank as u32, lease, self.now)));
        self.pools[rank].running += 1;
    }

    /// Starts what fits, then tells the worker the load.
    fn fill(&mut self, rank: usize, events: &mut VecDeque<worker::Event>) {
        while let Some(&(gang, slots, lead)) = self.pools[rank].holds.front() {
            if self.pools[rank].idle < slots || self.pools[rank].stopped {
                break;
            }
            let pool = &mut self.pools[rank];
            pool.holds.pop_front();
            pool.idle -= slots;
            pool.held.insert(gang, (slots, lead));
            events.push_back(worker::Event::Held { gang, cpus: vec![rank as u32] });
        }
        while !self.pools[rank].stopped && self.pools[rank].idle > 0 && self.pools[rank].holds.is_empty() {
            let Some((_, _, lease)) = self.pools[rank].ready.pop_first() else { break };
            self.pools[rank].idle -= 1;
            self.begin(rank, lease);
        }
        let job = &self.job;
        let pool = &self.pools[rank];
        let movable = pool.ready.iter().filter(|r| job.movable[r.2.0 as usize]).count() as u32;
        // Slots that are set aside are busy, as in the real pool.
        let held: u32 = pool.held.values().map(|h| h.0).sum();
        let load = Load { idle: pool.idle, ready: movable, running: pool.running + held };
        let quiet = pool.stopped && load.running == 0;
        let mut actions = Vec::new();
        self.workers[rank].step(Time(self.now), worker::Event::Load(load), &mut actions);
        if quiet {
            self.workers[rank].step(Time(self.now), worker::Event::Quiet, &mut actions);
        }
        for action in actions {
            self.act(rank, action, events);
        }
    }

    fn end_task(&mut self) {
        let Some(Reverse((_, rank, (task, home, attempt, ready), started))) = self.ends.pop() else { return };
        let (task, home, rank) = (TaskId(task), Rank(home), rank as usize);
        let interrupted = started == u64::MAX;
        let outcome = match interrupted {
            true => Outcome { state: State::Cancelled, exit: -15 },
            false => self.job.outcome(task, attempt),
        };
        let start = if interrupted { self.now } else { started };
        if !interrupted {
            self.executed.push((task, attempt, start, self.now));
        }
        let pool = &mut self.pools[rank];
        pool.running -= 1;
        let gang = pool.held.iter().find(|h| h.1.1.is_some_and(|l| l.task == task)).map(|h| *h.0);
        match gang {
            Some(gang) => {
                let (slots, _) = pool.held.remove(&gang).expect("held");
                pool.idle += slots;
                self.send(Rank(rank as u32), Rank::ZERO, Message::GangEnded { gang });
            }
            None => pool.idle += 1,
        }
        let record = Attempt {
            task,
            attempt,
            outcome,
            last: outcome.ok(),
            rank: Rank(rank as u32),
            slot: 0,
            ready: Time(ready),
            start: Time(start),
            end: Time(self.now),
        };
        let fast = outcome.ok() && attempt == 1 && home.index() == rank;
        let event =
            if fast { self.complete_fast(rank, record) } else { worker::Event::Ended { attempt: record, home } };
        self.step(rank, event);
    }

    /// What a pool thread does by itself: count, start what became ready, leave the rest to the machine.
    fn complete_fast(&mut self, rank: usize, attempt: Attempt) -> worker::Event {
        let ledger: Arc<Ledger> = self.workers[rank].ledger().expect("open").clone();
        let mut ripple = Ripple::default();
        let local = ledger.local(attempt.task).expect("at home");
        assert!(ledger.complete(local, true, Time(self.now), &mut ripple), "counted once");
        assert!(!ledger.complete(local, true, Time(self.now), &mut Ripple::default()), "and not again");
        let ready = std::mem::take(&mut ripple.ready);
        let mut actions = Vec::new();
        self.workers[rank].step(Time(self.now), worker::Event::Special(ready), &mut actions);
        let mut events = VecDeque::new();
        actions.into_iter().for_each(|a| self.act(rank, a, &mut events));
        for event in events {
            self.step(rank, event);
        }
        worker::Event::Completed { attempts: vec![attempt], ripple }
    }

    /// Every edge is respected and no attempt ran twice.
    fn check_executions(&self) {
        let mut here = HashSet::new();
        for &(task, attempt, start, _) in &self.executed {
            assert!(here.insert((task, attempt)), "{task:?}, attempt {attempt}, ran twice");
            for needed in self.job.graph.tasks_before(task) {
                let later = self.executed.iter().any(|e| e.0 == needed && e.3 > start);
                assert!(!later, "{task:?} started before {needed:?} had ended");
            }
        }
    }
}

fn final_states(journals: &[&[Attempt]], tasks: usize) -> Vec<State> {
    let mut states = vec![State::Pending; tasks];
    for attempt in journals.iter().flat_map(|j| j.iter()).filter(|a| a.last) {
        states[attempt.task.index()] = attempt.outcome.state;
    }
    states
}

fn random_slots(rng: &mut Rng) -> Vec<u32> {
    let mut slots: Vec<u32> = (0..rng.usize(1..7)).map(|_| rng.u32(1..4)).collect();
    if slots.len() > 1 && rng.u32(0..3) == 0 {
        slots[0] = 0;
    }
    slots
}

fn seeds() -> std::ops::Range<u64> {
    match std::env::var("PHALANX_SEED").ok().and_then(|s| s.parse::<u64>().ok()) {
        Some(seed) => seed..seed + 1,
        None => 0..3000,
    }
}

/// Names the seed when a run fails, so that `PHALANX_SEED=n cargo test schedule::tests` replays it.
struct Named(u64);

impl Drop for Named {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("replay with: PHALANX_SEED={} cargo test --lib schedule::tests", self.0);
        }
    }
}

#[test]
fn random_graphs_end_as_the_oracle_says() {
    let mut stolen = 0;
    for seed in seeds() {
        let _named = Named(seed);
        let mut rng = Rng::with_seed(seed);
        let slots = random_slots(&mut rng);
        let job = Arc::new(Job::random(&mut rng, &slots));
        let mut world = World::new(Arc::clone(&job), seed, slots, &BTreeSet::new());
        world.run();
        assert_eq!(world.finished, Some(Why::Complete));
        assert_eq!(final_states(&[&world.journal], job.graph.task_count()), job.oracle());
        let finals = world.journal.iter().filter(|a| a.last).count();
        assert_eq!(finals, job.graph.task_count(), "each task is reported final once");
        world.check_executions();
        stolen += world.last.keys().filter(|(from, to)| from != to && *from != Rank::ZERO).count();
    }
    assert!(stolen > 0, "some messages went from rank to rank");
}

#[test]
fn a_stopped_run_resumes_without_running_anything_completed_again() {
    let mut cut_short = 0;
    for seed in seeds() {
        let _named = Named(seed);
        let mut rng = Rng::with_seed(seed);
        let slots = random_slots(&mut rng);
        let job = Arc::new(Job::random(&mut rng, &slots));
        let how = [Stop::Drain, Stop::Terminate, Stop::Kill][rng.usize(0..3)];
        let mut first = World::new(Arc::clone(&job), seed, slots.clone(), &BTreeSet::new());
        first.stop = Some((rng.u64(0..8_000_000), how));
        first.run();
        cut_short += usize::from(first.finished != Some(Why::Complete));
        let oracle = job.oracle();
        for attempt in first.journal.iter().filter(|a| a.last) {
            assert_eq!(attempt.outcome.state, oracle[attempt.task.index()], "the stop decided {:?}", attempt.task);
        }
        let done: BTreeSet<u32> = first.journal.iter().filter(|a| a.last && a.outcome.ok()).map(|a| a.task.0).collect();
        let mut second = World::new(Arc::clone(&job), seed + 1, slots, &done);
        second.run();
        assert!(second.executed.iter().all(|e| !done.contains(&e.0.0)), "a completed task ran again");
        assert_eq!(final_states(&[&first.journal, &second.journal], job.graph.task_count()), job.oracle());
        second.check_executions();
    }
    assert!(cut_short > 0, "some runs were cut short");
}
