//! Carries out scaling decisions, and requests nodes.

use std::time::Duration;

use super::autoscaler::ScalingCommands;
use super::driver::{CoordinatorDriver, Messages};
use crate::capacity::BlockEvent;
use crate::journal::Level;
use crate::model::Time;
use crate::schedule::coordinator::{CoordinatorEvent, ProvisioningState, StopReason};
use crate::schedule::protocol::Stop;

impl CoordinatorDriver {
    /// Runs a scaling decision if one is due, and carries it out.
    pub(super) fn run_autoscaler(&mut self, now: Time) -> Messages {
        if self.autoscaler.is_none() {
            return Messages::new();
        }
        let base = self.nodes.base_ranks();
        let mut records = self.rank_changes(now, base);
        let mut commands = ScalingCommands::default();
        if let Some(autoscaler) = self.autoscaler.as_mut().filter(|a| self.finished.is_none() && a.is_due(now)) {
            let (grows, shrinks) = (self.provisioner.is_some(), self.listener.is_some());
            let sources = super::autoscaler::NodeSources { nodes: &self.nodes, grows, shrinks };
            commands = autoscaler.decide(now, &self.coordinator, &sources);
        }
        if self.coordinator.is_stopping() {
            // New nodes would only be given back again.
            (commands.grow, commands.events) = (0, Vec::new());
        }
        records.append(&mut commands.records);
        commands.warnings.iter().for_each(|text| self.recording.note(now, Level::Warning, text));
        let mut messages = self.step(now, commands.events);
        self.request_nodes(now, commands.grow, commands.needed_for);
        commands.withdraw.into_iter().for_each(|id| self.step_block(now, id, BlockEvent::Drain));
        messages.extend(self.drain_worlds(now, &commands.drain));
        if let Some(by) = commands.stop_by {
            self.limits.budget_spent(by);
            messages.extend(self.stop(now, Stop::Drain, StopReason::Budget));
        }
        records.into_iter().for_each(|record| self.recording.record(record));
        messages
    }

    /// Requests nodes, which are needed for about `needed_for` if that is known; returns the number
    /// of requests.
    pub(super) fn request_nodes(&mut self, now: Time, nodes: u32, needed_for: Option<Duration>) -> u32 {
        let limit = needed_for.into_iter().chain(self.limits.time_left()).min();
        let Some(provisioner) = &mut self.provisioner else { return 0 };
        provisioner.request(now, &mut self.nodes.blocks, nodes, limit)
    }

    /// Tasks that no present rank can run wait as long as a node may come. One is requested at
    /// once; that needs no policy.
    pub(super) fn provide_for_waiting_tasks(&mut self, now: Time) -> Messages {
        let Some(provisioner) = &self.provisioner else { return Messages::new() };
        let askable = provisioner.may_provide(&self.nodes.blocks) && !self.limits.is_spent;
        let most = self.job.scaling.as_ref().map_or(1, |scaling| scaling.max_ranks);
        let messages =
            self.step(now, [CoordinatorEvent::Hope(ProvisioningState { askable, coming: self.coming(), most })]);
        if self.coordinator.needs_node() {
            self.recording.note(now, Level::Warning, "tasks are left that no rank can run: a node is asked for");
            self.request_nodes(now, 1, None);
        }
        messages
    }

    /// Number of blocks that were requested and have not joined.
    pub(super) fn coming(&self) -> u32 {
        self.nodes.blocks.coming().count() as u32
    }
}
