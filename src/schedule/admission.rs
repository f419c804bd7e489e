//! Admission of tasks that need more than a free slot: memory, GPUs, units of pools, several slots.
//!
//! The most urgent task starts first, and among equals the first to arrive. Slots for gangs come
//! before all tasks, because the slots of other ranks may be waiting for them. Tasks with equal
//! needs form a class, and only the head of each class is examined: if it cannot start, no other
//! task of the class can. A million tasks of one array under one pool are one class.
//!
//! Backfilling is safe because an entry that waits for memory, GPUs or slots *claims* every kind of
//! resource that it needs, and nothing behind it may take a claimed kind. An entry that waits for
//! units of pools claims no such kind, but what idle units of its pools the rank has are kept for
//! it (`pools::shares`).
//!
//! The pool of a real run applies this rule under its lock, the simulator directly. Both decide
//! themselves how to collect several slots that are still busy; they pass in how many could be
//! collected.

use std::cmp::Reverse;
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use rustc_hash::FxHashMap;

use super::fair::{FairTable, FamilyId};
use super::pools::shares::Reserved;
use super::pools::table::PoolTable;
use super::pools::{PoolClaim, PoolOrders, PoolReport};
use super::resources::{Impossible, Needs, ResourceLedger};
use crate::graph::urgency;

/// Number of urgency levels. A task's urgency is clamped to the highest, `LEVELS - 1`.
pub const LEVELS: usize = urgency::LEVELS as usize;

/// The level of slots for gangs.
const HOLD_LEVEL: usize = LEVELS;

/// An entry that waits for admission.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AdmissionEntry<T, H> {
    /// A task to run.
    Task(T),
    /// Slots to set aside for a gang.
    Hold(H),
}

/// The waiting tasks and holds of a rank, and the resources that they share.
#[derive(Debug)]
pub struct AdmissionQueue<T, H> {
    classes: FxHashMap<Needs, Class<T, H>>,
    arrivals: u64,
    /// Number of waiting tasks.
    tasks: usize,
    /// Number of idle slots that the last report of leases was made for.
    reported_idle: u32,
    ledger: ResourceLedger,
}

/// Entries with equal needs.
#[derive(Debug)]
struct Class<T, H> {
    /// Bit mask of the queues that are not empty.
    levels: u32,
    /// For each level, its entries with their arrival numbers.
    queues: [VecDeque<(u64, AdmissionEntry<T, H>)>; LEVELS + 1],
}

/// The entry that starts next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    /// Its urgency; holds are above all tasks.
    pub level: u32,
    /// What it needs.
    pub needs: Needs,
    arrival: u64,
}

/// A task taken out of the queue.
#[derive(Clone, Copy, Debug)]
pub struct Withdrawn<T> {
    /// The task.
    pub task: T,
    /// What it needs.
    pub needs: Needs,
    /// Its arrival number.
    pub arrival: u64,
}

const MEMORY: u8 = 1;
const GPUS: u8 = 2;
const SEVERAL_SLOTS: u8 = 4;

/// The kinds of resources that an entry needs and that others may claim.
fn kinds(needs: &Needs) -> u8 {
    let kind = |needed: bool, kind: u8| if needed { kind } else { 0 };
    kind(needs.memory > 0, MEMORY) | kind(needs.gpus > 0, GPUS) | kind(needs.slots() > 1, SEVERAL_SLOTS)
}

impl<T: Copy, H: Copy> AdmissionQueue<T, H> {
    /// An empty queue for a rank with these resources.
    pub fn new(ledger: ResourceLedger) -> AdmissionQueue<T, H> {
        AdmissionQueue { classes: FxHashMap::default(), arrivals: 0, tasks: 0, reported_idle: 0, ledger }
    }

    /// Replaces the tables by those of more tasks.
    pub fn grow(&mut self, pools: Arc<PoolTable>, fair: Arc<FairTable>) {
        self.ledger.grow(pools, fair);
    }

    /// Number of waiting tasks, without holds.
    pub fn len(&self) -> usize {
        self.tasks
    }

    /// True if no task waits.
    pub fn is_empty(&self) -> bool {
        self.tasks == 0
    }

    /// Returns the next arrival number, for tasks that wait elsewhere and whose order relative to
    /// these matters.
    pub fn next_arrival(&mut self) -> u64 {
        self.arrivals += 1;
        self.arrivals
    }

