//! A rank's part in a change of membership: freeze, acknowledge, resume under the new homes.
//!
//! | phase | event | next | does |
//! |---|---|---|---|
//! | frozen (initial) | `HandOut` | settled | activate the part; start ready tasks |
//! | settled | `Prepare` | freezing | take the waiting tasks out of the pool |
//! | freezing | `Frozen` | frozen | report all ends; `Ack` with kept tasks |
//! | frozen | an attempt ends | frozen | remember it, since its home may be changing |
//! | frozen | `Prepare` of a later epoch | frozen | the same `Ack` again |
//!
//! Between `Ack` and `HandOut` the rank counts, gives, takes and retries nothing. So the
//! acknowledgements together are a consistent cut: every message of the old epoch still under way
//! repeats what the coordinator already knows, and is void.

use std::sync::Arc;
use std::time::Duration;

use rustc_hash::FxHashSet;

use super::leases::Guest;
use super::{Worker, WorkerAction, send};
use crate::graph::ascending::Ascending;
use crate::model::{Attempt, Rank, TaskId, Time};
use crate::schedule::amend::amended;
use crate::schedule::dependency_counts::{DependencyCounts, End, UnsoundPart};
use crate::schedule::homes::NODE_NS;
use crate::schedule::protocol::{HandOut, Lease, Message};
use crate::schedule::ranks::Ranks;

/// Upper limit on reserved tasks, so that the other ranks get a share of the rest.
const MAX_RESERVED_TASKS: u32 = 65_536;

/// What was lost with ranks.
#[derive(Debug, Default)]
pub(super) struct Lost {
    /// Open nodes whose homes were lost.
    pub(super) nodes: Ascending,
    /// The lost ranks.
    pub(super) ranks: Ranks,
}

/// Phase of a change of membership.
#[derive(Debug)]
pub(super) enum ChangePhase {
    /// The homes are known.
    Settled,
    /// Waits for the pool to give up its waiting tasks.
    Freezing {
        /// The epoch to prepare for.
        epoch: u32,
        /// What was lost.
        lost: Lost,
    },
    /// Waits for its tasks.
    Frozen(Frozen),
}

/// What a frozen rank must account for.
#[derive(Debug, Default)]
pub(super) struct Frozen {
    kept: Vec<(TaskId, u16)>,
    lent: Vec<TaskId>,
    /// Attempts that ended since.
    ended: Vec<Attempt>,
}

impl Default for ChangePhase {
    fn default() -> ChangePhase {
        ChangePhase::Frozen(Frozen::default())
    }
}

impl ChangePhase {
    pub(super) fn is_settled(&self) -> bool {
        matches!(self, ChangePhase::Settled)
    }

    pub(super) fn is_freezing(&self) -> bool {
        matches!(self, ChangePhase::Freezing { .. })
    }

    pub(super) fn is_frozen(&self) -> bool {
        matches!(self, ChangePhase::Frozen(_))
    }

    /// The ends that are kept for later.
    pub(super) fn ended(&self) -> &[Attempt] {
        match self {
            ChangePhase::Frozen(frozen) => &frozen.ended,
            _ => &[],
        }
    }

    /// Forgets the ends that are kept for later.
    pub(super) fn forget_ended(&mut self) {
        if let ChangePhase::Frozen(frozen) = self {
            frozen.ended.clear();
        }
    }

    /// Keeps an end for later if the rank is frozen; false if it can be processed now.
    pub(super) fn remember(&mut self, attempt: &Attempt) -> bool {
        match self {
            ChangePhase::Frozen(frozen) => {
                frozen.ended.push(*attempt);
                true
            }
            _ => false,
        }
    }
}

impl Worker {
    /// Processes `Prepare`: homes are about to change.
    pub(super) fn prepare(
        &mut self,
        now: Time,
        epoch: u32,
        lost: Lost,
        reserve: bool,
        actions: &mut Vec<WorkerAction>,
    ) {
        match &self.phase {
            ChangePhase::Settled => {
                self.phase = ChangePhase::Freezing { epoch, lost };
                let keep = if reserve && !self.is_suspended() { self.reserve() } else { 0 };
                actions.push(WorkerAction::Freeze { keep });
            }
            ChangePhase::Freezing { .. } => self.phase = ChangePhase::Freezing { epoch, lost },
            ChangePhase::Frozen(frozen) => {
                let (kept, lent) = (frozen.kept.clone(), frozen.lent.clone());
                self.acknowledge(now, epoch, &lost, kept, lent, actions);
            }
        }
    }

