//! Resolves one `[[task]]` table by itself, without relations to others.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use super::axes::resolve_axes;
use super::drafts::{Notes, SharedTables, SourcePlace as Spot, TypedNeed};
use super::graphs::OPERATION_KERNEL;
use super::names::{check_dir, check_name, make_name};
use super::{ResolveContext, pattern, warn_of_dialect};
use crate::data::source::{GraphSource, Origin};
use crate::job::body::{Arg, Body, Extras, FileTemplate, WorkTemplate};
use crate::job::diagnostic::{Diagnostic, Findings, suggest};
use crate::job::file_names::{check_patterns, tells_elements_apart};
use crate::job::read::{At, Span};
use crate::job::space::Space;
use crate::job::spec::{Common, TaskSpec};
use crate::job::template::{Element, StringKind, Template, compile};
use crate::job::units::{parse_duration, shorten};
use crate::job::values::{ArgsSpec, Background, CommandSpec, EnvSpec, EstimateSpec, FilesSpec, RawArg, RetriesSpec};
use crate::job::{DataGraph, Group, Job, MpiShape, Retry, Work};
use crate::model::TaskId;

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
            (axes.map_or(Space::One, Space::Matrix), matrix.value.limit, matrix.span.clone())
        }
        (None, None) => (Space::One, None, spec.span.clone()),
    }
}

fn retry(spec: Option<&RetriesSpec>) -> Retry {
    let plain = Retry { count: 0, backoff: Duration::from_secs(1), factor: 2.0, elsewhere: false };
    match spec {
        None => plain,
        Some(RetriesSpec::Count(count)) => Retry { count: *count, ..plain },
        Some(RetriesSpec::Table(table)) => Retry {
            count: table.count.as_ref().and_then(|at| u16::try_from(at.value.0).ok()).unwrap_or(0),
            backoff: table.backoff.as_ref().map_or(plain.backoff, |at| at.value.0),
            factor: table.factor.as_ref().map_or(plain.factor, |at| at.value.0),
            elsewhere: table.elsewhere.as_ref().is_some_and(|at| at.value),
        },
    }
}

