//! Ranks that come and go, and what decides about them: with real processes of this machine, without Slurm.

mod elastic;
mod history;
mod hostfile;
mod scaling;
#[path = "../support/mod.rs"]
mod support;
