//! `phalanx recommend`: requests that fit the tasks of a job, from its earlier runs.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use super::{check, complain, print, refuse};
use crate::exec::Kernels;
use crate::job::{self, FieldChange, set_task_fields};
use crate::journal::{RUNS, RunDir};
use crate::observe::{Paint, Recommendations, RunView, to_stdout};
use crate::runtime::earlier_runs;
use crate::text::{counted, shell_word};

/// Recommends memory, CPUs and time limits for the tasks of a job, from what they used in its
/// earlier runs. Runs of several job files as one do not count.
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
            "{} of {} read: no class has three completed tasks yet; run the job first",
            counted(runs.len() as u64, "run"),
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
                    let file = shell_word(&args.job.display().to_string());
                    writeln!(out, "\n`phalanx recommend {file} --apply` writes these changes into the job file:")?;
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
        Ok(_) if args.json => ExitCode::SUCCESS,
        Ok(patch) => print(&patch),
        Err(error) => refuse(format_args!("cannot change {}: {error}", args.job.display())),
    }
}

/// The runs to learn from, newest first.
fn runs(dirs: &[PathBuf], job: &str) -> Result<Vec<RunView>, String> {
    if !dirs.is_empty() {
        return dirs.iter().map(|dir| super::view::find(&dir.display().to_string())).collect();
    }
    let left_out = |dir: &RunDir, error| complain(format_args!("{} is left out: {error}", dir.name()));
    let runs = earlier_runs(Path::new(RUNS), job, &left_out).map_err(|error| error.to_string())?;
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

/// The lines that were replaced or added. A line that replaces another has the same key.
fn patch(before: &str, after: &str) -> String {
    let key = |line: &str| line.split('=').next().unwrap_or_default().trim().to_owned();
    let (mut text, mut new) = (String::new(), (1..).zip(after.lines()));
    for old in before.lines() {
        for (number, line) in new.by_ref() {
            if line == old {
                break;
            }
            let is_replaced = key(line) == key(old);
            if is_replaced {
                text += &format!("-{old}\n");
            }
            text += &format!("+{line}  (line {number})\n");
            if is_replaced {
                break;
            }
        }
    }
    new.for_each(|(number, line)| text += &format!("+{line}  (line {number})\n"));
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
        let twice = "m = 1\nx\nm = 1\n";
        assert_eq!(patch(twice, "m = 2\nx\nm = 1\n"), "-m = 1\n+m = 2  (line 1)\n");
    }
}
