//! The pure core of a run: the decisions of the coordinator and the workers, without clock, thread,
//! socket or MPI.
//!
//! README.md in this folder describes the protocol. The real run feeds these machines from MPI and
//! threads, tests feed them from a simulated network.

pub mod action;
pub mod admission;
mod amend;
pub mod breathing;
mod completion_inference;
pub mod coordinator;
pub mod dependency_counts;
pub mod fair;
pub mod file_messages;
pub mod gang;
pub mod handout;
mod health;
mod homes;
pub mod locality;
pub mod long_tasks;
pub mod membership;
pub mod part;
pub mod pools;
pub mod prefetch;
pub mod protocol;
pub mod ranks;
pub mod resources;
mod score;
pub mod steal_terms;
mod stealing;
pub mod transfers;
pub mod worker;

#[cfg(test)]
mod tests;
