//! Policies that never change their mind: what there is, or a number.

use super::{Policy, Target};
use crate::scale::estimate::Estimates;
use crate::scale::observation::Observation;
use crate::scale::price::Prices;

/// Keeps the ranks that there were at its first look.
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

/// Wants a number of ranks from the beginning to the end.
#[derive(Clone, Debug)]
pub struct Static {
    name: String,
    ranks: u32,
}

impl Static {
    /// Wants so many.
    pub fn new(ranks: u32) -> Static {
        Static { name: format!("static-{ranks}"), ranks }
    }
}

impl Policy for Static {
    fn name(&self) -> &str {
        &self.name
    }

    fn decide(&mut self, _: &Observation<'_>, _: &Estimates, _: &Prices) -> Target {
        Target::plain(self.ranks, format!("always {} ranks", self.ranks))
    }

    fn guarded(&self) -> bool {
        false
    }
}
