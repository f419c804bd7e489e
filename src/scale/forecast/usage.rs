//! Which ranks are in use, when only the number of busy slots is known.
//!
//! Tasks do not move. When fewer slots are busy than exist, the busy ones are not adjacent: three
//! of a node's four slots may be free while the node is still held. So the number of ranks in use
//! is not the minimum for the running tasks, but what is left of the ranks that were in use when
//! tasks end at random.

use super::list_schedule::Schedule;
use super::node_cost::{Holders, QUANTILES};
use super::remaining_chunks::{RunningTasks, stride};

/// Assigns running tasks to the ranks with busy slots (which of them runs which task is not known),
/// and records for each rank when its last one ends. For groups of similar ranks and tasks only the
/// distribution of the ends is known.
pub(super) fn deal(running: &mut [RunningTasks], holders: &mut Holders, leaving: &mut Holders) {
    let here = holders.busy();
    let busy_slots = u64::from(here + leaving.busy());
    let step = stride(busy_slots as usize) as u64;
    let is_known = running.iter().all(|task| task.tasks == 1);
    let mut given = 0u64;
    for task in running.iter_mut().filter(|_| is_known) {
        // Tasks beyond the reported busy slots run on the first rank.
        task.busy_slot = (given < busy_slots).then(|| (given * step % busy_slots) as u32);
        given += u64::from(task.slots);
        match task.busy_slot {
            Some(busy_slot) if busy_slot >= here => leaving.occupy(Some(busy_slot - here), task.rest),
            busy_slot => holders.occupy(busy_slot, task.rest),
        }
    }
    if !is_known || holders.is_grouped() || leaving.is_grouped() {
        let ends = Ends::of(running);
        holders.spread(is_known, |busy| ends.last_of(busy));
        leaving.spread(is_known, |busy| ends.last_of(busy));
    }
}

/// Ends of running tasks.
struct Ends {
    /// Ends ascending, with the number of slots that have ended by then.
    ended: Vec<(f64, u64)>,
}

impl Ends {
    fn of(running: &[RunningTasks]) -> Ends {
        let mut ended: Vec<(f64, u64)> = running.iter().map(|task| (task.rest, u64::from(task.slots))).collect();
        ended.sort_by(|a, b| a.0.total_cmp(&b.0));
        let mut sum = 0;
        ended.iter_mut().for_each(|(_, slots)| {
            sum += *slots;
            *slots = sum;
        });
        Ends { ended }
    }

    /// When the last of `busy` random slots becomes free: quantiles.
    fn last_of(&self, busy: u32) -> [f64; QUANTILES] {
        let all = self.ended.last().map_or(0, |last| last.1);
        if busy == 0 || all == 0 {
            return [0.0; QUANTILES];
        }
        std::array::from_fn(|quantile| {
            // If each has ended with probability `p^(1/busy)`, all have with probability `p`.
            let p = (quantile as f64 + 0.5) / QUANTILES as f64;
            let slots = p.powf(1.0 / f64::from(busy)) * all as f64;
            let at = self.ended.partition_point(|(_, ended)| (*ended as f64) < slots);
            self.ended[at.min(self.ended.len() - 1)].0
        })
    }
}

/// Number of ranks in use while slots become busy and free.
pub(super) struct RankUsage<'a> {
    holders: &'a Holders,
    busy: u32,
    used: f64,
}

impl<'a> RankUsage<'a> {
    /// The present state.
    pub fn of(holders: &'a Holders) -> RankUsage<'a> {
        RankUsage { holders, busy: holders.busy(), used: f64::from(holders.in_use()) }
    }

    /// Number of ranks in use when `busy` slots are busy from now on.
    pub fn change(&mut self, busy: u32) -> u32 {
        let least = self.least(busy);
        if busy < self.busy {
            self.used = self.used.min(self.left(busy));
        }
        self.used = self.used.clamp(f64::from(least), f64::from(self.holders.ranks().max(least)));
        self.busy = busy;
        (self.used.round() as u32).max(least)
    }

    /// Minimum number of ranks for `busy` slots.
    pub fn least(&self, busy: u32) -> u32 {
        self.holders.room_for(busy)
    }

    /// Number of ranks still in use after tasks have ended at random until `busy` slots are busy. A
    /// rank of `s` slots, each busy with probability `p`, is idle with probability `(1 - p)^s`.
    fn left(&self, busy: u32) -> f64 {
        let ranks = self.used.round().max(1.0);
        let each = f64::from(self.holders.slots_of(ranks as u32)) / ranks;
        if self.busy == 0 || self.used <= 0.0 || each <= 1.0 {
            return f64::from(busy);
        }
        let share = ((f64::from(self.busy) / self.used - 1.0) / (each - 1.0)).clamp(1e-6, 1.0);
        let some = |p: f64| 1.0 - (1.0 - p).powf(each);
        self.used * some(share * f64::from(busy) / f64::from(self.busy)) / some(share)
    }
}
/// The most slots busy at once up to each moment of a schedule.
pub(super) struct Peaks(Vec<(f64, u32)>);

impl Peaks {
    /// The peaks of a schedule.
    pub fn of(course: &Schedule) -> Peaks {
        let mut peak = 0;
        let rising = course.steps.iter().filter(|step| {
            let higher = step.1 > peak;
            peak = peak.max(step.1);
            higher
        });
        Peaks(rising.copied().collect())
    }

