//! The resources that a task needs of its rank, and the ledger of the rank's memory, GPUs and
//! leases of pools.

use std::sync::Arc;
use std::time::Duration;

use super::fair::{FairShares, FairTable, FamilyId};
use super::pools::SetId;
use super::pools::shares::{PoolShares, Reserved};
use super::pools::table::PoolTable;

/// Resources that a task needs while it runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Needs {
    /// Number of slots; 0 counts as 1.
    pub cpus: u32,
    /// Bytes of memory.
    pub memory: u64,
    /// GPUs for its own use.
    pub gpus: u32,
    /// Units of pools; 0 for none.
    pub pools: SetId,
    /// The family that its slot time counts for; 0 for none.
    pub family: FamilyId,
}

impl Needs {
    /// One slot and nothing else.
    pub const SLOT: Needs = Needs { cpus: 1, memory: 0, gpus: 0, pools: 0, family: 0 };

    /// Number of slots, at least 1.
    pub fn slots(&self) -> usize {
        self.cpus.max(1) as usize
    }
}

/// Why a rank can never meet the needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Impossible {
    /// More CPUs than there are slots.
    #[error("needs {asked} CPUs, but this rank has {have} slots; lower `cpus` or raise --slots")]
    Cpus {
        /// Requested CPUs.
        asked: u32,
        /// Slots of the pool.
        have: u32,
    },
    /// More memory than the rank has.
    #[error(
        "needs {asked} bytes of memory, but this rank was granted {have}; lower `memory` or ask the launcher for more"
    )]
    Memory {
        /// Requested bytes.
        asked: u64,
        /// Bytes of the pool.
        have: u64,
    },
    /// More GPUs than the rank has.
    #[error("needs {asked} GPUs, but this rank was granted {have}; lower `gpus` or ask the launcher for more")]
    Gpus {
        /// Requested GPUs.
        asked: u32,
        /// GPUs of the pool.
        have: u32,
    },
}

/// The memory, GPUs and leases of one rank. Nothing is granted twice: `free + granted = total` at
/// all times.
#[derive(Debug)]
pub struct ResourceLedger {
    slots: u32,
    memory: u64,
    gpus: u32,
    free_memory: u64,
    free_gpus: u32,
    pools: PoolShares,
    fair: FairShares,
}

impl ResourceLedger {
    /// A rank with this many slots, bytes of memory and GPUs, and without leases of these pools.
    pub fn new(slots: u32, memory: u64, gpus: u32, pools: Arc<PoolTable>) -> ResourceLedger {
        let pools = PoolShares::new(pools);
        let fair = FairShares::default();
        ResourceLedger { slots, memory, gpus, free_memory: memory, free_gpus: gpus, pools, fair }
    }

    /// The same for a job whose families have shares.
    pub fn with_fair(self, table: Arc<FairTable>) -> ResourceLedger {
        ResourceLedger { fair: FairShares::new(table), ..self }
    }

    /// Replaces the tables by those of more tasks.
    pub fn grow(&mut self, pools: Arc<PoolTable>, fair: Arc<FairTable>) {
        self.pools.grow(pools);
        self.fair.grow(fair);
    }

    /// What families have got.
    pub fn fair(&self) -> &FairShares {
        &self.fair
    }

    /// What families have got.
    pub fn fair_mut(&mut self) -> &mut FairShares {
        &mut self.fair
    }

    /// The leases.
    pub fn pools(&self) -> &PoolShares {
        &self.pools
    }

    /// The leases.
    pub fn pools_mut(&mut self) -> &mut PoolShares {
        &mut self.pools
    }

    /// Number of slots.
    pub fn slots(&self) -> u32 {
        self.slots
    }

    /// Checks that the needs could be met if nothing else ran.
    ///
    /// # Errors
    ///
    /// If they can never be met.
    pub fn check(&self, needs: &Needs) -> Result<(), Impossible> {
        match needs {
            n if n.cpus > self.slots => Err(Impossible::Cpus { asked: n.cpus, have: self.slots }),
            n if n.memory > self.memory => Err(Impossible::Memory { asked: n.memory, have: self.memory }),
            n if n.gpus > self.gpus => Err(Impossible::Gpus { asked: n.gpus, have: self.gpus }),
            _ => Ok(()),
        }
    }

    /// True if enough units of its pools are idle here, without those that are reserved.
    pub fn has_units(&self, needs: &Needs, reserved: &Reserved) -> bool {
        self.pools.fits(needs.pools, reserved)
    }

    /// True if enough memory and GPUs are free now.
    pub fn fits(&self, needs: &Needs) -> bool {
        needs.memory <= self.free_memory && needs.gpus <= self.free_gpus
    }

    /// Grants needs that [`ResourceLedger::fits`] and that [`ResourceLedger::has_units`]. Returns
    /// what the family is charged.
    pub fn grant(&mut self, needs: &Needs) -> f64 {
        self.free_memory -= needs.memory;
        self.free_gpus -= needs.gpus;
        self.pools.start(needs.pools);
        self.fair.start(needs.family, needs.slots() as u32)
    }

    /// Returns what was granted for `needs`. `used`: what the family was charged, and the time
    /// since the grant.
    pub fn take_back(&mut self, needs: &Needs, (charge, took): (f64, Duration)) {
        self.free_memory += needs.memory;
        self.free_gpus += needs.gpus;
        self.pools.end(needs.pools);
        self.fair.end(needs.family, charge, needs.slots() as u32, took);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ledger(gpus: u32) -> ResourceLedger {
        ResourceLedger::new(4, 100, gpus, Arc::default())
    }

    #[test]
    fn what_is_granted_is_gone_until_it_is_taken_back() {
        let mut ledger = ledger(3);
        let needs = Needs { cpus: 1, memory: 60, gpus: 2, ..Needs::SLOT };
        ledger.grant(&needs);
        assert!(!ledger.fits(&needs));
        assert!(ledger.fits(&Needs { memory: 40, gpus: 1, ..Needs::SLOT }));
        ledger.take_back(&needs, (0.0, Duration::ZERO));
        assert!(ledger.fits(&Needs { memory: 100, gpus: 3, ..Needs::SLOT }));
    }

    #[test]
    fn what_can_never_be_met_is_told_apart() {
        let ledger = ledger(1);
        let why = |needs| ledger.check(&needs).unwrap_err();
        assert_eq!(why(Needs { cpus: 5, ..Needs::SLOT }), Impossible::Cpus { asked: 5, have: 4 });
        assert_eq!(why(Needs { memory: 101, ..Needs::SLOT }), Impossible::Memory { asked: 101, have: 100 });
        assert_eq!(why(Needs { gpus: 2, ..Needs::SLOT }), Impossible::Gpus { asked: 2, have: 1 });
        assert!(ledger.check(&Needs { cpus: 4, memory: 100, gpus: 1, pools: 7, family: 0 }).is_ok());
    }
}
