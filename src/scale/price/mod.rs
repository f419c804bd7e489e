//! What nodes cost: the price list and the bill of one node, the account of a run (`account`), and
//! the cheapest nodes for a need (`mix`).
//!
//! A node is charged from grant to end, for at least a minimum and in whole units, as sites and
//! clouds do. Idle ranks are charged like busy ones.

mod account;
mod mix;

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::job::{Cost, Job, Site};
use crate::model::{NodeNeed, Time};

pub use account::{Account, Alarm, Savings, paid_until};
pub use mix::{CapacityNeed, Infeasible, Mix, cheapest_mix};

/// Number of a node type in [`Prices::nodes`]; 0 is the type of the job's `[cost]` section itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct NodeTypeId(pub u32);

/// A kind of node that can be requested.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct NodeType {
    /// Its name.
    pub name: String,
    /// Slots that a rank on it has.
    pub slots: u32,
    /// Speed relative to the reference node of the estimates.
    pub speed: f64,
    /// Price for one hour.
    pub node_hour: f64,
    /// The least time that is charged.
    pub minimum: Duration,
    /// Charged time is rounded up to a multiple of this; zero turns rounding off.
    pub granularity: Duration,
    /// Upper limit on nodes held at once, if known.
    pub limit: Option<u32>,
    /// Bytes of memory for tasks, if known. Records of a run do not have it.
    #[serde(skip)]
    pub memory: Option<u64>,
    /// GPUs, if known. Records of a run do not have them.
    #[serde(skip)]
    pub gpus: Option<u32>,
}

/// A set of node types: those that may run some tasks. Types from the 64th on are in each.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NodeTypes(u64);

impl Default for NodeTypes {
    /// All types.
    fn default() -> NodeTypes {
        NodeTypes(u64::MAX)
    }
}

impl NodeTypes {
    /// True if the type is one of them.
    pub fn has(self, node_type: NodeTypeId) -> bool {
        node_type.0 >= u64::BITS || self.0 & (1 << node_type.0) != 0
    }

    /// True if all of them are among others, and not all of these among them.
    pub fn is_part_of(self, others: NodeTypes) -> bool {
        self.0 & !others.0 == 0 && self != others
    }
}

/// Time between the moment when all nodes must be back and the moment when the budget is exhausted:
/// for messages, signals and the scheduler.
pub const STOP_MARGIN: Duration = Duration::from_secs(2);

/// The price list and the spending limits.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Prices {
    /// The node types; type 0 is the one that the job grows by.
    pub nodes: Vec<NodeType>,
    /// Upper limit on the cost of the run.
    pub budget: Option<f64>,
    /// Upper limit on the hourly cost of the nodes held at one time.
    pub budget_per_hour: Option<f64>,
    /// When the run should be over.
    pub deadline: Option<Time>,
    /// What earlier sessions of the run have spent of the budget. Records do not have it, as each
    /// session has its own bill.
    #[serde(skip)]
    pub earlier: f64,
}

/// What a session continues.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct EarlierSessions {
    /// Their cost.
    pub cost: f64,
    /// Time since the first one began.
    pub passed: Duration,
}

impl Prices {
    /// The prices as a further session of a run sees them: it continues the bill, and its deadline
    /// counts from the beginning of the first session.
    #[must_use]
    pub fn continuing(mut self, earlier: EarlierSessions) -> Prices {
        let passed = u64::try_from(earlier.passed.as_nanos()).unwrap_or(u64::MAX);
        self.deadline = self.deadline.map(|deadline| Time(deadline.0.saturating_sub(passed)));
        self.earlier += earlier.cost;
        self
    }

    /// The price list of the first nodes of a job, of one rank with `slots` slots each.
    pub fn of_job(cost: &Cost, slots: u32) -> Prices {
        let first = NodeType {
            name: "node".to_owned(),
            slots,
            speed: 1.0,
            node_hour: cost.node_hour,
            minimum: cost.minimum,
            granularity: cost.granularity,
            limit: None,
            memory: None,
            gpus: None,
        };
        Prices {
            nodes: vec![first],
            budget: cost.budget,
            budget_per_hour: cost.budget_per_hour,
            deadline: cost.deadline.map(|d| Time::ZERO.after(d)),
            earlier: 0.0,
        }
    }

    /// The same list with the nodes of these sites as further types, in this order.
    #[must_use]
    pub fn with_sites(mut self, sites: &[Site]) -> Prices {
        let usual = self.nodes.first().map_or(1, |node| node.slots);
        self.nodes.extend(sites.iter().filter_map(|site| site.terms.as_ref()).map(|terms| NodeType {
            name: terms.name.clone(),
            slots: terms.node.slots.unwrap_or(usual),
            speed: 1.0,
            node_hour: terms.node.node_hour,
            minimum: terms.node.minimum,
            granularity: terms.node.granularity,
            limit: terms.node.limit,
            memory: terms.node.memory,
            gpus: terms.node.gpus,
        }));
        self
    }

