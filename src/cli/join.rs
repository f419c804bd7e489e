//! `phalanx join`: adds ranks to a running run.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::value_parser;

use super::complain;
use super::selection_args::label;
use crate::exec::Kernels;
use crate::runtime::{JoinOptions, detach_from_terminal, join_run};

/// Adds ranks to a running run: this process, or all ranks started by mpirun.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Contact file of the run: `contact` in its run directory.
    #[arg(long, value_name = "FILE")]
    contact: PathBuf,
    /// Slots of each rank [default: the run's --slots, else the CPUs that the launcher granted].
    #[arg(short = 'j', long, aliases = ["jobs", "cores", "threads"], value_name = "N")]
    #[arg(value_parser = value_parser!(u32).range(1..=4096))]
    slots: Option<u32>,
    /// Labels of each rank, beside those in PHALANX_LABELS: tasks may ask for them (`labels`).
    #[arg(long, value_name = "LABELS", value_delimiter = ',', value_parser = label)]
    labels: Vec<String>,
    /// Block that this process belongs to; set by the run when it requests nodes.
    #[arg(long, value_name = "NUMBER", hide = true)]
    block: Option<u64>,
    /// Session that the block belongs to, in milliseconds since 1970; set by the run.
    #[arg(long, value_name = "MS", hide = true)]
    session: Option<u64>,
    /// Name of the run's jobs in the Slurm queue; set by the run.
    #[arg(long, value_name = "NAME", hide = true)]
    siblings: Option<String>,
}

pub(super) fn main(args: Args) -> ExitCode {
    detach_from_terminal();
    let options = JoinOptions {
        contact: args.contact,
        slots: args.slots,
        labels: args.labels,
        block: args.block,
        session_ms: args.session,
        siblings: args.siblings,
    };
    match join_run(&options, Kernels::builtin()) {
        Ok(finished) => ExitCode::from(u8::try_from(finished.exit_code).unwrap_or(1)),
        Err(error) => {
            complain(&error);
            ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(1))
        }
    }
}
