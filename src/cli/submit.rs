//! `phalanx submit`: sends a job to Slurm with the batch script that is part of this program.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use super::{check, complain, print, refuse};
use crate::exec::Kernels;
use crate::job;
use crate::journal::{RUNS, RunDir};

/// The batch script as it is in `slurm/`.
const SCRIPT: &str = include_str!("../../slurm/phalanx.sbatch");

/// What the script is called in the run directory.
const SCRIPT_FILE: &str = "phalanx.sbatch";

/// Submits a job to Slurm. Options of sbatch follow the job file, those of `phalanx run` follow `--`:
/// `phalanx submit job.toml --nodes=4 --time=2:00:00 -- --keep-going`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The job file.
    job: PathBuf,
    /// Print the batch script and the command that would submit it, and submit nothing.
    #[arg(long)]
    dry_run: bool,
    /// Go on with the latest run of this job.
    #[arg(long)]
    resume: bool,
    /// Options of sbatch, such as --nodes=4 or --partition=long.
    #[arg(value_name = "SBATCH OPTIONS", allow_hyphen_values = true, num_args = 0..)]
    sbatch: Vec<String>,
    /// Options of `phalanx run`.
    #[arg(last = true, value_name = "RUN OPTIONS")]
    run: Vec<String>,
}

pub(super) fn main(mut args: Args) -> ExitCode {
    // Behind the first option of sbatch our own look like sbatch's.
    args.dry_run |= take(&mut args.sbatch, "--dry-run");
    args.resume |= take(&mut args.sbatch, "--resume");
    let loaded = match job::load(&args.job, &Kernels::builtin()) {
        Ok(loaded) => loaded,
        Err(mistakes) => return check::refuse(&mistakes),
    };
    if let Some(own) = args.run.iter().find(|word| word.starts_with("--run-dir") || *word == "--resume") {
        return refuse(format_args!(
            "{own} is for this command to say: it chooses the run directory and knows --resume"
        ));
    }
    let name = loaded.job.name.as_str();
    if args.dry_run {
        let dir = Path::new(RUNS).join(format!("{name}-N"));
        let line = shown(&command(&args, &dir.join(SCRIPT_FILE), &dir));
        return print(&format!("{SCRIPT}\n# It would be submitted so, under the next free number N:\n#   {line}\n"));
    }
    let dir = match args.resume {
        true => RunDir::for_resume(Path::new(RUNS), name, None),
        false => RunDir::create(Path::new(RUNS), name),
    };
    match dir {
        Ok(dir) => submit(&args, dir),
        Err(error) => refuse(error),
    }
}

/// Takes a word out of a list. True if it was there.
fn take(words: &mut Vec<String>, wanted: &str) -> bool {
    let before = words.len();
    words.retain(|word| word != wanted);
    words.len() < before
}

/// `sbatch OPTIONS SCRIPT JOB --run-dir DIR OPTIONS`.
fn command(args: &Args, script: &Path, dir: &Path) -> Command {
    let mut command = Command::new("sbatch");
    command.arg("--parsable").args(&args.sbatch).arg(script).arg(&args.job).arg("--run-dir").arg(dir);
    if args.resume {
        command.arg("--resume");
    }
    command.args(&args.run);
    if std::env::var_os("PHALANX_BIN").is_none()
        && let Ok(program) = std::env::current_exe()
    {
        // The job shall run what submitted it.
        command.env("PHALANX_BIN", program);
    }
    command
}

fn shown(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(|word| word.to_string_lossy().into_owned()).collect::<Vec<_>>().join(" ")
}

fn submit(args: &Args, dir: RunDir) -> ExitCode {
    let number = write_script(&dir).and_then(|script| send(&mut command(args, &script, dir.path())));
    let number = match number {
        Ok(number) => number,
        Err(why) => {
            take_back(args, dir);
            complain(why);
            return ExitCode::FAILURE;
        }
    };
    let (path, name) = (dir.path().display(), dir.name());
    print(&format!(
        "job {number} is submitted\n\
         run directory: {path}\n\
         in the queue:  squeue --jobs {number}\n\
         once it runs:  phalanx status {name} --watch\n\
         afterwards:    phalanx report {name}\n\
         to take back:  scancel {number}\n"
    ))
}

fn write_script(dir: &RunDir) -> Result<PathBuf, String> {
    let path = dir.path().join(SCRIPT_FILE);
    let written = std::fs::write(&path, SCRIPT)
        .and_then(|()| std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)));
    written.map(|()| path.clone()).map_err(|error| format!("cannot write {}: {error}", path.display()))
}

/// Submits; the job's number.
fn send(command: &mut Command) -> Result<String, String> {
    let output = command.output().map_err(|error| format!("cannot start sbatch: {error}; is Slurm installed here?"))?;
    if !output.status.success() {
        return Err(String::from_utf8_lossy(&output.stderr).trim().to_owned());
    }
    // `NUMBER` or `NUMBER;CLUSTER`.
    let said = String::from_utf8_lossy(&output.stdout);
    Ok(said.trim().split(';').next().unwrap_or_default().to_owned())
}

/// A run that Slurm did not take leaves nothing behind; one that was to go on stays as it was.
fn take_back(args: &Args, dir: RunDir) {
    if args.resume {
        return;
    }
    // What cannot be removed is left, and said.
    let _ = std::fs::remove_file(dir.path().join(SCRIPT_FILE));
    if let Err(error) = dir.take_back() {
        complain(error);
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(clap::Parser)]
    struct Line {
        #[command(flatten)]
        args: Args,
    }

    fn parsed(line: &str) -> Args {
        Line::parse_from(line.split(' ')).args
    }

    #[test]
    fn options_go_to_sbatch_and_behind_two_dashes_to_the_run() {
        let args = parsed("submit job.toml --nodes=4 -t 10 -- --keep-going --slots 2");
        assert_eq!(args.sbatch, ["--nodes=4", "-t", "10"]);
        assert_eq!(args.run, ["--keep-going", "--slots", "2"]);
        let line = shown(&command(&args, Path::new("s"), Path::new("d")));
        assert_eq!(line, "sbatch --parsable --nodes=4 -t 10 s job.toml --run-dir d --keep-going --slots 2");
        let args = parsed("submit --dry-run job.toml");
        assert!(args.dry_run && args.sbatch.is_empty());
        let args = parsed("submit job.toml -- --slots 2");
        assert_eq!((args.sbatch.len(), args.run.len()), (0, 2));
    }

    #[test]
    fn our_own_options_are_found_among_those_of_sbatch() {
        let mut args = parsed("submit job.toml --nodes=4 --dry-run");
        assert!(args.dry_run || take(&mut args.sbatch, "--dry-run"));
        assert_eq!(args.sbatch, ["--nodes=4"]);
    }
}
