//! The worker: a rank's side of the protocol, a state machine without I/O. Events and the time go
//! in, actions come out.
//!
//! The worker handles everything that concerns other ranks: where ends are sent, who gets work,
//! what is reported. The ledger holds the dependency counts, and the pool (or the simulator's
//! queue) holds the ready tasks. Pool threads count and start successors at home by themselves, and
//! pass on to the worker only what other ranks need.
//!
//! Invariants:
//! - The home alone decides what becomes of a task after an attempt; a rank that ran it on lease
//!   only reports to the home (and, if it completed, to the coordinator).
//! - Nothing is started after a `Stop`; an attempt that the stop itself ended does not end its
//!   task.
//! - A message from another home is void if its epoch has passed; if its epoch is still to come,
//!   it waits for this rank's own hand-out.
//!
//! | file beside this one | one idea |
//! |---|---|
//! | `input` | what a worker is given |
//! | `effects` | what follows when tasks end |
//! | `leases` | tasks that run on another rank than their home |
//! | `retry` | what becomes of a task after an attempt |
//! | `suspension` | when the rank starts nothing for a while |
//! | `report` | what is reported to the coordinator, and when |
//! | `orphaned` | what is left to do once the coordinator is lost |
//! | `change` | the rank's part in a change of membership |

mod change;
mod effects;
mod input;
mod leases;
mod orphaned;
mod report;
mod retry;
mod suspension;

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::Arc;
use std::time::Duration;

use rustc_hash::{FxHashMap, FxHashSet};

use self::change::Lost;
pub use self::effects::each_destination;
pub use self::input::{Facts, Pace, WorkerEvent};
use self::leases::Guest;
use self::report::PoolReporting;
use self::retry::PlannedRetry;
use self::suspension::FailureStreak;
pub use super::action::WorkerAction;
use super::dependency_counts::{CompletionEffects, DependencyCounts};
use super::protocol::{Lease, Load, Message, Started, Stop, Tried, add_range};
use super::ranks::Ranks;
use super::stealing::WorkStealer;
use crate::model::{Attempt, Rank, RankRoom, TaskId, Time};

/// This rank's part in a gang.
#[derive(Default)]
struct GangRole {
    /// The task that this rank leads and has not started.
    lead: Option<Lease>,
    /// Its share of an operation runs.
    shares: bool,
    /// The gang has been released: only the share keeps its slots.
    is_released: bool,
}

/// The state machine of one rank.
pub struct Worker {
    me: Rank,
    facts: Arc<dyn Facts>,
    pace: Pace,
    room: RankRoom,
    /// Number of active ranks.
    active: u32,
    ledger: Option<Arc<DependencyCounts>>,
    /// Epoch of the membership that this rank belongs to, or has prepared for.
    epoch: u32,
    /// Phase of a change of membership; every rank starts by waiting for its tasks.
    phase: change::ChangePhase,
    /// Messages whose epoch is ahead of this rank's.
    early: Vec<(Rank, Message)>,
    /// True if this rank leaves when it is empty, and true once it has reported that it is.
    leaving: bool,
    emptied: bool,
    /// Ranks that have been lost.
    lost: Ranks,
    /// Cancelled tasks, as ranges (from, to).
    cancelled: Vec<(u32, u32)>,
    /// Tasks at home here that other ranks completed since the last change and report themselves.
    completed_elsewhere: Vec<(TaskId, Rank)>,
    /// When it acknowledged the present change, and how long the change before took from then on.
    acknowledged: Time,
    last_change: Duration,
    /// Tasks of other homes on this rank.
    guests: FxHashMap<TaskId, Guest>,
    /// Tasks at home here that are with others: on lease, or with the coordinator as gangs.
    lent: FxHashSet<TaskId>,
    /// Tasks at home here with unsuccessful attempts.
    tried: FxHashMap<TaskId, Tried>,
    /// Gangs that hold slots here.
    gangs: FxHashMap<u32, GangRole>,
    report: Vec<Attempt>,
    started: Vec<Started>,
    report_due: Option<Time>,
    /// Since when nothing runs here and nothing is ready.
    idle_since: Option<Time>,
    load: Load,
    reported_load: Load,
    load_due: Time,
    pools: PoolReporting,
    stealer: WorkStealer,
    /// Further attempts, by their due time.
    retries: BinaryHeap<Reverse<PlannedRetry>>,
    /// True while the connection to rank 0 is silent.
    cut_off: bool,
    /// Tasks that failed here in a row, and whether the rank is suspended because of them.
    streak: FailureStreak,
    /// True while the pool starts nothing because of one of the two.
    pool_suspended: bool,
    /// Nothing more is started once this number of tasks has failed.
    max_failures: Option<u32>,
    /// Number of tasks that ran here and failed finally.
    failed_here: u32,
    /// Number of failed tasks that other ranks ran, as the coordinator counts them.
    failed_elsewhere: u32,
    halted: bool,
    stopping: Option<Stop>,
    quiet: bool,
    stopped: bool,
    /// Rank 0 is lost: what ends here is reported as it is, and the driver keeps the reports.
    is_orphaned: bool,
    effects: CompletionEffects,
}

