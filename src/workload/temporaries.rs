//! Temporary outputs (`keep = false`), and how long they are needed: until the last task that reads
//! them has completed.

use rustc_hash::FxHashMap;

use crate::job::{Job, WrittenFiles};
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
}

/// The readers of a file.
#[derive(Clone, Copy, Debug, Default)]
struct Readers {
    all: u32,
    /// Those that are not done.
    left: u32,
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
        let mut written = WrittenFiles::default();
        for task in tasks_of(&|number| job.has_temporaries(number)) {
            for (number, file) in (0..).zip(&task.temporary) {
                written.insert_path(&task.dir.join(file), temporaries.add((task.id, number)));
            }
        }
        if temporaries.files.is_empty() {
            return temporaries;
        }
        for task in tasks_of(&|number| job.is_staged(number)) {
            let read = task.inputs.iter().filter_map(|(file, _)| written.writer_of_path(&task.dir.join(file)));
            read.for_each(|file| temporaries.add_reader(file, task.id));
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
            *readers = Readers { all: readers.all + 1, left: readers.left + 1 };
        }
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
            let (name, readers) = &mut self.files[file as usize];
            readers.left -= 1;
            over.extend((readers.left == 0).then_some(*name));
        }
        let written = self.written_by.get(&task).into_iter().flatten();
        over.extend(written.map(|file| self.files[*file as usize]).filter(|(_, r)| r.left == 0).map(|(name, _)| name));
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
}
