//! The resources that the tasks of a job need of a rank.

use crate::job::{Group, Job, Retry};
use crate::model::TaskId;
use crate::schedule::gang::Shape;
use crate::schedule::resources::{Limit, Needs};
use crate::schedule::worker::Facts;

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

/// True if the group's tasks need more than one slot of a rank.
pub(crate) fn is_special(group: &Group) -> bool {
    group.cpus > 1 || group.memory.is_some() || group.gpus > 0 || group.limit.is_some() || group.mpi.is_some()
}

/// Number of slots of a task of the group, over all its MPI ranks; at least 1.
pub(crate) fn slots(group: &Group) -> u32 {
    group.cpus.saturating_mul(group.mpi.map_or(1, |mpi| mpi.ranks)).max(1)
}

/// The shape that an MPI task requests.
pub(crate) fn shape(group: &Group) -> Shape {
    let (ranks, per_node) = group.mpi.map_or((1, None), |mpi| (mpi.ranks, mpi.per_node));
    Shape { ranks, cpus: group.cpus, per_node }
}

/// The needs of a task, if it needs more than one slot. `limits` holds the rank's share of each
/// group's limit, by group.
pub(crate) fn needs(job: &Job, task: TaskId, limits: &[(u32, u32)]) -> Option<Needs> {
    let id = job.group_of(task).0;
    let group = &job.groups[id as usize];
    let share = || limits.binary_search_by_key(&id, |limit| limit.0).map_or(0, |at| limits[at].1);
    is_special(group).then(|| Needs {
        cpus: group.cpus.saturating_mul(group.mpi.map_or(1, |mpi| mpi.ranks)),
        memory: group.memory.unwrap_or(0),
        gpus: group.gpus,
        limit: group.limit.map(|_| Limit { key: id, most: share() }),
    })
}
