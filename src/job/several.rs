//! Several job files as one job: `phalanx run a.toml b.toml`.
//!
//! | of | what holds |
//! |---|---|
//! | a task | its name is `JOB/TASK`; defaults, directory, variables, prologue, shell and the words `{name}` and `%x` are as in a run of its own file |
//! | files | order tasks of different jobs as they do those of one: who reads a file waits for who writes it |
//! | a class | durations are learnt under `JOB/CLASS`, if the file names no class |
//! | the run | `[scaling]`, `[advisor]`, `[cost]`, `[capacity]`, `[[site]]`, `[cache]`, `slots` and `placement` stand in one file, or alike in several |
//! | | of `flush` and `max_failures` the strictest counts; output is kept if a file asks for it |
//! | | pools are shared by name; alerts of all files count; it is open if one of them is |
//! | a data graph | is one of its file alone, as changes to it are; its name is `JOB/GRAPH` |
//! | slot time | jobs with a `share` get it in proportion |
//! | tasks that are added | they belong to the job of the task that adds them, or to the one that the user names |
//!
//! The text of such a job, which ranks and later commands parse again, has the texts of the files
//! one after the other, each behind a line with its length and its name.

mod files;

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustc_hash::FxHashMap;

use super::body::Body;
use super::load::{KernelCheck, Loaded, parse_one};
use super::spec::Common;
use super::template::Template;
use super::{CacheSettings, Cost, DataGraph, Diagnostic, Diagnostics, Flush, Job, KeepOutput, Site};
use crate::graph::link::GroupId;
use crate::model::TaskId;

/// First line of the text of several jobs.
const MARK: &str = "#:phalanx several jobs\n";

/// Precedes the length in bytes and the name, as a JSON string, of a file.
const FILE: &str = "#:job ";

/// Most names of jobs in the name of their run.
const MAX_NAMED: usize = 4;

/// One of several jobs, or tasks that were added to one: these are a part of the same name.
#[derive(Clone, Debug)]
pub struct JobPart {
    /// Its name, which precedes the names of its tasks.
    pub name: String,
    /// Its first group.
    pub first_group: GroupId,
    /// Its first task.
    pub first_task: TaskId,
    /// True if the run waits for further tasks of it.
    pub open: bool,
    /// `[job] share`: share of the slot time beside the other jobs; `None` unless given.
    pub share: Option<u32>,
    /// Base directory of relative paths.
    pub dir: PathBuf,
    /// Shell lines that run before every command.
    pub prologue: Vec<String>,
    /// Default shell of its tasks.
    pub shell: Option<Arc<[String]>>,
    /// Maximum time for a declared output to appear.
    pub output_wait: std::time::Duration,
    /// Environment variables of tasks that are added to it.
    pub(super) env: Vec<(String, String)>,
    /// Defaults of such tasks.
    pub(super) defaults: Arc<Common>,
}

impl JobPart {
    /// The part that follows the groups of `job` and is this job.
    fn behind(job: &Job, own: &mut Job) -> JobPart {
        JobPart {
            name: std::mem::take(&mut own.name),
            first_group: job.groups.len() as GroupId,
            first_task: TaskId(job.task_count() as u32),
            open: own.open,
            share: own.share,
            dir: std::mem::take(&mut own.dir),
            prologue: std::mem::take(&mut own.prologue),
            shell: own.shell.take(),
            output_wait: own.output_wait,
            env: std::mem::take(&mut own.env),
            defaults: Arc::clone(&own.defaults),
        }
    }

    /// The job, where tasks are added to it: `job` has what the jobs of a run share.
    pub(super) fn alone(&self, job: Job) -> Job {
        let prefix = format!("{}/", self.name);
        let own = |graph: &DataGraph| Some(graph.name.strip_prefix(&prefix)?.to_owned());
        let graphs = job.graphs.iter().filter_map(|graph| Some(DataGraph { name: own(graph)?, ..graph.clone() }));
        Job {
            graphs: graphs.collect(),
            name: self.name.clone(),
            dir: self.dir.clone(),
            env: self.env.clone(),
            prologue: self.prologue.clone(),
            shell: self.shell.clone(),
            output_wait: self.output_wait,
            defaults: Arc::clone(&self.defaults),
            ..job
        }
    }

    /// Makes a job with added tasks alone one of several.
    pub(super) fn claim(&self, own: &mut Job) {
        qualify(own, &self.name);
        give_environment(&mut own.bodies, &std::mem::take(&mut own.env));
        own.parts = vec![JobPart { first_group: 0, ..self.clone() }];
    }

