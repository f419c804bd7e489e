//! Cuts the graph into the parts of the ranks.
//!
//! Nodes that have ended (in an earlier session, or before an epoch) are in no part: their edges
//! are counted here, once, before anything is sent.
//!
//! Each part takes one pass over its own nodes and its imports, so all parts together cost a few
//! passes over the edges, whatever the number of ranks.

use rustc_hash::{FxHashMap, FxHashSet};

use crate::graph::csr::{Csr, PairSource};
use crate::graph::{Edge, TaskGraph};

use super::dependency_counts::End;
use super::homes::NOWHERE;
use super::part::Part;

/// Up to this number of ranks, each part scans all edges of its imports.
const MAX_RANKS_SCANNED: usize = 16;

/// Nodes with more edges than this are *wide*: their edges are sorted by rank once.
const MIN_WIDE_EDGES: usize = 64;

/// Cuts parts one at a time, so that rank 0 never holds all of them.
pub struct PartBuilder<'a> {
    graph: &'a TaskGraph,
    home: &'a [u32],
    urgency: &'a [u8],
    ended: &'a dyn Fn(u32) -> Option<bool>,
    /// The nodes of each rank.
    by_rank: Csr,
    /// Each node's position among those of its rank.
    local: Vec<u32>,
    /// For each rank, the nodes elsewhere that its nodes need.
    imports: Csr,
    /// With many ranks, for wide nodes: the edges by receiving rank. Otherwise each part would scan
    /// all of them.
    wide: FxHashMap<u32, Vec<(u32, u32)>>,
    /// Open nodes with a violated edge; ascending.
    violated: Vec<u32>,
}

