//! `phalanx status`: the state of a run. Queries a live run, or reads the journal of a finished
//! one.

use std::fmt::Write;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use serde_json::{Value, json};

use super::{page_hint, print, refuse, view};
use crate::control::{Question, ask};
use crate::journal::{RUNS, RunDir};
use crate::model::State;
use crate::observe::{Figures, Paint, RunState, Standing, to_stdout, write_summary};
use crate::scale::Forecast;
use crate::text::{counted, seconds};

/// Interval between two queries of `--watch`.
const WATCH_INTERVAL: Duration = Duration::from_secs(1);

/// Maximum number of running tasks shown, longest running first.
const MAX_RUNNING_SHOWN: usize = 5;

/// Shows the state of a run: tasks, ranks and blocks of a live run, or the summary of a finished
/// one.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The run: a directory, a name such as mosaic-3, a job's name (its newest run), or `latest`.
    #[arg(default_value = "latest")]
    run: String,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
    /// Print the status every second until the run ends.
    #[arg(long)]
    watch: bool,
}

pub(super) fn main(args: Args) -> ExitCode {
    let dir = match RunDir::find(Path::new(RUNS), &args.run) {
        Ok(dir) => dir,
        Err(error) => return refuse(error),
    };
    for looked in 0u64.. {
        let answer = match ask(dir.path(), &Question::Status) {
            Ok(answer) => answer,
            // The run ended between two queries.
            Err(_) if looked > 0 => return ExitCode::SUCCESS,
            Err(error) => {
                return over(&dir, args.json)
                    .unwrap_or_else(|| refuse(format_args!("{}: {error}{}", dir.name(), page_hint(&dir))));
            }
        };
        let status = answer.status.unwrap_or_default();
        let text = match args.json {
            true => format!("{status}\n"),
            false => text(&dir.name(), &status) + &page_text(&dir),
        };
        let printed = print(&text);
        if !args.watch || printed != ExitCode::SUCCESS {
            return printed;
        }
        std::thread::sleep(WATCH_INTERVAL);
    }
    ExitCode::SUCCESS
}

/// Where the address of the run's page is, if it serves one.
fn page_text(dir: &RunDir) -> String {
    let page = dir.page();
    if page.is_file() { format!("  page    its address is in {}\n", page.display()) } else { String::new() }
}

/// Prints the status of a finished run; `None` if it is still running or cannot be read.
fn over(dir: &RunDir, as_json: bool) -> Option<ExitCode> {
    let view = view::load(dir).ok().filter(|view| view.state() != RunState::Running)?;
    if !as_json {
        let paint = Paint::for_stream(&std::io::stdout());
        return Some(to_stdout(|out| write_summary(out, &view, paint)).map_or_else(refuse, |()| view::end(&view)));
    }
    let figures = Figures::of(&view);
    let count = |state: State| figures.counts.of(state);
    let standing = Standing::of(&view, &figures);
    let status = standing.with(json!({
        "state": view.state().name().to_lowercase(),
        "time_s": figures.wall_s,
        "tasks": {
            "total": view.tasks_to_run(), "left_out": figures.left_out, "completed": count(State::Completed), "failed": figures.counts.failures(),
            "skipped": count(State::Skipped), "cancelled": count(State::Cancelled), "running": 0,
            "ready": standing.counts.ready, "held": 0, "pending": standing.counts.pending,
        },
        "running": [],
        "ranks": [],
        "blocks": [],
        "sites": [],
    }));
    Some(print(&format!("{status}\n")))
}

fn word<'a>(value: &'a Value, key: &str) -> &'a str {
    value[key].as_str().unwrap_or("-")
}

fn number(value: &Value, key: &str) -> u64 {
    value[key].as_u64().unwrap_or_default()
}

/// The number of ranks that the user asked for, and the latest scaling decisions.
fn scaling(scaling: &Value, now: f64) -> String {
    let mut text = String::new();
    if let Some(ranks) = scaling["held"].as_u64() {
        let _ = writeln!(
            text,
            "  held    at {} by `phalanx scale`; `phalanx scale RUN auto` returns control to the policy",
            counted(ranks, "rank")
        );
    }
    for decision in scaling["decisions"].as_array().into_iter().flatten().take(3) {
        let ago = seconds((now - decision["time_s"].as_f64().unwrap_or(now)).max(0.0));
        let (from, to, why) = (number(decision, "from"), number(decision, "to"), word(decision, "reason"));
        let _ = writeln!(text, "  ranks   {from} -> {to}, {ago} ago: {why}");
    }
    text
}

