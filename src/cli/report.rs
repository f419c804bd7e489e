//! `phalanx report`: what happened in a run, while it goes on or afterwards.

use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

use super::{complain, refuse};
use crate::job;
use crate::journal::{Began, RUNS, RunDir};
use crate::observe::report::{write_failed, write_joblog, write_json, write_report, write_task, write_tasks};
use crate::observe::{Paint, ReportError, RunView, Subject, to_stdout, write_summary};
use crate::runtime::graph_of;

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
    let dir = match RunDir::find(Path::new(RUNS), &args.run) {
        Ok(dir) => dir,
        Err(error) => return refuse(error),
    };
    let view = match load(&dir) {
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
    match (printed, view.damage()) {
        (Err(error), _) => refuse(error),
        (Ok(()), Some(damage)) => {
            complain(damage);
            ExitCode::FAILURE
        }
        (Ok(()), None) => ExitCode::SUCCESS,
    }
}

/// Prints the closing summary of a run.
pub(super) fn summarize(dir: &Path) {
    let printed = RunDir::open(dir).map_err(|error| error.to_string()).and_then(|dir| {
        let view = load(&dir).map_err(|error| error.to_string())?;
        let paint = Paint::for_stream(&std::io::stdout());
        to_stdout(|out| write_summary(out, &view, paint)).map_err(|error| error.to_string())
    });
    if let Err(error) = printed {
        complain(error);
    }
}

pub(super) fn load(dir: &RunDir) -> Result<RunView, ReportError> {
    RunView::load(dir, &parse)
}

/// The job of a session, from the text that its journal keeps.
fn parse(began: &Began) -> Result<Subject, String> {
    let file = began.job_path.display().to_string();
    let loaded = job::parse(&began.job_text, &file, &began.dir, &AnyKernel).map_err(|e| e.render(false))?;
    let graph = graph_of(&loaded).map_err(|e| e.render(false))?;
    Ok(Subject { job: Arc::new(loaded.job), graph: Some(Arc::new(graph)) })
}

/// Accepts every kernel: the run may have been one of a program with kernels of its own.
pub(super) struct AnyKernel;

impl job::KernelCheck for AnyKernel {
    fn names(&self) -> Vec<&str> {
        Vec::new()
    }

    fn knows(&self, _: &str) -> bool {
        true
    }

    fn check(&self, _: &str, _: &toml::Table) -> Result<(), String> {
        Ok(())
    }
}