    /// Number of tasks that slots will start until the new homes are known: as many as fit in twice
    /// the time of the last change, or of rank 0's pass over all tasks. Beside long tasks a change
    /// takes no time, and reserved tasks would wait behind them.
    fn reserve(&self) -> u32 {
        let nodes = self.ledger.as_ref().map_or(0, |ledger| ledger.len() as u64) * u64::from(self.stealer.ranks());
        let stop = self.last_change.max(Duration::from_nanos(nodes * NODE_NS)) * 2;
        let waves = self.stealer.usual().map_or(0.0, |usual| stop.as_secs_f64() / usual.as_secs_f64().max(1e-7));
        let bridge = (f64::from(self.room.slots) * waves) as u32;
        let least = if self.stealer.are_tasks_long() { 0 } else { self.room.slots };
        least.saturating_add(bridge).min(MAX_RESERVED_TASKS.max(self.room.slots))
    }

    /// Acknowledges the change: the pool has given up its waiting tasks, and the rank keeps the
    /// others.
    pub(super) fn frozen(&mut self, now: Time, mut waiting: Vec<Lease>, actions: &mut Vec<WorkerAction>) {
        let ChangePhase::Freezing { epoch, lost } = &mut self.phase else { return };
        let (epoch, lost) = (*epoch, std::mem::take(lost));
        let mut lent: Vec<TaskId> = self.lent.iter().copied().collect();
        lent.sort_unstable();
        waiting.iter_mut().for_each(|lease| self.task_left(lease));
        self.lent.extend(self.retries.drain().map(|next| next.0.task));
        let ledger = self.ledger.clone();
        let here = ledger.iter().flat_map(|ledger| {
            let ready = (0..ledger.len() as u32).filter(|&local| ledger.is_ready(local));
            ready.map(|local| ledger.task(local))
        });
        let attempt = |task: TaskId| self.tried.get(&task).map_or(1, |tried| tried.attempts.saturating_add(1));
        let mut kept: Vec<(TaskId, u16)> =
            here.filter(|task| !self.lent.contains(task)).map(|task| (task, attempt(task))).collect();
        kept.extend(self.guests.iter().map(|(&task, guest)| (task, guest.attempt)));
        kept.sort_unstable();
        if !(self.report.is_empty() && self.started.is_empty()) {
            self.send_report(now, actions);
        }
        self.phase = ChangePhase::Frozen(Frozen { kept: kept.clone(), lent: lent.clone(), ended: Vec::new() });
        self.acknowledge(now, epoch, &lost, kept, lent, actions);
    }

    fn acknowledge(
        &mut self,
        now: Time,
        epoch: u32,
        lost: &Lost,
        kept: Vec<(TaskId, u16)>,
        lent: Vec<TaskId>,
        actions: &mut Vec<WorkerAction>,
    ) {
        (self.epoch, self.acknowledged) = (epoch, now);
        let stays = |message: &Message| matches!(message, Message::Counts { .. });
        self.early.retain(|(_, early)| stays(early) || early.epoch().is_some_and(|of| of >= epoch));
        let ledger = self.ledger.as_ref().filter(|_| !lost.nodes.is_empty());
        let mut counted: Vec<(u32, End)> = ledger.map_or_else(Vec::new, |ledger| {
            ledger.counted().filter(|&(node, _)| lost.nodes.position(node).is_some()).collect()
        });
        let unreported = self.completed_elsewhere.iter().filter(|(_, by)| lost.ranks.contains(*by));
        counted.extend(unreported.map(|(task, _)| (task.0, End::Completed)));
        send(actions, Rank::ZERO, Message::Ack { epoch, kept, lent, counted });
    }

