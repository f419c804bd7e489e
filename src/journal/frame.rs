//! Frames: the format of records in the journal file, which shows a reader whether each record was
//! written completely.
//!
//! ```text
//! header   magic [8]  version u32
//! frame    mark [4]  length u32  crc32 u32  payload [length]       (numbers little-endian)
//! ```
//!
//! The checksum covers length and payload. The mark cannot occur in text, so after damage a reader
//! finds the next intact frame quickly. That distinguishes two kinds of damage:
//!
//! - *torn*: no intact frame follows. A writer was stopped in the middle of an append; the rest is
//!   ignored.
//! - *corrupt*: intact frames follow. Bytes changed after they were written; the damage must be
//!   reported.

use super::error::JournalError;

/// The first bytes of a journal.
const MAGIC: [u8; 8] = *b"PHLXJRNL";
/// The format that this code writes and reads.
pub(crate) const VERSION: u32 = 2;
/// Bytes before the first frame.
pub(crate) const HEADER: usize = 12;
/// The first bytes of a frame; of these only the second and third can occur in UTF-8.
const MARK: [u8; 4] = [0xf5, 0xa7, 0xc1, 0xfe];
/// Bytes of a frame before its payload.
const FRAME_HEAD: usize = 12;
/// Bytes at the start of a journal that show whether it holds a record.
pub(crate) const START: usize = HEADER + FRAME_HEAD;
/// Largest payload that is written or accepted, in bytes.
pub(crate) const MAX_PAYLOAD: usize = 1 << 30;

/// How a journal ends.
#[derive(Debug, Default)]
pub enum Tail {
    /// With a whole record.
    #[default]
    Clean,
    /// With this many bytes of a record that was cut short; they do not count.
    Torn(u64),
    /// Before its end there is damage or a record from another version; the rest was not read.
    Damaged(JournalError),
}

/// What follows the intact frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rest {
    Nothing,
    Torn,
    /// Damage, with the offset of the next intact frame.
    Corrupt(usize),
}

/// Why bytes are not a journal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BadHeader {
    Magic,
    Version(u32),
}

/// The bytes that a journal begins with.
pub(crate) fn header() -> [u8; HEADER] {
    let mut header = [0; HEADER];
    header[..8].copy_from_slice(&MAGIC);
    header[8..].copy_from_slice(&VERSION.to_le_bytes());
    header
}

/// Starts a frame in `out`, which the payload is then appended to.
pub(crate) fn open_frame(out: &mut Vec<u8>) {
    out.clear();
    out.extend_from_slice(&MARK);
    out.extend_from_slice(&[0; FRAME_HEAD - 4]);
}

/// Completes the frame in `out`.
pub(crate) fn close_frame(out: &mut [u8]) -> Result<(), JournalError> {
    let bytes = out.len() - FRAME_HEAD;
    let length = u32::try_from(bytes).ok().filter(|_| bytes <= MAX_PAYLOAD).ok_or(JournalError::TooLarge { bytes })?;
    out[4..8].copy_from_slice(&length.to_le_bytes());
    let crc = checksum(length.to_le_bytes(), &out[FRAME_HEAD..]);
    out[8..12].copy_from_slice(&crc.to_le_bytes());
    Ok(())
}

fn checksum(length: [u8; 4], payload: &[u8]) -> u32 {
    let mut crc = crc32fast::Hasher::new();
    crc.update(&length);
    crc.update(payload);
    crc.finalize()
}

/// True if a journal of `size` bytes holds a record, by its first bytes: its writer was not stopped
/// before the first one was written. A damaged journal counts as one that holds some.
pub(crate) fn holds_record(start: &[u8], size: u64) -> bool {
    if !header().starts_with(&start[..start.len().min(HEADER)]) {
        return true;
    }
    if size <= HEADER as u64 {
        return false;
    }
    match (start.get(HEADER..HEADER + 4), word(start, HEADER + 4)) {
        (Some(mark), Some(length)) if mark == MARK => size >= (HEADER + FRAME_HEAD) as u64 + u64::from(length),
        // The head of the first frame is not whole.
        (_, None) => false,
        _ => true,
    }
}

