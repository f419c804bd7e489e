//! Reads the job of a session from the texts in its journal.

use std::sync::Arc;

use crate::job::{self, Addition, GrowingJob, KernelCheck, Loaded};
use crate::journal::{Began, Session, TaskAddition};
use crate::observe::SessionJob;
use crate::runtime::divided_graphs::divide_graphs;
use crate::workload::graph_of;

/// The job and graph of a session, with the tasks that were added to it.
///
/// # Errors
/// If this version of Phalanx cannot read its text any more.
pub fn subject_of(session: &Session) -> Result<SessionJob, String> {
    let (mut loaded, _) = grown_job(&session.began, &session.additions, &AnyKernel)?;
    loaded.job.set_auto_memory(session.requests.auto.clone().into());
    divide_graphs(&mut loaded.job);
    loaded.job.rank_slots = session.began.ranks.iter().map(|rank| (rank.rank, rank.slots)).collect();
    let graph = graph_of(&loaded).map_err(|e| e.render(false))?;
    Ok(SessionJob { job: Arc::new(loaded.job), graph: Some(Arc::new(graph)) })
}

/// The job alone.
///
/// # Errors
/// As [`subject_of`].
pub fn job_of(session: &Session) -> Result<Loaded, String> {
    Ok(grown_job(&session.began, &session.additions, &AnyKernel)?.0)
}

/// A job as it was when its session began, with these tasks added since; and all that has been
/// added to it in this and earlier sessions.
pub(super) fn grown_job(
    began: &Began,
    added: &[TaskAddition],
    kernels: &dyn KernelCheck,
) -> Result<(Loaded, Vec<Addition>), String> {
    let file = began.job_path.display().to_string();
    let render = |error: job::Diagnostics| error.render(false);
    let mut loaded = job::parse(began.job_text.clone(), &file, &began.dir, kernels).map_err(render)?;
    let (base, mut additions) = job::parts_of(&began.job_text);
    if added.is_empty() {
        return Ok((loaded, additions));
    }
    let mut links = std::mem::take(&mut loaded.job.links);
    let mut growing = GrowingJob::new(std::mem::take(&mut loaded.job));
    for TaskAddition { by, text, .. } in added {
        let by = by.map(|by| by.task);
        let name = by.map(|task| growing.job().task_name(task));
        let own = growing.read(Arc::clone(text), "added tasks", kernels).map_err(render)?;
        links.extend(growing.add(by, own.job));
        additions.push(Addition { by: name, text: Arc::clone(text) });
    }
    let text = job::text_with(&base, &additions);
    Ok((loaded.with_job(growing.into_job(links), text), additions))
}

/// Accepts every kernel, as the program of that run may have registered its own.
struct AnyKernel;

impl KernelCheck for AnyKernel {
    fn names(&self) -> Vec<&str> {
        Vec::new()
    }

    fn knows(&self, _: &str) -> bool {
        true
    }

    fn check(&self, _: &str, _: &toml::Table) -> Result<(), String> {
        Ok(())
    }
}
