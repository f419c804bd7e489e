//! The virtual pool of one rank: decides which ready task starts on which slots.
//!
//! It applies the rules of the real pool that matter to a schedule, without threads: the most
//! urgent task first; tasks with needs and slots for gangs by `schedule::admission`, before plain
//! tasks of the same urgency; a wide task whose turn has come collects slots, and nothing else
//! starts meanwhile.

use std::cmp::Reverse;
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use crate::schedule::admission::{AdmissionEntry, AdmissionQueue, Withdrawn};
use crate::schedule::fair::{FairTable, FamilyId};
use crate::schedule::pools::table::PoolTable;
use crate::schedule::pools::{PoolOrders, PoolReport};
use crate::schedule::protocol::{Lease, Load};
use crate::schedule::resources::{Needs, ResourceLedger};

/// A waiting plain task.
#[derive(Clone, Copy, Debug)]
struct Waiting {
    arrival: u64,
    lease: Lease,
}

impl Waiting {
    /// The greatest key starts first: the most urgent and, of those, the first to arrive.
    fn key(&self) -> (u8, Reverse<u64>) {
        (self.lease.urgency, Reverse(self.arrival))
    }
}

/// Waiting plain tasks, in order of arrival for each urgency. Adding and taking a task is linear in
/// the number of urgencies that occur, which is small.
#[derive(Debug, Default)]
struct WaitingQueue {
    /// One queue for each urgency that has occurred, ascending.
    queues: Vec<(u8, VecDeque<Waiting>)>,
    len: u32,
}

impl WaitingQueue {
    fn push(&mut self, waiting: Waiting) {
        let urgency = waiting.lease.urgency;
        let at = match self.queues.binary_search_by_key(&urgency, |queue| queue.0) {
            Ok(at) => at,
            Err(at) => {
                self.queues.insert(at, (urgency, VecDeque::new()));
                at
            }
        };
        self.queues[at].1.push_back(waiting);
        self.len += 1;
    }

    fn peek(&self) -> Option<&Waiting> {
        self.queues.iter().rev().find_map(|(_, queue)| queue.front())
    }

    fn pop(&mut self) -> Option<Waiting> {
        let waiting = self.queues.iter_mut().rev().find_map(|(_, queue)| queue.pop_front())?;
        self.len -= 1;
        Some(waiting)
    }

    /// Takes out all of them.
    fn drain(&mut self) -> impl Iterator<Item = Waiting> + use<> {
        std::mem::take(self).queues.into_iter().flat_map(|(_, queue)| queue)
    }
}

/// The slots and other resources granted to a task.
#[derive(Clone, Debug)]
pub(super) struct SlotGrant {
    /// The slots; the attempt records the number of the first.
    pub(super) slots: Vec<u16>,
    /// What the admission queue granted, if it came from there.
    admitted: Option<Needs>,
    /// What the family was charged.
    charge: f64,
    /// Those of the slots that run no task of this rank.
    resting: u32,
}

/// Slots to be set aside for a gang.
#[derive(Clone, Copy, Debug)]
struct Hold {
    gang: u32,
    /// The task to start when the gang is complete, if this rank leads.
    lead: Option<Lease>,
}

/// Something that may start now.
#[derive(Debug)]
pub(super) enum Begin {
    /// A task.
    Task(Lease, SlotGrant),
    /// Slots for a gang are set aside.
    Held {
        /// The gang.
        gang: u32,
    },
}

/// Slots set aside for a gang.
#[derive(Debug)]
pub(super) struct Held {
    gang: u32,
    grant: SlotGrant,
    /// The task to start when the gang is complete, if this rank leads.
    lead: Option<Lease>,
    /// True while that task runs.
    led: bool,
    /// True while the share of an operation runs that another rank leads.
    shares: bool,
}

/// The pool of one rank.
#[derive(Debug)]
pub(super) struct SimulatedPool {
    slots: u32,
    free: Vec<u16>,
    plain: WaitingQueue,
    /// Tasks with needs, and holds.
    queue: AdmissionQueue<Lease, Hold>,
    held: Vec<Held>,
    /// Slots of all grants that run no task of this rank.
    resting: u32,
    paused: bool,
}

impl SimulatedPool {
    pub(super) fn new(slots: u32, memory: u64, gpus: u32, tables: (Arc<PoolTable>, Arc<FairTable>)) -> SimulatedPool {
        SimulatedPool {
            slots,
            free: (0..slots as u16).rev().collect(),
            plain: WaitingQueue::default(),
            queue: AdmissionQueue::new(ResourceLedger::new(slots, memory, gpus, tables.0).with_fair(tables.1)),
            held: Vec::new(),
            resting: 0,
            paused: false,
        }
    }

    /// Adds a ready task; `needs` if it needs more than one slot, or must not be given away.
    pub(super) fn push(&mut self, lease: Lease, needs: Option<Needs>) {
        match needs {
            Some(needs) => self.queue.push_task(lease, lease.urgency, needs),
            None => self.plain.push(Waiting { arrival: self.queue.next_arrival(), lease }),
        }
    }

