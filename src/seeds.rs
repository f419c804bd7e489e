//! Seeds of the tests that try many: which to try, and how to try the one that failed again.

use std::ops::Range;

/// The seeds to try: the one to replay, the number that is set, or what a test tries by itself.
pub(crate) fn seeds(usual: u64) -> Range<u64> {
    let number = |name: &str| std::env::var(name).ok().and_then(|s| s.parse::<u64>().ok());
    match (number("PHALANX_SEED"), number("PHALANX_SEEDS")) {
        (Some(seed), _) => seed..seed + 1,
        (None, Some(count)) => 0..count,
        (None, None) => 0..usual,
    }
}

/// Names the seed when a run of the test with this path fails, so that it can be replayed.
pub(crate) struct Named(pub(crate) u64, pub(crate) &'static str);

impl Drop for Named {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("replay with: PHALANX_SEED={} cargo test --lib {}", self.0, self.1);
        }
    }
}
