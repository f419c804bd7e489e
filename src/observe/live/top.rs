//! Renders one frame of `phalanx top`.

use std::fmt::Write as _;

use super::Live;
use super::members::RankEntry;
use crate::journal::{Level, utc};
use crate::model::{State, Stream};
use crate::observe::PoolSample;
use crate::observe::run_view::{RunState, node_of, run_ns};
use crate::observe::style::{LISTED, Paint, bytes, count, outcome, percent, printable};
use crate::text::{counted, counted_are, seconds};

/// Rows of a table if the height of the terminal is unknown.
const ROWS: usize = 24;
/// Lines of a frame outside of tables: head, bar, figures, headings.
const OTHERS: usize = 18;
/// Number of latest decisions shown.
const DECISIONS: usize = 2;

/// Renders a frame for a terminal with this width and height. Lines end in `\n` and do not exceed
/// the width.
pub fn write_frame(live: &Live, width: usize, height: Option<usize>, paint: Paint) -> String {
    let width = width.clamp(40, 400);
    let room = height.unwrap_or(ROWS + OTHERS).saturating_sub(OTHERS).max(6);
    let mut frame = TopFrame { text: String::new(), width, paint };
    head(&mut frame, live);
    bar(&mut frame, live);
    figures(&mut frame, live);
    let failures = live.totals.failures.len().min(room / 4 + 1);
    let classes = live.totals.classes().len().min(room / 3 + 1);
    // A low terminal has no room for pools.
    let pool_rows = if room < 16 { 0 } else { live.pools().count().min(room / 4) };
    let pool_lines = if pool_rows > 0 { pool_rows + 3 } else { 0 };
    ranks(&mut frame, live, room.saturating_sub(failures * 2 + classes + pool_lines).max(2));
    class_table(&mut frame, live, classes);
    pools(&mut frame, live, pool_rows);
    last_failures(&mut frame, live, failures);
    notes(&mut frame, live);
    frame.text
}

struct TopFrame {
    text: String,
    width: usize,
    paint: Paint,
}

impl TopFrame {
    /// Adds a line, cut to the width; `styled` formats the cut text.
    fn line(&mut self, text: &str, styled: impl FnOnce(Paint, &str) -> String) {
        let cut: String = text.chars().take(self.width).collect();
        self.text += &styled(self.paint, cut.trim_end());
        self.text.push('\n');
    }

    fn plain(&mut self, text: &str) {
        self.line(text, |_, text| text.to_owned());
    }

    fn heading(&mut self, text: &str) {
        self.text.push('\n');
        self.line(text, |paint, text| paint.dim(text));
    }
}

fn head(frame: &mut TopFrame, live: &Live) {
    let state = live.view.state();
    let session = live.view.session();
    let text = format!(
        "{}  {}  {}  job {}, began {}",
        live.view.name(),
        state.name(),
        clock(live.elapsed_s()),
        live.view.subject().job.name(),
        utc(session.began.unix_ns)
    );
    frame.line(&text, |paint, text| match state {
        RunState::Completed => paint.green(text),
        RunState::Failed | RunState::Error | RunState::Interrupted => paint.red(text),
        RunState::Running => paint.bold(text),
        _ => paint.yellow(text),
    });
}

/// `00:01:40`
fn clock(s: f64) -> String {
    let s = s as u64;
    format!("{:02}:{:02}:{:02}", s / 3600, s / 60 % 60, s % 60)
}

fn bar(frame: &mut TopFrame, live: &Live) {
    let total = u64::from(live.view.tasks_to_run());
    let share = if total == 0 { 1.0 } else { live.totals.ended() as f64 / total as f64 };
    let cells = (frame.width.saturating_sub(12)).clamp(10, 60);
    let full = ((share * cells as f64) as usize).min(cells);
    frame.plain(&format!("[{}{}] {:>3} %", "=".repeat(full), " ".repeat(cells - full), (share * 100.0).floor()));
    let (running, queued) = live.running_and_queued();
    let mut text = format!("{} of {} done", count(live.totals.of(State::Completed)), count(total));
    let others = [
        (running, "running"),
        (queued, "ready"),
        (if live.goes_on() { super::api::pending(live) } else { 0 }, "pending"),
        (live.totals.failed(), "failed"),
        (live.totals.of(State::Skipped), "skipped"),
        (live.totals.of(State::Cancelled), "cancelled"),
    ];
    for (n, what) in others.into_iter().filter(|(n, _)| *n > 0) {
        let _ = write!(text, ", {} {what}", count(n));
    }
    frame.plain(&text);
}

