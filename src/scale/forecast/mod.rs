//! The forecast: for every number of ranks, when the rest of the graph would be done and what it would cost.
//!
//! `outline` reduces the graph to few chunks, `scene` fills in what is left and how long it takes, `play` runs it forward, `hold` says
//! which nodes are held meanwhile. The forecast for one number of ranks takes tens of microseconds.

mod hold;
mod outline;
mod play;
mod scene;

use std::collections::BTreeMap;

use self::hold::{Charge, Holder};
use self::outline::Outline;
use self::play::Player;
use self::scene::Scene;
use super::decision::{Candidate, Forecast};
use super::estimate::{Estimates, Quantiles};
use super::observation::Observation;
use super::price::{Account, NodeType, NodeTypeId, Prices};
use crate::model::{RankState, Time};

/// The 90 % point of the standard normal distribution.
const Z90: f64 = 1.281_551_565_544_6;

/// By this share of what is not known the end is later than the scene says: whatever waits for several tasks waits for the last of them,
/// and ranks come for a phase when it has begun. Measured: with it half of the ends of simulated runs are sooner
/// (`end_and_bill_lie_in_the_interval` in `sim/tests.rs`).
const SLIP: f64 = 0.4;

/// Up to so many remaining tasks every one is a chunk of its own.
pub const EXACT: usize = 2_500;

/// Chunks of an outline of more tasks: more would be finer and slower. `benches/decide.rs` says what this costs in quality.
pub const CHUNKS: usize = 2_000;

/// Forecasts of one run. It keeps the outline of the graph between decisions.
#[derive(Debug, Default)]
pub struct Forecaster {
    exact: usize,
    chunks: usize,
    levels: Vec<u32>,
    outline: Option<Outline>,
    scene: Scene,
    player: Player,
}

/// Between which numbers of ranks a forecast looks, and how far it plans.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Scope {
    /// Least ranks; so many are held to the end.
    pub min_ranks: u32,
    /// Most ranks.
    pub max_ranks: u32,
    /// Seconds until the next decision.
    pub interval: f64,
}

/// What a forecast found. Times are in seconds from now.
#[derive(Clone, Debug, PartialEq)]
pub struct Outlook {
    /// Ranks there are or will be when all that is under way has come, parked ones included.
    pub supply: u32,
    /// How long a new node takes to come.
    pub delay: Quantiles,
    /// Gaps in the use of a node up to this long are bridged: its delay and what its least charge buys.
    pub gap: f64,
    /// Longest chain of what is left.
    pub critical: f64,
    /// Work left, summed over slots.
    pub work: f64,
    /// One prospect for each number of ranks looked at, ascending.
    pub prospects: Vec<Prospect>,
}

/// What would become of the run with at most so many ranks.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Prospect {
    /// So many ranks.
    pub ranks: u32,
    /// Seconds until the end: one case in ten is sooner.
    pub finish_q10: f64,
    /// Seconds until the end (median).
    pub finish_q50: f64,
    /// Seconds until the end, in nine of ten cases.
    pub finish_q90: f64,
    /// By which factor the end may be late (nine of ten cases) because little is known; chance, which no knowledge takes away, apart.
    pub doubt: f64,
    /// Bill of the whole run, spent so far included: one case in ten is cheaper.
    pub cost_q10: f64,
    /// The same (median).
    pub cost: f64,
    /// The same in nine of ten cases.
    pub cost_q90: f64,
    /// Ranks to ask for or to hold now: those that will be used before new ones could come, and those whose gap is shorter than
    /// giving them back and asking again would take.
    pub wanted: u32,
}

impl Prospect {
    /// What it comes to, on the clock of the run.
    pub fn candidate(&self, now: Time, feasible: bool) -> Candidate {
        Candidate {
            ranks: self.ranks,
            finish_q10: now.after_seconds(self.finish_q10),
            finish_q50: now.after_seconds(self.finish_q50),
            finish_q90: now.after_seconds(self.finish_q90),
            cost_q10: self.cost_q10,
            cost: self.cost,
            cost_q90: self.cost_q90,
            feasible,
        }
    }
}

impl Forecaster {
    /// With outlines of the usual size: [`EXACT`] and [`CHUNKS`].
    pub fn new() -> Forecaster {
        Forecaster::with_outline(EXACT, CHUNKS)
    }

    /// Task by task up to `exact` tasks, in about so many chunks beyond.
    pub fn with_outline(exact: usize, chunks: usize) -> Forecaster {
        Forecaster { exact, chunks: chunks.max(16), ..Forecaster::default() }
    }

