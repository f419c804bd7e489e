//! What a run would have taken if something about it had been otherwise: its graph once more, with measured durations, on idealised slots.
//!
//! Tasks start in the order of their upward rank as soon as what they need is done and a slot is free. Ranks, messages and places are left
//! out, so only the *ratio* of two such makespans is used: with the change and without.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use crate::graph::TaskGraph;
use crate::model::TaskId;

/// A run's graph with all that an idealised execution needs to know of its tasks, by number.
pub(super) struct Model<'a> {
    pub graph: &'a TaskGraph,
    /// How long each ran, in nanoseconds; 0 for those that did not.
    pub ran: Vec<u64>,
    /// Slots that each held.
    pub width: Vec<u32>,
    /// Which group each belongs to.
    pub group: Vec<u32>,
    /// How many of each group may run at once.
    pub limit: Vec<u32>,
    /// What starting a task costs its slot, in nanoseconds.
    pub overhead: u64,
}

/// The variation of a model that is asked about.
pub(super) struct Change<'a> {
    /// How long a task runs.
    pub ran: &'a dyn Fn(usize) -> u64,
    /// How many slots it holds.
    pub width: &'a dyn Fn(usize) -> u32,
    /// How many of a group may run at once.
    pub limit: &'a dyn Fn(usize) -> u32,
    /// Slots.
    pub slots: u32,
    /// What starting a task costs, in nanoseconds.
    pub overhead: u64,
}

/// Where an execution stands.
struct State {
    missing: Vec<u32>,
    ready: BinaryHeap<(u64, Reverse<u32>)>,
    /// By group, what is ready but held back by the group's limit.
    held: Vec<BinaryHeap<(u64, Reverse<u32>)>>,
    running_of: Vec<u32>,
    running: BinaryHeap<Reverse<(u64, u32)>>,
    free: u32,
}

impl Model<'_> {
    /// Nanoseconds from the first start to the last end.
    pub fn makespan(&self, change: &Change<'_>) -> u64 {
        let upward = self.graph.order(&|task: TaskId| (change.ran)(task.index())).upward;
        let mut state = State {
            missing: (0..self.graph.node_count() as u32)
                .map(|node| self.graph.predecessors(node).len() as u32)
                .collect(),
            ready: BinaryHeap::new(),
            held: vec![BinaryHeap::new(); self.limit.len()],
            running_of: vec![0; self.limit.len()],
            running: BinaryHeap::new(),
            free: change.slots.max(1),
        };
        let roots: Vec<u32> =
            (0..state.missing.len() as u32).filter(|&node| state.missing[node as usize] == 0).collect();
        roots.into_iter().for_each(|node| self.arrive(&mut state, &upward, node));
        let mut now = 0;
        loop {
            self.start(&mut state, change, now);
            let Some(Reverse((end, task))) = state.running.pop() else { return now };
            now = end;
            let i = task as usize;
            state.free += self.held_slots(change, i);
            let group = self.group[i] as usize;
            state.running_of[group] -= 1;
            state.ready.extend(state.held[group].pop());
            self.pass_on(&mut state, &upward, task);
        }
    }

    fn held_slots(&self, change: &Change<'_>, task: usize) -> u32 {
        (change.width)(task).clamp(1, change.slots.max(1))
    }

    /// A node has nothing to wait for any more.
    fn arrive(&self, state: &mut State, upward: &[u64], node: u32) {
        let is_task = (node as usize) < self.graph.task_count();
        if is_task && self.ran[node as usize] > 0 {
            state.ready.push((upward[node as usize], Reverse(node)));
        } else {
            self.pass_on(state, upward, node);
        }
    }

    /// A node is done: counts down what needs it.
    fn pass_on(&self, state: &mut State, upward: &[u64], node: u32) {
        let mut open = vec![node];
        while let Some(node) = open.pop() {
            for next in self.graph.successors(node).map(|edge| edge.node()) {
                let missing = &mut state.missing[next as usize];
                *missing = missing.saturating_sub(1);
                if *missing > 0 {
                    continue;
                }
                if (next as usize) < self.graph.task_count() && self.ran[next as usize] > 0 {
                    state.ready.push((upward[next as usize], Reverse(next)));
                } else {
                    open.push(next);
                }
            }
        }
    }

    fn start(&self, state: &mut State, change: &Change<'_>, now: u64) {
        while let Some(&(rank, Reverse(task))) = state.ready.peek() {
            let i = task as usize;
            let group = self.group[i] as usize;
            if state.running_of[group] >= (change.limit)(group) {
                state.ready.pop();
                state.held[group].push((rank, Reverse(task)));
                continue;
            }
            let slots = self.held_slots(change, i);
            if slots > state.free {
                return;
            }
            state.ready.pop();
            state.free -= slots;
            state.running_of[group] += 1;
            let took = (change.ran)(i).saturating_add(change.overhead);
            state.running.push(Reverse((now.saturating_add(took), task)));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graph::link::{Condition, Link, LinkShape};

    fn makespan(model: &Model<'_>, slots: u32) -> u64 {
        model.makespan(&Change {
            ran: &|i| model.ran[i],
            width: &|i| model.width[i],
            limit: &|g| model.limit[g],
            slots,
            overhead: model.overhead,
        })
    }

    #[test]
    fn slots_limits_widths_and_joins_count() {
        // Eight tasks of 10, then one of 5 that needs all of them.
        let link = Link { from: 0, to: 1, shape: LinkShape::All, on: Condition::Ok, bytes: 0, span: 0..0 };
        let graph = TaskGraph::build(&[8, 1], &[link]).unwrap();
        let mut ran = vec![10; 8];
        ran.push(5);
        let mut group = vec![0; 8];
        group.push(1);
        let mut model = Model { graph: &graph, ran, width: vec![1; 9], group, limit: vec![u32::MAX; 2], overhead: 0 };
        assert_eq!([1, 2, 4, 8, 99].map(|slots| makespan(&model, slots)), [85, 45, 25, 15, 15]);
        model.limit[0] = 2;
        assert_eq!(makespan(&model, 8), 45);
        model.limit[0] = u32::MAX;
        model.width[..8].fill(3);
        assert_eq!(makespan(&model, 8), 45);
        model.overhead = 1;
        assert_eq!(makespan(&model, 24), 17);
        model.ran[8] = 0;
        assert_eq!(makespan(&model, 24), 11);
    }
}
