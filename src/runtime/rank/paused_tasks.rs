//! Tasks that the user has paused: a slot that takes one sets it aside, until it is resumed.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard, PoisonError, RwLock};

use crate::model::TaskId;
use crate::pool::Item;
use crate::schedule::protocol::is_among;

/// Which tasks are paused, and those of them that would have started.
#[derive(Debug, Default)]
pub(super) struct PausedTasks {
    /// Shows slots with one load that nothing is paused.
    is_any: AtomicBool,
    /// Ranges (from, to).
    tasks: RwLock<Vec<(u32, u32)>>,
    set_aside: Mutex<Vec<Item>>,
}

impl PausedTasks {
    /// True if some task is paused.
    #[inline]
    pub(super) fn is_any(&self) -> bool {
        self.is_any.load(Relaxed)
    }

    /// Sets the item aside if its task is paused.
    pub(super) fn set_aside_if_paused(&self, item: Item, task: Option<TaskId>) -> bool {
        // Under the lock of the list, so that a resumption finds the item.
        let tasks = self.tasks.read().unwrap_or_else(PoisonError::into_inner);
        let is_paused = task.is_some_and(|task| is_among(task, &tasks));
        if is_paused {
            self.items().push(item);
        }
        is_paused
    }

    /// Pauses exactly these tasks (from, to).
    pub(super) fn set(&self, tasks: Vec<(u32, u32)>) {
        self.is_any.store(!tasks.is_empty(), Relaxed);
        *self.tasks.write().unwrap_or_else(PoisonError::into_inner) = tasks;
    }

    /// Sets items aside.
    pub(super) fn add(&self, items: Vec<Item>) {
        self.items().extend(items);
    }

    /// Number of items that are set aside.
    pub(super) fn len(&self) -> usize {
        if self.is_any() { self.items().len() } else { 0 }
    }

    /// Takes the matching items that are set aside.
    pub(super) fn take(&self, which: impl Fn(&Item) -> bool) -> Vec<Item> {
        self.items().extract_if(.., |item| which(item)).collect()
    }

    fn items(&self) -> MutexGuard<'_, Vec<Item>> {
        self.set_aside.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
