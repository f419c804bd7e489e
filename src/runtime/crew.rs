//! What the slots of a rank do between two tasks: run, count, pass on.
//!
//! The crew is the pool's workload. A slot that completed a task at home counts it in the ledger by itself, starts the successors that
//! became ready, and leaves in its *outbox* what other ranks must hear of: that is the fast path, without a shared lock. Everything else (failures,
//! further attempts, tasks on lease) goes to the engine through the same outbox.
//!
//! A slot without work drives the engine itself if nobody else does, so a message that brings work need not wait for a thread to
//! wake up.

use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU32, Ordering::Relaxed, Ordering::SeqCst};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use crossbeam_utils::CachePadded;

use super::clock::Clock;
use super::engine::Engine;
use super::glue;
use super::wake::Wake;
use crate::exec::{Runner, Seat};
use crate::job::Job;
use crate::model::{Attempt, Outcome, Rank, State, TaskId, Time};
use crate::pool::{Handle, HoldId, Impossible, Item, Needs, PoolError, Slot, Workload};
use crate::schedule::ledger::{Ledger, Ripple};
use crate::schedule::protocol::{Lease, Load};
use crate::topology::bind_to_lent;

/// A task at home, by local number.
const HOME: u8 = 0;
/// An entry of `leases`.
const LEASED: u8 = 1;

const FAILED: Outcome = Outcome { state: State::Failed, exit: 1 };

/// A task that ran this long is told of at once; shorter ones share the telling.
const LONG_NS: u64 = 100_000;

/// So many short tasks share the telling.
const BATCH: usize = 64;

/// See the module's text.
pub(super) struct Crew {
    pub(super) me: Rank,
    pub(super) clock: Clock,
    pub(super) wake: Wake,
    pub(super) runner: Runner,
    pub(super) job: Arc<Job>,
    pub(super) engine: Mutex<Engine>,
    /// What each group's tasks need of a rank beyond one slot.
    needs: OnceLock<Vec<Option<Needs>>>,
    firsts: Vec<u32>,
    ledger: OnceLock<Arc<Ledger>>,
    pool: OnceLock<Handle>,
    outboxes: Vec<CachePadded<Mutex<Outbox>>>,
    leases: Mutex<Leases>,
    /// Constrained items that wait at the gate: no other rank can have them.
    waiting: AtomicU32,
    pub(super) gangs: Gangs,
}

/// What a slot leaves for the engine.
#[derive(Default)]
pub(super) struct Outbox {
    /// Tasks that completed on the fast path.
    pub(super) attempts: Vec<Attempt>,
    /// What followed from them for other ranks.
    pub(super) ripple: Ripple,
    /// Tasks that became ready and may need more than this rank.
    pub(super) special: Vec<u32>,
    /// Attempts that the engine decides about.
    pub(super) ended: Vec<Attempt>,
    /// Gangs whose slots are set aside, and the CPUs of those.
    pub(super) held: Vec<(u32, Vec<u32>)>,
    /// Gangs led from here whose task has ended.
    pub(super) gang_ended: Vec<u32>,
}

impl Outbox {
    pub(super) fn is_empty(&self) -> bool {
        self.attempts.is_empty()
            && self.special.is_empty()
            && self.ended.is_empty()
            && self.held.is_empty()
            && self.gang_ended.is_empty()
    }
}

/// Leases that wait in the pool, by the number that their item carries.
#[derive(Default)]
struct Leases {
    entries: Vec<Option<Lease>>,
    free: Vec<u32>,
}

impl Leases {
    fn put(&mut self, lease: Lease) -> u32 {
        match self.free.pop() {
            Some(at) => {
                self.entries[at as usize] = Some(lease);
                at
            }
            None => {
                self.entries.push(Some(lease));
                self.entries.len() as u32 - 1
            }
        }
    }

    fn get(&self, at: u32) -> Option<Lease> {
        self.entries.get(at as usize).copied().flatten()
    }

    fn take(&mut self, at: u32) -> Option<Lease> {
        let lease = self.entries.get_mut(at as usize)?.take()?;
        self.free.push(at);
        Some(lease)
    }
}

/// Gangs that hold slots of this rank.
#[derive(Default)]
pub(super) struct Gangs {
    by_hold: Mutex<HashMap<HoldId, u32>>,
    /// For each gang: its hold, and what is led from here.
    pub(super) held: Mutex<HashMap<u32, Held>>,
    pub(super) running: AtomicU32,
}

