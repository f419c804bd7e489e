//! The outgoing (or incoming) edges of a range of vertices in compressed rows, and changes to them.
//!
//! A row holds the other ends in ascending order without duplicates. The rows of a version are
//! immutable: a batch of changes makes a new version that shares unchanged data with the old one.
//!
//! | file | one idea |
//! |---|---|
//! | `edges` | edges that are not yet in rows |
//! | `build` | rows of edges, sorted in parallel |
//! | `change` | a new version of rows from a batch of changes |

mod build;
mod change;
mod edges;

use std::sync::Arc;

use super::Vertex;
use change::{ChangedRow, ROWS_PER_PAGE, RowPage};

pub use edges::EdgeList;

/// Rows per unit of parallel work.
const ROWS_PER_UNIT: usize = 1024;

/// Weights of edges, in 32 bits if that is exact for all of them.
#[derive(Clone, Debug)]
pub enum Weights {
    /// 32-bit floats represent all of them exactly.
    Narrow(Box<[f32]>),
    /// Some need 64 bits.
    Wide(Box<[f64]>),
}

/// The weights of a row.
#[derive(Clone, Copy, Debug)]
pub enum RowWeights<'a> {
    /// Every edge weighs 1.
    One,
    /// In 32 bits.
    Narrow(&'a [f32]),
    /// In 64 bits.
    Wide(&'a [f64]),
}

impl RowWeights<'_> {
    /// The weight of the edge at index `at` of the row.
    #[inline]
    pub fn get(&self, at: usize) -> f64 {
        match self {
            RowWeights::One => 1.0,
            RowWeights::Narrow(weights) => f64::from(weights[at]),
            RowWeights::Wide(weights) => weights[at],
        }
    }
}

#[derive(Debug)]
struct Base {
    count: usize,
    /// Start of each row, and end of the last.
    offsets: Box<[u64]>,
    targets: Box<[Vertex]>,
    weights: Option<Weights>,
}

impl Base {
    #[inline]
    fn range(&self, row: usize) -> std::ops::Range<usize> {
        self.offsets[row] as usize..self.offsets[row + 1] as usize
    }
}

/// The rows of one version. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Rows {
    first: Vertex,
    base: Arc<Base>,
    /// Empty, or one entry per page.
    pages: Arc<Vec<Option<Arc<RowPage>>>>,
    /// True while there are no such pages, which every access to a row checks first.
    is_plain: bool,
    /// Total number of edges, and number of edges in changed rows.
    edges: u64,
    changed: u64,
}

impl Rows {
    /// The first vertex.
    pub fn first(&self) -> Vertex {
        self.first
    }

    /// Number of vertices.
    pub fn count(&self) -> usize {
        self.base.count
    }

    /// Number of edges.
    pub fn edges(&self) -> u64 {
        self.edges
    }

    /// True if edges have weights.
    pub fn is_weighted(&self) -> bool {
        self.base.weights.is_some()
    }

    #[inline]
    fn changed_row(&self, row: usize) -> Option<&ChangedRow> {
        if self.is_plain {
            return None;
        }
        self.pages[row / ROWS_PER_PAGE].as_ref().and_then(|page| page[row % ROWS_PER_PAGE].as_deref())
    }

    /// The other ends of a vertex's edges, ascending.
    #[inline]
    pub fn row(&self, vertex: Vertex) -> &[Vertex] {
        let row = (vertex - self.first) as usize;
        match self.changed_row(row) {
            None => &self.base.targets[self.base.range(row)],
            Some(changed) => &changed.targets,
        }
    }

    /// The weights of that row.
    #[inline]
    pub fn row_weights(&self, vertex: Vertex) -> RowWeights<'_> {
        let row = (vertex - self.first) as usize;
        match (self.changed_row(row), &self.base.weights) {
            (Some(ChangedRow { weights: Some(weights), .. }), _) => RowWeights::Wide(weights),
            (Some(_), _) | (None, None) => RowWeights::One,
            (None, Some(Weights::Narrow(weights))) => RowWeights::Narrow(&weights[self.base.range(row)]),
            (None, Some(Weights::Wide(weights))) => RowWeights::Wide(&weights[self.base.range(row)]),
        }
    }

    /// Number of edges of a vertex.
    #[inline]
    pub fn degree(&self, vertex: Vertex) -> usize {
        self.row(vertex).len()
    }

    /// Memory of the rows in bytes.
    pub fn bytes(&self) -> u64 {
        let weights = match &self.base.weights {
            None => 0,
            Some(Weights::Narrow(weights)) => 4 * weights.len(),
            Some(Weights::Wide(weights)) => 8 * weights.len(),
        };
        let each = if self.is_weighted() { 12 } else { 4 };
        8 * self.base.offsets.len() as u64 + 4 * self.base.targets.len() as u64 + weights as u64 + each * self.changed
    }
}

#[cfg(test)]
mod tests;
