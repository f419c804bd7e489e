//! Imports DAG files of Pegasus-MPI-Cluster: `TASK id [options] executable args` and `EDGE parent
//! child`.

use rustc_hash::FxHashMap;

use super::write::{JobFileWriter, TaskNames, protect};
use super::{ImportError, Imported, Options, plain_text};

/// Descriptors for pipes: 0 to 2 are the standard streams, and shells redirect one-digit
/// descriptors only.
const PIPES: std::ops::RangeInclusive<usize> = 3..=9;

/// Separators of the words of a line.
const BLANKS: [char; 3] = [' ', '\t', '\r'];

/// Maximum length of a number in bytes.
const MAX_NUMBER_BYTES: usize = 64;

#[derive(Default)]
struct DagTask {
    name: String,
    class: Option<String>,
    memory: Option<u64>,
    cpus: Option<u64>,
    tries: Option<u64>,
    priority: Option<i32>,
    command: Vec<String>,
    parents: Vec<usize>,
    /// Variables that hold a descriptor number, with the file that it writes to.
    pipes: Vec<(String, String)>,
    /// Files of the task, with the files to which they are appended after success.
    files: Vec<(String, String)>,
}

/// Imports a DAG file of Pegasus-MPI-Cluster.
///
/// # Errors
/// If a line cannot be read.
pub fn dag(text: &str, options: &Options) -> Result<Imported, ImportError> {
    let text = plain_text(text)?;
    let mut reader = DagReader::default();
    for (at, line) in text.lines().enumerate() {
        reader.line(at + 1, line.trim_matches(BLANKS))?;
    }
    if reader.tasks.is_empty() {
        return Err(ImportError::new(1, "there is no TASK"));
    }
    let name = options.job_name(None, "dag");
    let mut document = JobFileWriter::new("Imported from a DAG file of Pegasus-MPI-Cluster.", name);
    for task in &reader.tasks {
        reader.write(task, &mut document);
    }
    Ok(Imported { toml: document.finish(), warnings: reader.warnings })
}

#[derive(Default)]
struct DagReader {
    tasks: Vec<DagTask>,
    numbers: FxHashMap<String, usize>,
    names: TaskNames,
    class: Option<String>,
    warnings: Vec<String>,
}

impl DagReader {
    fn line(&mut self, at: usize, line: &str) -> Result<(), ImportError> {
        let read = match line {
            "" => Ok(()),
            _ if line.starts_with("TASK") => self.task(at, line),
            _ if line.starts_with("EDGE") => self.edge(at, line),
            _ if line.starts_with("#@") => {
                self.class = line.split_whitespace().nth(2).map(String::from);
                Ok(())
            }
            _ if line.starts_with('#') => Ok(()),
            _ if line.starts_with("DONE") => Err("this is a rescue file; import the DAG file itself".into()),
            _ => Err(format!("`{}` is neither TASK nor EDGE", line.split_whitespace().next().unwrap_or(line))),
        };
        read.map_err(|reason| ImportError::new(at, reason))
    }

    fn task(&mut self, at: usize, line: &str) -> Result<(), String> {
        let (_, rest) = first_word(line);
        // The id is taken literally; quotes apply to the rest of the line only.
        let (id, arguments) = first_word(rest);
        if id.is_empty() {
            return Err("TASK has no id".into());
        }
        let mut words = split_arguments(arguments).into_iter().peekable();
        let mut task = DagTask { name: self.names.unique(id), class: self.class.take(), ..DagTask::default() };
        while let Some(option) = words.next_if(|word| word.starts_with('-')) {
            let (option, value) = match option.split_once('=').filter(|_| option.starts_with("--")) {
                Some((option, value)) => (option.to_string(), Some(value.to_string())),
                None => (option, words.next()),
            };
            let value = value.ok_or_else(|| format!("{option} has no value"))?;
            self.option(at, &option, &value, &mut task)?;
        }
        task.command = words.collect();
        if task.command.is_empty() {
            return Err(format!("TASK {id} has no executable"));
        }
        if self.numbers.insert(id.to_string(), self.tasks.len()).is_some() {
            return Err(format!("TASK {id} is declared twice"));
        }
        self.tasks.push(task);
        Ok(())
    }

