//! A simulated world: ranks with pools as simple as can be, a network with delays, and a failure
//! detector.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap, HashSet, VecDeque};
use std::sync::Arc;

use fastrand::Rng;

use super::job::{Job, Terms};
use crate::model::{Attempt, Outcome, Rank, RankState, State, TaskId, Time};
use crate::schedule::coordinator::{self, Change, Coordinator, Member, StopReason, Tasks};
use crate::schedule::dependency_counts::{CompletionEffects, DependencyCounts, End};
use crate::schedule::handout::PartBuilder;
use crate::schedule::protocol::{HandOut, Lease, Load, Message, Started, Stop};
use crate::schedule::ranks::Ranks;
use crate::schedule::resources::Needs;
use crate::schedule::worker::{self, Facts, Pace, Worker};

/// A task in a pool: task, home as the pool knows it, attempt, when it was ready.
type Item = (u32, u32, u16, u64);

/// A rank's pool: a queue in order of urgency, slots, and slots held for gangs.
#[derive(Default)]
struct Pool {
    slots: u32,
    ready: BTreeSet<(Reverse<u8>, u64, Item)>,
    idle: u32,
    running: u32,
    /// Gangs that wait for slots: number, slots, task to lead.
    holds: VecDeque<(u32, u32, Option<Lease>)>,
    held: BTreeMap<u32, (u32, Option<Lease>)>,
    stopped: bool,
    /// Starts nothing because rank 0 is silent.
    suspended: bool,
    /// Slots count nothing by themselves.
    frozen: bool,
    /// Tasks that end as CANCELLED.
    cancelled: BTreeSet<u32>,
    /// Completions of slots that have not been reported yet.
    outbox: Vec<worker::WorkerEvent>,
}

/// How it is with a rank's process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Life {
    /// Lives, and is a member as far as anybody knows.
    Alive,
    /// Was killed.
    Dead,
    /// Lives, but has been declared lost.
    Outcast,
    /// Has left.
    Left,
}

/// After so long a rank notices that rank 0 is silent.
const BEATS: u64 = 300_000;

/// What is done to the world.
#[derive(Clone, Debug)]
pub(super) enum Happening {
    /// The run is stopped.
    Stop(Stop),
    /// A process dies; it is noticed so much later.
    Kill(Rank, u64),
    /// The detector takes it for dead.
    Suspect(Rank),
    /// It was found dead.
    Notice(Rank),
    /// A rank with this number of slots arrives, requested or not.
    Join(u32, bool),
    /// It arrives now.
    Arrive(Rank, u32),
    /// A wish.
    Wish(Rank, Change),
    /// A rebalance.
    Rebalance,
    /// Nothing goes between rank 0 and a rank for so long; after a while the rank notices.
    CutOff(Rank, u64),
    /// It notices the silence of rank 0, or its end.
    Hears(Rank, bool),
    /// A task is not wanted any more.
    Cancel(u32),
    /// The next rank that returns a task which completed on lease dies before it reports it; that
    /// is noticed so much later.
    KillThief(u64),
}

/// What ran where and when.
#[derive(Clone, Copy, Debug)]
pub(super) struct Execution {
    pub(super) task: TaskId,
    pub(super) attempt: u16,
    pub(super) ok: bool,
    pub(super) rank: usize,
    pub(super) start: u64,
    pub(super) end: u64,
}

pub(super) struct World {
    job: Arc<Job>,
    rng: Rng,
    /// Nodes get signals, and some attempts end by them. (If the rank dies before it reports such
    /// an attempt, the reason is lost.)
    pub(super) signals: bool,
    /// Attempts that a signal to their node ended.
    signalled: HashSet<(TaskId, u16)>,
    now: u64,
    sequence: u64,
    workers: Vec<Worker>,
    pools: Vec<Pool>,
    pub(super) life: Vec<Life>,
    pub(super) coordinator: Coordinator,
    /// Messages under way: delivery time, tie-breaker.
    network: BinaryHeap<Reverse<(u64, u64)>>,
    in_flight: BTreeMap<(u64, u64), (Rank, Rank, Message)>,
    /// Last delivery time of each pair: a pair's messages keep their order, those of different
    /// senders do not.
    pub(super) last: BTreeMap<(Rank, Rank), u64>,
    ends: BinaryHeap<Reverse<(u64, u32, Item, u64)>>,
    plan: BTreeMap<(u64, u64), Happening>,
    pub(super) journal: Vec<Attempt>,
    journalled: HashSet<(TaskId, u16)>,
    pub(super) executed: Vec<Execution>,
    /// Attempts that the coordinator has been notified are running.
    pub(super) told_started: HashSet<(TaskId, u16)>,
    /// Running attempts that their rank has reported to the coordinator.
    known: HashSet<(Rank, TaskId, u16)>,
    pub(super) finished: Option<StopReason>,
    pub(super) told: Vec<String>,
    /// Ranks that lived when they were declared lost.
    pub(super) outcasts: HashSet<usize>,
    /// The number of the last `Emptied` of each rank that has arrived or will.
    emptied: BTreeMap<Rank, u64>,
    /// Isolated ranks, which neither receive nor send: since when, and until when.
    cut: BTreeMap<Rank, (u64, u64)>,
    /// The next thief dies, and that is noticed so much later.
    thief_dies: Option<u64>,
    pub(super) dead_thieves: u32,
    delay: u64,
    trace: bool,
}

