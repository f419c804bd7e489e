//! `phalanx check`: reports all mistakes of a job file at once, or a summary of its graph.

use std::fmt::Write as _;
use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use serde_json::json;

use super::selection_args::SelectionArgs;
use super::{USAGE, print};
use crate::exec::Kernels;
use crate::exec::container::{missing_programs, program_here};
use crate::graph::TaskGraph;
use crate::job::units::format_duration;
use crate::job::{self, DataGraph, Diagnostic, Diagnostics, Group, Job, Loaded};
use crate::model::TaskId;
use crate::observe::{LISTED, NOTICE, Paint, and_more, is_logged};
use crate::text::{counted, seconds};
use crate::workload::{
    Selected, Selection, block_time, estimate_ns, graph_of, refused_selection, requirements, unordered_changes,
};

/// Checks a job file: reports all mistakes at once, or a summary of its graph.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Job file; `-` reads standard input. Several are checked as one job whose tasks are called
    /// JOB/TASK.
    #[arg(required = true, value_name = "JOB")]
    jobs: Vec<PathBuf>,
    #[command(flatten)]
    selection: SelectionArgs,
    /// Print one JSON object instead of text.
    #[arg(long)]
    json: bool,
}

pub(super) fn main(args: Args) -> ExitCode {
    check(&args.jobs, &args.selection.selection(), args.json, &|_, _| String::new())
}

/// Prints the mistakes and returns exit code 2.
pub(super) fn refuse(mistakes: &Diagnostics) -> ExitCode {
    show(mistakes);
    ExitCode::from(USAGE)
}

/// Checks a job file and prints the result, followed by `more` of a job without mistakes.
pub(super) fn check(
    paths: &[PathBuf],
    selection: &Selection,
    json: bool,
    more: &dyn Fn(&Job, &Selected) -> String,
) -> ExitCode {
    let found = job::load_all(paths, &Kernels::builtin()).and_then(|loaded| {
        let graph = graph_of(&loaded)?;
        let selected = selection.of(&loaded.job, &graph).map_err(|reason| refused_selection(&loaded, reason))?;
        Ok((loaded, graph, selected))
    });
    match found {
        Ok((loaded, graph, selected)) => {
            let (block_time, runtimes) = (block_time(&loaded, &graph), missing_runtimes(&loaded));
            let unordered = unordered(&loaded, &graph);
            let warnings =
                [&loaded.warnings, &loaded.missing_inputs(), &line_ends(&loaded), &block_time, &runtimes, &unordered]
                    .map(Clone::clone);
            if json {
                let warnings = warnings.iter().flat_map(|w| w.to_json().as_array().cloned().unwrap_or_default());
                let mut summary = summary_json(&loaded.job, &graph, &selected);
                summary["warnings"] = warnings.collect();
                return print(&format!("{summary:#}\n"));
            }
            warnings.iter().filter(|w| !w.is_empty()).for_each(show);
            print(&(summary(&loaded.job, &graph, &selected) + &more(&loaded.job, &selected)))
        }
        Err(mistakes) => {
            if json {
                print(&format!("{:#}\n", serde_json::json!({ "ok": false, "mistakes": mistakes.to_json() })));
            } else {
                show(&mistakes);
            }
            ExitCode::from(USAGE)
        }
    }
}

/// A warning for each image that no program here runs, unless a prologue may load one.
fn missing_runtimes(loaded: &Loaded) -> Diagnostics {
    let has_prologue = !loaded.job.prologue.is_empty() || loaded.job.parts.iter().any(|part| !part.prologue.is_empty());
    let missing = loaded.job.containers().into_iter().filter(|it| !has_prologue && program_here(it).is_none());
    let warning = |container| {
        Diagnostic::warning(missing_programs(&container))
            .help("install it on all nodes, or load its module in `prologue` of [job]; docs/containers.md says more")
    };
    loaded.report(missing.map(warning).take(LISTED).collect())
}

