//! Partitioning: assigns a home rank to each task.
//!
//! The home of a task counts its dependencies and runs it unless another rank steals it. A good
//! partition moves few bytes between ranks *and* keeps all ranks busy throughout the run. Plain
//! minimum edge cut achieves only the first: it cuts along time, so that ranks work one after the
//! other. [`Method::Bands`] therefore balances each *level band* (tasks whose earliest start lies
//! in the same eighth of the work) separately, as one of METIS's balance constraints (Karypis and
//! Kumar, "Multilevel algorithms for multi-constraint graph partitioning", SC'98).
//!
//! Where METIS would take too long, or makes ranks wait for each other within a band, each *level*
//! (tasks with equally long chains before them) is divided into contiguous blocks: neighbours in
//! the job file stay on one rank, level after level, and all ranks are busy in each level.
//!
//! Long tasks then move to the ranks where they can end first
//! ([`long_tasks`]), since the sum of work does not tell when they end.
//!
//! Rank 0 chooses homes once, before the run; stealing corrects wrong estimates at run time.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::{Mutex, PoisonError};

use super::c_output::discard_remarks;
use super::csr::{Csr, PairSource};
use super::deal::{Dealer, LoadRule, RankLoad};
use super::long_tasks::{self, OpenWork, RankSpeed};
use super::{Order, TaskGraph};
use crate::model::TaskId;

/// Partitioning method.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    /// METIS k-way partition with one balance constraint per level band. Recommended.
    Bands,
    /// Greedy earliest finish time in order of upward rank (HEFT without insertion): better for few
    /// tasks with very different durations.
    EarliestFinish,
    /// By load alone.
    Load(LoadRule),
}

/// Input of the partitioning.
pub struct PartitionProblem<'a> {
    /// The graph.
    pub graph: &'a TaskGraph,
    /// Topological properties of the graph under the estimated durations.
    pub order: &'a Order,
    /// Estimated duration of each task in nanoseconds.
    pub duration: &'a dyn Fn(TaskId) -> u64,
    /// Slots of each rank; a rank without slots gets no tasks.
    pub slots: &'a [u32],
    /// Slots that a task takes.
    pub width: &'a dyn Fn(TaskId) -> u32,
    /// True for a task that any rank may steal: it needs one slot and nothing else.
    pub is_movable: &'a dyn Fn(TaskId) -> bool,
    /// True if a rank (by index) has the resources that a task requires.
    pub fits: &'a dyn Fn(TaskId, usize) -> bool,
}

impl PartitionProblem<'_> {
    /// Estimated work of a node in nanoseconds; zero for joins.
    fn work(&self, node: u32) -> u64 {
        if (node as usize) < self.graph.task_count() { (self.duration)(TaskId(node)).max(1) } else { 0 }
    }
}

/// Homes, and their estimated quality.
#[derive(Clone, Debug, PartialEq)]
pub struct Partition {
    /// Index of the home rank for each node of the graph, including joins.
    pub home: Vec<u32>,
    /// Number of edges between ranks.
    pub cut_edges: u64,
    /// Bytes along edges between ranks.
    pub cut_bytes: u64,
    /// Mean over maximum of the estimated work per slot, 0 to 1.
    pub balance: f64,
}

/// Bandwidth between ranks that `EarliestFinish` assumes, in bytes per second: a common cluster
/// network.
const ASSUMED_BYTES_PER_S: f64 = 1e9;

/// Number of level bands of equal work, each balanced separately.
const BANDS: usize = 8;

/// Maximum number of nodes for METIS, which would take longer than it saves for larger graphs.
const MAX_METIS_NODES: usize = 100_000;

/// Minimum number of nodes per rank for METIS, which otherwise leaves ranks empty and prints
/// messages on standard output.
const MIN_METIS_NODES_PER_RANK: usize = 8;

/// The partition of METIS is rejected if its levels, run one after the other, take longer than
/// those of the blocks by this factor: more than stealing can correct unnoticed.
const MAX_METIS_SLOWDOWN: f64 = 1.25;

/// METIS has one random number generator and one set of signal handlers per process.
static METIS: Mutex<()> = Mutex::new(());

