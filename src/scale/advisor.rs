//! The advisor: a second opinion on a change of the ranks before it is carried out.
//!
//! The policy decides, and whoever advises may agree, prefer another number of ranks, or be against
//! the change. While an answer is awaited nothing changes, and the policy is not asked.
//!
//! | state | event | next |
//! |---|---|---|
//! | idle | the policy wants a change | waiting: the question is sent |
//! | waiting | a usable answer | idle: the change that it names is made, or none |
//! | waiting | an unusable answer, or none within [`MAX_WAIT`] | idle: the policy's change is made |
//! | waiting | the supply of ranks changed, a user fixed it, or the budget is spent | idle: the question is void |
//! | waiting | the third failure in a row | silent: nobody is asked any more |
//!
//! An answer names a candidate of its question by index, never a number of its own. The candidates
//! are those that the policy's rules allow at that moment, and what is chosen is limited by bounds,
//! budget and money like any target. An answer that changes the decision stands for a minute: until
//! then the same wish of the policy, or a smaller change, needs no further question. A larger one
//! ends it.
//!
//! A question consists of numbers and the name of the policy. Values and texts that tasks wrote are
//! not part of it.

use std::collections::VecDeque;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::decision::{Forecast, Inputs};
use super::policy::Target;
use super::price::Prices;
use crate::model::Time;
use crate::text::{counted, seconds};

/// Time for an answer, after which the policy's decision is carried out.
pub const MAX_WAIT: Duration = Duration::from_secs(5);

/// Time for which an answer that changed a decision is followed without a further question.
const STANDS_FOR: Duration = Duration::from_secs(60);

/// Failures in a row after which nobody is asked any more.
const MAX_FAILURES: u32 = 3;

/// Maximum length of a recorded reason, in characters.
const MAX_REASON: usize = 300;

/// A question: a decision of the policy and its alternatives, in numbers. Its field names are
/// stable.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Question {
    /// Number of the question in the session, from 1.
    pub question: u32,
    /// Seconds since the session began.
    pub time_s: f64,
    /// Name of the policy.
    pub policy: String,
    /// Present supply of ranks: active, joining and requested.
    pub ranks: u32,
    /// Lower bound on ranks.
    pub min_ranks: u32,
    /// Upper bound on ranks.
    pub max_ranks: u32,
    /// Index of the candidate that the policy wants.
    pub wanted: u32,
    /// Confidence of the policy, 0 to 1.
    pub confidence: f64,
    /// The numbers of ranks to choose from.
    pub candidates: Vec<OfferedCandidate>,
    /// Active ranks.
    pub active: u32,
    /// Ranks whose nodes have been granted and which are starting.
    pub joining: u32,
    /// Nodes requested and not granted.
    pub requested: u32,
    /// Parked ranks.
    pub parked: u32,
    /// Ranks that drain.
    pub draining: u32,
    /// Tasks that wait for a slot.
    pub tasks_ready: u64,
    /// Tasks that run.
    pub tasks_running: u64,
    /// Tasks without a final state.
    pub tasks_remaining: u64,
    /// Share of the active ranks' slots that are busy, 0 to 1.
    pub utilisation: f64,
    /// Bill of the run up to now.
    pub spent: f64,
    /// Bill that would remain unavoidable if everything stopped now.
    pub committed: f64,
    /// Maximum bill of the run.
    pub budget: Option<f64>,
    /// Target end, in seconds since the session began.
    pub deadline_s: Option<f64>,
    /// Median time in seconds that a new node takes to arrive.
    pub provisioning_s: f64,
}

/// One number of ranks to choose.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct OfferedCandidate {
    /// Its index, by which an answer names it.
    pub index: u32,
    /// Number of ranks.
    pub ranks: u32,
    /// Predicted end of the session and cost of the run with it, if the policy makes forecasts.
    pub forecast: Option<Forecast>,
    /// True if it meets both budget and deadline in nine of ten cases; unknown without a forecast.
    pub feasible: Option<bool>,
}

/// An answer.
#[derive(Clone, Debug, PartialEq)]
pub struct Answer {
    /// Index of a candidate; `None`: nothing shall change.
    pub candidate: Option<u32>,
    /// The reason, for people.
    pub reason: String,
}

