//! A run as charts show it: each attempt that ran as a slice on one clock, by rank, slot and class.
//!
//! The trace, the report and the analysis all use this type, so they agree. All times are
//! nanoseconds since the first session began.

use rustc_hash::FxHashMap;

use super::job_view::{JobView, Label};
use super::run_view::RunView;
use super::steps::Steps;
use crate::journal::Session;
use crate::model::{Attempt, Outcome, RankState, State, TaskId, Time};

/// An attempt that ran.
#[derive(Clone, Copy, Debug)]
pub(super) struct Slice {
    /// Number of the task in its session.
    pub task: TaskId,
    /// Index of its session.
    pub session: u32,
    /// 1 for the first attempt.
    pub attempt: u16,
    /// Rank that ran it.
    pub rank: u32,
    /// Slot that ran it.
    pub slot: u16,
    /// Lane of the slot in charts: 0 unless it overlaps another slice of the slot.
    pub lane: u16,
    /// Index of its class in [`Timeline::classes`].
    pub class: u32,
    /// Number of slots that it used.
    pub slots: u32,
    /// What may have delayed its start after it became ready.
    pub held_by: HeldBy,
    /// How it ended.
    pub outcome: Outcome,
    /// Time at which its last dependency was met.
    pub ready: u64,
    /// Time at which it started.
    pub start: u64,
    /// Time at which it ended.
    pub end: u64,
}

/// Why a ready task may wait although a slot is idle.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum HeldBy {
    /// Any idle slot can run it.
    Nothing,
    /// The limit of its array.
    Limit,
    /// It needs several slots, memory or a GPU.
    Room,
}

impl Slice {
    /// Run time.
    pub fn ran(&self) -> u64 {
        self.end - self.start
    }

    /// Time between ready and start.
    pub fn waited(&self) -> u64 {
        self.start - self.ready
    }
}

/// The time span of a session.
#[derive(Clone, Copy, Debug)]
pub(super) struct SessionSpan {
    /// Its beginning.
    pub from: u64,
    /// Its end, or the time of its last record.
    pub to: u64,
    /// Maximum number of slots at once.
    pub slots: u32,
}

/// A change of the active ranks.
#[derive(Clone, Copy, Debug)]
pub(super) struct Supply {
    /// Time of the change.
    pub at: u64,
    /// Index of the session.
    pub session: u32,
    /// Change of the number of ranks.
    pub ranks: i64,
    /// Change of the number of slots.
    pub slots: i64,
}

/// The slices, classes, sessions and rank changes of a run, on one clock.
pub(super) struct Timeline {
    /// All attempts that ran, by start time.
    pub slices: Vec<Slice>,
    /// Names of the classes.
    pub classes: Vec<String>,
    /// The sessions, oldest first.
    pub sessions: Vec<SessionSpan>,
    /// Changes of the active ranks, by time within each session.
    pub supply: Vec<Supply>,
}

impl Timeline {
    /// Collects all attempts of a run on one clock.
    pub fn of(run: &RunView) -> Timeline {
        let mut classes = ClassNames::default();
        let mut timeline =
            Timeline { slices: Vec::new(), classes: Vec::new(), sessions: Vec::new(), supply: Vec::new() };
        for (index, (session, subject)) in run.sessions().enumerate() {
            let from = run.on_run_clock(session, Time::ZERO);
            let supply = supply(run, session, index as u32);
            let slots = Steps::of(supply.iter().map(|change| (change.at, change.slots)).collect()).max();
            timeline.supply.extend(supply);
            let to = from + run.wall_ns(session);
            timeline.sessions.push(SessionSpan { from, to, slots: u32::try_from(slots).unwrap_or(u32::MAX) });
            // A task cancelled while it waited had no slot.
            let waited = |a: &Attempt| a.outcome.state == State::Cancelled && a.start == a.end;
            let ran = session.attempts.iter().filter(|attempt| attempt.attempt > 0 && !waited(attempt));
            timeline.slices.extend(ran.map(|attempt| slice(run, session, &*subject.job, index, attempt, &mut classes)));
        }
        timeline.classes = classes.names;
        timeline.slices.sort_by_key(|slice| (slice.start, slice.end, slice.task));
        timeline.choose_lanes();
        timeline
    }

