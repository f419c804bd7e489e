//! The scaling core: how many ranks there should be, what that costs, and why.
//!
//! An [`Observation`] goes in, [`Decision`]s come out. The same core serves a real run, where rank
//! 0 makes the observations, and the simulator, which makes them in virtual time. [`RemainingWork`]
//! holds the tasks that remain, [`Estimates`] what the run has learnt about durations, [`Prices`]
//! what nodes cost. A [`Policy`] turns them into a [`Target`], and the [`Scaler`] turns targets
//! into decisions within bounds, budget and hysteresis. README.md in this folder explains why.
//!
//! The core reads no clock, starts no thread, opens no file or socket, and does not use MPI.

pub mod advisor;
pub mod balance;
pub(crate) mod commands;
pub(crate) mod controller;
pub mod decision;
pub mod elasticity;
pub mod estimate;
pub mod forecast;
mod growth;
pub mod observation;
pub mod policy;
pub mod price;
pub mod reference_policies;
pub mod remaining;
mod scaler;
pub mod site_health;
pub mod sites;
#[cfg(test)]
pub(crate) mod testing;

pub use advisor::{Advice, Advisor};
pub use decision::{Action, BudgetAlert, Candidate, Decision, Effect, Forecast, Inputs};
pub use estimate::{ClassId, ClassPrior, Estimates, Quantiles};
pub use observation::{Customs, Observation, RankView, RequestId, RequestView, Samples, TaskCounts};
pub use policy::{Policy, Target, policy_by_name, policy_names, policy_of};
pub use price::{Account, NodeType, NodeTypeId, NodeTypes, Prices};
pub use remaining::{RemainingTask, RemainingWork, Stage, TaskFacts};
pub use scaler::Scaler;
pub use sites::{SiteView, WaitSource};
