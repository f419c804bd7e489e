//! `phalanx explain`: why a run grew, shrank, waited or stopped.

use std::path::Path;
use std::process::ExitCode;

use super::{refuse, report};
use crate::job::{self, Intent};
use crate::journal::{RUNS, RunDir};
use crate::observe::{Paint, RunView, to_stdout, write_decision, write_decisions, write_decisions_json};

/// Shows what was decided about ranks, and why.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The run: a directory, a name such as mosaic-3, a job's name (its newest run), or `latest`.
    #[arg(default_value = "latest")]
    run: String,
    /// All about the decision of this number: its inputs, what else was considered, what came of it.
    decision: Option<u32>,
    /// Decisions as JSON.
    #[arg(long)]
    json: bool,
}

pub(super) fn main(args: Args) -> ExitCode {
    let found = RunDir::find(Path::new(RUNS), &args.run).map_err(|error| error.to_string());
    let view = match found.and_then(|dir| report::load(&dir).map_err(|error| error.to_string())) {
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
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => refuse(error),
    }
}

/// The intent of the job's last session, if its policy follows one.
fn intent(view: &RunView) -> Option<Intent> {
    let session = view.session();
    let policy = &session.terms.as_ref()?.policy;
    let weighs = ["hybrid", "predictive"].contains(&policy.as_str());
    let began = &session.began;
    let file = began.job_path.display().to_string();
    let loaded = job::parse(&began.job_text, &file, &began.dir, &report::AnyKernel).ok()?;
    Some(loaded.job.scaling.unwrap_or_default().intent).filter(|_| weighs)
}
