//! The items that the pool runs.

use std::num::NonZeroU64;

use crate::schedule::admission::LEVELS;

/// A task that is ready, in 8 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Item {
    /// The task.
    pub task: u32,
    /// Higher first, `0..LEVELS`.
    pub urgency: u8,
    /// Passed through; has no meaning to the pool.
    pub tag: u8,
    /// True if it needs more than one free slot: the pool asks
    /// [`Workload::needs`](super::Workload::needs).
    pub constrained: bool,
}

impl Item {
    /// The level that the item is queued at.
    pub(super) fn level(self) -> u32 {
        u32::from(self.urgency).min(LEVELS as u32 - 1)
    }
}

/// An item as the pool moves it: one word. If an item were written field by field and then read as
/// a whole, every hand-over would stall the store buffer, which costs more than all other steps
/// through a deque.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Packed(NonZeroU64);

/// Set in every packed item, so that none is 0 and `Option<Packed>` is one word too.
const PRESENT: NonZeroU64 = NonZeroU64::new(1 << 63).unwrap();

impl Packed {
    /// The level that the item is queued at.
    #[inline]
    pub(super) fn level(self) -> u32 {
        (self.0.get() >> 32 & 0xff).min(LEVELS as u64 - 1) as u32
    }
}

impl From<Item> for Packed {
    #[inline]
    fn from(item: Item) -> Packed {
        let flags = u64::from(item.urgency) << 32 | u64::from(item.tag) << 40 | u64::from(item.constrained) << 48;
        Packed(PRESENT | (flags | u64::from(item.task)))
    }
}

impl From<Packed> for Item {
    #[inline]
    fn from(Packed(word): Packed) -> Item {
        let word = word.get();
        let byte = |shift: u32| (word >> shift) as u8;
        Item { task: word as u32, urgency: byte(32), tag: byte(40), constrained: byte(48) & 1 != 0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_item_takes_eight_bytes() {
        assert_eq!(size_of::<Item>(), 8);
        assert_eq!(size_of::<Option<Packed>>(), 8);
    }

    #[test]
    fn a_packed_item_is_the_same_item() {
        for (task, urgency, tag, constrained) in [(0, 0, 0, false), (u32::MAX, 255, 255, true), (7, 15, 0, true)] {
            let item = Item { task, urgency, tag, constrained };
            let packed = Packed::from(item);
            assert_eq!(Item::from(packed), item);
            assert_eq!(packed.level(), item.level());
        }
    }
}
