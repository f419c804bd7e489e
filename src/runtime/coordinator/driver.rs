//! Rank 0's half of the engine: the coordinator with its journal, progress and reasons to stop.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::mpsc::Receiver;
use std::time::Duration;

use super::autoscaler::Autoscaler;
use super::join_listener::JoinListener;
use super::provisioner::Provisioner;
use super::run_history::HistoryRecorder;
use super::walltime::Walltime;
use crate::capacity::BlockId;
use crate::control::Server;
use crate::fabric::mpi;
use crate::job::Job;
use crate::journal::{Clerk, EndReason, Ended, JournalError, Level, Note, RankInfo, Record};
use crate::model::{Rank, TaskId, Time};
use crate::observe::RunProgress as Shown;
use crate::observe::progress::Progress;
use crate::scale::Forecast;
use crate::schedule::coordinator::{Action, Coordinator, Event, Hope, Why};
use crate::schedule::protocol::{Message, Stop};
use crate::workload::TaskEstimates;

/// How often progress is shown, the journal is asked how it fares and the allocation's end is thought of.
const TICK: Duration = Duration::from_millis(100);

/// An `mpirun` that is to end sends its ranks SIGTERM and kills them a second later: tasks that outlived them would be nobody's.
const LAUNCHERS_PATIENCE: Duration = Duration::from_millis(400);

/// At the end of the budget tasks have so long between TERM and KILL; the scaling core keeps more than that in reserve.
const BUDGETS_PATIENCE: Duration = Duration::from_millis(800);

/// See the module's text.
pub(crate) struct CoordinatorDriver {
    pub(super) coordinator: Coordinator,
    journal: Clerk,
    /// The first failure of the journal.
    journal_failure: Option<JournalError>,
    progress: Progress,
    pub(super) walltime: Option<Walltime>,
    /// Who looks after ranks and spending, if anybody must.
    pub(super) autoscaler: Option<Autoscaler>,
    /// What this run leaves for later ones.
    pub(super) recorder: Option<HistoryRecorder>,
    /// Who lets ranks in, if any may join.
    pub(super) listener: Option<JoinListener>,
    /// Where further nodes come from, if they do.
    pub(super) provisioner: Option<Provisioner>,
    /// Blocks whose time is nearly up, with the number that the next rank would have had when they were last asked to leave.
    pub(super) expiring: BTreeMap<BlockId, Rank>,
    /// Where people ask.
    server: Option<Server>,
    /// What is to be noted of alerts.
    alerts: Option<Receiver<String>>,
    /// What is being run.
    pub(super) job: Arc<Job>,
    /// The ranks that were there from the start.
    pub(super) infos: Vec<RankInfo>,
    estimates: Arc<TaskEstimates>,
    work_total_s: f64,
    work_done_s: f64,
    ranks: u32,
    /// Whether an `mpirun` started this process.
    launched: bool,
    next_tick: Time,
    interrupts: u32,
    /// When a stop turns into a harder one.
    pub(super) harder: Option<(Time, Stop)>,
    pub(super) finished: Option<Why>,
    /// The budget is spent.
    pub(super) spent: bool,
}

impl CoordinatorDriver {
    pub(super) fn new(
        coordinator: Coordinator,
        journal: Clerk,
        progress: Progress,
        walltime: Option<Walltime>,
        (job, estimates): (Arc<Job>, Arc<TaskEstimates>),
        ranks: u32,
    ) -> CoordinatorDriver {
        let total = coordinator.tally().total;
        let (mut work_total_s, mut work_done_s) = (0.0, 0.0);
        for task in (0..total).map(TaskId) {
            let seconds = estimates.ns(job.group_of(task)) as f64 / 1e9;
            work_total_s += seconds;
            if coordinator.final_state(task).is_some() {
                work_done_s += seconds;
            }
        }
        CoordinatorDriver {
            work_total_s,
            work_done_s,
            coordinator,
            journal,
            journal_failure: None,
            progress,
            walltime,
            job,
            estimates,
            ranks,
            autoscaler: None,
            recorder: None,
            listener: None,
            provisioner: None,
            expiring: BTreeMap::new(),
            server: None,
            alerts: None,
            infos: Vec::new(),
            launched: mpi::launched(),
            next_tick: Time::ZERO,
            interrupts: 0,
            harder: None,
            finished: None,
            spent: false,
        }
    }

