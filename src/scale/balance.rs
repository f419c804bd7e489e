//! Load balancing: five strategies that assign tasks to ranks, the filter for what a rank can run,
//! and a measure of how even the load is.
//!
//! The graph partition (`graph::partition`) chooses homes by dependencies. These strategies use
//! load alone, as schedulers without a graph do. Users choose one for jobs without dependencies,
//! and the simulator compares them.

use serde::{Deserialize, Serialize};

/// How tasks are assigned to ranks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Strategy {
    /// Round robin.
    RoundRobin,
    /// To the rank with the fewest tasks per slot.
    LeastLoaded,
    /// In turn, in proportion to slots times measured speed (smooth weighted round robin: no rank
    /// gets a run of tasks).
    WeightedRoundRobin,
    /// To the rank that got the last task until its load exceeds the mean by a fifth, then to the
    /// least loaded rank: keeps neighbouring tasks together.
    DynamicThreshold,
    /// To the rank with the earliest expected completion, by estimated duration.
    Predictive,
}

impl Strategy {
    /// All strategies, with their names in the job file and on the command line.
    pub const ALL: [(&'static str, Strategy); 5] = [
        ("round_robin", Strategy::RoundRobin),
        ("least_loaded", Strategy::LeastLoaded),
        ("weighted_round_robin", Strategy::WeightedRoundRobin),
        ("dynamic_threshold", Strategy::DynamicThreshold),
        ("predictive", Strategy::Predictive),
    ];
}

/// A rank as the strategies see it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct BalancedRank {
    /// Slots.
    pub slots: u32,
    /// Measured speed relative to the others (1 where unknown).
    pub speed: f64,
    /// Tasks assigned to it that have not ended.
    pub tasks: u64,
    /// Estimated work of these tasks, in seconds.
    pub work: f64,
    /// Its capabilities.
    pub able: Capabilities,
    /// Share of its attempts that succeeded, 0 to 1 (1 where none was made).
    pub success: f64,
    /// Mean time in seconds from assigning a task to its end, relative to the others (1 where
    /// unknown).
    pub latency: f64,
    /// False if it must not get tasks: it is draining, parked or quarantined.
    pub healthy: bool,
}

/// What a rank offers or a task needs.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Capabilities {
    /// Bytes of memory.
    pub memory: u64,
    /// GPUs.
    pub gpus: u32,
    /// Slots for one task.
    pub slots: u32,
    /// Labels, such as `fast-disk`.
    pub labels: Vec<String>,
}

impl Capabilities {
    /// True if a rank with these capabilities can run a task that needs `need`.
    pub fn covers(&self, need: &Capabilities) -> bool {
        self.memory >= need.memory
            && self.gpus >= need.gpus
            && self.slots >= need.slots
            && need.labels.iter().all(|label| self.labels.contains(label))
    }
}

/// Assigns tasks to ranks by one strategy.
#[derive(Clone, Debug)]
pub struct Balancer {
    strategy: Strategy,
    next: usize,
    /// Credit of each rank in the smooth weighted round robin.
    credit: Vec<f64>,
}

/// How far the dynamic threshold lets a rank's load exceed the mean.
const DYNAMIC_THRESHOLD: f64 = 1.2;

impl Balancer {
    /// Creates a balancer with a strategy.
    pub fn new(strategy: Strategy) -> Balancer {
        Balancer { strategy, next: 0, credit: Vec::new() }
    }

