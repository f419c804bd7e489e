//! Estimated durations of tasks.

use rustc_hash::FxHashMap;

use crate::graph::link::GroupId;
use crate::job::Job;
use crate::model::TaskId;

/// Estimated duration of a task without an estimate in the job file: one second, so that it counts
/// as work.
const UNKNOWN_NS: u64 = 1_000_000_000;

/// Estimated duration of a task in nanoseconds, at least 1; one second if the job gives none.
pub fn estimate_ns(job: &Job, task: TaskId) -> u64 {
    job.estimate(task).map_or(UNKNOWN_NS, |d| (d.as_nanos() as u64).max(1))
}

/// Marks a group in `shared` whose tasks have individual estimates.
const INDIVIDUAL: u64 = 0;

/// The [estimates](estimate_ns) of all tasks of a job. Tasks of most groups have the same one,
/// which is stored once.
#[derive(Debug)]
pub struct TaskEstimates {
    /// Nanoseconds per task of each group, or [`INDIVIDUAL`].
    shared: Vec<u64>,
    /// Nanoseconds for each task of the other groups.
    individual: FxHashMap<GroupId, Box<[u64]>>,
}

impl TaskEstimates {
    /// Derives the estimates from the job.
    pub fn of(job: &Job) -> TaskEstimates {
        let mut individual = FxHashMap::default();
        let shared = (0..).zip(&job.groups).map(|(id, group)| {
            if job.has_one_estimate(id) {
                return estimate_ns(job, group.first);
            }
            let tasks = group.first.0..group.first.0 + group.count;
            individual.insert(id, tasks.map(|task| estimate_ns(job, TaskId(task))).collect());
            INDIVIDUAL
        });
        TaskEstimates { shared: shared.collect(), individual }
    }

    /// The estimate of a task in nanoseconds. The arguments are its group and its number within it,
    /// as [`Job::group_of`] returns them.
    #[inline]
    pub fn ns(&self, (group, number): (GroupId, u32)) -> u64 {
        match self.shared.get(group as usize) {
            Some(&shared) if shared != INDIVIDUAL => shared,
            _ => self.individual_ns(group, number),
        }
    }

    fn individual_ns(&self, group: GroupId, number: u32) -> u64 {
        let known = self.individual.get(&group).and_then(|tasks| tasks.get(number as usize));
        known.copied().unwrap_or(UNKNOWN_NS)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exec::Kernels;

    #[test]
    fn groups_with_one_estimate_and_with_many_are_looked_up_alike() {
        let text = "[[task]]\nname = \"same\"\narray = \"0-2\"\nestimate = \"3s\"\nkernel = \"noop\"\n\
                    [[task]]\nname = \"none\"\narray = \"0-1\"\nkernel = \"noop\"\n\
                    [[task]]\nname = \"own\"\narray = \"1-3\"\nestimate = \"{index}s\"\nkernel = \"noop\"\n";
        let job = crate::job::parse(text, "t.toml", std::path::Path::new("/"), &Kernels::builtin()).unwrap().job;
        let estimates = TaskEstimates::of(&job);
        let seconds = |task| estimates.ns(job.group_of(TaskId(task))) / 1_000_000_000;
        assert_eq!((0..8).map(seconds).collect::<Vec<_>>(), [3, 3, 3, 1, 1, 1, 2, 3]);
        let same = |task| estimates.ns(job.group_of(TaskId(task))) == estimate_ns(&job, TaskId(task));
        assert!((0..9).all(same), "a number beyond the job is not known either");
    }
}