    /// The name that a task of this job has in the run; names of tasks of others are that already.
    pub(super) fn full_name(&self, name: &str) -> String {
        if name.contains('/') { name.to_owned() } else { format!("{}/{name}", self.name) }
    }
}

/// Parses the text of several jobs; `None` if it is that of one.
pub(super) fn parse_all(text: &str, base_dir: &Path, kernels: &dyn KernelCheck) -> Option<Result<Loaded, Diagnostics>> {
    let mut rest = text.strip_prefix(MARK)?;
    let mut files = Vec::new();
    while let Some((head, behind)) = rest.strip_prefix(FILE).and_then(|rest| rest.split_once('\n')) {
        let (length, name) = head.split_once(' ')?;
        let (length, name) = (length.parse().ok()?, serde_json::from_str::<String>(name).ok()?);
        let text = behind.get(..length)?;
        files.push((name, text));
        rest = behind.get(length + 1..)?;
    }
    let parsed = each(&files, |(name, text)| parse_one(*text, name, base_dir, kernels));
    Some(parsed.and_then(merge))
}

/// True if a text is that of several jobs.
pub(crate) fn is_several(text: &str) -> bool {
    text.starts_with(MARK)
}

/// Reads each file; all mistakes are reported together.
pub(super) fn each<T>(
    files: &[T],
    read: impl Fn(&T) -> Result<Loaded, Diagnostics>,
) -> Result<Vec<Loaded>, Diagnostics> {
    let (mut loaded, mut mistakes) = (Vec::new(), Vec::new());
    for file in files {
        match read(file) {
            Ok(job) => loaded.push(job),
            Err(found) => mistakes.push(found),
        }
    }
    if mistakes.is_empty() { Ok(loaded) } else { Err(Diagnostics::joined(mistakes)) }
}

/// Combines jobs.
pub(super) fn merge(all: Vec<Loaded>) -> Result<Loaded, Diagnostics> {
    let mistakes = conflicts(&all);
    if !mistakes.is_empty() {
        let items = mistakes.into_iter().map(|(message, help)| Diagnostic::error(message).help(help)).collect();
        return Err(Diagnostics::new(names(&all, |loaded| loaded.file().to_owned(), ", "), "", items));
    }
    let mut text = MARK.to_owned();
    for loaded in &all {
        let name = serde_json::Value::from(loaded.file());
        let _ = writeln!(text, "{FILE}{} {name}", loaded.text.len());
        text.extend([&*loaded.text, "\n"]);
    }
    let mut job = Job { name: run_name(&all), ..Job::default() };
    let (mut all, mut offset, mut readers) = (all, 0, Vec::new());
    for loaded in &mut all {
        let first_group = job.groups.len() as GroupId;
        readers.extend(
            loaded
                .readers_of_external()
                .map(|(group, span)| (group + first_group, span.start + offset..span.end + offset)),
        );
        add(&mut job, std::mem::take(&mut loaded.job), offset);
        offset += loaded.text.len();
    }
    let mistakes = files::link(&mut job, &readers);
    let loaded = Loaded::of_several(job, text.into(), all);
    match mistakes.is_empty() {
        true => Ok(loaded),
        false => Err(Diagnostics::joined(mistakes.into_iter().map(|mistake| loaded.report(vec![mistake])).collect())),
    }
}

/// The name of the run, such as `prepare+train`.
fn run_name(all: &[Loaded]) -> String {
    let named = &all[..all.len().min(MAX_NAMED)];
    let name = names(named, |loaded| loaded.job.name.clone(), "+");
    if all.len() > MAX_NAMED { format!("{name}+{}", all.len() - MAX_NAMED) } else { name }
}

fn names(all: &[Loaded], name: impl Fn(&Loaded) -> String, between: &str) -> String {
    all.iter().map(name).collect::<Vec<_>>().join(between)
}

