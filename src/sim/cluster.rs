//! The simulated cluster: the resolved contents of `cluster.toml`.
//!
//! A simulated *node* hosts one rank, like the blocks that Phalanx adds while running, so any node
//! can be given back alone. `read` parses the file; docs/cluster-file.md documents it.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use super::random::Distribution;
use super::read;
use crate::job::{Cost, Diagnostics, Job, NodeTerms};
use crate::model::{Labels, NodeOffer, Time, labels_of};
use crate::scale::estimate::LogNormal;
use crate::scale::{self, NodeTypeId, Prices};
use crate::workload::{placement, requirements};

/// A cluster, as far as it affects a run.
#[derive(Clone, Debug, PartialEq)]
pub struct Cluster {
    /// Its name.
    pub name: String,
    /// Kinds of nodes; at least one. A run grows by the first kind.
    pub nodes: Vec<NodeKind>,
    /// Message delays.
    pub network: Network,
    /// Failure rates.
    pub faults: Faults,
    /// How tasks deviate from their estimates.
    pub tasks: TaskSpread,
}

/// A kind of node.
#[derive(Clone, Debug, PartialEq)]
pub struct NodeKind {
    /// Name of the kind; node names are this name with a number.
    pub name: String,
    /// CPUs for tasks.
    pub slots: u32,
    /// Bytes of memory for tasks.
    pub memory: u64,
    /// GPUs for tasks.
    pub gpus: u32,
    /// Labels of its ranks.
    pub labels: Arc<[String]>,
    /// A task takes its duration divided by this.
    pub speed: f64,
    /// Price per hour.
    pub price: f64,
    /// Unit of billing: a started unit is charged whole; zero charges to the nanosecond.
    pub granularity: Duration,
    /// Minimum charged time.
    pub minimum: Duration,
    /// Upper limit on nodes of this kind at once.
    pub limit: u32,
    /// Number of ranks at the start of a run that are on nodes of this kind.
    pub first: u32,
    /// Number of these ranks that come before those of other kinds beside the first one.
    pub ahead: u32,
    /// From the request to the grant; the bill begins with the grant.
    pub delay: Distribution,
    /// From the grant to the rank's first task.
    pub startup: Distribution,
    /// Share of requests that fail after their delay, 0 to 1.
    pub failure: f64,
}

/// The nodes of one kind in a run.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TypeUse {
    /// The kind.
    pub kind: NodeTypeId,
    /// Number of nodes.
    pub nodes: u32,
    /// Their bill.
    pub cost: f64,
}

/// Delays of messages, and how fast files travel. Messages between two ranks keep their order.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Network {
    /// Minimum delay.
    pub latency: Duration,
    /// Maximum additional delay, uniformly distributed.
    pub jitter: Duration,
    /// Bytes per second that a node sends, and that it receives.
    pub bandwidth: u64,
    /// Bytes per second of the shared file system for all nodes together, if it limits them.
    pub file_system: Option<u64>,
}

/// Failure rates.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Faults {
    /// Node failures, per node and hour.
    pub node_loss: f64,
    /// Failures of a rank alone, per rank and hour.
    pub rank_loss: f64,
    /// Share of nodes that are slow, 0 to 1.
    pub slow: f64,
    /// Factor by which a task takes longer there; at least 1.
    pub slow_factor: f64,
    /// Delay until a loss is noticed.
    pub notice: Duration,
    /// Share of attempts that fail, 0 to 1.
    pub task: f64,
}

/// How tasks deviate from their estimates: by a log-normal factor of median 1.
#[derive(Clone, Debug, PartialEq)]
pub struct TaskSpread {
    /// Standard deviation of the factor's natural logarithm.
    pub spread: f64,
    /// What differs for single classes.
    pub classes: Vec<ClassSpread>,
    /// Additional time to start a command.
    pub spawn: Duration,
}

/// How the tasks of one class deviate from what the job file says.
#[derive(Clone, Debug, PartialEq)]
pub struct ClassSpread {
    /// The class.
    pub name: String,
    /// Standard deviation of the logarithm of durations; `None`: as for all tasks.
    pub spread: Option<f64>,
    /// Peak memory of its tasks in bytes: one of these each. Empty: no task falls short of memory.
    pub memory: Arc<[u64]>,
}

impl TaskSpread {
    /// What is known of a class; several entries complement each other, the first counts.
    fn class<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a ClassSpread> {
        self.classes.iter().filter(move |class| class.name == name)
    }

    /// The spread of a class.
    pub fn spread_of(&self, class: &str) -> f64 {
        self.class(class).find_map(|class| class.spread).unwrap_or(self.spread)
    }