    /// Lets somebody look after ranks and spending.
    pub(super) fn set_autoscaler(&mut self, autoscaler: Option<Autoscaler>) {
        self.autoscaler = autoscaler;
    }

    /// Lets this run be remembered.
    pub(super) fn set_recorder(&mut self, recorder: HistoryRecorder) {
        self.recorder = Some(recorder);
    }

    /// Lets ranks join, and asks for them where there is a provisioner.
    pub(super) fn set_listener(&mut self, listener: JoinListener, provisioner: Option<Provisioner>) {
        (self.listener, self.provisioner) = (Some(listener), provisioner);
    }

    /// Answers requests on this socket about the run on these ranks.
    pub(super) fn set_server(&mut self, server: Option<Server>, infos: Vec<RankInfo>) {
        (self.server, self.infos) = (server, infos);
    }

    /// Notes what comes out here.
    pub(super) fn set_alerts(&mut self, alerts: Option<Receiver<String>>) {
        self.alerts = alerts;
    }

    fn note_alerts(&mut self, now: Time) {
        while let Some(text) = self.alerts.as_ref().and_then(|alerts| alerts.try_recv().ok()) {
            self.tell(now, Level::Warning, &text);
        }
    }

    /// Begins the run.
    pub(super) fn begin(&mut self, now: Time) -> Vec<(Rank, Message)> {
        let mut actions = Vec::new();
        self.coordinator.begin(&mut actions);
        if self.infos.iter().all(|info| info.slots == 0) {
            // Their homes are those of nobody.
            let hope = Hope { askable: self.provisioner.is_some(), coming: 0, most: 1 };
            self.coordinator.step(now, Event::Hope(hope), &mut actions);
            self.coordinator.step(now, Event::Rebalance, &mut actions);
        }
        self.carry_out(now, actions)
    }

    pub(crate) fn next_tick(&self) -> Time {
        self.coordinator.next_tick().map_or(self.next_tick, |due| due.min(self.next_tick))
    }

    /// Takes a message for the coordinator; returns what it answers.
    pub(crate) fn on_message(&mut self, now: Time, from: Rank, message: Message) -> Vec<(Rank, Message)> {
        let message = match message {
            Message::Vitals(vitals) => {
                self.progress.vitals(now.since(Time::ZERO), from, &vitals);
                if let Some(autoscaler) = &mut self.autoscaler {
                    autoscaler.uses(from, &vitals);
                }
                return Vec::new();
            }
            Message::Measured { measures } => {
                self.progress.measured(now.since(Time::ZERO), &measures);
                if let Some(autoscaler) = &mut self.autoscaler {
                    autoscaler.measured(&measures);
                }
                return Vec::new();
            }
            Message::Reasons { reasons } => {
                self.record(Record::Reasons(reasons));
                return self.check_journal(now);
            }
            message => message,
        };
        if let Some(steps) = self.listener.as_mut().and_then(|listener| listener.on_message(from, &message)) {
            return self.follow(now, steps);
        }
        let mut actions = Vec::new();
        self.coordinator.step(now, Event::Message { from, message }, &mut actions);
        self.carry_out(now, actions)
    }

