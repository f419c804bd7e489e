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
//! Beside this file, `change.rs` is the rank's part in a change of membership, `retry.rs` what
//! becomes of a task after an attempt, and `report.rs` what is reported to the coordinator and
//! when.

mod change;
mod report;
mod retry;

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::Arc;
use std::time::Duration;

use rustc_hash::{FxHashMap, FxHashSet};

use self::change::Lost;
pub use super::action::WorkerAction as Action;
use super::dependency_counts::{CompletionEffects, DependencyCounts, End};
use super::protocol::{Lease, Load, Message, Started, Stop, Tried, add_range};
use super::ranks::Ranks;
use super::stealing::WorkStealer;
use crate::job::Retry;
use crate::model::{Attempt, Outcome, Rank, State, TaskId, Time};

/// Facts about tasks that the worker needs.
pub trait Facts: Send + Sync {
    /// The retry policy of a task.
    fn retry(&self, task: TaskId) -> Retry;
    /// True if any rank with slots can run the task, that is, if it needs one CPU and nothing else.
    fn movable(&self, task: TaskId) -> bool;
    /// True for an MPI task that this many slots cannot hold: it needs several ranks.
    fn needs_gang(&self, task: TaskId, slots: u32) -> bool;
}

/// An input of the worker.
#[derive(Clone, Debug)]
pub enum WorkerEvent {
    /// A message arrived.
    Message {
        /// Sender.
        from: Rank,
        /// Content.
        message: Message,
    },
    /// Tasks at home completed on the fast path; the ledger has already counted them at home.
    Completed {
        /// Their attempts.
        attempts: Vec<Attempt>,
        /// The effects: ends to send to other ranks, and skipped tasks. Tasks that became ready
        /// have already been started.
        ripple: CompletionEffects,
    },
    /// An attempt ended that the ledger has not counted: a failure, a further attempt, a task on
    /// lease, or any task after the answer to [`Action::Freeze`].
    Ended {
        /// The attempt.
        attempt: Attempt,
    },
    /// The task of a gang that this rank leads ended; its slots here are free.
    GangEnded {
        /// The gang.
        gang: u32,
        /// The attempt.
        attempt: Attempt,
    },
    /// These tasks have been running for a while.
    Started(Vec<Started>),
    /// Tasks at home (local numbers) became ready on the fast path that this rank may be unable to
    /// run alone.
    Special(Vec<u32>),
    /// The answer to [`Action::Surrender`].
    Surrendered {
        /// Receiver.
        to: Rank,
        /// The leases that the pool gave up.
        leases: Vec<Lease>,
    },
    /// The answer to [`Action::Freeze`]. All completions that slots counted by themselves were
    /// reported in earlier events.
    Frozen {
        /// Tasks taken out of the pool.
        waiting: Vec<Lease>,
    },
    /// Slots for a gang are set aside.
    Held {
        /// The gang.
        gang: u32,
        /// Their CPUs.
        cpus: Vec<u32>,
    },
    /// The pool's load, after any change.
    Load(Load),
    /// The connection to rank 0 is silent (true), or works again (false).
    CutOff(bool),
    /// After a `Stop`: no slot is busy any more, and earlier events have reported all that ended.
    Quiet,
    /// Time has passed.
    Tick,
}

/// Time limits of the protocol.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// Longest time that a report waits for further entries, so that short tasks share messages; no
    /// rank waits for a report.
    pub report: Duration,
    /// A rank that has been idle for this long reports at once, since others may wait for it. After
    /// a shorter pause the next task usually just waits for another rank's completion.
    pub idle: Duration,
    /// A report with this many attempts is sent at once.
    pub report_size: usize,
    /// Longest time between load reports while the load changes.
    pub load: Duration,
    /// Pause of a rank after an unsuccessful round of stealing (victims remember it meanwhile).
    pub steal: Duration,
}

impl Pace {
    /// Longest pause between unsuccessful rounds of stealing.
    pub fn longest_pause(&self) -> Duration {
        self.steal * (1 << super::stealing::DOUBLINGS)
    }
}

