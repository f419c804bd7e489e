//! Rank 0 and its nodes: who comes and goes is told to those whom it concerns, and what was decided about nodes is carried out.
//!
//! The listener knows which ranks are linked, the provisioner which nodes are held, the autoscaler what there should be, and the coordinator who has tasks. Nothing is
//! decided here; a node that is of no use, or is badly needed, needs no policy.

use std::time::Duration;

use super::autoscaler::{NodeSources, ScalingCommands};
use super::driver::CoordinatorDriver;
use super::join_listener::{JoinEffects, JoinListener, JoinedWorld};
use super::walltime::Walltime;
use crate::capacity::{BlockId, Event as BlockEvent};
use crate::journal::{BlockChange, Level, Record};
use crate::model::{Rank, RankState, Time};
use crate::schedule::coordinator::{Change, Event, Hope, Why};
use crate::schedule::protocol::{Message, Stop};

impl CoordinatorDriver {
    /// Looks who has come and who has gone.
    pub(super) fn admit(&mut self, now: Time) -> Vec<(Rank, Message)> {
        let open = self.finished.is_none() && !self.coordinator.is_stopping();
        let Some(listener) = &mut self.listener else { return Vec::new() };
        let provisioner = self.provisioner.as_ref();
        let expected = |block| provisioner.is_some_and(|provisioner| provisioner.expects(block));
        let steps = listener.look(now, self.coordinator.next_rank(), open, &expected);
        let mut messages = self.follow(now, steps);
        self.tell_supply(now);
        messages.extend(self.let_go(now));
        self.record_blocks(now);
        let Some(listener) = &mut self.listener else { return messages };
        for record in listener.changes(now, &self.coordinator) {
            self.record(record);
        }
        messages
    }

    /// The provisioner hears which blocks have come and gone, and says how the others fare.
    fn tell_supply(&mut self, now: Time) {
        let (Some(listener), Some(provisioner)) = (&mut self.listener, &mut self.provisioner) else { return };
        for world in listener.worlds_mut() {
            let Some(id) = world.block.map(BlockId) else { continue };
            if world.is_in() && !std::mem::replace(&mut world.told[0], true) {
                provisioner.step(now, id, BlockEvent::Joined);
                let block = provisioner.blocks().get(id);
                // How soon nodes come that were there from the start tells nothing of those that are asked for.
                if let Some(block) = block.filter(|block| !block.own) {
                    let took = now.since(block.asked);
                    self.autoscaler.iter_mut().for_each(|autoscaler| autoscaler.arrived(took));
                    self.recorder.iter_mut().for_each(|recorder| recorder.arrived(took));
                }
            }
            if world.is_gone() && !std::mem::replace(&mut world.told[1], true) {
                provisioner.step(now, id, BlockEvent::Left);
            }
        }
        let notes = provisioner.look(now);
        for world in listener.worlds_mut() {
            if let Some(block) = world.block.and_then(|id| provisioner.blocks().get(BlockId(id))) {
                world.billed = (block.granted.unwrap_or(world.billed.0), block.ended);
            }
        }
        notes.into_iter().for_each(|(level, text)| self.tell(now, level, &text));
    }

