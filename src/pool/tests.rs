//! The pool with many threads. No test depends on speed; tests wait for expected events for up to
//! two minutes.

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64};
use std::sync::{Mutex, OnceLock};
use std::time::{Duration, Instant};

use super::*;
use crate::schedule::pools::table::PoolResource;

type Run = dyn Fn(Item, &mut Slot<'_>) + Send + Sync;
type Ask = dyn Fn(Item) -> Needs + Send + Sync;

/// A workload made of closures, which records the calls.
struct Work {
    run: Box<Run>,
    needs: Box<Ask>,
    starving: AtomicU64,
    impossible: Mutex<Vec<(u32, Impossible)>>,
    held: Mutex<Vec<(HoldId, Vec<u32>)>>,
    panicked: Mutex<Vec<(Option<u32>, String)>>,
    /// Slots that stood still, each with the number of calls of `starving` until then.
    stood_still: Mutex<Vec<(usize, u64)>>,
}

impl Work {
    fn new(run: impl Fn(Item, &mut Slot<'_>) + Send + Sync + 'static) -> Work {
        Work {
            run: Box::new(run),
            needs: Box::new(|_| Needs::SLOT),
            starving: AtomicU64::new(0),
            impossible: Mutex::default(),
            held: Mutex::default(),
            panicked: Mutex::default(),
            stood_still: Mutex::default(),
        }
    }

    fn needing(self, needs: impl Fn(Item) -> Needs + Send + Sync + 'static) -> Work {
        Work { needs: Box::new(needs), ..self }
    }

    fn start(self, places: Vec<SlotPlace>) -> Pool<Work> {
        self.start_with(places, Vec::new())
    }

    fn start_with(self, places: Vec<SlotPlace>, extra: Vec<SlotPlace>) -> Pool<Work> {
        Pool::start(
            PoolConfig {
                places,
                extra,
                memory: 1000,
                gpus: (0..3).map(|number| PoolGpu { number, domain: None }).collect(),
                pools: pools(),
                fair: Arc::default(),
            },
            Arc::new(self),
        )
        .unwrap()
    }
}

/// Three pools of 1, 2 and 3 units; set `n` needs one unit of pool `n - 1`.
fn pools() -> Arc<PoolTable> {
    let mut table = PoolTable::default();
    let ids: Vec<u32> = (1..=3).map(|units| table.add(PoolResource::capacity("p", Some(units), false))).collect();
    Arc::new(table.with_groups(ids.into_iter().map(|id| (id, 1, vec![(id, 1)]))))
}

impl Workload for Work {
    fn run(&self, item: Item, slot: &mut Slot<'_>) {
        (self.run)(item, slot)
    }
    fn needs(&self, item: Item) -> Needs {
        (self.needs)(item)
    }
    fn starving(&self, _: &mut Slot<'_>, _: bool) -> bool {
        self.starving.fetch_add(1, Ordering::Relaxed);
        false
    }
    fn stands_still(&self, slot: usize) {
        self.stood_still.lock().unwrap().push((slot, self.starving.load(Ordering::Relaxed)));
    }
    fn impossible(&self, item: Item, why: Impossible) {
        self.impossible.lock().unwrap().push((item.task, why));
    }
    fn held(&self, id: HoldId, _: usize, cpus: &[u32], _: &[u32]) {
        self.held.lock().unwrap().push((id, cpus.to_vec()));
    }
    fn panicked(&self, item: Option<Item>, message: String) {
        self.panicked.lock().unwrap().push((item.map(|i| i.task), message));
    }
}

/// Slots in the given domains. CPU numbers are slot numbers, so that `Slot::cpus` identifies the
/// slots; where no such CPU exists, the slot runs unbound.
fn places(domains: &[u32]) -> Vec<SlotPlace> {
    let place = |(slot, &domain): (usize, &u32)| SlotPlace { cpus: vec![slot as u32], domain, pinned: slot < 2 };
    domains.iter().enumerate().map(place).collect()
}

fn plain(task: u32) -> Item {
    Item { task, urgency: 0, tag: 0, constrained: false }
}

fn constrained(task: u32) -> Item {
    Item { constrained: true, ..plain(task) }
}

fn eventually(what: &str, mut happened: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !happened() {
        assert!(begun.elapsed() < Duration::from_secs(120), "this never came: {what}");
        thread::yield_now();
    }
}

fn counters(count: usize) -> Arc<[AtomicU32]> {
    (0..count).map(|_| AtomicU32::new(0)).collect()
}

#[test]
fn every_item_runs_once_whoever_pushes_it() {
    const EACH: u32 = 10_000;
    let runs = counters(8 * EACH as usize);
    let seen = Arc::clone(&runs);
    let work = Work::new(move |item, slot| {
        seen[item.task as usize].fetch_add(1, Ordering::Relaxed);
        if item.task < 4 * EACH {
            slot.push(Item { urgency: item.task as u8 % 20, ..plain(item.task + 4 * EACH) });
        }
    });
    let pool = work.start(places(&[0, 0, 1, 1]));
    thread::scope(|scope| {
        for part in 0..4 {
            let handle = pool.handle();
            scope.spawn(move || {
                let items: Vec<_> = (part * EACH..(part + 1) * EACH).map(plain).collect();
                let (many, single) = items.split_at(items.len() / 2);
                many.chunks(100).for_each(|chunk| handle.push_many(chunk));
                single.iter().for_each(|&item| handle.push(item));
            });
        }
    });
    eventually("all have run", || runs.iter().all(|n| n.load(Ordering::Relaxed) > 0));
    let handle = pool.handle();
    pool.stop();
    assert!(runs.iter().all(|n| n.load(Ordering::Relaxed) == 1));
    assert_eq!(handle.counters().iter().map(|c| c.tasks).sum::<u64>(), 8 * u64::from(EACH));
}

/// A random graph: edges go from lower to higher numbers.
struct Graph {
    successors: Vec<Vec<u32>>,
    missing: Arc<[AtomicU32]>,
}

impl Graph {
    fn random(tasks: u32, rng: &mut fastrand::Rng) -> Graph {
        let missing = counters(tasks as usize);
        let mut successors = vec![Vec::new(); tasks as usize];
        for task in 1..tasks {
            for _ in 0..rng.u32(0..4) {
                successors[rng.u32(task.saturating_sub(50)..task) as usize].push(task);
                missing[task as usize].fetch_add(1, Ordering::Relaxed);
            }
        }
        Graph { successors, missing }
    }

    fn sources(&self) -> Vec<Item> {
        let free = |&task: &u32| self.missing[task as usize].load(Ordering::Relaxed) == 0;
        (0..self.successors.len() as u32).filter(free).map(plain).collect()
    }
}

#[test]
fn random_graphs_are_run_in_order_and_to_the_end() {
    for seed in 0..20 {
        let mut rng = fastrand::Rng::with_seed(seed);
        let graph = Graph::random(2_000, &mut rng);
        let (sources, missing, done) = (graph.sources(), Arc::clone(&graph.missing), counters(2_000));
        let runs = Arc::clone(&done);
        let work = Work::new(move |item, slot| {
            assert_eq!(graph.missing[item.task as usize].load(Ordering::Acquire), 0);
            runs[item.task as usize].fetch_add(1, Ordering::Relaxed);
            for &next in &graph.successors[item.task as usize] {
                if graph.missing[next as usize].fetch_sub(1, Ordering::AcqRel) == 1 {
                    slot.push(Item { urgency: next as u8, constrained: next % 7 == 0, ..plain(next) });
                }
            }
        });
        let slots: Vec<u32> = (0..1 + seed as u32 % 6).map(|slot| slot / 2).collect();
        let pool = work.needing(|_| Needs { memory: 300, ..Needs::SLOT }).start(places(&slots));
        pool.handle().push_many(&sources);
        eventually("the graph ends", || done.iter().all(|n| n.load(Ordering::Relaxed) == 1));
        assert!(missing.iter().all(|n| n.load(Ordering::Relaxed) == 0));
        assert_eq!(*pool.workload().panicked.lock().unwrap(), []);
    }
}

#[test]
fn constraints_are_never_exceeded() {
    const TASKS: u32 = 3_000;
    let (memory, done) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU32::new(0)));
    let (slots, gpus, units) = (counters(6), counters(3), counters(3));
    let needs = |item: Item| {
        let mut rng = fastrand::Rng::with_seed(u64::from(item.task));
        let pools = if rng.bool() { 1 + item.task % 3 } else { 0 };
        Needs { cpus: rng.u32(0..5), memory: rng.u64(0..3) * 300, gpus: rng.u32(0..3), pools, family: 0 }
    };
    let (mem, count) = (Arc::clone(&memory), Arc::clone(&done));
    let work = Work::new(move |item, slot| {
        let needs = if item.constrained { needs(item) } else { Needs::SLOT };
        assert_eq!(slot.width(), needs.slots());
        assert_eq!((slot.cpus().len(), slot.gpus().len()), (needs.slots(), needs.gpus as usize));
        let enter = |of: &[AtomicU32], at: u32, most| assert!(of[at as usize].fetch_add(1, Ordering::SeqCst) < most);
        let leave = |of: &[AtomicU32], at: u32| _ = of[at as usize].fetch_sub(1, Ordering::SeqCst);
        slot.cpus().iter().for_each(|&cpu| enter(&slots, cpu, 1));
        slot.gpus().iter().for_each(|&gpu| enter(&gpus, gpu, 1));
        assert!(mem.fetch_add(needs.memory, Ordering::SeqCst) + needs.memory <= 1000);
        let pool = needs.pools.checked_sub(1);
        pool.into_iter().for_each(|pool| enter(&units, pool, pool + 1));
        std::hint::black_box((0..item.task % 1000).sum::<u32>());
        pool.into_iter().for_each(|pool| leave(&units, pool));
        mem.fetch_sub(needs.memory, Ordering::SeqCst);
        slot.gpus().iter().for_each(|&gpu| leave(&gpus, gpu));
        slot.cpus().iter().for_each(|&cpu| leave(&slots, cpu));
        count.fetch_add(1, Ordering::SeqCst);
    });
    let pool = work.needing(needs).start(places(&[0, 0, 0, 1, 1, 1]));
    let granted = vec![(0, 1), (1, 2), (2, 3)];
    pool.handle().carry_out_pool_orders(&PoolOrders { granted, ..PoolOrders::default() });
    let items: Vec<Item> =
        (0..TASKS).map(|t| Item { constrained: t % 3 != 0, urgency: t as u8 % 5, ..plain(t) }).collect();
    items.chunks(50).for_each(|chunk| pool.handle().push_many(chunk));
    eventually("all have run", || {
        done.load(Ordering::SeqCst) == TASKS || !pool.workload().panicked.lock().unwrap().is_empty()
    });
    assert_eq!(*pool.workload().panicked.lock().unwrap(), []);
    assert_eq!(memory.load(Ordering::SeqCst), 0);
}

