//! Output of tasks on a rank that does not see the run directory: rank 0 writes it there.
//!
//! The records leave before the rank's telemetry and the report of the attempt that they are
//! about. Slots wait a moment while much of what they have sent is not written yet, and at the end
//! of an attempt until all of its output is, or cannot be.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::io;
use std::sync::mpsc::{Receiver, SendError, Sender, channel};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::file_link::FileLink;
use crate::job::KeepOutput;
use crate::journal::{OutputError, OutputWriter, RunDir};
use crate::model::{Outcome, Rank, TaskId};
use crate::runtime::event_wait::EventWait;
use crate::schedule::file_messages::{OutputPart, OutputRecord};
use crate::schedule::protocol::Message;

/// Weight of the records that may wait to be written.
const MAX_UNWRITTEN: u64 = 4 << 20;

/// A slot waits no longer with a record while too much is not written yet, so that it sees in time
/// that its attempt is to end.
const MAX_SEND_WAIT: Duration = Duration::from_millis(500);

/// Bytes of output in one record, at most.
const MAX_RECORD_BYTES: usize = 256 << 10;

/// Weight from which on further records go into another message.
const MIN_MESSAGE_WEIGHT: u64 = 256 << 10;

/// The side of the rank that does not see the run directory.
pub(super) struct OutputSender {
    event_wait: Arc<EventWait>,
    state: Mutex<SenderState>,
    changed: Condvar,
}

#[derive(Default)]
struct SenderState {
    /// Records that the engine is to send.
    records: Vec<OutputRecord>,
    /// Weight of what has not been written yet.
    unwritten: u64,
    /// What rank 0 says about attempts whose end it has processed.
    ended: HashMap<(TaskId, u16), Result<(), String>>,
    /// Nobody waits any more.
    is_hurried: bool,
    is_closed: bool,
}

impl OutputSender {
    pub(super) fn new(event_wait: Arc<EventWait>) -> OutputSender {
        OutputSender { event_wait, state: Mutex::default(), changed: Condvar::new() }
    }

    /// Sends output of an attempt.
    pub(super) fn send_bytes(
        &self,
        (task, attempt): (TaskId, u16),
        part: impl Fn(Vec<u8>) -> OutputPart,
        bytes: &[u8],
    ) -> io::Result<()> {
        bytes.chunks(MAX_RECORD_BYTES).try_for_each(|bytes| self.send((task, attempt), part(bytes.to_vec())))
    }

    /// Sends a record.
    ///
    /// # Errors
    /// If the run is over.
    pub(super) fn send(&self, (task, attempt): (TaskId, u16), what: OutputPart) -> io::Result<()> {
        let record = OutputRecord { task, attempt, what };
        let weight = record.weight();
        let until = Instant::now() + MAX_SEND_WAIT;
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        while state.unwritten > 0
            && state.unwritten + weight > MAX_UNWRITTEN
            && !(state.is_closed || state.is_hurried)
            && Instant::now() < until
        {
            state = self.changed.wait_timeout(state, MAX_SEND_WAIT).unwrap_or_else(PoisonError::into_inner).0;
        }
        if state.is_closed {
            return Err(io::Error::other("the run is over"));
        }
        state.unwritten += weight;
        state.records.push(record);
        drop(state);
        self.event_wait.notify();
        Ok(())
    }

    /// Sends the end of an attempt, and waits until its output is written.
    ///
    /// # Errors
    /// If some of it could not be written, and if the run is over.
    pub(super) fn finish(&self, attempt: (TaskId, u16), outcome: Outcome) -> io::Result<()> {
        self.send(attempt, OutputPart::End(outcome))?;
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            match state.ended.remove(&attempt) {
                Some(written) => return written.map_err(io::Error::other),
                None if state.is_hurried => return Ok(()),
                None if state.is_closed => return Err(io::Error::other("the run is over")),
                None => state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner),
            }
        }
    }

    /// All attempts are to end at once: nobody waits any more.
    pub(super) fn hurry(&self) {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).is_hurried = true;
        self.changed.notify_all();
    }

    /// Messages with what the engine is to send, in order, of bounded size.
    pub(super) fn take(&self) -> Vec<Message> {
        let records = std::mem::take(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner).records);
        let (mut messages, mut batch, mut weight) = (Vec::new(), Vec::new(), 0);
        for record in records {
            weight += record.weight();
            batch.push(record);
            if weight >= MIN_MESSAGE_WEIGHT {
                messages.push(Message::Output { records: std::mem::take(&mut batch) });
                weight = 0;
            }
        }
        if !batch.is_empty() {
            messages.push(Message::Output { records: batch });
        }
        messages
    }

    /// Rank 0 has processed records of this weight, among them the ends of these attempts.
    pub(super) fn written(&self, weight: u64, ended: Vec<(TaskId, u16, Result<(), String>)>) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.unwritten = state.unwritten.saturating_sub(weight);
        if !state.is_hurried {
            state.ended.extend(ended.into_iter().map(|(task, attempt, written)| ((task, attempt), written)));
        }
        drop(state);
        self.changed.notify_all();
    }

    /// Nothing is written any more.
    pub(super) fn close(&self) {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).is_closed = true;
        self.changed.notify_all();
    }
}

