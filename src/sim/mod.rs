//! The simulated edges: a virtual cluster in virtual time, under the same coordinator, workers and scaling core as a real run.
//!
//! | file | one idea |
//! |---|---|
//! | `cluster`, `read` | what a cluster is like, and the file that says so |
//! | `fates` | how long each attempt takes, and how it ends |
//! | `draw` | random draws that do not depend on the order in which they are made |
//! | `agenda`, `slab`, `post`, `pool` | what is to happen, what is under way, messages, ready tasks of a rank |
//! | `search` | how idle ranks find work when there are very many of them |
//! | `provider` | where nodes come from, and their bills |
//! | `world` | the state machines of a run, driven by all of these |
//! | `trial` | one run under a policy, and its figures |
//! | `session` | the same with a run directory, as a real run leaves it |
//! | `again` | a run that has ended, with something about it changed |
//! | `compare`, `plan` | many runs: policies side by side, and ranks against makespan and cost |

pub mod again;
mod agenda;
mod cluster;
pub mod compare;
mod draw;
mod fates;
pub mod plan;
mod pool;
mod post;
mod provider;
mod read;
mod search;
mod session;
mod trial;
mod world;

pub use cluster::{Cluster, Faults, Network, NodeType, Tasks};
pub use draw::Distribution;
pub use fates::RecordedTasks;
pub use provider::Node;
pub use session::{Rehearsed, Request, SessionError, rehearse};
pub use trial::{Before, Floor, Outcome, Trial, TrialError};
pub use world::{Authority, Ended, Forget, Homes, Log, Setup, World};

#[cfg(test)]
mod tests;
