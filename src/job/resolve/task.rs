//! Resolves one `[[task]]` table by itself, without relations to others.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use super::axes::resolve_axes;
use super::drafts::{Notes, SharedTables, SourcePlace as Spot, TypedNeed};
use super::names::{check_dir, check_name, check_path, make_name, resolve_labels};
use super::{ResolveContext, pattern};
use crate::exec::script::is_standard;
use crate::job::body::{Body, Extras, FileTemplate, OPERATION_KERNEL, WorkTemplate};
use crate::job::diagnostic::{Diagnostic, Findings};
use crate::job::file_names::{check_patterns, tells_elements_apart};
use crate::job::read::{At, Span};
use crate::job::space::Space;
use crate::job::spec::{Common, TaskSpec};
use crate::job::template::{Element, StringKind, Template, compile};
use crate::job::units::{parse_duration, shorten};
use crate::job::values::{Background, EnvSpec, EstimateSpec, FilesSpec, MemoryRequest, RetriesSpec};
use crate::job::{AUTO_MEMORY_FACTOR, DEFAULT_AUTO_MEMORY, Group, Job, MpiShape, Retry};
use crate::model::{Labels, TaskId};

/// Converts a number whose reader has bounded it to 32 bits.
fn small(value: i64) -> u32 {
    u32::try_from(value).unwrap_or(0)
}

fn name(spec: &At<TaskSpec>, findings: &mut Findings) -> String {
    let Some(name) = &spec.value.own.name else { return String::new() };
    if let Err(reason) = check_name(&name.value) {
        findings.push(
            Diagnostic::error(format!("{:?} cannot be the name of a task: {reason}", shorten(&name.value)))
                .at(&name.span)
                .help(format!("write `name = \"{}\"`", make_name(&name.value, "task"))),
        );
    }
    name.value.clone()
}

fn space(
    spec: &At<TaskSpec>,
    dir: &Path,
    context: &ResolveContext<'_>,
    findings: &mut Findings,
) -> (Space, Option<u32>, Span) {
    let pattern = pattern::resolve(&spec.value, findings);
    if let Some((pattern, span)) = pattern {
        return (Space::Pattern(pattern), None, span);
    }
    match (&spec.value.own.array, &spec.value.own.matrix) {
        (Some(array), Some(matrix)) => {
            findings.push(
                Diagnostic::error("a task is either an array or a matrix, not both")
                    .label(&matrix.span, "the matrix")
                    .label(&array.span, "the array")
                    .help("make the indices an axis of the matrix: `matrix = { i = \"0-9\", ... }`"),
            );
            (Space::One, None, array.span.clone())
        }
        (Some(array), None) => (Space::Array(array.value.indices.clone()), array.value.limit, array.span.clone()),
        (None, Some(matrix)) => {
            let axes = resolve_axes(&matrix.value, dir, context.values, findings);
            (axes.map_or(Space::One, Space::matrix), matrix.value.limit, matrix.span.clone())
        }
        (None, None) => (Space::One, None, spec.span.clone()),
    }
}

fn retry(spec: Option<&RetriesSpec>, auto_memory: bool) -> Retry {
    let memory_factor = if auto_memory { AUTO_MEMORY_FACTOR } else { 1.0 };
    let plain = Retry { auto_memory, memory_factor, ..Retry::NONE };
    match spec {
        None => plain,
        Some(RetriesSpec::Count(count)) => Retry { count: *count, ..plain },
        Some(RetriesSpec::Table(table)) => Retry {
            count: table.count.as_ref().and_then(|at| u16::try_from(at.value.0).ok()).unwrap_or(0),
            backoff: table.backoff.as_ref().map_or(plain.backoff, |at| at.value.0),
            factor: table.factor.as_ref().map_or(plain.factor, |at| at.value.0),
            elsewhere: table.elsewhere.as_ref().is_some_and(|at| at.value),
            memory_factor: table.memory_factor.as_ref().map_or(plain.memory_factor, |at| at.value.0),
            time_factor: table.time_factor.as_ref().map_or(plain.time_factor, |at| at.value.0),
            ..plain
        },
    }
}

