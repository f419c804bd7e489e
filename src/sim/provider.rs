//! The simulated provider: node requests that wait, are granted or fail, and the bill of every
//! node.
//!
//! The node table of a real run (`capacity/nodes`) would not serve here: a simulated request is for
//! many nodes at once and may be granted in part, nodes have types, and bills that have ended are
//! summed once and not at each decision, since a simulated run may have a hundred thousand nodes.
//!
//! A node hosts one rank and has the rank's number. It is billed from its grant until it is given
//! back, its loss is noticed, or the run ends.

use std::time::Duration;

use super::cluster::Cluster;
use super::random::{Subject, generator, waiting};
use crate::model::Time;
use crate::scale::{NodeTypeId, Prices, RequestId, RequestView};

/// A granted node.
#[derive(Clone, Debug, PartialEq)]
pub struct Node {
    /// Its kind.
    pub kind: NodeTypeId,
    /// Time of the request.
    pub asked: Time,
    /// Time of the grant.
    pub granted: Time,
    /// Time when it was given back or lost.
    pub gone: Option<Time>,
    /// Factor by which tasks take longer there.
    pub(super) slowness: f64,
}

/// The answer for one node of a request.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct NodeGranted {
    pub(super) request: RequestId,
    pub(super) at: Time,
    pub(super) granted: bool,
}

/// A loss of a node or of its rank.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Loss {
    /// The whole node goes down, and its bill ends.
    Node,
    /// The rank dies; the node is billed until that is noticed.
    Rank,
}

/// Draws delays, failures and losses of nodes, and keeps their bills.
#[derive(Debug)]
pub(super) struct SimulatedProvider<'a> {
    cluster: &'a Cluster,
    seed: u64,
    requests: Vec<RequestView>,
    made: u64,
    answered: u64,
    nodes: Vec<Node>,
    /// Nodes that have been given back and are not included in `settled` yet.
    released: Vec<u32>,
    settled: f64,
}

