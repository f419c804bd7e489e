//! `phalanx submit`: submits a job to Slurm with the built-in batch script.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::Duration;

use super::{check, complain, print, refuse};
use crate::exec::Kernels;
use crate::job;
use crate::job::units::{format_duration, parse_duration};
use crate::journal::{RUNS, RunDir};
use crate::text::shell_word;
use crate::workload::graph_of;
use crate::workload::walltime::time_warning;

/// The batch script, a copy of `slurm/phalanx.sbatch`.
const SCRIPT: &str = include_str!("../../slurm/phalanx.sbatch");

/// File name of the script in the run directory.
const SCRIPT_FILE: &str = "phalanx.sbatch";

/// Submits a job to Slurm. Options of sbatch follow the job file, options of `phalanx run` follow
/// `--`:
/// `phalanx submit job.toml --nodes=4 --time=2:00:00 -- --keep-going`.
#[derive(Debug, clap::Args)]
#[command(override_usage = "phalanx submit [--dry-run] [--resume] JOB... [SBATCH OPTIONS] [-- RUN OPTIONS]")]
pub(super) struct Args {
    /// Print the batch script and the sbatch command, and submit nothing.
    #[arg(long)]
    dry_run: bool,
    /// Resume the latest run of this job.
    #[arg(long)]
    resume: bool,
    /// Job file or files, then options of sbatch such as --nodes=4, then `--` and options of
    /// `phalanx run`.
    #[arg(value_name = "JOB", required = true, num_args = 1.., trailing_var_arg = true, allow_hyphen_values = true)]
    words: Vec<String>,
}

/// The parsed command line: what to submit, and with which options.
#[derive(Debug, Default)]
struct Submission {
    jobs: Vec<PathBuf>,
    sbatch: Vec<String>,
    run: Vec<String>,
    dry_run: bool,
    resume: bool,
}

impl From<Args> for Submission {
    fn from(args: Args) -> Submission {
        // What stands before the first option are job files.
        let mut words = args.words.into_iter().peekable();
        let mut jobs = Vec::new();
        while let Some(word) = words.next_if(|word| jobs.is_empty() || !word.starts_with('-')) {
            jobs.push(word.into());
        }
        let mut sbatch: Vec<String> = words.by_ref().take_while(|word| word != "--").collect();
        // After the job file, clap passes on our own options as if they were options of sbatch.
        let mut take = |wanted: &str| {
            let before = sbatch.len();
            sbatch.retain(|word| word != wanted);
            sbatch.len() < before
        };
        let (dry_run, resume) = (take("--dry-run") || args.dry_run, take("--resume") || args.resume);
        Submission { jobs, sbatch, run: words.collect(), dry_run, resume }
    }
}

impl Submission {
    /// The time limit that Slurm will set, if it is known: the last one of the options, the
    /// environment's, or that of the script.
    fn time_limit(&self) -> Option<Duration> {
        let of_word = |(at, word): (usize, &String)| match word.as_str() {
            "--time" | "-t" => self.sbatch.get(at + 1).cloned(),
            word => word.strip_prefix("--time=").or(word.strip_prefix("-t")).map(str::to_owned),
        };
        let given = self.sbatch.iter().enumerate().rev().find_map(of_word);
        let given = given.or_else(|| std::env::var("SBATCH_TIMELIMIT").ok());
        let of_script = || SCRIPT.lines().find_map(|line| line.strip_prefix("#SBATCH --time=")).map(str::to_owned);
        // Zero is no limit.
        parse_duration(&given.or_else(of_script)?).ok().filter(|time| !time.is_zero())
    }
}

pub(super) fn main(args: Args) -> ExitCode {
    let wish = Submission::from(args);
    let loaded = match job::load_all(&wish.jobs, &Kernels::builtin()) {
        Ok(loaded) => loaded,
        Err(mistakes) => return check::refuse(&mistakes),
    };
    if let Some(own) = wish.run.iter().find(|word| word.starts_with("--run-dir") || *word == "--resume") {
        return refuse(format_args!(
            "{own} cannot follow `--`: this command chooses the run directory and has its own --resume"
        ));
    }
    if let Some(option) = wish.sbatch.iter().find(|word| ["--array", "-a"].iter().any(|own| word.starts_with(own))) {
        return refuse(format_args!(
            "{option} would start the whole run several times, in one run directory: write `array = \"0-99\"` in a task, \
             and let one batch job run all of them"
        ));
    }
    let graph = match graph_of(&loaded) {
        Ok(graph) => graph,
        Err(mistakes) => return check::refuse(&mistakes),
    };
    if let Some(time) = wish.time_limit() {
        let named = format!("--time={}", format_duration(time));
        let warning = time_warning(&loaded.job, &graph, time, &named);
        warning.into_iter().for_each(|warning| check::show(&loaded.report(vec![warning])));
    }
    let name = loaded.job.name.as_str();
    if wish.dry_run {
        let dir = Path::new(RUNS).join(format!("{name}-N"));
        let line = shown(&command(&wish, &dir.join(SCRIPT_FILE), &dir));
        return print(&format!(
            "{SCRIPT}\n# The command that would submit it, with the next free number N:\n#   {line}\n"
        ));
    }
    let dir = match wish.resume {
        true => RunDir::for_resume(Path::new(RUNS), (name, loaded.path()), None),
        false => RunDir::create(Path::new(RUNS), name),
    };
    match dir {
        Ok(dir) => submit(&wish, dir),
        Err(error) => refuse(error),
    }
}

