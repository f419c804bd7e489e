//! Tasks that are added to a job while it runs.
//!
//! An *addition* is a text with `[[task]]` tables. It is checked like a job file, with the job's
//! directory, variables, pools and `[defaults]` (unless it has its own). Its tasks may need each
//! other and, by name or through files, those of the job; tasks of the job cannot come to need
//! them. Their numbers follow those of the job, so every rank and each later command that adds the
//! same texts in the same order builds the same job.
//!
//! Of several jobs an addition belongs to one, whose name stands in a comment behind its tables.
//!
//! The text of a job with additions has the texts one after the other, each behind a line with its
//! length and the task that made it.

use std::fmt::Write as _;
use std::sync::Arc;

use rustc_hash::FxHashMap;

use super::declared_files::DeclaredFiles;
use super::load::{AdditionTo, KernelCheck, Loaded, parse_addition};
use super::value_files::ValueFiles;
use super::{Diagnostic, Diagnostics, Job, JobPart};
use crate::graph::link::{Condition, GroupId, Link, LinkShape};
use crate::model::TaskId;

/// First line of the text of a job with additions.
const MARK: &str = "#:phalanx job with added tasks\n";

/// Precedes the length in bytes of a text and, as JSON, the name of the task that added it.
const PART: &str = "#:part ";

/// Precedes the name of the job, of several, that an addition belongs to, as a JSON string.
const OF_JOB: &str = "#:of job ";

/// Tasks that are added to a job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Addition {
    /// The task that added them; `None`: a user.
    pub by: Option<String>,
    /// Their tables.
    pub text: Arc<str>,
}

/// A job to which tasks are added.
pub struct GrowingJob {
    job: Job,
    names: FxHashMap<Arc<str>, GroupId>,
    files: DeclaredFiles,
}

impl GrowingJob {
    /// A job before the first addition.
    pub fn new(job: Job) -> GrowingJob {
        let names = job.groups.iter().zip(0..).map(|(group, id)| (Arc::clone(&group.name), id)).collect();
        GrowingJob { job, names, files: DeclaredFiles::default() }
    }

    /// The job with these links between its groups.
    pub fn into_job(self, links: Vec<Link>) -> Job {
        Job { links, ..self.job }
    }

    /// The job with all additions.
    pub fn job(&self) -> &Job {
        &self.job
    }

    /// Checks a new addition; `file` is its name in diagnostics. What it reads values from is on
    /// disk, and in its text from then on. The result is a job of its tasks alone, with the numbers
    /// that they get, and with links from the groups of this job, too. `has_ended` says which tasks
    /// of the job have ended.
    ///
    /// # Errors
    /// All mistakes in it.
    pub fn check(
        &self,
        text: Arc<str>,
        file: &str,
        kernels: &dyn KernelCheck,
        whose: Whose<'_>,
        has_ended: &dyn Fn(TaskId) -> bool,
    ) -> Result<Loaded, Diagnostics> {
        let part = match self.part_of(whose) {
            Ok(part) => part,
            Err(item) => return Err(Diagnostics::new(file, text, vec![item])),
        };
        let values = ValueFiles::on_disk();
        let to = AdditionTo { has_ended: Some(has_ended), ..self.addition_to(part) };
        let mut loaded = parse_addition(text, file, &to, kernels, &values)?;
        if let Some(part) = part {
            loaded.text = format!("{}\n{OF_JOB}{}\n", loaded.text, serde_json::Value::from(&*part.name)).into();
        }
        loaded.text = values.append_to(loaded.text);
        Ok(loaded)
    }

    /// Reads an addition that has been checked.
    ///
    /// # Errors
    /// As [`check`](GrowingJob::check), if it was added to another job.
    pub fn read(&self, text: Arc<str>, file: &str, kernels: &dyn KernelCheck) -> Result<Loaded, Diagnostics> {
        let values = ValueFiles::carried_by(&text);
        match part_in(&self.job, &text) {
            Ok(part) => parse_addition(text, file, &self.addition_to(part), kernels, &values),
            Err(item) => Err(Diagnostics::new(file, text, vec![item])),
        }
    }

    fn addition_to<'a>(&'a self, part: Option<&'a JobPart>) -> AdditionTo<'a> {
        AdditionTo {
            job: &self.job,
            part,
            first_task: TaskId(self.job.task_count() as u32),
            first_group: self.job.groups.len() as GroupId,
            names: Some(&self.names),
            files: Some(&self.files),
            has_ended: None,
        }
    }

