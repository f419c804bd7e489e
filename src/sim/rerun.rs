//! Repeats a run that has ended in virtual time: each task takes the recorded time, and some
//! property of the run may be changed.
//!
//! The coordinator and the workers are those of a real run, with the homes that they would choose.
//! Nothing is random: no node is slow or lost, no message is late, and no policy changes the ranks.
//! So the same question has the same answer, and two answers differ only because of the change.

use std::sync::Arc;
use std::time::Duration;

use super::cluster::{Cluster, Faults, Network, NodeKind, TaskSpread};
use super::fates::RecordedTasks;
use super::random::Distribution;
use super::simulator::{Forget, Setup, Simulator};
use crate::graph::TaskGraph;
use crate::job::{Job, Retry};
use crate::model::{TaskId, Time};
use crate::workload::PreparedJob;

/// Approximate time of a message between two ranks.
const MESSAGE_LATENCY: Duration = Duration::from_micros(20);

/// A run that is repeated.
pub struct Rerun<'a> {
    /// The job, with the change. Retries, time limits and failure limits are ignored, since their
    /// results are recorded.
    pub job: Job,
    /// Its graph.
    pub graph: &'a Arc<TaskGraph>,
    /// Duration and end of each task.
    pub tasks: RecordedTasks,
    /// The slots of each rank; at least one rank.
    pub slots: &'a [u32],
    /// The homes of the graph's nodes, as [`homes`] chose them for the same number of ranks.
    pub homes: &'a [u32],
    /// True for tasks that were complete before.
    pub done: &'a dyn Fn(TaskId) -> bool,
}

impl Rerun<'_> {
    /// Returns the time when the run is over.
    ///
    /// # Errors
    ///
    /// If a task fits on none of the ranks.
    pub fn run(mut self) -> Result<Time, String> {
        for group in &mut self.job.groups {
            group.retry = Retry { count: 0, ..*group.retry }.into();
            group.time = None;
        }
        self.job.max_failures = None;
        let cluster = cluster(self.slots).with_labels_of(&self.job);
        let prepared = PreparedJob::new(self.job, Arc::clone(self.graph));
        let homes = Some(self.homes);
        let ranks = self.slots.len() as u32;
        let recorded = Some(self.tasks);
        let setup = Setup { cluster: &cluster, ranks, seed: 0, homes, controller: None, done: self.done, recorded };
        Ok(Simulator::new(&prepared, setup, &mut Forget)?.run()?.time)
    }
}

/// The initial homes of a run on ranks with these slots, by the estimates of its job file.
///
/// # Errors
///
/// If a task fits on none of the ranks.
pub fn homes(job: &Job, graph: &Arc<TaskGraph>, slots: &[u32]) -> Result<Vec<u32>, String> {
    let prepared = PreparedJob::new(job.clone(), Arc::clone(graph));
    Simulator::homes(&prepared, &cluster(slots).with_labels_of(job), slots.len() as u32)
}

/// Nodes with these slots and unlimited other resources: the caller must model the effect of memory
/// and GPU limits.
fn cluster(slots: &[u32]) -> Cluster {
    let at_once = || Distribution::Constant(Duration::ZERO);
    let node = |alike: &[u32]| NodeKind {
        name: "n".to_owned(),
        slots: alike[0],
        memory: u64::MAX,
        gpus: u32::MAX,
        labels: Arc::default(),
        speed: 1.0,
        price: 0.0,
        granularity: Duration::ZERO,
        minimum: Duration::ZERO,
        limit: u32::MAX,
        first: alike.len() as u32,
        ahead: 0,
        delay: at_once(),
        startup: at_once(),
        failure: 0.0,
    };
    Cluster {
        name: "as it was".to_owned(),
        nodes: slots.chunk_by(|a, b| a == b).map(node).collect(),
        network: Network { latency: MESSAGE_LATENCY, jitter: Duration::ZERO, ..Cluster::default().network },
        faults: Faults::default(),
        tasks: TaskSpread { spread: 0.0, classes: Vec::new(), spawn: Duration::ZERO },
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::exec::Kernels;
    use crate::model::{Outcome, State};
    use crate::workload::graph_of;

    const S: u64 = 1_000_000_000;

    /// Eight tasks, and one that needs all of them.
    const JOB: &str = "[[task]]\nname = \"wide\"\narray = \"0-7\"\nkernel = \"noop\"\n\
                       [[task]]\nname = \"last\"\nneeds = [\"wide\"]\nkernel = \"noop\"\nretries = 3\ntime = \"1s\"\n";

    struct Told {
        job: Job,
        graph: Arc<TaskGraph>,
        took: Vec<u64>,
        ends: Vec<Outcome>,
    }

    fn told() -> Told {
        let loaded = crate::job::parse(JOB, "t.toml", Path::new("/"), &Kernels::builtin()).unwrap();
        let graph = Arc::new(graph_of(&loaded).unwrap());
        let mut took = vec![10 * S; 8];
        took.push(5 * S);
        Told { job: loaded.job, graph, took, ends: vec![Outcome::OK; 9] }
    }

    /// Seconds until the run is over; the protocol adds less than a tenth of one to the tasks.
    fn seconds(told: &Told, slots: &[u32]) -> f64 {
        let homes = homes(&told.job, &told.graph, slots).unwrap();
        let again = Rerun {
            job: told.job.clone(),
            graph: &told.graph,
            tasks: RecordedTasks { took: told.took.clone().into(), ends: told.ends.clone().into() },
            slots,
            homes: &homes,
            done: &|task| task.0 == 0 && told.took[0] == 0,
        };
        let took = again.run().unwrap().seconds();
        (took * 10.0).floor() / 10.0
    }

    #[test]
    fn slots_limits_widths_and_what_was_done_before_count() {
        let mut told = told();
        assert_eq!(
            [&[1][..], &[2], &[2, 2], &[3, 4, 1], &[99]].map(|slots| seconds(&told, slots)),
            [85.0, 45.0, 25.0, 15.0, 15.0]
        );
        told.job.groups[0].limit = Some(2);
        assert_eq!(seconds(&told, &[8]), 45.0);
        told.job.groups[0].limit = None;
        told.job.groups[0].cpus = 3;
        assert_eq!(seconds(&told, &[8]), 45.0);
        told.took[0] = 0;
        assert_eq!(seconds(&told, &[3]), 75.0);
    }

    #[test]
    fn what_failed_fails_again_and_once() {
        let mut told = told();
        told.ends[3] = Outcome { state: State::Failed, exit: 1, cached: false };
        assert_eq!(seconds(&told, &[4]), 20.0, "what needs it is skipped");
        told.ends[3] = Outcome::OK;
        told.ends[8] = Outcome { state: State::Failed, exit: 1, cached: false };
        assert_eq!(seconds(&told, &[4]), 25.0, "it is not tried again, and its limit is no more");
    }
}
