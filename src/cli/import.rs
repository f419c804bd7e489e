//! `phalanx import`: converts a workflow of another system into a job file.

use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::ValueEnum;

use super::{complain, print, refuse};
use crate::job::import::{self, ImportError, Imported, Options};

/// Converts a workflow of another system into a job file.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Format of the input file.
    #[arg(value_enum)]
    format: ImportFormat,
    /// Input file; `-` reads standard input.
    file: PathBuf,
    /// Write the job file here [default: standard output].
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Overwrite an existing output file.
    #[arg(long, requires = "output")]
    force: bool,
    /// Name of the job [default: the name in the input file, else that of the output or input
    /// file].
    #[arg(long)]
    name: Option<String>,
    /// Multiply recorded run times by FACTOR (wfcommons).
    #[arg(long, value_name = "FACTOR", default_value_t = 1.0)]
    time_scale: f64,
    /// Request the recorded number of CPUs per task (wfcommons).
    #[arg(long)]
    cpus: bool,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum ImportFormat {
    /// WfCommons WfFormat 1.5 or 1.6: recorded tasks become sleeps.
    Wfcommons,
    /// Pegasus-MPI-Cluster DAG.
    Dag,
    /// HyperQueue job file.
    Hq,
    /// Makeflow rules.
    Makeflow,
    /// One shell command per line.
    Lines,
    /// Batch script of Slurm, with or without `#SBATCH --array`.
    Slurm,
}

pub(super) fn main(args: Args) -> ExitCode {
    if !args.time_scale.is_finite() || args.time_scale <= 0.0 {
        return refuse("--time-scale must be a number above 0");
    }
    let text = match read(&args.file) {
        Ok(text) => text,
        Err(error) => return refuse(format_args!("cannot read {}: {error}", args.file.display())),
    };
    let text = match text_of(text) {
        Ok(text) => text,
        Err(error) => return refuse(format_args!("{}: {error}", args.file.display())),
    };
    let path = std::env::var_os("PATH").unwrap_or_default();
    let bash = std::env::split_paths(&path).any(|dir| dir.join("bash").is_file());
    let named = args.output.as_deref().unwrap_or(&args.file);
    let file_name = named.file_stem().map(|stem| stem.to_string_lossy().into_owned()).filter(|stem| stem != "-");
    let options = Options { name: args.name, file_name, time_scale: args.time_scale, cpus: args.cpus, bash };
    match convert(args.format, &text, &options) {
        Ok(imported) => {
            let file = args.file.display();
            imported.warnings.iter().for_each(|warning| complain(format_args!("warning: {file}: {warning}")));
            write(args.output.as_deref(), args.force, &imported.toml)
        }
        Err(error) => refuse(format_args!("{}: {error}", args.file.display())),
    }
}

fn convert(format: ImportFormat, text: &str, options: &Options) -> Result<Imported, ImportError> {
    match format {
        ImportFormat::Wfcommons => import::wfcommons(text, options),
        ImportFormat::Dag => import::dag(text, options),
        ImportFormat::Hq => import::hq(text, options),
        ImportFormat::Makeflow => import::makeflow(text, options),
        ImportFormat::Lines => import::lines(text, options),
        ImportFormat::Slurm => import::slurm(text, options),
    }
}

fn read(file: &Path) -> std::io::Result<Vec<u8>> {
    if file == Path::new("-") {
        let mut bytes = Vec::new();
        return std::io::stdin().read_to_end(&mut bytes).map(|_| bytes);
    }
    std::fs::read(file)
}

/// Decodes the input, which must be UTF-8 because job files are.
fn text_of(bytes: Vec<u8>) -> Result<String, ImportError> {
    String::from_utf8(bytes).map_err(|error| {
        let before = &error.as_bytes()[..error.utf8_error().valid_up_to()];
        let line = 1 + before.iter().filter(|byte| **byte == b'\n').count();
        let reason = "this is not UTF-8; convert the file first, for example with iconv -f LATIN1 -t UTF-8";
        ImportError { line, reason: reason.into() }
    })
}

fn write(output: Option<&Path>, force: bool, toml: &str) -> ExitCode {
    let Some(path) = output else { return print(toml) };
    let mut options = std::fs::OpenOptions::new();
    options.write(true).create(force).create_new(!force).truncate(force);
    match options.open(path).and_then(|mut file| file.write_all(toml.as_bytes())) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {
            refuse(format_args!("{} already exists: choose another name, or overwrite it with --force", path.display()))
        }
        Err(error) => refuse(format_args!("cannot write {}: {error}", path.display())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_utf8_is_refused_with_its_line() {
        assert_eq!(text_of(b"a\n\xff\n".to_vec()).map_err(|error| error.line), Err(2));
        assert_eq!(text_of("é".into()), Ok("é".into()));
    }
}
