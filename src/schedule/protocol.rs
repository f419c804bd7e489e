//! The messages between ranks. README.md beside this file says which rank sends what, when and why.
//!
//! Messages are encoded with postcard (varints); the fabric adds version, length and sender. Once
//! ranks join over the network, messages may come from a damaged or hostile peer, so receivers
//! check numbers before they use them as indexes.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::dependency_counts::{DependencyCounts, End, Part};
use super::fair::FamilyId;
use super::file_messages::{FileMessage, OutputRecord};
use super::locality::Holdings;
use super::pools::{PoolOrders, PoolReport};
use super::ranks::Ranks;
use super::resources::Needs;
use super::steal_terms::StealTerms;
use crate::graph::ascending::Ascending;
use crate::graph::link::GroupId;
use crate::job::Retry;
use crate::model::{
    Attempt, GangHost, GangNode, Measure, Outcome, Rank, Reason, SetAside, Shortfalls, State, TaskId, Time, Vitals,
    labels_of,
};

/// Upper limit on the size of a message: the part of a hundred million tasks fits.
pub const MAX_MESSAGE_BYTES: usize = 1 << 30;

/// Version of the messages; ranks of different versions refuse each other.
pub const VERSION: u16 = 22;

/// A message between two ranks.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Message {
    /// Rank to coordinator, the first message: its node, and the CPUs that its launcher assigned.
    Arrived {
        /// Name of its node.
        node: String,
        /// Its affinity mask: numbers of CPUs, ascending.
        mask: Vec<u32>,
    },
    /// Coordinator to rank: the run that it belongs to. The rank answers with `Hello`.
    Welcome(Box<Welcome>),
    /// Rank to coordinator: its resources.
    Hello(Hello),
    /// Coordinator to rank: the tasks at home there, at the start of the run and after each change
    /// of membership.
    HandOut(Box<HandOut>),
    /// Coordinator to rank: homes are about to change. The rank answers with `Ack`.
    Prepare {
        /// The epoch that will begin.
        epoch: u32,
        /// Open nodes whose home was lost: what other ranks have counted of them may be the only
        /// record of their ends.
        lost: Ascending,
        /// All ranks that have been lost.
        lost_ranks: Ranks,
        /// False if this rank is being emptied: then it starts nothing more.
        reserve: bool,
    },
    /// Rank to coordinator, after a `Report` of all ended attempts: what it keeps until the new
    /// epoch begins.
    Ack {
        /// The epoch that it is prepared for.
        epoch: u32,
        /// Tasks that it runs or is about to start, with the attempt.
        kept: Vec<(TaskId, u16)>,
        /// Tasks at home here that other ranks have, as far as it knows.
        lent: Vec<TaskId>,
        /// Ends that it has counted of the nodes in `lost`, and of its own nodes whose report was
        /// up to a lost rank.
        counted: Vec<(u32, End)>,
    },
    /// Rank to coordinator: it is leaving and holds nothing any more.
    Emptied {
        /// The epoch in which it is empty.
        epoch: u32,
    },
    /// Rank to coordinator: attempts ended since its last report, and its load.
    Report {
        /// Ended attempts, oldest first.
        #[serde(with = "crate::codec::packed")]
        attempts: Vec<Attempt>,
        /// Tasks that have been running for a while, each reported once: if the rank is lost, so
        /// are these.
        started: Vec<Started>,
        /// Its load now.
        load: Load,
    },
    /// Home to home: these nodes ended, count them.
    Counts {
        /// The sender's epoch.
        epoch: u32,
        /// Each node, and how it ended.
        ended: Vec<(u32, End)>,
    },
    /// A rank without work asks another for tasks. The victim answers with one `StealReply`, and
    /// remembers the thief if it had nothing to give. A thief that is remembered and has work again
    /// sends `Steal` with `want = 0`, which gets no answer.
    Steal {
        /// The sender's epoch.
        epoch: u32,
        /// Number of slots without work; 0 to be forgotten.
        want: u32,
    },
    /// The same, in a job whose tasks read on the disk of their node what others have written: the
    /// victim gives tasks whose files are near the thief.
    StealNear {
        /// The sender's epoch.
        epoch: u32,
        /// Number of slots without work.
        want: u32,
        /// The files that are near.
        holdings: Holdings,
    },
    /// Tasks given to another rank: the answer to `Steal`, work for a remembered thief, or a retry
    /// elsewhere.
    StealReply {
        /// The sender's epoch.
        epoch: u32,
        /// The tasks, most urgent first.
        leases: Vec<Lease>,
    },
    /// Rank to a task's home: a task on lease ended.
    Returned {
        /// The sender's epoch.
        epoch: u32,
        /// The attempt; the home decides whether it is the last.
        attempt: Attempt,
    },
    /// Coordinator to a rank that ran a task of another home: the home has reported the attempt.
    Recorded {
        /// The task.
        task: TaskId,
        /// The attempt.
        attempt: u16,
    },
    /// Rank to coordinator: its leases of pools, and what it could start with more.
    Pools(PoolReport),
    /// Coordinator to rank: further units of pools, and those to give back.
    PoolOrders(PoolOrders),
    /// Coordinator to rank: the slot time in nanoseconds that families have got on other ranks.
    Shares {
        /// Families, each with its time.
        elsewhere: Vec<(FamilyId, u64)>,
    },
    /// Home to coordinator: this task is ready and needs slots on several ranks.
    GangReady {
        /// The task.
        lease: Lease,
    },
    /// Coordinator to rank: set aside for a gang what its task needs here.
    Hold {
        /// The gang.
        gang: u32,
        /// The rank's part of it.
        host: GangHost,
        /// The task.
        lease: Lease,
        /// True if the rank leads: it starts the task on `Launch`.
        leads: bool,
    },
    /// Rank to coordinator: its part of a gang is set aside.
    Held {
        /// The gang.
        gang: u32,
        /// What is set aside.
        aside: SetAside,
    },
    /// Coordinator to the leader: all slots are set aside; start.
    Launch {
        /// The gang.
        gang: u32,
        /// Participating nodes, the leader's first; empty for an operation.
        hosts: Vec<GangNode>,
        /// The CPUs that all ranks of the leader's node have set aside.
        cpus: Vec<u32>,
        /// For an operation: the ranks that execute it together, the leader first; otherwise empty.
        ranks: Vec<Rank>,
    },
    /// Coordinator to another rank of an operation: all slots are set aside; run its share until
    /// `Release`.
    Share {
        /// The gang.
        gang: u32,
        /// The task, which the leader reports.
        lease: Lease,
        /// The ranks that execute it together, the leader first.
        ranks: Vec<Rank>,
    },
    /// Coordinator to the leader of an operation: a rank that executes it is gone, so end the
    /// attempt.
    MemberLost {
        /// The gang.
        gang: u32,
        /// The rank.
        rank: Rank,
    },
    /// Leader to coordinator: the gang's task ended.
    GangEnded {
        /// The gang.
        gang: u32,
    },
    /// Coordinator to rank: free the slots that are set aside for a gang.
    Release {
        /// The gang.
        gang: u32,
    },
    /// Coordinator to all: start nothing more. A rank answers with `Stopped` once nothing runs
    /// there.
    Stop {
        /// Whether running tasks are ended too.
        how: Stop,
    },
    /// Coordinator to all: cancel these tasks (from, to). Running ones are ended; the others end as
    /// CANCELLED when they would start.
    Cancel {
        /// Half-open ranges of task numbers.
        tasks: Vec<(u32, u32)>,
    },
    /// Coordinator to all: start none of these tasks (from, to) until a later list omits them.
    /// Running ones continue.
    Paused {
        /// Half-open ranges of task numbers; replaces the list before.
        tasks: Vec<(u32, u32)>,
    },
    /// Rank to coordinator: nothing runs here any more, and all ended attempts have been reported.
    Stopped,
    /// Rank to coordinator: it broke down.
    Broken {
        /// The reason.
        reason: String,
    },
    /// Coordinator to all: the run is over.
    Finish,
    /// Joined rank to coordinator: it was asked to terminate, and requests to be drained.
    Leaving,
    /// Rank to rank 0: resource use of the rank and its node. For display; the protocol does not
    /// depend on it.
    Vitals(Box<Vitals>),
    /// Rank to rank 0: values written by tasks that ended there. They arrive before the report of
    /// those ends.
    Measured {
        /// The values.
        measures: Vec<Measure>,
    },
    /// Rank to rank 0: why it made attempts fail itself.
    Reasons {
        /// The reasons.
        reasons: Vec<Reason>,
    },
    /// Rank to coordinator: it cannot write to the run directory any more. Results of further tasks
    /// could not be stored, so it starts none.
    StorageLost {
        /// The system's error message.
        reason: String,
    },
    /// Coordinator to rank, when the job's `max_failures` is near: the number of failed tasks that
    /// other ranks ran. With its own failures added, the rank decides when to start nothing more.
    FailedElsewhere {
        /// Number of failed tasks.
        tasks: u32,
    },
    /// Rank to coordinator, after a `Report`: its last tasks all failed, and it starts nothing
    /// until the coordinator has compared it with others and answers with `Resume`.
    Suspended,
    /// Coordinator to a suspended rank: start tasks again.
    Resume,
    /// Rank to coordinator: a running attempt offers further tasks, which count if it completes.
    /// It waits for the `OfferAnswer`.
    Offer {
        /// The task.
        task: TaskId,
        /// The attempt.
        attempt: u16,
        /// Tables of a job file.
        text: String,
    },
    /// Coordinator to rank: the answer to its `Offer`.
    OfferAnswer {
        /// The task.
        task: TaskId,
        /// The attempt.
        attempt: u16,
        /// Why nothing can be added; `None`: it can.
        refusal: Option<String>,
    },
    /// Coordinator to all: no task reads these temporary outputs any more.
    Discard {
        /// Tasks, each with the number of one of its temporary outputs.
        files: Vec<(TaskId, u32)>,
    },
    /// Coordinator to rank, before the hand-out with them: tasks that have been added to the run.
    Added(Vec<AddedTables>),
    /// About a transfer of files, by the number that the rank gave it which receives the files or
    /// the answer.
    Files {
        /// The number.
        id: u32,
        /// What it is about.
        message: FileMessage,
    },
    /// A rank that does not see the run directory to rank 0, before the report of the attempts:
    /// what is to be written there.
    Output {
        /// In order.
        records: Vec<OutputRecord>,
    },
    /// Rank 0 to such a rank: that much of it has been processed.
    OutputWritten {
        /// Sum of the weights of the records.
        weight: u64,
        /// The attempts whose end was among them, each with why something of its output could not
        /// be written.
        ended: Vec<(TaskId, u16, Result<(), String>)>,
    },
    /// Rank to coordinator: MPI has lost this rank of the sender's world, which may live and be
    /// reached by others.
    RankLost {
        /// The lost rank.
        rank: Rank,
    },
    /// To a rank that counts as lost, and may live: its tasks have moved, so end what runs and
    /// leave.
    Expelled,
}

