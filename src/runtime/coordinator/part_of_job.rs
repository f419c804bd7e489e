//! A run of a part of its job: what it leaves out, and whether what it needs is there.

use std::sync::Arc;

use crate::graph::TaskGraph;
use crate::job::{Job, Task};
use crate::journal::KeptRun;
use crate::model::TaskId;
use crate::runtime::RunError;
use crate::system::file_probe::FileProbe;
use crate::workload::Selected;

/// For each task whether it is left out of the run; nothing if none is.
pub(super) fn left_out(selected: &Selected, kept: &[KeptRun], tasks: usize) -> Arc<[bool]> {
    let mut out = selected.left_out(tasks);
    for run in kept.iter().take(if out.is_empty() { 0 } else { kept.len() }) {
        out[run.first.index()..][..run.count as usize].fill(false);
    }
    if out.contains(&true) { out.into() } else { Arc::default() }
}

/// Refuses a selection with a task that needs what is neither chosen, nor complete, nor there.
pub(super) fn check_needs(
    selected: &Selected,
    (job, graph): (&Job, &TaskGraph),
    kept: &[KeptRun],
) -> Result<(), RunError> {
    // Runs are ascending.
    let is_kept = |task: TaskId| {
        let next = kept.partition_point(|run| run.first.0 <= task.0);
        kept[..next].last().is_some_and(|run| task.0 - run.first.0 < run.count)
    };
    let probe = FileProbe::default();
    let there = |task| is_kept(task) || has_outputs(&probe, job, task);
    let Some((task, needs)) = selected.unmet(graph, &|task| !is_kept(task), &there) else { return Ok(()) };
    let (task, needs) = (job.task_name(task), job.task_name(needs));
    Err(RunError::Refused(format!(
        "`{}` leaves out {needs}, which {task} needs and which has neither completed nor left its declared outputs: \
         choose it too (`--until {task}` takes all that {task} needs), or resume the run in which it has completed \
         (--resume)",
        selected.words()
    )))
}

/// True if the task declares outputs, and all of them are there.
fn has_outputs(probe: &FileProbe, job: &Job, task: TaskId) -> bool {
    let Ok(Task { dir, promised, .. }) = job.task(task) else { return false };
    !promised.is_empty() && promised.iter().all(|file| probe.exists(&dir.join(file)) == Some(true))
}
