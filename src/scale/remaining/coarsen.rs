//! Coarsening of a graph: few chunks of similar tasks in place of many tasks, so that a decision
//! takes milliseconds for any size.
//!
//! A chunk holds tasks of one level, class and width that are adjacent in the job; up to a limit
//! every task is a chunk of its own, without loss. A chunk can be started in parts of any size, so
//! bags, sweeps and fork-joins lose nothing either. Beyond the limit, the loss is that a chunk
//! waits for *all* tasks of the chunks before it. Graphs with more levels than the limit are cut
//! into bands of levels, each a chunk that runs in as many waves as it has levels.
//! Indistinguishable chunks (similar, with the same predecessors and successors) are merged.
//!
//! The tasks of one class in a chunk are a cell. Cells hold sums over their tasks, which task
//! events update.

mod divide;

use rustc_hash::FxHashMap;

use super::{ENDED, READY, RemainingWork, TaskFacts, WAITING};
use crate::graph::csr::Csr;
use crate::model::TaskId;
use crate::scale::estimate::ClassId;

/// Marks a task that is in no cell, and a node that is in no chunk.
pub(in crate::scale) const NONE: u32 = u32::MAX;

/// Chunks with the dependencies between them. No chunk needs one with a higher number.
#[derive(Debug, Default)]
pub(in crate::scale) struct CoarseGraph {
    /// For each chunk the slots that one of its tasks takes; 0 for a join.
    pub slots: Vec<u32>,
    /// For each chunk, the number of tasks that run in one wave: all of them, except for bands.
    pub wave: Vec<u32>,
    /// From each chunk to those that need it.
    pub successors: Csr,
    /// Number of tasks that remained when it was made.
    pub made_for: u64,
    /// True if every task is a chunk of its own.
    pub is_exact: bool,
    /// The sums over the tasks of each chunk, class by class.
    pub cells: Vec<Cell>,
    /// For each task its cell.
    cell_of: Vec<u32>,
    /// The chunks of joins.
    chunk_of_join: FxHashMap<u32, u32>,
    /// The level of each node of the graph.
    levels: Vec<u32>,
}

/// The remaining tasks of one class in a chunk.
#[derive(Clone, Debug, PartialEq)]
pub(in crate::scale) struct Cell {
    pub chunk: u32,
    pub class: ClassId,
    /// True if its tasks have priors; other sizes are in units of their class.
    pub is_sized: bool,
    /// Tasks that have not started.
    pub left: u32,
    /// Those of them that are ready.
    pub ready: u32,
    /// Tasks that run.
    pub running: u32,
    /// Sizes of the tasks that have not started, in nanoseconds: their sum, and the sum of size
    /// times slots.
    pub size: u128,
    pub slot_size: u128,
    /// Over all its initial tasks: mean square (s²) and maximum (s) of sizes.
    pub mean_square: f64,
    pub largest: f64,
}

impl CoarseGraph {
    /// Divides the remaining work into chunks: task by task up to the limit of `work`, beyond it in
    /// about the number of chunks that `work` specifies. `old` lends what does not change.
    pub(super) fn new(work: &RemainingWork, old: Option<CoarseGraph>) -> CoarseGraph {
        divide::outline(work, old)
    }

    /// Number of chunks.
    pub fn len(&self) -> usize {
        self.slots.len()
    }

    /// The cell of a task that was open when the graph was coarsened.
    pub fn cell_of(&self, task: TaskId) -> u32 {
        self.cell_of.get(task.index()).copied().unwrap_or(NONE)
    }

    /// The chunk of such a task.
    pub fn chunk_of(&self, task: TaskId) -> u32 {
        self.cells.get(self.cell_of(task) as usize).map_or(NONE, |cell| cell.chunk)
    }

    /// The most slots that the remaining tasks of one level take together.
    pub(super) fn widest(&self) -> u64 {
        let mut tasks = vec![0u64; self.len()];
        for cell in &self.cells {
            tasks[cell.chunk as usize] += u64::from(cell.left) + u64::from(cell.running);
        }
        let mut level_of = vec![0usize; self.len()];
        let mut levels: Vec<u64> = Vec::new();
        for (chunk, &left) in tasks.iter().enumerate() {
            let level = level_of[chunk];
            if levels.len() <= level {
                levels.resize(level + 1, 0);
            }
            levels[level] += left.min(u64::from(self.wave[chunk].max(1))) * u64::from(self.slots[chunk]);
            let next_level = level + usize::from(left > 0);
            for &next in self.successors.row(chunk) {
                level_of[next as usize] = level_of[next as usize].max(next_level);
            }
        }
        levels.into_iter().max().unwrap_or(0)
    }

    /// Adds a task to the counts of a stage, or removes it (`sign`).
    pub(super) fn count(&mut self, cell: u32, facts: &TaskFacts, stage: u32, sign: i32) {
        if let Some(cell) = self.cells.get_mut(cell as usize) {
            cell.count(facts, stage, sign);
        }
    }
}

impl Cell {
    fn new(chunk: u32, facts: &TaskFacts) -> Cell {
        Cell {
            chunk,
            class: facts.class,
            is_sized: facts.prior.is_some(),
            left: 0,
            ready: 0,
            running: 0,
            size: 0,
            slot_size: 0,
            mean_square: 0.0,
            largest: 0.0,
        }
    }

    fn count(&mut self, facts: &TaskFacts, stage: u32, sign: i32) {
        let add = |counter: &mut u32| *counter = counter.wrapping_add_signed(sign);
        match stage {
            ENDED => return,
            WAITING => add(&mut self.left),
            READY => {
                add(&mut self.left);
                add(&mut self.ready);
            }
            _ => return add(&mut self.running),
        }
        let size = u128::from(facts.size());
        let slot_size = size * u128::from(facts.slots.max(1));
        if sign > 0 {
            self.size += size;
            self.slot_size += slot_size;
        } else {
            self.size -= size;
            self.slot_size -= slot_size;
        }
    }
}

#[cfg(test)]
mod tests;
