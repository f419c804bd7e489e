//! What the slots of a rank do between two tasks: run, count, pass on.
//!
//! The crew is the pool's workload. A slot that completed a task at home counts it in the ledger by
//! itself, starts the successors that became ready, and tells ranks of its node of the end by
//! itself (`express`): that is the fast path, without a lock that another waits for. Everything
//! else (ranks of other nodes, failures, further attempts, tasks on lease) it leaves for the engine
//! in its *outbox*.
//!
//! Slots drive the engine themselves, so that neither an end that others wait for nor a message that brings work waits for a thread to
//! wake up: a slot without work looks around all the time, one with work after an end that others must hear of and every [`ROUND`]. Who
//! finds the engine taken leaves a call, and whoever has it answers before going on (`driving`). `gangs` are the slots set aside for MPI tasks over
//! several ranks.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::Relaxed, Ordering::Release, Ordering::SeqCst};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, RwLock};

use crossbeam_utils::CachePadded;

use super::engine::Engine;
use super::gangs::Gangs;
use super::leases::Leases;
use super::ledger_epochs::{LedgerEpochs, Page};
pub(in crate::runtime) use super::outbox::Outbox;
use super::outbox::SlotState;
use super::resource_monitor::ResourceMonitor;
use super::telemetry::TelemetryBuffer;
use crate::exec::{Runner, Seat};
use crate::fabric::near::NearLane;
use crate::job::Job;
use crate::model::{Attempt, Outcome, Rank, Reason, State, TaskId, Time};
use crate::pool::{Handle, HoldId, Item, PoolError, Slot, Workload};
use crate::runtime::clock::Clock;
use crate::runtime::event_wait::EventWait;
use crate::schedule::ledger::Ledger;
use crate::schedule::protocol::{Lease, Load, is_among};
use crate::schedule::resources::{Impossible, Needs};
use crate::workload::requirements;

/// An item's tag if it stands for an entry of `leases`; other tags are pages, and the item a number on that page.
const LEASED: u8 = u8::MAX;

pub(super) const FAILED: Outcome = Outcome { state: State::Failed, exit: 1 };

/// A slot that runs tasks without a pause looks around this often (nanoseconds): a hundredth of it goes into the look.
const ROUND: u64 = 20_000;

/// A slot with work looks for counts from ranks of its node at least after so many tasks.
const TASKS_BETWEEN_LOOKS: u32 = 2;

/// So many ended tasks are passed on at once, however short.
const BATCH: usize = 256;

/// A starving slot that is asked to look for work looks for counts from ranks of its node; every so
/// many times it asks the engine for those of other ranks, too, ...
const POLLS_PER_EXCHANGE: u32 = 4;

/// ... and every so many times it looks at everything.
const POLLS: u32 = 64;

/// See the module's text.
pub(in crate::runtime) struct Executor {
    pub(in crate::runtime) me: Rank,
    pub(in crate::runtime) clock: Clock,
    pub(in crate::runtime) wake: Arc<EventWait>,
    pub(in crate::runtime) runner: Runner,
    pub(in crate::runtime) job: Arc<Job>,
    pub(in crate::runtime) engine: Mutex<Engine>,
    /// The rank's shares of groups' limits, by group.
    limits: RwLock<Vec<(u32, u32)>>,
    pub(super) pages: LedgerEpochs,
    pub(super) pool: OnceLock<Handle>,
    pub(super) stations: Vec<CachePadded<SlotState>>,
    /// Somebody found the engine taken.
    pub(super) called: AtomicBool,
    /// The way for ends between ranks of this node that needs no engine.
    pub(super) lane: Option<NearLane>,
    /// The epoch of the present page.
    pub(super) epoch: AtomicU32,
    /// A slot that starved has been given work that the engine does not know of.
    fed: AtomicBool,
    leases: Mutex<Leases>,
    /// Constrained items that wait at the gate: no other rank can have them.
    waiting: AtomicU32,
    pub(in crate::runtime) gangs: Gangs,
    /// The run ends after a number of failures.
    job_stops_by_failures: bool,
    /// What rank 0 is told for who watches.
    pub(in crate::runtime) mailbox: Arc<TelemetryBuffer>,
    /// Looks what is used, as long as the crew is there.
    _gauge: ResourceMonitor,
}

