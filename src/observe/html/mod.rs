//! The report as one HTML file with tables and SVG charts. Styles are included, and there is no
//! script and no network access, so the file can be mailed, archived and printed. Its size does not
//! depend on the number of tasks: long lists are truncated or aggregated.

mod chain;
mod charts;
mod gantt;
mod nodes;
mod page;

use super::analyze::{Analysis, analysis, capital};
use super::cache::CacheFigures;
use super::chain::chain as chain_of;
use super::failures::{TaskFailure, failures, tails_of};
use super::figures::Figures;
use super::idle::Uses;
use super::latency::{ClassLatency, classes};
use super::measures::MeasureReader;
use super::print::ReportError;
use super::report::command;
use super::resume;
use super::run_view::{RunState, RunView, node_of, run_ns};
use super::skip_cause::skipped;
use super::spending::Spending;
use super::staging::StagingFigures;
use super::steps::StepCounters;
use super::style::{LISTED, and_more, bytes, count, outcome, percent, value};
use super::summary::explanation;
use super::timeline::Timeline;
use crate::journal::{Level, utc};
use crate::text::{counted, seconds};
use charts::ChartLine;
use page::{Escaped, Html};

/// Maximum number of failures shown with the end of their output.
const FAILURES: usize = 20;
/// Maximum number of classes whose slowest tasks are listed, and tasks per class.
const SLOWEST: [usize; 2] = [8, 3];
/// Maximum number of classes in the table.
const CLASSES: usize = LISTED;
/// Maximum number of scaling decisions listed.
const DECISIONS: usize = 60;
/// Maximum number of notes shown.
const NOTES: usize = 40;

/// Renders the report of a run.
///
/// # Errors
/// If the captured output of a failed task cannot be read.
pub fn html(run: &RunView) -> Result<String, ReportError> {
    let timeline = Timeline::of(run);
    let figures = Figures::of(run);
    let by_work = classes(&timeline);
    let names: Vec<String> = by_work.iter().map(|class| class.name.clone()).collect();
    let colours = gantt::colours(&timeline, &names);
    let mut html = Html::default();
    head(&mut html, run);
    summary(&mut html, run, &figures);
    if !timeline.slices.is_empty() {
        bounded_by(&mut html, analysis(run));
        html.add("<h2>Tasks</h2>\n");
        key(&mut html, &by_work);
        gantt::gantt(&mut html, run, &timeline, &colours);
        over_time(&mut html, &timeline);
        nodes::used(&mut html, run, &timeline);
        spending(&mut html, run);
        nodes::held(&mut html, run);
        critical_path(&mut html, run, &timeline, &colours, &figures);
        class_table(&mut html, &by_work);
        slowest(&mut html, run, &timeline, &by_work);
    }
    cache(&mut html, run);
    staging(&mut html, run);
    measures(&mut html, run);
    decisions(&mut html, run);
    nodes::sites(&mut html, run);
    failed(&mut html, run)?;
    skipped_tasks(&mut html, run);
    notes(&mut html, run);
    about(&mut html, run);
    html.add("</body></html>\n");
    Ok(html.into_text())
}

fn head(html: &mut Html, run: &RunView) {
    let state = run.state();
    let tone = match state {
        RunState::Completed => "good",
        RunState::Failed | RunState::Error | RunState::Interrupted => "badly",
        RunState::Running => "",
        RunState::Budget | RunState::Walltime | RunState::Cancelled => "warn",
    };
    let why = explanation(run).map(|why| format!(": {why}")).unwrap_or_default();
    html.add(format_args!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><meta name=\"viewport\" content=\"width=device-width,initial-scale=1\">\
         <title>{name}</title><style>{}</style></head><body>\n<h1>{name}</h1>\n<p><span class=\"state {tone}\">{}</span>{}</p>\n",
        include_str!("style.css"),
        state.name(),
        Escaped(why),
        name = Escaped(run.name()),
    ));
    if run.session().terms.as_ref().is_some_and(|terms| terms.simulated.is_some()) {
        html.add("<p class=\"warn\">A simulated run: none of this was executed.</p>\n");
    }
    for warning in run.warnings() {
        html.add(format_args!("<p class=\"warn\">{}</p>\n", Escaped(warning)));
    }
}

