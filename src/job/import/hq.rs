//! HyperQueue's job definition files (TOML): tasks with numbers and `deps`, or one array.
//!
//! The sections are declared and read like those of our own job file, so an unknown key is named with its line.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};
use toml::de::DeTable;

use super::write::{Document, protect, quote, strings};
use super::{ImportError, Imported, Options};
use crate::job::diagnostic::{Diagnostic, Findings, Severity, line_and_column};
use crate::job::read::{At, Node, Read, Section, Span, Tables, Whole, check_keys, integer, mismatch, section};
use crate::job::units::{format_duration, parse_duration};
use crate::job::values::{EnvSpec, Strings};

type Number = Whole<0, { u32::MAX as i64 }>;

section! {
    /// A job definition file of HyperQueue
    HqFile {
        /// Name of the job
        name: String,
        /// Directory that output is streamed to
        stream: String,
        /// How many tasks may fail
        max_fails: Number,
        /// The tasks
        task: Tables<HqTask>,
        /// The tasks of an array
        array: HqTask,
    }
}

section! {
    /// A task, or all tasks of an array
    HqTask {
        /// Number of the task
        id: Number,
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
        crash_limit: Number,
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
        n_nodes: Number,
        /// Time that must remain
        time_request: String,
    }
}

section! {
    /// Where output goes
    HqOutput {
        /// The file
        path: String = required,
        /// What becomes of it
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

    fn read(key: &str, node: &Node<'_>, findings: &mut Findings) -> Option<Self> {
        let numbers: Option<Vec<i64>> =
            node.get_ref().as_array().and_then(|list| list.iter().map(|entry| integer(entry.get_ref())).collect());
        if numbers.is_none() {
            mismatch::<Self>(key, node, findings);
        }
        numbers.map(Numbers)
    }
}

/// A file for output, given as its name or as a table.
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

    fn read(key: &str, node: &Node<'_>, findings: &mut Findings) -> Option<Self> {
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

    fn read(key: &str, node: &Node<'_>, findings: &mut Findings) -> Option<Self> {
        let Some(table) = node.get_ref().as_table() else {
            mismatch::<Self>(key, node, findings);
            return None;
        };
        let amount = |value: &Node<'_>| match value.get_ref().as_str() {
            Some(text) => text.to_string(),
            None => integer(value.get_ref()).map_or_else(|| "?".to_string(), |number| number.to_string()),
        };
        Some(Amounts(table.iter().map(|(name, value)| (name.get_ref().to_string(), amount(value))).collect()))
    }
}

/// Imports a job definition file of HyperQueue.
///
/// # Errors
/// If it is no such file, or asks for what Phalanx does not do.
pub fn hq(text: &str, options: &Options) -> Result<Imported, ImportError> {
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
    let mut writer = Writer { text, warnings: Vec::new() };
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
    /// The words in braces that mean something for it.
    fn words(&self) -> &'static [&'static str] {
        match self.id {
            Some(_) => &["name"],
            None => &["name", "index", "entry"],
        }
    }

    fn protect(&self, text: &str) -> String {
        protect(text, self.words())
    }

    /// HyperQueue's placeholders in names of files and directories; `%` is ours to escape in names of output files only.
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

struct Writer<'a> {
    text: &'a str,
    warnings: Vec<String>,
}

