//! The leases that wait in the pool: an item is too small for one, so it carries a number.

use crate::schedule::protocol::Lease;

/// Leases that wait in the pool, by the number that their item carries.
#[derive(Default)]
pub(super) struct Leases {
    entries: Vec<Option<Lease>>,
    free: Vec<u32>,
}

impl Leases {
    pub(super) fn put(&mut self, lease: Lease) -> u32 {
        match self.free.pop() {
            Some(at) => {
                self.entries[at as usize] = Some(lease);
                at
            }
            None => {
                self.entries.push(Some(lease));
                self.entries.len() as u32 - 1
            }
        }
    }

    pub(super) fn get(&self, at: u32) -> Option<Lease> {
        self.entries.get(at as usize).copied().flatten()
    }

    pub(super) fn take(&mut self, at: u32) -> Option<Lease> {
        let lease = self.entries.get_mut(at as usize)?.take()?;
        self.free.push(at);
        Some(lease)
    }
}
