//! The outgoing (or incoming) edges of a range of vertices in compressed rows, and changes to them.
//!
//! A row holds the other ends in ascending order without duplicates. The rows of a version are
//! immutable: a batch of changes makes a new version that shares unchanged data with the old one.
//! Changed rows are kept in pages beside the base; once they hold a large share of all edges, a new
//! base is built (DESIGN: a sorted delta per vertex costs about a fifth of a read; Wheatman et al.,
//! VLDB 2024).

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};

use rayon::prelude::*;

use super::Vertex;

/// Rows per page of changes.
const ROWS_PER_PAGE: usize = 512;

/// A new base is built when changed rows hold more than 1/`REBUILD_SHARE` of all edges.
const REBUILD_SHARE: usize = 4;

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

/// Computes the offsets of rows, and the end of the last, from the numbers of edges in them.
fn offsets(counts: impl Iterator<Item = u64>) -> Box<[u64]> {
    let sums = counts.scan(0, |sum, count| {
        *sum += count;
        Some(*sum)
    });
    std::iter::once(0).chain(sums).collect()
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

#[derive(Debug)]
struct ChangedRow {
    targets: Box<[Vertex]>,
    weights: Option<Box<[f64]>>,
}

type RowPage = Vec<Option<Arc<ChangedRow>>>;

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

/// Edges that are not yet in rows: source, target, and optionally weights.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct EdgeList {
    /// Source and target.
    pub ends: Vec<(Vertex, Vertex)>,
    /// One per edge, or `None`.
    pub weights: Option<Vec<f64>>,
}

impl EdgeList {
    /// Appends the reverse of each edge, except for loops.
    pub fn mirror(&mut self) {
        let more: Vec<usize> = (0..self.ends.len()).filter(|&e| self.ends[e].0 != self.ends[e].1).collect();
        let turned: Vec<(Vertex, Vertex)> = more.par_iter().map(|&e| (self.ends[e].1, self.ends[e].0)).collect();
        self.ends.extend(turned);
        if let Some(weights) = &mut self.weights {
            let turned: Vec<f64> = more.par_iter().map(|&e| weights[e]).collect();
            weights.extend(turned);
        }
    }

    /// Returns the edges with source and target exchanged.
    pub fn turned(&self) -> EdgeList {
        EdgeList { ends: self.ends.par_iter().map(|&(u, v)| (v, u)).collect(), weights: self.weights.clone() }
    }
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
    fn from_parts(
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

    /// Makes a version with these edges inserted; returns it and the number of new edges. A weight
    /// replaces that of an existing edge.
    pub fn insert(&self, edges: &EdgeList) -> (Rows, u64) {
        self.change(edges, merge)
    }

    /// Makes a version without these edges; returns it and the number of edges deleted.
    pub fn delete(&self, edges: &EdgeList) -> (Rows, u64) {
        self.change(edges, subtract)
    }

    fn change(&self, edges: &EdgeList, with: fn(&RowView, &[RowChange]) -> (ChangedRow, u64)) -> (Rows, u64) {
        if edges.ends.is_empty() || self.count() == 0 {
            return (self.clone(), 0);
        }
        let mut changes: Vec<RowChange> = match &edges.weights {
            None => edges.ends.par_iter().map(|&(u, v)| RowChange { u, v, weight: 1.0 }).collect(),
            Some(weights) => {
                edges.ends.par_iter().zip(weights).map(|(&(u, v), &weight)| RowChange { u, v, weight }).collect()
            }
        };
        // A stable sort: of duplicates in a batch the last one counts.
        changes.par_sort_by_key(|change| (u64::from(change.u) << 32) | u64::from(change.v));
        let page_of = |change: &RowChange| (change.u - self.first) as usize / ROWS_PER_PAGE;
        let groups: Vec<&[RowChange]> = changes.chunk_by(|a, b| page_of(a) == page_of(b)).collect();
        let done: Vec<(usize, RowPage, u64, i64, i64)> = groups
            .par_iter()
            .map(|group| {
                let number = page_of(&group[0]);
                let old = self.pages.get(number).and_then(Option::as_deref);
                let mut page = old.cloned().unwrap_or_else(|| vec![None; ROWS_PER_PAGE]);
                let (mut count, mut grown, mut lying) = (0, 0, 0);
                for row in group.chunk_by(|a, b| a.u == b.u) {
                    let vertex = row[0].u;
                    let view = RowView {
                        targets: self.row(vertex),
                        weights: self.is_weighted().then(|| self.row_weights(vertex)),
                    };
                    let (changed, here) = with(&view, row);
                    count += here;
                    grown += changed.targets.len() as i64 - view.targets.len() as i64;
                    let place = &mut page[(vertex - self.first) as usize % ROWS_PER_PAGE];
                    lying += changed.targets.len() as i64 - place.as_ref().map_or(0, |old| old.targets.len() as i64);
                    *place = Some(Arc::new(changed));
                }
                (number, page, count, grown, lying)
            })
            .collect();
        let mut next = Rows { is_plain: false, ..self.clone() };
        let pages = Arc::make_mut(&mut next.pages);
        pages.resize(self.count().div_ceil(ROWS_PER_PAGE), None);
        let mut total = 0;
        for (number, page, count, grown, lying) in done {
            pages[number] = Some(Arc::new(page));
            total += count;
            next.edges = next.edges.saturating_add_signed(grown);
            next.changed = next.changed.saturating_add_signed(lying);
        }
        if next.changed as usize * REBUILD_SHARE > next.edges as usize {
            next = next.rebuilt();
        }
        (next, total)
    }

    /// Builds a new base with the same rows.
    fn rebuilt(&self) -> Rows {
        let places = offsets((0..self.count()).map(|row| self.degree(self.first + row as Vertex) as u64));
        let blocks: Vec<usize> = (0..self.count()).step_by(ROWS_PER_UNIT).collect();
        let range = |block: usize| block..(block + ROWS_PER_UNIT).min(self.count());
        let targets: Vec<Vec<Vertex>> = blocks
            .par_iter()
            .map(|&block| range(block).flat_map(|row| self.row(self.first + row as Vertex).iter().copied()).collect())
            .collect();
        let weights = self.is_weighted().then(|| {
            let weights: Vec<Vec<f64>> = blocks
                .par_iter()
                .map(|&block| {
                    let each = |row| {
                        let vertex = self.first + row as Vertex;
                        let weights = self.row_weights(vertex);
                        (0..self.degree(vertex)).map(move |at| weights.get(at))
                    };
                    range(block).flat_map(each).collect()
                })
                .collect();
            weights.concat()
        });
        Rows::from_parts(self.first, self.count(), places, targets.concat(), weights)
    }
}

struct RowChange {
    u: Vertex,
    v: Vertex,
    weight: f64,
}

struct RowView<'a> {
    targets: &'a [Vertex],
    weights: Option<RowWeights<'a>>,
}

