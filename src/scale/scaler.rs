//! From wishes to decisions: bounds, budget, and which ranks come and go.
//!
//! The order is always the same. The budget comes first: if what is held can be paid for only until
//! about the running tasks end, the run stops. Then the policy is asked; its wish is kept within
//! bounds, limits and money. What is left is carried out with what is cheapest to undo: ranks are
//! woken before nodes are asked for, requests are withdrawn before ranks are drained, idle ranks
//! are drained before busy ones.
//!
//! For our own policies good sense applies too: wishes for more that are not sure enough are not
//! followed, a change of one among many ranks must be wished for twice, no node is given back whose
//! time is paid for anyway, and none that will be of use on a guess (`evidence`).

mod drain;
mod evidence;

use std::time::Duration;

use self::evidence::{IdleRanks, usable_ranks};
use super::decision::{Action, BudgetAlert, Candidate, Decision, Effect, Inputs};
use super::estimate::Estimates;
use super::observation::{Observation, RankView, RequestId};
use super::policy::{Policy, Target, policy_of, utilisation};
use super::price::{Account, Alarm, NodeTypeId, Prices, paid_until};
use crate::job::{Scaling, Trigger};
use crate::model::{Rank, RankState, Time};

/// With at most so many ranks a change of one is a large change and needs no second thought.
const FEW: u32 = 4;

/// Time kept between the moment at which everything must be back and the budget: for messages,
/// signals and the scheduler.
const MARGIN: Duration = Duration::from_secs(2);

/// A policy with everything that keeps it within bounds. One per run.
pub struct Scaler {
    policy: Box<dyn Policy>,
    scaling: Scaling,
    alarm: Alarm,
    alerts: Vec<BudgetAlert>,
    number: u32,
    /// The moment until which everything held can be paid for, as of the last decision.
    stop_by: Option<Time>,
    stopping: bool,
    /// The direction of the last wish for a change of one that was not followed.
    hesitated: Option<bool>,
    idle: IdleRanks,
    /// The last change: its number, and the active ranks before it.
    watched: Option<PendingEffect>,
    effects: Vec<(u32, Effect)>,
    /// So many ranks are wanted by hand.
    held: Option<u32>,
}

/// A change whose effect is still to be seen.
struct PendingEffect {
    number: u32,
    active: u32,
    arrived: Option<Time>,
}

/// What is to be done, before it has become a decision.
struct ScalingPlan {
    action: Action,
    to: u32,
    reason: String,
}

impl Scaler {
    /// Follows a policy within the bounds of the settings.
    pub fn new(policy: Box<dyn Policy>, scaling: Scaling) -> Scaler {
        Scaler {
            policy,
            scaling,
            alarm: Alarm::default(),
            alerts: Vec::new(),
            number: 0,
            stop_by: None,
            stopping: false,
            hesitated: None,
            idle: IdleRanks::default(),
            watched: None,
            effects: Vec::new(),
            held: None,
        }
    }

    /// Follows the policy of the settings.
    pub fn of(scaling: &Scaling) -> Scaler {
        Scaler::new(policy_of(scaling), scaling.clone())
    }

    /// Somebody wants so many ranks, whatever the policy and its bounds say; `None` lets it decide
    /// again. The budget binds all the same.
    pub fn hold(&mut self, ranks: Option<u32>) {
        self.held = ranks;
    }

    /// Decides. Call it every [`Scaling::interval`], when a node is granted, and when a rank joined
    /// or was lost. The decisions are to be carried out in order; where nothing is to be done there
    /// is one [`Action::Stay`] with the reason.
    pub fn decide(&mut self, seen: &Observation<'_>, estimates: &Estimates, prices: &Prices) -> Vec<Decision> {
        let account = Account::of(seen, prices);
        self.alerts.extend(self.alarm.ring(&account));
        self.stop_by = stop_with_margin(&account);
        self.idle.note(seen);
        let drain = drain::time(seen, estimates);
        let inputs = inputs(seen, &account, estimates, drain);
        if let Some(plan) = self.stop(seen, drain) {
            let wish = Target::plain(0, plan.reason.clone());
            return vec![self.decision(seen, inputs, &wish, plan)];
        }
        let wish = match self.held {
            Some(ranks) => Target::plain(ranks, format!("held at {ranks} by hand")),
            None => self.policy.decide(seen, estimates, prices),
        };
        let wish = self.keep_useful(seen, estimates, wish);
        let plans = self.plans(seen, &account, &wish, prices, drain);
        let decisions: Vec<Decision> =
            plans.into_iter().map(|plan| self.decision(seen, inputs.clone(), &wish, plan)).collect();
        self.watch(seen, &decisions);
        decisions
    }

