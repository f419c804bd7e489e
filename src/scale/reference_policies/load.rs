//! Comparison policies that see the load only: React, Adapt, Hist, Reg, ConPaaS (Ilyushkin et al.,
//! ICPE 2017).

use std::collections::VecDeque;

use super::{load, nodes};
use crate::scale::estimate::Estimates;
use crate::scale::observation::Observation;
use crate::scale::policy::{Policy, Target};
use crate::scale::price::Prices;

/// React (Chieu et al., "Dynamic Scaling of Web Applications in a Virtualized Cloud Computing
/// Environment", ICEBE 2009): two nodes more than the load.
#[derive(Clone, Copy, Debug, Default)]
pub struct React;

impl Policy for React {
    fn name(&self) -> &str {
        "react"
    }

    fn decide(&mut self, seen: &Observation<'_>, _: &Estimates, prices: &Prices) -> Target {
        let (load, capacity) = (load(seen, prices), f64::from(seen.supply()));
        let target = if load >= capacity {
            capacity + (load - capacity + 2.0)
        } else if load < capacity - 2.0 {
            capacity - (capacity - load + 2.0)
        } else {
            capacity
        };
        Target::plain(nodes(target), format!("load {load:.1} on {capacity:.0} nodes"))
    }

    fn guarded(&self) -> bool {
        false
    }
}

/// Adapt (Ali-Eldin et al., "An adaptive hybrid elasticity controller for cloud infrastructures",
/// NOMS 2012): follows the rate at which the load moves away from the capacity; slow to give back.
#[derive(Clone, Copy, Debug)]
pub struct Adapt {
    tick: f64,
    /// Fraction of a node carried over to the next decision.
    owed: f64,
}

impl Adapt {
    /// With `tick` seconds between decisions.
    pub fn new(tick: f64) -> Adapt {
        Adapt { tick, owed: 0.0 }
    }
}

impl Policy for Adapt {
    fn name(&self) -> &str {
        "adapt"
    }

    fn decide(&mut self, seen: &Observation<'_>, _: &Estimates, prices: &Prices) -> Target {
        let (load, capacity) = (load(seen, prices), f64::from(seen.supply()));
        let apart = load - capacity;
        self.owed += if apart < 0.0 { apart / 15.0 } else { apart / self.tick };
        let ahead = self.owed.trunc();
        self.owed -= ahead;
        let reactive = if load.ceil() > capacity { load.ceil() - capacity + 2.0 } else { 0.0 };
        Target::plain(
            nodes(capacity + ahead + reactive),
            format!("load {load:.1} on {capacity:.0} nodes, {ahead:+.0} ahead"),
        )
    }

    fn guarded(&self) -> bool {
        false
    }
}

/// Hist (Urgaonkar et al., "Agile Dynamic Provisioning of Multi-tier Internet Applications", TAAS
/// 2008): the 90th percentile of the loads seen at this hour, corrected by the errors of late.
#[derive(Clone, Debug, Default)]
pub struct Hist {
    /// Loads by hour of the run.
    hours: Vec<Vec<f64>>,
    errors: VecDeque<f64>,
    predicted: Option<f64>,
}

impl Policy for Hist {
    fn name(&self) -> &str {
        "hist"
    }

    fn decide(&mut self, seen: &Observation<'_>, _: &Estimates, prices: &Prices) -> Target {
        let load = load(seen, prices);
        if let Some(predicted) = self.predicted {
            self.errors.push_back(load - predicted);
            if self.errors.len() > 10 {
                self.errors.pop_front();
            }
        }
        self.hours.resize(24, Vec::new());
        let hour = &mut self.hours[(seen.now.seconds() / 3600.0) as usize % 24];
        let at = hour.partition_point(|&l| l <= load);
        hour.insert(at, load);
        let p90 = hour[((hour.len() as f64 * 0.9).ceil() as usize).clamp(1, hour.len()) - 1];
        let mean_error = self.errors.iter().sum::<f64>() / (self.errors.len() as f64).max(1.0);
        let mut target = p90 + mean_error;
        self.predicted = Some(target);
        let under = self.errors.iter().filter(|e| **e > 0.0).count();
        if under > 5 {
            target += load + 2.0;
        }
        Target::plain(nodes(target), format!("p90 of this hour {p90:.1}, mean error {mean_error:+.1}"))
    }

    fn guarded(&self) -> bool {
        false
    }
}

/// Reg (Iqbal et al., "Adaptive resource provisioning for read intensive multi-tier applications in
/// the cloud", FGCS 2011): reactive when growing, a quadratic regression over the last 72 loads
/// when giving back.
#[derive(Clone, Debug, Default)]
pub struct Reg {
    loads: VecDeque<f64>,
}

