//! `phalanx analyze`: what bounded a run, and what to change.

use std::process::ExitCode;

use super::refuse;
use crate::observe::analyze::{write_analysis, write_analysis_json};
use crate::observe::{Paint, to_stdout};

/// Says what bounded a run and what to change in the job file, by what that would save.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The run: a directory, a name such as mosaic-3, a job's name (its newest run), or `latest`.
    #[arg(default_value = "latest")]
    run: String,
    /// One JSON object.
    #[arg(long)]
    json: bool,
}

pub(super) fn main(args: Args) -> ExitCode {
    let run = match super::view::find(&args.run) {
        Ok(run) => run,
        Err(error) => return refuse(error),
    };
    let paint = Paint::for_stream(&std::io::stdout());
    let printed =
        to_stdout(|out| if args.json { write_analysis_json(out, &run) } else { write_analysis(out, &run, paint) });
    match printed {
        Ok(()) => super::view::end(&run),
        Err(error) => refuse(error),
    }
}
