//! What a slot does between two tasks: run, count, pass on.
//!
//! The executor is the pool's workload. A slot that completed a task at home counts it in the
//! ledger by itself, starts the successors that became ready, and sends the completion to ranks of
//! its node by itself (`intra_node`). That is the fast path: it takes no lock that another slot
//! waits for. Everything else (ranks of other nodes, failures, retries, stolen tasks) it leaves to
//! the engine in its outbox.
//!
//! Slots drive the engine themselves (`driving`): a starving slot polls all the time, a busy one
//! after a completion that other nodes wait for and every [`MAX_BUSY_EXCHANGE_INTERVAL_NS`].

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use super::driving::EngineLock;
use super::engine::{Engine, OutboxScope, SlotPhase};
use super::leases::{LEASE_TAG, report_lost_ledger};
use super::ledger_epochs::CurrentLedger;
use super::outbox::Outbox;
use super::shared::{Shared, lock, panic_without_team};
use crate::exec::ExecContext;
use crate::model::{Outcome, Time};
use crate::pool::{HoldId, Item, Slot, Workload};
use crate::schedule::dependency_counts::DependencyCounts;
use crate::schedule::protocol::Lease;
use crate::schedule::resources::{Impossible, Needs};

/// A slot that runs tasks without a pause drives the engine this often. An exchange takes about a
/// hundredth of it.
const MAX_BUSY_EXCHANGE_INTERVAL_NS: u64 = 20_000;

/// A busy slot polls the rings of its node at least once per this many tasks.
const TASKS_PER_RING_POLL: u32 = 2;

/// Attempts that are passed on at once at most, however short they are.
const MAX_BATCHED_ATTEMPTS: usize = 256;

/// A starving slot polls the rings of its node in each call. Every this many calls it also has the
/// engine exchange counts with other ranks ...
const STARVING_CALLS_PER_EXCHANGE: u32 = 4;

/// ... and every this many calls it has the engine poll everything.
const STARVING_CALLS_PER_POLL: u32 = 64;

/// Runs the tasks of a rank on the slots of its pool.
pub(in crate::runtime) struct Executor {
    pub(in crate::runtime) shared: Arc<Shared>,
    pub(in crate::runtime) engine: EngineLock,
}

impl Executor {
    fn execute(&self, lease: &Lease, slot: &Slot<'_>) -> Outcome {
        let team = slot.team();
        let rayon = || team.rayon().unwrap_or_else(|error| panic_without_team(&error));
        let seat = ExecContext {
            slot: slot.index() as u16,
            attempt: lease.attempt,
            short: self.shared.job.shortfalls(lease.task, lease.short),
            cpus: slot.cpus(),
            numa: Some(slot.domain()),
            gpus: slot.gpus(),
            hosts: &[],
            rayon: &rayon,
            peers: None,
        };
        self.shared.runner.run(lease.task, &seat)
    }

    /// The fast path: a first attempt at a task at home has completed.
    fn complete(
        &self,
        (ledger, item): (&DependencyCounts, Item),
        (lease, outcome): (Lease, Outcome),
        start: Time,
        slot: &mut Slot<'_>,
    ) {
        let shared = &*self.shared;
        let state = &shared.slots[slot.index()];
        let mut ended = state.timer.end(&shared.clock).map(|end| end.max(start));
        let mut outbox = lock(&state.outbox);
        if item.tag != shared.ledgers.current() {
            // Homes are changing, or have changed: the engine finds out which rank counts it.
            let end = ended.unwrap_or_else(|| state.timer.read(&shared.clock).max(start));
            outbox.ended.push(lease.ended(outcome, shared.me, slot.index() as u16, start, end));
            drop(outbox);
            return self.exchange(slot, end);
        }
        let Outbox { effects, attempts, special, .. } = &mut *outbox;
        if !ledger.complete(item.task, true, ended.unwrap_or(start), effects) {
            return;
        }
        // With the tag of this ledger: it may be retired at this moment.
        let current = CurrentLedger { tag: item.tag, ledger };
        shared.release(current, &mut effects.ready, Some(slot), special);
        // Successors became ready at this time, so it is also when this task ended.
        let end = ended.unwrap_or(start);
        if ended.is_none() && slot.is_last() {
            ended = Some(state.timer.read(&shared.clock).max(start));
        }
        attempts.push(lease.ended(outcome, shared.me, slot.index() as u16, start, end));
        if shared.lane.is_some() && (!effects.exports.is_empty() || state.is_poll_due(TASKS_PER_RING_POLL)) {
            shared.exchange_intra_node(current, &mut outbox, slot);
        }
        let (is_awaited, is_full) = (outbox.is_awaited(), outbox.attempts.len() >= MAX_BATCHED_ATTEMPTS);
        drop(outbox);
        // Completions that no rank waits for leave in larger batches.
        let is_due = |now: Time| now.0 - state.last_exchange_ns.load(Relaxed) >= MAX_BUSY_EXCHANGE_INTERVAL_NS;
        if is_awaited || is_full || ended.is_some_and(is_due) {
            self.exchange(slot, ended.unwrap_or(end));
        }
    }

