//! What the cores can do at most: the bare kernel on as many threads as slots, all at the same time.
//!
//! A rate that a core reaches while the others rest is not a peak that all can reach together, so the threads of a rank begin
//! together, and so do the ranks, as nearly as a message tells them to.

use std::hint::black_box;
use std::sync::Barrier;
use std::time::{Duration, Instant};

use crate::exec::compute_bound::{flops, iterate};

/// Length of one measurement: neither a clock nor a message's delay disturbs it.
const LENGTH: Duration = Duration::from_millis(30);

/// A core that was idle needs a moment to reach its speed.
const WARM_UP: Duration = Duration::from_millis(3);

/// Iterations between two looks at the clock.
const ITERATIONS: u64 = 20_000;

/// Billions of floating-point operations a second of `threads` threads of this process together.
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

/// Computes for a while, and says at which rate.
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