/// `sbatch OPTIONS SCRIPT JOB --run-dir DIR OPTIONS`.
fn command(wish: &Submission, script: &Path, dir: &Path) -> Command {
    let mut command = Command::new("sbatch");
    command.arg("--parsable").args(&wish.sbatch).arg(script).args(&wish.jobs).arg("--run-dir").arg(dir);
    if wish.resume {
        command.arg("--resume");
    }
    command.args(&wish.run);
    command.env("PHALANX_CONTINUE", continuation(wish));
    if std::env::var_os("PHALANX_BIN").is_none()
        && let Ok(program) = std::env::current_exe()
    {
        // The job runs the same binary that submitted it.
        command.env("PHALANX_BIN", program);
    }
    command
}

/// The command that continues the run, for a shell in the same directory.
fn continuation(wish: &Submission) -> String {
    let program = std::env::args().next().unwrap_or_else(|| "phalanx".to_owned());
    let mut words = vec![program, "submit".to_owned(), "--resume".to_owned()];
    words.extend(wish.jobs.iter().map(|job| job.to_string_lossy().into_owned()));
    words.extend(wish.sbatch.iter().cloned());
    if !wish.run.is_empty() {
        words.push("--".to_owned());
        words.extend(wish.run.iter().cloned());
    }
    words.iter().map(|word| shell_word(word)).collect::<Vec<_>>().join(" ")
}

fn shown(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(|word| shell_word(&word.to_string_lossy())).collect::<Vec<_>>().join(" ")
}

fn submit(wish: &Submission, dir: RunDir) -> ExitCode {
    let number = write_script(&dir).and_then(|script| send(&mut command(wish, &script, dir.path())));
    let number = match number {
        Ok(number) => number,
        Err(why) => {
            take_back(wish, dir);
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

/// Runs sbatch and returns the number of the job.
fn send(command: &mut Command) -> Result<String, String> {
    let output = command.output().map_err(|error| format!("cannot start sbatch: {error}; is Slurm installed here?"))?;
    if !output.status.success() {
        return Err(String::from_utf8_lossy(&output.stderr).trim().to_owned());
    }
    // `NUMBER` or `NUMBER;CLUSTER`.
    let said = String::from_utf8_lossy(&output.stdout);
    Ok(said.trim().split(';').next().unwrap_or_default().to_owned())
}

/// Removes the run directory of a rejected submission. A resumed run keeps its directory.
fn take_back(wish: &Submission, dir: RunDir) {
    if wish.resume {
        return;
    }
    // If the file cannot be removed, `take_back` keeps the directory.
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

    fn parsed(line: &str) -> Submission {
        Line::parse_from(line.split(' ')).args.into()
    }

    #[test]
    fn options_go_to_sbatch_and_behind_two_dashes_to_the_run() {
        let wish = parsed("submit job.toml --nodes=4 -t 10 -- --keep-going --slots 2");
        assert_eq!(wish.sbatch, ["--nodes=4", "-t", "10"]);
        assert_eq!(wish.run, ["--keep-going", "--slots", "2"]);
        let line = shown(&command(&wish, Path::new("s"), Path::new("d")));
        assert_eq!(line, "sbatch --parsable --nodes=4 -t 10 s job.toml --run-dir d --keep-going --slots 2");
        assert!(continuation(&wish).ends_with(" submit --resume job.toml --nodes=4 -t 10 -- --keep-going --slots 2"));
        let several = parsed("submit a.toml b.toml --nodes=2 -- --only a/x");
        assert_eq!((several.jobs.len(), several.sbatch.len(), several.run.len()), (2, 1, 2));
        let wish = parsed("submit job.toml -- --slots 2");
        assert_eq!((wish.sbatch.len(), wish.run.len()), (0, 2));
    }

    #[test]
    fn the_time_limit_is_what_slurm_will_take() {
        let time = |line: &str| parsed(&format!("submit job.toml {line}")).time_limit().map(|time| time.as_secs());
        assert_eq!(time("--nodes=4"), Some(3600), "the script's");
        assert_eq!(time("--time=0:01:00"), Some(60));
        assert_eq!(time("-t 10 --nodes 2"), Some(600));
        assert_eq!((time("-t10"), time("--time 1-0")), (Some(600), Some(86_400)));
        assert_eq!(time("--time=5 --time=7"), Some(420), "the last one counts");
        assert_eq!((time("--time=UNLIMITED"), time("--time=0")), (None, None));
        assert_eq!(time("-- --time=5"), Some(3600), "an option of the run");
    }

    #[test]
    fn our_own_options_stand_before_the_job_file_or_behind_it() {
        for line in ["submit --dry-run job.toml --nodes=4", "submit job.toml --nodes=4 --dry-run"] {
            let wish = parsed(line);
            assert!(wish.dry_run && !wish.resume, "{line}");
            assert_eq!((wish.jobs, wish.sbatch), (vec![PathBuf::from("job.toml")], vec!["--nodes=4".to_owned()]));
        }
    }
}
