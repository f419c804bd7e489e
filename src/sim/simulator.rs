//! The virtual world: drives the coordinator and the workers of a real run in virtual time.
//!
//! It decides nothing that a run decides. It does what MPI, threads and processes do for a real
//! one: it carries messages, keeps ready tasks in pools, lets tasks last as long as their fate
//! says, and hands each event to the state machine that it concerns. The wiring follows
//! `runtime/rank/engine.rs` and `runtime/rank/executor.rs` step by step.
//!
//! | file | one idea |
//! |---|---|
//! | `setup` | what a run is given and what it gives back |
//! | `exchange` | messages, and the machines that they go to |
//! | `tasks` | the life of a task on a rank |
//! | `idle` | ranks without work |
//! | `fleet` | ranks that come and go |
//!
//! Time jumps from event to event. Nothing looks over all ranks: a rank costs something only when
//! something happens to it. An idle rank that has asked in vain as patiently as it ever will
//! *dozes* while no rank has anything to give: its questions and their empty answers are left out,
//! and it goes on in its own rhythm when there is something. Among many ranks still more questions
//! are left out; see `search`.
//!
//! Everything follows from the job, the cluster and the seed. The state of a run is never looked at
//! in the order of a hash table.

mod exchange;
mod fleet;
mod idle;
mod setup;
mod tasks;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use slab::Slab;

use self::idle::{AGAIN, SILENCE};
use super::cluster::Cluster;
use super::event_queue::EventQueue;
use super::fates::Fates;
use super::network::NetworkModel;
use super::pool::{SimulatedPool, SlotGrant};
use super::provider::{Loss, NodeGranted, SimulatedProvider};
use super::steal_matching::{CROWD, Search};
use crate::graph::partition::Partition;
use crate::model::{Outcome, Rank, RankState, Time};
use crate::scale::controller::ScalingController;
use crate::scale::elasticity::LevelStep;
use crate::schedule::coordinator::{self, Coordinator, Member, StopReason, Tasks};
use crate::schedule::dependency_counts::DependencyCounts;
use crate::schedule::protocol::{HandOut, Lease, Message};
use crate::schedule::worker::{self, Facts, Pace, Worker};
use crate::workload::{PreparedJob, placement, requirements};

pub use setup::{Forget, Homes, Log, ScalingSetup, Setup, SimulatedEnd};

/// Something that is to happen.
#[derive(Clone, Copy, Debug)]
enum What {
    /// A message arrives.
    Arrives(u32),
    /// A task ends.
    Ends(u32),
    /// A rank finds a task that has been running for a while.
    Found(u32),
    /// A rank wants to be called.
    Tick(u32),
    /// A rank without work asks one that had something to give.
    Asks {
        /// Who asks.
        thief: u32,
        /// Whom.
        victim: u32,
    },
    /// Ranks that have arrived are handed tasks.
    Admit,
    /// It is decided about ranks.
    Decide,
    /// It is decided about ranks because nodes have come or gone.
    DecideOnNews,
    /// A request is answered.
    Answered(NodeGranted),
    /// The rank of a granted node has started.
    Starts(u32),
    /// A node goes down, or a rank dies.
    Lost(u32, Loss),
    /// Somebody notices that.
    Noticed(u32),
    /// What still runs must end, or the budget would be exceeded.
    OutOfMoney,
}

/// A task that runs.
#[derive(Debug)]
struct RunningAttempt {
    /// The number of its entry in the agenda; another entry for it is stale.
    ends: u64,
    rank: u32,
    lease: Lease,
    outcome: Outcome,
    start: Time,
    on: On,
}

/// A message under way.
#[derive(Debug)]
struct Letter {
    from: Rank,
    to: Rank,
    message: Message,
}

/// What a task runs on.
#[derive(Debug)]
enum On {
    /// Slots of its rank.
    Slots(SlotGrant),
    /// Those that a gang has set aside; the number is the first slot of its leader.
    Gang { gang: u32, slot: u16 },
}

/// One rank.
struct Seat {
    worker: Worker,
    pool: SimulatedPool,
    member: Member,
    ledger: Option<Arc<DependencyCounts>>,
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

/// See the module's text.
pub struct Simulator<'a> {
    scene: &'a PreparedJob,
    cluster: &'a Cluster,
    facts: Arc<dyn Facts>,
    fates: Fates,
    now: Time,
    events_due: EventQueue<What>,
    network: NetworkModel,
    letters: Slab<Letter>,
    running: Slab<RunningAttempt>,
    seats: Vec<Seat>,
    coordinator: Coordinator,
    partition: Partition,
    provider: SimulatedProvider<'a>,
    captain: Option<ScalingController>,
    /// When it was last decided.
    decided: Time,
    /// True while a decision on news is arranged.
    news: bool,
    pace: Pace,
    /// Ranks that have something to give.
    surplus: u32,
    dozing: Vec<u32>,
    /// Among many ranks: who idles, and who has something to give.
    search: Option<Search>,
    finished: Option<StopReason>,
    stopping: bool,
    events: u64,
    away: u64,
    busy: Duration,
    /// Ranks that are here.
    present: u32,
    active: u32,
    supply: Vec<LevelStep>,
    /// Buffers of `step`, kept.
    queue: VecDeque<worker::WorkerEvent>,
    actions: Vec<worker::Action>,
    log: &'a mut dyn Log,
}

