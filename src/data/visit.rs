//! A rank's part of a graph for petgraph's algorithms: its own vertices and their outgoing edges.
//!
//! On one rank this is the whole graph. On several, neighbours may be vertices of other ranks,
//! which have no neighbours here.

use std::collections::HashSet;

use petgraph::visit::{GraphBase, GraphProp, IntoNeighbors, IntoNodeIdentifiers, NodeCount, NodeIndexable, Visitable};

use super::Vertex;
use super::part::GraphPart;

impl GraphBase for GraphPart {
    type NodeId = Vertex;
    type EdgeId = (Vertex, Vertex);
}

impl GraphProp for GraphPart {
    type EdgeType = petgraph::Directed;

    fn is_directed(&self) -> bool {
        GraphPart::is_directed(self)
    }
}

impl NodeCount for GraphPart {
    fn node_count(&self) -> usize {
        self.own().len()
    }
}

impl NodeIndexable for GraphPart {
    fn node_bound(&self) -> usize {
        self.vertices() as usize
    }

    fn to_index(&self, vertex: Vertex) -> usize {
        vertex as usize
    }

    fn from_index(&self, index: usize) -> Vertex {
        index as Vertex
    }
}

impl IntoNodeIdentifiers for &GraphPart {
    type NodeIdentifiers = std::ops::Range<Vertex>;

    fn node_identifiers(self) -> std::ops::Range<Vertex> {
        self.own()
    }
}

impl<'a> IntoNeighbors for &'a GraphPart {
    type Neighbors = std::iter::Copied<std::slice::Iter<'a, Vertex>>;

    fn neighbors(self, vertex: Vertex) -> Self::Neighbors {
        let row: &[Vertex] = if self.own().contains(&vertex) { self.outgoing().row(vertex) } else { &[] };
        row.iter().copied()
    }
}

impl Visitable for GraphPart {
    type Map = HashSet<Vertex>;

    fn visit_map(&self) -> HashSet<Vertex> {
        HashSet::new()
    }

    fn reset_map(&self, map: &mut HashSet<Vertex>) {
        map.clear();
    }
}

#[cfg(test)]
mod tests {
    use crate::data::exchange::SingleRank;
    use crate::data::generate::{GeneratedKind, Generator};

    #[test]
    fn petgraph_walks_over_it() {
        let grid = Generator { kind: GeneratedKind::Grid, scale: 6, degree: 4, seed: 1 };
        let part = grid.part(&mut SingleRank::unstoppable(), None).unwrap();
        let mut search = petgraph::visit::Bfs::new(&part, 9);
        assert_eq!(std::iter::from_fn(|| search.next(&part)).count(), 64);
    }
}
