//! Which ready tasks go to another rank where tasks read, on the disk of their node, what others
//! have written there.
//!
//! A rank remembers whose outputs its node has, and names them when it asks for work. The rank that
//! gives knows what its own node has, so it gives the tasks for which the fewest bytes must travel
//! that would not if they stayed. It gives none whose files take longer to travel than the tasks
//! that wait here would take to start: stealing it would gain nothing. They wait at least as long
//! again as one of them has waited, however short the tasks were that have ended. Ranks of one node
//! share what they have, and ranks of a job without such files know nothing of all this.

use std::collections::VecDeque;
use std::time::Duration;

use rustc_hash::{FxHashMap, FxHashSet};
use serde::{Deserialize, Serialize};

use super::protocol::{Lease, Load};
use crate::graph::ascending::Ascending;
use crate::graph::long_tasks::BYTES_PER_NS;
use crate::model::{Rank, TaskId, Time};

/// Tasks whose outputs a rank remembers, the latest ones.
const MAX_REMEMBERED: usize = 4096;

/// Of outputs whose size nobody knows this much is assumed, in bytes.
const UNKNOWN_BYTES: u64 = 1 << 20;

/// A rank that has refused to give tasks because of their files weighs them again after this.
const WEIGHING_PAUSE: Duration = Duration::from_millis(20);

/// What a task reads of another one's outputs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReadFiles {
    /// The task that writes them.
    pub writer: TaskId,
    /// Their bytes, if known.
    pub bytes: Option<u64>,
}

impl ReadFiles {
    /// Joins what is read of the same writer; the bytes are known if those of all its files are.
    pub(crate) fn by_writer(files: impl Iterator<Item = (TaskId, Option<u64>)>) -> Vec<ReadFiles> {
        let mut joined: Vec<ReadFiles> = Vec::new();
        for (writer, bytes) in files {
            match joined.iter_mut().find(|files| files.writer == writer) {
                Some(files) => files.bytes = files.bytes.zip(bytes).map(|(sum, bytes)| sum + bytes),
                None => joined.push(ReadFiles { writer, bytes }),
            }
        }
        joined
    }
}

/// The outputs that a rank's node has, as far as the rank knows.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Holdings {
    /// A number that all ranks of the node share.
    node: u64,
    /// The tasks that have written them.
    writers: Ascending,
}

/// Tasks that are weighed before some of them are given away.
struct Weighing {
    /// Number of tasks to be given at most.
    share: u32,
    /// How long the last of those that wait here will wait.
    wait: Option<Duration>,
}

/// What a rank of a job with such files knows.
pub(super) struct DataStealing {
    node: u64,
    /// The writers of what the node has, oldest first.
    order: VecDeque<TaskId>,
    held: FxHashSet<TaskId>,
    /// What thieves have named.
    thieves: FxHashMap<Rank, Holdings>,
    weighing: Option<Weighing>,
    /// Nothing is weighed before this.
    not_before: Time,
}

impl DataStealing {
    pub(super) fn new(node: u64) -> DataStealing {
        DataStealing {
            node,
            order: VecDeque::new(),
            held: FxHashSet::default(),
            thieves: FxHashMap::default(),
            weighing: None,
            not_before: Time::ZERO,
        }
    }

    /// The node has the outputs of a task from now on.
    pub(super) fn hold(&mut self, writer: TaskId) {
        if self.held.insert(writer) {
            self.order.push_back(writer);
        }
        if self.order.len() > MAX_REMEMBERED
            && let Some(oldest) = self.order.pop_front()
        {
            self.held.remove(&oldest);
        }
    }

    /// What the rank names when it asks for work.
    pub(super) fn holdings(&self) -> Holdings {
        let mut writers: Vec<u32> = self.held.iter().map(|task| task.0).collect();
        writers.sort_unstable();
        Holdings { node: self.node, writers: writers.into_iter().collect() }
    }

    /// A thief has named what its node has.
    pub(super) fn learn(&mut self, thief: Rank, holdings: Holdings) {
        self.thieves.insert(thief, holdings);
    }