impl Message {
    /// True for messages from a rank to the coordinator, which workers never receive.
    pub fn is_for_coordinator(&self) -> bool {
        matches!(
            self,
            Message::Arrived { .. }
                | Message::Hello(_)
                | Message::Ack { .. }
                | Message::Emptied { .. }
                | Message::Report { .. }
                | Message::Pools(_)
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
                | Message::Suspended
                | Message::Offer { .. }
                | Message::RankLost { .. }
        ) || matches!(self, Message::Files { message, .. } if message.is_for_coordinator())
    }

    /// The epoch of a message between two homes; `None` for messages from or to the coordinator.
    pub fn epoch(&self) -> Option<u32> {
        match *self {
            Message::Counts { epoch, .. }
            | Message::Steal { epoch, .. }
            | Message::StealNear { epoch, .. }
            | Message::StealReply { epoch, .. }
            | Message::Returned { epoch, .. } => Some(epoch),
            _ => None,
        }
    }
}

/// The tasks at home on a rank from an epoch on, and the facts about them.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct HandOut {
    /// The epoch that begins; 0 is the start of the run.
    pub epoch: u32,
    /// Current time on the clock of rank 0, to which all times in this message refer: the
    /// receiver's clock may differ.
    pub now: Time,
    /// The tasks and their edges: all that is at home on the receiver or, with `amends`, the
    /// arriving nodes.
    pub part: Part,
    /// Further changes of the receiver's present part; `None` if `part` replaces it.
    pub amends: Option<Box<Amendment>>,
    /// All ranks that have been lost: their messages that have not been processed are void.
    pub lost: Ranks,
    /// Active ranks; any other holds no task.
    pub active: Ranks,
    /// True if the receiver leaves for good as soon as it is empty.
    pub leave: bool,
    /// Tasks at home there that it does not start: another rank keeps them (they are on lease), or
    /// no rank can run them.
    pub out: Vec<TaskId>,
    /// Tasks at home there with unsuccessful attempts that are new to the receiver.
    pub tried: Vec<Tried>,
    /// Tasks kept by the receiver whose home is another rank, with that rank.
    pub leases: Vec<(TaskId, Rank)>,
    /// At the start of the run: units of pools for its first tasks.
    pub units: PoolOrders,
    /// How the receiver steals.
    pub stealing: StealTerms,
}

