//! What the pool costs per task, against a bare loop over the same queues in the same run.
//!
//! The task does nothing but count down the dependencies of its successors, so all that is measured
//! is scheduling. The graph is a one-dimensional stencil (each point of a step needs itself and its
//! neighbours in the step before). `floor` is the least that any scheduler with these queues could
//! do: pop from one's deque, count down, push, and steal when empty, with no sleep, urgency,
//! limits, pause or panic. Times are core-nanoseconds per task: wall time, times slots, over tasks;
//! the best of several runs.
//!
//! `cargo bench --bench pool`

use std::hint::black_box;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use crossbeam_deque::{Steal, Stealer, Worker};
use phalanx::pool::{Handle, HoldId, Item, Pool, PoolConfig, Slot, Workload};
use phalanx::schedule::resources::{Impossible, Needs};
use phalanx::topology::{SlotPlace, Topology, bind_current_thread};

const WIDTH: u32 = 8;
const STEPS: u32 = 100_000;
const TASKS: u32 = WIDTH * STEPS;
const RUNS: usize = 7;

/// The stencil, with its dependency counts.
struct Stencil {
    missing: Vec<AtomicU8>,
    /// Points of the last step that are still to be run.
    left: AtomicU32,
    reach: u32,
}

impl Stencil {
    fn new(reach: u32) -> Stencil {
        Stencil { missing: (0..TASKS).map(|_| AtomicU8::new(0)).collect(), left: AtomicU32::new(WIDTH), reach }
    }

    fn reset(&self) {
        for (task, missing) in self.missing.iter().enumerate() {
            let neighbours = self.neighbours(task as u32 % WIDTH).count() as u8;
            missing.store(if task < WIDTH as usize { 0 } else { neighbours }, Ordering::Relaxed);
        }
        self.left.store(WIDTH, Ordering::SeqCst);
    }

    fn neighbours(&self, point: u32) -> std::ops::RangeInclusive<u32> {
        point.saturating_sub(self.reach)..=(point + self.reach).min(WIDTH - 1)
    }

    /// What finishing `task` makes ready.
    #[inline]
    fn finish(&self, task: u32, mut ready: impl FnMut(u32)) {
        let next = task / WIDTH * WIDTH + WIDTH;
        if next >= TASKS {
            self.left.fetch_sub(1, Ordering::AcqRel);
            return;
        }
        for point in self.neighbours(task % WIDTH) {
            let successor = next + point;
            if self.missing[successor as usize].fetch_sub(1, Ordering::AcqRel) == 1 {
                ready(successor);
            }
        }
    }

    fn ended(&self) -> bool {
        self.left.load(Ordering::Acquire) == 0
    }
}

struct Work {
    stencil: Arc<Stencil>,
    levels: u32,
    done: std::sync::Mutex<Option<std::sync::mpsc::Sender<()>>>,
}

impl Work {
    fn item(&self, task: u32) -> Item {
        Item { task, urgency: (task % self.levels) as u8, tag: 0, constrained: false }
    }
}

impl Workload for Work {
    fn run(&self, item: Item, slot: &mut Slot<'_>) {
        self.stencil.finish(item.task, |ready| slot.push(self.item(ready)));
        if item.task >= TASKS - WIDTH && self.stencil.ended() {
            // Nobody listening any more means that a twin was faster to see the end.
            self.done.lock().unwrap().take().map(|done| done.send(()));
        }
    }
    fn needs(&self, _: Item) -> Needs {
        Needs::SLOT
    }
    fn starving(&self, _: &mut Slot<'_>, _: bool) -> bool {
        false
    }
    fn impossible(&self, _: Item, _: Impossible) {}
    fn held(&self, _: HoldId, _: usize, _: &[u32], _: &[u32]) {}
    fn panicked(&self, item: Option<Item>, message: String) {
        panic!("{item:?}: {message}");
    }
}

fn in_pool(pool: &Pool<Work>, handle: &Handle) -> Duration {
    let work = pool.workload();
    work.stencil.reset();
    let (done, ended) = std::sync::mpsc::channel();
    *work.done.lock().unwrap() = Some(done);
    let sources: Vec<Item> = (0..WIDTH).map(|task| work.item(task)).collect();
    let begun = Instant::now();
    handle.push_many(&sources);
    ended.recv().unwrap();
    begun.elapsed()
}

/// The floor: threads around bare deques.
fn bare(stencil: &Stencil, places: &[SlotPlace]) -> Duration {
    stencil.reset();
    let workers: Vec<Worker<Item>> = places.iter().map(|_| Worker::new_fifo()).collect();
    let stealers: Vec<Stealer<Item>> = workers.iter().map(Worker::stealer).collect();
    let item = |task| Item { task, urgency: 0, tag: 0, constrained: false };
    (0..WIDTH).for_each(|task| workers[task as usize % places.len()].push(item(task)));
    let go = AtomicBool::new(false);
    let mut begun = Instant::now();
    std::thread::scope(|scope| {
        for (worker, place) in workers.into_iter().zip(places) {
            let (stealers, go) = (&stealers, &go);
            scope.spawn(move || {
                let _ = bind_current_thread(&place.cpus);
                while !go.load(Ordering::Acquire) {
                    std::hint::spin_loop();
                }
                while !stencil.ended() {
                    let steal = || stealers.iter().map(|s| s.steal_batch_and_pop(&worker)).find_map(Steal::success);
                    if let Some(item) = worker.pop().or_else(steal) {
                        stencil.finish(black_box(item).task, |ready| worker.push(Item { task: ready, ..item }));
                    }
                }
            });
        }
        std::thread::sleep(Duration::from_millis(2));
        begun = Instant::now();
        go.store(true, Ordering::Release);
    });
    begun.elapsed()
}

fn core_ns(slots: usize, run: impl FnMut() -> Duration) -> f64 {
    let best = std::iter::repeat_with(run).take(RUNS).min().unwrap_or_default();
    best.as_secs_f64() * 1e9 * slots as f64 / f64::from(TASKS)
}

fn main() {
    let topology = Topology::discover();
    let cpus = topology.grant.cpus.len();
    println!("zero-work stencil, width {WIDTH}, {TASKS} tasks, {cpus} CPUs granted; core-ns per task, best of {RUNS}");
    println!("{:<28}{:>7}{:>10}{:>10}{:>8}", "graph", "slots", "pool", "floor", "ratio");
    for slots in [1, 2].into_iter().filter(|&n| n <= cpus.max(1)) {
        for (name, reach, levels) in [("stencil_1d", 1, 1), ("no neighbours", 0, 1), ("stencil_1d, 4 levels", 1, 4)] {
            let places = topology.places(Some(slots));
            let stencil = Arc::new(Stencil::new(reach));
            let floor = core_ns(slots, || bare(&stencil, &places));
            let work = Work { stencil: Arc::clone(&stencil), levels, done: Default::default() };
            let config = PoolConfig {
                places,
                extra: vec![],
                memory: 0,
                gpus: vec![],
                pools: Arc::default(),
                fair: Arc::default(),
            };
            let pool = Pool::start(config, Arc::new(work)).expect("a pool starts");
            let handle = pool.handle();
            let ours = core_ns(slots, || in_pool(&pool, &handle));
            println!("{name:<28}{slots:>7}{ours:>10.1}{floor:>10.1}{:>8.2}", ours / floor);
        }
    }
}
