//! The files that the tasks of a job write, by name, and what lies in which directory: declared
//! outputs, each of one task, and files for standard output, which several tasks may share.

use std::path::{Path, PathBuf};

use rustc_hash::FxHashMap;
use xxhash_rust::xxh3::xxh3_128;

use super::Job;
use super::body::Body;
use super::file_order::FileTables;
use crate::model::TaskId;

/// Who writes which file: `W` says who. Names are absolute, without `.` and `..`.
#[derive(Debug)]
pub struct WrittenFiles<W> {
    /// Writers by the hash of the name.
    files: FxHashMap<u128, W>,
    /// Further writers of a file.
    further: FxHashMap<u128, Vec<W>>,
    /// The directories in which files are written, by the hash of the name.
    places: FxHashMap<u128, u32>,
    directories: Vec<Directory<W>>,
    /// The directory of the file that was inserted last, and its number.
    last: (String, u32),
}

/// What is written in a directory.
#[derive(Debug)]
struct Directory<W> {
    files: Vec<W>,
    below: Vec<u32>,
}

impl<W> Default for WrittenFiles<W> {
    fn default() -> Self {
        WrittenFiles {
            files: FxHashMap::default(),
            further: FxHashMap::default(),
            places: FxHashMap::default(),
            directories: Vec::new(),
            last: (String::new(), u32::MAX),
        }
    }
}

impl<W: Copy> WrittenFiles<W> {
    /// Adds a file; returns the writer that it had before.
    pub(crate) fn insert(&mut self, name: &str, writer: W) -> Option<W> {
        let directory = self.directory(parent(name));
        self.directories[directory as usize].files.push(writer);
        self.files.insert(hash(name), writer)
    }

    /// Adds a file that others may write too. Files with one writer are inserted before.
    pub(crate) fn insert_shared(&mut self, name: &str, writer: W) {
        match self.files.contains_key(&hash(name)) {
            true => self.further.entry(hash(name)).or_default().push(writer),
            false => _ = self.insert(name, writer),
        }
    }

    /// Adds a file by its path, of which there is no other writer.
    pub(crate) fn insert_path(&mut self, path: &Path, writer: W) {
        self.insert(&clean_path(path), writer);
    }

    /// Who writes a file of exactly this path.
    pub(crate) fn writer_of_path(&self, path: &Path) -> Option<W> {
        self.writer(&clean_path(path))
    }

    /// The number of a directory, which is made with those around it if it is new.
    fn directory(&mut self, name: &str) -> u32 {
        if self.last.1 != u32::MAX && self.last.0 == name {
            return self.last.1;
        }
        let (mut at, mut below, mut first) = (name, None, None);
        loop {
            let known = self.places.get(&hash(at)).copied();
            let number = known.unwrap_or(self.directories.len() as u32);
            if known.is_none() {
                self.places.insert(hash(at), number);
                self.directories.push(Directory { files: Vec::new(), below: Vec::new() });
            }
            self.directories[number as usize].below.extend(below);
            first = first.or(Some(number));
            if known.is_some() || at.is_empty() {
                break;
            }
            (at, below) = (parent(at), Some(number));
        }
        let number = first.unwrap_or(0);
        name.clone_into(&mut self.last.0);
        self.last.1 = number;
        number
    }

    /// Who writes a file of exactly this name.
    pub(crate) fn writer(&self, name: &str) -> Option<W> {
        self.files.get(&hash(name)).copied()
    }

    /// Who was inserted last of those who write a file of exactly this name.
    pub(crate) fn latest_writer(&self, name: &str) -> Option<W> {
        let further = self.further.get(&hash(name)).and_then(|further| further.last());
        further.copied().or_else(|| self.writer(name))
    }

    /// All who write a file of exactly this name.
    pub(crate) fn writers(&self, name: &str) -> impl Iterator<Item = W> {
        let further = self.further.get(&hash(name)).map_or(&[][..], Vec::as_slice);
        self.writer(name).into_iter().chain(further.iter().copied())
    }