/// Chooses the home of every node.
pub fn partition(problem: &PartitionProblem<'_>, method: Method) -> Partition {
    let able: Vec<u32> = (0..problem.slots.len() as u32).filter(|&r| problem.slots[r as usize] > 0).collect();
    let nodes = problem.graph.node_count();
    let mut home = match able[..] {
        [] => vec![0; nodes],
        [only] => vec![only; nodes],
        _ => match method {
            Method::Load(rule) => by_load(problem, rule),
            Method::EarliestFinish => earliest_finish(problem, &able),
            Method::Bands => bands(problem, &able),
        },
    };
    move_misfits(problem, &mut home);
    if method == Method::Bands {
        place_long_tasks(problem, &mut home);
    }
    measure(problem.graph, problem.duration, problem.slots, home)
}

/// Moves long tasks to the ranks where they can end first. Those that any rank may steal suit the
/// same ranks.
fn place_long_tasks(problem: &PartitionProblem<'_>, home: &mut [u32]) {
    let tasks = problem.graph.task_count() as u32;
    let Some(plain) = (0..tasks).map(TaskId).find(|&task| (problem.is_movable)(task)) else { return };
    let speed = |(rank, &slots): (usize, &u32)| {
        let is_open = slots > 0 && (problem.fits)(plain, rank);
        RankSpeed { slots, pace: 1.0, is_open }
    };
    let ranks: Vec<RankSpeed> = problem.slots.iter().enumerate().map(speed).collect();
    let work: Vec<u64> = (0..problem.graph.node_count() as u32).map(|node| problem.work(node)).collect();
    let open = OpenWork {
        graph: problem.graph,
        work: &work,
        width: problem.width,
        is_movable: problem.is_movable,
        running: &[],
        ranks: &ranks,
    };
    long_tasks::place(&open, home);
}

/// Deals the tasks in the order of their numbers. A join is at home with the first task that it
/// waits for.
fn by_load(problem: &PartitionProblem<'_>, rule: LoadRule) -> Vec<u32> {
    let graph = problem.graph;
    let load = |&slots: &u32| RankLoad { slots, speed: 1.0, ..RankLoad::default() };
    let mut dealer = Dealer::new(rule, problem.slots.iter().map(load).collect());
    let tasks = (0..graph.task_count() as u32).map(TaskId);
    let deal = |task: TaskId| {
        let work = (problem.duration)(task);
        dealer.deal(work, &|rank| (problem.fits)(task, rank as usize)).unwrap_or(0)
    };
    let mut home: Vec<u32> = tasks.map(deal).collect();
    home.resize(graph.node_count(), 0);
    for join in graph.topological().iter().filter(|&node| node as usize >= graph.task_count()) {
        home[join as usize] = graph.predecessors(join).next().map_or(0, |edge| home[edge.node() as usize]);
    }
    home
}

