//! The history of a job: one line of JSON per run, in a file beside the run directories.
//!
//! ```text
//! phalanx-runs/
//!   mosaic-1/  mosaic-2/
//!   mosaic.history.jsonl
//! ```
//!
//! A run appends its line when it ends; a lock on the file serialises runs that end together.
//! Readers skip the incomplete line of a killed run, and the next run starts a new line after it.
//! When the file has grown to twice the length that readers use, the later half is written to a new
//! file that replaces it. After taking the lock a writer must therefore check that the path still
//! leads to the locked file.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::RunDir;
use super::rundir::file_name;
use crate::scale::estimate::{History, KEPT, RunRecord};

/// Only this many bytes at the end of the file are read.
const MOST_BYTES: u64 = 64 << 20;

/// Attempts to take the lock, which others hold for milliseconds; after them the line is dropped.
const LOCK_ATTEMPTS: u32 = 100;
const LOCK_RETRY_INTERVAL: Duration = Duration::from_millis(20);

/// The history file of a job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HistoryFile {
    path: PathBuf,
}

impl HistoryFile {
    /// The history of the job whose run has this directory.
    pub fn beside(run: &RunDir, job: &str) -> HistoryFile {
        HistoryFile::under(run.path().parent().unwrap_or(run.path()), job)
    }

    /// The history of a job whose runs have their directories under `runs`.
    pub fn under(runs: &Path, job: &str) -> HistoryFile {
        HistoryFile { path: runs.join(format!("{}.history.jsonl", file_name(job))) }
    }

    /// The history in this file.
    pub fn at(path: &Path) -> HistoryFile {
        HistoryFile { path: path.to_owned() }
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Reads the file. Returns the history and the number of invalid lines. A missing file is an
    /// empty history.
    ///
    /// # Errors
    /// If the file exists and cannot be read.
    pub fn read(&self) -> io::Result<(History, usize)> {
        let mut file = match File::open(&self.path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok((History::default(), 0)),
            file => file?,
        };
        let surplus = file.metadata()?.len().saturating_sub(MOST_BYTES);
        file.seek(SeekFrom::Start(surplus))?;
        let mut bytes = Vec::new();
        file.take(MOST_BYTES).read_to_end(&mut bytes)?;
        let mut lines = bytes.split(|&byte| byte == b'\n').filter(|line| !line.is_empty());
        if surplus > 0 {
            lines.next();
        }
        let (mut history, mut odd) = (History::default(), 0);
        for line in lines {
            match serde_json::from_slice::<RunRecord>(line) {
                Ok(run) => history.add(run),
                Err(_) => odd += 1,
            }
        }
        Ok((history, odd))
    }

    /// Adds a run.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn append(&self, run: &RunRecord) -> io::Result<()> {
        let mut line = serde_json::to_vec(run)?;
        line.push(b'\n');
        let (mut file, locked) = self.open()?;
        if !ends_a_line(&mut file)? {
            line.insert(0, b'\n');
        }
        file.write_all(&line)?;
        if locked { self.shorten(&mut file) } else { Ok(()) }
    }

    /// Opens the file and locks it, where that is possible.
    fn open(&self) -> io::Result<(File, bool)> {
        let open = || OpenOptions::new().read(true).append(true).create(true).open(&self.path);
        let mut file = open()?;
        for _ in 0..LOCK_ATTEMPTS {
            match file.try_lock() {
                Ok(()) if is_still(&file, &self.path)? => return Ok((file, true)),
                Ok(()) => file = open()?,
                Err(TryLockError::WouldBlock) => std::thread::sleep(LOCK_RETRY_INTERVAL),
                // The file system has no locks: writing the line with one call is the best
                // alternative.
                Err(TryLockError::Error(_)) => return Ok((file, false)),
            }
        }
        Ok((file, false))
    }

    /// Replaces the file by its later half once it is twice as long as readers use.
    fn shorten(&self, file: &mut File) -> io::Result<()> {
        let mut text = Vec::new();
        file.seek(SeekFrom::Start(0))?;
        file.read_to_end(&mut text)?;
        let lines: Vec<&[u8]> = text.split_inclusive(|&byte| byte == b'\n').collect();
        if lines.len() < 2 * KEPT {
            return Ok(());
        }
        let new = self.path.with_extension(format!("jsonl.{}", std::process::id()));
        fs::write(&new, lines[lines.len() - KEPT..].concat())?;
        fs::rename(&new, &self.path)
    }
}

/// True if the last line is whole.
fn ends_a_line(file: &mut File) -> io::Result<bool> {
    if file.metadata()?.len() == 0 {
        return Ok(true);
    }
    let mut last = [0];
    file.seek(SeekFrom::End(-1))?;
    file.read_exact(&mut last)?;
    Ok(last == *b"\n")
}

/// True if the path still leads to this file.
fn is_still(file: &File, path: &Path) -> io::Result<bool> {
    let ours = file.metadata()?;
    match fs::metadata(path) {
        Ok(named) => Ok((named.dev(), named.ino()) == (ours.dev(), ours.ino())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn record(run: usize) -> RunRecord {
        RunRecord {
            run: format!("job-{run}"),
            began_unix_s: run as u64,
            tasks: 1,
            slots: 1,
            policy: "fixed".into(),
            whole: true,
            wall_s: 1.5,
            work_s: 1.0,
            classes: Vec::new(),
            delays: Vec::new(),
        }
    }

    #[test]
    fn runs_that_end_together_lose_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let file = HistoryFile::under(dir.path(), "a b");
        assert_eq!(file.read().unwrap(), (History::default(), 0));
        std::thread::scope(|scope| {
            for thread in 0..4 {
                let file = &file;
                scope.spawn(move || (0..40).for_each(|k| file.append(&record(thread * 40 + k)).unwrap()));
            }
        });
        let (history, odd) = file.read().unwrap();
        assert_eq!((history.runs.len(), odd), (160, 0));
        assert!(file.path().ends_with("a_b.history.jsonl"));
    }

    #[test]
    fn a_torn_line_costs_itself_alone() {
        let dir = tempfile::tempdir().unwrap();
        let file = HistoryFile::under(dir.path(), "job");
        file.append(&record(1)).unwrap();
        let whole = fs::read(file.path()).unwrap();
        fs::write(file.path(), [&whole[..], &whole[..20]].concat()).unwrap();
        file.append(&record(2)).unwrap();
        let (history, odd) = file.read().unwrap();
        assert_eq!((history.runs, odd), (vec![record(1), record(2)], 1));
    }

    #[test]
    fn it_does_not_grow_for_ever() {
        let dir = tempfile::tempdir().unwrap();
        let file = HistoryFile::under(dir.path(), "job");
        (0..2 * KEPT + 50).for_each(|run| file.append(&record(run)).unwrap());
        let lines = fs::read_to_string(file.path()).unwrap().lines().count();
        assert!(lines < 2 * KEPT, "{lines}");
        let (history, _) = file.read().unwrap();
        assert_eq!(history.runs.len(), KEPT);
        assert_eq!(history.runs.last(), Some(&record(2 * KEPT + 49)));
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "nothing is left over");
    }

    proptest! {
        #[test]
        fn any_bytes_are_survived(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let dir = tempfile::tempdir().unwrap();
            let file = HistoryFile::under(dir.path(), "job");
            fs::write(file.path(), bytes).unwrap();
            file.read().unwrap();
            file.append(&record(7)).unwrap();
            let (history, _) = file.read().unwrap();
            prop_assert_eq!(history.runs.last(), Some(&record(7)));
        }
    }
}
