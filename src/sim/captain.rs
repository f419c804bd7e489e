//! Who decides about ranks in a simulated run: the scaling core, with what it is shown.
//!
//! It sees what rank 0 of a real run sees: which tasks wait, run and are left, how long those took that ended, what nodes cost and how long they take
//! to come. What it decides the world carries out.

use std::time::Duration;

use super::scene::Scene;
use crate::graph::TaskGraph;
use crate::model::{Attempt, TaskId, Time};
use crate::runtime::glue;
use crate::scale::elasticity::Step;
use crate::scale::{
    Action, ClassId, ClassPrior, Counts, Decision, Effect, Estimates, Observation, Prices, RankView, Remaining,
    RemainingTask, RequestView, Samples, Scaler, Stage,
};

/// See the module's text.
pub(super) struct Captain {
    scaler: Scaler,
    estimates: Estimates,
    pub(super) prices: Prices,
    pub(super) interval: Duration,
    /// The class of each group.
    classes: Vec<ClassId>,
    /// How far each task is; `None` once it has its final state.
    stages: Vec<Option<Stage>>,
    ready: u64,
    running: u64,
    counts: Counts,
    window: Window,
    /// Slots that running and waiting tasks could use, from decision to decision.
    pub(super) demand: Vec<Step>,
    last: Option<(Action, u32)>,
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
    pub(super) fn new(
        scene: &Scene,
        scaler: Scaler,
        prices: Prices,
        interval: Duration,
        delays: &[Duration],
    ) -> Captain {
        let mut priors: Vec<ClassPrior> = Vec::new();
        let class_of = |group: &crate::job::Group| {
            let known = priors.iter().position(|prior| prior.name == group.class);
            ClassId(known.unwrap_or_else(|| {
                priors.push(ClassPrior { name: group.class.clone(), estimate: group.estimate });
                priors.len() - 1
            }) as u32)
        };
        let classes = scene.job.groups.iter().map(class_of).collect();
        let total = u64::from(scene.tasks());
        Captain {
            scaler,
            estimates: Estimates::new(priors, delays),
            prices,
            interval,
            classes,
            stages: vec![Some(Stage::Waiting); scene.tasks() as usize],
            ready: 0,
            running: 0,
            counts: Counts { total, remaining: total, ..Counts::default() },
            window: Window::default(),
            demand: Vec::new(),
            last: None,
        }
    }

    /// A task waits for a slot.
    pub(super) fn is_ready(&mut self, task: TaskId) {
        self.set(task, Stage::Ready);
    }

    /// A task begins that waited so long for a slot.
    pub(super) fn begins(&mut self, now: Time, task: TaskId, waited: Duration) {
        self.set(task, Stage::Running(now));
        self.window.waits.push(waited);
    }

    /// A task runs no more, and may have to run again.
    pub(super) fn stops(&mut self, task: TaskId) {
        self.set(task, Stage::Waiting);
    }

    fn set(&mut self, task: TaskId, stage: Stage) {
        let Some(old) = self.stages[task.index()].as_mut() else { return };
        let old = std::mem::replace(old, stage);
        self.count(old, false);
        self.count(stage, true);
    }

    fn count(&mut self, stage: Stage, more: bool) {
        let counter = match stage {
            Stage::Waiting => return,
            Stage::Ready => &mut self.ready,
            Stage::Running(_) => &mut self.running,
        };
        *counter = if more { *counter + 1 } else { *counter - 1 };
    }

    /// The coordinator has heard of an end.
    pub(super) fn hears(&mut self, scene: &Scene, attempt: &Attempt) {
        if attempt.attempt > 0 {
            self.window.ended += 1;
            self.window.failed += u64::from(!attempt.outcome.ok());
        }
        if attempt.outcome.ok() {
            let class = self.classes[scene.group(attempt.task) as usize];
            self.estimates.observe_task(class, scene.prior(attempt.task), attempt.end.since(attempt.start));
        }
        if attempt.last
            && let Some(stage) = self.stages[attempt.task.index()].take()
        {
            self.count(stage, false);
            self.counts.remaining -= 1;
            match attempt.outcome.ok() {
                true => self.counts.completed += 1,
                false => self.counts.failed += 1,
            }
        }
    }

    /// A rank that was asked for takes part after so long.
    pub(super) fn arrived(&mut self, kind: crate::scale::NodeTypeId, took: Duration) {
        self.estimates.observe_delay(kind, took);
    }

    /// Decides.
    pub(super) fn decide(
        &mut self,
        now: Time,
        scene: &Scene,
        ranks: &[RankView],
        requests: &[RequestView],
        settled: f64,
    ) -> Vec<Decision> {
        let samples = self.window.close(now);
        let (ready, running) = (self.ready, self.running);
        self.demand.push((now, (ready + running) as f64));
        let left = Left { scene, stages: &self.stages, classes: &self.classes };
        let counts = Counts { ready, running, ..self.counts };
        let seen = Observation { now, ranks, requests, counts, remaining: &left, samples, settled };
        self.scaler.decide(&seen, &self.estimates, &self.prices)
    }

    /// True if a decision says something that the one before did not: any change; and of those to stay the first, and each that
    /// holds another wish back.
    pub(super) fn is_news(&mut self, decision: &Decision) -> bool {
        let now = (decision.action.clone(), decision.wish);
        let stays = decision.action == Action::Stay;
        let news = !stays || self.last.as_ref() != Some(&now);
        self.last = Some(now);
        news
    }

    pub(super) fn effects(&mut self) -> Vec<(u32, Effect)> {
        self.scaler.effects()
    }

    /// What the budget's alarms say.
    pub(super) fn alarms(&mut self) -> Vec<String> {
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

/// The tasks that are left.
struct Left<'a> {
    scene: &'a Scene,
    stages: &'a [Option<Stage>],
    classes: &'a [ClassId],
}

impl Remaining for Left<'_> {
    fn graph(&self) -> &TaskGraph {
        &self.scene.graph
    }

    fn each(&self, each: &mut dyn FnMut(RemainingTask)) {
        for (number, stage) in self.stages.iter().enumerate() {
            let Some(stage) = *stage else { continue };
            let task = TaskId(number as u32);
            let group = self.scene.group(task) as usize;
            each(RemainingTask {
                task,
                class: self.classes[group],
                prior: self.scene.prior(task),
                slots: glue::slots(&self.scene.job.groups[group]),
                stage,
            });
        }
    }
}
