//! Slots drive the engine: who finds it free uses it, who finds it taken leaves a call, and whoever has it answers before going on.

use std::sync::atomic::{Ordering::Relaxed, Ordering::SeqCst, fence};
use std::sync::{MutexGuard, TryLockError};

use super::engine::Engine;
use super::executor::Executor;

impl Executor {
    /// Does something with the engine, unless another thread has it: then that one looks around once more in our place. `true` tells
    /// `turn` that others have called meanwhile.
    pub(super) fn drive(&self, mut turn: impl FnMut(&mut Engine, bool)) {
        while let Some(engine) = self.call_engine() {
            self.use_engine(engine, &mut turn);
            if !self.is_called() {
                return;
            }
        }
    }

    /// The same, unless another thread has the engine: then nothing is done at all.
    pub(super) fn try_drive(&self, turn: &mut impl FnMut(&mut Engine, bool)) {
        while let Some(engine) = self.try_engine() {
            self.use_engine(engine, turn);
            if !self.is_called() {
                return;
            }
        }
    }

    fn use_engine(&self, mut engine: MutexGuard<'_, Engine>, turn: &mut impl FnMut(&mut Engine, bool)) {
        turn(&mut engine, self.called.swap(false, SeqCst));
    }

    /// Takes note that all who called so far are being answered: the caller has the engine.
    pub(in crate::runtime) fn answer(&self) {
        self.called.store(false, SeqCst);
    }

    fn try_engine(&self) -> Option<MutexGuard<'_, Engine>> {
        match self.engine.try_lock() {
            Ok(engine) => Some(engine),
            Err(TryLockError::Poisoned(poisoned)) => Some(poisoned.into_inner()),
            Err(TryLockError::WouldBlock) => None,
        }
    }

    /// The engine, or a call to whoever has it.
    fn call_engine(&self) -> Option<MutexGuard<'_, Engine>> {
        self.try_engine().or_else(|| {
            self.called.store(true, SeqCst);
            // Whoever has the engine frees it, then looks for a call. Of that look and our second try one comes after the other's fence.
            fence(SeqCst);
            self.try_engine()
        })
    }

    /// True if somebody called for the engine while the caller, who has just freed it, had it.
    pub(in crate::runtime) fn is_called(&self) -> bool {
        fence(SeqCst);
        self.called.load(Relaxed)
    }
}
