//! The virtual world: drives the coordinator and the workers of a real run in virtual time.
//!
//! It decides nothing that a run decides. It does what MPI, threads and processes do for a real one: it carries messages, keeps ready tasks in
//! pools, lets tasks last as long as their fate says, and hands each event to the state machine that it concerns. The wiring follows
//! `runtime/engine.rs` and `runtime/crew.rs` step by step.
//!
//! Time jumps from event to event. Nothing looks over all ranks: a rank costs something only when something happens to it. An idle rank that has asked
//! in vain as patiently as it ever will *dozes* while no rank has anything to give: its questions and their empty answers are left out, and it
//! goes on in its own rhythm when there is something. Among many ranks still more questions are left out; see `search`.
//!
//! Everything follows from the job, the cluster and the seed. The state of a run is never looked at in the order of a hash table.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use super::agenda::Agenda;
use super::cluster::Cluster;
use super::pool::{Begin, Grant, Pool};
use super::post::Post;
use super::scene::{Fates, Scene};
use super::search::{CROWD, Match, Search};
use super::slab::Slab;
use crate::graph::partition::{Method, Partition};
use crate::model::{Attempt, Outcome, Rank, State, TaskId, Time};
use crate::pool::Needs;
use crate::runtime::{fit, glue};
use crate::schedule::coordinator::{self, Coordinator, Why};
use crate::schedule::handout::Cutter;
use crate::schedule::ledger::{Ledger, Ripple};
use crate::schedule::protocol::{Hello, Lease, Load, Message, Stop};
use crate::schedule::worker::{self, Facts, Pace, Worker};

/// Something that is to happen.
#[derive(Clone, Copy, Debug)]
enum What {
    /// A message arrives.
    Arrives(u32),
    /// A task ends.
    Ends(u32),
    /// A rank wants to be called.
    Tick(u32),
    /// A rank without work asks one that had something to give.
    Asks {
        /// Who asks.
        thief: u32,
        /// Whom.
        victim: u32,
    },
}

/// Among many ranks nobody asks by himself for so long after a round in vain: `search` brings together who would have found each other.
const SILENCE: Duration = Duration::from_secs(366 * 86_400);

/// Told what a real run would write down.
pub trait Log {
    /// Attempts that ended, in the order in which the coordinator hears of them.
    fn attempts(&mut self, attempts: Vec<Attempt>);

    /// Something that a person should know.
    fn note(&mut self, now: Time, text: String);
}

/// Writes nothing down.
pub struct Forget;

impl Log for Forget {
    fn attempts(&mut self, _: Vec<Attempt>) {}

    fn note(&mut self, _: Time, _: String) {}
}

/// A task that runs.
#[derive(Debug)]
struct Running {
    /// The number of its entry in the agenda; another entry for it is stale.
    ends: u64,
    rank: u32,
    lease: Lease,
    outcome: Outcome,
    start: Time,
    on: On,
}

/// What a task runs on.
#[derive(Debug)]
enum On {
    /// Slots of its rank.
    Slots(Grant),
    /// Those that a gang has set aside; the number is the first slot of its leader.
    Gang { gang: u32, slot: u16 },
}

/// One rank.
struct Seat {
    worker: Worker,
    pool: Pool,
    slots: u32,
    ledger: Option<Arc<Ledger>>,
    /// Its shares of limits.
    limits: Vec<(u32, u32)>,
    /// When it is called next.
    tick: Option<Time>,
    /// While it dozes: when it would have asked next.
    dozes: Option<Time>,
    /// True while `dozing` names it.
    listed: bool,
    left: bool,
    /// True while it has more than it can start.
    gives: bool,
    /// True while it looks for work that `search` has found for it.
    looks: bool,
    /// Ranks that will ask it.
    expected: u32,
    /// Tasks take so many times their duration here.
    slowness: f64,
}

