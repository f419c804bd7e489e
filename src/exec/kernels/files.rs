//! Output files that are there completely or not at all: written beside their place and renamed when they are complete.
//!
//! A task that is run again, or read from too early, must never meet half of a picture.

use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use crate::exec::kernel::Context;

/// A file on its way to its place. It is removed if it does not get there.
pub(super) struct NewFile {
    writer: BufWriter<File>,
    temporary: PathBuf,
    place: PathBuf,
    arrived: bool,
}

impl NewFile {
    /// A file that will be at `place`, whose directory is created. The name meanwhile is the attempt's alone.
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
        Ok(NewFile { writer: BufWriter::with_capacity(256 << 10, file), temporary, place, arrived: false })
    }

    /// Puts the complete file in its place.
    pub(super) fn arrive(mut self) -> Result<(), String> {
        self.writer
            .flush()
            .and_then(|()| fs::rename(&self.temporary, &self.place))
            .map_err(|e| failed("write", &self.place, &e))?;
        self.arrived = true;
        Ok(())
    }

    /// The error of a write, in words.
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
        if !self.arrived {
            // Whatever failed before has been reported; a leftover is harmless.
            let _ = fs::remove_file(&self.temporary);
        }
    }
}

pub(super) fn failed(what: &str, path: &Path, error: &dyn std::fmt::Display) -> String {
    format!("cannot {what} {}: {error}", path.display())
}
