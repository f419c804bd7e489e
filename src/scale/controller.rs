//! Decides about ranks, in a real run and in a simulated one: the scaling core with what it is
//! shown.
//!
//! The driver (rank 0 of a real run, or the simulator) reports which tasks wait, run and are left,
//! how long those took that ended, what nodes cost and how long they take to come. It carries out
//! what is decided here.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::elasticity::LevelStep;
use super::estimate::{History, Learnt, Moment};
use super::forecast::Forecaster;
use super::{
    Action, BudgetAlert, ClassId, ClassPrior, Customs, Decision, Effect, Estimates, Forecast, NodeTypeId, Observation,
    Prices, RankView, RemainingWork, RequestView, Samples, Scaler, TaskCounts, TaskFacts,
};
use crate::graph::link::GroupId;
use crate::job::Job;
use crate::model::{Attempt, Measure, Rank, RankState, TaskId, Time, Vitals};
use crate::workload::{PreparedJob, TaskEstimates, requirements};

/// Observes a run and decides about its ranks.
pub(crate) struct ScalingController {
    scaler: Scaler,
    estimates: Estimates,
    pub(crate) prices: Prices,
    /// Time between two decisions.
    pub(crate) interval: Duration,
    /// What is still to be run, and how far it is.
    work: RemainingWork,
    /// Tasks that are known to run.
    known_running: Vec<TaskId>,
    /// How many tasks run, known or not.
    busy: u64,
    completed: u64,
    failed: u64,
    window: Window,
    /// What each rank and its node used at the last report.
    usage: BTreeMap<Rank, Vitals>,
    /// Values that tasks wrote, as far as a rule asks for them.
    custom: Customs,
    /// Slots that running and waiting tasks could use, from decision to decision.
    pub(crate) demand: Vec<LevelStep>,
    last: Option<(Action, u32)>,
    forecaster: Forecaster,
    /// Forecasts of policies that make one, one per decision.
    pub(crate) forecasts: Vec<(Time, Forecast)>,
}

/// The job as decisions see it.
struct JobFacts {
    job: Arc<Job>,
    estimates: Arc<TaskEstimates>,
    /// The class of each group.
    classes: Vec<ClassId>,
}

impl JobFacts {
    fn facts(&self, task: TaskId) -> TaskFacts {
        let place = self.job.group_of(task);
        let at = place.0 as usize;
        let group = &self.job.groups[at];
        TaskFacts {
            class: self.classes[at],
            // Where the job file gives none, the estimate is a guess.
            prior: group.estimate.map(|_| Duration::from_nanos(self.estimates.ns(place))),
            slots: requirements::slots(group),
        }
    }
}

/// What has happened since the last decision.
#[derive(Debug, Default)]
struct Window {
    since: Time,
    waits: Vec<Duration>,
    ended: u64,
    failed: u64,
}

impl ScalingController {
    /// Decides by `scaler`, every `interval`. Nodes of each type take `delays` to come, as far as
    /// is known.
    pub(crate) fn new(
        prepared: &PreparedJob,
        scaler: Scaler,
        prices: Prices,
        interval: Duration,
        delays: &[Duration],
    ) -> ScalingController {
        let PreparedJob { job, graph, estimates, .. } = prepared;
        let (classes, firsts) = job.classes();
        let prior = |first: &GroupId| {
            let group = &job.groups[*first as usize];
            ClassPrior { name: Arc::clone(&group.class), estimate: group.estimate }
        };
        let priors = firsts.iter().map(prior).collect();
        let classes = classes.into_iter().map(ClassId).collect();
        let facts = JobFacts { job: Arc::clone(job), estimates: Arc::clone(estimates), classes };
        ScalingController {
            work: RemainingWork::new(Arc::clone(graph), Arc::new(move |task| facts.facts(task))),
            scaler,
            estimates: Estimates::new(priors, delays),
            prices,
            interval,
            known_running: Vec::new(),
            busy: 0,
            completed: 0,
            failed: 0,
            window: Window::default(),
            usage: BTreeMap::new(),
            custom: Customs::new(),
            demand: Vec::new(),
            last: None,
            forecaster: Forecaster::new(),
            forecasts: Vec::new(),
        }
    }

