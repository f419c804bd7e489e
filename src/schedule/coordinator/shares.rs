//! Fair shares: what families have got in all, of which each rank is told the part that it cannot
//! know.

use std::time::Duration;

use super::{Coordinator, CoordinatorAction};
use crate::model::{Attempt, Time};
use crate::schedule::protocol::Message;

/// Time between two messages about the slot time on other ranks.
const SHARES_INTERVAL: Duration = Duration::from_millis(100);

/// Slot time of families.
#[derive(Debug, Default)]
pub(super) struct FamilyTimes {
    /// For each group of tasks: first task, and slots of one; empty if families have no shares.
    groups: Vec<(u32, u32)>,
    /// For each rank the time of each family, in nanoseconds.
    by_rank: Vec<Vec<u64>>,
    total: Vec<u64>,
    /// When the next message may be sent.
    next: Time,
    is_changed: bool,
}

impl FamilyTimes {
    pub(super) fn new(groups: Vec<(u32, u32)>) -> FamilyTimes {
        FamilyTimes { total: vec![0; groups.len()], groups, ..FamilyTimes::default() }
    }

    /// More families.
    pub(super) fn grow(&mut self, groups: Vec<(u32, u32)>) {
        self.total.resize(groups.len(), 0);
        self.by_rank.iter_mut().for_each(|families| families.resize(groups.len(), 0));
        self.groups = groups;
    }

    /// Adds attempts that have ended.
    pub(super) fn observe(&mut self, attempts: &[Attempt]) {
        if self.groups.is_empty() {
            return;
        }
        for attempt in attempts.iter().filter(|attempt| attempt.attempt > 0) {
            let family = self.groups.partition_point(|group| group.0 <= attempt.task.0).saturating_sub(1);
            let ns = attempt.end.since(attempt.start).as_nanos() as u64 * u64::from(self.groups[family].1);
            let rank = attempt.rank.index();
            if self.by_rank.len() <= rank {
                self.by_rank.resize(rank + 1, vec![0; self.groups.len()]);
            }
            self.by_rank[rank][family] += ns;
            self.total[family] += ns;
            self.is_changed = true;
        }
    }
}

impl Coordinator {
    /// Sends ranks what families have got elsewhere, now and then.
    pub(super) fn send_shares(&mut self, now: Time, actions: &mut Vec<CoordinatorAction>) {
        let times = &mut self.family_times;
        if !times.is_changed || now < times.next || self.stopping.is_some() {
            return;
        }
        (times.is_changed, times.next) = (false, now.after(SHARES_INTERVAL));
        let here: Vec<_> = self.members.active().collect();
        if here.len() < 2 {
            return;
        }
        for to in here {
            let own = self.family_times.by_rank.get(to.index());
            let elsewhere =
                |(family, &total): (usize, &u64)| (family as u32 + 1, total - own.map_or(0, |own| own[family]));
            let elsewhere = self.family_times.total.iter().enumerate().map(elsewhere).collect();
            actions.push(CoordinatorAction::Send { to, message: Message::Shares { elsewhere } });
        }
    }
}
