//! PageRank by pulling (Page et al., 1999). All values of an iteration are computed from those of
//! the previous one, so that ranks and threads make no difference. Sums over the whole graph (the
//! mass of sinks, the change) use whole multiples of 2^-61, for which the order does not matter; a
//! row is summed in its order.

use rayon::prelude::*;

use crate::data::DataGraphError;
use crate::data::exchange::{Exchange, share, sum};
use crate::data::part::GraphPart;

/// One in fixed point.
const ONE: f64 = (1u64 << 61) as f64;

/// Vertices per unit of parallel work.
const VERTICES_PER_UNIT: usize = 1024;

/// What happens to the mass of vertices without outgoing edges.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sinks {
    /// Spread evenly over all vertices (Graphalytics, NetworkX); ranks sum to 1.
    Spread,
    /// Dropped (GAP).
    Drop,
}

/// The parameters.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Options {
    /// Damping factor: the share of its rank that a vertex passes on.
    pub damping: f64,
    /// Stop once the sum of all changes is below this.
    pub tolerance: f64,
    /// Largest number of iterations.
    pub iterations: u32,
    /// What happens to the mass of sinks.
    pub sinks: Sinks,
}

impl Default for Options {
    fn default() -> Options {
        Options { damping: 0.85, tolerance: 1e-4, iterations: 100, sinks: Sinks::Spread }
    }
}

/// The result.
pub struct PageRanks {
    /// The rank of each own vertex.
    pub ranks: Vec<f64>,
    /// Iterations made.
    pub iterations: u32,
    /// Sum of all changes in the last iteration.
    pub residual: f64,
}

fn fixed(value: f64) -> u64 {
    (value * ONE) as u64
}

/// Computes ranks.
///
/// # Errors
/// If the operation is stopped.
pub fn pagerank(exchange: &mut dyn Exchange, part: &GraphPart, options: &Options) -> Result<PageRanks, DataGraphError> {
    let Options { damping, tolerance, iterations, sinks } = *options;
    let own = part.own();
    let count = f64::from(part.vertices());
    let mut ranks = vec![1.0 / count; own.len()];
    // The value that each vertex passes on along each of its edges.
    let mut passed = vec![0.0f64; part.vertices() as usize];
    let inverse: Vec<f64> = own.clone().into_par_iter().map(|v| 1.0 / part.outgoing().degree(v) as f64).collect();
    let everything: Vec<u32> = if exchange.ranks() > 1 { (0..own.len() as u32).collect() } else { Vec::new() };
    let (mut done, mut residual) = (0, 0.0);
    while done < iterations {
        let mine = &mut passed[own.start as usize..own.end as usize];
        let lost: u64 = mine
            .par_chunks_mut(VERTICES_PER_UNIT)
            .zip(ranks.par_chunks(VERTICES_PER_UNIT).zip(inverse.par_chunks(VERTICES_PER_UNIT)))
            .map(|(passed, (ranks, inverse))| {
                let mut lost = 0u64;
                for ((passed, rank), inverse) in passed.iter_mut().zip(ranks).zip(inverse) {
                    if inverse.is_finite() {
                        *passed = rank * inverse;
                    } else {
                        lost += fixed(*rank);
                    }
                }
                lost
            })
            .sum();
        if exchange.ranks() > 1 {
            let mine = passed[own.start as usize..own.end as usize].to_vec();
            share(exchange, part.cuts(), &mine, &everything, |v, value| passed[v as usize] = value)?;
        }
        let spread = match sinks {
            Sinks::Spread => sum(exchange, [lost])?[0] as f64 / ONE,
            Sinks::Drop => 0.0,
        };
        let base = (1.0 - damping) / count + damping * spread / count;
        let change: u64 = ranks
            .par_chunks_mut(VERTICES_PER_UNIT)
            .enumerate()
            .map(|(piece, ranks)| {
                let first = own.start + (piece * VERTICES_PER_UNIT) as u32;
                let mut change = 0u64;
                for (at, rank) in ranks.iter_mut().enumerate() {
                    let new = base + damping * row_sum(part.incoming().row(first + at as u32), &passed);
                    change += fixed((new - *rank).abs());
                    *rank = new;
                }
                change
            })
            .sum();
        residual = sum(exchange, [change])?[0] as f64 / ONE;
        done += 1;
        if residual < tolerance {
            break;
        }
    }
    Ok(PageRanks { ranks, iterations: done, residual })
}

/// The sum of the values that the vertices of a row pass on, in four partial sums, so that
/// additions need not wait for each other.
#[inline]
fn row_sum(row: &[u32], passed: &[f64]) -> f64 {
    let (fours, rest) = row.as_chunks::<4>();
    let mut sums = [0.0; 4];
    for four in fours {
        for (sum, &u) in sums.iter_mut().zip(four) {
            *sum += passed[u as usize];
        }
    }
    rest.iter().fold((sums[0] + sums[1]) + (sums[2] + sums[3]), |sum, &u| sum + passed[u as usize])
}
