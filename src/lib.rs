//! Phalanx runs graph workloads on MPI clusters.

pub mod exec;
pub mod graph;
pub mod job;
pub mod model;
