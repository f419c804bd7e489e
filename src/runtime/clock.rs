//! The run's clock: nanoseconds since the run began on rank 0.
//!
//! Ranks of one node share the system's clock; between nodes it is as good as their time service keeps it.

use std::time::{Instant, SystemTime, UNIX_EPOCH};

use crate::model::Time;

/// Reads the run's time. Steady after its start even if somebody sets the system's clock.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    start: Instant,
    offset: u64,
}

impl Clock {
    /// A clock of a run that began then (nanoseconds since the Unix epoch).
    pub fn new(began_unix_ns: u64) -> Clock {
        let start = Instant::now();
        Clock { start, offset: unix_ns().saturating_sub(began_unix_ns) }
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
