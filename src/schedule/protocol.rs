//! What ranks say to each other. See README.md beside this file for who says what, when and why.
//!
//! A message is encoded with postcard (varints); the fabric adds version, length and sender.
//! Everything here may come from a damaged or hostile peer once ranks join over the network, so
//! receivers check numbers before they index by them.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::dependency_counts::{DependencyCounts, End, Part};
use super::ranks::Ranks;
use super::resources::Needs;
use crate::graph::ascending::Ascending;
use crate::job::Retry;
use crate::model::{Attempt, Measure, Outcome, Rank, Reason, State, TaskId, Time, Vitals};

/// No message takes more bytes: a part of a hundred million tasks fits.
pub const MOST_BYTES: usize = 1 << 30;

/// Version of the messages below; ranks of different versions refuse each other.
pub const VERSION: u16 = 11;

/// A message between two ranks.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Message {
    /// A rank to the coordinator, first of all: where it is and which CPUs its launcher left it.
    Arrived {
        /// Name of its node.
        node: String,
        /// Its affinity mask: numbers of CPUs, ascending.
        mask: Vec<u32>,
    },
    /// Coordinator to a rank: the run that it is part of. Answered by `Hello`.
    Welcome(Box<Welcome>),
    /// A rank to the coordinator: what it has.
    Hello(Hello),
    /// Coordinator to a rank: the tasks at home there, at the begin of the run and after each
    /// change of membership.
    HandOut(Box<HandOut>),
    /// Coordinator to a rank: homes are about to change. Answered by `Ack`.
    Prepare {
        /// The epoch that will begin.
        epoch: u32,
        /// Open nodes whose home has been lost: what others have heard of them may be all that is
        /// left of its work.
        lost: Ascending,
        /// All ranks that have been lost.
        lost_ranks: Ranks,
        /// False if this rank is to be emptied: then it begins nothing more.
        reserve: bool,
    },
    /// A rank to the coordinator, after a `Report` of all that has ended: what it keeps until the
    /// new epoch begins.
    Ack {
        /// The epoch that it is prepared for.
        epoch: u32,
        /// Tasks that it runs or is about to start, and which attempts.
        kept: Vec<(TaskId, u16)>,
        /// Tasks at home here that are elsewhere, as far as it knows.
        lent: Vec<TaskId>,
        /// Ends that it has counted of the nodes in `lost`, and those of its own that a lost rank
        /// was to report.
        counted: Vec<(u32, End)>,
    },
    /// A rank to the coordinator: it is to leave, and nothing is left here.
    Emptied {
        /// The epoch in which that is so.
        epoch: u32,
    },
    /// A rank to the coordinator: what ended since its last report, and how busy it is.
    Report {
        /// Ended attempts, oldest first.
        #[serde(with = "crate::codec::packed")]
        attempts: Vec<Attempt>,
        /// Tasks that have been running for a while, each told once: what is lost if the rank is.
        started: Vec<Started>,
        /// Its load now.
        load: Load,
    },
    /// A home to another: these nodes ended, count them.
    Counts {
        /// The sender's epoch.
        epoch: u32,
        /// Each node, and how it ended.
        ended: Vec<(u32, End)>,
    },
    /// A rank without work asks another. It is answered by one `Loot`, and remembered if that was
    /// empty. One that is remembered and has work again says so in the same way, and gets no
    /// answer.
    Steal {
        /// The sender's epoch.
        epoch: u32,
        /// Slots without work; 0 to be forgotten.
        want: u32,
    },
    /// Tasks given to another rank: the answer to `Steal`, or work for a rank remembered, or a
    /// retry elsewhere.
    Loot {
        /// The sender's epoch.
        epoch: u32,
        /// The tasks, most urgent first.
        leases: Vec<Lease>,
    },
    /// A rank to a task's home: a task run on lease ended so.
    Returned {
        /// The sender's epoch.
        epoch: u32,
        /// The attempt; whether it is the last is for the home to say.
        attempt: Attempt,
    },
    /// Coordinator to a rank that ran a task of another home and left it to that to report the
    /// attempt: it has been reported.
    Heard {
        /// The task.
        task: TaskId,
        /// Which attempt.
        attempt: u16,
    },
    /// A home to the coordinator: this MPI task is ready and needs more than this rank has.
    GangReady {
        /// The task.
        lease: Lease,
    },
    /// Coordinator to a rank: set slots aside for a gang.
    Hold {
        /// The gang.
        gang: u32,
        /// How many slots.
        slots: u32,
    },
    /// Coordinator to a rank: set slots aside for a gang, and lead it.
    Lead {
        /// The gang.
        gang: u32,
        /// How many slots of your own.
        slots: u32,
        /// The task to start.
        lease: Lease,
    },
    /// A rank to the coordinator: its slots for a gang are set aside.
    Held {
        /// The gang.
        gang: u32,
        /// The CPUs of those slots.
        cpus: Vec<u32>,
    },
    /// Coordinator to the leader: all slots are set aside; start.
    Launch {
        /// The gang.
        gang: u32,
        /// Nodes that take part, and how many MPI ranks each hosts.
        hosts: Vec<(String, u32)>,
        /// The CPUs that all ranks of the leader's node have set aside.
        cpus: Vec<u32>,
    },
    /// The leader to the coordinator: the gang's task ended.
    GangEnded {
        /// The gang.
        gang: u32,
    },
    /// Coordinator to a rank: the slots set aside for a gang are free again.
    Release {
        /// The gang.
        gang: u32,
    },
    /// Coordinator to all: start nothing more. Answered by `Stopped` once nothing runs.
    Stop {
        /// Whether running tasks are ended too.
        how: Stop,
    },
    /// Coordinator to all: these tasks (from, to) are not wanted any more. What runs of them is
    /// ended; the others end as CANCELLED when they would start.
    Cancel {
        /// Ranges of numbers, the ends not included.
        tasks: Vec<(u32, u32)>,
    },
    /// A rank to the coordinator: nothing runs here any more, and all that ended has been reported.
    Stopped,
    /// A rank to the coordinator: it cannot go on.
    Broken {
        /// Why.
        reason: String,
    },
    /// Coordinator to all: the run is over.
    Finish,
    /// A rank that joined to the coordinator: it was told to go, and asks to be drained.
    Leaving,
    /// A rank to rank 0: what it and its node use. For who watches; nothing is decided by it.
    Vitals(Box<Vitals>),
    /// A rank to rank 0: values that tasks wrote which ended there. They come before the report of
    /// those ends.
    Measured {
        /// The values.
        measures: Vec<Measure>,
    },
    /// A rank to rank 0: why it made attempts fail by itself.
    Reasons {
        /// The reasons.
        reasons: Vec<Reason>,
    },
    /// A rank to the coordinator: it cannot write to the run directory any more. What would still
    /// be started could not be kept, so nothing is.
    StorageLost {
        /// What the system said.
        reason: String,
    },
    /// Coordinator to a rank, when the job's `max_failures` is near: how many tasks have failed
    /// that other ranks ran. With its own the rank knows by itself when nothing more is to be
    /// started.
    FailedElsewhere {
        /// How many.
        tasks: u32,
    },
}