impl HandOut {
    /// The length of its longest list, if that or the total size exceeds what a message may hold.
    /// `most`: upper limit on the length of a list.
    pub fn oversize(&self, most: usize) -> Option<usize> {
        let amends = self.amends.as_deref();
        let [gone, ended, needed] = amends.map_or([0; 3], |a| [a.gone.len(), a.ended.len(), a.needed.len()]);
        let longest = self.part.longest_column().max(gone);
        // A number takes five bytes at most, and nothing else more than 32: most messages need not
        // be measured.
        let rest = ended + needed + self.out.len() + self.tried.len() + self.leases.len() + self.units.granted.len();
        let may_exceed = 5 * (self.part.numbers() + gone) + 32 * rest > MAX_MESSAGE_BYTES;
        let size = || postcard::serialize_with_flavor(self, postcard::ser_flavors::Size::default());
        let exceeds = longest > most || may_exceed && size().is_ok_and(|size: usize| size > MAX_MESSAGE_BYTES);
        exceeds.then_some(longest.max(rest))
    }
}

/// Tables of tasks that have been added to the run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AddedTables {
    /// Number of the first task.
    pub first_task: TaskId,
    /// Number of the first table.
    pub first_group: GroupId,
    /// Their text, in the form of a job file.
    #[serde(with = "crate::codec::shared_text")]
    pub text: Arc<str>,
}

