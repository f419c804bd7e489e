//! Prints reports: errors, and a standard output that the reader may close early.

use std::io::{self, BufWriter, ErrorKind, Write};
use std::path::PathBuf;

use thiserror::Error;

use crate::journal::{JournalError, OutputError};

/// Error: a report cannot be made.
#[derive(Debug, Error)]
pub enum ReportError {
    /// The output cannot be written.
    #[error("cannot write the report: {0}")]
    Write(#[from] io::Error),
    /// The journal cannot be read.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// The captured output of a task cannot be read.
    #[error(transparent)]
    Output(#[from] OutputError),
    /// The journal holds no session yet.
    #[error("{} holds no record of a run: it was killed before it began, or begins just now", path.display())]
    Empty {
        /// Path of the journal.
        path: PathBuf,
    },
    /// The job has no such task.
    #[error("{0}")]
    NoSuchTask(
        /// Which name is unknown, and what might be meant.
        String,
    ),
    /// The run has no decision of this number.
    #[error("there is no decision {number}: the run has {there_are}; `phalanx explain` without a number lists them")]
    NoSuchDecision {
        /// The requested number.
        number: u32,
        /// Number of decisions of the run.
        there_are: usize,
    },
    /// The run cannot be simulated.
    #[error("what a change would save is not known, since this run cannot be simulated again: {0}")]
    Again(String),
    /// The report cannot be converted to JSON.
    #[error("cannot write the report as JSON: {0}")]
    Json(serde_json::Error),
}

impl ReportError {
    /// True if the reader has closed the pipe, as `head` does.
    pub fn is_closed_pipe(&self) -> bool {
        match self {
            ReportError::Write(error) | ReportError::Output(OutputError { source: error, .. }) => {
                error.kind() == ErrorKind::BrokenPipe
            }
            ReportError::Json(error) => error.io_error_kind() == Some(ErrorKind::BrokenPipe),
            ReportError::Journal(_)
            | ReportError::Again(_)
            | ReportError::Empty { .. }
            | ReportError::NoSuchTask(_)
            | ReportError::NoSuchDecision { .. } => false,
        }
    }
}

/// Lets `print` write to standard output. A closed pipe is not an error.
pub fn to_stdout(print: impl FnOnce(&mut dyn Write) -> Result<(), ReportError>) -> Result<(), ReportError> {
    let mut out = BufWriter::new(io::stdout().lock());
    let printed = print(&mut out).and_then(|()| Ok(out.flush()?));
    // Discard what is left in the buffer: dropping the writer would try to write it again.
    drop(out.into_parts());
    printed.or_else(|error| if error.is_closed_pipe() { Ok(()) } else { Err(error) })
}