    /// Ranks leave whose node will soon be taken away, or that were parked only because their node could not be given back, and now can.
    fn let_go(&mut self, now: Time) -> Vec<(Rank, Message)> {
        let Some(provisioner) = &mut self.provisioner else { return Vec::new() };
        let (fresh, next) = (provisioner.expiring(), self.coordinator.next_rank());
        let (Some(listener), Some(provisioner)) = (&self.listener, &self.provisioner) else { return Vec::new() };
        // Those that nobody could do without are asked again when somebody has come.
        let standing = |rank| self.coordinator.standing(rank);
        let again = |world: &JoinedWorld, id: &BlockId| {
            let may = |rank| self.coordinator.refusal(rank, &Change::Drain).is_none();
            self.expiring.get(id).is_some_and(|asked| *asked < next)
                && world.numbers().any(|rank| standing(rank) == Some(RankState::Active))
                && world.numbers().all(may)
        };
        let expires = |world: &JoinedWorld, id: &BlockId| fresh.contains(id) || again(world, id);
        let goes = |world: &JoinedWorld| {
            let Some(id) = world.block.map(BlockId) else { return false };
            expires(world, &id) || (self.is_parked(world) && provisioner.may_go(id, &|id| self.is_idle(id)))
        };
        let leaving: Vec<&JoinedWorld> = listener.worlds().iter().filter(|world| goes(world)).collect();
        let blocks = leaving.iter().filter_map(|world| world.block.map(BlockId));
        let asked: Vec<BlockId> = blocks.filter(|id| fresh.contains(id) || self.expiring.contains_key(id)).collect();
        let leaving: Vec<Rank> = leaving.into_iter().map(|world| world.first).collect();
        self.expiring.extend(asked.into_iter().map(|id| (id, next)));
        for id in fresh {
            self.tell(now, Level::Info, &format!("the time of {id} is nearly up: its ranks drain"));
        }
        if leaving.is_empty() { Vec::new() } else { self.drain_ranks(now, &leaving) }
    }

    fn is_parked(&self, world: &JoinedWorld) -> bool {
        world.numbers().all(|rank| self.coordinator.standing(rank) == Some(RankState::Parked))
    }

    /// True if the ranks of a block are parked.
    fn is_idle(&self, id: BlockId) -> bool {
        let mut worlds = self.listener.iter().flat_map(JoinListener::worlds);
        worlds.any(|world| world.block == Some(id.0) && self.is_parked(world))
    }

    /// Writes down what has become of blocks.
    pub(super) fn record_blocks(&mut self, now: Time) {
        let Some(provisioner) = &mut self.provisioner else { return };
        for block in provisioner.changed() {
            let world =
                self.listener.iter().flat_map(JoinListener::worlds).find(|world| world.block == Some(block.id.0));
            let ranks = world.map_or(0..0, |world| world.first.0..world.first.0 + world.ranks.len() as u32);
            let change = BlockChange {
                time: now,
                block: block.id.0,
                state: block.state,
                name: block.name,
                node: block.node,
                ranks,
                asked: block.asked,
                granted: block.granted,
                ended: block.ended,
            };
            self.record(Record::Block(change));
        }
    }

    /// Asks for nodes, which are needed for about so long if that is known; says how many it asked for.
    pub(super) fn ask_for(&mut self, now: Time, nodes: u32, lasting: Option<Duration>) -> u32 {
        let own = self.walltime.as_ref().map(Walltime::left);
        let limit = lasting.into_iter().chain(own).min();
        self.provisioner.as_mut().map_or(0, |provisioner| provisioner.request(now, nodes, limit))
    }

    /// Ranks that joined shall leave, each with all of its world.
    pub(super) fn drain_ranks(&mut self, now: Time, ranks: &[Rank]) -> Vec<(Rank, Message)> {
        let mates =
            |listener: &JoinListener| ranks.iter().flat_map(|&rank| listener.mates(rank)).collect::<Vec<Rank>>();
        let mut leaving = self.listener.as_ref().map(mates).unwrap_or_default();
        leaving.sort_unstable();
        leaving.dedup();
        let messages = self.happens(now, leaving.iter().map(|&rank| Event::Change { rank, change: Change::Drain }));
        let drains = |rank: &Rank| self.coordinator.standing(*rank) == Some(RankState::Draining);
        let blocks: Vec<u64> = leaving
            .iter()
            .filter(|&rank| drains(rank))
            .filter_map(|&rank| self.listener.as_ref()?.world_of(rank)?.block)
            .collect();
        if let Some(provisioner) = &mut self.provisioner {
            blocks.into_iter().for_each(|id| provisioner.step(now, BlockId(id), BlockEvent::Drain));
        }
        messages
    }

