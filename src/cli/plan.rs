//! `phalanx plan`: makespan and cost by number of ranks, before the run.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clap::value_parser;

use super::cluster_args::{cluster_of, duration, money};
use super::job_history::JobHistory;
use super::selection_args::SelectionArgs;
use super::{check, complain, print, refuse};
use crate::exec::Kernels;
use crate::job::{self, Site};
use crate::journal::RUNS;
use crate::observe::analyze::line_of;
use crate::observe::{Paint, bytes};
use crate::runtime::{auto_memory, divide_graphs, planned_sites};
use crate::scale::SiteView;
use crate::scale::policy::Objective;
use crate::scale::sites::{WAITS, site_table};
use crate::sim::TypeUse;
use crate::sim::plan::{
    Lever, LeverChange, Plan, PlanCandidate, PlanQuestion, Verdict, budget_needed, plan, ranks_between, svg,
};
use crate::text::{counted, counted_are, seconds, shell_word};
use crate::workload::PreparedJob;
use crate::workload::walltime::{longest_task, time_limit};

/// Compares numbers of ranks by makespan and cost, and recommends one.
///
/// Simulates each number of ranks with the estimates of the job file, several times with random
/// task durations.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Job file; `-` reads standard input. Several count as one job whose tasks are called
    /// JOB/TASK.
    #[arg(required = true, value_name = "JOB")]
    jobs: Vec<PathBuf>,
    #[command(flatten)]
    selection: SelectionArgs,
    /// Numbers of ranks to compare: 8, or 1..64.
    #[arg(long, value_name = "FROM..TO", default_value = "1..32", value_parser = range)]
    ranks: (u32, u32),
    /// Slots of each rank, except on types of nodes of the job file that say theirs [default: those
    /// of the cluster file, else the most CPUs that a task asks for].
    #[arg(long, value_name = "N", value_parser = value_parser!(u32).range(1..=4096))]
    slots: Option<u32>,
    /// Cluster to plan for: nodes with prices, speeds and delays (see docs/cluster-file.md).
    #[arg(long, value_name = "FILE")]
    cluster: Option<PathBuf>,
    /// Deadline of the run, e.g. 2h (overrides the job file).
    #[arg(long, value_name = "TIME", value_parser = duration)]
    deadline: Option<Duration>,
    /// Budget of the run (overrides the job file).
    #[arg(long, value_name = "MONEY", value_parser = money)]
    budget: Option<f64>,
    /// History of earlier runs [default: phalanx-runs/<job>.history.jsonl].
    #[arg(long, value_name = "FILE")]
    history: Option<PathBuf>,
    /// First seed of the random number generator.
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,
    /// Write a picture (SVG) of cost against makespan.
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

fn range(text: &str) -> Result<(u32, u32), String> {
    let number = |text: &str| text.trim().parse::<u32>().ok().filter(|n| (1..=100_000).contains(n));
    let (from, to) = text.split_once("..").or_else(|| text.split_once('-')).unwrap_or((text, text));
    let both = number(from).zip(number(to.trim_start_matches('=')));
    both.filter(|(from, to)| from <= to).ok_or_else(|| "write 8, or 1..64 (1 to 100000 ranks)".to_owned())
}

