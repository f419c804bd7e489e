//! The simulator: a virtual cluster in virtual time, with the coordinator, workers and scaling core
//! of a real run.
//!
//! | file | one idea |
//! |---|---|
//! | `cluster`, `read` | the properties of a cluster, and the file that defines them |
//! | `fates` | how long each attempt takes, and how it ends |
//! | `random` | random draws that do not depend on the order in which they are made |
//! | `event_queue`, `network`, `pool` | future events, messages under way, ready tasks of a rank |
//! | `steal_matching` | how idle ranks find work when there are very many of them |
//! | `staging` | where the files of staged tasks lie, and how long they travel |
//! | `provider` | node requests, grants and bills |
//! | `simulator` | the state machines of a run, driven by all of these |
//! | `simulation` | one run under a policy, and its results |
//! | `recorded_run` | the same with a run directory, as a real run leaves it |
//! | `rerun` | repeats a run that has ended, with some property changed |
//! | `later_first` | priorities that make later stages start first |
//! | `compare`, `plan` | many runs: comparison of policies, and ranks against makespan and cost |

mod cluster;
pub mod compare;
mod event_queue;
mod fates;
pub mod later_first;
mod network;
pub mod plan;
mod pool;
mod provider;
mod random;
mod read;
mod recorded_run;
pub mod rerun;
mod simulation;
mod simulator;
mod staging;
mod steal_matching;

pub use cluster::{ClassSpread, Cluster, Faults, Network, NodeKind, TaskSpread, TypeUse};
pub use fates::RecordedTasks;
pub use provider::Node;
pub use random::Distribution;
pub use recorded_run::{RecordRequest, Rehearsed, SessionError, rehearse};
pub use simulation::{Before, Floor, Simulation, SimulationError, SimulationOutcome};
pub use simulator::{Forget, Log, MemoryUse, ScalingSetup, Setup, SimulatedEnd, Simulator};

#[cfg(test)]
mod tests;