/// A warning for each data graph with a change and another operation of which none waits for the
/// other.
fn unordered(loaded: &Loaded, graph: &TaskGraph) -> Diagnostics {
    let job = &loaded.job;
    let warning = |data: &DataGraph| {
        let (change, other) = unordered_changes(job, graph, &data.name)?;
        let (change, other) = (job.task_name(change), job.task_name(other));
        let text = format!("`{change}` changes the graph `{}` before or after `{other}`, as it happens", data.name);
        Some(Diagnostic::warning(text).help(format!("give one of them `needs`: `needs = \"{change}\"` in `{other}`")))
    };
    loaded.report(job.graphs.iter().filter_map(warning).collect())
}

/// A warning if the file has Windows line ends.
fn line_ends(loaded: &Loaded) -> Diagnostics {
    let text = "the file has Windows line ends (CR LF); they are read as LF, also inside multi-line strings";
    loaded.report(loaded.has_crlf.then(|| Diagnostic::warning(text)).into_iter().collect())
}

/// Prints mistakes or warnings to standard error, in colour on a terminal.
pub(super) fn show(diagnostics: &Diagnostics) {
    if is_logged() {
        return tracing::warn!(target: NOTICE, "{}", diagnostics.render(false).trim_end());
    }
    let stderr = std::io::stderr();
    let colour = Paint::for_stream(&stderr) != Paint::OFF;
    let _ = writeln!(stderr.lock(), "{}", diagnostics.render(colour).trim_end());
}

/// Size and shape of a job's graph.
struct GraphFigures {
    tasks: usize,
    /// Number of tasks that are left out.
    left_out: usize,
    dependencies: usize,
    critical_path: Duration,
    /// Summed over slots.
    work: Duration,
    /// No number of slots makes the run shorter: the critical path, or the work of an array at its
    /// limit.
    at_least: Duration,
    levels: usize,
    widest: usize,
    /// Upper bounds of the tasks that run at once, and of their slots.
    tasks_at_once: u64,
    slots_at_once: u64,
    /// Number of tasks without an `estimate`.
    unknown: usize,
}

impl GraphFigures {
    fn of(job: &Job, graph: &TaskGraph, selected: &Selected) -> GraphFigures {
        let estimate = |task| if selected.has(task) { estimate_ns(job, task) } else { 0 };
        let order = graph.order(&estimate);
        let tasks = || (0..graph.task_count() as u32).map(TaskId).filter(|&task| selected.has(task));
        let levels = &graph.levels()[..graph.task_count()];
        let mut width = vec![0usize; levels.iter().max().map_or(0, |&last| last as usize + 1)];
        tasks().for_each(|task| width[levels[task.index()] as usize] += 1);
        width.retain(|&width| width > 0);
        let one = |task| u64::from(selected.has(task));
        let slots = |task| one(task) * u64::from(requirements::slots(job.group(task)));
        GraphFigures {
            tasks: tasks().count(),
            left_out: graph.task_count() - tasks().count(),
            dependencies: dependencies(graph, selected),
            critical_path: Duration::from_nanos(order.critical_path),
            work: Duration::from_nanos(
                tasks().map(|task| estimate(task).saturating_mul(slots(task))).fold(0, u64::saturating_add),
            ),
            at_least: Duration::from_nanos(order.critical_path.max(longest_limited(job, &estimate))),
            levels: width.len(),
            widest: width.iter().copied().max().unwrap_or(0),
            tasks_at_once: max_at_once(job, graph, &one),
            slots_at_once: max_at_once(job, graph, &slots),
            unknown: tasks().filter(|&task| job.estimate(task).is_none()).count(),
        }
    }
}

/// Number of dependencies of the chosen tasks.
fn dependencies(graph: &TaskGraph, selected: &Selected) -> usize {
    if selected.is_all() {
        return graph.edge_count();
    }
    let counts = |node: u32| node as usize >= graph.task_count() || selected.has(TaskId(node));
    let nodes = (0..graph.node_count() as u32).filter(|&node| counts(node));
    nodes.map(|node| graph.predecessors(node).filter(|edge| counts(edge.node())).count()).sum()
}

