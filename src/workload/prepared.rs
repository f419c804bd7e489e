//! A job made ready to run: its graph, and everything derived from graph and estimates.

use std::path::Path;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use super::estimates::TaskEstimates;
use super::placement::{self, FurtherNodes, PlacementRules};
use super::selection::Selection;
use super::staged_files::StagedFiles;
use super::{fair, pools, requirements};
use crate::graph::link::{GroupId, Link};
use crate::graph::partition::{self, Partition};
use crate::graph::{Cycle, GraphError, Order, TaskGraph, urgency};
use crate::job::{Diagnostic, Diagnostics, Group, Job, Loaded};
use crate::model::TaskId;
use crate::schedule::coordinator::Member;
use crate::schedule::dependency_counts::SPECIAL;
use crate::schedule::fair::FairTable;
use crate::schedule::pools::table::PoolTable;

/// A job with its graph, its estimates and what follows from them: derived once, and shared by the
/// parts of a real run or by all simulated runs of the job.
pub struct PreparedJob {
    /// The job.
    pub job: Arc<Job>,
    /// Its graph.
    pub graph: Arc<TaskGraph>,
    /// Estimated durations of the tasks.
    pub estimates: Arc<TaskEstimates>,
    /// Upward ranks and the critical path under the estimates.
    pub order: Order,
    /// For each node of the graph, its priority among ready nodes; with [`SPECIAL`] where it needs
    /// more than one slot.
    pub urgency: Vec<u8>,
    /// For each task, whether it is left out of the run; empty if none is. Such a task counts as
    /// ended, and is no work.
    pub left_out: Arc<[bool]>,
    /// The pools of the job.
    pub pools: Arc<PoolTable>,
    /// The shares of its families.
    pub fair: Arc<FairTable>,
    /// The files of its staged tasks, once that is asked.
    staged: OnceLock<Option<Arc<StagedFiles>>>,
}

impl PreparedJob {
    /// Prepares a job from its job file.
    ///
    /// # Errors
    ///
    /// A cycle, or too many dependencies, reported as a mistake in the job file.
    pub fn of(loaded: Loaded) -> Result<PreparedJob, Diagnostics> {
        let graph = graph_of(&loaded)?;
        Ok(PreparedJob::new(loaded.job, Arc::new(graph)))
    }

    /// Prepares the selected tasks of a job from its job file; what the others need or make counts
    /// as being there.
    ///
    /// # Errors
    ///
    /// As [`PreparedJob::of`], or if the selection names no task.
    pub fn selected(loaded: Loaded, selection: &Selection) -> Result<PreparedJob, Diagnostics> {
        let graph = graph_of(&loaded)?;
        let selected = selection.of(&loaded.job, &graph).map_err(|reason| refused_selection(&loaded, reason))?;
        let left_out = selected.left_out(graph.task_count()).into();
        Ok(PreparedJob::of_part(loaded.job, Arc::new(graph), left_out))
    }

    /// Prepares a job with an existing graph.
    pub fn new(job: Job, graph: Arc<TaskGraph>) -> PreparedJob {
        PreparedJob::of_part(job, graph, Arc::default())
    }

    /// The same with a changed job, whose tasks are the same.
    pub fn with_job(&self, job: Job) -> PreparedJob {
        PreparedJob::of_part(job, Arc::clone(&self.graph), Arc::clone(&self.left_out))
    }

    /// Prepares a job with an existing graph, without the tasks that are left out.
    pub fn of_part(job: Job, graph: Arc<TaskGraph>, left_out: Arc<[bool]>) -> PreparedJob {
        let estimates = TaskEstimates::of(&job);
        let is_out = |task: TaskId| left_out.get(task.index()) == Some(&true);
        let order = graph.order(&|task| if is_out(task) { 0 } else { estimates.ns(job.group_of(task)) });
        let is_fair = fair::is_fair(&job);
        let mut urgency = urgency::urgency(&graph, &order, &|task| job.group(task).priority);
        for group in job.groups.iter().filter(|group| is_fair || requirements::is_special(group)) {
            let nodes = &mut urgency[group.first.index()..][..group.count as usize];
            nodes.iter_mut().for_each(|urgency| *urgency |= SPECIAL);
        }
        let (pools, fair) = (Arc::new(pools::table(&job)), Arc::new(fair::table(&job)));
        let (job, estimates, staged) = (Arc::new(job), Arc::new(estimates), OnceLock::new());
        PreparedJob { job, graph, estimates, order, urgency, pools, fair, left_out, staged }
    }

    /// The files of its staged tasks, if there are any. `on_disk` knows sizes that are not
    /// declared; it is asked once.
    pub(crate) fn staged_files(&self, on_disk: &dyn Fn(&Path) -> Option<u64>) -> Option<Arc<StagedFiles>> {
        self.staged.get_or_init(|| StagedFiles::of(&self.job, on_disk).map(Arc::new)).clone()
    }

    /// If families have shares: for each, its first task and the slots of one.
    pub(crate) fn family_slots(&self) -> Vec<(u32, u32)> {
        let groups = self.job.groups.iter().filter(|_| !self.fair.is_empty());
        groups.map(|group| (group.first.0, requirements::slots(group))).collect()
    }

