//! How well supply followed demand: the elasticity metrics of the SPEC research group (Herbst et
//! al., "Ready for Rain? A View from SPEC Research on the Future of Cloud Metrics", 2016).
//!
//! Demand and supply are step functions of time. All results are percentages; 0 is perfect.

use serde::{Deserialize, Serialize};

use crate::model::Time;

/// A value that holds from a moment until the next step.
pub type LevelStep = (Time, f64);

/// The metrics.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Elasticity {
    /// Missing resources over time, as a share of the most that there can be.
    pub accuracy_under: f64,
    /// Idle resources over time, as a share of the most that there can be.
    pub accuracy_over: f64,
    /// Share of the time in which resources were missing.
    pub time_under: f64,
    /// Share of the time in which resources were idle.
    pub time_over: f64,
    /// Share of the time in which supply rose against demand (or demand did not rise).
    pub instability_over: f64,
    /// Share of the time in which supply fell against demand (or demand did not fall).
    pub instability_under: f64,
}

/// Measures from time 0 to `end`, with at most `most` resources. A change counts in the second in
/// which it happens.
pub fn elasticity(demand: &[LevelStep], supply: &[LevelStep], end: Time, most: f64) -> Elasticity {
    let total = end.seconds();
    if total <= 0.0 || most <= 0.0 {
        return Elasticity::default();
    }
    let mut result = Elasticity::default();
    for (from, to, demand, supply) in merged(demand, supply, end) {
        let seconds = to.since(from).as_secs_f64();
        result.accuracy_under += (demand - supply).max(0.0) * seconds;
        result.accuracy_over += (supply - demand).max(0.0) * seconds;
        result.time_under += if demand > supply { seconds } else { 0.0 };
        result.time_over += if supply > demand { seconds } else { 0.0 };
    }
    result.accuracy_under *= 100.0 / (total * most);
    result.accuracy_over *= 100.0 / (total * most);
    result.time_under *= 100.0 / total;
    result.time_over *= 100.0 / total;
    let (over, under) = instability(demand, supply, end);
    result.instability_over = over;
    result.instability_under = under;
    result
}

/// Intervals in which neither demand nor supply changes: from, to, demand, supply.
fn merged(demand: &[LevelStep], supply: &[LevelStep], end: Time) -> Vec<(Time, Time, f64, f64)> {
    let mut moments: Vec<Time> = demand.iter().chain(supply).map(|s| s.0).filter(|t| *t < end).collect();
    moments.push(Time::ZERO);
    moments.sort_unstable();
    moments.dedup();
    let ends = moments.iter().skip(1).copied().chain([end]);
    moments.iter().zip(ends).map(|(&from, to)| (from, to, at(demand, from), at(supply, from))).collect()
}

/// The value at a moment; 0 before the first step.
fn at(steps: &[LevelStep], moment: Time) -> f64 {
    let next = steps.partition_point(|s| s.0 <= moment);
    next.checked_sub(1).map_or(0.0, |k| steps[k].1)
}

/// `100 / (T - 1)` times the seconds in which the sign of the change of supply exceeds that of
/// demand, and the reverse.
fn instability(demand: &[LevelStep], supply: &[LevelStep], end: Time) -> (f64, f64) {
    let second = |t: Time| t.0 / 1_000_000_000;
    let mut seconds: Vec<u64> = demand.iter().chain(supply).filter(|s| s.0 <= end).map(|s| second(s.0)).collect();
    seconds.retain(|s| *s > 0);
    seconds.sort_unstable();
    seconds.dedup();
    let change = |steps: &[LevelStep], s: u64| {
        let (before, after) =
            (at(steps, Time((s - 1) * 1_000_000_000 + 999_999_999)), at(steps, Time(s * 1_000_000_000 + 999_999_999)));
        (after - before).partial_cmp(&0.0).map_or(0, |o| o as i32)
    };
    let (mut over, mut under) = (0u64, 0u64);
    for s in seconds {
        let (ds, dd) = (change(supply, s), change(demand, s));
        over += u64::from(ds > dd);
        under += u64::from(ds < dd);
    }
    let scale = 100.0 / (end.seconds() - 1.0).max(1.0);
    (over as f64 * scale, under as f64 * scale)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scale::testing::time;

    fn steps(values: &[(f64, f64)]) -> Vec<LevelStep> {
        values.iter().map(|&(at, value)| (time(at), value)).collect()
    }

    #[test]
    fn by_hand() {
        // Demand 4, from 50 s on 1. Supply 2, from 20 s on 4, from 80 s on 1. 100 s, at most 10.
        let demand = steps(&[(0.0, 4.0), (50.0, 1.0)]);
        let supply = steps(&[(0.0, 2.0), (20.0, 4.0), (80.0, 1.0)]);
        let found = elasticity(&demand, &supply, time(100.0), 10.0);
        assert!((found.accuracy_under - 100.0 * 40.0 / 1000.0).abs() < 1e-9);
        assert!((found.accuracy_over - 100.0 * 90.0 / 1000.0).abs() < 1e-9);
        assert!((found.time_under - 20.0).abs() < 1e-9 && (found.time_over - 30.0).abs() < 1e-9);
        // At 20 s supply rises while demand stays; at 50 s demand falls and supply stays; at 80 s
        // supply falls.
        assert!((found.instability_over - 200.0 / 99.0).abs() < 1e-9, "{found:?}");
        assert!((found.instability_under - 100.0 / 99.0).abs() < 1e-9);
    }

    #[test]
    fn perfect_supply_scores_zero() {
        let both = steps(&[(0.0, 1.0), (10.0, 8.0), (70.0, 2.0)]);
        assert_eq!(elasticity(&both, &both, time(100.0), 8.0), Elasticity::default());
        assert_eq!(elasticity(&both, &[], Time::ZERO, 8.0), Elasticity::default());
    }
}
