//! Threshold rules, as most schedulers use for scaling: one policy (`reactive`) and the guard of
//! another (`hybrid`).
//!
//! A rule checks one measure. Above its threshold it adds ranks (or gives them back, or forbids
//! growth); below its lower threshold it gives ranks back. Then it pauses for its cooldown. The
//! load score settles conflicts between rules.

use std::borrow::Cow;
use std::time::Duration;

use super::score::{Pressure, utilisation};
use super::{Policy, Target};
use crate::job::{Above, Rule, Scaling, Trigger};
use crate::model::{RankState, Time};
use crate::scale::balance::balance_of;
use crate::scale::estimate::Estimates;
use crate::scale::forecast::{Forecaster, Scope};
use crate::scale::observation::Observation;
use crate::scale::price::{Account, Prices};

/// The rules that apply where the job file has none.
pub fn default_rules() -> Vec<Rule> {
    let rule = |trigger, above, below, act| Rule { trigger, above, below, act, step: None, cooldown: None };
    vec![
        rule(Trigger::Cpu, Some(80.0), Some(20.0), Above::Grow),
        rule(Trigger::Memory, Some(85.0), Some(30.0), Above::Grow),
        rule(Trigger::Gpu, Some(80.0), Some(20.0), Above::Grow),
        rule(Trigger::QueueDepth, Some(20.0), None, Above::Grow),
        rule(Trigger::ResponseTime, Some(2000.0), None, Above::Grow),
        rule(Trigger::ThroughputDrop, Some(50.0), None, Above::Grow),
        rule(Trigger::ErrorRate, Some(5.0), None, Above::Hold),
        rule(Trigger::Cost, Some(80.0), None, Above::Hold),
        rule(Trigger::Imbalance, Some(50.0), None, Above::Hold),
        rule(Trigger::Coordination, Some(0.0), None, Above::Grow),
    ]
}

/// The rules with their state.
pub(super) struct RuleBook {
    rules: Vec<Rule>,
    scaling: Scaling,
    /// When each rule acted last.
    acted: Vec<Option<Time>>,
    /// Since when each rule's measure has been below its lower threshold.
    low_since: Vec<Option<Time>>,
    grown: Option<Time>,
    shrunk: Option<Time>,
    gauge: Gauge,
    forecaster: Option<Forecaster>,
}

/// The combined result of all rules.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct RulesVerdict {
    /// Ranks to add (positive) or to give back.
    pub change: i64,
    /// Growth is forbidden, with the name of the rule that forbids it.
    pub hold: Option<String>,
    /// The reason, in words.
    pub reason: String,
}

/// The vote of one rule.
struct Vote {
    rule: usize,
    act: Above,
    step: u32,
    words: String,
}

impl RuleBook {
    pub fn new(scaling: &Scaling) -> RuleBook {
        let rules = if scaling.rules.is_empty() { default_rules() } else { scaling.rules.clone() };
        let foresees = rules.iter().any(|r| r.trigger == Trigger::Predictive);
        RuleBook {
            acted: vec![None; rules.len()],
            low_since: vec![None; rules.len()],
            forecaster: foresees.then(Forecaster::new),
            rules,
            scaling: scaling.clone(),
            grown: None,
            shrunk: None,
            gauge: Gauge::default(),
        }
    }