impl Answer {
    /// Reads an answer: a JSON object with `candidate`, an index or null, and `reason`.
    ///
    /// # Errors
    /// What is wrong with it, in words.
    pub fn parse(text: &str) -> Result<Answer, String> {
        // Models like to put an object between words or fences.
        let object = text.find('{').zip(text.rfind('}')).and_then(|(from, to)| text.get(from..=to));
        let value: Value = object
            .and_then(|object| serde_json::from_str(object).ok())
            .ok_or_else(|| format!("the answer is no JSON object: {:?}", shortened(text)))?;
        let candidate = match value.get("candidate") {
            Some(Value::Null) => None,
            Some(index) => match index.as_u64().and_then(|index| u32::try_from(index).ok()) {
                Some(index) => Some(index),
                None => return Err(format!("`candidate` is no index: {}", shortened(&index.to_string()))),
            },
            None => return Err("the answer has no `candidate` (an index, or null)".to_owned()),
        };
        let reason = value.get("reason").and_then(Value::as_str).unwrap_or_default();
        Ok(Answer { candidate, reason: shortened(reason) })
    }
}

/// A text of others, fit for a terminal: one line of limited length.
fn shortened(text: &str) -> String {
    let line: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    let line = line.split_whitespace().collect::<Vec<_>>().join(" ");
    match line.char_indices().nth(MAX_REASON) {
        Some((end, _)) => format!("{}...", &line[..end]),
        None => line,
    }
}

/// A question with its answer, as the journal keeps it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Advice {
    /// Number of the question in the session, from 1.
    pub question: u32,
    /// Number of the first decision that followed.
    pub decision: u32,
    /// When it was asked.
    pub asked: Time,
    /// When it was answered, or found not to be.
    pub answered: Time,
    /// Supply of ranks that it was asked about.
    pub from: u32,
    /// Number of ranks that the policy wanted.
    pub wanted: u32,
    /// Ranks of the candidates, by index.
    pub candidates: Vec<u32>,
    /// The answer.
    pub verdict: Verdict,
    /// The advisor's reason; of a failure, what went wrong.
    pub reason: String,
}

/// What an answer amounts to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// It chose the candidate of this index.
    Candidate(u32),
    /// It chose none: nothing changes.
    Veto,
    /// There was no usable answer: the policy's decision stands.
    Failure,
}

impl Advice {
    /// True if the answer changed the decision.
    pub fn changed(&self) -> bool {
        self.chosen().is_some_and(|ranks| ranks != self.wanted)
    }

    /// Number of ranks that was chosen; `None` without a usable answer.
    fn chosen(&self) -> Option<u32> {
        match self.verdict {
            Verdict::Candidate(index) => self.candidates.get(index as usize).copied(),
            Verdict::Veto => Some(self.from),
            Verdict::Failure => None,
        }
    }

    /// The answer as a sentence without a full stop.
    pub fn text(&self) -> String {
        let because = if self.reason.is_empty() { String::new() } else { format!(": {}", self.reason) };
        match (self.verdict, self.chosen()) {
            (Verdict::Veto, _) => format!("the advisor was against it{because}"),
            (Verdict::Candidate(_), Some(ranks)) if ranks == self.wanted => format!("the advisor agreed{because}"),
            (Verdict::Candidate(_), Some(ranks)) => {
                format!("the advisor chose {} instead of {}{because}", counted(ranks, "rank"), self.wanted)
            }
            _ => format!("the advisor gave no usable answer{because}"),
        }
    }
}

/// The facts of a question.
pub(super) struct Matter<'a> {
    pub now: Time,
    pub policy: &'a str,
    /// The supply of ranks.
    pub supply: u32,
    /// Least and most ranks.
    pub bounds: (u32, u32),
    /// What the policy wants.
    pub target: &'a Target,
    /// Its number of ranks, within bounds.
    pub wanted: u32,
    pub inputs: &'a Inputs,
    pub prices: &'a Prices,
}

/// An answer that is followed for a while.
#[derive(Debug)]
struct StandingAnswer {
    given: Time,
    /// Direction of the policy's wish.
    grows: bool,
    /// Number of ranks that the policy wanted, before bounds.
    wanted: u32,
    /// Number of ranks that was chosen.
    ranks: u32,
    text: String,
}

/// A question without an answer.
#[derive(Debug)]
struct OpenQuestion {
    /// To be completed: the answer is missing.
    advice: Advice,
    target: Target,
    /// The answer, and when it counts.
    answer: Option<(Time, Result<Answer, String>)>,
}

/// What became of the open question.
#[derive(Debug, PartialEq)]
pub(super) enum Outcome {
    /// There is none.
    Idle,
    /// An answer may still come.
    Waiting,
    /// This target of the policy is to be carried out with this number of ranks.
    Settled(Target, u32),
}

/// Asks for advice and weighs the answers. One per run.
#[derive(Debug, Default)]
pub struct Advisor {
    open: Option<OpenQuestion>,
    unsent: Option<Question>,
    asked: u32,
    failures: u32,
    is_silent: bool,
    stands: Option<StandingAnswer>,
    /// The answers of an earlier run, which are given again instead of asking.
    recorded: Option<VecDeque<Advice>>,
    settled: Option<Advice>,
    warning: Option<String>,
}

