//! The command line, one file per verb. Each verb parses its arguments, calls the library and
//! returns an exit code.

mod analyze;
mod bench;
mod cache;
mod check;
mod cluster_args;
mod completions;
mod dry_run;
mod explain;
mod graph;
mod guess;
mod import;
mod job_history;
mod join;
mod man;
mod mcp;
mod new;
mod plan;
mod pools;
mod recommend;
mod report;
mod run;
mod runs;
mod schema;
mod selection_args;
mod simulate;
mod status;
mod steer;
mod submit;
mod top;
mod topo;
mod trace;
mod version;
mod view;

use std::fmt::Display;
use std::io::Write;
use std::process::ExitCode;

use clap::error::ErrorKind;
use clap::{ArgAction, Parser, Subcommand, ValueEnum};

use crate::journal::RunDir;
use crate::model::Rank;
use crate::observe::logging::{self, LogFormat};
use crate::observe::{NOTICE, is_logged};
use crate::system::file_size_limit;
use crate::system::launch;

/// Exit code for mistakes on the command line or in the job file.
const USAGE: u8 = 2;

/// Runs graph workloads on MPI clusters: one TOML file, started by mpirun or sbatch.
#[derive(Debug, Parser)]
#[command(name = "phalanx", version, about, arg_required_else_help = true, after_help = EXIT_CODES)]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
    /// Log more detail (-v, -vv, -vvv).
    #[arg(short, long, global = true, action = ArgAction::Count)]
    verbose: u8,
    /// Format of log lines on standard error.
    #[arg(long, global = true, value_enum, default_value = "human")]
    log_format: LogStyle,
}

const EXIT_CODES: &str = "Exit codes: 0 all tasks completed; 1 tasks failed; 2 bad usage or job file; \
3 stopped at the budget (resumable); 4 stopped before the walltime (resumable); 128+n ended by signal n";

#[derive(Clone, Copy, Debug, ValueEnum)]
enum LogStyle {
    Human,
    Json,
}

#[derive(Debug, Subcommand)]
enum Verb {
    New(new::Args),
    Check(check::Args),
    Plan(plan::Args),
    Recommend(recommend::Args),
    Simulate(simulate::Args),
    Run(run::Args),
    Submit(submit::Args),
    Join(join::Args),
    Status(status::Args),
    Scale(steer::ScaleArgs),
    Drain(steer::DrainArgs),
    Add(steer::AddArgs),
    Close(steer::CloseArgs),
    Rebalance(steer::RebalanceArgs),
    Limit(pools::LimitArgs),
    Pause(pools::PauseArgs),
    Resume(pools::ResumeArgs),
    Cancel(steer::CancelArgs),
    Top(top::Args),
    Report(report::Args),
    Runs(runs::ListArgs),
    Clean(runs::CleanArgs),
    Explain(explain::Args),
    Analyze(analyze::Args),
    Trace(trace::Args),
    Cache(cache::Args),
    Import(import::Args),
    Graph(graph::Args),
    Topo(topo::Args),
    Bench(bench::Args),
    Schema(schema::Args),
    Completions(completions::Args),
    Man(man::Args),
    Mcp(mcp::Args),
}

/// Parses the command line and runs the verb. `commit` is what the program was built from, for
/// `--version`.
pub fn main(commit: Option<&str>) -> ExitCode {
    file_size_limit::make_it_an_error();
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        // Only rank 0 prints the error. The other ranks exit with 0, because the launcher would
        // otherwise kill rank 0 before it has printed.
        Err(_) if launched_rank().is_some_and(|rank| rank != Rank::ZERO) => return ExitCode::SUCCESS,
        Err(error) if error.kind() == ErrorKind::DisplayVersion => return print(&version::text(commit)),
        Err(error) => {
            if std::env::args_os().any(|word| word == "run") {
                run::clear_exit_file();
            }
            guess::explain(error).exit()
        }
    };
    let format = match cli.log_format {
        LogStyle::Human => LogFormat::Human,
        LogStyle::Json => LogFormat::Json,
    };
    if let Err(error) = logging::init(format, cli.verbose, launched_rank()) {
        return refuse(error);
    }
    match cli.verb {
        Verb::New(args) => new::main(args),
        Verb::Check(args) => check::main(args),
        Verb::Plan(args) => plan::main(args),
        Verb::Recommend(args) => recommend::main(args),
        Verb::Simulate(args) => simulate::main(args),
        Verb::Explain(args) => explain::main(args),
        Verb::Run(args) => run::main(args, cli.verbose > 0),
        Verb::Submit(args) => submit::main(args),
        Verb::Join(args) => join::main(args),
        Verb::Status(args) => status::main(args),
        Verb::Scale(args) => steer::scale(args),
        Verb::Drain(args) => steer::drain(args),
        Verb::Add(args) => steer::add(args),
        Verb::Close(args) => steer::close(args),
        Verb::Rebalance(args) => steer::rebalance(args),
        Verb::Limit(args) => pools::limit(args),
        Verb::Pause(args) => pools::pause(args),
        Verb::Resume(args) => pools::resume(args),
        Verb::Cancel(args) => steer::cancel(args),
        Verb::Top(args) => top::main(args),
        Verb::Report(args) => report::main(args),
        Verb::Runs(args) => runs::list(args),
        Verb::Clean(args) => runs::clean(args),
        Verb::Analyze(args) => analyze::main(args),
        Verb::Trace(args) => trace::main(args),
        Verb::Cache(args) => cache::main(args),
        Verb::Import(args) => import::main(args),
        Verb::Graph(args) => graph::main(args),
        Verb::Topo(args) => topo::main(args),
        Verb::Bench(args) => bench::main(args),
        Verb::Schema(args) => schema::main(args),
        Verb::Completions(args) => completions::main(args),
        Verb::Man(args) => man::main(args),
        Verb::Mcp(args) => mcp::main(args),
    }
}

/// The rank that the launcher assigned to this process, read from the environment before MPI
/// starts.
fn launched_rank() -> Option<Rank> {
    launch::place().map(|place| Rank(place.rank))
}

/// Prints an error about the request and returns exit code 2.
fn refuse(error: impl Display) -> ExitCode {
    complain(error);
    ExitCode::from(USAGE)
}

/// Prints an error to standard error. A failure to do so is ignored: nothing else is left to print
/// to.
fn complain(error: impl Display) {
    if is_logged() {
        return tracing::error!(target: NOTICE, "{error}");
    }
    let _ = writeln!(std::io::stderr(), "phalanx: {error}");
}

/// Where the address of a run's page is found, if it serves one and this user may read the address:
/// the page can be reached from other nodes.
fn page_hint(dir: &RunDir) -> String {
    let page = dir.page();
    if std::fs::File::open(&page).is_ok() {
        format!("; the address of its page is in {}", page.display())
    } else {
        String::new()
    }
}

/// Prints text to standard output. A closed pipe is not an error.
fn print(text: &str) -> ExitCode {
    match std::io::stdout().write_all(text.as_bytes()).and_then(|()| std::io::stdout().flush()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            refuse(format_args!("cannot write to standard output: {error}"))
        }
        _ => ExitCode::SUCCESS,
    }
}
