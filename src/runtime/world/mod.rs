//! The ranks that a launcher started together, before and after a run.

pub(super) mod handshake;
mod join;
mod multi_run;

pub use join::{JoinOptions, join_run};
pub use multi_run::World;
