//! The virtual world: drives the coordinator and the workers of a real run in virtual time.
//!
//! It decides nothing that a run decides. It does what MPI, threads and processes do for a real one: it carries messages, keeps ready tasks in
//! pools, lets tasks last as long as their fate says, and hands each event to the state machine that it concerns. The wiring follows
//! `runtime/engine.rs` and `runtime/crew.rs` step by step. `fleet.rs` beside this file is about ranks that come and go.
//!
//! Time jumps from event to event. Nothing looks over all ranks: a rank costs something only when something happens to it. An idle rank that has asked
//! in vain as patiently as it ever will *dozes* while no rank has anything to give: its questions and their empty answers are left out, and it
//! goes on in its own rhythm when there is something. Among many ranks still more questions are left out; see `search`.
//!
//! Everything follows from the job, the cluster and the seed. The state of a run is never looked at in the order of a hash table.

mod fleet;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use super::agenda::Agenda;
use super::cluster::Cluster;
use super::pool::{Begin, Grant, Pool};
use super::post::Post;
use super::provider::{Answer, Loss, Node, Provider};
use super::scene::{Fates, Scene};
use super::search::{CROWD, Match, Search};
use super::slab::Slab;
use crate::graph::partition::{Method, Partition};
use crate::journal::{Level, Note, Record};
use crate::model::{Attempt, Outcome, Rank, RankState, State, TaskId, Time};
use crate::pool::Needs;
use crate::runtime::captain::Captain;
use crate::runtime::{fit, glue};
use crate::scale::elasticity::Step;
use crate::scale::{Forecast, Scaler};
use crate::schedule::coordinator::{self, Coordinator, Member, Tally, Tasks, Why};
use crate::schedule::handout::Cutter;
use crate::schedule::ledger::{Ledger, Ripple};
use crate::schedule::protocol::{HandOut, Lease, Load, Message, Started, Stop};
use crate::schedule::ranks::Ranks;
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
    /// It is decided about ranks.
    Decide,
    /// A request is answered.
    Answered(Answer),
    /// The rank of a granted node has started.
    Starts(u32),
    /// A node goes down, or a rank dies.
    Lost(u32, Loss),
    /// Somebody notices that.
    Noticed(u32),
    /// What still runs must end, or the budget would be exceeded.
    OutOfMoney,
}

/// Told what a real run would write down.
pub trait Log {
    /// Takes a record, in the order in which a journal would have them.
    fn record(&mut self, record: Record);
}

/// Writes nothing down.
pub struct Forget;

impl Log for Forget {
    fn record(&mut self, _: Record) {}
}

impl Log for Vec<Record> {
    fn record(&mut self, record: Record) {
        self.push(record);
    }
}

/// Among many ranks nobody asks by himself for so long after a round in vain: `search` brings together who would have found each other.
const SILENCE: Duration = Duration::from_secs(366 * 86_400);

/// A rank for which `search` has found work that is gone by now, or whose question was lost in a change of homes, looks again after this.
const AGAIN: Duration = Duration::from_millis(50);

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
    member: Member,
    ledger: Option<Arc<Ledger>>,
    /// Its shares of limits.
    limits: Vec<(u32, u32)>,
    /// Its slots count nothing by themselves.
    frozen: bool,
    /// When it is called next.
    tick: Option<Time>,
    /// While it dozes: when it would have asked next.
    dozes: Option<Time>,
    /// True while `dozing` names it.
    listed: bool,
    /// True from its start until it leaves or dies.
    here: bool,
    /// As it was last written down.
    state: RankState,
    /// True while it has more than it can start.
    gives: bool,
    /// True while it looks for work that `search` has found for it.
    looks: bool,
    /// Ranks that will ask it.
    expected: u32,
    /// Slot-time that tasks ran here.
    busy: Duration,
    failures: u32,
}

