//! Rank 0's side of the protocol: a state machine without I/O, like the worker's.
//!
//! The coordinator is told what ended; it keeps the state of every task, decides when the run is over or must stop, and brings the ranks
//! of a gang together. It is not on the path between two tasks: homes resolve dependencies among themselves.
//!
//! The life of a run:
//!
//! | state | event | next |
//! |---|---|---|
//! | running | last task final | finished |
//! | running | failures reach `max_failures`; a stop is asked for; a rank is broken | stopping |
//! | stopping | a harder stop is asked for | stopping |
//! | stopping | every rank has stopped | finished |

use super::gang::Gangs;
use super::protocol::{Load, Message, Stop};
use crate::model::{Attempt, Rank, State, TaskId, Time};

/// What the coordinator is told.
#[derive(Clone, Debug)]
pub enum Event {
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
        why: Why,
    },
}

/// What the coordinator does.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// Send a message (to rank 0's own worker too).
    Send {
        /// To whom.
        to: Rank,
        /// What.
        message: Message,
    },
    /// Write these attempts to the journal before anything that follows.
    Journal(Vec<Attempt>),
    /// Something that the user should know.
    Tell(String),
    /// The run is over.
    Finished(Why),
}

/// Why a run ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Why {
    /// Every task has its final state.
    Complete,
    /// More tasks failed than the job allows.
    Failures,
    /// The allocation's end is near.
    Walltime,
    /// The user interrupted it (signal number).
    Signal(i32),
    /// A rank could not go on.
    Broken(String),
}

/// A rank as the coordinator knows it.
#[derive(Clone, Debug)]
pub struct Member {
    /// Its node.
    pub node: String,
    /// Its slots.
    pub slots: u32,
}

/// A count of tasks by state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
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

/// See the module's text.
pub struct Coordinator {
    members: Vec<Member>,
    loads: Vec<Load>,
    stopped: Vec<bool>,
    finals: Vec<Option<State>>,
    tally: Tally,
    open: u32,
    failures: u32,
    max_failures: Option<u32>,
    stopping: Option<(Stop, Why)>,
    finished: bool,
    gangs: Gangs,
}

impl Coordinator {
    /// A run of `total` tasks over these ranks, of which `done` are complete already.
    pub fn new(
        total: u32,
        done: &dyn Fn(TaskId) -> bool,
        members: Vec<Member>,
        max_failures: Option<u32>,
        gang_shape: super::gang::ShapeOf,
    ) -> Coordinator {
        let finals: Vec<Option<State>> = (0..total).map(|t| done(TaskId(t)).then_some(State::Completed)).collect();
        let completed = finals.iter().flatten().count() as u32;
        Coordinator {
            loads: vec![Load::default(); members.len()],
            stopped: vec![false; members.len()],
            gangs: Gangs::new(members.clone(), gang_shape),
            members,
            finals,
            tally: Tally { total, completed, ..Tally::default() },
            open: total - completed,
            failures: 0,
            max_failures,
            stopping: None,
            finished: false,
        }
    }

    /// How many tasks are in which state.
    pub fn tally(&self) -> Tally {
        let sum = |of: fn(&Load) -> u32| self.loads.iter().map(of).sum();
        Tally { running: sum(|l| l.running), ready: sum(|l| l.ready), ..self.tally }
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
    pub fn step(&mut self, now: Time, event: Event, actions: &mut Vec<Action>) {
        match event {
            Event::Message { from, message } => self.receive(now, from, message, actions),
            Event::Stop { how, why } => self.stop(how, why, actions),
        }
        self.finish_if_over(actions);
    }

    fn receive(&mut self, _now: Time, from: Rank, message: Message, actions: &mut Vec<Action>) {
        if from.index() >= self.members.len() {
            return;
        }
        match message {
            Message::Report { attempts, load } => {
                self.loads[from.index()] = load;
                self.count(attempts, actions);
            }
            Message::Stopped => self.stopped[from.index()] = true,
            Message::Broken { reason } => {
                actions.push(Action::Tell(format!("{from} cannot go on: {reason}")));
                self.stopped[from.index()] = true;
                self.stop(Stop::Terminate, Why::Broken(reason), actions);
            }
            Message::GangReady { lease } if self.stopping.is_none() => self.gangs.ready(lease, actions),
            Message::Held { gang, cpus } if self.stopping.is_none() => self.gangs.held(from, gang, &cpus, actions),
            Message::GangEnded { gang } => self.gangs.ended(gang, actions),
            _ => {}
        }
    }

    fn count(&mut self, attempts: Vec<Attempt>, actions: &mut Vec<Action>) {
        for attempt in &attempts {
            let Some(state) = self.finals.get_mut(attempt.task.index()) else { continue };
            if !attempt.last || state.is_some() {
                continue;
            }
            *state = Some(attempt.outcome.state);
            self.open -= 1;
            match attempt.outcome.state {
                State::Completed => self.tally.completed += 1,
                State::Skipped => self.tally.skipped += 1,
                State::Cancelled => self.tally.cancelled += 1,
                _ => {
                    self.tally.failed += 1;
                    self.failures += 1;
                }
            }
        }
        if !attempts.is_empty() {
            actions.push(Action::Journal(attempts));
        }
        if self.max_failures.is_some_and(|most| self.failures >= most) && self.stopping.is_none() && self.open > 0 {
            actions.push(Action::Tell(format!(
                "{} tasks have failed, as many as `max_failures` allows: nothing more is started",
                self.failures
            )));
            self.stop(Stop::Drain, Why::Failures, actions);
        }
    }

    fn stop(&mut self, how: Stop, why: Why, actions: &mut Vec<Action>) {
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
        for rank in 0..self.members.len() as u32 {
            actions.push(Action::Send { to: Rank(rank), message: Message::Stop { how } });
        }
    }

    fn finish_if_over(&mut self, actions: &mut Vec<Action>) {
        if self.finished {
            return;
        }
        let why = match &self.stopping {
            // Tasks that end while the run stops may be the last ones: then nothing was cut short.
            _ if self.open == 0 => Why::Complete,
            Some((_, why)) if self.stopped.iter().all(|&s| s) => why.clone(),
            _ => return,
        };
        self.finished = true;
        for rank in 0..self.members.len() as u32 {
            actions.push(Action::Send { to: Rank(rank), message: Message::Finish });
        }
        actions.push(Action::Finished(why));
    }
}
