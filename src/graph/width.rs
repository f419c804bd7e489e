//! How much of a graph can run at once: an upper bound on the weight of an antichain.
//!
//! Tasks that run at the same time do not depend on each other: they are an antichain. If chains
//! cover every task as often as its weight says, no antichain weighs more than the number of
//! chains (each chain meets it once at most), and for the fewest chains both are equal (Dilworth,
//! Annals of Mathematics 51(1), 1950; for weights it is min-flow max-cut with lower bounds).
//!
//! A cover is a flow through the graph that passes each task at least as often as it weighs. The
//! first is made in one pass. Augmenting paths then reduce it (Dinic's algorithm) until it is the
//! least, or until the effort is spent; either way it is a cover, so the bound is proved.

use super::TaskGraph;
use crate::model::TaskId;

/// Graphs with more nodes and edges get the bound of the first cover.
const MAX_REDUCED: usize = 300_000;

/// Arcs that the reduction looks at before it gives up: about a second.
const MAX_EFFORT: usize = 100_000_000;

impl TaskGraph {
    /// An upper bound on the weight of the tasks that can run at once; exact for graphs of
    /// moderate size.
    pub fn max_at_once(&self, weight: &dyn Fn(TaskId) -> u64) -> u64 {
        let cover = Cover::first(self, weight);
        let is_moderate = self.node_count() + self.edge_count() <= MAX_REDUCED;
        let saved = if is_moderate { Residual::of(self, &cover).reduce(MAX_EFFORT) } else { 0 };
        cover.chains() - saved
    }
}

/// Chains that cover the tasks, as a flow.
struct Cover {
    /// For each node, how often it must be passed.
    weight: Vec<u64>,
    /// For each node, how often it is passed.
    through: Vec<u64>,
    /// For each node, the number of chains that begin and that end there.
    begin: Vec<u64>,
    end: Vec<u64>,
    /// Chains along each edge, in the order of nodes and their successors.
    edges: Vec<u64>,
}

impl Cover {
    /// Continues chains where a successor needs them, and begins others where too few arrive.
    fn first(graph: &TaskGraph, weight: &dyn Fn(TaskId) -> u64) -> Cover {
        let nodes = graph.node_count();
        let weight = |node: usize| if node < graph.task_count() { weight(TaskId(node as u32)) } else { 0 };
        let weight: Vec<u64> = (0..nodes).map(weight).collect();
        let first_edge = first_edges(graph);
        let mut cover = Cover {
            through: vec![0; nodes],
            begin: vec![0; nodes],
            end: vec![0; nodes],
            edges: vec![0; graph.edge_count()],
            weight,
        };
        for node in graph.topological().iter() {
            let at = node as usize;
            cover.begin[at] = cover.weight[at].saturating_sub(cover.through[at]);
            cover.through[at] += cover.begin[at];
            let mut left = cover.through[at];
            let edges = first_edge[at]..;
            for (edge, next) in edges.clone().zip(graph.successors(node)) {
                let next = next.node() as usize;
                let part = left.min(cover.weight[next].saturating_sub(cover.through[next]));
                cover.pass(edge, next, part);
                left -= part;
            }
            // The rest may be of use farther on, most likely behind a join.
            let onward = edges.zip(graph.successors(node)).max_by_key(|(_, next)| next.node());
            match onward {
                Some((edge, next)) => cover.pass(edge, next.node() as usize, left),
                None => cover.end[at] = left,
            }
        }
        cover
    }

    fn pass(&mut self, edge: usize, next: usize, chains: u64) {
        self.edges[edge] += chains;
        self.through[next] += chains;
    }

    /// Number of chains.
    fn chains(&self) -> u64 {
        self.begin.iter().sum()
    }
}

/// For each node, the number of its first edge in the order of nodes and their successors.
fn first_edges(graph: &TaskGraph) -> Vec<usize> {
    let degrees = (0..graph.node_count() as u32).map(|node| graph.successors(node).len());
    degrees.scan(0, |at, degree| Some(std::mem::replace(at, *at + degree))).collect()
}

