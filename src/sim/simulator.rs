//! The simulator: drives the coordinator and the workers of a real run in virtual time.
//!
//! It makes no decisions of a run. It replaces MPI, threads and processes: it delivers messages,
//! keeps ready tasks in pools, ends each task after its drawn duration, and passes each event to
//! the state machine concerned. The wiring follows `runtime/rank/engine.rs` and
//! `runtime/rank/executor.rs` step by step.
//!
//! | file | one idea |
//! |---|---|
//! | `setup` | what a run is given and what it returns |
//! | `exchange` | messages, and the machines that they go to |
//! | `tasks` | the life of a task on a rank |
//! | `staged` | the same where its files travel before and after it |
//! | `idle` | ranks without work |
//! | `fleet` | ranks that come and go |
//!
//! Time advances from event to event. Nothing iterates over all ranks: a rank costs time only when
//! an event concerns it. An idle rank whose pause between steal requests has reached its maximum
//! *dozes* while no rank has surplus tasks: its requests and their empty answers are left out, and
//! it resumes its own rhythm when a rank has some. With many ranks further requests are left out;
//! see `steal_matching`.
//!
//! Everything follows from the job, the cluster and the seed. The state of a run is never read in
//! the order of a hash table.

mod exchange;
mod fleet;
mod idle;
mod setup;
mod staged;
mod tasks;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use slab::Slab;

use self::idle::{NO_STEAL_PAUSE, SEARCH_RETRY};
use super::cluster::Cluster;
use super::event_queue::EventQueue;
use super::fates::Fates;
use super::network::NetworkModel;
use super::pool::{SimulatedPool, SlotGrant};
use super::provider::{Loss, NodeGranted, SimulatedProvider};
use super::staging::{StagedId, Staging};
use super::steal_matching::{MAX_EXACT_RANKS, Search};
use crate::graph::partition::Partition;
use crate::model::{Outcome, Rank, RankState, TaskId, Time};
use crate::scale::controller::ScalingController;
use crate::scale::elasticity::LevelStep;
use crate::schedule::coordinator::{self, Coordinator, Member, StopReason, Tasks};
use crate::schedule::dependency_counts::DependencyCounts;
use crate::schedule::protocol::{HandOut, Lease, Message};
use crate::schedule::worker::{self, Pace, Worker};
use crate::workload::placement::FurtherNodes;
use crate::workload::{PreparedJob, placement, requirements};

pub use setup::{Forget, Log, MemoryUse, ScalingSetup, Setup, SimulatedEnd};

/// A future event.
#[derive(Clone, Copy, Debug)]
enum SimulatedEvent {
    /// A message arrives.
    Arrives(u32),
    /// A task ends.
    Ends(u32),
    /// Files of staged tasks arrive.
    Moved(u32),
    /// A rank's sample finds a task that has been running for a while.
    Found(u32),
    /// A rank's requested wake-up is due.
    Tick(u32),
    /// A rank without work asks one that had surplus tasks.
    Asks {
        /// The rank that asks.
        thief: u32,
        /// The rank that is asked.
        victim: u32,
    },
    /// Ranks that have arrived get tasks.
    Admit,
    /// A scaling decision is due.
    Decide,
    /// A scaling decision is due because nodes have joined or left.
    DecideOnNews,
    /// A request is answered.
    Answered(NodeGranted),
    /// The rank of a granted node has started.
    Starts(u32),
    /// A node goes down, or a rank dies.
    Lost(u32, Loss),
    /// The loss is noticed.
    Noticed(u32),
    /// Running tasks must end now, or the budget would be exceeded.
    OutOfMoney,
}

/// A running task.
#[derive(Debug)]
struct RunningAttempt {
    /// Number of its entry in the event queue; any other entry for it is stale.
    ends: u64,
    rank: u32,
    lease: Lease,
    outcome: Outcome,
    start: Time,
    on: On,
    /// Set if its files travel.
    staged: Option<StagedId>,
}

/// A message under way.
#[derive(Debug)]
struct InFlightMessage {
    from: Rank,
    to: Rank,
    message: Message,
}

/// The slots that a task runs on.
#[derive(Debug)]
enum On {
    /// Slots of its rank.
    Slots(SlotGrant),
    /// Slots set aside for a gang; the number is the first slot of its leader.
    Gang { gang: u32, slot: u16 },
}

/// One rank.
struct SimulatedRank {
    worker: Worker,
    pool: SimulatedPool,
    member: Member,
    ledger: Option<Arc<DependencyCounts>>,
    /// True while its slots count no completions.
    frozen: bool,
    /// Its next wake-up.
    tick: Option<Time>,
    /// While it dozes: when it would have asked next.
    dozes: Option<Time>,
    /// True while `dozing` contains it.
    is_listed: bool,
    /// True from its start until it leaves or dies.
    is_present: bool,
    /// Its state as last recorded.
    state: RankState,
    /// True while it has surplus tasks.
    has_surplus: bool,
    /// True while it searches for work that `search` has found for it.
    is_matched: bool,
    /// Number of ranks that are going to ask it.
    expected: u32,
    /// Slot-time of the tasks that ran here.
    busy: Duration,
    failures: u32,
}

