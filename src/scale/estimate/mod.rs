//! Estimates of durations: of tasks by class, and of the delay until a new node arrives.
//!
//! The quantity learnt for a class is not a duration but the factor between a task's own prior (its
//! `estimate` in the job file) and the time that it took. So a sweep whose members take `{n}`
//! minutes each is one class, and one observation says something about all members. Without a
//! prior, the factor is relative to one second.
//!
//! A class without any information borrows from the other classes of the job: from their estimates
//! in the job file, and from the first observation of each class without one.

mod anomaly;
mod history;
mod lognormal;
mod requests;
mod run_stats;

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use rustc_hash::FxHashSet;
use serde::{Deserialize, Serialize};

use super::price::NodeTypeId;
use super::sites::WaitSource;

pub use anomaly::{Anomaly, Quantity};
pub use history::{Expected, History, KEPT, Learnt, Moment, RunRecord, Summary};
pub use lognormal::{LogNormal, SPREAD};
pub use requests::{FittingRequest, RequestOutcome, UsedAmount, fit, outcome};
pub use run_stats::RunStats;

/// Number of a class of tasks; the driver numbers the classes of the job from 0.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ClassId(pub u32);

/// The prior knowledge of a class.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ClassPrior {
    /// Its name.
    pub name: Arc<str>,
    /// Duration of one of its tasks, if the job file has one (for tasks that differ, see
    /// [`RemainingTask::prior`](super::RemainingTask::prior)).
    pub estimate: Option<Duration>,
    /// Its tasks have estimates of their own, which differ. Who wrote them knows these tasks, not
    /// only tasks like them.
    pub has_own_estimates: bool,
}

/// Quantiles of a duration, in seconds.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Quantiles {
    /// One of ten is shorter.
    pub q10: f64,
    /// Half are shorter.
    pub q50: f64,
    /// Nine of ten are shorter.
    pub q90: f64,
}

impl Quantiles {
    /// All quantiles times a factor.
    fn times(self, factor: f64) -> Quantiles {
        Quantiles { q10: self.q10 * factor, q50: self.q50 * factor, q90: self.q90 * factor }
    }
}

/// Assumed duration of a task where nothing is known, in seconds.
const UNKNOWN_TASK_S: f64 = 10.0;

/// Assumed delay of a node where nothing is known.
pub const UNKNOWN_DELAY: Duration = Duration::from_secs(60);

/// What has been learnt so far.
#[derive(Clone, Debug)]
pub struct Estimates {
    classes: Vec<ClassEstimate>,
    /// Durations of the other classes' tasks, for a class without information.
    unseen: LogNormal,
    /// By node type.
    delays: Vec<DelayEstimate>,
    /// Number of tasks whose duration was far from all others of their class.
    odd: u64,
}

/// A batch system's estimate of a wait counts as this many observations: as one earlier run at the
/// same hour. It knows the queue of the moment, and not what will be submitted or end early.
const BATCH_ESTIMATE_WORTH: f64 = 10.0;

/// The time until a node of one type arrives.
#[derive(Clone, Debug)]
pub struct DelayEstimate {
    /// What this run and earlier ones observed; without that, a guess.
    observed: LogNormal,
    /// False for a guess.
    is_known: bool,
    /// The present estimate of the batch system, in seconds.
    of_batch_system: Option<f64>,
}

impl DelayEstimate {
    /// Nothing is known, and this is assumed.
    pub fn assumed(delay: Duration) -> DelayEstimate {
        let observed = LogNormal::guess(lognormal::seconds(delay));
        DelayEstimate { observed, is_known: false, of_batch_system: None }
    }

    /// Takes what earlier runs observed in place of a guess.
    #[must_use]
    pub fn recalled(self, observed: Option<LogNormal>) -> DelayEstimate {
        match observed {
            Some(observed) => DelayEstimate { observed, is_known: true, ..self },
            None => self,
        }
    }

    /// Takes the present estimate of the batch system in seconds, if it has one.
    #[must_use]
    pub fn with_batch_estimate(self, seconds: Option<f64>) -> DelayEstimate {
        DelayEstimate { of_batch_system: seconds, ..self }
    }

    /// The distribution of the delay. The estimate of the batch system is a prior: it counts in
    /// place of a guess, and beside what was observed.
    pub fn distribution(&self) -> Cow<'_, LogNormal> {
        match self.of_batch_system {
            Some(seconds) if self.is_known => Cow::Owned(self.observed.with_prior(seconds, BATCH_ESTIMATE_WORTH)),
            Some(seconds) => Cow::Owned(LogNormal::guess(seconds.max(1e-9))),
            None => Cow::Borrowed(&self.observed),
        }
    }

    /// What it is based on.
    pub fn source(&self) -> WaitSource {
        match (self.is_known, self.of_batch_system) {
            (false, None) => WaitSource::Assumed,
            (true, None) => WaitSource::Learnt,
            (false, Some(_)) => WaitSource::Slurm,
            (true, Some(_)) => WaitSource::LearntAndSlurm,
        }
    }
}

