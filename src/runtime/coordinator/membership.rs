//! Ranks and nodes that join and leave: keeps coordinator, node table and provider consistent.
//!
//! The listener reports links, MPI lost ranks of the first world, the provisioner reports nodes,
//! and the coordinator knows which ranks have tasks. Nothing here needs a policy: a node that is
//! about to be taken away, or on which tasks keep failing, cannot be used.

use super::driver::{CoordinatorDriver, Messages};
use super::join_listener::JoinEffects;
use super::pricing::type_of;
use crate::capacity::{BlockEvent, BlockId, JoinedWorld};
use crate::journal::{BlockChange, Level, RankChange, RankInfo, Record};
use crate::model::{Rank, RankState, Time};
use crate::schedule::coordinator::{Change, CoordinatorEvent};

impl CoordinatorDriver {
    /// Handles ranks and nodes that have joined or left.
    pub(super) fn poll_nodes(&mut self, now: Time) -> Messages {
        let open = self.finished.is_none() && !self.coordinator.is_stopping();
        let Some(listener) = &mut self.listener else { return Messages::new() };
        let effects = listener.poll(now, &mut self.nodes, open);
        let mut messages = self.apply(now, effects);
        let task = self.longest_task(now);
        if let Some(provisioner) = &mut self.provisioner {
            let notes = provisioner.poll(now, &mut self.nodes.blocks, task);
            notes.into_iter().for_each(|(level, text)| self.recording.note(now, level, &text));
        }
        self.ask_further_sites(now);
        messages.extend(self.drain_expiring(now));
        self.record_blocks(now);
        let joined = self.nodes.joined();
        for record in self.rank_changes(now, joined) {
            self.recording.record(record);
        }
        messages
    }

    /// MPI has lost these ranks of the first world, and its other ranks go on.
    pub(crate) fn ranks_lost(&mut self, now: Time, ranks: &[Rank]) -> Messages {
        let gone: Vec<Rank> = ranks.iter().flat_map(|&rank| self.nodes.lose(now, rank)).collect();
        let events = gone.iter().map(|&rank| CoordinatorEvent::Change { rank, change: Change::Lose }).collect();
        let messages = self.apply(now, JoinEffects { events, ..JoinEffects::default() });
        for record in self.rank_changes(now, gone.into_iter()) {
            self.recording.record(record);
        }
        messages
    }

    /// Applies the effects of events of joining ranks.
    pub(super) fn apply(&mut self, now: Time, effects: JoinEffects) -> Messages {
        for (level, text) in &effects.notes {
            self.recording.note(now, *level, text);
        }
        for (site, delay) in effects.delays {
            let node_type = type_of(&self.job, Some(site));
            self.autoscaler.iter_mut().for_each(|autoscaler| autoscaler.node_arrived(node_type, delay));
            self.recording.node_arrived(site, delay);
        }
        for event in &effects.events {
            if let CoordinatorEvent::Change { rank, change: Change::Arrive(member) } = event
                && let (Some(provisioner), Some(site)) = (&mut self.provisioner, self.nodes.site_of(*rank))
            {
                let learnt = provisioner.learn(site, member);
                self.autoscaler.iter_mut().zip(learnt).for_each(|(autoscaler, learnt)| autoscaler.learn(learnt));
            }
        }
        let mut messages = effects.messages;
        for event in &effects.events {
            if let CoordinatorEvent::Change { rank, change: Change::Lose } = event {
                messages.extend(self.end_transfers_of(now, *rank));
            }
        }
        messages.extend(self.step(now, effects.events));
        messages
    }

    /// Drains the ranks of blocks whose time is nearly up, and of blocks that were parked because
    /// their node could not be released, and now can.
    fn drain_expiring(&mut self, now: Time) -> Messages {
        let expiring = self.nodes.blocks.take_expiring();
        let next = self.coordinator.next_rank();
        let is_parked = |rank: Rank| self.coordinator.standing(rank) == Some(RankState::Parked);
        // A rank that no other could replace is drained again when another one has joined.
        let drains_again = |world: &JoinedWorld| {
            world.drained_at.is_some_and(|at| at < next)
                && world.ranks().any(|rank| self.coordinator.standing(rank) == Some(RankState::Active))
                && world.ranks().all(|rank| self.coordinator.refusal(rank, &Change::Drain).is_none())
        };
        let leaves = |world: &&JoinedWorld| {
            let Some(id) = world.block else { return false };
            let is_expiring = expiring.contains(&id) || drains_again(world);
            is_expiring || (world.ranks().all(is_parked) && self.nodes.may_release(id, &is_parked))
        };
        let leaving: Vec<&JoinedWorld> = self.nodes.worlds().iter().filter(leaves).collect();
        let ranks: Vec<Rank> = leaving.iter().map(|world| world.first).collect();
        let of_time =
            |world: &&JoinedWorld| world.block.filter(|id| expiring.contains(id) || world.drained_at.is_some());
        let drained: Vec<BlockId> = leaving.iter().filter_map(of_time).collect();
        drained.into_iter().for_each(|id| self.nodes.note_drain(id));
        for id in expiring {
            let text = format!("the time of {id} is nearly up: its ranks drain");
            self.recording.note(now, Level::Info, &text);
        }
        if ranks.is_empty() { Messages::new() } else { self.drain_worlds(now, &ranks) }
    }

