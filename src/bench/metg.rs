//! Measures METG(50 %) of Phalanx: runs one pattern of Task Bench repeatedly with smaller and
//! smaller tasks.
//!
//! All ranks take part. Rank 0 sends the next step to the others, runs the job, and reads from the
//! journal when the first task started and the last one ended. The other ranks follow until rank 0
//! dismisses them.
//!
//! Each round covers all sizes in turn, instead of repeating one size, so that a disturbance of
//! some seconds does not spoil a whole point. The best run of each size counts, as for the peak.

use std::path::Path;
use std::time::Instant;

use serde::{Deserialize, Serialize};
use tempfile::TempDir;
use thiserror::Error;

use super::curve::{self, CurveShape, Point};
use super::peak;
use crate::exec::Kernels;
use crate::graph::pattern::{Dependence, Pattern};
use crate::journal::{JournalError, RunDir, RunDirError, replay};
use crate::model::{Rank, Time};
use crate::observe::progress::Mode;
use crate::runtime::{Options, RunError, World};

/// Efficiency that the largest tasks should reach: larger tasks are tried until they do.
const PLATEAU_EFFICIENCY: f64 = 0.75;

/// Duration of the first tasks of the series, in nanoseconds.
const FIRST_TASK_NS: f64 = 100_000.0;

/// A run longer than this, in seconds, is not followed by one with larger tasks.
const MAX_RUN_S: f64 = 1.0;

/// Number of measurements of the peak before each round, and after the last.
const PEAK_MEASUREMENTS: u32 = 3;

/// The measurement to make.
#[derive(Clone, Debug)]
pub struct MetgPlan {
    /// The graph.
    pub pattern: Pattern,
    /// Slots of each rank; `None`: the CPUs that the launcher granted.
    pub slots: Option<u32>,
    /// Number of runs of each size; the best counts.
    pub rounds: u32,
}

/// The results.
#[derive(Clone, Debug, Serialize)]
pub struct MetgMeasured {
    /// Name of the pattern.
    pub pattern: String,
    /// Its width.
    pub width: u32,
    /// Number of ranks.
    pub ranks: u32,
    /// Slots per rank (the largest number).
    pub slots: u32,
    /// Peak rate of the cores in billions of floating-point operations per second.
    pub peak_gflops: f64,
    /// METG(50 %) in microseconds; `None` if half of the peak was never reached.
    pub metg_us: Option<f64>,
    /// Tasks per second with tasks of only 64 floating-point operations.
    pub zero_work_tasks_per_s: f64,
    /// The curve, from large tasks to small ones.
    pub points: Vec<Point>,
    /// For each point the total duration of its run in seconds, including everything before and
    /// after the tasks.
    #[serde(skip)]
    pub whole_s: Vec<f64>,
}

