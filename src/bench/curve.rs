//! Computes efficiency and METG from measured wall times.
//!
//! The minimum effective task granularity METG(50 %) is the smallest task at which the achieved
//! floating-point rate is still half of the peak (Slaughter et al., SC'20, section III). The
//! granularity of a task is its total cost, wall time times cores divided by tasks, and so includes
//! the system's overhead. This module is pure arithmetic.

use serde::Serialize;

use crate::exec::compute_bound;

/// The efficiency that defines METG(50 %).
pub const HALF: f64 = 0.5;

/// The parameters that all points of a curve share.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct CurveShape {
    /// Number of tasks in the graph.
    pub tasks: u64,
    /// Number of cores.
    pub cores: u32,
    /// Peak rate of these cores, in billions of floating-point operations per second.
    pub peak_gflops: f64,
}

/// The measurement for one size of task.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Point {
    /// Iterations of the kernel in each task.
    pub iterations: u64,
    /// Wall time times cores divided by tasks, in microseconds.
    pub granularity_us: f64,
    /// Billions of floating-point operations per second.
    pub gflops: f64,
    /// Share of the peak.
    pub efficiency: f64,
    /// From the first start of a task to the last end, in seconds.
    pub wall_s: f64,
}

impl Point {
    /// Makes a point from the wall time of its tasks in seconds.
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

/// METG(50 %) in microseconds: the smallest granularity at which half of the peak is reached, as in
/// the publication. `None` if half is never reached, or is reached even by the smallest tasks.
/// Between two points the curve is interpolated linearly on logarithmic scales.
///
/// A curve need not be monotonic: larger tasks may be less efficient again, and then this figure
/// alone is too good. See [`dips`].
pub fn metg_us(points: &[Point]) -> Option<f64> {
    let sorted = from_large(points);
    let last = sorted.iter().rposition(|point| point.efficiency >= HALF)?;
    let (large, small) = (sorted[last], *sorted.get(last + 1)?);
    let share = (large.efficiency / HALF).ln() / (large.efficiency / small.efficiency).ln();
    Some(large.granularity_us * (small.granularity_us / large.granularity_us).powf(share))
}

/// The points below half with smaller tasks above half, from large to small: where a system is
/// worse than its METG suggests.
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

    /// Wall times of a system that adds `overhead_us` to every task and is otherwise perfect.
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
            // At half the peak a task takes as long as its overhead. The interpolation is up to 3 %
            // off.
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