/// The network in which a path from the ends of chains back to their beginnings is a chain that can
/// be saved. Arc `2k + 1` is the reverse of arc `2k`.
struct Residual {
    /// For each vertex, its arcs.
    arcs: Vec<Vec<u32>>,
    to: Vec<u32>,
    room: Vec<u64>,
}

/// The two vertices where all chains begin and end.
const BEGIN: u32 = 0;
const END: u32 = 1;

impl Residual {
    fn of(graph: &TaskGraph, cover: &Cover) -> Residual {
        let nodes = graph.node_count() as u32;
        let mut network = Residual { arcs: vec![Vec::new(); 2 * nodes as usize + 2], to: Vec::new(), room: Vec::new() };
        let (into, out) = (|node: u32| 2 * node + 2, |node: u32| 2 * node + 3);
        let first_edge = first_edges(graph);
        for node in 0..nodes {
            let at = node as usize;
            network.connect(BEGIN, into(node), cover.begin[at]);
            network.connect(into(node), out(node), cover.through[at] - cover.weight[at]);
            network.connect(out(node), END, cover.end[at]);
            for (edge, next) in (first_edge[at]..).zip(graph.successors(node)) {
                network.connect(out(node), into(next.node()), cover.edges[edge]);
            }
        }
        network
    }

    /// Chains may be added from `from` to `to` without bound, and `spare` of them taken away.
    fn connect(&mut self, from: u32, to: u32, spare: u64) {
        for (from, to, room) in [(from, to, u64::MAX / 4), (to, from, spare)] {
            self.arcs[from as usize].push(self.to.len() as u32);
            self.to.push(to);
            self.room.push(room);
        }
    }

    /// The number of chains that can be saved, or of those found within the effort.
    fn reduce(&mut self, mut effort: usize) -> u64 {
        let mut saved = 0;
        while let Some(distance) = self.distances(&mut effort) {
            let mut next = vec![0usize; self.arcs.len()];
            while let Some(path) = self.path(&distance, &mut next, &mut effort) {
                let room = path.iter().map(|&arc| self.room[arc as usize]).min().unwrap_or(0);
                for &arc in &path {
                    self.room[arc as usize] -= room;
                    self.room[arc as usize ^ 1] += room;
                }
                saved += room;
            }
        }
        saved
    }

    /// For each vertex, its distance from [`END`]; `None` if [`BEGIN`] cannot be reached.
    fn distances(&self, effort: &mut usize) -> Option<Vec<u32>> {
        let mut distance = vec![u32::MAX; self.arcs.len()];
        distance[END as usize] = 0;
        let mut queue = std::collections::VecDeque::from([END]);
        while let Some(vertex) = queue.pop_front() {
            let arcs = &self.arcs[vertex as usize];
            *effort = effort.checked_sub(arcs.len())?;
            for &arc in arcs.iter().filter(|&&arc| self.room[arc as usize] > 0) {
                let to = self.to[arc as usize];
                if distance[to as usize] == u32::MAX {
                    distance[to as usize] = distance[vertex as usize] + 1;
                    queue.push_back(to);
                }
            }
        }
        (distance[BEGIN as usize] != u32::MAX).then_some(distance)
    }

