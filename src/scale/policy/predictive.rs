//! Policies with a forecast: they simulate the rest of the graph for many numbers of ranks and
//! choose the best.
//!
//! What is best depends on the *objective*: a trade between time and money (`predictive`), the
//! least bill that meets the deadline (`cost`), or the earliest finish within the budget
//! (`performance`). `hybrid` follows `predictive` while the forecast is certain enough, and
//! otherwise grows as the rules say. Rules may forbid growth in any case.

use super::rules::RuleBook;
use super::score::time_weight;
use super::{Policy, Target};
use crate::job::{PolicyKind, Scaling};
use crate::scale::decision::Candidate;
use crate::scale::estimate::Estimates;
use crate::scale::forecast::{Forecaster, Outlook, Prospect, Scope};
use crate::scale::observation::Observation;
use crate::scale::price::Prices;
use crate::text::counted;

/// Differences below this share are no reason for a change: forecasts are not more accurate.
const NEGLIGIBLE_GAIN: f64 = 0.02;

/// Minimum gain, as a share, for giving back ranks that have work. Their tasks hold the nodes
/// anyway, with slots that become free and are paid for, and it is uncertain whether the other
/// ranks pack the rest as well as the forecast does.
const MIN_SHRINK_GAIN: f64 = 0.2;

/// What a policy optimizes among prospects.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Objective {
    /// The least `w ln(finish) + (1 - w) ln(cost)`: one percent of time is worth `w / (1 - w)`
    /// percent of money.
    Trade(f64),
    /// The least cost among those that meet the deadline.
    Cheapest,
    /// The earliest finish among those that keep the budget.
    Fastest,
}

impl Objective {
    /// That of the settings: of their policy, or the trade that their intent means.
    pub fn of(scaling: &Scaling) -> Objective {
        match scaling.policy {
            PolicyKind::Cost => Objective::Cheapest,
            PolicyKind::Performance => Objective::Fastest,
            PolicyKind::Fixed | PolicyKind::Reactive | PolicyKind::Predictive | PolicyKind::Hybrid => {
                Objective::Trade(time_weight(scaling.intent))
            }
        }
    }

    /// The weight of time against money, 0 to 1.
    pub fn time_weight(self) -> f64 {
        match self {
            Objective::Trade(weight) => weight,
            Objective::Cheapest => NEGLIGIBLE_GAIN,
            Objective::Fastest => 1.0 - NEGLIGIBLE_GAIN,
        }
    }

    /// The quantity to minimize. Differences are shares: 0.01 is one percent.
    fn burden(self, finish: f64, cost: f64) -> f64 {
        let (time, money) = (finish.max(1e-9).ln(), cost.max(1e-12).ln());
        match self {
            Objective::Trade(weight) => weight * time + (1.0 - weight) * money,
            // The other quantity breaks ties within the accuracy of the forecast.
            Objective::Cheapest => money + NEGLIGIBLE_GAIN * time,
            Objective::Fastest => time + NEGLIGIBLE_GAIN * money,
        }
    }
}

/// Chooses by forecast.
pub struct Ahead {
    name: &'static str,
    aim: Objective,
    scope: Scope,
    forecaster: Forecaster,
}

impl Ahead {
    /// A policy with this name and objective.
    pub fn new(name: &'static str, aim: Objective, scaling: &Scaling) -> Ahead {
        let scope = Scope { time_weight: aim.time_weight(), ..Scope::of(scaling) };
        Ahead { name, aim, scope, forecaster: Forecaster::new() }
    }
}

impl Policy for Ahead {
    fn name(&self) -> &str {
        self.name
    }

    fn decide(&mut self, seen: &Observation<'_>, estimates: &Estimates, prices: &Prices) -> Target {
        let outlook = self.forecaster.look(seen, estimates, prices, &self.scope);
        Choice { aim: self.aim, seen, prices, outlook: &outlook }.wish()
    }
}

/// One choice among prospects.
struct Choice<'a> {
    aim: Objective,
    seen: &'a Observation<'a>,
    prices: &'a Prices,
    outlook: &'a Outlook,
}

