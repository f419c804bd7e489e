//! Frames and messages: received, delivered to the state machines, and sent.

use super::{Engine, MAX_FRAMES_PER_POLL, MAX_LOOPBACK_MESSAGES, MAX_PIECES_PER_POLL};
use crate::fabric::wire::PieceStream;
use crate::fabric::{FabricError, wire};
use crate::model::Rank;
use crate::schedule::protocol::Message;
use crate::schedule::worker::WorkerEvent;

impl Engine {
    /// Receives a frame into `received` and returns its sender.
    pub(super) fn receive_frame(&mut self) -> Option<Rank> {
        let received = self.fabric.receive(&mut self.received);
        self.has_more = matches!(received, Ok(Some(_)));
        received.unwrap_or_else(|error| {
            match error {
                FabricError::Gone(Rank::ZERO) if self.fabric.me() != Rank::ZERO => self.lose_coordinator(),
                _ => self.fail(error.to_string()),
            }
            None
        })
    }

    pub(super) fn receive_frames(&mut self) -> bool {
        for taken in 0..MAX_FRAMES_PER_POLL {
            let Some(from) = self.receive_frame() else { return taken > 0 };
            self.process_frame(from);
        }
        true
    }

    /// Delivers the received frame.
    pub(super) fn process_frame(&mut self, from: Rank) {
        if let Some(piece) = wire::piece(&self.received) {
            return match piece.stream {
                PieceStream::Gang(gang) => self.shared.receive_piece(from, gang, piece),
                PieceStream::Files(transfer) => self.shared.files.receive(from, transfer, piece),
            };
        }
        match wire::decode(&self.received) {
            Ok(message) => {
                if let Message::StealReply { leases, .. } = &message {
                    self.stolen += leases.len() as u64;
                }
                self.deliver(from, message);
                self.run_loopback();
            }
            // All ranks of a run must be the same program: the sender is another build of it.
            Err(error) => self.fail(format!("a message from {from} cannot be read: {error}")),
        }
    }

    fn deliver(&mut self, from: Rank, message: Message) {
        if let Message::RankLost { rank } = &message {
            // Of two ranks that lost each other the first is believed.
            if self.coordinator.is_none() || self.expelled.contains(&from) {
                return;
            }
            self.expel(*rank);
        }
        if message.is_for_coordinator() {
            if let Some(coordinator) = &mut self.coordinator {
                let messages = coordinator.on_message(self.shared.clock.now(), from, message);
                self.send_all(messages);
            }
        } else {
            if let Message::Prepare { lost_ranks, .. } = &message {
                self.shared.files.lose(lost_ranks.iter());
                lost_ranks.iter().for_each(|rank| self.expel(rank));
            }
            if matches!(message, Message::Stop { .. }) {
                self.trust_coordinator();
            }
            match message {
                Message::Files { id, message } => self.shared.on_file_message(from, id, message),
                Message::Output { records } => self.shared.output_receiver.receive(from, records),
                Message::OutputWritten { weight, ended } => {
                    if let Some(sender) = &self.shared.output_sender {
                        sender.written(weight, ended);
                    }
                }
                Message::OfferAnswer { task, attempt, refusal } => self.shared.offers.answer(task, attempt, refusal),
                Message::Discard { files } => self.shared.runner.discard(&files),
                Message::Added(added) => {
                    if let Err(error) = self.shared.add_tasks(added) {
                        self.fail(format!("tasks that were added cannot be read: {error}"));
                    }
                }
                Message::Expelled if self.coordinator.is_none() => {
                    tracing::error!("this rank counts as lost, says {from}: its tasks go to others");
                    self.lose_coordinator();
                }
                message => self.step(WorkerEvent::Message { from, message }),
            }
        }
    }

    /// Delivers this rank's messages to itself, and those that follow from them.
    pub(super) fn run_loopback(&mut self) {
        let me = self.fabric.me();
        for _ in 0..MAX_LOOPBACK_MESSAGES {
            let Some(message) = self.loopback.pop_front() else { return };
            self.deliver(me, message);
        }
    }

    /// Sends rank 0 the output that it is to write, and what the telemetry buffer holds.
    pub(super) fn send_telemetry(&mut self) {
        for message in self.shared.output_sender.as_ref().map(|sender| sender.take()).unwrap_or_default() {
            self.send(Rank::ZERO, message);
        }
        for mut message in self.shared.telemetry.take() {
            if let Message::Vitals(vitals) = &mut message {
                (vitals.messages, vitals.message_bytes) = (self.traffic.messages, self.traffic.bytes);
                vitals.stolen = self.stolen;
            }
            self.send(Rank::ZERO, message);
        }
    }

    /// Sends what threads that move files have left.
    pub(super) fn send_file_messages(&mut self) {
        let messages = self.shared.files.take_messages();
        self.send_all(messages);
    }

    /// Sends messages of rank 0's coordinator outside a poll.
    pub(in crate::runtime) fn post(&mut self, messages: Vec<(Rank, Message)>) {
        self.send_all(messages);
        self.run_loopback();
    }

    pub(super) fn send_all(&mut self, messages: Vec<(Rank, Message)>) {
        for (to, message) in messages {
            self.send(to, message);
        }
    }

    pub(super) fn send(&mut self, to: Rank, message: Message) {
        if to == self.fabric.me() {
            return self.loopback.push_back(message);
        }
        let Some(message) = self.held_back(to, message) else { return };
        if let Err(error) = wire::encode(&message, &mut self.outgoing) {
            return self.fail(format!("{to} cannot be sent what concerns it: {error}"));
        }
        if let (Message::Report { .. }, Some(reports)) = (&message, &mut self.sent_reports) {
            reports.keep(self.shared.clock.now(), &self.outgoing);
        }
        self.send_frame(to);
    }

    /// Sends pieces of operations once those before have left. True if some were sent.
    pub(super) fn send_pieces(&mut self) -> bool {
        if !self.shared.gangs.pieces.is_waiting() || !self.fabric.drained() {
            return false;
        }
        let pieces = self.shared.gangs.pieces.take(MAX_PIECES_PER_POLL);
        let moved = !pieces.is_empty();
        for (to, frame) in pieces {
            self.outgoing = frame;
            self.send_frame(to);
        }
        moved
    }

    fn send_frame(&mut self, to: Rank) {
        self.traffic.messages += 1;
        self.traffic.bytes += self.outgoing.len() as u64;
        if let Err(error) = self.fabric.send(to, &mut self.outgoing) {
            match error {
                // A rank that has left needs no more messages.
                FabricError::Gone(_) if self.over => {}
                _ => self.fail(error.to_string()),
            }
        }
    }

    /// This rank must stop: notifies rank 0, which stops the run.
    pub(super) fn fail(&mut self, reason: String) {
        if self.broken.is_some() {
            return;
        }
        tracing::error!("{reason}");
        self.broken = Some(reason.clone());
        self.send(Rank::ZERO, Message::Broken { reason });
    }
}
