//! The files of completed tasks, compared with what they were when the tasks ran.

use std::cell::OnceCell;
use std::path::{Path, PathBuf};

use crate::exec::{change_of, held_files};
use crate::job::{Job, Task, WrittenFiles};
use crate::journal::{RunDir, Session, UsedFilesReader};
use crate::model::{Attempt, TaskId};
use crate::system::file_probe::FileProbe;
use crate::workload::Temporaries;

/// The files of completed tasks, compared with what they were.
pub(super) struct RunFiles<'a> {
    pub(super) probe: FileProbe,
    used: UsedFilesReader,
    job: &'a Job,
    /// The declared outputs of all tasks; made when an input is missing.
    outputs: OnceCell<WrittenFiles<TaskId>>,
    held: HeldOutputs<'a>,
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
        }
    }

    /// How the first file that differs from what an attempt has used does so.
    pub(super) fn change(&self, session: &Session, attempt: &Attempt) -> Option<String> {
        self.used.find(session.began.session, attempt, |file| {
            let state = file.state;
            let change = self.probe.ask(&file.path, move |path| change_of(path, &state)).flatten()?;
            // What a task of the job writes is looked at as its output.
            let is_output = || self.outputs.get_or_init(|| WrittenFiles::of(self.job)).writer_of(&file.path).is_some();
            if !file.path.exists() && !file.is_program && is_output() {
                return None;
            }
            let kind = if file.is_program { "program" } else { "input" };
            let path = file.path.strip_prefix(&self.job.dir).unwrap_or(&file.path);
            Some(format!("its {kind} {} {change}", path.display()))
        })
    }

    /// A declared output of a task that is gone.
    pub(super) fn lost(&self, task: TaskId) -> Option<PathBuf> {
        let task = self.job.task(task).ok()?;
        let is_lost = |file: &&PathBuf| self.held.is_there(&task, file, &self.probe) == Some(false);
        task.promised.iter().find(is_lost).cloned()
    }
}
