//! Pools: named resources that all ranks of a run share, such as licences or a limit on the tasks
//! of an array.
//!
//! Rank 0 deals units of a pool to ranks as *leases* ([`dealer`]). A rank starts a task if it holds
//! enough idle units of all pools of the task ([`shares`]); it keeps the units afterwards, so a
//! rank whose lease suffices exchanges no message. It asks for more once a slot is idle for want of
//! units, and rank 0 recalls units from ranks that can spare them.
//!
//! | file | one idea |
//! |---|---|
//! | `table` | the pools of a job, and what each task needs of them |
//! | `shares` | the leases of a rank |
//! | `dealer` | rank 0: who holds what, who waits, who gets the next unit |
//! | `stock` | rank 0: one resource |
//! | `states` | rank 0: what users see |
//! | `deal_table` | rank 0: what can be dealt at one moment |
//! | `recall` | rank 0: which ranks give units back |
//! | `rate` | starts per time |
//!
//! **Never above capacity.** Units in use on a rank are at most its lease, and leases together are
//! at most the capacity: a unit is dealt again only after its rank has reported it back, after the
//! rank has left empty, or, if the rank was lost, once its tasks have certainly ended
//! ([`dealer::LOST_LEASE`]). If the capacity is lowered below what is leased, each unit that
//! becomes idle goes back until the leases fit.
//!
//! **No deadlock, no starvation.** A task gets the units of all its pools at once or none of them.
//! Claims are served in one order for all pools: the more urgent first, then the older. The first
//! claim in line for a pool gets what becomes free there, and ranks return idle units that they
//! keep for younger claims. So the first claim of all always gets everything in the end, and a
//! claim that is served loses its place.

mod deal_table;
pub mod dealer;
mod rate;
mod recall;
pub mod shares;
mod states;
mod stock;
pub mod table;
#[cfg(test)]
mod tests;

use serde::{Deserialize, Serialize};

/// Number of a resource in the [`table`]. A pool with a capacity and a rate has two.
pub type ResourceId = u32;

/// Number of a set of needs in the [`table`]; 0 needs nothing.
pub type SetId = u32;

/// Capacity of a pool without a limit.
pub const UNLIMITED: u32 = u32::MAX;

/// What a rank reports about its leases.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PoolReport {
    /// Number of orders that the rank has carried out. Claims of a rank that has not carried out
    /// the latest order are outdated.
    pub seen: u32,
    /// Units given back.
    pub returned: Vec<(ResourceId, u32)>,
    /// Units in use or about to be, for each resource of which the rank holds any.
    pub used: Vec<(ResourceId, u32)>,
    /// What it could start if it had more units.
    pub claims: Vec<PoolClaim>,
}

/// Tasks that a rank could start now if it had the units.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PoolClaim {
    /// What each of them needs.
    pub set: SetId,
    /// Their number.
    pub tasks: u32,
    /// Their urgency.
    pub level: u8,
    /// True if no slot is free for them yet: they get what nobody else wants.
    pub ahead: bool,
    /// Idle units that the rank keeps for them, by the order of the set.
    pub kept: Vec<u32>,
}

/// What rank 0 orders a rank to do with its leases.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PoolOrders {
    /// Further units.
    pub granted: Vec<(ResourceId, u32)>,
    /// Units to give back as soon as they are idle; replaces what was owed of the resource before.
    pub owed: Vec<(ResourceId, u32)>,
}

impl PoolOrders {
    /// True if there is nothing to do.
    pub fn is_empty(&self) -> bool {
        self.granted.is_empty() && self.owed.is_empty()
    }
}
