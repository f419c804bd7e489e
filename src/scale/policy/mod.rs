//! The interface of policies: an observation in, a target out. And the six policies of the job
//! file.
//!
//! A policy says how many ranks it wants and why. Bounds, hysteresis and the choice of ranks to
//! remove are the [`Scaler`](super::Scaler)'s task, the same for all policies.

mod fixed;
mod predictive;
mod rules;
mod score;

use super::decision::Candidate;
use super::estimate::Estimates;
use super::observation::Observation;
use super::price::{NodeTypeId, Prices};
use super::reference_policies;
use crate::job::{PolicyKind, Scaling};

pub use fixed::{Fixed, Static};
pub use predictive::{Ahead, Hybrid, Objective};
pub use rules::{Reactive, default_rules};
pub(crate) use score::utilisation;
pub use score::{Pressure, time_weight};

/// Decides how many ranks there should be. It may keep state between decisions.
pub trait Policy: Send {
    /// Its name, as in the job file or on the command line.
    fn name(&self) -> &str;

    /// The number of ranks that it wants now.
    fn decide(&mut self, seen: &Observation<'_>, estimates: &Estimates, prices: &Prices) -> Target;

    /// True if the guards of the [`Scaler`](super::Scaler) apply. Policies of other systems are
    /// carried out literally, within bounds and budget.
    fn guarded(&self) -> bool {
        true
    }
}

/// The target of a policy.
#[derive(Clone, Debug, PartialEq)]
pub struct Target {
    /// Wanted supply of ranks (active, joining, requested).
    pub ranks: u32,
    /// Confidence, 0 to 1.
    pub confidence: f64,
    /// The candidates considered.
    pub candidates: Vec<Candidate>,
    /// Index of the candidate chosen.
    pub chosen: Option<usize>,
    /// True if the candidate chosen is the reason for the target; false where rules set it.
    pub by_forecast: bool,
    /// The type of nodes that the candidate chosen begins with; `None`: the cheapest.
    pub first: Option<NodeTypeId>,
    /// The reason, in a sentence without a full stop.
    pub reason: String,
}

impl Target {
    /// A target of a policy that makes no forecast.
    pub fn plain(ranks: u32, reason: impl Into<String>) -> Target {
        Target {
            ranks,
            confidence: 1.0,
            candidates: Vec::new(),
            chosen: None,
            by_forecast: false,
            first: None,
            reason: reason.into(),
        }
    }
}

/// The policy of the settings.
pub fn policy_of(scaling: &Scaling) -> Box<dyn Policy> {
    match scaling.policy {
        PolicyKind::Fixed => Box::new(Fixed::default()),
        PolicyKind::Reactive => Box::new(Reactive::new(scaling)),
        PolicyKind::Predictive => Box::new(Ahead::new("predictive", Objective::of(scaling), scaling)),
        PolicyKind::Hybrid => Box::new(Hybrid::new(scaling)),
        PolicyKind::Cost => Box::new(Ahead::new("cost", Objective::of(scaling), scaling)),
        PolicyKind::Performance => Box::new(Ahead::new("performance", Objective::of(scaling), scaling)),
    }
}

/// The policy of a name: one of the six of the job file, `static-N`, or a reference policy (see
/// [`reference_policies`]). `None` if the name is unknown.
pub fn policy_by_name(name: &str, scaling: &Scaling) -> Option<Box<dyn Policy>> {
    let policy = match name {
        "fixed" => PolicyKind::Fixed,
        "reactive" => PolicyKind::Reactive,
        "predictive" => PolicyKind::Predictive,
        "hybrid" => PolicyKind::Hybrid,
        "cost" => PolicyKind::Cost,
        "performance" => PolicyKind::Performance,
        _ => {
            let still = name.strip_prefix("static-").and_then(|n| n.parse().ok()).filter(|n| *n > 0);
            return still
                .map(|n| Box::new(Static::new(n)) as Box<dyn Policy>)
                .or_else(|| reference_policies::by_name(name, scaling));
        }
    };
    Some(policy_of(&Scaling { policy, ..scaling.clone() }))
}

/// The names that [`policy_by_name`] accepts, besides `static-N`.
pub fn policy_names() -> Vec<&'static str> {
    let own = ["fixed", "reactive", "predictive", "hybrid", "cost", "performance"];
    own.into_iter().chain(reference_policies::NAMES).collect()
}