impl Message {
    /// True for what a rank tells the coordinator (and its own worker never hears).
    pub fn is_for_coordinator(&self) -> bool {
        matches!(
            self,
            Message::Arrived { .. }
                | Message::Hello(_)
                | Message::Ack { .. }
                | Message::Emptied { .. }
                | Message::Report { .. }
                | Message::GangReady { .. }
                | Message::Held { .. }
                | Message::GangEnded { .. }
                | Message::Stopped
                | Message::Broken { .. }
                | Message::Leaving
                | Message::Vitals(_)
                | Message::Measured { .. }
                | Message::Reasons { .. }
                | Message::StorageLost { .. }
        )
    }

    /// The epoch of a message between two homes; `None` for those from and to the coordinator.
    pub fn epoch(&self) -> Option<u32> {
        match *self {
            Message::Counts { epoch, .. }
            | Message::Steal { epoch, .. }
            | Message::Loot { epoch, .. }
            | Message::Returned { epoch, .. } => Some(epoch),
            _ => None,
        }
    }
}

/// What a rank is home of from an epoch on, and what it must know of those tasks.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct HandOut {
    /// The epoch that begins; 0 is the begin of the run.
    pub epoch: u32,
    /// The time by the clock of rank 0, of which all times in here are: the receiver's may differ.
    pub now: Time,
    /// The tasks and their edges: all that is at home on the receiver, or what comes there if it
    /// has a part to amend.
    pub part: Part,
    /// What else becomes of the part that the receiver has; `None` if `part` takes its place.
    pub amends: Option<Box<Amendment>>,
    /// All ranks that have been lost: what they have said and not been heard to say is void.
    pub lost: Ranks,
    /// For each group of tasks with a limit on how many run at once: its number, and this rank's
    /// share of the limit.
    pub limits: Vec<(u32, u32)>,
    /// Ranks that take part; one that is not among them holds no task.
    pub active: Ranks,
    /// True if the receiver leaves for good as soon as nothing is left there.
    pub leave: bool,
    /// Tasks at home there that another rank keeps: they are on lease.
    pub out: Vec<TaskId>,
    /// Tasks at home there that have been tried in vain, unless the receiver knows that.
    pub tried: Vec<Tried>,
    /// Tasks kept by the receiver whose home is elsewhere, and where.
    pub leases: Vec<(TaskId, Rank)>,
}

