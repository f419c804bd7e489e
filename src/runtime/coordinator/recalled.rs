//! Tasks that the job of the last session did not have, and that completed in an earlier one: a
//! task that comes back unchanged stays complete, so that an axis may shrink and grow again.

use std::ops::Range;

use rustc_hash::FxHashSet;

use super::changed_needs::ChangedNeeds;
use super::resume::former_numbers;
use super::run_files::RunFiles;
use crate::exec::Kernels;
use crate::graph::TaskGraph;
use crate::job::Job;
use crate::journal::Replay;
use crate::model::TaskId;
use crate::runtime::job_from_session::grown_job;
use crate::workload::graph_of;

/// Those of the tasks `new` of a job that are complete. `files` compares the files that they used;
/// `None` if files are not looked at.
pub(super) fn recalled(
    kernels: &Kernels,
    replay: &Replay,
    (job, graph): (&Job, &TaskGraph),
    mut new: Vec<TaskId>,
    files: Option<&RunFiles<'_>>,
) -> FxHashSet<TaskId> {
    let mut found = FxHashSet::default();
    // The changes to a data graph follow each other: one that was left out meanwhile is made again.
    let operations = job.graphs.iter().flat_map(|data| job.operations_on(&data.name)).map(|(group, _)| group);
    let operations: Vec<Range<u32>> = operations.map(|group| group.first.0..group.first.0 + group.count).collect();
    new.retain(|task| !operations.iter().any(|tasks| tasks.contains(&task.0)));
    let Some((last, earlier)) = replay.sessions.split_last() else { return found };
    let mut after = last;
    for (index, session) in earlier.iter().enumerate().rev() {
        let is_same = session.began.job_text == after.began.job_text && session.additions == after.additions;
        after = session;
        if is_same || new.is_empty() {
            continue;
        }
        let Ok((loaded, _)) = grown_job(&session.began, &session.additions, kernels) else { continue };
        let Ok(former_graph) = graph_of(&loaded) else { continue };
        let former = loaded.job;
        let was = former_numbers(&former, job);
        if new.iter().all(|task| was[task.index()].is_none()) {
            continue;
        }
        let latest = replay.latest_in(index);
        let mut changed_needs = ChangedNeeds::of((&former, &former_graph), (job, graph), &was);
        new.retain(|&task| {
            // The last session that had the task says how it stands.
            let Some(before) = was[task.index()] else { return true };
            let Some((at, attempt)) = latest(before).filter(|(_, attempt)| attempt.outcome.ok()) else { return false };
            let is_same =
                matches!((job.content_key(task), former.content_key(before)), (Ok(now), Ok(then)) if now == then);
            if is_same
                && changed_needs.of_task(task, before).is_none()
                && files.is_none_or(|files| files.change(task, at, attempt).is_none())
            {
                found.insert(task);
            }
            false
        });
    }
    found
}