/// Assigns each node, by descending urgency, to the rank on which it finishes first.
fn earliest_finish(problem: &PartitionProblem<'_>, able: &[u32]) -> Vec<u32> {
    let graph = problem.graph;
    let mut free: Vec<BinaryHeap<Reverse<u64>>> =
        problem.slots.iter().map(|&s| (0..s).map(|_| Reverse(0)).collect()).collect();
    // Edges by target: source, and number in the order of the sources.
    let each_edge = |put: &mut dyn FnMut(u32, u32, u32)| {
        let mut number = 0;
        for node in 0..graph.node_count() as u32 {
            graph.successors(node).for_each(|edge| {
                put(edge.node(), node, number);
                number += 1;
            });
        }
    };
    // As many items as the graph has edges, so this cannot overflow.
    let rows = |put: &mut PairSource<'_>| Csr::build(graph.node_count(), put).unwrap_or_default();
    let from = rows(&mut |put| each_edge(&mut |to, from, _| put(to, from)));
    let edge_in = rows(&mut |put| each_edge(&mut |to, _, number| put(to, number)));
    let bytes: Vec<u64> = (0..graph.node_count() as u32)
        .flat_map(|n| (0..graph.successors(n).len()).map(move |k| graph.edge_bytes(n, k)))
        .collect();
    let mut end = vec![0u64; graph.node_count()];
    let mut home = vec![able[0]; graph.node_count()];
    let mut by_rank: Vec<u32> = graph.topological().iter().collect();
    // The sort is stable, so that a node of zero duration stays after its dependencies.
    by_rank.sort_by_key(|&n| Reverse(problem.order.upward[n as usize]));
    for node in by_rank {
        let task = TaskId(node);
        let is_task = node < graph.task_count() as u32;
        let took = if is_task { (problem.duration)(task) } else { 0 };
        let arrival = |rank: u32| {
            let data = |(&before, &edge): (&u32, &u32)| {
                let travels = if home[before as usize] == rank { 0 } else { bytes[edge as usize] };
                end[before as usize].saturating_add((travels as f64 / ASSUMED_BYTES_PER_S * 1e9) as u64)
            };
            let row = node as usize;
            from.row(row).iter().zip(edge_in.row(row)).map(data).max().unwrap_or(0)
        };
        let start = |rank: u32| arrival(rank).max(free[rank as usize].peek().map_or(0, |slot| slot.0));
        let fitting = able.iter().copied().filter(|&r| !is_task || (problem.fits)(task, r as usize));
        let Some(best) = fitting.min_by_key(|&r| (start(r), r)) else { continue };
        let begin = start(best);
        home[node as usize] = best;
        end[node as usize] = begin.saturating_add(took);
        if is_task {
            free[best as usize].pop();
            free[best as usize].push(Reverse(begin.saturating_add(took)));
        }
    }
    home
}

/// Balances each level band separately with a small cut; falls back to blocks of levels where bands
/// would make ranks wait.
fn bands(problem: &PartitionProblem<'_>, able: &[u32]) -> Vec<u32> {
    let graph = problem.graph;
    let levels = graph.levels();
    let dealt = blocks(problem, able, &levels);
    let few = graph.node_count() < MIN_METIS_NODES_PER_RANK * able.len();
    if few || graph.edge_count() == 0 || graph.node_count() > MAX_METIS_NODES {
        return dealt;
    }
    // METIS fails only for lack of memory.
    let Ok(cut) = metis_bands(problem, able, &BandWeights::new(problem)) else { return dealt };
    let time = |home: &[u32]| level_by_level(problem, &levels, home);
    if time(&cut) <= MAX_METIS_SLOWDOWN * time(&dealt) { cut } else { dealt }
}

/// Estimated time of all levels, run one after the other, where each level takes as long as its
/// most loaded rank. METIS does not see the order within a band: of a deep and narrow graph it
/// assigns the first half of each band to one rank and the second half to another.
fn level_by_level(problem: &PartitionProblem<'_>, levels: &[u32], home: &[u32]) -> f64 {
    let count = levels.iter().max().map_or(0, |&last| last as usize + 1);
    let nodes = Csr::build(count, |put| (0..).zip(levels).for_each(|(node, &level)| put(level, node)));
    // As many items as there are nodes, so this cannot overflow.
    let nodes = nodes.unwrap_or_default();
    let mut load = vec![0f64; problem.slots.len()];
    let mut time = 0.0;
    for level in 0..count {
        let mut longest = 0f64;
        for &node in nodes.row(level) {
            let rank = home[node as usize] as usize;
            load[rank] += problem.work(node) as f64 / f64::from(problem.slots[rank].max(1));
            longest = longest.max(load[rank]);
        }
        nodes.row(level).iter().for_each(|&node| load[home[node as usize] as usize] = 0.0);
        time += longest;
    }
    time
}

/// Work and band of each node.
struct BandWeights {
    work: Vec<u64>,
    band: Vec<u8>,
    bands: usize,
}

