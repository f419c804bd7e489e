//! Importers: convert jobs of other tools to a Phalanx job file that a user can edit.
//!
//! An importer converts text to text: its result is an ordinary job file and passes the same
//! checks. A feature that Phalanx does not support in the same way is an error with its line, or a
//! warning if the job still works; nothing is dropped silently.

mod dag;
mod hq;
mod lines;
mod makeflow;
mod slurm;
mod wfcommons;
mod write;

use std::borrow::Cow;

pub use dag::dag;
pub use hq::hq;
pub use lines::lines;
pub use makeflow::makeflow;
pub use slurm::slurm;
pub use wfcommons::wfcommons;

/// Options of an import.
#[derive(Clone, Debug)]
pub struct Options {
    /// Name of the job; default: the name in the imported text.
    pub name: Option<String>,
    /// Name of the job where neither says it, such as that of the job file; default: that of the
    /// format.
    pub file_name: Option<String>,
    /// Factor for recorded run times (`wfcommons`).
    pub time_scale: f64,
    /// Request the recorded number of CPUs per task (`wfcommons`), otherwise one.
    pub cpus: bool,
    /// Run lines with bash (`lines`), for which they are usually written.
    pub bash: bool,
}

impl Default for Options {
    fn default() -> Options {
        Options { name: None, file_name: None, time_scale: 1.0, cpus: false, bash: false }
    }
}

impl Options {
    /// The name of the job. `recorded`: that in the text.
    fn job_name<'a>(&'a self, recorded: Option<&'a str>, format: &'a str) -> &'a str {
        self.name.as_deref().or(recorded).or(self.file_name.as_deref()).unwrap_or(format)
    }
}

/// Result of an import.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Imported {
    /// The text of the job file.
    pub toml: String,
    /// Features that the job file expresses differently or not at all, with their lines where
    /// known.
    pub warnings: Vec<String>,
}

/// Error: a text cannot be imported.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {reason}")]
pub struct ImportError {
    /// Line number, from 1.
    pub line: usize,
    /// What is wrong.
    pub reason: String,
}

impl ImportError {
    fn new(line: usize, reason: impl Into<String>) -> ImportError {
        ImportError { line, reason: reason.into() }
    }
}

/// The text without byte-order mark and with LF line ends. A NUL byte is an error, because no
/// command or file name can contain one.
fn plain_text(text: &str) -> Result<Cow<'_, str>, ImportError> {
    if let Some(at) = text.lines().position(|line| line.contains('\0')) {
        return Err(ImportError::new(at + 1, "there is a NUL byte, which no command can contain"));
    }
    let text = without_mark(text);
    Ok(if text.contains("\r\n") { text.replace("\r\n", "\n").into() } else { text.into() })
}

/// The text without the byte-order mark that some editors write.
fn without_mark(text: &str) -> &str {
    text.strip_prefix('\u{feff}').unwrap_or(text)
}
