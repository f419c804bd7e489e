//! Compressed sparse rows: for each of `n` rows a slice of `u32` items, in two flat arrays.
//!
//! All adjacency lists are stored in this form, with 4 bytes per row and 4 bytes per item,
//! read-only after construction. Rows after the last non-empty one are not stored, so a graph
//! without edges takes no memory.
//!
//! On the wire, the first item of a row is encoded relative to the first item of the previous row,
//! and the others relative to their predecessors: rows of the same relative shape become equal
//! symbols, which `numbers` compresses.

use serde::de::Error;
use serde::ser::SerializeTuple;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use thiserror::Error;

use crate::numbers::{Symbols, Unpacked};

/// Rows of `u32` items.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Csr {
    rows: u32,
    /// Start of each row in `items` up to the last non-empty row, then the end of that row; empty
    /// if there are no items.
    offsets: Vec<u32>,
    items: Vec<u32>,
}

/// Error: too many items.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("{0} items, more than 32 bits can count")]
pub struct TooMany(pub u64);

/// A source of `(row, item)` pairs, which it passes to its argument.
pub type PairSource<'a> = dyn FnMut(&mut dyn FnMut(u32, u32)) + 'a;

impl Csr {
    /// Builds `rows` rows from a source that yields all `(row, item)` pairs. The source is called
    /// twice (to count, then to fill) and must yield the same pairs both times. Items of a row keep
    /// their order.
    ///
    /// # Errors
    /// If there are 2^32 items or more.
    pub fn build(rows: usize, mut each: impl FnMut(&mut dyn FnMut(u32, u32))) -> Result<Csr, TooMany> {
        let mut offsets = vec![0u32; rows + 1];
        let mut count = 0u64;
        each(&mut |row, _| {
            // Wraps only if the total is too large, which is rejected below.
            offsets[row as usize] = offsets[row as usize].wrapping_add(1);
            count += 1;
        });
        if count > u64::from(u32::MAX) {
            return Err(TooMany(count));
        }
        offsets.truncate(offsets.iter().rposition(|&n| n > 0).map_or(0, |last| last + 2));
        offsets.shrink_to_fit();
        let mut end = 0;
        for offset in &mut offsets {
            end += std::mem::replace(offset, end);
        }
        let mut items = vec![0u32; count as usize];
        // While rows are filled, each offset moves from the start of its row to the end, where the
        // next row starts.
        each(&mut |row, item| {
            let at = &mut offsets[row as usize];
            items[*at as usize] = item;
            *at += 1;
        });
        if let Some(last) = offsets.len().checked_sub(1) {
            offsets.copy_within(..last, 1);
            offsets[0] = 0;
        }
        Ok(Csr { rows: rows as u32, offsets, items })
    }

    /// Builds rows in order: `fill` appends the items of each row. `most` is the maximum total
    /// number of items.
    pub fn in_order(rows: usize, most: usize, mut fill: impl FnMut(u32, &mut Vec<u32>)) -> Csr {
        let mut items = Vec::with_capacity(most);
        let mut offsets = Vec::new();
        if most > 0 {
            offsets.reserve_exact(rows + 1);
            offsets.push(0);
            for row in 0..rows as u32 {
                fill(row, &mut items);
                offsets.push(items.len() as u32);
            }
            let kept = offsets.iter().rposition(|&end| (end as usize) < items.len()).map_or(0, |last| last + 2);
            offsets.truncate(kept);
        }
        offsets.shrink_to_fit();
        items.shrink_to_fit();
        Csr { rows: rows as u32, offsets, items }
    }

    /// Reverses all edges: `to` maps a row and an item to the row and item of the reversed edge.
    pub(super) fn transposed(&self, to: impl Fn(u32, u32) -> (u32, u32)) -> Csr {
        let each = |put: &mut dyn FnMut(u32, u32)| {
            for row in 0..self.rows {
                self.row(row as usize).iter().for_each(|&item| {
                    let (row, item) = to(row, item);
                    put(row, item);
                });
            }
        };
        // The number of items is unchanged, so this cannot overflow.
        Csr::build(self.rows(), each).unwrap_or_default()
    }

    /// The items of one row; empty if there is no such row.
    #[inline]
    pub fn row(&self, row: usize) -> &[u32] {
        match self.offsets.get(row + 1) {
            Some(&end) => &self.items[self.offsets[row] as usize..end as usize],
            None => &[],
        }
    }

    /// The range of a row's items among all items.
    pub fn range(&self, row: usize) -> std::ops::Range<usize> {
        match self.offsets.get(row..row + 2) {
            Some(ends) => ends[0] as usize..ends[1] as usize,
            None => self.items.len()..self.items.len(),
        }
    }

    /// Number of rows.
    pub fn rows(&self) -> usize {
        self.rows as usize
    }

    /// Total number of items.
    pub fn len(&self) -> usize {
        self.items.len()
    }

    /// True if there are no items.
    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    /// All items, row by row.
    pub fn items(&self) -> &[u32] {
        &self.items
    }

