//! Compressed sparse rows: for each of `n` rows a slice of `u32` items, in two flat arrays.
//!
//! All adjacency in Phalanx is kept this way: 4 bytes a row and 4 bytes an item, read-only once built.

use serde::{Deserialize, Serialize};

/// Rows of `u32` items.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Csr {
    offsets: Vec<u32>,
    items: Vec<u32>,
}

impl Csr {
    /// Builds `rows` rows from a source that yields every `(row, item)` pair; it is asked twice (to count, then to fill) and must
    /// yield the same pairs both times. Items keep the order in which their row's pairs come.
    pub fn build(rows: usize, mut each: impl FnMut(&mut dyn FnMut(u32, u32))) -> Csr {
        let mut offsets = vec![0u32; rows + 1];
        each(&mut |row, _| offsets[row as usize + 1] += 1);
        for i in 0..rows {
            offsets[i + 1] += offsets[i];
        }
        let mut next = offsets.clone();
        let mut items = vec![0u32; offsets[rows] as usize];
        each(&mut |row, item| {
            let at = &mut next[row as usize];
            items[*at as usize] = item;
            *at += 1;
        });
        Csr { offsets, items }
    }

    /// The items of one row.
    #[inline]
    pub fn row(&self, row: usize) -> &[u32] {
        &self.items[self.offsets[row] as usize..self.offsets[row + 1] as usize]
    }

    /// Number of rows.
    pub fn rows(&self) -> usize {
        self.offsets.len().saturating_sub(1)
    }

    /// Number of items in all rows.
    pub fn len(&self) -> usize {
        self.items.len()
    }

    /// True if no row has an item.
    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    /// Where each row begins in [`Csr::items`]; one entry more than there are rows.
    pub fn offsets(&self) -> &[u32] {
        &self.offsets
    }

    /// All items, row after row.
    pub fn items(&self) -> &[u32] {
        &self.items
    }

    /// True if the offsets ascend, end at the number of items, and every item is below `limit` once `mask` is applied to it:
    /// what a receiver checks before it indexes by what another process sent.
    pub fn is_sound(&self, rows: usize, mask: u32, limit: u32) -> bool {
        self.offsets.len() == rows + 1
            && self.offsets[0] == 0
            && self.offsets.windows(2).all(|w| w[0] <= w[1])
            && self.offsets[rows] as usize == self.items.len()
            && self.items.iter().all(|&item| item & mask < limit)
    }

    /// Bytes that it occupies on the heap.
    pub fn heap_bytes(&self) -> usize {
        4 * (self.offsets.capacity() + self.items.capacity())
    }
}