    /// True if a task that will probably take until `end` may start: the nodes that are held can be
    /// paid for until then. As of the last decision.
    pub fn may_start(&self, end: Time) -> bool {
        !self.stopping && self.stop_by.is_none_or(|by| end <= by)
    }

    /// The moment until which all nodes held can be paid for, less a margin; `None` without a
    /// budget. As of the last decision. What still runs then must be stopped and the nodes given
    /// back.
    pub fn stop_by(&self) -> Option<Time> {
        self.stop_by
    }

    /// Shares of the budget that have been reached since the last call.
    pub fn alerts(&mut self) -> Vec<BudgetAlert> {
        std::mem::take(&mut self.alerts)
    }

    /// What came of changes, once the next change was due; to be written beside the decisions of
    /// those numbers.
    pub fn effects(&mut self) -> Vec<(u32, Effect)> {
        std::mem::take(&mut self.effects)
    }

    /// There will never be more ranks than this, unless there were from the start.
    pub fn most_ranks(&self) -> u32 {
        self.scaling.max_ranks.max(self.scaling.min_ranks)
    }

    /// True if a rule asks for the values that tasks write under this name.
    pub fn asks_for(&self, name: &str) -> bool {
        self.scaling.rules.iter().any(|rule| matches!(&rule.trigger, Trigger::Custom(custom) if custom == name))
    }

    /// Name of the policy.
    pub fn policy(&self) -> &str {
        self.policy.name()
    }

    /// The stop for the budget: when the running tasks could not all end if anything more were
    /// started. Later the cap itself would have to stop them.
    fn stop(&mut self, seen: &Observation<'_>, drain: Duration) -> Option<ScalingPlan> {
        let by = self.stop_by?;
        let soon = seen.now.after(drain).after(self.scaling.interval);
        // The last tasks of a run end by themselves, and a run of which nothing is left needs no
        // stop. But the next decision may be too late.
        let tail = seen.counts.remaining == seen.counts.running;
        let due = if tail { seen.now.after(self.scaling.interval) >= by } else { soon >= by };
        let rests = !due || seen.counts.remaining == 0;
        if rests && !self.stopping {
            return None;
        }
        self.stopping = true;
        let reason = format!(
            "the budget pays for what is held until {:.0} s, and the running tasks take {:.0} s more: nothing more is started, \
             and everything is given back",
            by.seconds(),
            drain.as_secs_f64()
        );
        Some(ScalingPlan { action: Action::StopForBudget { by }, to: 0, reason })
    }

    /// A wish for fewer ranks that is not sure enough keeps those that will be of use, unless they
    /// have been idle for so long that others would have come meanwhile.
    fn keep_useful(&self, seen: &Observation<'_>, estimates: &Estimates, wish: Target) -> Target {
        let supply = seen.supply();
        if wish.ranks >= supply || wish.confidence >= self.scaling.confidence || !self.guarded() {
            return wish;
        }
        let useful = usable_ranks(seen).min(supply);
        let delay = Duration::try_from_secs_f64(estimates.delay(NodeTypeId(0)).q90).unwrap_or(Duration::MAX);
        let idle = self.idle.idle_for(seen.now, delay.max(self.scaling.interval * 2));
        let kept = useful.min(supply.saturating_sub(idle));
        if wish.ranks >= kept {
            return wish;
        }
        let reason = format!(
            "{}; but tasks are still to come for {}, and too little is known to give them back",
            wish.reason,
            ranks(useful)
        );
        Target { ranks: kept, reason, ..wish }
    }

