//! Pools in worlds whose ranks come, go and die, and whose capacities change.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use fastrand::Rng;

use super::job::Job;
use super::world::{Happening, World};
use super::{random_slots, upheavals};
use crate::schedule::coordinator::StopReason;
use crate::schedule::pools::UNLIMITED;
use crate::schedule::pools::table::ResourceKind;
use crate::seeds::{Named, seeds};

/// A world with pools, which is checked after each step: see `world/units.rs`.
fn world(rng: &mut Rng, seed: u64, with_upheavals: bool) -> (Arc<Job>, World) {
    let slots = random_slots(rng);
    let job = Arc::new(Job::random(rng, &slots).with_pools(rng));
    let mut world = World::new(Arc::clone(&job), seed, &slots, &BTreeSet::new());
    if with_upheavals {
        for (time, what) in upheavals(rng, slots.len() as u32) {
            world.at(time, what);
        }
    }
    change_limits(rng, &job, &mut world);
    (job, world)
}

/// Capacities change and tasks are paused; in the end all is as it was.
pub(super) fn change_limits(rng: &mut Rng, job: &Job, world: &mut World) {
    for (resource, of) in (0..).zip(job.pools.resources()) {
        let ResourceKind::Capacity(units) = of.kind else { continue };
        for _ in 0..rng.u32(0..4) {
            let to = [0, rng.u32(0..8), UNLIMITED][rng.usize(0..3)];
            world.at(rng.u64(0..8_000_000), Happening::Limit(resource, to));
        }
        world.at(8_000_000, Happening::Limit(resource, units));
    }
    let tasks = job.graph.task_count() as u32;
    for _ in 0..rng.u32(0..3) {
        let from = rng.u32(0..tasks);
        world.at(rng.u64(0..8_000_000), Happening::Pause(from, rng.u32(from..tasks) + 1, rng.u32(0..3) > 0));
    }
    world.at(8_000_000, Happening::Pause(0, tasks, false));
}

#[test]
fn pools_are_never_above_their_capacity_and_no_task_starves() {
    let (mut complete, mut at_capacity) = (0, 0);
    for seed in seeds(350) {
        let _named = Named(seed, "schedule::tests::pools::pools_are_never_above");
        let mut rng = Rng::with_seed(seed);
        let (job, mut world) = world(&mut rng, seed, false);
        world.run();
        assert_eq!(world.finished, Some(StopReason::Complete));
        assert_eq!(super::final_states(&[&world.journal], job.graph.task_count()), job.oracle());
        complete += 1;
        let capacity = |resource: usize| match job.pools.resources()[resource].kind {
            ResourceKind::Capacity(units) => Some(u64::from(units)),
            ResourceKind::Rate { .. } => None,
        };
        at_capacity +=
            (0..world.units.len()).filter(|&r| capacity(r).is_some_and(|units| world.units[r].peak >= units)).count();
    }
    assert!(at_capacity > complete / 2 || std::env::var_os("PHALANX_SEED").is_some());
}

#[test]
fn pools_survive_ranks_that_come_go_and_die() {
    let mut complete = 0;
    for seed in seeds(350) {
        let _named = Named(seed, "schedule::tests::pools::pools_survive");
        let mut rng = Rng::with_seed(seed);
        let (job, mut world) = world(&mut rng, seed, true);
        world.run();
        let oracle = job.oracle();
        let mut finals = HashMap::new();
        for attempt in world.journal.iter().filter(|a| a.last) {
            assert_eq!(finals.insert(attempt.task, attempt), None, "{:?} ended twice", attempt.task);
            assert_eq!(attempt.outcome.state, oracle[attempt.task.index()], "{attempt:?}");
        }
        match world.finished.clone().expect("the run has ended") {
            StopReason::Complete => assert_eq!(finals.len(), job.graph.task_count(), "every task has ended"),
            StopReason::Signal(_) => {}
            why => assert!(world.notes.iter().any(|text| text.contains("no rank that is left")), "{why:?}"),
        }
        complete += usize::from(world.finished == Some(StopReason::Complete));
    }
    assert!(complete > 0 || std::env::var_os("PHALANX_SEED").is_some());
}
