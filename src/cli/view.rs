//! Finds and reads the run that a verb shows.

use std::path::Path;
use std::process::ExitCode;

use super::complain;
use crate::journal::{RUNS, RunDir};
use crate::observe::{ReportError, RunView};
use crate::runtime::subject_of;

/// Finds a run by directory, name, job name or `latest`, and reads it.
///
/// # Errors
/// If no run matches, or if its journal cannot be read.
pub(super) fn find(wanted: &str) -> Result<RunView, String> {
    let dir = RunDir::find(Path::new(RUNS), wanted).map_err(|error| error.to_string())?;
    load(&dir).map_err(|error| error.to_string())
}

/// Reads the run in a directory.
pub(super) fn load(dir: &RunDir) -> Result<RunView, ReportError> {
    RunView::load(dir, &subject_of)
}

/// The exit code after the output: failure if the journal is damaged, with a message.
pub(super) fn end(run: &RunView) -> ExitCode {
    match run.damage() {
        None => ExitCode::SUCCESS,
        Some(damage) => {
            complain(damage);
            ExitCode::FAILURE
        }
    }
}