impl World {
    pub(super) fn new(job: Arc<Job>, seed: u64, slots: &[u32], done: &BTreeSet<u32>) -> World {
        let mut rng = Rng::with_seed(seed ^ 0xABCD);
        let ranks = slots.len() as u32;
        let members: Vec<Member> = slots.iter().map(|&slots| member(slots)).collect();
        let home = random_homes(&mut rng, &job, slots);
        let urgency: Vec<u8> = home.iter().map(|_| rng.u8(0..16)).collect();
        let ended = |n: u32| done.contains(&n).then_some(true);
        let cutter = PartBuilder::new(&job.graph, &home, &urgency, ranks as usize, &ended);
        let hand_out =
            |rank: u32| HandOut { part: cutter.part(rank as usize), active: Ranks::first(ranks), ..HandOut::default() };
        let hand_outs: Vec<HandOut> = (0..ranks).map(hand_out).collect();
        let shapes = job.gangs.clone();
        let tasks = Tasks { graph: Arc::clone(&job.graph), home, urgency, advice: Box::new(Terms(Arc::clone(&job))) };
        let coordinator = Coordinator::new(
            tasks,
            &|t| done.contains(&t.0),
            members,
            job.max_failures,
            Box::new(move |t| shapes[&t.0]),
        );
        let mut world = World {
            workers: Vec::new(),
            pools: Vec::new(),
            life: Vec::new(),
            coordinator,
            now: 0,
            sequence: 0,
            network: BinaryHeap::new(),
            in_flight: BTreeMap::new(),
            last: BTreeMap::new(),
            ends: BinaryHeap::new(),
            plan: BTreeMap::new(),
            journal: Vec::new(),
            journalled: HashSet::new(),
            executed: Vec::new(),
            told_started: HashSet::new(),
            known: HashSet::new(),
            finished: None,
            told: Vec::new(),
            outcasts: HashSet::new(),
            cut: BTreeMap::new(),
            emptied: BTreeMap::new(),
            thief_dies: None,
            dead_thieves: 0,
            delay: [1_000, 100_000, 5_000_000][rng.usize(0..3)],
            rng,
            signals: false,
            signalled: HashSet::new(),
            job: Arc::clone(&job),
            trace: std::env::var_os("PHALANX_TRACE").is_some(),
        };
        slots.iter().for_each(|&slots| world.add(slots));
        for (rank, hand_out) in (0..).zip(hand_outs) {
            world.send(Rank::ZERO, Rank(rank), Message::HandOut(Box::new(hand_out)));
        }
        let mut actions = Vec::new();
        world.coordinator.begin(&mut actions);
        world.carry_out(actions);
        world
    }

    /// A process that waits for its tasks.
    fn add(&mut self, slots: u32) {
        let rank = Rank(self.workers.len() as u32);
        let facts = Arc::clone(&self.job) as Arc<dyn Facts>;
        let worker = Worker::new(rank, slots, facts, Pace::default()).with_max_failures(self.job.max_failures);
        self.workers.push(worker);
        self.pools.push(Pool { slots, idle: slots, frozen: true, ..Pool::default() });
        self.life.push(Life::Alive);
    }

    /// How often homes have changed.
    pub(super) fn epochs(&self) -> u32 {
        self.coordinator.epoch()
    }

    /// Plans something.
    pub(super) fn at(&mut self, time: u64, what: Happening) {
        self.sequence += 1;
        self.plan.insert((time, self.sequence), what);
    }

