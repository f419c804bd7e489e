//! The forecast: for each number of ranks, when the rest of the graph would be complete and what it
//! would cost.
//!
//! The remaining work is kept in few chunks (`scale/remaining`). `remaining_chunks` adds durations.
//! `candidates` lists the ranks that exist or could be requested, and tries numbers of them:
//! `list_schedule` simulates the chunks, `usage` derives which ranks are in use meanwhile,
//! `node_cost` which nodes are held and what that costs. The forecast for one number of ranks takes
//! tens of microseconds, and a few hundred with very many running tasks, whatever the number of
//! remaining tasks.

mod candidates;
mod list_schedule;
mod node_cost;
mod remaining_chunks;
mod usage;

use self::candidates::CandidateSearch;
use self::list_schedule::ListScheduler;
use self::remaining_chunks::{Beliefs, RemainingChunks};
use super::decision::{Candidate, Forecast};
use super::estimate::{Estimates, Quantiles};
use super::observation::Observation;
use super::price::{NodeTypeId, Prices};
use crate::model::Time;

/// Number of orders of node types that are tried.
const MAX_ORDERS: usize = 6;

/// Makes the forecasts of one run. It keeps its buffers between decisions.
#[derive(Debug, Default)]
pub struct Forecaster {
    scene: RemainingChunks,
    player: ListScheduler,
}

/// The range of numbers of ranks, and the planning interval.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Scope {
    /// Minimum number of ranks; these are held to the end.
    pub min_ranks: u32,
    /// Maximum number of ranks.
    pub max_ranks: u32,
    /// Seconds until the next decision.
    pub interval: f64,
    /// Which nodes to request where there are several types: one percent of time is worth `w / (1 -
    /// w)` percent of money.
    pub time_weight: f64,
}

/// The result of a forecast. Times are in seconds from now.
#[derive(Clone, Debug, PartialEq)]
pub struct Outlook {
    /// Number of ranks once everything under way has arrived, including parked ones.
    pub supply: u32,
    /// Time until a requested node arrives.
    pub delay: Quantiles,
    /// Gaps in the use of a node up to this long are bridged: its delay plus the time that its
    /// minimum charge buys, at least two decision intervals.
    pub gap: f64,
    /// Longest chain of the remaining tasks.
    pub critical: f64,
    /// Remaining work, summed over slots.
    pub work: f64,
    /// One prospect for each number of ranks evaluated, ascending.
    pub prospects: Vec<Prospect>,
    /// Effort: entries read and events simulated, over all numbers of ranks.
    pub steps: u64,
}

/// The predicted outcome with a maximum number of ranks.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Prospect {
    /// Maximum number of ranks.
    pub ranks: u32,
    /// Seconds until the end, q10.
    pub finish_q10: f64,
    /// Seconds until the end, median.
    pub finish_q50: f64,
    /// Seconds until the end, q90.
    pub finish_q90: f64,
    /// Factor by which the end may be late (q90) because of limited knowledge, without the effect
    /// of chance.
    pub doubt: f64,
    /// Bill of the whole run, spent so far included: q10.
    pub cost_q10: f64,
    /// The same, median.
    pub cost: f64,
    /// The same, q90.
    pub cost_q90: f64,
    /// Number of ranks to request or hold now: those that will be used before new ones could
    /// arrive, and those with a gap shorter than giving back and requesting again would take.
    pub wanted: u32,
    /// The type of nodes that further ranks are requested of first.
    pub first: NodeTypeId,
    /// Seconds until a node of that type arrives.
    pub delay: f64,
}

impl Prospect {
    /// This prospect on the clock of the run.
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
    /// A forecaster without buffers yet.
    pub fn new() -> Forecaster {
        Forecaster::default()
    }