/// How a run went.
#[derive(Clone, Debug, PartialEq)]
pub struct Ended {
    /// When.
    pub time: Time,
    /// Why.
    pub why: Why,
    /// How many tasks are in which state.
    pub tally: coordinator::Tally,
    /// Events that happened: messages, ends of tasks, calls of a rank.
    pub events: u64,
    /// Slot-nanoseconds that tasks ran.
    pub busy_ns: u128,
}

/// What to simulate beside the job.
pub struct Setup<'a> {
    /// The cluster.
    pub cluster: &'a Cluster,
    /// Ranks that take part from the start.
    pub ranks: u32,
    /// The seed.
    pub seed: u64,
    /// How homes are chosen; `None`: as the job file says.
    pub method: Option<Method>,
}

/// See the module's text.
pub struct World<'a> {
    scene: &'a Scene,
    fates: Fates,
    now: Time,
    agenda: Agenda<What>,
    post: Post,
    letters: Slab<(Rank, Rank, Message)>,
    running: Slab<Running>,
    seats: Vec<Seat>,
    coordinator: Coordinator,
    partition: Partition,
    pace: Pace,
    /// Among many ranks: who idles, and who has something to give.
    search: Option<Search>,
    /// Ranks that have something to give.
    surplus: u32,
    dozing: Vec<u32>,
    finished: Option<Why>,
    events: u64,
    busy_ns: u128,
    present: u32,
    /// Buffers of `step`, kept.
    queue: VecDeque<worker::Event>,
    actions: Vec<worker::Action>,
    log: &'a mut dyn Log,
}

