//! Imports batch scripts of Slurm: a script with `#SBATCH --array` becomes an array whose command
//! is the body of the script, one without it a single task.

use toml::Table;

use super::write::{JobFileWriter, TaskNames, protect};
use super::{ImportError, Imported, Options, plain_text};
use crate::job::units::{IndexSet, parse_array, parse_duration, parse_memory};

/// Short options of `sbatch`, with their long names.
const SHORT: [(char, &str); 17] = [
    ('a', "array"),
    ('A', "account"),
    ('c', "cpus-per-task"),
    ('C', "constraint"),
    ('d', "dependency"),
    ('D', "chdir"),
    ('e', "error"),
    ('G', "gpus"),
    ('i', "input"),
    ('J', "job-name"),
    ('n', "ntasks"),
    ('N', "nodes"),
    ('o', "output"),
    ('p', "partition"),
    ('q', "qos"),
    ('t', "time"),
    ('w', "nodelist"),
];

/// Options that are switches.
const SWITCHES: [&str; 6] = ["exclusive", "requeue", "no-requeue", "parsable", "wait", "contiguous"];

/// Options that concern the whole run: they are given to `phalanx submit`.
const OF_THE_RUN: [&str; 13] = [
    "account",
    "partition",
    "qos",
    "mail-type",
    "mail-user",
    "nodelist",
    "exclude",
    "reservation",
    "begin",
    "comment",
    "exclusive",
    "clusters",
    "licenses",
];

/// Variables that each task has under the same name.
const KNOWN: [&str; 6] = [
    "SLURM_ARRAY_TASK_ID",
    "SLURM_ARRAY_TASK_COUNT",
    "SLURM_ARRAY_TASK_MIN",
    "SLURM_ARRAY_TASK_MAX",
    "SLURM_CPUS_PER_TASK",
    "SLURM_JOB_NAME",
];

/// Imports a batch script of Slurm.
///
/// # Errors
/// If the text is no such script, or asks for something that would give other results here.
pub fn slurm(text: &str, options: &Options) -> Result<Imported, ImportError> {
    let text = plain_text(text)?;
    let mut script = Script::default();
    let shell = script.read(&text)?;
    let toml = script.write(shell, options)?;
    Ok(Imported { toml, warnings: script.warnings })
}

/// An option of a script, with its line.
struct BatchOption {
    line: usize,
    name: String,
    value: String,
}

#[derive(Default)]
struct Script {
    options: Vec<BatchOption>,
    body: String,
    warnings: Vec<String>,
}

impl Script {
    /// Reads options and body; returns the words of the shell.
    fn read(&mut self, text: &str) -> Result<Vec<String>, ImportError> {
        let first = text.lines().next().unwrap_or_default();
        let Some(shebang) = first.strip_prefix("#!") else {
            return Err(ImportError::new(1, "a batch script begins with its shell, such as `#!/bin/bash`"));
        };
        // As `sbatch` reads it: options end at the first line that is no comment.
        let mut has_begun = false;
        for (number, line) in (2..).zip(text.lines().skip(1)) {
            let option = line.strip_prefix("#SBATCH").filter(|rest| rest.starts_with(char::is_whitespace));
            match option {
                Some(_) if has_begun => {
                    self.warn(number, "this #SBATCH stands behind a command, where Slurm ignores it; it is left out");
                }
                Some(words) => self.read_options(number, words)?,
                None => {
                    let rest = line.trim_start();
                    has_begun |= !rest.is_empty() && !rest.starts_with('#');
                    if has_begun {
                        self.note_line(number, rest);
                    }
                    self.body.extend([line, "\n"]);
                }
            }
        }
        if !has_begun {
            return Err(ImportError::new(1, "the script has no command"));
        }
        self.body = self.body.trim_matches('\n').to_owned() + "\n";
        shell_of(shebang)
    }

