//! `[scaling]` and `[cost]` of the job file: plain settings with their defaults.
//!
//! The scaling core (`scale`) uses these settings and adds no defaults of its own, so that a job
//! file and an embedding program have the same defaults.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// `[scaling]`: how the number of ranks changes while the job runs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Scaling {
    /// `policy`.
    pub policy: PolicyKind,
    /// `intent`: how time is weighed against cost.
    pub intent: Intent,
    /// `min_ranks`: minimum number of ranks, at least 1 (the coordinator).
    pub min_ranks: u32,
    /// `max_ranks`: maximum number of ranks.
    pub max_ranks: u32,
    /// `interval`: time between two decisions.
    pub interval: Duration,
    /// `cooldown_grow`: after a rule has added ranks, rules add none for this long.
    pub cooldown_grow: Duration,
    /// `cooldown_shrink`: after a rule has released ranks, rules release none for this long.
    pub cooldown_shrink: Duration,
    /// `step_grow`: ranks that a rule without its own `step` adds.
    pub step_grow: u32,
    /// `step_shrink`: ranks that a rule without its own `step` releases.
    pub step_shrink: u32,
    /// `confidence`: targets of a policy with a confidence below this (0 to 1) are ignored.
    pub confidence: f64,
    /// `weights`: weight of each measure in the load score.
    pub weights: ScoreWeights,
    /// `[[scaling.rule]]`; if there is none, the built-in rules.
    pub rules: Vec<Rule>,
}

impl Default for Scaling {
    fn default() -> Scaling {
        Scaling {
            policy: PolicyKind::Hybrid,
            intent: Intent::Balanced,
            min_ranks: 1,
            max_ranks: 10,
            interval: Duration::from_secs(5),
            cooldown_grow: Duration::from_secs(300),
            cooldown_shrink: Duration::from_secs(600),
            step_grow: 1,
            step_shrink: 1,
            confidence: 0.7,
            weights: ScoreWeights::default(),
            rules: Vec::new(),
        }
    }
}

/// Scaling policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PolicyKind {
    /// Keeps the initial ranks.
    Fixed,
    /// Rules with thresholds, cooldowns and steps.
    Reactive,
    /// Simulates the rest of the graph for every candidate.
    Predictive,
    /// Like `predictive`, but follows the rules where the forecast is not confident enough.
    Hybrid,
    /// Minimum cost that meets the deadline.
    Cost,
    /// Earliest finish within the budget.
    Performance,
}

impl PolicyKind {
    /// Name of the policy in the job file.
    pub fn name(self) -> &'static str {
        match self {
            PolicyKind::Fixed => "fixed",
            PolicyKind::Reactive => "reactive",
            PolicyKind::Predictive => "predictive",
            PolicyKind::Hybrid => "hybrid",
            PolicyKind::Cost => "cost",
            PolicyKind::Performance => "performance",
        }
    }
}

/// How time is weighed against cost.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Intent {
    /// Short response time; cost hardly matters.
    Latency,
    /// Many tasks per second; time counts slightly more than cost.
    Throughput,
    /// Low cost; time hardly matters.
    Cost,
    /// One percent of time is worth one percent of cost.
    Balanced,
    /// Like throughput, and idle ranks are kept longer.
    Scalability,
}

/// Weight of each measure in the load score; only ratios matter.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct ScoreWeights {
    /// CPU utilisation.
    pub cpu: f64,
    /// Ready tasks per rank.
    pub queue: f64,
    /// Memory utilisation.
    pub memory: f64,
    /// Time that ready tasks wait (95th percentile).
    pub latency: f64,
    /// Share of attempts that fail.
    pub errors: f64,
}

impl Default for ScoreWeights {
    fn default() -> ScoreWeights {
        ScoreWeights { cpu: 0.30, queue: 0.25, memory: 0.20, latency: 0.20, errors: 0.05 }
    }
}

/// `[[scaling.rule]]`: a threshold and an action.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Rule {
    /// `trigger`: the measured quantity.
    pub trigger: Trigger,
    /// `above`: above this value `act` is taken.
    pub above: Option<f64>,
    /// `below`: below this value ranks are released.
    pub below: Option<f64>,
    /// `act`: action above the threshold.
    pub act: Above,
    /// `step`: number of ranks added or released at once.
    pub step: Option<u32>,
    /// `cooldown`: after this rule has acted, it does not act for this long.
    pub cooldown: Option<Duration>,
}

/// Action of a rule above its threshold.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Above {
    /// Adds ranks.
    Grow,
    /// Releases ranks.
    Shrink,
    /// Adds no ranks while the condition holds.
    Hold,
}

/// Quantity that a rule measures.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Trigger {
    /// Utilisation of the slots' CPUs, percent.
    Cpu,
    /// Utilisation of memory, percent.
    Memory,
    /// Utilisation of GPUs, percent.
    Gpu,
    /// Ready tasks per active rank.
    QueueDepth,
    /// 95th percentile of the time that ready tasks wait, milliseconds.
    ResponseTime,
    /// Drop of the completion rate relative to its recent average, percent.
    ThroughputDrop,
    /// Recent share of attempts that failed, percent.
    ErrorRate,
    /// Spent share of the budget, percent.
    Cost,
    /// Ranks that the forecast recommends beyond the current number.
    Predictive,
    /// Imbalance of the load: 100 minus the balance in percent.
    Imbalance,
    /// Ranks lost since the last decision.
    Coordination,
    /// `custom.NAME`: the latest value that a task wrote to `$PHALANX_METRICS` under this name.
    Custom(String),
}

/// `[cost]`: prices, budget and deadline.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Cost {
    /// `node_hour`: price of one node for one hour, in any currency. Default 1: costs are then
    /// node-hours.
    pub node_hour: f64,
    /// `minimum`: minimum charged time per node.
    pub minimum: Duration,
    /// `granularity`: charged time is rounded up to a multiple of this.
    pub granularity: Duration,
    /// `budget`: maximum cost of the run.
    pub budget: Option<f64>,
    /// `budget_per_hour`: maximum hourly cost of the nodes held at one time.
    pub budget_per_hour: Option<f64>,
    /// `deadline`: target end, counted from the start of the run.
    pub deadline: Option<Duration>,
    /// `[[cost.node]]`: the types of nodes that the run may get beside the first ones.
    pub nodes: Vec<NodeTerms>,
}

impl Default for Cost {
    fn default() -> Cost {
        Cost {
            node_hour: 1.0,
            minimum: Duration::from_secs(60),
            granularity: Duration::from_secs(1),
            budget: None,
            budget_per_hour: None,
            deadline: None,
            nodes: Vec::new(),
        }
    }
}

/// A type of nodes: a `[[cost.node]]`, or what a `[[site]]` says of its nodes itself.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct NodeTerms {
    /// `name` of the node type.
    pub name: String,
    /// `node_hour`: price of one such node for one hour.
    pub node_hour: f64,
    /// `minimum`: minimum charged time per node.
    pub minimum: Duration,
    /// `granularity`: charged time is rounded up to a multiple of this.
    pub granularity: Duration,
    /// `slots`: slots of a rank there; `None`: as many as those of the first ranks.
    pub slots: Option<u32>,
    /// `memory`: bytes for tasks, if known.
    pub memory: Option<u64>,
    /// `gpus`: GPUs, if known.
    pub gpus: Option<u32>,
    /// `labels` of all ranks there, ascending.
    pub labels: Vec<String>,
    /// `limit`: maximum number of such nodes at a time.
    pub limit: Option<u32>,
    /// `partition`: partition or queue of these nodes.
    pub partition: Option<String>,
}