/// One class: the distribution of the factor between prior and duration.
#[derive(Clone, Debug)]
struct ClassEstimate {
    name: Arc<str>,
    /// Reference duration of the factor in seconds, for a task without a prior of its own.
    size: f64,
    factor: LogNormal,
    /// True if there is information about it: from the job file, an earlier run, or an attempt.
    known: bool,
    /// Durations of failed attempts: the only information about a class none of whose tasks has
    /// completed.
    failed: LogNormal,
}

impl Estimates {
    /// Creates estimates from priors alone; nodes of a type take `delays[type]` to arrive (a minute
    /// for types that are not listed).
    pub fn new(classes: Vec<ClassPrior>, delays: &[Duration]) -> Estimates {
        let mut estimates = Estimates {
            classes: Vec::new(),
            unseen: LogNormal::of_other_classes(UNKNOWN_TASK_S),
            delays: delays.iter().copied().map(DelayEstimate::assumed).collect(),
            odd: 0,
        };
        estimates.grow(classes);
        estimates
    }

    /// Takes the classes that follow those it has; `classes` has all.
    pub fn grow(&mut self, classes: Vec<ClassPrior>) {
        for ClassPrior { name, estimate, has_own_estimates } in classes.into_iter().skip(self.classes.len()) {
            estimate.iter().for_each(|&estimate| self.unseen.observe(lognormal::seconds(estimate)));
            self.classes.push(ClassEstimate {
                name,
                size: estimate.map_or(1.0, lognormal::seconds),
                factor: match estimate {
                    Some(_) if has_own_estimates => LogNormal::estimated_one_by_one(1.0),
                    Some(_) => LogNormal::estimated(1.0),
                    None => LogNormal::unknown(UNKNOWN_TASK_S),
                },
                known: estimate.is_some(),
                failed: LogNormal::unknown(UNKNOWN_TASK_S),
            });
        }
    }

    /// Replaces guesses with observations of earlier runs: for these classes, and for the delay of
    /// nodes of these kinds.
    pub fn recall(&mut self, history: &History, moment: Moment, classes: &[&str], kinds: &[&str]) {
        let classes: FxHashSet<&str> = classes.iter().copied().collect();
        for class in self.classes.iter_mut().filter(|class| classes.contains(&*class.name)) {
            if let Some(belief) = history.class(&class.name, class.size, moment) {
                if !class.known {
                    self.unseen.observe(belief.quantiles().q50 * class.size);
                }
                (class.factor, class.known) = (belief, true);
            }
        }
        for (delay, kind) in self.delays.iter_mut().zip(kinds) {
            *delay = delay.clone().recalled(history.delay(kind, moment));
        }
    }

    /// Learns from a completed task: its class, its own prior, and its duration. Returns true if
    /// the duration is so far from the others of its class that a cause other than chance is
    /// likely.
    pub fn observe_task(&mut self, class: ClassId, prior: Option<Duration>, took: Duration) -> bool {
        let Some(class) = self.classes.get_mut(class.0 as usize) else { return false };
        let factor = lognormal::seconds(took) / class.size_of(prior);
        if !std::mem::replace(&mut class.known, true) {
            self.unseen.observe(factor);
        }
        let odd = class.factor.is_odd(factor);
        class.factor.observe(factor);
        self.odd += u64::from(odd);
        odd
    }

    /// Learns from a failed attempt. It counts only for a class without better information.
    pub fn observe_failure(&mut self, class: ClassId, prior: Option<Duration>, took: Duration) {
        if let Some(class) = self.classes.get_mut(class.0 as usize) {
            let factor = lognormal::seconds(took) / class.size_of(prior);
            class.failed.observe(factor);
        }
    }

    /// True if there is information about the duration of this class: from the job file, an earlier
    /// run, or an attempt.
    pub fn is_known(&self, class: ClassId) -> bool {
        self.classes.get(class.0 as usize).is_some_and(|class| class.known || class.failed.seen() > 0)
    }

    /// Learns the time that a node of a type took from the request to an active rank.
    pub fn observe_delay(&mut self, node_type: NodeTypeId, took: Duration) {
        if let Some(delay) = self.delay_mut(node_type) {
            delay.observed.observe(lognormal::seconds(took));
            delay.is_known = true;
        }
    }

