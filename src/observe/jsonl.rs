//! JSON Lines files in the run directory: rank 0 appends to them during the run, viewers read them.
//!
//! They are optional: the run does not depend on them, neither for counting nor for resuming. The
//! first write error is logged and closes the file. A damaged line is skipped, and an incomplete
//! last line is read again later.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde::de::DeserializeOwned;

/// Maximum length of a line in bytes; longer ones are skipped.
pub(super) const MAX_LINE_BYTES: usize = 4096;

/// Appends JSON lines to a file.
pub(super) struct JsonLinesWriter {
    path: PathBuf,
    /// `None` before the first line, and after an error, which was logged.
    file: Option<File>,
    failed: bool,
    /// Keeps the lines of earlier sessions.
    goes_on: bool,
}

impl JsonLinesWriter {
    /// Truncates the file at once.
    pub fn anew(path: PathBuf) -> JsonLinesWriter {
        let mut lines = JsonLinesWriter { path, file: None, failed: false, goes_on: false };
        lines.open();
        lines
    }

    /// Continues a file; it is created with the first line.
    pub fn going_on(path: PathBuf) -> JsonLinesWriter {
        JsonLinesWriter { path, file: None, failed: false, goes_on: true }
    }

    /// Appends lines.
    pub fn add<'a, T: Serialize + 'a>(&mut self, values: impl IntoIterator<Item = &'a T>) {
        let mut text = Vec::new();
        for value in values {
            if let Err(error) = serde_json::to_writer(&mut text, value) {
                return self.give_up(&error.into());
            }
            text.push(b'\n');
        }
        if self.file.is_none() {
            self.open();
        }
        if let Some(Err(error)) = self.file.as_mut().map(|file| file.write_all(&text)) {
            self.give_up(&error);
        }
    }

    fn open(&mut self) {
        if self.failed {
            return;
        }
        let mut options = File::options();
        let options = if self.goes_on { options.append(true) } else { options.write(true).truncate(true) };
        match options.create(true).open(&self.path) {
            Ok(file) => self.file = Some(file),
            Err(error) => self.give_up(&error),
        }
    }

    fn give_up(&mut self, error: &io::Error) {
        tracing::warn!("cannot write {}: {error}; viewers of this run will show less", self.path.display());
        (self.file, self.failed) = (None, true);
    }
}

/// Reads a JSON Lines file while it grows.
#[derive(Debug, Default)]
pub(super) struct JsonLinesReader {
    at: u64,
}

impl JsonLinesReader {
    /// Reads the lines appended since the last call. If the file became shorter, a new session
    /// began, and `anew` is called first.
    pub fn read_on<S, T: DeserializeOwned>(
        &mut self,
        path: &Path,
        state: &mut S,
        anew: impl FnOnce(&mut S),
        mut each: impl FnMut(&mut S, T),
    ) {
        // A run of an older version has no such file.
        let Ok(mut file) = File::open(path) else { return };
        let length = file.metadata().map_or(0, |meta| meta.len());
        if length < self.at {
            self.at = 0;
            anew(state);
        }
        let mut bytes = Vec::new();
        if file.seek(SeekFrom::Start(self.at)).and_then(|_| file.read_to_end(&mut bytes)).is_err() {
            return;
        }
        let whole = bytes.iter().rposition(|&byte| byte == b'\n').map_or(0, |at| at + 1);
        self.at += whole as u64;
        for line in bytes[..whole].split(|&byte| byte == b'\n').filter(|line| line.len() < MAX_LINE_BYTES) {
            if let Ok(value) = serde_json::from_slice(line) {
                each(state, value);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(reading: &mut JsonLinesReader, path: &Path, seen: &mut Vec<u32>) {
        reading.read_on(path, seen, Vec::clear, |seen: &mut Vec<u32>, n: u32| seen.push(n));
    }

    #[test]
    fn what_is_added_is_read_once_and_damage_is_passed_over() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lines");
        let (mut reading, mut seen) = (JsonLinesReader::default(), Vec::new());
        read(&mut reading, &path, &mut seen);
        let mut lines = JsonLinesWriter::going_on(path.clone());
        assert!(!path.exists(), "nothing was written yet");
        lines.add(&[1, 2]);
        read(&mut reading, &path, &mut seen);
        let long = "x".repeat(MAX_LINE_BYTES);
        let mut file = File::options().append(true).open(&path).unwrap();
        write!(file, "nonsense\n{long}\n3\n4").unwrap();
        read(&mut reading, &path, &mut seen);
        assert_eq!(seen, [1, 2, 3]);
        file.write_all(b"0\n").unwrap();
        read(&mut reading, &path, &mut seen);
        assert_eq!(seen, [1, 2, 3, 40]);
        JsonLinesWriter::anew(path.clone()).add(&[7]);
        read(&mut reading, &path, &mut seen);
        assert_eq!(seen, [7]);
    }
}
