//! What the slots and the engine of a rank share.
//!
//! Slots use it between two tasks without the engine; the engine carries out the worker's decisions
//! through it. Whatever crosses from one to the other goes through the outboxes of the slots and
//! the pool. It refers neither to the engine nor to the executor.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::Relaxed, Ordering::Release, Ordering::SeqCst};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use crossbeam_utils::CachePadded;
use slab::Slab;

use super::file_link::FileLink;
use super::gangs::HeldGangs;
use super::ledger_epochs::LedgerEpochs;
use super::live_job::LiveJob;
use super::offers::Offers;
use super::outbox::{Outbox, SlotState};
use super::output_link::{OutputReceiver, OutputSender};
use super::paused_tasks::PausedTasks;
use super::resource_monitor::ResourceMonitor;
use super::slot_breather::SlotBreather;
use super::telemetry::TelemetryBuffer;
use crate::exec::{Kernels, Runner, TaskSource};
use crate::fabric::near::NearLane;
use crate::job::read_added;
use crate::model::{Outcome, Rank, Reason, State};
use crate::pool::{Handle, PoolError};
use crate::runtime::clock::Clock;
use crate::runtime::event_wait::EventWait;
use crate::schedule::dependency_counts::DependencyCounts;
use crate::schedule::pools::PoolReport;
use crate::schedule::protocol::{AddedTables, Lease, Load};

/// The outcome of an attempt that Phalanx itself could not run.
pub(super) const FAILED: Outcome = Outcome { state: State::Failed, exit: 1, cached: false };

/// State of a rank that its slots and its engine both use.
pub(in crate::runtime) struct Shared {
    pub(super) me: Rank,
    pub(in crate::runtime) clock: Clock,
    /// Where the main thread waits.
    pub(super) event_wait: Arc<EventWait>,
    pub(super) runner: Arc<Runner>,
    pub(super) job: Arc<LiveJob>,
    /// Parses tasks that are added.
    pub(super) kernels: Kernels,
    pub(in crate::runtime) offers: Arc<Offers>,
    pub(super) ledgers: LedgerEpochs,
    /// Set once, before the engine is first used.
    pub(super) pool: OnceLock<Handle>,
    /// One for each slot, and one more for threads that are no slots.
    pub(super) slots: Vec<CachePadded<SlotState>>,
    /// The rings to the ranks of this node, which slots use without the engine.
    pub(super) lane: Option<NearLane>,
    /// The epoch of the current ledger.
    pub(super) epoch: AtomicU32,
    /// A starving slot has received work since the engine last checked.
    pub(super) has_received_work: AtomicBool,
    /// The leases that wait or run here, by the number that their item carries.
    pub(super) leases: Mutex<Slab<Lease>>,
    /// Number of constrained items that wait in the pool. No other rank can have them.
    pub(super) constrained_waiting: AtomicU32,
    pub(super) paused: PausedTasks,
    pub(super) gangs: HeldGangs,
    pub(in crate::runtime) files: Arc<FileLink>,
    /// Sends output to rank 0, if this rank does not see the run directory.
    pub(super) output_sender: Option<Arc<OutputSender>>,
    /// Writes the output of such ranks, on rank 0.
    pub(in crate::runtime) output_receiver: OutputReceiver,
    /// The run ends after a number of failures.
    pub(super) stops_by_failures: bool,
    pub(super) telemetry: Arc<TelemetryBuffer>,
    /// Adjusts the number of slots, where the job gives a range.
    pub(super) breather: OnceLock<SlotBreather>,
    /// Samples into `telemetry` until it is dropped.
    pub(super) _monitor: ResourceMonitor,
}

/// Takes a lock, also after a panic of another holder: every critical section here only moves
/// values, so none is left half done.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The panic of a kernel becomes the failure of its task, with this text.
pub(super) fn panic_without_team(error: &PoolError) -> Arc<rayon::ThreadPool> {
    panic!("{error}")
}

impl Shared {
    /// From now on tasks can be started.
    pub(super) fn set_pool(&self, handle: Handle) {
        let _ = self.pool.set(handle);
    }

    /// Starts no further tasks.
    pub(super) fn pause(&self) {
        if let Some(pool) = self.pool.get() {
            pool.pause();
        }
    }

