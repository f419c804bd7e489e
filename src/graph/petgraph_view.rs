//! Implements petgraph's traits for the task graph, so that its algorithms run on our storage
//! without a copy.

use std::iter::Map;
use std::ops::Range;
use std::slice::Iter;

use petgraph::Direction;
use petgraph::algo::toposort;
use petgraph::visit::{
    GraphBase, GraphRef, IntoNeighbors, IntoNeighborsDirected, IntoNodeIdentifiers, NodeCount, NodeIndexable, VisitMap,
    Visitable,
};

use super::{Edge, TaskGraph};

impl GraphBase for TaskGraph {
    type NodeId = u32;
    type EdgeId = u32;
}

impl<'a> IntoNeighbors for &'a TaskGraph {
    type Neighbors = Map<Iter<'a, u32>, fn(&u32) -> u32>;

    fn neighbors(self, node: u32) -> Self::Neighbors {
        self.neighbors_directed(node, Direction::Outgoing)
    }
}

impl<'a> IntoNeighborsDirected for &'a TaskGraph {
    type NeighborsDirected = Map<Iter<'a, u32>, fn(&u32) -> u32>;

    fn neighbors_directed(self, node: u32, direction: Direction) -> Self::NeighborsDirected {
        let row = match direction {
            Direction::Outgoing => self.successors.row(node as usize),
            Direction::Incoming => self.predecessor_rows().row(node as usize),
        };
        row.iter().map(|&raw| Edge::from_raw(raw).node())
    }
}

impl IntoNodeIdentifiers for &TaskGraph {
    type NodeIdentifiers = Range<u32>;

    fn node_identifiers(self) -> Range<u32> {
        0..self.node_count() as u32
    }
}

impl NodeCount for TaskGraph {
    fn node_count(&self) -> usize {
        TaskGraph::node_count(self)
    }
}

impl NodeIndexable for TaskGraph {
    fn node_bound(&self) -> usize {
        TaskGraph::node_count(self)
    }

    fn to_index(&self, node: u32) -> usize {
        node as usize
    }

    fn from_index(&self, index: usize) -> u32 {
        index as u32
    }
}

/// The set of visited nodes of a traversal.
pub struct Visited(Vec<bool>);

impl VisitMap<u32> for Visited {
    fn visit(&mut self, node: u32) -> bool {
        !std::mem::replace(&mut self.0[node as usize], true)
    }

    fn is_visited(&self, node: &u32) -> bool {
        self.0[*node as usize]
    }

    fn unvisit(&mut self, node: u32) -> bool {
        std::mem::replace(&mut self.0[node as usize], false)
    }
}

impl Visitable for TaskGraph {
    type Map = Visited;

    fn visit_map(&self) -> Visited {
        Visited(vec![false; self.node_count()])
    }

    fn reset_map(&self, map: &mut Visited) {
        map.0.fill(false);
    }
}

impl TaskGraph {
    /// The nodes of a shortest cycle in order of dependency, if there is a cycle.
    pub(super) fn find_cycle(&self) -> Option<Vec<u32>> {
        // petgraph returns one node of a cycle; a breadth-first search from it back to itself finds
        // the shortest cycle through it.
        let named = toposort(self, None).err()?.node_id();
        self.cycle_through(named).or_else(|| (0..self.node_count() as u32).find_map(|node| self.cycle_through(node)))
    }

    fn cycle_through(&self, start: u32) -> Option<Vec<u32>> {
        let mut came_from = vec![u32::MAX; self.node_count()];
        let mut queue = std::collections::VecDeque::from([start]);
        while let Some(node) = queue.pop_front() {
            for next in self.neighbors(node) {
                if next == start {
                    return Some(walk_back(&came_from, start, node));
                }
                if came_from[next as usize] == u32::MAX {
                    came_from[next as usize] = node;
                    queue.push_back(next);
                }
            }
        }
        None
    }
}

fn walk_back(came_from: &[u32], start: u32, last: u32) -> Vec<u32> {
    let mut path = vec![last];
    while path[path.len() - 1] != start {
        path.push(came_from[path[path.len() - 1] as usize]);
    }
    path.reverse();
    path
}

const _: fn() = || {
    fn is_graph_ref<G: GraphRef>() {}
    is_graph_ref::<&TaskGraph>();
};
