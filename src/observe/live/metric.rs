//! Current values of the metrics that alerts can name: see [`crate::job::alert::METRICS`].

use super::{Live, api};
use crate::model::{RankState, State, Vitals};
use crate::observe::PoolSample;

/// Current value of a metric; `None` if it is unknown, e.g. a forecast before a task has ended.
pub(super) fn value(live: &Live, name: &str) -> Option<f64> {
    let totals = &live.totals;
    let (running, queued) = live.running_and_queued();
    let spending = live.spending.as_ref();
    let forecast = live.forecast();
    Some(match name {
        "elapsed_s" => live.elapsed_s(),
        "remaining_s" => live.remaining_s()?,
        "finish_s" => forecast?.finish_q50_s,
        "progress" => totals.ended() as f64 / f64::from(live.view.tasks_to_run().max(1)),
        "completed" => totals.of(State::Completed) as f64,
        "failed" => totals.failed() as f64,
        "skipped" => totals.of(State::Skipped) as f64,
        "cancelled" => totals.of(State::Cancelled) as f64,
        "running" => running as f64,
        "queued" => queued as f64,
        "pending" => api::pending(live) as f64,
        "tasks_per_s" => live.tasks_per_s(),
        "error_rate" => error_rate(live)?,
        "ranks" => live.active().count() as f64,
        "ranks_lost" => live.members.iter().filter(|member| member.state == RankState::Lost).count() as f64,
        "slots" => live.slots() as f64,
        "used" => live.used()?,
        "balance" => live.balance()?,
        "spent" => spending?.spent(),
        "budget_used" => spending?.spent() / spending?.budget?,
        "cost_forecast" => forecast?.cost_q50,
        "cpu" => live.vitals.most(|vitals| vitals.node_cpu)?,
        "memory" => live.vitals.most(|vitals| vitals.node_memory_used as f64 / vitals.node_memory.max(1) as f64)?,
        "io_stall" => live.vitals.most(|vitals| vitals.io_stall)?,
        "rank_memory" => live.vitals.most(|vitals| vitals.memory as f64)?,
        "gpu" => gpus(live, &|vitals| vitals.gpu_busy)?,
        "gpu_memory" => gpus(live, &|vitals| vitals.gpu_memory_used as f64 / vitals.gpu_memory as f64)?,
        "pool_used" => live.pools().map(PoolSample::share).max_by(f64::total_cmp)?,
        "pool_waiting" => live.pools().map(|pool| f64::from(pool.waiting)).max_by(f64::total_cmp)?,
        "silence_s" => live.elapsed_s() - live.view.session().attempts.last().map_or(0.0, |a| a.end.seconds()),
        family => return of_family(live, family),
    })
}

fn of_family(live: &Live, name: &str) -> Option<f64> {
    if let Some(name) = name.strip_prefix("custom.") {
        return live.measures.get(name).map(|figure| figure.last);
    }
    let class = |class: &str| live.totals.number_of(class).map(|number| &live.totals.classes()[number]);
    match name.split_once('.')? {
        ("p50_s", name) => Some(class(name)?.ran.quantile_s(0.5)),
        ("p95_s", name) => Some(class(name)?.ran.quantile_s(0.95)),
        ("wait_p95_s", name) => Some(class(name)?.waited.quantile_s(0.95)),
        _ => None,
    }
}

/// Maximum of a value over the ranks with GPUs.
fn gpus(live: &Live, value: &dyn Fn(&Vitals) -> f64) -> Option<f64> {
    let with_gpus = live.vitals.latest().filter(|vital| vital.vitals.gpu_memory > 0);
    with_gpus.map(|vital| value(&vital.vitals)).max_by(f64::total_cmp)
}

/// Share of the attempts that failed.
fn error_rate(live: &Live) -> Option<f64> {
    let (attempts, failed) =
        live.totals.ranks.values().fold((0, 0), |(n, failed), rank| (n + rank.attempts, failed + rank.failed));
    (attempts > 0).then(|| failed as f64 / attempts as f64)
}