    /// Starts tasks again, unless the run directory can no longer be written.
    pub(super) fn resume(&self) {
        if let Some(pool) = self.pool.get().filter(|_| !self.telemetry.is_storage_lost()) {
            pool.resume();
        }
    }

    /// Adds tasks, which a later hand-out may bring.
    ///
    /// # Errors
    /// If rank 0 accepts what this rank cannot read.
    pub(super) fn add_tasks(&self, added: Vec<AddedTables>) -> Result<(), String> {
        for AddedTables { first_task, first_group, text } in added {
            let read = read_added(self.job.start(), (first_task, first_group), text, &self.kernels);
            let job = Arc::new(read.map_err(|error| error.to_string())?);
            self.runner.add(Arc::clone(&job) as Arc<dyn TaskSource>);
            self.job.add(first_group, job);
        }
        if let Some(pool) = self.pool.get() {
            let (pools, fair) = self.job.tables();
            pool.grow(pools, fair);
        }
        Ok(())
    }

    /// Begins an epoch: from now on slots count in this ledger.
    pub(super) fn open_epoch(&self, epoch: u32, ledger: &Arc<DependencyCounts>) {
        // Before the ledger: slots count only once that is there, and read the epoch after it.
        self.epoch.store(epoch, Release);
        self.ledgers.set(ledger);
    }

    /// What the slots are doing. Read it before their outboxes: a slot that it counts as idle has
    /// left everything in its outbox.
    pub(super) fn load(&self) -> Load {
        let gangs = self.gangs.running.load(SeqCst);
        let Some(pool) = self.pool.get() else { return Load { busy: gangs, running: gangs, ..Load::default() } };
        let load = pool.load();
        let waiting = self.constrained_waiting.load(Relaxed) as usize;
        Load {
            idle: (load.slots - load.busy) as u32,
            ready: load.ready.saturating_sub(waiting) as u32,
            // The slots of a gang are busy until shortly before its end is in the outbox.
            busy: gangs.max(load.busy as u32),
            running: load.running as u32 + gangs,
            held: (waiting + self.paused.len()) as u32,
        }
    }

    /// The report about leases of pools, if it would differ from the last one.
    pub(super) fn pool_report(&self, idle: u32) -> Option<PoolReport> {
        if !self.job.has_pools() {
            return None;
        }
        self.pool.get().and_then(|pool| pool.pool_report(idle))
    }

    /// True if a starving slot has received work since the last call.
    pub(super) fn take_received_work(&self) -> bool {
        self.has_received_work.load(Relaxed) && self.has_received_work.swap(false, Relaxed)
    }

    /// True if nothing can run here until the pool is resumed. Read it before the outboxes.
    pub(super) fn is_quiet(&self) -> bool {
        !self.gangs.is_running() && self.pool.get().is_none_or(Handle::is_quiet)
    }

    /// Swaps an outbox with `into`, which must be empty. False if the outbox is empty.
    pub(super) fn take_outbox(&self, slot: usize, into: &mut Outbox) -> bool {
        let mut outbox = lock(&self.slots[slot].outbox);
        if outbox.is_empty() {
            return false;
        }
        std::mem::swap(&mut *outbox, into);
        true
    }

    /// Number of outboxes.
    pub(super) fn outboxes(&self) -> usize {
        self.slots.len()
    }

    /// The outbox of threads that are no slots.
    pub(super) fn common_outbox(&self) -> MutexGuard<'_, Outbox> {
        lock(&self.slots[self.slots.len() - 1].outbox)
    }

    /// No answer of another rank will come any more: whoever waits for one ends.
    pub(in crate::runtime) fn close(&self) {
        self.offers.close();
        self.files.close();
        self.output_sender.iter().for_each(|sender| sender.close());
    }

    /// Fails a lease that was not run, for this reason.
    pub(super) fn fail_unstarted(&self, lease: Lease, reason: &str) {
        self.telemetry.add_reason(Reason::new(lease.task, lease.attempt, reason));
        let now = self.clock.now();
        let record = lease.ended(FAILED, self.me, 0, now, now);
        self.common_outbox().ended.push(record);
        self.event_wait.notify();
    }
}