    fn send(&mut self, from: Rank, to: Rank, message: Message) {
        if self.trace {
            eprintln!("{:>9} {} -> {}: {message:?}", self.now, from.0, to.0);
        }
        // What travels is what the codec makes of it.
        let bytes = postcard::to_stdvec(&message).expect("encodes");
        let message = postcard::from_bytes(&bytes).expect("decodes");
        if let Message::Returned { attempt, .. } = &message
            && (attempt.outcome.ok(), attempt.attempt) == (true, 1)
            && from != Rank::ZERO
            && self.life[from.index()] == Life::Alive
            && let Some(notice) = self.thief_dies.take()
        {
            self.dead_thieves += 1;
            self.at(self.now, Happening::Kill(from, notice));
        }
        let at = self.now + if from == to { 0 } else { self.rng.u64(1..=self.delay) };
        let at = at.max(self.healed(from, to).unwrap_or(0));
        let at = at.max(self.last.get(&(from, to)).copied().unwrap_or(0));
        self.last.insert((from, to), at);
        self.sequence += 1;
        self.network.push(Reverse((at, self.sequence)));
        if matches!(message, Message::Emptied { .. }) {
            self.emptied.insert(from, self.sequence);
        }
        self.in_flight.insert((at, self.sequence), (from, to, message));
    }

    /// When two ranks reach each other again that were cut off from rank 0, through which they do.
    fn healed(&self, from: Rank, to: Rank) -> Option<u64> {
        let ends = [from, to].into_iter().filter(|_| from != to);
        ends.filter_map(|rank| Some(self.cut.get(&rank)?.1)).max()
    }

    /// Runs until every rank that lives has left.
    pub(super) fn run(&mut self) {
        for _ in 0..400_000 {
            if !self.life.contains(&Life::Alive) {
                return;
            }
            self.advance();
        }
        panic!("the run does not end: {:?} at {} ns, {:?}", self.coordinator.tally(), self.now, self.life);
    }

    fn lives(&self, rank: usize) -> bool {
        matches!(self.life[rank], Life::Alive | Life::Outcast)
    }

    fn advance(&mut self) {
        let message = self.network.peek().map(|Reverse(m)| m.0);
        let end = self.ends.peek().map(|Reverse(e)| e.0);
        let tick = (0..self.workers.len())
            .filter(|&r| self.lives(r))
            .filter_map(|r| Some((self.workers[r].next_tick()?.0.max(self.now), r)))
            .min();
        let planned = self.plan.keys().next().map(|key| key.0);
        let arrivals = self.coordinator.next_tick().map(|due| due.0.max(self.now));
        let next = [message, end, tick.map(|t| t.0), planned, arrivals].into_iter().flatten().min();
        self.now = self.now.max(next.expect("something is still to happen"));
        if planned.is_some_and(|at| at <= self.now) {
            let (_, what) = self.plan.pop_first().expect("planned");
            self.happen(what);
        } else if end.is_some_and(|at| at <= self.now) {
            self.end_task();
        } else if message.is_some_and(|at| at <= self.now) {
            self.deliver();
        } else if arrivals.is_some_and(|at| at <= self.now) {
            self.coordinate(coordinator::CoordinatorEvent::Tick);
        } else if let Some((_, rank)) = tick {
            // The clock must pass the due time, or a machine that waits for "later than" would
            // spin.
            self.now += 1;
            self.step(rank, worker::WorkerEvent::Tick);
        }
    }

