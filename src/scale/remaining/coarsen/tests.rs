use super::*;
use crate::graph::link::LinkShape;
use crate::scale::testing::World;

fn work(world: &World, limit: usize) -> RemainingWork {
    world.remaining(limit, limit)
}

/// No chunk needs a chunk of a higher number, and every task is in one.
fn check(work: &RemainingWork) {
    let outline = work.outline();
    for chunk in 0..outline.len() {
        assert!(outline.successors.row(chunk).iter().all(|&next| next as usize > chunk));
    }
    assert!((0..work.graph().task_count() as u32).all(|task| outline.chunk_of(TaskId(task)) != NONE));
    let tasks: u32 = outline.cells.iter().map(|cell| cell.left + cell.running).sum();
    assert_eq!(tasks as usize, work.graph().task_count());
}

#[test]
fn small_graphs_are_kept_task_by_task() {
    let work = work(&World::phases(&[5, 7], 1.0), 100);
    assert_eq!(work.outline().len(), 13, "twelve tasks and a join");
    assert!(work.outline().is_exact);
    check(&work);
}

#[test]
fn wide_graphs_are_cut_into_pieces_and_keep_their_shape() {
    let work = work(&World::new(&[10_000, 10_000], &[(0, 1, LinkShape::Each)], &[1.0, 2.0]), 200);
    let outline = work.outline();
    check(&work);
    assert!((150..=210).contains(&outline.len()), "{}", outline.len());
    let first = outline.chunk_of(TaskId(0)) as usize;
    assert_eq!(outline.successors.row(first).len(), 1, "element by element stays piece by piece");
}

#[test]
fn pieces_that_nothing_tells_apart_are_one() {
    let bag = work(&World::bag(10_000, 1.0), 200);
    check(&bag);
    assert_eq!((bag.outline().len(), bag.outline().wave[0]), (1, 10_000));
    let phases = work(&World::phases(&[10_000, 10, 10_000], 1.0), 200);
    check(&phases);
    assert_eq!(phases.outline().len(), 5, "three phases and two joins");
    // Tasks of different sizes stay separate, so that the long ones can start first.
    let mut sweep = World::bag(10_000, 1.0);
    (1..).zip(&mut sweep.durations).for_each(|(k, duration)| *duration = f64::from(k));
    let sweep = work(&sweep, 200);
    check(&sweep);
    assert!((20..60).contains(&sweep.outline().len()), "{}", sweep.outline().len());
}

#[test]
fn deep_graphs_become_bands() {
    let work = work(&World::chain(10_000, 1.0), 100);
    let outline = work.outline();
    check(&work);
    assert!(outline.len() <= 30, "{}", outline.len());
    assert!(outline.wave.iter().all(|&wave| wave == 1));
    assert_eq!(outline.successors.len(), outline.len() - 1);
}
