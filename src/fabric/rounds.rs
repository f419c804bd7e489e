//! Several rounds (runs) in sequence on one fabric, so that no frame of one round is taken for a
//! frame of the next.
//!
//! A rank ends its round by sending an empty frame to every other rank and waits for theirs. Frames
//! between two ranks keep their order: frames before a rank's empty frame belong to the round that
//! it has ended, and frames after it belong to the next round and are kept until this rank starts
//! it. No message is empty, so an empty frame is unambiguous.

use std::collections::VecDeque;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use super::near::NearLane;
use super::{Fabric, FabricError};
use crate::model::Rank;

/// Poll interval of a rank that waits for the others.
const POLL_INTERVAL: Duration = Duration::from_micros(100);

/// A fabric whose frames belong to rounds.
pub struct Rounds {
    inner: Box<dyn Fabric>,
    /// For each rank, whether it has ended this round.
    ended: Vec<bool>,
    /// Frames that arrived before this round began and have not been delivered.
    again: VecDeque<(Rank, Vec<u8>)>,
    /// Frames from ranks that have ended this round.
    early: VecDeque<(Rank, Vec<u8>)>,
}

impl Rounds {
    /// Wraps a fabric. All ranks must do so.
    pub fn new(inner: Box<dyn Fabric>) -> Rounds {
        let ended = vec![false; inner.size() as usize];
        Rounds { inner, ended, again: VecDeque::new(), early: VecDeque::new() }
    }

    /// A rank that has not ended this round. A lost one never will.
    fn missing(&self) -> Option<Rank> {
        let (me, lost) = (self.me(), self.inner.lost());
        let is_missing = |rank: &Rank| *rank != me && !self.ended[rank.index()] && !lost.contains(rank);
        (0..self.size()).map(Rank).find(is_missing)
    }
}

impl Fabric for Rounds {
    fn me(&self) -> Rank {
        self.inner.me()
    }

    fn size(&self) -> u32 {
        self.inner.size()
    }

    fn send(&mut self, to: Rank, frame: &mut Vec<u8>) -> Result<(), FabricError> {
        debug_assert!(!frame.is_empty());
        self.inner.send(to, frame)
    }

    #[inline]
    fn receive(&mut self, frame: &mut Vec<u8>) -> Result<Option<Rank>, FabricError> {
        loop {
            let next = match self.again.pop_front() {
                Some((from, kept)) => {
                    *frame = kept;
                    Some(from)
                }
                None => self.inner.receive(frame)?,
            };
            let Some(from) = next else { return Ok(None) };
            let Some(ended) = self.ended.get_mut(from.index()) else { return Err(FabricError::NoSuchRank(from)) };
            if *ended {
                self.early.push_back((from, std::mem::take(frame)));
            } else if frame.is_empty() {
                *ended = true;
            } else {
                return Ok(Some(from));
            }
        }
    }

    fn drained(&mut self) -> bool {
        self.inner.drained()
    }

    fn lost(&self) -> Vec<Rank> {
        self.inner.lost()
    }

    fn give_up(&mut self, rank: Rank) -> bool {
        self.inner.give_up(rank)
    }

    fn ended_neighbours(&self) -> Vec<Rank> {
        self.inner.ended_neighbours()
    }

    fn bell(&self) -> Option<OwnedFd> {
        self.inner.bell()
    }

    fn bell_is_enough(&self) -> bool {
        self.inner.bell_is_enough()
    }

    fn near(&self) -> Option<NearLane> {
        self.inner.near()
    }

    fn doze(&mut self) {
        self.inner.doze();
    }

    fn is_moving(&mut self) -> bool {
        self.inner.is_moving()
    }

    fn end_round(&mut self, limit: Duration) -> Result<(), FabricError> {
        let me = self.me();
        for rank in (0..self.size()).map(Rank).filter(|&rank| rank != me) {
            self.inner.send(rank, &mut Vec::new())?;
        }
        let (due, mut dropped) = (Instant::now() + limit, Vec::new());
        // `again` must be empty too: it may hold frames of the next round.
        while let Some(missing) = self.missing().or_else(|| self.again.front().map(|(from, _)| *from)) {
            if self.receive(&mut dropped)?.is_none() {
                if Instant::now() > due {
                    return Err(FabricError::Gone(missing));
                }
                std::thread::sleep(POLL_INTERVAL);
            }
        }
        self.again = std::mem::take(&mut self.early);
        self.ended.fill(false);
        Ok(())
    }

