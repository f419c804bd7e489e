//! Attempts at staged tasks: their commands start when their files are there, and they end when
//! their outputs are in place.

use std::path::Path;
use std::sync::Arc;

use super::{SimulatedEvent, Simulator};
use crate::job::{Job, Retry};
use crate::model::{Rank, RankRoom, TaskId};
use crate::schedule::locality::ReadFiles;
use crate::schedule::worker::Facts;
use crate::workload::staged_files::StagedFiles;

/// What a rank of a job with staged tasks knows: its node is its own.
pub(super) struct StagedFacts {
    pub(super) job: Arc<Job>,
    pub(super) files: Arc<StagedFiles>,
    pub(super) rank: Rank,
}

impl Facts for StagedFacts {
    fn retry(&self, task: TaskId) -> Retry {
        self.job.retry(task)
    }

    fn movable(&self, task: TaskId) -> bool {
        self.job.movable(task)
    }

    fn needs_gang(&self, task: TaskId, room: RankRoom, ranks: u32) -> bool {
        self.job.needs_gang(task, room, ranks)
    }

    fn data_node(&self) -> Option<u64> {
        self.job.passes_files_between_tasks().then(|| self.rank.0.into())
    }

    fn is_staged(&self, task: TaskId) -> bool {
        self.files.of_task(task).is_some()
    }

    fn reads(&self, task: TaskId) -> Vec<ReadFiles> {
        self.files.reads(task)
    }
}

/// The size of a file on disk.
pub(super) fn bytes_on_disk(path: &Path) -> Option<u64> {
    std::fs::metadata(path).ok().filter(std::fs::Metadata::is_file).map(|file| file.len())
}

impl Simulator<'_> {
    /// Brings the files of an attempt that has begun. False if its command starts at once.
    pub(super) fn stage_in(&mut self, number: usize, took: std::time::Duration) -> bool {
        let Some(staging) = &mut self.staging else { return false };
        let running = &mut self.running[number];
        running.staged = staging.begin(self.now, (Rank(running.rank), running.lease.task), number, took);
        let is_staged = running.staged.is_some();
        self.go_on_staging();
        is_staged
    }

    /// Schedules what has come of a change of what travels.
    pub(super) fn go_on_staging(&mut self) {
        let Some(staging) = &mut self.staging else { return };
        for (at, number) in staging.take_due() {
            self.events_due.schedule(at, SimulatedEvent::Moved(number));
        }
        for (number, took) in staging.take_ready(self.now) {
            if let Some(running) = self.running.get_mut(number) {
                running.ends = self.events_due.schedule(self.now.after(took), SimulatedEvent::Ends(number as u32));
            }
        }
    }

    /// Files have arrived.
    pub(super) fn moved(&mut self, number: u32) {
        self.events += 1;
        if let Some(staging) = &mut self.staging {
            staging.moved(self.now, number);
        }
        self.go_on_staging();
    }

    /// The command of an attempt has ended. True if the attempt ends later, when its outputs are in
    /// place.
    pub(super) fn stage_out(&mut self, number: u32) -> bool {
        let (Some(staging), Some(running)) = (&mut self.staging, self.running.get_mut(number as usize)) else {
            return false;
        };
        let id = running.staged.filter(|_| running.outcome.ok());
        let Some(at) = id.and_then(|id| staging.deliver(self.now, id)) else { return false };
        running.ends = self.events_due.schedule(at, SimulatedEvent::Ends(number));
        true
    }
}
