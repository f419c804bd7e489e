//! The coordinator: rank 0's side of the protocol, a state machine without I/O like the worker.
//!
//! The coordinator receives reports of ended tasks. It keeps the state of every task, decides when
//! the run is over or must stop, and assembles gangs. It is not on the path between two tasks:
//! homes resolve dependencies among themselves.
//!
//! The life of a run:
//!
//! | state | event | next |
//! |---|---|---|
//! | running | last task final | finished |
//! | running | failures reach `max_failures`; a stop is requested; a rank is broken | stopping |
//! | stopping | a harder stop is requested | stopping |
//! | stopping | every rank has stopped | finished |
//!
//! Meanwhile ranks may join, leave or be lost: `change.rs` beside this file.

mod change;
mod handover;

use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::Arc;

use self::change::PrepareAck;
pub use super::action::{CoordinatorAction as Action, StopReason};
use super::dependency_counts::End;
use super::gang::Gangs;
use super::health::{Health, HealthFinding};
pub use super::homes::Advice;
use super::homes::Homeless;
use super::membership::Members;
pub use super::membership::{Change, Member};
use super::protocol::{Lease, Load, Message, Started, Stop, Tried, add_range};
use crate::graph::TaskGraph;
use rustc_hash::{FxHashMap, FxHashSet};

use crate::model::{Attempt, Rank, RankState, State, TaskId, Time};
use crate::numbers;

/// An input of the coordinator.
#[derive(Clone, Debug)]
pub enum CoordinatorEvent {
    /// A message arrived (also from rank 0's own worker).
    Message {
        /// Sender.
        from: Rank,
        /// Content.
        message: Message,
    },
    /// Stop the run before its tasks have ended.
    Stop {
        /// How to stop.
        how: Stop,
        /// The reason.
        why: StopReason,
    },
    /// A rank joins, leaves or pauses. Rank numbers are assigned in sequence; see
    /// [`Coordinator::next_rank`].
    Change {
        /// The rank.
        rank: Rank,
        /// The change of its state.
        change: Change,
    },
    /// Distribute the remaining work evenly.
    Rebalance,
    /// Which nodes can still be provisioned: tasks that no rank can run wait for them, or end the
    /// run.
    Hope(ProvisioningState),
    /// Time has passed; see [`Coordinator::next_tick`].
    Tick,
    /// Cancel these tasks.
    Cancel {
        /// Range of task numbers.
        tasks: Range<u32>,
    },
}

/// The nodes that a run may still get.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ProvisioningState {
    /// True if there is a provider to request nodes from.
    pub askable: bool,
    /// Nodes requested and not arrived yet.
    pub coming: u32,
    /// Upper limit on ranks that may join in total.
    pub most: u32,
}

/// A count of tasks by state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TaskTally {
    /// Tasks of the job.
    pub total: u32,
    /// Completed (in this session or an earlier one).
    pub completed: u32,
    /// Ended without success.
    pub failed: u32,
    /// Never run, because a dependency was violated.
    pub skipped: u32,
    /// Cancelled by the user.
    pub cancelled: u32,
    /// Running, as last reported.
    pub running: u32,
    /// Waiting for a slot, as last reported.
    pub ready: u32,
}

/// The tasks of a run, with what the coordinator needs to choose new homes.
pub struct Tasks {
    /// Their graph.
    pub graph: Arc<TaskGraph>,
    /// Home rank of each node.
    pub home: Vec<u32>,
    /// Urgency of each node, with [`SPECIAL`](super::part::SPECIAL).
    pub urgency: Vec<u8>,
    /// Further facts that the choice of homes depends on.
    pub advice: Box<dyn Advice>,
}

