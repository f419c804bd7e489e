//! The sites that blocks are requested from: which of them fail, and nodes that several of them
//! were asked for.
//!
//! Blocks of one *need* stand for one node that the run waits for. The first that is granted is
//! kept, the others are withdrawn.
//!
//! | a need is | event | next | does |
//! |---|---|---|---|
//! | open | one of its blocks is granted or joins | met | its other blocks are withdrawn |
//! | open | one of its blocks is drained | dropped | its other blocks are withdrawn |
//! | open | its latest block waits longer than the patience of its site, or none waits any more | open | it is [overdue](Blocks::overdue): the next site is asked |
//! | open | all its blocks failed, and no site can be asked | dropped | |
//!
//! `scale/site_health` says for how long a site that fails is not asked. No node is requested any
//! more when every site has failed too often in a row.

use std::time::Duration;

use super::{BlockEvent, BlockId, Blocks, State};
use crate::model::{Labels, NodeNeed, Time, labels_of};
use crate::scale::site_health::SiteHealth;

/// A source of nodes, by its place in the job.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SiteId(pub u32);

impl SiteId {
    /// The place as an index.
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

/// What a node is requested for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    /// What it must have.
    pub need: NodeNeed,
    /// Upper bound on how long it is needed, if known.
    pub limit: Option<Duration>,
}

/// A need that is not met.
#[derive(Debug)]
pub(super) struct OpenNeed {
    wanted: Wanted,
    /// Its blocks, oldest first.
    blocks: Vec<BlockId>,
}

/// A need that another site should be asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OverdueNeed {
    /// The first block that was requested for it.
    pub need: BlockId,
    /// What it is for.
    pub wanted: Wanted,
    /// Where it waits, the site that was asked last at the end; empty if all have refused.
    pub waits_at: Vec<SiteId>,
}

impl Blocks {
    /// Sets the number of the job's sites; without a call it is one. The allocation of the run may
    /// follow them.
    pub fn set_sites(&mut self, sites: usize) {
        self.sites.resize_with(sites, SiteHealth::default);
    }

    /// `None` for the allocation of the run behind the job's sites.
    fn health(&mut self, site: SiteId) -> Option<&mut SiteHealth> {
        if self.sites.is_empty() {
            self.set_sites(1);
        }
        self.sites.get_mut(site.index())
    }

    /// Adds a requested block of a site whose nodes have the labels `of_site`; `None` if the site
    /// cannot be asked now.
    pub fn request(&mut self, now: Time, site: SiteId, wanted: &Wanted, of_site: &[String]) -> Option<BlockId> {
        let id = self.request_for(now, None, site, &wanted.need.labels, of_site)?;
        self.open.insert(id, OpenNeed { wanted: wanted.clone(), blocks: vec![id] });
        Some(id)
    }

    /// Requests the node of an open need from another site, too.
    pub fn request_too(&mut self, now: Time, need: &OverdueNeed, site: SiteId, of_site: &[String]) -> Option<BlockId> {
        self.open.get(&need.need)?;
        let id = self.request_for(now, Some(need.need), site, &need.wanted.need.labels, of_site)?;
        self.open.get_mut(&need.need)?.blocks.push(id);
        Some(id)
    }

    fn request_for(
        &mut self,
        now: Time,
        need: Option<BlockId>,
        site: SiteId,
        wanted: &Labels,
        of_site: &[String],
    ) -> Option<BlockId> {
        if self.paused.is_some() || self.closed_for(now, site).is_some() {
            return None;
        }
        let labels = labels_of(of_site.iter().chain(wanted.iter()).cloned());
        Some(self.add(now, false, labels, site, need))
    }

    /// For how long a site is not asked because it failed; `None` if it can be asked.
    pub fn closed_for(&self, now: Time, site: SiteId) -> Option<Duration> {
        self.sites.get(site.index())?.closed_for(now)
    }

    /// Why a site is not asked now, for people, if so.
    pub fn closed(&self, now: Time, site: SiteId) -> Option<String> {
        self.sites.get(site.index())?.closed(now)
    }

    /// True for a site that has failed too often in a row: it is asked again, but nothing waits for
    /// its nodes.
    pub fn is_given_up(&self, site: SiteId) -> bool {
        self.sites.get(site.index()).is_some_and(|health| health.has_failed().is_some())
    }

