//! The outcomes of attempts in a simulated run: how long each takes, and how it ends.

use std::sync::Arc;
use std::time::Duration;

use fastrand::Rng;

use super::cluster::{Faults, TaskSpread};
use super::random::{Subject, generator, normal, stretch};
use crate::job::Job;
use crate::model::{Outcome, State, TaskId};
use crate::workload::PreparedJob;

/// What each task of a recorded run did.
#[derive(Clone, Debug)]
pub struct RecordedTasks {
    /// Duration of each task, in nanoseconds.
    pub took: Arc<[u64]>,
    /// How each ended.
    pub ends: Arc<[Outcome]>,
}

/// The outcome of an attempt: its duration on a node of speed 1, and how it ends.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct SimulatedAttempt {
    pub(super) took: Duration,
    pub(super) outcome: Outcome,
}

/// Draws the outcomes of attempts from seed, task and attempt number alone, so that they do not
/// depend on where and when a task runs.
#[derive(Clone, Debug)]
pub(super) struct Fates {
    seed: u64,
    failing: f64,
    spawn: Duration,
    /// The spread of each group.
    spreads: Vec<f64>,
    /// What the tasks did in the run that is repeated, if there is one.
    recorded: Option<RecordedTasks>,
}

impl Fates {
    pub(super) fn new(job: &Job, tasks: &TaskSpread, faults: &Faults, seed: u64) -> Fates {
        let spreads = job.groups.iter().map(|group| tasks.spread_of(&group.class)).collect();
        Fates { seed, failing: faults.task, spawn: tasks.spawn, spreads, recorded: None }
    }

    /// Uses the outcomes of a recorded run, if there is one.
    pub(super) fn with_recorded(self, recorded: Option<RecordedTasks>) -> Fates {
        Fates { recorded, ..self }
    }

    /// The outcome of an attempt on a node where tasks take `slowness` times their duration.
    pub(super) fn of(&self, prepared: &PreparedJob, task: TaskId, attempt: u16, slowness: f64) -> SimulatedAttempt {
        let place = prepared.job.group_of(task);
        let group = &prepared.job.groups[place.0 as usize];
        let mut rng = generator(self.seed, Subject::Task, u64::from(task.0) << 16 | u64::from(attempt));
        let own = self.spread(place.0 as usize, &mut rng);
        let spawn = if prepared.job.is_kernel(place.0) { Duration::ZERO } else { self.spawn };
        let (ns, outcome) = match &self.recorded {
            Some(recorded) => (recorded.took[task.index()], recorded.ends[task.index()]),
            None => (prepared.estimates.ns(place), Outcome::OK),
        };
        let took = (stretch(Duration::from_nanos(ns), own * slowness) + spawn).max(Duration::from_nanos(1));
        let fails = self.failing > 0.0 && rng.f64() < self.failing;
        match group.time {
            Some(limit) if took > limit => SimulatedAttempt {
                took: limit,
                outcome: Outcome { state: State::Timeout, exit: -libc::SIGTERM, cached: false },
            },
            // The moment at which a failing task fails is unknown: half way on average.
            _ if fails => {
                SimulatedAttempt { took: took / 2, outcome: Outcome { state: State::Failed, exit: 1, cached: false } }
            }
            _ => SimulatedAttempt { took, outcome },
        }
    }

    fn spread(&self, group: usize, rng: &mut Rng) -> f64 {
        let spread = self.spreads[group];
        if spread > 0.0 { (spread * normal(rng)).exp() } else { 1.0 }
    }
}
