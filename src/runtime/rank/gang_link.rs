//! What the ranks exchange that execute an operation on a divided graph together.
//!
//! The engine moves the bytes as pieces of bounded size (`fabric/wire`). A thread that executes its
//! share leaves pieces for the engine, and waits for those of the others in the *link* of the gang,
//! which has an inbox for each sender. No rank is more than one round ahead, since it needs the
//! bytes of all others to get there, so an inbox holds two rounds at most.
//!
//! | event | effect on the threads that exchange |
//! |---|---|
//! | the share of a rank fails | the others end with its reason where they need bytes from it |
//! | a rank is lost | the leader ends, and its attempt is NODE_FAIL |
//! | the gang is released, since its leader has ended | the others end |
//! | cancellation, time limit | the leader ends |

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::piece_queue::PieceQueue;
use crate::data::exchange::Stopped;
use crate::exec::Peers;
use crate::fabric::wire::{MAX_PIECE_BYTES, Piece, PieceKind, PieceStream};
use crate::model::Rank;
use crate::runtime::event_wait::EventWait;

/// Longest time until a thread that waits for others notices that it is cancelled.
const CANCEL_POLL_INTERVAL: Duration = Duration::from_millis(5);

/// Complete rounds that an inbox holds at most.
const MAX_ROUNDS: usize = 2;

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The inboxes of a gang on this rank. Bytes of others may arrive before this rank starts.
#[derive(Default)]
pub(super) struct GangLink {
    state: Mutex<LinkState>,
    changed: Condvar,
}

#[derive(Default)]
struct LinkState {
    inboxes: BTreeMap<Rank, Inbox>,
    /// The next round of this rank.
    round: u32,
    lost: Option<Rank>,
    is_closed: bool,
}

/// What one rank has sent.
#[derive(Default)]
struct Inbox {
    /// The round that is arriving, and its pieces so far.
    round: u32,
    partial: Vec<u8>,
    complete: VecDeque<Vec<u8>>,
    /// Why nothing more will arrive.
    failure: Option<String>,
}

impl GangLink {
    /// Takes a piece in.
    pub(super) fn receive(&self, from: Rank, piece: Piece) {
        let mut state = lock(&self.state);
        let inbox = state.inboxes.entry(from).or_default();
        let is_damaged = piece.round != inbox.round || inbox.complete.len() >= MAX_ROUNDS;
        match piece.kind {
            PieceKind::Failed => {
                let reason = String::from_utf8_lossy(piece.bytes);
                inbox.failure.get_or_insert(format!("{from} has failed: {reason}"));
            }
            _ if is_damaged => {
                inbox.failure.get_or_insert(format!("{from} has sent bytes of another round"));
            }
            PieceKind::More => return inbox.partial.extend_from_slice(piece.bytes),
            PieceKind::Last => {
                inbox.partial.extend_from_slice(piece.bytes);
                inbox.complete.push_back(std::mem::take(&mut inbox.partial));
                inbox.round += 1;
            }
        }
        self.changed.notify_all();
    }

    /// A rank that executes the operation too is lost.
    pub(super) fn lose(&self, rank: Rank) {
        lock(&self.state).lost.get_or_insert(rank);
        self.changed.notify_all();
    }

    /// Ends the exchange: the gang has been released.
    pub(super) fn close(&self) {
        lock(&self.state).is_closed = true;
        self.changed.notify_all();
    }

    /// True if the operation cannot complete because a rank is lost.
    pub(super) fn has_lost_rank(&self) -> bool {
        lock(&self.state).lost.is_some()
    }

    fn check(&self) -> Result<(), Stopped> {
        lock(&self.state).check()
    }
}

impl LinkState {
    fn check(&self) -> Result<(), Stopped> {
        match self.lost {
            Some(rank) => Err(Stopped::Lost(format!("{rank} is lost, which executed the operation too"))),
            None if self.is_closed => Err(Stopped::Lost("the rank that leads the operation has ended it".to_owned())),
            None => Ok(()),
        }
    }

    /// Removes the bytes that the others have sent for the next round, in the order of `ranks`
    /// (nothing for `me`). `None` if some are missing.
    fn take(&mut self, me: Rank, ranks: &[Rank]) -> Result<Option<Vec<Vec<u8>>>, Stopped> {
        let others = || ranks.iter().filter(|&&rank| rank != me);
        let is_here = |rank: &&Rank| self.inboxes.get(rank).is_some_and(|inbox| !inbox.complete.is_empty());
        if !others().all(|rank| is_here(&rank)) {
            let failure = |rank: &Rank| self.inboxes.get(rank)?.failure.clone();
            let failed = others().filter(|rank| !is_here(rank)).find_map(failure);
            return self.check().and(failed.map_or(Ok(None), |reason| Err(Stopped::Lost(reason))));
        }
        let mut take = |rank: &Rank| self.inboxes.get_mut(rank)?.complete.pop_front();
        Ok(Some(ranks.iter().map(|rank| take(rank).unwrap_or_default()).collect()))
    }
}

/// A rank's side of an operation while it executes its share.
pub(super) struct GangRun<'a> {
    pub(super) me: Rank,
    /// Where this rank's pieces go, and how the engine is notified of them.
    pub(super) queue: (&'a PieceQueue, &'a EventWait),
    pub(super) link: &'a GangLink,
    pub(super) gang: u32,
    /// All ranks that execute it, the leader first.
    pub(super) ranks: &'a [Rank],
}

