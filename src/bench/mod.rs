//! Measures Phalanx itself, on the machine and in the world that it is started in.
//!
//! | file | one idea |
//! |---|---|
//! | `metg` | the smallest task that is still worth it: runs a pattern with ever smaller tasks |
//! | `curve` | from measured walls to efficiency and METG; pure |
//! | `peak` | what the cores can do at most |
//! | `picture` | the curve as SVG; pure |
//! | `graph` | operations on a data graph |
//!
//! What is measured is the real runtime with its journal, as `phalanx run` runs a job.

pub mod curve;
pub mod graph;
pub mod metg;
mod peak;
pub mod picture;
