//! Output that is kept only if its task fails (`output = "failed"`): held back until the task's end decides.
//!
//! Short output waits in memory. What grows beyond [`IN_MEMORY`] goes to a file of its own, so that a task which prints
//! gigabytes and then succeeds costs neither memory nor, in the end, disk.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustc_hash::FxHashMap;

use super::{OutputError, OutputKey, extension};
use crate::model::Stream;
use crate::model::TaskId;

/// Bytes of one stream of one attempt that wait in memory.
const IN_MEMORY: usize = 64 << 10;

/// The output of running tasks. Slots do not wait for each other: each stream of an attempt has a
/// lock of its own, and whatever reaches the disk does so under that lock alone.
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

    /// Takes out what an attempt printed to a stream.
    pub fn take(&self, task: TaskId, attempt: u16, stream: Stream) -> Option<Released> {
        let part = lock(&self.parts).remove(&OutputKey { task, attempt, stream })?;
        Some(Released(std::mem::take(&mut *lock(&part))))
    }
}

impl OutputPart {
    fn append(&mut self, dir: &Path, key: OutputKey, bytes: &[u8]) -> Result<(), OutputError> {
        if self.memory.len() + bytes.len() > IN_MEMORY && self.spilled.is_none() {
            self.spilled = match Spill::create(dir, key) {
                Ok(spill) => Some(spill),
                // It waits in memory until a descriptor comes free.
                Err(error) if matches!(error.source.raw_os_error(), Some(libc::EMFILE | libc::ENFILE)) => None,
                Err(error) => return Err(error),
            };
        }
        match &mut self.spilled {
            Some(spill) if self.memory.len() + bytes.len() > IN_MEMORY => {
                let written = spill.file.write_all(&self.memory).and_then(|()| spill.file.write_all(bytes));
                written.map_err(OutputError::io("write", &spill.path))?;
                self.memory.clear();
                self.memory.shrink_to(IN_MEMORY);
            }
            _ => self.memory.extend_from_slice(bytes),
        }
        Ok(())
    }
}

/// What a panicking thread left behind is whole: output is only added.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Drop for RunningOutput {
    fn drop(&mut self) {
        lock(&self.parts).clear();
        // Empty unless a task was still running, whose output then stays for whoever looks; absent if nothing was long.
        let _ = fs::remove_dir(&self.dir);
    }
}

/// Output that waits no longer: it is passed on, or dropped.
#[derive(Debug)]
pub(super) struct Released(OutputPart);

impl Released {
    /// Passes it on in chunks, and removes its file.
    pub fn pass(mut self, mut to: impl FnMut(&[u8]) -> Result<(), OutputError>) -> Result<(), OutputError> {
        if let Some(spill) = &mut self.0.spilled {
            spill.file.seek(SeekFrom::Start(0)).map_err(OutputError::io("read", &spill.path))?;
            let mut chunk = vec![0; IN_MEMORY];
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

    /// Forgets it.
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