    /// What to do about a wish.
    fn plans(
        &mut self,
        seen: &Observation<'_>,
        account: &Account<'_>,
        wish: &Target,
        prices: &Prices,
        drain: Duration,
    ) -> Vec<ScalingPlan> {
        let supply = seen.supply();
        let stay = |reason: String| vec![ScalingPlan { action: Action::Stay, to: supply, reason }];
        let least = self.scaling.min_ranks.max(1);
        let target = match self.held {
            Some(ranks) => ranks.max(1),
            None => wish.ranks.clamp(least, self.scaling.max_ranks.max(least)),
        };
        let bound = if target == wish.ranks {
            String::new()
        } else {
            format!(" (bounds: {least} to {})", self.scaling.max_ranks.max(least))
        };
        if target != supply && self.guarded() && within(supply, least, self.scaling.max_ranks) {
            // What has no work is given back however little is known of the rest: to hold it costs
            // for certain, and a wrong guess a delay.
            if wish.confidence < self.scaling.confidence && target > supply {
                let sure = wish.confidence * 100.0;
                return stay(format!("the wish for {target} ranks is only {sure:.0} % sure: {}", wish.reason));
            }
            if self.hesitates(supply, target) {
                return stay(format!("a change of one waits for a second look: {}", wish.reason));
            }
        }
        let mut plans = match target.cmp(&supply) {
            std::cmp::Ordering::Greater => self.grow(seen, account, target - supply, drain),
            std::cmp::Ordering::Less => self.shrink(seen, supply - target, prices),
            std::cmp::Ordering::Equal => Vec::new(),
        };
        plans.iter_mut().for_each(|plan| plan.reason = format!("{}{bound}; {}", wish.reason, plan.reason));
        if plans.is_empty() {
            let why = match target.cmp(&supply) {
                std::cmp::Ordering::Greater => "; but no more can be had or paid for",
                std::cmp::Ordering::Less => "; but what could go is paid for or bound to the run",
                std::cmp::Ordering::Equal => "",
            };
            return stay(format!("{}{bound}{why}", wish.reason));
        }
        plans
    }

    /// True if good sense may hold a wish back.
    fn guarded(&self) -> bool {
        self.held.is_none() && self.policy.guarded()
    }

    /// True if a change of one is wished for for the first time, among many ranks.
    fn hesitates(&mut self, supply: u32, target: u32) -> bool {
        let direction = (supply.abs_diff(target) == 1 && supply > FEW).then_some(target > supply);
        let again = direction.is_some() && self.hesitated == direction;
        self.hesitated = if again { None } else { direction };
        direction.is_some() && !again
    }

    /// Wakes ranks, then asks for nodes, as many as can be paid for until the running tasks end.
    fn grow(&self, seen: &Observation<'_>, account: &Account<'_>, more: u32, drain: Duration) -> Vec<ScalingPlan> {
        let mut plans = Vec::new();
        let supply = seen.supply();
        let parked = seen.ranks.iter().filter(|r| r.state == RankState::Parked).map(|r| r.rank);
        let woken: Vec<Rank> = parked.take(more as usize).collect();
        let awake = woken.len() as u32;
        if awake > 0 {
            let reason = format!("{} woken", some(awake, "parked rank"));
            plans.push(ScalingPlan { action: Action::Unpark { ranks: woken }, to: supply + awake, reason });
        }
        let node_type = NodeTypeId(0);
        let until = seen.now.after(drain).after(self.scaling.interval).after(MARGIN);
        let nodes = (more - awake).min(account.affordable(node_type, until));
        if nodes > 0 {
            let reason = format!("{} asked for", some(nodes, "more node"));
            plans.push(ScalingPlan { action: Action::Grow { nodes, node_type }, to: supply + awake + nodes, reason });
        }
        plans
    }

    /// Withdraws requests, then gives back the ranks that are least busy, and parks those that
    /// cannot be given back.
    fn shrink(&self, seen: &Observation<'_>, fewer: u32, prices: &Prices) -> Vec<ScalingPlan> {
        let mut plans = Vec::new();
        let mut left = fewer;
        let withdrawn = withdrawable(seen, &mut left);
        let mut to = seen.supply() - (fewer - left);
        if !withdrawn.is_empty() {
            let reason = format!("{} withdrawn", some(withdrawn.len() as u32, "request"));
            plans.push(ScalingPlan { action: Action::Cancel { requests: withdrawn }, to, reason });
        }
        let keep_paid = self.guarded();
        let mut candidates: Vec<&RankView> = seen
            .ranks
            .iter()
            .filter(|r| matches!(r.state, RankState::Active | RankState::Joining) && r.rank != Rank::ZERO)
            .collect();
        candidates.sort_by_key(|r| (r.busy_slots, std::cmp::Reverse(r.failures), std::cmp::Reverse(r.rank)));
        let goes = |r: &RankView| !keep_paid || !self.is_paid(r, seen.now, prices);
        let (go, bound): (Vec<&RankView>, Vec<&RankView>) = candidates.into_iter().partition(|r| r.releasable);
        let gone: Vec<Rank> = go.iter().filter(|r| goes(r)).take(left as usize).map(|r| r.rank).collect();
        left -= gone.len() as u32;
        // A rank that cannot leave sleeps, if it has nothing to do: that frees no money, but CPUs
        // and power. One whose time is paid for stays awake; it may be of use.
        let paid = go.iter().filter(|r| !goes(r)).count() as u32;
        let asleep = left.saturating_sub(paid) as usize;
        let parked: Vec<Rank> = bound
            .iter()
            .filter(|r| r.busy_slots == 0 && r.state == RankState::Active)
            .take(asleep)
            .map(|r| r.rank)
            .collect();
        to -= gone.len() as u32;
        if !gone.is_empty() {
            let reason = format!("{} drained, to give back what they hold", some(gone.len() as u32, "rank"));
            plans.push(ScalingPlan { action: Action::Shrink { ranks: gone }, to, reason });
        }
        to -= parked.len() as u32;
        if !parked.is_empty() {
            let reason = format!("{} parked, for they cannot leave", some(parked.len() as u32, "rank"));
            plans.push(ScalingPlan { action: Action::Park { ranks: parked }, to, reason });
        }
        plans
    }

