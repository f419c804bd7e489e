//! Infers which tasks have certainly ended: from reports, from peers' counts, and from tasks that
//! began.
//!
//! A rank may be lost after others have counted an end that it never reported. Such a count is
//! evidence. So is every task that has begun, since all its predecessors must have ended as its
//! edges require. Without this inference a completed task could run again at the same time as its
//! own successors.
//!
//! One case stays undecided for a while: a task that needs another to fail (`afternotok`) has
//! begun, and the other was on a lost rank together with its own predecessors. It has ended, but
//! failed or skipped? The coordinator decides once all its predecessors have ended.

use crate::graph::link::Condition;
use crate::graph::{JoinRule, TaskGraph};

use super::dependency_counts::End;

/// Extends `ended` (for each node how it ended) by what follows from it and from the tasks that
/// have begun. An edge that accepts any end (`afterany`) says nothing about how the predecessor
/// ended. Tasks `done` before the session imply nothing: their predecessors may run again by now.
pub(super) fn close(
    graph: &TaskGraph,
    begun: &dyn Fn(u32) -> bool,
    done: &dyn Fn(u32) -> bool,
    ended: &mut [Option<End>],
) {
    for node in graph.topological().iter().rev() {
        let end = &mut ended[node as usize];
        // No edge into the node was violated: each predecessor ended as its edge requires.
        let kept = match graph.join(node) {
            None => {
                if *end == Some(End::Unsuccessful) && begun(node) {
                    *end = Some(End::Failed);
                }
                matches!(end, Some(End::Completed | End::Failed)) || begun(node)
            }
            Some(JoinRule::All) => *end == Some(End::Completed),
            Some(JoinRule::AnyNotOk) => *end == Some(End::Unsuccessful),
        };
        if !kept || done(node) {
            continue;
        }
        for edge in graph.predecessors(node) {
            let end = &mut ended[edge.node() as usize];
            match edge.on() {
                Condition::Ok => *end = end.or(Some(End::Completed)),
                Condition::NotOk => *end = end.or(Some(End::Unsuccessful)),
                Condition::Any => {}
            }
        }
    }
    for node in graph.topological().iter() {
        if ended[node as usize].is_none() {
            let known = |node: u32| ended[node as usize];
            ended[node as usize] = match graph.join(node) {
                Some(rule) => join_end(graph, node, rule, &known),
                // Its home skipped it, and may have reported only the tasks skipped because of it.
                None => violated(graph, node, &known).and_then(|violated| violated.then_some(End::Unsuccessful)),
            };
        }
    }
}

/// How a join ended, once all its predecessors have ended.
pub(super) fn join_end(
    graph: &TaskGraph,
    node: u32,
    rule: JoinRule,
    ended: &dyn Fn(u32) -> Option<End>,
) -> Option<End> {
    let violated = violated(graph, node, ended)?;
    Some(End::without_run(violated == (rule == JoinRule::AnyNotOk)))
}

/// Whether an edge into a node was violated, once all its predecessors have ended.
pub(super) fn violated(graph: &TaskGraph, node: u32, ended: &dyn Fn(u32) -> Option<End>) -> Option<bool> {
    graph
        .predecessors(node)
        .try_fold(false, |violated, edge| ended(edge.node()).map(|end| violated || edge.violated_by(end.ok())))
}

/// True if a task that did not complete must have been skipped: an edge into it was violated,
/// whatever the other edges are.
pub(super) fn was_skipped(graph: &TaskGraph, node: u32, ended: &[Option<End>]) -> bool {
    graph.predecessors(node).any(|edge| ended[edge.node() as usize].is_some_and(|end| edge.violated_by(end.ok())))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graph::link::{Link, LinkShape};

    #[test]
    fn what_has_begun_tells_of_what_it_needed() {
        let link = |from, to, shape, on| Link { from, to, shape, on, bytes: 0, span: 0..0 };
        // Group 0 (tasks 0-2) through a join to 1 (tasks 3-4); task 5 if 3 fails; task 6 after any
        // end of 5.
        let links = [
            link(0, 1, LinkShape::All, Condition::Ok),
            link(1, 2, LinkShape::Pairs(vec![(0, 0)]), Condition::NotOk),
            link(2, 3, LinkShape::All, Condition::Any),
        ];
        let graph = TaskGraph::build(&[3, 2, 1, 1], &links).unwrap();
        let good = Some(End::Completed);
        let mut ended = vec![None; graph.node_count()];
        close(&graph, &|node| node == 5, &|_| false, &mut ended);
        assert_eq!(
            ended[..7],
            [None, None, None, Some(End::Unsuccessful), None, None, None],
            "a failed task may have been skipped"
        );
        let mut ended = vec![None; graph.node_count()];
        close(&graph, &|node| node == 4, &|_| false, &mut ended);
        assert_eq!(ended[..7], [good, good, good, None, None, None, None]);
        assert_eq!(ended[7], good, "the join");
        let mut ended = vec![None; graph.node_count()];
        (ended[3], ended[4]) = (Some(End::Failed), Some(End::Unsuccessful));
        close(&graph, &|_| false, &|_| false, &mut ended);
        assert_eq!((ended[0], ended[7]), (good, good), "what failed has run");
        // The first failed; of its successors, a peer has only counted how the last one ended.
        let chain = [link(0, 1, LinkShape::All, Condition::Ok), link(1, 2, LinkShape::All, Condition::Ok)];
        let line = TaskGraph::build(&[1, 1, 1], &chain).unwrap();
        let mut ended = vec![None; line.node_count()];
        (ended[0], ended[2]) = (Some(End::Failed), Some(End::Unsuccessful));
        assert!(!was_skipped(&line, 2, &ended), "not yet known");
        close(&line, &|node| node == 0, &|_| false, &mut ended);
        assert_eq!(ended[1], Some(End::Unsuccessful));
        assert!(!was_skipped(&line, 0, &ended) && was_skipped(&line, 1, &ended) && was_skipped(&line, 2, &ended));
        let mut ended = vec![None; line.node_count()];
        ended[1] = good;
        close(&line, &|_| false, &|node| node == 1, &mut ended);
        assert_eq!(ended[0], None, "it runs again, since its output is gone");
        let mut ended = vec![None; graph.node_count()];
        close(&graph, &|node| node == 6, &|_| false, &mut ended);
        assert!(ended.iter().all(Option::is_none), "afterany tells nothing");
    }
}
