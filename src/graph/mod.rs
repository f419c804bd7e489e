//! The task graph: compact storage, order, critical path and partition.
//!
//! A task is a dense number; an edge is four bytes. The graph implements petgraph's traits, so its algorithms (and its
//! DOT writer) run on this storage without a copy.
//!
//! A *join* is a node that stands for "all elements of an array". Where `N` elements need `M` others, `N x M` edges would be
//! kept and counted; one join makes it `N + M`. Joins are numbered after the tasks, are never run and are not reported.
//!
//! Nothing here does I/O.

pub mod csr;
pub mod link;
mod order;
pub mod partition;
pub mod pattern;
mod petgraph_view;

use std::ops::Range;

use csr::Csr;
use link::{Condition, GroupId, Link, LinkShape};

use crate::model::TaskId;

pub use order::{Order, Schedule};

/// An edge as it is stored: the task at its other end and the condition, in one word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Edge(u32);

impl Edge {
    const SHIFT: u32 = 30;
    /// The bits of an edge that hold the number of a task.
    pub const MASK: u32 = (1 << Self::SHIFT) - 1;

    /// The edge to `node` under a condition.
    pub fn new(node: u32, on: Condition) -> Edge {
        debug_assert!(node <= Self::MASK);
        let code = match on {
            Condition::Ok => 0,
            Condition::NotOk => 1,
            Condition::Any => 2,
        };
        Edge(node | code << Self::SHIFT)
    }

    /// Reads an edge as stored; any word is an edge.
    #[inline]
    pub fn from_raw(raw: u32) -> Edge {
        Edge(raw)
    }

    /// The word as stored.
    pub fn raw(self) -> u32 {
        self.0
    }

    /// Number of the node at the other end.
    #[inline]
    pub fn node(self) -> u32 {
        self.0 & Self::MASK
    }

    /// Which end of the predecessor lets the successor start.
    pub fn on(self) -> Condition {
        match self.0 >> Self::SHIFT {
            0 => Condition::Ok,
            1 => Condition::NotOk,
            _ => Condition::Any,
        }
    }

    /// True if a predecessor that ended so keeps the successor from running.
    #[inline]
    pub fn violated_by(self, ok: bool) -> bool {
        match self.0 >> Self::SHIFT {
            0 => !ok,
            1 => ok,
            _ => false,
        }
    }
}

/// When a join counts as ended well.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum JoinRule {
    /// If all that it joins ended as their edges require.
    All,
    /// If at least one of them ended without success (`afternotok` on an array).
    AnyNotOk,
}

/// The graph of all tasks of a job.
#[derive(Clone, Debug)]
pub struct TaskGraph {
    tasks: u32,
    joins: Vec<JoinRule>,
    successors: Csr,
    predecessors: Csr,
    /// Bytes along each edge, in the order of `successors`; empty if no edge carries any.
    bytes: Vec<u64>,
}

/// A cycle among tasks, which no order can satisfy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cycle {
    /// The tasks along the cycle, in order of dependency; the first needs the last.
    pub path: Vec<TaskId>,
    /// Where the job file states the dependencies of the cycle (byte ranges, in the order of `path`).
    pub spans: Vec<Range<usize>>,
}

impl TaskGraph {
    /// Builds the graph of groups with `counts[g]` tasks each, numbered group after group, under `links`.
    ///
    /// # Errors
    /// The shortest cycle through one of the tasks that lie on a cycle.
    pub fn build(counts: &[u32], links: &[Link]) -> Result<TaskGraph, Cycle> {
        let plan = Plan::new(counts, links);
        let nodes = plan.tasks as usize + plan.joins.len();
        let successors = Csr::build(nodes, |edge| {
            plan.each_edge(|from, to, on, _| edge(from, Edge::new(to, on).raw()));
        });
        let predecessors = Csr::build(nodes, |edge| {
            plan.each_edge(|from, to, on, _| edge(to, Edge::new(from, on).raw()));
        });
        let bytes = if links.iter().any(|link| link.bytes > 0) { plan.bytes(&successors) } else { Vec::new() };
        let graph = TaskGraph { tasks: plan.tasks, joins: plan.joins, successors, predecessors, bytes };
        match graph.find_cycle() {
            None => Ok(graph),
            Some(path) => Err(graph.explain_cycle(path, counts, links)),
        }
    }

    /// Number of tasks (joins not counted).
    pub fn task_count(&self) -> usize {
        self.tasks as usize
    }

    /// Number of nodes: tasks and joins.
    pub fn node_count(&self) -> usize {
        self.successors.rows()
    }

