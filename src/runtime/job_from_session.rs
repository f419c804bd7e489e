//! Reads the job of a session from the text in its journal.

use std::sync::Arc;

use crate::job::{self, Loaded};
use crate::journal::Began;
use crate::observe::SessionJob;
use crate::workload::graph_of;

/// The job and graph as they were when the session began.
///
/// # Errors
/// If this version of Phalanx cannot read that text any more.
pub fn subject_of(began: &Began) -> Result<SessionJob, String> {
    let loaded = job_of(began)?;
    let graph = graph_of(&loaded).map_err(|e| e.render(false))?;
    Ok(SessionJob { job: Arc::new(loaded.job), graph: Some(Arc::new(graph)) })
}

/// The job alone, as it was when the session began.
///
/// # Errors
/// As [`subject_of`].
pub fn job_of(began: &Began) -> Result<Loaded, String> {
    let file = began.job_path.display().to_string();
    job::parse(began.job_text.clone(), &file, &began.dir, &AnyKernel).map_err(|e| e.render(false))
}

/// Accepts every kernel, as the program of that run may have registered its own.
struct AnyKernel;

impl job::KernelCheck for AnyKernel {
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
