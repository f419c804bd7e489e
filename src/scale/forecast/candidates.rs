//! The candidate search: lists the ranks that exist or could be requested, and predicts the outcome
//! for several numbers of them.
//!
//! Ranks are in the order in which they would be used, so a number of ranks means the first ones of
//! the list. Ranks beyond leave after their running tasks: until then their nodes are charged, and
//! nothing more is started there.

use std::collections::BTreeMap;

use super::list_schedule::{ListScheduler, Schedule};
use super::node_cost::{self, Charge, HeldNode, Holders};
use super::remaining_chunks::RemainingChunks;
use super::usage::{self, Peaks, RankUsage};
use super::{Prospect, Scope};
use crate::model::RankState;
use crate::scale::estimate::Estimates;
use crate::scale::observation::Observation;
use crate::scale::price::{Account, NodeType, NodeTypeId, Prices};
use crate::scale::remaining::CoarseGraph;

mod alike;

/// The 90 % point of the standard normal distribution.
const Z90: f64 = 1.281_551_565_544_6;

/// Share of the effect of chance (its 90 % point) by which the end is later than predicted: a task
/// that waits for several others waits for the last of them, and ranks for a phase arrive after it
/// has started. Lack of knowledge adds nothing, since all tasks may also take less than estimated.
/// Calibrated so that about half of the simulated runs end sooner
/// (`end_and_bill_lie_in_the_interval` in `sim/tests.rs`).
const END_DELAY_SHARE: f64 = 0.75;

/// Share of the remaining bill that grows with the end; ranks that become idle before it are given
/// back. Calibrated in the same way.
const HELD_TO_END_SHARE: f64 = 0.7;

/// One search: the ranks in the order in which they would be used, and the results.
pub(super) struct CandidateSearch<'a> {
    scope: &'a Scope,
    holders: Holders,
    /// Ranks that leave as soon as their running tasks have ended.
    leaving: Holders,
    pub supply: u32,
    pub speed: f64,
    pub gap: f64,
    /// Seconds that a node must be requested in advance.
    lead: f64,
    /// Factor by which a node may arrive later than usual.
    late: f64,
    /// Bill of the nodes already given back.
    settled: f64,
    /// The part of it that earlier sessions have spent.
    earlier: f64,
    /// The bill so far.
    spent: f64,
    /// Seconds until the deadline.
    deadline: Option<f64>,
    budget: Option<f64>,
    now: f64,
    /// The type that further nodes are of first, and the seconds until one arrives.
    first: NodeTypeId,
    delay: f64,
    least: u32,
    most: u32,
    pub found: BTreeMap<u32, Prospect>,
}

/// What the session costs with a prospect, without what `earlier` ones have cost; above zero.
fn own_cost(prospect: &Prospect, earlier: f64) -> f64 {
    (prospect.cost - earlier).max(1e-12)
}