/// The state machine of rank 0: final states, membership, gangs and the end of the run.
pub struct Coordinator {
    tasks: Tasks,
    members: Members,
    epoch: u32,
    /// The change of membership in progress.
    change: Option<change::Preparing>,
    /// When to give tasks to ranks that have arrived since the last change.
    next_change: change::NextChange,
    loads: Vec<Load>,
    stopped: Vec<bool>,
    finals: Vec<Option<State>>,
    /// Tasks that were complete when the session began; empty if there were none.
    done_before: Vec<bool>,
    /// How each node ended, where known. Its home knows it too, or has been sent it.
    ends: Vec<Option<End>>,
    /// Ranks without tasks whose completions have been sent to every rank that needs them.
    evacuated: FxHashSet<Rank>,
    /// Open tasks with unsuccessful attempts.
    tried: FxHashMap<TaskId, Tried>,
    /// Open tasks known to be running, with their rank.
    running: FxHashMap<TaskId, (Rank, Started)>,
    /// Open tasks that no rank can run.
    homeless: Homeless,
    hope: ProvisioningState,
    /// Number of ranks at the start.
    first: u32,
    tally: TaskTally,
    open: u32,
    failures: u32,
    max_failures: Option<u32>,
    /// Number of failed tasks by the rank that ran them.
    failed_at: Vec<u32>,
    stopping: Option<(Stop, StopReason)>,
    finished: bool,
    gangs: Gangs,
    health: Health,
    /// Open tasks known to have ended without success. Whether they failed or were skipped follows
    /// once all their predecessors have ended.
    undecided: BTreeSet<TaskId>,
    /// Cancelled tasks, as ranges (from, to).
    cancelled: Vec<(u32, u32)>,
    /// Upper limit on the length of a list in a message.
    longest_list: usize,
}

impl Coordinator {
    /// Starts a run of these tasks over these ranks, which already have their parts. `done`: tasks
    /// that are already complete.
    pub fn new(
        tasks: Tasks,
        done: &dyn Fn(TaskId) -> bool,
        members: Vec<Member>,
        max_failures: Option<u32>,
        gang_shape: super::gang::ShapeOf,
    ) -> Coordinator {
        let (total, first) = (tasks.graph.task_count() as u32, members.len() as u32);
        let finals: Vec<Option<State>> = (0..total).map(|t| done(TaskId(t)).then_some(State::Completed)).collect();
        let completed = finals.iter().flatten().count() as u32;
        let mut ends = vec![None; tasks.graph.node_count()];
        ends.iter_mut().zip(&finals).filter(|(_, end)| end.is_some()).for_each(|(end, _)| *end = Some(End::Completed));
        Coordinator {
            tasks,
            epoch: 0,
            change: None,
            next_change: change::NextChange::default(),
            loads: vec![Load::default(); members.len()],
            stopped: vec![false; members.len()],
            gangs: Gangs::new(members.clone(), gang_shape),
            members: Members::new(members),
            done_before: if completed == 0 { Vec::new() } else { finals.iter().map(Option::is_some).collect() },
            finals,
            ends,
            evacuated: FxHashSet::default(),
            tried: FxHashMap::default(),
            running: FxHashMap::default(),
            homeless: Homeless::default(),
            hope: ProvisioningState::default(),
            first,
            tally: TaskTally { total, completed, ..TaskTally::default() },
            open: total - completed,
            failures: 0,
            max_failures,
            failed_at: Vec::new(),
            stopping: None,
            finished: false,
            health: Health::default(),
            undecided: BTreeSet::new(),
            cancelled: Vec::new(),
            longest_list: numbers::MOST,
        }
    }

    /// The same with a smaller bound on what a message holds.
    #[cfg(test)]
    pub(super) fn with_longest_list(self, longest_list: usize) -> Coordinator {
        Coordinator { longest_list, ..self }
    }

    /// Number of tasks by state.
    pub fn tally(&self) -> TaskTally {
        let sum = |of: fn(&Load) -> u32| self.loads.iter().map(of).sum::<u32>();
        // Load reports are periodic, so the latest may count tasks that have ended since.
        let running = sum(|l| l.running).min(self.open);
        TaskTally { running, ready: sum(|l| l.ready).min(self.open - running), ..self.tally }
    }

    /// State of a rank; `None` if the number was never assigned.
    pub fn standing(&self, rank: Rank) -> Option<RankState> {
        self.members.standing(rank)
    }

    /// Load of a rank, as last reported.
    pub fn load(&self, rank: Rank) -> Load {
        self.loads.get(rank.index()).copied().unwrap_or_default()
    }