    /// Other ranks are active from now on.
    pub(super) fn meet(&mut self) {
        self.thieves.clear();
    }

    /// True while nothing is given away that would have to be weighed.
    pub(super) fn is_pausing(&self, now: Time) -> bool {
        now < self.not_before
    }

    /// How many tasks to take out of the pool so that `share` of them can be given to a thief: all
    /// that may be weighed, if its node is another.
    pub(super) fn begin(&mut self, thief: Rank, (share, most): (u32, u32), load: Load, usual: Option<Duration>) -> u32 {
        if self.thieves.get(&thief).is_none_or(|holdings| holdings.node == self.node) {
            return share;
        }
        // Where nothing runs, nothing tells when one of them will start.
        let usual = usual.filter(|_| load.busy > 0);
        let wait = usual.map(|usual| usual.saturating_mul(load.ready) / load.busy);
        self.weighing = Some(Weighing { share, wait });
        load.ready.clamp(share, most.max(share))
    }

    /// Divides what the pool gave up into what the thief gets and what stays.
    pub(super) fn choose(
        &mut self,
        now: Time,
        thief: Rank,
        leases: Vec<Lease>,
        reads: &dyn Fn(TaskId) -> Vec<ReadFiles>,
    ) -> (Vec<Lease>, Vec<Lease>) {
        let Some(Weighing { share, wait }) = self.weighing.take() else { return (leases, Vec::new()) };
        let there = self.thieves.get(&thief).map(|holdings| &holdings.writers);
        let is_there = |writer: TaskId| there.is_some_and(|writers| writers.position(writer.0).is_some());
        let sides = |writer: TaskId| (self.held.contains(&writer), is_there(writer));
        let extra = |lease: &Lease| extra_bytes(&reads(lease.task), &sides);
        let weighed: Vec<i64> = leases.iter().map(extra).collect();
        let longest = leases.iter().map(|lease| now.since(lease.ready)).max().unwrap_or_default();
        let wait = wait.map(|wait| wait.max(longest));
        let given = cheapest(&weighed, share as usize, wait);
        if given.is_empty() && !leases.is_empty() {
            self.not_before = now.after(WEIGHING_PAUSE);
        }
        let (mut chosen, mut kept) = (Vec::new(), Vec::new());
        for (at, lease) in leases.into_iter().enumerate() {
            if given.contains(&at) { chosen.push(lease) } else { kept.push(lease) }
        }
        (chosen, kept)
    }
}

/// The bytes that travel if a task runs there and would not if it ran here, less those that would
/// travel here and not there. `sides` says whether each node has the outputs of a task.
fn extra_bytes(reads: &[ReadFiles], sides: &dyn Fn(TaskId) -> (bool, bool)) -> i64 {
    let bytes = |file: &ReadFiles| i64::try_from(file.bytes.unwrap_or(UNKNOWN_BYTES)).unwrap_or(i64::MAX);
    let extra = |file: &ReadFiles| match sides(file.writer) {
        (true, false) => bytes(file),
        (false, true) => -bytes(file),
        _ => 0,
    };
    reads.iter().map(extra).fold(0, i64::saturating_add)
}