impl<'a> SimulatedProvider<'a> {
    pub(super) fn new(cluster: &'a Cluster, seed: u64) -> SimulatedProvider<'a> {
        SimulatedProvider {
            cluster,
            seed,
            requests: Vec::new(),
            made: 0,
            answered: 0,
            nodes: Vec::new(),
            released: Vec::new(),
            settled: 0.0,
        }
    }

    /// Requests nodes, within the limit of their kind. Returns the future answer for each.
    pub(super) fn request(&mut self, now: Time, kind: NodeTypeId, nodes: u32) -> Vec<NodeGranted> {
        let Some(node) = self.cluster.nodes.get(kind.0 as usize) else { return Vec::new() };
        let nodes = nodes.min(self.room(kind));
        if nodes == 0 {
            return Vec::new();
        }
        self.made += 1;
        let id = RequestId(self.made);
        let (node_type, rivals) = (kind, Vec::new());
        self.requests.push(RequestView { id, nodes, node_type, rivals, asked: now, needed: false });
        let draw = |_| {
            self.answered += 1;
            let mut rng = generator(self.seed, Subject::Request, self.answered);
            let at = now.after(node.delay.draw(&mut rng));
            NodeGranted { request: id, at, granted: rng.f64() >= node.failure }
        };
        (0..nodes).map(draw).collect()
    }

    /// Number of further nodes of a kind within its limit.
    pub(super) fn room(&self, kind: NodeTypeId) -> u32 {
        let held = self.nodes.iter().filter(|n| n.kind == kind && n.gone.is_none()).count() as u32;
        let asked: u32 = self.requests.iter().filter(|r| r.node_type == kind).map(|r| r.nodes).sum();
        let limit = self.cluster.nodes.get(kind.0 as usize).map_or(0, |node| node.limit);
        limit.saturating_sub(held + asked)
    }

    /// Withdraws a request: nodes not granted yet will not be.
    pub(super) fn withdraw(&mut self, id: RequestId) {
        self.requests.retain(|request| request.id != id);
    }

    /// Answers for one node when the delay is over. Returns its number and its startup time if it
    /// is granted.
    pub(super) fn answer(&mut self, now: Time, answer: NodeGranted) -> Option<(u32, Duration)> {
        let at = self.requests.iter().position(|request| request.id == answer.request)?;
        let (kind, asked) = (self.requests[at].node_type, self.requests[at].asked);
        self.requests[at].nodes -= 1;
        if self.requests[at].nodes == 0 {
            self.requests.remove(at);
        }
        answer.granted.then(|| self.grant(now, asked, kind))
    }

    /// Adds a node. Returns its number and its startup time.
    pub(super) fn grant(&mut self, now: Time, asked: Time, kind: NodeTypeId) -> (u32, Duration) {
        let number = self.nodes.len() as u32;
        let (node, faults) = (&self.cluster.nodes[kind.0 as usize], &self.cluster.faults);
        let mut rng = generator(self.seed, Subject::Node, u64::from(number));
        let startup = node.startup.draw(&mut rng);
        let slow = if rng.f64() < faults.slow { faults.slow_factor } else { 1.0 };
        self.nodes.push(Node { kind, asked, granted: now, gone: None, slowness: slow / node.speed });
        (number, startup)
    }

    /// When and how a node or its rank will be lost, unless it is given back earlier.
    pub(super) fn loss(&self, number: u32) -> Option<(Time, Loss)> {
        let faults = &self.cluster.faults;
        let mut rng = generator(self.seed ^ 1, Subject::Node, u64::from(number));
        let granted = self.nodes[number as usize].granted;
        let node = waiting(&mut rng, faults.node_loss).map(|after| (granted.after(after), Loss::Node));
        let rank = waiting(&mut rng, faults.rank_loss).map(|after| (granted.after(after), Loss::Rank));
        [node, rank].into_iter().flatten().min_by_key(|loss| loss.0)
    }

    /// Ends the bill of a node.
    pub(super) fn release(&mut self, number: u32, now: Time) {
        let node = &mut self.nodes[number as usize];
        if node.gone.is_none() {
            node.gone = Some(now);
            self.released.push(number);
        }
    }

    /// Ends all bills.
    pub(super) fn close(&mut self, now: Time) {
        (0..self.nodes.len() as u32).for_each(|number| self.release(number, now));
    }

    pub(super) fn node(&self, number: u32) -> &Node {
        &self.nodes[number as usize]
    }

    pub(super) fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    pub(super) fn requests(&self) -> &[RequestView] {
        &self.requests
    }

    /// Bill of all nodes that have been given back.
    pub(super) fn settled(&mut self, prices: &Prices) -> f64 {
        for number in self.released.drain(..) {
            let node = &self.nodes[number as usize];
            self.settled += node.gone.map_or(0.0, |gone| prices.bill(node.kind, node.granted, gone));
        }
        self.settled
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::job::Cost;

    fn cluster() -> Cluster {
        Cluster::parse("[[node]]\nslots = 4\nlimit = 3\ndelay = \"60s\"\nprice = 3600.0\n", "c.toml").unwrap()
    }

    #[test]
    fn requests_keep_the_limit_and_can_be_withdrawn() {
        let cluster = cluster();
        let mut provider = SimulatedProvider::new(&cluster, 1);
        let kind = NodeTypeId(0);
        provider.grant(Time::ZERO, Time::ZERO, kind);
        let answers = provider.request(Time::ZERO, kind, 9);
        assert_eq!((answers.len(), provider.requests()[0].nodes), (2, 2));
        assert!(provider.request(Time::ZERO, kind, 1).is_empty(), "the limit is reached");
        assert_eq!(provider.answer(answers[0].at, answers[0]).map(|granted| granted.0), Some(1));
        provider.withdraw(answers[1].request);
        assert_eq!(provider.answer(answers[1].at, answers[1]), None);
    }

    #[test]
    fn a_bill_runs_from_the_grant_to_the_end() {
        let cluster = cluster();
        let prices = cluster.prices(&Cost::default());
        let mut provider = SimulatedProvider::new(&cluster, 1);
        let second = |s: u64| Time(s * 1_000_000_000);
        provider.grant(second(10), Time::ZERO, NodeTypeId(0));
        provider.grant(second(10), Time::ZERO, NodeTypeId(0));
        provider.release(0, second(15));
        assert_eq!(provider.settled(&prices), 5.0);
        provider.close(second(20));
        assert_eq!(provider.settled(&prices), 15.0);
    }
}