    /// Replaces guesses by what earlier runs found: for the classes that were learnt, and for
    /// nodes, which are all of one kind.
    pub(crate) fn recall(&mut self, history: &History, moment: Moment, learnt: &[Learnt], kind: &str) {
        let classes: Vec<&str> = learnt.iter().map(|learnt| learnt.class.as_str()).collect();
        self.estimates.recall(history, moment, &classes, &[kind]);
    }

    /// A task has been complete since an earlier session.
    pub(crate) fn was_complete(&mut self, task: TaskId) {
        self.completed += u64::from(self.work.ended(task));
    }

    /// A task waits for a slot.
    pub(crate) fn task_ready(&mut self, task: TaskId) {
        self.work.became_ready(task);
    }

    /// A task waited for a slot for this long.
    pub(crate) fn task_waited(&mut self, waited: Duration) {
        self.window.waits.push(waited);
    }

    /// Takes which tasks have been running for a while and since when, and how many run in all
    /// (`busy`). The others count as ready where it matters which ones they are: they have hardly
    /// begun.
    pub(crate) fn update_running(&mut self, busy: u64, running: impl Iterator<Item = (TaskId, Time)>) {
        for task in std::mem::take(&mut self.known_running) {
            if self.work.is_running(task) {
                self.work.became_ready(task);
            }
        }
        self.busy = busy;
        for (task, start) in running {
            self.work.started(task, start);
            self.known_running.push(task);
        }
    }

    /// True until a task has its final state.
    pub(crate) fn is_open(&self, task: TaskId) -> bool {
        self.work.is_open(task)
    }

    /// A task runs no more, and may have to run again.
    pub(crate) fn task_stopped(&mut self, task: TaskId) {
        self.work.stopped(task);
    }

    /// An attempt has ended.
    pub(crate) fn attempt_ended(&mut self, attempt: &Attempt) {
        if attempt.attempt > 0 {
            self.window.ended += 1;
            self.window.failed += u64::from(!attempt.outcome.ok());
        }
        let TaskFacts { class, prior, .. } = self.work.facts(attempt.task);
        let took = attempt.end.since(attempt.start);
        if attempt.outcome.ok() {
            self.estimates.observe_task(class, prior, took);
        } else if attempt.attempt > 0 && attempt.outcome.state.is_failure() && took > Duration::ZERO {
            self.estimates.observe_failure(class, prior, took);
        }
        if attempt.last && self.work.ended(attempt.task) {
            match attempt.outcome.ok() {
                true => self.completed += 1,
                false => self.failed += 1,
            }
        }
    }

    /// How many tasks are in which state. Those that run are as many as the coordinator counts,
    /// known or not.
    fn counts(&self) -> TaskCounts {
        let (ready, known) = (self.work.ready_count(), self.work.running_count());
        let running = self.busy.max(known);
        TaskCounts {
            total: self.work.graph().task_count() as u64,
            remaining: self.work.count(),
            ready: (ready + known).saturating_sub(running),
            running,
            completed: self.completed,
            failed: self.failed,
        }
    }

    /// Tasks wrote values.
    pub(crate) fn update_measures(&mut self, measures: &[Measure]) {
        for measure in measures.iter().filter(|measure| self.scaler.asks_for(&measure.name)) {
            self.custom.insert(measure.name.clone(), measure.value);
        }
    }

    /// A requested rank takes part, this long after the request.
    pub(crate) fn rank_arrived(&mut self, kind: NodeTypeId, took: Duration) {
        self.estimates.observe_delay(kind, took);
    }

    /// A rank reports what it and its node use.
    pub(crate) fn update_usage(&mut self, rank: Rank, vitals: &Vitals) {
        self.usage.insert(rank, *vitals);
    }