#[test]
fn a_stream_of_narrow_items_does_not_starve_a_wide_one() {
    let wide_ran = Arc::new(AtomicBool::new(false));
    let ran = Arc::clone(&wide_ran);
    let work = Work::new(move |item, slot| match item.constrained {
        true => ran.store(slot.cpus() == [0, 1, 2], Ordering::SeqCst),
        false if !ran.load(Ordering::SeqCst) => slot.push(item),
        false => {}
    });
    let pool = work.needing(|_| Needs { cpus: 3, ..Needs::SLOT }).start(places(&[0, 0, 0]));
    pool.handle().push_many(&(0..10).map(plain).collect::<Vec<_>>());
    pool.handle().push(constrained(99));
    eventually("the wide item runs", || wide_ran.load(Ordering::SeqCst));
}

#[test]
fn a_kernel_of_several_cpus_has_a_team_of_as_many_threads() {
    let sum = Arc::new(AtomicU64::new(0));
    let total = Arc::clone(&sum);
    let work = Work::new(move |item, slot| {
        use rayon::prelude::*;
        let team = slot.rayon().unwrap();
        assert_eq!(team.current_num_threads(), if item.constrained { 3 } else { 1 });
        total.fetch_add(team.install(|| (0..1000u64).into_par_iter().sum()), Ordering::SeqCst);
    });
    let pool = work.needing(|_| Needs { cpus: 3, ..Needs::SLOT }).start(places(&[0, 0, 0, 0]));
    pool.handle().push_many(&[constrained(0), plain(1), constrained(2)]);
    eventually("all have run", || sum.load(Ordering::SeqCst) == 3 * 499_500);
}

