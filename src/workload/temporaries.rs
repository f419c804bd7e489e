//! Temporary outputs (`keep = false`), and how long they are needed: until the last task that reads
//! them has completed.

use rustc_hash::FxHashMap;

use crate::graph::link::GroupId;
use crate::job::{Job, Task, WrittenFiles};
use crate::model::TaskId;

/// A temporary output: the task that writes it, and its number among the temporary outputs of that
/// task.
pub type TemporaryFile = (TaskId, u32);

/// The temporary outputs of a job that are still needed.
#[derive(Debug, Default)]
pub struct Temporaries {
    files: Vec<(TemporaryFile, Readers)>,
    /// The files that a task reads, until it is done; and those that it writes.
    read_by: FxHashMap<TaskId, Vec<u32>>,
    written_by: FxHashMap<TaskId, Vec<u32>>,
    /// The files by their paths.
    written: WrittenFiles<u32>,
    /// The files that the tasks read which a running attempt offers, by its task: nobody knows yet
    /// whether these count.
    offered: FxHashMap<TaskId, Vec<u32>>,
}

/// The readers of a file.
#[derive(Clone, Copy, Debug, Default)]
struct Readers {
    all: u32,
    /// Those that are not done, and offers of further ones.
    left: u32,
    /// Nobody needed the file any more, so it is gone.
    is_over: bool,
}

impl Temporaries {
    /// Those of a job, of which no task is done.
    pub fn of(job: &Job) -> Temporaries {
        let mut temporaries = Temporaries::default();
        let tasks_of = |wanted: &dyn Fn(usize) -> bool| {
            let groups = job.groups.iter().enumerate().filter(|(number, _)| wanted(*number));
            let tasks = groups.flat_map(|(_, group)| (group.first.0..).take(group.count as usize).map(TaskId));
            tasks.filter_map(|task| job.task(task).ok()).collect::<Vec<_>>()
        };
        for task in tasks_of(&|number| job.has_temporaries(number)) {
            for (number, file) in (0..).zip(&task.temporary) {
                let number = temporaries.add((task.id, number));
                temporaries.written.insert_path(&task.dir.join(file), number);
            }
        }
        if temporaries.files.is_empty() {
            return temporaries;
        }
        for task in tasks_of(&|number| job.is_staged(number)) {
            temporaries.add_task(&task);
        }
        temporaries
    }

    fn add(&mut self, file: TemporaryFile) -> u32 {
        let number = self.files.len() as u32;
        self.files.push((file, Readers::default()));
        self.written_by.entry(file.0).or_default().push(number);
        number
    }

    fn add_reader(&mut self, file: u32, reader: TaskId) {
        let read = self.read_by.entry(reader).or_default();
        if !read.contains(&file) {
            read.push(file);
            let readers = &mut self.files[file as usize].1;
            *readers = Readers { all: readers.all + 1, left: readers.left + 1, ..*readers };
        }
    }

    /// The files that a task reads.
    fn read_in(&self, task: &Task) -> Vec<u32> {
        task.inputs.iter().filter_map(|(file, _)| self.written.writer_of_path(&task.dir.join(file))).collect()
    }

    fn add_task(&mut self, task: &Task) {
        self.read_in(task).into_iter().for_each(|file| self.add_reader(file, task.id));
    }

    /// Why a task that is to be added to the job does not find a temporary file that it reads, if
    /// there is one.
    pub fn refusal(&self, job: &Job, added: &Job) -> Option<String> {
        self.tasks_of(added, 0).find_map(|task| {
            let gone = |file: &u32| !task.is_staged || self.files[*file as usize].1.is_over;
            let file = self.read_in(&task).into_iter().find(gone)?;
            let (writer, number) = self.files[file as usize].0;
            let reader = added.task_name(task.id);
            let file = job.task(writer).ok().and_then(|task| task.temporary.get(number as usize).cloned());
            let (file, writer) = (file.unwrap_or_default(), job.task_name(writer));
            let why = match task.is_staged {
                true => "which is removed, as its last reader has completed: list it under `inputs` of the task that adds",
                false => "which lies in no directory: add `stage = \"node\"` to",
            };
            Some(format!(
                "`{reader}` reads {}, which `{writer}` writes with `keep = false` and {why} `{reader}`, or keep the file",
                file.display()
            ))
        })
    }

