//! What a rank sends rank 0 besides the protocol: values that its tasks wrote, tasks that they add,
//! why attempts failed, and what the rank and its node use.
//!
//! Slots and the resource monitor fill the buffer. The engine empties it at each poll and before
//! each report, so rank 0 has a task's values before it receives the task's end. While the buffer
//! is empty that costs one load of a flag.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering::AcqRel, Ordering::Acquire, Ordering::Release};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::offers::Offers;
use super::output_link::OutputSender;
use super::passed_files::PassedFiles;
use crate::exec::OutputSink;
use crate::journal::OutputWriter;
use crate::model::{CacheUse, Measure, Outcome, Reason, SlotsNow, StageUse, Stream, TaskId, Usage, UsedFile, Vitals};
use crate::schedule::file_messages::OutputPart;
use crate::schedule::protocol::Message;

/// Values or reasons in one message, at most.
const MAX_VALUES_PER_MESSAGE: usize = 256;

/// Holds telemetry until the engine sends it to rank 0.
#[derive(Default)]
pub(super) struct TelemetryBuffer {
    /// `pending` is not empty.
    has_pending: AtomicBool,
    storage_lost: AtomicBool,
    pending: Mutex<Pending>,
    /// The rank's slots, where their number changes.
    slots: Mutex<Option<SlotsNow>>,
}

#[derive(Default)]
struct Pending {
    measures: Vec<Measure>,
    reasons: Vec<Reason>,
    vitals: Option<Vitals>,
    offers: Vec<Message>,
    /// Why the run directory could not be written, until rank 0 has been notified.
    storage_error: Option<String>,
}

impl TelemetryBuffer {
    fn pending(&self) -> MutexGuard<'_, Pending> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a value that a task wrote.
    fn add_measure(&self, measure: Measure) {
        self.pending().measures.push(measure);
        self.has_pending.store(true, Release);
    }

    /// Adds the reason why an attempt failed.
    pub(super) fn add_reason(&self, reason: Reason) {
        self.pending().reasons.push(reason);
        self.has_pending.store(true, Release);
    }

    /// Adds what an attempt offers.
    pub(super) fn add_offer(&self, offer: Message) {
        self.pending().offers.push(offer);
        self.has_pending.store(true, Release);
    }

    /// Records that the run directory cannot be written. Rank 0 is notified once.
    pub(super) fn set_storage_lost(&self, error: &io::Error) {
        if !self.storage_lost.swap(true, AcqRel) {
            self.pending().storage_error = Some(error.to_string());
            self.has_pending.store(true, Release);
        }
    }

    /// True if the run directory could not be written.
    pub(super) fn is_storage_lost(&self) -> bool {
        self.storage_lost.load(Acquire)
    }

    /// Sets what the rank and its node use; replaces a sample that has not been sent yet.
    pub(super) fn set_vitals(&self, vitals: Vitals) {
        let slots = *self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        self.pending().vitals = Some(Vitals { slots, ..vitals });
        self.has_pending.store(true, Release);
    }

    /// Sets the slots that the next samples have.
    pub(super) fn set_slots(&self, slots: SlotsNow) {
        *self.slots.lock().unwrap_or_else(PoisonError::into_inner) = Some(slots);
    }

    /// Empties the buffer into messages for rank 0.
    pub(super) fn take(&self) -> Vec<Message> {
        if !self.has_pending.load(Acquire) || !self.has_pending.swap(false, Acquire) {
            return Vec::new();
        }
        let Pending { measures, reasons, vitals, offers, storage_error } = std::mem::take(&mut *self.pending());
        let lost = storage_error.map(|reason| Message::StorageLost { reason });
        let reasons = reasons.chunks(MAX_VALUES_PER_MESSAGE).map(|chunk| Message::Reasons { reasons: chunk.to_vec() });
        let measured =
            measures.chunks(MAX_VALUES_PER_MESSAGE).map(|chunk| Message::Measured { measures: chunk.to_vec() });
        let vitals = vitals.map(|vitals| Message::Vitals(Box::new(vitals)));
        lost.into_iter().chain(reasons).chain(measured).chain(vitals).chain(offers).collect()
    }
}

/// Where text of a rank's tasks goes.
pub(super) enum OutputFiles {
    /// Into files of the run directory.
    Here(Box<OutputWriter>),
    /// To rank 0, which writes it there.
    AtRankZero(Arc<OutputSender>),
}

