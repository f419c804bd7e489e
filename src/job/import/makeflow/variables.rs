//! Variables of a makeflow: each category has its own, what it lacks is that of the category
//! `default`, and a rule sees what was set before it.

use rustc_hash::FxHashMap;

/// The category of rules that name none; the others fall back on its variables.
pub(super) const DEFAULT: &str = "default";

/// Stands for "after all rules".
pub(super) const END: usize = usize::MAX;

#[derive(Default)]
pub(super) struct Variables {
    /// For each category and name the values, each with the number of the first rule that sees it.
    values: FxHashMap<String, FxHashMap<String, Vec<(usize, String)>>>,
}

impl Variables {
    pub(super) fn set(&mut self, category: &str, name: &str, rule: usize, value: String) {
        let values = self.values.entry(category.into()).or_default().entry(name.into()).or_default();
        values.retain(|(seen, _)| *seen != rule);
        values.push((rule, value));
    }

    /// The value that a rule of a category sees.
    pub(super) fn get(&self, category: &str, name: &str, rule: usize) -> Option<&str> {
        let own = |category: &str| {
            let values = self.values.get(category)?.get(name)?;
            let seen = values.partition_point(|(since, _)| *since <= rule);
            values[..seen].last().map(|(_, value)| value.as_str())
        };
        own(category).or_else(|| own(DEFAULT))
    }
}
