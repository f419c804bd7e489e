//! Rank 0's part of the engine: drives the coordinator with messages, timers and signals.
//!
//! The coordinator decides about tasks and ranks. The driver delivers events to it, carries out its
//! actions, and owns the parts that concern the outside: the records of the run, the nodes, and the
//! limits that end a run early.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::additions::Additions;
use super::autoscaler::Autoscaler;
use super::join_listener::JoinListener;
use super::limits::Limits;
use super::provisioner::Provisioner;
use super::recording::Recording;
use crate::capacity::NodeTable;
use crate::control::Server;
use crate::exec::{Kernels, held_name};
use crate::job::Job;
use crate::journal::{EndReason, Ended, JournalError, Level, Record};
use crate::model::{Rank, RankState, SlotsNow, State, TaskId, Time};
use crate::observe::RunProgress;
use crate::scale::Forecast;
use crate::schedule::coordinator::{Coordinator, CoordinatorAction, CoordinatorEvent, StopReason};
use crate::schedule::protocol::{Message, Stop};
use crate::schedule::transfers::Transfers;
use crate::system::ulfm::RankLoss;
use crate::workload::walltime::LongestTask;
use crate::workload::{Temporaries, TemporaryFile};

/// Interval of the driver's periodic work: progress, journal, nodes, decisions, commands, limits.
const TICK_INTERVAL: Duration = Duration::from_millis(100);

/// Messages to be sent.
pub(super) type Messages = Vec<(Rank, Message)>;

/// Which session of which run this is.
pub(super) struct SessionIdentity {
    /// Name of the run.
    pub(super) name: String,
    /// Number of the session, from 1.
    pub(super) session: u32,
    /// What earlier sessions cost.
    pub(super) earlier_cost: f64,
}

/// Drives the coordinator of a run.
pub(crate) struct CoordinatorDriver {
    pub(super) identity: SessionIdentity,
    pub(super) coordinator: Coordinator,
    pub(super) job: Arc<Job>,
    pub(super) nodes: NodeTable,
    pub(super) recording: Recording,
    /// The slots of ranks where their number changes, as last reported.
    pub(super) slots: BTreeMap<Rank, SlotsNow>,
    pub(super) additions: Additions,
    pub(super) limits: Limits,
    /// How long tasks take.
    longest: LongestTask,
    /// Temporary files, and who still reads them.
    pub(super) temporaries: Temporaries,
    /// For each task whether this session leaves it out; empty if none is.
    left_out: Arc<[bool]>,
    /// Files on their way between ranks.
    pub(super) transfers: Transfers,
    /// Ranks that leave when they have sent what others are receiving, at the latest then.
    pub(super) leaving: BTreeMap<Rank, Time>,
    /// Decides about ranks and spending, or forecasts the end, if the job asks for either.
    pub(super) autoscaler: Option<Autoscaler>,
    /// Admits ranks, if any can join.
    pub(super) listener: Option<JoinListener>,
    /// Requests further nodes, if there is a provider.
    pub(super) provisioner: Option<Provisioner>,
    /// The control socket.
    server: Option<Server>,
    next_tick: Time,
    /// Some tasks had no rank that can run them when the run began.
    pub(super) has_unplaced: bool,
    /// Why the run is over, once it is.
    pub(super) finished: Option<StopReason>,
}

impl CoordinatorDriver {
    /// The driver of a run that has not started; no rank can join it.
    pub(super) fn new(
        identity: SessionIdentity,
        coordinator: Coordinator,
        job: Arc<Job>,
        nodes: NodeTable,
        recording: Recording,
        autoscaler: Option<Autoscaler>,
        (server, kernels): (Option<Server>, Kernels),
    ) -> CoordinatorDriver {
        CoordinatorDriver {
            longest: LongestTask::of(&job),
            temporaries: Temporaries::of(&job),
            left_out: Arc::default(),
            transfers: Transfers::default(),
            leaving: BTreeMap::new(),
            identity,
            coordinator,
            job,
            nodes,
            recording,
            slots: BTreeMap::new(),
            additions: Additions::new(kernels),
            limits: Limits::from_environment(),
            autoscaler,
            listener: None,
            provisioner: None,
            server,
            next_tick: Time::ZERO,
            has_unplaced: false,
            finished: None,
        }
    }

