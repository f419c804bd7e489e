//! The lock of the engine. Slots drive the engine themselves, so neither a completion that others
//! wait for nor a message that brings work waits for a thread to wake up.
//!
//! A thread that finds the engine free uses it. One that finds it taken leaves a request, and the
//! thread that has the engine serves it before that thread continues. So no slot blocks here.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed, Ordering::SeqCst, fence};
use std::sync::{Mutex, MutexGuard, PoisonError, TryLockError};

use crossbeam_utils::CachePadded;

use super::engine::{Engine, OutboxScope};

/// The engine, and whether a thread has found it taken.
pub(in crate::runtime) struct EngineLock {
    // Apart from what lies beside it: slots write here while others read their way to `Shared`.
    engine: CachePadded<Mutex<Engine>>,
    requested: CachePadded<AtomicBool>,
}

impl EngineLock {
    pub(super) fn new(engine: Engine) -> EngineLock {
        EngineLock { engine: CachePadded::new(Mutex::new(engine)), requested: CachePadded::default() }
    }

    /// Waits for the engine.
    pub(in crate::runtime) fn lock(&self) -> MutexGuard<'_, Engine> {
        self.engine.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Uses the engine, unless another thread has it: then that thread uses it once more instead.
    /// `use_engine` gets [`Drain::All`] if other threads have left requests.
    pub(super) fn drive(&self, mut use_engine: impl FnMut(&mut Engine, OutboxScope)) {
        while let Some(engine) = self.try_lock_or_request() {
            self.serve(engine, &mut use_engine);
            if !self.is_requested() {
                return;
            }
        }
    }

    /// As [`EngineLock::drive`], but does nothing if another thread has the engine.
    pub(super) fn try_drive(&self, use_engine: &mut impl FnMut(&mut Engine, OutboxScope)) {
        while let Some(engine) = self.try_lock() {
            self.serve(engine, use_engine);
            if !self.is_requested() {
                return;
            }
        }
    }

    fn serve(&self, mut engine: MutexGuard<'_, Engine>, use_engine: &mut impl FnMut(&mut Engine, OutboxScope)) {
        let drain = if self.requested.swap(false, SeqCst) { OutboxScope::All } else { OutboxScope::Own };
        use_engine(&mut engine, drain);
    }

    /// Forgets the requests so far: the caller has the engine and is about to serve them all.
    pub(super) fn clear_requests(&self) {
        self.requested.store(false, SeqCst);
    }

    /// True if a thread requested the engine while the caller, who has just freed it, had it.
    pub(super) fn is_requested(&self) -> bool {
        fence(SeqCst);
        self.requested.load(Relaxed)
    }

    fn try_lock(&self) -> Option<MutexGuard<'_, Engine>> {
        match self.engine.try_lock() {
            Ok(engine) => Some(engine),
            Err(TryLockError::Poisoned(poisoned)) => Some(poisoned.into_inner()),
            Err(TryLockError::WouldBlock) => None,
        }
    }

    fn try_lock_or_request(&self) -> Option<MutexGuard<'_, Engine>> {
        self.try_lock().or_else(|| {
            self.requested.store(true, SeqCst);
            // The thread that has the engine frees it, passes a fence and then checks for requests.
            // One of the two fences comes first: either that check sees the request, or the second
            // attempt here finds the engine free.
            fence(SeqCst);
            self.try_lock()
        })
    }
}
