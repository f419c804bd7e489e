//! Random jobs and what each of their tasks must end as.

use std::collections::{BTreeMap, HashSet};
use std::ops::Range;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use fastrand::Rng;

use crate::graph::link::{Condition, Link, LinkShape};
use crate::graph::{JoinRule, TaskGraph};
use crate::job::Retry;
use crate::model::{Labels, Outcome, RankRoom, State, TaskId, has_labels, labels_of};
use crate::schedule::coordinator::{Advice, Member};
use crate::schedule::gang::Shape;
use crate::schedule::pools::ResourceId;
use crate::schedule::pools::table::{PoolResource, PoolTable, ResourceKind};
use crate::schedule::worker::Facts;

/// The shape of a task that is no gang.
pub(super) fn alone() -> Shape {
    mpi_task(1, Labels::default())
}

/// An MPI task of so many ranks of one CPU.
pub(super) fn mpi_task(ranks: u32, labels: Labels) -> Shape {
    Shape::Mpi { ranks, cpus: 1, memory: 0, gpus: 0, per_node: None, labels }
}

/// What a job of the test is like.
pub(super) struct Job {
    pub(super) graph: Arc<TaskGraph>,
    /// Sizes of its groups, if it is a random one.
    pub(super) counts: Vec<u32>,
    pub(super) retries: Vec<u16>,
    pub(super) elsewhere: Vec<bool>,
    pub(super) movable: Vec<bool>,
    pub(super) gangs: BTreeMap<u32, Shape>,
    pub(super) fails: HashSet<(u32, u16)>,
    pub(super) duration: Vec<u64>,
    /// Slots that a rank must have to run a task.
    pub(super) needs: Vec<u32>,
    /// Nothing more is started once this number of tasks has failed.
    pub(super) max_failures: Option<u32>,
    /// What all tasks need of the pools, those included that may be added.
    pub(super) pools: Arc<PoolTable>,
    pub(super) pool_resources: PoolTable,
    pub(super) pool_needs: Vec<PoolNeeds>,
}

/// A task, the number 1, and what it needs: resources with amounts.
pub(super) type PoolNeeds = (u32, u32, Vec<(ResourceId, u32)>);

impl Facts for Job {
    fn retry(&self, task: TaskId) -> Retry {
        let (count, elsewhere) = (self.retries[task.index()], self.elsewhere[task.index()]);
        Retry { count, backoff: Duration::from_micros(300), elsewhere, ..Retry::NONE }
    }

    fn movable(&self, task: TaskId) -> bool {
        self.movable[task.index()]
    }

    fn needs_gang(&self, task: TaskId, room: RankRoom, ranks: u32) -> bool {
        self.gangs.get(&task.0).is_some_and(|shape| match *shape {
            Shape::Mpi { ranks: asked, cpus, .. } => asked * cpus > room.slots,
            Shape::Everywhere { .. } => ranks > 1,
        })
    }
}

/// The test's answers to the coordinator's questions.
pub(super) struct Terms(pub(super) Arc<Job>);

impl Advice for Terms {
    fn class(&self, _: TaskId) -> (u32, Range<u32>) {
        (0, 0..u32::MAX)
    }

    fn work(&self, task: TaskId) -> u64 {
        self.0.duration[task.index()]
    }

    fn fits(&self, task: TaskId, member: &Member) -> bool {
        self.0.fits(task.index(), member.slots)
    }

    fn labels(&self, task: TaskId) -> Labels {
        match self.0.gangs.get(&task.0) {
            Some(shape) => shape.need().labels,
            None => labels_of_slots(self.0.needs[task.index()]),
        }
    }

    fn label_sets(&self) -> &[Labels] {
        WIDE.as_slice()
    }

    fn meet(&mut self, _: &[Member]) {}
}

/// The label of ranks with three slots: tasks that need three ask for it.
pub(super) static WIDE: LazyLock<[Labels; 1]> = LazyLock::new(|| [labels_of(["wide"])]);

/// The labels of a rank with this number of slots, or of a task that needs it.
pub(super) fn labels_of_slots(slots: u32) -> Labels {
    if slots < 3 { Labels::default() } else { Labels::clone(&WIDE[0]) }
}

