//! What rank 0 does besides running tasks.

mod autoscaler;
mod commands;
pub(super) mod driver;
mod join_address;
mod join_listener;
pub(super) mod launch;
mod limits;
mod membership;
mod prepare;
mod pricing;
mod provisioner;
mod recording;
pub mod resume;
mod run_history;
mod scaling;
mod status;
mod walltime;

pub use provisioner::BLOCKS;
pub use run_history::{kind_of, recall};
