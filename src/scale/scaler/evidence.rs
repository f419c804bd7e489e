//! Which ranks may be given back while there is too little information for a forecast.
//!
//! Ranks beyond what any level of the remaining graph can use may leave at once: that is certain.
//! The others will be of use, and the question is whether holding them until then or requesting
//! others later costs less. Until the forecast can answer that, a rank is held until it has been
//! idle for as long as a new one takes to arrive, which costs at most twice the optimum (the
//! ski-rental rule: Karlin, Manasse, McGeoch and Owicki, "Competitive randomized algorithms for
//! nonuniform problems", 1994, section 8).

use std::collections::BTreeMap;
use std::time::Duration;

use crate::model::{Rank, RankState, Time};
use crate::scale::observation::{Observation, RankView};

/// Since when each active rank has been idle.
#[derive(Default)]
pub(super) struct IdleRanks {
    since: BTreeMap<Rank, Idle>,
}

#[derive(Clone, Copy)]
struct Idle {
    since: Time,
    /// Time that its slots had spent in tasks: it grows if a task ran between two decisions.
    busy: Duration,
}

impl IdleRanks {
    /// Records which ranks are idle now.
    pub(super) fn note(&mut self, seen: &Observation<'_>) {
        let before = std::mem::take(&mut self.since);
        let is_idle = |rank: &&RankView| rank.state == RankState::Active && rank.busy_slots == 0;
        let idle = seen.ranks.iter().filter(is_idle).map(|rank| {
            let now = Idle { since: seen.now, busy: rank.busy };
            (rank.rank, before.get(&rank.rank).copied().filter(|idle| idle.busy == rank.busy).unwrap_or(now))
        });
        self.since = idle.collect();
    }

    /// Number of ranks that have been idle for at least `time`.
    pub(super) fn idle_for(&self, now: Time, time: Duration) -> u32 {
        self.since.values().filter(|idle| now.since(idle.since) >= time).count() as u32
    }
}

/// The most ranks that remaining tasks can use at once, at the slots of the active ranks.
pub(super) fn usable_ranks(seen: &Observation<'_>) -> u32 {
    let active = seen.ranks.iter().filter(|rank| rank.state == RankState::Active);
    let (ranks, slots) = active.fold((0u64, 0u64), |(ranks, slots), rank| (ranks + 1, slots + u64::from(rank.slots)));
    let each = slots.checked_div(ranks).unwrap_or(1).max(1);
    u32::try_from(seen.remaining.widest_level().div_ceil(each)).unwrap_or(u32::MAX)
}
