//! A job made ready to run: its graph, and everything derived from graph and estimates.

use std::sync::Arc;
use std::time::Duration;

use super::estimates::TaskEstimates;
use super::placement::{self, PlacementRules};
use super::requirements;
use crate::graph::partition::{self, Method, Partition};
use crate::graph::{Cycle, GraphError, Order, TaskGraph};
use crate::job::{Diagnostic, Diagnostics, Job, Loaded};
use crate::model::TaskId;
use crate::schedule::coordinator::Member;
use crate::schedule::dependency_counts::SPECIAL;

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

    /// Prepares a job with an existing graph.
    pub fn new(job: Job, graph: Arc<TaskGraph>) -> PreparedJob {
        let estimates = TaskEstimates::of(&job);
        let order = graph.order(&|task| estimates.ns(job.group_of(task)));
        let mut urgency = partition::urgency(&graph, &order, &|task| job.group(task).priority);
        for group in job.groups.iter().filter(|group| requirements::is_special(group)) {
            let nodes = &mut urgency[group.first.index()..][..group.count as usize];
            nodes.iter_mut().for_each(|urgency| *urgency |= SPECIAL);
        }
        PreparedJob { job: Arc::new(job), graph, estimates: Arc::new(estimates), order, urgency }
    }

    /// Number of tasks.
    pub fn tasks(&self) -> u32 {
        self.graph.task_count() as u32
    }

    /// The estimated duration of a task.
    pub fn estimate(&self, task: TaskId) -> Duration {
        Duration::from_nanos(self.estimate_ns(task))
    }

    fn estimate_ns(&self, task: TaskId) -> u64 {
        self.estimates.ns(self.job.group_of(task))
    }

    /// Chooses the home of every node on these ranks. `method`: `None` for the one that the job
    /// requests.
    pub(crate) fn divide(&self, members: &[Member], rules: &PlacementRules, method: Option<Method>) -> Partition {
        let duration = |task| self.estimate_ns(task);
        let method = method.unwrap_or_else(|| placement::method(&self.job));
        placement::homes(&self.job, &self.graph, &self.order, &duration, members, rules, method)
    }

    /// The partition with these homes.
    pub(crate) fn with_homes(&self, homes: Vec<u32>, members: &[Member]) -> Partition {
        let slots: Vec<u32> = members.iter().map(|member| member.slots).collect();
        partition::measure(&self.graph, &|task| self.estimate_ns(task), &slots, homes)
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

fn report_cycle(job: &Job, cycle: &Cycle) -> Diagnostic {
    let mut names: Vec<String> = cycle.path.iter().map(|&task| job.task_name(task)).collect();
    names.extend(names.first().cloned());
    let mut item = Diagnostic::error(format!("tasks wait for each other: {}", names.join(" -> ")));
    for span in &cycle.spans {
        item = item.label(span, "part of the cycle");
    }
    item.help("remove one of these dependencies, or split a task in two")
}