    fn read_options(&mut self, line: usize, text: &str) -> Result<(), ImportError> {
        let mut words = words_of(text).into_iter().peekable();
        while let Some(word) = words.next() {
            let (name, value) = if let Some(long) = word.strip_prefix("--") {
                match long.split_once('=') {
                    Some((name, value)) => (name.to_owned(), Some(value.to_owned())),
                    None => (long.to_owned(), None),
                }
            } else if let Some((short, rest)) = word.strip_prefix('-').and_then(split_first) {
                let known = SHORT.iter().find(|(letter, _)| *letter == short);
                let name = known.map_or_else(|| short.to_string(), |(_, long)| (*long).to_owned());
                (name, Some(rest.to_owned()).filter(|rest| !rest.is_empty()))
            } else if word == "hetjob" || word == "packjob" {
                return Err(ImportError::new(
                    line,
                    "a job of several components has no counterpart: import each alone",
                ));
            } else {
                return Err(ImportError::new(line, format!("`{word}` is no option of sbatch")));
            };
            let takes_value = !SWITCHES.contains(&name.as_str());
            let value = value.or_else(|| words.next_if(|next| takes_value && !next.starts_with('-')));
            self.options.push(BatchOption { line, name, value: value.unwrap_or_default() });
        }
        Ok(())
    }

    /// Warns of what a line of the body names that is another thing here.
    fn note_line(&mut self, line: usize, text: &str) {
        if text.starts_with('#') {
            return;
        }
        let first = text.split_whitespace().next().unwrap_or_default();
        match first {
            "srun" => self.warn(
                line,
                "`srun` starts a step of the whole allocation: leave it out, or write `mpi = { ranks = 4 }` for an MPI \
                 program",
            ),
            "mpirun" | "mpiexec" => {
                self.warn(line, "leave the launcher out and write `mpi = { ranks = 4 }` to use several nodes or ranks");
            }
            "sbatch" => {
                self.warn(line, "`sbatch` submits a job of its own; a task in this file would belong to the run")
            }
            _ => {}
        }
        let is_part = |c: char| c.is_ascii_alphanumeric() || c == '_';
        let name_at = |at: usize| {
            let rest = &text[at..];
            &rest[..rest.find(|c| !is_part(c)).unwrap_or(rest.len())]
        };
        let mut named: Vec<&str> = text.match_indices("SLURM_").map(|(at, _)| name_at(at)).collect();
        named.dedup();
        for name in named.into_iter().filter(|name| !KNOWN.contains(name)) {
            let instead = match name {
                "SLURM_JOB_ID" | "SLURM_ARRAY_JOB_ID" | "SLURM_JOBID" => ": `$PHALANX_JOB_ID` is the run here",
                "SLURM_SUBMIT_DIR" if self.last("chdir").is_none() => continue,
                "SLURM_NTASKS" | "SLURM_JOB_CPUS_PER_NODE" => ": `$PHALANX_CPUS` is the value of `cpus`",
                _ => "",
            };
            self.warn(line, &format!("{name} is that of the allocation, not of the task{instead}"));
        }
    }

    fn warn(&mut self, line: usize, text: &str) {
        self.warnings.push(format!("line {line}: {text}"));
    }

    /// The last option of a name, as `sbatch` takes it.
    fn last(&self, name: &str) -> Option<(usize, String)> {
        let found = self.options.iter().rfind(|option| option.name == name);
        found.map(|option| (option.line, option.value.clone()))
    }

    fn number(&self, name: &str) -> Result<Option<(usize, u64)>, ImportError> {
        let Some((line, value)) = self.last(name) else { return Ok(None) };
        match value.parse() {
            Ok(number) if number > 0 => Ok(Some((line, number))),
            _ => Err(ImportError::new(line, format!("--{name}: `{value}` is no number above 0"))),
        }
    }