/// How a run went.
#[derive(Clone, Debug, PartialEq)]
pub struct Ended {
    /// When.
    pub time: Time,
    /// Why.
    pub why: Why,
    /// How many tasks are in which state.
    pub tally: Tally,
    /// Events that happened: messages, ends of tasks, calls of a rank, decisions.
    pub events: u64,
    /// Slot-time that tasks ran, those that failed included.
    pub busy: Duration,
    /// All nodes that were granted.
    pub nodes: Vec<Node>,
    /// Active ranks, from each change on.
    pub supply: Vec<Step>,
    /// Tasks that ran or waited for a slot, from decision to decision; empty if nobody decided.
    pub demand: Vec<Step>,
    /// When the end was foreseen for, from decision to decision of a policy that looks ahead.
    pub forecasts: Vec<(Time, Forecast)>,
    /// Homes have changed so often.
    pub epochs: u32,
    /// Attempts that ran elsewhere than at home.
    pub away: u64,
    /// What is known of the first partition: how much it cuts and how balanced it is. (The homes themselves are with the ranks.)
    pub partition: Partition,
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
    pub homes: Option<Homes<'a>>,
    /// Who decides about ranks; `None`: nobody, and those that there are stay.
    pub captain: Option<Authority>,
    /// Tasks that are complete already.
    pub done: &'a dyn Fn(TaskId) -> bool,
}

/// How homes are chosen at the start.
#[derive(Clone, Copy)]
pub enum Homes<'a> {
    /// By the graph.
    Method(Method),
    /// As dealt: for each task its rank. Joins stay with the first task that they wait for.
    Dealt(&'a [u32]),
    /// As [`World::homes`] chose them before.
    Known(&'a [u32]),
}

/// Who decides about ranks.
pub struct Authority {
    /// The scaling core.
    pub scaler: Scaler,
    /// What nodes cost, and what may be spent.
    pub prices: crate::scale::Prices,
    /// Time between two decisions.
    pub interval: Duration,
}

/// See the module's text.
pub struct World<'a> {
    scene: &'a Scene,
    cluster: &'a Cluster,
    facts: Arc<dyn Facts>,
    fates: Fates,
    now: Time,
    agenda: Agenda<What>,
    post: Post,
    letters: Slab<(Rank, Rank, Message)>,
    running: Slab<Running>,
    seats: Vec<Seat>,
    coordinator: Coordinator,
    partition: Partition,
    provider: Provider<'a>,
    captain: Option<Captain>,
    pace: Pace,
    /// Ranks that have something to give.
    surplus: u32,
    dozing: Vec<u32>,
    /// Among many ranks: who idles, and who has something to give.
    search: Option<Search>,
    finished: Option<Why>,
    stopping: bool,
    events: u64,
    away: u64,
    busy: Duration,
    /// Ranks that are here.
    present: u32,
    active: u32,
    supply: Vec<Step>,
    /// Buffers of `step`, kept.
    queue: VecDeque<worker::Event>,
    actions: Vec<worker::Action>,
    log: &'a mut dyn Log,
}

