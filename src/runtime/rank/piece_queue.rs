//! Pieces that the engine is to send: of what gangs exchange, and of files.
//!
//! The engine takes a few at a time, when those before have left, so other frames never wait behind
//! many of them.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::fabric::wire::{Piece, PieceStream, encode_piece};
use crate::model::Rank;

/// Pieces that the engine is to send.
#[derive(Default)]
pub(super) struct PieceQueue {
    pieces: Mutex<VecDeque<QueuedPiece>>,
    /// Their number, to be read without the lock.
    waiting: AtomicUsize,
    /// Number of threads that wait for pieces of other ranks.
    awaiting: AtomicUsize,
}

struct QueuedPiece {
    stream: PieceStream,
    to: Rank,
    frame: Vec<u8>,
}

impl PieceQueue {
    fn pieces(&self) -> MutexGuard<'_, VecDeque<QueuedPiece>> {
        self.pieces.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn is_waiting(&self) -> bool {
        self.waiting.load(SeqCst) > 0
    }

    /// True while a thread waits for pieces of other ranks.
    pub(super) fn is_awaiting(&self) -> bool {
        self.awaiting.load(SeqCst) > 0
    }

    /// Removes the first pieces, at most `most`, each with its receiver.
    pub(super) fn take(&self, most: usize) -> Vec<(Rank, Vec<u8>)> {
        let mut pieces = self.pieces();
        let taken = most.min(pieces.len());
        let taken = pieces.drain(..taken).map(|piece| (piece.to, piece.frame)).collect();
        self.waiting.store(pieces.len(), SeqCst);
        taken
    }

    /// Appends pieces, each with its receiver.
    pub(super) fn add<'a>(&self, new: impl Iterator<Item = (Rank, Piece<'a>)>) {
        let mut pieces = self.pieces();
        pieces.extend(new.map(|(to, piece)| QueuedPiece { stream: piece.stream, to, frame: encode_piece(piece) }));
        self.waiting.store(pieces.len(), SeqCst);
    }

    /// Drops what a gang has not sent yet.
    pub(super) fn withdraw(&self, gang: u32) {
        let mut pieces = self.pieces();
        pieces.retain(|piece| piece.stream != PieceStream::Gang(gang));
        self.waiting.store(pieces.len(), SeqCst);
    }

    /// Counts the calling thread as one that waits for pieces, until the value is dropped.
    pub(super) fn await_pieces(&self) -> Awaiting<'_> {
        self.awaiting.fetch_add(1, SeqCst);
        Awaiting(&self.awaiting)
    }
}

/// Counts a thread that waits until it is dropped.
pub(super) struct Awaiting<'a>(&'a AtomicUsize);

impl Drop for Awaiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, SeqCst);
    }
}
