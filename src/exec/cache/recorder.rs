//! Records what a task prints and measures, for its result in the store.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};

use crate::exec::output::OutputSink;
use crate::model::{CacheUse, Outcome, StageUse, Stream, TaskId, Usage, UsedFile};
use crate::store::Printed;

/// Maximum number of bytes of a task's output that are kept: a task that prints more is run again.
pub(super) const MAX_PRINTED: usize = 4 << 20;

/// What a task printed and measured.
#[derive(Debug, Default)]
pub(in crate::exec) struct Recorded {
    /// In order; pieces of one stream that follow each other are one.
    pub(super) printed: Vec<Printed>,
    pub(super) measures: Vec<(String, f64)>,
    bytes: usize,
}

impl Recorded {
    /// True if it printed more than is kept.
    pub(super) fn is_too_long(&self) -> bool {
        self.bytes > MAX_PRINTED
    }

    fn append(&mut self, is_err: bool, bytes: &[u8]) {
        self.bytes = self.bytes.saturating_add(bytes.len());
        if self.is_too_long() {
            self.printed.clear();
            return;
        }
        match self.printed.last_mut() {
            Some((stream, piece)) if *stream == is_err => piece.extend_from_slice(bytes),
            _ => self.printed.push((is_err, bytes.to_vec())),
        }
    }
}

/// A sink that passes everything on, and records it.
pub(in crate::exec) struct Recorder<'a> {
    sink: &'a dyn OutputSink,
    recorded: Mutex<Recorded>,
    has_added: AtomicBool,
}

impl<'a> Recorder<'a> {
    pub(in crate::exec) fn new(sink: &'a dyn OutputSink) -> Recorder<'a> {
        Recorder { sink, recorded: Mutex::default(), has_added: AtomicBool::new(false) }
    }

    /// What was recorded.
    pub(in crate::exec) fn take(&self) -> Recorded {
        std::mem::take(&mut *self.lock())
    }

    /// True if the task has added others.
    pub(in crate::exec) fn has_added(&self) -> bool {
        self.has_added.load(Relaxed)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Recorded> {
        self.recorded.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl OutputSink for Recorder<'_> {
    fn append(&self, task: TaskId, attempt: u16, stream: Stream, bytes: &[u8]) -> io::Result<()> {
        self.lock().append(stream == Stream::Err, bytes);
        self.sink.append(task, attempt, stream, bytes)
    }

    fn finish(&self, task: TaskId, attempt: u16, outcome: Outcome) -> io::Result<()> {
        self.sink.finish(task, attempt, outcome)
    }

    fn measure(&self, task: TaskId, attempt: u16, name: &str, value: f64) {
        self.lock().measures.push((name.to_owned(), value));
        self.sink.measure(task, attempt, name, value);
    }

    fn used_files(&self, task: TaskId, attempt: u16, files: &[UsedFile]) -> io::Result<()> {
        self.sink.used_files(task, attempt, files)
    }

    fn add_tasks(&self, task: TaskId, attempt: u16, tables: &str) -> Result<(), String> {
        self.has_added.store(true, Relaxed);
        self.sink.add_tasks(task, attempt, tables)
    }

    fn reason(&self, task: TaskId, attempt: u16, text: &str) {
        self.sink.reason(task, attempt, text);
    }

    fn account(&self, task: TaskId, attempt: u16, used: Usage) -> io::Result<()> {
        self.sink.account(task, attempt, used)
    }

    fn cache_used(&self, task: TaskId, attempt: u16, used: &CacheUse) -> io::Result<()> {
        self.sink.cache_used(task, attempt, used)
    }

    fn staged(&self, task: TaskId, attempt: u16, used: &StageUse) -> io::Result<()> {
        self.sink.staged(task, attempt, used)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_are_kept_in_order_and_too_much_is_not() {
        let mut recorded = Recorded::default();
        for (is_err, text) in [(false, "a"), (false, "b"), (true, "c"), (false, "d")] {
            recorded.append(is_err, text.as_bytes());
        }
        let text = |text: &str| text.as_bytes().to_vec();
        assert_eq!(recorded.printed, [(false, text("ab")), (true, text("c")), (false, text("d"))]);
        recorded.append(false, &vec![0; MAX_PRINTED]);
        assert!(recorded.is_too_long() && recorded.printed.is_empty());
    }
}
