//! Which waiting tasks have their files brought to the node before they have a slot.
//!
//! A rank prefetches for tasks that wait in its pool, the most urgent first, within bounds of
//! number and bytes. What a task needs that has begun never waits for that: the coordinator gives
//! such transfers a source only where a node sends little (`transfers`), and a transfer that is
//! under way when its task begins counts as the task's own from then on. If a task goes elsewhere,
//! what is on its way for it is given up.

use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::model::{TaskId, Time};

/// Tasks for which files are on their way at once.
pub const MAX_COMING: usize = 2;

/// Tasks that wait with their files here, at most.
const MAX_AHEAD: usize = 16;

/// Bytes that were brought for tasks that still wait; above it nothing more is brought.
const MAX_BYTES_AHEAD: u64 = 1 << 30;

/// Nothing is brought for a task that has waited for less: it may be about to start.
pub const MIN_WAIT: Duration = Duration::from_millis(2);

/// Files that were brought before their tasks had a slot.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PrefetchCounts {
    /// All of them.
    pub brought: u64,
    /// Those whose task has started here since.
    pub used: u64,
    /// Those whose task went elsewhere.
    pub in_vain: u64,
}

impl PrefetchCounts {
    /// Adds those of another rank, or further ones of this.
    pub fn add(&mut self, other: PrefetchCounts) {
        self.brought += other.brought;
        self.used += other.used;
        self.in_vain += other.in_vain;
    }
}

/// What was brought for a task.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Brought {
    /// Number of files.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// Place in the order of the tasks that wait: the most urgent first, then the first.
type Key = (Reverse<u8>, u64);

#[derive(Debug)]
enum Phase {
    Waits(Key),
    /// Its files are on their way.
    Comes,
    /// The same, and it has gone elsewhere.
    GoneElsewhere,
    /// The same, and it has started.
    Started,
    Here(Brought),
    /// It has started with so many bytes that came before.
    Had(u64),
}

/// The tasks that wait in the pool of a rank.
#[derive(Debug, Default)]
pub struct Prefetch {
    waiting: BTreeMap<Key, (TaskId, Time)>,
    tasks: HashMap<TaskId, Phase>,
    next: u64,
    coming: usize,
    here: usize,
    bytes: u64,
    counts: PrefetchCounts,
}

impl Prefetch {
    /// A task waits for a slot here.
    pub fn queued(&mut self, now: Time, task: TaskId, urgency: u8) {
        match self.tasks.get_mut(&task) {
            Some(phase @ (Phase::GoneElsewhere | Phase::Started)) => *phase = Phase::Comes,
            Some(Phase::Waits(_) | Phase::Comes | Phase::Here(_)) => {}
            Some(Phase::Had(_)) | None => {
                let key = (Reverse(urgency), self.next);
                self.next += 1;
                self.waiting.insert(key, (task, now));
                self.tasks.insert(task, Phase::Waits(key));
            }
        }
    }

    /// A task starts. True if files are on their way for it.
    pub fn started(&mut self, task: TaskId) -> bool {
        match self.tasks.remove(&task) {
            Some(Phase::Here(brought)) => {
                self.forget(brought);
                self.counts.used += brought.files;
                self.tasks.insert(task, Phase::Had(brought.bytes));
                false
            }
            Some(Phase::Comes | Phase::Started | Phase::GoneElsewhere) => {
                self.tasks.insert(task, Phase::Started);
                true
            }
            Some(Phase::Waits(key)) => {
                self.waiting.remove(&key);
                false
            }
            Some(Phase::Had(_)) | None => false,
        }
    }

    /// The bytes that came for a task that has started; `None` while more are on their way.
    pub fn take_bytes(&mut self, task: TaskId) -> Option<u64> {
        match self.tasks.get(&task) {
            Some(&Phase::Had(bytes)) => {
                self.tasks.remove(&task);
                Some(bytes)
            }
            Some(Phase::Started) => None,
            _ => Some(0),
        }
    }

    /// A task goes elsewhere, or never runs. True if what is on its way for it is to be given up.
    pub fn left(&mut self, task: TaskId) -> bool {
        match self.tasks.remove(&task) {
            Some(Phase::Here(brought)) => {
                self.forget(brought);
                self.counts.in_vain += brought.files;
                false
            }
            Some(Phase::Comes | Phase::GoneElsewhere) => {
                self.tasks.insert(task, Phase::GoneElsewhere);
                true
            }
            Some(phase @ (Phase::Started | Phase::Had(_))) => {
                self.tasks.insert(task, phase);
                false
            }
            Some(Phase::Waits(key)) => {
                self.waiting.remove(&key);
                false
            }
            None => false,
        }
    }

    /// The task whose files are brought next, if any may be now.
    pub fn next(&mut self, now: Time) -> Option<TaskId> {
        if self.coming >= MAX_COMING || self.here + self.coming >= MAX_AHEAD || self.bytes >= MAX_BYTES_AHEAD {
            return None;
        }
        let has_waited = |since: Time| now.since(since) >= MIN_WAIT;
        let (key, task) =
            self.waiting.iter().find(|(_, (_, since))| has_waited(*since)).map(|(key, (task, _))| (*key, *task))?;
        self.waiting.remove(&key);
        self.tasks.insert(task, Phase::Comes);
        self.coming += 1;
        Some(task)
    }

