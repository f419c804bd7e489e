//! Fair share: which family of tasks starts next, so that families with work get slot time in
//! proportion to their shares.
//!
//! The rule is deficit-based. Each family has a *service*: the slot time that its tasks have got,
//! on this rank and elsewhere, divided by its share. Of the tasks of equal `priority` that may
//! start, those of the family with the least service come first. A task is charged when it starts,
//! with the mean of its family, and the charge is corrected when it ends; so families whose tasks
//! take unequally long get equal time and not equally many tasks. A family that had no work for a
//! while starts level with the one that has got least: it neither pays for the pause nor is it
//! paid.

use std::sync::Arc;
use std::time::Duration;

/// Slot time that a task of a family is charged before any has ended.
const FIRST_CHARGE_NS: f64 = 1e6;

/// Number of a family in the [`FairTable`], from 1; 0 for none.
pub type FamilyId = u32;

/// The families of a job; empty unless it asks for fair shares.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FairTable {
    /// By number of the family, from 1.
    pub families: Vec<FairFamily>,
}

/// What a family is entitled to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FairFamily {
    /// Its share, at least 1; only ratios matter.
    pub share: u32,
    /// Families of a higher priority come before all of a lower one.
    pub priority: i32,
}

impl FairTable {
    /// True if the job asks for no fair shares.
    pub fn is_empty(&self) -> bool {
        self.families.is_empty()
    }
}

/// What the families have got, as one rank knows it.
#[derive(Debug, Default)]
pub struct FairShares {
    table: Arc<FairTable>,
    states: Vec<FamilyState>,
}

#[derive(Clone, Copy, Debug, Default)]
struct FamilyState {
    /// Slot time here, with what running tasks are charged.
    here_ns: f64,
    /// Slot time on other ranks.
    elsewhere_ns: f64,
    /// Added when it got work again.
    lift_ns: f64,
    /// Mean slot time of a task that ended here, and their number.
    mean_ns: f64,
    ended: f64,
    waiting: u32,
    running: u32,
    /// True if it has got slot time on other ranks between the last two reports of them.
    grows_elsewhere: bool,
}

impl FairShares {
    /// No family has got anything yet.
    pub fn new(table: Arc<FairTable>) -> FairShares {
        let states = vec![FamilyState::default(); table.families.len()];
        FairShares { table, states }
    }

    /// Replaces the table by one with more families.
    pub fn grow(&mut self, table: Arc<FairTable>) {
        self.states.resize(table.families.len(), FamilyState::default());
        self.table = table;
    }

    /// True if the job asks for no fair shares.
    pub fn is_empty(&self) -> bool {
        self.states.is_empty()
    }

    fn at(family: FamilyId) -> Option<usize> {
        family.checked_sub(1).map(|at| at as usize)
    }

    /// The order in which families start: the least key first.
    pub fn key(&self, family: FamilyId) -> (i64, f64) {
        let Some(at) = FairShares::at(family).filter(|&at| at < self.states.len()) else { return (0, 0.0) };
        (-i64::from(self.table.families[at].priority), self.service(at))
    }

    fn service(&self, at: usize) -> f64 {
        let state = &self.states[at];
        (state.here_ns + state.elsewhere_ns + state.lift_ns) / f64::from(self.table.families[at].share.max(1))
    }

    /// A task of a family waits.
    pub fn wait(&mut self, family: FamilyId) {
        let Some(at) = FairShares::at(family).filter(|&at| at < self.states.len()) else { return };
        let state = self.states[at];
        if state.waiting + state.running == 0 && !state.grows_elsewhere {
            self.lift(at);
        }
        self.states[at].waiting += 1;
    }

    /// Sets a family that gets work again level with the one that has got least.
    fn lift(&mut self, at: usize) {
        let priority = self.table.families[at].priority;
        let is_rival = |other: &usize| {
            let state = &self.states[*other];
            *other != at && state.waiting + state.running > 0 && self.table.families[*other].priority == priority
        };
        let least =
            (0..self.states.len()).filter(is_rival).map(|other| self.service(other)).fold(f64::INFINITY, f64::min);
        let missing = least - self.service(at);
        if missing.is_finite() && missing > 0.0 {
            self.states[at].lift_ns += missing * f64::from(self.table.families[at].share.max(1));
        }
    }

    /// A task does not wait any more, without having started.
    pub fn withdraw(&mut self, family: FamilyId) {
        if let Some(state) = FairShares::at(family).and_then(|at| self.states.get_mut(at)) {
            state.waiting = state.waiting.saturating_sub(1);
        }
    }

    /// A task starts on this number of slots; returns what it is charged.
    pub fn start(&mut self, family: FamilyId, slots: u32) -> f64 {
        let Some(state) = FairShares::at(family).and_then(|at| self.states.get_mut(at)) else { return 0.0 };
        let mean = if state.ended > 0.0 { state.mean_ns } else { FIRST_CHARGE_NS };
        let charge = mean * f64::from(slots);
        state.waiting = state.waiting.saturating_sub(1);
        state.running += 1;
        state.here_ns += charge;
        charge
    }

    /// A task ends that was charged so much.
    pub fn end(&mut self, family: FamilyId, charge: f64, slots: u32, took: Duration) {
        let Some(state) = FairShares::at(family).and_then(|at| self.states.get_mut(at)) else { return };
        let took = took.as_nanos() as f64;
        state.here_ns += took * f64::from(slots) - charge;
        state.ended += 1.0;
        state.mean_ns += (took - state.mean_ns) / state.ended;
        state.running = state.running.saturating_sub(1);
    }

