//! Links between rank 0 and the others that fail as those of `fabric::bridge` do: each direction by
//! itself, for a while or for good, and processes that stand still.
//!
//! Each side closes a link on which nothing has arrived for [`MAX_SILENCE_NS`]. What has not
//! arrived then is lost; the other side notices the end once that gets through, or by the silence.

use std::cmp::Reverse;

use super::{Happening, Life, World};
use crate::model::Rank;
use crate::schedule::coordinator::Change;
use crate::schedule::worker;

/// A second of the real bridge: runs here last milliseconds.
pub(in crate::schedule::tests) const SECOND_NS: u64 = 120_000;

/// Time after which a rank detects that rank 0 is silent: 2.5 s, as `TWO_BEATS_MISSING`.
const LINK_TIMEOUT_NS: u64 = 5 * SECOND_NS / 2;

/// Time after which a side closes a silent link, as the bridge's `MAX_SILENCE`.
pub(in crate::schedule::tests) const MAX_SILENCE_NS: u64 = 15 * SECOND_NS;

/// A direction of the link of a rank.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::schedule::tests) enum Way {
    /// From rank 0 to it.
    Down,
    /// From it to rank 0.
    Up,
}

/// How often something happened to links.
#[derive(Clone, Copy, Debug, Default)]
pub(in crate::schedule::tests) struct Seen {
    /// Rank 0 closed a link whose rank lived.
    pub(in crate::schedule::tests) given_up: u32,
    /// A rank closed its link, and rank 0 had not.
    pub(in crate::schedule::tests) left: u32,
    /// A rank closed its link, and so had rank 0, neither knowing of the other.
    pub(in crate::schedule::tests) both: u32,
    /// A frozen rank that had been given up went on.
    pub(in crate::schedule::tests) thawed: u32,
    /// A host whose rank had ended joined again.
    pub(in crate::schedule::tests) again: u32,
}

impl World {
    /// Nothing passes in this direction for a time; who waits for it detects that after a while.
    pub(super) fn cut(&mut self, rank: Rank, way: Way, time: u64) {
        let (mut since, mut healed) = (self.now, self.now + time);
        if let Some(before) = self.cut.get(&(rank, way)).filter(|before| before.1 > self.now) {
            (since, healed) = (before.0, healed.max(before.1));
        }
        self.cut.insert((rank, way), (since, healed));
        if way == Way::Down {
            self.at(self.now + LINK_TIMEOUT_NS, Happening::LinkChanged(rank, false));
            self.at(healed.max(self.now + LINK_TIMEOUT_NS), Happening::LinkChanged(rank, true));
        }
        self.at(self.now.max(since + MAX_SILENCE_NS), Happening::Silent(rank, way));
    }

    /// A process stands still: it sends nothing, and what arrives waits.
    pub(super) fn freeze(&mut self, rank: Rank, time: u64) {
        let thaw = self.thaw(rank).max(self.now + time);
        self.thaws.insert(rank, thaw);
        let ends = std::mem::take(&mut self.ends).into_iter();
        let late = |Reverse(end): Reverse<(u64, u32, _, u64)>| {
            Reverse((if end.1 == rank.0 { end.0.max(thaw) } else { end.0 }, end.1, end.2, end.3))
        };
        self.ends = ends.map(late).collect();
        match rank {
            Rank::ZERO => {
                let ranks = (1..self.life.len() as u32).map(Rank);
                ranks.for_each(|rank| self.cut(rank, Way::Down, time));
            }
            rank => self.cut(rank, Way::Up, time),
        }
    }

    /// Until when a rank stands still; not after now if it does not.
    pub(super) fn thaw(&self, rank: Rank) -> u64 {
        self.thaws.get(&rank).copied().unwrap_or(0)
    }

    /// True if a rank has noticed that rank 0 is silent.
    pub(super) fn is_cut_off(&self, rank: usize) -> bool {
        let cut = self.cut.get(&(Rank(rank as u32), Way::Down));
        cut.is_some_and(|&(since, healed)| since + LINK_TIMEOUT_NS < self.now && self.now < healed)
    }

