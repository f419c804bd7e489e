//! Binding for the threads of a pool: what cannot be bound runs unbound, and that is said once.

use std::sync::atomic::{AtomicBool, Ordering};

use tracing::warn;

use crate::topology::bind_current_thread;

/// Binds threads, and remembers whether a failure was reported.
#[derive(Default)]
pub(super) struct Binder {
    warned: AtomicBool,
}

impl Binder {
    /// Binds the calling thread, or warns if it is the first that cannot be.
    pub(super) fn bind(&self, cpus: &[u32]) {
        if let Err(error) = bind_current_thread(cpus)
            && !self.warned.swap(true, Ordering::Relaxed)
        {
            warn!("{error}");
        }
    }
}