impl<'a> World<'a> {
    /// A world at the moment at which all ranks of the beginning have started.
    ///
    /// # Errors
    /// If a task fits on none of the ranks.
    pub fn new(scene: &'a Scene, setup: Setup<'a>, log: &'a mut dyn Log) -> Result<World<'a>, String> {
        let Setup { cluster, ranks, seed, homes, captain, done } = setup;
        let mut provider = Provider::new(cluster, seed);
        let kind = crate::scale::NodeTypeId(0);
        let startups: Vec<Duration> = (0..ranks).map(|_| provider.grant(Time::ZERO, Time::ZERO, kind).1).collect();
        let members: Vec<Member> = (0..ranks).map(|rank| fleet::member(cluster, kind, rank)).collect();
        fit::check_members(&scene.job, &members).map_err(|error| error.to_string())?;
        let terms = fit::Terms::new(Arc::clone(&scene.job), &members);
        let mut partition = match homes {
            Some(Homes::Dealt(dealt)) => scene.dealt(dealt, &members),
            Some(Homes::Known(homes)) => scene.known(homes, &members),
            Some(Homes::Method(method)) => scene.divide(&members, &terms, Some(method)),
            None => scene.divide(&members, &terms, None),
        };
        let home = std::mem::take(&mut partition.home);
        let tasks = Tasks {
            graph: Arc::clone(&scene.graph),
            home,
            urgency: scene.urgency.clone(),
            advice: scene.advice(terms),
        };
        let parts = parts(&tasks, ranks, done);
        let most = captain.as_ref().map_or(ranks, |authority| authority.scaler.most_ranks().max(ranks));
        let crowded = most > CROWD;
        let pace = if crowded { Pace { steal: SILENCE, ..Pace::default() } } else { Pace::default() };
        let shapes: Vec<_> = scene.job.groups.iter().map(glue::shape).collect();
        let job = Arc::clone(&scene.job);
        let shape = move |task| shapes[job.group_of(task).0 as usize];
        let coordinator = Coordinator::new(tasks, done, members.clone(), scene.job.max_failures, Box::new(shape));
        let mut world = World {
            fates: Fates::new(&scene.job, &cluster.tasks, &cluster.faults, seed),
            facts: Arc::clone(&scene.job) as Arc<dyn Facts>,
            now: Time::ZERO.after(startups.into_iter().max().unwrap_or_default()),
            agenda: Agenda::new(),
            post: Post::new(cluster.network, seed),
            letters: Slab::new(),
            running: Slab::new(),
            seats: Vec::new(),
            captain: captain.map(|authority| fleet::captain(scene, cluster, authority, done)),
            search: crowded.then(|| Search::new(AGAIN, seed)),
            finished: None,
            stopping: false,
            events: 0,
            away: 0,
            busy: Duration::ZERO,
            present: 0,
            active: 0,
            supply: Vec::new(),
            surplus: 0,
            dozing: Vec::new(),
            queue: VecDeque::new(),
            actions: Vec::new(),
            scene,
            cluster,
            coordinator,
            partition,
            provider,
            pace,
            log,
        };
        members.into_iter().for_each(|member| world.seat(member));
        world.open(parts);
        Ok(world)
    }

    /// The homes that a run on so many ranks begins with. Choosing them may take longer than the run, and is the same for every seed.
    ///
    /// # Errors
    /// If a task fits on none of the ranks.
    pub fn homes(scene: &Scene, cluster: &Cluster, ranks: u32) -> Result<Vec<u32>, String> {
        let kind = crate::scale::NodeTypeId(0);
        let members: Vec<Member> = (0..ranks).map(|rank| fleet::member(cluster, kind, rank)).collect();
        fit::check_members(&scene.job, &members).map_err(|error| error.to_string())?;
        let terms = fit::Terms::new(Arc::clone(&scene.job), &members);
        Ok(scene.divide(&members, &terms, None).home)
    }

    /// All begins: each rank is sent its part.
    fn open(&mut self, parts: Vec<HandOut>) {
        self.active = parts.len() as u32;
        self.supply.push((Time::ZERO, f64::from(self.active)));
        for (rank, part) in (0..).zip(parts) {
            self.seats[rank as usize].state = RankState::Active;
            self.enters(rank);
            self.send(Rank::ZERO, Rank(rank), Message::HandOut(Box::new(part)));
        }
        let mut actions = Vec::new();
        self.coordinator.begin(&mut actions);
        self.carry_out(actions);
        if self.captain.is_some() {
            self.agenda.arrange(self.now, What::Decide);
        }
    }

    /// The ranks with which a run begins: number, node and slots.
    pub fn first_ranks(cluster: &Cluster, ranks: u32) -> impl Iterator<Item = (u32, String, u32)> + '_ {
        (0..ranks).map(|rank| {
            let member = fleet::member(cluster, crate::scale::NodeTypeId(0), rank);
            (rank, member.node, member.slots)
        })
    }

    /// How fast the first ranks of a run with this seed are, relative to a node of speed 1.
    pub fn speeds(cluster: &Cluster, ranks: u32, seed: u64) -> Vec<f64> {
        let mut provider = Provider::new(cluster, seed);
        let kind = crate::scale::NodeTypeId(0);
        (0..ranks).for_each(|_| {
            provider.grant(Time::ZERO, Time::ZERO, kind);
        });
        provider.nodes().iter().map(|node| 1.0 / node.slowness).collect()
    }

