//! Ranks without work: which rank asks which, which ranks doze because no rank has surplus tasks,
//! and when each rank is woken next.

use std::time::Duration;

use super::{SimulatedEvent, Simulator};
use crate::model::{Rank, Time};
use crate::schedule::protocol::{Load, Message};
use crate::sim::steal_matching::Match;

/// With many ranks, pause after an unsuccessful round: `search` matches idle ranks with surplus
/// tasks instead.
pub(super) const NO_STEAL_PAUSE: Duration = Duration::from_secs(366 * 86_400);

/// Pause before a rank searches again whose match has no tasks any more, or whose request was lost
/// in a change of homes.
pub(super) const SEARCH_RETRY: Duration = Duration::from_millis(50);

impl Simulator<'_> {
    pub(super) fn count_surplus(&mut self, rank: u32, load: Load) {
        let has_surplus = load.ready > load.idle;
        let had_surplus = std::mem::replace(&mut self.ranks[rank as usize].has_surplus, has_surplus);
        if let Some(search) = &mut self.search {
            match has_surplus {
                true => self.find_thieves(rank, load.ready - load.idle),
                false if had_surplus => search.remove_surplus(rank),
                false => {}
            }
            return;
        }
        match (had_surplus, has_surplus) {
            (false, true) => self.surplus += 1,
            (true, false) => self.surplus -= 1,
            _ => return,
        }
        if has_surplus && self.surplus == 1 {
            self.resume_dozing();
        }
    }

    /// With many ranks: lets idle ranks ask this one for its surplus tasks.
    pub(super) fn find_thieves(&mut self, rank: u32, surplus: u32) {
        let Some(search) = &mut self.search else { return };
        let simulated = &self.ranks[rank as usize];
        let wanted = surplus.div_ceil(simulated.member.slots.max(1));
        let found: Vec<Match> = (simulated.expected..wanted).map_while(|_| search.add_surplus(rank)).collect();
        found.into_iter().for_each(|found| self.expect(found));
    }

    pub(super) fn expect(&mut self, found: Match) {
        self.ranks[found.thief as usize].is_matched = true;
        self.ranks[found.victim as usize].expected += 1;
        let asks = SimulatedEvent::Asks { thief: found.thief, victim: found.victim };
        self.events_due.schedule(self.now.after(found.after), asks);
    }

    /// The delayed request of a matched rank, if both ranks still have reason for it.
    pub(super) fn ask(&mut self, thief: u32, victim: u32) {
        self.ranks[victim as usize].expected -= 1;
        let simulated = &mut self.ranks[thief as usize];
        simulated.is_matched = false;
        if !simulated.is_present {
            return;
        }
        self.events += 1;
        let (starves, want, epoch) =
            (simulated.worker.next_ask().is_some(), simulated.worker.load().idle, simulated.worker.epoch());
        if starves && self.ranks[victim as usize].has_surplus {
            self.send(Rank(thief), Rank(victim), Message::Steal { epoch, want });
            self.schedule_tick(thief, self.now.after(SEARCH_RETRY));
        } else {
            self.schedule_next_tick(thief);
        }
    }

    /// A rank has surplus tasks: dozing ranks ask again, each at the next beat of its own rhythm.
    pub(super) fn resume_dozing(&mut self) {
        let rhythm = self.pace.longest_pause().as_nanos() as u64;
        for rank in std::mem::take(&mut self.dozing) {
            let simulated = &mut self.ranks[rank as usize];
            simulated.is_listed = false;
            let Some(at) = simulated.dozes.take() else { continue };
            let slept = self.now.since(at).as_nanos() as u64;
            self.schedule_tick(rank, Time(at.0 + slept.div_ceil(rhythm) * rhythm));
        }
    }

    /// Schedules the next wake-up of a rank.
    pub(super) fn schedule_next_tick(&mut self, rank: u32) {
        let simulated = &mut self.ranks[rank as usize];
        if !simulated.is_present {
            return;
        }
        let (duty, ask) = (simulated.worker.next_duty(), simulated.worker.next_ask());
        let ask = match self.search.is_some() {
            true => {
                let holds_back = simulated.worker.holds_back_until().filter(|&until| until > self.now && ask.is_some());
                self.match_steal(rank, ask.is_some() && holds_back.is_none());
                holds_back
            }
            false => ask.filter(|&at| !self.dozes(rank, at)),
        };
        if let Some(due) = [duty, ask].into_iter().flatten().min() {
            self.schedule_tick(rank, due);
        }
    }

    /// With many ranks: matches a starving rank with one that has surplus tasks.
    pub(super) fn match_steal(&mut self, rank: u32, starves: bool) {
        let Some(search) = &mut self.search else { return };
        let found = match starves && !self.ranks[rank as usize].is_matched {
            true => search.add_idle(rank),
            false => {
                search.remove_idle(rank);
                None
            }
        };
        found.into_iter().for_each(|found| self.expect(found));
    }

    /// True if a rank that would ask at `at` dozes instead.
    pub(super) fn dozes(&mut self, rank: u32, at: Time) -> bool {
        let simulated = &mut self.ranks[rank as usize];
        let patient = simulated.dozes == Some(at) || at.since(self.now) >= self.pace.longest_pause();
        simulated.dozes = (self.surplus == 0 && patient).then_some(at);
        if simulated.dozes.is_some() && !std::mem::replace(&mut simulated.is_listed, true) {
            self.dozing.push(rank);
        }
        simulated.dozes.is_some()
    }

    /// Ensures that a rank is woken at `due` or earlier.
    pub(super) fn schedule_tick(&mut self, rank: u32, due: Time) {
        let (due, simulated) = (due.max(self.now), &mut self.ranks[rank as usize]);
        if simulated.is_present && simulated.tick.is_none_or(|tick| due < tick) {
            simulated.tick = Some(due);
            self.events_due.schedule(due, SimulatedEvent::Tick(rank));
        }
    }
}
