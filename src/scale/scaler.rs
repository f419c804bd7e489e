//! Turns a policy's target into decisions: bounds, budget, and which ranks join or leave.
//!
//! The order is always the same. The budget comes first: the run stops if the nodes held can be
//! paid for only until about the end of the running tasks. Then the policy is asked, and its target
//! is limited by bounds, provider limits and money. The change is carried out by the actions that
//! are cheapest to undo: wake ranks before requesting nodes, withdraw requests before draining
//! ranks, drain idle ranks before busy ones.
//!
//! For our own policies further guards apply: growth needs enough confidence, a change by one among
//! many ranks needs two decisions in a row, a node whose time is already paid for is kept, and so
//! is one that will probably be of use (`evidence`).

mod drain;
mod evidence;

use std::time::Duration;

use self::evidence::{IdleRanks, usable_ranks};
use super::advisor::{Advice, Advisor, Answer, Matter, Outcome, Question};
use super::decision::{Action, BudgetAlert, Candidate, Decision, Effect, Inputs};
use super::estimate::Estimates;
use super::growth::{self, NodeOrder, Particular, TypedRequest};
use super::observation::{Observation, RankView, RequestId, RequestView};
use super::policy::{Policy, Target, policy_of, utilisation};
use super::price::{Account, Alarm, Prices, STOP_MARGIN, paid_until};
use crate::job::{Scaling, Trigger};
use crate::model::{Rank, RankState, Time};
use crate::text::{counted, counted_are, seconds};

/// Up to this number of ranks, a change by one is a large change and needs no confirmation.
const FEW_RANKS: u32 = 4;

/// As the end of the budget comes near, this many decisions are made until then.
const PAUSES_TO_STOP: u32 = 4;

/// Without a forecast, types of nodes are compared by their bill for this time.
const USUAL_HOLD: Duration = Duration::from_secs(3600);

/// Minimum time between decisions.
const MIN_PAUSE: Duration = Duration::from_millis(250);

/// A policy and the limits that it works within. One per run.
pub struct Scaler {
    policy: Box<dyn Policy>,
    scaling: Scaling,
    alarm: Alarm,
    alerts: Vec<BudgetAlert>,
    number: u32,
    /// Until when all nodes held can be paid for, as of the last decision.
    stop_by: Option<Time>,
    stopping: bool,
    /// Direction of the last change by one that was not carried out.
    hesitated: Option<bool>,
    idle: IdleRanks,
    /// The last change, until its effect is recorded.
    watched: Option<PendingEffect>,
    effects: Vec<(u32, Effect)>,
    /// Number of ranks fixed by a user.
    held: Option<u32>,
    /// Who is asked about a change before it is carried out.
    advisor: Option<Advisor>,
    advice: Option<Advice>,
}

/// A change whose effect has not been recorded yet.
struct PendingEffect {
    number: u32,
    active: u32,
    arrived: Option<Time>,
}

/// An action to take, before it becomes a decision.
struct ScalingPlan {
    action: Action,
    to: u32,
    reason: String,
}

