//! Admission in the pool: which constrained items may start, and whether anything may start at all.
//!
//! Items with needs and holds wait here under one lock; `schedule::admission` decides the order in
//! which they start. Plain items pay only one relaxed load of [`Admission::signal`], which shows a
//! slot that nothing here concerns it. The signal is written under the lock only, from the data
//! that the lock protects, so it is exact whenever the lock is free.
//!
//! A *wide* item (and a hold) collects slots: the slot that finds it at the head of the queue
//! reserves its memory and GPUs and starts a collection. Slots that visit during the collection
//! join it and wait; the last to join leads. There is one collection at a time, and a slot that is
//! needed starts nothing else, so two collections cannot block each other and a stream of narrow
//! items cannot starve a wide one. A collection takes the slots of its first slot's domain if
//! enough of them are free, otherwise all; a slot that is about to sleep joins any.
//!
//! This code neither blocks a slot nor calls the workload: it returns what the caller must do after
//! releasing the lock.

use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crossbeam_utils::CachePadded;
use rustc_hash::FxHashMap;

use super::gpus::FreeGpus;
use super::item::Item;
use super::sleep::Sleeper;
use super::sync::{AtomicU32, Ordering};
use crate::schedule::admission::{AdmissionEntry, AdmissionQueue, Head, LEVELS};
use crate::schedule::fair::{FairTable, FamilyId};
use crate::schedule::pools::table::PoolTable;
use crate::schedule::pools::{PoolOrders, PoolReport};
use crate::schedule::resources::{Impossible, Needs, ResourceLedger};

/// Identifies slots set aside by [`Handle::hold`](super::Handle::hold).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct HoldId(pub u64);

/// What the items of all ranks share.
#[derive(Clone, Debug, Default)]
pub(super) struct Tables {
    pub(super) pools: Arc<PoolTable>,
    pub(super) fair: Arc<FairTable>,
}

pub(super) struct Admission {
    signal: CachePadded<AtomicU32>,
    /// Whether leases of pools have changed, and whether tasks wait for pools.
    pool_signal: AtomicU32,
    /// Idle slots at the last report of leases.
    reported_idle: AtomicU32,
    /// As in [`Inner`], to be read without the lock.
    resting: AtomicU32,
    /// False if no item needs a pool.
    has_pools: AtomicBool,
    inner: Mutex<Inner>,
}

struct Inner {
    stopping: bool,
    paused: bool,
    queue: AdmissionQueue<Item, HoldId>,
    gpus: FreeGpus,
    collecting: Option<Collecting>,
    held: FxHashMap<HoldId, ItemGrant>,
    holds: u64,
    /// Domain of each slot, as an index into `free`.
    domains: Box<[usize]>,
    /// Per domain, the number of slots not given to a wide item or a hold. Those that run narrow
    /// items count: they join a collection when these end.
    free: Box<[usize]>,
    /// Slots that are collected, or wait for the end of a wide item or a hold.
    resting: u32,
}

/// A wide item or hold that needs further slots. Its memory, GPUs and place under its limit are
/// already granted.
struct Collecting {
    entry: AdmissionEntry<Item, HoldId>,
    needs: Needs,
    charge: Charge,
    gpus: Vec<u32>,
    /// The domain whose slots are needed; `None` for all.
    domain: Option<usize>,
    members: Vec<Sleeper>,
}

/// What the family of an item was charged, and when. Families without shares need no clock.
#[derive(Clone, Copy)]
struct Charge {
    ns: f64,
    since: Option<Instant>,
}

impl Charge {
    fn used(&self) -> (f64, Duration) {
        (self.ns, self.since.map_or(Duration::ZERO, |since| since.elapsed()))
    }
}

/// The resources granted to an item or a hold.
pub(super) struct ItemGrant {
    needs: Needs,
    charge: Charge,
    /// All its slots, in ascending order.
    pub(super) slots: Vec<usize>,
    pub(super) gpus: Vec<u32>,
    /// Those of its slots that wait until it ends; a narrow item has none.
    members: Vec<Sleeper>,
}

/// What a visiting slot must do.
pub(super) enum Visit {
    /// Continue elsewhere.
    Nothing,
    /// Run the item, then [`Admission::finish`].
    Run(Item, ItemGrant),
    /// Wait until released; this number of slots is still missing.
    Wait { missing: u32 },
    /// Notify the workload that the slots are held, then wait until released.
    Held { id: HoldId, slots: Vec<usize>, gpus: Vec<u32> },
}