/// The longest time in nanoseconds that the tasks of an array take at its limit, or those of a pool
/// at its capacity.
fn longest_limited(job: &Job, estimate: &dyn Fn(TaskId) -> u64) -> u64 {
    let limited = job.groups.iter().filter_map(|group| Some((group, u64::from(group.limit?))));
    let work = |group: &Group| (group.first.0..).take(group.count as usize).map(|task| estimate(TaskId(task)));
    let arrays = limited.map(|(group, limit)| work(group).fold(0, u64::saturating_add) / limit).max().unwrap_or(0);
    let pooled = job.pools.iter().enumerate().filter_map(|(at, pool)| {
        let capacity = u64::from(pool.capacity?);
        let amount =
            |group: &Group| group.pools.iter().find(|need| need.0 as usize == at).map_or(0, |need| need.1.into());
        let used =
            job.groups.iter().map(|group| work(group).fold(0, u64::saturating_add).saturating_mul(amount(group)));
        Some(used.fold(0, u64::saturating_add) / capacity.max(1))
    });
    pooled.fold(arrays, u64::max)
}

/// An upper bound on the weight of the tasks that run at once, by the graph, the limits of arrays,
/// and each pool.
fn max_at_once(job: &Job, graph: &TaskGraph, weight: &dyn Fn(TaskId) -> u64) -> u64 {
    let by_pools = (0..).zip(&job.pools).filter_map(|(pool, it)| max_by_pool(job, graph, (pool, it.capacity?), weight));
    by_pools.fold(max_by_limits(job, graph, weight), u64::min)
}

/// The bound by one pool: as many tasks that use it as its units allow, and all others.
fn max_by_pool(
    job: &Job,
    graph: &TaskGraph,
    (pool, capacity): (u32, u32),
    weight: &dyn Fn(TaskId) -> u64,
) -> Option<u64> {
    let amount = |group: &Group| group.pools.iter().find(|need| need.0 == pool).map(|need| need.1);
    let users = || job.groups.iter().filter(|group| amount(group).is_some_and(|amount| amount > 0));
    let least = users().filter_map(amount).min()?;
    let tasks = users().flat_map(|group| (group.first.0..).take(group.count as usize)).map(TaskId);
    let heaviest = tasks.map(weight).max()?;
    let others = graph.max_at_once(&|task| if amount(job.group(task)).is_some() { 0 } else { weight(task) });
    Some(others.saturating_add(heaviest.saturating_mul(u64::from(capacity / least))))
}

/// The bound by the graph and the limits of arrays.
fn max_by_limits(job: &Job, graph: &TaskGraph, weight: &dyn Fn(TaskId) -> u64) -> u64 {
    let by_graph = graph.max_at_once(weight);
    let heaviest = |group: &Group| (group.first.0..).take(group.count as usize).map(|task| weight(TaskId(task))).max();
    let limited = job.groups.iter().filter_map(|group| Some(heaviest(group)? * u64::from(group.limit?)));
    let limited: Vec<u64> = limited.collect();
    if limited.is_empty() {
        return by_graph;
    }
    let others = graph.max_at_once(&|task| if job.group(task).limit.is_some() { 0 } else { weight(task) });
    by_graph.min(others + limited.iter().sum::<u64>())
}

fn summary_json(job: &Job, graph: &TaskGraph, selected: &Selected) -> serde_json::Value {
    let shape = GraphFigures::of(job, graph, selected);
    json!({
        "ok": true,
        "job": job.name,
        "tasks": shape.tasks,
        "left_out": shape.left_out,
        "groups": job.groups.len(),
        "dependencies": shape.dependencies,
        "levels": shape.levels,
        "widest_level": shape.widest,
        "max_tasks_at_once": shape.tasks_at_once,
        "max_slots_at_once": shape.slots_at_once,
        "work_s": shape.work.as_secs_f64(),
        "critical_path_s": shape.critical_path.as_secs_f64(),
        "shortest_s": shape.at_least.as_secs_f64(),
        "without_estimate": shape.unknown,
        "images": job.containers().iter().map(|it| json!({ "image": it.image, "program": program_here(it) })).collect::<Vec<_>>(),
    })
}

