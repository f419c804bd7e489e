//! Which tasks of a resumed run stay complete.
//!
//! A task stays complete if it completed in an earlier session, still does the same (its content key has not changed), and nothing
//! that it needs has to run again for a reason of its own. Names and indices say which task is which: a task that moved
//! in the file, or an array that grew, keeps what it had.
//!
//! Ranks report what ended each by itself, so a run that is killed may have written that a task completed but not yet that those did which
//! it needed. They did: [`implied`] finds them, else they would run again, and all that came after them.

use std::collections::HashMap;

use crate::graph::link::{Condition, GroupId};
use crate::graph::{JoinRule, TaskGraph};
use crate::job::Job;
use crate::journal::KeptRun;
use crate::model::{Attempt, Outcome, Rank, TaskId, Time};

/// Tasks that must have completed, though their own ends were never written, because one that needs them has: each as an attempt
/// without a number, which ended when what followed it became ready. `completed` tells when each completed task had become ready.
pub fn implied(graph: &TaskGraph, completed: &dyn Fn(TaskId) -> Option<Time>) -> Vec<Attempt> {
    let tasks = graph.task_count();
    let known: Vec<Option<Time>> = (0..tasks).map(|task| completed(TaskId(task as u32))).collect();
    let mut by = known.clone();
    by.resize(graph.node_count(), None);
    for node in graph.topological().iter().rev() {
        // From a join that asks for a failure nothing follows about any one task.
        let Some(ready) = by[node as usize].filter(|_| graph.join(node) != Some(JoinRule::AnyNotOk)) else { continue };
        for edge in graph.predecessors(node).filter(|edge| edge.on() == Condition::Ok) {
            let before = &mut by[edge.node() as usize];
            *before = Some(before.map_or(ready, |known| known.min(ready)));
        }
    }
    let missing = (0..tasks).filter(|&task| known[task].is_none());
    let attempt = |task: usize, at: Time| Attempt {
        task: TaskId(task as u32),
        attempt: 0,
        outcome: Outcome::OK,
        last: true,
        rank: Rank::ZERO,
        slot: 0,
        ready: at,
        start: at,
        end: at,
    };
    missing.filter_map(|task| Some(attempt(task, by[task]?))).collect()
}

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
    for node in graph.topological().iter() {
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
    let former: HashMap<&str, GroupId> = old.groups.iter().zip(0..).map(|(group, id)| (&*group.name, id)).collect();
    for group in &new.groups {
        let before = former.get(&*group.name).copied();
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graph::link::{Link, LinkShape};

    #[test]
    fn what_a_completed_task_needed_has_completed() {
        // 0 -> 1 -> 2..=4 -> 5 (all of them), 6 needs that 7 failed, 8 needs the end of 7.
        let link = |from, to, shape, on| Link { from, to, shape, on, bytes: 0, span: 0..1 };
        let links = [
            link(0, 1, LinkShape::All, Condition::Ok),
            link(1, 2, LinkShape::All, Condition::Ok),
            link(2, 3, LinkShape::All, Condition::Ok),
            link(5, 4, LinkShape::All, Condition::NotOk),
            link(5, 6, LinkShape::All, Condition::Any),
        ];
        let graph = TaskGraph::build(&[1, 1, 3, 1, 1, 1, 1], &links).unwrap();
        let of = |completed: &[u32]| {
            let ready = |task: TaskId| completed.contains(&task.0).then_some(Time(u64::from(task.0) * 10));
            implied(&graph, &ready)
        };
        let tasks = |attempts: &[Attempt]| attempts.iter().map(|a| a.task.0).collect::<Vec<_>>();
        assert_eq!(tasks(&of(&[0, 1])), [0; 0]);
        assert_eq!(tasks(&of(&[3])), [0, 1]);
        let all = of(&[2, 5]);
        assert_eq!(tasks(&all), [0, 1, 3, 4]);
        // Each ended before whatever followed it could start.
        assert!(all.iter().all(|a| a.end == Time(if a.task.0 < 2 { 20 } else { 50 })), "{all:?}");
        assert_eq!(tasks(&of(&[6, 8])), [0; 0]);
    }
}
