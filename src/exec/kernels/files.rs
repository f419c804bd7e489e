//! Output files that exist completely or not at all: written under a temporary name and renamed
//! when complete.
//!
//! A task that is retried, or whose output is read too early, must never leave half a picture.

use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use crate::exec::kernel::Context;

/// A file that is being written. It is removed unless it is completed.
pub(super) struct NewFile {
    writer: BufWriter<File>,
    temporary: PathBuf,
    place: PathBuf,
    completed: bool,
}

impl NewFile {
    /// Creates a file for `place`, and the directory of `place`. The temporary name is unique to
    /// the attempt.
    pub(super) fn create(context: &Context, place: PathBuf) -> Result<NewFile, String> {
        let name = place.file_name().ok_or_else(|| format!("{} is not a file name", place.display()))?;
        let mut hidden = std::ffi::OsString::from(".");
        hidden.push(name);
        hidden.push(format!(".{}-{}-{}", context.job_id(), context.task().0, context.attempt()));
        let temporary = place.with_file_name(hidden);
        let open = || -> io::Result<File> {
            if let Some(dir) = place.parent().filter(|dir| !dir.as_os_str().is_empty()) {
                fs::create_dir_all(dir)?;
            }
            File::create(&temporary)
        };
        let file = open().map_err(|e| failed("create", &place, &e))?;
        Ok(NewFile { writer: BufWriter::with_capacity(256 << 10, file), temporary, place, completed: false })
    }

    /// Renames the complete file to its place.
    pub(super) fn complete(mut self) -> Result<(), String> {
        self.writer
            .flush()
            .and_then(|()| fs::rename(&self.temporary, &self.place))
            .map_err(|e| failed("write", &self.place, &e))?;
        self.completed = true;
        Ok(())
    }

    /// The message for a failed write.
    pub(super) fn failed(&self, error: &dyn std::fmt::Display) -> String {
        failed("write", &self.place, error)
    }
}

impl Write for NewFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.writer.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.writer.flush()
    }
}

impl Drop for NewFile {
    fn drop(&mut self) {
        if !self.completed {
            // The failure has been reported already; a leftover is harmless.
            let _ = fs::remove_file(&self.temporary);
        }
    }
}

pub(super) fn failed(what: &str, path: &Path, error: &dyn std::fmt::Display) -> String {
    format!("cannot {what} {}: {error}", path.display())
}
