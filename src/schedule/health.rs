//! Health of ranks relative to each other: which are slow, and on which tasks keep failing. This
//! file states facts; the coordinator decides what follows.
//!
//! Tasks of one class are expected to take equally long, in proportion to their estimates, and to
//! fail equally often, on every rank. So each rank is compared with the others on the same classes:
//!
//! - It is *slow* if its tasks take at least [`SLOW_FACTOR`] times as long as theirs and chance
//!   is an unlikely cause: the difference of the two means must exceed [`MIN_DEVIATION_SE`]
//!   standard errors (Welch's statistic).
//! - It is *sick* if all its attempts at the last [`SICK_STREAK`] tasks failed, while the others
//!   complete most tasks of those classes. Others that completed none bear no witness. Tasks that
//!   fail everywhere make no rank sick, nor does one bad task that is retried repeatedly. A rank
//!   that completed most such tasks before must fail [`LONG_STREAK`] of them: it may have got the
//!   bad tasks of an array.
//! - Where nearly every task has a class of its own, no class has witnesses. There a rank that has
//!   completed nothing is sick if its failed tasks are of at least [`MIN_CLASSES`] classes that
//!   fail nowhere else, and the others complete nine of ten tasks.
//!
//! A rank may be slow because its slots share CPUs with others. That counts when work is
//! distributed, but the user is notified only if sharing does not explain it.
//!
//! Tasks below a millisecond say nothing about speed, since the work between tasks takes as long.

use std::ops::Range;
use std::time::Duration;

use rustc_hash::FxHashMap;

use crate::model::{Attempt, Rank, State, TaskId};

/// Number of failed tasks in a row that make a rank suspicious.
pub(super) const SICK_STREAK: usize = 5;

/// The same for a rank that did well before.
pub(super) const LONG_STREAK: usize = 20;

/// Number of completions elsewhere that prove that a class of tasks can be run.
const MIN_COMPLETIONS_ELSEWHERE: u64 = 3;

/// Number of classes of failed tasks that make a rank suspicious whichever classes others complete.
const MIN_CLASSES: usize = 3;

/// Number of tasks that the others must have completed for that.
const MIN_COMPLETIONS_OF_ANY_CLASS: u64 = 10;

/// Completions that a rank is credited with when its share of successes is taken.
const PRIOR_COMPLETIONS: u64 = 10;

/// Minimum factor by which a slow rank is slower than the others.
const SLOW_FACTOR: f64 = 1.3;

/// Minimum difference from the others, in standard errors.
const MIN_DEVIATION_SE: f64 = 3.0;

/// Minimum number of timed tasks, of the rank's own and of the others'.
const MIN_SAMPLES: f64 = 8.0;

/// Attempts shorter than this are not timed.
const MIN_TIMED: Duration = Duration::from_millis(1);

/// Results of a rank, or of all ranks, for one class.
#[derive(Clone, Copy, Debug, Default)]
struct ClassRecord {
    completed: u64,
    failed: u64,
    /// Timed attempts: their number, the sum of their durations relative to their estimates, and
    /// the sum of the squares.
    timed: f64,
    sum: f64,
    squares: f64,
}

impl ClassRecord {
    fn add(&mut self, other: &ClassRecord) {
        self.completed += other.completed;
        self.failed += other.failed;
        self.timed += other.timed;
        self.sum += other.sum;
        self.squares += other.squares;
    }

    fn without(&self, part: &ClassRecord) -> ClassRecord {
        ClassRecord {
            completed: self.completed - part.completed,
            failed: self.failed - part.failed,
            timed: self.timed - part.timed,
            sum: self.sum - part.sum,
            squares: self.squares - part.squares,
        }
    }

    fn mean(&self) -> f64 {
        self.sum / self.timed
    }

    fn variance(&self) -> f64 {
        ((self.squares - self.sum * self.mean()) / (self.timed - 1.0)).max(0.0)
    }
}

/// The record of one rank.
#[derive(Debug, Default)]
struct Chart {
    classes: FxHashMap<u32, ClassRecord>,
    /// Its latest tasks with their classes, if all attempts at them failed.
    streak: Vec<(TaskId, u32)>,
    failures: u64,
    completed: u64,
    timed: f64,
    /// Number of timed attempts at which it is evaluated next.
    due: f64,
    /// Slowdown relative to the others, if it is slow.
    slow: Option<f64>,
    /// True once the user has been notified that it is slow.
    told: bool,
}

