//! Drives coordinator and workers over a simulated network: random graphs, random delays, messages
//! of different senders reordered, tasks that fail, gangs, stops and resumes, ranks that come, go
//! and die. Every run is replayed by its seed.
//!
//! What must hold is checked by an oracle that knows only the graph and which attempts fail.

mod epochs;
mod files;
mod gangs;
mod growth;
mod job;
mod labels;
mod losses;
mod partitions;
mod pools;
mod sick;
mod world;

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use fastrand::Rng;

use self::job::Job;
use self::world::{Execution, Happening, Life, Way, World};
use super::coordinator::{Change, StopReason};
use super::protocol::Stop;
use crate::graph::link::Condition;
use crate::graph::{JoinRule, TaskGraph};
use crate::model::{Attempt, Rank, State, TaskId};
use crate::seeds::{Named, seeds};

fn final_states(journals: &[&[Attempt]], tasks: usize) -> Vec<State> {
    let mut states = vec![State::Pending; tasks];
    for attempt in journals.iter().flat_map(|j| j.iter()).filter(|a| a.last) {
        states[attempt.task.index()] = attempt.outcome.state;
    }
    states
}

fn random_slots(rng: &mut Rng) -> Vec<u32> {
    let mut slots: Vec<u32> = (0..rng.usize(1..7)).map(|_| rng.u32(1..4)).collect();
    if slots.len() > 1 && rng.u32(0..3) == 0 {
        slots[0] = 0;
    }
    slots
}

/// Every edge is respected, and nothing runs twice without need. What a rank does after it was
/// declared lost by mistake counts only if other ranks received it.
fn check_executions(world: &World, graph: &TaskGraph, oracle: &[State], done: &BTreeSet<u32>) {
    let is_lost = |rank: usize| world.life[rank] == Life::Dead || world.declared_lost.contains(&rank);
    let any_lost = (0..world.life.len()).any(is_lost);
    let mut first_end: HashMap<TaskId, u64> = done.iter().map(|&task| (TaskId(task), 0)).collect();
    for run in &world.executed {
        let end = first_end.entry(run.task).or_insert(run.end);
        *end = run.end.min(*end);
    }
    let runs: Vec<&Execution> = world.executed.iter().filter(|run| !world.declared_lost.contains(&run.rank)).collect();
    let mut seen: HashMap<(TaskId, u16), &Execution> = HashMap::new();
    let mut last: HashMap<TaskId, u64> = HashMap::new();
    for run in &runs {
        let start = last.entry(run.task).or_insert(run.start);
        *start = run.start.max(*start);
        if let Some(before) = seen.insert((run.task, run.attempt), run) {
            // A first success is reported by the rank that ran it. Other ends are reported by the
            // home only, which may be lost before it has reported.
            let notes = before.ok && before.attempt == 1;
            assert!(is_lost(before.rank) || (any_lost && !notes), "{run:?} ran before: {before:?}");
        }
    }
    // After losses a task may run again after its successor if the only evidence of its end is
    // `afterany`, or that not all of an array completed; and so may a task whose successor does.
    let tells = |node| graph.join(node) != Some(JoinRule::AnyNotOk);
    let plain = (0..graph.node_count() as u32)
        .all(|node| tells(node) && graph.predecessors(node).all(|e| e.on() == Condition::Ok));
    for run in &runs {
        let strict =
            !any_lost || (plain && world.finished == Some(StopReason::Complete) && last[&run.task] == run.start);
        for needed in graph.tasks_before(run.task).into_iter().filter(|t| oracle[t.index()] != State::Skipped) {
            assert!(first_end.get(&needed).is_some_and(|&end| end <= run.start), "{run:?} started before {needed:?}");
            let later = runs.iter().find(|e| e.task == needed && e.end > run.start);
            assert!(!strict || later.is_none(), "{run:?} started before {later:?} had ended");
        }
    }
}