fn figures(frame: &mut TopFrame, live: &Live) {
    if live.paused() > 0 {
        let what = if live.is_paused() { "the whole run is".to_owned() } else { counted_are(live.paused(), "task") };
        frame
            .line(&format!("{what} paused; `phalanx resume RUN` starts tasks again"), |paint, text| paint.yellow(text));
    }
    let rate = live.tasks_per_s();
    let mut text = if rate < 10.0 { format!("{rate:.1} tasks/s") } else { format!("{} tasks/s", count(rate as u64)) };
    if let Some(left) = live.remaining_s() {
        let end = crate::journal::unix_now_ns().saturating_add((left * 1e9) as u64);
        let _ = write!(text, "   ends in {} (about {})", clock(left), utc(end));
    }
    if let Some(forecast) = live.forecast() {
        let left = |finish: f64| clock((finish - live.elapsed_s()).max(0.0));
        let (soon, late) = (left(forecast.finish_q10_s), left(forecast.finish_q90_s));
        let _ = write!(text, "   8 of 10 cases: {soon} to {late}");
    }
    frame.plain(&text);
    frame.plain(&format!(
        "{}, {}; ended work is {} of slot time",
        counted(live.active().count() as u64, "active rank"),
        counted(live.slots(), "slot"),
        live.used().map_or_else(|| "-".to_owned(), percent)
    ));
    money(frame, live);
    if let Some(sample) = live.samples.last().filter(|sample| live.goes_on() && sample.node_memory > 0) {
        let (cpu, used) = (percent(sample.node_cpu), bytes(sample.node_memory_used));
        frame.plain(&format!("node of rank 0: CPU {cpu}, memory {used} of {}", bytes(sample.node_memory)));
    }
}

/// Adds cost and forecast, if nodes have a price.
fn money(frame: &mut TopFrame, live: &Live) {
    let Some(spending) = &live.spending else { return };
    let mut text = format!("spent {:.2}", spending.spent());
    if let Some(budget) = spending.budget {
        let _ = write!(text, " of {budget:.2} ({})", percent(spending.spent() / budget.max(f64::MIN_POSITIVE)));
    }
    if let Some(forecast) = live.forecast() {
        let [cheap, middle, dear] = [forecast.cost_q10, forecast.cost_q50, forecast.cost_q90];
        let _ = write!(text, "; expected total {middle:.2} (8 of 10 cases: {cheap:.2} to {dear:.2})");
    }
    frame.plain(&text);
}

fn ranks(frame: &mut TopFrame, live: &Live, rows: usize) {
    frame.heading(&format!(
        "{:>6}  {:<16} {:<9} {:>5} {:>10} {:>7} {:>12} {:>6} {:>6} {:>11}",
        "rank", "node", "state", "slots", "ended", "failed", "work", "used", "CPUs", "memory"
    ));
    // Current ranks come first; former ones are shown as far as there is room.
    let mut all: Vec<&RankEntry> = live.members.iter().collect();
    all.sort_by_key(|member| !member.state.is_billed());
    for member in all.iter().take(if all.len() > rows { rows - 1 } else { rows }) {
        let totals = live.totals.ranks.get(&member.rank).cloned().unwrap_or_default();
        let held = member.active_s * f64::from(member.slots);
        let used = if held > 0.0 { percent((totals.work_s / held).min(1.0)) } else { "-".to_owned() };
        let lately = live.vitals.of(member.rank).filter(|_| live.goes_on() && member.state.is_billed());
        let (cpus, memory) = lately.map_or(("-".to_owned(), "-".to_owned()), |lately| {
            (format!("{:.1}", lately.cpus), bytes(lately.last.vitals.memory))
        });
        let slots = lately.and_then(|lately| lately.last.vitals.slots).map_or(member.slots, |slots| slots.active);
        let gpus = lately.map(|lately| lately.last.vitals).filter(|vitals| vitals.gpu_memory > 0);
        let gpus = gpus.map_or(String::new(), |vitals| format!("  GPUs {}", percent(vitals.gpu_busy)));
        frame.plain(&format!(
            "{:>6}  {:<16} {:<9} {:>5} {:>10} {:>7} {:>12} {used:>6} {cpus:>6} {memory:>11}{gpus}",
            member.rank,
            member.node.chars().take(16).collect::<String>(),
            member.state.name(),
            slots,
            count(totals.attempts),
            count(totals.failed),
            seconds(totals.work_s)
        ));
    }
    if all.len() > rows {
        frame.plain(&format!("        and {} more", all.len() + 1 - rows));
    }
}

