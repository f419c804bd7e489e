//! A ring of frames in shared memory, from one rank to another of the same node.
//!
//! One rank writes, one reads, and neither waits. A record is a header word and the frame in words.
//! The header is stored last, so a reader that finds it finds the whole record. The reader sets
//! consumed words back to zero and then advances `head`, which is all that the writer needs to
//! know; the writer reads `head` only when the ring seems full. A small frame thus moves one cache
//! line between two cores.
//!
//! ```text
//! word 0      head: words that the reader has freed since the beginning
//! words 8..   records; one that does not fit before the end starts at word 8, after a SKIP
//! header      PRESENT | label << 32 | length in bytes
//! ```
//!
//! Sources: L. Lamport, "Specifying Concurrent Program Modules", TOPLAS 5(2), 1983 (one writer, one
//! reader, no lock); J. Giacomoni et al., "FastForward for efficient pipeline parallelism", PPoPP
//! 2008 (the data itself signals its presence).

use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};

use super::shared_memory::{PAGE_BYTES, SharedMemory};

/// Size of one ring in bytes.
pub(super) const RING_BYTES: usize = 4 * PAGE_BYTES;

/// Largest frame in bytes, so that several fit.
pub(super) const MAX_FRAME_BYTES: usize = 4000;

/// Index of the first word of the records, on a cache line of its own.
const FIRST_WORD: usize = 8;

/// Number of words for records.
const CAPACITY: usize = RING_BYTES / 8 - FIRST_WORD;

/// Largest label; [`SKIP`] carries a larger one.
pub(super) const MAX_LABEL: u32 = (1 << 30) - 1;

/// Set in the header of every record.
const PRESENT: u64 = 1 << 63;

/// In place of a header: the next record starts at the beginning.
const SKIP: u64 = u64::MAX;

/// The ring holds data that no writer of this program can have written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct DamagedRing;

/// The writing side.
pub(super) struct RingWriter {
    memory: SharedMemory,
    /// Where the next record begins.
    at: usize,
    /// Words written since the beginning, and how many of them the reader is known to have freed.
    written: u64,
    freed: u64,
}

impl RingWriter {
    /// Writes to a fresh ring of [`RING_BYTES`].
    pub(super) fn new(memory: SharedMemory) -> RingWriter {
        RingWriter { memory, at: 0, written: 0, freed: 0 }
    }

    /// Appends a frame of at most [`MAX_FRAME_BYTES`] with a label of at most [`MAX_LABEL`].
    /// Returns false if there is no room at present.
    #[inline]
    pub(super) fn push(&mut self, label: u32, frame: &[u8]) -> bool {
        let words = 1 + frame.len().div_ceil(8);
        let to_end = CAPACITY - self.at;
        let skipped = if words > to_end { to_end } else { 0 };
        if !self.has_room((skipped + words) as u64) {
            return false;
        }
        let records = &self.memory.words()[FIRST_WORD..];
        if skipped > 0 {
            records[self.at].store(SKIP, Release);
            self.at = 0;
        }
        for (word, bytes) in records[self.at + 1..].iter().zip(frame.chunks(8)) {
            word.store(pack(bytes), Relaxed);
        }
        records[self.at].store(PRESENT | u64::from(label & MAX_LABEL) << 32 | frame.len() as u64, Release);
        self.at = advance(self.at, words);
        self.written += (skipped + words) as u64;
        true
    }

    fn has_room(&mut self, words: u64) -> bool {
        let fits = |freed: u64| self.written + words <= freed.saturating_add(CAPACITY as u64);
        if !fits(self.freed) {
            // Acquire: the reader zeroed the freed words before we write to them again.
            self.freed = self.memory.words()[0].load(Acquire);
        }
        fits(self.freed)
    }
}

/// The reading side of a ring that lies in a larger section.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct RingReader {
    /// Where the next record begins.
    at: usize,
    freed: u64,
}

impl RingReader {
    /// The header of the next frame; 0 if there is none.
    #[inline]
    fn next_header(&mut self, ring: &[AtomicU64]) -> u64 {
        loop {
            // Acquire: the record was written before its header.
            match ring[FIRST_WORD + self.at].load(Acquire) {
                SKIP => self.skip(ring),
                header => return header,
            }
        }
    }

    /// The label of the next frame, if there is one.
    #[inline]
    pub(super) fn peek(&mut self, ring: &[AtomicU64]) -> Option<u32> {
        match self.next_header(ring) {
            0 => None,
            header => Some(label(header)),
        }
    }

    /// Replaces the content of `frame` with the next frame and returns its label; `None` if there
    /// is none.
    ///
    /// # Errors
    /// If the ring holds invalid data.
    #[inline]
    pub(super) fn pop(&mut self, ring: &[AtomicU64], frame: &mut Vec<u8>) -> Result<Option<u32>, DamagedRing> {
        match self.next_header(ring) {
            0 => Ok(None),
            header => self.take(ring, header, frame).map(Some),
        }
    }

    fn skip(&mut self, ring: &[AtomicU64]) {
        ring[FIRST_WORD + self.at].store(0, Relaxed);
        self.free(ring, CAPACITY - self.at);
    }

