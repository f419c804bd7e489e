//! Imports HyperQueue's job definition files (TOML): tasks with numbers and `deps`, or one array.
//!
//! The sections are declared and read like those of our own job file, so an unknown key is reported
//! with its line.

mod format;
mod limits;

use std::collections::BTreeSet;

use toml::Table;
use toml::de::DeTable;

use format::{HqFile, HqTask, Stdio};

use super::write::{JobFileWriter, protect};
use super::{ImportError, Imported, Options, without_mark};
use crate::job::diagnostic::{Diagnostic, Findings, Severity, line_and_column};
use crate::job::read::{At, Section, Span, check_keys};
use crate::job::units::IndexSet;
use crate::job::values::Strings;

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
        let mut document =
            JobFileWriter::new("Imported from a job definition file of HyperQueue.", options.job_name(recorded, "hq"));
        if let Some(max) = &file.max_fails {
            // HyperQueue stops after more failures than this, Phalanx after exactly this number.
            document.field("max_failures", (max.value.0 + 1).min(i64::from(u32::MAX)));
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
                document.field("array", ids.value.as_str());
            }
            None if entries.is_empty() => return self.refuse(&array.span, "an array needs `ids` or `entries`"),
            None => document.task("task"),
        }
        let env = [Some(("HQ_TASK_ID", "{index}")), spec.entries.as_ref().map(|_| ("HQ_ENTRY", "{entry}"))];
        self.task(&Numbered { spec, id: None }, &[], env.into_iter().flatten(), document)?;
        if !entries.is_empty() {
            document.section("[task.matrix]");
            document.list("entry", entries.iter().map(|entry| entry.value.as_str()));
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
            document.field("class", "task");
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
            document.list("command", words);
            self.warn_of_variables(command);
        }
        document.list("needs", needs.iter().map(String::as_str));
        let own = spec.env.iter().flat_map(|env| &env.value.0);
        let own = own.map(|(name, value)| (name.value.clone(), task.protect(&value.value).into()));
        document
            .field("env", hq_env.map(|(name, value)| (name.to_owned(), value.into())).chain(own).collect::<Table>());
        if let Some(cwd) = &spec.cwd {
            let dir = task.path(&cwd.value, false).or_else(|reason| self.refuse(&cwd.span, reason))?;
            document.field("dir", dir);
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
        document.field(key, path);
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
}

#[cfg(test)]
mod tests;
