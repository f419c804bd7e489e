//! Run and wait times of tasks per class: mean and quantiles. Few durations are kept exactly; more
//! of them become a histogram with three digits, whose memory does not grow with their number.

use hdrhistogram::Histogram;

use super::timeline::{Slice, Timeline};

/// A set of durations.
#[derive(Clone, Debug, Default)]
pub(super) struct Durations {
    spread: Spread,
    count: u64,
    sum_ns: f64,
    longest_ns: u64,
}

/// Above this number durations are kept as a histogram, which takes about ten kilobytes.
const MAX_EXACT: usize = 256;

#[derive(Clone, Debug)]
enum Spread {
    Few(Vec<u64>),
    Many(Box<Histogram<u32>>),
}

impl Default for Spread {
    fn default() -> Spread {
        Spread::Few(Vec::new())
    }
}

impl Spread {
    fn add(&mut self, ns: u64) {
        match self {
            Spread::Few(all) if all.len() < MAX_EXACT => all.push(ns),
            Spread::Few(all) => {
                // Three digits are within the range of the crate, so this cannot fail.
                let Ok(mut histogram) = Histogram::new(3) else { return };
                all.iter().chain([&ns]).for_each(|&ns| record(&mut histogram, ns));
                *self = Spread::Many(Box::new(histogram));
            }
            Spread::Many(histogram) => record(histogram, ns),
        }
    }

    /// Smallest duration that the given share of durations does not exceed.
    fn quantile(&self, share: f64) -> u64 {
        match self {
            Spread::Few(all) => {
                let mut all = all.clone();
                all.sort_unstable();
                let within = (share * all.len() as f64).ceil().max(1.0) as usize;
                all.get(within.min(all.len()).wrapping_sub(1)).copied().unwrap_or(0)
            }
            Spread::Many(histogram) => histogram.value_at_quantile(share),
        }
    }

    fn at_most(&self, ns: u64) -> u64 {
        match self {
            Spread::Few(all) => all.iter().filter(|one| **one <= ns).count() as u64,
            Spread::Many(histogram) => histogram.count_between(0, ns),
        }
    }
}

fn record(histogram: &mut Histogram<u32>, ns: u64) {
    // Resizes the histogram if necessary. A duration that does not fit in memory goes to the last
    // bucket.
    if histogram.record(ns).is_err() {
        histogram.saturating_record(ns);
    }
}

impl Durations {
    /// Adds a duration.
    pub fn add(&mut self, ns: u64) {
        self.count += 1;
        self.sum_ns += ns as f64;
        self.longest_ns = self.longest_ns.max(ns);
        self.spread.add(ns);
    }

    /// Number of durations.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// Sum in seconds.
    pub fn sum_s(&self) -> f64 {
        self.sum_ns / 1e9
    }

    /// Mean in seconds; 0 if empty.
    pub fn mean_s(&self) -> f64 {
        if self.count == 0 { 0.0 } else { self.sum_ns / self.count as f64 / 1e9 }
    }

    /// Quantile in seconds: the smallest duration that `share` (0 to 1) of them do not exceed; 0 if
    /// empty.
    pub fn quantile_s(&self, share: f64) -> f64 {
        // A histogram returns the end of a bucket, which may exceed the maximum.
        self.spread.quantile(share).min(self.longest_ns) as f64 / 1e9
    }

    /// Maximum in seconds.
    pub fn max_s(&self) -> f64 {
        self.longest_ns as f64 / 1e9
    }

    /// Number of durations of at most `s` seconds, within the precision of the histogram.
    pub fn at_most(&self, s: f64) -> u64 {
        self.spread.at_most((s * 1e9) as u64)
    }
}

/// Latencies of the attempts of one class.
#[derive(Clone, Debug, Default)]
pub(super) struct ClassLatency {
    /// Name of the class.
    pub name: String,
    /// Run times.
    pub ran: Durations,
    /// Times between being ready and being started.
    pub waited: Durations,
    /// Number of attempts that did not succeed.
    pub failed: u64,
    /// Slot-seconds used.
    pub work_s: f64,
}

impl ClassLatency {
    /// Adds an attempt. A result from the cache says nothing of how long tasks take.
    pub fn add(&mut self, slice: &Slice) {
        if slice.outcome.cached {
            return self.waited.add(slice.waited());
        }
        self.count(slice.ran(), slice.waited(), slice.slots, slice.outcome.state.is_failure());
    }

    /// Adds an attempt: run and wait time in nanoseconds, and slots.
    pub fn count(&mut self, ran: u64, waited: u64, slots: u32, failed: bool) {
        self.ran.add(ran);
        self.waited.add(waited);
        self.failed += u64::from(failed);
        self.work_s += ran as f64 / 1e9 * f64::from(slots);
    }
}

/// The classes of a run, by descending work.
pub(super) fn classes(timeline: &Timeline) -> Vec<ClassLatency> {
    let mut classes: Vec<ClassLatency> =
        timeline.classes.iter().map(|name| ClassLatency { name: name.clone(), ..ClassLatency::default() }).collect();
    for slice in &timeline.slices {
        classes[slice.class as usize].add(slice);
    }
    classes.sort_by(|a, b| b.work_s.total_cmp(&a.work_s).then_with(|| a.name.cmp(&b.name)));
    classes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_right_to_three_digits() {
        let mut durations = Durations::default();
        (1..=1000).for_each(|ms| durations.add(ms * 1_000_000));
        assert!((durations.mean_s() - 0.5005).abs() < 1e-9);
        for (share, expected) in [(0.5, 0.5), (0.95, 0.95), (0.99, 0.99), (1.0, 1.0)] {
            assert!((durations.quantile_s(share) - expected).abs() < 0.002, "{share}: {}", durations.quantile_s(share));
        }
        assert_eq!(durations.max_s(), 1.0);
        assert!((498..=502).contains(&durations.at_most(0.5)));
    }

    #[test]
    fn few_durations_are_told_exactly_and_take_little_memory() {
        let mut durations = Durations::default();
        (1..=MAX_EXACT as u64).rev().for_each(|ns| durations.add(ns));
        assert!(matches!(&durations.spread, Spread::Few(all) if all.len() == MAX_EXACT));
        for (share, expected) in [(0.0, 1), (0.5, 128), (0.99, 254), (1.0, 256)] {
            assert_eq!(durations.quantile_s(share), expected as f64 / 1e9, "{share}");
        }
        durations.add(257);
        assert!(matches!(durations.spread, Spread::Many(_)));
        assert_eq!((durations.count(), durations.quantile_s(0.5), durations.at_most(1e-7)), (257, 129e-9, 100));
    }

    #[test]
    fn no_durations_are_zero() {
        let none = Durations::default();
        assert_eq!((none.mean_s(), none.quantile_s(0.5), none.max_s(), none.count()), (0.0, 0.0, 0.0, 0));
    }
}
