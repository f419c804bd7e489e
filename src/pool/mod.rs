//! The work-stealing pool: slots pinned to CPUs that run ready items, the most urgent first.
//!
//! The pool knows nothing of tasks, ranks or messages: a [`Workload`] defines what running an item
//! means. The workload counts dependencies and pushes items that have become ready; the pool
//! decides which slot runs an item, when, and with which resources.
//!
//! README.md beside this file describes the states of a slot, how work is posted, and why no
//! wake-up is lost. In short: plain items are in lock-free deques (`queues`), items with needs wait
//! in one locked queue (`admission`), and idle slots follow one small protocol (`sleep`). A plain
//! item pays a few uncontended loads and stores for all three.

mod admission;
mod backoff;
mod bind;
mod extra;
mod gpus;
mod item;
mod queues;
mod shared;
mod sleep;
mod slot;
mod sync;
mod team;
#[cfg(test)]
mod tests;

use std::io;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use std::thread::{self, JoinHandle};

use tracing::error;

pub use self::admission::HoldId;
pub use self::item::Item;
pub use self::slot::{Slot, Team};

use self::admission::{Admission, Tables};
use self::bind::Binder;
use self::extra::ExtraSlots;
use self::queues::{Own, Queues};
use self::shared::PoolShared;
use self::sleep::{MOST_SLOTS, Sleep};
use self::slot::Core;
use self::team::Teams;
use crate::schedule::fair::{FairTable, FamilyId};
use crate::schedule::pools::table::PoolTable;
use crate::schedule::pools::{PoolOrders, PoolReport};
use crate::schedule::resources::{Impossible, Needs};
use crate::topology::SlotPlace;

/// The work that a pool runs. Every method may be called from several slots at once.
pub trait Workload: Send + Sync + 'static {
    /// Runs an item; it passes items that became ready to [`Slot::push`].
    fn run(&self, item: Item, slot: &mut Slot<'_>);

    /// The needs of an item marked as constrained. Must not call the pool.
    fn needs(&self, item: Item) -> Needs;

    /// Called repeatedly by a slot that found no work, before it sleeps: polls for work, for
    /// example from the network, without blocking. `patient`: the slot will call again shortly in
    /// any case; otherwise it is about to sleep. Returns true if the slot should look for items
    /// again at once.
    fn starving(&self, slot: &mut Slot<'_>, patient: bool) -> bool;

    /// A slot is about to wait for slots of a collection or hold, or, as an extra one, until it is
    /// allowed to run items.
    fn stands_still(&self, _slot: usize) {}

    /// An item can never start on this rank. The pool returns it to the workload.
    fn impossible(&self, item: Item, why: Impossible);

    /// Units of pools were given back that other ranks wait for: [`Handle::pool_report`] has them.
    fn pool_units_returned(&self) {}

    /// All slots of a hold are set aside; they wait until [`Handle::release`]. Called on one of
    /// them (`slot`). May still be called for a hold that is released at the same moment.
    fn held(&self, id: HoldId, slot: usize, cpus: &[u32], gpus: &[u32]);

    /// Running this item, or (`None`) another method of this trait, panicked with this message. The
    /// pool continues.
    fn panicked(&self, item: Option<Item>, message: String);
}

/// The resources of a pool.
#[derive(Clone, Debug)]
pub struct PoolConfig {
    /// One slot per place; see [`Topology::places`](crate::topology::Topology::places).
    pub places: Vec<SlotPlace>,
    /// Places of extra slots, numbered after the others; see [`Handle::allow_extra`].
    pub extra: Vec<SlotPlace>,
    /// Bytes of memory that constrained items may use together.
    pub memory: u64,
    /// GPUs that constrained items may use.
    pub gpus: Vec<PoolGpu>,
    /// Pools of the whole run, of which constrained items may need units.
    pub pools: Arc<PoolTable>,
    /// The shares of families, for which constrained items may count.
    pub fair: Arc<FairTable>,
}

/// A GPU that constrained items may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PoolGpu {
    /// The number that [`Slot::gpus`] returns.
    pub number: u32,
    /// The domain near it, as places number them.
    pub domain: Option<u32>,
}

