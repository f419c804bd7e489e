//! Actions: the output of each step of the state machines, carried out by their drivers.

use super::fair::FamilyId;
use super::pools::PoolOrders;
use super::protocol::{Lease, Message, Stop};
use crate::model::{Attempt, GangHost, GangNode, Rank, TaskId};

/// An action of the coordinator.
#[derive(Clone, Debug, PartialEq)]
pub enum CoordinatorAction {
    /// Send a message, also to rank 0's own worker.
    Send {
        /// Receiver.
        to: Rank,
        /// Content.
        message: Message,
    },
    /// Write these attempts to the journal before anything that follows.
    Journal(Vec<Attempt>),
    /// An attempt has ended that had offered further tasks.
    Offered {
        /// Its task.
        task: TaskId,
        /// True if they are tasks of the run from now on, false if they are dropped.
        counts: bool,
    },
    /// Report something that costs results: tasks that will not run, a request that is refused.
    Error(String),
    /// Report something that costs no results.
    Warning(String),
    /// The run is over.
    Finished(StopReason),
}

/// Why a run ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StopReason {
    /// Every task has its final state.
    Complete,
    /// More tasks failed than the job allows.
    Failures,
    /// The end of the allocation is near.
    Walltime,
    /// The budget is spent.
    Budget,
    /// A signal (its number) interrupted the run.
    Signal(i32),
    /// A rank broke down.
    Broken(String),
}

/// An action of a worker.
#[derive(Clone, Debug, PartialEq)]
pub enum WorkerAction {
    /// Send a message, also to this rank itself: rank 0's coordinator is addressed like any other.
    Send {
        /// Receiver.
        to: Rank,
        /// Content.
        message: Message,
    },
    /// Activate the tasks at home in the worker's new ledger: slots count completions again.
    TakeUp,
    /// Learn the slot time in nanoseconds that families have got on other ranks.
    LearnShares(Vec<(FamilyId, u64)>),
    /// Carry out an order about leases of pools.
    PoolOrders(PoolOrders),
    /// Start these tasks at home (local numbers), first attempt.
    Start(Vec<u32>),
    /// Start a further attempt, or a task whose home is another rank.
    StartLease(Lease),
    /// Take up to `max` tasks that any rank can run out of the pool and give them to another rank.
    Surrender {
        /// Receiver.
        to: Rank,
        /// Upper limit on tasks.
        max: u32,
    },
    /// Until the ledger is replaced, slots count no completions: every end is reported as an
    /// [`WorkerEvent::Ended`](super::worker::WorkerEvent::Ended). Take all waiting tasks out of the
    /// pool except for some of the most urgent.
    Freeze {
        /// Number of waiting tasks that may stay and start.
        keep: u32,
    },
    /// Set aside for a gang what its task needs here.
    Hold {
        /// The gang.
        gang: u32,
        /// This rank's part of it.
        host: GangHost,
        /// The task.
        lease: Lease,
        /// True if this rank leads: it starts the task on `Launch`.
        leads: bool,
    },
    /// Start the task of the gang that this rank leads.
    Launch {
        /// The gang.
        gang: u32,
        /// Participating nodes, the leader's first; empty for an operation.
        hosts: Vec<GangNode>,
        /// The CPUs set aside on this node.
        cpus: Vec<u32>,
        /// For an operation: the ranks that execute it together, the leader first; otherwise empty.
        ranks: Vec<Rank>,
    },
    /// Run this rank's share of an operation that another rank leads, on the slots that are set
    /// aside. Answered by one [`WorkerEvent::ShareEnded`](super::worker::WorkerEvent::ShareEnded)
    /// when it has ended, which `Release` makes it do.
    Share {
        /// The gang.
        gang: u32,
        /// The task.
        lease: Lease,
        /// The ranks that execute it together, the leader first.
        ranks: Vec<Rank>,
    },
    /// End the attempt that this rank leads as NODE_FAIL: a rank that executes it too is gone.
    MemberLost {
        /// The gang.
        gang: u32,
        /// The rank.
        rank: Rank,
    },
    /// Free the slots that are set aside for a gang, as soon as a share of it has ended.
    Release {
        /// The gang.
        gang: u32,
    },
    /// Start nothing until [`WorkerAction::Resume`]; running tasks continue.
    Suspend,
    /// Start tasks again.
    Resume,
    /// Start nothing more. The coordinator will send `Stop` to all ranks as soon as it has counted
    /// this rank's failures.
    Halt,
    /// Start nothing more, and end running tasks as `Stop` specifies.
    Stop(Stop),
    /// Cancel these tasks (from, to), whether they run, wait in the pool, or start later: they end
    /// as CANCELLED.
    Cancel(Vec<(u32, u32)>),
    /// Start none of these tasks (from, to) from now on, and others again; replaces the list
    /// before.
    Pause(Vec<(u32, u32)>),
    /// The run is over: exit.
    Exit,
}
