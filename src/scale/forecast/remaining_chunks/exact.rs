//! Fills in the remaining work when every task is a chunk, from each task.

use super::{Beliefs, ClassTables, RemainingChunks, RunningTasks, SPREAD, Strata};
use crate::scale::remaining::{CoarseGraph, NONE, RemainingTask, RemainingWork, Stage};

/// The remaining tasks of a class.
#[derive(Clone, Debug, Default)]
struct Left {
    /// How long its tasks have been running, as factors of their sizes; each entry is one task.
    open: Vec<(f64, u32)>,
    waiting_tasks: u32,
    running: Strata,
    waiting: Strata,
}

impl RemainingChunks {
    /// Fills in from each task. Returns the sum of the variances of their durations.
    pub(super) fn fill_exactly(&mut self, outline: &CoarseGraph, work: &RemainingWork, beliefs: &Beliefs<'_>) -> f64 {
        let Beliefs { now, estimates, speed } = *beliefs;
        let mut variances = vec![0.0; outline.len()];
        let mut classes = left_of_classes(work, beliefs);
        let mut tables = ClassTables::default();
        work.each(&mut |task| {
            self.looked_at += 1;
            let chunk = outline.chunk_of(task.task);
            let at = task.class.0 as usize;
            let Some(left) = classes.get_mut(at).filter(|_| chunk != NONE) else { return };
            let table = tables.get(estimates, task.class, &left.open);
            let size = estimates.size(task.class, task.prior) / speed;
            let chunk = chunk as usize;
            variances[chunk] += table.variance * size * size;
            self.widest[chunk] = self.widest[chunk].max(table.variance * size * size);
            if let Stage::Running(since) = task.stage {
                let share = part(&mut left.running, &task);
                let rest = table.belief.rest(now.since(since).as_secs_f64() / size, share) * size;
                self.running[chunk] += 1;
                let (chunk, slots) = (chunk as u32, task.slots.max(1));
                self.tasks_running.push(RunningTasks { chunk, tasks: 1, slots, rest, busy_slot: None });
                self.work += rest * f64::from(slots);
                self.doubtful_work += rest * table.doubt * f64::from(slots);
                return;
            }
            let seconds = table.spread[(part(&mut left.waiting, &task) * SPREAD as f64) as usize % SPREAD] * size;
            self.left[chunk] += 1;
            self.ready[chunk] += u32::from(task.stage == Stage::Ready);
            self.seconds[chunk] += seconds;
            self.doubt[chunk] += seconds * table.doubt;
            self.work += seconds * f64::from(task.slots.max(1));
            self.doubtful_work += seconds * table.doubt * f64::from(task.slots.max(1));
        });
        variances.iter().sum()
    }
}

/// The part, 0 to 1, of its class's distribution that a task represents.
fn part(strata: &mut Strata, task: &RemainingTask) -> f64 {
    match strata.tasks as usize >= SPREAD {
        true => (draw(task) as f64 + 0.5) / SPREAD as f64,
        false => strata.next(),
    }
}

fn left_of_classes(work: &RemainingWork, beliefs: &Beliefs<'_>) -> Vec<Left> {
    let mut left: Vec<Left> = Vec::new();
    work.each(&mut |task| {
        let at = task.class.0 as usize;
        if left.len() <= at {
            left.resize_with(at + 1, Left::default);
        }
        match task.stage {
            Stage::Running(since) => {
                let size = beliefs.estimates.size(task.class, task.prior);
                left[at].open.push((beliefs.now.since(since).as_secs_f64() * beliefs.speed / size, 1));
            }
            _ => left[at].waiting_tasks += 1,
        }
    });
    for class in &mut left {
        class.running = Strata::of(class.open.len() as u32);
        class.waiting = Strata::of(class.waiting_tasks);
    }
    left
}

/// The quantile of a task within its class, always the same for a task (Knuth's multiplicative hash
/// of its number).
fn draw(task: &RemainingTask) -> usize {
    (task.task.0.wrapping_mul(2_654_435_761) >> (u32::BITS - SPREAD.trailing_zeros())) as usize
}
