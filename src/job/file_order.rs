//! Who writes what a task reads: the rule by which files order tasks, within a job file, between
//! several, and between those of a run and those that are added to it.
//!
//! A task that reads a file depends on the task that writes it. A name may be that of a directory:
//! who reads it waits for all that write into it, and who reads a file that no task writes waits
//! for the task that writes the directory around it.
//!
//! A task writes its `outputs` and the files that it has for standard output and standard error,
//! as far as their names are known before it runs. It reads its `inputs` and its `stdin`. Files for
//! standard output order only who reads exactly that file: a directory of logs is read by tasks
//! that others follow which log there, too.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::path::Path;

use super::body::{Body, FileTemplate};
use super::file_names;
use super::template::{Element, Template};
use super::written_files::{WrittenFiles, clean};
use crate::graph::link::{GroupId, LinkShape};
use crate::system::file_probe::FileProbe;

/// Maximum number of dependencies that directories imply.
pub(super) const MAX_IMPLIED: usize = 50_000_000;

/// The writer of a file: group, element, and index among its outputs, which those for standard
/// output and standard error follow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct OutputOrigin {
    pub group: GroupId,
    pub output: u32,
    pub element: u32,
}

/// A group of tasks that read and write files.
#[derive(Clone)]
pub(super) struct FileTable<'a> {
    /// Its name in its job file.
    pub name: &'a str,
    /// Number of its tasks.
    pub count: u32,
    /// Its files.
    pub body: &'a Body,
    /// The base directory of relative paths.
    pub job_dir: Cow<'a, str>,
}

impl FileTable<'_> {
    /// A file of one of its tasks as an absolute name.
    pub(super) fn absolute(&self, number: u32, file: &Template) -> String {
        self.placed(number, &file.fill(self.element(number)))
    }

    fn element(&self, number: u32) -> Element<'_> {
        Element { name: self.name, space: self.body.space(), number }
    }

    /// A name of a file of one of its tasks as an absolute one.
    pub(super) fn placed(&self, number: u32, name: &str) -> String {
        let dir = self.body.extras.dir.as_ref().map(|dir| dir.fill(self.element(number)));
        let parts = [&*self.job_dir, dir.as_deref().unwrap_or(""), name];
        // An absolute part replaces the parts before it.
        let start = parts.iter().rposition(|part| part.starts_with('/')).unwrap_or(0);
        clean(&parts[start..])
    }

    /// The files for standard output and standard error of one of its tasks, as far as their names
    /// are known before it runs, each with its index among the outputs. Devices are no files.
    pub(super) fn streams(&self, number: u32) -> impl Iterator<Item = (u32, String)> {
        let extras = &self.body.extras;
        let first = self.body.outputs.len() as u32;
        (first..).zip([&extras.stdout, &extras.stderr]).filter_map(move |(output, name)| {
            let pattern = name.as_ref()?.fill_pattern(self.element(number));
            let name = file_names::known(&pattern, self.name, self.body.space().index(number))?;
            Some((output, self.placed(number, &name))).filter(|(_, name)| !name.starts_with("/dev/"))
        })
    }

    /// True if its tasks have files for standard output or standard error.
    fn has_streams(&self) -> bool {
        self.body.extras.stdout.is_some() || self.body.extras.stderr.is_some()
    }

    /// True if its tasks read files.
    pub(super) fn reads_any(&self) -> bool {
        !self.body.inputs.is_empty() || self.body.extras.stdin.is_some()
    }

    /// Adds its files for standard output and standard error, which other tasks may write too.
    pub(super) fn collect_streams(&self, group: GroupId, written: &mut WrittenFiles<OutputOrigin>) {
        for element in (0..self.count).filter(|_| self.has_streams()) {
            for (output, name) in self.streams(element) {
                let is_own = |other: OutputOrigin| (other.group, other.element) == (group, element);
                // An output comes before all streams, and the other stream right before this one.
                let others = [written.writer(&name), written.latest_writer(&name)];
                if !others.into_iter().flatten().any(is_own) {
                    written.insert_shared(&name, OutputOrigin { group, output, element });
                }
            }
        }
    }

    /// True if all its tasks read the same file, whatever directories they run in.
    pub(super) fn reads_one_file(&self, file: &Template) -> bool {
        let name = |number| self.absolute(number, file);
        let dir = &self.body.extras.dir;
        (file.is_same_for_all() && dir.as_ref().is_none_or(Template::is_same_for_all))
            || (self.count > 1
                && name(0) == name(self.count - 1)
                && (1..self.count).all(|number| name(number) == name(0)))
    }

    /// The files that it reads.
    pub(super) fn reads(&self) -> impl Iterator<Item = Cow<'_, FileTemplate>> {
        self.body.inputs.iter().map(Cow::Borrowed).chain(self.stdin().map(Cow::Owned))
    }

    /// The file that it reads as standard input. Which file a pattern means is known when the task
    /// starts.
    pub(super) fn stdin(&self) -> Option<FileTemplate> {
        let name = self.body.extras.stdin.as_ref().filter(|name| !self.absolute(0, name).contains('%'))?;
        Some(FileTemplate { name: name.clone(), size: None, optional: false, keep: true })
    }
}