    /// Which of several jobs a new addition belongs to; `None` for a single job.
    fn part_of(&self, whose: Whose<'_>) -> Result<Option<&JobPart>, Diagnostic> {
        let parts = &self.job.parts;
        match whose {
            Whose::Task(task) => Ok(self.job.part_of(self.job.group_of(task).0)),
            Whose::Job(name) if parts.is_empty() && *name == *self.job.name => Ok(None),
            Whose::Job(name) => part_called(&self.job, name).map(Some),
            Whose::User => Ok(parts.iter().find(|part| part.open).or(parts.first())),
        }
    }

    /// Adds what [`GrowingJob::read`] has read; each of its tasks needs the task that added them.
    /// Returns the links to the new groups.
    pub fn add(&mut self, by: Option<TaskId>, mut added: Job) -> Vec<Link> {
        let mut links = std::mem::take(&mut added.links);
        let first = self.job.groups.len() as GroupId;
        if let Some((from, element)) = by.map(|by| self.job.group_of(by)) {
            let alone = self.job.groups[from as usize].count == 1;
            let shape = || if alone { LinkShape::All } else { LinkShape::One(element) };
            let link = |to| Link { from, to, shape: shape(), on: Condition::Ok, bytes: 0, span: 0..0 };
            let known: Vec<GroupId> = links.iter().filter(|link| link.from == from).map(|link| link.to).collect();
            links.extend((first..).take(added.groups.len()).filter(|to| !known.contains(to)).map(link));
        }
        if let Some(part) =
            added.parts.pop().filter(|part| self.job.parts.last().is_none_or(|last| last.name != part.name))
        {
            let first_task = TaskId(self.job.task_count() as u32);
            self.job.parts.push(JobPart { first_group: first, first_task, ..part });
        }
        self.names.extend(added.groups.iter().zip(first..).map(|(group, id)| (Arc::clone(&group.name), id)));
        self.job.groups.append(&mut added.groups);
        self.job.bodies.append(&mut added.bodies);
        self.files.grow(&self.job, first);
        links
    }

    /// The task with this name.
    pub fn find(&self, name: &str) -> Option<TaskId> {
        let (plain, bracket) = match name.strip_suffix(']').and_then(|name| name.split_once('[')) {
            Some((plain, bracket)) => (plain, Some(bracket)),
            None => (name, None),
        };
        let &group = self.names.get(plain)?;
        let first = self.job.groups[group as usize].first;
        let Some(bracket) = bracket else { return Some(first) };
        let element = self.job.bodies[group as usize].space().select(bracket).ok()?.into_iter().next()?;
        Some(TaskId(first.0 + element))
    }
}

/// Who adds tasks.
#[derive(Clone, Copy, Debug)]
pub enum Whose<'a> {
    /// A task: of several jobs, they belong to its own.
    Task(TaskId),
    /// A user, to the job of this name.
    Job(&'a str),
    /// A user: of several jobs, they belong to the first that is open, else to the first.
    User,
}

fn part_called<'a>(job: &'a Job, name: &str) -> Result<&'a JobPart, Diagnostic> {
    job.parts.iter().find(|part| part.name == name).ok_or_else(|| {
        let mut names: Vec<&str> = job.parts.iter().map(|part| part.name.as_str()).collect();
        names.extend(names.is_empty().then_some(job.name.as_str()));
        names.sort_unstable();
        names.dedup();
        let help = format!("name one of its jobs: {}", names.join(", "));
        Diagnostic::error(format!("the run has no job called `{name}`")).help(help)
    })
}

/// The job, of several, that the text of an addition names.
fn part_in<'a>(job: &'a Job, text: &str) -> Result<Option<&'a JobPart>, Diagnostic> {
    if job.parts.is_empty() {
        return Ok(None);
    }
    let name = ValueFiles::own_part(text).lines().last().and_then(|line| line.strip_prefix(OF_JOB));
    let name = name.and_then(|name| serde_json::from_str::<String>(name).ok()).unwrap_or_default();
    part_called(job, &name).map(Some)
}

/// Reads an addition whose place in a job is known, as a rank does that runs its tasks: what they
/// need is not looked at.
///
/// # Errors
/// All mistakes in it.
pub fn read_added(
    job: &Job,
    (first_task, first_group): (TaskId, GroupId),
    text: Arc<str>,
    kernels: &dyn KernelCheck,
) -> Result<Job, Diagnostics> {
    let part = part_in(job, &text).map_err(|item| Diagnostics::new("added tasks", Arc::clone(&text), vec![item]))?;
    let to = AdditionTo { job, part, first_task, first_group, names: None, files: None, has_ended: None };
    let values = ValueFiles::carried_by(&text);
    Ok(parse_addition(text, "added tasks", &to, kernels, &values)?.job)
}

