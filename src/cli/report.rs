//! `phalanx report`: what happened in a run, while it goes on or afterwards.

use std::path::Path;
use std::process::ExitCode;

use super::{complain, refuse};
use crate::journal::RunDir;
use crate::observe::report::{write_failed, write_joblog, write_json, write_report, write_task, write_tasks};
use crate::observe::{Paint, to_stdout, write_summary};

/// Shows a run: its summary, or one of the views below.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The run: a directory, a name such as mosaic-3, a job's name (its newest run), or `latest`.
    #[arg(default_value = "latest")]
    run: String,
    /// All about one task: attempts, times, output.
    #[arg(long, value_name = "NAME", group = "view")]
    task: Option<String>,
    /// The failed tasks, with the end of their standard error.
    #[arg(long, group = "view")]
    failed: bool,
    /// One JSON object.
    #[arg(long, group = "view")]
    json: bool,
    /// Every attempt as CSV.
    #[arg(long, group = "view")]
    tasks: bool,
    /// A job log as GNU parallel writes it.
    #[arg(long, group = "view")]
    joblog: bool,
}

pub(super) fn main(args: Args) -> ExitCode {
    let view = match super::view::find(&args.run) {
        Ok(view) => view,
        Err(error) => return refuse(error),
    };
    let paint = Paint::for_stream(&std::io::stdout());
    let printed = to_stdout(|out| match &args.task {
        Some(name) => write_task(out, &view, name, paint),
        None if args.failed => write_failed(out, &view, paint),
        None if args.json => write_json(out, &view),
        None if args.tasks => write_tasks(out, &view),
        None if args.joblog => write_joblog(out, &view),
        None => write_report(out, &view, paint),
    });
    match printed {
        Err(error) => refuse(error),
        Ok(()) => super::view::end(&view),
    }
}

/// Prints the closing summary of a run.
pub(super) fn summarize(dir: &Path) {
    let printed = RunDir::open(dir).map_err(|error| error.to_string()).and_then(|dir| {
        let view = super::view::load(&dir).map_err(|error| error.to_string())?;
        let paint = Paint::for_stream(&std::io::stdout());
        to_stdout(|out| write_summary(out, &view, paint)).map_err(|error| error.to_string())
    });
    if let Err(error) = printed {
        complain(error);
    }
}
