//! Imports files with one shell command per line, as for GNU parallel, disBatch and many scripts.
//!
//! Lines between two directives become one matrix over the lines, so a file of a million commands
//! is one task table. disBatch directives are converted; those of other tools cause a warning.

use super::write::{JobFileWriter, TaskNames, protect};
use super::{ImportError, Imported, Options, plain_text};

/// Imports a list of shell commands; blank lines and comments are skipped.
///
/// # Errors
/// If there is no command, if a command contains a NUL byte, or if a disBatch directive is
/// misplaced.
pub fn lines(text: &str, options: &Options) -> Result<Imported, ImportError> {
    let text = plain_text(text)?;
    let mut reader = LinesReader::default();
    for (at, line) in joined(&text) {
        reader.line(at, line).map_err(|reason| ImportError::new(at, reason))?;
    }
    if reader.groups.is_empty() {
        return Err(ImportError::new(1, "there is no command"));
    }
    Ok(reader.write(&text, options))
}

/// Lines with their numbers; lines that end in a backslash are joined with the next.
fn joined(text: &str) -> Vec<(usize, String)> {
    let mut lines: Vec<(usize, String)> = Vec::new();
    let mut continued = false;
    for (at, line) in text.lines().enumerate() {
        match lines.last_mut().filter(|_| continued) {
            Some((_, whole)) => whole.push_str(line),
            None => lines.push((at + 1, line.to_string())),
        }
        let Some((_, whole)) = lines.last_mut() else { continue };
        // A comment cannot be continued, and of two backslashes the second is text.
        let backslashes = whole.len() - whole.trim_end_matches('\\').len();
        continued = backslashes % 2 == 1 && !whole.trim_start().starts_with('#');
        if continued {
            whole.pop();
        }
    }
    lines
}

/// A group of lines that becomes one task table.
struct LineGroup {
    kind: LineKind,
    /// Number that disBatch assigns to its first task.
    first: u64,
    /// Groups that must end first; `true` if they must succeed.
    needs: Vec<(usize, bool)>,
}

enum LineKind {
    /// Commands with their line numbers.
    Lines(Vec<(usize, String)>),
    /// One command for the numbers `start`, `start + step`, ...
    Repeat { at: usize, command: String, count: u64, start: u64, step: u64 },
    /// A command that disBatch runs when an engine starts or stops.
    Engine { at: usize, command: String, name: &'static str },
}

#[derive(Default)]
struct LinesReader {
    groups: Vec<LineGroup>,
    /// Line and command of `PERENGINE STOP` directives.
    stops: Vec<(usize, String)>,
    prefix: String,
    suffix: String,
    /// Number that disBatch assigns to the next task; barriers have one, too.
    next: u64,
    /// First group after the last barrier.
    segment: usize,
    /// Dependencies of the groups of this segment, and those of them that later segments have as
    /// well.
    needs: Vec<(usize, bool)>,
    lasting: Vec<(usize, bool)>,
    has_directives: bool,
    warnings: Vec<String>,
}

impl LinesReader {
    fn line(&mut self, at: usize, line: String) -> Result<(), String> {
        if let Some(directive) = line.strip_prefix("#DISBATCH ") {
            self.has_directives = true;
            return self.directive(at, directive);
        }
        if line.trim_start().starts_with('#') {
            self.comment(at, line.trim());
        } else if !line.trim().is_empty() {
            let command = match self.prefix.is_empty() && self.suffix.is_empty() {
                true => line.trim_start().to_string(),
                false => format!("{}{line}{}", self.prefix, self.suffix),
            };
            self.next += 1;
            let open = self.groups.len() > self.segment;
            match self.groups.last_mut().filter(|_| open) {
                Some(LineGroup { kind: LineKind::Lines(lines), .. }) => lines.push((at, command)),
                _ => self.push(self.next - 1, LineKind::Lines(vec![(at, command)])),
            }
        }
        Ok(())
    }

    fn push(&mut self, first: u64, kind: LineKind) {
        self.groups.push(LineGroup { kind, first, needs: self.needs.clone() });
    }