    /// Activates the tasks that are at home here from now on.
    pub(super) fn take_up(&mut self, now: Time, hand_out: HandOut, actions: &mut Vec<WorkerAction>) {
        let HandOut { epoch, now: told, part, amends, lost, active, leave, out, tried, leases, units, stealing } =
            hand_out;
        let ChangePhase::Frozen(frozen) = &mut self.phase else {
            return send(actions, Rank::ZERO, Message::Broken { reason: "was handed its tasks twice".into() });
        };
        let whole = match (&amends, &self.ledger) {
            (None, _) => Ok(part),
            (Some(amendment), Some(ledger)) => amended(ledger, &part, amendment, &lost),
            (Some(_), None) => Err(UnsoundPart("changes")),
        };
        let ledger = match whole.and_then(DependencyCounts::new) {
            Ok(ledger) if active.is_sound() && lost.is_sound() => Arc::new(ledger),
            Ok(_) => {
                let reason = "the list of ranks that take part is inconsistent".into();
                return send(actions, Rank::ZERO, Message::Broken { reason });
            }
            Err(error) => return send(actions, Rank::ZERO, Message::Broken { reason: error.to_string() }),
        };
        let Frozen { mut kept, mut ended, .. } = std::mem::take(frozen);
        self.phase = ChangePhase::Settled;
        (self.epoch, self.lost) = (epoch, lost);
        self.last_change = now.since(self.acknowledged);
        self.completed_elsewhere.clear();
        self.ledger = Some(Arc::clone(&ledger));
        actions.push(WorkerAction::TakeUp);
        if !units.is_empty() {
            actions.push(WorkerAction::PoolOrders(units));
        }
        (self.leaving, self.emptied) = (leave, false);
        self.active = active.len();
        self.stealer.meet(epoch, active, stealing);
        self.lent = out.into_iter().collect();
        match amends {
            Some(_) => self.tried.retain(|&task, _| ledger.local(task).is_some()),
            None => self.tried.clear(),
        }
        for mut tried in tried {
            if tried.end > Time::ZERO {
                tried.end = now.before(told.since(tried.end));
            }
            let known = self.tried.get(&tried.task).is_some_and(|known| known.attempts > tried.attempts);
            if !known {
                self.tried.insert(tried.task, tried);
            }
        }
        // What the coordinator received from others may supersede some of the kept tasks.
        kept.retain(|&(task, attempt)| self.tried.get(&task).is_none_or(|tried| attempt > tried.attempts));
        ended.extend(self.house(&kept, leases, actions));
        self.begin(now, &ledger, &kept, actions);
        for attempt in ended {
            self.ended(now, attempt, actions);
        }
        if !self.cancelled.is_empty() {
            // Some of the cancelled tasks may have just arrived.
            self.cancel(now, self.cancelled.clone(), actions);
        }
        for (from, message) in std::mem::take(&mut self.early) {
            self.receive(now, from, message, actions);
        }
    }

    /// Learns the homes of the tasks that it keeps, and sends homes the ends that they may not have
    /// received. Returns those ends whose home may be this rank now.
    fn house(
        &mut self,
        kept: &[(TaskId, u16)],
        leases: Vec<(TaskId, Rank)>,
        actions: &mut Vec<WorkerAction>,
    ) -> Vec<Attempt> {
        let mut before = std::mem::take(&mut self.guests);
        for (task, home) in leases {
            let Ok(at) = kept.binary_search_by_key(&task, |kept| kept.0) else { continue };
            let ended = before.remove(&task).and_then(|guest| guest.ended);
            self.guests.insert(task, Guest { home, attempt: kept[at].1, ended });
            if let Some(attempt) = ended {
                send(actions, home, Message::Returned { epoch: self.epoch, attempt });
            }
        }
        let mut unheard: Vec<Attempt> = before.into_values().filter_map(|guest| guest.ended).collect();
        unheard.sort_unstable_by_key(|attempt| attempt.task);
        unheard
    }

    /// Starts ready tasks that no rank keeps.
    fn begin(&mut self, now: Time, ledger: &DependencyCounts, kept: &[(TaskId, u16)], actions: &mut Vec<WorkerAction>) {
        let kept: FxHashSet<TaskId> = kept.iter().map(|kept| kept.0).collect();
        let mut effects = std::mem::take(&mut self.effects);
        effects.clear();
        ledger.open(now, &mut effects);
        effects.ready.retain(|&local| {
            let task = ledger.task(local);
            let free = !kept.contains(&task) && !self.lent.contains(&task);
            match self.tried.get(&task).copied().filter(|_| free) {
                Some(tried) if self.stopping.is_none() => self.plan(tried, false),
                _ => return free,
            }
            false
        });
        self.apply_effects(now, &mut effects, actions);
        self.effects = effects;
    }

    /// Reports once that a leaving rank is empty.
    pub(super) fn leave_if_empty(&mut self, now: Time, actions: &mut Vec<WorkerAction>) {
        if !self.leaving || self.emptied || !self.phase.is_settled() {
            return;
        }
        let is_over = self.ledger.as_ref().is_none_or(|ledger| ledger.is_over());
        if !(is_over && self.guests.is_empty() && self.gangs.is_empty()) {
            return;
        }
        if !(self.report.is_empty() && self.started.is_empty()) {
            self.send_report(now, actions);
        }
        self.emptied = true;
        send(actions, Rank::ZERO, Message::Emptied { epoch: self.epoch });
    }
}
