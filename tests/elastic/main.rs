//! Ranks that come and go, and what decides about them: real processes on this machine, no Slurm.

mod away;
mod elastic;
mod gangs;
mod history;
mod hostfile;
mod hosts;
mod providers;
mod scaling;
mod sites;
#[path = "../support/mod.rs"]
mod support;