#[test]
fn random_graphs_end_as_the_oracle_says() {
    let mut stolen = 0;
    for seed in seeds(700) {
        let _named = Named(seed, "schedule::tests::random_graphs");
        let mut rng = Rng::with_seed(seed);
        let slots = random_slots(&mut rng);
        let job = Arc::new(Job::random(&mut rng, &slots));
        let mut world = World::new(Arc::clone(&job), seed, &slots, &BTreeSet::new());
        world.signals = true;
        world.run();
        let oracle = job.oracle();
        assert_eq!(world.finished, Some(StopReason::Complete));
        assert_eq!(final_states(&[&world.journal], job.graph.task_count()), oracle);
        let finals = world.journal.iter().filter(|a| a.last).count();
        assert_eq!(finals, job.graph.task_count(), "each task is reported final once");
        check_executions(&world, &job.graph, &oracle, &BTreeSet::new());
        stolen += world.last.keys().filter(|(from, to)| from != to && *from != Rank::ZERO).count();
    }
    assert!(stolen > 0, "some messages went from rank to rank");
}

#[test]
fn a_bound_on_failures_ends_every_run() {
    let mut ended_early = 0;
    for seed in seeds(400) {
        let _named = Named(seed, "schedule::tests::a_bound_on_failures");
        let mut rng = Rng::with_seed(seed);
        let slots = random_slots(&mut rng);
        let most = rng.u32(1..6);
        let job = Arc::new(Job { max_failures: Some(most), ..Job::random(&mut rng, &slots) });
        let mut world = World::new(Arc::clone(&job), seed, &slots, &BTreeSet::new());
        world.run();
        let failed: Vec<&Attempt> =
            world.journal.iter().filter(|a| a.last && a.outcome.state == State::Failed).collect();
        match world.finished {
            Some(StopReason::Complete) => {}
            Some(StopReason::Failures) => ended_early += 1,
            ref other => panic!("{other:?}"),
        }
        if world.finished == Some(StopReason::Failures) {
            assert!(failed.len() as u32 >= most, "a rank gave up before the bound was reached");
        }
    }
    assert!(ended_early > 40, "{ended_early}");
}

#[test]
fn a_rank_starts_nothing_after_the_failure_that_reaches_the_bound() {
    for seed in seeds(250) {
        let _named = Named(seed, "schedule::tests::a_rank_starts_nothing");
        let mut rng = Rng::with_seed(seed);
        // One rank, and tasks without retries: then it knows all that the coordinator will.
        let slots = [rng.u32(1..4)];
        let job = Job::random(&mut rng, &slots);
        let retries = vec![0; job.retries.len()];
        let job = Arc::new(Job { max_failures: Some(rng.u32(1..4)), retries, ..job });
        let mut world = World::new(Arc::clone(&job), seed, &slots, &BTreeSet::new());
        world.run();
        let mut failed: Vec<u64> = world.executed.iter().filter(|run| !run.ok).map(|run| run.end).collect();
        failed.sort_unstable();
        let most = job.max_failures.unwrap_or_default() as usize;
        let Some(&reached) = failed.get(most - 1) else { continue };
        let later = world.executed.iter().find(|run| run.start > reached);
        assert!(later.is_none(), "{later:?} started after {reached}");
    }
}

#[test]
fn a_stopped_run_resumes_without_running_anything_completed_again() {
    let mut cut_short = 0;
    for seed in seeds(700) {
        let _named = Named(seed, "schedule::tests::a_stopped_run");
        let mut rng = Rng::with_seed(seed);
        let slots = random_slots(&mut rng);
        let job = Arc::new(Job::random(&mut rng, &slots));
        let how = [Stop::Drain, Stop::Terminate, Stop::Kill][rng.usize(0..3)];
        let mut first = World::new(Arc::clone(&job), seed, &slots, &BTreeSet::new());
        first.at(rng.u64(0..8_000_000), Happening::Stop(how));
        first.run();
        cut_short += usize::from(first.finished != Some(StopReason::Complete));
        check_resume(&job, &first, seed, &slots);
    }
    assert!(cut_short > 0, "some runs were cut short");
}

