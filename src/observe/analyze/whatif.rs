//! Simulates a run again with one change, to find how long it would have taken.
//!
//! The simulator runs the coordinator and the workers of a real run in virtual time (see
//! `sim::rerun`), including homes, hand-over, limits and gangs. Effects that it does not model are
//! the same with and without the change, so only the *ratio* of two simulated makespans is used.

use std::sync::Arc;

use crate::graph::TaskGraph;
use crate::job::Job;
use crate::model::{Outcome, TaskId};
use crate::observe::steps::Steps;
use crate::observe::timeline::Slice;
use crate::sim::RecordedTasks;
use crate::sim::rerun::{Rerun, homes};

/// The run as input of the simulator.
pub(super) struct Model<'a> {
    /// The job. Groups that memory or GPUs held back get as limit the number of tasks that ran at
    /// once.
    job: Job,
    graph: &'a Arc<TaskGraph>,
    /// Run time of each task over all its attempts, in nanoseconds; 0 for tasks that did not run.
    pub ran: Vec<u64>,
    /// Outcome of each task.
    ends: Arc<[Outcome]>,
    /// Tasks completed before the session.
    done: Vec<bool>,
    /// Slots of each rank.
    pub ranks: Vec<u32>,
    /// Home rank of each node of the graph.
    homes: Vec<u32>,
    /// Overhead of a slot per task, in nanoseconds.
    pub overhead: u64,
}

/// A change; `None` keeps the measured value.
#[derive(Default)]
pub(super) struct WhatIf<'a> {
    /// Run time of a task, in nanoseconds.
    pub ran: Option<&'a dyn Fn(usize) -> u64>,
    /// Overhead per task, in nanoseconds.
    pub overhead: Option<u64>,
    /// A change to the job file.
    pub job: Option<&'a dyn Fn(&mut Job)>,
    /// Slots of each rank.
    pub ranks: Option<&'a [u32]>,
}

impl<'a> Model<'a> {
    /// The model of a session on ranks with these slots. Tasks in `done` were completed before.
    ///
    /// # Errors
    /// If a task fits on none of the ranks.
    pub fn new(
        (job, graph): (&Job, &'a Arc<TaskGraph>),
        slices: &[Slice],
        done: &dyn Fn(TaskId) -> bool,
        ranks: Vec<u32>,
    ) -> Result<Model<'a>, String> {
        let tasks = graph.task_count();
        let (mut ran, mut ends) = (vec![0u64; tasks], vec![Outcome::OK; tasks]);
        for slice in slices.iter().filter(|slice| slice.task.index() < tasks) {
            let i = slice.task.index();
            // Attempts at one task are consecutive; an attempt of zero length still counts.
            ran[i] = ran[i].saturating_add(slice.ran().max(1));
            // A task that was cancelled because the run ended counts with the time it ran.
            ends[i] = if slice.outcome.state.is_failure() { slice.outcome } else { Outcome::OK };
        }
        // The graph already contains the links.
        let mut job = Job { links: Vec::new(), ..job.clone() };
        hold_back(&mut job, slices);
        let homes = homes(&job, graph, &ranks)?;
        let done = (0..tasks).map(|i| ran[i] == 0 && done(TaskId(i as u32))).collect();
        let overhead = overhead(slices);
        Ok(Model { job, graph, ran, ends: ends.into(), done, ranks, homes, overhead })
    }

    /// Simulated makespan in nanoseconds.
    ///
    /// # Errors
    /// If a task fits on none of the ranks.
    pub fn makespan(&self, change: &WhatIf<'_>) -> Result<u64, String> {
        let overhead = change.overhead.unwrap_or(self.overhead);
        // A task that did not run takes no time, unless its dependencies kept it from running: then
        // it is not simulated.
        let took = |i: usize| match (self.ran[i], change.ran) {
            (0, _) => 1,
            (ran, None) => ran.saturating_add(overhead),
            (_, Some(changed)) => changed(i).saturating_add(overhead),
        };
        let mut job = self.job.clone();
        if let Some(change) = change.job {
            change(&mut job);
        }
        let slots = change.ranks.unwrap_or(&self.ranks);
        let moved =
            (change.job.is_some() || change.ranks.is_some()).then(|| homes(&job, self.graph, slots)).transpose()?;
        let again = Rerun {
            job,
            graph: self.graph,
            tasks: RecordedTasks { took: (0..self.ran.len()).map(took).collect(), ends: Arc::clone(&self.ends) },
            slots,
            homes: moved.as_ref().unwrap_or(&self.homes),
            done: &|task| self.done[task.index()],
        };
        Ok(again.run()?.0)
    }
}

/// Limits groups that need memory or GPUs to the number of tasks that ran at once, because the
/// simulator does not know what resources the ranks had.
fn hold_back(job: &mut Job, slices: &[Slice]) {
    let mut changes: Vec<Vec<(u64, i64)>> = vec![Vec::new(); job.groups.len()];
    let scarce = |job: &Job, id: usize| {
        let group = &job.groups[id];
        group.mpi.is_none() && (group.memory.is_some() || group.gpus > 0)
    };
    for slice in slices {
        let id = job.group_of(slice.task).0 as usize;
        if scarce(job, id) {
            changes[id].extend([(slice.start, 1), (slice.end, -1)]);
        }
    }
    for (id, changes) in changes.into_iter().enumerate().filter(|(_, changes)| !changes.is_empty()) {
        let most = u32::try_from(Steps::of(changes).max()).unwrap_or(1).max(1);
        let limit = &mut job.groups[id].limit;
        *limit = Some(limit.map_or(most, |limit| limit.min(most)));
    }
}

/// Overhead per task: the median gap between two tasks of one slot where the second was already
/// ready.
fn overhead(slices: &[Slice]) -> u64 {
    let mut ends: rustc_hash::FxHashMap<(u32, u16), u64> = rustc_hash::FxHashMap::default();
    let mut gaps = Vec::new();
    for slice in slices {
        let before = ends.insert((slice.rank, slice.slot), slice.end);
        if let Some(end) = before.filter(|&end| slice.ready <= end && slice.start >= end) {
            gaps.push(slice.start - end);
        }
    }
    gaps.sort_unstable();
    gaps.get(gaps.len() / 2).copied().unwrap_or(0)
}
