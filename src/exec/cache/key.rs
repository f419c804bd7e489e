//! The key of a task: all that its result follows from, as named components.
//!
//! The name and the index of a task are components only if it can see them. Commands see them in
//! `PHALANX_TASK_ID`, `PHALANX_TASK_NAME` and `PHALANX_ARRAY_INDEX`, but a task that uses the cache
//! gets each of these variables only if its command line, environment, prologue or a script that
//! the command names by path mentions it (see [`Visible`]). So two tasks that differ in name alone
//! share their result. In a family whose tasks all run the same, the index always counts.
//!
//! What limits a task without changing its result (memory, retries, priority) is no component. The
//! number of CPUs is, because it sets the number of threads. Nothing names a directory: a job that
//! was copied elsewhere finds the results of the original.

use std::path::{Path, PathBuf};

use crate::job::{CacheRules, Container, Group, Task, Work};
use crate::store::Components;

/// The variables that tell a task its name and its index.
pub(in crate::exec) const IDENTITY: [&str; 3] = ["PHALANX_TASK_ID", "PHALANX_TASK_NAME", "PHALANX_ARRAY_INDEX"];

/// Which of the variables of its identity a task sees.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::exec) struct Visible {
    pub(in crate::exec) id: bool,
    pub(in crate::exec) name: bool,
    pub(in crate::exec) index: bool,
}

impl Visible {
    /// All of them, as of a task that does not use the cache.
    pub(in crate::exec) const ALL: Visible = Visible { id: true, name: true, index: true };
}

/// Everything that a key is made of besides the task.
pub(super) struct KeyContext<'a> {
    pub(super) group: &'a Group,
    pub(super) rules: &'a CacheRules,
    /// Variables of the job.
    pub(super) env: &'a [(String, String)],
    pub(super) prologue: &'a [String],
    /// What stands behind each file that the task reads: `input NAME`, `program NAME` or `stdin`,
    /// and what tells the content from others.
    pub(super) contents: &'a [(String, String)],
    pub(super) visible: Visible,
}

/// The components of a task's key.
pub(super) fn components(task: &Task, context: &KeyContext<'_>) -> Components {
    let mut key = Components::default();
    let list = |words: &[String]| words.iter().map(|word| crate::text::shell_word(word)).collect::<Vec<_>>().join(" ");
    match &task.work {
        Work::Command(words) => key.add("command", list(words)),
        Work::Shell(line) => {
            key.add("command line", line.as_str());
            key.add("shell", task.shell.as_deref().map_or("sh -c".into(), list));
        }
        Work::Kernel { name, args } => {
            key.add("kernel", name.as_str());
            for (arg, value) in args {
                key.add(format!("argument {arg}"), value.to_string());
            }
            // Kernels change with the program.
            key.add("version of phalanx", env!("CARGO_PKG_VERSION"));
        }
    }
    if let Some(container) = &task.container {
        // A file is an input, whose content is one of the contents; a name stands for what it
        // names.
        if container.file().is_none() {
            key.add("image by name", container.image.as_str());
        }
        // A place inside that is the directory's own says nothing that the command does not.
        let own = container.binds.first().map_or(Path::new(""), |(job, _)| job);
        for (from, to) in container.binds.iter().filter(|(from, to)| from != to) {
            let from = from.strip_prefix(own).unwrap_or(from);
            key.add(format!("bound at {}", to.display()), from.display().to_string());
        }
        key.add(
            "directory inside",
            container.workdir.as_ref().map_or("the task's".into(), |d| d.display().to_string()),
        );
    }
    if !matches!(task.work, Work::Kernel { .. }) {
        if !context.prologue.is_empty() {
            key.add("prologue", context.prologue.join("\n"));
        }
        for (name, value) in variables(task, context) {
            key.add(format!("variable {name}"), value);
        }
    }
    for (name, content) in context.contents {
        key.add(name.as_str(), content.as_str());
    }
    for (file, _) in &task.outputs {
        let is_promised = task.promised.contains(file);
        key.add(format!("output {}", file.display()), if is_promised { "required" } else { "optional" });
    }
    for (name, file) in [("stdout", &task.stdout), ("stderr", &task.stderr)] {
        key.add(name, if file.is_some() { "a file" } else { "captured" });
    }
    let group = context.group;
    key.add("cpus", group.cpus.to_string());
    key.add("gpus", group.gpus.to_string());
    if let Some(mpi) = group.mpi {
        key.add("mpi ranks", mpi.ranks.to_string());
    }
    key.add("time limit", group.time.map_or("none".into(), |limit| format!("{limit:?}")));
    if !context.rules.salt.is_empty() {
        key.add("salt", context.rules.salt.as_str());
    }
    if context.visible.id {
        key.add("number of the task", task.id.0.to_string());
    }
    if context.visible.name {
        key.add("name", task.name.as_str());
    }
    if let Some(index) = task.index.filter(|_| context.visible.index) {
        key.add("index", index.to_string());
    }
    key
}

