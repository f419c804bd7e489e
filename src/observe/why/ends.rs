//! Reasons of tasks that have ended, and of those that ran again.

use super::reason::{NamedState, TaskReason};
use super::waits::lines;
use super::{Explainer, TaskExplanation, TaskPlace, UsedFacts};
use crate::journal::Session;
use crate::model::{Attempt, State, TaskId};
use crate::observe::SessionJob;
use crate::observe::failures::{OutputTail, TaskFailure, recipe, tails_of};
use crate::observe::run_view::{node_of, run_ns};
use crate::observe::skip_cause::SkipCauses;
use crate::observe::style::{outcome, printable};
use crate::observe::summary;

impl Explainer<'_> {
    /// Notes the sessions that ran a task again which had completed.
    pub(super) fn explain_reruns(&self, task: TaskId, known: &mut TaskExplanation) {
        let label = self.name(task);
        let mut had_it = false;
        for (session, subject) in self.run.sessions() {
            // Sessions may number the task differently.
            let found = subject.job.find(&label).ok();
            let again = match found.as_deref() {
                Some([task]) if !session.run_again.is_empty() => {
                    let own = session.runs_again(*task).map(str::to_owned);
                    own.or_else(|| added_again(session, subject, *task).filter(|_| had_it))
                }
                _ => None,
            };
            had_it |= found.is_some();
            let session = session.began.session;
            known.reasons.extend(again.map(|why| TaskReason::RunAgain { session, why }));
        }
    }

    /// Notes the attempts of its session after which it ran again.
    pub(super) fn explain_retries(&self, task: TaskId, known: &mut TaskExplanation) {
        let Some((session, latest)) = self.run.replay.latest(task) else { return };
        if latest.last && latest.attempt <= 1 {
            return;
        }
        let is_one = |attempt: &&Attempt| {
            // Sessions may number the task differently, as the latest attempt does.
            attempt.task == latest.task && attempt.attempt > 0 && !attempt.last
        };
        for attempt in session.attempts.iter().filter(is_one).take(MAX_RETRIES_SHOWN) {
            known.reasons.push(TaskReason::RanBefore {
                attempt: attempt.attempt,
                how: outcome(attempt.outcome),
                node: node_of(session, attempt.rank).to_owned(),
                ran_s: run_ns(attempt) as f64 / 1e9,
                why: session.reason(attempt).map(|why| printable(why.as_bytes())),
            });
        }
    }

    pub(super) fn explain_ended(&self, task: TaskId, known: &mut TaskExplanation) {
        let Some((session, attempt)) = self.run.replay.latest(task) else { return };
        known.since_s = Some(self.run.on_run_clock(session, attempt.end) as f64 / 1e9);
        self.describe_attempt(task, session, attempt, known);
        if session.began.session < self.run.session().began.session {
            known.reasons.push(TaskReason::TakenOver { session: session.began.session });
        }
        match attempt.outcome.state {
            State::Skipped => {
                let chain = self.causes.get_or_init(|| SkipCauses::of(self.run)).chain(self.run, task);
                let named = |task: TaskId| NamedState { task: self.name(task), state: self.state(task).name() };
                known.reasons.push(TaskReason::Because { chain: chain.into_iter().map(named).collect() });
            }
            State::Cancelled => {
                known.reasons.push(TaskReason::Cancelled { how: self.cancelled_by(task, session, attempt) });
            }
            state if state.is_failure() => {
                known.reasons.push(TaskReason::NoAttemptLeft { attempts: attempt.attempt });
            }
            _ => {}
        }
    }

    /// The last note that this task, or the run, was cancelled before the attempt ended, else how
    /// the run ended.
    fn cancelled_by(&self, task: TaskId, session: &Session, attempt: &Attempt) -> String {
        let concerns = |name: &str| self.run.subject().job.find(name).is_ok_and(|tasks| tasks.contains(&task));
        let is_order = |text: &str| match summary::cancellation(text) {
            Some((_, Some(name))) => concerns(name),
            Some((_, None)) => true,
            None => false,
        };
        let asked =
            session.notes.iter().rev().find(|note| note.time <= attempt.end.after(LATEST_NOTE) && is_order(&note.text));
        let ended = || summary::explanation(self.run).unwrap_or_else(|| "cancelled by the user".to_owned());
        asked.map_or_else(ended, |note| note.text.clone())
    }

    /// Place, times, use and output of an attempt that has ended.
    pub(super) fn describe_attempt(
        &self,
        task: TaskId,
        session: &Session,
        attempt: &Attempt,
        known: &mut TaskExplanation,
    ) {
        // What was cancelled while it waited has a record without a duration.
        let has_run = attempt.outcome.state != State::Cancelled || run_ns(attempt) > 0;
        if attempt.attempt == 0 || !has_run {
            return;
        }
        let took_s = run_ns(attempt) as f64 / 1e9;
        known.took_s = Some(took_s);
        known.place = Some(TaskPlace {
            session: session.began.session,
            attempt: attempt.attempt,
            node: node_of(session, attempt.rank).to_owned(),
            rank: attempt.rank.0,
            slot: Some(attempt.slot),
        });
        known.class = self.class_facts(task, took_s);
        let used = self.run.outputs.used(session.began.session, attempt).ok().flatten();
        known.used = used.map(|used| UsedFacts { cpu_s: used.cpu_ns as f64 / 1e9, peak_bytes: used.measured_peak() });
        if let Some(why) = session.reason(attempt) {
            known.reasons.push(TaskReason::Failed { why: printable(why.as_bytes()) });
        }
        if attempt.outcome.state.is_failure() {
            let failure = TaskFailure { task, session, attempt };
            let tails = tails_of(self.run, &failure).unwrap_or_default();
            let mut text = tails.iter().map(OutputTail::text).collect::<Vec<_>>().join("\n");
            known.output = Some(lines(text.as_bytes())).filter(|text| !text.is_empty());
            text.extend(session.reason(attempt));
            known
                .reasons
                .extend(recipe(attempt.outcome.exit, &text).map(|hint| TaskReason::Hint { text: hint.to_owned() }));
        }
    }
}

/// Attempts of a task that are explained.
const MAX_RETRIES_SHOWN: usize = 10;

/// A cancellation is noted at once, but the tick of rank 0 that does so may be later than the end
/// of the task on its own clock.
const LATEST_NOTE: std::time::Duration = std::time::Duration::from_secs(1);

/// Why a task runs again that another one has added again which runs again itself.
fn added_again(session: &Session, subject: &SessionJob, task: TaskId) -> Option<String> {
    let adders: Vec<TaskId> = session.additions.iter().filter_map(|addition| Some(addition.by?.task)).collect();
    // What it adds needs it.
    let before = subject.graph.as_ref()?.tasks_before(task);
    let (adder, why) = before.iter().find_map(|before| {
        let why = adders.contains(before).then(|| session.runs_again(*before)).flatten()?;
        Some((*before, why))
    })?;
    Some(format!("was added again by {}, which ran again ({why})", subject.job.label(adder)))
}
