//! The scaling controller: collects observations of a run, real or simulated, and decides about its
//! ranks.
//!
//! The driver (rank 0 of a real run, or the simulator) reports which tasks wait, run and remain,
//! how long completed tasks took, what nodes cost and how long they take to arrive. It carries out
//! the decisions made here.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::advisor::Answer;
use super::commands::{NodeChanges, ScalingStep};
use super::elasticity::LevelStep;
use super::estimate::{History, Learnt, Moment};
use super::forecast::Forecaster;
use super::price::STOP_MARGIN;
use super::remaining::FactsOf;
use super::{
    Account, Action, BudgetAlert, ClassId, ClassPrior, Customs, Decision, Estimates, Forecast, NodeTypeId, NodeTypes,
    Observation, Prices, RankView, RemainingWork, RequestView, Samples, Scaler, SiteView, TaskCounts, TaskFacts,
    WaitSource,
};
use crate::graph::link::GroupId;
use crate::job::{Group, Job};
use crate::model::{Attempt, Measure, NodeOffer, Rank, RankState, TaskId, Time, Vitals};
use crate::workload::{PreparedJob, TaskEstimates, placement, requirements};

/// Observes a run and decides about its ranks.
pub(crate) struct ScalingController {
    scaler: Scaler,
    estimates: Estimates,
    pub(crate) prices: Prices,
    /// Time between two decisions.
    pub(crate) interval: Duration,
    facts: Arc<JobFacts>,
    /// Tasks that remain, and their stages.
    work: RemainingWork,
    /// Tasks reported as running.
    known_running: Vec<TaskId>,
    /// Number of running tasks, reported one by one or not.
    busy: u64,
    completed: u64,
    failed: u64,
    window: Window,
    /// What each rank and its node used at the last report.
    usage: BTreeMap<Rank, Vitals>,
    /// Values that tasks wrote, limited to those that a rule needs.
    custom: Customs,
    /// Demand after each decision: slots that running and waiting tasks could use.
    pub(crate) demand: Vec<LevelStep>,
    last: Option<(Action, u32)>,
    /// True once the budget stops the run: nothing is decided any more.
    is_over: bool,
    forecaster: Forecaster,
    /// One forecast per decision, from policies that make forecasts.
    pub(crate) forecasts: Vec<(Time, Forecast)>,
}

/// The facts about the job that decisions need.
#[derive(Clone)]
struct JobFacts {
    job: Arc<Job>,
    estimates: Arc<TaskEstimates>,
    /// The class of each group.
    classes: Vec<ClassId>,
    /// The types of nodes that may run the tasks of each group.
    runs_on: Vec<NodeTypes>,
}

/// Which classes have tasks with estimates of their own: at least two differ. A class of one task
/// is like the others of its job.
fn own_estimates(job: &Job, classes: &[u32], firsts: &[GroupId]) -> Vec<bool> {
    let (mut differ, mut tasks) = (vec![false; firsts.len()], vec![0u64; firsts.len()]);
    for ((id, group), &class) in (0..).zip(&job.groups).zip(classes) {
        let class = class as usize;
        let first = &job.groups[firsts[class] as usize];
        differ[class] |= !job.has_one_estimate(id) || group.estimate != first.estimate;
        tasks[class] += u64::from(group.count);
    }
    let some_differ = differ.contains(&true);
    differ.iter().zip(tasks).map(|(&differ, tasks)| differ || some_differ && tasks == 1).collect()
}

impl JobFacts {
    /// The facts of each task of a job, and what is known of its classes.
    fn of(prepared: &PreparedJob, prices: &Prices) -> (Arc<JobFacts>, Vec<ClassPrior>) {
        let PreparedJob { job, estimates, .. } = prepared;
        let (classes, firsts) = job.classes();
        let own = own_estimates(job, &classes, &firsts);
        let prior = |(&first, has_own_estimates): (&GroupId, bool)| {
            let group = &job.groups[first as usize];
            ClassPrior { name: Arc::clone(&group.class), estimate: group.estimate, has_own_estimates }
        };
        let priors = firsts.iter().zip(own).map(prior).collect();
        let classes = classes.into_iter().map(ClassId).collect();
        let runs_on = runs_on(job, prices);
        let facts = JobFacts { job: Arc::clone(job), estimates: Arc::clone(estimates), classes, runs_on };
        (Arc::new(facts), priors)
    }