/// Changes of a part at an epoch, besides the arriving nodes.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Amendment {
    /// Nodes whose home is another rank from now on.
    pub gone: Ascending,
    /// Ends that may be new to the receiver.
    pub ended: Vec<(u32, End)>,
    /// Nodes at home there, each with a further rank that needs it from now on; ascending.
    pub needed: Vec<(u32, u32)>,
}

/// The record of a task's attempts so far.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tried {
    /// The task.
    pub task: TaskId,
    /// Number of attempts that have ended.
    pub attempts: u16,
    /// Number of them that ended because their rank was lost: those use up no retry.
    pub lost: u16,
    /// Rank of the last one.
    pub rank: Rank,
    /// When the last attempt ended without an intervention; zero if none did.
    pub end: Time,
    /// Those of them that fell short of what they needed.
    pub short: Shortfalls,
}

impl Tried {
    /// No attempt yet.
    pub fn none(task: TaskId, rank: Rank, end: Time) -> Tried {
        Tried { task, attempts: 0, lost: 0, rank, end, short: Shortfalls::NONE }
    }
}

/// A task that is running.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Started {
    /// The task.
    pub task: TaskId,
    /// The attempt.
    pub attempt: u16,
    /// Start of the attempt.
    pub start: Time,
}

/// The facts about the run that a rank needs before it takes tasks.
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
    /// False for a rank that must not run tasks (`--coordinator-only`).
    pub works: bool,
    /// Requested slots (`--slots`).
    pub slots: Option<u32>,
    /// The masks of all ranks on the receiver's node, in order of rank: ranks with equal masks
    /// share the CPUs.
    pub masks: Vec<Vec<u32>>,
    /// True if ranks from outside the receiver's MPI world may join.
    pub open: bool,
    /// Nothing more is started once this number of tasks has failed; `None`: no limit.
    pub max_failures: Option<u32>,
    /// What first attempts at tasks with `memory = "auto"` ask for, in bytes by class.
    pub auto_memory: Vec<(String, u64)>,
    /// Names of the data graphs that are divided among the active ranks.
    pub divided_graphs: Vec<String>,
    /// Tasks of which attempts of earlier sessions fell short of what they needed.
    pub short: Vec<(TaskId, Shortfalls)>,
    /// Environment variables that the user set for MPI programs: each rank passes these on to its
    /// tasks, and none that it finds itself.
    pub user_variables: Vec<(String, String)>,
    /// Rank 0's process, as ranks of its machine recognise it (`system/process_watch`).
    pub process: [u64; 3],
}

/// The resources of a rank.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Hello {
    /// Name of its node.
    pub node: String,
    /// Process id.
    pub pid: u32,
    /// Slots; 0 if it runs no tasks.
    pub slots: u32,
    /// Bytes of memory for its tasks in total.
    pub memory: u64,
    /// GPUs for its tasks.
    pub gpus: u32,
    /// CPUs that its slots run on; other ranks of the node may use the same ones.
    pub cpus: Vec<u32>,
    /// Its labels, ascending.
    pub labels: Vec<String>,
}

impl Hello {
    /// Adds labels that the rank does not know of.
    pub fn add_labels(&mut self, labels: &[String]) {
        self.labels = labels_of(self.labels.iter().chain(labels).cloned()).to_vec();
    }
}

/// Load of a rank.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Load {
    /// Slots without work.
    pub idle: u32,
    /// Ready tasks that have not started and that any rank could run.
    pub ready: u32,
    /// Busy slots and slots that are set aside.
    pub busy: u32,
    /// Tasks that run.
    pub running: u32,
    /// Ready tasks that wait for more than a free slot: for memory, GPUs, further slots or a pool,
    /// for their next attempt, or until they are resumed.
    pub held: u32,
}