    /// Lets ranks join, and requests nodes if there is a provisioner.
    pub(super) fn with_joining(self, listener: JoinListener, provisioner: Option<Provisioner>) -> CoordinatorDriver {
        CoordinatorDriver { listener: Some(listener), provisioner, ..self }
    }

    /// Leaves tasks out: the coordinator takes them for ended, but what they read is still needed.
    pub(super) fn with_left_out(self, left_out: Arc<[bool]>) -> CoordinatorDriver {
        CoordinatorDriver { left_out, ..self }
    }

    /// Begins the run.
    pub(super) fn begin(&mut self, now: Time) -> Messages {
        // Files whose readers have all completed in earlier sessions.
        let is_out = |task: &TaskId| self.left_out.get(task.index()) == Some(&true);
        let is_kept = |task: &TaskId| self.coordinator.final_state(*task) == Some(State::Completed) && !is_out(task);
        let tasks = if self.temporaries.is_empty() { 0 } else { self.job.task_count() as u32 };
        let kept: Vec<TaskId> = (0..tasks).map(TaskId).filter(is_kept).collect();
        let mut messages = self.discard(kept.into_iter());
        let mut actions = Vec::new();
        self.coordinator.begin(&mut actions);
        // An MPI task that needs further ranks may be ready at once.
        let state = self.provisioning();
        self.coordinator.step(now, CoordinatorEvent::Provisioning(state), &mut actions);
        if self.has_unplaced {
            // No rank can run some of the tasks yet.
            self.coordinator.step(now, CoordinatorEvent::Rebalance, &mut actions);
        }
        messages.extend(self.carry_out(now, actions));
        messages
    }

    /// When [`tick`](CoordinatorDriver::tick) is due.
    pub(crate) fn next_tick(&self) -> Time {
        self.coordinator.next_tick().map_or(self.next_tick, |due| due.min(self.next_tick))
    }

    /// Handles a message for the coordinator; returns the answers.
    pub(crate) fn on_message(&mut self, now: Time, from: Rank, message: Message) -> Messages {
        match message {
            Message::Vitals(vitals) => {
                self.recording.usage(now, from, &vitals);
                self.slots.extend(vitals.slots.map(|slots| (from, slots)));
                self.autoscaler.iter_mut().for_each(|autoscaler| autoscaler.update_usage(from, &vitals));
                return Messages::new();
            }
            Message::Measured { measures } => {
                self.recording.measured(now, &measures);
                self.autoscaler.iter_mut().for_each(|autoscaler| autoscaler.update_measures(&measures));
                return Messages::new();
            }
            Message::Offer { task, attempt, text } => {
                let mut messages = self.offer(now, from, task, attempt, text);
                messages.extend(self.check_journal(now));
                return messages;
            }
            Message::Files { id, message } => return self.on_file_message(now, (from, id), message),
            Message::Reasons { reasons } => {
                self.recording.record(Record::Reasons(reasons));
                return self.check_journal(now);
            }
            _ => {}
        }
        let listener = self.listener.as_mut();
        if let Some(effects) = listener.and_then(|l| l.on_message(now, from, &message, &mut self.nodes)) {
            return self.apply(now, effects);
        }
        self.step(now, [CoordinatorEvent::Message { from, message }])
    }

