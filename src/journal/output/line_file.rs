//! A file to which several threads append JSON lines, made with the first line.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::PathBuf;
use std::sync::OnceLock;

use serde::Serialize;

use super::OutputError;

/// A file of JSON lines.
#[derive(Debug)]
pub(super) struct LineFile {
    pub(super) path: PathBuf,
    /// Opened with the first line.
    file: OnceLock<File>,
}

impl LineFile {
    pub(super) fn new(path: PathBuf) -> LineFile {
        LineFile { path, file: OnceLock::new() }
    }

    /// Appends a line. It is one write, so lines of several threads do not mix.
    pub(super) fn append(&self, line: &impl Serialize) -> Result<(), OutputError> {
        let mut text = serde_json::to_vec(line).map_err(|error| OutputError::io("write", &self.path)(error.into()))?;
        text.push(b'\n');
        let file = match self.file.get() {
            Some(file) => file,
            None => {
                let opened = OpenOptions::new().append(true).create(true).open(&self.path);
                let opened = opened.map_err(OutputError::io("create", &self.path))?;
                self.file.get_or_init(|| opened)
            }
        };
        (&mut &*file).write_all(&text).map_err(OutputError::io("write", &self.path))
    }
}
