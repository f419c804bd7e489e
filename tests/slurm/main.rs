//! Under a real Slurm, which each test starts for itself: batch jobs, and runs that gain nodes and
//! give them back.

mod elastic;
mod jobs;
mod labels;
mod queue;
mod shrink;
mod sites;
mod slurm;
mod srun;
#[path = "../support/mod.rs"]
mod support;
