//! One `[[task]]` table: what it says of itself, before it is put in relation to others.

use std::time::Duration;

use super::Context;
use super::names::{check_dir, check_name, make_name};
use super::pattern;
use crate::job::body::{Arg, Body, FileTemplate, WorkTemplate};
use crate::job::diagnostic::{Diagnostic, Findings, suggest};
use crate::job::file_names::{check_patterns, tells_elements_apart};
use crate::job::read::{At, Section, Span};
use crate::job::space::{Axis, Space};
use crate::job::spec::{Common, TaskSpec};
use crate::job::template::{Element, Place, Template, compile};
use crate::job::units::{parse_duration, shorten};
use crate::job::values::{ArgsSpec, CommandSpec, EnvSpec, EstimateSpec, FilesSpec, NeedSpec, RawArg, RetriesSpec};
use crate::job::{Group, MpiShape, Retry, Work};
use crate::model::TaskId;

/// A resolved task table whose dependencies are still as typed.
pub(super) struct Draft<'s> {
    pub group: Group,
    pub body: Body,
    pub needs: &'s [At<NeedSpec>],
    pub name_span: Span,
    pub space_span: Span,
    pub input_spans: Vec<Span>,
    pub output_spans: Vec<Span>,
    /// True if it had a mistake, so that what refers to it cannot be judged.
    pub broken: bool,
}

impl Draft<'_> {
    /// The name of one of its tasks.
    pub(super) fn task_name(&self, element: u32) -> String {
        match self.body.space.index(element) {
            Some(index) => format!("{}[{index}]", self.group.name),
            None => self.group.name.clone(),
        }
    }
}

/// Resolves one table. Always gives a draft; what could not be made out is replaced by something harmless.
pub(super) fn resolve_task<'s>(
    spec: &'s At<TaskSpec>,
    defaults: &Common,
    context: &Context<'_>,
    findings: &mut Findings,
) -> Draft<'s> {
    let own = &spec.value.own;
    let name = name(spec, findings);
    let (space, limit, space_span) = space(spec, findings);
    let mut resolver = Resolver { spec, name: &name, space, context, findings };
    let common = spec.value.common.clone().or(defaults);
    let body = resolver.body(&common, defaults);
    let space_typed = ["array", "matrix", "pattern"].iter().any(|key| spec.value.typed.contains(key));
    let broken = space_typed && !body.space.is_indexed();
    let estimate = match common.estimate.as_ref().map(|at| &at.value) {
        Some(EstimateSpec::Fixed(duration)) => Some(*duration),
        _ => resolver.check_estimate(&body, common.estimate.as_ref()),
    };
    resolver.check_bounds(&common);
    let group = Group {
        first: TaskId(0),
        count: 1,
        indexed: body.space.is_indexed(),
        limit,
        cpus: small(common.cpus.as_ref().map_or(1, |at| at.value.0)),
        memory: common.memory.as_ref().map(|at| at.value.0),
        gpus: small(common.gpus.as_ref().map_or(0, |at| at.value.0)),
        time: common.time.as_ref().map(|at| at.value.0),
        retry: retry(common.retries.as_ref().map(|at| &at.value)),
        priority: common.priority.as_ref().and_then(|at| i32::try_from(at.value.0).ok()).unwrap_or(0),
        estimate,
        class: common.class.as_ref().map_or_else(|| name.clone(), |at| at.value.clone()),
        mpi: resolver.mpi(),
        name,
    };
    let spans = |files: Option<&At<FilesSpec>>| -> Vec<Span> {
        files.map_or(Vec::new(), |files| files.value.0.iter().map(|file| file.name.span.clone()).collect())
    };
    Draft {
        group,
        body,
        needs: own.needs.as_ref().map_or(&[], |needs| &needs.value.0),
        name_span: own.name.as_ref().map_or_else(|| spec.span.clone(), |at| at.span.clone()),
        space_span,
        input_spans: spans(own.inputs.as_ref()),
        output_spans: spans(own.outputs.as_ref()),
        broken,
    }
}

/// A number that its reader has bounded to less than `u32` holds.
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

fn space(spec: &At<TaskSpec>, findings: &mut Findings) -> (Space, Option<u32>, Span) {
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
            let axes =
                matrix.value.0.iter().map(|(name, values)| Axis { name: name.value.clone(), values: values.clone() });
            (Space::Matrix(axes.collect()), None, matrix.span.clone())
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

struct Resolver<'a> {
    spec: &'a At<TaskSpec>,
    name: &'a str,
    space: Space,
    context: &'a Context<'a>,
    findings: &'a mut Findings,
}

