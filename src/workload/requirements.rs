//! The job as each part of the program wants to see it. The parts declare small traits of their own; this file fulfils them.

use std::time::Duration;

use crate::exec::{Kernels, TaskSource};
use crate::graph::link::GroupId;
use crate::job::{DataGraph, Group, Job, KernelCheck, Retry, Task};
use crate::model::TaskId;
use crate::observe::{JobView, Label};
use crate::pool::Needs;
use crate::schedule::gang::Shape;
use crate::schedule::worker::Facts;

impl KernelCheck for Kernels {
    fn names(&self) -> Vec<&str> {
        Kernels::names(self).collect()
    }

    fn check(&self, name: &str, args: &toml::Table) -> Result<(), String> {
        self.prepare(name, args).map(|_| ()).map_err(|error| error.to_string())
    }
}

impl TaskSource for Job {
    fn groups(&self) -> &[Group] {
        &self.groups
    }

    fn task(&self, id: TaskId) -> Result<Task, String> {
        Job::task(self, id).map_err(|error| error.to_string())
    }

    fn index(&self, id: TaskId) -> Option<u64> {
        self.index_of(id)
    }

    fn constant(&self, group: GroupId) -> bool {
        self.is_constant(group)
    }

    fn env(&self) -> &[(String, String)] {
        &self.env
    }

    fn prologue(&self) -> &[String] {
        &self.prologue
    }

    fn output_wait(&self) -> Duration {
        self.output_wait
    }

    fn graphs(&self) -> &[DataGraph] {
        &self.graphs
    }
}

impl Facts for Job {
    fn retry(&self, task: TaskId) -> Retry {
        self.group(task).retry
    }

    fn movable(&self, task: TaskId) -> bool {
        !is_special(self.group(task))
    }

    fn needs_gang(&self, task: TaskId, slots: u32) -> bool {
        self.group(task).spans_ranks(slots)
    }
}

impl JobView for Job {
    fn name(&self) -> &str {
        &self.name
    }

    fn task_count(&self) -> u32 {
        Job::task_count(self) as u32
    }

    fn label(&self, task: TaskId) -> Label<'_> {
        Label { name: &self.group(task).name, index: self.index_of(task) }
    }

    fn class(&self, task: TaskId) -> &str {
        &self.group(task).class
    }

    fn group(&self, task: TaskId) -> Option<&Group> {
        Some(Job::group(self, task))
    }

    fn slots(&self, task: TaskId) -> u32 {
        slots(self.group(task))
    }

    fn whole(&self) -> Option<&Job> {
        Some(self)
    }

    fn describe(&self, task: TaskId) -> Option<Task> {
        Job::task(self, task).ok()
    }

    fn find(&self, name: &str) -> Vec<TaskId> {
        Job::find(self, name).map_or_else(Vec::new, |range| range.map(TaskId).collect())
    }
}

/// True if the group's tasks ask for more than one slot of any rank.
pub(crate) fn is_special(group: &Group) -> bool {
    group.cpus > 1 || group.memory.is_some() || group.gpus > 0 || group.limit.is_some() || group.mpi.is_some()
}

/// Slots that a task of the group takes, of all its MPI ranks together; at least 1.
pub(crate) fn slots(group: &Group) -> u32 {
    group.cpus.saturating_mul(group.mpi.map_or(1, |mpi| mpi.ranks)).max(1)
}

/// What an MPI task asks for.
pub(crate) fn shape(group: &Group) -> Shape {
    let (ranks, per_node) = group.mpi.map_or((1, None), |mpi| (mpi.ranks, mpi.per_node));
    Shape { ranks, cpus: group.cpus, per_node }
}

/// What a task needs of a rank's pool, if more than one slot. `limits` holds the rank's share of
/// each group's limit, by group.
pub(crate) fn needs(job: &Job, task: TaskId, limits: &[(u32, u32)]) -> Option<Needs> {
    let id = job.group_of(task).0;
    let group = &job.groups[id as usize];
    let share = || limits.binary_search_by_key(&id, |limit| limit.0).map_or(0, |at| limits[at].1);
    is_special(group).then(|| Needs {
        cpus: group.cpus.saturating_mul(group.mpi.map_or(1, |mpi| mpi.ranks)),
        memory: group.memory.unwrap_or(0),
        gpus: group.gpus,
        limit: group.limit.map(|_| (id, share())),
    })
}
