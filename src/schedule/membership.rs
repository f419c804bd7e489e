//! Membership: the state of each rank as the coordinator sees it. It sends no messages except the
//! order to leave; see `coordinator/change.rs`.
//!
//! | state | event | next |
//! |---|---|---|
//! | requested | arrives | joining |
//! | requested, joining, active, draining, parked, quarantined | is lost | lost |
//! | joining | is handed its tasks | active |
//! | joining, active, parked, quarantined | is drained | draining |
//! | joining, active | is parked | parked |
//! | joining, active, parked | is quarantined | quarantined |
//! | parked, draining, quarantined | is recalled | active |
//! | draining | is empty | left |
//!
//! A rank that left or was lost never returns under its number: if it reconnects, it is ordered
//! to leave, and joins under a new number.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::action::CoordinatorAction;
use super::protocol::Message;
use crate::model::{NodeNeed, Rank, RankRoom, RankState, has_labels};

/// The resources of a rank.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Member {
    /// Its node.
    pub node: String,
    /// Its slots; a rank without slots runs no tasks.
    pub slots: u32,
    /// Bytes of memory for its tasks in total.
    pub memory: u64,
    /// GPUs for its tasks.
    pub gpus: u32,
    /// CPUs that its slots run on; empty if unknown.
    pub cpus: Arc<[u32]>,
    /// Its labels, ascending.
    pub labels: Arc<[String]>,
}

impl Member {
    /// True if this rank has at least the resources of another, so it can run whatever that can.
    pub(super) fn covers(&self, other: &Member) -> bool {
        self.slots >= other.slots
            && self.memory >= other.memory
            && self.gpus >= other.gpus
            && has_labels(&self.labels, &other.labels)
    }

    /// True if this rank has what a need asks for.
    pub fn has(&self, need: &NodeNeed) -> bool {
        has_labels(&self.labels, &need.labels)
            && self.slots >= need.slots
            && self.memory >= need.memory
            && self.gpus >= need.gpus
    }

    /// What it has for tasks.
    pub fn room(&self) -> RankRoom {
        RankRoom { slots: self.slots, memory: self.memory, gpus: self.gpus }
    }
}

/// An event in the life of a rank.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// It has been requested.
    Request,
    /// It has arrived.
    Arrive(Member),
    /// It must leave for good.
    Drain,
    /// It must hold no task, but stay.
    Park,
    /// It must hold no task, because tasks keep failing there.
    Quarantine,
    /// It becomes active again.
    Recall,
    /// It no longer responds.
    Lose,
}

impl RankState {
    /// True for a rank that receives messages.
    pub fn is_here(self) -> bool {
        self.is_billed()
    }

    /// True for a rank that is gone for good.
    pub fn is_gone(self) -> bool {
        matches!(self, RankState::Left | RankState::Lost)
    }

    /// The state after an event; `None` if the event does not apply to this state.
    fn next(self, change: &Change) -> Option<RankState> {
        use RankState::{Active, Draining, Joining, Lost, Parked, Quarantined, Requested};
        match (self, change) {
            (Requested, Change::Arrive(_)) => Some(Joining),
            (Requested | Joining | Active | Draining | Parked | Quarantined, Change::Lose) => Some(Lost),
            (Joining | Active | Parked | Quarantined, Change::Drain) => Some(Draining),
            (Joining | Active, Change::Park) => Some(Parked),
            (Joining | Active | Parked, Change::Quarantine) => Some(Quarantined),
            (Parked | Draining | Quarantined, Change::Recall) => Some(Active),
            _ => None,
        }
    }
}

/// All ranks of the run, past ones included.
#[derive(Debug)]
pub(super) struct Members {
    table: Vec<MemberEntry>,
}

#[derive(Debug)]
struct MemberEntry {
    member: Member,
    standing: RankState,
    /// True once it has had tasks, so it must prepare for each change.
    handed: bool,
}