impl Job {
    pub(super) fn random(rng: &mut Rng, slots: &[u32]) -> Job {
        let groups = rng.u32(1..9);
        let counts: Vec<u32> = (0..groups).map(|_| rng.u32(1..10)).collect();
        let mut links = Vec::new();
        for to in 1..groups {
            for _ in 0..rng.u32(0..3) {
                links.push(random_link(rng, &counts, to));
            }
        }
        let graph = TaskGraph::build(&counts, &links).expect("links go from earlier to later groups");
        let n = graph.task_count();
        let failing = rng.f64() * 0.4;
        let total: u32 = slots.iter().sum();
        let gang = |rng: &mut Rng| match rng.bool() {
            true => mpi_task(rng.u32(1..=total), Labels::default()),
            false => Shape::Everywhere { cpus: rng.u32(1..3) },
        };
        let gang_share = [0.0, 0.05, 0.05, 0.4][rng.usize(0..4)];
        let gangs: BTreeMap<u32, Shape> = (0..n as u32)
            .filter(|_| rng.f64() < gang_share)
            .collect::<Vec<_>>()
            .into_iter()
            .map(|t| (t, gang(rng)))
            .collect();
        let movable: Vec<bool> = (0..n as u32).map(|t| rng.f64() < 0.8 && !gangs.contains_key(&t)).collect();
        let wide = slots.iter().any(|&slots| slots > 1);
        let need = |t: usize| if wide && !movable[t] && !gangs.contains_key(&(t as u32)) && rng.bool() { 2 } else { 1 };
        Job {
            needs: (0..n).map(need).collect(),
            max_failures: None,
            pools: Arc::default(),
            pool_resources: PoolTable::default(),
            pool_needs: Vec::new(),
            retries: (0..n).map(|_| if rng.bool() { 0 } else { rng.u16(0..4) }).collect(),
            elsewhere: (0..n).map(|_| rng.bool()).collect(),
            movable,
            fails: (0..n as u32).flat_map(|t| (1..5).map(move |a| (t, a))).filter(|_| rng.f64() < failing).collect(),
            duration: (0..n).map(|_| rng.u64(1_000..2_000_000)).collect(),
            gangs,
            counts,
            graph: Arc::new(graph),
        }
    }

    /// Independent tasks without retries, each of up to `longest` nanoseconds.
    pub(super) fn bag(rng: &mut Rng, tasks: u32, longest: u64) -> Job {
        let n = tasks as usize;
        Job {
            graph: Arc::new(TaskGraph::build(&[tasks], &[]).expect("has no edges")),
            counts: vec![tasks],
            retries: vec![0; n],
            elsewhere: vec![false; n],
            movable: (0..n).map(|_| rng.bool()).collect(),
            gangs: BTreeMap::new(),
            fails: HashSet::new(),
            duration: (0..n).map(|_| rng.u64(1_000..longest)).collect(),
            needs: vec![1; n],
            max_failures: None,
            pools: Arc::default(),
            pool_resources: PoolTable::default(),
            pool_needs: Vec::new(),
        }
    }

    /// The same job with facts about up to `most` tasks, which may be added.
    pub(super) fn with_room(mut self, rng: &mut Rng, most: u32) -> Job {
        let more = self.graph.task_count() as u32..most;
        self.graph = Arc::new(self.graph.with_gap(more.len() as u32));
        for task in more {
            self.retries.push(if rng.bool() { 0 } else { rng.u16(0..4) });
            self.elsewhere.push(rng.bool());
            self.movable.push(rng.bool());
            self.duration.push(rng.u64(1_000..2_000_000));
            self.needs.push(1);
            self.fails.extend((1..5).filter(|_| rng.u32(0..6) == 0).map(|attempt| (task, attempt)));
        }
        self
    }

    /// The same job with some pools, of which most tasks need some: two at once, and several units.
    pub(super) fn with_pools(mut self, rng: &mut Rng) -> Job {
        let mut table = PoolTable::default();
        let mut pools = Vec::new();
        for _ in 0..rng.usize(1..4) {
            let units = rng.u32(1..5);
            let capacity = table.add(PoolResource::capacity("p", Some(units), false));
            let rate = (rng.u32(0..4) == 0).then(|| {
                let kind = ResourceKind::Rate { starts: rng.u32(1..20), per_ns: rng.u64(100_000..3_000_000) };
                table.add(PoolResource { name: "p".into(), kind, is_array_limit: false })
            });
            pools.push((capacity, units, rate));
        }
        let mut groups = Vec::new();
        // What may be added needs some, too.
        for task in 0..self.retries.len() as u32 {
            let mut needs = Vec::new();
            for &(capacity, units, rate) in &pools {
                if rng.u32(0..5) > 1 {
                    continue;
                }
                needs.push((capacity, rng.u32(1..=units)));
                needs.extend(rate.map(|rate| (rate, 1)));
            }
            self.movable[task as usize] &= needs.is_empty();
            groups.push((task, 1, needs));
        }
        self.pools = Arc::new(table.clone().with_groups(groups.iter().cloned()));
        (self.pool_resources, self.pool_needs) = (table, groups);
        self
    }

