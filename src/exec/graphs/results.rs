//! Results of operations on a data graph, cached for [`RESULT_LIFETIME`] on each rank.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use super::{OperationResult, lock};
use crate::data::operations::Operation;

/// How long results are cached.
const RESULT_LIFETIME: Duration = Duration::from_secs(300);

/// Largest number of cached results per graph.
const MAX_CACHED_RESULTS: usize = 64;

/// The place of a result: empty until the operation has ended, and locked by who computes it.
pub(super) type ResultPlace = Arc<Mutex<Option<Arc<OperationResult>>>>;

/// The cached results of a graph.
#[derive(Default)]
pub(super) struct ResultCache(Mutex<Vec<CachedResult>>);

struct CachedResult {
    /// The division of the graph, and its version.
    of: (u64, u64),
    operation: Operation,
    /// True if it includes the values of single vertices, for operations where these are optional.
    each: bool,
    since: Instant,
    place: ResultPlace,
}

impl ResultCache {
    /// The place for the result of an operation on a division and version of the graph.
    pub fn place(&self, of: (u64, u64), operation: &Operation, each: bool) -> ResultPlace {
        let mut results = lock(&self.0);
        results.retain(|kept| kept.since.elapsed() < RESULT_LIFETIME);
        let answers = |kept: &&CachedResult| kept.of == of && kept.operation == *operation && kept.each >= each;
        if let Some(kept) = results.iter().find(answers) {
            return Arc::clone(&kept.place);
        }
        if results.len() >= MAX_CACHED_RESULTS {
            results.remove(0);
        }
        let place = ResultPlace::default();
        let (operation, since) = (operation.clone(), Instant::now());
        results.push(CachedResult { of, operation, each, since, place: Arc::clone(&place) });
        place
    }

    /// Forgets the results of versions before this one.
    pub fn forget_before(&self, version: u64) {
        lock(&self.0).retain(|kept| kept.of.1 >= version);
    }

    /// Forgets all results.
    pub fn clear(&self) {
        lock(&self.0).clear();
    }
}