impl BandWeights {
    /// Divides the nodes, sorted by earliest start, into bands of equal work. Nodes with the same
    /// earliest start share a band, so that a bag of equal tasks is one band.
    fn new(problem: &PartitionProblem<'_>) -> BandWeights {
        let work: Vec<u64> = (0..problem.graph.node_count() as u32).map(|n| problem.work(n)).collect();
        let earliest = problem.graph.earliest(problem.duration);
        let mut by_start: Vec<u32> = (0..work.len() as u32).collect();
        by_start.sort_unstable_by_key(|&n| earliest[n as usize]);
        let share = (work.iter().map(|&w| u128::from(w)).sum::<u128>() / BANDS as u128).max(1);
        let mut band = vec![0u8; work.len()];
        let (mut current, mut filled) = (0u8, 0u128);
        for run in by_start.chunk_by(|&a, &b| earliest[a as usize] == earliest[b as usize]) {
            if filled >= share && usize::from(current) + 1 < BANDS {
                current += 1;
                filled = 0;
            }
            for &node in run {
                band[node as usize] = current;
                filled += u128::from(work[node as usize]);
            }
        }
        BandWeights { work, band, bands: usize::from(current) + 1 }
    }
}

/// Divides each level into contiguous blocks, in proportion to slots.
fn blocks(problem: &PartitionProblem<'_>, able: &[u32], levels: &[u32]) -> Vec<u32> {
    // For each rank, the cumulative share of slots up to it.
    let slots = |r: &u32| f64::from(problem.slots[*r as usize]);
    let all: f64 = able.iter().map(slots).sum();
    let upto: Vec<f64> = able
        .iter()
        .scan(0.0, |sum, r| {
            *sum += slots(r);
            Some(*sum / all)
        })
        .collect();
    let mut total = vec![0f64; levels.iter().max().map_or(0, |&last| last as usize + 1)];
    for (node, &level) in (0..).zip(levels) {
        total[level as usize] += problem.work(node) as f64;
    }
    let mut filled = vec![0f64; total.len()];
    let mut turn = vec![0u32; total.len()];
    let deal = |(node, &level): (u32, &u32)| {
        let level = level as usize;
        let (work, turn) = (problem.work(node) as f64, &mut turn[level]);
        // The middle of the task decides, so that rounding favours no rank.
        let middle = filled[level] + work / 2.0;
        while (*turn as usize) + 1 < able.len() && middle > total[level] * upto[*turn as usize] {
            *turn += 1;
        }
        filled[level] += work;
        able[*turn as usize]
    };
    (0..).zip(levels).map(deal).collect()
}

fn metis_bands(problem: &PartitionProblem<'_>, able: &[u32], weights: &BandWeights) -> Result<Vec<u32>, metis::Error> {
    let graph = problem.graph;
    let nodes = graph.node_count();
    let (offsets, neighbours, edge_weights) = undirected(graph);
    let heaviest = weights.work.iter().copied().max().unwrap_or(1).max(1);
    let mut vertex_weights = vec![0 as metis::Idx; nodes * weights.bands];
    for node in 0..nodes {
        // METIS sums weights in 32 bits: scale them so that a million of the heaviest do not
        // overflow.
        let scaled = (u128::from(weights.work[node]) * 1000).div_ceil(u128::from(heaviest));
        vertex_weights[node * weights.bands + usize::from(weights.band[node])] = scaled as metis::Idx;
    }
    let slots: f64 = able.iter().map(|&r| f64::from(problem.slots[r as usize])).sum();
    let targets: Vec<metis::Real> = able
        .iter()
        .flat_map(|&r| {
            std::iter::repeat_n((f64::from(problem.slots[r as usize]) / slots) as metis::Real, weights.bands)
        })
        .collect();
    let mut part = vec![0 as metis::Idx; nodes];
    let _one_at_a_time = METIS.lock().unwrap_or_else(PoisonError::into_inner);
    let cut = metis::Graph::new(weights.bands as metis::Idx, able.len() as metis::Idx, &offsets, &neighbours)?
        .set_vwgt(&vertex_weights)
        .set_adjwgt(&edge_weights)
        .set_tpwgts(&targets)
        .set_option(metis::option::Seed(1));
    discard_remarks(|| cut.part_kway(&mut part))?;
    Ok(part.into_iter().map(|p| able[p as usize]).collect())
}