/// Takes a lock; what a panicking thread left behind is still whole, as every critical section here only moves values.
pub(in crate::runtime) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Executor {
    #[expect(clippy::too_many_arguments, reason = "one value for each of its parts")]
    pub(in crate::runtime) fn new(
        me: Rank,
        clock: Clock,
        wake: Arc<EventWait>,
        runner: Runner,
        job: Arc<Job>,
        engine: Engine,
        slots: usize,
        (mailbox, gauge): (Arc<TelemetryBuffer>, ResourceMonitor),
    ) -> Executor {
        let lane = engine.near();
        Executor {
            job_stops_by_failures: engine.stops_by_failures(),
            mailbox,
            _gauge: gauge,
            me,
            clock,
            wake,
            runner,
            engine: Mutex::new(engine),
            limits: RwLock::default(),
            job,
            pages: LedgerEpochs::new(),
            pool: OnceLock::new(),
            // One more for threads that are no slots: the leaders of gangs.
            stations: (0..=slots).map(|_| CachePadded::default()).collect(),
            called: AtomicBool::new(false),
            lane,
            epoch: AtomicU32::new(0),
            fed: AtomicBool::new(false),
            leases: Mutex::default(),
            waiting: AtomicU32::new(0),
            gangs: Gangs::default(),
        }
    }

    /// From now on tasks can be started.
    pub(in crate::runtime) fn set_pool(&self, handle: Handle) {
        let _ = self.pool.set(handle);
    }

    pub(in crate::runtime) fn pool(&self) -> Option<&Handle> {
        self.pool.get()
    }

    /// Starts nothing more.
    pub(in crate::runtime) fn pause(&self) {
        if let Some(pool) = self.pool.get() {
            pool.pause();
        }
    }

    /// Goes on, unless what would be started could not be kept.
    pub(in crate::runtime) fn resume(&self) {
        if let Some(pool) = self.pool.get().filter(|_| !self.mailbox.is_storage_lost()) {
            pool.resume();
        }
    }

    /// Takes up the tasks at home here.
    pub(in crate::runtime) fn open(&self, epoch: u32, ledger: &Arc<Ledger>, limits: &[(u32, u32)]) {
        *self.limits.write().unwrap_or_else(PoisonError::into_inner) = limits.to_vec();
        // Before the page: until that is there nobody counts on it.
        self.epoch.store(epoch, Release);
        self.pages.write(ledger);
    }

    /// Homes are about to change: from now on slots count nothing by themselves. To be followed by hearing what they have counted, and then by
    /// [`Executor::take_back`].
    pub(in crate::runtime) fn turn_page(&self) {
        self.pages.turn();
    }

    /// Takes all that waits out of the pool but for some of the most urgent; returns what is out. What slots have in their hands they keep.
    pub(in crate::runtime) fn take_back(&self, keep: u32) -> Vec<Lease> {
        let Some(pool) = self.pool.get() else { return Vec::new() };
        let constrained = pool.surrender_constrained();
        self.waiting.fetch_sub(constrained.len() as u32, Relaxed);
        let items = pool.surrender(usize::MAX).into_iter().chain(constrained);
        let mut leases: Vec<Lease> = items.filter_map(|item| self.lease_of(item)).collect();
        leases.sort_by_key(|lease| std::cmp::Reverse(lease.urgency));
        let out = leases.split_off((keep as usize).min(leases.len()));
        leases.into_iter().for_each(|lease| self.start_lease(lease));
        out
    }

    /// Those of these tasks (from, to) that wait here end as CANCELLED, without waiting for a slot. To be followed by hearing the outboxes.
    pub(in crate::runtime) fn call_off(&self, tasks: &[(u32, u32)]) {
        let Some(pool) = self.pool.get() else { return };
        let now = self.clock.now();
        let is_cancelled = |item: &Item| self.task_of(item).is_some_and(|task| is_among(task, tasks));
        let cancelled = pool.withdraw(&is_cancelled);
        self.waiting.fetch_sub(cancelled.iter().filter(|item| item.constrained).count() as u32, Relaxed);
        let leases = cancelled.into_iter().filter_map(|item| self.lease_of(item));
        self.common_outbox().ended.extend(leases.map(|lease| lease.cancelled(self.me, now)));
    }

    fn needs_of(&self, task: TaskId) -> Option<Needs> {
        let limits = self.limits.read().unwrap_or_else(PoisonError::into_inner);
        requirements::needs(&self.job, task, &limits)
    }

    /// What the slots are doing. To be read before their outboxes: what it calls idle has left everything there.
    pub(in crate::runtime) fn load(&self) -> Load {
        let gangs = self.gangs.running.load(SeqCst);
        let Some(pool) = self.pool.get() else { return Load { running: gangs, ..Load::default() } };
        let load = pool.load();
        let waiting = self.waiting.load(Relaxed) as usize;
        Load {
            idle: (load.slots - load.busy) as u32,
            ready: load.ready.saturating_sub(waiting) as u32,
            running: load.busy as u32 + gangs,
        }
    }

    /// True if a slot that starved has been given work since the last time.
    pub(in crate::runtime) fn was_fed(&self) -> bool {
        self.fed.load(Relaxed) && self.fed.swap(false, Relaxed)
    }

    /// True if nothing can run here any more until the pool goes on. To be read before the slots' outboxes.
    pub(in crate::runtime) fn is_quiet(&self) -> bool {
        self.gangs.running.load(SeqCst) == 0 && self.pool.get().is_none_or(Handle::is_quiet)
    }

    /// Exchanges a slot's outbox for an empty one; false if there is nothing in it.
    pub(in crate::runtime) fn take_outbox(&self, slot: usize, into: &mut Outbox) -> bool {
        let mut outbox = lock(&self.stations[slot].outbox);
        if outbox.is_empty() {
            return false;
        }
        std::mem::swap(&mut *outbox, into);
        true
    }

    pub(in crate::runtime) fn outboxes(&self) -> usize {
        self.stations.len()
    }

    /// The outbox of threads that are no slots.
    pub(super) fn common_outbox(&self) -> MutexGuard<'_, Outbox> {
        lock(&self.stations[self.stations.len() - 1].outbox)
    }

    /// Takes note of the time that the engine has looked at on behalf of a slot.
    pub(in crate::runtime) fn served(&self, slot: usize, now: Time) {
        self.stations[slot].watch.look(now);
    }

    /// Starts tasks at home that have become ready, in the slot at hand if there is one; leaves those in `special` that need a closer look.
    pub(in crate::runtime) fn release(
        &self,
        (tag, ledger): (u8, &Ledger),
        ready: &mut Vec<u32>,
        slot: Option<&mut Slot<'_>>,
        special: &mut Vec<u32>,
    ) {
        let plain = |local: u32| Item { task: local, urgency: ledger.urgency(local), tag, constrained: false };
        let is_plain = |local: u32, special: &mut Vec<u32>| {
            let looks = ledger.is_special(local);
            if looks {
                special.push(local);
            }
            !looks
        };
        match (slot, self.pool.get()) {
            (Some(slot), _) => {
                for local in ready.drain(..).filter(|&local| is_plain(local, special)) {
                    slot.push(plain(local));
                }
            }
            (None, Some(pool)) => {
                let items: Vec<Item> = ready.drain(..).filter(|&l| is_plain(l, special)).map(plain).collect();
                pool.push_many(&items);
            }
            (None, None) => ready.clear(),
        }
    }

    fn home_item(&self, ledger: &Ledger, local: u32) -> Item {
        let constrained = ledger.is_special(local) && self.needs_of(ledger.task(local)).is_some();
        Item { task: local, urgency: ledger.urgency(local), tag: self.pages.current(), constrained }
    }

    /// Starts tasks at home.
    pub(in crate::runtime) fn start(&self, locals: &[u32]) {
        let (Some(pool), Some(ledger)) = (self.pool.get(), self.page(self.pages.current())) else { return };
        let items: Vec<Item> = locals.iter().map(|&local| self.home_item(&ledger, local)).collect();
        self.waiting.fetch_add(items.iter().filter(|i| i.constrained).count() as u32, Relaxed);
        pool.push_many(&items);
    }

    /// Starts an attempt that is not a first one at home.
    pub(in crate::runtime) fn start_lease(&self, lease: Lease) {
        let Some(pool) = self.pool.get() else { return };
        // One that is to be tried on another rank must not be stolen back: only plain items are given away.
        let settled = lease.attempt > 1 && self.job.group(lease.task).retry.elsewhere;
        let constrained = settled || self.needs_of(lease.task).is_some();
        self.waiting.fetch_add(u32::from(constrained), Relaxed);
        let task = lock(&self.leases).put(lease);
        pool.push(Item { task, urgency: lease.urgency, tag: LEASED, constrained });
    }

    /// Takes tasks that any rank can run out of the pool.
    pub(in crate::runtime) fn surrender(&self, max: u32) -> Vec<Lease> {
        let Some(pool) = self.pool.get() else { return Vec::new() };
        pool.surrender(max as usize).into_iter().filter_map(|item| self.lease_of(item)).collect()
    }

    /// The task that an item stands for.
    fn task_of(&self, item: &Item) -> Option<TaskId> {
        match item.tag {
            LEASED => lock(&self.leases).get(item.task).map(|lease| lease.task),
            tag => self.page(tag).map(|page| page.task(item.task)),
        }
    }

    /// What an item stands for, once: a lease is then no longer this rank's.
    fn lease_of(&self, item: Item) -> Option<Lease> {
        match item.tag {
            LEASED => lock(&self.leases).take(item.task),
            tag => self.page(tag).map(|page| self.at_home(&page, item)),
        }
    }

    /// What an item at home stands for.
    #[inline]
    fn at_home(&self, ledger: &Ledger, item: Item) -> Lease {
        Lease {
            task: ledger.task(item.task),
            home: self.me,
            attempt: 1,
            urgency: item.urgency,
            ready: ledger.ready_at(item.task),
        }
    }

    #[inline]
    fn page(&self, tag: u8) -> Option<Page<'_>> {
        let page = self.pages.page(tag);
        if page.is_none() {
            lost_page();
        }
        page
    }

    /// The page that items are started from; it is only turned by whoever has the engine.
    pub(in crate::runtime) fn current_page(&self) -> u8 {
        self.pages.current()
    }

    #[expect(clippy::too_many_arguments, reason = "one value for each field of the record")]
    pub(super) fn record(
        &self,
        task: TaskId,
        attempt: u16,
        outcome: Outcome,
        slot: u16,
        ready: Time,
        start: Time,
        end: Time,
    ) -> Attempt {
        Attempt { task, attempt, outcome, last: outcome.ok(), rank: self.me, slot, ready, start, end }
    }

    fn execute(&self, task: TaskId, attempt: u16, slot: &Slot<'_>) -> Outcome {
        let team = slot.team();
        let rayon = || team.rayon().unwrap_or_else(|error| no_team(&error));
        let seat = Seat {
            slot: slot.index() as u16,
            attempt,
            cpus: slot.cpus(),
            numa: Some(slot.domain()),
            gpus: slot.gpus(),
            hosts: &[],
            rayon: &rayon,
        };
        self.runner.run(task, &seat)
    }

    /// The fast path: a first attempt at a task at home that completed.
    fn complete(&self, ledger: &Ledger, item: Item, lease: Lease, start: Time, slot: &mut Slot<'_>) {
        let station = &self.stations[slot.index()];
        let mut ended = station.watch.end(&self.clock).map(|end| end.max(start));
        let mut outbox = lock(&station.outbox);
        if item.tag != self.pages.current() {
            // Homes are changing, or have changed: the engine finds out who counts it.
            let end = ended.unwrap_or_else(|| station.watch.time(&self.clock).max(start));
            outbox.ended.push(self.record(lease.task, 1, Outcome::OK, slot.index() as u16, lease.ready, start, end));
            drop(outbox);
            return self.serve(slot, end);
        }
        let Outbox { ripple, attempts, special, .. } = &mut *outbox;
        if !ledger.complete(item.task, true, ended.unwrap_or(start), ripple) {
            return;
        }
        // With the tag of this ledger: the page may be turned just now.
        self.release((item.tag, ledger), &mut ripple.ready, Some(slot), special);
        // What follows became ready at this moment, so it is also when this one ended.
        let end = ended.unwrap_or(start);
        if ended.is_none() && slot.is_last() {
            ended = Some(station.watch.time(&self.clock).max(start));
        }
        attempts.push(self.record(lease.task, 1, Outcome::OK, slot.index() as u16, lease.ready, start, end));
        if self.lane.is_some() && (!ripple.exports.is_empty() || station.is_look_due(TASKS_BETWEEN_LOOKS)) {
            self.pass_on((item.tag, ledger), &mut outbox, slot);
        }
        let (awaited, full) = (outbox.is_awaited(), outbox.attempts.len() >= BATCH);
        drop(outbox);
        // What nobody waits for is passed on with more of it.
        if awaited || full || ended.is_some_and(|now| now.0 - station.served.load(Relaxed) >= ROUND) {
            self.serve(slot, ended.unwrap_or(end));
        }
    }

    fn run_lease(&self, item: Item, slot: &mut Slot<'_>) {
        let Some(lease) = lock(&self.leases).get(item.task) else { return };
        let station = &self.stations[slot.index()];
        station.polls.store(0, Relaxed);
        let start = station.watch.begin(&self.clock, lease.ready);
        let outcome = self.execute(lease.task, lease.attempt, slot);
        lock(&self.leases).take(item.task);
        self.hand_in(lease, outcome, start, slot);
    }

    /// Leaves an end to the engine that the slot cannot count by itself.
    fn hand_in(&self, lease: Lease, outcome: Outcome, start: Time, slot: &mut Slot<'_>) {
        let station = &self.stations[slot.index()];
        let end = station.watch.time(&self.clock).max(start);
        let record = self.record(lease.task, lease.attempt, outcome, slot.index() as u16, lease.ready, start, end);
        lock(&station.outbox).ended.push(record);
        if self.mailbox.is_storage_lost() {
            // What would be started next could not be kept either. Rank 0 is told by the main
            // thread.
            self.pause();
            self.wake.notify();
        }
        if outcome.state.is_failure() && self.job_stops_by_failures {
            // The slot must not begin another task before the engine has counted this failure.
            let mut engine = lock(&self.engine);
            engine.exchange(self, slot, true, true);
        }
        self.serve(slot, end);
    }

    /// The slot, which has more to do, passes on what it did and takes what has come.
    #[cold]
    fn serve(&self, slot: &mut Slot<'_>, now: Time) {
        self.stations[slot.index()].served.store(now.0, Relaxed);
        self.drive(|engine, called| {
            engine.exchange(self, slot, called, true);
        });
    }
}

