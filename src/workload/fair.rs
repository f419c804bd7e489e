//! The shares of a job's families: each table is one, if any has a `share`; and of the jobs of a
//! run, if any has one.

use crate::graph::link::GroupId;
use crate::job::Job;
use crate::model::TaskId;
use crate::schedule::fair::{FairFamily, FairTable, FamilyId};

/// The families of a job; none unless a table has a `share`.
pub(crate) fn table(job: &Job) -> FairTable {
    if !is_fair(job) {
        return FairTable::default();
    }
    let mut table = FairTable { is_by_family: has_shares(job), ..FairTable::default() };
    if job.parts.iter().any(|part| part.share.is_some()) {
        table.jobs = job.parts.iter().map(|part| (part.name.as_str().into(), part.share.unwrap_or(1))).collect();
    }
    grown(table, job)
}

/// The table with the families of a job, which may be tasks that are added to another.
pub(crate) fn grown(mut table: FairTable, job: &Job) -> FairTable {
    let jobs = std::mem::take(&mut table.jobs);
    let number = |id| {
        let part = job.part_of(id);
        part.and_then(|part| jobs.iter().position(|(name, _)| **name == *part.name)).unwrap_or(0) as u32
    };
    let family = |(id, group): (GroupId, &crate::job::Group)| FairFamily {
        share: group.share.unwrap_or(1),
        priority: group.priority,
        job: number(id),
    };
    table.families.extend((0..).zip(&job.groups).map(family));
    FairTable { jobs, ..table }
}

/// True if a table of the job, or one of several jobs, has a `share`.
pub(crate) fn is_fair(job: &Job) -> bool {
    has_shares(job) || job.parts.iter().any(|part| part.share.is_some())
}

fn has_shares(job: &Job) -> bool {
    job.groups.iter().any(|group| group.share.is_some())
}

/// The family of a task.
pub(crate) fn family(job: &Job, table: &FairTable, task: TaskId) -> FamilyId {
    if table.is_empty() { 0 } else { job.group_of(task).0 + 1 }
}

/// Homes that spread each family over the ranks in proportion to their slots, so that every rank
/// has tasks of every family. `may`: whether a rank may be home to a group.
pub(crate) fn spread(job: &Job, slots: &[u32], may: &dyn Fn(u32, usize) -> bool, home: &mut [u32]) {
    for (id, group) in (0..).zip(&job.groups) {
        let mut given: Vec<(f64, usize)> =
            (0..slots.len()).filter(|&rank| slots[rank] > 0 && may(id, rank)).map(|rank| (0.0, rank)).collect();
        if given.is_empty() {
            continue;
        }
        for task in group.first.0..group.first.0 + group.count {
            // The rank that has least of the family for its slots.
            let least = |a: &&mut (f64, usize), b: &&mut (f64, usize)| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1));
            let Some(next) = given.iter_mut().min_by(|a, b| least(a, b)) else { break };
            home[task as usize] = next.1 as u32;
            next.0 += 1.0 / f64::from(slots[next.1]);
        }
    }
}
