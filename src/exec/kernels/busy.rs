//! `busy { seconds }` or `busy { flops }`: work for one CPU.
//!
//! Seconds are CPU time of the thread, not wall time: two busy tasks that share a core take twice
//! as long, as real work does.

use std::hint::black_box;
use std::sync::Arc;
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

use super::compute::{flops, iterate};
use crate::exec::args::{ArgError, Args};
use crate::exec::kernel::{Context, Prepared};

/// Iterations between two reads of the clock; they take some microseconds.
const STRIDE: u64 = 500;

pub(super) fn prepare(args: &toml::Table) -> Result<Prepared, ArgError> {
    let args = Args::new(args, &["seconds", "flops"])?;
    let amount: Option<f64> = args.get("flops")?;
    match (super::seconds(&args, "seconds")?, amount) {
        (Some(time), None) => Ok(Arc::new(move |context| burn_time(context, time))),
        (None, Some(amount)) if amount >= 0.0 => Ok(Arc::new(move |context| burn_flops(context, amount))),
        (None, Some(_)) => Err(ArgError::new("flops", "expected a number of operations, zero or more")),
        (Some(_), Some(_)) => Err(ArgError::new("flops", "cannot be combined with `seconds`; give only one of them")),
        (None, None) => Err(super::missing("seconds", "seconds of CPU time, or `flops`")),
    }
}

fn burn_time(context: &Context, time: Duration) -> Result<(), String> {
    let start = cpu_time();
    while cpu_time().saturating_sub(start) < time && !context.cancelled() {
        black_box(iterate(STRIDE));
    }
    Ok(())
}

fn burn_flops(context: &Context, amount: f64) -> Result<(), String> {
    let mut left = amount;
    while left > 0.0 && !context.cancelled() {
        // The last stride does only the remaining iterations.
        let iterations = ((left / flops(1) as f64).ceil() as u64).min(STRIDE);
        black_box(iterate(iterations));
        left -= flops(iterations) as f64;
    }
    Ok(())
}

/// CPU time that this thread has used.
fn cpu_time() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec.unsigned_abs(), time.tv_nsec.unsigned_abs() as u32)
}
