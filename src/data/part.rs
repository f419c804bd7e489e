//! One rank's part of a graph, and the ownership of vertices.
//!
//! Ranges are cut to balance the sum of out-degree + 8 (ranks - 1) per vertex (Zhu et al., Gemini,
//! OSDI 2016, section 4.1).

use std::ops::Range;
use std::sync::Arc;

use rayon::prelude::*;
use xxhash_rust::xxh3::xxh3_64;

use super::exchange::{Exchange, gather, pack, push, smallest, sum, sum_arrays, unpack};
use super::ids::VertexIds;
use super::rows::{EdgeList, Rows};
use super::source::WeightSource;
use super::{DataGraphError, Vertex};

/// Largest number of edges in one message while a graph is distributed. Larger graphs take several
/// rounds.
const EDGES_PER_ROUND: usize = 1 << 24;

/// Divides the vertices among the ranks.
pub trait RangePartition {
    /// Returns `ranks + 1` ascending vertices, from 0 to the number of vertices, between which the
    /// ranges lie.
    fn cuts(&self, out_degrees: &[u32], ranks: usize) -> Vec<Vertex>;
}

/// Contiguous ranges with equal sums of out-degree + 8 (ranks - 1) per vertex.
#[derive(Clone, Copy, Debug, Default)]
pub struct EvenRanges;

impl RangePartition for EvenRanges {
    fn cuts(&self, out_degrees: &[u32], ranks: usize) -> Vec<Vertex> {
        let each = 8 * (ranks as u64 - 1);
        let total: u64 = out_degrees.iter().map(|&degree| u64::from(degree) + each).sum();
        let mut cuts = vec![0];
        let mut sum = 0;
        for (vertex, &degree) in out_degrees.iter().enumerate() {
            while cuts.len() < ranks && sum * ranks as u64 >= total * cuts.len() as u64 && sum > 0 {
                cuts.push(vertex as Vertex);
            }
            sum += u64::from(degree) + each;
        }
        cuts.resize(ranks + 1, out_degrees.len() as Vertex);
        cuts
    }
}

/// One rank's part of one version of a graph. Cheap to clone.
#[derive(Clone, Debug)]
pub struct GraphPart {
    ids: Arc<VertexIds>,
    cuts: Arc<[Vertex]>,
    place: usize,
    directed: bool,
    version: u64,
    out: Rows,
    /// Incoming edges, only for directed graphs.
    into: Option<Rows>,
    edges: u64,
    /// The source of the weights of edges.
    weight_source: Option<WeightSource>,
}

/// An edge (source, target) of an undirected graph that its other end does not have in this way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OneSided {
    /// There is none in the opposite direction.
    Missing((Vertex, Vertex)),
    /// That one has another weight.
    Unequal((Vertex, Vertex)),
}

impl GraphPart {
    /// Distributes a graph over the ranks. Every rank passes the edges that it has read; each edge
    /// of an undirected graph is passed once.
    ///
    /// # Errors
    /// If communication fails.
    pub fn build(
        exchange: &mut dyn Exchange,
        ids: VertexIds,
        mut edges: EdgeList,
        directed: bool,
    ) -> Result<GraphPart, DataGraphError> {
        if !directed {
            edges.mirror();
        }
        GraphPart::build_mirrored(exchange, ids, edges, directed)
    }

