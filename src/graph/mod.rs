//! The task graph: compact storage, topological order, critical path, urgency and partition.
//!
//! A task is a dense number. An edge takes four bytes and is stored with its source; the reverse
//! edges are computed on demand, and a run does not need them. The graph implements petgraph's
//! traits, so petgraph's algorithms and its DOT writer run on this storage without a copy.
//!
//! A *join* is a node that stands for "all elements of an array". Where `N` elements depend on `M`
//! others, `N x M` edges would be stored and counted; with a join there are `N + M`. Joins are
//! numbered after the tasks, are never run and are not reported.
//!
//! Nothing here does I/O; `c_output` keeps METIS from doing any.

pub mod ascending;
mod c_output;
pub mod csr;
pub mod deal;
pub mod link;
pub mod long_tasks;
mod order;
pub mod partition;
pub mod pattern;
mod petgraph_view;
pub mod urgency;
mod width;

use std::ops::Range;
use std::sync::OnceLock;

use csr::{Csr, TooMany};
use link::{Condition, GroupId, Link, LinkShape};
use thiserror::Error;

use crate::model::TaskId;

pub use order::{Order, TaskDurations, Topological};

/// A stored edge: the task at its other end and the condition, in one word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Edge(u32);

impl Edge {
    const SHIFT: u32 = 30;
    /// The bits of an edge that hold the task number.
    pub const MASK: u32 = (1 << Self::SHIFT) - 1;

    /// An edge to `node` with a condition.
    pub fn new(node: u32, on: Condition) -> Edge {
        debug_assert!(node <= Self::MASK);
        let code = match on {
            Condition::Ok => 0,
            Condition::NotOk => 1,
            Condition::Any => 2,
        };
        Edge(node | code << Self::SHIFT)
    }

    /// Decodes a stored edge; any word is valid.
    #[inline]
    pub fn from_raw(raw: u32) -> Edge {
        Edge(raw)
    }

    /// The stored word.
    pub fn raw(self) -> u32 {
        self.0
    }

    /// Number of the node at the other end.
    #[inline]
    pub fn node(self) -> u32 {
        self.0 & Self::MASK
    }

    /// The condition on the predecessor's end.
    pub fn on(self) -> Condition {
        match self.0 >> Self::SHIFT {
            0 => Condition::Ok,
            1 => Condition::NotOk,
            _ => Condition::Any,
        }
    }

    /// True if a predecessor with this result keeps the successor from running.
    #[inline]
    pub fn violated_by(self, ok: bool) -> bool {
        match self.0 >> Self::SHIFT {
            0 => !ok,
            1 => ok,
            _ => false,
        }
    }
}

/// When a join counts as successful.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum JoinRule {
    /// If all its predecessors ended as their edges require.
    All,
    /// If at least one of them did not succeed (`afternotok` on an array).
    AnyNotOk,
}

/// The graph of all tasks of a job.
#[derive(Clone, Debug)]
pub struct TaskGraph {
    tasks: u32,
    /// Numbers between tasks and joins that are free for tasks that are added later.
    gap: u32,
    joins: Vec<JoinRule>,
    successors: Csr,
    /// Computed on first use.
    predecessors: OnceLock<Csr>,
    topological: Topological,
    bytes: EdgeBytes,
}

/// Free numbers between tasks and joins of a graph to which tasks may be added: so many can be
/// added. Each takes about 16 bytes. Unit tests have small graphs, which they build often.
pub const GAP: u32 = if cfg!(test) { 1 << 10 } else { 1 << 18 };

/// Bytes along each edge.
#[derive(Clone, Debug)]
enum EdgeBytes {
    /// The same for all edges.
    Same(u64),
    /// One value per edge, in the order of `successors`.
    Each(Vec<u64>),
}

