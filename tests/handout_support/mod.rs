//! The hand-out step by step, with every byte of the heap counted: shared by the test that holds
//! its bounds and the benchmark.
//!
//! The steps are those of rank 0 in a run, and at the end those of the other homes; each rank's
//! work is done by itself, so what is counted is that rank's.

// The test and the benchmark each use what they need of it.
#![allow(dead_code)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, Instant};

use phalanx::fabric::wire;
use phalanx::graph::TaskGraph;
use phalanx::graph::link::{Condition, Link, LinkShape};
use phalanx::graph::partition::{self, Method, PartitionProblem};
use phalanx::graph::urgency;
use phalanx::model::{Labels, TaskId, Time};
use phalanx::schedule::coordinator::{Advice, Coordinator, Member, Tasks};
use phalanx::schedule::dependency_counts::{CompletionEffects, DependencyCounts, Part};
use phalanx::schedule::gang;
use phalanx::schedule::handout::PartBuilder;
use phalanx::schedule::protocol::{HandOut, Message};

/// The system's allocator, counting.
pub struct Counting;

static NOW: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);

fn grow(by: usize) {
    let now = NOW.fetch_add(by, Relaxed) + by;
    PEAK.fetch_max(now, Relaxed);
}

// SAFETY: every call is passed on as it came to the system's allocator, which keeps the contract;
// counting touches no memory of it.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        grow(layout.size());
        // SAFETY: the caller keeps `alloc`'s contract.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        grow(layout.size());
        // SAFETY: the caller keeps `alloc_zeroed`'s contract.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        NOW.fetch_sub(layout.size(), Relaxed);
        // SAFETY: the caller keeps `dealloc`'s contract, and all memory came from the system's
        // allocator.
        unsafe { System.dealloc(memory, layout) }
    }

    unsafe fn realloc(&self, memory: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        match size.checked_sub(layout.size()) {
            Some(more) => grow(more),
            None => drop(NOW.fetch_sub(layout.size() - size, Relaxed)),
        }
        // SAFETY: the caller keeps `realloc`'s contract, and all memory came from the system's
        // allocator.
        unsafe { System.realloc(memory, layout, size) }
    }
}

/// Bytes on the heap now.
pub fn heap() -> usize {
    NOW.load(Relaxed)
}

/// The most bytes on the heap since [`forget_peak`].
pub fn peak() -> usize {
    PEAK.load(Relaxed)
}

/// Looks for a new peak from now on.
pub fn forget_peak() {
    PEAK.store(heap(), Relaxed);
}

/// A job's graph, as links between groups.
pub struct Case {
    pub name: &'static str,
    pub counts: Vec<u32>,
    pub links: Vec<Link>,
    /// The same edges from row to row: bytes of the hand-out do not grow with the tasks.
    pub regular: bool,
}

impl Case {
    pub fn tasks(&self) -> u32 {
        self.counts.iter().sum()
    }
}

fn link(from: u32, to: u32, shape: LinkShape) -> Link {
    Link { from, to, shape, on: Condition::Ok, bytes: 0, span: 0..0 }
}

/// Every kind of graph, of about this number of tasks.
pub fn cases(tasks: u32) -> Vec<Case> {
    let layers = tasks / 1000;
    let each = (1..layers).map(|layer| link(layer - 1, layer, LinkShape::Each)).collect();
    let all = (1..layers).map(|layer| link(layer - 1, layer, LinkShape::All)).collect();
    vec![
        Case { name: "array", counts: vec![tasks], links: vec![], regular: true },
        Case { name: "layers, each to each", counts: vec![1000; layers as usize], links: each, regular: true },
        Case { name: "layers, all to all", counts: vec![1000; layers as usize], links: all, regular: true },
        Case { name: "stencil, width 8", regular: true, ..pairs(tasks, |task| stencil(task, 8)) },
        Case { name: "stencil, width 1000", regular: true, ..pairs(tasks, |task| stencil(task, 1000)) },
        Case { name: "random, span 1000", ..random(tasks, 1000) },
        Case { name: "random, any span", ..random(tasks, tasks) },
    ]
}

fn pairs<I: Iterator<Item = u32>>(tasks: u32, mut before: impl FnMut(u32) -> I) -> Case {
    let mut pairs = Vec::new();
    (0..tasks).for_each(|task| pairs.extend(before(task).map(|before| (before, task))));
    Case { name: "", counts: vec![tasks], links: vec![link(0, 0, LinkShape::Pairs(pairs))], regular: false }
}

/// Each point of a step needs itself and its neighbours in the step before.
fn stencil(task: u32, width: u32) -> std::ops::Range<u32> {
    let (step, point) = (task / width, task % width);
    if step == 0 {
        return 0..0;
    }
    let before = (step - 1) * width;
    before + point.saturating_sub(1)..before + (point + 2).min(width)
}

/// Each task needs two or three others out of those just before it.
fn random(tasks: u32, span: u32) -> Case {
    let mut rng = fastrand::Rng::with_seed(7);
    pairs(tasks, |task| {
        let mut before: Vec<u32> =
            (0..if task == 0 { 0 } else { rng.u32(2..=3) }).map(|_| rng.u32(task.saturating_sub(span)..task)).collect();
        before.sort_unstable();
        before.dedup();
        before.into_iter()
    })
}

/// Every task fits everywhere.
struct Anywhere;

impl Advice for Anywhere {
    fn class(&self, _: TaskId) -> (u32, std::ops::Range<u32>) {
        (0, 0..u32::MAX)
    }

    fn work(&self, _: TaskId) -> u64 {
        1
    }