impl HandOut {
    /// The length of its longest list, if that or the size of the whole is more than a message
    /// holds. `most`: how long a list may be.
    pub fn oversize(&self, most: usize) -> Option<usize> {
        let amends = self.amends.as_deref();
        let [gone, ended, needed] = amends.map_or([0; 3], |a| [a.gone.len(), a.ended.len(), a.needed.len()]);
        let longest = self.part.longest_column().max(gone);
        // A number takes five bytes at most, and nothing else more than 32: most messages need not
        // be measured.
        let rest = ended + needed + self.out.len() + self.tried.len() + self.leases.len();
        let may_exceed = 5 * (self.part.numbers() + gone) + 32 * rest > MOST_BYTES;
        let size = || postcard::serialize_with_flavor(self, postcard::ser_flavors::Size::default());
        let exceeds = longest > most || may_exceed && size().is_ok_and(|size: usize| size > MOST_BYTES);
        exceeds.then_some(longest.max(rest))
    }
}

/// What becomes of a part at an epoch, beside the nodes that come to it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Amendment {
    /// Nodes that are at home elsewhere from now on.
    pub gone: Ascending,
    /// Ends that the receiver may not know of.
    pub ended: Vec<(u32, End)>,
    /// Nodes at home there that nodes on a further rank need from now on; ascending.
    pub needed: Vec<(u32, u32)>,
}

/// What is known of a task's attempts so far.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tried {
    /// The task.
    pub task: TaskId,
    /// Attempts that have ended.
    pub attempts: u16,
    /// How many of them ended with their rank: those use up no retry.
    pub lost: u16,
    /// Where the last one ran.
    pub rank: Rank,
    /// When the last one ended by itself; zero if none did.
    pub end: Time,
}

/// A task that is running.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Started {
    /// The task.
    pub task: TaskId,
    /// Which attempt.
    pub attempt: u16,
    /// Since when.
    pub start: Time,
}

/// What a rank must know of the run before it can take part.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Welcome {
    /// The job file.
    #[serde(with = "crate::codec::shared_text")]
    pub job_text: Arc<str>,
    /// Its path, for messages.
    pub job_path: String,
    /// The directory from which the user started the run.
    pub base_dir: String,
    /// The run directory.
    pub run_dir: String,
    /// The run's name (`mosaic-3`).
    pub run_name: String,
    /// Which session of the run this is; 1 unless resumed.
    pub session: u32,
    /// When the run's clock began: nanoseconds since the Unix epoch.
    pub began_unix_ns: u64,
    /// False for a rank that shall not run tasks (`--coordinator-only`).
    pub works: bool,
    /// Slots asked for (`--slots`).
    pub slots: Option<u32>,
    /// The masks of all ranks on the receiver's node, in order of rank: those with the same one
    /// share it.
    pub masks: Vec<Vec<u32>>,
    /// True if ranks may join that are not of the receiver's world.
    pub open: bool,
    /// Nothing more is started once so many tasks have failed; `None`: however many do.
    pub max_failures: Option<u32>,
}

