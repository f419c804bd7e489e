//! What becomes of a task after an attempt, decided by its home: an end, or a later attempt, here
//! or on another rank.

use std::cmp::Reverse;

use super::leases::reported_by_runner;
use super::{Worker, WorkerAction, send};
use crate::model::{Attempt, Rank, Shortfalls, State, TaskId, Time};
use crate::schedule::protocol::{Lease, Message, Tried, is_among};

/// A further attempt at a task at home here; ordered by its due time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct PlannedRetry {
    pub(super) due: Time,
    pub(super) task: TaskId,
    pub(super) attempt: u16,
    /// The rank that will run it.
    pub(super) to: Rank,
    /// Attempts so far that fell short of what they needed.
    pub(super) short: Shortfalls,
}

impl Worker {
    /// Decides what becomes of a task after an attempt. `by_lease`: another rank ran it, and has
    /// reported it if it completed.
    pub(super) fn attempt_ended(
        &mut self,
        now: Time,
        mut attempt: Attempt,
        by_lease: bool,
        actions: &mut Vec<WorkerAction>,
    ) {
        let Some(ledger) = self.ledger.clone() else { return };
        let Some(local) = ledger.local(attempt.task).filter(|&local| ledger.is_ready(local)) else { return };
        if self.tried.get(&attempt.task).is_some_and(|tried| attempt.attempt <= tried.attempts) {
            return;
        }
        self.lent.remove(&attempt.task);
        let interrupted = self.stopping.is_some() && attempt.outcome.state == State::Cancelled;
        let again = self.try_again(now, &attempt);
        attempt.last = !interrupted && !again;
        if !(by_lease && reported_by_runner(&attempt)) {
            self.report.push(attempt);
            self.note_report(now);
        }
        if attempt.last && attempt.outcome.state.is_failure() && self.max_failures.is_some() {
            // Report at once: other ranks may be about to start unnecessary tasks.
            self.report_due = Some(now);
            if attempt.rank == self.me {
                self.count_failure(actions);
            }
        }
        if attempt.last {
            self.tried.remove(&attempt.task);
            let mut effects = std::mem::take(&mut self.effects);
            effects.clear();
            ledger.complete(local, attempt.outcome.ok(), now, &mut effects);
            self.apply_effects(now, &mut effects, actions);
            self.effects = effects;
        }
    }

    /// True if the task has a further attempt left; plans that attempt unless the run stops.
    fn try_again(&mut self, now: Time, attempt: &Attempt) -> bool {
        if !attempt.outcome.state.is_failure() {
            return false;
        }
        let task = attempt.task;
        let (before, short) = self.tried.get(&task).map_or_else(Default::default, |tried| (tried.lost, tried.short));
        let lost = before + u16::from(attempt.outcome.state == State::NodeFail);
        let short = short.after(attempt.outcome.state);
        let tried = Tried { task, attempts: attempt.attempt, lost, rank: attempt.rank, end: now, short };
        let failures = attempt.attempt.saturating_sub(lost);
        if !self.facts.retry(task).is_left(failures, short) || attempt.attempt == u16::MAX {
            return false;
        }
        self.tried.insert(task, tried);
        // After a stop, a resume runs the further attempts.
        if self.stopping.is_none() {
            self.plan(tried, attempt.outcome.state == State::NodeFail);
        }
        true
    }

    /// Cancels tasks: those that wait for a further attempt have ended.
    pub(super) fn cancel(&mut self, now: Time, tasks: Vec<(u32, u32)>, actions: &mut Vec<WorkerAction>) {
        let (cancelled, stay): (Vec<_>, Vec<_>) = self.retries.drain().partition(|next| is_among(next.0.task, &tasks));
        self.retries.extend(stay);
        for Reverse(PlannedRetry { task, attempt, short, .. }) in cancelled {
            let lease = Lease { task, home: self.me, attempt, urgency: 0, ready: now, short };
            self.attempt_ended(now, lease.cancelled(self.me, now), false, actions);
        }
        actions.push(WorkerAction::Cancel(tasks));
    }

    /// Plans the next attempt at a task, on another rank if this one is `doomed`.
    pub(super) fn plan(&mut self, tried: Tried, doomed: bool) {
        let retry = self.facts.retry(tried.task);
        let failures = tried.attempts.saturating_sub(tried.lost);
        let due = tried.end.after(retry.wait(failures));
        let elsewhere = (doomed || retry.elsewhere && failures > 0) && self.facts.movable(tried.task);
        let to = if elsewhere { self.stealer.next_after(tried.rank) } else { self.me };
        let attempt = tried.attempts.saturating_add(1);
        self.retries.push(Reverse(PlannedRetry { due, task: tried.task, attempt, to, short: tried.short }));
    }

    pub(super) fn start_retries(&mut self, now: Time, actions: &mut Vec<WorkerAction>) {
        while let Some(&Reverse(PlannedRetry { due, task, attempt, to, short })) = self.retries.peek() {
            if due > now || !self.phase.is_settled() {
                break;
            }
            self.retries.pop();
            let urgency = self.ledger.as_ref().and_then(|l| Some(l.urgency(l.local(task)?))).unwrap_or_default();
            let lease = Lease { task, home: self.me, attempt, urgency, ready: now, short };
            if self.facts.needs_gang(task, self.room, self.active) {
                self.lent.insert(task);
                send(actions, Rank::ZERO, Message::GangReady { lease });
            } else if to == self.me {
                actions.push(WorkerAction::StartLease(lease));
            } else {
                self.lent.insert(task);
                self.send_leases(to, vec![lease], actions);
            }
        }
    }
}