/// Resolves one table.
pub(super) struct TaskResolver<'a> {
    pub(super) spec: &'a At<TaskSpec>,
    pub(super) defaults: &'a Common,
    /// Everything outside of the task tables.
    pub(super) job: &'a Job,
    pub(super) name: Arc<str>,
    pub(super) space: Space,
    limit: Option<u32>,
    space_span: Span,
    pub(super) context: &'a ResolveContext<'a>,
    pub(super) shared: &'a mut SharedTables,
    pub(super) findings: &'a mut Findings,
}

impl<'a> TaskResolver<'a> {
    pub(super) fn new(
        spec: &'a At<TaskSpec>,
        (defaults, job): (&'a Common, &'a Job),
        context: &'a ResolveContext<'a>,
        shared: &'a mut SharedTables,
        findings: &'a mut Findings,
    ) -> Self {
        let name = name(spec, findings).into();
        let (space, limit, space_span) = space(spec, &job.dir, context, findings);
        TaskResolver { spec, defaults, job, name, space, limit, space_span, context, shared, findings }
    }

    /// Always returns a draft; invalid values are replaced by harmless ones.
    pub(super) fn draft(mut self) -> (Group, Body, Notes) {
        let own = &self.spec.value.own;
        let common = Given { own: &self.spec.value.common, defaults: self.defaults };
        let mut body = self.body(&common);
        let is_operation = matches!(&body.work, WorkTemplate::Kernel { name, .. } if **name == *OPERATION_KERNEL);
        let [read, written] = if is_operation { self.operation_files(&mut body) } else { Default::default() };
        let group = self.group(&common, &body);
        let spots = |files: Option<&At<FilesSpec>>| -> Box<[Spot]> {
            files.map_or_else(Box::default, |at| at.value.0.iter().map(|file| Spot::of(&file.name.span)).collect())
        };
        let container = common.get(|c| &c.container).filter(|_| body.extras.image_file().is_some());
        let image = container.map(|at| {
            Spot::of(at.value.0.as_ref().and_then(|table| table.image.as_ref()).map_or(&at.span, |image| &image.span))
        });
        let text = self.context.text;
        let needs = own.needs.iter().flat_map(|needs| &needs.value.0);
        let inputs: Vec<Spot> = spots(own.inputs.as_ref()).into_iter().chain(image).chain(read).collect();
        let notes = Notes {
            needs: needs.map(|need| TypedNeed::new(need, text)).collect(),
            name: Spot::of(own.name.as_ref().map_or(&self.spec.span, |at| &at.span)),
            space: Spot::of(&self.space_span),
            inputs: inputs.len() as u32,
            files: inputs.into_iter().chain(spots(own.outputs.as_ref())).chain(written).collect(),
            broken: self.is_space_broken(),
        };
        (group, body, notes)
    }

    fn group(&mut self, common: &Given<'_>, body: &Body) -> Group {
        let estimate = match common.get(|c| &c.estimate).map(|at| &at.value) {
            Some(EstimateSpec::Fixed(duration)) => Some(*duration),
            _ => self.check_estimate(body, common.get(|c| &c.estimate)),
        };
        self.check_bounds(common);
        let pools = self.pools(common.get(|c| &c.pools));
        let memory = common.get(|c| &c.memory).map(|at| at.value);
        Group {
            first: TaskId(0),
            count: 1,
            indexed: self.space.is_indexed(),
            limit: self.limit,
            share: common.get(|c| &c.share).map(|at| small(at.value.0)),
            batch: self.batch(common, body),
            pools,
            cpus: small(common.get(|c| &c.cpus).map_or(1, |at| at.value.0)),
            memory: memory.map(|memory| match memory {
                MemoryRequest::Auto => DEFAULT_AUTO_MEMORY,
                MemoryRequest::Fixed(bytes) => bytes,
            }),
            gpus: small(common.get(|c| &c.gpus).map_or(0, |at| at.value.0)),
            labels: self.labels(common),
            time: common.get(|c| &c.time).map(|at| at.value.0),
            retry: retry(common.get(|c| &c.retries).map(|at| &at.value), memory == Some(MemoryRequest::Auto)).into(),
            priority: common.get(|c| &c.priority).and_then(|at| i32::try_from(at.value.0).ok()).unwrap_or(0),
            estimate,
            class: common.get(|c| &c.class).map_or_else(|| Arc::clone(&self.name), |at| self.shared.text(&at.value)),
            mpi: self.mpi(),
            is_divided: false,
            name: Arc::clone(&self.name),
        }
    }