impl Scaler {
    /// Creates a scaler that follows `policy` within the bounds of the settings.
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
            advisor: None,
            advice: None,
        }
    }

    /// Asks this advisor about each change.
    pub fn with_advisor(self, advisor: Advisor) -> Scaler {
        Scaler { advisor: Some(advisor), ..self }
    }

    /// Creates a scaler with the policy of the settings.
    pub fn of(scaling: &Scaling) -> Scaler {
        Scaler::new(policy_of(scaling), scaling.clone())
    }

    /// Time until the next decision: the interval, and less as the end of the budget comes near or
    /// while a question to the advisor is open.
    pub fn pause(&self, now: Time) -> Duration {
        let interval = self.scaling.interval;
        let near = self.stop_by.map_or(interval, |by| by.since(now) / PAUSES_TO_STOP);
        let pause = near.clamp(MIN_PAUSE.min(interval), interval);
        self.advisor.as_ref().and_then(|advisor| advisor.pause(now)).map_or(pause, |settled| settled.min(pause))
    }

    /// The question to be sent to the advisor, once. Its answer belongs to
    /// [`advised`](Scaler::advised).
    pub fn question(&mut self) -> Option<Question> {
        self.advisor.as_mut().and_then(Advisor::question)
    }

    /// Takes the advisor's answer to a question, or why there is none. The next decision follows
    /// it.
    pub fn advised(&mut self, now: Time, question: u32, answer: Result<Answer, String>) {
        self.advisor.iter_mut().for_each(|advisor| advisor.answered(now, question, answer.clone()));
    }

    /// The advice that the last decisions follow, once.
    pub fn advice(&mut self) -> Option<Advice> {
        self.advice.take()
    }

    /// That the advisor is not asked any more, and why; once.
    pub fn advisor_warning(&mut self) -> Option<String> {
        self.advisor.as_mut().and_then(Advisor::take_warning)
    }

    /// Fixes the number of ranks, overriding the policy and its bounds; `None` returns the decision
    /// to the policy. The budget still applies.
    pub fn hold(&mut self, ranks: Option<u32>) {
        self.held = ranks;
    }

    /// Makes decisions. Call it every [`Scaling::interval`], when a node is granted, and when a
    /// rank joined or was lost. The caller carries the decisions out in order. If nothing is to be
    /// done, there is one [`Action::Stay`] with the reason; none while the advisor is asked.
    pub fn decide(&mut self, seen: &Observation<'_>, estimates: &Estimates, prices: &Prices) -> Vec<Decision> {
        let account = Account::of(seen, prices);
        self.alerts.extend(self.alarm.ring(&account));
        self.stop_by = stop_with_margin(&account);
        self.idle.note(seen);
        let drain = drain::time(seen, estimates);
        let inputs = inputs(seen, &account, estimates, drain);
        if let Some(plan) = self.stop(seen, drain) {
            self.advisor.iter_mut().for_each(Advisor::void);
            let wish = Target::plain(0, plan.reason.clone());
            return vec![self.decision(seen, inputs, &wish, plan)];
        }
        let needed = drain.max(drain::next_tasks(seen, estimates));
        if self.held.is_some() {
            self.advisor.iter_mut().for_each(Advisor::void);
        }
        let supply = seen.supply();
        let (wish, plans) = match self.advisor.as_mut().map_or(Outcome::Idle, |it| it.settle(seen.now, supply)) {
            Outcome::Waiting => {
                self.watch(seen, &[]);
                return Vec::new();
            }
            Outcome::Settled(wish, ranks) => {
                let plans = self.changes(seen, &account, &wish, ranks, prices, needed);
                (wish, plans)
            }
            Outcome::Idle => {
                let wish = match self.held {
                    Some(ranks) => Target::plain(ranks, format!("held at {ranks} by hand")),
                    None => self.policy.decide(seen, estimates, prices),
                };
                let wish = self.keep_useful(seen, estimates, wish);
                let wish = match self.guarded() {
                    true => {
                        let particular = Particular::of(seen, prices, rest_s(seen, &wish));
                        let missing = particular.missing(seen, prices, (&account, self.paid_at_least(seen, needed)));
                        particular.raise(seen, &missing, prices, wish)
                    }
                    false => wish,
                };
                let wish = match self.advisor.as_mut().filter(|_| self.held.is_none()) {
                    Some(advisor) => advisor.apply_standing(seen.now, supply, wish),
                    None => wish,
                };
                let plans = self.plans(seen, &account, &wish, prices, needed);
                if plans.iter().any(|plan| plan.action != Action::Stay) && self.ask(seen, &wish, &inputs, prices) {
                    self.watch(seen, &[]);
                    return Vec::new();
                }
                (wish, plans)
            }
        };
        let decisions: Vec<Decision> =
            plans.into_iter().map(|plan| self.decision(seen, inputs.clone(), &wish, plan)).collect();
        if let (Some(advisor), Some(first)) = (&mut self.advisor, decisions.first()) {
            self.advice = advisor.take_settled(first.number);
        }
        self.watch(seen, &decisions);
        decisions
    }

    /// Asks the advisor about a change to what the policy wants. False if it is to be carried out
    /// at once.
    fn ask(&mut self, seen: &Observation<'_>, wish: &Target, inputs: &Inputs, prices: &Prices) -> bool {
        let (bounds, wanted) = (self.bounds(), self.bounded(wish.ranks));
        let Some(advisor) = self.advisor.as_mut().filter(|_| self.held.is_none()) else { return false };
        advisor.ask(&Matter {
            now: seen.now,
            policy: self.policy.name(),
            supply: seen.supply(),
            bounds,
            target: wish,
            wanted,
            inputs,
            prices,
        })
    }

    /// True if a task that will probably take until `end` may start, that is, if the nodes held can
    /// be paid for until then. As of the last decision.
    pub fn may_start(&self, end: Time) -> bool {
        !self.stopping && self.stop_by.is_none_or(|by| end <= by)
    }

    /// Until when all nodes held can be paid for, less a margin; `None` without a budget. As of the
    /// last decision. The caller must then stop what still runs and give the nodes back.
    pub fn stop_by(&self) -> Option<Time> {
        self.stop_by
    }

    /// Shares of the budget that were reached since the last call.
    pub fn alerts(&mut self) -> Vec<BudgetAlert> {
        std::mem::take(&mut self.alerts)
    }

    /// Effects of earlier changes, by decision number. A change's effect is due once the next
    /// change is.
    pub fn effects(&mut self) -> Vec<(u32, Effect)> {
        std::mem::take(&mut self.effects)
    }

    /// Upper limit on ranks, unless the run started with more.
    pub fn most_ranks(&self) -> u32 {
        self.scaling.max_ranks.max(self.scaling.min_ranks)
    }

    /// True if a rule uses the values that tasks write under this name.
    pub fn asks_for(&self, name: &str) -> bool {
        self.scaling.rules.iter().any(|rule| matches!(&rule.trigger, Trigger::Custom(custom) if custom == name))
    }

    /// Name of the policy.
    pub fn policy(&self) -> &str {
        self.policy.name()
    }

    /// Stops for the budget when, after starting anything more, the running tasks could no longer
    /// all end in time. Later the cap itself would have to stop them.
    fn stop(&mut self, seen: &Observation<'_>, drain: Duration) -> Option<ScalingPlan> {
        let by = self.stop_by?;
        let pause = self.pause(seen.now);
        let soon = seen.now.after(drain).after(pause);
        // The last tasks of a run end by themselves, and a run with nothing left needs no stop. But
        // the next decision may be too late.
        let tail = seen.counts.remaining == seen.counts.running;
        let due = if tail { seen.now.after(pause) >= by } else { soon >= by };
        let rests = !due || seen.counts.remaining == 0;
        if rests && !self.stopping {
            return None;
        }
        self.stopping = true;
        let reason = format!(
            "the budget pays for what is held until {}, of which {} are kept for stopping, and {}: nothing more is started, \
             and everything is given back",
            seconds(by.after(STOP_MARGIN).seconds()),
            seconds(STOP_MARGIN.as_secs_f64()),
            match (seen.counts.running, drain.is_zero()) {
                (0, _) => "no task runs".to_owned(),
                (running, true) => format!("how long {} will take is not known", counted(running, "running task")),
                (_, false) => format!("the running tasks take {} more", seconds(drain.as_secs_f64())),
            }
        );
        Some(ScalingPlan { action: Action::StopForBudget { by }, to: 0, reason })
    }

    /// Reduces a low-confidence wish for fewer ranks: ranks that will be of use are kept, unless
    /// they have been idle for longer than new ones take to arrive.
    fn keep_useful(&self, seen: &Observation<'_>, estimates: &Estimates, wish: Target) -> Target {
        let supply = seen.supply();
        if wish.ranks >= supply || wish.confidence >= self.scaling.confidence || !self.guarded() {
            return wish;
        }
        let useful = usable_ranks(seen).min(supply);
        let delay = Duration::try_from_secs_f64(estimates.delay(seen.growth_type()).q90).unwrap_or(Duration::MAX);
        let idle = self.idle.idle_for(seen.now, delay.max(self.scaling.interval * 2));
        let kept = useful.min(supply.saturating_sub(idle));
        if wish.ranks >= kept {
            return wish;
        }
        let reason = format!(
            "{}; but tasks are still to come for {}, and too little is known to give them back",
            wish.reason,
            counted(useful, "rank")
        );
        Target { ranks: kept, reason, ..wish }
    }

    /// The actions that carry out a target.
    fn plans(
        &mut self,
        seen: &Observation<'_>,
        account: &Account<'_>,
        wish: &Target,
        prices: &Prices,
        needed: Duration,
    ) -> Vec<ScalingPlan> {
        let (supply, target) = (seen.supply(), self.bounded(wish.ranks));
        let stay = |reason: String| vec![ScalingPlan { action: Action::Stay, to: supply, reason }];
        let (least, most) = self.bounds();
        if target != supply && self.guarded() && (least..=most).contains(&supply) {
            // Ranks without work are given back however uncertain the rest is: holding them
            // certainly costs money, a wrong guess only a delay.
            if wish.confidence < self.scaling.confidence && target > supply {
                let sure = wish.confidence * 100.0;
                let needed = self.scaling.confidence * 100.0;
                return stay(format!(
                    "{target} ranks would be better, but that is {sure:.0} % sure, less than the {needed:.0} % of `confidence`: {}",
                    wish.reason
                ));
            }
            if self.hesitates(supply, target) {
                return stay(format!("a change of one waits for a second look: {}", wish.reason));
            }
        }
        self.changes(seen, account, wish, wish.ranks, prices, needed)
    }

    /// The least and the most ranks.
    fn bounds(&self) -> (u32, u32) {
        let least = self.scaling.min_ranks.max(1);
        (least, self.scaling.max_ranks.max(least))
    }

    /// A number of ranks within the bounds; a user may leave them.
    fn bounded(&self, ranks: u32) -> u32 {
        let (least, most) = self.bounds();
        if self.held.is_some() { ranks.max(1) } else { ranks.clamp(least, most) }
    }

    /// The actions that lead to this number of ranks, as far as bounds and money allow.
    fn changes(
        &self,
        seen: &Observation<'_>,
        account: &Account<'_>,
        wish: &Target,
        ranks: u32,
        prices: &Prices,
        needed: Duration,
    ) -> Vec<ScalingPlan> {
        let (supply, target) = (seen.supply(), self.bounded(ranks));
        let (least, most) = self.bounds();
        let bound = if target == ranks { String::new() } else { format!(" (bounds: {least} to {most})") };
        let mut plans = match target.cmp(&supply) {
            std::cmp::Ordering::Greater => self.grow(seen, account, (wish, target - supply), prices, needed),
            std::cmp::Ordering::Less => self.shrink(seen, wish, supply - target, prices),
            std::cmp::Ordering::Equal => Vec::new(),
        };
        plans.iter_mut().for_each(|plan| plan.reason = format!("{}{bound}; {}", wish.reason, plan.reason));
        if plans.is_empty() {
            let why = match target.cmp(&supply) {
                std::cmp::Ordering::Greater => "; but no more can be had or paid for",
                std::cmp::Ordering::Less => "; but what could go is paid for or bound to the run",
                std::cmp::Ordering::Equal => "",
            };
            let reason = format!("{}{bound}{why}", wish.reason);
            plans.push(ScalingPlan { action: Action::Stay, to: supply, reason });
        }
        plans
    }

    /// True if the guards of the module's documentation apply.
    fn guarded(&self) -> bool {
        self.held.is_none() && self.policy.guarded()
    }

    /// True if this is the first decision in a row for a change by one among many ranks.
    fn hesitates(&mut self, supply: u32, target: u32) -> bool {
        let direction = (supply.abs_diff(target) == 1 && supply > FEW_RANKS).then_some(target > supply);
        let again = direction.is_some() && self.hesitated == direction;
        self.hesitated = if again { None } else { direction };
        direction.is_some() && !again
    }

    /// Wakes ranks, then requests nodes: as many as the budget pays for while all of them are
    /// `needed`, so that the tasks that start next can end on them.
    fn grow(
        &self,
        seen: &Observation<'_>,
        account: &Account<'_>,
        (wish, more): (&Target, u32),
        prices: &Prices,
        needed: Duration,
    ) -> Vec<ScalingPlan> {
        let mut plans = Vec::new();
        let supply = seen.supply();
        let until = self.paid_at_least(seen, needed);
        let missing = Particular::of(seen, prices, rest_s(seen, wish)).missing(seen, prices, (account, until));
        // Parked ranks are no substitute for nodes of other types.
        let others = more.saturating_sub(missing.iter().map(|(_, nodes)| nodes).sum());
        let parked = seen.ranks.iter().filter(|r| r.state == RankState::Parked);
        let (able, rest): (Vec<&RankView>, Vec<&RankView>) =
            parked.partition(|r| missing.iter().any(|(types, _)| types.has(r.node_type)));
        let parked = able.into_iter().chain(rest.into_iter().take(others as usize));
        let woken: Vec<Rank> = parked.take(more as usize).map(|r| r.rank).collect();
        let awake = woken.len() as u32;
        if awake > 0 {
            let reason = format!("{} woken", counted_are(awake, "parked rank"));
            plans.push(ScalingPlan { action: Action::Unpark { ranks: woken }, to: supply + awake, reason });
        }
        let hold = rest_s(seen, wish).and_then(|rest| Duration::try_from_secs_f64(rest).ok());
        let hold = hold.unwrap_or(USUAL_HOLD).max(needed);
        let order = NodeOrder { more: more - awake, first: wish.first, hold, until, missing };
        let mut to = supply + awake;
        for TypedRequest { node_type, nodes, why } in growth::choose(seen, account, prices, &order) {
            to += nodes;
            let from = seen.site_of(node_type).map_or_else(String::new, |site| format!(" from `{site}`"));
            let reason = format!("{} requested{from}{why}", counted_are(nodes, "more node"));
            plans.push(ScalingPlan { action: Action::Grow { nodes, node_type }, to, reason });
        }
        plans
    }

    /// Until when the budget must pay for what is requested now.
    fn paid_at_least(&self, seen: &Observation<'_>, needed: Duration) -> Time {
        seen.now.after(needed).after(self.scaling.interval).after(STOP_MARGIN)
    }

    /// Withdraws requests, then gives back the least busy ranks, of these the dearest, and parks
    /// those that cannot be given back. Ranks that alone can run some of the tasks stay.
    fn shrink(&self, seen: &Observation<'_>, wish: &Target, fewer: u32, prices: &Prices) -> Vec<ScalingPlan> {
        let mut plans = Vec::new();
        let mut left = fewer;
        let mut particular = Particular::of(seen, prices, rest_s(seen, wish));
        let withdrawn = withdrawable(seen, &mut left, &mut |request| particular.spares_request(request, prices));
        let mut to = seen.supply() - (fewer - left);
        if !withdrawn.is_empty() {
            let reason = format!("{} that had not come", counted(withdrawn.len() as u32, "node"));
            plans.push(ScalingPlan { action: Action::Cancel { requests: withdrawn }, to, reason });
        }
        let keep_paid = self.guarded();
        let mut candidates: Vec<&RankView> = seen
            .ranks
            .iter()
            .filter(|r| matches!(r.state, RankState::Active | RankState::Joining) && r.rank != Rank::ZERO && !r.needed)
            .collect();
        let price = |r: &RankView| prices.node(r.node_type).map_or(0.0, |node| node.node_hour);
        candidates.sort_by(|a, b| {
            let least_use = a.busy_slots.cmp(&b.busy_slots).then(b.failures.cmp(&a.failures));
            least_use.then(price(b).total_cmp(&price(a))).then(b.rank.cmp(&a.rank))
        });
        let goes = |r: &RankView| !keep_paid || !self.is_paid(r, seen.now, prices);
        let (go, bound): (Vec<&RankView>, Vec<&RankView>) = candidates.into_iter().partition(|r| r.releasable);
        let mut spares = |r: &RankView| particular.spares(r.node_type, f64::from(r.slots));
        let leaves = |r: &&&RankView| goes(r) && spares(r);
        let gone: Vec<Rank> = go.iter().filter(leaves).take(left as usize).map(|r| r.rank).collect();
        left -= gone.len() as u32;
        // An idle rank that cannot leave is parked: that saves no money, but CPU time and power.
        // One whose time is paid for stays awake, since it may be of use.
        let paid = go.iter().filter(|r| !goes(r)).count() as u32;
        let asleep = left.saturating_sub(paid) as usize;
        let parked: Vec<Rank> = bound
            .iter()
            .filter(|r| r.busy_slots == 0 && r.state == RankState::Active && spares(r))
            .take(asleep)
            .map(|r| r.rank)
            .collect();
        to -= gone.len() as u32;
        if !gone.is_empty() {
            let reason = format!("{} drained, to give back what they hold", counted_are(gone.len() as u32, "rank"));
            plans.push(ScalingPlan { action: Action::Shrink { ranks: gone }, to, reason });
        }
        to -= parked.len() as u32;
        if !parked.is_empty() {
            let reason = format!("{} parked, for they cannot leave", counted_are(parked.len() as u32, "rank"));
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

    /// Gives the number of the last decision, which is not recorded, to the next one.
    pub(super) fn unnumber_last(&mut self) {
        self.number = self.number.saturating_sub(1);
    }

    /// Records the last change as pending until the next one.
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

/// Seconds until the end, by the forecast of a target.
fn rest_s(seen: &Observation<'_>, wish: &Target) -> Option<f64> {
    let chosen = wish.chosen.and_then(|at| wish.candidates.get(at))?;
    Some(chosen.finish_q50.since(seen.now).as_secs_f64())
}

/// Until when an account pays for everything, less a margin, so that tasks are stopped before the
/// money runs out.
fn stop_with_margin(account: &Account<'_>) -> Option<Time> {
    account.stop_by().map(|by| Time(by.0.saturating_sub(STOP_MARGIN.as_nanos() as u64)).max(account.now()))
}

/// The latest requests that can be withdrawn without falling below the target, and that the run can
/// spare; reduces `left` by their nodes.
fn withdrawable(
    seen: &Observation<'_>,
    left: &mut u32,
    is_spared: &mut dyn FnMut(&RequestView) -> bool,
) -> Vec<RequestId> {
    let mut withdrawn = Vec::new();
    let mut requests: Vec<_> = seen.requests.iter().collect();
    requests.sort_by_key(|r| std::cmp::Reverse((r.asked, r.id)));
    for request in requests.into_iter().filter(|r| r.nodes > 0 && !r.needed) {
        if request.nodes <= *left && is_spared(request) {
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
        provisioning_s: estimates.delay(seen.growth_type()).q50,
        custom: seen.custom.clone(),
    }
}

#[cfg(test)]
mod tests;
