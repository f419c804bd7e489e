//! Reads job files and the copies of them in run directories: of one job, of several, and of jobs
//! with additions.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::added::{self, has_additions};
use super::bounded_read::{is_stdin, read_bounded};
use super::diagnostic::{Diagnostic, Diagnostics};
use super::load::{KernelCheck, Loaded, not_utf8, parse_new, parse_one};
use super::several::{self, each, is_several, merge};

/// Reads one job file, or several as one job.
///
/// # Errors
/// All mistakes in the files, or why they cannot be combined.
pub fn load_all(paths: &[PathBuf], kernels: &dyn KernelCheck) -> Result<Loaded, Diagnostics> {
    match paths {
        [path] => load(path, kernels),
        _ => merge(each(paths, |path| load(path, kernels))?),
    }
}

/// Reads a job file; `-` reads standard input. Relative directories in it start from the current
/// directory.
///
/// # Errors
/// All mistakes in the file, or why it cannot be read.
pub fn load(path: &Path, kernels: &dyn KernelCheck) -> Result<Loaded, Diagnostics> {
    let file = if is_stdin(path) { "stdin".to_owned() } else { path.display().to_string() };
    let refuse = |message: String| Diagnostics::new(file.clone(), "", vec![Diagnostic::error(message)]);
    let bytes = read_bounded(path).map_err(|reason| refuse(format!("cannot read {file}: {reason}")))?;
    let base = std::env::current_dir().map_err(|error| refuse(format!("the current directory is unknown: {error}")))?;
    match String::from_utf8(bytes) {
        // The copy in a run directory.
        Ok(text) if is_several(&text) || has_additions(&text) => parse(text, &file, &base, kernels),
        Ok(text) => parse_new(&text, &file, &base, kernels),
        Err(error) => Err(not_utf8(&file, &error)),
    }
}

/// Parses the text of a job file called `file_name`; relative directories in it start from
/// `base_dir`.
///
/// # Errors
/// All mistakes in the text.
pub fn parse(
    text: impl Into<Arc<str>>,
    file_name: &str,
    base_dir: &Path,
    kernels: &dyn KernelCheck,
) -> Result<Loaded, Diagnostics> {
    let text = text.into();
    if has_additions(&text) {
        let (base, additions) = added::parts_of(&text);
        let base = without_additions(base, file_name, base_dir, kernels)?;
        return added::with_additions(base, additions, text, kernels);
    }
    without_additions(text, file_name, base_dir, kernels)
}

fn without_additions(
    text: Arc<str>,
    file_name: &str,
    base_dir: &Path,
    kernels: &dyn KernelCheck,
) -> Result<Loaded, Diagnostics> {
    match several::parse_all(&text, base_dir, kernels) {
        Some(parsed) => parsed,
        None => parse_one(text, file_name, base_dir, kernels),
    }
}
