//! The work of a group's tasks, with placeholders: the part of a group that differs per element.
//!
//! There may be a million groups. Fields that few tables set, and values that many tables share,
//! are stored separately and shared.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::cache::CacheRules;
use super::container::{Container, ContainerRuntime};
use super::space::Space;
use super::template::{Element, Placeholder, Template};
use super::{Task, Work};
use crate::model::TaskId;

/// Name of the kernel that runs operations on graphs.
pub(crate) const OPERATION_KERNEL: &str = "graph_operation";

/// The strings of one `[[task]]` table with compiled placeholders.
#[derive(Clone, Debug)]
pub(crate) struct Body {
    /// The elements; `None` for a single task.
    pub family: Option<Box<Space>>,
    pub work: WorkTemplate,
    pub env: Arc<[(Arc<str>, Template)]>,
    pub inputs: Box<[FileTemplate]>,
    pub outputs: Box<[FileTemplate]>,
    pub extras: Arc<Extras>,
}

/// Fields that few tables set, or that many share through `[defaults]`.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Extras {
    pub stdin: Option<Template>,
    pub stdout: Option<Template>,
    pub stderr: Option<Template>,
    pub dir: Option<Template>,
    /// Set only if the estimate differs per element.
    pub estimate: Option<Template>,
    pub shell: Option<Arc<[String]>>,
    pub keeps_background: bool,
    pub is_staged: bool,
    pub cache: Option<Arc<CacheRules>>,
    pub container: Option<ContainerTemplate>,
}

/// `container` of a task, with placeholders.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct ContainerTemplate {
    /// A path, or a name that the runtime knows.
    pub image: Template,
    /// The image is an absolute path for every element.
    pub is_file: bool,
    pub runtime: ContainerRuntime,
    /// Absolute directories with their places inside.
    pub binds: Box<[(Template, Template)]>,
    pub gpu: bool,
    pub workdir: Option<Template>,
}

impl Extras {
    /// The image of the container as a file that the task reads, if it is one.
    pub(crate) fn image_file(&self) -> Option<FileTemplate> {
        let container = self.container.as_ref().filter(|container| container.is_file)?;
        Some(FileTemplate { name: container.image.clone(), size: None, optional: false, keep: true })
    }
}

/// A declared file.
#[derive(Clone, Debug)]
pub(crate) struct FileTemplate {
    pub name: Template,
    pub size: Option<u64>,
    /// It may be missing.
    pub optional: bool,
    /// False for an output that is not put in its place.
    pub keep: bool,
}

/// The work of a task, with placeholders.
#[derive(Clone, Debug)]
pub(crate) enum WorkTemplate {
    Command(Box<[Template]>),
    Shell(Template),
    Kernel { name: Arc<str>, args: Arc<[(String, Arg)]> },
}

/// An argument of a kernel, with placeholders.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Arg {
    Fixed(toml::Value),
    /// A string that is a single placeholder: the argument is its value, with the type of the
    /// value.
    Value(Placeholder),
    Text(Template),
    List(Vec<Arg>),
    Table(Vec<(String, Arg)>),
}

impl Arg {
    fn fill(&self, element: Element<'_>) -> toml::Value {
        match self {
            Arg::Fixed(value) => value.clone(),
            Arg::Value(what) => element.value(*what).to_toml(),
            Arg::Text(text) => toml::Value::String(text.fill(element)),
            Arg::List(list) => toml::Value::Array(list.iter().map(|arg| arg.fill(element)).collect()),
            Arg::Table(table) => toml::Value::Table(fill_table(table, element)),
        }
    }

    fn is_constant(&self) -> bool {
        match self {
            Arg::Fixed(_) => true,
            Arg::Value(what) => *what == Placeholder::Name,
            Arg::Text(text) => text.is_same_for_all(),
            Arg::List(list) => list.iter().all(Arg::is_constant),
            Arg::Table(table) => table.iter().all(|(_, arg)| arg.is_constant()),
        }
    }
}

fn fill_table(table: &[(String, Arg)], element: Element<'_>) -> toml::Table {
    table.iter().map(|(name, arg)| (name.clone(), arg.fill(element))).collect()
}