impl<'a> CandidateSearch<'a> {
    pub fn new(
        seen: &Observation<'_>,
        estimates: &Estimates,
        prices: &Prices,
        scope: &'a Scope,
        first: NodeTypeId,
    ) -> CandidateSearch<'a> {
        let (node, delay) = (prices.node(first), estimates.delay(first));
        let account = Account::of(seen, prices);
        let charge = |node_type| Charge {
            notice: scope.interval,
            ..prices.node(node_type).map_or(Charge::default(), charge_of)
        };
        let slots_of_type = |node_type| slots_of(seen, prices, node_type);
        let mut holders = alike::holders(seen, estimates, scope.min_ranks, &charge, &slots_of_type);
        let supply = holders.ranks();
        let fallback = node.map_or(1, |n| n.slots.max(1));
        let working = holders.groups().filter(|group| group.holder.slots > 0).map(|group| group.ranks).sum();
        let slots = holders.slots().checked_div(working).unwrap_or(fallback).max(1);
        let most = scope.max_ranks.max(supply).max(1);
        let further = |node_type| {
            let (charge, arrives) = (charge(node_type), estimates.delay(node_type).q50);
            let slots = slots_of(seen, prices, node_type).unwrap_or(slots);
            HeldNode { since: Some(arrives), arrives, slots, charge, ..HeldNode::default() }
        };
        let mut left = most - supply;
        for (node_type, room) in seen.growth(Some(first)) {
            holders.add(further(node_type), left.min(room));
            left = left.saturating_sub(room);
        }
        holders.add(further(first), left);
        holders.keep(scope.min_ranks.min(most));
        CandidateSearch {
            scope,
            supply,
            speed: speed(seen, prices),
            // A node given back with one decision can be requested with the next at the earliest,
            // and both changes cost the run some time.
            gap: longest_delay(seen, estimates, first) + charge(first).minimum.max(2.0 * scope.interval),
            lead: delay.q50 + scope.interval,
            late: (delay.q90 / delay.q50.max(1e-9)).max(1.0),
            settled: account.settled(),
            earlier: prices.earlier,
            spent: account.spent(),
            deadline: prices.deadline.map(|d| d.since(seen.now).as_secs_f64()),
            budget: prices.budget,
            now: seen.now.seconds(),
            leaving: alike::leaving(seen, &charge),
            first,
            delay: delay.q50,
            least: scope.min_ranks.clamp(1, most),
            most,
            holders,
            found: BTreeMap::new(),
        }
    }

    /// Assigns running tasks to ranks.
    pub fn deal(&mut self, scene: &mut RemainingChunks) {
        usage::deal(&mut scene.tasks_running, &mut self.holders, &mut self.leaving);
    }

    /// Evaluates numbers of ranks in geometric steps, around the present supply, and more densely
    /// around the likely choices of a policy.
    pub fn look_around(&mut self, outline: &CoarseGraph, scene: &RemainingChunks, player: &mut ListScheduler) {
        let mut tries = Vec::new();
        let mut n = self.least;
        while n < self.most {
            tries.push(n);
            n *= 2;
        }
        tries.extend([self.most, self.supply, self.supply + 1, self.supply.saturating_sub(1)]);
        tries.retain(|n| (self.least..=self.most).contains(n));
        tries.sort_unstable();
        tries.dedup();
        for n in tries {
            let peak = self.look_at(n, outline, scene, player);
            // More ranks than are ever busy change nothing.
            if peak < self.holders.slots_of(n) && n >= self.supply {
                break;
            }
        }
        for _ in 0..3 {
            for n in self.between() {
                self.look_at(n, outline, scene, player);
            }
        }
    }

    /// Numbers half way to the neighbours of likely choices: the prospect of least finish x cost,
    /// the fewest ranks that meet the deadline, the most that stay within the budget.
    fn between(&self) -> Vec<u32> {
        let product = |p: &Prospect| (self.now + p.finish_q50) * own_cost(p, self.earlier);
        let all = || self.found.values();
        let best = all().min_by(|a, b| product(a).total_cmp(&product(b)));
        let in_time = self.deadline.and_then(|deadline| all().find(|p| p.finish_q90 <= deadline));
        let in_budget = self.budget.and_then(|budget| all().rev().find(|p| p.cost_q90 <= budget));
        let mut numbers = Vec::new();
        for at in [best, in_time, in_budget].into_iter().flatten().map(|p| p.ranks) {
            numbers.extend(self.found.range(..at).next_back().map(|(&n, _)| n.midpoint(at)));
            numbers.extend(self.found.range(at + 1..).next().map(|(&n, _)| at.midpoint(n)));
        }
        numbers.sort_unstable();
        numbers.dedup();
        numbers.retain(|n| !self.found.contains_key(n));
        numbers
    }

    /// True if further ranks can be requested.
    pub fn can_grow(&self) -> bool {
        self.most > self.supply
    }

    /// For each number of ranks keeps the better of this and another order of types: within
    /// deadline and budget, then by the trade between time and money.
    pub fn take_better(&mut self, other: CandidateSearch<'_>) {
        let (weight, now, earlier) = (self.scope.time_weight, self.now, self.earlier);
        let (deadline, budget) = (self.deadline, self.budget);
        let misses = |p: &Prospect| {
            deadline.is_some_and(|deadline| p.finish_q90 > deadline) || budget.is_some_and(|budget| p.cost_q90 > budget)
        };
        let burden =
            |p: &Prospect| weight * (now + p.finish_q50).max(1e-9).ln() + (1.0 - weight) * own_cost(p, earlier).ln();
        for (ranks, prospect) in other.found.into_iter().filter(|(ranks, _)| *ranks > self.supply) {
            let known = self.found.get(&ranks).map(|known| (misses(known), burden(known)));
            let is_better = |known: (bool, f64)| {
                misses(&prospect).cmp(&known.0).then(burden(&prospect).total_cmp(&known.1)).is_lt()
            };
            if known.is_none_or(is_better) {
                self.found.insert(ranks, prospect);
            }
        }
    }

    /// Evaluates one number of ranks; returns the most slots that were busy at once.
    fn look_at(
        &mut self,
        ranks: u32,
        outline: &CoarseGraph,
        scene: &RemainingChunks,
        player: &mut ListScheduler,
    ) -> u32 {
        let (holders, others) = self.holders.split(ranks);
        let all_busy = self.holders.busy() + self.leaving.busy();
        let course = player.play(outline, scene, &node_cost::capacity(&holders, all_busy));
        let gone: f64 = self.leaving.groups().copied().chain(others).map(|group| node_cost::farewell(&group)).sum();
        let cost = gone + node_cost::bill(course, &holders, self.gap);
        let slots = f64::from(holders.slots().max(1));
        // The end is delayed by uncertainty about the classes, by nodes that have not arrived, and
        // by chance, through their effect on the longest chain or, where that limits the run, on
        // the total work. They are independent, so their squares add up.
        let late_nodes = holders.groups().map(|group| group.holder.arrives).fold(0.0, f64::max) * (self.late - 1.0);
        let unknown = course.finish * (scene.doubt(slots) - 1.0);
        let chance = Z90 * scene.chain_deviation.max(scene.work_deviation / slots);
        let late = unknown.hypot(chance);
        // What may take twice as long may also take half as long.
        let early = (unknown * course.finish / (course.finish + unknown).max(1e-9)).hypot(chance);
        let middle = course.finish + END_DELAY_SHARE * chance;
        let [finish_q10, finish_q50, finish_q90] =
            [(middle - early).max(0.0), middle, middle + late.hypot(late_nodes.min(course.finish))];
        let spent = self.spent.min(self.settled + cost);
        let stretch = |finish: f64| 1.0 + HELD_TO_END_SHARE * (finish / course.finish.max(1e-9) - 1.0);
        let bill = |finish: f64| spent + (self.settled + cost - spent) * stretch(finish);
        let prospect = Prospect {
            ranks,
            finish_q10,
            finish_q50,
            finish_q90,
            doubt: 1.0 + unknown / course.finish.max(1e-9),
            cost_q10: bill(finish_q10),
            cost: bill(finish_q50),
            cost_q90: bill(finish_q90),
            wanted: self.wanted(ranks, course, &holders),
            first: self.first,
            delay: self.delay,
        };
        self.found.insert(ranks, prospect);
        course.peak
    }

    /// How many of the first ranks should exist now: new ones that will have work before others
    /// could arrive, and existing ones that will have work before they could leave and return, or
    /// that their running tasks hold anyway.
    fn wanted(&self, ranks: u32, course: &Schedule, holders: &Holders) -> u32 {
        let (peaks, usage) = (Peaks::of(course), RankUsage::of(holders));
        let needed = |moment: f64| usage.least(peaks.before(moment));
        let grow = needed(self.lead);
        let keep = holders.last_that_stays(self.supply.min(ranks), |until| needed(self.gap.max(until)));
        grow.max(keep).clamp(self.scope.min_ranks.min(ranks), ranks)
    }
}

