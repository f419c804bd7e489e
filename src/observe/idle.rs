//! Accounts for the time of all slots: running tasks, or idle, with the cause.
//!
//! One sweep over all times at which a quantity changed. Idle slots are assigned to causes in this
//! order:
//!
//! | cause | when |
//! |---|---|
//! | start-up | no task of the session has started yet |
//! | hand-over | tasks are ready that any slot could run: one idle slot per such task |
//! | limit | tasks are ready that the limit of their array holds back |
//! | room | tasks are ready that need more slots, memory or GPUs than any one rank has free |
//! | dependencies | no task is ready, but further tasks will become ready |
//! | tail | no further task will become ready: the last tasks run |
//! | closing | the last task has ended |

use super::steps::spread;
use super::timeline::{HeldBy, Slice, Timeline};

/// Use of a slot: a running task, or the cause of idleness.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Use {
    /// Runs an attempt that succeeds.
    Work,
    /// Runs an attempt that does not succeed.
    Wasted,
    /// Idle: the session is starting.
    StartUp,
    /// Idle: tasks are ready but have not reached the slot yet.
    HandOver,
    /// Idle: arrays are at their limits.
    Limit,
    /// Idle: the ready tasks need more resources than are free.
    Room,
    /// Idle: waits for dependencies.
    Dependencies,
    /// Idle: the last tasks run on other slots.
    Tail,
    /// Idle: the session is closing.
    Closing,
}

impl Use {
    /// All uses, in the order in which charts stack them.
    pub const ALL: [Use; 9] = [
        Use::Work,
        Use::Wasted,
        Use::HandOver,
        Use::Limit,
        Use::Room,
        Use::Dependencies,
        Use::Tail,
        Use::StartUp,
        Use::Closing,
    ];

    /// True if no attempt uses the slot.
    pub fn is_idle(self) -> bool {
        !matches!(self, Use::Work | Use::Wasted)
    }

    /// Name for people.
    pub fn name(self) -> &'static str {
        match self {
            Use::Work => "work",
            Use::Wasted => "attempts without success",
            Use::StartUp => "idle: start-up",
            Use::HandOver => "idle: hand-over of ready tasks",
            Use::Limit => "idle: limit of an array or pool",
            Use::Room => "idle: no room for what is ready",
            Use::Dependencies => "idle: waiting for dependencies",
            Use::Tail => "idle: last tasks still running",
            Use::Closing => "idle: closing",
        }
    }

    /// Name in JSON.
    pub fn key(self) -> &'static str {
        match self {
            Use::Work => "work",
            Use::Wasted => "wasted",
            Use::StartUp => "startup",
            Use::HandOver => "handover",
            Use::Limit => "limit",
            Use::Room => "room",
            Use::Dependencies => "dependencies",
            Use::Tail => "tail",
            Use::Closing => "closing",
        }
    }
}

/// Slot-nanoseconds per use: total, and in equal columns over the run.
#[derive(Clone, Debug)]
pub(super) struct Uses {
    end: u64,
    totals: [f64; Use::ALL.len()],
    columns: Vec<Vec<f64>>,
}

impl Uses {
    /// Accounts for the slots of a run, in `columns` equal intervals of time.
    pub fn of(timeline: &Timeline, columns: usize) -> Uses {
        let mut uses = Uses {
            end: timeline.end(),
            totals: [0.0; Use::ALL.len()],
            columns: vec![vec![0.0; columns]; Use::ALL.len()],
        };
        for session in 0..timeline.sessions.len() {
            uses.sweep(timeline, session);
        }
        uses
    }

    /// Accounts for the slots of one session.
    pub fn of_session(timeline: &Timeline, session: usize) -> Uses {
        let mut uses =
            Uses { end: timeline.end(), totals: [0.0; Use::ALL.len()], columns: vec![Vec::new(); Use::ALL.len()] };
        uses.sweep(timeline, session);
        uses
    }

    /// Slot-nanoseconds of one use.
    pub fn total(&self, of: Use) -> f64 {
        self.totals[of as usize]
    }

    /// Slot-nanoseconds in all.
    pub fn sum(&self) -> f64 {
        self.totals.iter().sum()
    }

    /// Mean number of slots in this use, per column.
    pub fn over_time(&self, of: Use) -> Vec<f64> {
        let columns = &self.columns[of as usize];
        let width = (self.end as f64 / columns.len().max(1) as f64).max(1.0);
        columns.iter().map(|slot_ns| slot_ns / width).collect()
    }

    fn add(&mut self, of: Use, from: u64, until: u64, slots: f64) {
        if slots > 0.0 {
            self.totals[of as usize] += slots * (until - from) as f64;
            spread(&mut self.columns[of as usize], self.end, from, until, slots);
        }
    }

    fn sweep(&mut self, timeline: &Timeline, session: usize) {
        let span = timeline.sessions[session];
        let slices = || timeline.slices.iter().filter(|slice| slice.session as usize == session);
        let first = slices().map(|slice| slice.start).min();
        let last = slices().map(|slice| slice.end).max();
        let mut changes: Vec<(u64, IdleChange, i64)> = slices().flat_map(changes_of).collect();
        let supply = timeline.supply.iter().filter(|change| change.session as usize == session);
        changes.extend(supply.map(|change| (change.at, IdleChange::Slots, change.slots)));
        changes.sort_unstable_by_key(|change| change.0);
        let mut now = Now { to_come: slices().count() as i64, ..Now::default() };
        let mut at = span.from;
        for (moment, what, by) in changes {
            let until = moment.clamp(at, span.to.max(at));
            if until > at {
                self.account(&now, at, until, (first, last));
                at = until;
            }
            now.change(what, by);
        }
        if span.to > at {
            self.account(&now, at, span.to, (first, last));
        }
    }

