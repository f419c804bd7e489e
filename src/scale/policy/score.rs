//! Intents as numbers, and the load of a run as one number.

use serde::{Deserialize, Serialize};

use crate::job::{Intent, ScoreWeights};
use crate::model::RankState;
use crate::scale::observation::Observation;

/// Weight of the time until the end against money, 0 to 1: an exchange rate between percentages. At
/// 0.5 a run that ends 1 % sooner may cost 1 % more; at 0.9 it may cost 9 % more.
pub fn time_weight(intent: Intent) -> f64 {
    match intent {
        Intent::Latency => 0.9,
        Intent::Throughput | Intent::Scalability => 0.7,
        Intent::Balanced => 0.5,
        Intent::Cost => 0.15,
    }
}

/// The load of a run by five measures, each from 0 (its lower threshold) to 1 (its upper one);
/// `None` for what is not measured.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Pressure {
    /// CPU utilisation, between 20 and 80 %.
    pub cpu: Option<f64>,
    /// Ready tasks per active rank, up to 20.
    pub queue: Option<f64>,
    /// Memory utilisation, between 30 and 85 %.
    pub memory: Option<f64>,
    /// 95th percentile of the wait for a slot, up to 2 s.
    pub latency: Option<f64>,
    /// Share of failed attempts, up to 5 %.
    pub errors: Option<f64>,
}

impl Pressure {
    /// Measures a run.
    pub fn of(seen: &Observation<'_>) -> Pressure {
        let between = |value: f64, low: f64, high: f64| ((value - low) / (high - low)).clamp(0.0, 1.0);
        let active = f64::from(seen.ranks_in(RankState::Active)).max(1.0);
        Pressure {
            cpu: Some(between(seen.samples.cpu.unwrap_or_else(|| utilisation(seen)), 0.2, 0.8)),
            queue: Some(between(seen.counts.ready as f64 / active, 0.0, 20.0)),
            memory: seen.samples.memory.map(|m| between(m, 0.30, 0.85)),
            latency: seen.samples.queue_wait_p95.map(|w| between(w.as_secs_f64(), 0.0, 2.0)),
            errors: seen.samples.error_rate.map(|e| between(e, 0.0, 0.05)),
        }
    }

    /// The weighted mean of the available measures, 0 to 1; 0.5 if there are none.
    pub fn score(&self, weights: &ScoreWeights) -> f64 {
        let parts = [
            (self.cpu, weights.cpu),
            (self.queue, weights.queue),
            (self.memory, weights.memory),
            (self.latency, weights.latency),
            (self.errors, weights.errors),
        ];
        let (sum, weight) = parts
            .iter()
            .filter_map(|&(value, weight)| Some((value?, weight)))
            .fold((0.0, 0.0), |(sum, total), (value, weight)| (sum + value * weight, total + weight));
        if weight > 0.0 { sum / weight } else { 0.5 }
    }
}

/// Share of the active ranks' slots that are busy, 0 to 1.
pub(crate) fn utilisation(seen: &Observation<'_>) -> f64 {
    let active = seen.ranks.iter().filter(|r| r.state == RankState::Active);
    let (busy, slots) = active.fold((0u32, 0u32), |(b, s), r| (b + r.busy_slots.min(r.slots), s + r.slots));
    if slots == 0 { 0.0 } else { f64::from(busy) / f64::from(slots) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_score_by_hand() {
        let pressure =
            Pressure { cpu: Some(1.0), queue: Some(0.5), memory: Some(0.0), latency: Some(1.0), errors: Some(0.0) };
        assert!((pressure.score(&ScoreWeights::default()) - (0.30 + 0.125 + 0.20)).abs() < 1e-12);
        let little = Pressure { cpu: Some(1.0), queue: Some(0.0), ..Pressure::default() };
        assert!((little.score(&ScoreWeights::default()) - 0.30 / 0.55).abs() < 1e-12);
        assert_eq!(Pressure::default().score(&ScoreWeights::default()), 0.5);
    }

    #[test]
    fn intents_are_ordered_by_haste() {
        let order = [Intent::Cost, Intent::Balanced, Intent::Throughput, Intent::Latency];
        assert!(order.windows(2).all(|w| time_weight(w[0]) < time_weight(w[1])));
    }
}
