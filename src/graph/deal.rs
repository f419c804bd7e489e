//! Deals tasks to ranks by load alone, one after the other, as schedulers without a graph do.
//!
//! The first hand-out ([`partition`](super::partition)) and each change of homes during a run deal
//! with the same rules. Each rank stands in a heap under a key that its tasks raise; a choice costs
//! the logarithm of the number of ranks, more only where ranks do not fit.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// How tasks are dealt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LoadRule {
    /// In turn; a rank with twice the slots gets twice the tasks.
    RoundRobin,
    /// To the rank with the fewest open tasks per slot.
    LeastLoaded,
    /// In turn, in proportion to slots times measured speed, no rank getting a run of tasks (stride
    /// scheduling: Waldspurger and Weihl, 1995).
    WeightedRoundRobin,
    /// To the rank of the task before until its load exceeds the mean by a fifth, then to the least
    /// loaded rank: keeps neighbouring tasks together.
    DynamicThreshold,
    /// To the rank with the earliest expected completion, by estimated durations and measured
    /// speed.
    Predictive,
}

/// How far [`LoadRule::DynamicThreshold`] lets a rank's load exceed the mean.
const DYNAMIC_THRESHOLD: f64 = 1.2;

/// A rank as the rules see it.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct RankLoad {
    /// Slots; a rank without any gets no tasks.
    pub slots: u32,
    /// Measured speed relative to the others; 1 where unknown.
    pub speed: f64,
    /// Open tasks that it has.
    pub tasks: u64,
    /// Their estimated durations, summed, in nanoseconds.
    pub work: u128,
}

impl RankLoad {
    fn strength(&self) -> f64 {
        f64::from(self.slots) * self.speed.max(1e-9)
    }

    fn per_slot(&self) -> f64 {
        self.tasks as f64 / f64::from(self.slots.max(1))
    }
}

/// Ranks under their keys, the lowest first. Keys are positive, so their bits are in their order.
type Heap = BinaryHeap<Reverse<(u64, u32)>>;

/// Deals tasks to ranks by one rule.
#[derive(Clone, Debug)]
pub struct Dealer {
    rule: LoadRule,
    ranks: Vec<RankLoad>,
    /// Number of tasks dealt to each rank.
    dealt: Vec<u64>,
    /// Ranks that are compared by their keys alone: all of them or, where the duration of the task
    /// counts, those of one strength.
    heaps: Vec<Heap>,
    heap_of: Vec<usize>,
    last: u32,
    /// Sum of the loads per slot, and the number of ranks with slots.
    load: f64,
    able: f64,
    most_slots: u64,
}

impl Dealer {
    /// A dealer for ranks with these loads.
    pub fn new(rule: LoadRule, ranks: Vec<RankLoad>) -> Dealer {
        let able = || (0u32..).zip(&ranks).filter(|(_, rank)| rank.slots > 0);
        let mut strengths: Vec<u64> = Vec::new();
        let mut heap_of = vec![0; ranks.len()];
        if rule == LoadRule::Predictive {
            strengths.extend(able().map(|(_, rank)| rank.strength().to_bits()));
            strengths.sort_unstable();
            strengths.dedup();
            let heap = |rank: &RankLoad| strengths.binary_search(&rank.strength().to_bits()).unwrap_or(0);
            heap_of = ranks.iter().map(heap).collect();
        }
        let mut dealer = Dealer {
            rule,
            dealt: vec![0; ranks.len()],
            heaps: vec![Heap::new(); strengths.len().max(1)],
            heap_of,
            last: able().next().map_or(0, |(rank, _)| rank),
            load: able().map(|(_, rank)| rank.per_slot()).sum(),
            able: able().count() as f64,
            most_slots: ranks.iter().map(|rank| u64::from(rank.slots)).max().unwrap_or(1).max(1),
            ranks,
        };
        (0..dealer.ranks.len() as u32).for_each(|rank| dealer.enter(rank));
        dealer
    }

    /// Chooses the rank for a task of this estimated duration in nanoseconds, among those that fit,
    /// and gives it to that rank. `None` if none fits.
    pub fn deal(&mut self, work: u64, fits: &dyn Fn(u32) -> bool) -> Option<u32> {
        let chosen = self.choose(work, fits)?;
        self.give(chosen, work);
        Some(chosen)
    }