impl<'a> PartBuilder<'a> {
    /// Prepares to cut parts for `ranks` ranks. `ended(node)`: for a node that has ended, whether
    /// it completed.
    pub fn new(
        graph: &'a TaskGraph,
        home: &'a [u32],
        urgency: &'a [u8],
        ranks: usize,
        ended: &'a dyn Fn(u32) -> Option<bool>,
    ) -> PartBuilder<'a> {
        let nodes = 0..graph.node_count() as u32;
        let open = || nodes.clone().filter(|&node| ended(node).is_none());
        // Nodes, and edges between ranks, are fewer than the nodes and edges of the graph: never
        // too many for a table.
        let rows = |each: &mut PairSource<'_>| Csr::build(ranks, each).unwrap_or_default();
        let by_rank = rows(&mut |put| open().for_each(|n| put(home[n as usize], n)));
        let mut next = vec![0; ranks];
        let mut local = vec![u32::MAX; nodes.len()];
        for node in open() {
            let next = &mut next[home[node as usize] as usize];
            local[node as usize] = *next;
            *next += 1;
        }
        let against = |node: u32, ok: bool| graph.successors(node).filter(move |edge| edge.violated_by(ok));
        let mut violated: Vec<u32> = nodes
            .clone()
            .filter_map(|node| Some(against(node, ended(node)?)))
            .flatten()
            .map(Edge::node)
            .filter(|&node| ended(node).is_none())
            .collect();
        violated.sort_unstable();
        violated.dedup();
        let mut cutter = PartBuilder {
            graph,
            home,
            urgency,
            ended,
            by_rank,
            local,
            imports: Csr::default(),
            wide: FxHashMap::default(),
            violated,
        };
        cutter.sort_wide(ranks);
        if ranks > 1 {
            cutter.imports = rows(&mut |put| {
                let mut seen = Seen::new(ranks);
                open().for_each(|node| cutter.each_other(node, &mut seen, |rank| put(rank, node)));
            });
        }
        cutter
    }

    /// The part of one rank.
    pub fn part(&self, rank: usize) -> Part {
        let (nodes, imports) = (self.by_rank.row(rank), self.imports.row(rank));
        let here = |node: u32| self.open_successors(node).filter(|e| self.home[e.node() as usize] as usize == rank);
        let edges = |nodes: &[u32]| -> Csr {
            let most = nodes.iter().map(|&node| self.width(node, rank)).sum();
            Csr::in_order(nodes.len(), most, |i, out| match self.wide.get(&nodes[i as usize]) {
                Some(edges) => out.extend(of_rank(edges, rank).iter().map(|&(_, edge)| edge)),
                None => {
                    out.extend(here(nodes[i as usize]).map(|e| Edge::new(self.local[e.node() as usize], e.on()).raw()));
                }
            })
        };
        let join = |(i, &node): (usize, &u32)| self.graph.join(node).map(|rule| (i as u32, rule));
        let at_home = |&&node: &&u32| self.home[node as usize] as usize == rank;
        Part {
            nodes: nodes.iter().copied().collect(),
            joins: nodes.iter().enumerate().filter_map(join).collect(),
            urgency: nodes.iter().map(|&n| self.urgency[n as usize]).collect(),
            violated: self.violated.iter().filter(at_home).map(|&n| self.local[n as usize]).collect(),
            local: edges(nodes),
            exports: self.exports(nodes),
            imports: imports.iter().copied().collect(),
            imported: edges(imports),
        }
    }

    /// Sorts the edges of wide nodes by rank.
    fn sort_wide(&mut self, ranks: usize) {
        if ranks <= MAX_RANKS_SCANNED {
            return;
        }
        let wide = |node: &u32| self.graph.successors(*node).len() > MIN_WIDE_EDGES;
        for node in (0..self.graph.node_count() as u32).filter(wide) {
            let edge = |e: Edge| {
                let to = e.node() as usize;
                (self.home[to], Edge::new(self.local[to], e.on()).raw())
            };
            let mut edges: Vec<(u32, u32)> = self.open_successors(node).map(edge).collect();
            // Stable: edges to one rank keep their order.
            edges.sort_by_key(|edge| edge.0);
            self.wide.insert(node, edges);
        }
    }

    /// An upper bound on the edges from a node to a rank.
    fn width(&self, node: u32, rank: usize) -> usize {
        self.wide.get(&node).map_or_else(|| self.graph.successors(node).len(), |edges| of_rank(edges, rank).len())
    }

    /// Successors of a node that have not ended. Some may have: a task can have run because a
    /// predecessor failed that now runs again.
    fn open_successors(&self, node: u32) -> impl Iterator<Item = Edge> + '_ {
        self.graph.successors(node).filter(|e| (self.ended)(e.node()).is_none())
    }

    /// Calls `visit` for each rank, other than the node's home, that needs a node: each once,
    /// ascending.
    fn each_other(&self, node: u32, seen: &mut Seen, mut visit: impl FnMut(u32)) {
        let own = self.home[node as usize];
        seen.found.clear();
        for rank in self.open_successors(node).map(|e| self.home[e.node() as usize]).filter(|&rank| rank != own) {
            // Stored numbers start at 1, so that 0 means none.
            if std::mem::replace(&mut seen.by[rank as usize], node + 1) != node + 1 {
                seen.found.push(rank);
            }
        }
        seen.found.sort_unstable();
        seen.found.iter().for_each(|&rank| visit(rank));
    }

    /// From each node to the other ranks that need it.
    fn exports(&self, nodes: &[u32]) -> Csr {
        if self.imports.is_empty() {
            return Csr::in_order(nodes.len(), 0, |_, _| {});
        }
        let mut seen = Seen::new(self.by_rank.rows());
        let most = self.imports.len().min(nodes.len() * (self.by_rank.rows() - 1));
        Csr::in_order(nodes.len(), most, |i, out| {
            self.each_other(nodes[i as usize], &mut seen, |rank| out.push(rank));
        })
    }
}

/// The edges to one rank, from edges sorted by rank.
fn of_rank(edges: &[(u32, u32)], rank: usize) -> &[(u32, u32)] {
    let from = edges.partition_point(|edge| (edge.0 as usize) < rank);
    let to = edges.partition_point(|edge| edge.0 as usize <= rank);
    &edges[from..to]
}