    fn write(&mut self, shell: Vec<String>, options: &Options) -> Result<String, ImportError> {
        let recorded = self.last("job-name").map(|(_, name)| name);
        let name = options.job_name(recorded.as_deref(), "slurm").to_owned();
        let mut document = JobFileWriter::new("Imported from a batch script of Slurm.", &name);
        if let Some((_, dir)) = self.last("chdir") {
            document.field("dir", dir);
        } else if self.body.contains("SLURM_SUBMIT_DIR") {
            document.list("prologue", ["export SLURM_SUBMIT_DIR=\"$PWD\""]);
        }
        // `%x` in names of files is the name of the job there, and that of the task here.
        document.task(&TaskNames::default().unique(&name));
        let array = self.array()?;
        if let Some((_, text)) = &array {
            document.field("array", text.as_str());
        }
        document.field("shell", shell);
        document.field("command", protect(&self.body, &["name", "index"]));
        let cpus = self.cpus()?;
        let env = self.env(array.as_ref().map(|(set, _)| set), cpus, recorded.as_deref());
        if !env.is_empty() {
            document.field("env", env);
        }
        document.field("cpus", cpus as i64);
        self.limits(cpus, &mut document)?;
        self.streams(array.is_some(), &mut document);
        self.note_others();
        Ok(document.finish())
    }

    fn array(&self) -> Result<Option<(IndexSet, String)>, ImportError> {
        let Some((line, text)) = self.last("array") else { return Ok(None) };
        match parse_array(&text) {
            Ok((set, _)) => Ok(Some((set, text))),
            Err(error) => Err(ImportError::new(line, error.to_string())),
        }
    }

    /// CPUs of a task: those of all processes that the script may start.
    fn cpus(&mut self) -> Result<u64, ImportError> {
        let each = self.number("cpus-per-task")?.map_or(1, |(_, number)| number);
        let nodes = self.last("nodes").filter(|(_, nodes)| nodes != "1" && nodes != "1-1");
        if let Some((line, _)) = nodes {
            self.warn(
                line,
                "a task stays on one node unless it is an MPI task (`mpi = { ranks = 64, per_node = 32 }`)",
            );
        }
        let tasks = self.number("ntasks")?.or(self.number("ntasks-per-node")?);
        let Some((line, tasks)) = tasks.filter(|(_, tasks)| *tasks > 1) else { return Ok(each) };
        let all = each.saturating_mul(tasks);
        let text =
            format!("{tasks} processes become `cpus = {all}`; of an MPI program write `mpi = {{ ranks = {tasks} }}`");
        self.warn(line, &text);
        Ok(all)
    }

    /// The variables of Slurm that the body names and that have the same value here.
    fn env(&self, array: Option<&IndexSet>, cpus: u64, name: Option<&str>) -> Table {
        let ends = array.map(|set| (set.nth(0).unwrap_or(0), set.nth(set.len().saturating_sub(1)).unwrap_or(0)));
        let value = |variable: &str| match variable {
            "SLURM_ARRAY_TASK_ID" => array.map(|_| "{index}".to_owned()),
            "SLURM_ARRAY_TASK_COUNT" => array.map(|set| set.len().to_string()),
            "SLURM_ARRAY_TASK_MIN" => ends.map(|(first, _)| first.to_string()),
            "SLURM_ARRAY_TASK_MAX" => ends.map(|(_, last)| last.to_string()),
            "SLURM_CPUS_PER_TASK" => Some(cpus.to_string()),
            _ => name.map(|name| protect(name, &["name", "index"])),
        };
        let named = KNOWN.iter().filter(|variable| self.body.contains(**variable) || **variable == KNOWN[0]);
        named.filter_map(|variable| Some(((*variable).to_owned(), value(variable)?.into()))).collect()
    }

