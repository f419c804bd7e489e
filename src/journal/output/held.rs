//! Output that is kept only if its task fails (`output = "failed"`): held back until the task's end decides.
//!
//! Short output waits in memory. What grows beyond [`IN_MEMORY`] goes to a file of its own, so that a task which prints
//! gigabytes and then succeeds costs neither memory nor, in the end, disk.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use rustc_hash::FxHashMap;

use super::{Key, OutputError, extension};
use crate::model::Stream;
use crate::model::TaskId;

/// Bytes of one stream of one attempt that wait in memory.
const IN_MEMORY: usize = 64 << 10;

/// The output of running tasks. Its owner guards it by a mutex.
#[derive(Debug)]
pub(super) struct Held {
    dir: PathBuf,
    parts: FxHashMap<Key, Part>,
}

#[derive(Debug, Default)]
struct Part {
    memory: Vec<u8>,
    spilled: Option<Spill>,
}

#[derive(Debug)]
struct Spill {
    path: PathBuf,
    file: File,
}

impl Held {
    pub fn new(dir: PathBuf) -> Held {
        Held { dir, parts: FxHashMap::default() }
    }

    pub fn append(&mut self, key: Key, bytes: &[u8]) -> Result<(), OutputError> {
        let part = self.parts.entry(key).or_default();
        if part.memory.len() + bytes.len() <= IN_MEMORY {
            part.memory.extend_from_slice(bytes);
            return Ok(());
        }
        if part.spilled.is_none() {
            part.spilled = Some(Spill::create(&self.dir, key)?);
        }
        if let Some(spill) = &mut part.spilled {
            let written = spill.file.write_all(&part.memory).and_then(|()| spill.file.write_all(bytes));
            written.map_err(OutputError::io("write", &spill.path))?;
            part.memory.clear();
        }
        Ok(())
    }

    /// Takes out what an attempt printed to a stream.
    pub fn take(&mut self, task: TaskId, attempt: u16, stream: Stream) -> Option<Released> {
        self.parts.remove(&Key { task, attempt, stream }).map(Released)
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.parts.clear();
        // Empty unless a task was still running, whose output then stays for whoever looks; absent if nothing was long.
        let _ = fs::remove_dir(&self.dir);
    }
}

/// Output that waits no longer: it is passed on, or dropped.
#[derive(Debug)]
pub(super) struct Released(Part);

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
    fn create(dir: &Path, key: Key) -> Result<Spill, OutputError> {
        fs::create_dir_all(dir).map_err(OutputError::io("create", dir))?;
        let path = dir.join(format!("{}-{}.{}", key.task.0, key.attempt, extension(key.stream)));
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(true).open(&path);
        Ok(Spill { file: file.map_err(OutputError::io("create", &path))?, path })
    }
}
