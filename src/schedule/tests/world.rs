//! A simulated world: ranks with pools as simple as can be, a network with delays, and a failure
//! detector.

mod checks;
mod growing;
mod happenings;
mod links;
mod pool;
mod units;

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap, HashSet, VecDeque};
use std::sync::Arc;

use fastrand::Rng;

pub(super) use self::growing::Growing;
pub(super) use self::happenings::Happening;
pub(super) use self::links::{MAX_SILENCE_NS, SECOND_NS, Seen, Way};
use self::pool::{Item, Pool};
use self::units::Units;
use super::job::{Job, Terms, alone, labels_of_slots};
use crate::model::{Attempt, Labels, Rank, RankRoom, TaskId, Time};
use crate::schedule::coordinator::{self, Change, Coordinator, Member, StopReason, Tasks};
use crate::schedule::handout::PartBuilder;
use crate::schedule::pools::shares::PoolShares;
use crate::schedule::protocol::{HandOut, Message, Started};
use crate::schedule::ranks::Ranks;
use crate::schedule::worker::{self, Facts, Pace, Worker};

/// The state of a rank's process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Life {
    /// Lives, and is a member.
    Alive,
    /// Was killed.
    Dead,
    /// Lives, but has been declared lost.
    DeclaredLost,
    /// Has left.
    Left,
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
    /// Ranks on which every task fails at once.
    pub(super) sick: BTreeSet<usize>,
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
    pub(super) reported_started: HashSet<(TaskId, u16)>,
    /// Running attempts that their rank has reported to the coordinator.
    known: HashSet<(Rank, TaskId, u16)>,
    pub(super) finished: Option<StopReason>,
    pub(super) notes: Vec<String>,
    /// Ranks that lived when they were declared lost.
    pub(super) declared_lost: HashSet<usize>,
    /// The number of the last `Emptied` of each rank that has arrived or will.
    emptied: BTreeMap<Rank, u64>,
    /// Directions of links in which nothing passes: since when, and until when.
    cut: BTreeMap<(Rank, Way), (u64, u64)>,
    /// Ranks that rank 0 takes for lost.
    lost: BTreeSet<Rank>,
    /// Those of them whose link rank 0 has closed: nothing more is sent on it.
    closed: BTreeSet<Rank>,
    /// Until when ranks stand still.
    thaws: BTreeMap<Rank, u64>,
    pub(super) seen: Seen,
    /// The labels of nodes that were requested and have not come.
    coming: Vec<Labels>,
    /// Number of ranks that were gained because tasks need them.
    pub(super) gained: u32,
    /// The next thief dies, and the loss is detected after this time.
    thief_dies: Option<u64>,
    /// What is known of each resource of the pools.
    pub(super) units: Vec<Units>,
    /// Units that MPI tasks on several ranks use, by task, with the rank that leads it.
    pub(super) gang_units: BTreeMap<u32, (usize, Vec<(u32, u32)>)>,
    /// Shares of operations that run, as gang and rank.
    shares: BTreeSet<(u32, usize)>,
    /// Number of shares that have begun, and of operations that ended because a rank was lost.
    pub(super) shared: [u32; 2],
    /// Until when tasks of a rank may run.
    ghosts_until: Vec<u64>,
    pub(super) dead_thieves: u32,
    /// What tasks add.
    pub(super) growing: Option<Growing>,
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
        let shapes = job.gangs.clone();
        let tasks = Tasks {
            graph: Arc::clone(&job.graph),
            home,
            urgency,
            advice: Box::new(Terms(Arc::clone(&job))),
            pools: job.pools_of(job.graph.task_count()),
            fair: Vec::new(),
        };
        let mut coordinator = Coordinator::new(
            tasks,
            &|t| done.contains(&t.0),
            members,
            job.max_failures,
            Box::new(move |t| shapes.get(&t.0).cloned().unwrap_or_else(alone)),
        );
        let (mut units, terms) = (coordinator.first_units(), coordinator.steal_terms());
        let Tasks { home, urgency, .. } = coordinator.tasks();
        let free = job.graph.free_numbers();
        let ended = |n: u32| (done.contains(&n) || free.contains(&n)).then_some(true);
        let cutter = PartBuilder::new(&job.graph, home, urgency, ranks as usize, &ended);
        let unplaced = |rank: u32| {
            let tasks = 0..job.graph.task_count();
            let waits = |task: &usize| home[*task] == rank && !job.fits(*task, slots[rank as usize].max(1));
            tasks.filter(waits).map(|task| TaskId(task as u32)).collect()
        };
        let hand_out = |rank: u32| HandOut {
            part: cutter.part(rank as usize),
            active: Ranks::first(ranks),
            units: units.remove(&Rank(rank)).unwrap_or_default(),
            out: unplaced(rank),
            stealing: terms[rank as usize],
            ..HandOut::default()
        };
        let hand_outs: Vec<HandOut> = (0..ranks).map(hand_out).collect();
        let has_unplaced = hand_outs.iter().any(|hand_out| !hand_out.out.is_empty());
        let may_lack_ranks = job.gangs.keys().any(|&task| !job.gang_labels(task).is_empty());
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
            reported_started: HashSet::new(),
            known: HashSet::new(),
            finished: None,
            notes: Vec::new(),
            declared_lost: HashSet::new(),
            cut: BTreeMap::new(),
            lost: BTreeSet::new(),
            closed: BTreeSet::new(),
            thaws: BTreeMap::new(),
            seen: Seen::default(),
            emptied: BTreeMap::new(),
            coming: Vec::new(),
            gained: 0,
            thief_dies: None,
            units: Units::of(&job.pools),
            gang_units: BTreeMap::new(),
            shares: BTreeSet::new(),
            shared: [0; 2],
            ghosts_until: Vec::new(),
            dead_thieves: 0,
            growing: None,
            delay: [1_000, 100_000, 5_000_000][rng.usize(0..3)],
            rng,
            signals: false,
            sick: BTreeSet::new(),
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
        if has_unplaced || may_lack_ranks {
            world.happen(Happening::Provide);
        }
        if has_unplaced {
            world.happen(Happening::Rebalance);
        }
        world
    }

    /// A process that waits for its tasks.
    fn add(&mut self, slots: u32) {
        let rank = Rank(self.workers.len() as u32);
        let facts = Arc::clone(&self.job) as Arc<dyn Facts>;
        let worker = Worker::new(rank, RankRoom::of_slots(slots), facts, Pace::default())
            .with_max_failures(self.job.max_failures);
        self.workers.push(worker);
        let shares = PoolShares::new(Arc::clone(&self.job.pools));
        self.pools.push(Pool { slots, idle: slots, frozen: true, shares, ..Pool::default() });
        self.life.push(Life::Alive);
        self.ghosts_until.push(u64::MAX);
    }

    /// Slots of a rank.
    pub(super) fn slots(&self, rank: usize) -> u32 {
        self.pools[rank].slots
    }

    /// Virtual time since the start in nanoseconds.
    pub(super) fn now(&self) -> u64 {
        self.now
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
        if from != to && (self.closed.contains(&from) || self.closed.contains(&to)) {
            return;
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
        matches!(self.life[rank], Life::Alive | Life::DeclaredLost)
    }

    fn advance(&mut self) {
        let message = self.network.peek().map(|Reverse(m)| m.0);
        let end = self.ends.peek().map(|Reverse(e)| e.0);
        let tick = (0..self.workers.len())
            .filter(|&r| self.lives(r))
            .filter_map(|r| Some((self.workers[r].next_tick()?.0.max(self.now).max(self.thaw(Rank(r as u32))), r)))
            .min();
        let planned = self.plan.keys().next().map(|key| key.0);
        let arrivals = self.coordinator.next_tick().map(|due| due.0.max(self.now).max(self.thaw(Rank::ZERO)));
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

    fn change(&mut self, rank: Rank, change: Change) {
        self.coordinate(coordinator::CoordinatorEvent::Change { rank, change });
    }

    fn deliver(&mut self) {
        let Some(Reverse(key)) = self.network.pop() else { return };
        let Some((from, to, message)) = self.in_flight.remove(&key) else { return };
        let arrives = self.healed(from, to).unwrap_or(0).max(self.thaw(to));
        if arrives > self.now {
            self.network.push(Reverse((arrives, key.1)));
            self.in_flight.insert((arrives, key.1), (from, to, message));
            return;
        }
        if message.is_for_coordinator() {
            assert_eq!(to, Rank::ZERO);
            if let (Message::Report { started, .. }, Life::Alive) = (&message, self.life[from.index()]) {
                self.reported_started.extend(started.iter().map(|s| (s.task, s.attempt)));
                let runs =
                    |s: &&Started| self.ends.iter().any(|Reverse(end)| runs_at(end) == (from, s.task, s.attempt));
                self.known.extend(started.iter().filter(runs).map(|s| (from, s.task, s.attempt)));
            }
            self.coordinate(coordinator::CoordinatorEvent::Message { from, message });
        } else if self.lives(to.index()) {
            self.step(to.index(), worker::WorkerEvent::Message { from, message });
        } else if self.life[to.index()] == Life::Left {
            assert!(
                message.epoch().is_some()
                    || matches!(message, Message::Release { .. } | Message::Finish | Message::PoolOrders(_)),
                "{to} left before {message:?}"
            );
        }
    }

    fn coordinate(&mut self, event: coordinator::CoordinatorEvent) {
        let mut actions = Vec::new();
        self.coordinator.step(Time(self.now), event, &mut actions);
        self.carry_out(actions);
        self.grow();
        self.check_running();
        self.check_leases();
    }

    fn carry_out(&mut self, actions: Vec<coordinator::CoordinatorAction>) {
        for action in actions {
            match action {
                coordinator::CoordinatorAction::Send { to, message } => self.send(Rank::ZERO, to, message),
                coordinator::CoordinatorAction::Journal(attempts) => {
                    self.journalled.extend(attempts.iter().map(|a| (a.task, a.attempt)));
                    self.journal.extend(attempts);
                }
                coordinator::CoordinatorAction::Offered { task, counts } => self.offered(task, counts),
                coordinator::CoordinatorAction::Error(text) | coordinator::CoordinatorAction::Warning(text) => {
                    self.notes.push(text)
                }
                coordinator::CoordinatorAction::Finished(why) => {
                    let tally = self.coordinator.tally();
                    let ended = tally.completed + tally.failed + tally.skipped + tally.cancelled;
                    assert!(ended + tally.running + tally.ready <= tally.total, "{tally:?}");
                    self.finished = Some(why);
                    self.check_counted();
                }
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
}

fn member(slots: u32) -> Member {
    Member { node: format!("n{}", slots % 2), slots, labels: labels_of_slots(slots), ..Member::default() }
}

fn random_homes(rng: &mut Rng, job: &Job, slots: &[u32]) -> Vec<u32> {
    let tasks = job.graph.task_count();
    let home = |node: usize| {
        let fits = |slots: u32| if node < tasks { job.fits(node, slots) } else { slots > 0 };
        let able: Vec<u32> = (0..slots.len() as u32).filter(|&r| fits(slots[r as usize])).collect();
        if able.is_empty() { rng.u32(0..slots.len() as u32) } else { able[rng.usize(0..able.len())] }
    };
    (0..job.graph.node_count()).map(home).collect()
}

/// What an entry of `ends` is about.
fn runs_at(&(_, rank, (task, _, attempt, _, _), _): &(u64, u32, Item, u64)) -> (Rank, TaskId, u16) {
    (Rank(rank), TaskId(task), attempt)
}