impl GangRun<'_> {
    /// Notifies the others that this rank's share has failed. Does nothing if the gang has ended.
    pub(super) fn fail(&self, reason: &str) {
        if self.link.check().is_ok() {
            let round = lock(&self.link.state).round;
            let end = reason.floor_char_boundary(MAX_PIECE_BYTES);
            self.send(round, PieceKind::Failed, &vec![reason.as_bytes()[..end].to_vec(); self.ranks.len()]);
        }
    }

    /// Leaves `outgoing[r]` for the engine, for the rank at place `r`: a piece for each rank in
    /// turn.
    fn send(&self, round: u32, last: PieceKind, outgoing: &[Vec<u8>]) {
        let pieces_of = |bytes: &Vec<u8>| bytes.len().div_ceil(MAX_PIECE_BYTES).max(1);
        let most = outgoing.iter().map(pieces_of).max().unwrap_or(0);
        let places = || (1..self.ranks.len()).map(|step| (self.place() + step) % self.ranks.len());
        let all = (0..most).flat_map(|number| places().map(move |place| (number, place)));
        let queued = all.filter(|&(number, place)| number < pieces_of(&outgoing[place])).map(|(number, place)| {
            let bytes = &outgoing[place];
            let end = bytes.len().min((number + 1) * MAX_PIECE_BYTES);
            let kind = if number + 1 == pieces_of(bytes) { last } else { PieceKind::More };
            let piece = Piece {
                stream: PieceStream::Gang(self.gang),
                round,
                kind,
                bytes: &bytes[number * MAX_PIECE_BYTES..end],
            };
            (self.ranks[place], piece)
        });
        let (pieces, event_wait) = self.queue;
        pieces.add(queued);
        event_wait.notify();
    }
}

impl Peers for GangRun<'_> {
    fn place(&self) -> usize {
        self.ranks.iter().position(|&rank| rank == self.me).unwrap_or(0)
    }

    fn ranks(&self) -> &[Rank] {
        self.ranks
    }

    fn number(&self) -> u32 {
        self.gang
    }

    fn swap(&self, mut outgoing: Vec<Vec<u8>>, is_cancelled: &dyn Fn() -> bool) -> Result<Vec<Vec<u8>>, Stopped> {
        let place = self.place();
        let _awaiting = self.queue.0.await_pieces();
        let own = outgoing.get_mut(place).map(std::mem::take).unwrap_or_default();
        let mut state = lock(&self.link.state);
        let round = state.round;
        state.round += 1;
        drop(state);
        self.send(round, PieceKind::Last, &outgoing);
        drop(outgoing);
        let mut state = lock(&self.link.state);
        loop {
            if let Some(mut incoming) = state.take(self.me, self.ranks)? {
                incoming[place] = own;
                return Ok(incoming);
            }
            if is_cancelled() {
                return Err(Stopped::Cancelled);
            }
            let waited = self.link.changed.wait_timeout(state, CANCEL_POLL_INTERVAL);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    fn check(&self) -> Result<(), Stopped> {
        self.link.check()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OTHERS: [Rank; 3] = [Rank(0), Rank(1), Rank(2)];

    fn piece(round: u32, kind: PieceKind, bytes: &[u8]) -> Piece<'_> {
        Piece { stream: PieceStream::Gang(1), round, kind, bytes }
    }

    fn take(link: &GangLink) -> Result<Option<Vec<Vec<u8>>>, Stopped> {
        lock(&link.state).take(Rank(1), &OTHERS)
    }

    #[test]
    fn a_round_is_complete_when_all_others_have_sent_it() {
        let link = GangLink::default();
        link.receive(Rank(0), piece(0, PieceKind::More, b"ab"));
        link.receive(Rank(2), piece(0, PieceKind::Last, b""));
        assert_eq!(take(&link), Ok(None));
        link.receive(Rank(0), piece(0, PieceKind::Last, b"c"));
        link.receive(Rank(0), piece(1, PieceKind::Last, b"next"));
        assert_eq!(take(&link), Ok(Some(vec![b"abc".to_vec(), Vec::new(), Vec::new()])));
        assert_eq!(take(&link), Ok(None), "rank 2 has not sent the next round");
    }

    #[test]
    fn a_failure_counts_where_bytes_are_missing() {
        let link = GangLink::default();
        link.receive(Rank(0), piece(0, PieceKind::Last, b"a"));
        link.receive(Rank(0), piece(1, PieceKind::Failed, b"disk full"));
        assert_eq!(take(&link), Ok(None), "its bytes of this round are here");
        link.receive(Rank(2), piece(0, PieceKind::Last, b"b"));
        assert!(take(&link).unwrap().is_some());
        assert_eq!(take(&link), Err(Stopped::Lost("rank 0 has failed: disk full".to_owned())));
    }

    #[test]
    fn a_lost_rank_and_a_release_end_the_exchange() {
        let link = GangLink::default();
        assert!(link.check().is_ok() && !link.has_lost_rank());
        link.close();
        assert_eq!(take(&link), link.check().map(|()| None));
        link.lose(Rank(2));
        assert!(link.has_lost_rank() && take(&link).unwrap_err().to_string().contains("rank 2 is lost"));
    }

    #[test]
    fn what_is_out_of_order_is_refused() {
        for (rounds, what) in
            [(vec![1], "a later round"), (vec![0, 1, 2], "more rounds than can be"), (vec![0, 0], "twice")]
        {
            let link = GangLink::default();
            rounds.iter().for_each(|&round| link.receive(Rank(0), piece(round, PieceKind::Last, b"x")));
            let failure = lock(&link.state).inboxes[&Rank(0)].failure.clone();
            assert!(failure.is_some_and(|text| text.contains("another round")), "{what}");
        }
    }
}
