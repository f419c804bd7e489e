//! Routes frames inside a world and between the worlds of a run.
//!
//! Ranks that join a run later are in MPI worlds of their own. Frames inside a world use the
//! world's own fabric. All other frames go through rank 0:
//!
//! - rank 0 has a link to each rank that joined, and forwards frames between them and others;
//! - the other ranks of rank 0's world wrap a frame for a joined rank in an *envelope*, which names
//!   sender and receiver, and send it to rank 0;
//! - a rank that joined has one link, to rank 0, for every frame that leaves its own world.
//!
//! While much waits on a link of rank 0, rank 0 receives nothing: ranks may send faster than a link
//! carries what they send.
//!
//! All frames between two ranks take the same path and keep their order. Frames for a rank that has
//! left are dropped; the coordinator decides whether a rank has left, and announces it in messages.
//!
//! There are no direct links between joined ranks: partition and work stealing prefer near ranks,
//! so such traffic is small, and every pair of ranks would need a secret, an open port and its own
//! error handling.

use std::os::fd::OwnedFd;
use std::time::Duration;

use super::near::NearLane;
use super::{Alone, Fabric, FabricError};
use crate::model::Rank;

/// First byte of an envelope; no frame begins with it.
const ENVELOPE: u8 = 0xA9;

/// Bytes of an envelope before the frame in it.
const HEADER_BYTES: usize = 9;

/// A frame that is forwarded, with sender and receiver.
#[derive(Debug)]
pub struct Passed {
    /// The sender.
    pub from: Rank,
    /// The receiver.
    pub to: Rank,
    /// The content.
    pub frame: Vec<u8>,
}

/// The connection from a world to other worlds.
pub trait Outside: Send {
    /// Sends a frame without waiting. A frame for a rank that has left is dropped.
    fn send(&mut self, from: Rank, to: Rank, frame: &[u8]);

    /// Returns the next frame that has arrived, if any.
    ///
    /// # Errors
    /// If no frame can arrive any more.
    fn receive(&mut self) -> Result<Option<Passed>, FabricError>;

    /// True once every frame sent has left.
    fn drained(&mut self) -> bool;

    /// True while so much waits to leave that nothing more should be forwarded.
    fn is_full(&mut self) -> bool {
        false
    }

    /// True if two heartbeats are overdue.
    fn is_silent(&self) -> bool {
        false
    }

    /// Sends no further frames: delivers those under way and closes the connections, within
    /// `limit`.
    fn close(&mut self, limit: Duration);
}

/// A fabric that routes frames to the inner world or to other worlds by the receiver's rank number.
pub struct RoutedFabric {
    inner: Box<dyn Fabric>,
    /// Number of the inner world's first rank; the others follow consecutively.
    first: u32,
    count: u32,
    /// Rank 0's links, or the link to rank 0; other ranks of the first world have none.
    outside: Option<Box<dyn Outside>>,
}

impl RoutedFabric {
    /// Makes the fabric of a rank whose world has the rank numbers from `first` on.
    pub fn new(inner: Box<dyn Fabric>, first: Rank, outside: Option<Box<dyn Outside>>) -> RoutedFabric {
        RoutedFabric { first: first.0, count: inner.size(), inner, outside }
    }

    fn is_full(&mut self) -> bool {
        self.outside.as_mut().is_some_and(|outside| outside.is_full())
    }

    fn is_inside(&self, rank: Rank) -> bool {
        rank.0.wrapping_sub(self.first) < self.count
    }

    fn post(&mut self, from: Rank, to: Rank, frame: &[u8]) -> Result<(), FabricError> {
        let mut envelope = Vec::with_capacity(HEADER_BYTES + frame.len());
        envelope.push(ENVELOPE);
        envelope.extend_from_slice(&from.0.to_le_bytes());
        envelope.extend_from_slice(&to.0.to_le_bytes());
        envelope.extend_from_slice(frame);
        let to = if self.is_inside(to) { Rank(to.0 - self.first) } else { Rank::ZERO };
        self.inner.send(to, &mut envelope)
    }

    /// Forwards a frame from another world to its receiver. Returns true if that is this rank.
    fn pass_on(&mut self, from: Rank, to: Rank, frame: &[u8]) -> Result<bool, FabricError> {
        let (me, is_hub) = (self.me(), self.first == 0 && self.outside.is_some());
        if to == me {
            return Ok(true);
        }
        if self.is_inside(to) {
            self.post(from, to, frame)?;
        } else if let Some(outside) = self.outside.as_mut().filter(|_| is_hub) {
            outside.send(from, to, frame);
        } else {
            tracing::error!(%from, %to, "dropped a frame that cannot be routed");
        }
        Ok(false)
    }

