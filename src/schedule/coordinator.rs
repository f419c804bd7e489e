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
//! | file beside this one | one idea |
//! |---|---|
//! | `input` | what the coordinator is given, and its count of tasks |
//! | `attempts` | what reported attempts mean |
//! | `ending` | stops, cancellations, and the end of the run |
//! | `change` | ranks join, leave or are lost: the protocol of a change |
//! | `cut` | what all ranks together know during a change |
//! | `handover` | the new parts after a change |
//! | `growth` | tasks that are added to the run |
//! | `pools` | units of pools are dealt, tasks paused and resumed |
//! | `shares` | what families have got, for fair shares |
//! | `suspended` | ranks that start nothing because their tasks failed |
//! | `unplaced` | tasks that no rank can run |

mod attempts;
mod change;
mod cut;
mod ending;
mod growth;
mod handover;
mod input;
mod pools;
mod shares;
mod suspended;
mod unplaced;

use std::collections::BTreeSet;
use std::sync::Arc;

use self::attempts::acknowledge;
use self::change::PrepareAck;
pub use self::growth::{Growth, settles};
pub use self::input::{CoordinatorEvent, ProvisioningState, TaskTally, Tasks};
use self::suspended::Suspended;
pub use super::action::{CoordinatorAction, StopReason};
use super::dependency_counts::End;
use super::gang::Gangs;
use super::health::Health;
pub use super::homes::Advice;
use super::homes::{Homeless, NOWHERE};
use super::membership::Members;
pub use super::membership::{Change, Member};
use super::pools::dealer::PoolDealer;
use super::protocol::{Lease, Load, Message, Started, Stop, Tried};
use rustc_hash::{FxHashMap, FxHashSet};

use crate::model::{Rank, RankState, State, TaskId, Time};
use crate::numbers;

/// The state machine of rank 0: final states, membership, gangs and the end of the run.
pub struct Coordinator {
    tasks: Tasks,
    members: Members,
    epoch: u32,
    /// The change of membership in progress.
    change: Option<change::Preparing>,
    /// When to give tasks to ranks that have arrived since the last change.
    next_change: change::NextChange,
    additions: growth::Additions,
    loads: Vec<Load>,
    stopped: Vec<bool>,
    finals: Vec<Option<State>>,
    /// Tasks that were complete, or left out, when the session began; empty if there were none.
    done_before: Vec<bool>,
    /// How each node ended, where known. Its home has counted it too, or will receive it.
    ends: Vec<Option<End>>,
    /// Ranks without tasks whose completions have been sent to every rank that needs them.
    evacuated: FxHashSet<Rank>,
    /// Open tasks with unsuccessful attempts.
    tried: FxHashMap<TaskId, Tried>,
    /// Open tasks known to be running, with their rank.
    running: FxHashMap<TaskId, (Rank, Started)>,
    /// Tasks that completed on another rank than their home, if files stay where they are written.
    made_elsewhere: FxHashMap<TaskId, Rank>,
    /// Open tasks that no rank can run.
    homeless: Homeless,
    provisioning: ProvisioningState,
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
    pools: PoolDealer,
    family_times: shares::FamilyTimes,
    health: Health,
    /// Ranks that start nothing because their tasks failed.
    suspended: Suspended,
    /// Open tasks known to have ended without success. Whether they failed or were skipped follows
    /// once all their predecessors have ended.
    undecided: BTreeSet<TaskId>,
    /// Cancelled tasks, as ranges (from, to).
    cancelled: Vec<(u32, u32)>,
    /// Paused tasks, as ranges (from, to), and MPI tasks on several ranks that wait for their
    /// resumption.
    paused: Vec<(u32, u32)>,
    paused_gangs: Vec<Lease>,
    /// Upper limit on the length of a list in a message.
    longest_list: usize,
}

