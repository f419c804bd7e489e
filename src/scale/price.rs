//! What nodes cost: the price list, and the bill of a node.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::observation::Observation;
use crate::job::Cost;
use crate::model::Time;

/// Number of a node type in [`Prices::nodes`]; 0 is the type of the job's `[cost]` section itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct NodeTypeId(pub u32);

/// A kind of node that can be had.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct NodeType {
    /// Its name.
    pub name: String,
    /// Slots that a rank on it has.
    pub slots: u32,
    /// How fast it runs tasks, relative to the node that estimates are for.
    pub speed: f64,
    /// Price for one hour.
    pub node_hour: f64,
    /// The least time that is charged.
    pub minimum: Duration,
    /// Charged time is rounded up to a multiple of this (zero: to nothing).
    pub granularity: Duration,
    /// At most so many can be had at once, if that is known.
    pub limit: Option<u32>,
}

/// The price list with what may be spent.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Prices {
    /// The node types.
    pub nodes: Vec<NodeType>,
    /// The run never costs more.
    pub budget: Option<f64>,
    /// Nodes held at one time never cost more per hour.
    pub budget_per_hour: Option<f64>,
    /// When the run should be over.
    pub deadline: Option<Time>,
}

impl Prices {
    /// The price list of a job, for nodes of one rank with so many slots each. `[[cost.node]]` types follow as 1, 2, ...
    pub fn of_job(cost: &Cost, slots: u32) -> Prices {
        let node = |name: &str, node_hour, minimum, granularity| NodeType {
            name: name.to_owned(),
            slots,
            speed: 1.0,
            node_hour,
            minimum,
            granularity,
            limit: None,
        };
        let first = node("node", cost.node_hour, cost.minimum, cost.granularity);
        let more = cost.nodes.iter().map(|n| node(&n.name, n.node_hour, n.minimum, n.granularity));
        Prices {
            nodes: std::iter::once(first).chain(more).collect(),
            budget: cost.budget,
            budget_per_hour: cost.budget_per_hour,
            deadline: cost.deadline.map(|d| Time::ZERO.after(d)),
        }
    }

    /// Bill of a node that is held from `from` to `to`.
    pub fn bill(&self, node_type: NodeTypeId, from: Time, to: Time) -> f64 {
        self.nodes.get(node_type.0 as usize).map_or(0.0, |n| n.bill(to.since(from)))
    }

    /// Bill up to now: of the nodes given back, and of those held as if they were given back now.
    pub fn spent(&self, seen: &Observation<'_>) -> f64 {
        let live = seen.ranks.iter().filter(|r| r.state.is_billed());
        seen.settled
            + live.filter_map(|r| r.billed_since.map(|since| self.bill(r.node_type, since, seen.now))).sum::<f64>()
    }
}

impl NodeType {
    /// Time that is charged for a node held for `held`: at least the minimum, rounded up to the granularity.
    pub fn charged(&self, held: Duration) -> Duration {
        let unit = self.granularity.as_nanos();
        let held = held.as_nanos();
        let rounded = if unit == 0 { held } else { held.div_ceil(unit) * unit };
        Duration::from_nanos(u64::try_from(rounded).unwrap_or(u64::MAX)).max(self.minimum)
    }

    /// Bill of a node held for `held`.
    pub fn bill(&self, held: Duration) -> f64 {
        self.charged(held).as_secs_f64() / 3600.0 * self.node_hour
    }
}