#[test]
fn what_can_never_start_is_handed_back() {
    let work = Work::new(|_, _| panic!("it cannot run")).needing(|item| Needs {
        cpus: if item.task == 0 { 9 } else { 1 },
        memory: if item.task == 1 { 1001 } else { 0 },
        gpus: if item.task == 2 { 4 } else { 0 },
        ..Needs::SLOT
    });
    let pool = work.start(places(&[0, 0]));
    pool.handle().push_many(&(0..3).map(constrained).collect::<Vec<_>>());
    let told: Vec<u32> = pool.workload().impossible.lock().unwrap().iter().map(|(task, _)| *task).collect();
    assert_eq!(told, [0, 1, 2]);
    assert!(pool.handle().hold(Needs { cpus: 3, ..Needs::SLOT }).is_err());
}

#[test]
fn held_slots_run_nothing_and_the_others_go_on() {
    let ran: Arc<Mutex<Vec<u32>>> = Arc::default();
    let slots = Arc::clone(&ran);
    let pool = Work::new(move |_, slot| slots.lock().unwrap().push(slot.cpus()[0])).start(places(&[0, 0, 0]));
    let handle = pool.handle();
    let id = handle.hold(Needs { cpus: 2, gpus: 1, ..Needs::SLOT }).unwrap();
    eventually("the hold is told", || !pool.workload().held.lock().unwrap().is_empty());
    let (told, cpus) = pool.workload().held.lock().unwrap()[0].clone();
    assert_eq!((told, cpus.len()), (id, 2));
    handle.push_many(&(0..100).map(plain).collect::<Vec<_>>());
    eventually("the free slot does all", || ran.lock().unwrap().len() == 100);
    eventually("its last item ends", || handle.load().busy == 2);
    assert_eq!(handle.load().running, 0, "no item runs on held slots");
    assert!(ran.lock().unwrap().iter().all(|slot| !cpus.contains(slot)));
    assert!(handle.release(id) && !handle.release(id));
    // All three slots are available again.
    let again = handle.hold(Needs { cpus: 3, gpus: 3, ..Needs::SLOT }).unwrap();
    eventually("the second hold is told", || pool.workload().held.lock().unwrap().len() == 2);
    // A third hold can only wait, and is released.
    let waits = handle.hold(Needs { cpus: 1, ..Needs::SLOT }).unwrap();
    assert!(handle.release(waits) && handle.release(again));
    eventually("all are idle", || handle.starving_slots() == 3);
    assert_eq!(pool.workload().held.lock().unwrap().len(), 2);
}

