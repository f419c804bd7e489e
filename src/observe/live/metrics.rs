//! `/metrics`: the run in the Prometheus text format
//! (<https://prometheus.io/docs/instrumenting/exposition_formats/>). Names follow its conventions:
//! base units, `_total` for counters.

use std::fmt::Write as _;

use super::members::RankEntry;
use super::{Live, api};
use crate::model::{RankState, State, Vitals};
use crate::observe::PoolSample;
use crate::observe::latency::Durations;
use crate::observe::vitals::Vital;

/// Upper bounds of the histogram buckets, in seconds.
const BUCKETS: [f64; 18] =
    [1e-5, 1e-4, 1e-3, 1e-2, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 1800.0, 3600.0, 86_400.0];
/// Maximum number of classes and of ranks with their own series, to limit the load on the
/// collector.
const MAX_SERIES: usize = 500;

/// Renders all metrics.
pub(super) fn text(live: &Live) -> String {
    let mut page = MetricsPage::default();
    about(&mut page, live);
    money(&mut page, live);
    tasks(&mut page, live);
    classes(&mut page, live);
    staging(&mut page, live);
    ranks(&mut page, live);
    pools(&mut page, live);
    vitals(&mut page, live);
    measures(&mut page, live);
    page.text
}

#[derive(Default)]
struct MetricsPage {
    text: String,
}

impl MetricsPage {
    fn head(&mut self, name: &str, kind: &str, help: &str) {
        let _ = write!(self.text, "# HELP {name} {help}\n# TYPE {name} {kind}\n");
    }

    fn value(&mut self, name: &str, labels: &[(&str, &str)], value: f64) {
        self.text += name;
        if !labels.is_empty() {
            let labels: Vec<String> = labels.iter().map(|(key, text)| format!("{key}=\"{}\"", escaped(text))).collect();
            let _ = write!(self.text, "{{{}}}", labels.join(","));
        }
        let _ = writeln!(self.text, " {value}");
    }

    fn one(&mut self, name: &str, kind: &str, help: &str, value: f64) {
        self.head(name, kind, help);
        self.value(name, &[], value);
    }

    /// Writes the quantiles 0.1, 0.5 and 0.9.
    fn quantiles(&mut self, name: &str, values: [f64; 3]) {
        for (quantile, value) in ["0.1", "0.5", "0.9"].into_iter().zip(values) {
            self.value(name, &[("quantile", quantile)], value);
        }
    }

    fn histogram(&mut self, name: &str, class: &str, durations: &Durations) {
        for bound in BUCKETS {
            let labels = [("class", class), ("le", &*bound.to_string())];
            self.value(&format!("{name}_bucket"), &labels, durations.at_most(bound) as f64);
        }
        self.value(&format!("{name}_bucket"), &[("class", class), ("le", "+Inf")], durations.count() as f64);
        self.value(&format!("{name}_sum"), &[("class", class)], durations.sum_s());
        self.value(&format!("{name}_count"), &[("class", class)], durations.count() as f64);
    }
}