    /// Calls `each` with the writer of each file in a directory and in those below it.
    pub(crate) fn each_inside(&self, name: &str, each: &mut dyn FnMut(W)) {
        let mut open: Vec<u32> = self.places.get(&hash(name)).copied().into_iter().collect();
        while let Some(number) = open.pop() {
            let directory = &self.directories[number as usize];
            directory.files.iter().copied().for_each(&mut *each);
            open.extend(&directory.below);
        }
    }

    /// Who writes the directories around a file, the nearest first.
    pub(crate) fn around<'a>(&'a self, name: &'a str) -> impl Iterator<Item = W> + 'a {
        let names = std::iter::successors(Some(parent(name)), |at| (!at.is_empty()).then(|| parent(at)));
        names.filter_map(|name| self.writer(name))
    }
}

impl WrittenFiles<TaskId> {
    /// The files that the tasks of a job write.
    pub fn of(job: &Job) -> WrittenFiles<TaskId> {
        let mut written = WrittenFiles::default();
        let groups = job.groups.iter().zip(&job.bodies).filter(|(_, body)| !body.outputs.is_empty());
        let tasks = groups.flat_map(|(group, _)| (group.first.0..).take(group.count as usize).map(TaskId));
        for task in tasks.filter_map(|task| job.task(task).ok()) {
            for (file, _) in &task.outputs {
                written.insert(&clean_path(&task.dir.join(file)), task.id);
            }
        }
        for (number, group) in (0..).zip(&job.groups) {
            let table = job.table(number);
            let all = (0..group.count).flat_map(|element| table.streams(element).map(move |file| (element, file)));
            all.for_each(|(element, (_, name))| written.insert_shared(&name, TaskId(group.first.0 + element)));
        }
        written
    }

    /// The task that writes a file, or the directory around it, or something in this directory.
    pub fn writer_of(&self, path: &Path) -> Option<TaskId> {
        let name = clean_path(path);
        let inside = || {
            let mut first: Option<TaskId> = None;
            self.each_inside(&name, &mut |task| first = Some(first.map_or(task, |first| first.min(task))));
            first
        };
        self.writer(&name).or_else(inside).or_else(|| self.around(&name).next())
    }
}

impl WrittenFiles<Option<TaskId>> {
    /// Where the tasks of a job write: their declared outputs, and as nobody's their other files
    /// for standard output and standard error, and what they read within their own outputs.
    pub fn places_of(job: &Job) -> WrittenFiles<Option<TaskId>> {
        let mut written = WrittenFiles::default();
        let writes =
            |body: &Body| !body.outputs.is_empty() || body.extras.stdout.is_some() || body.extras.stderr.is_some();
        let groups = job.groups.iter().zip(&job.bodies).filter(|(_, body)| writes(body));
        let tasks = groups.flat_map(|(group, _)| (group.first.0..).take(group.count as usize).map(TaskId));
        for task in tasks.filter_map(|task| job.task(task).ok()) {
            for (file, _) in &task.outputs {
                written.insert_path(&task.dir.join(file), Some(task.id));
            }
            let inputs = task.inputs.iter().map(|(file, _)| file).chain(&task.stdin);
            let within = |file: &Path| task.outputs.iter().any(|(output, _)| file.starts_with(task.dir.join(output)));
            for file in inputs.map(|file| task.dir.join(file)).filter(|file| within(file)) {
                written.insert_path(&file, None);
            }
            let is_output = |file: &&PathBuf| task.outputs.iter().any(|(output, _)| output == *file);
            for file in [&task.stdout, &task.stderr].into_iter().flatten().filter(|file| !is_output(file)) {
                written.insert_path(&task.dir.join(without_pattern(file)), None);
            }
        }
        written
    }

    /// True if others than this task write a directory, into it or around it.
    pub fn has_other(&self, dir: &Path, task: TaskId) -> bool {
        let name = clean_path(dir);
        let is_other = |writer: Option<TaskId>| writer != Some(task);
        let mut found = self.writer(&name).is_some_and(is_other) || self.around(&name).any(is_other);
        self.each_inside(&name, &mut |writer| found |= is_other(writer));
        found
    }
}

