//! Communication between the ranks that share a graph while an operation runs.
//!
//! An operation is the same function on every rank. It computes in rounds: each rank works on its
//! own vertices, then all ranks call one of the collective functions of this file, in the same
//! order. [`Exchange::swap`] is the only one that a transport must provide; the others are built on
//! it. With one rank none of them copies anything.
//!
//! [`share`] sends the changed values of a rank's own vertices to all others, in the smallest of
//! four encodings (nothing, all values, bit set and values, offsets and values), as in Gluon
//! (Dathathri et al., PLDI 2018, section 4.2).
//! [`push`] sends values to the ranks that own their vertices.

use std::ops::Range;

use super::Vertex;

/// Why an operation did not complete.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Stopped {
    /// The operation was cancelled or timed out.
    #[error("stopped")]
    Cancelled,
    /// Another rank of the operation left or failed.
    #[error("{0}")]
    Lost(String),
}

/// One rank's connection to the other ranks of an operation.
pub trait Exchange {
    /// Index of this rank among those that share the graph, from 0.
    fn place(&self) -> usize;

    /// Number of ranks that share the graph.
    fn ranks(&self) -> usize;

    /// An all-to-all exchange: sends `outgoing[r]` to rank `r` and returns the bytes that each rank
    /// has sent to this one. Every rank must call it equally often; it returns when all have called
    /// it.
    ///
    /// # Errors
    /// If the operation must stop, or a rank has left.
    fn swap(&mut self, outgoing: Vec<Vec<u8>>) -> Result<Vec<Vec<u8>>, Stopped>;

    /// Fails if the operation must stop. Called at least once per round.
    ///
    /// # Errors
    /// If the operation must stop.
    fn check(&mut self) -> Result<(), Stopped>;
}

/// The exchange of a graph on a single rank.
pub struct SingleRank<'a> {
    is_cancelled: &'a (dyn Fn() -> bool + Sync),
}

impl<'a> SingleRank<'a> {
    /// Makes an exchange that polls `is_cancelled` once per round.
    pub fn new(is_cancelled: &'a (dyn Fn() -> bool + Sync)) -> SingleRank<'a> {
        SingleRank { is_cancelled }
    }

    /// Makes an exchange of one rank that cannot be stopped.
    pub fn unstoppable() -> SingleRank<'static> {
        SingleRank { is_cancelled: &|| false }
    }
}

impl Exchange for SingleRank<'_> {
    fn place(&self) -> usize {
        0
    }

    fn ranks(&self) -> usize {
        1
    }

    fn swap(&mut self, outgoing: Vec<Vec<u8>>) -> Result<Vec<Vec<u8>>, Stopped> {
        self.check()?;
        Ok(outgoing)
    }

    fn check(&mut self) -> Result<(), Stopped> {
        if (self.is_cancelled)() { Err(Stopped::Cancelled) } else { Ok(()) }
    }
}

/// A value of fixed size that ranks can exchange, encoded in little-endian order.
pub trait Wire: Copy + Default + PartialEq + Send + Sync + 'static {
    /// Size of a value in bytes.
    const SIZE: usize;
    /// Appends the value.
    fn put(self, bytes: &mut Vec<u8>);
    /// Reads a value from exactly [`Wire::SIZE`] bytes.
    fn get(bytes: &[u8]) -> Self;
}

macro_rules! wire {
    ($($number:ty),*) => {$(
        impl Wire for $number {
            const SIZE: usize = size_of::<$number>();

            fn put(self, bytes: &mut Vec<u8>) {
                bytes.extend_from_slice(&self.to_le_bytes());
            }

            fn get(bytes: &[u8]) -> Self {
                let mut own = [0; size_of::<$number>()];
                own.copy_from_slice(bytes);
                <$number>::from_le_bytes(own)
            }
        }
    )*};
}

wire!(u8, u32, u64, f32, f64);

impl Wire for () {
    const SIZE: usize = 0;

    fn put(self, _: &mut Vec<u8>) {}

    fn get(_: &[u8]) -> Self {}
}

impl<A: Wire, B: Wire> Wire for (A, B) {
    const SIZE: usize = A::SIZE + B::SIZE;

    fn put(self, bytes: &mut Vec<u8>) {
        self.0.put(bytes);
        self.1.put(bytes);
    }

    fn get(bytes: &[u8]) -> Self {
        let (a, b) = bytes.split_at(A::SIZE);
        (A::get(a), B::get(b))
    }
}