    /// Tasks that no rank can run wait for a node as long as one can be had. One is asked for at once: no policy waits for less.
    pub(super) fn hope(&mut self, now: Time) -> Vec<(Rank, Message)> {
        let Some(provisioner) = &self.provisioner else { return Vec::new() };
        let askable = provisioner.is_hopeful() && !self.spent;
        let most = self.job.scaling.as_ref().map_or(1, |scaling| scaling.max_ranks);
        let messages = self.happens(now, [Event::Hope(Hope { askable, coming: self.coming(), most })]);
        if self.coordinator.needs_node() {
            self.tell(now, Level::Warning, "tasks are left that no rank can run: a node is asked for");
            self.ask_for(now, 1, None);
        }
        messages
    }

    /// Nodes that joined and on which tasks keep failing are of no use.
    pub(super) fn give_back_sick(&mut self, now: Time) -> Vec<(Rank, Message)> {
        let worlds = self.listener.iter().flat_map(JoinListener::worlds).flat_map(|world| world.numbers());
        let is_sick = |rank: &Rank| self.coordinator.standing(*rank) == Some(RankState::Quarantined);
        let sick: Vec<Rank> = worlds.filter(is_sick).collect();
        if sick.is_empty() { Vec::new() } else { self.drain_ranks(now, &sick) }
    }

    /// Does what follows from news of the listener.
    pub(super) fn follow(&mut self, now: Time, steps: JoinEffects) -> Vec<(Rank, Message)> {
        for (level, text) in &steps.notes {
            self.tell(now, *level, text);
        }
        let mut actions = Vec::new();
        steps.events.into_iter().for_each(|event| self.coordinator.step(now, event, &mut actions));
        let mut messages = steps.messages;
        messages.extend(self.carry_out(now, actions));
        messages
    }

    /// Decides about ranks and spending, if it is time to.
    pub(super) fn steer(&mut self, now: Time) -> Vec<(Rank, Message)> {
        let Some(autoscaler) = &mut self.autoscaler else { return Vec::new() };
        let mut records = autoscaler.changes(now, &self.coordinator);
        let mut orders = ScalingCommands::default();
        if self.finished.is_none() && autoscaler.is_due(now) {
            let fleet = NodeSources { listener: self.listener.as_ref(), provisioner: self.provisioner.as_ref() };
            orders = autoscaler.decide(now, &self.coordinator, &fleet);
        }
        if self.coordinator.is_stopping() {
            // What comes now would only be sent away again.
            (orders.grow, orders.events) = (0, Vec::new());
        }
        records.append(&mut orders.records);
        orders.warnings.iter().for_each(|text| self.tell(now, Level::Warning, text));
        let mut actions = Vec::new();
        orders.events.into_iter().for_each(|event| self.coordinator.step(now, event, &mut actions));
        let mut messages = self.carry_out(now, actions);
        self.ask_for(now, orders.grow, orders.lasting);
        if let Some(provisioner) = &mut self.provisioner {
            orders.withdraw.iter().for_each(|&id| provisioner.step(now, BlockId(id), BlockEvent::Drain));
        }
        messages.extend(self.drain_ranks(now, &orders.drain));
        if let Some(by) = orders.stop_by {
            self.spent = true;
            self.harder = Some((by, Stop::Terminate));
            messages.extend(self.stop(now, Stop::Drain, Why::Budget));
        }
        records.into_iter().for_each(|record| self.record(record));
        messages
    }

    /// Ranks that joined and take part.
    pub(super) fn joined_active(&self) -> u32 {
        let ranks = self.listener.iter().flat_map(JoinListener::worlds).flat_map(|world| world.numbers());
        ranks.filter(|&rank| self.coordinator.standing(rank) == Some(RankState::Active)).count() as u32
    }
}
