//! A rank's engine: it moves frames, feeds the state machines and carries out what they decide.
//!
//! One thread at a time has it (`driving`): the main thread, or a slot between two tasks. A *poll*
//! takes everything that slots and other ranks have left, in an order that matters: the load is
//! read before the outboxes, so a rank that reports itself idle has reported all that it did. An
//! *exchange* is the part of a poll that fine-grained work needs: completions leave, counts arrive,
//! and what they make ready goes straight to the slot at hand. Any other frame that it finds is
//! processed as in a poll.

mod actions;
mod frames;
mod orphaned;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use self::orphaned::Doubt;
use super::coordinator_watch::CoordinatorWatch;
use super::ledger_epochs::CurrentLedger;
use super::outbox::{Outbox, Traffic};
use super::sent_reports::SentReports;
use super::shared::Shared;
use crate::fabric::wire;
use crate::fabric::{Alone, Fabric};
use crate::model::{Rank, Time};
use crate::pool::Slot;
use crate::runtime::coordinator::driver::CoordinatorDriver;
use crate::schedule::dependency_counts::CompletionEffects;
use crate::schedule::long_tasks::{GUEST_LOOK_INTERVAL, LOOK_INTERVAL, LongTaskWatch};
use crate::schedule::protocol::{Load, Message};
use crate::schedule::worker::{Worker, WorkerAction, WorkerEvent};

/// Frames taken in one poll or exchange at most, so that outboxes are drained in between.
const MAX_FRAMES_PER_POLL: usize = 64;

/// Messages of a rank to itself that are delivered at once: what follows from them must not keep a
/// slot from its next task.
const MAX_LOOPBACK_MESSAGES: usize = 1024;

/// Pieces of operations on divided graphs that are sent at once; further ones wait until these have
/// left, so other frames never wait behind more than these.
const MAX_PIECES_PER_POLL: usize = 4;

/// How late a timer may be while slots are awake: they poll by themselves, and waking the main
/// thread costs more than being late.
const MAX_TIMER_DELAY: Duration = Duration::from_millis(10);

/// Which outboxes an exchange drains.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum OutboxScope {
    /// That of the slot at hand.
    Own,
    /// Those of all slots.
    All,
}

/// What the slot that drives an exchange does next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SlotPhase {
    /// It has more tasks to run, and will poll again soon.
    Busy,
    /// It has none and polls for work.
    Starving,
}

/// A rank's side of the protocol: the fabric, the worker, and on rank 0 the coordinator.
pub(in crate::runtime) struct Engine {
    shared: Arc<Shared>,
    fabric: Box<dyn Fabric>,
    worker: Worker,
    /// Only on rank 0.
    coordinator: Option<CoordinatorDriver>,
    /// The outbox being drained; it lends the slot an empty one.
    outbox: Outbox,
    /// Buffers of the frame that was received last and of the frame being sent.
    received: Vec<u8>,
    outgoing: Vec<u8>,
    /// Buffers for what counts of other ranks set off, and for the worker's actions.
    effects: CompletionEffects,
    special: Vec<u32>,
    actions: Vec<WorkerAction>,
    /// Messages of this rank to itself.
    loopback: VecDeque<Message>,
    over: bool,
    /// When the main thread wakes up by itself; zero once it has been notified.
    main_thread_wakes: Time,
    /// Number of times that a slot has driven the engine.
    slot_drives: u64,
    /// The last receive returned a frame, so more may wait.
    has_more: bool,
    /// Why this rank must stop.
    broken: Option<String>,
    /// Rank 0 cannot be reached any more.
    orphaned: bool,
    /// The reports of the last seconds, if this rank sees the run directory; not on rank 0.
    sent_reports: Option<SentReports>,
    /// Watches rank 0, on the other ranks of its world.
    watch: Option<CoordinatorWatch>,
    /// Rank 0 may be gone.
    doubt: Option<Doubt>,
    /// For a rank that joined a run under way: number of signals received so far.
    guest_signals: Option<u32>,
    /// Rank 0 is silent.
    cut_off: bool,
    /// Number of lost ranks of this world that were dealt with.
    lost_ranks: usize,
    /// Ranks that count as lost because others say so; they were told.
    expelled: Vec<Rank>,
    long_tasks: LongTaskWatch,
    /// What this rank has sent so far, and how many tasks it has stolen.
    traffic: Traffic,
    stolen: u64,
}