#[test]
fn a_hold_that_is_still_collecting_can_be_given_up() {
    let (started, go) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
    let (arrived, gone) = (Arc::clone(&started), Arc::clone(&go));
    let pool = Work::new(move |_, _| {
        arrived.store(true, Ordering::SeqCst);
        eventually("the word to go", || gone.load(Ordering::SeqCst));
    });
    let pool = pool.start(places(&[0, 0]));
    let handle = pool.handle();
    handle.push(plain(0));
    eventually("one slot is busy", || started.load(Ordering::SeqCst));
    let id = handle.hold(Needs { cpus: 2, ..Needs::SLOT }).unwrap();
    eventually("the other waits", || handle.starving_slots() == 0);
    assert!(handle.release(id));
    go.store(true, Ordering::SeqCst);
    eventually("both are idle", || handle.starving_slots() == 2);
    assert!(pool.workload().held.lock().unwrap().is_empty());
}

#[test]
fn a_paused_pool_starts_nothing_and_gives_everything_up() {
    let ran: Arc<Mutex<Vec<u32>>> = Arc::default();
    let tasks = Arc::clone(&ran);
    let pool = Work::new(move |item, _| tasks.lock().unwrap().push(item.task)).start(places(&[0]));
    let handle = pool.handle();
    handle.pause();
    eventually("the slot is idle", || handle.starving_slots() == 1);
    let urgency = |task: u32| Item { urgency: (task % 4) as u8, ..plain(task) };
    handle.push_many(&(0..40).map(urgency).collect::<Vec<_>>());
    handle.push_many(&[constrained(100), constrained(101)]);
    thread::sleep(Duration::from_millis(20));
    assert_eq!(handle.load(), PoolLoad { slots: 1, busy: 0, running: 0, ready: 42, plain: 40 });
    assert!(ran.lock().unwrap().is_empty());
    assert_eq!(handle.surrender(5).iter().map(|i| i.task).collect::<Vec<_>>(), [3, 7, 11, 15, 19]);
    assert_eq!(handle.surrender_constrained().iter().map(|i| i.task).collect::<Vec<_>>(), [100, 101]);
    handle.push(constrained(101));
    handle.resume();
    eventually("the rest runs", || ran.lock().unwrap().len() == 36);
    let plain_ones: Vec<u32> = ran.lock().unwrap().iter().copied().filter(|&t| t < 100).collect();
    assert_eq!(plain_ones[..5], [23, 27, 31, 35, 39], "the most urgent first, in order");
    assert!(plain_ones.is_sorted_by_key(|task| 4 - task % 4));
}

