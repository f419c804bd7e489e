//! `phalanx join`: further ranks for a run that is under way.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::value_parser;

use super::complain;
use crate::exec::Kernels;
use crate::runtime::{JoinOptions, go_on_without_terminal, join_run};

/// Joins a run under way, alone or with all ranks of the mpirun that started this.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The run's contact file: `contact` in its run directory.
    #[arg(long, value_name = "FILE")]
    contact: PathBuf,
    /// Slots of each rank [default: as `phalanx run --slots`, else the CPUs that the launcher granted it].
    #[arg(long, value_name = "N", value_parser = value_parser!(u32).range(1..=4096))]
    slots: Option<u32>,
    /// The block that this is part of; set by the run itself when it asks for nodes.
    #[arg(long, value_name = "NUMBER", hide = true)]
    block: Option<u64>,
    /// The name of the run's jobs in Slurm's queue; set by the run itself.
    #[arg(long, value_name = "NAME", hide = true)]
    siblings: Option<String>,
}

pub(super) fn main(args: Args) -> ExitCode {
    go_on_without_terminal();
    let options = JoinOptions { contact: args.contact, slots: args.slots, block: args.block, siblings: args.siblings };
    match join_run(&options, Kernels::builtin()) {
        Ok(finished) => ExitCode::from(u8::try_from(finished.exit_code).unwrap_or(1)),
        Err(error) => {
            complain(&error);
            ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(1))
        }
    }
}