    /// Looks ahead from an observation.
    pub fn look(&mut self, seen: &Observation<'_>, estimates: &Estimates, prices: &Prices, scope: &Scope) -> Outlook {
        self.prepare(seen);
        let delay = estimates.delay(NodeTypeId(0));
        let mut sight = Sight::new(seen, estimates, prices, scope, delay);
        if let Some(outline) = &self.outline {
            self.scene.fill(outline, seen, estimates, sight.speed);
            let (scene, player) = (&self.scene, &mut self.player);
            sight.look_around(outline, scene, player);
        }
        Outlook {
            supply: sight.supply,
            delay,
            gap: sight.gap,
            critical: self.scene.critical,
            work: self.scene.work,
            prospects: sight.found.into_values().collect(),
        }
    }

    /// When the run will be over, and what it will cost, if the number of ranks stays as it is.
    pub fn foresee(&mut self, seen: &Observation<'_>, estimates: &Estimates, prices: &Prices) -> Option<Forecast> {
        let supply = seen.supply().max(1);
        let scope = Scope { min_ranks: supply, max_ranks: supply, interval: 0.0 };
        let outlook = self.look(seen, estimates, prices, &scope);
        let prospect = outlook.prospects.iter().find(|prospect| prospect.ranks == supply);
        prospect.map(|prospect| prospect.candidate(seen.now, true).forecast())
    }

    /// Makes the outline anew if there is none for this graph, or if half of what it was made for is done.
    fn prepare(&mut self, seen: &Observation<'_>) {
        let graph = seen.remaining.graph();
        if self.levels.len() != graph.node_count() {
            self.levels = graph.levels();
            self.outline = None;
        }
        let coarse = |o: &Outline| o.made_for > self.exact as u64 && seen.counts.remaining < o.made_for / 2;
        let grown = |o: &Outline| seen.counts.remaining > o.made_for;
        if self.outline.as_ref().is_none_or(|o| coarse(o) || grown(o)) {
            self.outline = Some(Outline::new(seen.remaining, &self.levels, self.exact, self.chunks));
        }
    }
}

/// One look: the ranks that could be had, in the order in which they would be used, and what was found.
struct Sight<'a> {
    scope: &'a Scope,
    holders: Vec<Holder>,
    supply: u32,
    speed: f64,
    gap: f64,
    /// So many seconds ahead ranks must be asked for now.
    lead: f64,
    /// By which factor a node may come later than usual.
    late: f64,
    charge: Charge,
    /// Bill of the nodes that do no more for the run: those given back, and up to now those that drain.
    settled: f64,
    /// The bill up to now.
    spent: f64,
    /// Seconds until the deadline.
    deadline: Option<f64>,
    budget: Option<f64>,
    least: u32,
    most: u32,
    found: BTreeMap<u32, Prospect>,
}

