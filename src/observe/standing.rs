//! How a run stands: what `status --json`, `report --json` and the API say under the same names.
//! Each has further names of its own; published names are stable.

use schemars::JsonSchema;
use serde::Serialize;
use serde_json::Value;

use super::figures::Figures;
use super::run_view::{RunState, RunView};
use crate::model::State;

/// How a run stands. An unknown figure is null.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct Standing {
    /// Name of the run, e.g. `mosaic-3`.
    pub run_name: String,
    /// Name of the job.
    pub job: String,
    /// The state in capitals, e.g. `RUNNING`.
    #[schemars(extend("enum" = RunState::ALL.map(RunState::name)))]
    pub run_state: &'static str,
    /// Number of the last session, from 1.
    pub session: u32,
    /// Exit code of the last session, once it has ended.
    pub exit_code: Option<i32>,
    /// Duration of the last session, so far or in total, in seconds.
    pub elapsed_s: f64,
    /// Number of tasks by state.
    pub counts: TaskCounts,
    /// Cost of all sessions, if the job has a price or a policy.
    pub cost: Option<f64>,
    /// Budget of the run.
    pub budget: Option<f64>,
}

/// Number of tasks by state. Each task counts in one of them besides `total`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, JsonSchema)]
pub struct TaskCounts {
    /// All tasks of the job.
    pub total: u64,
    /// Waiting for other tasks, or for a session that runs them.
    pub pending: u64,
    /// Waiting for a slot or something else that running tasks have taken, for units of a pool, for
    /// its next attempt, or until it is resumed.
    pub ready: u64,
    /// Running.
    pub running: u64,
    /// Completed.
    pub completed: u64,
    /// Failed for good, for any reason.
    pub failed: u64,
    /// Skipped.
    pub skipped: u64,
    /// Cancelled.
    pub cancelled: u64,
    /// Left out of the last session, whose user has asked for a part of the job.
    pub left_out: u64,
}

impl TaskCounts {
    /// The same, where tasks in no other state are pending.
    pub fn with_pending(self) -> TaskCounts {
        let TaskCounts { total, ready, running, completed, failed, skipped, cancelled, left_out, .. } = self;
        let others = ready + running + completed + failed + skipped + cancelled + left_out;
        TaskCounts { pending: total.saturating_sub(others), ..self }
    }
}

impl Standing {
    /// How a run stands whose figures are these.
    pub fn of(run: &RunView, figures: &Figures) -> Standing {
        let count = |state| u64::from(figures.counts.of(state));
        let session = run.session();
        Standing {
            run_name: run.name(),
            job: run.subject().job.name().to_owned(),
            run_state: run.state().name(),
            session: session.began.session,
            exit_code: session.ended.as_ref().map(|ended| ended.exit_code),
            elapsed_s: run.wall_ns(session) as f64 / 1e9,
            counts: TaskCounts {
                total: figures.tasks.into(),
                ready: count(State::Ready),
                running: count(State::Running),
                completed: count(State::Completed),
                failed: figures.counts.failures().into(),
                skipped: count(State::Skipped),
                cancelled: count(State::Cancelled),
                left_out: figures.left_out.into(),
                ..TaskCounts::default()
            }
            .with_pending(),
            cost: figures.cost,
            budget: figures.budget,
        }
    }

    /// An object with further names of its own.
    pub fn with(&self, own: Value) -> Value {
        let mut all = serde_json::json!(self);
        if let (Some(all), Value::Object(own)) = (all.as_object_mut(), own) {
            all.extend(own);
        }
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_task_is_in_one_state() {
        let counts = TaskCounts { total: 10, ready: 1, running: 2, completed: 3, failed: 1, ..TaskCounts::default() };
        assert_eq!(counts.with_pending().pending, 3);
        // A sample may be older than what has ended.
        assert_eq!(TaskCounts { completed: 9, ..counts }.with_pending().pending, 0);
    }
}
