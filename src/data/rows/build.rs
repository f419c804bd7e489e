//! Builds rows from edges: counts, places and sorts them in parallel.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};

use rayon::prelude::*;

use super::{Base, EdgeList, ROWS_PER_UNIT, Rows, Weights};
use crate::data::Vertex;

/// Computes the offsets of rows, and the end of the last, from the numbers of edges in them.
pub(super) fn offsets(counts: impl Iterator<Item = u64>) -> Box<[u64]> {
    let sums = counts.scan(0, |sum, count| {
        *sum += count;
        Some(*sum)
    });
    std::iter::once(0).chain(sums).collect()
}

impl Rows {
    /// Builds the rows of `count` vertices from `first` on, in which the sources must lie. Of
    /// duplicates the lightest is kept.
    pub fn build(first: Vertex, count: usize, edges: &EdgeList) -> Rows {
        let degrees: Vec<AtomicU32> = (0..count).map(|_| AtomicU32::new(0)).collect();
        edges.ends.par_iter().for_each(|&(u, _)| {
            degrees[(u - first) as usize].fetch_add(1, Relaxed);
        });
        let total = edges.ends.len() as u64;
        let offsets = offsets(degrees.iter().map(|d| u64::from(d.load(Relaxed))));
        let targets: Vec<AtomicU32> = (0..total).map(|_| AtomicU32::new(0)).collect();
        let place = |u: Vertex| {
            let row = (u - first) as usize;
            offsets[row] as usize + degrees[row].fetch_sub(1, Relaxed) as usize - 1
        };
        let weights = match &edges.weights {
            None => {
                edges.ends.par_iter().for_each(|&(u, v)| targets[place(u)].store(v, Relaxed));
                None
            }
            Some(given) => {
                let weights: Vec<AtomicU64> = (0..total).map(|_| AtomicU64::new(0)).collect();
                edges.ends.par_iter().zip(given).for_each(|(&(u, v), weight)| {
                    let at = place(u);
                    targets[at].store(v, Relaxed);
                    weights[at].store(weight.to_bits(), Relaxed);
                });
                Some(weights.into_iter().map(|w| f64::from_bits(w.into_inner())).collect())
            }
        };
        drop(degrees);
        Rows::from_parts(first, count, offsets, targets.into_iter().map(AtomicU32::into_inner).collect(), weights)
    }

    /// Makes rows from known offsets; `None` unless `offsets` are `count + 1` ascending offsets
    /// into `targets`.
    pub fn from_offsets(
        first: Vertex,
        offsets: &[u64],
        targets: Vec<Vertex>,
        weights: Option<Vec<f64>>,
    ) -> Option<Rows> {
        let (&begin, &end) = (offsets.first()?, offsets.last()?);
        let fits = end.checked_sub(begin) == Some(targets.len() as u64) && offsets.is_sorted();
        let weighted = weights.as_ref().is_none_or(|weights| weights.len() == targets.len());
        if !fits || !weighted {
            return None;
        }
        let count = offsets.len() - 1;
        let places = offsets.iter().map(|offset| offset - begin).collect();
        Some(Rows::from_parts(first, count, places, targets, weights))
    }

    /// Sorts each row and removes duplicates.
    pub(super) fn from_parts(
        first: Vertex,
        count: usize,
        places: Box<[u64]>,
        mut targets: Vec<Vertex>,
        mut weights: Option<Vec<f64>>,
    ) -> Rows {
        let blocks: Vec<std::ops::Range<usize>> =
            (0..count).step_by(ROWS_PER_UNIT).map(|row| row..(row + ROWS_PER_UNIT).min(count)).collect();
        let mut left = targets.as_mut_slice();
        let mut left_weights = weights.as_deref_mut();
        let mut pieces = Vec::with_capacity(blocks.len());
        for rows in blocks {
            let size = (places[rows.end] - places[rows.start]) as usize;
            let (piece, rest) = left.split_at_mut(size);
            left = rest;
            let piece_weights = left_weights.take().map(|all| {
                let (piece, rest) = all.split_at_mut(size);
                left_weights = Some(rest);
                piece
            });
            pieces.push((rows, piece, piece_weights));
        }
        let kept: Vec<Vec<u32>> = pieces
            .into_par_iter()
            .map(|(rows, targets, mut weights)| {
                let start = places[rows.start];
                let mut scratch = Vec::new();
                rows.map(|row| {
                    let here = (places[row] - start) as usize..(places[row + 1] - start) as usize;
                    match &mut weights {
                        None => order(&mut targets[here]),
                        Some(weights) => order_weighted(&mut targets[here.clone()], &mut weights[here], &mut scratch),
                    }
                })
                .collect()
            })
            .collect();
        let kept = kept.concat();
        let total: u64 = kept.iter().map(|&n| u64::from(n)).sum();
        let places = if total == targets.len() as u64 {
            places
        } else {
            let mut end = 0;
            for (row, &n) in kept.iter().enumerate() {
                let from = places[row] as usize;
                targets.copy_within(from..from + n as usize, end);
                if let Some(weights) = &mut weights {
                    weights.copy_within(from..from + n as usize, end);
                }
                end += n as usize;
            }
            targets.truncate(end);
            if let Some(weights) = &mut weights {
                weights.truncate(end);
            }
            offsets(kept.iter().map(|&n| u64::from(n)))
        };
        let weights = weights.map(|weights| {
            #[expect(clippy::float_cmp, reason = "the question is whether nothing is lost")]
            let fits = weights.par_iter().all(|&w| f64::from(w as f32) == w);
            if fits {
                Weights::Narrow(weights.par_iter().map(|&w| w as f32).collect())
            } else {
                Weights::Wide(weights.into_boxed_slice())
            }
        });
        let base = Base { count, offsets: places, targets: targets.into_boxed_slice(), weights };
        Rows {
            first,
            edges: base.targets.len() as u64,
            base: Arc::new(base),
            pages: Arc::default(),
            is_plain: true,
            changed: 0,
        }
    }
}

/// Sorts a row and moves duplicates to the end; returns how many edges stay.
fn order(row: &mut [Vertex]) -> u32 {
    if !row.is_sorted() {
        row.sort_unstable();
    }
    let Some((&first, _)) = row.split_first() else { return 0 };
    let (mut kept, mut last) = (1, first);
    for at in 1..row.len() {
        if row[at] != last {
            last = row[at];
            row[kept] = last;
            kept += 1;
        }
    }
    kept as u32
}

/// As [`order`]; of duplicates the lightest is kept.
fn order_weighted(row: &mut [Vertex], weights: &mut [f64], scratch: &mut Vec<(Vertex, f64)>) -> u32 {
    scratch.clear();
    scratch.extend(row.iter().copied().zip(weights.iter().copied()));
    if !scratch.is_sorted_by(|a, b| a.0 < b.0) {
        scratch.sort_unstable_by(|a, b| a.0.cmp(&b.0).then(a.1.total_cmp(&b.1)));
        scratch.dedup_by_key(|edge| edge.0);
    }
    for (at, &(v, weight)) in scratch.iter().enumerate() {
        (row[at], weights[at]) = (v, weight);
    }
    scratch.len() as u32
}