    /// Learns the slot time that families have got on other ranks.
    pub fn learn(&mut self, elsewhere: &[(FamilyId, u64)]) {
        for &(family, ns) in elsewhere {
            if let Some(state) = FairShares::at(family).and_then(|at| self.states.get_mut(at)) {
                state.grows_elsewhere = ns as f64 > state.elsewhere_ns;
                state.elsewhere_ns = ns as f64;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::seeds::{Named, seeds};

    /// Slots that are always full, and families with as many tasks of random length as are wanted
    /// from a time on. Returns the slot time of each family.
    fn served(
        families: &[FairFamily],
        begins: &[u64],
        lengths: &[u64],
        slots: usize,
        seed: u64,
        until: u64,
    ) -> Vec<u64> {
        let mut rng = fastrand::Rng::with_seed(seed);
        let mut shares = FairShares::new(Arc::new(FairTable { families: families.to_vec() }));
        let mut running: Vec<(u64, u32, f64, u64)> = Vec::new();
        let mut got = vec![0; families.len()];
        let mut waits = vec![false; families.len()];
        let mut now = 0;
        while now < until {
            for at in 0..families.len() {
                if begins[at] <= now && !waits[at] {
                    shares.wait(at as u32 + 1);
                    waits[at] = true;
                }
            }
            while running.len() < slots {
                let ready = (0..families.len()).filter(|&at| waits[at]);
                let Some(at) =
                    ready.min_by(|&a, &b| shares.key(a as u32 + 1).partial_cmp(&shares.key(b as u32 + 1)).unwrap())
                else {
                    break;
                };
                let took = rng.u64(lengths[at] / 2..lengths[at] * 3 / 2 + 1);
                let charge = shares.start(at as u32 + 1, 1);
                shares.wait(at as u32 + 1);
                running.push((now + took, at as u32 + 1, charge, took));
            }
            let Some(next) = (0..running.len()).min_by_key(|&n| running[n].0) else {
                now = *begins.iter().filter(|&&begin| begin > now).min().unwrap();
                continue;
            };
            let (end, family, charge, took) = running.swap_remove(next);
            now = end;
            got[family as usize - 1] += took;
            shares.end(family, charge, 1, Duration::from_nanos(took));
        }
        got
    }

    fn family(share: u32, priority: i32) -> FairFamily {
        FairFamily { share, priority }
    }

    #[test]
    fn slot_time_is_in_proportion_to_shares_however_long_tasks_take() {
        for seed in seeds(200) {
            let _named = Named(seed, "schedule::fair::tests::slot_time_is_in_proportion");
            let mut rng = fastrand::Rng::with_seed(seed ^ 7);
            let (shares, slots) = ([rng.u32(1..5), rng.u32(1..5)], rng.usize(1..9));
            let lengths = [rng.u64(1_000_000..100_000_000), rng.u64(1_000_000..100_000_000)];
            let longest = *lengths.iter().max().unwrap();
            let until = longest * 400;
            let got = served(&shares.map(|share| family(share, 0)), &[0, 0], &lengths, slots, seed, until);
            let part = got[0] as f64 / (got[0] + got[1]) as f64;
            let fair = f64::from(shares[0]) / f64::from(shares[0] + shares[1]);
            // With few slots a long task is a step that cannot be divided.
            assert!((part - fair).abs() < 0.025, "{part:.3} instead of {fair:.3}: {shares:?} {lengths:?} {slots}");
        }
    }

    #[test]
    fn a_family_that_comes_late_is_not_paid_for_the_time_before() {
        let (second, tasks) = (1_000_000_000, [10_000_000, 10_000_000]);
        let got = served(&[family(1, 0), family(1, 0)], &[0, second], &tasks, 4, 1, 2 * second);
        let after = got[1] as f64 / (4 * second) as f64;
        assert!((after - 0.5).abs() < 0.02, "{after}");
    }

    #[test]
    fn a_higher_priority_comes_before_every_share() {
        let got = served(&[family(100, 0), family(1, 5)], &[0, 0], &[1_000_000, 1_000_000], 2, 1, 100_000_000);
        assert!(got[0] == 0, "{got:?}");
    }

    #[test]
    fn a_pause_is_not_paid_for_where_other_ranks_report_late() {
        let family = FairFamily { share: 1, priority: 0 };
        let mut fair = FairShares::new(Arc::new(FairTable { families: vec![family; 2] }));
        let run = |fair: &mut FairShares, family: FamilyId| {
            fair.wait(family);
            let charge = fair.start(family, 1);
            fair.end(family, charge, 1, Duration::from_secs(1));
        };
        run(&mut fair, 1);
        // What the other ranks did for the first family before it ran out of work is heard of after.
        fair.learn(&[(1, 5_000_000_000), (2, 0)]);
        fair.wait(2);
        for elsewhere in 1..100u64 {
            run(&mut fair, 2);
            fair.learn(&[(1, 5_000_000_000), (2, elsewhere * 1_000_000_000)]);
        }
        fair.wait(1);
        let missing = fair.key(2).1 - fair.key(1).1;
        assert!(missing.abs() < 1e9, "the first family has {missing} ns to catch up with");
    }
}
