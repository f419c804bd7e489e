//! Shortest paths by delta-stepping (Meyer and Sanders, J. Algorithms 49, 2003), with GAP's bucket
//! fusion (Zhang et al., CGO 2020, section 3.3): a thread continues with new entries of the current
//! bucket while they are few.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use rayon::prelude::*;

use crate::data::exchange::{Exchange, combine, push, smallest, sum};
use crate::data::part::GraphPart;
use crate::data::{DataGraphError, Vertex};

/// A thread keeps new entries of the current bucket to itself while they are fewer than this.
const MAX_FUSED_ENTRIES: usize = 1000;

/// Buckets after the current one that have lists of their own.
const NEAR_BUCKETS: usize = 64;

/// Smallest number of bucket entries per unit of parallel work.
const MIN_ENTRIES_PER_UNIT: usize = 64;

/// The result of a search.
pub struct Distances {
    /// The distance of each own vertex; infinite if it cannot be reached.
    pub distances: Vec<f64>,
    /// Number of vertices reached in the whole graph.
    pub reached: u64,
}

struct SsspSearch<'a> {
    part: &'a GraphPart,
    /// Number of buckets per unit of distance.
    buckets: f64,
    /// Distances of own vertices as bit patterns of non-negative numbers, which have the same
    /// order.
    own: Vec<AtomicU64>,
    /// The smallest distances that this rank has sent to the owners of other vertices; empty with
    /// one rank.
    sent: Vec<AtomicU64>,
}

/// The result of one unit of work.
struct RelaxedEdges {
    near: Vec<Vec<Vertex>>,
    far: Vec<(u64, Vertex)>,
    remote: Vec<Vec<(Vertex, f64)>>,
}

fn lower(place: &AtomicU64, bits: u64) -> bool {
    let mut old = place.load(Relaxed);
    while bits < old {
        match place.compare_exchange_weak(old, bits, Relaxed, Relaxed) {
            Ok(_) => return true,
            Err(now) => old = now,
        }
    }
    false
}

impl SsspSearch<'_> {
    fn bucket(&self, distance: f64) -> u64 {
        (distance * self.buckets) as u64
    }

    fn relax(&self, bucket: u64, v: Vertex, found: &mut RelaxedEdges) {
        let range = self.part.own();
        let distance = f64::from_bits(self.own[(v - range.start) as usize].load(Relaxed));
        // The distance has been lowered and processed since.
        if self.bucket(distance) < bucket {
            return;
        }
        let weights = self.part.outgoing().row_weights(v);
        for (at, &to) in self.part.outgoing().row(v).iter().enumerate() {
            let new = distance + weights.get(at);
            if range.contains(&to) {
                if lower(&self.own[(to - range.start) as usize], new.to_bits()) {
                    let ahead = self.bucket(new) - bucket;
                    match found.near.get_mut(ahead as usize) {
                        Some(list) => list.push(to),
                        None => found.far.push((bucket + ahead, to)),
                    }
                }
            } else if lower(&self.sent[to as usize], new.to_bits()) {
                found.remote[self.part.owner(to)].push((to, new));
            }
        }
    }

    fn work(&self, bucket: u64, piece: &[Vertex], ranks: usize) -> RelaxedEdges {
        let remote = vec![Vec::new(); if ranks == 1 { 0 } else { ranks }];
        let mut found = RelaxedEdges { near: vec![Vec::new(); NEAR_BUCKETS], far: Vec::new(), remote };
        piece.iter().for_each(|&v| self.relax(bucket, v, &mut found));
        while !found.near[0].is_empty() && found.near[0].len() < MAX_FUSED_ENTRIES {
            let more = std::mem::take(&mut found.near[0]);
            more.into_iter().for_each(|v| self.relax(bucket, v, &mut found));
        }
        found
    }
}

