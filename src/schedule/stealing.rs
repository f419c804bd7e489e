//! Stealing between ranks: whom to ask, how much to give, when to wait.
//!
//! A rank without work asks others, one at a time, in an order of its own drawn from a seed. A rank
//! that had nothing to give remembers who asked (a *lifeline*: Saraswat et al., "Lifeline-based
//! global load balancing", PPoPP 2011) and sends work unasked when it next has more than its own
//! slots can start. After a round without success the thief waits for those lifelines instead of
//! asking on and on; once it has work again, it lets go of them. Rank 0 is not between thief and
//! victim.
//!
//! A rank whose own tasks only wait for a neighbour's next end would, if it stole at once, take
//! from that neighbour what the neighbour is about to run, and both would be out of step from then
//! on. So the thief has patience: it asks when it has starved for longer than such an end takes.
//! What it lives on already is other ranks' work: then it asks at once.

use std::collections::VecDeque;
use std::time::Duration;

use super::action::WorkerAction as Action;
use super::protocol::{Load, Message};
use super::ranks::Ranks;
use crate::model::{Attempt, Rank, Time};

/// At most so many others are asked in a round; each remembers us.
const ROUND: usize = 8;

/// Tasks of this length and more are given away one for each slot that is free for them: a message
/// takes a hundredth of it even between ranks that look at the network only now and then.
const LONG_NS: u64 = 10_000_000;

/// A rank waits for its own work as long as so many of its tasks take ...
const TASKS: u32 = 2;
/// ... but not longer than this.
const PATIENCE: Duration = Duration::from_millis(1);

/// So many rounds in vain double the pause before the next: who has nothing to do for long hears of
/// work from those who remember it, and its messages would only keep all others awake.
pub(super) const DOUBLINGS: u32 = 3;

/// At most so many tasks are given in one message (it stays below the eager limit of common
/// transports).
const MOST: u32 = 128;

/// See the module's text.
pub(super) struct WorkStealer {
    me: Rank,
    /// Ranks that take part: each may be asked, and may ask.
    peers: Ranks,
    /// Membership that this rank's messages speak of.
    epoch: u32,
    /// Others still to be asked in this round.
    round: Vec<Rank>,
    /// Whom we have asked and who has not answered yet.
    asked: Option<Rank>,
    /// No new round before this.
    not_before: Time,
    pause: Duration,
    /// Since when this rank has starved.
    since: Option<Time>,
    /// True if what it ran last was another rank's.
    abroad: bool,
    /// Who remembers that this rank starves.
    lifelines: Vec<Rank>,
    /// Rounds in vain since this rank last had work.
    in_vain: u32,
    /// Ranks that wait for work from here, and how many slots they had free.
    hungry: VecDeque<(Rank, u32)>,
    /// True while the pool has been asked to give something up.
    giving: bool,
    /// How long tasks usually take here; `None` until the first has ended.
    usual_ns: Option<u64>,
    random: u64,
}

impl WorkStealer {
    pub(super) fn new(me: Rank, pause: Duration) -> WorkStealer {
        WorkStealer {
            me,
            peers: Ranks::default(),
            epoch: 0,
            round: Vec::new(),
            asked: None,
            not_before: Time::ZERO,
            pause,
            since: None,
            abroad: false,
            lifelines: Vec::new(),
            in_vain: 0,
            hungry: VecDeque::new(),
            giving: false,
            usual_ns: None,
            random: 0x9E37_79B9_7F4A_7C15 ^ u64::from(me.0),
        }
    }

    /// Others take part from now on. Who was asked before will not answer, and who asked will ask
    /// again.
    pub(super) fn meet(&mut self, epoch: u32, peers: Ranks) {
        self.epoch = epoch;
        self.peers = peers;
        self.round.clear();
        self.asked = None;
        self.hungry.clear();
        self.lifelines.clear();
        self.not_before = Time::ZERO;
        self.in_vain = 0;
    }

    /// The rank after another one, which may be this one if there are only two.
    pub(super) fn next_after(&self, rank: Rank) -> Rank {
        self.peers.after(rank).unwrap_or(self.me)
    }

    /// How many others there are to steal from; none for a rank that does not take part.
    fn others(&self) -> u32 {
        if self.peers.contains(self.me) { self.peers.len() - 1 } else { 0 }
    }

    /// When to look again by itself.
    pub(super) fn next_try(&self, load: Load) -> Option<Time> {
        let starving = load.idle > 0 && load.ready == 0 && self.others() > 0;
        let patient_until = self.since.map_or(Time::ZERO, |since| since.after(self.patience()));
        (starving && self.asked.is_none()).then_some(self.not_before.max(patient_until))
    }

    fn patience(&self) -> Duration {
        match self.usual_ns {
            Some(ns) if !self.abroad => (TASKS * Duration::from_nanos(ns)).min(PATIENCE),
            _ => Duration::ZERO,
        }
    }

