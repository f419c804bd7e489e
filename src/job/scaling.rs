//! What `[scaling]` and `[cost]` of the job file mean: plain settings, with the defaults that hold where a field is absent.
//!
//! The scaling core (`scale`) takes its settings from here and adds no default of its own, so that a job file and a program that embeds
//! Phalanx start from the same numbers.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// `[scaling]`: how the number of ranks changes while the job runs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Scaling {
    /// `policy`.
    pub policy: PolicyKind,
    /// `intent`: what matters to the user.
    pub intent: Intent,
    /// `min_ranks`: never fewer ranks than this (at least 1: the coordinator).
    pub min_ranks: u32,
    /// `max_ranks`: never more ranks than this.
    pub max_ranks: u32,
    /// `interval`: time between two decisions.
    pub interval: Duration,
    /// `cooldown_grow`: after a rule made the job grow, no rule does again for so long.
    pub cooldown_grow: Duration,
    /// `cooldown_shrink`: the same for giving ranks back.
    pub cooldown_shrink: Duration,
    /// `step_grow`: so many ranks are added at once by a rule that does not say.
    pub step_grow: u32,
    /// `step_shrink`: so many are given back at once by a rule that does not say.
    pub step_shrink: u32,
    /// `confidence`: wishes of a policy that is less sure than this (0 to 1) are not followed.
    pub confidence: f64,
    /// `weights`: how much each measure counts in the score of load.
    pub weights: ScoreWeights,
    /// `[[scaling.rule]]`; the built-in rules if there is none.
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

/// By what the number of ranks is decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PolicyKind {
    /// Not at all: the ranks that were started.
    Fixed,
    /// By rules with thresholds, cooldowns and steps.
    Reactive,
    /// By running the rest of the graph forward for every candidate.
    Predictive,
    /// Like `predictive`, with the rules where the forecast is not sure enough.
    Hybrid,
    /// The least bill that meets the deadline.
    Cost,
    /// The earliest finish that keeps the budget.
    Performance,
}

impl PolicyKind {
    /// As it is written in the job file.
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

/// What matters to the user.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Intent {
    /// Results soon; money hardly matters.
    Latency,
    /// Many tasks a second; a little above time alone.
    Throughput,
    /// A small bill; time hardly matters.
    Cost,
    /// One percent of time is worth one percent of money.
    Balanced,
    /// Room to grow: as latency, and idle ranks are kept longer.
    Scalability,
}

/// How much each measure counts in the score of load; only their proportions matter.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct ScoreWeights {
    /// CPU utilisation.
    pub cpu: f64,
    /// Ready tasks per rank.
    pub queue: f64,
    /// Memory utilisation.
    pub memory: f64,
    /// How long ready tasks wait (95th percentile).
    pub latency: f64,
    /// Share of attempts that fail.
    pub errors: f64,
}

impl Default for ScoreWeights {
    fn default() -> ScoreWeights {
        ScoreWeights { cpu: 0.30, queue: 0.25, memory: 0.20, latency: 0.20, errors: 0.05 }
    }
}

/// `[[scaling.rule]]`: one threshold, and what happens beyond it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Rule {
    /// `trigger`: what is measured.
    pub trigger: Trigger,
    /// `above`: beyond this value `act` happens.
    pub above: Option<f64>,
    /// `below`: under this value ranks are given back.
    pub below: Option<f64>,
    /// `act`: what happens above.
    pub act: Above,
    /// `step`: ranks added or given back at once.
    pub step: Option<u32>,
    /// `cooldown`: after this rule has acted it is silent for so long.
    pub cooldown: Option<Duration>,
}

/// What happens when a measure is above its threshold.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Above {
    /// Ranks are added.
    Grow,
    /// Ranks are given back.
    Shrink,
    /// Nothing is added while it lasts.
    Hold,
}

/// What a rule measures.
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
    /// How far the rate of completions fell below that of late, percent.
    ThroughputDrop,
    /// Share of attempts that failed of late, percent.
    ErrorRate,
    /// Share of the budget that is spent, percent.
    Cost,
    /// Ranks that the forecast wants beyond those there are.
    Predictive,
    /// How uneven the load is: 100 less the balance in percent.
    Imbalance,
    /// Ranks lost or joined since the last decision.
    Coordination,
    /// `custom.NAME`: the latest value that a task wrote to `$PHALANX_METRICS` under this name.
    Custom(String),
}

/// `[cost]`: prices, budget and deadline.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Cost {
    /// `node_hour`: price of one node for one hour, in any currency. 1 where absent: costs are then node-hours.
    pub node_hour: f64,
    /// `minimum`: the least time that a node is charged for.
    pub minimum: Duration,
    /// `granularity`: charged time is rounded up to a multiple of this.
    pub granularity: Duration,
    /// `budget`: the run never costs more.
    pub budget: Option<f64>,
    /// `budget_per_hour`: the nodes held at one time never cost more per hour.
    pub budget_per_hour: Option<f64>,
    /// `deadline`: when the run should be over, counted from its beginning.
    pub deadline: Option<Duration>,
    /// `[[cost.node]]`: prices of node types that differ.
    pub nodes: Vec<NodePrice>,
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

/// `[[cost.node]]`: a node type with a price of its own; what is absent is as in `[cost]`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct NodePrice {
    /// `name` of the node type.
    pub name: String,
    /// `node_hour`.
    pub node_hour: f64,
    /// `minimum`.
    pub minimum: Duration,
    /// `granularity`.
    pub granularity: Duration,
}
