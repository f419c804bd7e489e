//! The ranks that a forecast may use, in order of use; similar ranks form groups.

use super::Charge;

/// Number of quantiles that describe the ends of running tasks on similar ranks.
pub(in crate::scale::forecast) const QUANTILES: usize = 8;

/// A rank that a forecast may use, in seconds from now.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(in crate::scale::forecast) struct HeldNode {
    /// When its node was granted (negative: before now); `None` if its node is billed to another
    /// rank.
    pub since: Option<f64>,
    /// When it can take tasks.
    pub arrives: f64,
    /// True if it is held to the end in any case.
    pub kept: bool,
    /// True if its node is already granted.
    pub granted: bool,
    /// Slots.
    pub slots: u32,
    /// Number of busy slots.
    pub busy: u32,
    /// How its node is charged.
    pub charge: Charge,
}

/// Similar ranks.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(in crate::scale::forecast) struct HolderGroup {
    pub holder: HeldNode,
    /// Number of ranks.
    pub ranks: u32,
    /// When the last task running now ends: quantiles over the ranks, ascending.
    pub until: [f64; QUANTILES],
}

impl HolderGroup {
    pub fn of(holder: HeldNode, ranks: u32) -> HolderGroup {
        HolderGroup { holder, ranks, until: [0.0; QUANTILES] }
    }
}

/// Ranks, slots and busy slots of a group and of all groups before it.
#[derive(Clone, Copy, Debug, Default)]
struct Upto {
    ranks: u32,
    slots: u32,
    busy: u32,
}

/// Ranks in order of use.
#[derive(Clone, Debug, Default)]
pub(in crate::scale::forecast) struct Holders {
    groups: Vec<HolderGroup>,
    upto: Vec<Upto>,
}

impl Holders {
    pub fn new(groups: Vec<HolderGroup>) -> Holders {
        let groups: Vec<HolderGroup> = groups.into_iter().filter(|group| group.ranks > 0).collect();
        let mut sum = Upto::default();
        let upto = groups.iter().map(|HolderGroup { holder, ranks, .. }| {
            sum.ranks += ranks;
            sum.slots += ranks * holder.slots;
            sum.busy += ranks * holder.busy;
            sum
        });
        Holders { upto: upto.collect(), groups }
    }

    pub fn groups(&self) -> impl DoubleEndedIterator<Item = &HolderGroup> {
        self.groups.iter()
    }

    /// The first `ranks` ranks, and the groups of the others.
    pub fn split(&self, ranks: u32) -> (Holders, impl Iterator<Item = HolderGroup>) {
        let at = self.upto.partition_point(|upto| upto.ranks < ranks);
        let mut first = self.groups[..self.groups.len().min(at + 1)].to_vec();
        let mut rest = None;
        if let (Some(last), Some(upto)) = (first.last_mut(), self.upto.get(at)) {
            let over = upto.ranks - ranks;
            last.ranks -= over;
            rest = Some(HolderGroup { ranks: over, ..*last }).filter(|_| over > 0);
        }
        let others = self.groups.iter().skip(at + 1).copied();
        (Holders::new(first), rest.into_iter().chain(others))
    }

    /// Marks the first ranks as held to the end.
    pub fn keep(&mut self, ranks: u32) {
        let (first, rest) = self.split(ranks);
        let mut groups = first.groups;
        groups.iter_mut().for_each(|group| group.holder.kept = true);
        groups.extend(rest);
        *self = Holders::new(groups);
    }

    /// Adds ranks that are used after all others.
    pub fn add(&mut self, holder: HeldNode, ranks: u32) {
        let mut groups = std::mem::take(&mut self.groups);
        groups.push(HolderGroup::of(holder, ranks));
        *self = Holders::new(groups);
    }

    fn all(&self) -> Upto {
        self.upto.last().copied().unwrap_or_default()
    }

    pub fn ranks(&self) -> u32 {
        self.all().ranks
    }

    pub fn slots(&self) -> u32 {
        self.all().slots
    }

    /// Number of busy slots.
    pub fn busy(&self) -> u32 {
        self.all().busy
    }

