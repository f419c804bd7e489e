//! An instance: a workflow, how long its tasks take, and what its job file tells about that.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use fastrand::Rng;
use phalanx::exec::Kernels;
use phalanx::job::import;
use phalanx::model::TaskId;
use phalanx::workload::PreparedJob;
use toml::Value;

use super::{log_uniform, normal, rng};

/// Tasks of one table of the job file.
#[derive(Clone, Debug)]
pub struct Group {
    /// Its name.
    pub name: String,
    /// Class of its tasks.
    pub class: String,
    /// How long each task takes; several are an array with indices from 0.
    pub seconds: Vec<f64>,
    /// Its `needs`.
    pub needs: Vec<String>,
}

/// A workflow and how long its tasks take.
#[derive(Clone, Debug)]
pub struct Workflow {
    /// Its name: family, size and number.
    pub name: String,
    /// Its family.
    pub family: String,
    /// Its tasks.
    pub groups: Vec<Group>,
}

/// What the job file tells about durations.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Knowledge {
    /// Each task has its duration as estimate.
    Exact,
    /// Estimates of all tasks are too long or too short by a factor of three, and differ from it by
    /// a third.
    Biased,
    /// All tasks of a class have the median of the class as estimate.
    Class,
    /// There are no estimates.
    Missing,
}

impl Knowledge {
    /// All of them.
    pub const ALL: [Knowledge; 4] = [Knowledge::Exact, Knowledge::Biased, Knowledge::Class, Knowledge::Missing];

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Knowledge::Exact => "exact",
            Knowledge::Biased => "biased",
            Knowledge::Class => "class",
            Knowledge::Missing => "missing",
        }
    }
}

/// The families of half A. Policies are developed on A; B only judges them.
const HALF_A: [&str; 8] = ["blast", "cycles", "genome", "rnaseq", "soykb", "fork-join", "bag", "layered"];

/// A workflow made ready to run.
pub struct Instance {
    /// Name of the workflow.
    pub name: String,
    /// Family of the workflow.
    pub family: String,
    /// What the job file tells about durations.
    pub knowledge: Knowledge,
    /// The job.
    pub prepared: PreparedJob,
    /// How long each task takes, in nanoseconds.
    pub took: Arc<[u64]>,
    /// The longest chain of tasks, in seconds.
    pub critical_path_s: f64,
    /// All tasks one after the other, in seconds.
    pub work_s: f64,
}

/// Shortest and longest critical path: nodes arrive after seconds or minutes.
const CRITICAL_PATH_S: (f64, f64) = (240.0, 10_800.0);

/// Most work of an instance: 64 slots work on it for three hours.
const MAX_WORK_S: f64 = 64.0 * 10_800.0;

impl Workflow {
    /// Multiplies all durations by one factor so that the critical path and the work lie within
    /// their bounds.
    pub fn stretch_to(&mut self, rng: &mut Rng) {
        let (prepared, took) = self.prepare(Knowledge::Missing, rng);
        let (critical_path_s, work_s) = measure(&prepared, &took);
        let wanted = log_uniform(rng, CRITICAL_PATH_S.0, CRITICAL_PATH_S.1);
        let factor = (wanted / critical_path_s).min(MAX_WORK_S / work_s);
        self.groups.iter_mut().flat_map(|group| &mut group.seconds).for_each(|seconds| *seconds *= factor);
    }

    /// The instance of this seed.
    pub fn instance(&self, seed: u64) -> Instance {
        let mut rng = rng(&format!("{}/knowledge", self.name), seed);
        let knowledge = Knowledge::ALL[rng.usize(0..Knowledge::ALL.len())];
        self.known(knowledge, &mut rng)
    }

    /// The instance whose job file tells this about durations.
    pub fn known(&self, knowledge: Knowledge, rng: &mut Rng) -> Instance {
        let (prepared, took) = self.prepare(knowledge, rng);
        let (critical_path_s, work_s) = measure(&prepared, &took);
        let (name, family) = (self.name.clone(), self.family.clone());
        Instance { name, family, knowledge, prepared, took, critical_path_s, work_s }
    }

    fn prepare(&self, knowledge: Knowledge, rng: &mut Rng) -> (PreparedJob, Arc<[u64]>) {
        let text = self.job_file(knowledge, rng);
        let file = format!("{}.toml", self.name);
        let parsed = phalanx::job::parse(text, &file, Path::new("/"), &Kernels::builtin());
        let prepared = parsed.and_then(PreparedJob::of).unwrap_or_else(|mistakes| panic!("{}", mistakes.render(false)));
        let seconds: BTreeMap<&str, &[f64]> = self.groups.iter().map(|g| (&*g.name, &*g.seconds)).collect();
        let took = (0..prepared.tasks()).map(TaskId).map(|task| {
            let group = prepared.job.group(task);
            nanoseconds(seconds[&*group.name][(task.0 - group.first.0) as usize])
        });
        let took = took.collect();
        (prepared, took)
    }

