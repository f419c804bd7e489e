//! The setting of a run: cluster, prices, intent and budget.

use phalanx::job::{Cost, Intent, Scaling};
use phalanx::sim::Cluster;

use super::instance::Instance;
use super::rng;

/// What is wrong with nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    /// Nothing.
    None,
    /// A quarter of them takes twice as long.
    Slow,
    /// They fail, on average once in two hours, and a tenth of the requests fails.
    Failing,
}

impl Fault {
    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Fault::None => "none",
            Fault::Slow => "slow",
            Fault::Failing => "failing",
        }
    }

    /// Two thirds of the settings have none.
    const DRAWN: [Fault; 6] = [Fault::None, Fault::None, Fault::None, Fault::None, Fault::Slow, Fault::Failing];
}

/// Median time until a requested node arrives, in seconds.
pub const DELAYS_S: [u32; 3] = [1, 60, 300];

/// Least time that is charged for a node, in seconds.
pub const MINIMA_S: [u32; 3] = [0, 60, 3600];

/// Nodes, and slots of each.
pub const SHAPES: [(u32, u32); 3] = [(4, 16), (16, 4), (64, 2)];

/// The intents.
pub const INTENTS: [Intent; 5] =
    [Intent::Latency, Intent::Throughput, Intent::Scalability, Intent::Balanced, Intent::Cost];

/// One in so many settings has a budget.
const BUDGETS: usize = 6;

/// The setting of a run.
#[derive(Clone, Debug, PartialEq)]
pub struct Setting {
    /// Its number among those of the instance.
    pub number: u64,
    /// Median time until a requested node arrives, in seconds.
    pub delay_s: u32,
    /// Least time that is charged for a node, in seconds.
    pub minimum_s: u32,
    /// Most nodes.
    pub nodes: u32,
    /// Slots of each.
    pub slots: u32,
    /// What is wrong with nodes.
    pub fault: Fault,
    /// The intent of the job.
    pub intent: Intent,
    /// Most that the run may cost.
    pub budget: Option<f64>,
    /// By how much durations differ from those of the instance: sigma of a log-normal factor.
    pub spread: f64,
    /// Seed of delays and faults.
    pub seed: u64,
}

impl Setting {
    /// Setting number `number` of an instance.
    pub fn draw(instance: &Instance, number: u64, seed: u64) -> Setting {
        let mut rng = rng(&format!("{}/setting{number}", instance.name), seed);
        let delay_s = DELAYS_S[rng.usize(0..DELAYS_S.len())];
        let minimum_s = MINIMA_S[rng.usize(0..MINIMA_S.len())];
        let (nodes, slots) = SHAPES[rng.usize(0..SHAPES.len())];
        let fault = Fault::DRAWN[rng.usize(0..Fault::DRAWN.len())];
        let intent = INTENTS[rng.usize(0..INTENTS.len())];
        let has_budget = rng.usize(0..BUDGETS) == 0;
        let factor = 1.2 + 2.0 * rng.f64();
        let seed = rng.u64(..);
        let setting =
            Setting { number, delay_s, minimum_s, nodes, slots, fault, intent, budget: None, spread: 0.0, seed };
        let budget = has_budget.then(|| factor * setting.least_cost(instance));
        Setting { budget, ..setting }
    }

    /// A setting of `--forecasts`: 16 sound nodes of 4 slots.
    pub fn plain(name: &str, number: u64, (delay_s, spread): (u32, f64), seed: u64) -> Setting {
        Setting {
            number,
            delay_s,
            minimum_s: 60,
            nodes: 16,
            slots: 4,
            fault: Fault::None,
            intent: Intent::Balanced,
            budget: None,
            spread,
            seed: rng(&format!("{name}/plain{number}"), seed).u64(..),
        }
    }

    /// Price of a node for an hour: 1 for each four slots.
    pub fn price(&self) -> f64 {
        f64::from(self.slots) / 4.0
    }

    /// What no policy can undercut where no node is slow: the work on slots that never idle, and
    /// the first node until the end of the longest chain.
    pub fn least_cost(&self, instance: &Instance) -> f64 {
        let node_s = (instance.work_s / f64::from(self.slots)).max(instance.critical_path_s);
        node_s.max(f64::from(self.minimum_s)) * self.price() / 3600.0
    }

    /// The cluster.
    pub fn cluster(&self) -> Cluster {
        let Setting { slots, nodes, delay_s, minimum_s, spread, .. } = *self;
        let (failure, faults) = match self.fault {
            Fault::None => (0.0, "notice = \"10s\""),
            Fault::Slow => (0.0, "slow = 0.25\nslow_factor = 2.0"),
            Fault::Failing => (0.1, "node_loss = 0.5"),
        };
        let price = self.price();
        let text = format!(
            "[[node]]\nslots = {slots}\nlimit = {nodes}\nprice = {price}\nminimum = \"{minimum_s}s\"\n\
             failure = {failure}\ndelay = {{ median = \"{delay_s}s\", sigma = 0.3 }}\n\
             [faults]\n{faults}\n[tasks]\nspread = {spread}\n"
        );
        Cluster::parse(&text, "cluster.toml").unwrap_or_else(|mistakes| panic!("{}", mistakes.render(false)))
    }

    /// Budget of the job; prices are the cluster's.
    pub fn cost(&self) -> Cost {
        Cost { budget: self.budget, ..Cost::default() }
    }

    /// Bounds and intent of the job.
    pub fn scaling(&self) -> Scaling {
        Scaling { intent: self.intent, max_ranks: self.nodes, ..Scaling::default() }
    }

    /// Name of the intent in the job file.
    pub fn intent_name(&self) -> &'static str {
        match self.intent {
            Intent::Latency => "latency",
            Intent::Throughput => "throughput",
            Intent::Cost => "cost",
            Intent::Balanced => "balanced",
            Intent::Scalability => "scalability",
        }
    }
}
