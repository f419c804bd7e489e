//! Compresses lists of numbers by copying repeated sequences.
//!
//! The columns of a graph are as regular as the job: an array repeats one step, layers and stencils
//! repeat the edges of their first rows. Columns are therefore encoded as *symbols* (differences,
//! chosen by the owner so that a repeated shape is a repeated sequence), and a sequence that
//! occurred before as a copy of any length:
//!
//! ```text
//! count  varint               total number of symbols
//! then, until all are read:
//!   n      varint             number of literal symbols
//!   n x    zigzag varint      each as a signed 32-bit number;
//!   length varint             then (unless all are read) a copy of `length` symbols
//!   back   varint             from `back` symbols ago; source and target may overlap
//! ```
//!
//! A million equal steps take eight bytes; a random graph takes about one byte per small step.
//!
//! The decoder does not trust its input: a list holds at most [`MOST`] numbers, and memory grows
//! only as numbers are decoded, to at most twice their size.

use std::fmt;
use std::marker::PhantomData;

use serde::de::{self, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use thiserror::Error;

/// Maximum length of a list: a gigabyte, the size of the largest frame.
pub const MOST: usize = 1 << 28;

/// Minimum length of a copy: a copy takes up to eight bytes, so a shorter sequence is cheaper as
/// literals.
const LEAST_COPY: usize = 8;

/// Sequences are looked up by a hash of this many symbols.
const KEY: usize = 4;

/// The encoder remembers up to two to this power sequences.
const REMEMBERED: u32 = 14;

/// Error: the bytes are not a list of numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("not a list of numbers: {0}")]
pub struct NumbersError(&'static str);

/// Encodes `count` symbols and appends them to `out`.
pub fn pack(count: usize, symbol: impl Fn(usize) -> u32, out: &mut Vec<u8>) {
    put(count as u64, out);
    // For each key (colliding keys overwrite each other): its last position plus one, and the key
    // itself, so that the distant position is rarely read in vain.
    let mut seen = vec![(0u32, 0u32); if count < LEAST_COPY { 0 } else { 1 << REMEMBERED }];
    // `plain` is the first symbol that is not written yet.
    let (mut plain, mut at) = (0, 0);
    while at + LEAST_COPY <= count {
        let key = key(&symbol, at);
        let place = &mut seen[(key >> (32 - REMEMBERED)) as usize];
        let (before, known) = std::mem::replace(place, (at as u32 + 1, key));
        let length = match before {
            0 => 0,
            _ if known != key => 0,
            _ => common(&symbol, before as usize - 1, at, count),
        };
        if length < LEAST_COPY {
            at += 1;
            continue;
        }
        literals(plain..at, &symbol, out);
        put(length as u64, out);
        put((at + 1 - before as usize) as u64, out);
        at += length;
        plain = at;
    }
    if plain < count {
        literals(plain..count, &symbol, out);
    }
}

fn literals(range: std::ops::Range<usize>, symbol: &impl Fn(usize) -> u32, out: &mut Vec<u8>) {
    put(range.len() as u64, out);
    range.for_each(|i| {
        let n = symbol(i) as i32;
        put(u64::from(((n << 1) ^ (n >> 31)) as u32), out);
    });
}

/// Hash of the symbols at `at`.
fn key(symbol: &impl Fn(usize) -> u32, at: usize) -> u32 {
    let key = (at..at + KEY).fold(0u32, |key, i| key.rotate_left(11).wrapping_mul(0x9E37_79B1) ^ symbol(i));
    key.wrapping_mul(0x85EB_CA6B)
}

/// Length of the common prefix of the sequences at `from` and at `at`.
fn common(symbol: &impl Fn(usize) -> u32, from: usize, at: usize, count: usize) -> usize {
    (0..count - at).take_while(|i| symbol(from + i) == symbol(at + i)).count()
}

fn put(mut n: u64, out: &mut Vec<u8>) {
    while n >= 0x80 {
        out.push(n as u8 | 0x80);
        n >>= 7;
    }
    out.push(n as u8);
}

/// Decodes a list that takes up all of `bytes`.
///
/// # Errors
/// If the bytes are not a list of numbers, or a symbol does not fit in `T`.
pub fn unpack<T: TryFrom<u32> + Copy>(mut bytes: &[u8]) -> Result<Vec<T>, NumbersError> {
    let count = take(&mut bytes, MOST as u64)? as usize;
    let mut out = Vec::new();
    while out.len() < count {
        let plain = take(&mut bytes, (count - out.len()) as u64)? as usize;
        if plain > bytes.len() {
            return Err(NumbersError("cut short"));
        }
        make_room(&mut out, plain, count)?;
        for _ in 0..plain {
            let zigzag = take(&mut bytes, u64::from(u32::MAX))? as u32;
            let symbol = (zigzag >> 1) ^ (zigzag & 1).wrapping_neg();
            out.push(T::try_from(symbol).map_err(|_| NumbersError("a number out of range"))?);
        }
        if out.len() < count {
            let length = take(&mut bytes, (count - out.len()) as u64)? as usize;
            let back = take(&mut bytes, out.len() as u64)? as usize;
            copy(&mut out, length, back, count)?;
        }
    }
    if bytes.is_empty() { Ok(out) } else { Err(NumbersError("bytes behind its end")) }
}

fn copy<T: Copy>(out: &mut Vec<T>, length: usize, back: usize, count: usize) -> Result<(), NumbersError> {
    if length == 0 || back == 0 {
        return Err(NumbersError("an empty copy"));
    }
    make_room(out, length, count)?;
    let (from, end) = (out.len() - back, out.len() + length);
    while out.len() < end {
        // The output from `from` on is whole periods, so all of it can be copied at once.
        let upto = out.len().min(from + end - out.len());
        out.extend_from_within(from..upto);
    }
    Ok(())
}

/// Reserves space for `more` numbers: for the rest of the list of `count`, but at most as much as
/// is already decoded (or `more`).
fn make_room<T>(out: &mut Vec<T>, more: usize, count: usize) -> Result<(), NumbersError> {
    if out.capacity() - out.len() >= more {
        return Ok(());
    }
    let room = (count - out.len()).min(more + out.len());
    out.try_reserve_exact(room).map_err(|_| NumbersError("more numbers than fit into memory"))
}

/// Decodes a number of at most `most`.
fn take(bytes: &mut &[u8], most: u64) -> Result<u64, NumbersError> {
    let mut n = 0u64;
    for shift in (0..35).step_by(7) {
        let (&byte, rest) = bytes.split_first().ok_or(NumbersError("cut short"))?;
        *bytes = rest;
        n |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return if n <= most { Ok(n) } else { Err(NumbersError("a number out of range")) };
        }
    }
    Err(NumbersError("a number of more than 32 bits"))
}

/// Symbols to serialize with serde, computed one by one: their number, and the function.
pub struct Symbols<F>(pub usize, pub F);

impl<F: Fn(usize) -> u32> Serialize for Symbols<F> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut bytes = Vec::new();
        pack(self.0, &self.1, &mut bytes);
        serializer.serialize_bytes(&bytes)
    }
}