/// Adds a job whose text begins at `offset` of the texts.
fn add(job: &mut Job, mut own: Job, offset: usize) {
    let (first_group, first_task) = (job.groups.len() as GroupId, TaskId(job.task_count() as u32));
    for alert in &mut own.alerts {
        let renamed = alert.metric.split_once('.').and_then(|(kind, class)| {
            let is_own = own.groups.iter().any(|group| group.class == group.name && *group.class == *class);
            is_own.then(|| format!("{kind}.{}/{class}", own.name))
        });
        alert.metric = renamed.unwrap_or_else(|| std::mem::take(&mut alert.metric));
        alert.name = format!("{}/{}", own.name, alert.name);
    }
    let name = own.name.clone();
    qualify(&mut own, &name);
    own.groups.iter_mut().for_each(|group| group.first.0 += first_task.0);
    share_pools(job, &mut own);
    for link in &mut own.links {
        (link.from, link.to) = (link.from + first_group, link.to + first_group);
        link.span = link.span.start + offset..link.span.end + offset;
    }
    give_environment(&mut own.bodies, &own.env);
    if first_group == 0 {
        job.dir.clone_from(&own.dir);
        (job.flush, job.output) = (own.flush, own.output);
    }
    job.open |= own.open;
    job.output = if own.output == KeepOutput::All { KeepOutput::All } else { job.output };
    job.flush = strictest(job.flush, own.flush);
    job.max_failures = job.max_failures.into_iter().chain(own.max_failures).min();
    job.scaling = job.scaling.take().or(own.scaling.take());
    job.advisor = job.advisor.take().or(own.advisor.take());
    if job.cost == Cost::default() {
        job.cost = std::mem::take(&mut own.cost);
    }
    if job.sites.is_empty() {
        job.sites = std::mem::take(&mut own.sites);
    }
    job.listen = job.listen.take().or(own.listen.take());
    if job.cache == CacheSettings::default() {
        job.cache = std::mem::take(&mut own.cache);
    }
    job.slots = job.slots.or(own.slots);
    if own.placement != Default::default() {
        job.placement = own.placement;
    }
    job.graphs.append(&mut own.graphs);
    job.parts.push(JobPart::behind(job, &mut own));
    job.alerts.append(&mut own.alerts);
    job.groups.append(&mut own.groups);
    job.links.append(&mut own.links);
    job.bodies.append(&mut own.bodies);
}

/// Puts the name of the job before the names of its tasks and of its data graphs.
fn qualify(own: &mut Job, job: &str) {
    own.graphs.iter_mut().for_each(|graph| graph.name = format!("{job}/{}", graph.name));
    own.bodies.iter_mut().for_each(|body| body.rename_graph(&|graph| format!("{job}/{graph}")));
    for group in &mut own.groups {
        let name: Arc<str> = format!("{job}/{}", group.name).into();
        if group.class == group.name {
            group.class = Arc::clone(&name);
        }
        group.name = name;
    }
}

/// Pools of the same name are one pool.
fn share_pools(job: &mut Job, own: &mut Job) {
    let mut numbers = Vec::new();
    for pool in own.pools.drain(..) {
        let known = job.pools.iter().position(|known| known.name == pool.name);
        numbers.push(known.unwrap_or(job.pools.len()) as u32);
        if known.is_none() {
            job.pools.push(pool);
        }
    }
    let needs = own.groups.iter_mut().flat_map(|group| group.pools.iter_mut());
    needs.for_each(|need| need.0 = numbers[need.0 as usize]);
}

/// Variables of a table.
type Variables = Arc<[(Arc<str>, Template)]>;

/// Gives the variables of a job to each of its tasks that does not set them itself. Tables that
/// share their variables go on sharing them.
fn give_environment(bodies: &mut [Body], variables: &[(String, String)]) {
    if variables.is_empty() {
        return;
    }
    let mut known: FxHashMap<*const (Arc<str>, Template), Variables> = FxHashMap::default();
    // The former variables live until the end, so that no address is used twice.
    let mut former = Vec::new();
    let of_job: Vec<(Arc<str>, Template)> =
        variables.iter().map(|(name, value)| (name.as_str().into(), Template::Text(value.as_str().into()))).collect();
    for body in bodies {
        let own = Arc::clone(&body.env);
        let all = known.entry(if own.is_empty() { std::ptr::null() } else { own.as_ptr() }).or_insert_with(|| {
            let of_job = of_job.iter().filter(|(name, _)| own.iter().all(|(set, _)| set != name));
            of_job.chain(own.iter()).cloned().collect()
        });
        former.push(std::mem::replace(&mut body.env, Arc::clone(all)));
    }
}