fn summary(html: &mut Html, run: &RunView, figures: &Figures) {
    let sessions = &run.replay.sessions;
    let resumed = if sessions.len() > 1 { format!(", in {} sessions", sessions.len()) } else { String::new() };
    html.add(format_args!(
        "<p class=\"dim\">Job {} · began {}{resumed} · {}, {} on {}</p>\n<div class=\"tiles\">",
        Escaped(run.subject().job.name()),
        utc(sessions[0].began.unix_ns),
        counted(figures.ranks, "rank"),
        counted(figures.slots, "slot"),
        counted(figures.nodes, "node")
    ));
    let mut tile = |value: String, what: &str| {
        html.add(format_args!("<div class=\"tile\"><b>{value}</b><span>{what}</span></div>"))
    };
    tile(seconds(figures.wall_s), "wall time");
    tile(count(figures.tasks), "tasks");
    for (state, n) in figures.counts.present() {
        tile(count(n), &state.name().to_lowercase().replace('_', " "));
    }
    if figures.left_out > 0 {
        tile(count(figures.left_out), "left out");
    }
    tile(seconds(figures.work_s), "work over all slots");
    figures.utilisation.into_iter().for_each(|used| tile(percent(used), "of slot time used"));
    figures.critical_path_s.into_iter().for_each(|s| tile(seconds(s), "critical path"));
    figures
        .balance
        .filter(|_| figures.ranks > 1)
        .into_iter()
        .for_each(|b| tile(format!("{b:.2}"), "load balance of ranks"));
    if let (Some(s), Some(missed)) = (figures.deadline_s, figures.deadline_missed) {
        tile(seconds(s), if missed { "deadline, missed" } else { "deadline" });
    }
    if figures.wall_s > 0.0 {
        let ended = f64::from(figures.counts.of(crate::model::State::Completed));
        tile(format!("{}/s", rate(ended / figures.wall_s)), "tasks completed");
    }
    if figures.bytes_moved > 0 {
        tile(bytes(figures.bytes_moved), "moved between ranks");
    }
    tile(format!("{:.3}", figures.billed_node_s / 3600.0), "node-hours");
    if let Some(cost) = figures.cost {
        tile(format!("{cost:.2}"), "cost, as billed");
    }
    html.add("</div>\n");
}

/// Formats a rate with about three digits.
fn rate(per_s: f64) -> String {
    if per_s < 100.0 { format!("{per_s:.1}") } else { count(per_s as u64) }
}

fn bounded_by(html: &mut Html, analysis: Result<Analysis, ReportError>) {
    html.add("<h2>What bounded this run</h2>\n");
    let analysis = match analysis {
        Ok(analysis) => analysis,
        Err(error) => return html.add(format_args!("<p>Unknown: {}</p>\n", Escaped(error))),
    };
    if let Some(idle) = analysis.idle_text() {
        html.add(format_args!("<p>{}</p>\n", Escaped(idle)));
    }
    if analysis.findings.is_empty() {
        html.add(format_args!("<p>{}</p>\n", Escaped(analysis.opening())));
        return;
    }
    html.add("<ol class=\"findings\">");
    for finding in analysis.findings {
        html.add(format_args!(
            "<li><b>{}</b> <span class=\"dim\">({})</span><br>{}",
            Escaped(capital(&finding.title)),
            Escaped(finding.saving_text()),
            Escaped(&finding.evidence)
        ));
        if let Some(change) = &finding.change {
            html.add(format_args!("<br>Change {}: <code>{}</code>", Escaped(&change.place), Escaped(&change.text)));
        }
        html.add("</li>");
    }
    html.add("</ol>\n<p class=\"note\">Savings are estimated by simulating the run again with the measured durations, one finding at a time.</p>\n");
}

/// Writes the legend of class colours.
fn key(html: &mut Html, by_work: &[ClassLatency]) {
    html.add("<div class=\"key\">");
    for (i, class) in by_work.iter().take(gantt::COLOURS).enumerate() {
        html.add(format_args!("<span><span class=\"box k{i}\"></span>{}</span>", Escaped(&class.name)));
    }
    if by_work.len() > gantt::COLOURS {
        let others = by_work.len() - gantt::COLOURS;
        html.add(format_args!("<span><span class=\"box k{}\"></span>{others} other classes</span>", gantt::COLOURS));
    }
    html.add("</div>\n");
}