    /// True if there are `rows` rows and every item, masked with `mask`, is below `limit`. A
    /// receiver checks this before it uses items from another process as indices.
    pub fn is_sound(&self, rows: usize, mask: u32, limit: u32) -> bool {
        self.rows() == rows && self.items.iter().all(|&item| item & mask < limit)
    }
}

impl Serialize for Csr {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let length = |at: usize| if at == 0 { 0 } else { self.offsets[at] - self.offsets[at - 1] };
        let mut items = self.items.clone();
        tell_apart(&self.offsets, &mut items);
        let mut tuple = serializer.serialize_tuple(3)?;
        tuple.serialize_element(&self.rows)?;
        tuple.serialize_element(&Symbols(self.offsets.len(), length))?;
        tuple.serialize_element(&Symbols(items.len(), |at| items[at]))?;
        tuple.end()
    }
}

impl<'de> Deserialize<'de> for Csr {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let (rows, Unpacked(mut offsets), Unpacked(mut items)): (u32, Unpacked<u32>, Unpacked<u32>) =
            Deserialize::deserialize(deserializer)?;
        let mut sum = Some(0u32);
        for offset in &mut offsets {
            sum = sum.and_then(|sum| sum.checked_add(*offset));
            *offset = sum.unwrap_or(0);
        }
        let kept = offsets.len().saturating_sub(1);
        let first = offsets.first().copied().unwrap_or(0);
        if kept > rows as usize || first != 0 || sum.is_none_or(|sum| sum as usize != items.len()) {
            return Err(D::Error::custom("rows that do not add up"));
        }
        put_together(&offsets, &mut items);
        Ok(Csr { rows, offsets, items })
    }
}

/// The non-empty rows as ranges of all items.
fn filled(offsets: &[u32]) -> impl DoubleEndedIterator<Item = std::ops::Range<usize>> {
    offsets.windows(2).map(|w| w[0] as usize..w[1] as usize).filter(|row| !row.is_empty())
}

/// Converts items to wrapping differences in place.
fn tell_apart(offsets: &[u32], items: &mut [u32]) {
    let mut first = 0;
    for row in filled(offsets) {
        let mut before = std::mem::replace(&mut first, items[row.start]);
        for item in &mut items[row] {
            let difference = item.wrapping_sub(before);
            before = std::mem::replace(item, difference);
        }
    }
}

/// Converts differences to items in place.
fn put_together(offsets: &[u32], items: &mut [u32]) {
    let mut first = 0u32;
    for row in filled(offsets) {
        let mut before = first;
        first = first.wrapping_add(items[row.start]);
        for item in &mut items[row] {
            before = before.wrapping_add(*item);
            *item = before;
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn of(rows: &[Vec<u32>]) -> Csr {
        let pairs = |put: &mut dyn FnMut(u32, u32)| {
            rows.iter().zip(0..).for_each(|(items, row)| items.iter().for_each(|&item| put(row, item)));
        };
        Csr::build(rows.len(), pairs).unwrap()
    }

    #[test]
    fn rows_without_items_cost_nothing() {
        let csr = Csr::build(1_000_000, |_| {}).unwrap();
        assert_eq!((csr.rows(), csr.offsets.capacity(), csr.row(999_999)), (1_000_000, 0, &[][..]));
        assert!(postcard::to_stdvec(&csr).unwrap().len() < 10);
    }

    #[test]
    fn a_stencil_of_a_million_rows_travels_as_its_first() {
        let width = 1000;
        let row = |i: u32| (i % width).saturating_sub(1)..(i % width + 2).min(width);
        let each = |put: &mut dyn FnMut(u32, u32)| {
            (0..999_000).for_each(|i| row(i).for_each(|k| put(i, (i / width + 1) * width + k)));
        };
        let csr = Csr::build(1_000_000, each).unwrap();
        let bytes = postcard::to_stdvec(&csr).unwrap();
        assert!(bytes.len() < 100, "{} bytes", bytes.len());
        assert_eq!(postcard::from_bytes::<Csr>(&bytes).unwrap(), csr);
    }

    proptest! {
        #[test]
        fn rows_come_back(rows in prop::collection::vec(prop::collection::vec(any::<u32>(), 0..4), 0..20)) {
            let csr = of(&rows);
            prop_assert_eq!(csr.rows(), rows.len());
            for (i, row) in rows.iter().enumerate() {
                prop_assert_eq!(csr.row(i), &row[..]);
                prop_assert_eq!(&csr.items()[csr.range(i)], &row[..]);
            }
            let most = rows.iter().map(Vec::len).sum::<usize>();
            prop_assert_eq!(&Csr::in_order(rows.len(), most, |i, out| out.extend(&rows[i as usize])), &csr);
            let bytes = postcard::to_stdvec(&csr).unwrap();
            prop_assert_eq!(postcard::from_bytes::<Csr>(&bytes).unwrap(), csr);
        }

        #[test]
        fn any_bytes_are_survived(bytes in prop::collection::vec(any::<u8>(), 0..40)) {
            if let Ok(csr) = postcard::from_bytes::<Csr>(&bytes) {
                // Every row can be read, and together they are all items.
                let kept = csr.offsets.len() + 1;
                prop_assert_eq!((0..kept).map(|row| csr.row(row).len()).sum::<usize>(), csr.len());
            }
        }
    }
}
