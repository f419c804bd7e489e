//! Slots that this rank sets aside for MPI tasks over several ranks, and the tasks that it leads.
//!
//! The coordinator asks for slots; the pool sets them aside when they are free and says so; the rank that leads then runs the task's `mpirun` in a thread of
//! its own, as the slots that it holds sleep meanwhile. Whatever becomes of the task, its slots are freed once.

use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU32, Ordering::SeqCst};
use std::sync::{Arc, Mutex};

use super::executor::{Executor, FAILED, lock};
use crate::exec::Seat;
use crate::model::{Outcome, Reason, Time};
use crate::pool::HoldId;
use crate::schedule::protocol::Lease;
use crate::schedule::resources::Needs;
use crate::topology::bind_to_lent;

/// Gangs that hold slots of this rank.
#[derive(Default)]
pub(in crate::runtime) struct Gangs {
    by_hold: Mutex<HashMap<HoldId, u32>>,
    /// For each gang: its hold, and what is led from here.
    pub(in crate::runtime) held: Mutex<HashMap<u32, Held>>,
    pub(in crate::runtime) running: AtomicU32,
}

/// One gang's slots on this rank.
pub(in crate::runtime) struct Held {
    hold: HoldId,
    pub(in crate::runtime) lead: Option<Lease>,
    /// One of its slots, whose seat the task of the gang takes.
    pub(in crate::runtime) slot: u16,
}

impl Executor {
    /// Sets slots aside for a gang.
    pub(in crate::runtime) fn hold(&self, gang: u32, slots: u32, lead: Option<Lease>) -> Result<(), String> {
        let pool = self.pool.get().ok_or("was asked for slots, but has none")?;
        // `held` may be called before `hold` returns: it finds the gang once this lock is free.
        let mut by_hold = lock(&self.gangs.by_hold);
        let hold = pool.hold(Needs { cpus: slots, ..Needs::SLOT }).map_err(|error| format!("an MPI task {error}"))?;
        by_hold.insert(hold, gang);
        lock(&self.gangs.held).insert(gang, Held { hold, lead, slot: 0 });
        Ok(())
    }

    /// Frees the slots of a gang.
    pub(in crate::runtime) fn release_gang(&self, gang: u32) {
        let held = lock(&self.gangs.held).remove(&gang);
        if let (Some(held), Some(pool)) = (held, self.pool.get()) {
            lock(&self.gangs.by_hold).remove(&held.hold);
            pool.release(held.hold);
        }
    }

    /// Runs the task of a gang that this rank leads, in a thread of its own: the slots that it holds sleep meanwhile.
    pub(in crate::runtime) fn launch(self: &Arc<Self>, gang: u32, hosts: Vec<(String, u32)>, cpus: Vec<u32>) {
        let led = lock(&self.gangs.held).get_mut(&gang).and_then(|h| Some((h.lead.take()?, h.slot)));
        // Released meanwhile: the run is being stopped.
        let Some((lease, slot)) = led else { return };
        self.gangs.running.fetch_add(1, SeqCst);
        let crew = Arc::clone(self);
        let run = move || crew.lead(gang, lease, slot, &cpus, &hosts);
        if let Err(error) = std::thread::Builder::new().name(format!("gang-{gang}")).spawn(run) {
            tracing::error!(gang, %error, "cannot start the thread of an MPI task");
            let text = format!("the system refuses a thread for the MPI task: {error}");
            self.mailbox.reason(Reason::new(lease.task, lease.attempt, &text));
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
        self.release_gang(gang);
        self.common_outbox().gang_ended.push((gang, attempt));
        self.gangs.running.fetch_sub(1, SeqCst);
        self.wake.notify();
    }

    /// The pool has set the slots of a hold aside.
    pub(in crate::runtime) fn gang_holds(&self, id: HoldId, slot: usize, cpus: &[u32]) {
        let Some(gang) = lock(&self.gangs.by_hold).get(&id).copied() else { return };
        if let Some(held) = lock(&self.gangs.held).get_mut(&gang) {
            held.slot = slot as u16;
        }
        self.common_outbox().held.push((gang, cpus.to_vec()));
        self.wake.notify();
    }
}