impl Engine {
    pub(super) fn new(
        shared: Arc<Shared>,
        fabric: Box<dyn Fabric>,
        worker: Worker,
        coordinator: Option<CoordinatorDriver>,
    ) -> Engine {
        Engine {
            shared,
            fabric,
            worker,
            coordinator,
            outbox: Outbox::default(),
            received: Vec::new(),
            outgoing: Vec::new(),
            effects: CompletionEffects::default(),
            special: Vec::new(),
            actions: Vec::new(),
            loopback: VecDeque::new(),
            over: false,
            main_thread_wakes: Time::ZERO,
            slot_drives: 0,
            has_more: false,
            broken: None,
            orphaned: false,
            sent_reports: None,
            watch: None,
            doubt: None,
            guest_signals: None,
            cut_off: false,
            lost_ranks: 0,
            expelled: Vec::new(),
            long_tasks: LongTaskWatch::new(LOOK_INTERVAL),
            traffic: Traffic::default(),
            stolen: 0,
        }
    }

    /// True if there is no other rank.
    pub(super) fn is_alone(&self) -> bool {
        self.fabric.size() == 1
    }

    /// True once the rank may leave.
    pub(super) fn is_over(&self) -> bool {
        self.over
    }

    /// Why this rank must stop, if it must.
    pub(in crate::runtime) fn broken(&self) -> Option<&str> {
        self.broken.as_deref()
    }

    /// This rank joined a run under way.
    pub(super) fn set_guest(&mut self) {
        self.guest_signals = Some(0);
        self.long_tasks = LongTaskWatch::new(GUEST_LOOK_INTERVAL);
    }

    /// Handles a signal. Launchers pass signals on to every rank, and rank 0 handles them for all
    /// of them. A rank that joined requests to be drained; at the second signal it leaves at once.
    pub(super) fn handle_signal(&mut self, signal: i32) {
        self.shared.runner.signalled(signal);
        if let Some(coordinator) = &mut self.coordinator {
            // A launcher sends this signal when a rank has ended before its time.
            let ended = if signal == libc::SIGTERM { self.fabric.ended_neighbours() } else { Vec::new() };
            let messages = coordinator.on_signal(self.shared.clock.now(), signal, &ended);
            return self.post(messages);
        }
        let Some(signals) = &mut self.guest_signals else { return self.on_signal_of_launcher(signal) };
        *signals += 1;
        match signals {
            1 => self.send(Rank::ZERO, Message::Leaving),
            _ => (self.orphaned, self.over) = (true, true),
        }
    }

    /// True if rank 0 is gone, so this rank has no reason to stay.
    pub(super) fn is_orphaned(&self) -> bool {
        self.orphaned
    }

    /// True while a stop waits for tasks that still run.
    pub(super) fn is_stopping(&self) -> bool {
        self.worker.is_stopping()
    }

    /// Returns the fabric and rank 0's coordinator once the run is over.
    pub(in crate::runtime) fn take_apart(&mut self) -> (Box<dyn Fabric>, Option<CoordinatorDriver>) {
        let fabric = std::mem::replace(&mut self.fabric, Box::new(Alone));
        (fabric, self.coordinator.take())
    }

    /// Number of times that a slot has driven the engine.
    pub(super) fn slot_drives(&self) -> u64 {
        self.slot_drives
    }

    /// True if frames, or messages of this rank to itself, may wait that nothing announces again.
    pub(super) fn has_more(&self) -> bool {
        self.has_more || !self.loopback.is_empty()
    }

    /// True while pieces of operations wait that leave, or are awaited that may arrive, only when
    /// this rank polls.
    pub(super) fn is_exchanging(&self) -> bool {
        let pieces = &self.shared.gangs.pieces;
        pieces.is_waiting() || pieces.is_awaiting() && !self.fabric.bell_is_enough()
    }

    pub(super) fn fabric(&mut self) -> &mut dyn Fabric {
        self.fabric.as_mut()
    }

    /// Rank 0's coordinator.
    pub(in crate::runtime) fn coordinator(&mut self) -> Option<&mut CoordinatorDriver> {
        self.coordinator.as_mut()
    }

    /// The main thread is about to sleep until then.
    pub(super) fn main_thread_sleeps(&mut self, until: Time) {
        self.main_thread_wakes = until;
    }

    /// When the next timer of the state machines is due.
    pub(super) fn next_tick(&self) -> Option<Time> {
        let coordinator = self.coordinator.as_ref().map(CoordinatorDriver::next_tick);
        [self.worker.next_tick(), coordinator].into_iter().flatten().min()
    }

