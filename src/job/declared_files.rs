//! The files that the tasks of a run declare, by which tasks that are added to it are ordered, by
//! the rule of `file_order`: an added task that reads a file depends on the task of the run that
//! writes it.
//!
//! There is no order the other way round, because tasks of the run may start at any time: an
//! addition that writes what they still read, or write as well, is refused.

use std::ops::Range;
use std::sync::OnceLock;

use rustc_hash::FxHashSet;

use super::Job;
use super::body::{Body, FileTemplate};
use super::file_order::{FileMistake, FileOrder, FileTable, FileTables, OutputOrigin};
use super::written_files::WrittenFiles;
use crate::graph::link::{GroupId, LinkShape};
use crate::model::TaskId;

/// The declared files of a job, collected when an addition first needs them.
#[derive(Default)]
pub(crate) struct DeclaredFiles(OnceLock<Index>);

/// Who reads and who writes each file.
#[derive(Default)]
struct Index {
    written: WrittenFiles<OutputOrigin>,
    /// The files that tasks read: numbers in `readers`.
    read: WrittenFiles<u32>,
    readers: Vec<(Box<str>, Vec<Reader>)>,
}

/// A task that reads a file.
#[derive(Clone, Copy)]
struct Reader {
    group: GroupId,
    /// `None`: all tasks of the group.
    element: Option<u32>,
}

impl Index {
    fn add(&mut self, job: &Job, groups: Range<GroupId>) {
        for group in groups {
            let table = job.table(group);
            insert_outputs(&mut self.written, &table, group);
            for file in table.reads() {
                if table.reads_one_file(&file.name) {
                    self.insert_reader(table.absolute(0, &file.name), Reader { group, element: None });
                } else {
                    for element in 0..table.count {
                        let reader = Reader { group, element: Some(element) };
                        self.insert_reader(table.absolute(element, &file.name), reader);
                    }
                }
            }
        }
    }

    fn insert_reader(&mut self, name: String, reader: Reader) {
        match self.read.writer(&name) {
            Some(known) => self.readers[known as usize].1.push(reader),
            None => {
                self.read.insert(&name, self.readers.len() as u32);
                self.readers.push((name.into(), vec![reader]));
            }
        }
    }
}

fn insert_outputs(written: &mut WrittenFiles<OutputOrigin>, table: &FileTable<'_>, group: GroupId) {
    for (output, file) in (0..).zip(&table.body.outputs) {
        for element in 0..table.count {
            // Another task may have the file for its standard output.
            written.insert_shared(&table.absolute(element, &file.name), OutputOrigin { group, element, output });
        }
    }
    table.collect_streams(group, written);
}

impl DeclaredFiles {
    /// Adds the files of the groups from `first` on.
    pub(super) fn grow(&mut self, job: &Job, first: GroupId) {
        if let Some(index) = self.0.get_mut() {
            index.add(job, first..job.groups.len() as GroupId);
        }
    }

    /// Compares them with those of `count` groups that are to be added to the job.
    pub(super) fn beside<'a>(&'a self, job: &'a Job, own: &'a dyn FileTables, count: GroupId) -> GrownFiles<'a> {
        let of_job = self.0.get_or_init(|| {
            let mut index = Index::default();
            index.add(job, 0..job.groups.len() as GroupId);
            index
        });
        let mut written = WrittenFiles::default();
        let tables = GrownTables { job, own };
        (0..count).for_each(|group| insert_outputs(&mut written, &own.table(group), tables.number(group)));
        GrownFiles { tables, of_job, written, count }
    }
}

/// The groups of a job, and behind them those that are to be added.
struct GrownTables<'a> {
    job: &'a Job,
    own: &'a dyn FileTables,
}

impl GrownTables<'_> {
    /// The number that an added group gets.
    fn number(&self, own: GroupId) -> GroupId {
        self.job.groups.len() as GroupId + own
    }
}

impl FileTables for GrownTables<'_> {
    fn table(&self, group: GroupId) -> FileTable<'_> {
        match group.checked_sub(self.number(0)) {
            Some(own) => self.own.table(own),
            None => self.job.table(group),
        }
    }
}

/// The files of a job with those of groups that are to be added to it.
pub(super) struct GrownFiles<'a> {
    tables: GrownTables<'a>,
    of_job: &'a Index,
    /// What the added groups write.
    written: WrittenFiles<OutputOrigin>,
    /// Number of the added groups.
    count: GroupId,
}

/// An added task writes a file that belongs to a task of the run.
pub(super) struct Conflict {
    /// The output, with the number of its group among those that are added.
    pub output: OutputOrigin,
    /// Name of the file.
    pub file: String,
    /// Name of the task of the run.
    pub other: String,
    /// True if that reads the file, false if it writes it.
    pub reads: bool,
}