impl Policy for Reg {
    fn name(&self) -> &str {
        "reg"
    }

    fn decide(&mut self, seen: &Observation<'_>, _: &Estimates, prices: &Prices) -> Target {
        let (load, capacity) = (load(seen, prices), f64::from(seen.supply()));
        self.loads.push_back(load);
        if self.loads.len() > 72 {
            self.loads.pop_front();
        }
        let target = if capacity > load {
            Some(quadratic_next(self.loads.make_contiguous())).filter(|next| *next <= capacity).unwrap_or(capacity)
        } else {
            load
        };
        Target::plain(nodes(target), format!("load {load:.1} on {capacity:.0} nodes"))
    }

    fn guarded(&self) -> bool {
        false
    }
}

/// The next value of a series by a least-squares parabola; of fewer than three values the last.
fn quadratic_next(values: &[f64]) -> f64 {
    let n = values.len();
    if n < 3 {
        return values.last().copied().unwrap_or(0.0);
    }
    // Centred positions make the odd sums vanish, so the normal equations are solved by hand.
    let half = (n as f64 - 1.0) / 2.0;
    let position = |k: usize| k as f64 - half;
    let (mut s2, mut s4, mut y0, mut y1, mut y2) = (0.0, 0.0, 0.0, 0.0, 0.0);
    for (k, &value) in values.iter().enumerate() {
        let x = position(k);
        s2 += x * x;
        s4 += x.powi(4);
        y0 += value;
        y1 += value * x;
        y2 += value * x * x;
    }
    let count = n as f64;
    let bend = (count * y2 - s2 * y0) / (count * s4 - s2 * s2);
    let level = (y0 - bend * s2) / count;
    let x = position(n);
    level + y1 / s2 * x + bend * x * x
}

/// ConPaaS (Fernandez et al., "Autoscaling Web Applications in Heterogeneous Cloud
/// Infrastructures", IC2E 2014): autoregression, a straight line and Holt-Winters, weighted by the
/// rank of their errors of late.
#[derive(Clone, Debug, Default)]
pub struct ConPaas {
    loads: VecDeque<f64>,
    predicted: [f64; 3],
    /// Smoothed absolute errors.
    errors: [f64; 3],
    holt: Option<Holt>,
}

/// Samples that the line is fitted to, lags of the autoregression, and length of a season.
const WINDOW: usize = 20;

impl Policy for ConPaas {
    fn name(&self) -> &str {
        "conpaas"
    }

    fn decide(&mut self, seen: &Observation<'_>, _: &Estimates, prices: &Prices) -> Target {
        let load = load(seen, prices);
        if !self.loads.is_empty() {
            for (error, predicted) in self.errors.iter_mut().zip(self.predicted) {
                *error = *error * 0.8 + (load - predicted).abs() * 0.2;
            }
        }
        self.loads.push_back(load);
        if self.loads.len() > 10 * WINDOW {
            self.loads.pop_front();
        }
        let loads: Vec<f64> = self.loads.iter().copied().collect();
        let holt = self.holt.get_or_insert_with(|| Holt::new(load));
        holt.observe(load);
        let tail = &loads[loads.len().saturating_sub(WINDOW)..];
        self.predicted = [autoregression_next(&loads, WINDOW), line_next(tail), holt.next()];
        let mut best = [0, 1, 2];
        best.sort_by(|&a, &b| self.errors[a].total_cmp(&self.errors[b]));
        let target = [3.0, 2.0, 1.0].iter().zip(best).map(|(weight, k)| weight * self.predicted[k]).sum::<f64>() / 6.0;
        Target::plain(nodes(target), format!("load {load:.1}, predicted {target:.1}"))
    }

    fn guarded(&self) -> bool {
        false
    }
}

fn line_next(values: &[f64]) -> f64 {
    let n = values.len() as f64;
    if values.len() < 2 {
        return values.last().copied().unwrap_or(0.0);
    }
    let (x, y) = ((n - 1.0) / 2.0, values.iter().sum::<f64>() / n);
    let (xx, xy) = values
        .iter()
        .enumerate()
        .fold((0.0, 0.0), |(xx, xy), (k, v)| (xx + (k as f64 - x).powi(2), xy + (k as f64 - x) * (v - y)));
    y + xy / xx * (n - x)
}

