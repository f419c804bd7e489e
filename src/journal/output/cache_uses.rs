//! What the result cache did for tasks that use it: a JSON line per attempt, in a file per rank and
//! session.
//!
//! A rank whose tasks do not use the cache writes no file. The last line of a rank that was killed
//! may be incomplete; it is passed over.

use std::fs;

use serde::{Deserialize, Serialize};

use super::line_file::LineFile;
use super::{OutputError, file};
use crate::journal::RunDir;
use crate::model::{CacheUse, Rank, TaskId};

/// Extension of the file's name.
const EXTENSION: &str = "cache";

/// A line of the file.
#[derive(Debug, Serialize, Deserialize)]
struct Line {
    task: u32,
    attempt: u16,
    #[serde(flatten)]
    used: CacheUse,
}

/// Appends lines.
#[derive(Debug)]
pub(super) struct CacheUseWriter(LineFile);

impl CacheUseWriter {
    pub(super) fn new(run: &RunDir, session: u32, rank: Rank) -> CacheUseWriter {
        CacheUseWriter(LineFile::new(file(run, session, rank, EXTENSION)))
    }

    pub(super) fn append(&self, task: TaskId, attempt: u16, used: &CacheUse) -> Result<(), OutputError> {
        self.0.append(&Line { task: task.0, attempt, used: used.clone() })
    }
}

/// What the cache did in a session: task, attempt, and what was done. Without files of it no task
/// has used the cache.
pub fn cache_uses(run: &RunDir, session: u32) -> Vec<(TaskId, u16, CacheUse)> {
    let dir = run.outputs().join(format!("s{session}"));
    let files = fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path());
    let mut uses = Vec::new();
    for path in files.filter(|path| path.extension().is_some_and(|extension| extension == EXTENSION)) {
        let bytes = fs::read(path).unwrap_or_default();
        let lines = bytes.split(|byte| *byte == b'\n').filter_map(|line| serde_json::from_slice::<Line>(line).ok());
        uses.extend(lines.map(|line| (TaskId(line.task), line.attempt, line.used)));
    }
    uses
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
        let writer = CacheUseWriter::new(&run, 1, Rank(0));
        let hit = CacheUse { hit: Some(CacheHit { took_s: 2.5, ..CacheHit::default() }), ..CacheUse::default() };
        let miss = CacheMiss { reason: "new".into(), ..CacheMiss::default() };
        let miss = CacheUse { miss: Some(miss), not_stored: Some("it printed nothing".into()), ..CacheUse::default() };
        writer.append(TaskId(3), 1, &hit).unwrap();
        writer.append(TaskId(4), 2, &miss).unwrap();
        let path = file(&run, 1, Rank(0), EXTENSION);
        let whole = fs::read(&path).unwrap();
        fs::write(&path, [&whole[..], b"{\"task\":5,\"att"].concat()).unwrap();
        assert_eq!(cache_uses(&run, 1), [(TaskId(3), 1, hit), (TaskId(4), 2, miss)]);
    }
}
