//! A fabric between threads of one process, for tests of whole runs without MPI.

use std::sync::mpsc::{Receiver, Sender, TryRecvError, channel};

use super::{Fabric, FabricError};
use crate::model::Rank;

/// One rank's end of a fabric between threads.
pub struct LocalFabric {
    me: Rank,
    peers: Vec<Sender<(Rank, Vec<u8>)>>,
    inbox: Receiver<(Rank, Vec<u8>)>,
}

/// The ends of a fabric of `size` ranks, in order of rank.
pub fn world(size: u32) -> Vec<LocalFabric> {
    let (peers, inboxes): (Vec<_>, Vec<_>) = (0..size).map(|_| channel()).unzip();
    let end = |(rank, inbox)| LocalFabric { me: Rank(rank as u32), peers: peers.clone(), inbox };
    inboxes.into_iter().enumerate().map(end).collect()
}

impl Fabric for LocalFabric {
    fn me(&self) -> Rank {
        self.me
    }

    fn size(&self) -> u32 {
        self.peers.len() as u32
    }

    fn send(&mut self, to: Rank, frame: &mut Vec<u8>) -> Result<(), FabricError> {
        let peer = self.peers.get(to.index()).ok_or(FabricError::NoSuchRank(to))?;
        peer.send((self.me, std::mem::take(frame))).map_err(|_| FabricError::Gone(to))
    }

    fn receive(&mut self, frame: &mut Vec<u8>) -> Result<Option<Rank>, FabricError> {
        match self.inbox.try_recv() {
            Ok((from, came)) => {
                *frame = came;
                Ok(Some(from))
            }
            Err(TryRecvError::Empty) => Ok(None),
            // The rank holds a sender to itself, so its inbox never closes.
            Err(TryRecvError::Disconnected) => Err(FabricError::Gone(self.me)),
        }
    }

    fn drained(&mut self) -> bool {
        true
    }
}