/// The text of a job with additions; that of the job if there are none.
pub fn text_with(base: &Arc<str>, additions: &[Addition]) -> Arc<str> {
    if additions.is_empty() {
        return Arc::clone(base);
    }
    let mut text = MARK.to_owned();
    let mut part = |own: &str, by: Option<&str>| {
        let _ = writeln!(text, "{PART}{} {}", own.len(), serde_json::Value::from(by));
        text.extend([own, "\n"]);
    };
    part(base, None);
    additions.iter().for_each(|addition| part(&addition.text, addition.by.as_deref()));
    text.into()
}

/// The text of a job without its additions, and these.
pub fn parts_of(text: &Arc<str>) -> (Arc<str>, Vec<Addition>) {
    let mut rest = text.strip_prefix(MARK).unwrap_or_default();
    let mut parts = Vec::new();
    while let Some((head, behind)) = rest.strip_prefix(PART).and_then(|rest| rest.split_once('\n')) {
        let Some((length, by)) = head.split_once(' ') else { break };
        let (Ok(length), Ok(by)) = (length.parse::<usize>(), serde_json::from_str::<Option<String>>(by)) else { break };
        let (Some(text), Some(next)) = (behind.get(..length), behind.get(length + 1..)) else { break };
        parts.push(Addition { by, text: text.into() });
        rest = next;
    }
    if parts.is_empty() {
        return (Arc::clone(text), Vec::new());
    }
    let base = parts.remove(0);
    (base.text, parts)
}

/// True if a text is that of a job with additions.
pub(super) fn has_additions(text: &str) -> bool {
    text.starts_with(MARK)
}

