//! Dependencies implied by `inputs` and `outputs`: a task that reads a file depends on the task
//! that writes it.
//!
//! Files are declarations: Phalanx neither creates nor checks them here. They give order and bytes.
//! A name may be that of a directory: who reads it waits for all that write into it, and who reads
//! a file that no task writes waits for the task that writes the directory around it
//! (`written_files`).
//!
//! Each name is expanded, made absolute and hashed to 128 bits. A million files take some dozen
//! bytes each while the job is read, and nothing afterwards: only links remain, in the simplest
//! equivalent shape.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::External;
use super::drafts::{Draft, Drafts};
use super::links::Links;
use crate::graph::link::{Condition, GroupId, Link, LinkShape};
use crate::job::body::FileTemplate;
use crate::job::diagnostic::{Diagnostic, Findings};
use crate::job::read::Span;
use crate::job::template::{Element, Template};
use crate::job::written_files::{WrittenFiles, clean};

/// Maximum number of files: for more, `needs` states the order better.
const MAX_FILES: u64 = 20_000_000;

/// Maximum number of dependencies that directories imply.
const MAX_IMPLIED: usize = 50_000_000;

/// Maximum number of external inputs kept, to check whether they exist.
const MAX_EXTERNAL: usize = 10_000;

/// The writer of a file: group, element, and index among its outputs.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct OutputOrigin {
    group: GroupId,
    output: u32,
    element: u32,
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

/// Makes file names absolute.
struct PathNames<'a> {
    drafts: &'a Drafts,
    job_dir: String,
}

impl<'a> PathNames<'a> {
    fn draft(&self, group: GroupId) -> Draft<'a> {
        self.drafts.get(group)
    }

    fn absolute(&self, group: GroupId, number: u32, file: &Template) -> String {
        let draft = self.draft(group);
        let element = Element { name: &draft.group.name, space: draft.body.space(), number };
        let name = file.fill(element);
        let dir = draft.body.extras.dir.as_ref().map(|dir| dir.fill(element));
        let parts = [self.job_dir.as_str(), dir.as_deref().unwrap_or(""), name.as_str()];
        // An absolute part replaces the parts before it.
        let start = parts.iter().rposition(|part| part.starts_with('/')).unwrap_or(0);
        clean(&parts[start..])
    }

    /// True if the file is the same for all elements of the group.
    fn is_same_for_all(&self, group: GroupId, file: &Template) -> bool {
        let dir = &self.draft(group).body.extras.dir;
        file.is_same_for_all() && dir.as_ref().is_none_or(Template::is_same_for_all)
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
    writers
}

fn written_twice(names: &PathNames<'_>, name: &str, second: OutputOrigin, first: OutputOrigin) -> Diagnostic {
    let draft = |writer: OutputOrigin| names.draft(writer.group);
    let place = |writer: OutputOrigin| draft(writer).notes.outputs[writer.output as usize].span();
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

/// By group and output: the first writer, and the pairs of elements of writers and readers.
type PairsByOutput = BTreeMap<(GroupId, u32), (OutputOrigin, Vec<(u32, u32)>)>;

/// Links the readers of files to their writers.
pub(super) struct Files<'a> {
    names: PathNames<'a>,
    /// `None` if files are ignored because of other mistakes.
    writers: Option<WrittenFiles<OutputOrigin>>,
    external: External,
}

