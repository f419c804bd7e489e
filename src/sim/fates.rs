//! What is simulated: a job with its graph and estimates, read once and shared by every run of it.

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use fastrand::Rng;

use super::cluster::{Faults, Tasks};
use super::draw::{Subject, generator, normal, stretch};
use crate::graph::partition::{self, Method, Partition};
use crate::graph::{Order, TaskGraph};
use crate::job::{self, Diagnostics, Job, KernelCheck};
use crate::model::{Outcome, Rank, State, TaskId};
use crate::runtime::{estimate_ns, fit, glue, graph_of};
use crate::schedule::coordinator::{Advice, Member};
use crate::schedule::ledger::SPECIAL;

/// A job, ready to be simulated.
pub struct Scene {
    /// The job.
    pub job: Arc<Job>,
    /// Its graph.
    pub graph: Arc<TaskGraph>,
    /// The graph under the estimates.
    pub order: Order,
    /// The text of the job file.
    pub text: Arc<str>,
    /// Its path.
    pub path: PathBuf,
    /// The estimated duration of each task, in nanoseconds.
    estimates: Arc<[u64]>,
    /// How each task ends, if that is known: then none is tried twice.
    ends: Option<Arc<[Outcome]>>,
    /// Each node's urgency, with [`SPECIAL`].
    pub(super) urgency: Vec<u8>,
    /// Each task's group.
    groups: Vec<u32>,
}

/// What a job file says of how long each task takes, in nanoseconds.
pub(super) fn estimates(job: &Job, graph: &TaskGraph) -> Arc<[u64]> {
    (0..graph.task_count() as u32).map(|task| estimate_ns(job, TaskId(task))).collect()
}

impl Scene {
    /// Reads a job file.
    ///
    /// # Errors
    /// Every mistake in it.
    pub fn load(path: &Path, kernels: &dyn KernelCheck) -> Result<Scene, Diagnostics> {
        Scene::prepared(path, kernels, |_| ())
    }

    /// Reads a job file, and lets somebody fill in what it leaves open.
    ///
    /// # Errors
    /// Every mistake in it.
    pub fn prepared(
        path: &Path,
        kernels: &dyn KernelCheck,
        prepare: impl FnOnce(&mut Job),
    ) -> Result<Scene, Diagnostics> {
        let mut loaded = job::load(path, kernels)?;
        prepare(&mut loaded.job);
        Scene::of(loaded)
    }

    /// The scene of a job file's text.
    ///
    /// # Errors
    /// Every mistake in it.
    pub fn parse(text: &str, file: &str, dir: &Path, kernels: &dyn KernelCheck) -> Result<Scene, Diagnostics> {
        Scene::of(job::parse(text, file, dir, kernels)?)
    }

    fn of(loaded: job::Loaded) -> Result<Scene, Diagnostics> {
        let path = PathBuf::from(loaded.file());
        let graph = graph_of(&loaded)?;
        let estimates = estimates(&loaded.job, &graph);
        let scene = Scene::measured(loaded.job, Arc::new(graph), Arc::clone(&estimates), (estimates, None));
        Ok(Scene { text: loaded.text, path, ..scene })
    }

    /// The scene of a job whose tasks are thought to take `expected` nanoseconds, which decides what is urgent, and really take `estimates`. They end
    /// as `ends` says, if that is known.
    pub(super) fn measured(
        job: Job,
        graph: Arc<TaskGraph>,
        expected: Arc<[u64]>,
        (estimates, ends): (Arc<[u64]>, Option<Arc<[Outcome]>>),
    ) -> Scene {
        let order = graph.order(&|task| expected[task.index()]);
        let groups: Vec<u32> = job
            .groups
            .iter()
            .enumerate()
            .flat_map(|(id, g)| std::iter::repeat_n(id as u32, g.count as usize))
            .collect();
        let priority = |task: TaskId| job.groups[groups[task.index()] as usize].priority;
        let mut urgency = partition::urgency(&graph, &order, &priority);
        for group in job.groups.iter().filter(|group| glue::is_special(group)) {
            urgency[group.first.index()..][..group.count as usize].iter_mut().for_each(|u| *u |= SPECIAL);
        }
        let (text, path) = (Arc::from(""), PathBuf::new());
        Scene { job: Arc::new(job), graph, order, text, path, estimates, ends, urgency, groups }
    }

    /// Number of tasks.
    pub fn tasks(&self) -> u32 {
        self.groups.len() as u32
    }

    /// The group of a task.
    pub fn group(&self, task: TaskId) -> u32 {
        self.groups[task.index()]
    }

    /// The estimated duration of a task.
    pub fn estimate(&self, task: TaskId) -> Duration {
        Duration::from_nanos(self.estimates[task.index()])
    }

    /// What whoever decides about ranks must know of the job.
    pub(super) fn course(&self) -> (Arc<Job>, Arc<TaskGraph>, Arc<[u64]>) {
        (Arc::clone(&self.job), Arc::clone(&self.graph), Arc::clone(&self.estimates))
    }

