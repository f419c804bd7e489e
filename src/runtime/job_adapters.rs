//! Adapters of the job: it implements the small traits that other parts declare for what they need
//! to know of a task.

use std::time::Duration;

use crate::exec::{Kernels, TaskSource};
use crate::graph::link::GroupId;
use crate::job::{CacheSettings, DataGraph, Group, Job, KernelCheck, Task, WrittenFiles};
use crate::model::{Attempt, TaskId};
use crate::observe::{JobView, Label};
use crate::workload::requirements;

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

    fn prologues(&self) -> Vec<&[String]> {
        match self.parts.as_slice() {
            [] => vec![&self.prologue],
            parts => parts.iter().map(|part| part.prologue.as_slice()).collect(),
        }
    }

    fn job_of(&self, group: GroupId) -> usize {
        self.part_number(group).unwrap_or(0)
    }

    fn output_wait(&self, group: GroupId) -> Duration {
        self.part_of(group).map_or(self.output_wait, |part| part.output_wait)
    }

    fn job_name(&self) -> &str {
        &self.name
    }

    fn task_name(&self, id: TaskId) -> String {
        Job::task_name(self, id)
    }

    fn written_files(&self) -> WrittenFiles<TaskId> {
        WrittenFiles::of(self)
    }

    fn written_places(&self) -> WrittenFiles<Option<TaskId>> {
        WrittenFiles::places_of(self)
    }

    fn cache(&self) -> CacheSettings {
        self.cache.clone()
    }

    fn graphs(&self) -> &[DataGraph] {
        &self.graphs
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
        Label { name: &self.group(task).name, index: self.index_of(task), valued: Some((self, task)) }
    }

    fn class(&self, task: TaskId) -> &str {
        &self.group(task).class
    }

    fn group(&self, task: TaskId) -> Option<&Group> {
        Some(Job::group(self, task))
    }

    fn slots(&self, task: TaskId) -> u32 {
        let group = self.group(task);
        match (group.is_divided, &*self.rank_slots) {
            (true, ranks @ [_, _, ..]) => ranks.iter().map(|&(_, slots)| group.cpus.min(slots)).sum::<u32>().max(1),
            _ => requirements::slots(group),
        }
    }

    fn each_rank(&self, attempt: &Attempt, each: &mut dyn FnMut(u32, u32)) {
        let group = self.group(attempt.task);
        match (group.is_divided, &*self.rank_slots) {
            (true, ranks @ [_, _, ..]) => ranks.iter().for_each(|&(rank, slots)| each(rank, group.cpus.min(slots))),
            _ => each(attempt.rank.0, requirements::slots(group)),
        }
    }

    fn whole(&self) -> Option<&Job> {
        Some(self)
    }

    fn axis_values(&self, task: TaskId) -> Vec<(&str, String)> {
        Job::axis_values(self, task)
    }

    fn describe(&self, task: TaskId) -> Option<Task> {
        Job::task(self, task).ok()
    }

    fn find(&self, name: &str) -> Result<Vec<TaskId>, String> {
        Job::find(self, name).map(|ranges| ranges.into_iter().flatten().map(TaskId).collect())
    }
}