    /// Time, memory, GPUs and labels.
    fn limits(&mut self, cpus: u64, document: &mut JobFileWriter) -> Result<(), ImportError> {
        if let Some((line, time)) = self.last("time")
            && !["0", "infinite", "unlimited"].contains(&time.to_lowercase().as_str())
        {
            parse_duration(&time).map_err(|error| ImportError::new(line, error.to_string()))?;
            document.field("time", time);
        }
        let per_cpu = self.last("mem-per-cpu");
        if let Some((line, memory)) = per_cpu.clone().or_else(|| self.last("mem")) {
            let bytes = match memory.as_str() {
                "0" => 0,
                text => parse_memory(text).map_err(|error| ImportError::new(line, error.to_string()))?,
            };
            match bytes.saturating_mul(if per_cpu.is_some() { cpus } else { 1 }).div_ceil(1 << 20) {
                0 => self.warn(line, "all memory of the node has no counterpart; `memory` is left out"),
                megabytes => document.field("memory", format!("{megabytes}M")),
            }
        }
        let gres =
            self.last("gres").map(|(line, text)| (line, text.strip_prefix("gpu").map(str::to_owned).ok_or(text)));
        let named = ["gpus-per-task", "gpus-per-node", "gpus"].iter().find_map(|name| self.last(name));
        match named.map(|(line, text)| (line, Ok(text))).or(gres) {
            // A number at the end, behind a type that may stand before it.
            Some((_, Ok(text))) => {
                document.field("gpus", text.rsplit(':').next().and_then(|number| number.parse().ok()).unwrap_or(1i64));
            }
            Some((line, Err(text))) => self.warn(line, &format!("--gres={text} is left out")),
            None => {}
        }
        if let Some((line, feature)) = self.last("constraint") {
            let is_one = !feature.is_empty() && feature.chars().all(|c| c.is_ascii_alphanumeric() || "_-.".contains(c));
            match is_one {
                true => document.list("labels", [feature]),
                false => self.warn(line, &format!("the constraint `{feature}` is left out: `labels` are single words")),
            }
        }
        Ok(())
    }

    fn streams(&mut self, is_array: bool, document: &mut JobFileWriter) {
        let (out, err) = (self.last("output"), self.last("error"));
        // Without a file of its own, standard error goes where standard output goes.
        for (key, file) in [("stdin", self.last("input")), ("stdout", out.clone()), ("stderr", err.or(out))] {
            let Some((line, name)) = file else { continue };
            match pattern(&name, is_array) {
                Some(name) => document.field(key, protect(&name, &["name", "index"])),
                None => {
                    let text = format!("`{name}` has a pattern that `{key}` does not have, and is left out");
                    self.warn(line, &text);
                }
            }
        }
    }

    /// Names the options that are left out.
    fn note_others(&mut self) {
        const USED: [&str; 19] = [
            "array",
            "chdir",
            "constraint",
            "cpus-per-task",
            "error",
            "gpus",
            "gpus-per-node",
            "gpus-per-task",
            "gres",
            "input",
            "job-name",
            "mem",
            "mem-per-cpu",
            "nodes",
            "ntasks",
            "ntasks-per-node",
            "output",
            "time",
            "parsable",
        ];
        let others = self.options.iter().filter(|option| !USED.contains(&option.name.as_str()));
        let warnings: Vec<String> = others
            .filter_map(|BatchOption { line, name, value }| {
                let text = match name.as_str() {
                    name if OF_THE_RUN.contains(&name) => {
                        "is left out: give it to `phalanx submit`, behind the job file".to_owned()
                    }
                    "dependency" => "is left out: `needs` orders tasks of a run".to_owned(),
                    "export" if value == "ALL" => return None,
                    "export" => "is left out: `env` sets variables of tasks".to_owned(),
                    "requeue" => {
                        "is left out: a task whose node is lost runs again, and `retries` is for failures".to_owned()
                    }
                    _ => "is left out".to_owned(),
                };
                Some(format!("line {line}: --{name} {text}"))
            })
            .collect();
        self.warnings.extend(warnings);
    }
}

/// The words of the shell in the first line of a script.
fn shell_of(shebang: &str) -> Result<Vec<String>, ImportError> {
    let words: Vec<&str> = shebang.split_whitespace().collect();
    let is_env = words.first().is_some_and(|word| word.ends_with("/env"));
    let words: Vec<&str> = words.into_iter().skip(usize::from(is_env)).filter(|word| *word != "-S").collect();
    let program = words.first().map_or("", |word| word.rsplit('/').next().unwrap_or(word));
    let takes_c =
        ["sh", "bash", "dash", "ksh", "zsh", "csh", "tcsh"].contains(&program) || program.starts_with("python");
    if !takes_c {
        return Err(ImportError::new(1, format!("`{program}` runs no line with -c; call the script from `command`")));
    }
    Ok(words.into_iter().map(str::to_owned).chain(["-c".to_owned()]).collect())
}