    /// Takes the batch system's present estimate of the time in seconds until a node of a type
    /// arrives; `None`: it has none.
    pub fn set_batch_estimate(&mut self, node_type: NodeTypeId, seconds: Option<f64>) {
        if let Some(delay) = self.delay_mut(node_type) {
            delay.of_batch_system = seconds;
        }
    }

    fn delay_mut(&mut self, node_type: NodeTypeId) -> Option<&mut DelayEstimate> {
        let at = node_type.0 as usize;
        while self.delays.len() <= at && at < 1 << 16 {
            self.delays.push(DelayEstimate::assumed(UNKNOWN_DELAY));
        }
        self.delays.get_mut(at)
    }

    /// Duration of a task of a class.
    pub fn task(&self, class: ClassId, prior: Option<Duration>) -> Quantiles {
        self.belief(class).quantiles().times(self.size(class, prior))
    }

    /// Median time in seconds that a task running for `elapsed` still needs.
    pub fn rest(&self, class: ClassId, prior: Option<Duration>, elapsed: Duration) -> f64 {
        let size = self.size(class, prior);
        self.belief(class).rest(elapsed.as_secs_f64() / size, 0.5) * size
    }

    /// Time until a requested node of a type arrives.
    pub fn delay(&self, node_type: NodeTypeId) -> Quantiles {
        self.delay_distribution(node_type).quantiles()
    }

    /// What the time until a requested node of a type arrives is based on.
    pub fn delay_source(&self, node_type: NodeTypeId) -> WaitSource {
        self.delays.get(node_type.0 as usize).map(DelayEstimate::source).unwrap_or_default()
    }

    /// Median time in seconds until a node arrives that was requested `elapsed` ago.
    pub fn delay_rest(&self, node_type: NodeTypeId, elapsed: Duration) -> f64 {
        self.delay_distribution(node_type).rest(elapsed.as_secs_f64(), 0.5)
    }

    fn delay_distribution(&self, node_type: NodeTypeId) -> Cow<'_, LogNormal> {
        match self.delays.get(node_type.0 as usize) {
            Some(delay) => delay.distribution(),
            None => Cow::Owned(LogNormal::guess(lognormal::seconds(UNKNOWN_DELAY))),
        }
    }

    /// Number of classes.
    pub fn class_count(&self) -> usize {
        self.classes.len()
    }

    /// How many tasks of a class have been observed.
    pub fn seen(&self, class: ClassId) -> u64 {
        self.classes.get(class.0 as usize).map_or(0, |class| class.factor.seen())
    }

    /// Number of tasks whose duration was far from all others of their class.
    pub fn odd(&self) -> u64 {
        self.odd
    }

    /// The distribution of the factor between the size of a task ([`Estimates::size`]) and its
    /// duration.
    pub(super) fn factor(&self, class: ClassId) -> &LogNormal {
        self.belief(class)
    }

    fn belief(&self, class: ClassId) -> &LogNormal {
        match self.classes.get(class.0 as usize) {
            Some(class) if class.known => &class.factor,
            Some(class) if class.failed.seen() > 0 => &class.failed,
            _ => &self.unseen,
        }
    }

    /// Reference duration of a task's factor, in seconds.
    pub(super) fn size(&self, class: ClassId, prior: Option<Duration>) -> f64 {
        self.classes.get(class.0 as usize).map_or(1.0, |class| class.size_of(prior))
    }
}

