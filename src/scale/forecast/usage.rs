//! Which ranks have something to do, when it is only known how many slots are busy.
//!
//! Tasks do not move. When fewer slots are busy than there are, those that are do not lie side by side: of four slots of a node three may be
//! free, and the node is held all the same. How many ranks are in use is therefore not the least that so many tasks fit on but what is left of
//! those that were in use when tasks end here and there.

use super::hold::Holder;
use super::play::Course;
use super::scene::Running;

/// Deals the running tasks out to the ranks that run so many (which of them runs which is not known), and notes on each rank when its last one
/// ends.
pub(super) fn deal(running: &mut [Running], holders: &mut [Holder]) {
    let seats: Vec<u32> = (0..).zip(&*holders).flat_map(|(at, h)| std::iter::repeat_n(at, h.busy as usize)).collect();
    let step = stride(seats.len());
    let mut given = 0;
    for task in running {
        // More than is told of by the ranks runs on the first.
        task.holder = if given < seats.len() { seats[given * step % seats.len()] } else { 0 };
        given += task.slots as usize;
        if let Some(holder) = holders.get_mut(task.holder as usize) {
            holder.until = holder.until.max(task.rest);
        }
    }
}

/// A step at about the golden section that comes to each of so many seats once.
pub(super) fn stride(seats: usize) -> usize {
    let coprime = |step: &usize| gcd(*step, seats) == 1;
    (seats * 5 / 8..=seats).find(|step| *step > 0 && coprime(step)).unwrap_or(1)
}

fn gcd(a: usize, b: usize) -> usize {
    if b == 0 { a } else { gcd(b, a % b) }
}

/// How many ranks are in use, while slots become busy and free.
pub(super) struct Usage {
    /// Slots of the first so many ranks.
    slots: Vec<u32>,
    busy: u32,
    used: f64,
}

impl Usage {
    /// Now.
    pub fn of(holders: &[Holder]) -> Usage {
        let slots = holders
            .iter()
            .scan(0, |sum, h| {
                *sum += h.slots;
                Some(*sum)
            })
            .collect();
        let used = holders.iter().filter(|h| h.busy > 0).count() as f64;
        Usage { slots, busy: holders.iter().map(|h| h.busy).sum(), used }
    }

    /// So many slots are busy from now on: how many ranks are in use?
    pub fn change(&mut self, busy: u32) -> usize {
        let least = self.least(busy);
        if busy < self.busy {
            self.used = self.used.min(self.left(busy));
        }
        self.used = self.used.clamp(least as f64, self.slots.len().max(least) as f64);
        self.busy = busy;
        (self.used.round() as usize).max(least)
    }

    /// So many ranks have room for them.
    pub fn least(&self, busy: u32) -> usize {
        match busy {
            0 => 0,
            _ => (self.slots.partition_point(|&s| s < busy) + 1).min(self.slots.len()),
        }
    }

    /// Ranks that are still in use when tasks have ended here and there until so many slots are busy. A rank of `s` slots each of which is busy with
    /// probability `p` has nothing to do with probability `(1 - p)^s`.
    fn left(&self, busy: u32) -> f64 {
        let ranks = self.used.round().max(1.0);
        let each = f64::from(self.slots[(ranks as usize).min(self.slots.len()) - 1]) / ranks;
        if self.busy == 0 || self.used <= 0.0 || each <= 1.0 {
            return f64::from(busy);
        }
        let share = ((f64::from(self.busy) / self.used - 1.0) / (each - 1.0)).clamp(1e-6, 1.0);
        let some = |p: f64| 1.0 - (1.0 - p).powf(each);
        self.used * some(share * f64::from(busy) / f64::from(self.busy)) / some(share)
    }
}

/// Most slots that are busy at once up to each moment of a course.
pub(super) struct Peaks(Vec<(f64, u32)>);

impl Peaks {
    /// Of a course.
    pub fn of(course: &Course) -> Peaks {
        let mut peak = 0;
        let rising = course.steps.iter().filter(|step| {
            let higher = step.1 > peak;
            peak = peak.max(step.1);
            higher
        });
        Peaks(rising.copied().collect())
    }

    /// Before a moment.
    pub fn before(&self, moment: f64) -> u32 {
        self.0.partition_point(|step| step.0 <= moment).checked_sub(1).map_or(0, |at| self.0[at].1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ranks(busy: &[u32]) -> Vec<Holder> {
        let holder = |&busy: &u32| Holder { slots: 4, busy, granted: true, ..Holder::default() };
        busy.iter().map(holder).collect()
    }

    #[test]
    fn ranks_are_counted_by_their_slots() {
        let mut holders = ranks(&[0, 0, 0]);
        holders[2].slots = 8;
        let usage = Usage::of(&holders);
        assert_eq!([0, 1, 4, 5, 8, 9, 16, 99].map(|busy| usage.least(busy)), [0, 1, 1, 2, 2, 3, 3, 3]);
    }

    #[test]
    fn what_ends_here_and_there_frees_few_ranks() {
        let mut usage = Usage::of(&ranks(&[4; 16]));
        assert_eq!(usage.change(64), 16);
        // Half of all slots are free, and hardly a rank is: at random one in sixteen.
        assert_eq!(usage.change(32), 15);
        assert!((10..13).contains(&usage.change(16)));
        assert!((3..5).contains(&usage.change(4)));
        assert_eq!(usage.change(1), 1);
        assert_eq!(usage.change(0), 0);
        // What comes anew lies side by side.
        assert_eq!(usage.change(9), 3);
        assert_eq!(Usage::of(&ranks(&[1, 1, 1, 0])).change(3), 3);
        assert_eq!(Usage::of(&ranks(&[1, 1, 1, 0])).change(2), 2);
    }

    #[test]
    fn every_running_task_is_dealt_to_a_rank_that_runs_something() {
        let mut holders = ranks(&[3, 0, 2, 4]);
        let mut running: Vec<Running> =
            (1..=9).map(|k| Running { chunk: 0, slots: 1, rest: f64::from(k), holder: 0 }).collect();
        deal(&mut running, &mut holders);
        let on = |rank: u32| running.iter().filter(|r| r.holder == rank).count();
        assert_eq!([0, 1, 2, 3].map(on), [3, 0, 2, 4]);
        for (rank, holder) in (0..).zip(&holders) {
            let last = running.iter().filter(|r| r.holder == rank).map(|r| r.rest).fold(0.0, f64::max);
            assert_eq!(holder.until, last);
        }
    }

    #[test]
    fn peaks_never_fall() {
        let course = Course { steps: vec![(0.0, 4), (10.0, 2), (20.0, 9), (30.0, 0)], finish: 30.0, peak: 9 };
        let peaks = Peaks::of(&course);
        assert_eq!([-1.0, 0.0, 15.0, 20.0, 99.0].map(|t| peaks.before(t)), [0, 4, 4, 9, 9]);
    }
}
