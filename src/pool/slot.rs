//! A slot: one thread that takes items, runs them, and searches for more. README.md describes its
//! states and transitions.
//!
//! Order of preference: an item from the admission queue, the item that the last one made ready
//! (inline, without access to shared state), the slot's own shelf, the inbox and other slots, the
//! workload's `starving`, and then sleep.

use std::any::Any;
use std::mem::take;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use tracing::error;

use super::admission::{HoldId, ItemGrant, Visit};
use super::backoff::Backoff;
use super::item::{Item, Packed};
use super::queues::Own;
use super::shared::PoolShared;
use super::{PoolError, Workload};

/// How long an idle slot leaves a wide item to the slots of another domain, which may have to wake
/// up.
const MAX_COURTESY_WAIT: Duration = Duration::from_micros(200);

/// The running item's access to its slot.
pub struct Slot<'a> {
    core: &'a mut Core,
    granted: Option<&'a Granted>,
}

/// The grant of a constrained item.
struct Granted {
    slots: Vec<usize>,
    cpus: Vec<u32>,
    gpus: Vec<u32>,
}

/// The slot's own state, used by its thread only.
pub(super) struct Core {
    index: usize,
    /// Its domain, as the admission queue numbers them.
    domain: usize,
    shared: Arc<PoolShared>,
    own: Own,
    /// Made ready by the running item; runs next, unless something is more urgent.
    next: Option<Packed>,
    searching: bool,
    backoff: Backoff,
    /// Since when it has left a collection to another domain.
    courteous: Option<Instant>,
    tasks: u64,
    parks: u64,
    /// An extra slot has run something since it last rested.
    ran: bool,
}

/// Totals of one slot, written by the slot alone.
#[derive(Default)]
pub(super) struct SlotTally {
    pub(super) tasks: AtomicU64,
    pub(super) stolen_near: AtomicU64,
    pub(super) stolen_far: AtomicU64,
    pub(super) parks: AtomicU64,
}

/// The next step of a slot.
enum SlotTurn {
    Plain(Packed),
    Granted(Item, ItemGrant),
    Nothing,
    Stop,
}

impl Slot<'_> {
    /// Number of this slot, from 0.
    pub fn index(&self) -> usize {
        self.core.index
    }

    /// The CPUs that the current item may use: those of all its slots. This thread is bound to
    /// exactly these, so processes that it starts inherit them.
    pub fn cpus(&self) -> &[u32] {
        self.granted.map_or(&self.core.shared.places[self.core.index].cpus, |granted| &granted.cpus)
    }

    /// Number of slots of the current item.
    pub fn width(&self) -> usize {
        self.granted.map_or(1, |granted| granted.slots.len())
    }

    /// Id of the domain that this slot belongs to.
    pub fn domain(&self) -> u32 {
        self.core.shared.places[self.core.index].domain
    }

    /// GPUs assigned to the current item, as numbered in the pool's configuration.
    pub fn gpus(&self) -> &[u32] {
        self.granted.map_or(&[], |granted| &granted.gpus)
    }

    /// A rayon pool with one thread per slot of the current item; see [`Team::rayon`].
    ///
    /// # Errors
    /// If its threads cannot be started.
    pub fn rayon(&self) -> Result<Arc<rayon::ThreadPool>, PoolError> {
        self.team().rayon()
    }

    /// The slots of the current item, to start a rayon pool on if needed, from any thread.
    pub fn team(&self) -> Team<'_> {
        let slots = self.granted.map_or(std::slice::from_ref(&self.core.index), |granted| &granted.slots);
        Team { shared: &self.core.shared, slots }
    }

    /// True if the slot has no item of its own to run next.
    #[inline]
    pub fn is_last(&self) -> bool {
        self.core.next.is_none() && self.core.own.level().is_none()
    }

    /// Queues an item that has become ready. The first one pushed by an item usually runs next on
    /// the same slot. So push as the last step of an item: until it returns, no other slot can take
    /// that one.
    #[inline]
    pub fn push(&mut self, item: Item) {
        self.core.push(item);
    }
}