impl<'a> World<'a> {
    /// A world at the moment at which all ranks have started.
    ///
    /// # Errors
    /// If a task fits on none of the ranks.
    pub fn new(scene: &'a Scene, setup: &Setup<'_>, log: &'a mut dyn Log) -> Result<World<'a>, String> {
        let kind = &setup.cluster.nodes[0];
        let hello = |rank: u32| Hello {
            node: format!("{}{rank}", kind.name),
            pid: 0,
            slots: kind.slots,
            memory: kind.memory,
            gpus: kind.gpus,
        };
        let hellos: Vec<Hello> = (0..setup.ranks).map(hello).collect();
        fit::check(&scene.job, &hellos).map_err(|error| error.to_string())?;
        let partition = scene.divide(&hellos, setup.method);
        let facts: Arc<dyn Facts> = Arc::clone(&scene.job) as Arc<dyn Facts>;
        let crowded = setup.ranks > CROWD;
        let pace = if crowded { Pace { steal: SILENCE, ..Pace::default() } } else { Pace::default() };
        let seat = |(rank, hello): (usize, &Hello)| Seat {
            worker: Worker::new(Rank(rank as u32), setup.ranks, hello.slots, Arc::clone(&facts), pace),
            pool: Pool::new(hello.slots, hello.memory, hello.gpus),
            slots: hello.slots,
            ledger: None,
            limits: Vec::new(),
            tick: None,
            dozes: None,
            listed: false,
            left: false,
            gives: false,
            looks: false,
            expected: 0,
            slowness: 1.0 / kind.speed,
        };
        let shapes: Vec<_> = scene.job.groups.iter().map(glue::shape).collect();
        let job = Arc::clone(&scene.job);
        let coordinator = Coordinator::new(
            scene.tasks(),
            &|_| false,
            fit::members(&hellos),
            scene.job.max_failures,
            Box::new(move |task| shapes[job.group_of(task).0 as usize]),
        );
        let mut world = World {
            fates: Fates::new(&scene.job, &setup.cluster.tasks, &setup.cluster.faults, setup.seed),
            now: Time::ZERO,
            agenda: Agenda::new(),
            post: Post::new(setup.cluster.network, setup.seed),
            letters: Slab::new(),
            running: Slab::new(),
            seats: hellos.iter().enumerate().map(seat).collect(),
            coordinator,
            pace,
            search: crowded.then(|| Search::new(setup.ranks as usize, Pace::default().steal, setup.seed)),
            surplus: 0,
            dozing: Vec::new(),
            finished: None,
            events: 0,
            busy_ns: 0,
            present: setup.ranks,
            queue: VecDeque::new(),
            actions: Vec::new(),
            scene,
            partition,
            log,
        };
        world.hand_out(&hellos);
        Ok(world)
    }

    /// Sends each rank its part.
    fn hand_out(&mut self, hellos: &[Hello]) {
        let scene = self.scene;
        let shares = fit::Shares::new(&scene.job, hellos);
        let home = std::mem::take(&mut self.partition.home);
        let cutter = Cutter::new(&scene.graph, &home, &scene.urgency, hellos.len(), &|_| false);
        for rank in 0..hellos.len() {
            let part = Box::new(cutter.part(rank));
            let limits = shares.of(rank).to_vec();
            self.send(Rank::ZERO, Rank(rank as u32), Message::HandOut { part, limits });
        }
        let mut actions = Vec::new();
        self.coordinator.begin(&mut actions);
        self.carry_out(actions);
    }

    /// What is known of the partition: how much it cuts and how balanced it is. (The homes themselves are with the ranks.)
    pub fn partition(&self) -> &Partition {
        &self.partition
    }

    /// Goes on until every rank has left.
    ///
    /// # Errors
    /// If nothing more is to happen although ranks are still there: a mistake in Phalanx, which this seed replays.
    pub fn run(&mut self) -> Result<Ended, String> {
        while self.present > 0 {
            let Some((at, number, what)) = self.agenda.next() else {
                return Err(format!(
                    "the simulated run hangs at {:.6} s: {:?}",
                    self.now.seconds(),
                    self.coordinator.tally()
                ));
            };
            self.now = at;
            match what {
                What::Arrives(letter) => self.deliver(letter),
                What::Ends(task) => self.end(task, number),
                What::Tick(rank) => self.call(rank),
                What::Asks { thief, victim } => self.ask(thief, victim),
            }
        }
        let why = self.finished.clone().ok_or("the ranks left before the coordinator finished")?;
        let tally = self.coordinator.tally();
        Ok(Ended { time: self.now, why, tally, events: self.events, busy_ns: self.busy_ns })
    }

    fn send(&mut self, from: Rank, to: Rank, message: Message) {
        let at = self.post.arrival(self.now, from, to);
        let letter = self.letters.put((from, to, message));
        self.agenda.arrange(at, What::Arrives(letter));
    }

    fn deliver(&mut self, letter: u32) {
        let Some((from, to, message)) = self.letters.take(letter) else { return };
        self.events += 1;
        if message.is_for_coordinator() {
            let mut actions = Vec::new();
            self.coordinator.step(self.now, coordinator::Event::Message { from, message }, &mut actions);
            self.carry_out(actions);
        } else if !self.seats[to.index()].left {
            self.step(to.0, worker::Event::Message { from, message });
        }
    }

    fn carry_out(&mut self, actions: Vec<coordinator::Action>) {
        for action in actions {
            match action {
                coordinator::Action::Send { to, message } => self.send(Rank::ZERO, to, message),
                coordinator::Action::Journal(attempts) => self.log.attempts(attempts),
                coordinator::Action::Tell(text) => self.log.note(self.now, text),
                coordinator::Action::Finished(why) => self.finished = Some(why),
            }
        }
    }

    /// A rank wanted to be called at this time.
    fn call(&mut self, rank: u32) {
        let seat = &mut self.seats[rank as usize];
        if seat.tick != Some(self.now) || seat.left {
            return;
        }
        seat.tick = None;
        self.events += 1;
        self.step(rank, worker::Event::Tick);
    }

    /// Hands an event to a rank's machine and carries out what follows.
    fn step(&mut self, rank: u32, event: worker::Event) {
        let mut queue = std::mem::take(&mut self.queue);
        let mut actions = std::mem::take(&mut self.actions);
        queue.push_back(event);
        while let Some(event) = queue.pop_front() {
            let limits = match &event {
                worker::Event::Message { message: Message::HandOut { limits, .. }, .. } => Some(limits.clone()),
                _ => None,
            };
            let seat = &mut self.seats[rank as usize];
            seat.worker.step(self.now, event, &mut actions);
            if let Some(limits) = limits {
                seat.limits = limits;
                seat.ledger = seat.worker.ledger().cloned();
            }
            for action in actions.drain(..) {
                self.act(rank, action, &mut queue);
            }
            if queue.is_empty() {
                self.fill(rank, &mut queue);
            }
        }
        (self.queue, self.actions) = (queue, actions);
        self.arrange_tick(rank);
    }

    fn act(&mut self, rank: u32, action: worker::Action, queue: &mut VecDeque<worker::Event>) {
        let me = Rank(rank);
        match action {
            worker::Action::Send { to, message } => self.send(me, to, message),
            worker::Action::Start(locals) => locals.into_iter().for_each(|local| self.start(rank, local)),
            worker::Action::StartLease(lease) => {
                // One that is to be tried on another rank must not be stolen back.
                let settled = lease.attempt > 1 && self.scene.job.group(lease.task).retry.elsewhere;
                let needs = self.needs(rank, lease.task).or(settled.then_some(Needs::SLOT));
                self.seats[rank as usize].pool.push(lease, needs);
            }
            worker::Action::Surrender { to, max } => {
                let leases = self.seats[rank as usize].pool.surrender(max);
                queue.push_back(worker::Event::Surrendered { to, leases });
            }
            worker::Action::Hold { gang, slots, lead } => self.seats[rank as usize].pool.hold(gang, slots, lead),
            worker::Action::Launch { gang, .. } => {
                if let Some((lease, slot)) = self.seats[rank as usize].pool.lead(gang) {
                    self.begin(rank, lease, On::Gang { gang, slot });
                }
            }
            worker::Action::Release { gang } => self.seats[rank as usize].pool.release(gang),
            worker::Action::Stop(how) => {
                self.seats[rank as usize].pool.pause();
                if how != Stop::Drain {
                    self.interrupt(rank);
                }
            }
            worker::Action::Exit => self.leave(rank),
        }
    }

    /// A task at home became ready.
    fn start(&mut self, rank: u32, local: u32) {
        let Some(ledger) = &self.seats[rank as usize].ledger else { return };
        let task = ledger.task(local);
        let (urgency, ready) = (ledger.urgency(local), ledger.ready_at(local));
        let needs = if ledger.is_special(local) { self.needs(rank, task) } else { None };
        let lease = Lease { task, home: Rank(rank), attempt: 1, urgency, ready };
        self.seats[rank as usize].pool.push(lease, needs);
    }

    fn needs(&self, rank: u32, task: TaskId) -> Option<Needs> {
        let group = self.scene.group(task) as usize;
        glue::needs(group, &self.scene.job.groups[group], &self.seats[rank as usize].limits)
    }

    fn begin(&mut self, rank: u32, lease: Lease, on: On) {
        let slowness = self.seats[rank as usize].slowness;
        let fate = self.fates.of(self.scene, lease.task, lease.attempt, slowness);
        let running = Running { ends: 0, rank, lease, outcome: fate.outcome, start: self.now, on };
        let number = self.running.put(running);
        let ends = self.agenda.arrange(self.now.after(fate.took), What::Ends(number));
        if let Some(running) = self.running.get_mut(number) {
            running.ends = ends;
        }
    }

    /// Starts what can start, then tells the worker the load.
    fn fill(&mut self, rank: u32, queue: &mut VecDeque<worker::Event>) {
        while let Some(begin) = self.seats[rank as usize].pool.begin() {
            match begin {
                Begin::Task(lease, grant) => self.begin(rank, lease, On::Slots(grant)),
                Begin::Held { gang, slots } => {
                    let cpus = slots.into_iter().map(u32::from).collect();
                    queue.push_back(worker::Event::Held { gang, cpus });
                }
            }
        }
        let seat = &mut self.seats[rank as usize];
        let load = seat.pool.load();
        if seat.worker.load() != load {
            queue.push_back(worker::Event::Load(load));
        } else if seat.worker.is_stopping() && seat.pool.is_quiet() {
            queue.push_back(worker::Event::Quiet);
        }
        self.count_surplus(rank, load);
    }

    fn count_surplus(&mut self, rank: u32, load: Load) {
        let gives = load.ready > load.idle;
        let seat = &mut self.seats[rank as usize];
        let gave = std::mem::replace(&mut seat.gives, gives);
        if let Some(search) = &mut self.search {
            match gives {
                true => self.find_thieves(rank, load.ready - load.idle),
                false if gave => search.gives_not(rank),
                false => {}
            }
            return;
        }
        match (gave, gives) {
            (false, true) => self.surplus += 1,
            (true, false) => self.surplus -= 1,
            _ => return,
        }
        if gives && self.surplus == 1 {
            self.wake();
        }
    }

    /// Among many ranks: lets idle ranks ask this one for what it has too much of.
    fn find_thieves(&mut self, rank: u32, surplus: u32) {
        let Some(search) = &mut self.search else { return };
        let mut found = Vec::new();
        let wanted = surplus.div_ceil(self.seats[rank as usize].slots.max(1));
        for _ in self.seats[rank as usize].expected..wanted {
            let Some(next) = search.gives(rank) else { break };
            found.push(next);
        }
        found.into_iter().for_each(|found| self.expect(found));
    }

    fn expect(&mut self, found: Match) {
        self.seats[found.thief as usize].looks = true;
        self.seats[found.victim as usize].expected += 1;
        let asks = What::Asks { thief: found.thief, victim: found.victim };
        self.agenda.arrange(self.now.after(found.after), asks);
    }

    /// A rank that looked for work asks another for it, if both still have reason to.
    fn ask(&mut self, thief: u32, victim: u32) {
        self.seats[victim as usize].expected -= 1;
        let seat = &mut self.seats[thief as usize];
        seat.looks = false;
        if seat.left {
            return;
        }
        self.events += 1;
        let starves = seat.worker.next_ask().is_some();
        let want = seat.worker.load().idle;
        if starves && self.seats[victim as usize].gives {
            self.send(Rank(thief), Rank(victim), Message::Steal { want });
        } else {
            self.arrange_tick(thief);
        }
    }

    /// Somebody has something to give: those who doze ask again, each at the next beat of its own rhythm.
    fn wake(&mut self) {
        let rhythm = self.pace.longest_pause().as_nanos() as u64;
        for rank in std::mem::take(&mut self.dozing) {
            let seat = &mut self.seats[rank as usize];
            seat.listed = false;
            let Some(at) = seat.dozes.take().filter(|_| !seat.left) else { continue };
            let slept = self.now.since(at).as_nanos() as u64;
            let due = Time(at.0 + slept.div_ceil(rhythm) * rhythm);
            self.arrange_call(rank, due);
        }
    }

    /// Arranges the next call of a rank.
    fn arrange_tick(&mut self, rank: u32) {
        let seat = &mut self.seats[rank as usize];
        if seat.left {
            return;
        }
        let mut ask = seat.worker.next_ask();
        if let Some(search) = &mut self.search {
            let duty = seat.worker.next_duty();
            let found = match ask.is_some() && !seat.looks {
                true => search.idles(rank),
                false => {
                    search.idles_not(rank);
                    None
                }
            };
            found.into_iter().for_each(|found| self.expect(found));
            duty.into_iter().for_each(|due| self.arrange_call(rank, due));
            return;
        }
        let patient = |at: Time| seat.dozes == Some(at) || at.since(self.now) >= self.pace.longest_pause();
        seat.dozes = ask.filter(|&at| self.surplus == 0 && patient(at));
        if seat.dozes.is_some() {
            ask = None;
            if !std::mem::replace(&mut seat.listed, true) {
                self.dozing.push(rank);
            }
        }
        if let Some(due) = [seat.worker.next_duty(), ask].into_iter().flatten().min() {
            self.arrange_call(rank, due);
        }
    }

    /// Sees to it that a rank is called at a time, or before.
    fn arrange_call(&mut self, rank: u32, due: Time) {
        let (due, seat) = (due.max(self.now), &mut self.seats[rank as usize]);
        if seat.tick.is_none_or(|tick| due < tick) {
            seat.tick = Some(due);
            self.agenda.arrange(due, What::Tick(rank));
        }
    }

    fn end(&mut self, number: u32, entry: u64) {
        if self.running.get_mut(number).is_none_or(|running| running.ends != entry) {
            return;
        }
        let Some(Running { rank, lease, outcome, start, on, .. }) = self.running.take(number) else { return };
        self.events += 1;
        let slot = match &on {
            On::Slots(grant) => grant.slots[0],
            On::Gang { slot, .. } => *slot,
        };
        let slots = glue::slots(self.scene.job.group(lease.task));
        self.busy_ns += u128::from(self.now.since(start).as_nanos() as u64) * u128::from(slots);
        let attempt = Attempt {
            task: lease.task,
            attempt: lease.attempt,
            outcome,
            last: outcome.ok(),
            rank: Rank(rank),
            slot,
            ready: lease.ready,
            start,
            end: self.now,
        };
        let pool = &mut self.seats[rank as usize].pool;
        match on {
            On::Slots(grant) => pool.finish(grant),
            On::Gang { gang, .. } => {
                pool.release(gang);
                self.send(Rank(rank), Rank::ZERO, Message::GangEnded { gang });
            }
        }
        match self.completes_at_home(rank, &lease, outcome) {
            Some(ledger) => self.complete(rank, &ledger, attempt),
            None => self.step(rank, worker::Event::Ended { attempt, home: lease.home }),
        }
    }

    /// The ledger of a first attempt at a task at home that completed: slots count those by themselves.
    fn completes_at_home(&self, rank: u32, lease: &Lease, outcome: Outcome) -> Option<Arc<Ledger>> {
        let fast = outcome.ok() && lease.attempt == 1 && lease.home == Rank(rank);
        self.seats[rank as usize].ledger.clone().filter(|_| fast)
    }

    /// The fast path: what a slot does by itself after a task.
    fn complete(&mut self, rank: u32, ledger: &Ledger, attempt: Attempt) {
        let mut ripple = Ripple::default();
        let Some(local) = ledger.local(attempt.task) else { return };
        if !ledger.complete(local, true, self.now, &mut ripple) {
            return self.step(rank, worker::Event::Ended { attempt, home: Rank(rank) });
        }
        let (special, plain): (Vec<u32>, Vec<u32>) = ripple.ready.drain(..).partition(|&local| ledger.is_special(local));
        plain.into_iter().for_each(|local| self.start(rank, local));
        if !special.is_empty() {
            self.queue.push_back(worker::Event::Special(special));
        }
        self.step(rank, worker::Event::Completed { attempts: vec![attempt], ripple });
    }

    /// What runs on a rank ends now, without being decided.
    fn interrupt(&mut self, rank: u32) {
        let here = |running: &Running| running.rank == rank;
        let all: Vec<u32> = self.running.iter().filter(|(_, running)| here(running)).map(|(number, _)| number).collect();
        for number in all {
            let ends = self.agenda.arrange(self.now, What::Ends(number));
            if let Some(running) = self.running.get_mut(number) {
                running.outcome = Outcome { state: State::Cancelled, exit: -libc::SIGTERM };
                running.ends = ends;
            }
        }
    }

    fn leave(&mut self, rank: u32) {
        let seat = &mut self.seats[rank as usize];
        if !std::mem::replace(&mut seat.left, true) {
            self.present -= 1;
        }
    }
}
