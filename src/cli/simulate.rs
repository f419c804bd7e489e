//! `phalanx simulate`: runs a job in virtual time, or compares several simulated runs.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::value_parser;

use super::cluster_args::{cluster_of, duration, money};
use super::job_history::{JobHistory, learnt_text};
use super::selection_args::SelectionArgs;
use super::{check, complain, print, refuse, report};
use crate::exec::Kernels;
use crate::job::{self, Cost, Job, Scaling, Trigger};
use crate::journal::RUNS;
use crate::runtime::{auto_memory, divide_graphs};
use crate::scale::estimate::Learnt;
use crate::scale::policy::policy_names;
use crate::sim::compare::{Comparison, LEGEND, compare, compare_placement, placement_table, table};
use crate::sim::{Cluster, RecordRequest, Rehearsed, rehearse};
use crate::text::counted;
use crate::workload::PreparedJob;

/// Policies of a comparison that names none.
const DEFAULT_POLICIES: [&str; 7] = ["hybrid", "cost", "performance", "reactive", "static-1", "static-4", "static-16"];

/// Byte-seconds in a GiB-hour.
const GIB_HOUR: f64 = 3600.0 * (1u64 << 30) as f64;

/// Runs a job in virtual time: the scheduler and policies of a real run on a described cluster.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Job file; `-` reads standard input. Several count as one job whose tasks are called
    /// JOB/TASK.
    #[arg(required = true, value_name = "JOB")]
    jobs: Vec<PathBuf>,
    #[command(flatten)]
    selection: SelectionArgs,
    /// Cluster file: nodes with prices, speeds, delays and faults (see docs/cluster-file.md)
    /// [default: nodes with the job's prices].
    #[arg(long, value_name = "FILE")]
    cluster: Option<PathBuf>,
    /// Slots of each node (overrides the cluster file).
    #[arg(long, value_name = "N", value_parser = value_parser!(u32).range(1..=4096))]
    slots: Option<u32>,
    /// Scaling policy; several (or `all`) are compared [default: the job file's, else hybrid].
    #[arg(long, value_name = "P", value_delimiter = ',')]
    policy: Vec<String>,
    /// Initial ranks [default: N of static-N, else `min_ranks` of the job file].
    #[arg(long, value_name = "N", value_parser = value_parser!(u32).range(1..=100_000))]
    ranks: Option<u32>,
    /// Maximum number of ranks (overrides the job file).
    #[arg(long, value_name = "N", value_parser = value_parser!(u32).range(1..=100_000))]
    max_ranks: Option<u32>,
    /// Seed of the random number generator.
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,
    /// Budget of the run (overrides the job file).
    #[arg(long, value_name = "MONEY", value_parser = money)]
    budget: Option<f64>,
    /// Deadline of the run, e.g. 2h (overrides the job file).
    #[arg(long, value_name = "TIME", value_parser = duration)]
    deadline: Option<Duration>,
    /// Compare policies and print a table; no run directory is written.
    #[arg(long, conflicts_with_all = ["resume", "run_dir", "ranks"])]
    compare: bool,
    /// Compare the placements of tasks (`[job] placement`) and print a table; no run directory is
    /// written.
    #[arg(long, alias = "compare-balance", conflicts_with_all = ["compare", "resume", "run_dir", "policy"])]
    compare_placement: bool,
    /// With a comparison: number of seeds of each row; results are averaged.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = value_parser!(u64).range(1..=10_000))]
    repeats: u64,
    /// Resume a simulated run that stopped, e.g. with a larger budget.
    #[arg(long)]
    resume: bool,
    /// Run directory [default: phalanx-runs/<job>-simulated-<number>].
    #[arg(long, value_name = "DIR")]
    run_dir: Option<PathBuf>,
    /// Give the answers that the `[advisor]` gave in this run (a directory or a name), in their
    /// order; a simulation asks nobody.
    #[arg(long, value_name = "RUN", conflicts_with_all = ["compare", "compare_placement"])]
    advice: Option<String>,
    /// Print no summary.
    #[arg(short, long)]
    quiet: bool,
    /// Print one JSON object: the figures of the run as `report --json` has them, or the rows of a
    /// comparison.
    #[arg(long, conflicts_with = "quiet")]
    json: bool,
}