    /// Unwraps an envelope into `frame`. Returns the sender if this rank is the receiver.
    #[cold]
    fn open(&mut self, frame: &mut Vec<u8>) -> Result<Option<Rank>, FabricError> {
        let Some((header, content)) = frame.split_first_chunk::<HEADER_BYTES>() else {
            tracing::error!("dropped a truncated envelope");
            return Ok(None);
        };
        let word = |at: usize| u32::from_le_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]);
        let (from, to) = (Rank(word(1)), Rank(word(5)));
        let mine = self.pass_on(from, to, content)?;
        frame.drain(..HEADER_BYTES);
        Ok(mine.then_some(from))
    }
}

impl Fabric for RoutedFabric {
    fn me(&self) -> Rank {
        Rank(self.first + self.inner.me().0)
    }

    fn size(&self) -> u32 {
        self.first + self.count
    }

    #[inline]
    fn send(&mut self, to: Rank, frame: &mut Vec<u8>) -> Result<(), FabricError> {
        if self.is_inside(to) {
            return self.inner.send(Rank(to.0 - self.first), frame);
        }
        if frame.len() > super::wire::MOST {
            return Err(FabricError::TooLarge { to, size: frame.len(), limit: super::wire::MOST });
        }
        let me = self.me();
        match &mut self.outside {
            Some(outside) => outside.send(me, to, frame),
            None => self.post(me, to, &std::mem::take(frame))?,
        }
        frame.clear();
        Ok(())
    }

    #[inline]
    fn receive(&mut self, frame: &mut Vec<u8>) -> Result<Option<Rank>, FabricError> {
        while !self.is_full()
            && let Some(from) = self.inner.receive(frame)?
        {
            if frame.first() != Some(&ENVELOPE) {
                return Ok(Some(Rank(self.first + from.0)));
            }
            if let Some(from) = self.open(frame)? {
                return Ok(Some(from));
            }
        }
        while !self.is_full()
            && let Some(outside) = &mut self.outside
            && let Some(passed) = outside.receive()?
        {
            if self.pass_on(passed.from, passed.to, &passed.frame)? {
                *frame = passed.frame;
                return Ok(Some(passed.from));
            }
        }
        Ok(None)
    }

    fn drained(&mut self) -> bool {
        self.inner.drained() && self.outside.as_mut().is_none_or(|outside| outside.drained())
    }

    fn is_cut_off(&self) -> bool {
        self.outside.as_ref().is_some_and(|outside| outside.is_silent())
    }

    fn lost(&self) -> Vec<Rank> {
        self.inner.lost().into_iter().map(|rank| Rank(self.first + rank.0)).collect()
    }

    fn give_up(&mut self, rank: Rank) -> bool {
        self.is_inside(rank) && self.inner.give_up(Rank(rank.0 - self.first))
    }

    fn ended_neighbours(&self) -> Vec<Rank> {
        self.inner.ended_neighbours().into_iter().map(|rank| Rank(self.first + rank.0)).collect()
    }

    fn bell(&self) -> Option<OwnedFd> {
        self.inner.bell()
    }

    fn bell_is_enough(&self) -> bool {
        self.inner.bell_is_enough()
    }

    fn near(&self) -> Option<NearLane> {
        self.inner.near().map(|lane| lane.renumbered(Rank(self.first)))
    }

    fn doze(&mut self) {
        self.inner.doze();
    }

    fn is_moving(&mut self) -> bool {
        // Frames on a link are moved by the link's own threads, which do not announce that it has
        // room again.
        self.inner.is_moving() || self.is_full()
    }

    fn end_round(&mut self, limit: Duration) -> Result<(), FabricError> {
        self.inner.end_round(limit)
    }

    fn abandon(&mut self) {
        self.inner.abandon();
    }