    /// Number of edges as stored (a join counts its own).
    pub fn edge_count(&self) -> usize {
        self.successors.len()
    }

    /// The rule of a join; `None` for a task.
    pub fn join(&self, node: u32) -> Option<JoinRule> {
        node.checked_sub(self.tasks).map(|j| self.joins[j as usize])
    }

    /// What needs a node.
    pub fn successors(&self, node: u32) -> impl ExactSizeIterator<Item = Edge> + '_ {
        self.successors.row(node as usize).iter().map(|&raw| Edge::from_raw(raw))
    }

    /// What a node needs.
    pub fn predecessors(&self, node: u32) -> impl ExactSizeIterator<Item = Edge> + '_ {
        self.predecessors.row(node as usize).iter().map(|&raw| Edge::from_raw(raw))
    }

    /// The tasks that a task needs, seen through joins; each once, ascending.
    pub fn tasks_before(&self, task: TaskId) -> Vec<TaskId> {
        let mut found = Vec::new();
        let mut open = vec![task.0];
        while let Some(node) = open.pop() {
            for before in self.predecessors(node).map(Edge::node) {
                if before < self.tasks {
                    found.push(TaskId(before));
                } else {
                    open.push(before);
                }
            }
        }
        found.sort_unstable();
        found.dedup();
        found
    }

    /// Bytes along the `k`-th edge out of a node.
    pub fn edge_bytes(&self, node: u32, k: usize) -> u64 {
        let at = self.successors.offsets()[node as usize] as usize + k;
        self.bytes.get(at).copied().unwrap_or(0)
    }

    /// Heap bytes of the graph.
    pub fn heap_bytes(&self) -> usize {
        self.successors.heap_bytes()
            + self.predecessors.heap_bytes()
            + 8 * self.bytes.capacity()
            + self.joins.capacity()
    }

    fn explain_cycle(&self, nodes: Vec<u32>, counts: &[u32], links: &[Link]) -> Cycle {
        let firsts = first_tasks(counts);
        let group = |task: u32| firsts.partition_point(|&first| first <= task) as GroupId - 1;
        let path: Vec<TaskId> = nodes.iter().filter(|&&n| n < self.tasks).map(|&n| TaskId(n)).collect();
        let mut spans = Vec::new();
        for (i, before) in path.iter().enumerate() {
            let after = path[(i + 1) % path.len()];
            let (from, to) = (group(before.0), group(after.0));
            spans.extend(links.iter().find(|l| l.from == from && l.to == to).map(|l| l.span.clone()));
        }
        Cycle { path, spans }
    }
}

/// Number of each group's first task.
fn first_tasks(counts: &[u32]) -> Vec<u32> {
    counts
        .iter()
        .scan(0u32, |next, &count| {
            let first = *next;
            *next += count;
            Some(first)
        })
        .collect()
}

/// The links with their joins numbered: what the edges are made from.
struct Plan<'a> {
    tasks: u32,
    joins: Vec<JoinRule>,
    firsts: Vec<u32>,
    counts: &'a [u32],
    /// Each link with the join that it goes through, if any.
    links: Vec<(&'a Link, Option<u32>)>,
}

