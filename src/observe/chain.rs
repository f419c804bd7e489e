//! The chain of tasks that determined the end of the run, traced back from the task that ended
//! last.
//!
//! The predecessor of a task in the chain is what it waited for last: the dependency that ended
//! last or, if the task was ready earlier and waited for a slot, the task that held its slot. The
//! chain covers the wall time of its session except for the gaps that it reports, and so shows
//! whether dependencies or the number of slots bounded the run. (The critical path of the graph
//! considers dependencies only: it is the bound with unlimited slots.)

use rustc_hash::FxHashMap;

use super::run_view::RunView;
use super::timeline::{Slice, Timeline};
use crate::graph::TaskGraph;

/// What a task of the chain waited for before it started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum After {
    /// The beginning of the session.
    Beginning,
    /// The previous task of the chain, on which it depends.
    Dependency,
    /// The previous task of the chain, which held its slot.
    Slot,
}

/// A task of the chain.
#[derive(Clone, Copy, Debug)]
pub(super) struct ChainLink {
    /// Index in [`Timeline::slices`].
    pub slice: usize,
    /// What it waited for.
    pub after: After,
    /// Nanoseconds from the end of the previous task (or the beginning of the session) to its
    /// start.
    pub gap: u64,
}

/// The chain of the last session in order of time; empty if no task ran or the graph is unknown.
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
            // It was ready from the beginning, and its slot was long free: only the beginning
            // precedes it.
            (None, Some(_)) => (After::Slot, held),
        };
        // Clocks of ranks may differ slightly; a task must not precede itself.
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

/// For each node, the slice of its dependency that ended last; joins are resolved.
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

/// For each slice, the previous slice in the same slot.
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

/// Time by cause along the chain, in nanoseconds.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct ChainSums {
    /// Run time of tasks that waited for a dependency or the beginning.
    pub dependency: u64,
    /// Run time of tasks that waited for a slot.
    pub slot: u64,
    /// Gaps between tasks.
    pub gaps: u64,
    /// From the beginning of the session to the start of the first task.
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
