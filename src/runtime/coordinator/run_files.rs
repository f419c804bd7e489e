//! The files of completed tasks, compared with what they were when the tasks ran.

use std::cell::{OnceCell, RefCell};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use crate::exec::{change_of, held_files};
use crate::job::{Job, Task, WrittenFiles};
use crate::journal::{RunDir, Session, UsedFilesReader};
use crate::model::{Attempt, TaskId};
use crate::system::file_probe::FileProbe;
use crate::workload::Temporaries;

/// Maximum number of missing files that are kept.
const MAX_MISSING: usize = 1000;

/// The files of completed tasks, compared with what they were.
pub(super) struct RunFiles<'a> {
    pub(super) probe: FileProbe,
    used: UsedFilesReader,
    job: &'a Job,
    /// The declared outputs of all tasks; made when an input is missing.
    outputs: OnceCell<WrittenFiles<TaskId>>,
    held: HeldOutputs<'a>,
    /// Files without which a task cannot run again.
    missing: RefCell<BTreeSet<PathBuf>>,
}

/// Temporary outputs of a job's tasks in the stores that this node reaches.
pub(super) struct HeldOutputs<'a> {
    job: &'a Job,
    run_dir: PathBuf,
    temporaries: OnceCell<Temporaries>,
}

impl<'a> HeldOutputs<'a> {
    pub(super) fn of(run_dir: &Path, job: &'a Job) -> HeldOutputs<'a> {
        HeldOutputs { job, run_dir: run_dir.to_owned(), temporaries: OnceCell::new() }
    }

    /// True if an output of a task is there; one that no task reads is not missed.
    pub(super) fn is_there(&self, task: &Task, file: &Path, probe: &FileProbe) -> Option<bool> {
        let Some(number) = task.temporary.iter().position(|other| other == file) else {
            return probe.exists(&task.dir.join(file));
        };
        let temporaries = self.temporaries.get_or_init(|| Temporaries::of(self.job));
        let held = || held_files(&self.job.cache, &self.run_dir, false).find(&task.dir.join(file));
        Some(!temporaries.is_read((task.id, number as u32)) || held().is_some())
    }
}

impl<'a> RunFiles<'a> {
    pub(super) fn of(dir: &RunDir, job: &'a Job) -> RunFiles<'a> {
        RunFiles {
            probe: FileProbe::default(),
            used: UsedFilesReader::new(dir),
            job,
            outputs: OnceCell::new(),
            held: HeldOutputs::of(dir.path(), job),
            missing: RefCell::default(),
        }
    }

    /// How the first file that differs from what an attempt at a task has used does so. One that is
    /// missing, that no task writes, and that the task cannot do without is no such file: to run
    /// the task again would only lose what it has left.
    pub(super) fn change(&self, task: TaskId, session: &Session, attempt: &Attempt) -> Option<String> {
        let requires = |path: &Path| {
            let task = self.job.task(task);
            task.is_ok_and(|task| task.required.iter().any(|file| task.dir.join(file) == path))
        };
        self.used.find(session.began.session, attempt, |file| {
            let state = file.state;
            let change = self.probe.ask(&file.path, move |path| change_of(path, &state)).flatten()?;
            // What a task of the job writes is looked at as its output.
            let is_output = || self.outputs.get_or_init(|| WrittenFiles::of(self.job)).writer_of(&file.path).is_some();
            let path = file.path.strip_prefix(&self.job.dir).unwrap_or(&file.path);
            if !file.path.exists() {
                let mut missing = self.missing.borrow_mut();
                if is_output() {
                    if !file.is_program {
                        return None;
                    }
                } else if file.is_program || requires(&file.path) {
                    if missing.len() < MAX_MISSING {
                        missing.insert(path.to_owned());
                    }
                    return None;
                }
            }
            let kind = if file.is_program { "program" } else { "input" };
            Some(format!("its {kind} {} {change}", path.display()))
        })
    }

    /// The files that were missing, and no reason to run a task again.
    pub(super) fn into_missing(self) -> Vec<PathBuf> {
        self.missing.into_inner().into_iter().collect()
    }

    /// A declared output of a task that is gone.
    pub(super) fn lost(&self, task: TaskId) -> Option<PathBuf> {
        let task = self.job.task(task).ok()?;
        let is_lost = |file: &&PathBuf| self.held.is_there(&task, file, &self.probe) == Some(false);
        task.promised.iter().find(is_lost).cloned()
    }
}