pub(super) fn main(args: Args) -> ExitCode {
    let mut past = JobHistory::default();
    let mut job_text = Arc::from("");
    let prepared = job::load_all(&args.jobs, &Kernels::builtin()).and_then(|mut loaded| {
        job_text = Arc::clone(&loaded.text);
        auto_memory(Path::new(RUNS), &mut loaded.job);
        divide_graphs(&mut loaded.job);
        past = JobHistory::of(args.history.as_deref(), &mut loaded.job);
        PreparedJob::selected(loaded, &args.selection.selection())
    });
    let prepared = match prepared {
        Ok(prepared) => prepared,
        Err(mistakes) => return check::refuse(&mistakes),
    };
    let (mut cluster, _) = match cluster_of(&prepared, args.cluster.as_deref(), args.slots, &past.waits) {
        Ok(cluster) => cluster,
        Err(mistakes) => return check::refuse(&mistakes),
    };
    if args.cluster.is_none() || cluster.first_ranks().is_none() {
        cluster = cluster.with_needed(&prepared.job);
    }
    if args.cluster.is_none() {
        cluster = cluster.filled();
        cluster.tasks.classes.extend(past.spreads());
    }
    let mut cost = prepared.job.cost.clone();
    cost.deadline = args.deadline.or(cost.deadline);
    cost.budget = args.budget.or(cost.budget);
    let limit = cluster.most_first_ranks();
    let ranks = ranks_between(args.ranks.0.min(limit), args.ranks.1.min(limit));
    let time_weight = Objective::of(&prepared.job.scaling.clone().unwrap_or_default()).time_weight();
    let question = PlanQuestion {
        prepared: &prepared,
        cluster: &cluster,
        cost: &cost,
        ranks: &ranks,
        seed: args.seed,
        time_weight,
    };
    let planned = match plan(&question) {
        Ok(planned) => planned,
        Err(error) => return refuse(error),
    };
    if let Some(file) = &args.svg
        && let Err(error) = std::fs::write(file, svg(&question, &planned))
    {
        complain(format_args!("cannot write {}: {error}", file.display()));
        return ExitCode::FAILURE;
    }
    let recommended = planned.candidates.iter().find(|candidate| Some(candidate.ranks) == planned.recommended);
    let task = longest_task(&prepared.job);
    let (job, options) = (shown(&args.jobs), recommended.map(|candidate| options(candidate, task)));
    // The options that choose a part of the job, for `phalanx run`.
    let words = args.selection.selection().words();
    let part = |before: &str| if words.is_empty() { String::new() } else { format!("{before}{words}") };
    match args.json {
        true => {
            let line = options.map(|options| format!("sbatch {options} slurm/phalanx.sbatch {job}{}", part(" ")));
            print(&json(&question, &planned, &past, line.as_deref()))
        }
        // The verb submits the same script, from any directory.
        false => {
            let line = options.map(|options| format!("phalanx submit {job} {options}{}", part(" -- ")));
            let place = |table, key: &str| match line_of(&job_text, table, key) {
                Some(line) => format!("{job}:{line}"),
                None => job.to_string(),
            };
            print(&text(&question, &planned, &past, &place, line.as_deref()))
        }
    }
}

/// The job files as the words of a command.
fn shown(jobs: &[PathBuf]) -> String {
    jobs.iter().map(|job| shell_word(&job.to_string_lossy())).collect::<Vec<_>>().join(" ")
}

/// The time limit to ask for, in minutes: the q90 of the makespan plus a fifth, and what a batch
/// job needs before and after that if its tasks take up to `task`.
fn limit_minutes(candidate: &PlanCandidate, task: Option<Duration>) -> u64 {
    let run = Duration::try_from_secs_f64(candidate.makespan_q90_s * 1.2).unwrap_or(Duration::MAX);
    time_limit(run, task).as_secs_f64().div_euclid(60.0) as u64 + 1
}

/// Node-hours that a candidate uses at most: all its nodes until the time limit.
fn node_hours(question: &PlanQuestion<'_>, candidate: &PlanCandidate) -> f64 {
    let minutes = limit_minutes(candidate, longest_task(&question.prepared.job));
    f64::from(candidate.ranks) * minutes as f64 / 60.0
}

/// Options of sbatch for the candidate.
fn options(candidate: &PlanCandidate, task: Option<Duration>) -> String {
    let minutes = limit_minutes(candidate, task);
    let (hours, minutes) = (minutes / 60, minutes % 60);
    format!("--nodes={} --time={hours}:{minutes:02}:00", candidate.ranks)
}

fn json(question: &PlanQuestion<'_>, planned: &Plan, past: &JobHistory, sbatch: Option<&str>) -> String {
    let chosen = planned.candidates.iter().find(|candidate| Some(candidate.ranks) == planned.recommended);
    let object = serde_json::json!({
        "job": question.prepared.job.name,
        "tasks": question.prepared.tasks() - question.prepared.left_out_count(),
        "left_out": question.prepared.left_out_count(),
        "cluster": question.cluster.name,
        "slots": question.cluster.nodes[0].slots,
        "deadline_s": question.cost.deadline.map(|d| d.as_secs_f64()),
        "budget": question.cost.budget,
        "critical_path_s": planned.critical_path_s,
        "work_s": planned.work_s,
        "seeds": planned.seeds,
        "past": past,
        "candidates": planned.candidates,
        "recommended": planned.recommended,
        "mix": planned.mix,
        "node_types": chosen.map(|chosen| type_rows(question, chosen)),
        "sites": sites(question, past),
        "levers": planned.levers,
        "wishes": planned.verdict,
        "node_hours": chosen.map(|chosen| node_hours(question, chosen)),
        "sbatch": sbatch,
    });
    format!("{object:#}\n")
}

