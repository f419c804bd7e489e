//! The content key: a 128-bit hash of a task's definition, by which a resumed run recognizes
//! completed tasks.
//!
//! The key covers everything that affects the result of a task or its location: name, index, work,
//! directory, files of its streams, declared inputs, environment, prologue, shell, number of MPI
//! ranks. It excludes scheduling (time, memory, CPUs, priority, retries, needs), so that a higher
//! limit does not discard completed work. Name and index are included because a task can read them.
//! The key of a task of a matrix has no index, as further values change it but not the task, and of
//! its values only what its text says with them. For a point of a pattern the key includes its step
//! and place, because in a wider pattern the same index is another point.
//!
//! Keys are compared only within one process, which computes those of the former job too: fields in
//! a fixed order, each with its length, numbers as little-endian bytes.

use std::path::Path;

use xxhash_rust::xxh3::xxh3_128;

use super::space::Space;
use super::{Container, Job, OPERATION_KERNEL, SubstError, Work};
use crate::model::TaskId;

struct Encoder(Vec<u8>);

impl Encoder {
    fn number(&mut self, value: u64) {
        self.0.extend_from_slice(&value.to_le_bytes());
    }

    fn bytes(&mut self, bytes: &[u8]) {
        self.number(bytes.len() as u64);
        self.0.extend_from_slice(bytes);
    }

    fn text(&mut self, text: &str) {
        self.bytes(text.as_bytes());
    }

    fn path(&mut self, path: &Path) {
        self.bytes(path.as_os_str().as_encoded_bytes());
    }

    fn tag(&mut self, tag: u8) {
        self.0.push(tag);
    }

    fn option<T>(&mut self, value: Option<T>, encode: impl FnOnce(&mut Self, T)) {
        self.tag(u8::from(value.is_some()));
        if let Some(value) = value {
            encode(self, value);
        }
    }

    fn variables(&mut self, variables: &[(String, String)]) {
        self.number(variables.len() as u64);
        for (name, value) in variables {
            self.text(name);
            self.text(value);
        }
    }

    fn table(&mut self, table: &toml::Table) {
        self.number(table.len() as u64);
        // The table is sorted by key, so the encoding does not depend on the order in the file.
        for (key, value) in table {
            self.text(key);
            self.value(value);
        }
    }

    fn value(&mut self, value: &toml::Value) {
        match value {
            toml::Value::String(text) => {
                self.tag(0);
                self.text(text);
            }
            toml::Value::Integer(value) => {
                self.tag(1);
                self.0.extend_from_slice(&value.to_le_bytes());
            }
            toml::Value::Float(value) => {
                self.tag(2);
                self.number(value.to_bits());
            }
            toml::Value::Boolean(value) => self.tag(if *value { 3 } else { 4 }),
            toml::Value::Datetime(value) => {
                self.tag(5);
                self.text(&value.to_string());
            }
            toml::Value::Array(list) => {
                self.tag(6);
                self.number(list.len() as u64);
                list.iter().for_each(|value| self.value(value));
            }
            toml::Value::Table(table) => {
                self.tag(7);
                self.table(table);
            }
        }
    }

    fn container(&mut self, container: &Container) {
        let Container { image, runtime, binds, gpu, workdir } = container;
        self.text(image);
        self.tag(*runtime as u8);
        self.number(binds.len() as u64);
        for (from, to) in binds {
            self.path(from);
            self.path(to);
        }
        self.tag(u8::from(*gpu));
        self.option(workdir.as_deref(), Encoder::path);
    }

    fn work(&mut self, work: &Work) {
        match work {
            Work::Command(words) => {
                self.tag(0);
                self.number(words.len() as u64);
                words.iter().for_each(|word| self.text(word));
            }
            Work::Shell(line) => {
                self.tag(1);
                self.text(line);
            }
            Work::Kernel { name, args } => {
                self.tag(2);
                self.text(name);
                self.table(args);
            }
        }
    }
}

