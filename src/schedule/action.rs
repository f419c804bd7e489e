//! What the state machines ask their drivers to do: the output of each step.

use super::protocol::{Lease, Message, Stop};
use crate::model::{Attempt, Rank};

/// What the coordinator's driver carries out.
#[derive(Clone, Debug, PartialEq)]
pub enum CoordinatorAction {
    /// Send a message (to rank 0's own worker too).
    Send {
        /// To whom.
        to: Rank,
        /// What.
        message: Message,
    },
    /// Write these attempts to the journal before anything that follows.
    Journal(Vec<Attempt>),
    /// Something that costs results: tasks that are not run, a request that is refused.
    Tell(String),
    /// Something that the user should know and that costs no results.
    Note(String),
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
    /// The allocation's end is near.
    Walltime,
    /// The budget is spent.
    Budget,
    /// The user interrupted it (signal number).
    Signal(i32),
    /// A rank could not go on.
    Broken(String),
}

/// What a worker's driver carries out.
#[derive(Clone, Debug, PartialEq)]
pub enum WorkerAction {
    /// Send a message (to itself too: rank 0's coordinator is addressed like any other).
    Send {
        /// To whom.
        to: Rank,
        /// What.
        message: Message,
    },
    /// Take up the tasks at home that the worker's ledger now has: slots count again. The shares of
    /// limits replace earlier ones.
    TakeUp {
        /// Groups, and how many of their tasks this rank may run at once.
        limits: Vec<(u32, u32)>,
    },
    /// Start these tasks at home (local numbers), first attempt.
    Start(Vec<u32>),
    /// Start an attempt that is not the first, or a task of another home.
    StartLease(Lease),
    /// Take up to `max` tasks that any rank can run out of the pool and give them to another rank.
    Surrender {
        /// To whom.
        to: Rank,
        /// At most so many.
        max: u32,
    },
    /// From now on until the ledger is replaced slots count nothing by themselves: every end is an
    /// [`Event::Ended`](super::worker::Event::Ended). Take all that waits out of the pool but for
    /// some of the most urgent.
    Freeze {
        /// How many may stay and be started.
        keep: u32,
    },
    /// Set slots aside for a gang; lead it if there is a lease.
    Hold {
        /// The gang.
        gang: u32,
        /// How many.
        slots: u32,
        /// The task to start when `Launch` comes.
        lead: Option<Lease>,
    },
    /// Start the task of the gang that this rank leads.
    Launch {
        /// The gang.
        gang: u32,
        /// Nodes that take part, and how many MPI ranks each hosts.
        hosts: Vec<(String, u32)>,
        /// The CPUs set aside on this node.
        cpus: Vec<u32>,
    },
    /// Free the slots set aside for a gang.
    Release {
        /// The gang.
        gang: u32,
    },
    /// Start nothing until [`WorkerAction::Resume`]; what runs may end.
    Suspend,
    /// Go on.
    Resume,
    /// Start nothing more: the coordinator will say the same to all as soon as it has counted what
    /// this rank has.
    Halt,
    /// Start nothing more, and end what runs as `Stop` says.
    Stop(Stop),
    /// End what runs of these tasks (from, to), what waits in the pool, and whatever of them is
    /// started later: they end as CANCELLED.
    Cancel(Vec<(u32, u32)>),
    /// The run is over: leave.
    Exit,
}