    /// Tasks have been added to the job, whose tables begin with this one.
    pub fn add_tasks(&mut self, job: &Job, first: GroupId) {
        let tasks: Vec<Task> = self.tasks_of(job, first).collect();
        tasks.iter().for_each(|task| self.add_task(task));
    }

    /// The tasks of a job from a table on; none if there are no temporary files.
    fn tasks_of<'a>(&self, job: &'a Job, first: GroupId) -> impl Iterator<Item = Task> + use<'a> {
        let groups = job.groups.get(first as usize..).filter(|_| !self.is_empty()).unwrap_or_default();
        let tasks = groups.iter().flat_map(|group| (group.first.0..).take(group.count as usize).map(TaskId));
        tasks.filter_map(|task| job.task(task).ok())
    }

    /// A running attempt offers tasks, in place of those that it offered before: what they read
    /// stays until the offer is settled.
    pub fn offer(&mut self, by: TaskId, added: &Job) {
        let read: Vec<u32> = self.tasks_of(added, 0).flat_map(|task| self.read_in(&task)).collect();
        read.iter().for_each(|file| self.files[*file as usize].1.left += 1);
        for file in self.offered.insert(by, read).into_iter().flatten() {
            self.files[file as usize].1.left -= 1;
        }
    }

    /// An offer has been settled, after its tasks were added if they count: the files that nobody
    /// needs any more.
    pub fn settle(&mut self, by: TaskId) -> Vec<TemporaryFile> {
        let read = self.offered.remove(&by).into_iter().flatten();
        read.filter_map(|file| self.release(file)).collect()
    }

    /// One that needed the file does not need it any more. Returns it if nobody does.
    fn release(&mut self, file: u32) -> Option<TemporaryFile> {
        let (name, readers) = &mut self.files[file as usize];
        readers.left -= 1;
        readers.is_over |= readers.left == 0;
        (readers.left == 0).then_some(*name)
    }

    /// True if the job has none.
    pub fn is_empty(&self) -> bool {
        self.files.is_empty()
    }

    /// True if a task reads what this one writes under this number.
    pub fn is_read(&self, (writer, number): TemporaryFile) -> bool {
        let written = self.written_by.get(&writer).into_iter().flatten();
        let mut files = written.map(|file| self.files[*file as usize]);
        files.any(|(file, readers)| file.1 == number && readers.all > 0)
    }

    /// A task has completed: the files that nobody needs any more. A task that completes again
    /// counts once.
    pub fn done(&mut self, task: TaskId) -> Vec<TemporaryFile> {
        let mut over = Vec::new();
        for file in self.read_by.remove(&task).into_iter().flatten() {
            over.extend(self.release(file));
        }
        for file in self.written_by.get(&task).into_iter().flatten() {
            let (name, readers) = &mut self.files[*file as usize];
            readers.is_over |= readers.left == 0;
            over.extend((readers.left == 0).then_some(*name));
        }
        over
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Whatever the order in which tasks complete, and however often: a file goes when its last
        /// reader is done, not earlier.
        #[test]
        fn a_file_goes_with_its_last_reader(
            readers in prop::collection::vec(prop::collection::vec(10..16u32, 0..5), 1..10),
            order in prop::collection::vec(0..16u32, 0..40),
        ) {
            let mut temporaries = Temporaries::default();
            for (writer, readers) in (0..).zip(&readers) {
                let file = temporaries.add((TaskId(writer / 2), writer % 2));
                readers.iter().for_each(|reader| temporaries.add_reader(file, TaskId(*reader)));
                prop_assert_eq!(temporaries.is_read((TaskId(writer / 2), writer % 2)), !readers.is_empty());
            }
            let (mut done, mut gone) = (HashSet::new(), HashSet::new());
            for task in order {
                let over = temporaries.done(TaskId(task));
                done.insert(task);
                gone.extend(over);
                for (file, readers) in (0..).zip(&readers) {
                    let name = (TaskId(file / 2), file % 2);
                    let are_done = readers.iter().all(|reader| done.contains(reader));
                    let expected = are_done && (!readers.is_empty() || done.contains(&(file / 2)));
                    prop_assert_eq!(gone.contains(&name), expected, "{:?} after {:?}", name, done);
                }
            }
        }
    }

    #[test]
    fn readers_are_found_by_the_names_of_files() {
        let text = "[[task]]\nname = 'a'\narray = '0-1'\nstage = 'node'\ncommand = 'x'\n\
                    outputs = ['k-{index}', { file = 't-{index}', keep = false }, { file = 'u-{index}', keep = false }]\n\
                    [[task]]\nname = 'b'\narray = '0-1'\ndir = 'sub/..'\nstage = 'node'\ncommand = 'x'\n\
                    inputs = ['k-{index}', 't-{index}']\n\
                    [[task]]\nname = 'c'\nstage = 'node'\ncommand = 'x'\ninputs = ['t-0', 't-1']\n";
        let loaded =
            crate::job::parse(text, "j", std::path::Path::new("/d"), &crate::exec::Kernels::builtin()).unwrap();
        let mut temporaries = Temporaries::of(&loaded.job);
        assert!(temporaries.is_read((TaskId(0), 0)) && !temporaries.is_read((TaskId(0), 1)));
        assert_eq!(temporaries.done(TaskId(1)), [(TaskId(1), 1)], "nobody reads u-1");
        assert_eq!(temporaries.done(TaskId(4)), []);
        assert_eq!(temporaries.done(TaskId(2)), [(TaskId(0), 0)]);
        assert_eq!(temporaries.done(TaskId(2)), []);
    }

    #[test]
    fn a_file_stays_for_tasks_that_are_offered_and_for_those_that_are_added() {
        let text = "[[task]]\nname = 'w'\nstage = 'node'\ncommand = 'x'\noutputs = { file = 't', keep = false }\n\
                    [[task]]\nname = 'adds'\nstage = 'node'\ncommand = 'x'\ninputs = 't'\n";
        let kernels = crate::exec::Kernels::builtin();
        let job = crate::job::parse(text, "j", std::path::Path::new("/d"), &kernels).unwrap().job;
        let more = |name: &str, stage: &str| {
            let text = format!("[[task]]\nname = '{name}'\n{stage}command = 'x'\ninputs = 't'\n");
            let growing = crate::job::GrowingJob::new(job.clone());
            growing.check(text.into(), "added", &kernels, crate::job::Whose::User, &|_| false).unwrap().job
        };
        let (extra, plain) = (more("extra", "stage = 'node'\n"), more("plain", ""));
        let (writer, adder, file) = (TaskId(0), TaskId(1), (TaskId(0), 0));
        for counts in [true, false] {
            let mut temporaries = Temporaries::of(&job);
            assert!(temporaries.refusal(&job, &plain).unwrap().contains("add `stage"));
            assert_eq!(temporaries.refusal(&job, &extra), None);
            temporaries.offer(adder, &extra);
            temporaries.offer(adder, &extra);
            assert_eq!((temporaries.done(writer), temporaries.done(adder)), (vec![], vec![]));
            if counts {
                temporaries.add_tasks(&extra, 0);
                assert_eq!(temporaries.settle(adder), []);
                assert_eq!(temporaries.done(TaskId(2)), [file]);
            } else {
                assert_eq!(temporaries.settle(adder), [file]);
            }
            let refusal = temporaries.refusal(&job, &extra).unwrap();
            assert!(refusal.contains("`extra` reads t, which `w` writes") && refusal.contains("removed"), "{refusal}");
        }
    }
}