    /// The number of tasks that one shell runs, which must be lines of shell and no more.
    fn batch(&mut self, common: &Given<'_>, body: &Body) -> u32 {
        let own = &self.spec.value.own;
        let Some(typed) = &own.batch else { return 1 };
        let shell = body.extras.shell.as_ref().or(self.job.shell.as_ref());
        let span = |at: &At<String>| at.span.clone();
        let files = [own.stdin.as_ref(), common.get(|c| &c.stdout), common.get(|c| &c.stderr)];
        let obstacle = match (&body.work, &own.mpi, files.into_iter().flatten().next()) {
            (WorkTemplate::Command(_), ..) => Some((
                "this command is a program with its arguments, which needs no shell",
                "write it as a line: `command = \"prog arg\"`",
                None,
            )),
            (WorkTemplate::Kernel { .. }, ..) => Some(("this task is not a command", "leave `batch` out", None)),
            (_, Some(mpi), _) => {
                Some(("an MPI task is started by its launcher", "leave `batch` out", Some(mpi.span.clone())))
            }
            (_, _, Some(file)) => Some((
                "its shell has one standard input and output for all tasks",
                "redirect in the line itself: `prog > out-{index}`",
                Some(span(file)),
            )),
            _ if common.get(|c| &c.cpus).is_some_and(|cpus| cpus.value.0 > 1) => Some((
                "a slot keeps its shell, and these tasks need several slots",
                "leave `batch` out",
                common.get(|c| &c.cpus).map(|at| at.span.clone()),
            )),
            _ if body.extras.keeps_background => Some((
                "processes that a task leaves running would write into the output of others",
                "leave `background` or `batch` out",
                own.background.as_ref().map(|at| at.span.clone()),
            )),
            _ if body.extras.container.is_some() => Some((
                "a container is started for each task",
                "leave `batch` out, or set `container = false`",
                common.get(|c| &c.container).map(|at| at.span.clone()),
            )),
            _ if shell.is_some_and(|shell| !is_standard(shell)) => Some((
                "only shells like `sh` and `bash` run one line after the other",
                "leave `batch` out, or choose such a shell",
                None,
            )),
            _ => None,
        };
        if let Some((reason, help, other)) = obstacle {
            let mut error = Diagnostic::error(format!("`batch` does not go with this task: {reason}")).at(&typed.span);
            if let Some(other) = other {
                error = error.label(&other, "this");
            }
            self.findings.push(error.help(help));
        }
        small(typed.value.0)
    }

    /// The labels that a rank must have.
    fn labels(&mut self, common: &Given<'_>) -> Labels {
        common.get(|c| &c.labels).map(|at| resolve_labels(&at.value, self.findings)).unwrap_or_default()
    }

    pub(super) fn template(&mut self, text: &str, span: &Span) -> Template {
        self.compile((text, span), StringKind::Plain)
    }

    /// Compiles a string. Where the elements of the task are unknown because of a mistake, nothing
    /// is said of its placeholders.
    pub(super) fn compile(&mut self, text: (&str, &Span), kind: StringKind) -> Template {
        let mut unsaid = Findings::default();
        let findings = if self.is_space_broken() { &mut unsaid } else { &mut *self.findings };
        let template = compile(text, kind, &self.space, findings);
        self.shared.template(template)
    }

