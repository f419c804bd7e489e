//! Progress of a run over time: one JSON line per second, later per minute, next to the journal,
//! which only records ended attempts.
//!
//! Rank 0 writes the file from the same numbers as its progress display. Each session truncates the
//! file. It is optional: the run does not depend on it, neither for counting nor for resuming.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::estimate::{Estimator, RunProgress};
use super::jsonl::{JsonLinesReader, JsonLinesWriter};
use super::measures::MeasureLine;
use super::pool_samples::{PoolRecorder, PoolSample};
use super::vitals::Vital;
use crate::journal::RunDir;
use crate::model::{Measure, Rank, SlotsNow, Vitals};
use crate::scale::Forecast;

/// Interval between samples, and between records of a rank's usage, so that the files of a run of
/// days stay small.
fn sample_interval(at: Duration) -> Duration {
    Duration::from_secs(match at.as_secs() / 3600 {
        0 => 1,
        1..24 => 10,
        _ => 60,
    })
}

/// Progress at one time. The field names are those of the file and of the HTTP API.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Sample {
    /// Seconds since the session began.
    pub t: f64,
    /// Tasks of the job.
    pub total: u64,
    /// Tasks that ended successfully.
    pub completed: u64,
    /// Tasks that failed.
    pub failed: u64,
    /// Tasks that will never run because a dependency did not end as required.
    pub skipped: u64,
    /// Tasks that were cancelled.
    pub cancelled: u64,
    /// Running tasks.
    pub running: u64,
    /// Ready tasks: they wait for a slot or for what else is taken, not for other tasks.
    pub queued: u64,
    /// Tasks that are paused, of those of the job.
    #[serde(default)]
    pub paused: u64,
    /// Active ranks.
    pub ranks_active: u32,
    /// Estimated run time of the ended tasks, in seconds.
    pub work_done_s: f64,
    /// Estimated run time of all tasks, in seconds.
    pub work_total_s: f64,
    /// Busy share of the CPUs of rank 0's node, 0 to 1.
    pub node_cpu: f64,
    /// Memory in use on that node, in bytes.
    pub node_memory_used: u64,
    /// Memory of that node, in bytes.
    pub node_memory: u64,
    /// Latest forecast, as `finish_q10_s` to `cost_q90`; absent if the run makes none.
    #[serde(flatten)]
    pub forecast: Option<Forecast>,
}

impl Sample {
    /// Converts progress to a sample.
    fn of(at: Duration, tally: &RunProgress) -> Sample {
        Sample {
            t: at.as_secs_f64(),
            total: tally.total,
            completed: tally.completed,
            failed: tally.failed,
            skipped: tally.skipped,
            cancelled: tally.cancelled,
            running: tally.running,
            queued: tally.ready,
            paused: tally.paused,
            ranks_active: tally.ranks_active,
            work_done_s: tally.work_done_s,
            work_total_s: tally.work_total_s,
            forecast: tally.forecast,
            ..Sample::default()
        }
    }

    /// Converts the sample back to progress.
    pub(super) fn tally(&self) -> RunProgress {
        RunProgress {
            total: self.total,
            completed: self.completed,
            failed: self.failed,
            skipped: self.skipped,
            cancelled: self.cancelled,
            running: self.running,
            ready: self.queued,
            paused: self.paused,
            work_done_s: self.work_done_s,
            work_total_s: self.work_total_s,
            ranks_active: self.ranks_active,
            forecast: self.forecast,
        }
    }
}

/// Records a session over time: samples, resource usage of ranks, and values of tasks.
pub(super) struct Recorder {
    samples: JsonLinesWriter,
    vitals: JsonLinesWriter,
    measures: JsonLinesWriter,
    pools: PoolRecorder,
    session: u32,
    next: Duration,
    /// Latest usage of rank 0 and its node.
    node: Vitals,
    /// For each rank its slots as they were recorded last, and when its usage is recorded again.
    ranks: BTreeMap<Rank, (Option<SlotsNow>, Duration)>,
}

