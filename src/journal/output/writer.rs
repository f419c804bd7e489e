//! Writing captured output: all slots of a rank append to the same three files without a common
//! lock.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};

use super::attempt_lines::{AttemptLines, CACHE, STAGE};
use super::held::RunningOutput;
use super::index::{Chunk, ENTRY, IndexEntry};
use super::used_files::UsedFilesWriter;
use super::{OutputError, OutputKey, extension, file};
use crate::job::KeepOutput;
use crate::journal::RunDir;
use crate::model::{CacheUse, Outcome, Rank, StageUse, Stream, TaskId, Usage, UsedFile};

/// Writes the output of the tasks of one rank in one session.
#[derive(Debug)]
pub struct OutputWriter {
    out: Growing,
    err: Growing,
    index: Growing,
    used_files: UsedFilesWriter,
    cache_uses: AttemptLines,
    stage_uses: AttemptLines,
    /// Output of running tasks, if only the output of failed tasks is kept.
    held: Option<RunningOutput>,
}

impl OutputWriter {
    /// Opens the files of a rank for a session. They exist already only if an earlier start was
    /// killed before its session began.
    pub fn create(run: &RunDir, session: u32, rank: Rank, keep: KeepOutput) -> Result<OutputWriter, OutputError> {
        let held = file(run, session, rank, "held");
        if let Some(dir) = held.parent() {
            fs::create_dir_all(dir).map_err(OutputError::io("create", dir))?;
        }
        Ok(OutputWriter {
            out: Growing::open(file(run, session, rank, extension(Stream::Out)), 1)?,
            err: Growing::open(file(run, session, rank, extension(Stream::Err)), 1)?,
            index: Growing::open(file(run, session, rank, "idx"), ENTRY as u64)?,
            used_files: UsedFilesWriter::new(run, session, rank),
            cache_uses: AttemptLines::new(run, session, rank, CACHE),
            stage_uses: AttemptLines::new(run, session, rank, STAGE),
            held: (keep == KeepOutput::Failed).then(|| RunningOutput::new(held)),
        })
    }

    /// Appends output of an attempt. Several threads may call this at once, but only one at a time
    /// for one stream of an attempt.
    pub fn append(&self, task: TaskId, attempt: u16, stream: Stream, bytes: &[u8]) -> Result<(), OutputError> {
        if bytes.is_empty() {
            return Ok(());
        }
        let key = OutputKey { task, attempt, stream };
        match &self.held {
            None => self.write(key, bytes),
            Some(held) => held.append(key, bytes),
        }
    }

    /// Ends an attempt, after the last [`OutputWriter::append`] for it: keeps or discards its
    /// output.
    pub fn finish(&self, task: TaskId, attempt: u16, outcome: Outcome) -> Result<(), OutputError> {
        let Some(held) = &self.held else { return Ok(()) };
        for stream in [Stream::Out, Stream::Err] {
            match held.take(task, attempt, stream) {
                Some(released) if outcome.ok() => released.discard()?,
                Some(released) => released.pass(|bytes| self.write(OutputKey { task, attempt, stream }, bytes))?,
                None => {}
            }
        }
        Ok(())
    }

    /// Records the files that a completed task has used.
    pub fn used_files(&self, task: TaskId, attempt: u16, files: &[UsedFile]) -> Result<(), OutputError> {
        self.used_files.append(task, attempt, files)
    }

    /// Records what the result cache did for an attempt.
    pub fn cache_used(&self, task: TaskId, attempt: u16, used: &CacheUse) -> Result<(), OutputError> {
        self.cache_uses.append(task, attempt, used)
    }

    /// Records what was moved for an attempt at a staged task.
    pub fn staged(&self, task: TaskId, attempt: u16, used: &StageUse) -> Result<(), OutputError> {
        self.stage_uses.append(task, attempt, used)
    }

    /// Records the resource use of an attempt.
    pub fn account(&self, task: TaskId, attempt: u16, used: Usage) -> Result<(), OutputError> {
        self.index.append(&IndexEntry::Used(task, attempt, used).encode()).map(|_| ())
    }

    fn write(&self, key: OutputKey, bytes: &[u8]) -> Result<(), OutputError> {
        let data = match key.stream {
            Stream::Out => &self.out,
            Stream::Err => &self.err,
        };
        let offset = data.append(bytes)?;
        let entry: [u8; ENTRY] = IndexEntry::Chunk(Chunk { key, offset, length: bytes.len() as u64 }).encode();
        self.index.append(&entry).map(|_| ())
    }
}

/// A file that several threads append to.
#[derive(Debug)]
struct Growing {
    path: PathBuf,
    file: File,
    /// Where the next append goes.
    end: AtomicU64,
}

impl Growing {
    /// Opens the file for appending after its last whole unit of `unit` bytes.
    fn open(path: PathBuf, unit: u64) -> Result<Growing, OutputError> {
        let file = OpenOptions::new().write(true).create(true).truncate(false).open(&path);
        let file = file.map_err(OutputError::io("create", &path))?;
        let length = file.metadata().map_err(OutputError::io("read", &path))?.len();
        Ok(Growing { file, path, end: AtomicU64::new(length - length % unit) })
    }

    /// Reserves a place, writes there and returns its offset.
    fn append(&self, bytes: &[u8]) -> Result<u64, OutputError> {
        // Relaxed: only the sum matters; the system's own locks order the bytes.
        let at = self.end.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        self.file.write_all_at(bytes, at).map_err(OutputError::io("write", &self.path))?;
        Ok(at)
    }
}
