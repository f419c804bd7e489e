//! From wishes to decisions: bounds, budget, hysteresis.

use super::decision::{Action, Alert, Decision, Effect};
use super::estimate::Estimates;
use super::observation::Observation;
use super::policy::Policy;
use super::price::Prices;
use crate::job::Scaling;
use crate::model::Time;

/// A policy with everything that keeps it within bounds. One per run.
pub struct Scaler {
    policy: Box<dyn Policy>,
    scaling: Scaling,
    stop_by: Option<Time>,
}

impl Scaler {
    /// Follows a policy within the bounds of the settings.
    pub fn new(policy: Box<dyn Policy>, scaling: Scaling) -> Scaler {
        Scaler { policy, scaling, stop_by: None }
    }

    /// Decides. Call it every [`Scaling::interval`], and when a rank joined or was lost. The decisions are to be carried out in order;
    /// where nothing is to be done there is one [`Action::Stay`] with the reason.
    pub fn decide(&mut self, seen: &Observation<'_>, estimates: &Estimates, prices: &Prices) -> Vec<Decision> {
        let _ = (&self.scaling, self.policy.decide(seen, estimates, prices), Action::Stay);
        Vec::new()
    }

    /// True if a task that will probably take until `end` may start: the nodes that are held can be paid for until then. As of the
    /// last decision.
    pub fn may_start(&self, end: Time) -> bool {
        self.stop_by.is_none_or(|by| end <= by)
    }

    /// The moment until which all nodes held can be paid for, `None` without a budget. As of the last decision.
    pub fn stop_by(&self) -> Option<Time> {
        self.stop_by
    }

    /// Shares of the budget that have been reached since the last call.
    pub fn alerts(&mut self) -> Vec<Alert> {
        Vec::new()
    }

    /// What came of the last change, once it can be told; to be written beside the decision of that number.
    pub fn effects(&mut self) -> Vec<(u32, Effect)> {
        Vec::new()
    }
}