/// The slots of an item while it runs.
#[derive(Clone, Copy)]
pub struct Team<'a> {
    shared: &'a PoolShared,
    slots: &'a [usize],
}

impl Team<'_> {
    /// A rayon pool with one thread per slot, bound as those slots are. Kept for the next item that
    /// runs on the same slots.
    ///
    /// # Errors
    /// If its threads cannot be started.
    pub fn rayon(&self) -> Result<Arc<rayon::ThreadPool>, PoolError> {
        self.shared.team(self.slots)
    }
}

impl Core {
    pub(super) fn new(index: usize, domain: usize, shared: Arc<PoolShared>, own: Own) -> Core {
        let backoff = Backoff::new(shared.places[index].pinned);
        Core {
            index,
            domain,
            shared,
            own,
            next: None,
            searching: false,
            backoff,
            courteous: None,
            tasks: 0,
            parks: 0,
            ran: false,
        }
    }

    /// The main loop of the slot's thread.
    pub(super) fn serve<W: Workload>(mut self, workload: &W) {
        self.bind();
        loop {
            while self.shared.admission.signal().is_quiet()
                && let Some(item) = self.take()
            {
                self.run(workload, item.into(), None);
            }
            match self.turn(workload) {
                SlotTurn::Plain(item) => self.run(workload, item.into(), None),
                SlotTurn::Granted(item, grant) => self.run_granted(workload, item, grant),
                SlotTurn::Nothing => self.starve(workload),
                SlotTurn::Stop => break,
            }
        }
    }

    /// The main loop of an extra slot's thread.
    pub(super) fn serve_extra<W: Workload>(mut self, workload: &W) {
        self.bind();
        let (shared, number) = (Arc::clone(&self.shared), (self.index - self.shared.slots) as u32);
        // Before it pauses or rests, what it did must reach others.
        let step = |core: &mut Core| core.run_extra(workload) || (take(&mut core.ran) && core.ask(workload, false));
        shared.extra.serve(number, &mut self, step, |core: &mut Core| {
            if let Some(next) = core.next.take() {
                core.shelve(next);
            }
            if take(&mut core.ran) {
                core.ask(workload, false);
            }
            workload.stands_still(core.index);
            core.publish();
        });
    }

    /// Runs an item on this extra slot, if there is one that it may run.
    fn run_extra<W: Workload>(&mut self, workload: &W) -> bool {
        let signal = self.shared.admission.signal();
        if signal.stop() || signal.paused() {
            if let Some(next) = self.next.take() {
                self.shelve(next);
            }
            return false;
        }
        if let Some(item) = self.take().or_else(|| self.own.take_one(&self.shared.queues)) {
            let shared = Arc::clone(&self.shared);
            shared.extra.counted(self, |core| core.run(workload, item.into(), None));
            self.ran = true;
            return true;
        }
        let visit = if signal.calls() { self.shared.admission.visit_extra(self.index) } else { Visit::Nothing };
        let Visit::Run(item, grant) = visit else { return false };
        self.shared.call_for_admission(self.index);
        let shared = Arc::clone(&self.shared);
        shared.extra.counted(self, |core| core.run_granted(workload, item, grant));
        self.ran = true;
        true
    }

    /// The next plain item of this slot.
    #[inline]
    fn take(&mut self) -> Option<Packed> {
        if let Some(item) = self.next.take() {
            if !self.own.outranks(&self.shared.queues, item) {
                return Some(item);
            }
            self.shelve(item);
        }
        self.own.pop(&self.shared.queues)
    }

    /// The next step, from what this slot can have without taking it from others.
    fn turn<W: Workload>(&mut self, workload: &W) -> SlotTurn {
        if !self.shared.admission.signal().is_quiet()
            && let Some(turn) = self.heed(workload, false)
        {
            return turn;
        }
        self.take().map_or(SlotTurn::Nothing, SlotTurn::Plain)
    }

