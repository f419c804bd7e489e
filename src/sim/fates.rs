//! The outcomes of attempts in a simulated run: how long each takes, and how it ends.

use std::sync::Arc;
use std::time::Duration;

use fastrand::Rng;

use super::cluster::{Faults, TaskSpread};
use super::random::{Subject, generator, normal, stretch};
use crate::job::{Job, TaskLimits};
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
    /// Peak memory of the tasks of each group, of which each has one; empty: not known.
    peaks: Vec<Arc<[u64]>>,
    /// What the tasks did in the run that is repeated, if there is one.
    recorded: Option<RecordedTasks>,
}

impl Fates {
    pub(super) fn new(job: &Job, tasks: &TaskSpread, faults: &Faults, seed: u64) -> Fates {
        let spreads = job.groups.iter().map(|group| tasks.spread_of(&group.class)).collect();
        let peaks = job.groups.iter().map(|group| tasks.memory_of(&group.class)).collect();
        Fates { seed, failing: faults.task, spawn: tasks.spawn, spreads, peaks, recorded: None }
    }

    /// Uses the outcomes of a recorded run, if there is one.
    pub(super) fn with_recorded(self, recorded: Option<RecordedTasks>) -> Fates {
        Fates { recorded, ..self }
    }

    /// Peak memory of a task in bytes, if it is known.
    pub(super) fn peak(&self, prepared: &PreparedJob, task: TaskId) -> Option<u64> {
        let peaks = &self.peaks[prepared.job.group_of(task).0 as usize];
        let drawn = || generator(self.seed, Subject::Memory, task.0.into()).usize(0..peaks.len());
        (!peaks.is_empty()).then(|| peaks[drawn()])
    }

    /// The outcome of an attempt with these limits on a node where tasks take `slowness` times
    /// their duration.
    pub(super) fn of(
        &self,
        prepared: &PreparedJob,
        (task, attempt): (TaskId, u16),
        limits: TaskLimits,
        slowness: f64,
    ) -> SimulatedAttempt {
        let place = prepared.job.group_of(task);
        let mut rng = generator(self.seed, Subject::Task, u64::from(task.0) << 16 | u64::from(attempt));
        let own = self.spread(place.0 as usize, &mut rng);
        let spawn = if prepared.job.is_kernel(place.0) { Duration::ZERO } else { self.spawn };
        let (ns, outcome) = match &self.recorded {
            Some(recorded) => (recorded.took[task.index()], recorded.ends[task.index()]),
            None => (prepared.estimates.ns(place), Outcome::OK),
        };
        let took = (stretch(Duration::from_nanos(ns), own * slowness) + spawn).max(Duration::from_nanos(1));
        let fails = self.failing > 0.0 && rng.f64() < self.failing;
        // Its memory grows from the start to the end.
        let share_with = |memory: u64| {
            let peak = self.peak(prepared, task).filter(|peak| *peak > memory)?;
            Some(memory as f64 / peak as f64)
        };
        if let Some(share) = limits.memory.and_then(share_with) {
            let took = took.mul_f64(share).max(Duration::from_nanos(1));
            if limits.time.is_none_or(|limit| took <= limit) {
                let outcome = Outcome { state: State::OutOfMemory, exit: -libc::SIGKILL, cached: false };
                return SimulatedAttempt { took, outcome };
            }
        }
        match limits.time {
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