    fn happen(&mut self, what: Happening) {
        if self.trace {
            eprintln!("{:>9} {what:?}", self.now);
        }
        let is_alive = |rank: Rank| self.life.get(rank.index()) == Some(&Life::Alive);
        match what {
            Happening::Stop(how) => {
                self.coordinate(coordinator::CoordinatorEvent::Stop { how, why: StopReason::Signal(2) })
            }
            Happening::Kill(rank, notice) if rank != Rank::ZERO && is_alive(rank) => {
                self.kill(rank);
                self.at(self.now + notice, Happening::Notice(rank));
            }
            Happening::Suspect(rank) if rank != Rank::ZERO && is_alive(rank) => {
                self.life[rank.index()] = Life::Outcast;
                self.outcasts.insert(rank.index());
                self.change(rank, Change::Lose);
            }
            Happening::Notice(rank) => self.change(rank, Change::Lose),
            // No rank would answer it any more.
            Happening::Join(..) if self.finished.is_some() => {}
            Happening::Join(slots, asked) => {
                let rank = self.coordinator.next_rank();
                self.add(slots);
                if asked {
                    self.change(rank, Change::Request);
                    let later = self.now + self.rng.u64(0..2_000_000);
                    self.at(later, Happening::Arrive(rank, slots));
                } else {
                    self.change(rank, Change::Arrive(member(slots)));
                }
            }
            Happening::Arrive(rank, _) if self.finished.is_some() => self.life[rank.index()] = Life::Left,
            Happening::Arrive(rank, slots) if is_alive(rank) => self.change(rank, Change::Arrive(member(slots))),
            Happening::Wish(rank, change) => self.change(rank, change),
            Happening::Cancel(task) => self.coordinate(coordinator::CoordinatorEvent::Cancel { tasks: task..task + 1 }),
            Happening::CutOff(rank, time) if rank != Rank::ZERO && is_alive(rank) => {
                let (mut since, mut healed) = (self.now, self.now + time);
                if let Some(before) = self.cut.get(&rank).filter(|before| before.1 > self.now) {
                    (since, healed) = (before.0, healed.max(before.1));
                }
                self.cut.insert(rank, (since, healed));
                self.at(self.now + BEATS, Happening::Hears(rank, false));
                self.at(healed.max(self.now + BEATS), Happening::Hears(rank, true));
            }
            Happening::Hears(rank, heard) if self.lives(rank.index()) => {
                let cut = self.cut.get(&rank).is_some_and(|&(_, healed)| self.now < healed);
                if heard != cut {
                    self.step(rank.index(), worker::WorkerEvent::CutOff(cut));
                }
            }
            Happening::Rebalance => self.coordinate(coordinator::CoordinatorEvent::Rebalance),
            Happening::KillThief(notice) => self.thief_dies = Some(notice),
            _ => {}
        }
    }

    fn change(&mut self, rank: Rank, change: Change) {
        self.coordinate(coordinator::CoordinatorEvent::Change { rank, change });
    }

    /// A process dies: what it runs is gone, and of what it sent to each rank the last messages may
    /// be.
    ///
    /// A rank that leaves joined later, so that all that it sends passes through rank 0: what it
    /// sent before an `Emptied` that arrives, to whomever, arrives too.
    fn kill(&mut self, rank: Rank) {
        self.life[rank.index()] = Life::Dead;
        let ends = std::mem::take(&mut self.ends);
        self.ends = ends.into_iter().filter(|Reverse(end)| end.1 != rank.0).collect();
        self.known.retain(|known| known.0 != rank);
        for to in 0..self.workers.len() as u32 {
            let sent: Vec<_> =
                self.in_flight.iter().filter(|m| m.1.0 == rank && m.1.1 == Rank(to)).map(|m| *m.0).collect();
            let arrive = self.rng.usize(0..=sent.len());
            let lost = sent[arrive..].iter().copied();
            // Rank 0 comes first.
            let emptied = self.emptied.get(&rank).copied().unwrap_or(0);
            let lost: Vec<_> = lost.filter(|key| to == 0 || key.1 > emptied).collect();
            for key in lost {
                let (_, _, message) = self.in_flight.remove(&key).expect("in flight");
                if matches!(message, Message::Emptied { .. }) {
                    self.emptied.remove(&rank);
                }
            }
        }
    }

    fn deliver(&mut self) {
        let Some(Reverse(key)) = self.network.pop() else { return };
        let Some((from, to, message)) = self.in_flight.remove(&key) else { return };
        if let Some(healed) = self.healed(from, to).filter(|&healed| healed > self.now) {
            self.network.push(Reverse((healed, key.1)));
            self.in_flight.insert((healed, key.1), (from, to, message));
            return;
        }
        if message.is_for_coordinator() {
            assert_eq!(to, Rank::ZERO);
            if let (Message::Report { started, .. }, Life::Alive) = (&message, self.life[from.index()]) {
                self.told_started.extend(started.iter().map(|s| (s.task, s.attempt)));
                let runs =
                    |s: &&Started| self.ends.iter().any(|Reverse(end)| runs_at(end) == (from, s.task, s.attempt));
                self.known.extend(started.iter().filter(runs).map(|s| (from, s.task, s.attempt)));
            }
            self.coordinate(coordinator::CoordinatorEvent::Message { from, message });
        } else if self.lives(to.index()) {
            self.step(to.index(), worker::WorkerEvent::Message { from, message });
        } else if self.life[to.index()] == Life::Left {
            assert!(
                message.epoch().is_some() || matches!(message, Message::Release { .. } | Message::Finish),
                "{to} left before {message:?}"
            );
        }
    }