    /// When something that is sent now gets through, if it has to wait: ranks reach each other
    /// through rank 0.
    pub(super) fn healed(&self, from: Rank, to: Rank) -> Option<u64> {
        let ways = [(from, Way::Up), (to, Way::Down)].into_iter().filter(|_| from != to);
        ways.filter_map(|way| Some(self.cut.get(&way)?.1)).max()
    }

    /// When rank 0 can answer a rank, if it cannot now.
    pub(super) fn answered(&self, rank: Rank) -> Option<u64> {
        let ways = [self.healed(rank, Rank::ZERO), self.healed(Rank::ZERO, rank), Some(self.thaw(Rank::ZERO))];
        ways.into_iter().flatten().max()
    }

    /// A rank notices the silence of rank 0, or its end.
    pub(super) fn link_changed(&mut self, rank: Rank, is_connected: bool) {
        let cut = self.cut.get(&(rank, Way::Down)).is_some_and(|&(_, healed)| self.now < healed);
        if is_connected != cut {
            self.step(rank.index(), worker::WorkerEvent::CutOff(cut));
        }
    }

    /// Nothing may have arrived for so long that the link is closed.
    pub(super) fn silent(&mut self, rank: Rank, way: Way) {
        let is_over = |&(since, healed): &(u64, u64)| since + MAX_SILENCE_NS <= self.now && self.now < healed;
        if !self.cut.get(&(rank, way)).is_some_and(is_over) || !self.lives(rank.index()) {
            return;
        }
        if way == Way::Up {
            return if self.life[rank.index()] == Life::Alive {
                self.give_up(rank)
            };
        }
        match self.lost.contains(&rank) {
            true => self.seen.both += 1,
            false => self.seen.left += 1,
        }
        self.end_process(rank);
        let through = self.now.max(self.healed(rank, Rank::ZERO).unwrap_or(0));
        let later = through + self.rng.u64(1..=self.delay);
        // By the silence, if that is earlier.
        let silence = self.cut.get(&(rank, Way::Up)).map_or(u64::MAX, |&(since, _)| since + MAX_SILENCE_NS);
        self.at(later.min(silence.max(self.now)), Happening::Notice(rank));
    }

    /// Rank 0 closes the link of a rank that may live. What has been sent to it still arrives, and
    /// the end of the link after that.
    fn give_up(&mut self, rank: Rank) {
        self.seen.given_up += 1;
        self.closed.insert(rank);
        self.life[rank.index()] = Life::DeclaredLost;
        self.declared_lost.insert(rank.index());
        self.haunt(rank.index());
        self.drop_unarrived(rank);
        let last = self.in_flight.iter().filter(|m| m.1.1 == rank && m.1.0 != rank).map(|m| m.0.0).max();
        let through = last.unwrap_or(0).max(self.healed(Rank::ZERO, rank).unwrap_or(0)).max(self.now);
        let later = through + self.rng.u64(1..=self.delay);
        self.at(later, Happening::LinkEnded(rank));
        self.lose(rank);
    }

    /// The link of a rank has ended for rank 0.
    pub(super) fn lose(&mut self, rank: Rank) {
        if self.lost.insert(rank) {
            self.change(rank, Change::Lose);
        }
    }

    /// A rank that was given up reads the end of its link.
    pub(super) fn link_ended(&mut self, rank: Rank) {
        if self.life[rank.index()] == Life::DeclaredLost {
            self.seen.thawed += u32::from(self.thaws.contains_key(&rank));
            self.end_process(rank);
        }
    }

    /// A process ends what it runs, and itself; its host may join again.
    fn end_process(&mut self, rank: Rank) {
        self.kill(rank);
        if self.rng.bool() && self.finished.is_none() {
            self.seen.again += 1;
            let later = self.now.max(self.answered(rank).unwrap_or(0)) + self.rng.u64(0..10 * SECOND_NS);
            self.at(later, Happening::Join(self.slots(rank.index()), false));
        }
    }

    /// Runs on until no rank that was given up lives.
    pub(in crate::schedule::tests) fn run_to_last_process(&mut self) {
        while self.life.contains(&Life::DeclaredLost) {
            self.advance();
        }
        assert!(self.ends.is_empty(), "tasks run on: {:?}", self.ends);
    }
}
