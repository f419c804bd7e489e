//! `phalanx recommend`: requests that fit the tasks of a job, from its earlier runs.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use super::{check, print, refuse};
use crate::exec::Kernels;
use crate::job::{self, FieldChange, set_task_fields};
use crate::journal::{RUNS, RunDir};
use crate::observe::{Paint, Recommendations, RunView, to_stdout};

/// Upper limit on the number of runs that are read, newest first.
const MAX_RUNS: usize = 20;

/// Recommends memory, CPUs and time limits for the tasks of a job, from what they used in its
/// earlier runs.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Job file.
    job: PathBuf,
    /// Use this run alone; may be repeated [default: the newest 20 runs of the job in
    /// phalanx-runs].
    #[arg(long, value_name = "DIR")]
    run_dir: Vec<PathBuf>,
    /// Write the recommended requests into the job file, and print the changed lines.
    #[arg(long)]
    apply: bool,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

pub(super) fn main(args: Args) -> ExitCode {
    let loaded = match job::load(&args.job, &Kernels::builtin()) {
        Ok(loaded) => loaded,
        Err(mistakes) => return check::refuse(&mistakes),
    };
    let runs = match runs(&args.run_dir, &loaded.job.name) {
        Ok(runs) => runs,
        Err(error) => return refuse(error),
    };
    let found = Recommendations::of(&loaded.job, &runs);
    if found.classes.is_empty() {
        return refuse(format_args!(
            "the {} runs of {} that were read have fewer than three completed tasks of each class: run it first",
            runs.len(),
            loaded.job.name
        ));
    }
    let changes = found.changes(&loaded.job);
    let printed = match args.json {
        true => print(&format!("{}\n", serde_json::json!({ "recommended": found, "changes": json(&changes) }))),
        false => {
            let paint = Paint::for_stream(&std::io::stdout());
            to_stdout(|out| {
                found.write(out, paint)?;
                if !args.apply && !changes.is_empty() {
                    writeln!(out, "\n`phalanx recommend --apply` writes them into the job file:")?;
                    for FieldChange { task, key, value } in &changes {
                        writeln!(out, "  {task}: {key} = {value}")?;
                    }
                }
                Ok(())
            })
            .map_or_else(refuse, |()| ExitCode::SUCCESS)
        }
    };
    if !args.apply || printed != ExitCode::SUCCESS {
        return printed;
    }
    match apply(&args.job, &changes) {
        Ok(patch) if args.json => {
            let _ = patch;
            ExitCode::SUCCESS
        }
        Ok(patch) => print(&patch),
        Err(error) => refuse(format_args!("cannot change {}: {error}", args.job.display())),
    }
}

/// The runs to learn from, newest first.
fn runs(dirs: &[PathBuf], job: &str) -> Result<Vec<RunView>, String> {
    if !dirs.is_empty() {
        return dirs.iter().map(|dir| super::view::find(&dir.display().to_string())).collect();
    }
    let all = RunDir::all(Path::new(RUNS)).map_err(|error| error.to_string())?;
    let is_of_job = |dir: &RunDir| dir.name().rsplit_once('-').is_some_and(|(name, _)| name == job);
    let mut runs: Vec<RunView> =
        all.iter().filter(|dir| is_of_job(dir)).filter_map(|dir| super::view::load(dir).ok()).collect();
    let is_real = |run: &RunView| run.session().terms.as_ref().is_none_or(|terms| terms.simulated.is_none());
    runs.retain(is_real);
    runs.sort_by_key(|run| std::cmp::Reverse(run.session().began.unix_ns));
    runs.truncate(MAX_RUNS);
    if runs.is_empty() {
        return Err(format!("no run of {job} in {RUNS}: run it first, or name a run with --run-dir"));
    }
    Ok(runs)
}

fn json(changes: &[FieldChange]) -> Vec<serde_json::Value> {
    let one =
        |change: &FieldChange| serde_json::json!({ "task": change.task, "key": change.key, "value": change.value });
    changes.iter().map(one).collect()
}

/// Changes the job file; returns the changed lines as a patch.
fn apply(file: &Path, changes: &[FieldChange]) -> Result<String, String> {
    if changes.is_empty() {
        return Ok(format!("\n{} asks for that already\n", file.display()));
    }
    let told = |error: std::io::Error| error.to_string();
    let before = std::fs::read_to_string(file).map_err(told)?;
    let after = set_task_fields(&before, changes)?;
    // Nobody finds half of a file, and links keep leading to it.
    let target = file.canonicalize().map_err(told)?;
    let folder = target.parent().unwrap_or(Path::new("."));
    let mut new = tempfile::NamedTempFile::new_in(folder).map_err(told)?;
    new.write_all(after.as_bytes()).map_err(told)?;
    let permissions = std::fs::metadata(&target).map_err(told)?.permissions();
    new.as_file().set_permissions(permissions).map_err(told)?;
    new.persist(&target).map_err(|error| error.error.to_string())?;
    Ok(format!("\n--- {}\n{}", file.display(), patch(&before, &after)))
}

/// The lines that were taken out and put in. Changes only replace lines and add some, so a line of
/// the old text that comes up again in the new one has stayed.
fn patch(before: &str, after: &str) -> String {
    let (mut text, mut new) = (String::new(), after.lines().zip(1..).peekable());
    for (old, _) in before.lines().zip(1..) {
        let stays = new.clone().any(|(line, _)| line == old);
        if !stays {
            text += &format!("-{old}\n");
            if let Some((line, number)) = new.next() {
                text += &format!("+{line}  (line {number})\n");
            }
            continue;
        }
        for (line, number) in new.by_ref() {
            if line == old {
                break;
            }
            text += &format!("+{line}  (line {number})\n");
        }
    }
    new.for_each(|(line, number)| text += &format!("+{line}  (line {number})\n"));
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_patch_has_the_lines_that_changed() {
        let before = "a\nmemory = 1\nb\n";
        assert_eq!(patch(before, "a\nmemory = 2\nb\n"), "-memory = 1\n+memory = 2  (line 2)\n");
        assert_eq!(patch(before, "a\ncpus = 2\nmemory = 1\nb\n"), "+cpus = 2  (line 2)\n");
        assert_eq!(patch(before, before), "");
        assert_eq!(patch("a", "a\nb"), "+b  (line 2)\n");
    }
}
