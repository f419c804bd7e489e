//! `phalanx analyze`: what bounded a run, and which changes would make it faster.

use std::process::ExitCode;

use super::refuse;
use crate::observe::analyze::{write_analysis, write_analysis_json};
use crate::observe::{Paint, to_stdout};

/// Shows what bounded a run, and which changes to the job file would save the most time.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The run: a directory, a name such as mosaic-3, a job's name (its newest run), or `latest`.
    #[arg(default_value = "latest")]
    run: String,
    /// Print one JSON object.
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
