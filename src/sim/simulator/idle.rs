//! Ranks without work: which rank asks which, which ranks doze because no rank has surplus tasks,
//! and when each rank is woken next.

use std::time::Duration;

use super::{Simulator, What};
use crate::model::{Rank, Time};
use crate::schedule::protocol::{Load, Message};
use crate::sim::steal_matching::Match;

/// With many ranks, pause after an unsuccessful round: `search` matches idle ranks with surplus
/// tasks instead.
pub(super) const SILENCE: Duration = Duration::from_secs(366 * 86_400);

/// Pause before a rank searches again whose match has no tasks any more, or whose request was lost
/// in a change of homes.
pub(super) const AGAIN: Duration = Duration::from_millis(50);

impl Simulator<'_> {
    pub(super) fn count_surplus(&mut self, rank: u32, load: Load) {
        let gives = load.ready > load.idle;
        let gave = std::mem::replace(&mut self.seats[rank as usize].gives, gives);
        if let Some(search) = &mut self.search {
            match gives {
                true => self.find_thieves(rank, load.ready - load.idle),
                false if gave => search.gives_not(rank),
                false => {}
            }
            return;
        }
        match (gave, gives) {
            (false, true) => self.surplus += 1,
            (true, false) => self.surplus -= 1,
            _ => return,
        }
        if gives && self.surplus == 1 {
            self.wake();
        }
    }

    /// With many ranks: lets idle ranks ask this one for its surplus tasks.
    pub(super) fn find_thieves(&mut self, rank: u32, surplus: u32) {
        let Some(search) = &mut self.search else { return };
        let seat = &self.seats[rank as usize];
        let wanted = surplus.div_ceil(seat.member.slots.max(1));
        let found: Vec<Match> = (seat.expected..wanted).map_while(|_| search.gives(rank)).collect();
        found.into_iter().for_each(|found| self.expect(found));
    }

    pub(super) fn expect(&mut self, found: Match) {
        self.seats[found.thief as usize].looks = true;
        self.seats[found.victim as usize].expected += 1;
        let asks = What::Asks { thief: found.thief, victim: found.victim };
        self.events_due.schedule(self.now.after(found.after), asks);
    }

    /// The delayed request of a matched rank, if both ranks still have reason for it.
    pub(super) fn ask(&mut self, thief: u32, victim: u32) {
        self.seats[victim as usize].expected -= 1;
        let seat = &mut self.seats[thief as usize];
        seat.looks = false;
        if !seat.here {
            return;
        }
        self.events += 1;
        let (starves, want, epoch) = (seat.worker.next_ask().is_some(), seat.worker.load().idle, seat.worker.epoch());
        if starves && self.seats[victim as usize].gives {
            self.send(Rank(thief), Rank(victim), Message::Steal { epoch, want });
            self.arrange_call(thief, self.now.after(AGAIN));
        } else {
            self.arrange_tick(thief);
        }
    }

    /// A rank has surplus tasks: dozing ranks ask again, each at the next beat of its own rhythm.
    pub(super) fn wake(&mut self) {
        let rhythm = self.pace.longest_pause().as_nanos() as u64;
        for rank in std::mem::take(&mut self.dozing) {
            let seat = &mut self.seats[rank as usize];
            seat.listed = false;
            let Some(at) = seat.dozes.take() else { continue };
            let slept = self.now.since(at).as_nanos() as u64;
            self.arrange_call(rank, Time(at.0 + slept.div_ceil(rhythm) * rhythm));
        }
    }

    /// Schedules the next wake-up of a rank.
    pub(super) fn arrange_tick(&mut self, rank: u32) {
        let seat = &mut self.seats[rank as usize];
        if !seat.here {
            return;
        }
        let (duty, ask) = (seat.worker.next_duty(), seat.worker.next_ask());
        let ask = match self.search.is_some() {
            true => {
                self.look_for_work(rank, ask.is_some());
                None
            }
            false => ask.filter(|&at| !self.dozes(rank, at)),
        };
        if let Some(due) = [duty, ask].into_iter().flatten().min() {
            self.arrange_call(rank, due);
        }
    }

    /// With many ranks: matches a starving rank with one that has surplus tasks.
    pub(super) fn look_for_work(&mut self, rank: u32, starves: bool) {
        let Some(search) = &mut self.search else { return };
        let found = match starves && !self.seats[rank as usize].looks {
            true => search.idles(rank),
            false => {
                search.idles_not(rank);
                None
            }
        };
        found.into_iter().for_each(|found| self.expect(found));
    }

    /// True if a rank that would ask at `at` dozes instead.
    pub(super) fn dozes(&mut self, rank: u32, at: Time) -> bool {
        let seat = &mut self.seats[rank as usize];
        let patient = seat.dozes == Some(at) || at.since(self.now) >= self.pace.longest_pause();
        seat.dozes = (self.surplus == 0 && patient).then_some(at);
        if seat.dozes.is_some() && !std::mem::replace(&mut seat.listed, true) {
            self.dozing.push(rank);
        }
        seat.dozes.is_some()
    }

    /// Ensures that a rank is woken at `due` or earlier.
    pub(super) fn arrange_call(&mut self, rank: u32, due: Time) {
        let (due, seat) = (due.max(self.now), &mut self.seats[rank as usize]);
        if seat.here && seat.tick.is_none_or(|tick| due < tick) {
            seat.tick = Some(due);
            self.events_due.schedule(due, What::Tick(rank));
        }
    }
}
