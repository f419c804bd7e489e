//! Finds the cause of skipped tasks: the task whose end prevented them, directly or transitively.

use super::figures::states;
use super::run_view::RunView;
use crate::graph::{JoinRule, TaskGraph};
use crate::model::{State, TaskId};

/// Tasks that were skipped because of the same task.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Skipped {
    /// The task that caused it; `None` if the graph is unknown.
    pub because_of: Option<TaskId>,
    /// The skipped tasks, ascending.
    pub tasks: Vec<TaskId>,
}

/// All skipped tasks by cause, the largest group first.
pub(super) fn skipped(run: &RunView) -> Vec<Skipped> {
    let skipped: Vec<TaskId> =
        states(run).filter(|(_, state)| *state == State::Skipped).map(|(task, _)| task).collect();
    if skipped.is_empty() {
        return Vec::new();
    }
    let causes = SkipCauses::of(run);
    group(skipped.into_iter().map(|task| (causes.root(task), task)).collect())
}

/// For each node of the graph, the task that caused it to be skipped or not to succeed.
pub(super) struct SkipCauses {
    /// Empty if the graph is unknown.
    causes: Vec<Option<TaskId>>,
    states: Vec<State>,
}

impl SkipCauses {
    /// The causes in a run.
    pub(super) fn of(run: &RunView) -> SkipCauses {
        let graph = run.subject().graph.as_ref();
        let mut by_task = vec![State::Pending; graph.map_or(0, |graph| graph.task_count())];
        for (task, state) in states(run) {
            if let Some(known) = by_task.get_mut(task.index()) {
                *known = state;
            }
        }
        SkipCauses { causes: graph.map(|graph| causes(graph, &by_task)).unwrap_or_default(), states: by_task }
    }

    /// The task that ran and in the end caused this one to be skipped.
    fn root(&self, task: TaskId) -> Option<TaskId> {
        self.causes.get(task.index()).copied().flatten()
    }

    /// The tasks between a skipped task and the cause: first the one that it needed itself, at the
    /// end the one that ran. Empty if the graph is unknown.
    pub(super) fn chain(&self, run: &RunView, task: TaskId) -> Vec<TaskId> {
        run.subject().graph.as_ref().map_or_else(Vec::new, |graph| self.chain_in(graph, task))
    }

    fn chain_in(&self, graph: &TaskGraph, task: TaskId) -> Vec<TaskId> {
        let mut chain = Vec::new();
        let mut node = task.0;
        while let Some(before) = obstacle(graph, node, &self.states, &self.causes) {
            node = before;
            if let Some(state) = self.states.get(node as usize) {
                chain.push(TaskId(node));
                if *state != State::Skipped {
                    break;
                }
            }
        }
        chain
    }
}

fn group(mut pairs: Vec<(Option<TaskId>, TaskId)>) -> Vec<Skipped> {
    pairs.sort_unstable();
    let mut groups: Vec<Skipped> = Vec::new();
    for (because_of, task) in pairs {
        match groups.last_mut() {
            Some(group) if group.because_of == because_of => group.tasks.push(task),
            _ => groups.push(Skipped { because_of, tasks: vec![task] }),
        }
    }
    groups.sort_by_key(|group| std::cmp::Reverse(group.tasks.len()));
    groups
}

/// For each node that was skipped or did not succeed, the task that caused it; `None` for the
/// others.
fn causes(graph: &TaskGraph, states: &[State]) -> Vec<Option<TaskId>> {
    let mut causes: Vec<Option<TaskId>> = vec![None; graph.node_count()];
    for node in graph.topological().iter() {
        let is_join = graph.join(node).is_some();
        if !is_join && states.get(node as usize) != Some(&State::Skipped) {
            continue;
        }
        // A join or a skipped task passes on the cause of its dependency; a task that ran is itself
        // the cause.
        let bearer = |before: u32| match states.get(before as usize) {
            Some(state) if *state != State::Skipped => Some(TaskId(before)),
            _ => causes[before as usize],
        };
        let cause = obstacle(graph, node, states, &causes);
        causes[node as usize] = cause.and_then(bearer);
    }
    causes
}

/// The predecessor of a node that keeps it from running or from counting as successful.
fn obstacle(graph: &TaskGraph, node: u32, states: &[State], causes: &[Option<TaskId>]) -> Option<u32> {
    let ended_well = |before: u32| match states.get(before as usize) {
        Some(state) => *state == State::Completed,
        None => causes[before as usize].is_none(),
    };
    let mut needed = graph.predecessors(node);
    let found = if graph.join(node) == Some(JoinRule::AnyNotOk) {
        let mut all = graph.predecessors(node);
        if all.all(|edge| ended_well(edge.node())) { needed.next() } else { None }
    } else {
        needed.find(|edge| edge.violated_by(ended_well(edge.node())))
    };
    found.map(|edge| edge.node())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graph::link::{Condition, Link, LinkShape};

    fn link(from: u32, to: u32, shape: LinkShape, on: Condition) -> Link {
        Link { from, to, shape, on, bytes: 0, span: 0..0 }
    }

    #[test]
    fn blame_passes_through_joins_and_skipped_tasks() {
        // An array of 4 (one fails), an array of 3 that needs all of it, and one task after that.
        let links = [link(0, 1, LinkShape::All, Condition::Ok), link(1, 2, LinkShape::All, Condition::Ok)];
        let graph = TaskGraph::build(&[4, 3, 1], &links).unwrap();
        let mut states = vec![State::Completed; 8];
        states[2] = State::Timeout;
        states[4..].fill(State::Skipped);
        let causes = causes(&graph, &states);
        assert_eq!(causes[..8], [vec![None; 4], vec![Some(TaskId(2)); 4]].concat());
        let chain = SkipCauses { causes, states }.chain_in(&graph, TaskId(7));
        assert_eq!(chain, [TaskId(4), TaskId(2)], "through the join to what ran");
    }

    #[test]
    fn success_is_to_blame_where_failure_was_asked_for() {
        for shape in [LinkShape::All, LinkShape::One(0)] {
            let graph = TaskGraph::build(&[2, 1], &[link(0, 1, shape, Condition::NotOk)]).unwrap();
            let states = [State::Completed, State::Completed, State::Skipped];
            assert_eq!(causes(&graph, &states)[2], Some(TaskId(0)));
        }
    }

    #[test]
    fn groups_are_sorted_by_size() {
        let pairs = vec![(Some(TaskId(1)), TaskId(5)), (None, TaskId(9)), (None, TaskId(8))];
        let groups = group(pairs);
        assert_eq!(groups[0], Skipped { because_of: None, tasks: vec![TaskId(8), TaskId(9)] });
        assert_eq!(groups[1].tasks, [TaskId(5)]);
    }
}
