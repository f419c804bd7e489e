//! The peak rate of the cores: the bare kernel on as many threads as slots, all at the same time.
//!
//! The rate of a single busy core is not a peak that all can reach together. So the threads of a
//! rank start together, and the ranks do too, as far as a message can synchronise them.

use std::hint::black_box;
use std::sync::Barrier;
use std::time::{Duration, Instant};

use crate::exec::compute_bound::{flops, iterate};

/// Duration of one measurement: long against the clock's resolution and a message's delay.
const LENGTH: Duration = Duration::from_millis(30);

/// Warm-up time, in which an idle core reaches its full clock rate.
const WARM_UP: Duration = Duration::from_millis(3);

/// Iterations between two reads of the clock.
const ITERATIONS: u64 = 20_000;

/// Measures the billions of floating-point operations per second of `threads` threads of this
/// process together.
pub(super) fn gflops(threads: u32) -> f64 {
    let together = Barrier::new(threads as usize);
    std::thread::scope(|scope| {
        let running: Vec<_> = (0..threads).map(|_| scope.spawn(|| one(&together))).collect();
        running.into_iter().map(|thread| thread.join().unwrap_or(0.0)).sum()
    })
}

fn one(together: &Barrier) -> f64 {
    compute(WARM_UP);
    together.wait();
    compute(LENGTH)
}

/// Computes for `length` and returns the rate.
fn compute(length: Duration) -> f64 {
    let begun = Instant::now();
    let mut done = 0;
    loop {
        black_box(iterate(black_box(ITERATIONS)));
        done += flops(ITERATIONS);
        let took = begun.elapsed();
        if took >= length {
            return done as f64 / took.as_secs_f64() / 1e9;
        }
    }
}
