//! Refuses a run whose tasks would write files that a live run in this directory writes, too: of
//! the same job or of another.
//!
//! One run at a time begins in a directory of runs (see [`RunDir::begin_alone`]), from this look at
//! the others until its journal says what it writes. So of runs that start at the same moment
//! exactly one goes on.

use std::path::Path;

use crate::job::{FileSet, Job};
use crate::journal::{Liveness, RUNS, RunDir, replay};
use crate::model::TaskId;
use crate::runtime::RunError;
use crate::runtime::job_from_session::job_of;

/// Checks the run in `own`, which runs those tasks of `job` that `runs_here` names, against the live
/// runs in this directory. A live run that cannot be read is passed over.
///
/// # Errors
/// If a declared output would be written by two runs at once.
pub(super) fn check_live_twins(own: &RunDir, job: &Job, runs_here: &dyn Fn(TaskId) -> bool) -> Result<(), RunError> {
    let runs = RunDir::all(Path::new(RUNS))?;
    let live = runs.into_iter().filter(|run| run != own && matches!(run.liveness(), Liveness::Alive(_)));
    let mut files = None;
    for run in live {
        let Ok(replay) = replay(&run.journal()) else { continue };
        let Some(last) = replay.last_session() else { continue };
        if last.terms.as_ref().is_some_and(|terms| terms.simulated.is_some()) {
            continue;
        }
        let Ok(theirs) = job_of(last) else { continue };
        let runs_there = |task: TaskId| last.left_out.as_ref().is_none_or(|left_out| !left_out.has(task));
        let of = match theirs.job.name == job.name {
            true => "this job".to_owned(),
            false => format!("job {}", theirs.job.name),
        };
        let theirs = FileSet::of(&theirs.job, &runs_there);
        let files = files.get_or_insert_with(|| FileSet::of(job, runs_here));
        if let Some(file) = files.written_by_both(&theirs) {
            let name = run.name();
            return Err(RunError::Refused(format!(
                "{name} is a live run of {of} and writes {file}, too: wait until it has ended, watch it with \
                 `phalanx top {name}`, or end it with `phalanx cancel {name}`"
            )));
        }
    }
    Ok(())
}