    /// The time that a request has to wait at a site whose nodes took `usual` to arrive, by
    /// [`SiteHealth::expected_wait`].
    pub fn expected_wait(&self, now: Time, site: SiteId, usual: Duration, patience: Duration) -> Duration {
        let of_site = || self.iter().filter(|block| block.site == site);
        let used = of_site().map(|block| block.joined.unwrap_or(block.asked)).max().unwrap_or(Time::ZERO);
        let waiting = of_site().filter(|block| matches!(block.state, State::Requested | State::Pending));
        let longest = waiting.map(|block| now.since(block.asked)).max();
        let health = self.sites.get(site.index()).copied().unwrap_or_default();
        health.expected_wait(now, used, longest, (usual, patience))
    }

    /// Needs that another site should be asked for; `patience` of the sites.
    pub fn overdue(&self, now: Time, patience: &dyn Fn(SiteId) -> Duration) -> Vec<OverdueNeed> {
        if self.sites.len() < 2 {
            return Vec::new();
        }
        let overdue = |(&need, open): (&BlockId, &OpenNeed)| {
            let waiting: Vec<&super::Block> = self.of_need(need).filter(|block| block.is_coming()).collect();
            let is_due = waiting.last().is_none_or(|last| now.since(last.asked) >= patience(last.site));
            let waits_at = waiting.iter().map(|block| block.site).collect();
            is_due.then(|| OverdueNeed { need, wanted: open.wanted.clone(), waits_at })
        };
        self.open.iter().filter_map(overdue).collect()
    }

    /// Drops a need that no site can be asked for.
    pub fn give_up(&mut self, need: BlockId) {
        self.open.remove(&need);
    }

    /// The blocks of an open need, oldest first.
    fn of_need(&self, need: BlockId) -> impl Iterator<Item = &super::Block> {
        let ids = self.open.get(&need).into_iter().flat_map(|open| &open.blocks);
        ids.filter_map(|id| self.table.get(id))
    }

    /// The sites at which others than a block wait for the same node.
    pub fn rivals(&self, id: BlockId) -> impl Iterator<Item = SiteId> {
        let need = self.get(id).map_or(id, |block| block.need);
        self.of_need(need).filter(move |block| block.id != id && block.is_coming()).map(|block| block.site)
    }

    /// What follows for the need of a block from an event that has changed its state.
    pub(super) fn follow_need(&mut self, now: Time, id: BlockId, event: &BlockEvent) {
        let Some(need) = self.get(id).map(|block| block.need) else { return };
        match event {
            BlockEvent::Granted(_) | BlockEvent::Joined => {
                self.note_outwaited(now, id);
                self.close_need(now, need, id);
            }
            BlockEvent::Drain => self.close_need(now, need, id),
            BlockEvent::Refused(_) | BlockEvent::Ended { .. } if self.sites.len() < 2 => self.give_up(need),
            _ => {}
        }
    }

    /// Withdraws the other blocks of a need that is open no more.
    fn close_need(&mut self, now: Time, need: BlockId, kept: BlockId) {
        for other in self.open.remove(&need).into_iter().flat_map(|open| open.blocks) {
            if other != kept && self.is_coming(other) {
                self.step(now, other, BlockEvent::Drain);
            }
        }
    }

    /// The sites that were asked before the one that granted let wait for longer.
    fn note_outwaited(&mut self, now: Time, granted: BlockId) {
        let Some(block) = self.get(granted).filter(|block| self.open.contains_key(&block.need)) else { return };
        let before = self.of_need(block.need).filter(|other| other.id < granted && other.is_coming());
        let before: Vec<(SiteId, Duration)> = before.map(|other| (other.site, now.since(other.asked))).collect();
        for (site, waited) in before {
            self.health(site).into_iter().for_each(|health| health.was_outwaited(now, waited));
        }
    }

    /// A block of a site took part.
    pub(super) fn site_works(&mut self, site: SiteId) {
        if let Some(health) = self.health(site) {
            health.works();
        }
    }

    /// A request to a site was refused, or a start there has failed.
    pub(super) fn site_failed(&mut self, now: Time, site: SiteId, refused: bool) {
        let is_one_of_several = self.sites.len() > 1;
        let Some(health) = self.health(site) else { return };
        health.fails(now, refused, is_one_of_several);
        if let Some(why) = health.has_failed()
            && self.sites.iter().all(|site| site.has_failed().is_some())
        {
            self.pause(if is_one_of_several {
                format!("every site has failed, and of the last one {why}")
            } else {
                why
            });
        }
    }
}

#[cfg(test)]
mod tests;