    /// The peak before a moment.
    pub fn before(&self, moment: f64) -> u32 {
        self.0.partition_point(|step| step.0 <= moment).checked_sub(1).map_or(0, |at| self.0[at].1)
    }
}

#[cfg(test)]
mod tests {
    use super::super::node_cost::{HeldNode, HolderGroup};
    use super::*;

    fn ranks(busy: &[u32]) -> Holders {
        let holder = |&busy: &u32| HeldNode { slots: 4, busy, granted: true, ..HeldNode::default() };
        Holders::new(busy.iter().map(|busy| HolderGroup::of(holder(busy), 1)).collect())
    }

    #[test]
    fn what_ends_here_and_there_frees_few_ranks() {
        let holders = ranks(&[4; 16]);
        let mut usage = RankUsage::of(&holders);
        assert_eq!(usage.change(64), 16);
        // Half of all slots are free, but hardly any rank is: at random one in sixteen.
        assert_eq!(usage.change(32), 15);
        assert!((10..13).contains(&usage.change(16)));
        assert!((3..5).contains(&usage.change(4)));
        assert_eq!(usage.change(1), 1);
        assert_eq!(usage.change(0), 0);
        // New tasks are placed on adjacent slots.
        assert_eq!(usage.change(9), 3);
        assert_eq!(RankUsage::of(&ranks(&[1, 1, 1, 0])).change(3), 3);
        assert_eq!(RankUsage::of(&ranks(&[1, 1, 1, 0])).change(2), 2);
    }

    fn running(tasks: u32, rest: f64) -> RunningTasks {
        RunningTasks { chunk: 0, tasks, slots: tasks, rest, busy_slot: None }
    }

    #[test]
    fn every_running_task_is_dealt_to_a_rank_that_runs_something() {
        let (mut holders, mut leaving) = (ranks(&[3, 0, 2]), ranks(&[4]));
        let mut tasks: Vec<RunningTasks> = (1..=9).map(|k| running(1, f64::from(k))).collect();
        deal(&mut tasks, &mut holders, &mut leaving);
        let of = |busy_slots: std::ops::Range<u32>| {
            let there =
                tasks.iter().filter(|task| task.busy_slot.is_some_and(|busy_slot| busy_slots.contains(&busy_slot)));
            (there.clone().count(), there.map(|task| task.rest).fold(0.0, f64::max))
        };
        for (busy_slots, group) in [0..3, 3..3, 3..5, 5..9].into_iter().zip(holders.groups().chain(leaving.groups())) {
            let (count, last) = of(busy_slots.clone());
            assert_eq!((count, last), (busy_slots.len(), group.until[0]));
            assert_eq!(group.until[0], group.until[QUANTILES - 1]);
        }
    }

    #[test]
    fn of_alike_ranks_it_is_known_how_the_ends_are_spread() {
        let holder = HeldNode { slots: 4, busy: 4, granted: true, ..HeldNode::default() };
        let mut holders =
            Holders::new(vec![HolderGroup::of(holder, 100), HolderGroup::of(HeldNode { busy: 1, ..holder }, 100)]);
        let mut tasks: Vec<RunningTasks> = (1..=100).map(|k| running(5, f64::from(k))).collect();
        deal(&mut tasks, &mut holders, &mut Holders::default());
        let until: Vec<[f64; QUANTILES]> = holders.groups().map(|group| group.until).collect();
        let mean = |ends: [f64; QUANTILES]| ends.iter().sum::<f64>() / QUANTILES as f64;
        // The last of four of the numbers from 1 to 100, and one of them.
        assert!((mean(until[0]) - 80.0).abs() < 3.0 && (mean(until[1]) - 50.0).abs() < 3.0, "{until:?}");
    }

    #[test]
    fn peaks_never_fall() {
        let course = Schedule { steps: vec![(0.0, 4), (10.0, 2), (20.0, 9), (30.0, 0)], finish: 30.0, peak: 9 };
        let peaks = Peaks::of(&course);
        assert_eq!([-1.0, 0.0, 15.0, 20.0, 99.0].map(|t| peaks.before(t)), [0, 4, 4, 9, 9]);
    }
}