impl Default for Pace {
    fn default() -> Pace {
        Pace {
            report: Duration::from_millis(5),
            idle: Duration::from_micros(300),
            report_size: 4096,
            load: Duration::from_millis(200),
            steal: Duration::from_millis(50),
        }
    }
}

/// Upper limit on ends per `Counts` message, which keeps it below the eager limit of common
/// transports.
const MAX_ENDS_PER_MESSAGE: usize = 900;

/// A task of another home that this rank runs or will run.
#[derive(Clone, Copy, Debug)]
struct Guest {
    home: Rank,
    attempt: u16,
    /// The attempt that ended, until the coordinator confirms that the home has reported it.
    ended: Option<Attempt>,
}

/// A further attempt at a task at home here; ordered by its due time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct PlannedRetry {
    due: Time,
    task: TaskId,
    attempt: u16,
    /// The rank that will run it.
    to: Rank,
}

/// The state machine of one rank.
pub struct Worker {
    me: Rank,
    facts: Arc<dyn Facts>,
    pace: Pace,
    slots: u32,
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
    /// Gangs that hold slots here, with the task that this rank leads and has not started.
    gangs: FxHashMap<u32, Option<Lease>>,
    report: Vec<Attempt>,
    started: Vec<Started>,
    report_due: Option<Time>,
    /// Since when nothing runs here and nothing is ready.
    idle_since: Option<Time>,
    load: Load,
    reported_load: Load,
    load_due: Time,
    thief: WorkStealer,
    /// Further attempts, by their due time.
    retries: BinaryHeap<Reverse<PlannedRetry>>,
    /// True while the connection to rank 0 is silent.
    cut_off: bool,
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
    ripple: CompletionEffects,
}

