//! `phalanx new`: writes a commented job file to start from.

use std::fs::OpenOptions;
use std::io::{ErrorKind, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use super::{print, refuse};
use crate::text::shell_word;

/// Writes a commented job file to start from, such as `sweep.toml`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// What the job is like.
    #[arg(value_enum)]
    kind: Kind,
    /// File to write, or `-` for standard output [default: KIND.toml].
    file: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum Kind {
    /// One task for each combination of values, then a summary.
    Sweep,
    /// Steps that hand files to one another.
    Pipeline,
    /// MPI programs as tasks.
    Mpi,
    /// Operations on a data graph.
    Graph,
    /// Nodes that come and go under a budget.
    Elastic,
}

impl Kind {
    /// The name of the file by default, and its text.
    fn file(self) -> (&'static str, &'static str) {
        match self {
            Kind::Sweep => ("sweep.toml", include_str!("new/sweep.toml")),
            Kind::Pipeline => ("pipeline.toml", include_str!("new/pipeline.toml")),
            Kind::Mpi => ("mpi.toml", include_str!("new/mpi.toml")),
            Kind::Graph => ("graph.toml", include_str!("new/graph.toml")),
            Kind::Elastic => ("elastic.toml", include_str!("new/elastic.toml")),
        }
    }
}

pub(super) fn main(args: Args) -> ExitCode {
    let (name, text) = args.kind.file();
    let path = args.file.unwrap_or_else(|| name.into());
    if path.as_os_str() == "-" {
        return print(text);
    }
    // An existing file is somebody's work.
    let written = OpenOptions::new().write(true).create_new(true).open(&path);
    match written.and_then(|mut file| file.write_all(text.as_bytes())) {
        Ok(()) => {
            let file = shell_word(&path.to_string_lossy());
            print(&format!("wrote {file}; next: phalanx check {file}, phalanx run {file}\n"))
        }
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {
            refuse(format_args!("{} exists already: name another file", path.display()))
        }
        Err(error) => refuse(format_args!("cannot write {}: {error}", path.display())),
    }
}
