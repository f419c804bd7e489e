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
//!
//! The jobs of one run share the time by the same rule, and the families of a job what it gets.

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
    /// True if families have shares.
    pub is_by_family: bool,
    /// Names and shares of the jobs of the run; empty unless jobs have shares.
    pub jobs: Vec<(Arc<str>, u32)>,
}

/// What a family is entitled to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FairFamily {
    /// Its share, at least 1; only ratios matter.
    pub share: u32,
    /// Families of a higher priority come before all of a lower one.
    pub priority: i32,
    /// Number of its job.
    pub job: u32,
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
    families: Vec<Account>,
    jobs: Vec<Account>,
}

/// What a family or a job has got.
#[derive(Clone, Copy, Debug, Default)]
struct Account {
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

impl Account {
    fn service(&self, share: u32) -> f64 {
        (self.here_ns + self.elsewhere_ns + self.lift_ns) / f64::from(share.max(1))
    }

    fn has_work(&self) -> bool {
        self.waiting + self.running > 0
    }

    /// Sets what gets work again level with the one of `rivals` that has got least.
    fn lift(&mut self, share: u32, rivals: impl Iterator<Item = f64>) {
        let missing = rivals.fold(f64::INFINITY, f64::min) - self.service(share);
        if missing.is_finite() && missing > 0.0 {
            self.lift_ns += missing * f64::from(share.max(1));
        }
    }

    fn learn(&mut self, elsewhere_ns: f64) {
        self.grows_elsewhere = elsewhere_ns > self.elsewhere_ns;
        self.elsewhere_ns = elsewhere_ns;
    }
}

impl FairShares {
    /// No family has got anything yet.
    pub fn new(table: Arc<FairTable>) -> FairShares {
        let mut shares = FairShares::default();
        shares.grow(table);
        shares
    }

    /// Replaces the table by one with more families.
    pub fn grow(&mut self, table: Arc<FairTable>) {
        self.families.resize(table.families.len(), Account::default());
        self.jobs.resize(table.jobs.len(), Account::default());
        self.table = table;
    }

    /// True if the job asks for no fair shares.
    pub fn is_empty(&self) -> bool {
        self.families.is_empty()
    }

    /// The place of a family, with what it is entitled to.
    fn at(&self, family: FamilyId) -> Option<(usize, FairFamily)> {
        let at = family.checked_sub(1)? as usize;
        Some((at, *self.table.families.get(at)?))
    }

    /// The accounts that a task of a family counts for: that of the family, and that of its job.
    fn accounts(&mut self, family: FamilyId) -> impl Iterator<Item = &mut Account> {
        let found = self.at(family);
        let family = found.and_then(|(at, _)| self.families.get_mut(at));
        family.into_iter().chain(found.and_then(|(_, family)| self.jobs.get_mut(family.job as usize)))
    }

    /// The order in which families start: by priority, then the job with the least service, then
    /// the family with the least.
    pub fn key(&self, family: FamilyId) -> (i64, [f64; 2]) {
        let Some((at, FairFamily { priority, job, .. })) = self.at(family) else { return (0, [0.0; 2]) };
        let of_job = if self.jobs.is_empty() { 0.0 } else { self.job_service(job as usize) };
        let of_family = if self.table.is_by_family { self.service(at) } else { 0.0 };
        (-i64::from(priority), [of_job, of_family])
    }

    fn service(&self, at: usize) -> f64 {
        self.families[at].service(self.table.families[at].share)
    }

    fn job_service(&self, job: usize) -> f64 {
        self.jobs.get(job).map_or(0.0, |account| account.service(self.table.jobs[job].1))
    }

    /// A task of a family waits.
    pub fn wait(&mut self, family: FamilyId) {
        let Some((at, FairFamily { share, priority, job })) = self.at(family) else { return };
        let begins = |account: &Account| !account.has_work() && !account.grows_elsewhere;
        if begins(&self.families[at]) {
            let is_rival = |&other: &usize| {
                let it = &self.table.families[other];
                let is_beside = it.priority == priority && (self.jobs.is_empty() || it.job == job);
                other != at && is_beside && self.families[other].has_work()
            };
            let rivals: Vec<f64> = (0..self.families.len()).filter(is_rival).map(|other| self.service(other)).collect();
            self.families[at].lift(share, rivals.into_iter());
        }
        let job = job as usize;
        if self.jobs.get(job).is_some_and(begins) {
            let is_rival = |&other: &usize| other != job && self.jobs[other].has_work();
            let rivals: Vec<f64> = (0..self.jobs.len()).filter(is_rival).map(|other| self.job_service(other)).collect();
            self.jobs[job].lift(self.table.jobs[job].1, rivals.into_iter());
        }
        self.accounts(family).for_each(|account| account.waiting += 1);
    }

    /// A task does not wait any more, without having started.
    pub fn withdraw(&mut self, family: FamilyId) {
        self.accounts(family).for_each(|account| account.waiting = account.waiting.saturating_sub(1));
    }

    /// A task starts on this number of slots; returns what it is charged.
    pub fn start(&mut self, family: FamilyId, slots: u32) -> f64 {
        let Some(account) = self.accounts(family).next() else { return 0.0 };
        let mean = if account.ended > 0.0 { account.mean_ns } else { FIRST_CHARGE_NS };
        let charge = mean * f64::from(slots);
        for account in self.accounts(family) {
            account.waiting = account.waiting.saturating_sub(1);
            account.running += 1;
            account.here_ns += charge;
        }
        charge
    }

