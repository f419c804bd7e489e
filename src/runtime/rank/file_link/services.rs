//! What a rank does for others: work that waits, and the threads that do it.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Threads for each [`Service`], at most; further requests wait.
const MAX_THREADS: [usize; 2] = [64, 16];

/// What waits to be done for other ranks.
pub(in crate::runtime::rank) type Work = Box<dyn FnOnce() + Send>;

/// What a rank does for others.
#[derive(Clone, Copy, Debug)]
pub(in crate::runtime::rank) enum Service {
    /// It answers and sends.
    Send,
    /// Rank 0 takes in what attempts have left; these may take long, and do not hold up the others.
    TakeIn,
}

/// The work for other ranks.
#[derive(Default)]
pub(in crate::runtime::rank) struct Services {
    of_each: Mutex<[ServiceState; 2]>,
}

#[derive(Default)]
struct ServiceState {
    work: VecDeque<Work>,
    threads: usize,
}

impl Services {
    fn services(&self) -> MutexGuard<'_, [ServiceState; 2]> {
        self.of_each.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Leaves work for the threads that serve. True if another one is to be started.
    pub(in crate::runtime::rank) fn add(&self, service: Service, work: Work) -> bool {
        let mut services = self.services();
        let ServiceState { work: waiting, threads } = &mut services[service as usize];
        waiting.push_back(work);
        let is_allowed = *threads < MAX_THREADS[service as usize];
        *threads += usize::from(is_allowed);
        is_allowed
    }

    /// A thread that serves could not be started. Returns the work that no thread will do.
    pub(in crate::runtime::rank) fn lacks_thread(&self, service: Service) -> VecDeque<Work> {
        let mut services = self.services();
        let ServiceState { work, threads } = &mut services[service as usize];
        *threads -= 1;
        if *threads == 0 { std::mem::take(work) } else { VecDeque::new() }
    }

    /// What a thread that serves does next; if there is nothing, it ends.
    pub(in crate::runtime::rank) fn next(&self, service: Service) -> Option<Work> {
        let mut services = self.services();
        let ServiceState { work, threads } = &mut services[service as usize];
        let work = work.pop_front();
        *threads -= usize::from(work.is_none());
        work
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_that_no_thread_will_do_comes_back() {
        let services = Services::default();
        assert!(services.add(Service::TakeIn, Box::new(|| ())));
        assert!(services.add(Service::TakeIn, Box::new(|| ())));
        assert!(services.lacks_thread(Service::TakeIn).is_empty(), "another thread does it");
        assert_eq!(services.lacks_thread(Service::TakeIn).len(), 2);
        let starts = (0..100).filter(|_| services.add(Service::TakeIn, Box::new(|| ()))).count();
        assert_eq!(starts, MAX_THREADS[1]);
        assert!(services.add(Service::Send, Box::new(|| ())), "who takes in does not hold up who sends");
    }
}