    fn abandon(&mut self) {
        self.inner.abandon();
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::fabric::local;

    fn receive(end: &mut Rounds) -> Option<(Rank, Vec<u8>)> {
        let mut frame = Vec::new();
        end.receive(&mut frame).unwrap().map(|from| (from, frame))
    }

    fn world(size: u32) -> Vec<Rounds> {
        local::world(size).into_iter().map(|end| Rounds::new(Box::new(end))).collect()
    }

    /// Sends frames at random times over many rounds and checks that each arrives in its own round
    /// or not at all.
    #[test]
    fn no_frame_crosses_the_end_of_a_round() {
        let ends = world(4);
        std::thread::scope(|scope| {
            for mut end in ends {
                scope.spawn(move || {
                    let mut rng = fastrand::Rng::with_seed(u64::from(end.me().0));
                    for round in 0..200u8 {
                        for _ in 0..rng.u32(0..20) {
                            let to = Rank((end.me().0 + rng.u32(1..4)) % 4);
                            end.send(to, &mut vec![round]).unwrap();
                            if let Some((_, frame)) = receive(&mut end) {
                                assert_eq!(frame, [round]);
                            }
                        }
                        end.end_round(Duration::from_secs(60)).unwrap();
                    }
                });
            }
        });
    }

    #[test]
    fn what_the_next_round_needs_is_kept() {
        let mut ends = world(2);
        let (mut b, mut a) = (ends.pop().unwrap(), ends.pop().unwrap());
        let other = std::thread::spawn(move || {
            b.end_round(Duration::from_secs(60)).unwrap();
            b.send(Rank(0), &mut vec![7]).unwrap();
            b.end_round(Duration::from_secs(60)).unwrap();
        });
        std::thread::sleep(Duration::from_millis(5));
        assert_eq!(receive(&mut a), None);
        a.end_round(Duration::from_secs(60)).unwrap();
        let frame = std::iter::repeat_with(|| receive(&mut a)).flatten().next();
        assert_eq!(frame, Some((Rank(1), vec![7])));
        a.end_round(Duration::from_secs(60)).unwrap();
        other.join().unwrap();
    }

    /// An end of a world that has lost rank 2.
    pub(crate) struct Lossy(pub(crate) local::LocalFabric);

    impl Fabric for Lossy {
        fn me(&self) -> Rank {
            self.0.me()
        }

        fn size(&self) -> u32 {
            self.0.size()
        }

        fn send(&mut self, to: Rank, frame: &mut Vec<u8>) -> Result<(), FabricError> {
            self.0.send(to, frame)
        }

        fn receive(&mut self, frame: &mut Vec<u8>) -> Result<Option<Rank>, FabricError> {
            self.0.receive(frame)
        }

        fn drained(&mut self) -> bool {
            self.0.drained()
        }

        fn lost(&self) -> Vec<Rank> {
            vec![Rank(2)]
        }
    }

    #[test]
    fn a_lost_rank_keeps_no_round_from_ending() {
        let mut ends = local::world(3);
        let _lost = ends.pop();
        let others = ends.into_iter().map(|end| Rounds::new(Box::new(Lossy(end))));
        let rounds = |mut end: Rounds| (0..3).try_for_each(|_| end.end_round(Duration::from_secs(60)));
        std::thread::scope(|scope| {
            let ends: Vec<_> = others.map(|end| scope.spawn(move || rounds(end))).collect();
            ends.into_iter().for_each(|end| end.join().unwrap().unwrap());
        });
    }

    #[test]
    fn a_rank_that_does_not_come_is_named() {
        let mut ends = world(3);
        let error = ends[0].end_round(Duration::from_millis(1)).unwrap_err();
        assert!(matches!(error, FabricError::Gone(Rank(1))), "{error}");
    }
}