    /// A task ends that was charged so much.
    pub fn end(&mut self, family: FamilyId, charge: f64, slots: u32, took: Duration) {
        let took = took.as_nanos() as f64;
        for account in self.accounts(family) {
            account.here_ns += took * f64::from(slots) - charge;
            account.ended += 1.0;
            account.mean_ns += (took - account.mean_ns) / account.ended;
            account.running = account.running.saturating_sub(1);
        }
    }

    /// Learns the slot time that families have got on other ranks.
    pub fn learn(&mut self, elsewhere: &[(FamilyId, u64)]) {
        for &(family, ns) in elsewhere {
            self.accounts(family).take(1).for_each(|account| account.learn(ns as f64));
        }
        let mut of_jobs = vec![0.0; self.jobs.len()];
        for (account, family) in self.families.iter().zip(&self.table.families) {
            of_jobs.iter_mut().skip(family.job as usize).take(1).for_each(|ns| *ns += account.elsewhere_ns);
        }
        self.jobs.iter_mut().zip(of_jobs).for_each(|(account, ns)| account.learn(ns));
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
        jobs: &[u32],
        begins: &[u64],
        lengths: &[u64],
        slots: usize,
        seed: u64,
        until: u64,
    ) -> Vec<u64> {
        let mut rng = fastrand::Rng::with_seed(seed);
        let jobs = jobs.iter().map(|&share| ("job".into(), share)).collect();
        let table = FairTable { families: families.to_vec(), is_by_family: true, jobs };
        let mut shares = FairShares::new(Arc::new(table));
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
        FairFamily { share, priority, job: 0 }
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
            let got = served(&shares.map(|share| family(share, 0)), &[], &[0, 0], &lengths, slots, seed, until);
            let part = got[0] as f64 / (got[0] + got[1]) as f64;
            let fair = f64::from(shares[0]) / f64::from(shares[0] + shares[1]);
            // With few slots a long task is a step that cannot be divided.
            assert!((part - fair).abs() < 0.025, "{part:.3} instead of {fair:.3}: {shares:?} {lengths:?} {slots}");
        }
    }

    #[test]
    fn jobs_share_the_time_and_their_families_what_the_job_gets() {
        for seed in seeds(50) {
            let _named = Named(seed, "schedule::fair::tests::jobs_share_the_time");
            let mut rng = fastrand::Rng::with_seed(seed ^ 11);
            let (jobs, slots) = ([rng.u32(1..5), rng.u32(1..5)], rng.usize(1..9));
            let shares = [1, 1, rng.u32(1..4)];
            let of_job = |at: usize| FairFamily { share: shares[at], priority: 0, job: u32::from(at > 0) };
            let lengths = [0; 3].map(|_| rng.u64(1_000_000..50_000_000));
            let until = lengths.iter().max().unwrap() * 600;
            let got = served(&[0, 1, 2].map(of_job), &jobs, &[0; 3], &lengths, slots, seed, until);
            let all = got.iter().sum::<u64>() as f64;
            let (of_first, fair) = (got[0] as f64 / all, f64::from(jobs[0]) / f64::from(jobs[0] + jobs[1]));
            assert!(
                (of_first - fair).abs() < 0.025,
                "{of_first:.3} instead of {fair:.3}: {jobs:?} {lengths:?} {slots}"
            );
            let (of_second, fair) = (got[1] as f64 / (got[1] + got[2]) as f64, 1.0 / f64::from(1 + shares[2]));
            assert!((of_second - fair).abs() < 0.04, "{of_second:.3} instead of {fair:.3}: {shares:?} {lengths:?}");
        }
    }

    #[test]
    fn a_job_that_comes_late_is_not_paid_for_the_time_before() {
        let second = 1_000_000_000;
        let families = [family(1, 0), FairFamily { job: 1, ..family(1, 0) }];
        let got = served(&families, &[1, 1], &[0, second], &[10_000_000; 2], 4, 1, 2 * second);
        let after = got[1] as f64 / (4 * second) as f64;
        assert!((after - 0.5).abs() < 0.02, "{after}");
    }

    #[test]
    fn a_family_that_comes_late_is_not_paid_for_the_time_before() {
        let (second, tasks) = (1_000_000_000, [10_000_000, 10_000_000]);
        let got = served(&[family(1, 0), family(1, 0)], &[], &[0, second], &tasks, 4, 1, 2 * second);
        let after = got[1] as f64 / (4 * second) as f64;
        assert!((after - 0.5).abs() < 0.02, "{after}");
    }

    #[test]
    fn a_higher_priority_comes_before_every_share() {
        let got = served(&[family(100, 0), family(1, 5)], &[], &[0, 0], &[1_000_000, 1_000_000], 2, 1, 100_000_000);
        assert!(got[0] == 0, "{got:?}");
    }

    #[test]
    fn a_pause_is_not_paid_for_where_other_ranks_report_late() {
        let families = vec![family(1, 0); 2];
        let table = FairTable { families, is_by_family: true, jobs: Vec::new() };
        let mut fair = FairShares::new(Arc::new(table));
        let run = |fair: &mut FairShares, family: FamilyId| {
            fair.wait(family);
            let charge = fair.start(family, 1);
            fair.end(family, charge, 1, Duration::from_secs(1));
        };
        run(&mut fair, 1);
        // What the other ranks did for the first family before it ran out of work is heard of
        // after.
        fair.learn(&[(1, 5_000_000_000), (2, 0)]);
        fair.wait(2);
        for elsewhere in 1..100u64 {
            run(&mut fair, 2);
            fair.learn(&[(1, 5_000_000_000), (2, elsewhere * 1_000_000_000)]);
        }
        fair.wait(1);
        let missing = fair.key(2).1[1] - fair.key(1).1[1];
        assert!(missing.abs() < 1e9, "the first family has {missing} ns to catch up with");
    }
}
