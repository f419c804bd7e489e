//! Arguments that `plan` and `simulate` share: the cluster, durations and amounts of money.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use crate::job::units::parse_duration;
use crate::job::{Diagnostics, Job, NodeTerms, Site};
use crate::runtime::{kind_of, planned_sites};
use crate::scale::estimate::{History, LogNormal, Moment};
use crate::sim::Cluster;
use crate::workload::PreparedJob;

pub(super) fn duration(text: &str) -> Result<Duration, String> {
    parse_duration(text).map_err(|error| error.to_string())
}

pub(super) fn money(text: &str) -> Result<f64, String> {
    let amount = text.parse::<f64>().ok().filter(|amount| amount.is_finite() && *amount > 0.0);
    amount.ok_or_else(|| "write an amount above zero, e.g. 40 or 2.5".to_owned())
}

/// How long nodes of each `[[site]]` took to join in earlier runs, by its name.
pub(super) type Waits = BTreeMap<String, LogNormal>;

/// What earlier runs say of the waits at the sites of a job, at this moment.
pub(super) fn learnt_waits(history: &History, job: &Job, moment: Moment) -> Waits {
    let wait = |site: &Site| Some((site.name()?.to_owned(), history.delay(&kind_of(Some(site)), moment)?));
    job.sites.iter().filter_map(wait).collect()
}

/// The cluster and the text of its file; without a file, a cluster with the job's prices and the
/// `waits` at its sites.
pub(super) fn cluster_of(
    prepared: &PreparedJob,
    file: Option<&Path>,
    slots: Option<u32>,
    waits: &Waits,
) -> Result<(Cluster, String), Diagnostics> {
    let Some(file) = file else { return Ok((default_cluster(prepared, slots, waits), String::new())) };
    let (cluster, text) = Cluster::load(file)?;
    let cluster = match slots {
        Some(slots) => cluster.with_slots(slots),
        None => cluster,
    };
    Ok((cluster, text.to_string()))
}

/// Cluster of nodes with the job's prices, used when no cluster file is given: of the first ranks,
/// and of the types that further nodes may have, in the order in which they are asked. By default a
/// node has as many slots as the widest task asks for.
fn default_cluster(prepared: &PreparedJob, slots: Option<u32>, waits: &Waits) -> Cluster {
    let job = &prepared.job;
    let widest = slots.unwrap_or_else(|| job.groups.iter().map(|group| group.cpus).max().unwrap_or(1));
    let cluster = Cluster::of_job(&job.cost, widest).with_labels_of(job);
    let learnt = |site: &Site| site.name().and_then(|name| waits.get(name)).cloned();
    let sites = planned_sites(job, widest, &learnt, false);
    let of_sites = sites.iter().filter_map(|site| job.sites.get(site.site as usize)?.terms.as_ref());
    let types: Vec<(&str, &NodeTerms)> = of_sites.map(|terms| (&*terms.name, &terms.node)).collect();
    let first = job.scaling.as_ref().map_or(1, |scaling| scaling.min_ranks).max(1);
    cluster.with_types(first, &types).with_waits(waits)
}
