//! Which site is asked for a node: the cheapest that meets the need.
//!
//! A site that fails or is full is not asked. Of the others those come first that are expected to
//! grant a node within their patience; then the lower price per slot counts, the shorter wait, and
//! the higher bandwidth to rank 0.

use std::cmp::Ordering;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::price::NodeTypeId;
use crate::text::seconds;

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
    fn verdict(&self, asked: Option<&SiteView>) -> String {
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

/// Brings sites into the order in which they are asked.
pub fn rank_sites(sites: &mut [SiteView]) {
    sites.sort_by(SiteView::compare);
}

/// A table of sites, a line each behind a heading; `asked` is the site that was asked.
pub fn site_table(sites: &[SiteView], asked: Option<u32>) -> Vec<String> {
    let asked = sites.iter().find(|site| Some(site.site) == asked);
    let line = |site: &SiteView| {
        let room = site.room.map_or_else(|| "-".to_owned(), |room| room.to_string());
        let is_endless = Duration::try_from_secs_f64(site.patience_s).is_err();
        let patience = if is_endless { "-".to_owned() } else { seconds(site.patience_s) };
        let bandwidth = site.bandwidth.map_or_else(|| "-".to_owned(), |bytes| format!("{:.3}", bytes as f64 / 1e9));
        let line = format!(
            "{} {:<16} {:>9.4} {:>5} {:>9} {:>9} {:>5} {:>8}  {}",
            if asked.is_some_and(|asked| asked.site == site.site) { "*" } else { " " },
            site.name,
            site.node_hour,
            site.slots,
            seconds(site.wait_s),
            patience,
            room,
            bandwidth,
            site.verdict(asked),
        );
        line.trim_end().to_owned()
    };
    let heading = "  site               per hour slots      wait  patience  room     GB/s";
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
        assert!(table[1].starts_with("* s0 ") && table[2].starts_with("  s1 "), "{table:#?}");
    }
}
