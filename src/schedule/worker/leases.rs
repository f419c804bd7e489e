//! Tasks that run on another rank than their home: they are given away and taken, and their ends go
//! back to their homes.

use super::{Worker, WorkerAction, send};
use crate::model::{Attempt, Rank, Shortfalls, State, Time};
use crate::schedule::protocol::{Lease, Message};

/// A task of another home that this rank runs or will run.
#[derive(Clone, Copy, Debug)]
pub(super) struct Guest {
    pub(super) home: Rank,
    pub(super) attempt: u16,
    /// The attempt that ended, until the coordinator confirms that the home has reported it.
    pub(super) ended: Option<Attempt>,
}

impl Worker {
    /// Records that a task is on this rank now.
    pub(super) fn task_arrived(&mut self, lease: &Lease) {
        if lease.home == self.me {
            self.lent.remove(&lease.task);
        } else {
            self.guests.insert(lease.task, Guest { home: lease.home, attempt: lease.attempt, ended: None });
        }
    }

    /// Records that a task has left this rank. Its home may have changed since the pool took it.
    pub(super) fn task_left(&mut self, lease: &mut Lease) {
        match self.guests.remove(&lease.task) {
            Some(guest) => lease.home = guest.home,
            None => {
                lease.home = self.me;
                self.lent.insert(lease.task);
            }
        }
    }

    /// Starts tasks that another rank gave; a rank without slots passes them on.
    pub(super) fn accept_leases(&mut self, leases: Vec<Lease>, actions: &mut Vec<WorkerAction>) {
        if self.room.slots > 0 {
            leases.iter().for_each(|lease| self.task_arrived(lease));
            // Count them as ready until the pool reports its load again; otherwise this rank would
            // steal more.
            self.load.ready += leases.len() as u32;
            actions.extend(leases.into_iter().map(WorkerAction::StartLease));
        } else if !leases.is_empty() {
            self.send_leases(self.stealer.next_after(self.me), leases, actions);
        }
    }

    pub(super) fn send_leases(&self, to: Rank, leases: Vec<Lease>, actions: &mut Vec<WorkerAction>) {
        send(actions, to, Message::StealReply { epoch: self.epoch, leases });
    }

    /// Sends the tasks that the pool gave up to the rank that asked for them.
    pub(super) fn surrendered(&mut self, now: Time, to: Rank, leases: Vec<Lease>, actions: &mut Vec<WorkerAction>) {
        let (mut leases, kept) = self.stealer.choose(now, to, leases, &|task| self.facts.reads(task));
        self.stealer.note_given(to, leases.len());
        leases.iter_mut().for_each(|lease| self.task_left(lease));
        // Until the pool reports its load again: it has no more to give than it gave.
        let given = leases.len() as u32;
        self.load.ready = if given == 0 && kept.is_empty() { 0 } else { self.load.ready.saturating_sub(given) };
        actions.extend(kept.into_iter().map(WorkerAction::StartLease));
        self.send_leases(to, leases, actions);
    }

    /// The node has what a task has written that completed here, and what it has read.
    pub(super) fn note_files(&mut self, attempt: &Attempt) {
        if attempt.outcome.ok() && self.facts.is_staged(attempt.task) {
            self.stealer.hold(attempt.task);
            self.facts.reads(attempt.task).iter().for_each(|files| self.stealer.hold(files.writer));
        }
    }

    pub(super) fn ended(&mut self, now: Time, attempt: Attempt, actions: &mut Vec<WorkerAction>) {
        self.stealer.note_end(&attempt, self.guests.contains_key(&attempt.task));
        if self.stealer.weighs_data() {
            self.note_files(&attempt);
        }
        if self.is_orphaned && self.is_left_to_others(&attempt) {
            return self.report_as_it_is(now, attempt);
        }
        if self.phase.remember(&attempt) {
            return;
        }
        let Some(guest) = self.guests.get_mut(&attempt.task) else {
            return self.attempt_ended(now, attempt, false, actions);
        };
        let home = guest.home;
        guest.ended = Some(attempt);
        // The home's verdict on a first attempt at a task that has no second one is certain.
        let state = attempt.outcome.state;
        if state.is_failure()
            && state != State::NodeFail
            && attempt.attempt == 1
            && !self.facts.retry(attempt.task).is_left(1, Shortfalls::NONE.after(state))
        {
            self.count_failure(actions);
        }
        // The stop ended it here. Its home may not have received the stop yet, and would take this
        // for a cancellation. What failed by itself is the home's to judge, as at any time.
        let interrupted = self.stopping.is_some() && state == State::Cancelled;
        if interrupted || reported_by_runner(&attempt) {
            self.guests.remove(&attempt.task);
            self.report.push(Attempt { last: attempt.outcome.ok(), ..attempt });
            self.note_report(now);
        }
        if !interrupted {
            send(actions, home, Message::Returned { epoch: self.epoch, attempt });
        }
    }

    /// Processes the end of a task at home here that ran elsewhere.
    pub(super) fn returned(&mut self, now: Time, from: Rank, attempt: Attempt, actions: &mut Vec<WorkerAction>) {
        if reported_by_runner(&attempt) {
            self.completed_elsewhere.push((attempt.task, from));
        }
        self.attempt_ended(now, attempt, true, actions);
    }
}

/// True for an attempt on lease that the rank that ran it reports to the coordinator. After a
/// failure the home reports all attempts, so that they are recorded in order.
pub(super) fn reported_by_runner(attempt: &Attempt) -> bool {
    attempt.outcome.ok() && attempt.attempt == 1
}