impl Choice<'_> {
    fn wish(&self) -> Target {
        let supply = self.seen.supply();
        let Some((best, excuse)) = self.best() else {
            return Target::plain(supply, "there is nothing to look ahead to");
        };
        // Parked ranks are not supply until they are woken.
        let stay = self.at(supply).unwrap_or(best);
        let (mut ranks, mut chosen) = (best.wanted, best);
        let mut reason = self.sentence(&best, &stay, excuse);
        let gain = self.gain(&stay, &best);
        let may_stay = self.in_budget(&stay) && (self.in_time(&stay) || self.is_late());
        let short = stay.finish_q50 <= 2.0 * best.delay;
        if ranks > supply && may_stay && gain < NEGLIGIBLE_GAIN {
            (ranks, chosen) = (stay.wanted.min(supply), stay);
            reason = format!("more ranks would gain less than {:.0} %", NEGLIGIBLE_GAIN * 100.0);
        }
        if best.ranks < supply && may_stay && gain < MIN_SHRINK_GAIN {
            (ranks, chosen) = (stay.wanted.min(supply), stay);
            reason = self.sentence(&stay, &best, None);
        }
        if ranks > supply && may_stay && short {
            (ranks, chosen) = (supply, stay);
            reason = format!(
                "the rest takes {:.0} s, and new ranks {:.0} s to come: they would not be worth it",
                stay.finish_q50, best.delay
            );
        }
        let candidates: Vec<Candidate> = self.outlook.prospects.iter().map(|p| self.candidate(p)).collect();
        Target {
            ranks,
            confidence: confidence(&chosen),
            chosen: candidates.iter().position(|c| c.ranks == chosen.ranks),
            by_forecast: true,
            first: Some(best.first),
            candidates,
            reason,
        }
    }

    /// The best prospect within budget and deadline. If there is none, the nearest one, and which
    /// constraint it violates.
    fn best(&self) -> Option<(Prospect, Option<&'static str>)> {
        let least = |keep: &dyn Fn(&Prospect) -> bool, by: &dyn Fn(&Prospect) -> f64| {
            self.outlook.prospects.iter().filter(|p| keep(p)).min_by(|a, b| by(a).total_cmp(&by(b))).copied()
        };
        let burden = |p: &Prospect| self.burden(p);
        if let Some(best) = least(&|p| self.in_budget(p) && self.in_time(p), &burden) {
            return Some((best, None));
        }
        if self.is_late()
            && let Some(best) = least(&|p| self.in_budget(p), &burden)
        {
            return Some((best, Some("the deadline has passed")));
        }
        if let Some(best) = least(&|p| self.in_budget(p), &|p| p.finish_q90 + 1e-6 * p.cost) {
            let excuse = match self.outlook.prospects.iter().any(|p| self.in_time(p)) {
                true => "no number of ranks is sure to meet the deadline within the budget",
                false => "no number of ranks is sure to meet the deadline",
            };
            return Some((best, Some(excuse)));
        }
        least(&|_| true, &|p| p.cost_q90 + 1e-6 * p.finish_q50)
            .map(|p| (p, Some("no number of ranks is sure to keep the budget")))
    }

    fn at(&self, ranks: u32) -> Option<Prospect> {
        // Numbers above the one whose slots are never all busy are not listed: their outcome is the
        // same.
        let upto = self.outlook.prospects.iter().filter(|p| p.ranks <= ranks).max_by_key(|p| p.ranks);
        upto.or(self.outlook.prospects.first()).copied()
    }

    /// The burden of the whole session, not of the rest. So a second has the same price throughout
    /// the run, and no phase buys time dearly that another could buy cheaply.
    fn burden(&self, p: &Prospect) -> f64 {
        self.aim.burden(self.seen.now.seconds() + p.finish_q50, p.cost - self.prices.earlier)
    }

    /// How much one prospect reduces the burden of another, as a share of what is left: near the
    /// end any change is a small share of the whole run.
    fn gain(&self, from: &Prospect, to: &Prospect) -> f64 {
        let left = from.finish_q50 / (self.seen.now.seconds() + from.finish_q50).max(1e-9);
        (self.burden(from) - self.burden(to)) / left.max(1e-9)
    }

    fn in_budget(&self, p: &Prospect) -> bool {
        self.prices.budget.is_none_or(|budget| p.cost_q90 <= budget)
    }

    fn in_time(&self, p: &Prospect) -> bool {
        self.prices.deadline.is_none_or(|deadline| self.seen.now.after_seconds(p.finish_q90) <= deadline)
    }

    /// The deadline has passed, as that of a run which is resumed later: no haste is worth anything
    /// for its sake any more.
    fn is_late(&self) -> bool {
        self.prices.deadline.is_some_and(|deadline| deadline <= self.seen.now)
    }

    fn candidate(&self, p: &Prospect) -> Candidate {
        p.candidate(self.seen.now, self.in_budget(p) && self.in_time(p))
    }

    fn sentence(&self, best: &Prospect, stay: &Prospect, excuse: Option<&str>) -> String {
        let mut text = excuse.map_or(String::new(), |excuse| format!("{excuse}; the nearest: "));
        let told = |p: &Prospect| {
            let ranks = format!("{} end{}", counted(p.ranks, "rank"), if p.ranks == 1 { "s" } else { "" });
            format!("{ranks} in {:.0} s (in 9 of 10 cases {:.0} s) for {:.2}", p.finish_q50, p.finish_q90, p.cost)
        };
        text.push_str(&told(best));
        if stay.ranks != best.ranks {
            let (sooner, dearer) = (stay.finish_q50 - best.finish_q50, best.cost - stay.cost);
            let time = format!("{:.0} s {}", sooner.abs(), if sooner < 0.0 { "later" } else { "sooner" });
            let money = format!("{:.2} {}", dearer.abs(), if dearer < 0.0 { "cheaper" } else { "dearer" });
            text.push_str(&format!(", which is {time} and {money} than now: {}", told(stay)));
        }
        if best.wanted < best.ranks {
            text.push_str(&format!(
                "; {} of them can be given work within the next {:.0} s, the others later",
                best.wanted, self.outlook.gap
            ));
        }
        text
    }
}

