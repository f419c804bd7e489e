//! Work stealing between ranks: which rank to ask, how much to give, how long to wait.
//!
//! A rank without work asks others, one at a time, in its own order drawn from a seed. A victim
//! with nothing to give remembers the thief (a *lifeline*: Saraswat et al., "Lifeline-based global
//! load balancing", PPoPP 2011) and sends work unasked when it next has more than its own slots can
//! start. After an unsuccessful round the thief waits for those lifelines instead of asking again;
//! once it has work, it releases them. Rank 0 is not involved.
//!
//! A rank whose own tasks only wait for a neighbour's next completion would, if it stole at once,
//! take the tasks that the neighbour is about to run, and both would stay out of step. So the thief
//! waits: it asks only after it has starved for longer than such a completion takes. A rank that
//! already lives on other ranks' work asks at once. Ranks with special equipment and unreliable
//! ones wait for longer, as `steal_terms` says.

use std::collections::VecDeque;
use std::time::Duration;

use super::action::WorkerAction;
use super::locality::{DataStealing, Holdings, ReadFiles};
use super::protocol::{Lease, Load, Message};
use super::ranks::Ranks;
use super::steal_terms::StealTerms;
use crate::model::{Attempt, Rank, State, TaskId, Time};

/// Number of ranks asked per round; each of them remembers the thief.
const ROUND_SIZE: usize = 8;

/// Tasks of at least this duration are given away one per free slot: a message takes a hundredth of
/// it, even between ranks that poll the network rarely.
const LONG_TASK_NS: u64 = 10_000_000;

/// A rank waits for its own work for this many times the usual duration of its tasks,
const STARVED_TASKS: u32 = 2;
/// but at most this long, unless its tasks need special equipment and are what the run waits for.
const MAX_STARVED_WAIT: Duration = Duration::from_millis(1);

/// Number of unsuccessful rounds that each double the pause before the next. A rank that is idle
/// for long receives work through lifelines; its requests would only keep other ranks awake.
pub(super) const MAX_PAUSE_DOUBLINGS: u32 = 3;

/// Upper limit on tasks per message, below the eager limit of common transports.
const MAX_TASKS_PER_MESSAGE: u32 = 128;

/// After this number of failed tasks in a row a rank steals less: it may be the cause, and would
/// otherwise fail the tasks of all others while these run one each.
const FAILURES_IN_ROW: u32 = 3;

/// Such a rank steals nothing for this long, and four times as long after each further failure.
const WARY_PAUSE: Duration = Duration::from_secs(1);

/// Number of times that the pause grows.
const WARY_DOUBLINGS: u32 = 3;

