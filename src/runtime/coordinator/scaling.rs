//! Carries out scaling decisions, and requests nodes.

use std::collections::BTreeSet;
use std::time::Duration;

use super::driver::{CoordinatorDriver, Messages};
use crate::capacity::{BlockEvent, BlockId, OverdueNeed, SiteId, Wanted};
use crate::journal::{Level, Record, SiteRequest};
use crate::model::{Labels, NodeNeed, Time};
use crate::scale::commands::{NodeChanges, ScalingCommand, ScalingStep};
use crate::scale::sites::{why_asked, why_next};
use crate::scale::{NodeTypeId, SiteView};
use crate::schedule::coordinator::{Change, CoordinatorEvent, ProvisioningState, StopReason};
use crate::schedule::protocol::Stop;
use crate::text::counted;

impl CoordinatorDriver {
    /// Runs a scaling decision if one is due, and carries it out.
    pub(super) fn run_autoscaler(&mut self, now: Time) -> Messages {
        if self.autoscaler.is_none() {
            return Messages::new();
        }
        let base = self.nodes.base_ranks();
        let mut records = self.rank_changes(now, base);
        let mut step = ScalingStep::default();
        let autoscaler = self.autoscaler.as_mut().filter(|_| self.finished.is_none());
        if autoscaler.is_some_and(|autoscaler| autoscaler.is_due(now)) {
            self.take_batch_estimates(now);
            let sites = self.site_views(now);
            let can = NodeChanges { grows: self.provisioner.is_some(), shrinks: self.listener.is_some() };
            if let Some(autoscaler) = &mut self.autoscaler {
                step = autoscaler.decide(now, &self.coordinator, &self.nodes, &sites, can);
            }
        }
        if self.coordinator.is_stopping() {
            step.commands.retain(ScalingCommand::applies_while_stopping);
        }
        records.extend(step.advice.map(|advice| Record::Advice(Box::new(advice))));
        records.extend(step.decisions.into_iter().map(|decision| Record::Decision(Box::new(decision))));
        records.extend(step.effects.into_iter().map(|(number, effect)| Record::Effect { number, effect }));
        step.warnings.iter().for_each(|text| self.recording.note(now, Level::Warning, text));
        // The requests to sites follow the decisions.
        records.into_iter().for_each(|record| self.recording.record(record));
        let mut messages = Messages::new();
        for command in step.commands {
            messages.extend(self.carry_out_scaling(now, command));
        }
        messages
    }

