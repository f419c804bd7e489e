//! When a rank starts nothing for a while: rank 0 is silent, or its own tasks keep failing.
//!
//! Failures are fast, so a rank on which every task fails would fail all that is at home there
//! before others have completed enough to prove that it is the cause. So it *suspends itself* after
//! a few failed tasks in a row, and asks rank 0, which compares it with the others
//! (`coordinator/suspended`): the rank is quarantined, or resumes. Meanwhile other ranks may take
//! its tasks, which shows where they fail.
//!
//! No message is sent between two tasks: each suspension needs four times as many failures as the
//! one before, so tasks that fail everywhere suspend a rank a few times at most.

use super::{Worker, WorkerAction, send};
use crate::model::{Attempt, Rank, State, TaskId, Time};
use crate::schedule::health::{LONG_STREAK, SICK_STREAK};
use crate::schedule::protocol::{Load, Message};

/// Factor by which the number of failures grows from one suspension to the next.
const PATIENCE_GROWTH: u64 = 4;

/// The tasks that failed on this rank since the last one that completed there.
#[derive(Debug, Default)]
pub(super) struct FailureStreak {
    /// The latest of them: an attempt at one of these is a retry, and not counted again.
    latest: Vec<TaskId>,
    /// Their number.
    length: u64,
    /// Tasks that have completed and failed here.
    completed: u64,
    failed: u64,
    /// Number of suspensions that the coordinator has ended.
    resumed: u32,
    suspended: bool,
    /// True once the coordinator has been asked about the suspension.
    asked: bool,
}

impl FailureStreak {
    /// Learns from an attempt that ended here.
    pub(super) fn note(&mut self, attempt: &Attempt) {
        match attempt.outcome.state {
            State::Completed => self.note_completed(1),
            State::NodeFail => {}
            state if state.is_failure() && !self.latest.contains(&attempt.task) => {
                if self.latest.len() == LONG_STREAK {
                    self.latest.remove(0);
                }
                self.latest.push(attempt.task);
                self.length += 1;
                self.failed += 1;
            }
            _ => {}
        }
    }

    /// Learns that tasks completed here.
    pub(super) fn note_completed(&mut self, tasks: usize) {
        self.completed += tasks as u64;
        self.end();
    }

    fn end(&mut self) {
        if self.length > 0 {
            self.length = 0;
            self.latest.clear();
        }
    }

    /// True if enough tasks have failed in a row. A rank that did well before may have got the bad
    /// tasks of an array, and goes on for longer.
    fn is_long(&self) -> bool {
        let least = if self.completed > self.failed { LONG_STREAK } else { SICK_STREAK };
        self.length >= (least as u64).saturating_mul(PATIENCE_GROWTH.saturating_pow(self.resumed))
    }

    /// Ends the suspension.
    pub(super) fn resume(&mut self) {
        if std::mem::take(&mut self.suspended) {
            self.resumed += 1;
            self.asked = false;
            self.end();
        }
    }
}

impl Worker {
    /// Learns from an attempt that ended here, and suspends the rank if too many tasks have failed
    /// in a row and others could show whether that is its fault.
    pub(super) fn note_outcome(&mut self, now: Time, attempt: &Attempt, actions: &mut Vec<WorkerAction>) {
        self.streak.note(attempt);
        let may_suspend = self.stopping.is_none() && !self.halted && self.stealer.has_others();
        if self.streak.suspended || !may_suspend || !self.streak.is_long() {
            return;
        }
        self.streak.suspended = true;
        self.report_due = Some(now);
        self.suspend_or_resume(actions);
    }

    /// Asks rank 0 for its verdict, once all that led to the suspension has been reported.
    pub(super) fn ask_for_verdict(&mut self, actions: &mut Vec<WorkerAction>) {
        if self.streak.suspended && !std::mem::replace(&mut self.streak.asked, true) {
            send(actions, Rank::ZERO, Message::Suspended);
        }
    }

    /// Stops the pool, or starts it again. A rank that is cut off must start nothing: rank 0 gives
    /// up a silent rank and runs its tasks elsewhere, so they would run twice.
    pub(super) fn suspend_or_resume(&mut self, actions: &mut Vec<WorkerAction>) {
        let suspended = self.cut_off || self.streak.suspended;
        if suspended != self.pool_suspended && self.stopping.is_none() && !self.halted {
            self.pool_suspended = suspended;
            actions.push(if suspended { WorkerAction::Suspend } else { WorkerAction::Resume });
        }
    }

    /// The load that thieves meet: the slots of a suspended rank start none of its tasks.
    pub fn offered(&self, load: Load) -> Load {
        Load { idle: if self.streak.suspended { 0 } else { load.idle }, ..load }
    }

    /// True if thieves may have tasks, but this rank takes none.
    pub(super) fn may_only_give(&self) -> bool {
        self.streak.suspended && !self.cut_off && !self.halted && self.stopping.is_none() && self.phase.is_settled()
    }

    /// True while the rank is suspended because its tasks failed.
    pub(super) fn is_suspended(&self) -> bool {
        self.streak.suspended
    }
}
