//! Order between tasks of several job files, by the rule of `file_order`: a task that reads a file
//! depends on the task of another job that writes it.

use std::path::Path;

use crate::graph::link::{Condition, GroupId, Link};
use crate::job::file_order::{FileMistake, FileOrder, FileTable, FileTables, MAX_IMPLIED, OutputOrigin};
use crate::job::read::Span;
use crate::job::resolve::Links;
use crate::job::written_files::WrittenFiles;
use crate::job::{Diagnostic, Job};
use crate::model::TaskId;

impl FileTables for Job {
    fn table(&self, group: GroupId) -> FileTable<'_> {
        let dir: &Path = self.part_of(group).map_or(&self.dir, |part| &part.dir);
        let (count, body) = (self.groups[group as usize].count, &self.bodies[group as usize]);
        FileTable { name: self.own_name(group), count, body, job_dir: dir.to_string_lossy() }
    }
}

/// Links tasks to those of other jobs that write what they read. `readers` are the groups that read
/// files which no task of their own job writes, ascending, with places in the job files. Returns
/// the mistakes.
pub(super) fn link(job: &mut Job, readers: &[(GroupId, Span)]) -> Vec<Diagnostic> {
    let mut mistakes = Vec::new();
    let mut written = written(job, &mut mistakes);
    if !readers.is_empty() {
        (0..).zip(&job.groups).for_each(|(group, _)| job.table(group).collect_streams(group, &mut written));
    }
    let mut links = Links::new(job.groups.iter().map(|group| group.count).collect());
    let order = FileOrder { tables: job, written: &[&written] };
    for (to, span) in readers {
        let is_elsewhere = |group: GroupId| job.part_number(group) != job.part_number(*to);
        let table = job.table(*to);
        for file in table.reads() {
            let found = match order.links(*to, &file, &is_elsewhere, &mut |_| ()) {
                Ok(found) => found,
                Err(FileMistake::ReadsOwn(_)) => continue,
                Err(FileMistake::TooMany) => {
                    mistakes.push(
                        Diagnostic::error(format!("this directory implies more than {MAX_IMPLIED} dependencies"))
                            .at(span)
                            .help("list the files themselves under `inputs`"),
                    );
                    continue;
                }
            };
            for (writer, shape) in found {
                let output = job.bodies[writer.group as usize].outputs.get(writer.output as usize);
                if output.is_some_and(|output| !output.keep) {
                    mistakes.push(not_kept(job, writer, *to, span));
                }
                let size = file.size.or(output.and_then(|output| output.size));
                let (on, bytes) = (Condition::Ok, size.unwrap_or(0));
                links.add_file(Link { from: writer.group, to: *to, shape, on, bytes, span: span.clone() });
            }
        }
        links.close_group();
    }
    let links = links.finish();
    job.links.extend(links);
    mistakes
}

/// The outputs of all jobs.
fn written(job: &Job, mistakes: &mut Vec<Diagnostic>) -> WrittenFiles<OutputOrigin> {
    let mut written = WrittenFiles::default();
    for (group, body) in (0..).zip(&job.bodies) {
        let table = job.table(group);
        for (output, file) in (0..).zip(&body.outputs) {
            for element in 0..table.count {
                let name = table.absolute(element, &file.name);
                let writer = OutputOrigin { group, element, output };
                if let Some(other) = written.insert(&name, writer) {
                    let (first, second) = (task_name(job, other), task_name(job, writer));
                    mistakes.push(
                        Diagnostic::error(format!("both `{first}` and `{second}` write {name}"))
                            .help("let each task write a file of its own"),
                    );
                    // The other elements would repeat the same mistake.
                    break;
                }
            }
        }
    }
    written
}

fn not_kept(job: &Job, writer: OutputOrigin, reader: GroupId, span: &Span) -> Diagnostic {
    let (writer, reader) = (task_name(job, writer), &job.groups[reader as usize].name);
    Diagnostic::error(format!("`{reader}` does not find what `{writer}` writes with `keep = false`"))
        .at(span)
        .help("keep the file, or put both tasks into one job file")
}

fn task_name(job: &Job, writer: OutputOrigin) -> String {
    job.task_name(TaskId(job.groups[writer.group as usize].first.0 + writer.element))
}