/// The graph in METIS's format: each edge in both directions, weighted by bytes.
fn undirected(graph: &TaskGraph) -> (Vec<metis::Idx>, Vec<metis::Idx>, Vec<metis::Idx>) {
    let most = (0..graph.node_count() as u32)
        .flat_map(|n| (0..graph.successors(n).len()).map(move |k| graph.edge_bytes(n, k)))
        .max()
        .unwrap_or(0);
    let weight = |bytes: u64| 1 + (u128::from(bytes) * 10_000 / u128::from(most.max(1))) as metis::Idx;
    let mut ends: Vec<Vec<(metis::Idx, metis::Idx)>> = vec![Vec::new(); graph.node_count()];
    for node in 0..graph.node_count() as u32 {
        for (k, edge) in graph.successors(node).enumerate() {
            let weight = weight(graph.edge_bytes(node, k));
            ends[node as usize].push((edge.node() as metis::Idx, weight));
            ends[edge.node() as usize].push((node as metis::Idx, weight));
        }
    }
    let (mut offsets, mut neighbours, mut weights) = (vec![0], Vec::new(), Vec::new());
    for row in &mut ends {
        row.sort_unstable();
        // METIS accepts one edge per pair of nodes: merge duplicates (a `needs` and a file).
        row.dedup_by(|b, a| {
            let same = a.0 == b.0;
            if same {
                a.1 = a.1.saturating_add(b.1);
            }
            same
        });
        neighbours.extend(row.iter().map(|&(n, _)| n));
        weights.extend(row.iter().map(|&(_, w)| w));
        offsets.push(neighbours.len() as metis::Idx);
    }
    (offsets, neighbours, weights)
}

/// Moves each task that does not fit on its rank to the one with the least work per slot among
/// those that it fits on.
fn move_misfits(problem: &PartitionProblem<'_>, home: &mut [u32]) {
    let mut load = vec![0f64; problem.slots.len()];
    let cost = |task: u32| (problem.duration)(TaskId(task)).max(1) as f64;
    let tasks = problem.graph.task_count() as u32;
    let mut misfits = Vec::new();
    for task in 0..tasks {
        let rank = home[task as usize] as usize;
        if (problem.fits)(TaskId(task), rank) {
            load[rank] += cost(task) / f64::from(problem.slots[rank].max(1));
        } else {
            misfits.push(task);
        }
    }
    for task in misfits {
        let fitting = (0..problem.slots.len()).filter(|&r| problem.slots[r] > 0 && (problem.fits)(TaskId(task), r));
        if let Some(rank) = fitting.min_by(|&a, &b| load[a].total_cmp(&load[b])) {
            home[task as usize] = rank as u32;
            load[rank] += cost(task) / f64::from(problem.slots[rank]);
        }
    }
}

/// Estimates the quality of homes, however they were chosen.
pub fn measure(graph: &TaskGraph, duration: &dyn Fn(TaskId) -> u64, slots: &[u32], home: Vec<u32>) -> Partition {
    let (mut cut_edges, mut cut_bytes) = (0, 0);
    for node in 0..graph.node_count() as u32 {
        for (k, edge) in graph.successors(node).enumerate() {
            if home[node as usize] != home[edge.node() as usize] {
                cut_edges += 1;
                cut_bytes += graph.edge_bytes(node, k);
            }
        }
    }
    let mut work = vec![0f64; slots.len()];
    for task in 0..graph.task_count() {
        work[home[task] as usize] += duration(TaskId(task as u32)).max(1) as f64;
    }
    let all: f64 = slots.iter().map(|&s| f64::from(s)).sum();
    let mean = work.iter().sum::<f64>() / all.max(1.0);
    let most = work.iter().zip(slots).map(|(w, &s)| w / f64::from(s.max(1))).fold(0.0, f64::max);
    Partition { home, cut_edges, cut_bytes, balance: if most > 0.0 { mean / most } else { 1.0 } }
}

#[cfg(test)]
mod tests {
    use super::super::link::{Condition, Link, LinkShape};
    use super::super::pattern::{Dependence, Pattern};
    use super::*;