/// Slowdown and failures of a rank; empty if it is healthy.
fn health(rank: &Value) -> String {
    let slow = rank["slowdown"]
        .as_f64()
        .map(|times| format!("  {times:.1} x slower than the other ranks"))
        .unwrap_or_default();
    match number(rank, "failures") {
        0 => slow,
        some => format!("{slow}  {}", counted(some, "failure")),
    }
}

/// Formats the status as text.
fn text(run: &str, status: &Value) -> String {
    let tasks = &status["tasks"];
    let time = status["time_s"].as_f64().unwrap_or_default();
    let mut text = format!(
        "{run}  {} for {time:.0} s\n  tasks   {} of {} completed",
        word(status, "state"),
        number(tasks, "completed"),
        number(tasks, "total")
    );
    for state in ["failed", "running", "ready", "pending", "skipped", "cancelled"] {
        // What went wrong is mentioned if it happened.
        if number(tasks, state) > 0 || ["failed", "running", "ready", "pending"].contains(&state) {
            let _ = write!(text, ", {} {state}", number(tasks, state));
        }
    }
    if number(tasks, "held") > 0 {
        let _ = write!(
            text,
            "; {} of the ready ones wait for more than a slot: further slots, memory, a pool, a limit, a retry or a pause",
            number(tasks, "held")
        );
    }
    text.push('\n');
    if let Ok(Some(forecast)) = serde_json::from_value::<Option<Forecast>>(status["forecast"].clone()) {
        let in_s = |finish: f64| seconds((finish - time).max(0.0));
        let [soon, middle, late] = [forecast.finish_q10_s, forecast.finish_q50_s, forecast.finish_q90_s].map(in_s);
        let _ = writeln!(text, "  end     in {middle}; in 8 of 10 cases in {soon} to {late}");
    }
    if let Some(cost) = status["cost"].as_f64() {
        let of = status["budget"].as_f64().map(|budget| format!(" of {budget:.2}")).unwrap_or_default();
        let _ = writeln!(text, "  spent   {cost:.2}{of}");
    }
    text += &scaling(&status["scaling"], time);
    if let Some(tasks) = status["paused_tasks"].as_str() {
        let _ = writeln!(text, "  paused  {tasks}; `phalanx resume RUN` starts tasks again");
    }
    text += &super::pools::text(&status["pools"]);
    for task in status["running"].as_array().into_iter().flatten().take(MAX_RUNNING_SHOWN) {
        let passed = seconds((time - task["since_s"].as_f64().unwrap_or(time)).max(0.0));
        let _ =
            writeln!(text, "  runs    {:<24} on rank {:<4} for {passed}", word(task, "label"), number(task, "rank"));
    }
    for rank in status["ranks"].as_array().into_iter().flatten() {
        let block = rank["block"].as_u64().map(|block| format!("  block {block}")).unwrap_or_default();
        let labels: Vec<&str> = rank["labels"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        let labels = if labels.is_empty() { String::new() } else { format!("  labels {}", labels.join(",")) };
        let _ = writeln!(
            text,
            "  rank {:<4} {:<11} {:<16} {:>3} of {:>3} slots busy{block}{labels}{}",
            number(rank, "rank"),
            word(rank, "state"),
            word(rank, "node"),
            number(rank, "running"),
            rank["slots_active"].as_u64().unwrap_or_else(|| number(rank, "slots")),
            health(rank),
        );
    }
    for block in status["blocks"].as_array().into_iter().flatten() {
        let billed = block["billed_node_s"].as_f64().unwrap_or_default();
        let (id, state, node) = (number(block, "block"), word(block, "state"), word(block, "node"));
        let site = block["site"].as_str().map(|site| format!(" at {site}")).unwrap_or_default();
        let _ = writeln!(
            text,
            "  block {id:<3} {state:<10} {node:<16} {billed:.0} s billed  {}{site}",
            word(block, "name")
        );
    }
    if let Some(why) = status["paused"].as_str() {
        let _ = writeln!(text, "  no further nodes are requested: {why}");
    }
    text
}