fn damaged() -> Stopped {
    Stopped::Lost("a message of an operation on a graph is damaged".to_owned())
}

/// Decodes bytes that hold only values of one type.
///
/// # Errors
/// If the bytes end within a value.
pub fn unpack<T: Wire>(bytes: &[u8]) -> Result<impl ExactSizeIterator<Item = T> + '_, Stopped> {
    if T::SIZE == 0 || !bytes.len().is_multiple_of(T::SIZE) {
        return Err(damaged());
    }
    Ok(bytes.chunks_exact(T::SIZE).map(T::get))
}

/// Encodes values one after the other.
pub fn pack<T: Wire>(values: impl IntoIterator<Item = T>) -> Vec<u8> {
    let values = values.into_iter();
    let mut bytes = Vec::with_capacity(values.size_hint().0 * T::SIZE);
    values.for_each(|value| value.put(&mut bytes));
    bytes
}

/// An all-gather: sends the same bytes to all ranks and returns the bytes of each rank, this one
/// included.
///
/// # Errors
/// As [`Exchange::swap`].
pub fn gather(exchange: &mut dyn Exchange, own: Vec<u8>) -> Result<Vec<Vec<u8>>, Stopped> {
    let mut outgoing = vec![own; exchange.ranks()];
    if let [only] = outgoing.as_mut_slice() {
        return exchange.check().map(|()| vec![std::mem::take(only)]);
    }
    exchange.swap(outgoing)
}

/// An all-reduce of a few numbers; every rank gets the same result.
///
/// # Errors
/// As [`Exchange::swap`].
pub fn combine<const N: usize>(
    exchange: &mut dyn Exchange,
    own: [u64; N],
    with: impl Fn(u64, u64) -> u64,
) -> Result<[u64; N], Stopped> {
    if exchange.ranks() == 1 {
        return exchange.check().map(|()| own);
    }
    let mut total: Option<[u64; N]> = None;
    for bytes in gather(exchange, pack(own))? {
        let mut numbers = unpack::<u64>(&bytes)?;
        if numbers.len() != N {
            return Err(damaged());
        }
        let theirs = [(); N].map(|()| numbers.next().unwrap_or_default());
        total = Some(match total {
            None => theirs,
            Some(mut sum) => {
                for (a, b) in sum.iter_mut().zip(theirs) {
                    *a = with(*a, b);
                }
                sum
            }
        });
    }
    total.ok_or_else(damaged)
}

/// Returns the sums over all ranks.
///
/// # Errors
/// As [`Exchange::swap`].
pub fn sum<const N: usize>(exchange: &mut dyn Exchange, own: [u64; N]) -> Result<[u64; N], Stopped> {
    combine(exchange, own, u64::wrapping_add)
}

/// Returns the minima over all ranks.
///
/// # Errors
/// As [`Exchange::swap`].
pub fn smallest<const N: usize>(exchange: &mut dyn Exchange, own: [u64; N]) -> Result<[u64; N], Stopped> {
    combine(exchange, own, u64::min)
}

/// Returns the maxima over all ranks.
///
/// # Errors
/// As [`Exchange::swap`].
pub fn largest<const N: usize>(exchange: &mut dyn Exchange, own: [u64; N]) -> Result<[u64; N], Stopped> {
    combine(exchange, own, u64::max)
}

/// Sums arrays of equal length over all ranks, in place: each rank sums one segment, then all
/// gather all segments.
///
/// # Errors
/// As [`Exchange::swap`].
pub fn sum_arrays(exchange: &mut dyn Exchange, values: &mut [u32]) -> Result<(), Stopped> {
    let (ranks, place) = (exchange.ranks(), exchange.place());
    if ranks == 1 {
        return exchange.check();
    }
    let stretch = |r: usize| values.len() * r / ranks..values.len() * (r + 1) / ranks;
    let outgoing = (0..ranks).map(|r| if r == place { Vec::new() } else { pack(values[stretch(r)].iter().copied()) });
    let incoming = exchange.swap(outgoing.collect())?;
    let mine = stretch(place);
    for (_, bytes) in incoming.iter().enumerate().filter(|&(r, _)| r != place) {
        let theirs = unpack::<u32>(bytes)?;
        if theirs.len() != mine.len() {
            return Err(damaged());
        }
        for (value, more) in values[mine.clone()].iter_mut().zip(theirs) {
            *value = value.wrapping_add(more);
        }
    }
    let own = pack(values[mine].iter().copied());
    let all = gather(exchange, own)?;
    for (r, bytes) in all.iter().enumerate().filter(|&(r, _)| r != place) {
        let range = values.len() * r / ranks..values.len() * (r + 1) / ranks;
        let theirs = unpack::<u32>(bytes)?;
        if theirs.len() != range.len() {
            return Err(damaged());
        }
        values[range].iter_mut().zip(theirs).for_each(|(value, new)| *value = new);
    }
    Ok(())
}