fn over_time(html: &mut Html, timeline: &Timeline) {
    let end = timeline.end();
    let slots = timeline.sessions.iter().map(|span| span.slots).max().unwrap_or(0);
    html.add("<h2>What slots did</h2>\n");
    charts::utilisation(html, &Uses::of(timeline, charts::COLUMNS), end, slots);
    let counters = StepCounters::of(timeline);
    html.add("<h2>Tasks and ranks over time</h2>\n");
    let line = |name, style, steps| ChartLine { name, style, steps };
    let tasks = [line("tasks queued", "b", &counters.queued), line("tasks running", "a", &counters.running)];
    charts::lines(html, "Tasks queued and running", &tasks, end, 110.0);
    charts::lines(html, "Tasks done", &[line("tasks done", "c", &counters.done)], end, 80.0);
    if counters.active.max() > 1 {
        let ranks = [line("ranks active", "b", &counters.active), line("ranks with a task", "a", &counters.busy)];
        charts::lines(html, "Ranks active and at work", &ranks, end, 70.0);
    }
}

/// Draws the cost over time, if nodes have a price.
fn spending(html: &mut Html, run: &RunView) {
    let Some(spending) = Spending::of(run).filter(|spending| spending.spent() > 0.0) else { return };
    let budget = spending.budget.map_or_else(String::new, |budget| format!(" of a budget of {budget:.2} (dashed)"));
    html.add(format_args!("<h2>Spend</h2>\n<p class=\"note\">As billed: {:.2}{budget}.</p>\n", spending.spent()));
    let spent: Vec<f64> = spending.course(charts::COLUMNS).into_iter().skip(1).map(|(_, spent)| spent).collect();
    charts::spend(html, &spent, spending.budget, spending.now.0);
}

fn critical_path(html: &mut Html, run: &RunView, timeline: &Timeline, colours: &[usize], figures: &Figures) {
    let links = chain_of(run, timeline);
    if !links.is_empty() {
        html.add("<h2>Critical path</h2>\n");
        chain::chain(html, run, timeline, &links, colours, figures);
    }
}

fn class_table(html: &mut Html, by_work: &[ClassLatency]) {
    html.add(
        "<h2>Classes of tasks</h2>\n<div class=\"wide\"><table><thead><tr><th>class</th><th class=\"n\">attempts</th><th class=\"n\">failed</th>\
         <th class=\"n\">mean</th><th class=\"n\">p50</th><th class=\"n\">p95</th><th class=\"n\">p99</th><th class=\"n\">max</th>\
         <th class=\"n\">waited p95</th><th class=\"n\">work</th><th class=\"n\">share</th></tr></thead><tbody>",
    );
    let all: f64 = by_work.iter().map(|class| class.work_s).sum();
    for class in by_work.iter().take(CLASSES) {
        html.add(format_args!("<tr><td>{}</td>", Escaped(&class.name)));
        let ran = &class.ran;
        let quantile = |share| seconds(ran.quantile_s(share));
        let cells = [
            count(ran.count()),
            count(class.failed),
            seconds(ran.mean_s()),
            quantile(0.5),
            quantile(0.95),
            quantile(0.99),
            seconds(ran.max_s()),
            seconds(class.waited.quantile_s(0.95)),
            seconds(class.work_s),
            if all > 0.0 { percent(class.work_s / all) } else { "-".to_owned() },
        ];
        cells.iter().for_each(|cell| html.add(format_args!("<td class=\"n\">{cell}</td>")));
        html.add("</tr>");
    }
    html.add("</tbody></table></div>\n");
    if let Some(more) = and_more(by_work.len()) {
        html.add(format_args!("<p class=\"note\">{more} classes with less work.</p>\n"));
    }
}

