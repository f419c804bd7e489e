//! Properties of the graph before the run: topological order, levels, earliest starts, upward
//! ranks, critical path.

use super::csr::Csr;
use super::{Edge, TaskGraph};
use crate::model::TaskId;

/// The nodes of a graph in topological order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Topological {
    /// The node numbers are already in topological order, as in most job files; the number of
    /// nodes.
    Numbers(u32),
    /// Explicit order.
    Listed(Vec<u32>),
}

impl Topological {
    /// Computes the order; it has fewer nodes than the graph if the graph has a cycle.
    pub(super) fn of(successors: &Csr) -> Topological {
        let nodes = successors.rows() as u32;
        let after = |node: u32| successors.row(node as usize).iter().map(|&raw| Edge::from_raw(raw).node());
        if (0..nodes).all(|node| after(node).all(|next| next > node)) {
            return Topological::Numbers(nodes);
        }
        let mut missing = vec![0u32; nodes as usize];
        successors.items().iter().for_each(|&raw| missing[Edge::from_raw(raw).node() as usize] += 1);
        let mut order = Vec::with_capacity(nodes as usize);
        order.extend((0..nodes).filter(|&node| missing[node as usize] == 0));
        let mut at = 0;
        while let Some(&node) = order.get(at) {
            at += 1;
            for next in after(node) {
                missing[next as usize] -= 1;
                if missing[next as usize] == 0 {
                    order.push(next);
                }
            }
        }
        Topological::Listed(order)
    }

    /// The nodes in topological order; `rev` reverses it.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = u32> + ExactSizeIterator + '_ {
        let len = match self {
            Topological::Numbers(nodes) => *nodes as usize,
            Topological::Listed(order) => order.len(),
        };
        (0..len).map(move |at| match self {
            Topological::Numbers(_) => at as u32,
            Topological::Listed(order) => order[at],
        })
    }
}

/// Properties of a graph under estimated durations with unlimited slots. All times in nanoseconds.
#[derive(Clone, Debug)]
pub struct Order {
    /// For each node, the longest time from its start to the end of the graph: HEFT's upward rank
    /// without communication (Topcuoglu et al., IEEE TPDS 13(3), 2002, eq. 8).
    pub upward: Vec<u64>,
    /// Length of the critical path: a lower bound of the makespan.
    pub critical_path: u64,
    /// Sum of all durations.
    pub work: u64,
}

/// Duration of each task in nanoseconds: estimated before a run, or measured afterwards.
pub type TaskDurations<'a> = &'a dyn Fn(TaskId) -> u64;

impl TaskGraph {
    /// Duration of a node; zero for joins.
    fn time(&self, node: u32, duration: TaskDurations<'_>) -> u64 {
        if (node as usize) < self.task_count() { duration(TaskId(node)) } else { 0 }
    }

    /// Upward ranks and critical path under these durations.
    pub fn order(&self, duration: TaskDurations<'_>) -> Order {
        let mut work = 0u64;
        let mut upward = vec![0u64; self.node_count()];
        for node in self.topological().iter().rev() {
            let took = self.time(node, duration);
            work = work.saturating_add(took);
            let after = self.successors(node).map(|edge| upward[edge.node() as usize]).max().unwrap_or(0);
            upward[node as usize] = after.saturating_add(took);
        }
        let critical_path = upward.iter().copied().max().unwrap_or(0);
        Order { upward, critical_path, work }
    }

    /// For each node, the earliest time at which all its dependencies can be complete under these
    /// durations.
    pub fn earliest(&self, duration: TaskDurations<'_>) -> Vec<u64> {
        let mut earliest = vec![0u64; self.node_count()];
        for node in self.topological().iter() {
            let end = earliest[node as usize].saturating_add(self.time(node, duration));
            for edge in self.successors(node) {
                let start = &mut earliest[edge.node() as usize];
                *start = (*start).max(end);
            }
        }
        earliest
    }

    /// For each node, the number of tasks in the longest chain before it.
    pub fn levels(&self) -> Vec<u32> {
        let mut levels = vec![0u32; self.node_count()];
        for node in self.topological().iter() {
            let next = levels[node as usize] + u32::from((node as usize) < self.task_count());
            for edge in self.successors(node) {
                let level = &mut levels[edge.node() as usize];
                *level = (*level).max(next);
            }
        }
        levels
    }

    /// The tasks of one critical path under these durations, in order.
    pub fn critical_tasks(&self, order: &Order) -> Vec<TaskId> {
        let mut path = Vec::new();
        // The upward rank never increases along an edge, and of equal ones the first in order
        // depends only on nodes of zero duration.
        let mut longest = self.topological().iter().filter(|&n| order.upward[n as usize] == order.critical_path);
        let mut at = longest.next();
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
        // 0 -> {1, 2} -> 3, where 2 has a long duration.
        let shape = |pairs: &[(u32, u32)]| LinkShape::Pairs(pairs.to_vec());
        let link = |from, to, shape| Link { from, to, shape, on: Condition::Ok, bytes: 0, span: 0..0 };
        let links = [link(0, 1, shape(&[(0, 0), (0, 1)])), link(1, 2, shape(&[(0, 0), (1, 0)]))];
        let graph = TaskGraph::build(&[1, 2, 1], &links).unwrap();
        let order = graph.order(&|task| [1, 2, 10, 3][task.index()]);
        assert_eq!((order.critical_path, order.work), (14, 16));
        assert_eq!(graph.earliest(&|task| [1, 2, 10, 3][task.index()]), [0, 1, 1, 11]);
        assert_eq!(graph.levels(), [0, 1, 1, 2]);
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