    /// The open tasks that have been running for a while, with their rank, attempt and start.
    pub fn running(&self) -> impl Iterator<Item = (Rank, Started)> + '_ {
        let is_gone = |rank: Rank| self.members.standing(rank).is_none_or(RankState::is_gone);
        self.running.values().filter(move |(rank, _)| !is_gone(*rank)).copied()
    }

    /// Slowdown of a rank relative to the others (`None` if it is not slow), and the number of
    /// attempts that failed there.
    pub fn health(&self, rank: Rank) -> (Option<f64>, u64) {
        (self.health.slow(rank), self.health.failures(rank))
    }

    /// True if tasks remain that no rank can run and that a further node may be able to run.
    pub fn needs_node(&self) -> bool {
        let needs = self.homeless.tasks + self.gangs.unplaced() > 0;
        needs && self.is_hopeful() && self.hope.coming == 0 && !self.is_changing() && self.stopping.is_none()
    }

    /// The number of the next rank that is requested or arrives on its own.
    pub fn next_rank(&self) -> Rank {
        Rank(self.members.len() as u32)
    }

    /// The epoch of the present homes or, during a change, of the coming ones.
    pub fn epoch(&self) -> u32 {
        self.epoch
    }

    /// True once a stop has been requested.
    pub fn is_stopping(&self) -> bool {
        self.stopping.is_some()
    }

    /// True while homes are changing, or ranks that have arrived wait for a change.
    fn is_changing(&self) -> bool {
        self.change.is_some() || self.next_tick().is_some()
    }

    /// When the next [`CoordinatorEvent::Tick`] is due, if any.
    pub fn next_tick(&self) -> Option<Time> {
        self.next_change.due()
    }

    /// The final state of a task, once it has one.
    pub fn final_state(&self, task: TaskId) -> Option<State> {
        self.finals.get(task.index()).copied().flatten()
    }

    /// Starts the run; a run without open tasks finishes at once.
    pub fn begin(&mut self, actions: &mut Vec<Action>) {
        self.finish_if_over(actions);
    }

    /// Processes one event and appends the resulting actions.
    pub fn step(&mut self, now: Time, event: CoordinatorEvent, actions: &mut Vec<Action>) {
        match event {
            CoordinatorEvent::Message { from, message } => self.receive(now, from, message, actions),
            CoordinatorEvent::Stop { how, why } => self.stop(how, why, actions),
            CoordinatorEvent::Change { rank, change } => self.change(now, rank, change, actions),
            CoordinatorEvent::Rebalance => self.rebalance(now, actions),
            CoordinatorEvent::Hope(hope) => self.hope = hope,
            CoordinatorEvent::Tick => self.admit_arrivals(now, actions),
            CoordinatorEvent::Cancel { tasks } => self.cancel(now, &tasks, actions),
        }
        self.release_leaderless(actions);
        self.call_for_help(now, actions);
        self.finish_if_over(actions);
        // A rank that has left or was lost gets no message except the order to exit.
        let gone = |rank: Rank| self.members.standing(rank).is_some_and(RankState::is_gone);
        actions.retain(|action| match action {
            Action::Send { to, message } => *message == Message::Finish || !gone(*to),
            _ => true,
        });
    }

    fn receive(&mut self, now: Time, from: Rank, message: Message, actions: &mut Vec<Action>) {
        match self.members.standing(from) {
            Some(standing) if standing.is_here() => {}
            // The rank was declared lost and its tasks have new homes, so its messages are void.
            Some(RankState::Lost) => return actions.push(Action::Send { to: from, message: Message::Finish }),
            _ => return,
        }
        match message {
            Message::Report { attempts, started, load } => {
                self.loads[from.index()] = load;
                self.note_started(from, started);
                acknowledge(from, &attempts, actions);
                self.count(now, attempts, actions);
                self.decide(now, actions);
                self.examine(now, from, actions);
            }
            Message::Ack { epoch, kept, lent, counted } => {
                let answer = PrepareAck { kept, lent, counted };
                self.acknowledged(now, from, epoch, answer, actions);
            }
            Message::Emptied { epoch } => self.emptied(from, epoch, actions),
            Message::Stopped => self.stopped[from.index()] = true,
            Message::Broken { reason } => {
                actions.push(Action::Tell(format!("{from} cannot go on: {reason}")));
                self.stopped[from.index()] = true;
                self.stop(Stop::Terminate, StopReason::Broken(reason), actions);
            }
            Message::StorageLost { reason } if self.stopping.is_none() => {
                let text =
                    format!("{from} cannot write to the run directory any more ({reason}): nothing more is started");
                actions.push(Action::Tell(format!("{text}; make room, then continue with --resume")));
                self.stop(Stop::Drain, StopReason::Broken(text), actions);
            }
            Message::GangReady { .. } if self.stopping.is_some() => {}
            Message::GangReady { lease } if self.is_cancelled(lease.task) => self.return_cancelled(now, lease, actions),
            Message::GangReady { lease } => self.gangs.ready(lease, actions),
            Message::Held { gang, cpus } if self.stopping.is_none() => self.gangs.held(from, gang, &cpus, actions),
            Message::GangEnded { gang } => self.gangs.ended(gang, actions),
            _ => {}
        }
    }

    fn note_started(&mut self, rank: Rank, started: Vec<Started>) {
        for task in started {
            let ended = self.tried.get(&task.task).map_or(0, |tried| tried.attempts);
            let open = self.finals.get(task.task.index()).is_some_and(Option::is_none);
            let newer = self.running.get(&task.task).is_none_or(|(_, known)| known.attempt <= task.attempt);
            if open && newer && task.attempt > ended {
                self.running.insert(task.task, (rank, task));
            }
        }
    }

    /// Uses `now`, not the attempt's end, which is a time of another rank's clock.
    fn note_tried(&mut self, now: Time, attempt: &Attempt) {
        let Attempt { task, attempt: number, rank, .. } = *attempt;
        if self.running.get(&task).is_some_and(|(_, running)| running.attempt <= number) {
            self.running.remove(&task);
        }
        if !attempt.outcome.state.is_failure() {
            return;
        }
        let tried = self.tried.entry(task).or_insert(Tried { task, attempts: 0, lost: 0, rank, end: now });
        if number > tried.attempts {
            let lost = tried.lost + u16::from(attempt.outcome.state == State::NodeFail);
            *tried = Tried { attempts: number, lost, rank, end: now, ..*tried };
        }
    }

    /// Sends ranks the number of tasks that failed elsewhere, once the remaining failure allowance
    /// could be used up by tasks that run at the same time.
    fn tell_of_failures(&mut self, actions: &mut Vec<Action>) {
        let Some(left) = self.max_failures.and_then(|most| most.checked_sub(self.failures)) else { return };
        let slots: u64 = self.members.able().iter().map(|member| u64::from(member.slots)).sum();
        if self.stopping.is_some() || u64::from(left) > slots {
            return;
        }
        let elsewhere = |rank: Rank| self.failures - self.failed_at.get(rank.index()).copied().unwrap_or(0);
        let message = |to| Action::Send { to, message: Message::FailedElsewhere { tasks: elsewhere(to) } };
        actions.extend(self.members.here().map(message));
    }

    fn count(&mut self, now: Time, attempts: Vec<Attempt>, actions: &mut Vec<Action>) {
        let before = self.failures;
        for attempt in &attempts {
            let Some(state) = self.finals.get_mut(attempt.task.index()) else { continue };
            if state.is_some() {
                continue;
            }
            if !attempt.last {
                self.note_tried(now, attempt);
                continue;
            }
            *state = Some(attempt.outcome.state);
            self.ends[attempt.task.index()] = Some(match attempt.outcome.state {
                State::Completed => End::Completed,
                State::Skipped => End::Unsuccessful,
                _ => End::Failed,
            });
            self.open -= 1;
            // Short tasks are hardly ever in these maps: with millions of tasks, the look-ups took
            // a tenth of rank 0's time.
            if !self.tried.is_empty() {
                self.tried.remove(&attempt.task);
            }
            if !self.running.is_empty() {
                self.running.remove(&attempt.task);
            }
            match attempt.outcome.state {
                State::Completed => self.tally.completed += 1,
                State::Skipped => self.tally.skipped += 1,
                State::Cancelled => self.tally.cancelled += 1,
                _ => {
                    self.tally.failed += 1;
                    self.failures += 1;
                    let at = attempt.rank.index();
                    self.failed_at.resize(self.failed_at.len().max(at + 1), 0);
                    self.failed_at[at] += 1;
                }
            }
        }
        if !attempts.is_empty() {
            let advice = &self.tasks.advice;
            self.health.hear(&attempts, &|task| advice.class(task), &|task| advice.work(task));
            actions.push(Action::Journal(attempts));
        }
        if before < self.failures {
            self.tell_of_failures(actions);
        }
        if self.max_failures.is_some_and(|most| self.failures >= most) && self.stopping.is_none() && self.open > 0 {
            actions.push(Action::Tell(format!(
                "{} tasks have failed, as many as `max_failures` allows: nothing more is started",
                self.failures
            )));
            self.stop(Stop::Drain, StopReason::Failures, actions);
        }
    }

    /// Evaluates the health of a rank after its report.
    fn examine(&mut self, now: Time, rank: Rank, actions: &mut Vec<Action>) {
        if self.stopping.is_some() || self.open == 0 {
            return;
        }
        let members = &self.members;
        match self.health.examine(rank, &|rank| members.slots_per_cpu(rank)) {
            Some(HealthFinding::Slow(times)) => {
                actions.push(Action::Note(format!(
                    "{rank} takes {times:.1} times as long as others for the same tasks: it gets less of them"
                )));
                self.rebalance(now, actions);
            }
            Some(HealthFinding::Crowded) => self.rebalance(now, actions),
            Some(HealthFinding::Recovered(told)) => {
                let note = || Action::Note(format!("{rank} is as fast as the others again"));
                actions.extend(told.then(note));
                self.rebalance(now, actions);
            }
            Some(HealthFinding::Sick) => {
                actions.push(Action::Note(format!(
                    "{rank} is quarantined: tasks keep failing there that others complete"
                )));
                self.change(now, rank, Change::Quarantine, actions);
            }
            None => {}
        }
    }

    fn stop(&mut self, how: Stop, why: StopReason, actions: &mut Vec<Action>) {
        let harder = match &self.stopping {
            None => true,
            Some((before, _)) => *before < how,
        };
        if !harder || self.finished {
            return;
        }
        self.gangs.abandon(actions);
        let why = self.stopping.take().map_or(why, |(_, first)| first);
        self.stopping = Some((how, why));
        self.send_arrivals_away(actions);
        self.tell_all(Message::Stop { how }, actions);
    }

    /// Sends the cancellation to all ranks, since any of them may have the tasks. Ranks that join
    /// later get it with their part.
    fn cancel(&mut self, now: Time, tasks: &Range<u32>, actions: &mut Vec<Action>) {
        if self.finished {
            return;
        }
        add_range(&mut self.cancelled, (tasks.start, tasks.end));
        self.tell_all(Message::Cancel { tasks: vec![(tasks.start, tasks.end)] }, actions);
        for lease in self.gangs.take_back(|task| tasks.contains(&task.0), actions) {
            self.return_cancelled(now, lease, actions);
        }
        // Tasks that no rank can run are in no part, and gangs may wait for ranks that do not
        // exist: both end when the parts are cut anew.
        if self.homeless.tasks + self.gangs.unplaced() > 0 {
            self.begin_change(now, false, false, actions);
        }
    }

    /// Returns a cancelled gang task to its home, in the same way as a task on lease.
    fn return_cancelled(&self, now: Time, lease: Lease, actions: &mut Vec<Action>) {
        let message = Message::Returned { epoch: self.epoch, attempt: lease.cancelled(lease.home, now) };
        actions.push(Action::Send { to: lease.home, message });
    }

    fn tell_all(&self, message: Message, actions: &mut Vec<Action>) {
        let send = |to| Action::Send { to, message: message.clone() };
        actions.extend(self.members.here().map(send));
    }

    fn finish_if_over(&mut self, actions: &mut Vec<Action>) {
        if self.finished {
            return;
        }
        let why = match &self.stopping {
            // Tasks that end during the stop may be the last ones: then the run is complete.
            _ if self.open == 0 => StopReason::Complete,
            // While homes change, other ranks may still report what a lost rank completed.
            Some(_) if self.change.is_some() => return,
            Some((_, why)) if self.members.here().all(|rank| self.stopped[rank.index()]) => why.clone(),
            _ => return,
        };
        self.finished = true;
        (self.change, self.next_change) = (None, change::NextChange::default());
        self.tell_all(Message::Finish, actions);
        actions.push(Action::Finished(why));
    }
}

/// Confirms to ranks that their attempts at tasks of other homes have been reported. Until then
/// they must keep the attempts, because they are the only other source should the home be lost.
fn acknowledge(home: Rank, attempts: &[Attempt], actions: &mut Vec<Action>) {
    let elsewhere = attempts.iter().filter(|attempt| attempt.rank != home);
    actions.extend(elsewhere.map(|&Attempt { task, attempt, rank, .. }| {
        let message = Message::Heard { task, attempt };
        Action::Send { to: rank, message }
    }));
}