fn slowest(html: &mut Html, run: &RunView, timeline: &Timeline, by_work: &[ClassLatency]) {
    let [classes, tasks] = SLOWEST;
    html.add(
        "<details><summary>Slowest tasks of each class</summary><div class=\"wide\"><table><thead><tr><th>class</th><th>task</th>\
         <th class=\"n\">ran</th><th class=\"n\">of the median</th><th>state</th><th>where</th></tr></thead><tbody>",
    );
    for class in by_work.iter().take(classes) {
        let Some(number) = timeline.classes.iter().position(|name| *name == class.name) else { continue };
        let mut slices: Vec<_> = timeline.slices.iter().filter(|slice| slice.class as usize == number).collect();
        slices.sort_unstable_by_key(|slice| (std::cmp::Reverse(slice.ran()), slice.task));
        for slice in slices.into_iter().take(tasks) {
            let session = &run.replay.sessions[slice.session as usize];
            let median = class.ran.quantile_s(0.5);
            let factor =
                if median > 0.0 { format!("{:.1} x", slice.ran() as f64 / 1e9 / median) } else { "-".to_owned() };
            html.add(format_args!(
                "<tr><td>{}</td><td>{}</td><td class=\"n\">{}</td><td class=\"n\">{factor}</td><td>{}</td><td>{}, rank {}</td></tr>",
                Escaped(&class.name),
                Escaped(timeline.label(run, slice)),
                seconds(slice.ran() as f64 / 1e9),
                outcome(slice.outcome),
                Escaped(node_of(session, crate::model::Rank(slice.rank))),
                slice.rank
            ));
        }
    }
    html.add("</tbody></table></div></details>\n");
}

/// Writes hits and misses of the result cache by class.
fn cache(html: &mut Html, run: &RunView) {
    let Some(figures) = CacheFigures::of(run) else { return };
    html.add(
        "<h2>Result cache</h2>\n<div class=\"wide\"><table><thead><tr><th>class</th><th class=\"n\">hits</th>\
         <th class=\"n\">misses</th><th class=\"n\">saved</th><th>why tasks ran</th></tr></thead><tbody>",
    );
    for (name, class) in figures.classes.iter().take(CLASSES) {
        let reasons = class.reasons();
        html.add(format_args!(
            "<tr><td>{}</td><td class=\"n\">{}</td><td class=\"n\">{}</td><td class=\"n\">{}</td><td>{}</td></tr>",
            Escaped(name),
            count(class.hits),
            count(class.missed()),
            seconds(class.saved_s),
            Escaped(&reasons)
        ));
    }
    html.add("</tbody></table></div>\n");
}

/// Writes what was moved for staged tasks.
fn staging(html: &mut Html, run: &RunView) {
    let Some(figures) = StagingFigures::of(run) else { return };
    html.add(format_args!("<h2>Files of staged tasks</h2>\n<p>{}.</p>\n", Escaped(&figures.text())));
}

/// Writes the statistics of values that tasks wrote.
fn measures(html: &mut Html, run: &RunView) {
    let measures = MeasureReader::of_completed(run);
    if measures.is_empty() {
        return;
    }
    html.add(
        "<h2>Values of tasks</h2>\n<div class=\"wide\"><table><thead><tr><th>name</th><th class=\"n\">values</th><th class=\"n\">mean</th>\
         <th class=\"n\">least</th><th class=\"n\">most</th><th class=\"n\">latest</th></tr></thead><tbody>",
    );
    for (name, it) in measures.iter().take(CLASSES) {
        html.add(format_args!("<tr><td>{}</td><td class=\"n\">{}</td>", Escaped(name), count(it.count)));
        let cells = [it.mean(), it.min, it.max, it.last].map(value);
        cells.iter().for_each(|cell| html.add(format_args!("<td class=\"n\">{cell}</td>")));
        html.add("</tr>");
    }
    html.add("</tbody></table></div>\n");
}

/// Writes the scaling decisions and their reasons.
fn decisions(html: &mut Html, run: &RunView) {
    let all = &run.session().decisions;
    if all.is_empty() {
        return;
    }
    html.add(
        "<h2>Scaling decisions</h2>\n<div class=\"wide\"><table><thead><tr><th class=\"n\">at</th><th>ranks</th><th>why</th>\
         <th class=\"n\">spent</th></tr></thead><tbody>",
    );
    for decision in all.iter().take(DECISIONS) {
        html.add(format_args!(
            "<tr><td class=\"n\">{}</td><td>{} &rarr; {}</td><td>{}</td><td class=\"n\">{:.2}</td></tr>",
            seconds(decision.time.seconds()),
            decision.from,
            decision.to,
            Escaped(&decision.reason),
            decision.inputs.spent
        ));
    }
    html.add("</tbody></table></div>\n");
    if all.len() > DECISIONS {
        html.add(format_args!("<p class=\"note\">and {} more in the journal.</p>\n", all.len() - DECISIONS));
    }
}