impl Job {
    /// The content key of a task.
    ///
    /// # Errors
    /// If the job has no task of this number.
    pub fn content_key(&self, id: TaskId) -> Result<u128, SubstError> {
        let task = self.task(id)?;
        let (group, number) = self.group_of(id);
        let mpi = self.groups.get(group as usize).and_then(|group| group.mpi);
        let mut encoder = Encoder(Vec::with_capacity(256));
        let space = self.bodies.get(group as usize).map_or(&Space::One, |body| body.space());
        encoder.text(&task.name);
        encoder.option(task.index.filter(|_| !matches!(space, Space::Matrix(_))), Encoder::number);
        encoder.work(&task.work);
        encoder.path(&task.dir);
        for stream in [&task.stdin, &task.stdout, &task.stderr] {
            encoder.option(stream.as_deref(), Encoder::path);
        }
        let mut inputs: Vec<&Path> = task.inputs.iter().map(|(file, _)| file.as_path()).collect();
        inputs.sort_unstable();
        inputs.dedup();
        encoder.number(inputs.len() as u64);
        inputs.into_iter().for_each(|file| encoder.path(file));
        encoder.variables(&self.env);
        encoder.variables(&task.env);
        encoder.option(task.container.as_ref(), Encoder::container);
        encoder.option(mpi, |encoder, mpi| encoder.number(u64::from(mpi.ranks)));
        // The prologue only affects commands.
        if !matches!(task.work, Work::Kernel { .. }) {
            let prologue = self.part_of(group).map_or(&self.prologue, |part| &part.prologue);
            encoder.number(prologue.len() as u64);
            prologue.iter().for_each(|line| encoder.text(line));
        }
        if let (Work::Shell(_), Some(shell)) = (&task.work, &task.shell) {
            shell.iter().for_each(|word| encoder.text(word));
        }
        if let Space::Pattern(pattern) = space {
            let (step, point) = pattern.place(number.into());
            encoder.number(step.into());
            encoder.number(point.into());
        }
        Ok(xxh3_128(&encoder.0))
    }

    /// The graph of an operation, if this task and that of another job are operations on it, and
    /// its table is not the same in both.
    pub fn differing_graph(&self, id: TaskId, other: &Job, other_id: TaskId) -> Option<String> {
        let (one, two) = (self.task(id).ok()?.work, other.task(other_id).ok()?.work);
        let (Work::Kernel { name, args: one }, Work::Kernel { name: with, args: two }) = (one, two) else {
            return None;
        };
        let is_operation = *name == *OPERATION_KERNEL && *with == *OPERATION_KERNEL;
        let graph = two.get("graph").and_then(toml::Value::as_str).filter(|_| is_operation)?;
        (one.get("graph") == two.get("graph") && one.get("source") != two.get("source")).then(|| graph.to_owned())
    }

    /// The parts of the definition of a task that differ from those of a task of another job, in
    /// words; those of its name, values and inputs are not among them.
    pub fn differing_parts(&self, id: TaskId, other: &Job, other_id: TaskId) -> Vec<String> {
        let (Ok(one), Ok(two)) = (self.task(id), other.task(other_id)) else { return Vec::new() };
        let of_group = |job: &Job, id: TaskId| {
            let group = job.group_of(id).0;
            let prologue = job.part_of(group).map_or(&job.prologue, |part| &part.prologue).clone();
            (prologue, job.groups.get(group as usize).and_then(|group| group.mpi).map(|mpi| mpi.ranks))
        };
        let ((one_prologue, one_mpi), (two_prologue, two_mpi)) = (of_group(self, id), of_group(other, other_id));
        let is_kernel = matches!(two.work, Work::Kernel { .. });
        let work = match (&one.work, &two.work) {
            (Work::Kernel { name: one, .. }, Work::Kernel { name: two, .. }) if one == two => "arguments",
            (_, Work::Kernel { .. }) => "kernel",
            _ => "command",
        };
        let is_shell = matches!(two.work, Work::Shell(_));
        let parts = [
            (one.work != two.work, work),
            (is_shell && one.shell != two.shell, "shell"),
            (!is_kernel && one_prologue != two_prologue, "prologue"),
            (one.dir != two.dir, "directory"),
            (one.stdin != two.stdin, "standard input"),
            (one.stdout != two.stdout || one.stderr != two.stderr, "file for its output"),
            (one.container != two.container, "container"),
            (one_mpi != two_mpi, "number of MPI ranks"),
        ];
        let parts = parts.into_iter().filter(|(differs, _)| *differs).map(|(_, part)| part.to_owned());
        let variable = differing_variable(&self.env, &other.env).or_else(|| differing_variable(&one.env, &two.env));
        parts.chain(variable.map(|name| format!("variable {name}"))).collect()
    }
}

/// The first variable that is set differently.
fn differing_variable<'a>(one: &'a [(String, String)], two: &'a [(String, String)]) -> Option<&'a str> {
    let lacks = |list: &[(String, String)], variable: &(String, String)| !list.contains(variable);
    let found = two.iter().find(|it| lacks(one, it)).or_else(|| one.iter().find(|it| lacks(two, it)));
    found.map(|(name, _)| name.as_str())
}