    /// As [`GraphPart::build`], with the edges of undirected graphs passed in both directions.
    ///
    /// # Errors
    /// If communication fails.
    pub fn build_mirrored(
        exchange: &mut dyn Exchange,
        ids: VertexIds,
        edges: EdgeList,
        directed: bool,
    ) -> Result<GraphPart, DataGraphError> {
        let (ranks, place, count) = (exchange.ranks(), exchange.place(), ids.count() as usize);
        let cuts: Arc<[Vertex]> = if ranks == 1 {
            [0, count as Vertex].into()
        } else {
            let mut degrees = vec![0u32; count];
            edges.ends.iter().for_each(|&(u, _)| degrees[u as usize] += 1);
            sum_arrays(exchange, &mut degrees)?;
            EvenRanges.cuts(&degrees, ranks).into()
        };
        let own = cuts[place]..cuts[place + 1];
        let rows = |edges: &EdgeList| Rows::build(own.start, own.len(), edges);
        let (out, into) = if ranks == 1 {
            (rows(&edges), directed.then(|| rows(&edges.turned())))
        } else {
            let turned = directed.then(|| edges.turned());
            let out = rows(&to_owners(exchange, &cuts, edges)?);
            let into = match turned {
                Some(turned) => Some(rows(&to_owners(exchange, &cuts, turned)?)),
                None => None,
            };
            (out, into)
        };
        let (ids, weight_source) = (Arc::new(ids), None);
        let part = GraphPart { ids, cuts, place, directed, version: 1, out, into, edges: 0, weight_source };
        part.counted(exchange)
    }

    /// The first edge (source, target) without one of the same weight in the opposite direction.
    ///
    /// # Errors
    /// If communication fails.
    pub fn one_sided(&self, exchange: &mut dyn Exchange) -> Result<Option<OneSided>, DataGraphError> {
        let rows = &self.out;
        let turned = |v: Vertex| {
            let weights = rows.row_weights(v);
            rows.row(v).iter().enumerate().map(move |(at, &to)| ((to, v), weights.get(at)))
        };
        // Edges and turned edges are equal sets if their fingerprints are, but for one set in 2^64.
        let mark = |(u, v): (Vertex, Vertex), weight: f64| {
            let ends = u64::from(u) << 32 | u64::from(v);
            xxh3_64(&(u128::from(ends) << 64 | u128::from(weight.to_bits())).to_le_bytes())
        };
        let differs = |v: Vertex| {
            turned(v).fold(0u64, |sum, ((to, v), weight)| {
                sum.wrapping_add(mark((to, v), weight)).wrapping_sub(mark((v, to), weight))
            })
        };
        let own = self.own().into_par_iter().map(differs).reduce(|| 0, u64::wrapping_add);
        let all = gather(exchange, pack([own]))?;
        let mut differs = 0u64;
        for bytes in &all {
            differs = unpack::<u64>(bytes)?.fold(differs, u64::wrapping_add);
        }
        if differs == 0 {
            return Ok(None);
        }
        let (ends, weights) = self.own().flat_map(turned).unzip();
        let asked = to_owners(exchange, &self.cuts, EdgeList { ends, weights: Some(weights) })?;
        let (mut missing, mut unequal) = (u64::MAX, u64::MAX);
        for (&(to, v), weight) in asked.ends.iter().zip(asked.weights.iter().flatten()) {
            let edge = u64::from(v) << 32 | u64::from(to);
            match rows.row(to).binary_search(&v) {
                Err(_) => missing = missing.min(edge),
                Ok(at) if rows.row_weights(to).get(at) != *weight => unequal = unequal.min(edge),
                Ok(_) => {}
            }
        }
        let ends = |edge: u64| ((edge >> 32) as Vertex, edge as Vertex);
        Ok(match smallest(exchange, [missing, unequal])? {
            [u64::MAX, u64::MAX] => None,
            [u64::MAX, edge] => Some(OneSided::Unequal(ends(edge))),
            [edge, _] => Some(OneSided::Missing(ends(edge))),
        })
    }

    /// Makes a graph from rows that are already distributed.
    ///
    /// # Errors
    /// If communication fails.
    pub fn from_rows(
        exchange: &mut dyn Exchange,
        ids: VertexIds,
        cuts: Vec<Vertex>,
        out: Rows,
        into: Option<Rows>,
    ) -> Result<GraphPart, DataGraphError> {
        let (place, directed) = (exchange.place(), into.is_some());
        let (ids, cuts, weight_source) = (Arc::new(ids), cuts.into(), None);
        let part = GraphPart { ids, cuts, place, directed, version: 1, out, into, edges: 0, weight_source };
        part.counted(exchange)
    }

    /// The same part, with the source of its weights: edges that are inserted later are weighed
    /// as those that were loaded.
    pub fn with_weight_source(self, weight_source: Option<WeightSource>) -> GraphPart {
        GraphPart { weight_source, ..self }
    }

