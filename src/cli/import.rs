//! `phalanx import`.
use std::process::ExitCode;
/// Turns a workflow of another system into a job file.
#[derive(Debug, clap::Args)]
pub(super) struct Args {}
pub(super) fn main(_: Args) -> ExitCode {
    super::refuse("import is not built yet")
}