    /// Warns of a comment that is a directive of another tool.
    fn comment(&mut self, at: usize, comment: &str) {
        let rest = &comment[1..];
        let end = rest.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(rest.len());
        let (word, tail) = rest.split_at(end);
        let capitals = word.len() > 1 && word.bytes().all(|c| c.is_ascii_uppercase());
        let directive = word.eq_ignore_ascii_case("disbatch") || capitals || tail.starts_with("$ ");
        if directive && tail.starts_with([' ', '\t', ':', '$']) {
            self.warnings.push(format!("line {at}: `{comment}` is left out as a comment; it looks like a directive"));
        } else if let Some(interpreter) = rest.strip_prefix('!') {
            let mut program = interpreter.split_whitespace().map(|word| word.rsplit('/').next().unwrap_or(word));
            let program = program.find(|word| *word != "env").unwrap_or_default();
            if at > 1 || !["sh", "bash", "dash"].contains(&program) {
                self.warnings.push(format!("line {at}: `{comment}` is left out; each line is a shell command"));
            }
        }
    }

    fn directive(&mut self, at: usize, directive: &str) -> Result<(), String> {
        let (word, rest) = directive.split_once(' ').unwrap_or((directive.trim_end(), ""));
        match word.to_ascii_uppercase().as_str() {
            "PREFIX" => self.prefix = rest.to_string(),
            "SUFFIX" => self.suffix = rest.to_string(),
            "BARRIER" => self.barrier(at, rest.trim()),
            "REPEAT" => {
                let repeat = Repeat::read(rest).ok_or("write `REPEAT count [start N] [step N] [command]`")?;
                let command = format!("{}{}{}", self.prefix, repeat.command, self.suffix);
                let Repeat { count, start, step, .. } = repeat;
                let first = self.next;
                let last = step.checked_mul(count).and_then(|span| span.checked_add(start));
                self.next =
                    self.next.checked_add(count).filter(|_| last.is_some()).ok_or("these numbers are too large")?;
                if count > 0 {
                    self.push(first, LineKind::Repeat { at, command, count, start, step });
                }
            }
            "PERENGINE" => self.per_engine(at, rest)?,
            _ => self.warnings.push(format!("line {at}: `#DISBATCH {directive}` is not known and left out")),
        }
        Ok(())
    }

    fn barrier(&mut self, at: usize, key: &str) {
        self.next += 1;
        let check = key.split_whitespace().next() == Some("CHECK");
        if !matches!(key, "" | "CHECK") {
            self.warnings.push(format!("line {at}: the key of this barrier is left out"));
        }
        let ended = self.segment..self.groups.len();
        if ended.is_empty() {
            return;
        }
        self.segment = ended.end;
        if check {
            // After a failed check no further task runs, so all later groups depend on its success.
            self.lasting.extend(ended.map(|group| (group, true)));
            self.needs = self.lasting.clone();
        } else {
            self.needs = self.lasting.iter().copied().chain(ended.map(|group| (group, false))).collect();
        }
    }

    fn per_engine(&mut self, at: usize, rest: &str) -> Result<(), String> {
        let (when, command) =
            rest.split_once(' ').ok_or("write `PERENGINE START command` or `PERENGINE STOP command`")?;
        if self.next > 0 {
            return Err("what is done for each engine must come before all tasks".into());
        }
        let command = format!("{}{command}{}", self.prefix, self.suffix);
        let place = match when.to_ascii_uppercase().as_str() {
            "START" => {
                let group = self.groups.len();
                self.push(0, LineKind::Engine { at, command, name: "start" });
                self.segment = group + 1;
                self.lasting.push((group, true));
                self.needs.push((group, true));
                "before all other tasks"
            }
            "STOP" => {
                self.stops.push((at, command));
                "after all other tasks"
            }
            _ => return Err(format!("PERENGINE {when}: START or STOP is expected")),
        };
        self.warnings.push(format!("line {at}: this command runs once, {place}, and not on each node"));
        Ok(())
    }