impl Worker {
    /// The worker of a rank with this room.
    pub fn new(me: Rank, room: RankRoom, facts: Arc<dyn Facts>, pace: Pace) -> Worker {
        let stealer = WorkStealer::new(me, pace.steal).with_data(facts.data_node());
        Worker {
            me,
            facts,
            pace,
            room,
            active: 1,
            ledger: None,
            epoch: 0,
            phase: change::ChangePhase::default(),
            early: Vec::new(),
            leaving: false,
            emptied: false,
            lost: Ranks::default(),
            cancelled: Vec::new(),
            completed_elsewhere: Vec::new(),
            acknowledged: Time::ZERO,
            last_change: Duration::ZERO,
            guests: FxHashMap::default(),
            lent: FxHashSet::default(),
            tried: FxHashMap::default(),
            gangs: FxHashMap::default(),
            report: Vec::new(),
            started: Vec::new(),
            report_due: None,
            idle_since: None,
            load: Load::default(),
            reported_load: Load::default(),
            load_due: Time::ZERO,
            pools: PoolReporting::default(),
            stealer,
            retries: BinaryHeap::new(),
            cut_off: false,
            streak: FailureStreak::default(),
            pool_suspended: false,
            max_failures: None,
            failed_here: 0,
            failed_elsewhere: 0,
            halted: false,
            stopping: None,
            quiet: false,
            stopped: false,
            is_orphaned: false,
            effects: CompletionEffects::default(),
        }
    }

    /// Sets the number of failed tasks after which the rank starts nothing more.
    pub fn with_max_failures(self, max_failures: Option<u32>) -> Worker {
        Worker { max_failures, ..self }
    }

    /// True if the run ends after a number of failures.
    pub fn stops_by_failures(&self) -> bool {
        self.max_failures.is_some()
    }

    /// The ledger, once the rank has its part.
    pub fn ledger(&self) -> Option<&Arc<DependencyCounts>> {
        self.ledger.as_ref()
    }

    /// Number of the attempt at a task that runs here.
    pub fn attempt_at(&self, task: TaskId) -> u16 {
        let tried = || self.tried.get(&task).map_or(1, |tried| tried.attempts.saturating_add(1));
        self.guests.get(&task).map_or_else(tried, |guest| guest.attempt)
    }

    /// The pool's load, as last reported.
    pub fn load(&self) -> Load {
        self.load
    }

    /// True from a `Stop` until it has been answered.
    pub fn is_stopping(&self) -> bool {
        self.stopping.is_some() && !self.stopped
    }

    /// True once a `Stop` has been answered.
    pub fn has_stopped(&self) -> bool {
        self.stopped
    }

    /// Epoch of this rank's messages.
    pub fn epoch(&self) -> u32 {
        self.epoch
    }

    /// When the next `Tick` is due, if any.
    pub fn next_tick(&self) -> Option<Time> {
        [self.next_duty(), self.next_ask()].into_iter().flatten().min()
    }

    /// Due time of an action that others wait for: a report, or a further attempt.
    pub fn next_duty(&self) -> Option<Time> {
        let load = (self.load != self.reported_load).then_some(self.load_due);
        let retry = self.retries.peek().map(|Reverse(next)| next.due).filter(|_| self.phase.is_settled());
        [self.report_due, self.rested_at(), load, retry, self.pools.due].into_iter().flatten().min()
    }

    /// When this rank, if it is idle, asks another for work without a further event.
    pub fn next_ask(&self) -> Option<Time> {
        if self.may_steal() { self.stealer.next_try(self.load) } else { None }
    }

    /// Until when an idle rank leaves work to others because of what it has or has shown.
    pub fn holds_back_until(&self) -> Option<Time> {
        self.stealer.holds_back_until()
    }

