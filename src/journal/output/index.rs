//! Encoding of the entries in an index of captured output.

use super::OutputKey;
use crate::model::{Stream, TaskId, Usage};

/// Size of an entry in bytes.
pub(super) const ENTRY: usize = 24;

/// An entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum IndexEntry {
    /// The position of a chunk of output.
    Chunk(Chunk),
    /// The resource use of an attempt.
    Used(TaskId, u16, Usage),
}

/// The position of a chunk of output within the file of its stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Chunk {
    pub key: OutputKey,
    pub offset: u64,
    pub length: u64,
}

impl IndexEntry {
    pub fn encode(&self) -> [u8; ENTRY] {
        let (task, attempt, kind, numbers) = match self {
            IndexEntry::Chunk(Chunk { key, offset, length }) => {
                let kind = match key.stream {
                    Stream::Out => 1,
                    Stream::Err => 2,
                };
                (key.task, key.attempt, kind, [*offset, *length])
            }
            IndexEntry::Used(task, attempt, used) => {
                let kind = if used.peak_is_bound { 4 } else { 3 };
                (*task, *attempt, kind, [used.cpu_ns, used.peak_bytes])
            }
        };
        let mut bytes = [0; ENTRY];
        bytes[0..4].copy_from_slice(&task.0.to_le_bytes());
        bytes[4..6].copy_from_slice(&attempt.to_le_bytes());
        bytes[6] = kind;
        bytes[8..16].copy_from_slice(&numbers[0].to_le_bytes());
        bytes[16..24].copy_from_slice(&numbers[1].to_le_bytes());
        bytes
    }

    /// Decodes an entry; `None` for a place that was reserved and never written.
    pub fn decode(bytes: &[u8; ENTRY]) -> Option<IndexEntry> {
        let [t0, t1, t2, t3, a0, a1, kind, _, rest @ ..] = *bytes;
        let (first, second) = rest.split_at(8);
        let number = |bytes: &[u8]| bytes.iter().rev().fold(0, |n, &byte| n << 8 | u64::from(byte));
        let (first, second) = (number(first), number(second));
        let (task, attempt) = (TaskId(u32::from_le_bytes([t0, t1, t2, t3])), u16::from_le_bytes([a0, a1]));
        let chunk = |stream| {
            IndexEntry::Chunk(Chunk { key: OutputKey { task, attempt, stream }, offset: first, length: second })
        };
        match kind {
            1 => Some(chunk(Stream::Out)),
            2 => Some(chunk(Stream::Err)),
            3 | 4 => {
                let used = Usage { cpu_ns: first, peak_bytes: second, peak_is_bound: kind == 4 };
                Some(IndexEntry::Used(task, attempt, used))
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn any_entry_comes_back(task: u32, attempt: u16, kind in 0..4, first: u64, second: u64) {
            let task = TaskId(task);
            let chunk = |stream| IndexEntry::Chunk(Chunk { key: OutputKey { task, attempt, stream }, offset: first, length: second });
            let entry = match kind {
                0 => chunk(Stream::Out),
                1 => chunk(Stream::Err),
                _ => {
                    let used = Usage { cpu_ns: first, peak_bytes: second, peak_is_bound: kind == 3 };
                    IndexEntry::Used(task, attempt, used)
                }
            };
            prop_assert_eq!(IndexEntry::decode(&entry.encode()), Some(entry));
        }
    }

    #[test]
    fn zeros_are_no_entry() {
        assert_eq!(IndexEntry::decode(&[0; ENTRY]), None);
    }
}
