//! The chain of tasks that the end of the run waited for, walked back from the task that ended last.
//!
//! Before each task stands what it waited for last: the last of its dependencies to end, or, if it was ready before that and waited for a
//! slot, the task that held its slot until then. So the chain covers the wall time of its session without gaps other than those that it
//! names, and tells whether dependencies or the number of slots bounded the run. (The critical path of the graph only knows of
//! dependencies: it is what would be left on unlimited slots.)

use rustc_hash::FxHashMap;

use super::run_view::RunView;
use super::timeline::{Slice, Timeline};
use crate::graph::TaskGraph;

/// What a link of the chain waited for before it could start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum After {
    /// The beginning of the session.
    Beginning,
    /// The link before is a task that it depends on.
    Dependency,
    /// The link before is a task that held its slot.
    Slot,
}

/// A task of the chain.
#[derive(Clone, Copy, Debug)]
pub(super) struct ChainLink {
    /// Index in [`Timeline::slices`].
    pub slice: usize,
    /// Why it comes after the link before.
    pub after: After,
    /// Nanoseconds between the end of the link before (or the beginning) and its start.
    pub gap: u64,
}

/// The chain of the last session, first to last; empty if nothing ran or the graph is not known.
pub(super) fn chain(run: &RunView, timeline: &Timeline) -> Vec<ChainLink> {
    let (Some(graph), Some(last)) = (&run.subject().graph, timeline.sessions.len().checked_sub(1)) else {
        return Vec::new();
    };
    let here: Vec<usize> =
        (0..timeline.slices.len()).filter(|&i| timeline.slices[i].session as usize == last).collect();
    let before = binding(graph, timeline, &here);
    let slots = slot_neighbours(timeline, &here);
    let mut links = Vec::new();
    let mut at = here.iter().copied().max_by_key(|&i| timeline.slices[i].end);
    while let Some(i) = at {
        let slice = &timeline.slices[i];
        let needed = dependency(&before, slice);
        let held = slots.get(&i).copied();
        let end = |of: Option<usize>| of.map_or(0, |j: usize| timeline.slices[j].end);
        let (after, previous) = match (needed, held) {
            (None, None) => (After::Beginning, None),
            _ if end(held) > end(needed).max(slice.ready) => (After::Slot, held),
            (Some(_), _) => (After::Dependency, needed),
            // Ready from the beginning, and its slot was free long before: nothing but the beginning came before it.
            (None, Some(_)) => (After::Slot, held),
        };
        // Clocks of ranks may disagree a little; a link never comes before itself.
        let previous = previous.filter(|&j| timeline.slices[j].start < slice.start || j < i);
        let since = previous.map_or(timeline.sessions[last].from, |j| timeline.slices[j].end);
        let after = if previous.is_some() { after } else { After::Beginning };
        links.push(ChainLink { slice: i, after, gap: slice.start.saturating_sub(since) });
        at = previous;
    }
    links.reverse();
    links
}

fn dependency(before: &[Option<usize>], slice: &Slice) -> Option<usize> {
    before.get(slice.task.index()).copied().flatten()
}

/// For each node, the slice of the task before it that ended last, seen through joins.
pub(super) fn binding(graph: &TaskGraph, timeline: &Timeline, here: &[usize]) -> Vec<Option<usize>> {
    let mut last_slice: Vec<Option<usize>> = vec![None; graph.node_count()];
    for &i in here {
        let slice = &timeline.slices[i];
        if let Some(known) = last_slice.get_mut(slice.task.index()).filter(|_| slice.task.index() < graph.task_count())
        {
            let later = known.is_none_or(|j| timeline.slices[j].end <= slice.end);
            if later {
                *known = Some(i);
            }
        }
    }
    let mut before: Vec<Option<usize>> = vec![None; graph.node_count()];
    for node in graph.topological().iter() {
        let own = if graph.join(node).is_some() { before[node as usize] } else { last_slice[node as usize] };
        let Some(own) = own else { continue };
        for edge in graph.successors(node) {
            let known = &mut before[edge.node() as usize];
            if known.is_none_or(|j| timeline.slices[j].end < timeline.slices[own].end) {
                *known = Some(own);
            }
        }
    }
    before
}

/// For each slice the one that ran before it in its slot, if there is one.
fn slot_neighbours(timeline: &Timeline, here: &[usize]) -> FxHashMap<usize, usize> {
    let mut latest: FxHashMap<(u32, u16), usize> = FxHashMap::default();
    let mut neighbours = FxHashMap::default();
    for &i in here {
        let slice = &timeline.slices[i];
        if let Some(before) = latest.insert((slice.rank, slice.slot), i)
            && timeline.slices[before].end <= slice.start
        {
            neighbours.insert(i, before);
        }
    }
    neighbours
}

/// What the chain consists of, in nanoseconds.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct ChainSums {
    /// Tasks that came after a dependency or the beginning.
    pub dependency: u64,
    /// Tasks that came after another in their slot.
    pub slot: u64,
    /// Gaps between tasks.
    pub gaps: u64,
    /// From the beginning of the session to the first task.
    pub start_up: u64,
}

impl ChainSums {
    /// Adds up a chain.
    pub fn of(chain: &[ChainLink], timeline: &Timeline) -> ChainSums {
        let mut sums = ChainSums::default();
        for link in chain {
            let ran = timeline.slices[link.slice].ran();
            match link.after {
                After::Beginning => {
                    sums.start_up += link.gap;
                    sums.dependency += ran;
                }
                After::Dependency => {
                    sums.gaps += link.gap;
                    sums.dependency += ran;
                }
                After::Slot => {
                    sums.gaps += link.gap;
                    sums.slot += ran;
                }
            }
        }
        sums
    }
}