    /// Makes a forecast from an observation.
    pub fn look(&mut self, seen: &Observation<'_>, estimates: &Estimates, prices: &Prices, scope: &Scope) -> Outlook {
        let usual = seen.growth_type();
        let mut sight = CandidateSearch::new(seen, estimates, prices, scope, usual);
        self.scene.fill(seen.remaining, &Beliefs { now: seen.now, estimates, speed: sight.speed });
        sight.deal(&mut self.scene);
        let before = self.player.parts_run;
        sight.look_around(seen.remaining.outline(), &self.scene, &mut self.player);
        // The types in other orders: what is dear may be fast or large.
        let can_grow = sight.can_grow();
        let others = seen.growth(None).into_iter().map(|(node_type, _)| node_type);
        for first in others.filter(|first| *first != usual && can_grow).take(MAX_ORDERS - 1) {
            let mut other = CandidateSearch::new(seen, estimates, prices, scope, first);
            other.deal(&mut self.scene);
            other.look_around(seen.remaining.outline(), &self.scene, &mut self.player);
            sight.take_better(other);
        }
        Outlook {
            supply: sight.supply,
            delay: estimates.delay(usual),
            gap: sight.gap,
            critical: self.scene.critical,
            work: self.scene.work,
            prospects: sight.found.into_values().collect(),
            steps: self.scene.looked_at + self.player.parts_run - before,
        }
    }

