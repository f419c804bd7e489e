//! Imports HyperQueue's job definition files (TOML): tasks with numbers and `deps`, or one array.
//!
//! The sections are declared and read like those of our own job file, so an unknown key is reported
//! with its line.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};
use toml::de::DeTable;

use super::write::{JobFileWriter, protect, quote, strings};
use super::{ImportError, Imported, Options, without_mark};
use crate::job::diagnostic::{Diagnostic, Findings, Severity, line_and_column};
use crate::job::read::{
    At, Read, Section, Span, Tables, TomlNode, Whole, check_keys, float, integer, mismatch, section,
};
use crate::job::units::{IndexSet, format_duration};
use crate::job::values::{EnvSpec, Strings};

type HqNumber = Whole<0, { u32::MAX as i64 }>;

section! {
    /// A job definition file of HyperQueue
    HqFile {
        /// Name of the job
        name: String,
        /// Directory that output is streamed to
        stream: String,
        /// How many tasks may fail
        max_fails: HqNumber,
        /// The tasks
        task: Tables<HqTask>,
        /// The tasks of an array
        array: HqTask,
        /// Whether files go through HyperQueue
        data_layer: bool,
    }
}

section! {
    /// A task, or all tasks of an array
    HqTask {
        /// Number of the task
        id: HqNumber,
        /// Numbers of the tasks of an array
        ids: String,
        /// Entries of an array
        entries: Strings,
        /// Program and arguments
        command: Strings = required,
        /// Numbers of tasks that must end first
        deps: Numbers,
        /// Environment variables
        env: EnvSpec,
        /// Working directory
        cwd: String,
        /// Text for standard input
        stdin: String,
        /// File for standard output
        stdout: Stdio,
        /// File for standard error
        stderr: Stdio,
        /// A directory for the task
        task_dir: bool,
        /// How CPUs are pinned
        pin: String,
        /// Time limit
        time_limit: String,
        /// Priority
        priority: Whole<{ i32::MIN as i64 }, { i32::MAX as i64 }>,
        /// How many crashes of workers it may survive
        crash_limit: CrashLimit,
        /// Alternative requests for resources
        request: Tables<HqRequest>,
    }
}

section! {
    /// A request for resources
    HqRequest {
        /// Amounts by name
        resources: Amounts,
        /// Whole nodes
        n_nodes: HqNumber,
        /// Time that must remain
        time_request: String,
        /// How much the request counts against others
        weight: PositiveNumber,
    }
}

section! {
    /// Where output goes
    HqOutput {
        /// The file
        path: String = required,
        /// What becomes of it
        on_close: String,
        /// The same, as the manual of HyperQueue has it
        mode: String,
    }
}

/// A list of numbers.
#[derive(Clone, Debug)]
pub(crate) struct Numbers(Vec<i64>);

impl Read for Numbers {
    fn expected() -> String {
        "a list of whole numbers".into()
    }

    fn schema() -> Value {
        json!({ "type": "array", "items": { "type": "integer" } })
    }

    fn read(key: &str, node: &TomlNode<'_>, findings: &mut Findings) -> Option<Self> {
        let numbers: Option<Vec<i64>> =
            node.get_ref().as_array().and_then(|list| list.iter().map(|entry| integer(entry.get_ref())).collect());
        if numbers.is_none() {
            mismatch::<Self>(key, node, findings);
        }
        numbers.map(Numbers)
    }
}

/// When a task is given up because its workers crash.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum CrashLimit {
    AtMost,
    Never,
    Unlimited,
}

impl Read for CrashLimit {
    fn expected() -> String {
        "a whole number from 1 to 65535, \"never-restart\" or \"unlimited\"".into()
    }

    fn schema() -> Value {
        json!({ "type": ["integer", "string"] })
    }