/// Confidence in a prospect: 0.7 where lack of knowledge about the tasks may double the time.
/// Chance does not count, since it affects every choice alike.
fn confidence(p: &Prospect) -> f64 {
    p.doubt.max(1.0).recip().sqrt()
}

impl Scope {
    /// The scope of the settings.
    pub fn of(scaling: &Scaling) -> Scope {
        Scope {
            min_ranks: scaling.min_ranks.max(1),
            max_ranks: scaling.max_ranks.max(scaling.min_ranks).max(1),
            interval: scaling.interval.as_secs_f64(),
            time_weight: time_weight(scaling.intent),
        }
    }
}

/// Follows the forecast, and the rules where the forecast is not certain enough.
pub struct Hybrid {
    ahead: Ahead,
    book: RuleBook,
    confidence: f64,
}

impl Hybrid {
    /// With the intent and the rules of the settings.
    pub fn new(scaling: &Scaling) -> Hybrid {
        Hybrid {
            ahead: Ahead::new("hybrid", Objective::of(scaling), scaling),
            book: RuleBook::new(scaling),
            confidence: scaling.confidence,
        }
    }
}

impl Policy for Hybrid {
    fn name(&self) -> &str {
        "hybrid"
    }

    fn decide(&mut self, seen: &Observation<'_>, estimates: &Estimates, prices: &Prices) -> Target {
        let wish = self.ahead.decide(seen, estimates, prices);
        let verdict = self.book.judge(seen, estimates, prices);
        let supply = seen.supply();
        // Rules can start a run about which nothing is known. For shrinking they are not needed:
        // slots without a remaining task are visible, and on such a target the scaler gives back no
        // more than those.
        if wish.confidence < self.confidence && wish.ranks < supply {
            return wish;
        }
        if wish.confidence < self.confidence {
            let ranks = i64::from(supply).saturating_add(verdict.change).clamp(0, i64::from(u32::MAX)) as u32;
            let reason = format!(
                "the forecast is {:.0} % sure, less than the {:.0} % of `confidence`, so rules decide: {}",
                wish.confidence * 100.0,
                self.confidence * 100.0,
                verdict.reason
            );
            let confidence = if ranks < supply { wish.confidence } else { 1.0 };
            return Target { ranks, confidence, reason, by_forecast: false, ..wish };
        }
        match verdict.hold {
            Some(why) if wish.ranks > supply => {
                let reason = format!("{}, but {why}: nothing is added", wish.reason);
                Target { ranks: supply, reason, ..wish }
            }
            _ => wish,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::job::{Cost, Intent};
    use crate::scale::policy::policy_of;
    use crate::scale::testing::World;
    use std::time::Duration;

    fn wish(kind: PolicyKind, intent: Intent, world: &World, cost: &Cost, delay: f64) -> Target {
        let scaling = Scaling { policy: kind, intent, max_ranks: 16, ..Scaling::default() };
        let prices = Prices::of_job(cost, 4);
        world.see(|seen| policy_of(&scaling).decide(seen, &world.estimates(delay), &prices))
    }

    fn cost() -> Cost {
        Cost { node_hour: 3600.0, ..Cost::default() }
    }

    #[test]
    fn a_wide_job_grows_and_a_chain_does_not() {
        for kind in [PolicyKind::Predictive, PolicyKind::Hybrid, PolicyKind::Performance] {
            let wide = wish(kind, Intent::Balanced, &World::bag(1000, 60.0), &cost(), 60.0);
            assert!(wide.ranks >= 12, "{kind:?} {wide:?}");
            let chain = wish(kind, Intent::Latency, &World::chain(1000, 60.0), &cost(), 1.0);
            assert_eq!(chain.ranks, 1, "{kind:?} {}", chain.reason);
        }
    }

    #[test]
    fn parked_ranks_are_woken_for_a_wide_phase() {
        let mut world = World::bag(200, 10.0).with_ranks(4);
        world.ranks.iter_mut().skip(1).for_each(|rank| rank.state = crate::model::RankState::Parked);
        let woken = wish(PolicyKind::Hybrid, Intent::Balanced, &world, &cost(), 0.1);
        assert!(woken.ranks >= 4, "{woken:?}");
    }

    #[test]
    fn a_narrow_phase_gives_ranks_back_if_it_lasts() {
        let ranks = |seconds: f64| {
            let mut world = World::phases(&[1, 200], seconds).with_ranks(16);
            world.ranks.iter_mut().for_each(|r| r.busy_slots = 0);
            wish(PolicyKind::Hybrid, Intent::Balanced, &world, &cost(), 60.0).ranks
        };
        assert_eq!(ranks(1200.0), 1);
        // The next phase starts before a node could be given back and requested again.
        assert!(ranks(100.0) > 8);
    }

    #[test]
    fn the_deadline_sets_how_many_the_cheapest_are() {
        // One rank needs 10,000 s; every further one wastes its start.
        let world = World::bag(1000, 40.0);
        let with = |deadline: Option<u64>| {
            let cost = Cost {
                deadline: deadline.map(Duration::from_secs),
                minimum: Duration::from_secs(3600),
                granularity: Duration::from_secs(3600),
                ..cost()
            };
            wish(PolicyKind::Cost, Intent::Balanced, &world, &cost, 60.0)
        };
        let (relaxed, tight, hopeless) = (with(None).ranks, with(Some(1500)), with(Some(100)));
        assert!(relaxed < tight.ranks, "{relaxed} {tight:?}");
        assert!(tight.ranks >= 7, "{tight:?}");
        assert!(hopeless.reason.contains("no number of ranks is sure to meet the deadline"), "{}", hopeless.reason);
        assert!(hopeless.candidates.iter().all(|c| !c.feasible));
        let late = with(Some(0));
        assert_eq!(late.ranks, relaxed, "{late:?}");
        assert!(late.reason.contains("the deadline has passed"), "{}", late.reason);
    }

    #[test]
    fn a_small_budget_is_told_when_it_cannot_hold() {
        let poor = Cost { budget: Some(100.0), ..cost() };
        let wish = wish(PolicyKind::Performance, Intent::Balanced, &World::bag(1000, 60.0), &poor, 60.0);
        assert!(wish.reason.contains("no number of ranks is sure to keep the budget"), "{}", wish.reason);
    }

    #[test]
    fn haste_buys_more_ranks() {
        // Few long tasks and hourly billing: each additional rank is charged for a whole hour.
        let world = World::bag(40, 400.0);
        let hourly = Cost { granularity: Duration::from_secs(3600), minimum: Duration::from_secs(3600), ..cost() };
        let ranks = |intent| wish(PolicyKind::Predictive, intent, &world, &hourly, 60.0).ranks;
        assert!(ranks(Intent::Latency) > ranks(Intent::Cost), "{} {}", ranks(Intent::Latency), ranks(Intent::Cost));
    }

    #[test]
    fn without_knowledge_the_rules_decide() {
        let world = World::bag(1000, 60.0).busy();
        let scaling = Scaling { max_ranks: 16, ..Scaling::default() };
        let prices = Prices::of_job(&cost(), 4);
        let nothing = Estimates::new(vec![crate::scale::ClassPrior::default()], &[]);
        let wish = world.see(|seen| Hybrid::new(&scaling).decide(seen, &nothing, &prices));
        assert!(wish.reason.contains("rules decide"), "{wish:?}");
        assert_eq!(wish.ranks, 2);
    }
}
