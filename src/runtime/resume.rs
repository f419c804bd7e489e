//! Which tasks of a resumed run stay complete.
//!
//! A task stays complete if it completed in an earlier session, still does the same (its content key has not changed), and nothing
//! that it needs has to run again for a reason of its own. Names and indices say which task is which: a task that moved
//! in the file, or an array that grew, keeps what it had.

use std::collections::HashMap;

use crate::graph::link::{Condition, GroupId};
use crate::graph::{JoinRule, TaskGraph};
use crate::job::Job;
use crate::journal::KeptRun;
use crate::model::TaskId;

/// The tasks of `new` that stay complete, with their numbers in `old`. `completed` says which tasks of `old` are complete.
pub fn kept(
    old: &Job,
    completed: &dyn Fn(TaskId) -> bool,
    new: &Job,
    graph: &TaskGraph,
    same_text: bool,
) -> Vec<KeptRun> {
    let was = former_numbers(old, new);
    let same = |task: TaskId, was: TaskId| {
        same_text || matches!((new.content_key(task), old.content_key(was)), (Ok(now), Ok(then)) if now == then)
    };
    let nodes = graph.node_count();
    // `kept`: ended well and stays so. `stale`: had completed, but must run again.
    let (mut kept, mut stale) = (vec![false; nodes], vec![false; nodes]);
    for node in graph.topological() {
        let at = node as usize;
        let fresh = !graph.predecessors(node).any(|e| stale[e.node() as usize]);
        let needs = graph.predecessors(node).all(|e| e.on() != Condition::Ok || kept[e.node() as usize]);
        match graph.join(node) {
            Some(rule) => {
                kept[at] = fresh && (needs || rule == JoinRule::AnyNotOk);
                stale[at] = !fresh;
            }
            None => {
                let done = was[at].filter(|&before| completed(before));
                kept[at] = fresh && needs && done.is_some_and(|before| same(TaskId(node), before));
                stale[at] = done.is_some() && !kept[at];
            }
        }
    }
    runs(&kept[..graph.task_count()], &was)
}

/// For each task of the new job its number in the old one, if that had it.
fn former_numbers(old: &Job, new: &Job) -> Vec<Option<TaskId>> {
    let mut was = Vec::with_capacity(new.task_count());
    let former: HashMap<&str, GroupId> =
        old.groups.iter().zip(0..).map(|(group, id)| (group.name.as_str(), id)).collect();
    for group in &new.groups {
        let before = former.get(group.name.as_str()).copied();
        let before = before.filter(|&id| old.groups[id as usize].indexed == group.indexed);
        for element in 0..group.count {
            let task = TaskId(group.first.0 + element);
            was.push(before.and_then(|id| match new.index_of(task) {
                None => Some(old.groups[id as usize].first),
                Some(index) => old.with_index(id, index),
            }));
        }
    }
    was
}

fn runs(kept: &[bool], was: &[Option<TaskId>]) -> Vec<KeptRun> {
    let mut runs: Vec<KeptRun> = Vec::new();
    for (task, was) in was.iter().enumerate().filter(|(task, _)| kept[*task]) {
        let (first, Some(was)) = (TaskId(task as u32), *was) else { continue };
        match runs.last_mut() {
            Some(run) if run.first.0 + run.count == first.0 && run.was.0 + run.count == was.0 => run.count += 1,
            _ => runs.push(KeptRun { first, was, count: 1 }),
        }
    }
    runs
}