/// The default width of buckets: the heaviest edge divided by the mean degree, which leaves about
/// one edge per vertex within a bucket.
fn width(exchange: &mut dyn Exchange, part: &GraphPart) -> Result<f64, DataGraphError> {
    let rows = part.outgoing();
    let heaviest = part
        .own()
        .into_par_iter()
        .map(|v| {
            let weights = rows.row_weights(v);
            let each = (0..rows.degree(v)).map(|at| weights.get(at));
            each.fold((0.0f64, 0.0f64), |(low, high), weight| (low.min(weight), high.max(weight)))
        })
        .reduce(|| (0.0, 0.0), |a, b| (a.0.min(b.0), a.1.max(b.1)));
    let bits = [u64::from(heaviest.0 < 0.0), heaviest.1.to_bits()];
    let [negative, high] = combine(exchange, bits, u64::max)?;
    if negative == 1 {
        return Err(DataGraphError::refused("the graph has edges of negative weight, for which sssp is not defined"));
    }
    let [edges] = sum(exchange, [rows.edges()])?;
    let width = f64::from_bits(high) * f64::from(part.vertices()) / edges.max(1) as f64;
    Ok(if width > 0.0 && width.is_finite() { width } else { 1.0 })
}

/// Computes the distances from `source`. `delta` is the width of buckets; `None`: derived from
/// weights and degrees.
///
/// # Errors
/// If the operation is stopped, or an edge has a negative weight.
pub fn sssp(
    exchange: &mut dyn Exchange,
    part: &GraphPart,
    source: Vertex,
    delta: Option<f64>,
) -> Result<Distances, DataGraphError> {
    let (own, ranks) = (part.own(), exchange.ranks());
    let proposed = width(exchange, part)?;
    let infinite = || AtomicU64::new(f64::INFINITY.to_bits());
    let sent = if ranks == 1 { 0 } else { part.vertices() };
    let search = SsspSearch {
        part,
        buckets: 1.0 / delta.unwrap_or(proposed),
        own: own.clone().map(|_| infinite()).collect(),
        sent: (0..sent).map(|_| infinite()).collect(),
    };
    let mut buckets: BTreeMap<u64, Vec<Vertex>> = BTreeMap::new();
    if own.contains(&source) {
        search.own[(source - own.start) as usize].store(0.0f64.to_bits(), Relaxed);
        buckets.insert(0, vec![source]);
    }
    loop {
        let [bucket] = smallest(exchange, [buckets.keys().next().copied().unwrap_or(u64::MAX)])?;
        if bucket == u64::MAX {
            break;
        }
        let present = buckets.remove(&bucket).unwrap_or_default();
        let piece = MIN_ENTRIES_PER_UNIT.max(present.len() / (rayon::current_num_threads() * 8));
        let found: Vec<RelaxedEdges> =
            present.par_chunks(piece).map(|piece| search.work(bucket, piece, ranks)).collect();
        let mut outgoing = vec![Vec::new(); ranks];
        for found in found {
            for (ahead, list) in found.near.into_iter().enumerate().filter(|(_, list)| !list.is_empty()) {
                let known = buckets.entry(bucket + ahead as u64).or_default();
                if known.is_empty() { *known = list } else { known.extend(list) }
            }
            for (bucket, v) in found.far {
                buckets.entry(bucket).or_default().push(v);
            }
            found.remote.into_iter().enumerate().for_each(|(r, more)| outgoing[r].extend(more));
        }
        if ranks > 1 {
            for (v, distance) in push(exchange, outgoing)?.into_iter().flatten() {
                if own.contains(&v) && lower(&search.own[(v - own.start) as usize], distance.to_bits()) {
                    buckets.entry(search.bucket(distance)).or_default().push(v);
                }
            }
        }
    }
    let distances: Vec<f64> = search.own.into_iter().map(|bits| f64::from_bits(bits.into_inner())).collect();
    let [reached] = sum(exchange, [distances.par_iter().filter(|d| d.is_finite()).count() as u64])?;
    Ok(Distances { distances, reached })
}