    /// The periodic work.
    pub(crate) fn tick(&mut self, now: Time) -> Messages {
        self.next_tick = now.after(TICK_INTERVAL);
        self.recording.pools(self.pool_samples(now));
        self.recording.show(now, self.tally());
        let failed = self.check_journal(now);
        if !failed.is_empty() {
            return failed;
        }
        if let Some(how) = self.limits.escalation_due(now) {
            return self.stop(now, how, StopReason::Walltime);
        }
        self.recording.note_alerts(now);
        let mut messages = self.step(now, [CoordinatorEvent::Tick]);
        messages.extend(self.poll_nodes(now));
        messages.extend(self.run_autoscaler(now));
        messages.extend(self.drain_quarantined(now));
        messages.extend(self.provide_for_waiting_tasks(now));
        while let Some(call) = self.server.as_ref().and_then(Server::next) {
            messages.extend(self.answer(now, call));
        }
        let task = self.longest_task(now);
        if let Some(how) = self.limits.walltime_due(task) {
            self.recording.note(now, Level::Warning, "the allocation ends soon: no further task is started");
            messages.extend(self.stop(now, how, StopReason::Walltime));
        }
        messages
    }

    /// How long tasks take at most, those that run now included; `None` if nothing is known.
    pub(super) fn longest_task(&self, now: Time) -> Option<Duration> {
        let running = self.coordinator.running().map(|(_, started)| now.since(started.start));
        self.longest.with(running.max().unwrap_or_default())
    }

    /// Delivers events to the coordinator and carries out its actions.
    pub(super) fn step(&mut self, now: Time, events: impl IntoIterator<Item = CoordinatorEvent>) -> Messages {
        let mut actions = Vec::new();
        events.into_iter().for_each(|event| self.coordinator.step(now, event, &mut actions));
        self.carry_out(now, actions)
    }

    /// Handles a signal; `ended` are the ranks of this world and node whose processes had ended
    /// then.
    pub(crate) fn on_signal(&mut self, now: Time, signal: i32, ended: &[Rank]) -> Messages {
        let request = self.limits.on_signal(now, signal, self.coordinator.tally().running);
        self.recording.note(now, Level::Warning, &request.text);
        let is_new = |rank: &&Rank| !self.coordinator.standing(**rank).is_some_and(RankState::is_gone);
        if let Some(rank) = ended.iter().find(is_new) {
            let text = format!("the process of {rank} has ended; here a lost rank {}", RankLoss::here().text());
            self.recording.note(now, Level::Error, &text);
        }
        self.stop(now, request.how, request.why)
    }

    /// Stops the run.
    pub(super) fn stop(&mut self, now: Time, how: Stop, why: StopReason) -> Messages {
        self.step(now, [CoordinatorEvent::Stop { how, why }])
    }

    pub(super) fn carry_out(&mut self, now: Time, actions: Vec<CoordinatorAction>) -> Messages {
        let mut messages = Messages::new();
        for action in actions {
            match action {
                CoordinatorAction::Send { to, message } => {
                    if matches!(message, Message::HandOut(_)) {
                        messages.extend(self.additions.unsent(to).map(|added| (to, added)));
                    }
                    let has_left = message == Message::Finish && self.coordinator.standing(to) == Some(RankState::Left);
                    match has_left {
                        true => messages.extend(self.let_leave(now, to)),
                        false => messages.push((to, message)),
                    }
                }
                CoordinatorAction::Offered { task, counts } => messages.extend(self.settle_offer(now, task, counts)),
                CoordinatorAction::Journal(attempts) => {
                    let completed = attempts.iter().filter(|attempt| attempt.last && attempt.outcome.ok());
                    messages.extend(self.discard(completed.map(|attempt| attempt.task)));
                    self.autoscaler.iter_mut().for_each(|autoscaler| autoscaler.attempts_ended(&attempts));
                    for attempt in attempts.iter().filter(|attempt| attempt.attempt > 0) {
                        let (took, state) = (attempt.end.since(attempt.start), attempt.outcome.state);
                        if state == State::Completed {
                            self.longest.observe(took);
                        }
                        self.nodes.attempt_ended(attempt.rank, took, state.is_failure());
                    }
                    self.recording.attempts_ended(attempts);
                }
                CoordinatorAction::Error(text) => self.recording.note(now, Level::Error, &text),
                CoordinatorAction::Warning(text) => self.recording.note(now, Level::Warning, &text),
                CoordinatorAction::Finished(why) => self.finished = Some(why),
            }
        }
        messages.extend(self.finish_leaving(now));
        messages.extend(self.grow_if_due(now));
        messages.extend(self.check_journal(now));
        messages
    }