/// The state of one simulated run: coordinator, workers, pools, provider and event queue.
pub struct Simulator<'a> {
    prepared: &'a PreparedJob,
    cluster: &'a Cluster,
    fates: Fates,
    /// `None` if no task is staged.
    staging: Option<Staging>,
    now: Time,
    events_due: EventQueue<SimulatedEvent>,
    network: NetworkModel,
    in_flight: Slab<InFlightMessage>,
    running: Slab<RunningAttempt>,
    ranks: Vec<SimulatedRank>,
    coordinator: Coordinator,
    partition: Partition,
    provider: SimulatedProvider<'a>,
    controller: Option<ScalingController>,
    /// Time of the last scaling decision.
    decided: Time,
    /// True while a decision because ranks have joined or left is scheduled.
    decision_due: bool,
    pace: Pace,
    /// Number of ranks with surplus tasks.
    surplus: u32,
    dozing: Vec<u32>,
    /// With many ranks: which of them are idle, and which have surplus tasks.
    search: Option<Search>,
    finished: Option<StopReason>,
    stopping: bool,
    events: u64,
    away: u64,
    memory: MemoryUse,
    busy: Duration,
    /// Number of ranks present.
    present: u32,
    active: u32,
    supply: Vec<LevelStep>,
    /// Buffers of `step`, kept for reuse.
    queue: VecDeque<worker::WorkerEvent>,
    actions: Vec<worker::WorkerAction>,
    log: &'a mut dyn Log,
}

