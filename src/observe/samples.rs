//! How far a run was, moment by moment: one line of JSON a second beside the journal, which only tells what has ended.
//!
//! Rank 0 writes it from the numbers that its progress display shows anyway. A new session begins a new file. It is a convenience for who
//! watches: a run goes on without it, and nothing that is counted or resumed depends on it.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use sysinfo::{CpuRefreshKind, MemoryRefreshKind, RefreshKind, System};

use super::estimate::{Estimator, Tally};
use crate::journal::RunDir;
use crate::scale::Forecast;

/// Time between two samples in the first hour, and later.
const EVERY: [Duration; 2] = [Duration::from_secs(1), Duration::from_secs(10)];
/// The longest line that is believed.
const LINE: usize = 4096;

/// One moment of a run. The names are those of the file and of the HTTP API.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Sample {
    /// Seconds since the session began.
    pub t: f64,
    /// Tasks of the job.
    pub total: u64,
    /// Tasks that ended with success.
    pub completed: u64,
    /// Tasks that ended without.
    pub failed: u64,
    /// Tasks that will never run because of others.
    pub skipped: u64,
    /// Tasks that were stopped.
    pub cancelled: u64,
    /// Tasks that run.
    pub running: u64,
    /// Tasks that only wait for a slot.
    pub queued: u64,
    /// Ranks that take part.
    pub ranks_active: u32,
    /// Estimated work that is done, in seconds.
    pub work_done_s: f64,
    /// Estimated work in all, in seconds.
    pub work_total_s: f64,
    /// Share of the CPUs of rank 0's node that is busy, 0 to 1.
    pub node_cpu: f64,
    /// Memory in use on that node, in bytes.
    pub node_memory_used: u64,
    /// Memory of that node, in bytes.
    pub node_memory: u64,
    /// When the end was foreseen for, as `finish_q10_s` to `cost_q90`; absent where nobody looks ahead.
    #[serde(flatten)]
    pub forecast: Option<Forecast>,
}

impl Sample {
    /// The numbers of a tally.
    fn of(at: Duration, tally: &Tally) -> Sample {
        Sample {
            t: at.as_secs_f64(),
            total: tally.total,
            completed: tally.completed,
            failed: tally.failed,
            skipped: tally.skipped,
            cancelled: tally.cancelled,
            running: tally.running,
            queued: tally.ready,
            ranks_active: tally.ranks_active,
            work_done_s: tally.work_done_s,
            work_total_s: tally.work_total_s,
            forecast: tally.forecast,
            ..Sample::default()
        }
    }

    /// The tally that it was made from.
    pub(super) fn tally(&self) -> Tally {
        Tally {
            total: self.total,
            completed: self.completed,
            failed: self.failed,
            skipped: self.skipped,
            cancelled: self.cancelled,
            running: self.running,
            ready: self.queued,
            work_done_s: self.work_done_s,
            work_total_s: self.work_total_s,
            ranks_active: self.ranks_active,
            forecast: self.forecast,
        }
    }
}

/// Writes the samples of a session.
pub(super) struct Recorder {
    path: PathBuf,
    /// `None` after an error, which was told.
    file: Option<File>,
    next: Duration,
    system: Option<System>,
}

impl Recorder {
    /// Begins the file of a session.
    pub fn new(run: &RunDir) -> Recorder {
        let kinds = RefreshKind::nothing()
            .with_cpu(CpuRefreshKind::nothing().with_usage())
            .with_memory(MemoryRefreshKind::nothing().with_ram());
        let mut recorder = Recorder {
            path: run.samples(),
            file: None,
            next: Duration::ZERO,
            // Without it, the node's load is missing from the samples and nothing else.
            system: System::new_with_specifics(kinds).ok(),
        };
        match File::create(&recorder.path) {
            Ok(file) => recorder.file = Some(file),
            Err(error) => recorder.give_up(&error),
        }
        recorder
    }

    /// Writes a sample if it is time for one.
    pub fn take(&mut self, at: Duration, tally: &Tally) {
        if at >= self.next {
            self.next = at + EVERY[usize::from(at >= Duration::from_secs(3600))];
            self.write(at, tally);
        }
    }

    /// Writes a sample now.
    pub fn write(&mut self, at: Duration, tally: &Tally) {
        let Some(file) = &mut self.file else { return };
        let mut sample = Sample::of(at, tally);
        if let Some(system) = &mut self.system {
            system.refresh_cpu_usage();
            system.refresh_memory_specifics(MemoryRefreshKind::nothing().with_ram());
            sample.node_cpu = f64::from(system.global_cpu_usage()) / 100.0;
            sample.node_memory_used = system.used_memory();
            sample.node_memory = system.total_memory();
        }
        let written = serde_json::to_string(&sample).map_err(std::io::Error::from).and_then(|mut line| {
            line.push('\n');
            file.write_all(line.as_bytes())
        });
        if let Err(error) = written {
            self.give_up(&error);
        }
    }

