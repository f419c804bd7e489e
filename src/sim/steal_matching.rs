//! Matches idle ranks with work when there are too many to simulate every steal request.
//!
//! In a real run an idle rank repeatedly asks random others, and is remembered by those it asked.
//! Ten thousand idle ranks send hundreds of thousands of messages a second, nearly all of them
//! unsuccessful; a simulator of them all would do nothing else. With more than [`MAX_EXACT_RANKS`]
//! ranks, unsuccessful requests are left out: an idle rank is matched with one that has surplus
//! tasks, and the successful request is delayed as chance would delay it. What follows from that
//! request is the protocol's own.
//!
//! A rank asks [`ROUND_SIZE`] others in each pause, so one of `n` ranks is found after `n /
//! (ROUND_SIZE * k)` pauses on average, where `k` may be found (or may find). With a lifeline in
//! reach of every round (`k >= n / ROUND_SIZE`) it is found at once.

use std::time::Duration;

use fastrand::Rng;

use super::random::{Subject, generator};

/// Up to this number of ranks, every request is simulated.
pub(super) const MAX_EXACT_RANKS: u32 = 64;

/// Number of ranks asked per round (`schedule/stealing.rs`).
const ROUND_SIZE: usize = 8;

/// A set of ranks from which one can be drawn.
#[derive(Debug, Default)]
struct RankSet {
    list: Vec<u32>,
    /// Position of each rank in the list, plus one.
    place: Vec<u32>,
}

impl RankSet {
    /// Adds a rank; false if it is already a member.
    fn insert(&mut self, rank: u32) -> bool {
        if self.place.len() <= rank as usize {
            self.place.resize(rank as usize + 1, 0);
        }
        if self.place[rank as usize] > 0 {
            return false;
        }
        self.list.push(rank);
        self.place[rank as usize] = self.list.len() as u32;
        true
    }

    fn remove(&mut self, rank: u32) {
        let Some(place) = self.place.get(rank as usize).filter(|&&place| place > 0) else { return };
        let at = *place as usize - 1;
        self.list.swap_remove(at);
        self.place[rank as usize] = 0;
        if let Some(&moved) = self.list.get(at) {
            self.place[moved as usize] = at as u32 + 1;
        }
    }

    fn draw(&self, rng: &mut Rng) -> Option<u32> {
        (!self.list.is_empty()).then(|| self.list[rng.usize(0..self.list.len())])
    }
}

/// A steal request that will succeed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Match {
    pub(super) thief: u32,
    pub(super) victim: u32,
    /// Time until the thief finds the victim.
    pub(super) after: Duration,
}

/// Idle ranks, ranks with surplus tasks, and the random draws that match them.
#[derive(Debug)]
pub(super) struct Search {
    ranks: usize,
    pause: Duration,
    rng: Rng,
    idle: RankSet,
    with_surplus: RankSet,
}

impl Search {
    pub(super) fn new(pause: Duration, seed: u64) -> Search {
        let rng = generator(seed, Subject::Network, 1);
        Search { ranks: 0, pause, rng, idle: RankSet::default(), with_surplus: RankSet::default() }
    }

    /// Sets the number of active ranks.
    pub(super) fn set_ranks(&mut self, ranks: usize) {
        self.ranks = ranks;
    }

    /// A rank has become idle and has no request under way.
    pub(super) fn add_idle(&mut self, thief: u32) -> Option<Match> {
        if !self.idle.insert(thief) {
            return None;
        }
        let victim = self.with_surplus.draw(&mut self.rng)?;
        Some(self.pair(thief, victim, self.with_surplus.list.len()))
    }

    /// A rank has surplus tasks.
    pub(super) fn add_surplus(&mut self, victim: u32) -> Option<Match> {
        self.with_surplus.insert(victim);
        let thief = self.idle.draw(&mut self.rng)?;
        Some(self.pair(thief, victim, self.idle.list.len()))
    }

    /// A rank is no longer idle, or has a request under way.
    pub(super) fn remove_idle(&mut self, rank: u32) {
        self.idle.remove(rank);
    }

    /// A rank has no surplus tasks any more.
    pub(super) fn remove_surplus(&mut self, rank: u32) {
        self.with_surplus.remove(rank);
    }

    fn pair(&mut self, thief: u32, victim: u32, found: usize) -> Match {
        self.idle.remove(thief);
        let pauses = self.ranks as f64 / (ROUND_SIZE * found.max(1)) as f64;
        let after = match pauses > 1.0 {
            true => self.pause.mul_f64(pauses * -(1.0 - self.rng.f64()).ln()),
            false => Duration::ZERO,
        };
        Match { thief, victim, after }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_idles_and_who_gives_are_brought_together_once() {
        let mut search = Search::new(Duration::from_millis(50), 1);
        search.set_ranks(8);
        assert_eq!(search.add_idle(3), None);
        assert_eq!(search.add_idle(3), None, "it waits already");
        let found = search.add_surplus(5).expect("somebody idles");
        assert_eq!((found.thief, found.victim, found.after), (3, 5, Duration::ZERO));
        assert_eq!(search.add_surplus(5), None, "nobody idles any more");
        assert_eq!(search.add_idle(4).map(|m| m.victim), Some(5));
        search.remove_surplus(5);
        assert_eq!(search.add_idle(6), None);
        search.remove_idle(6);
        assert_eq!(search.add_surplus(7), None);
    }

    #[test]
    fn one_in_a_crowd_is_found_late() {
        let mut search = Search::new(Duration::from_millis(50), 1);
        search.set_ranks(10_000);
        let mut total = Duration::ZERO;
        for _ in 0..200 {
            search.remove_surplus(5);
            assert_eq!(search.add_idle(3), None);
            total += search.add_surplus(5).expect("one idles").after;
        }
        let mean = total.as_secs_f64() / 200.0;
        assert!((mean - 62.5).abs() < 15.0, "{mean}");
    }
}
