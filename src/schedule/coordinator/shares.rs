//! Fair shares: what families have got in all, of which each rank is told the part that it cannot
//! know.

use std::time::Duration;

use super::{Coordinator, CoordinatorAction};
use crate::model::{Attempt, Rank, Time};
use crate::schedule::fair::FamilyId;
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
    /// For each rank what it was last sent of each family, and whether that was new to it.
    sent: Vec<Vec<(u64, bool)>>,
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
        self.sent.iter_mut().for_each(|families| families.resize(groups.len(), (0, false)));
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

    /// What a rank is to learn: families that have got more elsewhere, and those that have not any
    /// more.
    fn changes(&mut self, to: Rank) -> Vec<(FamilyId, u64)> {
        if self.sent.len() <= to.index() {
            self.sent.resize(to.index() + 1, vec![(0, false); self.total.len()]);
        }
        let own = self.by_rank.get(to.index());
        let mut changes = Vec::new();
        for (family, (&total, sent)) in self.total.iter().zip(&mut self.sent[to.index()]).enumerate() {
            let elsewhere = total - own.map_or(0, |own| own[family]);
            let is_new = elsewhere != sent.0;
            if is_new || sent.1 {
                changes.push((family as FamilyId + 1, elsewhere));
            }
            *sent = (elsewhere, is_new);
        }
        changes
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
            let elsewhere = self.family_times.changes(to);
            if !elsewhere.is_empty() {
                actions.push(CoordinatorAction::Send { to, message: Message::Shares { elsewhere } });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Outcome, TaskId};

    #[test]
    fn ranks_learn_what_has_changed_elsewhere_and_once_that_it_has_not() {
        let mut times = FamilyTimes::new(vec![(0, 1), (10, 2)]);
        let attempt = |task, rank| Attempt {
            task: TaskId(task),
            attempt: 1,
            outcome: Outcome::OK,
            rank: Rank(rank),
            slot: 0,
            ready: Time(0),
            start: Time(0),
            end: Time(5),
            last: true,
        };
        times.observe(&[attempt(3, 0), attempt(12, 1)]);
        assert_eq!([times.changes(Rank(0)), times.changes(Rank(1))], [vec![(2, 10)], vec![(1, 5)]]);
        times.observe(&[attempt(4, 0)]);
        assert_eq!([times.changes(Rank(0)), times.changes(Rank(1))], [vec![(2, 10)], vec![(1, 10)]]);
        assert_eq!([times.changes(Rank(0)), times.changes(Rank(1))], [vec![], vec![(1, 10)]]);
        assert_eq!(times.changes(Rank(1)), []);
        // Families that are added later.
        times.grow(vec![(0, 1), (10, 2), (20, 1)]);
        times.observe(&[attempt(25, 0)]);
        assert_eq!([times.changes(Rank(0)), times.changes(Rank(1))], [vec![], vec![(3, 5)]]);
    }
}
