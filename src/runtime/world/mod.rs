//! The ranks that a launcher started together, before and after a run, and how they join one.
//!
//! | step | rank 0 of the base world | every other rank | a world that joins later |
//! |---|---|---|---|
//! | start | joins MPI (`multi_run` keeps it for several runs) | the same | joins MPI, then the bridge (`join`) |
//! | handshake | gathers places, sends welcomes, gathers facts (`handshake`) | sends place, awaits the welcome, sends facts | the same, over the bridge |
//! | no run | dismisses the others | leaves | is refused |
//! | end | settles: drives the fabric until all frames have left | the same | closes its link, then settles |

pub(super) mod handshake;
mod join;
mod multi_run;

pub use join::{JoinOptions, contact_of, join_run};
pub use multi_run::World;