/// The types of nodes of a candidate.
fn type_rows(question: &PlanQuestion<'_>, chosen: &PlanCandidate) -> Vec<serde_json::Value> {
    let row = |of: TypeUse| {
        let node = &question.cluster.nodes[of.kind.0 as usize];
        serde_json::json!({
            "node_type": node.name,
            "slots": node.slots,
            "memory": Some(node.memory).filter(|memory| *memory != u64::MAX),
            "gpus": node.gpus,
            "node_hour": node.price,
            "nodes": of.nodes,
            "cost": of.cost,
        })
    };
    question.cluster.type_uses(chosen.ranks, chosen.makespan_q50_s).into_iter().map(row).collect()
}

fn has_budget(question: &PlanQuestion<'_>) -> bool {
    question.cost.budget.is_some() || question.cost.budget_per_hour.is_some()
}

/// What was asked for: `the deadline`, `the budget`, or both.
fn wishes(question: &PlanQuestion<'_>, word: &str) -> String {
    match (question.cost.deadline.is_some(), has_budget(question)) {
        (true, true) => format!("the deadline {word} the budget"),
        (true, false) => "the deadline".to_owned(),
        (false, _) => "the budget".to_owned(),
    }
}

/// What a candidate does not meet in nine of ten cases, how often, and by what.
fn missed(question: &PlanQuestion<'_>, candidate: &PlanCandidate) -> String {
    if candidate.feasible {
        return String::new();
    }
    let cost = question.cost;
    let mut missed = Vec::new();
    if let Some(deadline) = cost.deadline.filter(|it| candidate.makespan_q90_s > it.as_secs_f64()) {
        let often = how_often([candidate.makespan_q10_s, candidate.makespan_q50_s], deadline.as_secs_f64());
        missed.push(format!("{often} the deadline, with {}", seconds(candidate.makespan_q90_s)));
    }
    let needed = budget_needed(question, candidate.ranks, candidate.cost_q90);
    if let Some(budget) = cost.budget.filter(|&budget| needed > budget) {
        let usual = budget_needed(question, candidate.ranks, candidate.cost);
        // The spread of costs below their median is not known; that of times is close to it.
        let least = usual * candidate.makespan_q10_s / candidate.makespan_q50_s.max(f64::MIN_POSITIVE);
        missed.push(format!("{} the budget, with {needed:.4}", how_often([least, usual], budget)));
    }
    if cost.budget_per_hour.is_some_and(|most| question.cluster.first_price(candidate.ranks) > most) {
        missed.push("each run exceeds the budget per hour".to_owned());
    }
    format!("; {}", missed.join(", and "))
}

/// How many of ten runs miss a limit, if 1 of 10 does at least: by the value that 9 of 10 runs
/// reach and by that which half of them reach.
fn how_often([of_nine, of_half]: [f64; 2], limit: f64) -> &'static str {
    match (of_nine > limit, of_half > limit) {
        (true, _) => "at least 9 of 10 runs miss",
        (_, true) => "5 of 10 runs miss",
        _ => "1 of 10 runs misses",
    }
}

