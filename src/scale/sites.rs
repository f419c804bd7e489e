//! Which site is asked for a node: the cheapest that meets the need.
//!
//! A site that fails or is full is not asked. Of the others those come first that are expected to
//! grant a node within their patience; then the lower price per slot counts, the shorter wait, and
//! the higher bandwidth to rank 0.

use std::cmp::Ordering;
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::price::NodeTypeId;
use crate::text::seconds;

/// What an expected wait is based on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum WaitSource {
    /// Nothing is known: a usual value.
    #[default]
    Assumed,
    /// Nodes that joined in this run or in earlier ones.
    Learnt,
    /// Slurm's estimate of when a job would start.
    Slurm,
    /// Both of these.
    LearntAndSlurm,
    /// Requests that wait now, or that have lost against another site.
    Requests,
}

impl WaitSource {
    /// As tables show it.
    pub fn name(self) -> &'static str {
        match self {
            WaitSource::Assumed => "assumed",
            WaitSource::Learnt => "learnt",
            WaitSource::Slurm => "Slurm",
            WaitSource::LearntAndSlurm => "both",
            WaitSource::Requests => "requests",
        }
    }
}

/// A site at one moment.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SiteView {
    /// Its place in the job.
    pub site: u32,
    /// Its name.
    pub name: String,
    /// The type of its nodes.
    pub node_type: NodeTypeId,
    /// Price of one of its nodes for one hour.
    pub node_hour: f64,
    /// Slots of a rank there.
    pub slots: u32,
    /// Time in seconds that a request is expected to wait.
    pub wait_s: f64,
    /// What that is based on.
    pub wait_from: WaitSource,
    /// Time in seconds after which the next site is asked, too.
    pub patience_s: f64,
    /// Bytes per second between its nodes and rank 0, if known.
    pub bandwidth: Option<u64>,
    /// Number of further nodes that it can be asked for; `None`: no limit is known.
    pub room: Option<u32>,
    /// Why it is not asked now, if so.
    pub closed: Option<String>,
}

impl SiteView {
    /// Price of one slot for one hour.
    pub fn slot_hour(&self) -> f64 {
        self.node_hour / f64::from(self.slots.max(1))
    }

    /// True if it can be asked for a node now.
    pub fn can_be_asked(&self) -> bool {
        self.closed.is_none() && self.room != Some(0)
    }

    fn is_late(&self) -> bool {
        self.wait_s > self.patience_s
    }

    /// Its patience; `None`: it waits for as long as it takes.
    pub fn patience(&self) -> Option<Duration> {
        Duration::try_from_secs_f64(self.patience_s).ok()
    }

    /// Orders sites by how well they serve a need.
    fn compare(&self, other: &SiteView) -> Ordering {
        let flags = |site: &SiteView| (!site.can_be_asked(), site.is_late());
        flags(self)
            .cmp(&flags(other))
            .then(self.slot_hour().total_cmp(&other.slot_hour()))
            .then(self.wait_s.total_cmp(&other.wait_s))
            .then(other.bandwidth.cmp(&self.bandwidth))
            .then(self.site.cmp(&other.site))
    }

    /// Why it was asked, or not, if `asked` was.
    pub fn verdict(&self, asked: Option<&SiteView>) -> String {
        match (asked, &self.closed) {
            (Some(asked), _) if asked.site == self.site => "asked".to_owned(),
            (_, Some(why)) => why.clone(),
            _ if self.room == Some(0) => "full".to_owned(),
            _ if self.is_late() => "waits longer than its patience".to_owned(),
            (Some(asked), _) if self.slot_hour() > asked.slot_hour() => "dearer".to_owned(),
            _ => String::new(),
        }
    }
}

/// Why a site is asked for a node that other sites were not asked for before; `preferred` is the
/// type of nodes that was decided.
pub fn why_asked(site: u32, views: &[SiteView], preferred: Option<NodeTypeId>) -> &'static str {
    let is_of_type = |view: &&SiteView| view.site == site && Some(view.node_type) == preferred;
    match views.first() {
        Some(first) if first.site == site => "the cheapest that meets the need",
        _ if views.iter().any(|view| is_of_type(&view)) => "as decided",
        _ => "the cheapest that is left",
    }
}

