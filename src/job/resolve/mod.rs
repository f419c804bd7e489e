//! Resolves the typed job file: defaults, elements, templates, dependencies.
//!
//! Resolution continues after a mistake, so that all mistakes are reported together; the resulting
//! job is valid only if there was no error. A task with a mistake is marked *broken*, and
//! references to it are not checked against what was lost.
//!
//! A table is resolved as soon as it is read, and stored compactly, because there may be a million.
//! Relations between tables are resolved after all of them have been read.

mod added;
mod advisor;
mod alerts;
mod axes;
mod cache;
mod container;
mod drafts;
mod files;
pub(crate) mod graphs;
mod limits;
mod links;
pub(crate) mod names;
mod needs;
mod offsets;
mod pattern;
mod pools;
mod scaling;
mod sites;
mod stage;
mod task;
mod work;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rustc_hash::{FxHashMap, FxHashSet};

use self::drafts::{Drafts, SharedTables, SourcePlace};
pub(crate) use self::files::External;
use self::files::Files;
pub(crate) use self::links::Links;
use super::diagnostic::{Diagnostic, Findings};
use super::dialect::Sh;
use super::load::{AdditionTo, KernelCheck};
use super::read::{At, Span};
use super::spec::{Common, FileSpec, GraphSpec, JobSpec, TaskSpec};
use super::value_files::ValueFiles;
use super::values::{SlotCountSpec, SlotsSpec};
use super::{Flush, Job, KeepOutput, Placement, SlotCount, SlotRange};
use crate::graph::link::{GroupId, Link};
use crate::model::TaskId;

/// Maximum number of tasks: more would not fit in memory.
const MAX_TASKS: u64 = 100_000_000;

/// Default time for a declared output to appear on a shared file system.
const DEFAULT_OUTPUT_WAIT: Duration = Duration::from_secs(5);

/// Inputs of the resolution besides the typed values.
pub(crate) struct ResolveContext<'a> {
    /// The whole file.
    pub text: &'a str,
    /// File name without its extension.
    pub stem: &'a str,
    /// Base of relative directories.
    pub base_dir: &'a Path,
    pub kernels: &'a dyn KernelCheck,
    /// The files that values along axes come from.
    pub values: &'a ValueFiles,
    /// The `sh` for which shell lines are checked; `None` disables the check.
    pub sh: Option<&'a Sh>,
    /// The job to which the tasks are added; `None`: they are those of a job file.
    pub to: Option<&'a AdditionTo<'a>>,
}

/// A job under construction.
pub(crate) struct Resolution<'a> {
    spec: &'a FileSpec,
    context: &'a ResolveContext<'a>,
    defaults: &'a Common,
    job: Job,
    drafts: Drafts,
    shared: SharedTables,
}

impl<'a> Resolution<'a> {
    /// Starts with everything except the task tables, of which `tables` will follow.
    pub(crate) fn new(
        (spec, defaults): (&'a FileSpec, &'a Common),
        context: &'a ResolveContext<'a>,
        tables: usize,
        findings: &mut Findings,
    ) -> Self {
        let job = match context.to {
            Some(to) => to.without_tasks(),
            None => {
                let mut job = resolve_job(spec.job.as_ref().map(|at| &at.value), context, findings);
                job.pools = pools::resolve_pools(spec.pools.as_ref(), findings);
                let cache = spec.cache.as_ref();
                job.cache = cache.map(|at| cache::resolve_cache(&at.value, &job.dir, findings)).unwrap_or_default();
                job.graphs = graphs::resolve_graphs(spec.graphs(), &job.dir, findings);
                job.defaults = Arc::new(defaults.clone());
                job
            }
        };
        let drafts = Drafts::with_capacity(tables.max(spec.tasks().len()));
        let named = |graph: &At<GraphSpec>| {
            let (name, file) = (graph.value.name.as_ref()?, graph.value.file.as_ref()?);
            Some((name.value.clone(), SourcePlace::of(&file.span)))
        };
        let mut shared = SharedTables::default();
        shared.graph_places = spec.graphs().iter().filter_map(named).collect();
        Resolution { spec, context, defaults, job, drafts, shared }
    }

    /// Adds a task table.
    pub(crate) fn add(&mut self, task: &At<TaskSpec>, findings: &mut Findings) {
        let resolver =
            task::TaskResolver::new(task, (self.defaults, &self.job), self.context, &mut self.shared, findings);
        self.drafts.push(resolver.draft());
    }

