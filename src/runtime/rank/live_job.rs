//! The job as a rank knows it: the tasks of its start, and those that were added since.

use std::sync::{Arc, PoisonError, RwLock};

use rustc_hash::FxHashMap;

use super::passed_files::PassedFiles;
use crate::graph::link::GroupId;
use crate::job::{Job, Retry};
use crate::model::{GangHost, RankRoom, Shortfalls, TaskId};
use crate::schedule::fair::{FairTable, FamilyId};
use crate::schedule::locality::ReadFiles;
use crate::schedule::pools::SetId;
use crate::schedule::pools::table::PoolTable;
use crate::schedule::protocol::Lease;
use crate::schedule::resources::Needs;
use crate::schedule::worker::Facts;
use crate::workload::requirements;
use crate::workload::{fair, pools};

/// The tasks of a run on a rank.
pub(super) struct LiveJob {
    start: Arc<Job>,
    /// Number behind its last task.
    start_end: u32,
    start_pools: Arc<PoolTable>,
    start_fair: Arc<FairTable>,
    /// What attempts of earlier sessions fell short of.
    earlier: FxHashMap<TaskId, Shortfalls>,
    /// What staged tasks of the start read of each other.
    passed: Option<Arc<PassedFiles>>,
    grown: RwLock<Grown>,
}

/// What has been added.
struct Grown {
    /// Jobs of added tasks alone, each with the number of its first group; ascending.
    added: Vec<(GroupId, Arc<Job>)>,
    pools: Arc<PoolTable>,
    fair: Arc<FairTable>,
}

/// A task with what its job says of it.
struct Found<'a> {
    job: &'a Job,
    /// Its needs of pools.
    set: SetId,
    family: FamilyId,
    is_fair: bool,
}

impl LiveJob {
    /// A job to which nothing has been added, and the tasks of which attempts of earlier sessions
    /// fell short.
    pub(super) fn new(job: Arc<Job>, earlier: &[(TaskId, Shortfalls)]) -> LiveJob {
        let earlier = earlier.iter().copied().collect();
        let (pools, fair) = (Arc::new(pools::table(&job)), Arc::new(fair::table(&job)));
        let grown = Grown { added: Vec::new(), pools: Arc::clone(&pools), fair: Arc::clone(&fair) };
        let start_end = job.task_count() as u32;
        let grown = RwLock::new(grown);
        LiveJob { start: job, start_end, start_pools: pools, start_fair: fair, earlier, passed: None, grown }
    }

    /// The same, with what staged tasks read of each other.
    pub(super) fn with_passed_files(self, passed: Option<Arc<PassedFiles>>) -> LiveJob {
        LiveJob { passed, ..self }
    }

    /// The job of the start.
    pub(super) fn start(&self) -> &Arc<Job> {
        &self.start
    }

    /// The pools and shares of all tasks.
    pub(super) fn tables(&self) -> (Arc<PoolTable>, Arc<FairTable>) {
        let grown = self.grown.read().unwrap_or_else(PoisonError::into_inner);
        (Arc::clone(&grown.pools), Arc::clone(&grown.fair))
    }

    /// True if a task needs a pool.
    pub(super) fn has_pools(&self) -> bool {
        !self.start_pools.is_empty() || !self.grown.read().unwrap_or_else(PoisonError::into_inner).pools.is_empty()
    }

    /// Adds tasks.
    pub(super) fn add(&self, first_group: GroupId, job: Arc<Job>) {
        let mut grown = self.grown.write().unwrap_or_else(PoisonError::into_inner);
        grown.pools = Arc::new(pools::grown(PoolTable::clone(&grown.pools), &job));
        if !grown.fair.is_empty() {
            grown.fair = Arc::new(fair::grown(FairTable::clone(&grown.fair), &job));
        }
        grown.added.push((first_group, job));
    }

    fn with<T>(&self, task: TaskId, tell: impl FnOnce(Found<'_>) -> T) -> T {
        if task.0 < self.start_end {
            let (job, is_fair) = (&*self.start, !self.start_fair.is_empty());
            let family = fair::family(job, &self.start_fair, task);
            return tell(Found { job, set: self.start_pools.set_of(task), family, is_fair });
        }
        let grown = self.grown.read().unwrap_or_else(PoisonError::into_inner);
        let starts = |(_, job): &(GroupId, Arc<Job>)| job.groups.first().is_some_and(|group| group.first <= task);
        let upto = grown.added.partition_point(starts);
        let (first_group, job) = match upto.checked_sub(1) {
            Some(at) => (grown.added[at].0, &*grown.added[at].1),
            None => (0, &*self.start),
        };
        let is_fair = !grown.fair.is_empty();
        let family = if is_fair { first_group + job.group_of(task).0 + 1 } else { 0 };
        tell(Found { job, set: grown.pools.set_of(task), family, is_fair })
    }

    fn earlier(&self, task: TaskId) -> Shortfalls {
        if self.earlier.is_empty() { Shortfalls::NONE } else { self.earlier.get(&task).copied().unwrap_or_default() }
    }

    /// All shortfalls of a task that has had these in this session.
    pub(super) fn shortfalls(&self, task: TaskId, short: Shortfalls) -> Shortfalls {
        short.and(self.earlier(task))
    }

    /// What an attempt at a task after these shortfalls of this session needs of the pool of a rank
    /// with `most` bytes of memory; `None` if a slot is enough.
    pub(super) fn needs(&self, task: TaskId, short: Shortfalls, most: u64) -> Option<Needs> {
        let short = self.shortfalls(task, short);
        self.with(task, |found| requirements::needs(found.job, (task, short), most, found.set, found.family))
    }

    /// What a rank with `most` bytes of memory sets aside for its part of a task on several ranks.
    pub(super) fn host_needs(&self, lease: &Lease, host: &GangHost, most: u64) -> Needs {
        let short = self.shortfalls(lease.task, lease.short);
        self.with(lease.task, |found| requirements::host_needs(found.job.group(lease.task), short, host, most))
    }

    /// The name of a task.
    pub(super) fn task_name(&self, task: TaskId) -> String {
        self.with(task, |found| found.job.task_name(task))
    }
}

impl Facts for LiveJob {
    fn retry(&self, task: TaskId) -> Retry {
        self.with(task, |found| *found.job.group(task).retry).after(self.earlier(task))
    }