impl<'a> Simulator<'a> {
    /// A world at the moment at which all ranks of the beginning have started.
    ///
    /// # Errors
    /// If a task fits on none of the ranks.
    pub fn new(scene: &'a PreparedJob, setup: Setup<'a>, log: &'a mut dyn Log) -> Result<Simulator<'a>, String> {
        let Setup { cluster, ranks, seed, homes, captain, done, recorded } = setup;
        let mut provider = SimulatedProvider::new(cluster, seed);
        let kinds = cluster.first_kinds(ranks);
        let startups: Vec<Duration> = kinds.map(|kind| provider.grant(Time::ZERO, Time::ZERO, kind).1).collect();
        let members = fleet::first_members(cluster, ranks);
        placement::check(&scene.job, &members)?;
        let rules = scene.placement_rules(&members);
        let mut partition = match homes {
            Some(Homes::Dealt(dealt)) => scene.with_homes(setup::dealt_homes(scene, dealt), &members),
            Some(Homes::Known(homes)) => scene.with_homes(homes.to_vec(), &members),
            Some(Homes::Method(method)) => scene.divide(&members, &rules, Some(method)),
            None => scene.divide(&members, &rules, None),
        };
        let home = std::mem::take(&mut partition.home);
        let tasks =
            Tasks { graph: Arc::clone(&scene.graph), home, urgency: scene.urgency.clone(), advice: Box::new(rules) };
        let parts = setup::parts(&tasks, ranks, done);
        let most = captain.as_ref().map_or(ranks, |authority| authority.scaler.most_ranks().max(ranks));
        let crowded = most > CROWD;
        let pace = if crowded { Pace { steal: SILENCE, ..Pace::default() } } else { Pace::default() };
        let shapes: Vec<_> = scene.job.groups.iter().map(requirements::shape).collect();
        let job = Arc::clone(&scene.job);
        let shape = move |task| shapes[job.group_of(task).0 as usize];
        let coordinator = Coordinator::new(tasks, done, members.clone(), scene.job.max_failures, Box::new(shape));
        let mut world = Simulator {
            fates: Fates::new(&scene.job, &cluster.tasks, &cluster.faults, seed).with_recorded(recorded),
            facts: Arc::clone(&scene.job) as Arc<dyn Facts>,
            now: Time::ZERO.after(startups.into_iter().max().unwrap_or_default()),
            events_due: EventQueue::new(),
            network: NetworkModel::new(cluster.network, seed),
            letters: Slab::new(),
            running: Slab::new(),
            seats: Vec::new(),
            captain: captain.map(|authority| fleet::captain(scene, cluster, authority, done)),
            decided: Time::ZERO,
            news: false,
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

    /// The homes that a run on so many ranks begins with. Choosing them may take longer than the
    /// run, and is the same for every seed.
    ///
    /// # Errors
    /// If a task fits on none of the ranks.
    pub fn homes(scene: &PreparedJob, cluster: &Cluster, ranks: u32) -> Result<Vec<u32>, String> {
        let members = fleet::first_members(cluster, ranks);
        placement::check(&scene.job, &members)?;
        let rules = scene.placement_rules(&members);
        Ok(scene.divide(&members, &rules, None).home)
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
            self.events_due.schedule(self.now, What::Decide);
        }
    }

    /// The ranks with which a run begins: number, node and slots.
    pub fn first_ranks(cluster: &Cluster, ranks: u32) -> impl Iterator<Item = (u32, String, u32)> {
        (0..).zip(fleet::first_members(cluster, ranks)).map(|(rank, member)| (rank, member.node, member.slots))
    }

    /// How fast the first ranks of a run with this seed are, relative to a node of speed 1.
    pub fn speeds(cluster: &Cluster, ranks: u32, seed: u64) -> Vec<f64> {
        let mut provider = SimulatedProvider::new(cluster, seed);
        cluster.first_kinds(ranks).for_each(|kind| {
            provider.grant(Time::ZERO, Time::ZERO, kind);
        });
        provider.nodes().iter().map(|node| 1.0 / node.slowness).collect()
    }

    /// Goes on until every rank has left.
    ///
    /// # Errors
    /// If nothing more is to happen although ranks are still there: a mistake in Phalanx, which
    /// this seed replays.
    pub fn run(mut self) -> Result<SimulatedEnd, String> {
        while self.present > 0 {
            let Some((at, number, what)) = self.events_due.next() else {
                let (now, tally) = (self.now.seconds(), self.coordinator.tally());
                return Err(format!("the simulated run hangs at {now:.6} s: {tally:?}"));
            };
            self.now = at;
            match what {
                What::Arrives(letter) => self.deliver(letter),
                What::Ends(task) => self.end(task, number),
                What::Found(task) => self.found(task),
                What::Tick(rank) => self.call(rank),
                What::Asks { thief, victim } => self.ask(thief, victim),
                What::Admit => self.coordinate(coordinator::CoordinatorEvent::Tick),
                What::Decide => self.decide_again(),
                What::DecideOnNews if self.news => self.decide(),
                What::DecideOnNews => {}
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
        Ok(SimulatedEnd {
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
}