    /// True if giving a rank's node back before the next decision would save nothing.
    fn is_paid(&self, rank: &RankView, now: Time, prices: &Prices) -> bool {
        let Some(since) = rank.billed_since else { return false };
        paid_until(prices, rank.node_type, since, now) >= now.after(self.scaling.interval * 2)
    }

    fn decision(&mut self, seen: &Observation<'_>, inputs: Inputs, wish: &Target, plan: ScalingPlan) -> Decision {
        self.number += 1;
        let chosen = wish.chosen.and_then(|k| wish.candidates.get(k));
        Decision {
            number: self.number,
            time: seen.now,
            action: plan.action,
            from: seen.supply(),
            to: plan.to,
            policy: self.policy.name().to_owned(),
            wish: wish.ranks,
            confidence: wish.confidence,
            inputs,
            candidates: wish.candidates.clone(),
            reason: plan.reason,
            forecast: chosen.map(Candidate::forecast),
            effect: None,
        }
    }

    /// Watches the last change until the next one.
    fn watch(&mut self, seen: &Observation<'_>, decisions: &[Decision]) {
        let active = seen.ranks_in(RankState::Active);
        if let Some(watch) = &mut self.watched
            && active > watch.active
            && watch.arrived.is_none()
        {
            watch.arrived = Some(seen.now);
        }
        let Some(change) = decisions.iter().rev().find(|d| d.action != Action::Stay) else { return };
        if let Some(watch) = self.watched.take() {
            let effect = Effect { time: seen.now, active, arrived: watch.arrived, forecast: change.forecast };
            self.effects.push((watch.number, effect));
        }
        self.watched = Some(PendingEffect { number: change.number, active, arrived: None });
    }
}

/// The moment until which an account pays for everything, less a margin: tasks are stopped before
/// money is short.
fn stop_with_margin(account: &Account<'_>) -> Option<Time> {
    account.stop_by().map(|by| Time(by.0.saturating_sub(MARGIN.as_nanos() as u64)).max(account.now()))
}

/// So many ranks: `1 rank`, `3 ranks`.
fn ranks(count: u32) -> String {
    if count == 1 { "1 rank".to_owned() } else { format!("{count} ranks") }
}

/// So many things: `1 rank is`, `3 ranks are`.
fn some(count: u32, thing: &str) -> String {
    if count == 1 { format!("1 {thing} is") } else { format!("{count} {thing}s are") }
}

/// True if a supply is within bounds already; outside of them good sense must not stand in the way.
fn within(supply: u32, least: u32, most: u32) -> bool {
    (least..=most.max(least)).contains(&supply)
}

/// The latest requests that can be withdrawn without going below what is wanted; counts `left`
/// down.
fn withdrawable(seen: &Observation<'_>, left: &mut u32) -> Vec<RequestId> {
    let mut withdrawn = Vec::new();
    let mut requests: Vec<_> = seen.requests.iter().collect();
    requests.sort_by_key(|r| std::cmp::Reverse((r.asked, r.id)));
    for request in requests.into_iter().filter(|r| r.nodes > 0) {
        if request.nodes <= *left {
            *left -= request.nodes;
            withdrawn.push(request.id);
        }
    }
    withdrawn
}

fn inputs(seen: &Observation<'_>, account: &Account<'_>, estimates: &Estimates, drain: Duration) -> Inputs {
    Inputs {
        active: seen.ranks_in(RankState::Active),
        joining: seen.ranks_in(RankState::Joining),
        requested: seen.requests.iter().map(|r| r.nodes).sum(),
        parked: seen.ranks_in(RankState::Parked),
        draining: seen.ranks_in(RankState::Draining),
        ready: seen.counts.ready,
        running: seen.counts.running,
        remaining: seen.counts.remaining,
        utilisation: utilisation(seen),
        spent: account.spent(),
        committed: account.committed(drain),
        provisioning_s: estimates.delay(NodeTypeId(0)).q50,
        custom: seen.custom.clone(),
    }
}

#[cfg(test)]
mod tests;
