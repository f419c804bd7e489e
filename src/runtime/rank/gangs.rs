//! Slots that this rank sets aside for tasks on several ranks, and the tasks that it leads or
//! executes a share of.
//!
//! The coordinator requests slots, and memory and GPUs with them if the task asks for such. The
//! pool sets them aside when they are free and reports them. The rank that leads then runs the task
//! in a thread of its own: the `mpirun` of an MPI task, or its share of an operation on a divided
//! graph, of which the other ranks execute theirs in the same way. Meanwhile the slots sleep, and
//! an operation uses a rayon pool on their CPUs. However the task ends, its slots are freed once.

use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU32, Ordering::SeqCst};
use std::sync::{Arc, Mutex};

use super::gang_link::{GangLink, GangRun};
use super::piece_queue::PieceQueue;
use super::shared::{FAILED, Shared, lock, panic_without_team};
use crate::exec::ExecContext;
use crate::fabric::wire::Piece;
use crate::model::{GangHost, GangNode, Outcome, Rank, Reason, SetAside, State, Time};
use crate::pool::{HoldId, PoolError};
use crate::schedule::protocol::Lease;
use crate::topology::bind_to_lent;

/// The gangs that hold slots of this rank.
#[derive(Default)]
pub(super) struct HeldGangs {
    by_hold: Mutex<HashMap<HoldId, u32>>,
    by_gang: Mutex<HashMap<u32, GangHold>>,
    /// Number of gang tasks that this rank leads.
    pub(super) running: AtomicU32,
    /// Number of shares of operations that other ranks lead.
    shares: AtomicU32,
    pub(super) pieces: Arc<PieceQueue>,
}

impl HeldGangs {
    pub(super) fn new(pieces: Arc<PieceQueue>) -> HeldGangs {
        HeldGangs { pieces, ..HeldGangs::default() }
    }

    /// True if this rank runs a task of a gang, or a share of one.
    pub(super) fn is_running(&self) -> bool {
        self.running.load(SeqCst) + self.shares.load(SeqCst) > 0
    }
}

/// The slots of one gang on this rank.
struct GangHold {
    hold: HoldId,
    /// The task of the gang, if this rank leads it and has not started it yet.
    lead: Option<Lease>,
    /// One of its slots; the attempt is recorded as having run there.
    slot: u16,
    /// The CPUs of its slots.
    cpus: Vec<u32>,
    /// The memory that it needs here.
    memory: u64,
    /// What the ranks of an operation exchange.
    link: Arc<GangLink>,
    /// A share of an operation that another rank leads runs here.
    shares: bool,
    /// The gang has been released: only the share keeps the slots.
    is_released: bool,
}

/// What a thread needs to know of the slots that it uses.
struct HeldSlots {
    hold: HoldId,
    slot: u16,
    cpus: Vec<u32>,
    link: Arc<GangLink>,
}

impl GangHold {
    fn slots(&self) -> HeldSlots {
        HeldSlots { hold: self.hold, slot: self.slot, cpus: self.cpus.clone(), link: Arc::clone(&self.link) }
    }
}

impl Shared {
    /// Asks the pool to set aside for a gang what it needs here.
    pub(super) fn hold(&self, gang: u32, host: &GangHost, lease: Lease, leads: bool) -> Result<(), String> {
        let pool = self.pool.get().ok_or("was asked for slots, but has none")?;
        // The pool may call `held` before `hold` returns: that finds the gang once this lock is
        // free.
        let mut by_hold = lock(&self.gangs.by_hold);
        let needs = self.job.host_needs(&lease, host, self.runner.site().memory);
        let hold = pool.hold(needs);
        let hold = hold.map_err(|error| format!("a task on several ranks {error}"))?;
        by_hold.insert(hold, gang);
        let (link, lead, memory) = (Arc::default(), leads.then_some(lease), needs.memory);
        let held = GangHold { hold, lead, slot: 0, cpus: Vec::new(), memory, link, shares: false, is_released: false };
        lock(&self.gangs.by_gang).insert(gang, held);
        Ok(())
    }