    /// The fullest memory of nodes, and how busy GPUs are on average, of active ranks that have
    /// reported.
    fn usage_of(&self, ranks: &[RankView]) -> (Option<f64>, Option<f64>) {
        let active = ranks.iter().filter(|rank| rank.state == RankState::Active);
        let told: Vec<&Vitals> = active.filter_map(|rank| self.usage.get(&rank.rank)).collect();
        let with_memory = told.iter().filter(|vitals| vitals.node_memory > 0);
        let full = with_memory.map(|vitals| vitals.node_memory_used as f64 / vitals.node_memory as f64);
        let busy: Vec<f64> = told.iter().filter(|vitals| vitals.gpu_memory > 0).map(|vitals| vitals.gpu_busy).collect();
        let mean = (!busy.is_empty()).then(|| busy.iter().sum::<f64>() / busy.len() as f64);
        (full.max_by(f64::total_cmp), mean)
    }

    /// Holds the run at this many ranks; `None` lets the policy decide again.
    pub(crate) fn hold(&mut self, ranks: Option<u32>) {
        self.scaler.hold(ranks);
    }

    /// Decides; `settled` is what nodes that have ended cost.
    pub(crate) fn decide(
        &mut self,
        now: Time,
        ranks: &[RankView],
        requests: &[RequestView],
        settled: f64,
    ) -> Vec<Decision> {
        let (memory, gpu) = self.usage_of(ranks);
        let samples = Samples { memory, gpu, ..self.window.close(now) };
        let counts = self.counts();
        self.demand.push((now, (counts.ready + counts.running) as f64));
        let (remaining, custom) = (&self.work, &self.custom);
        let seen = Observation { now, ranks, requests, counts, remaining, samples, custom, settled };
        let decisions = self.scaler.decide(&seen, &self.estimates, &self.prices);
        self.forecasts.extend(decisions.last().and_then(|decision| decision.forecast).map(|forecast| (now, forecast)));
        decisions
    }

    /// Forecasts the end of the run: as the decision of this moment does, or, if its policy makes
    /// no forecast, with the ranks that there are.
    pub(crate) fn foresee(
        &mut self,
        now: Time,
        ranks: &[RankView],
        requests: &[RequestView],
        settled: f64,
    ) -> Option<Forecast> {
        if let Some((_, forecast)) = self.forecasts.last().filter(|(made, _)| *made == now) {
            return Some(*forecast);
        }
        let (counts, samples) = (self.counts(), Samples::default());
        let (remaining, custom) = (&self.work, &self.custom);
        let seen = Observation { now, ranks, requests, counts, remaining, samples, custom, settled };
        self.forecaster.foresee(&seen, &self.estimates, &self.prices)
    }

    /// True if a decision says something that the one before did not: any change; and of those to
    /// stay the first, and each that holds another wish back.
    pub(crate) fn is_news(&mut self, decision: &Decision) -> bool {
        let now = (decision.action.clone(), decision.wish);
        let stays = decision.action == Action::Stay;
        let news = !stays || self.last.as_ref() != Some(&now);
        self.last = Some(now);
        news
    }

    /// What came of earlier decisions, by their numbers.
    pub(crate) fn effects(&mut self) -> Vec<(u32, Effect)> {
        self.scaler.effects()
    }

    /// Messages of the budget's alarms.
    pub(crate) fn alarms(&mut self) -> Vec<String> {
        let text = |alert: BudgetAlert| {
            format!("{} % of the budget are spent: {:.2} of {:.2}", alert.percent, alert.spent, alert.budget)
        };
        self.scaler.alerts().into_iter().map(text).collect()
    }
}

impl Window {
    /// Returns what was measured since the last decision, and begins anew.
    fn close(&mut self, now: Time) -> Samples {
        let mut window = std::mem::replace(self, Window { since: now, ..Window::default() });
        let passed = now.since(window.since).as_secs_f64();
        window.waits.sort_unstable();
        let p95 = (window.waits.len() * 95).div_ceil(100).checked_sub(1).and_then(|at| window.waits.get(at).copied());
        Samples {
            queue_wait_p95: p95,
            error_rate: (window.ended > 0).then(|| window.failed as f64 / window.ended as f64),
            throughput: (passed > 0.0).then(|| (window.ended - window.failed) as f64 / passed),
            ..Samples::default()
        }
    }
}
