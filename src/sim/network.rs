//! The virtual fabric: message delays.
//!
//! As in the real one, messages between two ranks keep their order, those of different senders do
//! not. A message to the sender itself takes no time.

use fastrand::Rng;
use rustc_hash::FxHashMap;

use super::cluster::Network;
use super::random::{Subject, generator};
use crate::model::{Rank, Time};

/// Computes arrival times from latency and jitter, and keeps the order between two ranks.
#[derive(Debug)]
pub(super) struct NetworkModel {
    network: Network,
    rng: Rng,
    /// Arrival of the last message of each pair whose next message could overtake it.
    last: FxHashMap<(Rank, Rank), Time>,
    /// Number of pairs at which those without a message under way are removed.
    tidy_at: usize,
}

impl NetworkModel {
    pub(super) fn new(network: Network, seed: u64) -> NetworkModel {
        NetworkModel { network, rng: generator(seed, Subject::Network, 0), last: FxHashMap::default(), tidy_at: 1024 }
    }

    /// Arrival time of a message that is sent now.
    pub(super) fn arrival(&mut self, now: Time, from: Rank, to: Rank) -> Time {
        if from == to {
            return now;
        }
        let at = now.after(self.network.latency);
        if self.network.jitter.is_zero() {
            // All delays are equal: no message can overtake another.
            return at;
        }
        let at = at.after(self.network.jitter.mul_f64(self.rng.f64()));
        if self.last.len() >= self.tidy_at {
            self.last.retain(|_, arrives| *arrives > now);
            self.tidy_at = (2 * self.last.len()).max(1024);
        }
        let last = self.last.entry((from, to)).or_insert(at);
        *last = at.max(*last);
        *last
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn a_pair_keeps_its_order_and_different_senders_do_not() {
        let network = Network {
            latency: Duration::from_micros(1),
            jitter: Duration::from_millis(1),
            bandwidth: 1,
            file_system: None,
        };
        let mut post = NetworkModel::new(network, 1);
        let mut last = [Time::ZERO; 2];
        let mut overtaken = false;
        for i in 0..5000u64 {
            let sender = (i % 2) as usize;
            let at = post.arrival(Time(i * 10), Rank(sender as u32 + 1), Rank(0));
            assert!(at >= last[sender] && at > Time(i * 10));
            last[sender] = at;
            overtaken |= at < last[1 - sender];
        }
        assert!(overtaken);
    }
}
