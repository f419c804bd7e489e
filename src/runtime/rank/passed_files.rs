//! What the staged tasks of a run read of each other, and how much that is.

use std::hash::{BuildHasher, BuildHasherDefault};
use std::path::Path;
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use rustc_hash::{FxHashMap, FxHasher};

use crate::job::{Job, WrittenFiles};
use crate::model::{StageUse, TaskId};
use crate::schedule::locality::ReadFiles;

/// The files that staged tasks pass to each other, as a rank knows them.
pub(super) struct PassedFiles {
    /// A number that all ranks of the node share.
    pub(super) node: u64,
    /// Who writes what, once that is asked.
    written: OnceLock<WrittenFiles<TaskId>>,
    /// What tasks read: of each writer, the bytes that the job declares.
    read: Mutex<FxHashMap<TaskId, Vec<ReadFiles>>>,
    /// The bytes that tasks have written here.
    seen: Mutex<FxHashMap<TaskId, u64>>,
}

/// No panic leaves these tables half changed.
fn lock<T>(table: &Mutex<T>) -> MutexGuard<'_, T> {
    table.lock().unwrap_or_else(PoisonError::into_inner)
}

impl PassedFiles {
    /// Those of a job on a node; `None` if there are none.
    pub(super) fn of(job: &Job, node: &str) -> Option<PassedFiles> {
        job.passes_files_between_tasks().then(|| PassedFiles {
            node: BuildHasherDefault::<FxHasher>::default().hash_one(node),
            written: OnceLock::new(),
            read: Mutex::default(),
            seen: Mutex::default(),
        })
    }

    /// An attempt at a task has ended here.
    pub(super) fn note(&self, task: TaskId, used: &StageUse) {
        let bytes = used.written + used.held;
        if bytes > 0 {
            lock(&self.seen).insert(task, bytes);
        }
    }

    /// What a task of the job reads of others.
    pub(super) fn reads(&self, job: &Job, task: TaskId) -> Vec<ReadFiles> {
        let known = lock(&self.read).get(&task).cloned();
        let mut files = known.unwrap_or_else(|| {
            let files = self.find(job, task);
            lock(&self.read).insert(task, files.clone());
            files
        });
        let seen = lock(&self.seen);
        files.iter_mut().for_each(|file| file.bytes = file.bytes.or_else(|| seen.get(&file.writer).copied()));
        files
    }

    fn find(&self, job: &Job, task: TaskId) -> Vec<ReadFiles> {
        let written = self.written.get_or_init(|| WrittenFiles::of(job));
        let Ok(task) = job.task(task) else { return Vec::new() };
        let writer = |file: &Path| written.writer_of(&task.dir.join(file)).filter(|writer| *writer != task.id);
        ReadFiles::by_writer(task.inputs.iter().filter_map(|(file, bytes)| Some((writer(file)?, *bytes))))
    }
}
