//! Small worlds for tests of the scaling core: a graph, some ranks, a moment.

use std::sync::Arc;
use std::time::Duration;

use super::estimate::{ClassId, ClassPrior, Estimates};
use super::observation::{Customs, Observation, RankView, RequestId, RequestView, Samples, TaskCounts};
use super::price::{NodeTypeId, NodeTypes};
use super::remaining::{CHUNKS, EXACT, RemainingWork, Stage, TaskFacts};
use super::sites::{SiteView, WaitSource};
use crate::graph::TaskGraph;
use crate::graph::link::{Condition, Link, LinkShape};
use crate::model::{Rank, RankState, TaskId, Time};

/// The parts of an observation.
pub(crate) struct World {
    pub graph: Arc<TaskGraph>,
    /// The stage of each task; `None` for tasks with a final state.
    pub stages: Vec<Option<Stage>>,
    /// The duration of each task in seconds; its class gets it as a prior.
    pub durations: Vec<f64>,
    pub ranks: Vec<RankView>,
    pub requests: Vec<RequestView>,
    pub samples: Samples,
    pub custom: Customs,
    pub now: f64,
    pub settled: f64,
    pub sites: Vec<SiteView>,
    /// The types of nodes that may run every other task, from the first one on.
    pub narrow: NodeTypes,
    /// The types of nodes that may run the others.
    pub others: NodeTypes,
}

/// A rank of four slots whose node has been billed since `since`.
pub(crate) fn rank(number: u32, state: RankState, since: f64) -> RankView {
    RankView {
        rank: Rank(number),
        state,
        node_type: NodeTypeId(0),
        slots: 4,
        billed_since: Some(time(since)),
        busy_slots: 0,
        busy: Duration::ZERO,
        failures: 0,
        releasable: number > 0,
        needed: false,
        ends: None,
    }
}

/// A site with nodes of four slots, of the type behind that of `[cost]` and those of earlier sites.
pub(crate) fn site_view(site: u32, node_hour: f64) -> SiteView {
    SiteView {
        site,
        name: format!("s{site}"),
        node_type: NodeTypeId(1 + site),
        node_hour,
        slots: 4,
        wait_s: 10.0,
        wait_from: WaitSource::default(),
        patience_s: 60.0,
        bandwidth: None,
        room: None,
        closed: None,
    }
}

pub(crate) fn time(seconds: f64) -> Time {
    Time((seconds * 1e9) as u64)
}

impl World {
    /// A graph of groups under links, whose tasks take `durations[group]` seconds; only the first
    /// rank is active.
    pub fn new(counts: &[u32], links: &[(u32, u32, LinkShape)], durations: &[f64]) -> World {
        let links: Vec<Link> = links
            .iter()
            .map(|(from, to, shape)| Link {
                from: *from,
                to: *to,
                shape: shape.clone(),
                on: Condition::Ok,
                bytes: 0,
                span: 0..0,
            })
            .collect();
        let graph = TaskGraph::build(counts, &links).unwrap();
        let stage = |task: u32| if graph.predecessors(task).len() == 0 { Stage::Ready } else { Stage::Waiting };
        let stages = (0..graph.task_count() as u32).map(|task| Some(stage(task))).collect();
        let durations = counts.iter().zip(durations).flat_map(|(&n, &d)| std::iter::repeat_n(d, n as usize)).collect();
        World {
            graph: Arc::new(graph),
            stages,
            durations,
            ranks: vec![rank(0, RankState::Active, 0.0)],
            requests: Vec::new(),
            samples: Samples::default(),
            custom: Customs::new(),
            now: 0.0,
            settled: 0.0,
            sites: Vec::new(),
            narrow: NodeTypes::default(),
            others: NodeTypes::default(),
        }
    }

    /// Independent tasks.
    pub fn bag(tasks: u32, duration: f64) -> World {
        World::new(&[tasks], &[], &[duration])
    }

    /// A chain: each task needs the one before.
    pub fn chain(tasks: u32, duration: f64) -> World {
        let pairs = (1..tasks).map(|k| (k - 1, k)).collect();
        World::new(&[tasks], &[(0, 0, LinkShape::Pairs(pairs))], &[duration])
    }

    /// Phases of these widths; each task of a phase needs all tasks of the phase before.
    pub fn phases(widths: &[u32], duration: f64) -> World {
        let links: Vec<_> = (1..widths.len() as u32).map(|k| (k - 1, k, LinkShape::All)).collect();
        World::new(widths, &links, &vec![duration; widths.len()])
    }

    /// With this number of active ranks, billed since the beginning.
    pub fn with_ranks(mut self, ranks: u32) -> World {
        self.ranks = (0..ranks).map(|r| rank(r, RankState::Active, 0.0)).collect();
        self
    }

    /// Occupies all slots of all ranks.
    pub fn busy(mut self) -> World {
        self.ranks.iter_mut().for_each(|r| r.busy_slots = r.slots);
        self
    }

    pub fn request(&mut self, id: u64, nodes: u32) {
        let asked = time(self.now);
        self.requests.push(RequestView {
            id: RequestId(id),
            nodes,
            node_type: NodeTypeId(0),
            rivals: Vec::new(),
            asked,
            needed: false,
        });
    }

    /// Estimates that know the durations and, from many observations, that nodes take `delay`
    /// seconds to arrive.
    pub fn estimates(&self, delay: f64) -> Estimates {
        let prior = ClassPrior { name: "all".into(), estimate: Some(Duration::from_secs(1)), ..ClassPrior::default() };
        let delay = Duration::from_secs_f64(delay);
        let mut estimates = Estimates::new(vec![prior], &[delay]);
        (0..100).for_each(|_| {
            estimates.observe_task(ClassId(0), None, Duration::from_secs(1));
            estimates.observe_delay(NodeTypeId(0), delay);
        });
        estimates
    }

    /// The remaining work: task by task up to `exact` tasks, in `chunks` chunks beyond.
    pub fn remaining(&self, exact: usize, chunks: usize) -> RemainingWork {
        let (durations, narrow, others) = (self.durations.clone(), self.narrow, self.others);
        let facts = move |task: TaskId| TaskFacts {
            class: ClassId(0),
            prior: durations.get(task.index()).map(|&seconds| Duration::from_secs_f64(seconds)),
            slots: 1,
            runs_on: if task.0.is_multiple_of(2) { narrow } else { others },
        };
        let mut work = RemainingWork::with_limits(Arc::clone(&self.graph), Arc::new(facts), exact, chunks);
        for (task, stage) in (0..).map(TaskId).zip(&self.stages) {
            match stage {
                Some(Stage::Waiting) => {}
                Some(Stage::Ready) => work.became_ready(task),
                Some(Stage::Running(since)) => work.started(task, *since),
                None => _ = work.ended(task),
            }
        }
        work
    }

    pub fn see<R>(&self, look: impl FnOnce(&Observation<'_>) -> R) -> R {
        self.see_in(EXACT, CHUNKS, look)
    }

    pub fn see_in<R>(&self, exact: usize, chunks: usize, look: impl FnOnce(&Observation<'_>) -> R) -> R {
        let work = self.remaining(exact, chunks);
        let total = self.stages.len() as u64;
        let counts = TaskCounts {
            total,
            remaining: work.count(),
            ready: work.ready_count(),
            running: work.running_count(),
            completed: total - work.count(),
            failed: 0,
        };
        look(&Observation {
            now: time(self.now),
            ranks: &self.ranks,
            requests: &self.requests,
            counts,
            remaining: &work,
            samples: self.samples,
            custom: &self.custom,
            settled: self.settled,
            sites: &self.sites,
        })
    }
}
