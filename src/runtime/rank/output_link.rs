//! Output of tasks on a rank that does not see the run directory: rank 0 writes it there.
//!
//! The records leave before the rank's telemetry and the report of the attempt that they are
//! about. Slots wait while much of what they have sent is not written yet.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::io;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;

use super::file_link::FileLink;
use crate::job::KeepOutput;
use crate::journal::{OutputError, OutputWriter, RunDir};
use crate::model::{Rank, TaskId};
use crate::runtime::event_wait::EventWait;
use crate::schedule::protocol::{Message, OutputPart, OutputRecord};

/// Weight of the records that may wait to be written.
const MAX_UNWRITTEN: u64 = 4 << 20;

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
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        while state.unwritten > 0 && state.unwritten + weight > MAX_UNWRITTEN && !state.is_closed {
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
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

    /// Rank 0 has written records of this weight.
    pub(super) fn written(&self, weight: u64) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.unwritten = state.unwritten.saturating_sub(weight);
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
    pub(super) lost: Box<dyn Fn(&io::Error) + Send>,
}

/// What a rank has sent.
type Received = (Rank, Vec<OutputRecord>);

/// Rank 0's side: a thread writes what has arrived, the first record starts it.
#[derive(Default)]
pub(in crate::runtime) struct OutputReceiver {
    place: Mutex<Option<OutputPlace>>,
    writing: Mutex<Option<(Sender<Received>, JoinHandle<()>)>>,
}

impl OutputReceiver {
    pub(super) fn new(place: Option<OutputPlace>) -> OutputReceiver {
        OutputReceiver { place: Mutex::new(place), writing: Mutex::default() }
    }

    /// Takes in what a rank has sent.
    pub(super) fn receive(&self, from: Rank, records: Vec<OutputRecord>) {
        let mut writing = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        if writing.is_none() {
            let Some(place) = self.place.lock().unwrap_or_else(PoisonError::into_inner).take() else { return };
            let (sender, records) = channel();
            match std::thread::Builder::new().name("output".into()).spawn(move || place.write(&records)) {
                Ok(thread) => *writing = Some((sender, thread)),
                Err(error) => return tracing::error!("output of {from} is lost: {error}"),
            }
        }
        if let Some((sender, _)) = &*writing {
            // The thread ends only when nothing more is sent.
            let _ = sender.send((from, records));
        }
    }

    /// Waits until all is written.
    pub(in crate::runtime) fn finish(&self) {
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
        while let Ok((from, records)) = received.recv() {
            let weight = records.iter().map(OutputRecord::weight).sum();
            let written = self.write_all(&mut writers, from, records);
            if let Err(error) = written {
                (self.lost)(&io::Error::other(error));
            }
            self.files.post(from, Message::OutputWritten { weight });
        }
    }

    fn write_all(
        &self,
        writers: &mut HashMap<Rank, OutputWriter>,
        from: Rank,
        records: Vec<OutputRecord>,
    ) -> Result<(), OutputError> {
        let writer = match writers.entry(from) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(new) => new.insert(OutputWriter::create(&self.dir, self.session, from, self.keep)?),
        };
        records.into_iter().try_for_each(|OutputRecord { task, attempt, what }| match what {
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
        })
    }
}
