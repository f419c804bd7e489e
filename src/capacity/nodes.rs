//! The node table: what the provider knows of a node, joined with what the run knows of its ranks.
//!
//! A *world* is a group of ranks that started together. The base world is there from the start and
//! may span nodes. Every other world joins later, on one node: for a block that the run requested,
//! or by hand without a block. World and block are joined once, when the world is admitted.
//!
//! | a joining rank is | event | next | effect |
//! |---|---|---|---|
//! | expected | links under its number | linked | |
//! | linked | all of its world have sent their places | welcomed | |
//! | expected to welcomed | sends its resources | present | the first of a world: its block has joined |
//! | expected to welcomed | sends its resources after its block was withdrawn | unchanged | its provider ends it |
//! | expected to welcomed | does not arrive in time | gone | |
//! | present, of the base world | MPI loses it | gone | |
//! | any | its link ends | gone, with those of its world that never linked | the last of a world: its block has left |
//!
//! The table does no I/O and makes no decisions. Blocks have their own life in [`Blocks`].

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::blocks::{Bill, Block, BlockEvent, BlockId, Blocks, SiteId, State};
use crate::model::{Rank, RankState, Time};

/// All nodes of a run, with the ranks on them.
#[derive(Debug, Default)]
pub struct NodeTable {
    /// The nodes that a provider granted, or that were requested from it.
    pub blocks: Blocks,
    /// By number.
    ranks: Vec<NodeRank>,
    /// The ranks of the base world are the first ones.
    base: u32,
    /// Worlds that joined, oldest first.
    worlds: Vec<JoinedWorld>,
    /// The latest world of each block, as an index into `worlds`.
    by_block: BTreeMap<BlockId, usize>,
}

/// What a rank reports about itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RankFacts {
    /// Its node.
    pub node: String,
    /// Slots that it fills with tasks.
    pub slots: u32,
    /// Its process.
    pub pid: u32,
}

/// A rank of the run.
#[derive(Debug)]
pub struct NodeRank {
    /// What it reported about itself; slots and process are 0 until it is present.
    pub facts: RankFacts,
    /// Time that its slots spent in tasks.
    pub busy: Duration,
    /// Attempts that failed on it.
    pub failures: u32,
    presence: Presence,
    /// Index of its world; `None` for the base world.
    world: Option<usize>,
    /// The bill of its node is counted with this rank.
    pays: bool,
    /// The state that [`NodeTable::state_changes`] reported last.
    reported: Option<RankState>,
}

/// Progress of a rank towards taking part; ordered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Presence {
    Expected,
    Linked,
    Welcomed,
    Present,
    Gone,
}

/// Ranks that joined together, on one node.
#[derive(Debug)]
pub struct JoinedWorld {
    /// Number of its first rank.
    pub first: Rank,
    /// Number of its ranks.
    pub size: u32,
    /// The block that it was started for.
    pub block: Option<BlockId>,
    /// The number of the next rank when the world was last drained because its time was nearly up.
    pub drained_at: Option<Rank>,
    /// One of its ranks took part.
    has_joined: bool,
    /// When it was admitted.
    since: Time,
    /// When its last rank went.
    gone: Option<Time>,
}

impl JoinedWorld {
    /// Its ranks.
    pub fn ranks(&self) -> impl Iterator<Item = Rank> + Clone + use<> {
        (self.first.0..self.first.0 + self.size).map(Rank)
    }
}

/// A rank began to take part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Arrival {
    /// The site of its node and how long that took to arrive, if the run requested it and this is
    /// its first rank.
    pub delay: Option<(SiteId, Duration)>,
}

impl NodeTable {
    /// The table of a run that begins with these ranks.
    pub fn new(base: impl IntoIterator<Item = RankFacts>) -> NodeTable {
        let mut nodes = BTreeSet::new();
        let entry = |facts: RankFacts| NodeRank {
            pays: nodes.insert(facts.node.clone()),
            reported: Some(RankState::Active),
            ..NodeRank::new(facts, Presence::Present, None)
        };
        let ranks: Vec<NodeRank> = base.into_iter().map(entry).collect();
        NodeTable { base: ranks.len() as u32, ranks, ..NodeTable::default() }
    }

    /// The number that the next rank will have.
    pub fn next_rank(&self) -> Rank {
        Rank(self.ranks.len() as u32)
    }

    /// A rank.
    pub fn rank(&self, rank: Rank) -> Option<&NodeRank> {
        self.ranks.get(rank.index())
    }

