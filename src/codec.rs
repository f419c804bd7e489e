//! Encodes attempts compactly, for messages between ranks and for the journal.
//!
//! A batch is a sequence of attempts up to the end of the bytes; there is no count that could be
//! wrong. Each attempt is encoded relative to the previous one (before the first: all zeros):
//!
//! ```text
//! flags   u8      which of the fields below have their expected value and are omitted, and whether
//!                 the result was taken from the cache
//! state   u8      index in `State::ALL`, plus 128 if this is the task's last attempt
//! exit    zigzag
//! attempt varint
//! rank    varint
//! slot    varint
//! task    zigzag  difference to the previous task
//! ready   zigzag  difference to the previous `ready`
//! start   zigzag  difference to `ready`
//! end     zigzag  difference to `start`
//! ```
//!
//! A task that succeeded at its first attempt, on the same rank as the previous one, takes 10 to 16
//! bytes.
//!
//! The decoder does not trust its input: each number is bounded by its type, and memory grows only
//! with bytes that are present.

use thiserror::Error;

use crate::model::{Attempt, Outcome, Rank, State, TaskId, Time};

/// State, exit, attempt and last are those of a task that succeeded at its first attempt.
const PLAIN: u8 = 1;
/// Same rank as the previous attempt.
const SAME_RANK: u8 = 1 << 1;
/// Same slot as the previous attempt.
const SAME_SLOT: u8 = 1 << 2;
/// The task number follows that of the previous attempt.
const NEXT_TASK: u8 = 1 << 3;
/// Same `ready` as the previous attempt (usual for the tasks of an array).
const SAME_READY: u8 = 1 << 4;
/// The result was taken from the cache.
const CACHED: u8 = 1 << 5;
/// Bits that no encoder sets.
const UNKNOWN: u8 = !(PLAIN | SAME_RANK | SAME_SLOT | NEXT_TASK | SAME_READY | CACHED);

/// Minimum size: the flags and two times.
const SHORTEST_ATTEMPT_BYTES: usize = 3;

/// Set in the state byte of a task's last attempt.
const LAST: u8 = 128;

/// Error: the bytes are not a batch of attempts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("not a batch of attempts: {what} at byte {at}")]
pub struct DecodeError {
    /// Offset of the invalid attempt in bytes.
    pub at: usize,
    /// What is wrong.
    pub what: &'static str,
}

/// Appends a batch to `out`.
pub fn encode_attempts(attempts: &[Attempt], out: &mut Vec<u8>) {
    let mut before = ORIGIN;
    for a in attempts {
        encode(a, &before, out);
        before = *a;
    }
}

/// Decodes a batch that takes up all of `bytes`.
pub fn decode_attempts(bytes: &[u8]) -> Result<Vec<Attempt>, DecodeError> {
    // Reserve by the minimum size, so that a malformed batch reserves little more memory than it
    // has bytes.
    let mut attempts = Vec::with_capacity(bytes.len() / SHORTEST_ATTEMPT_BYTES);
    let mut before = ORIGIN;
    let mut input = Input { bytes, at: 0 };
    while input.at < bytes.len() {
        let at = input.at;
        let attempt = decode(&mut input, &before).map_err(|what| DecodeError { at, what })?;
        attempts.push(attempt);
        before = attempt;
    }
    Ok(attempts)
}

/// Predecessor of the first attempt of a batch.
const ORIGIN: Attempt = Attempt {
    task: TaskId(0),
    attempt: 1,
    outcome: Outcome::OK,
    last: true,
    rank: Rank::ZERO,
    slot: 0,
    ready: Time::ZERO,
    start: Time::ZERO,
    end: Time::ZERO,
};

fn flags(a: &Attempt, before: &Attempt) -> u8 {
    let bit = |set: bool, bit: u8| if set { bit } else { 0 };
    let is_plain = (a.outcome.state, a.outcome.exit) == (State::Completed, 0) && a.attempt == 1 && a.last;
    bit(is_plain, PLAIN)
        | bit(a.outcome.cached, CACHED)
        | bit(a.rank == before.rank, SAME_RANK)
        | bit(a.slot == before.slot, SAME_SLOT)
        | bit(Some(a.task.0) == before.task.0.checked_add(1), NEXT_TASK)
        | bit(a.ready == before.ready, SAME_READY)
}

fn encode(a: &Attempt, before: &Attempt, out: &mut Vec<u8>) {
    let flags = flags(a, before);
    out.push(flags);
    if flags & PLAIN == 0 {
        out.push(a.outcome.state as u8 | if a.last { LAST } else { 0 });
        put(zigzag(i64::from(a.outcome.exit)), out);
        put(u64::from(a.attempt), out);
    }
    if flags & SAME_RANK == 0 {
        put(u64::from(a.rank.0), out);
    }
    if flags & SAME_SLOT == 0 {
        put(u64::from(a.slot), out);
    }
    if flags & NEXT_TASK == 0 {
        put(zigzag(i64::from(a.task.0) - i64::from(before.task.0)), out);
    }
    if flags & SAME_READY == 0 {
        put(step(before.ready, a.ready), out);
    }
    put(step(a.ready, a.start), out);
    put(step(a.start, a.end), out);
}

