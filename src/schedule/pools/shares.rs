//! The leases of one rank: what it holds of each resource, and what its tasks use of it.
//!
//! Invariant: `used <= held` for every resource, and while units are owed, none is idle.

use std::sync::Arc;

use super::table::PoolTable;
use super::{PoolClaim, PoolOrders, PoolReport, ResourceId, SetId};

/// Upper limit on claims in a report; further ones follow when these have been served.
const MAX_CLAIMS: usize = 64;

/// The leases of a rank.
#[derive(Debug, Default)]
pub struct PoolShares {
    table: Arc<PoolTable>,
    leases: Vec<Lease>,
    /// Number of orders carried out.
    seen: u32,
    /// True if a report would differ from the last one.
    is_changed: bool,
    /// True if rank 0 waits for a report: units were given back.
    is_urgent: bool,
}

#[derive(Clone, Copy, Debug, Default)]
struct Lease {
    held: u32,
    used: u32,
    /// Units to give back.
    owed: u32,
    /// Units given back and not reported yet.
    returned: u32,
}

impl Lease {
    fn idle(&self) -> u32 {
        self.held - self.used
    }

    fn pay(&mut self) {
        let units = self.owed.min(self.idle());
        self.held -= units;
        self.owed -= units;
        self.returned += units;
    }
}

/// Which units are spoken for by entries further ahead in the queue.
#[derive(Debug, Default)]
pub struct Reserved {
    /// Idle units kept for entries ahead, by resource; empty if there are none.
    kept: Vec<u32>,
    /// Resources that an entry ahead lacks.
    contended: Vec<bool>,
}

impl Reserved {
    fn kept(&self, resource: ResourceId) -> u32 {
        self.kept.get(resource as usize).copied().unwrap_or(0)
    }

    fn is_contended(&self, resource: ResourceId) -> bool {
        self.contended.get(resource as usize).copied().unwrap_or(false)
    }
}

impl PoolShares {
    /// The leases of a rank that holds nothing yet.
    pub fn new(table: Arc<PoolTable>) -> PoolShares {
        let leases = vec![Lease::default(); table.resources().len()];
        PoolShares { table, leases, ..PoolShares::default() }
    }

    /// Replaces the table by one that has grown from it.
    pub fn grow(&mut self, table: Arc<PoolTable>) {
        self.leases.resize(table.resources().len(), Lease::default());
        self.table = table;
    }

    /// True if enough units are idle for a task of this set, without those reserved.
    #[inline]
    pub fn fits(&self, set: SetId, reserved: &Reserved) -> bool {
        set == 0 || self.table.set(set).iter().all(|&(resource, amount)| self.free(resource, reserved) >= amount)
    }

    fn free(&self, resource: ResourceId, reserved: &Reserved) -> u32 {
        self.leases[resource as usize].idle().saturating_sub(reserved.kept(resource))
    }

    /// Reserves idle units for `tasks` tasks that cannot start, or can start before all others.
    /// Returns what was reserved, by the order of the set; `None` if an entry ahead waits for the
    /// same units, so that this one keeps nothing from others.
    pub fn reserve(&self, set: SetId, tasks: u32, reserved: &mut Reserved) -> Option<Vec<u32>> {
        let needs = self.table.set(set);
        reserved.kept.resize(self.leases.len(), 0);
        reserved.contended.resize(self.leases.len(), false);
        let lacks = |resource, amount: u32, reserved: &Reserved| self.free(resource, reserved) < amount;
        if needs.iter().any(|&(resource, amount)| lacks(resource, amount, reserved) && reserved.is_contended(resource))
        {
            return None;
        }
        let mut out = Vec::with_capacity(needs.len());
        for &(resource, amount) in needs {
            let free = self.free(resource, reserved);
            let kept = amount.saturating_mul(tasks.max(1)).min(free);
            reserved.contended[resource as usize] |= free < amount;
            reserved.kept[resource as usize] += kept;
            out.push(kept);
        }
        Some(out)
    }