#[test]
fn items_are_surrendered_or_run_never_both() {
    const TASKS: u32 = 50_000;
    let runs = counters(TASKS as usize);
    let seen = Arc::clone(&runs);
    let pool = Work::new(move |item, _| _ = seen[item.task as usize].fetch_add(1, Ordering::Relaxed));
    let pool = pool.start(places(&[0, 0, 1]));
    let handle = pool.handle();
    let mut surrendered = 0;
    let mut give_up = |most| {
        for item in handle.surrender(most) {
            runs[item.task as usize].fetch_add(1, Ordering::Relaxed);
            surrendered += 1;
        }
    };
    for first in (0..TASKS).step_by(1000) {
        handle.push_many(&(first..first + 1000).map(plain).collect::<Vec<_>>());
        give_up(300);
    }
    eventually("each is accounted for", || runs.iter().all(|n| n.load(Ordering::Relaxed) == 1));
    assert!(surrendered > 0);
}

#[test]
fn a_panic_is_reported_and_the_pool_goes_on() {
    let count = Arc::new(AtomicU32::new(0));
    let ran = Arc::clone(&count);
    let pool = Work::new(move |item, _| match item.task {
        3 => panic!("no {}", item.task),
        _ => _ = ran.fetch_add(1, Ordering::SeqCst),
    });
    let pool = pool.needing(|_| Needs { cpus: 2, memory: 1000, ..Needs::SLOT }).start(places(&[0, 0]));
    pool.handle().push_many(&[constrained(3), plain(3), constrained(0), plain(1), plain(2)]);
    eventually("the others run", || count.load(Ordering::SeqCst) == 3);
    eventually("both are told", || pool.workload().panicked.lock().unwrap().len() == 2);
    assert!(pool.workload().panicked.lock().unwrap().iter().all(|told| *told == (Some(3), "no 3".to_string())));
}

#[test]
fn a_pool_stops_whatever_its_slots_wait_for() {
    for wait_for in 0..3 {
        let work = Work::new(|item, slot| {
            if !item.constrained {
                slot.push(item);
            }
        });
        let pool = work.needing(|_| Needs { cpus: 2, ..Needs::SLOT }).start(places(&[0, 0, 1, 1]));
        let handle = pool.handle();
        handle.push(plain(0));
        match wait_for {
            0 => handle.push_many(&[constrained(1), constrained(2)]),
            1 => _ = handle.hold(Needs { cpus: 4, ..Needs::SLOT }).unwrap(),
            _ => handle.pause(),
        }
        pool.stop();
        handle.push_many(&[plain(1), constrained(2)]);
    }
}

