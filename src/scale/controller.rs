//! Who decides about ranks, in a real run and in a simulated one: the scaling core, with what it is shown.
//!
//! It is shown which tasks wait, run and are left, how long those took that ended, what nodes cost and how long they take to come. What it decides
//! others carry out: the head of a real run, or the simulated world.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::glue;
use crate::graph::TaskGraph;
use crate::graph::link::GroupId;
use crate::job::Job;
use crate::model::{Attempt, Measure, Rank, RankState, TaskId, Time, Vitals};
use crate::scale::elasticity::Step;
use crate::scale::estimate::{History, Learnt, Moment};
use crate::scale::forecast::Forecaster;
use crate::scale::{
    Action, ClassId, ClassPrior, Counts, Customs, Decision, Effect, Estimates, Forecast, Observation, Prices, RankView,
    RemainingWork, RequestView, Samples, Scaler, TaskFacts,
};
use crate::schedule::coordinator::Coordinator;

/// See the module's text.
pub(crate) struct Captain {
    scaler: Scaler,
    beliefs: Estimates,
    pub(crate) prices: Prices,
    pub(crate) interval: Duration,
    /// What is still to be run, and how far it is.
    work: RemainingWork,
    /// Tasks that are known to run.
    known: Vec<TaskId>,
    /// How many tasks run, known or not.
    busy: u64,
    completed: u64,
    failed: u64,
    window: Window,
    /// What each rank and its node used when it told last.
    usage: BTreeMap<Rank, Vitals>,
    /// Values that tasks wrote, as far as a rule asks for them.
    custom: Customs,
    /// Slots that running and waiting tasks could use, from decision to decision.
    pub(crate) demand: Vec<Step>,
    last: Option<(Action, u32)>,
    forecaster: Forecaster,
    /// What a policy that looks ahead foresaw, from decision to decision.
    pub(crate) forecasts: Vec<(Time, Forecast)>,
}

/// The job as decisions see it.
struct Course {
    job: Arc<Job>,
    /// The estimated duration of each task, in nanoseconds.
    estimates: Arc<[u64]>,
    /// The class of each group.
    classes: Vec<ClassId>,
}

impl Course {
    fn facts(&self, task: TaskId) -> TaskFacts {
        let at = self.job.group_of(task).0 as usize;
        let group = &self.job.groups[at];
        TaskFacts {
            class: self.classes[at],
            // Where the job file gives none, the estimate is a guess.
            prior: group.estimate.map(|_| Duration::from_nanos(self.estimates[task.index()])),
            slots: glue::slots(group),
        }
    }
}

/// What happened since the last decision.
#[derive(Debug, Default)]
struct Window {
    since: Time,
    waits: Vec<Duration>,
    ended: u64,
    failed: u64,
}

