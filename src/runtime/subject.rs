//! The job of a session, from the text that its journal keeps.

use std::sync::Arc;

use super::graph_of;
use crate::job;
use crate::journal::Began;
use crate::observe::Subject;

/// Reads it as it was when the session began.
///
/// # Errors
/// If this version of Phalanx cannot read that text any more.
pub fn subject_of(began: &Began) -> Result<Subject, String> {
    let file = began.job_path.display().to_string();
    let loaded = job::parse(&began.job_text, &file, &began.dir, &AnyKernel).map_err(|e| e.render(false))?;
    let graph = graph_of(&loaded).map_err(|e| e.render(false))?;
    Ok(Subject { job: Arc::new(loaded.job), graph: Some(Arc::new(graph)) })
}

/// Accepts every kernel: the run may have been one of a program with kernels of its own.
pub struct AnyKernel;

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