    fn movable(&self, task: TaskId) -> bool {
        self.with(task, |found| !found.is_fair && !requirements::is_special(found.job.group(task)))
    }

    fn needs_gang(&self, task: TaskId, room: RankRoom, ranks: u32) -> bool {
        self.with(task, |found| found.job.group(task).needs_gang(room, ranks))
    }

    fn data_node(&self) -> Option<u64> {
        self.passed.as_ref().map(|passed| passed.node)
    }

    fn is_staged(&self, task: TaskId) -> bool {
        task.0 < self.start_end && self.start.is_staged(self.start.group_of(task).0 as usize)
    }

    fn reads(&self, task: TaskId) -> Vec<ReadFiles> {
        let passed = self.passed.as_ref().filter(|_| self.is_staged(task));
        passed.map_or_else(Vec::new, |passed| passed.reads(&self.start, task))
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::exec::Kernels;
    use crate::job::{parse, read_added};

    #[test]
    fn added_tasks_have_facts_of_their_own() {
        let base = "[pools.p]\ncapacity = 2\n[[task]]\nname = 'a'\narray = '0-2'\nkernel = 'noop'\nshare = 2\n";
        let kernels = Kernels::builtin();
        let job = Arc::new(parse(base, "b.toml", Path::new("/"), &kernels).unwrap().job);
        let live = LiveJob::new(Arc::clone(&job), &[]);
        assert!(!live.has_pools());
        for (first, group, text) in [
            (3, 1, "[[task]]\nname = 'm'\nretries = 4\nkernel = 'noop'\n"),
            (4, 2, "[[task]]\nname = 'n'\npools = { p = 1 }\nkernel = 'noop'\n[[task]]\nname = 'o'\nkernel = 'noop'\n"),
        ] {
            live.add(group, Arc::new(read_added(&job, (TaskId(first), group), text.into(), &kernels).unwrap()));
        }
        assert!(live.has_pools());
        let needs = |task| live.needs(TaskId(task), Shortfalls::NONE, 1 << 30).unwrap();
        let families: Vec<u32> = (0..6).map(|task| needs(task).family).collect();
        assert_eq!(families, [1, 1, 1, 2, 3, 4]);
        let pools: Vec<u32> = (0..6).map(|task| needs(task).pools).collect();
        assert_eq!(pools, [0, 0, 0, 0, 1, 0]);
        assert_eq!((live.retry(TaskId(3)).count, live.retry(TaskId(4)).count), (4, 0));
        assert_eq!((live.task_name(TaskId(2)), live.task_name(TaskId(5))), ("a[2]".into(), "o".into()));
        assert_eq!(live.tables().1.families.len(), 4);
    }

    #[test]
    fn added_tasks_that_fell_short_ask_for_more() {
        let base = "[[task]]\nname = 'a'\nkernel = 'noop'\nmemory = 'auto'\n";
        let more = "[[task]]\nname = 'm'\nclass = 'a'\nkernel = 'noop'\nmemory = 'auto'\n\
            [[task]]\nname = 'n'\nkernel = 'noop'\nmemory = '100M'\n\
            retries = { count = 1, memory_factor = 3 }\n";
        let kernels = Kernels::builtin();
        let mut job = parse(base, "b.toml", Path::new("/"), &kernels).unwrap().job;
        job.set_auto_memory(Arc::new([("a".into(), 50 << 20)]));
        let short = Shortfalls { memory: 1, time: 0 };
        let live = LiveJob::new(Arc::new(job), &[(TaskId(0), short)]);
        let added = read_added(live.start(), (TaskId(1), 1), more.into(), &kernels).unwrap();
        live.add(1, Arc::new(added));
        let asked =
            |task, memory| live.needs(TaskId(task), Shortfalls { memory, time: 0 }, 200 << 20).unwrap().memory >> 20;
        assert_eq!([0, 1, 2, 3].map(|short| asked(1, short)), [50, 75, 112, 200], "as a task of the job of its class");
        assert_eq!([0, 1].map(|short| asked(2, short)), [100, 200], "at most what the rank has");
        assert_eq!([0, 1, 2].map(|short| asked(0, short)), [75, 112, 200], "a session goes on where the last one was");
        let left =
            |task, failures| live.retry(TaskId(task)).is_left(failures, Shortfalls { memory: failures as u8, time: 0 });
        assert_eq!([0, 1].map(|task| left(task, 3)), [false, true]);
    }
}