fn failed(html: &mut Html, run: &RunView) -> Result<(), ReportError> {
    let failures = failures(run);
    if failures.is_empty() {
        return Ok(());
    }
    html.add(format_args!("<h2>Failed tasks: {}</h2>\n", count(failures.len() as u64)));
    for failure in failures.iter().take(FAILURES) {
        let TaskFailure { task, session, attempt } = failure;
        html.add(format_args!(
            "<p><b>{}</b>: <span class=\"badly\">{}</span>, attempt {} on {} after {}</p>\n",
            Escaped(run.subject().job.label(*task)),
            outcome(attempt.outcome),
            attempt.attempt,
            Escaped(node_of(session, attempt.rank)),
            seconds(run_ns(attempt) as f64 / 1e9)
        ));
        if let Some(described) = run.subject().job.describe(*task) {
            html.add(format_args!("<p class=\"note\"><code>{}</code></p>\n", Escaped(command(&described.work))));
        }
        if let Some(reason) = session.reason(attempt) {
            html.add(format_args!("<p>Reason: {}</p>\n", Escaped(reason)));
        }
        for tail in tails_of(run, failure)? {
            if let Some(heading) = tail.heading() {
                html.add(format_args!("<p class=\"note\">{}</p>\n", Escaped(heading)));
            }
            let text = tail.text();
            if !text.is_empty() {
                html.add(format_args!("<pre>{}</pre>\n", Escaped(text)));
            }
        }
    }
    if failures.len() > FAILURES {
        html.add(format_args!(
            "<p>and {} more: <code>phalanx report {} --failed</code></p>\n",
            count((failures.len() - FAILURES) as u64),
            Escaped(run.name())
        ));
    }
    Ok(())
}

fn skipped_tasks(html: &mut Html, run: &RunView) {
    let groups = skipped(run);
    if groups.is_empty() {
        return;
    }
    html.add("<h2>Skipped tasks</h2>\n<ul>");
    for group in groups.iter().take(FAILURES) {
        let why = group.because_of.map_or("their dependencies did not end as required".to_owned(), |task| {
            let ended = run.replay.latest(task).map_or("did not run", |(_, attempt)| attempt.outcome.state.name());
            format!("{} {ended}", run.subject().job.label(task))
        });
        html.add(format_args!("<li>{} because {}</li>", counted(group.tasks.len() as u64, "task"), Escaped(why)));
    }
    html.add("</ul>\n");
    if groups.len() > FAILURES {
        html.add(format_args!("<p>and more because of {} other tasks.</p>\n", groups.len() - FAILURES));
    }
}

fn notes(html: &mut Html, run: &RunView) {
    let notes = &run.session().notes;
    if notes.is_empty() {
        return;
    }
    html.add("<h2>Notes</h2>\n<table><tbody>");
    for note in notes.iter().take(NOTES) {
        let tone = match note.level {
            Level::Info => "",
            Level::Warning => "warn",
            Level::Error => "badly",
        };
        html.add(format_args!(
            "<tr><td class=\"n\">{}</td><td class=\"{tone}\">{}</td></tr>",
            seconds(note.time.seconds()),
            Escaped(&note.text)
        ));
    }
    html.add("</tbody></table>\n");
    if notes.len() > NOTES {
        html.add(format_args!("<p>and {} more in the journal.</p>\n", notes.len() - NOTES));
    }
}

fn about(html: &mut Html, run: &RunView) {
    let began = &run.session().began;
    let words: Vec<String> = began.command.iter().map(|word| crate::text::shell_word(word)).collect();
    html.add(format_args!(
        "<h2>How it was run</h2>\n<p><code>{}</code><br><span class=\"dim\">in {}, by Phalanx {}</span></p>\n",
        Escaped(words.join(" ")),
        Escaped(began.dir.display()),
        Escaped(&began.phalanx)
    ));
    if let Some(command) = resume::command(run) {
        html.add(format_args!("<p>To continue: <code>{}</code></p>\n", Escaped(command)));
    }
    html.add(format_args!(
        "<details><summary>The job file</summary><pre>{}</pre></details>\n",
        Escaped(shortened(&began.job_text))
    ));
}

/// The whole text of a job file of normal size, or the beginning of a long one.
fn shortened(text: &str) -> String {
    const MOST: usize = 20_000;
    match text.char_indices().nth(MOST) {
        None => text.to_owned(),
        Some((at, _)) => format!("{}\n...", &text[..at]),
    }
}
