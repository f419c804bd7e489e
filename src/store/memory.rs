//! The level in memory: small results of this process, with their contents.
//!
//! A result that nobody used for its time to live is dropped. That time adapts by class: after
//! every twenty look-ups of a class, it doubles if more than 80 % of them were hits and halves if
//! fewer than 20 % were, within a quarter and four times of what the job says.

use std::sync::Arc;
use std::time::{Duration, Instant};

use rustc_hash::FxHashMap;

use super::digest::Digest;
use super::result::StoredResult;

/// Maximum size in bytes of a result that is kept in memory, with its contents.
pub(super) const MAX_RESULT: usize = 64 << 10;
/// Maximum size in bytes of all of them.
const MAX_TOTAL: usize = 64 << 20;
/// Look-ups of a class after which its time to live is adapted.
const LOOKUPS: u32 = 20;
/// Shares of hits above which results are kept longer, and below which shorter.
const KEEP_LONGER: f64 = 0.8;
const KEEP_SHORTER: f64 = 0.2;
/// Bounds of the factor on the time to live.
const FACTORS: (f64, f64) = (0.25, 4.0);

/// A small result: what it says, and its contents by digest.
#[derive(Debug)]
pub(super) struct SmallResult {
    pub(super) result: StoredResult,
    pub(super) contents: Vec<(Digest, Vec<u8>)>,
}

impl SmallResult {
    fn bytes(&self) -> usize {
        let printed: usize = self.result.printed.iter().map(|(_, bytes)| bytes.len()).sum();
        let contents: usize = self.contents.iter().map(|(_, bytes)| bytes.len()).sum();
        1024 + printed + contents
    }
}

/// Look-ups of a class, and what follows from them for its time to live.
#[derive(Clone, Copy, Debug)]
struct Adaption {
    lookups: u32,
    hits: u32,
    factor: f64,
}

/// The level.
#[derive(Debug)]
pub(super) struct Memory {
    ttl: Duration,
    results: FxHashMap<Digest, (Arc<SmallResult>, Instant)>,
    bytes: usize,
    classes: FxHashMap<String, Adaption>,
}

impl Memory {
    pub(super) fn new(ttl: Duration) -> Memory {
        Memory { ttl, results: FxHashMap::default(), bytes: 0, classes: FxHashMap::default() }
    }

    /// The factor on the time to live of a class.
    pub(super) fn factor(&self, class: &str) -> f64 {
        self.classes.get(class).map_or(1.0, |class| class.factor)
    }

    /// Counts a look-up of a class at all levels together.
    pub(super) fn count(&mut self, class: &str, is_hit: bool) {
        if !self.classes.contains_key(class) {
            self.classes.insert(class.to_owned(), Adaption { lookups: 0, hits: 0, factor: 1.0 });
        }
        let Some(class) = self.classes.get_mut(class) else { return };
        class.lookups += 1;
        class.hits += u32::from(is_hit);
        if class.lookups < LOOKUPS {
            return;
        }
        let rate = f64::from(class.hits) / f64::from(class.lookups);
        let change = match rate {
            rate if rate > KEEP_LONGER => 2.0,
            rate if rate < KEEP_SHORTER => 0.5,
            _ => 1.0,
        };
        *class = Adaption { lookups: 0, hits: 0, factor: (class.factor * change).clamp(FACTORS.0, FACTORS.1) };
    }

    /// The result of a key, if it is there and was used recently enough.
    pub(super) fn get(&mut self, key: &Digest, class: &str, now: Instant) -> Option<Arc<SmallResult>> {
        let ttl = self.ttl.mul_f64(self.factor(class));
        let (result, used) = self.results.get_mut(key)?;
        if now.saturating_duration_since(*used) <= ttl {
            *used = now;
            return Some(Arc::clone(result));
        }
        self.remove(key);
        None
    }

    /// Keeps a result, unless it is too large.
    pub(super) fn put(&mut self, key: Digest, result: SmallResult, now: Instant) {
        let bytes = result.bytes();
        if bytes > MAX_RESULT + 1024 {
            return;
        }
        if self.bytes + bytes > MAX_TOTAL {
            self.make_room(now);
        }
        self.remove(&key);
        self.bytes += bytes;
        self.results.insert(key, (Arc::new(result), now));
    }

    pub(super) fn remove(&mut self, key: &Digest) {
        if let Some((result, _)) = self.results.remove(key) {
            self.bytes -= result.bytes();
        }
    }

    /// Drops the half that was not used for longest.
    fn make_room(&mut self, now: Instant) {
        let mut ages: Vec<(Duration, Digest)> =
            self.results.iter().map(|(key, (_, used))| (now.saturating_duration_since(*used), *key)).collect();
        ages.sort_unstable();
        for (_, key) in ages.iter().rev().take(ages.len().div_ceil(2)) {
            self.remove(key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::result::{Components, Origin};

    fn small(bytes: usize) -> SmallResult {
        let result = StoredResult {
            origin: Origin::default(),
            components: Components::default(),
            outputs: Vec::new(),
            printed: vec![(false, vec![0; bytes])],
            measures: Vec::new(),
        };
        SmallResult { result, contents: Vec::new() }
    }

    fn key(number: u32) -> Digest {
        Digest::of(&number.to_le_bytes())
    }

    #[test]
    fn what_nobody_used_for_its_time_to_live_is_dropped() {
        let mut memory = Memory::new(Duration::from_secs(300));
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        memory.put(key(1), small(10), start);
        assert!(memory.get(&key(1), "c", at(299)).is_some());
        assert!(memory.get(&key(1), "c", at(599)).is_some(), "each use begins the time anew");
        assert!(memory.get(&key(1), "c", at(900)).is_none());
        assert_eq!(memory.bytes, 0);
    }

    #[test]
    fn the_time_to_live_adapts_to_the_hit_rate_within_bounds() {
        let mut memory = Memory::new(Duration::from_secs(300));
        let mut count = |hits: u32| {
            for lookup in 0..20 {
                memory.count("c", lookup < hits);
            }
            memory.factor("c")
        };
        assert_eq!([17, 17, 17].map(&mut count), [2.0, 4.0, 4.0]);
        assert_eq!([16, 4].map(&mut count), [4.0, 4.0], "between 20 and 80 % nothing changes");
        assert_eq!([3; 5].map(&mut count), [2.0, 1.0, 0.5, 0.25, 0.25]);
        assert_eq!(memory.factor("other"), 1.0);
    }

    #[test]
    fn memory_is_bounded() {
        let mut memory = Memory::new(Duration::from_secs(300));
        let start = Instant::now();
        memory.put(key(0), small(MAX_RESULT + 1), start);
        assert!(memory.results.is_empty());
        for number in 0..3000 {
            memory.put(key(number), small(MAX_RESULT), start + Duration::from_millis(number.into()));
            assert!(memory.bytes <= MAX_TOTAL);
        }
        assert!(memory.get(&key(2999), "c", start).is_some(), "the youngest stay");
        assert!(memory.get(&key(0), "c", start).is_none());
    }
}
