//! Files of one JSON object a line, in the run directory: written by rank 0 as the run goes on, read by who watches.
//!
//! They are a convenience: a run goes on without them, and nothing that is counted or resumed depends on them. So trouble with one is told
//! once and ends it, a damaged line is passed over, and a line that has no end yet is read the next time.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde::de::DeserializeOwned;

/// The longest line that is believed.
pub(super) const LONGEST: usize = 4096;

/// A file that is written.
pub(super) struct JsonLinesWriter {
    path: PathBuf,
    /// `None` before the first line and after an error, which was told.
    file: Option<File>,
    failed: bool,
    /// Lines of earlier sessions are kept.
    goes_on: bool,
}

impl JsonLinesWriter {
    /// Begins a file anew, at once.
    pub fn anew(path: PathBuf) -> JsonLinesWriter {
        let mut lines = JsonLinesWriter { path, file: None, failed: false, goes_on: false };
        lines.open();
        lines
    }

    /// Goes on with a file, which need not exist until there is something to write.
    pub fn going_on(path: PathBuf) -> JsonLinesWriter {
        JsonLinesWriter { path, file: None, failed: false, goes_on: true }
    }

    /// Adds lines.
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
        tracing::warn!("cannot write {}: {error}; who watches the run will know less", self.path.display());
        (self.file, self.failed) = (None, true);
    }
}

/// A file that is read as it grows.
#[derive(Debug, Default)]
pub(super) struct JsonLinesReader {
    at: u64,
}

impl JsonLinesReader {
    /// Hands over what has been written since the last time. A file that has become shorter is a new session's: `anew` is called first.
    pub fn read_on<S, T: DeserializeOwned>(
        &mut self,
        path: &Path,
        state: &mut S,
        anew: impl FnOnce(&mut S),
        mut each: impl FnMut(&mut S, T),
    ) {
        // A run of an older program has no such file, and then there is less to show and nothing to mend.
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
        for line in bytes[..whole].split(|&byte| byte == b'\n').filter(|line| line.len() < LONGEST) {
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
        let long = "x".repeat(LONGEST);
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