fn summary(job: &Job, graph: &TaskGraph, selected: &Selected) -> String {
    let shape = GraphFigures::of(job, graph, selected);
    let chosen =
        |group: &Group| (group.first.0..).take(group.count as usize).filter(|&task| selected.has(TaskId(task))).count();
    let groups: Vec<(&Group, usize)> =
        job.groups.iter().map(|group| (group, chosen(group))).filter(|it| it.1 > 0).collect();
    let mut text = String::new();
    let _ = writeln!(text, "{}: no mistakes found", job.name);
    if !job.description.is_empty() {
        let _ = writeln!(text, "  {}", job.description);
    }
    let _ = writeln!(text, "\n  {:<24} {:>9}  resources per task", "tasks", "count");
    for (group, tasks) in groups.iter().take(LISTED) {
        let _ = writeln!(text, "  {:<24} {tasks:>9}  {}", group.name, request(job, group));
    }
    if let Some(more) = and_more(groups.len()) {
        let tasks: usize = groups[LISTED..].iter().map(|(_, tasks)| tasks).sum();
        let _ = writeln!(text, "  {more:<24} {tasks:>9}");
    }
    let _ = writeln!(text, "  {:<24} {:>9}", "all", shape.tasks);
    if shape.left_out > 0 {
        let _ = writeln!(text, "  {:<24} {:>9}  {}", "left out", shape.left_out, selected.words());
    }
    let _ = writeln!(
        text,
        "\n  {} in {}; never more than {} at once, on {}",
        counted(shape.dependencies as u64, "dependency"),
        counted(shape.levels as u64, "level"),
        counted(shape.tasks_at_once, "task"),
        counted(shape.slots_at_once, "slot")
    );
    for container in job.containers().iter().take(LISTED) {
        let by =
            program_here(container).map_or("no program here runs it".to_owned(), |program| format!("run by {program}"));
        let _ = writeln!(text, "  image {}: {by}", container.image);
    }
    if shape.unknown < shape.tasks {
        let _ = writeln!(
            text,
            "  work {}, critical path {}: no number of slots makes the run shorter than {}",
            seconds(shape.work.as_secs_f64()),
            seconds(shape.critical_path.as_secs_f64()),
            seconds(shape.at_least.as_secs_f64())
        );
    }
    if shape.unknown > 0 {
        let (tasks, have) = (counted(shape.unknown as u64, "task"), if shape.unknown == 1 { "has" } else { "have" });
        let _ = writeln!(text, "  {tasks} {have} no `estimate`; one second is assumed for each");
    }
    text
}

fn request(job: &Job, group: &Group) -> String {
    let mut parts = Vec::new();
    if let Some(mpi) = group.mpi {
        parts.push(counted(mpi.ranks, "MPI rank"));
    }
    parts.push(counted(group.cpus, "CPU"));
    match group.memory {
        Some(_) if group.retry.auto_memory => parts.push("memory as measured".to_owned()),
        memory => parts.extend(memory.map(|bytes| format!("{} MiB", bytes >> 20))),
    }
    if group.gpus > 0 {
        parts.push(counted(group.gpus, "GPU"));
    }
    parts.extend((!group.labels.is_empty()).then(|| format!("label {}", group.labels.join(" and "))));
    parts.extend(group.time.map(|time| format!("at most {}", format_duration(time))));
    parts.extend(group.limit.map(|limit| format!("{limit} at once")));
    parts.extend(group.pools.iter().map(|&(pool, amount)| format!("{amount} of {}", job.pools[pool as usize].name)));
    if group.retry.count > 0 {
        parts.push(counted(group.retry.count, "retry"));
    }
    parts.join(", ")
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn many_tables_are_summed_up() {
        let text: String = (0..100).map(|i| format!("[[task]]\nname = \"t{i}\"\ncommand = \"true\"\n")).collect();
        let loaded = job::parse(text.as_str(), "many.toml", Path::new("."), &Kernels::builtin()).unwrap();
        let shown = summary(&loaded.job, &graph_of(&loaded).unwrap(), &Selected::all());
        assert!(shown.lines().count() < 50, "{shown}");
        let more = shown.lines().find(|line| line.contains("and 60 more")).unwrap();
        assert!(more.trim_end().ends_with("60"), "{more}");
    }
}
