//! Connections whose peer is not authenticated yet.
//!
//! Their number is bounded, and no peer can block others by holding many: when there are too many,
//! the address with the most of them loses its oldest one.

use std::collections::{HashMap, VecDeque};
use std::net::IpAddr;

/// The unauthenticated connections of one listener. `E` is the handle that closes a connection.
pub(crate) struct Strangers<E> {
    most: usize,
    /// Number, address and handle of each, oldest first.
    list: VecDeque<(u64, IpAddr, E)>,
}

impl<E> Strangers<E> {
    /// Allows at most `most` such connections at a time.
    pub(crate) fn new(most: usize) -> Strangers<E> {
        Strangers { most, list: VecDeque::new() }
    }

    /// Adds a connection under a unique number. Returns the handle of the connection that must be
    /// closed in exchange, if any.
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

    /// Removes a connection that has authenticated or closed. `None` if it was removed before to
    /// make room.
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
        // The oldest connection of all is not the oldest of the address with the most.
        assert_eq!(strangers.come(4, c, 4), Some(1));
        assert_eq!(strangers.leave(1), None, "it has given way");
        assert_eq!(strangers.leave(2), Some(2));
        assert_eq!(strangers.come(5, a, 5), None);
        assert_eq!(strangers.come(6, a, 6), Some(3), "also to a newer one of its own address");
        assert_eq!(strangers.come(7, b, 7), Some(0), "of several that hold as many the oldest");
    }
}
