//! What was moved for a task that runs on its node's disk.

use serde::{Deserialize, Serialize};

/// What was moved for an attempt at a staged task.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct StageUse {
    /// Bytes of its inputs that were read in the directory of the job.
    pub read: u64,
    /// Bytes of its inputs that the store of its node had.
    pub local: u64,
    /// Bytes of its temporary inputs that came from other nodes.
    pub fetched: u64,
    /// Bytes of its inputs that other ranks sent over the network, temporary ones included.
    pub received: u64,
    /// Bytes of those received that were sent before it had a slot.
    pub ahead: u64,
    /// Bytes of its outputs that were written to the directory of the job.
    pub written: u64,
    /// Bytes of its outputs that stay in the store.
    pub held: u64,
    /// Bytes of its outputs that were sent to rank 0 over the network.
    pub sent: u64,
    /// Time that it waited for its inputs, in seconds.
    pub in_s: f64,
    /// Time that its outputs took, in seconds.
    pub out_s: f64,
}

impl StageUse {
    /// Bytes of inputs that the node did not have.
    pub fn moved(&self) -> u64 {
        self.read + self.fetched
    }

    /// The same, where so many bytes had been received ahead: the store had them.
    #[must_use]
    pub fn with_ahead(self, ahead: u64) -> StageUse {
        StageUse { ahead, received: self.received + ahead, local: self.local.saturating_sub(ahead), ..self }
    }

    /// Adds what was moved for another attempt.
    pub fn add(&mut self, other: &StageUse) {
        self.read += other.read;
        self.local += other.local;
        self.fetched += other.fetched;
        self.received += other.received;
        self.ahead += other.ahead;
        self.written += other.written;
        self.held += other.held;
        self.sent += other.sent;
        self.in_s += other.in_s;
        self.out_s += other.out_s;
    }
}