    /// The peak memory of the tasks of a class.
    pub fn memory_of(&self, class: &str) -> Arc<[u64]> {
        let known = self.class(class).find(|class| !class.memory.is_empty());
        known.map_or_else(Arc::default, |class| Arc::clone(&class.memory))
    }
}

impl Default for Cluster {
    /// The result of a file with one kind of node and nothing else.
    fn default() -> Cluster {
        read::defaults()
    }
}

impl Cluster {
    /// Reads a cluster file.
    ///
    /// # Errors
    ///
    /// All mistakes in it, or why it cannot be read.
    pub fn load(path: &Path) -> Result<(Cluster, Arc<str>), Diagnostics> {
        read::load(path)
    }

    /// Parses the text of a cluster file called `file`.
    ///
    /// # Errors
    ///
    /// All mistakes in it.
    pub fn parse(text: &str, file: &str) -> Result<Cluster, Diagnostics> {
        read::parse(text, file)
    }

    /// The kinds of the nodes with which a run of `ranks` ranks starts: those that the file lists,
    /// in its order; further ones are of the first kind.
    pub fn first_kinds(&self, ranks: u32) -> impl Iterator<Item = NodeTypeId> + Clone + '_ {
        let ahead = |kind: u32, node: &NodeKind| if kind == 0 { node.first } else { node.ahead.min(node.first) };
        let nodes = &self.nodes;
        let of = move |count: fn(u32, u32) -> u32| {
            let each = move |(kind, node)| (0..count(ahead(kind, node), node.first)).map(move |_| NodeTypeId(kind));
            (0u32..).zip(nodes).flat_map(each)
        };
        let given = of(|ahead, _| ahead).chain(of(|ahead, first| first - ahead));
        given.chain(std::iter::repeat(NodeTypeId(0))).take(ranks as usize)
    }

    /// Number of ranks at the start of a run, if the file specifies it.
    pub fn first_ranks(&self) -> Option<u32> {
        Some(self.nodes.iter().map(|node| node.first).fold(0, u32::saturating_add)).filter(|ranks| *ranks > 0)
    }

    /// Slots of the first `ranks` ranks, weighted by the speed of their nodes.
    pub fn first_speed(&self, ranks: u32) -> f64 {
        let node = |kind: NodeTypeId| &self.nodes[kind.0 as usize];
        self.first_kinds(ranks).map(|kind| f64::from(node(kind).slots) * node(kind).speed).sum()
    }

    /// The nodes of the first `ranks` ranks by kind, with their bill if they are held for
    /// `makespan_s` seconds.
    pub fn type_uses(&self, ranks: u32, makespan_s: f64) -> Vec<TypeUse> {
        let held = Duration::try_from_secs_f64(makespan_s).unwrap_or_default();
        let mut uses: Vec<TypeUse> = Vec::new();
        for kind in self.first_kinds(ranks) {
            let bill = self.nodes[kind.0 as usize].priced().bill(held);
            match uses.iter_mut().find(|known| known.kind == kind) {
                Some(known) => (known.nodes, known.cost) = (known.nodes + 1, known.cost + bill),
                None => uses.push(TypeUse { kind, nodes: 1, cost: bill }),
            }
        }
        uses
    }

    /// Hourly cost of the nodes of the first `ranks` ranks.
    pub fn first_price(&self, ranks: u32) -> f64 {
        self.first_kinds(ranks).map(|kind| self.nodes[kind.0 as usize].price).sum()
    }

    /// The prices of its nodes, with the job's spending limits.
    pub fn prices(&self, cost: &Cost) -> Prices {
        Prices {
            nodes: self.nodes.iter().map(NodeKind::priced).collect(),
            budget: cost.budget,
            budget_per_hour: cost.budget_per_hour,
            deadline: cost.deadline.map(|deadline| Time::ZERO.after(deadline)),
            earlier: 0.0,
        }
    }

    /// The cluster for a job without a cluster file: nodes with `slots` slots, at the prices of the
    /// job.
    pub fn of_job(cost: &Cost, slots: u32) -> Cluster {
        let mut cluster = Cluster::default().with_slots(slots);
        let node = &mut cluster.nodes[0];
        (node.price, node.minimum, node.granularity) = (cost.node_hour, cost.minimum, cost.granularity);
        cluster
    }

    /// The same cluster, in which only the first `first` ranks are on nodes of the first kind, and
    /// further ones on nodes of these types, in this order. A type that does not say how many
    /// slots its nodes have has those of the first kind.
    #[must_use]
    pub fn with_types(mut self, first: u32, types: &[(&str, &NodeTerms)]) -> Cluster {
        let Some(usual) = self.nodes.first().cloned().filter(|_| !types.is_empty()) else { return self };
        self.nodes[0].limit = first;
        self.nodes[0].first = first;
        // Nodes of a type whose labels are not known may have any that no other type is known for.
        let known: BTreeSet<&String> = types.iter().flat_map(|(_, node)| &node.labels).collect();
        let others: Labels = usual.labels.iter().filter(|label| !known.contains(label)).cloned().collect();
        self.nodes[0].labels = Arc::clone(&others);
        self.nodes.extend(types.iter().map(|(name, node)| NodeKind {
            name: (*name).to_owned(),
            slots: node.slots.unwrap_or(usual.slots),
            memory: node.memory.unwrap_or(usual.memory),
            gpus: node.gpus.unwrap_or(usual.gpus),
            labels: labels_of(others.iter().chain(&node.labels).cloned()),
            price: node.node_hour,
            granularity: node.granularity,
            minimum: node.minimum,
            limit: node.limit.unwrap_or(usual.limit),
            ..usual.clone()
        }));
        self
    }

    /// The same cluster, in which nodes of the types of these names take that long to be granted.
    #[must_use]
    pub fn with_waits(mut self, waits: &BTreeMap<String, LogNormal>) -> Cluster {
        for node in &mut self.nodes {
            let Some(wait) = waits.get(&node.name) else { continue };
            if let Ok(median) = Duration::try_from_secs_f64(wait.quantiles().q50) {
                node.delay = Distribution::LogNormal { median, sigma: wait.moments().1.sqrt() };
            }
        }
        self
    }

    /// The same cluster, in which a run starts with a node for each task that its first ranks
    /// cannot run: of the cheapest kind that can.
    #[must_use]
    pub fn with_needed(mut self, job: &Job) -> Cluster {
        let has_first = self.first_ranks().is_some();
        for group in &job.groups {
            let need = match group.mpi {
                // Several nodes can hold it.
                Some(_) => requirements::shape(group).need(),
                None => placement::need(group),
            };
            let serves = |node: &NodeKind| node.limit > 0 && node.offer().may_serve(&need);
            let is_first = |kind: usize, node: &NodeKind| if has_first { node.first > 0 } else { kind == 0 };
            let is_served = self.nodes.iter().enumerate().any(|(kind, node)| is_first(kind, node) && serves(node));
            let kinds = self.nodes.iter_mut().filter(|node| !is_served && serves(node));
            if let Some(node) = kinds.min_by(|a, b| a.price.total_cmp(&b.price)) {
                (node.first, node.ahead) = (node.first.max(1), 1);
            }
        }
        self
    }

    /// The same cluster for a run that has all its ranks from the beginning: those beyond the first
    /// ones are on nodes of the other kinds, in their order.
    #[must_use]
    pub fn filled(mut self) -> Cluster {
        self.nodes.iter_mut().skip(1).for_each(|node| node.first = node.limit);
        self
    }

    /// Upper limit on the ranks with which a run can start.
    pub fn most_first_ranks(&self) -> u32 {
        self.first_ranks().unwrap_or(0).max(self.nodes.first().map_or(u32::MAX, |node| node.limit))
    }

    /// The same cluster, whose nodes have all labels that the tasks of a job ask for.
    #[must_use]
    pub fn with_labels_of(mut self, job: &Job) -> Cluster {
        let labels: BTreeSet<&String> = job.groups.iter().flat_map(|group| group.labels.iter()).collect();
        let labels: Arc<[String]> = labels.into_iter().cloned().collect();
        self.nodes.iter_mut().for_each(|node| node.labels = Arc::clone(&labels));
        self
    }

    /// The same cluster with `slots` slots on every node.
    #[must_use]
    pub fn with_slots(mut self, slots: u32) -> Cluster {
        self.nodes.iter_mut().for_each(|node| node.slots = slots);
        self
    }
}

impl NodeKind {
    /// What a node of the kind has.
    pub(super) fn offer(&self) -> NodeOffer {
        let (slots, memory, gpus) = (Some(self.slots), Some(self.memory), Some(self.gpus));
        NodeOffer { labels: Some(Labels::clone(&self.labels)), slots, memory, gpus }
    }

    /// The kind in terms of a price list.
    fn priced(&self) -> scale::NodeType {
        scale::NodeType {
            name: self.name.clone(),
            slots: self.slots,
            speed: self.speed,
            node_hour: self.price,
            minimum: self.minimum,
            granularity: self.granularity,
            limit: Some(self.limit),
            memory: Some(self.memory),
            gpus: Some(self.gpus),
        }
    }
}