/// What a rank has.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Hello {
    /// Name of its node.
    pub node: String,
    /// Its process.
    pub pid: u32,
    /// Slots; 0 if it runs no tasks.
    pub slots: u32,
    /// Bytes of memory that its tasks may use in all.
    pub memory: u64,
    /// GPUs that its tasks may use.
    pub gpus: u32,
    /// CPUs that its slots run on; other ranks of the node may use the same.
    pub cpus: Vec<u32>,
}

/// How busy a rank is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Load {
    /// Slots without work.
    pub idle: u32,
    /// Tasks ready but not started that any rank could run.
    pub ready: u32,
    /// Tasks that run, or that wait for memory, GPUs or further slots.
    pub running: u32,
}

/// A task given to a rank that is not its home, or a further attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lease {
    /// The task.
    pub task: TaskId,
    /// Its home: who is told how it ended.
    pub home: Rank,
    /// Which attempt this is, from 1.
    pub attempt: u16,
    /// Its urgency.
    pub urgency: u8,
    /// When it became ready.
    pub ready: Time,
}

impl Lease {
    /// The first attempt at a task (by its local number) that is at home with this ledger's rank.
    pub fn at_home(ledger: &DependencyCounts, local: u32, home: Rank) -> Lease {
        let (urgency, ready) = (ledger.urgency(local), ledger.ready_at(local));
        Lease { task: ledger.task(local), home, attempt: 1, urgency, ready }
    }

    /// What the attempt needs of its rank, given what the task needs. A further attempt that is to
    /// run on another rank must not be stolen back: only tasks without needs are given away, so it
    /// needs one slot at least.
    pub fn needs(&self, retry: &Retry, of_task: Option<Needs>) -> Option<Needs> {
        let stays = self.attempt > 1 && retry.elsewhere;
        of_task.or(stays.then_some(Needs::SLOT))
    }

    /// The record of an attempt that ran. It is the last one if it completed; otherwise the home
    /// decides.
    #[inline]
    pub fn ended(&self, outcome: Outcome, rank: Rank, slot: u16, start: Time, end: Time) -> Attempt {
        let Lease { task, attempt, ready, .. } = *self;
        Attempt { task, attempt, outcome, last: outcome.ok(), rank, slot, ready, start, end }
    }

    /// The record of an attempt that was cancelled on `rank` before it began.
    pub fn cancelled(&self, rank: Rank, now: Time) -> Attempt {
        let outcome = Outcome { state: State::Cancelled, exit: 0 };
        let Lease { task, attempt, ready, .. } = *self;
        Attempt { task, attempt, outcome, last: false, rank, slot: 0, ready, start: now, end: now }
    }
}

/// True if one of these ranges of tasks (from, to), which are in order and apart, has this one.
pub fn is_among(task: TaskId, tasks: &[(u32, u32)]) -> bool {
    let next = tasks.partition_point(|&(_, to)| to <= task.0);
    tasks.get(next).is_some_and(|&(from, _)| from <= task.0)
}

/// Adds a range to ranges of tasks (from, to) and keeps them in order and apart.
pub fn add_range(tasks: &mut Vec<(u32, u32)>, (mut from, mut to): (u32, u32)) {
    tasks.retain(|&(other_from, other_to)| {
        let apart = other_to < from || other_from > to;
        if !apart {
            (from, to) = (from.min(other_from), to.max(other_to));
        }
        apart
    });
    let at = tasks.partition_point(|other| other.0 < from);
    tasks.insert(at, (from, to));
}

/// How a run is stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Stop {
    /// Start nothing more; what runs may end.
    Drain,
    /// End what runs too: TERM, and KILL after the grace time.
    Terminate,
    /// End what runs at once.
    Kill,
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_further_attempt_that_is_to_run_elsewhere_is_not_given_away() {
        let first = Lease { task: TaskId(0), home: Rank(0), attempt: 1, urgency: 0, ready: Time::ZERO };
        let second = Lease { attempt: 2, ..first };
        let here = Retry { count: 1, backoff: Duration::ZERO, factor: 1.0, elsewhere: false };
        let elsewhere = Retry { elsewhere: true, ..here };
        assert_eq!([first.needs(&elsewhere, None), second.needs(&here, None)], [None, None]);
        assert_eq!(second.needs(&elsewhere, None), Some(Needs::SLOT));
        let wide = Some(Needs { cpus: 2, ..Needs::SLOT });
        assert_eq!(second.needs(&elsewhere, wide), wide);
    }
}
