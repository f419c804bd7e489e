//! A background thread that writes the journal, so that no disk delays rank 0.
//!
//! Appending a record takes microseconds, but milliseconds when the system writes back earlier
//! ones, and sometimes seconds on a cluster's file system. Meanwhile rank 0 must drive its slots
//! and answer other ranks. Records therefore go through a queue, in order, to a writer thread. With
//! `flush = "always"` an append waits until its record is on disk, as the job requires. The queue
//! is bounded: an append blocks while it is full.
//!
//! The first failure is kept until the next check or the end, and nothing is written after it.
//! Results that depend on the journal (the exit code, the summary) are made after
//! [`AsyncJournal::close`]. A killed process loses the records in the queue; tasks whose end they
//! hold run again.

use std::path::PathBuf;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::error::JournalError;
use super::record::Record;
use super::writer::Journal;
use crate::job::Flush;

/// Capacity of the queue in records. The largest records are reports of a few thousand attempts.
const QUEUE_CAPACITY: usize = 1024;

/// How often the writer checks the flush rule while nothing is appended.
const FLUSH_CHECK_INTERVAL: Duration = Duration::from_millis(100);

/// How long the writer sleeps after it has emptied the queue. Appends meanwhile collect in the
/// queue and need not wake the thread one by one.
const WRITER_SLEEP: Duration = Duration::from_millis(1);

/// A request to the writer thread.
enum WriterRequest {
    Write(Box<Record>),
    /// Writes the record, syncs the file to disk and sends a reply.
    WriteNow(Box<Record>, SyncSender<()>),
}

/// Handle to the thread that writes the journal.
#[derive(Debug)]
pub struct AsyncJournal {
    orders: Option<SyncSender<WriterRequest>>,
    thread: Option<JoinHandle<()>>,
    failure: Arc<FirstFailure>,
    always: bool,
}

/// The first failure, until a caller takes it.
#[derive(Debug)]
struct FirstFailure {
    path: PathBuf,
    error: Mutex<Option<JournalError>>,
}

impl FirstFailure {
    fn note(&self, result: Result<(), JournalError>) {
        match result {
            // `Closed` only repeats that there was an earlier failure.
            Ok(()) | Err(JournalError::Closed { .. }) => {}
            Err(error) => {
                self.error.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
            }
        }
    }

    /// Records that the writer thread has panicked.
    fn note_panic(&self) {
        let source = std::io::Error::other("the writer thread has panicked");
        self.note(Err(JournalError::io("write", &self.path)(source)));
    }

    fn take(&self) -> Result<(), JournalError> {
        self.error.lock().unwrap_or_else(PoisonError::into_inner).take().map_or(Ok(()), Err)
    }
}

impl AsyncJournal {
    /// Moves the journal to a new thread.
    ///
    /// # Errors
    /// If the system cannot start a thread.
    pub fn spawn(journal: Journal) -> std::io::Result<AsyncJournal> {
        let always = journal.flush() == Flush::Always;
        let (orders, inbox) = sync_channel(QUEUE_CAPACITY);
        let failure = Arc::new(FirstFailure { path: journal.path().to_owned(), error: Mutex::new(None) });
        let noted = Arc::clone(&failure);
        let thread =
            std::thread::Builder::new().name("journal".into()).spawn(move || serve(journal, &inbox, &noted))?;
        Ok(AsyncJournal { orders: Some(orders), thread: Some(thread), failure, always })
    }

    /// Queues a record. [`check`](AsyncJournal::check) reports failures later.
    pub fn append(&self, record: Record) {
        match self.always {
            true => self.append_now(record),
            false => self.send(WriterRequest::Write(Box::new(record))),
        }
    }

    /// Appends a record and waits until it and all earlier ones are on disk, or writing has failed.
    pub fn append_now(&self, record: Record) {
        let (done, wait) = sync_channel(1);
        self.send(WriterRequest::WriteNow(Box::new(record), done));
        if wait.recv().is_err() {
            self.failure.note_panic();
        }
    }