#[cold]
fn lost_page() {
    tracing::error!("Phalanx itself failed: a slot has an item of a ledger that is long gone");
}

/// The kernel's panic becomes the failure of its task, with this text.
fn no_team(error: &PoolError) -> Arc<rayon::ThreadPool> {
    panic!("{error}")
}

impl Workload for Executor {
    fn run(&self, item: Item, slot: &mut Slot<'_>) {
        let station = &self.stations[slot.index()];
        if item.constrained {
            self.waiting.fetch_sub(1, Relaxed);
            // It may have waited for other slots since the one before it ended here.
            station.watch.pause();
        }
        if item.tag == LEASED {
            return self.run_lease(item, slot);
        }
        let mut kept = lock(&station.page);
        let Some(ledger) = self.pages.read(item.tag, &mut kept) else { return lost_page() };
        let lease = self.at_home(ledger, item);
        station.polls.store(0, Relaxed);
        let start = station.watch.begin(&self.clock, lease.ready);
        let outcome = self.execute(lease.task, lease.attempt, slot);
        match outcome.ok() {
            true => self.complete(ledger, item, lease, start, slot),
            false => self.hand_in(lease, outcome, start, slot),
        }
    }

    fn needs(&self, item: Item) -> Needs {
        let task = match item.tag {
            LEASED => lock(&self.leases).get(item.task).map(|l| l.task),
            tag => self.page(tag).map(|ledger| ledger.task(item.task)),
        };
        task.and_then(|task| self.needs_of(task)).unwrap_or(Needs::SLOT)
    }

