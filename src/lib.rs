//! Phalanx runs graph workloads on MPI clusters.

pub mod codec;
pub mod graph;
pub mod job;
pub mod journal;
pub mod model;
pub mod schedule;
