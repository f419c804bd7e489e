//! Cuts the graph into the parts that ranks are handed.
//!
//! What has ended (in an earlier session, or before an epoch) is in no part: its edges are counted here, once, before anything is sent.

use crate::graph::csr::Csr;
use crate::graph::{Edge, TaskGraph};

use super::ledger::Part;

/// Makes parts one at a time, so that rank 0 never holds all of them.
pub struct Cutter<'a> {
    graph: &'a TaskGraph,
    home: &'a [u32],
    urgency: &'a [u8],
    ended: &'a dyn Fn(u32) -> Option<bool>,
    /// The nodes of each rank.
    by_rank: Csr,
    /// Each node's position among those of its rank.
    local: Vec<u32>,
}

impl<'a> Cutter<'a> {
    /// Prepares to cut for `ranks` ranks. `ended(node)` tells whether a node that has ended already ended well.
    pub fn new(
        graph: &'a TaskGraph,
        home: &'a [u32],
        urgency: &'a [u8],
        ranks: usize,
        ended: &'a dyn Fn(u32) -> Option<bool>,
    ) -> Cutter<'a> {
        let nodes = graph.node_count() as u32;
        let by_rank = Csr::build(ranks, |put| {
            (0..nodes).filter(|&n| ended(n).is_none()).for_each(|n| put(home[n as usize], n));
        });
        let mut local = vec![u32::MAX; graph.node_count()];
        for rank in 0..ranks {
            by_rank.row(rank).iter().enumerate().for_each(|(i, &n)| local[n as usize] = i as u32);
        }
        Cutter { graph, home, urgency, ended, by_rank, local }
    }

    /// The part of one rank.
    pub fn part(&self, rank: usize) -> Part {
        let nodes = self.by_rank.row(rank).to_vec();
        let rows = nodes.len();
        let at_home = |node: u32| self.home[node as usize] as usize == rank;
        let to_local = |edge: Edge| Edge::new(self.local[edge.node() as usize], edge.on()).raw();
        let local = Csr::build(rows, |put| {
            for (i, &node) in nodes.iter().enumerate() {
                let here = self.open_successors(node).filter(|e| at_home(e.node()));
                here.for_each(|e| put(i as u32, to_local(e)));
            }
        });
        let exports = self.exports(rank, &nodes);
        let (imports, imported) = self.imports(rank, &nodes);
        let mut waits = vec![0; rows];
        for &raw in local.items().iter().chain(imported.items()) {
            waits[Edge::from_raw(raw).node() as usize] += 1;
        }
        let join = |(i, &node): (usize, &u32)| self.graph.join(node).map(|rule| (i as u32, rule));
        Part {
            joins: nodes.iter().enumerate().filter_map(join).collect(),
            urgency: nodes.iter().map(|&n| self.urgency[n as usize]).collect(),
            violated: (0..rows as u32).filter(|&i| self.violated_already(nodes[i as usize])).collect(),
            waits,
            local,
            exports,
            imports,
            imported,
            nodes,
        }
    }

    /// What needs a node and has not ended itself: a task can have run because one before it failed, which now runs again.
    fn open_successors(&self, node: u32) -> impl Iterator<Item = Edge> + '_ {
        self.graph.successors(node).filter(|e| (self.ended)(e.node()).is_none())
    }

    /// True if something that a node needs has ended against it.
    fn violated_already(&self, node: u32) -> bool {
        self.graph.predecessors(node).any(|e| (self.ended)(e.node()).is_some_and(|ok| e.violated_by(ok)))
    }

    /// From each node to the other ranks that need it, each rank once.
    fn exports(&self, rank: usize, nodes: &[u32]) -> Csr {
        let mut pairs = Vec::new();
        let mut ranks = Vec::new();
        for (i, &node) in nodes.iter().enumerate() {
            let elsewhere = self.open_successors(node).map(|e| self.home[e.node() as usize]);
            ranks.extend(elsewhere.filter(|&r| r as usize != rank));
            ranks.sort_unstable();
            ranks.dedup();
            pairs.extend(ranks.drain(..).map(|r| (i as u32, r)));
        }
        Csr::build(nodes.len(), |put| pairs.iter().for_each(|&(i, r)| put(i, r)))
    }

    /// The nodes elsewhere that nodes here still need, and which those are.
    fn imports(&self, rank: usize, nodes: &[u32]) -> (Vec<u32>, Csr) {
        let mut pairs = Vec::new();
        for &node in nodes {
            let awaited = |e: &Edge| self.home[e.node() as usize] as usize != rank && (self.ended)(e.node()).is_none();
            let here = self.local[node as usize];
            let elsewhere = self.graph.predecessors(node).filter(awaited);
            pairs.extend(elsewhere.map(|e| (e.node(), Edge::new(here, e.on()).raw())));
        }
        pairs.sort_unstable_by_key(|p| p.0);
        let mut imports: Vec<u32> = pairs.iter().map(|p| p.0).collect();
        imports.dedup();
        let rows = imports.len();
        let imported = Csr::build(rows, |put| {
            let mut row = 0;
            for &(from, edge) in &pairs {
                while imports[row] != from {
                    row += 1;
                }
                put(row as u32, edge);
            }
        });
        (imports, imported)
    }
}