impl<'a> Sight<'a> {
    fn new(
        seen: &Observation<'_>,
        estimates: &Estimates,
        prices: &Prices,
        scope: &'a Scope,
        delay: Quantiles,
    ) -> Sight<'a> {
        let node = prices.node(NodeTypeId(0));
        let account = Account::of(seen, prices);
        let charge = Charge { notice: scope.interval, ..node.map_or(Charge::default(), charge_of) };
        let mut holders = holders(seen, estimates, scope.min_ranks);
        let supply = holders.len() as u32;
        let held: f64 =
            holders.iter().filter(|h| h.granted).filter_map(|h| h.since).map(|since| charge.bill(-since)).sum();
        let fallback = node.map_or(1, |n| n.slots.max(1));
        let working = holders.iter().filter(|h| h.slots > 0).count() as u32;
        let slots = holders.iter().map(|h| h.slots).sum::<u32>().checked_div(working).unwrap_or(fallback).max(1);
        let most = scope.max_ranks.max(supply).max(1);
        let new = Holder { since: Some(delay.q50), arrives: delay.q50, kept: false, granted: false, slots };
        holders.resize(most as usize, new);
        (0..scope.min_ranks.min(most)).for_each(|k| holders[k as usize].kept = true);
        Sight {
            scope,
            supply,
            speed: speed(seen, prices),
            gap: delay.q50 + charge.minimum,
            lead: delay.q50 + scope.interval,
            late: (delay.q90 / delay.q50.max(1e-9)).max(1.0),
            settled: account.spent() - held,
            spent: account.spent(),
            deadline: prices.deadline.map(|d| d.since(seen.now).as_secs_f64()),
            budget: prices.budget,
            charge,
            least: scope.min_ranks.clamp(1, most),
            most,
            holders,
            found: BTreeMap::new(),
        }
    }

    /// Looks at numbers of ranks in geometric steps, at those around what there is, and closer around what a policy may choose.
    fn look_around(&mut self, outline: &Outline, scene: &Scene, player: &mut Player) {
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
            if peak < self.slots_of(n) && n >= self.supply {
                break;
            }
        }
        for _ in 0..3 {
            for n in self.between() {
                self.look_at(n, outline, scene, player);
            }
        }
    }

    fn slots_of(&self, ranks: u32) -> u32 {
        self.holders.iter().take(ranks as usize).map(|h| h.slots).sum()
    }

    /// Numbers half way to the neighbours of what a policy may choose: the prospect of least finish x cost, the fewest ranks that meet
    /// the deadline, the most that keep the budget.
    fn between(&self) -> Vec<u32> {
        let product = |p: &Prospect| p.finish_q50 * (p.cost - self.settled).max(1e-12);
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

    /// Plays one number of ranks; returns the most slots that were busy at once.
    fn look_at(&mut self, ranks: u32, outline: &Outline, scene: &Scene, player: &mut Player) -> u32 {
        let holders = &self.holders[..ranks as usize];
        let course = player.play(outline, scene, &hold::capacity(holders));
        let cost = self.beyond(ranks) + hold::bill(course, holders, self.gap, &self.charge);
        let slots = f64::from(holders.iter().map(|h| h.slots).sum::<u32>().max(1));
        // The end is late by what is not known of the classes and of the nodes that are still to come, and by chance: by what that
        // does to the longest chain, or to the sum of work where that binds. They are independent, so their squares add up.
        let late_nodes = holders.iter().map(|h| h.arrives).fold(0.0, f64::max) * (self.late - 1.0);
        let unknown = course.finish * (scene.doubt(slots) - 1.0);
        let chance = Z90 * scene.chain_deviation.max(scene.work_deviation / slots);
        let late = unknown.hypot(chance);
        // What may take twice as long may take half as long, too.
        let early = (unknown * course.finish / (course.finish + unknown).max(1e-9)).hypot(chance);
        let middle = course.finish + SLIP * late;
        let [finish_q10, finish_q50, finish_q90] =
            [(middle - early).max(0.0), middle, middle + late.hypot(late_nodes.min(course.finish))];
        // What is still to be charged goes with the end.
        let spent = self.spent.min(self.settled + cost);
        let bill = |finish: f64| spent + (self.settled + cost - spent) * finish / course.finish.max(1e-9);
        let prospect = Prospect {
            ranks,
            finish_q10,
            finish_q50,
            finish_q90,
            doubt: 1.0 + unknown / course.finish.max(1e-9),
            cost_q10: bill(finish_q10),
            cost: bill(finish_q50),
            cost_q90: bill(finish_q90),
            wanted: self.wanted(ranks, course, holders),
        };
        self.found.insert(ranks, prospect);
        course.peak
    }

    /// Bill of the ranks there are beyond the first so many: they go now.
    fn beyond(&self, ranks: u32) -> f64 {
        let gone = self.holders.iter().skip(ranks as usize).filter(|h| h.granted);
        gone.filter_map(|h| h.since).map(|since| self.charge.bill(-since)).sum()
    }

    fn wanted(&self, ranks: u32, course: &play::Course, holders: &[Holder]) -> u32 {
        let grow = hold::most_before(course, holders, self.lead);
        let keep = hold::most_before(course, holders, self.gap).min(self.supply);
        grow.max(keep).clamp(self.scope.min_ranks.min(ranks), ranks)
    }
}

/// The ranks there are or that are under way, in the order in which they are used: those that cannot go first, then those there longest.
fn holders(seen: &Observation<'_>, estimates: &Estimates, min_ranks: u32) -> Vec<Holder> {
    let before = |t: Time| seen.now.since(t).as_secs_f64();
    let rest = |node_type, since| estimates.delay_rest(node_type, seen.now.since(since)).max(0.001);
    let usable = |s: RankState| matches!(s, RankState::Active | RankState::Joining | RankState::Parked);
    let mut holders: Vec<Holder> = seen
        .ranks
        .iter()
        .filter(|r| usable(r.state))
        .map(|r| Holder {
            since: r.billed_since.map(|since| -before(since)),
            arrives: match (r.state, r.billed_since) {
                (RankState::Joining, Some(since)) => rest(r.node_type, since),
                (RankState::Joining, None) => 1.0,
                _ => 0.0,
            },
            kept: !r.releasable,
            granted: true,
            slots: r.slots,
        })
        .collect();
    for request in seen.requests {
        let arrives = rest(request.node_type, request.asked);
        let slots = holders.first().map_or(1, |h| h.slots);
        let asked = Holder { since: Some(arrives), arrives, kept: false, granted: false, slots };
        holders.extend(std::iter::repeat_n(asked, request.nodes as usize));
    }
    holders.sort_by(|a, b| {
        let key = |h: &Holder| (!h.kept, h.arrives);
        let (a_key, b_key) = (key(a), key(b));
        a_key.0.cmp(&b_key.0).then(a_key.1.total_cmp(&b_key.1))
    });
    holders.iter_mut().take(min_ranks as usize).for_each(|h| h.kept = true);
    holders
}

