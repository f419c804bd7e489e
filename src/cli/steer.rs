//! `phalanx scale`, `drain`, `add`, `close`, `rebalance` and `cancel`: each sends one request to a
//! live run.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use super::{complain, page_hint, print, refuse};
use crate::capacity::withdraw_all;
use crate::control::{Question, Scale, ask};
use crate::job::bounded_read::read_bounded;
use crate::journal::{Liveness, RUNS, RunDir};
use crate::runtime::BLOCKS;

/// Changes the number of ranks of a live run. The policy is suspended until `auto`.
#[derive(Debug, clap::Args)]
pub(super) struct ScaleArgs {
    /// The run: a directory, a name such as mosaic-3, a job's name (its newest run), or `latest`.
    run: String,
    /// `+2` adds ranks, `-1` removes one, `6` sets the total, `auto` returns control to the policy.
    #[arg(allow_hyphen_values = true)]
    ranks: Scale,
    /// Exceed the `max_ranks` of the job file. What the provider of nodes holds is never exceeded.
    #[arg(long)]
    force: bool,
}

/// Drains the ranks of a node or one rank: they complete their running tasks, take no further tasks
/// and leave the run.
#[derive(Debug, clap::Args)]
pub(super) struct DrainArgs {
    /// The run: a directory, a name such as mosaic-3, a job's name (its newest run), or `latest`.
    run: String,
    /// Name of a node, or number of a rank.
    what: String,
}

/// Redistributes the remaining work of a live run evenly over its ranks.
#[derive(Debug, clap::Args)]
pub(super) struct RebalanceArgs {
    /// The run: a directory, a name such as mosaic-3, a job's name (its newest run), or `latest`.
    #[arg(default_value = "latest")]
    run: String,
}

/// Cancels a live run, or single tasks of it. Completed tasks stay completed; `phalanx run
/// --resume` continues the run.
#[derive(Debug, clap::Args)]
pub(super) struct CancelArgs {
    /// The run: a directory, a name such as mosaic-3, a job's name (its newest run), or `latest`.
    run: String,
    /// Cancel only this task (`tile[3]`, `tile[0-9]`, `align[sample=NA3]`), or all tasks of an
    /// array (`tile`): running ones are killed, waiting ones are not started, and tasks that depend
    /// on them are skipped.
    task: Option<String>,
}

/// Adds tasks to a live run: `[[task]]` tables, which may need tasks of the run.
#[derive(Debug, clap::Args)]
pub(super) struct AddArgs {
    /// The run: a directory, a name such as mosaic-3, a job's name (its newest run), or `latest`.
    run: String,
    /// File with `[[task]]` tables as in a job file; `-` reads standard input.
    file: PathBuf,
    /// Of a run of several job files, the job that the tasks belong to; default: the first that is
    /// open.
    #[arg(long)]
    job: Option<String>,
    /// Check the tables against the run, and add nothing.
    #[arg(long)]
    dry_run: bool,
}

/// Lets a run end whose job file says `open = true`: it waits for no more tasks.
#[derive(Debug, clap::Args)]
pub(super) struct CloseArgs {
    /// The run: a directory, a name such as mosaic-3, a job's name (its newest run), or `latest`.
    #[arg(default_value = "latest")]
    run: String,
}

pub(super) fn add(args: AddArgs) -> ExitCode {
    let file = args.file.display().to_string();
    match read_bounded(&args.file).map(String::from_utf8) {
        Ok(Ok(text)) => put(&args.run, &Question::Add { text, file, job: args.job, dry_run: args.dry_run }),
        Ok(Err(_)) => refuse(format_args!("{file} is not valid UTF-8: save it as UTF-8")),
        Err(reason) => refuse(format_args!("cannot read {file}: {reason}")),
    }
}

pub(super) fn close(args: CloseArgs) -> ExitCode {
    put(&args.run, &Question::Close)
}

pub(super) fn scale(args: ScaleArgs) -> ExitCode {
    put(&args.run, &Question::Scale { to: args.ranks, force: args.force })
}

pub(super) fn drain(args: DrainArgs) -> ExitCode {
    put(&args.run, &Question::Drain { what: args.what })
}

pub(super) fn rebalance(args: RebalanceArgs) -> ExitCode {
    put(&args.run, &Question::Rebalance)
}

pub(super) fn cancel(args: CancelArgs) -> ExitCode {
    let dir = match RunDir::find(Path::new(RUNS), &args.run) {
        Ok(dir) => dir,
        Err(error) => return refuse(error),
    };
    match dir.liveness() {
        Liveness::Gone if args.task.is_none() => withdraw(&dir),
        _ => put(&args.run, &Question::Cancel { task: args.task }),
    }
}

/// Cancels the queued jobs of a run that was killed and can no longer cancel them itself.
fn withdraw(dir: &RunDir) -> ExitCode {
    let (logs, ended) = (dir.path().join(BLOCKS), dir.ended_sessions());
    match withdraw_all(&logs, &ended) {
        Ok(jobs) if !jobs.is_empty() => {
            let jobs = jobs.join(", ");
            print(&format!("{}: the run is over; its jobs in the queue ({jobs}) are cancelled\n", dir.name()))
        }
        Ok(_) => refuse(format_args!("{}: the run is over and has no jobs in the queue", dir.name())),
        Err(why) => {
            complain(format_args!(
                "{}: no coordinator runs on this node, and the jobs of the run were not cancelled: {why}",
                dir.name()
            ));
            ExitCode::FAILURE
        }
    }
}

/// Sends a request to a run and prints the answer.
pub(super) fn put(run: &str, question: &Question) -> ExitCode {
    let dir = match RunDir::find(Path::new(RUNS), run) {
        Ok(dir) => dir,
        Err(error) => return refuse(error),
    };
    match ask(dir.path(), question) {
        Ok(answer) if answer.ok => print(&format!("{}: {}\n", dir.name(), answer.text)),
        Ok(answer) => {
            complain(format_args!("{}: refused: {}", dir.name(), answer.text));
            ExitCode::FAILURE
        }
        Err(error) => refuse(format_args!("{}: {error}{}", dir.name(), page_hint(&dir))),
    }
}
