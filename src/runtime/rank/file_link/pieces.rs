//! The pieces of a transfer: how many a receiver allows, the stream that they become there, and the
//! stream that a sender cuts into them.

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

use super::FileLink;
use crate::fabric::wire::{MAX_PIECE_BYTES, Piece, PieceKind, PieceStream};
use crate::model::Rank;
use crate::schedule::file_messages::FileMessage;

/// Pieces of a transfer that are on their way or wait at the receiver, at most.
pub(super) const WINDOW: u32 = 8;

/// The receiver allows further pieces when it has taken this many.
const CREDIT: u32 = WINDOW / 2;

/// A rank that sends nothing more, or wants nothing, for this long has failed. The first piece may
/// take longer: the rank has others to serve.
const MAX_SILENCE: Duration = Duration::from_secs(60);

/// A transfer that arrives here.
pub(super) struct Incoming {
    pub(super) from: Rank,
    pieces: VecDeque<Vec<u8>>,
    next: u32,
    /// How it has ended.
    end: Option<Result<(), String>>,
}

impl Incoming {
    pub(super) fn new(from: Rank) -> Incoming {
        Incoming { from, pieces: VecDeque::new(), next: 0, end: None }
    }

    pub(super) fn receive(&mut self, piece: Piece) {
        if self.end.is_some() {
            return;
        }
        match piece.kind {
            PieceKind::Failed => self.end = Some(Err(String::from_utf8_lossy(piece.bytes).into_owned())),
            _ if piece.round != self.next || self.pieces.len() >= WINDOW as usize => {
                self.end = Some(Err("it has sent what was not asked for".to_owned()));
            }
            kind => {
                self.pieces.push_back(piece.bytes.to_vec());
                self.next += 1;
                self.end = (kind == PieceKind::Last).then_some(Ok(()));
            }
        }
    }
}

/// The bytes of a transfer as they arrive.
pub(super) struct PieceReader<'a> {
    link: &'a FileLink,
    source: Rank,
    id: u32,
    is_given_up: &'a AtomicBool,
    piece: Vec<u8>,
    at: usize,
    taken: u32,
}

impl<'a> PieceReader<'a> {
    pub(super) fn new(link: &'a FileLink, source: Rank, id: u32, is_given_up: &'a AtomicBool) -> PieceReader<'a> {
        PieceReader { link, source, id, is_given_up, piece: Vec::new(), at: 0, taken: 0 }
    }

    /// The next piece; `None` after the last one.
    fn next(&mut self) -> io::Result<Option<Vec<u8>>> {
        let (link, source) = (self.link, self.source);
        let start = Instant::now();
        let mut state = link.state();
        loop {
            let Some(incoming) = state.incoming.get_mut(&self.id) else { return Ok(None) };
            if let Some(piece) = incoming.pieces.pop_front() {
                drop(state);
                self.taken += 1;
                if self.taken.is_multiple_of(CREDIT) {
                    link.post_about(source, self.id, FileMessage::Credit { pieces: CREDIT });
                }
                return Ok(Some(piece));
            }
            match incoming.end.take() {
                Some(Ok(())) => return Ok(None),
                Some(Err(reason)) => return Err(io::Error::other(format!("{source} could not send it: {reason}"))),
                None if state.gone.contains(&source) => {
                    return Err(io::Error::other(format!("{source} is gone, which sent it")));
                }
                None if self.is_given_up.load(Relaxed) => return Err(io::ErrorKind::Interrupted.into()),
                None if state.is_closed => return Err(io::Error::other("the run is over")),
                None if self.taken > 0 && start.elapsed() > MAX_SILENCE => {
                    let text = format!("{source} has sent nothing for {} s", MAX_SILENCE.as_secs());
                    return Err(io::Error::other(text));
                }
                None => state = link.wait(state),
            }
        }
    }
}

impl Read for PieceReader<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        while self.at == self.piece.len() {
            match self.next() {
                Ok(Some(piece)) => (self.piece, self.at) = (piece, 0),
                Ok(None) => return Ok(0),
                // Whoever reads would try again.
                Err(error) if error.kind() == io::ErrorKind::Interrupted => return Err(io::Error::other("given up")),
                Err(error) => return Err(error),
            }
        }
        let length = into.len().min(self.piece.len() - self.at);
        into[..length].copy_from_slice(&self.piece[self.at..self.at + length]);
        self.at += length;
        Ok(length)
    }
}

/// Cuts a stream into pieces for another rank.
pub(in crate::runtime::rank) struct PieceWriter<'a> {
    link: &'a FileLink,
    to: Rank,
    id: u32,
    round: u32,
    bytes: Vec<u8>,
}