/// The declared variables by name: those of the task override those of the job.
fn variables<'a>(task: &'a Task, context: &KeyContext<'a>) -> std::collections::BTreeMap<&'a str, &'a str> {
    let all = context.env.iter().chain(&task.env).map(|(name, value)| (name.as_str(), value.as_str()));
    all.filter(|(name, _)| context.rules.ignore_env.iter().all(|ignored| ignored != name)).collect()
}

/// The texts of a task in which it may name the variables of its identity.
pub(super) fn texts<'a>(
    task: &'a Task,
    env: &'a [(String, String)],
    prologue: &'a [String],
) -> impl Iterator<Item = &'a str> {
    let work: Vec<&str> = match &task.work {
        Work::Command(words) => words.iter().map(String::as_str).collect(),
        Work::Shell(line) => vec![line.as_str()],
        Work::Kernel { .. } => Vec::new(),
    };
    let shell = task.shell.iter().flat_map(|words| words.iter().map(String::as_str));
    let values = env.iter().chain(&task.env).map(|(_, value)| value.as_str());
    work.into_iter().chain(shell).chain(values).chain(prologue.iter().map(String::as_str))
}

/// The files that a task reads as far as it says so, with the names of their components.
pub(super) fn files(task: &Task, programs: Vec<PathBuf>, stdin: Option<PathBuf>) -> Vec<(String, PathBuf)> {
    let image = task.container.as_ref().and_then(Container::file);
    let name = |file: &Path| if image == Some(file) { "image".into() } else { format!("input {}", file.display()) };
    let inputs = task.inputs.iter().map(|(file, _)| (name(file), task.dir.join(file)));
    // What is declared as an input is not listed again.
    let is_input = |file: &PathBuf| task.inputs.iter().any(|(other, _)| other == file);
    let programs = programs
        .into_iter()
        .filter(|file| !is_input(file))
        .map(|file| (format!("program {}", file.display()), task.dir.join(file)));
    inputs.chain(programs).chain(stdin.map(|file| ("stdin".to_owned(), file))).collect()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::job::{Job, MpiShape};
    use crate::model::TaskId;

    fn job(text: &str) -> Job {
        struct NoKernels;
        impl crate::job::KernelCheck for NoKernels {
            fn names(&self) -> Vec<&str> {
                vec!["k"]
            }
            fn check(&self, _: &str, _: &toml::Table) -> Result<(), String> {
                Ok(())
            }
        }
        crate::job::parse(text, "job.toml", std::path::Path::new("/work"), &NoKernels).unwrap().job
    }

    fn key_of(text: &str, change: impl FnOnce(&mut Task, &mut Group)) -> Components {
        let job = job(text);
        let (mut task, mut group) = (job.task(TaskId(0)).unwrap(), job.groups[0].clone());
        change(&mut task, &mut group);
        let rules = task.cache.clone().unwrap_or_default();
        let contents = [("input in".to_owned(), "file abc".to_owned())];
        let context = KeyContext {
            group: &group,
            rules: &rules,
            env: &job.env,
            prologue: &job.prologue,
            contents: &contents,
            visible: Visible::default(),
        };
        components(&task, &context)
    }

    const TASK: &str = r#"
        [job]
        env = { A = "1", B = "2" }
        [[task]]
        name = "t"
        command = "sort in > out"
        inputs = "in"
        outputs = "out"
        cache = true
    "#;

    fn changed(change: impl FnOnce(&mut Task, &mut Group)) -> Vec<String> {
        let (was, now) = (key_of(TASK, |_, _| {}), key_of(TASK, change));
        now.differences(&was).into_iter().map(|difference| difference.name).collect()
    }

    #[test]
    fn what_a_result_follows_from_is_in_the_key() {
        assert_eq!(changed(|task, _| task.work = Work::Shell("sort -r in > out".into())), ["command line"]);
        assert_eq!(changed(|task, _| task.env = vec![("A".into(), "3".into())]), ["variable A"]);
        assert_eq!(changed(|task, _| task.outputs[0].0 = "o".into()), ["output o", "output out"]);
        assert_eq!(changed(|task, _| task.promised.clear()), ["output out"]);
        assert_eq!(changed(|_, group| group.cpus = 2), ["cpus"]);
        assert_eq!(changed(|_, group| group.time = Some(Duration::from_secs(60))), ["time limit"]);
        assert_eq!(changed(|_, group| group.mpi = Some(MpiShape { ranks: 2, per_node: None })), ["mpi ranks"]);
        assert_eq!(changed(|task, _| task.stdout = Some("log".into())), ["stdout"]);
        assert_eq!(
            changed(|task, _| task.cache = Some(CacheRules { salt: "v2".into(), ..CacheRules::default() }.into())),
            ["salt"]
        );
    }

    #[test]
    fn what_it_does_not_follow_from_is_not() {
        assert!(
            changed(|task, group| {
                task.name = "other".into();
                task.dir = "/elsewhere".into();
                group.priority = 5;
                group.memory = Some(1 << 30);
            })
            .is_empty()
        );
        let ignoring = TASK.replace("cache = true", "cache = { ignore_env = [\"A\"] }");
        let (one, two) = (key_of(&ignoring, |_, _| {}), key_of(&ignoring.replace("A = \"1\"", "A = \"9\""), |_, _| {}));
        assert_eq!(one, two);
        assert_ne!(key_of(TASK, |_, _| {}).key(), one.key());
    }

    #[test]
    fn of_a_container_the_name_and_what_is_bound_elsewhere_are_in_the_key() {
        let contained = |image: &str, bind: &str| {
            let container = format!("container = {{ image = \"{image}\", bind = [\"{bind}\"] }}\n        cache = true");
            key_of(&TASK.replace("cache = true", &container), |_, _| {})
        };
        let differences = |now: Components, was: Components| {
            now.differences(&was).into_iter().map(|difference| difference.name).collect::<Vec<_>>()
        };
        let first = || contained("a:1", "data:/in");
        assert_eq!(differences(contained("a:2", "data:/in"), first()), ["image by name"]);
        assert_eq!(differences(contained("a:1", "data2:/in"), first()), ["bound at /in"]);
        assert!(differences(contained("a:1", "data"), contained("a:1", "/elsewhere")).is_empty());
        let bound = first().iter().find(|component| component.name == "bound at /in").map(|c| c.value.clone());
        assert_eq!(bound.as_deref(), Some("data"), "a copied job finds it");
    }

    #[test]
    fn a_kernel_has_its_arguments_and_the_version_in_its_key() {
        let text = "[[task]]\nname = \"t\"\nkernel = \"k\"\nargs = { n = 3 }\ncache = true\n";
        let names: Vec<String> = key_of(text, |_, _| {}).iter().map(|component| component.name.clone()).collect();
        assert_eq!(names[..3], ["kernel", "argument n", "version of phalanx"]);
        let other = key_of(&text.replace('3', "\"3\""), |_, _| {});
        assert_ne!(key_of(text, |_, _| {}).key(), other.key(), "types count");
    }
}