    /// All ranks that ever were.
    pub fn ranks(&self) -> impl Iterator<Item = (Rank, &NodeRank)> {
        (0..).map(Rank).zip(&self.ranks)
    }

    /// The ranks of the base world.
    pub fn base(&self) -> &[NodeRank] {
        &self.ranks[..self.base as usize]
    }

    /// Number of the ranks of the base world that are not gone.
    pub fn base_here(&self) -> u32 {
        self.base().iter().filter(|rank| rank.presence != Presence::Gone).count() as u32
    }

    /// The numbers of the ranks of the base world.
    pub fn base_ranks(&self) -> impl Iterator<Item = Rank> + use<> {
        (0..self.base).map(Rank)
    }

    /// The numbers of the ranks that joined.
    pub fn joined(&self) -> impl Iterator<Item = Rank> + use<> {
        (self.base..self.ranks.len() as u32).map(Rank)
    }

    /// The worlds that joined, oldest first.
    pub fn worlds(&self) -> &[JoinedWorld] {
        &self.worlds
    }

    /// The world that a rank joined with; `None` for the base world.
    pub fn world_of(&self, rank: Rank) -> Option<&JoinedWorld> {
        self.worlds.get(self.rank(rank)?.world?)
    }

    /// The latest world of a block.
    pub fn world_of_block(&self, block: BlockId) -> Option<&JoinedWorld> {
        self.worlds.get(*self.by_block.get(&block)?)
    }

    /// True if a block whose ranks are parked can be released: alone, or together with all blocks
    /// of its job, if none of them is needed.
    pub fn may_release(&self, block: BlockId, is_parked: &dyn Fn(Rank) -> bool) -> bool {
        let Some(block) = self.blocks.get(block) else { return false };
        let mut mates = self.blocks.iter().filter(|other| other.name == block.name && !other.state.is_over());
        let is_idle = |id| self.world_of_block(id).is_some_and(|world| world.ranks().all(is_parked));
        !self.blocks.is_bound(block.id)
            || (!block.own && mates.all(|other| other.state == State::Held || is_idle(other.id)))
    }

    /// All ranks of the world that a rank joined with; none for the base world.
    pub fn mates(&self, rank: Rank) -> Vec<Rank> {
        self.world_of(rank).map(|world| world.ranks().collect()).unwrap_or_default()
    }

    /// Admits a world and assigns its rank numbers; returns the first. The block must be known.
    pub fn add_world(&mut self, now: Time, size: u32, block: Option<BlockId>, node: &str) -> Rank {
        let (first, at) = (self.next_rank(), self.worlds.len());
        let world = JoinedWorld { first, size, block, drained_at: None, has_joined: false, since: now, gone: None };
        self.worlds.push(world);
        self.by_block.extend(block.map(|id| (id, at)));
        for place in 0..size {
            let facts = RankFacts { node: node.to_owned(), ..RankFacts::default() };
            let entry = NodeRank { pays: place == 0, ..NodeRank::new(facts, Presence::Expected, Some(at)) };
            self.ranks.push(entry);
        }
        first
    }

    /// A rank linked under its number. False if no such rank is expected.
    pub fn link(&mut self, rank: Rank) -> bool {
        self.advance(rank, Presence::Expected, Presence::Linked)
    }

    /// A rank was sent the facts of the run. False if it is not linked, or was sent them before.
    pub fn welcome(&mut self, rank: Rank) -> bool {
        self.advance(rank, Presence::Linked, Presence::Welcomed)
    }

    fn advance(&mut self, rank: Rank, from: Presence, to: Presence) -> bool {
        let entry = self.ranks.get_mut(rank.index()).filter(|entry| entry.presence == from);
        entry.map(|entry| entry.presence = to).is_some()
    }

    /// True while a rank is linked and has not been welcomed.
    pub fn is_linked(&self, rank: Rank) -> bool {
        self.rank(rank).is_some_and(|entry| entry.presence == Presence::Linked)
    }

    /// True once a rank is gone.
    pub fn is_gone(&self, rank: Rank) -> bool {
        self.rank(rank).is_some_and(|entry| entry.presence == Presence::Gone)
    }

