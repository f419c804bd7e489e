//! Random graphs under random events: the sums must always equal the result of counting again.

use super::*;
use crate::graph::link::{Condition, Link, LinkShape};
use crate::seeds::{Named, seeds};
use fastrand::Rng;

/// Links of every kind between groups.
fn random_links(rng: &mut Rng, counts: &[u32]) -> Vec<Link> {
    let mut links: Vec<Link> = Vec::new();
    for to in 1..counts.len() as u32 {
        let from = rng.u32(0..to);
        let shape = match rng.u32(0..3) {
            0 => LinkShape::All,
            1 if counts[from as usize] == counts[to as usize] => LinkShape::Each,
            _ => {
                let mut pairs: Vec<(u32, u32)> =
                    (0..counts[to as usize]).map(|element| (rng.u32(0..counts[from as usize]), element)).collect();
                pairs.sort_unstable();
                LinkShape::Pairs(pairs)
            }
        };
        links.push(Link { from, to, shape, on: Condition::Ok, bytes: 0, span: 0..0 });
    }
    links
}

/// Classes, priors and widths of this number of tasks.
fn random_facts(rng: &mut Rng, tasks: u32) -> Arc<FactsOf> {
    let facts: Vec<TaskFacts> = (0..tasks)
        .map(|_| TaskFacts {
            class: ClassId(rng.u32(0..4)),
            prior: rng.bool().then(|| Duration::from_nanos(rng.u64(1..1 << 50))),
            slots: rng.u32(0..4),
            runs_on: NodeTypes::default(),
        })
        .collect();
    Arc::new(move |task: TaskId| facts[task.index()])
}

/// A graph of a few groups.
fn random_work(rng: &mut Rng, exact: usize, chunks: usize) -> RemainingWork {
    let counts: Vec<u32> = (0..rng.u32(1..6)).map(|_| rng.u32(1..80)).collect();
    let graph = TaskGraph::build(&counts, &random_links(rng, &counts)).unwrap();
    let facts = random_facts(rng, counts.iter().sum());
    RemainingWork::with_limits(Arc::new(graph), facts, exact, chunks)
}

/// The stages, tracked by the test.
#[derive(Clone)]
struct Known(Vec<Option<Stage>>);

impl Known {
    /// Applies a random event to a random task.
    fn happen(&mut self, rng: &mut Rng, now: Time, work: &mut RemainingWork) {
        let task = TaskId(rng.u32(0..self.0.len() as u32));
        let stage = &mut self.0[task.index()];
        let (event, before) = (rng.u32(0..10), *stage);
        let after = match event {
            0..3 => Some(Stage::Ready),
            3..7 => Some(Stage::Running(now)),
            7 => Some(Stage::Waiting),
            _ => None,
        };
        *stage = before.and(after);
        match after {
            Some(Stage::Ready) => work.became_ready(task),
            Some(Stage::Running(now)) => work.started(task, now),
            Some(Stage::Waiting) => work.stopped(task),
            None => assert_eq!(work.ended(task), before.is_some()),
        }
    }
}

/// The cells of a coarse graph, counted again.
fn recounted(work: &RemainingWork, known: &Known) -> Vec<(u32, u32, u32, u128, u128)> {
    let mut cells = vec![(0, 0, 0, 0, 0); work.outline().cells.len()];
    for (task, stage) in (0..).map(TaskId).zip(&known.0).filter_map(|(task, stage)| Some((task, (*stage)?))) {
        let (facts, cell) = (work.facts(task), &mut cells[work.outline().cell_of(task) as usize]);
        if matches!(stage, Stage::Running(_)) {
            cell.2 += 1;
            continue;
        }
        let size = u128::from(facts.size());
        cell.0 += 1;
        cell.1 += u32::from(stage == Stage::Ready);
        cell.3 += size;
        cell.4 += size * u128::from(facts.slots.max(1));
    }
    cells
}

fn check(work: &RemainingWork, known: &Known, what: &str) {
    let mut found: Vec<Option<Stage>> = vec![None; known.0.len()];
    work.each(&mut |task| found[task.task.index()] = Some(task.stage));
    assert_eq!(found, known.0, "{what}");
    let count = |of: fn(&Stage) -> bool| known.0.iter().flatten().filter(|stage| of(stage)).count() as u64;
    assert_eq!(
        (work.count(), work.ready_count(), work.running_count()),
        (count(|_| true), count(|s| *s == Stage::Ready), count(|s| matches!(s, Stage::Running(_)))),
        "{what}"
    );
    let mut ready = vec![(0u64, 0u128); 4];
    for (task, _) in (0..).map(TaskId).zip(&known.0).filter(|(_, stage)| **stage == Some(Stage::Ready)) {
        let facts = work.facts(task);
        let of_class = &mut ready[facts.class.0 as usize];
        *of_class = (of_class.0 + 1, of_class.1 + u128::from(facts.size()));
    }
    let mean = |&(count, size): &(u64, u128)| (count > 0).then(|| size as f64 / count as f64 / 1e9);
    let classes = (0..).map(ClassId).zip(&ready).filter_map(|(class, ready)| Some((class, mean(ready)?)));
    assert!(work.ready_classes().eq(classes), "{what}");
    let cells = work.outline().cells.iter().map(|c| (c.left, c.ready, c.running, c.size, c.slot_size));
    assert_eq!(cells.collect::<Vec<_>>(), recounted(work, known), "{what}");
    for running in work.running() {
        assert_eq!(known.0[running.task.index()], Some(Stage::Running(running.since)), "{what}");
        assert!(running.cell == NONE || running.cell == work.outline().cell_of(running.task), "{what}");
    }
}

