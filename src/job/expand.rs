//! Expands groups to single tasks, one at a time, so that a large array is never expanded as a
//! whole.

use std::ops::Range;
use std::time::Duration;

use rustc_hash::FxHashMap;

use super::body::{Body, WorkTemplate};
use super::diagnostic::suggest;
use super::template::Element;
use super::units::{parse_duration, shorten};
use super::{Group, Job, Task};
use crate::graph::link::GroupId;
use crate::model::TaskId;

/// Error: a task cannot be expanded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SubstError {
    /// The job has no task of this number (larger numbers are joins of the graph).
    #[error("the job has no task number {0}")]
    NoSuchTask(u32),
}

impl Job {
    /// The group of a task.
    ///
    /// # Panics
    /// If the job has no groups; a validated job has at least one.
    pub fn group(&self, task: TaskId) -> &Group {
        &self.groups[self.group_of(task).0 as usize]
    }

    /// True if a task may have inputs: it declares some, reads a file on its standard input, or may
    /// run in an image.
    pub fn declares_inputs(&self, task: TaskId) -> bool {
        let body = &self.bodies[self.group_of(task).0 as usize];
        !body.inputs.is_empty() || body.extras.stdin.is_some() || body.extras.container.is_some()
    }

    /// True if a task may read files that it does not declare: it declares no inputs, and is no
    /// operation on a data graph.
    pub fn may_read_undeclared(&self, task: TaskId) -> bool {
        let is_operation = self.bodies[self.group_of(task).0 as usize].graph().is_some();
        !is_operation && !self.declares_inputs(task)
    }

    /// True if a task declares outputs.
    pub fn declares_outputs(&self, task: TaskId) -> bool {
        !self.bodies[self.group_of(task).0 as usize].outputs.is_empty()
    }

    /// Numbers the classes from 0 in the order of their first groups. Returns the class of each
    /// group, and the first group of each class.
    pub fn classes(&self) -> (Vec<u32>, Vec<GroupId>) {
        let mut numbers: FxHashMap<&str, u32> = FxHashMap::default();
        let mut firsts = Vec::new();
        let mut classes = Vec::with_capacity(self.groups.len());
        for (id, group) in (0..).zip(&self.groups) {
            classes.push(*numbers.entry(&group.class).or_insert_with(|| {
                firsts.push(id);
                firsts.len() as u32 - 1
            }));
        }
        (classes, firsts)
    }

    /// Number of tasks.
    pub fn task_count(&self) -> usize {
        self.groups.last().map_or(0, |group| group.first.index() + group.count as usize)
    }

    /// The group of a task, and its number within the group (from 0).
    ///
    /// For a number that is not a task of this job: the last group, and a number beyond its count.
    pub fn group_of(&self, task: TaskId) -> (GroupId, u32) {
        // If every group is a single task, group and task numbers are equal.
        let guess = task.index().min(self.groups.len().saturating_sub(1));
        let at = match self.groups.get(guess) {
            Some(group) if group.first == task => guess,
            _ => self.groups.partition_point(|group| group.first <= task).saturating_sub(1),
        };
        let first = self.groups.get(at).map_or(0, |group| group.first.0);
        (at as GroupId, task.0 - first.min(task.0))
    }

    /// Expands one task completely, except for the `%`-patterns of its files (see
    /// [`FileNames`](super::FileNames)).
    ///
    /// # Errors
    /// If the job has no task of this number.
    pub fn task(&self, task: TaskId) -> Result<Task, SubstError> {
        let (_, body, number) = self.element(task).ok_or(SubstError::NoSuchTask(task.0))?;
        let id = self.group_of(task).0;
        let (dir, shell) = match self.part_of(id) {
            Some(part) => (&part.dir, &part.shell),
            None => (&self.dir, &self.shell),
        };
        let task = body.task(task, self.own_name(id), number, dir);
        Ok(Task { shell: task.shell.or_else(|| shell.clone()), ..task })
    }

    fn element(&self, task: TaskId) -> Option<(&Group, &Body, u32)> {
        let (id, number) = self.group_of(task);
        let group = self.groups.get(id as usize).filter(|group| number < group.count)?;
        Some((group, self.bodies.get(id as usize)?, number))
    }

    /// Name of a task: `tile[3]` in an array, `align[NA3]` in a matrix whose values are names,
    /// `merge` for a single task. Empty for an invalid number.
    pub fn task_name(&self, task: TaskId) -> String {
        let Some((group, body, number)) = self.element(task) else { return String::new() };
        body.space().element_name(&group.name, number)
    }

    /// What stands in the brackets of its name if it is a task of a matrix whose values are names.
    pub fn value_name(&self, task: TaskId) -> Option<String> {
        let (_, body, number) = self.element(task)?;
        body.space().value_name(number)
    }

    /// The value of `{index}` for a task of an array or matrix.
    pub fn index_of(&self, task: TaskId) -> Option<u64> {
        let (_, body, number) = self.element(task)?;
        body.space().index(number)
    }