/// A pool or a team could not be started.
#[derive(Debug, thiserror::Error)]
pub enum PoolError {
    /// No place was given.
    #[error("a pool needs at least one slot")]
    NoSlots,
    /// More places than the pool can count.
    #[error("a pool of {0} slots is too large; use at most {MOST_SLOTS} slots per rank")]
    TooManySlots(usize),
    /// A thread could not be started.
    #[error(
        "cannot start the thread of slot {slot}: {source}; use fewer --slots or raise the limit on processes (ulimit -u)"
    )]
    Thread {
        /// The slot.
        slot: usize,
        /// The system's error.
        source: io::Error,
    },
    /// The threads of a rayon pool could not be started.
    #[error("cannot start the threads of a rayon pool: {0}; raise the limit on processes (ulimit -u)")]
    Team(#[source] rayon::ThreadPoolBuildError),
}

/// A running pool. Dropping it stops it.
pub struct Pool<W> {
    handle: Handle,
    threads: Vec<JoinHandle<()>>,
    workload: Arc<W>,
}

/// Access to a pool from any thread.
#[derive(Clone)]
pub struct Handle {
    shared: Arc<PoolShared>,
}

/// A snapshot of a pool's load. Its parts are read one after another, so they may be inconsistent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PoolLoad {
    /// Slots of the pool, with the extra ones that may run items.
    pub slots: usize,
    /// Slots that run something or are set aside.
    pub busy: usize,
    /// Items that run.
    pub running: usize,
    /// Items that wait for a slot.
    pub ready: usize,
    /// Those of them that wait for nothing else.
    pub plain: usize,
}

/// Totals of one slot.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Items run.
    pub tasks: u64,
    /// Batches stolen from slots of the same domain.
    pub stolen_near: u64,
    /// Batches stolen from slots of other domains.
    pub stolen_far: u64,
    /// Number of times that it slept.
    pub parks: u64,
}

impl<W: Workload> Pool<W> {
    /// Starts one thread per place.
    ///
    /// # Errors
    /// If there are no places or too many, or a thread cannot be started.
    pub fn start(config: PoolConfig, workload: Arc<W>) -> Result<Pool<W>, PoolError> {
        let (slots, extra) = (config.places.len(), config.extra.len());
        match slots + extra {
            0 => return Err(PoolError::NoSlots),
            _ if slots == 0 => return Err(PoolError::NoSlots),
            n if n > MOST_SLOTS => return Err(PoolError::TooManySlots(n)),
            _ => {}
        }
        let places: Vec<SlotPlace> = config.places.into_iter().chain(config.extra).collect();
        let domains = ordinals(&places);
        let ids: Vec<u32> = domains.iter().map(|&d| d as u32).collect();
        let (queues, owns) = Queues::new(&ids);
        let near = |domain: u32| Some(domains[places.iter().position(|place| place.domain == domain)?]);
        let gpus = config.gpus.iter().map(|gpu| (gpu.number, gpu.domain.and_then(near))).collect();
        let weak: Weak<W> = Arc::downgrade(&workload);
        let shared = PoolShared {
            queues,
            admission: Admission::new(
                (domains.clone(), slots),
                config.memory,
                gpus,
                Tables { pools: config.pools, fair: config.fair },
            ),
            sleep: Sleep::new(slots),
            slots,
            extra: ExtraSlots::new(),
            tallies: (0..slots + extra).map(|_| Default::default()).collect(),
            binder: Arc::new(Binder::default()),
            teams: Teams::new(slots + extra + 8),
            workload: weak,
            places: places.into(),
        };
        let handle = Handle { shared: Arc::new(shared) };
        // From here on, dropping the pool on an error stops the threads that have been started.
        let mut pool = Pool { handle, threads: Vec::with_capacity(slots + extra), workload };
        for (slot, (own, domain)) in owns.into_iter().zip(domains).enumerate() {
            let thread = pool.spawn(slot, domain, own)?;
            pool.threads.push(thread);
        }
        Ok(pool)
    }

