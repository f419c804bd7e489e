//! How long a slot that found nothing keeps trying: it spins, then yields, then sleeps.
//!
//! Waking a sleeping thread costs about 25 us, being seen by a spinning one 50 ns; spinning for
//! about two wake-ups is never worse than twice the best choice. A slot that yields in between two
//! looks takes nothing from anybody, so it goes on with that for longer: the next task often hangs
//! on another rank that is not quite as far. Both only pay on a CPU that nobody else wants. Whether
//! that is so is found out: a yield that takes long means that another thread ran here in the
//! meantime. Once may be chance (the rank's own main thread), again and again it means that this
//! CPU has other work, and then this slot neither spins nor yields for a while. A slot without a
//! CPU of its own never does.

use std::thread::yield_now;
use std::time::{Duration, Instant};

const SPIN: Duration = Duration::from_micros(30);
const YIELD: Duration = Duration::from_micros(500);
/// A yield on a free CPU takes less than a microsecond; one to the rank's own main thread, which
/// has little to do, less than this.
const CROWDED: Duration = Duration::from_micros(100);
/// So many long yields in one wait are no chance.
const STRIKES: u32 = 3;
const AVOID: Duration = Duration::from_millis(20);

/// So many looks take less than the time to spin, in which no clock need be read.
const QUICK: u32 = 64;

/// One slot's patience.
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

    /// Something was found: patience is full again.
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
        if self.looks <= QUICK && self.avoid_until.is_none() {
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
            () if waited < SPIN => std::hint::spin_loop(),
            () if waited < YIELD => return self.give_way(now),
            () => return false,
        }
        true
    }

    fn give_way(&mut self, now: Instant) -> bool {
        yield_now();
        self.strikes += u32::from(now.elapsed() > CROWDED);
        let crowded = self.strikes >= STRIKES;
        if crowded {
            self.avoid_until = Some(now + AVOID);
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