/// Marks the ranks already found to need a node.
struct Seen {
    /// For each rank the last node (plus 1) that it was found to need.
    by: Vec<u32>,
    found: Vec<u32>,
}

impl Seen {
    fn new(ranks: usize) -> Seen {
        Seen { by: vec![0; ranks], found: Vec::new() }
    }
}

/// Cuts parts of given nodes, in time proportional to the nodes and their edges.
pub(super) struct Pieces<'a> {
    graph: &'a TaskGraph,
    home: &'a [u32],
    urgency: &'a [u8],
    ends: &'a [Option<End>],
    /// Open tasks that have begun. They do not wait for their predecessors: those had ended, even
    /// if they are open again.
    begun: &'a FxHashSet<u32>,
}

impl<'a> Pieces<'a> {
    pub(super) fn new(
        graph: &'a TaskGraph,
        home: &'a [u32],
        urgency: &'a [u8],
        ends: &'a [Option<End>],
        begun: &'a FxHashSet<u32>,
    ) -> Pieces<'a> {
        Pieces { graph, home, urgency, ends, begun }
    }

    /// The part of these open nodes (ascending), at home on `rank`. `local` must hold `u32::MAX`
    /// for each node of the graph.
    pub(super) fn piece(&self, rank: u32, nodes: &[u32], local: &mut [u32]) -> Part {
        for (at, &node) in (0..).zip(nodes) {
            local[node as usize] = at;
        }
        let waiting = |node: u32| self.graph.successors(node).filter(|edge| self.waits(edge.node()));
        let most = nodes.iter().map(|&node| self.graph.successors(node).len()).sum();
        let edges = Csr::in_order(nodes.len(), most, |i, out| {
            let here = waiting(nodes[i as usize]).filter(|edge| local[edge.node() as usize] != u32::MAX);
            out.extend(here.map(|edge| Edge::new(local[edge.node() as usize], edge.on()).raw()));
        });
        let exports = Csr::in_order(nodes.len(), most, |i, out| {
            let elsewhere = waiting(nodes[i as usize]).map(|edge| self.home[edge.node() as usize]);
            let mut ranks: Vec<u32> = elsewhere.filter(|&at| at != rank && at != NOWHERE).collect();
            ranks.sort_unstable();
            ranks.dedup();
            out.append(&mut ranks);
        });
        let (mut needed, mut violated) = (Vec::new(), Vec::new());
        for (at, &node) in (0..).zip(nodes).filter(|(_, node)| !self.begun.contains(node)) {
            for edge in self.graph.predecessors(node) {
                match self.ends[edge.node() as usize] {
                    None if local[edge.node() as usize] == u32::MAX => {
                        needed.push((edge.node(), Edge::new(at, edge.on()).raw()));
                    }
                    Some(end) if edge.violated_by(end.ok()) => violated.push(at),
                    _ => {}
                }
            }
        }
        violated.dedup();
        needed.sort_by_key(|needed| needed.0);
        let rows: Vec<&[(u32, u32)]> = needed.chunk_by(|a, b| a.0 == b.0).collect();
        let join = |(at, &node): (u32, &u32)| self.graph.join(node).map(|rule| (at, rule));
        let part = Part {
            nodes: nodes.iter().copied().collect(),
            joins: (0..).zip(nodes).filter_map(join).collect(),
            urgency: nodes.iter().map(|&node| self.urgency[node as usize]).collect(),
            violated,
            local: edges,
            exports,
            imports: rows.iter().map(|row| row[0].0).collect(),
            imported: Csr::in_order(rows.len(), needed.len(), |at, out| {
                out.extend(rows[at as usize].iter().map(|needed| needed.1));
            }),
        };
        nodes.iter().for_each(|&node| local[node as usize] = u32::MAX);
        part
    }

    /// True for a node that waits for its open predecessors.
    fn waits(&self, node: u32) -> bool {
        self.ends[node as usize].is_none() && !self.begun.contains(&node)
    }
}
