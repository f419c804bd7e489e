//! Variables of a makeflow. Each category has its own and inherits the others from the category
//! `default`. A rule uses the values that were set before it.

use rustc_hash::FxHashMap;

/// The category of rules that name none; other categories inherit its variables.
pub(super) const DEFAULT: &str = "default";

/// Position after all rules.
pub(super) const END: usize = usize::MAX;

#[derive(Default)]
pub(super) struct Variables {
    /// The values by category and name, each with the number of the first rule to which it applies.
    values: FxHashMap<String, FxHashMap<String, Vec<(usize, String)>>>,
}

impl Variables {
    pub(super) fn set(&mut self, category: &str, name: &str, rule: usize, value: String) {
        let values = self.values.entry(category.into()).or_default().entry(name.into()).or_default();
        values.retain(|(seen, _)| *seen != rule);
        values.push((rule, value));
    }

    /// The value that applies to a rule of a category.
    pub(super) fn get(&self, category: &str, name: &str, rule: usize) -> Option<&str> {
        let own = |category: &str| {
            let values = self.values.get(category)?.get(name)?;
            let seen = values.partition_point(|(since, _)| *since <= rule);
            values[..seen].last().map(|(_, value)| value.as_str())
        };
        own(category).or_else(|| own(DEFAULT))
    }
}
