//! What constrained items hold of this rank's memory, GPUs and concurrency limits. A pure ledger: it grants and takes back.

use rustc_hash::FxHashMap;

use crate::pool::item::{Impossible, Needs};

/// Free and total amounts. Nothing is ever granted twice: `free + granted = total` at all times.
pub(super) struct Ledger {
    slots: u32,
    memory: u64,
    gpus: u32,
    free_memory: u64,
    free_gpus: Vec<u32>,
    /// The domain that each GPU is near to, where one is.
    near: FxHashMap<u32, usize>,
    /// Running items per limit key; keys with none are absent.
    running: FxHashMap<u32, u32>,
}

impl Ledger {
    pub(super) fn new(slots: u32, memory: u64, gpus: Vec<(u32, Option<usize>)>) -> Ledger {
        let near = gpus.iter().filter_map(|&(gpu, domain)| Some((gpu, domain?))).collect();
        let free_gpus: Vec<u32> = gpus.into_iter().map(|(gpu, _)| gpu).collect();
        let total = free_gpus.len() as u32;
        Ledger { slots, memory, gpus: total, free_memory: memory, free_gpus, near, running: FxHashMap::default() }
    }

    /// Whether the needs could be met if nothing else ran.
    pub(super) fn possible(&self, needs: &Needs) -> Result<(), Impossible> {
        match needs {
            n if n.cpus > self.slots => Err(Impossible::Cpus { asked: n.cpus, have: self.slots }),
            n if n.memory > self.memory => Err(Impossible::Memory { asked: n.memory, have: self.memory }),
            n if n.gpus > self.gpus => Err(Impossible::Gpus { asked: n.gpus, have: self.gpus }),
            Needs { limit: Some((_, 0)), .. } => Err(Impossible::Limit),
            _ => Ok(()),
        }
    }

    /// True if the item's kin already runs as often as its limit allows.
    pub(super) fn at_limit(&self, needs: &Needs) -> bool {
        needs.limit.is_some_and(|(key, max)| self.running.get(&key).is_some_and(|&n| n >= max))
    }

    /// True if there is memory and GPUs enough now.
    pub(super) fn fits(&self, needs: &Needs) -> bool {
        needs.memory <= self.free_memory && needs.gpus as usize <= self.free_gpus.len()
    }

    /// Grants what [`Ledger::fits`] and does not exceed its limit; returns the GPUs, those near to the domain first.
    pub(super) fn grant(&mut self, needs: &Needs, domain: usize) -> Vec<u32> {
        self.free_memory -= needs.memory;
        if let Some((key, _)) = needs.limit {
            *self.running.entry(key).or_insert(0) += 1;
        }
        if needs.gpus == 0 {
            return Vec::new();
        }
        let Ledger { free_gpus, near, .. } = self;
        free_gpus.sort_by_key(|gpu| (near.get(gpu).is_some_and(|&of| of != domain), *gpu));
        free_gpus.drain(..needs.gpus as usize).collect()
    }

    /// Takes back what was granted for `needs`.
    pub(super) fn take_back(&mut self, needs: &Needs, gpus: &[u32]) {
        self.free_memory += needs.memory;
        self.free_gpus.extend_from_slice(gpus);
        if let Some((key, _)) = needs.limit
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
        let mut ledger = Ledger::new(4, 100, vec![(7, None), (8, None), (9, None)]);
        let needs = Needs { cpus: 1, memory: 60, gpus: 2, limit: Some((1, 1)) };
        let gpus = ledger.grant(&needs, 0);
        assert_eq!(gpus.len(), 2);
        assert!(ledger.at_limit(&needs) && !ledger.fits(&needs));
        assert!(ledger.fits(&Needs { memory: 40, gpus: 1, ..Needs::SLOT }));
        ledger.take_back(&needs, &gpus);
        assert!(ledger.fits(&Needs { memory: 100, gpus: 3, ..Needs::SLOT }) && !ledger.at_limit(&needs));
    }

    #[test]
    fn a_gpu_that_is_near_is_granted_first() {
        let mut ledger = Ledger::new(4, 0, vec![(0, Some(0)), (1, Some(1)), (2, Some(1)), (3, None)]);
        let needs = |gpus| Needs { gpus, ..Needs::SLOT };
        assert_eq!(ledger.grant(&needs(1), 1), [1]);
        assert_eq!(ledger.grant(&needs(2), 1), [2, 3]);
        assert_eq!(ledger.grant(&needs(1), 1), [0], "far is better than none");
        ledger.take_back(&needs(2), &[2, 3]);
        assert_eq!(ledger.grant(&needs(1), 0), [3], "one that is near to none is as good as any");
    }

    #[test]
    fn what_can_never_be_met_is_told_apart() {
        let ledger = Ledger::new(4, 100, vec![(0, None)]);
        let why = |needs| ledger.possible(&needs).unwrap_err();
        assert_eq!(why(Needs { cpus: 5, ..Needs::SLOT }), Impossible::Cpus { asked: 5, have: 4 });
        assert_eq!(why(Needs { memory: 101, ..Needs::SLOT }), Impossible::Memory { asked: 101, have: 100 });
        assert_eq!(why(Needs { gpus: 2, ..Needs::SLOT }), Impossible::Gpus { asked: 2, have: 1 });
        assert_eq!(why(Needs { limit: Some((3, 0)), ..Needs::SLOT }), Impossible::Limit);
        assert!(ledger.possible(&Needs { cpus: 4, memory: 100, gpus: 1, limit: Some((0, 1)) }).is_ok());
    }
}