/// Seconds until the nodes that are held or requested would be there again if they were given back,
/// at most, or one of the type `first`.
fn longest_delay(seen: &Observation<'_>, estimates: &Estimates, first: NodeTypeId) -> f64 {
    let mut types: Vec<NodeTypeId> = seen.requests.iter().map(|request| request.node_type).collect();
    types.extend(seen.ranks.iter().map(|rank| rank.node_type));
    types.push(first);
    types.sort_unstable();
    types.dedup();
    types.into_iter().map(|node_type| estimates.delay(node_type).q50).fold(0.0, f64::max)
}

/// Slots of a node of a type, if further nodes are of types of their own.
pub(super) fn slots_of(seen: &Observation<'_>, prices: &Prices, node_type: NodeTypeId) -> Option<u32> {
    prices.node(node_type).filter(|_| !seen.sites.is_empty()).map(|node| node.slots.max(1))
}

/// Mean speed of the present slots.
fn speed(seen: &Observation<'_>, prices: &Prices) -> f64 {
    let active = seen.ranks.iter().filter(|r| r.state == RankState::Active);
    let (slots, work) = active.fold((0.0, 0.0), |(slots, work), r| {
        let speed = prices.node(r.node_type).map_or(1.0, |n| n.speed);
        (slots + f64::from(r.slots), work + f64::from(r.slots) * speed)
    });
    if work > 0.0 { work / slots } else { prices.node(NodeTypeId(0)).map_or(1.0, |n| n.speed.max(1e-3)) }
}

fn charge_of(node: &NodeType) -> Charge {
    Charge {
        minimum: node.minimum.as_secs_f64(),
        granularity: node.granularity.as_secs_f64(),
        per_second: node.per_second(),
        ..Charge::default()
    }
}