    /// Checks that the needs could be met if nothing else ran.
    ///
    /// # Errors
    ///
    /// If they can never be met.
    pub fn check(&self, needs: &Needs) -> Result<(), Impossible> {
        self.ledger.check(needs)
    }

    /// Queues a task.
    pub fn push_task(&mut self, task: T, urgency: u8, needs: Needs) {
        self.tasks += 1;
        self.ledger.fair_mut().wait(needs.family);
        self.push(AdmissionEntry::Task(task), usize::from(urgency).min(LEVELS - 1), needs);
    }

    /// Queues a hold.
    pub fn push_hold(&mut self, hold: H, needs: Needs) {
        self.push(AdmissionEntry::Hold(hold), HOLD_LEVEL, needs);
    }

    fn push(&mut self, entry: AdmissionEntry<T, H>, level: usize, needs: Needs) {
        let arrival = self.next_arrival();
        let class = self.classes.entry(needs).or_default();
        class.levels |= 1 << level;
        class.queues[level].push_back((arrival, entry));
        if needs.pools != 0 {
            self.ledger.pools_mut().note_change();
        }
    }

    /// The first entry that may start. `collectable`: number of slots that could be collected for
    /// an entry that needs several.
    pub fn head(&self, collectable: usize) -> Option<Head> {
        if self.classes.is_empty() {
            return None;
        }
        let mut claimed = 0;
        let mut reserved = Reserved::default();
        self.heads().into_iter().find(|head| {
            if !self.ledger.has_units(&head.needs, &reserved) {
                self.ledger.pools().reserve(head.needs.pools, 1, &mut reserved);
                return false;
            }
            let kinds = kinds(&head.needs);
            let slots = head.needs.slots();
            let may = kinds & claimed == 0 && self.ledger.fits(&head.needs) && (slots == 1 || slots <= collectable);
            claimed |= kinds;
            if !may && head.needs.pools != 0 {
                self.ledger.pools().reserve(head.needs.pools, 1, &mut reserved);
            }
            may
        })
    }

    /// The first entry of each class: the most urgent first, then the first to arrive. If families
    /// have shares, their order comes before that.
    fn heads(&self) -> Vec<Head> {
        let mut heads: Vec<Head> = self.classes.iter().filter_map(|(needs, class)| class.head(*needs)).collect();
        let fair = self.ledger.fair();
        if fair.is_empty() {
            heads.sort_unstable_by_key(|head| (Reverse(head.level), head.arrival));
            return heads;
        }
        let key = |head: &Head| (head.level != HOLD_LEVEL as u32, fair.key(head.needs.family));
        heads.sort_unstable_by(|a, b| {
            let ((a_task, (a_rank, a_service)), (b_task, (b_rank, b_service))) = (key(a), key(b));
            let [by_job, by_family] = [0, 1].map(|at| f64::total_cmp(&a_service[at], &b_service[at]));
            let by_family = (a_task, a_rank).cmp(&(b_task, b_rank)).then(by_job).then(by_family);
            by_family.then((Reverse(a.level), a.arrival).cmp(&(Reverse(b.level), b.arrival)))
        });
        heads
    }

    /// True if a report of the leases would differ from the last one.
    pub fn is_pool_report_due(&self, idle: u32) -> bool {
        self.is_pool_changed() || (idle != self.reported_idle && self.waits_for_pools())
    }

    /// True if leases have changed, or tasks that need pools have come or gone, since the last
    /// report.
    pub fn is_pool_changed(&self) -> bool {
        self.ledger.pools().is_changed()
    }

    /// Tasks may start again: what they could start is to be reported.
    pub fn resume(&mut self) {
        self.ledger.pools_mut().note_change();
    }

    /// True if tasks that need pools wait.
    pub fn waits_for_pools(&self) -> bool {
        self.classes.keys().any(|needs| needs.pools != 0)
    }

    /// True once after units of pools were given back.
    pub fn take_urgent_pool_report(&mut self) -> bool {
        self.ledger.pools_mut().take_urgent()
    }