/// Merges these edges, ordered by target, into a row; also returns the number of new edges.
fn merge(row: &RowView, changes: &[RowChange]) -> (ChangedRow, u64) {
    let room = row.targets.len() + changes.len();
    let mut targets = Vec::with_capacity(room);
    let mut weights = row.weights.map(|_| Vec::with_capacity(room));
    let (mut at, mut new) = (0, 0);
    for same in changes.chunk_by(|a, b| a.v == b.v) {
        let change = &same[same.len() - 1];
        let upto = at + row.targets[at..].partition_point(|&v| v < change.v);
        targets.extend_from_slice(&row.targets[at..upto]);
        if let (Some(weights), Some(old)) = (&mut weights, row.weights) {
            weights.extend((at..upto).map(|i| old.get(i)));
            weights.push(change.weight);
        }
        targets.push(change.v);
        let is_there = row.targets.get(upto) == Some(&change.v);
        at = upto + usize::from(is_there);
        new += u64::from(!is_there);
    }
    targets.extend_from_slice(&row.targets[at..]);
    if let (Some(weights), Some(old)) = (&mut weights, row.weights) {
        weights.extend((at..row.targets.len()).map(|i| old.get(i)));
    }
    (ChangedRow { targets: targets.into(), weights: weights.map(Vec::into_boxed_slice) }, new)
}

/// Removes these edges from a row; also returns the number removed.
fn subtract(row: &RowView, changes: &[RowChange]) -> (ChangedRow, u64) {
    let gone = |v: Vertex| changes.binary_search_by_key(&v, |change| change.v).is_ok();
    let stay: Vec<usize> = (0..row.targets.len()).filter(|&at| !gone(row.targets[at])).collect();
    let targets: Box<[Vertex]> = stay.iter().map(|&at| row.targets[at]).collect();
    let weights = row.weights.map(|weights| stay.iter().map(|&at| weights.get(at)).collect());
    let count = (row.targets.len() - targets.len()) as u64;
    (ChangedRow { targets, weights }, count)
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

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    fn as_map(rows: &Rows) -> BTreeMap<(u32, u32), f64> {
        let each = |v: u32| {
            let weights = rows.row_weights(v);
            rows.row(v).iter().enumerate().map(move |(at, &w)| ((v, w), weights.get(at)))
        };
        (rows.first()..rows.first() + rows.count() as u32).flat_map(each).collect()
    }

    fn list(edges: &[(u32, u32, u8)], first: u32, count: u32, weighted: bool) -> EdgeList {
        EdgeList {
            ends: edges.iter().map(|e| (first + e.0 % count, e.1)).collect(),
            weights: weighted.then(|| edges.iter().map(|e| f64::from(e.2) / 10.0).collect()),
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn versions_hold_what_was_written(
            first in 0u32..100,
            count in 1u32..1500,
            weighted: bool,
            start in proptest::collection::vec((0u32..1500, 0u32..60, 0u8..9), 0..300),
            batches in proptest::collection::vec((proptest::bool::ANY,
                proptest::collection::vec((0u32..1500, 0u32..60, 0u8..9), 0..40)), 0..8),
        ) {
            let edges = list(&start, first, count, weighted);
            let mut rows = Rows::build(first, count as usize, &edges);
            let mut model = BTreeMap::new();
            for (at, &ends) in edges.ends.iter().enumerate() {
                let weight = edges.weights.as_ref().map_or(1.0, |weights| weights[at]);
                let slot = model.entry(ends).or_insert(weight);
                *slot = slot.min(weight);
            }
            prop_assert_eq!(as_map(&rows), model.clone());
            for (insert, batch) in batches {
                let batch = list(&batch, first, count, weighted);
                let (old, before) = (rows.clone(), model.clone());
                let size = model.len() as i64;
                let counted;
                if insert {
                    (rows, counted) = rows.insert(&batch);
                    for (at, &ends) in batch.ends.iter().enumerate() {
                        model.insert(ends, batch.weights.as_ref().map_or(1.0, |weights| weights[at]));
                    }
                } else {
                    (rows, counted) = rows.delete(&batch);
                    batch.ends.iter().for_each(|ends| { model.remove(ends); });
                }
                prop_assert_eq!(counted as i64, (model.len() as i64 - size).abs());
                prop_assert_eq!(rows.edges(), model.len() as u64);
                prop_assert_eq!(as_map(&rows), model.clone());
                prop_assert_eq!(as_map(&old), before);
            }
        }
    }
}