impl Advisor {
    /// An advisor that gives the answers of an earlier run again, each after the time that it took.
    pub fn replaying(recorded: &[Advice]) -> Advisor {
        Advisor { recorded: Some(recorded.iter().cloned().collect()), ..Advisor::default() }
    }

    /// Applies an earlier answer that still stands to what the policy wants now.
    pub(super) fn apply_standing(&mut self, now: Time, supply: u32, target: Target) -> Target {
        let is_over = |stands: &mut StandingAnswer| {
            let is_larger = match stands.grows {
                true => target.ranks > stands.wanted.max(supply),
                false => target.ranks < stands.wanted.min(supply),
            };
            is_larger || now.since(stands.given) >= STANDS_FOR
        };
        self.stands.take_if(is_over);
        let Some(stands) = &self.stands else { return target };
        if target.ranks == supply || (target.ranks > supply) != stands.grows {
            return target;
        }
        let ranks = match stands.grows {
            true => target.ranks.min(stands.ranks.max(supply)),
            false => target.ranks.max(stands.ranks.min(supply)),
        };
        let ago = seconds(now.since(stands.given).as_secs_f64());
        let reason = format!("{}; {ago} ago {}", target.reason, stands.text);
        Target { ranks, reason, ..target }
    }

    /// Asks about a change. False if nobody can be asked: then it is carried out.
    pub(super) fn ask(&mut self, matter: &Matter<'_>) -> bool {
        if self.is_silent {
            return false;
        }
        let offered = offered(matter);
        let candidates: Vec<u32> = offered.iter().map(|candidate| candidate.ranks).collect();
        let Matter { now, policy, supply, bounds, target, inputs, prices, .. } = *matter;
        let answer = match &mut self.recorded {
            Some(recorded) => {
                let Some(advice) = recorded.pop_front() else { return false };
                Some((now.after(advice.answered.since(advice.asked).min(MAX_WAIT)), again(&advice, &candidates)))
            }
            None => None,
        };
        self.asked += 1;
        let wanted = candidates.iter().position(|&ranks| ranks == matter.wanted).unwrap_or(0) as u32;
        if self.recorded.is_none() {
            self.unsent = Some(Question {
                question: self.asked,
                time_s: now.seconds(),
                policy: policy.to_owned(),
                ranks: supply,
                min_ranks: bounds.0,
                max_ranks: bounds.1,
                wanted,
                confidence: target.confidence,
                candidates: offered,
                active: inputs.active,
                joining: inputs.joining,
                requested: inputs.requested,
                parked: inputs.parked,
                draining: inputs.draining,
                tasks_ready: inputs.ready,
                tasks_running: inputs.running,
                tasks_remaining: inputs.remaining,
                utilisation: inputs.utilisation,
                spent: inputs.spent,
                committed: inputs.committed,
                budget: prices.budget,
                deadline_s: prices.deadline.map(Time::seconds),
                provisioning_s: inputs.provisioning_s,
            });
        }
        let advice = Advice {
            question: self.asked,
            decision: 0,
            asked: now,
            answered: now,
            from: supply,
            wanted: matter.wanted,
            candidates,
            verdict: Verdict::Failure,
            reason: String::new(),
        };
        self.open = Some(OpenQuestion { advice, target: target.clone(), answer });
        true
    }

    /// The question to be sent, once.
    pub(super) fn question(&mut self) -> Option<Question> {
        self.unsent.take()
    }

    /// Takes the answer to a question, or what went wrong. One that is not awaited is ignored.
    pub(super) fn answered(&mut self, now: Time, question: u32, answer: Result<Answer, String>) {
        if let Some(open) = self.open.as_mut().filter(|open| open.advice.question == question) {
            open.answer.get_or_insert((now, answer));
        }
    }

    /// Time until the open question is settled at the latest.
    pub(super) fn pause(&self, now: Time) -> Option<Duration> {
        let open = self.open.as_ref()?;
        let due = open.answer.as_ref().map_or(open.advice.asked.after(MAX_WAIT), |(at, _)| *at);
        Some(due.since(now))
    }

    /// Forgets the open question: something else has decided.
    pub(super) fn void(&mut self) {
        (self.open, self.unsent) = (None, None);
    }