    fn of_tasks(self: &Arc<JobFacts>) -> Arc<FactsOf> {
        let facts = Arc::clone(self);
        Arc::new(move |task| facts.facts(task))
    }

    fn facts(&self, task: TaskId) -> TaskFacts {
        let place = self.job.group_of(task);
        let at = place.0 as usize;
        let group = &self.job.groups[at];
        TaskFacts {
            class: self.classes[at],
            // Without an estimate in the job file, this one is a guess.
            prior: group.estimate.map(|_| Duration::from_nanos(self.estimates.ns(place))),
            slots: requirements::slots(group),
            runs_on: self.runs_on[at],
        }
    }
}

/// The types of nodes that may run the tasks of each group of a job.
fn runs_on(job: &Job, prices: &Prices) -> Vec<NodeTypes> {
    let of_group = |group: &Group| match group.mpi {
        Some(_) => NodeTypes::default(),
        None => prices.types_for(&placement::need(group)),
    };
    job.groups.iter().map(of_group).collect()
}

/// Events since the last decision.
#[derive(Debug, Default)]
struct Window {
    since: Time,
    waits: Vec<Duration>,
    ended: u64,
    failed: u64,
}

impl ScalingController {
    /// Creates a controller that asks `scaler` for a decision every `interval`. `delays[type]` is
    /// how long a node of a type takes to arrive, where known.
    pub(crate) fn new(
        prepared: &PreparedJob,
        scaler: Scaler,
        prices: Prices,
        interval: Duration,
        delays: &[Duration],
    ) -> ScalingController {
        let (facts, priors) = JobFacts::of(prepared, &prices);
        ScalingController {
            work: RemainingWork::new(Arc::clone(&prepared.graph), facts.of_tasks()),
            facts,
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
            is_over: false,
            forecaster: Forecaster::new(),
            forecasts: Vec::new(),
        }
    }

    /// Takes the tasks by which the job has grown.
    pub(crate) fn grow(&mut self, prepared: &PreparedJob) {
        let (facts, priors) = JobFacts::of(prepared, &self.prices);
        self.work.grow(Arc::clone(&prepared.graph), facts.of_tasks());
        self.facts = facts;
        self.estimates.grow(priors);
    }

    /// Records what nodes of a type have turned out to have: other tasks may run there than was
    /// thought.
    pub(crate) fn learn_type(&mut self, node_type: NodeTypeId, known: &NodeOffer) {
        let Some(node) = self.prices.nodes.get_mut(node_type.0 as usize) else { return };
        node.slots = known.slots.unwrap_or(node.slots);
        (node.memory, node.gpus) = (known.memory.or(node.memory), known.gpus.or(node.gpus));
        let runs_on = runs_on(&self.facts.job, &self.prices);
        if runs_on != self.facts.runs_on {
            self.facts = Arc::new(JobFacts { runs_on, ..JobFacts::clone(&self.facts) });
            self.work.set_node_types(self.facts.of_tasks());
        }
    }

    /// Time from a decision to the next one.
    pub(crate) fn pause(&self, now: Time) -> Duration {
        self.interval.min(self.scaler.pause(now))
    }

    /// Replaces guesses with what earlier runs observed: for the classes in `learnt`, and for the
    /// delays of nodes, whose types are called `kinds` in the history.
    pub(crate) fn recall(&mut self, history: &History, moment: Moment, learnt: &[Learnt], kinds: &[&str]) {
        let classes: Vec<&str> = learnt.iter().map(|learnt| learnt.class.as_str()).collect();
        self.estimates.recall(history, moment, &classes, kinds);
    }

    /// Median time in seconds until a requested node of a type arrives.
    pub(crate) fn delay_s(&self, node_type: NodeTypeId) -> f64 {
        self.estimates.delay(node_type).q50
    }

    /// What that time is based on.
    pub(crate) fn delay_source(&self, node_type: NodeTypeId) -> WaitSource {
        self.estimates.delay_source(node_type)
    }

