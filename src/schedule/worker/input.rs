//! What a worker is given: facts about tasks, events, and time limits.

use std::time::Duration;

use crate::job::Retry;
use crate::model::{Attempt, Rank, RankRoom, SetAside, TaskId};
use crate::schedule::dependency_counts::CompletionEffects;
use crate::schedule::locality::ReadFiles;
use crate::schedule::pools::PoolReport;
use crate::schedule::protocol::{Lease, Load, Message, Started};

/// Facts about tasks that the worker needs.
pub trait Facts: Send + Sync {
    /// The retry policy of a task.
    fn retry(&self, task: TaskId) -> Retry;
    /// True if any rank with slots can run the task, that is, if it needs one CPU and nothing else.
    fn movable(&self, task: TaskId) -> bool;
    /// True for a task that a rank with this room cannot run alone while this many ranks are
    /// active: an MPI task that is too large, or an operation that all of them execute.
    fn needs_gang(&self, task: TaskId, room: RankRoom, ranks: u32) -> bool;
    /// A number that all ranks of this node share, if tasks read on the disk of their node what
    /// others have written.
    fn data_node(&self) -> Option<u64> {
        None
    }
    /// True for a task that reads and writes on the disk of its node.
    fn is_staged(&self, task: TaskId) -> bool {
        let _ = task;
        false
    }
    /// What such a task reads of others.
    fn reads(&self, task: TaskId) -> Vec<ReadFiles> {
        let _ = task;
        Vec::new()
    }
}

/// An input of the worker.
#[derive(Clone, Debug)]
pub enum WorkerEvent {
    /// A message arrived.
    Message {
        /// Sender.
        from: Rank,
        /// Content.
        message: Message,
    },
    /// Tasks at home completed on the fast path; the ledger has already counted them at home.
    Completed {
        /// Their attempts.
        attempts: Vec<Attempt>,
        /// The effects: ends to send to other ranks, and skipped tasks. Tasks that became ready
        /// have already been started.
        effects: CompletionEffects,
    },
    /// An attempt ended that the ledger has not counted: a failure, a further attempt, a task on
    /// lease, or any task after the answer to
    /// [`WorkerAction::Freeze`](super::WorkerAction::Freeze).
    Ended {
        /// The attempt.
        attempt: Attempt,
    },
    /// The task of a gang that this rank leads ended; its slots here are free.
    GangEnded {
        /// The gang.
        gang: u32,
        /// The attempt.
        attempt: Attempt,
    },
    /// The share of a gang's operation ended here; its slots are free once the gang is released.
    ShareEnded {
        /// The gang.
        gang: u32,
    },
    /// These tasks have been running for a while.
    Started(Vec<Started>),
    /// Tasks at home (local numbers) became ready on the fast path that this rank may be unable to
    /// run alone.
    Special(Vec<u32>),
    /// The answer to [`WorkerAction::Surrender`](super::WorkerAction::Surrender).
    Surrendered {
        /// Receiver.
        to: Rank,
        /// The leases that the pool gave up.
        leases: Vec<Lease>,
    },
    /// The answer to [`WorkerAction::Freeze`](super::WorkerAction::Freeze). All completions that
    /// slots counted were reported in earlier events.
    Frozen {
        /// Tasks taken out of the pool.
        waiting: Vec<Lease>,
    },
    /// This rank's part of a gang is set aside.
    Held {
        /// The gang.
        gang: u32,
        /// What is set aside.
        aside: SetAside,
    },
    /// The leases of pools, after any change.
    Pools(PoolReport),
    /// The pool's load, after any change.
    Load(Load),
    /// The connection to rank 0 is silent (true), or works again (false).
    CutOff(bool),
    /// Rank 0 is lost, for good: nothing is started any more, and everything that has ended here so
    /// far is reported at once, although the driver can only keep the report. May come again.
    CoordinatorLost,
    /// After a `Stop`: no slot is busy any more, and earlier events have reported all that ended.
    Quiet,
    /// Time has passed.
    Tick,
}

/// Time limits of the protocol.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// Longest time that a report waits for further entries, so that short tasks share messages; no
    /// rank waits for a report.
    pub report: Duration,
    /// A rank that has been idle for this long reports at once, since others may wait for it. After
    /// a shorter pause the next task usually just waits for another rank's completion.
    pub idle: Duration,
    /// A report with this many attempts is sent at once.
    pub report_size: usize,
    /// Longest time between load reports while the load changes.
    pub load: Duration,
    /// Pause of a rank after an unsuccessful round of stealing (victims remember it meanwhile).
    pub steal: Duration,
    /// Longest time until rank 0 learns how many units of pools are in use; claims and returned
    /// units are reported at once.
    pub pools: Duration,
}

impl Pace {
    /// Longest pause between unsuccessful rounds of stealing.
    pub fn longest_pause(&self) -> Duration {
        self.steal * (1 << crate::schedule::stealing::MAX_PAUSE_DOUBLINGS)
    }
}

impl Default for Pace {
    fn default() -> Pace {
        Pace {
            report: Duration::from_millis(5),
            idle: Duration::from_micros(300),
            report_size: 4096,
            load: Duration::from_millis(200),
            steal: Duration::from_millis(50),
            pools: Duration::from_millis(5),
        }
    }
}
