//! Policies that never change their target: the ranks at the start, or a given number.

use super::{Policy, Target};
use crate::scale::estimate::Estimates;
use crate::scale::observation::Observation;
use crate::scale::price::Prices;
use crate::text::counted;

/// Keeps the number of ranks of its first decision.
#[derive(Clone, Debug, Default)]
pub struct Fixed {
    first: Option<u32>,
}

impl Policy for Fixed {
    fn name(&self) -> &str {
        "fixed"
    }

    fn decide(&mut self, seen: &Observation<'_>, _: &Estimates, _: &Prices) -> Target {
        let ranks = *self.first.get_or_insert_with(|| seen.supply());
        Target::plain(ranks, "the number of ranks is fixed")
    }
}

/// Keeps a given number of ranks throughout the run.
#[derive(Clone, Debug)]
pub struct Static {
    name: String,
    ranks: u32,
}

impl Static {
    /// With this number of ranks.
    pub fn new(ranks: u32) -> Static {
        Static { name: format!("static-{ranks}"), ranks }
    }
}

impl Policy for Static {
    fn name(&self) -> &str {
        &self.name
    }

    fn decide(&mut self, _: &Observation<'_>, _: &Estimates, _: &Prices) -> Target {
        Target::plain(self.ranks, format!("always {}", counted(self.ranks, "rank")))
    }

    fn guarded(&self) -> bool {
        false
    }
}
