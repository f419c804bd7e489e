//! `compute_bound { iterations }`: the compute kernel of Task Bench.
//!
//! 64 doubles, and on each of them `iterations` times `x <- x * x + x`: `2 * 64 * iterations + 64`
//! floating-point operations and no memory traffic. The values overflow to infinity, where
//! arithmetic is equally fast.

use std::hint::black_box;
use std::sync::Arc;

use crate::exec::args::{ArgError, Args};
use crate::exec::kernel::Prepared;

const LANES: usize = 64;

pub(super) fn prepare(args: &toml::Table) -> Result<Prepared, ArgError> {
    let iterations: u64 = Args::new(args, &["iterations"])?.need("iterations")?;
    // Does not poll the context: the kernel is a yardstick of microseconds.
    Ok(Arc::new(move |_| {
        black_box(iterate(iterations));
        Ok(())
    }))
}

/// Number of floating-point operations of `iterations` iterations.
pub fn flops(iterations: u64) -> u64 {
    iterations.saturating_mul(2 * LANES as u64).saturating_add(LANES as u64)
}

/// Runs the iterations with the widest instructions that this CPU supports.
pub fn iterate(iterations: u64) -> f64 {
    #[cfg(target_arch = "x86_64")]
    if std::arch::is_x86_feature_detected!("avx2") && std::arch::is_x86_feature_detected!("fma") {
        // SAFETY: the check above found that the CPU has these instructions.
        return unsafe { iterate_fma(iterations) };
    }
    iterate_anywhere(iterations)
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
fn iterate_fma(iterations: u64) -> f64 {
    let mut lanes = black_box([1.2345f64; LANES]);
    for _ in 0..iterations {
        for x in &mut lanes {
            *x = x.mul_add(*x, *x);
        }
    }
    sum(&lanes)
}

fn iterate_anywhere(iterations: u64) -> f64 {
    let mut lanes = black_box([1.2345f64; LANES]);
    for _ in 0..iterations {
        for x in &mut lanes {
            *x = *x * *x + *x;
        }
    }
    sum(&lanes)
}

/// Eight independent sums: the latency of one chain of additions would take longer than an empty
/// task.
#[inline]
fn sum(lanes: &[f64; LANES]) -> f64 {
    let mut sums = [0.0; 8];
    for eight in lanes.as_chunks::<8>().0 {
        sums.iter_mut().zip(eight).for_each(|(sum, x)| *sum += x);
    }
    sums.iter().sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_ways_compute_the_same() {
        for iterations in [0, 1, 2, 3] {
            let (a, b) = (iterate(iterations), iterate_anywhere(iterations));
            assert!((a - b).abs() <= b.abs() * 1e-12, "{iterations}: {a} {b}");
        }
        assert!((iterate_anywhere(1) - 64.0 * (1.2345 * 1.2345 + 1.2345)).abs() < 1e-9);
        assert_eq!(flops(10), 2 * 64 * 10 + 64);
    }
}