/// One gang's slots on this rank.
pub(super) struct Held {
    hold: HoldId,
    pub(super) lead: Option<Lease>,
    /// One of its slots, whose seat the task of the gang takes.
    pub(super) slot: u16,
}

/// Takes a lock; what a panicking thread left behind is still whole, as every critical section here only moves values.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Crew {
    pub(super) fn new(
        me: Rank,
        clock: Clock,
        wake: Wake,
        runner: Runner,
        job: Arc<Job>,
        engine: Engine,
        slots: usize,
    ) -> Crew {
        Crew {
            me,
            clock,
            wake,
            runner,
            engine: Mutex::new(engine),
            needs: OnceLock::new(),
            firsts: job.groups.iter().map(|g| g.first.0).collect(),
            job,
            ledger: OnceLock::new(),
            pool: OnceLock::new(),
            // One more for threads that are no slots: the leaders of gangs.
            outboxes: (0..=slots).map(|_| CachePadded::default()).collect(),
            leases: Mutex::default(),
            waiting: AtomicU32::new(0),
            gangs: Gangs::default(),
        }
    }

    /// From now on tasks can be started.
    pub(super) fn set_pool(&self, handle: Handle) {
        let _ = self.pool.set(handle);
    }

    pub(super) fn pool(&self) -> Option<&Handle> {
        self.pool.get()
    }

    /// Takes up the tasks at home here.
    pub(super) fn open(&self, ledger: &Arc<Ledger>, limits: &[(u32, u32)]) {
        let groups = self.job.groups.iter().enumerate();
        let _ = self.needs.set(groups.map(|(id, group)| glue::needs(id, group, limits)).collect());
        let _ = self.ledger.set(Arc::clone(ledger));
    }

    fn needs_of(&self, task: TaskId) -> Option<Needs> {
        self.needs.get()?.get(self.group(task)).copied().flatten()
    }

    /// What the slots are doing. To be read before their outboxes: what it calls idle has left everything there.
    pub(super) fn load(&self) -> Load {
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

    /// True if nothing can run here any more until the pool goes on. To be read before the slots' outboxes.
    pub(super) fn is_quiet(&self) -> bool {
        self.gangs.running.load(SeqCst) == 0 && self.pool.get().is_none_or(Handle::is_quiet)
    }

    /// Exchanges a slot's outbox for an empty one; false if there is nothing in it.
    pub(super) fn take_outbox(&self, slot: usize, into: &mut Outbox) -> bool {
        let mut outbox = lock(&self.outboxes[slot]);
        if outbox.is_empty() {
            return false;
        }
        std::mem::swap(&mut *outbox, into);
        true
    }

    pub(super) fn outboxes(&self) -> usize {
        self.outboxes.len()
    }

    fn group(&self, task: TaskId) -> usize {
        self.firsts.partition_point(|&first| first <= task.0).saturating_sub(1)
    }

    fn home_item(&self, ledger: &Ledger, local: u32) -> Item {
        let constrained = ledger.is_special(local) && self.needs_of(ledger.task(local)).is_some();
        Item { task: local, urgency: ledger.urgency(local), tag: HOME, constrained }
    }

    /// Starts tasks at home.
    pub(super) fn start(&self, locals: &[u32]) {
        let (Some(pool), Some(ledger)) = (self.pool.get(), self.ledger.get()) else { return };
        let items: Vec<Item> = locals.iter().map(|&local| self.home_item(ledger, local)).collect();
        self.waiting.fetch_add(items.iter().filter(|i| i.constrained).count() as u32, Relaxed);
        pool.push_many(&items);
    }

    /// Starts an attempt that is not a first one at home.
    pub(super) fn start_lease(&self, lease: Lease) {
        let Some(pool) = self.pool.get() else { return };
        // One that is to be tried on another rank must not be stolen back: only plain items are given away.
        let settled = lease.attempt > 1 && self.job.group(lease.task).retry.elsewhere;
        let constrained = settled || self.needs_of(lease.task).is_some();
        self.waiting.fetch_add(u32::from(constrained), Relaxed);
        let task = lock(&self.leases).put(lease);
        pool.push(Item { task, urgency: lease.urgency, tag: LEASED, constrained });
    }

    /// Takes tasks that any rank can run out of the pool.
    pub(super) fn surrender(&self, max: u32) -> Vec<Lease> {
        let (Some(pool), Some(ledger)) = (self.pool.get(), self.ledger.get()) else { return Vec::new() };
        let lease = |item: Item| self.lease_of(ledger, item);
        pool.surrender(max as usize).into_iter().filter_map(lease).collect()
    }

    /// What an item stands for, once: a lease is then no longer this rank's.
    fn lease_of(&self, ledger: &Ledger, item: Item) -> Option<Lease> {
        let lease = self.peek(ledger, item)?;
        if item.tag == LEASED {
            lock(&self.leases).take(item.task);
        }
        Some(lease)
    }

    /// What an item stands for.
    fn peek(&self, ledger: &Ledger, item: Item) -> Option<Lease> {
        match item.tag {
            LEASED => lock(&self.leases).get(item.task),
            _ => Some(Lease {
                task: ledger.task(item.task),
                home: self.me,
                attempt: 1,
                urgency: item.urgency,
                ready: ledger.ready_at(item.task),
            }),
        }
    }

    /// Sets slots aside for a gang.
    pub(super) fn hold(&self, gang: u32, slots: u32, lead: Option<Lease>) -> Result<(), String> {
        let pool = self.pool.get().ok_or("was asked for slots, but has none")?;
        // `held` may be called before `hold` returns: it finds the gang once this lock is free.
        let mut by_hold = lock(&self.gangs.by_hold);
        let hold = pool.hold(Needs { cpus: slots, ..Needs::SLOT }).map_err(|error| format!("an MPI task {error}"))?;
        by_hold.insert(hold, gang);
        lock(&self.gangs.held).insert(gang, Held { hold, lead, slot: 0 });
        Ok(())
    }

    /// Frees the slots of a gang.
    pub(super) fn release(&self, gang: u32) {
        let held = lock(&self.gangs.held).remove(&gang);
        if let (Some(held), Some(pool)) = (held, self.pool.get()) {
            lock(&self.gangs.by_hold).remove(&held.hold);
            pool.release(held.hold);
        }
    }

    /// Runs the task of a gang that this rank leads, in a thread of its own: the slots that it holds sleep meanwhile.
    pub(super) fn launch(self: &Arc<Self>, gang: u32, hosts: Vec<(String, u32)>, cpus: Vec<u32>) {
        let led = lock(&self.gangs.held).get_mut(&gang).and_then(|h| Some((h.lead.take()?, h.slot)));
        // Released meanwhile: the run is being stopped.
        let Some((lease, slot)) = led else { return };
        self.gangs.running.fetch_add(1, SeqCst);
        let crew = Arc::clone(self);
        let run = move || crew.lead(gang, lease, slot, &cpus, &hosts);
        if let Err(error) = std::thread::Builder::new().name(format!("gang-{gang}")).spawn(run) {
            tracing::error!(gang, %error, "cannot start the thread of an MPI task");
            let now = self.clock.now();
            self.gang_over(gang, lease, FAILED, slot, now);
        }
    }

    fn lead(&self, gang: u32, lease: Lease, slot: u16, cpus: &[u32], hosts: &[(String, u32)]) {
        let start = self.clock.now();
        // This thread was started by whichever slot heard of the launch, and has its CPU; mpirun is to have those of the gang.
        if let Err(error) = bind_to_lent(cpus) {
            tracing::warn!(gang, %error, "the MPI task is not bound to the CPUs set aside for it");
        }
        let rayon = || panic!("an MPI task is a command and has no rayon pool");
        let seat = Seat { slot, attempt: lease.attempt, cpus, numa: None, gpus: &[], hosts, rayon: &rayon };
        let run = || self.runner.run(lease.task, &seat);
        let outcome = catch_unwind(AssertUnwindSafe(run)).unwrap_or(FAILED);
        self.gang_over(gang, lease, outcome, slot, start);
    }

    fn gang_over(&self, gang: u32, lease: Lease, outcome: Outcome, slot: u16, start: Time) {
        let attempt = self.record(lease.task, lease.attempt, outcome, slot, lease.ready, start, self.clock.now());
        self.release(gang);
        let mut outbox = lock(&self.outboxes[self.outboxes.len() - 1]);
        outbox.ended.push(attempt);
        outbox.gang_ended.push(gang);
        drop(outbox);
        self.gangs.running.fetch_sub(1, SeqCst);
        self.wake.tell();
    }

    #[expect(clippy::too_many_arguments, reason = "one value for each field of the record")]
    fn record(
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
    fn complete(&self, ledger: &Ledger, local: u32, attempt: Attempt, slot: &mut Slot<'_>) -> bool {
        let mut outbox = lock(&self.outboxes[slot.index()]);
        let Outbox { ripple, attempts, special, .. } = &mut *outbox;
        if !ledger.complete(local, true, attempt.end, ripple) {
            return false;
        }
        attempts.push(attempt);
        let mut urgent = false;
        for local in ripple.ready.drain(..) {
            if ledger.is_special(local) {
                special.push(local);
                urgent = true;
            } else {
                slot.push(Item { task: local, urgency: ledger.urgency(local), tag: HOME, constrained: false });
            }
        }
        // Another rank may be starving for what ended here, unless many such tasks end in a moment anyway.
        let long = attempt.end.0 - attempt.start.0 >= LONG_NS;
        urgent || long || attempts.len() >= BATCH
    }
}

/// The kernel's panic becomes the failure of its task, with this text.
fn no_team(error: &PoolError) -> Arc<rayon::ThreadPool> {
    panic!("{error}")
}

impl Workload for Crew {
    fn run(&self, item: Item, slot: &mut Slot<'_>) {
        let Some(ledger) = self.ledger.get() else { return };
        if item.constrained {
            self.waiting.fetch_sub(1, Relaxed);
        }
        let Some(lease) = self.peek(ledger, item) else { return };
        let start = self.clock.now();
        let outcome = self.execute(lease.task, lease.attempt, slot);
        let end = self.clock.now();
        let index = slot.index() as u16;
        let record = self.record(lease.task, lease.attempt, outcome, index, lease.ready, start, end);
        let fast = item.tag == HOME && outcome.ok();
        let urgent = if fast {
            self.complete(ledger, item.task, record, slot)
        } else {
            self.lease_of(ledger, item);
            lock(&self.outboxes[slot.index()]).ended.push(record);
            true
        };
        if urgent {
            self.wake.tell();
        }
    }

    fn needs(&self, item: Item) -> Needs {
        let task = match item.tag {
            LEASED => lock(&self.leases).get(item.task).map(|l| l.task),
            _ => self.ledger.get().map(|ledger| ledger.task(item.task)),
        };
        task.and_then(|task| self.needs_of(task)).unwrap_or(Needs::SLOT)
    }

    fn starving(&self, _slot: &mut Slot<'_>) -> bool {
        match self.engine.try_lock() {
            Ok(mut engine) => engine.turn_from_slot(self),
            Err(_) => false,
        }
    }

    fn impossible(&self, item: Item, why: Impossible) {
        self.waiting.fetch_sub(1, Relaxed);
        let Some(lease) = self.ledger.get().and_then(|ledger| self.lease_of(ledger, item)) else { return };
        tracing::error!(task = %self.job.task_name(lease.task), "{why}");
        let now = self.clock.now();
        let record = self.record(lease.task, lease.attempt, FAILED, 0, lease.ready, now, now);
        lock(&self.outboxes[self.outboxes.len() - 1]).ended.push(record);
        self.wake.tell();
    }

    fn held(&self, id: HoldId, slot: usize, cpus: &[u32], _gpus: &[u32]) {
        let Some(gang) = lock(&self.gangs.by_hold).get(&id).copied() else { return };
        if let Some(held) = lock(&self.gangs.held).get_mut(&gang) {
            held.slot = slot as u16;
        }
        lock(&self.outboxes[self.outboxes.len() - 1]).held.push((gang, cpus.to_vec()));
        self.wake.tell();
    }

    fn panicked(&self, item: Option<Item>, message: String) {
        tracing::error!(?item, "Phalanx itself failed while running a task: {message}");
        let Some(item) = item else { return };
        let Some(lease) = self.ledger.get().and_then(|ledger| self.lease_of(ledger, item)) else { return };
        let now = self.clock.now();
        let record = self.record(lease.task, lease.attempt, FAILED, 0, lease.ready, now, now);
        lock(&self.outboxes[self.outboxes.len() - 1]).ended.push(record);
        self.wake.tell();
    }
}
