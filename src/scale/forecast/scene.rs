//! The scene of a forecast: what is left in each chunk at one moment, with durations filled in.
//!
//! Durations are not all medians, which would make every forecast too short: the tasks of a class that wait, and those that run, are each given
//! a quantile of their own, so that the durations of a class spread as they are believed to. How much longer everything may take because little is
//! known of a class (its *doubt*) is kept as sums, beside those of what is expected.

use super::outline::{NONE, Outline};
use super::usage::stride;
use crate::scale::estimate::{ClassId, Estimates, LogNormal};
use crate::scale::observation::{Observation, RemainingTask, Stage};

/// Values that stand for the distribution of a class.
const SPREAD: usize = 32;

/// A task that runs now.
#[derive(Clone, Copy, Debug)]
pub(super) struct Running {
    pub chunk: u32,
    pub slots: u32,
    /// Seconds until it ends.
    pub rest: f64,
    /// On which rank, counted in the order in which they are used.
    pub holder: u32,
}

/// What is left, chunk by chunk.
#[derive(Clone, Debug, Default)]
pub(super) struct Scene {
    /// Tasks that have not started.
    pub left: Vec<u32>,
    /// Those of them that could.
    pub ready: Vec<u32>,
    /// Tasks that run, or 1 for a join that has not been passed.
    pub running: Vec<u32>,
    /// Chunks that each waits for.
    pub waits: Vec<u32>,
    /// Seconds that a task of the chunk takes on average.
    pub seconds: Vec<f64>,
    /// By which factor that may be too little.
    doubt: Vec<f64>,
    /// Chunks with something left, most urgent first.
    pub order: Vec<u32>,
    /// Position of each chunk in `order`.
    pub position: Vec<u32>,
    /// All that runs.
    pub tasks_running: Vec<Running>,
    /// Seconds of work left, in slots; and with doubt.
    pub work: f64,
    pub doubtful_work: f64,
    /// Longest chain of what is left, in seconds; and with doubt.
    pub critical: f64,
    pub doubtful_critical: f64,
    /// How far chance moves the end: standard deviation in seconds along the longest chain, and of the sum of work.
    pub chain_deviation: f64,
    pub work_deviation: f64,
}

/// What is believed of one class, ready to be used a thousand times.
struct ClassTable {
    spread: [f64; SPREAD],
    variance: f64,
    doubt: f64,
    belief: LogNormal,
}

impl ClassTable {
    fn new(estimates: &Estimates, class: ClassId, open: &[f64]) -> ClassTable {
        let belief = estimates.factor(class).with_open(open);
        let spread: [f64; SPREAD] = belief.spread();
        let mean = spread.iter().sum::<f64>() / SPREAD as f64;
        let variance = spread.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / SPREAD as f64;
        ClassTable { spread, variance, doubt: belief.doubt(), belief }
    }
}

impl Scene {
    /// Fills in what is left at a moment; `speed` is that of the ranks, relative to the estimates.
    pub fn fill(&mut self, outline: &Outline, seen: &Observation<'_>, estimates: &Estimates, speed: f64) {
        self.reset(outline.len());
        let mut variance = vec![0.0; outline.len()];
        let mut widest = vec![0.0f64; outline.len()];
        let mut classes = left_of_classes(seen, estimates, speed);
        let mut tables: Vec<Option<ClassTable>> = Vec::new();
        seen.remaining.each(&mut |task| {
            let chunk = outline.of.get(task.task.index()).copied().unwrap_or(NONE);
            if chunk == NONE {
                return;
            }
            let at = task.class.0 as usize;
            if tables.len() <= at {
                tables.resize_with(at + 1, || None);
            }
            let Some(left) = classes.get_mut(at) else { return };
            let table = tables[at].get_or_insert_with(|| ClassTable::new(estimates, task.class, &left.open));
            let size = estimates.size(task.class, task.prior) / speed;
            let chunk = chunk as usize;
            variance[chunk] += table.variance * size * size;
            widest[chunk] = widest[chunk].max(table.variance * size * size);
            if let Stage::Running(since) = task.stage {
                let share = left.running.next(&task);
                let rest = table.belief.rest(seen.now.since(since).as_secs_f64() / size, share) * size;
                self.running[chunk] += 1;
                let (chunk, slots) = (chunk as u32, task.slots.max(1));
                self.tasks_running.push(Running { chunk, slots, rest, holder: 0 });
                self.work += rest * f64::from(slots);
                self.doubtful_work += rest * table.doubt * f64::from(slots);
                return;
            }
            let seconds = table.spread[(left.waiting.next(&task) * SPREAD as f64) as usize % SPREAD] * size;
            self.left[chunk] += 1;
            self.ready[chunk] += u32::from(task.stage == Stage::Ready);
            self.seconds[chunk] += seconds;
            self.doubt[chunk] += seconds * table.doubt;
            self.work += seconds * f64::from(task.slots.max(1));
            self.doubtful_work += seconds * table.doubt * f64::from(task.slots.max(1));
        });
        for (chunk, seconds) in self.seconds.iter_mut().enumerate().filter(|(_, s)| **s > 0.0) {
            self.doubt[chunk] /= *seconds;
            *seconds /= f64::from(self.left[chunk]);
        }
        self.work_deviation = variance.iter().sum::<f64>().sqrt();
        self.connect(outline);
        self.rank(outline, &widest);
    }

