//! What reports need to know about the job of a run.

use std::fmt;
use std::sync::Arc;

use crate::graph::TaskGraph;
use crate::job::{Group, Job, Task};
use crate::model::{Attempt, TaskId};

/// A job as reports see it: names and descriptions of its tasks. Numbers below
/// [`JobView::task_count`] are tasks. For other numbers the answers are empty and nothing panics,
/// because a journal may belong to another version of the job.
pub trait JobView {
    /// The job's name.
    fn name(&self) -> &str;

    /// Number of tasks.
    fn task_count(&self) -> u32;

    /// Name of a task.
    fn label(&self, task: TaskId) -> Label<'_>;

    /// Name of the class under which its durations are collected.
    fn class(&self, task: TaskId) -> &str;

    /// The table of the job file that defines it, if the job file can be read.
    fn group(&self, task: TaskId) -> Option<&Group>;

    /// Slots that a task takes, over all its MPI ranks or all ranks that execute it together; at
    /// least 1.
    fn slots(&self, task: TaskId) -> u32;

    /// Calls `each` with the ranks and their slots that an attempt takes. An MPI task counts on the
    /// rank that starts it.
    fn each_rank(&self, attempt: &Attempt, each: &mut dyn FnMut(u32, u32)) {
        each(attempt.rank.0, self.slots(attempt.task));
    }

    /// The whole job, if it can be run again.
    fn whole(&self) -> Option<&Job> {
        None
    }

    /// The values of a task along the axes of its matrix, with the names of the axes.
    fn axis_values(&self, _: TaskId) -> Vec<(&str, String)> {
        Vec::new()
    }

    /// The full description of a task, if it can be expanded.
    fn describe(&self, task: TaskId) -> Option<Task>;

    /// The tasks with this name: one for `tile[3]`, the whole array for `tile`; at least one.
    ///
    /// # Errors
    /// That the name is unknown, and what might be meant.
    fn find(&self, name: &str) -> Result<Vec<TaskId>, String>;
}

/// Name of a task: `mosaic`, `tile[3]` in an array, `align[NA3]` in a matrix whose values are
/// names.
#[derive(Clone, Copy)]
pub struct Label<'a> {
    /// Name of the group.
    pub name: &'a str,
    /// Index within an array or matrix.
    pub index: Option<u64>,
    /// The job and the task, if values may name it.
    pub valued: Option<(&'a Job, TaskId)>,
}

impl Label<'_> {
    /// The name by index, `align[3]`, which programs have read in JSON since before values were
    /// shown.
    pub fn indexed(&self) -> String {
        Label { valued: None, ..*self }.to_string()
    }
}

impl fmt::Display for Label<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.valued.and_then(|(job, task)| job.value_name(task)), self.index) {
            (Some(values), _) => write!(f, "{}[{values}]", self.name),
            (None, Some(index)) => write!(f, "{}[{index}]", self.name),
            (None, None) => f.write_str(self.name),
        }
    }
}

/// A job and its graph, as far as they are known.
#[derive(Clone)]
pub struct SessionJob {
    /// The job.
    pub job: Arc<dyn JobView>,
    /// The graph; without it, the critical path and the causes of skipped tasks are unknown.
    pub graph: Option<Arc<TaskGraph>>,
}

/// Replaces a job whose text cannot be read, so that the rest of the journal can be shown.
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
        Label { name: "task", index: Some(u64::from(task.0)), valued: None }
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

    fn find(&self, name: &str) -> Result<Vec<TaskId>, String> {
        let number = name.strip_prefix("task[").and_then(|rest| rest.strip_suffix(']')).and_then(|n| n.parse().ok());
        let found = number.filter(|&n| n < self.tasks).map(|n| vec![TaskId(n)]);
        found.ok_or_else(|| format!("the names of its tasks are unknown; there are task[0] to task[{}]", self.tasks))
    }
}