    /// Chooses the rank for a task, whose turn that is, without giving it.
    pub fn choose(&mut self, work: u64, fits: &dyn Fn(u32) -> bool) -> Option<u32> {
        let is_full = |rank: u32| {
            let mean = self.load / self.able.max(1.0);
            self.ranks[rank as usize].per_slot() > (mean * DYNAMIC_THRESHOLD).max(1.0)
        };
        let stays = self.rule == LoadRule::DynamicThreshold
            && self.ranks.get(self.last as usize).is_some_and(|rank| rank.slots > 0)
            && fits(self.last)
            && !is_full(self.last);
        let chosen = if stays { self.last } else { self.lowest(work, fits)? };
        self.last = chosen;
        self.dealt[chosen as usize] += 1;
        self.enter(chosen);
        Some(chosen)
    }

    /// A rank has one task more, which was not dealt here.
    pub fn give(&mut self, rank: u32, work: u64) {
        let it = &mut self.ranks[rank as usize];
        self.load -= it.per_slot();
        (it.tasks, it.work) = (it.tasks + 1, it.work + u128::from(work));
        self.load += it.per_slot();
        self.enter(rank);
    }

    /// A rank has one task less.
    pub fn take(&mut self, rank: u32, work: u64) {
        let it = &mut self.ranks[rank as usize];
        self.load -= it.per_slot();
        (it.tasks, it.work) = (it.tasks.saturating_sub(1), it.work.saturating_sub(work.into()));
        self.load += it.per_slot();
        self.enter(rank);
    }

    /// The key of a rank: the lowest is chosen first.
    fn key(&self, rank: u32) -> u64 {
        let (it, dealt) = (&self.ranks[rank as usize], self.dealt[rank as usize]);
        let slots = u64::from(it.slots.max(1));
        let key = match self.rule {
            // A round gives each rank as many tasks as it has slots, in passes over the ranks.
            LoadRule::RoundRobin => (dealt / slots * self.most_slots + dealt % slots) as f64,
            LoadRule::LeastLoaded | LoadRule::DynamicThreshold => it.per_slot(),
            LoadRule::WeightedRoundRobin => (dealt + 1) as f64 / it.strength(),
            LoadRule::Predictive => it.work as f64,
        };
        key.to_bits()
    }

    fn enter(&mut self, rank: u32) {
        if self.ranks[rank as usize].slots > 0 {
            let key = self.key(rank);
            self.heaps[self.heap_of[rank as usize]].push(Reverse((key, rank)));
        }
    }

    /// The rank with the lowest key or, for a rule that counts durations, the one that would
    /// complete the task first.
    fn lowest(&mut self, work: u64, fits: &dyn Fn(u32) -> bool) -> Option<u32> {
        let heads: Vec<(u64, u32)> = (0..self.heaps.len()).filter_map(|heap| self.head(heap, fits)).collect();
        let ends = |&(key, rank): &(u64, u32)| match self.rule {
            LoadRule::Predictive => {
                let it = &self.ranks[rank as usize];
                ((it.work as f64 + work as f64) / it.strength()).to_bits()
            }
            _ => key,
        };
        heads.iter().min_by_key(|head| (ends(head), head.1)).map(|head| head.1)
    }

