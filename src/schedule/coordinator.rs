//! Rank 0's side of the protocol: a state machine without I/O, like the worker's.
//!
//! The coordinator is told what ended; it keeps the state of every task, decides when the run is
//! over or must stop, and brings the ranks of a gang together. It is not on the path between two
//! tasks: homes resolve dependencies among themselves.
//!
//! The life of a run:
//!
//! | state | event | next |
//! |---|---|---|
//! | running | last task final | finished |
//! | running | failures reach `max_failures`; a stop is asked for; a rank is broken | stopping |
//! | stopping | a harder stop is asked for | stopping |
//! | stopping | every rank has stopped | finished |
//!
//! Who takes part may change meanwhile: `change.rs` beside this file.

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

/// What the coordinator is told.
#[derive(Clone, Debug)]
pub enum CoordinatorEvent {
    /// A message came (from rank 0's own worker too).
    Message {
        /// Who sent it.
        from: Rank,
        /// What it says.
        message: Message,
    },
    /// The run shall end before its tasks have.
    Stop {
        /// How.
        how: Stop,
        /// Why.
        why: StopReason,
    },
    /// A rank comes, goes or pauses. Numbers of ranks are given out in turn; see
    /// [`Coordinator::next_rank`].
    Change {
        /// Which rank.
        rank: Rank,
        /// What happens to it.
        change: Change,
    },
    /// The remaining work shall be shared out evenly.
    Rebalance,
    /// What nodes can still be had: tasks that no rank can run wait for them, or end the run.
    Hope(ProvisioningState),
    /// Time passed; see [`Coordinator::next_tick`].
    Tick,
    /// These tasks are not wanted any more.
    Cancel {
        /// Their numbers.
        tasks: Range<u32>,
    },
}

/// What nodes a run may still get.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ProvisioningState {
    /// Somebody can be asked for nodes.
    pub askable: bool,
    /// Nodes that have been asked for.
    pub coming: u32,
    /// At most so many ranks may join in all.
    pub most: u32,
}

/// A count of tasks by state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TaskTally {
    /// Tasks of the job.
    pub total: u32,
    /// Ended well (in this session or an earlier one).
    pub completed: u32,
    /// Ended without success.
    pub failed: u32,
    /// Never run, because of what came before.
    pub skipped: u32,
    /// Cancelled by the user.
    pub cancelled: u32,
    /// Run now, as last reported.
    pub running: u32,
    /// Wait for a slot, as last reported.
    pub ready: u32,
}

/// The tasks of a run: what the coordinator must know to give them new homes.
pub struct Tasks {
    /// Their graph.
    pub graph: Arc<TaskGraph>,
    /// For each node the rank that it is at home on.
    pub home: Vec<u32>,
    /// For each node its urgency, with [`SPECIAL`](super::ledger::SPECIAL).
    pub urgency: Vec<u8>,
    /// What else counts when homes are chosen.
    pub advice: Box<dyn Advice>,
}

/// See the module's text.
pub struct Coordinator {
    tasks: Tasks,
    members: Members,
    epoch: u32,
    /// A change of membership that is under way.
    change: Option<change::Preparing>,
    /// When ranks that have arrived since the last change are handed tasks.
    next_change: change::NextChange,
    loads: Vec<Load>,
    stopped: Vec<bool>,
    finals: Vec<Option<State>>,
    /// The tasks that were complete when the session began; empty if none was.
    done_before: Vec<bool>,
    /// For each node how it ended, if it is known to have. Its home knows, or has been told.
    ends: Vec<Option<End>>,
    /// Ranks that hold nothing, and what has ended there was told to those who need it.
    evacuated: FxHashSet<Rank>,
    /// Open tasks that have been tried in vain.
    tried: FxHashMap<TaskId, Tried>,
    /// Open tasks known to be running, and where.
    running: FxHashMap<TaskId, (Rank, Started)>,
    /// Open tasks that no rank can run.
    homeless: Homeless,
    hope: ProvisioningState,
    /// So many ranks were there from the start.
    first: u32,
    tally: TaskTally,
    open: u32,
    failures: u32,
    max_failures: Option<u32>,
    /// How many of the failures each rank ran.
    failed_at: Vec<u32>,
    stopping: Option<(Stop, StopReason)>,
    finished: bool,
    gangs: Gangs,
    health: Health,
    /// Open tasks that have ended badly; whether they failed or were skipped follows when all that
    /// they need has ended.
    undecided: BTreeSet<TaskId>,
    /// Tasks that are not wanted any more (from, to).
    cancelled: Vec<(u32, u32)>,
    /// No list in a message is longer.
    longest_list: usize,
}

impl Coordinator {
    /// A run of these tasks over these ranks, which have been handed them. `done` are complete
    /// already.
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

    /// How many tasks are in which state.
    pub fn tally(&self) -> TaskTally {
        let sum = |of: fn(&Load) -> u32| self.loads.iter().map(of).sum::<u32>();
        // Ranks report their load now and then, so the last reports may count tasks that have
        // ended.
        let running = sum(|l| l.running).min(self.open);
        TaskTally { running, ready: sum(|l| l.ready).min(self.open - running), ..self.tally }
    }