    #[inline]
    fn run<W: Workload>(&mut self, workload: &W, item: Item, granted: Option<&Granted>) {
        self.tasks += 1;
        self.shared.tallies[self.index].tasks.store(self.tasks, Ordering::Relaxed);
        let ran = catch_unwind(AssertUnwindSafe(|| workload.run(item, &mut Slot { core: self, granted })));
        if let Err(payload) = ran {
            report(workload, Some(item), payload);
        }
    }

    #[cold]
    fn run_granted<W: Workload>(&mut self, workload: &W, item: Item, grant: ItemGrant) {
        let cpus = self.shared.cpus_of(&grant.slots);
        let granted = Granted { slots: grant.slots.clone(), cpus, gpus: grant.gpus.clone() };
        let wide = granted.slots.len() > 1;
        if wide {
            self.shared.binder.bind(&granted.cpus);
        }
        self.run(workload, item, Some(&granted));
        if wide {
            self.bind();
        }
        self.shared.finish(grant, self.index);
    }

    #[inline]
    fn push(&mut self, item: Item) {
        if item.constrained {
            return self.shared.post_constrained(&[item], self.index);
        }
        let item = Packed::from(item);
        match self.next {
            None => self.next = Some(item),
            Some(next) if item.level() > next.level() => {
                self.next = Some(item);
                self.shelve(next);
            }
            Some(_) => self.shelve(item),
        }
    }

    /// Makes an item available to other slots, and announces it.
    fn shelve(&mut self, item: Packed) {
        self.own.push(&self.shared.queues, item);
        if self.shared.places.len() > 1 {
            self.shared.sleep.announce(self.index, 1);
        }
    }

    /// Visits the admission queue if it calls this slot. `None`: there is nothing to do; continue.
    #[cold]
    fn heed<W: Workload>(&mut self, workload: &W, idle: bool) -> Option<SlotTurn> {
        if let Some(next) = self.next.take() {
            // The visit may take long; another slot may take the item meanwhile.
            self.shelve(next);
        }
        loop {
            let signal = self.shared.admission.signal();
            if signal.stop() {
                return Some(SlotTurn::Stop);
            }
            if signal.paused() {
                return Some(SlotTurn::Nothing);
            }
            // Items in the inbox are available to this slot, and may be more urgent than what waits
            // for admission.
            let level = self.own.level().max(self.shared.queues.inbox_level());
            let called = signal.calls_slot(self.domain, level) || (idle && signal.calls());
            if !called {
                return None;
            }
            match self.shared.admission.visit(self.index, level, idle) {
                Visit::Nothing => return None,
                Visit::Run(item, grant) => {
                    self.shared.call_for_admission(self.index);
                    return Some(SlotTurn::Granted(item, grant));
                }
                Visit::Wait { missing } => self.wait(workload, missing),
                Visit::Held { id, slots, gpus } => {
                    self.shared.call_for_admission(self.index);
                    self.tell_held(workload, id, &slots, &gpus);
                    self.wait(workload, 0);
                }
            }
        }
    }

    fn tell_held<W: Workload>(&mut self, workload: &W, id: HoldId, slots: &[usize], gpus: &[u32]) {
        let cpus = self.shared.cpus_of(slots);
        if let Err(payload) = catch_unwind(AssertUnwindSafe(|| workload.held(id, self.index, &cpus, gpus))) {
            report(workload, None, payload);
        }
    }

    /// Waits until the wide item or hold that this slot joined ends. Wakes sleeping slots if slots
    /// are still missing.
    fn wait<W: Workload>(&mut self, workload: &W, missing: u32) {
        workload.stands_still(self.index);
        let searching = self.searching;
        self.end_search();
        if missing > 0 {
            self.shared.sleep.announce(self.index, missing);
        }
        self.shared.sleep.wait(self.index);
        if searching {
            self.begin_search();
        }
    }

