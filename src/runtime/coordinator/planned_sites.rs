//! What is known of the `[[site]]`s of a job before they are asked for nodes: prices, limits, and
//! how long they probably let wait.

use std::time::Duration;

use super::pricing::type_of;
use crate::capacity::{SiteId, slurm};
use crate::job::{Job, ProviderKind, Site, SiteTerms};
use crate::journal::unix_now_ns;
use crate::scale::estimate::{DelayEstimate, LogNormal};
use crate::scale::sites::rank_sites;
use crate::scale::{NodeTypeId, SiteView, WaitSource};

/// Upper bound of a question to Slurm before the run.
const PLAN_QUESTION_LIMIT: Duration = Duration::from_secs(5);

/// Time that a node takes to join, before one has been observed.
pub(super) fn default_delay(kind: ProviderKind) -> Duration {
    match kind {
        ProviderKind::Slurm | ProviderKind::Commands => Duration::from_secs(15),
        _ => Duration::from_secs(1),
    }
}

/// The wait in seconds at a site, and what it is based on: what earlier runs observed, and the
/// batch system's estimate.
pub(super) fn usual_wait(
    kind: ProviderKind,
    learnt: Option<LogNormal>,
    of_batch_system: Option<f64>,
) -> (f64, WaitSource) {
    let delay = DelayEstimate::assumed(default_delay(kind)).recalled(learnt).with_batch_estimate(of_batch_system);
    (delay.distribution().quantiles().q50, delay.source())
}

/// The `[[site]]`s of a job before it runs, in the order in which they would be asked; `learnt` is
/// how long a node of a site takes to join, as earlier runs observed it, `base_slots` the slots of
/// the first ranks. `ask`: Slurm is asked when jobs would start.
pub fn planned_sites(
    job: &Job,
    base_slots: u32,
    learnt: &dyn Fn(&Site) -> Option<LogNormal>,
    ask: bool,
) -> Vec<SiteView> {
    let starts = if ask { starts_of(&job.sites) } else { vec![None; job.sites.len()] };
    let view = |((place, site), start): ((SiteId, &Site), &Option<Duration>)| {
        let (terms, kind) = (site.terms.as_ref()?, site.capacity.provider);
        let estimate = start.map(|start| (start + default_delay(kind)).as_secs_f64());
        Some(view_of((place, type_of(job, Some(place)), terms), usual_wait(kind, learnt(site), estimate), base_slots))
    };
    let mut views: Vec<SiteView> = (0..).map(SiteId).zip(&job.sites).zip(&starts).filter_map(view).collect();
    rank_sites(&mut views);
    views
}

/// For each site the time from now until a job would start there, by its own estimate. All are
/// asked at once.
fn starts_of(sites: &[Site]) -> Vec<Option<Duration>> {
    let ask = |site: &Site| {
        let start = slurm::estimated_start(&site.capacity, PLAN_QUESTION_LIMIT)?;
        Some(Duration::from_secs(start.saturating_sub(unix_now_ns() / 1_000_000_000)))
    };
    std::thread::scope(|scope| {
        let asked: Vec<_> = sites.iter().map(|site| scope.spawn(move || ask(site))).collect();
        asked.into_iter().map(|asked| asked.join().ok().flatten()).collect()
    })
}

/// A site that can be asked for all the nodes that it may hold.
pub(super) fn view_of(
    (place, node_type, terms): (SiteId, NodeTypeId, &SiteTerms),
    (wait_s, wait_from): (f64, WaitSource),
    base_slots: u32,
) -> SiteView {
    SiteView {
        site: place.0,
        name: terms.name.clone(),
        node_type,
        node_hour: terms.node.node_hour,
        slots: terms.node.slots.unwrap_or(base_slots),
        wait_s,
        wait_from,
        patience_s: terms.patience.as_secs_f64(),
        bandwidth: terms.bandwidth,
        room: terms.node.limit,
        closed: None,
    }
}
