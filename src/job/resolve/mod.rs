//! From what was typed to what it means: defaults, elements, templates, dependencies.
//!
//! Resolution goes on after a mistake, so that all are reported together; the job that comes out counts only if no error was
//! found. A task with a mistake of its own is marked *broken*, and what refers to it is not judged by what was lost.

mod alerts;
mod files;
mod links;
pub(crate) mod names;
mod needs;
mod pattern;
mod scaling;
mod task;

use std::path::{Path, PathBuf};

use rustc_hash::FxHashMap;

use self::links::Links;
use self::task::Draft;
use super::diagnostic::{Diagnostic, Findings};
use super::load::KernelCheck;
use super::read::{At, Span};
use super::spec::{Common, FileSpec, JobSpec};
use super::{Flush, Job, KeepOutput, Partition};
use crate::graph::link::GroupId;
use crate::model::TaskId;

/// More tasks than this are refused: they would not fit into memory.
const MOST_TASKS: u64 = 100_000_000;

/// What resolution needs to know beside the file itself.
pub(crate) struct Context<'a> {
    /// Name of the file without its ending.
    pub stem: &'a str,
    /// Where relative directories start.
    pub base_dir: &'a Path,
    pub kernels: &'a dyn KernelCheck,
}

/// Input files that no task writes, with their places.
pub(crate) type External = Vec<(PathBuf, Span)>;

/// Makes the job; it is usable if `findings` has no errors afterwards.
pub(crate) fn resolve(spec: &FileSpec, context: &Context<'_>, findings: &mut Findings) -> (Job, External) {
    let mut job = resolve_job(spec.job.as_ref().map(|at| &at.value), context, findings);
    let no_defaults = Common::default();
    let defaults = spec.defaults.as_ref().map_or(&no_defaults, |at| &at.value);
    let mut drafts: Vec<Draft<'_>> =
        spec.tasks().iter().map(|task| task::resolve_task(task, defaults, context, findings)).collect();
    if drafts.is_empty() && !findings.has_errors() {
        findings.push(
            Diagnostic::error("the job has no task")
                .at(&spec.task.as_ref().map_or(0..0, |tasks| tasks.span.clone()))
                .help("add one: `[[task]]`, then `name = \"hello\"` and `command = \"echo hello\"`"),
        );
    }
    number(&mut drafts, findings);
    let by_name = index_names(&drafts, findings);
    let mut links = Links::new(drafts.iter().map(|draft| draft.group.count).collect());
    pattern::link(&drafts, &mut links);
    needs::resolve_needs(&drafts, &by_name, &mut links, findings);
    let external = files::resolve_files(&drafts, &job.dir, &mut links, findings);
    job.links = links.finish();
    job.scaling = spec.scaling.as_ref().map(|at| scaling::resolve_scaling(&at.value, findings));
    job.cost = spec.cost.as_ref().map(|at| scaling::resolve_cost(&at.value, findings)).unwrap_or_default();
    job.capacity = spec.capacity.as_ref().map(|at| scaling::resolve_capacity(&at.value, findings)).unwrap_or_default();
    job.alerts = alerts::resolve_alerts(spec.alerts(), &job.dir, findings);
    (job.groups, job.bodies) = drafts.into_iter().map(|draft| (draft.group, draft.body)).unzip();
    (job, external)
}

fn resolve_job(spec: Option<&JobSpec>, context: &Context<'_>, findings: &mut Findings) -> Job {
    let empty = JobSpec::default();
    let spec = spec.unwrap_or(&empty);
    if let Some(dir) = &spec.dir {
        names::check_dir("dir", dir, findings);
    }
    let variables = spec.env.iter().flat_map(|env| &env.value.0);
    Job {
        name: job_name(spec.name.as_ref(), context.stem, findings),
        description: spec.description.as_ref().map(|at| at.value.clone()).unwrap_or_default(),
        dir: context.base_dir.join(spec.dir.as_ref().map_or("", |at| at.value.as_str())),
        env: variables.map(|(name, value)| (name.value.clone(), value.value.clone())).collect(),
        prologue: spec.prologue.iter().flat_map(|lines| &lines.value.0).map(|line| line.value.clone()).collect(),
        output: spec.output.as_ref().map_or(KeepOutput::default(), |at| at.value.0),
        flush: spec.flush.as_ref().map_or(Flush::default(), |at| at.value.0),
        max_failures: spec.max_failures.as_ref().and_then(|at| u32::try_from(at.value.0).ok()),
        partition: spec.partition.as_ref().map_or(Partition::default(), |at| at.value.0),
        ..Job::default()
    }
}

fn job_name(typed: Option<&At<String>>, stem: &str, findings: &mut Findings) -> String {
    let Some(name) = typed else { return names::make_name(stem, "job") };
    if let Err(reason) = names::check_name(&name.value) {
        findings.push(
            Diagnostic::error(format!("the job's name cannot be used for a directory: {reason}"))
                .at(&name.span)
                .help(format!("write `name = \"{}\"`", names::make_name(&name.value, "job"))),
        );
    }
    name.value.clone()
}

/// Gives every group the numbers of its tasks.
fn number(drafts: &mut [Draft<'_>], findings: &mut Findings) {
    let mut next = 0u64;
    for draft in drafts {
        let count = draft.body.space.len();
        if next.saturating_add(count) > MOST_TASKS {
            findings.push(
                Diagnostic::error(format!("the job has more than {MOST_TASKS} tasks"))
                    .label(&draft.space_span, format!("this alone stands for {count}"))
                    .help("split the job, or let each task do more"),
            );
            draft.broken = true;
            continue;
        }
        // Both fit, since the sum is at most MOST_TASKS.
        draft.group.first = TaskId(u32::try_from(next).unwrap_or(0));
        draft.group.count = u32::try_from(count).unwrap_or(1);
        next += count;
    }
}

fn index_names<'a>(drafts: &'a [Draft<'_>], findings: &mut Findings) -> FxHashMap<&'a str, GroupId> {
    let mut by_name: FxHashMap<&str, GroupId> = FxHashMap::default();
    for (id, draft) in drafts.iter().enumerate().filter(|(_, draft)| !draft.group.name.is_empty()) {
        let name = draft.group.name.as_str();
        match by_name.get(name) {
            Some(first) => findings.push(
                Diagnostic::error(format!("two tasks are called `{name}`"))
                    .label(&draft.name_span, "used again here")
                    .label(&drafts[*first as usize].name_span, "first used here")
                    .help("give each task a name of its own; for many alike use `array`"),
            ),
            None => {
                by_name.insert(name, id as GroupId);
            }
        }
    }
    by_name
}