    /// Takes the units of a task that [`fits`](PoolShares::fits).
    #[inline]
    pub fn start(&mut self, set: SetId) {
        for &(resource, amount) in self.table.set(set) {
            let lease = &mut self.leases[resource as usize];
            match self.table.is_rate(resource) {
                true => lease.held -= amount,
                false => lease.used += amount,
            }
        }
        self.is_changed |= set != 0;
    }

    /// Frees the units of a task that has ended.
    #[inline]
    pub fn end(&mut self, set: SetId) {
        for &(resource, amount) in self.table.set(set) {
            if self.table.is_rate(resource) {
                continue;
            }
            let lease = &mut self.leases[resource as usize];
            lease.used -= amount;
            if lease.owed > 0 {
                lease.pay();
                self.is_urgent = true;
            }
        }
        self.is_changed |= set != 0;
    }

    /// Carries out an order of rank 0. Numbers of resources that do not exist are ignored.
    pub fn carry_out(&mut self, orders: &PoolOrders) {
        for &(resource, units) in &orders.granted {
            if let Some(lease) = self.leases.get_mut(resource as usize) {
                lease.held = lease.held.saturating_add(units);
            }
        }
        for &(resource, units) in &orders.owed {
            if let Some(lease) = self.leases.get_mut(resource as usize) {
                lease.owed = units;
            }
        }
        self.leases.iter_mut().filter(|lease| lease.owed > 0).for_each(Lease::pay);
        self.seen = self.seen.wrapping_add(1);
        (self.is_changed, self.is_urgent) = (true, true);
    }

    /// A task that needs pools has begun to wait, or waits no more.
    pub fn note_change(&mut self) {
        self.is_changed = true;
    }

    /// True if a report would differ from the last one.
    pub fn is_changed(&self) -> bool {
        self.is_changed
    }

    /// True once after units were given back: rank 0 should get a report soon.
    pub fn take_urgent(&mut self) -> bool {
        std::mem::take(&mut self.is_urgent)
    }

    /// The report for rank 0. `claims`: what waits, by the order of the queue;
    /// `waiting`: sets with the number of tasks that wait for anything. Starts of a rate for which
    /// nothing waits lapse.
    pub fn report(&mut self, mut claims: Vec<PoolClaim>, waiting: impl Iterator<Item = (SetId, usize)>) -> PoolReport {
        // What lacks nothing starts in a moment.
        let mut soon = vec![0u32; self.leases.len()];
        claims.retain_mut(|claim| {
            let needs = self.table.set(claim.set);
            let starts = needs.iter().zip(&claim.kept).map(|(need, kept)| kept / need.1.max(1)).min();
            let starts = starts.unwrap_or(0).min(claim.tasks);
            for (need, kept) in needs.iter().zip(&mut claim.kept) {
                soon[need.0 as usize] += if claim.ahead { 0 } else { starts * need.1 };
                *kept -= starts * need.1;
            }
            claim.tasks -= starts;
            claim.tasks > 0
        });
        claims.truncate(MAX_CLAIMS);
        let mut wanted = vec![0u64; self.leases.len()];
        for (set, tasks) in waiting {
            for &(resource, amount) in self.table.set(set) {
                wanted[resource as usize] += u64::from(amount) * tasks as u64;
            }
        }
        let mut report = PoolReport { seen: self.seen, claims, ..PoolReport::default() };
        for (resource, lease) in (0..).zip(&mut self.leases) {
            if self.table.is_rate(resource) {
                lease.held = u64::from(lease.held).min(wanted[resource as usize]) as u32;
                continue;
            }
            if lease.returned > 0 {
                report.returned.push((resource, std::mem::take(&mut lease.returned)));
            }
            if lease.held > 0 {
                report.used.push((resource, (lease.used + soon[resource as usize]).min(lease.held)));
            }
        }
        (self.is_changed, self.is_urgent) = (false, false);
        report
    }

    /// Units held and units in use of a resource.
    #[cfg(test)]
    pub fn lease(&self, resource: ResourceId) -> (u32, u32) {
        self.leases.get(resource as usize).map_or((0, 0), |lease| (lease.held, lease.used))
    }
}