    /// True if a task is left out of the run.
    pub fn is_left_out(&self, task: TaskId) -> bool {
        self.left_out.get(task.index()) == Some(&true)
    }

    /// Number of tasks that are left out.
    pub fn left_out_count(&self) -> u32 {
        self.left_out.iter().filter(|out| **out).count() as u32
    }

    /// Number of tasks of the job.
    pub fn tasks(&self) -> u32 {
        self.graph.task_count() as u32
    }

    /// The estimated duration of a task; 0 if it is left out.
    pub fn estimate(&self, task: TaskId) -> Duration {
        Duration::from_nanos(self.estimate_ns(task))
    }

    fn estimate_ns(&self, task: TaskId) -> u64 {
        if self.is_left_out(task) { 0 } else { self.estimates.ns(self.job.group_of(task)) }
    }

    /// Chooses the home of every node on these ranks, by the placement that the job requests.
    pub(crate) fn divide(&self, members: &[Member], rules: &PlacementRules) -> Partition {
        let duration = |task| self.estimate_ns(task);
        let method = placement::method(&self.job);
        placement::homes(&self.job, &self.graph, &self.order, &duration, members, rules, method)
    }

    /// The partition with these homes.
    pub(crate) fn with_homes(&self, homes: Vec<u32>, members: &[Member]) -> Partition {
        let slots: Vec<u32> = members.iter().map(|member| member.slots).collect();
        partition::measure(&self.graph, &|task| self.estimate_ns(task), &slots, homes)
    }

    /// Refuses a job with a task that is not left out and can never run on these ranks, nor on the
    /// nodes that the run could get.
    ///
    /// # Errors
    ///
    /// One line per such task: what it needs, what there is, and a remedy.
    pub(crate) fn check(&self, members: &[Member], further: &FurtherNodes) -> Result<(), String> {
        let tasks = |group: &Group| group.first.index()..group.first.index() + group.count as usize;
        let wanted = |group: &Group| self.left_out.is_empty() || self.left_out[tasks(group)].contains(&false);
        placement::check(&self.job, members, further, &wanted)
    }

    /// The placement rules for the job on these ranks.
    pub(crate) fn placement_rules(&self, members: &[Member]) -> PlacementRules {
        PlacementRules::new(Arc::clone(&self.job), Arc::clone(&self.estimates), members)
    }
}

/// Builds the graph of a job.
///
/// # Errors
///
/// A cycle, or too many dependencies, reported as a mistake in the job file.
pub fn graph_of(loaded: &Loaded) -> Result<TaskGraph, Diagnostics> {
    let job = &loaded.job;
    let counts: Vec<u32> = job.groups.iter().map(|g| g.count).collect();
    TaskGraph::build(&counts, &job.links).map_err(|error| match error {
        GraphError::Cycle(cycle) => loaded.report(vec![report_cycle(job, &cycle)]),
        GraphError::TooLarge { .. } => {
            let item = Diagnostic::error(format!("the job is too large: {error}"));
            loaded.report(vec![item.help("split the job, or let each task do more")])
        }
    })
}

/// Refuses added tasks that wait for each other, or that need more than the ranks have and the
/// nodes that the run could get. `own`: their tables alone.
///
/// # Errors
/// The cycle, or the tasks that fit nowhere, as mistakes in their text.
pub(crate) fn check_added(
    own: &Loaded,
    first_group: GroupId,
    members: &[Member],
    further: &FurtherNodes,
) -> Result<(), Diagnostics> {
    let job = &own.job;
    let counts: Vec<u32> = job.groups.iter().map(|group| group.count).collect();
    let inner = job.links.iter().filter(|link| link.from >= first_group);
    let inner = inner.map(|link| Link { from: link.from - first_group, to: link.to - first_group, ..link.clone() });
    let first = job.groups.first().map_or(0, |group| group.first.0);
    match TaskGraph::build(&counts, &inner.collect::<Vec<Link>>()) {
        Ok(_) => {}
        Err(GraphError::Cycle(Cycle { path, spans })) => {
            let path = path.into_iter().map(|task| TaskId(first + task.0)).collect();
            return Err(own.report(vec![report_cycle(job, &Cycle { path, spans })]));
        }
        Err(error) => return Err(own.report(vec![Diagnostic::error(format!("too much is added at once: {error}"))])),
    }
    let refused = |reason| own.report(vec![Diagnostic::error(reason)]);
    placement::check(job, members, further, &|_| true).map_err(refused)
}

/// A selection that cannot be used: a mistake on the command line, not in the job file.
pub(crate) fn refused_selection(loaded: &Loaded, reason: String) -> Diagnostics {
    loaded.report(vec![Diagnostic::error(reason)])
}

fn report_cycle(job: &Job, cycle: &Cycle) -> Diagnostic {
    let mut names: Vec<String> = cycle.path.iter().map(|&task| job.task_name(task)).collect();
    names.extend(names.first().cloned());
    let mut item = Diagnostic::error(format!("tasks wait for each other: {}", names.join(" -> ")));
    for span in &cycle.spans {
        item = item.label(span, "part of the cycle");
    }
    item.help("remove one of these dependencies, or split a task in two")
}
