//! The resources that a task needs of its rank, and the ledger of the rank's memory, GPUs and
//! concurrency limits.

use rustc_hash::FxHashMap;

/// Resources that a task needs while it runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Needs {
    /// Number of slots; 0 counts as 1.
    pub cpus: u32,
    /// Bytes of memory.
    pub memory: u64,
    /// GPUs for its own use.
    pub gpus: u32,
    /// Limit on concurrent tasks of its group on this rank.
    pub limit: Option<Limit>,
}

/// Upper limit `most` on concurrent tasks with the same key on a rank.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Limit {
    /// Key of the tasks that share the limit.
    pub key: u32,
    /// Tasks that may run at once.
    pub most: u32,
}

impl Needs {
    /// One slot and nothing else.
    pub const SLOT: Needs = Needs { cpus: 1, memory: 0, gpus: 0, limit: None };

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
    /// A concurrency limit of 0.
    #[error("its concurrency limit is 0, so that it could never start; raise the limit to at least 1")]
    Limit,
}

/// The memory, GPUs and limits of one rank. Nothing is granted twice: `free + granted = total` at
/// all times.
#[derive(Debug)]
pub struct ResourceLedger {
    slots: u32,
    memory: u64,
    gpus: u32,
    free_memory: u64,
    free_gpus: u32,
    /// Running tasks per limit key; keys with none are absent.
    running: FxHashMap<u32, u32>,
}

impl ResourceLedger {
    /// A rank with this many slots, bytes of memory and GPUs.
    pub fn new(slots: u32, memory: u64, gpus: u32) -> ResourceLedger {
        ResourceLedger { slots, memory, gpus, free_memory: memory, free_gpus: gpus, running: FxHashMap::default() }
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
            Needs { limit: Some(Limit { most: 0, .. }), .. } => Err(Impossible::Limit),
            _ => Ok(()),
        }
    }

    /// True if the number of running tasks with the same limit key has reached the limit.
    pub fn is_at_limit(&self, needs: &Needs) -> bool {
        let running = |limit: Limit| self.running.get(&limit.key).copied().unwrap_or(0);
        needs.limit.is_some_and(|limit| running(limit) >= limit.most)
    }

    /// True if enough memory and GPUs are free now.
    pub fn fits(&self, needs: &Needs) -> bool {
        needs.memory <= self.free_memory && needs.gpus <= self.free_gpus
    }

    /// Grants needs that [`ResourceLedger::fits`] and that are not at their limit.
    pub fn grant(&mut self, needs: &Needs) {
        self.free_memory -= needs.memory;
        self.free_gpus -= needs.gpus;
        if let Some(Limit { key, .. }) = needs.limit {
            *self.running.entry(key).or_insert(0) += 1;
        }
    }

    /// Returns what was granted for `needs`.
    pub fn take_back(&mut self, needs: &Needs) {
        self.free_memory += needs.memory;
        self.free_gpus += needs.gpus;
        if let Some(Limit { key, .. }) = needs.limit
            && let Some(n) = self.running.get_mut(&key)
        {
            *n -= 1;
            if *n == 0 {
                self.running.remove(&key);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_granted_is_gone_until_it_is_taken_back() {
        let mut ledger = ResourceLedger::new(4, 100, 3);
        let needs = Needs { cpus: 1, memory: 60, gpus: 2, limit: Some(Limit { key: 1, most: 1 }) };
        ledger.grant(&needs);
        assert!(ledger.is_at_limit(&needs) && !ledger.fits(&needs));
        assert!(ledger.fits(&Needs { memory: 40, gpus: 1, ..Needs::SLOT }));
        ledger.take_back(&needs);
        assert!(ledger.fits(&Needs { memory: 100, gpus: 3, ..Needs::SLOT }) && !ledger.is_at_limit(&needs));
    }

    #[test]
    fn what_can_never_be_met_is_told_apart() {
        let ledger = ResourceLedger::new(4, 100, 1);
        let why = |needs| ledger.check(&needs).unwrap_err();
        assert_eq!(why(Needs { cpus: 5, ..Needs::SLOT }), Impossible::Cpus { asked: 5, have: 4 });
        assert_eq!(why(Needs { memory: 101, ..Needs::SLOT }), Impossible::Memory { asked: 101, have: 100 });
        assert_eq!(why(Needs { gpus: 2, ..Needs::SLOT }), Impossible::Gpus { asked: 2, have: 1 });
        assert_eq!(why(Needs { limit: Some(Limit { key: 3, most: 0 }), ..Needs::SLOT }), Impossible::Limit);
        assert!(ledger.check(&Needs { cpus: 4, memory: 100, gpus: 1, limit: Some(Limit { key: 0, most: 1 }) }).is_ok());
    }
}
