//! Connections whose other side has not shown yet that it may be here.
//!
//! They are few, and nobody keeps others out by holding many: where there are too many, the address
//! that has most of them loses its oldest one.

use std::collections::{HashMap, VecDeque};
use std::net::IpAddr;

/// The strangers at one door. `E` ends a connection.
pub(crate) struct Strangers<E> {
    most: usize,
    /// Number, address and end of each, oldest first.
    list: VecDeque<(u64, IpAddr, E)>,
}

impl<E> Strangers<E> {
    /// Keeps at most `most` such connections at a time.
    pub(crate) fn new(most: usize) -> Strangers<E> {
        Strangers { most, list: VecDeque::new() }
    }

    /// Adds a connection under a number of its own. Returns the one to end that gives way to it.
    #[must_use]
    pub(crate) fn come(&mut self, number: u64, from: IpAddr, end: E) -> Option<E> {
        self.list.push_back((number, from, end));
        if self.list.len() <= self.most {
            return None;
        }
        let mut counts: HashMap<IpAddr, usize> = HashMap::new();
        self.list.iter().for_each(|(_, from, _)| *counts.entry(*from).or_default() += 1);
        let most = counts.values().max()?;
        let oldest = self.list.iter().position(|(_, from, _)| counts[from] == *most)?;
        self.list.remove(oldest).map(|(.., end)| end)
    }

    /// A connection is no stranger any more, or has gone. `None` if it had to give way before.
    pub(crate) fn leave(&mut self, number: u64) -> Option<E> {
        let at = self.list.iter().position(|(other, ..)| *other == number)?;
        self.list.remove(at).map(|(.., end)| end)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_holds_most_gives_way_and_the_oldest_first() {
        let (a, b, c) = (IpAddr::from([10, 0, 0, 1]), IpAddr::from([10, 0, 0, 2]), IpAddr::from([10, 0, 0, 3]));
        let mut strangers = Strangers::new(4);
        for (number, from) in [(0, b), (1, a), (2, a), (3, a)] {
            assert_eq!(strangers.come(number, from, number), None);
        }
        // The oldest of all is not the oldest of those who hold most.
        assert_eq!(strangers.come(4, c, 4), Some(1));
        assert_eq!(strangers.leave(1), None, "it has given way");
        assert_eq!(strangers.leave(2), Some(2));
        assert_eq!(strangers.come(5, a, 5), None);
        assert_eq!(strangers.come(6, a, 6), Some(3), "also to a newer one of its own address");
        assert_eq!(strangers.come(7, b, 7), Some(0), "of several that hold as many the oldest");
    }
}