impl<'a> Plan<'a> {
    fn new(counts: &'a [u32], links: &'a [Link]) -> Plan<'a> {
        let tasks = counts.iter().sum();
        let mut joins = Vec::new();
        let links = links.iter().map(|link| {
            let (from, to) = (counts[link.from as usize], counts[link.to as usize]);
            let through = link.shape == LinkShape::All && from > 1 && (to > 1 || link.on == Condition::NotOk);
            let join = through.then(|| {
                joins.push(if link.on == Condition::NotOk { JoinRule::AnyNotOk } else { JoinRule::All });
                tasks + joins.len() as u32 - 1
            });
            (link, join)
        });
        let links = links.collect();
        Plan { tasks, joins, firsts: first_tasks(counts), counts, links }
    }

    /// Calls `edge(from, to, condition, bytes)` for every edge, always in the same order.
    fn each_edge(&self, mut edge: impl FnMut(u32, u32, Condition, u64)) {
        for &(link, join) in &self.links {
            let (from, to) = (self.firsts[link.from as usize], self.firsts[link.to as usize]);
            let (from_count, to_count) = (self.counts[link.from as usize], self.counts[link.to as usize]);
            match (&link.shape, join) {
                (LinkShape::All, Some(join)) => {
                    // An `afternotok` join looks for an end without success: it is "violated" by one, so its edges are `afterok`.
                    let inward = if link.on == Condition::NotOk { Condition::Ok } else { link.on };
                    (0..from_count).for_each(|i| edge(from + i, join, inward, link.bytes));
                    (0..to_count).for_each(|k| edge(join, to + k, Condition::Ok, link.bytes));
                }
                (LinkShape::All, None) => {
                    (0..from_count)
                        .for_each(|i| (0..to_count).for_each(|k| edge(from + i, to + k, link.on, link.bytes)));
                }
                (LinkShape::Each, _) => (0..to_count).for_each(|k| edge(from + k, to + k, link.on, link.bytes)),
                (LinkShape::One(i), _) => (0..to_count).for_each(|k| edge(from + i, to + k, link.on, link.bytes)),
                (LinkShape::Pairs(pairs), _) => {
                    pairs.iter().for_each(|&(i, k)| edge(from + i, to + k, link.on, link.bytes));
                }
                (LinkShape::Pattern(pattern), _) => {
                    pattern.each_pair(|i, k| edge(from + i, to + k, link.on, link.bytes));
                }
            }
        }
    }

    /// Bytes of each edge in the order of the successor rows.
    fn bytes(&self, successors: &Csr) -> Vec<u64> {
        let mut next = successors.offsets().to_vec();
        let mut bytes = vec![0; successors.len()];
        self.each_edge(|from, _, _, b| {
            let at = &mut next[from as usize];
            bytes[*at as usize] = b;
            *at += 1;
        });
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn link(from: GroupId, to: GroupId, shape: LinkShape, on: Condition) -> Link {
        Link { from, to, shape, on, bytes: 0, span: 0..1 }
    }

    #[test]
    fn all_to_all_goes_through_one_join() {
        let graph = TaskGraph::build(&[1000, 500], &[link(0, 1, LinkShape::All, Condition::Ok)]).unwrap();
        assert_eq!((graph.task_count(), graph.node_count(), graph.edge_count()), (1500, 1501, 1500));
        assert_eq!(graph.join(1500), Some(JoinRule::All));
        assert_eq!(graph.tasks_before(TaskId(1000)).len(), 1000);
    }

    #[test]
    fn shapes_give_their_edges() {
        let shapes = [
            (LinkShape::Each, vec![(0, 3), (1, 4), (2, 5)]),
            (LinkShape::One(1), vec![(1, 3), (1, 4), (1, 5)]),
            (LinkShape::Pairs(vec![(2, 0), (0, 2)]), vec![(0, 5), (2, 3)]),
        ];
        for (shape, expected) in shapes {
            let graph = TaskGraph::build(&[3, 3], &[link(0, 1, shape, Condition::Any)]).unwrap();
            let edges: Vec<_> =
                (0..6).flat_map(|n| graph.successors(n).map(move |e| (n, e.node())).collect::<Vec<_>>()).collect();
            assert_eq!(edges, expected);
        }
    }

    #[test]
    fn conditions_survive_packing() {
        for on in [Condition::Ok, Condition::NotOk, Condition::Any] {
            let edge = Edge::new(Edge::MASK, on);
            assert_eq!((edge.node(), edge.on()), (Edge::MASK, on));
        }
        assert!(Edge::new(0, Condition::Ok).violated_by(false) && !Edge::new(0, Condition::Ok).violated_by(true));
        assert!(Edge::new(0, Condition::NotOk).violated_by(true) && !Edge::new(0, Condition::NotOk).violated_by(false));
        assert!(!Edge::new(0, Condition::Any).violated_by(true) && !Edge::new(0, Condition::Any).violated_by(false));
    }

    #[test]
    fn a_cycle_is_told_with_its_path_and_places() {
        let mut links = vec![
            link(0, 1, LinkShape::All, Condition::Ok),
            link(1, 2, LinkShape::Each, Condition::Ok),
            link(2, 1, LinkShape::Pairs(vec![(0, 1), (1, 0)]), Condition::Ok),
        ];
        links[1].span = 10..20;
        links[2].span = 30..40;
        let cycle = TaskGraph::build(&[1, 3, 3], &links).unwrap_err();
        assert_eq!(cycle.path.len(), 4, "{cycle:?}");
        assert!(cycle.spans.contains(&(10..20)) && cycle.spans.contains(&(30..40)), "{cycle:?}");
    }

    #[test]
    fn edges_carry_the_bytes_of_their_link() {
        let mut links = vec![link(0, 1, LinkShape::Each, Condition::Ok), link(0, 2, LinkShape::All, Condition::Ok)];
        links[1].bytes = 7;
        let graph = TaskGraph::build(&[2, 2, 1], &links).unwrap();
        assert_eq!((graph.edge_bytes(0, 0), graph.edge_bytes(0, 1), graph.edge_bytes(1, 1)), (0, 7, 7));
    }
}