/// A file up to the first part of its name with a `%`-pattern, which is filled in when a task
/// starts.
pub(crate) fn without_pattern(file: &Path) -> PathBuf {
    let mut ends = false;
    let parts = file.components().take_while(|part| {
        let goes_on = !ends;
        ends = part.as_os_str().as_encoded_bytes().contains(&b'%');
        goes_on
    });
    parts.collect()
}

/// The name by which a file is known, however it is written.
pub(crate) fn clean_path(path: &Path) -> String {
    clean(&[&path.to_string_lossy()])
}

fn hash(name: &str) -> u128 {
    xxh3_128(name.as_bytes())
}

/// The directory of a file; that of the root is empty.
fn parent(name: &str) -> &str {
    &name[..name.rfind('/').unwrap_or(0)]
}

/// Joins the parts of a path and removes `.`, `..` and double slashes, without reading the disk.
pub(crate) fn clean(parts: &[&str]) -> String {
    let mut path = String::new();
    for component in parts.iter().flat_map(|part| part.split('/')) {
        match component {
            "" | "." => {}
            ".." => path.truncate(path.rfind('/').unwrap_or(0)),
            name => {
                path.push('/');
                path.push_str(name);
            }
        }
    }
    path
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_compared_as_what_they_mean() {
        assert_eq!(clean(&["/a/b", "", "./c//d.txt"]), "/a/b/c/d.txt");
        assert_eq!(clean(&["/a/b", "../x", "../y/."]), "/a/y");
        assert_eq!(clean(&["/..", "", "../../z"]), "/z");
    }

    #[test]
    fn a_directory_is_shared_with_those_who_write_it_into_it_or_around_it() {
        let task = |name: &str, rest: &str| format!("[[task]]\nname = '{name}'\ncommand = 'x'\n{rest}\n");
        let text = [
            task("own", "outputs = ['own', 'own/x', 'own/log']\nstdout = 'own/log'"),
            task("dir", "array = '0-1'\noutputs = 'dirs/{index}'"),
            task("around", "outputs = 'all'"),
            task("file", "outputs = 'all/sub/file'"),
            task("sub", "outputs = 'all/sub/dir'"),
            task("logs", "outputs = 'logged'\nstdout = 'logged/%x/out'"),
        ];
        let kernels = crate::exec::Kernels::builtin();
        let job = crate::job::parse(text.concat(), "j", Path::new("/d"), &kernels).unwrap().job;
        let places = WrittenFiles::places_of(&job);
        let is_shared = |task: &str, dir: &str| {
            let task = TaskId(job.find(task).unwrap()[0].start);
            places.has_other(&Path::new("/d").join(dir), task)
        };
        assert!(!is_shared("own", "own") && !is_shared("dir[1]", "dirs/1"));
        assert!(is_shared("around", "all") && is_shared("sub", "all/sub/dir"));
        assert!(is_shared("logs", "logged"), "its own log is not in what it leaves");
        assert_eq!(without_pattern(Path::new("a/%x/b")), Path::new("a/%x"));
    }

    #[test]
    fn what_is_in_a_directory_is_found_and_what_is_around_a_file() {
        let mut files = WrittenFiles::default();
        let names = ["/a/b/x", "/a/b/y", "/a/z", "/a/b/c/d/w", "/a/b", "/ab/x"];
        for (number, name) in names.iter().enumerate() {
            assert_eq!(files.insert(name, number), None);
        }
        assert_eq!(files.insert("/a/z", 9), Some(2));
        let inside = |name: &str| {
            let mut found = Vec::new();
            files.each_inside(name, &mut |number| found.push(number));
            found.sort_unstable();
            found
        };
        assert_eq!(inside("/a/b"), [0, 1, 3]);
        assert_eq!(inside("/a"), [0, 1, 2, 3, 4, 9]);
        assert_eq!(inside(""), [0, 1, 2, 3, 4, 5, 9]);
        assert_eq!(inside("/a/b/x"), [0usize; 0]);
        assert_eq!(inside("/a/b/c"), [3]);
        assert_eq!(files.around("/a/b/q/r").collect::<Vec<_>>(), [4]);
        assert_eq!(files.around("/a/q").collect::<Vec<_>>(), [0usize; 0]);
    }
}
