//! Binds the threads of a pool to CPUs. A thread that cannot be bound runs unbound, with one
//! warning per pool.

use std::sync::atomic::{AtomicBool, Ordering};

use tracing::warn;

use crate::topology::bind_current_thread;

/// Binds threads, and remembers whether the warning was given.
#[derive(Default)]
pub(super) struct Binder {
    warned: AtomicBool,
}

impl Binder {
    /// Binds the calling thread, or warns if it is the first that cannot be bound.
    pub(super) fn bind(&self, cpus: &[u32]) {
        if let Err(error) = bind_current_thread(cpus)
            && !self.warned.swap(true, Ordering::Relaxed)
        {
            warn!("{error}");
        }
    }
}