    fn carry_out_scaling(&mut self, now: Time, command: ScalingCommand) -> Messages {
        match command {
            ScalingCommand::Request { nodes, node_type, needed_for } => {
                self.request_nodes(now, nodes, Some(node_type), needed_for);
                // The labels of further nodes depend on those that are coming.
                return self.step(now, [CoordinatorEvent::Provisioning(self.provisioning())]);
            }
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

    /// Requests nodes of the `preferred` type, or others that have as much, which are needed for
    /// about `needed_for` if that is known, with the labels that the ready tasks ask for; returns
    /// the number of requests.
    pub(super) fn request_nodes(
        &mut self,
        now: Time,
        nodes: u32,
        preferred: Option<NodeTypeId>,
        needed_for: Option<Duration>,
    ) -> u32 {
        let wanted = self.coordinator.labels_of_next_nodes(nodes);
        let request = |(labels, nodes): (Labels, u32)| {
            let need = self.provisioner.as_ref().map(|it| it.need_of(preferred, labels)).unwrap_or_default();
            self.request_nodes_for(now, (nodes, &need), preferred, needed_for)
        };
        wanted.into_iter().map(request).sum()
    }

    fn request_nodes_for(
        &mut self,
        now: Time,
        (nodes, need): (u32, &NodeNeed),
        preferred: Option<NodeTypeId>,
        needed_for: Option<Duration>,
    ) -> u32 {
        let wanted = Wanted { need: need.clone(), limit: self.block_limit(now, needed_for) };
        let views = self.site_views(now);
        let Some(provisioner) = &self.provisioner else { return 0 };
        let mut left = nodes;
        for (site, most) in provisioner.order(&self.nodes.blocks, &views, need, preferred) {
            let view = views.iter().find(|view| view.site == site.0);
            // A decision has checked the budget for nodes of the preferred type only.
            let unchecked =
                view.map(|view| view.node_type).filter(|it| preferred.is_some_and(|checked| *it != checked));
            let paid = unchecked.filter(|_| left > 0).map_or(left, |it| self.affordable(now, it, None));
            let Some(provisioner) = &mut self.provisioner else { break };
            let asked = (site, left.min(most).min(paid));
            let blocks = provisioner.request(now, &mut self.nodes.blocks, asked, &wanted);
            left -= blocks.len() as u32;
            let reason = why_asked(site.0, &views, preferred);
            self.record_site_request(now, site, blocks, reason.to_owned(), &views);
        }
        nodes - left
    }

    /// How long a block may be needed at most.
    fn block_limit(&self, now: Time, needed_for: Option<Duration>) -> Option<Duration> {
        needed_for.into_iter().chain(self.limits.time_left(self.longest_task(now))).min()
    }

    /// Tells the autoscaler what the batch systems say of the wait at their sites.
    fn take_batch_estimates(&mut self, now: Time) {
        let estimates = self.provisioner.as_ref().map(|provisioner| provisioner.batch_estimates(now));
        for (node_type, seconds) in estimates.into_iter().flatten() {
            self.autoscaler.iter_mut().for_each(|autoscaler| autoscaler.set_batch_estimate(node_type, seconds));
        }
    }

    /// The sites of the job, in the order in which they are asked; empty for one without
    /// `[[site]]`.
    pub(super) fn site_views(&self, now: Time) -> Vec<SiteView> {
        let Some(provisioner) = &self.provisioner else { return Vec::new() };
        let delay_s = |node_type| self.autoscaler.as_ref().map(|autoscaler| autoscaler.delay_s(node_type));
        let base_slots = self.nodes.base().iter().map(|rank| rank.facts.slots).max().unwrap_or(1);
        provisioner.views(now, &self.nodes.blocks, &delay_s, base_slots)
    }

    /// Number of further nodes of a type that the budget pays for; of the nodes that were requested
    /// for `need`, none is kept then.
    fn affordable(&self, now: Time, node_type: NodeTypeId, need: Option<BlockId>) -> u32 {
        let autoscaler = self.autoscaler.as_ref();
        autoscaler.map_or(u32::MAX, |it| it.affordable(now, &self.coordinator, &self.nodes, node_type, need))
    }

    /// Requests nodes that are waited for too long, or that were refused, from the next site.
    pub(super) fn ask_further_sites(&mut self, now: Time) {
        let Some(provisioner) = &self.provisioner else { return };
        let overdue = self.nodes.blocks.overdue(now, &|site| provisioner.patience(site));
        let is_over = self.finished.is_some() || self.coordinator.is_stopping() || self.limits.is_spent;
        if is_over || overdue.is_empty() {
            return;
        }
        let (mut views, mut unaffordable) = (self.site_views(now), BTreeSet::new());
        for need in overdue {
            let limit = self.block_limit(now, need.wanted.limit);
            let next = self.next_site(now, &need, &views, &mut unaffordable);
            let Some(provisioner) = &mut self.provisioner else { return };
            let blocks = &mut self.nodes.blocks;
            match next.and_then(|site| Some((site, provisioner.request_too(now, blocks, (&need, limit), site)?))) {
                Some((site, block)) => {
                    let waits_at: Vec<u32> = need.waits_at.iter().map(|site| site.0).collect();
                    let reason = why_next(&waits_at, &views);
                    self.record_site_request(now, site, vec![block], reason, &views);
                    views = self.site_views(now);
                }
                None if need.waits_at.is_empty() => self.nodes.blocks.give_up(need.need),
                None => {}
            }
        }
    }

    /// The first of `views` that can give the node of a need and that the budget pays for, of those
    /// that are known to have what it asks for if there are any. `unaffordable`: sites that it does
    /// not pay for, with those where a need waits already.
    fn next_site(
        &self,
        now: Time,
        need: &OverdueNeed,
        views: &[SiteView],
        unaffordable: &mut BTreeSet<(SiteId, Vec<SiteId>)>,
    ) -> Option<SiteId> {
        let provisioner = self.provisioner.as_ref()?;
        let is_next = |view: &&SiteView| {
            let key = (SiteId(view.site), need.waits_at.clone());
            if need.waits_at.contains(&key.0)
                || !provisioner.can_give(view, &need.wanted.need)
                || unaffordable.contains(&key)
            {
                return false;
            }
            let is_paid = self.affordable(now, view.node_type, Some(need.need)) > 0;
            if !is_paid {
                unaffordable.insert(key);
            }
            is_paid
        };
        let (known, others): (Vec<&SiteView>, Vec<&SiteView>) =
            views.iter().partition(|view| provisioner.is_known_for(view, &need.wanted.need));
        known.into_iter().chain(others).find(is_next).map(|view| SiteId(view.site))
    }

    /// Records a request to one of several sites.
    fn record_site_request(
        &mut self,
        now: Time,
        site: SiteId,
        blocks: Vec<BlockId>,
        reason: String,
        views: &[SiteView],
    ) {
        let Some(view) = views.iter().find(|view| view.site == site.0 && !blocks.is_empty()) else { return };
        let many = counted(blocks.len() as u64, "node");
        self.recording.note(now, Level::Info, &format!("{many} requested from the site `{}`: {reason}", view.name));
        let blocks = blocks.into_iter().map(|block| block.0).collect();
        let request = SiteRequest { time: now, site: site.0, blocks, reason, candidates: views.to_vec() };
        self.recording.record(Record::Site(Box::new(request)));
    }

    /// Tasks that no present rank can run wait as long as a node may arrive. One is requested at
    /// once for each set of labels, and as many as an MPI task on several ranks lacks; that needs
    /// no policy.
    pub(super) fn provide_for_waiting_tasks(&mut self, now: Time) -> Messages {
        if self.provisioner.is_none() {
            return Messages::new();
        }
        let messages = self.step(now, [CoordinatorEvent::Provisioning(self.provisioning())]);
        for (need, nodes) in self.coordinator.wanted_nodes() {
            let words = need.words();
            let with = if words.is_empty() { String::new() } else { format!(" with {words}") };
            let requested = self.request_nodes_for(now, (nodes, &need), None, None);
            if requested > 0 {
                let nodes =
                    if requested == 1 { format!("a node{with} is") } else { format!("{requested} nodes{with} are") };
                let text = format!("tasks are left that no rank can run: {nodes} requested");
                self.recording.note(now, Level::Warning, &text);
            }
        }
        messages
    }

    /// The nodes that the run may still get.
    pub(super) fn provisioning(&self) -> ProvisioningState {
        let blocks = &self.nodes.blocks;
        let offers = self.provisioner.as_ref().filter(|_| !self.limits.is_spent).map(|it| it.offers(blocks));
        ProvisioningState {
            offers: offers.unwrap_or_default(),
            coming: self.provisioner.iter().flat_map(|it| blocks.coming().map(|block| it.offer_of(block))).collect(),
            most: self.job.scaling.as_ref().map_or(1, |scaling| scaling.max_ranks),
        }
    }

    /// Number of blocks that were requested and have not joined.
    pub(super) fn coming(&self) -> u32 {
        self.nodes.blocks.coming().count() as u32
    }
}
