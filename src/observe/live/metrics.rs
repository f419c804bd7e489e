//! `/metrics`: the run in the text format of Prometheus (<https://prometheus.io/docs/instrumenting/exposition_formats/>), under names that
//! follow its conventions: base units, `_total` for what only grows.

use std::fmt::Write as _;

use super::{Live, api};
use crate::model::State;
use crate::observe::latency::Durations;

/// Upper bounds of the buckets of durations, in seconds.
const BUCKETS: [f64; 12] = [1e-5, 1e-4, 1e-3, 1e-2, 0.1, 0.5, 1.0, 10.0, 60.0, 600.0, 3600.0, 86_400.0];
/// Classes and ranks that have series of their own: more would be too many for whoever keeps them.
const SERIES: usize = 500;

/// The whole text.
pub(super) fn text(live: &Live) -> String {
    let mut page = Page::default();
    about(&mut page, live);
    tasks(&mut page, live);
    classes(&mut page, live);
    ranks(&mut page, live);
    node(&mut page, live);
    page.text
}

#[derive(Default)]
struct Page {
    text: String,
}

impl Page {
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

/// The value of a label, as the format quotes it.
fn escaped(text: &str) -> String {
    text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

fn about(page: &mut Page, live: &Live) {
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
    page.one("phalanx_run_start_time_seconds", "gauge", "When the session began, since 1970.", began);
    page.one("phalanx_run_elapsed_seconds", "gauge", "How long the session has been going on.", live.elapsed_s());
    if let Some(left) = live.remaining_s() {
        page.one("phalanx_run_remaining_seconds", "gauge", "Estimated time to the end.", left);
    }
    let slots: u64 = session.began.ranks.iter().map(|rank| u64::from(rank.slots)).sum();
    page.one("phalanx_slots", "gauge", "Slots that can be filled with tasks.", slots as f64);
    page.one("phalanx_ranks", "gauge", "Ranks that take part.", session.began.ranks.len() as f64);
}

fn tasks(page: &mut Page, live: &Live) {
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
    page.one("phalanx_tasks_per_second", "gauge", "Tasks that end in a second, lately.", live.tasks_per_s());
    page.one("phalanx_work_seconds_total", "counter", "Slot-seconds that attempts have held.", live.totals.work_s());
}

fn classes(page: &mut Page, live: &Live) {
    let classes = live.totals.classes();
    page.head("phalanx_attempts_total", "counter", "Attempts that have ended, by class and state.");
    let mut attempts: Vec<_> = live.totals.attempts.iter().filter(|((class, _), _)| *class < SERIES).collect();
    attempts.sort_unstable_by_key(|((class, state), _)| (*class, *state as usize));
    for ((class, state), n) in attempts {
        let labels = [("class", &*classes[*class].name), ("state", &*state.name().to_lowercase())];
        page.value("phalanx_attempts_total", &labels, *n as f64);
    }
    page.head("phalanx_task_run_seconds", "histogram", "How long attempts ran, by class.");
    classes.iter().take(SERIES).for_each(|class| page.histogram("phalanx_task_run_seconds", &class.name, &class.ran));
    page.head("phalanx_task_wait_seconds", "histogram", "How long attempts waited for a slot, by class.");
    classes
        .iter()
        .take(SERIES)
        .for_each(|class| page.histogram("phalanx_task_wait_seconds", &class.name, &class.waited));
}

fn ranks(page: &mut Page, live: &Live) {
    let ranks = &live.view.session().began.ranks;
    type Value = fn(&super::totals::RankTotals) -> f64;
    let series: [(&str, &str, Value); 2] = [
        ("phalanx_rank_attempts_total", "Attempts that have ended, by rank.", |totals| totals.attempts as f64),
        ("phalanx_rank_work_seconds_total", "Slot-seconds that attempts have held, by rank.", |totals| totals.work_s),
    ];
    for (name, help, value) in series {
        page.head(name, "counter", help);
        for info in ranks.iter().take(SERIES) {
            let of = live.totals.ranks.get(&info.rank).map_or(0.0, value);
            page.value(name, &[("rank", &*info.rank.to_string()), ("node", &*info.node)], of);
        }
    }
}

fn node(page: &mut Page, live: &Live) {
    let Some(sample) = live.samples.last().filter(|sample| sample.node_memory > 0) else { return };
    page.one("phalanx_node_cpu_ratio", "gauge", "Share of the CPUs of rank 0's node that is busy.", sample.node_cpu);
    let used = sample.node_memory_used as f64;
    page.one("phalanx_node_memory_used_bytes", "gauge", "Memory in use on rank 0's node.", used);
    page.one("phalanx_node_memory_bytes", "gauge", "Memory of rank 0's node.", sample.node_memory as f64);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_cannot_break_a_line() {
        assert_eq!(escaped("a\"b\\c\nd"), "a\\\"b\\\\c\\nd");
        let mut page = Page::default();
        page.value("x", &[("class", "a\"b")], 1.5);
        assert_eq!(page.text, "x{class=\"a\\\"b\"} 1.5\n");
    }
}
