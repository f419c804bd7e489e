//! The files that staged tasks read and write: who writes what, and how much it is.
//!
//! A simulated run moves them between nodes as a real one would. Of a directory only its own name
//! counts, as a real run knows its files when it has them.

use std::path::{Path, PathBuf};

use rustc_hash::FxHashMap;

use crate::job::{Job, Task, clean_path};
use crate::model::TaskId;
use crate::schedule::locality::ReadFiles;

/// Number of a file in [`StagedFiles`].
pub(crate) type FileNumber = u32;

/// The files of the staged tasks of a job.
#[derive(Debug, Default)]
pub struct StagedFiles {
    files: Vec<StagedFile>,
    tasks: FxHashMap<TaskId, TaskFiles>,
}

/// A file that a staged task reads or writes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct StagedFile {
    /// The staged task that writes it.
    pub(crate) writer: Option<TaskId>,
    /// It is written with `keep = false`.
    pub(crate) is_temporary: bool,
    /// Its size, if it is known.
    pub(crate) bytes: Option<u64>,
}

/// The files of a staged task.
#[derive(Debug, Default)]
pub(crate) struct TaskFiles {
    /// What it reads, each file once.
    pub(crate) reads: Box<[FileNumber]>,
    /// What it writes.
    pub(crate) writes: Box<[FileNumber]>,
}

impl StagedFiles {
    /// The files of a job; `None` if no task is staged. A size is the declared one, else what
    /// `on_disk` knows of the file.
    pub(crate) fn of(job: &Job, on_disk: &dyn Fn(&Path) -> Option<u64>) -> Option<StagedFiles> {
        let groups = (0..).zip(&job.groups).filter(|(number, _)| job.is_staged(*number)).map(|(_, group)| group);
        let tasks = groups.flat_map(|group| (group.first.0..).take(group.count as usize).map(TaskId));
        let tasks: Vec<Task> = tasks.filter_map(|task| job.task(task).ok()).collect();
        if tasks.is_empty() {
            return None;
        }
        let mut all = Collected { files: StagedFiles::default(), numbers: FxHashMap::default(), on_disk };
        for task in &tasks {
            let writes = all.numbers_of(task, &task.outputs);
            for (number, (file, _)) in writes.iter().zip(&task.outputs) {
                let known = &mut all.files.files[*number as usize];
                (known.writer, known.is_temporary) = (Some(task.id), task.temporary.contains(file));
            }
            let writes = writes.into();
            all.files.tasks.insert(task.id, TaskFiles { reads: Box::default(), writes });
        }
        for task in &tasks {
            let mut reads = all.numbers_of(task, &task.inputs);
            reads.sort_unstable();
            reads.dedup();
            if let Some(files) = all.files.tasks.get_mut(&task.id) {
                files.reads = reads.into();
            }
        }
        Some(all.files)
    }

    /// The files of a task; `None` if it is not staged.
    pub(crate) fn of_task(&self, task: TaskId) -> Option<&TaskFiles> {
        self.tasks.get(&task)
    }

    /// A file.
    pub(crate) fn file(&self, number: FileNumber) -> StagedFile {
        self.files[number as usize]
    }

    /// The size of a file; 0 if it is not known.
    pub(crate) fn bytes(&self, number: FileNumber) -> u64 {
        self.file(number).bytes.unwrap_or(0)
    }

    /// What a task reads of others.
    pub(crate) fn reads(&self, task: TaskId) -> Vec<ReadFiles> {
        let reads = self.of_task(task).map_or(&[][..], |files| &files.reads);
        let files = reads.iter().map(|number| self.file(*number));
        let of_others = |file: StagedFile| Some((file.writer.filter(|writer| *writer != task)?, file.bytes));
        ReadFiles::by_writer(files.filter_map(of_others))
    }
}

/// The files of a job as they are found.
struct Collected<'a> {
    files: StagedFiles,
    numbers: FxHashMap<String, FileNumber>,
    on_disk: &'a dyn Fn(&Path) -> Option<u64>,
}

impl Collected<'_> {
    /// The numbers of files that a task declares. A size that is declared later counts, if none is
    /// known.
    fn numbers_of(&mut self, task: &Task, files: &[(PathBuf, Option<u64>)]) -> Vec<FileNumber> {
        let mut numbers = Vec::with_capacity(files.len());
        for (file, bytes) in files {
            let path = task.dir.join(file);
            let next = self.files.files.len() as FileNumber;
            let number = *self.numbers.entry(clean_path(&path)).or_insert(next);
            if number == next {
                let bytes = bytes.or_else(|| (self.on_disk)(&path));
                self.files.files.push(StagedFile { bytes, ..StagedFile::default() });
            }
            let known = &mut self.files.files[number as usize].bytes;
            *known = known.or(*bytes);
            numbers.push(number);
        }
        numbers
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exec::Kernels;
    use crate::job::parse;

    #[test]
    fn sizes_are_declared_or_those_on_disk() {
        let text = "[[task]]\nname = 'a'\nstage = 'node'\ncommand = 'x'\ninputs = ['in', 'gone']\n\
                    outputs = ['kept', { file = 'sub/../t', keep = false, size = '3K' }]\n\
                    [[task]]\nname = 'b'\nneeds = 'a'\nstage = 'node'\ncommand = 'x'\ninputs = ['./t', 't', 'kept', 'in']\n\
                    [[task]]\nname = 'c'\ncommand = 'x'\ninputs = ['in']\n";
        let job = parse(text, "t.toml", Path::new("/"), &Kernels::builtin()).unwrap().job;
        let files = StagedFiles::of(&job, &|path| path.ends_with("in").then_some(7)).unwrap();
        let [a, b, c] = [0, 1, 2].map(TaskId);
        assert_eq!(files.reads(a), []);
        let kilobytes = files.reads(b).into_iter().map(|read| (read.writer, read.bytes)).collect::<Vec<_>>();
        // The size of `kept` is not known, so that of both together is not.
        assert_eq!(kilobytes, [(a, None)]);
        let of = |task| files.of_task(task).unwrap();
        let sizes = |numbers: &[u32]| numbers.iter().map(|n| files.file(*n).bytes).collect::<Vec<_>>();
        assert_eq!(sizes(&of(a).reads), [Some(7), None]);
        assert_eq!(of(b).reads.len(), 3);
        let temporary = of(a).writes.iter().map(|n| files.file(*n)).filter(|file| file.is_temporary);
        assert_eq!(temporary.map(|file| (file.writer, file.bytes.is_some())).collect::<Vec<_>>(), [(Some(a), true)]);
        assert!(files.of_task(c).is_none());
        let plain = parse("[[task]]\nname = 'a'\ncommand = 'x'\n", "t.toml", Path::new("/"), &Kernels::builtin());
        assert!(StagedFiles::of(&plain.unwrap().job, &|_| None).is_none());
    }
}
