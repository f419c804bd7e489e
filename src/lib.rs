//! Phalanx runs graph workloads on MPI clusters.

pub mod fabric;
pub mod graph;
pub mod job;
pub mod model;
pub mod schedule;