pub(super) fn main(args: Args) -> ExitCode {
    let found = job::load_all(&args.jobs, &Kernels::builtin()).and_then(|mut loaded| {
        auto_memory(Path::new(RUNS), &mut loaded.job);
        divide_graphs(&mut loaded.job);
        let (text, file) = (Arc::clone(&loaded.text), PathBuf::from(loaded.file()));
        let past = JobHistory::of(None, &mut loaded.job);
        let prepared = PreparedJob::selected(loaded, &args.selection.selection())?;
        let (mut cluster, cluster_text) = cluster_of(&prepared, args.cluster.as_deref(), args.slots, &past.waits)?;
        if args.cluster.is_none() {
            cluster.tasks.classes.extend(past.spreads());
        }
        Ok((prepared, (text, file), past.learnt, (cluster, cluster_text)))
    });
    let (prepared, source, learnt, (cluster, text)) = match found {
        Ok(found) => found,
        Err(mistakes) => return check::refuse(&mistakes),
    };
    let mut scaling = prepared.job.scaling.clone().unwrap_or_default();
    scaling.max_ranks = args.max_ranks.unwrap_or(scaling.max_ranks);
    scaling.min_ranks = scaling.min_ranks.min(scaling.max_ranks);
    let mut cost = prepared.job.cost.clone();
    cost.budget = args.budget.or(cost.budget);
    cost.deadline = args.deadline.or(cost.deadline);
    let set = Set { args: &args, prepared: &prepared, cluster: &cluster, scaling: &scaling, cost: &cost };
    if !args.quiet {
        warn_of_silent_rules(&scaling);
        warn_of_guesses(&prepared.job, &learnt);
    }
    match (args.compare || args.policy.len() > 1 || args.policy == ["all"], args.compare_placement) {
        (true, _) => set.compare(),
        (_, true) => set.compare_placement(),
        _ => set.run((&source.0, &source.1), &text),
    }
}

/// Says what tasks without an estimate in the job file are taken to last.
fn warn_of_guesses(job: &Job, learnt: &[Learnt]) {
    if let Some(durations) = learnt_text(learnt) {
        complain(format_args!("durations learnt from earlier runs for tasks without an `estimate`: {durations}"));
    }
    let unknown: u32 = job.groups.iter().filter(|group| group.estimate.is_none()).map(|group| group.count).sum();
    if unknown > 0 {
        complain(format_args!(
            "{} without an `estimate`, and no earlier run knows more: one second is assumed for each",
            counted(unknown, "task")
        ));
    }
}

/// Warns of scaling rules on values that a simulated run does not measure: they never fire.
fn warn_of_silent_rules(scaling: &Scaling) {
    let silent = scaling.rules.iter().filter_map(|rule| match &rule.trigger {
        Trigger::Memory => Some("memory".to_owned()),
        Trigger::Gpu => Some("gpu".to_owned()),
        Trigger::Custom(name) => Some(format!("custom.{name}")),
        _ => None,
    });
    let silent: Vec<String> = silent.collect();
    if !silent.is_empty() {
        complain(format_args!(
            "scaling rules on `{}` have no effect in a simulation: only a real run measures these values",
            silent.join("`, `")
        ));
    }
}

/// Inputs of a simulation.
struct Set<'a> {
    args: &'a Args,
    prepared: &'a PreparedJob,
    cluster: &'a Cluster,
    scaling: &'a Scaling,
    cost: &'a Cost,
}

