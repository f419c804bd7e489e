//! The threads that bring files of tasks that wait for a slot (`schedule/prefetch`).

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use super::FileLink;
use crate::exec::{AheadFlags, Runner};
use crate::model::{Rank, TaskId};
use crate::runtime::clock::Clock;
use crate::schedule::file_messages::FileMessage;
use crate::schedule::prefetch::{Brought, MAX_COMING, Prefetch};

/// How often a thread looks again while tasks wait.
const LOOK_INTERVAL: Duration = Duration::from_millis(10);

/// A thread that brings files ahead notices within this time that their task has all of them.
const MAX_SETTLING: Duration = Duration::from_secs(1);

/// What waits to be brought ahead.
#[derive(Default)]
pub(in crate::runtime::rank) struct Prefetcher {
    is_on: AtomicBool,
    state: Mutex<PrefetchState>,
    /// How many tasks that have begun need each of these files now.
    needed: Mutex<HashMap<String, u32>>,
    changed: Condvar,
}

#[derive(Default)]
struct PrefetchState {
    core: Prefetch,
    flags: HashMap<TaskId, Arc<AheadFlags>>,
    is_closed: bool,
}

impl Prefetcher {
    fn state(&self) -> MutexGuard<'_, PrefetchState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// True if files are brought ahead at all.
    #[inline]
    pub(in crate::runtime::rank) fn is_on(&self) -> bool {
        self.is_on.load(Relaxed)
    }

    /// The bytes that came for a task that has begun and has its files. What was on its way for it
    /// then has just ended, too.
    pub(super) fn bytes_of(&self, task: TaskId) -> u64 {
        if !self.is_on() {
            return 0;
        }
        let end = Instant::now() + MAX_SETTLING;
        let mut state = self.state();
        loop {
            match state.core.take_bytes(task) {
                Some(bytes) => return bytes,
                None if state.is_closed || Instant::now() >= end => return 0,
                None => {
                    state = self.changed.wait_timeout(state, LOOK_INTERVAL).unwrap_or_else(PoisonError::into_inner).0;
                }
            }
        }
    }

    /// A task that has begun needs a file, or has it now.
    pub(super) fn needs(&self, name: &str, is_needed: bool) {
        if !self.is_on() {
            return;
        }
        let mut needed = self.needed.lock().unwrap_or_else(PoisonError::into_inner);
        match (is_needed, needed.get_mut(name)) {
            (true, Some(tasks)) => *tasks += 1,
            (true, None) => _ = needed.insert(name.to_owned(), 1),
            (false, Some(tasks)) if *tasks > 1 => *tasks -= 1,
            (false, _) => _ = needed.remove(name),
        }
    }

    /// True if a task that has begun needs what comes ahead.
    pub(super) fn is_needed(&self, file: &Mutex<String>) -> bool {
        let needed = self.needed.lock().unwrap_or_else(PoisonError::into_inner);
        needed.contains_key(&*file.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// The run is over: nothing more is brought.
    pub(super) fn close(&self) {
        let mut state = self.state();
        state.is_closed = true;
        state.flags.values().for_each(|flags| flags.is_given_up.store(true, Relaxed));
        drop(state);
        self.changed.notify_all();
    }

    /// Waits for a task whose files are to be brought; `None` when the run is over.
    fn next(&self, clock: &Clock) -> Option<(TaskId, Arc<AheadFlags>)> {
        let mut state = self.state();
        loop {
            if state.is_closed {
                return None;
            }
            if let Some(task) = state.core.next(clock.now()) {
                let flags = Arc::<AheadFlags>::default();
                state.flags.insert(task, Arc::clone(&flags));
                return Some((task, flags));
            }
            state = match state.core.has_waiting() {
                true => self.changed.wait_timeout(state, LOOK_INTERVAL).unwrap_or_else(PoisonError::into_inner).0,
                false => self.changed.wait(state).unwrap_or_else(PoisonError::into_inner),
            };
        }
    }
}

impl FileLink {
    /// From now on files are brought ahead.
    pub(in crate::runtime::rank) fn prefetch(self: &Arc<Self>, runner: &Arc<Runner>, clock: &Clock) {
        for _ in 0..MAX_COMING {
            let (link, runner, clock) = (Arc::clone(self), Arc::downgrade(runner), *clock);
            let thread = std::thread::Builder::new().name("prefetch".into());
            match thread.spawn(move || link.bring_ahead(&runner, &clock)) {
                Ok(_) => self.prefetcher.is_on.store(true, Relaxed),
                Err(error) => tracing::warn!("no files are brought ahead: the system refuses a thread: {error}"),
            }
        }
    }

    fn bring_ahead(&self, runner: &Weak<Runner>, clock: &Clock) {
        while let Some((task, flags)) = self.prefetcher.next(clock) {
            let (files, bytes) = runner.upgrade().map_or((0, 0), |runner| runner.bring_ahead(task, &flags));
            let mut state = self.prefetcher.state();
            state.flags.remove(&task);
            state.core.ended(task, Brought { files, bytes });
            self.report_ahead(state);
            self.prefetcher.changed.notify_all();
        }
    }

    fn report_ahead(&self, mut state: MutexGuard<'_, PrefetchState>) {
        let counts = state.core.take_counts();
        drop(state);
        if counts != Default::default() {
            self.post_about(Rank::ZERO, 0, FileMessage::CameAhead { counts });
        }
    }

    /// Tasks wait for a slot here, each with its urgency.
    pub(in crate::runtime::rank) fn queued(&self, clock: &Clock, tasks: impl Iterator<Item = (TaskId, u8)>) {
        let (mut state, now) = (self.prefetcher.state(), clock.now());
        tasks.for_each(|(task, urgency)| state.core.queued(now, task, urgency));
        drop(state);
        self.prefetcher.changed.notify_all();
    }

    /// Tasks that waited here go elsewhere, or never run.
    pub(in crate::runtime::rank) fn left(&self, tasks: impl Iterator<Item = TaskId>) {
        if !self.prefetcher.is_on() {
            return;
        }
        let mut state = self.prefetcher.state();
        for task in tasks {
            if state.core.left(task) {
                state.flags.get(&task).into_iter().for_each(|flags| flags.is_given_up.store(true, Relaxed));
            }
        }
        self.report_ahead(state);
    }

    /// A task begins.
    pub(super) fn task_begins(&self, task: TaskId) {
        if !self.prefetcher.is_on() {
            return;
        }
        let mut state = self.prefetcher.state();
        if state.core.started(task) {
            state.flags.get(&task).into_iter().for_each(|flags| flags.is_awaited.store(true, Relaxed));
        }
        self.report_ahead(state);
        self.changed.notify_all();
    }
}
