//! Encodes messages as bytes: a mark, the protocol's version, then the message in postcard's
//! format.
//!
//! `Counts`, which fine-grained jobs send every few tasks, has its own mark and format: the epoch,
//! and one word for each end. It is read in place, without building a message, and carries no
//! version, as the handshake has compared the versions.
//!
//! What ranks exchange for an operation on a divided graph, and files that travel between ranks,
//! have marks of their own, too: a header and plain bytes, in *pieces* of bounded size, so that no
//! other frame waits long behind them.
//!
//! Input is not trusted. A frame of another version, cut short, too long, or with bytes after its
//! message causes an error and never a panic, and no length in it is believed before the bytes are
//! there (postcard reads elements one by one).

use thiserror::Error;

use crate::schedule::dependency_counts::End;
use crate::schedule::protocol::{Message, VERSION};

/// First byte of every frame except those of counts.
const MARK: u8 = 0xA7;

/// First byte of a frame of counts.
const COUNTS: u8 = 0xA8;

/// First byte of a frame with a piece of what a gang exchanges.
const PIECE: u8 = 0xAA;

/// First byte of a frame with a piece of files.
const FILE_PIECE: u8 = 0xAB;

/// Bytes of such a frame before the content.
const PIECE_HEADER_BYTES: usize = 10;

/// Upper limit on the content of a piece, in bytes.
pub const MAX_PIECE_BYTES: usize = 1 << 18;

/// Set in the word of an unsuccessful end ...
const NOT_OK: u32 = 1 << 31;

/// ... and this too if the node may not have run. The node's number uses the bits below both.
const UNSUCCESSFUL: u32 = NOT_OK | 1 << 30;

/// Largest size of a frame, in bytes.
pub const MOST: usize = crate::schedule::protocol::MAX_MESSAGE_BYTES;

/// Why a frame was refused.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum WireError {
    /// The frame does not begin with a known mark.
    #[error("not a frame of Phalanx")]
    Foreign,
    /// The sender is another version of Phalanx.
    #[error(
        "the sender speaks version {0} of the protocol, this rank version {VERSION}: start all ranks from the same build"
    )]
    Version(u16),
    /// The message in it is damaged.
    #[error("damaged frame: {0}")]
    Damaged(String),
    /// The message is too large for a frame.
    #[error("a message holds more than {most} numbers: start more ranks", most = crate::numbers::MOST)]
    Oversize,
}

/// Encodes a message into `frame`.
///
/// # Errors
/// If a list in the message is too long.
pub fn encode(message: &Message, frame: &mut Vec<u8>) -> Result<(), WireError> {
    if let Message::Counts { epoch, ended } = message {
        encode_counts(*epoch, ended.iter().copied(), frame);
        return Ok(());
    }
    frame.clear();
    frame.push(MARK);
    frame.extend_from_slice(&VERSION.to_le_bytes());
    // Writing to memory cannot fail, and postcard encodes everything in messages except lists that
    // are too long.
    *frame = postcard::to_extend(message, std::mem::take(frame)).map_err(|_| WireError::Oversize)?;
    Ok(())
}

/// Encodes [`Message::Counts`] of these ends (each a node and how it ended) into `frame`.
#[inline]
pub fn encode_counts(epoch: u32, ended: impl Iterator<Item = (u32, End)>, frame: &mut Vec<u8>) {
    frame.clear();
    frame.push(COUNTS);
    frame.extend_from_slice(&epoch.to_le_bytes());
    for (node, end) in ended {
        let word = match end {
            End::Completed => node,
            End::Failed => node | NOT_OK,
            End::Unsuccessful => node | UNSUCCESSFUL,
        };
        frame.extend_from_slice(&word.to_le_bytes());
    }
}

/// Decodes a frame of counts: the epoch and the ends (each a node and how it ended). `None` for any
/// other frame.
#[inline]
pub fn counts(frame: &[u8]) -> Option<(u32, impl Iterator<Item = (u32, End)>)> {
    let [COUNTS, words @ ..] = frame else { return None };
    let (&[epoch, ref words @ ..], []) = words.as_chunks::<4>() else { return None };
    let read = |word: &[u8; 4]| {
        let word = u32::from_le_bytes(*word);
        let end = match word & UNSUCCESSFUL {
            UNSUCCESSFUL => End::Unsuccessful,
            NOT_OK => End::Failed,
            _ => End::Completed,
        };
        (word & !UNSUCCESSFUL, end)
    };
    Some((u32::from_le_bytes(epoch), words.iter().map(read)))
}

/// What a piece is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PieceKind {
    /// Bytes of a round that more pieces follow.
    More,
    /// The last bytes of a round.
    Last,
    /// The sender's share has failed; the content is the reason.
    Failed,
}

/// What a piece belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PieceStream {
    /// The gang that executes an operation; each attempt has another one.
    Gang(u32),
    /// A transfer of files, by the number that the receiver gave it.
    Files(u32),
}

/// A piece of what a rank sends another one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Piece<'a> {
    /// What it belongs to.
    pub stream: PieceStream,
    /// The round of a gang, or the number of the piece in its transfer, counted from 0.
    pub round: u32,
    /// What it is.
    pub kind: PieceKind,
    /// The content, at most [`MAX_PIECE_BYTES`].
    pub bytes: &'a [u8],
}

/// Encodes a piece as a frame.
pub fn encode_piece(piece: Piece) -> Vec<u8> {
    let mut frame = Vec::with_capacity(PIECE_HEADER_BYTES + piece.bytes.len());
    let (mark, number) = match piece.stream {
        PieceStream::Gang(gang) => (PIECE, gang),
        PieceStream::Files(transfer) => (FILE_PIECE, transfer),
    };
    frame.push(mark);
    frame.extend_from_slice(&number.to_le_bytes());
    frame.extend_from_slice(&piece.round.to_le_bytes());
    frame.push(piece.kind as u8);
    frame.extend_from_slice(piece.bytes);
    frame
}

