//! Frames in a stream of bytes.
//!
//! A frame is its kind, its sender, its receiver and its length (13 bytes), then its content. The stream is cut anywhere by whatever carries it;
//! [`Frames`] puts it together again. A frame that claims to be too large ends the stream before any memory is set aside for it, and memory grows only
//! with what has really come.

use thiserror::Error;

use crate::fabric::wire::MOST;
use crate::model::Rank;

/// Bytes before a frame's content.
const HEADER: usize = 13;

/// What a frame is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum FrameKind {
    /// Between two ranks.
    Data = 1,
    /// The sender lives.
    Beat = 2,
    /// An [`Ask`](super::Ask).
    Ask = 3,
    /// An [`Answer`](super::Answer).
    Answer = 4,
}

/// A frame that came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReceivedFrame {
    /// What it is for.
    pub kind: FrameKind,
    /// Who sent it.
    pub from: Rank,
    /// Whom it is for.
    pub to: Rank,
    /// What it says.
    pub content: Vec<u8>,
}

/// Why a stream cannot be read on.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum StreamError {
    /// There is no such kind of frame.
    #[error("a frame of unknown kind {0}")]
    Kind(u8),
    /// A frame that nobody may send.
    #[error("a frame of {0} bytes, of which at most {MOST} are allowed")]
    TooLarge(u64),
}

/// Appends a frame to a stream.
pub fn put(stream: &mut Vec<u8>, kind: FrameKind, from: Rank, to: Rank, content: &[u8]) {
    // Senders keep to `MOST`, which fits.
    let size = content.len() as u32;
    stream.reserve(HEADER + content.len());
    stream.push(kind as u8);
    for word in [from.0, to.0, size] {
        stream.extend_from_slice(&word.to_le_bytes());
    }
    stream.extend_from_slice(content);
}

/// Takes a stream apart.
#[derive(Default)]
pub struct FrameSplitter {
    came: Vec<u8>,
    /// So much of it has been taken out.
    taken: usize,
}

impl FrameSplitter {
    /// More has come.
    pub fn push(&mut self, bytes: &[u8]) {
        self.came.drain(..std::mem::take(&mut self.taken));
        self.came.extend_from_slice(bytes);
    }

    /// The next frame, once all of it is there.
    ///
    /// # Errors
    /// If this is no stream of frames; it cannot be read on.
    pub fn take(&mut self) -> Result<Option<ReceivedFrame>, StreamError> {
        let Some((header, rest)) = self.came[self.taken..].split_first_chunk::<HEADER>() else { return Ok(None) };
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
        self.taken += HEADER + size;
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
