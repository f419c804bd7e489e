//! Finding a run and reading it, for every verb that looks at one.

use std::path::Path;
use std::process::ExitCode;

use super::complain;
use crate::journal::{RUNS, RunDir};
use crate::observe::{ReportError, RunView};
use crate::runtime::subject_of;

/// Reads the run that a person calls so.
///
/// # Errors
/// If there is none, or its journal cannot be read; said so that it can be mended.
pub(super) fn find(wanted: &str) -> Result<RunView, String> {
    let dir = RunDir::find(Path::new(RUNS), wanted).map_err(|error| error.to_string())?;
    load(&dir).map_err(|error| error.to_string())
}

/// Reads the run in a directory.
pub(super) fn load(dir: &RunDir) -> Result<RunView, ReportError> {
    RunView::load(dir, &subject_of)
}

/// The exit code after everything has been shown: failure if the journal is damaged, which is said.
pub(super) fn end(run: &RunView) -> ExitCode {
    match run.damage() {
        None => ExitCode::SUCCESS,
        Some(damage) => {
            complain(damage);
            ExitCode::FAILURE
        }
    }
}
