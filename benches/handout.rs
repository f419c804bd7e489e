//! Baseline harness (first version).
use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Instant;

use phalanx::fabric::wire;
use phalanx::graph::TaskGraph;
use phalanx::graph::link::{Condition, Link, LinkShape};
use phalanx::graph::partition::{self, Method, Problem};
use phalanx::model::Time;
use phalanx::schedule::handout::Cutter;
use phalanx::schedule::ledger::{Ledger, Ripple};
use phalanx::schedule::protocol::Message;

struct Counting;
static NOW: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);
fn add(n: usize) {
    let now = NOW.fetch_add(n, Relaxed) + n;
    PEAK.fetch_max(now, Relaxed);
}
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, l: Layout) -> *mut u8 {
        add(l.size());
        unsafe { System.alloc(l) }
    }
    unsafe fn alloc_zeroed(&self, l: Layout) -> *mut u8 {
        add(l.size());
        unsafe { System.alloc_zeroed(l) }
    }
    unsafe fn dealloc(&self, p: *mut u8, l: Layout) {
        NOW.fetch_sub(l.size(), Relaxed);
        unsafe { System.dealloc(p, l) }
    }
    unsafe fn realloc(&self, p: *mut u8, l: Layout, n: usize) -> *mut u8 {
        if n > l.size() {
            add(n - l.size())
        } else {
            NOW.fetch_sub(l.size() - n, Relaxed);
        }
        unsafe { System.realloc(p, l, n) }
    }
}
#[global_allocator]
static A: Counting = Counting;

const N: u32 = 1_000_000;

fn link(from: u32, to: u32, shape: LinkShape) -> Link {
    Link { from, to, shape, on: Condition::Ok, bytes: 0, span: 0..0 }
}

fn random(span: u32) -> (Vec<u32>, Vec<Link>) {
    let mut rng = fastrand::Rng::with_seed(7);
    let mut pairs = Vec::new();
    for i in 1..N {
        let k = 2 + rng.u32(0..2);
        let mut own: Vec<u32> = (0..k).map(|_| rng.u32(i.saturating_sub(span)..i)).collect();
        own.sort_unstable();
        own.dedup();
        pairs.extend(own.into_iter().map(|f| (f, i)));
    }
    pairs.shrink_to_fit();
    (vec![N], vec![link(0, 0, LinkShape::Pairs(pairs))])
}
fn stencil(width: u32) -> (Vec<u32>, Vec<Link>) {
    let mut pairs = Vec::new();
    for i in width..N {
        let (row, col) = (i / width - 1, i % width);
        for c in col.saturating_sub(1)..=(col + 1).min(width - 1) {
            pairs.push((row * width + c, i));
        }
    }
    pairs.shrink_to_fit();
    (vec![N], vec![link(0, 0, LinkShape::Pairs(pairs))])
}
fn main() {
    let jobs: Vec<(&str, (Vec<u32>, Vec<Link>))> = vec![
        ("array", (vec![N], vec![])),
        ("layers", (vec![1000; 1000], (1..1000).map(|g| link(g - 1, g, LinkShape::Each)).collect())),
        ("stencil 8", stencil(8)),
        ("stencil 1000", stencil(1000)),
        ("random 1000", random(1000)),
        ("random all", random(N)),
    ];
    for (name, (counts, links)) in &jobs {
        for ranks in [1usize, 2, 3] {
            let base = NOW.load(Relaxed);
            let per = |b: usize| (b.saturating_sub(base)) as f64 / N as f64;
            let mark = |s: &str, t: &mut Instant| {
                eprint!(
                    "  {s} {:.0}ms now {:.0} peak {:.0} |",
                    t.elapsed().as_secs_f64() * 1e3,
                    per(NOW.load(Relaxed)),
                    per(PEAK.load(Relaxed))
                );
                PEAK.store(NOW.load(Relaxed), Relaxed);
                *t = Instant::now();
            };
            eprintln!("{name} x{ranks}");
            PEAK.store(base, Relaxed);
            let all = Instant::now();
            let mut t = Instant::now();
            let graph = TaskGraph::build(counts, links).unwrap();
            mark("build", &mut t);
            let order = graph.order(&|_| 1_000_000_000);
            mark("order", &mut t);
            let slots = vec![1; ranks];
            let problem = Problem {
                graph: &graph,
                order: &order,
                duration: &|_| 1_000_000_000,
                slots: &slots,
                fits: &|_, _| true,
            };
            let divided = partition::partition(&problem, Method::Bands);
            mark("partition", &mut t);
            let urgency = partition::urgency(&graph, &order, &|_| 0);
            mark("urgency", &mut t);
            let done = vec![false; graph.node_count()];
            let is_done = |n: u32| done[n as usize];
            let cutter = Cutter::new(&graph, &divided.home, &urgency, ranks, &is_done);
            mark("cutter", &mut t);
            let mut frames = Vec::new();
            for r in 1..ranks {
                frames.push(wire::encode(&Message::HandOut { part: Box::new(cutter.part(r)), limits: vec![] }));
            }
            mark("others", &mut t);
            let part = cutter.part(0);
            mark("own", &mut t);
            let ledger = Ledger::new(part).unwrap();
            let mut ripple = Ripple::default();
            ledger.open(Time(1), &mut ripple);
            mark("open", &mut t);
            eprintln!(
                "\n   total {:.0} ms, cut {} ({:.0}%), balance {:.2}, ready {}, wire {:?}",
                all.elapsed().as_secs_f64() * 1e3,
                divided.cut_edges,
                100.0 * divided.cut_edges as f64 / graph.edge_count().max(1) as f64,
                divided.balance,
                ripple.ready.len(),
                frames.iter().map(Vec::len).collect::<Vec<_>>()
            );
            drop((ledger, ripple));
            for f in frames {
                let base = NOW.load(Relaxed);
                PEAK.store(base, Relaxed);
                let n = N as f64 / ranks as f64;
                let t = Instant::now();
                let Ok(Message::HandOut { part, .. }) = wire::decode(&f) else { panic!() };
                let ledger = Ledger::new(*part).unwrap();
                let mut ripple = Ripple::default();
                ledger.open(Time(1), &mut ripple);
                eprintln!(
                    "   home: {:.0} ms, rest {:.0} peak {:.0} (+frame {:.0})",
                    t.elapsed().as_secs_f64() * 1e3,
                    (NOW.load(Relaxed) - base) as f64 / n,
                    (PEAK.load(Relaxed) - base) as f64 / n,
                    f.len() as f64 / n
                );
            }
        }
    }
}
fn problem_drop(_: TaskGraph) {}
