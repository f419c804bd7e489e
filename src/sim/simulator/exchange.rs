//! Messages and state machines: delivers messages between ranks, and passes each event to the state
//! machine concerned.

use std::collections::VecDeque;

use super::{InFlightMessage, On, SimulatedEvent, Simulator};
use crate::journal::{Level, Note, Record};
use crate::model::Rank;
use crate::schedule::coordinator;
use crate::schedule::protocol::{Message, Stop};
use crate::schedule::worker;
use crate::workload::requirements;

impl Simulator<'_> {
    pub(super) fn send(&mut self, from: Rank, to: Rank, message: Message) {
        let at = self.network.arrival(self.now, from, to);
        let number = self.in_flight.insert(InFlightMessage { from, to, message });
        self.events_due.schedule(at, SimulatedEvent::Arrives(number as u32));
    }

    pub(super) fn deliver(&mut self, number: u32) {
        let Some(InFlightMessage { from, to, message }) = self.in_flight.try_remove(number as usize) else { return };
        self.events += 1;
        if message.is_for_coordinator() {
            self.coordinate(coordinator::CoordinatorEvent::Message { from, message });
        } else if self.ranks[to.index()].is_present {
            self.step(to.0, worker::WorkerEvent::Message { from, message });
        }
    }

    pub(super) fn coordinate(&mut self, event: coordinator::CoordinatorEvent) {
        let mut actions = Vec::new();
        let before = self.coordinator.next_tick();
        self.coordinator.step(self.now, event, &mut actions);
        if let Some(due) = self.coordinator.next_tick().filter(|due| before != Some(*due)) {
            self.events_due.schedule(due.max(self.now), SimulatedEvent::Admit);
        }
        self.carry_out(actions);
    }

    pub(super) fn carry_out(&mut self, actions: Vec<coordinator::CoordinatorAction>) {
        for action in actions {
            match action {
                coordinator::CoordinatorAction::Send { to, message } => {
                    if matches!(message, Message::HandOut(_)) {
                        self.note_state(to);
                    }
                    self.send(Rank::ZERO, to, message);
                }
                coordinator::CoordinatorAction::Journal(attempts) => {
                    if let Some(controller) = &mut self.controller {
                        attempts.iter().for_each(|attempt| controller.attempt_ended(attempt));
                    }
                    self.log.record(Record::Attempts(attempts));
                }
                // Simulated tasks add none: those of a recorded run are part of its job.
                coordinator::CoordinatorAction::Offered { .. } => {}
                coordinator::CoordinatorAction::Error(text) | coordinator::CoordinatorAction::Warning(text) => {
                    self.note(Level::Warning, text)
                }
                coordinator::CoordinatorAction::Finished(why) => self.finished = Some(why),
            }
        }
    }

    pub(super) fn note(&mut self, level: Level, text: String) {
        self.log.record(Record::Note(Note { time: self.now, level, text }));
    }

    /// The wake-up that a rank requested is due.
    pub(super) fn tick(&mut self, rank: u32) {
        let simulated = &mut self.ranks[rank as usize];
        if simulated.tick != Some(self.now) || !simulated.is_present {
            return;
        }
        simulated.tick = None;
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
            let simulated = &mut self.ranks[rank as usize];
            simulated.worker.step(self.now, event, &mut actions);
            for action in actions.drain(..) {
                self.act(rank, action, &mut queue);
            }
            if queue.is_empty() && self.ranks[rank as usize].is_present {
                self.fill(rank, told, &mut queue);
            }
        }
        (self.queue, self.actions) = (queue, actions);
        self.schedule_next_tick(rank);
    }

    pub(super) fn act(&mut self, rank: u32, action: worker::WorkerAction, queue: &mut VecDeque<worker::WorkerEvent>) {
        let me = Rank(rank);
        match action {
            worker::WorkerAction::Send { to, message } => self.send(me, to, message),
            worker::WorkerAction::TakeUp => {
                let simulated = &mut self.ranks[rank as usize];
                simulated.frozen = false;
                simulated.ledger = simulated.worker.ledger().cloned();
            }
            worker::WorkerAction::PoolOrders(orders) => self.ranks[rank as usize].pool.carry_out_pool_orders(&orders),
            worker::WorkerAction::LearnShares(elsewhere) => self.ranks[rank as usize].pool.learn_shares(&elsewhere),
            worker::WorkerAction::Start(locals) => locals.into_iter().for_each(|local| self.start(rank, local)),
            worker::WorkerAction::StartLease(lease) => {
                let retry = &self.prepared.job.group(lease.task).retry;
                let needs = lease.needs(retry, self.needs(rank, &lease));
                self.push(rank, lease, needs);
            }
            worker::WorkerAction::Surrender { to, max } => {
                let leases = self.ranks[rank as usize].pool.surrender(max);
                queue.push_back(worker::WorkerEvent::Surrendered { to, leases });
            }
            worker::WorkerAction::Freeze { keep } => {
                let simulated = &mut self.ranks[rank as usize];
                simulated.frozen = true;
                let waiting = simulated.pool.take_out(keep);
                queue.push_back(worker::WorkerEvent::Frozen { waiting });
            }
            worker::WorkerAction::Hold { gang, host, lease, leads } => {
                let group = self.prepared.job.group(lease.task);
                let needs = requirements::host_needs(group, lease.short, &host, self.memory_of(rank));
                self.ranks[rank as usize].pool.hold(gang, needs, leads.then_some(lease));
            }
            worker::WorkerAction::Launch { gang, .. } => {
                if let Some((lease, slot)) = self.ranks[rank as usize].pool.lead(gang) {
                    self.begin(rank, lease, On::Gang { gang, slot });
                }
            }
            worker::WorkerAction::Share { gang, .. } => self.ranks[rank as usize].pool.share(gang),
            worker::WorkerAction::MemberLost { gang, .. } => self.end_broken(rank, gang),
            worker::WorkerAction::Release { gang } => {
                if self.ranks[rank as usize].pool.release(gang) {
                    queue.push_back(worker::WorkerEvent::ShareEnded { gang });
                }
            }
            worker::WorkerAction::Halt | worker::WorkerAction::Suspend => self.ranks[rank as usize].pool.pause(),
            worker::WorkerAction::Resume => self.ranks[rank as usize].pool.resume(),
            worker::WorkerAction::Stop(how) => {
                self.ranks[rank as usize].pool.pause();
                if how != Stop::Drain {
                    self.interrupt(rank);
                }
            }
            // The simulation has no user who could cancel or pause tasks.
            worker::WorkerAction::Cancel(_) | worker::WorkerAction::Pause(_) => {}
            worker::WorkerAction::Exit => self.leave(rank),
        }
    }
}