    /// Numbers of the tasks with a name, in ascending order: all elements for `tile`, one for
    /// `tile[3]`, several for `tile[0-9]`; of a matrix also by values: `align[NA3]`,
    /// `align[sample=NA3]`. Takes time in proportion to the number of groups.
    ///
    /// # Errors
    /// That there is no such task, and which one might be meant.
    pub fn find(&self, name: &str) -> Result<Vec<Range<u32>>, String> {
        let (plain, bracket) = match name.strip_suffix(']').and_then(|name| name.split_once('[')) {
            Some((plain, bracket)) => (plain, Some(bracket)),
            None => (name, None),
        };
        let Some(at) = self.groups.iter().position(|group| *group.name == *plain) else {
            if bracket.is_none() && name.contains('[') {
                return Err(format!("the bracket in `{}` is not closed", shorten(name)));
            }
            let names: Vec<&str> = self.groups.iter().map(|group| &*group.name).collect();
            return Err(format!("the job has no task `{}`; {}", shorten(name), suggest(plain, &names, "tasks")));
        };
        let (group, space) = (&self.groups[at], self.bodies[at].space());
        let first = group.first.0;
        let Some(bracket) = bracket else { return Ok(std::iter::once(first..first + group.count).collect()) };
        let elements = space.select(bracket).map_err(|reason| format!("`{plain}` {reason}"))?;
        let mut ranges: Vec<Range<u32>> = Vec::new();
        for task in elements.into_iter().map(|element| first + element) {
            match ranges.last_mut() {
                Some(range) if range.end == task => range.end += 1,
                _ => ranges.push(task..task + 1),
            }
        }
        Ok(ranges)
    }

    /// For each task of a group the task of another job's group that has the same index, or in a
    /// matrix the same values, if there is one.
    pub fn former_tasks(&self, group: GroupId, old: &Job, former: GroupId) -> Vec<Option<TaskId>> {
        let (own, old_body) = (self.bodies[group as usize].space(), old.bodies[former as usize].space());
        if own.is_indexed() != old_body.is_indexed() {
            return vec![None; self.groups[group as usize].count as usize];
        }
        let first = old.groups[former as usize].first.0;
        own.former(old_body).into_iter().map(|element| element.map(|element| TaskId(first + element))).collect()
    }

    /// The values of a task along the axes of its matrix, with the names of the axes.
    pub fn axis_values(&self, task: TaskId) -> Vec<(&str, String)> {
        let Some((_, body, number)) = self.element(task) else { return Vec::new() };
        let names = body.space().axis_names().into_iter().enumerate();
        names.map(|(axis, name)| (name, body.space().value(axis, number).to_string())).collect()
    }

    /// Estimated duration of a task, if the job file gives one.
    pub fn estimate(&self, task: TaskId) -> Option<Duration> {
        let (group, body, number) = self.element(task)?;
        match &body.extras.estimate {
            None => group.estimate,
            Some(text) => {
                let name = self.own_name(self.group_of(task).0);
                parse_duration(&text.fill(Element { name, space: body.space(), number })).ok()
            }
        }
    }

    /// True if all tasks of a group have the same [estimate](Job::estimate).
    pub fn has_one_estimate(&self, group: GroupId) -> bool {
        self.bodies.get(group as usize).is_none_or(|body| body.extras.estimate.is_none())
    }

    /// True if the group's tasks are kernels, not commands.
    pub fn is_kernel(&self, group: GroupId) -> bool {
        self.bodies.get(group as usize).is_some_and(|body| matches!(body.work, WorkTemplate::Kernel { .. }))
    }

    /// True if the group's tasks run in directories of their own.
    pub(crate) fn is_staged(&self, group: usize) -> bool {
        self.bodies.get(group).is_some_and(|body| body.extras.is_staged)
    }

    /// True if tasks run in directories of their own that files are brought to.
    pub(crate) fn stages_inputs(&self) -> bool {
        self.bodies.iter().any(|body| body.extras.is_staged && !body.inputs.is_empty())
    }

    /// True if tasks read, on the disk of their node, what others have written there.
    pub(crate) fn passes_files_between_tasks(&self) -> bool {
        let any = |has: &dyn Fn(&Body) -> bool| self.bodies.iter().any(|body| body.extras.is_staged && has(body));
        any(&|body| !body.outputs.is_empty()) && any(&|body| !body.inputs.is_empty())
    }

    /// True if any task writes files that are not kept.
    pub(crate) fn has_any_temporaries(&self) -> bool {
        (0..self.groups.len()).any(|group| self.has_temporaries(group))
    }

    /// True if the group's tasks write files that are not kept.
    pub(crate) fn has_temporaries(&self, group: usize) -> bool {
        self.bodies.get(group).is_some_and(|body| body.outputs.iter().any(|file| !file.keep))
    }

    /// True if all tasks of a group have the same work, so that it needs to be prepared only once.
    pub fn is_constant(&self, group: GroupId) -> bool {
        self.bodies.get(group as usize).is_some_and(|body| body.work.is_constant())
    }
}
