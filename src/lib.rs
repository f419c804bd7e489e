//! Phalanx runs graph workloads on MPI clusters.
//!
//! `ARCHITECTURE.md` maps the modules: which of them decide (pure), which of them do I/O, and how a
//! task travels through them.

pub mod bench;
pub mod capacity;
pub mod cli;
pub mod codec;
pub mod control;
pub mod data;
pub mod exec;
pub mod fabric;
pub mod graph;
pub mod job;
pub mod journal;
pub mod model;
pub mod numbers;
pub mod observe;
pub mod pool;
pub mod runtime;
pub mod scale;
pub mod schedule;
#[cfg(test)]
mod seeds;
pub mod sim;
pub mod store;
mod svg;
mod system;
mod text;
pub mod topology;
pub mod workload;