/// Why the measurement failed.
#[derive(Debug, Error)]
pub enum BenchError {
    /// A run could not start.
    #[error(transparent)]
    Run(#[from] RunError),
    /// A run ended before all its tasks had completed; its exit code.
    #[error("a run of the benchmark ended with exit code {0}")]
    Unfinished(i32),
    /// The journal of a run cannot be read.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// The directory of a run was not found.
    #[error(transparent)]
    RunDir(#[from] RunDirError),
    /// A journal lacks some tasks.
    #[error("the journal of a run lists {found} completed tasks instead of {expected}")]
    Incomplete {
        /// Tasks with a completed attempt.
        found: u64,
        /// Tasks of the job.
        expected: u64,
    },
    /// The directory for the runs cannot be used.
    #[error("cannot keep runs in the current directory: {0}; start in a directory that all ranks can write to")]
    Directory(#[from] std::io::Error),
}

impl BenchError {
    /// The exit code of Phalanx for this error.
    pub fn exit_code(&self) -> i32 {
        match self {
            BenchError::Run(error) => error.exit_code(),
            BenchError::Unfinished(code) => *code,
            BenchError::Directory(_) | BenchError::RunDir(_) => 2,
            BenchError::Journal(_) | BenchError::Incomplete { .. } => 1,
        }
    }
}

/// The next step, which rank 0 sends to the others.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
enum Next {
    /// Take part in a run.
    Run,
    /// Measure the peak of `threads` threads and send it to rank 0.
    Peak { threads: u32 },
    /// Leave.
    Leave,
}

/// Makes the measurement, as rank 0.
///
/// # Errors
/// See [`BenchError`].
pub fn lead(world: &mut World, plan: &MetgPlan) -> Result<MetgMeasured, BenchError> {
    let result = Leader::new(world, plan).and_then(Leader::measure);
    dismiss(world);
    result
}

/// Dismisses the other ranks. Failures are ignored: an unreachable rank cannot be dismissed.
fn dismiss(world: &mut World) {
    for rank in 1..world.size() {
        if let Err(error) = world.tell(Rank(rank), encode(&Next::Leave)) {
            tracing::error!("{error}");
        }
    }
}

/// Follows the steps from rank 0, as any other rank.
///
/// # Errors
/// If a step failed on this rank.
pub fn follow(world: &mut World) -> Result<(), RunError> {
    let mut result = Ok(());
    loop {
        match decode(&world.hear()?.1)? {
            // Rank 0 notices an error by itself, and decides.
            Next::Run => result = world.run(&Options::new(""), Kernels::builtin()).map(|_| ()),
            Next::Peak { threads } => world.tell(Rank::ZERO, encode(&peak::gflops(threads)))?,
            Next::Leave => return result,
        }
    }
}

fn encode<T: Serialize>(value: &T) -> Vec<u8> {
    // Writing plain numbers and enums to memory cannot fail; an empty answer would be refused by
    // its reader.
    postcard::to_stdvec(value).unwrap_or_default()
}

fn decode<'a, T: Deserialize<'a>>(bytes: &'a [u8]) -> Result<T, RunError> {
    postcard::from_bytes(bytes)
        .map_err(|error| RunError::Broken(format!("cannot decode a message of another rank: {error}")))
}

/// Durations of one run.
#[derive(Clone, Copy, Debug)]
struct Walls {
    iterations: u64,
    /// From the first start of a task to the last end, in seconds.
    tasks_s: f64,
    /// Of the whole call in seconds, with reading, partition, hand-out and shutdown.
    whole_s: f64,
}

/// The state of rank 0.
struct Leader<'a> {
    world: &'a mut World,
    plan: &'a MetgPlan,
    dir: TempDir,
    /// Slots of each rank, known after the first run.
    slots: Vec<u32>,
    peak_gflops: f64,
    best: Vec<Walls>,
}

impl<'a> Leader<'a> {
    fn new(world: &'a mut World, plan: &'a MetgPlan) -> Result<Leader<'a>, BenchError> {
        // In the current directory, which all ranks see.
        let dir = tempfile::Builder::new().prefix("phalanx-bench-").tempdir_in(".")?;
        Ok(Leader { world, plan, dir, slots: Vec::new(), peak_gflops: 0.0, best: Vec::new() })
    }

    fn measure(mut self) -> Result<MetgMeasured, BenchError> {
        // The first run fills caches and yields the number of slots; its time does not count.
        self.run(1)?;
        self.measure_peak()?;
        let core_gflops = self.peak_gflops / f64::from(self.cores());
        let large = FIRST_TASK_NS * core_gflops / crate::exec::compute_bound::flops(1) as f64;
        let mut top = (large.max(1.0) as u64).next_power_of_two();
        while !self.is_large_enough(top)? {
            top *= 2;
        }
        for _ in 0..self.plan.rounds {
            self.measure_peak()?;
            for iterations in series(top) {
                self.point(iterations)?;
            }
        }
        self.measure_peak()?;
        Ok(self.finish())
    }

    fn cores(&self) -> u32 {
        self.slots.iter().sum::<u32>().max(1)
    }

    /// Runs tasks of this size. Returns false if larger ones would be more efficient and do not
    /// take too long.
    fn is_large_enough(&mut self, iterations: u64) -> Result<bool, BenchError> {
        let walls = self.point(iterations)?;
        let efficiency = Point::new(iterations, walls.tasks_s, &self.shape()).efficiency;
        Ok(efficiency >= PLATEAU_EFFICIENCY || walls.tasks_s > MAX_RUN_S)
    }

    fn shape(&self) -> CurveShape {
        CurveShape { tasks: self.plan.pattern.count(), cores: self.cores(), peak_gflops: self.peak_gflops }
    }

    /// Runs tasks of one size and keeps the best result for that size.
    fn point(&mut self, iterations: u64) -> Result<Walls, BenchError> {
        let walls = self.run(iterations)?;
        match self.best.iter_mut().find(|best| best.iterations == iterations) {
            Some(best) if best.tasks_s <= walls.tasks_s => {}
            Some(best) => *best = walls,
            None => self.best.push(walls),
        }
        Ok(walls)
    }

    fn run(&mut self, iterations: u64) -> Result<Walls, BenchError> {
        self.announce(&Next::Run)?;
        let job = self.dir.path().join("metg.toml");
        let run_dir = self.dir.path().join("run");
        std::fs::write(&job, job_text(&self.plan.pattern, iterations))?;
        let options = Options {
            run_dir: Some(run_dir.clone()),
            slots: self.plan.slots,
            progress: Mode::Quiet,
            ..Options::new(job)
        };
        let begun = Instant::now();
        let finished = self.world.run(&options, Kernels::builtin())?;
        let whole_s = begun.elapsed().as_secs_f64();
        if finished.exit_code != 0 {
            return Err(BenchError::Unfinished(finished.exit_code));
        }
        let tasks_s = self.read(&run_dir)?;
        std::fs::remove_dir_all(&run_dir)?;
        Ok(Walls { iterations, tasks_s, whole_s })
    }

    /// Reads the duration of the tasks and the number of slots from the journal of a run.
    fn read(&mut self, run_dir: &Path) -> Result<f64, BenchError> {
        let replay = replay(&RunDir::open(run_dir)?.journal())?;
        let attempts = replay.last_session().map_or(&[][..], |session| &session.attempts);
        let (found, expected) = (attempts.iter().filter(|a| a.outcome.ok()).count() as u64, self.plan.pattern.count());
        if found != expected {
            return Err(BenchError::Incomplete { found, expected });
        }
        self.slots = replay.last_session().iter().flat_map(|s| &s.began.ranks).map(|rank| rank.slots).collect();
        let first = attempts.iter().map(|a| a.start).min().unwrap_or(Time::ZERO);
        let last = attempts.iter().map(|a| a.end).max().unwrap_or(Time::ZERO);
        // The clock counts nanoseconds; a duration of zero is raised to one.
        Ok(last.since(first).as_secs_f64().max(1e-9))
    }

    fn measure_peak(&mut self) -> Result<(), BenchError> {
        for _ in 0..PEAK_MEASUREMENTS {
            for rank in 1..self.world.size() {
                let threads = self.slots.get(rank as usize).copied().unwrap_or(1);
                self.world.tell(Rank(rank), encode(&Next::Peak { threads }))?;
            }
            let mut sum = peak::gflops(self.slots.first().copied().unwrap_or(1));
            for _ in 1..self.world.size() {
                sum += decode::<f64>(&self.world.hear()?.1)?;
            }
            self.peak_gflops = self.peak_gflops.max(sum);
        }
        Ok(())
    }

    fn announce(&mut self, next: &Next) -> Result<(), RunError> {
        (1..self.world.size()).try_for_each(|rank| self.world.tell(Rank(rank), encode(next)))
    }

    fn finish(mut self) -> MetgMeasured {
        // The peak is at least the rate that the tasks themselves reached.
        let reached = self.best.iter().map(|walls| Point::new(walls.iterations, walls.tasks_s, &self.shape()).gflops);
        self.peak_gflops = reached.fold(self.peak_gflops, f64::max);
        let shape = self.shape();
        self.best.sort_by_key(|walls| std::cmp::Reverse(walls.iterations));
        let points: Vec<Point> = self.best.iter().map(|w| Point::new(w.iterations, w.tasks_s, &shape)).collect();
        let zero = self.best.iter().find(|walls| walls.iterations == 0).map_or(f64::INFINITY, |walls| walls.tasks_s);
        MetgMeasured {
            pattern: self.plan.pattern.dependence.name().to_owned(),
            width: self.plan.pattern.width,
            ranks: self.world.size(),
            slots: self.slots.iter().copied().max().unwrap_or(0),
            peak_gflops: self.peak_gflops,
            metg_us: curve::metg_us(&points),
            zero_work_tasks_per_s: shape.tasks as f64 / zero,
            points,
            whole_s: self.best.iter().map(|walls| walls.whole_s).collect(),
        }
    }
}

/// Iterations in descending order down to 0, each half of the one before.
fn series(top: u64) -> impl Iterator<Item = u64> {
    std::iter::successors(Some(top), |&iterations| (iterations > 0).then_some(iterations / 2))
}

/// The job file of a run.
fn job_text(pattern: &Pattern, iterations: u64) -> String {
    let Pattern { dependence, width, steps } = pattern;
    let mut text = format!(
        "[[task]]\nname = \"point\"\npattern = \"{}\"\nwidth = {width}\nsteps = {steps}\n\
         kernel = \"compute_bound\"\nargs = {{ iterations = {iterations} }}\n",
        dependence.name()
    );
    match dependence {
        Dependence::Nearest { radix } | Dependence::Spread { radix } => text += &format!("radix = {radix}\n"),
        Dependence::RandomNearest { radix, fraction, seed } => {
            text += &format!("radix = {radix}\nfraction = {fraction:?}\nseed = {seed}\n");
        }
        _ => {}
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graph::link::LinkShape;
    use crate::job;

    #[test]
    fn the_series_ends_with_no_work() {
        assert_eq!(series(8).collect::<Vec<_>>(), [8, 4, 2, 1, 0]);
    }

    #[test]
    fn the_job_says_what_was_asked_for() {
        for (_, dependence, _) in Dependence::NAMED {
            let pattern = Pattern { dependence: *dependence, width: 6, steps: 5 };
            let text = job_text(&pattern, 3);
            let loaded = job::parse(text.as_str(), "metg.toml", Path::new("/"), &Kernels::builtin()).expect(&text);
            assert_eq!(loaded.job.task_count() as u64, pattern.count());
            assert_eq!(loaded.job.links[0].shape, LinkShape::Pattern(pattern));
        }
    }
}