    /// Processes one event and appends the resulting actions.
    pub fn step(&mut self, now: Time, event: WorkerEvent, actions: &mut Vec<WorkerAction>) {
        match event {
            WorkerEvent::Message { from, message } => self.receive(now, from, message, actions),
            WorkerEvent::Completed { mut attempts, mut effects } => {
                return self.completed(now, &mut attempts, &mut effects, actions);
            }
            WorkerEvent::Ended { attempt } => {
                self.note_outcome(now, &attempt, actions);
                self.ended(now, attempt, actions);
            }
            WorkerEvent::GangEnded { gang, attempt } => {
                // Remove it before this rank may report that it is empty: later messages would be
                // ignored.
                self.gangs.remove(&gang);
                send(actions, Rank::ZERO, Message::GangEnded { gang });
                // Its outcome is no evidence about this rank alone.
                self.ended(now, attempt, actions);
            }
            WorkerEvent::ShareEnded { gang } => {
                if self.gangs.get_mut(&gang).is_some_and(|role| {
                    role.shares = false;
                    role.is_released
                }) {
                    self.gangs.remove(&gang);
                }
            }
            WorkerEvent::Started(started) => {
                self.started.extend(started);
                self.note_report(now);
            }
            WorkerEvent::Frozen { waiting } => self.frozen(now, waiting, actions),
            WorkerEvent::Special(locals) => self.start(locals, actions),
            WorkerEvent::Surrendered { to, leases } => self.surrendered(now, to, leases, actions),
            WorkerEvent::Held { gang, aside } => send(actions, Rank::ZERO, Message::Held { gang, aside }),
            WorkerEvent::Pools(report) => self.pools_changed(now, report),
            WorkerEvent::Load(load) => self.load = load,
            WorkerEvent::CutOff(cut_off) => {
                self.cut_off = cut_off;
                self.suspend_or_resume(actions);
            }
            WorkerEvent::CoordinatorLost => self.coordinator_lost(now, actions),
            WorkerEvent::Quiet => self.quiet = true,
            WorkerEvent::Tick => {}
        }
        self.settle(now, actions);
    }

    /// Processes [`WorkerEvent::Completed`], and leaves the emptied buffers with the caller for
    /// reuse.
    pub fn completed(
        &mut self,
        now: Time,
        attempts: &mut Vec<Attempt>,
        effects: &mut CompletionEffects,
        actions: &mut Vec<WorkerAction>,
    ) {
        // One represents all: there are many only if they are short.
        if let Some(attempt) = attempts.last() {
            self.stealer.note_end(attempt, false);
            self.streak.note_completed(attempts.len());
        }
        if self.stealer.weighs_data() {
            attempts.iter().for_each(|attempt| self.note_files(attempt));
        }
        self.report.append(attempts);
        self.send_ends(now, effects, actions);
        self.settle(now, actions);
    }

    /// True if completions on another rank in this epoch may be counted directly in the ledger
    /// instead of through a message.
    pub fn is_counting(&self, epoch: u32) -> bool {
        epoch == self.epoch && !self.phase.is_frozen()
    }

    fn receive(&mut self, now: Time, from: Rank, message: Message, actions: &mut Vec<WorkerAction>) {
        // An end is valid in every epoch; ranks that it concerns now got it where it is known.
        let stays = matches!(message, Message::Counts { .. });
        match message.epoch() {
            Some(_) if self.lost.contains(from) => {}
            Some(epoch) if epoch < self.epoch && !stays => {}
            Some(epoch) if epoch > self.epoch || self.phase.is_frozen() => self.early.push((from, message)),
            _ => self.process(now, from, message, actions),
        }
    }

