//! Community detection by label propagation as defined by Graphalytics (CDLP). In each of a fixed
//! number of synchronous iterations, every vertex takes the most frequent label among its
//! neighbours, and the smallest of several. In a directed graph an edge counts in each direction.

use rayon::prelude::*;

use super::components::sizes;
use crate::data::exchange::{Exchange, share, sum};
use crate::data::part::GraphPart;
use crate::data::{DataGraphError, Vertex};

/// The result.
pub struct Communities {
    /// The label of each own vertex: a vertex.
    pub labels: Vec<Vertex>,
    /// Number of labels.
    pub count: u64,
    /// Number of vertices with the most frequent label.
    pub largest: u64,
    /// Iterations made; fewer than requested if nothing changes any more.
    pub iterations: u32,
}

/// Finds communities.
///
/// # Errors
/// If the operation is stopped.
pub fn communities(
    exchange: &mut dyn Exchange,
    part: &GraphPart,
    iterations: u32,
) -> Result<Communities, DataGraphError> {
    let own = part.own();
    let mut labels: Vec<Vertex> = (0..part.vertices()).collect();
    let mut done = 0;
    while done < iterations {
        let next: Vec<Vertex> = own
            .clone()
            .into_par_iter()
            .with_min_len(64)
            .map_init(Vec::new, |seen, v| {
                seen.clear();
                seen.extend(part.outgoing().row(v).iter().map(|&u| labels[u as usize]));
                if part.is_directed() {
                    seen.extend(part.incoming().row(v).iter().map(|&u| labels[u as usize]));
                }
                commonest(seen).unwrap_or(labels[v as usize])
            })
            .collect();
        let before = &labels[own.start as usize..own.end as usize];
        let changed: Vec<u32> = (0..next.len() as u32).filter(|&at| next[at as usize] != before[at as usize]).collect();
        done += 1;
        let [all] = sum(exchange, [changed.len() as u64])?;
        if all == 0 {
            break;
        }
        share(exchange, part.cuts(), &next, &changed, |v, label| labels[v as usize] = label)?;
        labels[own.start as usize..own.end as usize].copy_from_slice(&next);
    }
    let labels = labels[own.start as usize..own.end as usize].to_vec();
    let (count, largest) = sizes(exchange, part, &labels)?;
    Ok(Communities { labels, count, largest, iterations: done })
}

/// The most frequent number, and the smallest of several.
fn commonest(seen: &mut [Vertex]) -> Option<Vertex> {
    seen.sort_unstable();
    let runs = seen.chunk_by(|a, b| a == b);
    runs.max_by_key(|run| (run.len(), std::cmp::Reverse(run[0]))).map(|run| run[0])
}
