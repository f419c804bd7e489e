//! Phalanx runs graph workloads on MPI clusters.

pub mod graph;
pub mod job;
pub mod model;
pub mod pool;
pub mod topology;