    /// The weights of edges that are inserted, `None` if edges have none: drawn as those of the
    /// edges that were loaded if these were drawn, else the weights that are given, else 1.
    pub fn weights_of(&self, ends: &[(u64, u64)], given: Option<Vec<f64>>) -> Option<Vec<f64>> {
        let weights = match self.weight_source.and_then(WeightSource::draw) {
            Some(draw) => ends.iter().map(|&(u, v)| draw(u, v)).collect(),
            None => given.unwrap_or_else(|| vec![1.0; ends.len()]),
        };
        self.is_weighted().then_some(weights)
    }

    /// Fills in the number of edges over all ranks. An undirected edge counts once, although both
    /// ends hold it.
    fn counted(mut self, exchange: &mut dyn Exchange) -> Result<GraphPart, DataGraphError> {
        let loops = if self.directed { 0 } else { self.own().filter(|&v| self.has_loop(v)).count() as u64 };
        let [edges, loops] = sum(exchange, [self.out.edges(), loops])?;
        self.edges = if self.directed { edges } else { (edges + loops) / 2 };
        Ok(self)
    }

    /// True if this own vertex has a loop.
    pub fn has_loop(&self, vertex: Vertex) -> bool {
        self.out.row(vertex).binary_search(&vertex).is_ok()
    }

    /// Makes a version with edges inserted (`insert`) or deleted. Every rank passes the edges that
    /// it has read. Edges that are there or gone already change nothing; of duplicates, which
    /// include both directions of an undirected edge, the lightest is inserted. Returns the
    /// version, and the number of edges that were actually inserted or deleted.
    ///
    /// # Errors
    /// If communication fails.
    pub fn changed(
        &self,
        exchange: &mut dyn Exchange,
        mut edges: EdgeList,
        insert: bool,
    ) -> Result<(GraphPart, u64), DataGraphError> {
        if !self.directed {
            edges.mirror();
        }
        let turned = self.directed.then(|| edges.turned());
        let apply = |rows: &Rows, edges: &EdgeList| if insert { rows.insert(edges).0 } else { rows.delete(edges).0 };
        let out = apply(&self.out, &to_owners(exchange, &self.cuts, edges)?);
        let into = match (&self.into, turned) {
            (Some(into), Some(turned)) => Some(apply(into, &to_owners(exchange, &self.cuts, turned)?)),
            _ => None,
        };
        let next = GraphPart { out, into, version: self.version + 1, ..self.clone() }.counted(exchange)?;
        let count = next.edges.abs_diff(self.edges);
        Ok((next, count))
    }

    /// The ids of all vertices.
    pub fn ids(&self) -> &VertexIds {
        &self.ids
    }

    /// Number of vertices of the graph.
    pub fn vertices(&self) -> Vertex {
        self.ids.count()
    }

    /// Number of edges of the graph; an undirected edge counts once.
    pub fn edges(&self) -> u64 {
        self.edges
    }

    /// True if edges have a direction.
    pub fn is_directed(&self) -> bool {
        self.directed
    }

    /// True if edges have weights.
    pub fn is_weighted(&self) -> bool {
        self.out.is_weighted()
    }

    /// Version of the graph: 1 after loading, incremented by each batch of changes.
    pub fn version(&self) -> u64 {
        self.version
    }

    /// The vertices of this rank.
    pub fn own(&self) -> Range<Vertex> {
        self.cuts[self.place]..self.cuts[self.place + 1]
    }

    /// Start of each rank's range, and end of the last.
    pub fn cuts(&self) -> &[Vertex] {
        &self.cuts
    }

    /// The rank that owns a vertex.
    #[inline]
    pub fn owner(&self, vertex: Vertex) -> usize {
        match &*self.cuts {
            [_, _] => 0,
            cuts => cuts.partition_point(|&cut| cut <= vertex) - 1,
        }
    }

    /// Edges from the own vertices.
    pub fn outgoing(&self) -> &Rows {
        &self.out
    }

    /// Edges to the own vertices.
    pub fn incoming(&self) -> &Rows {
        self.into.as_ref().unwrap_or(&self.out)
    }