    /// Where a rank stands, if there ever was one of this number.
    pub fn standing(&self, rank: Rank) -> Option<RankState> {
        self.members.standing(rank)
    }

    /// How busy a rank is, as it last said.
    pub fn load(&self, rank: Rank) -> Load {
        self.loads.get(rank.index()).copied().unwrap_or_default()
    }

    /// The open tasks that have been running for a while: with the rank that runs them, the
    /// attempt, and since when.
    pub fn running(&self) -> impl Iterator<Item = (Rank, Started)> + '_ {
        let is_gone = |rank: Rank| self.members.standing(rank).is_none_or(RankState::is_gone);
        self.running.values().filter(move |(rank, _)| !is_gone(*rank)).copied()
    }

    /// How many times as long as the others a rank takes for the same tasks, if it is slow; and how
    /// many attempts failed there.
    pub fn health(&self, rank: Rank) -> (Option<f64>, u64) {
        (self.health.slow(rank), self.health.failures(rank))
    }

    /// True if tasks are left that no rank can run, and one more node may help.
    pub fn needs_node(&self) -> bool {
        let needs = self.homeless.tasks + self.gangs.unplaced() > 0;
        needs && self.is_hopeful() && self.hope.coming == 0 && !self.is_changing() && self.stopping.is_none()
    }

    /// The number that the next rank to be asked for, or to arrive unasked, will have.
    pub fn next_rank(&self) -> Rank {
        Rank(self.members.len() as u32)
    }

    /// The epoch of the present homes, or of those that are about to be.
    pub fn epoch(&self) -> u32 {
        self.epoch
    }

    /// True once the run has been asked to end before its tasks have.
    pub fn is_stopping(&self) -> bool {
        self.stopping.is_some()
    }

    /// True while homes are about to change, or ranks that have arrived wait for that.
    fn is_changing(&self) -> bool {
        self.change.is_some() || self.next_tick().is_some()
    }

    /// When the next [`Event::Tick`] is due, if any.
    pub fn next_tick(&self) -> Option<Time> {
        self.next_change.due()
    }

    /// The final state of a task, once it has one.
    pub fn final_state(&self, task: TaskId) -> Option<State> {
        self.finals.get(task.index()).copied().flatten()
    }

    /// Begins: a run of which nothing is left to do ends at once.
    pub fn begin(&mut self, actions: &mut Vec<Action>) {
        self.finish_if_over(actions);
    }

    /// Takes one event and appends what follows from it.
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
        // Who is gone is told nothing but to leave.
        let gone = |rank: Rank| self.members.standing(rank).is_some_and(RankState::is_gone);
        actions.retain(|action| match action {
            Action::Send { to, message } => *message == Message::Finish || !gone(*to),
            _ => true,
        });
    }

    fn receive(&mut self, now: Time, from: Rank, message: Message, actions: &mut Vec<Action>) {
        match self.members.standing(from) {
            Some(standing) if standing.is_here() => {}
            // It was given up, and its tasks have been given out again: nothing that it says counts
            // any more.
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

    /// `now`, not the attempt's end: that is a time of another rank's clock.
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

    /// Tells ranks how many tasks have failed elsewhere, once as many may fail at a time as are
    /// still allowed to.
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
            // Hardly any short task is in these: of millions of them the look-ups were a tenth of
            // rank 0's work.
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

    /// What a rank's report says about the rank.
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

    /// Everybody hears of it, for anybody may have them; who comes later hears of it then.
    fn cancel(&mut self, now: Time, tasks: &Range<u32>, actions: &mut Vec<Action>) {
        if self.finished {
            return;
        }
        add_range(&mut self.cancelled, (tasks.start, tasks.end));
        self.tell_all(Message::Cancel { tasks: vec![(tasks.start, tasks.end)] }, actions);
        for lease in self.gangs.take_back(|task| tasks.contains(&task.0), actions) {
            self.return_cancelled(now, lease, actions);
        }
        // Tasks that nobody can run are in nobody's part, or were asked for in vain: they end when
        // parts are made anew.
        if self.homeless.tasks + self.gangs.unplaced() > 0 {
            self.begin_change(now, false, false, actions);
        }
    }

    /// The home of a gang that will not be brought together hears so as it hears of a task on
    /// lease.
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
            // Tasks that end while the run stops may be the last ones: then nothing was cut short.
            _ if self.open == 0 => StopReason::Complete,
            // While homes change, the others may still tell of what a lost rank did.
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

/// Tells ranks that their attempts at tasks of other homes have been reported: until then nobody
/// else could tell of them should the home be lost.
fn acknowledge(home: Rank, attempts: &[Attempt], actions: &mut Vec<Action>) {
    let elsewhere = attempts.iter().filter(|attempt| attempt.rank != home);
    actions.extend(elsewhere.map(|&Attempt { task, attempt, rank, .. }| {
        let message = Message::Heard { task, attempt };
        Action::Send { to: rank, message }
    }));
}