    /// Wakes the main thread if something is due more than `delay` before it would wake up, or if
    /// frames wait.
    fn wake_main_thread(&mut self, delay: Duration) {
        if self.over || self.has_more() || self.next_tick().is_some_and(|due| due.after(delay) < self.main_thread_wakes)
        {
            self.main_thread_wakes = Time::ZERO;
            self.shared.event_wait.notify();
        }
    }

    /// Polls for a slot without work, which sleeps afterwards unless it is `patient`. True if the
    /// slot should poll for work again.
    pub(super) fn poll_from_slot(&mut self, patient: bool) -> bool {
        self.slot_drives += 1;
        if !patient {
            self.fabric.doze();
        }
        let moved = self.poll();
        self.wake_main_thread(if patient { MAX_TIMER_DELAY } else { Duration::ZERO });
        moved && self.shared.pool.get().is_some_and(|pool| pool.load().ready > 0)
    }

    /// Passes on what slots did and takes what has arrived. True if the slot has received work.
    pub(super) fn exchange(&mut self, slot: &mut Slot<'_>, drain: OutboxScope, phase: SlotPhase) -> bool {
        if self.over {
            return false;
        }
        self.slot_drives += 1;
        let busy = phase == SlotPhase::Busy;
        let moved = match drain {
            // Otherwise this rank would continue to steal although it has work again.
            _ if busy && self.worker.load().idle > 0 => self.poll_load(),
            OutboxScope::All => self.drain_outboxes(),
            OutboxScope::Own => self.drain_outbox(slot.index()),
        };
        let mut has_received_work = false;
        for _ in 0..MAX_FRAMES_PER_POLL {
            let Some(from) = self.receive_frame() else { break };
            if self.count(slot) {
                has_received_work = true;
                // A busy slot polls again soon.
                if busy { break } else { continue }
            }
            // Other frames may ask how busy this rank is.
            self.poll_load();
            self.process_frame(from);
        }
        if has_received_work && !busy {
            let load = self.worker.load();
            let load = Load { idle: load.idle.saturating_sub(1), busy: load.busy + 1, ..load };
            self.step(WorkerEvent::Load(load));
        }
        // With other ranks the main thread never sleeps for longer than the delay anyway.
        if (moved || self.has_more()) && self.is_alone() {
            self.wake_main_thread(MAX_TIMER_DELAY);
        }
        has_received_work
    }

    /// Counts the completions in the received frame. False if it is another frame.
    fn count(&mut self, slot: &mut Slot<'_>) -> bool {
        let Some((epoch, ended)) = wire::counts(&self.received) else { return false };
        if !self.worker.is_counting(epoch) {
            return false;
        }
        let Some(ledger) = self.worker.ledger() else { return false };
        let shared = &*self.shared;
        let now = shared.clock.now();
        shared.slots[slot.index()].timer.set(now);
        for (node, end) in ended {
            ledger.import(node, end, now, &mut self.effects);
        }
        let current = CurrentLedger { tag: shared.ledgers.current(), ledger };
        shared.release(current, &mut self.effects.ready, Some(slot), &mut self.special);
        if !self.effects.is_empty() {
            let mut effects = std::mem::take(&mut self.effects);
            self.record_completions(now, &mut Vec::new(), &mut effects);
            self.effects = effects;
        }
        if !self.special.is_empty() {
            let special = std::mem::take(&mut self.special);
            self.step(WorkerEvent::Special(special));
        }
        true
    }

    /// Takes what has arrived and what slots have left, and runs the timers. True if there was
    /// anything.
    pub(super) fn poll(&mut self) -> bool {
        if self.over {
            return false;
        }
        self.send_telemetry();
        self.send_file_messages();
        if self.guest_signals.is_some() {
            self.check_link();
        }
        self.check_coordinator();
        let quiet = self.worker.is_stopping() && self.shared.is_quiet();
        let mut moved = self.poll_load();
        moved |= self.send_pieces();
        moved |= self.receive_frames();
        self.check_lost_ranks();
        if quiet {
            self.step(WorkerEvent::Quiet);
        }
        if let Some(event) = self.pool_report() {
            self.step(event);
        }
        let now = self.shared.clock.now();
        if self.worker.next_tick().is_some_and(|due| due <= now) {
            self.step(WorkerEvent::Tick);
        }
        if self.long_tasks.is_due(now) {
            let running = self.shared.runner.running();
            let started = self.long_tasks.look(now, running, |task| self.worker.attempt_at(task));
            if !started.is_empty() {
                self.step(WorkerEvent::Started(started));
            }
        }
        if let Some(coordinator) = self.coordinator.as_mut().filter(|coordinator| coordinator.next_tick() <= now) {
            let messages = coordinator.tick(now);
            self.send_all(messages);
        }
        self.run_loopback();
        moved
    }