/// Walks over the frames of a journal that has been read into memory.
pub(crate) struct Frames<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Frames<'a> {
    /// Checks the header. A header cut short is a journal without records.
    pub(crate) fn new(bytes: &'a [u8]) -> Result<Frames<'a>, BadHeader> {
        let expected = header();
        if bytes.len() < HEADER && expected.starts_with(bytes) {
            return Ok(Frames { bytes, at: 0 });
        }
        if !bytes.starts_with(&MAGIC) {
            return Err(BadHeader::Magic);
        }
        match word(bytes, 8) {
            Some(version) if version == VERSION => Ok(Frames { bytes, at: HEADER }),
            version => Err(BadHeader::Version(version.unwrap_or(0))),
        }
    }

    /// Offset of the next frame: all before it is intact.
    pub(crate) fn at(&self) -> usize {
        self.at
    }

    /// The next intact frame's payload.
    pub(crate) fn advance(&mut self) -> Option<&'a [u8]> {
        let payload = if self.at >= HEADER { frame_at(self.bytes, self.at)? } else { return None };
        self.at += FRAME_HEAD + payload.len();
        Some(payload)
    }

    /// Returns what follows after [`Frames::advance`] has found no further frame.
    pub(crate) fn rest(&self) -> Rest {
        if self.at == self.bytes.len() && self.at >= HEADER {
            return Rest::Nothing;
        }
        let mut from = self.at + 1;
        while let Some(found) = self.bytes.get(from..).and_then(|rest| rest.windows(4).position(|w| w == MARK)) {
            if frame_at(self.bytes, from + found).is_some() {
                return Rest::Corrupt(from + found);
            }
            from += found + 1;
        }
        Rest::Torn
    }
}

/// Returns the payload of the frame at offset `at`, if it is intact.
fn frame_at(bytes: &[u8], at: usize) -> Option<&[u8]> {
    if bytes.get(at..at + 4)? != MARK {
        return None;
    }
    let length = word(bytes, at + 4)? as usize;
    if length > MAX_PAYLOAD {
        return None;
    }
    let payload = bytes.get(at + FRAME_HEAD..at + FRAME_HEAD + length)?;
    (word(bytes, at + 8)? == checksum((length as u32).to_le_bytes(), payload)).then_some(payload)
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    let word = bytes.get(at..at + 4)?;
    Some(u32::from_le_bytes([word[0], word[1], word[2], word[3]]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn file(payloads: &[Vec<u8>]) -> (Vec<u8>, Vec<usize>) {
        let mut bytes = header().to_vec();
        let mut ends = vec![HEADER];
        for payload in payloads {
            let mut frame = Vec::new();
            open_frame(&mut frame);
            frame.extend_from_slice(payload);
            close_frame(&mut frame).unwrap();
            bytes.extend(frame);
            ends.push(bytes.len());
        }
        (bytes, ends)
    }

    fn read(bytes: &[u8]) -> (Vec<Vec<u8>>, usize, Rest) {
        let mut frames = Frames::new(bytes).unwrap();
        let mut payloads = Vec::new();
        while let Some(payload) = frames.advance() {
            payloads.push(payload.to_vec());
        }
        (payloads, frames.at(), frames.rest())
    }

    #[test]
    fn other_files_and_other_versions_are_refused() {
        assert_eq!(Frames::new(b"[job]\nname = 'x'\n").err(), Some(BadHeader::Magic));
        let mut later = header();
        later[8] = 9;
        assert_eq!(Frames::new(&later).err(), Some(BadHeader::Version(9)));
    }

    #[test]
    fn a_length_far_beyond_the_file_is_torn_and_allocates_nothing() {
        let (mut bytes, ends) = file(&[vec![1; 10]]);
        bytes.extend_from_slice(&MARK);
        bytes.extend_from_slice(&[0xff; 8]);
        assert_eq!(read(&bytes), (vec![vec![1; 10]], ends[1], Rest::Torn));
    }

    #[test]
    fn truncation_at_every_offset_keeps_every_whole_frame() {
        let payloads = vec![vec![], vec![7; 5], MARK.repeat(4), vec![0; 30]];
        let (bytes, ends) = file(&payloads);
        for cut in 0..bytes.len() {
            let whole = ends.iter().filter(|&&end| end <= cut).count().saturating_sub(1);
            let (got, at, rest) = read(&bytes[..cut]);
            assert_eq!(got, payloads[..whole], "cut at {cut}");
            assert_eq!(rest, if cut >= HEADER && cut == at { Rest::Nothing } else { Rest::Torn }, "cut at {cut}");
        }
    }

    #[test]
    fn a_flipped_bit_anywhere_loses_nothing_before_it() {
        let payloads = vec![vec![1; 9], vec![2; 20], vec![3; 4]];
        let (bytes, ends) = file(&payloads);
        for bit in HEADER * 8..bytes.len() * 8 {
            let mut damaged = bytes.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            let hit = ends.iter().filter(|&&end| end <= bit / 8).count() - 1;
            let (got, at, rest) = read(&damaged);
            assert_eq!((&got[..], at), (&payloads[..hit], ends[hit]), "bit {bit}");
            let expected = if hit + 1 < payloads.len() { Rest::Corrupt(ends[hit + 1]) } else { Rest::Torn };
            assert_eq!(rest, expected, "bit {bit}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_survived(bytes in prop::collection::vec(any::<u8>(), 0..300), headed: bool) {
            let bytes = if headed { [&header()[..], &bytes].concat() } else { bytes };
            if let Ok(mut frames) = Frames::new(&bytes) {
                while frames.advance().is_some() {}
                frames.rest();
            }
        }
    }
}