    fn reset(&mut self, chunks: usize) {
        for counts in [&mut self.left, &mut self.ready, &mut self.running, &mut self.waits] {
            counts.clear();
            counts.resize(chunks, 0);
        }
        for seconds in [&mut self.seconds, &mut self.doubt] {
            seconds.clear();
            seconds.resize(chunks, 0.0);
        }
        self.tasks_running.clear();
        (self.work, self.doubtful_work) = (0.0, 0.0);
    }

    /// Counts for each chunk the unfinished chunks that it needs; a join is unfinished if something before it is.
    fn connect(&mut self, outline: &Outline) {
        for chunk in 0..outline.len() {
            if outline.slots[chunk] == 0 && self.waits[chunk] > 0 {
                self.running[chunk] = 1;
            }
            if self.left[chunk] + self.running[chunk] > 0 {
                outline.successors.row(chunk).iter().for_each(|&next| self.waits[next as usize] += 1);
            }
        }
    }

    /// Orders the chunks by upward rank: the longest time from their start to the end of the graph.
    fn rank(&mut self, outline: &Outline, variance: &[f64]) {
        let mut upward = vec![Upward::default(); outline.len()];
        let mut rest = vec![0.0f64; outline.len()];
        for running in &self.tasks_running {
            let longest = &mut rest[running.chunk as usize];
            *longest = longest.max(running.rest);
        }
        let mut longest = Upward::default();
        for chunk in (0..outline.len()).rev() {
            let after = outline.successors.row(chunk).iter().map(|&next| upward[next as usize]);
            let after = after.reduce(Upward::longer).unwrap_or_default();
            let waves = f64::from(self.left[chunk].div_ceil(outline.wave[chunk].max(1)));
            let own = (waves * self.seconds[chunk]).max(rest[chunk]);
            let turns = if rest[chunk] > 0.0 { waves.max(1.0) } else { waves };
            upward[chunk] = Upward {
                seconds: after.seconds + own,
                doubtful: after.doubtful + own * self.doubt[chunk].max(1.0),
                variance: after.variance + turns * variance[chunk],
            };
            longest = longest.longer(upward[chunk]);
        }
        (self.critical, self.doubtful_critical) = (longest.seconds, longest.doubtful);
        self.chain_deviation = longest.variance.sqrt();
        self.order.clear();
        self.order.extend((0..outline.len() as u32).filter(|&c| self.left[c as usize] > 0));
        self.order.sort_by(|&a, &b| upward[b as usize].seconds.total_cmp(&upward[a as usize].seconds));
        self.position.clear();
        self.position.resize(outline.len(), NONE);
        (0..).zip(&self.order).for_each(|(at, &chunk)| self.position[chunk as usize] = at);
    }

    /// By which factor the end on so many slots may be late because little is known: that of the longest chain or of the work, whichever
    /// binds.
    pub fn doubt(&self, slots: f64) -> f64 {
        let middle = self.critical.max(self.work / slots);
        let late = self.doubtful_critical.max(self.doubtful_work / slots);
        if middle > 0.0 { (late / middle).max(1.0) } else { 1.0 }
    }
}

/// The longest chain from a chunk on.
#[derive(Clone, Copy, Debug, Default)]
struct Upward {
    seconds: f64,
    doubtful: f64,
    variance: f64,
}

impl Upward {
    fn longer(self, other: Upward) -> Upward {
        if other.seconds > self.seconds { other } else { self }
    }
}

/// Which part of a class's distribution each of some tasks stands for: equal parts, so that one task alone stands for the median and of many the
/// longest stands for a long one. Neighbours are given parts far from each other.
#[derive(Clone, Debug, Default)]
struct Strata {
    tasks: u32,
    given: u32,
}

impl Strata {
    /// The part, 0 to 1, of the next task.
    fn next(&mut self, task: &RemainingTask) -> f64 {
        if self.tasks as usize >= SPREAD {
            return (draw(task) as f64 + 0.5) / SPREAD as f64;
        }
        let tasks = self.tasks.max(1);
        let step = stride(tasks as usize) as u32;
        let at = (self.given * step + tasks / 2) % tasks;
        self.given += 1;
        (f64::from(at) + 0.5) / f64::from(tasks)
    }
}

/// What is left of a class.
#[derive(Clone, Debug, Default)]
struct Left {
    /// How long its tasks have been running, as factors of their sizes.
    open: Vec<f64>,
    running: Strata,
    waiting: Strata,
}

fn left_of_classes(seen: &Observation<'_>, estimates: &Estimates, speed: f64) -> Vec<Left> {
    let mut left: Vec<Left> = Vec::new();
    seen.remaining.each(&mut |task| {
        let at = task.class.0 as usize;
        if left.len() <= at {
            left.resize_with(at + 1, Left::default);
        }
        match task.stage {
            Stage::Running(since) => {
                let factor = seen.now.since(since).as_secs_f64() * speed / estimates.size(task.class, task.prior);
                left[at].open.push(factor);
                left[at].running.tasks += 1;
            }
            _ => left[at].waiting.tasks += 1,
        }
    });
    left
}

/// Which quantile of its class a task is given: always the same for a task (Knuth's multiplicative hash of its number).
fn draw(task: &RemainingTask) -> usize {
    (task.task.0.wrapping_mul(2_654_435_761) >> (u32::BITS - SPREAD.trailing_zeros())) as usize
}
