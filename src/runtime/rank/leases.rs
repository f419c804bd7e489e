//! Items of the pool, and the leases that they represent.
//!
//! An item is too small for a lease. A first attempt at a task at home is the task's number in the
//! ledger that the item's tag names (`ledger_epochs`); every other attempt is the number of an
//! entry in a slab, under a tag of its own.

use std::sync::atomic::Ordering::Relaxed;

use super::ledger_epochs::{CurrentLedger, LedgerRef};
use super::shared::{Shared, lock};
use crate::model::{Shortfalls, TaskId};
use crate::pool::{Item, Slot};
use crate::schedule::dependency_counts::DependencyCounts;
use crate::schedule::protocol::{Lease, is_among};
use crate::schedule::resources::Needs;
use crate::schedule::worker::Facts;

/// The tag of an item that represents an entry of `Shared::leases`; all other tags name ledgers.
pub(super) const LEASE_TAG: u8 = u8::MAX;

impl Shared {
    /// Starts tasks at home that have become ready: in this slot, or in any if there is none.
    /// Leaves those that may need more than one slot in `special`.
    pub(super) fn release(
        &self,
        current: CurrentLedger<'_>,
        ready: &mut Vec<u32>,
        slot: Option<&mut Slot<'_>>,
        special: &mut Vec<u32>,
    ) {
        let CurrentLedger { tag, ledger } = current;
        let plain = |local: u32| Item { task: local, urgency: ledger.urgency(local), tag, constrained: false };
        self.note_queued(ready.iter().map(|&local| (ledger.task(local), ledger.urgency(local))));
        let is_plain = |local: u32, special: &mut Vec<u32>| {
            let is_special = ledger.is_special(local);
            if is_special {
                special.push(local);
            }
            !is_special
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

    /// Starts first attempts at tasks at home.
    pub(super) fn start(&self, locals: &[u32]) {
        let tag = self.ledgers.current();
        let (Some(pool), Some(ledger)) = (self.pool.get(), self.ledger(tag)) else { return };
        let item = |&local: &u32| {
            let constrained = ledger.is_special(local) && self.needs_of(ledger.task(local), Shortfalls::NONE).is_some();
            Item { task: local, urgency: ledger.urgency(local), tag, constrained }
        };
        self.note_queued(locals.iter().map(|&local| (ledger.task(local), ledger.urgency(local))));
        let items: Vec<Item> = locals.iter().map(item).collect();
        self.constrained_waiting.fetch_add(items.iter().filter(|i| i.constrained).count() as u32, Relaxed);
        pool.push_many(&items);
    }

    /// Starts any other attempt.
    pub(super) fn start_lease(&self, lease: Lease) {
        let Some(pool) = self.pool.get() else { return };
        self.note_queued(std::iter::once((lease.task, lease.urgency)));
        let retry = self.job.retry(lease.task);
        let constrained = lease.needs(&retry, self.needs_of(lease.task, lease.short)).is_some();
        self.constrained_waiting.fetch_add(u32::from(constrained), Relaxed);
        let task = lock(&self.leases).insert(lease) as u32;
        pool.push(Item { task, urgency: lease.urgency, tag: LEASE_TAG, constrained });
    }

    /// Files of staged tasks that wait here may be fetched from now on.
    #[inline]
    fn note_queued(&self, tasks: impl Iterator<Item = (TaskId, u8)>) {
        if self.files.prefetcher.is_on() {
            self.files.queued(&self.clock, tasks.filter(|(task, _)| self.job.is_staged(*task)));
        }
    }

    /// Takes at most `max` tasks out of the pool that any rank can run.
    pub(super) fn surrender(&self, max: u32) -> Vec<Lease> {
        let Some(pool) = self.pool.get() else { return Vec::new() };
        pool.surrender(max as usize).into_iter().filter_map(|item| self.take_lease(item)).collect()
    }

    /// Takes all waiting tasks out of the pool but the `keep` most urgent, and returns those that
    /// are out. Tasks that slots have already taken stay with them.
    pub(super) fn surrender_all(&self, keep: u32) -> Vec<Lease> {
        let Some(pool) = self.pool.get() else { return Vec::new() };
        let constrained = pool.surrender_constrained();
        self.constrained_waiting.fetch_sub(constrained.len() as u32, Relaxed);
        let paused = self.paused.take(|_| true);
        let items = pool.surrender(usize::MAX).into_iter().chain(constrained).chain(paused);
        let mut leases: Vec<Lease> = items.filter_map(|item| self.take_lease(item)).collect();
        leases.sort_by_key(|lease| std::cmp::Reverse(lease.urgency));
        let out = leases.split_off((keep as usize).min(leases.len()));
        self.files.left(out.iter().map(|lease| lease.task));
        leases.into_iter().for_each(|lease| self.start_lease(lease));
        out
    }

    /// Ends those of these tasks (from, to) that wait here as CANCELLED, without a slot. The caller
    /// drains the outboxes afterwards.
    pub(super) fn cancel_waiting(&self, tasks: &[(u32, u32)]) {
        let Some(pool) = self.pool.get() else { return };
        let now = self.clock.now();
        let is_cancelled = |item: &Item| self.task_of(*item).is_some_and(|task| is_among(task, tasks));
        let cancelled = pool.withdraw(&is_cancelled);
        self.constrained_waiting.fetch_sub(cancelled.iter().filter(|item| item.constrained).count() as u32, Relaxed);
        let paused = self.paused.take(is_cancelled);
        let leases: Vec<Lease> = cancelled.into_iter().chain(paused).filter_map(|item| self.take_lease(item)).collect();
        self.files.left(leases.iter().map(|lease| lease.task));
        let leases = leases.into_iter();
        self.common_outbox().ended.extend(leases.map(|lease| lease.cancelled(self.me, now)));
    }

    /// True if the item is paused, and was set aside. Its resources are the caller's to free.
    #[inline]
    pub(super) fn sets_aside(&self, item: Item) -> bool {
        self.paused.is_any() && self.paused.set_aside_if_paused(item, self.task_of(item))
    }

    /// Pauses exactly these tasks (from, to): what waits is set aside, and what is resumed is
    /// queued again.
    pub(super) fn pause_tasks(&self, tasks: Vec<(u32, u32)>) {
        let Some(pool) = self.pool.get() else { return };
        self.paused.set(tasks.clone());
        let is_paused = |item: &Item| self.task_of(*item).is_some_and(|task| is_among(task, &tasks));
        let constrained = |items: &[Item]| items.iter().filter(|item| item.constrained).count() as u32;
        if !tasks.is_empty() {
            let waiting = pool.withdraw(&is_paused);
            self.constrained_waiting.fetch_sub(constrained(&waiting), Relaxed);
            self.paused.add(waiting);
        }
        let resumed = self.paused.take(|item| !is_paused(item));
        self.constrained_waiting.fetch_add(constrained(&resumed), Relaxed);
        pool.push_many(&resumed);
    }

    /// What an attempt at a task needs of the pool; `None` if a slot is enough.
    pub(super) fn needs_of(&self, task: TaskId, short: Shortfalls) -> Option<Needs> {
        self.job.needs(task, short, self.runner.site().memory)
    }

    /// The task that an item represents, and the attempts at it that fell short.
    pub(super) fn attempt_of(&self, item: Item) -> Option<(TaskId, Shortfalls)> {
        match item.tag {
            LEASE_TAG => lock(&self.leases).get(item.task as usize).map(|lease| (lease.task, lease.short)),
            tag => self.ledger(tag).map(|ledger| (ledger.task(item.task), Shortfalls::NONE)),
        }
    }

    /// The task that an item represents.
    pub(super) fn task_of(&self, item: Item) -> Option<TaskId> {
        self.attempt_of(item).map(|(task, _)| task)
    }

    /// The lease that an item represents; removes its entry, so this succeeds once for each item.
    pub(super) fn take_lease(&self, item: Item) -> Option<Lease> {
        match item.tag {
            LEASE_TAG => lock(&self.leases).try_remove(item.task as usize),
            tag => self.ledger(tag).map(|ledger| self.home_lease(&ledger, item)),
        }
    }

    /// The lease of a first attempt at a task at home.
    #[inline]
    pub(super) fn home_lease(&self, ledger: &DependencyCounts, item: Item) -> Lease {
        Lease {
            task: ledger.task(item.task),
            home: self.me,
            attempt: 1,
            urgency: item.urgency,
            ready: ledger.ready_at(item.task),
            short: Shortfalls::NONE,
        }
    }

    #[inline]
    fn ledger(&self, tag: u8) -> Option<LedgerRef<'_>> {
        let ledger = self.ledgers.get(tag);
        if ledger.is_none() {
            report_lost_ledger();
        }
        ledger
    }
}

/// Reports an item whose ledger has been dropped already.
#[cold]
pub(super) fn report_lost_ledger() {
    tracing::error!("Phalanx itself failed: a slot has an item of a ledger that was dropped long ago");
}
