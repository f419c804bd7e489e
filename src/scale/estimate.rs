//! What is believed about durations: of tasks by class, and of the delay until a new node comes.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::price::NodeTypeId;

/// Number of a class of tasks; whoever drives the core numbers the classes of the job from 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ClassId(pub u32);

/// What is known of a class before anything has run.
#[derive(Clone, Debug, PartialEq)]
pub struct ClassPrior {
    /// Its name.
    pub name: String,
    /// How long one of its tasks takes, if the job file or an earlier run says so.
    pub estimate: Option<Duration>,
}

/// Quantiles of a duration, in seconds.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Quantiles {
    /// One of ten is shorter.
    pub q10: f64,
    /// Half are shorter.
    pub q50: f64,
    /// Nine of ten are shorter.
    pub q90: f64,
}

/// What has been learnt so far.
#[derive(Clone, Debug)]
pub struct Estimates {
    classes: Vec<ClassPrior>,
}

impl Estimates {
    /// Knows no more than these priors; delays of node types start at `delays[type]`.
    pub fn new(classes: Vec<ClassPrior>, delays: &[Duration]) -> Estimates {
        let _ = delays;
        Estimates { classes }
    }

    /// Learns from a task of a class that completed: its own prior, and how long it took.
    pub fn observe_task(&mut self, class: ClassId, prior: Option<Duration>, took: Duration) {
        let _ = (class, prior, took);
    }

    /// Learns how long a node of a type took from the request to an active rank.
    pub fn observe_delay(&mut self, node_type: NodeTypeId, took: Duration) {
        let _ = (node_type, took);
    }

    /// How long a task of a class takes.
    pub fn task(&self, class: ClassId, prior: Option<Duration>) -> Quantiles {
        let _ = (&self.classes, class, prior);
        Quantiles { q10: 1.0, q50: 1.0, q90: 1.0 }
    }

    /// How long a node of a type takes to come.
    pub fn delay(&self, node_type: NodeTypeId) -> Quantiles {
        let _ = node_type;
        Quantiles { q10: 1.0, q50: 1.0, q90: 1.0 }
    }
}