    fn process(&mut self, now: Time, from: Rank, message: Message, actions: &mut Vec<WorkerAction>) {
        match message {
            Message::HandOut(hand_out) => self.take_up(now, *hand_out, actions),
            Message::Prepare { epoch, lost, lost_ranks, reserve } => {
                let lost = Lost { nodes: lost, ranks: lost_ranks };
                self.prepare(now, epoch, lost, reserve, actions);
            }
            Message::Counts { ended, .. } => self.count(now, ended, actions),
            Message::Steal { .. } | Message::StealNear { .. } if self.stopping.is_some() || self.halted => {
                self.send_leases(from, Vec::new(), actions)
            }
            Message::Steal { want, .. } => {
                actions.extend(self.stealer.asked(now, from, want, self.offered(self.load)));
            }
            Message::StealNear { want, holdings, .. } => {
                self.stealer.learn(from, holdings);
                actions.extend(self.stealer.asked(now, from, want, self.offered(self.load)));
            }
            Message::StealReply { leases, .. } => {
                self.stealer.answered(now, from, leases.len());
                if self.stopping.is_none() {
                    self.accept_leases(leases, actions);
                }
            }
            Message::Returned { attempt, .. } => self.returned(now, from, attempt, actions),
            Message::Recorded { task, attempt } => {
                if self.guests.get(&task).is_some_and(|guest| guest.attempt == attempt) {
                    self.guests.remove(&task);
                }
            }
            Message::Hold { gang, host, lease, leads } => {
                self.gangs.insert(gang, GangRole { lead: leads.then_some(lease), ..GangRole::default() });
                actions.push(WorkerAction::Hold { gang, host, lease, leads });
            }
            Message::Launch { gang, hosts, cpus, ranks } => {
                if let Some(lease) = self.gangs.get_mut(&gang).and_then(|role| role.lead.take()) {
                    self.task_arrived(&lease);
                }
                actions.push(WorkerAction::Launch { gang, hosts, cpus, ranks });
            }
            Message::Share { gang, lease, ranks } => {
                if let Some(role) = self.gangs.get_mut(&gang) {
                    role.shares = true;
                    actions.push(WorkerAction::Share { gang, lease, ranks });
                }
            }
            Message::MemberLost { gang, rank } => actions.push(WorkerAction::MemberLost { gang, rank }),
            Message::Release { gang } => {
                match self.gangs.get_mut(&gang).filter(|role| role.shares) {
                    Some(role) => role.is_released = true,
                    None => drop(self.gangs.remove(&gang)),
                }
                actions.push(WorkerAction::Release { gang });
            }
            Message::Stop { how } => {
                if self.stopping.is_none_or(|before| before < how) {
                    self.stopping = Some(how);
                    self.retries.clear();
                    actions.push(WorkerAction::Stop(how));
                }
            }
            Message::FailedElsewhere { tasks } => {
                self.failed_elsewhere = tasks;
                self.halt_if_enough(actions);
            }
            Message::Resume => {
                self.streak.resume();
                self.suspend_or_resume(actions);
            }
            Message::Cancel { tasks } => {
                tasks.iter().for_each(|&range| add_range(&mut self.cancelled, range));
                self.cancel(now, tasks, actions);
            }
            Message::Shares { elsewhere } => actions.push(WorkerAction::LearnShares(elsewhere)),
            Message::PoolOrders(orders) => actions.push(WorkerAction::PoolOrders(orders)),
            Message::Paused { tasks } => actions.push(WorkerAction::Pause(tasks)),
            Message::Finish => actions.push(WorkerAction::Exit),
            // The driver has handled these.
            Message::Added(_) | Message::OfferAnswer { .. } | Message::Discard { .. } | Message::Expelled => {}
            Message::Files { .. } | Message::Output { .. } | Message::OutputWritten { .. } => {}
            // Messages for the coordinator only, and those of the handshake before the worker
            // starts.
            Message::Arrived { .. }
            | Message::Welcome(_)
            | Message::Hello(_)
            | Message::Ack { .. }
            | Message::Emptied { .. }
            | Message::Report { .. }
            | Message::Pools(_)
            | Message::GangReady { .. }
            | Message::Held { .. }
            | Message::GangEnded { .. }
            | Message::Stopped
            | Message::Broken { .. }
            | Message::Leaving
            | Message::Vitals(_)
            | Message::Measured { .. }
            | Message::Reasons { .. }
            | Message::StorageLost { .. }
            | Message::Suspended
            | Message::Offer { .. }
            | Message::RankLost { .. } => {}
        }
    }

    /// Counts a task that ran here and failed for good.
    fn count_failure(&mut self, actions: &mut Vec<WorkerAction>) {
        self.failed_here += 1;
        self.halt_if_enough(actions);
    }

    /// Stops starting tasks when the failure limit of the job is reached.
    fn halt_if_enough(&mut self, actions: &mut Vec<WorkerAction>) {
        let is_enough =
            self.max_failures.is_some_and(|most| self.failed_here.saturating_add(self.failed_elsewhere) >= most);
        if is_enough && !self.halted && self.stopping.is_none() {
            self.halted = true;
            actions.push(WorkerAction::Halt);
        }
    }

    fn may_steal(&self) -> bool {
        self.stopping.is_none() && !self.halted && !self.pool_suspended && self.phase.is_settled()
    }
}

fn send(actions: &mut Vec<WorkerAction>, to: Rank, message: Message) {
    actions.push(WorkerAction::Send { to, message });
}