/// Mean speed of the slots there are.
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::job::Cost;
    use crate::scale::testing::World;

    const SCOPE: Scope = Scope { min_ranks: 1, max_ranks: 16, interval: 5.0 };

    fn look(world: &World, delay: f64, scope: &Scope) -> Outlook {
        let prices = Prices::of_job(&Cost { node_hour: 3600.0, ..Cost::default() }, 4);
        let estimates = world.estimates(delay);
        world.see(|seen| Forecaster::new().look(seen, &estimates, &prices, scope))
    }

    fn at(outlook: &Outlook, ranks: u32) -> Prospect {
        *outlook.prospects.iter().find(|p| p.ranks == ranks).unwrap_or_else(|| panic!("{ranks}: {outlook:#?}"))
    }

    #[test]
    fn a_bag_ends_when_the_work_is_shared_out() {
        // 400 tasks of 10 s on 4 slots a rank; the fifth rank comes after 60 s.
        let world = World::bag(400, 10.0).with_ranks(4);
        let outlook = look(&world, 60.0, &SCOPE);
        assert!((at(&outlook, 4).finish_q50 - 250.0).abs() < 10.0);
        // Until 60 s 16 slots do 96 tasks; then 64 slots need 5 rounds for 304.
        assert!((at(&outlook, 16).finish_q50 - 110.0).abs() < 11.0, "{outlook:#?}");
        assert_eq!(at(&outlook, 16).wanted, 16);
        assert!((at(&outlook, 4).cost - 4.0 * 250.0).abs() < 50.0);
        assert!(at(&outlook, 4).finish_q90 >= at(&outlook, 4).finish_q50);
    }

    #[test]
    fn a_chain_wants_one_rank() {
        let outlook = look(&World::chain(50, 30.0), 1.0, &SCOPE);
        assert!(outlook.prospects.iter().all(|p| p.wanted == 1), "{outlook:#?}");
        assert!((outlook.critical - 1500.0).abs() < 30.0);
    }

    #[test]
    fn narrow_phases_want_few_ranks_and_are_not_charged_for_many() {
        // Now wide, then narrow for long, then wide again.
        let world = World::phases(&[64, 1, 64], 600.0).with_ranks(16);
        let outlook = look(&world, 60.0, &SCOPE);
        let all = at(&outlook, 16);
        assert_eq!(all.wanted, 16);
        assert!((all.finish_q50 - 1800.0).abs() < 60.0);
        // Two wide phases of 16 nodes and one narrow phase of 1.
        assert!((all.cost - (2.0 * 600.0 * 16.0 + 600.0)).abs() < 300.0, "{all:?}");
    }

    #[test]
    fn tasks_shorter_than_the_delay_wait_for_nobody() {
        let outlook = look(&World::bag(40, 2.0), 300.0, &SCOPE);
        assert!(outlook.prospects.iter().all(|p| p.wanted == 1), "{outlook:#?}");
    }

    #[test]
    fn the_outline_hardly_changes_the_forecast() {
        let widths = [3000, 10, 5000, 2000];
        let world = World::phases(&widths, 7.0).with_ranks(8);
        let prices = Prices::of_job(&Cost::default(), 4);
        let estimates = world.estimates(60.0);
        let scope = Scope { max_ranks: 64, ..SCOPE };
        let with =
            |chunks| world.see(|seen| Forecaster::with_outline(chunks, chunks).look(seen, &estimates, &prices, &scope));
        let (exact, coarse) = (with(100_000), with(64));
        for prospect in &exact.prospects {
            let Some(other) = coarse.prospects.iter().find(|p| p.ranks == prospect.ranks) else { continue };
            let off = (other.finish_q50 / prospect.finish_q50 - 1.0).abs();
            assert!(off < 0.06, "{prospect:?} {other:?}");
        }
    }

    #[test]
    fn nothing_left_is_done_at_once() {
        let mut world = World::bag(3, 1.0);
        world.stages = vec![None; 3];
        let outlook = look(&world, 60.0, &SCOPE);
        assert!(outlook.prospects.iter().all(|p| p.finish_q50 == 0.0), "{outlook:#?}");
    }
}
