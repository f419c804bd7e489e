//! Weakly connected components by Afforest (Sutton, Ben-Nun and Barak, IPDPS 2018): first two
//! neighbours of each vertex are linked, then the largest component so far is estimated from
//! samples, and only vertices outside of it process their other edges.
//!
//! Each rank does so with its own rows, over all vertices. The ranks' forests are then merged along
//! a binary tree: the number of rounds is the logarithm of the number of ranks, whatever the shape
//! of the graph.

use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

use rayon::prelude::*;
use rustc_hash::FxHashMap;

use crate::data::exchange::{Exchange, gather, pack, push, sum, unpack};
use crate::data::part::GraphPart;
use crate::data::{DataGraphError, Vertex};

/// Neighbours per vertex that are linked before the largest component is estimated.
const LINKED_NEIGHBOURS: usize = 2;

/// Vertices sampled for the estimate.
const SAMPLES: u32 = 1024;

/// The result.
pub struct Components {
    /// For each own vertex the smallest vertex of its component.
    pub labels: Vec<Vertex>,
    /// Number of components of the graph.
    pub count: u64,
    /// Number of vertices of the largest component.
    pub largest: u64,
}

/// A forest over all vertices, in which every parent is smaller than its children.
struct Forest {
    parents: Vec<AtomicU32>,
}

impl Forest {
    fn parent(&self, v: Vertex) -> Vertex {
        self.parents[v as usize].load(Relaxed)
    }

    fn link(&self, u: Vertex, v: Vertex) {
        let (mut a, mut b) = (self.parent(u), self.parent(v));
        while a != b {
            let (low, high) = (a.min(b), a.max(b));
            let above = self.parent(high);
            if above == low {
                return;
            }
            if above == high && self.parents[high as usize].compare_exchange(high, low, Relaxed, Relaxed).is_ok() {
                return;
            }
            a = self.parent(self.parent(high));
            b = self.parent(low);
        }
    }

    fn root(&self, v: Vertex) -> Vertex {
        let mut at = v;
        loop {
            let above = self.parent(at);
            if above == at {
                return at;
            }
            at = above;
        }
    }

    /// Makes every vertex a child of its root.
    fn flatten(&self) {
        self.parents.par_iter().with_min_len(4096).enumerate().for_each(|(v, parent)| {
            if parent.load(Relaxed) != v as Vertex {
                parent.store(self.root(v as Vertex), Relaxed);
            }
        });
    }

    /// The most frequent root among sampled vertices.
    fn commonest(&self, part: &GraphPart) -> Vertex {
        let own = part.own();
        let step = (own.len() as u32 / SAMPLES).max(1);
        let mut counts = FxHashMap::<Vertex, u32>::default();
        own.step_by(step as usize).for_each(|v| *counts.entry(self.parent(v)).or_default() += 1);
        counts.into_iter().max_by_key(|&(root, count)| (count, std::cmp::Reverse(root))).map_or(0, |most| most.0)
    }
}

/// Finds the components; edges count in both directions.
///
/// # Errors
/// If the operation is stopped.
pub fn components(exchange: &mut dyn Exchange, part: &GraphPart) -> Result<Components, DataGraphError> {
    let own = part.own();
    let alone = exchange.ranks() == 1;
    let forest = Forest { parents: (0..part.vertices()).into_par_iter().map(AtomicU32::new).collect() };
    for round in 0..LINKED_NEIGHBOURS {
        own.clone().into_par_iter().with_min_len(256).for_each(|v| {
            if let Some(&to) = part.outgoing().row(v).get(round) {
                forest.link(v, to);
            }
        });
        forest.flatten();
        exchange.check()?;
    }
    let giant = forest.commonest(part);
    own.clone().into_par_iter().with_min_len(256).for_each(|v| {
        let row = part.outgoing().row(v);
        let rest = &row[row.len().min(LINKED_NEIGHBOURS)..];
        if forest.parent(v) != giant {
            rest.iter().for_each(|&to| forest.link(v, to));
            if part.is_directed() {
                part.incoming().row(v).iter().for_each(|&from| forest.link(v, from));
            }
        } else if !alone {
            // The owner of the other end may skip this edge, as it has a forest of its own.
            rest.iter().filter(|to| !own.contains(to)).for_each(|&to| forest.link(v, to));
        }
    });
    forest.flatten();
    if !alone {
        unite(exchange, part, &forest)?;
    }
    let labels: Vec<Vertex> = own.clone().map(|v| forest.parent(v)).collect();
    let (count, largest) = sizes(exchange, part, &labels)?;
    Ok(Components { labels, count, largest })
}

/// Merges the forests of all ranks on the first rank, which then sends each rank the roots of its
/// vertices.
fn unite(exchange: &mut dyn Exchange, part: &GraphPart, forest: &Forest) -> Result<(), DataGraphError> {
    let (place, ranks) = (exchange.place(), exchange.ranks());
    let mut stride = 1;
    while stride < ranks {
        let mut outgoing = vec![Vec::new(); ranks];
        if place % (2 * stride) == stride {
            let links = (0..part.vertices()).filter(|&v| forest.parent(v) != v).map(|v| (v, forest.parent(v)));
            outgoing[place - stride] = pack(links.collect::<Vec<_>>());
        }
        for bytes in exchange.swap(outgoing)? {
            unpack::<(Vertex, Vertex)>(&bytes)?.for_each(|(v, root)| forest.link(v, root));
        }
        stride *= 2;
    }
    let mut outgoing = vec![Vec::new(); ranks];
    if place == 0 {
        forest.flatten();
        for (r, bytes) in outgoing.iter_mut().enumerate() {
            *bytes = pack((part.cuts()[r]..part.cuts()[r + 1]).map(|v| forest.parent(v)));
        }
    }
    let incoming = exchange.swap(outgoing)?;
    for (v, root) in part.own().zip(unpack::<Vertex>(&incoming[0])?) {
        forest.parents[v as usize].store(root, Relaxed);
    }
    Ok(())
}

/// Number of different labels, and frequency of the most frequent one.
pub(super) fn sizes(
    exchange: &mut dyn Exchange,
    part: &GraphPart,
    labels: &[Vertex],
) -> Result<(u64, u64), DataGraphError> {
    let mut own = FxHashMap::<Vertex, u64>::default();
    labels.iter().for_each(|&label| *own.entry(label).or_default() += 1);
    let (place, ranks) = (exchange.place(), exchange.ranks());
    let mut outgoing = vec![Vec::new(); ranks];
    if ranks > 1 {
        let mut stay = FxHashMap::default();
        for (label, count) in own {
            match part.owner(label) {
                owner if owner == place => *stay.entry(label).or_default() += count,
                owner => outgoing[owner].push((label, count)),
            }
        }
        own = stay;
        for (label, count) in push(exchange, outgoing)?.into_iter().flatten() {
            *own.entry(label).or_default() += count;
        }
    }
    let [count] = sum(exchange, [own.len() as u64])?;
    let most = own.values().copied().max().unwrap_or(0);
    let most = gather(exchange, pack([most]))?;
    let mut largest = 0;
    for bytes in most {
        largest = unpack::<u64>(&bytes)?.fold(largest, u64::max);
    }
    Ok((count, largest))
}