impl WorkTemplate {
    /// The work of one element.
    pub(crate) fn fill(&self, element: Element<'_>) -> Work {
        match self {
            WorkTemplate::Command(words) => Work::Command(words.iter().map(|word| word.fill(element)).collect()),
            WorkTemplate::Shell(line) => Work::Shell(line.fill(element)),
            WorkTemplate::Kernel { name, args } => {
                Work::Kernel { name: name.to_string(), args: fill_table(args, element) }
            }
        }
    }

    /// True if all elements have the same work.
    pub(crate) fn is_constant(&self) -> bool {
        match self {
            WorkTemplate::Command(words) => words.iter().all(Template::is_same_for_all),
            WorkTemplate::Shell(line) => line.is_same_for_all(),
            WorkTemplate::Kernel { args, .. } => args.iter().all(|(_, arg)| arg.is_constant()),
        }
    }
}

impl Body {
    /// The graph that the group's tasks are operations on, if they are.
    pub(crate) fn graph(&self) -> Option<&str> {
        self.operation_arg("graph")
    }

    /// Gives that graph another name.
    pub(crate) fn rename_graph(&mut self, rename: &dyn Fn(&str) -> String) {
        let Some(graph) = self.graph().map(rename) else { return };
        let WorkTemplate::Kernel { args, .. } = &mut self.work else { return };
        let renamed = |(key, arg): &(String, Arg)| match key == "graph" {
            true => (key.clone(), Arg::Fixed(toml::Value::String(graph.clone()))),
            false => (key.clone(), arg.clone()),
        };
        *args = args.iter().map(renamed).collect();
    }

    /// True if they change that graph.
    pub(crate) fn changes_graph(&self) -> bool {
        self.operation_arg("operation").is_some_and(|name| matches!(name, "insert_edges" | "delete_edges"))
    }

    /// A constant argument of the operation on a graph that the group's tasks are.
    fn operation_arg(&self, key: &str) -> Option<&str> {
        let WorkTemplate::Kernel { name, args } = &self.work else { return None };
        let arg = args.iter().find(|(known, _)| **name == *OPERATION_KERNEL && known == key)?;
        match &arg.1 {
            Arg::Fixed(toml::Value::String(text)) => Some(text),
            _ => None,
        }
    }

    /// The elements of the group.
    pub(crate) fn space(&self) -> &Space {
        self.family.as_deref().unwrap_or(&Space::One)
    }

    /// Expands one element to a task.
    pub(crate) fn task(&self, id: TaskId, name: &str, number: u32, job_dir: &Path) -> Task {
        let element = Element { name, space: self.space(), number };
        let Extras { stdin, stdout, stderr, dir, shell, keeps_background, is_staged, cache, container, .. } =
            &*self.extras;
        let path = |template: &Option<Template>| template.as_ref().map(|t| t.fill_pattern(element).into());
        let must_exist = |files: &[FileTemplate]| {
            files.iter().filter(|f| !f.optional).map(|f| f.name.fill(element).into()).collect()
        };
        let files = |files: &[FileTemplate]| files.iter().map(|f| (f.name.fill(element).into(), f.size)).collect();
        let container = container.as_ref().map(|container| Container::of(container, element, job_dir));
        let (mut inputs, mut required): (Vec<_>, Vec<PathBuf>) = (files(&self.inputs), must_exist(&self.inputs));
        // Where only some elements have a file as their image it is no input of the table.
        let image = container.as_ref().and_then(Container::file);
        if let Some(image) = image.filter(|image| inputs.iter().all(|(file, _)| file != image)) {
            inputs.push((image.to_path_buf(), None));
            required.push(image.to_path_buf());
        }
        Task {
            id,
            name: name.to_string(),
            index: self.space().index(number),
            work: self.work.fill(element),
            stdin: path(stdin),
            stdout: path(stdout),
            stderr: path(stderr),
            dir: dir.as_ref().map_or_else(|| job_dir.to_path_buf(), |dir| job_dir.join(dir.fill(element))),
            env: self.env.iter().map(|(name, value)| (name.to_string(), value.fill(element))).collect(),
            inputs,
            outputs: files(&self.outputs),
            required,
            promised: must_exist(&self.outputs),
            temporary: self.outputs.iter().filter(|f| !f.keep).map(|f| f.name.fill(element).into()).collect(),
            shell: shell.clone(),
            keeps_background: *keeps_background,
            is_staged: *is_staged,
            cache: cache.clone(),
            container,
        }
    }
}