impl ClassEstimate {
    fn size_of(&self, prior: Option<Duration>) -> f64 {
        prior.map_or(self.size, lognormal::seconds)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn estimates() -> Estimates {
        let prior = |name: &str, estimate| ClassPrior { name: name.into(), estimate, has_own_estimates: false };
        Estimates::new(vec![prior("known", Some(Duration::from_secs(100))), prior("unknown", None)], &[])
    }

    #[test]
    fn one_size_tells_about_another() {
        let mut estimates = estimates();
        for _ in 0..30 {
            estimates.observe_task(ClassId(0), Some(Duration::from_secs(10)), Duration::from_secs(20));
        }
        let long = estimates.task(ClassId(0), Some(Duration::from_secs(1000)));
        assert!((long.q50 - 2000.0).abs() < 100.0, "{long:?}");
        assert!((estimates.task(ClassId(0), None).q50 - 200.0).abs() < 10.0);
    }

    #[test]
    fn an_unknown_class_is_learnt_and_odd_ones_are_noticed() {
        let mut estimates = estimates();
        for k in 0..40 {
            let odd = estimates.observe_task(ClassId(1), None, Duration::from_millis(1000 + k));
            assert!(!odd);
        }
        assert!((estimates.task(ClassId(1), None).q50 - 1.02).abs() < 0.05);
        assert!(estimates.observe_task(ClassId(1), None, Duration::from_secs(60)));
        assert_eq!((estimates.odd(), estimates.seen(ClassId(1))), (1, 41));
    }

    #[test]
    fn classes_that_ran_tell_of_those_that_have_not() {
        let class = |name: usize| ClassPrior { name: name.to_string().into(), ..ClassPrior::default() };
        let mut estimates = Estimates::new((0..20).map(class).collect(), &[]);
        let before = estimates.task(ClassId(19), None);
        for class in 0..15 {
            assert!(!estimates.observe_task(ClassId(class), None, Duration::from_millis(250)));
        }
        let after = estimates.task(ClassId(19), None);
        assert!(before.q50 > 5.0 && (0.2..0.4).contains(&after.q50), "{before:?}, then {after:?}");
        assert_eq!(estimates.seen(ClassId(19)), 0);
    }

    #[test]
    fn an_unknown_class_is_thought_to_be_like_the_others_of_its_job() {
        let of = |seconds: &[u64]| {
            let known = seconds.iter().map(|&s| Some(Duration::from_secs(s)));
            let class = |estimate| ClassPrior { name: "class".into(), estimate, ..ClassPrior::default() };
            Estimates::new([None].into_iter().chain(known).map(class).collect(), &[]).task(ClassId(0), None)
        };
        let (alone, beside) = (of(&[]), of(&[300, 500, 400]));
        assert!(alone.q90 / alone.q50 > 10.0, "{alone:?}");
        assert!((100.0..500.0).contains(&beside.q50) && beside.q90 / beside.q50 < 8.0, "{beside:?}");
    }

    #[test]
    fn failed_attempts_tell_until_a_task_has_completed() {
        let mut estimates = estimates();
        assert!(estimates.is_known(ClassId(0)) && !estimates.is_known(ClassId(1)));
        let unknown = estimates.task(ClassId(1), None);
        (0..3).for_each(|_| estimates.observe_failure(ClassId(1), None, Duration::from_secs(2)));
        let failed = estimates.task(ClassId(1), None);
        assert!(
            estimates.is_known(ClassId(1)) && unknown.q90 > 100.0 && failed.q90 < 10.0,
            "{unknown:?}, then {failed:?}"
        );
        estimates.observe_task(ClassId(1), None, Duration::from_secs(40));
        assert!(estimates.task(ClassId(1), None).q50 > 20.0);
        // Attempts that fail early do not change a class with an estimate.
        estimates.observe_failure(ClassId(0), None, Duration::from_secs(1));
        assert!((estimates.task(ClassId(0), None).q50 - 100.0).abs() < 1.0);
    }

    #[test]
    fn an_estimate_of_the_batch_system_counts_in_place_of_a_guess_and_beside_experience() {
        let of = |delay: &DelayEstimate| (delay.distribution().quantiles().q50, delay.source());
        let about = |is: f64, should: f64| (is / should - 1.0).abs() < 0.01;
        let guess = DelayEstimate::assumed(Duration::from_secs(15));
        assert_eq!(of(&guess).1, WaitSource::Assumed);
        let (wait, source) = of(&guess.clone().with_batch_estimate(Some(3600.0)));
        assert!(about(wait, 3600.0) && source == WaitSource::Slurm, "{wait}");
        let learnt = guess.recalled(Some(LogNormal::learnt(100f64.ln(), 0.01, 10.0)));
        assert!(about(of(&learnt).0, 100.0) && of(&learnt).1 == WaitSource::Learnt);
        let (wait, source) = of(&learnt.clone().with_batch_estimate(Some(10_000.0)));
        assert!(about(wait, 1000.0) && source == WaitSource::LearntAndSlurm, "the geometric mean of both: {wait}");
        assert_eq!(of(&learnt.with_batch_estimate(None)).1, WaitSource::Learnt);
        // What this run observes outweighs it.
        let mut estimates = Estimates::new(Vec::new(), &[Duration::from_secs(15)]);
        estimates.set_batch_estimate(NodeTypeId(0), Some(3600.0));
        (0..50).for_each(|_| estimates.observe_delay(NodeTypeId(0), Duration::from_secs(5)));
        assert!(estimates.delay(NodeTypeId(0)).q50 < 30.0);
    }

    #[test]
    fn delays_are_learnt_by_type() {
        let mut estimates = Estimates::new(Vec::new(), &[Duration::from_secs(300)]);
        assert!((estimates.delay(NodeTypeId(0)).q50 - 300.0).abs() < 1.0);
        (0..10).for_each(|_| estimates.observe_delay(NodeTypeId(1), Duration::from_secs(5)));
        assert!(estimates.delay(NodeTypeId(1)).q50 < 10.0);
        assert!((estimates.delay(NodeTypeId(0)).q50 - 300.0).abs() < 1.0);
    }
}