    /// True if the table states elements that cannot be used.
    fn is_space_broken(&self) -> bool {
        let is_stated = ["array", "matrix", "pattern"].iter().any(|key| self.spec.value.typed.contains(key));
        is_stated && !self.space.is_indexed()
    }

    fn body(&mut self, common: &Given<'_>) -> Body {
        let own = &self.spec.value.own;
        let work = self.work();
        if let Some(dir) = common.get(|c| &c.dir) {
            check_dir("dir", dir, self.findings);
        }
        let estimate = match common.get(|c| &c.estimate).map(|at| (&at.value, &at.span)) {
            Some((EstimateSpec::Text(text), span)) => Some(self.template(text, span)),
            _ => None,
        };
        let containers = (common.own.container.as_ref(), common.defaults.container.as_ref());
        let has_gpus = common.get(|c| &c.gpus).is_some_and(|gpus| gpus.value.0 > 0);
        let mut extras = Extras {
            cache: None,
            container: self.container(containers, &work, has_gpus),
            stdin: self.stream("stdin", own.stdin.as_ref()),
            stdout: self.stream("stdout", common.get(|c| &c.stdout)),
            stderr: self.stream("stderr", common.get(|c| &c.stderr)),
            dir: common.get(|c| &c.dir).map(|dir| self.template(&dir.value, &dir.span)),
            estimate,
            shell: common.get(|c| &c.shell).map(|at| at.value.0.as_slice().into()),
            keeps_background: own.background.as_ref().is_some_and(|at| at.value.0 == Background::Keep),
            is_staged: false,
        };
        if extras.container.is_none() {
            self.judge_line(&work, extras.shell.as_ref().or(self.job.shell.as_ref()));
        }
        let env = self.variables(common.defaults.env.as_ref(), common.own.env.as_ref());
        let mut inputs = self.files("inputs", own.inputs.as_ref());
        if let Some(image) = extras.image_file() {
            inputs = inputs.into_iter().chain([image]).collect();
        }
        let outputs = self.files("outputs", own.outputs.as_ref());
        extras.cache =
            self.cache((common.own.cache.as_ref(), common.defaults.cache.as_ref()), &work, &extras, &outputs);
        extras.is_staged = own.stage.as_ref().is_some_and(|stage| self.stages(&stage.span, &work, &extras));
        self.check_kept("inputs", own.inputs.as_ref(), extras.is_staged);
        self.check_kept("outputs", own.outputs.as_ref(), extras.is_staged);
        if extras.is_staged {
            self.check_staged_files("inputs", own.inputs.as_ref(), &inputs);
            self.check_staged_files("outputs", own.outputs.as_ref(), &outputs);
        }
        self.check_lengths(&work, &env, extras.shell.as_ref().or(self.job.shell.as_ref()));
        let (env, extras) = (self.shared.env(env), self.shared.extras(extras));
        let family = self.space.is_indexed().then(|| Box::new(self.space.clone()));
        Body { family, work, env, inputs, outputs, extras }
    }

