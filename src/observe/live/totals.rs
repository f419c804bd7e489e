//! Sums over the ended attempts of the last session, by state, rank and class, updated as the
//! journal grows.

use std::collections::VecDeque;

use rustc_hash::FxHashMap;

use crate::model::{Attempt, State, total};
use crate::observe::latency::ClassLatency;
use crate::observe::run_view::{RunView, run_ns};

/// Number of latest failures kept.
const FAILURES: usize = 20;

/// Sums of one rank.
#[derive(Clone, Debug, Default)]
pub(super) struct RankTotals {
    pub attempts: u64,
    pub failed: u64,
    /// Slot-seconds that its attempts used.
    pub work_s: f64,
}

/// Sums over the last session.
#[derive(Default)]
pub(super) struct Totals {
    session: u32,
    /// Number of attempts of the session that are counted.
    counted: usize,
    states: [u64; State::ALL.len()],
    kept: u64,
    pub ranks: FxHashMap<u32, RankTotals>,
    classes: Vec<ClassLatency>,
    class_numbers: FxHashMap<String, usize>,
    /// Number of attempts by class and state.
    pub attempts: FxHashMap<(usize, State), u64>,
    /// Number of tasks by class whose result was taken from the cache.
    pub cached: FxHashMap<usize, u64>,
    /// Indices of the latest failures in the session, newest first.
    pub failures: VecDeque<usize>,
}

impl Totals {
    /// Counts the attempts appended since the last call.
    pub fn count(&mut self, view: &RunView) {
        let session = view.session();
        if session.began.session != self.session {
            let kept = session.began.kept.iter().map(|run| u64::from(run.count)).sum();
            *self = Totals { session: session.began.session, kept, ..Totals::default() };
            self.states[State::Completed as usize] = kept;
        }
        for (index, attempt) in session.attempts.iter().enumerate().skip(self.counted) {
            self.add(view, index, attempt);
        }
        self.counted = session.attempts.len();
    }

    fn add(&mut self, view: &RunView, index: usize, attempt: &Attempt) {
        let job = &view.subject().job;
        let state = attempt.outcome.state;
        if attempt.last {
            self.states[state as usize] += 1;
        }
        if attempt.attempt == 0 {
            return;
        }
        let slots = job.slots(attempt.task);
        let class = self.class_number(job.class(attempt.task));
        *self.attempts.entry((class, state)).or_default() += 1;
        if attempt.outcome.cached {
            *self.cached.entry(class).or_default() += 1;
        }
        let waited = attempt.start.0.saturating_sub(attempt.ready.0);
        self.classes[class].count(run_ns(attempt), waited, slots, state.is_failure());
        let rank = self.ranks.entry(attempt.rank.0).or_default();
        rank.attempts += 1;
        rank.failed += u64::from(state.is_failure());
        job.each_rank(attempt, &mut |rank, slots| {
            self.ranks.entry(rank).or_default().work_s += run_ns(attempt) as f64 / 1e9 * f64::from(slots);
        });
        if state.is_failure() {
            self.failures.push_front(index);
            self.failures.truncate(FAILURES);
        }
    }

    fn class_number(&mut self, name: &str) -> usize {
        if let Some(number) = self.class_numbers.get(name) {
            return *number;
        }
        self.classes.push(ClassLatency { name: name.to_owned(), ..ClassLatency::default() });
        self.class_numbers.insert(name.to_owned(), self.classes.len() - 1);
        self.classes.len() - 1
    }

    /// Number of tasks in a final state.
    pub fn of(&self, state: State) -> u64 {
        self.states[state as usize]
    }

    /// Number of tasks that ran and did not succeed.
    pub fn failed(&self) -> u64 {
        State::ALL.into_iter().filter(|state| state.is_failure()).map(|state| self.of(state)).sum()
    }

    /// Number of tasks in any final state.
    pub fn ended(&self) -> u64 {
        self.states.iter().sum()
    }

    /// Number of tasks that ended in this session, without those kept from earlier sessions.
    pub fn ended_here(&self) -> u64 {
        self.ended() - self.kept
    }

    /// The classes in order of first appearance.
    pub fn classes(&self) -> &[ClassLatency] {
        &self.classes
    }

    /// Index of a class in [`Totals::classes`].
    pub fn number_of(&self, class: &str) -> Option<usize> {
        self.class_numbers.get(class).copied()
    }

    /// Slot-seconds of all attempts.
    pub fn work_s(&self) -> f64 {
        total(self.ranks.values().map(|rank| rank.work_s))
    }
}