    /// Gives away up to `max` tasks that any rank can run, the most urgent first.
    pub(super) fn surrender(&mut self, max: u32) -> Vec<Lease> {
        (0..max).map_while(|_| self.plain.pop()).map(|waiting| waiting.lease).collect()
    }

    /// Takes out all waiting tasks, except `keep` of the most urgent.
    pub(super) fn take_out(&mut self, keep: u32) -> Vec<Lease> {
        let constrained = self.queue.withdraw(|_| true).into_iter();
        let constrained =
            constrained.map(|Withdrawn { task: lease, needs, arrival }| (Waiting { arrival, lease }, Some(needs)));
        let mut all: Vec<(Waiting, Option<Needs>)> =
            self.plain.drain().map(|waiting| (waiting, None)).chain(constrained).collect();
        all.sort_unstable_by_key(|(waiting, _)| Reverse(waiting.key()));
        let out = all.split_off((keep as usize).min(all.len()));
        all.into_iter().for_each(|(waiting, needs)| self.push(waiting.lease, needs));
        out.into_iter().map(|(waiting, _)| waiting.lease).collect()
    }

    /// Sets aside for a gang what it needs here as soon as that is free.
    pub(super) fn hold(&mut self, gang: u32, needs: Needs, lead: Option<Lease>) {
        self.queue.push_hold(Hold { gang, lead }, needs);
    }

    /// The share of an operation begins on the slots of its gang.
    pub(super) fn share(&mut self, gang: u32) {
        self.held.iter_mut().filter(|held| held.gang == gang).for_each(|held| held.shares = true);
    }

    /// Frees the slots of a gang. True if a share of an operation ends with that.
    pub(super) fn release(&mut self, gang: u32) -> bool {
        self.queue.cancel_hold(|hold| hold.gang == gang);
        if let Some(at) = self.held.iter().position(|held| held.gang == gang) {
            let held = self.held.remove(at);
            self.finish(held.grant, Duration::ZERO);
            return held.shares;
        }
        false
    }

    /// The task of a gang that is led from here, once; its slots stay set aside.
    pub(super) fn lead(&mut self, gang: u32) -> Option<(Lease, u16)> {
        let held = self.held.iter_mut().find(|held| held.gang == gang)?;
        let lease = held.lead.take()?;
        held.led = true;
        Some((lease, held.grant.slots[0]))
    }

    /// Starts nothing more.
    pub(super) fn pause(&mut self) {
        self.paused = true;
    }

    /// Starts tasks again.
    pub(super) fn resume(&mut self) {
        self.paused = false;
        self.queue.resume();
    }

    /// True if nothing runs and nothing more starts. Slots that wait for a gang to start, or for an
    /// MPI task to end elsewhere, count as idle.
    pub(super) fn is_quiet(&self) -> bool {
        let runs = self.held.iter().any(|held| held.led || held.shares);
        self.paused && !runs && self.free.len() + self.set_aside() == self.slots as usize
    }

    fn set_aside(&self) -> usize {
        self.held.iter().map(|held| held.grant.slots.len()).sum()
    }

    /// The load as reported to the worker.
    pub(super) fn load(&self) -> Load {
        let idle = self.free.len() as u32;
        let busy = self.slots - idle;
        let led = self.held.iter().filter(|held| held.led).count() as u32;
        let running = busy - self.resting + led;
        Load { idle, ready: self.plain.len, busy, running, held: self.queue.len() as u32 }
    }

    /// Carries out an order of rank 0 about leases of pools.
    pub(super) fn carry_out_pool_orders(&mut self, orders: &PoolOrders) {
        self.queue.carry_out_pool_orders(orders);
    }

    /// Learns the slot time that families have got on other ranks.
    pub(super) fn learn_shares(&mut self, elsewhere: &[(FamilyId, u64)]) {
        self.queue.learn_shares(elsewhere);
    }

    /// The report about leases of pools, if it would differ from the last one.
    pub(super) fn pool_report(&mut self) -> Option<PoolReport> {
        let idle = self.free.len() as u32;
        self.queue.is_pool_report_due(idle).then(|| self.queue.pool_report(idle, !self.paused))
    }

    /// Returns the resources of a task that ran for this time.
    pub(super) fn finish(&mut self, grant: SlotGrant, took: Duration) {
        self.free.extend(grant.slots.iter().rev());
        self.resting -= grant.resting;
        if let Some(needs) = &grant.admitted {
            self.queue.take_back(needs, (grant.charge, took));
        }
    }

