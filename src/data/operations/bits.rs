//! A bit set of vertices that several threads may update concurrently.

use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crate::data::Vertex;

/// A set of vertices.
pub struct Bits {
    words: Vec<AtomicU64>,
}

impl Bits {
    /// The empty set for vertices below `count`.
    pub fn new(count: Vertex) -> Bits {
        Bits { words: (0..(count as usize).div_ceil(64)).map(|_| AtomicU64::new(0)).collect() }
    }

    /// True if the vertex is in it.
    #[inline]
    pub fn has(&self, vertex: Vertex) -> bool {
        self.words[vertex as usize / 64].load(Relaxed) >> (vertex % 64) & 1 == 1
    }

    /// Inserts a vertex. Returns true if it was not in the set.
    #[inline]
    pub fn insert(&self, vertex: Vertex) -> bool {
        let (word, bit) = (&self.words[vertex as usize / 64], 1 << (vertex % 64));
        word.load(Relaxed) & bit == 0 && word.fetch_or(bit, Relaxed) & bit == 0
    }

    /// Inserts the vertices set in a word of 64 vertices.
    #[inline]
    pub fn insert_word(&self, word: usize, bits: u64) {
        if bits != 0 {
            self.words[word].fetch_or(bits, Relaxed);
        }
    }

    /// Removes all vertices.
    pub fn clear(&mut self) {
        self.words.iter_mut().for_each(|word| *word.get_mut() = 0);
    }

    /// The members within a range, ascending.
    pub fn within(&self, range: Range<Vertex>) -> impl Iterator<Item = Vertex> + '_ {
        let (first, last) = (range.start as usize / 64, (range.end as usize).div_ceil(64));
        (first..last.max(first)).flat_map(move |at| {
            let mut bits = self.words[at].load(Relaxed);
            let base = at as u64 * 64;
            if base < u64::from(range.start) {
                bits &= u64::MAX << (u64::from(range.start) - base);
            }
            if base + 64 > u64::from(range.end) {
                bits &= u64::MAX.checked_shr((base + 64 - u64::from(range.end)) as u32).unwrap_or(0);
            }
            std::iter::from_fn(move || {
                let bit = bits.trailing_zeros();
                (bit < 64).then(|| {
                    bits &= bits - 1;
                    (base + u64::from(bit)) as Vertex
                })
            })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::Bits;

    #[test]
    fn ranges_of_a_set_are_found() {
        let bits = Bits::new(200);
        let all = [0u32, 1, 63, 64, 65, 127, 128, 199];
        assert!(all.iter().all(|&v| bits.insert(v) && !bits.insert(v)));
        for from in [0, 1, 2, 63, 64, 100, 199, 200] {
            for to in [from, 64, 65, 128, 199, 200] {
                let want: Vec<u32> = all.iter().copied().filter(|v| (from..to).contains(v)).collect();
                assert_eq!(bits.within(from..to).collect::<Vec<_>>(), want, "{from}..{to}");
            }
        }
    }
}
