//! What a report needs to know of the job that a run was about.

use std::fmt;
use std::sync::Arc;

use crate::graph::TaskGraph;
use crate::job::{Group, Job, Task};
use crate::model::TaskId;

/// A job as reports name and describe its tasks. Every number below [`JobView::task_count`] is a task; for others the
/// answers are empty, never a panic, because numbers come from a journal that may belong to another version of the job.
pub trait JobView {
    /// The job's name.
    fn name(&self) -> &str;

    /// How many tasks it has.
    fn task_count(&self) -> u32;

    /// What a task is called.
    fn label(&self, task: TaskId) -> Label<'_>;

    /// Name under which its durations are taken together.
    fn class(&self, task: TaskId) -> &str;

    /// The table of the job file that it comes from, if that can be read.
    fn group(&self, task: TaskId) -> Option<&Group>;

    /// Slots that it takes, of all its MPI ranks together; at least 1.
    fn slots(&self, task: TaskId) -> u32;

    /// The whole job, if it is one that can be run again.
    fn whole(&self) -> Option<&Job> {
        None
    }

    /// All of it, if it can be expanded.
    fn describe(&self, task: TaskId) -> Option<Task>;

    /// The tasks called so: one for `tile[3]`, all of the array for `tile`, none if there is no such name.
    fn find(&self, name: &str) -> Vec<TaskId>;
}

/// What a task is called: `mosaic`, or `tile[3]` in an array.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Label<'a> {
    /// Name of its group.
    pub name: &'a str,
    /// Its index, in an array or matrix.
    pub index: Option<u64>,
}

impl fmt::Display for Label<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.index {
            None => f.write_str(self.name),
            Some(index) => write!(f, "{}[{index}]", self.name),
        }
    }
}

/// A job with its graph, as far as they are known.
#[derive(Clone)]
pub struct SessionJob {
    /// The job.
    pub job: Arc<dyn JobView>,
    /// Its graph; without it there is no critical path, and nobody knows why tasks were skipped.
    pub graph: Option<Arc<TaskGraph>>,
}

/// Stands in for a job whose text can no longer be read, so that the rest of the journal still can.
pub(super) struct Nameless {
    pub tasks: u32,
}

impl JobView for Nameless {
    fn name(&self) -> &str {
        "unknown job"
    }

    fn task_count(&self) -> u32 {
        self.tasks
    }

    fn label(&self, task: TaskId) -> Label<'_> {
        Label { name: "task", index: Some(u64::from(task.0)) }
    }

    fn class(&self, _: TaskId) -> &str {
        "task"
    }

    fn group(&self, _: TaskId) -> Option<&Group> {
        None
    }

    fn slots(&self, _: TaskId) -> u32 {
        1
    }

    fn describe(&self, _: TaskId) -> Option<Task> {
        None
    }

    fn find(&self, name: &str) -> Vec<TaskId> {
        let number = name.strip_prefix("task[").and_then(|rest| rest.strip_suffix(']')).and_then(|n| n.parse().ok());
        number.filter(|&n| n < self.tasks).map(TaskId).into_iter().collect()
    }
}
