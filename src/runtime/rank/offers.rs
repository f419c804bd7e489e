//! Tasks that running attempts offer to add: the slot of the attempt waits for rank 0's answer, as
//! a refusal fails the attempt.

use std::collections::HashMap;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use super::telemetry::TelemetryBuffer;
use crate::model::TaskId;
use crate::runtime::event_wait::EventWait;
use crate::schedule::protocol::Message;

/// Offers that wait for their answers.
pub(in crate::runtime) struct Offers {
    telemetry: Arc<TelemetryBuffer>,
    event_wait: Arc<EventWait>,
    state: Mutex<OfferState>,
    answered: Condvar,
}

#[derive(Default)]
struct OfferState {
    answers: HashMap<(TaskId, u16), Result<(), String>>,
    /// No answer will come any more.
    is_closed: bool,
}

impl Offers {
    pub(super) fn new(telemetry: Arc<TelemetryBuffer>, event_wait: Arc<EventWait>) -> Offers {
        Offers { telemetry, event_wait, state: Mutex::default(), answered: Condvar::new() }
    }

    fn state(&self) -> MutexGuard<'_, OfferState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Offers tasks to rank 0 and waits for its answer.
    ///
    /// # Errors
    /// Why they are refused.
    pub(super) fn offer(&self, task: TaskId, attempt: u16, tables: &str) -> Result<(), String> {
        self.telemetry.add_offer(Message::Offer { task, attempt, text: tables.to_owned() });
        self.event_wait.notify();
        let mut state = self.state();
        loop {
            if let Some(answer) = state.answers.remove(&(task, attempt)) {
                return answer;
            }
            if state.is_closed {
                return Err("the run is over".into());
            }
            state = self.answered.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Rank 0 has answered.
    pub(super) fn answer(&self, task: TaskId, attempt: u16, refusal: Option<String>) {
        self.state().answers.insert((task, attempt), refusal.map_or(Ok(()), Err));
        self.answered.notify_all();
    }

    /// No answer will come any more.
    pub(in crate::runtime) fn close(&self) {
        self.state().is_closed = true;
        self.answered.notify_all();
    }
}