/// Where rank 0 writes, and how it says so.
pub(super) struct OutputPlace {
    pub(super) dir: RunDir,
    pub(super) session: u32,
    pub(super) keep: KeepOutput,
    pub(super) files: Arc<FileLink>,
    /// Called when the run directory cannot be written.
    pub(super) lost: Box<dyn Fn(&io::Error) + Send + Sync>,
}

/// What a rank has sent.
type Received = (Rank, Vec<OutputRecord>);

/// Rank 0's side: a thread writes what has arrived, the first record starts it.
#[derive(Default)]
pub(in crate::runtime) struct OutputReceiver {
    place: Mutex<Option<Arc<OutputPlace>>>,
    writing: Mutex<Option<(Sender<Received>, JoinHandle<()>)>>,
}

impl OutputReceiver {
    pub(super) fn new(place: Option<OutputPlace>) -> OutputReceiver {
        OutputReceiver { place: Mutex::new(place.map(Arc::new)), writing: Mutex::default() }
    }

    /// Takes in what a rank has sent.
    pub(super) fn receive(&self, from: Rank, records: Vec<OutputRecord>) {
        let Some(place) = self.place.lock().unwrap_or_else(PoisonError::into_inner).clone() else { return };
        let mut writing = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        if writing.is_none() {
            let ((sender, received), at) = (channel(), Arc::clone(&place));
            match std::thread::Builder::new().name("output".into()).spawn(move || at.write(&received)) {
                Ok(thread) => *writing = Some((sender, thread)),
                Err(error) => return place.refuse(from, records, &error),
            }
        }
        if let Some((sender, _)) = &*writing
            && let Err(SendError((from, records))) = sender.send((from, records))
        {
            place.refuse(from, records, &io::Error::other("the thread that writes it has failed"));
        }
    }

    /// Waits until all is written.
    pub(in crate::runtime) fn finish(&self) {
        *self.place.lock().unwrap_or_else(PoisonError::into_inner) = None;
        let writing = self.writing.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some((sender, thread)) = writing {
            drop(sender);
            // A panic has been reported by the thread.
            let _ = thread.join();
        }
    }
}

impl OutputPlace {
    fn write(&self, received: &Receiver<Received>) {
        let mut writers: HashMap<Rank, OutputWriter> = HashMap::new();
        // Attempts of whose output something is missing, with why.
        let mut failed: HashMap<(Rank, TaskId, u16), String> = HashMap::new();
        while let Ok((from, records)) = received.recv() {
            self.process(from, records, |record| {
                let (attempt, is_end) =
                    ((from, record.task, record.attempt), matches!(record.what, OutputPart::End(_)));
                if let Err(error) = self.write_record(&mut writers, from, record) {
                    failed.entry(attempt).or_insert_with(|| error.to_string());
                    (self.lost)(&io::Error::other(error));
                }
                if is_end { failed.remove(&attempt).map_or(Ok(()), Err) } else { Ok(()) }
            });
        }
    }

    /// Output that no thread writes.
    fn refuse(&self, from: Rank, records: Vec<OutputRecord>, error: &io::Error) {
        (self.lost)(error);
        self.process(from, records, |_| Err(error.to_string()));
    }

    /// Processes records, and answers how the attempts fared whose end is among them.
    fn process(
        &self,
        from: Rank,
        records: Vec<OutputRecord>,
        mut process: impl FnMut(OutputRecord) -> Result<(), String>,
    ) {
        let (weight, mut ended) = (records.iter().map(OutputRecord::weight).sum(), Vec::new());
        for record in records {
            let (task, attempt, is_end) = (record.task, record.attempt, matches!(record.what, OutputPart::End(_)));
            let written = process(record);
            if is_end {
                ended.push((task, attempt, written));
            }
        }
        self.files.post(from, Message::OutputWritten { weight, ended });
    }

