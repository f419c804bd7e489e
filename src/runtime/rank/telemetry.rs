//! What a rank has for rank 0 beside what the protocol is about: values that its tasks wrote, and what it and its node use.
//!
//! Slots and a thread put it here, the engine takes it out when it looks around, and before each report, so that rank 0 has a task's values
//! when it hears of the task's end. While nothing is here that costs one load of a flag.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering::AcqRel, Ordering::Acquire, Ordering::Release};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::exec::OutputSink;
use crate::journal::OutputWriter;
use crate::model::{Measure, Outcome, Reason, Stream, TaskId, Usage, Vitals};
use crate::schedule::protocol::Message;

/// Values in one message.
const TOGETHER: usize = 256;

/// See the module's text.
#[derive(Default)]
pub(in crate::runtime) struct TelemetryBuffer {
    any: AtomicBool,
    storage_lost: AtomicBool,
    held: Mutex<Held>,
}

#[derive(Default)]
struct Held {
    measures: Vec<Measure>,
    reasons: Vec<Reason>,
    vitals: Option<Vitals>,
    /// What the system said when the run directory could not be written, until rank 0 has been
    /// told.
    lost: Option<String>,
}

impl TelemetryBuffer {
    fn held(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A task wrote a value.
    pub(in crate::runtime) fn measure(&self, measure: Measure) {
        self.held().measures.push(measure);
        self.any.store(true, Release);
    }

    /// An attempt failed for this reason.
    pub(in crate::runtime) fn reason(&self, reason: Reason) {
        self.held().reasons.push(reason);
        self.any.store(true, Release);
    }

    /// The run directory cannot be written. Rank 0 is told of it once.
    fn lose_storage(&self, error: &io::Error) {
        if !self.storage_lost.swap(true, AcqRel) {
            self.held().lost = Some(error.to_string());
            self.any.store(true, Release);
        }
    }

    /// True if the run directory could not be written.
    pub(in crate::runtime) fn is_storage_lost(&self) -> bool {
        self.storage_lost.load(Acquire)
    }

    /// So much is used; of several the latest counts.
    pub(in crate::runtime) fn vitals(&self, vitals: Vitals) {
        self.held().vitals = Some(vitals);
        self.any.store(true, Release);
    }

    /// What is to be sent to rank 0.
    pub(in crate::runtime) fn take(&self) -> Vec<Message> {
        if !self.any.load(Acquire) || !self.any.swap(false, Acquire) {
            return Vec::new();
        }
        let Held { measures, reasons, vitals, lost } = std::mem::take(&mut *self.held());
        let lost = lost.map(|reason| Message::StorageLost { reason });
        let reasons = reasons.chunks(TOGETHER).map(|chunk| Message::Reasons { reasons: chunk.to_vec() });
        let measured = measures.chunks(TOGETHER).map(|chunk| Message::Measured { measures: chunk.to_vec() });
        let vitals = vitals.map(|vitals| Message::Vitals(Box::new(vitals)));
        lost.into_iter().chain(reasons).chain(measured).chain(vitals).collect()
    }
}

/// Where the output of a rank's tasks goes: their text to files, their values to the mailbox.
pub(in crate::runtime) struct Sink {
    pub(in crate::runtime) output: OutputWriter,
    pub(in crate::runtime) mailbox: std::sync::Arc<TelemetryBuffer>,
}

impl Sink {
    fn noted(&self, result: io::Result<()>) -> io::Result<()> {
        result.inspect_err(|error| self.mailbox.lose_storage(error))
    }
}

impl OutputSink for Sink {
    fn append(&self, task: TaskId, attempt: u16, stream: Stream, bytes: &[u8]) -> io::Result<()> {
        self.noted(self.output.append(task, attempt, stream, bytes).map_err(io::Error::other))
    }

    fn finish(&self, task: TaskId, attempt: u16, outcome: Outcome) -> io::Result<()> {
        self.noted(self.output.finish(task, attempt, outcome).map_err(io::Error::other))
    }

    fn account(&self, task: TaskId, attempt: u16, used: Usage) -> io::Result<()> {
        self.noted(self.output.account(task, attempt, used).map_err(io::Error::other))
    }

    fn reason(&self, task: TaskId, attempt: u16, text: &str) {
        self.mailbox.reason(Reason::new(task, attempt, text));
    }

    fn measure(&self, task: TaskId, attempt: u16, name: &str, value: f64) {
        self.mailbox.measure(Measure { task, attempt, name: name.to_owned(), value });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_put_in_comes_out_once() {
        let mailbox = TelemetryBuffer::default();
        assert!(mailbox.take().is_empty());
        for task in 0..300 {
            mailbox.measure(Measure { task: TaskId(task), attempt: 1, name: "x".into(), value: 1.0 });
        }
        mailbox.vitals(Vitals { cpu_s: 1.0, ..Vitals::default() });
        mailbox.vitals(Vitals { cpu_s: 2.0, ..Vitals::default() });
        let messages = mailbox.take();
        let counts: Vec<usize> = messages
            .iter()
            .map(|message| match message {
                Message::Measured { measures } => measures.len(),
                Message::Vitals(vitals) => vitals.cpu_s as usize,
                _ => unreachable!("nothing else is put in"),
            })
            .collect();
        assert_eq!(counts, [256, 44, 2]);
        assert!(mailbox.take().is_empty());
    }
}