    fn option(&mut self, at: usize, option: &str, value: &str, task: &mut DagTask) -> Result<(), String> {
        let number = || match leading_number(value) {
            Some(number) if (0.0..=4e9).contains(&number) => Ok(number.ceil() as u64),
            _ => Err(format!("{option} {value}: a number of at least 0 is expected")),
        };
        let pair = |form: &str| match value.split_once('=') {
            Some((left, right)) if !left.is_empty() && !right.is_empty() => Ok((left.to_string(), right.to_string())),
            _ => Err(format!("{option} {value}: {form} is expected")),
        };
        match option {
            // Zero means no request, like an absent option.
            "-m" | "--request-memory" => task.memory = Some(number()?).filter(|m| *m > 0),
            "-c" | "--request-cpus" => {
                let cpus = number()?.min(65536);
                if cpus == 0 {
                    self.warnings.push(format!("line {at}: {option} {value}: the task takes one CPU here"));
                }
                task.cpus = Some(cpus).filter(|c| *c > 1);
            }
            "-t" | "--tries" => {
                number()?;
                let tries = leading_number(value).unwrap_or(1.0).floor().min(65536.0) as u64;
                task.tries = Some(tries).filter(|tries| *tries > 1);
            }
            "-p" | "--priority" => {
                let priority = leading_number(value).filter(|number| number.abs() <= f64::from(i32::MAX));
                let bad = || format!("{option} {value}: a whole number is expected");
                task.priority = Some(priority.ok_or_else(bad)? as i32);
            }
            "-f" | "--pipe-forward" => {
                let (variable, file) = pair("VARIABLE=FILE")?;
                if !crate::job::scalar::is_identifier(&variable) {
                    return Err(format!("{option} {value}: {variable} cannot be the name of a variable"));
                }
                if task.pipes.len() == PIPES.count() {
                    return Err(format!("a task can have at most {} pipes", PIPES.count()));
                }
                task.pipes.push((variable, file));
                self.warnings.push(format!(
                    "line {at}: {option} {value}: the task itself writes to the end of the file, also if it fails later"
                ));
            }
            "-F" | "--file-forward" => {
                task.files.push(pair("SOURCE=TARGET")?);
                self.warnings.push(format!(
                    "line {at}: {option} {value}: the task itself adds the file to the other at its end, so both must be on its node; on a network file system two tasks that do so at once may mix their bytes"
                ));
            }
            _ => return Err(format!("unknown option {option}; -m, -c, -t, -p, -f and -F are known")),
        }
        Ok(())
    }

    fn edge(&mut self, at: usize, line: &str) -> Result<(), String> {
        let mut words = line.split_whitespace().skip(1);
        let (Some(parent), Some(child), None) = (words.next(), words.next(), words.next()) else {
            return Err("EDGE needs a parent and a child".into());
        };
        let find = |id: &str| {
            let known = self.numbers.get(id).copied();
            known.ok_or_else(|| format!("no TASK {id} is declared before this line"))
        };
        let (parent, child) = (find(parent)?, find(child)?);
        if parent == child {
            return Err("this EDGE leads from a task to itself".into());
        }
        let parents = &mut self.tasks[child].parents;
        if parents.contains(&parent) {
            self.warnings.push(format!("line {at}: this EDGE was there before"));
        } else {
            parents.push(parent);
        }
        Ok(())
    }

