//! Dependencies implied by `inputs` and `outputs`, by the rule of `file_order`.
//!
//! Files are declarations: Phalanx neither creates nor checks them here. They give order and bytes.
//!
//! Each name is expanded, made absolute and hashed to 128 bits. A million files take some dozen
//! bytes each while the job is read, and nothing afterwards: only links remain, in the simplest
//! equivalent shape.

use std::borrow::Cow;
use std::path::{Path, PathBuf};

use super::drafts::{Draft, Drafts};
use super::links::Links;
use crate::graph::link::{Condition, GroupId, Link, LinkShape};
use crate::job::body::FileTemplate;
use crate::job::diagnostic::{Diagnostic, Findings};
use crate::job::file_order::{FileMistake, FileOrder, FileTable, FileTables, MAX_IMPLIED, OutputOrigin};
use crate::job::read::Span;
use crate::job::template::Template;
use crate::job::written_files::WrittenFiles;

/// Maximum number of files: for more, `needs` states the order better.
const MAX_FILES: u64 = 20_000_000;

/// Maximum number of external inputs kept, to check whether they exist.
const MAX_EXTERNAL: usize = 10_000;

/// Inputs that no task of the job file writes.
#[derive(Clone, Debug, Default)]
pub(crate) struct External {
    /// Files that must exist, with their places: the first ones.
    pub files: Vec<(PathBuf, Span)>,
    /// The tables that read such files, ascending, each with the place of its first one.
    pub readers: Vec<(GroupId, Span)>,
}

impl External {
    fn add(&mut self, to: GroupId, name: String, is_optional: bool, span: &Span) {
        if self.readers.last().is_none_or(|(last, _)| *last != to) {
            self.readers.push((to, span.clone()));
        }
        if !is_optional && self.files.len() < MAX_EXTERNAL {
            self.files.push((PathBuf::from(name), span.clone()));
        }
    }
}

/// True if files may be compared: no table has a mistake.
pub(super) fn are_whole(drafts: &Drafts) -> bool {
    drafts.iter().all(|draft| !draft.notes.broken)
}

fn within_bounds(drafts: &Drafts, findings: &mut Findings) -> bool {
    let mut files = 0u64;
    for draft in drafts.iter() {
        let per_task = (draft.body.inputs.len() + draft.body.outputs.len()) as u64;
        files = files.saturating_add(per_task.saturating_mul(u64::from(draft.group.count)));
        if files > MAX_FILES {
            findings.push(
                Diagnostic::error(format!("the job names more than {MAX_FILES} files"))
                    .at(&draft.notes.name.span())
                    .help("say with `needs` what depends on what, and leave these files out"),
            );
            return false;
        }
    }
    true
}

impl FileTables for PathNames<'_> {
    fn table(&self, group: GroupId) -> FileTable<'_> {
        let Draft { group, body, .. } = self.draft(group);
        FileTable { name: &group.name, count: group.count, body, job_dir: Cow::Borrowed(&self.job_dir) }
    }
}

/// The files of all tables, and the directory of the job.
pub(super) struct PathNames<'a> {
    drafts: &'a Drafts,
    job_dir: String,
}

impl<'a> PathNames<'a> {
    pub(super) fn of(drafts: &'a Drafts, job_dir: &Path) -> PathNames<'a> {
        PathNames { drafts, job_dir: job_dir.to_string_lossy().into_owned() }
    }

    fn draft(&self, group: GroupId) -> Draft<'a> {
        self.drafts.get(group)
    }

    fn absolute(&self, group: GroupId, number: u32, file: &Template) -> String {
        self.table(group).absolute(number, file)
    }
}

fn collect_writers(names: &PathNames<'_>, findings: &mut Findings) -> WrittenFiles<OutputOrigin> {
    let mut writers = WrittenFiles::default();
    for (group, draft) in (0..).zip(names.drafts.iter()) {
        for (output, file) in draft.body.outputs.iter().enumerate() {
            for element in 0..draft.group.count {
                let name = names.absolute(group, element, &file.name);
                let writer = OutputOrigin { group, element, output: output as u32 };
                if let Some(other) = writers.insert(&name, writer) {
                    findings.push(written_twice(names, &name, writer, other));
                    // The other elements would repeat the same mistake.
                    break;
                }
            }
        }
    }
    let groups = 0..names.drafts.len() as GroupId;
    if groups.clone().any(|group| names.table(group).reads_any()) {
        groups.for_each(|group| names.table(group).collect_streams(group, &mut writers));
    }
    writers
}