/// Resolves one table.
pub(super) struct TaskResolver<'a> {
    pub(super) spec: &'a At<TaskSpec>,
    defaults: &'a Common,
    /// Everything outside of the task tables.
    pub(super) job: &'a Job,
    pub(super) name: Arc<str>,
    pub(super) space: Space,
    limit: Option<u32>,
    space_span: Span,
    context: &'a ResolveContext<'a>,
    shared: &'a mut SharedTables,
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
        if matches!(&body.work, WorkTemplate::Kernel { name, .. } if **name == *OPERATION_KERNEL) {
            self.operation_files(&mut body);
        }
        let group = self.group(&common, &body);
        let space_typed = ["array", "matrix", "pattern"].iter().any(|key| self.spec.value.typed.contains(key));
        let spots = |files: Option<&At<FilesSpec>>| -> Box<[Spot]> {
            files.map_or_else(Box::default, |at| at.value.0.iter().map(|file| Spot::of(&file.name.span)).collect())
        };
        let listed = usize::from(body.inputs.len() > own.inputs.as_ref().map_or(0, |files| files.value.0.len()));
        let graph_file = own.graph.as_ref().map(|at| Spot::of(&at.span)).into_iter().take(listed);
        let output = own.output.as_ref().filter(|_| !body.outputs.is_empty()).map(|at| Spot::of(&at.span));
        let text = self.context.text;
        let needs = own.needs.iter().flat_map(|needs| &needs.value.0);
        let notes = Notes {
            needs: needs.map(|need| TypedNeed::new(need, text)).collect(),
            name: Spot::of(own.name.as_ref().map_or(&self.spec.span, |at| &at.span)),
            space: Spot::of(&self.space_span),
            inputs: spots(own.inputs.as_ref()).into_iter().chain(graph_file).collect(),
            outputs: spots(own.outputs.as_ref()).into_iter().chain(output).collect(),
            broken: space_typed && !self.space.is_indexed(),
        };
        (group, body, notes)
    }

    fn group(&mut self, common: &Given<'_>, body: &Body) -> Group {
        let estimate = match common.get(|c| &c.estimate).map(|at| &at.value) {
            Some(EstimateSpec::Fixed(duration)) => Some(*duration),
            _ => self.check_estimate(body, common.get(|c| &c.estimate)),
        };
        self.check_bounds(common);
        Group {
            first: TaskId(0),
            count: 1,
            indexed: self.space.is_indexed(),
            limit: self.limit,
            cpus: small(common.get(|c| &c.cpus).map_or(1, |at| at.value.0)),
            memory: common.get(|c| &c.memory).map(|at| at.value.0),
            gpus: small(common.get(|c| &c.gpus).map_or(0, |at| at.value.0)),
            time: common.get(|c| &c.time).map(|at| at.value.0),
            retry: retry(common.get(|c| &c.retries).map(|at| &at.value)),
            priority: common.get(|c| &c.priority).and_then(|at| i32::try_from(at.value.0).ok()).unwrap_or(0),
            estimate,
            class: common.get(|c| &c.class).map_or_else(|| Arc::clone(&self.name), |at| self.shared.text(&at.value)),
            mpi: self.mpi(),
            name: Arc::clone(&self.name),
        }
    }

    fn template(&mut self, text: &str, span: &Span) -> Template {
        let template = compile((text, span), StringKind::Plain, &self.space, self.findings);
        self.shared.template(template)
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
        let extras = Extras {
            stdin: self.stream("stdin", own.stdin.as_ref()),
            stdout: self.stream("stdout", common.get(|c| &c.stdout)),
            stderr: self.stream("stderr", common.get(|c| &c.stderr)),
            dir: common.get(|c| &c.dir).map(|dir| self.template(&dir.value, &dir.span)),
            estimate,
            shell: common.get(|c| &c.shell).map(|at| at.value.0.as_slice().into()),
            keeps_background: own.background.as_ref().is_some_and(|at| at.value.0 == Background::Keep),
        };
        self.judge_line(&work, extras.shell.as_ref().or(self.job.shell.as_ref()));
        let env = self.variables(common.defaults.env.as_ref(), common.own.env.as_ref());
        let inputs = self.files(own.inputs.as_ref());
        let outputs = self.files(own.outputs.as_ref());
        self.check_lengths(&work, &env, extras.shell.as_ref().or(self.job.shell.as_ref()));
        let (env, extras) = (self.shared.env(env), self.shared.extras(extras));
        let family = self.space.is_indexed().then(|| Box::new(self.space.clone()));
        Body { family, work, env, inputs, outputs, extras }
    }

    fn work(&mut self) -> WorkTemplate {
        let own = &self.spec.value.own;
        let typed = |key| self.spec.value.typed.contains(&key);
        if typed("operation") || typed("graph") {
            return self.operation();
        }
        for field in ["output", "top"].into_iter().filter(|field| typed(field)) {
            let span = own.output.as_ref().map(|at| &at.span).or(own.top.as_ref().map(|at| &at.span));
            self.findings.push(
                Diagnostic::error(format!("`{field}` belongs to an `operation` on a graph, and this task has none"))
                    .at(span.unwrap_or(&self.spec.span))
                    .help("the files that a command writes are its `outputs`"),
            );
        }
        if let (Some(command), Some(kernel)) = (&own.command, &own.kernel) {
            self.findings.push(
                Diagnostic::error("a task has either a `command` or a `kernel`, not both")
                    .label(&kernel.span, "the kernel")
                    .label(&command.span, "the command"),
            );
        } else if !typed("command") && !typed("kernel") {
            self.findings.push(
                Diagnostic::error(format!("the task `{}` has nothing to run", shorten(&self.name)))
                    .at(&self.spec.span)
                    .help("give it a `command`, a `kernel`, or a `graph` and an `operation`"),
            );
        }
        if let Some(args) = own.args.as_ref().filter(|_| !typed("kernel")) {
            self.findings.push(
                Diagnostic::error("`args` belong to a `kernel`, and this task has none")
                    .at(&args.span)
                    .help("put the arguments of a command into its list: `command = [\"prog\", \"arg\"]`"),
            );
        }
        match (&own.command, &own.kernel) {
            (_, Some(kernel)) => self.kernel(kernel, own.args.as_ref()),
            (Some(command), None) => self.command(command),
            (None, None) => WorkTemplate::Command(Box::default()),
        }
    }

    fn command(&mut self, command: &At<CommandSpec>) -> WorkTemplate {
        match &command.value {
            CommandSpec::List(words) => {
                WorkTemplate::Command(words.iter().map(|word| self.template(&word.value, &word.span)).collect())
            }
            CommandSpec::Line(line) => {
                let line = compile((line, &command.span), StringKind::Shell, &self.space, self.findings);
                WorkTemplate::Shell(self.shared.template(line))
            }
        }
    }

    /// Warns of a shell line that the plain `sh` does not understand.
    fn judge_line(&mut self, work: &WorkTemplate, shell: Option<&Arc<[String]>>) {
        let is_plain = shell.is_none_or(|words| matches!(&*words[0], "sh" | "/bin/sh"));
        let (WorkTemplate::Shell(line), Some(command), true) = (work, &self.spec.value.own.command, is_plain) else {
            return;
        };
        let Some(sh) = self.context.sh else { return };
        let samples = if line.is_same_for_all() { vec![0] } else { self.space.samples() };
        let mut foreign: Vec<String> = Vec::new();
        for number in samples {
            if !self.shared.judge_one() {
                break;
            }
            let found = sh.foreign(&line.fill(self.element(number)));
            foreign.extend(found);
        }
        warn_of_dialect(sh, foreign, &command.span, self.findings);
    }

    fn kernel(&mut self, kernel: &At<String>, args: Option<&At<ArgsSpec>>) -> WorkTemplate {
        let typed: &[(String, At<RawArg>)] = args.map_or(&[], |args| &args.value.0);
        let args_templates: Vec<(String, Arg)> =
            typed.iter().map(|(name, arg)| (name.clone(), self.arg(arg))).collect();
        let work =
            WorkTemplate::Kernel { name: self.shared.text(&kernel.value), args: self.shared.args(args_templates) };
        if !self.context.kernels.knows(&kernel.value) {
            let names = self.context.kernels.names();
            self.findings.push(
                Diagnostic::error(format!("there is no kernel called `{}`", shorten(&kernel.value)))
                    .at(&kernel.span)
                    .help(suggest(&kernel.value, &names, "kernels")),
            );
        } else {
            self.check_args(&work, args.map_or(&kernel.span, |args| &args.span));
        }
        work
    }

    /// An operation on a graph, as a call of the kernel that runs operations.
    fn operation(&mut self) -> WorkTemplate {
        let own = &self.spec.value.own;
        for (other, span) in [
            ("command", own.command.as_ref().map(|at| &at.span)),
            ("kernel", own.kernel.as_ref().map(|at| &at.span)),
            ("mpi", own.mpi.as_ref().map(|at| &at.span)),
        ] {
            if let Some(span) = span {
                let message = format!("a task is either an `operation` on a graph or has a `{other}`, not both");
                self.findings.push(Diagnostic::error(message).at(span));
            }
        }
        let typed = |key| self.spec.value.typed.contains(&key);
        for (missing, there, help) in [
            ("graph", "operation", "name a `[[graph]]` table: `graph = \"web\"`"),
            ("operation", "graph", "name what is done with it: `operation = \"pagerank\"`"),
        ] {
            if !typed(missing) && typed(there) {
                let message = format!("the task `{}` has `{there}`, but no `{missing}`", shorten(&self.name));
                self.findings.push(Diagnostic::error(message).at(&self.spec.span).help(help));
            }
        }
        let (Some(graph), Some(operation)) = (&own.graph, &own.operation) else {
            return WorkTemplate::Command(Box::default());
        };
        let Some(known) = self.job.graphs.iter().find(|known| known.name == graph.value) else {
            let names: Vec<&str> = self.job.graphs.iter().map(|graph| graph.name.as_str()).collect();
            self.findings.push(
                Diagnostic::error(format!("there is no graph called `{}`", shorten(&graph.value)))
                    .at(&graph.span)
                    .help(suggest(&graph.value, &names, "graphs")),
            );
            return WorkTemplate::Command(Box::default());
        };
        let fixed = |text: &str| Arg::Fixed(toml::Value::String(text.to_owned()));
        let own_args: Vec<(String, Arg)> = own
            .args
            .as_ref()
            .map_or(&[][..], |args| &args.value.0)
            .iter()
            .map(|(name, arg)| (name.clone(), self.arg(arg)))
            .collect();
        let mut args = vec![
            ("graph".to_owned(), fixed(&known.name)),
            ("source".to_owned(), fixed(&format!("{:?}", known.source))),
            ("operation".to_owned(), fixed(operation.value.0.0)),
            ("args".to_owned(), Arg::Table(own_args)),
        ];
        if let Some(output) = &own.output {
            let template = self.template(&output.value, &output.span);
            let is_written_by_all = self.space.is_indexed() && template.is_same_for_all();
            args.push(("output".to_owned(), template.constant().map_or(Arg::Text(template.clone()), &fixed)));
            if is_written_by_all {
                let message = format!("all tasks of `{}` write to the same `output`", self.name);
                let help = "put the index into the name: `output = \"ranks-{index}.txt\"`";
                self.findings.push(Diagnostic::error(message).at(&output.span).help(help));
            }
        }
        if let Some(top) = &own.top {
            args.push(("top".to_owned(), Arg::Fixed(toml::Value::Integer(top.value.0))));
        }
        let work = WorkTemplate::Kernel { name: self.shared.text(OPERATION_KERNEL), args: self.shared.args(args) };
        self.check_args(&work, own.args.as_ref().map_or(&operation.span, |args| &args.span));
        work
    }

    /// Adds the files of an operation: the file of its graph, and its output.
    fn operation_files(&mut self, body: &mut Body) {
        let own = &self.spec.value.own;
        let graph = own.graph.as_ref().and_then(|graph| {
            self.job.graphs.iter().find(|known| known.name == graph.value).map(|known| (known, &graph.span))
        });
        let file = |name: Template| FileTemplate { name, size: None, optional: false };
        if let Some((DataGraph { source: GraphSource { origin: Origin::File(path, _), .. }, .. }, _)) = graph {
            let name = Template::Text(self.shared.text(&path.to_string_lossy()));
            body.inputs = body.inputs.iter().cloned().chain([file(name)]).collect();
        }
        if let Some(output) = &own.output {
            let name = self.template(&output.value, &output.span);
            body.outputs = body.outputs.iter().cloned().chain([file(name)]).collect();
        }
    }

    fn arg(&mut self, arg: &At<RawArg>) -> Arg {
        match &arg.value {
            RawArg::Fixed(value) => Arg::Fixed(value.clone()),
            RawArg::Text(text) => {
                let template = self.template(text, &arg.span);
                match (template.sole(), template.constant()) {
                    (Some(placeholder), _) => Arg::Value(placeholder),
                    (None, Some(text)) => Arg::Fixed(toml::Value::String(text.to_string())),
                    (None, None) => Arg::Text(template),
                }
            }
            RawArg::List(list) => Arg::List(list.iter().map(|arg| self.arg(arg)).collect()),
            RawArg::Table(table) => Arg::Table(table.iter().map(|(name, arg)| (name.clone(), self.arg(arg))).collect()),
        }
    }

    /// Lets the kernel check its arguments, for elements that together cover every value of every
    /// axis.
    fn check_args(&mut self, work: &WorkTemplate, span: &Span) {
        let samples = if work.is_constant() { vec![0] } else { self.space.samples() };
        for number in samples {
            let Work::Kernel { name, args } = work.fill(self.element(number)) else { return };
            if let Err(reason) = self.context.kernels.check(&name, &args) {
                let mut message = match args.get("operation") {
                    Some(toml::Value::String(operation)) if name == OPERATION_KERNEL => {
                        let reason = reason.strip_prefix(&format!("kernel `{name}`: ")).unwrap_or(&reason);
                        format!("the operation `{operation}` refuses its arguments: {reason}")
                    }
                    _ => format!("the kernel `{name}` refuses its arguments: {reason}"),
                };
                if let Some(index) = self.space.index(number).filter(|_| !work.is_constant()) {
                    message.push_str(&format!(" (in `{}[{index}]`)", self.name));
                }
                self.findings.push(Diagnostic::error(message).at(span));
                return;
            }
        }
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

    fn files(&mut self, files: Option<&At<FilesSpec>>) -> Box<[FileTemplate]> {
        let Some(files) = files else { return Box::default() };
        files
            .value
            .0
            .iter()
            .map(|file| FileTemplate {
                name: self.template(&file.name.value, &file.name.span),
                size: file.size,
                optional: file.optional,
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
        if let Some(memory) = common.get(|c| &c.memory).filter(|memory| memory.value.0 == 0) {
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