/// The positions of at most `share` tasks with the least extra bytes, ascending: none that takes
/// longer to travel than `wait`. Of equal ones the first.
fn cheapest(extra: &[i64], share: usize, wait: Option<Duration>) -> Vec<usize> {
    let travels = |extra: i64| Duration::from_nanos(u64::try_from(extra).unwrap_or(0) / BYTES_PER_NS);
    let mut order: Vec<usize> =
        (0..extra.len()).filter(|&at| wait.is_none_or(|wait| travels(extra[at]) <= wait)).collect();
    order.sort_by_key(|&at| extra[at]);
    order.truncate(share);
    order.sort_unstable();
    order
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::model::Shortfalls;

    fn lease(task: u32) -> Lease {
        let (home, ready, short) = (Rank(0), Time::ZERO, Shortfalls::NONE);
        Lease { task: TaskId(task), home, attempt: 1, urgency: 0, ready, short }
    }

    proptest! {
        /// Whatever they weigh: no more than the share is given, no task that stays weighs less
        /// than one that goes unless it may not go, and each is given or kept.
        #[test]
        fn the_lightest_go(
            extra in prop::collection::vec(-5_000_000..5_000_000i64, 0..40),
            share in 0..50usize,
            wait in prop::option::of(0..5_000_000u64),
        ) {
            let wait = wait.map(Duration::from_nanos);
            let given = cheapest(&extra, share, wait);
            prop_assert!(given.len() <= share && given.is_sorted());
            let may_go = |at: &usize| wait.is_none_or(|wait| extra[*at] <= wait.as_nanos() as i64);
            prop_assert!(given.iter().all(may_go));
            let heaviest = given.iter().map(|&at| extra[at]).max();
            let stays = (0..extra.len()).filter(|at| !given.contains(at) && may_go(at));
            for at in stays {
                prop_assert!(given.len() == share && heaviest.is_none_or(|heaviest| extra[at] >= heaviest));
            }
        }
    }

    #[test]
    fn tasks_go_where_their_files_are() {
        let mut stealing = DataStealing::new(1);
        // Of the outputs of 0 to 9, those of 0 to 4 are here, and those of 5 to 9 with the thief.
        (0..5).for_each(|writer| stealing.hold(TaskId(writer)));
        let mut of_thief = DataStealing::new(2);
        (5..10).for_each(|writer| of_thief.hold(TaskId(writer)));
        stealing.learn(Rank(1), of_thief.holdings());
        let load = Load { ready: 10, busy: 1, ..Load::default() };
        let usual = Some(Duration::from_millis(10));
        assert_eq!(stealing.begin(Rank(1), (3, 128), load, usual), 10);
        let reads = |task: TaskId| vec![ReadFiles { writer: TaskId(task.0 - 10), bytes: Some(4 << 20) }];
        let leases: Vec<Lease> = (10..20).map(lease).collect();
        let (given, kept) = stealing.choose(Time::ZERO, Rank(1), leases.clone(), &reads);
        assert_eq!(given, [15, 16, 17].map(lease));
        assert_eq!(kept.len(), 7);
        // Of those whose files are here one would be given, if that were worth it.
        for (bytes, expected) in [(90 << 20, 1), (200 << 20, 0)] {
            stealing.begin(Rank(1), (1, 128), load, usual);
            let reads = |task: TaskId| vec![ReadFiles { writer: TaskId(task.0 - 10), bytes: Some(bytes) }];
            let (given, kept) = stealing.choose(Time::ZERO, Rank(1), leases[..5].to_vec(), &reads);
            assert_eq!((given.len(), kept.len()), (expected, 5 - expected));
            assert_eq!(stealing.is_pausing(Time(1)), expected == 0);
        }
        // One that has waited for longer than its files travel goes, and so does one where nothing
        // runs.
        let reads = |task: TaskId| vec![ReadFiles { writer: TaskId(task.0 - 10), bytes: Some(200 << 20) }];
        for (busy, now) in [(1, Time(10_000_000_000)), (0, Time::ZERO)] {
            stealing.begin(Rank(1), (1, 128), Load { busy, ..load }, usual);
            assert_eq!(stealing.choose(now, Rank(1), leases[..5].to_vec(), &reads).0.len(), 1);
        }
        // Ranks of one node have the same files.
        stealing.learn(Rank(2), DataStealing::new(1).holdings());
        assert_eq!(stealing.begin(Rank(2), (3, 128), load, usual), 3);
        assert_eq!(stealing.choose(Time::ZERO, Rank(2), leases.clone(), &reads).0, leases);
    }

    #[test]
    fn the_latest_outputs_are_remembered() {
        let mut stealing = DataStealing::new(1);
        (0..MAX_REMEMBERED as u32 + 2).for_each(|writer| stealing.hold(TaskId(writer)));
        stealing.hold(TaskId(7));
        let holdings = stealing.holdings();
        assert_eq!((holdings.writers.len(), holdings.writers.get(0)), (MAX_REMEMBERED, 2));
    }
}
