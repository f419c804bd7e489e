//! DAG files of Pegasus-MPI-Cluster: `TASK id [options] executable args` and `EDGE parent child`.

use rustc_hash::FxHashMap;

use super::write::{Document, Names, protect, quote, strings};
use super::{ImportError, Imported, Options, check_text};

#[derive(Default)]
struct Task {
    name: String,
    class: Option<String>,
    memory: Option<u64>,
    cpus: Option<u64>,
    tries: Option<u64>,
    priority: Option<i32>,
    command: Vec<String>,
    parents: Vec<usize>,
}

/// Imports a DAG file of Pegasus-MPI-Cluster.
///
/// # Errors
/// If a line cannot be read, or asks for data forwarding, which Phalanx does not do.
pub fn dag(text: &str, options: &Options) -> Result<Imported, ImportError> {
    check_text(text)?;
    let mut reader = Reader::default();
    for (at, line) in text.lines().enumerate() {
        reader.line(at + 1, line.trim())?;
    }
    if reader.tasks.is_empty() {
        return Err(ImportError::new(1, "there is no TASK"));
    }
    let name = options.name.as_deref().unwrap_or("dag");
    let mut document = Document::new("Imported from a DAG file of Pegasus-MPI-Cluster.", name);
    for task in &reader.tasks {
        reader.write(task, &mut document);
    }
    Ok(Imported { toml: document.finish(), warnings: reader.warnings })
}

#[derive(Default)]
struct Reader {
    tasks: Vec<Task>,
    numbers: FxHashMap<String, usize>,
    names: Names,
    class: Option<String>,
    warnings: Vec<String>,
}

impl Reader {
    fn line(&mut self, at: usize, line: &str) -> Result<(), ImportError> {
        let keyword = line.split_whitespace().next().unwrap_or("");
        match keyword {
            "" => Ok(()),
            "#@" => {
                self.class = line.split_whitespace().nth(2).map(String::from);
                Ok(())
            }
            comment if comment.starts_with('#') => Ok(()),
            "TASK" => self.task(at, line),
            "EDGE" => self.edge(at, line),
            "DONE" => Err(ImportError::new(at, "this is a rescue file; import the DAG file itself")),
            other => Err(ImportError::new(at, format!("`{other}` is neither TASK nor EDGE"))),
        }
    }

    fn task(&mut self, at: usize, line: &str) -> Result<(), ImportError> {
        let words = split_words(line).map_err(|reason| ImportError::new(at, reason))?;
        let mut words = words.into_iter().skip(1).peekable();
        let id = words.next().ok_or_else(|| ImportError::new(at, "TASK has no id"))?;
        let mut task = Task { name: self.names.unique(&id), class: self.class.take(), ..Task::default() };
        while let Some(option) = words.next_if(|word| word.starts_with('-')) {
            let (option, value) = match option.split_once('=').filter(|_| option.starts_with("--")) {
                Some((option, value)) => (option.to_string(), Some(value.to_string())),
                None => (option, words.next()),
            };
            let value = value.ok_or_else(|| ImportError::new(at, format!("{option} has no value")))?;
            self.option(at, &option, &value, &mut task)?;
        }
        task.command = words.collect();
        if task.command.is_empty() {
            return Err(ImportError::new(at, format!("TASK {id} has no executable")));
        }
        if self.numbers.insert(id.clone(), self.tasks.len()).is_some() {
            return Err(ImportError::new(at, format!("TASK {id} is declared twice")));
        }
        self.tasks.push(task);
        Ok(())
    }

