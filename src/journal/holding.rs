//! What a session held and what it cost: each rank with its node and its period, derived from the
//! records.
//!
//! Ranks that are on one node at the same time are billed as one node, from the start of the first
//! to the end of the last. A node that came as a block is billed from the block's grant to its end,
//! as its provider reports them, because its ranks arrive later and leave earlier.

use std::collections::BTreeMap;
use std::time::Duration;

use super::record::{BlockChange, SiteRequest};
use super::replay::{Replay, Session};
use crate::model::{RankState, Time, total};
use crate::scale::{NodeTypeId, Prices};

/// A rank's part in a session.
#[derive(Clone, Debug, PartialEq)]
pub struct Holding {
    /// The rank, by number.
    pub rank: u32,
    /// Its node.
    pub node: String,
    /// The type of its node.
    pub node_type: NodeTypeId,
    /// Its slots.
    pub slots: u32,
    /// Start of its billing.
    pub from: Time,
    /// End of its billing.
    pub to: Time,
    /// When it first became active, if it did.
    pub joined: Option<Time>,
    /// Total time for which it was active; the rest of the time it was starting, draining or
    /// parked.
    pub active: Duration,
}

/// A period in which a session held a node. A node that was released and gained again has several.
#[derive(Clone, Debug, PartialEq)]
pub struct NodeHolding {
    /// The node.
    pub node: String,
    /// The block that it belongs to, if any.
    pub block: Option<u64>,
    /// Its type.
    pub node_type: NodeTypeId,
    /// Start of its billing.
    pub from: Time,
    /// End of its billing.
    pub to: Time,
    /// Active time of its most active rank.
    pub active: Duration,
    /// Its ranks, by number.
    pub ranks: Vec<u32>,
}

/// A rank's state while its records are read.
struct RankProgress {
    holding: Holding,
    state: RankState,
    since: Time,
    /// It began with the session, so its node is held until the session ends, even if it is lost.
    is_first: bool,
}

impl RankProgress {
    fn advance(&mut self, time: Time, state: RankState) {
        if matches!(self.state, RankState::Active) {
            self.holding.active += time.since(self.since);
        }
        if state == RankState::Active {
            self.holding.joined.get_or_insert(time);
        }
        let gone = |state| matches!(state, RankState::Left | RankState::Lost);
        let is_held = self.is_first && state == RankState::Lost;
        if gone(state) && !gone(self.state) && !is_held {
            self.holding.to = time;
        }
        (self.state, self.since) = (state, time.max(self.since));
    }
}

impl Session {
    /// Returns the part of each rank, up to `end`.
    pub fn holdings(&self, end: Time) -> Vec<Holding> {
        let mut ranks_seen: BTreeMap<u32, RankProgress> = BTreeMap::new();
        let begins = |rank: u32, node: &str, node_type, slots, from, state: RankState| {
            let node = node.to_owned();
            let joined = (state == RankState::Active).then_some(from);
            let holding = Holding { rank, node, node_type, slots, from, to: end, joined, active: Duration::ZERO };
            RankProgress { holding, state, since: from, is_first: state == RankState::Active }
        };
        for info in &self.began.ranks {
            let progress = begins(info.rank, &info.node, NodeTypeId(0), info.slots, Time::ZERO, RankState::Active);
            ranks_seen.insert(info.rank, progress);
        }
        for change in &self.ranks {
            let (info, from) = (&change.info, change.billed_since);
            let progress = ranks_seen.entry(info.rank).or_insert_with(|| {
                begins(info.rank, &info.node, change.node_type, info.slots, from, RankState::Joining)
            });
            progress.advance(change.time, change.state);
        }
        let last = |mut progress: RankProgress| {
            let state = progress.state;
            progress.advance(end, state);
            progress.holding
        };
        ranks_seen.into_values().map(last).collect()
    }

    /// Returns the periods of all nodes up to `end`, ordered by time.
    pub fn nodes(&self, end: Time) -> Vec<NodeHolding> {
        let blocks: BTreeMap<u64, &BlockChange> = self.blocks.iter().map(|change| (change.block, change)).collect();
        let node_type = |block: u64| {
            let request = self.site_requests.iter().find(|request| request.blocks.contains(&block));
            request.and_then(SiteRequest::asked).map_or(NodeTypeId(0), |site| site.node_type)
        };
        let held = blocks.values().filter_map(|block| NodeHolding::of(block, node_type(block.block), end));
        let mut nodes: Vec<NodeHolding> = held.collect();
        for rank in self.holdings(end) {
            let block = blocks.values().find(|block| block.ranks.contains(&rank.rank)).map(|block| block.block);
            match nodes.iter_mut().find(|node| node.holds(&rank, block)) {
                Some(node) => node.add(&rank),
                None => nodes.push(NodeHolding::from(rank)),
            }
        }
        nodes.sort_by_key(|node| (node.from, node.block));
        nodes
    }

    /// As [`Session::nodes`], without those that the launcher provided to a session that has ended
    /// and in which no task ran: whoever continues a run that is complete pays nothing for it.
    pub fn billed_nodes(&self, end: Time) -> Vec<NodeHolding> {
        let is_unused = self.ended.is_some() && self.attempts.is_empty();
        let mut nodes = self.nodes(end);
        nodes.retain(|node| !is_unused || node.block.is_some());
        nodes
    }

    /// Returns the cost of its nodes up to `end`.
    pub fn bill(&self, prices: &Prices, end: Time) -> f64 {
        total(self.billed_nodes(end).iter().map(|node| prices.bill(node.node_type, node.from, node.to)))
    }
}