    /// Takes the batch system's present estimate of that time.
    pub(crate) fn set_batch_estimate(&mut self, node_type: NodeTypeId, seconds: Option<f64>) {
        self.estimates.set_batch_estimate(node_type, seconds);
    }

    /// Number of further nodes of a type that can be paid for until the run probably ends, or the
    /// next decisions, with all that these ranks and requests cost.
    pub(crate) fn affordable(
        &self,
        (now, forecast): (Time, Option<Forecast>),
        ranks: &[RankView],
        requests: &[RequestView],
        settled: f64,
        node_type: NodeTypeId,
    ) -> u32 {
        let soon = now.after(self.interval * 2).after(STOP_MARGIN);
        let end = forecast.and_then(|it| Duration::try_from_secs_f64(it.finish_q50_s).ok());
        let end = end.map_or(soon, |end| soon.max(Time::ZERO.after(end)));
        Account::new(now, ranks, requests, settled, &self.prices).affordable(node_type, end)
    }

    /// Records that a task completed in an earlier session.
    pub(crate) fn was_complete(&mut self, task: TaskId) {
        self.completed += u64::from(self.work.ended(task));
    }

    /// Records that a task waits for a slot.
    pub(crate) fn task_ready(&mut self, task: TaskId) {
        self.work.became_ready(task);
    }

    /// Records how long a task waited for a slot.
    pub(crate) fn task_waited(&mut self, waited: Duration) {
        self.window.waits.push(waited);
    }

    /// Updates the running tasks: `running` lists those that have been running for a while, with
    /// their start, and `busy` counts all. The rest have hardly begun, so they count as ready where
    /// identity matters.
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

    /// True until the task reaches its final state.
    pub(crate) fn is_open(&self, task: TaskId) -> bool {
        self.work.is_open(task)
    }

    /// Records that a task stopped running; it may have to run again.
    pub(crate) fn task_stopped(&mut self, task: TaskId) {
        self.work.stopped(task);
    }