    /// Builds the job; it is valid if there were no errors.
    pub(crate) fn finish(self, findings: &mut Findings) -> (Job, External) {
        let Resolution { spec, context, mut job, mut drafts, .. } = self;
        if let Some(to) = context.to {
            added::check_sections(spec, findings);
            number(&mut drafts, to.first_task, findings);
            let external = added::link(&mut job, &mut drafts, to, context, findings);
            (job.groups, job.bodies) = drafts.finish();
            to.part.into_iter().for_each(|part| part.claim(&mut job));
            return (job, external);
        }
        number(&mut drafts, TaskId(0), findings);
        let external = link(&mut job, (&drafts, drafts.len()), &[], context, findings);
        job.scaling = spec.scaling.as_ref().map(|at| scaling::resolve_scaling(&at.value, findings));
        job.cost = spec.cost.as_ref().map(|at| scaling::resolve_cost(&at.value, findings)).unwrap_or_default();
        (job.sites, job.listen) = sites::resolve_sites(spec, &job.cost, findings);
        let scales = job.scaling.is_some();
        job.advisor = spec.advisor.as_ref().and_then(|at| advisor::resolve_advisor(at, scales, findings));
        job.alerts = alerts::resolve_alerts(spec.alerts(), &job.dir, findings);
        (job.groups, job.bodies) = drafts.finish();
        (job, external)
    }

    /// True if there is no task.
    pub(crate) fn is_empty(&self) -> bool {
        self.drafts.len() == 0
    }
}

/// Resolves the relations between tables, successor by successor, each with all its dependencies.
/// Only the first `own` tables need others. `by_files`: dependencies through files on the other
/// ones, ascending by dependent.
fn link(
    job: &mut Job,
    (drafts, own): (&Drafts, usize),
    by_files: &[Link],
    context: &ResolveContext<'_>,
    findings: &mut Findings,
) -> External {
    let by_name = index_names(drafts, findings);
    let mut links = Links::new(drafts.iter().map(|draft| draft.group.count).collect());
    let mut files = Files::of(drafts, &job.dir, findings);
    for to in 0..own as GroupId {
        pattern::link(to, drafts, &mut links);
        needs::resolve_needs(to, drafts, &by_name, context, &mut links, findings);
        files.link_group(to, &mut links, findings);
        let more = by_files.partition_point(|link| link.to < to)..by_files.partition_point(|link| link.to <= to);
        by_files[more].iter().for_each(|link| links.add_file(link.clone()));
        files.warn_of_unlisted(to, &links, findings);
        links.close_group();
    }
    job.links = links.finish();
    files.external()
}

fn resolve_job(spec: Option<&JobSpec>, context: &ResolveContext<'_>, findings: &mut Findings) -> Job {
    let empty = JobSpec::default();
    let spec = spec.unwrap_or(&empty);
    if let Some(dir) = &spec.dir {
        names::check_dir("dir", dir, findings);
    }
    let chooses = spec.shell.is_some();
    for line in spec.prologue.iter().flat_map(|lines| &lines.value.0).filter(|_| !chooses) {
        let foreign = context.sh.map(|sh| (sh, sh.foreign(&line.value)));
        foreign.into_iter().for_each(|(sh, foreign)| warn_of_dialect(sh, foreign, &line.span, findings));
    }
    let variables = spec.env.iter().flat_map(|env| &env.value.0);
    Job {
        name: job_name(spec.name.as_ref(), context.stem, findings),
        description: spec.description.as_ref().map(|at| at.value.clone()).unwrap_or_default(),
        dir: context.base_dir.join(spec.dir.as_ref().map_or("", |at| at.value.as_str())),
        env: variables.map(|(name, value)| (name.value.clone(), value.value.clone())).collect(),
        prologue: spec.prologue.iter().flat_map(|lines| &lines.value.0).map(|line| line.value.clone()).collect(),
        shell: spec.shell.as_ref().map(|at| at.value.0.as_slice().into()),
        output_wait: spec.output_wait.as_ref().map_or(DEFAULT_OUTPUT_WAIT, |at| at.value.0),
        output: spec.output.as_ref().map_or(KeepOutput::default(), |at| at.value.0),
        flush: spec.flush.as_ref().map_or(Flush::default(), |at| at.value.0),
        open: spec.open.as_ref().is_some_and(|at| at.value),
        share: spec.share.as_ref().and_then(|at| u32::try_from(at.value.0).ok()),
        max_failures: spec.max_failures.as_ref().and_then(|at| u32::try_from(at.value.0).ok()),
        slots: spec.slots.as_ref().map(|at| slots(at, findings)),
        placement: placement(spec, findings),
        ..Job::default()
    }
}

