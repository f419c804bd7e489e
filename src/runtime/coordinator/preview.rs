//! What a run or a resume would do; nothing is changed.

use std::path::Path;

use super::part_of_job::{check_needs, check_sources, kept_without};
use super::prepare::{rerun, to_resume};
use super::resume::{RunReason, Takeover};
use super::resumed_job::{FormerRun, resumed_job};
use crate::exec::Kernels;
use crate::job::{self, Loaded};
use crate::journal::{EndReason, Liveness, RUNS, RunDir, replay};
use crate::model::TaskId;
use crate::observe::command_of;
use crate::runtime::{Options, RunError};
use crate::text::counted;
use crate::workload::graph_of;

/// What a run would do.
#[derive(Debug)]
pub struct RunPreview {
    /// Name of the run that would be resumed; `None` if a new run would begin.
    pub resumed: Option<String>,
    /// What a user may not expect about the run to resume, or that there is none.
    pub remark: Option<String>,
    /// What is missing of the files that complete tasks have read or written, in words.
    pub missing: Vec<String>,
    /// Number of tasks of the job.
    pub tasks: usize,
    /// Number of tasks that are complete and would not run again.
    pub complete: u32,
    /// Number of tasks that would be left out.
    pub left_out: usize,
    /// The tasks that would run.
    pub runs: Vec<PlannedTask>,
    /// What tasks that run again would add again, in words.
    pub added_again: Option<String>,
}

/// A task that would run.
#[derive(Debug)]
pub struct PlannedTask {
    /// Its name.
    pub name: String,
    /// One reason why it would run.
    pub reason: String,
    /// What it would execute.
    pub command: String,
}

/// Finds out what a run with these options would do, and changes nothing.
///
/// # Errors
/// If the job has mistakes, the selection cannot be run, or the run to resume cannot be read.
pub fn preview(options: &Options, kernels: &Kernels) -> Result<RunPreview, RunError> {
    let mut loaded = job::load_all(&options.jobs, kernels).map_err(RunError::Job)?;
    let mut graph = graph_of(&loaded).map_err(RunError::Job)?;
    let forced = |loaded: &Loaded| rerun(options, loaded);
    forced(&loaded)?;
    let (dir, remark) = if options.resume { to_resume(options, &loaded)? } else { (None, None) };
    let replay = dir.as_ref().map(|dir| replay(&dir.journal())).transpose()?.filter(|it| !it.sessions.is_empty());
    let former = match (&dir, &replay) {
        (Some(dir), Some(replay)) => FormerRun::read(kernels, dir, replay)?,
        _ => None,
    };
    let (takeover, dir, added_again) = match (dir, &replay, former) {
        (Some(dir), Some(replay), Some(former)) => {
            let resumed = resumed_job(kernels, &dir, replay, &former, &loaded, Some(&forced))?;
            (loaded, graph) = (resumed.loaded, resumed.graph);
            (resumed.takeover, Some(dir), added_again(resumed.adders))
        }
        _ => {
            let all = (0..loaded.job.task_count() as u32).map(|task| (TaskId(task), RunReason::Open));
            (Takeover { runs: all.collect(), ..Takeover::default() }, None, None)
        }
    };
    let job = &loaded.job;
    let selected = options.selection.of(job, &graph).map_err(RunError::Refused)?;
    check_needs(&selected, (job, &graph), &takeover)?;
    check_sources(&selected, (job, &graph), &takeover)?;
    let chosen = takeover.runs.iter().filter(|(task, _)| selected.has(*task));
    let reason = |task: TaskId, reason: &RunReason| match reason {
        RunReason::Open => selected.reason(job, task),
        reason => reason.text(job),
    };
    let planned = |(task, why): &(TaskId, RunReason)| PlannedTask {
        name: job.task_name(*task),
        reason: reason(*task, why),
        command: command_of(job, *task),
    };
    let runs: Vec<PlannedTask> = chosen.map(planned).collect();
    Ok(RunPreview {
        resumed: dir.map(|dir| dir.name()),
        remark,
        missing: kept_without(job, &takeover),
        tasks: job.task_count(),
        complete: takeover.complete(),
        left_out: takeover.runs.len() - runs.len(),
        runs,
        added_again,
    })
}

/// What tasks of these names add again when they run again, and had added before: this many.
fn added_again((adders, tasks): (Vec<String>, usize)) -> Option<String> {
    let (first, more) = adders.split_first()?;
    let (who, add) = match more.len() {
        0 => (first.clone(), "adds its tasks"),
        more => (format!("{first} and {}", counted(more as u64, "other task")), "add their tasks"),
    };
    Some(format!("{who} {add} again: {} of the former session would run, too", counted(tasks as u64, "task")))
}

/// An earlier run of a job that has ended before all of its tasks were complete.
#[derive(Debug)]
pub struct UnfinishedRun {
    /// Name of the run.
    pub name: String,
    /// Number of tasks of the job that are complete there; at least 1.
    pub complete: u32,
    /// Number of tasks of the job.
    pub tasks: usize,
}

/// The newest run of a job, if it is over, has not completed, and a resume would save tasks. Files
/// are not looked at.
pub(super) fn unfinished_run(kernels: &Kernels, loaded: &Loaded) -> Option<UnfinishedRun> {
    let dir = RunDir::for_resume(Path::new(RUNS), (&loaded.job.name, loaded.path()), None).ok()?;
    if dir.liveness() != Liveness::Gone {
        return None;
    }
    let replay = replay(&dir.journal()).ok()?;
    if replay.last_session()?.ended.as_ref().is_some_and(|ended| ended.reason == EndReason::Complete) {
        return None;
    }
    let former = FormerRun::read(kernels, &dir, &replay).ok()??;
    let resumed = resumed_job(kernels, &dir, &replay, &former, loaded, None).ok()?;
    let complete = resumed.takeover.complete();
    (complete > 0).then(|| UnfinishedRun { name: dir.name(), complete, tasks: resumed.loaded.job.task_count() })
}

/// The newest run of the job in a file, if it is over, has not completed, and a resume would save
/// tasks. `None` also if the job has mistakes.
pub fn find_unfinished_run(options: &Options, kernels: &Kernels) -> Option<UnfinishedRun> {
    let loaded = job::load_all(&options.jobs, kernels).ok()?;
    graph_of(&loaded).ok()?;
    unfinished_run(kernels, &loaded)
}