    /// Records the end of an attempt.
    pub(crate) fn attempt_ended(&mut self, attempt: &Attempt) {
        if attempt.attempt > 0 {
            self.window.ended += 1;
            self.window.failed += u64::from(!attempt.outcome.ok());
        }
        let TaskFacts { class, prior, .. } = self.work.facts(attempt.task);
        let took = attempt.end.since(attempt.start);
        if attempt.shows_duration() {
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

    /// Number of tasks by state. The running ones are counted as the coordinator counts them,
    /// whether they have been reported one by one or not.
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

    /// Records values that tasks wrote.
    pub(crate) fn update_measures(&mut self, measures: &[Measure]) {
        for measure in measures.iter().filter(|measure| self.scaler.asks_for(&measure.name)) {
            self.custom.insert(measure.name.clone(), measure.value);
        }
    }

    /// Records that a requested rank became active, and how long after the request.
    pub(crate) fn rank_arrived(&mut self, kind: NodeTypeId, took: Duration) {
        self.estimates.observe_delay(kind, took);
    }

    /// Records the resource usage that a rank reported for itself and its node.
    pub(crate) fn update_usage(&mut self, rank: Rank, vitals: &Vitals) {
        self.usage.insert(rank, *vitals);
    }

    /// Memory use of the fullest node and mean GPU use, over active ranks that have reported.
    fn usage_of(&self, ranks: &[RankView]) -> (Option<f64>, Option<f64>) {
        let active = ranks.iter().filter(|rank| rank.state == RankState::Active);
        let told: Vec<&Vitals> = active.filter_map(|rank| self.usage.get(&rank.rank)).collect();
        let with_memory = told.iter().filter(|vitals| vitals.node_memory > 0);
        let full = with_memory.map(|vitals| vitals.node_memory_used as f64 / vitals.node_memory as f64);
        let busy: Vec<f64> = told.iter().filter(|vitals| vitals.gpu_memory > 0).map(|vitals| vitals.gpu_busy).collect();
        let mean = (!busy.is_empty()).then(|| busy.iter().sum::<f64>() / busy.len() as f64);
        (full.max_by(f64::total_cmp), mean)
    }

    /// Upper limit on ranks, unless the run started with more.
    pub(crate) fn most_ranks(&self) -> u32 {
        self.scaler.most_ranks()
    }

    /// Takes the advisor's answer to a question. The next decision follows it.
    pub(crate) fn advised(&mut self, now: Time, question: u32, answer: Result<Answer, String>) {
        self.scaler.advised(now, question, answer);
    }

    /// Fixes the number of ranks; `None` returns the decision to the policy.
    pub(crate) fn hold(&mut self, ranks: Option<u32>) {
        self.scaler.hold(ranks);
    }

    /// Makes the decisions for this moment, and returns what follows from them. `settled` is the
    /// bill of nodes that have ended, `sites` where nodes can be requested, `can` tells whether the
    /// nodes of the run can change.
    pub(crate) fn decide(
        &mut self,
        now: Time,
        ranks: &[RankView],
        requests: &[RequestView],
        settled: f64,
        sites: &[SiteView],
        can: NodeChanges,
    ) -> ScalingStep {
        let (memory, gpu) = self.usage_of(ranks);
        let samples = Samples { memory, gpu, ..self.window.close(now) };
        let counts = self.counts();
        self.demand.push((now, (counts.ready + counts.running) as f64));
        let (remaining, custom) = (&self.work, &self.custom);
        let seen = Observation { now, ranks, requests, counts, remaining, samples, custom, settled, sites };
        let decisions = self.scaler.decide(&seen, &self.estimates, &self.prices);
        self.forecasts.extend(decisions.last().and_then(|decision| decision.forecast).map(|forecast| (now, forecast)));
        let (advice, question) = (self.scaler.advice(), self.scaler.question());
        let (effects, warnings) = (self.scaler.effects(), self.alarms());
        let mut step = ScalingStep { advice, question, effects, warnings, ..ScalingStep::default() };
        for decision in decisions {
            step.add(&decision, can);
            let is_advised = step.advice.is_some();
            match self.is_news(&decision) || is_advised {
                true => step.decisions.push(decision),
                false => self.scaler.unnumber_last(),
            }
        }
        self.is_over |= step.stops();
        step
    }

    /// True once the budget stops the run: no further decision is due.
    pub(crate) fn is_over(&self) -> bool {
        self.is_over
    }

    /// Forecasts the end of the run: reuses the forecast of this moment's decision or, if its
    /// policy makes none, forecasts with the present ranks. `None` as long as nothing is known of
    /// the durations of most tasks that remain.
    pub(crate) fn forecast_end(
        &mut self,
        now: Time,
        ranks: &[RankView],
        requests: &[RequestView],
        settled: f64,
        sites: &[SiteView],
    ) -> Option<Forecast> {
        if self.is_mostly_unknown() {
            return None;
        }
        if let Some((_, forecast)) = self.forecasts.last().filter(|(made, _)| *made == now) {
            return Some(*forecast);
        }
        let (counts, samples) = (self.counts(), Samples::default());
        let (remaining, custom) = (&self.work, &self.custom);
        let seen = Observation { now, ranks, requests, counts, remaining, samples, custom, settled, sites };
        self.forecaster.forecast_end(&seen, &self.estimates, &self.prices)
    }

    fn is_mostly_unknown(&self) -> bool {
        let classes = self.estimates.class_count() as u32;
        if (0..classes).all(|class| self.estimates.is_known(ClassId(class))) {
            return false;
        }
        let mut unknown = 0;
        self.work.each(&mut |task| unknown += u64::from(!self.estimates.is_known(task.class)));
        2 * unknown > self.work.count()
    }

    /// True if a decision differs from the one before: any change, and of decisions to stay the
    /// first and each that overrides a different wish.
    fn is_news(&mut self, decision: &Decision) -> bool {
        let now = (decision.action.clone(), decision.wish);
        let stays = decision.action == Action::Stay;
        let news = !stays || self.last.as_ref() != Some(&now);
        self.last = Some(now);
        news
    }

    /// Messages of the budget alerts, and that the advisor is given up.
    fn alarms(&mut self) -> Vec<String> {
        let text = |alert: BudgetAlert| {
            format!("{} % of the budget are spent: {:.2} of {:.2}", alert.percent, alert.spent, alert.budget)
        };
        self.scaler.alerts().into_iter().map(text).chain(self.scaler.advisor_warning()).collect()
    }
}

impl Window {
    /// Returns the measurements since the last decision, and resets them.
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