    fn starving(&self, slot: &mut Slot<'_>, patient: bool) -> bool {
        let station = &self.stations[slot.index()];
        station.watch.pause();
        let polls = station.polls.load(Relaxed) + 1;
        station.polls.store(polls, Relaxed);
        if patient && self.lane.is_some() {
            if self.take_arrived(slot) {
                self.fed.store(true, Relaxed);
                return true;
            }
            if !polls.is_multiple_of(POLLS_PER_EXCHANGE) {
                return false;
            }
        }
        let mut found = false;
        let mut look = |engine: &mut Engine, called| {
            found |= match patient && !polls.is_multiple_of(POLLS) {
                true => engine.exchange(self, slot, called, false),
                false => engine.turn_from_slot(self, patient),
            };
        };
        match patient {
            // Finds it free the next time, if somebody has it now: nobody needs to look in its place.
            true => self.try_drive(&mut look),
            false => self.drive(look),
        }
        found
    }

    fn stands_still(&self, slot: usize) {
        self.stations[slot].watch.pause();
    }

    fn impossible(&self, item: Item, why: Impossible) {
        self.waiting.fetch_sub(1, Relaxed);
        let Some(lease) = self.lease_of(item) else { return };
        tracing::error!(task = %self.job.task_name(lease.task), "{why}");
        self.mailbox.reason(Reason::new(lease.task, lease.attempt, &why.to_string()));
        let now = self.clock.now();
        let record = self.record(lease.task, lease.attempt, FAILED, 0, lease.ready, now, now);
        self.common_outbox().ended.push(record);
        self.wake.notify();
    }

    fn held(&self, id: HoldId, slot: usize, cpus: &[u32], _gpus: &[u32]) {
        self.gang_holds(id, slot, cpus);
    }

    fn panicked(&self, item: Option<Item>, message: String) {
        tracing::error!(?item, "Phalanx itself failed while running a task: {message}");
        let Some(item) = item else { return };
        let Some(lease) = self.lease_of(item) else { return };
        let text = format!("Phalanx itself failed while running it: {message}");
        self.mailbox.reason(Reason::new(lease.task, lease.attempt, &text));
        let now = self.clock.now();
        let record = self.record(lease.task, lease.attempt, FAILED, 0, lease.ready, now, now);
        self.common_outbox().ended.push(record);
        self.wake.notify();
    }
}