/// Error: the links do not form a valid graph.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum GraphError {
    /// Tasks depend on each other in a cycle.
    #[error("tasks wait for each other")]
    Cycle(Cycle),
    /// More tasks and joins, or more edges, than can be numbered.
    #[error("{count} {what}, of which a graph holds at most {most}")]
    TooLarge {
        /// What there is too much of.
        what: &'static str,
        /// The actual number.
        count: u64,
        /// The maximum.
        most: u64,
    },
}

/// A cycle among tasks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cycle {
    /// The tasks of the cycle in order of dependency; the first depends on the last.
    pub path: Vec<TaskId>,
    /// The statements of these dependencies in the job file (byte ranges, in the order of `path`).
    pub spans: Vec<Range<usize>>,
}

impl TaskGraph {
    /// Builds the graph of groups with `counts[g]` tasks each, numbered group by group, under
    /// `links`.
    ///
    /// # Errors
    /// If the links form a cycle (a shortest one is returned), or if the graph is too large.
    pub fn build(counts: &[u32], links: &[Link]) -> Result<TaskGraph, GraphError> {
        let plan = EdgePlan::new(counts, links, None)?;
        let nodes = plan.tasks as usize + plan.joins.len();
        let too_many = |count: u64| GraphError::TooLarge { what: "dependencies", count, most: u32::MAX.into() };
        // Computed from the links, so that an oversized graph is rejected before its edges are
        // enumerated.
        let edges = plan.edges();
        if edges > u32::MAX.into() {
            return Err(too_many(edges));
        }
        let successors = Csr::build(nodes, |edge| {
            plan.each_edge(|from, to, on, _| edge(from, Edge::new(to, on).raw()));
        })
        .map_err(|TooMany(count)| too_many(count))?;
        let bytes = plan.bytes(&successors);
        let topological = Topological::of(&successors);
        let whole = topological.iter().len() == nodes;
        let graph = TaskGraph {
            tasks: plan.tasks,
            gap: 0,
            joins: plan.joins,
            successors,
            predecessors: OnceLock::new(),
            topological,
            bytes,
        };
        match if whole { None } else { graph.find_cycle() } {
            None => Ok(graph),
            Some(path) => Err(GraphError::Cycle(graph.explain_cycle(path, counts, links))),
        }
    }

    /// The same graph with free numbers between tasks and joins, so that tasks can be added while
    /// joins keep their numbers. A graph without joins needs none.
    pub fn with_gap(&self, gap: u32) -> TaskGraph {
        if self.joins.is_empty() || self.gap > 0 {
            return self.clone();
        }
        let moved = |node: u32| if node < self.tasks { node } else { node + gap };
        let rows = self.node_count() + gap as usize;
        let each = |put: &mut dyn FnMut(u32, u32)| {
            for node in 0..self.node_count() as u32 {
                self.successors(node).for_each(|edge| put(moved(node), Edge::new(moved(edge.node()), edge.on()).raw()));
            }
        };
        // The number of edges is unchanged, so this cannot overflow.
        let successors = Csr::build(rows, each).unwrap_or_default();
        let (joins, bytes) = (self.joins.clone(), self.bytes.clone());
        let topological = Topological::of(&successors);
        TaskGraph { tasks: self.tasks, gap, joins, successors, predecessors: OnceLock::new(), topological, bytes }
    }