    /// The next task or hold to start, if any can.
    pub(super) fn begin(&mut self) -> Option<Begin> {
        if self.paused || self.free.is_empty() {
            return None;
        }
        let plain = self.plain.peek().map(|waiting| u32::from(waiting.lease.urgency));
        let Some(head) = self.queue.head(self.slots as usize).filter(|head| plain.is_none_or(|p| head.level >= p))
        else {
            let lease = self.plain.pop()?.lease;
            return Some(Begin::Task(
                lease,
                SlotGrant { slots: self.take_slots(1), admitted: None, charge: 0.0, resting: 0 },
            ));
        };
        let needs = head.needs;
        if self.free.len() < needs.slots() {
            return None;
        }
        let (entry, charge) = self.queue.admit(&head)?;
        let runs_here = u32::from(matches!(entry, AdmissionEntry::Task(_)));
        let resting = needs.slots() as u32 - runs_here;
        self.resting += resting;
        let grant = SlotGrant { slots: self.take_slots(needs.slots()), admitted: Some(needs), charge, resting };
        Some(match entry {
            AdmissionEntry::Task(lease) => Begin::Task(lease, grant),
            AdmissionEntry::Hold(Hold { gang, lead }) => {
                self.held.push(Held { gang, grant, lead, led: false, shares: false });
                Begin::Held { gang }
            }
        })
    }

    fn take_slots(&mut self, count: usize) -> Vec<u16> {
        (0..count).filter_map(|_| self.free.pop()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Rank, Shortfalls, TaskId, Time};
    use crate::schedule::pools::table::PoolResource;

    /// A pool whose tasks with `pools: 1` need a unit of a pool.
    fn pool(slots: u32, memory: u64) -> SimulatedPool {
        let mut table = PoolTable::default();
        table.add(PoolResource::capacity("a", Some(1), true));
        let table = table.with_groups(std::iter::once((0, 1, vec![(0, 1)])));
        SimulatedPool::new(slots, memory, 0, (Arc::new(table), Arc::default()))
    }

    fn lease(task: u32, urgency: u8) -> Lease {
        Lease { task: TaskId(task), home: Rank(0), attempt: 1, urgency, ready: Time::ZERO, short: Shortfalls::NONE }
    }

    fn next(pool: &mut SimulatedPool) -> Option<(u32, SlotGrant)> {
        match pool.begin()? {
            Begin::Task(lease, grant) => Some((lease.task.0, grant)),
            Begin::Held { .. } => None,
        }
    }

    #[test]
    fn the_most_urgent_begins_first_and_equals_in_order_of_arrival() {
        let mut pool = pool(8, 0);
        for (task, urgency) in [(0, 1), (1, 9), (2, 1)] {
            pool.push(lease(task, urgency), None);
        }
        let order: Vec<u32> = std::iter::from_fn(|| next(&mut pool)).map(|(task, _)| task).collect();
        assert_eq!(order, [1, 0, 2]);
        assert_eq!(pool.load(), Load { idle: 5, ready: 0, busy: 3, running: 3, held: 0 });
    }

    #[test]
    fn a_wide_task_collects_slots_and_nothing_passes_it() {
        let mut pool = pool(2, 0);
        pool.push(lease(0, 5), None);
        let (_, narrow) = next(&mut pool).unwrap();
        pool.push(lease(1, 5), Some(Needs { cpus: 2, ..Needs::SLOT }));
        pool.push(lease(2, 5), None);
        assert!(next(&mut pool).is_none(), "one slot is kept for the wide task");
        pool.finish(narrow, Duration::ZERO);
        let (_, wide) = next(&mut pool).unwrap();
        assert_eq!((wide.slots.len(), pool.load().busy, pool.load().running), (2, 2, 1));
        pool.finish(wide, Duration::ZERO);
        assert_eq!((next(&mut pool).unwrap().0, pool.load().busy, pool.load().running), (2, 1, 1));
    }

    #[test]
    fn memory_and_pools_are_kept() {
        let mut pool = pool(4, 100);
        let hungry = Some(Needs { memory: 60, ..Needs::SLOT });
        let limited = Some(Needs { pools: 1, ..Needs::SLOT });
        pool.carry_out_pool_orders(&PoolOrders { granted: vec![(0, 1)], ..PoolOrders::default() });
        for (task, needs) in [(0, hungry), (1, hungry), (2, limited), (3, limited)] {
            pool.push(lease(task, 1), needs);
        }
        let (first, grant) = next(&mut pool).unwrap();
        assert_eq!((first, next(&mut pool).unwrap().0), (0, 2));
        assert!(next(&mut pool).is_none());
        assert_eq!(pool.load().ready, 0, "what has needs is not given away");
        pool.finish(grant, Duration::ZERO);
        assert_eq!(next(&mut pool).unwrap().0, 1);
    }

    #[test]
    fn slots_for_a_gang_come_before_tasks() {
        let mut pool = pool(2, 0);
        pool.push(lease(0, 9), None);
        pool.hold(7, Needs { cpus: 2, ..Needs::SLOT }, Some(lease(5, 0)));
        assert!(matches!(pool.begin(), Some(Begin::Held { gang: 7, .. })));
        assert!(pool.begin().is_none());
        assert_eq!(pool.lead(7).unwrap().0.task, TaskId(5));
        assert!(pool.lead(7).is_none());
        pool.release(7);
        assert_eq!(next(&mut pool).unwrap().0, 0);
        pool.pause();
        assert!(!pool.is_quiet());
    }
}
