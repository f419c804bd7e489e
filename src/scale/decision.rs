//! What was decided and why: the record that the journal keeps, `explain` prints and the simulator
//! replays.

use serde::{Deserialize, Serialize};

use super::observation::{Customs, RequestId};
use super::price::NodeTypeId;
use crate::model::{Rank, Time};

/// One decision, complete enough to be understood and judged later.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Decision {
    /// Counts the decisions of a run from 1.
    pub number: u32,
    /// When it was made.
    pub time: Time,
    /// What is to be done.
    pub action: Action,
    /// Supply of ranks (active, joining, requested) before it.
    pub from: u32,
    /// Supply of ranks once it is carried out.
    pub to: u32,
    /// Name of the policy.
    pub policy: String,
    /// How many ranks the policy wished for, before bounds, budget and hysteresis.
    pub wish: u32,
    /// How sure the policy was, 0 to 1.
    pub confidence: f64,
    /// What it was based on.
    pub inputs: Inputs,
    /// What else could have been done, with its predicted finish and cost; empty for policies that
    /// do not look ahead.
    pub candidates: Vec<Candidate>,
    /// Why, in a sentence that a person understands.
    pub reason: String,
    /// When the run will be over and what it will cost, if this was predicted.
    pub forecast: Option<Forecast>,
    /// What came of it, once that is known.
    pub effect: Option<Effect>,
}

/// When a session will be over and what the whole of it will cost, as foreseen at one moment. From
/// q10 to q90 lie eight of ten cases.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
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

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    /// Ask for nodes; each brings one rank.
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
    /// Start nothing more, let running tasks end, give everything back, exit resumable. Nothing may
    /// run beyond `by`: what still does then must be stopped, or the bill would exceed the budget.
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
    /// Nodes asked for and not granted.
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
    /// Bill that could no longer be avoided if everything stopped now.
    pub committed: f64,
    /// Time that a new node takes to come (median), in seconds.
    pub provisioning_s: f64,
    /// Values that tasks wrote and that rules ask for: the latest of each name.
    pub custom: Customs,
}

/// One number of ranks that was considered, with what it would lead to.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Candidate {
    /// At most so many ranks, given back when they idle for long.
    pub ranks: u32,
    /// When it would be over: one case in ten is sooner.
    pub finish_q10: Time,
    /// When the run would be over (median).
    pub finish_q50: Time,
    /// When it would be over in nine of ten cases.
    pub finish_q90: Time,
    /// What the whole run would cost: one case in ten is cheaper.
    pub cost_q10: f64,
    /// What the whole run would cost (median), spent so far included.
    pub cost: f64,
    /// What it would cost in nine of ten cases.
    pub cost_q90: f64,
    /// True if it keeps budget and deadline (each at q90).
    pub feasible: bool,
}

impl Candidate {
    /// The forecast that it is.
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

/// What came of a decision, measured when the next change was due or the run was over.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Effect {
    /// When it was measured.
    pub time: Time,
    /// Active ranks then.
    pub active: u32,
    /// When the first of the ranks asked for was active, if any was.
    pub arrived: Option<Time>,
    /// What was foreseen at that time.
    pub forecast: Option<Forecast>,
}

/// A share of the budget has been reached.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct BudgetAlert {
    /// When.
    pub time: Time,
    /// Which share, in percent: 50, 80 or 100.
    pub percent: u32,
    /// Bill up to then.
    pub spent: f64,
    /// The budget.
    pub budget: f64,
}