/// The words of a line of options: quotes keep spaces together, `#` begins a comment.
fn words_of(text: &str) -> Vec<String> {
    let (mut words, mut word, mut quote) = (Vec::new(), None::<String>, None);
    for c in text.chars() {
        match (quote, c) {
            (Some(open), _) if c == open => quote = None,
            (None, '"' | '\'') => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            (None, '#') if word.is_none() => break,
            (None, _) if c.is_whitespace() => words.extend(word.take()),
            _ => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    words
}

fn split_first(text: &str) -> Option<(char, &str)> {
    let first = text.chars().next()?;
    Some((first, &text[first.len_utf8()..]))
}

/// A file name of Slurm in the patterns that tasks have; `None` if it has another one.
fn pattern(name: &str, is_array: bool) -> Option<String> {
    let (mut text, mut rest, mut letters) = (String::new(), name, String::new());
    while let Some((before, after)) = rest.split_once('%') {
        text.push_str(before);
        let width = after.len() - after.trim_start_matches(|c: char| c.is_ascii_digit()).len();
        let (letter, tail) = split_first(&after[width..])?;
        let own = match letter {
            'A' | 'j' => "j",
            'a' if is_array => "a",
            'x' => "x",
            'N' => "N",
            '%' => "%",
            _ => return None,
        };
        text.extend(["%", &after[..width], own]);
        letters.push(letter);
        rest = tail;
    }
    text.push_str(rest);
    // In an array `%j` tells the elements apart in Slurm, and the run's name does not.
    let is_shared = is_array && letters.contains('j') && !letters.contains('a');
    Some(if is_shared { text.replacen("%j", "%j_%a", 1) } else { text })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exec::Kernels;
    use crate::job::{Work, parse};
    use crate::model::TaskId;

    const SCRIPT: &str = "#!/bin/bash -l\n#SBATCH --job-name=sweep   # the name\n#SBATCH -a 0-99:3%10\n#SBATCH --time=1-00:30\n\
        #SBATCH --mem 4G\n# a remark\n#SBATCH -c4 --output=logs/%x-%A_%4a.out\n#SBATCH -p long\n#SBATCH --gres=gpu:a100:2\n\
        #SBATCH --mail-type=END --export=ALL\n\nmodule load x\nsrun ./model {index} $SLURM_ARRAY_TASK_ID\n\
        #SBATCH --mem=9G\necho ${SLURM_CPUS_PER_TASK} $SLURM_JOB_ID \"${SLURM_TMPDIR:-/tmp}\"\n";

    fn import(text: &str) -> Result<Imported, ImportError> {
        slurm(text, &Options::default())
    }

    #[test]
    fn an_array_script_is_one_array_and_what_is_left_out_is_named() {
        let Imported { toml, warnings } = import(SCRIPT).unwrap();
        let job = parse(toml.as_str(), "j", std::path::Path::new("/d"), &Kernels::builtin())
            .unwrap_or_else(|found| panic!("{toml}\n{found}"))
            .job;
        let group = &job.groups[0];
        assert_eq!((&*job.name, group.count, group.limit, group.cpus, group.gpus), ("sweep", 34, Some(10), 4, 2));
        assert_eq!((group.memory, group.time.unwrap().as_secs()), (Some(4 << 30), 88_200));
        let task = job.task(TaskId(2)).unwrap();
        let env = |name: &str| task.env.iter().find(|(own, _)| own == name).map(|(_, value)| value.as_str());
        assert_eq!((env("SLURM_ARRAY_TASK_ID"), env("SLURM_CPUS_PER_TASK")), (Some("6"), Some("4")));
        assert_eq!(env("SLURM_ARRAY_TASK_MAX"), None, "the script does not name it");
        assert_eq!(task.shell.as_deref().unwrap(), ["/bin/bash", "-l", "-c"]);
        let Work::Shell(line) = &task.work else { panic!("{:?}", task.work) };
        assert!(line.contains("srun ./model {index} $SLURM_ARRAY_TASK_ID\n"), "{line}");
        assert_eq!((&task.stdout, &task.stderr), (&Some("logs/%x-%j_%4a.out".into()), &task.stdout));
        let said = warnings.join("\n");
        for expected in [
            "line 8: --partition is left out: give it to `phalanx submit`",
            "line 10: --mail-type",
            "line 13: `srun`",
            "line 14: this #SBATCH stands behind a command",
            "line 15: SLURM_JOB_ID",
            "line 15: SLURM_TMPDIR",
        ] {
            assert!(said.contains(expected), "{expected}\n{said}");
        }
        assert_eq!(warnings.len(), 6, "{said}");
    }

    #[test]
    fn single_scripts_and_processes_are_imported() {
        let text =
            "#!/usr/bin/env bash\n#SBATCH -n 8 -N 2 --mem-per-cpu=500 -C fast -t 90 -o %j.log -J a{name}\nmpirun ./x\n";
        let Imported { toml, warnings } = import(text).unwrap();
        let job = parse(toml.as_str(), "j", std::path::Path::new("/d"), &Kernels::builtin()).unwrap().job;
        let group = &job.groups[0];
        assert_eq!((group.count, group.indexed, group.cpus, group.memory), (1, false, 8, Some(4000 << 20)));
        assert_eq!((group.time.unwrap().as_secs(), group.labels[0].as_str()), (5400, "fast"));
        assert_eq!(warnings.len(), 3, "{warnings:?}");
    }

    #[test]
    fn the_directory_that_a_script_was_submitted_from_is_that_of_the_task() {
        let read = |head: &str| import(&format!("#!/bin/sh\n{head}cd $SLURM_SUBMIT_DIR\n./x\n")).unwrap();
        let Imported { toml, warnings } = read("");
        let job = parse(toml.as_str(), "j", std::path::Path::new("/d"), &Kernels::builtin()).unwrap().job;
        assert_eq!((&*job.prologue, warnings.len()), (&["export SLURM_SUBMIT_DIR=\"$PWD\"".to_owned()][..], 0));
        // Slurm does not change it by `--chdir`, so it is not known here.
        let Imported { toml, warnings } = read("#SBATCH -D other\n");
        assert!(!toml.contains("prologue") && warnings[0].contains("SLURM_SUBMIT_DIR"), "{toml}\n{warnings:?}");
    }

    #[test]
    fn what_cannot_be_meant_is_refused_with_its_line() {
        for (text, line, expected) in [
            ("echo x\n", 1, "begins with its shell"),
            ("#!/bin/bash\n#SBATCH -a 5-1\nx\n", 2, "5-1"),
            ("#!/bin/bash\n\n#SBATCH -c many\nx\n", 3, "no number"),
            ("#!/bin/bash\n#SBATCH hetjob\nx\n", 2, "components"),
            ("#!/bin/bash\n#SBATCH -n 2\n", 1, "no command"),
            ("#!/usr/bin/perl\nx\n", 1, "perl"),
            ("#!/bin/sh\n#SBATCH --mem=lots\nx\n", 2, "lots"),
        ] {
            let error = import(text).unwrap_err();
            assert_eq!(error.line, line, "{text}");
            assert!(error.reason.contains(expected), "{text}: {error}");
        }
    }

    #[test]
    fn patterns_name_the_same_files() {
        assert_eq!(pattern("o-%j", true).as_deref(), Some("o-%j_%a"));
        assert_eq!(pattern("o-%j", false).as_deref(), Some("o-%j"));
        assert_eq!(pattern("%x.%A.%3a.%%", true).as_deref(), Some("%x.%j.%3a.%%"));
        assert_eq!(pattern("%u.out", true), None);
        assert_eq!(pattern("%", true), None);
    }
}
