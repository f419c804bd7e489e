//! `phalanx explain`: why a run grew, shrank, waited or stopped, and why a task is in its state.

use std::process::ExitCode;

use super::refuse;
use crate::job::Intent;
use crate::observe::{
    LiveTasks, Paint, RunView, to_stdout, write_decision, write_decisions, write_decisions_json, write_task_reasons,
    write_task_reasons_json,
};
use crate::runtime::{job_of, subject_of};

/// Shows the scaling decisions of a run and the reasons for them, or why a task waits, ran again,
/// failed or was skipped.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The run: a directory, a name such as mosaic-3, a job's name (its newest run), or `latest`.
    #[arg(default_value = "latest")]
    run: String,
    /// Show one decision in full, by its number: inputs, rejected alternatives, effect.
    decision: Option<u32>,
    /// Show why a task is in its state: what it waits for, where it runs, how it ended. NAME is a
    /// task such as tile[3], or several: tile[0-9], align[sample=NA3], tile.
    #[arg(long, value_name = "NAME", conflicts_with = "decision")]
    task: Option<String>,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

pub(super) fn main(args: Args) -> ExitCode {
    let mut view = match super::view::find(&args.run) {
        Ok(view) => view,
        Err(error) => return refuse(error),
    };
    let paint = Paint::for_stream(&std::io::stdout());
    if let Some(name) = &args.task {
        return explain_task(&mut view, name, args.json, paint);
    }
    let printed = to_stdout(|out| match args.decision {
        number if args.json => write_decisions_json(out, &view, number),
        Some(number) => write_decision(out, &view, number, paint),
        None => write_decisions(out, &view, intent(&view), paint),
    });
    match printed {
        Ok(()) => super::view::end(&view),
        Err(error) => refuse(error),
    }
}

/// Shows why the tasks of a name are in their states.
fn explain_task(view: &mut RunView, name: &str, json: bool, paint: Paint) -> ExitCode {
    // Rank 0 is asked first, so that no task has ended for the journal and still runs for rank 0.
    let live = LiveTasks::ask(view, name);
    if let Err(error) = view.refresh(&subject_of) {
        return refuse(error);
    }
    let printed = to_stdout(|out| match json {
        true => write_task_reasons_json(out, view, live.as_ref(), name),
        false => write_task_reasons(out, view, live.as_ref(), name, paint),
    });
    match printed {
        Ok(()) => super::view::end(view),
        Err(error) => refuse(error),
    }
}

/// The intent of the job's last session; `None` if its policy ignores the intent.
fn intent(view: &RunView) -> Option<Intent> {
    let session = view.session();
    let policy = &session.terms.as_ref()?.policy;
    let weighs = ["hybrid", "predictive"].contains(&policy.as_str());
    let job = job_of(session).ok()?.job;
    Some(job.scaling.unwrap_or_default().intent).filter(|_| weighs)
}