    /// The type of the nodes of a site of a job, by its place, in the list
    /// [with its sites](Prices::with_sites).
    pub fn type_of_site(job: &Job, site: usize) -> NodeTypeId {
        match job.sites.get(site) {
            Some(Site { terms: Some(_), .. }) => NodeTypeId(1 + site as u32),
            _ => NodeTypeId(0),
        }
    }

    /// The types that may run tasks with a need: those that are not known to lack something, or all
    /// if each does. What labels they have is not considered.
    pub fn types_for(&self, need: &NodeNeed) -> NodeTypes {
        let may = |node: &NodeType| {
            need.slots <= node.slots
                && node.memory.is_none_or(|memory| need.memory <= memory)
                && node.gpus.is_none_or(|gpus| need.gpus <= gpus)
        };
        let able = (0..).zip(&self.nodes).take(64).filter(|(_, node)| may(node));
        match able.fold((0, 0), |(set, count), (number, _)| (set | 1 << number, count + 1)) {
            (_, count) if count == 0 || count == self.nodes.len() => NodeTypes::default(),
            (set, _) => NodeTypes(set),
        }
    }

    /// A node type by number; `None` if there is no such type.
    pub fn node(&self, node_type: NodeTypeId) -> Option<&NodeType> {
        self.nodes.get(node_type.0 as usize)
    }

    /// Charged time of a node held from `from` to `to`; of an unlisted type, that time.
    pub fn charged(&self, node_type: NodeTypeId, from: Time, to: Time) -> Duration {
        self.node(node_type).map_or(to.since(from), |node| node.charged(to.since(from)))
    }

    /// Bill of a node held from `from` to `to`; an unlisted type costs nothing.
    pub fn bill(&self, node_type: NodeTypeId, from: Time, to: Time) -> f64 {
        self.node(node_type).map_or(0.0, |n| n.bill(to.since(from)))
    }
}

impl NodeType {
    /// Charged time of a node held for `held`: at least the minimum, rounded up to the granularity.
    pub fn charged(&self, held: Duration) -> Duration {
        // Half a millennium fits in 64 bits, and accounts of many nodes call this often.
        let nanos = |time: Duration| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        let (unit, held) = (nanos(self.granularity), nanos(held));
        let rounded = if unit == 0 { held } else { held.div_ceil(unit).saturating_mul(unit) };
        Duration::from_nanos(rounded).max(self.minimum)
    }

    /// Bill of a node held for `held`: `max(minimum, ceil(held / granularity) granularity) x
    /// price`.
    pub fn bill(&self, held: Duration) -> f64 {
        self.charged(held).as_secs_f64() * self.per_second()
    }

    /// Price per second.
    pub fn per_second(&self) -> f64 {
        self.node_hour / 3600.0
    }

    /// Work per second, in slot-seconds of the reference node of the estimates.
    pub fn capacity(&self) -> f64 {
        f64::from(self.slots) * self.speed
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn node(minimum: u64, granularity: u64) -> NodeType {
        NodeType {
            name: "n".into(),
            slots: 4,
            speed: 1.0,
            node_hour: 3.6,
            minimum: Duration::from_secs(minimum),
            granularity: Duration::from_secs(granularity),
            limit: None,
            memory: None,
            gpus: None,
        }
    }

    #[test]
    fn bills_by_hand() {
        // 3.6 per hour is 0.001 per second.
        let bill = |minimum, granularity, held| node(minimum, granularity).bill(Duration::from_secs_f64(held));
        let close = |a: f64, b: f64| (a - b).abs() < 1e-12;
        assert!(close(bill(60, 1, 10.0), 0.060));
        assert!(close(bill(60, 1, 60.0), 0.060));
        assert!(close(bill(60, 1, 60.1), 0.061));
        assert!(close(bill(0, 3600, 1.0), 3.6));
        assert!(close(bill(0, 3600, 3600.0), 3.6));
        assert!(close(bill(0, 3600, 3600.5), 7.2));
        assert!(close(bill(0, 0, 1.5), 0.0015));
        assert!(close(bill(90, 60, 10.0), 0.090), "a minimum need not be a multiple of the granularity");
    }

    proptest! {
        #[test]
        fn a_bill_grows_and_covers_the_time(held in 0u64..10_000_000, more in 0u64..1_000_000, minimum in 0u64..5000, unit in 0u64..5000) {
            let node = node(minimum, unit);
            let (a, b) = (Duration::from_millis(held), Duration::from_millis(held + more));
            prop_assert!(node.bill(a) <= node.bill(b));
            prop_assert!(node.charged(a) >= a && node.charged(a) >= node.minimum);
            prop_assert!(node.charged(a) <= (a + node.granularity).max(node.minimum));
        }
    }
}