fn decode(input: &mut Input<'_>, before: &Attempt) -> Result<Attempt, &'static str> {
    let flags = input.byte()?;
    if flags & UNKNOWN != 0 {
        return Err("unknown flags");
    }
    let absent = |bit: u8| flags & bit == 0;
    let mut a = Attempt { ready: before.ready, rank: before.rank, slot: before.slot, ..ORIGIN };
    if absent(PLAIN) {
        let byte = input.byte()?;
        a.last = byte & LAST != 0;
        let state = *State::ALL.get(usize::from(byte & !LAST)).ok_or("an unknown state")?;
        let exit = i32::try_from(unzigzag(input.varint()?)).map_err(|_| "an exit code out of range")?;
        a.outcome = Outcome { state, exit, cached: false };
        a.attempt = input.narrow("an attempt number out of range")?;
    }
    a.outcome.cached = !absent(CACHED);
    if absent(SAME_RANK) {
        a.rank = Rank(input.narrow("a rank out of range")?);
    }
    if absent(SAME_SLOT) {
        a.slot = input.narrow("a slot out of range")?;
    }
    let delta = if absent(NEXT_TASK) { unzigzag(input.varint()?) } else { 1 };
    let task = i64::from(before.task.0).checked_add(delta).and_then(|id| u32::try_from(id).ok());
    a.task = TaskId(task.ok_or("a task number out of range")?);
    if absent(SAME_READY) {
        a.ready = input.time_after(before.ready)?;
    }
    a.start = input.time_after(a.ready)?;
    a.end = input.time_after(a.start)?;
    Ok(a)
}

/// Difference of two times, wrapping, so that any two times can be restored.
fn step(from: Time, to: Time) -> u64 {
    zigzag(to.0.wrapping_sub(from.0) as i64)
}

fn zigzag(n: i64) -> u64 {
    ((n << 1) ^ (n >> 63)) as u64
}

fn unzigzag(n: u64) -> i64 {
    (n >> 1) as i64 ^ -((n & 1) as i64)
}

/// Appends `n` as a varint: seven bits per byte, lowest first.
fn put(mut n: u64, out: &mut Vec<u8>) {
    while n >= 0x80 {
        out.push(n as u8 | 0x80);
        n >>= 7;
    }
    out.push(n as u8);
}

struct Input<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl Input<'_> {
    #[inline]
    fn byte(&mut self) -> Result<u8, &'static str> {
        let byte = *self.bytes.get(self.at).ok_or("an attempt cut short")?;
        self.at += 1;
        Ok(byte)
    }

    #[inline]
    fn varint(&mut self) -> Result<u64, &'static str> {
        match self.bytes.get(self.at) {
            // Fast path: most numbers are differences that fit in seven bits.
            Some(&byte) if byte < 0x80 => {
                self.at += 1;
                Ok(byte.into())
            }
            _ => self.long_varint(),
        }
    }

    fn long_varint(&mut self) -> Result<u64, &'static str> {
        let mut n = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            let bits = u64::from(byte & 0x7f);
            if shift == 63 && bits > 1 {
                break;
            }
            n |= bits << shift;
            if byte & 0x80 == 0 {
                return Ok(n);
            }
        }
        Err("a number of more than 64 bits")
    }

    fn narrow<T: TryFrom<u64>>(&mut self, what: &'static str) -> Result<T, &'static str> {
        T::try_from(self.varint()?).map_err(|_| what)
    }

    #[inline]
    fn time_after(&mut self, from: Time) -> Result<Time, &'static str> {
        Ok(Time(from.0.wrapping_add(unzigzag(self.varint()?) as u64)))
    }
}

/// Serde adapter for the packed form: `#[serde(with = "codec::packed")]` on a list of attempts.
pub mod packed {
    use serde::de::{Error, Visitor};
    use serde::{Deserializer, Serializer};

    use super::{decode_attempts, encode_attempts};
    use crate::model::Attempt;

    /// Serializes the packed bytes.
    pub fn serialize<S: Serializer>(attempts: &[Attempt], serializer: S) -> Result<S::Ok, S::Error> {
        let mut bytes = Vec::with_capacity(attempts.len() * 16);
        encode_attempts(attempts, &mut bytes);
        serializer.serialize_bytes(&bytes)
    }