/// Why the next site is asked for a node that is waited for at others.
pub fn why_next(waits_at: &[u32], views: &[SiteView]) -> String {
    let name = |site: &u32| views.iter().find(|view| view.site == *site).map(|view| format!("`{}`", view.name));
    let names: Vec<String> = waits_at.iter().filter_map(name).collect();
    match &names[..] {
        [] => "the sites asked before have failed".to_owned(),
        [name] => format!("{name} has not granted it within its patience"),
        names => format!("{} have not granted it within their patience", names.join(", ")),
    }
}

/// What the column `from` of the table says, for people who read it.
pub const WAITS: &str = "wait from: learnt = nodes that joined in this or earlier runs, Slurm = its own estimate, \
                         both = these two, requests = present requests, assumed = nothing is known";

/// Brings sites into the order in which they are asked.
pub fn rank_sites(sites: &mut [SiteView]) {
    sites.sort_by(SiteView::compare);
}

/// A table of sites, a line each behind a heading; `asked` is the site that was asked.
pub fn site_table(sites: &[SiteView], asked: Option<u32>) -> Vec<String> {
    let asked = sites.iter().find(|site| Some(site.site) == asked);
    let line = |site: &SiteView| {
        let room = site.room.map_or_else(|| "-".to_owned(), |room| room.to_string());
        let patience = site.patience().map_or_else(|| "-".to_owned(), |patience| seconds(patience.as_secs_f64()));
        let bandwidth = site.bandwidth.map_or_else(|| "-".to_owned(), |bytes| format!("{:.3}", bytes as f64 / 1e9));
        let line = format!(
            "{} {:<16} {:>9.4} {:>5} {:>9} {:<8} {:>9} {:>5} {:>8}  {}",
            if asked.is_some_and(|asked| asked.site == site.site) { "*" } else { " " },
            site.name,
            site.node_hour,
            site.slots,
            seconds(site.wait_s),
            site.wait_from.name(),
            patience,
            room,
            bandwidth,
            site.verdict(asked),
        );
        line.trim_end().to_owned()
    };
    let heading = "  site               per hour slots      wait from      patience  room     GB/s";
    std::iter::once(heading.to_owned()).chain(sites.iter().map(line)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scale::testing::site_view as site;

    fn order(sites: Vec<SiteView>) -> Vec<u32> {
        let mut sites = sites;
        rank_sites(&mut sites);
        sites.iter().map(|site| site.site).collect()
    }

    #[test]
    fn the_cheapest_that_meets_the_need_comes_first() {
        assert_eq!(order(vec![site(0, 3.0), site(1, 1.0), site(2, 2.0)]), [1, 2, 0]);
        let wide = SiteView { slots: 16, ..site(0, 3.0) };
        assert_eq!(order(vec![site(1, 1.0), wide]), [0, 1], "it is the slot that counts");
        let late = SiteView { wait_s: 61.0, ..site(1, 1.0) };
        let full = SiteView { room: Some(0), ..site(2, 0.5) };
        let closed = SiteView { closed: Some("it refused".into()), ..site(3, 0.1) };
        assert_eq!(order(vec![closed.clone(), full.clone(), late.clone(), site(0, 3.0)]), [0, 1, 3, 2]);
        let near = SiteView { bandwidth: Some(1 << 30), ..site(2, 1.0) };
        let soon = SiteView { wait_s: 5.0, ..site(3, 1.0) };
        assert_eq!(order(vec![site(1, 1.0), near, soon]), [3, 2, 1], "the wait, then the way to rank 0");
        let table = site_table(&[site(0, 3.0), late, full, closed], Some(0));
        let ends = ["asked", "waits longer than its patience", "full", "it refused"];
        assert!(table[1..].iter().zip(ends).all(|(line, end)| line.ends_with(end)), "{table:#?}");
        let endless = SiteView { patience_s: Duration::MAX.as_secs_f64(), ..site(0, 1.0) };
        assert!(site_table(&[endless], None)[1].contains(" - "), "it waits for ever");
        assert!(table[1].contains(" assumed "), "{table:#?}");
        assert!(table[1].starts_with("* s0 ") && table[2].starts_with("  s1 "), "{table:#?}");
    }
}
