//! Batches of running tasks: tasks of one cell that have been running for about equally long.

use rustc_hash::FxHashMap;

use super::{Beliefs, unit};
use crate::model::Time;
use crate::scale::estimate::ClassId;
use crate::scale::remaining::{CoarseGraph, NONE, RemainingWork, RunningTask};

/// Number of age steps of a cell: sixteenths of the class's duration up to four times that
/// duration, growing steps beyond.
const AGE_STEPS: usize = 80;

/// Upper limit on batches if many cells have running tasks; each of them has at least one.
const MAX_BATCHES: usize = 1024;

/// Number of pieces into which large batches are divided in total: each ends at another moment.
const MAX_PIECES: u64 = 256;

/// Running tasks of a cell that began at about the same moment.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct RunningBatch {
    pub class: ClassId,
    pub chunk: u32,
    pub tasks: u32,
    pub slots: u32,
    /// How long they have been running, as a factor of their sizes: mean.
    pub factor: f64,
    /// Their sizes in seconds on the present ranks: mean.
    pub seconds: f64,
    /// Number of pieces, which end one by one.
    pub pieces: u32,
}

/// The running tasks of a class.
#[derive(Debug, Default)]
pub(super) struct ClassBatches {
    /// Ages of tasks, with the number of tasks of about that age.
    pub open: Vec<(f64, u32)>,
    /// Pieces of all its batches.
    pub pieces: u32,
}

/// All running tasks, in batches.
pub(super) fn of(outline: &CoarseGraph, work: &RemainingWork, beliefs: &Beliefs<'_>) -> Vec<RunningBatch> {
    // The first batch of each cell.
    let mut first = vec![NONE; outline.cells.len()];
    let busy = (0..).zip(&outline.cells).filter(|(_, cell)| cell.running > 0);
    let busy: Vec<usize> = busy.map(|(at, _)| at).collect();
    let each = (MAX_BATCHES / busy.len().max(1)).clamp(1, AGE_STEPS);
    (0..).zip(&busy).for_each(|(number, &at)| first[at] = number * each as u32);
    let mut sums = vec![RunningBatch::default(); busy.len() * each];
    let scales = CellScales::new(outline, &busy, beliefs);
    for running in work.running() {
        let cell = if running.cell == NONE { outline.cell_of(running.task) } else { running.cell };
        let Some(&from) = first.get(cell as usize).filter(|from| **from != NONE) else { continue };
        let (factor, age, seconds) = scales.of(cell, running, beliefs.now);
        let sum = &mut sums[from as usize + age_step(age) * each / AGE_STEPS];
        sum.tasks += 1;
        sum.slots += running.facts.slots.max(1);
        sum.factor += factor;
        sum.seconds += seconds;
    }
    let whole = work.running_count().div_ceil(MAX_PIECES).max(1) as u32;
    let mut batches = Vec::new();
    for (number, &at) in busy.iter().enumerate() {
        let (chunk, class) = (outline.cells[at].chunk, outline.cells[at].class);
        for sum in sums[number * each..][..each].iter().filter(|sum| sum.tasks > 0) {
            let tasks = f64::from(sum.tasks);
            let (factor, seconds) = (sum.factor / tasks, sum.seconds / tasks);
            batches.push(RunningBatch { class, chunk, factor, seconds, pieces: sum.tasks.div_ceil(whole), ..*sum });
        }
    }
    batches
}

/// The batches by class.
pub(super) fn by_class(batches: &[RunningBatch]) -> FxHashMap<ClassId, ClassBatches> {
    let mut classes: FxHashMap<ClassId, ClassBatches> = FxHashMap::default();
    for batch in batches {
        let class = classes.entry(batch.class).or_default();
        class.open.push((batch.factor, batch.tasks));
        class.pieces += batch.pieces;
    }
    classes
}

/// For each cell with running tasks: the seconds per nanosecond of size on the present ranks, and
/// the divisor that converts a factor to an age in durations of the class.
struct CellScales(Vec<(f64, f64)>);

impl CellScales {
    fn new(outline: &CoarseGraph, busy: &[usize], beliefs: &Beliefs<'_>) -> CellScales {
        let mut scales = vec![(0.0, 1.0); outline.cells.len()];
        let mut medians: FxHashMap<ClassId, f64> = FxHashMap::default();
        for &at in busy {
            let cell = &outline.cells[at];
            let median = *medians
                .entry(cell.class)
                .or_insert_with(|| beliefs.estimates.factor(cell.class).quantiles().q50.max(1e-12));
            let unit = unit(beliefs.estimates, cell.class, cell.is_sized) / beliefs.speed;
            scales[at] = (unit / 1e9, 1.0 / median);
        }
        CellScales(scales)
    }

    /// How long a task of a cell has been running, as a factor of its size and in durations of its
    /// class; and its size in seconds.
    fn of(&self, cell: u32, running: &RunningTask, now: Time) -> (f64, f64, f64) {
        let (unit, per_median) = self.0[cell as usize];
        let seconds = running.facts.size() as f64 * unit;
        let factor = now.since(running.since).as_secs_f64() / seconds.max(1e-12);
        (factor, factor * per_median, seconds)
    }
}

/// The step of an age.
fn age_step(age: f64) -> usize {
    if age < 4.0 {
        (age * 16.0) as usize
    } else {
        (64.0 + (age / 4.0).log2() * 2.0).min(AGE_STEPS as f64 - 1.0) as usize
    }
}
