//! Backoff of a slot that found no work: it spins, then yields, then sleeps.
//!
//! Waking a sleeping thread takes about 25 us, a spinning one reacts in 50 ns; spinning for about
//! two wake-ups costs at most twice the best choice. A slot that yields between two polls takes CPU
//! time from no other thread, so it does that for longer: the next task often depends on another
//! rank that is slightly behind. Both are useful only on a CPU without other work, which is
//! detected: a yield that takes long means that another thread ran here meanwhile. Once may be
//! chance (the rank's own main thread). Repeatedly means that this CPU has other work, and then the
//! slot neither spins nor yields for a while. A slot without a CPU of its own never does.

use std::thread::yield_now;
use std::time::{Duration, Instant};

const SPIN_TIME: Duration = Duration::from_micros(30);
const YIELD_TIME: Duration = Duration::from_micros(500);
/// Shortest yield that indicates other work. A yield on a free CPU takes less than a microsecond,
/// and one to the rank's own main thread, which has little to do, less than this.
const MIN_LONG_YIELD: Duration = Duration::from_micros(100);
/// Number of long yields in one wait that indicate other work on this CPU.
const CROWDED_LONG_YIELDS: u32 = 3;
const AVOID_TIME: Duration = Duration::from_millis(20);

/// Number of polls that certainly take less than the spin time, so that no clock need be read.
const POLLS_WITHOUT_CLOCK: u32 = 64;

/// The backoff state of one slot.
pub(super) struct Backoff {
    may_spin: bool,
    looks: u32,
    began: Option<Instant>,
    strikes: u32,
    avoid_until: Option<Instant>,
}

impl Backoff {
    pub(super) fn new(may_spin: bool) -> Backoff {
        Backoff { may_spin, looks: 0, began: None, strikes: 0, avoid_until: None }
    }

    /// Starts over, since work was found.
    pub(super) fn renew(&mut self) {
        self.looks = 0;
        self.began = None;
        self.strikes = 0;
    }

    /// Waits a moment. False if it is time to sleep.
    pub(super) fn wait(&mut self) -> bool {
        if !self.may_spin {
            return false;
        }
        self.looks += 1;
        if self.looks <= POLLS_WITHOUT_CLOCK && self.avoid_until.is_none() {
            std::hint::spin_loop();
            return true;
        }
        let now = Instant::now();
        if self.avoid_until.is_some_and(|until| now < until) {
            return false;
        }
        self.avoid_until = None;
        let waited = now - *self.began.get_or_insert(now);
        match () {
            () if waited < SPIN_TIME => std::hint::spin_loop(),
            () if waited < YIELD_TIME => return self.give_way(now),
            () => return false,
        }
        true
    }

    fn give_way(&mut self, now: Instant) -> bool {
        yield_now();
        self.strikes += u32::from(now.elapsed() > MIN_LONG_YIELD);
        let crowded = self.strikes >= CROWDED_LONG_YIELDS;
        if crowded {
            self.avoid_until = Some(now + AVOID_TIME);
        }
        !crowded
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patience_ends_and_is_renewed() {
        let mut backoff = Backoff::new(true);
        while backoff.wait() {}
        assert!(!backoff.wait(), "it must not come back by itself");
        backoff.renew();
        backoff.avoid_until = None;
        assert!(backoff.wait());
    }

    #[test]
    fn without_a_cpu_of_its_own_a_slot_never_spins() {
        assert!(!Backoff::new(false).wait());
    }

    #[test]
    fn a_slot_that_was_in_the_way_does_not_spin_for_a_while() {
        let mut backoff = Backoff::new(true);
        backoff.avoid_until = Some(Instant::now() + Duration::from_secs(3600));
        assert!(!backoff.wait());
    }
}
