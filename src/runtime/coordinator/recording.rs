//! What rank 0 records of a run: the journal, the progress, and the history of the job.

use std::sync::Arc;
use std::sync::mpsc::Receiver;
use std::time::Duration;

use super::run_history::HistoryRecorder;
use crate::capacity::SiteId;
use crate::job::Job;
use crate::journal::{AsyncJournal, Ended, JournalError, Level, Note, Record};
use crate::model::{Attempt, Measure, Rank, TaskId, Time, Vitals};
use crate::observe::progress::Progress;
use crate::observe::{PoolSample, RunProgress};
use crate::schedule::coordinator::Coordinator;
use crate::workload::TaskEstimates;

/// The records of a run under way.
pub(super) struct Recording {
    journal: AsyncJournal,
    /// The first failure of the journal.
    failure: Option<JournalError>,
    progress: Progress,
    history: HistoryRecorder,
    /// Alerts that the watcher raised, to be noted in the journal.
    alerts: Option<Receiver<String>>,
    job: Arc<Job>,
    estimates: Arc<TaskEstimates>,
    /// Estimated work of all tasks, in seconds.
    work_total_s: f64,
    /// Estimated work of the tasks that have ended, in seconds.
    work_done_s: f64,
}

impl Recording {
    /// The records of a run whose coordinator has not begun.
    pub(super) fn new(
        journal: AsyncJournal,
        progress: Progress,
        history: HistoryRecorder,
        alerts: Option<Receiver<String>>,
        (job, estimates): (Arc<Job>, Arc<TaskEstimates>),
        coordinator: &Coordinator,
    ) -> Recording {
        let (mut work_total_s, mut work_done_s) = (0.0, 0.0);
        for task in (0..job.task_count() as u32).map(TaskId) {
            let seconds = estimates.ns(job.group_of(task)) as f64 / 1e9;
            work_total_s += seconds;
            if coordinator.final_state(task).is_some() {
                work_done_s += seconds;
            }
        }
        Recording { journal, failure: None, progress, history, alerts, job, estimates, work_total_s, work_done_s }
    }

    /// Appends a record to the journal; a failure shows at the next [check](Recording::check).
    pub(super) fn record(&self, record: Record) {
        self.journal.append(record);
    }

    /// Notifies the user, and writes to the journal.
    pub(super) fn note(&self, now: Time, level: Level, text: &str) {
        match level {
            Level::Info => tracing::info!("{text}"),
            Level::Warning => tracing::warn!("{text}"),
            Level::Error => tracing::error!("{text}"),
        }
        self.record(Record::Note(Note { time: now, level, text: text.to_owned() }));
    }

    /// Notes the alerts that were raised since the last call.
    pub(super) fn note_alerts(&self, now: Time) {
        for text in self.alerts.iter().flat_map(Receiver::try_iter) {
            self.note(now, Level::Warning, &text);
        }
    }

    /// The run has more tasks.
    pub(super) fn grow(&mut self, job: Arc<Job>, estimates: Arc<TaskEstimates>) {
        for task in (self.job.task_count() as u32..job.task_count() as u32).map(TaskId) {
            self.work_total_s += estimates.ns(job.group_of(task)) as f64 / 1e9;
        }
        self.history.grow(&job);
        (self.job, self.estimates) = (job, estimates);
    }

    /// Records attempts that have ended.
    pub(super) fn attempts_ended(&mut self, attempts: Vec<Attempt>) {
        for attempt in &attempts {
            let place = self.job.group_of(attempt.task);
            let estimate = self.estimates.ns(place);
            if attempt.last {
                self.work_done_s += estimate as f64 / 1e9;
            }
            self.history.attempt_ended(attempt, place.0, estimate);
        }
        self.record(Record::Attempts(attempts));
    }

    /// Records how long a requested node took to join.
    pub(super) fn node_arrived(&mut self, site: SiteId, delay: Duration) {
        self.history.node_arrived(site, delay);
    }

    /// Records what a rank and its node use.
    pub(super) fn usage(&mut self, now: Time, rank: Rank, vitals: &Vitals) {
        self.progress.vitals(now.since(Time::ZERO), rank, vitals);
    }

    /// Records values that tasks wrote.
    pub(super) fn measured(&mut self, now: Time, measures: &[Measure]) {
        self.progress.measured(now.since(Time::ZERO), measures);
    }

    /// Records what pools have in use.
    pub(super) fn pools(&mut self, pools: Vec<PoolSample>) {
        self.progress.pools(pools);
    }

    /// Shows the progress.
    pub(super) fn show(&mut self, now: Time, tally: RunProgress) {
        let tally = self.with_work(tally);
        self.progress.update(now.since(Time::ZERO), &tally);
    }

    fn with_work(&self, tally: RunProgress) -> RunProgress {
        RunProgress { work_done_s: self.work_done_s, work_total_s: self.work_total_s, ..tally }
    }

    /// The first failure of the journal since the last call, in words. Nothing that ends from then
    /// on is remembered, so the run should stop.
    pub(super) fn check(&mut self) -> Option<String> {
        self.keep_failure(self.journal.check())
    }

    fn keep_failure(&mut self, result: Result<(), JournalError>) -> Option<String> {
        let error = result.err()?;
        let text = error.to_string();
        tracing::error!("{text}; the run stops, since what ends from now on cannot be recorded");
        self.failure.get_or_insert(error);
        Some(text)
    }

    /// Writes how the run ended and waits until that is on disk. Returns the exit code: no run is
    /// complete unless its journal says so.
    pub(super) fn conclude(&mut self, ended: Ended, tally: RunProgress) -> i32 {
        let (now, exit_code) = (ended.time, ended.exit_code);
        self.journal.append_now(Record::Ended(ended));
        self.check();
        let tally = self.with_work(tally);
        self.progress.finish(now.since(Time::ZERO), &tally);
        if self.failure.is_some() { 1 } else { exit_code }
    }

    /// Adds the run to the history of its job, and closes the journal.
    ///
    /// # Errors
    /// The first failure of the journal in the whole run.
    pub(super) fn close(mut self, now: Time, complete: bool) -> Result<(), JournalError> {
        self.note_alerts(now);
        let unusual = self.history.close(now, complete);
        if !unusual.is_empty() {
            self.record(Record::Unusual(unusual));
        }
        let closed = self.journal.close();
        self.failure.map_or(closed, Err)
    }
}
