//! How long a scaling decision takes, and what it costs in quality that large graphs are outlined.
//!
//! Time: one decision of the `hybrid` policy with 64 ranks to choose from, for graphs of several
//! shapes and sizes; the median of many. Then the same while ten million tasks remain and 10,000 or
//! 100,000 slots are busy, on nodes of four slots. Quality: the finish that the outline of usual
//! size foresees against the one that an outline of every single task foresees, over all numbers of
//! ranks; and whether both choose the same number.
//!
//! `cargo bench --bench decide`

use std::sync::Arc;
use std::time::{Duration, Instant};

use phalanx::graph::TaskGraph;
use phalanx::graph::link::{Condition, Link, LinkShape};
use phalanx::job::{Cost, Scaling};
use phalanx::model::{Rank, RankState, TaskId, Time};
use phalanx::scale::forecast::{Forecaster, Scope};
use phalanx::scale::policy::policy_of;
use phalanx::scale::remaining::{CHUNKS, EXACT};
use phalanx::scale::{
    ClassId, ClassPrior, Customs, Estimates, NodeTypeId, NodeTypes, Observation, Prices, RankView, RemainingWork,
    Samples, TaskCounts, TaskFacts,
};

/// A graph of which nothing has run yet.
struct Fresh {
    name: &'static str,
    graph: Arc<TaskGraph>,
    classes: Arc<[u32]>,
}

impl Fresh {
    fn new(name: &'static str, counts: &[u32], links: &[(u32, u32, LinkShape)]) -> Fresh {
        let link = |(from, to, shape): &(u32, u32, LinkShape)| Link {
            from: *from,
            to: *to,
            shape: shape.clone(),
            on: Condition::Ok,
            bytes: 0,
            span: 0..0,
        };
        let links: Vec<Link> = links.iter().map(link).collect();
        let graph = TaskGraph::build(counts, &links).expect("the graphs of this benchmark have no cycle");
        let classes = (0..).zip(counts).flat_map(|(class, &n)| std::iter::repeat_n(class, n as usize)).collect();
        Fresh { name, graph: Arc::new(graph), classes }
    }

    fn bag(tasks: u32) -> Fresh {
        Fresh::new("bag", &[tasks], &[])
    }

    /// Ten phases of alternating width.
    fn fork_join(tasks: u32) -> Fresh {
        let wide = tasks / 5 - tasks / 500;
        let counts: Vec<u32> = (0..10).map(|k| if k % 2 == 0 { wide } else { (tasks / 500).max(1) }).collect();
        let links: Vec<_> = (1..10).map(|k| (k - 1, k, LinkShape::All)).collect();
        Fresh::new("fork-join", &counts, &links)
    }

    /// A hundred independent chains side by side in every phase: `LinkShape::Each` over ten stages.
    fn pipelines(tasks: u32) -> Fresh {
        let counts = [tasks / 10; 10];
        let links: Vec<_> = (1..10).map(|k| (k - 1, k, LinkShape::Each)).collect();
        Fresh::new("pipelines", &counts, &links)
    }

    /// A square of tasks each of which needs its upper and its left neighbour.
    fn wavefront(tasks: u32) -> Fresh {
        let side = f64::from(tasks).sqrt() as u32;
        let mut pairs = Vec::new();
        for row in 0..side {
            for column in 0..side {
                let task = row * side + column;
                pairs.extend((column > 0).then(|| (task - 1, task)));
                pairs.extend((row > 0).then(|| (task - side, task)));
            }
        }
        Fresh::new("wavefront", &[side * side], &[(0, 0, LinkShape::Pairs(pairs))])
    }

    /// Levels of random width; each task needs three random ones of the level before.
    fn random(tasks: u32) -> Fresh {
        let mut random = fastrand::Rng::with_seed(1);
        let (mut pairs, mut before, mut next) = (Vec::new(), 0..0, 0);
        while next < tasks {
            let level = next..(next + random.u32(1..=(tasks / 25).max(2))).min(tasks);
            for task in level.clone().filter(|_| !before.is_empty()) {
                let mut needs: Vec<u32> = (0..3).map(|_| random.u32(before.clone())).collect();
                needs.sort_unstable();
                needs.dedup();
                pairs.extend(needs.into_iter().map(|need| (need, task)));
            }
            next = level.end;
            before = level;
        }
        Fresh::new("random", &[tasks], &[(0, 0, LinkShape::Pairs(pairs))])
    }