impl NodeHolding {
    /// Returns the node of a block, if it ever had one.
    fn of(block: &BlockChange, node_type: NodeTypeId, end: Time) -> Option<NodeHolding> {
        let from = block.granted?;
        let to = block.ended.unwrap_or(end).max(from);
        let node = block.node.clone();
        let (active, ranks) = (Duration::ZERO, Vec::new());
        Some(NodeHolding { node, block: Some(block.block), node_type, from, to, active, ranks })
    }

    /// True if a rank that belongs to `block` is on this node.
    fn holds(&self, rank: &Holding, block: Option<u64>) -> bool {
        let together = self.from <= rank.to && rank.from <= self.to;
        self.block == block && (block.is_some() || (self.node == rank.node && together))
    }

    /// Adds a rank to the node.
    fn add(&mut self, rank: &Holding) {
        self.active = self.active.max(rank.active);
        self.ranks.push(rank.rank);
        self.node_type = rank.node_type;
        if self.block.is_none() {
            (self.from, self.to) = (self.from.min(rank.from), self.to.max(rank.to));
        }
    }
}

impl From<Holding> for NodeHolding {
    fn from(rank: Holding) -> NodeHolding {
        let Holding { rank, node, node_type, from, to, active, .. } = rank;
        NodeHolding { node, block: None, node_type, from, to, active, ranks: vec![rank] }
    }
}

impl Replay {
    /// Total cost of all sessions whose terms are recorded.
    pub fn spent(&self) -> f64 {
        let bill = |session: &Session| Some(session.bill(&session.terms.as_ref()?.prices, session.last_heard()));
        self.sessions.iter().filter_map(bill).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::job::Cost;
    use crate::journal::replay::tests::{began, replayed};
    use crate::journal::{RankChange, RankInfo, Record};
    use crate::model::BlockState;

    fn change(rank: u32, state: RankState, second: u64, granted: u64) -> Record {
        let info = RankInfo { rank, node: format!("n{rank}"), slots: 4, pid: 0 };
        let time = |s: u64| Time(s * 1_000_000_000);
        let (time, billed_since) = (time(second), time(granted));
        Record::Rank(RankChange { time, info, node_type: NodeTypeId(0), state, billed_since })
    }

    #[test]
    fn a_node_is_billed_from_its_grant_and_active_from_its_first_tasks() {
        let records = [
            began(1),
            change(2, RankState::Joining, 10, 10),
            change(2, RankState::Active, 30, 10),
            change(2, RankState::Draining, 60, 10),
            change(2, RankState::Left, 70, 10),
        ];
        let replay = replayed(&records);
        let session = replay.last_session().unwrap();
        let end = Time(100_000_000_000);
        let nodes = session.nodes(end);
        let seconds = |node: &NodeHolding| (node.to.since(node.from).as_secs(), node.active.as_secs());
        assert_eq!(nodes.iter().map(seconds).collect::<Vec<_>>(), [(100, 100), (60, 30)]);
        let cost = Cost { node_hour: 3600.0, ..Cost::default() };
        assert_eq!(session.bill(&Prices::of_job(&cost, 4), end), 160.0);
    }
    #[test]
    fn a_node_that_comes_twice_is_billed_twice_and_not_in_between() {
        let again = |rank: u32, second: u64, state| {
            let Record::Rank(change) = change(rank, state, second, if rank == 2 { 10 } else { 60 }) else {
                unreachable!()
            };
            Record::Rank(RankChange { info: RankInfo { node: "n2".into(), ..change.info }, ..change })
        };
        let records = [
            began(1),
            again(2, 10, RankState::Active),
            again(2, 20, RankState::Left),
            again(3, 60, RankState::Active),
            again(3, 90, RankState::Left),
        ];
        let nodes = replayed(&records).last_session().unwrap().nodes(Time(100_000_000_000));
        assert_eq!(nodes.iter().map(|node| node.to.since(node.from).as_secs()).collect::<Vec<_>>(), [100, 10, 30]);
    }

    #[test]
    fn a_block_is_billed_from_its_grant_to_its_end_whenever_its_ranks_come_and_go() {
        let time = |s: u64| Time(s * 1_000_000_000);
        let block = |state, ended: Option<u64>| {
            Record::Block(BlockChange {
                time: time(90),
                block: 1,
                state,
                name: "job 7".into(),
                node: "n2".into(),
                ranks: 2..3,
                asked: time(1),
                granted: Some(time(8)),
                ended: ended.map(time),
            })
        };
        let of = |records: &[Record]| {
            let nodes = replayed(records).last_session().unwrap().nodes(time(100));
            let seconds = |node: &NodeHolding| (node.block, node.to.since(node.from).as_secs(), node.active.as_secs());
            nodes.iter().map(seconds).collect::<Vec<_>>()
        };
        let ranks = [
            began(1),
            change(2, RankState::Joining, 10, 8),
            change(2, RankState::Active, 20, 8),
            change(2, RankState::Left, 50, 8),
        ];
        let with = |last: &[Record]| [&ranks[..], last].concat();
        let held = block(BlockState::Held, None);
        assert_eq!(of(&with(std::slice::from_ref(&held))), [(None, 100, 100), (Some(1), 92, 30)]);
        let released = block(BlockState::Released, Some(60));
        assert_eq!(of(&with(&[held, released])), [(None, 100, 100), (Some(1), 52, 30)]);
    }
}