    /// What became of the open question, with this supply of ranks now.
    pub(super) fn settle(&mut self, now: Time, supply: u32) -> Outcome {
        let is_void = |open: &mut OpenQuestion| open.advice.from != supply;
        if self.open.take_if(is_void).is_some() {
            self.void();
        }
        let Some(open) = &mut self.open else { return Outcome::Idle };
        let is_late = now.since(open.advice.asked) >= MAX_WAIT;
        let answer = match open.answer.take_if(|(at, _)| *at <= now) {
            Some((_, answer)) => answer,
            None if is_late => Err(format!("there was none within {}", seconds(MAX_WAIT.as_secs_f64()))),
            None => return Outcome::Waiting,
        };
        let Some(OpenQuestion { mut advice, mut target, .. }) = self.open.take() else { return Outcome::Idle };
        advice.answered = now;
        (advice.verdict, advice.reason) = verdict(answer, advice.candidates.len());
        match advice.verdict {
            Verdict::Failure => self.count_failure(&advice.reason),
            _ => self.failures = 0,
        }
        let ranks = advice.chosen().unwrap_or(advice.wanted);
        target.reason = format!("{}; {}", target.reason, advice.text());
        if advice.changed() {
            target.chosen = target.candidates.iter().position(|candidate| candidate.ranks == ranks);
            let (grows, wanted) = (advice.wanted > advice.from, target.ranks);
            self.stands = Some(StandingAnswer { given: now, grows, wanted, ranks, text: advice.text() });
        }
        self.settled = Some(advice);
        Outcome::Settled(target, ranks)
    }

    fn count_failure(&mut self, reason: &str) {
        self.failures += 1;
        if self.failures == MAX_FAILURES && self.recorded.is_none() {
            self.is_silent = true;
            let text = "the advisor failed three times in a row and is not asked any more, so the policy decides alone";
            self.warning = Some(format!("{text}: {reason}"));
        }
    }

    /// The question that was settled last, to be recorded with the number of the decision that
    /// followed, once.
    pub(super) fn take_settled(&mut self, decision: u32) -> Option<Advice> {
        self.settled.take().map(|advice| Advice { decision, ..advice })
    }

    /// A message for the user, once.
    pub(super) fn take_warning(&mut self) -> Option<String> {
        self.warning.take()
    }
}

/// A verdict on a question with this number of candidates, and its reason.
fn verdict(answer: Result<Answer, String>, candidates: usize) -> (Verdict, String) {
    match answer {
        Ok(Answer { candidate: None, reason }) => (Verdict::Veto, shortened(&reason)),
        Ok(Answer { candidate: Some(index), reason }) if (index as usize) < candidates => {
            (Verdict::Candidate(index), shortened(&reason))
        }
        Ok(Answer { candidate: Some(index), .. }) => {
            (Verdict::Failure, format!("it chose candidate {index} of {candidates}, numbered from 0"))
        }
        Err(why) => (Verdict::Failure, shortened(&why)),
    }
}

/// The answer of an earlier run to a question with other candidates.
fn again(advice: &Advice, candidates: &[u32]) -> Result<Answer, String> {
    let reason = advice.reason.clone();
    let same = |ranks: u32| candidates.iter().position(|&known| known == ranks);
    match (advice.verdict, advice.chosen()) {
        (Verdict::Veto, _) => Ok(Answer { candidate: None, reason }),
        (Verdict::Candidate(_), Some(ranks)) => match same(ranks) {
            Some(index) => Ok(Answer { candidate: Some(index as u32), reason }),
            None => Err(format!("{} were chosen then, which is no candidate now", counted(ranks, "rank"))),
        },
        _ => Err(reason),
    }
}

/// The candidates of a question, ascending: those of the policy that lie between the present number
/// and its target. Where the target follows a forecast, growth beyond the target can be chosen
/// too, within the bounds. None misses budget or deadline if the target does not.
fn offered(matter: &Matter<'_>) -> Vec<OfferedCandidate> {
    let Matter { supply, bounds: (least, most), target, wanted: goal, .. } = *matter;
    let chosen = target.chosen.and_then(|index| target.candidates.get(index));
    let wanted = OfferedCandidate {
        index: 0,
        ranks: goal,
        forecast: chosen.map(|candidate| candidate.forecast()),
        feasible: chosen.map(|candidate| candidate.feasible),
    };
    let highest = if target.by_forecast && goal > supply { most } else { supply.max(goal) };
    let allowed = supply.min(goal)..=highest;
    let needs_feasible = wanted.feasible != Some(false);
    let others = target.candidates.iter().filter(|candidate| {
        let ranks = candidate.ranks;
        let is_bounded = ranks == supply || (least..=most).contains(&ranks);
        is_bounded && ranks != goal && allowed.contains(&ranks) && (candidate.feasible || !needs_feasible)
    });
    let others = others.map(|candidate| OfferedCandidate {
        index: 0,
        ranks: candidate.ranks,
        forecast: Some(candidate.forecast()),
        feasible: Some(candidate.feasible),
    });
    let mut all: Vec<OfferedCandidate> = others.chain([wanted]).collect();
    all.sort_by_key(|candidate| candidate.ranks);
    all.dedup_by_key(|candidate| candidate.ranks);
    all.iter_mut().zip(0..).for_each(|(candidate, index)| candidate.index = index);
    all
}

#[cfg(test)]
mod tests;