    fn close(&mut self, limit: Duration) -> Option<Box<dyn Fabric>> {
        if let Some(mut outside) = self.outside.take() {
            outside.close(limit);
        }
        Some(std::mem::replace(&mut self.inner, Box::new(Alone)))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
    use std::sync::mpsc::{Receiver, Sender, channel};

    use super::*;
    use crate::fabric::local;

    /// A link between threads.
    struct Wire(Vec<Sender<Passed>>, Receiver<Passed>, u32, Arc<AtomicBool>);

    impl Outside for Wire {
        fn send(&mut self, from: Rank, to: Rank, frame: &[u8]) {
            let way = (to.0 as usize).checked_sub(self.2 as usize).filter(|_| self.2 > 0).unwrap_or(0);
            if let Some(way) = self.0.get(way) {
                let _ = way.send(Passed { from, to, frame: frame.to_vec() });
            }
        }

        fn receive(&mut self) -> Result<Option<Passed>, FabricError> {
            Ok(self.1.try_recv().ok())
        }

        fn drained(&mut self) -> bool {
            true
        }

        fn is_full(&mut self) -> bool {
            self.3.load(SeqCst)
        }

        fn close(&mut self, _: Duration) {}
    }

    fn take(fabric: &mut RoutedFabric) -> Option<(Rank, Vec<u8>)> {
        let mut frame = Vec::new();
        fabric.receive(&mut frame).unwrap().map(|from| (from, frame))
    }

    /// Ranks 0 and 1 start together, 2 and 3 join alone. Every rank reaches every other, in order.
    #[test]
    fn all_ranks_reach_each_other() {
        let (to_hub, hub_in) = channel();
        let (ways, ins): (Vec<_>, Vec<_>) = (0..2).map(|_| channel()).unzip();
        let mut base = local::world(2).into_iter();
        let mut inner = || Box::new(base.next().unwrap());
        let mut ranks = vec![
            RoutedFabric::new(inner(), Rank(0), Some(Box::new(Wire(ways, hub_in, 2, Arc::default())))),
            RoutedFabric::new(inner(), Rank(0), None),
        ];
        for (first, came) in (2..).zip(ins) {
            let wire = Wire(vec![to_hub.clone()], came, 0, Arc::default());
            ranks.push(RoutedFabric::new(Box::new(Alone), Rank(first), Some(Box::new(wire))));
        }
        for (number, from) in (0..4u32).flat_map(|from| (0..4u32).map(move |to| (from, to))).filter(|(a, b)| a != b) {
            let (from, to) = (number as usize, from);
            for turn in 0..3u8 {
                ranks[from].send(Rank(to), &mut vec![0xA7, turn]).unwrap();
            }
            let mut came = Vec::new();
            for _ in 0..4 {
                for (at, rank) in ranks.iter_mut().enumerate() {
                    while let Some(frame) = take(rank) {
                        assert_eq!(at, to as usize);
                        came.push(frame);
                    }
                }
            }
            let expected: Vec<_> = (0..3u8).map(|turn| (Rank(from as u32), vec![0xA7, turn])).collect();
            assert_eq!(came, expected, "{from} to {to}");
        }
        ranks[1].send(Rank(9), &mut vec![0xA7]).unwrap();
        assert!(ranks.iter_mut().all(|rank| take(rank).is_none()), "a frame for an unknown rank is dropped");
    }

    #[test]
    fn rank_0_receives_nothing_while_a_link_is_full() {
        let (way, out) = channel();
        let (to_hub, hub_in) = channel();
        let is_full = Arc::new(AtomicBool::new(true));
        let mut base = local::world(2).into_iter();
        let mut inner = || Box::new(base.next().unwrap());
        let wire = Wire(vec![way], hub_in, 2, Arc::clone(&is_full));
        let mut hub = RoutedFabric::new(inner(), Rank(0), Some(Box::new(wire)));
        let mut other = RoutedFabric::new(inner(), Rank(0), None);
        other.send(Rank(2), &mut vec![0xAA, 1]).unwrap();
        other.send(Rank(0), &mut vec![0xAA, 2]).unwrap();
        to_hub.send(Passed { from: Rank(2), to: Rank(0), frame: vec![0xAA, 3] }).unwrap();
        assert!(take(&mut hub).is_none() && out.try_recv().is_err() && hub.is_moving());
        is_full.store(false, SeqCst);
        assert_eq!(take(&mut hub), Some((Rank(1), vec![0xAA, 2])));
        assert_eq!(out.try_recv().unwrap().frame, [0xAA, 1]);
        assert_eq!(take(&mut hub), Some((Rank(2), vec![0xAA, 3])));
        assert!(!hub.is_moving());
    }
}