    pub fn judge(&mut self, seen: &Observation<'_>, estimates: &Estimates, prices: &Prices) -> RulesVerdict {
        self.gauge.look(seen);
        self.gauge.foreseen = self.forecaster.as_mut().and_then(|forecaster| {
            let scope = Scope::of(&self.scaling);
            let outlook = forecaster.look(seen, estimates, prices, &scope);
            outlook.prospects.last().map(|p| f64::from(p.wanted) - f64::from(outlook.supply))
        });
        let score = Pressure::of(seen).score(&self.scaling.weights);
        let votes = self.votes(seen, prices);
        let hold = votes.iter().find(|v| v.act == Above::Hold).map(|v| v.words.clone());
        let strongest = |act: Above| votes.iter().filter(|v| v.act == act).max_by_key(|v| v.step);
        let (grow, shrink) = (strongest(Above::Grow), strongest(Above::Shrink));
        let cool = |last: Option<Time>, pause: Duration| last.is_none_or(|last| seen.now.since(last) >= pause);
        // A low measure says little while others are high: shrinking needs all of them.
        let chosen = match (grow, shrink) {
            (Some(grow), None) => Some(grow),
            (Some(grow), Some(_)) if score >= 0.5 => Some(grow),
            (_, Some(shrink)) if score < 0.5 => Some(shrink),
            _ => None,
        };
        let Some(vote) = chosen else {
            let reason =
                hold.clone().unwrap_or_else(|| format!("no rule asks for a change (load {:.0} %)", score * 100.0));
            return RulesVerdict { change: 0, hold, reason };
        };
        let growing = vote.act == Above::Grow;
        let pause = if growing { self.scaling.cooldown_grow } else { self.scaling.cooldown_shrink };
        if !cool(if growing { self.grown } else { self.shrunk }, pause) {
            return RulesVerdict {
                change: 0,
                hold,
                reason: format!("{}, but the last change is too recent", vote.words),
            };
        }
        if let Some(why) = hold.as_ref().filter(|_| growing) {
            let reason = format!("{}, but {why}", vote.words);
            return RulesVerdict { change: 0, hold, reason };
        }
        *(if growing { &mut self.grown } else { &mut self.shrunk }) = Some(seen.now);
        self.acted[vote.rule] = Some(seen.now);
        let change = i64::from(vote.step) * if growing { 1 } else { -1 };
        RulesVerdict { change, hold, reason: vote.words.clone() }
    }

    fn votes(&mut self, seen: &Observation<'_>, prices: &Prices) -> Vec<Vote> {
        let mut votes = Vec::new();
        for (number, rule) in self.rules.iter().enumerate() {
            let silent = rule.cooldown.zip(self.acted[number]).is_some_and(|(c, last)| seen.now.since(last) < c);
            let value = self.gauge.measure(&rule.trigger, seen, prices);
            let is_low = rule.below.zip(value).is_some_and(|(limit, value)| value < limit);
            let low_since = if is_low { self.low_since[number].or(Some(seen.now)) } else { None };
            self.low_since[number] = low_since;
            let Some(value) = value.filter(|_| !silent) else { continue };
            let (what, unit) = words(&rule.trigger);
            let shown = figure(value);
            let mut vote = |act: Above, side: &str, limit: f64| {
                let usual = if act == Above::Shrink { self.scaling.step_shrink } else { self.scaling.step_grow };
                votes.push(Vote {
                    rule: number,
                    act,
                    step: rule.step.unwrap_or(usual),
                    words: format!("{what} {shown}{unit} is {side} {}{unit}", figure(limit)),
                });
            };
            if let Some(limit) = rule.above.filter(|limit| value > *limit) {
                vote(rule.act, "above", limit);
            } else if let (Some(limit), Some(since)) = (rule.below, low_since)
                && (seen.now.since(since) >= self.scaling.interval || matches!(rule.trigger, Trigger::Custom(_)))
            {
                // A single sample is no measurement: a run that has just begun uses nothing yet. A
                // value that a task wrote is one.
                vote(Above::Shrink, "below", limit);
            }
        }
        votes
    }
}