    fn write(mut self, text: &str, options: &Options) -> Imported {
        let all: Vec<(usize, bool)> = (0..self.groups.len()).map(|group| (group, false)).collect();
        for (at, command) in std::mem::take(&mut self.stops) {
            self.groups.push(LineGroup {
                kind: LineKind::Engine { at, command, name: "stop" },
                first: 0,
                needs: all.clone(),
            });
        }
        let variables = Mentioned::find(text, &mut self.warnings);
        let job = options.job_name(None, "lines");
        let origin = "Imported from lines of commands. Each line is one task; `{index}` counts them from 0.";
        let mut document = JobFileWriter::new(origin, job);
        if options.bash {
            document.field("shell", "bash");
        }
        let mut names = TaskNames::default();
        let mut known: Vec<String> = Vec::new();
        for group in &self.groups {
            let wanted = match &group.kind {
                LineKind::Lines(_) => "line",
                LineKind::Repeat { .. } => "repeat",
                LineKind::Engine { name, .. } => name,
            };
            known.push(names.unique(wanted));
            document.task(&known[known.len() - 1]);
            let needs = group.needs.iter().map(|(group, succeed)| match succeed {
                true => known[*group].clone(),
                false => format!("afterany:{}", known[*group]),
            });
            document.list("needs", needs);
            group.write(&variables, self.has_directives, job, &mut document);
        }
        Imported { toml: document.finish(), warnings: self.warnings }
    }
}

impl LineGroup {
    fn write(&self, variables: &Mentioned, directives: bool, job: &str, document: &mut JobFileWriter) {
        let number = |name: &str, value: &str| {
            let padded = variables.has(&format!("{name}_ZP"));
            let padded = if padded { format!("export {name}_ZP=$(printf %06d \"${name}\"); ") } else { String::new() };
            format!("export {name}={value}; {padded}")
        };
        let asked = |name: &str| variables.has(name) || variables.has(&format!("{name}_ZP"));
        let mut before = variables.of_all_tasks(job);
        if directives || asked("DISBATCH_TASKID") {
            let value = match (&self.kind, self.first) {
                (LineKind::Engine { .. }, _) => None,
                (_, 0) => Some("{index}".to_string()),
                (_, first) => Some(format!("$(({first}+{{index}}))")),
            };
            before.extend(value.map(|value| number("DISBATCH_TASKID", &value)));
        }
        match &self.kind {
            LineKind::Lines(lines) => {
                if asked("DISBATCH_REPEAT_INDEX") {
                    before.push_str(&number("DISBATCH_REPEAT_INDEX", "-1"));
                }
                document.field("command", format!("{before}{{line}}"));
                document.section("[task.matrix]");
                let entries = lines.iter().map(|(at, line)| match asked("DISBATCH_STREAM_INDEX") {
                    true => number("DISBATCH_STREAM_INDEX", &at.to_string()) + line,
                    false => line.clone(),
                });
                document.lines("line", entries);
            }
            LineKind::Repeat { at, command, count, start, step } => {
                let value = match (start, step) {
                    (0, 1) => "{index}".to_string(),
                    _ => format!("$(({start}+{step}*{{index}}))"),
                };
                before.push_str(&number("DISBATCH_REPEAT_INDEX", &value));
                if asked("DISBATCH_STREAM_INDEX") {
                    before.push_str(&number("DISBATCH_STREAM_INDEX", &at.to_string()));
                }
                document.field("array", format!("0-{}", count - 1));
                document.field("command", before + &protect(command, &["name", "index"]));
            }
            LineKind::Engine { command, at, .. } => {
                if asked("DISBATCH_STREAM_INDEX") {
                    before.push_str(&number("DISBATCH_STREAM_INDEX", &at.to_string()));
                }
                document.field("command", before + &protect(command, &["name"]));
            }
        }
    }
}

/// The disBatch variables that a text refers to.
struct Mentioned(Vec<String>);

impl Mentioned {
    /// Finds them, and warns of those without an equivalent.
    fn find(text: &str, warnings: &mut Vec<String>) -> Mentioned {
        const NUMBERED: [&str; 3] = ["DISBATCH_TASKID", "DISBATCH_REPEAT_INDEX", "DISBATCH_STREAM_INDEX"];
        let mut found: Vec<String> = Vec::new();
        for (at, line) in text.lines().enumerate() {
            for (start, _) in line.match_indices("DISBATCH_") {
                let rest = &line[start..];
                let name = &rest[..rest.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(rest.len())];
                if found.iter().any(|known| known == name) {
                    continue;
                }
                found.push(name.to_string());
                let known = NUMBERED.contains(&name.trim_end_matches("_ZP")) || counterpart(name, "").is_some();
                if !known {
                    warnings.push(format!("line {}: {name} is not set here", at + 1));
                }
            }
        }
        Mentioned(found)
    }