    /// Chooses the rank for a task with an estimated duration of `seconds`. Returns `None` if no
    /// healthy rank can run it. The caller adds the task to that rank's load.
    pub fn choose(&mut self, need: &Capabilities, seconds: f64, ranks: &[BalancedRank]) -> Option<usize> {
        let able: Vec<usize> = (0..ranks.len()).filter(|&k| ranks[k].healthy && ranks[k].able.covers(need)).collect();
        let least = |of: &dyn Fn(&BalancedRank) -> f64| {
            able.iter().copied().min_by(|&a, &b| of(&ranks[a]).total_cmp(&of(&ranks[b])))
        };
        let load = |s: &BalancedRank| s.tasks as f64 / f64::from(s.slots.max(1));
        match self.strategy {
            Strategy::RoundRobin => self.in_turn(&able),
            Strategy::LeastLoaded => least(&load),
            Strategy::WeightedRoundRobin => self.weighted(&able, ranks),
            Strategy::DynamicThreshold => {
                let mean = able.iter().map(|&k| load(&ranks[k])).sum::<f64>() / able.len().max(1) as f64;
                let stays = able.contains(&self.next) && load(&ranks[self.next]) <= (mean * DYNAMIC_THRESHOLD).max(1.0);
                let choice = if stays { Some(self.next) } else { least(&load) };
                self.next = choice.unwrap_or(self.next);
                choice
            }
            Strategy::Predictive => least(&|s| (s.work + seconds) / (f64::from(s.slots.max(1)) * s.speed.max(1e-9))),
        }
    }

    fn in_turn(&mut self, able: &[usize]) -> Option<usize> {
        let choice = able.iter().copied().find(|&k| k >= self.next).or(able.first().copied())?;
        self.next = choice + 1;
        Some(choice)
    }

    fn weighted(&mut self, able: &[usize], ranks: &[BalancedRank]) -> Option<usize> {
        self.credit.resize(ranks.len(), 0.0);
        let weight = |k: usize| f64::from(ranks[k].slots) * ranks[k].speed;
        let total: f64 = able.iter().map(|&k| weight(k)).sum();
        able.iter().for_each(|&k| self.credit[k] += weight(k));
        let choice = able.iter().copied().max_by(|&a, &b| self.credit[a].total_cmp(&self.credit[b]).then(b.cmp(&a)))?;
        self.credit[choice] -= total;
        Some(choice)
    }

    /// Assigns many tasks, given by their needs and estimated seconds. Returns the index of each
    /// task's rank, `None` where no rank can run it.
    pub fn deal(&mut self, tasks: &[(Capabilities, f64)], ranks: &mut [BalancedRank]) -> Vec<Option<usize>> {
        let mut homes = Vec::with_capacity(tasks.len());
        for (need, seconds) in tasks {
            let home = self.choose(need, *seconds, ranks);
            if let Some(k) = home {
                ranks[k].tasks += 1;
                ranks[k].work += seconds;
            }
            homes.push(home);
        }
        homes
    }
}

/// How well a rank suits a task, 0 to 1. Half of the score is load. The rest is utilisation
/// (squared, since the last free slot is the most valuable), special equipment that the task would
/// leave unused, and the rank's history.
pub fn suitability(need: &Capabilities, rank: &BalancedRank) -> f64 {
    let slots = f64::from(rank.slots.max(1));
    let load = 1.0 / (1.0 + rank.tasks as f64 / slots);
    let utilisation = (rank.tasks as f64 / slots).min(1.0);
    let wasted = (rank.able.gpus > 0 && need.gpus == 0) || rank.able.labels.iter().any(|l| !need.labels.contains(l));
    let special = if wasted { 0.0 } else { 1.0 };
    let history = rank.success / (1.0 + rank.latency.max(0.0)) * 2.0;
    0.5 * load + 0.2 * (1.0 - utilisation * utilisation) + 0.15 * special + 0.15 * history.clamp(0.0, 1.0)
}

/// The rank that suits a task best, among those that can run it. If no rank can, the best of the
/// healthy ones: the task waits or fails there with a message. `None` if no rank is healthy.
pub fn best_suited(need: &Capabilities, ranks: &[BalancedRank]) -> Option<usize> {
    let best = |able: &dyn Fn(&BalancedRank) -> bool| {
        let open = (0..ranks.len()).filter(|&k| ranks[k].healthy && able(&ranks[k]));
        open.max_by(|&a, &b| suitability(need, &ranks[a]).total_cmp(&suitability(need, &ranks[b])).then(b.cmp(&a)))
    };
    best(&|rank| rank.able.covers(need)).or_else(|| best(&|_| true))
}