/// A trigger in words, and its unit.
fn words(trigger: &Trigger) -> (Cow<'_, str>, &'static str) {
    let (what, unit) = match trigger {
        Trigger::Cpu => ("CPU utilisation", " %"),
        Trigger::Memory => ("memory utilisation", " %"),
        Trigger::Gpu => ("GPU utilisation", " %"),
        Trigger::QueueDepth => ("ready tasks per rank:", ""),
        Trigger::ResponseTime => ("the wait for a slot (p95)", " ms"),
        Trigger::ThroughputDrop => ("the drop in throughput", " %"),
        Trigger::ErrorRate => ("the share of failures", " %"),
        Trigger::Cost => ("the share of the budget spent", " %"),
        Trigger::Predictive => ("ranks foreseen beyond those there are:", ""),
        Trigger::Imbalance => ("the imbalance", " %"),
        Trigger::Coordination => ("ranks lost:", ""),
        Trigger::Custom(name) => return (Cow::Owned(format!("`custom.{name}`")), ""),
    };
    (Cow::Borrowed(what), unit)
}

/// A number with three significant digits, or all digits before the point.
fn figure(value: f64) -> String {
    let size = value.abs();
    if value != 0.0 && !(1e-3..1e9).contains(&size) {
        return format!("{value:.2e}");
    }
    let digits = (2.0 - size.max(1e-3).log10().floor()).max(0.0);
    let scale = 10f64.powf(digits);
    format!("{}", (value * scale).round() / scale)
}

/// Measures that depend on earlier samples.
#[derive(Default)]
struct Gauge {
    /// Smoothed completions per second.
    usual_throughput: Option<f64>,
    drop: Option<f64>,
    /// Busy time of each rank at the last sample.
    busy: Vec<(u32, Duration)>,
    imbalance: Option<f64>,
    lost: u32,
    newly_lost: u32,
    foreseen: Option<f64>,
}

impl Gauge {
    fn look(&mut self, seen: &Observation<'_>) {
        // A drop is meaningful only while tasks are ready.
        self.drop = seen.samples.throughput.filter(|_| seen.counts.ready > 0).map(|now| {
            let usual = *self.usual_throughput.get_or_insert(now);
            self.usual_throughput = Some(usual * 0.8 + now * 0.2);
            if usual > 0.0 { 100.0 * (1.0 - now / usual).max(0.0) } else { 0.0 }
        });
        let active: Vec<_> = seen.ranks.iter().filter(|r| r.state == RankState::Active).collect();
        let loads: Vec<(f64, f64)> = active
            .iter()
            .filter_map(|r| {
                let at = self.busy.binary_search_by_key(&r.rank.0, |(rank, _)| *rank).ok()?;
                let before = &self.busy[at].1;
                Some((r.busy.saturating_sub(*before).as_secs_f64(), f64::from(r.slots)))
            })
            .collect();
        self.imbalance = (loads.len() > 1).then(|| 100.0 * (1.0 - balance_of(&loads)));
        self.busy = active.iter().map(|r| (r.rank.0, r.busy)).collect();
        let lost = seen.ranks_in(RankState::Lost);
        self.newly_lost = lost.saturating_sub(self.lost);
        self.lost = lost;
    }

    fn measure(&self, trigger: &Trigger, seen: &Observation<'_>, prices: &Prices) -> Option<f64> {
        let percent = |share: f64| share * 100.0;
        match trigger {
            Trigger::Cpu => Some(percent(seen.samples.cpu.unwrap_or_else(|| utilisation(seen)))),
            Trigger::Memory => seen.samples.memory.map(percent),
            Trigger::Gpu => seen.samples.gpu.map(percent),
            Trigger::QueueDepth => {
                Some(seen.counts.ready as f64 / f64::from(seen.ranks_in(RankState::Active)).max(1.0))
            }
            Trigger::ResponseTime => seen.samples.queue_wait_p95.map(|w| w.as_secs_f64() * 1e3),
            Trigger::ThroughputDrop => self.drop,
            Trigger::ErrorRate => seen.samples.error_rate.map(percent),
            Trigger::Cost => {
                let budget = prices.budget.filter(|b| *b > 0.0)?;
                Some(percent(Account::of(seen, prices).spent() / budget))
            }
            Trigger::Predictive => self.foreseen,
            Trigger::Imbalance => self.imbalance,
            Trigger::Coordination => Some(f64::from(self.newly_lost)),
            Trigger::Custom(name) => seen.custom.get(name).copied(),
        }
    }
}