    /// Number of ranks with busy slots.
    pub fn in_use(&self) -> u32 {
        self.groups.iter().filter(|group| group.holder.busy > 0).map(|group| group.ranks).sum()
    }

    /// True if several ranks are one group.
    pub fn is_grouped(&self) -> bool {
        self.groups.iter().any(|group| group.ranks > 1)
    }

    /// The fewest ranks that have `slots` slots; all ranks if they have fewer.
    pub fn room_for(&self, slots: u32) -> u32 {
        if slots == 0 {
            return 0;
        }
        let at = self.upto.partition_point(|upto| upto.slots < slots);
        let Some(group) = self.groups.get(at) else { return self.ranks() };
        let missing = self.upto[at].slots - slots;
        self.upto[at].ranks - missing / group.holder.slots.max(1)
    }

    /// Slots of the first ranks.
    pub fn slots_of(&self, ranks: u32) -> u32 {
        let at = self.upto.partition_point(|upto| upto.ranks < ranks);
        let Some(group) = self.groups.get(at) else { return self.slots() };
        self.upto[at].slots - (self.upto[at].ranks - ranks) * group.holder.slots
    }

    /// Records a task that ends after `rest` seconds on a busy slot, counted in order of use, or on
    /// the first rank.
    pub fn occupy(&mut self, busy_slot: Option<u32>, rest: f64) {
        let at = busy_slot.map_or(0, |busy_slot| self.upto.partition_point(|upto| upto.busy <= busy_slot));
        if let Some(group) = self.groups.get_mut(at) {
            group.until.iter_mut().for_each(|until| *until = until.max(rest));
        }
    }

    /// Sets for groups of several ranks when the last running task of a rank ends, by its number of
    /// busy slots.
    pub fn spread(&mut self, is_known: bool, mut last_of: impl FnMut(u32) -> [f64; QUANTILES]) {
        let groups = self.groups.iter_mut().filter(|group| group.ranks > 1 || !is_known);
        groups.for_each(|group| group.until = last_of(group.holder.busy));
    }

    /// The last of the first `ranks` ranks with work, by the number of ranks needed at a moment or
    /// by the end of its running tasks; as a number of ranks.
    pub fn last_that_stays(&self, ranks: u32, needed_at: impl Fn(f64) -> u32) -> u32 {
        let stays = |(group, upto): (&HolderGroup, &Upto)| {
            let (first, end) = (upto.ranks - group.ranks, upto.ranks.min(ranks));
            let needed = group.until.iter().map(|&until| needed_at(until)).max().unwrap_or(0);
            (needed > first && end > first).then(|| needed.min(end))
        };
        self.groups.iter().zip(&self.upto).filter_map(stays).max().unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_count_as_their_ranks_do_one_by_one() {
        for seed in 0..300 {
            let mut random = fastrand::Rng::with_seed(seed);
            let group = |random: &mut fastrand::Rng| {
                let (slots, busy) = (random.u32(0..6), random.u32(0..4));
                HolderGroup::of(HeldNode { slots, busy, ..HeldNode::default() }, random.u32(0..7))
            };
            let groups: Vec<HolderGroup> = (0..random.usize(0..6)).map(|_| group(&mut random)).collect();
            let apart: Vec<HolderGroup> = groups
                .iter()
                .flat_map(|g| std::iter::repeat_n(HolderGroup::of(g.holder, 1), g.ranks as usize))
                .collect();
            let (grouped, apart) = (Holders::new(groups), Holders::new(apart));
            for n in 0..60 {
                assert_eq!(grouped.room_for(n), apart.room_for(n), "seed {seed}, {n} slots");
                assert_eq!(grouped.slots_of(n), apart.slots_of(n), "seed {seed}, {n} ranks");
                if n <= grouped.ranks() {
                    let rest: u32 = grouped.split(n).1.map(|group| group.ranks).sum();
                    assert_eq!((grouped.split(n).0.ranks(), rest), (n, grouped.ranks() - n), "seed {seed}, {n} ranks");
                }
                let needed = |until: f64| (until as u32).max(n);
                assert_eq!(grouped.last_that_stays(20, needed), apart.last_that_stays(20, needed), "seed {seed} {n}");
            }
        }
    }
}
