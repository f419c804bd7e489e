//! What a run would have taken if something about it had been otherwise: the run once more by the simulator, with measured durations.
//!
//! The simulator runs the coordinator and the workers of a real run in virtual time (see `sim::again`), so that homes, hand-over, limits and
//! gangs have their part. What it leaves out is alike with and without a change, so only the *ratio* of two such runs is used.

use std::sync::Arc;

use crate::graph::TaskGraph;
use crate::job::Job;
use crate::model::{Outcome, TaskId};
use crate::observe::steps::Steps;
use crate::observe::timeline::Slice;
use crate::sim::RecordedTasks;
use crate::sim::rerun::{Rerun, homes};

/// A run with all that the simulator needs to know of it.
pub(super) struct Model<'a> {
    /// The job. Groups that memory or GPUs held back have as limit what ran at once.
    job: Job,
    graph: &'a Arc<TaskGraph>,
    /// How long each task ran, all its attempts together, in nanoseconds; 0 for those that did not.
    pub ran: Vec<u64>,
    /// How each ended.
    ends: Arc<[Outcome]>,
    /// Tasks that were complete before.
    done: Vec<bool>,
    /// The slots of each rank.
    pub ranks: Vec<u32>,
    /// Where the graph's nodes are at home on these ranks.
    homes: Vec<u32>,
    /// What starting a task costs its slot, in nanoseconds.
    pub overhead: u64,
}

/// What is asked about; what is `None` is as it was.
#[derive(Default)]
pub(super) struct WhatIf<'a> {
    /// How long a task runs, in nanoseconds.
    pub ran: Option<&'a dyn Fn(usize) -> u64>,
    /// What starting a task costs, in nanoseconds.
    pub overhead: Option<u64>,
    /// What is otherwise in the job file.
    pub job: Option<&'a dyn Fn(&mut Job)>,
    /// The slots of each rank.
    pub ranks: Option<&'a [u32]>,
}

impl<'a> Model<'a> {
    /// The model of what ran, on ranks of so many slots. Tasks that are `done` were complete before.
    ///
    /// # Errors
    /// If it cannot be simulated, since a task fits on none of the ranks.
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
            // Attempts at one task come one after the other; one of no length still took its turn.
            ran[i] = ran[i].saturating_add(slice.ran().max(1));
            // What was only stopped because the run ended counts as far as it came.
            ends[i] = if slice.outcome.state.is_failure() { slice.outcome } else { Outcome::OK };
        }
        // The graph has what the links say.
        let mut job = Job { links: Vec::new(), ..job.clone() };
        hold_back(&mut job, slices);
        let homes = homes(&job, graph, &ranks)?;
        let done = (0..tasks).map(|i| ran[i] == 0 && done(TaskId(i as u32))).collect();
        let overhead = overhead(slices);
        Ok(Model { job, graph, ran, ends: ends.into(), done, ranks, homes, overhead })
    }

    /// Nanoseconds until the run would have been over.
    ///
    /// # Errors
    /// If a task fits on none of the ranks.
    pub fn makespan(&self, change: &WhatIf<'_>) -> Result<u64, String> {
        let overhead = change.overhead.unwrap_or(self.overhead);
        // What did not run takes no time, unless it is because of others: then it does not run now.
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

/// Gives groups that need memory or GPUs a limit: as many at once as ran. The simulator does not know what ranks had of either.
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

/// The median time between two tasks of one slot where the second was ready already: what it costs to start a task.
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