    fn fits(&self, _: TaskId, _: &Member) -> bool {
        true
    }

    fn meet(&mut self, _: &[Member]) {}
}

/// What one hand-out took. Bytes are of the heap unless they are of the wire.
pub struct Figures {
    pub tasks: usize,
    /// Each step of rank 0 up to its first ready task.
    pub steps: Vec<(&'static str, Duration)>,
    /// The most that rank 0 held at a time, its own share and all frames included.
    pub rank0_peak: usize,
    /// What rank 0 keeps as the coordinator.
    pub coordinator: usize,
    pub homes: Vec<Home>,
    /// All `HandOut` frames together.
    pub wire: usize,
    pub cut_edges: u64,
    pub edges: usize,
}

/// What a rank holds as a home; the first is rank 0.
#[derive(Clone, Copy)]
pub struct Home {
    pub tasks: usize,
    /// The most that it held at a time while the part was unpacked and the ledger opened (for rank
    /// 0, see `rank0_peak`).
    pub peak: usize,
    /// What it keeps.
    pub resting: usize,
    /// Unpacking and opening.
    pub took: Duration,
}

/// The hand-out of a case to this number of ranks.
pub fn hand_out(case: &Case, ranks: usize) -> Figures {
    let mut clock = Clock(Instant::now(), Vec::new());
    let before = heap();
    forget_peak();
    let slots = vec![1; ranks];
    let duration = |_: TaskId| 1_000_000_000;
    let graph = TaskGraph::build(&case.counts, &case.links).expect("a graph without a cycle");
    let graph_bytes = heap() - before;
    clock.lap("graph");
    let order = graph.order(&duration);
    clock.lap("order");
    let urgency = urgency::urgency(&graph, &order, &|_| 0);
    clock.lap("urgency");
    let problem = PartitionProblem {
        graph: &graph,
        order: &order,
        duration: &duration,
        slots: &slots,
        width: &|_| 1,
        is_movable: &|_| true,
        fits: &|_, _| true,
    };
    let divided = partition::partition(&problem, Method::Bands);
    let (tasks, nodes, edges) = (graph.task_count(), graph.node_count(), graph.edge_count());
    drop(order);
    clock.lap("partition");
    let not_done = |_: u32| None;
    let cutter = PartBuilder::new(&graph, &divided.home, &urgency, ranks, &not_done);
    clock.lap("numbering");
    let frame = |rank| encoded(&Message::HandOut(Box::new(HandOut { part: cutter.part(rank), ..HandOut::default() })));
    let frames: Vec<Vec<u8>> = (1..ranks).map(frame).collect();
    clock.lap("others' parts");
    let held = heap();
    let part = cutter.part(0);
    let part_bytes = heap() - held;
    drop(cutter);
    clock.lap("own part");
    let held = heap();
    let member = |rank| Member { node: format!("n{rank}"), slots: 1, ..Member::default() };
    let kept = graph_bytes + (divided.home.capacity() * 4 + urgency.capacity());
    // Homes may change during the run, so rank 0 keeps what they are chosen by.
    let all = Tasks {
        graph: Arc::new(graph),
        home: divided.home,
        urgency,
        advice: Box::new(Anywhere),
        pools: Arc::default(),
        fair: Vec::new(),
    };
    let shape = Box::new(|_| gang::Shape::Mpi {
        ranks: 1,
        cpus: 1,
        memory: 0,
        gpus: 0,
        per_node: None,
        labels: Labels::default(),
    });
    let coordinator = Coordinator::new(all, &|_| false, (0..ranks).map(member).collect(), None, shape);
    let coordinator_bytes = heap() - held + kept;
    clock.lap("coordinator");
    let own = open(part, part_bytes);
    clock.lap("opening");
    let rank0_peak = peak() - before;
    let wire = frames.iter().map(Vec::len).sum();
    drop(coordinator);
    let mut homes = vec![own];
    homes.extend(frames.into_iter().map(at_home));
    assert_eq!(homes.iter().map(|home| home.tasks).sum::<usize>(), nodes, "every node has a home");
    Figures {
        tasks,
        steps: clock.1,
        rank0_peak,
        coordinator: coordinator_bytes,
        homes,
        wire,
        cut_edges: divided.cut_edges,
        edges,
    }
}

/// The frame that carries a message.
pub fn encoded(message: &Message) -> Vec<u8> {
    let mut frame = Vec::new();
    wire::encode(message, &mut frame).expect("fits");
    frame
}

fn at_home(frame: Vec<u8>) -> Home {
    let before = heap() - frame.capacity();
    forget_peak();
    let begun = Instant::now();
    let Ok(Message::HandOut(hand_out)) = wire::decode(&frame) else { panic!("what was encoded is decoded") };
    drop(frame);
    let part_bytes = heap() - before;
    let home = open(hand_out.part, part_bytes);
    Home { peak: peak() - before, took: begun.elapsed(), ..home }
}

/// Opens the ledger of a part that takes this number of bytes.
fn open(part: Part, part_bytes: usize) -> Home {
    let before = heap() - part_bytes;
    let ledger = DependencyCounts::new(part).expect("a sound part");
    let resting = heap() - before;
    let mut ripple = CompletionEffects::default();
    ledger.open(Time(1), &mut ripple);
    Home { tasks: ledger.len(), peak: 0, resting, took: Duration::ZERO }
}

struct Clock(Instant, Vec<(&'static str, Duration)>);

impl Clock {
    fn lap(&mut self, name: &'static str) {
        self.1.push((name, self.0.elapsed()));
        self.0 = Instant::now();
    }
}