    fn option(&mut self, at: usize, option: &str, value: &str, task: &mut Task) -> Result<(), ImportError> {
        let number = |least: f64| match value.parse::<f64>() {
            Ok(number) if (least..=4e9).contains(&number) => Ok(number.ceil() as u64),
            _ => Err(ImportError::new(at, format!("{option} {value}: a number of at least {least} is expected"))),
        };
        match option {
            // Zero is "nothing asked for", as where the option is absent.
            "-m" | "--request-memory" => task.memory = Some(number(0.0)?).filter(|m| *m > 0),
            "-c" | "--request-cpus" => task.cpus = Some(number(0.0)?.min(65536)).filter(|c| *c > 1),
            "-t" | "--tries" => task.tries = Some(number(0.0)?.min(65536)).filter(|t| *t > 1),
            "-p" | "--priority" => {
                let bad = |_| ImportError::new(at, format!("{option} {value}: a whole number is expected"));
                task.priority = Some(value.parse().map_err(bad)?);
            }
            "-f" | "--pipe-forward" | "-F" | "--file-forward" => {
                return Err(ImportError::new(
                    at,
                    format!(
                        "{option} forwards data through the master, which is not supported; let a task that needs this one collect the files"
                    ),
                ));
            }
            _ => return Err(ImportError::new(at, format!("unknown option {option}"))),
        }
        Ok(())
    }

    fn edge(&mut self, at: usize, line: &str) -> Result<(), ImportError> {
        let mut words = line.split_whitespace().skip(1);
        let (Some(parent), Some(child), None) = (words.next(), words.next(), words.next()) else {
            return Err(ImportError::new(at, "EDGE needs a parent and a child"));
        };
        let find = |id: &str| {
            self.numbers
                .get(id)
                .copied()
                .ok_or_else(|| ImportError::new(at, format!("no TASK {id} is declared before this line")))
        };
        let (parent, child) = (find(parent)?, find(child)?);
        if parent == child {
            return Err(ImportError::new(at, "this EDGE leads from a task to itself"));
        }
        let parents = &mut self.tasks[child].parents;
        if parents.contains(&parent) {
            self.warnings.push(format!("line {at}: this EDGE was there before"));
        } else {
            parents.push(parent);
        }
        Ok(())
    }

    fn write(&self, task: &Task, document: &mut Document) {
        document.task(&task.name);
        if let Some(class) = &task.class {
            document.field("class", quote(class));
        }
        let words: Vec<String> = task.command.iter().map(|word| protect(word, &["name"])).collect();
        document.field("command", strings(&words));
        if !task.parents.is_empty() {
            let needs: Vec<&str> = task.parents.iter().map(|parent| self.tasks[*parent].name.as_str()).collect();
            document.field("needs", strings(&needs));
        }
        if let Some(memory) = task.memory {
            document.field("memory", quote(&format!("{memory}M")));
        }
        let numbers = [("cpus", task.cpus), ("retries", task.tries.map(|tries| tries - 1))];
        for (key, number) in numbers {
            if let Some(number) = number {
                document.field(key, number.to_string());
            }
        }
        if let Some(priority) = task.priority {
            document.field("priority", priority.to_string());
        }
    }
}

/// Splits a line at white space, honouring both kinds of quotes and backslashes as Pegasus-MPI-Cluster does.
fn split_words(line: &str) -> Result<Vec<String>, String> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut quote: Option<char> = None;
    let mut chars = line.chars();
    while let Some(c) = chars.next() {
        match (quote, c) {
            (Some(open), c) if c == open => quote = None,
            (None, '"' | '\'') => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            (None | Some('"'), '\\') => {
                let next = chars.next().ok_or("there is nothing after the last backslash")?;
                word.get_or_insert_default().push(next);
            }
            (None, c) if c.is_whitespace() => words.extend(word.take()),
            (_, c) => word.get_or_insert_default().push(c),
        }
    }
    match quote {
        Some(open) => Err(format!("the quote {open} is not closed")),
        None => {
            words.extend(word);
            Ok(words)
        }
    }
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
    fn mistakes_name_their_line() {
        for (text, line) in [
            ("TASK a true\nEDGE a b\n", 2),
            ("TASK a true\nTASK a true\n", 2),
            ("TASK a -F x=y true\n", 1),
            ("TASK a 'x\n", 1),
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