    fn read(key: &str, node: &TomlNode<'_>, findings: &mut Findings) -> Option<Self> {
        let value = node.get_ref();
        let number = integer(value).or_else(|| value.as_str()?.parse().ok());
        let limit = match (value.as_str(), number) {
            (Some("never-restart"), _) => Some(CrashLimit::Never),
            (Some("unlimited"), _) => Some(CrashLimit::Unlimited),
            (_, Some(1..=65535)) => Some(CrashLimit::AtMost),
            _ => None,
        };
        if limit.is_none() {
            mismatch::<Self>(key, node, findings);
        }
        limit
    }
}

/// A number above zero.
#[derive(Clone, Debug)]
pub(crate) struct PositiveNumber;

impl Read for PositiveNumber {
    fn expected() -> String {
        "a number above 0".into()
    }

    fn schema() -> Value {
        json!({ "type": "number" })
    }

    fn read(key: &str, node: &TomlNode<'_>, findings: &mut Findings) -> Option<Self> {
        let value = number(node).filter(|value| *value > 0.0 && value.is_finite());
        if value.is_none() {
            mismatch::<Self>(key, node, findings);
        }
        value.map(|_| PositiveNumber)
    }
}

/// The value of an integer or float.
fn number(node: &TomlNode<'_>) -> Option<f64> {
    integer(node.get_ref()).map(|number| number as f64).or_else(|| float(node.get_ref()))
}

/// An output file, given by name or as a table.
#[derive(Clone, Debug)]
pub(crate) enum Stdio {
    File(String),
    Table(HqOutput),
}

impl Read for Stdio {
    fn expected() -> String {
        "a file name, or a table with `path`".into()
    }

    fn schema() -> Value {
        json!({ "oneOf": [{ "type": "string" }, HqOutput::schema()] })
    }

    fn read(key: &str, node: &TomlNode<'_>, findings: &mut Findings) -> Option<Self> {
        match node.get_ref().is_table() {
            true => HqOutput::read(key, node, findings).map(Stdio::Table),
            false => String::read(key, node, findings).map(Stdio::File),
        }
    }
}

/// Amounts of resources by name, as text.
#[derive(Clone, Debug)]
pub(crate) struct Amounts(BTreeMap<String, String>);

impl Read for Amounts {
    fn expected() -> String {
        "a table of numbers".into()
    }

    fn schema() -> Value {
        json!({ "type": "object" })
    }

    fn read(key: &str, node: &TomlNode<'_>, findings: &mut Findings) -> Option<Self> {
        let Some(table) = node.get_ref().as_table() else {
            mismatch::<Self>(key, node, findings);
            return None;
        };
        let amount = |value: &TomlNode<'_>| match value.get_ref().as_str() {
            Some(text) => text.to_string(),
            None => number(value).map_or_else(|| "?".to_string(), |number| number.to_string()),
        };
        Some(Amounts(table.iter().map(|(name, value)| (name.get_ref().to_string(), amount(value))).collect()))
    }
}

/// Imports a job definition file of HyperQueue.
///
/// # Errors
/// If the text is not such a file, or uses a feature that Phalanx does not support.
pub fn hq(text: &str, options: &Options) -> Result<Imported, ImportError> {
    let text = without_mark(text);
    let line = |span: &Span| line_and_column(text, span.start).0;
    let (root, errors) = DeTable::parse_recoverable(text);
    if let Some(error) = errors.first() {
        return Err(ImportError::new(line(&error.span().unwrap_or(0..0)), error.message()));
    }
    let mut findings = Findings::default();
    check_keys("the job definition file", root.get_ref(), &[HqFile::FIELDS], &mut findings);
    let file = HqFile::read_fields(root.get_ref(), &mut findings);
    if let Some(first) = findings.finish().into_iter().find(|finding| finding.severity == Severity::Error) {
        return Err(as_import_error(&first, text));
    }
    let mut writer = HqWriter { text, warnings: Vec::new() };
    let toml = writer.file(&file, options)?;
    Ok(Imported { toml, warnings: writer.warnings })
}