    /// The graph with the groups that follow its own: `counts` has all groups, `links` those that
    /// lead to new groups. Nodes keep their numbers.
    ///
    /// # Errors
    /// If the graph would be too large, or no number is left for a task.
    pub fn grown(&self, counts: &[u32], links: &[Link]) -> Result<TaskGraph, GraphError> {
        let tasks: u64 = counts.iter().map(|&count| u64::from(count)).sum();
        let room = u64::from(if self.joins.is_empty() { Edge::MASK } else { self.tasks + self.gap });
        let too_large = |what, count, most| GraphError::TooLarge { what, count, most };
        if tasks > room {
            return Err(too_large("tasks", tasks, room));
        }
        let base = if self.joins.is_empty() { tasks as u32 + GAP } else { self.tasks + self.gap };
        let plan = EdgePlan::new(counts, links, Some(base + self.joins.len() as u32))?;
        let edges = plan.edges() + self.edge_count() as u64;
        if edges > u32::MAX.into() {
            return Err(too_large("dependencies", edges, u32::MAX.into()));
        }
        let joins = [self.joins.as_slice(), &plan.joins].concat();
        let gap = if joins.is_empty() { 0 } else { base - plan.tasks };
        let rows = (plan.tasks + gap) as usize + joins.len();
        let successors = Csr::build(rows, |put| {
            for node in 0..self.node_count() as u32 {
                self.successors(node).for_each(|edge| put(node, edge.raw()));
            }
            plan.each_edge(|from, to, on, _| put(from, Edge::new(to, on).raw()));
        });
        let successors = successors.map_err(|TooMany(count)| too_large("dependencies", count, u32::MAX.into()))?;
        let topological = Topological::of(&successors);
        // Bytes guide the first partition alone.
        let bytes = EdgeBytes::Same(0);
        let tasks = plan.tasks;
        Ok(TaskGraph { tasks, gap, joins, successors, predecessors: OnceLock::new(), topological, bytes })
    }

    /// The numbers that belong to no node yet.
    pub fn free_numbers(&self) -> Range<u32> {
        self.tasks..self.tasks + self.gap
    }

    /// Number of tasks, without joins.
    pub fn task_count(&self) -> usize {
        self.tasks as usize
    }

    /// Number of nodes: tasks and joins, with [free numbers](TaskGraph::free_numbers) between them.
    pub fn node_count(&self) -> usize {
        self.successors.rows()
    }

    /// Number of stored edges, including those of joins.
    pub fn edge_count(&self) -> usize {
        self.successors.len()
    }

    /// The rule of a join; `None` for a task.
    pub fn join(&self, node: u32) -> Option<JoinRule> {
        node.checked_sub(self.tasks + self.gap).map(|j| self.joins[j as usize])
    }

    /// The nodes that depend on a node.
    pub fn successors(&self, node: u32) -> impl ExactSizeIterator<Item = Edge> + '_ {
        self.successors.row(node as usize).iter().map(|&raw| Edge::from_raw(raw))
    }

    /// The nodes that a node depends on.
    pub fn predecessors(&self, node: u32) -> impl ExactSizeIterator<Item = Edge> + '_ {
        self.predecessor_rows().row(node as usize).iter().map(|&raw| Edge::from_raw(raw))
    }

    fn predecessor_rows(&self) -> &Csr {
        self.predecessors.get_or_init(|| {
            self.successors.transposed(|from, raw| {
                let edge = Edge::from_raw(raw);
                (edge.node(), Edge::new(from, edge.on()).raw())
            })
        })
    }

    /// The nodes in topological order.
    pub fn topological(&self) -> &Topological {
        &self.topological
    }

    /// The tasks that a task depends on, with joins resolved; each once, ascending.
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
        match &self.bytes {
            EdgeBytes::Same(bytes) => *bytes,
            EdgeBytes::Each(bytes) => bytes.get(self.successors.range(node as usize).start + k).copied().unwrap_or(0),
        }
    }

    fn explain_cycle(&self, nodes: Vec<u32>, counts: &[u32], links: &[Link]) -> Cycle {
        let firsts = first_tasks(counts);
        let group = |task: u32| firsts.partition_point(|&first| first <= task) as GroupId - 1;
        let path: Vec<TaskId> = nodes.iter().filter(|&&n| n < self.tasks).map(|&n| TaskId(n)).collect();
        let mut spans = Vec::new();
        for (i, before) in path.iter().enumerate() {
            let after = path[(i + 1) % path.len()];
            let (from, to) = (group(before.0), group(after.0));
            let pair = (before.0 - firsts[from as usize], after.0 - firsts[to as usize]);
            let states = |l: &&Link| {
                let has_pair = !matches!(&l.shape, LinkShape::Pairs(pairs) if !pairs.contains(&pair));
                l.from == from && l.to == to && has_pair
            };
            spans.extend(links.iter().find(states).map(|l| l.span.clone()));
        }
        Cycle { path, spans }
    }
}

