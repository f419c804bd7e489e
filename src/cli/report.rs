//! `phalanx report`: what happened in a run, during the run or after it.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use super::{complain, print, refuse};
use crate::journal::RunDir;
use crate::observe::html::html;
use crate::observe::report::{
    write_failed, write_failed_json, write_joblog, write_json, write_node_types, write_report, write_task,
    write_task_json, write_tasks, write_values,
};
use crate::observe::{Paint, RunState, RunView, follow_task, to_stdout, write_summary};
use crate::runtime::subject_of;

/// Shows a run: its summary, also written as an HTML page (report.html in the run directory), or
/// one of the views below.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The run: a directory, a name such as mosaic-3, a job's name (its newest run), or `latest`.
    #[arg(default_value = "latest")]
    run: String,
    /// Show one task: attempts, times, output; of a running task what it has printed so far.
    #[arg(long, value_name = "NAME", group = "view")]
    task: Option<String>,
    /// With --task: print what the task prints, from its beginning to its end.
    #[arg(long, requires = "task")]
    follow: bool,
    /// Show the failed tasks with the end of their standard error.
    #[arg(long, group = "view")]
    failed: bool,
    /// Print one JSON object; also with --task and --failed.
    #[arg(long, conflicts_with_all = ["tasks", "joblog", "values", "follow"])]
    json: bool,
    /// Print every attempt as CSV.
    #[arg(long, visible_alias = "csv", group = "view")]
    tasks: bool,
    /// Print what tasks wrote to $PHALANX_METRICS as CSV, a row per task with its index and axis
    /// values.
    #[arg(long, group = "view")]
    values: bool,
    /// Print a job log in the format of GNU parallel.
    #[arg(long, group = "view")]
    joblog: bool,
    /// Write the HTML page to this file [default: report.html in the run directory].
    #[arg(long, value_name = "FILE", conflicts_with_all = ["view", "json"])]
    html: Option<PathBuf>,
}

pub(super) fn main(args: Args) -> ExitCode {
    let view = match super::view::find(&args.run) {
        Ok(view) => view,
        Err(error) => return refuse(error),
    };
    let paint = Paint::for_stream(&std::io::stdout());
    if let Some(name) = args.task.as_ref().filter(|_| args.follow && view.state() == RunState::Running) {
        return follow(view, name);
    }
    let printed = to_stdout(|out| match &args.task {
        Some(name) if args.json => write_task_json(out, &view, name),
        Some(name) => write_task(out, &view, name, paint),
        None if args.failed && args.json => write_failed_json(out, &view),
        None if args.failed => write_failed(out, &view, paint),
        None if args.json => write_json(out, &view),
        None if args.tasks => write_tasks(out, &view),
        None if args.values => write_values(out, &view),
        None if args.joblog => write_joblog(out, &view),
        None => write_report(out, &view, paint),
    });
    let is_summary = args.task.is_none() && !(args.failed || args.json || args.tasks || args.values || args.joblog);
    if printed.is_ok()
        && is_summary
        && let Err(error) = write_page(&view, args.html.as_deref())
    {
        return refuse(error);
    }
    match printed {
        Err(error) => refuse(error),
        Ok(()) => super::view::end(&view),
    }
}

/// Prints what a task prints until it has ended.
fn follow(mut view: RunView, task: &str) -> ExitCode {
    let followed = to_stdout(|out| follow_task(out, &mut std::io::stderr(), &mut view, &subject_of, task));
    match followed {
        Err(error) => refuse(error),
        Ok(()) => super::view::end(&view),
    }
}

/// Writes the HTML page and prints its path. A run directory without write permission is an error
/// only if the user named a file.
fn write_page(view: &RunView, asked: Option<&Path>) -> Result<(), String> {
    let path = asked.map_or_else(|| view.dir.path().join("report.html"), Path::to_owned);
    let text = html(view).map_err(|error| error.to_string())?;
    match (std::fs::write(&path, text), asked) {
        (Ok(()), _) => {
            print(&format!("\nHTML report: {}\n", path.display()));
        }
        (Err(error), None) => {
            complain(format_args!("cannot write {}: {error}; --html FILE writes it elsewhere", path.display()));
        }
        (Err(error), Some(_)) => return Err(format!("cannot write {}: {error}", path.display())),
    }
    Ok(())
}

/// Prints the closing summary of a run, or its JSON object.
pub(super) fn summarize(dir: &Path, json: bool) {
    let printed = RunDir::open(dir).map_err(|error| error.to_string()).and_then(|dir| {
        let view = super::view::load(&dir).map_err(|error| error.to_string())?;
        let paint = Paint::for_stream(&std::io::stdout());
        to_stdout(|out| {
            if json {
                write_json(out, &view)
            } else {
                write_summary(out, &view, paint).and_then(|()| write_node_types(out, &view, paint))
            }
        })
        .map_err(|error| error.to_string())
    });
    if let Err(error) = printed {
        complain(error);
    }
}