/// A finding about a rank.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum HealthFinding {
    /// It takes this many times as long as the others.
    Slow(f64),
    /// Slow, as expected where slots share CPUs.
    Crowded,
    /// No longer slow; true if the user had been notified that it was.
    Recovered(bool),
    /// Tasks keep failing there that others complete.
    Sick,
}

/// The records of all ranks, by class and in total.
#[derive(Debug, Default)]
pub(super) struct Health {
    ranks: Vec<Chart>,
    classes: FxHashMap<u32, ClassRecord>,
    /// For each class, the records of the ranks that completed any of its tasks.
    witnessed: FxHashMap<u32, ClassRecord>,
    all: ClassRecord,
}

impl Health {
    /// Records ended attempts in the order of the report. `class` and `work` as in
    /// [`Advice`](super::homes::Advice). `is_shared`: true for a task that several ranks execute
    /// together; that it failed is no evidence about the one that leads.
    pub(super) fn observe(
        &mut self,
        attempts: &[Attempt],
        class: &dyn Fn(TaskId) -> (u32, Range<u32>),
        work: &dyn Fn(TaskId) -> u64,
        is_shared: &dyn Fn(TaskId) -> bool,
    ) {
        let mut rest = attempts;
        while let Some(first) = rest.first() {
            let (class, alike) = class(first.task);
            let same = |attempt: &&Attempt| attempt.rank == first.rank && alike.contains(&attempt.task.0);
            let run = rest.iter().take_while(same).count().max(1);
            let (these, others) = rest.split_at(run);
            self.note(first.rank, class, these, (work, is_shared));
            rest = others;
        }
    }

    /// Attempts at tasks of one class on one rank.
    fn note(
        &mut self,
        rank: Rank,
        class: u32,
        attempts: &[Attempt],
        (work, is_shared): (&dyn Fn(TaskId) -> u64, &dyn Fn(TaskId) -> bool),
    ) {
        if self.ranks.len() <= rank.index() {
            self.ranks.resize_with(rank.index() + 1, Chart::default);
        }
        let chart = &mut self.ranks[rank.index()];
        let mut record = ClassRecord::default();
        for attempt in attempts.iter().filter(|attempt| attempt.attempt > 0) {
            match attempt.outcome.state {
                State::Completed => {
                    record.completed += 1;
                    chart.streak.clear();
                    let took = attempt.end.since(attempt.start);
                    if took >= MIN_TIMED && !attempt.outcome.cached {
                        let ratio = took.as_nanos() as f64 / work(attempt.task).max(1) as f64;
                        record.timed += 1.0;
                        record.sum += ratio;
                        record.squares += ratio * ratio;
                    }
                }
                state if state.is_failure() && state != State::NodeFail => {
                    record.failed += 1;
                    let is_counted = chart.streak.iter().any(|(task, _)| *task == attempt.task);
                    if !is_counted && !is_shared(attempt.task) {
                        if chart.streak.len() == LONG_STREAK {
                            chart.streak.remove(0);
                        }
                        chart.streak.push((attempt.task, class));
                    }
                }
                _ => {}
            }
        }
        chart.failures += record.failed;
        chart.completed += record.completed;
        chart.timed += record.timed;
        let own = chart.classes.entry(class).or_default();
        let bore_witness = own.completed > 0;
        own.add(&record);
        if own.completed > 0 {
            self.witnessed.entry(class).or_default().add(if bore_witness { &record } else { own });
        }
        self.classes.entry(class).or_default().add(&record);
        self.all.add(&record);
    }

    /// Evaluates a rank that has just reported. `slots_per_cpu`: the slots that share one of its
    /// CPUs.
    pub(super) fn examine(&mut self, rank: Rank, slots_per_cpu: &dyn Fn(Rank) -> f64) -> Option<HealthFinding> {
        if self.take_sick(rank) {
            return Some(HealthFinding::Sick);
        }
        let chart = self.ranks.get_mut(rank.index()).filter(|chart| chart.timed >= chart.due.max(MIN_SAMPLES))?;
        // Evaluate again when the evidence has doubled.
        chart.due = 2.0 * chart.timed;
        let before = chart.slow.is_some();
        let now = self.slowness(rank);
        let chart = &mut self.ranks[rank.index()];
        chart.slow = now;
        match now {
            Some(times) if !chart.told && times > SLOW_FACTOR * slots_per_cpu(rank) => {
                chart.told = true;
                Some(HealthFinding::Slow(times))
            }
            Some(_) => (!before).then_some(HealthFinding::Crowded),
            None => before.then(|| HealthFinding::Recovered(std::mem::take(&mut chart.told))),
        }
    }

