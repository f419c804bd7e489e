//! A set of ranks, stored as runs of consecutive numbers: a world of thousands of active ranks is
//! one run.

use serde::{Deserialize, Serialize};

use crate::model::Rank;

/// Ranks in ascending order, as `(first, count)`; runs neither touch nor overlap.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ranks(Vec<(u32, u32)>);

impl Ranks {
    /// Ranks 0 to `count - 1`.
    pub fn first(count: u32) -> Ranks {
        (0..count).collect()
    }

    /// How many there are.
    pub fn len(&self) -> u32 {
        self.0.iter().fold(0, |sum, run| sum.saturating_add(run.1))
    }

    /// True if there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// True if a rank is one of them.
    pub fn contains(&self, rank: Rank) -> bool {
        self.position(rank).is_some()
    }

    /// Number of members below a rank, if it is a member itself.
    pub fn position(&self, rank: Rank) -> Option<u32> {
        let mut before = 0;
        for &(first, count) in &self.0 {
            if rank.0 >= first && rank.0 - first < count {
                return Some(before + (rank.0 - first));
            }
            before += count;
        }
        None
    }

    /// The member at a position, counted from 0.
    pub fn nth(&self, mut position: u32) -> Option<Rank> {
        for &(first, count) in &self.0 {
            if position < count {
                return Some(Rank(first + position));
            }
            position -= count;
        }
        None
    }

    /// All members, ascending.
    pub fn iter(&self) -> impl Iterator<Item = Rank> + '_ {
        self.0.iter().flat_map(|&(first, count)| (first..).take(count as usize).map(Rank))
    }

    /// The next member above a rank, or else the lowest.
    pub fn after(&self, rank: Rank) -> Option<Rank> {
        let above = |&(first, count): &(u32, u32)| match rank.0 < first {
            true => Some(first),
            false => (rank.0 - first + 1 < count).then_some(rank.0 + 1),
        };
        self.0.iter().find_map(above).map(Rank).or_else(|| self.nth(0))
    }

    /// True if the runs are valid, that is, as `collect` makes them; data from another process may
    /// not be.
    pub fn is_sound(&self) -> bool {
        let end = |&(first, count): &(u32, u32)| first.checked_add(count).filter(|_| count > 0);
        self.0.iter().all(|run| end(run).is_some()) && self.0.windows(2).all(|w| end(&w[0]) < Some(w[1].0))
    }
}

impl FromIterator<u32> for Ranks {
    /// From numbers in ascending order.
    fn from_iter<I: IntoIterator<Item = u32>>(ranks: I) -> Ranks {
        let mut runs: Vec<(u32, u32)> = Vec::new();
        for rank in ranks {
            match runs.last_mut() {
                Some((first, count)) if *first + *count == rank => *count += 1,
                _ => runs.push((rank, 1)),
            }
        }
        Ranks(runs)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_answer_as_a_list_would() {
        let list = [0, 1, 2, 5, 7, 8];
        let ranks: Ranks = list.into_iter().collect();
        assert_eq!((ranks.len(), ranks.is_sound()), (6, true));
        for (at, &rank) in list.iter().enumerate() {
            assert_eq!(ranks.position(Rank(rank)), Some(at as u32));
            assert_eq!(ranks.nth(at as u32), Some(Rank(rank)));
            assert_eq!(ranks.after(Rank(rank)), Some(Rank(list[(at + 1) % list.len()])));
        }
        assert_eq!((ranks.position(Rank(6)), ranks.nth(6)), (None, None));
        assert_eq!((ranks.after(Rank(3)), ranks.after(Rank(99))), (Some(Rank(5)), Some(Rank(0))));
        assert!(!Ranks(vec![(0, 2), (2, 1)]).is_sound() && !Ranks(vec![(u32::MAX, 2)]).is_sound());
    }
}