    fn has(&self, name: &str) -> bool {
        self.0.iter().any(|known| known == name)
    }

    /// Exports the variables that are the same for all tasks, or that Phalanx provides under
    /// another name.
    fn of_all_tasks(&self, job: &str) -> String {
        let set = self.0.iter().filter_map(|name| Some(format!("export {name}={}; ", counterpart(name, job)?)));
        set.collect()
    }
}

/// The value of a variable as a shell word.
fn counterpart(name: &str, job: &str) -> Option<String> {
    Some(match name {
        "DISBATCH_NAMETASKS" => format!("'{}'", job.replace('\'', "'\\''")),
        "DISBATCH_JOBID" => "$PHALANX_JOB_ID".into(),
        "DISBATCH_CORES_PER_TASK" => "$PHALANX_CPUS".into(),
        "DISBATCH_ENGINE_RANK" => "$PHALANX_RANK".into(),
        _ => return None,
    })
}

/// `count [start N] [step N] [command]`.
struct Repeat<'a> {
    count: u64,
    start: u64,
    step: u64,
    command: &'a str,
}

impl Repeat<'_> {
    fn read(text: &str) -> Option<Repeat<'_>> {
        let (count, mut rest) = leading_number(text)?;
        let mut repeat = Repeat { count, start: 0, step: 1, command: "" };
        for (word, value) in [("start", &mut repeat.start), ("step", &mut repeat.step)] {
            let trimmed = rest.trim_start();
            let found = trimmed.get(..word.len()).filter(|found| found.eq_ignore_ascii_case(word));
            if let Some((number, tail)) = found.and_then(|_| leading_number(&trimmed[word.len()..])) {
                (*value, rest) = (number, tail);
            }
        }
        repeat.command = rest.strip_prefix(' ').or(rest.is_empty().then_some(rest))?;
        Some(repeat)
    }
}

