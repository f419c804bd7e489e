//! `[[alert]]` of the job file: a metric with a threshold, and the receivers of notifications.

use std::path::PathBuf;
use std::time::Duration;

use crate::model::Measure;

/// One `[[alert]]` table.
#[derive(Clone, Debug, PartialEq)]
pub struct Alert {
    /// `name`.
    pub name: String,
    /// `metric`: one of [`METRICS`], or a name with one of [`PREFIXES`].
    pub metric: String,
    /// `above`: the condition holds while the value is above this,
    pub above: Option<f64>,
    /// `below`: or below this.
    pub below: Option<f64>,
    /// `lasting`: notify after the condition has held for this long without interruption.
    pub lasting: Duration,
    /// `repeat`: minimum time between two notifications.
    pub repeat: Duration,
    /// `file`: append a line to this file, relative to the job's directory.
    pub file: Option<PathBuf>,
    /// `webhook`: post to this address.
    pub webhook: Option<String>,
    /// `command`: run these words as a command.
    pub command: Option<Vec<String>>,
}

impl Alert {
    /// True if the condition holds at this value; false for an unknown value.
    pub fn holds(&self, value: Option<f64>) -> bool {
        value.is_some_and(|value| {
            self.above.is_some_and(|above| value > above) || self.below.is_some_and(|below| value < below)
        })
    }
}

/// The metrics of a run with their descriptions.
pub const METRICS: [(&str, &str); 30] = [
    ("elapsed_s", "duration of the session so far, in seconds"),
    ("remaining_s", "estimated remaining time, in seconds"),
    ("finish_s", "forecast end, in seconds since the start (of the last decision)"),
    ("progress", "share of the tasks that have ended, 0 to 1"),
    ("completed", "tasks that completed"),
    ("failed", "tasks that failed"),
    ("skipped", "tasks that never run because a dependency did not end as required"),
    ("cancelled", "tasks that were cancelled"),
    ("running", "running tasks"),
    ("queued", "tasks that only wait for a slot"),
    ("pending", "tasks that wait for dependencies"),
    ("tasks_per_s", "recent number of tasks that end per second"),
    ("error_rate", "share of the attempts that failed, 0 to 1"),
    ("ranks", "active ranks"),
    ("ranks_lost", "ranks that stopped answering"),
    ("slots", "slots of the active ranks"),
    ("used", "share of slot time that ended attempts used, 0 to 1"),
    ("balance", "mean over maximum of the work per slot of ranks, 0 to 1"),
    ("spent", "cost of the run so far, as billed"),
    ("budget_used", "share of the budget that is spent, 0 to 1"),
    ("cost_forecast", "forecast cost of the run (of the last decision)"),
    ("cpu", "busy share of the CPUs on the node where it is highest, 0 to 1"),
    ("memory", "used share of the memory on the node where it is highest, 0 to 1"),
    ("io_stall", "share of time in which tasks waited for I/O, on the node where it is highest, 0 to 1"),
    ("rank_memory", "memory of the rank that uses most, including its tasks, in bytes"),
    ("gpu", "busy share of the GPUs on the rank where it is highest, 0 to 1"),
    ("gpu_memory", "used share of the GPU memory on the rank where it is highest, 0 to 1"),
    ("pool_used", "share of the units in use of the pool where it is highest, 0 to 1"),
    ("pool_waiting", "tasks that wait for units of the pool for which most do"),
    ("silence_s", "time since the last task ended, in seconds"),
];

/// Prefix of the names of values that tasks write.
pub(crate) const CUSTOM: &str = "custom.";

/// Prefixes of metric families with their descriptions.
pub const PREFIXES: [(&str, &str); 4] = [
    ("p50_s.", "median duration of the attempts of a class, in seconds"),
    ("p95_s.", "95th percentile of the durations of a class, in seconds"),
    ("wait_p95_s.", "95th percentile of the time that attempts of a class waited for a slot, in seconds"),
    (CUSTOM, "latest value that a task wrote to $PHALANX_METRICS under this name"),
];

/// True if a metric of this name can exist.
pub(crate) fn is_metric(name: &str) -> bool {
    if let Some(name) = name.strip_prefix(CUSTOM) {
        return Measure::is_name(name);
    }
    let of_family = |(prefix, _): &(&str, &str)| name.strip_prefix(prefix).is_some_and(|rest| !rest.is_empty());
    METRICS.iter().any(|(known, _)| *known == name) || PREFIXES.iter().any(of_family)
}