    fn give_up(&mut self, error: &std::io::Error) {
        tracing::warn!("cannot write {}: {error}; `phalanx top` and the live page will know less", self.path.display());
        self.file = None;
    }
}

/// The samples of a run's last session, as far as they were read.
#[derive(Debug, Default)]
pub struct Samples {
    all: Vec<Sample>,
    at: u64,
    estimator: Estimator,
}

impl Samples {
    /// Reads what has been written since the last time. A file that has become shorter is a new session's.
    pub fn read_on(&mut self, path: &Path) {
        // Runs of programs without samples, and damaged lines, leave less to show and nothing to mend.
        let Ok(mut file) = File::open(path) else { return };
        let length = file.metadata().map_or(0, |meta| meta.len());
        if length < self.at {
            *self = Samples::default();
        }
        let mut bytes = Vec::new();
        if file.seek(SeekFrom::Start(self.at)).and_then(|_| file.read_to_end(&mut bytes)).is_err() {
            return;
        }
        let whole = bytes.iter().rposition(|&byte| byte == b'\n').map_or(0, |at| at + 1);
        self.at += whole as u64;
        for line in bytes[..whole].split(|&byte| byte == b'\n').filter(|line| line.len() < LINE) {
            let Ok(sample) = serde_json::from_slice::<Sample>(line) else { continue };
            if let Ok(at) = Duration::try_from_secs_f64(sample.t) {
                self.estimator.observe(at, &sample.tally());
                self.all.push(sample);
            }
        }
    }

    /// All of them, oldest first.
    pub fn all(&self) -> &[Sample] {
        &self.all
    }

    /// The latest.
    pub fn last(&self) -> Option<&Sample> {
        self.all.last()
    }

    /// Tasks that end in a second, lately.
    pub fn tasks_per_s(&self) -> f64 {
        self.estimator.tasks_per_s()
    }

    /// How long the rest will take, in seconds; `None` before anything has ended.
    pub fn remaining_s(&self) -> Option<f64> {
        self.estimator.remaining().map(|left| left.as_secs_f64())
    }

    /// Means of the samples from `from` to `to` seconds in at most `points` equal stretches; counts that only grow are the last of each.
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
    use super::*;

    fn run() -> (tempfile::TempDir, RunDir) {
        let dir = tempfile::tempdir().unwrap();
        let run = RunDir::create(dir.path(), "job").unwrap();
        (dir, run)
    }

    #[test]
    fn what_was_recorded_is_read_as_it_grows() {
        let (_dir, run) = run();
        let mut recorder = Recorder::new(&run);
        let mut samples = Samples::default();
        for s in 0..100 {
            let tally = Tally { total: 400, completed: s * 4, running: 3, ready: 7, ..Tally::default() };
            recorder.take(Duration::from_secs(s), &tally);
            recorder.take(Duration::from_secs(s) + Duration::from_millis(100), &tally);
            samples.read_on(&run.samples());
        }
        assert_eq!(samples.all().len(), 100);
        assert_eq!(samples.last().map(|s| (s.completed, s.queued)), Some((396, 7)));
        assert!((samples.tasks_per_s() - 4.0).abs() < 1e-6);
        assert!((samples.remaining_s().unwrap() - 1.0).abs() < 1e-6);
        let few = samples.between(10.0, 19.0, 5);
        assert_eq!(few.iter().map(|s| s.completed).collect::<Vec<_>>(), [44, 52, 60, 68, 76]);
        assert!(samples.last().unwrap().node_memory > 0);
        // A resumed run begins anew.
        Recorder::new(&run).take(Duration::ZERO, &Tally::default());
        samples.read_on(&run.samples());
        assert_eq!(samples.all().len(), 1);
    }

    #[test]
    fn damaged_lines_are_passed_over() {
        let (_dir, run) = run();
        Recorder::new(&run).take(Duration::ZERO, &Tally::default());
        let good = std::fs::read_to_string(run.samples()).unwrap();
        let long = "x".repeat(LINE);
        std::fs::write(run.samples(), format!("{{}}\nnonsense\n{long}\n{good}{}", &good[..20])).unwrap();
        let mut samples = Samples::default();
        samples.read_on(&run.samples());
        assert_eq!(samples.all().len(), 1);
    }
}
