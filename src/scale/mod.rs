//! The scaling core: how many ranks there should be, what that costs, and why.
//!
//! An [`Observation`] goes in, [`Decision`]s come out. The same core serves a real run, where rank
//! 0 makes the observations, and the simulator, which makes them in virtual time. What remains to
//! be run is kept in [`RemainingWork`], what is learnt while tasks run in [`Estimates`], what nodes
//! cost in [`Prices`]; a [`Policy`] turns them into a [`Wish`], and the [`Scaler`] turns wishes
//! into decisions that keep within bounds, budget and good sense. See README.md in this folder for
//! the reasoning.
//!
//! Nothing here reads a clock, starts a thread, opens a file or a socket, or knows MPI.

pub mod balance;
pub(crate) mod controller;
pub mod decision;
pub mod elasticity;
pub mod estimate;
pub mod forecast;
pub mod observation;
pub mod policy;
pub mod price;
pub mod reference_policies;
pub mod remaining;
mod scaler;
#[cfg(test)]
pub(crate) mod testing;

pub use decision::{Action, BudgetAlert, Candidate, Decision, Effect, Forecast, Inputs};
pub use estimate::{ClassId, ClassPrior, Estimates, Quantiles};
pub use observation::{Customs, Observation, RankView, RequestId, RequestView, Samples, TaskCounts};
pub use policy::{Policy, Target, policy_by_name, policy_names, policy_of};
pub use price::{Account, NodeType, NodeTypeId, Prices};
pub use remaining::{RemainingTask, RemainingWork, Stage, TaskFacts};
pub use scaler::Scaler;
