//! Makes a new version of rows from a batch of changes.
//!
//! Changed rows are kept in pages beside the base; once they hold a large share of all edges, a new
//! base is built (DESIGN: a sorted delta per vertex costs about a fifth of a read; Wheatman et al.,
//! VLDB 2024).

use std::sync::Arc;

use rayon::prelude::*;

use super::build::offsets;
use super::{EdgeList, ROWS_PER_UNIT, RowWeights, Rows};
use crate::data::Vertex;

/// Rows per page of changes.
pub(super) const ROWS_PER_PAGE: usize = 512;

/// A new base is built when changed rows hold more than 1/`REBUILD_SHARE` of all edges.
const REBUILD_SHARE: usize = 4;

#[derive(Debug)]
pub(super) struct ChangedRow {
    pub(super) targets: Box<[Vertex]>,
    pub(super) weights: Option<Box<[f64]>>,
}

pub(super) type RowPage = Vec<Option<Arc<ChangedRow>>>;

impl Rows {
    /// Makes a version with these edges inserted; returns it and the number of new edges. Existing
    /// edges keep their weight; of duplicates the lightest is inserted.
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
        // Of duplicates in a batch the first one counts, which is the lightest.
        let ends = |change: &RowChange| (u64::from(change.u) << 32) | u64::from(change.v);
        changes.par_sort_unstable_by(|a, b| ends(a).cmp(&ends(b)).then(a.weight.total_cmp(&b.weight)));
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
        let change = &same[0];
        let upto = at + row.targets[at..].partition_point(|&v| v < change.v);
        if row.targets.get(upto) == Some(&change.v) {
            continue;
        }
        targets.extend_from_slice(&row.targets[at..upto]);
        if let (Some(weights), Some(old)) = (&mut weights, row.weights) {
            weights.extend((at..upto).map(|i| old.get(i)));
            weights.push(change.weight);
        }
        targets.push(change.v);
        (at, new) = (upto, new + 1);
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
