//! Direction-optimising breadth-first search (Beamer, Asanovic and Patterson, SC 2012; parameters
//! of GAP 1.5).
//!
//! While few edges leave the frontier, its vertices push their level to their neighbours; the
//! owners of remote ones get one message per rank and round, with each vertex at most once. When
//! the frontier is large, each unreached vertex searches for a neighbour in the frontier, which all
//! ranks then know as a bit set.

use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

use rayon::prelude::*;

use super::bits::Bits;
use crate::data::exchange::{Exchange, push, share, sum};
use crate::data::part::GraphPart;
use crate::data::{DataGraphError, Vertex};

/// The level of unreached vertices.
pub const UNREACHED: u32 = u32::MAX;

/// Pull once more than 1/`ALPHA` of the remaining edges leave the frontier.
const ALPHA: u64 = 15;

/// Push again once fewer than 1/`BETA` of the vertices are in the frontier and it shrinks.
const BETA: u64 = 18;

/// Vertices of the frontier that one unit of parallel work expands.
const VERTICES_PER_UNIT: usize = 64;

/// The result of a search.
pub struct Levels {
    /// The level of each own vertex, or [`UNREACHED`].
    pub levels: Vec<u32>,
    /// Number of vertices reached in the whole graph.
    pub reached: u64,
    /// The highest level.
    pub depth: u32,
}

struct BfsSearch<'a> {
    part: &'a GraphPart,
    levels: Vec<AtomicU32>,
    /// Vertices of other ranks whose owners have been notified.
    notified: Bits,
}

impl BfsSearch<'_> {
    fn level(&self, vertex: Vertex) -> &AtomicU32 {
        &self.levels[(vertex - self.part.own().start) as usize]
    }

    fn reach(&self, vertex: Vertex, level: u32) -> bool {
        let place = self.level(vertex);
        place.load(Relaxed) == UNREACHED && place.compare_exchange(UNREACHED, level, Relaxed, Relaxed).is_ok()
    }

    /// Assigns `level` to the frontier's neighbours. Returns the next frontier and the number of
    /// edges that leave it.
    fn push(
        &self,
        exchange: &mut dyn Exchange,
        frontier: &[Vertex],
        level: u32,
    ) -> Result<(Vec<Vertex>, u64), DataGraphError> {
        let (part, ranks) = (self.part, exchange.ranks());
        let own = part.own();
        let expand = |piece: &[Vertex]| {
            let (mut next, mut scout) = (Vec::new(), 0);
            let mut remote = vec![Vec::new(); if ranks == 1 { 0 } else { ranks }];
            for &v in piece {
                for &to in part.outgoing().row(v) {
                    if own.contains(&to) {
                        if self.reach(to, level) {
                            scout += part.outgoing().degree(to) as u64;
                            next.push(to);
                        }
                    } else if self.notified.insert(to) {
                        remote[part.owner(to)].push(to);
                    }
                }
            }
            (next, scout, remote)
        };
        let pieces: Vec<_> = frontier.par_chunks(VERTICES_PER_UNIT).map(expand).collect();
        let mut next = Vec::with_capacity(pieces.iter().map(|piece| piece.0.len()).sum());
        let mut scout = 0;
        let mut outgoing = vec![Vec::new(); ranks];
        for (own, edges, remote) in pieces {
            next.extend(own);
            scout += edges;
            remote.into_iter().enumerate().for_each(|(r, more)| outgoing[r].extend(more));
        }
        if ranks > 1 {
            for v in push(exchange, outgoing)?.into_iter().flatten().filter(|v| own.contains(v)) {
                if self.reach(v, level) {
                    scout += part.outgoing().degree(v) as u64;
                    next.push(v);
                }
            }
        }
        Ok((next, scout))
    }

    /// Every unreached vertex searches for a neighbour in `front`. Returns how many found one.
    fn pull(&self, front: &Bits, next: &Bits, level: u32) -> u64 {
        let own = self.part.own();
        let into = self.part.incoming();
        let words = own.start as usize / 64..(own.end as usize).div_ceil(64);
        words
            .into_par_iter()
            .with_min_len(16)
            .map(|word| {
                let mut bits = 0;
                let from = (word as u64 * 64).max(u64::from(own.start)) as Vertex;
                let to = (word as u64 * 64 + 64).min(u64::from(own.end)) as Vertex;
                for v in from..to {
                    let place = self.level(v);
                    if place.load(Relaxed) == UNREACHED && into.row(v).iter().any(|&u| front.has(u)) {
                        place.store(level, Relaxed);
                        bits |= 1u64 << (v % 64);
                    }
                }
                next.insert_word(word, bits);
                u64::from(bits.count_ones())
            })
            .sum()
    }
}

/// Distributes to all ranks which own vertices of each rank are in the set.
fn share_bits(exchange: &mut dyn Exchange, part: &GraphPart, set: &Bits) -> Result<(), DataGraphError> {
    if exchange.ranks() == 1 {
        return Ok(exchange.check()?);
    }
    let own = part.own();
    let changed: Vec<u32> = set.within(own.clone()).map(|v| v - own.start).collect();
    share(exchange, part.cuts(), &vec![(); own.len()], &changed, |v, ()| {
        set.insert(v);
    })?;
    Ok(())
}

/// Computes the levels from the nearest of `sources`, up to `hops`.
///
/// # Errors
/// If the operation is stopped.
pub fn bfs(
    exchange: &mut dyn Exchange,
    part: &GraphPart,
    sources: &[Vertex],
    hops: u32,
) -> Result<Levels, DataGraphError> {
    let own = part.own();
    let count = part.vertices();
    let notified = Bits::new(if exchange.ranks() > 1 { count } else { 0 });
    let search = BfsSearch { part, levels: own.clone().map(|_| AtomicU32::new(UNREACHED)).collect(), notified };
    let mut frontier: Vec<Vertex> =
        sources.iter().copied().filter(|v| own.contains(v) && search.reach(*v, 0)).collect();
    let mut scout = frontier.iter().map(|&v| part.outgoing().degree(v) as u64).sum();
    let [mut edges_left] = sum(exchange, [part.outgoing().edges()])?;
    let (mut level, mut reached, mut depth) = (0, 0, 0);
    loop {
        let [awake, leaving] = sum(exchange, [frontier.len() as u64, scout])?;
        reached += awake;
        if awake > 0 {
            depth = level;
        }
        if awake == 0 || level >= hops {
            break;
        }
        if leaving <= edges_left / ALPHA {
            edges_left = edges_left.saturating_sub(leaving);
            level += 1;
            (frontier, scout) = search.push(exchange, &frontier, level)?;
            continue;
        }
        let (mut front, mut next) = (Bits::new(count), Bits::new(count));
        frontier.par_iter().for_each(|&v| {
            front.insert(v);
        });
        share_bits(exchange, part, &front)?;
        let mut awake = awake;
        loop {
            let before = awake;
            level += 1;
            let here = search.pull(&front, &next, level);
            std::mem::swap(&mut front, &mut next);
            next.clear();
            [awake] = sum(exchange, [here])?;
            if awake == 0 || level >= hops || (awake < before && awake <= u64::from(count) / BETA) {
                break;
            }
            reached += awake;
            depth = level;
            share_bits(exchange, part, &front)?;
        }
        // Levels found by pulling are not sent again; pushing them once more is harmless.
        frontier = front.within(own.clone()).collect();
        scout = 1;
    }
    let levels = search.levels.into_iter().map(AtomicU32::into_inner).collect();
    Ok(Levels { levels, reached, depth })
}
