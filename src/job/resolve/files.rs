//! Dependencies implied by `inputs` and `outputs`: a task that reads a file depends on the task
//! that writes it.
//!
//! Files are declarations: Phalanx neither creates nor checks them here. They give order and bytes.
//!
//! Each name is expanded, made absolute and hashed to 128 bits. A million files take some dozen
//! bytes each while the job is read, and nothing afterwards: only links remain, in the simplest
//! equivalent shape.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use rustc_hash::FxHashMap;
use xxhash_rust::xxh3::xxh3_128;

use super::External;
use super::drafts::{Draft, Drafts};
use super::links::Links;
use crate::graph::link::{Condition, GroupId, Link, LinkShape};
use crate::job::body::FileTemplate;
use crate::job::diagnostic::{Diagnostic, Findings};
use crate::job::read::Span;
use crate::job::template::{Element, Template};

/// Maximum number of files: for more, `needs` states the order better.
const MAX_FILES: u64 = 20_000_000;

/// Maximum number of external inputs kept, to check whether they exist.
const MAX_EXTERNAL: usize = 10_000;

/// The writer of a file: group, element, and index among its outputs.
#[derive(Clone, Copy)]
struct OutputOrigin {
    group: GroupId,
    element: u32,
    output: u32,
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

/// Joins the parts of a path and removes `.`, `..` and double slashes, without reading the disk.
fn clean(parts: &[&str]) -> String {
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

fn collect_writers(names: &PathNames<'_>, findings: &mut Findings) -> FxHashMap<u128, OutputOrigin> {
    let mut writers: FxHashMap<u128, OutputOrigin> = FxHashMap::default();
    for (group, draft) in (0..).zip(names.drafts.iter()) {
        for (output, file) in draft.body.outputs.iter().enumerate() {
            for element in 0..draft.group.count {
                let name = names.absolute(group, element, &file.name);
                let writer = OutputOrigin { group, element, output: output as u32 };
                if let Some(other) = writers.insert(xxh3_128(name.as_bytes()), writer) {
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

/// Pairs of elements between which an output of a group is passed.
struct FileLink {
    writer: OutputOrigin,
    pairs: Vec<(u32, u32)>,
}

/// Links the readers of files to their writers.
pub(super) struct Files<'a> {
    names: PathNames<'a>,
    /// `None` if files are ignored because of other mistakes.
    writers: Option<FxHashMap<u128, OutputOrigin>>,
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
    writers: &'a FxHashMap<u128, OutputOrigin>,
    links: &'a mut Links,
    findings: &'a mut Findings,
    external: &'a mut External,
}

impl Readers<'_> {
    fn link_group(&mut self, to: GroupId) {
        let draft = self.names.draft(to);
        for (file, place) in draft.body.inputs.iter().zip(&draft.notes.inputs) {
            if self.names.is_same_for_all(to, &file.name) {
                self.link_constant(to, file, &place.span());
            } else {
                self.link_elements(to, file, &place.span());
            }
        }
    }

    /// A file that all elements read: one look-up, whatever their number.
    fn link_constant(&mut self, to: GroupId, file: &FileTemplate, span: &Span) {
        let Some(writer) = self.writer(to, 0, file, span) else { return };
        // One of the tasks that read the file also writes it.
        if writer.group == to {
            self.refuse_self(to, writer.element, span);
            return;
        }
        self.add(writer, to, LinkShape::One(writer.element), file, span);
    }

    fn link_elements(&mut self, to: GroupId, file: &FileTemplate, span: &Span) {
        let mut found: BTreeMap<(GroupId, u32), FileLink> = BTreeMap::new();
        for number in 0..self.names.draft(to).group.count {
            let Some(writer) = self.writer(to, number, file, span) else { continue };
            if writer.group == to && writer.element == number {
                self.refuse_self(to, number, span);
                return;
            }
            let entry =
                found.entry((writer.group, writer.output)).or_insert_with(|| FileLink { writer, pairs: Vec::new() });
            entry.pairs.push((writer.element, number));
        }
        for FileLink { writer, pairs } in found.into_values() {
            self.add(writer, to, LinkShape::Pairs(pairs), file, span);
        }
    }

    fn writer(&mut self, to: GroupId, number: u32, file: &FileTemplate, span: &Span) -> Option<OutputOrigin> {
        let name = self.names.absolute(to, number, &file.name);
        let writer = self.writers.get(&xxh3_128(name.as_bytes())).copied();
        if writer.is_none() && self.external.len() < MAX_EXTERNAL {
            self.external.push((PathBuf::from(name), span.clone()));
        }
        writer
    }

    /// Adds a link with the size of the file, as given by the reader, else by the writer.
    fn add(&mut self, writer: OutputOrigin, to: GroupId, shape: LinkShape, file: &FileTemplate, span: &Span) {
        let written = &self.names.draft(writer.group).body.outputs[writer.output as usize];
        let bytes = file.size.or(written.size).unwrap_or(0);
        self.links.add_file(Link { from: writer.group, to, shape, on: Condition::Ok, bytes, span: span.clone() });
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_compared_as_what_they_mean() {
        assert_eq!(clean(&["/a/b", "", "./c//d.txt"]), "/a/b/c/d.txt");
        assert_eq!(clean(&["/a/b", "../x", "../y/."]), "/a/y");
        assert_eq!(clean(&["/..", "", "../../z"]), "/z");
    }
}
