//! Step functions of time: queued tasks, running tasks, active ranks.

use rustc_hash::FxHashMap;

use super::timeline::Timeline;

/// A step function; 0 before its first change.
#[derive(Clone, Debug, Default)]
pub(super) struct Steps {
    /// Times of changes, ascending, with the value from then on.
    pub points: Vec<(u64, i64)>,
}

impl Steps {
    /// Builds the function from changes in any order.
    pub fn of(mut changes: Vec<(u64, i64)>) -> Steps {
        changes.sort_unstable();
        let mut points: Vec<(u64, i64)> = Vec::new();
        let mut value = 0;
        for (at, change) in changes {
            value += change;
            match points.last_mut() {
                Some(last) if last.0 == at => last.1 = value,
                _ => points.push((at, value)),
            }
        }
        points.dedup_by_key(|point| point.1);
        Steps { points }
    }

    /// Mean values over `columns` equal intervals of `0..end`.
    pub fn means(&self, end: u64, columns: usize) -> Vec<f64> {
        let mut means = vec![0.0; columns];
        let untils = self.points.iter().skip(1).map(|next| next.0).chain([end]);
        for (&(from, value), until) in self.points.iter().zip(untils) {
            spread(&mut means, end, from, until, value as f64);
        }
        let width = end as f64 / columns as f64;
        means.iter_mut().for_each(|mean| *mean /= width.max(1.0));
        means
    }

    /// The largest value.
    pub fn max(&self) -> i64 {
        self.points.iter().map(|point| point.1).max().unwrap_or(0)
    }

    /// At most `most` of its points: of points close together the last one, whose value persists.
    pub fn thinned(&self, most: usize) -> impl Iterator<Item = (u64, i64)> + '_ {
        let span = self.points.last().map_or(0, |last| last.0);
        let apart = if self.points.len() > most { span / most as u64 + 1 } else { 0 };
        self.points.iter().enumerate().filter_map(move |(i, &(at, value))| {
            let next = self.points.get(i + 1).map(|next| next.0);
            let same = |next: u64| apart > 0 && next / apart == at / apart;
            (!next.is_some_and(same)).then_some((at, value))
        })
    }
}

/// Adds `value` times the overlap of `from..until` with each of the equal columns of `0..end`.
pub(super) fn spread(columns: &mut [f64], end: u64, from: u64, until: u64, value: f64) {
    let width = end as f64 / columns.len() as f64;
    if until <= from || width <= 0.0 {
        return;
    }
    let (from, until) = (from as f64, until.min(end) as f64);
    let first = (from / width) as usize;
    for (i, column) in columns.iter_mut().enumerate().skip(first) {
        let left = i as f64 * width;
        if left >= until {
            break;
        }
        *column += value * (until.min(left + width) - from.max(left)).max(0.0);
    }
}

/// The step functions that the trace and the report show.
pub(super) struct StepCounters {
    /// Tasks that are ready and wait for a slot.
    pub queued: Steps,
    /// Running tasks.
    pub running: Steps,
    /// Active ranks.
    pub active: Steps,
    /// Ranks that run at least one task.
    pub busy: Steps,
    /// Completed tasks.
    pub done: Steps,
}

impl StepCounters {
    /// Builds them from the slices.
    pub fn of(timeline: &Timeline) -> StepCounters {
        let slices = &timeline.slices;
        let between = |from: u64, to: u64| [(from, 1), (to, -1)];
        let active = timeline.supply.iter().map(|change| (change.at, change.ranks));
        StepCounters {
            queued: Steps::of(slices.iter().flat_map(|slice| between(slice.ready, slice.start)).collect()),
            running: Steps::of(slices.iter().flat_map(|slice| between(slice.start, slice.end)).collect()),
            active: Steps::of(active.collect()),
            busy: busy_ranks(timeline),
            done: Steps::of(slices.iter().filter(|slice| slice.outcome.ok()).map(|slice| (slice.end, 1)).collect()),
        }
    }
}

fn busy_ranks(timeline: &Timeline) -> Steps {
    let mut by_rank: FxHashMap<u32, Vec<(u64, i64)>> = FxHashMap::default();
    for slice in &timeline.slices {
        by_rank.entry(slice.rank).or_default().extend([(slice.start, 1), (slice.end, -1)]);
    }
    let mut changes = Vec::new();
    for running in by_rank.into_values().map(Steps::of) {
        let mut busy = false;
        for (at, running) in running.points {
            if (running > 0) != busy {
                busy = running > 0;
                changes.push((at, if busy { 1 } else { -1 }));
            }
        }
    }
    Steps::of(changes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_at_one_moment_are_one_step() {
        let steps = Steps::of(vec![(5, 1), (0, 2), (5, -1), (9, -2)]);
        assert_eq!(steps.points, [(0, 2), (9, 0)]);
        assert_eq!(steps.max(), 2);
    }

    #[test]
    fn means_weigh_by_time() {
        let steps = Steps::of(vec![(0, 4), (5, -4), (10, 2), (20, -2)]);
        assert_eq!(steps.means(20, 2), [2.0, 2.0]);
        assert_eq!(steps.means(20, 4), [4.0, 0.0, 2.0, 2.0]);
        assert_eq!(Steps::default().means(0, 2), [0.0, 0.0]);
    }

    #[test]
    fn thinning_keeps_the_last_of_each_stretch() {
        let steps = Steps::of((0..1000).map(|at| (at, 1)).collect());
        let thin: Vec<_> = steps.thinned(10).collect();
        assert!(thin.len() <= 11, "{thin:?}");
        assert_eq!(thin.last(), Some(&(999, 1000)));
        assert_eq!(steps.thinned(1000).count(), 1000);
    }
}
