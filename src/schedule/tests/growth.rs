//! Worlds whose tasks add others, while ranks come, go and die.

use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;

use fastrand::Rng;

use super::job::Job;
use super::world::{Execution, Growing, Happening, World};
use super::{check_executions, random_slots, upheavals};
use crate::model::{State, TaskId};
use crate::schedule::coordinator::StopReason;
use crate::seeds::{Named, seeds};

/// Most tasks of a job with all that is added to it.
const MAX_TASKS: u32 = 80;

fn world(rng: &mut Rng, seed: u64, with_upheavals: bool) -> (Arc<Job>, World) {
    let slots = random_slots(rng);
    let job = Job::random(rng, &slots).with_room(rng, MAX_TASKS);
    world_of(rng, seed, job, (&slots, with_upheavals))
}

fn world_of(rng: &mut Rng, seed: u64, job: Job, (slots, with_upheavals): (&[u32], bool)) -> (Arc<Job>, World) {
    let (counts, job) = (job.counts.clone(), Arc::new(job));
    let mut world = World::new(Arc::clone(&job), seed, slots, &BTreeSet::new());
    world.growing = Some(Growing::new(rng, counts, &job.graph, MAX_TASKS));
    if with_upheavals {
        for (time, what) in upheavals(rng, slots.len() as u32) {
            world.at(time, what);
        }
    }
    if rng.bool() {
        world.at(rng.u64(0..4_000_000), Happening::Pause(0, job.graph.task_count() as u32, true));
        let all = Happening::Pause(0, MAX_TASKS, false);
        world.at(rng.u64(4_000_000..8_000_000), all);
    }
    (job, world)
}

/// Every task has ended as the oracle says of the grown graph, once, and each task that completed
/// has added its tasks once. Returns how many have.
fn check(job: &Job, world: &World) -> usize {
    let growing = world.growing.as_ref().expect("it grows");
    let oracle = job.states_in(&growing.graph, &HashSet::new());
    let finals = world.finals(&oracle);
    match world.finished.clone().expect("the run has ended") {
        StopReason::Complete => {
            assert_eq!(finals.len(), growing.graph.task_count(), "every task has ended");
            let completed = |adder: &u32| finals[&TaskId(*adder)].outcome.state == State::Completed;
            assert!(growing.taken.iter().all(completed), "what a task adds counts although it did not complete");
            assert!(!growing.adders.keys().any(completed), "what a task adds does not count although it completed");
        }
        StopReason::Signal(_) => {}
        why => assert!(world.notes.iter().any(|text| text.contains("no rank that is left")), "{why:?}"),
    }
    growing.taken.len()
}

#[test]
fn added_tasks_end_as_the_oracle_says() {
    let mut taken = 0;
    for seed in seeds(200) {
        let _named = Named(seed, "schedule::tests::growth::added_tasks_end");
        let mut rng = Rng::with_seed(seed);
        let (job, mut world) = world(&mut rng, seed, false);
        world.signals = true;
        world.run();
        assert_eq!(world.finished, Some(StopReason::Complete));
        taken += check(&job, &world);
        let graph = Arc::clone(&world.growing.as_ref().expect("it grows").graph);
        check_executions(&world, &graph, &job.states_in(&graph, &HashSet::new()), &BTreeSet::new());
    }
    assert!(taken > 0 || std::env::var_os("PHALANX_SEED").is_some());
}

#[test]
fn a_task_adds_others_once_whatever_is_lost() {
    let (mut complete, mut again) = (0, 0);
    for seed in seeds(400) {
        let _named = Named(seed, "schedule::tests::growth::a_task_adds_others_once");
        let mut rng = Rng::with_seed(seed);
        let (job, mut world) = world(&mut rng, seed, true);
        world.run();
        check(&job, &world);
        complete += usize::from(world.finished == Some(StopReason::Complete));
        again += world.growing.as_ref().expect("it grows").offered_again;
    }
    assert!((complete > 0 && again > 0) || std::env::var_os("PHALANX_SEED").is_some(), "{complete}, {again}");
}

/// Tasks that add tasks, ranks that join, drain and die, and pools whose capacities change, all
/// together: each task ends once, what a completed task adds is never lost, and no pool is ever
/// above its capacity (checked after each step, `world/units.rs`).
#[test]
fn added_tasks_respect_pools_while_ranks_come_go_and_die() {
    let (mut complete, mut again, mut added, mut pooled) = (0, 0, 0, 0);
    for seed in seeds(1000) {
        let _named = Named(seed, "schedule::tests::growth::added_tasks_respect_pools");
        let mut rng = Rng::with_seed(seed);
        let slots = random_slots(&mut rng);
        let job = Job::random(&mut rng, &slots).with_room(&mut rng, MAX_TASKS).with_pools(&mut rng);
        let with_upheavals = rng.u32(0..4) > 0;
        let (job, mut world) = world_of(&mut rng, seed, job, (&slots, with_upheavals));
        super::pools::change_limits(&mut rng, &job, &mut world);
        world.at(8_000_000, Happening::Pause(0, MAX_TASKS, false));
        world.run();
        added += check(&job, &world);
        let growing = world.growing.as_ref().expect("it grows");
        complete += usize::from(world.finished == Some(StopReason::Complete));
        again += growing.offered_again;
        let before = job.graph.task_count();
        let needs = |run: &&Execution| job.pools.set_of(run.task) > 0 && run.task.index() >= before;
        pooled += world.executed.iter().filter(needs).count();
    }
    let is_one = std::env::var_os("PHALANX_SEED").is_some();
    assert!(is_one || [complete, again, added, pooled].iter().all(|&n| n > 0), "{complete} {again} {added} {pooled}");
}
