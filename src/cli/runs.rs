//! `phalanx runs` and `phalanx clean`: the runs of this directory, and deleting old ones.

use std::io::{self, IsTerminal, Write};
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use super::{complain, print, refuse};
use crate::job::units::parse_duration;
use crate::journal::RUNS;
use crate::observe::{ListedRun, Paint, disk_space, list_runs, old_runs, to_stdout, write_runs, write_runs_json};
use crate::runtime::subject_of;
use crate::text::counted;

/// Without options, runs are kept for this long after they were last written.
const DEFAULT_AGE: Duration = Duration::from_secs(30 * 86_400);

/// Lists the runs in phalanx-runs, those that were written last first.
#[derive(Debug, clap::Args)]
pub(super) struct ListArgs {
    /// Only the runs of this job.
    job: Option<String>,
    /// Print one JSON array.
    #[arg(long)]
    json: bool,
}

/// Deletes old runs in phalanx-runs with their output, after showing them. A live run is never
/// deleted. Without options: runs that were last written more than 30 days ago, except the newest
/// of each job.
#[derive(Debug, clap::Args)]
pub(super) struct CleanArgs {
    /// Only the runs of this job.
    job: Option<String>,
    /// Keep the N newest runs of each job [default: 1].
    #[arg(long, value_name = "N")]
    keep: Option<usize>,
    /// Delete only runs that were last written longer ago than this, such as 30d or 12h [default:
    /// 30d; any age with --keep].
    #[arg(long, value_name = "TIME", value_parser = duration)]
    older_than: Option<Duration>,
    /// Delete without asking.
    #[arg(short, long)]
    yes: bool,
}

fn duration(text: &str) -> Result<Duration, String> {
    if text.parse::<f64>().is_ok() {
        return Err(format!("{text} has no unit: write {text}d for days, {text}h for hours or {text}m for minutes"));
    }
    parse_duration(text).map_err(|error| error.to_string())
}

/// The runs here, of one job if it is named; a name without runs is refused with those that there
/// are.
fn runs_of(job: Option<&str>) -> Result<Vec<ListedRun>, String> {
    let all = list_runs(Path::new(RUNS), &subject_of).map_err(|error| error.to_string())?;
    let Some(job) = job else { return Ok(all) };
    let mut names: Vec<String> = all.iter().map(|run| run.job.clone()).collect();
    let runs: Vec<ListedRun> = all.into_iter().filter(|run| run.job == job || run.run == job).collect();
    names.sort_unstable();
    names.dedup();
    match (runs.is_empty(), names.is_empty()) {
        (false, _) => Ok(runs),
        (true, true) => Err(format!("there is no run of {job}: there are no runs here")),
        (true, false) => Err(format!("there is no run of {job}: there are runs of {}", names.join(", "))),
    }
}

pub(super) fn list(args: ListArgs) -> ExitCode {
    let runs = match runs_of(args.job.as_deref()) {
        Ok(runs) => runs,
        Err(error) => return refuse(error),
    };
    let printed = to_stdout(|out| match args.json {
        true => write_runs_json(out, &runs),
        false => write_runs(out, &runs, Paint::for_stream(&io::stdout())),
    });
    printed.map_or_else(refuse, |()| ExitCode::SUCCESS)
}

pub(super) fn clean(args: CleanArgs) -> ExitCode {
    let default = if args.keep.is_some() { Duration::ZERO } else { DEFAULT_AGE };
    let runs = match runs_of(args.job.as_deref()) {
        Ok(runs) => old_runs(runs, args.keep.unwrap_or(1), args.older_than.unwrap_or(default)),
        Err(error) => return refuse(error),
    };
    if runs.is_empty() {
        return print("there is no run to delete\n");
    }
    if let Err(error) = to_stdout(|out| write_runs(out, &runs, Paint::for_stream(&io::stdout()))) {
        return refuse(error);
    }
    let what = format!("{} with {}", counted(runs.len() as u64, "run"), disk_space(&runs));
    if !args.yes && !is_confirmed(&what) {
        return print("nothing was deleted (`--yes` deletes without asking)\n");
    }
    let mut failed = false;
    for run in &runs {
        if let Err(error) = run.dir.delete() {
            complain(error);
            failed = true;
        }
    }
    match failed {
        true => ExitCode::FAILURE,
        false => print(&format!("{what}: deleted\n")),
    }
}

/// Asks at a terminal; elsewhere nobody can agree.
fn is_confirmed(what: &str) -> bool {
    let mut stderr = io::stderr();
    if !io::stdin().is_terminal() || !stderr.is_terminal() {
        return false;
    }
    let asked = write!(stderr, "delete {what}? [y/N] ").and_then(|()| stderr.flush());
    let mut line = String::new();
    let is_read = asked.is_ok() && io::stdin().read_line(&mut line).is_ok();
    is_read && ["y", "yes"].contains(&line.trim().to_lowercase().as_str())
}