    /// Time passed: shows progress, hears how the journal fares, stops before the allocation ends.
    pub(crate) fn tick(&mut self, now: Time) -> Vec<(Rank, Message)> {
        self.next_tick = now.after(TICK);
        self.progress.update(now.since(Time::ZERO), &self.shown());
        let failed = self.check_journal(now);
        if !failed.is_empty() {
            return failed;
        }
        if let Some((_, how)) = self.harder.take_if(|(due, _)| *due <= now) {
            if how == Stop::Terminate && self.spent {
                // What does not heed a TERM must not cost more than may be spent.
                self.harder = Some((now.after(BUDGETS_PATIENCE), Stop::Kill));
            }
            return self.stop(now, how, Why::Walltime);
        }
        self.note_alerts(now);
        let mut messages = self.happens(now, [Event::Tick]);
        messages.extend(self.admit(now));
        messages.extend(self.steer(now));
        messages.extend(self.give_back_sick(now));
        messages.extend(self.hope(now));
        while let Some(call) = self.server.as_ref().and_then(Server::next) {
            messages.extend(self.command(now, call));
        }
        if let Some(how) = self.walltime.as_mut().and_then(|walltime| walltime.due()) {
            self.tell(now, Level::Warning, "the allocation ends soon: no further task is started");
            messages.extend(self.stop(now, how, Why::Walltime));
        }
        messages
    }

    /// Lets the coordinator see to events.
    pub(super) fn happens(&mut self, now: Time, events: impl IntoIterator<Item = Event>) -> Vec<(Rank, Message)> {
        let mut actions = Vec::new();
        events.into_iter().for_each(|event| self.coordinator.step(now, event, &mut actions));
        self.carry_out(now, actions)
    }

    /// A signal came: SIGINT waits for what runs, then stops it, then kills it; the others mean that the end is near.
    pub(crate) fn signal(&mut self, now: Time, signal: i32) -> Vec<(Rank, Message)> {
        let running = self.coordinator.tally().running;
        if signal == libc::SIGINT {
            self.interrupts += 1;
            let (how, text) = match self.interrupts {
                1 => (
                    Stop::Drain,
                    format!("interrupted: waiting for {running} running tasks; interrupt again to stop them"),
                ),
                2 => (Stop::Terminate, format!("stopping {running} running tasks; interrupt again to kill them")),
                _ => (Stop::Kill, format!("killing {running} running tasks")),
            };
            self.tell(now, Level::Warning, &text);
            return self.stop(now, how, Why::Signal(signal));
        }
        let how = match signal {
            libc::SIGUSR1 => Stop::Drain,
            _ => Stop::Terminate,
        };
        let harder = match how {
            Stop::Drain if self.walltime.is_none() => Some((now.after(Walltime::PATIENCE), Stop::Terminate)),
            Stop::Terminate if self.launched => Some((now.after(LAUNCHERS_PATIENCE), Stop::Kill)),
            _ => None,
        };
        // The budget's end stays where it is.
        self.harder = self.harder.into_iter().chain(harder).min_by_key(|(due, _)| *due);
        let name = match signal {
            libc::SIGUSR1 => "SIGUSR1",
            libc::SIGHUP => "SIGHUP",
            _ => "SIGTERM",
        };
        self.tell(
            now,
            Level::Warning,
            &format!("{name}: the end is near, no further task is started ({running} running)"),
        );
        self.stop(now, how, Why::Walltime)
    }

    /// Writes how the run ended and waits until that is on disk, before anything that may take
    /// long. Returns the exit code: no run is complete whose journal does not say so.
    pub(super) fn conclude(&mut self, now: Time) -> i32 {
        let ended = match &self.finished {
            Some(why) => Ended::of(now, why, &self.coordinator.tally()),
            None => {
                Ended::of(now, &Why::Broken("the coordinator did not finish".to_owned()), &self.coordinator.tally())
            }
        };
        let exit_code = ended.exit_code;
        self.journal.append_now(Record::Ended(ended));
        self.note_failure(self.journal.check());
        self.progress.finish(now.since(Time::ZERO), &self.shown());
        if self.journal_failure.is_some() { 1 } else { exit_code }
    }