    /// Searches elsewhere until something is found, then runs it; sleeps in between.
    #[cold]
    fn starve<W: Workload>(&mut self, workload: &W) {
        self.begin_search();
        let mut patient = true;
        let turn = loop {
            match self.look(workload) {
                SlotTurn::Nothing => {}
                found => break found,
            }
            if self.ask(workload, patient) {
                self.backoff.renew();
                patient = true;
                continue;
            }
            if patient {
                patient = self.backoff.wait() || self.is_courteous();
                continue;
            }
            if let Some(found @ (SlotTurn::Stop | SlotTurn::Granted(..))) = self.heed(workload, true) {
                break found;
            }
            self.sleep();
            patient = true;
        };
        self.end_search();
        self.backoff.renew();
        self.publish();
        match turn {
            SlotTurn::Plain(item) => self.run(workload, item.into(), None),
            SlotTurn::Granted(item, grant) => self.run_granted(workload, item, grant),
            SlotTurn::Nothing | SlotTurn::Stop => {}
        }
    }

    /// True while a collection should first be served by the slots of its domain, which may have to
    /// wake up: a kernel whose slots share a domain is worth this short wait.
    fn is_courteous(&mut self) -> bool {
        if !self.shared.admission.signal().asks_elsewhere(self.domain) {
            self.courteous = None;
            return false;
        }
        thread::yield_now();
        self.courteous.get_or_insert_with(Instant::now).elapsed() < MAX_COURTESY_WAIT
    }

    fn look<W: Workload>(&mut self, workload: &W) -> SlotTurn {
        match self.turn(workload) {
            SlotTurn::Nothing if self.shared.admission.signal().paused() => SlotTurn::Nothing,
            SlotTurn::Nothing => self.own.steal(&self.shared.queues).map_or(SlotTurn::Nothing, SlotTurn::Plain),
            found => found,
        }
    }

    /// Lets the workload search for work, for example from the network.
    fn ask<W: Workload>(&mut self, workload: &W, patient: bool) -> bool {
        let mut slot = Slot { core: self, granted: None };
        let asked = catch_unwind(AssertUnwindSafe(|| workload.starving(&mut slot, patient)));
        asked.unwrap_or_else(|payload| {
            report(workload, None, payload);
            false
        })
    }

    fn sleep(&mut self) {
        if let Some(next) = self.next.take() {
            self.shelve(next);
        }
        if self.shared.sleep.sleep(self.index, || self.shared.visible()) {
            self.parks += 1;
        }
        self.backoff.renew();
    }

    fn begin_search(&mut self) {
        self.shared.sleep.begin_search();
        self.searching = true;
    }

    fn end_search(&mut self) {
        if take(&mut self.searching) {
            self.shared.sleep.end_search(self.index, || self.shared.visible());
        }
    }

    fn publish(&self) {
        let tally = &self.shared.tallies[self.index];
        tally.stolen_near.store(self.own.stolen_near, Ordering::Relaxed);
        tally.stolen_far.store(self.own.stolen_far, Ordering::Relaxed);
        tally.parks.store(self.parks, Ordering::Relaxed);
    }

    fn bind(&self) {
        self.shared.binder.bind(&self.shared.places[self.index].cpus);
    }
}

/// Reports a panic of the workload's code to the workload; a second panic in the report is ignored.
#[cold]
fn report<W: Workload>(workload: &W, item: Option<Item>, payload: Box<dyn Any + Send>) {
    let text = payload.downcast_ref::<&str>().map(|s| s.to_string());
    let message =
        text.or_else(|| payload.downcast_ref::<String>().cloned()).unwrap_or_else(|| "panic without a message".into());
    let told = catch_unwind(AssertUnwindSafe(|| workload.panicked(item, message)));
    if told.is_err() {
        error!("the workload panicked while it was told of a panic");
    }
}
