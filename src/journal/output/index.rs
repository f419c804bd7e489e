//! The entries of an index of captured output, as bytes.

use super::Key;
use crate::model::Stream;
use crate::model::TaskId;

/// Bytes of an entry.
pub(super) const ENTRY: usize = 24;

/// Where a chunk of output is within the file of its stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub key: Key,
    pub offset: u64,
    pub length: u64,
}

impl Entry {
    pub fn encode(&self) -> [u8; ENTRY] {
        let mut bytes = [0; ENTRY];
        bytes[0..4].copy_from_slice(&self.key.task.0.to_le_bytes());
        bytes[4..6].copy_from_slice(&self.key.attempt.to_le_bytes());
        bytes[6] = match self.key.stream {
            Stream::Out => 1,
            Stream::Err => 2,
        };
        bytes[8..16].copy_from_slice(&self.offset.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.length.to_le_bytes());
        bytes
    }

    /// The entry that these bytes are; `None` for a place that was taken and never written.
    pub fn decode(bytes: &[u8; ENTRY]) -> Option<Entry> {
        let [t0, t1, t2, t3, a0, a1, stream, _, rest @ ..] = *bytes;
        let stream = match stream {
            1 => Stream::Out,
            2 => Stream::Err,
            _ => return None,
        };
        let (offset, length) = rest.split_at(8);
        let number = |bytes: &[u8]| bytes.iter().rev().fold(0, |n, &byte| n << 8 | u64::from(byte));
        let task = TaskId(u32::from_le_bytes([t0, t1, t2, t3]));
        let key = Key { task, attempt: u16::from_le_bytes([a0, a1]), stream };
        Some(Entry { key, offset: number(offset), length: number(length) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn any_entry_comes_back(task: u32, attempt: u16, out: bool, offset: u64, length: u64) {
            let stream = if out { Stream::Out } else { Stream::Err };
            let entry = Entry { key: Key { task: TaskId(task), attempt, stream }, offset, length };
            prop_assert_eq!(Entry::decode(&entry.encode()), Some(entry));
        }
    }

    #[test]
    fn zeros_are_no_entry() {
        assert_eq!(Entry::decode(&[0; ENTRY]), None);
    }
}
