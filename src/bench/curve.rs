//! From measured walls to efficiency and METG.
//!
//! The minimum effective task granularity METG(50 %) is the smallest task at which the floating-point rate achieved is still half of
//! the peak (Slaughter et al., SC'20, section III). The granularity of a task is what it costs in all: wall time, times cores, over tasks; so a
//! system's overhead is part of it. Everything here is arithmetic.

use serde::Serialize;

use crate::exec::compute_bound;

/// The efficiency that a task must reach to be worth its overhead.
pub const HALF: f64 = 0.5;

/// What was run at every point of a curve.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct CurveShape {
    /// Tasks in the graph.
    pub tasks: u64,
    /// Cores that took part.
    pub cores: u32,
    /// Most floating-point operations that these cores do in a second, in billions.
    pub peak_gflops: f64,
}

/// One size of task.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Point {
    /// Iterations of the kernel in each task.
    pub iterations: u64,
    /// Wall times cores over tasks, in microseconds.
    pub granularity_us: f64,
    /// Floating-point operations a second, in billions.
    pub gflops: f64,
    /// Share of the peak.
    pub efficiency: f64,
    /// From the first start of a task to the last end, in seconds.
    pub wall_s: f64,
}

impl Point {
    /// A point whose tasks took `wall_s` seconds in all.
    pub fn new(iterations: u64, wall_s: f64, shape: &CurveShape) -> Point {
        let tasks = shape.tasks as f64;
        let gflops = compute_bound::flops(iterations) as f64 * tasks / wall_s / 1e9;
        Point {
            iterations,
            granularity_us: wall_s * f64::from(shape.cores) / tasks * 1e6,
            gflops,
            efficiency: gflops / shape.peak_gflops,
            wall_s,
        }
    }
}

/// METG(50 %) in microseconds: the smallest granularity at which half is still reached, as the publication has it. `None` if it is never
/// reached, or also by the smallest tasks. Between two points the curve is taken for a straight line on logarithmic scales.
///
/// A curve need not fall evenly: larger tasks may do worse again, and then this figure alone flatters. See [`dips`].
pub fn metg_us(points: &[Point]) -> Option<f64> {
    let sorted = from_large(points);
    let last = sorted.iter().rposition(|point| point.efficiency >= HALF)?;
    let (large, small) = (sorted[last], *sorted.get(last + 1)?);
    let share = (large.efficiency / HALF).ln() / (large.efficiency / small.efficiency).ln();
    Some(large.granularity_us * (small.granularity_us / large.granularity_us).powf(share))
}

/// The points below half that have smaller tasks above half, from large to small: where a system does worse than its METG lets expect.
pub fn dips(points: &[Point]) -> Vec<Point> {
    let sorted = from_large(points);
    let last = sorted.iter().rposition(|point| point.efficiency >= HALF).unwrap_or(0);
    sorted[..last.min(sorted.len())].iter().filter(|point| point.efficiency < HALF).copied().collect()
}

fn from_large(points: &[Point]) -> Vec<Point> {
    let mut sorted = points.to_vec();
    sorted.sort_by_key(|point| std::cmp::Reverse(point.iterations));
    sorted
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SHAPE: CurveShape = CurveShape { tasks: 8000, cores: 2, peak_gflops: 40.0 };

    /// Walls of a system that adds `overhead_us` to every task and is else perfect.
    fn curve(overhead_us: f64) -> Vec<Point> {
        let core_gflops = SHAPE.peak_gflops / f64::from(SHAPE.cores);
        let wall = |iterations| {
            let work_us = compute_bound::flops(iterations) as f64 / core_gflops / 1e3;
            (work_us + overhead_us) / 1e6 * SHAPE.tasks as f64 / f64::from(SHAPE.cores)
        };
        (0..20).map(|k| 1u64 << k).chain([0]).map(|i| Point::new(i, wall(i), &SHAPE)).collect()
    }

    #[test]
    fn a_point_is_what_its_wall_says() {
        let point = Point::new(1000, 0.04, &SHAPE);
        assert!((point.granularity_us - 10.0).abs() < 1e-9, "{point:?}");
        assert!((point.gflops - 128_064.0 * 8000.0 / 0.04 / 1e9).abs() < 1e-9, "{point:?}");
        assert!((point.efficiency - point.gflops / 40.0).abs() < 1e-12, "{point:?}");
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn metg_is_twice_a_constant_overhead(overhead_us in 0.05f64..200.0) {
            // At half the peak a task takes as long as its overhead. Between two points the true curve is not straight: up to 3 % off.
            let metg = metg_us(&curve(overhead_us)).unwrap();
            prop_assert!((metg / (2.0 * overhead_us) - 1.0).abs() < 0.04, "{} for {}", metg, overhead_us);
        }
    }

    #[test]
    fn a_curve_that_does_not_cross_half_has_none() {
        let points = curve(10.0);
        let crossing = points.iter().filter(|p| p.efficiency >= HALF).count();
        assert!(crossing > 1 && crossing < points.len());
        let above: Vec<Point> = points.iter().copied().filter(|p| p.efficiency >= HALF).collect();
        let below: Vec<Point> = points.iter().copied().filter(|p| p.efficiency < HALF).collect();
        assert_eq!((metg_us(&above), metg_us(&below), metg_us(&[])), (None, None, None));
        assert!(dips(&points).is_empty() && dips(&below).is_empty() && dips(&[]).is_empty());
    }

    #[test]
    fn a_curve_that_rises_again_is_taken_where_it_falls_last_and_its_dip_is_told() {
        let even = curve(10.0);
        let mut uneven = even.clone();
        uneven[18] = Point::new(uneven[18].iterations, uneven[18].wall_s * 3.0, &SHAPE);
        assert!(uneven[18].efficiency < HALF);
        assert_eq!(metg_us(&uneven), metg_us(&even));
        assert_eq!(dips(&uneven), [uneven[18]]);
    }
}
