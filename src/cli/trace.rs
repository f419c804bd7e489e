//! `phalanx trace`: exports a run as a Perfetto trace.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use flate2::Compression;
use flate2::write::GzEncoder;

use super::{complain, refuse};
use crate::observe::trace::{Contents, write_trace};
use crate::observe::{ReportError, RunView, to_stdout};

/// Exports a run as a trace for https://ui.perfetto.dev: ranks, slots, tasks, dependencies,
/// counters.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The run: a directory, a name such as mosaic-3, a job's name (its newest run), or `latest`.
    #[arg(default_value = "latest")]
    run: String,
    /// Output file, compressed if its name ends in .gz; `-` writes standard output [default:
    /// <run>.trace.json.gz].
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
}

pub(super) fn main(args: Args) -> ExitCode {
    let run = match super::view::find(&args.run) {
        Ok(run) => run,
        Err(error) => return refuse(error),
    };
    let output = args.output.unwrap_or_else(|| PathBuf::from(format!("{}.trace.json.gz", run.dir.name())));
    let written = if output.as_os_str() == "-" {
        to_stdout(|out| write_trace(out, &run).map(|_| ()))
    } else {
        write_file(&output, &run).map(|contents| tell(&output, contents))
    };
    match written {
        Ok(()) => super::view::end(&run),
        Err(error) => refuse(format_args!("{}: {error}", output.display())),
    }
}

fn write_file(path: &Path, run: &RunView) -> Result<Contents, ReportError> {
    let mut file = BufWriter::new(File::create(path)?);
    let contents = if path.extension() == Some(OsStr::new("gz")) {
        let mut packed = BufWriter::new(GzEncoder::new(&mut file, Compression::default()));
        let contents = write_trace(&mut packed, run)?;
        packed.into_inner().map_err(std::io::IntoInnerError::into_error)?.finish()?;
        contents
    } else {
        write_trace(&mut file, run)?
    };
    file.flush()?;
    Ok(contents)
}

fn tell(path: &Path, contents: Contents) {
    complain(format_args!(
        "wrote {}: {} attempts, {} dependencies; open it at https://ui.perfetto.dev",
        path.display(),
        contents.slices,
        contents.flows
    ));
    if contents.flows_left_out > 0 {
        complain(format_args!(
            "{} dependencies were left out: in a large trace each task has only the one that completed last",
            contents.flows_left_out
        ));
    }
}
