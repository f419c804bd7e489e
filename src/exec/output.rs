//! Where the output of an attempt goes: to the run's sink, or to files of the task's own.
//!
//! A sink that fails must not hold up a task that is writing, so the first error is kept here and makes the attempt FAILED
//! when it is over; it is never dropped.

use std::fs::File;
use std::io::{self, Write};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::model::{Outcome, Stream, TaskId, Usage};

/// Takes what tasks print. Called from all slots at once; the chunks of one attempt come in order, from one thread for a command, from
/// whichever thread prints for a kernel.
pub trait OutputSink: Send + Sync {
    /// Appends a chunk of an attempt's output: readable by others from now on.
    fn append(&self, task: TaskId, attempt: u16, stream: Stream, bytes: &[u8]) -> io::Result<()>;
    /// The attempt has ended: nothing more comes. A sink that keeps only the output of failed tasks knows now what to keep.
    fn finish(&self, task: TaskId, attempt: u16, outcome: Outcome) -> io::Result<()>;
    /// A value that a task wrote about itself. A sink may ignore it.
    fn measure(&self, _task: TaskId, _attempt: u16, _name: &str, _value: f64) {}
    /// Why Phalanx itself made the attempt fail, in words. A sink may ignore it.
    fn reason(&self, _task: TaskId, _attempt: u16, _text: &str) {}
    /// What the processes of an attempt used; only commands have any. A sink may ignore it.
    fn account(&self, _task: TaskId, _attempt: u16, _used: Usage) -> io::Result<()> {
        Ok(())
    }
}

/// The two output streams of one attempt.
pub(super) struct Output<'a> {
    sink: &'a dyn OutputSink,
    task: TaskId,
    attempt: u16,
    /// Files of the task's own, which kernels print to; a command holds them itself.
    files: [Option<File>; 2],
    appended: AtomicBool,
    failure: Mutex<Option<io::Error>>,
}

impl<'a> Output<'a> {
    pub(super) fn new(sink: &'a dyn OutputSink, task: TaskId, attempt: u16) -> Output<'a> {
        let appended = AtomicBool::new(false);
        Output { sink, task, attempt, files: [None, None], appended, failure: Mutex::new(None) }
    }

    /// From now on, what is printed goes to these files where there is one.
    pub(super) fn redirect(&mut self, files: [Option<File>; 2]) {
        self.files = files;
    }

    /// Prints to the task's file or the sink.
    pub(super) fn print(&self, stream: Stream, bytes: &[u8]) {
        match &self.files[stream as usize] {
            Some(file) => self.note((&*file).write_all(bytes)),
            None => self.append(stream, bytes),
        }
    }

    /// Appends to the sink.
    pub(super) fn append(&self, stream: Stream, bytes: &[u8]) {
        self.appended.store(true, Ordering::Relaxed);
        self.note(self.sink.append(self.task, self.attempt, stream, bytes));
    }

    /// Tells the sink what the attempt's processes used.
    pub(super) fn account(&self, used: Usage) {
        self.note(self.sink.account(self.task, self.attempt, used));
    }

    /// Tells the sink a value that the task wrote.
    pub(super) fn measure(&self, name: &str, value: f64) {
        self.sink.measure(self.task, self.attempt, name, value);
    }

    /// Tells the user something about the attempt, in its standard error.
    pub(super) fn remark(&self, text: &str) {
        self.append(Stream::Err, format!("phalanx: {text}\n").as_bytes());
    }

    /// Tells the user why Phalanx made the attempt fail: in its standard error, and beside its end.
    pub(super) fn blame(&self, text: &str) {
        self.remark(text);
        self.reason(text);
    }

    /// Notes why Phalanx made the attempt fail.
    pub(super) fn reason(&self, text: &str) {
        self.sink.reason(self.task, self.attempt, text);
    }

    /// True if anything was handed to the sink or could not be written.
    pub(super) fn used(&self) -> bool {
        self.appended.load(Ordering::Relaxed) || self.lock().is_some()
    }

    /// Tells the sink how the attempt ended.
    pub(super) fn finish(&self, outcome: Outcome) {
        self.note(self.sink.finish(self.task, self.attempt, outcome));
    }

    /// The first error met, if any.
    pub(super) fn failure(&self) -> Option<io::Error> {
        self.lock().take()
    }

    fn note(&self, result: io::Result<()>) {
        if let Err(e) = result {
            self.lock().get_or_insert(e);
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<io::Error>> {
        self.failure.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}