    /// Estimated time times slots of all tasks.
    pub fn work(&self) -> Duration {
        let slots = |task: usize| u64::from(glue::slots(&self.job.groups[self.groups[task] as usize]));
        let sum: u128 = self.estimates.iter().enumerate().map(|(t, &ns)| u128::from(ns) * u128::from(slots(t))).sum();
        Duration::from_nanos(u64::try_from(sum).unwrap_or(u64::MAX))
    }

    /// The duration of a task that its job file gives, if it does.
    pub fn prior(&self, task: TaskId) -> Option<Duration> {
        self.job.groups[self.group(task) as usize].estimate.map(|_| self.estimate(task))
    }

    /// Chooses the homes on these ranks.
    pub(super) fn divide(&self, members: &[Member], terms: &fit::Terms, method: Option<Method>) -> Partition {
        let duration = |task: TaskId| self.estimates[task.index()];
        let method = method.unwrap_or_else(|| fit::method(&self.job));
        fit::homes(&self.job, &self.graph, &self.order, &duration, members, terms, method)
    }

    /// The partition in which each task is at home where it was dealt, and a join with the first task that it waits for.
    pub(super) fn dealt(&self, dealt: &[u32], members: &[Member]) -> Partition {
        let tasks = self.graph.task_count();
        let mut home = dealt.to_vec();
        home.resize(self.graph.node_count(), 0);
        for node in self.graph.topological().iter().filter(|&node| node as usize >= tasks) {
            home[node as usize] = self.graph.predecessors(node).next().map_or(0, |edge| home[edge.node() as usize]);
        }
        let slots: Vec<u32> = members.iter().map(|member| member.slots).collect();
        partition::measure(&self.graph, &|task| self.estimates[task.index()], &slots, home)
    }

    /// The partition with these homes.
    pub(super) fn known(&self, homes: &[u32], members: &[Member]) -> Partition {
        let slots: Vec<u32> = members.iter().map(|member| member.slots).collect();
        partition::measure(&self.graph, &|task| self.estimates[task.index()], &slots, homes.to_vec())
    }

    /// What the coordinator asks about tasks.
    pub(super) fn advice(&self, terms: fit::Terms) -> Box<dyn Advice> {
        Box::new(Known { terms, estimates: Arc::clone(&self.estimates) })
    }
}

/// The terms of a real run, with estimates that are looked up and not worked out again.
struct Known {
    terms: fit::Terms,
    estimates: Arc<[u64]>,
}

impl Advice for Known {
    fn class(&self, task: TaskId) -> (u32, Range<u32>) {
        self.terms.class(task)
    }

    fn work(&self, task: TaskId) -> u64 {
        self.estimates[task.index()]
    }

    fn fits(&self, task: TaskId, member: &Member) -> bool {
        self.terms.fits(task, member)
    }

    fn share_out(&mut self, members: &[Member]) {
        self.terms.share_out(members);
    }

    fn has_share(&self, task: TaskId, rank: Rank) -> bool {
        self.terms.has_share(task, rank)
    }

    fn shares(&self, rank: Rank) -> Vec<(u32, u32)> {
        self.terms.shares(rank)
    }
}

/// How an attempt goes: how long it takes on a node of speed 1, and how it ends.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Fate {
    pub(super) took: Duration,
    pub(super) outcome: Outcome,
}

/// Draws the fates of attempts: by seed, task and attempt alone, so that they are the same wherever and whenever a task runs.
#[derive(Clone, Debug)]
pub(super) struct Fates {
    seed: u64,
    failing: f64,
    spawn: Duration,
    /// The spread of each group.
    spreads: Vec<f64>,
}

impl Fates {
    pub(super) fn new(job: &Job, tasks: &Tasks, faults: &Faults, seed: u64) -> Fates {
        let spreads = job.groups.iter().map(|group| tasks.spread_of(&group.class)).collect();
        Fates { seed, failing: faults.task, spawn: tasks.spawn, spreads }
    }

    /// The fate of an attempt on a node where tasks take `slowness` times their duration.
    pub(super) fn of(&self, scene: &Scene, task: TaskId, attempt: u16, slowness: f64) -> Fate {
        let id = scene.group(task);
        let group = &scene.job.groups[id as usize];
        let mut rng = generator(self.seed, Subject::Task, u64::from(task.0) << 16 | u64::from(attempt));
        let own = self.spread(id as usize, &mut rng);
        let spawn = if scene.job.is_kernel(id) { Duration::ZERO } else { self.spawn };
        let took = (stretch(scene.estimate(task), own * slowness) + spawn).max(Duration::from_nanos(1));
        let fails = self.failing > 0.0 && rng.f64() < self.failing;
        match group.time {
            Some(limit) if took > limit => {
                Fate { took: limit, outcome: Outcome { state: State::Timeout, exit: -libc::SIGTERM } }
            }
            // Nothing is known of when a task that fails does so: on average half way.
            _ if fails => Fate { took: took / 2, outcome: Outcome { state: State::Failed, exit: 1 } },
            _ => Fate { took, outcome: scene.ends.as_ref().map_or(Outcome::OK, |ends| ends[task.index()]) },
        }
    }

    fn spread(&self, group: usize, rng: &mut Rng) -> f64 {
        let spread = self.spreads[group];
        if spread > 0.0 { (spread * normal(rng)).exp() } else { 1.0 }
    }
}
