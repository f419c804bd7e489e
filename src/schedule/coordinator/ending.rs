//! How tasks and the run end early: stops, cancellations, and the end of the run.

use std::ops::Range;

use super::suspended::Suspended;
use super::{Coordinator, CoordinatorAction, StopReason, change};
use crate::model::Time;
use crate::schedule::protocol::{Lease, Message, Stop, add_range};

impl Coordinator {
    pub(super) fn stop(&mut self, how: Stop, why: StopReason, actions: &mut Vec<CoordinatorAction>) {
        let harder = match &self.stopping {
            None => true,
            Some((before, _)) => *before < how,
        };
        if !harder || self.finished {
            return;
        }
        self.abandon_gangs(actions);
        let why = self.stopping.take().map_or(why, |(_, first)| first);
        self.stopping = Some((how, why));
        self.dismiss_arrivals(actions);
        self.broadcast(Message::Stop { how }, actions);
    }

    /// Sends the cancellation to all ranks, since any of them may have the tasks. Ranks that join
    /// later get it with their part.
    pub(super) fn cancel(&mut self, now: Time, tasks: &Range<u32>, actions: &mut Vec<CoordinatorAction>) {
        if self.finished {
            return;
        }
        add_range(&mut self.cancelled, (tasks.start, tasks.end));
        self.broadcast(Message::Cancel { tasks: vec![(tasks.start, tasks.end)] }, actions);
        let is_among = |lease: &mut Lease| tasks.contains(&lease.task.0);
        let mut back: Vec<Lease> = self.paused_gangs.extract_if(.., is_among).collect();
        back.extend(self.gangs.take_back(|task| tasks.contains(&task.0), actions));
        let gangs = &self.gangs;
        back.extend(
            self.pools.withdraw_gangs(|task, attempt| tasks.contains(&task.0) && !gangs.is_running(task, attempt)),
        );
        for lease in back {
            self.return_cancelled(now, lease, actions);
        }
        // No rank starts tasks that none can run, and gangs may wait for ranks that do not exist:
        // both end when the parts are cut anew.
        if self.homeless.tasks + self.gangs.unplaced() > 0 {
            self.begin_change(now, false, false, actions);
        }
    }

    /// Returns a cancelled gang task to its home, in the same way as a task on lease.
    pub(super) fn return_cancelled(&self, now: Time, lease: Lease, actions: &mut Vec<CoordinatorAction>) {
        let message = Message::Returned { epoch: self.epoch, attempt: lease.cancelled(lease.home, now) };
        actions.push(CoordinatorAction::Send { to: lease.home, message });
    }

    pub(super) fn finish_if_over(&mut self, actions: &mut Vec<CoordinatorAction>) {
        if self.finished {
            return;
        }
        let why = match &self.stopping {
            // Tasks that end during the stop may be the last ones: then the run is complete.
            _ if self.open == 0 && !self.additions.are_expected() => StopReason::Complete,
            // While homes change, other ranks may still report what a lost rank completed.
            Some(_) if self.change.is_some() => return,
            Some((_, why)) if self.members.here().all(|rank| self.stopped[rank.index()]) => why.clone(),
            _ => return,
        };
        self.finished = true;
        (self.change, self.next_change) = (None, change::NextChange::default());
        self.suspended = Suspended::default();
        self.broadcast(Message::Finish, actions);
        actions.push(CoordinatorAction::Finished(why));
    }
}