    /// What the first tasks need of the pools.
    pub(super) fn pools_of(&self, tasks: usize) -> Arc<PoolTable> {
        Arc::new(self.pool_resources.clone().with_groups(self.pool_needs.iter().take(tasks).cloned()))
    }

    /// The same job, where some tasks ask for a label.
    pub(super) fn with_labels(mut self, rng: &mut Rng) -> Job {
        for task in 0..self.needs.len() {
            match self.gangs.get_mut(&(task as u32)) {
                // Up to three ranks of three slots.
                Some(shape @ Shape::Mpi { .. }) if rng.bool() => *shape = mpi_task(rng.u32(1..=9), labels_of_slots(3)),
                None if rng.u32(0..4) == 0 => (self.needs[task], self.movable[task]) = (3, false),
                _ => {}
            }
        }
        self
    }

    /// True if a rank with this number of slots may be the home of a task: none may start an MPI
    /// task alone whose labels it lacks.
    pub(super) fn fits(&self, task: usize, slots: u32) -> bool {
        let is_home = match self.gangs.get(&(task as u32)) {
            Some(Shape::Mpi { ranks, labels, .. }) => *ranks > slots || has_labels(&labels_of_slots(slots), labels),
            _ => true,
        };
        is_home && slots >= self.needs[task]
    }

    /// The labels that every rank has which hosts a part of a task.
    pub(super) fn gang_labels(&self, task: u32) -> Labels {
        self.gangs.get(&task).map(|shape| shape.need().labels).unwrap_or_default()
    }

    /// How an attempt ends; those that were lost with their rank are not counted.
    pub(super) fn outcome(&self, task: TaskId, attempt: u16) -> Outcome {
        if self.fails.contains(&(task.0, attempt)) {
            let state = if self.falls_short(task, attempt) { State::OutOfMemory } else { State::Failed };
            Outcome { state, exit: 1, cached: false }
        } else {
            Outcome::OK
        }
    }

    /// True for an attempt that fails for lack of memory: some of those that another one follows.
    pub(super) fn falls_short(&self, task: TaskId, attempt: u16) -> bool {
        let fails = self.fails.contains(&(task.0, attempt)) && attempt <= self.retries[task.index()];
        fails && (task.0 + u32::from(attempt)).is_multiple_of(2)
    }

    /// The state that every task must end in, from the meaning of the graph alone.
    pub(super) fn oracle(&self) -> Vec<State> {
        self.oracle_without(&HashSet::new())
    }

    /// The same if some tasks are cancelled, should their turn come.
    pub(super) fn oracle_without(&self, cancelled: &HashSet<TaskId>) -> Vec<State> {
        self.states_in(&self.graph, cancelled)
    }

    /// The same in a graph that has grown from that of the job.
    pub(super) fn states_in(&self, graph: &TaskGraph, cancelled: &HashSet<TaskId>) -> Vec<State> {
        let mut ok = vec![false; graph.node_count()];
        let mut states = vec![State::Pending; graph.task_count()];
        for node in graph.topological().iter().filter(|node| !graph.free_numbers().contains(node)) {
            let violated = graph.predecessors(node).any(|e| e.violated_by(ok[e.node() as usize]));
            ok[node as usize] = match graph.join(node) {
                Some(JoinRule::All) => !violated,
                Some(JoinRule::AnyNotOk) => violated,
                None => {
                    let task = TaskId(node);
                    let runs = (1..=self.retries[task.index()] + 1).any(|a| self.outcome(task, a).ok());
                    states[task.index()] = match (violated, runs) {
                        (true, _) => State::Skipped,
                        _ if cancelled.contains(&task) => State::Cancelled,
                        (false, true) => State::Completed,
                        (false, false) => State::Failed,
                    };
                    states[task.index()] == State::Completed
                }
            };
        }
        states
    }
}

pub(super) fn random_link(rng: &mut Rng, counts: &[u32], to: u32) -> Link {
    let from = rng.u32(0..to);
    let (n, m) = (counts[from as usize], counts[to as usize]);
    let shape = match rng.u32(0..4) {
        0 if n == m => LinkShape::Each,
        1 => LinkShape::One(rng.u32(0..n)),
        2 => LinkShape::Pairs((0..rng.u32(1..6)).map(|_| (rng.u32(0..n), rng.u32(0..m))).collect()),
        _ => LinkShape::All,
    };
    let on = match rng.u32(0..6) {
        0 => Condition::NotOk,
        1 => Condition::Any,
        _ => Condition::Ok,
    };
    Link { from, to, shape, on, bytes: 0, span: 0..0 }
}
