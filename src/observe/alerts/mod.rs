//! Values of a run that somebody wants to hear of: the `[[alert]]` rules of its job file.
//!
//! A thread of rank 0 looks once a second at the run as everybody else who watches it does, from the run directory, so what an alert
//! sees is what the page shows. Who is told is told from that thread: nothing that is slow there holds up the run. Every alert is a
//! note in the journal too.
//!
//! | file | one idea |
//! |---|---|
//! | `watch` | when an alert is told, and when not again: no clock, no I/O |
//! | `tell` | to a file, a webhook, a command |

mod notify;
mod watch;

pub(super) use notify::{Telling, tell};
pub(super) use watch::{AlertWatch, Told};
