//! Ranks on which every task fails within moments, and tasks that fail on every rank.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use fastrand::Rng;

use super::job::Job;
use super::world::World;
use super::{final_states, losses_while_ending, random_slots, upheavals};
use crate::model::{Attempt, Rank, RankState, State};
use crate::schedule::coordinator::StopReason;
use crate::seeds::{Named, seeds};

const SECOND: u64 = 1_000_000_000;

/// At least two ranks with slots, and one of them.
fn ranks_and_one(rng: &mut Rng) -> (Vec<u32>, usize) {
    loop {
        let slots = random_slots(rng);
        let able: Vec<usize> = (0..slots.len()).filter(|&rank| slots[rank] > 0).collect();
        if able.len() > 1 {
            let one = able[rng.usize(0..able.len())];
            return (slots, one);
        }
    }
}

#[test]
fn a_rank_on_which_tasks_fail_at_once_fails_few_of_those_at_home_there() {
    let (mut failed_in_all, mut most, mut runs) = (0, 0, 0);
    for seed in seeds(250) {
        let _named = Named(seed, "schedule::tests::sick::a_rank_on_which_tasks_fail_at_once");
        let mut rng = Rng::with_seed(seed);
        let (slots, sick) = ranks_and_one(&mut rng);
        // Other ranks complete their first tasks long after the sick one could have failed all.
        let longest = [100_000, 10_000_000, SECOND][rng.usize(0..3)];
        let tasks = rng.u32(100..400);
        let job = Arc::new(Job::bag(&mut rng, tasks, longest));
        let mut world = World::new(Arc::clone(&job), seed, &slots, &BTreeSet::new());
        world.sick.insert(sick);
        world.run();
        assert_eq!(world.finished, Some(StopReason::Complete));
        let states = final_states(&[&world.journal], tasks as usize);
        let failed = states.iter().filter(|state| **state == State::Failed).count();
        assert_eq!(states.iter().filter(|state| **state == State::Completed).count() + failed, tasks as usize);
        // Five in a row, and what slots began before the worker had received these ends: half of
        // them each time.
        assert!(failed <= 5 + 16 * slots[sick] as usize, "{failed} of {tasks} failed, {slots:?}, {:?}", world.notes);
        assert_eq!(world.coordinator.standing(Rank(sick as u32)), Some(RankState::Quarantined));
        (failed_in_all, most, runs) = (failed_in_all + failed, most.max(failed), runs + 1);
    }
    eprintln!("{failed_in_all} tasks failed in {runs} runs, at most {most} of a run");
    assert!(failed_in_all <= 10 * runs.max(4), "{failed_in_all} tasks failed in {runs} runs");
}

#[test]
fn what_fails_everywhere_ends_everywhere() {
    let mut longest = 0;
    for seed in seeds(150) {
        let _named = Named(seed, "schedule::tests::sick::what_fails_everywhere");
        let mut rng = Rng::with_seed(seed);
        let slots = random_slots(&mut rng);
        let job = match rng.bool() {
            true => Job::random(&mut rng, &slots),
            false => {
                let tasks = rng.u32(20..300);
                Job::bag(&mut rng, tasks, 2_000_000)
            }
        };
        let all = (0..job.graph.task_count() as u32).flat_map(|task| (1..6).map(move |attempt| (task, attempt)));
        let job = Arc::new(Job { fails: all.collect(), ..job });
        let mut world = World::new(Arc::clone(&job), seed, &slots, &BTreeSet::new());
        world.run();
        assert_eq!(world.finished, Some(StopReason::Complete));
        assert_eq!(final_states(&[&world.journal], job.graph.task_count()), job.oracle());
        let quarantined = (0..slots.len() as u32)
            .filter(|&rank| world.coordinator.standing(Rank(rank)) == Some(RankState::Quarantined));
        assert_eq!(quarantined.count(), 0, "{:?}", world.notes);
        longest = longest.max(world.now());
    }
    eprintln!("the longest took {} ms", longest / 1_000_000);
    assert!(longest < 60 * SECOND, "suspensions add up to {} s", longest / SECOND);
}

#[test]
fn runs_with_sick_ranks_end_whatever_happens_to_their_ranks() {
    let mut complete = 0;
    for seed in seeds(250) {
        let _named = Named(seed, "schedule::tests::sick::runs_with_sick_ranks");
        let mut rng = Rng::with_seed(seed);
        let slots = random_slots(&mut rng);
        let job = match rng.bool() {
            true => Job::random(&mut rng, &slots),
            false => {
                let tasks = rng.u32(20..200);
                Job::bag(&mut rng, tasks, 5_000_000)
            }
        };
        let job = Arc::new(job);
        let mut world = World::new(Arc::clone(&job), seed, &slots, &BTreeSet::new());
        // Some ranks that join later are sick, too.
        world.sick = (0..slots.len() + 3).filter(|_| rng.u32(0..3) == 0).collect();
        let ranks = slots.len() as u32;
        for (time, what) in upheavals(&mut rng, ranks) {
            world.at(time, what);
        }
        if rng.u32(0..4) == 0 {
            for (time, what) in losses_while_ending(&mut rng, 8_000_000, ranks) {
                world.at(time, what);
            }
        }
        world.run();
        let mut finals = HashMap::new();
        for attempt in world.journal.iter().filter(|a| a.last) {
            assert_eq!(finals.insert(attempt.task, attempt), None, "{:?} ended twice", attempt.task);
        }
        let may_fail = |attempt: &&Attempt| {
            let on_sick = world.sick.contains(&attempt.rank.index());
            let by_itself: HashSet<u16> =
                job.fails.iter().filter(|(task, _)| *task == attempt.task.0).map(|(_, attempt)| *attempt).collect();
            on_sick || !by_itself.is_empty()
        };
        // Rank 0 infers some failures of lost ranks from what others have counted.
        let is_inferred = |a: &Attempt| a.start == a.end;
        let failed = world.journal.iter().filter(|a| a.outcome.state == State::Failed && !is_inferred(a));
        assert!(failed.clone().all(|a| may_fail(&a)), "{:?}", failed.clone().find(|a| !may_fail(a)));
        match world.finished.clone().expect("the run has ended") {
            StopReason::Complete => {
                assert_eq!(finals.len(), job.graph.task_count(), "every task has ended");
                complete += 1;
            }
            StopReason::Signal(_) => {}
            why => assert!(world.notes.iter().any(|text| text.contains("no rank that is left")), "{why:?}"),
        }
    }
    assert!(complete > 0 || std::env::var_os("PHALANX_SEED").is_some());
}