    /// Frees the slots of a gang. A share of an operation ends first.
    pub(super) fn release_gang(&self, gang: u32) {
        let mut by_gang = lock(&self.gangs.by_gang);
        if let Some(held) = by_gang.get_mut(&gang).filter(|held| held.shares) {
            held.is_released = true;
            return held.link.close();
        }
        let held = by_gang.remove(&gang);
        drop(by_gang);
        self.gangs.pieces.withdraw(gang);
        if let (Some(held), Some(pool)) = (held, self.pool.get()) {
            lock(&self.gangs.by_hold).remove(&held.hold);
            pool.release(held.hold);
        }
    }

    /// Starts the task of a gang that this rank leads, in a thread of its own. `ranks`: those that
    /// execute an operation together; empty for an MPI task.
    pub(super) fn launch(self: &Arc<Self>, gang: u32, hosts: Vec<GangNode>, cpus: Vec<u32>, ranks: Vec<Rank>) {
        let mut by_gang = lock(&self.gangs.by_gang);
        let led = by_gang.get_mut(&gang).and_then(|held| Some((held.lead.take()?, held.slots())));
        drop(by_gang);
        // Without one it was released meanwhile: the run is being stopped.
        let Some((lease, slots)) = led else { return };
        let slot = slots.slot;
        self.gangs.running.fetch_add(1, SeqCst);
        let shared = Arc::clone(self);
        let run = move || match ranks.is_empty() {
            true => shared.run_mpi_task(gang, lease, slot, (&cpus, &hosts)),
            false => shared.run_operation(gang, lease, &slots, &ranks),
        };
        if let Err(error) = std::thread::Builder::new().name(format!("gang-{gang}")).spawn(run) {
            tracing::error!(gang, %error, "cannot start the thread of a task on several ranks");
            let text = format!("the system refuses a thread for the task: {error}");
            self.telemetry.add_reason(Reason::new(lease.task, lease.attempt, &text));
            let now = self.clock.now();
            self.end_gang(gang, lease, FAILED, slot, now);
        }
    }

    fn run_mpi_task(&self, gang: u32, lease: Lease, slot: u16, (cpus, hosts): (&[u32], &[GangNode])) {
        let start = self.clock.now();
        // The thread inherits the CPU of the slot that launched it; mpirun must get the gang's
        // CPUs.
        bind(gang, cpus);
        let rayon = || panic!("an MPI task is a command and has no rayon pool");
        let seat = ExecContext {
            slot,
            attempt: lease.attempt,
            short: self.job.shortfalls(lease.task, lease.short),
            cpus,
            numa: None,
            gpus: &[],
            hosts,
            rayon: &rayon,
            peers: None,
        };
        let run = || self.runner.run(lease.task, &seat);
        let outcome = catch_unwind(AssertUnwindSafe(run)).unwrap_or(FAILED);
        self.end_gang(gang, lease, outcome, slot, start);
    }

    /// Runs an operation that this rank leads: its attempt, and this rank's share.
    fn run_operation(&self, gang: u32, lease: Lease, slots: &HeldSlots, ranks: &[Rank]) {
        let start = self.clock.now();
        let outcome = self.with_peers(gang, lease, slots, ranks, |seat, _| self.runner.run(lease.task, seat));
        let outcome = match outcome.unwrap_or(FAILED) {
            // Not a failure of the task: it runs again, and that costs no retry.
            failed if failed.state == State::Failed && slots.link.has_lost_rank() => {
                Outcome { state: State::NodeFail, exit: 0, cached: false }
            }
            outcome => outcome,
        };
        self.end_gang(gang, lease, outcome, slots.slot, start);
    }

    /// Starts this rank's share of an operation that another rank leads, in a thread of its own.
    pub(super) fn share(self: &Arc<Self>, gang: u32, lease: Lease, ranks: Vec<Rank>) {
        self.gangs.shares.fetch_add(1, SeqCst);
        let mut by_gang = lock(&self.gangs.by_gang);
        let slots = by_gang.get_mut(&gang).map(|held| {
            held.shares = true;
            held.slots()
        });
        drop(by_gang);
        let Some(slots) = slots else { return self.end_share(gang) };
        let shared = Arc::clone(self);
        let link = Arc::clone(&slots.link);
        let its_ranks = ranks.clone();
        let run = move || {
            let share = |seat: &ExecContext, run: &GangRun| {
                if let Err(reason) = shared.runner.share(lease.task, seat) {
                    run.fail(&reason);
                }
            };
            if shared.with_peers(gang, lease, &slots, &ranks, share).is_none() {
                shared.gang_run(gang, &slots.link, &ranks).fail("Phalanx itself failed");
            }
            shared.end_share(gang);
        };
        if let Err(error) = std::thread::Builder::new().name(format!("share-{gang}")).spawn(run) {
            tracing::error!(gang, %error, "cannot start the thread of an operation that another rank leads");
            let reason = format!("the system refuses a thread: {error}");
            self.gang_run(gang, &link, &its_ranks).fail(&reason);
            self.end_share(gang);
        }
    }