    fn run_lease(&self, item: Item, slot: &mut Slot<'_>) {
        let shared = &*self.shared;
        let Some(lease) = lock(&shared.leases).get(item.task as usize).copied() else { return };
        let state = &shared.slots[slot.index()];
        state.starving_calls.store(0, Relaxed);
        let start = state.timer.begin(&shared.clock, lease.ready);
        let outcome = self.execute(&lease, slot);
        lock(&shared.leases).try_remove(item.task as usize);
        self.leave_to_engine(lease, outcome, start, slot);
    }

    /// Leaves an attempt to the engine that the slot cannot count by itself.
    fn leave_to_engine(&self, lease: Lease, outcome: Outcome, start: Time, slot: &mut Slot<'_>) {
        let shared = &*self.shared;
        let state = &shared.slots[slot.index()];
        let end = state.timer.read(&shared.clock).max(start);
        let record = lease.ended(outcome, shared.me, slot.index() as u16, start, end);
        lock(&state.outbox).ended.push(record);
        if shared.telemetry.is_storage_lost() {
            // The output of further tasks would be lost too. The main thread notifies rank 0.
            shared.pause();
            shared.event_wait.notify();
        }
        if outcome.state.is_failure() && shared.stops_by_failures {
            // The engine must count this failure before the slot begins another task.
            self.engine.lock().exchange(slot, OutboxScope::All, SlotPhase::Busy);
        }
        self.exchange(slot, end);
    }

    /// Passes on what the slot did and takes what has arrived. The slot has more tasks to run.
    #[cold]
    fn exchange(&self, slot: &mut Slot<'_>, now: Time) {
        self.shared.slots[slot.index()].last_exchange_ns.store(now.0, Relaxed);
        self.engine.drive(|engine, drain| {
            engine.exchange(slot, drain, SlotPhase::Busy);
        });
    }
}

impl Workload for Executor {
    fn run(&self, item: Item, slot: &mut Slot<'_>) {
        let shared = &*self.shared;
        let state = &shared.slots[slot.index()];
        if item.constrained {
            shared.constrained_waiting.fetch_sub(1, Relaxed);
            // It may have waited for other slots since the last task ended on this one.
            state.timer.pause();
        }
        if shared.sets_aside(item) {
            return;
        }
        if item.tag == LEASE_TAG {
            return self.run_lease(item, slot);
        }
        let mut cached = lock(&state.ledger);
        let Some(ledger) = shared.ledgers.get_cached(item.tag, &mut cached) else { return report_lost_ledger() };
        let lease = shared.home_lease(ledger, item);
        state.starving_calls.store(0, Relaxed);
        let start = state.timer.begin(&shared.clock, lease.ready);
        let outcome = self.execute(&lease, slot);
        match outcome.ok() {
            true => self.complete((ledger, item), (lease, outcome), start, slot),
            false => self.leave_to_engine(lease, outcome, start, slot),
        }
    }

    fn needs(&self, item: Item) -> Needs {
        let shared = &*self.shared;
        shared.attempt_of(item).and_then(|(task, short)| shared.needs_of(task, short)).unwrap_or(Needs::SLOT)
    }

    fn starving(&self, slot: &mut Slot<'_>, patient: bool) -> bool {
        let shared = &*self.shared;
        let state = &shared.slots[slot.index()];
        state.timer.pause();
        let calls = state.starving_calls.load(Relaxed) + 1;
        state.starving_calls.store(calls, Relaxed);
        if patient && shared.lane.is_some() {
            if shared.receive_intra_node(slot) {
                shared.has_received_work.store(true, Relaxed);
                return true;
            }
            if !calls.is_multiple_of(STARVING_CALLS_PER_EXCHANGE) {
                return false;
            }
        }
        let mut found = false;
        let mut poll = |engine: &mut Engine, drain| {
            found |= match patient && !calls.is_multiple_of(STARVING_CALLS_PER_POLL) {
                true => engine.exchange(slot, drain, SlotPhase::Starving),
                false => engine.poll_from_slot(patient),
            };
        };
        match patient {
            // The slot calls again in a moment, so it need not request the engine if that is taken.
            true => self.engine.try_drive(&mut poll),
            false => self.engine.drive(poll),
        }
        found
    }

    fn stands_still(&self, slot: usize) {
        self.shared.slots[slot].timer.pause();
    }

    fn impossible(&self, item: Item, why: Impossible) {
        self.shared.constrained_waiting.fetch_sub(1, Relaxed);
        let Some(lease) = self.shared.take_lease(item) else { return };
        tracing::error!(task = %self.shared.job.task_name(lease.task), "{why}");
        self.shared.fail_unstarted(lease, &why.to_string());
    }

    fn pool_units_returned(&self) {
        self.shared.event_wait.notify();
    }

    fn held(&self, id: HoldId, slot: usize, cpus: &[u32], gpus: &[u32]) {
        self.shared.gang_holds(id, slot, cpus, gpus);
    }

    fn panicked(&self, item: Option<Item>, message: String) {
        tracing::error!(?item, "Phalanx itself failed while running a task: {message}");
        let Some(lease) = item.and_then(|item| self.shared.take_lease(item)) else { return };
        self.shared.fail_unstarted(lease, &format!("Phalanx itself failed while running it: {message}"));
    }
}