// The four encodings of [`share`].
const NOTHING: u8 = 0;
const ALL: u8 = 1;
const BITS: u8 = 2;
const OFFSETS: u8 = 3;

/// Encodes the `values` at the indices `changed` (ascending) in the fewest bytes.
fn encode<T: Wire>(values: &[T], changed: &[u32]) -> Vec<u8> {
    let (all, bits) = (values.len() * T::SIZE, values.len().div_ceil(8) + changed.len() * T::SIZE);
    let offsets = changed.len() * (4 + T::SIZE);
    let picked = changed.iter().map(|&at| values[at as usize]);
    let mut bytes = Vec::with_capacity(1 + all.min(bits).min(offsets));
    if changed.is_empty() {
        bytes.push(NOTHING);
    } else if T::SIZE > 0 && all <= bits.min(offsets) {
        bytes.push(ALL);
        values.iter().for_each(|value| value.put(&mut bytes));
    } else if bits <= offsets {
        bytes.push(BITS);
        let start = bytes.len();
        bytes.resize(start + values.len().div_ceil(8), 0);
        for &at in changed {
            bytes[start + at as usize / 8] |= 1 << (at % 8);
        }
        picked.for_each(|value| value.put(&mut bytes));
    } else {
        bytes.push(OFFSETS);
        changed.iter().for_each(|&at| at.put(&mut bytes));
        picked.for_each(|value| value.put(&mut bytes));
    }
    bytes
}

/// Decodes bytes from [`encode`] for `len` values: calls `set` with index and value of each.
fn decode<T: Wire>(bytes: &[u8], len: usize, mut set: impl FnMut(usize, T)) -> Result<(), Stopped> {
    let (&kind, body) = bytes.split_first().ok_or_else(damaged)?;
    let sized = |values: &[u8], count: usize| if values.len() == count * T::SIZE { Ok(()) } else { Err(damaged()) };
    let value = |values: &[u8], i: usize| T::get(&values[i * T::SIZE..(i + 1) * T::SIZE]);
    match kind {
        NOTHING if body.is_empty() => Ok(()),
        ALL if T::SIZE > 0 => {
            sized(body, len)?;
            (0..len).for_each(|i| set(i, value(body, i)));
            Ok(())
        }
        BITS if body.len() >= len.div_ceil(8) => {
            let (bits, values) = body.split_at(len.div_ceil(8));
            sized(values, bits.iter().map(|byte| byte.count_ones() as usize).sum())?;
            let mut next = 0;
            for (at, &byte) in bits.iter().enumerate() {
                let mut left = byte;
                while left != 0 {
                    let place = at * 8 + left.trailing_zeros() as usize;
                    if place >= len {
                        return Err(damaged());
                    }
                    set(place, value(values, next));
                    next += 1;
                    left &= left - 1;
                }
            }
            Ok(())
        }
        OFFSETS if body.len().is_multiple_of(4 + T::SIZE) => {
            let count = body.len() / (4 + T::SIZE);
            let (places, values) = body.split_at(count * 4);
            for (i, place) in unpack::<u32>(places)?.enumerate() {
                if place as usize >= len {
                    return Err(damaged());
                }
                set(place as usize, value(values, i));
            }
            Ok(())
        }
        _ => Err(damaged()),
    }
}

/// Sends the changed values of this rank's own vertices to all ranks, and calls `set` with vertex
/// and value for those that changed elsewhere. `changed` holds ascending indices within `values`;
/// `cuts` are the ranges of all ranks.
///
/// # Errors
/// As [`Exchange::swap`].
pub fn share<T: Wire>(
    exchange: &mut dyn Exchange,
    cuts: &[Vertex],
    values: &[T],
    changed: &[u32],
    mut set: impl FnMut(Vertex, T),
) -> Result<(), Stopped> {
    if exchange.ranks() == 1 {
        return exchange.check();
    }
    let place = exchange.place();
    let incoming = gather(exchange, encode(values, changed))?;
    for (r, bytes) in incoming.iter().enumerate().filter(|&(r, _)| r != place) {
        let Range { start, end } = cuts[r]..cuts[r + 1];
        decode(bytes, (end - start) as usize, |at, value| set(start + at as u32, value))?;
    }
    Ok(())
}