    /// Gives back what the run holds, notes that behind the run's end, and closes the journal.
    ///
    /// # Errors
    /// What the journal could not be told, at any time of the run.
    pub(super) fn close(mut self, now: Time) -> Result<(), JournalError> {
        // What is left of other ranks' ends comes with the last news of their links.
        self.admit(now);
        if let Some(provisioner) = &mut self.provisioner {
            let notes = provisioner.close(now);
            notes.into_iter().for_each(|(level, text)| self.tell(now, level, &text));
            self.record_blocks(now);
        }
        self.server = None;
        self.note_alerts(now);
        let tally = self.coordinator.tally();
        let complete =
            self.finished.as_ref().is_some_and(|why| Ended::of(now, why, &tally).reason == EndReason::Complete);
        if let Some(recorder) = &mut self.recorder {
            let unusual = recorder.close(now, complete);
            if !unusual.is_empty() {
                self.record(Record::Unusual(unusual));
            }
        }
        let closed = self.journal.close();
        self.journal_failure.map_or(closed, Err)
    }

    pub(super) fn stop(&mut self, now: Time, how: Stop, why: Why) -> Vec<(Rank, Message)> {
        let mut actions = Vec::new();
        self.coordinator.step(now, Event::Stop { how, why }, &mut actions);
        self.carry_out(now, actions)
    }

    pub(super) fn carry_out(&mut self, now: Time, actions: Vec<Action>) -> Vec<(Rank, Message)> {
        let mut messages = Vec::new();
        for action in actions {
            match action {
                Action::Send { to, message } => messages.push((to, message)),
                Action::Journal(attempts) => {
                    if let Some(autoscaler) = &mut self.autoscaler {
                        autoscaler.hears(&attempts);
                    }
                    for attempt in &attempts {
                        let place = self.job.group_of(attempt.task);
                        let estimate = self.estimates.ns(place);
                        if attempt.last {
                            self.work_done_s += estimate as f64 / 1e9;
                        }
                        if let Some(recorder) = &mut self.recorder {
                            recorder.ended(attempt, place.0, estimate);
                        }
                    }
                    self.record(Record::Attempts(attempts));
                }
                Action::Tell(text) => self.tell(now, Level::Error, &text),
                Action::Note(text) => self.tell(now, Level::Warning, &text),
                Action::Finished(why) => self.finished = Some(why),
            }
        }
        messages.extend(self.check_journal(now));
        messages
    }

    /// Appends a record to the journal; a failure stops the run at the next check.
    pub(super) fn record(&self, record: Record) {
        self.journal.append(record);
    }

    /// Stops the run once its journal has failed: nothing that ends from then on is remembered, and
    /// going on would only waste the allocation.
    fn check_journal(&mut self, now: Time) -> Vec<(Rank, Message)> {
        match self.note_failure(self.journal.check()) {
            Some(error) => self.stop(now, Stop::Terminate, Why::Broken(error)),
            None => Vec::new(),
        }
    }

    /// Keeps and shows the first failure of the journal; returns it in words.
    fn note_failure(&mut self, result: Result<(), JournalError>) -> Option<String> {
        let error = result.err()?;
        let text = error.to_string();
        tracing::error!("{text}; the run stops, since what ends from now on cannot be recorded");
        self.journal_failure.get_or_insert(error);
        Some(text)
    }

    pub(super) fn tell(&mut self, now: Time, level: Level, text: &str) {
        match level {
            Level::Info => tracing::info!("{text}"),
            Level::Warning => tracing::warn!("{text}"),
            Level::Error => tracing::error!("{text}"),
        }
        self.record(Record::Note(Note { time: now, level, text: text.to_owned() }));
    }

    /// When the end was last foreseen for, if anybody looks ahead.
    pub(super) fn forecast(&self) -> Option<Forecast> {
        self.autoscaler.as_ref().and_then(|autoscaler| autoscaler.forecast)
    }

    fn shown(&self) -> Shown {
        let tally = self.coordinator.tally();
        Shown {
            total: tally.total.into(),
            completed: tally.completed.into(),
            failed: tally.failed.into(),
            skipped: tally.skipped.into(),
            cancelled: tally.cancelled.into(),
            running: tally.running.into(),
            ready: tally.ready.into(),
            work_done_s: self.work_done_s,
            work_total_s: self.work_total_s,
            ranks_active: self.ranks + self.joined_active(),
            forecast: self.forecast(),
        }
    }
}
