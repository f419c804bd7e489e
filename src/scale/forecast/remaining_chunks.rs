//! The remaining work of each chunk at one moment, with durations filled in: the input of a
//! schedule.
//!
//! Durations are not all medians, which would make every forecast too short: waiting and running
//! tasks of a class each get a quantile of their own, so that the durations of a class spread as
//! estimated. How much longer everything may take because little is known of a class (its *doubt*)
//! is kept as separate sums.
//!
//! Where every task is a chunk (`exact`), each task is read. Otherwise the sums of the chunks'
//! cells and batches of running tasks (`batches`) are read: the effort depends on the number of
//! chunks, classes and running tasks, not of remaining tasks.

mod batches;
mod exact;

use rustc_hash::FxHashMap;

use self::batches::RunningBatch;
use crate::model::Time;
use crate::scale::estimate::{ClassId, Estimates, LogNormal, SPREAD};
use crate::scale::remaining::{CoarseGraph, NONE, RemainingWork};

/// Running tasks of a chunk that end together.
#[derive(Clone, Copy, Debug)]
pub(super) struct RunningTasks {
    pub chunk: u32,
    pub tasks: u32,
    /// Slots that all of them take.
    pub slots: u32,
    /// Seconds until they end.
    pub rest: f64,
    /// Which of the busy slots a single task is on, counted in the order in which ranks are used;
    /// `None`: on one of the first rank. Several tasks are spread over the busy slots.
    pub busy_slot: Option<u32>,
}

/// The remaining work, chunk by chunk.
#[derive(Clone, Debug, Default)]
pub(super) struct RemainingChunks {
    /// Tasks that have not started.
    pub left: Vec<u32>,
    /// Those of them that are ready.
    pub ready: Vec<u32>,
    /// Number of running tasks, or 1 for a join that has not been passed.
    pub running: Vec<u32>,
    /// Number of chunks that each waits for.
    pub waits: Vec<u32>,
    /// Mean duration of a task of the chunk, in seconds.
    pub seconds: Vec<f64>,
    /// Factor by which that may be too low.
    doubt: Vec<f64>,
    /// The greatest variance of a task's duration in the chunk.
    widest: Vec<f64>,
    /// Chunks with work left, most urgent first.
    pub order: Vec<u32>,
    /// Position of each chunk in `order`.
    pub position: Vec<u32>,
    /// All running tasks.
    pub tasks_running: Vec<RunningTasks>,
    /// Remaining work in slot-seconds; and with doubt.
    pub work: f64,
    pub doubtful_work: f64,
    /// Longest chain of the remaining tasks, in seconds; and with doubt.
    pub critical: f64,
    pub doubtful_critical: f64,
    /// Effect of chance on the end: standard deviation in seconds along the longest chain, and of
    /// the sum of work.
    pub chain_deviation: f64,
    pub work_deviation: f64,
    /// Number of entries read: tasks where each is a chunk, otherwise cells, running tasks and
    /// batches of them.
    pub looked_at: u64,
}

/// The estimates of one class, tabulated for frequent use.
struct ClassTable {
    spread: [f64; SPREAD],
    mean: f64,
    variance: f64,
    doubt: f64,
    belief: LogNormal,
}

impl ClassTable {
    fn new(estimates: &Estimates, class: ClassId, open: &[(f64, u32)]) -> ClassTable {
        let belief = match open {
            [] => estimates.factor(class).clone(),
            _ => estimates.factor(class).with_open(open),
        };
        let spread = belief.spread();
        let mean = spread.iter().sum::<f64>() / SPREAD as f64;
        let variance = spread.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / SPREAD as f64;
        ClassTable { spread, mean, variance, doubt: belief.doubt(), belief }
    }
}