/// Scales by rules alone.
pub struct Reactive {
    book: RuleBook,
}

impl Reactive {
    /// With the rules of the settings.
    pub fn new(scaling: &Scaling) -> Reactive {
        Reactive { book: RuleBook::new(scaling) }
    }
}

impl Policy for Reactive {
    fn name(&self) -> &str {
        "reactive"
    }

    fn decide(&mut self, seen: &Observation<'_>, estimates: &Estimates, prices: &Prices) -> Target {
        let verdict = self.book.judge(seen, estimates, prices);
        let ranks = i64::from(seen.supply()).saturating_add(verdict.change).clamp(0, i64::from(u32::MAX));
        Target::plain(ranks as u32, verdict.reason)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::job::Cost;
    use crate::scale::testing::World;

    fn wish(reactive: &mut Reactive, world: &World) -> Target {
        let prices = Prices::of_job(&Cost { budget: Some(1000.0), ..Cost::default() }, 4);
        world.see(|seen| reactive.decide(seen, &world.estimates(60.0), &prices))
    }

    fn one(trigger: Trigger, above: f64, below: Option<f64>, act: Above) -> Reactive {
        let rule = Rule { trigger, above: Some(above), below, act, step: Some(2), cooldown: None };
        Reactive::new(&Scaling { rules: vec![rule], ..Scaling::default() })
    }

    #[test]
    fn a_deep_queue_adds_ranks_once_per_cooldown() {
        let mut world = World::bag(500, 10.0).with_ranks(4);
        let mut reactive = one(Trigger::QueueDepth, 20.0, None, Above::Grow);
        let first = wish(&mut reactive, &world);
        assert_eq!(first.ranks, 6, "{first:?}");
        assert!(first.reason.contains("125") && first.reason.contains("above 20"), "{}", first.reason);
        world.now = 100.0;
        assert_eq!(wish(&mut reactive, &world).ranks, 4);
        world.now = 300.0;
        assert_eq!(wish(&mut reactive, &world).ranks, 6);
    }

    #[test]
    fn idle_ranks_are_given_back_unless_others_are_busy() {
        let mut world = World::bag(2, 10.0).with_ranks(4);
        let mut reactive = one(Trigger::Cpu, 80.0, Some(20.0), Above::Grow);
        assert_eq!(wish(&mut reactive, &world).ranks, 4, "it has just begun");
        world.now = 10.0;
        assert_eq!(wish(&mut reactive, &world).ranks, 2);
        // Little CPU use, but many waiting tasks (they wait for something other than CPU).
        let mut reactive = one(Trigger::Cpu, 80.0, Some(20.0), Above::Grow);
        world = World::bag(500, 10.0).with_ranks(4);
        world.samples.cpu = Some(0.1);
        world.samples.queue_wait_p95 = Some(Duration::from_secs(60));
        assert_eq!(wish(&mut reactive, &world).ranks, 4);
    }

    #[test]
    fn failures_forbid_growth() {
        let mut world = World::bag(500, 10.0).with_ranks(4).busy();
        world.samples.error_rate = Some(0.2);
        let mut reactive = Reactive::new(&Scaling::default());
        let held = wish(&mut reactive, &world);
        assert_eq!(held.ranks, 4);
        assert!(held.reason.contains("share of failures 20 % is above 5 %"), "{}", held.reason);
        world.samples.error_rate = Some(0.01);
        assert_eq!(wish(&mut reactive, &world).ranks, 5);
    }

    #[test]
    fn a_value_of_the_users_own_is_named_and_journalled() {
        let rule = Rule {
            trigger: Trigger::Custom("loss".to_owned()),
            above: None,
            below: Some(-0.5),
            act: Above::Grow,
            step: Some(2),
            cooldown: None,
        };
        let scaling = Scaling { policy: crate::job::PolicyKind::Reactive, rules: vec![rule], ..Scaling::default() };
        let mut world = World::bag(2, 10.0).with_ranks(4);
        world.custom.insert("loss".to_owned(), -0.62531);
        let mut scaler = crate::scale::Scaler::of(&scaling);
        assert!(scaler.asks_for("loss") && !scaler.asks_for("backlog"));
        let prices = Prices::of_job(&Cost::default(), 4);
        world.ranks.iter_mut().for_each(|rank| rank.billed_since = None);
        let decision = world.see(|seen| scaler.decide(seen, &world.estimates(60.0), &prices)).remove(0);
        assert_eq!((decision.to, decision.inputs.custom["loss"]), (2, -0.62531), "{decision:?}");
        let why = "`custom.loss` -0.625 is below -0.5";
        assert!(decision.reason.contains(why), "{}", decision.reason);
    }

    #[test]
    fn numbers_in_reasons_have_three_digits() {
        let shown = [0.0, 0.25, 1.0 / 3.0, 85.333, 1234567.8, -0.0012345, 1e-9, 1e300].map(figure);
        assert_eq!(shown, ["0", "0.25", "0.333", "85.3", "1234568", "-0.00123", "1.00e-9", "1.00e300"]);
    }

    #[test]
    fn every_trigger_fires() {
        let base = || World::bag(500, 10.0).with_ranks(4);
        let fires = |trigger, world: &World| wish(&mut one(trigger, 10.0, None, Above::Grow), world).ranks == 6;
        let with = |change: &dyn Fn(&mut World)| {
            let mut world = base();
            change(&mut world);
            world
        };
        assert!(fires(Trigger::Cpu, &with(&|w| w.samples.cpu = Some(0.5))));
        assert!(fires(Trigger::Memory, &with(&|w| w.samples.memory = Some(0.5))));
        assert!(fires(Trigger::Gpu, &with(&|w| w.samples.gpu = Some(0.5))));
        assert!(fires(Trigger::QueueDepth, &base()));
        assert!(fires(Trigger::ResponseTime, &with(&|w| w.samples.queue_wait_p95 = Some(Duration::from_secs(1)))));
        assert!(fires(Trigger::ErrorRate, &with(&|w| w.samples.error_rate = Some(0.5))));
        assert!(fires(Trigger::Cost, &with(&|w| w.settled = 500.0)));
        let mut predictive = one(Trigger::Predictive, 1.0, None, Above::Grow);
        assert_eq!(wish(&mut predictive, &World::bag(5000, 10.0).with_ranks(4)).ranks, 6);

        let mut lost = one(Trigger::Coordination, 0.0, None, Above::Grow);
        assert_eq!(wish(&mut lost, &with(&|w| w.ranks[3].state = RankState::Lost)).ranks, 5);
        let mut drop = one(Trigger::ThroughputDrop, 50.0, None, Above::Grow);
        assert_eq!(wish(&mut drop, &with(&|w| w.samples.throughput = Some(10.0))).ranks, 4);
        assert_eq!(wish(&mut drop, &with(&|w| w.samples.throughput = Some(1.0))).ranks, 6);
        let custom = || Trigger::Custom("backlog".to_owned());
        assert!(!fires(custom(), &base()), "what nobody wrote fires nothing");
        assert!(!fires(custom(), &with(&|w| w.custom = [("other".to_owned(), 50.0)].into())));
        assert!(fires(custom(), &with(&|w| w.custom = [("backlog".to_owned(), 10.5)].into())));
        let mut uneven = one(Trigger::Imbalance, 50.0, None, Above::Grow);
        assert_eq!(wish(&mut uneven, &base()).ranks, 4);
        assert_eq!(wish(&mut uneven, &with(&|w| w.ranks[0].busy = Duration::from_secs(100))).ranks, 6);
    }
}
