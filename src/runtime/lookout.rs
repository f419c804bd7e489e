//! What a rank that may be lost has been running for a while.
//!
//! When such a rank is lost, the coordinator knows of its tasks that they ran there only if it was told. So a rank that joined looks at its slots
//! now and then; a task that it finds in a slot twice is told of, once. Short tasks cost nothing, and slots are not bothered at all.

use std::time::Duration;

use crate::exec::Runner;
use crate::model::{TaskId, Time};
use crate::schedule::protocol::Started;

/// How often the slots are looked at.
const EVERY: Duration = Duration::from_millis(250);

/// See the module's text.
#[derive(Default)]
pub(super) struct Lookout {
    due: Time,
    /// For each slot what it was found to run, since when, and whether that was told.
    seen: Vec<Option<(TaskId, Time, bool)>>,
}

impl Lookout {
    /// Looks, if it is time to; returns what is to be told. `attempt` says which attempt at a task runs here.
    pub(super) fn look(&mut self, now: Time, runner: &Runner, attempt: impl Fn(TaskId) -> u16) -> Vec<Started> {
        if now < self.due {
            return Vec::new();
        }
        self.due = now.after(EVERY);
        let running: Vec<Option<TaskId>> = runner.running().collect();
        self.seen.resize(running.len(), None);
        let mut told = Vec::new();
        for (seen, task) in self.seen.iter_mut().zip(running) {
            match (&mut *seen, task) {
                (Some((before, start, is_told)), Some(task)) if *before == task => {
                    if !std::mem::replace(is_told, true) {
                        told.push(Started { task, attempt: attempt(task), start: *start });
                    }
                }
                (seen, task) => *seen = task.map(|task| (task, now, false)),
            }
        }
        told
    }
}