/// The stealing state of one rank: as thief (rounds, lifelines) and as victim (ranks that wait for
/// work).
pub(super) struct WorkStealer {
    me: Rank,
    /// Active ranks: each may be asked, and may ask.
    peers: Ranks,
    /// Epoch of this rank's messages.
    epoch: u32,
    /// Ranks still to be asked in this round.
    round: Vec<Rank>,
    /// The rank that has been asked and has not answered yet.
    asked: Option<Rank>,
    /// Earliest start of the next round.
    not_before: Time,
    pause: Duration,
    /// Since when this rank has starved, and whether it then had tasks at home that it is to wait
    /// for.
    since: Option<Time>,
    awaits_own: bool,
    /// How this rank steals in this epoch.
    terms: StealTerms,
    /// True if the last task that ran here was another rank's.
    ran_foreign_task: bool,
    /// Ranks that remember that this rank starves.
    lifelines: Vec<Rank>,
    /// Unsuccessful rounds since this rank last had work.
    failed_rounds: u32,
    /// Ranks that wait for work from here, with their number of free slots.
    waiting_thieves: VecDeque<(Rank, u32)>,
    /// True while the pool has been asked to give up tasks.
    giving: bool,
    /// Number of tasks in a row that failed here, the last of them, and until when this rank steals
    /// nothing because of that.
    failed_in_row: u32,
    last_failed: Option<TaskId>,
    wary_until: Time,
    /// Usual duration of tasks here; `None` until the first has ended.
    usual_ns: Option<u64>,
    random: u64,
    /// Where tasks read on the disk of their node what others have written.
    data: Option<Box<DataStealing>>,
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
            awaits_own: false,
            terms: StealTerms::default(),
            ran_foreign_task: false,
            lifelines: Vec::new(),
            failed_rounds: 0,
            waiting_thieves: VecDeque::new(),
            giving: false,
            failed_in_row: 0,
            last_failed: None,
            wary_until: Time::ZERO,
            usual_ns: None,
            random: 0x9E37_79B9_7F4A_7C15 ^ u64::from(me.0),
            data: None,
        }
    }

    /// Where tasks read on the disk of their node what others have written: the number of the node.
    pub(super) fn with_data(self, node: Option<u64>) -> WorkStealer {
        WorkStealer { data: node.map(|node| Box::new(DataStealing::new(node))), ..self }
    }

    /// True if it matters where files are.
    #[inline]
    pub(super) fn weighs_data(&self) -> bool {
        self.data.is_some()
    }

    /// This node has the outputs of a task.
    pub(super) fn hold(&mut self, writer: TaskId) {
        self.data.iter_mut().for_each(|data| data.hold(writer));
    }

    /// A thief has named the outputs that its node has.
    pub(super) fn learn(&mut self, thief: Rank, holdings: Holdings) {
        self.data.iter_mut().for_each(|data| data.learn(thief, holdings.clone()));
    }

    /// Divides what the pool gave up into what a thief gets and what stays.
    pub(super) fn choose(
        &mut self,
        now: Time,
        thief: Rank,
        leases: Vec<Lease>,
        reads: &dyn Fn(TaskId) -> Vec<ReadFiles>,
    ) -> (Vec<Lease>, Vec<Lease>) {
        match &mut self.data {
            Some(data) => data.choose(now, thief, leases, reads),
            None => (leases, Vec::new()),
        }
    }

    /// Changes the active ranks. Pending questions are dropped: the rank asked will not answer, and
    /// ranks that asked will ask again.
    pub(super) fn meet(&mut self, epoch: u32, peers: Ranks, terms: StealTerms) {
        self.epoch = epoch;
        self.peers = peers;
        self.terms = terms;
        self.since = None;
        self.round.clear();
        self.asked = None;
        self.waiting_thieves.clear();
        self.lifelines.clear();
        self.not_before = Time::ZERO;
        self.failed_rounds = 0;
        self.data.iter_mut().for_each(|data| data.meet());
    }

    /// The next active rank after another one; it may be this rank if there are only two.
    pub(super) fn next_after(&self, rank: Rank) -> Rank {
        self.peers.after(rank).unwrap_or(self.me)
    }

    /// Number of other ranks to steal from; none for an inactive rank.
    fn others(&self) -> u32 {
        if self.peers.contains(self.me) { self.peers.len() - 1 } else { 0 }
    }

    /// True if there are other active ranks beside this one.
    pub(super) fn has_others(&self) -> bool {
        self.others() > 0
    }

    /// When to try again without a further event.
    pub(super) fn next_try(&self, load: Load) -> Option<Time> {
        let starving = load.idle > 0 && load.ready == 0 && self.others() > 0;
        let waits_until = self.since.map_or(Time::ZERO, |since| since.after(self.own_work_wait()));
        (starving && self.asked.is_none()).then_some(self.not_before.max(self.wary_until).max(waits_until))
    }

    /// How long this rank starves before it asks others.
    fn own_work_wait(&self) -> Duration {
        let usual = self.usual_ns.map(Duration::from_nanos);
        let for_own = match (self.ran_foreign_task, self.awaits_own) {
            (true, _) => Duration::ZERO,
            (false, true) => STARVED_TASKS * usual.unwrap_or(self.terms.own_task),
            (false, false) => (STARVED_TASKS * usual.unwrap_or_default()).min(MAX_STARVED_WAIT),
        };
        let failing = f64::from(100 - self.terms.success.min(100)) / 100.0;
        for_own.max(usual.unwrap_or_default().mul_f64(failing))
    }

    /// Until when this rank leaves work to others because of what it has or has shown.
    pub(super) fn holds_back_until(&self) -> Option<Time> {
        let wait = Some(self.own_work_wait()).filter(|wait| *wait > MAX_STARVED_WAIT)?;
        Some(self.since?.after(wait))
    }

    /// Asks another rank if this one starves; serves waiting ranks if this one has more than it can
    /// start. `has_own`: whether special tasks are open at home.
    pub(super) fn update(
        &mut self,
        now: Time,
        load: Load,
        has_own: &dyn Fn() -> bool,
        actions: &mut Vec<WorkerAction>,
    ) {
        if load.ready == 0 && load.idle > 0 {
            if self.since.is_none() {
                self.awaits_own = !self.terms.own_task.is_zero() && has_own();
            }
            let since = *self.since.get_or_insert(now);
            if now >= since.after(self.own_work_wait()) {
                self.ask(now, load, actions);
            }
        } else {
            self.since = None;
            self.failed_rounds = 0;
            let epoch = self.epoch;
            let release_lifeline = |to| WorkerAction::Send { to, message: Message::Steal { epoch, want: 0 } };
            actions.extend(self.lifelines.drain(..).map(release_lifeline));
        }
        while self.may_give(now) && load.idle == 0 && load.ready > 0 {
            let Some((to, want)) = self.waiting_thieves.pop_front() else { break };
            actions.push(self.give(to, want, load));
        }
    }

    fn ask(&mut self, now: Time, load: Load, actions: &mut Vec<WorkerAction>) {
        if self.asked.is_some() || now < self.not_before.max(self.wary_until) || self.others() == 0 {
            return;
        }
        if self.round.is_empty() {
            self.round = self.draw_round();
        }
        if let Some(victim) = self.round.pop() {
            self.asked = Some(victim);
            let (epoch, want) = (self.epoch, load.idle);
            let message = match &self.data {
                Some(data) => Message::StealNear { epoch, want, holdings: data.holdings() },
                None => Message::Steal { epoch, want },
            };
            actions.push(WorkerAction::Send { to: victim, message });
        }
    }

    /// Records a victim's answer, or work that was sent unasked.
    pub(super) fn answered(&mut self, now: Time, from: Rank, got: usize) {
        if self.asked == Some(from) {
            self.asked = None;
        }
        if got > 0 {
            self.lifelines.retain(|&rank| rank != from);
            self.round.clear();
            self.failed_rounds = 0;
            self.not_before = now;
            return;
        }
        if !self.lifelines.contains(&from) {
            self.lifelines.push(from);
        }
        if self.asked.is_none() && self.round.is_empty() {
            self.not_before = now.after(self.pause * (1 << self.failed_rounds));
            self.failed_rounds = (self.failed_rounds + 1).min(MAX_PAUSE_DOUBLINGS);
        }
    }

    /// Answers another rank's request.
    pub(super) fn asked(&mut self, now: Time, from: Rank, want: u32, load: Load) -> Option<WorkerAction> {
        if from == self.me || !self.peers.contains(from) {
            return None;
        }
        if want == 0 {
            self.waiting_thieves.retain(|waiting_thieves| waiting_thieves.0 != from);
            return None;
        }
        if load.ready > load.idle && self.may_give(now) {
            return Some(self.give(from, want, load));
        }
        self.remember(from, want);
        Some(WorkerAction::Send { to: from, message: Message::StealReply { epoch: self.epoch, leases: Vec::new() } })
    }

    /// Of short tasks, gives half of those that this rank cannot start itself: then both ranks
    /// finish at about the same time if tasks are alike, and a few more messages correct it if not.
    /// Of long tasks, gives no more than the other can start at once: a task that waits there would
    /// be late if a slot becomes free here first, and a message costs little compared with such a
    /// task.
    fn give(&mut self, to: Rank, want: u32, load: Load) -> WorkerAction {
        self.giving = true;
        let surplus = load.ready.saturating_sub(load.idle);
        let half = surplus.div_ceil(2);
        let share = if self.are_tasks_long() { half.min(want) } else { half };
        let (share, usual) = (share.clamp(1, MAX_TASKS_PER_MESSAGE), self.usual());
        let weighed = |data: &mut Box<DataStealing>| data.begin(to, (share, MAX_TASKS_PER_MESSAGE), load, usual);
        WorkerAction::Surrender { to, max: self.data.as_mut().map_or(share, weighed) }
    }

    fn may_give(&self, now: Time) -> bool {
        !self.giving && !self.data.as_ref().is_some_and(|data| data.is_pausing(now))
    }

    /// Usual duration of tasks here, once one has ended.
    pub(super) fn usual(&self) -> Option<Duration> {
        self.usual_ns.map(Duration::from_nanos)
    }

    /// Number of active ranks.
    pub(super) fn ranks(&self) -> u32 {
        self.peers.len()
    }

    /// True unless tasks are known to be so short that the cost of a message matters.
    pub(super) fn are_tasks_long(&self) -> bool {
        self.usual_ns.is_none_or(|ns| ns >= LONG_TASK_NS)
    }

    /// Learns from an ended attempt: how long tasks usually take, and whether this rank lives on
    /// other ranks' work.
    pub(super) fn note_end(&mut self, attempt: &Attempt, ran_foreign_task: bool) {
        self.ran_foreign_task = ran_foreign_task;
        match attempt.outcome.state {
            State::Completed => self.failed_in_row = 0,
            state if state.is_failure() && self.last_failed != Some(attempt.task) => {
                self.last_failed = Some(attempt.task);
                self.failed_in_row += 1;
                if let Some(more) = self.failed_in_row.checked_sub(FAILURES_IN_ROW) {
                    self.wary_until = attempt.end.after(WARY_PAUSE * (1 << (2 * more.min(WARY_DOUBLINGS))));
                }
            }
            _ => {}
        }
        if self.failed_in_row == 0 {
            self.wary_until = Time::ZERO;
        }
        let ns = attempt.end.0.saturating_sub(attempt.start.0);
        self.usual_ns = Some(self.usual_ns.map_or(ns, |usual| usual - usual / 8 + ns / 8));
    }

    /// Records what the pool gave up for a rank; a rank that got nothing stays in the queue.
    pub(super) fn note_given(&mut self, to: Rank, count: usize) {
        self.giving = false;
        if count == 0 {
            self.remember(to, 1);
        }
    }

    fn remember(&mut self, thief: Rank, want: u32) {
        self.waiting_thieves.retain(|h| h.0 != thief);
        self.waiting_thieves.push_back((thief, want));
    }

    fn draw_round(&mut self) -> Vec<Rank> {
        let (Some(mine), others) = (self.peers.position(self.me), self.others()) else { return Vec::new() };
        let take = (others as usize).min(ROUND_SIZE);
        let mut picked: Vec<Rank> = Vec::with_capacity(take);
        while picked.len() < take {
            // xorshift64 (Marsaglia 2003): any distribution of victims works, and the simulator
            // must draw the same one.
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Outcome;

    const SECOND: u64 = 1_000_000_000;

    fn attempt(task: u32, end: u64, state: State) -> Attempt {
        let (time, outcome) = (Time(end), Outcome { state, exit: 0, cached: false });
        let (start, rank) = (Time(end - 1_000_000), Rank(1));
        Attempt { task: TaskId(task), attempt: 1, outcome, last: true, rank, slot: 0, ready: start, start, end: time }
    }

    /// When rank 1 of two, which is idle, asks the other for work.
    fn asks_at(stealer: &WorkStealer) -> u64 {
        stealer.next_try(Load { idle: 2, ..Load::default() }).expect("it starves").0
    }

    #[test]
    fn a_rank_holds_back_for_its_own_tasks_and_where_attempts_fail() {
        let terms = StealTerms { own_task: Duration::from_secs(4), success: 100 };
        let starving = Load { idle: 2, ..Load::default() };
        let asks = |terms: StealTerms, ran: Option<bool>, has_own: bool| {
            let mut stealer = WorkStealer::new(Rank(1), Duration::from_millis(50));
            stealer.meet(1, Ranks::first(2), terms);
            // A task of a second.
            let took = |mut attempt: Attempt| {
                attempt.start = Time(attempt.end.0 - SECOND);
                attempt
            };
            ran.into_iter().for_each(|foreign| stealer.note_end(&took(attempt(1, SECOND, State::Completed)), foreign));
            let mut actions = Vec::new();
            stealer.update(Time(SECOND), starving, &|| has_own, &mut actions);
            if actions.is_empty() { asks_at(&stealer) } else { SECOND }
        };
        let plain = StealTerms::default();
        assert_eq!(asks(plain, Some(false), true), SECOND + 1_000_000);
        assert_eq!(asks(terms, None, true), 9 * SECOND, "two tasks as estimated");
        assert_eq!(asks(terms, Some(false), true), 3 * SECOND, "two tasks as measured");
        assert_eq!(asks(terms, Some(true), true), SECOND, "it lives on other ranks' work");
        assert_eq!(asks(terms, Some(false), false), SECOND + 1_000_000, "none is left");
        let failing = StealTerms { success: 25, ..plain };
        assert_eq!(asks(failing, Some(true), false), SECOND + SECOND / 4 * 3);
        assert_eq!(asks(failing, None, false), SECOND, "nothing is known of how long tasks take");
    }

    #[test]
    fn a_rank_whose_tasks_fail_in_a_row_takes_few_tasks_of_others() {
        let mut stealer = WorkStealer::new(Rank(1), Duration::from_millis(50));
        stealer.meet(1, Ranks::first(2), StealTerms::default());
        (0..2).for_each(|task| stealer.note_end(&attempt(task, SECOND, State::Failed), true));
        (0..9).for_each(|_| stealer.note_end(&attempt(1, SECOND, State::Failed), true));
        assert!(asks_at(&stealer) <= SECOND, "one bad task that is retried is no sign");
        // Each task that it gets fails at once: in ten minutes it fails few of them.
        let (mut now, mut taken) = (SECOND, 2);
        while now < 600 * SECOND {
            taken += 1;
            stealer.note_end(&attempt(taken, now, State::Failed), true);
            now = asks_at(&stealer).max(now + 1_000_000);
        }
        assert!((8..20).contains(&taken), "{taken} tasks failed");
        stealer.note_end(&attempt(1000, now, State::Completed), true);
        assert!(asks_at(&stealer) <= now, "it has recovered");
    }
}
