//! A run of a part of its job: what it leaves out, and whether what it needs is there.

use std::cell::OnceCell;
use std::path::PathBuf;
use std::sync::Arc;

use super::resume::{RunReason, Takeover};
use crate::graph::TaskGraph;
use crate::job::{Job, Task, WrittenFiles};
use crate::journal::KeptRun;
use crate::model::TaskId;
use crate::runtime::RunError;
use crate::system::file_probe::FileProbe;
use crate::text::counted;
use crate::workload::Selected;

/// Maximum number of tasks that run again of which the inputs are looked for.
const MAX_CHECKED: usize = 10_000;

/// For each task whether it is left out of the run; nothing if none is.
pub(super) fn left_out(selected: &Selected, kept: &[KeptRun], tasks: usize) -> Arc<[bool]> {
    let mut out = selected.left_out(tasks);
    for run in kept.iter().take(if out.is_empty() { 0 } else { kept.len() }) {
        out[run.first.index()..][..run.count as usize].fill(false);
    }
    if out.contains(&true) { out.into() } else { Arc::default() }
}

/// Refuses a selection with a task that needs what is neither chosen, nor complete, nor there. What
/// a task has left that began without completing is not there: it may be a part.
pub(super) fn check_needs(
    selected: &Selected,
    (job, graph): (&Job, &TaskGraph),
    takeover: &Takeover,
) -> Result<(), RunError> {
    let probe = FileProbe::default();
    let there = |task| takeover.keeps(task) || (!takeover.has_begun(task) && has_outputs(&probe, job, task));
    let Some((task, lacks)) = selected.unmet(graph, &|task| !takeover.keeps(task), &there) else { return Ok(()) };
    let (task, needs) = (job.task_name(task), job.task_name(lacks));
    let (mut why, mut or) = ("has neither completed nor left its declared outputs".to_owned(), String::new());
    if takeover.has_begun(lacks) {
        why = "has begun and not completed in the run that is resumed, so its outputs may be a part".to_owned();
        or = ", or leave out --resume if its outputs are whole: a new run takes them as they are".to_owned();
    } else if let Some(reason) = takeover.reason(lacks).filter(|reason| reason.had_completed()) {
        why = format!("must run again ({})", reason.text(job));
    } else if takeover.kept.is_empty() {
        or = ", or resume the run in which it has completed (--resume)".to_owned();
    }
    Err(RunError::Refused(format!(
        "`{}` leaves out {needs}, which {task} needs and which {why}: choose it too (`--until {task}` takes all that \
         {task} needs){or}",
        selected.words()
    )))
}

/// Refuses a resume that would run a task again which had completed and cannot: an input is missing
/// that no task writes. What it has left would be lost. A task that it needs and that runs again,
/// too, may make what it does not declare.
pub(super) fn check_sources(
    selected: &Selected,
    (job, graph): (&Job, &TaskGraph),
    takeover: &Takeover,
) -> Result<(), RunError> {
    let (probe, written, behind) = (FileProbe::default(), OnceCell::new(), OnceCell::new());
    let again = takeover.runs.iter().filter(|(task, reason)| reason.had_completed() && selected.has(*task));
    for (id, reason) in again.take(MAX_CHECKED) {
        let Ok(task) = job.task(*id) else { continue };
        let is_source = |file: &&PathBuf| {
            let path = task.dir.join(file);
            let written = || written.get_or_init(|| WrittenFiles::of(job));
            probe.exists(&path) == Some(false) && written().writer_of(&path).is_none()
        };
        let Some(file) = task.required.iter().find(is_source) else { continue };
        if behind.get_or_init(|| behind_running(selected, graph, takeover))[id.index()] {
            continue;
        }
        let (name, why) = (job.task_name(*id), reason.text(job));
        let file = file.display();
        let again = if let RunReason::Asked = reason { "--rerun" } else { "the resume" };
        return Err(RunError::Refused(format!(
            "{name} has completed and would run again ({why}), but its input {file} is missing and no task writes it, so \
             {again} would only lose what it has left: bring {file} back, or leave the task out (`--omit {name}`)"
        )));
    }
    Ok(())
}

/// For each node whether it needs, directly or not, a task that runs.
fn behind_running(selected: &Selected, graph: &TaskGraph, takeover: &Takeover) -> Vec<bool> {
    let mut runs = vec![false; graph.node_count()];
    for (task, _) in takeover.runs.iter().filter(|(task, _)| selected.has(*task)) {
        runs[task.index()] = true;
    }
    let mut behind = vec![false; graph.node_count()];
    for node in graph.topological().iter() {
        let is_one = |before: u32| runs[before as usize] || behind[before as usize];
        behind[node as usize] = graph.predecessors(node).any(|edge| is_one(edge.node()));
    }
    behind
}

/// What is missing of the files that complete tasks have read or written, in words.
pub(super) fn kept_without(job: &Job, takeover: &Takeover) -> Vec<String> {
    let (mut said, others) = (Vec::new(), |more: usize| match more {
        0 => (String::new(), "is"),
        more => (format!(" (and {})", counted(more as u64, "other file")), "are"),
    });
    if let Some((first, more)) = takeover.missing.split_first() {
        let (more, are) = others(more.len());
        said.push(format!(
            "{}{more}, which complete tasks have read, {are} missing, and no task writes what is missing: these tasks \
             stay complete",
            first.display()
        ));
    }
    // They were found in reverse order.
    if let Some(((task, file), more)) = takeover.unread.split_last() {
        let (name, (more, are)) = (job.task_name(*task), others(more.len()));
        said.push(format!(
            "the output {} of {name}, which is complete,{more} {are} missing; no task lists it under `inputs`, but those \
             that need {name} may have read it: `--rerun {name}` makes it again",
            file.display()
        ));
    }
    said
}

/// True if the task declares outputs, and all of them are there. What one has changed in a graph is
/// there only if the task has completed in this run.
fn has_outputs(probe: &FileProbe, job: &Job, task: TaskId) -> bool {
    if job.bodies[job.group_of(task).0 as usize].changes_graph() {
        return false;
    }
    let Ok(Task { dir, promised, .. }) = job.task(task) else { return false };
    !promised.is_empty() && promised.iter().all(|file| probe.exists(&dir.join(file)) == Some(true))
}
