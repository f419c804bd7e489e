//! How long tasks of each class take and wait: mean and quantiles, from the durations themselves
//! while there are few of them, and then from histograms of three digits, which take no more memory
//! for a million.

use hdrhistogram::Histogram;

use super::timeline::{Slice, Timeline};

/// Durations of one kind.
#[derive(Clone, Debug, Default)]
pub(super) struct Durations {
    spread: Spread,
    count: u64,
    sum_ns: f64,
    longest_ns: u64,
}

/// More durations than this are kept as a histogram, which takes some ten kilobytes.
const FEW: usize = 256;

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
            Spread::Few(all) if all.len() < FEW => all.push(ns),
            Spread::Few(all) => {
                // Three digits are within what the crate takes, so there always is a histogram.
                let Ok(mut histogram) = Histogram::new(3) else { return };
                all.iter().chain([&ns]).for_each(|&ns| record(&mut histogram, ns));
                *self = Spread::Many(Box::new(histogram));
            }
            Spread::Many(histogram) => record(histogram, ns),
        }
    }

    /// The smallest duration that this share of them did not exceed.
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
    // Grows as far as it must. Only a duration that no memory can count would be refused, and then
    // the longest bucket has it.
    if histogram.record(ns).is_err() {
        histogram.saturating_record(ns);
    }
}

impl Durations {
    /// Takes note of one.
    pub fn add(&mut self, ns: u64) {
        self.count += 1;
        self.sum_ns += ns as f64;
        self.longest_ns = self.longest_ns.max(ns);
        self.spread.add(ns);
    }

    /// How many there are.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// Their sum in seconds.
    pub fn sum_s(&self) -> f64 {
        self.sum_ns / 1e9
    }

    /// Their mean in seconds; 0 if there are none.
    pub fn mean_s(&self) -> f64 {
        if self.count == 0 { 0.0 } else { self.sum_ns / self.count as f64 / 1e9 }
    }

    /// The smallest duration, in seconds, that this share of them (0 to 1) did not exceed; 0 if there are none.
    pub fn quantile_s(&self, share: f64) -> f64 {
        // A histogram answers with the end of a bucket, which may lie beyond the longest.
        self.spread.quantile(share).min(self.longest_ns) as f64 / 1e9
    }

    /// The longest in seconds.
    pub fn max_s(&self) -> f64 {
        self.longest_ns as f64 / 1e9
    }

    /// How many were at most so long, in seconds, to within the precision of the histogram.
    pub fn at_most(&self, s: f64) -> u64 {
        self.spread.at_most((s * 1e9) as u64)
    }
}

/// How the attempts of one class went.
#[derive(Clone, Debug, Default)]
pub(super) struct ClassLatency {
    /// Its name.
    pub name: String,
    /// How long its attempts ran.
    pub ran: Durations,
    /// How long they waited for a slot when all that they needed was done.
    pub waited: Durations,
    /// Attempts that did not succeed.
    pub failed: u64,
    /// Slot-seconds that they held.
    pub work_s: f64,
}

impl ClassLatency {
    /// Takes note of an attempt.
    pub fn add(&mut self, slice: &Slice) {
        self.count(slice.ran(), slice.waited(), slice.slots, slice.outcome.state.is_failure());
    }

    /// Takes note of an attempt by its numbers: nanoseconds that it ran and waited, and slots that it held.
    pub fn count(&mut self, ran: u64, waited: u64, slots: u32, failed: bool) {
        self.ran.add(ran);
        self.waited.add(waited);
        self.failed += u64::from(failed);
        self.work_s += ran as f64 / 1e9 * f64::from(slots);
    }
}

/// The classes of a run, those with the most work first.
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
        (1..=FEW as u64).rev().for_each(|ns| durations.add(ns));
        assert!(matches!(&durations.spread, Spread::Few(all) if all.len() == FEW));
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
