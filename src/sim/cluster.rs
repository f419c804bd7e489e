//! The simulated cluster: what `cluster.toml` describes, resolved.
//!
//! A *node* of the simulation hosts one rank, as the blocks do that Phalanx gains while running: so
//! any node can be given back alone. How the file is written is `read`'s concern;
//! docs/cluster-file.md tells it to people.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use super::random::Distribution;
use super::read;
use crate::job::{Cost, Diagnostics};
use crate::model::Time;
use crate::scale::{self, NodeTypeId, Prices};

/// A cluster, as far as it matters to a run.
#[derive(Clone, Debug, PartialEq)]
pub struct Cluster {
    /// What it is called.
    pub name: String,
    /// Kinds of nodes; at least one. A run grows by the first kind.
    pub nodes: Vec<NodeKind>,
    /// How long messages travel.
    pub network: Network,
    /// What goes wrong.
    pub faults: Faults,
    /// How tasks deviate from their estimates.
    pub tasks: TaskSpread,
}

/// A kind of node.
#[derive(Clone, Debug, PartialEq)]
pub struct NodeKind {
    /// What it is called; nodes are numbered behind it.
    pub name: String,
    /// CPUs for tasks.
    pub slots: u32,
    /// Bytes of memory for tasks.
    pub memory: u64,
    /// GPUs for tasks.
    pub gpus: u32,
    /// A task takes its duration divided by this.
    pub speed: f64,
    /// What an hour costs.
    pub price: f64,
    /// A started piece of this length is charged whole; zero charges to the nanosecond.
    pub granularity: Duration,
    /// The least that is charged.
    pub minimum: Duration,
    /// At most so many at once.
    pub limit: u32,
    /// So many of the ranks with which a run begins are on nodes of this kind.
    pub first: u32,
    /// From the request to the grant; the bill begins with the grant.
    pub delay: Distribution,
    /// From the grant to the rank's first task.
    pub startup: Distribution,
    /// Share of requests that fail after their delay, 0 to 1.
    pub failure: f64,
}

/// How long messages travel. Between two ranks they keep their order.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Network {
    /// The least.
    pub latency: Duration,
    /// Up to so much more, equally likely.
    pub jitter: Duration,
}

/// What goes wrong.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Faults {
    /// Nodes that go down, per node and hour.
    pub node_loss: f64,
    /// Ranks that die alone, per rank and hour.
    pub rank_loss: f64,
    /// Share of nodes that are slow, 0 to 1.
    pub slow: f64,
    /// A task takes so many times as long there; at least 1.
    pub slow_factor: f64,
    /// How long after it happened a loss is noticed.
    pub notice: Duration,
    /// Share of attempts that fail, 0 to 1.
    pub task: f64,
}

/// How tasks deviate from their estimates: by a log-normal factor of median 1.
#[derive(Clone, Debug, PartialEq)]
pub struct TaskSpread {
    /// Standard deviation of the factor's natural logarithm.
    pub spread: f64,
    /// The same for single classes.
    pub classes: Vec<(String, f64)>,
    /// What starting a command takes in addition.
    pub spawn: Duration,
}

impl TaskSpread {
    /// The spread of a class.
    pub fn spread_of(&self, class: &str) -> f64 {
        self.classes.iter().find(|(name, _)| name == class).map_or(self.spread, |(_, spread)| *spread)
    }
}

impl Default for Cluster {
    /// The file that has nothing but one kind of node.
    fn default() -> Cluster {
        read::defaults()
    }
}

impl Cluster {
    /// Reads a cluster file.
    ///
    /// # Errors
    /// Every mistake in it, or why it cannot be read.
    pub fn load(path: &Path) -> Result<(Cluster, Arc<str>), Diagnostics> {
        read::load(path)
    }

    /// Reads the text of a cluster file called `file`.
    ///
    /// # Errors
    /// Every mistake in it.
    pub fn parse(text: &str, file: &str) -> Result<Cluster, Diagnostics> {
        read::parse(text, file)
    }

    /// The kinds of the nodes with which a run of so many ranks begins: those that the file gives
    /// it, in its order; further ones are of the first kind.
    pub fn first_kinds(&self, ranks: u32) -> impl Iterator<Item = NodeTypeId> + Clone + '_ {
        let given = (0u32..).zip(&self.nodes).flat_map(|(kind, node)| (0..node.first).map(move |_| NodeTypeId(kind)));
        given.chain(std::iter::repeat(NodeTypeId(0))).take(ranks as usize)
    }

    /// With how many ranks a run begins, if the file says so.
    pub fn first_ranks(&self) -> Option<u32> {
        Some(self.nodes.iter().map(|node| node.first).fold(0, u32::saturating_add)).filter(|ranks| *ranks > 0)
    }

    /// Slots of so many first ranks, each times the speed of its node.
    pub fn first_speed(&self, ranks: u32) -> f64 {
        let node = |kind: NodeTypeId| &self.nodes[kind.0 as usize];
        self.first_kinds(ranks).map(|kind| f64::from(node(kind).slots) * node(kind).speed).sum()
    }

    /// What nodes of so many first ranks cost in an hour.
    pub fn first_price(&self, ranks: u32) -> f64 {
        self.first_kinds(ranks).map(|kind| self.nodes[kind.0 as usize].price).sum()
    }

    /// What its nodes cost, and what a job may spend.
    pub fn prices(&self, cost: &Cost) -> Prices {
        Prices {
            nodes: self.nodes.iter().map(NodeKind::priced).collect(),
            budget: cost.budget,
            budget_per_hour: cost.budget_per_hour,
            deadline: cost.deadline.map(|deadline| Time::ZERO.after(deadline)),
        }
    }

    /// The cluster of a job that has no cluster file: nodes of so many slots, at the prices of the
    /// job.
    pub fn of_job(cost: &Cost, slots: u32) -> Cluster {
        let mut cluster = Cluster::default().with_slots(slots);
        let node = &mut cluster.nodes[0];
        (node.price, node.minimum, node.granularity) = (cost.node_hour, cost.minimum, cost.granularity);
        cluster
    }

    /// The same with `slots` on every node.
    #[must_use]
    pub fn with_slots(mut self, slots: u32) -> Cluster {
        self.nodes.iter_mut().for_each(|node| node.slots = slots);
        self
    }
}

impl NodeKind {
    /// The kind as a price list has it.
    fn priced(&self) -> scale::NodeType {
        scale::NodeType {
            name: self.name.clone(),
            slots: self.slots,
            speed: self.speed,
            node_hour: self.price,
            minimum: self.minimum,
            granularity: self.granularity,
            limit: Some(self.limit),
        }
    }
}