/// The slots of each rank.
fn slots(at: &At<SlotsSpec>, findings: &mut Findings) -> SlotRange {
    let table = match &at.value {
        SlotsSpec::Count(count) => return SlotRange { min: Some(*count), max: None },
        SlotsSpec::Table(table) => table,
    };
    let count = |typed: &Option<At<SlotCountSpec>>| typed.as_ref().map(|at| at.value.0);
    let range = SlotRange { min: count(&table.min), max: count(&table.max) };
    let is_reversed = match (range.min, range.max) {
        (Some(SlotCount::Fixed(min)), Some(SlotCount::Fixed(max))) => max < min,
        (Some(SlotCount::PerCpu(min)), Some(SlotCount::PerCpu(max))) => max < min,
        (None, Some(SlotCount::PerCpu(max))) => max < 1.0,
        _ => false,
    };
    if let Some(max) = table.max.as_ref().filter(|_| is_reversed) {
        let error = Diagnostic::error("the most slots are fewer than the least").at(&max.span);
        findings.push(error.help("raise `max` or lower `min` (without it: one slot per CPU)"));
    }
    range
}

fn placement(spec: &JobSpec, findings: &mut Findings) -> Placement {
    if let (Some(now), Some(former)) = (&spec.placement, &spec.partition) {
        findings.push(
            Diagnostic::error("`placement` and `partition` are two names of one field")
                .label(&former.span, "the former name")
                .label(&now.span, "the name")
                .help("leave `partition` out"),
        );
    }
    spec.placement.as_ref().or(spec.partition.as_ref()).map_or(Placement::default(), |at| at.value.0)
}

/// Warns of constructs that the `sh` of this machine interprets differently than bash.
fn warn_of_dialect(sh: &Sh, mut foreign: Vec<String>, span: &Span, findings: &mut Findings) {
    let mut seen = FxHashSet::default();
    foreign.retain(|word| seen.insert(word.clone()));
    if !foreign.is_empty() && !findings.is_full() {
        let list = foreign.iter().take(4).map(|word| format!("`{word}`")).collect::<Vec<_>>().join(", ");
        let message = format!("`sh` is {} here, which does not understand {list} as bash does", sh.name);
        let help = "choose the shell, in [job], [defaults] or the task: `shell = \"bash\"`";
        findings.push(Diagnostic::warning(message).at(span).help(help));
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

/// Assigns task numbers to the groups, from `first` on.
fn number(drafts: &mut Drafts, first: TaskId, findings: &mut Findings) {
    let mut next = u64::from(first.0);
    for (group, body, notes) in drafts.iter_mut() {
        let count = body.space().len();
        if next.saturating_add(count) > MAX_TASKS {
            findings.push(
                Diagnostic::error(format!("the job has more than {MAX_TASKS} tasks"))
                    .label(&notes.space.span(), format!("this alone stands for {count}"))
                    .help("split the job, or let each task do more"),
            );
            notes.broken = true;
            continue;
        }
        // Both fit, because the sum is at most the maximum number of tasks.
        group.first = TaskId(u32::try_from(next).unwrap_or(0));
        group.count = u32::try_from(count).unwrap_or(1);
        next += count;
    }
}

fn index_names<'a>(drafts: &'a Drafts, findings: &mut Findings) -> FxHashMap<&'a str, GroupId> {
    let mut by_name: FxHashMap<&str, GroupId> = FxHashMap::default();
    by_name.reserve(drafts.len());
    for (id, draft) in (0..).zip(drafts.iter()).filter(|(_, draft)| !draft.group.name.is_empty()) {
        let name = &*draft.group.name;
        match by_name.get(name) {
            Some(first) => findings.push(
                Diagnostic::error(format!("two tasks are called `{name}`"))
                    .label(&draft.notes.name.span(), "used again here")
                    .label(&drafts.get(*first).notes.name.span(), "first used here")
                    .help("give each task a name of its own; for many alike use `array`"),
            ),
            None => {
                by_name.insert(name, id);
            }
        }
    }
    by_name
}
