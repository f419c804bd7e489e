//! What reported attempts mean: final states, failures that count, and the health of ranks.

use super::{Coordinator, CoordinatorAction, StopReason};
use crate::model::{Attempt, Rank, State, Time};
use crate::schedule::dependency_counts::End;
use crate::schedule::health::HealthFinding;
use crate::schedule::protocol::{Message, Started, Stop, Tried};

impl Coordinator {
    pub(super) fn note_started(&mut self, rank: Rank, started: Vec<Started>) {
        for task in started {
            let ended = self.tried.get(&task.task).map_or(0, |tried| tried.attempts);
            let open = self.finals.get(task.task.index()).is_some_and(Option::is_none);
            let newer = self.running.get(&task.task).is_none_or(|(_, known)| known.attempt <= task.attempt);
            if open && newer && task.attempt > ended {
                self.running.insert(task.task, (rank, task));
            }
        }
    }

    /// Uses `now`, not the attempt's end, which is a time of another rank's clock.
    pub(super) fn note_tried(&mut self, now: Time, attempt: &Attempt) {
        let Attempt { task, attempt: number, rank, .. } = *attempt;
        if self.running.get(&task).is_some_and(|(_, running)| running.attempt <= number) {
            self.running.remove(&task);
        }
        if !attempt.outcome.state.is_failure() {
            return;
        }
        let tried = self.tried.entry(task).or_insert(Tried::none(task, rank, now));
        if number > tried.attempts {
            let lost = tried.lost + u16::from(attempt.outcome.state == State::NodeFail);
            let short = tried.short.after(attempt.outcome.state);
            *tried = Tried { attempts: number, lost, rank, end: now, short, ..*tried };
        }
    }

    pub(super) fn count(&mut self, now: Time, attempts: Vec<Attempt>, actions: &mut Vec<CoordinatorAction>) {
        let before = self.failures;
        let passes_files = self.tasks.advice.passes_files();
        for attempt in &attempts {
            let Some(state) = self.finals.get_mut(attempt.task.index()) else { continue };
            if state.is_some() {
                continue;
            }
            if !attempt.last {
                self.note_tried(now, attempt);
                continue;
            }
            *state = Some(attempt.outcome.state);
            self.ends[attempt.task.index()] = Some(match attempt.outcome.state {
                State::Completed => End::Completed,
                State::Skipped => End::Unsuccessful,
                _ => End::Failed,
            });
            self.open -= 1;
            // Short tasks are hardly ever in these maps: with millions of tasks, the look-ups took
            // a tenth of rank 0's time.
            if !self.tried.is_empty() {
                self.tried.remove(&attempt.task);
            }
            if !self.running.is_empty() {
                self.running.remove(&attempt.task);
            }
            match attempt.outcome.state {
                State::Completed => {
                    self.tally.completed += 1;
                    if passes_files && self.tasks.home[attempt.task.index()] != attempt.rank.0 {
                        self.made_elsewhere.insert(attempt.task, attempt.rank);
                    }
                }
                State::Skipped => self.tally.skipped += 1,
                State::Cancelled => self.tally.cancelled += 1,
                _ => {
                    self.tally.failed += 1;
                    self.failures += 1;
                    let at = attempt.rank.index();
                    self.failed_at.resize(self.failed_at.len().max(at + 1), 0);
                    self.failed_at[at] += 1;
                }
            }
        }
        if !attempts.is_empty() {
            self.family_times.observe(&attempts);
            let advice = &self.tasks.advice;
            let is_shared = |task| self.gangs.is_shared(task);
            self.health.observe(&attempts, &|task| advice.class(task), &|task| advice.work(task), &is_shared);
            let offers_before = actions.len();
            self.settle_offers(&attempts, actions);
            actions.insert(offers_before, CoordinatorAction::Journal(attempts));
        }
        if before < self.failures {
            self.send_failure_counts(actions);
        }
        if self.max_failures.is_some_and(|most| self.failures >= most) && self.stopping.is_none() && self.open > 0 {
            actions.push(CoordinatorAction::Error(format!(
                "{} tasks have failed, as many as `max_failures` allows: nothing more is started",
                self.failures
            )));
            self.stop(Stop::Drain, StopReason::Failures, actions);
        }
    }

    /// Sends ranks the number of tasks that failed elsewhere, once the remaining failure allowance
    /// could be used up by tasks that run at the same time.
    pub(super) fn send_failure_counts(&mut self, actions: &mut Vec<CoordinatorAction>) {
        let Some(left) = self.max_failures.and_then(|most| most.checked_sub(self.failures)) else { return };
        let slots: u64 = self.members.runners().map(|(_, member)| u64::from(member.slots)).sum();
        if self.stopping.is_some() || u64::from(left) > slots {
            return;
        }
        let elsewhere = |rank: Rank| self.failures - self.failed_at.get(rank.index()).copied().unwrap_or(0);
        let message = |to| CoordinatorAction::Send { to, message: Message::FailedElsewhere { tasks: elsewhere(to) } };
        actions.extend(self.members.here().map(message));
    }

    /// Evaluates the health of a rank after its report.
    pub(super) fn check_health(&mut self, now: Time, rank: Rank, actions: &mut Vec<CoordinatorAction>) {
        if self.stopping.is_some() || self.open == 0 {
            return;
        }
        let members = &self.members;
        match self.health.examine(rank, &|rank| members.slots_per_cpu(rank)) {
            Some(HealthFinding::Slow(times)) => {
                actions.push(CoordinatorAction::Warning(format!(
                    "{rank} takes {times:.1} times as long as others for the same tasks: it gets less of them"
                )));
                self.rebalance(now, actions);
            }
            Some(HealthFinding::Crowded) => self.rebalance(now, actions),
            Some(HealthFinding::Recovered(told)) => {
                let note = || CoordinatorAction::Warning(format!("{rank} is as fast as the others again"));
                actions.extend(told.then(note));
                self.rebalance(now, actions);
            }
            Some(HealthFinding::Sick) => self.quarantine(now, rank, actions),
            None => {}
        }
    }
}

/// Confirms to ranks that their attempts at tasks of other homes have been reported. Until then
/// they must keep the attempts, because they are the only other source should the home be lost.
pub(super) fn acknowledge(home: Rank, attempts: &[Attempt], actions: &mut Vec<CoordinatorAction>) {
    let elsewhere = attempts.iter().filter(|attempt| attempt.rank != home);
    actions.extend(elsewhere.map(|&Attempt { task, attempt, rank, .. }| {
        let message = Message::Recorded { task, attempt };
        CoordinatorAction::Send { to: rank, message }
    }));
}