/// The word that every slot polls: two flags, one more than the highest level that may start (8
/// bits), and one more than the domain whose slots are needed (16 bits; all ones for all domains).
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Signal(u32);

const POOLS_CHANGED: u32 = 1;
const POOLS_AWAITED: u32 = 2;

const STOP: u32 = 1;
const PAUSE: u32 = 2;
const ALL_DOMAINS: u32 = u16::MAX as u32;

impl Signal {
    /// True if nothing waits and no slot is needed: the common case.
    pub(super) fn is_quiet(self) -> bool {
        self.0 == 0
    }

    pub(super) fn stop(self) -> bool {
        self.0 & STOP != 0
    }

    pub(super) fn paused(self) -> bool {
        self.0 & PAUSE != 0
    }

    /// True if an idle slot would get something to do.
    pub(super) fn calls(self) -> bool {
        self.0 >> 8 != 0
    }

    /// True if a collection needs slots of a domain other than `domain` only.
    pub(super) fn asks_elsewhere(self, domain: usize) -> bool {
        let asked = self.0 >> 16;
        asked != 0 && asked != ALL_DOMAINS && asked != domain as u32 + 1
    }

    /// True if a slot of `domain`, whose most urgent own item is at `level`, must visit.
    pub(super) fn calls_slot(self, domain: usize, level: Option<u32>) -> bool {
        let asked = self.0 >> 16;
        let may_start = self.0 >> 8 & 0xff;
        asked == ALL_DOMAINS || asked == domain as u32 + 1 || may_start > level.unwrap_or(0)
    }
}

impl Admission {
    /// `domains` holds each slot's domain, numbered from 0 without gaps; all but the first `slots`
    /// are extra. `gpus` holds each GPU's number with the domain that it is near to.
    pub(super) fn new(
        (domains, slots): (Vec<usize>, usize),
        memory: u64,
        gpus: Vec<(u32, Option<usize>)>,
        shared: Tables,
    ) -> Admission {
        let count = domains.iter().max().map_or(0, |last| last + 1);
        let free = (0..count).map(|d| domains[..slots].iter().filter(|&&of| of == d).count()).collect();
        let Tables { pools, fair } = shared;
        let has_pools = !pools.is_empty();
        let inner = Inner {
            stopping: false,
            paused: false,
            queue: AdmissionQueue::new(
                ResourceLedger::new(slots as u32, memory, gpus.len() as u32, pools).with_fair(fair),
            ),
            gpus: FreeGpus::new(gpus),
            collecting: None,
            held: FxHashMap::default(),
            holds: 0,
            domains: domains.into(),
            free,
            resting: 0,
        };
        Admission {
            signal: CachePadded::new(AtomicU32::new(0)),
            pool_signal: AtomicU32::new(0),
            reported_idle: AtomicU32::new(0),
            resting: AtomicU32::new(0),
            has_pools: AtomicBool::new(has_pools),
            inner: Mutex::new(inner),
        }
    }

    /// One relaxed load. For a slot that goes to sleep, the fence of the sleep protocol makes the
    /// answer reliable.
    #[inline]
    pub(super) fn signal(&self) -> Signal {
        Signal(self.signal.load(Ordering::Relaxed))
    }

    /// Slots that are collected, or wait for the end of a wide item or a hold.
    pub(super) fn resting(&self) -> usize {
        self.resting.load(Ordering::Relaxed) as usize
    }

    /// Queues items; returns those that can never start.
    pub(super) fn push(&self, items: impl Iterator<Item = (Item, Needs)>) -> Vec<(Item, Impossible)> {
        self.change(|inner| {
            items.filter_map(|(item, needs)| inner.push(item, needs).err().map(|why| (item, why))).collect()
        })
    }

    /// Queues a hold.
    pub(super) fn hold(&self, needs: Needs) -> Result<HoldId, Impossible> {
        self.change(|inner| {
            inner.queue.check(&needs)?;
            inner.holds += 1;
            let id = HoldId(inner.holds);
            inner.queue.push_hold(id, needs);
            Ok(id)
        })
    }

    /// Releases a hold at any stage. The caller must release the sleepers; `None` if there is no
    /// such hold.
    pub(super) fn release(&self, id: HoldId) -> Option<Vec<Sleeper>> {
        self.change(|inner| inner.release(id))
    }