impl<'a> PieceWriter<'a> {
    pub(in crate::runtime::rank) fn new(link: &'a FileLink, to: Rank, id: u32) -> PieceWriter<'a> {
        PieceWriter { link, to, id, round: 0, bytes: Vec::new() }
    }

    fn send(&mut self, kind: PieceKind) {
        let piece = Piece { stream: PieceStream::Files(self.id), round: self.round, kind, bytes: &self.bytes };
        self.link.pieces.add(std::iter::once((self.to, piece)));
        self.link.event_wait.notify();
        self.round += 1;
        self.bytes.clear();
    }

    /// Waits until the receiver allows another piece.
    fn await_credit(&self) -> io::Result<()> {
        let start = Instant::now();
        let mut state = self.link.state();
        loop {
            let is_over = state.is_closed || state.gone.contains(&self.to) || start.elapsed() > MAX_SILENCE;
            match state.outgoing.get_mut(&(self.to, self.id)) {
                None => return Err(io::Error::other("it is not wanted any more")),
                Some(_) if is_over => return Err(io::Error::other(format!("{} does not take it", self.to))),
                Some(0) => state = self.link.wait(state),
                Some(left) => {
                    *left -= 1;
                    return Ok(());
                }
            }
        }
    }

    /// Sends the rest, or why there is none.
    pub(in crate::runtime::rank) fn finish(mut self, sent: io::Result<u64>) {
        match sent.and_then(|_| self.await_credit()) {
            Ok(()) => self.send(PieceKind::Last),
            Err(error) => {
                let reason = error.to_string();
                self.bytes = reason.as_bytes()[..reason.floor_char_boundary(MAX_PIECE_BYTES)].to_vec();
                self.send(PieceKind::Failed);
            }
        }
        self.link.state().outgoing.remove(&(self.to, self.id));
    }
}

impl Write for PieceWriter<'_> {
    fn write(&mut self, from: &[u8]) -> io::Result<usize> {
        if self.bytes.len() == MAX_PIECE_BYTES {
            self.await_credit()?;
            self.send(PieceKind::More);
        }
        let length = from.len().min(MAX_PIECE_BYTES - self.bytes.len());
        self.bytes.extend_from_slice(&from[..length]);
        Ok(length)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::super::tests::link;
    use super::*;
    use crate::schedule::protocol::Message;

    fn piece(round: u32, kind: PieceKind, bytes: &[u8]) -> Piece<'_> {
        Piece { stream: PieceStream::Files(1), round, kind, bytes }
    }

    /// A link to which pieces are sent as the transfer 1 from rank 2.
    fn receiving() -> FileLink {
        let link = link();
        link.state().incoming.insert(1, Incoming::new(Rank(2)));
        link
    }

    fn read(link: &FileLink) -> io::Result<Vec<u8>> {
        let is_given_up = AtomicBool::new(false);
        let mut reader = PieceReader::new(link, Rank(2), 1, &is_given_up);
        let mut all = Vec::new();
        reader.read_to_end(&mut all).map(|_| all)
    }

    #[test]
    fn pieces_become_a_stream_and_the_sender_may_send_more() {
        let link = receiving();
        for round in 0..CREDIT {
            link.receive(Rank(2), 1, piece(round, PieceKind::More, b"ab"));
        }
        link.receive(Rank(3), 1, piece(CREDIT, PieceKind::Last, b"of another rank"));
        link.receive(Rank(2), 1, piece(CREDIT, PieceKind::Last, b"c"));
        assert_eq!(read(&link).unwrap(), [&b"ab".repeat(CREDIT as usize)[..], b"c"].concat());
        let credit = FileMessage::Credit { pieces: CREDIT };
        assert_eq!(link.take_messages(), [(Rank(2), Message::Files { id: 1, message: credit })]);
    }

    #[test]
    fn a_transfer_ends_with_its_sender() {
        let failed = receiving();
        failed.receive(Rank(2), 1, piece(0, PieceKind::Failed, b"disk full"));
        assert!(read(&failed).unwrap_err().to_string().contains("rank 2 could not send it: disk full"));
        let lost = receiving();
        lost.receive(Rank(2), 1, piece(0, PieceKind::More, b"ab"));
        lost.lose([Rank(2)].into_iter());
        assert!(read(&lost).unwrap_err().to_string().contains("rank 2 is gone"));
        let closed = receiving();
        closed.close();
        assert!(read(&closed).unwrap_err().to_string().contains("the run is over"));
    }

    #[test]
    fn who_sends_more_than_was_allowed_is_refused() {
        let link = receiving();
        (0..=WINDOW).for_each(|round| link.receive(Rank(2), 1, piece(round, PieceKind::More, b"x")));
        assert!(read(&link).unwrap_err().to_string().contains("what was not asked for"));
        let link = receiving();
        link.receive(Rank(2), 1, piece(1, PieceKind::Last, b"x"));
        assert!(read(&link).is_err(), "the first piece is missing");
    }

    #[test]
    fn a_sender_waits_for_leave() {
        let link = Arc::new(link());
        link.state().outgoing.insert((Rank(2), 5), 1);
        let sender = Arc::clone(&link);
        let thread = std::thread::spawn(move || {
            let mut writer = PieceWriter::new(&sender, Rank(2), 5);
            let sent = writer.write_all(&vec![7; 2 * MAX_PIECE_BYTES + 1]).map(|()| 0);
            writer.finish(sent);
        });
        while link.pieces.take(1).is_empty() {
            std::thread::yield_now();
        }
        assert!(link.pieces.take(1).is_empty(), "one piece was allowed");
        link.credit(Rank(2), 5, 9);
        thread.join().unwrap();
        assert_eq!(link.pieces.take(9).len(), 2);
        assert!(link.state().outgoing.is_empty());
        link.credit(Rank(2), 5, 1);
        assert!(link.state().outgoing.is_empty(), "a transfer that has ended");
    }
}