impl Writer<'_> {
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
        let mut document = Document::new(
            "Imported from a job definition file of HyperQueue.",
            options.name.as_deref().or(recorded).unwrap_or("hq"),
        );
        if let Some(max) = &file.max_fails {
            // HyperQueue stops when more tasks than this have failed, Phalanx when as many have.
            document.field("max_failures", (max.value.0 + 1).min(i64::from(u32::MAX)).to_string());
        }
        if let Some(stream) = &file.stream {
            self.warn(&stream.span, "`stream` is left out; output is always kept in few files in the run directory");
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

    fn array(&mut self, array: &At<HqTask>, document: &mut Document) -> Result<(), ImportError> {
        document.task("task");
        let spec = &array.value;
        if let Some(id) = &spec.id {
            return self.refuse(&id.span, "an array has `ids`, not `id`");
        }
        match (&spec.ids, &spec.entries) {
            (Some(_), Some(entries)) => {
                return self.refuse(&entries.span, "`ids` beside `entries` is not supported; keep one");
            }
            (Some(ids), None) => document.field("array", quote(&ids.value)),
            (None, Some(_)) => {}
            (None, None) => return self.refuse(&array.span, "an array needs `ids` or `entries`"),
        }
        let env = [Some(("HQ_TASK_ID", "{index}")), spec.entries.as_ref().map(|_| ("HQ_ENTRY", "{entry}"))];
        self.task(&Numbered { spec, id: None }, &[], env.into_iter().flatten(), document)?;
        if let Some(entries) = &spec.entries {
            document.section("[task.matrix]");
            let entries: Vec<&str> = entries.value.0.iter().map(|entry| entry.value.as_str()).collect();
            document.field("entry", strings(&entries));
        }
        Ok(())
    }

    fn tasks(&mut self, tasks: &[At<HqTask>], document: &mut Document) -> Result<(), ImportError> {
        let mut used = BTreeSet::new();
        for task in tasks {
            if let Some(id) = task.value.id.as_ref().filter(|id| !used.insert(id.value.0)) {
                return self.refuse(&id.span, format!("two tasks have the id {}", id.value.0));
            }
        }
        let mut next = 0;
        for task in tasks {
            let spec = &task.value;
            if let Some(span) =
                spec.ids.as_ref().map(|ids| &ids.span).or(spec.entries.as_ref().map(|entries| &entries.span))
            {
                return self.refuse(span, "`ids` and `entries` belong in `[array]`");
            }
            let id = spec.id.as_ref().map_or_else(
                || {
                    while !used.insert(next) {
                        next += 1;
                    }
                    next
                },
                |id| id.value.0,
            );
            let mut needs = Vec::new();
            for dep in spec.deps.iter().flat_map(|deps| &deps.value.0) {
                if !used.contains(dep) || *dep == id {
                    return self.refuse(&task.span, format!("task {id} cannot depend on {dep}"));
                }
                needs.push(format!("task-{dep}"));
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
        document: &mut Document,
    ) -> Result<(), ImportError> {
        let spec = task.spec;
        if let Some(stdin) = &spec.stdin {
            return self.refuse(&stdin.span, "text for `stdin` is not supported; write it to a file and name that");
        }
        if let Some(command) = &spec.command {
            let words: Vec<String> = command.value.0.iter().map(|word| task.protect(&word.value)).collect();
            if words.first().is_none_or(String::is_empty) {
                return self.refuse(&command.span, "`command` is empty");
            }
            document.field("command", strings(&words));
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
        document: &mut Document,
    ) -> Result<(), ImportError> {
        let path = match &output.value {
            Stdio::File(path) => path.as_str(),
            Stdio::Table(table) => {
                if let Some(mode) = &table.mode {
                    self.warn(&mode.span, "`mode` is left out; the file stays");
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

    fn limits(&mut self, spec: &HqTask, document: &mut Document) -> Result<(), ImportError> {
        if let Some(limit) = &spec.time_limit {
            match parse_duration(&limit.value) {
                Ok(time) if !time.is_zero() && limit.value.contains(|c: char| !c.is_ascii_digit()) => {
                    document.field("time", quote(&format_duration(time)));
                }
                _ => return self.refuse(&limit.span, format!("`time_limit = \"{}\"` is not a duration", limit.value)),
            }
        }
        if let Some(priority) = &spec.priority {
            document.field("priority", priority.value.0.to_string());
        }
        let ignored = [
            (spec.task_dir.as_ref().map(|at| &at.span), "`task_dir` is left out; every task has PHALANX_TASK_DIR"),
            (spec.pin.as_ref().map(|at| &at.span), "`pin` is left out; slots are pinned anyway"),
            (
                spec.crash_limit.as_ref().map(|at| &at.span),
                "`crash_limit` is left out; tasks of a lost rank run again elsewhere",
            ),
        ];
        for (span, text) in ignored {
            if let Some(span) = span {
                self.warn(span, text);
            }
        }
        Ok(())
    }

    fn requests(&mut self, spec: &HqTask, document: &mut Document) -> Result<(), ImportError> {
        let requests = spec.request.as_ref().map_or(&[][..], |requests| &requests.value.0);
        if let Some(second) = requests.get(1) {
            self.warn(&second.span, "alternative requests are left out; the first counts");
        }
        let Some(request) = requests.first() else { return Ok(()) };
        if let Some(nodes) = &request.value.n_nodes {
            return self.refuse(
                &nodes.span,
                "whole nodes (`n_nodes`) are not supported; use `mpi` for a command on several nodes",
            );
        }
        if let Some(time) = &request.value.time_request {
            self.warn(&time.span, "`time_request` is left out");
        }
        let Some(resources) = &request.value.resources else { return Ok(()) };
        for (name, amount) in &resources.value.0 {
            let (number, policy) = amount.split_once(' ').unwrap_or((amount, ""));
            let number = number.parse::<u32>().ok();
            match (name.as_str(), number) {
                ("cpus", Some(number @ 1..=65536)) => document.field("cpus", number.to_string()),
                ("gpus" | "gpus/nvidia" | "gpus/amd", Some(number @ 0..=1024)) => {
                    document.field("gpus", number.to_string())
                }
                ("mem", Some(number @ 1..)) => document.field("memory", quote(&format!("{number}M"))),
                ("cpus" | "gpus" | "gpus/nvidia" | "gpus/amd" | "mem", _) => {
                    return self.refuse(
                        &resources.span,
                        format!("`{name} = \"{amount}\"` is not supported; give a whole number"),
                    );
                }
                _ => self.warn(&resources.span, &format!("the resource `{name}` is left out")),
            }
            if !policy.is_empty() {
                self.warn(&resources.span, &format!("the policy of `{name} = \"{amount}\"` is left out"));
            }
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
            "name = \"task-0\"",
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
            ("[[task]]\ncommand = [\"a\"]\nstdin = \"x\"\n", 3),
            ("[[task]]\ncommand = [\"a\"]\ndeps = [7]\n", 1),
            ("[array]\ncommand = [\"a\"]\n", 1),
            ("\n[[task]\n", 2),
            ("", 1),
            ("[[task]]\ncommand = [\"a\"]\ncwd = \"%{JOB_ID}\"\n", 3),
        ] {
            assert_eq!(hq(text, &Options::default()).unwrap_err().line, line, "{text:?}");
        }
    }
}
