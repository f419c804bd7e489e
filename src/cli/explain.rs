//! `phalanx explain`: why a run grew, shrank, waited or stopped.

use std::process::ExitCode;

use super::refuse;
use crate::job::Intent;
use crate::observe::{Paint, RunView, to_stdout, write_decision, write_decisions, write_decisions_json};
use crate::runtime::job_of;

/// Shows the scaling decisions of a run and the reasons for them.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The run: a directory, a name such as mosaic-3, a job's name (its newest run), or `latest`.
    #[arg(default_value = "latest")]
    run: String,
    /// Show one decision in full, by its number: inputs, rejected alternatives, effect.
    decision: Option<u32>,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

pub(super) fn main(args: Args) -> ExitCode {
    let view = match super::view::find(&args.run) {
        Ok(view) => view,
        Err(error) => return refuse(error),
    };
    let paint = Paint::for_stream(&std::io::stdout());
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

/// The intent of the job's last session; `None` if its policy ignores the intent.
fn intent(view: &RunView) -> Option<Intent> {
    let session = view.session();
    let policy = &session.terms.as_ref()?.policy;
    let weighs = ["hybrid", "predictive"].contains(&policy.as_str());
    let job = job_of(&session.began).ok()?.job;
    Some(job.scaling.unwrap_or_default().intent).filter(|_| weighs)
}