    /// Estimates of classes that spread by a factor of two or so and have been seen often.
    fn estimates(&self) -> Estimates {
        let classes = self.classes.iter().max().map_or(0, |c| c + 1);
        let mut random = fastrand::Rng::with_seed(7);
        let mut estimates = Estimates::new(vec![ClassPrior::default(); classes as usize], &[Duration::from_secs(60)]);
        for class in 0..classes {
            for _ in 0..100 {
                // The sum of four uniform numbers is close enough to a bell.
                let bell: f64 = (0..4).map(|_| random.f64() - 0.5).sum();
                estimates.observe_task(ClassId(class), None, Duration::from_secs_f64(20.0 * (0.8 * bell).exp()));
            }
        }
        (0..20).for_each(|_| estimates.observe_delay(NodeTypeId(0), Duration::from_secs(60)));
        estimates
    }

    /// What remains of it when `running` tasks have begun, a millisecond apart.
    fn work(&self, (exact, chunks): (usize, usize), running: u32) -> RemainingWork {
        let classes = Arc::clone(&self.classes);
        let facts = move |task: TaskId| TaskFacts {
            class: ClassId(classes[task.index()]),
            prior: None,
            slots: 1,
            runs_on: NodeTypes::default(),
        };
        let mut work = RemainingWork::with_limits(Arc::clone(&self.graph), Arc::new(facts), exact, chunks);
        let is_free = |task: &u32| self.graph.predecessors(*task).len() == 0;
        let free = (0..self.graph.task_count() as u32).filter(is_free);
        let mut left = running;
        // Ranks have taken tasks from all over the graph.
        for task in free {
            let starts = left > 0 && (running < 1000 || task % 7 == 0);
            left -= u32::from(starts);
            match starts {
                true => work.started(TaskId(task), Time(NOW.0 - 1_000_000 * u64::from(left % 20_000))),
                false => work.became_ready(TaskId(task)),
            }
        }
        work
    }
}

/// The moment of all decisions.
const NOW: Time = Time(100_000_000_000);