impl Recorder {
    /// Starts the files of a session; the values of earlier sessions are kept.
    pub fn new(run: &RunDir, session: u32) -> Recorder {
        Recorder {
            samples: JsonLinesWriter::anew(run.samples()),
            vitals: JsonLinesWriter::anew(run.vitals()),
            measures: JsonLinesWriter::going_on(run.measures()),
            pools: PoolRecorder::new(&run.pools()),
            session,
            next: Duration::ZERO,
            node: Vitals::default(),
            ranks: BTreeMap::new(),
        }
    }

    /// Writes a sample if the interval has passed.
    pub fn take(&mut self, at: Duration, tally: &RunProgress) {
        if at >= self.next {
            self.next = at + sample_interval(at);
            self.write(at, tally);
        }
    }

    /// Writes a sample now.
    pub fn write(&mut self, at: Duration, tally: &RunProgress) {
        let Vitals { node_cpu, node_memory_used, node_memory, .. } = self.node;
        self.samples.add(&[Sample { node_cpu, node_memory_used, node_memory, ..Sample::of(at, tally) }]);
        self.pools.write();
    }

    /// Records the usage of a rank and its node, if the interval has passed or its slots have
    /// changed.
    pub fn vitals(&mut self, at: Duration, rank: Rank, vitals: &Vitals) {
        if rank == Rank::ZERO {
            self.node = *vitals;
        }
        let (slots, next) = self.ranks.entry(rank).or_default();
        // Ranks report once a second, not to the millisecond.
        if at + Duration::from_millis(500) < *next && *slots == vitals.slots {
            return;
        }
        (*slots, *next) = (vitals.slots, at + sample_interval(at));
        self.vitals.add(&[Vital { t: at.as_secs_f64(), rank: rank.0, vitals: *vitals }]);
    }

    /// Records what pools have in use, with the next sample.
    pub fn pools(&mut self, pools: Vec<PoolSample>) {
        self.pools.set(pools);
    }

    /// Records values that tasks wrote.
    pub fn measured(&mut self, at: Duration, measures: &[Measure]) {
        let line = |measure: &Measure| MeasureLine {
            t: at.as_secs_f64(),
            session: self.session,
            task: measure.task.0,
            attempt: measure.attempt,
            name: measure.name.clone(),
            value: measure.value,
        };
        let lines: Vec<MeasureLine> = measures.iter().map(line).collect();
        self.measures.add(&lines);
    }
}

/// The samples of the last session, as far as they were read.
#[derive(Debug, Default)]
pub struct RecordedSamples {
    all: Vec<Sample>,
    reading: JsonLinesReader,
    estimator: Estimator,
}

impl RecordedSamples {
    /// Reads the lines appended since the last call.
    pub fn read_on(&mut self, path: &Path) {
        let RecordedSamples { all, reading, estimator } = self;
        let anew = |(all, estimator): &mut (&mut Vec<Sample>, &mut Estimator)| {
            all.clear();
            **estimator = Estimator::default();
        };
        reading.read_on(path, &mut (all, estimator), anew, |(all, estimator), sample: Sample| {
            if let Ok(at) = Duration::try_from_secs_f64(sample.t) {
                estimator.observe(at, &sample.tally());
                all.push(sample);
            }
        });
    }

    /// All samples, oldest first.
    pub fn all(&self) -> &[Sample] {
        &self.all
    }

    /// The latest sample.
    pub fn last(&self) -> Option<&Sample> {
        self.all.last()
    }

    /// Of this number of open tasks those that run and those that are ready. (A sample is older
    /// than what the journal says of ended tasks.)
    pub fn running_and_ready(&self, open: u64) -> (u64, u64) {
        let (running, ready) = self.last().map_or((0, 0), |sample| (sample.running, sample.queued));
        let running = running.min(open);
        (running, ready.min(open - running))
    }

    /// Recent number of tasks that end per second.
    pub fn tasks_per_s(&self) -> f64 {
        self.estimator.tasks_per_s()
    }