fn text(
    question: &PlanQuestion<'_>,
    planned: &Plan,
    past: &JobHistory,
    place: &dyn Fn(usize, &str) -> String,
    submit: Option<&str>,
) -> String {
    let paint = Paint::for_stream(&std::io::stdout());
    let node = &question.cluster.nodes[0];
    let mut text = format!(
        "{}: {}, work {}, critical path {}; nodes of {} at {} per hour, up to {} each\n",
        paint.bold(&question.prepared.job.name),
        counted(question.prepared.tasks() - question.prepared.left_out_count(), "task"),
        seconds(planned.work_s),
        seconds(planned.critical_path_s),
        counted(node.slots, "slot"),
        node.price,
        counted(planned.seeds, "seed")
    );
    text += &past.text(paint);
    let head = "  ranks    makespan   8 of 10 runs within   node-hours        cost   slots used   bound by";
    let _ = writeln!(text, "{}", paint.dim(head));
    for candidate in &planned.candidates {
        let mark = match (planned.recommended == Some(candidate.ranks), candidate.pareto) {
            (true, _) => ">",
            (false, true) => "*",
            _ => " ",
        };
        let row = format!(
            "{mark} {:>5} {:>11} {:>21} {:>12.3} {:>11.4} {:>10.0} %   {}{}",
            candidate.ranks,
            format!("{}{}", if candidate.simulated { "" } else { "~" }, seconds(candidate.makespan_q50_s)),
            format!("{} .. {}", seconds(candidate.makespan_q10_s), seconds(candidate.makespan_q90_s)),
            candidate.billed_node_s / 3600.0,
            candidate.cost,
            candidate.utilisation * 100.0,
            candidate.bound.name(),
            missed(question, candidate),
        );
        let _ = writeln!(text, "{}", if candidate.feasible { row } else { paint.dim(row) });
    }
    if let Some(why) = &planned.too_few {
        let _ = writeln!(text, "  {}", paint.dim(format!("fewer ranks are left out: {why}")));
    }
    let all = planned.candidates.iter().all(|candidate| candidate.simulated);
    let between = if all { "" } else { "   ~ interpolated" };
    let _ =
        writeln!(text, "{}", paint.dim(format!("  * no other is both faster and cheaper   > recommended{between}")));
    let _ = match &planned.verdict {
        Verdict::Free => Ok(()),
        Verdict::Feasible { ranks } => {
            let (first, last) = (ranks.first().copied().unwrap_or(0), ranks.last().copied().unwrap_or(0));
            writeln!(
                text,
                "\n{} of these numbers of ranks meet {}, from {first} to {last}",
                ranks.len(),
                wishes(question, "and")
            )
        }
        Verdict::Infeasible { why, nearest_in_time, nearest_in_cost } => {
            let named = [(*nearest_in_time, "the deadline"), (*nearest_in_cost, "the budget")];
            let nearest = named.into_iter().zip([question.cost.deadline.is_some(), has_budget(question)]);
            let nearest = nearest.filter(|(_, asked)| *asked).map(|((ranks, what), _)| format!("{ranks} for {what}"));
            let head = format!("No number of ranks meets {}:", wishes(question, "and"));
            let nearest = nearest.collect::<Vec<_>>().join(", ");
            writeln!(text, "\n{} {why}\nNearest number of ranks: {nearest}", paint.red(head))
        }
    };
    text += &staging(planned);
    text += &levers(planned, place);
    let sites = sites(question, past);
    if let Some(first) = sites.first() {
        let _ = writeln!(text, "\nFurther nodes are requested from these sites, the first that can give them first:");
        site_table(&sites, Some(first.site)).iter().for_each(|line| _ = writeln!(text, "{line}"));
        let _ = writeln!(text, "{}", paint.dim(format!("  {WAITS}")));
        let _ = writeln!(
            text,
            "Without --cluster the first {} priced at {} per hour, and further ones as nodes of these sites, in this order.",
            counted_are(question.cluster.nodes[0].first, "rank"),
            question.cost.node_hour
        );
    }
    text += &types(question, planned, paint);
    if let Some(mix) = &planned.mix {
        let nodes = mix.nodes.iter().map(|&(node, count)| {
            let name = question.cluster.nodes.get(node.0 as usize).map_or("?", |node| node.name.as_str());
            format!("{count} x {name}")
        });
        let nodes = nodes.collect::<Vec<_>>().join(" and ");
        let _ = writeln!(text, "\nCheapest nodes for this number of slots: {nodes}, total cost {:.4}", mix.cost);
    }
    if let Some(line) = submit {
        let _ = writeln!(text, "\n{} {line}", paint.bold("To submit:"));
        if let Some(chosen) = planned.candidates.iter().find(|candidate| Some(candidate.ranks) == planned.recommended) {
            let nodes = counted(chosen.ranks, "node");
            let (hours, expected) = (node_hours(question, chosen), chosen.billed_node_s / 3600.0);
            let _ = writeln!(
                text,
                "Node-hours to ask for: {hours:.3} ({nodes} until the time limit); the run is expected to use {expected:.3}"
            );
        }
    }
    text
}