    /// Takes the first failure, if there is one that has not been taken.
    ///
    /// # Errors
    /// The first failure.
    pub fn check(&self) -> Result<(), JournalError> {
        self.failure.take()
    }

    /// Waits until everything is written, and on disk if the flush rule wants that.
    ///
    /// # Errors
    /// The first failure, unless it has been taken.
    pub fn close(mut self) -> Result<(), JournalError> {
        self.finish();
        self.check()
    }

    fn send(&self, order: WriterRequest) {
        if let Some(orders) = &self.orders
            && orders.send(order).is_err()
        {
            self.failure.note_panic();
        }
    }

    fn finish(&mut self) {
        self.orders = None;
        if self.thread.take().is_some_and(|thread| thread.join().is_err()) {
            self.failure.note_panic();
        }
    }
}

impl Drop for AsyncJournal {
    /// Waits until all is written.
    fn drop(&mut self) {
        self.finish();
        if let Err(error) = self.check() {
            tracing::warn!("{error}");
        }
    }
}

/// The main loop of the writer thread.
fn serve(mut journal: Journal, inbox: &Receiver<WriterRequest>, failure: &FirstFailure) {
    let note = |result| failure.note(result);
    loop {
        let first = match inbox.recv_timeout(FLUSH_CHECK_INTERVAL) {
            Ok(first) => first,
            Err(RecvTimeoutError::Timeout) => {
                note(journal.tick(Instant::now()));
                continue;
            }
            Err(RecvTimeoutError::Disconnected) => return note(journal.close()),
        };
        let mut awaited = false;
        for order in std::iter::once(first).chain(inbox.try_iter()) {
            match order {
                WriterRequest::Write(record) => note(journal.append(&record)),
                WriterRequest::WriteNow(record, done) => {
                    note(journal.append(&record).and_then(|()| journal.sync()));
                    // The caller may no longer wait.
                    let _ = done.send(());
                    awaited = true;
                }
            }
        }
        if !awaited {
            std::thread::sleep(WRITER_SLEEP);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::replay::tests::{attempt, began};
    use super::*;
    use crate::journal::replay;

    #[test]
    fn records_are_written_in_order_and_before_the_writer_ends() {
        for flush in [Flush::Never, Flush::Always, Flush::Every(Duration::from_millis(1))] {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("journal");
            let writer = AsyncJournal::spawn(Journal::create(&path, flush).unwrap()).unwrap();
            writer.append(began(1));
            let all: Vec<_> = (0..3000).map(attempt).collect();
            all.iter().for_each(|&a| writer.append(Record::Attempts(vec![a])));
            writer.close().unwrap();
            assert_eq!(replay(&path).unwrap().sessions[0].attempts, all);
        }
    }

    #[test]
    fn what_was_asked_for_now_is_there_now() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("journal");
        let writer = AsyncJournal::spawn(Journal::create(&path, Flush::Never).unwrap()).unwrap();
        writer.append(began(1));
        writer.append_now(Record::Attempts(vec![attempt(1)]));
        writer.check().unwrap();
        assert_eq!(replay(&path).unwrap().sessions[0].attempts, vec![attempt(1)]);
    }

    #[test]
    fn the_first_failure_is_told_once_also_at_the_end() {
        let writer = AsyncJournal::spawn(Journal::full_disk()).unwrap();
        writer.append_now(began(1));
        let error = writer.check().unwrap_err().to_string();
        assert!(error.contains("No space left"), "{error}");
        writer.append_now(began(2));
        writer.check().unwrap();
        writer.close().unwrap();

        let writer = AsyncJournal::spawn(Journal::full_disk()).unwrap();
        writer.append(began(1));
        let error = writer.close().unwrap_err().to_string();
        assert!(error.contains("No space left"), "{error}");
    }
}