    /// Calls `run` in this thread with the slots of a gang and its other ranks. `None` if it
    /// panicked.
    fn with_peers<T>(
        &self,
        gang: u32,
        lease: Lease,
        slots: &HeldSlots,
        ranks: &[Rank],
        run: impl FnOnce(&ExecContext, &GangRun) -> T,
    ) -> Option<T> {
        bind(gang, &slots.cpus);
        let team = || self.pool.get().map_or(Err(PoolError::NoSlots), |pool| pool.team_of(slots.hold));
        let rayon = || team().unwrap_or_else(|error| panic_without_team(&error));
        let peers = self.gang_run(gang, &slots.link, ranks);
        let seat = ExecContext {
            slot: slots.slot,
            attempt: lease.attempt,
            short: self.job.shortfalls(lease.task, lease.short),
            cpus: &slots.cpus,
            numa: None,
            gpus: &[],
            hosts: &[],
            rayon: &rayon,
            peers: Some(&peers),
        };
        catch_unwind(AssertUnwindSafe(|| run(&seat, &peers))).ok()
    }

    fn gang_run<'a>(&'a self, gang: u32, link: &'a GangLink, ranks: &'a [Rank]) -> GangRun<'a> {
        GangRun { me: self.me, queue: (&self.gangs.pieces, &self.event_wait), link, gang, ranks }
    }

    fn end_gang(&self, gang: u32, lease: Lease, outcome: Outcome, slot: u16, start: Time) {
        let attempt = lease.ended(outcome, self.me, slot, start, self.clock.now());
        self.release_gang(gang);
        self.common_outbox().gang_ended.push((gang, attempt));
        self.gangs.running.fetch_sub(1, SeqCst);
        self.event_wait.notify();
    }

    fn end_share(&self, gang: u32) {
        let mut by_gang = lock(&self.gangs.by_gang);
        let is_released = by_gang.get_mut(&gang).is_some_and(|held| {
            held.shares = false;
            held.is_released
        });
        drop(by_gang);
        if is_released {
            self.release_gang(gang);
        }
        self.common_outbox().shares_ended.push(gang);
        self.gangs.shares.fetch_sub(1, SeqCst);
        self.event_wait.notify();
    }

    /// A rank is lost that executes an operation which this rank leads.
    pub(super) fn member_lost(&self, gang: u32, rank: Rank) {
        if let Some(held) = lock(&self.gangs.by_gang).get(&gang) {
            held.link.lose(rank);
        }
    }

    /// Takes a piece of an operation in; drops that of a gang that has ended.
    pub(super) fn receive_piece(&self, from: Rank, gang: u32, piece: Piece) {
        let link = lock(&self.gangs.by_gang).get(&gang).map(|held| Arc::clone(&held.link));
        if let Some(link) = link {
            link.receive(from, piece);
        }
    }

    /// The pool has set aside what a hold needs.
    pub(super) fn gang_holds(&self, id: HoldId, slot: usize, cpus: &[u32], gpus: &[u32]) {
        let Some(gang) = lock(&self.gangs.by_hold).get(&id).copied() else { return };
        let site = self.runner.site();
        let (gpus, allocation) = (site.gpus.names(gpus), site.allocation.clone());
        let mut aside = SetAside { cpus: cpus.to_vec(), memory: 0, gpus, allocation };
        if let Some(held) = lock(&self.gangs.by_gang).get_mut(&gang) {
            (held.slot, held.cpus) = (slot as u16, cpus.to_vec());
            aside.memory = held.memory;
        }
        self.common_outbox().held.push((gang, aside));
        self.event_wait.notify();
    }
}

fn bind(gang: u32, cpus: &[u32]) {
    if let Err(error) = bind_to_lent(cpus) {
        tracing::warn!(gang, %error, "a task on several ranks is not bound to the CPUs set aside for it");
    }
}