/// Decodes a frame with a piece. `None` for any other frame.
pub fn piece(frame: &[u8]) -> Option<Piece<'_>> {
    let (header, bytes) = frame.split_first_chunk::<PIECE_HEADER_BYTES>()?;
    let [mark @ (PIECE | FILE_PIECE), n0, n1, n2, n3, r0, r1, r2, r3, kind] = *header else { return None };
    let kind = [PieceKind::More, PieceKind::Last, PieceKind::Failed].into_iter().find(|of| *of as u8 == kind)?;
    let number = u32::from_le_bytes([n0, n1, n2, n3]);
    let stream = if mark == PIECE { PieceStream::Gang(number) } else { PieceStream::Files(number) };
    let piece = Piece { stream, round: u32::from_le_bytes([r0, r1, r2, r3]), kind, bytes };
    (bytes.len() <= MAX_PIECE_BYTES).then_some(piece)
}

/// Decodes a frame.
///
/// # Errors
/// See [`WireError`].
pub fn decode(frame: &[u8]) -> Result<Message, WireError> {
    if let Some((epoch, ended)) = counts(frame) {
        return Ok(Message::Counts { epoch, ended: ended.collect() });
    }
    let [MARK, low, high, body @ ..] = frame else { return Err(WireError::Foreign) };
    let version = u16::from_le_bytes([*low, *high]);
    if version != VERSION {
        return Err(WireError::Version(version));
    }
    match postcard::take_from_bytes(body) {
        Ok((message, [])) => Ok(message),
        Ok((_, rest)) => Err(WireError::Damaged(format!("{} bytes follow its message", rest.len()))),
        Err(error) => Err(WireError::Damaged(error.to_string())),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::model::{Attempt, Outcome, Rank, Shortfalls, TaskId, Time};
    use crate::schedule::protocol::{HandOut, Lease, Load};

    fn samples() -> Vec<Message> {
        let attempt = Attempt {
            task: TaskId(7),
            attempt: 1,
            outcome: Outcome::OK,
            last: true,
            rank: Rank(3),
            slot: 2,
            ready: Time(1),
            start: Time(2),
            end: Time(3_000_000_000),
        };
        let lease = Lease {
            task: TaskId(1),
            home: Rank(2),
            attempt: 3,
            urgency: 4,
            ready: Time(5),
            short: Shortfalls { memory: 1, time: 2 },
        };
        vec![
            Message::Report {
                attempts: vec![attempt; 3],
                started: Vec::new(),
                load: Load { idle: 1, ready: 2, busy: 3, running: 2, held: 4 },
            },
            Message::Counts {
                epoch: 3,
                ended: vec![(1, End::Completed), (900_000, End::Failed), (7, End::Unsuccessful)],
            },
            Message::StealReply { epoch: 3, leases: vec![lease; 2] },
            Message::HandOut(Box::new(HandOut { out: vec![TaskId(1)], ..HandOut::default() })),
            Message::Finish,
        ]
    }

    fn encode(message: &Message) -> Vec<u8> {
        let mut frame = vec![1, 2, 3];
        super::encode(message, &mut frame).unwrap();
        frame
    }

    #[test]
    fn messages_survive_the_wire() {
        for message in samples() {
            assert_eq!(decode(&encode(&message)), Ok(message));
        }
    }

    #[test]
    fn pieces_survive_the_wire_and_nothing_else_is_one() {
        let largest = vec![7; MAX_PIECE_BYTES];
        let (gang, files) = (PieceStream::Gang(70_000), PieceStream::Files(1 << 31));
        for (stream, kind, bytes) in [
            (gang, PieceKind::More, &largest[..]),
            (files, PieceKind::Last, &[]),
            (gang, PieceKind::Failed, b"disk full"),
        ] {
            let sent = Piece { stream, round: 3, kind, bytes };
            let mut frame = encode_piece(sent);
            assert_eq!(piece(&frame), Some(sent));
            assert_eq!(decode(&frame), Err(WireError::Foreign), "it is no message");
            frame[9] = 3;
            assert_eq!(piece(&frame), None, "an unknown kind");
        }
        let oversize =
            encode_piece(Piece { stream: gang, round: 0, kind: PieceKind::More, bytes: &[largest, vec![0]].concat() });
        assert_eq!(piece(&oversize), None);
        assert!(samples().iter().all(|message| piece(&encode(message)).is_none()));
    }

    #[test]
    fn other_versions_and_strangers_are_refused() {
        let mut frame = encode(&Message::Finish);
        frame[1] = frame[1].wrapping_add(1);
        assert_eq!(decode(&frame), Err(WireError::Version(VERSION + 1)));
        assert_eq!(decode(b"GET / HTTP/1.1"), Err(WireError::Foreign));
        frame[1] = frame[1].wrapping_sub(1);
        frame.push(0);
        assert!(matches!(decode(&frame), Err(WireError::Damaged(_))));
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(which in 0usize..5, cut in 0usize..80, at in 0usize..80, bits: u8, tail: Vec<u8>) {
            let mut frame = encode(&samples()[which]);
            frame.truncate(frame.len().saturating_sub(cut));
            let len = frame.len().max(1);
            if let Some(byte) = frame.get_mut(at % len) {
                *byte ^= bits;
            }
            frame.extend(&tail);
            let _ = decode(&frame);
            let _ = piece(&frame);
            for mark in [PIECE, FILE_PIECE] {
                let any = [&[mark][..], &tail].concat();
                prop_assert!(piece(&any).is_none_or(|piece| encode_piece(piece) == any));
            }
        }
    }
}
