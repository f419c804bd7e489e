//! `phalanx completions`: prints a completion script for a shell.

use std::process::ExitCode;

use clap::CommandFactory;
use clap_complete::Shell;

use super::{Cli, print};

/// Prints a completion script for a shell, e.g. `phalanx completions bash >
/// ~/.local/share/bash-completion/completions/phalanx`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Shell to generate the script for.
    shell: Shell,
}

pub(super) fn main(args: Args) -> ExitCode {
    let mut text = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "phalanx", &mut text);
    print(&String::from_utf8_lossy(&text))
}