    /// The report of the leases: what is in use, what was given back, and what could start on
    /// `idle` slots if the rank had the units. A rank without idle slots asks ahead, so that a slot
    /// that becomes free finds units for a task that is more urgent than others. `starts`: false
    /// if nothing starts now.
    pub fn pool_report(&mut self, idle: u32, starts: bool) -> PoolReport {
        self.reported_idle = idle;
        let claims = match (starts, idle) {
            (false, _) => Vec::new(),
            (true, 0) => self.pool_claims(self.ledger.slots(), true),
            (true, idle) => self.pool_claims(idle, false),
        };
        let waiting: Vec<_> = self.classes.iter().map(|(needs, class)| (needs.pools, class.len())).collect();
        self.ledger.pools_mut().report(claims, waiting.into_iter().filter(|class| class.0 != 0))
    }

    fn pool_claims(&self, mut slots_left: u32, ahead: bool) -> Vec<PoolClaim> {
        let mut claims = Vec::new();
        let mut reserved = Reserved::default();
        for head in self.heads().into_iter().filter(|head| head.needs.pools != 0 && self.ledger.fits(&head.needs)) {
            if slots_left == 0 {
                break;
            }
            let pools = self.ledger.pools();
            let slots = head.needs.slots() as u32;
            let waiting = self.classes.get(&head.needs).map_or(1, Class::len);
            let tasks = (slots_left / slots).clamp(1, u32::try_from(waiting).unwrap_or(u32::MAX).max(1));
            let Some(kept) = pools.reserve(head.needs.pools, tasks, &mut reserved) else { continue };
            claims.push(PoolClaim { set: head.needs.pools, tasks, level: head.level as u8, ahead, kept });
            slots_left = slots_left.saturating_sub(tasks * slots);
        }
        claims
    }

    /// Carries out an order of rank 0 about the leases.
    pub fn carry_out_pool_orders(&mut self, orders: &PoolOrders) {
        self.ledger.pools_mut().carry_out(orders);
    }

    /// Takes the head out of the queue and grants its needs. Returns it with what its family is
    /// charged.
    pub fn admit(&mut self, head: &Head) -> Option<(AdmissionEntry<T, H>, f64)> {
        let class = self.classes.get_mut(&head.needs)?;
        let (_, entry) = class.queues[head.level as usize].pop_front()?;
        if class.queues[head.level as usize].is_empty() {
            class.levels &= !(1 << head.level);
            if class.levels == 0 {
                self.classes.remove(&head.needs);
            }
        }
        self.tasks -= usize::from(matches!(entry, AdmissionEntry::Task(_)));
        Some((entry, self.ledger.grant(&head.needs)))
    }

    /// Returns what was granted for `needs`. `used`: what the family was charged, and the time
    /// since the grant.
    pub fn take_back(&mut self, needs: &Needs, used: (f64, Duration)) {
        self.ledger.take_back(needs, used);
    }

    /// Learns the slot time that families have got on other ranks.
    pub fn learn_shares(&mut self, elsewhere: &[(FamilyId, u64)]) {
        self.ledger.fair_mut().learn(elsewhere);
    }

    /// Takes out the tasks that match (not holds), the most urgent first and by arrival within one
    /// urgency; the others keep their order.
    pub fn withdraw(&mut self, which: impl Fn(&T) -> bool) -> Vec<Withdrawn<T>> {
        let mut out = Vec::new();
        for (&needs, class) in &mut self.classes {
            for level in 0..LEVELS {
                class.queues[level].retain(|&(arrival, entry)| match entry {
                    AdmissionEntry::Task(task) if which(&task) => {
                        out.push((level, Withdrawn { task, needs, arrival }));
                        false
                    }
                    _ => true,
                });
            }
        }
        self.tasks -= out.len();
        out.iter().for_each(|(_, withdrawn)| self.ledger.fair_mut().withdraw(withdrawn.needs.family));
        if out.iter().any(|(_, withdrawn)| withdrawn.needs.pools != 0) {
            self.ledger.pools_mut().note_change();
        }
        self.tidy();
        out.sort_unstable_by_key(|(level, withdrawn)| (Reverse(*level), withdrawn.arrival));
        out.into_iter().map(|(_, withdrawn)| withdrawn).collect()
    }

    /// Takes out the hold that matches; false if there is none.
    pub fn cancel_hold(&mut self, which: impl Fn(&H) -> bool) -> bool {
        let is_it = |entry: &(u64, AdmissionEntry<T, H>)| matches!(&entry.1, AdmissionEntry::Hold(hold) if which(hold));
        let found = self.classes.values_mut().any(|class| {
            let queue = &mut class.queues[HOLD_LEVEL];
            queue.iter().position(is_it).and_then(|at| queue.remove(at)).is_some()
        });
        self.tidy();
        found
    }

