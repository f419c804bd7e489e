//! What rank 0 does besides running tasks.

mod autoscaler;
mod commands;
pub(super) mod driver;
pub(super) mod join_address;
mod join_listener;
pub(super) mod launch;
mod membership;
mod prepare;
pub(super) mod provisioner;
pub mod resume;
pub(super) mod run_history;
mod walltime;
