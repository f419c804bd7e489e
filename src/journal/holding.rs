//! What a session held and what that costs: each rank with its node, from when to when, worked out from the records.
//!
//! Several ranks that were granted a node together are billed as one node, from the first of them to the last. A node that is granted twice,
//! as to two blocks, is billed twice.

use std::collections::BTreeMap;
use std::time::Duration;

use super::replay::{Replay, Session};
use crate::model::{RankState, Time};
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
    /// From when it is billed.
    pub from: Time,
    /// Until when.
    pub to: Time,
    /// How long it took part in between; the rest of the time it was starting, draining or parked.
    pub active: Duration,
}

/// A node's part in a session.
#[derive(Clone, Debug, PartialEq)]
pub struct NodeHolding {
    /// Its type.
    pub node_type: NodeTypeId,
    /// From when it is billed.
    pub from: Time,
    /// Until when.
    pub to: Time,
    /// How long its most active rank took part.
    pub active: Duration,
}

/// A rank's story while it is read.
struct Story {
    holding: Holding,
    state: RankState,
    since: Time,
}

impl Story {
    fn goes_on(&mut self, time: Time, state: RankState) {
        if matches!(self.state, RankState::Active) {
            self.holding.active += time.since(self.since);
        }
        let gone = |state| matches!(state, RankState::Left | RankState::Lost);
        if gone(state) && !gone(self.state) {
            self.holding.to = time;
        }
        (self.state, self.since) = (state, time.max(self.since));
    }
}

impl Session {
    /// What each rank held until `end`.
    pub fn holdings(&self, end: Time) -> Vec<Holding> {
        let mut stories: BTreeMap<u32, Story> = BTreeMap::new();
        let begins = |rank: u32, node: &str, node_type, slots, from, state| {
            let node = node.to_owned();
            let holding = Holding { rank, node, node_type, slots, from, to: end, active: Duration::ZERO };
            Story { holding, state, since: from }
        };
        for info in &self.began.ranks {
            let story = begins(info.rank, &info.node, NodeTypeId(0), info.slots, Time::ZERO, RankState::Active);
            stories.insert(info.rank, story);
        }
        for change in &self.ranks {
            let (info, from) = (&change.info, change.billed_since);
            let story = stories.entry(info.rank).or_insert_with(|| {
                begins(info.rank, &info.node, change.node_type, info.slots, from, RankState::Joining)
            });
            story.goes_on(change.time, change.state);
        }
        let last = |mut story: Story| {
            let state = story.state;
            story.goes_on(end, state);
            story.holding
        };
        stories.into_values().map(last).collect()
    }

    /// What each node was held until `end`.
    pub fn nodes(&self, end: Time) -> Vec<NodeHolding> {
        let mut nodes: BTreeMap<(String, Time), NodeHolding> = BTreeMap::new();
        for rank in self.holdings(end) {
            let Holding { node, node_type, from, to, active, .. } = rank;
            let known = nodes.entry((node, from)).or_insert(NodeHolding { node_type, from, to, active });
            (known.to, known.active) = (known.to.max(to), known.active.max(active));
        }
        nodes.into_values().collect()
    }

    /// What its nodes cost until `end`.
    pub fn bill(&self, prices: &Prices, end: Time) -> f64 {
        self.nodes(end).iter().map(|node| prices.bill(node.node_type, node.from, node.to)).sum()
    }
}

impl Replay {
    /// What all sessions cost whose terms are known.
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
}