    /// True if a task waits whose files may be brought soon.
    pub fn has_waiting(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// What [`Prefetch::next`] began has ended.
    pub fn ended(&mut self, task: TaskId, brought: Brought) {
        self.coming -= 1;
        self.counts.brought += brought.files;
        match self.tasks.remove(&task) {
            Some(Phase::Started) => {
                self.counts.used += brought.files;
                self.tasks.insert(task, Phase::Had(brought.bytes));
            }
            Some(Phase::Comes) => {
                self.tasks.insert(task, Phase::Here(brought));
                self.here += 1;
                self.bytes += brought.bytes;
            }
            _ => self.counts.in_vain += brought.files,
        }
    }

    fn forget(&mut self, brought: Brought) {
        self.here -= 1;
        self.bytes -= brought.bytes;
    }

    /// What has been counted since the last call.
    pub fn take_counts(&mut self) -> PrefetchCounts {
        std::mem::take(&mut self.counts)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const LATER: Time = Time(10_000_000);

    fn with(tasks: std::ops::Range<u32>) -> Prefetch {
        let mut prefetch = Prefetch::default();
        tasks.for_each(|task| prefetch.queued(Time::ZERO, TaskId(task), 0));
        prefetch
    }

    fn brought(files: u64) -> Brought {
        Brought { files, bytes: files << 20 }
    }

    #[test]
    fn the_most_urgent_come_first_and_few_at_once() {
        let mut prefetch = with(0..40);
        prefetch.queued(Time::ZERO, TaskId(99), 7);
        assert_eq!(prefetch.next(Time(1)), None, "they may start at once");
        assert_eq!([(); 3].map(|()| prefetch.next(LATER)), [Some(TaskId(99)), Some(TaskId(0)), None]);
        prefetch.ended(TaskId(0), brought(2));
        for task in 1..MAX_AHEAD as u32 - 1 {
            assert_eq!(prefetch.next(LATER), Some(TaskId(task)));
            prefetch.ended(TaskId(task), brought(1));
        }
        assert_eq!(prefetch.next(LATER), None, "enough wait with their files here");
        assert!(!prefetch.started(TaskId(0)));
        assert_eq!([(); 2].map(|()| prefetch.take_bytes(TaskId(0))), [Some(2 << 20), Some(0)]);
        assert!(prefetch.next(LATER).is_some());
        let mut large = with(0..3);
        assert_eq!(large.next(LATER), Some(TaskId(0)));
        large.ended(TaskId(0), Brought { files: 1, bytes: MAX_BYTES_AHEAD });
        assert_eq!(large.next(LATER), None);
        large.left(TaskId(0));
        assert_eq!(large.next(LATER), Some(TaskId(1)));
    }

    #[test]
    fn what_comes_for_a_task_that_starts_is_its_own_and_for_one_that_leaves_is_given_up() {
        let mut prefetch = with(0..3);
        assert_eq!((prefetch.next(LATER), prefetch.next(LATER)), (Some(TaskId(0)), Some(TaskId(1))));
        assert!(prefetch.started(TaskId(0)));
        assert_eq!(prefetch.take_bytes(TaskId(0)), None);
        assert!(prefetch.left(TaskId(1)) && !prefetch.left(TaskId(2)));
        prefetch.ended(TaskId(0), brought(3));
        prefetch.ended(TaskId(1), brought(1));
        assert_eq!(prefetch.take_counts(), PrefetchCounts { brought: 4, used: 3, in_vain: 1 });
        assert_eq!(prefetch.take_bytes(TaskId(0)), Some(3 << 20));
        assert!(!prefetch.has_waiting() && prefetch.tasks.is_empty());
    }

    proptest! {
        /// Whatever happens in whatever order: the bounds hold, and in the end each file that was
        /// brought was used or in vain.
        #[test]
        fn each_file_is_counted_once(steps in prop::collection::vec((0..5u8, 0..12u32), 0..200)) {
            let mut prefetch = Prefetch::default();
            let mut coming = Vec::new();
            let mut now = Time::ZERO;
            for (step, number) in steps {
                now = now.after(MIN_WAIT);
                let task = TaskId(number);
                match step {
                    0 => prefetch.queued(now, task, (number % 3) as u8),
                    1 => _ = prefetch.started(task),
                    2 => _ = prefetch.left(task),
                    3 => coming.extend(prefetch.next(now)),
                    _ if !coming.is_empty() => prefetch.ended(coming.remove(0), brought(u64::from(number))),
                    _ => {}
                }
                prop_assert!(coming.len() <= MAX_COMING && prefetch.here + coming.len() <= MAX_AHEAD);
                prop_assert_eq!(coming.len(), prefetch.coming);
            }
            coming.into_iter().for_each(|task| prefetch.ended(task, brought(1)));
            (0..12).for_each(|task| _ = prefetch.left(TaskId(task)));
            let counts = prefetch.take_counts();
            prop_assert_eq!(counts.used + counts.in_vain, counts.brought);
            prop_assert_eq!((prefetch.here, prefetch.bytes), (0, 0));
        }
    }
}