    /// The slots of a hold that are set aside; empty if they are not.
    pub(super) fn slots_of(&self, id: HoldId) -> Vec<usize> {
        self.change(|inner| inner.held.get(&id).map_or_else(Vec::new, |grant| grant.slots.clone()))
    }

    /// Visit by slot `slot`. `level` is that of its own most urgent item; `idle` means that it
    /// would otherwise sleep.
    pub(super) fn visit(&self, slot: usize, level: Option<u32>, idle: bool) -> Visit {
        self.change(|inner| inner.visit(slot, level, idle))
    }

    /// Visit by an extra slot, which runs only what needs one slot and no GPU.
    pub(super) fn visit_extra(&self, slot: usize) -> Visit {
        self.change(|inner| inner.visit_extra(slot))
    }

    /// Ends an item. The caller must release the sleepers, and notify the workload (true) that
    /// units of pools were given back.
    pub(super) fn finish(&self, grant: ItemGrant) -> (Vec<Sleeper>, bool) {
        self.change(|inner| (inner.take_back(grant), inner.queue.take_urgent_pool_report()))
    }

    /// Carries out an order about leases of pools.
    pub(super) fn carry_out_pool_orders(&self, orders: &PoolOrders) {
        self.change(|inner| inner.queue.carry_out_pool_orders(orders));
    }

    /// Learns the slot time that families have got on other ranks.
    /// Replaces the tables by those of more tasks.
    pub(super) fn grow(&self, Tables { pools, fair }: Tables) {
        self.has_pools.fetch_or(!pools.is_empty(), Ordering::Relaxed);
        self.change(|inner| inner.queue.grow(pools, fair));
    }

    /// Learns the slot time that families have got on other ranks.
    pub(super) fn learn_shares(&self, elsewhere: &[(FamilyId, u64)]) {
        self.change(|inner| inner.queue.learn_shares(elsewhere));
    }

    /// The report about leases of pools, if it would differ from the last one.
    pub(super) fn pool_report(&self, idle: u32) -> Option<PoolReport> {
        let signal = self.pool_signal.load(Ordering::Relaxed);
        let is_due = signal & POOLS_CHANGED != 0
            || (signal & POOLS_AWAITED != 0 && self.reported_idle.load(Ordering::Relaxed) != idle);
        if !is_due {
            return None;
        }
        self.reported_idle.store(idle, Ordering::Relaxed);
        self.change(|inner| {
            let starts = !inner.stopping && !inner.paused;
            Some(inner.queue.pool_report(idle, starts))
        })
    }

    /// Starts nothing until [`Admission::resume`]. A collection is dissolved and its item requeued;
    /// otherwise its slots would wait for others that no longer join. The caller must release the
    /// sleepers.
    pub(super) fn pause(&self) -> Vec<Sleeper> {
        self.change(|inner| {
            inner.paused = true;
            inner.dissolve()
        })
    }

    /// Starts items again after [`Admission::pause`].
    pub(super) fn resume(&self) {
        self.change(|inner| {
            inner.paused = false;
            inner.queue.resume();
        });
    }

    /// Starts nothing any more. The caller must release the sleepers.
    pub(super) fn stop(&self) -> Vec<Sleeper> {
        self.change(|inner| {
            inner.stopping = true;
            let collecting = inner.collecting.take().map(|c| c.members).unwrap_or_default();
            let held = inner.held.drain().flat_map(|(_, grant)| grant.members);
            let sleepers: Vec<Sleeper> = held.chain(collecting).collect();
            inner.resting -= sleepers.len() as u32;
            sleepers
        })
    }

    /// Takes out all items that have not started, except one that collects slots.
    pub(super) fn take_out(&self) -> Vec<Item> {
        self.change(|inner| inner.withdraw(&|_| true))
    }

    /// Takes out the matching items that have not started. If one of them was collecting slots, the
    /// caller must release the sleepers.
    pub(super) fn withdraw(&self, which: &dyn Fn(&Item) -> bool) -> (Vec<Item>, Vec<Sleeper>) {
        self.change(|inner| {
            let collects = |c: &Collecting| matches!(&c.entry, AdmissionEntry::Task(item) if which(item));
            let freed = if inner.collecting.as_ref().is_some_and(collects) { inner.dissolve() } else { Vec::new() };
            (inner.withdraw(which), freed)
        })
    }

    /// Number of waiting items.
    pub(super) fn len(&self) -> usize {
        self.lock().queue.len()
    }

