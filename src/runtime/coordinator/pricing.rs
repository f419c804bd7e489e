//! The prices and terms of a real run.

use std::collections::BTreeSet;

use crate::job::{Cost, Job, PolicyKind, ProviderKind};
use crate::journal::{RankInfo, Terms};
use crate::scale::Prices;

/// The terms of a job on these ranks; `None` if it names neither a policy nor a price.
pub(super) fn terms(job: &Job, ranks: &[RankInfo]) -> Option<Terms> {
    let priced = job.cost != Cost::default();
    let policy = job.scaling.as_ref().map_or(PolicyKind::Fixed, |scaling| scaling.policy).name();
    (job.scaling.is_some() || priced).then(|| Terms {
        policy: policy.to_owned(),
        prices: prices(job, ranks),
        simulated: None,
    })
}

/// The price list. Without a provider the run has only the nodes of these ranks.
pub(super) fn prices(job: &Job, ranks: &[RankInfo]) -> Prices {
    let nodes: BTreeSet<&str> = ranks.iter().map(|info| info.node.as_str()).collect();
    let slots = ranks.iter().map(|info| info.slots).max().filter(|slots| *slots > 0).unwrap_or(1);
    let mut prices = Prices::of_job(&job.cost, slots);
    let more = job.scaling.as_ref().filter(|_| job.capacity.provider != ProviderKind::None).map_or(0, |s| s.max_ranks);
    prices.nodes.iter_mut().for_each(|node| node.limit = Some(nodes.len() as u32 + more));
    prices
}
