//! `phalanx scale`, `drain`, `rebalance` and `cancel`: changes to a run under way. Each is one question to the run.

use std::path::Path;
use std::process::ExitCode;

use super::{complain, print, refuse};
use crate::capacity::slurm::withdraw_abandoned;
use crate::control::{Question, Scale, ask};
use crate::journal::{Liveness, RUNS, RunDir};
use crate::runtime::BLOCKS;

/// More or fewer ranks for a run under way. A policy leaves it so until `auto`.
#[derive(Debug, clap::Args)]
pub(super) struct ScaleArgs {
    /// The run: a directory, a name such as mosaic-3, a job's name (its newest run), or `latest`.
    run: String,
    /// `+2` more, `-1` fewer, `6` in all, or `auto`: as the policy decides.
    #[arg(allow_hyphen_values = true)]
    ranks: Scale,
}

/// Lets the ranks of a node leave a run under way: they end what they run and take nothing more.
#[derive(Debug, clap::Args)]
pub(super) struct DrainArgs {
    /// The run: a directory, a name such as mosaic-3, a job's name (its newest run), or `latest`.
    run: String,
    /// A node's name, or a rank's number.
    what: String,
}

/// Shares the remaining work of a run under way out evenly.
#[derive(Debug, clap::Args)]
pub(super) struct RebalanceArgs {
    /// The run: a directory, a name such as mosaic-3, a job's name (its newest run), or `latest`.
    #[arg(default_value = "latest")]
    run: String,
}

/// Ends a run under way, or single tasks of it. What is complete stays so, and `phalanx run --resume` goes on.
#[derive(Debug, clap::Args)]
pub(super) struct CancelArgs {
    /// The run: a directory, a name such as mosaic-3, a job's name (its newest run), or `latest`.
    run: String,
    /// Only this task (`tile[3]`), or all tasks of an array (`tile`): what runs of it is ended, what would run later is not started, and
    /// what needs it is skipped.
    task: Option<String>,
}

pub(super) fn scale(args: ScaleArgs) -> ExitCode {
    put(&args.run, &Question::Scale { to: args.ranks })
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

/// A run that was killed may have jobs in the queue that nobody waits for.
fn withdraw(dir: &RunDir) -> ExitCode {
    match withdraw_abandoned(&dir.path().join(BLOCKS), &dir.ended_sessions()) {
        Ok(jobs) if !jobs.is_empty() => {
            let jobs = jobs.join(", ");
            print(&format!("{}: the run is over; its jobs in Slurm's queue ({jobs}) are cancelled\n", dir.name()))
        }
        Ok(_) => refuse(format_args!("{}: the run is over, and has nothing in a queue", dir.name())),
        Err(why) => {
            complain(format_args!("{}: nobody leads the run here, but its jobs are not cancelled: {why}", dir.name()));
            ExitCode::FAILURE
        }
    }
}

/// Asks a run, and says what it answered.
fn put(run: &str, question: &Question) -> ExitCode {
    let dir = match RunDir::find(Path::new(RUNS), run) {
        Ok(dir) => dir,
        Err(error) => return refuse(error),
    };
    match ask(dir.path(), question) {
        Ok(answer) if answer.ok => print(&format!("{}: {}\n", dir.name(), answer.text)),
        Ok(answer) => {
            complain(format_args!("{}: {}", dir.name(), answer.text));
            ExitCode::FAILURE
        }
        Err(error) => refuse(format_args!("{}: {error}", dir.name())),
    }
}