    /// A rank reports its resources: it takes part from now on. `None` if it does so already, is
    /// gone, or its block was withdrawn since it was let in.
    pub fn arrive(&mut self, now: Time, rank: Rank, slots: u32, pid: u32) -> Option<Arrival> {
        let awaited = self.world_of(rank).filter(|world| !world.has_joined).and_then(|world| world.block);
        if awaited.is_some_and(|id| !self.blocks.is_coming(id)) {
            return None;
        }
        let entry = self.ranks.get_mut(rank.index()).filter(|entry| entry.presence < Presence::Present)?;
        (entry.presence, entry.facts.slots, entry.facts.pid) = (Presence::Present, slots, pid);
        let world = entry.world.and_then(|at| self.worlds.get_mut(at))?;
        let is_first = !std::mem::replace(&mut world.has_joined, true);
        let Some(id) = world.block.filter(|_| is_first) else { return Some(Arrival { delay: None }) };
        self.blocks.step(now, id, BlockEvent::Joined);
        // The delay of nodes that the run had from the start says nothing about requested ones.
        let requested = self.blocks.get(id).filter(|block| !block.own);
        Some(Arrival { delay: requested.map(|block| (block.site, now.since(block.asked))) })
    }

    /// The link of a rank ended, or MPI lost it. Returns the ranks that are gone by this: itself,
    /// and those of its world that never linked. A node of the base world is billed until the run
    /// ends, as it is held that long.
    pub fn lose(&mut self, now: Time, rank: Rank) -> Vec<Rank> {
        let Some(entry) = self.ranks.get_mut(rank.index()) else { return Vec::new() };
        let Some(world) = entry.world else {
            let is_new = std::mem::replace(&mut entry.presence, Presence::Gone) != Presence::Gone;
            return is_new.then_some(rank).into_iter().collect();
        };
        let goes = |&other: &Rank| {
            let presence = self.ranks[other.index()].presence;
            presence != Presence::Gone && (other == rank || presence == Presence::Expected)
        };
        let lost: Vec<Rank> = self.worlds[world].ranks().filter(goes).collect();
        self.mark_gone(now, &lost);
        lost
    }

    /// Gives up ranks that did not arrive within `limit` of their admission; returns them.
    pub fn give_up(&mut self, now: Time, limit: Duration) -> Vec<Rank> {
        let late = self.worlds.iter().filter(|world| world.gone.is_none() && now.since(world.since) > limit);
        let missing = |rank: &Rank| self.ranks[rank.index()].presence < Presence::Present;
        let late: Vec<Rank> = late.flat_map(JoinedWorld::ranks).filter(missing).collect();
        self.mark_gone(now, &late);
        late
    }

    fn mark_gone(&mut self, now: Time, ranks: &[Rank]) {
        for rank in ranks {
            self.ranks[rank.index()].presence = Presence::Gone;
            let Some(at) = self.ranks[rank.index()].world else { continue };
            let world = &self.worlds[at];
            if world.ranks().all(|rank| self.is_gone(rank)) {
                let block = world.block;
                self.worlds[at].gone = Some(now);
                block.into_iter().for_each(|id| self.blocks.step(now, id, BlockEvent::Left));
            }
        }
    }

    /// The ranks of a block drain because its time is nearly up.
    pub fn note_drain(&mut self, block: BlockId) {
        let next = self.next_rank();
        if let Some(&at) = self.by_block.get(&block) {
            self.worlds[at].drained_at = Some(next);
        }
    }

    /// An attempt on a rank ended.
    pub fn attempt_ended(&mut self, rank: Rank, took: Duration, failed: bool) {
        if let Some(entry) = self.ranks.get_mut(rank.index()) {
            entry.busy += took;
            entry.failures += u32::from(failed);
        }
    }

    /// Since when the node of a world is billed, and until when if the bill has ended: as
    /// reported by the provider for a block, else the time from the first link to the end of the
    /// last.
    fn billed(&self, world: &JoinedWorld) -> (Time, Option<Time>) {
        match world.block.and_then(|id| self.blocks.get(id)) {
            Some(block) => (block.granted.unwrap_or(world.since), block.ended),
            None => (world.since, world.gone),
        }
    }

    /// Since when the node of a rank is billed.
    pub fn billed_since(&self, rank: Rank) -> Time {
        self.world_of(rank).map_or(Time::ZERO, |world| self.billed(world).0)
    }

    /// The same for the rank that carries the bill of its node, `None` for the other ranks of it.
    pub fn bill_of(&self, rank: Rank) -> Option<Time> {
        self.rank(rank)?.pays.then(|| self.billed_since(rank))
    }

    /// True until the bill of a rank's node has ended.
    pub fn holds_node(&self, rank: Rank) -> bool {
        self.world_of(rank).is_none_or(|world| self.billed(world).1.is_none())
    }

    /// The site that the node of a rank was requested from; `None` if it was not requested.
    pub fn site_of(&self, rank: Rank) -> Option<SiteId> {
        self.world_of(rank)?.block.and_then(|id| self.blocks.get(id)?.bill()).and_then(|bill| bill.site)
    }