/// Where the output of a rank's tasks goes: text into files, values into the telemetry buffer.
pub(super) struct TaskOutput {
    pub(super) files: OutputFiles,
    pub(super) telemetry: Arc<TelemetryBuffer>,
    pub(super) offers: Arc<Offers>,
    /// Learns how much staged tasks have written.
    pub(super) passed: Option<Arc<PassedFiles>>,
}

impl TaskOutput {
    fn checked(&self, result: io::Result<()>) -> io::Result<()> {
        result.inspect_err(|error| self.telemetry.set_storage_lost(error))
    }
}

impl OutputSink for TaskOutput {
    fn append(&self, task: TaskId, attempt: u16, stream: Stream, bytes: &[u8]) -> io::Result<()> {
        self.checked(match &self.files {
            OutputFiles::Here(files) => files.append(task, attempt, stream, bytes).map_err(io::Error::other),
            OutputFiles::AtRankZero(sender) => {
                sender.send_bytes((task, attempt), |bytes| OutputPart::Bytes(stream, bytes), bytes)
            }
        })
    }

    fn finish(&self, task: TaskId, attempt: u16, outcome: Outcome) -> io::Result<()> {
        self.checked(match &self.files {
            OutputFiles::Here(files) => files.finish(task, attempt, outcome).map_err(io::Error::other),
            OutputFiles::AtRankZero(sender) => sender.finish((task, attempt), outcome),
        })
    }

    fn account(&self, task: TaskId, attempt: u16, used: Usage) -> io::Result<()> {
        self.checked(match &self.files {
            OutputFiles::Here(files) => files.account(task, attempt, used).map_err(io::Error::other),
            OutputFiles::AtRankZero(sender) => sender.send((task, attempt), OutputPart::Usage(used)),
        })
    }

    fn used_files(&self, task: TaskId, attempt: u16, used: &[UsedFile]) -> io::Result<()> {
        self.checked(match &self.files {
            OutputFiles::Here(files) => files.used_files(task, attempt, used).map_err(io::Error::other),
            OutputFiles::AtRankZero(sender) => sender.send((task, attempt), OutputPart::UsedFiles(used.to_vec())),
        })
    }

    fn cache_used(&self, task: TaskId, attempt: u16, used: &CacheUse) -> io::Result<()> {
        match &self.files {
            OutputFiles::Here(files) => files.cache_used(task, attempt, used).map_err(io::Error::other),
            OutputFiles::AtRankZero(sender) => {
                sender.send((task, attempt), OutputPart::Cache(serde_json::to_string(used)?))
            }
        }
    }

    fn staged(&self, task: TaskId, attempt: u16, used: &StageUse) -> io::Result<()> {
        self.passed.iter().for_each(|passed| passed.note(task, used));
        match &self.files {
            OutputFiles::Here(files) => files.staged(task, attempt, used).map_err(io::Error::other),
            OutputFiles::AtRankZero(sender) => sender.send((task, attempt), OutputPart::Staging(*used)),
        }
    }

    fn reason(&self, task: TaskId, attempt: u16, text: &str) {
        self.telemetry.add_reason(Reason::new(task, attempt, text));
    }

    fn add_tasks(&self, task: TaskId, attempt: u16, tables: &str) -> Result<(), String> {
        self.offers.offer(task, attempt, tables)
    }

    fn measure(&self, task: TaskId, attempt: u16, name: &str, value: f64) {
        self.telemetry.add_measure(Measure { task, attempt, name: name.to_owned(), value });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_put_in_comes_out_once() {
        let telemetry = TelemetryBuffer::default();
        assert!(telemetry.take().is_empty());
        for task in 0..300 {
            telemetry.add_measure(Measure { task: TaskId(task), attempt: 1, name: "x".into(), value: 1.0 });
        }
        telemetry.set_vitals(Vitals { cpu_s: 1.0, ..Vitals::default() });
        telemetry.set_vitals(Vitals { cpu_s: 2.0, ..Vitals::default() });
        let messages = telemetry.take();
        let counts: Vec<usize> = messages
            .iter()
            .map(|message| match message {
                Message::Measured { measures } => measures.len(),
                Message::Vitals(vitals) => vitals.cpu_s as usize,
                _ => unreachable!("nothing else is put in"),
            })
            .collect();
        assert_eq!(counts, [256, 44, 2]);
        assert!(telemetry.take().is_empty());
    }
}
