//! Files that completed tasks used: a JSON line per task, in a file per rank and session.
//!
//! A rank that used none writes no file. The lines of a rank that was killed may be incomplete: of
//! a task without a line nothing is known, and it counts as unchanged.

use std::cell::RefCell;
use std::fs;
use std::rc::Rc;

use rustc_hash::FxHashMap;
use serde::{Deserialize, Serialize};

use super::line_file::LineFile;
use super::{OutputError, file};
use crate::journal::RunDir;
use crate::model::{Attempt, Rank, TaskId, UsedFile};

/// Extension of the file's name.
const EXTENSION: &str = "files";

/// A line of the file.
#[derive(Debug, Serialize, Deserialize)]
struct Line {
    task: u32,
    attempt: u16,
    files: Vec<UsedFile>,
}

/// Appends lines.
#[derive(Debug)]
pub(super) struct UsedFilesWriter(LineFile);

impl UsedFilesWriter {
    pub(super) fn new(run: &RunDir, session: u32, rank: Rank) -> UsedFilesWriter {
        UsedFilesWriter(LineFile::new(file(run, session, rank, EXTENSION)))
    }

    /// Appends what a task has used.
    pub(super) fn append(&self, task: TaskId, attempt: u16, files: &[UsedFile]) -> Result<(), OutputError> {
        self.0.append(&Line { task: task.0, attempt, files: files.to_vec() })
    }
}

/// The files that tasks used, by task and attempt.
type ByAttempt = FxHashMap<(TaskId, u16), Vec<UsedFile>>;

/// Finds what completed tasks have used.
#[derive(Debug)]
pub struct UsedFilesReader {
    run: RunDir,
    /// What was read so far, by session and rank.
    read: RefCell<FxHashMap<(u32, Rank), Rc<ByAttempt>>>,
}

impl UsedFilesReader {
    /// A reader for a run.
    pub fn new(run: &RunDir) -> UsedFilesReader {
        UsedFilesReader { run: run.clone(), read: RefCell::default() }
    }

    /// Calls `each` with the files that an attempt has used, as far as they were recorded, until it
    /// returns something.
    pub fn find<T>(&self, session: u32, attempt: &Attempt, each: impl FnMut(&UsedFile) -> Option<T>) -> Option<T> {
        let known = self.read.borrow().get(&(session, attempt.rank)).cloned();
        let read = known.unwrap_or_else(|| {
            let read = Rc::new(read(&file(&self.run, session, attempt.rank, EXTENSION)));
            self.read.borrow_mut().insert((session, attempt.rank), Rc::clone(&read));
            read
        });
        read.get(&(attempt.task, attempt.attempt))?.iter().find_map(each)
    }
}

fn read(path: &std::path::Path) -> ByAttempt {
    // Without the file nothing is known: an older version, or no task used files.
    let bytes = fs::read(path).unwrap_or_default();
    let lines = bytes.split(|byte| *byte == b'\n').filter_map(|line| serde_json::from_slice::<Line>(line).ok());
    lines.map(|line| ((TaskId(line.task), line.attempt), line.files)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::journal::replay::tests::attempt;
    use crate::model::FileState;

    #[test]
    fn what_tasks_used_is_read_back_and_damage_is_passed_over() {
        let dir = tempfile::tempdir().unwrap();
        let run = RunDir::create(dir.path(), "job").unwrap();
        fs::create_dir_all(run.outputs().join("s1")).unwrap();
        let writer = UsedFilesWriter::new(&run, 1, Rank(0));
        assert!(!writer.0.path.exists());
        let state = FileState { size: 3, mtime_ns: -4, hash: Some(u64::MAX) };
        let used = |name: &str| UsedFile { path: name.into(), is_program: false, state };
        writer.append(TaskId(3), 1, &[used("/a"), used("/é \n")]).unwrap();
        fs::write(&writer.0.path, [fs::read(&writer.0.path).unwrap(), b"nonsense\n{\"task\":3".to_vec()].concat())
            .unwrap();
        let reader = UsedFilesReader::new(&run);
        let mut seen = Vec::new();
        let all = |file: &UsedFile| {
            seen.push(file.clone());
            None::<()>
        };
        assert_eq!(reader.find(1, &attempt(3), all), None);
        assert_eq!(seen, [used("/a"), used("/é \n")]);
        assert_eq!(reader.find(1, &attempt(4), |_| Some(())), None);
        assert_eq!(reader.find(2, &attempt(3), |_| Some(())), None);
    }
}
