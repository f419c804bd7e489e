//! The state of the run at one moment, as plain data: the input of a decision.
//!
//! The driver (rank 0 of a real run, or the simulator) fills it in. It must be complete: a policy
//! that needs more gets a new field here and reads nothing else.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::price::NodeTypeId;
use super::remaining::RemainingWork;
use super::sites::SiteView;
use crate::model::{Rank, RankState, Time};

/// Values that tasks wrote about themselves, by name.
pub type Customs = BTreeMap<String, f64>;

/// The state of the run at one moment.
#[derive(Clone, Copy)]
pub struct Observation<'a> {
    /// The moment.
    pub now: Time,
    /// Every rank of the run, in order of number; ranks that left may be omitted.
    pub ranks: &'a [RankView],
    /// Requests for nodes that have not been granted yet.
    pub requests: &'a [RequestView],
    /// Tasks by state.
    pub counts: TaskCounts,
    /// The part of the graph that is still to be run.
    pub remaining: &'a RemainingWork,
    /// Recent measurements.
    pub samples: Samples,
    /// The latest values that tasks wrote to `$PHALANX_METRICS`, by name; only those that rules use
    /// are needed.
    pub custom: &'a Customs,
    /// Bill of all nodes already given back, in the currency of the prices.
    pub settled: f64,
    /// The sites of a job that has `[[site]]` tables, in the order in which they are asked; empty:
    /// the run grows by nodes of type 0.
    pub sites: &'a [SiteView],
}

/// What a decision knows of a rank.
#[derive(Clone, Debug, PartialEq)]
pub struct RankView {
    /// Its number.
    pub rank: Rank,
    /// Its state.
    pub state: RankState,
    /// The type of its node.
    pub node_type: NodeTypeId,
    /// Its slots.
    pub slots: u32,
    /// When its node was granted, which is when billing starts. `None` if another rank on the same
    /// node carries the bill.
    pub billed_since: Option<Time>,
    /// Slots that run a task now.
    pub busy_slots: u32,
    /// Time that its slots have spent in tasks so far, summed over slots.
    pub busy: Duration,
    /// Attempts that failed on it.
    pub failures: u32,
    /// True if it may be given back; false for rank 0 and for nodes whose allocation cannot shrink.
    pub releasable: bool,
    /// True if only it can run some of the remaining tasks: it may neither leave nor be parked.
    pub needed: bool,
    /// When its allocation ends by itself, if known.
    pub ends: Option<Time>,
}

impl RankView {
    /// A rank as a decision sees it, from its state in the coordinator and what the driver knows of
    /// it; `holds_node` is true until the bill of its node has ended. `None` for a rank that is
    /// gone with its node.
    ///
    /// A node is billed until it has been given back, whatever its rank does, so a rank that has
    /// left its node behind counts as draining. So does one that has been requested and has not
    /// arrived: it counts among the requests.
    pub fn of(self, holds_node: bool) -> Option<RankView> {
        let state = match self.state {
            state if state.is_billed() => state,
            _ if holds_node => RankState::Draining,
            _ => return None,
        };
        let billed_since = self.billed_since.filter(|_| holds_node);
        // A load report may be older than the number of slots.
        Some(RankView { state, billed_since, busy_slots: self.busy_slots.min(self.slots), ..self })
    }
}

/// Number of a request for nodes, assigned by the driver.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct RequestId(pub u64);

/// Nodes that have been requested and not granted yet. Each brings one rank.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestView {
    /// Its number.
    pub id: RequestId,
    /// Number of nodes requested.
    pub nodes: u32,
    /// Node type requested.
    pub node_type: NodeTypeId,
    /// Types of the nodes that other sites were asked for instead: each may be granted at any
    /// moment, and is then given back or kept in place of this one.
    pub rivals: Vec<NodeTypeId>,
    /// When it was made.
    pub asked: Time,
    /// True if tasks wait for it that no rank can run: it may not be withdrawn.
    pub needed: bool,
}

/// Tasks by state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TaskCounts {
    /// All tasks of the job.
    pub total: u64,
    /// Tasks without a final state: waiting, ready or running.
    pub remaining: u64,
    /// Waiting for a slot.
    pub ready: u64,
    /// Running.
    pub running: u64,
    /// Completed.
    pub completed: u64,
    /// Failed, or ended otherwise without success.
    pub failed: u64,
}

/// Recent measurements, over about the last few decisions; `None` for what is not measured.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Samples {
    /// CPU utilisation of the active ranks' slots, 0 to 1; if `None`, policies use the share of
    /// busy slots instead.
    pub cpu: Option<f64>,
    /// Memory utilisation of the fullest active rank, 0 to 1.
    pub memory: Option<f64>,
    /// GPU utilisation, 0 to 1.
    pub gpu: Option<f64>,
    /// 95th percentile of the time that recently started tasks had waited for a slot.
    pub queue_wait_p95: Option<Duration>,
    /// Share of attempts that failed, 0 to 1.
    pub error_rate: Option<f64>,
    /// Completions per second.
    pub throughput: Option<f64>,
}

impl Observation<'_> {
    /// Number of ranks in a state.
    pub fn ranks_in(&self, state: RankState) -> u32 {
        self.ranks.iter().filter(|r| r.state == state).count() as u32
    }

    /// The nodes that can be requested, the first to be asked for first, those of the type `first`
    /// before all others: their type, and how many at most.
    pub fn growth(&self, first: Option<NodeTypeId>) -> Vec<(NodeTypeId, u32)> {
        if self.sites.is_empty() {
            return vec![(NodeTypeId(0), u32::MAX)];
        }
        let open = self.sites.iter().filter(|site| site.can_be_asked());
        let mut growth: Vec<_> = open.map(|site| (site.node_type, site.room.unwrap_or(u32::MAX))).collect();
        growth.sort_by_key(|(node_type, _)| Some(*node_type) != first);
        growth
    }

    /// The name of the site whose nodes have a type.
    pub fn site_of(&self, node_type: NodeTypeId) -> Option<&str> {
        self.sites.iter().find(|site| site.node_type == node_type).map(|site| &*site.name)
    }

    /// The type of the next node that is requested.
    pub fn growth_type(&self) -> NodeTypeId {
        self.sites.first().map_or(NodeTypeId(0), |site| site.node_type)
    }

    /// Ranks once everything under way has arrived: active, joining and requested.
    pub fn supply(&self) -> u32 {
        let requested: u32 = self.requests.iter().map(|r| r.nodes).sum();
        self.ranks_in(RankState::Active) + self.ranks_in(RankState::Joining) + requested
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scale::testing::rank;

    #[test]
    fn a_rank_counts_until_its_node_is_back() {
        let seen = |state, holds_node| {
            let view = RankView { busy_slots: 9, ..rank(1, state, 5.0) }.of(holds_node)?;
            assert_eq!(view.busy_slots, view.slots);
            Some((view.state, view.billed_since.is_some()))
        };
        for state in RankState::ALL.into_iter().filter(|state| state.is_billed()) {
            assert_eq!(seen(state, true), Some((state, true)));
            assert_eq!(seen(state, false), Some((state, false)), "{state:?}: its node is lost, and not billed twice");
        }
        for state in [RankState::Left, RankState::Lost, RankState::Requested] {
            assert_eq!(seen(state, true), Some((RankState::Draining, true)));
            assert_eq!(seen(state, false), None);
        }
    }
}