impl Resolver<'_> {
    fn template(&mut self, text: &At<String>) -> Template {
        compile(text, Place::Plain, &self.space, self.findings)
    }

    fn body(&mut self, common: &Common, defaults: &Common) -> Body {
        let own = &self.spec.value.own;
        let work = self.work();
        if let Some(dir) = &common.dir {
            check_dir("dir", dir, self.findings);
        }
        let estimate = match common.estimate.as_ref().map(|at| (&at.value, &at.span)) {
            Some((EstimateSpec::Text(text), span)) => Some(self.template(&At::new(text.clone(), span.clone()))),
            _ => None,
        };
        Body {
            work,
            stdin: self.stream("stdin", own.stdin.as_ref()),
            stdout: self.stream("stdout", common.stdout.as_ref()),
            stderr: self.stream("stderr", common.stderr.as_ref()),
            dir: common.dir.as_ref().map(|dir| self.template(dir)),
            env: self.variables(defaults.env.as_ref(), self.spec.value.common.env.as_ref()),
            inputs: self.files(own.inputs.as_ref()),
            outputs: self.files(own.outputs.as_ref()),
            estimate,
            space: self.space.clone(),
        }
    }

    fn work(&mut self) -> WorkTemplate {
        let own = &self.spec.value.own;
        let typed = |key| self.spec.value.typed.contains(&key);
        if let (Some(command), Some(kernel)) = (&own.command, &own.kernel) {
            self.findings.push(
                Diagnostic::error("a task has either a `command` or a `kernel`, not both")
                    .label(&kernel.span, "the kernel")
                    .label(&command.span, "the command"),
            );
        } else if !typed("command") && !typed("kernel") {
            self.findings.push(
                Diagnostic::error(format!("the task `{}` has nothing to run", shorten(self.name)))
                    .at(&self.spec.span)
                    .help("give it a `command` or a `kernel`"),
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
            (None, None) => WorkTemplate::Command(Vec::new()),
        }
    }

    fn command(&mut self, command: &At<CommandSpec>) -> WorkTemplate {
        match &command.value {
            CommandSpec::List(words) => WorkTemplate::Command(words.iter().map(|word| self.template(word)).collect()),
            CommandSpec::Line(line) => {
                let line = At::new(line.clone(), command.span.clone());
                WorkTemplate::Shell(compile(&line, Place::Shell, &self.space, self.findings))
            }
        }
    }

    fn kernel(&mut self, kernel: &At<String>, args: Option<&At<ArgsSpec>>) -> WorkTemplate {
        let typed: &[(String, At<RawArg>)] = args.map_or(&[], |args| &args.value.0);
        let args_templates: Vec<(String, Arg)> =
            typed.iter().map(|(name, arg)| (name.clone(), self.arg(arg))).collect();
        let work = WorkTemplate::Kernel { name: kernel.value.clone(), args: args_templates };
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

    fn arg(&mut self, arg: &At<RawArg>) -> Arg {
        match &arg.value {
            RawArg::Fixed(value) => Arg::Fixed(value.clone()),
            RawArg::Text(text) => {
                let template = self.template(&At::new(text.clone(), arg.span.clone()));
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

    /// Lets the kernel judge its arguments, for as many elements as show every value of every axis.
    fn check_args(&mut self, work: &WorkTemplate, span: &Span) {
        let samples = if work.is_constant() { vec![0] } else { self.space.samples() };
        for number in samples {
            let Work::Kernel { name, args } = work.fill(self.element(number)) else { return };
            if let Err(reason) = self.context.kernels.check(&name, &args) {
                let mut message = format!("the kernel `{name}` refuses its arguments: {reason}");
                if let Some(index) = self.space.index(number).filter(|_| !work.is_constant()) {
                    message.push_str(&format!(" (in `{}[{index}]`)", self.name));
                }
                self.findings.push(Diagnostic::error(message).at(span));
                return;
            }
        }
    }

    fn element(&self, number: u32) -> Element<'_> {
        Element { name: self.name, space: &self.space, number }
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
        let template = self.template(text);
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

    /// The variables of `[defaults]`, replaced and followed by the task's own.
    fn variables(&mut self, defaults: Option<&At<EnvSpec>>, own: Option<&At<EnvSpec>>) -> Vec<(String, Template)> {
        let of = |env: Option<&At<EnvSpec>>| env.map(|at| at.value.0.clone()).unwrap_or_default();
        let own = of(own);
        let mut variables = of(defaults);
        variables.retain(|(name, _)| own.iter().all(|(other, _)| other.value != name.value));
        variables.extend(own);
        variables.into_iter().map(|(name, value)| (name.value, self.template(&value))).collect()
    }

    fn files(&mut self, files: Option<&At<FilesSpec>>) -> Vec<FileTemplate> {
        let Some(files) = files else { return Vec::new() };
        files.value.0.iter().map(|file| FileTemplate { name: self.template(&file.name), size: file.size }).collect()
    }

    /// Fills the estimate in for a few elements; gives that of the first.
    fn check_estimate(&mut self, body: &Body, typed: Option<&At<EstimateSpec>>) -> Option<Duration> {
        let (template, typed) = (body.estimate.as_ref()?, typed?);
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

    fn check_bounds(&mut self, common: &Common) {
        if let Some(time) = common.time.as_ref().filter(|time| time.value.0.is_zero()) {
            self.findings.push(
                Diagnostic::error("a time limit of 0 would stop the task at once")
                    .at(&time.span)
                    .help("leave `time` out for no limit"),
            );
        }
        if let Some(memory) = common.memory.as_ref().filter(|memory| memory.value.0 == 0) {
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
