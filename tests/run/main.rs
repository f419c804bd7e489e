//! Runs of jobs as a user starts them: alone and under `mpirun`, complete, failed, killed, resumed.

mod additions;
mod batch;
mod bench;
mod cache;
mod calls;
mod changed_files;
mod containers;
mod embedding;
mod faults;
mod gpus;
mod graphs;
mod journal;
mod labels;
mod limits;
mod lost_coordinator;
mod lost_ranks;
mod mpi;
mod new;
mod parts;
mod pools;
mod resume;
mod run;
mod runs;
mod scale;
mod several;
mod signals;
mod stage;
#[path = "../support/mod.rs"]
mod support;
mod which_run;
mod workflows;
mod worlds;