    /// The bills of all nodes that are or were held.
    pub fn bills(&self) -> impl Iterator<Item = Bill> {
        let base = self.ranks.iter().filter(|rank| rank.world.is_none() && rank.pays);
        let base = base.map(|_| Bill { site: None, from: Time::ZERO, to: None });
        let by_hand = self.worlds.iter().filter(|world| world.block.is_none());
        let by_hand = by_hand.map(|world| Bill { site: None, from: world.since, to: world.gone });
        base.chain(by_hand).chain(self.blocks.iter().filter_map(Block::bill))
    }

    /// Of these ranks, those whose state is another than at the last call.
    pub fn state_changes(
        &mut self,
        ranks: impl Iterator<Item = Rank>,
        state: impl Fn(Rank) -> Option<RankState>,
    ) -> Vec<(Rank, RankState)> {
        let mut changes = Vec::new();
        for rank in ranks {
            let (Some(entry), Some(state)) = (self.ranks.get_mut(rank.index()), state(rank)) else { continue };
            if entry.reported.replace(state) != Some(state) && state != RankState::Requested {
                changes.push((rank, state));
            }
        }
        changes
    }
}

impl NodeRank {
    fn new(facts: RankFacts, presence: Presence, world: Option<usize>) -> NodeRank {
        NodeRank { facts, presence, world, pays: false, busy: Duration::ZERO, failures: 0, reported: None }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::capacity::{NodeGrant, Wanted};

    fn facts(node: &str) -> RankFacts {
        RankFacts { node: node.into(), slots: 4, pid: 7 }
    }

    /// The bills that have ended.
    fn closed(table: &NodeTable) -> Vec<(Time, Time)> {
        table.bills().filter_map(|bill| Some((bill.from, bill.to?))).collect()
    }

    fn second(s: u64) -> Time {
        Time(s * 1_000_000_000)
    }

    /// A base world of two ranks on one node, and a block that is granted.
    fn table() -> (NodeTable, BlockId) {
        let mut table = NodeTable::new([facts("n0"), facts("n0")]);
        let id = table.blocks.request(second(1), SiteId(0), &Wanted::default(), &[]).unwrap();
        table.blocks.step(second(2), id, BlockEvent::Accepted("job 7".into()));
        let grant = NodeGrant { node: "n1".into(), since: Some(second(3)), ..NodeGrant::default() };
        table.blocks.step(second(4), id, BlockEvent::Granted(grant));
        (table, id)
    }

    #[test]
    fn a_world_and_its_block_are_one_node() {
        let (mut table, id) = table();
        assert_eq!(table.add_world(second(5), 2, Some(id), "n1"), Rank(2));
        assert_eq!(
            (table.next_rank(), table.mates(Rank(3)), table.mates(Rank(1))),
            (Rank(4), vec![Rank(2), Rank(3)], vec![])
        );
        assert_eq!(table.world_of_block(id).map(|world| world.first), Some(Rank(2)));
        assert!(table.link(Rank(2)) && !table.link(Rank(2)) && !table.link(Rank(9)));
        assert_eq!(
            table.arrive(second(7), Rank(2), 8, 1),
            Some(Arrival { delay: Some((SiteId(0), Duration::from_secs(6))) })
        );
        assert_eq!(table.blocks.get(id).unwrap().state, State::Active);
        assert_eq!(table.arrive(second(8), Rank(3), 8, 2), Some(Arrival { delay: None }), "the node had come");
        assert_eq!(table.arrive(second(8), Rank(3), 8, 2), None);
        assert_eq!((table.bill_of(Rank(2)), table.bill_of(Rank(3))), (Some(second(3)), None), "as the provider says");
        assert_eq!((table.bill_of(Rank(0)), table.bill_of(Rank(1))), (Some(Time::ZERO), None));
    }

    #[test]
    fn of_two_nodes_for_one_need_the_first_that_arrives_takes_part() {
        let mut table = NodeTable::new([facts("n0")]);
        table.blocks.set_sites(2);
        let first = table.blocks.request(second(1), SiteId(0), &Wanted::default(), &[]).unwrap();
        let need = table.blocks.overdue(second(9), &|_| Duration::from_secs(5)).remove(0);
        let other = table.blocks.request_too(second(9), &need, SiteId(1), &[]).unwrap();
        [first, other].into_iter().for_each(|id| _ = table.add_world(second(10), 2, Some(id), "n"));
        assert!(table.arrive(second(11), Rank(3), 4, 1).is_some());
        assert_eq!(table.arrive(second(12), Rank(1), 4, 1), None);
        assert_eq!(table.blocks.get(first).unwrap().state, State::Releasing);
        assert!(table.arrive(second(13), Rank(4), 4, 1).is_some(), "of the same world");
    }

    #[test]
    fn a_block_has_left_with_the_last_of_its_ranks() {
        let (mut table, id) = table();
        table.add_world(second(5), 3, Some(id), "n1");
        assert!(table.link(Rank(2)) && table.link(Rank(3)));
        table.arrive(second(6), Rank(2), 8, 1);
        assert_eq!(table.lose(second(7), Rank(2)), [Rank(2), Rank(4)], "the last never linked");
        assert_eq!(table.blocks.get(id).unwrap().state, State::Active);
        assert!(table.lose(second(8), Rank(2)).is_empty() && !table.link(Rank(4)));
        assert_eq!(table.lose(second(9), Rank(3)), [Rank(3)]);
        assert_eq!(table.blocks.get(id).unwrap().state, State::Releasing);
        assert!(closed(&table).is_empty() && table.holds_node(Rank(3)), "billed until the provider ends it");
        table.blocks.step(second(11), id, BlockEvent::Ended { why: String::new(), at: None });
        assert_eq!(closed(&table), [(second(3), second(11))]);
        assert!(!table.holds_node(Rank(2)) && !table.holds_node(Rank(3)) && table.holds_node(Rank(1)));
    }

    #[test]
    fn a_lost_rank_of_the_base_world_is_gone_and_its_node_is_held() {
        let mut table = NodeTable::new([facts("n0"), facts("n1"), facts("n1")]);
        assert_eq!(table.lose(second(3), Rank(1)), [Rank(1)]);
        assert!(table.lose(second(4), Rank(1)).is_empty() && table.lose(second(4), Rank(7)).is_empty());
        assert_eq!((table.base_here(), table.base().len(), table.is_gone(Rank(1))), (2, 3, true));
        assert!(closed(&table).is_empty() && table.holds_node(Rank(1)));
        assert_eq!(table.bill_of(Rank(1)), Some(Time::ZERO));
    }

    #[test]
    fn who_does_not_arrive_in_time_is_given_up() {
        let (mut table, _) = table();
        table.add_world(second(5), 2, None, "n2");
        assert!(table.link(Rank(2)) && table.welcome(Rank(2)) && !table.welcome(Rank(2)));
        table.arrive(second(6), Rank(2), 8, 1);
        let limit = Duration::from_secs(10);
        assert!(table.give_up(second(15), limit).is_empty());
        assert_eq!(table.give_up(second(16), limit), [Rank(3)]);
        assert!(table.give_up(second(17), limit).is_empty() && table.arrive(second(17), Rank(3), 8, 1).is_none());
        assert!(closed(&table).is_empty());
        table.lose(second(20), Rank(2));
        assert_eq!(closed(&table), [(second(5), second(20))]);
    }

    #[test]
    fn a_job_that_is_bound_is_released_once_all_of_it_is_idle() {
        let mut table = NodeTable::new([facts("n0")]);
        let ids = [0, 1].map(|at| {
            let id = table.blocks.request(second(1), SiteId(0), &Wanted::default(), &[]).unwrap();
            table.blocks.step(second(2), id, BlockEvent::Accepted("job 7".into()));
            // The batch script runs on the first node, which is released last.
            let grant = NodeGrant { node: format!("n{at}"), anchor: at == 0, ..NodeGrant::default() };
            table.blocks.step(second(3), id, BlockEvent::Granted(grant));
            table.add_world(second(4), 1, Some(id), "n");
            table.arrive(second(5), Rank(at + 1), 1, 1);
            id
        });
        assert!(!table.may_release(ids[0], &|rank| rank == Rank(1)), "the second node is of use");
        assert!(table.may_release(ids[0], &|_| true) && table.may_release(ids[1], &|_| false));
    }

    #[test]
    fn a_state_is_reported_once() {
        let (mut table, _) = table();
        table.add_world(second(5), 1, None, "n2");
        let all = || (0..3).map(Rank);
        let states = |requested: RankState| {
            move |rank: Rank| Some([RankState::Active, RankState::Parked, requested][rank.index()])
        };
        let first = table.state_changes(all(), states(RankState::Requested));
        assert_eq!(first, [(Rank(1), RankState::Parked)], "a base rank begins active");
        assert_eq!(table.state_changes(all(), states(RankState::Joining)), [(Rank(2), RankState::Joining)]);
        assert!(table.state_changes(all(), states(RankState::Joining)).is_empty());
    }
}