fn written_twice(names: &PathNames<'_>, name: &str, second: OutputOrigin, first: OutputOrigin) -> Diagnostic {
    let draft = |writer: OutputOrigin| names.draft(writer.group);
    let place = |writer: OutputOrigin| draft(writer).notes.outputs()[writer.output as usize].span();
    if (first.group, first.output) == (second.group, second.output) {
        Diagnostic::error(format!("several tasks of `{}` write the same file {name}", draft(first).group.name))
            .at(&place(second))
            .help("put the index into the name: `out-{index}.dat`")
    } else if (first.group, first.element) == (second.group, second.element) {
        Diagnostic::error(format!("{name} is listed twice")).at(&place(second)).label(&place(first), "first here")
    } else {
        let (a, b) = (draft(first).task_name(first.element), draft(second).task_name(second.element));
        Diagnostic::error(format!("both `{a}` and `{b}` write {name}"))
            .at(&place(second))
            .label(&place(first), format!("`{a}` writes it here"))
            .help("let each task write a file of its own")
    }
}

/// Links the readers of files to their writers.
pub(super) struct Files<'a> {
    names: PathNames<'a>,
    /// `None` if files are ignored because of other mistakes.
    writers: Option<WrittenFiles<OutputOrigin>>,
    external: External,
}

impl<'a> Files<'a> {
    pub(super) fn of(drafts: &'a Drafts, job_dir: &Path, findings: &mut Findings) -> Files<'a> {
        let usable = are_whole(drafts) && within_bounds(drafts, findings);
        let names = PathNames::of(drafts, job_dir);
        let writers = usable.then(|| collect_writers(&names, findings));
        Files { names, writers, external: External::default() }
    }

    /// Links a group to the writers of its inputs.
    pub(super) fn link_group(&mut self, to: GroupId, links: &mut Links, findings: &mut Findings) {
        if let Some(writers) = &self.writers {
            let external = &mut self.external;
            Readers { names: &self.names, writers, links, findings, external }.link_group(to);
        }
    }

    /// Warns of a staged group whose command names what a task writes that it needs, but does not
    /// list it: the file is not in its directory.
    pub(super) fn warn_of_unlisted(&self, to: GroupId, links: &Links, findings: &mut Findings) {
        let (draft, table) = (self.names.draft(to), self.names.table(to));
        let Some(writers) = self.writers.as_ref().filter(|_| draft.body.extras.is_staged) else { return };
        let of_own =
            |files: &[FileTemplate]| files.iter().map(|file| table.absolute(0, &file.name)).collect::<Vec<_>>();
        let listed = [of_own(&draft.body.inputs), of_own(&draft.body.outputs)].concat();
        let is_listed = |name: &str| {
            let is_below =
                |dir: &String| name.strip_prefix(&**dir).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
            listed.iter().any(is_below)
        };
        let needed: Vec<GroupId> = links.sources().filter(|from| *from != to).collect();
        let is_needed = |writer: &OutputOrigin| needed.contains(&writer.group);
        // Of a pattern of names, one that a needed group writes and that begins as it does.
        let matching = |prefix: &str| {
            let files = needed.iter().flat_map(|from| {
                let outputs = self.names.draft(*from).body.outputs.iter().zip(0..);
                outputs.map(|(file, output)| (self.names.absolute(*from, 0, &file.name), (*from, output)))
            });
            let found = files.filter(|(name, _)| name.starts_with(prefix) && !is_listed(name)).min();
            found.map(|(_, (group, output))| OutputOrigin { group, output, element: 0 })
        };
        let found = draft.words(0).into_iter().find_map(|word| {
            let name = table.placed(0, &word);
            let writer = match name.find(['*', '?', '[']) {
                Some(_) if word.starts_with(['*', '?', '[']) => None,
                Some(at) => matching(name[..at].trim_end_matches('/')),
                None if is_listed(&name) => None,
                None => writers.writer(&name).or_else(|| writers.around(&name).next()),
            };
            Some((word, writer.filter(is_needed)?))
        });
        let Some((word, writer)) = found else { return };
        let writer = self.names.draft(writer.group).task_name(writer.element);
        let message = format!("`{}` names {word}, which `{writer}` writes, and does not list it", draft.task_name(0));
        let help = "it is not in the directory of a task with `stage`: list it under `inputs`, or leave `stage` out";
        findings.push(Diagnostic::warning(message).at(&draft.notes.name.span()).help(help));
    }

    /// The files that no task writes.
    pub(super) fn external(self) -> External {
        self.external
    }
}

struct Readers<'a> {
    names: &'a PathNames<'a>,
    writers: &'a WrittenFiles<OutputOrigin>,
    links: &'a mut Links,
    findings: &'a mut Findings,
    external: &'a mut External,
}