    fn spawn(&self, slot: usize, domain: usize, own: Own) -> Result<JoinHandle<()>, PoolError> {
        let core = Core::new(slot, domain, Arc::clone(&self.handle.shared), own);
        let workload = Arc::clone(&self.workload);
        let named = thread::Builder::new().name(format!("slot-{slot}"));
        let is_extra = slot >= self.handle.shared.slots;
        let serve = move || if is_extra { core.serve_extra(&*workload) } else { core.serve(&*workload) };
        named.spawn(serve).map_err(|source| PoolError::Thread { slot, source })
    }
}

impl<W> Pool<W> {
    /// A handle for use from any thread.
    pub fn handle(&self) -> Handle {
        self.handle.clone()
    }

    /// The workload.
    pub fn workload(&self) -> &Arc<W> {
        &self.workload
    }

    /// Lets running items end, starts no others, and joins the threads. Items that have not started
    /// are dropped. Must not be called from a slot.
    pub fn stop(self) {
        drop(self);
    }
}

impl<W> Drop for Pool<W> {
    fn drop(&mut self) {
        let shared = &self.handle.shared;
        shared.free(shared.admission.stop(), 0);
        shared.sleep.wake_all();
        shared.extra.stop();
        for thread in self.threads.drain(..) {
            if thread.join().is_err() {
                error!("a slot of the pool ended by a panic");
            }
        }
    }
}

impl Handle {
    /// Queues an item that is ready.
    pub fn push(&self, item: Item) {
        self.shared.post(&[item]);
    }

    /// Queues many items that are ready; those of one urgency start in this order, as far as slots
    /// allow.
    pub fn push_many(&self, items: &[Item]) {
        self.shared.post(items);
    }

    /// Takes up to `most` unconstrained items that have not started out of the pool, the most
    /// urgent first.
    pub fn surrender(&self, most: usize) -> Vec<Item> {
        self.shared.queues.take_out(most)
    }

    /// Takes all constrained items that have not started out of the pool, the most urgent first.
    pub fn surrender_constrained(&self) -> Vec<Item> {
        let items = self.shared.admission.take_out();
        self.shared.call_for_admission(0);
        items
    }

    /// Takes the matching items that have not started out of the pool; the others keep their order.
    pub fn withdraw(&self, which: &dyn Fn(&Item) -> bool) -> Vec<Item> {
        let (mut items, freed) = self.shared.admission.withdraw(which);
        self.shared.free(freed, 0);
        self.shared.call_for_admission(0);
        let (plain, stay): (Vec<Item>, Vec<Item>) = self.shared.queues.take_all().into_iter().partition(which);
        self.shared.post(&stay);
        items.extend(plain);
        items
    }

    /// The present load. Reads every slot's state, so not for hot paths; see
    /// [`Handle::starving_slots`].
    pub fn load(&self) -> PoolLoad {
        let (extra, running) = (&self.shared.extra, self.shared.extra.running() as usize);
        let slots = self.slots() + (extra.allowed() as usize).max(running);
        let plain = self.shared.queues.len();
        let ready = plain + self.shared.admission.len();
        let busy = self.slots().saturating_sub(self.starving_slots()) + running;
        PoolLoad { slots, busy, running: busy.saturating_sub(self.shared.admission.resting()), ready, plain }
    }

    /// Number of idle slots, by one load of one word.
    pub fn starving_slots(&self) -> usize {
        self.shared.sleep.idle() as usize
    }

    /// Slots of the pool, without extra ones.
    pub fn slots(&self) -> usize {
        self.shared.slots
    }

    /// Lets this many extra slots run items; none do so at the start. Slots above that end what
    /// they run, and run nothing more.
    pub fn allow_extra(&self, slots: usize) {
        self.shared.extra.allow(u32::try_from(slots).unwrap_or(u32::MAX));
    }

    /// Places of the slots, extra ones last.
    pub fn places(&self) -> &[SlotPlace] {
        &self.shared.places
    }

    /// Starts nothing more until [`Handle::resume`]. Running items continue, and a slot that has
    /// just taken one still starts it.
    pub fn pause(&self) {
        self.shared.free(self.shared.admission.pause(), 0);
    }

