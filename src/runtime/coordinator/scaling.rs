//! Carries out scaling decisions, and requests nodes.

use std::time::Duration;

use super::driver::{CoordinatorDriver, Messages};
use crate::capacity::{BlockEvent, BlockId};
use crate::journal::{Level, Record};
use crate::model::{Labels, Time};
use crate::scale::commands::{NodeChanges, ScalingCommand, ScalingStep};
use crate::schedule::coordinator::{Change, CoordinatorEvent, ProvisioningState, StopReason};
use crate::schedule::protocol::Stop;

impl CoordinatorDriver {
    /// Runs a scaling decision if one is due, and carries it out.
    pub(super) fn run_autoscaler(&mut self, now: Time) -> Messages {
        if self.autoscaler.is_none() {
            return Messages::new();
        }
        let base = self.nodes.base_ranks();
        let mut records = self.rank_changes(now, base);
        let mut step = ScalingStep::default();
        if let Some(autoscaler) = self.autoscaler.as_mut().filter(|_| self.finished.is_none())
            && autoscaler.is_due(now)
        {
            let can = NodeChanges { grows: self.provisioner.is_some(), shrinks: self.listener.is_some() };
            step = autoscaler.decide(now, &self.coordinator, &self.nodes, can);
        }
        if self.coordinator.is_stopping() {
            step.commands.retain(ScalingCommand::applies_while_stopping);
        }
        records.extend(step.advice.map(|advice| Record::Advice(Box::new(advice))));
        records.extend(step.decisions.into_iter().map(|decision| Record::Decision(Box::new(decision))));
        records.extend(step.effects.into_iter().map(|(number, effect)| Record::Effect { number, effect }));
        step.warnings.iter().for_each(|text| self.recording.note(now, Level::Warning, text));
        let mut messages = Messages::new();
        for command in step.commands {
            messages.extend(self.carry_out_scaling(now, command));
        }
        records.into_iter().for_each(|record| self.recording.record(record));
        messages
    }

    fn carry_out_scaling(&mut self, now: Time, command: ScalingCommand) -> Messages {
        match command {
            ScalingCommand::Request { nodes, needed_for, .. } => _ = self.request_nodes(now, nodes, needed_for),
            ScalingCommand::Withdraw(request) => self.step_block(now, BlockId(request.0), BlockEvent::Drain),
            ScalingCommand::Drain(ranks) => return self.drain_worlds(now, &ranks),
            ScalingCommand::Park(rank) => return self.change(now, &[rank], &Change::Park),
            ScalingCommand::Recall(rank) => return self.change(now, &[rank], &Change::Recall),
            ScalingCommand::Stop { by } => {
                self.limits.budget_spent(by);
                return self.stop(now, Stop::Drain, StopReason::Budget);
            }
        }
        Messages::new()
    }

    /// Requests nodes, which are needed for about `needed_for` if that is known, with the labels
    /// that the ready tasks ask for; returns the number of requests.
    pub(super) fn request_nodes(&mut self, now: Time, nodes: u32, needed_for: Option<Duration>) -> u32 {
        let wanted = self.coordinator.labels_of_next_nodes(nodes);
        wanted.iter().map(|(labels, nodes)| self.request_nodes_with(now, (*nodes, labels), needed_for)).sum()
    }

    fn request_nodes_with(&mut self, now: Time, nodes: (u32, &Labels), needed_for: Option<Duration>) -> u32 {
        let limit = needed_for.into_iter().chain(self.limits.time_left(self.longest_task(now))).min();
        let Some(provisioner) = &mut self.provisioner else { return 0 };
        provisioner.request(now, &mut self.nodes.blocks, nodes, limit)
    }

    /// Tasks that no present rank can run wait as long as a node may arrive. One is requested at
    /// once for each set of labels; that needs no policy.
    pub(super) fn provide_for_waiting_tasks(&mut self, now: Time) -> Messages {
        if self.provisioner.is_none() {
            return Messages::new();
        }
        let messages = self.step(now, [CoordinatorEvent::Provisioning(self.provisioning())]);
        for labels in self.coordinator.wanted_nodes() {
            let with = if labels.is_empty() { String::new() } else { format!(" with the label {}", labels.join(", ")) };
            let text = format!("tasks are left that no rank can run: a node{with} is requested");
            self.recording.note(now, Level::Warning, &text);
            self.request_nodes_with(now, (1, &labels), None);
        }
        messages
    }

    /// The nodes that the run may still get.
    pub(super) fn provisioning(&self) -> ProvisioningState {
        let blocks = &self.nodes.blocks;
        let offers = self.provisioner.as_ref().filter(|_| !self.limits.is_spent).map(|it| it.offers(blocks));
        ProvisioningState {
            offers: offers.unwrap_or_default(),
            coming: blocks.coming().map(|block| Labels::clone(&block.labels)).collect(),
            most: self.job.scaling.as_ref().map_or(1, |scaling| scaling.max_ranks),
        }
    }

    /// Number of blocks that were requested and have not joined.
    pub(super) fn coming(&self) -> u32 {
        self.nodes.blocks.coming().count() as u32
    }
}
