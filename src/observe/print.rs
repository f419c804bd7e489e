//! Printing results: errors of reports, and a standard output that may be closed early.

use std::io::{self, BufWriter, ErrorKind, Write};
use std::path::PathBuf;

use thiserror::Error;

use crate::journal::{JournalError, OutputError};

/// A report that cannot be made.
#[derive(Debug, Error)]
pub enum ReportError {
    /// The text cannot be written.
    #[error("cannot write the report: {0}")]
    Write(#[from] io::Error),
    /// The journal cannot be read.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// What a task printed cannot be read.
    #[error(transparent)]
    Output(#[from] OutputError),
    /// The journal holds no session yet.
    #[error("{} holds no record of a run: it was killed before it began, or begins just now", path.display())]
    Empty {
        /// The journal.
        path: PathBuf,
    },
    /// The job has no such task.
    #[error("job {job:?} has no task {wanted:?}: use the name from the job file, as in \"tile\" or \"tile[3]\"")]
    NoSuchTask {
        /// What was asked for.
        wanted: String,
        /// The job.
        job: String,
    },
    /// The run has taken no such decision.
    #[error(
        "there is no decision {number}: {there_are} were written down; `phalanx explain` without a number lists them"
    )]
    NoSuchDecision {
        /// What was asked for.
        number: u32,
        /// How many there are.
        there_are: usize,
    },
    /// The run cannot be simulated.
    #[error("what a change would save is not known, since this run cannot be simulated again: {0}")]
    Again(String),
    /// The report cannot be put into JSON.
    #[error("cannot write the report as JSON: {0}")]
    Json(serde_json::Error),
}

impl ReportError {
    /// True if whoever reads our output has gone, as `head` does when it has enough.
    pub fn is_closed_pipe(&self) -> bool {
        match self {
            ReportError::Write(error) | ReportError::Output(OutputError { source: error, .. }) => {
                error.kind() == ErrorKind::BrokenPipe
            }
            ReportError::Json(error) => error.io_error_kind() == Some(ErrorKind::BrokenPipe),
            ReportError::Journal(_)
            | ReportError::Again(_)
            | ReportError::Empty { .. }
            | ReportError::NoSuchTask { .. }
            | ReportError::NoSuchDecision { .. } => false,
        }
    }
}

/// Lets `print` write to standard output. A reader that has gone is no error: there is nobody left to tell.
pub fn to_stdout(print: impl FnOnce(&mut dyn Write) -> Result<(), ReportError>) -> Result<(), ReportError> {
    let mut out = BufWriter::new(io::stdout().lock());
    let printed = print(&mut out).and_then(|()| Ok(out.flush()?));
    // What the buffer still holds was refused or came after an error: dropping the writer must not try again.
    drop(out.into_parts());
    printed.or_else(|error| if error.is_closed_pipe() { Ok(()) } else { Err(error) })
}
