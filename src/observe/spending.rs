//! The cost of a run over time, as billed, for runs whose job has a price or a policy.
//!
//! The bill is computed from the ranks in the journal. Page, report, trace and metrics all use this
//! file, so they agree.

use super::run_view::RunView;
use crate::journal::{NodeHolding, Session};
use crate::model::{Time, total};
use crate::scale::Prices;

/// The bill of a run. Times are those of the last session.
pub(super) struct Spending {
    prices: Prices,
    nodes: Vec<NodeHolding>,
    /// Cost of the earlier sessions.
    earlier: f64,
    /// Latest time that the journal covers.
    pub now: Time,
    /// Budget of the run.
    pub budget: Option<f64>,
}

impl Spending {
    /// The bill of a run; `None` if its nodes have no price.
    pub fn of(run: &RunView) -> Option<Spending> {
        let session = run.session();
        let prices = session.terms.as_ref()?.prices.clone();
        let now = Time(run.wall_ns(session));
        let before = run.sessions().map(|(session, _)| session).take_while(|other| !std::ptr::eq(*other, session));
        let bill = |other: &Session| Some(other.bill(&other.terms.as_ref()?.prices, Time(run.wall_ns(other))));
        let earlier = total(before.filter_map(bill));
        Some(Spending { nodes: session.billed_nodes(now), earlier, now, budget: prices.budget, prices })
    }

    /// Cost up to `moment`, including earlier sessions.
    pub fn at(&self, moment: Time) -> f64 {
        let held = self.nodes.iter().filter(|node| node.from < moment);
        let here = total(held.map(|node| self.prices.bill(node.node_type, node.from, node.to.min(moment))));
        self.earlier + here
    }

    /// Cost up to now.
    pub fn spent(&self) -> f64 {
        self.at(self.now)
    }

    /// Cost at `points` equidistant times up to now.
    pub fn course(&self, points: usize) -> Vec<(Time, f64)> {
        let moment = |i: usize| Time((u128::from(self.now.0) * i as u128 / points.max(1) as u128) as u64);
        (0..=points).map(moment).map(|at| (at, self.at(at))).collect()
    }
}