#[test]
fn a_pool_without_slots_is_refused() {
    let config = PoolConfig {
        places: vec![],
        extra: vec![],
        memory: 0,
        gpus: vec![],
        pools: Arc::default(),
        fair: Arc::default(),
    };
    assert!(matches!(Pool::start(config, Arc::new(Work::new(|_, _| {}))), Err(PoolError::NoSlots)));
}

/// One item at a time, each pushed when the last one ends, while slots fall asleep constantly: a
/// lost wake-up would stop the chain.
#[test]
fn no_wake_up_is_lost_from_outside() {
    let done = Arc::new(AtomicU32::new(0));
    let count = Arc::clone(&done);
    let pool = Work::new(move |_, _| _ = count.fetch_add(1, Ordering::SeqCst)).start(places(&[0, 0, 1, 1]));
    for round in 0..10_000 {
        pool.handle().push(if round % 3 == 0 { constrained(0) } else { plain(0) });
        eventually("the item runs", || done.load(Ordering::SeqCst) == round + 1);
    }
}

/// An item makes two others ready that must run at the same time: the second needs a slot that is
/// asleep or about to be.
#[test]
fn no_wake_up_is_lost_from_inside() {
    const ROUNDS: u32 = 3_000;
    let (met, next) = (counters(ROUNDS as usize), Arc::new(AtomicU32::new(0)));
    let (arrived, rounds) = (Arc::clone(&met), Arc::clone(&next));
    let pool = Work::new(move |item, slot| {
        let round = item.task;
        if item.tag == 0 {
            slot.push(Item { tag: 1, ..plain(round) });
            slot.push(Item { tag: 1, ..plain(round) });
            return;
        }
        let arrived = &arrived[round as usize];
        let second = arrived.fetch_add(1, Ordering::SeqCst) == 1;
        eventually("its twin runs beside it", || arrived.load(Ordering::SeqCst) == 2);
        if second && round + 1 < ROUNDS {
            slot.push(plain(round + 1));
        } else if second {
            rounds.store(ROUNDS, Ordering::SeqCst);
        }
    });
    let pool = pool.start(places(&[0, 1, 1]));
    pool.handle().push(plain(0));
    eventually("all rounds", || next.load(Ordering::SeqCst) == ROUNDS);
    assert_eq!(*pool.workload().panicked.lock().unwrap(), []);
}

#[test]
fn slots_without_work_sleep() {
    let pool = Work::new(|_, _| {}).start(places(&[0, 0, 1]));
    let asked = || pool.workload().starving.load(Ordering::Relaxed);
    eventually("no slot looks for work any more", || {
        let before = asked();
        thread::sleep(Duration::from_millis(100));
        before == asked() && pool.handle().starving_slots() == 3
    });
}

#[test]
fn a_starving_slot_runs_what_the_workload_finds_for_it() {
    struct Finder(OnceLock<u32>, AtomicU32);
    impl Workload for Finder {
        fn run(&self, item: Item, _: &mut Slot<'_>) {
            self.0.set(item.task).unwrap();
        }
        fn needs(&self, _: Item) -> Needs {
            Needs::SLOT
        }
        fn starving(&self, slot: &mut Slot<'_>, _: bool) -> bool {
            let asked = self.1.fetch_add(1, Ordering::SeqCst);
            if asked == 2 {
                slot.push(plain(42));
            }
            asked <= 2
        }
        fn impossible(&self, _: Item, _: Impossible) {}
        fn held(&self, _: HoldId, _: usize, _: &[u32], _: &[u32]) {}
        fn panicked(&self, _: Option<Item>, _: String) {}
    }
    let config = PoolConfig {
        places: places(&[0]),
        extra: vec![],
        memory: 0,
        gpus: vec![],
        pools: Arc::default(),
        fair: Arc::default(),
    };
    let pool = Pool::start(config, Arc::new(Finder(OnceLock::new(), AtomicU32::new(0)))).unwrap();
    eventually("it runs", || pool.workload().0.get() == Some(&42));
}

