//! `phalanx schema`: the JSON Schema of the job file.

use std::process::ExitCode;

use super::print;

/// Prints the JSON Schema of the job file, which editors use for completion and checks.
#[derive(Debug, clap::Args)]
pub(super) struct Args {}

pub(super) fn main(_: Args) -> ExitCode {
    print(&format!("{:#}\n", crate::job::schema()))
}
