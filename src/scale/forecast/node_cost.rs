//! Which nodes a forecast holds when, and what that costs.
//!
//! A forecast is not billed as if all its nodes were held to the end, but as the policy will act: a
//! node that idles for longer than the gap rule allows is given back and requested again in time.
//! So trying 16 nodes for a wide phase does not charge the narrow phase after it with 15 idle ones.
//!
//! Similar ranks are kept in groups (`holders`), so the effort depends on the number of groups and
//! changes, not of ranks.

mod holders;

pub(super) use self::holders::{HeldNode, HolderGroup, Holders, QUANTILES};
use super::list_schedule::{Schedule, SlotSupply};
use super::usage::RankUsage;

/// How a node is charged, in seconds.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Charge {
    pub minimum: f64,
    pub granularity: f64,
    pub per_second: f64,
    /// Time after which an idle node is given back: it takes a decision.
    pub notice: f64,
}

impl Charge {
    pub fn bill(&self, held: f64) -> f64 {
        let unit = self.granularity;
        let rounded = if unit > 0.0 { (held / unit - 1e-9).ceil() * unit } else { held };
        rounded.max(self.minimum) * self.per_second
    }
}

/// The slots of holders over time; `all_busy` slots are busy on these and on other ranks.
pub(super) fn capacity(holders: &Holders, all_busy: u32) -> SlotSupply {
    let all = |group: &HolderGroup| group.holder.slots * group.ranks;
    let slots = holders.groups().filter(|g| g.holder.arrives <= 0.0).map(all).sum();
    let mut arrivals: Vec<(f64, u32)> =
        holders.groups().filter(|g| g.holder.arrives > 0.0).map(|g| (g.holder.arrives, all(g))).collect();
    arrivals.sort_by(|a, b| a.0.total_cmp(&b.0));
    SlotSupply { slots, arrivals, busy: (holders.busy(), all_busy) }
}

/// Bill of leaving ranks: each leaves when its last running task ends.
pub(super) fn farewell(group: &HolderGroup) -> f64 {
    let Some(since) = group.holder.since.filter(|_| group.holder.granted) else { return 0.0 };
    let bill = |until: f64| group.holder.charge.bill(until - since) * f64::from(group.ranks);
    match group.until[0] == group.until[QUANTILES - 1] {
        true => bill(group.until[0]),
        false => group.until.iter().map(|&until| bill(until)).sum::<f64>() / QUANTILES as f64,
    }
}

/// Bill of all holders since their grants, if those that idle for longer than `gap` are given back.
pub(super) fn bill(course: &Schedule, holders: &Holders, gap: f64) -> f64 {
    let mut ledger = HoldBill::new(holders, gap);
    // Holders are used in order, so the used ones and the idle ones are stacks.
    let mut usage = RankUsage::of(holders);
    let mut used = 0;
    for &(now, busy) in &course.steps {
        let want = usage.change(busy).min(holders.ranks());
        match want > used {
            true => ledger.resume(want - used, now),
            false => ledger.idle(used - want, now),
        }
        used = want;
    }
    ledger.close(course.finish)
}

/// Consecutive similar ranks: since when they are held, and since when they idle.
#[derive(Clone, Copy, Debug)]
struct HoldStretch {
    ranks: u32,
    held_since: Option<f64>,
    idle_since: Option<f64>,
    kept: bool,
    /// False for ranks whose node is billed to another rank.
    bills: bool,
    charge: Charge,
}

/// The bill while ranks are used and idle.
struct HoldBill {
    gap: f64,
    /// In order of use; the last is the first to become idle.
    used: Vec<HoldStretch>,
    /// In reverse order of use; the last is the first to be used.
    idle: Vec<HoldStretch>,
    bill: f64,
}

impl HoldBill {
    fn new(holders: &Holders, gap: f64) -> HoldBill {
        let stretch = |group: &HolderGroup| HoldStretch {
            ranks: group.ranks,
            held_since: group.holder.since.filter(|_| group.holder.granted),
            idle_since: group.holder.granted.then_some(0.0),
            kept: group.holder.kept,
            bills: group.holder.since.is_some(),
            charge: group.holder.charge,
        };
        let idle = holders.groups().rev().map(stretch).collect();
        HoldBill { gap, used: Vec::new(), idle, bill: 0.0 }
    }

    /// The next `ranks` ranks are used from now on.
    fn resume(&mut self, mut ranks: u32, now: f64) {
        while let Some(mut stretch) = take(&mut self.idle, ranks) {
            ranks -= stretch.ranks;
            let idle = stretch.idle_since.take();
            if let Some((since, idle)) = stretch.held_since.zip(idle)
                && now - idle > self.gap
                && !stretch.kept
            {
                let held = idle + stretch.charge.notice.min(now - idle) - since;
                self.bill += stretch.charge.bill(held) * f64::from(stretch.ranks);
                stretch.held_since = None;
            }
            if stretch.held_since.is_none() && stretch.bills {
                stretch.held_since = Some(now);
            }
            match self.used.last_mut() {
                Some(last) if last.is_like(&stretch) => last.ranks += stretch.ranks,
                _ => self.used.push(stretch),
            }
        }
    }

