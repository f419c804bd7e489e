//! The simulated edges: a virtual cluster in virtual time, under the same coordinator and workers as a real run.
//!
//! | file | one idea |
//! |---|---|
//! | `cluster`, `read` | what a cluster is like, and the file that says so |
//! | `scene` | what is simulated: the job, and how long its tasks take |
//! | `draw` | random draws that do not depend on the order in which they are made |
//! | `agenda`, `slab`, `post`, `pool` | what is to happen, what is under way, messages, ready tasks of a rank |
//! | `search` | how idle ranks find work when there are very many of them |
//! | `world` | the state machines of a run, driven by all of these |

mod agenda;
mod cluster;
mod draw;
mod pool;
mod post;
mod read;
mod scene;
mod search;
mod slab;
mod world;

pub use cluster::{Cluster, Faults, Network, NodeType, Tasks};
pub use draw::Distribution;
pub use scene::Scene;
pub use world::{Ended, Forget, Log, Setup, World};

#[cfg(test)]
mod tests;