    /// Notifies the coordinator when ranks of this world are lost. MPI may have told this rank
    /// alone, so the others tell rank 0; without it they have no reason to stay. What else a loss
    /// means, rank 0 tells them.
    fn check_lost_ranks(&mut self) {
        let lost = self.fabric.lost();
        let new = lost.get(self.lost_ranks..).unwrap_or_default();
        if new.is_empty() {
            return;
        }
        self.lost_ranks = lost.len();
        if let Some(coordinator) = &mut self.coordinator {
            let messages = coordinator.ranks_lost(self.shared.clock.now(), new);
            self.send_all(messages);
        } else if new.contains(&Rank::ZERO) {
            self.lose_coordinator();
        } else {
            for &rank in new.iter().filter(|rank| !self.expelled.contains(rank)).collect::<Vec<_>>() {
                self.send(Rank::ZERO, Message::RankLost { rank });
            }
        }
    }

    /// Takes a rank for lost that others have lost. It may live, and be reached from here alone.
    fn expel(&mut self, rank: Rank) {
        if rank != Rank::ZERO && self.fabric.give_up(rank) {
            self.expelled.push(rank);
            self.send(rank, Message::Expelled);
        }
    }

    /// Notifies the worker when rank 0 falls silent, and when it answers again.
    fn check_link(&mut self) {
        let cut_off = self.fabric.is_cut_off();
        if cut_off != self.cut_off {
            self.cut_off = cut_off;
            match cut_off {
                true => tracing::warn!("rank 0 is silent: nothing is started until it is heard again"),
                false => tracing::warn!("rank 0 is heard again"),
            }
            self.step(WorkerEvent::CutOff(cut_off));
        }
    }

    /// Drains the outboxes, then passes on the load as it was *before* that: a slot that counts as
    /// idle has reported all that it did.
    fn poll_load(&mut self) -> bool {
        if self.shared.take_received_work() {
            // The slot was not idle all the time since the last load.
            let load = self.worker.load();
            self.step(WorkerEvent::Load(Load { idle: 0, ..load }));
        }
        let load = self.shared.load();
        let moved = self.drain_outboxes();
        let changed = load != self.worker.load();
        if changed {
            self.step(WorkerEvent::Load(load));
        }
        moved || changed
    }

    fn drain_outboxes(&mut self) -> bool {
        let mut moved = false;
        for slot in 0..self.shared.outboxes() {
            moved |= self.drain_outbox(slot);
        }
        moved
    }

    fn drain_outbox(&mut self, slot: usize) -> bool {
        if !self.shared.take_outbox(slot, &mut self.outbox) {
            return false;
        }
        self.traffic.add(std::mem::take(&mut self.outbox.sent));
        if !(self.outbox.attempts.is_empty() && self.outbox.effects.is_empty()) {
            let now = self.outbox.attempts.last().map_or_else(|| self.shared.clock.now(), |last| last.end);
            let mut attempts = std::mem::take(&mut self.outbox.attempts);
            let mut effects = std::mem::take(&mut self.outbox.effects);
            self.record_completions(now, &mut attempts, &mut effects);
            (self.outbox.attempts, self.outbox.effects) = (attempts, effects);
        }
        if !self.outbox.is_plain() {
            self.process_rest();
        }
        true
    }

    /// Processes what a slot left besides completed attempts.
    #[cold]
    fn process_rest(&mut self) {
        let mut outbox = std::mem::take(&mut self.outbox);
        if !outbox.special.is_empty() {
            self.step(WorkerEvent::Special(std::mem::take(&mut outbox.special)));
        }
        for attempt in outbox.ended.drain(..) {
            self.step(WorkerEvent::Ended { attempt });
        }
        for (gang, aside) in outbox.held.drain(..) {
            self.step(WorkerEvent::Held { gang, aside });
        }
        for gang in outbox.shares_ended.drain(..) {
            self.step(WorkerEvent::ShareEnded { gang });
        }
        for (gang, attempt) in outbox.gang_ended.drain(..) {
            self.step(WorkerEvent::GangEnded { gang, attempt });
        }
        self.run_loopback();
        self.outbox = outbox;
    }
}