/// The one of two ways to sync the journal that loses less.
fn strictest(a: Flush, b: Flush) -> Flush {
    match (a, b) {
        (Flush::Always, _) | (_, Flush::Always) => Flush::Always,
        (Flush::Every(a), Flush::Every(b)) => Flush::Every(a.min(b)),
        (Flush::Every(time), Flush::Never) | (Flush::Never, Flush::Every(time)) => Flush::Every(time),
        (Flush::Never, Flush::Never) => Flush::Never,
    }
}

/// Why the jobs cannot be one run, each reason with its remedy.
fn conflicts(all: &[Loaded]) -> Vec<(String, String)> {
    let mut found = Vec::new();
    for (at, loaded) in all.iter().enumerate() {
        let (job, file) = (&loaded.job, loaded.file());
        if let Some(other) = all[..at].iter().find(|other| other.job.name == job.name) {
            found.push((
                format!(
                    "{} and {file} are both called `{}`, so their tasks cannot be told apart",
                    other.file(),
                    job.name
                ),
                "give one of them another name: `[job]`, then `name = \"other\"`".to_owned(),
            ));
        }
        let mut differs = |what: &str, is: &dyn Fn(&Job, &Job) -> bool| {
            if let Some(other) = all[..at].iter().find(|other| is(&other.job, job)) {
                found.push((
                    format!("{} and {file} have different `{what}`, which counts for the whole run", other.file()),
                    format!("state `{what}` in one of them alone, or alike in both"),
                ));
            }
        };
        differs("[scaling]", &|a, b| a.scaling.is_some() && b.scaling.is_some() && a.scaling != b.scaling);
        differs("[advisor]", &|a, b| a.advisor.is_some() && b.advisor.is_some() && a.advisor != b.advisor);
        let both = |a: &Cost, b: &Cost| *a != Cost::default() && *b != Cost::default() && a != b;
        differs("[cost]", &|a, b| both(&a.cost, &b.cost));
        differs("[capacity]", &|a, b| a.listen.is_some() && b.listen.is_some() && a.listen != b.listen);
        let both = |a: &[Site], b: &[Site]| !a.is_empty() && !b.is_empty() && a != b;
        differs("[capacity] or [[site]]", &|a, b| both(&a.sites, &b.sites));
        let both = |a: &CacheSettings, b: &CacheSettings| {
            *a != CacheSettings::default() && *b != CacheSettings::default() && a != b
        };
        differs("[cache]", &|a, b| both(&a.cache, &b.cache));
        differs("slots", &|a, b| a.slots.is_some() && b.slots.is_some() && a.slots != b.slots);
        let default = Job::default().placement;
        differs("placement", &|a, b| ![a.placement, b.placement].contains(&default) && a.placement != b.placement);
        for pool in &job.pools {
            let same = |other: &&Loaded| other.job.pools.iter().any(|it| it.name == pool.name && it != pool);
            if let Some(other) = all[..at].iter().find(same) {
                let name = &pool.name;
                found.push((
                    format!("{} and {file} have different pools called `{name}`", other.file()),
                    "give one of them another name, or both the same capacity and rate".to_owned(),
                ));
            }
        }
    }
    found
}

impl Job {
    /// The part of several jobs that a group belongs to; `None` for a single job.
    pub fn part_of(&self, group: GroupId) -> Option<&JobPart> {
        self.parts.get(self.part_number(group)?)
    }

    /// The number of that part.
    pub fn part_number(&self, group: GroupId) -> Option<usize> {
        self.parts.partition_point(|part| part.first_group <= group).checked_sub(1)
    }

