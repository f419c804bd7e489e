//! A thread that writes the journal, so that no disk holds up a rank.
//!
//! Handing a record to the system takes microseconds, until the system forces earlier ones to disk: then it takes milliseconds, on the file
//! system of a cluster sometimes seconds. Rank 0 drives its slots and answers others meanwhile. So records go into a queue, in order, and
//! the clerk writes them. With `flush = "always"` an append waits until its record is on disk, as the job asked for. The queue is bounded: who
//! is far ahead of the disk waits.
//!
//! The first failure is kept until the next check or the end, and nothing is written after it. What
//! depends on the journal (an exit code, a summary) is made after [`Clerk::close`]. A killed
//! process loses what was in the queue, which is no more than what other ranks had not reported
//! yet: those tasks run again.

use std::path::PathBuf;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::error::JournalError;
use super::record::Record;
use super::writer::Journal;
use crate::job::Flush;

/// So many records wait at most. The largest are reports of a few thousand attempts.
const QUEUE: usize = 1024;

/// How often the clerk looks at the flush rule while nothing is appended.
const TICK: Duration = Duration::from_millis(100);

/// How long the clerk rests after it has written all there was: who appends then finds it awake, or leaves more for it to write at once, and has not
/// to wake it for every record.
const REST: Duration = Duration::from_millis(1);

/// What the clerk is asked to do.
enum WriterRequest {
    Write(Box<Record>),
    /// Writes it, forces everything to disk and says so.
    WriteNow(Box<Record>, SyncSender<()>),
}

/// See the module's text.
#[derive(Debug)]
pub struct AsyncJournal {
    orders: Option<SyncSender<WriterRequest>>,
    thread: Option<JoinHandle<()>>,
    failure: Arc<FirstFailure>,
    always: bool,
}

/// The first thing that went wrong, until somebody takes it.
#[derive(Debug)]
struct FirstFailure {
    path: PathBuf,
    error: Mutex<Option<JournalError>>,
}

impl FirstFailure {
    fn note(&self, result: Result<(), JournalError>) {
        match result {
            // It only repeats that there was a failure.
            Ok(()) | Err(JournalError::Closed { .. }) => {}
            Err(error) => {
                self.error.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
            }
        }
    }

    /// The thread that writes has panicked.
    fn note_panic(&self) {
        let source = std::io::Error::other("the thread that writes it has panicked");
        self.note(Err(JournalError::io("write", &self.path)(source)));
    }

    fn take(&self) -> Result<(), JournalError> {
        self.error.lock().unwrap_or_else(PoisonError::into_inner).take().map_or(Ok(()), Err)
    }
}

impl AsyncJournal {
    /// Hands the journal over to a thread.
    ///
    /// # Errors
    /// If the system gives no thread.
    pub fn spawn(journal: Journal) -> std::io::Result<AsyncJournal> {
        let always = journal.flush() == Flush::Always;
        let (orders, inbox) = sync_channel(QUEUE);
        let failure = Arc::new(FirstFailure { path: journal.path().to_owned(), error: Mutex::new(None) });
        let noted = Arc::clone(&failure);
        let thread =
            std::thread::Builder::new().name("journal".into()).spawn(move || serve(journal, &inbox, &noted))?;
        Ok(AsyncJournal { orders: Some(orders), thread: Some(thread), failure, always })
    }

    /// Appends a record. Whether that fails is known to [`check`](Clerk::check), later.
    pub fn append(&self, record: Record) {
        match self.always {
            true => self.append_now(record),
            false => self.send(WriterRequest::Write(Box::new(record))),
        }
    }

    /// Appends a record and waits until it and all before it are on disk, or it is known that they
    /// will not be.
    pub fn append_now(&self, record: Record) {
        let (done, wait) = sync_channel(1);
        self.send(WriterRequest::WriteNow(Box::new(record), done));
        if wait.recv().is_err() {
            self.failure.note_panic();
        }
    }

    /// Takes the failure, if there was one that nobody has taken.
    ///
    /// # Errors
    /// The first failure.
    pub fn check(&self) -> Result<(), JournalError> {
        self.failure.take()
    }

    /// Waits until everything is written, and on disk if the flush rule wants that.
    ///
    /// # Errors
    /// The first failure, if nobody has taken it.
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

/// The clerk's life.
fn serve(mut journal: Journal, inbox: &Receiver<WriterRequest>, failure: &FirstFailure) {
    let note = |result| failure.note(result);
    loop {
        let first = match inbox.recv_timeout(TICK) {
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
                    // Who asked may have given up.
                    let _ = done.send(());
                    awaited = true;
                }
            }
        }
        if !awaited {
            std::thread::sleep(REST);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::replay::tests::{attempt, began};
    use super::*;
    use crate::journal::replay;

    #[test]
    fn records_are_written_in_order_and_before_the_clerk_goes() {
        for flush in [Flush::Never, Flush::Always, Flush::Every(Duration::from_millis(1))] {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("journal");
            let clerk = AsyncJournal::spawn(Journal::create(&path, flush).unwrap()).unwrap();
            clerk.append(began(1));
            let all: Vec<_> = (0..3000).map(attempt).collect();
            all.iter().for_each(|&a| clerk.append(Record::Attempts(vec![a])));
            clerk.close().unwrap();
            assert_eq!(replay(&path).unwrap().sessions[0].attempts, all);
        }
    }

    #[test]
    fn what_was_asked_for_now_is_there_now() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("journal");
        let clerk = AsyncJournal::spawn(Journal::create(&path, Flush::Never).unwrap()).unwrap();
        clerk.append(began(1));
        clerk.append_now(Record::Attempts(vec![attempt(1)]));
        clerk.check().unwrap();
        assert_eq!(replay(&path).unwrap().sessions[0].attempts, vec![attempt(1)]);
    }

    #[test]
    fn the_first_failure_is_told_once_also_at_the_end() {
        let clerk = AsyncJournal::spawn(Journal::full_disk()).unwrap();
        clerk.append_now(began(1));
        let error = clerk.check().unwrap_err().to_string();
        assert!(error.contains("No space left"), "{error}");
        clerk.append_now(began(2));
        clerk.check().unwrap();
        clerk.close().unwrap();

        let clerk = AsyncJournal::spawn(Journal::full_disk()).unwrap();
        clerk.append(began(1));
        let error = clerk.close().unwrap_err().to_string();
        assert!(error.contains("No space left"), "{error}");
    }
}
