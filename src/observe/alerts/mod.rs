//! Alerts: the `[[alert]]` rules of a job file, evaluated during the run.
//!
//! A thread of rank 0 reads the run once per second from its directory, as every viewer does, so an
//! alert sees the values that the page shows. The same thread sends the notifications, so a slow
//! receiver does not delay the run. Each alert is also recorded as a note in the journal.
//!
//! | file | one idea |
//! |---|---|
//! | `watch` | decides when to notify: no clock, no I/O |
//! | `notify` | to a file, a webhook, a command |

mod notify;
mod watch;

pub(super) use notify::{Telling, tell};
pub(super) use watch::{AlertWatch, Told};
