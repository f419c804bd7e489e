//! A rank's part in a change of membership: freeze, answer, thaw under the new homes.
//!
//! | phase | event | next | does |
//! |---|---|---|---|
//! | frozen (a rank begins so) | `HandOut` | settled | takes up its part; starts what is ready and nobody keeps; counts what ended meanwhile |
//! | settled | `Prepare` | freezing | asks the pool for what waits there |
//! | freezing | `Frozen` | frozen | reports all that ended; `Ack` names what it keeps |
//! | frozen | an attempt ends | frozen | remembers it: its home may be about to change |
//! | frozen | `Prepare` of a later epoch | frozen | the same `Ack` again |
//!
//! Between `Ack` and `HandOut` nothing is counted, given, taken or tried again, so what the
//! coordinator knows by all acknowledgements is a consistent cut: every message of the old epoch
//! that is still under way speaks of what it knows already, and is void.

use std::sync::Arc;
use std::time::Duration;

use rustc_hash::FxHashSet;

use super::{Action, Guest, Worker, send};
use crate::graph::ascending::Ascending;
use crate::model::{Attempt, Rank, TaskId, Time};
use crate::schedule::amend::amended;
use crate::schedule::dependency_counts::{DependencyCounts, End, UnsoundPart};
use crate::schedule::homes::NODE_NS;
use crate::schedule::protocol::{HandOut, Lease, Message};
use crate::schedule::ranks::Ranks;

/// At most so many tasks are reserved: the others shall have a share of the rest.
const MOST_RESERVED: u32 = 65_536;

/// What has been lost with ranks.
#[derive(Debug, Default)]
pub(super) struct Lost {
    /// Open nodes whose home it was.
    pub(super) nodes: Ascending,
    /// The ranks.
    pub(super) ranks: Ranks,
}

/// How far a rank is with a change of membership.
#[derive(Debug)]
pub(super) enum ChangePhase {
    /// The homes are known.
    Settled,
    /// The pool has been asked for what waits there.
    Freezing {
        /// The epoch to prepare for.
        epoch: u32,
        /// What has been lost.
        lost: Lost,
    },
    /// Waits for its tasks.
    Frozen(Frozen),
}

/// What a frozen rank answers for.
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

    /// Keeps an end for later; false if it can be dealt with now.
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
    /// Homes are about to change.
    pub(super) fn prepare(&mut self, now: Time, epoch: u32, lost: Lost, reserve: bool, actions: &mut Vec<Action>) {
        match &self.phase {
            ChangePhase::Settled => {
                self.phase = ChangePhase::Freezing { epoch, lost };
                let keep = if reserve { self.reserve() } else { 0 };
                actions.push(Action::Freeze { keep });
            }
            ChangePhase::Freezing { .. } => self.phase = ChangePhase::Freezing { epoch, lost },
            ChangePhase::Frozen(frozen) => {
                let (kept, lent) = (frozen.kept.clone(), frozen.lent.clone());
                self.acknowledge(now, epoch, &lost, kept, lent, actions);
            }
        }
    }

    /// How many tasks the slots will start until the new homes are known: as many as fit in twice
    /// the time that it took before, or that it takes rank 0 to look at all tasks. Beside long
    /// tasks a change takes no time, and what is kept would wait behind them.
    fn reserve(&self) -> u32 {
        let nodes = self.ledger.as_ref().map_or(0, |ledger| ledger.len() as u64) * u64::from(self.thief.ranks());
        let stop = self.last_change.max(Duration::from_nanos(nodes * NODE_NS)) * 2;
        let waves = self.thief.usual().map_or(0.0, |usual| stop.as_secs_f64() / usual.as_secs_f64().max(1e-7));
        let bridge = (f64::from(self.slots) * waves) as u32;
        let least = if self.thief.are_tasks_long() { 0 } else { self.slots };
        (least + bridge).min(MOST_RESERVED.max(self.slots))
    }

    /// The pool has given up what waited there; what it has not, this rank keeps.
    pub(super) fn frozen(&mut self, now: Time, mut waiting: Vec<Lease>, actions: &mut Vec<Action>) {
        let ChangePhase::Freezing { epoch, lost } = &mut self.phase else { return };
        let (epoch, lost) = (*epoch, std::mem::take(lost));
        let mut lent: Vec<TaskId> = self.lent.iter().copied().collect();
        lent.sort_unstable();
        waiting.iter_mut().for_each(|lease| self.dismiss(lease));
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
        actions: &mut Vec<Action>,
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

    /// Takes up the tasks that this rank is home of from now on.
    pub(super) fn take_up(&mut self, now: Time, hand_out: HandOut, actions: &mut Vec<Action>) {
        let HandOut { epoch, now: told, part, amends, lost, active, leave, out, tried, leases, limits } = hand_out;
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
        actions.push(Action::TakeUp { limits });
        (self.leaving, self.emptied) = (leave, false);
        self.thief.meet(epoch, active);
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
        // Of what it kept, this may have been overtaken by what the coordinator heard from others.
        kept.retain(|&(task, attempt)| self.tried.get(&task).is_none_or(|tried| attempt > tried.attempts));
        ended.extend(self.house(&kept, leases, actions));
        self.begin(now, &ledger, &kept, actions);
        for attempt in ended {
            self.ended(now, attempt, actions);
        }
        if !self.cancelled.is_empty() {
            // Some of them may have come just now.
            self.cancel(now, self.cancelled.clone(), actions);
        }
        for (from, message) in std::mem::take(&mut self.early) {
            self.receive(now, from, message, actions);
        }
    }

    /// Learns who is home of the tasks that it keeps, and tells homes of ends that they may not
    /// have heard of. Returns such ends of tasks whose home this rank may be now.
    fn house(
        &mut self,
        kept: &[(TaskId, u16)],
        leases: Vec<(TaskId, Rank)>,
        actions: &mut Vec<Action>,
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

    /// Starts what is ready and kept by nobody.
    fn begin(&mut self, now: Time, ledger: &DependencyCounts, kept: &[(TaskId, u16)], actions: &mut Vec<Action>) {
        let kept: FxHashSet<TaskId> = kept.iter().map(|kept| kept.0).collect();
        let mut ripple = std::mem::take(&mut self.ripple);
        ripple.clear();
        ledger.open(now, &mut ripple);
        ripple.ready.retain(|&local| {
            let task = ledger.task(local);
            let free = !kept.contains(&task) && !self.lent.contains(&task);
            match self.tried.get(&task).copied().filter(|_| free) {
                Some(tried) if self.stopping.is_none() => self.plan(tried, false),
                _ => return free,
            }
            false
        });
        self.follow(now, &mut ripple, actions);
        self.ripple = ripple;
    }

    /// Says once that nothing is left on a rank that is to leave.
    pub(super) fn leave_if_empty(&mut self, now: Time, actions: &mut Vec<Action>) {
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