impl Members {
    /// The ranks at the start of a run, all active.
    pub(super) fn new(members: Vec<Member>) -> Members {
        let entry = |member| MemberEntry { member, standing: RankState::Active, handed: true };
        Members { table: members.into_iter().map(entry).collect() }
    }

    /// Number of rank numbers assigned.
    pub(super) fn len(&self) -> usize {
        self.table.len()
    }

    pub(super) fn standing(&self, rank: Rank) -> Option<RankState> {
        self.table.get(rank.index()).map(|entry| entry.standing)
    }

    /// Ranks that receive messages.
    pub(super) fn here(&self) -> impl Iterator<Item = Rank> + '_ {
        self.ranks(|entry| entry.standing.is_here())
    }

    /// Ranks that are here and hold or held tasks.
    pub(super) fn handed(&self) -> impl Iterator<Item = Rank> + '_ {
        self.ranks(|entry| entry.handed && entry.standing.is_here())
    }

    /// Active ranks, and joining ones, which become active with the next hand-out.
    pub(super) fn active(&self) -> impl Iterator<Item = Rank> + '_ {
        self.ranks(|entry| matches!(entry.standing, RankState::Joining | RankState::Active))
    }

    fn ranks(&self, which: impl Fn(&MemberEntry) -> bool) -> impl Iterator<Item = Rank> {
        (0..).zip(&self.table).filter(move |(_, entry)| which(entry)).map(|(rank, _)| Rank(rank))
    }

    /// True if a requested rank has not arrived yet.
    pub(super) fn expects_more(&self) -> bool {
        self.table.iter().any(|entry| entry.standing == RankState::Requested)
    }

    /// The ranks that can run tasks, with their resources: those of [`Members::active`] that have
    /// slots.
    pub(super) fn runners(&self) -> impl Iterator<Item = (Rank, &Member)> + Clone {
        let is_active = |entry: &MemberEntry| matches!(entry.standing, RankState::Joining | RankState::Active);
        let runners = (0..).zip(&self.table).filter(move |(_, entry)| is_active(entry) && entry.member.slots > 0);
        runners.map(|(rank, entry)| (Rank(rank), &entry.member))
    }

    /// All ranks with their resources; an inactive one has no slots.
    pub(super) fn able(&self) -> Vec<Member> {
        let able = |entry: &MemberEntry| match entry.standing {
            RankState::Joining | RankState::Active => entry.member.clone(),
            _ => Member { slots: 0, ..entry.member.clone() },
        };
        self.table.iter().map(able).collect()
    }

    /// True if a rank has a part that can be amended: it had tasks before, and stays active.
    pub(super) fn has_part(&self, rank: Rank) -> bool {
        self.table.get(rank.index()).is_some_and(|entry| entry.handed && entry.standing == RankState::Active)
    }

    /// Ranks that have been lost.
    pub(super) fn lost(&self) -> impl Iterator<Item = Rank> + '_ {
        self.ranks(|entry| entry.standing == RankState::Lost)
    }

    /// Resources of a rank, active or not.
    pub(super) fn member(&self, rank: Rank) -> Option<&Member> {
        self.table.get(rank.index()).map(|entry| &entry.member)
    }

    /// Slots per CPU of this rank, including slots of other ranks on its node that use the same
    /// CPUs; rounded up, at least 1.
    pub(super) fn slots_per_cpu(&self, rank: Rank) -> f64 {
        let Some(own) = self.member(rank).filter(|own| !own.cpus.is_empty()) else { return 1.0 };
        let shares = |entry: &&MemberEntry| {
            let other = &entry.member;
            let overlap = || other.cpus.iter().any(|cpu| own.cpus.contains(cpu));
            entry.standing.is_here() && other.node == own.node && overlap()
        };
        let (mut slots, mut cpus) = (0, BTreeSet::<u32>::new());
        for entry in self.table.iter().filter(shares) {
            slots += entry.member.slots;
            cpus.extend(entry.member.cpus.iter().copied());
        }
        (f64::from(slots) / cpus.len().max(1) as f64).ceil().max(1.0)
    }

    /// Applies one event; false if it changes nothing.
    pub(super) fn change(&mut self, rank: Rank, change: Change) -> bool {
        let fresh = rank.index() == self.table.len();
        if fresh && matches!(change, Change::Request | Change::Arrive(_)) {
            self.table.push(MemberEntry { member: Member::default(), standing: RankState::Requested, handed: false });
        }
        let Some(entry) = self.table.get_mut(rank.index()) else { return false };
        let Some(next) = entry.standing.next(&change) else { return fresh };
        entry.standing = next;
        if let Change::Arrive(member) = change {
            entry.member = member;
        }
        true
    }

    /// Marks all present ranks as having been given their tasks.
    pub(super) fn hand_out(&mut self) {
        for entry in self.table.iter_mut().filter(|entry| entry.standing.is_here()) {
            entry.handed = true;
            if entry.standing == RankState::Joining {
                entry.standing = RankState::Active;
            }
        }
    }

    /// Sends a rank the order to leave, since it has no work here any more.
    pub(super) fn leave(&mut self, rank: Rank, actions: &mut Vec<CoordinatorAction>) {
        if let Some(entry) = self.table.get_mut(rank.index()) {
            entry.standing = RankState::Left;
            actions.push(CoordinatorAction::Send { to: rank, message: Message::Finish });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_share_the_cpus_of_their_node() {
        let member = |node: &str, slots, cpus: &[u32]| Member {
            node: node.into(),
            slots,
            cpus: cpus.into(),
            ..Member::default()
        };
        let crowded = Members::new(vec![member("a", 1, &[0, 1]); 3]);
        assert_eq!(crowded.slots_per_cpu(Rank(2)), 2.0);
        let apart = vec![member("a", 2, &[0, 1]), member("a", 2, &[2, 3]), member("b", 2, &[0, 1])];
        assert_eq!(Members::new(apart.clone()).slots_per_cpu(Rank(0)), 1.0);
        let overlapping = [&apart[..], &[member("a", 4, &[1, 2]), member("b", 2, &[])]].concat();
        let mut overlapping = Members::new(overlapping);
        let each = |members: &Members| [0, 1, 2, 3, 4].map(|rank| members.slots_per_cpu(Rank(rank)));
        assert_eq!(each(&overlapping), [2.0, 2.0, 1.0, 2.0, 1.0]);
        assert!(overlapping.change(Rank(3), Change::Lose));
        assert_eq!(each(&overlapping)[..2], [1.0, 1.0]);
    }

    #[test]
    fn who_is_gone_never_comes_back() {
        let member = || Member { node: "a".into(), slots: 2, ..Member::default() };
        let mut members = Members::new(vec![member(), member()]);
        assert!(members.change(Rank(1), Change::Drain));
        members.leave(Rank(1), &mut Vec::new());
        for change in [Change::Recall, Change::Arrive(member()), Change::Lose, Change::Park, Change::Drain] {
            assert!(!members.change(Rank(1), change));
        }
        assert_eq!(members.standing(Rank(1)), Some(RankState::Left));
    }

    #[test]
    fn a_rank_joins_with_the_next_hand_out() {
        let mut members = Members::new(vec![Member::default()]);
        assert!(members.change(Rank(1), Change::Request) && members.expects_more());
        assert_eq!(members.here().count(), 1);
        assert!(members.change(Rank(1), Change::Arrive(Member { slots: 3, ..Member::default() })));
        assert_eq!((members.handed().count(), members.active().count(), members.able()[1].slots), (1, 2, 3));
        members.hand_out();
        assert_eq!((members.handed().count(), members.standing(Rank(1))), (2, Some(RankState::Active)));
        assert!(!members.change(Rank(3), Change::Request), "numbers are given out in turn");
    }
}