fn as_import_error(finding: &Diagnostic, text: &str) -> ImportError {
    let line = finding.spans.first().map_or(1, |(span, _)| line_and_column(text, span.start).0);
    ImportError::new(line, finding.message.clone())
}

/// A task with its number, or an array.
struct Numbered<'a> {
    spec: &'a HqTask,
    id: Option<i64>,
}

impl Numbered<'_> {
    /// The words in braces that are placeholders for it.
    fn words(&self) -> &'static [&'static str] {
        match self.id {
            Some(_) => &["name"],
            None => &["name", "index", "entry"],
        }
    }

    fn protect(&self, text: &str) -> String {
        protect(text, self.words())
    }

    /// Converts HyperQueue's placeholders in file and directory names. `%` must be escaped in names
    /// of output files only.
    fn path(&self, text: &str, escape: bool) -> Result<String, String> {
        let id = self.id.map_or("{index}".to_string(), |id| id.to_string());
        let mut path = String::new();
        let mut rest = text;
        while let Some((before, after)) = rest.split_once('%') {
            path.push_str(&self.protect(before));
            let (replacement, tail) = match after.strip_prefix('{').and_then(|inside| inside.split_once('}')) {
                Some(("TASK_ID", tail)) => (id.as_str(), tail),
                Some(("JOB_ID", tail)) if escape => ("%j", tail),
                Some(("CWD" | "SUBMIT_DIR", tail)) => (".", tail),
                Some((name, _)) => return Err(format!("the placeholder %{{{name}}} is not supported here")),
                None => (if escape { "%%" } else { "%" }, after),
            };
            path.push_str(replacement);
            rest = tail;
        }
        Ok(path + &self.protect(rest))
    }
}

struct HqWriter<'a> {
    text: &'a str,
    warnings: Vec<String>,
}

