//! `phalanx run`: runs a job and ends with its summary.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::value_parser;

use super::{complain, launched_rank, report};
use crate::exec::Kernels;
use crate::job::{self, PolicyKind, ProviderKind};
use crate::model::Rank;
use crate::observe::progress::Mode;
use crate::runtime::{self, Finished, Options, RunError, go_on_without_terminal};

/// Environment variable that names a file for the exit code.
const EXIT_FILE: &str = "PHALANX_EXIT_FILE";

/// Runs a job: alone, or on all ranks of the mpirun that started this.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The job file; `-`: standard input.
    job: PathBuf,
    /// Go on with the latest run of this job (or the one in --run-dir): what is complete does not run again.
    #[arg(long)]
    resume: bool,
    /// With --resume: run this task again although it is complete (an array, or one element as
    /// `tile[3]`), and what needs it.
    #[arg(long, value_name = "TASK", requires = "resume")]
    rerun: Vec<String>,
    /// Where the run keeps its files [default: phalanx-runs/<job>-<number>].
    #[arg(long, value_name = "DIR")]
    run_dir: Option<PathBuf>,
    /// Slots of each rank [default: the CPUs that the launcher granted it].
    #[arg(long, value_name = "N", value_parser = value_parser!(u32).range(1..=4096))]
    slots: Option<u32>,
    /// Rank 0 coordinates and runs no tasks.
    #[arg(long)]
    coordinator_only: bool,
    /// Start nothing more once so many tasks have failed (overrides the job file).
    #[arg(long, value_name = "N", value_parser = value_parser!(u32).range(1..))]
    max_failures: Option<u32>,
    /// Go on however many tasks fail, even if the job file sets `max_failures`.
    #[arg(short, long, conflicts_with = "max_failures")]
    keep_going: bool,
    /// Let further ranks join (`phalanx join`): listen on this address of rank 0's node, e.g. 127.0.0.1 or node7:7000.
    #[arg(long, value_name = "HOST[:PORT]")]
    join_on: Option<String>,
    /// Check the job and show what would run, but run nothing.
    #[arg(long)]
    dry_run: bool,
    /// Say for a batch script how several nodes are to be started: as one MPI world, or each as its own because the job's policy may give
    /// nodes back. Nothing is run.
    #[arg(long, hide = true)]
    worlds: bool,
    /// Serve a page and an API about the run while it goes on, e.g. on 127.0.0.1:0 (any free port). The address, with the token that is
    /// needed, is printed.
    #[arg(long, value_name = "ADDRESS")]
    listen: Option<SocketAddr>,
    /// Keep this file up to date with the metrics of the run in Prometheus' text format, for node_exporter's textfile collector.
    #[arg(long, value_name = "FILE")]
    metrics_file: Option<PathBuf>,
    /// No progress, no summary.
    #[arg(short, long)]
    quiet: bool,
}

pub(super) fn main(args: Args) -> ExitCode {
    if args.dry_run {
        return super::check::check(&args.job, false);
    }
    if args.worlds {
        return super::print(&format!("{}\n", worlds(&args)));
    }
    go_on_without_terminal();
    let options = Options {
        job: args.job,
        run_dir: args.run_dir,
        resume: args.resume,
        rerun: args.rerun,
        slots: args.slots,
        coordinator_only: args.coordinator_only,
        max_failures: args.max_failures,
        keep_going: args.keep_going,
        join_on: args.join_on,
        progress: Mode::detect(args.quiet),
        listen: args.listen,
        metrics_file: args.metrics_file,
    };
    let result = runtime::run(&options, Kernels::builtin(), |result| tell(result, args.quiet));
    let code = exit_code(&result);
    ExitCode::from(u8::try_from(code).unwrap_or(1))
}

/// One world for a job that holds its nodes to the end, or has tasks that need several nodes at once. What is wrong with a job file is for the run
/// to say.
fn worlds(args: &Args) -> &'static str {
    let Ok(job::Loaded { job, .. }) = job::load(&args.job, &Kernels::builtin()) else { return "one" };
    let here = || std::thread::available_parallelism().map_or(1, |cpus| u32::try_from(cpus.get()).unwrap_or(u32::MAX));
    let slots = args.slots.unwrap_or_else(here);
    let shrinks = job.scaling.as_ref().is_some_and(|scaling| scaling.policy != PolicyKind::Fixed);
    let apart = shrinks && job.capacity.provider != ProviderKind::Local && !args.coordinator_only;
    if apart && !job.groups.iter().any(|group| group.spans_ranks(slots)) { "each" } else { "one" }
}

/// Phalanx's exit code.
fn exit_code(result: &Result<Finished, RunError>) -> i32 {
    match result {
        Ok(finished) => finished.exit_code,
        Err(error) => error.exit_code(),
    }
}

/// Says how the run ended: to the user, and to the batch script that asked for the exit code in a file, since a launcher may change it.
fn tell(result: &Result<Finished, RunError>, quiet: bool) {
    let leads =
        !matches!(result, Ok(Finished { run_dir: None, .. })) && launched_rank().is_none_or(|rank| rank == Rank::ZERO);
    if let Some(file) = std::env::var_os(EXIT_FILE).filter(|_| leads)
        && let Err(error) = std::fs::write(&file, format!("{}\n", exit_code(result)))
    {
        complain(format_args!("cannot write {}: {error}", file.display()));
    }
    match result {
        Ok(Finished { run_dir: Some(dir), .. }) if !quiet => report::summarize(dir),
        Ok(_) => {}
        Err(RunError::Job(diagnostics)) => super::check::show(diagnostics),
        Err(error) => complain(error),
    }
}
