//! `phalanx man`: writes manual pages, one for the program and one for each verb.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::CommandFactory;

use super::{Cli, refuse};

/// Writes manual pages, e.g. `phalanx man ~/.local/share/man/man1`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Output directory; created if it does not exist.
    dir: PathBuf,
}

pub(super) fn main(args: Args) -> ExitCode {
    let pages = || clap_mangen::generate_to(Cli::command(), &args.dir);
    match std::fs::create_dir_all(&args.dir).and_then(|()| pages()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => refuse(format_args!("cannot write manual pages into {}: {error}", args.dir.display())),
    }
}