#[test]
fn extra_slots_run_items_only_while_they_are_allowed_to() {
    let (gate, running) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU32::new(0)));
    let seen = Arc::new(Mutex::new(Vec::new()));
    let work = Work::new({
        let (gate, running, seen) = (Arc::clone(&gate), Arc::clone(&running), Arc::clone(&seen));
        move |item: Item, slot: &mut Slot<'_>| {
            seen.lock().unwrap().push((item.task, slot.index(), slot.width()));
            running.fetch_add(1, Ordering::SeqCst);
            eventually("the gate opens", || gate.load(Ordering::SeqCst));
            running.fetch_sub(1, Ordering::SeqCst);
        }
    });
    let work = work.needing(|item| Needs { cpus: if item.task == 99 { 2 } else { 1 }, memory: 1, ..Needs::SLOT });
    let pool = work.start_with(places(&[0, 0]), places(&[0, 0, 0]));
    let handle = pool.handle();
    assert_eq!((handle.slots(), handle.places().len()), (2, 5));
    let item = |task, constrained| Item { task, urgency: 0, tag: 0, constrained };
    let items: Vec<Item> = (0..8).map(|task| item(task, task % 2 == 0)).collect();
    handle.push_many(&items);
    eventually("two run", || running.load(Ordering::SeqCst) == 2);
    handle.allow_extra(2);
    eventually("four run", || running.load(Ordering::SeqCst) == 4);
    assert_eq!((handle.load().slots, handle.load().busy), (4, 4));
    handle.pause();
    assert!(!handle.is_quiet());
    handle.allow_extra(0);
    gate.store(true, Ordering::SeqCst);
    eventually("what runs ends", || handle.is_quiet());
    assert_eq!(seen.lock().unwrap().len(), 4, "nothing starts in a paused pool");
    gate.store(false, Ordering::SeqCst);
    handle.resume();
    eventually("two run", || running.load(Ordering::SeqCst) == 2);
    assert!(seen.lock().unwrap()[4..].iter().all(|(_, slot, _)| *slot < 2), "no extra slot is allowed any more");
    gate.store(true, Ordering::SeqCst);
    eventually("all have run", || seen.lock().unwrap().len() == 8);
    // What needs two slots is left to those that are not extra.
    handle.allow_extra(3);
    handle.push(item(99, true));
    eventually("it ran", || seen.lock().unwrap().iter().any(|(task, ..)| *task == 99));
    let (_, slot, width) = *seen.lock().unwrap().last().unwrap();
    assert!(slot < 2 && width == 2);
    eventually("all slots rest", || handle.load().busy == 0);
    pool.stop();
}

#[test]
fn an_extra_slot_hands_out_what_it_did_and_stands_still_before_it_rests() {
    let (gates, running) = (counters(2), Arc::new(AtomicU32::new(0)));
    let work = Work::new({
        let (gates, running) = (Arc::clone(&gates), Arc::clone(&running));
        move |_: Item, slot: &mut Slot<'_>| {
            running.fetch_add(1, Ordering::SeqCst);
            eventually("its gate opens", || gates[slot.index()].load(Ordering::SeqCst) == 1);
        }
    });
    let pool = work.start_with(places(&[0]), places(&[0]));
    let (handle, work) = (pool.handle(), pool.workload());
    eventually("the extra slot rests", || work.stood_still.lock().unwrap().len() == 1);
    handle.allow_extra(1);
    handle.push_many(&[plain(0), plain(1)]);
    eventually("both run", || running.load(Ordering::SeqCst) == 2);
    // The other slot runs on, so it does not starve.
    let asked = work.starving.load(Ordering::Relaxed);
    handle.allow_extra(0);
    gates[1].store(1, Ordering::SeqCst);
    eventually("it rests again", || work.stood_still.lock().unwrap().len() == 2);
    let (slot, asked_then) = work.stood_still.lock().unwrap()[1];
    gates[0].store(1, Ordering::SeqCst);
    assert!(slot == 1 && asked_then > asked, "it rested before the workload took what it did");
}
