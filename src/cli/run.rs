//! `phalanx run`: runs a job and prints its summary.

use std::io::{self, IsTerminal, Write};
use std::net::{SocketAddr, ToSocketAddrs};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::value_parser;

use super::dry_run::{entry, list};
use super::selection_args::{SelectionArgs, label};
use super::{complain, launched_rank, refuse, report};
use crate::exec::Kernels;
use crate::job::{self, Job, PolicyKind, ProviderKind, Site};
use crate::model::RankRoom;
use crate::observe::progress::Mode;
use crate::runtime::{
    self, Finished, Options, PlannedTask, RunError, RunPreview, UnfinishedRun, detach_from_terminal, divide_graphs,
    find_unfinished_run, preview,
};
use crate::system::launch;
use crate::workload::Selected;

/// Environment variable that names a file to which rank 0 writes the exit code.
const EXIT_FILE: &str = "PHALANX_EXIT_FILE";

/// Runs a job: in one process, or on all ranks started by mpirun.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Job file; `-` reads standard input. Several run as one job whose tasks are called JOB/TASK.
    #[arg(required = true, value_name = "JOB")]
    jobs: Vec<PathBuf>,
    /// Resume the latest run of this job (or the run in --run-dir): completed tasks are not run
    /// again, unless they or the files that they used have changed. Without an earlier run, all
    /// tasks run.
    #[arg(long)]
    resume: bool,
    /// With --resume: run this task again although it is complete, and all tasks that depend on it.
    /// TASK is an array, or elements of one, such as `tile[3]` or `align[sample=NA3]`.
    #[arg(long, value_name = "TASK", requires = "resume")]
    rerun: Vec<String>,
    #[command(flatten)]
    selection: SelectionArgs,
    /// Run directory [default: phalanx-runs/<job>-<number>].
    #[arg(long, value_name = "DIR")]
    run_dir: Option<PathBuf>,
    /// Slots of each rank [default: the CPUs that the launcher granted].
    #[arg(short = 'j', long, aliases = ["jobs", "cores", "threads"], value_name = "N")]
    #[arg(value_parser = value_parser!(u32).range(1..=4096))]
    slots: Option<u32>,
    /// Labels of each rank, beside those in PHALANX_LABELS: tasks may ask for them (`labels`).
    #[arg(long, value_name = "LABELS", value_delimiter = ',', value_parser = label)]
    labels: Vec<String>,
    /// Rank 0 only coordinates and runs no tasks.
    #[arg(long)]
    coordinator_only: bool,
    /// Start no further tasks after N tasks have failed (overrides the job file).
    #[arg(long, value_name = "N", value_parser = value_parser!(u32).range(1..))]
    max_failures: Option<u32>,
    /// Continue however many tasks fail, even if the job file sets `max_failures`.
    #[arg(short, long, conflicts_with = "max_failures")]
    keep_going: bool,
    /// Let further ranks join (`phalanx join`): listen on this address of rank 0's node, e.g.
    /// 127.0.0.1 or node7:7000.
    #[arg(long, value_name = "HOST[:PORT]")]
    join_on: Option<String>,
    /// Run nothing. Check the job, show its graph and list the tasks that would run with their
    /// commands; with --resume or a part of the job, each with a reason. With -v long lists and
    /// commands are whole.
    #[arg(short = 'n', long, alias = "dryrun")]
    dry_run: bool,
    /// Print how a batch script should start several nodes: `one` MPI world, or `each` node as its
    /// own world because the policy of the job may release nodes. Runs nothing.
    #[arg(long, hide = true)]
    worlds: bool,
    /// Serve a web page and an API during the run, e.g. on 127.0.0.1:0 (any free port). Prints the
    /// address with its access token.
    #[arg(long, value_name = "ADDRESS", value_parser = page_address)]
    listen: Option<SocketAddr>,
    /// Write the metrics of the run to this file in the Prometheus text format, for the textfile
    /// collector of node_exporter.
    #[arg(long, value_name = "FILE")]
    metrics_file: Option<PathBuf>,
    /// Print no progress and no summary.
    #[arg(short, long)]
    quiet: bool,
}

