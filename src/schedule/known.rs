//! What has ended for certain, from reports, from what peers have counted, and from what has begun.
//!
//! A rank may be lost after others have counted an end that it never reported. What they counted is evidence; so is every task
//! that has begun, for then all that it needed had ended as its edges ask. Without this such a task would run again beside its
//! own successors.
//!
//! Peers only tell whether an end was a good one. Where a task that needs another to fail (`afternotok`) was on the lost rank together with the
//! other, and neither was reported, nobody knows whether it failed or was skipped: it counts as failed.

use crate::graph::link::Condition;
use crate::graph::{JoinRule, TaskGraph};

/// Adds to `ended` (for each node whether it ended well) what follows from it and from which tasks have begun. An edge that only asks for
/// an end (`afterany`) tells nothing of how it was.
pub(super) fn close(graph: &TaskGraph, begun: &dyn Fn(u32) -> bool, ended: &mut [Option<bool>]) {
    for node in graph.topological().iter().rev() {
        // All edges into the node were kept: each end was as its edge asks.
        let kept = match (graph.join(node), ended[node as usize]) {
            (None, end) => end == Some(true) || begun(node),
            (Some(JoinRule::All), end) => end == Some(true),
            (Some(JoinRule::AnyNotOk), end) => end == Some(false),
        };
        if !kept {
            continue;
        }
        for edge in graph.predecessors(node) {
            let end = &mut ended[edge.node() as usize];
            match edge.on() {
                Condition::Ok => *end = end.or(Some(true)),
                Condition::NotOk => *end = end.or(Some(false)),
                Condition::Any => {}
            }
        }
    }
    for node in graph.topological().iter() {
        if ended[node as usize].is_none() {
            ended[node as usize] = match graph.join(node) {
                Some(_) => join_end(graph, node, ended),
                // Whoever was its home has skipped it, and may have told only of what was skipped because of it.
                None => violated(graph, node, ended).and_then(|violated| violated.then_some(false)),
            };
        }
    }
}

/// Whether a join ended well, once all that it needs has ended.
pub(super) fn join_end(graph: &TaskGraph, node: u32, ended: &[Option<bool>]) -> Option<bool> {
    violated(graph, node, ended).map(|violated| match graph.join(node) {
        Some(JoinRule::AnyNotOk) => violated,
        _ => !violated,
    })
}

/// Whether an edge into a node was violated, once all that it needs has ended.
pub(super) fn violated(graph: &TaskGraph, node: u32, ended: &[Option<bool>]) -> Option<bool> {
    graph
        .predecessors(node)
        .try_fold(false, |violated, edge| ended[edge.node() as usize].map(|ok| violated || edge.violated_by(ok)))
}

/// True if a task that has not ended well must have been skipped: an edge into it was violated, whatever becomes of the others.
pub(super) fn was_skipped(graph: &TaskGraph, node: u32, ended: &[Option<bool>]) -> bool {
    graph.predecessors(node).any(|edge| ended[edge.node() as usize].is_some_and(|ok| edge.violated_by(ok)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graph::link::{Link, LinkShape};

    #[test]
    fn what_has_begun_tells_of_what_it_needed() {
        let link = |from, to, shape, on| Link { from, to, shape, on, bytes: 0, span: 0..0 };
        // Group 0 (tasks 0-2) through a join to 1 (tasks 3-4); task 5 if 3 fails; task 6 after any end of 5.
        let links = [
            link(0, 1, LinkShape::All, Condition::Ok),
            link(1, 2, LinkShape::Pairs(vec![(0, 0)]), Condition::NotOk),
            link(2, 3, LinkShape::All, Condition::Any),
        ];
        let graph = TaskGraph::build(&[3, 2, 1, 1], &links).unwrap();
        let mut ended = vec![None; graph.node_count()];
        close(&graph, &|node| node == 5, &mut ended);
        assert_eq!(
            ended[..7],
            [None, None, None, Some(false), None, None, None],
            "a failed task may have been skipped"
        );
        let mut ended = vec![None; graph.node_count()];
        close(&graph, &|node| node == 4, &mut ended);
        assert_eq!(ended[..7], [Some(true), Some(true), Some(true), None, None, None, None]);
        assert_eq!(ended[7], Some(true), "the join");
        // The first failed; of what needs it, somebody has only heard how the last one ended.
        let chain = [link(0, 1, LinkShape::All, Condition::Ok), link(1, 2, LinkShape::All, Condition::Ok)];
        let line = TaskGraph::build(&[1, 1, 1], &chain).unwrap();
        let mut ended = vec![None; line.node_count()];
        (ended[0], ended[2]) = (Some(false), Some(false));
        assert!(!was_skipped(&line, 2, &ended), "not yet known");
        close(&line, &|node| node == 0, &mut ended);
        assert_eq!(ended[1], Some(false));
        assert!(!was_skipped(&line, 0, &ended) && was_skipped(&line, 1, &ended) && was_skipped(&line, 2, &ended));
        let mut ended = vec![None; graph.node_count()];
        close(&graph, &|node| node == 6, &mut ended);
        assert!(ended.iter().all(Option::is_none), "afterany tells nothing");
    }
}