#[test]
fn cancelled_tasks_take_what_needs_them_along_and_nothing_else() {
    let mut cancelled_in_all = 0;
    for seed in seeds(400) {
        let _named = Named(seed, "schedule::tests::cancelled_tasks");
        let mut rng = Rng::with_seed(seed);
        let slots = random_slots(&mut rng);
        let job = Arc::new(Job::random(&mut rng, &slots));
        let mut world = World::new(Arc::clone(&job), seed, &slots, &BTreeSet::new());
        let tasks = job.graph.task_count() as u32;
        let asked: HashSet<TaskId> = (0..rng.u32(1..4)).map(|_| TaskId(rng.u32(0..tasks))).collect();
        for task in &asked {
            world.at(rng.u64(0..3_000_000), Happening::Cancel(task.0));
        }
        if rng.bool() {
            let joins = Happening::Join(rng.u32(1..4), rng.bool());
            world.at(rng.u64(0..5_000_000), joins);
            world.at(rng.u64(0..5_000_000), Happening::Kill(Rank(rng.u32(0..slots.len() as u32)), 10_000));
        }
        world.run();
        if world.finished != Some(StopReason::Complete) {
            assert!(world.notes.iter().any(|text| text.contains("no rank that is left")), "{:?}", world.finished);
            continue;
        }
        let states = final_states(&[&world.journal], job.graph.task_count());
        let ended = (0..).zip(&states).filter(|(_, state)| **state == State::Cancelled);
        let cancelled: HashSet<TaskId> = ended.map(|(task, _)| TaskId(task)).collect();
        assert!(cancelled.is_subset(&asked), "{cancelled:?} of {asked:?}");
        assert_eq!(states, job.oracle_without(&cancelled));
        cancelled_in_all += cancelled.len();
    }
    assert!(cancelled_in_all > 0 || std::env::var_os("PHALANX_SEED").is_some());
}

/// What a seed does to the ranks of its world.
fn upheavals(rng: &mut Rng, ranks: u32) -> Vec<(u64, Happening)> {
    let span = [500_000, 5_000_000, 20_000_000][rng.usize(0..3)];
    let happening = |rng: &mut Rng| {
        let rank = Rank(rng.u32(0..ranks + 2));
        let notice = [0, 10_000, 3_000_000][rng.usize(0..3)];
        match rng.u32(0..11) {
            0 | 1 => Happening::Kill(rank, notice),
            10 => Happening::KillThief(notice),
            2 => Happening::Suspect(rank),
            3 => Happening::Join(rng.u32(1..4), rng.bool()),
            4 | 5 => Happening::Request(rank, Change::Drain),
            6 => Happening::Request(rank, Change::Park),
            7 => Happening::Request(rank, Change::Recall),
            8 => Happening::Cut(rank, [Way::Down, Way::Up][rng.usize(0..2)], rng.u64(0..3_000_000)),
            _ => Happening::Rebalance,
        }
    };
    let mut plan: Vec<(u64, Happening)> = (0..rng.usize(1..8)).map(|_| (rng.u64(0..span), happening(rng))).collect();
    if rng.u32(0..8) == 0 {
        plan.extend(losses_while_ending(rng, span, ranks));
    }
    plan
}

/// A stop, and what is lost around it.
fn losses_while_ending(rng: &mut Rng, span: u64, ranks: u32) -> Vec<(u64, Happening)> {
    let (stop, how) = (rng.u64(0..span), [Stop::Drain, Stop::Terminate, Stop::Kill][rng.usize(0..3)]);
    let mut plan = vec![(stop, Happening::Stop(how))];
    for _ in 0..rng.u32(0..4) {
        let notice = [0, 10_000, 3_000_000][rng.usize(0..3)];
        let what = match rng.u32(0..4) {
            0 => Happening::KillThief(notice),
            1 => Happening::Suspect(Rank(rng.u32(0..ranks + 2))),
            _ => Happening::Kill(Rank(rng.u32(0..ranks + 2)), notice),
        };
        plan.push((stop.saturating_sub(200_000) + rng.u64(0..2_000_000), what));
    }
    plan
}

