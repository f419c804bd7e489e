//! Output that is kept only if its task fails (`output = "failed"`): buffered until the task ends.
//!
//! Short output is buffered in memory. Output beyond [`MAX_BUFFER_BYTES`] goes to a file of its
//! own, so that a task that prints gigabytes and then succeeds costs no memory and, in the end, no
//! disk space.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustc_hash::FxHashMap;

use super::{OutputError, OutputKey, extension};
use crate::model::Stream;
use crate::model::TaskId;

/// Bytes of one stream of one attempt that are buffered in memory.
const MAX_BUFFER_BYTES: usize = 64 << 10;

/// The output of running tasks. Each stream of an attempt has a lock of its own, under which it is
/// also written to disk, so that slots do not wait for each other.
#[derive(Debug)]
pub(super) struct RunningOutput {
    dir: PathBuf,
    parts: Mutex<FxHashMap<OutputKey, Arc<Mutex<OutputPart>>>>,
}

#[derive(Debug, Default)]
struct OutputPart {
    memory: Vec<u8>,
    spilled: Option<Spill>,
}

#[derive(Debug)]
struct Spill {
    path: PathBuf,
    file: File,
}

impl RunningOutput {
    pub fn new(dir: PathBuf) -> RunningOutput {
        RunningOutput { dir, parts: Mutex::default() }
    }

    pub fn append(&self, key: OutputKey, bytes: &[u8]) -> Result<(), OutputError> {
        let part = Arc::clone(lock(&self.parts).entry(key).or_default());
        lock(&part).append(&self.dir, key, bytes)
    }

    /// Removes and returns the output of an attempt on a stream.
    pub fn take(&self, task: TaskId, attempt: u16, stream: Stream) -> Option<Released> {
        let part = lock(&self.parts).remove(&OutputKey { task, attempt, stream })?;
        Some(Released(std::mem::take(&mut *lock(&part))))
    }
}

impl OutputPart {
    fn append(&mut self, dir: &Path, key: OutputKey, bytes: &[u8]) -> Result<(), OutputError> {
        if self.memory.len() + bytes.len() > MAX_BUFFER_BYTES && self.spilled.is_none() {
            self.spilled = match Spill::create(dir, key) {
                Ok(spill) => Some(spill),
                // Stays in memory until a descriptor becomes free.
                Err(error) if matches!(error.source.raw_os_error(), Some(libc::EMFILE | libc::ENFILE)) => None,
                Err(error) => return Err(error),
            };
        }
        match &mut self.spilled {
            Some(spill) if self.memory.len() + bytes.len() > MAX_BUFFER_BYTES => {
                let written = spill.file.write_all(&self.memory).and_then(|()| spill.file.write_all(bytes));
                written.map_err(OutputError::io("write", &spill.path))?;
                self.memory.clear();
                self.memory.shrink_to(MAX_BUFFER_BYTES);
            }
            _ => self.memory.extend_from_slice(bytes),
        }
        Ok(())
    }
}

/// Takes the lock, poisoned or not: output is only appended, so the data stays valid.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Drop for RunningOutput {
    fn drop(&mut self) {
        lock(&self.parts).clear();
        // Fails if a task was still running, whose output then stays for inspection, or if no
        // output was long enough for a file.
        let _ = fs::remove_dir(&self.dir);
    }
}

/// Output of an ended task, to be kept or discarded.
#[derive(Debug)]
pub(super) struct Released(OutputPart);

impl Released {
    /// Passes the output to `to` in chunks and removes its file.
    pub fn pass(mut self, mut to: impl FnMut(&[u8]) -> Result<(), OutputError>) -> Result<(), OutputError> {
        if let Some(spill) = &mut self.0.spilled {
            spill.file.seek(SeekFrom::Start(0)).map_err(OutputError::io("read", &spill.path))?;
            let mut chunk = vec![0; MAX_BUFFER_BYTES];
            loop {
                match spill.file.read(&mut chunk) {
                    Ok(0) => break,
                    Ok(n) => to(&chunk[..n])?,
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    Err(error) => return Err(OutputError::io("read", &spill.path)(error)),
                }
            }
        }
        if !self.0.memory.is_empty() {
            to(&self.0.memory)?;
        }
        self.discard()
    }

    /// Discards the output and its file.
    pub fn discard(self) -> Result<(), OutputError> {
        let Some(spill) = self.0.spilled else { return Ok(()) };
        fs::remove_file(&spill.path).map_err(OutputError::io("remove", &spill.path))
    }
}

impl Spill {
    fn create(dir: &Path, key: OutputKey) -> Result<Spill, OutputError> {
        fs::create_dir_all(dir).map_err(OutputError::io("create", dir))?;
        let path = dir.join(format!("{}-{}.{}", key.task.0, key.attempt, extension(key.stream)));
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(true).open(&path);
        Ok(Spill { file: file.map_err(OutputError::io("create", &path))?, path })
    }
}