    /// Drains ranks that joined, each with its whole world.
    pub(super) fn drain_worlds(&mut self, now: Time, ranks: &[Rank]) -> Messages {
        let mut leaving: Vec<Rank> = ranks.iter().flat_map(|&rank| self.nodes.mates(rank)).collect();
        leaving.sort_unstable();
        leaving.dedup();
        let messages = self.change(now, &leaving, &Change::Drain);
        let drains = |rank: &&Rank| self.coordinator.standing(**rank) == Some(RankState::Draining);
        let blocks = leaving.iter().filter(drains).filter_map(|&rank| self.nodes.world_of(rank)?.block);
        let blocks: Vec<BlockId> = blocks.collect();
        blocks.into_iter().for_each(|id| self.step_block(now, id, BlockEvent::Drain));
        messages
    }

    /// Drains joined ranks on which tasks keep failing.
    pub(super) fn drain_quarantined(&mut self, now: Time) -> Messages {
        let is_quarantined = |rank: &Rank| self.coordinator.standing(*rank) == Some(RankState::Quarantined);
        let ranks: Vec<Rank> = self.nodes.joined().filter(is_quarantined).collect();
        if ranks.is_empty() { Messages::new() } else { self.drain_worlds(now, &ranks) }
    }

    /// Changes the membership of ranks.
    pub(super) fn change(&mut self, now: Time, ranks: &[Rank], change: &Change) -> Messages {
        self.step(now, ranks.iter().map(|&rank| CoordinatorEvent::Change { rank, change: change.clone() }))
    }

    /// Delivers an event to a block that does not come from its provider.
    pub(super) fn step_block(&mut self, now: Time, id: BlockId, event: BlockEvent) {
        self.nodes.blocks.step(now, id, event);
        self.execute_orders();
    }

    /// Passes the orders of blocks to the provider.
    pub(super) fn execute_orders(&mut self) {
        if let Some(provisioner) = &mut self.provisioner {
            provisioner.execute_orders(&mut self.nodes.blocks);
        }
    }

    /// Records the changes of blocks.
    pub(super) fn record_blocks(&mut self, now: Time) {
        for id in self.nodes.blocks.take_changed() {
            let Some(block) = self.nodes.blocks.get(id) else { continue };
            let ranks = self.nodes.world_of_block(id).map_or(0..0, |world| world.first.0..world.first.0 + world.size);
            let change = BlockChange {
                time: now,
                block: id.0,
                state: block.state,
                name: block.name.clone(),
                node: block.node.clone(),
                ranks,
                asked: block.asked,
                granted: block.granted,
                ended: block.ended,
            };
            self.recording.record(Record::Block(change));
        }
    }

    /// Returns a record for each of these ranks whose state has changed.
    pub(super) fn rank_changes(&mut self, now: Time, ranks: impl Iterator<Item = Rank>) -> Vec<Record> {
        let changes = self.nodes.state_changes(ranks, |rank| self.coordinator.standing(rank));
        let record = |(rank, state): (Rank, RankState)| {
            let facts = &self.nodes.rank(rank)?.facts;
            let info = RankInfo { rank: rank.0, node: facts.node.clone(), slots: facts.slots, pid: facts.pid };
            let node_type = type_of(&self.job, self.nodes.site_of(rank));
            let billed_since = self.nodes.billed_since(rank);
            Some(Record::Rank(RankChange { time: now, info, node_type, state, billed_since }))
        };
        changes.into_iter().filter_map(record).collect()
    }

    /// Number of joined ranks that take part.
    pub(super) fn joined_active(&self) -> u32 {
        let is_active = |rank: &Rank| self.coordinator.standing(*rank) == Some(RankState::Active);
        self.nodes.joined().filter(is_active).count() as u32
    }
}
