//! How urgent tasks are: which of those that are ready start first.

use super::{Order, TaskGraph};
use crate::model::TaskId;

/// Number of urgency levels of a slot's queues.
pub const LEVELS: u8 = 16;

/// The width of the widest level exceeds the least possible by at most one in this number.
const WIDTH_PRECISION: u64 = 256;

/// An urgency from 0 to `LEVELS - 1` for each node, higher first: by `priority`, then by upward
/// rank. Levels are as narrow in upward rank as their number allows, since that is the most time
/// that a run loses when a slot takes the less urgent of two tasks in a level: so one task that is
/// much longer than all others has a level of its own, however many others there are.
pub fn urgency(graph: &TaskGraph, order: &Order, priority: &dyn Fn(TaskId) -> i32) -> Vec<u8> {
    let tasks = graph.task_count();
    let key = |n: u32| (priority(TaskId(n)), order.upward[n as usize]);
    let mut keys: Vec<(i32, u64)> = (0..tasks as u32).map(key).collect();
    keys.sort_unstable();
    keys.dedup();
    let tops = level_tops(&keys);
    let level = |n: u32| tops.partition_point(|&top| top < key(n)) as u8;
    let joins = std::iter::repeat_n(LEVELS - 1, graph.node_count() - tasks);
    (0..tasks as u32).map(level).chain(joins).collect()
}

/// The highest key of each level, ascending: the division of these keys (ascending, without
/// doubles) into at most [`LEVELS`] levels of which the widest is narrowest. Only more priorities
/// than levels share some, in equal shares.
fn level_tops(keys: &[(i32, u64)]) -> Vec<(i32, u64)> {
    let levels = usize::from(LEVELS);
    let last_of_priority: Vec<(i32, u64)> =
        keys.chunk_by(|a, b| a.0 == b.0).filter_map(|same| same.last().copied()).collect();
    let priorities = last_of_priority.len();
    if priorities > levels {
        return (1..=levels).map(|k| last_of_priority[k * priorities / levels - 1]).collect();
    }
    let (mut too_narrow, mut wide_enough) = (0, keys.iter().map(|key| key.1).max().unwrap_or(0));
    let divided = |width: u64| {
        let mut tops: Vec<(i32, u64)> = Vec::with_capacity(levels + 1);
        for &key in keys.iter().rev() {
            if tops.last().is_none_or(|top| top.0 != key.0 || top.1 - key.1 > width) {
                if tops.len() == levels {
                    return None;
                }
                tops.push(key);
            }
        }
        tops.reverse();
        Some(tops)
    };
    if let Some(tops) = divided(0) {
        return tops;
    }
    while wide_enough - too_narrow > wide_enough / WIDTH_PRECISION + 1 {
        let width = u64::midpoint(too_narrow, wide_enough);
        match divided(width) {
            Some(_) => wide_enough = width,
            None => too_narrow = width,
        }
    }
    divided(wide_enough).unwrap_or(last_of_priority)
}

#[cfg(test)]
mod tests {
    use super::super::link::{Condition, Link, LinkShape};
    use super::*;

    fn chain(tasks: u32) -> TaskGraph {
        let link =
            |k: u32| Link { from: k - 1, to: k, shape: LinkShape::Each, on: Condition::Ok, bytes: 0, span: 0..0 };
        TaskGraph::build(&vec![1; tasks as usize], &(1..tasks).map(link).collect::<Vec<_>>()).unwrap()
    }

    #[test]
    fn urgency_follows_priority_then_upward_rank() {
        let graph = chain(16);
        let order = graph.order(&|_| 1);
        let level = urgency(&graph, &order, &|_| 0);
        assert_eq!(level, (0..16).rev().collect::<Vec<u8>>());
        let level = urgency(&graph, &order, &|task| i32::from(task.0 == 15));
        assert_eq!(level[15], 15);
        let bag = TaskGraph::build(&[100], &[]).unwrap();
        let level = urgency(&bag, &bag.order(&|_| 1), &|_| 0);
        assert!(level.iter().all(|&l| l == level[0]), "equal tasks share a level");
    }

    #[test]
    fn a_task_much_longer_than_all_others_has_a_level_of_its_own() {
        let bag = TaskGraph::build(&[1000], &[]).unwrap();
        let duration = |task: TaskId| if task.0 == 500 { u64::MAX / 4 } else { 1000 + u64::from(task.0) };
        let level = urgency(&bag, &bag.order(&duration), &|_| 0);
        assert!((0..1000).all(|n| n == 500 || level[n] < level[500]), "{level:?}");
        assert_eq!((level[0], level[999]), (0, LEVELS - 2), "the others share the remaining levels");
    }

    #[test]
    fn levels_keep_the_order_of_keys_and_are_as_narrow_as_can_be() {
        for seed in 0..200 {
            let mut random = fastrand::Rng::with_seed(seed);
            let bits = random.u32(1..40);
            let (priorities, spread) = (random.i32(1..20), random.u64(1..1 << bits));
            let mut keys: Vec<(i32, u64)> =
                (0..random.usize(1..200)).map(|_| (random.i32(0..priorities), random.u64(0..=spread))).collect();
            keys.sort_unstable();
            keys.dedup();
            let tops = level_tops(&keys);
            assert!(tops.len() <= usize::from(LEVELS) && tops.is_sorted() && tops.last() == keys.last(), "{tops:?}");
            let all = keys.chunk_by(|a, b| a.0 == b.0).count();
            let level = |key: &(i32, u64)| tops.partition_point(|top| top < key);
            let widths = keys.chunk_by(|a, b| level(a) == level(b)).map(|same| {
                assert!(all > usize::from(LEVELS) || same[0].0 == same[same.len() - 1].0, "{same:?}");
                same[same.len() - 1].1.saturating_sub(same[0].1)
            });
            let widest = widths.max().unwrap_or(0);
            // With levels of equal width, one priority would need at least this.
            let equal = spread.div_ceil(u64::from(LEVELS));
            assert!(all > 1 || widest <= equal + equal / 128 + 1, "seed {seed}: {widest} of {spread}");
        }
    }
}
