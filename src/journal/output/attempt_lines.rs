//! What is noted of single attempts for observers, such as what the result cache did: a JSON line
//! per attempt, in a file per kind, rank and session.
//!
//! A rank with nothing to note writes no file. The last line of a rank that was killed may be
//! incomplete; it is passed over.

use std::fs;
use std::path::PathBuf;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::line_file::LineFile;
use super::{OutputError, file};
use crate::journal::RunDir;
use crate::model::{CacheUse, Rank, StageUse, TaskId};

/// Extensions of the files' names: of the result cache, and of staged tasks.
pub(super) const CACHE: &str = "cache";
pub(super) const STAGE: &str = "stage";

/// A line of the file.
#[derive(Debug, Serialize, Deserialize)]
struct Line<T> {
    task: u32,
    attempt: u16,
    #[serde(flatten)]
    noted: T,
}

/// Appends lines.
#[derive(Debug)]
pub(super) struct AttemptLines(LineFile);

impl AttemptLines {
    pub(super) fn new(run: &RunDir, session: u32, rank: Rank, extension: &str) -> AttemptLines {
        AttemptLines(LineFile::new(file(run, session, rank, extension)))
    }

    pub(super) fn append(&self, task: TaskId, attempt: u16, noted: &impl Serialize) -> Result<(), OutputError> {
        self.0.append(&Line { task: task.0, attempt, noted })
    }
}

/// Notes what was moved for staged tasks of a session that has no ranks with output of their own.
#[derive(Debug)]
pub struct StageWriter {
    dir: PathBuf,
    lines: AttemptLines,
    is_begun: bool,
}

impl StageWriter {
    /// Writes nothing until the first attempt.
    pub fn new(run: &RunDir, session: u32) -> StageWriter {
        let (dir, lines) = (session_dir(run, session), AttemptLines::new(run, session, Rank::ZERO, STAGE));
        StageWriter { dir, lines, is_begun: false }
    }

    /// Records what was moved for an attempt.
    ///
    /// # Errors
    /// Of the file system.
    pub fn append(&mut self, task: TaskId, attempt: u16, used: &StageUse) -> Result<(), OutputError> {
        if !std::mem::replace(&mut self.is_begun, true) {
            fs::create_dir_all(&self.dir).map_err(OutputError::io("create", &self.dir))?;
        }
        self.lines.append(task, attempt, used)
    }
}

fn session_dir(run: &RunDir, session: u32) -> PathBuf {
    run.outputs().join(format!("s{session}"))
}

/// What the cache did in a session: task, attempt, and what was done. Without files of it no task
/// has used the cache.
pub fn cache_uses(run: &RunDir, session: u32) -> Vec<(TaskId, u16, CacheUse)> {
    lines(run, session, CACHE)
}

/// What was moved for staged tasks in a session: task, attempt, and what was moved.
pub fn stage_uses(run: &RunDir, session: u32) -> Vec<(TaskId, u16, StageUse)> {
    lines(run, session, STAGE)
}

/// The files of a session that say what was moved for staged tasks, a JSON line for each attempt.
pub fn stage_files(run: &RunDir, session: u32) -> Vec<PathBuf> {
    files(run, session, STAGE)
}

/// The files of a session with this extension.
pub(super) fn files(run: &RunDir, session: u32, kind: &str) -> Vec<PathBuf> {
    let files = fs::read_dir(session_dir(run, session)).into_iter().flatten().flatten().map(|entry| entry.path());
    files.filter(|path| path.extension().is_some_and(|extension| extension == kind)).collect()
}

fn lines<T: DeserializeOwned>(run: &RunDir, session: u32, kind: &str) -> Vec<(TaskId, u16, T)> {
    let mut all = Vec::new();
    for path in files(run, session, kind) {
        let bytes = fs::read(path).unwrap_or_default();
        let lines = bytes.split(|byte| *byte == b'\n').filter_map(|line| serde_json::from_slice::<Line<T>>(line).ok());
        all.extend(lines.map(|line| (TaskId(line.task), line.attempt, line.noted)));
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{CacheHit, CacheMiss};

    #[test]
    fn lines_come_back_and_a_torn_one_is_passed_over() {
        let dir = tempfile::tempdir().unwrap();
        let run = RunDir::create(dir.path(), "job").unwrap();
        fs::create_dir_all(run.outputs().join("s1")).unwrap();
        assert!(cache_uses(&run, 1).is_empty());
        let writer = AttemptLines::new(&run, 1, Rank(0), CACHE);
        let hit = CacheUse { hit: Some(CacheHit { took_s: 2.5, ..CacheHit::default() }), ..CacheUse::default() };
        let miss = CacheMiss { reason: "new".into(), ..CacheMiss::default() };
        let miss = CacheUse { miss: Some(miss), not_stored: Some("it printed nothing".into()), ..CacheUse::default() };
        writer.append(TaskId(3), 1, &hit).unwrap();
        writer.append(TaskId(4), 2, &miss).unwrap();
        let path = file(&run, 1, Rank(0), CACHE);
        let whole = fs::read(&path).unwrap();
        fs::write(&path, [&whole[..], b"{\"task\":5,\"att"].concat()).unwrap();
        assert_eq!(cache_uses(&run, 1), [(TaskId(3), 1, hit), (TaskId(4), 2, miss)]);
    }
}