    /// End of the last session.
    pub fn end(&self) -> u64 {
        self.sessions.iter().map(|span| span.to).max().unwrap_or(0)
    }

    /// Name of the task of a slice.
    pub fn label<'a>(&self, run: &'a RunView, slice: &Slice) -> Label<'a> {
        let subject = run.sessions().nth(slice.session as usize).map_or(run.subject(), |(_, subject)| subject);
        subject.job.label(slice.task)
    }

    /// Assigns lanes. Slices of one slot overlap only where the head of several ranks runs tasks.
    fn choose_lanes(&mut self) {
        let mut ends: FxHashMap<(u32, u16), Vec<u64>> = FxHashMap::default();
        for slice in &mut self.slices {
            let lanes = ends.entry((slice.rank, slice.slot)).or_default();
            let lane = lanes.iter().position(|end| *end <= slice.start).unwrap_or(lanes.len());
            slice.lane = u16::try_from(lane).unwrap_or(u16::MAX);
            match lanes.get_mut(lane) {
                Some(end) => *end = slice.end,
                None => lanes.push(slice.end),
            }
        }
    }
}

/// The initial ranks of a session, and those that joined, left or paused later.
fn supply(run: &RunView, session: &Session, index: u32) -> Vec<Supply> {
    let (from, to) = (run.on_run_clock(session, Time::ZERO), run.on_run_clock(session, Time(run.wall_ns(session))));
    let change = |at: u64, slots: i64, ranks: i64| Supply {
        at,
        session: index,
        ranks: ranks * slots.signum().abs(),
        slots: slots * ranks,
    };
    let mut active: FxHashMap<u32, i64> = FxHashMap::default();
    let mut supply = Vec::new();
    for info in &session.began.ranks {
        active.insert(info.rank, i64::from(info.slots));
        supply.push(change(from, i64::from(info.slots), 1));
    }
    for next in &session.ranks {
        let at = run.on_run_clock(session, next.time).min(to);
        let slots = if next.state == RankState::Active { i64::from(next.info.slots) } else { 0 };
        let before = active.insert(next.info.rank, slots).unwrap_or(0);
        if before != slots {
            supply.extend([change(at, before, -1), change(at, slots, 1)]);
        }
    }
    supply.extend(active.into_values().map(|slots| change(to, slots, -1)));
    supply.sort_by_key(|change| change.at);
    supply
}

/// Class names by number.
#[derive(Default)]
struct ClassNames {
    names: Vec<String>,
    numbers: FxHashMap<String, u32>,
}

impl ClassNames {
    fn number(&mut self, name: &str) -> u32 {
        if let Some(number) = self.numbers.get(name) {
            return *number;
        }
        let number = self.names.len() as u32;
        self.names.push(name.to_owned());
        self.numbers.insert(name.to_owned(), number);
        number
    }
}

fn slice(
    run: &RunView,
    session: &Session,
    job: &dyn JobView,
    index: usize,
    attempt: &Attempt,
    classes: &mut ClassNames,
) -> Slice {
    let start = run.on_run_clock(session, attempt.start);
    Slice {
        task: attempt.task,
        session: index as u32,
        attempt: attempt.attempt,
        rank: attempt.rank.0,
        slot: attempt.slot,
        lane: 0,
        class: classes.number(job.class(attempt.task)),
        slots: job.slots(attempt.task),
        held_by: held_by(job, attempt.task),
        outcome: attempt.outcome,
        // Clocks of two ranks may differ by microseconds; a slice must not end before it starts.
        ready: run.on_run_clock(session, attempt.ready).min(start),
        start,
        end: run.on_run_clock(session, attempt.end).max(start),
    }
}

fn held_by(job: &dyn JobView, task: TaskId) -> HeldBy {
    match job.group(task) {
        Some(group) if group.limit.is_some() || !group.pools.is_empty() => HeldBy::Limit,
        Some(group) if group.cpus > 1 || group.memory.is_some() || group.gpus > 0 || group.mpi.is_some() => {
            HeldBy::Room
        }
        _ => HeldBy::Nothing,
    }
}
