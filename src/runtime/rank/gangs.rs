//! Slots that this rank sets aside for MPI tasks over several ranks, and the tasks that it leads.
//!
//! The coordinator requests slots. The pool sets them aside when they are free and reports them.
//! The rank that leads then runs the task's `mpirun` in a thread of its own, while the slots that
//! it holds sleep. However the task ends, its slots are freed once.

use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU32, Ordering::SeqCst};
use std::sync::{Arc, Mutex};

use super::shared::{FAILED, Shared, lock};
use crate::exec::ExecContext;
use crate::model::{Outcome, Reason, Time};
use crate::pool::HoldId;
use crate::schedule::protocol::Lease;
use crate::schedule::resources::Needs;
use crate::topology::bind_to_lent;

/// The gangs that hold slots of this rank.
#[derive(Default)]
pub(super) struct HeldGangs {
    by_hold: Mutex<HashMap<HoldId, u32>>,
    by_gang: Mutex<HashMap<u32, GangHold>>,
    /// Number of gang tasks that this rank runs.
    pub(super) running: AtomicU32,
}

/// The slots of one gang on this rank.
struct GangHold {
    hold: HoldId,
    /// The task of the gang, if this rank leads it and has not started it yet.
    lead: Option<Lease>,
    /// One of its slots; the attempt is recorded as having run there.
    slot: u16,
}

impl Shared {
    /// Asks the pool to set slots aside for a gang.
    pub(super) fn hold(&self, gang: u32, slots: u32, lead: Option<Lease>) -> Result<(), String> {
        let pool = self.pool.get().ok_or("was asked for slots, but has none")?;
        // The pool may call `held` before `hold` returns: that finds the gang once this lock is
        // free.
        let mut by_hold = lock(&self.gangs.by_hold);
        let hold = pool.hold(Needs { cpus: slots, ..Needs::SLOT }).map_err(|error| format!("an MPI task {error}"))?;
        by_hold.insert(hold, gang);
        lock(&self.gangs.by_gang).insert(gang, GangHold { hold, lead, slot: 0 });
        Ok(())
    }

    /// Frees the slots of a gang.
    pub(super) fn release_gang(&self, gang: u32) {
        let held = lock(&self.gangs.by_gang).remove(&gang);
        if let (Some(held), Some(pool)) = (held, self.pool.get()) {
            lock(&self.gangs.by_hold).remove(&held.hold);
            pool.release(held.hold);
        }
    }

    /// Starts the task of a gang that this rank leads, in a thread of its own.
    pub(super) fn launch(self: &Arc<Self>, gang: u32, hosts: Vec<(String, u32)>, cpus: Vec<u32>) {
        let led = lock(&self.gangs.by_gang).get_mut(&gang).and_then(|held| Some((held.lead.take()?, held.slot)));
        // Without one it was released meanwhile: the run is being stopped.
        let Some((lease, slot)) = led else { return };
        self.gangs.running.fetch_add(1, SeqCst);
        let shared = Arc::clone(self);
        let run = move || shared.run_gang(gang, lease, slot, &cpus, &hosts);
        if let Err(error) = std::thread::Builder::new().name(format!("gang-{gang}")).spawn(run) {
            tracing::error!(gang, %error, "cannot start the thread of an MPI task");
            let text = format!("the system refuses a thread for the MPI task: {error}");
            self.telemetry.add_reason(Reason::new(lease.task, lease.attempt, &text));
            let now = self.clock.now();
            self.end_gang(gang, lease, FAILED, slot, now);
        }
    }

    fn run_gang(&self, gang: u32, lease: Lease, slot: u16, cpus: &[u32], hosts: &[(String, u32)]) {
        let start = self.clock.now();
        // The thread inherits the CPU of the slot that launched it; mpirun must get the gang's
        // CPUs.
        if let Err(error) = bind_to_lent(cpus) {
            tracing::warn!(gang, %error, "the MPI task is not bound to the CPUs set aside for it");
        }
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
        };
        let run = || self.runner.run(lease.task, &seat);
        let outcome = catch_unwind(AssertUnwindSafe(run)).unwrap_or(FAILED);
        self.end_gang(gang, lease, outcome, slot, start);
    }

    fn end_gang(&self, gang: u32, lease: Lease, outcome: Outcome, slot: u16, start: Time) {
        let attempt = lease.ended(outcome, self.me, slot, start, self.clock.now());
        self.release_gang(gang);
        self.common_outbox().gang_ended.push((gang, attempt));
        self.gangs.running.fetch_sub(1, SeqCst);
        self.event_wait.notify();
    }

    /// The pool has set the slots of a hold aside.
    pub(super) fn gang_holds(&self, id: HoldId, slot: usize, cpus: &[u32]) {
        let Some(gang) = lock(&self.gangs.by_hold).get(&id).copied() else { return };
        if let Some(held) = lock(&self.gangs.by_gang).get_mut(&gang) {
            held.slot = slot as u16;
        }
        self.common_outbox().held.push((gang, cpus.to_vec()));
        self.event_wait.notify();
    }
}