/// Symbols that serde deserialized.
pub struct Unpacked<T>(pub Vec<T>);

impl<'de, T: TryFrom<u32> + Copy> Deserialize<'de> for Unpacked<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct NumbersVisitor<T>(PhantomData<T>);
        impl<T: TryFrom<u32> + Copy> Visitor<'_> for NumbersVisitor<T> {
            type Value = Unpacked<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a list of numbers")
            }

            fn visit_bytes<E: de::Error>(self, bytes: &[u8]) -> Result<Unpacked<T>, E> {
                unpack(bytes).map(Unpacked).map_err(E::custom)
            }
        }
        deserializer.deserialize_bytes(NumbersVisitor(PhantomData))
    }
}

/// Serde adapter for small numbers: `#[serde(with = "crate::numbers::bytes")]` on a `Vec<u8>`.
pub mod bytes {
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    use super::{Symbols, Unpacked};

    /// Serializes the packed numbers.
    pub fn serialize<S: Serializer>(numbers: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
        Symbols(numbers.len(), |i| u32::from(numbers[i])).serialize(serializer)
    }

    /// Deserializes the packed numbers.
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u8>, D::Error> {
        Unpacked::deserialize(deserializer).map(|Unpacked(numbers)| numbers)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn packed(symbols: &[u32]) -> Vec<u8> {
        let mut out = Vec::new();
        pack(symbols.len(), |i| symbols[i], &mut out);
        out
    }

    #[test]
    fn what_repeats_is_written_once() {
        for period in [1usize, 3, 8, 1000] {
            let list: Vec<u32> = (0..1_000_000).map(|i| (i % period) as u32).collect();
            let bytes = packed(&list);
            assert!(bytes.len() <= 12 + 2 * period, "{} bytes for a period of {period}", bytes.len());
            assert_eq!(unpack::<u32>(&bytes).unwrap(), list);
        }
    }

    #[test]
    fn what_does_not_repeat_grows_little() {
        let mut rng = fastrand::Rng::with_seed(1);
        let list: Vec<u32> = (0..100_000).map(|_| rng.u32(0..60)).collect();
        assert!(packed(&list).len() < 102_000);
    }

    #[test]
    fn faults_are_named() {
        let fault = |bytes: &[u8]| unpack::<u8>(bytes).unwrap_err().0;
        assert_eq!(fault(&[]), "cut short");
        assert_eq!(fault(&[2, 1, 2]), "cut short");
        assert_eq!(fault(&[2, 1, 2, 0, 1]), "an empty copy");
        assert_eq!(fault(&[2, 1, 2, 1, 2]), "a number out of range");
        assert_eq!(fault(&[1, 1, 2, 0]), "bytes behind its end");
        assert_eq!(fault(&[1, 1, 0x80, 0x7f]), "a number out of range");
        assert_eq!(fault(&[0xff; 6]), "a number of more than 32 bits");
        assert_eq!(fault(&[0xff, 0xff, 0xff, 0xff, 1]), "a number out of range");
    }

    #[test]
    fn a_small_claim_of_much_is_not_believed() {
        // A count of the maximum length, of which the bytes hold one number.
        let mut bytes = Vec::new();
        put(MOST as u64, &mut bytes);
        bytes.extend([1, 2]);
        assert_eq!(unpack::<u32>(&bytes), Err(NumbersError("cut short")));
        let mut out = vec![0u32; 10];
        make_room(&mut out, 5, MOST).unwrap();
        assert!(out.capacity() < 100, "room for {}", out.capacity());
    }

    proptest! {
        #[test]
        fn any_list_comes_back(
            list in prop::collection::vec(prop_oneof![0u32..3, any::<u32>()], 0..300),
            again in 0usize..5,
        ) {
            let list = list.repeat(again);
            prop_assert_eq!(unpack::<u32>(&packed(&list)).unwrap(), list);
        }

        #[test]
        fn any_bytes_are_survived(mut bytes in prop::collection::vec(any::<u8>(), 0..60), small: bool) {
            if let (true, [first, second, third, ..]) = (small, &mut bytes[..]) {
                // A plausible count, so that the rest is decoded as well.
                (*first, *second, *third) = (*first | 0x80, *second | 0x80, *third & 0x0f);
            }
            if let Ok(list) = unpack::<u8>(&bytes) {
                prop_assert!(list.capacity() <= 2 * list.len() && list.len() <= MOST);
            }
        }
    }
}
