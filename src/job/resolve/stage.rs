//! Whether a task runs in a directory on its node's disk, and whether its files can be there.

use std::path::{Component, Path};

use super::task::TaskResolver;
use crate::job::body::{Extras, FileTemplate, WorkTemplate};
use crate::job::diagnostic::Diagnostic;
use crate::job::read::{At, Span};
use crate::job::values::FilesSpec;

impl TaskResolver<'_> {
    /// Checks a task with `stage`.
    pub(super) fn stages(&mut self, span: &Span, work: &WorkTemplate, extras: &Extras) -> bool {
        let own = &self.spec.value.own;
        let has_workdir = extras.container.as_ref().is_some_and(|container| container.workdir.is_some());
        let obstacle = match work {
            WorkTemplate::Kernel { .. } => Some((
                "it runs inside Phalanx itself, which has one directory for all tasks",
                "leave `stage` out, or run a command",
            )),
            _ if extras.keeps_background => Some((
                "the directory is removed when the command ends, and `background = \"keep\"` lets processes run on",
                "leave one of the two out",
            )),
            _ if has_workdir => Some((
                "`workdir` of its container names another directory",
                "leave `workdir` out: the command begins in the directory on the node's disk",
            )),
            _ => None,
        };
        if let Some((why, help)) = obstacle {
            let message = format!("`{}` cannot be staged: {why}", self.name);
            self.findings.push(Diagnostic::error(message).at(span).help(help));
            return false;
        }
        if own.inputs.is_none() && own.outputs.is_none() {
            let message = format!("`{}` declares neither `inputs` nor `outputs`", self.name);
            let help = "it begins in an empty directory, of which nothing is kept: list the files that it reads and \
                        writes, or leave `stage` out";
            self.findings.push(Diagnostic::warning(message).at(span).help(help));
        }
        true
    }

    /// Refuses `keep` where it has no meaning.
    pub(super) fn check_kept(&mut self, key: &str, typed: Option<&At<FilesSpec>>, is_staged: bool) {
        for file in typed.iter().flat_map(|typed| &typed.value.0) {
            let Some(keep) = &file.keep else { continue };
            let (message, help) = match key {
                "inputs" => (
                    "`keep` says what becomes of an output, and this is an input".to_owned(),
                    "set `keep = false` in `outputs` of the task that writes the file",
                ),
                _ if !is_staged && !keep.value => (
                    format!("`{}` writes this file in its own directory, where it stays", self.name),
                    "add `stage = \"node\"` to the task, and to those that read the file, or leave `keep` out",
                ),
                _ if self.context.to.is_some() && !keep.value => (
                    "a task that is added keeps all of its outputs".to_owned(),
                    "leave `keep` out: the run does not know who reads the file",
                ),
                _ => continue,
            };
            self.findings.push(Diagnostic::error(message).at(&keep.span).help(help));
        }
    }

    /// Refuses files of a staged task that are not below its directory.
    pub(super) fn check_staged_files(&mut self, key: &str, typed: Option<&At<FilesSpec>>, files: &[FileTemplate]) {
        let Some(typed) = typed else { return };
        for (typed, file) in typed.value.0.iter().zip(files) {
            let samples = self.space.samples();
            let outside =
                samples.iter().map(|number| file.name.fill(self.element(*number))).find(|name| is_outside(name));
            let Some(name) = outside else { continue };
            let read = "leave it out of `inputs` (the command can read it at its place; order such tasks with \
                        `needs`), or let `dir` be a directory around all files";
            let written = "let `dir` be a directory around all files, or leave `stage` out";
            self.findings.push(
                Diagnostic::error(format!("`{name}` in `{key}` is not below the directory of `{}`", self.name))
                    .at(&typed.name.span)
                    .help(if key == "inputs" { read } else { written }),
            );
        }
    }
}

/// True for a path that is absolute, leaves its directory, or is the directory itself.
fn is_outside(name: &str) -> bool {
    let mut depth = 0;
    for component in Path::new(name).components() {
        match component {
            Component::Normal(_) => depth += 1,
            Component::CurDir => {}
            Component::ParentDir if depth > 0 => depth -= 1,
            _ => return true,
        }
    }
    depth == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_below_the_directory_can_be_staged() {
        let outside = ["/a", "../a", "a/../../b", ".", "a/..", ""];
        assert_eq!(outside.map(is_outside), [true; 6]);
        assert_eq!(["a", "./a/b", "a/../b", "..a"].map(is_outside), [false; 4]);
    }
}