fn class_table(frame: &mut TopFrame, live: &Live, rows: usize) {
    let mut classes: Vec<_> = live.totals.classes().iter().collect();
    if classes.is_empty() {
        return;
    }
    classes.sort_by(|a, b| b.work_s.total_cmp(&a.work_s));
    frame.heading(&format!(
        "{:<24} {:>10} {:>7} {:>9} {:>9} {:>9} {:>9}",
        "class", "ended", "failed", "mean", "p50", "p95", "p99"
    ));
    let (all, rows) = (classes.len(), rows.min(LISTED));
    let shown = if all > rows { rows.saturating_sub(1) } else { rows };
    for class in classes.into_iter().take(shown) {
        let ran = &class.ran;
        frame.plain(&format!(
            "{:<24} {:>10} {:>7} {:>9} {:>9} {:>9} {:>9}",
            class.name.chars().take(24).collect::<String>(),
            count(ran.count()),
            count(class.failed),
            seconds(ran.mean_s()),
            seconds(ran.quantile_s(0.5)),
            seconds(ran.quantile_s(0.95)),
            seconds(ran.quantile_s(0.99))
        ));
    }
    if all > shown {
        frame.plain(&format!("and {} more", count((all - shown) as u64)));
    }
}

fn pools(frame: &mut TopFrame, live: &Live, rows: usize) {
    let mut pools: Vec<&PoolSample> = live.pools().collect();
    if rows == 0 {
        return;
    }
    pools.sort_by_key(|it| std::cmp::Reverse(it.waiting));
    frame.heading(&format!("{:<24} {:>6} {:>10} {:>10} {:>10}", "pool", "kind", "in use", "of", "waiting"));
    for it in pools.iter().take(rows) {
        let (used, of) = match (it.rate_per_s, it.capacity) {
            (Some(rate), _) => ("-".to_owned(), format!("{rate:.1}/s")),
            (None, Some(capacity)) => (count(it.in_use), count(capacity)),
            (None, None) => (count(it.in_use), "-".to_owned()),
        };
        let name: String = it.pool.chars().take(24).collect();
        frame.plain(&format!("{name:<24} {:>6} {used:>10} {of:>10} {:>10}", it.kind, count(it.waiting)));
    }
    if pools.len() > rows {
        frame.plain(&format!("and {} more", pools.len() - rows));
    }
}

fn last_failures(frame: &mut TopFrame, live: &Live, rows: usize) {
    if rows == 0 {
        return;
    }
    frame.heading("last failures");
    let session = live.view.session();
    for attempt in live.totals.failures.iter().take(rows).filter_map(|&index| session.attempts.get(index)) {
        let label = live.view.subject().job.label(attempt.task);
        let node = node_of(session, attempt.rank);
        let text =
            format!("{label}: {} on {node} after {}", outcome(attempt.outcome), seconds(run_ns(attempt) as f64 / 1e9));
        frame.line(&text, |paint, text| paint.red(text));
        // The output is a supplement; the failure is shown even if it cannot be read.
        let tail = live.view.outputs.tail(session.began.session, attempt, Stream::Err, 1, 4096).unwrap_or_default();
        if !tail.is_empty() {
            let line = format!("  | {}", printable(tail.strip_suffix(b"\n").unwrap_or(&tail)));
            frame.line(&line, |paint, text| paint.dim(text));
        }
    }
}

/// Adds the latest decisions and warnings.
fn notes(frame: &mut TopFrame, live: &Live) {
    for decision in live.view.session().decisions.iter().rev().take(DECISIONS) {
        let (at, from, to) = (clock(decision.time.seconds()), decision.from, decision.to);
        frame.line(&format!("{at}: {from} to {}: {}", counted(to, "rank"), decision.reason), |paint, text| {
            paint.bold(text)
        });
    }
    for note in live.view.session().notes.iter().rev().filter(|note| note.level > Level::Info).take(3) {
        frame.line(&format!("{}: {}", clock(note.time.seconds()), note.text), |paint, text| paint.yellow(text));
    }
}