    /// The last `ranks` used ranks are idle from now on.
    fn idle(&mut self, mut ranks: u32, now: f64) {
        while let Some(stretch) = take(&mut self.used, ranks) {
            ranks -= stretch.ranks;
            self.idle.push(HoldStretch { idle_since: Some(now), ..stretch });
        }
    }

    /// Ends the run, and returns the bill.
    fn close(self, finish: f64) -> f64 {
        // In order of use, since sums in other orders differ in their last digits.
        let all = self.used.iter().chain(self.idle.iter().rev());
        let bill = |stretch: &HoldStretch| {
            let end = match stretch.idle_since {
                Some(idle) if !stretch.kept => finish.min(idle + stretch.charge.notice),
                _ => finish,
            };
            stretch.held_since.map_or(0.0, |since| stretch.charge.bill(end - since) * f64::from(stretch.ranks))
        };
        all.fold(self.bill, |sum, stretch| sum + bill(stretch))
    }
}

impl HoldStretch {
    /// True for ranks that are used and billed in the same way.
    fn is_like(&self, other: &HoldStretch) -> bool {
        let billed = |it: &HoldStretch| (it.held_since, it.kept, it.bills, it.charge);
        billed(self) == billed(other)
    }
}

/// Takes the last stretch off a stack, or as much of it as `ranks` allows; `None` when nothing is
/// left to take.
fn take(stack: &mut Vec<HoldStretch>, ranks: u32) -> Option<HoldStretch> {
    if ranks == 0 {
        return None;
    }
    let mut stretch = stack.pop()?;
    if stretch.ranks > ranks {
        stack.push(HoldStretch { ranks: stretch.ranks - ranks, ..stretch });
        stretch.ranks = ranks;
    }
    Some(stretch)
}

#[cfg(test)]
mod tests {
    use super::*;

    const CHARGE: Charge = Charge { minimum: 60.0, granularity: 1.0, per_second: 1.0, notice: 0.0 };

    fn held(since: f64) -> HeldNode {
        HeldNode { arrives: 0.0, granted: true, ..new(since) }
    }

    fn new(arrives: f64) -> HeldNode {
        HeldNode { since: Some(arrives), arrives, slots: 4, charge: CHARGE, ..HeldNode::default() }
    }

    fn course(steps: &[(f64, u32)]) -> Schedule {
        Schedule { steps: steps.to_vec(), finish: steps.last().unwrap().0, peak: 0 }
    }

    fn all(holders: &[HeldNode]) -> Holders {
        Holders::new(holders.iter().map(|&holder| HolderGroup::of(holder, 1)).collect())
    }

    #[test]
    fn short_gaps_are_bridged_and_long_ones_are_not() {
        // Eight slots from 0 to 100, one until 200 (or 400), eight again for another 100.
        let bill_with = |gap_end: f64, holders: &Holders| {
            let course = course(&[(0.0, 8), (100.0, 1), (gap_end, 8), (gap_end + 100.0, 0)]);
            bill(&course, holders, 150.0)
        };
        let apart = all(&[held(0.0), held(0.0)]);
        let grouped = Holders::new(vec![HolderGroup::of(held(0.0), 2)]);
        for holders in [apart, grouped] {
            assert_eq!(bill_with(200.0, &holders), 600.0);
            assert_eq!(bill_with(400.0, &holders), 500.0 + 100.0 + 100.0);
        }
    }

    #[test]
    fn what_is_never_used_is_never_asked_for() {
        let course = course(&[(0.0, 4), (50.0, 0)]);
        assert_eq!(bill(&course, &all(&[held(-10.0), new(30.0)]), 100.0), 60.0);
        assert_eq!(bill(&course, &all(&[held(-100.0), held(-10.0)]), 100.0), 150.0 + 60.0);
        let kept = HeldNode { kept: true, ..held(-100.0) };
        assert_eq!(bill(&course, &all(&[held(-100.0), kept]), 100.0), 150.0 + 150.0);
    }

    #[test]
    fn groups_cost_what_their_ranks_cost_one_by_one() {
        for seed in 0..200 {
            let mut random = fastrand::Rng::with_seed(seed);
            let mut groups = Vec::new();
            for _ in 0..random.usize(1..5) {
                let since = random.bool().then(|| -100.0 * random.f64());
                let slots = random.u32(1..5);
                let charge = Charge { per_second: 1.0 + f64::from(random.u32(0..2)), ..CHARGE };
                let (granted, kept) = (random.bool(), random.bool());
                let holder = HeldNode { since, granted, kept, slots, charge, ..HeldNode::default() };
                groups.push(HolderGroup::of(holder, random.u32(1..9)));
            }
            let grouped = Holders::new(groups.clone());
            let apart: Vec<HeldNode> =
                groups.iter().flat_map(|g| std::iter::repeat_n(g.holder, g.ranks as usize)).collect();
            let (mut steps, mut now) = (Vec::new(), 0.0);
            for _ in 0..random.usize(1..20) {
                steps.push((now, random.u32(0..60)));
                now += 100.0 * random.f64();
            }
            steps.push((now, 0));
            let (course, gap) = (course(&steps), 100.0 * random.f64());
            let (a, b) = (bill(&course, &grouped, gap), bill(&course, &all(&apart), gap));
            assert!((a - b).abs() < 1e-6 * b.max(1.0), "seed {seed}: {a} {b}");
        }
    }
}