    fn tidy(&mut self) {
        self.classes.retain(|_, class| {
            let filled = (0..=LEVELS).filter(|&level| !class.queues[level].is_empty());
            class.levels = filled.fold(0, |levels, level| levels | 1 << level);
            class.levels != 0
        });
    }
}

impl<T, H> Default for Class<T, H> {
    fn default() -> Class<T, H> {
        Class { levels: 0, queues: std::array::from_fn(|_| VecDeque::new()) }
    }
}

impl<T, H> Class<T, H> {
    fn len(&self) -> usize {
        self.queues.iter().map(VecDeque::len).sum()
    }

    fn head(&self, needs: Needs) -> Option<Head> {
        let level = self.levels.checked_ilog2()?;
        let (arrival, _) = self.queues[level as usize].front()?;
        Some(Head { level, needs, arrival: *arrival })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::schedule::pools::table::{PoolResource, PoolTable};

    /// A queue with numbers for tasks and holds.
    type Queue = AdmissionQueue<u32, u32>;

    /// A rank of 4 slots, 100 bytes and 2 GPUs, with two pools: set 1 needs one unit of the first,
    /// set 2 one of each, set 3 one of the second.
    fn queue() -> Queue {
        let mut table = PoolTable::default();
        for name in ["x", "y"] {
            table.add(PoolResource::capacity(name, Some(9), false));
        }
        let needs = [vec![(0, 1)], vec![(0, 1), (1, 1)], vec![(1, 1)]];
        let table = table.with_groups((0..).zip(needs).map(|(group, needs)| (group, 1, needs)));
        AdmissionQueue::new(ResourceLedger::new(4, 100, 2, Arc::new(table)))
    }

    fn grant(queue: &mut Queue, granted: &[(u32, u32)]) {
        queue.carry_out_pool_orders(&PoolOrders { granted: granted.to_vec(), ..PoolOrders::default() });
    }

    fn pooled(pools: u32) -> Needs {
        Needs { pools, ..Needs::SLOT }
    }

    fn memory(memory: u64) -> Needs {
        Needs { memory, ..Needs::SLOT }
    }

    /// The next entry to start, and its needs.
    fn admit(queue: &mut Queue) -> Option<(AdmissionEntry<u32, u32>, Needs)> {
        let head = queue.head(4)?;
        Some((queue.admit(&head)?.0, head.needs))
    }

    fn next(queue: &mut Queue) -> Option<AdmissionEntry<u32, u32>> {
        Some(admit(queue)?.0)
    }

    #[test]
    fn urgency_comes_before_arrival_and_beyond_the_highest_level_all_are_equal() {
        let mut queue = queue();
        for (task, urgency, bytes) in [(0, 1, 5), (1, 1, 6), (2, 15, 7), (3, 200, 8), (4, 1, 5)] {
            queue.push_task(task, urgency, memory(bytes));
        }
        let order: Vec<_> = std::iter::from_fn(|| next(&mut queue)).collect();
        assert_eq!(order, [2, 3, 0, 1, 4].map(AdmissionEntry::Task));
        assert!(queue.is_empty());
    }

    #[test]
    fn a_stream_of_small_tasks_cannot_pass_a_large_one() {
        let mut queue = queue();
        queue.push_task(9, 1, memory(30));
        let (_, running) = admit(&mut queue).unwrap();
        queue.push_task(0, 1, memory(80));
        queue.push_task(1, 1, memory(10));
        queue.push_task(2, 1, Needs { gpus: 1, ..Needs::SLOT });
        assert_eq!(next(&mut queue), Some(AdmissionEntry::Task(2)), "it takes nothing that the large one waits for");
        assert_eq!(next(&mut queue), None);
        queue.take_back(&running, (0.0, Duration::ZERO));
        assert_eq!(next(&mut queue), Some(AdmissionEntry::Task(0)));
    }

    #[test]
    fn a_task_whose_pool_is_used_up_holds_up_only_its_kin() {
        let mut queue = queue();
        let limited = Needs { memory: 1, ..pooled(1) };
        queue.push_task(9, 9, limited);
        assert_eq!(next(&mut queue), None, "the rank has no lease yet");
        grant(&mut queue, &[(0, 1)]);
        let (_, running) = admit(&mut queue).unwrap();
        queue.push_task(0, 9, limited);
        queue.push_task(1, 1, memory(1));
        assert_eq!(next(&mut queue), Some(AdmissionEntry::Task(1)));
        assert_eq!(next(&mut queue), None);
        queue.take_back(&running, (0.0, Duration::ZERO));
        assert_eq!(next(&mut queue), Some(AdmissionEntry::Task(0)));
    }

    #[test]
    fn units_are_kept_for_a_task_of_two_pools() {
        let mut queue = queue();
        grant(&mut queue, &[(1, 1)]);
        queue.push_task(0, 5, pooled(2));
        queue.push_task(1, 5, pooled(3));
        queue.push_task(2, 5, pooled(2));
        assert_eq!(next(&mut queue), None, "the only unit of the second pool waits for the first task");
        let claims = queue.pool_report(4, true).claims;
        let claimed: Vec<_> = claims.iter().map(|claim| (claim.set, claim.tasks, claim.kept.clone())).collect();
        assert_eq!(claimed, [(2, 2, vec![0, 1]), (3, 1, vec![0])]);
        grant(&mut queue, &[(0, 1)]);
        assert_eq!(next(&mut queue), Some(AdmissionEntry::Task(0)));
    }

    #[test]
    fn what_is_owed_goes_back_as_soon_as_it_is_idle() {
        let mut queue = queue();
        grant(&mut queue, &[(0, 3)]);
        queue.push_task(0, 5, pooled(1));
        let (_, running) = admit(&mut queue).unwrap();
        queue.carry_out_pool_orders(&PoolOrders { owed: vec![(0, 3)], ..PoolOrders::default() });
        let report = queue.pool_report(3, true);
        assert_eq!((report.returned, report.used), (vec![(0, 2)], vec![(0, 1)]));
        queue.push_task(1, 5, pooled(1));
        assert!(!queue.take_urgent_pool_report());
        queue.take_back(&running, (0.0, Duration::ZERO));
        assert!(queue.take_urgent_pool_report());
        assert_eq!(next(&mut queue), None, "the unit is owed");
        assert_eq!(queue.pool_report(4, true).returned, [(0, 1)]);
    }

    #[test]
    fn holds_come_before_the_most_urgent_task_in_their_order_and_can_be_cancelled() {
        let mut queue = queue();
        queue.push_task(0, 15, Needs { cpus: 2, memory: 1, ..Needs::SLOT });
        for (hold, cpus) in [(7, 2), (8, 3), (9, 2)] {
            queue.push_hold(hold, Needs { cpus, ..Needs::SLOT });
        }
        assert_eq!(queue.len(), 1);
        assert!(queue.cancel_hold(|&hold| hold == 8) && !queue.cancel_hold(|&hold| hold == 8));
        let order: Vec<_> = std::iter::from_fn(|| next(&mut queue)).collect();
        assert_eq!(order, [AdmissionEntry::Hold(7), AdmissionEntry::Hold(9), AdmissionEntry::Task(0)]);
    }

    #[test]
    fn a_wide_task_that_cannot_collect_yet_keeps_its_claim() {
        let mut queue = queue();
        queue.push_task(0, 1, Needs { cpus: 3, memory: 1, ..Needs::SLOT });
        queue.push_task(1, 1, memory(1));
        queue.push_task(2, 1, Needs { gpus: 1, ..Needs::SLOT });
        assert_eq!(queue.head(2).map(|head| head.needs.gpus), Some(1));
        assert_eq!(queue.head(3).map(|head| head.needs.cpus), Some(3));
    }

    #[test]
    fn withdrawn_tasks_come_by_urgency_and_arrival_and_the_others_stay() {
        let mut queue = queue();
        for (task, urgency, bytes) in [(0, 1, 5), (1, 9, 6), (2, 1, 7), (3, 1, 5)] {
            queue.push_task(task, urgency, memory(bytes));
        }
        queue.push_hold(0, Needs { cpus: 2, ..Needs::SLOT });
        let out = queue.withdraw(|&task| task != 2);
        assert_eq!(out.iter().map(|withdrawn| withdrawn.task).collect::<Vec<_>>(), [1, 0, 3]);
        assert_eq!((out[2].needs, queue.len()), (memory(5), 1));
        assert_eq!(
            [next(&mut queue), next(&mut queue), next(&mut queue)],
            [Some(AdmissionEntry::Hold(0)), Some(AdmissionEntry::Task(2)), None]
        );
    }
}