    /// The name that a group has in its own file.
    pub(crate) fn own_name(&self, group: GroupId) -> &str {
        let name = &*self.groups[group as usize].name;
        match self.part_of(group) {
            Some(part) => name.get(part.name.len() + 1..).unwrap_or(name),
            None => name,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exec::Kernels;
    use crate::job::parse;

    fn parsed(name: &str, text: &str) -> Loaded {
        parse(text, name, Path::new("/base"), &Kernels::builtin()).unwrap()
    }

    const A: &str = "[job]\ndir = 'x'\nenv = { V = 'a', W = 'w' }\nprologue = 'pa'\nmax_failures = 5\n\
        [[task]]\nname = 't'\narray = '0-1'\ncommand = 'x {name}'\n[[task]]\nname = 'u'\nneeds = 't'\nenv = { V = 'own' }\ncommand = 'y'\n";
    const B: &str = "[job]\nshell = 'bash'\nmax_failures = 2\n[[task]]\nname = 't'\ncommand = 'z'\nclass = 'slow'\n";

    #[test]
    fn each_task_is_what_it_is_alone() {
        let whole = merge(vec![parsed("a.toml", A), parsed("dir/b.toml", B)]).unwrap();
        let again = parse(Arc::clone(&whole.text), "whatever", Path::new("/base"), &Kernels::builtin()).unwrap();
        for job in [&whole.job, &again.job] {
            assert_eq!((job.name.as_str(), job.max_failures), ("a+b", Some(2)));
            let names: Vec<String> = (0..4).map(|task| job.task_name(TaskId(task))).collect();
            assert_eq!(names, ["a/t[0]", "a/t[1]", "a/u", "b/t"]);
            let classes: Vec<&str> = job.groups.iter().map(|group| &*group.class).collect();
            assert_eq!(classes, ["a/t", "a/u", "slow"]);
            let task = |number| job.task(TaskId(number)).unwrap();
            assert_eq!((task(1).name.as_str(), task(1).work), ("t", super::super::Work::Shell("x t".into())));
            assert_eq!((task(0).dir, task(3).dir), ("/base/x".into(), "/base/".into()));
            let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
            assert_eq!(task(0).env, [pair("V", "a"), pair("W", "w")]);
            assert_eq!(task(2).env, [pair("W", "w"), pair("V", "own")]);
            assert!(task(3).env.is_empty() && task(3).shell.is_some() && task(0).shell.is_none());
            assert_eq!(job.part_of(1).unwrap().prologue, ["pa"]);
            assert_eq!(job.find("b/t").unwrap().as_slice(), std::slice::from_ref(&(3..4)));
            assert_eq!((job.links[0].from, job.links[0].to), (0, 1));
        }
    }

    #[test]
    fn data_graphs_belong_to_their_file() {
        let file = |scale: u32| {
            format!(
                "[job]\nopen = true\n[[graph]]\nname = 'g'\ngenerate = {{ kind = 'grid', scale = {scale} }}\n\
                 [[task]]\nname = 't'\ngraph = 'g'\noperation = 'components'\n"
            )
        };
        let whole = merge(vec![parsed("a.toml", &file(3)), parsed("b.toml", &file(3)), parsed("c.toml", &file(4))]);
        let job = whole.unwrap().job;
        let names: Vec<&str> = job.graphs.iter().map(|graph| graph.name.as_str()).collect();
        assert_eq!(names, ["a/g", "b/g", "c/g"]);
        let used: Vec<_> = job.bodies.iter().map(|body| body.graph().unwrap()).collect();
        assert_eq!(used, names);
        let growing = crate::job::GrowingJob::new(job);
        let more = "[[task]]\nname = 'u'\ngraph = 'g'\noperation = 'degrees'\n";
        let whose = crate::job::Whose::Job("b");
        let added = growing.check(more.into(), "f", &Kernels::builtin(), whose, &|_| false).unwrap();
        assert_eq!(added.job.bodies[0].graph(), Some("b/g"));
    }

    #[test]
    fn what_does_not_fit_together_is_refused_with_a_remedy() {
        let refused =
            |a: &str, b: &str| merge(vec![parsed("1/a.toml", a), parsed("2/a.toml", b)]).unwrap_err().to_string();
        let task = "[[task]]\nname = 't'\ncommand = 'x'\n";
        assert!(refused(task, task).contains("1/a.toml and 2/a.toml are both called `a`"));
        let named = |rest: &str| format!("[job]\nname = 'b'\n{task}{rest}");
        let text = refused(&format!("{task}[cost]\nbudget = 2\n"), &named("[cost]\nbudget = 3\n"));
        assert!(text.contains("have different `[cost]`") && text.contains("in one of them alone"), "{text}");
        assert!(merge(vec![parsed("a", &format!("{task}[cost]\nbudget = 2\n")), parsed("b", &named(""))]).is_ok());
    }

    #[test]
    fn a_cycle_is_shown_in_its_own_file() {
        let cycle =
            "[[task]]\nname = 'p'\nneeds = 'q'\ncommand = 'x'\n[[task]]\nname = 'q'\nneeds = 'p'\ncommand = 'x'\n";
        let whole = merge(vec![parsed("a.toml", A), parsed("c.toml", cycle)]).unwrap();
        let text = crate::workload::graph_of(&whole).unwrap_err().to_string();
        assert!(text.contains("c.toml:3:") && text.contains("c/p"), "{text}");
    }
}
