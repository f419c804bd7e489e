//! Times in the graph before anything runs: earliest start, upward rank, critical path.

use super::TaskGraph;
use crate::model::TaskId;

/// What estimated durations say about a graph when slots are not scarce. All times in nanoseconds.
#[derive(Clone, Debug)]
pub struct Order {
    /// A topological order of all nodes.
    pub topological: Vec<u32>,
    /// For each node, the earliest moment at which all that it needs can be done.
    pub earliest: Vec<u64>,
    /// For each node, the longest time from its start to the end of the graph: HEFT's upward rank without communication
    /// (Topcuoglu et al., IEEE TPDS 13(3), 2002, eq. 8).
    pub upward: Vec<u64>,
    /// The longest chain: no run can be shorter.
    pub critical_path: u64,
    /// The sum of all durations.
    pub work: u64,
}

/// A run as it went: duration of each task as measured, for the critical path afterwards.
pub type Schedule<'a> = &'a dyn Fn(TaskId) -> u64;

impl TaskGraph {
    /// Earliest starts, upward ranks and the critical path under these durations (nanoseconds; joins take none).
    pub fn order(&self, duration: Schedule<'_>) -> Order {
        let topological = self.topological();
        let time = |node: u32| if (node as usize) < self.task_count() { duration(TaskId(node)) } else { 0 };
        let mut earliest = vec![0u64; self.node_count()];
        let mut work = 0u64;
        for &node in &topological {
            let took = time(node);
            work = work.saturating_add(took);
            let end = earliest[node as usize].saturating_add(took);
            for edge in self.successors(node) {
                let start = &mut earliest[edge.node() as usize];
                *start = (*start).max(end);
            }
        }
        let mut upward = vec![0u64; self.node_count()];
        for &node in topological.iter().rev() {
            let after = self.successors(node).map(|edge| upward[edge.node() as usize]).max().unwrap_or(0);
            upward[node as usize] = after.saturating_add(time(node));
        }
        let critical_path = upward.iter().copied().max().unwrap_or(0);
        Order { topological, earliest, upward, critical_path, work }
    }

    /// The tasks of one longest chain under these durations, first to last.
    pub fn critical_tasks(&self, order: &Order) -> Vec<TaskId> {
        let mut path = Vec::new();
        let start = (0..self.node_count() as u32).filter(|&n| self.predecessors(n).len() == 0);
        let mut at = start.max_by_key(|&n| order.upward[n as usize]);
        while let Some(node) = at {
            if (node as usize) < self.task_count() {
                path.push(TaskId(node));
            }
            at = self.successors(node).map(|e| e.node()).max_by_key(|&n| order.upward[n as usize]);
        }
        path
    }
}

#[cfg(test)]
mod tests {
    use super::super::link::{Condition, Link, LinkShape};
    use super::*;

    #[test]
    fn diamond_with_a_heavy_side() {
        // 0 -> {1, 2} -> 3, where 2 is heavy.
        let shape = |pairs: &[(u32, u32)]| LinkShape::Pairs(pairs.to_vec());
        let link = |from, to, shape| Link { from, to, shape, on: Condition::Ok, bytes: 0, span: 0..0 };
        let links = [link(0, 1, shape(&[(0, 0), (0, 1)])), link(1, 2, shape(&[(0, 0), (1, 0)]))];
        let graph = TaskGraph::build(&[1, 2, 1], &links).unwrap();
        let order = graph.order(&|task| [1, 2, 10, 3][task.index()]);
        assert_eq!((order.critical_path, order.work), (14, 16));
        assert_eq!(order.earliest, [0, 1, 1, 11]);
        assert_eq!(order.upward, [14, 5, 13, 3]);
        assert_eq!(graph.critical_tasks(&order), [TaskId(0), TaskId(2), TaskId(3)]);
    }

    #[test]
    fn a_chain_of_a_million_needs_no_deep_stack() {
        let n = 1_000_000;
        let pairs = (0..n - 1).map(|i| (i, i + 1)).collect();
        let link = Link { from: 0, to: 0, shape: LinkShape::Pairs(pairs), on: Condition::Ok, bytes: 0, span: 0..0 };
        let graph = TaskGraph::build(&[n], &[link]).unwrap();
        assert_eq!(graph.order(&|_| 1).critical_path, u64::from(n));
    }
}