/// Mean over maximum of busy time per unit of capacity, from 0 (one rank does everything) to 1 (all
/// ranks are equally busy). `loads` are pairs of busy time and capacity.
pub fn balance_of(loads: &[(f64, f64)]) -> f64 {
    let shares: Vec<f64> = loads.iter().filter(|(_, capacity)| *capacity > 0.0).map(|(busy, c)| busy / c).collect();
    let most = shares.iter().copied().fold(0.0, f64::max);
    if most > 0.0 { shares.iter().sum::<f64>() / shares.len() as f64 / most } else { 1.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rank(slots: u32, speed: f64) -> BalancedRank {
        let able = Capabilities { memory: 1 << 30, slots, ..Capabilities::default() };
        BalancedRank { slots, speed, able, success: 1.0, latency: 1.0, healthy: true, ..BalancedRank::default() }
    }

    fn dealt(strategy: Strategy, ranks: &[BalancedRank], tasks: &[f64]) -> Vec<usize> {
        let tasks: Vec<_> = tasks.iter().map(|&s| (Capabilities::default(), s)).collect();
        let mut ranks = ranks.to_vec();
        Balancer::new(strategy).deal(&tasks, &mut ranks).into_iter().flatten().collect()
    }

    #[test]
    fn each_strategy_by_hand() {
        let (small, big) = (rank(1, 1.0), rank(2, 1.0));
        let ranks = [small, big];
        assert_eq!(dealt(Strategy::RoundRobin, &ranks, &[1.0; 4]), [0, 1, 0, 1]);
        assert_eq!(dealt(Strategy::LeastLoaded, &ranks, &[1.0; 6]), [0, 1, 1, 0, 1, 1]);
        assert_eq!(dealt(Strategy::WeightedRoundRobin, &ranks, &[1.0; 6]), [1, 0, 1, 1, 0, 1]);
        // The big rank would complete 40 s of work after 20 s, the small one its 30 s only after 30
        // s.
        assert_eq!(dealt(Strategy::Predictive, &ranks, &[10.0, 30.0, 19.0, 2.0, 1.0]), [1, 1, 0, 0, 1]);
        assert_eq!(dealt(Strategy::DynamicThreshold, &[rank(4, 1.0), rank(4, 1.0)], &[1.0; 6]), [0, 0, 0, 0, 0, 1]);
    }

    #[test]
    fn weights_follow_speed() {
        let homes = dealt(Strategy::WeightedRoundRobin, &[rank(4, 1.0), rank(4, 3.0)], &[1.0; 400]);
        assert_eq!(homes.iter().filter(|&&h| h == 1).count(), 300);
    }

    #[test]
    fn capabilities_come_first_and_healthy_ranks_last() {
        let mut gpu = rank(4, 1.0);
        gpu.able.gpus = 1;
        let ranks = [rank(4, 1.0), gpu, BalancedRank { healthy: false, ..rank(64, 1.0) }];
        let plain = Capabilities::default();
        let wants_gpu = Capabilities { gpus: 1, ..plain.clone() };
        let impossible = Capabilities { labels: vec!["moon".into()], ..plain.clone() };
        assert_eq!(best_suited(&wants_gpu, &ranks), Some(1));
        assert_eq!(best_suited(&plain, &ranks), Some(0), "special equipment is kept free");
        assert_eq!(best_suited(&impossible, &ranks), Some(0), "any healthy rank is the fall-back");
        assert_eq!(best_suited(&plain, &ranks[2..]), None);
        assert_eq!(Balancer::new(Strategy::LeastLoaded).choose(&impossible, 1.0, &ranks), None);
    }

    #[test]
    fn history_counts() {
        let unreliable = BalancedRank { success: 0.2, ..rank(4, 1.0) };
        assert_eq!(best_suited(&Capabilities::default(), &[unreliable, rank(4, 1.0)]), Some(1));
    }

    #[test]
    fn balance_by_hand() {
        assert_eq!(balance_of(&[(10.0, 1.0), (10.0, 1.0)]), 1.0);
        assert_eq!(balance_of(&[(10.0, 1.0), (0.0, 1.0)]), 0.5);
        assert_eq!(balance_of(&[(10.0, 1.0), (40.0, 4.0)]), 1.0);
        assert_eq!(balance_of(&[]), 1.0);
    }
}