/// The tables of classes, each made at its first use. Classes without information share one, since
/// a job of many separate tasks has as many classes.
#[derive(Default)]
struct ClassTables {
    tables: Vec<ClassTable>,
    /// The table of each class by number, or [`NONE`].
    of_class: Vec<u32>,
    /// The table of an estimate that follows from four numbers.
    by_key: FxHashMap<[u64; 4], u32>,
}

impl ClassTables {
    fn get(&mut self, estimates: &Estimates, class: ClassId, open: &[(f64, u32)]) -> &ClassTable {
        let at = class.0 as usize;
        if self.of_class.len() <= at {
            self.of_class.resize(at + 1, NONE);
        }
        if self.of_class[at] == NONE {
            self.of_class[at] = self.find_or_make(estimates, class, open);
        }
        &self.tables[self.of_class[at] as usize]
    }

    fn find_or_make(&mut self, estimates: &Estimates, class: ClassId, open: &[(f64, u32)]) -> u32 {
        let new = self.tables.len() as u32;
        let key = estimates.factor(class).key().filter(|_| open.is_empty());
        let number = key.map_or(new, |key| *self.by_key.entry(key).or_insert(new));
        if number == new {
            self.tables.push(ClassTable::new(estimates, class, open));
        }
        number
    }
}

/// The moment, and the estimates at that moment.
#[derive(Clone, Copy)]
pub(super) struct Beliefs<'a> {
    pub now: Time,
    pub estimates: &'a Estimates,
    /// Speed of the ranks, relative to the estimates.
    pub speed: f64,
}

impl RemainingChunks {
    /// Fills in the remaining work at a moment.
    pub fn fill(&mut self, work: &RemainingWork, beliefs: &Beliefs<'_>) {
        let outline = work.outline();
        self.reset(outline.len());
        let variance = match outline.is_exact {
            true => self.fill_exactly(outline, work, beliefs),
            false => self.fill_coarsely(outline, work, beliefs),
        };
        for (chunk, seconds) in self.seconds.iter_mut().enumerate().filter(|(_, s)| **s > 0.0) {
            self.doubt[chunk] /= *seconds;
            *seconds /= f64::from(self.left[chunk]);
        }
        self.work_deviation = variance.sqrt();
        self.connect(outline);
        self.rank(outline);
    }

    fn reset(&mut self, chunks: usize) {
        for counts in [&mut self.left, &mut self.ready, &mut self.running, &mut self.waits] {
            counts.clear();
            counts.resize(chunks, 0);
        }
        for seconds in [&mut self.seconds, &mut self.doubt, &mut self.widest] {
            seconds.clear();
            seconds.resize(chunks, 0.0);
        }
        self.tasks_running.clear();
        (self.work, self.doubtful_work, self.looked_at) = (0.0, 0.0, 0);
    }

    /// Fills in from the sums of cells. Returns the sum of the variances of all tasks' durations.
    fn fill_coarsely(&mut self, outline: &CoarseGraph, work: &RemainingWork, beliefs: &Beliefs<'_>) -> f64 {
        let Beliefs { estimates, speed, .. } = *beliefs;
        let batches = batches::of(outline, work, beliefs);
        let classes = batches::by_class(&batches);
        let open = |class: ClassId| classes.get(&class).map_or(&[][..], |class| &class.open);
        let mut tables = ClassTables::default();
        let mut variance = 0.0;
        for cell in outline.cells.iter().filter(|cell| cell.left + cell.running > 0) {
            let table = tables.get(estimates, cell.class, open(cell.class));
            let unit = unit(estimates, cell.class, cell.is_sized) / speed;
            let chunk = cell.chunk as usize;
            let square = table.variance * unit * unit;
            variance += square * cell.mean_square * f64::from(cell.left + cell.running);
            self.widest[chunk] = self.widest[chunk].max(square * cell.largest * cell.largest);
            let seconds = table.mean * unit * (cell.size as f64 / 1e9);
            let slot_seconds = table.mean * unit * (cell.slot_size as f64 / 1e9);
            self.left[chunk] += cell.left;
            self.ready[chunk] += cell.ready;
            self.running[chunk] += cell.running;
            self.seconds[chunk] += seconds;
            self.doubt[chunk] += seconds * table.doubt;
            self.work += slot_seconds;
            self.doubtful_work += slot_seconds * table.doubt;
        }
        let pieces = classes.into_iter().map(|(class, summed)| (class, Strata::of(summed.pieces)));
        let mut strata: FxHashMap<ClassId, Strata> = pieces.collect();
        for batch in &batches {
            let table = tables.get(estimates, batch.class, &[]);
            if let Some(strata) = strata.get_mut(&batch.class) {
                self.run_batch(batch, table, strata);
            }
        }
        self.looked_at = outline.cells.len() as u64 + work.running_count() + self.tasks_running.len() as u64;
        variance
    }

