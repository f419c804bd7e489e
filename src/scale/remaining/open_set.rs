//! The set of open tasks: one bit per task and, for every 64 bits, a bit that says whether any is
//! set.
//!
//! A removal usually costs one write, an enumeration a few words per member, whatever the number of
//! removed tasks.

/// A set of the numbers from 0 to a bound, full at the start; members can only be removed.
#[derive(Clone, Debug)]
pub(super) struct OpenSet {
    /// Bits of the members, then bits of the non-zero words of the level below; the last level has
    /// one word.
    levels: Vec<Vec<u64>>,
}

impl OpenSet {
    /// All numbers below `size`.
    pub fn full(size: usize) -> OpenSet {
        let mut levels = Vec::new();
        let mut bits = size;
        loop {
            let mut words = vec![u64::MAX; bits.div_ceil(64).max(1)];
            let rest = bits - (words.len() - 1) * 64;
            if let Some(last) = words.last_mut().filter(|_| rest < 64) {
                *last = (1 << rest) - 1;
            }
            bits = words.len();
            levels.push(words);
            if bits == 1 {
                return OpenSet { levels };
            }
        }
    }

    /// Removes a member.
    pub fn remove(&mut self, number: u32) {
        let mut at = number as usize;
        for words in &mut self.levels {
            let Some(word) = words.get_mut(at / 64) else { return };
            *word &= !(1 << (at % 64));
            if *word != 0 {
                return;
            }
            at /= 64;
        }
    }

    /// The members in ascending order.
    pub fn iter(&self) -> impl Iterator<Item = u32> + '_ {
        let mut next = self.from(0);
        std::iter::from_fn(move || {
            let found = next?;
            next = self.from(found + 1);
            Some(found as u32)
        })
    }

    /// The lowest member at or above `from`.
    fn from(&self, from: usize) -> Option<usize> {
        let mut at = from;
        for (height, words) in self.levels.iter().enumerate() {
            let word = words.get(at / 64)? & (u64::MAX << (at % 64));
            if word != 0 {
                at = at / 64 * 64 + word.trailing_zeros() as usize;
                // Descends again, to the first bit of each non-zero word.
                for below in self.levels[..height].iter().rev() {
                    at = at * 64 + below[at].trailing_zeros() as usize;
                }
                return Some(at);
            }
            at = at / 64 + 1;
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn members_come_in_order_whatever_was_removed() {
        for (seed, size) in [0, 1, 63, 64, 65, 4095, 4096, 4097, 70_000].into_iter().enumerate() {
            let mut random = fastrand::Rng::with_seed(seed as u64);
            let mut known: BTreeSet<u32> = (0..size).collect();
            let mut set = OpenSet::full(size as usize);
            for round in 0..6 {
                assert!(set.iter().eq(known.iter().copied()), "{size} numbers, round {round}");
                for _ in 0..size / 3 {
                    let gone = random.u32(0..size);
                    known.remove(&gone);
                    set.remove(gone);
                }
            }
            known.iter().for_each(|&rest| set.remove(rest));
            assert_eq!(set.iter().next(), None);
        }
    }
}