impl Captain {
    /// Decides by `scaler`; nodes of each type take `delays` to come, as far as anybody knows.
    pub(crate) fn new(
        (job, graph, estimates): (Arc<Job>, Arc<TaskGraph>, Arc<[u64]>),
        scaler: Scaler,
        prices: Prices,
        interval: Duration,
        delays: &[Duration],
    ) -> Captain {
        let (classes, firsts) = job.classes();
        let prior = |first: &GroupId| {
            let group = &job.groups[*first as usize];
            ClassPrior { name: Arc::clone(&group.class), estimate: group.estimate }
        };
        let priors = firsts.iter().map(prior).collect();
        let classes = classes.into_iter().map(ClassId).collect();
        let course = Course { job, estimates, classes };
        Captain {
            work: RemainingWork::new(graph, Arc::new(move |task| course.facts(task))),
            scaler,
            beliefs: Estimates::new(priors, delays),
            prices,
            interval,
            known: Vec::new(),
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

    /// Takes what earlier runs found in place of guesses: for the classes that were learnt, and for nodes, which are all of one kind.
    pub(crate) fn recall(&mut self, history: &History, moment: Moment, learnt: &[Learnt], kind: &str) {
        let classes: Vec<&str> = learnt.iter().map(|learnt| learnt.class.as_str()).collect();
        self.beliefs.recall(history, moment, &classes, &[kind]);
    }

    /// A task is complete already.
    pub(crate) fn knows(&mut self, task: TaskId) {
        self.completed += u64::from(self.work.ended(task));
    }

    /// A task waits for a slot.
    pub(crate) fn is_ready(&mut self, task: TaskId) {
        self.work.became_ready(task);
    }

    /// A task waited so long for a slot.
    pub(crate) fn waited(&mut self, waited: Duration) {
        self.window.waits.push(waited);
    }

    /// Takes what the coordinator knows of running tasks: which have been running for a while, and
    /// how many run in all. The others count as ready where it matters which ones they are: they
    /// have hardly begun.
    pub(crate) fn sees(&mut self, coordinator: &Coordinator) {
        for task in std::mem::take(&mut self.known) {
            if self.work.is_running(task) {
                self.work.became_ready(task);
            }
        }
        self.busy = coordinator.tally().running.into();
        for (_, started) in coordinator.running() {
            self.work.started(started.task, started.start);
            self.known.push(started.task);
        }
    }

    /// True until a task has its final state.
    pub(crate) fn is_open(&self, task: TaskId) -> bool {
        self.work.is_open(task)
    }

    /// A task runs no more, and may have to run again.
    pub(crate) fn stops(&mut self, task: TaskId) {
        self.work.stopped(task);
    }

    /// The coordinator has heard of an end.
    pub(crate) fn hears(&mut self, attempt: &Attempt) {
        if attempt.attempt > 0 {
            self.window.ended += 1;
            self.window.failed += u64::from(!attempt.outcome.ok());
        }
        let TaskFacts { class, prior, .. } = self.work.facts(attempt.task);
        let took = attempt.end.since(attempt.start);
        if attempt.outcome.ok() {
            self.beliefs.observe_task(class, prior, took);
        } else if attempt.attempt > 0 && attempt.outcome.state.is_failure() && took > Duration::ZERO {
            self.beliefs.observe_failure(class, prior, took);
        }
        if attempt.last && self.work.ended(attempt.task) {
            match attempt.outcome.ok() {
                true => self.completed += 1,
                false => self.failed += 1,
            }
        }
    }

    /// How many tasks are in which state; those that run are as many as the coordinator says, known
    /// or not.
    fn counts(&self) -> Counts {
        let (ready, known) = (self.work.ready_count(), self.work.running_count());
        let running = self.busy.max(known);
        Counts {
            total: self.work.graph().task_count() as u64,
            remaining: self.work.count(),
            ready: (ready + known).saturating_sub(running),
            running,
            completed: self.completed,
            failed: self.failed,
        }
    }

    /// Tasks wrote values.
    pub(crate) fn measured(&mut self, measures: &[Measure]) {
        for measure in measures.iter().filter(|measure| self.scaler.asks_for(&measure.name)) {
            self.custom.insert(measure.name.clone(), measure.value);
        }
    }

    /// A rank that was asked for takes part after so long.
    pub(crate) fn arrived(&mut self, kind: crate::scale::NodeTypeId, took: Duration) {
        self.beliefs.observe_delay(kind, took);
    }

    /// A rank tells what it and its node use.
    pub(crate) fn uses(&mut self, rank: Rank, vitals: &Vitals) {
        self.usage.insert(rank, *vitals);
    }

    /// The fullest memory of nodes, and how busy GPUs are on average, where active ranks have told.
    fn usage_of(&self, ranks: &[RankView]) -> (Option<f64>, Option<f64>) {
        let active = ranks.iter().filter(|rank| rank.state == RankState::Active);
        let told: Vec<&Vitals> = active.filter_map(|rank| self.usage.get(&rank.rank)).collect();
        let with_memory = told.iter().filter(|vitals| vitals.node_memory > 0);
        let full = with_memory.map(|vitals| vitals.node_memory_used as f64 / vitals.node_memory as f64);
        let busy: Vec<f64> = told.iter().filter(|vitals| vitals.gpu_memory > 0).map(|vitals| vitals.gpu_busy).collect();
        let mean = (!busy.is_empty()).then(|| busy.iter().sum::<f64>() / busy.len() as f64);
        (full.max_by(f64::total_cmp), mean)
    }

    /// Somebody wants so many ranks; `None` lets the policy decide again.
    pub(crate) fn hold(&mut self, ranks: Option<u32>) {
        self.scaler.hold(ranks);
    }

    /// Decides.
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
        let decisions = self.scaler.decide(&seen, &self.beliefs, &self.prices);
        self.forecasts.extend(decisions.last().and_then(|decision| decision.forecast).map(|forecast| (now, forecast)));
        decisions
    }

    /// When the run will be over: what the decision of this moment says, or, if its policy does not look ahead, what comes of the ranks
    /// that there are.
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
        self.forecaster.foresee(&seen, &self.beliefs, &self.prices)
    }

    /// True if a decision says something that the one before did not: any change; and of those to stay the first, and each that
    /// holds another wish back.
    pub(crate) fn is_news(&mut self, decision: &Decision) -> bool {
        let now = (decision.action.clone(), decision.wish);
        let stays = decision.action == Action::Stay;
        let news = !stays || self.last.as_ref() != Some(&now);
        self.last = Some(now);
        news
    }

    pub(crate) fn effects(&mut self) -> Vec<(u32, Effect)> {
        self.scaler.effects()
    }

    /// What the budget's alarms say.
    pub(crate) fn alarms(&mut self) -> Vec<String> {
        let text = |alert: crate::scale::Alert| {
            format!("{} % of the budget are spent: {:.2} of {:.2}", alert.percent, alert.spent, alert.budget)
        };
        self.scaler.alerts().into_iter().map(text).collect()
    }
}

impl Window {
    /// What was measured, as a decision wants it; begins anew.
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
