//! The resources that the tasks of a job need of a rank.

use crate::job::{Group, Job, Retry};
use crate::model::{GangHost, Labels, RankRoom, Shortfalls, TaskId, share_of};
use crate::schedule::fair::FamilyId;
use crate::schedule::gang::Shape;
use crate::schedule::pools::SetId;
use crate::schedule::resources::Needs;
use crate::schedule::worker::Facts;

impl Facts for Job {
    fn retry(&self, task: TaskId) -> Retry {
        *self.group(task).retry
    }

    fn movable(&self, task: TaskId) -> bool {
        !is_special(self.group(task)) && !super::fair::is_fair(self)
    }

    fn needs_gang(&self, task: TaskId, room: RankRoom, ranks: u32) -> bool {
        self.group(task).needs_gang(room, ranks)
    }
}

/// True if the group's tasks need more than one slot of any rank.
pub(crate) fn is_special(group: &Group) -> bool {
    let asks = group.memory.is_some() || group.gpus > 0 || !group.labels.is_empty();
    let pooled = group.limit.is_some() || !group.pools.is_empty();
    group.cpus > 1 || asks || pooled || group.mpi.is_some() || group.is_divided
}

/// What an operation asks for that all ranks together do not provide, if anything.
pub(crate) fn unsuited_to_division(group: &Group) -> Option<&'static str> {
    let asked = [("memory", group.memory.is_some()), ("gpus", group.gpus > 0), ("labels", !group.labels.is_empty())];
    asked.into_iter().find(|asked| asked.1).map(|asked| asked.0)
}

/// Number of slots of a task of the group, over all its MPI ranks; at least 1.
pub(crate) fn slots(group: &Group) -> u32 {
    group.cpus.saturating_mul(group.mpi.map_or(1, |mpi| mpi.ranks)).max(1)
}

/// The shape that a task on several ranks requests.
pub(crate) fn shape(group: &Group) -> Shape {
    if group.is_divided {
        return Shape::Everywhere { cpus: group.cpus };
    }
    let (ranks, per_node) = group.mpi.map_or((1, None), |mpi| (mpi.ranks, mpi.per_node));
    // What `auto` asks for is at most what a rank has.
    let memory = group.memory.filter(|_| !group.retry.auto_memory).unwrap_or(0);
    Shape::Mpi { ranks, cpus: group.cpus, memory, gpus: group.gpus, per_node, labels: Labels::clone(&group.labels) }
}

/// What a rank with `most` bytes of memory sets aside for its part of a task on several ranks,
/// after these shortfalls.
pub(crate) fn host_needs(group: &Group, short: Shortfalls, host: &GangHost, most: u64) -> Needs {
    let all = group.mpi.map_or(1, |mpi| mpi.ranks);
    let share = |amount: u64| share_of(amount, host.ranks, all);
    let memory = group.limits(short, u64::MAX).memory.map_or(0, share).min(most);
    Needs { cpus: host.slots, memory, gpus: share(group.gpus.into()) as u32, ..Needs::SLOT }
}

/// The needs of a task after these shortfalls, on a rank with `most` bytes of memory, if it needs
/// more than one slot. `pools`: what it needs of pools; `family`: its family, if families have
/// shares.
pub(crate) fn needs(
    job: &Job,
    (task, short): (TaskId, Shortfalls),
    most: u64,
    pools: SetId,
    family: FamilyId,
) -> Option<Needs> {
    let group = job.group(task);
    (is_special(group) || family > 0).then(|| Needs {
        cpus: group.cpus.saturating_mul(group.mpi.map_or(1, |mpi| mpi.ranks)),
        memory: group.limits(short, most).memory.unwrap_or(0),
        gpus: group.gpus,
        pools,
        family,
    })
}
