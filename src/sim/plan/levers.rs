//! Changes of the job file that would shorten the planned run, each simulated.

use serde::Serialize;

use super::refine::Simulations;
use super::{PlanCandidate, PlanQuestion};
use crate::job::Job;
use crate::model::TaskId;
use crate::sim::later_first::{Priorities, later_first, set};

/// A change of the job file, and the makespan with it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Lever {
    /// The change.
    #[serde(flatten)]
    pub change: LeverChange,
    /// Median makespan with the change, in seconds.
    pub makespan_q50_s: f64,
}

/// A change of the job file.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(tag = "change", rename_all = "snake_case")]
pub enum LeverChange {
    /// An array without its limit.
    NoLimit {
        /// Number of the table.
        table: usize,
        /// Name of the array.
        task: String,
        /// Its limit.
        limit: u32,
    },
    /// A pool without its limits.
    NoPoolLimit {
        /// Name of the pool.
        pool: String,
    },
    /// Higher priorities for later stages.
    Priorities {
        /// Number, name and new priority of each table.
        tables: Vec<(usize, String, i32)>,
    },
}

/// Maximum number of limits that are lifted in turn.
const MAX_LIMITS: usize = 3;

/// Number of seeds per change.
const LEVER_SEEDS: u64 = 5;

/// Changes that save less than this share are not worth mentioning.
const MIN_SAVING: f64 = 0.02;

/// Utilisation above which no change can save much.
const MAX_UTILISATION: f64 = 0.95;

/// The changes that shorten a candidate's run, largest saving first.
pub(super) fn levers(question: &PlanQuestion<'_>, candidate: &PlanCandidate) -> Vec<Lever> {
    if candidate.utilisation > MAX_UTILISATION {
        return Vec::new();
    }
    let prepared = question.prepared;
    let job = &prepared.job;
    let work = |task: TaskId| prepared.estimate(task).as_nanos() as u64;
    let with = |change: &dyn Fn(&mut Job)| makespan(question, candidate.ranks, change).unwrap_or(f64::INFINITY);
    let base = with(&|_| ());
    let mut levers = Vec::new();
    let limits = job.groups.iter().enumerate().filter_map(|(table, group)| Some((table, group, group.limit?)));
    let mut limits: Vec<_> = limits.collect();
    let at_limit = |(table, _, limit): &(usize, _, u32)| {
        let group = &job.groups[*table];
        let tasks = (group.first.0..).take(group.count as usize).map(TaskId);
        std::cmp::Reverse(tasks.map(work).fold(0, u64::saturating_add) / u64::from(*limit))
    };
    limits.sort_by_key(at_limit);
    for &(table, group, limit) in limits.iter().take(MAX_LIMITS) {
        let makespan_q50_s = with(&|job| job.groups[table].limit = None);
        levers.push(Lever {
            change: LeverChange::NoLimit { table, task: group.name.to_string(), limit },
            makespan_q50_s,
        });
    }
    for (at, pool) in job.pools.iter().enumerate().take(MAX_LIMITS) {
        let makespan_q50_s = with(&|job| (job.pools[at].capacity, job.pools[at].rate) = (None, None));
        levers.push(Lever { change: LeverChange::NoPoolLimit { pool: pool.name.clone() }, makespan_q50_s });
    }
    let saving = |priorities: &Priorities| base - with(&|job| set(job, priorities));
    if let Some((priorities, saved)) = later_first((job, &prepared.graph), &work, &saving) {
        let name = |(table, priority): (usize, i32)| (table, job.groups[table].name.to_string(), priority);
        let tables = priorities.into_iter().map(name).collect();
        levers.push(Lever { change: LeverChange::Priorities { tables }, makespan_q50_s: base - saved });
    }
    levers.retain(|lever| lever.makespan_q50_s < (1.0 - MIN_SAVING) * base);
    levers.sort_by(|a, b| a.makespan_q50_s.total_cmp(&b.makespan_q50_s));
    levers
}

/// Median makespan of the changed job.
fn makespan(question: &PlanQuestion<'_>, ranks: u32, change: &dyn Fn(&mut Job)) -> Option<f64> {
    let mut job = (*question.prepared.job).clone();
    change(&mut job);
    let prepared = question.prepared.with_job(job);
    let question = PlanQuestion { prepared: &prepared, ranks: &[ranks], ..*question };
    Some(Simulations::new(&question, LEVER_SEEDS, true).candidates().ok()?.first()?.makespan_q50_s)
}