/// Escapes the value of a label.
fn escaped(text: &str) -> String {
    text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

fn about(page: &mut MetricsPage, live: &Live) {
    let session = live.view.session();
    page.head("phalanx_run_info", "gauge", "The run; always 1.");
    let labels = [
        ("run", &*live.view.dir.name()),
        ("job", live.view.subject().job.name()),
        ("version", &*session.began.phalanx),
        ("state", live.view.state().name()),
    ];
    page.value("phalanx_run_info", &labels, 1.0);
    let began = session.began.unix_ns as f64 / 1e9;
    page.one("phalanx_run_start_time_seconds", "gauge", "Start of the session as Unix time.", began);
    page.one("phalanx_run_elapsed_seconds", "gauge", "Duration of the session.", live.elapsed_s());
    if let Some(left) = live.remaining_s() {
        page.one("phalanx_run_remaining_seconds", "gauge", "Estimated remaining time.", left);
    }
    page.one("phalanx_slots", "gauge", "Slots of the active ranks.", live.slots() as f64);
    page.head("phalanx_ranks", "gauge", "Current and former ranks of the run, by state.");
    for state in RankState::ALL {
        let ranks = live.members.iter().filter(|member| member.state == state).count();
        page.value("phalanx_ranks", &[("state", state.name())], ranks as f64);
    }
}

/// Writes cost and forecast, if nodes have a price.
fn money(page: &mut MetricsPage, live: &Live) {
    let Some(spending) = &live.spending else { return };
    page.one("phalanx_cost_total", "counter", "Cost of the run so far, as billed.", spending.spent());
    if let Some(budget) = spending.budget {
        page.one("phalanx_cost_budget", "gauge", "Budget of the run.", budget);
    }
    let Some(forecast) = live.forecast() else { return };
    page.head("phalanx_cost_forecast", "gauge", "Forecast cost of the run, by quantile.");
    page.quantiles("phalanx_cost_forecast", [forecast.cost_q10, forecast.cost_q50, forecast.cost_q90]);
    let name = "phalanx_run_finish_seconds";
    page.head(name, "gauge", "Forecast end of the run since its start, by quantile.");
    page.quantiles(name, [forecast.finish_q10_s, forecast.finish_q50_s, forecast.finish_q90_s]);
}

fn tasks(page: &mut MetricsPage, live: &Live) {
    let (running, queued) = live.running_and_queued();
    page.head("phalanx_tasks", "gauge", "Tasks of the job by state.");
    let mut one =
        |state: State, n: u64| page.value("phalanx_tasks", &[("state", &*state.name().to_lowercase())], n as f64);
    one(State::Pending, api::pending(live));
    one(State::Ready, queued);
    one(State::Running, running);
    for state in State::ALL.into_iter().skip(3) {
        one(state, live.totals.of(state));
    }
    page.value("phalanx_tasks", &[("state", "left_out")], f64::from(live.view.session().left_out_count()));
    if let Some(balance) = live.balance() {
        page.one("phalanx_balance_ratio", "gauge", "Mean over maximum of the work per slot of ranks.", balance);
    }
    page.one("phalanx_tasks_per_second", "gauge", "Recent number of tasks that end per second.", live.tasks_per_s());
    page.one("phalanx_work_seconds_total", "counter", "Slot-seconds used by attempts.", live.totals.work_s());
}

fn classes(page: &mut MetricsPage, live: &Live) {
    let classes = live.totals.classes();
    page.head("phalanx_attempts_total", "counter", "Ended attempts, by class and state.");
    let mut attempts: Vec<_> = live.totals.attempts.iter().filter(|((class, _), _)| *class < MAX_SERIES).collect();
    attempts.sort_unstable_by_key(|((class, state), _)| (*class, *state as usize));
    for ((class, state), n) in attempts {
        let labels = [("class", &*classes[*class].name), ("state", &*state.name().to_lowercase())];
        page.value("phalanx_attempts_total", &labels, *n as f64);
    }
    let mut cached: Vec<_> = live.totals.cached.iter().filter(|(class, _)| **class < MAX_SERIES).collect();
    cached.sort_unstable();
    if !cached.is_empty() {
        page.head("phalanx_cache_hits_total", "counter", "Results taken from the result cache, by class.");
    }
    for (class, n) in cached {
        page.value("phalanx_cache_hits_total", &[("class", &*classes[*class].name)], *n as f64);
    }
    page.head("phalanx_task_run_seconds", "histogram", "Run time of attempts, by class.");
    classes
        .iter()
        .take(MAX_SERIES)
        .for_each(|class| page.histogram("phalanx_task_run_seconds", &class.name, &class.ran));
    page.head("phalanx_task_wait_seconds", "histogram", "Time that attempts waited for a slot, by class.");
    classes
        .iter()
        .take(MAX_SERIES)
        .for_each(|class| page.histogram("phalanx_task_wait_seconds", &class.name, &class.waited));
}

fn ranks(page: &mut MetricsPage, live: &Live) {
    type Value = fn(&super::totals::RankTotals) -> f64;
    let series: [(&str, &str, Value); 2] = [
        ("phalanx_rank_attempts_total", "Ended attempts, by rank.", |totals| totals.attempts as f64),
        ("phalanx_rank_work_seconds_total", "Slot-seconds used by attempts, by rank.", |totals| totals.work_s),
    ];
    for (name, help, value) in series {
        page.head(name, "counter", help);
        for info in live.members.iter().take(MAX_SERIES) {
            let of = live.totals.ranks.get(&info.rank).map_or(0.0, value);
            page.value(name, &[("rank", &*info.rank.to_string()), ("node", &*info.node)], of);
        }
    }
}

/// Writes what was moved for staged tasks, if there are any.
fn staging(page: &mut MetricsPage, live: &Live) {
    let Some(figures) = live.staging.figures() else { return };
    page.one("phalanx_staged_attempts_total", "counter", "Attempts at staged tasks.", figures.attempts as f64);
    page.head("phalanx_staging_bytes_total", "counter", "Bytes of files of staged tasks, by the way that they took.");
    for (way, bytes) in figures.ways() {
        page.value("phalanx_staging_bytes_total", &[("way", way)], bytes as f64);
    }
    let name = "phalanx_staging_seconds_total";
    page.head(name, "counter", "Time that staged tasks waited for their inputs, and that their outputs took.");
    page.value(name, &[("files", "inputs")], figures.in_s);
    page.value(name, &[("files", "outputs")], figures.out_s);
}

/// Writes what pools have in use.
fn pools(page: &mut MetricsPage, live: &Live) {
    type Value = fn(&PoolSample) -> Option<f64>;
    let series: [(&str, &str, Value); 4] = [
        ("phalanx_pool_in_use", "Units in use, by pool.", |it| it.rate_per_s.is_none().then_some(it.in_use.into())),
        ("phalanx_pool_capacity", "Units of a pool, if it has a limit.", |it| it.capacity.map(f64::from)),
        ("phalanx_pool_waiting", "Tasks that wait for units, by pool.", |it| Some(it.waiting.into())),
        ("phalanx_pool_rate_per_second", "Starts per second that a rate allows, by pool.", |it| it.rate_per_s),
    ];
    for (name, help, value) in series {
        let values: Vec<_> = live.pools().take(MAX_SERIES).filter_map(|it| Some((it, value(it)?))).collect();
        if !values.is_empty() {
            page.head(name, "gauge", help);
        }
        values.iter().for_each(|(it, value)| page.value(name, &[("pool", &*it.pool), ("kind", &*it.kind)], *value));
    }
}

/// Writes the usage of ranks and nodes. The figures of a node come from its first rank.
fn vitals(page: &mut MetricsPage, live: &Live) {
    let ranks: Vec<(&RankEntry, &Vital)> = live
        .active()
        .take(MAX_SERIES)
        .filter_map(|member| Some((member, &live.vitals.of(member.rank)?.last)))
        .collect();
    for (name, kind, help, value) in OF_RANKS {
        page.head(name, kind, help);
        for (member, vital) in &ranks {
            page.value(name, &[("rank", &*member.rank.to_string()), ("node", &*member.node)], value(&vital.vitals));
        }
    }
    let with_gpus = || ranks.iter().filter(|(_, vital)| vital.vitals.gpu_memory > 0);
    for (name, kind, help, value) in OF_GPUS.into_iter().filter(|_| with_gpus().next().is_some()) {
        page.head(name, kind, help);
        for (member, vital) in with_gpus() {
            page.value(name, &[("rank", &*member.rank.to_string()), ("node", &*member.node)], value(&vital.vitals));
        }
    }
    let mut nodes = ranks;
    nodes.sort_by(|a, b| a.0.node.cmp(&b.0.node));
    nodes.dedup_by(|a, b| a.0.node == b.0.node);
    for (name, kind, help, value) in OF_NODES {
        page.head(name, kind, help);
        nodes.iter().for_each(|(member, vital)| page.value(name, &[("node", &*member.node)], value(&vital.vitals)));
    }
}

/// A series: name, type, help text, and value.
type Series = (&'static str, &'static str, &'static str, fn(&Vitals) -> f64);

const OF_RANKS: [Series; 7] = [
    ("phalanx_rank_cpu_seconds_total", "counter", "CPU time of ranks and their tasks.", |v| v.cpu_s),
    ("phalanx_rank_memory_bytes", "gauge", "Memory in use by ranks and their tasks.", |v| v.memory as f64),
    ("phalanx_rank_read_bytes_total", "counter", "Bytes read from disks by ranks and their tasks.", |v| v.read as f64),
    ("phalanx_rank_messages_total", "counter", "Messages that ranks sent to each other.", |v| v.messages as f64),
    ("phalanx_rank_message_bytes_total", "counter", "Bytes in these messages.", |v| v.message_bytes as f64),
    ("phalanx_rank_stolen_tasks_total", "counter", "Tasks that ranks stole from each other.", |v| v.stolen as f64),
    ("phalanx_rank_written_bytes_total", "counter", "Bytes written to disks by ranks and their tasks.", |v| {
        v.written as f64
    }),
];

const OF_GPUS: [Series; 3] = [
    ("phalanx_rank_gpu_busy_ratio", "gauge", "Share of the time in which GPUs of ranks were busy.", |v| v.gpu_busy),
    ("phalanx_rank_gpu_memory_used_bytes", "gauge", "Memory in use on GPUs of ranks.", |v| v.gpu_memory_used as f64),
    ("phalanx_rank_gpu_memory_bytes", "gauge", "Memory of GPUs of ranks.", |v| v.gpu_memory as f64),
];

const OF_NODES: [Series; 4] = [
    ("phalanx_node_cpu_ratio", "gauge", "Share of a node's CPUs that is busy.", |v| v.node_cpu),
    ("phalanx_node_memory_used_bytes", "gauge", "Memory in use on a node.", |v| v.node_memory_used as f64),
    ("phalanx_node_memory_bytes", "gauge", "Memory of a node.", |v| v.node_memory as f64),
    ("phalanx_node_io_stall_ratio", "gauge", "Share of the time in which tasks of a node waited for I/O.", |v| {
        v.io_stall
    }),
];

/// Writes the statistics of values that tasks wrote.
fn measures(page: &mut MetricsPage, live: &Live) {
    if live.measures.is_empty() {
        return;
    }
    page.head("phalanx_custom", "gauge", "Latest value that a task wrote to $PHALANX_METRICS, by name.");
    live.measures
        .iter()
        .take(MAX_SERIES)
        .for_each(|(name, it)| page.value("phalanx_custom", &[("name", name)], it.last));
    page.head("phalanx_custom_mean", "gauge", "Mean of the values that tasks wrote, by name.");
    live.measures
        .iter()
        .take(MAX_SERIES)
        .for_each(|(name, it)| page.value("phalanx_custom_mean", &[("name", name)], it.mean()));
    page.head("phalanx_custom_values_total", "counter", "Number of values that tasks wrote, by name.");
    let counts = live.measures.iter().take(MAX_SERIES);
    counts.for_each(|(name, it)| page.value("phalanx_custom_values_total", &[("name", name)], it.count as f64));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_cannot_break_a_line() {
        assert_eq!(escaped("a\"b\\c\nd"), "a\\\"b\\\\c\\nd");
        let mut page = MetricsPage::default();
        page.value("x", &[("class", "a\"b")], 1.5);
        assert_eq!(page.text, "x{class=\"a\\\"b\"} 1.5\n");
    }
}
