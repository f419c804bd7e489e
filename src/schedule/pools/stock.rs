//! One resource: who holds how much of it, and what happened to it so far.

use std::collections::BTreeMap;
use std::time::Duration;

use super::ResourceId;
use super::rate::StartBudget;
use crate::model::{Rank, TaskId, Time};

/// A rank keeps a unit that others wait for at least this long, so that short tasks are not outrun
/// by the messages about them.
pub(super) const QUANTUM: Duration = Duration::from_millis(1);

/// Who holds units.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Holder {
    /// A rank, for its tasks.
    Rank(Rank),
    /// An attempt at an MPI task on several ranks: the report of its end and the next attempt come
    /// from different ranks, in any order.
    Gang(TaskId, u16),
}

/// Units of one resource that a holder has.
#[derive(Clone, Copy, Debug)]
pub(super) struct Grant {
    pub(super) units: u32,
    /// Those in use, as last reported.
    pub(super) used: u32,
    /// Those that the holder was ordered to give back.
    pub(super) owed: u32,
    /// Time of the last grant.
    pub(super) since: Time,
    /// The holder was lost; its units come back at this time.
    pub(super) until: Option<Time>,
}

/// One resource.
#[derive(Debug)]
pub(super) struct Stock {
    /// Units; not used for a rate.
    pub(super) capacity: u32,
    pub(super) budget: Option<StartBudget>,
    pub(super) grants: BTreeMap<Holder, Grant>,
    /// Sum of `grants`.
    pub(super) dealt: u64,
    pub(super) counters: PoolCounters,
    /// Since when all units have been dealt while somebody waited.
    pub(super) at_limit: Option<Time>,
}

/// What happened to a resource so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PoolCounters {
    /// Most units in use at once, as reported.
    pub peak: u32,
    /// Units that went from one rank to another.
    pub hand_overs: u64,
    /// Time during which tasks waited for units.
    pub at_limit: Duration,
}

/// The present state of a resource.
#[derive(Clone, Debug, PartialEq)]
pub struct PoolState {
    /// Number of the resource.
    pub resource: ResourceId,
    /// Units; `None` for no limit, or for a rate.
    pub capacity: Option<u32>,
    /// Units in use, as last reported.
    pub used: u32,
    /// Holders with units in use, most first.
    pub holders: Vec<(Holder, u32)>,
    /// Tasks that wait for units and could start at once.
    pub waiting: u32,
    /// What happened so far.
    pub counters: PoolCounters,
}