    /// These tasks have completed: lets ranks remove the temporary files that no task reads any
    /// more.
    fn discard(&mut self, completed: impl Iterator<Item = TaskId>) -> Messages {
        if self.temporaries.is_empty() {
            return Messages::new();
        }
        let files = completed.flat_map(|task| self.temporaries.done(task)).collect();
        self.discard_files(files)
    }

    /// Lets ranks remove temporary files.
    pub(super) fn discard_files(&mut self, files: Vec<TemporaryFile>) -> Messages {
        for (task, number) in &files {
            let task = self.job.task(*task).ok();
            let name = task.and_then(|task| Some(held_name(&task, task.temporary.get(*number as usize)?)));
            name.iter().for_each(|name| self.transfers.discard(name));
        }
        let ranks = self.coordinator.ranks_here().filter(|_| !files.is_empty());
        ranks.map(|rank| (rank, Message::Discard { files: files.clone() })).collect()
    }

    /// Stops the run once its journal has failed: continuing would only waste the allocation.
    fn check_journal(&mut self, now: Time) -> Messages {
        match self.recording.check() {
            Some(error) => self.stop(now, Stop::Terminate, StopReason::Broken(error)),
            None => Messages::new(),
        }
    }

    /// Writes how the run ended and waits until that is on disk, before anything that may take
    /// long. Returns the exit code.
    pub(super) fn conclude(&mut self, now: Time) -> i32 {
        let pools = self.pool_totals(now);
        if !pools.is_empty() {
            self.recording.record(Record::Pools(pools));
        }
        let ended = match &self.finished {
            Some(why) => self.ended(now, why),
            None => self.ended(now, &StopReason::Broken("the coordinator did not finish".to_owned())),
        };
        self.recording.conclude(ended, self.tally())
    }

    fn ended(&self, now: Time, why: &StopReason) -> Ended {
        Ended::of(now, why, &self.coordinator.tally())
    }

    /// Gives back the nodes of the run, records that behind the run's end, and closes the journal.
    ///
    /// # Errors
    /// The first failure of the journal in the whole run.
    pub(super) fn close(mut self, now: Time) -> Result<(), JournalError> {
        // The last events of the links show which ranks have left.
        self.poll_nodes(now);
        if let Some(provisioner) = &mut self.provisioner {
            let notes = provisioner.close(now, &mut self.nodes.blocks);
            notes.into_iter().for_each(|(level, text)| self.recording.note(now, level, &text));
            self.record_blocks(now);
        }
        self.server = None;
        let reason = self.finished.as_ref().map(|why| self.ended(now, why).reason);
        self.recording.close(now, reason == Some(EndReason::Complete))
    }

    /// When the run is forecast to end.
    pub(super) fn forecast(&self) -> Option<Forecast> {
        self.autoscaler.as_ref().and_then(|autoscaler| autoscaler.forecast)
    }

    fn tally(&self) -> RunProgress {
        let tally = self.coordinator.tally();
        RunProgress {
            total: tally.total.into(),
            completed: tally.completed.into(),
            failed: tally.failed.into(),
            skipped: tally.skipped.into(),
            cancelled: tally.cancelled.into(),
            running: tally.running.into(),
            ready: (tally.ready + tally.held).into(),
            paused: self.coordinator.paused().iter().map(|(from, to)| u64::from(to - from)).sum(),
            ranks_active: self.nodes.base_here() + self.joined_active(),
            forecast: self.forecast(),
            ..RunProgress::default()
        }
    }
}
