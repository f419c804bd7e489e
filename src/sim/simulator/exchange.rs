//! Messages and state machines: delivers messages between ranks, and passes each event to the state
//! machine concerned.

use std::collections::VecDeque;

use super::{Letter, On, Simulator, What};
use crate::journal::{Level, Note, Record};
use crate::model::Rank;
use crate::schedule::coordinator;
use crate::schedule::protocol::{Message, Stop};
use crate::schedule::worker;

impl Simulator<'_> {
    pub(super) fn send(&mut self, from: Rank, to: Rank, message: Message) {
        let at = self.network.arrival(self.now, from, to);
        let letter = self.letters.insert(Letter { from, to, message });
        self.events_due.schedule(at, What::Arrives(letter as u32));
    }

    pub(super) fn deliver(&mut self, letter: u32) {
        let Some(Letter { from, to, message }) = self.letters.try_remove(letter as usize) else { return };
        self.events += 1;
        if message.is_for_coordinator() {
            self.coordinate(coordinator::CoordinatorEvent::Message { from, message });
        } else if self.seats[to.index()].here {
            self.step(to.0, worker::WorkerEvent::Message { from, message });
        }
    }

    pub(super) fn coordinate(&mut self, event: coordinator::CoordinatorEvent) {
        let mut actions = Vec::new();
        let before = self.coordinator.next_tick();
        self.coordinator.step(self.now, event, &mut actions);
        if let Some(due) = self.coordinator.next_tick().filter(|due| before != Some(*due)) {
            self.events_due.schedule(due.max(self.now), What::Admit);
        }
        self.carry_out(actions);
    }

    pub(super) fn carry_out(&mut self, actions: Vec<coordinator::Action>) {
        for action in actions {
            match action {
                coordinator::Action::Send { to, message } => {
                    if matches!(message, Message::HandOut(_)) {
                        self.note_state(to);
                    }
                    self.send(Rank::ZERO, to, message);
                }
                coordinator::Action::Journal(attempts) => {
                    if let Some(captain) = &mut self.captain {
                        attempts.iter().for_each(|attempt| captain.attempt_ended(attempt));
                    }
                    self.log.record(Record::Attempts(attempts));
                }
                coordinator::Action::Tell(text) | coordinator::Action::Note(text) => self.note(Level::Warning, text),
                coordinator::Action::Finished(why) => self.finished = Some(why),
            }
        }
    }

    pub(super) fn note(&mut self, level: Level, text: String) {
        self.log.record(Record::Note(Note { time: self.now, level, text }));
    }

    /// The wake-up that a rank requested is due.
    pub(super) fn call(&mut self, rank: u32) {
        let seat = &mut self.seats[rank as usize];
        if seat.tick != Some(self.now) || !seat.here {
            return;
        }
        seat.tick = None;
        self.events += 1;
        self.step(rank, worker::WorkerEvent::Tick);
    }

    /// Passes an event to a rank's worker and carries out the resulting actions.
    pub(super) fn step(&mut self, rank: u32, event: worker::WorkerEvent) {
        let mut queue = std::mem::take(&mut self.queue);
        let mut actions = std::mem::take(&mut self.actions);
        queue.push_back(event);
        while let Some(event) = queue.pop_front() {
            let told = matches!(event, worker::WorkerEvent::Quiet);
            let seat = &mut self.seats[rank as usize];
            seat.worker.step(self.now, event, &mut actions);
            for action in actions.drain(..) {
                self.act(rank, action, &mut queue);
            }
            if queue.is_empty() && self.seats[rank as usize].here {
                self.fill(rank, told, &mut queue);
            }
        }
        (self.queue, self.actions) = (queue, actions);
        self.arrange_tick(rank);
    }

    pub(super) fn act(&mut self, rank: u32, action: worker::Action, queue: &mut VecDeque<worker::WorkerEvent>) {
        let me = Rank(rank);
        match action {
            worker::Action::Send { to, message } => self.send(me, to, message),
            worker::Action::TakeUp { limits } => {
                let seat = &mut self.seats[rank as usize];
                (seat.limits, seat.frozen) = (limits, false);
                seat.ledger = seat.worker.ledger().cloned();
            }
            worker::Action::Start(locals) => locals.into_iter().for_each(|local| self.start(rank, local)),
            worker::Action::StartLease(lease) => {
                let retry = self.scene.job.group(lease.task).retry;
                let needs = lease.needs(&retry, self.needs(rank, lease.task));
                self.push(rank, lease, needs);
            }
            worker::Action::Surrender { to, max } => {
                let leases = self.seats[rank as usize].pool.surrender(max);
                queue.push_back(worker::WorkerEvent::Surrendered { to, leases });
            }
            worker::Action::Freeze { keep } => {
                let seat = &mut self.seats[rank as usize];
                seat.frozen = true;
                let waiting = seat.pool.take_out(keep);
                queue.push_back(worker::WorkerEvent::Frozen { waiting });
            }
            worker::Action::Hold { gang, slots, lead } => self.seats[rank as usize].pool.hold(gang, slots, lead),
            worker::Action::Launch { gang, .. } => {
                if let Some((lease, slot)) = self.seats[rank as usize].pool.lead(gang) {
                    self.begin(rank, lease, On::Gang { gang, slot });
                }
            }
            worker::Action::Release { gang } => self.seats[rank as usize].pool.release(gang),
            worker::Action::Halt => self.seats[rank as usize].pool.pause(),
            worker::Action::Stop(how) => {
                self.seats[rank as usize].pool.pause();
                if how != Stop::Drain {
                    self.interrupt(rank);
                }
            }
            // Links do not break in the simulation.
            worker::Action::Suspend | worker::Action::Resume => {}
            // The simulation has no user who could cancel tasks.
            worker::Action::Cancel(_) => {}
            worker::Action::Exit => self.leave(rank),
        }
    }
}
