//! How attempts of a simulated run go: how long each takes, and how it ends.

use std::sync::Arc;
use std::time::Duration;

use fastrand::Rng;

use super::cluster::{Faults, TaskSpread};
use super::random::{Subject, generator, normal, stretch};
use crate::job::Job;
use crate::model::{Outcome, State, TaskId};
use crate::workload::PreparedJob;

/// What each task of a run did that has ended.
#[derive(Clone, Debug)]
pub struct RecordedTasks {
    /// How long each took, in nanoseconds.
    pub took: Arc<[u64]>,
    /// How each ended.
    pub ends: Arc<[Outcome]>,
}

/// How an attempt goes: how long it takes on a node of speed 1, and how it ends.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct SimulatedAttempt {
    pub(super) took: Duration,
    pub(super) outcome: Outcome,
}

/// Draws the fates of attempts: by seed, task and attempt alone, so that they are the same wherever
/// and whenever a task runs.
#[derive(Clone, Debug)]
pub(super) struct Fates {
    seed: u64,
    failing: f64,
    spawn: Duration,
    /// The spread of each group.
    spreads: Vec<f64>,
    /// What the tasks did in the run that is repeated, if one is.
    recorded: Option<RecordedTasks>,
}

impl Fates {
    pub(super) fn new(job: &Job, tasks: &TaskSpread, faults: &Faults, seed: u64) -> Fates {
        let spreads = job.groups.iter().map(|group| tasks.spread_of(&group.class)).collect();
        Fates { seed, failing: faults.task, spawn: tasks.spawn, spreads, recorded: None }
    }

    /// Lets each task do what it did in a recorded run, if there is one.
    pub(super) fn with_recorded(self, recorded: Option<RecordedTasks>) -> Fates {
        Fates { recorded, ..self }
    }

    /// The fate of an attempt on a node where tasks take `slowness` times their duration.
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
            Some(limit) if took > limit => {
                SimulatedAttempt { took: limit, outcome: Outcome { state: State::Timeout, exit: -libc::SIGTERM } }
            }
            // Nothing is known of when a task that fails does so: on average half way.
            _ if fails => SimulatedAttempt { took: took / 2, outcome: Outcome { state: State::Failed, exit: 1 } },
            _ => SimulatedAttempt { took, outcome },
        }
    }

    fn spread(&self, group: usize, rng: &mut Rng) -> f64 {
        let spread = self.spreads[group];
        if spread > 0.0 { (spread * normal(rng)).exp() } else { 1.0 }
    }
}