    /// True if a rank is sick; from then on only further failures count.
    pub(super) fn take_sick(&mut self, rank: Rank) -> bool {
        let is_sick = self.is_sick(rank);
        if is_sick {
            self.ranks[rank.index()].streak.clear();
        }
        is_sick
    }

    /// True if the tasks that failed on a rank fail because of the rank.
    fn is_sick(&self, rank: Rank) -> bool {
        let Some(chart) = self.ranks.get(rank.index()).filter(|chart| chart.streak.len() >= SICK_STREAK) else {
            return false;
        };
        let only_here = |(_, class): &(TaskId, u32)| {
            let own = chart.classes.get(class).copied().unwrap_or_default();
            let others = self.others(rank, *class);
            let did_well = own.completed > own.failed && chart.streak.len() < LONG_STREAK;
            others.completed >= MIN_COMPLETIONS_ELSEWHERE && others.completed > others.failed && !did_well
        };
        chart.streak.iter().all(only_here) || self.fails_whatever_it_runs(chart)
    }

    /// True if a rank has completed nothing, whatever classes its tasks were of, and the others
    /// complete nearly everything.
    fn fails_whatever_it_runs(&self, chart: &Chart) -> bool {
        let mut classes: Vec<u32> = chart.streak.iter().map(|(_, class)| *class).collect();
        classes.sort_unstable();
        classes.dedup();
        let fails_elsewhere = |class: &u32| {
            let own = chart.classes.get(class).map_or(0, |own| own.failed);
            self.classes.get(class).is_some_and(|all| all.failed > own)
        };
        let failed = self.all.failed - chart.failures;
        chart.completed == 0
            && classes.len() >= MIN_CLASSES
            && self.all.completed >= MIN_COMPLETIONS_OF_ANY_CLASS.max(9 * failed)
            && !classes.iter().any(fails_elsewhere)
    }

    /// True if a task has completed on a rank since others failed there.
    pub(super) fn has_recovered(&self, rank: Rank) -> bool {
        self.ranks.get(rank.index()).is_some_and(|chart| chart.streak.is_empty() && chart.completed > 0)
    }

    /// True if the tasks that failed on a rank are of classes of which most fail elsewhere, too.
    pub(super) fn fails_elsewhere(&self, rank: Rank) -> bool {
        let Some(chart) = self.ranks.get(rank.index()) else { return false };
        chart.streak.iter().any(|(_, class)| {
            let others = self.others(rank, *class);
            others.completed > 0 && others.failed >= others.completed
        })
    }

