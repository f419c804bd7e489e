//! Frames in a byte stream.
//!
//! A frame is its kind, sender, receiver and length (13 bytes), then its content. The transport may
//! cut the stream anywhere; [`FrameSplitter`] reassembles the frames. A frame whose announced
//! length is too large ends the stream before memory is allocated for it, and memory grows only
//! with the bytes that have arrived.

use thiserror::Error;

use crate::fabric::wire::MOST;
use crate::model::Rank;

/// Bytes before a frame's content.
const HEADER_BYTES: usize = 13;

/// What a frame is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum FrameKind {
    /// A message between two ranks.
    Data = 1,
    /// A heartbeat.
    Beat = 2,
    /// A request, [`Ask`](super::Ask).
    Ask = 3,
    /// The answer to a request, [`JoinAnswer`](super::JoinAnswer).
    Answer = 4,
}

/// A frame that has arrived.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReceivedFrame {
    /// What it is for.
    pub kind: FrameKind,
    /// The sender.
    pub from: Rank,
    /// The receiver.
    pub to: Rank,
    /// The content.
    pub content: Vec<u8>,
}

/// Why a stream cannot be split further.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum StreamError {
    /// The kind of frame is unknown.
    #[error("a frame of unknown kind {0}")]
    Kind(u8),
    /// The announced length, in bytes, exceeds the limit.
    #[error("a frame of {0} bytes, of which at most {MOST} are allowed")]
    TooLarge(u64),
}

/// Appends a frame to a stream.
pub fn put(stream: &mut Vec<u8>, kind: FrameKind, from: Rank, to: Rank, content: &[u8]) {
    // Senders check the size against `MOST`, which fits.
    let size = content.len() as u32;
    stream.reserve(HEADER_BYTES + content.len());
    stream.push(kind as u8);
    for word in [from.0, to.0, size] {
        stream.extend_from_slice(&word.to_le_bytes());
    }
    stream.extend_from_slice(content);
}

/// Splits a byte stream into frames.
#[derive(Default)]
pub struct FrameSplitter {
    came: Vec<u8>,
    /// Bytes at the beginning of the buffer that have been consumed.
    taken: usize,
}

impl FrameSplitter {
    /// Appends bytes that have arrived.
    pub fn push(&mut self, bytes: &[u8]) {
        self.came.drain(..std::mem::take(&mut self.taken));
        self.came.extend_from_slice(bytes);
    }

    /// Returns the next frame if it has arrived completely.
    ///
    /// # Errors
    /// If the bytes are not a stream of frames; nothing more can be read from it.
    pub fn take(&mut self) -> Result<Option<ReceivedFrame>, StreamError> {
        let Some((header, rest)) = self.came[self.taken..].split_first_chunk::<HEADER_BYTES>() else { return Ok(None) };
        let word = |at: usize| u32::from_le_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]);
        let kind = match header[0] {
            1 => FrameKind::Data,
            2 => FrameKind::Beat,
            3 => FrameKind::Ask,
            4 => FrameKind::Answer,
            other => return Err(StreamError::Kind(other)),
        };
        let size = word(9) as usize;
        if size > MOST {
            return Err(StreamError::TooLarge(size as u64));
        }
        let Some(content) = rest.get(..size) else { return Ok(None) };
        let frame = ReceivedFrame { kind, from: Rank(word(1)), to: Rank(word(5)), content: content.to_vec() };
        self.taken += HEADER_BYTES + size;
        Ok(Some(frame))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn any_frame() -> impl Strategy<Value = ReceivedFrame> {
        let kind = prop::sample::select(vec![FrameKind::Data, FrameKind::Beat, FrameKind::Ask, FrameKind::Answer]);
        (kind, any::<u32>(), any::<u32>(), prop::collection::vec(any::<u8>(), 0..300))
            .prop_map(|(kind, from, to, content)| ReceivedFrame { kind, from: Rank(from), to: Rank(to), content })
    }

    #[test]
    fn a_frame_of_four_gigabytes_is_refused_before_it_costs_anything() {
        let mut frames = FrameSplitter::default();
        frames.push(&[1, 0, 0, 0, 0, 0, 0, 0, 0, 0xFF, 0xFF, 0xFF, 0xFF]);
        assert_eq!(frames.take(), Err(StreamError::TooLarge(u64::from(u32::MAX))));
        assert!(frames.came.capacity() < 4096);
    }

    proptest! {
        #[test]
        fn frames_survive_any_cut(frames in prop::collection::vec(any_frame(), 0..8), cuts in prop::collection::vec(1usize..90, 1..60)) {
            let mut stream = Vec::new();
            frames.iter().for_each(|f| put(&mut stream, f.kind, f.from, f.to, &f.content));
            let (mut reader, mut found, mut cut) = (FrameSplitter::default(), Vec::new(), cuts.iter().cycle());
            let mut rest = stream.as_slice();
            while !rest.is_empty() {
                let (now, later) = rest.split_at((*cut.next().unwrap()).min(rest.len()));
                reader.push(now);
                while let Some(frame) = reader.take().unwrap() {
                    found.push(frame);
                }
                rest = later;
            }
            prop_assert_eq!(found, frames);
        }

        #[test]
        fn no_bytes_make_it_panic(pieces in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..60), 0..20)) {
            let mut reader = FrameSplitter::default();
            for piece in pieces {
                reader.push(&piece);
                while let Ok(Some(_)) = reader.take() {}
            }
        }
    }
}
