//! A thread that writes the journal, so that no disk holds up a rank.
//!
//! Handing a record to the system takes microseconds, until the system forces earlier ones to disk: then it takes milliseconds, on the file
//! system of a cluster sometimes seconds. Rank 0 drives its slots and answers others meanwhile. So records go into a queue, in order, and
//! the clerk writes them. With `flush = "always"` an append waits until its record is on disk, as the job asked for. The queue is bounded: who
//! is far ahead of the disk waits.
//!
//! The first trouble is told at the next append or check. A killed process loses what was in the queue, which is no more than what other
//! ranks had not reported yet: those tasks run again.

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
enum Order {
    Write(Box<Record>),
    /// Writes it, forces everything to disk and says so.
    WriteNow(Box<Record>, SyncSender<()>),
    /// Says so once everything before it has been handed to the system.
    Settle(SyncSender<()>),
}

/// See the module's text.
#[derive(Debug)]
pub struct Clerk {
    orders: Option<SyncSender<Order>>,
    thread: Option<JoinHandle<()>>,
    trouble: Arc<Mutex<Option<JournalError>>>,
    always: bool,
}

impl Clerk {
    /// Hands the journal over to a thread.
    ///
    /// # Errors
    /// If the system gives no thread.
    pub fn hire(journal: Journal) -> std::io::Result<Clerk> {
        let always = journal.flush() == Flush::Always;
        let (orders, inbox) = sync_channel(QUEUE);
        let trouble = Arc::new(Mutex::new(None));
        let told = Arc::clone(&trouble);
        let thread = std::thread::Builder::new().name("journal".into()).spawn(move || serve(journal, &inbox, &told))?;
        Ok(Clerk { orders: Some(orders), thread: Some(thread), trouble, always })
    }

    /// Has a record written.
    ///
    /// # Errors
    /// What went wrong since the last time, perhaps with an earlier record.
    pub fn append(&mut self, record: Record) -> Result<(), JournalError> {
        if self.always {
            return self.append_now(record);
        }
        self.send(Order::Write(Box::new(record)));
        self.check()
    }

    /// Has a record written and waits until it and all before it are on disk.
    ///
    /// # Errors
    /// As [`append`](Clerk::append).
    pub fn append_now(&mut self, record: Record) -> Result<(), JournalError> {
        let (done, wait) = sync_channel(1);
        self.send(Order::WriteNow(Box::new(record), done));
        // A clerk that is gone has left its trouble.
        let _ = wait.recv();
        self.check()
    }

    /// Waits until all that was appended can be read by others.
    pub fn settle(&self) {
        let (done, wait) = sync_channel(1);
        self.send(Order::Settle(done));
        // A clerk that is gone has left its trouble.
        let _ = wait.recv();
    }

    /// Hears whether anything went wrong since the last time.
    ///
    /// # Errors
    /// The first trouble.
    pub fn check(&mut self) -> Result<(), JournalError> {
        self.trouble.lock().unwrap_or_else(PoisonError::into_inner).take().map_or(Ok(()), Err)
    }

    fn send(&self, order: Order) {
        if let Some(orders) = &self.orders {
            // Fails only if the clerk has panicked; then `wait` and the drop see to it.
            let _ = orders.send(order);
        }
    }
}

impl Drop for Clerk {
    /// Waits until all is written.
    fn drop(&mut self) {
        self.orders = None;
        if self.thread.take().is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("the thread that writes the journal has panicked");
        }
        if let Err(error) = self.check() {
            tracing::warn!("{error}");
        }
    }
}

/// The clerk's life.
fn serve(mut journal: Journal, inbox: &Receiver<Order>, trouble: &Mutex<Option<JournalError>>) {
    let note = |result: Result<(), JournalError>| {
        if let Err(error) = result {
            let _ = trouble.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
        }
    };
    loop {
        let first = match inbox.recv_timeout(TICK) {
            Ok(first) => first,
            Err(RecvTimeoutError::Timeout) => {
                note(journal.tick(Instant::now()));
                continue;
            }
            Err(RecvTimeoutError::Disconnected) => return,
        };
        let mut awaited = false;
        for order in std::iter::once(first).chain(inbox.try_iter()) {
            match order {
                Order::Write(record) => note(journal.append(&record)),
                Order::WriteNow(record, done) => {
                    note(journal.append(&record).and_then(|()| journal.sync()));
                    // Who asked may have given up.
                    let _ = done.send(());
                    awaited = true;
                }
                Order::Settle(done) => {
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
            let mut clerk = Clerk::hire(Journal::create(&path, flush).unwrap()).unwrap();
            clerk.append(began(1)).unwrap();
            let all: Vec<_> = (0..3000).map(attempt).collect();
            all.iter().for_each(|&a| clerk.append(Record::Attempts(vec![a])).unwrap());
            drop(clerk);
            assert_eq!(replay(&path).unwrap().sessions[0].attempts, all);
        }
    }

    #[test]
    fn what_was_asked_for_now_is_there_now() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("journal");
        let mut clerk = Clerk::hire(Journal::create(&path, Flush::Never).unwrap()).unwrap();
        clerk.append(began(1)).unwrap();
        clerk.append_now(Record::Attempts(vec![attempt(1)])).unwrap();
        assert_eq!(replay(&path).unwrap().sessions[0].attempts, vec![attempt(1)]);
    }

    #[test]
    fn trouble_is_told_once() {
        let mut clerk = Clerk::hire(Journal::full_disk()).unwrap();
        let error = clerk.append_now(began(1)).unwrap_err().to_string();
        assert!(error.contains("No space left"), "{error}");
        clerk.check().unwrap();
    }
}