/// A job with additions, whose text is `text`.
pub(super) fn with_additions(
    mut base: Loaded,
    additions: Vec<Addition>,
    text: Arc<str>,
    kernels: &dyn KernelCheck,
) -> Result<Loaded, Diagnostics> {
    let mut links = std::mem::take(&mut base.job.links);
    let mut growing = GrowingJob::new(std::mem::take(&mut base.job));
    for addition in additions {
        let by = addition.by.as_deref();
        let file = format!("added by {}", by.unwrap_or("the user"));
        let added = growing.read(addition.text, &file, kernels)?;
        let by = by.and_then(|by| growing.find(by));
        links.extend(growing.add(by, added.job));
    }
    Ok(base.with_job(growing.into_job(links), text))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::exec::Kernels;
    use crate::job::parse;
    use crate::job::several::merge;

    const BASE: &str = "[job]\nname = 'b'\nenv = { V = '1' }\n[defaults]\ncpus = 2\n[pools.p]\ncapacity = 1\n\
        [[task]]\nname = 'a'\narray = '0-2'\ncommand = 'x'\n";
    const MORE: &str = "[[task]]\nname = 'm'\narray = '0-1'\nneeds = 'a[{index}]'\npools = { p = 1 }\ncommand = 'y'\n\
        [[task]]\nname = 'n'\ncpus = 1\nneeds = ['m', 'afterany:a']\ncommand = 'z'\n";

    fn growing() -> GrowingJob {
        GrowingJob::new(parse(BASE, "b.toml", Path::new("/d"), &Kernels::builtin()).unwrap().job)
    }

    fn read(text: &str) -> Result<Loaded, Diagnostics> {
        growing().check(text.into(), "$PHALANX_ADD", &Kernels::builtin(), Whose::User, &|_| false)
    }

    #[test]
    fn added_tasks_follow_those_of_the_job_and_may_need_them() {
        let mut growing = growing();
        let added = growing.check(MORE.into(), "$PHALANX_ADD", &Kernels::builtin(), Whose::User, &|_| false).unwrap();
        let part = read_added(growing.job(), (TaskId(3), 1), MORE.into(), &Kernels::builtin()).unwrap();
        assert_eq!(part.task(TaskId(4)).unwrap(), added.job.task(TaskId(4)).unwrap());
        let links = growing.add(growing.find("a[1]"), added.job);
        let pairs: Vec<(u32, u32)> = links.iter().map(|link| (link.from, link.to)).collect();
        assert_eq!(pairs, [(0, 1), (1, 2), (0, 2)], "what needs its adder anyway needs it once");
        let job = growing.job();
        let names: Vec<String> = (0..6).map(|task| job.task_name(TaskId(task))).collect();
        assert_eq!(names, ["a[0]", "a[1]", "a[2]", "m[0]", "m[1]", "n"]);
        assert_eq!((job.groups[1].cpus, job.groups[2].cpus, &*job.groups[1].pools), (2, 1, &[(0, 1)][..]));
        assert_eq!(job.task(TaskId(5)).unwrap().dir, Path::new("/d/"));
        assert_eq!(growing.find("m[1]"), Some(TaskId(4)));
    }

    #[test]
    fn the_text_of_a_grown_job_builds_it_again() {
        let again = "[[task]]\nname = 'o'\nneeds = 'n'\ncommand = 'z'\n";
        let by = |by: Option<&str>, text: &str| Addition { by: by.map(str::to_owned), text: text.into() };
        let additions = [by(Some("a[1]"), MORE), by(None, again)];
        let text = text_with(&BASE.into(), &additions);
        assert_eq!(parts_of(&text), (BASE.into(), additions.to_vec()));
        assert_eq!(parts_of(&BASE.into()), (BASE.into(), Vec::new()));
        let loaded = parse(text, "b.toml", Path::new("/d"), &Kernels::builtin()).unwrap();
        assert_eq!((loaded.job.task_count(), loaded.job.links.len()), (7, 4));
        assert_eq!(loaded.job.task_name(TaskId(6)), "o");
    }

    #[test]
    fn of_several_jobs_an_addition_belongs_to_one() {
        let kernels = Kernels::builtin();
        let one = |file: &str, text: &str| parse(text, file, Path::new("/d"), &kernels).unwrap();
        let other =
            "[job]\nopen = true\ndir = 'o'\nenv = { W = '2' }\nprologue = 'p'\n[[task]]\nname = 'a'\ncommand = 'x'\n";
        let whole = merge(vec![one("b.toml", BASE), one("o.toml", other)]).unwrap();
        let mut base = whole.job.clone();
        base.links.clear();
        let mut growing = GrowingJob::new(base);
        let more = |name: &str| format!("[[task]]\nname = '{name}'\nneeds = ['a', 'b/a[1]']\ncommand = 'y'\n");
        let mut additions = Vec::new();
        for (name, whose) in [("u", Whose::User), ("v", Whose::Task(TaskId(1))), ("w", Whose::Job("o"))] {
            let added = growing.check(more(name).into(), "f", &kernels, whose, &|_| false).unwrap();
            let place = (added.job.groups[0].first, growing.job().groups.len() as GroupId);
            let part = read_added(&whole.job, place, Arc::clone(&added.text), &kernels).unwrap();
            assert_eq!(part.task(place.0).unwrap(), added.job.task(place.0).unwrap());
            additions.push(Addition { by: None, text: added.text });
            growing.add(None, added.job);
        }
        let refused =
            growing.check(more("x").into(), "f", &kernels, Whose::Job("nix"), &|_| false).unwrap_err().to_string();
        assert!(refused.contains("no job called `nix`") && refused.contains("b, o"), "{refused}");
        let again = parse(text_with(&whole.text, &additions), "r", Path::new("/d"), &kernels).unwrap();
        for job in [growing.job(), &again.job] {
            let names: Vec<String> = (4..7).map(|task| job.task_name(TaskId(task))).collect();
            assert_eq!(names, ["o/u", "b/v", "o/w"]);
            let tasks = [4, 5, 6].map(|task| job.task(TaskId(task)).unwrap());
            assert_eq!(
                tasks.each_ref().map(|task| task.dir.clone()),
                ["/d/o", "/d/", "/d/o"].map(std::path::PathBuf::from)
            );
            let variables = tasks.map(|task| task.env.into_iter().map(|(name, _)| name).collect::<Vec<_>>());
            assert_eq!(variables, [["W"], ["V"], ["W"]]);
            let prologues: Vec<_> = (2..5).map(|group| job.part_of(group).unwrap().prologue.len()).collect();
            assert_eq!((prologues, job.groups[3].cpus, job.open), (vec![1, 0, 1], 2, true));
            assert!(job.parts.iter().all(|part| part.first_task == job.groups[part.first_group as usize].first));
        }
        let needs = |from: u32| again.job.links.iter().filter(|link| link.from == from).count();
        assert_eq!([needs(0), needs(1)], [3 + 1, 2], "each needs `b/a[1]`, and the `a` of its own job");
    }

    #[test]
    fn what_is_wrong_with_an_addition_is_told_with_its_place() {
        let task = |rest: &str| format!("[[task]]\nname = 't'\ncommand = 'x'\n{rest}");
        for (text, expected) in [
            (task("needs = 'b'\n"), "there is no task called `b`"),
            (task("needs = 'other'\n"), "the tasks are `t`, `a`"),
            (task("needs = 'a[7]'\n"), "a[7]"),
            (task("nedds = 'a'\n"), "nedds"),
            (task("pools = { q = 1 }\n"), "q"),
            (task("share = 2\n"), "`share`"),
            (task("[scaling]\nmax_ranks = 3\n"), "[scaling]"),
            ("[[task]]\nname = 'a'\ncommand = 'x'\n".into(), "has a task `a` already"),
            ("[[task]]\nname = 't'\n".into(), "command"),
            ("x".into(), "$PHALANX_ADD:1"),
            (String::new(), "no task"),
        ] {
            let told = read(&text).unwrap_err().to_string();
            assert!(told.contains(expected) && told.contains("$PHALANX_ADD"), "{text}: {told}");
        }
    }
}