    /// Asks another rank if this one starves; serves those who wait if this one has more than it
    /// can start.
    pub(super) fn look(&mut self, now: Time, load: Load, actions: &mut Vec<Action>) {
        if load.ready == 0 && load.idle > 0 {
            let since = *self.since.get_or_insert(now);
            if now >= since.after(self.patience()) {
                self.ask(now, load, actions);
            }
        } else {
            self.since = None;
            self.in_vain = 0;
            let epoch = self.epoch;
            let let_go = |to| Action::Send { to, message: Message::Steal { epoch, want: 0 } };
            actions.extend(self.lifelines.drain(..).map(let_go));
        }
        while !self.giving && load.idle == 0 && load.ready > 0 {
            let Some((to, want)) = self.hungry.pop_front() else { break };
            actions.push(self.give(to, want, load));
        }
    }

    fn ask(&mut self, now: Time, load: Load, actions: &mut Vec<Action>) {
        if self.asked.is_some() || now < self.not_before || self.others() == 0 {
            return;
        }
        if self.round.is_empty() {
            self.round = self.draw_round();
        }
        if let Some(victim) = self.round.pop() {
            self.asked = Some(victim);
            actions.push(Action::Send { to: victim, message: Message::Steal { epoch: self.epoch, want: load.idle } });
        }
    }

    /// A victim answered, or somebody sent work unasked.
    pub(super) fn answered(&mut self, now: Time, from: Rank, got: usize) {
        if self.asked == Some(from) {
            self.asked = None;
        }
        if got > 0 {
            self.lifelines.retain(|&rank| rank != from);
            self.round.clear();
            self.in_vain = 0;
            self.not_before = now;
            return;
        }
        if !self.lifelines.contains(&from) {
            self.lifelines.push(from);
        }
        if self.asked.is_none() && self.round.is_empty() {
            self.not_before = now.after(self.pause * (1 << self.in_vain));
            self.in_vain = (self.in_vain + 1).min(DOUBLINGS);
        }
    }

    /// Somebody asks us.
    pub(super) fn asked(&mut self, from: Rank, want: u32, load: Load) -> Option<Action> {
        if from == self.me || !self.peers.contains(from) {
            return None;
        }
        if want == 0 {
            self.hungry.retain(|hungry| hungry.0 != from);
            return None;
        }
        if load.ready > load.idle && !self.giving {
            return Some(self.give(from, want, load));
        }
        self.remember(from, want);
        Some(Action::Send { to: from, message: Message::Loot { epoch: self.epoch, leases: Vec::new() } })
    }

    /// Of short tasks half of what we cannot start ourselves: so both sides end at about the same
    /// time if tasks are alike, and a few more messages mend it if they are not. Of long tasks no
    /// more than the other can start at once: what waits there would be late if a slot falls free
    /// here first, and a message is nothing beside such a task.
    fn give(&mut self, to: Rank, want: u32, load: Load) -> Action {
        self.giving = true;
        let surplus = load.ready.saturating_sub(load.idle);
        let half = surplus.div_ceil(2);
        let share = if self.are_tasks_long() { half.min(want) } else { half };
        Action::Surrender { to, max: share.clamp(1, MOST) }
    }

    /// How long tasks usually take here, once one has ended.
    pub(super) fn usual(&self) -> Option<Duration> {
        self.usual_ns.map(Duration::from_nanos)
    }

    /// How many ranks take part.
    pub(super) fn ranks(&self) -> u32 {
        self.peers.len()
    }

    /// True unless tasks are known to be so short that a message counts beside them.
    pub(super) fn are_tasks_long(&self) -> bool {
        self.usual_ns.is_none_or(|ns| ns >= LONG_NS)
    }

    /// Learns from an attempt that ended here how long tasks usually take, and whose work this rank
    /// lives on.
    pub(super) fn ran(&mut self, attempt: &Attempt, abroad: bool) {
        self.abroad = abroad;
        let ns = attempt.end.0.saturating_sub(attempt.start.0);
        self.usual_ns = Some(self.usual_ns.map_or(ns, |usual| usual - usual / 8 + ns / 8));
    }

    /// The pool gave something (or nothing) up for a rank; it stays hungry if it got nothing.
    pub(super) fn gave(&mut self, to: Rank, count: usize) {
        self.giving = false;
        if count == 0 {
            self.remember(to, 1);
        }
    }

    fn remember(&mut self, thief: Rank, want: u32) {
        self.hungry.retain(|h| h.0 != thief);
        self.hungry.push_back((thief, want));
    }

    fn draw_round(&mut self) -> Vec<Rank> {
        let (Some(mine), others) = (self.peers.position(self.me), self.others()) else { return Vec::new() };
        let take = (others as usize).min(ROUND);
        let mut picked: Vec<Rank> = Vec::with_capacity(take);
        while picked.len() < take {
            // xorshift64 (Marsaglia 2003): any spread of victims does, and the simulator must draw
            // the same one.
            self.random ^= self.random << 13;
            self.random ^= self.random >> 7;
            self.random ^= self.random << 17;
            let step = 1 + self.random % u64::from(others);
            let position = (u64::from(mine) + step) % u64::from(others + 1);
            match self.peers.nth(position as u32) {
                Some(candidate) if !picked.contains(&candidate) => picked.push(candidate),
                _ => {}
            }
        }
        picked
    }
}