    /// Adds the tasks of a batch, piece by piece; each piece represents another part of the
    /// distribution.
    fn run_batch(&mut self, batch: &RunningBatch, table: &ClassTable, strata: &mut Strata) {
        let (mut tasks, mut slots) = (batch.tasks, batch.slots);
        for left in (1..=batch.pieces).rev() {
            let (these, their_slots) = (tasks / left, slots / left);
            (tasks, slots) = (tasks - these, slots - their_slots);
            let rest = table.belief.rest(batch.factor, strata.next()) * batch.seconds;
            let seconds = rest * f64::from(their_slots);
            self.work += seconds;
            self.doubtful_work += seconds * table.doubt;
            let running = RunningTasks { chunk: batch.chunk, tasks: these, slots: their_slots, rest, busy_slot: None };
            self.tasks_running.push(running);
        }
    }

    /// Counts for each chunk the unfinished chunks that it needs; a join is unfinished if a
    /// predecessor is.
    fn connect(&mut self, outline: &CoarseGraph) {
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
    fn rank(&mut self, outline: &CoarseGraph) {
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
                variance: after.variance + turns * self.widest[chunk],
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

    /// Factor by which the end on `slots` slots may be late because of limited knowledge: that of
    /// the longest chain or of the work, whichever limits the run.
    pub fn doubt(&self, slots: f64) -> f64 {
        let middle = self.critical.max(self.work / slots);
        let late = self.doubtful_critical.max(self.doubtful_work / slots);
        if middle > 0.0 { (late / middle).max(1.0) } else { 1.0 }
    }
}

/// Seconds per unit of size: sizes of tasks without priors are in units of their class.
fn unit(estimates: &Estimates, class: ClassId, is_sized: bool) -> f64 {
    if is_sized { 1.0 } else { estimates.size(class, None) }
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

/// Which part of a class's distribution each task represents: equal parts, so that a single task
/// represents the median, and the longest of many a long one. Neighbours get distant parts.
#[derive(Clone, Debug, Default)]
struct Strata {
    tasks: u32,
    given: u32,
    step: u32,
}

impl Strata {
    fn of(tasks: u32) -> Strata {
        Strata { tasks: tasks.max(1), given: 0, step: stride(tasks.max(1) as usize) as u32 }
    }

    /// The part, 0 to 1, of the next task.
    fn next(&mut self) -> f64 {
        let at = (u64::from(self.given) * u64::from(self.step) + u64::from(self.tasks / 2)) % u64::from(self.tasks);
        self.given += 1;
        (at as f64 + 0.5) / f64::from(self.tasks)
    }
}

/// A step near the golden section that visits each of `busy_slots` slots once.
pub(super) fn stride(busy_slots: usize) -> usize {
    let coprime = |step: &usize| gcd(*step, busy_slots) == 1;
    (busy_slots * 5 / 8..=busy_slots).find(|step| *step > 0 && coprime(step)).unwrap_or(1)
}

fn gcd(a: usize, b: usize) -> usize {
    if b == 0 { a } else { gcd(b, a % b) }
}