/// What the recommended number of ranks moves for staged tasks.
fn staging(planned: &Plan) -> String {
    let chosen = planned.candidates.iter().find(|candidate| Some(candidate.ranks) == planned.recommended);
    let chosen = chosen.or(planned.candidates.last());
    let Some((ranks, moved)) = chosen.and_then(|chosen| Some((chosen.ranks, chosen.staging?))) else {
        return String::new();
    };
    let part = |n: f64| bytes(n as u64);
    format!(
        "\nFiles of staged tasks with {}: {} read, {} from other nodes, {} already there ({} of waiting); {} written ({})\n",
        counted(ranks, "rank"),
        part(moved.read_bytes),
        part(moved.fetched_bytes),
        part(moved.local_bytes),
        seconds(moved.in_s),
        part(moved.written_bytes),
        seconds(moved.out_s),
    )
}

/// The types of nodes of the recommended number of ranks, with what they cost.
fn types(question: &PlanQuestion<'_>, planned: &Plan, paint: Paint) -> String {
    let nodes = &question.cluster.nodes;
    let chosen = planned.candidates.iter().find(|candidate| Some(candidate.ranks) == planned.recommended);
    let Some(chosen) = chosen.or(planned.candidates.last()).filter(|_| nodes.len() > 1) else { return String::new() };
    let mut text = format!("\nTypes of nodes with {}:\n", counted(chosen.ranks, "rank"));
    let head = "  type             slots   memory   GPUs   per hour   nodes        cost";
    let _ = writeln!(text, "{}", paint.dim(head));
    for use_of in question.cluster.type_uses(chosen.ranks, chosen.makespan_q50_s) {
        let node = &nodes[use_of.kind.0 as usize];
        let memory = if node.memory == u64::MAX { "-".to_owned() } else { format!("{}M", node.memory >> 20) };
        let _ = writeln!(
            text,
            "  {:<16} {:>5} {memory:>8} {:>6} {:>10} {:>7} {:>11.4}",
            node.name, node.slots, node.gpus, node.price, use_of.nodes, use_of.cost
        );
    }
    text
}

/// The sites of the job, in the order in which they are asked.
fn sites(question: &PlanQuestion<'_>, past: &JobHistory) -> Vec<SiteView> {
    let wait = |site: &Site| site.name().and_then(|name| past.waits.get(name)).cloned();
    planned_sites(&question.prepared.job, question.cluster.nodes[0].slots, &wait, true)
}

/// The changes of the job file that would shorten the run. `place` is that of a key of a table.
fn levers(planned: &Plan, place: &dyn Fn(usize, &str) -> String) -> String {
    const MAX_NAMED: usize = 5;
    let chosen = planned.candidates.iter().find(|candidate| Some(candidate.ranks) == planned.recommended);
    let Some(chosen) = chosen.or(planned.candidates.last()).filter(|_| !planned.levers.is_empty()) else {
        return String::new();
    };
    let mut text =
        format!("\nChanges of the job file that shorten this, simulated with {}:\n", counted(chosen.ranks, "rank"));
    for Lever { change, makespan_q50_s } in &planned.levers {
        let what = match change {
            LeverChange::NoLimit { table, task, limit } => {
                format!("{}: {task} without its limit of %{limit}", place(*table, "array"))
            }
            LeverChange::NoPoolLimit { pool } => format!("[pools.{pool}] without its limits"),
            LeverChange::Priorities { tables } => {
                let named = tables.iter().take(MAX_NAMED).map(|(table, task, priority)| {
                    format!("{}: priority = {priority} for {task}", place(*table, "priority"))
                });
                let more = if tables.len() > MAX_NAMED { ", and so on for later stages" } else { "" };
                named.collect::<Vec<_>>().join(", ") + more
            }
        };
        let (with, without) = (seconds(*makespan_q50_s), seconds(chosen.makespan_q50_s));
        let _ = writeln!(text, "  {what}: {with} instead of {without}");
    }
    text
}

#[cfg(test)]
mod tests {
    #[test]
    fn numbers_of_ranks_are_written_in_several_ways() {
        for (text, both) in [("8", (8, 8)), ("4..8", (4, 8)), ("4..=8", (4, 8)), ("4-8", (4, 8)), (" 4 - 8", (4, 8))] {
            assert_eq!(super::range(text), Ok(both), "{text}");
        }
        for text in ["", "0", "8-4", "-4", "4-", "1-2-3", "1..100001"] {
            assert!(super::range(text).is_err(), "{text}");
        }
    }
}