impl Readers<'_> {
    fn link_group(&mut self, to: GroupId) {
        let draft = self.names.draft(to);
        for (file, place) in draft.body.inputs.iter().zip(draft.notes.inputs()) {
            self.link_file(to, file, &place.span());
        }
        if let Some(file) = self.names.table(to).stdin() {
            self.link_file(to, &file, &draft.notes.name.span());
        }
    }

    fn link_file(&mut self, to: GroupId, file: &FileTemplate, span: &Span) {
        let written = [self.writers];
        let order = FileOrder { tables: self.names, written: &written };
        let external = &mut self.external;
        match order.links(to, file, &|_| true, &mut |name| external.add(to, name, file.optional, span)) {
            Ok(links) => links.into_iter().for_each(|(writer, shape)| self.add(writer, to, shape, file, span)),
            Err(FileMistake::ReadsOwn(element)) => self.refuse_self(to, element, span),
            Err(FileMistake::TooMany) => self.refuse_many(span),
        }
    }

    /// Adds a link with the size of the file, as given by the reader, else by the writer.
    fn add(&mut self, writer: OutputOrigin, to: GroupId, shape: LinkShape, file: &FileTemplate, span: &Span) {
        let written = self.names.draft(writer.group).body.outputs.get(writer.output as usize);
        if written.is_some_and(|written| !written.keep) {
            self.check_reader(writer, to, &shape, file, span);
        }
        let bytes = file.size.or(written.and_then(|written| written.size)).unwrap_or(0);
        self.links.add_file(Link { from: writer.group, to, shape, on: Condition::Ok, bytes, span: span.clone() });
    }

    /// Refuses readers that do not find a file which is not kept: it lies in no directory.
    fn check_reader(&mut self, writer: OutputOrigin, to: GroupId, shape: &LinkShape, file: &FileTemplate, span: &Span) {
        let (number, reader) = match shape {
            LinkShape::Pairs(pairs) => pairs.first().copied().unwrap_or((writer.element, 0)),
            _ => (writer.element, 0),
        };
        let written = &self.names.draft(writer.group).body.outputs[writer.output as usize];
        let name = self.names.absolute(writer.group, number, &written.name);
        let draft = self.names.draft(to);
        let is_same = self.names.absolute(to, reader, &file.name) == name;
        let is_listed = draft.body.inputs.iter().any(|input| self.names.absolute(to, reader, &input.name) == name);
        let help = match (draft.body.extras.is_staged, is_listed && is_same) {
            (false, _) => format!("add `stage = \"node\"` to `{}`, or keep the file", draft.group.name),
            (_, false) => format!("list {name} itself under `inputs`, or keep it"),
            (true, true) => return,
        };
        let task = self.names.draft(writer.group).task_name(number);
        self.findings.push(
            Diagnostic::error(format!("`{}` does not find what `{task}` writes with `keep = false`", draft.group.name))
                .at(span)
                .help(help),
        );
    }

    fn refuse_many(&mut self, span: &Span) {
        self.findings.push(
            Diagnostic::error(format!("this directory implies more than {MAX_IMPLIED} dependencies"))
                .at(span)
                .help("say with `needs` what depends on what, and leave the directory out"),
        );
    }

    fn refuse_self(&mut self, group: GroupId, number: u32, span: &Span) {
        let task = self.names.draft(group).task_name(number);
        self.findings.push(
            Diagnostic::error(format!("`{task}` reads a file that it writes itself"))
                .at(span)
                .help("list the file under `outputs` only"),
        );
    }
}
