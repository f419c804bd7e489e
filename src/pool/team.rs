//! Rayon pools for kernels on several CPUs: one per set of slots, with its threads bound to the
//! CPUs of those slots.
//!
//! While a kernel runs on its team, the team's slots wait, so no CPU is used twice. Teams are kept,
//! because starting threads costs more than a short kernel; the least recently used one is dropped
//! when there are too many.

use std::sync::{Arc, Mutex, PoisonError};

use rayon::{ThreadPool, ThreadPoolBuilder};

use super::PoolError;
use super::bind::Binder;
use crate::topology::SlotPlace;

/// The teams of one pool, the most recently used first.
pub(super) struct Teams {
    cached: Mutex<Vec<(Vec<usize>, Arc<ThreadPool>)>>,
    most: usize,
}

impl Teams {
    /// Keeps at most `most` teams.
    pub(super) fn new(most: usize) -> Teams {
        Teams { cached: Mutex::new(Vec::new()), most }
    }

    /// The team for these slots, which the caller holds.
    pub(super) fn get(
        &self,
        slots: &[usize],
        places: &[SlotPlace],
        binder: &Arc<Binder>,
    ) -> Result<Arc<ThreadPool>, PoolError> {
        if let Some(team) = self.find(slots) {
            return Ok(team);
        }
        // Built outside the lock: no other thread builds the same one, because the caller holds its
        // slots.
        let team = Arc::new(build(slots, places, Arc::clone(binder))?);
        let mut cached = self.cached.lock().unwrap_or_else(PoisonError::into_inner);
        cached.insert(0, (slots.to_vec(), Arc::clone(&team)));
        cached.truncate(self.most);
        Ok(team)
    }

    fn find(&self, slots: &[usize]) -> Option<Arc<ThreadPool>> {
        let mut cached = self.cached.lock().unwrap_or_else(PoisonError::into_inner);
        let at = cached.iter().position(|(of, _)| of == slots)?;
        cached[..=at].rotate_right(1);
        Some(Arc::clone(&cached[0].1))
    }
}

fn build(slots: &[usize], places: &[SlotPlace], binder: Arc<Binder>) -> Result<ThreadPool, PoolError> {
    let cpus: Vec<Vec<u32>> = slots.iter().map(|&slot| places[slot].cpus.clone()).collect();
    let first = slots.first().copied().unwrap_or(0);
    let builder = ThreadPoolBuilder::new().num_threads(slots.len()).thread_name(move |i| format!("team-{first}.{i}"));
    builder.start_handler(move |thread| binder.bind(&cpus[thread])).build().map_err(PoolError::Team)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn teams_are_kept_up_to_a_bound_and_the_oldest_goes_first() {
        let places = vec![SlotPlace { cpus: vec![0], domain: 0, pinned: true }; 3];
        let (teams, binder) = (Teams::new(2), Arc::new(Binder::default()));
        let get = |slots: &[usize]| teams.get(slots, &places, &binder).unwrap();
        let first = get(&[0, 1]);
        assert_eq!(first.current_num_threads(), 2);
        let second = get(&[2]);
        assert!(Arc::ptr_eq(&first, &get(&[0, 1])));
        get(&[0]);
        assert!(Arc::ptr_eq(&first, &get(&[0, 1])));
        assert!(!Arc::ptr_eq(&second, &get(&[2])));
    }
}
