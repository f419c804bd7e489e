//! Resolves what a task runs: a command, a kernel, or an operation on a graph.

use std::sync::Arc;

use super::drafts::SourcePlace as Spot;
use super::task::TaskResolver;
use super::warn_of_dialect;
use crate::job::Work;
use crate::job::body::{Arg, Body, FileTemplate, OPERATION_KERNEL, WorkTemplate};
use crate::job::diagnostic::{Diagnostic, suggest};
use crate::job::read::{At, Span};
use crate::job::template::{StringKind, Template};
use crate::job::units::shorten;
use crate::job::values::{ArgsSpec, CommandSpec, RawArg};

/// Variables that number the jobs of an array of Slurm, PBS Pro, Torque, Grid Engine and LSF.
const ARRAY_VARIABLES: [&str; 5] =
    ["SLURM_ARRAY_TASK_ID", "PBS_ARRAY_INDEX", "PBS_ARRAYID", "SGE_TASK_ID", "LSB_JOBINDEX"];

/// Programs that start MPI programs.
const LAUNCHERS: [&str; 5] = ["mpirun", "mpiexec", "srun", "orterun", "prterun"];

impl TaskResolver<'_> {
    pub(super) fn work(&mut self) -> WorkTemplate {
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

    /// Warns of a launcher in the command of an MPI task, which would start it once more on each of
    /// its ranks.
    fn judge_launcher(&mut self, command: &At<CommandSpec>) {
        let first = match &command.value {
            CommandSpec::List(words) => words.first().map(|word| word.value.as_str()),
            CommandSpec::Line(line) => line.split_whitespace().next(),
        };
        let name = first.map(|word| word.rsplit('/').next().unwrap_or(word));
        let launcher = name.filter(|name| LAUNCHERS.contains(name)).filter(|_| self.spec.value.own.mpi.is_some());
        if let Some(launcher) = launcher {
            let message =
                format!("`mpi` starts the command on its ranks, and `{launcher}` would start it again on each");
            let help = format!("leave out `{launcher}` and its options, or leave out `mpi` and set `cpus`");
            self.findings.push(Diagnostic::warning(message).at(&command.span).help(help));
        }
    }

    fn command(&mut self, command: &At<CommandSpec>) -> WorkTemplate {
        self.judge_launcher(command);
        match &command.value {
            CommandSpec::List(words) => {
                WorkTemplate::Command(words.iter().map(|word| self.template(&word.value, &word.span)).collect())
            }
            CommandSpec::Line(line) => {
                self.judge_array_variables(line, &command.span);
                WorkTemplate::Shell(self.compile((line, &command.span), StringKind::Shell))
            }
        }
    }

    /// Warns of a variable that numbers the jobs of a batch system's array: the tasks of an array
    /// of this job do not have it, or all have the same.
    fn judge_array_variables(&mut self, line: &str, span: &Span) {
        let is_given = |name: &str| {
            let env = [&self.spec.value.common, self.defaults].into_iter();
            let mut names = env.filter_map(|common| common.env.as_ref()).flat_map(|env| &env.value.0);
            names.any(|(given, _)| given.value == name) || line.contains(&format!("{name}="))
        };
        let used = ARRAY_VARIABLES.iter().find(|name| line.contains(**name) && !is_given(name));
        if let Some(name) = used.filter(|_| self.space.is_indexed()) {
            let message = format!("`{name}` numbers the jobs of a batch system's array, not the tasks of this one");
            let help = "write `{index}`, or `$PHALANX_ARRAY_INDEX` in a script";
            self.findings.push(Diagnostic::warning(message).at(span).help(help));
        }
    }

    /// Warns of a shell line that the plain `sh` does not understand.
    pub(super) fn judge_line(&mut self, work: &WorkTemplate, shell: Option<&Arc<[String]>>) {
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

    /// Adds the files of an operation: it reads those of its graph and a batch of changes, and
    /// writes its `output` and a saved graph. Returns the places of what it reads and writes.
    pub(super) fn operation_files(&mut self, body: &mut Body) -> [Vec<Spot>; 2] {
        let own = &self.spec.value.own;
        let file = |name: Template| FileTemplate { name, size: None, optional: false, keep: true };
        let (mut inputs, mut outputs) = (Vec::new(), Vec::new());
        if let Some(graph) = &own.graph {
            let known = self.job.graphs.iter().find(|known| known.name == graph.value);
            let spot = self.shared.graph_places.get(&graph.value).copied().unwrap_or_else(|| Spot::of(&graph.span));
            for source in known.map(|known| known.source.files()).unwrap_or_default() {
                let name = Template::Text(self.shared.text(&source.path.to_string_lossy()));
                inputs.push((FileTemplate { optional: source.is_optional, ..file(name) }, spot));
            }
        }
        if let Some(output) = &own.output {
            let name = self.template(&output.value, &output.span);
            outputs.push((file(name), Spot::of(&output.span)));
        }
        let args = own.args.as_ref().map_or(&[][..], |args| &args.value.0);
        if let Some((_, arg)) = args.iter().find(|(key, _)| key == "file") {
            let name = match &arg.value {
                RawArg::Fixed(toml::Value::String(text)) | RawArg::Text(text) => self.template(text, &arg.span),
                // It is refused as an argument.
                _ => return [Vec::new(), Vec::new()],
            };
            match own.operation.as_ref().map(|operation| operation.value.0.0) {
                Some("insert_edges" | "delete_edges") => inputs.push((file(name), Spot::of(&arg.span))),
                Some("save") => outputs.push((file(name), Spot::of(&arg.span))),
                _ => {}
            }
        }
        [(&mut body.inputs, inputs), (&mut body.outputs, outputs)].map(|(known, more)| {
            let (files, spots): (Vec<_>, Vec<_>) = more.into_iter().unzip();
            *known = known.iter().cloned().chain(files).collect();
            spots
        })
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
                if self.space.is_indexed() && !work.is_constant() {
                    message.push_str(&format!(" (in `{}`)", self.space.element_name(&self.name, number)));
                }
                self.findings.push(Diagnostic::error(message).at(span));
                return;
            }
        }
    }
}