fn see<R>(work: &RemainingWork, ranks: &[RankView], look: impl FnOnce(&Observation<'_>) -> R) -> R {
    let counts = TaskCounts {
        total: work.graph().task_count() as u64,
        remaining: work.count(),
        ready: work.ready_count(),
        running: work.running_count(),
        ..TaskCounts::default()
    };
    look(&Observation {
        now: NOW,
        ranks,
        requests: &[],
        counts,
        remaining: work,
        samples: Samples::default(),
        custom: &Customs::new(),
        settled: 0.0,
        sites: &[],
    })
}

fn rank(number: u32) -> RankView {
    RankView {
        rank: Rank(number),
        state: RankState::Active,
        node_type: NodeTypeId(0),
        slots: 4,
        billed_since: Some(Time::ZERO),
        busy_slots: 4,
        busy: Duration::ZERO,
        failures: 0,
        releasable: number > 0,
        needed: false,
        ends: None,
    }
}

const MOST_RANKS: u32 = 64;

/// First decision (which makes the outline) and median of the following ones, in milliseconds; and
/// the ranks wished for.
fn time_of(fresh: &Fresh, ranks: u32, most_ranks: u32, runs: usize) -> (f64, f64, u32) {
    let scaling = Scaling { max_ranks: most_ranks, ..Scaling::default() };
    let prices = Prices::of_job(&Cost::default(), 4);
    let estimates = fresh.estimates();
    let views: Vec<RankView> = (0..ranks).map(rank).collect();
    let work = fresh.work((EXACT, CHUNKS), 4 * ranks);
    let mut policy = policy_of(&scaling);
    let mut times = Vec::new();
    let mut ranks = 0;
    for _ in 0..=runs {
        let begin = Instant::now();
        ranks = see(&work, &views, |seen| policy.decide(seen, &estimates, &prices)).ranks;
        times.push(begin.elapsed().as_secs_f64() * 1e3);
    }
    let first = times.remove(0);
    times.sort_by(f64::total_cmp);
    (first, times[times.len() / 2], ranks)
}

/// Largest and mean deviation of the outlined finish from the exact one, in percent, and by how
/// much more the choice made by the outline takes times costs than the exact choice, by the exact
/// forecast.
fn quality_of(fresh: &Fresh, chunks: usize) -> (f64, f64, f64) {
    let scope = Scope { min_ranks: 1, max_ranks: MOST_RANKS, interval: 5.0, time_weight: 0.5 };
    let prices = Prices::of_job(&Cost::default(), 4);
    let estimates = fresh.estimates();
    let views: Vec<RankView> = (0..8).map(rank).collect();
    let look = |chunks| {
        let work = fresh.work((if chunks == usize::MAX { chunks } else { 0 }, chunks), 0);
        see(&work, &views, |seen| Forecaster::new().look(seen, &estimates, &prices, &scope).prospects)
    };
    let (outlined, exact) = (look(chunks), look(usize::MAX));
    let mut off = Vec::new();
    for prospect in &exact {
        if let Some(other) = outlined.iter().find(|p| p.ranks == prospect.ranks) {
            off.push((other.finish_q50 / prospect.finish_q50 - 1.0).abs() * 100.0);
        }
    }
    let worst = off.iter().copied().fold(0.0, f64::max);
    let mean = off.iter().sum::<f64>() / off.len().max(1) as f64;
    let product = |p: &phalanx::scale::forecast::Prospect| p.finish_q50 * p.cost;
    let best = |all: &[phalanx::scale::forecast::Prospect]| {
        all.iter().copied().min_by(|a, b| product(a).total_cmp(&product(b)))
    };
    let regret = best(&exact).zip(best(&outlined)).and_then(|(exact_best, chosen)| {
        // The same number in the exact forecast, or the nearest that it looked at.
        let there = exact.iter().min_by_key(|p| p.ranks.abs_diff(chosen.ranks))?;
        Some((product(there) / product(&exact_best) - 1.0) * 100.0)
    });
    (worst, mean, regret.unwrap_or(0.0))
}

type Shape = fn(u32) -> Fresh;

const SHAPES: [Shape; 5] = [Fresh::bag, Fresh::fork_join, Fresh::pipelines, Fresh::wavefront, Fresh::random];

fn main() {
    println!(
        "One decision with {MOST_RANKS} ranks to choose from (task by task up to {EXACT}, then {CHUNKS} chunks)\n"
    );
    println!("{:<12} {:>9} {:>12} {:>12} {:>7}", "graph", "tasks", "first ms", "then ms", "ranks");
    for tasks in [1_000, 10_000, 100_000, 1_000_000] {
        for shape in SHAPES {
            let fresh = shape(tasks);
            let (first, then, ranks) = time_of(&fresh, 8, MOST_RANKS, 21);
            println!("{:<12} {:>9} {first:>12.2} {then:>12.2} {ranks:>7}", fresh.name, fresh.graph.task_count());
        }
    }
    println!("\nTen million tasks remain\n");
    println!("{:<12} {:>9} {:>9} {:>12} {:>12} {:>7}", "graph", "busy", "at most", "first ms", "then ms", "ranks");
    for shape in [Fresh::bag, Fresh::fork_join, Fresh::pipelines] as [Shape; 3] {
        let fresh = shape(10_000_000);
        for (ranks, most_ranks) in [(8, 64), (2_500, 64), (2_500, 10_000), (25_000, 64), (25_000, 100_000)] {
            let (first, then, wish) = time_of(&fresh, ranks, most_ranks, 11);
            println!("{:<12} {:>9} {most_ranks:>9} {first:>12.2} {then:>12.2} {wish:>7}", fresh.name, 4 * ranks);
        }
    }
    println!("\nFinish by the outline against finish task by task, percent\n");
    println!("{:<12} {:>9} {:>9} {:>9} {:>9} {:>9}", "graph", "tasks", "chunks", "worst", "mean", "regret");
    for tasks in [20_000, 100_000] {
        for shape in SHAPES {
            let fresh = shape(tasks);
            for chunks in [CHUNKS / 8, CHUNKS] {
                let (worst, mean, regret) = quality_of(&fresh, chunks);
                println!(
                    "{:<12} {:>9} {chunks:>9} {worst:>9.2} {mean:>9.2} {regret:>9.2}",
                    fresh.name,
                    fresh.graph.task_count()
                );
            }
        }
    }
}