impl Worker {
    /// The worker of a rank with this number of slots.
    pub fn new(me: Rank, slots: u32, facts: Arc<dyn Facts>, pace: Pace) -> Worker {
        Worker {
            me,
            facts,
            pace,
            slots,
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
            thief: WorkStealer::new(me, pace.steal),
            retries: BinaryHeap::new(),
            cut_off: false,
            max_failures: None,
            failed_here: 0,
            failed_elsewhere: 0,
            halted: false,
            stopping: None,
            quiet: false,
            stopped: false,
            ripple: CompletionEffects::default(),
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
        [self.report_due, self.rested_at(), load, retry].into_iter().flatten().min()
    }

    /// When this rank, if it is idle, asks another for work without a further event.
    pub fn next_ask(&self) -> Option<Time> {
        if self.may_steal() { self.thief.next_try(self.load) } else { None }
    }

    /// Processes one event and appends the resulting actions.
    pub fn step(&mut self, now: Time, event: WorkerEvent, actions: &mut Vec<Action>) {
        match event {
            WorkerEvent::Message { from, message } => self.receive(now, from, message, actions),
            WorkerEvent::Completed { mut attempts, mut ripple } => {
                return self.completed(now, &mut attempts, &mut ripple, actions);
            }
            WorkerEvent::Ended { attempt } => self.ended(now, attempt, actions),
            WorkerEvent::GangEnded { gang, attempt } => {
                // Remove it before this rank may report that it is empty: later messages would be
                // ignored.
                self.gangs.remove(&gang);
                send(actions, Rank::ZERO, Message::GangEnded { gang });
                self.ended(now, attempt, actions);
            }
            WorkerEvent::Started(started) => {
                self.started.extend(started);
                self.note_report(now);
            }
            WorkerEvent::Frozen { waiting } => self.frozen(now, waiting, actions),
            WorkerEvent::Special(locals) => self.start(locals, actions),
            WorkerEvent::Surrendered { to, leases } => self.surrendered(to, leases, actions),
            WorkerEvent::Held { gang, cpus } => send(actions, Rank::ZERO, Message::Held { gang, cpus }),
            WorkerEvent::Load(load) => self.load = load,
            WorkerEvent::CutOff(cut_off) => self.cut_off(cut_off, actions),
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
        ripple: &mut CompletionEffects,
        actions: &mut Vec<Action>,
    ) {
        // One represents all: there are many only if they are short.
        attempts.last().into_iter().for_each(|attempt| self.thief.ran(attempt, false));
        self.report.append(attempts);
        self.spread(now, ripple, actions);
        self.settle(now, actions);
    }

    /// True if completions on another rank in this epoch may be counted directly in the ledger
    /// instead of through a message.
    pub fn is_counting(&self, epoch: u32) -> bool {
        epoch == self.epoch && !self.phase.is_frozen()
    }

    fn receive(&mut self, now: Time, from: Rank, message: Message, actions: &mut Vec<Action>) {
        // An end is valid in every epoch; ranks that it concerns now got it where it is known.
        let stays = matches!(message, Message::Counts { .. });
        match message.epoch() {
            Some(_) if self.lost.contains(from) => {}
            Some(epoch) if epoch < self.epoch && !stays => {}
            Some(epoch) if epoch > self.epoch || self.phase.is_frozen() => self.early.push((from, message)),
            _ => self.obey(now, from, message, actions),
        }
    }

    fn obey(&mut self, now: Time, from: Rank, message: Message, actions: &mut Vec<Action>) {
        match message {
            Message::HandOut(hand_out) => self.take_up(now, *hand_out, actions),
            Message::Prepare { epoch, lost, lost_ranks, reserve } => {
                let lost = Lost { nodes: lost, ranks: lost_ranks };
                self.prepare(now, epoch, lost, reserve, actions);
            }
            Message::Counts { ended, .. } => self.count(now, ended, actions),
            Message::Steal { .. } if self.stopping.is_some() || self.halted => self.give(from, Vec::new(), actions),
            Message::Steal { want, .. } => actions.extend(self.thief.asked(from, want, self.load)),
            Message::Loot { leases, .. } => {
                self.thief.answered(now, from, leases.len());
                if self.stopping.is_none() {
                    self.take(leases, actions);
                }
            }
            Message::Returned { attempt, .. } => self.returned(now, from, attempt, actions),
            Message::Heard { task, attempt } => {
                if self.guests.get(&task).is_some_and(|guest| guest.attempt == attempt) {
                    self.guests.remove(&task);
                }
            }
            Message::Hold { gang, slots } => self.hold(gang, slots, None, actions),
            Message::Lead { gang, slots, lease } => self.hold(gang, slots, Some(lease), actions),
            Message::Launch { gang, hosts, cpus } => self.launch(gang, hosts, cpus, actions),
            Message::Release { gang } => {
                self.gangs.remove(&gang);
                actions.push(Action::Release { gang });
            }
            Message::Stop { how } => {
                if self.stopping.is_none_or(|before| before < how) {
                    self.stopping = Some(how);
                    self.retries.clear();
                    actions.push(Action::Stop(how));
                }
            }
            Message::FailedElsewhere { tasks } => {
                self.failed_elsewhere = tasks;
                self.halt_if_enough(actions);
            }
            Message::Cancel { tasks } => {
                tasks.iter().for_each(|&range| add_range(&mut self.cancelled, range));
                self.cancel(now, tasks, actions);
            }
            Message::Finish => actions.push(Action::Exit),
            // Messages for the coordinator only, and those of the handshake before the worker
            // starts.
            Message::Arrived { .. }
            | Message::Welcome(_)
            | Message::Hello(_)
            | Message::Ack { .. }
            | Message::Emptied { .. }
            | Message::Report { .. }
            | Message::GangReady { .. }
            | Message::Held { .. }
            | Message::GangEnded { .. }
            | Message::Stopped
            | Message::Broken { .. }
            | Message::Leaving
            | Message::Vitals(_)
            | Message::Measured { .. }
            | Message::Reasons { .. }
            | Message::StorageLost { .. } => {}
        }
    }

    fn hold(&mut self, gang: u32, slots: u32, lead: Option<Lease>, actions: &mut Vec<Action>) {
        self.gangs.insert(gang, lead);
        actions.push(Action::Hold { gang, slots, lead });
    }

    fn launch(&mut self, gang: u32, hosts: Vec<(String, u32)>, cpus: Vec<u32>, actions: &mut Vec<Action>) {
        if let Some(lease) = self.gangs.get_mut(&gang).and_then(Option::take) {
            self.admit(&lease);
        }
        actions.push(Action::Launch { gang, hosts, cpus });
    }

    /// Records that a task is on this rank now.
    fn admit(&mut self, lease: &Lease) {
        if lease.home == self.me {
            self.lent.remove(&lease.task);
        } else {
            self.guests.insert(lease.task, Guest { home: lease.home, attempt: lease.attempt, ended: None });
        }
    }

    /// Records that a task has left this rank. Its home may have changed since the pool took it.
    fn dismiss(&mut self, lease: &mut Lease) {
        match self.guests.remove(&lease.task) {
            Some(guest) => lease.home = guest.home,
            None => {
                lease.home = self.me;
                self.lent.insert(lease.task);
            }
        }
    }

    /// Starts tasks that another rank gave; a rank without slots passes them on.
    fn take(&mut self, leases: Vec<Lease>, actions: &mut Vec<Action>) {
        if self.slots > 0 {
            leases.iter().for_each(|lease| self.admit(lease));
            // Count them as ready until the pool reports its load again; otherwise this rank would
            // steal more.
            self.load.ready += leases.len() as u32;
            actions.extend(leases.into_iter().map(Action::StartLease));
        } else if !leases.is_empty() {
            self.give(self.thief.next_after(self.me), leases, actions);
        }
    }

    fn give(&self, to: Rank, leases: Vec<Lease>, actions: &mut Vec<Action>) {
        send(actions, to, Message::Loot { epoch: self.epoch, leases });
    }

    /// Sends the tasks that the pool gave up to the rank that asked for them.
    fn surrendered(&mut self, to: Rank, mut leases: Vec<Lease>, actions: &mut Vec<Action>) {
        self.thief.gave(to, leases.len());
        leases.iter_mut().for_each(|lease| self.dismiss(lease));
        // Until the pool reports its load again: it has no more to give than it gave.
        let given = leases.len() as u32;
        self.load.ready = if given == 0 { 0 } else { self.load.ready.saturating_sub(given) };
        self.give(to, leases, actions);
    }

    fn count(&mut self, now: Time, ended: Vec<(u32, End)>, actions: &mut Vec<Action>) {
        let Some(ledger) = self.ledger.clone() else { return };
        let mut ripple = std::mem::take(&mut self.ripple);
        ripple.clear();
        for (node, end) in ended {
            ledger.import(node, end, now, &mut ripple);
        }
        self.follow(now, &mut ripple, actions);
        self.ripple = ripple;
    }

    /// Starts tasks that became ready and sends ends to other ranks.
    fn follow(&mut self, now: Time, ripple: &mut CompletionEffects, actions: &mut Vec<Action>) {
        self.start(std::mem::take(&mut ripple.ready), actions);
        self.spread(now, ripple, actions);
    }

    fn start(&mut self, locals: Vec<u32>, actions: &mut Vec<Action>) {
        let Some(ledger) = self.ledger.clone() else { return };
        if self.stopping.is_some() {
            return;
        }
        if self.phase.is_freezing() || self.slots == 0 {
            // Their next home starts them: the pool has given up its waiting tasks, or there is
            // none, and no rank keeps these.
            return self.lent.extend(locals.into_iter().map(|local| ledger.task(local)));
        }
        let (gangs, here): (Vec<u32>, Vec<u32>) =
            locals.into_iter().partition(|&l| self.facts.needs_gang(ledger.task(l), self.slots));
        if !here.is_empty() {
            self.load.ready += here.len() as u32;
            actions.push(Action::Start(here));
        }
        for local in gangs {
            let lease = Lease::at_home(&ledger, local, self.me);
            self.lent.insert(lease.task);
            send(actions, Rank::ZERO, Message::GangReady { lease });
        }
    }

    /// Sends ends to the ranks that count them, and skipped tasks to the coordinator.
    fn spread(&mut self, now: Time, ripple: &mut CompletionEffects, actions: &mut Vec<Action>) {
        if let Some(ledger) = &self.ledger {
            let skipped = ripple.skipped.drain(..).map(|local| Attempt {
                task: ledger.task(local),
                attempt: 0,
                outcome: Outcome { state: State::Skipped, exit: 0 },
                last: true,
                rank: self.me,
                slot: 0,
                ready: now,
                start: now,
                end: now,
            });
            self.report.extend(skipped);
        }
        each_destination(&mut ripple.exports, |to, batch| {
            let ended = batch.iter().map(|&(_, node, end)| (node, end)).collect();
            send(actions, to, Message::Counts { epoch: self.epoch, ended });
        });
        ripple.exports.clear();
        self.note_report(now);
    }

    fn ended(&mut self, now: Time, attempt: Attempt, actions: &mut Vec<Action>) {
        self.thief.ran(&attempt, self.guests.contains_key(&attempt.task));
        if self.phase.remember(&attempt) {
            return;
        }
        let Some(guest) = self.guests.get_mut(&attempt.task) else {
            return self.attempt_ended(now, attempt, false, actions);
        };
        let home = guest.home;
        guest.ended = Some(attempt);
        // The home's verdict on a first attempt at a task without retries is certain.
        let state = attempt.outcome.state;
        if state.is_failure()
            && state != State::NodeFail
            && attempt.attempt == 1
            && self.facts.retry(attempt.task).count == 0
        {
            self.count_failure(actions);
        }
        // The stop ended it here. Its home may not have received the stop yet, and would take this
        // for the task's own failure.
        let interrupted = self.stopping.is_some() && !attempt.outcome.ok();
        if interrupted || reported_by_runner(&attempt) {
            self.guests.remove(&attempt.task);
            self.report.push(Attempt { last: attempt.outcome.ok(), ..attempt });
            self.note_report(now);
        }
        if !interrupted {
            send(actions, home, Message::Returned { epoch: self.epoch, attempt });
        }
    }

    /// Processes the end of a task at home here that ran elsewhere.
    fn returned(&mut self, now: Time, from: Rank, attempt: Attempt, actions: &mut Vec<Action>) {
        if reported_by_runner(&attempt) {
            self.completed_elsewhere.push((attempt.task, from));
        }
        self.attempt_ended(now, attempt, true, actions);
    }

    /// Suspends the rank while the connection to rank 0 is silent. Rank 0 gives up a silent rank
    /// and runs its tasks elsewhere, so a rank that starts tasks meanwhile would run them twice.
    fn cut_off(&mut self, cut_off: bool, actions: &mut Vec<Action>) {
        let changed = std::mem::replace(&mut self.cut_off, cut_off) != cut_off;
        if changed && self.stopping.is_none() && !self.halted {
            actions.push(if cut_off { Action::Suspend } else { Action::Resume });
        }
    }

    /// Counts a task that ran here and failed for good.
    fn count_failure(&mut self, actions: &mut Vec<Action>) {
        self.failed_here += 1;
        self.halt_if_enough(actions);
    }

    /// Stops starting tasks when the failure limit of the job is reached.
    fn halt_if_enough(&mut self, actions: &mut Vec<Action>) {
        let is_enough =
            self.max_failures.is_some_and(|most| self.failed_here.saturating_add(self.failed_elsewhere) >= most);
        if is_enough && !self.halted && self.stopping.is_none() {
            self.halted = true;
            actions.push(Action::Halt);
        }
    }

    fn may_steal(&self) -> bool {
        self.stopping.is_none() && !self.halted && !self.cut_off && self.phase.is_settled()
    }
}

/// Sorts ends by receiver, and calls `tell` for each message with its receiver and its content.
pub fn each_destination(exports: &mut [(Rank, u32, End)], mut tell: impl FnMut(Rank, &[(Rank, u32, End)])) {
    if exports.len() > 1 {
        exports.sort_by_key(|export| export.0);
    }
    for run in exports.chunk_by(|a, b| a.0 == b.0) {
        run.chunks(MAX_ENDS_PER_MESSAGE).for_each(|batch| tell(run[0].0, batch));
    }
}

/// True for an attempt on lease that the rank that ran it reports to the coordinator. After a
/// failure the home reports all attempts, so that they are recorded in order.
fn reported_by_runner(attempt: &Attempt) -> bool {
    attempt.outcome.ok() && attempt.attempt == 1
}

fn send(actions: &mut Vec<Action>, to: Rank, message: Message) {
    actions.push(Action::Send { to, message });
}