impl HqWriter<'_> {
    fn line(&self, span: &Span) -> usize {
        line_and_column(self.text, span.start).0
    }

    fn refuse<T>(&self, span: &Span, reason: impl Into<String>) -> Result<T, ImportError> {
        Err(ImportError::new(self.line(span), reason))
    }

    fn warn(&mut self, span: &Span, text: &str) {
        self.warnings.push(format!("line {}: {text}", self.line(span)));
    }

    fn file(&mut self, file: &HqFile, options: &Options) -> Result<String, ImportError> {
        let recorded = file.name.as_ref().map(|name| name.value.as_str());
        let mut document = JobFileWriter::new(
            "Imported from a job definition file of HyperQueue.",
            options.name.as_deref().or(recorded).unwrap_or("hq"),
        );
        if let Some(max) = &file.max_fails {
            // HyperQueue stops after more failures than this, Phalanx after exactly this number.
            document.field("max_failures", (max.value.0 + 1).min(i64::from(u32::MAX)).to_string());
        }
        if let Some(stream) = &file.stream {
            self.warn(&stream.span, "`stream` is left out; output is always kept in few files in the run directory");
        }
        if let Some(layer) = file.data_layer.as_ref().filter(|layer| layer.value) {
            self.warn(&layer.span, "`data_layer` is left out; tasks find their files in the file system");
        }
        let tasks = file.task.as_ref().map_or(&[][..], |tasks| &tasks.value.0);
        match (&file.array, tasks.first()) {
            (Some(array), None) => self.array(array, &mut document)?,
            (None, Some(_)) => self.tasks(tasks, &mut document)?,
            (Some(array), Some(_)) => return self.refuse(&array.span, "a file has either `[array]` or `[[task]]`"),
            (None, None) => return Err(ImportError::new(1, "there is neither `[[task]]` nor `[array]`")),
        }
        Ok(document.finish())
    }

    fn array(&mut self, array: &At<HqTask>, document: &mut JobFileWriter) -> Result<(), ImportError> {
        let spec = &array.value;
        if let Some(id) = &spec.id {
            return self.refuse(&id.span, "an array has `ids`, not `id`");
        }
        if let Some(deps) = &spec.deps {
            return self.refuse(&deps.span, "an array has no `deps`");
        }
        let entries = spec.entries.as_ref().map_or(&[][..], |entries| &entries.value.0);
        match &spec.ids {
            Some(ids) if !entries.is_empty() => return self.chosen(ids, entries, spec, document),
            Some(ids) => {
                self.indices(ids)?;
                document.task("task");
                document.field("array", quote(&ids.value));
            }
            None if entries.is_empty() => return self.refuse(&array.span, "an array needs `ids` or `entries`"),
            None => document.task("task"),
        }
        let env = [Some(("HQ_TASK_ID", "{index}")), spec.entries.as_ref().map(|_| ("HQ_ENTRY", "{entry}"))];
        self.task(&Numbered { spec, id: None }, &[], env.into_iter().flatten(), document)?;
        if !entries.is_empty() {
            document.section("[task.matrix]");
            let entries: Vec<&str> = entries.iter().map(|entry| entry.value.as_str()).collect();
            document.field("entry", strings(&entries));
        }
        Ok(())
    }

    /// An array whose entries have explicit ids becomes a list of tasks.
    fn chosen(
        &mut self,
        ids: &At<String>,
        entries: &[At<String>],
        spec: &HqTask,
        document: &mut JobFileWriter,
    ) -> Result<(), ImportError> {
        let set = self.indices(ids)?;
        let (known, wanted) = (set.len(), entries.len() as u64);
        if known != wanted {
            return self.refuse(&ids.span, format!("there are {known} `ids` for {wanted} `entries`"));
        }
        for (at, (id, entry)) in set.iter().zip(entries).enumerate() {
            let task = Numbered { spec, id: Some(id as i64) };
            document.task(&format!("task-{id}"));
            document.field("class", quote("task"));
            let (own, entry) = (id.to_string(), task.protect(&entry.value));
            let env = [("HQ_TASK_ID", own.as_str()), ("HQ_ENTRY", entry.as_str())];
            let warned = self.warnings.len();
            self.task(&task, &[], env.into_iter(), document)?;
            if at > 0 {
                // The first task has reported all warnings.
                self.warnings.truncate(warned);
            }
        }
        Ok(())
    }

    fn indices(&self, ids: &At<String>) -> Result<IndexSet, ImportError> {
        let plain = ids.value.chars().all(|c| c.is_ascii_digit() || c.is_whitespace() || "-,:".contains(c));
        match IndexSet::parse(&ids.value).ok().filter(|_| plain) {
            Some(set) => Ok(set),
            None => self.refuse(&ids.span, format!("`ids = \"{}\"` are no indices, such as 1,3,7-9", ids.value)),
        }
    }

    fn tasks(&mut self, tasks: &[At<HqTask>], document: &mut JobFileWriter) -> Result<(), ImportError> {
        // HyperQueue numbers tasks without an id from the highest id on.
        let own = |task: &At<HqTask>| task.value.id.as_ref().map(|id| id.value.0);
        let mut highest = tasks.iter().filter_map(own).max().unwrap_or(0);
        let mut number = |task: &At<HqTask>| {
            own(task).unwrap_or_else(|| {
                highest += 1;
                highest
            })
        };
        let ids: Vec<i64> = tasks.iter().map(&mut number).collect();
        let mut used = BTreeSet::new();
        for (task, id) in tasks.iter().zip(&ids) {
            if !used.insert(*id) {
                return self.refuse(&task.span, format!("two tasks have the id {id}"));
            }
        }
        for (task, id) in tasks.iter().zip(ids) {
            let spec = &task.value;
            if let Some(span) =
                spec.ids.as_ref().map(|ids| &ids.span).or(spec.entries.as_ref().map(|entries| &entries.span))
            {
                return self.refuse(span, "`ids` and `entries` belong in `[array]`");
            }
            let mut needs: Vec<String> = Vec::new();
            for dep in spec.deps.iter().flat_map(|deps| &deps.value.0) {
                if !used.contains(dep) || *dep == id {
                    return self.refuse(&task.span, format!("task {id} cannot depend on {dep}"));
                }
                let need = format!("task-{dep}");
                if !needs.contains(&need) {
                    needs.push(need);
                }
            }
            document.task(&format!("task-{id}"));
            let own = id.to_string();
            self.task(&Numbered { spec, id: Some(id) }, &needs, [("HQ_TASK_ID", own.as_str())].into_iter(), document)?;
        }
        Ok(())
    }

    fn task<'v>(
        &mut self,
        task: &Numbered<'_>,
        needs: &[String],
        hq_env: impl Iterator<Item = (&'v str, &'v str)>,
        document: &mut JobFileWriter,
    ) -> Result<(), ImportError> {
        let spec = task.spec;
        if let Some(command) = &spec.command {
            let mut words: Vec<String> = command.value.0.iter().map(|word| task.protect(&word.value)).collect();
            if words.first().is_none_or(String::is_empty) {
                return self.refuse(&command.span, "`command` is empty");
            }
            if let Some(stdin) = &spec.stdin {
                if stdin.value.contains('\0') {
                    return self.refuse(&stdin.span, "there is a NUL byte, which no command can be given");
                }
                let script = "printf %s \"$1\" | { shift; exec \"$@\"; }";
                words.splice(0..0, ["/bin/sh", "-c", script, "sh", &task.protect(&stdin.value)].map(String::from));
            }
            document.field("command", strings(&words));
            self.warn_of_variables(command);
        }
        if !needs.is_empty() {
            document.field("needs", strings(needs));
        }
        let own = spec.env.iter().flat_map(|env| &env.value.0);
        let own: BTreeMap<&str, String> =
            own.map(|(name, value)| (name.value.as_str(), task.protect(&value.value))).collect();
        let mut env: BTreeMap<&str, String> = hq_env.map(|(name, value)| (name, value.to_string())).collect();
        env.extend(own);
        let env: Vec<String> = env.iter().map(|(name, value)| format!("{name} = {}", quote(value))).collect();
        document.field("env", format!("{{ {} }}", env.join(", ")));
        if let Some(cwd) = &spec.cwd {
            let dir = task.path(&cwd.value, false).or_else(|reason| self.refuse(&cwd.span, reason))?;
            document.field("dir", quote(&dir));
        }
        for (key, output) in [("stdout", &spec.stdout), ("stderr", &spec.stderr)] {
            if let Some(output) = output {
                self.output(key, task, output, document)?;
            }
        }
        self.limits(spec, document)?;
        self.requests(spec, document)
    }

    fn output(
        &mut self,
        key: &str,
        task: &Numbered<'_>,
        output: &At<Stdio>,
        document: &mut JobFileWriter,
    ) -> Result<(), ImportError> {
        let path = match &output.value {
            Stdio::File(path) => path.as_str(),
            Stdio::Table(table) => {
                if let Some(close) = table.on_close.as_ref().or(table.mode.as_ref()) {
                    match close.value.as_str() {
                        "none" => {}
                        "rm-if-finished" => self.warn(&close.span, "`on_close` is left out; the file stays"),
                        other => {
                            let reason = format!("`{other}` is no way to close a file; none and rm-if-finished are");
                            return self.refuse(&close.span, reason);
                        }
                    }
                }
                table.path.as_ref().map_or("", |path| path.value.as_str())
            }
        };
        let path = match path {
            "none" => "/dev/null".to_string(),
            "" => return self.refuse(&output.span, format!("`{key}` is empty")),
            path => task.path(path, true).or_else(|reason| self.refuse(&output.span, reason))?,
        };
        document.field(key, quote(&path));
        Ok(())
    }

    fn limits(&mut self, spec: &HqTask, document: &mut JobFileWriter) -> Result<(), ImportError> {
        if let Some(limit) = &spec.time_limit {
            match humantime::parse_duration(&limit.value) {
                Ok(time) if !time.is_zero() => document.field("time", quote(&format_duration(time))),
                _ => return self.refuse(&limit.span, format!("`time_limit = \"{}\"` is not a duration", limit.value)),
            }
        }
        if let Some(priority) = &spec.priority {
            document.field("priority", priority.value.0.to_string());
        }
        if let Some(pin) = spec.pin.as_ref().filter(|pin| !["none", "taskset", "omp"].contains(&pin.value.as_str())) {
            return self
                .refuse(&pin.span, format!("`pin = \"{}\"` is not known; none, taskset and omp are", pin.value));
        }
        let ignored = [
            (
                spec.task_dir.as_ref().filter(|dir| dir.value).map(|at| &at.span),
                "`task_dir` is left out; every task has PHALANX_TASK_DIR",
            ),
            (
                spec.pin.as_ref().filter(|pin| pin.value != "none").map(|at| &at.span),
                "`pin` is left out; slots are pinned anyway",
            ),
            (
                // A task of a lost rank always runs again, as with `unlimited`.
                spec.crash_limit.as_ref().filter(|limit| limit.value != CrashLimit::Unlimited).map(|at| &at.span),
                "`crash_limit` is left out; tasks of a lost rank run again elsewhere, however often that happens",
            ),
        ];
        for (span, text) in ignored {
            if let Some(span) = span {
                self.warn(span, text);
            }
        }
        Ok(())
    }

    /// Warns of HyperQueue variables in a command that are not set here.
    fn warn_of_variables(&mut self, command: &At<Strings>) {
        let is_part = |c: char| c.is_ascii_alphanumeric() || c == '_';
        let mut names = BTreeSet::new();
        for word in &command.value.0 {
            for (at, _) in word.value.match_indices("HQ_") {
                let (before, tail) = word.value.split_at(at);
                if !before.ends_with(is_part) {
                    names.insert(&tail[..tail.find(|c| !is_part(c)).unwrap_or(tail.len())]);
                }
            }
        }
        for name in names.into_iter().filter(|name| !["HQ_TASK_ID", "HQ_ENTRY"].contains(name)) {
            self.warn(&command.span, &format!("the command names {name}, which tasks do not have here"));
        }
    }

    fn requests(&mut self, spec: &HqTask, document: &mut JobFileWriter) -> Result<(), ImportError> {
        let requests = spec.request.as_ref().map_or(&[][..], |requests| &requests.value.0);
        if let Some(second) = requests.get(1) {
            self.warn(&second.span, "alternative requests are left out; the first is used");
        }
        let Some(request) = requests.first() else { return Ok(()) };
        if let Some(nodes) = request.value.n_nodes.as_ref().filter(|nodes| nodes.value.0 > 1) {
            self.warn(
                &nodes.span,
                "`n_nodes` is left out and the task gets one node; if its command is an MPI program, give it `mpi = { ranks = ... }`",
            );
        }
        if let Some(time) = &request.value.time_request {
            if humantime::parse_duration(&time.value).is_err() {
                return self.refuse(&time.span, format!("`time_request = \"{}\"` is not a duration", time.value));
            }
            self.warn(&time.span, "`time_request` is left out; the task may start shortly before the allocation ends");
        }
        if let Some(weight) = &request.value.weight {
            self.warn(&weight.span, "`weight` is left out; use `priority` instead");
        }
        let Some(resources) = &request.value.resources else { return Ok(()) };
        for (name, amount) in &resources.value.0 {
            self.resource(name, amount, &resources.span, document)?;
        }
        Ok(())
    }

    fn resource(
        &mut self,
        name: &str,
        amount: &str,
        span: &Span,
        document: &mut JobFileWriter,
    ) -> Result<(), ImportError> {
        let (key, most) = match name {
            "cpus" => ("cpus", 65536.0),
            "gpus" | "gpus/nvidia" | "gpus/amd" => ("gpus", 1024.0),
            "mem" => ("memory", f64::from(u32::MAX)),
            _ => {
                self.warn(span, &format!("the resource `{name}` is left out"));
                return Ok(());
            }
        };
        let amount = amount.trim();
        if amount == "all" {
            self.warn(span, &format!("`{name} = \"all\"` is left out; give the number that a node has"));
            return Ok(());
        }
        let (number, policy) = amount.split_once(' ').unwrap_or((amount, ""));
        let number = number.replace('_', "").parse().ok().filter(|number| (0.0..=most).contains(number));
        let Some(number): Option<f64> = number else {
            return self.refuse(span, format!("`{name} = \"{amount}\"` is no amount; give a number"));
        };
        if number.fract() != 0.0 {
            self.warn(span, &format!("`{name} = \"{amount}\"` is rounded up; fractions are not supported"));
        }
        match (key, number.ceil()) {
            ("cpus" | "memory", 0.0) => self.warn(span, &format!("`{name} = 0` is left out")),
            ("memory", number) => document.field(key, quote(&format!("{number}M"))),
            (key, number) => document.field(key, number.to_string()),
        }
        if !policy.is_empty() {
            self.warn(span, &format!("the policy of `{name} = \"{amount}\"` is left out"));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tasks_with_dependencies_and_requests() {
        let text = "name = \"t\"\nmax_fails = 11\n[[task]]\nid = 10\ncommand = [\"bash\", \"-c\", \"echo $ABC\"]\nenv = { ABC = \"1\" }\nstdout = \"out-%{TASK_ID}\"\nstderr = { path = \"e\", mode = \"rm-if-finished\" }\ntime_limit = \"1m 10s\"\npriority = -1\n[[task.request]]\nresources = { cpus = \"4 compact!\", gpus = 2 }\n[[task]]\ncommand = [\"true\"]\ndeps = [10]\n";
        let imported = hq(text, &Options::default()).unwrap();
        for part in [
            "max_failures = 12",
            "name = \"task-10\"",
            "stdout = \"out-10\"",
            "time = \"1m10s\"",
            "cpus = 4",
            "gpus = 2",
            "name = \"task-11\"",
            "needs = [\"task-10\"]",
            "HQ_TASK_ID = \"10\"",
        ] {
            assert!(imported.toml.contains(part), "{part} in\n{}", imported.toml);
        }
        assert_eq!(imported.warnings.len(), 2, "{:?}", imported.warnings);
    }

    #[test]
    fn mistakes_name_their_line() {
        for (text, line) in [
            ("x = 1\n", 1),
            ("[[task]]\n", 1),
            ("[[task]]\ncommand = [\"a\"]\ncrash_limit = 0\n", 3),
            ("[[task]]\ncommand = [\"a\"]\nstdout = { path = \"e\", on_close = \"x\" }\n", 3),
            ("[[task]]\ncommand = [\"a\"]\npin = \"x\"\n", 3),
            ("[[task]]\ncommand = [\"a\"]\ntime_limit = \"10\"\n", 3),
            ("[array]\nids = \"1-3\"\nentries = [\"a\"]\ncommand = [\"a\"]\n", 2),
            ("[array]\nids = \"3-1\"\ncommand = [\"a\"]\n", 2),
            ("[[task]]\ncommand = [\"a\"]\n[[task.request]]\nresources = { cpus = \"x\" }\n", 4),
            ("[[task]]\ncommand = [\"a\"]\ndeps = [7]\n", 1),
            ("[array]\ncommand = [\"a\"]\n", 1),
            ("\n[[task]\n", 2),
            ("", 1),
            ("[[task]]\ncommand = [\"a\"]\ncwd = \"%{JOB_ID}\"\n", 3),
        ] {
            assert_eq!(hq(text, &Options::default()).unwrap_err().line, line, "{text:?}");
        }
    }

    #[test]
    fn tasks_without_ids_are_numbered_from_the_highest_on() {
        let text = "[[task]]\ncommand = [\"a\"]\n[[task]]\nid = 12\ncommand = [\"b\"]\n[[task]]\ncommand = [\"c\"]\ndeps = [13, 13]\nstdout = \"%{TASK_ID}\"\n";
        let toml = hq(text, &Options::default()).unwrap().toml;
        for part in ["\"task-13\"", "\"task-12\"", "\"task-14\"", "stdout = \"14\"", "needs = [\"task-13\"]"] {
            assert!(toml.contains(part), "{part} in\n{toml}");
        }
        assert!(hq("[[task]]\ncommand = [\"a\"]\n", &Options::default()).unwrap().toml.contains("\"task-1\""));
    }

    #[test]
    fn what_has_no_counterpart_is_named_with_its_line() {
        let text = "data_layer = true\n[[task]]\ncommand = [\"sh\", \"-c\", \"echo $HQ_TASK_ID $HQ_NODE_FILE\"]\ncrash_limit = \"never-restart\"\npin = \"none\"\ntime_limit = \"1h 30min\"\nstdin = \"x\"\nstderr = { path = \"e\", on_close = \"none\" }\nstdout = { path = \"o\", on_close = \"rm-if-finished\" }\n[[task.request]]\nn_nodes = 2\nweight = 11.2\ntime_request = \"10s\"\nresources = { cpus = \"all\", gpus = 1.1, mem = \"1_000\" }\n[[task.request]]\n[[task]]\ncommand = [\"a\"]\ncrash_limit = \"unlimited\"\n";
        let imported = hq(text, &Options::default()).unwrap();
        for part in ["time = \"1h30m\"", "gpus = 2", "memory = \"1000M\"", "stderr = \"e\""] {
            assert!(imported.toml.contains(part), "{part} in\n{}", imported.toml);
        }
        let line = |warning: &String| warning["line ".len()..].split(':').next().unwrap().parse().unwrap();
        let mut lines: Vec<usize> = imported.warnings.iter().map(line).collect();
        lines.sort_unstable();
        assert_eq!(lines, [1, 3, 4, 9, 11, 12, 13, 14, 14, 15], "{:#?}", imported.warnings);
    }

    #[test]
    fn entries_may_have_ids_of_their_own() {
        let text =
            "[array]\nids = \"2, 10-11\"\nentries = [\"a\", \"{name}\", \"c\"]\ncommand = [\"a\"]\npin = \"omp\"\n";
        let imported = hq(text, &Options::default()).unwrap();
        let table: toml::Table = toml::from_str(&imported.toml).unwrap();
        let env = |at: usize, key: &str| table["task"][at]["env"][key].as_str().unwrap().to_string();
        assert_eq!((env(0, "HQ_TASK_ID"), env(0, "HQ_ENTRY")), ("2".into(), "a".into()));
        assert_eq!((env(1, "HQ_TASK_ID"), env(1, "HQ_ENTRY")), ("10".into(), "{{name}}".into()));
        assert_eq!(table["task"][2]["name"].as_str(), Some("task-11"));
        assert_eq!(imported.warnings.len(), 1);
    }

    #[test]
    fn text_for_standard_input_gets_there() {
        let text = "[[task]]\ncommand = [\"cat\", \"-\"]\nstdin = \"it's \\\"$x\\\" %s\\n\"\n";
        let table: toml::Table = toml::from_str(&hq(text, &Options::default()).unwrap().toml).unwrap();
        let words = table["task"][0]["command"].as_array().unwrap().clone();
        let words: Vec<&str> = words.iter().map(|word| word.as_str().unwrap()).collect();
        let output = std::process::Command::new(words[0]).args(&words[1..]).output().unwrap();
        assert_eq!(String::from_utf8_lossy(&output.stdout), "it's \"$x\" %s\n");
    }
}
