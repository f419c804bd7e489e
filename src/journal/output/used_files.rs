//! Files that completed tasks used: a JSON line per task, in a file per rank and session.
//!
//! A rank that used none writes no file. A task that declares inputs has a line before its end is
//! reported, so one that lacks it counts as changed.

use std::cell::RefCell;
use std::fs;
use std::rc::Rc;

use rustc_hash::FxHashMap;
use serde::{Deserialize, Serialize};

use super::attempt_lines::files;
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
type ByAttempt = FxHashMap<(TaskId, u16), Rc<[UsedFile]>>;

/// The files that the latest attempts used, with their numbers, by task.
type ByTask = FxHashMap<TaskId, (u16, Rc<[UsedFile]>)>;

/// Finds what completed tasks have used.
#[derive(Debug)]
pub struct UsedFilesReader {
    run: RunDir,
    /// What was read so far, by session and rank.
    read: RefCell<FxHashMap<(u32, Rank), ByAttempt>>,
    /// Those of all ranks of a session.
    sessions: RefCell<FxHashMap<u32, ByTask>>,
}

impl UsedFilesReader {
    /// A reader for a run.
    pub fn new(run: &RunDir) -> UsedFilesReader {
        UsedFilesReader { run: run.clone(), read: RefCell::default(), sessions: RefCell::default() }
    }

    /// The files that a completed attempt has used; `None` without a record.
    pub fn of(&self, session: u32, attempt: &Attempt) -> Option<Rc<[UsedFile]>> {
        if attempt.attempt == 0 {
            // Its own end was not recorded: neither are its number and its rank.
            let mut sessions = self.sessions.borrow_mut();
            let latest = sessions.entry(session).or_insert_with(|| self.latest_of(session));
            return latest.get(&attempt.task).map(|(_, files)| Rc::clone(files));
        }
        let mut known = self.read.borrow_mut();
        let read = known
            .entry((session, attempt.rank))
            .or_insert_with(|| read(&file(&self.run, session, attempt.rank, EXTENSION)));
        read.get(&(attempt.task, attempt.attempt)).cloned()
    }

    fn latest_of(&self, session: u32) -> ByTask {
        let mut latest: ByTask = FxHashMap::default();
        for ((task, attempt), used) in files(&self.run, session, EXTENSION).iter().flat_map(|path| read(path)) {
            if latest.get(&task).is_none_or(|(known, _)| *known < attempt) {
                latest.insert(task, (attempt, used));
            }
        }
        latest
    }
}

fn read(path: &std::path::Path) -> ByAttempt {
    // Without the file nothing is known: an older version, or no task used files.
    let bytes = fs::read(path).unwrap_or_default();
    let lines = bytes.split(|byte| *byte == b'\n').filter_map(|line| serde_json::from_slice::<Line>(line).ok());
    lines.map(|line| ((TaskId(line.task), line.attempt), line.files.into())).collect()
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
        let files = |session: u32, attempt: &Attempt| reader.of(session, attempt).map(|files| files.to_vec());
        assert_eq!(files(1, &attempt(3)), Some(vec![used("/a"), used("/é \n")]));
        assert_eq!(files(1, &attempt(4)), None);
        assert_eq!(files(2, &attempt(3)), None);
        // Of a task that completed without a record of its end: what its latest attempt used.
        UsedFilesWriter::new(&run, 1, Rank(1)).append(TaskId(3), 2, &[used("/b")]).unwrap();
        let reader = UsedFilesReader::new(&run);
        let implied = |task: u32| Attempt { attempt: 0, ..attempt(task) };
        assert_eq!(reader.of(1, &implied(3)).map(|files| files.to_vec()), Some(vec![used("/b")]));
        assert_eq!(reader.of(1, &implied(4)), None);
    }
}