pub(super) fn main(args: Args, verbose: bool) -> ExitCode {
    let selection = args.selection.selection();
    if args.dry_run && !launch::is_first() {
        // One process of a world says it for all.
        return ExitCode::SUCCESS;
    }
    if args.dry_run && !args.resume && selection.is_all() {
        return super::check::check(&args.jobs, &selection, false, &|job, chosen| list(job, chosen, verbose));
    }
    if args.worlds {
        return super::print(&format!("{}\n", worlds(&args)));
    }
    let dry_run = args.dry_run;
    let mut options = Options {
        jobs: args.jobs,
        run_dir: args.run_dir,
        resume: args.resume,
        mention_earlier: !args.quiet,
        rerun: args.rerun,
        selection,
        slots: args.slots,
        labels: args.labels,
        coordinator_only: args.coordinator_only,
        max_failures: args.max_failures,
        keep_going: args.keep_going,
        join_on: args.join_on,
        progress: Mode::detect(args.quiet),
        listen: args.listen,
        metrics_file: args.metrics_file,
    };
    if dry_run {
        return show_preview(&options, verbose);
    }
    if may_ask(&options, args.quiet)
        && let Some(earlier) = find_unfinished_run(&options, &Kernels::builtin())
    {
        match ask(&earlier) {
            Answer::Resume => options.resume = true,
            Answer::New => options.mention_earlier = false,
            Answer::Cancel => return refuse("nothing was started"),
        }
    }
    detach_from_terminal();
    clear_exit_file();
    let result = runtime::run(&options, Kernels::builtin(), |result| tell(result, args.quiet));
    let code = exit_code(&result);
    ExitCode::from(u8::try_from(code).unwrap_or(1))
}

/// Reads the address of the page: HOST:PORT, where a name is looked up.
fn page_address(text: &str) -> Result<SocketAddr, String> {
    let found = text.to_socket_addrs().ok().and_then(|mut found| found.next());
    let help = "write HOST:PORT, such as 127.0.0.1:0; port 0 selects a free one";
    found.filter(|_| !text.starts_with(':')).ok_or_else(|| help.to_owned())
}

/// Lists the tasks that would run.
fn show_preview(options: &Options, verbose: bool) -> ExitCode {
    let found = match preview(options, &Kernels::builtin()) {
        Ok(found) => found,
        Err(RunError::Job(mistakes)) => return super::check::refuse(&mistakes),
        Err(error) => return refuse(error),
    };
    let RunPreview { resumed, remark, missing, tasks, complete, left_out, runs, added_again } = found;
    let nothing = || (options.resume && resumed.is_none()).then(|| "nothing to resume: all of it runs".to_owned());
    if let Some(remark) = remark.or_else(nothing) {
        complain(remark);
    }
    missing.into_iter().for_each(complain);
    if options.resume && resumed.is_none() && options.selection.is_all() {
        let commands = |job: &Job, chosen: &Selected| list(job, chosen, verbose);
        return super::check::check(&options.jobs, &options.selection, false, &commands);
    }
    let mut text = match resumed {
        Some(run) => format!("{run}: {complete} of {tasks} tasks are complete; {} would run", runs.len()),
        None => format!("a new run: {} of {tasks} tasks would run", runs.len()),
    };
    if left_out > 0 {
        let are = if left_out == 1 { "is" } else { "are" };
        text += &format!(", {left_out} {are} left out ({})", options.selection.words());
    }
    text.push('\n');
    for PlannedTask { name, reason, command } in &runs {
        text += &entry(&format!("{name}: {reason}"), command, verbose);
    }
    added_again.into_iter().for_each(|added| text += &format!("  {added}\n"));
    super::print(&text)
}

/// True if a person can be asked: at a terminal, and not as one of several ranks.
fn may_ask(options: &Options, quiet: bool) -> bool {
    let is_new = !options.resume && options.run_dir.is_none();
    is_new && !quiet && launched_rank().is_none() && io::stdin().is_terminal() && io::stderr().is_terminal()
}