    /// The classes of the tasks that failed last on a rank, in a row.
    pub(super) fn failed_classes(&self, rank: Rank) -> impl Iterator<Item = u32> + '_ {
        self.ranks.get(rank.index()).into_iter().flat_map(|chart| chart.streak.iter().map(|(_, class)| *class))
    }

    /// The record of a class on the other ranks that completed any of its tasks. One that completed
    /// none may be as sick, and its failures, which come fast, would outweigh what others complete.
    fn others(&self, rank: Rank, class: u32) -> ClassRecord {
        let all = self.witnessed.get(&class).copied().unwrap_or_default();
        let own = self.ranks.get(rank.index()).and_then(|chart| chart.classes.get(&class));
        own.filter(|own| own.completed > 0).map_or(all, |own| all.without(own))
    }

    /// Slowdown of a rank relative to the others, if it is significant and large.
    fn slowness(&self, rank: Rank) -> Option<f64> {
        let chart = self.ranks.get(rank.index())?;
        let (mut own, mut samples, mut usual, mut error) = (0.0, 0.0, 0.0, 0.0);
        for (class, mine) in chart.classes.iter().filter(|(_, mine)| mine.timed >= 2.0) {
            let others = self.classes.get(class)?.without(mine);
            if others.timed < MIN_SAMPLES {
                continue;
            }
            samples += mine.timed;
            own += mine.sum / others.mean();
            usual += mine.timed;
            // Of the sum of `timed` ratios, in units of the others' mean.
            let spread = mine.variance() / mine.timed + others.variance() / others.timed;
            error += spread * (mine.timed / others.mean()).powi(2);
        }
        let certain = samples >= MIN_SAMPLES && own - usual > MIN_DEVIATION_SE * error.sqrt();
        (certain && own > SLOW_FACTOR * usual).then(|| own / usual)
    }

    /// The last evaluated slowdown of a rank; `None` if it is not slow.
    pub(super) fn slow(&self, rank: Rank) -> Option<f64> {
        self.ranks.get(rank.index())?.slow
    }

    /// Share of the attempts on a rank that succeeded, beside that of all ranks: 1 where tasks fail
    /// as often elsewhere, and as long as little is known.
    pub(super) fn success(&self, rank: Rank) -> f64 {
        let Some(chart) = self.ranks.get(rank.index()) else { return 1.0 };
        // As if it had completed some more: a few failures say little.
        let share = |failed: u64, completed: u64| {
            let completed = (completed + PRIOR_COMPLETIONS) as f64;
            completed / (completed + failed as f64)
        };
        (share(chart.failures, chart.completed) / share(self.all.failed, self.all.completed)).min(1.0)
    }

    /// Attempts that failed on a rank.
    pub(super) fn failures(&self, rank: Rank) -> u64 {
        self.ranks.get(rank.index()).map_or(0, |chart| chart.failures)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Outcome, Time};

    const SECOND: u64 = 1_000_000_000;

    /// The tasks from this one on are executed by several ranks together.
    const SHARED: u32 = 1_000_000;

    /// An attempt at a task of class `task / 100` that took `ms` milliseconds.
    fn attempt(task: u32, rank: u32, ms: u64, state: State) -> Attempt {
        let outcome = Outcome { state, exit: 0, cached: false };
        let end = Time(SECOND + ms * 1_000_000);
        let (ready, start) = (Time(SECOND), Time(SECOND));
        Attempt { task: TaskId(task), attempt: 1, outcome, last: true, rank: Rank(rank), slot: 0, ready, start, end }
    }

    /// A rank whose slots do not share CPUs.
    fn examine(health: &mut Health, rank: u32) -> Option<HealthFinding> {
        health.examine(Rank(rank), &|_| 1.0)
    }

    fn observe(health: &mut Health, attempts: &[Attempt]) {
        let class = |task: TaskId| (task.0 / 100, task.0 / 100 * 100..(task.0 / 100 + 1) * 100);
        health.observe(attempts, &class, &|_| SECOND, &|task| task.0 >= SHARED);
    }

    #[test]
    fn a_rank_that_takes_twice_as_long_is_slow_and_may_recover() {
        let mut health = Health::default();
        let noise = [0, 7, 3, 9, 1, 5, 2, 8];
        let all = |rank: u32, ms: u64| -> Vec<Attempt> {
            (0..8).map(|k| attempt(k, rank, ms + noise[k as usize], State::Completed)).collect()
        };
        observe(&mut health, &[all(0, 100), all(1, 100), all(2, 200)].concat());
        assert_eq!((examine(&mut health, 0), examine(&mut health, 1)), (None, None));
        let Some(HealthFinding::Slow(times)) = examine(&mut health, 2) else { panic!("not found slow") };
        assert!((1.8..2.1).contains(&times), "{times}");
        assert_eq!((examine(&mut health, 2), health.slow(Rank(2))), (None, Some(times)));
        (0..40).for_each(|_| observe(&mut health, &all(2, 100)));
        assert_eq!((examine(&mut health, 2), health.slow(Rank(2))), (Some(HealthFinding::Recovered(true)), None));
    }

    #[test]
    fn slowness_that_sharing_explains_is_not_told_until_it_is_more_than_that() {
        let mut health = Health::default();
        let all = |rank: u32, ms: u64, count: u32| -> Vec<Attempt> {
            (0..count).map(|k| attempt(k % 50, rank, ms + u64::from(k % 3), State::Completed)).collect()
        };
        observe(&mut health, &[all(0, 100, 8), all(1, 100, 8), all(2, 180, 8)].concat());
        let crowded = |health: &mut Health| health.examine(Rank(2), &|_| 2.0);
        assert_eq!(crowded(&mut health), Some(HealthFinding::Crowded));
        assert!(health.slow(Rank(2)).is_some());
        observe(&mut health, &all(2, 180, 16));
        assert_eq!(crowded(&mut health), None);
        observe(&mut health, &all(2, 900, 60));
        assert!(matches!(crowded(&mut health), Some(HealthFinding::Slow(_))));
        observe(&mut health, &all(2, 100, 20_000));
        assert_eq!(crowded(&mut health), Some(HealthFinding::Recovered(true)));
    }

    #[test]
    fn long_tasks_of_another_class_make_nobody_slow_nor_does_chance() {
        let mut health = Health::default();
        let class = |first: u32, rank: u32, ms: u64| -> Vec<Attempt> {
            (0..20).map(|k| attempt(first + k, rank, ms, State::Completed)).collect()
        };
        observe(&mut health, &[class(0, 0, 10), class(100, 1, 900), class(0, 1, 10), class(100, 0, 900)].concat());
        let mut rng = fastrand::Rng::with_seed(3);
        // Exponential durations, only eight per rank: means differ by half now and then.
        for rank in 2..40 {
            let draw = |k: u32, rng: &mut fastrand::Rng| {
                let ms = (-rng.f64().max(1e-9).ln() * 100.0) as u64 + 1;
                attempt(200 + k, rank, ms, State::Completed)
            };
            let attempts: Vec<Attempt> = (0..8).map(|k| draw(k, &mut rng)).collect();
            observe(&mut health, &attempts);
        }
        let found: Vec<u32> = (0..40).filter(|&rank| examine(&mut health, rank).is_some()).collect();
        assert!(found.len() <= 1, "{found:?}");
    }

    #[test]
    fn three_of_four_ranks_are_sick_if_the_fourth_completes_its_tasks() {
        let mut health = Health::default();
        let some = |rank: u32, tasks: Range<u32>, state| -> Vec<Attempt> {
            tasks.map(|k| attempt(k, rank, 5, state)).collect()
        };
        // They fail fast: far more attempts have failed than the healthy rank could complete.
        (1..4).for_each(|rank| observe(&mut health, &some(rank, rank * 20..rank * 20 + 20, State::Failed)));
        assert!((1..4).all(|rank| examine(&mut health, rank).is_none()), "they may fail everywhere");
        observe(&mut health, &some(0, 0..3, State::Completed));
        assert!((1..4).all(|rank| examine(&mut health, rank) == Some(HealthFinding::Sick)));
        assert_eq!(examine(&mut health, 0), None);
        // Most tasks of an array fail, wherever they run.
        let mut health = Health::default();
        (0..4).for_each(|rank| observe(&mut health, &some(rank, rank * 2..rank * 2 + 2, State::Completed)));
        (0..4).for_each(|rank| observe(&mut health, &some(rank, 20 + rank * 10..30 + rank * 10, State::Failed)));
        assert!((0..4).all(|rank| examine(&mut health, rank).is_none()));
    }

    #[test]
    fn a_rank_is_sick_if_only_its_tasks_fail() {
        let mut health = Health::default();
        let five = |rank: u32, state| -> Vec<Attempt> { (0..5).map(|k| attempt(k, rank, 5, state)).collect() };
        observe(&mut health, &[five(0, State::Failed), five(1, State::Failed)].concat());
        assert_eq!((examine(&mut health, 0), examine(&mut health, 1)), (None, None), "they fail everywhere");
        observe(&mut health, &[five(1, State::Completed), five(2, State::Completed)].concat());
        assert_eq!(examine(&mut health, 0), Some(HealthFinding::Sick));
        assert_eq!((examine(&mut health, 0), examine(&mut health, 1)), (None, None), "it is said once");
        assert_eq!((health.failures(Rank(0)), health.failures(Rank(1))), (5, 5));
        // One bad task, five attempts.
        let bad = |number: u16| Attempt { attempt: number, ..attempt(50, 3, 5, State::Failed) };
        observe(&mut health, &(1..6).map(bad).collect::<Vec<_>>());
        assert_eq!(examine(&mut health, 3), None);
        (5..9).for_each(|rank| observe(&mut health, &five(rank, State::Completed)));
        // A rank that did well before got the bad tasks of an array.
        let many = |tasks: Range<u32>, state| tasks.map(|k| attempt(k, 4, 5, state)).collect::<Vec<Attempt>>();
        observe(&mut health, &[many(0..30, State::Completed), many(30..49, State::Failed)].concat());
        assert_eq!(examine(&mut health, 4), None);
        observe(&mut health, &many(49..50, State::Failed));
        assert_eq!(examine(&mut health, 4), Some(HealthFinding::Sick), "or has lost its disk");
    }

    #[test]
    fn a_rank_is_not_sick_because_tasks_fail_that_it_executes_with_others() {
        let mut health = Health::default();
        let five = |first: u32, rank: u32, state| -> Vec<Attempt> {
            (first..first + 5).map(|task| attempt(task, rank, 5, state)).collect()
        };
        observe(&mut health, &[five(SHARED, 0, State::Failed), five(SHARED, 1, State::Completed)].concat());
        assert_eq!((examine(&mut health, 0), health.failures(Rank(0))), (None, 5));
        observe(&mut health, &[five(0, 0, State::Failed), five(0, 1, State::Completed)].concat());
        assert_eq!(examine(&mut health, 0), Some(HealthFinding::Sick));
    }
}
