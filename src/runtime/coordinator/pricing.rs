//! The prices and terms of a real run.

use std::collections::BTreeSet;
use std::time::Duration;

use serde_json::{Value, json};

use crate::capacity::{Bill, SiteId};
use crate::job::{Cost, Job, PolicyKind, Site};
use crate::journal::{RankInfo, Terms};
use crate::model::{NodeOffer, Time, total};
use crate::scale::{NodeType, NodeTypeId, Prices};

/// The terms of a job on these ranks; `None` if it names neither a policy nor a price.
pub(super) fn terms(job: &Job, ranks: &[RankInfo]) -> Option<Terms> {
    let policy = job.scaling.as_ref().map_or(PolicyKind::Fixed, |scaling| scaling.policy).name();
    is_billed(job).then(|| Terms { policy: policy.to_owned(), prices: prices(job, ranks), simulated: None })
}

/// True for a job that names a policy or a price.
fn is_billed(job: &Job) -> bool {
    job.scaling.is_some() || job.cost != Cost::default()
}

/// The bill of a session for its nodes up to `now`; `None` if the job names neither a policy nor a
/// price.
pub(super) fn bill(job: &Job, bills: impl Iterator<Item = Bill>, now: Time) -> Option<f64> {
    let prices = is_billed(job).then(|| Prices::of_job(&job.cost, 1).with_sites(&job.sites))?;
    Some(total(bills.map(|bill| prices.bill(type_of(job, bill.site), bill.from, bill.to.unwrap_or(now)))))
}

/// The time in seconds that is charged for a node of a site.
pub(super) fn charged_s(job: &Job, site: Option<SiteId>, from: Time, to: Time) -> f64 {
    let prices = Prices::of_job(&job.cost, 1).with_sites(&job.sites);
    prices.charged(type_of(job, site), from, to).as_secs_f64()
}

/// The bill of a session for its nodes up to `now`, by type, for a job that may have several types.
pub(super) fn types(job: &Job, bills: impl Iterator<Item = Bill>, now: Time) -> Vec<Value> {
    let prices = Prices::of_job(&job.cost, 1).with_sites(&job.sites);
    if prices.nodes.len() < 2 {
        return Vec::new();
    }
    let bills: Vec<Bill> = bills.collect();
    let of_type = |(number, node): (u32, &NodeType)| {
        let of_type = bills.iter().filter(|bill| type_of(job, bill.site) == NodeTypeId(number));
        let held: Vec<Duration> = of_type.clone().map(|bill| bill.to.unwrap_or(now).since(bill.from)).collect();
        (!held.is_empty()).then(|| {
            json!({
                "node_type": node.name,
                "nodes": held.len(),
                "nodes_now": of_type.filter(|bill| bill.to.is_none()).count(),
                "node_hour": node.node_hour,
                "billed_node_s": total(held.iter().map(|held| node.charged(*held).as_secs_f64())),
                "cost": total(held.iter().map(|held| node.bill(*held))),
            })
        })
    };
    (0..).zip(&prices.nodes).filter_map(of_type).collect()
}

/// The type of the nodes of a site; without one, of those that the run began with.
pub(super) fn type_of(job: &Job, site: Option<SiteId>) -> NodeTypeId {
    site.map_or(NodeTypeId(0), |site| Prices::type_of_site(job, site.index()))
}

/// The price list. Without a provider the run has only the nodes of these ranks.
pub(super) fn prices(job: &Job, ranks: &[RankInfo]) -> Prices {
    let nodes: BTreeSet<&str> = ranks.iter().map(|info| info.node.as_str()).collect();
    let slots = ranks.iter().map(|info| info.slots).max().filter(|slots| *slots > 0).unwrap_or(1);
    let mut prices = Prices::of_job(&job.cost, slots);
    let more = job.scaling.as_ref().filter(|_| !job.sites.is_empty()).map_or(0, |s| s.max_ranks);
    prices.nodes.iter_mut().for_each(|node| node.limit = Some(nodes.len() as u32 + more));
    prices.with_sites(&job.sites)
}

/// What is known of the nodes of a site, besides their labels, before one is there.
pub(super) fn known_of(site: Option<&Site>) -> NodeOffer {
    let terms = site.and_then(|site| Some((&site.capacity, &site.terms.as_ref()?.node)));
    terms.map_or_else(NodeOffer::default, |(capacity, node)| NodeOffer {
        labels: None,
        slots: capacity.slots,
        memory: node.memory,
        gpus: node.gpus,
    })
}