    /// Predicts end and cost of the run if the number of ranks stays as it is.
    pub fn forecast_end(&mut self, seen: &Observation<'_>, estimates: &Estimates, prices: &Prices) -> Option<Forecast> {
        let supply = seen.supply().max(1);
        let scope = Scope { min_ranks: supply, max_ranks: supply, interval: 0.0, time_weight: 0.5 };
        let outlook = self.look(seen, estimates, prices, &scope);
        let prospect = outlook.prospects.iter().find(|prospect| prospect.ranks == supply);
        prospect.map(|prospect| prospect.candidate(seen.now, true).forecast())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::job::Cost;
    use crate::scale::SiteView;
    use crate::scale::price::NodeType;
    use crate::scale::testing::{World, site_view};

    const SCOPE: Scope = Scope { min_ranks: 1, max_ranks: 16, interval: 5.0, time_weight: 0.5 };

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
    fn a_rank_that_drains_is_charged_for_until_its_tasks_end() {
        // Sixty-four tasks of 1000 s run on sixteen ranks, and nothing else remains: releasing
        // ranks saves nothing.
        let mut world = World::bag(64, 1000.0).with_ranks(16).busy();
        world.stages.iter_mut().for_each(|stage| *stage = Some(crate::scale::Stage::Running(Time::ZERO)));
        world.now = 100.0;
        let outlook = look(&world, 60.0, &SCOPE);
        for ranks in [1, 8, 16] {
            let cost = at(&outlook, ranks).cost;
            assert!((cost / 16_000.0 - 1.0).abs() < 0.1, "{ranks} ranks {cost}");
        }
    }

    #[test]
    fn each_node_is_charged_with_the_price_of_its_site() {
        // Four ranks of a cheap site with room for two more; others come from a dear one.
        let cost = Cost { node_hour: 36_000.0, minimum: std::time::Duration::ZERO, ..Cost::default() };
        let mut prices = Prices::of_job(&cost, 4);
        prices.nodes.push(NodeType { node_hour: 3600.0, ..prices.nodes[0].clone() });
        let site = |site: u32, node_type, room| SiteView { node_type, room, ..site_view(site, 1.0) };
        let mut world = World::bag(480, 10.0).with_ranks(4);
        world.ranks.iter_mut().for_each(|rank| rank.node_type = NodeTypeId(1));
        let mut cost_of = |ranks, room| {
            world.sites = vec![site(0, NodeTypeId(1), room), site(1, NodeTypeId(0), None)];
            crate::scale::sites::rank_sites(&mut world.sites);
            let mut estimates = world.estimates(0.1);
            estimates.observe_delay(NodeTypeId(1), std::time::Duration::from_millis(100));
            at(&world.see(|seen| Forecaster::new().look(seen, &estimates, &prices, &SCOPE)), ranks).cost
        };
        // The work takes 1200 s of a rank.
        for (ranks, room, cost) in [(4, Some(0), 1200.0), (8, Some(0), 6600.0), (8, Some(2), 3900.0), (8, None, 1200.0)]
        {
            let is = cost_of(ranks, room);
            assert!((is / cost - 1.0).abs() < 0.1, "{ranks} ranks, room for {room:?}: {is}");
        }
    }

    #[test]
    fn further_nodes_have_the_slots_of_their_type() {
        let mut prices = Prices::of_job(&Cost { node_hour: 3600.0, ..Cost::default() }, 4);
        prices.nodes.push(NodeType { slots: 32, ..prices.nodes[0].clone() });
        let world = World { sites: vec![SiteView { slots: 32, ..site_view(0, 1.0) }], ..World::bag(360, 10.0) };
        let mut estimates = world.estimates(0.1);
        estimates.observe_delay(NodeTypeId(1), std::time::Duration::from_millis(100));
        let outlook = world.see(|seen| Forecaster::new().look(seen, &estimates, &prices, &SCOPE));
        // Ten rounds on 4 + 32 slots.
        let end = at(&outlook, 2).finish_q50;
        assert!((end / 100.0 - 1.0).abs() < 0.2, "{end}");
    }

    #[test]
    fn narrow_phases_want_few_ranks_and_are_not_charged_for_many() {
        // Wide now, then narrow for long, then wide again.
        let world = World::phases(&[64, 1, 64], 600.0).with_ranks(16);
        let outlook = look(&world, 60.0, &SCOPE);
        let all = at(&outlook, 16);
        assert_eq!(all.wanted, 16);
        assert!((all.finish_q50 - 1800.0).abs() < 60.0);
        // Two wide phases of 16 nodes and one narrow phase of 1.
        assert!((all.cost - (2.0 * 600.0 * 16.0 + 600.0)).abs() < 300.0, "{all:?}");
    }

    #[test]
    fn no_node_goes_that_is_wanted_again_two_decisions_later() {
        // A join before a wide phase; nodes arrive at once and are charged by the second.
        let cost = Cost { minimum: std::time::Duration::ZERO, ..Cost::default() };
        let wanted = |merge: f64| {
            let mut world = World::phases(&[1, 64], 8.0).with_ranks(16);
            world.durations[0] = merge;
            let (prices, estimates) = (Prices::of_job(&cost, 4), world.estimates(0.1));
            at(&world.see(|seen| Forecaster::new().look(seen, &estimates, &prices, &SCOPE)), 16).wanted
        };
        assert_eq!(wanted(8.0), 16);
        // A longer gap is worth two changes.
        assert_eq!(wanted(60.0), 1);
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
            |chunks| world.see_in(chunks, chunks, |seen| Forecaster::new().look(seen, &estimates, &prices, &scope));
        let (exact, coarse) = (with(100_000), with(64));
        for prospect in &exact.prospects {
            let Some(other) = coarse.prospects.iter().find(|p| p.ranks == prospect.ranks) else { continue };
            let off = (other.finish_q50 / prospect.finish_q50 - 1.0).abs();
            assert!(off < 0.06, "{prospect:?} {other:?}");
        }
    }

    #[test]
    fn a_forecast_takes_as_many_steps_however_many_tasks_remain() {
        use crate::graph::link::LinkShape;
        let each: Vec<_> = (1..5).map(|k| (k - 1, k, LinkShape::Each)).collect();
        let shapes: [(&str, &dyn Fn(u32) -> World); 3] = [
            ("bag", &|tasks| World::bag(tasks, 7.0)),
            ("phases", &|tasks| World::phases(&[tasks / 4; 4], 7.0)),
            ("pipelines", &|tasks| World::new(&[tasks / 5; 5], &each, &[7.0; 5])),
        ];
        for (name, shape) in shapes {
            let steps = |tasks: u32| {
                let mut world = shape(tasks).with_ranks(16).busy();
                world.now = 100.0;
                let running = Some(crate::scale::Stage::Running(crate::scale::testing::time(97.0)));
                world.stages.iter_mut().take(64).for_each(|stage| *stage = running);
                look(&world, 60.0, &SCOPE).steps
            };
            // Guided scheduling takes some more rounds.
            let (few, many) = (steps(10_000), steps(200_000));
            assert!(few > 100 && many < 3 * few, "{name}: {few} steps, then {many}");
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
