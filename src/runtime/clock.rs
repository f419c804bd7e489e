//! The run's clock: nanoseconds since the run began on rank 0.
//!
//! Ranks of one node share the system's clock; between nodes it is as good as their time service keeps it.

use std::time::{Instant, SystemTime, UNIX_EPOCH};

use crate::model::Time;

/// Pairs of readings by which a clock is set.
const READINGS: u32 = 8;

/// Reads the run's time. Steady after its start even if somebody sets the system's clock.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    start: Instant,
    offset: u64,
}

impl Clock {
    /// A clock of a run that began then (nanoseconds since the Unix epoch).
    pub fn new(began_unix_ns: u64) -> Clock {
        // A thread that loses its CPU between two readings would set this rank's clock wrong for the whole run, so of several pairs of
        // readings the one counts that took least.
        let read = |_| {
            let start = Instant::now();
            let offset = unix_ns().saturating_sub(began_unix_ns);
            (start.elapsed(), Clock { start, offset })
        };
        let first = read(0);
        (1..READINGS).map(read).fold(first, |best, next| if next.0 < best.0 { next } else { best }).1
    }

    /// Now.
    #[inline]
    pub fn now(&self) -> Time {
        Time(self.offset + self.start.elapsed().as_nanos() as u64)
    }
}

/// Nanoseconds since the Unix epoch.
pub fn unix_ns() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_nanos() as u64)
}