impl GrownFiles<'_> {
    fn order<'b>(&'b self, written: &'b [&'b WrittenFiles<OutputOrigin>; 2]) -> FileOrder<'b> {
        FileOrder { tables: &self.tables, written }
    }

    /// The dependencies of an added group on tasks of the job through one of its inputs.
    pub(super) fn links(
        &self,
        to: GroupId,
        file: &FileTemplate,
    ) -> Result<Vec<(OutputOrigin, LinkShape)>, FileMistake> {
        let is_of_job = |group: GroupId| group < self.tables.number(0);
        let written = [&self.of_job.written, &self.written];
        self.order(&written).links(self.tables.number(to), file, &is_of_job, &mut |_| ())
    }

    /// The first output of each added group that a task of the job writes, too, or that one reads
    /// which has not ended.
    pub(super) fn conflicts(&self, has_ended: &dyn Fn(TaskId) -> bool) -> Vec<Conflict> {
        (0..self.count).filter_map(|group| self.conflict(group, has_ended)).collect()
    }

    fn conflict(&self, group: GroupId, has_ended: &dyn Fn(TaskId) -> bool) -> Option<Conflict> {
        let table = self.tables.own.table(group);
        (0..table.count).find_map(|element| {
            let outputs =
                (0..).zip(&table.body.outputs).map(|(output, file)| (output, table.absolute(element, &file.name)));
            outputs.chain(table.streams(element)).find_map(|(output, file)| {
                let declares = |writer: &OutputOrigin| {
                    let is_output = |body: &Body, output: u32| (output as usize) < body.outputs.len();
                    is_output(table.body, output)
                        && is_output(&self.tables.job.bodies[writer.group as usize], writer.output)
                };
                let writer = self.of_job.written.writers(&file).find(declares);
                let reader = || self.readers(OutputOrigin { group: self.tables.number(group), element, output }, &file);
                let (task, reads) = match writer {
                    Some(writer) => (self.task(writer.group, writer.element), false),
                    None => (reader().find(|task| !has_ended(*task))?, true),
                };
                let output = OutputOrigin { group, element, output };
                Some(Conflict { output, other: self.tables.job.task_name(task), file, reads })
            })
        })
    }

    fn task(&self, group: GroupId, element: u32) -> TaskId {
        TaskId(self.tables.job.groups[group as usize].first.0 + element)
    }

    /// The tasks of the job that read what an added task writes.
    fn readers<'b>(&'b self, writer: OutputOrigin, file: &str) -> impl Iterator<Item = TaskId> + 'b {
        let mut files: Vec<u32> = self.of_job.read.writer(file).into_iter().collect();
        files.extend(self.of_job.read.around(file));
        self.of_job.read.each_inside(file, &mut |number| files.push(number));
        let written = [&self.of_job.written, &self.written];
        let is_read = move |reader: &Reader, name: &str| {
            self.order(&written).writers(reader.group, reader.element.unwrap_or(0), name).contains(&writer)
        };
        let read = files.into_iter().map(|number| &self.of_job.readers[number as usize]);
        let readers = read.flat_map(|(name, readers)| readers.iter().map(move |reader| (name, reader)));
        readers.filter(move |(name, reader)| is_read(reader, name)).flat_map(|(_, reader)| {
            let group = &self.tables.job.groups[reader.group as usize];
            let elements = reader.element.map_or(0..group.count, |element| element..element + 1);
            elements.map(|element| self.task(reader.group, element))
        })
    }
}

/// The names of the files that tasks declare.
pub struct FileSet {
    /// Declared outputs.
    written: FxHashSet<String>,
    /// Files for standard output and standard error.
    streams: FxHashSet<String>,
    read: FxHashSet<String>,
}

impl FileSet {
    /// Those of these tasks of a job.
    pub fn of(job: &Job, is_one: &dyn Fn(TaskId) -> bool) -> FileSet {
        let (mut written, mut streams, mut read) = (FxHashSet::default(), FxHashSet::default(), FxHashSet::default());
        for (group, of_group) in (0..).zip(&job.groups) {
            let table = job.table(group);
            let elements = || (0..table.count).filter(|element| is_one(TaskId(of_group.first.0 + element)));
            streams.extend(elements().flat_map(|element| table.streams(element)).map(|(_, name)| name));
            for file in &table.body.outputs {
                written.extend(elements().map(|element| table.absolute(element, &file.name)));
            }
            for file in table.reads() {
                read.extend(elements().map(|element| table.absolute(element, &file.name)));
            }
        }
        FileSet { written, streams, read }
    }

    /// A declared output that both sets have.
    pub fn written_by_both(&self, other: &FileSet) -> Option<&str> {
        self.written.iter().find(|file| other.written.contains(*file)).map(String::as_str)
    }

    /// A file that one of two sets of tasks writes and the other one reads, or declares as output,
    /// too.
    pub fn shared_with<'a>(&'a self, other: &'a FileSet) -> Option<&'a str> {
        let is_read = |file: &&String, by: &FileSet| by.read.contains(*file);
        let read = self.written.iter().chain(&self.streams).find(|file| is_read(file, other));
        let reads = || other.written.iter().chain(&other.streams).find(|file| is_read(file, self));
        self.written_by_both(other).or_else(|| read.or_else(reads).map(String::as_str))
    }
}