    fn account(&mut self, now: &Now, from: u64, until: u64, (first, last): (Option<u64>, Option<u64>)) {
        self.add(Use::Work, from, until, now.work as f64);
        self.add(Use::Wasted, from, until, now.wasted as f64);
        let mut idle = (now.slots - now.work - now.wasted).max(0);
        if first.is_none_or(|first| until <= first) {
            return self.add(Use::StartUp, from, until, idle as f64);
        }
        if last.is_none_or(|last| from >= last) {
            return self.add(Use::Closing, from, until, idle as f64);
        }
        for (why, waiting) in [(Use::HandOver, now.free), (Use::Limit, now.limited), (Use::Room, now.roomy)] {
            let part = idle.min(waiting);
            self.add(why, from, until, part as f64);
            idle -= part;
        }
        // A task that waits for room may keep more slots idle than it needs.
        let rest = match (now.roomy > 0, now.to_come > 0) {
            (true, _) => Use::Room,
            (false, true) => Use::Dependencies,
            (false, false) => Use::Tail,
        };
        self.add(rest, from, until, idle as f64);
    }
}

/// A quantity that changes.
#[derive(Clone, Copy)]
enum IdleChange {
    Work,
    Wasted,
    Waiting(HeldBy),
    ToCome,
    Slots,
}

/// Current number of slots or tasks in each condition.
#[derive(Default)]
struct Now {
    work: i64,
    wasted: i64,
    free: i64,
    limited: i64,
    roomy: i64,
    to_come: i64,
    slots: i64,
}

impl Now {
    fn change(&mut self, what: IdleChange, by: i64) {
        *match what {
            IdleChange::Work => &mut self.work,
            IdleChange::Wasted => &mut self.wasted,
            IdleChange::Waiting(HeldBy::Nothing) => &mut self.free,
            IdleChange::Waiting(HeldBy::Limit) => &mut self.limited,
            IdleChange::Waiting(HeldBy::Room) => &mut self.roomy,
            IdleChange::ToCome => &mut self.to_come,
            IdleChange::Slots => &mut self.slots,
        } += by;
    }
}

fn changes_of(slice: &Slice) -> [(u64, IdleChange, i64); 5] {
    let slots = i64::from(slice.slots);
    let what = if slice.outcome.ok() { IdleChange::Work } else { IdleChange::Wasted };
    let waiting = IdleChange::Waiting(slice.held_by);
    [
        (slice.ready, IdleChange::ToCome, -1),
        (slice.ready, waiting, slots),
        (slice.start, waiting, -slots),
        (slice.start, what, slots),
        (slice.end, what, -slots),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Outcome, TaskId};
    use crate::observe::timeline::{SessionSpan, Supply};

    fn slice(ready: u64, start: u64, end: u64) -> Slice {
        Slice {
            task: TaskId(0),
            session: 0,
            attempt: 1,
            rank: 0,
            slot: 0,
            lane: 0,
            class: 0,
            slots: 1,
            held_by: HeldBy::Nothing,
            outcome: Outcome::OK,
            ready,
            start,
            end,
        }
    }

    fn uses(slices: Vec<Slice>, to: u64) -> Uses {
        let span = SessionSpan { from: 0, to, slots: 2 };
        let change = |at, by| Supply { at, session: 0, ranks: by, slots: 2 * by };
        let supply = vec![change(0, 1), change(to, -1)];
        Uses::of(&Timeline { slices, classes: vec!["a".into()], sessions: vec![span], supply }, 10)
    }

    #[test]
    fn every_slot_second_has_a_use() {
        // Two tasks start after 10; one of them waits for 5 while a slot is idle; a third becomes
        // ready at 40; the run closes at 100.
        let uses = uses(vec![slice(10, 10, 40), slice(10, 15, 30), slice(40, 40, 90)], 100);
        let expected = [
            (Use::StartUp, 20.0),
            (Use::Work, 95.0),
            (Use::HandOver, 5.0),
            (Use::Dependencies, 10.0),
            (Use::Tail, 50.0),
            (Use::Closing, 20.0),
        ];
        for (of, slot_ns) in expected {
            assert_eq!(uses.total(of), slot_ns, "{}", of.name());
        }
        assert_eq!(uses.sum(), 200.0);
        assert_eq!(uses.over_time(Use::StartUp)[..2], [2.0, 0.0]);
    }

    #[test]
    fn what_is_held_back_is_no_hand_over() {
        let wide = Slice { held_by: HeldBy::Room, slots: 2, ..slice(10, 20, 30) };
        let uses = uses(vec![slice(0, 0, 20), wide], 30);
        assert_eq!(uses.total(Use::Room), 10.0);
        assert_eq!(uses.total(Use::HandOver), 0.0);
        let limited = Slice { held_by: HeldBy::Limit, ..slice(10, 20, 30) };
        assert_eq!(super::tests::uses(vec![slice(0, 0, 20), limited], 30).total(Use::Limit), 10.0);
    }

    #[test]
    fn a_run_without_tasks_was_starting_all_the_time() {
        assert_eq!(uses(Vec::new(), 50).total(Use::StartUp), 100.0);
    }
}
