//! Which priorities make later stages of a job start before earlier ones.
//!
//! Of equal priority, tasks with much work behind them start first. So all tasks of a wide first
//! stage start before the next stage, and if that can use only some of the slots (the limit of an
//! array, memory), the others idle at the end. With a higher priority it runs beside the first.

use std::collections::BTreeSet;

use crate::graph::TaskGraph;
use crate::job::Job;
use crate::model::TaskId;

/// Priorities to set: numbers of groups, with their new priorities.
pub type Priorities = Vec<(usize, i32)>;

/// Number of groups for each of which it is tried whether it alone is enough.
const MAX_SINGLE: usize = 3;

/// One group is enough if it gains this share of what all stages gain.
const MIN_SHARE: f64 = 0.9;

/// The fewest priorities that make later stages start first, and what they save. `work` is the work
/// of a task, `saving` simulates priorities. `None` if nothing is saved.
pub fn later_first(
    (job, graph): (&Job, &TaskGraph),
    work: &dyn Fn(TaskId) -> u64,
    saving: &dyn Fn(&Priorities) -> f64,
) -> Option<(Priorities, f64)> {
    let levels = graph.levels();
    let tasks = |group: usize| (job.groups[group].first.0..).take(job.groups[group].count as usize).map(TaskId);
    let stage = |group| tasks(group).map(|task| levels[task.index()]).max().unwrap_or(0);
    let stages: Vec<u32> = (0..job.groups.len()).map(stage).collect();
    let distinct: BTreeSet<u32> = stages.iter().copied().collect();
    let highest = job.groups.iter().map(|group| group.priority).max().unwrap_or(0);
    let later = |group: &usize| Some(&stages[*group]) != distinct.first();
    let place = |group: usize| distinct.range(..stages[group]).count() as i32;
    let all: Priorities = (0..stages.len()).filter(later).map(|g| (g, highest.saturating_add(place(g)))).collect();
    let gained = if all.is_empty() { 0.0 } else { saving(&all) };
    if gained <= 0.0 {
        return None;
    }
    let mut by_work: Vec<(u64, usize)> =
        all.iter().map(|&(group, _)| (tasks(group).map(work).fold(0, u64::saturating_add), group)).collect();
    by_work.sort_unstable_by(|a, b| b.cmp(a));
    let singles = by_work.iter().take(MAX_SINGLE).map(|&(_, group)| {
        let single = vec![(group, highest.saturating_add(1))];
        let saved = saving(&single);
        (single, saved)
    });
    let best = singles.max_by(|a, b| a.1.total_cmp(&b.1));
    best.filter(|(_, saved)| *saved >= MIN_SHARE * gained).or(Some((all, gained)))
}

/// Sets priorities.
pub fn set(job: &mut Job, priorities: &Priorities) {
    for &(group, priority) in priorities {
        if let Some(group) = job.groups.get_mut(group) {
            group.priority = priority;
        }
    }
}