    /// Deserializes the packed bytes.
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Attempt>, D::Error> {
        deserializer.deserialize_bytes(AttemptsVisitor)
    }

    struct AttemptsVisitor;

    impl Visitor<'_> for AttemptsVisitor {
        type Value = Vec<Attempt>;

        fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("a batch of attempts")
        }

        fn visit_bytes<E: Error>(self, bytes: &[u8]) -> Result<Vec<Attempt>, E> {
            decode_attempts(bytes).map_err(E::custom)
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Arbitrary attempts, including the common ones.
    pub(crate) fn any_attempt() -> impl Strategy<Value = Attempt> {
        let outcome = prop_oneof![
            Just(Outcome::OK),
            Just(Outcome::CACHED),
            (0..State::ALL.len(), any::<i32>(), any::<bool>()).prop_map(|(s, exit, cached)| Outcome {
                state: State::ALL[s],
                exit,
                cached
            })
        ];
        let number = prop_oneof![Just(1u16), any::<u16>()];
        (any::<u32>(), number, outcome, any::<bool>(), 0u32..4, any::<u16>(), any::<[u64; 3]>()).prop_map(
            |(task, attempt, outcome, last, rank, slot, [ready, start, end])| Attempt {
                task: TaskId(task),
                attempt,
                outcome,
                last,
                rank: Rank(rank),
                slot,
                ready: Time(ready),
                start: Time(start),
                end: Time(end),
            },
        )
    }

    fn encoded(attempts: &[Attempt]) -> Vec<u8> {
        let mut out = Vec::new();
        encode_attempts(attempts, &mut out);
        out
    }

    #[test]
    fn states_are_numbered_as_listed() {
        for (number, state) in State::ALL.iter().enumerate() {
            assert_eq!(*state as usize, number);
        }
    }

    #[test]
    fn a_usual_attempt_takes_at_most_16_bytes() {
        let attempts: Vec<Attempt> = (0..1000u32)
            .map(|i| {
                let start = 3_000_000_000 + u64::from(i) * 12_345_678;
                Attempt {
                    task: TaskId(i * 7 % 1000),
                    rank: Rank(3),
                    slot: (i % 64) as u16,
                    ready: Time(start - 250_000),
                    start: Time(start),
                    end: Time(start + 790_000_000),
                    ..ORIGIN
                }
            })
            .collect();
        let bytes = encoded(&attempts);
        assert!(bytes.len() <= 16 * attempts.len(), "{} bytes for each", bytes.len() as f64 / 1000.0);
        assert_eq!(decode_attempts(&bytes).unwrap(), attempts);
    }

    #[test]
    fn errors_name_the_place_and_the_fault() {
        let mut bytes = encoded(&[ORIGIN, ORIGIN]);
        let first = bytes.len() / 2;
        bytes.pop();
        assert_eq!(decode_attempts(&bytes), Err(DecodeError { at: first, what: "an attempt cut short" }));
        assert_eq!(decode_attempts(&[0xff]).unwrap_err().what, "unknown flags");
        let bad_state = [SAME_RANK | SAME_SLOT | NEXT_TASK | SAME_READY, 77];
        assert_eq!(decode_attempts(&bad_state).unwrap_err().what, "an unknown state");
        let mut long = vec![PLAIN | SAME_SLOT | NEXT_TASK | SAME_READY];
        long.extend([0xff; 11]);
        assert_eq!(decode_attempts(&long).unwrap_err().what, "a number of more than 64 bits");
    }

    proptest! {
        #[test]
        fn any_batch_comes_back(attempts in prop::collection::vec(any_attempt(), 0..40)) {
            prop_assert_eq!(decode_attempts(&encoded(&attempts)).unwrap(), attempts);
        }

        #[test]
        fn any_bytes_are_survived(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            if let Ok(attempts) = decode_attempts(&bytes) {
                prop_assert!(attempts.len() * 4 <= bytes.len() + 3);
            }
        }

        #[test]
        fn a_batch_cut_short_is_an_error_or_a_shorter_batch(
            attempts in prop::collection::vec(any_attempt(), 1..10),
            cut in any::<prop::sample::Index>(),
        ) {
            let bytes = encoded(&attempts);
            let cut = cut.index(bytes.len());
            if let Ok(read) = decode_attempts(&bytes[..cut]) {
                prop_assert_eq!(&read[..], &attempts[..read.len()]);
            }
        }
    }
}
/// Serde adapter for a shared string. The text is not copied, because a job file may fill a large
/// part of the memory.
pub(crate) mod shared_text {
    use std::sync::Arc;

    use serde::{Deserialize, Deserializer, Serializer};

    pub(crate) fn serialize<S: Serializer>(text: &Arc<str>, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(text)
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Arc<str>, D::Error> {
        <&str>::deserialize(deserializer).map(Arc::from)
    }
}