    fn write_record(
        &self,
        writers: &mut HashMap<Rank, OutputWriter>,
        from: Rank,
        OutputRecord { task, attempt, what }: OutputRecord,
    ) -> Result<(), OutputError> {
        let writer = match writers.entry(from) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(new) => new.insert(OutputWriter::create(&self.dir, self.session, from, self.keep)?),
        };
        match what {
            OutputPart::Bytes(stream, bytes) => writer.append(task, attempt, stream, &bytes),
            OutputPart::End(outcome) => writer.finish(task, attempt, outcome),
            OutputPart::Usage(used) => writer.account(task, attempt, used),
            OutputPart::UsedFiles(files) => writer.used_files(task, attempt, &files),
            OutputPart::Staging(used) => writer.staged(task, attempt, &used),
            OutputPart::Cache(text) => match serde_json::from_str(&text) {
                Ok(used) => writer.cache_used(task, attempt, &used),
                // It is only for observers.
                Err(_) => Ok(()),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Stream;
    use crate::runtime::rank::piece_queue::PieceQueue;

    fn event_wait() -> Arc<EventWait> {
        Arc::new(EventWait::new().unwrap())
    }

    /// Calls `finish` in a thread and waits until the end of the attempt is sent.
    fn finishing(sender: &Arc<OutputSender>) -> std::thread::JoinHandle<io::Result<()>> {
        let at = Arc::clone(sender);
        let thread = std::thread::spawn(move || at.finish((TaskId(7), 1), Outcome::OK));
        while sender.take().is_empty() {
            std::thread::yield_now();
        }
        thread
    }

    #[test]
    fn the_end_of_an_attempt_waits_for_what_rank_0_says_of_its_output() {
        let sender = Arc::new(OutputSender::new(event_wait()));
        let refused = finishing(&sender);
        sender.written(64, vec![(TaskId(7), 2, Ok(())), (TaskId(7), 1, Err("disk full".into()))]);
        assert_eq!(refused.join().unwrap().unwrap_err().to_string(), "disk full");
        let written = finishing(&sender);
        sender.written(64, vec![(TaskId(7), 1, Ok(()))]);
        written.join().unwrap().unwrap();
        let over = finishing(&sender);
        sender.close();
        over.join().unwrap().unwrap_err();
    }

    #[test]
    fn nobody_waits_once_all_are_to_end_at_once() {
        let sender = Arc::new(OutputSender::new(event_wait()));
        let thread = finishing(&sender);
        sender.hurry();
        thread.join().unwrap().unwrap();
        let bytes = vec![0; 3 * MAX_UNWRITTEN as usize];
        sender.send_bytes((TaskId(7), 1), |bytes| OutputPart::Bytes(Stream::Out, bytes), &bytes).unwrap();
    }

    #[test]
    fn an_attempt_is_told_what_could_not_be_written() {
        let tmp = tempfile::tempdir().unwrap();
        let dir = RunDir::create_at(&tmp.path().join("run")).unwrap();
        std::fs::remove_dir_all(dir.path()).unwrap();
        std::fs::write(dir.path(), "no directory").unwrap();
        let files = Arc::new(FileLink::new(Rank(0), "n".into(), false, event_wait(), Arc::<PieceQueue>::default()));
        let place =
            OutputPlace { dir, session: 1, keep: KeepOutput::All, files: Arc::clone(&files), lost: Box::new(|_| ()) };
        let receiver = OutputReceiver::new(Some(place));
        let record = |what| OutputRecord { task: TaskId(7), attempt: 1, what };
        receiver.receive(Rank(3), vec![record(OutputPart::Bytes(Stream::Out, vec![1]))]);
        receiver.receive(Rank(3), vec![record(OutputPart::End(Outcome::OK))]);
        receiver.finish();
        let messages = files.take_messages();
        assert!(matches!(&messages[0], (Rank(3), Message::OutputWritten { ended, .. }) if ended.is_empty()));
        let Message::OutputWritten { ended, .. } = &messages[1].1 else { panic!("{messages:?}") };
        assert!(matches!(&ended[..], [(TaskId(7), 1, Err(_))]), "{ended:?}");
    }
}
