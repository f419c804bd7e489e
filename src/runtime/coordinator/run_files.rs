//! The files of completed tasks, compared with what they were when the tasks ran.

use std::cell::OnceCell;
use std::path::PathBuf;

use crate::exec::change_of;
use crate::job::{Job, Task, WrittenFiles};
use crate::journal::{RunDir, Session, UsedFilesReader};
use crate::model::{Attempt, TaskId};
use crate::system::file_probe::FileProbe;

/// The files of completed tasks, compared with what they were.
pub(super) struct RunFiles<'a> {
    pub(super) probe: FileProbe,
    used: UsedFilesReader,
    job: &'a Job,
    /// The declared outputs of all tasks; made when an input is missing.
    outputs: OnceCell<WrittenFiles<TaskId>>,
}

impl<'a> RunFiles<'a> {
    pub(super) fn of(dir: &RunDir, job: &'a Job) -> RunFiles<'a> {
        RunFiles { probe: FileProbe::default(), used: UsedFilesReader::new(dir), job, outputs: OnceCell::new() }
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
        let Task { dir, promised, .. } = self.job.task(task).ok()?;
        promised.into_iter().find(|file| self.probe.exists(&dir.join(file)) == Some(false))
    }
}