impl<'a> Simulator<'a> {
    /// A simulator in which all initial ranks have started.
    ///
    /// # Errors
    ///
    /// If a task fits on none of the ranks.
    pub fn new(prepared: &'a PreparedJob, setup: Setup<'a>, log: &'a mut dyn Log) -> Result<Simulator<'a>, String> {
        let Setup { cluster, ranks, seed, homes, controller, done, recorded } = setup;
        let mut provider = SimulatedProvider::new(cluster, seed);
        let kinds = cluster.first_kinds(ranks);
        let startups: Vec<Duration> = kinds.map(|kind| provider.grant(Time::ZERO, Time::ZERO, kind).1).collect();
        let members = fleet::first_members(cluster, ranks);
        let offers = controller.as_ref().map(|_| fleet::offers(cluster)).unwrap_or_default();
        let most = controller.as_ref().map_or(ranks, |scaling_setup| scaling_setup.scaler.most_ranks().max(ranks));
        prepared.check(&members, &FurtherNodes { offers, most_ranks: most })?;
        let is_out = |task: &TaskId| prepared.is_left_out(*task) && !done(*task);
        let left_out = (0..prepared.tasks()).map(TaskId).filter(is_out).count() as u32;
        let done: &dyn Fn(TaskId) -> bool = &|task| done(task) || prepared.is_left_out(task);
        let rules = prepared.placement_rules(&members);
        let mut partition = match homes {
            Some(homes) => prepared.with_homes(homes.to_vec(), &members),
            None => prepared.divide(&members, &rules),
        };
        let home = std::mem::take(&mut partition.home);
        let unplaced = placement::unplaced(&prepared.job, &members, &rules, &home, &|task| !done(TaskId(task)));
        let tasks = Tasks {
            graph: Arc::clone(&prepared.graph),
            home,
            urgency: prepared.urgency.clone(),
            advice: Box::new(rules),
            pools: Arc::clone(&prepared.pools),
            fair: prepared.family_slots(),
        };
        let crowded = most > MAX_EXACT_RANKS;
        let pace = if crowded { Pace { steal: NO_STEAL_PAUSE, ..Pace::default() } } else { Pace::default() };
        let shapes: Vec<_> = prepared.job.groups.iter().map(requirements::shape).collect();
        let job = Arc::clone(&prepared.job);
        let shape = move |task| shapes[job.group_of(task).0 as usize].clone();
        let mut coordinator =
            Coordinator::new(tasks, done, members.clone(), prepared.job.max_failures, Box::new(shape))
                .with_left_out(left_out);
        let parts = setup::parts(&mut coordinator, ranks, done, &unplaced);
        // What is repeated has taken as long as its files did.
        let staged = recorded.is_none().then(|| prepared.staged_files(&staged::bytes_on_disk)).flatten();
        let staging = staged.map(|files| Staging::new(files, cluster.network, ranks > 1 || controller.is_some()));
        let mut world = Simulator {
            fates: Fates::new(&prepared.job, &cluster.tasks, &cluster.faults, seed).with_recorded(recorded),
            staging,
            now: Time::ZERO.after(startups.into_iter().max().unwrap_or_default()),
            events_due: EventQueue::new(),
            network: NetworkModel::new(cluster.network, seed),
            in_flight: Slab::new(),
            running: Slab::new(),
            ranks: Vec::new(),
            controller: controller.map(|scaling_setup| fleet::controller(prepared, cluster, scaling_setup, done)),
            decided: Time::ZERO,
            decision_due: false,
            search: crowded.then(|| Search::new(SEARCH_RETRY, seed)),
            finished: None,
            stopping: false,
            events: 0,
            away: 0,
            memory: MemoryUse::default(),
            busy: Duration::ZERO,
            present: 0,
            active: 0,
            supply: Vec::new(),
            surplus: 0,
            dozing: Vec::new(),
            queue: VecDeque::new(),
            actions: Vec::new(),
            prepared,
            cluster,
            coordinator,
            partition,
            provider,
            pace,
            log,
        };
        members.into_iter().for_each(|member| world.add_rank(member));
        world.open(parts);
        Ok(world)
    }

    /// Checks that every task fits on the first `ranks` ranks of a cluster.
    ///
    /// # Errors
    /// Which one does not.
    pub fn fits(prepared: &PreparedJob, cluster: &Cluster, ranks: u32) -> Result<(), String> {
        prepared.check(&fleet::first_members(cluster, ranks), &FurtherNodes::default())
    }

    /// The initial homes of a run on `ranks` ranks. Choosing them may take longer than the run, and
    /// gives the same result for every seed.
    ///
    /// # Errors
    ///
    /// If a task fits on none of the ranks, nor on others of the cluster.
    pub fn homes(prepared: &PreparedJob, cluster: &Cluster, ranks: u32) -> Result<Vec<u32>, String> {
        let members = fleet::first_members(cluster, ranks);
        let further = FurtherNodes { offers: fleet::offers(cluster), most_ranks: fleet::room(cluster) };
        prepared.check(&members, &further)?;
        let rules = prepared.placement_rules(&members);
        Ok(prepared.divide(&members, &rules).home)
    }

    /// Starts the run: sends each rank its part.
    fn open(&mut self, parts: Vec<HandOut>) {
        let has_unplaced = parts.iter().any(|part| !part.out.is_empty());
        self.active = parts.len() as u32;
        self.supply.push((Time::ZERO, f64::from(self.active)));
        for (rank, part) in (0..).zip(parts) {
            self.ranks[rank as usize].state = RankState::Active;
            self.mark_present(rank);
            self.send(Rank::ZERO, Rank(rank), Message::HandOut(Box::new(part)));
        }
        let mut actions = Vec::new();
        self.coordinator.begin(&mut actions);
        self.carry_out(actions);
        self.provide_for_waiting_tasks();
        if has_unplaced {
            self.coordinate(coordinator::CoordinatorEvent::Rebalance);
        }
        if self.controller.is_some() {
            self.events_due.schedule(self.now, SimulatedEvent::Decide);
        }
    }

    /// The resources of the ranks at the start of a run.
    pub fn first_members(cluster: &Cluster, ranks: u32) -> Vec<Member> {
        fleet::first_members(cluster, ranks)
    }

    /// The ranks at the start of a run: number, node and slots.
    pub fn first_ranks(cluster: &Cluster, ranks: u32) -> impl Iterator<Item = (u32, String, u32)> {
        (0..).zip(fleet::first_members(cluster, ranks)).map(|(rank, member)| (rank, member.node, member.slots))
    }

    /// Runs until every rank has left.
    ///
    /// # Errors
    ///
    /// If no event is left although ranks are still present: a bug in Phalanx, which this seed
    /// reproduces.
    pub fn run(mut self) -> Result<SimulatedEnd, String> {
        while self.present > 0 {
            let Some((at, number, what)) = self.events_due.next() else {
                let (now, tally) = (self.now.seconds(), self.coordinator.tally());
                return Err(format!("the simulated run hangs at {now:.6} s: {tally:?}"));
            };
            self.now = at;
            match what {
                SimulatedEvent::Arrives(number) => self.deliver(number),
                SimulatedEvent::Ends(task) => self.end(task, number),
                SimulatedEvent::Moved(number) => self.moved(number),
                SimulatedEvent::Found(task) => self.found(task),
                SimulatedEvent::Tick(rank) => self.tick(rank),
                SimulatedEvent::Asks { thief, victim } => self.ask(thief, victim),
                SimulatedEvent::Admit => self.coordinate(coordinator::CoordinatorEvent::Tick),
                SimulatedEvent::Decide => self.decide_again(),
                SimulatedEvent::DecideOnNews if self.decision_due => self.decide(),
                SimulatedEvent::DecideOnNews => {}
                SimulatedEvent::Answered(answer) => self.answered(answer),
                SimulatedEvent::Starts(rank) => self.starts(rank),
                SimulatedEvent::Lost(rank, loss) => self.lost(rank, loss),
                SimulatedEvent::Noticed(rank) => self.loss_noticed(rank),
                SimulatedEvent::OutOfMoney => self.out_of_money(),
            }
        }
        self.provider.close(self.now);
        let why = self.finished.clone().ok_or("the ranks left before the coordinator finished")?;
        let (demand, forecasts) =
            self.controller.map(|controller| (controller.demand, controller.forecasts)).unwrap_or_default();
        Ok(SimulatedEnd {
            time: self.now,
            why,
            tally: self.coordinator.tally(),
            events: self.events,
            busy: self.busy,
            memory: self.memory,
            staging: self.staging.map(|staging| staging.total()),
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
