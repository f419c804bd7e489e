//! Decisions and the reasons for them: the record that the journal keeps, `explain` prints and the
//! simulator replays.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::observation::{Customs, RequestId};
use super::price::NodeTypeId;
use crate::model::{Rank, Time};

/// One decision, with everything needed to understand and judge it later.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Decision {
    /// Number of the decision within the run, from 1.
    pub number: u32,
    /// When it was made.
    pub time: Time,
    /// The action to carry out.
    pub action: Action,
    /// Supply of ranks (active, joining, requested) before it.
    pub from: u32,
    /// Supply of ranks once it is carried out.
    pub to: u32,
    /// Name of the policy.
    pub policy: String,
    /// Number of ranks that the policy wanted, before bounds, budget and hysteresis.
    pub wish: u32,
    /// Confidence of the policy, 0 to 1.
    pub confidence: f64,
    /// The state that it was based on.
    pub inputs: Inputs,
    /// The alternatives, with predicted finish and cost; empty for policies that make no forecast.
    pub candidates: Vec<Candidate>,
    /// The reason, in a sentence for people.
    pub reason: String,
    /// Predicted end and cost of the run, if there was a forecast.
    pub forecast: Option<Forecast>,
    /// The observed effect, once it is known.
    pub effect: Option<Effect>,
}

/// Predicted end and total cost of a session, as of one moment. Eight of ten cases lie between q10
/// and q90.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Forecast {
    /// Seconds from the session's beginning to its end: one case in ten is sooner.
    pub finish_q10_s: f64,
    /// The same: half of the cases are sooner.
    pub finish_q50_s: f64,
    /// The same: nine cases in ten are sooner.
    pub finish_q90_s: f64,
    /// Bill of the session, in the currency of the prices: one case in ten is cheaper.
    pub cost_q10: f64,
    /// The same: half of the cases are cheaper.
    pub cost_q50: f64,
    /// The same: nine cases in ten are cheaper.
    pub cost_q90: f64,
}

/// An action on the ranks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    /// Request nodes; each brings one rank.
    Grow {
        /// How many.
        nodes: u32,
        /// Of which type.
        node_type: NodeTypeId,
    },
    /// Drain these ranks and give their nodes back.
    Shrink {
        /// Which.
        ranks: Vec<Rank>,
    },
    /// Withdraw requests that have not been granted.
    Cancel {
        /// Which.
        requests: Vec<RequestId>,
    },
    /// Put ranks to sleep; their nodes are kept.
    Park {
        /// Which.
        ranks: Vec<Rank>,
    },
    /// Wake ranks that sleep.
    Unpark {
        /// Which.
        ranks: Vec<Rank>,
    },
    /// Start nothing more, let running tasks end, give all nodes back and exit resumable. Whatever
    /// still runs at `by` must be stopped, or the bill would exceed the budget.
    StopForBudget {
        /// The moment at which the last node must be back.
        by: Time,
    },
    /// Change nothing.
    Stay,
}

/// The state that a decision was based on, in numbers.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Inputs {
    /// Active ranks.
    pub active: u32,
    /// Ranks whose nodes have been granted and which are starting.
    pub joining: u32,
    /// Nodes requested and not granted.
    pub requested: u32,
    /// Parked ranks.
    pub parked: u32,
    /// Ranks that drain.
    pub draining: u32,
    /// Tasks that wait for a slot.
    pub ready: u64,
    /// Tasks that run.
    pub running: u64,
    /// Tasks without a final state.
    pub remaining: u64,
    /// Share of the active ranks' slots that are busy, 0 to 1.
    pub utilisation: f64,
    /// Bill up to now, as charged.
    pub spent: f64,
    /// Bill that would remain unavoidable if everything stopped now.
    pub committed: f64,
    /// Median time in seconds that a new node takes to arrive.
    pub provisioning_s: f64,
    /// Values that tasks wrote and that rules need: the latest of each name.
    pub custom: Customs,
}

/// One number of ranks that was considered, with its predicted outcome.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Candidate {
    /// Upper limit on ranks; ranks that stay idle are given back.
    pub ranks: u32,
    /// Predicted end, q10.
    pub finish_q10: Time,
    /// Predicted end, median.
    pub finish_q50: Time,
    /// Predicted end, q90.
    pub finish_q90: Time,
    /// Predicted cost of the whole run, q10.
    pub cost_q10: f64,
    /// Predicted cost of the whole run, median; includes what is spent so far.
    pub cost: f64,
    /// Predicted cost of the whole run, q90.
    pub cost_q90: f64,
    /// True if it meets both budget and deadline at q90.
    pub feasible: bool,
}

impl Candidate {
    /// This candidate as a forecast.
    pub fn forecast(&self) -> Forecast {
        Forecast {
            finish_q10_s: self.finish_q10.seconds(),
            finish_q50_s: self.finish_q50.seconds(),
            finish_q90_s: self.finish_q90.seconds(),
            cost_q10: self.cost_q10,
            cost_q50: self.cost,
            cost_q90: self.cost_q90,
        }
    }
}

/// The effect of a decision, measured when the next change was due or the run was over.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Effect {
    /// When it was measured.
    pub time: Time,
    /// Active ranks then.
    pub active: u32,
    /// When the first requested rank became active, if one did.
    pub arrived: Option<Time>,
    /// The forecast at that time.
    pub forecast: Option<Forecast>,
}

/// A share of the budget has been spent.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct BudgetAlert {
    /// When.
    pub time: Time,
    /// Which share, in percent: 50, 80 or 100.
    pub percent: u32,
    /// Bill at that time.
    pub spent: f64,
    /// The budget.
    pub budget: f64,
}