    /// Runs `act` under the lock and updates the signal.
    fn change<T>(&self, act: impl FnOnce(&mut Inner) -> T) -> T {
        let mut inner = self.lock();
        let result = act(&mut inner);
        self.resting.store(inner.resting, Ordering::Relaxed);
        self.signal.store(inner.signal(), Ordering::Release);
        if self.has_pools.load(Ordering::Relaxed) {
            let (changed, awaited) = (inner.queue.is_pool_changed(), inner.queue.waits_for_pools());
            let flag = |holds: bool, flag: u32| if holds { flag } else { 0 };
            self.pool_signal.store(flag(changed, POOLS_CHANGED) | flag(awaited, POOLS_AWAITED), Ordering::Relaxed);
        }
        result
    }

    /// A panic under this lock would be a bug; the pool then continues with the present state.
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn push(&mut self, item: Item, needs: Needs) -> Result<(), Impossible> {
        self.queue.check(&needs)?;
        self.queue.push_task(item, item.urgency, needs);
        Ok(())
    }

    fn withdraw(&mut self, which: &dyn Fn(&Item) -> bool) -> Vec<Item> {
        self.queue.withdraw(which).into_iter().map(|withdrawn| withdrawn.task).collect()
    }

    fn signal(&self) -> u32 {
        if self.stopping || self.paused {
            return if self.stopping { STOP } else { PAUSE };
        }
        let may_start = self.head().map_or(0, |head| head.level + 1);
        let asked = match &self.collecting {
            None => 0,
            Some(Collecting { domain: Some(domain), .. }) => *domain as u32 + 1,
            Some(_) => ALL_DOMAINS,
        };
        asked << 16 | may_start << 8
    }

    fn head(&self) -> Option<Head> {
        let collectable = if self.collecting.is_some() { 0 } else { self.free.iter().sum() };
        self.queue.head(collectable)
    }

    fn visit(&mut self, slot: usize, level: Option<u32>, idle: bool) -> Visit {
        if self.stopping || self.paused {
            return Visit::Nothing;
        }
        let domain = self.domains[slot];
        let asked = |c: &Collecting| idle || c.domain.is_none_or(|d| d == domain);
        if let Some(collecting) = self.collecting.take_if(|c| asked(c)) {
            return self.join(collecting, slot);
        }
        let head = self.head().filter(|head| level.is_none_or(|own| head.level >= own));
        let Some((needs, (entry, ns))) = head.and_then(|head| Some((head.needs, self.queue.admit(&head)?))) else {
            return Visit::Nothing;
        };
        let gpus = self.gpus.take(needs.gpus, domain);
        let domain = (self.free[domain] >= needs.slots()).then_some(domain);
        let charge = Charge { ns, since: (needs.family > 0).then(Instant::now) };
        self.join(Collecting { entry, needs, charge, gpus, domain, members: Vec::new() }, slot)
    }

    fn visit_extra(&mut self, slot: usize) -> Visit {
        if self.stopping || self.paused {
            return Visit::Nothing;
        }
        let is_narrow = |head: &Head| head.needs.slots() == 1 && head.needs.gpus == 0;
        // Holds are above all levels of items.
        let head = self.head().filter(|head| is_narrow(head) && (head.level as usize) < LEVELS);
        let admitted = head.and_then(|head| Some((head.needs, self.queue.admit(&head)?)));
        let Some((needs, (AdmissionEntry::Task(item), ns))) = admitted else { return Visit::Nothing };
        let charge = Charge { ns, since: (needs.family > 0).then(Instant::now) };
        Visit::Run(item, ItemGrant { needs, charge, slots: vec![slot], gpus: Vec::new(), members: Vec::new() })
    }

    /// Adds the slot to the collection, and completes it if the slot is the last.
    fn join(&mut self, mut collecting: Collecting, slot: usize) -> Visit {
        let missing = collecting.needs.slots() - collecting.members.len() - 1;
        if collecting.needs.slots() > 1 || matches!(collecting.entry, AdmissionEntry::Hold(_)) {
            self.free[self.domains[slot]] -= 1;
        }
        if missing > 0 {
            collecting.members.push(Sleeper::this(slot));
            self.resting += 1;
            self.collecting = Some(collecting);
            return Visit::Wait { missing: missing as u32 };
        }
        let Collecting { entry, needs, charge, gpus, mut members, .. } = collecting;
        let mut slots: Vec<usize> = members.iter().map(|m| m.slot).chain([slot]).collect();
        slots.sort_unstable();
        match entry {
            AdmissionEntry::Task(item) => Visit::Run(item, ItemGrant { needs, charge, slots, gpus, members }),
            AdmissionEntry::Hold(id) => {
                members.push(Sleeper::this(slot));
                self.resting += 1;
                let told = Visit::Held { id, slots: slots.clone(), gpus: gpus.clone() };
                self.held.insert(id, ItemGrant { needs, charge, slots, gpus, members });
                told
            }
        }
    }