    /// True if the pool is paused and all slots are idle: none runs an item, is set aside, or could
    /// still have taken an item before the pause. It stays so until [`Handle::resume`].
    pub fn is_quiet(&self) -> bool {
        self.shared.admission.signal().paused()
            && self.shared.sleep.sleeping() as usize == self.slots()
            && self.shared.extra.is_quiet()
    }

    /// Starts items again after [`Handle::pause`].
    pub fn resume(&self) {
        self.shared.admission.resume();
        self.shared.sleep.wake_all();
    }

    /// Requests `needs.cpus` slots, with memory and GPUs, for a task that another rank leads. Holds
    /// are served before all items; [`Workload::held`] reports when the slots are set aside.
    ///
    /// # Errors
    ///
    /// If this rank can never provide them.
    pub fn hold(&self, needs: Needs) -> Result<HoldId, Impossible> {
        let id = self.shared.admission.hold(needs)?;
        self.shared.call_for_admission(0);
        Ok(id)
    }

    /// True once the slots of a hold are set aside.
    pub fn is_held(&self, id: HoldId) -> bool {
        !self.shared.admission.slots_of(id).is_empty()
    }

    /// True while nothing is started ([`Handle::pause`]).
    pub fn is_paused(&self) -> bool {
        self.shared.admission.signal().paused()
    }

    /// A rayon pool with one thread per slot of a hold, bound as those slots are; see
    /// [`Team::rayon`].
    ///
    /// # Errors
    /// If its threads cannot be started.
    pub fn team_of(&self, id: HoldId) -> Result<Arc<rayon::ThreadPool>, PoolError> {
        let slots = self.shared.admission.slots_of(id);
        self.shared.team(if slots.is_empty() { &[0] } else { &slots })
    }

    /// Carries out an order of rank 0 about leases of pools.
    pub fn carry_out_pool_orders(&self, orders: &PoolOrders) {
        self.shared.admission.carry_out_pool_orders(orders);
        self.shared.call_for_admission(0);
    }

    /// Replaces the tables of pools and shares by those of more tasks.
    pub fn grow(&self, pools: Arc<PoolTable>, fair: Arc<FairTable>) {
        self.shared.admission.grow(Tables { pools, fair });
    }

    /// Learns the slot time that families have got on other ranks.
    pub fn learn_shares(&self, elsewhere: &[(FamilyId, u64)]) {
        self.shared.admission.learn_shares(elsewhere);
        self.shared.call_for_admission(0);
    }

    /// The report about leases of pools, if it would differ from the last one. `idle`: number of
    /// idle slots.
    pub fn pool_report(&self, idle: u32) -> Option<PoolReport> {
        self.shared.admission.pool_report(idle)
    }

    /// Releases a hold, complete or not. False if there is no such hold (any more).
    pub fn release(&self, id: HoldId) -> bool {
        let members = self.shared.admission.release(id);
        let known = members.is_some();
        self.shared.free(members.unwrap_or_default(), 0);
        known
    }

    /// Totals of each slot. A slot updates its steals and sleeps when it next finds work.
    pub fn counters(&self) -> Vec<Counters> {
        let read = |tally: &slot::SlotTally| Counters {
            tasks: tally.tasks.load(Ordering::Relaxed),
            stolen_near: tally.stolen_near.load(Ordering::Relaxed),
            stolen_far: tally.stolen_far.load(Ordering::Relaxed),
            parks: tally.parks.load(Ordering::Relaxed),
        };
        self.shared.tallies.iter().map(|tally| read(tally)).collect()
    }
}

/// Domain of each place, numbered from 0 in order of appearance.
fn ordinals(places: &[SlotPlace]) -> Vec<usize> {
    let mut seen: Vec<u32> = Vec::new();
    let mut ordinal = |domain: u32| {
        let known = seen.iter().position(|&d| d == domain);
        known.unwrap_or_else(|| {
            seen.push(domain);
            seen.len() - 1
        })
    };
    places.iter().map(|place| ordinal(place.domain)).collect()
}
