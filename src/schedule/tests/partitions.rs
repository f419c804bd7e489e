//! A network that fails: links down for a second, five or sixty, in one direction or both,
//! half-open connections, processes that stand still, both sides sure that the other is dead.

use std::collections::BTreeSet;
use std::sync::Arc;

use fastrand::Rng;

use super::job::Job;
use super::world::{Happening, MAX_SILENCE_NS, SECOND_NS, Way, World};
use super::{check_executions, random_slots};
use crate::model::{Rank, State};
use crate::schedule::coordinator::StopReason;
use crate::seeds::{Named, seeds};

/// What a seed does to the links of its world; none is down for longer than this.
fn faults(rng: &mut Rng, ranks: u32, longest: u64) -> Vec<(u64, Happening)> {
    let span = [500_000, 5_000_000, 20_000_000][rng.usize(0..3)];
    let mut plan = Vec::new();
    for _ in 0..rng.usize(1..7) {
        let (at, rank) = (rng.u64(0..span), Rank(rng.u32(0..ranks + 2)));
        let time = ([1, 5, 60][rng.usize(0..3)] * SECOND_NS).min(longest);
        match rng.u32(0..9) {
            0 | 1 => plan.push((at, Happening::Cut(rank, Way::Up, time))),
            2 => plan.push((at, Happening::Cut(rank, Way::Down, time))),
            3 | 4 => plan.extend([Way::Down, Way::Up].map(|way| (at, Happening::Cut(rank, way, time)))),
            5 => {
                // What a rank sends gets through until its acknowledgements are missed.
                let later = rng.u64(0..time);
                plan.push((at, Happening::Cut(rank, Way::Down, time)));
                plan.push((at + later, Happening::Cut(rank, Way::Up, time - later)));
            }
            6 => plan.push((at, Happening::Freeze(rank, time))),
            7 if longest > MAX_SILENCE_NS => {
                // A host without power: nobody closes its connection.
                plan.extend([Way::Down, Way::Up].map(|way| (at, Happening::Cut(rank, way, time))));
                plan.push((at, Happening::Kill(rank, MAX_SILENCE_NS)));
            }
            _ => plan.push((at, Happening::Join(rng.u32(1..4), rng.bool()))),
        }
    }
    plan
}

/// Runs a random job while this is done to its links, until no process is left.
fn run_with_faults(seed: u64, longest: u64) -> (Arc<Job>, World) {
    let mut rng = Rng::with_seed(seed);
    let slots = random_slots(&mut rng);
    let job = Arc::new(Job::random(&mut rng, &slots));
    let mut world = World::new(Arc::clone(&job), seed, &slots, &BTreeSet::new());
    for (time, what) in faults(&mut rng, slots.len() as u32, longest) {
        world.at(time, what);
    }
    world.run();
    world.run_to_last_process();
    (job, world)
}

#[test]
fn partitions_that_heal_lose_nothing_and_record_nothing_twice() {
    let (mut complete, mut seen) = (0, [0; 5]);
    for seed in seeds(1000) {
        let _named = Named(seed, "schedule::tests::partitions::partitions_that_heal");
        let (job, world) = run_with_faults(seed, u64::MAX);
        let oracle = job.oracle();
        let finals = world.finals(&oracle);
        match world.finished.clone().expect("the run has ended") {
            StopReason::Complete => assert_eq!(finals.len(), job.graph.task_count(), "every task has ended"),
            why => assert!(world.notes.iter().any(|text| text.contains("no rank that is left")), "{why:?}"),
        }
        check_executions(&world, &job.graph, &oracle, &BTreeSet::new());
        complete += usize::from(world.finished == Some(StopReason::Complete));
        let links = world.seen;
        let counts = [links.given_up, links.left, links.both, links.thawed, links.again];
        seen.iter_mut().zip(counts).for_each(|(sum, count)| *sum += count);
    }
    if std::env::var_os("PHALANX_SEED").is_none() {
        let [given_up, left, both, thawed, again] = seen;
        eprintln!(
            "{complete} runs complete; links closed by rank 0 {given_up}, by the other side {left}, by both {both}"
        );
        eprintln!("{thawed} ranks thawed after they had been given up, {again} hosts joined again");
        assert!(complete > 0 && seen.iter().all(|&count| count > 0));
    }
}

#[test]
fn links_that_are_down_for_seconds_cost_no_attempt() {
    for seed in seeds(1000) {
        let _named = Named(seed, "schedule::tests::partitions::links_that_are_down_for_seconds");
        // Two cuts of one link that overlap stay below the limit, too.
        let (job, world) = run_with_faults(seed, 2 * SECOND_NS);
        assert_eq!(world.finished, Some(StopReason::Complete));
        assert!(world.declared_lost.is_empty() && world.seen.left == 0, "{:?}", world.seen);
        assert!(world.journal.iter().all(|attempt| attempt.outcome.state != State::NodeFail));
        let mut once = BTreeSet::new();
        assert!(world.executed.iter().all(|run| once.insert((run.task, run.attempt))), "an attempt ran twice");
        check_executions(&world, &job.graph, &job.oracle(), &BTreeSet::new());
    }
}