    fn write(&self, task: &DagTask, document: &mut JobFileWriter) {
        document.task(&task.name);
        document.optional("class", task.class.as_deref());
        document.list("command", task.words().iter().map(|word| protect(word, &["name"])));
        document.list("needs", task.parents.iter().map(|parent| self.tasks[*parent].name.as_str()));
        document.optional("memory", task.memory.map(|memory| format!("{memory}M")));
        document.optional("cpus", task.cpus.map(|cpus| cpus as i64));
        document.optional("retries", task.tries.map(|tries| tries as i64 - 1));
        document.optional("priority", task.priority);
    }
}

impl DagTask {
    /// The command, within a shell that forwards data if the task requires it.
    fn words(&self) -> Vec<String> {
        if self.pipes.is_empty() && self.files.is_empty() {
            return self.command.clone();
        }
        // File names are arguments of the script, so that none of their characters is special.
        let (mut script, mut arguments) = (String::new(), Vec::new());
        let mut argument = |text: &String| {
            arguments.push(text.clone());
            format!("${{{}}}", arguments.len())
        };
        for ((variable, file), descriptor) in self.pipes.iter().zip(PIPES) {
            let file = argument(file);
            script.push_str(&format!("export {variable}={descriptor}; exec {descriptor}>>\"{file}\" || exit; "));
        }
        let mut after = String::new();
        for (source, target) in &self.files {
            let (source, target) = (argument(source), argument(target));
            // A file that the task did not write is not appended.
            after.push_str(&format!(
                "; [ ! -e \"{source}\" ] || {{ cat -- \"{source}\" >> \"{target}\" && rm -- \"{source}\"; }} || exit"
            ));
        }
        // The command runs in a function, whose arguments are those after the file names.
        let count = arguments.len();
        script.push_str(&format!("run() {{ shift {count}; \"$@\"; }}; run \"$@\" || exit{after}"));
        let shell = ["/bin/sh", "-c", &script, "sh"].map(String::from);
        shell.into_iter().chain(arguments).chain(self.command.iter().cloned()).collect()
    }
}

/// The first word, and the text after the blanks that follow it.
fn first_word(text: &str) -> (&str, &str) {
    let (word, rest) = text.split_once(BLANKS).unwrap_or((text, ""));
    (word, rest.trim_start_matches(BLANKS))
}

/// The number at the start of a text, as `scanf` reads it.
fn leading_number(text: &str) -> Option<f64> {
    let text = text.trim_start();
    let end = (0..=text.len().min(MAX_NUMBER_BYTES))
        .rev()
        .find(|end| text.get(..*end).is_some_and(|part| part.parse::<f64>().is_ok()))?;
    text[..end].parse().ok().filter(|number: &f64| number.is_finite())
}

/// Splits arguments as Pegasus-MPI-Cluster does: a backslash escapes the next character, also
/// inside quotes; either kind of quote ends a quoted part, which is an argument of its own; an
/// unterminated quote extends to the end.
fn split_arguments(text: &str) -> Vec<String> {
    let (mut words, mut word, mut quoted) = (Vec::new(), String::new(), false);
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match c {
            '"' | '\'' => {
                if quoted {
                    words.push(std::mem::take(&mut word));
                }
                quoted = !quoted;
            }
            '\\' => word.push(chars.next().unwrap_or('\\')),
            c if is_space(c) && !quoted => {
                if !word.is_empty() {
                    words.push(std::mem::take(&mut word));
                }
            }
            c => word.push(c),
        }
    }
    if !word.is_empty() {
        words.push(word);
    }
    words
}