#[test]
fn what_is_kept_is_what_counting_anew_would_find() {
    for seed in seeds(300) {
        let _named = Named(seed, "scale::remaining::tests::what_is_kept_is_what_counting_anew_would_find");
        let mut rng = Rng::with_seed(seed);
        let (exact, chunks) = ([0, 20, 100, 2500][rng.usize(0..4)], rng.usize(16..200));
        let mut work = random_work(&mut rng, exact, chunks);
        let mut known = Known(vec![Some(Stage::Waiting); work.graph().task_count()]);
        // The first forecast may be made at any time.
        let first_look = rng.usize(0..known.0.len());
        for step in 0..6 * known.0.len() {
            known.happen(&mut rng, Time(step as u64), &mut work);
            if step >= first_look && (step % 7 == 0 || known.0.iter().flatten().count() < 3) {
                check(&work, &known, &format!("seed {seed}, step {step}"));
            }
        }
    }
}

#[test]
fn tasks_that_are_added_count_like_those_of_the_start() {
    for seed in seeds(200) {
        let _named = Named(seed, "scale::remaining::tests::tasks_that_are_added_count_like_those_of_the_start");
        let mut rng = Rng::with_seed(seed);
        let (exact, chunks) = ([0, 20, 2500][rng.usize(0..3)], rng.usize(16..200));
        let counts: Vec<u32> = (0..rng.u32(3..8)).map(|_| rng.u32(1..40)).collect();
        let links = random_links(&mut rng, &counts);
        let facts = random_facts(&mut rng, counts.iter().sum());
        let of = |groups: std::ops::Range<u32>| -> Vec<Link> {
            links.iter().filter(|link| groups.contains(&link.to)).cloned().collect()
        };
        let mut groups = rng.usize(1..counts.len());
        let start = TaskGraph::build(&counts[..groups], &of(0..groups as u32)).unwrap().with_gap(400);
        let mut work = RemainingWork::with_limits(Arc::new(start), Arc::clone(&facts), exact, chunks);
        let mut known = Known(vec![Some(Stage::Waiting); work.graph().task_count()]);
        for step in 0..400 {
            if groups < counts.len() && rng.u32(0..60) == 0 {
                let next = rng.usize(groups + 1..counts.len() + 1);
                let graph = work.graph().grown(&counts[..next], &of(groups as u32..next as u32)).unwrap();
                groups = next;
                work.grow(Arc::new(graph), Arc::clone(&facts));
                known.0.resize(work.graph().task_count(), Some(Stage::Waiting));
            }
            known.happen(&mut rng, Time(step), &mut work);
            if step % 7 == 0 {
                check(&work, &known, &format!("seed {seed}, step {step}"));
            }
        }
    }
}

#[test]
fn an_outline_is_made_anew_when_half_has_ended_and_ends_up_exact() {
    let mut rng = Rng::with_seed(3);
    let mut work = random_work(&mut rng, 20, 50);
    while work.count() < 100 {
        work = random_work(&mut rng, 20, 50);
    }
    let tasks = work.count();
    assert!(!work.outline().is_exact);
    for task in 0..tasks as u32 - 5 {
        work.ended(TaskId(task));
        let outline = work.outline();
        assert!(
            outline.is_exact || outline.made_for <= 2 * work.count().max(1) + 1,
            "{} {}",
            outline.made_for,
            work.count()
        );
    }
    assert!(work.outline().is_exact && work.outline().cells.iter().map(|cell| cell.left).sum::<u32>() == 5);
}

#[test]
fn tasks_that_other_types_of_nodes_may_run_are_counted_anew() {
    let mut rng = Rng::with_seed(5);
    let mut work = random_work(&mut rng, 1000, 16);
    for task in (0..work.count() as u32).map(TaskId) {
        match task.0 % 3 {
            0 => work.became_ready(task),
            1 => work.started(task, Time::ZERO),
            _ => _ = work.ended(task),
        }
    }
    let sums = |work: &RemainingWork| {
        let of =
            |total: (u64, u64, f64), it: NodeDemand| (total.0 + it.tasks, total.1 + it.now_slots, total.2 + it.now_s);
        work.demands().fold((0, 0, 0.0), of)
    };
    let (before, facts) = (sums(&work), Arc::clone(&work.facts));
    let narrow = of_type_one();
    let runs_on = move |task: TaskId| if task.0.is_multiple_of(2) { narrow } else { NodeTypes::default() };
    work.set_node_types(Arc::new(move |task| TaskFacts { runs_on: runs_on(task), ..facts(task) }));
    let after = sums(&work);
    assert!(work.demands().count() == 2 && (before.0, before.1) == (after.0, after.1), "{before:?} {after:?}");
    assert!((before.2 - after.2).abs() <= 1e-6 * before.2);
    (0..work.graph().task_count() as u32).for_each(|task| _ = work.ended(TaskId(task)));
    assert_eq!(work.demands().count(), 0);
}

fn of_type_one() -> NodeTypes {
    use crate::job::Cost;
    use crate::scale::Prices;
    let mut prices = Prices::of_job(&Cost::default(), 1);
    prices.nodes.push(crate::scale::NodeType { slots: 2, ..prices.nodes[0].clone() });
    prices.types_for(&crate::model::NodeNeed { slots: 2, ..crate::model::NodeNeed::default() })
}