    /// Goes on until every rank has left.
    ///
    /// # Errors
    /// If nothing more is to happen although ranks are still there: a mistake in Phalanx, which this seed replays.
    pub fn run(mut self) -> Result<Ended, String> {
        while self.present > 0 {
            let Some((at, number, what)) = self.agenda.next() else {
                let (now, tally) = (self.now.seconds(), self.coordinator.tally());
                return Err(format!("the simulated run hangs at {now:.6} s: {tally:?}"));
            };
            self.now = at;
            match what {
                What::Arrives(letter) => self.deliver(letter),
                What::Ends(task) => self.end(task, number),
                What::Tick(rank) => self.call(rank),
                What::Asks { thief, victim } => self.ask(thief, victim),
                What::Decide => self.decide_again(),
                What::Answered(answer) => self.answered(answer),
                What::Starts(rank) => self.starts(rank),
                What::Lost(rank, loss) => self.lost(rank, loss),
                What::Noticed(rank) => self.noticed(rank),
                What::OutOfMoney => self.out_of_money(),
            }
        }
        self.provider.close(self.now);
        let why = self.finished.clone().ok_or("the ranks left before the coordinator finished")?;
        let (demand, forecasts) = self.captain.map(|captain| (captain.demand, captain.forecasts)).unwrap_or_default();
        Ok(Ended {
            time: self.now,
            why,
            tally: self.coordinator.tally(),
            events: self.events,
            busy: self.busy,
            nodes: self.provider.nodes().to_vec(),
            supply: self.supply,
            demand,
            forecasts,
            epochs: self.coordinator.epoch(),
            away: self.away,
            partition: self.partition,
        })
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
            self.coordinate(coordinator::Event::Message { from, message });
        } else if self.seats[to.index()].here {
            self.step(to.0, worker::Event::Message { from, message });
        }
    }

    fn coordinate(&mut self, event: coordinator::Event) {
        let mut actions = Vec::new();
        self.coordinator.step(self.now, event, &mut actions);
        self.carry_out(actions);
    }

    fn carry_out(&mut self, actions: Vec<coordinator::Action>) {
        for action in actions {
            match action {
                coordinator::Action::Send { to, message } => {
                    if matches!(message, Message::HandOut(_)) {
                        self.note_state(to);
                    }
                    self.send(Rank::ZERO, to, message);
                }
                coordinator::Action::Journal(attempts) => {
                    if let Some(captain) = &mut self.captain {
                        attempts.iter().for_each(|attempt| captain.hears(attempt));
                    }
                    self.log.record(Record::Attempts(attempts));
                }
                coordinator::Action::Tell(text) => self.note(Level::Warning, text),
                coordinator::Action::Finished(why) => self.finished = Some(why),
            }
        }
    }

    fn note(&mut self, level: Level, text: String) {
        self.log.record(Record::Note(Note { time: self.now, level, text }));
    }

    /// A rank wanted to be called at this time.
    fn call(&mut self, rank: u32) {
        let seat = &mut self.seats[rank as usize];
        if seat.tick != Some(self.now) || !seat.here {
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
                worker::Event::Message { message: Message::HandOut(part), .. } => Some(part.limits.clone()),
                _ => None,
            };
            let told = matches!(event, worker::Event::Quiet);
            let seat = &mut self.seats[rank as usize];
            seat.worker.step(self.now, event, &mut actions);
            if let Some(limits) = limits {
                seat.limits = limits;
                seat.ledger = seat.worker.ledger().cloned();
                seat.frozen = false;
            }
            for action in actions.drain(..) {
                self.act(rank, action, &mut queue);
            }
            if queue.is_empty() && self.seats[rank as usize].here {
                self.fill(rank, told, &mut queue);
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
                self.push(rank, lease, needs);
            }
            worker::Action::Surrender { to, max } => {
                let leases = self.seats[rank as usize].pool.surrender(max);
                queue.push_back(worker::Event::Surrendered { to, leases });
            }
            worker::Action::Freeze { keep } => {
                let seat = &mut self.seats[rank as usize];
                seat.frozen = true;
                let waiting = seat.pool.take_out(keep);
                queue.push_back(worker::Event::Frozen { waiting });
            }
            worker::Action::Hold { gang, slots, lead } => self.seats[rank as usize].pool.hold(gang, slots, lead),
            worker::Action::Launch { gang, .. } => {
                if let Some((lease, slot)) = self.seats[rank as usize].pool.lead(gang) {
                    self.begin(rank, lease, On::Gang { gang, slot }, queue);
                }
            }
            worker::Action::Release { gang } => self.seats[rank as usize].pool.release(gang),
            worker::Action::Stop(how) => {
                self.seats[rank as usize].pool.pause();
                if how != Stop::Drain {
                    self.interrupt(rank);
                }
            }
            // Nobody is there who could ask for it.
            worker::Action::Cancel(_) => {}
            worker::Action::Exit => self.leave(rank),
        }
    }

    /// A task at home became ready.
    fn start(&mut self, rank: u32, local: u32) {
        let Some(ledger) = &self.seats[rank as usize].ledger else { return };
        let task = ledger.task(local);
        let (urgency, ready) = (ledger.urgency(local), ledger.ready_at(local));
        let needs = if ledger.is_special(local) { self.needs(rank, task) } else { None };
        self.push(rank, Lease { task, home: Rank(rank), attempt: 1, urgency, ready }, needs);
    }

    fn push(&mut self, rank: u32, lease: Lease, needs: Option<Needs>) {
        if let Some(captain) = &mut self.captain {
            captain.is_ready(lease.task);
        }
        self.seats[rank as usize].pool.push(lease, needs);
    }

    fn needs(&self, rank: u32, task: TaskId) -> Option<Needs> {
        let group = self.scene.group(task) as usize;
        glue::needs(group, &self.scene.job.groups[group], &self.seats[rank as usize].limits)
    }

    fn begin(&mut self, rank: u32, lease: Lease, on: On, queue: &mut VecDeque<worker::Event>) {
        let slowness = self.provider.node(rank).slowness;
        let fate = self.fates.of(self.scene, lease.task, lease.attempt, slowness);
        let running = Running { ends: 0, rank, lease, outcome: fate.outcome, start: self.now, on };
        let number = self.running.put(running);
        let ends = self.agenda.arrange(self.now.after(fate.took), What::Ends(number));
        if let Some(running) = self.running.get_mut(number) {
            running.ends = ends;
        }
        if let Some(captain) = &mut self.captain {
            captain.begins(self.now, lease.task, self.now.since(lease.ready));
        }
        if self.cluster.faults.loses() {
            let started = Started { task: lease.task, attempt: lease.attempt, start: self.now };
            queue.push_back(worker::Event::Started(vec![started]));
        }
    }

    /// Starts what can start, then tells the worker the load; or, unless it was `told` so just now, that all is quiet.
    fn fill(&mut self, rank: u32, told: bool, queue: &mut VecDeque<worker::Event>) {
        while let Some(begin) = self.seats[rank as usize].pool.begin() {
            match begin {
                Begin::Task(lease, grant) => self.begin(rank, lease, On::Slots(grant), queue),
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
        } else if !told && seat.worker.is_stopping() && seat.pool.is_quiet() {
            queue.push_back(worker::Event::Quiet);
        }
        self.count_surplus(rank, load);
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
        let busy = self.now.since(start) * glue::slots(self.scene.job.group(lease.task));
        self.busy += busy;
        self.away += u64::from(lease.home != Rank(rank));
        let seat = &mut self.seats[rank as usize];
        seat.busy += busy;
        seat.failures += u32::from(outcome.state.is_failure());
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
        if let Some(captain) = &mut self.captain {
            captain.stops(lease.task);
        }
        match on {
            On::Slots(grant) => seat.pool.finish(grant),
            On::Gang { gang, .. } => {
                seat.pool.release(gang);
                self.send(Rank(rank), Rank::ZERO, Message::GangEnded { gang });
            }
        }
        match self.counted_by_slots(rank, &lease, outcome) {
            Some((ledger, local)) => self.complete(rank, &ledger, local, attempt),
            None => self.step(rank, worker::Event::Ended { attempt }),
        }
    }

    /// The ledger, and the number in it, of a first attempt at a task at home that completed: slots count those by themselves.
    fn counted_by_slots(&self, rank: u32, lease: &Lease, outcome: Outcome) -> Option<(Arc<Ledger>, u32)> {
        let seat = &self.seats[rank as usize];
        let fast = outcome.ok() && lease.attempt == 1 && lease.home == Rank(rank) && !seat.frozen;
        let ledger = seat.ledger.clone().filter(|_| fast)?;
        let local = ledger.local(lease.task)?;
        Some((ledger, local))
    }

    /// What a slot does by itself after a task.
    fn complete(&mut self, rank: u32, ledger: &Ledger, local: u32, attempt: Attempt) {
        let mut ripple = Ripple::default();
        if !ledger.complete(local, true, self.now, &mut ripple) {
            return self.step(rank, worker::Event::Ended { attempt });
        }
        let is_special = |&local: &u32| ledger.is_special(local);
        let (special, plain): (Vec<u32>, Vec<u32>) = ripple.ready.drain(..).partition(is_special);
        plain.into_iter().for_each(|local| self.start(rank, local));
        if !special.is_empty() {
            self.queue.push_back(worker::Event::Special(special));
        }
        self.step(rank, worker::Event::Completed { attempts: vec![attempt], ripple });
    }

    /// What runs on a rank ends now, without being decided.
    fn interrupt(&mut self, rank: u32) {
        for number in self.running_on(rank) {
            let ends = self.agenda.arrange(self.now, What::Ends(number));
            if let Some(running) = self.running.get_mut(number) {
                running.outcome = Outcome { state: State::Cancelled, exit: -libc::SIGTERM };
                running.ends = ends;
            }
        }
    }

    fn running_on(&self, rank: u32) -> Vec<u32> {
        self.running.iter().filter(|(_, running)| running.rank == rank).map(|(number, _)| number).collect()
    }

    fn count_surplus(&mut self, rank: u32, load: Load) {
        let gives = load.ready > load.idle;
        let gave = std::mem::replace(&mut self.seats[rank as usize].gives, gives);
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
        let seat = &self.seats[rank as usize];
        let wanted = surplus.div_ceil(seat.member.slots.max(1));
        let found: Vec<Match> = (seat.expected..wanted).map_while(|_| search.gives(rank)).collect();
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
        if !seat.here {
            return;
        }
        self.events += 1;
        let (starves, want, epoch) = (seat.worker.next_ask().is_some(), seat.worker.load().idle, seat.worker.epoch());
        if starves && self.seats[victim as usize].gives {
            self.send(Rank(thief), Rank(victim), Message::Steal { epoch, want });
            self.arrange_call(thief, self.now.after(AGAIN));
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
            let Some(at) = seat.dozes.take() else { continue };
            let slept = self.now.since(at).as_nanos() as u64;
            self.arrange_call(rank, Time(at.0 + slept.div_ceil(rhythm) * rhythm));
        }
    }

    /// Arranges the next call of a rank.
    fn arrange_tick(&mut self, rank: u32) {
        let seat = &mut self.seats[rank as usize];
        if !seat.here {
            return;
        }
        let (duty, ask) = (seat.worker.next_duty(), seat.worker.next_ask());
        let ask = match self.search.is_some() {
            true => {
                self.look_for_work(rank, ask.is_some());
                None
            }
            false => ask.filter(|&at| !self.dozes(rank, at)),
        };
        if let Some(due) = [duty, ask].into_iter().flatten().min() {
            self.arrange_call(rank, due);
        }
    }

    /// Among many ranks: a rank that starves looks for one that has something to give.
    fn look_for_work(&mut self, rank: u32, starves: bool) {
        let Some(search) = &mut self.search else { return };
        let found = match starves && !self.seats[rank as usize].looks {
            true => search.idles(rank),
            false => {
                search.idles_not(rank);
                None
            }
        };
        found.into_iter().for_each(|found| self.expect(found));
    }

    /// True if a rank that would ask at a time dozes instead.
    fn dozes(&mut self, rank: u32, at: Time) -> bool {
        let seat = &mut self.seats[rank as usize];
        let patient = seat.dozes == Some(at) || at.since(self.now) >= self.pace.longest_pause();
        seat.dozes = (self.surplus == 0 && patient).then_some(at);
        if seat.dozes.is_some() && !std::mem::replace(&mut seat.listed, true) {
            self.dozing.push(rank);
        }
        seat.dozes.is_some()
    }

    /// Sees to it that a rank is called at a time, or before.
    fn arrange_call(&mut self, rank: u32, due: Time) {
        let (due, seat) = (due.max(self.now), &mut self.seats[rank as usize]);
        if seat.here && seat.tick.is_none_or(|tick| due < tick) {
            seat.tick = Some(due);
            self.agenda.arrange(due, What::Tick(rank));
        }
    }
}

/// What each rank is handed at the beginning.
fn parts(tasks: &Tasks, ranks: u32, done: &dyn Fn(TaskId) -> bool) -> Vec<HandOut> {
    let count = tasks.graph.task_count() as u32;
    let ended = |node: u32| (node < count && done(TaskId(node))).then_some(true);
    let cutter = Cutter::new(&tasks.graph, &tasks.home, &tasks.urgency, ranks as usize, &ended);
    let part = |rank: u32| HandOut {
        part: cutter.part(rank as usize),
        limits: tasks.advice.shares(Rank(rank)),
        active: Ranks::first(ranks),
        ..HandOut::default()
    };
    (0..ranks).map(part).collect()
}
