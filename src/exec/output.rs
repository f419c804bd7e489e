//! Routes the output of an attempt to the run's sink or to the task's own files.
//!
//! A failing sink must not block a task that is writing. The first error is therefore kept and
//! fails the attempt when it ends; it is never dropped.

use std::fs::File;
use std::io::{self, Write};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::model::{CacheUse, Outcome, StageUse, State, Stream, TaskId, Usage, UsedFile};

/// Receives the output of tasks. All slots call it concurrently. The chunks of one attempt arrive
/// in order: from one thread for a command, from any thread that prints for a kernel.
pub trait OutputSink: Send + Sync {
    /// Appends a chunk of an attempt's output, and makes it readable by others.
    fn append(&self, task: TaskId, attempt: u16, stream: Stream, bytes: &[u8]) -> io::Result<()>;
    /// Ends an attempt, after its last output. A sink that keeps only the output of failed tasks
    /// decides here what to keep.
    fn finish(&self, task: TaskId, attempt: u16, outcome: Outcome) -> io::Result<()>;
    /// Receives a value that a task measured. A sink may ignore it.
    fn measure(&self, _task: TaskId, _attempt: u16, _name: &str, _value: f64) {}
    /// Receives the files that a completed task has used. A sink may ignore it.
    fn used_files(&self, _task: TaskId, _attempt: u16, _files: &[UsedFile]) -> io::Result<()> {
        Ok(())
    }
    /// Receives what the result cache did for an attempt. A sink may ignore it.
    fn cache_used(&self, _task: TaskId, _attempt: u16, _used: &CacheUse) -> io::Result<()> {
        Ok(())
    }
    /// Receives what was moved for an attempt at a staged task. A sink may ignore it.
    fn staged(&self, _task: TaskId, _attempt: u16, _used: &StageUse) -> io::Result<()> {
        Ok(())
    }
    /// Receives the reason why Phalanx failed the attempt. A sink may ignore it.
    fn reason(&self, _task: TaskId, _attempt: u16, _text: &str) {}
    /// Adds tasks to the run if the attempt completes: tables as in a job file.
    ///
    /// # Errors
    /// Why they are refused.
    fn add_tasks(&self, _task: TaskId, _attempt: u16, _tables: &str) -> Result<(), String> {
        Err("nothing can be added here".into())
    }
    /// Receives the resource use of an attempt's processes; only commands have one. A sink may
    /// ignore it.
    fn account(&self, _task: TaskId, _attempt: u16, _used: Usage) -> io::Result<()> {
        Ok(())
    }
}

/// The two output streams of one attempt.
pub(super) struct Output<'a> {
    sink: &'a dyn OutputSink,
    task: TaskId,
    attempt: u16,
    /// The task's own files, for kernels; a command writes to its files itself.
    files: [Option<File>; 2],
    appended: AtomicBool,
    failure: Mutex<Option<io::Error>>,
}

impl<'a> Output<'a> {
    pub(super) fn new(sink: &'a dyn OutputSink, task: TaskId, attempt: u16) -> Output<'a> {
        let appended = AtomicBool::new(false);
        Output { sink, task, attempt, files: [None, None], appended, failure: Mutex::new(None) }
    }

    /// Redirects later output to these files, where given.
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

    /// Passes the resource use of the attempt's processes to the sink.
    pub(super) fn account(&self, used: Usage) {
        self.note(self.sink.account(self.task, self.attempt, used));
    }

    /// Passes the files that the task has used to the sink.
    pub(super) fn used_files(&self, files: &[UsedFile]) {
        self.note(self.sink.used_files(self.task, self.attempt, files));
    }

    /// Passes what the cache did to the sink. It is only for observers: an error is told, and fails
    /// nothing.
    pub(super) fn cache_used(&self, used: &CacheUse) {
        if let Err(error) = self.sink.cache_used(self.task, self.attempt, used) {
            tracing::warn!("what the cache did for a task could not be recorded: {error}");
        }
    }

    /// Passes what was moved for the attempt to the sink. It is only for observers, too.
    pub(super) fn staged(&self, used: &StageUse) {
        if let Err(error) = self.sink.staged(self.task, self.attempt, used) {
            tracing::warn!("what was moved for a task could not be recorded: {error}");
        }
    }

    /// Passes a value that the task measured to the sink.
    pub(super) fn measure(&self, name: &str, value: f64) {
        self.sink.measure(self.task, self.attempt, name, value);
    }

    /// Adds tasks to the run if the attempt, which would end so, completes. Returns how it ends.
    pub(super) fn add_tasks(&self, tables: &str, outcome: Outcome) -> Outcome {
        match self.sink.add_tasks(self.task, self.attempt, tables) {
            Ok(()) => outcome,
            Err(refusal) => {
                let text = "it succeeded, but the tasks that it adds are refused";
                let refusal = refusal.trim_end();
                self.remark(&format!("{text}\n{refusal}"));
                self.reason(&format!("{text}: {}", refusal.lines().next().unwrap_or_default()));
                Outcome { state: State::Failed, exit: 1, ..outcome }
            }
        }
    }

    /// Writes a message about the attempt to its standard error.
    pub(super) fn remark(&self, text: &str) {
        self.append(Stream::Err, format!("phalanx: {text}\n").as_bytes());
    }

    /// Reports why Phalanx failed the attempt: in its standard error, and as its reason.
    pub(super) fn report_failure(&self, text: &str) {
        self.remark(text);
        self.reason(text);
    }

    /// Records why Phalanx failed the attempt.
    pub(super) fn reason(&self, text: &str) {
        self.sink.reason(self.task, self.attempt, text);
    }

    /// True if the sink got any output or failed.
    pub(super) fn used(&self) -> bool {
        self.appended.load(Ordering::Relaxed) || self.lock().is_some()
    }

    /// Reports the outcome of the attempt to the sink.
    pub(super) fn finish(&self, outcome: Outcome) {
        self.note(self.sink.finish(self.task, self.attempt, outcome));
    }

    /// The first error of the sink, if any.
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
