//! What is left to do once the coordinator is lost: start nothing, and report every end.
//!
//! The rank behaves as after a `Stop` that lets running tasks end. Nobody receives its reports; the
//! driver keeps them where a resume finds them. So what the rank had left to others, or kept until
//! homes are known again, is reported by itself and as it is: a later attempt is no longer decided.

use super::{Worker, WorkerAction};
use crate::model::{Attempt, Time};
use crate::schedule::protocol::Stop;

impl Worker {
    /// Stops for good, and reports at once what the coordinator has not confirmed.
    pub(super) fn coordinator_lost(&mut self, now: Time, actions: &mut Vec<WorkerAction>) {
        self.is_orphaned = true;
        for attempt in self.unconfirmed() {
            self.report_as_it_is(now, attempt);
        }
        self.phase.forget_ended();
        if self.stopping.is_none() {
            self.stopping = Some(Stop::Drain);
            self.retries.clear();
            actions.push(WorkerAction::Stop(Stop::Drain));
        }
        self.report_due = Some(now);
    }

    /// Attempts that have ended here, and that this rank has not reported, or not yet: their homes
    /// do, or will be known.
    pub fn unconfirmed(&self) -> Vec<Attempt> {
        let mut ended: Vec<Attempt> = self.guests.values().filter_map(|guest| guest.ended).collect();
        ended.extend_from_slice(self.phase.ended());
        ended.sort_unstable_by_key(|attempt| attempt.task);
        ended.iter().map(as_it_is).collect()
    }

    /// True if this rank would not report the end of an attempt itself, or not yet.
    pub(super) fn is_left_to_others(&self, attempt: &Attempt) -> bool {
        !self.phase.is_settled() || self.guests.contains_key(&attempt.task)
    }

    pub(super) fn report_as_it_is(&mut self, now: Time, attempt: Attempt) {
        self.guests.remove(&attempt.task);
        self.report.push(as_it_is(&attempt));
        self.note_report(now);
    }
}

/// The record of an attempt whose home does not decide any more.
fn as_it_is(attempt: &Attempt) -> Attempt {
    Attempt { last: attempt.outcome.ok(), ..*attempt }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::super::{Facts, Pace, Worker, WorkerAction, WorkerEvent};
    use crate::job::Retry;
    use crate::model::{Attempt, Outcome, Rank, RankRoom, Shortfalls, State, TaskId, Time};
    use crate::schedule::protocol::{HandOut, Lease, Message};
    use crate::schedule::ranks::Ranks;

    struct Plain;

    impl Facts for Plain {
        fn retry(&self, _: TaskId) -> Retry {
            Retry::NONE
        }
        fn movable(&self, _: TaskId) -> bool {
            true
        }
        fn needs_gang(&self, _: TaskId, _: RankRoom, _: u32) -> bool {
            false
        }
    }

    fn lease(task: u32, attempt: u16) -> Lease {
        Lease { task: TaskId(task), home: Rank(2), attempt, urgency: 0, ready: Time::ZERO, short: Shortfalls::NONE }
    }

    fn ended(task: u32, attempt: u16, state: State) -> WorkerEvent {
        let outcome = Outcome { state, exit: 0, cached: false };
        WorkerEvent::Ended { attempt: lease(task, attempt).ended(outcome, Rank(1), 0, Time::ZERO, Time(1)) }
    }

    fn step(worker: &mut Worker, event: WorkerEvent) -> Vec<WorkerAction> {
        let mut actions = Vec::new();
        worker.step(Time(1), event, &mut actions);
        actions
    }

    /// The attempts reported among these actions: task, attempt, whether it is the last.
    fn reported(actions: &[WorkerAction]) -> Vec<(u32, u16, bool)> {
        let reports = actions.iter().filter_map(|action| match action {
            WorkerAction::Send { to: Rank::ZERO, message: Message::Report { attempts, .. } } => Some(attempts),
            _ => None,
        });
        reports.flatten().map(|attempt: &Attempt| (attempt.task.0, attempt.attempt, attempt.last)).collect()
    }

    /// A worker with these leases of rank 2.
    fn worker(leases: Vec<Lease>) -> Worker {
        let mut worker = Worker::new(Rank(1), RankRoom::of_slots(1), Arc::new(Plain), Pace::default());
        let hand_out = Box::new(HandOut { active: Ranks::first(3), ..HandOut::default() });
        step(&mut worker, WorkerEvent::Message { from: Rank::ZERO, message: Message::HandOut(hand_out) });
        step(&mut worker, WorkerEvent::Message { from: Rank(2), message: Message::StealReply { epoch: 0, leases } });
        worker
    }

    #[test]
    fn what_homes_would_have_reported_is_reported_by_the_rank_itself() {
        let mut worker = worker(vec![lease(3, 2), lease(4, 1), lease(5, 2)]);
        for event in [ended(3, 2, State::Completed), ended(4, 1, State::Failed)] {
            assert_eq!(reported(&step(&mut worker, event)), [], "their home does");
        }
        let lost = step(&mut worker, WorkerEvent::CoordinatorLost);
        assert_eq!(reported(&lost), [(3, 2, true), (4, 1, false)]);
        step(&mut worker, ended(5, 2, State::Completed));
        assert_eq!(reported(&step(&mut worker, WorkerEvent::CoordinatorLost)), [(5, 2, true)]);
    }

    #[test]
    fn a_frozen_rank_keeps_no_end_for_itself_and_stops_without_its_tasks() {
        let mut worker = Worker::new(Rank(1), RankRoom::of_slots(1), Arc::new(Plain), Pace::default());
        step(&mut worker, ended(3, 1, State::Completed));
        assert_eq!(reported(&step(&mut worker, WorkerEvent::CoordinatorLost)), [(3, 1, true)]);
        step(&mut worker, ended(4, 1, State::Completed));
        let last = step(&mut worker, WorkerEvent::Quiet);
        assert_eq!(reported(&last), [(4, 1, true)]);
        let has_stopped =
            |action: &WorkerAction| matches!(action, WorkerAction::Send { message: Message::Stopped, .. });
        assert!(last.iter().any(has_stopped) && worker.has_stopped());
    }

    #[test]
    fn nothing_is_started_or_taken_any_more() {
        let mut worker = worker(Vec::new());
        step(&mut worker, WorkerEvent::CoordinatorLost);
        let leases = vec![lease(7, 1)];
        let gift = WorkerEvent::Message { from: Rank(2), message: Message::StealReply { epoch: 0, leases } };
        assert!(!step(&mut worker, gift).iter().any(|action| matches!(action, WorkerAction::StartLease(_))));
    }
}