    /// The first rank of a heap that fits. Outdated entries are dropped on the way.
    fn head(&mut self, heap: usize, fits: &dyn Fn(u32) -> bool) -> Option<(u64, u32)> {
        let mut passed = Vec::new();
        let mut found = None;
        while let Some(Reverse((key, rank))) = self.heaps[heap].pop() {
            if key != self.key(rank) || passed.last() == Some(&Reverse((key, rank))) {
                continue;
            }
            passed.push(Reverse((key, rank)));
            if fits(rank) {
                found = Some((key, rank));
                break;
            }
        }
        self.heaps[heap].extend(passed);
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rank(slots: u32, speed: f64) -> RankLoad {
        RankLoad { slots, speed, ..RankLoad::default() }
    }

    fn dealt(rule: LoadRule, ranks: &[RankLoad], tasks: &[u64]) -> Vec<u32> {
        let mut dealer = Dealer::new(rule, ranks.to_vec());
        tasks.iter().filter_map(|&work| dealer.deal(work, &|_| true)).collect()
    }

    #[test]
    fn each_rule_by_hand() {
        let ranks = [rank(1, 1.0), rank(2, 1.0)];
        assert_eq!(dealt(LoadRule::RoundRobin, &ranks, &[1; 6]), [0, 1, 1, 0, 1, 1]);
        assert_eq!(dealt(LoadRule::LeastLoaded, &ranks, &[1; 6]), [0, 1, 1, 0, 1, 1]);
        assert_eq!(dealt(LoadRule::WeightedRoundRobin, &ranks, &[1; 6]), [1, 0, 1, 1, 0, 1]);
        // The second would complete 40 of work after 20, the first its 30 only after 30.
        assert_eq!(dealt(LoadRule::Predictive, &ranks, &[10, 30, 19, 2, 1]), [1, 1, 0, 0, 1]);
        let two = [rank(4, 1.0), rank(4, 1.0)];
        assert_eq!(dealt(LoadRule::DynamicThreshold, &two, &[1; 6]), [0, 0, 0, 0, 0, 1]);
        assert_eq!(dealt(LoadRule::RoundRobin, &[rank(0, 1.0)], &[1]), [0; 0]);
    }

    #[test]
    fn weights_follow_speed() {
        let homes = dealt(LoadRule::WeightedRoundRobin, &[rank(4, 1.0), rank(4, 3.0)], &[1; 400]);
        assert_eq!(homes.iter().filter(|&&home| home == 1).count(), 300);
        let homes = dealt(LoadRule::Predictive, &[rank(4, 1.0), rank(4, 3.0)], &[1; 400]);
        assert_eq!(homes.iter().filter(|&&home| home == 1).count(), 300);
    }

    #[test]
    fn what_ranks_have_and_give_back_counts() {
        let full = RankLoad { tasks: 9, work: 90, ..rank(1, 1.0) };
        for rule in [LoadRule::LeastLoaded, LoadRule::Predictive] {
            let mut dealer = Dealer::new(rule, vec![full, rank(1, 1.0)]);
            assert_eq!(dealer.deal(10, &|_| true), Some(1));
            assert_eq!(dealer.deal(10, &|rank| rank == 0), Some(0), "where it fits");
            (0..10).for_each(|_| dealer.take(0, 10));
            assert_eq!(dealer.deal(10, &|_| true), Some(0));
            assert_eq!(dealer.deal(10, &|_| false), None);
        }
    }

    /// Against the definitions, with a search over all ranks.
    #[test]
    fn heaps_choose_what_a_search_would() {
        for seed in 0..200u64 {
            let mut state = seed * 2 + 1;
            let mut draw = |most: u64| {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                (state >> 33) % most
            };
            let ranks: Vec<RankLoad> = (0..5).map(|_| rank(draw(4) as u32, 1.0 + draw(3) as f64)).collect();
            let mut dealer = Dealer::new(LoadRule::Predictive, ranks.clone());
            let mut work = [0u64; 5];
            for _ in 0..60 {
                let (task, only) = (1 + draw(50), draw(7));
                let fits = |rank: u32| only > 4 || u64::from(rank) != only;
                let end = |rank: u32| (work[rank as usize] + task) as f64 / ranks[rank as usize].strength();
                let able = (0..5u32).filter(|&rank| ranks[rank as usize].slots > 0 && fits(rank));
                let best = able.min_by(|&a, &b| end(a).total_cmp(&end(b)));
                let chosen = dealer.deal(task, &fits);
                assert_eq!(chosen.map(end), best.map(end), "seed {seed}");
                if let Some(chosen) = chosen {
                    work[chosen as usize] += task;
                }
                let back = draw(5) as usize;
                if work[back] >= 10 && ranks[back].slots > 0 {
                    work[back] -= 10;
                    dealer.take(back as u32, 10);
                }
            }
        }
    }
}