impl Coordinator {
    /// Starts a run of these tasks over these ranks, which already have their parts. `done`: tasks
    /// that are already complete, or that nobody is to run (see [`Coordinator::with_left_out`]).
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
        tasks.graph.free_numbers().for_each(|number| ends[number as usize] = Some(End::Completed));
        let pools = PoolDealer::new(Arc::clone(&tasks.pools));
        let family_times = shares::FamilyTimes::new(tasks.fair.clone());
        Coordinator {
            tasks,
            pools,
            family_times,
            epoch: 0,
            change: None,
            next_change: change::NextChange::default(),
            additions: growth::Additions::default(),
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
            made_elsewhere: FxHashMap::default(),
            homeless: Homeless::default(),
            provisioning: ProvisioningState::default(),
            first,
            tally: TaskTally { total, completed, ..TaskTally::default() },
            open: total - completed,
            failures: 0,
            max_failures,
            failed_at: Vec::new(),
            stopping: None,
            finished: false,
            health: Health::default(),
            suspended: Suspended::default(),
            undecided: BTreeSet::new(),
            cancelled: Vec::new(),
            paused: Vec::new(),
            paused_gangs: Vec::new(),
            longest_list: numbers::MOST,
        }
    }

    /// The same with a smaller bound on what a message holds.
    #[cfg(test)]
    pub(super) fn with_longest_list(self, longest_list: usize) -> Coordinator {
        Coordinator { longest_list, ..self }
    }

    /// The same with this number of the tasks that are done only left out of the run: they count
    /// neither as completed nor as tasks of the run.
    pub fn with_left_out(mut self, left_out: u32) -> Coordinator {
        let TaskTally { total, completed, .. } = self.tally;
        self.tally = TaskTally { total: total - left_out, completed: completed - left_out, left_out, ..self.tally };
        self
    }

    /// The tasks, and the homes of all nodes.
    pub fn tasks(&self) -> &Tasks {
        &self.tasks
    }

    /// Number of tasks by state.
    pub fn tally(&self) -> TaskTally {
        let sum = |of: fn(&Load) -> u32| self.loads.iter().map(of).sum::<u32>();
        // Load reports are periodic, so the latest may count tasks that have ended since.
        let busy = sum(|l| l.busy).min(self.open);
        let running = sum(|l| l.running).min(self.open);
        let ready = sum(|l| l.ready).min(self.open - running);
        let gangs = self.gangs.waiting() + self.pools.waiting_gangs() + self.paused_gangs.len() as u32;
        let held = (sum(|l| l.held) + gangs).min(self.open - running - ready);
        TaskTally { running, busy, ready, held, ..self.tally }
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

    /// The labels of a rank.
    pub fn labels(&self, rank: Rank) -> &[String] {
        self.members.member(rank).map_or(&[], |member| &member.labels)
    }

    /// Slowdown of a rank relative to the others (`None` if it is not slow), and the number of
    /// attempts that failed there.
    pub fn health(&self, rank: Rank) -> (Option<f64>, u64) {
        (self.health.slow(rank), self.health.failures(rank))
    }

    /// The home of a task: the rank that starts it, unless another steals it.
    pub fn home(&self, task: TaskId) -> Option<Rank> {
        self.tasks.home.get(task.index()).copied().filter(|&home| home != NOWHERE).map(Rank)
    }

    /// The tasks that a task depends on.
    pub fn needs(&self, task: TaskId) -> Vec<TaskId> {
        self.tasks.graph.tasks_before(task)
    }

    /// What a rank brought along; `None` if the number was never assigned.
    pub fn member(&self, rank: Rank) -> Option<&Member> {
        self.members.member(rank)
    }

    /// The ranks that take part and have what a task needs.
    pub fn able(&self, task: TaskId) -> impl Iterator<Item = Rank> + '_ {
        let advice = &self.tasks.advice;
        let fits = move |member: &Member| member.slots > 0 && advice.fits(task, member);
        self.members.active().filter(move |&rank| self.members.member(rank).is_some_and(fits))
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
        self.change.is_some() || self.next_change.due().is_some()
    }

    /// When the next [`CoordinatorEvent::Tick`] is due, if any.
    pub fn next_tick(&self) -> Option<Time> {
        let pools = self.pools.due().filter(|_| self.stopping.is_none() && !self.finished);
        [self.next_change.due(), self.growth_due(), self.suspended.due(), pools].into_iter().flatten().min()
    }

    /// The final state of a task, once it has one.
    pub fn final_state(&self, task: TaskId) -> Option<State> {
        self.finals.get(task.index()).copied().flatten()
    }

    /// Starts the run; a run without open tasks finishes at once.
    pub fn begin(&mut self, actions: &mut Vec<CoordinatorAction>) {
        self.finish_if_over(actions);
    }

    /// Processes one event and appends the resulting actions.
    pub fn step(&mut self, now: Time, event: CoordinatorEvent, actions: &mut Vec<CoordinatorAction>) {
        match event {
            CoordinatorEvent::Message { from, message } => self.receive(now, from, message, actions),
            CoordinatorEvent::Stop { how, why } => self.stop(how, why, actions),
            CoordinatorEvent::Change { rank, change } => self.change(now, rank, change, actions),
            CoordinatorEvent::Rebalance => self.rebalance(now, actions),
            CoordinatorEvent::Provisioning(state) => self.provisioning = state,
            CoordinatorEvent::Tick => self.admit_arrivals(now, actions),
            CoordinatorEvent::Limit { resource, units } => self.pools.set_capacity(resource, units),
            CoordinatorEvent::Pause { tasks, paused } => self.pause(&tasks, paused, actions),
            CoordinatorEvent::Cancel { tasks } => self.cancel(now, &tasks, actions),
        }
        self.review_suspended(now, actions);
        self.release_leaderless(now, actions);
        // First this: an MPI task that gets its units may find too few ranks.
        self.deal_pools(now, actions);
        self.handle_unplaced_tasks(now, actions);
        self.finish_if_over(actions);
        // A rank that has left or was lost gets no message except the order to exit.
        let gone = |rank: Rank| self.members.standing(rank).is_some_and(RankState::is_gone);
        actions.retain(|action| match action {
            CoordinatorAction::Send { to, message } => *message == Message::Finish || !gone(*to),
            _ => true,
        });
    }

    fn receive(&mut self, now: Time, from: Rank, message: Message, actions: &mut Vec<CoordinatorAction>) {
        match self.members.standing(from) {
            Some(standing) if standing.is_here() => {}
            // The rank was declared lost and its tasks have new homes, so its messages are void.
            Some(RankState::Lost) => {
                return actions.push(CoordinatorAction::Send { to: from, message: Message::Finish });
            }
            _ => return,
        }
        match message {
            Message::Report { attempts, started, load } => {
                self.loads[from.index()] = load;
                self.note_started(from, started);
                acknowledge(from, &attempts, actions);
                self.count(now, attempts, actions);
                self.resolve_undecided(now, actions);
                self.check_health(now, from, actions);
                self.send_shares(now, actions);
            }
            Message::Ack { epoch, kept, lent, counted } => {
                let answer = PrepareAck { kept, lent, counted };
                self.acknowledged(now, from, epoch, answer, actions);
            }
            Message::Suspended => self.note_suspended(now, from),
            Message::Emptied { epoch } => self.emptied(from, epoch, actions),
            Message::Stopped => self.stopped[from.index()] = true,
            Message::Broken { reason } => {
                actions.push(CoordinatorAction::Error(format!("{from} cannot go on: {reason}")));
                self.stopped[from.index()] = true;
                self.stop(Stop::Terminate, StopReason::Broken(reason), actions);
            }
            Message::StorageLost { reason } if self.stopping.is_none() => {
                let text =
                    format!("{from} cannot write to the run directory any more ({reason}): nothing more is started");
                actions.push(CoordinatorAction::Error(format!("{text}; make room, then continue with --resume")));
                self.stop(Stop::Drain, StopReason::Broken(text), actions);
            }
            Message::GangReady { .. } if self.stopping.is_some() => {}
            Message::GangReady { lease } if self.is_cancelled(lease.task) => self.return_cancelled(now, lease, actions),
            Message::GangReady { lease } => self.gang_ready(lease, actions),
            Message::Pools(report) => self.pools.report(from, report),
            Message::Held { gang, aside } if self.stopping.is_none() => self.gangs.held(from, gang, aside, actions),
            Message::GangEnded { gang } => {
                if let Some(lease) = self.gangs.ended(gang, actions) {
                    self.pools.withdraw_gangs(|task, attempt| (task, attempt) == (lease.task, lease.attempt));
                }
            }
            _ => {}
        }
    }

    /// Ranks that receive messages.
    pub fn ranks_here(&self) -> impl Iterator<Item = Rank> + '_ {
        self.members.here()
    }

    fn broadcast(&self, message: Message, actions: &mut Vec<CoordinatorAction>) {
        let send = |to| CoordinatorAction::Send { to, message: message.clone() };
        actions.extend(self.members.here().map(send));
    }
}