    fn job_file(&self, knowledge: Knowledge, rng: &mut Rng) -> String {
        let bias = if rng.bool() { 3.0 } else { 1.0 / 3.0 };
        let medians = self.medians();
        let mut text = String::new();
        for group in &self.groups {
            let count = group.seconds.len();
            let _ =
                writeln!(text, "[[task]]\nname = \"{}\"\nclass = \"{}\"\nkernel = \"noop\"", group.name, group.class);
            let own: Option<Vec<f64>> = match knowledge {
                Knowledge::Exact => Some(group.seconds.clone()),
                Knowledge::Biased => Some(group.seconds.iter().map(|s| s * bias * (0.3 * normal(rng)).exp()).collect()),
                Knowledge::Class | Knowledge::Missing => None,
            };
            let _ = match own.as_deref() {
                None if count > 1 => writeln!(text, "array = \"0-{}\"", count - 1),
                None => Ok(()),
                Some([one]) => writeln!(text, "estimate = \"{}ns\"", nanoseconds(*one)),
                Some(several) => {
                    let axis = distinct(several.iter().map(|seconds| nanoseconds(*seconds)));
                    writeln!(text, "matrix = {{ ns = {axis:?} }}\nestimate = \"{{ns}}ns\"")
                }
            };
            if knowledge == Knowledge::Class {
                let _ = writeln!(text, "estimate = \"{}ns\"", nanoseconds(medians[&*group.class]));
            }
            if !group.needs.is_empty() {
                let _ = writeln!(text, "needs = {:?}", group.needs);
            }
        }
        text
    }

    /// The median duration of each class.
    fn medians(&self) -> BTreeMap<&str, f64> {
        let mut classes: BTreeMap<&str, Vec<f64>> = BTreeMap::new();
        for group in &self.groups {
            classes.entry(&group.class).or_default().extend(&group.seconds);
        }
        let median = |mut seconds: Vec<f64>| {
            seconds.sort_by(f64::total_cmp);
            seconds[seconds.len() / 2]
        };
        classes.into_iter().map(|(class, seconds)| (class, median(seconds))).collect()
    }
}

impl Instance {
    /// The half of the corpus that its family belongs to.
    pub fn half(&self) -> char {
        if HALF_A.contains(&&*self.family) { 'A' } else { 'B' }
    }
}

fn nanoseconds(seconds: f64) -> u64 {
    ((seconds * 1e9).round() as u64).max(1)
}

/// The numbers, those that occur before plus 1: an axis of a matrix names no value twice.
fn distinct(numbers: impl Iterator<Item = u64>) -> Vec<u64> {
    let mut seen = std::collections::BTreeSet::new();
    let free = |mut number: u64| {
        while !seen.insert(number) {
            number += 1;
        }
        number
    };
    numbers.map(free).collect()
}

/// The longest chain of tasks and the work, in seconds.
fn measure(prepared: &PreparedJob, took: &[u64]) -> (f64, f64) {
    let longest = prepared.graph.order(&|task: TaskId| took[task.index()]).critical_path;
    (longest as f64 / 1e9, took.iter().map(|ns| *ns as f64).sum::<f64>() / 1e9)
}

/// The family of a workflow: what precedes the first hyphen of its name.
pub fn family_of(name: &str) -> &str {
    name.split('-').next().unwrap_or_default()
}

/// The workflows in WfFormat in a folder, by name.
pub fn files(folder: &Path) -> Vec<(String, PathBuf)> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let json = entries.map(|entry| entry.path()).filter(|path| path.extension().is_some_and(|ext| ext == "json"));
    let named = json.map(|path| (path.file_stem().unwrap_or_default().to_string_lossy().into_owned(), path));
    let mut files: Vec<(String, PathBuf)> = named.filter(|(name, _)| !name.contains("schema")).collect();
    files.sort();
    files
}

/// The workflow of a file, with its recorded durations.
pub fn recorded(name: &str, path: &Path) -> Workflow {
    let text = std::fs::read_to_string(path).unwrap_or_else(|error| panic!("cannot read {}: {error}", path.display()));
    let imported = import::wfcommons(&text, &import::Options::default()).unwrap_or_else(|e| panic!("{name}: {e}"));
    let job: toml::Table = imported.toml.parse().unwrap_or_else(|error| panic!("{name}: {error}"));
    let tasks = job.get("task").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    let group = |task: &Value| {
        let text = |key: &str| task.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
        let seconds = task.get("args").and_then(|args| args.get("seconds"));
        let seconds = seconds.and_then(|s| s.as_float().or(s.as_integer().map(|n| n as f64))).unwrap_or(0.0);
        let needs = task.get("needs").and_then(Value::as_array).into_iter().flatten();
        let needs = needs.filter_map(Value::as_str).map(str::to_owned).collect();
        Group { name: text("name"), class: text("class"), seconds: vec![seconds], needs }
    };
    let groups = tasks.iter().map(group).collect();
    Workflow { name: name.to_owned(), family: family_of(name).to_owned(), groups }
}