    /// Bytes that each rank would hold if a graph on this rank alone were divided among `ranks`
    /// ranks.
    pub fn bytes_on(&self, ranks: usize) -> Vec<u64> {
        let degrees: Vec<u32> = self.own().map(|v| self.out.degree(v) as u32).collect();
        let each = if self.is_weighted() { 8 } else { 4 };
        let rows = |rows: &Rows, from: Vertex, to: Vertex| {
            (from..to).map(|v| 8 + each * rows.degree(v) as u64).sum::<u64>() + 8
        };
        let cuts = EvenRanges.cuts(&degrees, ranks);
        let of = |range: &[Vertex]| {
            let into = self.into.as_ref().map_or(0, |into| rows(into, range[0], range[1]));
            rows(&self.out, range[0], range[1]) + into + self.ids.bytes()
        };
        cuts.windows(2).map(of).collect()
    }

    /// Memory of this rank's part in bytes.
    pub fn bytes(&self) -> u64 {
        self.out.bytes() + self.into.as_ref().map_or(0, Rows::bytes) + self.ids.bytes()
    }
}

/// Sends each edge to the owner of its source.
fn to_owners(exchange: &mut dyn Exchange, cuts: &[Vertex], edges: EdgeList) -> Result<EdgeList, DataGraphError> {
    let (ranks, place) = (exchange.ranks(), exchange.place());
    if ranks == 1 {
        return Ok(edges);
    }
    let [rounds] = super::exchange::largest(exchange, [edges.ends.len().div_ceil(EDGES_PER_ROUND) as u64])?;
    let [weighted] = super::exchange::largest(exchange, [u64::from(edges.weights.is_some())])?;
    let mut own = EdgeList { ends: Vec::new(), weights: (weighted == 1).then(Vec::new) };
    for round in 0..rounds as usize {
        let range = edges.ends.len().min(round * EDGES_PER_ROUND)..edges.ends.len().min((round + 1) * EDGES_PER_ROUND);
        let mut ends: Vec<Vec<(Vertex, Vertex)>> = vec![Vec::new(); ranks];
        let mut weights: Vec<Vec<f64>> = vec![Vec::new(); ranks];
        for at in range {
            let (u, v) = edges.ends[at];
            let owner = cuts.partition_point(|&cut| cut <= u) - 1;
            let weight = edges.weights.as_ref().map_or(1.0, |weights| weights[at]);
            if owner == place {
                own.ends.push((u, v));
                if let Some(own) = &mut own.weights {
                    own.push(weight);
                }
            } else {
                ends[owner].push((u, v));
                if weighted == 1 {
                    weights[owner].push(weight);
                }
            }
        }
        own.ends.extend(push(exchange, ends)?.into_iter().flatten());
        if let Some(own) = &mut own.weights {
            own.extend(push(exchange, weights)?.into_iter().flatten());
        }
    }
    Ok(own)
}

#[cfg(test)]
mod tests {
    use super::{EvenRanges, RangePartition};

    #[test]
    fn ranges_cover_all_vertices_and_share_the_work() {
        let degrees: Vec<u32> = (0..1000).map(|v| v % 50).collect();
        for ranks in 1..9 {
            let cuts = EvenRanges.cuts(&degrees, ranks);
            assert_eq!((cuts.len(), cuts[0], cuts[ranks]), (ranks + 1, 0, 1000));
            assert!(cuts.is_sorted());
            let work = |r: usize| (cuts[r]..cuts[r + 1]).map(|v| degrees[v as usize] as u64 + 8 * (ranks as u64 - 1));
            let total: u64 = (0..ranks).flat_map(work).sum();
            for r in 0..ranks {
                let share = work(r).sum::<u64>() * ranks as u64;
                assert!(share.abs_diff(total) < 120 * ranks as u64, "{ranks} {r}");
            }
        }
        assert_eq!(EvenRanges.cuts(&[], 3), [0, 0, 0, 0]);
        assert_eq!(EvenRanges.cuts(&[5], 3), [0, 1, 1, 1]);
    }
}