/// A task given to a rank that is not its home, or a further attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lease {
    /// The task.
    pub task: TaskId,
    /// Its home, which receives the result.
    pub home: Rank,
    /// Number of this attempt, from 1.
    pub attempt: u16,
    /// Its urgency.
    pub urgency: u8,
    /// When it became ready.
    pub ready: Time,
    /// Earlier attempts of this session that fell short of what they needed: this one asks for
    /// more.
    pub short: Shortfalls,
}

impl Lease {
    /// The first attempt at a task (by local number) at home on this ledger's rank.
    pub fn at_home(ledger: &DependencyCounts, local: u32, home: Rank) -> Lease {
        let (urgency, ready) = (ledger.urgency(local), ledger.ready_at(local));
        Lease { task: ledger.task(local), home, attempt: 1, urgency, ready, short: Shortfalls::NONE }
    }

    /// The needs of this attempt, given the task's needs. A further attempt that is to run on
    /// another rank must not be stolen back: only tasks without needs are given away, so it needs
    /// at least one slot.
    pub fn needs(&self, retry: &Retry, of_task: Option<Needs>) -> Option<Needs> {
        let stays = self.attempt > 1 && retry.elsewhere;
        of_task.or(stays.then_some(Needs::SLOT))
    }

    /// The record of an attempt that ran. It is the last one if the task completed; otherwise the
    /// home decides.
    #[inline]
    pub fn ended(&self, outcome: Outcome, rank: Rank, slot: u16, start: Time, end: Time) -> Attempt {
        let Lease { task, attempt, ready, .. } = *self;
        Attempt { task, attempt, outcome, last: outcome.ok(), rank, slot, ready, start, end }
    }

    /// The record of an attempt that was cancelled on `rank` before it began.
    pub fn cancelled(&self, rank: Rank, now: Time) -> Attempt {
        let outcome = Outcome { state: State::Cancelled, exit: 0, cached: false };
        let Lease { task, attempt, ready, .. } = *self;
        Attempt { task, attempt, outcome, last: false, rank, slot: 0, ready, start: now, end: now }
    }
}

/// True if one of these sorted, disjoint ranges of tasks (from, to) contains this one.
pub fn is_among(task: TaskId, tasks: &[(u32, u32)]) -> bool {
    let next = tasks.partition_point(|&(_, to)| to <= task.0);
    tasks.get(next).is_some_and(|&(from, _)| from <= task.0)
}

/// Adds a range to sorted, disjoint ranges of tasks (from, to).
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

/// Removes a range from sorted, disjoint ranges of tasks (from, to).
pub fn remove_range(tasks: &mut Vec<(u32, u32)>, (from, to): (u32, u32)) {
    let rest = |(other_from, other_to): (u32, u32)| {
        let (before, after) = ((other_from, other_to.min(from)), (other_from.max(to), other_to));
        [before, after].into_iter().filter(|range| range.0 < range.1)
    };
    *tasks = tasks.drain(..).flat_map(rest).collect();
}

/// How a run is stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Stop {
    /// Start nothing more; running tasks continue.
    Drain,
    /// End running tasks too: TERM, and KILL after the grace time.
    Terminate,
    /// End running tasks at once.
    Kill,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_added_and_removed() {
        let mut tasks = Vec::new();
        for range in [(0, 10), (20, 30), (10, 12)] {
            add_range(&mut tasks, range);
        }
        assert_eq!(tasks, [(0, 12), (20, 30)]);
        remove_range(&mut tasks, (5, 22));
        assert_eq!(tasks, [(0, 5), (22, 30)]);
        remove_range(&mut tasks, (0, 100));
        assert_eq!(tasks, []);
    }

    #[test]
    fn a_further_attempt_that_is_to_run_elsewhere_is_not_given_away() {
        let short = Shortfalls::NONE;
        let first = Lease { task: TaskId(0), home: Rank(0), attempt: 1, urgency: 0, ready: Time::ZERO, short };
        let second = Lease { attempt: 2, ..first };
        let here = Retry { count: 1, ..Retry::NONE };
        let elsewhere = Retry { elsewhere: true, ..here };
        assert_eq!([first.needs(&elsewhere, None), second.needs(&here, None)], [None, None]);
        assert_eq!(second.needs(&elsewhere, None), Some(Needs::SLOT));
        let wide = Some(Needs { cpus: 2, ..Needs::SLOT });
        assert_eq!(second.needs(&elsewhere, wide), wide);
    }
}