/// The next value by an autoregression of at most `lags` lags, fitted by the Yule-Walker equations
/// (Levinson-Durbin recursion).
fn autoregression_next(values: &[f64], lags: usize) -> f64 {
    let n = values.len();
    let order = lags.min(n / 3);
    let mean = values.iter().sum::<f64>() / n.max(1) as f64;
    let covariance =
        |lag: usize| (lag..n).map(|k| (values[k] - mean) * (values[k - lag] - mean)).sum::<f64>() / n.max(1) as f64;
    let mut error = covariance(0);
    if order == 0 || error <= 1e-12 {
        return values.last().copied().unwrap_or(0.0);
    }
    let mut weights: Vec<f64> = Vec::with_capacity(order);
    for k in 1..=order {
        let known: f64 = weights.iter().enumerate().map(|(j, w)| w * covariance(k - 1 - j)).sum();
        let reflection = (covariance(k) - known) / error;
        let before = weights.clone();
        weights.iter_mut().enumerate().for_each(|(j, w)| *w -= reflection * before[k - 2 - j]);
        weights.push(reflection);
        error *= 1.0 - reflection * reflection;
        if error <= 1e-12 {
            break;
        }
    }
    mean + weights.iter().enumerate().map(|(j, w)| w * (values[n - 1 - j] - mean)).sum::<f64>()
}

/// Additive Holt-Winters smoothing with the parameters 0.2, 0.1, 0.05.
#[derive(Clone, Debug)]
struct Holt {
    level: f64,
    trend: f64,
    season: [f64; WINDOW],
    at: usize,
}

impl Holt {
    fn new(first: f64) -> Holt {
        Holt { level: first, trend: 0.0, season: [0.0; WINDOW], at: 0 }
    }

    fn observe(&mut self, value: f64) {
        let season = &mut self.season[self.at % WINDOW];
        let before = self.level;
        self.level = 0.2 * (value - *season) + 0.8 * (before + self.trend);
        self.trend = 0.1 * (self.level - before) + 0.9 * self.trend;
        *season = 0.05 * (value - self.level) + 0.95 * *season;
        self.at += 1;
    }

    fn next(&self) -> f64 {
        self.level + self.trend + self.season[self.at % WINDOW]
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{bag, wish};
    use super::*;

    #[test]
    fn react_by_hand() {
        // 40 tasks on nodes of 4 slots: L = 10.
        assert_eq!(wish(&mut React, &bag(8, 32, 10.0, 2)).ranks, 12);
        assert_eq!(wish(&mut React, &bag(8, 32, 10.0, 20)).ranks, 8);
        assert_eq!(wish(&mut React, &bag(8, 32, 10.0, 11)).ranks, 11);
    }

    #[test]
    fn adapt_by_hand() {
        // L = 10, C = 20: -10 / 15 = -0.67, then -1.33, so one node at the second look.
        let mut adapt = Adapt::new(5.0);
        assert_eq!(wish(&mut adapt, &bag(8, 32, 10.0, 20)).ranks, 20);
        assert_eq!(wish(&mut adapt, &bag(8, 32, 10.0, 20)).ranks, 19);
        // L = 10, C = 5: ceil(10) - 5 + 2 at once and 5 / 5 = 1 ahead.
        assert_eq!(wish(&mut Adapt::new(5.0), &bag(8, 32, 10.0, 5)).ranks, 5 + 7 + 1);
    }

    #[test]
    fn hist_takes_what_the_hour_saw() {
        let mut hist = Hist::default();
        (0..20).for_each(|_| drop(wish(&mut hist, &bag(8, 32, 10.0, 10))));
        assert_eq!(wish(&mut hist, &bag(4, 0, 10.0, 10)).ranks, 10, "p90 is 10 and the error -9 is but one of ten");
    }

    #[test]
    fn reg_follows_a_parabola_down() {
        assert!((quadratic_next(&[16.0, 9.0, 4.0, 1.0]) - 0.0).abs() < 1e-9);
        assert!((quadratic_next(&[1.0, 2.0, 3.0]) - 4.0).abs() < 1e-9);
        let mut reg = Reg::default();
        let mut last = 0;
        for tasks in [64, 56, 48, 40] {
            last = wish(&mut reg, &bag(0, tasks, 10.0, 20)).ranks;
        }
        assert_eq!(last, 8, "16, 14, 12, 10 goes on with 8");
        assert_eq!(wish(&mut Reg::default(), &bag(0, 40, 10.0, 5)).ranks, 10);
    }

    #[test]
    fn conpaas_predicts_steady_series() {
        let mut policy = ConPaas::default();
        let mut last = 0;
        (0..40).for_each(|_| last = wish(&mut policy, &bag(0, 40, 10.0, 10)).ranks);
        assert_eq!(last, 10);
        assert!((line_next(&[1.0, 2.0, 3.0]) - 4.0).abs() < 1e-9);
        let wave: Vec<f64> = (0..200).map(|k| (f64::from(k) * 0.3).sin()).collect();
        assert!((autoregression_next(&wave, 20) - (200.0f64 * 0.3).sin()).abs() < 0.2);
    }
}
