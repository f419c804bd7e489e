//! Units of pools in a simulated world: what must hold at any time.

use super::{Life, World};
use crate::schedule::pools::UNLIMITED;
use crate::schedule::pools::dealer::LOST_LEASE;
use crate::schedule::pools::table::{PoolTable, ResourceKind};

/// How long before its lease comes back a lost rank has certainly ended its tasks.
const GHOSTS_NS: u64 = LOST_LEASE.as_nanos() as u64 - 1_000_000_000;

/// What is known of a resource.
#[derive(Clone, Copy, Debug)]
pub(in crate::schedule::tests) struct Units {
    kind: ResourceKind,
    /// Units that may be leased: the capacity, or what was leased when it was lowered as far as
    /// that has not come back.
    bound: u64,
    /// Starts so far, for a rate.
    starts: u64,
    /// Most units that were in use at once.
    pub(in crate::schedule::tests) peak: u64,
}

impl Units {
    pub(super) fn of(table: &PoolTable) -> Vec<Units> {
        let units = |kind| match kind {
            ResourceKind::Capacity(units) => u64::from(units),
            ResourceKind::Rate { .. } => UNLIMITED.into(),
        };
        let of = |resource: &crate::schedule::pools::table::PoolResource| Units {
            kind: resource.kind,
            bound: units(resource.kind),
            starts: 0,
            peak: 0,
        };
        table.resources().iter().map(of).collect()
    }
}

impl World {
    /// The capacity of a resource has changed.
    pub(super) fn capacity_changed(&mut self, resource: u32, units: u32) {
        self.units[resource as usize].bound = self.coordinator.pools().dealt(resource).max(units.into());
    }

    /// Leases together are at most the capacity; after it was lowered they only shrink.
    pub(super) fn check_leases(&mut self) {
        for (resource, units) in (0..).zip(&mut self.units) {
            let dealt = self.coordinator.pools().dealt(resource);
            let capacity = self.coordinator.pools().capacity(resource);
            assert!(dealt <= units.bound, "{dealt} units of {resource} are leased, and {} may be", units.bound);
            units.bound = units.bound.min(dealt).max(capacity.into());
        }
    }

    /// A task starts: never more units are in use than are leased, tasks of lost ranks included.
    pub(super) fn check_use(&mut self, rank: usize, task: u32, in_gang: bool) {
        if in_gang {
            self.gang_units.insert(task, (rank, Vec::new()));
        }
        let set = self.job.pools.set(self.job.pools.set_of(crate::model::TaskId(task))).to_vec();
        for (resource, amount) in set {
            let units = &mut self.units[resource as usize];
            if let ResourceKind::Rate { starts, per_ns } = units.kind {
                units.starts += u64::from(amount);
                let interval = per_ns / u64::from(starts) + 1;
                let most = self.now / interval.saturating_sub(1).max(1) + 20_000_000 / interval + 2;
                assert!(units.starts <= most, "{} starts of {resource} by {} ns", units.starts, self.now);
                continue;
            }
            if in_gang {
                self.gang_units.entry(task).or_default().1.push((resource, amount));
            }
            let on_ranks: u64 = (0..self.pools.len())
                .filter(|&rank| self.life[rank] != Life::Left && self.ghosts_until[rank] > self.now)
                .map(|rank| u64::from(self.pools[rank].shares.lease(resource).1))
                .sum();
            let of_gangs: u64 = self
                .gang_units
                .values()
                .filter(|(leader, _)| self.ghosts_until[*leader] > self.now)
                .flat_map(|(_, units)| units)
                .filter(|of| of.0 == resource)
                .map(|of| u64::from(of.1))
                .sum();
            let used = on_ranks + of_gangs;
            let dealt = self.coordinator.pools().dealt(resource);
            assert!(used <= dealt, "{used} units of {resource} are in use, and {dealt} leased");
            self.units[resource as usize].peak = self.units[resource as usize].peak.max(used);
        }
    }

    /// A process has died: its tasks may go on for a while.
    pub(super) fn haunt(&mut self, rank: usize) {
        self.ghosts_until[rank] = self.now + GHOSTS_NS;
    }
}