impl Set<'_> {
    /// Runs one simulation and writes its run directory.
    fn run(&self, (job_text, job_path): (&Arc<str>, &Path), cluster_text: &str) -> ExitCode {
        let of_job = self.prepared.job.scaling.as_ref().map(|scaling| scaling.policy.name());
        let policy = self.args.policy.first().map(String::as_str).or(of_job).unwrap_or("hybrid");
        if self.args.policy.is_empty() && of_job.is_none() && !self.args.quiet {
            complain(format_args!(
                "the job has no [scaling]: simulated with the policy {policy}; `phalanx run` keeps its ranks (--policy fixed)"
            ));
        }
        let advice = match self.args.advice.as_deref().map(super::view::find).transpose() {
            Ok(run) => run.map_or_else(Vec::new, |run| {
                run.replay.sessions.iter().flat_map(|session| &session.advice).cloned().collect()
            }),
            Err(error) => return refuse(error),
        };
        if self.prepared.job.advisor.is_some() && self.args.advice.is_none() && !self.args.quiet {
            complain(format_args!(
                "a simulation does not ask the `[advisor]`; `--advice RUN` repeats the answers of a run"
            ));
        }
        let began = Instant::now();
        let rehearsed = rehearse(&RecordRequest {
            prepared: self.prepared,
            selection: &self.args.selection.selection().words(),
            job_text,
            job_path,
            cluster: self.cluster,
            cluster_text,
            policy,
            scaling: self.scaling,
            cost: self.cost,
            ranks: self.args.ranks,
            seed: self.args.seed,
            advice: &advice,
            run_dir: self.args.run_dir.as_deref(),
            resume: self.args.resume,
        });
        match rehearsed {
            Ok(rehearsed) => self.tell(&rehearsed, began.elapsed()),
            Err(error) => refuse(error),
        }
    }

    fn tell(&self, rehearsed: &Rehearsed, took: Duration) -> ExitCode {
        if !self.args.quiet {
            report::summarize(&rehearsed.dir, self.args.json);
            let memory = rehearsed.outcome.ended.memory;
            if memory.completed > 0 {
                complain(format_args!(
                    "memory: {:.4} GiB-hours asked for, {:.1} % of them in vain; {} attempts of {} had too little",
                    memory.asked / GIB_HOUR,
                    100.0 * memory.wasted() / memory.asked.max(1.0),
                    memory.short,
                    counted(memory.completed, "task"),
                ));
            }
            let events = rehearsed.outcome.ended.events;
            let rate = events as f64 / took.as_secs_f64().max(1e-9);
            complain(format_args!("{events} events in {:.2} s, {rate:.0} per second", took.as_secs_f64()));
        }
        ExitCode::from(u8::try_from(rehearsed.exit_code).unwrap_or(1))
    }

    fn field(&self) -> Comparison<'_> {
        let Set { args, prepared, cluster, scaling, cost, .. } = *self;
        Comparison { prepared, cluster, scaling, cost, seed: args.seed, repeats: args.repeats }
    }

    fn compare(&self) -> ExitCode {
        let named: Vec<&str> = self.args.policy.iter().map(String::as_str).collect();
        let policies = match named.as_slice() {
            [] => DEFAULT_POLICIES.to_vec(),
            ["all"] => policy_names().into_iter().chain(["static-1", "static-4", "static-16"]).collect(),
            _ => named,
        };
        match compare(&self.field(), &policies) {
            Ok(rows) if self.args.json => print(&format!("{:#}\n", serde_json::json!({ "policies": rows }))),
            Ok(rows) => print(&format!("{}\n{LEGEND}", table(&rows))),
            Err(error) => refuse(error),
        }
    }

    fn compare_placement(&self) -> ExitCode {
        match compare_placement(&self.field(), self.args.ranks.unwrap_or(self.scaling.max_ranks)) {
            Ok(rows) if self.args.json => print(&format!("{:#}\n", serde_json::json!({ "strategies": rows }))),
            Ok(rows) => print(&placement_table(&rows)),
            Err(error) => refuse(error),
        }
    }
}
