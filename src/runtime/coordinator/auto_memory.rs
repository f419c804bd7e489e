//! What tasks with `memory = "auto"` ask for at first: what `phalanx recommend` says.

use std::path::Path;

use crate::job::Job;
use crate::journal::{RunDir, RunDirError};
use crate::observe::{Recommendations, ReportError, RunView};
use crate::runtime::subject_of;

/// Upper limit on the number of runs that requests are learnt from, newest first.
pub const MAX_RUNS_LEARNT: usize = 20;

/// The newest real runs of a job in a directory of runs, newest first. Those that cannot be read
/// are left out, and given to `left_out` with the reason.
///
/// # Errors
/// If the directory cannot be read.
pub fn earlier_runs(
    runs: &Path,
    job: &str,
    left_out: &dyn Fn(&RunDir, ReportError),
) -> Result<Vec<RunView>, RunDirError> {
    let load = |dir: RunDir| RunView::load(&dir, &subject_of).map_err(|error| left_out(&dir, error)).ok();
    let is_real = |run: &RunView| run.session().terms.as_ref().is_none_or(|terms| terms.simulated.is_none());
    let found = RunDir::of_job(runs, job)?.into_iter().filter_map(load);
    Ok(found.filter(is_real).take(MAX_RUNS_LEARNT).collect())
}

/// Gives tasks with `memory = "auto"` what earlier runs of the job in this directory recommend. A
/// class without enough measured tasks keeps the default.
pub fn auto_memory(runs: &Path, job: &mut Job) {
    if !job.has_auto_memory() {
        return;
    }
    let left_out = |dir: &RunDir, error| tracing::debug!("{} is left out: {error}", dir.name());
    let earlier = match earlier_runs(runs, &job.name, &left_out) {
        Ok(earlier) => earlier,
        Err(error) => return tracing::warn!("`memory = \"auto\"` starts with its default: {error}"),
    };
    let found = Recommendations::of(job, &earlier);
    let memory = found.classes.into_iter().filter_map(|class| Some((class.class, class.memory?.recommended as u64)));
    job.set_auto_memory(memory.collect());
}
