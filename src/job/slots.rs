//! `[job] slots`: how many slots a rank has.

use serde::{Deserialize, Serialize};

/// A number of slots.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub enum SlotCount {
    /// This many.
    Fixed(u32),
    /// This many for each CPU that the rank may use, rounded up.
    PerCpu(f64),
}

impl SlotCount {
    /// The number of slots of a rank that may use `cpus` CPUs; at least 1.
    pub fn of(self, cpus: usize) -> usize {
        match self {
            SlotCount::Fixed(slots) => slots.max(1) as usize,
            SlotCount::PerCpu(factor) => ((cpus as f64 * factor).ceil() as usize).max(1),
        }
    }
}

/// The least and the most slots of a rank; equal for a number that does not change.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct SlotRange {
    /// The slots that there always are; `None`: as many as without this field.
    pub min: Option<SlotCount>,
    /// The most slots while CPUs idle; `None`: as many as the least.
    pub max: Option<SlotCount>,
}
