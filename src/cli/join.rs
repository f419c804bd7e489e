//! `phalanx join`: adds ranks to a running run.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::value_parser;

use super::selection_args::label;
use super::{complain, refuse};
use crate::exec::Kernels;
use crate::journal::{Liveness, RUNS, RunDir};
use crate::runtime::{JoinOptions, contact_of, detach_from_terminal, join_run};

/// Adds ranks to a running run: this process, or all ranks started by mpirun.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The run: a directory, a name such as mosaic-3, a job's name (its newest run), or `latest`.
    #[arg(required_unless_present = "contact", conflicts_with = "contact")]
    run: Option<String>,
    /// A copy of the file `contact` in the run directory, where that cannot be read.
    #[arg(long, value_name = "FILE")]
    contact: Option<PathBuf>,
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

/// The contact file of a run.
fn contact(run: &str) -> Result<PathBuf, String> {
    let run = RunDir::find(Path::new(RUNS), run).map_err(|error| error.to_string())?;
    let contact = contact_of(run.path());
    let lives = matches!(run.liveness(), Liveness::Alive(_));
    match (contact.exists(), lives) {
        (true, _) => Ok(contact),
        (false, false) => Err(format!("nobody can join {}: it has ended", run.name())),
        (false, true) => Err(format!(
            "nobody can join {}: it does not listen. Start it with `--join-on ADDRESS`, or with a `[capacity]` table",
            run.name()
        )),
    }
}

pub(super) fn main(args: Args) -> ExitCode {
    let contact = match (args.contact, args.run) {
        (Some(file), _) => Ok(file),
        (None, run) => contact(run.as_deref().unwrap_or("latest")),
    };
    let contact = match contact {
        Ok(contact) => contact,
        Err(why) => return refuse(why),
    };
    detach_from_terminal();
    let options = JoinOptions {
        contact,
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