    fn coordinate(&mut self, event: coordinator::CoordinatorEvent) {
        let mut actions = Vec::new();
        self.coordinator.step(Time(self.now), event, &mut actions);
        self.carry_out(actions);
        self.check_running();
    }

    /// Every task that the coordinator considers running is open, and no rank has reported its end;
    /// and for every reported running task the coordinator knows the rank.
    fn check_running(&self) {
        let known: HashSet<_> = self.coordinator.running().map(|(rank, s)| (rank, s.task, s.attempt)).collect();
        for &(rank, task, attempt) in &known {
            assert_eq!(self.coordinator.final_state(task), None, "{task:?} has ended");
            assert!(!self.journalled.contains(&(task, attempt)), "the end of {task:?}, attempt {attempt}, is known");
            assert!(!self.coordinator.standing(rank).is_some_and(RankState::is_gone), "{task:?} runs on no rank");
        }
        for &(rank, task, attempt) in &self.known {
            let counts = self.life[rank.index()] == Life::Alive && self.coordinator.final_state(task).is_none();
            assert!(!counts || known.contains(&(rank, task, attempt)), "{task:?}, attempt {attempt}, runs on {rank}");
        }
    }

    fn carry_out(&mut self, actions: Vec<coordinator::Action>) {
        for action in actions {
            match action {
                coordinator::Action::Send { to, message } => self.send(Rank::ZERO, to, message),
                coordinator::Action::Journal(attempts) => {
                    self.journalled.extend(attempts.iter().map(|a| (a.task, a.attempt)));
                    self.journal.extend(attempts);
                }
                coordinator::Action::Tell(text) | coordinator::Action::Note(text) => self.told.push(text),
                coordinator::Action::Finished(why) => {
                    let tally = self.coordinator.tally();
                    let ended = tally.completed + tally.failed + tally.skipped + tally.cancelled;
                    assert!(ended + tally.running + tally.ready <= tally.total, "{tally:?}");
                    self.finished = Some(why);
                    self.check_counted();
                }
            }
        }
    }

    /// When a run ends, what any rank that is there has counted as ended is in the journal: else a
    /// resume would run it again, beside what followed from it.
    fn check_counted(&self) {
        let is_here = |rank: &usize| self.life[*rank] == Life::Alive;
        for (rank, worker) in self.workers.iter().enumerate().filter(|(rank, _)| is_here(rank)) {
            let Some(ledger) = worker.ledger() else { continue };
            // What is skipped follows from the rest.
            let ran = |local: &u32| ledger.is_ended(*local) && !ledger.is_violated(*local);
            let at_home = (0..ledger.len() as u32).filter(ran).map(|local| ledger.part().nodes.get(local));
            let elsewhere = ledger.counted().filter(|(_, end)| *end != End::Unsuccessful).map(|(node, _)| node);
            for node in at_home.chain(elsewhere).filter(|&node| (node as usize) < self.job.graph.task_count()) {
                let is_final = self.coordinator.final_state(TaskId(node)).is_some();
                assert!(is_final, "rank {rank} has counted the end of {node}, of which the journal knows nothing");
            }
        }
    }

