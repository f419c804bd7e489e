//! Single parts of Phalanx, called through the library: no test here starts the program.

mod architecture;
mod data_graphs;
mod exec_command;
mod exec_kernel;
mod exec_mpi;
mod exec_support;
mod fabric_mpi;
mod job_files;
mod packaging;
mod pool_sleep;
#[path = "../support/mod.rs"]
mod support;
