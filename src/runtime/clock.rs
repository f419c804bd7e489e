//! The run's clock: nanoseconds since the run began on rank 0.
//!
//! Ranks of one node share the system's clock; clocks of several nodes are as accurate as their
//! time service.

use std::time::{Instant, SystemTime, UNIX_EPOCH};

use crate::model::Time;

/// Number of pairs of readings from which a clock's offset is chosen.
const OFFSET_READINGS: u32 = 8;

/// Reads the run's time. It never jumps, even if the system's clock is set during the run.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    start: Instant,
    offset: u64,
}

impl Clock {
    /// The clock of a run that began at `began_unix_ns` nanoseconds since the Unix epoch.
    pub fn new(began_unix_ns: u64) -> Clock {
        // If the thread loses its CPU between the two readings of a pair, the offset is wrong for
        // the whole run. So of several pairs the one that took least time is used.
        let read = |_| {
            let start = Instant::now();
            let offset = unix_ns().saturating_sub(began_unix_ns);
            (start.elapsed(), Clock { start, offset })
        };
        let first = read(0);
        (1..OFFSET_READINGS).map(read).fold(first, |best, next| if next.0 < best.0 { next } else { best }).1
    }

    /// Time since the run began.
    #[inline]
    pub fn now(&self) -> Time {
        Time(self.offset + self.start.elapsed().as_nanos() as u64)
    }
}

/// Nanoseconds since the Unix epoch.
pub fn unix_ns() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_nanos() as u64)
}