/// What to do where an earlier run of the job has not completed.
enum Answer {
    Resume,
    New,
    Cancel,
}

/// Asks until the answer is clear; the end of the input cancels.
fn ask(earlier: &UnfinishedRun) -> Answer {
    let UnfinishedRun { name, complete, tasks } = earlier;
    let mut stderr = io::stderr();
    // What cannot be written was not seen: no answer follows, which cancels.
    let _ = writeln!(stderr, "{name} has not completed: {complete} of {tasks} tasks are complete there.");
    loop {
        let _ = write!(stderr, "[r]esume it, start a [n]ew run, or [c]ancel? [r] ").and_then(|()| stderr.flush());
        let mut line = String::new();
        if !matches!(io::stdin().read_line(&mut line), Ok(read) if read > 0) {
            return Answer::Cancel;
        }
        match line.trim().to_lowercase().as_str() {
            "" | "r" | "resume" | "y" | "yes" => return Answer::Resume,
            "n" | "new" => return Answer::New,
            "c" | "cancel" | "q" => return Answer::Cancel,
            _ => {}
        }
    }
}

/// `one` world for a job that keeps its nodes to the end, or that has tasks spanning several nodes.
/// A job file with mistakes gets `one` as well; the run itself reports them.
fn worlds(args: &Args) -> &'static str {
    let Ok(job::Loaded { mut job, .. }) = job::load_all(&args.jobs, &Kernels::builtin()) else { return "one" };
    divide_graphs(&mut job);
    let here = || std::thread::available_parallelism().map_or(1, |cpus| u32::try_from(cpus.get()).unwrap_or(u32::MAX));
    let slots = args.slots.unwrap_or_else(here);
    let shrinks = job.scaling.as_ref().is_some_and(|scaling| scaling.policy != PolicyKind::Fixed);
    let is_slurm = |site: &Site| site.capacity.provider == ProviderKind::Slurm;
    let in_slurm = job.sites.is_empty() || job.sites.iter().any(is_slurm);
    let apart = shrinks && in_slurm && !args.coordinator_only;
    // What memory and GPUs the nodes will have is not known here.
    let room = RankRoom::of_slots(slots);
    if apart && !job.groups.iter().any(|group| group.needs_gang(room, u32::MAX)) { "each" } else { "one" }
}

/// Removes what an earlier run has left in the file for the exit code: a run that does not start or
/// is killed writes none, and must not seem to have ended well.
pub(super) fn clear_exit_file() {
    if let Some(file) = std::env::var_os(EXIT_FILE).filter(|_| launch::is_first())
        && let Err(error) = std::fs::remove_file(&file)
        && error.kind() != io::ErrorKind::NotFound
    {
        complain(format_args!("cannot remove {}: {error}", file.display()));
    }
}

/// Exit code of the process.
fn exit_code(result: &Result<Finished, RunError>) -> i32 {
    match result {
        Ok(finished) => finished.exit_code,
        Err(error) => error.exit_code(),
    }
}

/// Prints the result, and writes the exit code to the file that the batch script named, because
/// launchers may change the exit code.
fn tell(result: &Result<Finished, RunError>, quiet: bool) {
    let is_first = !matches!(result, Ok(Finished { run_dir: None, .. })) && launch::is_first();
    if let Some(file) = std::env::var_os(EXIT_FILE).filter(|_| is_first)
        && let Err(error) = std::fs::write(&file, format!("{}\n", exit_code(result)))
    {
        complain(format_args!("cannot write {}: {error}", file.display()));
    }
    match result {
        Ok(Finished { run_dir: Some(dir), .. }) if !quiet => report::summarize(dir, false),
        Ok(_) => {}
        Err(RunError::Job(diagnostics)) => super::check::show(diagnostics),
        Err(error) if error.is_left_to_first() => {}
        Err(error) => complain(error),
    }
}