/// Groups of tasks by number.
pub(super) trait FileTables {
    /// The group of this number.
    fn table(&self, group: GroupId) -> FileTable<'_>;
}

/// By group and output: the first writer, and the pairs of elements of writers and readers.
type PairsByOutput = BTreeMap<(GroupId, u32), (OutputOrigin, Vec<(u32, u32)>)>;

/// Why the order that a file implies is refused.
pub(super) enum FileMistake {
    /// This element reads a file that it writes itself.
    ReadsOwn(u32),
    /// It implies more than [`MAX_IMPLIED`] dependencies.
    TooMany,
}

/// The files of tables, and who writes them.
pub(super) struct FileOrder<'a> {
    pub tables: &'a dyn FileTables,
    pub written: &'a [&'a WrittenFiles<OutputOrigin>],
}

impl FileOrder<'_> {
    /// The dependencies of a group through one of its inputs: for each output that it is, one of
    /// its writers and the shape of the link. Writers that are not wanted are passed over;
    /// `unwritten` is called with the names that nobody writes.
    pub(super) fn links(
        &self,
        to: GroupId,
        file: &FileTemplate,
        is_wanted: &dyn Fn(GroupId) -> bool,
        unwritten: &mut dyn FnMut(String),
    ) -> Result<Vec<(OutputOrigin, LinkShape)>, FileMistake> {
        let mut writers = |number: u32| {
            let name = self.tables.table(to).absolute(number, &file.name);
            let mut found = self.writers(to, number, &name);
            if found.is_empty() && !self.is_written(&name) {
                unwritten(name);
            }
            found.retain(|writer| is_wanted(writer.group));
            found
        };
        let mut found = match self.tables.table(to).reads_one_file(&file.name) {
            true => {
                let mut of_all = writers(0);
                of_all.retain(|writer| writer.group != to || !self.is_stream(*writer));
                self.constant(to, &of_all)
            }
            false => self.elements(to, &mut writers),
        }?;
        found.retain(|(writer, _)| !self.is_pipe(*writer));
        Ok(found)
    }

    /// True if a file is one for standard output or standard error, and no output.
    fn is_stream(&self, writer: OutputOrigin) -> bool {
        writer.output as usize >= self.tables.table(writer.group).body.outputs.len()
    }

    /// True if a task writes the file or into the directory of this name.
    fn is_written(&self, name: &str) -> bool {
        self.written.iter().any(|written| {
            let mut any = written.writer(name).is_some();
            written.each_inside(name, &mut |_| any = true);
            any
        })
    }

    /// True if a task writes its standard output into a named pipe: who reads it runs beside that
    /// task. One file stands for those of all elements.
    fn is_pipe(&self, writer: OutputOrigin) -> bool {
        use std::os::unix::fs::FileTypeExt;
        let table = self.tables.table(writer.group);
        let Some((_, name)) = table.streams(writer.element).find(|(output, _)| *output == writer.output) else {
            return false;
        };
        let is_fifo = |path: &Path| path.metadata().is_ok_and(|facts| facts.file_type().is_fifo());
        FileProbe::default().ask(Path::new(&name), is_fifo).unwrap_or(false)
    }

    /// A file that all elements read: one look-up, whatever their number.
    fn constant(&self, to: GroupId, writers: &[OutputOrigin]) -> Result<Vec<(OutputOrigin, LinkShape)>, FileMistake> {
        // One of the tasks that read the file also writes it.
        if let Some(own) = writers.iter().find(|writer| writer.group == to) {
            return Err(FileMistake::ReadsOwn(own.element));
        }
        let readers = self.tables.table(to).count;
        let mut links = Vec::new();
        for of_output in writers.chunk_by(|a, b| (a.group, a.output) == (b.group, b.output)) {
            let shape = match of_output {
                [writer] => LinkShape::One(writer.element),
                all if all.len() == self.tables.table(all[0].group).count as usize => LinkShape::All,
                some if some.len().saturating_mul(readers as usize) > MAX_IMPLIED => return Err(FileMistake::TooMany),
                some => LinkShape::Pairs(
                    some.iter().flat_map(|writer| (0..readers).map(|reader| (writer.element, reader))).collect(),
                ),
            };
            links.push((of_output[0], shape));
        }
        Ok(links)
    }

    fn elements(
        &self,
        to: GroupId,
        writers: &mut dyn FnMut(u32) -> Vec<OutputOrigin>,
    ) -> Result<Vec<(OutputOrigin, LinkShape)>, FileMistake> {
        let mut found = PairsByOutput::new();
        let mut pairs = 0;
        for number in 0..self.tables.table(to).count {
            for writer in writers(number) {
                if writer.group == to && writer.element == number {
                    return Err(FileMistake::ReadsOwn(number));
                }
                let entry = found.entry((writer.group, writer.output)).or_insert_with(|| (writer, Vec::new()));
                entry.1.push((writer.element, number));
                pairs += 1;
            }
            if pairs > MAX_IMPLIED {
                return Err(FileMistake::TooMany);
            }
        }
        Ok(found.into_values().map(|(writer, pairs)| (writer, LinkShape::Pairs(pairs))).collect())
    }

    /// The tasks that write what an element reads, ascending: the file or, of a directory, what is
    /// in it, else a directory around it. Tasks that both read a directory and write into it do not
    /// wait for each other, nor for themselves, and those of a group not for each other's part of a
    /// file that they share for standard output.
    pub(super) fn writers(&self, to: GroupId, number: u32, name: &str) -> Vec<OutputOrigin> {
        let mut found: Vec<OutputOrigin> = self.written.iter().flat_map(|written| written.writers(name)).collect();
        let table = self.tables.table(to);
        let is_own_stream = |writer: &OutputOrigin| writer.group == to && self.is_stream(*writer);
        if found.iter().any(is_own_stream) && table.streams(number).any(|(_, file)| file == name) {
            found.retain(|writer| !is_own_stream(writer));
        }
        let is_own = writes_into(&table, number, name);
        for written in self.written {
            written.each_inside(name, &mut |writer| {
                let is_other = writer.group != to && !self.is_stream(writer);
                if is_other && !(is_own && reads(&self.tables.table(writer.group), writer.element, name)) {
                    found.push(writer);
                }
            });
        }
        if found.is_empty() {
            let around = self.written.iter().flat_map(|written| written.around(name));
            let is_own = |writer: &OutputOrigin| (writer.group, writer.element) == (to, number);
            found.extend(around.filter(|writer| !is_own(writer) && !self.is_stream(*writer)));
        }
        found.sort_unstable();
        found
    }
}

/// True if an element writes outputs into the directory of this name.
fn writes_into(table: &FileTable<'_>, number: u32, name: &str) -> bool {
    let is_inside = |file: String| file.strip_prefix(name).is_some_and(|rest| rest.starts_with('/'));
    table.body.outputs.iter().any(|output| is_inside(table.absolute(number, &output.name)))
}

/// True if an element reads the directory of this name.
fn reads(table: &FileTable<'_>, number: u32, name: &str) -> bool {
    table.body.inputs.iter().any(|input| table.absolute(number, &input.name) == name)
}
