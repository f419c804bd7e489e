//! What a run has cost from moment to moment, as billed: for runs whose job names a price or a policy.
//!
//! The bill follows from the ranks that the journal tells of. Page, report, trace and metrics all ask here, so they tell the same.

use super::run_view::RunView;
use crate::journal::{NodeHolding, Session};
use crate::model::Time;
use crate::scale::Prices;

/// See the module's text. Moments are those of the last session.
pub(super) struct Spending {
    prices: Prices,
    nodes: Vec<NodeHolding>,
    /// What earlier sessions cost.
    pub earlier: f64,
    /// The end of what is known.
    pub now: Time,
    /// What may be spent in all.
    pub budget: Option<f64>,
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
        Some(Spending { nodes: session.nodes(now), earlier, now, budget: prices.budget, prices })
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