    fn take(&mut self, ring: &[AtomicU64], header: u64, frame: &mut Vec<u8>) -> Result<u32, DamagedRing> {
        let len = (header & u64::from(u32::MAX)) as usize;
        let words = 1 + len.div_ceil(8);
        if header & PRESENT == 0 || len > MAX_FRAME_BYTES || self.at + words > CAPACITY {
            return Err(DamagedRing);
        }
        let record = &ring[FIRST_WORD + self.at..][..words];
        frame.clear();
        frame.resize((words - 1) * 8, 0);
        for (bytes, word) in frame.as_chunks_mut::<8>().0.iter_mut().zip(&record[1..]) {
            *bytes = word.load(Relaxed).to_le_bytes();
        }
        frame.truncate(len);
        record.iter().for_each(|word| word.store(0, Relaxed));
        self.free(ring, words);
        Ok(label(header))
    }

    /// Frees the next `words` words, which are zero now.
    fn free(&mut self, ring: &[AtomicU64], words: usize) {
        self.at = advance(self.at, words);
        self.freed += words as u64;
        // Release: the writer that sees this sees the zeros.
        ring[0].store(self.freed, Release);
    }
}

fn label(header: u64) -> u32 {
    (header >> 32) as u32 & MAX_LABEL
}

fn advance(at: usize, words: usize) -> usize {
    if at + words == CAPACITY { 0 } else { at + words }
}

/// Packs up to eight bytes into a word.
#[inline]
fn pack(bytes: &[u8]) -> u64 {
    let mut word = [0; 8];
    word[..bytes.len()].copy_from_slice(bytes);
    u64::from_le_bytes(word)
}

#[cfg(test)]
mod tests {
    use std::os::fd::OwnedFd;

    use rustix::fs::{MemfdFlags, ftruncate, memfd_create};

    use super::*;

    fn file() -> OwnedFd {
        let file = memfd_create("ring-test", MemfdFlags::CLOEXEC).unwrap();
        ftruncate(&file, RING_BYTES as u64).unwrap();
        file
    }

    fn ring() -> (RingWriter, SharedMemory, RingReader) {
        let file = file();
        let [writer, reader] = [(); 2].map(|()| SharedMemory::map(&file, 0, RING_BYTES).unwrap());
        (RingWriter::new(writer), reader, RingReader::default())
    }

    fn frame(rng: &mut fastrand::Rng, number: u32) -> Vec<u8> {
        let len = if rng.bool() { rng.usize(0..40) } else { rng.usize(0..=MAX_FRAME_BYTES) };
        (0..len).map(|at| (number as usize * 31 + at) as u8).collect()
    }

    #[test]
    fn frames_of_all_sizes_come_out_as_they_went_in() {
        let (mut writer, memory, mut reader) = ring();
        let (mut rng, mut got) = (fastrand::Rng::with_seed(1), Vec::new());
        let (mut pushed, mut popped) = (std::collections::VecDeque::new(), 0);
        for number in 0..20_000 {
            let frame = frame(&mut rng, number);
            if writer.push(number, &frame) {
                pushed.push_back((number, frame));
            }
            if rng.u8(..) < 100 {
                while let Some(label) = reader.pop(memory.words(), &mut got).unwrap() {
                    assert_eq!(pushed.pop_front(), Some((label, got.clone())));
                    popped += 1;
                }
                assert!(pushed.is_empty());
            }
        }
        assert!(popped > 5_000, "{popped}");
    }

    #[test]
    fn a_full_ring_takes_nothing_and_recovers() {
        let (mut writer, memory, mut reader) = ring();
        let taken = (0..100).take_while(|&label| writer.push(label, &[7; MAX_FRAME_BYTES])).count();
        assert!((3..5).contains(&taken), "{taken}");
        assert!(!writer.push(0, &[7; MAX_FRAME_BYTES]));
        let mut got = Vec::new();
        for round in 0..1000u32 {
            let label = if (round as usize) < taken { round } else { 9 };
            assert_eq!(reader.peek(memory.words()), Some(label));
            assert_eq!(reader.pop(memory.words(), &mut got), Ok(Some(label)));
            assert_eq!(got, [7; MAX_FRAME_BYTES]);
            while writer.push(9, &[7; MAX_FRAME_BYTES]) {}
        }
    }

    #[test]
    fn two_threads_lose_nothing_and_keep_the_order() {
        const FRAMES: u32 = 20_000;
        let (mut writer, memory, mut reader) = ring();
        std::thread::scope(|scope| {
            scope.spawn(move || {
                let mut rng = fastrand::Rng::with_seed(2);
                for number in 0..FRAMES {
                    let frame = frame(&mut rng, number);
                    while !writer.push(number, &frame) {
                        std::thread::yield_now();
                    }
                }
            });
            let (mut rng, mut got) = (fastrand::Rng::with_seed(2), Vec::new());
            for number in 0..FRAMES {
                while reader.pop(memory.words(), &mut got).unwrap() != Some(number) {
                    std::thread::yield_now();
                }
                assert_eq!(got, frame(&mut rng, number));
            }
        });
    }

    #[test]
    fn any_words_are_survived() {
        let (_, memory, _) = ring();
        let (mut rng, mut got) = (fastrand::Rng::with_seed(3), Vec::new());
        for _ in 0..2_000 {
            let mut reader = RingReader { at: rng.usize(0..CAPACITY), freed: 0 };
            for word in memory.words() {
                let header = PRESENT | rng.u64(0..4) << 32 | rng.u64(0..5000);
                word.store(*rng.choice(&[0, SKIP, header, rng.clone().u64(..)]).unwrap(), Relaxed);
            }
            while let Ok(Some(_)) = reader.pop(memory.words(), &mut got) {
                assert!(got.len() <= MAX_FRAME_BYTES);
            }
        }
    }
}