/// Sends values to the owners of their vertices: `outgoing[r]` to rank `r`. The entry of this rank
/// itself must be empty. Returns the received values by sender.
///
/// # Errors
/// As [`Exchange::swap`].
pub fn push<T: Wire>(exchange: &mut dyn Exchange, outgoing: Vec<Vec<T>>) -> Result<Vec<Vec<T>>, Stopped> {
    if exchange.ranks() == 1 {
        return exchange.check().map(|()| outgoing);
    }
    let frames = outgoing.into_iter().map(pack).collect();
    exchange.swap(frames)?.iter().map(|bytes| Ok(unpack(bytes)?.collect())).collect()
}

/// Ranks as threads of this process, for tests and for programs that need several ranks without
/// MPI.
pub mod threads {
    use std::sync::mpsc::{Receiver, Sender, channel};

    use super::{Exchange, Stopped};

    /// The exchange of one such rank.
    pub struct Threads {
        place: usize,
        to: Vec<Sender<Vec<u8>>>,
        from: Vec<Receiver<Vec<u8>>>,
    }

    /// Makes an exchange for each of `ranks` threads.
    fn exchanges(ranks: usize) -> Vec<Threads> {
        let mut all: Vec<Threads> =
            (0..ranks).map(|place| Threads { place, to: Vec::new(), from: Vec::new() }).collect();
        for from in 0..ranks {
            for to in 0..ranks {
                let (sender, receiver) = channel();
                all[from].to.push(sender);
                all[to].from.push(receiver);
            }
        }
        all
    }

    /// Runs the same function on `ranks` threads as ranks; returns their results in order. Panics
    /// if a rank panics.
    pub fn on_ranks<T: Send>(ranks: usize, run: impl Fn(&mut dyn Exchange) -> T + Sync) -> Vec<T> {
        std::thread::scope(|scope| {
            let run = &run;
            let spawn = |mut exchange| scope.spawn(move || run(&mut exchange));
            let threads: Vec<_> = exchanges(ranks).into_iter().map(spawn).collect();
            let result = |thread: std::thread::ScopedJoinHandle<T>| {
                thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
            };
            threads.into_iter().map(result).collect()
        })
    }

    impl Exchange for Threads {
        fn place(&self) -> usize {
            self.place
        }

        fn ranks(&self) -> usize {
            self.to.len()
        }

        fn swap(&mut self, outgoing: Vec<Vec<u8>>) -> Result<Vec<Vec<u8>>, Stopped> {
            let gone = |_| Stopped::Lost("a rank of the operation has left".to_owned());
            for (to, bytes) in self.to.iter().zip(outgoing) {
                to.send(bytes).map_err(|_| Stopped::Lost("a rank of the operation has left".to_owned()))?;
            }
            self.from.iter().map(|from| from.recv().map_err(gone)).collect()
        }

        fn check(&mut self) -> Result<(), Stopped> {
            Ok(())
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn what_changed_arrives_in_any_encoding(len in 0usize..300, one_in in 1u32..60, seed: u64) {
            let mut random = fastrand::Rng::with_seed(seed);
            let values: Vec<u64> = (0..len).map(|_| random.u64(..)).collect();
            let changed: Vec<u32> = (0..len as u32).filter(|_| random.u32(..one_in) == 0).collect();
            let bytes = encode(&values, &changed);
            prop_assert!(bytes.len() <= 1 + (values.len() * 8).min(changed.len() * 12));
            let mut got = Vec::new();
            decode::<u64>(&bytes, len, |at, value| got.push((at, value))).unwrap();
            if bytes[0] == ALL {
                prop_assert_eq!(got.len(), len);
            } else {
                prop_assert_eq!(got.iter().map(|g| g.0 as u32).collect::<Vec<_>>(), changed);
            }
            prop_assert!(got.iter().all(|&(at, value)| values[at] == value));
            let bits = encode(&vec![(); len], &(0..len as u32).collect::<Vec<_>>());
            let mut count = 0;
            decode::<()>(&bits, len, |_, ()| count += 1).unwrap();
            prop_assert_eq!(count, len);
        }

        #[test]
        fn no_bytes_make_decoding_panic(bytes: Vec<u8>, len in 0usize..100) {
            let _ = decode::<u64>(&bytes, len, |at, _| assert!(at < len));
            let _ = decode::<()>(&bytes, len, |at, ()| assert!(at < len));
        }
    }
}
