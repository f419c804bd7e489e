//! The files of completed tasks, compared with what they were when the tasks ran.

use std::cell::{OnceCell, RefCell};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use rustc_hash::FxHashSet;
use xxhash_rust::xxh3::xxh3_128;

use crate::exec::{change_of, has_record, held_files};
use crate::job::{Container, Job, Task, WrittenFiles};
use crate::journal::{RunDir, Session, UsedFilesReader};
use crate::model::{Attempt, TaskId, UsedFile};
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
    /// The declared inputs of all tasks, made when an output is missing.
    inputs: OnceCell<WrittenFiles<TaskId>>,
    /// Hashes of the names of files that have been found unchanged, so that they are there.
    seen: RefCell<FxHashSet<u128>>,
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
            inputs: OnceCell::new(),
            seen: RefCell::default(),
            missing: RefCell::default(),
        }
    }

    /// How the first file that differs from what an attempt at a task has used does so. One that is
    /// missing, that no task writes, and that the task cannot do without is no such file: to run
    /// the task again would only lose what it has left. Without a record of its inputs nobody can
    /// tell whether they differ.
    pub(super) fn change(&self, task: TaskId, session: &Session, attempt: &Attempt) -> Option<String> {
        let Some(files) = self.used.of(session.began.session, attempt) else {
            let has_record = self.job.declares_inputs(task) && self.job.task(task).is_ok_and(|task| has_record(&task));
            return has_record.then(|| "the state of its inputs was not recorded when it ran".to_owned());
        };
        if files.is_empty() {
            return None;
        }
        let task = self.job.task(task).ok()?;
        files.iter().find_map(|file| self.change_of(&task, file))
    }

    fn change_of(&self, task: &Task, file: &UsedFile) -> Option<String> {
        let (state, full) = (file.state, task.dir.join(name_now(task, file)));
        let answer = self.probe.ask(&full, move |path| change_of(path, &state))?;
        let Some(change) = answer else {
            self.seen.borrow_mut().insert(hash(&full));
            return None;
        };
        // What a task of the job writes is looked at as its output.
        let is_output = || self.outputs.get_or_init(|| WrittenFiles::of(self.job)).writer_of(&full).is_some();
        let path = full.strip_prefix(&self.job.dir).unwrap_or(&full);
        if !full.exists() {
            let mut missing = self.missing.borrow_mut();
            if is_output() {
                if !file.is_program {
                    return None;
                }
            } else if file.is_program || task.required.iter().any(|file| task.dir.join(file) == full) {
                if missing.len() < MAX_MISSING {
                    missing.insert(path.to_owned());
                }
                return None;
            }
        }
        let kind = if file.is_program { "program" } else { "input" };
        Some(format!("its {kind} {} {change}", path.display()))
    }

    /// The files that were missing, and no reason to run a task again.
    pub(super) fn into_missing(self) -> Vec<PathBuf> {
        self.missing.into_inner().into_iter().collect()
    }

    /// The declared outputs of a task that are gone: all of them or, unless it `is_wanted`, those
    /// that no task lists among its inputs. (One that is not kept goes after its last reader.)
    pub(super) fn lost(&self, task: TaskId, is_wanted: bool) -> Vec<PathBuf> {
        let Some(task) = self.job.declares_outputs(task).then(|| self.job.task(task).ok()).flatten() else {
            return Vec::new();
        };
        let is_listed = |file: &Path| {
            let inputs = self.inputs.get_or_init(|| inputs_of(self.job));
            task.temporary.iter().any(|other| other == file) || inputs.writer_of(&task.dir.join(file)).is_some()
        };
        let is_lost = |file: &&PathBuf| {
            let is_known = self.seen.borrow().contains(&hash(&task.dir.join(file)));
            !is_known && self.held.is_there(&task, file, &self.probe) == Some(false)
        };
        task.promised.iter().filter(is_lost).filter(|file| is_wanted || !is_listed(file)).cloned().collect()
    }
}

/// The declared inputs of all tasks of a job.
fn inputs_of(job: &Job) -> WrittenFiles<TaskId> {
    let mut inputs = WrittenFiles::default();
    let tasks = (0..job.task_count() as u32).map(TaskId).filter(|task| job.declares_inputs(*task));
    for task in tasks.filter_map(|task| job.task(task).ok()) {
        let files = task.inputs.iter().map(|(file, _)| file).chain(&task.stdin);
        files.for_each(|file| inputs.insert_path(&task.dir.join(file), task.id));
    }
    inputs
}

fn hash(path: &Path) -> u128 {
    xxh3_128(path.as_os_str().as_encoded_bytes())
}

/// The name of a file that a task used, as the task names it now: an image is named by its absolute
/// path, which is another one where the directory of the job was moved or copied.
fn name_now<'a>(task: &'a Task, file: &'a UsedFile) -> &'a Path {
    let image = task.container.as_ref().and_then(Container::file);
    let is_declared = || task.inputs.iter().any(|(other, _)| *other == file.path);
    let moved = image.filter(|image| file.path.is_absolute() && image.file_name() == file.path.file_name());
    moved.filter(|_| !file.is_program && !is_declared()).unwrap_or(&file.path)
}