/// Number of the first task of each group.
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

/// The links with numbered joins, from which the edges are enumerated.
struct EdgePlan<'a> {
    tasks: u32,
    joins: Vec<JoinRule>,
    firsts: Vec<u32>,
    counts: &'a [u32],
    /// Each link with its join, if it has one.
    links: Vec<(&'a Link, Option<u32>)>,
}

impl<'a> EdgePlan<'a> {
    /// `first_join`: number of the first join; `None`: joins follow the tasks.
    fn new(counts: &'a [u32], links: &'a [Link], first_join: Option<u32>) -> Result<EdgePlan<'a>, GraphError> {
        let most = u64::from(Edge::MASK);
        let nodes = counts.iter().map(|&count| u64::from(count)).sum::<u64>() + links.len() as u64;
        if nodes > most {
            return Err(GraphError::TooLarge { what: "tasks and links", count: nodes, most });
        }
        let tasks: u32 = counts.iter().sum();
        let first_join = first_join.unwrap_or(tasks);
        let mut joins = Vec::new();
        let links = links.iter().map(|link| {
            let (from, to) = (counts[link.from as usize], counts[link.to as usize]);
            let through = link.shape == LinkShape::All && from > 1 && (to > 1 || link.on == Condition::NotOk);
            let join = through.then(|| {
                joins.push(if link.on == Condition::NotOk { JoinRule::AnyNotOk } else { JoinRule::All });
                first_join + joins.len() as u32 - 1
            });
            (link, join)
        });
        let links = links.collect();
        Ok(EdgePlan { tasks, joins, firsts: first_tasks(counts), counts, links })
    }

    /// Upper bound of the number of edges.
    fn edges(&self) -> u64 {
        let of = |&(link, join): &(&Link, Option<u32>)| {
            let (from, to) = (u64::from(self.counts[link.from as usize]), u64::from(self.counts[link.to as usize]));
            match (&link.shape, join) {
                (LinkShape::All, Some(_)) => from + to,
                (LinkShape::All, None) => from * to,
                (LinkShape::Each | LinkShape::One(_), _) => to,
                (LinkShape::Pairs(pairs), _) => pairs.len() as u64,
                (LinkShape::Pattern(pattern), _) => pattern.count() * u64::from(pattern.most_needs()),
            }
        };
        self.links.iter().map(of).fold(0, u64::saturating_add)
    }

    /// Calls `edge(from, to, condition, bytes)` for every edge, always in the same order.
    fn each_edge(&self, mut edge: impl FnMut(u32, u32, Condition, u64)) {
        for &(link, join) in &self.links {
            let (from, to) = (self.firsts[link.from as usize], self.firsts[link.to as usize]);
            let (from_count, to_count) = (self.counts[link.from as usize], self.counts[link.to as usize]);
            match (&link.shape, join) {
                (LinkShape::All, Some(join)) => {
                    // An `afternotok` join succeeds if a predecessor fails; it tests for a
                    // "violated" edge, so its edges are `afterok`.
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

    fn bytes(&self, successors: &Csr) -> EdgeBytes {
        let first = self.links.first().map_or(0, |(link, _)| link.bytes);
        if self.links.iter().all(|(link, _)| link.bytes == first) {
            return EdgeBytes::Same(first);
        }
        let mut next: Vec<u32> = (0..successors.rows()).map(|row| successors.range(row).start as u32).collect();
        let mut bytes = vec![0; successors.len()];
        self.each_edge(|from, _, _, b| {
            let at = &mut next[from as usize];
            bytes[*at as usize] = b;
            *at += 1;
        });
        EdgeBytes::Each(bytes)
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
        let GraphError::Cycle(cycle) = TaskGraph::build(&[1, 3, 3], &links).unwrap_err() else {
            panic!("no cycle was told")
        };
        assert_eq!(cycle.path.len(), 4, "{cycle:?}");
        assert!(cycle.spans.contains(&(10..20)) && cycle.spans.contains(&(30..40)), "{cycle:?}");
    }

    #[test]
    fn predecessors_are_successors_from_the_other_end() {
        let pairs = LinkShape::Pairs(vec![(2, 0), (0, 2), (1, 2)]);
        let graph = TaskGraph::build(&[3, 3], &[link(0, 1, pairs, Condition::NotOk)]).unwrap();
        let before = |node: u32| graph.predecessors(node).map(|e| (e.node(), e.on())).collect::<Vec<_>>();
        assert_eq!(before(5), [(0, Condition::NotOk), (1, Condition::NotOk)]);
        assert_eq!(before(3), [(2, Condition::NotOk)]);
        assert_eq!(before(4), []);
    }

    #[test]
    fn what_cannot_be_numbered_is_refused() {
        // 70,000 tasks that each depend on the same 70,000, stated one by one: without a join, more
        // than 2^32 edges.
        let links: Vec<Link> = (0..70_000).map(|i| link(0, 1, LinkShape::One(i), Condition::Ok)).collect();
        let refused = TaskGraph::build(&[70_000, 70_000], &links).unwrap_err().to_string();
        assert!(refused.starts_with("4900000000 dependencies"), "{refused}");
        let refused = TaskGraph::build(&[u32::MAX, 1], &[]).unwrap_err().to_string();
        assert!(refused.contains("at most 1073741823"), "{refused}");
    }

    #[test]
    fn a_graph_grows_and_its_nodes_keep_their_numbers() {
        let all = |from, to, on| link(from, to, LinkShape::All, on);
        let before = TaskGraph::build(&[3, 2], &[all(0, 1, Condition::Ok)]).unwrap().with_gap(10);
        assert_eq!((before.task_count(), before.free_numbers(), before.node_count()), (5, 5..15, 16));
        assert_eq!((before.join(15), before.join(5)), (Some(JoinRule::All), None));
        let links = [all(1, 2, Condition::NotOk), all(2, 3, Condition::Ok)];
        let after = before.grown(&[3, 2, 2, 1], &links).unwrap();
        assert_eq!((after.task_count(), after.free_numbers(), after.node_count()), (8, 8..15, 17));
        assert_eq!((after.join(15), after.join(16)), (Some(JoinRule::All), Some(JoinRule::AnyNotOk)));
        let successors = |node: u32| after.successors(node).map(|edge| edge.node()).collect::<Vec<_>>();
        assert_eq!((successors(0), successors(15), successors(3)), (vec![15], vec![3, 4], vec![16]));
        assert_eq!((successors(16), successors(5)), (vec![5, 6], vec![7]));
        assert!(after.grown(&[3, 2, 2, 1, 8], &[]).is_err(), "no number is left");
        // The first join of a graph without joins.
        let plain = TaskGraph::build(&[3], &[]).unwrap().with_gap(10);
        let grown = plain.grown(&[3, 2], &[all(0, 1, Condition::Ok)]).unwrap();
        assert_eq!((plain.node_count(), grown.join(5 + GAP)), (3, Some(JoinRule::All)));
    }

    #[test]
    fn edges_carry_the_bytes_of_their_link() {
        let mut links = vec![link(0, 1, LinkShape::Each, Condition::Ok), link(0, 2, LinkShape::All, Condition::Ok)];
        links[1].bytes = 7;
        let graph = TaskGraph::build(&[2, 2, 1], &links).unwrap();
        assert_eq!((graph.edge_bytes(0, 0), graph.edge_bytes(0, 1), graph.edge_bytes(1, 1)), (0, 7, 7));
    }
}