/// Resumes a run that has been cut short, and checks that nothing that completed runs again and
/// that
/// all tasks end as they would have without the stop.
fn check_resume(job: &Arc<Job>, first: &World, seed: u64, slots: &[u32]) {
    let oracle = job.oracle();
    for attempt in first.journal.iter().filter(|a| a.last) {
        assert_eq!(attempt.outcome.state, oracle[attempt.task.index()], "the stop decided {:?}", attempt.task);
    }
    let done: BTreeSet<u32> = first.journal.iter().filter(|a| a.last && a.outcome.ok()).map(|a| a.task.0).collect();
    let mut second = World::new(Arc::clone(job), seed + 1, slots, &done);
    second.run();
    assert!(second.executed.iter().all(|e| !done.contains(&e.task.0)), "a completed task ran again");
    assert_eq!(final_states(&[&first.journal, &second.journal], job.graph.task_count()), oracle);
    check_executions(&second, &job.graph, &oracle, &done);
}

#[test]
fn a_run_that_loses_ranks_while_it_ends_is_resumed() {
    let (mut cut_short, mut lost, mut thieves) = (0, 0, 0);
    for seed in seeds(700) {
        let _named = Named(seed, "schedule::tests::a_run_that_loses_ranks_while_it_ends");
        let mut rng = Rng::with_seed(seed);
        let slots = random_slots(&mut rng);
        let job = Arc::new(Job::random(&mut rng, &slots));
        let mut first = World::new(Arc::clone(&job), seed, &slots, &BTreeSet::new());
        let ranks = slots.len() as u32;
        for (time, what) in
            upheavals(&mut rng, ranks).into_iter().chain(losses_while_ending(&mut rng, 8_000_000, ranks))
        {
            first.at(time, what);
        }
        first.run();
        check_resume(&job, &first, seed, &slots);
        cut_short += usize::from(first.finished != Some(StopReason::Complete));
        lost += first.life.iter().filter(|life| **life == Life::Dead).count();
        thieves += first.dead_thieves;
    }
    if std::env::var_os("PHALANX_SEED").is_none() {
        assert!(cut_short > 0 && lost > 0 && thieves > 0);
        eprintln!("{cut_short} runs cut short, {lost} ranks lost, {thieves} of them thieves before their report");
    }
}

#[test]
fn ranks_come_go_and_die_and_nothing_is_lost() {
    let (mut complete, mut changed, mut lost_attempts, mut shared) = (0, 0, 0, [0; 2]);
    for seed in seeds(700) {
        let _named = Named(seed, "schedule::tests::ranks_come_go_and_die");
        let mut rng = Rng::with_seed(seed);
        let slots = random_slots(&mut rng);
        let job = Arc::new(Job::random(&mut rng, &slots));
        let mut world = World::new(Arc::clone(&job), seed, &slots, &BTreeSet::new());
        for (time, what) in upheavals(&mut rng, slots.len() as u32) {
            world.at(time, what);
        }
        world.run();
        let oracle = job.oracle();
        let finals = world.finals(&oracle);
        match world.finished.clone().expect("the run has ended") {
            StopReason::Complete => assert_eq!(finals.len(), job.graph.task_count(), "every task has ended"),
            StopReason::Signal(_) => {}
            why => assert!(world.notes.iter().any(|text| text.contains("no rank that is left")), "{why:?}"),
        }
        check_executions(&world, &job.graph, &oracle, &BTreeSet::new());
        for &(task, attempt) in &world.reported_started {
            let known = world.journal.iter().any(|a| (a.task, a.attempt) == (task, attempt));
            assert!(
                known || world.finished != Some(StopReason::Complete),
                "{task:?}, attempt {attempt}, left no record"
            );
        }
        complete += usize::from(world.finished == Some(StopReason::Complete));
        changed += world.epochs();
        shared = [0, 1].map(|at: usize| shared[at] + world.shared[at]);
        lost_attempts += world.journal.iter().filter(|a| a.outcome.state == State::NodeFail).count();
    }
    if std::env::var_os("PHALANX_SEED").is_none() {
        assert!(complete > 0 && changed > 0 && lost_attempts > 0 && shared.iter().all(|&count| count > 0));
        eprintln!("{complete} runs complete, {changed} epochs, {lost_attempts} attempts lost with their rank");
        eprintln!("{} shares of operations, {} operations that lost a rank", shared[0], shared[1]);
    }
}