    fn take_back(&mut self, grant: ItemGrant) -> Vec<Sleeper> {
        self.queue.take_back(&grant.needs, grant.charge.used());
        self.gpus.give_back(&grant.gpus);
        if !grant.members.is_empty() {
            grant.slots.iter().for_each(|&slot| self.free[self.domains[slot]] += 1);
        }
        self.resting -= grant.members.len() as u32;
        grant.members
    }

    fn dissolve(&mut self) -> Vec<Sleeper> {
        let Some(c) = self.collecting.take() else { return Vec::new() };
        match c.entry {
            AdmissionEntry::Task(item) => self.queue.push_task(item, item.urgency, c.needs),
            AdmissionEntry::Hold(id) => self.queue.push_hold(id, c.needs),
        }
        let slots = c.members.iter().map(|m| m.slot).collect();
        self.take_back(ItemGrant { needs: c.needs, charge: c.charge, slots, gpus: c.gpus, members: c.members })
    }

    fn release(&mut self, id: HoldId) -> Option<Vec<Sleeper>> {
        if let Some(grant) = self.held.remove(&id) {
            return Some(self.take_back(grant));
        }
        if let Some(c) = self.collecting.take_if(|c| c.entry == AdmissionEntry::Hold(id)) {
            let slots = c.members.iter().map(|m| m.slot).collect();
            return Some(self.take_back(ItemGrant {
                needs: c.needs,
                charge: c.charge,
                slots,
                gpus: c.gpus,
                members: c.members,
            }));
        }
        self.queue.cancel_hold(|&hold| hold == id).then(Vec::new)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn item(task: u32, urgency: u8) -> Item {
        Item { task, urgency, tag: 0, constrained: true }
    }

    /// Two domains of two slots.
    fn admission(items: &[(u32, u8, u32)]) -> Admission {
        let admission = Admission::new((vec![0, 0, 1, 1], 4), 100, vec![], Tables::default());
        let entry = |&(task, urgency, cpus)| (item(task, urgency), Needs { cpus, ..Needs::SLOT });
        assert!(admission.push(items.iter().map(entry)).is_empty());
        admission
    }

    fn run(visit: Visit) -> (u32, ItemGrant) {
        match visit {
            Visit::Run(item, grant) => (item.task, grant),
            _ => panic!("nothing to run"),
        }
    }

    #[test]
    fn a_collection_asks_the_domain_it_started_in() {
        let admission = admission(&[(7, 0, 2)]);
        assert!(admission.signal().calls_slot(0, None) && admission.signal().calls_slot(1, Some(0)));
        assert!(matches!(admission.visit(3, Some(0), false), Visit::Wait { missing: 1 }));
        assert!(admission.signal().calls_slot(1, Some(15)) && admission.signal().asks_elsewhere(0));
        assert!(!admission.signal().calls_slot(0, None));
        assert!(matches!(admission.visit(0, None, false), Visit::Nothing));
        let (task, grant) = run(admission.visit(2, Some(15), false));
        assert_eq!((task, grant.slots.clone()), (7, vec![2, 3]));
        assert_eq!(admission.finish(grant).0.iter().map(|m| m.slot).collect::<Vec<_>>(), [3]);
        assert!(admission.signal().is_quiet());
    }

    #[test]
    fn a_collection_asks_all_if_its_domain_is_too_small() {
        let admission = admission(&[(7, 0, 3)]);
        assert!(matches!(admission.visit(0, None, false), Visit::Wait { missing: 2 }));
        assert!(matches!(admission.visit(2, Some(9), false), Visit::Wait { missing: 1 }));
        assert_eq!(run(admission.visit(1, Some(9), false)).1.slots, [0, 1, 2]);
    }

    #[test]
    fn an_idle_slot_joins_a_collection_elsewhere() {
        let admission = admission(&[(7, 0, 2)]);
        assert!(matches!(admission.visit(0, None, false), Visit::Wait { missing: 1 }));
        assert_eq!(run(admission.visit(3, None, true)).1.slots, [0, 3]);
    }

    #[test]
    fn only_one_item_collects_and_a_narrow_one_may_start_beside_it() {
        let admission = admission(&[(1, 9, 2), (2, 9, 2), (3, 1, 1)]);
        assert!(matches!(admission.visit(0, None, false), Visit::Wait { missing: 1 }));
        assert!(matches!(admission.visit(2, Some(5), false), Visit::Nothing), "its own work is more urgent");
        let (narrow, grant) = run(admission.visit(2, None, false));
        assert_eq!(narrow, 3);
        let (first, wide) = run(admission.visit(1, None, false));
        assert_eq!(first, 1);
        assert!(matches!(admission.visit(3, None, false), Visit::Wait { missing: 1 }), "slot 2 joins soon");
        admission.finish(grant);
        assert_eq!(run(admission.visit(2, None, false)).0, 2);
        assert_eq!(admission.finish(wide).0.len(), 1);
    }

    #[test]
    fn narrow_items_with_needs_do_not_starve_a_hold_of_several_slots() {
        let admission = Admission::new((vec![0, 0], 2), 100, vec![], Tables::default());
        let hungry = Needs { memory: 10, ..Needs::SLOT };
        assert!(admission.push((0..9).map(|task| (item(task, 15), hungry))).is_empty());
        let grants = [0, 1].map(|slot| run(admission.visit(slot, None, false)).1);
        let hold = admission.hold(Needs { cpus: 2, ..Needs::SLOT }).unwrap();
        let [first, second] = grants;
        admission.finish(first);
        assert!(admission.signal().calls_slot(0, None));
        assert!(matches!(admission.visit(0, None, false), Visit::Wait { missing: 1 }), "no further item is started");
        admission.finish(second);
        assert!(matches!(admission.visit(1, None, false), Visit::Held { id, .. } if id == hold));
        admission.hold(Needs { cpus: 2, ..Needs::SLOT }).unwrap();
        assert_eq!(admission.release(hold).map(|sleepers| sleepers.len()), Some(2));
        assert!(matches!(admission.visit(0, None, false), Visit::Wait { missing: 1 }), "both slots count again");
    }

    #[test]
    fn what_stops_or_pauses_is_seen_by_all_and_waiting_slots_are_freed() {
        let admission = admission(&[(1, 0, 2)]);
        admission.pause();
        assert!(admission.signal().paused() && !admission.signal().calls());
        assert!(matches!(admission.visit(0, None, true), Visit::Nothing));
        admission.resume();
        assert!(matches!(admission.visit(0, None, true), Visit::Wait { .. }));
        assert_eq!(admission.stop().len(), 1);
        assert!(admission.signal().stop() && matches!(admission.visit(1, None, true), Visit::Nothing));
    }

    #[test]
    fn a_pause_dissolves_a_collection_and_it_starts_anew_later() {
        let admission = admission(&[(1, 0, 3)]);
        assert!(matches!(admission.visit(0, None, true), Visit::Wait { missing: 2 }));
        let freed = admission.pause();
        assert_eq!(freed.iter().map(|m| m.slot).collect::<Vec<_>>(), [0], "slot 0 waits for nobody any more");
        assert_eq!(admission.len(), 1, "the item waits again");
        admission.resume();
        assert!(matches!(admission.visit(1, None, true), Visit::Wait { missing: 2 }));
        assert!(matches!(admission.visit(2, None, true), Visit::Wait { missing: 1 }));
        let (task, grant) = run(admission.visit(0, None, true));
        assert_eq!((task, &grant.slots[..]), (1, &[0, 1, 2][..]));
    }

    #[test]
    fn what_is_withdrawn_gives_back_the_slots_that_it_collected_and_the_others_keep_their_order() {
        let admission = admission(&[(1, 5, 3), (2, 5, 1), (3, 5, 1), (4, 5, 1)]);
        assert!(matches!(admission.visit(0, None, true), Visit::Wait { missing: 2 }));
        let (items, freed) = admission.withdraw(&|item| item.task == 1 || item.task == 3);
        assert_eq!(items.iter().map(|item| item.task).collect::<Vec<_>>(), [3, 1]);
        assert_eq!(freed.iter().map(|m| m.slot).collect::<Vec<_>>(), [0]);
        assert_eq!(admission.len(), 2);
        assert_eq!([run(admission.visit(1, None, true)).0, run(admission.visit(0, None, true)).0], [2, 4]);
    }
}
