//! Tasks that no rank can run: they wait for a node, bring resting ranks back, or end the run.

use super::{Change, Coordinator, CoordinatorAction, StopReason};
use crate::model::{Rank, RankState, Time};
use crate::schedule::protocol::Stop;

impl Coordinator {
    /// True if tasks remain that no rank can run and that a further node may be able to run.
    pub fn needs_node(&self) -> bool {
        let needs = self.homeless.tasks + self.gangs.unplaced() > 0;
        needs && self.may_get_node() && self.provisioning.coming == 0 && !self.is_changing() && self.stopping.is_none()
    }

    /// Handles tasks that no rank can run: ranks that were to rest or leave become active again, or
    /// the run stops unless further ranks are expected.
    pub(super) fn handle_unplaced_tasks(&mut self, now: Time, actions: &mut Vec<CoordinatorAction>) {
        let tasks = self.homeless.tasks + self.gangs.unplaced();
        if tasks == 0 || self.finished || self.stopping.is_some() || self.is_changing() {
            return;
        }
        let rests = |state| matches!(state, Some(RankState::Parked | RankState::Draining | RankState::Quarantined));
        // A rank that cannot run any of the tasks may rest or leave.
        let helps = |rank: &Rank| {
            let fits = |member| self.homeless.some.iter().any(|&task| self.tasks.advice.fits(task, member));
            self.gangs.unplaced() > 0 || self.members.member(*rank).is_some_and(fits)
        };
        let resting = |rank: &Rank| rests(self.members.standing(*rank)) && helps(rank);
        let resting: Vec<Rank> = self.members.here().filter(resting).collect();
        for &rank in &resting {
            actions.push(CoordinatorAction::Warning(format!(
                "{rank} takes part again: {tasks} tasks can run nowhere else"
            )));
            self.members.change(rank, Change::Recall);
        }
        if !resting.is_empty() {
            self.begin_change(now, false, true, actions);
        } else if !self.members.expects_more() && !self.may_get_node() {
            let reason = format!("no rank that is left can run {tasks} of the remaining tasks");
            actions.push(CoordinatorAction::Error(format!("{reason}: nothing more is started")));
            self.stop(Stop::Drain, StopReason::Broken(reason), actions);
        }
    }

    /// True if nodes may still arrive that can help. The nodes of a run are alike: if one that has
    /// arrived cannot run a task, others cannot either. Tasks that need several ranks may need more
    /// of them.
    pub(super) fn may_get_node(&self) -> bool {
        let joined = self.members.active().filter(|rank| rank.0 >= self.first).count() as u32;
        let more = if self.gangs.unplaced() > 0 { joined < self.provisioning.most } else { joined == 0 };
        self.provisioning.coming > 0 || (self.provisioning.askable && more)
    }
}
