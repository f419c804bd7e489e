//! Ranks that have suspended themselves because their tasks failed (`worker/suspension`): rank 0
//! compares each with the others, and the rank is quarantined or resumes.
//!
//! | what the others show | what follows |
//! |---|---|
//! | they complete such tasks (`health`) | quarantine |
//! | most such tasks fail there, too, or all ranks are suspended | resume |
//! | a task of the rank has completed after all | resume |
//! | nothing, but one of them runs such a task | wait |
//! | nothing for [`LONGEST_WAIT`], or [`IDLE_WAIT`] if all of them are idle | resume |
//!
//! A rank that is no longer active resumes at once: its tasks have new homes. So a rank is
//! suspended no longer than another one runs a task that could show whose fault the failures are.

use std::collections::BTreeMap;
use std::time::Duration;

use rustc_hash::FxHashSet;

use super::{Change, Coordinator, CoordinatorAction};
use crate::model::{Rank, RankState, Time};
use crate::schedule::protocol::{Message, Started};

/// Time after which a rank resumes if no other rank runs any such task.
const LONGEST_WAIT: Duration = Duration::from_secs(5);

/// The same if no other rank runs anything: they would have taken tasks that they can run.
const IDLE_WAIT: Duration = Duration::from_secs(1);

/// Time after which the user is notified.
const UNNOTICED: Duration = Duration::from_secs(1);

/// Time between two reviews.
const REVIEW_INTERVAL: Duration = Duration::from_millis(100);

/// The suspended ranks.
#[derive(Debug, Default)]
pub(super) struct Suspended {
    ranks: BTreeMap<Rank, Suspension>,
    next_review: Time,
}

#[derive(Debug)]
struct Suspension {
    since: Time,
    told: bool,
}

impl Suspended {
    /// When the ranks are compared again, if there are any.
    pub(super) fn due(&self) -> Option<Time> {
        (!self.ranks.is_empty()).then_some(self.next_review)
    }
}

impl Coordinator {
    /// A rank has suspended itself.
    pub(super) fn note_suspended(&mut self, now: Time, rank: Rank) {
        if self.finished {
            return;
        }
        self.suspended.ranks.insert(rank, Suspension { since: now, told: false });
        self.suspended.next_review = now;
    }

    /// Compares suspended ranks with the others, at most once per [`REVIEW_INTERVAL`] unless one is
    /// new.
    pub(super) fn review_suspended(&mut self, now: Time, actions: &mut Vec<CoordinatorAction>) {
        if self.finished || self.suspended.ranks.is_empty() || now < self.suspended.next_review {
            return;
        }
        self.suspended.next_review = now.after(REVIEW_INTERVAL);
        let ranks: Vec<Rank> = self.suspended.ranks.keys().copied().collect();
        let runs_tasks = |rank: &Rank| self.members.member(*rank).is_some_and(|member| member.slots > 0);
        let active = self.members.active().filter(runs_tasks).count();
        let is_active = |rank: &&Rank| self.members.standing(**rank) == Some(RankState::Active);
        let are_all = ranks.iter().filter(is_active).count() >= active;
        for rank in ranks {
            let is_active = self.members.standing(rank) == Some(RankState::Active);
            if self.stopping.is_some() || !is_active || self.health.has_recovered(rank) {
                self.resume(rank, actions);
            } else if self.health.take_sick(rank) {
                self.quarantine(now, rank, actions);
                self.resume(rank, actions);
            } else if are_all || self.health.fails_elsewhere(rank) || self.has_waited(now, rank) {
                self.resume(rank, actions);
            } else {
                self.tell_suspended(now, rank, actions);
            }
        }
    }

    /// True if a rank has been suspended for long and no other rank runs a task that could show
    /// whose fault that is.
    fn has_waited(&self, now: Time, rank: Rank) -> bool {
        let since = self.suspended.ranks.get(&rank).map_or(now, |suspension| suspension.since);
        let is_busy = |other: Rank| other != rank && self.load(other).busy > 0;
        let wait = if self.members.active().any(is_busy) { LONGEST_WAIT } else { IDLE_WAIT };
        if now < since.after(wait) {
            return false;
        }
        let classes: FxHashSet<u32> = self.health.failed_classes(rank).collect();
        let is_such =
            |(by, started): (Rank, Started)| by != rank && classes.contains(&self.tasks.advice.class(started.task).0);
        !self.running().any(is_such)
    }

    fn tell_suspended(&mut self, now: Time, rank: Rank, actions: &mut Vec<CoordinatorAction>) {
        let Some(suspension) = self.suspended.ranks.get_mut(&rank).filter(|suspension| !suspension.told) else {
            return;
        };
        if now >= suspension.since.after(UNNOTICED) {
            suspension.told = true;
            actions.push(CoordinatorAction::Warning(format!(
                "{rank} starts nothing for now: its last tasks all failed, and no other rank has completed such tasks yet"
            )));
        }
    }

    /// Ends a suspension. Sent after whatever else concerns the rank.
    fn resume(&mut self, rank: Rank, actions: &mut Vec<CoordinatorAction>) {
        let Some(suspension) = self.suspended.ranks.remove(&rank) else { return };
        actions.push(CoordinatorAction::Send { to: rank, message: Message::Resume });
        if suspension.told && self.members.standing(rank) == Some(RankState::Active) && self.stopping.is_none() {
            actions.push(CoordinatorAction::Warning(format!("{rank} starts tasks again")));
        }
    }

    /// Takes all tasks from a rank on which they fail, unless no other rank can run them.
    pub(super) fn quarantine(&mut self, now: Time, rank: Rank, actions: &mut Vec<CoordinatorAction>) {
        if self.refusal(rank, &Change::Quarantine).is_some() {
            return actions.push(CoordinatorAction::Warning(format!(
                "tasks keep failing on {rank} that others complete; it is not quarantined, since no other rank can \
                 run some of the remaining tasks"
            )));
        }
        actions.push(CoordinatorAction::Warning(format!(
            "{rank} is quarantined: tasks keep failing there that others complete"
        )));
        self.change(now, rank, Change::Quarantine, actions);
    }
}
