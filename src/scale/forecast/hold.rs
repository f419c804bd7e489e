//! Which nodes a forecast holds when, and what that costs.
//!
//! A forecast is not billed as if all its nodes were held to the end. It is billed as the policy will act: a node that idles for
//! longer than the gap rule allows is given back and asked for again in time. So trying 16 nodes for a wide phase does not charge
//! the narrow phase after it with 15 idle ones.

use super::play::{Capacity, Course};
use super::usage::Usage;

/// A rank that a forecast may use, in seconds from now.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Holder {
    /// When its node was granted (negative: before now); `None` for a node that bills to another rank.
    pub since: Option<f64>,
    /// When it can take tasks.
    pub arrives: f64,
    /// True if it is kept to the end whatever it does.
    pub kept: bool,
    /// True if its node is granted already.
    pub granted: bool,
    /// Slots.
    pub slots: u32,
    /// Slots that run something now.
    pub busy: u32,
    /// When the last of what runs there now ends.
    pub until: f64,
}

/// How a node is charged, in seconds.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Charge {
    pub minimum: f64,
    pub granularity: f64,
    pub per_second: f64,
    /// A node goes so long after it began to idle: it takes a decision.
    pub notice: f64,
}

impl Charge {
    pub fn bill(&self, held: f64) -> f64 {
        let unit = self.granularity;
        let rounded = if unit > 0.0 { (held / unit - 1e-9).ceil() * unit } else { held };
        rounded.max(self.minimum) * self.per_second
    }
}

/// The slots of holders over time.
pub(super) fn capacity(holders: &[Holder]) -> Capacity {
    let slots = holders.iter().filter(|h| h.arrives <= 0.0).map(|h| h.slots).sum();
    let mut arrivals: Vec<(f64, u32)> =
        holders.iter().filter(|h| h.arrives > 0.0).map(|h| (h.arrives, h.slots)).collect();
    arrivals.sort_by(|a, b| a.0.total_cmp(&b.0));
    Capacity { slots, arrivals }
}

/// Bill of holders to which nothing more is given: each goes when the last of what runs there ends.
pub(super) fn farewell<'a>(holders: impl IntoIterator<Item = &'a Holder>, charge: &Charge) -> f64 {
    let held = holders.into_iter().filter(|h| h.granted);
    held.filter_map(|h| Some(charge.bill(h.until - h.since?))).sum()
}

/// Bill of all holders from their grants on, if those that idle for longer than `gap` are given back.
pub(super) fn bill(course: &Course, holders: &[Holder], gap: f64, charge: &Charge) -> f64 {
    let mut ledger = Ledger::new(holders, charge);
    // Holders are used in order, so those that are used, and those that are not, are stacks.
    let mut usage = Usage::of(holders);
    let mut used = 0;
    for &(now, busy) in &course.steps {
        let want = usage.change(busy).min(holders.len());
        (used..want).for_each(|rank| ledger.resume(rank, now, gap));
        (want..used).for_each(|rank| ledger.idle(rank, now));
        used = want;
    }
    ledger.close(course.finish)
}

/// For each holder since when it is held and since when it idles.
struct Ledger<'a> {
    holders: &'a [Holder],
    charge: &'a Charge,
    held_since: Vec<Option<f64>>,
    idle_since: Vec<Option<f64>>,
    bill: f64,
}

impl<'a> Ledger<'a> {
    fn new(holders: &'a [Holder], charge: &'a Charge) -> Ledger<'a> {
        let held_since = holders.iter().map(|h| h.since.filter(|_| h.granted)).collect();
        let idle_since = holders.iter().map(|h| h.granted.then_some(0.0)).collect();
        Ledger { holders, charge, held_since, idle_since, bill: 0.0 }
    }

    fn bills(&self, rank: usize) -> bool {
        self.holders[rank].since.is_some()
    }

    fn resume(&mut self, rank: usize, now: f64, gap: f64) {
        let idle = self.idle_since[rank].take();
        if let Some((since, idle)) = self.held_since[rank].zip(idle)
            && now - idle > gap
            && !self.holders[rank].kept
        {
            self.bill += self.charge.bill(idle + self.charge.notice.min(now - idle) - since);
            self.held_since[rank] = None;
        }
        if self.held_since[rank].is_none() && self.bills(rank) {
            self.held_since[rank] = Some(now);
        }
    }

    fn idle(&mut self, rank: usize, now: f64) {
        self.idle_since[rank] = Some(now);
    }

    /// The run is over.
    fn close(mut self, finish: f64) -> f64 {
        for rank in 0..self.holders.len() {
            let Some(since) = self.held_since[rank] else { continue };
            let end = match self.idle_since[rank] {
                Some(idle) if !self.holders[rank].kept => finish.min(idle + self.charge.notice),
                _ => finish,
            };
            self.bill += self.charge.bill(end - since);
        }
        self.bill
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CHARGE: Charge = Charge { minimum: 60.0, granularity: 1.0, per_second: 1.0, notice: 0.0 };

    fn held(since: f64) -> Holder {
        Holder { since: Some(since), arrives: 0.0, granted: true, slots: 4, ..Holder::default() }
    }

    fn new(arrives: f64) -> Holder {
        Holder { since: Some(arrives), arrives, slots: 4, ..Holder::default() }
    }

    fn course(steps: &[(f64, u32)]) -> Course {
        Course { steps: steps.to_vec(), finish: steps.last().unwrap().0, peak: 0 }
    }

    #[test]
    fn short_gaps_are_bridged_and_long_ones_are_not() {
        // Eight slots from 0 to 100, one until 200 (or 400), eight again for another 100.
        let bill_with = |gap_end: f64| {
            let course = course(&[(0.0, 8), (100.0, 1), (gap_end, 8), (gap_end + 100.0, 0)]);
            bill(&course, &[held(0.0), held(0.0)], 150.0, &CHARGE)
        };
        assert_eq!(bill_with(200.0), 600.0);
        assert_eq!(bill_with(400.0), 500.0 + 100.0 + 100.0);
    }

    #[test]
    fn what_is_never_used_is_never_asked_for() {
        let course = course(&[(0.0, 4), (50.0, 0)]);
        assert_eq!(bill(&course, &[held(-10.0), new(30.0)], 100.0, &CHARGE), 60.0);
        assert_eq!(bill(&course, &[held(-100.0), held(-10.0)], 100.0, &CHARGE), 150.0 + 60.0);
        let kept = Holder { kept: true, ..held(-100.0) };
        assert_eq!(bill(&course, &[held(-100.0), kept], 100.0, &CHARGE), 150.0 + 150.0);
    }
}
