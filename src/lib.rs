//! Phalanx runs graph workloads on MPI clusters.

pub mod bench;
mod bounded_command;
pub mod capacity;
pub mod cli;
pub mod codec;
pub mod control;
pub mod data;
mod event;
pub mod exec;
pub mod fabric;
mod file_probe;
pub mod graph;
pub mod job;
pub mod journal;
pub mod model;
pub mod numbers;
pub mod observe;
mod open_files;
pub mod pool;
pub mod runtime;
pub mod scale;
pub mod schedule;
#[cfg(test)]
mod seeds;
pub mod sim;
mod strangers;
mod svg;
pub mod topology;