impl<'a> Files<'a> {
    pub(super) fn of(drafts: &'a Drafts, job_dir: &Path, findings: &mut Findings) -> Files<'a> {
        let usable = drafts.iter().all(|draft| !draft.notes.broken) && within_bounds(drafts, findings);
        let names = PathNames { drafts, job_dir: job_dir.to_string_lossy().into_owned() };
        let writers = usable.then(|| collect_writers(&names, findings));
        Files { names, writers, external: Vec::new() }
    }

    /// Links a group to the writers of its inputs.
    pub(super) fn link_group(&mut self, to: GroupId, links: &mut Links, findings: &mut Findings) {
        if let Some(writers) = &self.writers {
            let external = &mut self.external;
            Readers { names: &self.names, writers, links, findings, external }.link_group(to);
        }
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
        for (file, place) in draft.body.inputs.iter().zip(&draft.notes.inputs) {
            self.link_file(to, file, &place.span());
        }
        // Which file a pattern means is known when the task starts.
        let stdin = draft.body.extras.stdin.as_ref().filter(|name| !self.names.absolute(to, 0, name).contains('%'));
        if let Some(name) = stdin {
            let file = FileTemplate { name: name.clone(), size: None, optional: false, keep: true };
            self.link_file(to, &file, &draft.notes.name.span());
        }
    }

    fn link_file(&mut self, to: GroupId, file: &FileTemplate, span: &Span) {
        if self.is_one_file(to, file) {
            self.link_constant(to, file, span);
        } else {
            self.link_elements(to, file, span);
        }
    }

    /// True if all elements read the same file, whatever directories they run in.
    fn is_one_file(&self, to: GroupId, file: &FileTemplate) -> bool {
        let name = |number| self.names.absolute(to, number, &file.name);
        let count = self.names.draft(to).group.count;
        self.names.is_same_for_all(to, &file.name)
            || (count > 1 && name(0) == name(count - 1) && (1..count).all(|number| name(number) == name(0)))
    }

    /// A file that all elements read: one look-up, whatever their number.
    fn link_constant(&mut self, to: GroupId, file: &FileTemplate, span: &Span) {
        let writers = self.writers(to, 0, file, span);
        // One of the tasks that read the file also writes it.
        if let Some(own) = writers.iter().find(|writer| writer.group == to) {
            self.refuse_self(to, own.element, span);
            return;
        }
        let readers = self.names.draft(to).group.count;
        for of_output in writers.chunk_by(|a, b| (a.group, a.output) == (b.group, b.output)) {
            let shape = match of_output {
                [writer] => LinkShape::One(writer.element),
                all if all.len() == self.names.draft(all[0].group).group.count as usize => LinkShape::All,
                some if some.len().saturating_mul(readers as usize) > MAX_IMPLIED => return self.refuse_many(span),
                some => LinkShape::Pairs(
                    some.iter().flat_map(|writer| (0..readers).map(|reader| (writer.element, reader))).collect(),
                ),
            };
            self.add(of_output[0], to, shape, file, span);
        }
    }

    fn link_elements(&mut self, to: GroupId, file: &FileTemplate, span: &Span) {
        let mut found = PairsByOutput::new();
        let mut pairs = 0;
        for number in 0..self.names.draft(to).group.count {
            for writer in self.writers(to, number, file, span) {
                if writer.group == to && writer.element == number {
                    self.refuse_self(to, number, span);
                    return;
                }
                let entry = found.entry((writer.group, writer.output)).or_insert_with(|| (writer, Vec::new()));
                entry.1.push((writer.element, number));
                pairs += 1;
            }
            if pairs > MAX_IMPLIED {
                return self.refuse_many(span);
            }
        }
        for (writer, pairs) in found.into_values() {
            self.add(writer, to, LinkShape::Pairs(pairs), file, span);
        }
    }

    /// The tasks that write what an element reads: the file or, of a directory, what is in it, else
    /// a directory around it. Tasks that both read a directory and write into it do not wait for
    /// each other, nor for themselves.
    fn writers(&mut self, to: GroupId, number: u32, file: &FileTemplate, span: &Span) -> Vec<OutputOrigin> {
        let name = self.names.absolute(to, number, &file.name);
        let mut found: Vec<OutputOrigin> = self.writers.writer(&name).into_iter().collect();
        let is_own = self.writes_into(to, number, &name);
        self.writers.each_inside(&name, &mut |writer| {
            if writer.group != to && !(is_own && self.reads(writer, &name)) {
                found.push(writer);
            }
        });
        if found.is_empty() {
            let around = self.writers.around(&name);
            found.extend(around.filter(|writer| (writer.group, writer.element) != (to, number)));
        }
        if found.is_empty() && !file.optional && self.external.len() < MAX_EXTERNAL {
            self.external.push((PathBuf::from(name), span.clone()));
        }
        found.sort_unstable();
        found
    }

    /// True if an element writes into the directory of this name.
    fn writes_into(&self, group: GroupId, number: u32, name: &str) -> bool {
        let is_inside = |file: String| file.strip_prefix(name).is_some_and(|rest| rest.starts_with('/'));
        let outputs = &self.names.draft(group).body.outputs;
        outputs.iter().any(|output| is_inside(self.names.absolute(group, number, &output.name)))
    }

    /// True if a task reads the directory of this name.
    fn reads(&self, writer: OutputOrigin, name: &str) -> bool {
        let inputs = &self.names.draft(writer.group).body.inputs;
        inputs.iter().any(|input| self.names.absolute(writer.group, writer.element, &input.name) == name)
    }

    /// Adds a link with the size of the file, as given by the reader, else by the writer.
    fn add(&mut self, writer: OutputOrigin, to: GroupId, shape: LinkShape, file: &FileTemplate, span: &Span) {
        let written = &self.names.draft(writer.group).body.outputs[writer.output as usize];
        if !written.keep {
            self.check_reader(writer, to, &shape, file, span);
        }
        let bytes = file.size.or(written.size).unwrap_or(0);
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