    /// `columns` independent chains of `steps` tasks whose edges carry bytes.
    fn chains(columns: u32, steps: u32) -> TaskGraph {
        let counts = vec![columns; steps as usize];
        let links: Vec<Link> = (1..steps)
            .map(|s| Link { from: s - 1, to: s, shape: LinkShape::Each, on: Condition::Ok, bytes: 100, span: 0..0 })
            .collect();
        TaskGraph::build(&counts, &links).unwrap()
    }

    fn methods() -> impl Iterator<Item = Method> {
        use LoadRule::{DynamicThreshold, LeastLoaded, Predictive, RoundRobin, WeightedRoundRobin};
        let rules = [RoundRobin, LeastLoaded, WeightedRoundRobin, DynamicThreshold, Predictive];
        [Method::Bands, Method::EarliestFinish].into_iter().chain(rules.map(Method::Load))
    }

    fn run(graph: &TaskGraph, slots: &[u32], method: Method) -> Partition {
        let order = graph.order(&|_| 1000);
        let problem = PartitionProblem {
            graph,
            order: &order,
            duration: &|_| 1000,
            slots,
            width: &|_| 1,
            is_movable: &|_| true,
            fits: &|_, _| true,
        };
        partition(&problem, method)
    }

    #[test]
    fn every_method_gives_every_node_a_rank_with_slots() {
        let graph = chains(24, 10);
        for method in methods() {
            let found = run(&graph, &[0, 4, 2, 4], method);
            assert_eq!(found.home.len(), 240);
            assert!(found.home.iter().all(|&r| (1..4).contains(&r)), "{method:?}");
            assert!(found.balance > 0.8, "{method:?}: {}", found.balance);
        }
    }

    #[test]
    fn bands_cut_few_edges_and_keep_every_step_busy() {
        let graph = chains(24, 10);
        let found = run(&graph, &[1, 1, 1, 1], Method::Bands);
        assert!(found.cut_edges <= 24, "{} of 216 edges cut", found.cut_edges);
        for step in 0..10 {
            let mut per_rank = [0; 4];
            (0..24).for_each(|c| per_rank[found.home[step * 24 + c] as usize] += 1);
            assert!(per_rank.iter().all(|&n| n >= 3), "step {step}: {per_rank:?}");
        }
        assert!(run(&graph, &[1, 1, 1, 1], Method::Load(LoadRule::RoundRobin)).cut_edges <= 216);
    }

    #[test]
    fn a_deep_and_narrow_graph_keeps_every_step_busy() {
        let pattern = Pattern { dependence: Dependence::Stencil1d, width: 8, steps: 1000 };
        let shape = LinkShape::Pattern(pattern);
        let link = Link { from: 0, to: 0, shape, on: Condition::Ok, bytes: 0, span: 0..0 };
        let graph = TaskGraph::build(&[8000], &[link]).unwrap();
        let found = run(&graph, &[1, 1], Method::Bands);
        for step in 0..1000 {
            let first = (0..8).filter(|point| found.home[step * 8 + point] == 0).count();
            assert!((3..=5).contains(&first), "step {step}: {first} of 8 on the first rank");
        }
        assert!(found.cut_edges <= 2000, "{} edges cut", found.cut_edges);
    }

    #[test]
    fn a_bag_is_split_by_slots() {
        let graph = TaskGraph::build(&[90], &[]).unwrap();
        let found = run(&graph, &[1, 2], Method::Bands);
        assert_eq!(found.home.iter().filter(|&&r| r == 0).count(), 30);
        assert!(found.home.windows(2).all(|w| w[0] <= w[1]), "contiguous");
    }

    #[test]
    fn tasks_go_only_where_they_fit() {
        let graph = chains(8, 3);
        let order = graph.order(&|_| 1);
        let fits = |task: TaskId, rank: usize| task.0 >= 8 || rank == 2;
        let problem = PartitionProblem {
            graph: &graph,
            order: &order,
            duration: &|_| 1,
            slots: &[1, 1, 1],
            width: &|_| 1,
            is_movable: &|_| true,
            fits: &fits,
        };
        for method in methods() {
            let found = partition(&problem, method);
            assert!(found.home[..8].iter().all(|&r| r == 2), "{method:?}");
        }
    }
}
