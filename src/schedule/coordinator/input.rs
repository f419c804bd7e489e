//! What the coordinator is given, and its count of tasks.

use std::ops::Range;
use std::sync::Arc;

use crate::graph::TaskGraph;
use crate::model::{NodeOffer, Offers, Rank};
use crate::schedule::action::StopReason;
use crate::schedule::homes::Advice;
use crate::schedule::membership::Change;
use crate::schedule::pools::ResourceId;
use crate::schedule::pools::table::PoolTable;
use crate::schedule::protocol::{Message, Stop};

/// An input of the coordinator.
#[derive(Clone, Debug)]
pub enum CoordinatorEvent {
    /// A message arrived (also from rank 0's own worker).
    Message {
        /// Sender.
        from: Rank,
        /// Content.
        message: Message,
    },
    /// Stop the run before its tasks have ended.
    Stop {
        /// How to stop.
        how: Stop,
        /// The reason.
        why: StopReason,
    },
    /// A rank joins, leaves or pauses. Rank numbers are assigned in sequence; see
    /// [`Coordinator::next_rank`](super::Coordinator::next_rank).
    Change {
        /// The rank.
        rank: Rank,
        /// The change of its state.
        change: Change,
    },
    /// Distribute the remaining work evenly.
    Rebalance,
    /// Which nodes can still be provisioned: tasks that no rank can run wait for them, or end the
    /// run.
    Provisioning(ProvisioningState),
    /// Time has passed; see [`Coordinator::next_tick`](super::Coordinator::next_tick).
    Tick,
    /// Change the capacity of a resource of the pools.
    Limit {
        /// The resource.
        resource: ResourceId,
        /// Its units from now on; [`UNLIMITED`](crate::schedule::pools::UNLIMITED) for no limit.
        units: u32,
    },
    /// Start none of these tasks until they are resumed, or start them again.
    Pause {
        /// Ranges of task numbers.
        tasks: Vec<Range<u32>>,
        /// False to resume them.
        paused: bool,
    },
    /// Cancel these tasks.
    Cancel {
        /// Range of task numbers.
        tasks: Range<u32>,
    },
}

/// The nodes that a run may still get.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ProvisioningState {
    /// Nodes that can be requested.
    pub offers: Offers,
    /// Nodes requested and not arrived yet: what each will have at least.
    pub coming: Vec<NodeOffer>,
    /// Upper limit on ranks that may join in total.
    pub most: u32,
}

/// A count of tasks by state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TaskTally {
    /// Tasks of the run: those of the job without those that are left out.
    pub total: u32,
    /// Completed (in this session or an earlier one).
    pub completed: u32,
    /// Ended without success.
    pub failed: u32,
    /// Never run, because a dependency was violated.
    pub skipped: u32,
    /// Cancelled by the user.
    pub cancelled: u32,
    /// Tasks of the job that are left out of the run.
    pub left_out: u32,
    /// Running, as last reported.
    pub running: u32,
    /// Slots that are busy or set aside, as last reported; at most the number of tasks that have
    /// not ended.
    pub busy: u32,
    /// Waiting for a slot, as last reported.
    pub ready: u32,
    /// Ready too, but waiting for more than a free slot, as last reported.
    pub held: u32,
}

impl Tasks {
    /// The same with free numbers for further tasks (see [`TaskGraph::with_gap`]).
    pub fn with_gap(mut self, gap: u32) -> Tasks {
        self.graph = Arc::new(self.graph.with_gap(gap));
        let free = self.graph.free_numbers();
        let (at, free) = (free.start as usize, free.len());
        self.home.splice(at..at, std::iter::repeat_n(0, free));
        self.urgency.splice(at..at, std::iter::repeat_n(0, free));
        self
    }
}

/// The tasks of a run, with what the coordinator needs to choose new homes.
pub struct Tasks {
    /// Their graph.
    pub graph: Arc<TaskGraph>,
    /// Home rank of each node.
    pub home: Vec<u32>,
    /// Urgency of each node, with [`SPECIAL`](crate::schedule::part::SPECIAL).
    pub urgency: Vec<u8>,
    /// Further facts that the choice of homes depends on.
    pub advice: Box<dyn Advice>,
    /// Their pools.
    pub pools: Arc<PoolTable>,
    /// If families have shares: for each, its first task and the slots of one.
    pub fair: Vec<(u32, u32)>,
}