    pub(super) fn element(&self, number: u32) -> Element<'_> {
        Element { name: &self.name, space: &self.space, number }
    }

    fn stream(&mut self, key: &str, text: Option<&At<String>>) -> Option<Template> {
        let text = text?;
        if text.value.is_empty() {
            self.findings.push(
                Diagnostic::error(format!("`{key}` is empty")).at(&text.span).help("leave it out, or name a file"),
            );
        }
        check_path(key, text, self.findings);
        if let Err(reason) = check_patterns(&text.value, self.space.is_indexed()) {
            self.findings.push(Diagnostic::error(format!("`{key}`: {reason}")).at(&text.span));
        }
        let template = self.template(&text.value, &text.span);
        let shared = self.space.is_indexed() && template.is_same_for_all() && !tells_elements_apart(&text.value);
        if shared && key != "stdin" && !text.value.starts_with("/dev/") {
            self.findings.push(
                Diagnostic::warning(format!("all tasks of `{}` write to the same `{key}`", self.name))
                    .at(&text.span)
                    .help("put the index into the name: `%x-%a.txt`"),
            );
        }
        Some(template)
    }

    /// The variables of `[defaults]`, overridden and followed by those of the task.
    fn variables(&mut self, defaults: Option<&At<EnvSpec>>, own: Option<&At<EnvSpec>>) -> Vec<(Arc<str>, Template)> {
        let own = own.map_or(&[][..], |at| &at.value.0);
        let kept = defaults
            .iter()
            .flat_map(|at| &at.value.0)
            .filter(|(name, _)| own.iter().all(|(other, _)| other.value != name.value));
        let variable = |(name, value): &(At<String>, At<String>)| {
            (self.shared.text(&name.value), self.template(&value.value, &value.span))
        };
        kept.chain(own).map(variable).collect()
    }

    fn files(&mut self, key: &str, files: Option<&At<FilesSpec>>) -> Box<[FileTemplate]> {
        let Some(files) = files else { return Box::default() };
        files.value.0.iter().for_each(|file| check_path(key, &file.name, self.findings));
        files
            .value
            .0
            .iter()
            .map(|file| FileTemplate {
                name: self.template(&file.name.value, &file.name.span),
                size: file.size,
                optional: file.optional,
                keep: file.keep.as_ref().is_none_or(|keep| keep.value),
            })
            .collect()
    }

    /// Checks the estimate for a few elements; returns that of the first.
    fn check_estimate(&mut self, body: &Body, typed: Option<&At<EstimateSpec>>) -> Option<Duration> {
        let (template, typed) = (body.extras.estimate.as_ref()?, typed?);
        let mut first = None;
        for number in self.space.samples() {
            match parse_duration(&template.fill(self.element(number))) {
                Ok(duration) => first = first.or(Some(duration)),
                Err(error) => {
                    self.findings.push(Diagnostic::error(format!("`estimate`: {error}")).at(&typed.span));
                    return None;
                }
            }
        }
        first
    }

    fn check_bounds(&mut self, common: &Given<'_>) {
        if let Some(time) = common.get(|c| &c.time).filter(|time| time.value.0.is_zero()) {
            self.findings.push(
                Diagnostic::error("a time limit of 0 would stop the task at once")
                    .at(&time.span)
                    .help("leave `time` out for no limit"),
            );
        }
        if let Some(memory) = common.get(|c| &c.memory).filter(|at| at.value == MemoryRequest::Fixed(0)) {
            self.findings.push(
                Diagnostic::error("a memory limit of 0 lets no task run")
                    .at(&memory.span)
                    .help("leave `memory` out for no limit"),
            );
        }
    }

    fn mpi(&mut self) -> Option<MpiShape> {
        let mpi = self.spec.value.own.mpi.as_ref()?;
        if let Some(kernel) = &self.spec.value.own.kernel {
            self.findings.push(
                Diagnostic::error("`mpi` starts a command on several ranks, but this task is a kernel")
                    .at(&mpi.span)
                    .label(&kernel.span, "the kernel")
                    .help("give the kernel more CPUs with `cpus`, or run a command"),
            );
        }
        let ranks = mpi.value.ranks.as_ref()?;
        Some(MpiShape {
            ranks: small(ranks.value.0),
            per_node: mpi.value.per_node.as_ref().map(|at| small(at.value.0)),
        })
    }
}

/// The fields that `[defaults]` may set: those of the table take precedence.
struct Given<'a> {
    own: &'a Common,
    defaults: &'a Common,
}

impl<'a> Given<'a> {
    fn get<T>(&self, field: fn(&Common) -> &Option<At<T>>) -> Option<&'a At<T>> {
        field(self.own).as_ref().or_else(|| field(self.defaults).as_ref())
    }
}
