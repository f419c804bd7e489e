//! What a run has cost from moment to moment, as billed, and what it is expected to cost: for runs whose job names a price or a policy.
//!
//! The bill follows from the ranks that the journal tells of, the expectation from the last decision that made one. Page, report, trace and
//! metrics all ask here, so they tell the same.

use super::run_view::RunView;
use crate::journal::{NodeHolding, Session};
use crate::model::Time;
use crate::scale::{Decision, Prices};

/// See the module's text. Moments are those of the last session.
pub(super) struct Spending {
    prices: Prices,
    nodes: Vec<NodeHolding>,
    /// What earlier sessions cost.
    earlier: f64,
    /// The end of what is known.
    pub now: Time,
    /// What may be spent in all.
    pub budget: Option<f64>,
    /// What was expected of late.
    pub forecast: Option<Forecast>,
}

/// How a run is expected to end.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Forecast {
    /// When it was made.
    pub made: Time,
    /// When the run will be over: in the middle, and in nine of ten cases.
    pub finish: [Time; 2],
    /// What all of it will cost, likewise.
    pub cost: [f64; 2],
}

impl Spending {
    /// That of a run; `None` if nodes have no price in it.
    pub fn of(run: &RunView) -> Option<Spending> {
        let session = run.session();
        let prices = session.terms.as_ref()?.prices.clone();
        let now = Time(run.wall_ns(session));
        let before = run.sessions().map(|(session, _)| session).take_while(|other| !std::ptr::eq(*other, session));
        let bill = |other: &Session| Some(other.bill(&other.terms.as_ref()?.prices, Time(run.wall_ns(other))));
        let earlier: f64 = before.filter_map(bill).sum();
        let forecast = session.decisions.iter().rev().find_map(|decision| Forecast::of(decision, earlier));
        Some(Spending { nodes: session.nodes(now), earlier, now, budget: prices.budget, forecast, prices })
    }

    /// The bill up to a moment, earlier sessions included.
    pub fn at(&self, moment: Time) -> f64 {
        let held = self.nodes.iter().filter(|node| node.from < moment);
        let here: f64 = held.map(|node| self.prices.bill(node.node_type, node.from, node.to.min(moment))).sum();
        self.earlier + here
    }

    /// The bill up to now.
    pub fn spent(&self) -> f64 {
        self.at(self.now)
    }

    /// The bill at so many moments, at equal distances up to now.
    pub fn course(&self, points: usize) -> Vec<(Time, f64)> {
        let moment = |i: usize| Time((u128::from(self.now.0) * i as u128 / points.max(1) as u128) as u64);
        (0..=points).map(moment).map(|at| (at, self.at(at))).collect()
    }
}

impl Forecast {
    /// The expectation behind a decision. Of a decision that names the cases of its choice, both; else the middle twice.
    fn of(decision: &Decision, earlier: f64) -> Option<Forecast> {
        let (finish, cost) = (decision.finish?, decision.cost?);
        let chosen = decision.candidates.iter().find(|candidate| candidate.ranks == decision.to);
        let (late, dear) = chosen.map_or((finish, cost), |it| (it.finish_q90.max(finish), it.cost_q90.max(cost)));
        let cost = [earlier + cost, earlier + dear];
        Some(Forecast { made: decision.time, finish: [finish, late], cost })
    }
}
