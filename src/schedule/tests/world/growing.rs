//! Tasks that add others: what each adds, and the graph that comes of it.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::Arc;
use std::time::Duration;

use fastrand::Rng;

use super::World;
use crate::graph::TaskGraph;
use crate::graph::link::Link;
use crate::model::{Rank, RankState, TaskId, Time};
use crate::schedule::coordinator::Growth;
use crate::schedule::tests::job::{Job, Terms, alone, random_link};

/// What tasks add to a job.
pub(in crate::schedule::tests) struct Growing {
    /// For each task that adds others, the sizes of the groups that it adds.
    pub(in crate::schedule::tests) adders: BTreeMap<u32, Vec<u32>>,
    /// Those whose groups count.
    pub(in crate::schedule::tests) taken: BTreeSet<u32>,
    /// The graph with all that counts and has homes.
    pub(in crate::schedule::tests) graph: Arc<TaskGraph>,
    /// How often a further attempt has offered the same.
    pub(in crate::schedule::tests) offered_again: usize,
    counts: Vec<u32>,
    most: u32,
    offers: HashSet<u32>,
    /// Sizes of groups that count and have no homes.
    waiting: Vec<Vec<u32>>,
}

fn groups(rng: &mut Rng) -> Vec<u32> {
    (0..rng.usize(1..4)).map(|_| rng.u32(1..6)).collect()
}

impl Growing {
    pub(in crate::schedule::tests) fn new(
        rng: &mut Rng,
        counts: Vec<u32>,
        graph: &Arc<TaskGraph>,
        most: u32,
    ) -> Growing {
        let tasks = 0..graph.task_count() as u32;
        let adders = tasks.filter(|_| rng.u32(0..3) == 0).collect::<Vec<_>>();
        Growing {
            adders: adders.into_iter().map(|task| (task, groups(rng))).collect(),
            taken: BTreeSet::new(),
            graph: Arc::clone(graph),
            offered_again: 0,
            counts,
            most,
            offers: HashSet::new(),
            waiting: Vec::new(),
        }
    }

    /// The graph with what waits; added tasks may add others.
    fn grow(&mut self, rng: &mut Rng) -> u32 {
        let mut links: Vec<Link> = Vec::new();
        let additions = self.waiting.len() as u32;
        for count in self.waiting.drain(..).flatten() {
            let tasks: u32 = self.counts.iter().sum();
            // A group beyond the most tasks is left out.
            if tasks + count > self.most {
                continue;
            }
            self.counts.push(count);
            let to = self.counts.len() as u32 - 1;
            links.extend((0..rng.u32(0..3)).map(|_| random_link(rng, &self.counts, to)));
            if rng.u32(0..3) == 0 {
                self.adders.insert(tasks, groups(rng));
            }
        }
        self.graph = Arc::new(self.graph.grown(&self.counts, &links).expect("there is room"));
        additions
    }
}

impl World {
    /// A task that adds others has completed on a rank: it offers them, and waits for the answer of
    /// rank 0. False if the answer does not come now.
    pub(super) fn offers(&mut self, rank: Rank, task: TaskId, attempt: u16) -> bool {
        let Some(growing) = self.growing.as_mut().filter(|growing| growing.adders.contains_key(&task.0)) else {
            return true;
        };
        if !self.coordinator.standing(rank).is_some_and(RankState::is_here) {
            return false;
        }
        growing.offered_again += usize::from(!growing.offers.insert(task.0));
        self.coordinator.offer(task, attempt);
        true
    }

    /// The coordinator has decided about an offer.
    pub(super) fn offered(&mut self, task: TaskId, counts: bool) {
        let growing = self.growing.as_mut().expect("it grows");
        if counts {
            assert!(growing.taken.insert(task.0), "{task:?} adds twice");
            growing.waiting.push(growing.adders.remove(&task.0).expect("it adds others"));
        }
    }

    /// Gives the coordinator what waits, if it can take it.
    pub(super) fn grow(&mut self) {
        if !self.coordinator.may_grow(Time(self.now)) {
            return;
        }
        let growing = self.growing.as_mut().expect("it grows");
        let additions = growing.grow(&mut self.rng);
        let graph = Arc::clone(&growing.graph);
        let job: Arc<Job> = Arc::clone(&self.job);
        let shapes = job.gangs.clone();
        let pools = job.pools_of(graph.task_count());
        let growth = Growth {
            urgency: (0..graph.node_count()).map(|_| self.rng.u8(0..16)).collect(),
            graph,
            advice: Box::new(Terms(Arc::clone(&job))),
            shapes: Box::new(move |task| shapes.get(&task.0).cloned().unwrap_or_else(alone)),
            pools,
            fair: Vec::new(),
            additions,
            took: Duration::from_nanos(self.rng.u64(0..100_000)),
        };
        let mut actions = Vec::new();
        self.coordinator.grow(Time(self.now), growth, &mut actions);
        self.carry_out(actions);
    }
}
