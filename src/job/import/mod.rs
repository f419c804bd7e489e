//! Jobs written for other tools, rewritten as a Phalanx job file that a person can go on with.
//!
//! An importer turns text into text: what it writes is a job file like any other and passes through
//! the same checks. What a format can say and Phalanx cannot do the same way is refused with its
//! line, or, where the job still does its work, named in a warning; nothing is dropped in silence.

mod dag;
mod hq;
mod lines;
mod makeflow;
mod wfcommons;
mod write;

use std::borrow::Cow;

pub use dag::dag;
pub use hq::hq;
pub use lines::lines;
pub use makeflow::makeflow;
pub use wfcommons::wfcommons;

/// What the user chooses about an import.
#[derive(Clone, Debug)]
pub struct Options {
    /// Name of the job; default: as in the imported text, else `imported`.
    pub name: Option<String>,
    /// Recorded run times are multiplied by this (`wfcommons`).
    pub time_scale: f64,
    /// Ask for as many CPUs per task as were recorded (`wfcommons`); otherwise one.
    pub cpus: bool,
    /// Lines of shell run in bash (`lines`), which is what they are mostly written for.
    pub bash: bool,
}

impl Default for Options {
    fn default() -> Options {
        Options { name: None, time_scale: 1.0, cpus: false, bash: false }
    }
}

/// An imported job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Imported {
    /// The job file.
    pub toml: String,
    /// What the job file says differently or not at all, each with its line where it has one.
    pub warnings: Vec<String>,
}

/// Why a text cannot be imported.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {reason}")]
pub struct ImportError {
    /// The line, counted from 1.
    pub line: usize,
    /// What is wrong there.
    pub reason: String,
}

impl ImportError {
    fn new(line: usize, reason: impl Into<String>) -> ImportError {
        ImportError { line, reason: reason.into() }
    }
}

/// The text without a byte-order mark and with plain ends of lines. A NUL byte, which no command or
/// file name can contain, is refused.
fn plain_text(text: &str) -> Result<Cow<'_, str>, ImportError> {
    if let Some(at) = text.lines().position(|line| line.contains('\0')) {
        return Err(ImportError::new(at + 1, "there is a NUL byte, which no command can contain"));
    }
    let text = without_mark(text);
    Ok(if text.contains("\r\n") { text.replace("\r\n", "\n").into() } else { text.into() })
}

/// The text without the byte-order mark that some editors begin files with.
fn without_mark(text: &str) -> &str {
    text.strip_prefix('\u{feff}').unwrap_or(text)
}
