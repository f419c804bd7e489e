//! Which tasks of a resumed run need other tasks than when they ran.
//!
//! For each node of both graphs the tasks that it needs, directly or through joins, are summed up
//! in one number, so that a million tasks are compared in one pass over the edges. Only where these
//! numbers differ are the sets themselves compared, to name a task.

use rustc_hash::{FxHashMap, FxHashSet};

use crate::graph::TaskGraph;
use crate::job::Job;
use crate::model::TaskId;

/// Maximum number of nodes that the comparison of two sets visits.
const MAX_COMPARED: usize = 10_000;
/// Maximum number of nodes that all comparisons of sets visit together.
const MAX_VISITED: usize = 10_000_000;

/// Compares what the tasks of a job need with what they needed in an older one.
pub(super) struct ChangedNeeds<'a> {
    old: (&'a Job, &'a TaskGraph),
    new: (&'a Job, &'a TaskGraph),
    /// For each task of the new job its number in the old one.
    was: &'a [Option<TaskId>],
    /// For each node of the old and of the new graph the sum over what it needs.
    sums: [Vec<u64>; 2],
    /// The results for pairs of sums.
    known: FxHashMap<(u64, u64), Option<Box<str>>>,
    visited: usize,
}

/// What identifies a task of the new job in both jobs: its number in the old one.
fn identity(was: &[Option<TaskId>], task: u32) -> u64 {
    was[task as usize].map_or_else(|| 1 << 32 | u64::from(task), |was| u64::from(was.0))
}

/// Spreads the bits of a number, so that sums of such numbers differ (SplitMix64).
fn mix(number: u64) -> u64 {
    let mut mixed = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    mixed = (mixed ^ mixed >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ mixed >> 31
}

/// For each node the sum over the tasks that it needs.
fn sums(graph: &TaskGraph, identity: impl Fn(u32) -> u64) -> Vec<u64> {
    let mut sums = vec![0u64; graph.node_count()];
    for node in graph.topological().iter() {
        let of = |before: u32| match graph.join(before) {
            Some(_) => sums[before as usize],
            None => mix(identity(before)),
        };
        let sum = graph.predecessors(node).fold(0u64, |sum, edge| sum.wrapping_add(of(edge.node())));
        sums[node as usize] = sum;
    }
    sums
}

impl<'a> ChangedNeeds<'a> {
    pub(super) fn of(
        (old, old_graph): (&'a Job, &'a TaskGraph),
        (new, graph): (&'a Job, &'a TaskGraph),
        was: &'a [Option<TaskId>],
    ) -> ChangedNeeds<'a> {
        let sums = [sums(old_graph, u64::from), sums(graph, |task| identity(was, task))];
        ChangedNeeds { old: (old, old_graph), new: (new, graph), was, sums, known: FxHashMap::default(), visited: 0 }
    }

    /// How what a task needs differs from what it needed as task `was` of the old job, as the end
    /// of a sentence that begins with the task. `None` if it needs the same tasks.
    pub(super) fn of_task(&mut self, task: TaskId, was: TaskId) -> Option<Box<str>> {
        let (then, now) = (self.sums[0][was.index()], self.sums[1][task.index()]);
        if then == now {
            return None;
        }
        if let Some(known) = self.known.get(&(then, now)) {
            return known.clone();
        }
        let found = self.compare(task, was);
        self.known.insert((then, now), found.clone());
        found
    }

    fn compare(&mut self, task: TaskId, was: TaskId) -> Option<Box<str>> {
        let other = || Some("needs other tasks than when it ran".into());
        let Some(then) = self.needed(self.old.1, was) else { return other() };
        let Some(now) = self.needed(self.new.1, task) else { return other() };
        let known: FxHashSet<u64> = then.iter().map(|task| u64::from(*task)).collect();
        let added: Vec<u32> = now.iter().copied().filter(|task| !known.contains(&identity(self.was, *task))).collect();
        let known: FxHashSet<u64> = now.iter().map(|task| identity(self.was, *task)).collect();
        let removed: Vec<u32> = then.iter().copied().filter(|task| !known.contains(&u64::from(*task))).collect();
        let more = |count: usize| if count > 1 { format!(" and {} more", count - 1) } else { String::new() };
        match (added.as_slice(), removed.as_slice()) {
            ([], []) => None,
            ([], [first, ..]) => {
                let name = self.old.0.task_name(TaskId(*first));
                Some(format!("no longer needs {name}{}, as it did when it ran", more(removed.len())).into())
            }
            ([first, ..], _) => {
                let name = self.new.0.task_name(TaskId(*first));
                Some(format!("needs {name}{}, which it did not when it ran", more(added.len())).into())
            }
        }
    }

    /// The tasks that a task needs, ascending; `None` if there are too many to compare.
    fn needed(&mut self, graph: &TaskGraph, task: TaskId) -> Option<Vec<u32>> {
        let (mut open, mut seen, mut found) = (vec![task.0], FxHashSet::default(), Vec::new());
        while let Some(node) = open.pop() {
            for edge in graph.predecessors(node) {
                let before = edge.node();
                self.visited += 1;
                if seen.len() >= MAX_COMPARED || self.visited >= MAX_VISITED {
                    return None;
                }
                if seen.insert(before) {
                    let into = if graph.join(before).is_some() { &mut open } else { &mut found };
                    into.push(before);
                }
            }
        }
        found.sort_unstable();
        Some(found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::job::{Loaded, parse};

    fn loaded(text: &str) -> (Loaded, TaskGraph) {
        let loaded = parse(text, "j", std::path::Path::new("/"), &crate::exec::Kernels::builtin()).unwrap();
        let graph = crate::workload::graph_of(&loaded).unwrap();
        (loaded, graph)
    }

    #[test]
    fn sets_of_needs_are_compared_not_how_they_are_written() {
        let job = |array: &str, needs: &str| {
            loaded(&format!(
                "[[task]]\nname = 'a'\narray = '{array}'\ncommand = 'x'\n[[task]]\nname = 'b'\narray = '0-1'\ncommand = 'x'\n\
                 needs = {needs}\n"
            ))
        };
        let of = |(old, old_graph): &(Loaded, TaskGraph), (new, graph): &(Loaded, TaskGraph)| {
            let was: Vec<Option<TaskId>> =
                (0..2).flat_map(|group| new.job.former_tasks(group, &old.job, group)).collect();
            let mut changed = ChangedNeeds::of((&old.job, old_graph), (&new.job, graph), &was);
            let b = |job: &Job| job.groups[1].first;
            changed.of_task(b(&new.job), b(&old.job)).map(String::from).unwrap_or_default()
        };
        let three = job("1-3", "'a'");
        assert_eq!(of(&three, &three), "");
        assert_eq!(of(&three, &job("1-3", "['a[3]', 'a[1-2]']")), "");
        assert_eq!(of(&three, &job("1-3", "['a', 'a[2]']")), "", "what is needed twice is needed");
        assert_eq!(of(&three, &job("1-2", "'a'")), "no longer needs a[3], as it did when it ran");
        assert_eq!(of(&three, &job("1-5", "'a'")), "needs a[4] and 1 more, which it did not when it ran");
        assert_eq!(of(&job("1-3", "[]"), &three), "needs a[1] and 2 more, which it did not when it ran");
        assert_eq!(of(&job("1-20000", "'a'"), &three), "needs other tasks than when it ran");
    }
}
