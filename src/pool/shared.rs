//! The state shared by all slots and handles of one pool.

use std::sync::{Arc, Weak};

use crossbeam_utils::CachePadded;
use rayon::ThreadPool;

use super::admission::{Admission, ItemGrant};
use super::bind::Binder;
use super::extra::ExtraSlots;
use super::item::Item;
use super::queues::Queues;
use super::sleep::{Sleep, Sleeper};
use super::slot::SlotTally;
use super::team::Teams;
use super::{PoolError, Workload};
use crate::topology::SlotPlace;

pub(super) struct PoolShared {
    /// Places of all slots, extra ones last.
    pub(super) places: Box<[SlotPlace]>,
    /// Number of slots that are not extra.
    pub(super) slots: usize,
    pub(super) extra: ExtraSlots,
    pub(super) queues: Queues,
    pub(super) admission: Admission,
    pub(super) sleep: Sleep,
    pub(super) tallies: Box<[CachePadded<SlotTally>]>,
    pub(super) binder: Arc<Binder>,
    pub(super) teams: Teams,
    /// For the slow paths. Weak, because workloads often keep a handle of their pool.
    pub(super) workload: Weak<dyn Workload>,
}

impl PoolShared {
    /// True if a slot that is about to sleep would find something to do.
    pub(super) fn visible(&self) -> bool {
        let signal = self.admission.signal();
        signal.stop() || (!signal.paused() && (signal.calls() || self.queues.visible()))
    }

    /// Puts items from outside into the inbox or the admission queue.
    pub(super) fn post(&self, items: &[Item]) {
        if items.iter().any(|item| item.constrained) {
            let (constrained, plain): (Vec<Item>, Vec<Item>) = items.iter().partition(|item| item.constrained);
            self.post_plain(&plain);
            self.post_constrained(&constrained, 0);
        } else {
            self.post_plain(items);
        }
    }

    fn post_plain(&self, items: &[Item]) {
        self.queues.post(items);
        self.announce(0, items.len());
    }

    /// Queues items with needs. Returns those that can never start to the workload. `near` is the
    /// slot that found them.
    pub(super) fn post_constrained(&self, items: &[Item], near: usize) {
        // Without a workload the pool is shutting down, and nothing starts any more.
        let Some(workload) = self.workload.upgrade() else { return };
        // Called before the queue is locked: the workload may be slow, and take locks of its own.
        let needed: Vec<_> = items.iter().map(|&item| (item, workload.needs(item))).collect();
        for (item, why) in self.admission.push(needed.into_iter()) {
            workload.impossible(item, why);
        }
        if self.admission.signal().calls() {
            self.announce(near, items.len());
        }
    }

    fn announce(&self, near: usize, count: usize) {
        self.sleep.announce(near, u32::try_from(count).unwrap_or(u32::MAX));
    }

    /// Ends a constrained item: frees its resources, and releases its slots.
    pub(super) fn finish(&self, grant: ItemGrant, slot: usize) {
        let (members, returned) = self.admission.finish(grant);
        self.free(members, slot);
        if returned && let Some(workload) = self.workload.upgrade() {
            workload.pool_units_returned();
        }
    }

    /// Releases slots, and wakes one for an item that can start now.
    pub(super) fn free(&self, members: Vec<Sleeper>, near: usize) {
        for sleeper in &members {
            self.sleep.release(sleeper);
        }
        self.call_for_admission(near);
    }

    /// Wakes a slot if more can be admitted than the calling slot has just taken.
    pub(super) fn call_for_admission(&self, near: usize) {
        if self.admission.signal().calls() {
            self.sleep.announce(near, 1);
        }
    }

    /// The CPUs of several slots, each once, in ascending order.
    pub(super) fn cpus_of(&self, slots: &[usize]) -> Vec<u32> {
        let mut cpus: Vec<u32> = slots.iter().flat_map(|&slot| self.places[slot].cpus.iter().copied()).collect();
        cpus.sort_unstable();
        cpus.dedup();
        cpus
    }

    pub(super) fn team(&self, slots: &[usize]) -> Result<Arc<ThreadPool>, PoolError> {
        self.teams.get(slots, &self.places, &self.binder)
    }
}