    /// A shortest path from [`END`] to [`BEGIN`]; `next` is the arc of each vertex to try next.
    fn path(&self, distance: &[u32], next: &mut [usize], effort: &mut usize) -> Option<Vec<u32>> {
        let (mut path, mut at): (Vec<u32>, u32) = (Vec::new(), END);
        while at != BEGIN {
            *effort = effort.checked_sub(1)?;
            match self.arcs[at as usize].get(next[at as usize]) {
                Some(&arc) => {
                    let to = self.to[arc as usize];
                    if self.room[arc as usize] > 0 && distance[to as usize] == distance[at as usize] + 1 {
                        path.push(arc);
                        at = to;
                    } else {
                        next[at as usize] += 1;
                    }
                }
                None => {
                    at = self.to[path.pop()? as usize ^ 1];
                    next[at as usize] += 1;
                }
            }
        }
        Some(path)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::link::{Condition, Link, LinkShape};
    use super::*;

    /// A graph of groups with these numbers of tasks, under links "all of one before all of the
    /// other" (which become joins) and between pairs of tasks.
    fn graph(counts: &[u32], all: &[(u32, u32)], pairs: &[(u32, u32, u32, u32)]) -> TaskGraph {
        let link = |from, to, shape| Link { from, to, shape, on: Condition::Ok, bytes: 0, span: 0..0 };
        let all = all.iter().map(|&(from, to)| link(from, to, LinkShape::All));
        let pairs = pairs.iter().map(|&(a, i, b, k)| link(a, b, LinkShape::Pairs(vec![(i, k)])));
        TaskGraph::build(counts, &all.chain(pairs).collect::<Vec<_>>()).unwrap()
    }

    /// The heaviest set of tasks none of which is before another, by trying all.
    fn heaviest(graph: &TaskGraph, weight: &[u64]) -> u64 {
        let tasks = graph.task_count();
        let mut before = vec![0u32; tasks];
        for task in graph.topological().iter().filter(|&node| (node as usize) < tasks) {
            for earlier in graph.tasks_before(TaskId(task)) {
                before[task as usize] |= before[earlier.index()] | 1 << earlier.0;
            }
        }
        let is_antichain = |set: &u32| (0..tasks).all(|task| set >> task & 1 == 0 || before[task] & set == 0);
        let weigh = |set: u32| (0..tasks).filter(|task| set >> task & 1 == 1).map(|task| weight[task]).sum();
        (0..1u32 << tasks).filter(is_antichain).map(weigh).max().unwrap_or(0)
    }

    proptest! {
        #[test]
        fn it_is_the_heaviest_antichain(
            counts in proptest::collection::vec(1u32..4, 1..5),
            all in proptest::collection::vec((0u32..5, 0u32..5), 0..3),
            pairs in proptest::collection::vec((0u32..5, 0u32..3, 0u32..5, 0u32..3), 0..12),
            weights in proptest::collection::vec(1u64..5, 12),
        ) {
            let n = counts.len() as u32;
            let all: Vec<_> = all.into_iter().filter(|(a, b)| a < b && *b < n).collect();
            let fits = |&(a, i, b, k): &(u32, u32, u32, u32)| {
                a < b && b < n && i < counts[a as usize] && k < counts[b as usize]
            };
            let pairs: Vec<_> = pairs.into_iter().filter(fits).collect();
            let graph = graph(&counts, &all, &pairs);
            let weight = |task: TaskId| weights[task.index()];
            let cover = Cover::first(&graph, &weight);
            let exact = heaviest(&graph, &weights);
            prop_assert_eq!(graph.max_at_once(&weight), exact);
            prop_assert!(cover.chains() >= exact);
            // A reduction that is broken off still bounds it.
            for effort in [0, 10, 50, 200] {
                prop_assert!(cover.chains() - Residual::of(&graph, &cover).reduce(effort) >= exact);
            }
        }
    }

    #[test]
    fn levels_are_no_bound() {
        // A long task beside a chain whose last member has three successors: the widest level has
        // three tasks, and four run at once.
        let graph = graph(&[1, 1, 1, 3], &[(1, 2), (2, 3)], &[]);
        assert_eq!(graph.max_at_once(&|_| 1), 4);
        assert_eq!(graph.max_at_once(&|task| if task.0 == 0 { 8 } else { 1 }), 11);
    }

    #[test]
    fn arrays_in_stages_need_one_pass() {
        // 100,000 chains of three, and a task after all.
        let n = 100_000;
        let stage = |from| Link {
            from,
            to: from + 1,
            shape: LinkShape::Pairs((0..n).map(|i| (i, i)).collect()),
            on: Condition::Ok,
            bytes: 0,
            span: 0..0,
        };
        let last = Link { from: 2, to: 3, shape: LinkShape::All, on: Condition::Ok, bytes: 0, span: 0..0 };
        let graph = TaskGraph::build(&[n, n, n, 1], &[stage(0), stage(1), last]).unwrap();
        assert_eq!(graph.max_at_once(&|_| 1), u64::from(n));
    }
}