    fn step(&mut self, rank: usize, event: worker::WorkerEvent) {
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

    fn act(&mut self, rank: usize, action: worker::Action, events: &mut VecDeque<worker::WorkerEvent>) {
        let me = Rank(rank as u32);
        match action {
            worker::Action::Send { to, message } => self.send(me, to, message),
            worker::Action::TakeUp { .. } => self.pools[rank].frozen = false,
            worker::Action::Start(locals) => {
                assert!(!self.pools[rank].frozen, "rank {rank} starts tasks of a ledger that it does not have yet");
                let ledger = self.workers[rank].ledger().expect("open").clone();
                for local in locals {
                    let urgency = ledger.urgency(local);
                    self.push(rank, urgency, (ledger.task(local).0, me.0, 1, ledger.ready_at(local).0));
                }
            }
            worker::Action::StartLease(l) => self.push(rank, l.urgency, (l.task.0, l.home.0, l.attempt, l.ready.0)),
            worker::Action::Surrender { to, max } => {
                let job = Arc::clone(&self.job);
                let leases = self.take_out(rank, max as usize, 0, |item| may_leave(&job, item));
                events.push_back(worker::WorkerEvent::Surrendered { to, leases });
            }
            worker::Action::Freeze { keep } => {
                self.pools[rank].frozen = true;
                let waiting = self.take_out(rank, usize::MAX, keep as usize, |_| true);
                self.flush(rank, events);
                events.push_back(worker::WorkerEvent::Frozen { waiting });
            }
            worker::Action::Hold { gang, slots, lead } => self.pools[rank].holds.push_back((gang, slots, lead)),
            worker::Action::Launch { gang, hosts, .. } => self.launch(rank, gang, &hosts, events),
            worker::Action::Release { gang } => {
                let pool = &mut self.pools[rank];
                pool.holds.retain(|h| h.0 != gang);
                pool.idle += pool.held.remove(&gang).map_or(0, |h| h.0);
            }
            worker::Action::Suspend => self.pools[rank].suspended = true,
            worker::Action::Resume => self.pools[rank].suspended = false,
            worker::Action::Halt => self.pools[rank].stopped = true,
            worker::Action::Stop(how) => {
                self.pools[rank].stopped = true;
                self.pools[rank].suspended = false;
                if how != Stop::Drain {
                    self.interrupt(rank);
                }
            }
            worker::Action::Cancel(tasks) => {
                self.pools[rank].cancelled.extend(tasks.iter().flat_map(|tasks| tasks.0..tasks.1));
                let cancelled = self.pools[rank].cancelled.clone();
                for lease in self.take_out(rank, usize::MAX, 0, |item| cancelled.contains(&item.0)) {
                    let attempt = lease.cancelled(me, Time(self.now));
                    self.pools[rank].outbox.push(worker::WorkerEvent::Ended { attempt });
                }
            }
            worker::Action::Exit => self.exit(rank),
        }
    }

    fn exit(&mut self, rank: usize) {
        if self.life[rank] == Life::Alive && self.finished.is_none() {
            let pool = &self.pools[rank];
            let empty = pool.running == 0 && pool.ready.is_empty() && pool.held.is_empty() && pool.outbox.is_empty();
            assert!(empty, "rank {rank} is told to leave with something left");
        }
        self.life[rank] = Life::Left;
        let ends = std::mem::take(&mut self.ends);
        self.ends = ends.into_iter().filter(|Reverse(end)| end.1 as usize != rank).collect();
    }

    /// Takes up to `most` items out of a pool, leaving the given number of the most urgent.
    fn take_out(&mut self, rank: usize, most: usize, keep: usize, which: impl Fn(&Item) -> bool) -> Vec<Lease> {
        let pool = &mut self.pools[rank];
        let chosen: Vec<_> = pool.ready.iter().filter(|r| which(&r.2)).skip(keep).take(most).copied().collect();
        pool.ready.retain(|r| !chosen.contains(r));
        chosen.into_iter().map(|(Reverse(urgency), _, item)| lease_of(urgency, &item)).collect()
    }

    /// Reports completions of slots to the machine.
    fn flush(&mut self, rank: usize, events: &mut VecDeque<worker::WorkerEvent>) {
        events.extend(self.pools[rank].outbox.drain(..));
    }

    fn push(&mut self, rank: usize, urgency: u8, item: Item) {
        assert!(self.pools[rank].slots > 0, "rank {rank} has no slots");
        self.sequence += 1;
        self.pools[rank].ready.insert((Reverse(urgency), self.sequence, item));
    }

    /// Running tasks end now, as CANCELLED (an attempt of duration zero marks them).
    fn interrupt(&mut self, rank: usize) {
        let all: Vec<_> = self.ends.drain().collect();
        for Reverse((at, r, item, started)) in all {
            let (at, started) = if r as usize == rank { (self.now, u64::MAX) } else { (at, started) };
            self.ends.push(Reverse((at, r, item, started)));
        }
    }

    fn launch(&mut self, rank: usize, gang: u32, hosts: &[(String, u32)], events: &mut VecDeque<worker::WorkerEvent>) {
        let held: u32 = self.pools.iter().filter_map(|p| p.held.get(&gang)).map(|h| h.0).sum();
        // A rank that has been given up may still receive what was sent before, when the others
        // have been released already.
        if self.life[rank] != Life::Outcast {
            assert_eq!(held, hosts.iter().map(|h| h.1).sum::<u32>(), "all slots are held");
        }
        let lease = self.pools[rank].held[&gang].1.expect("the leader has the task");
        let item = (lease.task.0, lease.home.0, lease.attempt, lease.ready.0);
        self.begin(rank, item, events);
    }

    fn begin(&mut self, rank: usize, item: Item, events: &mut VecDeque<worker::WorkerEvent>) {
        let (task, attempt) = (TaskId(item.0), item.2);
        if self.trace {
            eprintln!("{:>9} rank {rank} begins {item:?}", self.now);
        }
        let cut = self.cut.get(&Rank(rank as u32));
        let silent = cut.is_some_and(|&(since, healed)| since + BEATS < self.now && self.now < healed);
        assert!(!silent, "rank {rank} does not hear rank 0 and starts {task:?}");
        if self.life[rank] == Life::Alive {
            assert_eq!(self.coordinator.final_state(task), None, "{task:?} is known to have ended and starts again");
            assert!(!self.journalled.contains(&(task, attempt)), "{task:?}, attempt {attempt}, is known to have ended");
            assert!(self.job.gangs.contains_key(&task.0) || self.job.needs[task.index()] <= self.pools[rank].slots);
        }
        let took = self.job.duration[task.index()];
        self.ends.push(Reverse((self.now + took, rank as u32, item, self.now)));
        self.pools[rank].running += 1;
        if self.rng.bool() {
            events.push_back(worker::WorkerEvent::Started(vec![Started { task, attempt, start: Time(self.now) }]));
        }
    }

    /// Starts what fits, then reports the load to the worker.
    fn fill(&mut self, rank: usize, events: &mut VecDeque<worker::WorkerEvent>) {
        while let Some(&(gang, slots, lead)) = self.pools[rank].holds.front() {
            if self.pools[rank].idle < slots || self.pools[rank].stopped || self.pools[rank].suspended {
                break;
            }
            let pool = &mut self.pools[rank];
            pool.holds.pop_front();
            pool.idle -= slots;
            pool.held.insert(gang, (slots, lead));
            events.push_back(worker::WorkerEvent::Held { gang, cpus: vec![rank as u32] });
        }
        let starts = |pool: &Pool| !pool.stopped && !pool.suspended;
        while starts(&self.pools[rank]) && self.pools[rank].idle > 0 && self.pools[rank].holds.is_empty() {
            let Some((_, _, item)) = self.pools[rank].ready.pop_first() else { break };
            self.pools[rank].idle -= 1;
            self.begin(rank, item, events);
        }
        // What slots leave in their outboxes is heard late as long as another slot will be heard
        // anyway.
        if self.pools[rank].running == 0 || self.rng.bool() {
            self.flush(rank, events);
        }
        let job = &self.job;
        let pool = &self.pools[rank];
        let movable = pool.ready.iter().filter(|r| may_leave(job, &r.2)).count() as u32;
        // Slots that are set aside are busy, as in the real pool.
        let held: u32 = pool.held.values().map(|h| h.0).sum();
        let load = Load { idle: pool.idle, ready: movable, running: pool.running + held };
        let quiet = pool.stopped && load.running == 0;
        events.push_back(worker::WorkerEvent::Load(load));
        if quiet {
            events.push_back(worker::WorkerEvent::Quiet);
        }
        while let Some(event) = events.pop_front() {
            let mut actions = Vec::new();
            self.workers[rank].step(Time(self.now), event, &mut actions);
            for action in actions {
                self.act(rank, action, events);
            }
        }
    }

    fn end_task(&mut self) {
        let Some(Reverse((_, rank, (task, home, attempt, ready), started))) = self.ends.pop() else { return };
        let (task, home, rank) = (TaskId(task), Rank(home), rank as usize);
        self.known.remove(&(Rank(rank as u32), task, attempt));
        let interrupted = started == u64::MAX;
        let lost = |a: &&Attempt| a.task == task && a.outcome.state == State::NodeFail && a.attempt < attempt;
        let signalled = self.signalled.iter().filter(|end| end.0 == task && end.1 < attempt).count();
        let before =
            self.journal.iter().filter(lost).filter(|a| !self.signalled.contains(&(a.task, a.attempt))).count();
        let before = (signalled + before) as u16;
        let outcome = match interrupted || self.pools[rank].cancelled.contains(&task.0) {
            true => Outcome { state: State::Cancelled, exit: -15 },
            false if self.signals && self.rng.u32(0..50) == 0 => Outcome { state: State::NodeFail, exit: -15 },
            false => self.job.outcome(task, attempt - before),
        };
        // The report may be lost: then the next attempt has the same number.
        match outcome.state {
            State::NodeFail => drop(self.signalled.insert((task, attempt))),
            _ => drop(self.signalled.remove(&(task, attempt))),
        }
        let start = if interrupted { self.now } else { started };
        if !interrupted {
            self.executed.push(Execution { task, attempt, ok: outcome.ok(), rank, start, end: self.now });
        }
        let pool = &mut self.pools[rank];
        pool.running -= 1;
        let gang = pool.held.iter().find(|h| h.1.1.is_some_and(|l| l.task == task)).map(|h| *h.0);
        pool.idle += gang.and_then(|gang| pool.held.remove(&gang)).map_or(1, |(slots, _)| slots);
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
        if let Some(gang) = gang {
            return self.leave(rank, worker::WorkerEvent::GangEnded { gang, attempt: record });
        }
        let fast = outcome.ok() && attempt == 1 && home.index() == rank && !self.pools[rank].frozen;
        let ledger = self.workers[rank].ledger().expect("open").clone();
        match ledger.local(task).filter(|_| fast) {
            Some(local) => self.complete_fast(rank, &ledger, local, record),
            None => self.leave(rank, worker::WorkerEvent::Ended { attempt: record }),
        }
    }

    /// Posts a slot's completion to the machine, which processes it now or later.
    fn leave(&mut self, rank: usize, word: worker::WorkerEvent) {
        let is_failure = matches!(&word, worker::WorkerEvent::Ended { attempt } | worker::WorkerEvent::GangEnded { attempt, .. } if attempt.outcome.state.is_failure());
        self.pools[rank].outbox.push(word);
        let mut events = VecDeque::new();
        if is_failure && self.job.max_failures.is_some() {
            // A slot takes nothing else up before the machine has heard of a failure that counts.
            self.flush(rank, &mut events);
            while let Some(event) = events.pop_front() {
                let mut actions = Vec::new();
                self.workers[rank].step(Time(self.now), event, &mut actions);
                actions.into_iter().for_each(|action| self.act(rank, action, &mut events));
            }
        }
        self.fill(rank, &mut events);
    }

    /// What a pool thread does by itself: count, start what became ready, leave the rest to the
    /// machine.
    fn complete_fast(&mut self, rank: usize, ledger: &DependencyCounts, local: u32, attempt: Attempt) {
        let mut ripple = CompletionEffects::default();
        assert!(ledger.complete(local, true, Time(self.now), &mut ripple), "counted once");
        assert!(!ledger.complete(local, true, Time(self.now), &mut CompletionEffects::default()), "and not again");
        let ready = std::mem::take(&mut ripple.ready);
        self.pools[rank].outbox.push(worker::WorkerEvent::Completed { attempts: vec![attempt], ripple });
        self.leave(rank, worker::WorkerEvent::Special(ready));
    }
}

fn lease_of(urgency: u8, &(task, home, attempt, ready): &Item) -> Lease {
    Lease { task: TaskId(task), home: Rank(home), attempt, urgency, ready: Time(ready) }
}

/// True for a task that another rank may take.
fn may_leave(job: &Job, item: &Item) -> bool {
    let needs = (!job.movable[item.0 as usize]).then_some(Needs::SLOT);
    lease_of(0, item).needs(&job.retry(TaskId(item.0)), needs).is_none()
}

/// What an entry of `ends` is about.
fn runs_at(&(_, rank, (task, _, attempt, _), _): &(u64, u32, Item, u64)) -> (Rank, TaskId, u16) {
    (Rank(rank), TaskId(task), attempt)
}

fn member(slots: u32) -> Member {
    Member { node: format!("n{}", slots % 2), slots, ..Member::default() }
}

fn random_homes(rng: &mut Rng, job: &Job, slots: &[u32]) -> Vec<u32> {
    let tasks = job.graph.task_count();
    let home = |node: usize| {
        let need = if node < tasks { job.needs[node] } else { 1 };
        let able: Vec<u32> = (0..slots.len() as u32).filter(|&r| slots[r as usize] >= need).collect();
        able[rng.usize(0..able.len())]
    };
    (0..job.graph.node_count()).map(home).collect()
}