/// White space as in the C library.
fn is_space(c: char) -> bool {
    matches!(c, ' ' | '\t'..='\r')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_task_with_everything() {
        let text = "# c\n#@ 1 mProject ID7\nTASK a -m 512 --request-cpus=2 -t 3 -p -5 /bin/sh -c 'a < b' \"x y\"\nTASK b/2 true\nEDGE a b/2\n";
        let imported = dag(text, &Options::default()).unwrap();
        for part in [
            "class = \"mProject\"",
            "command = [\"/bin/sh\", \"-c\", \"a < b\", \"x y\"]",
            "memory = \"512M\"",
            "cpus = 2",
            "retries = 2",
            "priority = -5",
            "name = \"b-2\"",
            "needs = [\"a\"]",
        ] {
            assert!(imported.toml.contains(part), "{part} in\n{}", imported.toml);
        }
    }

    #[test]
    fn arguments_are_split_as_by_the_tool() {
        for (text, expected) in [
            (r"foo   bar", &["foo", "bar"][..]),
            (r#""first one" 'second one'"#, &["first one", "second one"]),
            (r"'it\'s' ok", &["it's", "ok"]),
            (r"'a\\b' c\ d", &["a\\b", "c d"]),
            (r"end\", &["end\\"]),
            (r#""open to the end"#, &["open to the end"]),
            (r#"a"b c"d '' e"#, &["ab c", "d", "", "e"]),
            (r#""it's""#, &["it", "s"]),
            ("a\u{b}b\u{a0}c", &["a", "b\u{a0}c"]),
        ] {
            assert_eq!(split_arguments(text), expected, "{text}");
        }
    }

    #[test]
    fn numbers_are_read_as_far_as_they_go() {
        let text = "TASK a -m 1.2GB -c 1.5x -t 3x -p 7up --tries 4 \"-m\" 0 true\nTASKS 'b c\n";
        let imported = dag(text, &Options::default()).unwrap();
        for part in ["cpus = 2", "retries = 3", "priority = 7", "name = \"b\"", "command = [\"c\"]"] {
            assert!(imported.toml.contains(part), "{part} in\n{}", imported.toml);
        }
        assert!(!imported.toml.contains("memory"));
    }

    #[test]
    fn forwarded_data_gets_where_it_should() {
        let dir = tempfile::tempdir().unwrap();
        let run = |options: &str, command: &str| {
            let text = format!("TASK a {options} /bin/sh -c \"{command}\"\n");
            let imported = dag(&text, &Options::default()).unwrap();
            let table: toml::Table = toml::from_str(&imported.toml).unwrap();
            let words = table["task"][0]["command"].as_array().unwrap().clone();
            let words: Vec<&str> = words.iter().map(|word| word.as_str().unwrap()).collect();
            std::process::Command::new(words[0]).args(&words[1..]).current_dir(&dir).status().unwrap().code()
        };
        let read = |name: &str| std::fs::read_to_string(dir.path().join(name)).ok();
        let both = r"-f A=piped -F it\'s\ $x=sum -F none=sum";
        assert_eq!(run(both, r"echo p >&$A; echo f > it\\\'s\\ \\$x"), Some(0));
        assert_eq!(run(both, r"echo q >&$A; echo g > it\\\'s\\ \\$x"), Some(0));
        assert_eq!((read("piped"), read("sum")), (Some("p\nq\n".into()), Some("f\ng\n".into())));
        assert_eq!(read("it's $x"), None);
        assert_eq!(run("-F kept=sum", "echo h > kept; exit 3"), Some(3));
        assert_eq!((read("kept"), read("sum")), (Some("h\n".into()), Some("f\ng\n".into())));
        assert_ne!(run("-F .=sum", "true"), Some(0));
        assert_ne!(run("-f A=no/such/place", "true"), Some(0));
    }

    #[test]
    fn mistakes_name_their_line() {
        for (text, line) in [
            ("TASK a true\nEDGE a b\n", 2),
            ("TASK a true\nTASK a true\n", 2),
            ("TASK a -F x true\n", 1),
            ("TASK a -f 1=x true\n", 1),
            ("TASK a -m x true\n", 1),
            ("TASK a -c -1 true\n", 1),
            ("TASK a -p x true\n", 1),
            ("TASK a -x 1 true\n", 1),
            ("TASK a\n", 1),
            ("TASK a -m\n", 1),
            ("DONE a\n", 1),
            ("\n\nJOB a\n", 3),
            ("", 1),
        ] {
            assert_eq!(dag(text, &Options::default()).unwrap_err().line, line, "{text:?}");
        }
    }
}