    /// Remaining time in seconds; `None` before a task has ended.
    pub fn remaining_s(&self) -> Option<f64> {
        self.estimator.remaining().map(|left| left.as_secs_f64())
    }

    /// Samples from `from` to `to` seconds, averaged over at most `points` equal intervals. Of
    /// monotonic counts the last value of each interval is taken.
    pub fn between(&self, from: f64, to: f64, points: usize) -> Vec<Sample> {
        let within: Vec<&Sample> = self.all.iter().filter(|sample| sample.t >= from && sample.t <= to).collect();
        let together = within.len().div_ceil(points.max(1)).max(1);
        within.chunks(together).filter_map(mean).collect()
    }
}

fn mean(samples: &[&Sample]) -> Option<Sample> {
    let last = **samples.last()?;
    let n = samples.len() as f64;
    let whole = |value: fn(&Sample) -> u64| (samples.iter().map(|s| value(s) as f64).sum::<f64>() / n).round() as u64;
    Some(Sample {
        running: whole(|s| s.running),
        queued: whole(|s| s.queued),
        node_cpu: samples.iter().map(|s| s.node_cpu).sum::<f64>() / n,
        node_memory_used: whole(|s| s.node_memory_used),
        ..last
    })
}

#[cfg(test)]
mod tests {
    use super::super::vitals;
    use super::*;
    use crate::model::SlotReason;

    fn run() -> (tempfile::TempDir, RunDir) {
        let dir = tempfile::tempdir().unwrap();
        let run = RunDir::create(dir.path(), "job").unwrap();
        (dir, run)
    }

    #[test]
    fn a_long_run_has_few_records_and_each_change_of_slots() {
        let (_dir, run) = run();
        let mut recorder = Recorder::new(&run, 1);
        let slots = |active| Some(SlotsNow { active, least: 1, most: 9, why: SlotReason::CpusIdle });
        for s in 0..48 * 3600 {
            let vitals = Vitals { slots: slots(1 + s / 100_000), ..Vitals::default() };
            for rank in [Rank(0), Rank(1)] {
                recorder.vitals(Duration::from_secs(s.into()) + Duration::from_millis(7), rank, &vitals);
            }
        }
        let all = vitals::all(&run.vitals());
        // At 100,000 s the slots change, between two minutes.
        assert_eq!(all.len(), 2 * (3600 + 23 * 360 + 24 * 60 + 1));
        assert_eq!(all.iter().map(|it| it.t as u32).filter(|t| *t == 100_000).count(), 2);
    }

    #[test]
    fn what_was_recorded_is_read_as_it_grows() {
        let (_dir, run) = run();
        let mut recorder = Recorder::new(&run, 1);
        let mut samples = RecordedSamples::default();
        for s in 0..100 {
            let tally = RunProgress { total: 400, completed: s * 4, running: 3, ready: 7, ..RunProgress::default() };
            recorder.vitals(Duration::from_secs(s), Rank(0), &Vitals { node_memory: 7, ..Vitals::default() });
            recorder.take(Duration::from_secs(s), &tally);
            recorder.take(Duration::from_secs(s) + Duration::from_millis(100), &tally);
            samples.read_on(&run.samples());
        }
        assert_eq!(samples.all().len(), 100);
        assert_eq!(samples.last().map(|s| (s.completed, s.queued)), Some((396, 7)));
        assert_eq!(samples.last().map(|s| s.node_memory), Some(7));
        assert!((samples.tasks_per_s() - 4.0).abs() < 1e-6);
        assert!((samples.remaining_s().unwrap() - 1.0).abs() < 1e-6);
        let few = samples.between(10.0, 19.0, 5);
        assert_eq!(few.iter().map(|s| s.completed).collect::<Vec<_>>(), [44, 52, 60, 68, 76]);
        // A resumed run truncates the file.
        Recorder::new(&run, 1).take(Duration::ZERO, &RunProgress::default());
        samples.read_on(&run.samples());
        assert_eq!(samples.all().len(), 1);
    }
}
