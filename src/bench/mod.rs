//! Measures Phalanx itself, on the machine and in the MPI world in which it is started.
//!
//! | file | one idea |
//! |---|---|
//! | `metg` | the smallest effective task: runs a pattern with smaller and smaller tasks |
//! | `curve` | from measured wall times to efficiency and METG; pure |
//! | `peak` | the peak rate of the cores |
//! | `picture` | the curve as SVG; pure |
//! | `graph` | operations on a data graph |
//!
//! The measurements use the real runtime with its journal, as `phalanx run` does.

pub mod curve;
pub mod graph;
pub mod metg;
mod peak;
pub mod picture;