/// A number after blanks, and the rest.
fn leading_number(text: &str) -> Option<(u64, &str)> {
    let text = text.trim_start();
    let (number, rest) = text.split_at(text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len()));
    Some((number.parse().ok()?, rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn import(text: &str) -> (Vec<toml::Value>, Vec<String>) {
        let imported = lines(text, &Options::default()).unwrap_or_else(|error| panic!("{text}\n{error}"));
        let table: toml::Table = toml::from_str(&imported.toml).unwrap();
        (table["task"].as_array().unwrap().clone(), imported.warnings)
    }

    fn commands(text: &str) -> Vec<String> {
        let (tasks, _) = import(text);
        let entries = tasks.iter().flat_map(|task| task["matrix"]["line"].as_array().unwrap().clone());
        entries.map(|entry| entry.as_str().unwrap().to_string()).collect()
    }

    #[test]
    fn marks_ends_of_lines_and_continued_lines() {
        assert_eq!(commands("\u{feff}echo bom\r\n\r\n  a 'b'\r\n"), ["echo bom", "a 'b'"]);
        assert_eq!(
            commands("echo three \\\n  four\n# c \\\nb\nc \\\\\nd \\"),
            ["echo three   four", "b", "c \\\\", "d "]
        );
    }

    #[test]
    fn prefix_and_suffix_hold_for_what_follows() {
        let text = "#DISBATCH PREFIX cd sub ; \na\n#DISBATCH suffix  > x\n b\n#DISBATCH PREFIX \nc\n";
        assert_eq!(commands(text), ["cd sub ; a", "cd sub ;  b > x", "c > x"]);
    }

    #[test]
    fn barriers_separate_what_comes_before_from_what_comes_after() {
        let text = "a\n#DISBATCH BARRIER\n#DISBATCH BARRIER\nb\n#DISBATCH REPEAT 2 r\n#DISBATCH BARRIER CHECK\nc\n#DISBATCH BARRIER\nd\n";
        let (tasks, warnings) = import(text);
        let needs = |at: usize| tasks[at].get("needs").map_or(String::new(), |needs| needs.to_string());
        assert_eq!([needs(0), needs(1), needs(2)], ["", r#"["afterany:line"]"#, r#"["afterany:line"]"#]);
        assert_eq!(needs(3), r#"["line-2", "repeat"]"#);
        assert_eq!(needs(4), r#"["line-2", "repeat", "afterany:line-3"]"#);
        // Barriers have numbers, too.
        assert!(tasks[1]["command"].as_str().unwrap().contains("DISBATCH_TASKID=$((3+{index}))"));
        assert!(tasks[4]["command"].as_str().unwrap().contains("DISBATCH_TASKID=$((9+{index}))"));
        assert!(warnings.is_empty(), "{warnings:?}");
    }

    /// The output of an element's command.
    fn output(task: &toml::Value, index: usize) -> String {
        let line = task.get("matrix").map(|matrix| matrix["line"][index].as_str().unwrap());
        let command = task["command"].as_str().unwrap().replace("{index}", &index.to_string());
        let command = command.replace("{line}", line.unwrap_or_default());
        let output = std::process::Command::new("sh").args(["-c", &command]).output().unwrap();
        String::from_utf8(output.stdout).unwrap()
    }

    #[test]
    fn tasks_see_the_numbers_of_disbatch() {
        let text = "echo $DISBATCH_TASKID_ZP $DISBATCH_STREAM_INDEX $DISBATCH_REPEAT_INDEX $DISBATCH_NAMETASKS\n#DISBATCH REPEAT 3 start 100 step 50 echo {index} $DISBATCH_TASKID $DISBATCH_STREAM_INDEX_ZP $DISBATCH_REPEAT_INDEX\n#DISBATCH PREFIX echo $DISBATCH_REPEAT_INDEX\n#DISBATCH REPEAT 2\n\n#DISBATCH PREFIX\necho $DISBATCH_TASKID $DISBATCH_STREAM_INDEX\n";
        let (tasks, warnings) = import(text);
        assert_eq!(output(&tasks[0], 0), "000000 1 -1 lines\n");
        let repeat: toml::Value = toml::Value::try_from(toml::Table::from_iter([(
            "command".to_string(),
            tasks[1]["command"].as_str().unwrap().replace("{{index}}", "i").into(),
        )]))
        .unwrap();
        assert_eq!(output(&repeat, 2), "i 3 000002 200\n");
        assert_eq!(output(&tasks[2], 1), "1\n");
        assert_eq!(output(&tasks[3], 0), "6 7\n");
        assert_eq!(tasks[1]["array"].as_str(), Some("0-2"));
        assert!(warnings.is_empty(), "{warnings:?}");
    }

    #[test]
    fn what_has_no_counterpart_is_named_with_its_line() {
        let text = "#!/usr/bin/env python3\n#SBATCH -n 5\n#DISBATCH PERENGINE START s\n#DISBATCH PERENGINE STOP t $DISBATCH_WHAT\n# TODO\n#disbatch PREFIX x\n#DISBATCH FOO\na\n#DISBATCH BARRIER key\n#c\n";
        let (tasks, warnings) = import(text);
        let lines: Vec<&str> = warnings.iter().map(|warning| warning.split(':').next().unwrap()).collect();
        assert_eq!(lines, ["line 1", "line 2", "line 3", "line 4", "line 6", "line 7", "line 9", "line 4"]);
        assert_eq!(tasks[1]["needs"].to_string(), r#"["start"]"#);
        assert_eq!(tasks[2]["needs"].to_string(), r#"["afterany:start", "afterany:line"]"#);
        assert!(import("#!/bin/bash\na\n").1.is_empty());
    }

    #[test]
    fn lines_run_in_bash_where_there_is_one() {
        let shell = |bash: bool| {
            let options = Options { bash, ..Options::default() };
            let table: toml::Table = toml::from_str(&lines("a &> b\n", &options).unwrap().toml).unwrap();
            table["job"].get("shell").map(|shell| shell.to_string())
        };
        assert_eq!((shell(true), shell(false)), (Some("\"bash\"".into()), None));
    }

    #[test]
    fn mistakes_name_their_line() {
        for (text, line) in [
            ("a\n#DISBATCH PERENGINE START b\n", 2),
            ("#DISBATCH PERENGINE SOMETIMES b\n", 1),
            ("\n#DISBATCH REPEAT many\n", 2),
            ("#DISBATCH REPEAT 18446744073709551615 step 2 x\n", 1),
            ("# c\n", 1),
            ("a\nb\0\n", 2),
        ] {
            assert_eq!(lines(text, &Options::default()).err().map(|error| error.line), Some(line), "{text:?}");
        }
    }
}
